//! The one check: credentials of a request against what its route needs.

use super::permission::{Permission, Permissions};
use super::users::{Quick, Users};
use crate::reload::{Files, Reloaded, read_directory, read_file};
use axum::http::HeaderValue;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Slow hashes at once: each takes tens of megabytes and tens of milliseconds.
const HASHING: usize = 2;
/// Requests that wait for one.
const WAITING: usize = 64;

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Its credentials are missing or wrong, or their user may not.
    Unauthorized,
    /// Too many credentials are being checked.
    Busy,
}

/// Who may do what, as the files say now.
pub struct Authenticator {
    users: Arc<Reloaded<Users>>,
    hashing: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Authenticator {
    /// From a file, or from every `*.json` of a directory; follows their changes.
    pub fn follow(path: PathBuf) -> Result<Self, String> {
        let read = move || read_users(&path);
        let users = Reloaded::follow("users", read, |files: &Files| {
            if files.is_empty() {
                return Err("there is no *.json in the directory of users".into());
            }
            Users::parse(files).map_err(|e| e.to_string())
        })?;
        Ok(Self {
            users,
            hashing: Arc::new(Semaphore::new(HASHING)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        })
    }

    /// Which reading of the files is in force.
    pub fn revision(&self) -> String {
        self.users.current().revision().to_owned()
    }

    /// Whether who sent the header `Authorization` may do all of `needed`.
    pub async fn check(
        &self,
        authorization: Option<&HeaderValue>,
        needed: &[Permission],
    ) -> Result<(), Denied> {
        self.check_credentials(|| authorization.and_then(basic), needed).await
    }

    /// Whether a user may do all of `needed`.
    pub async fn check_user(&self, name: &str, password: &str, needed: &[Permission]) -> Result<(), Denied> {
        self.check_credentials(|| Some((name.to_owned(), password.to_owned())), needed).await
    }

    /// In rqlite's order: what everybody may do needs no credentials, and wrong ones do no harm.
    async fn check_credentials(
        &self,
        credentials: impl FnOnce() -> Option<(String, String)>,
        needed: &[Permission],
    ) -> Result<(), Denied> {
        let users = self.users.current();
        let everybody = users.everybody();
        if everybody.cover(needed) {
            return Ok(());
        }
        let (name, password) = credentials().ok_or(Denied::Unauthorized)?;
        match self.held(users, name, password).await? {
            Some(held) if held.or(everybody).cover(needed) => Ok(()),
            _ => Err(Denied::Unauthorized),
        }
    }

    /// Who sent the header `Authorization`, none if its credentials are missing or wrong, and what they may do.
    pub async fn identify(
        &self,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Option<String>, Permissions), Denied> {
        let users = self.users.current();
        let everybody = users.everybody();
        let Some((name, password)) = authorization.and_then(basic) else { return Ok((None, everybody)) };
        Ok(match self.held(users, name.clone(), password).await? {
            Some(held) => (Some(name), held.or(everybody)),
            None => (None, everybody),
        })
    }

    /// What a user may do, none if there is none with this password.
    async fn held(
        &self,
        users: Arc<Users>,
        name: String,
        password: String,
    ) -> Result<Option<Permissions>, Denied> {
        match users.quick(&name, &password) {
            Quick::Right(held) => Ok(Some(held)),
            Quick::Wrong => Ok(None),
            Quick::Unknown => self.check_slowly(users, name, password).await,
        }
    }

    /// Off the threads that requests wait for, few at a time.
    async fn check_slowly(
        &self,
        users: Arc<Users>,
        name: String,
        password: String,
    ) -> Result<Option<Permissions>, Denied> {
        let place = self.waiting.clone().try_acquire_owned().map_err(|_| Denied::Busy)?;
        let turn = self.hashing.clone().acquire_owned().await.map_err(|_| Denied::Busy)?;
        // Somebody with the same credentials may have been first.
        match users.quick(&name, &password) {
            Quick::Right(held) => return Ok(Some(held)),
            Quick::Wrong => return Ok(None),
            Quick::Unknown => {}
        }
        let check = move || {
            // It goes on, and keeps its turn, also where whoever asked has hung up.
            let _held = (place, turn);
            users.slow(&name, &password)
        };
        tokio::task::spawn_blocking(check).await.map_err(|_| Denied::Busy)
    }
}

/// The password of a user as it stands in the files: what a member shows when it joins.
pub fn plain_password(path: &Path, name: &str) -> Result<String, String> {
    let files = read_users(path).map_err(|e| e.to_string())?;
    Users::plain_password(&files, name)
}

fn read_users(path: &Path) -> io::Result<Files> {
    if path.is_dir() { read_directory(path, is_json) } else { Ok(vec![read_file(path)?]) }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// User and password of Basic authentication (RFC 7617).
pub fn basic(header: &HeaderValue) -> Option<(String, String)> {
    let text = header.to_str().ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(credentials: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(credentials))).unwrap()
    }

    #[test]
    fn headers_by_table() {
        let some = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        for (text, expected) in [
            ("Basic YTpi", some("a", "b")),
            ("basic YTpi", some("a", "b")),
            ("Basic YTpiOmM=", some("a", "b:c")),
            ("Basic Og==", some("", "")),
            ("Basic YQ==", None),
            ("Basic !", None),
            ("Basic", None),
            ("Bearer YTpi", None),
            ("", None),
        ] {
            assert_eq!(basic(&HeaderValue::from_str(text).unwrap()), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn rqlites_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            r#"[{"username": "*", "perms": ["ready"]}, {"username": "a", "password": "p", "perms": ["query"]}]"#,
        )
        .unwrap();
        let auth = Authenticator::follow(file.path().to_owned()).unwrap();
        let (no, yes) = (Err(Denied::Unauthorized), Ok(()));
        for (credentials, needed, expected) in [
            (None, &[Permission::Ready][..], yes),
            // What everybody may do, somebody with wrong credentials may too.
            (Some("a:wrong"), &[Permission::Ready], yes),
            (None, &[Permission::Query], no),
            (Some("a:p"), &[Permission::Query], yes),
            (Some("a:p"), &[Permission::Query, Permission::Ready], yes),
            (Some("a:p"), &[Permission::Execute], no),
            (Some("a:wrong"), &[Permission::Query], no),
            (Some("b:p"), &[Permission::Query], no),
            (Some("*:"), &[Permission::Query], no),
        ] {
            let header = credentials.map(header);
            assert_eq!(auth.check(header.as_ref(), needed).await, expected, "{credentials:?} {needed:?}");
        }
    }

    /// User a, whose password is right, and stands in the file as a hash.
    fn hashed() -> (tempfile::NamedTempFile, Authenticator) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hash = super::super::hash("right").unwrap();
        let users = format!(r#"[{{"username": "a", "password": "{hash}", "perms": ["all"]}}]"#);
        std::fs::write(file.path(), users).unwrap();
        let auth = Authenticator::follow(file.path().to_owned()).unwrap();
        (file, auth)
    }

    #[tokio::test]
    async fn a_flood_of_guesses_waits_in_a_bounded_queue() {
        let (_file, auth) = hashed();
        let right = header("a:right");
        assert_eq!(auth.check(Some(&right), &[Permission::All]).await, Ok(()));
        let guesses = (0..200).map(|n| {
            let auth = &auth;
            async move { auth.check(Some(&header(&format!("a:{n}"))), &[Permission::All]).await }
        });
        let guesses = futures::future::join_all(guesses);
        let known = async { auth.check(Some(&right), &[Permission::All]).await };
        let (guessed, known) = tokio::join!(guesses, known);
        assert_eq!(known, Ok(()), "who is known waits for nobody");
        assert!(guessed.iter().all(|outcome| outcome.is_err()));
        assert!(
            guessed.iter().filter(|outcome| **outcome == Err(Denied::Busy)).count()
                >= 200 - WAITING - HASHING
        );
    }

    #[tokio::test]
    async fn who_hangs_up_does_not_make_room_for_another_hash() {
        let (_file, auth) = hashed();
        for n in 0..HASHING {
            let guess = header(&format!("a:{n}"));
            let asked = auth.check(Some(&guess), &[Permission::All]);
            let asked = tokio::time::timeout(std::time::Duration::from_millis(1), asked).await;
            assert!(asked.is_err(), "a hash takes longer");
            assert_eq!(auth.hashing.available_permits(), HASHING - 1 - n, "it goes on");
        }
        // The last one ends as well.
        let right = header("a:right");
        assert_eq!(auth.check(Some(&right), &[Permission::All]).await, Ok(()));
    }
}
