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

    /// Lets who sent the header `Authorization` pass if they may do all of `needed`. Says who that is; none if everybody
    /// may, and their password is wrong, or takes a slow hash and nothing `asks_who` it is.
    pub async fn let_in(
        &self,
        authorization: Option<&HeaderValue>,
        needed: &[Permission],
        asks_who: bool,
    ) -> Result<Option<String>, Denied> {
        self.check_credentials(|| authorization.and_then(basic), needed, asks_who).await
    }

    /// Whether a user may do all of `needed`.
    pub async fn check_user(&self, name: &str, password: &str, needed: &[Permission]) -> Result<(), Denied> {
        let credentials = || Some((name.to_owned(), password.to_owned()));
        self.check_credentials(credentials, needed, false).await.map(drop)
    }

    /// Whether a user, whose password another member has checked, may do all of `needed`; none: whoever it is.
    pub fn may(&self, user: Option<&str>, needed: Permissions) -> bool {
        let users = self.users.current();
        user.map_or_else(Permissions::default, |name| users.permissions_of(name))
            .or(users.everybody())
            .covers(needed)
    }

    /// In rqlite's order: what everybody may do needs no credentials, and wrong ones do no harm. A password is looked at
    /// once, and only if something depends on it: some take a slow hash.
    async fn check_credentials(
        &self,
        credentials: impl FnOnce() -> Option<(String, String)>,
        needed: &[Permission],
        asks_who: bool,
    ) -> Result<Option<String>, Denied> {
        let users = self.users.current();
        let everybody = users.everybody();
        let is_open = everybody.cover(needed);
        if is_open && !asks_who {
            // Who it is may make a difference to the leader. Here it makes none, so it is worth no slow hash.
            let known = credentials()
                .filter(|(name, password)| matches!(users.quick(name, password), Quick::Right(_)));
            return Ok(known.map(|(name, _)| name));
        }
        let held = match credentials() {
            None => None,
            Some((name, password)) => {
                self.held(users, name.clone(), password).await?.map(|held| (name, held))
            }
        };
        match held {
            Some((name, held)) if is_open || held.or(everybody).cover(needed) => Ok(Some(name)),
            None if is_open => Ok(None),
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
            let let_in = auth.let_in(header.as_ref(), needed, false).await;
            assert_eq!(let_in.map(drop), expected, "{credentials:?} {needed:?}");
        }
    }

    #[tokio::test]
    async fn who_is_let_in() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let users = r#"[{"username": "*", "perms": ["ready"]}, {"username": "a", "password": "p", "perms": ["query"]}]"#;
        std::fs::write(file.path(), users).unwrap();
        let auth = Authenticator::follow(file.path().to_owned()).unwrap();
        let (open, closed) = (Permission::Ready, Permission::Query);
        let a = || Ok(Some("a".to_owned()));
        for (credentials, needed, asks_who, expected) in [
            // What everybody may do needs nobody.
            (Some("a:p"), open, false, a()),
            (Some("a:wrong"), open, false, Ok(None)),
            (None, open, false, Ok(None)),
            (Some("a:p"), open, true, a()),
            (Some("a:wrong"), open, true, Ok(None)),
            (None, open, true, Ok(None)),
            (Some("a:p"), closed, false, a()),
            (Some("a:p"), closed, true, a()),
            (Some("a:wrong"), closed, true, Err(Denied::Unauthorized)),
            (None, closed, true, Err(Denied::Unauthorized)),
        ] {
            let header = credentials.map(header);
            let let_in = auth.let_in(header.as_ref(), &[needed], asks_who).await;
            assert_eq!(let_in, expected, "{credentials:?} {needed:?} {asks_who}");
        }
        for (user, needed, expected) in [
            (None, open, true),
            (None, closed, false),
            (Some("a"), closed, true),
            (Some("a"), Permission::Execute, false),
            (Some("b"), open, true),
            (Some("b"), closed, false),
        ] {
            assert_eq!(auth.may(user, Permissions::of(&[needed])), expected, "{user:?} {needed:?}");
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

    fn a() -> Result<Option<String>, Denied> {
        Ok(Some("a".to_owned()))
    }

    #[tokio::test]
    async fn what_everybody_may_do_takes_no_slow_hash() {
        let (_file, auth) = hashed();
        let (right, wrong) = (header("a:right"), header("a:wrong"));
        for (header, asks_who, expected) in [
            (&right, false, Ok(None)),
            (&right, true, a()),
            // From then on it is known.
            (&right, false, a()),
            (&wrong, false, Ok(None)),
            (&wrong, true, Ok(None)),
        ] {
            assert_eq!(auth.let_in(Some(header), &[], asks_who).await, expected);
        }
    }

    #[tokio::test]
    async fn a_flood_of_guesses_waits_in_a_bounded_queue() {
        let (_file, auth) = hashed();
        let right = header("a:right");
        assert_eq!(auth.let_in(Some(&right), &[Permission::All], false).await, a());
        let guesses = (0..200).map(|n| {
            let auth = &auth;
            async move { auth.let_in(Some(&header(&format!("a:{n}"))), &[Permission::All], false).await }
        });
        let guesses = futures::future::join_all(guesses);
        let known = async { auth.let_in(Some(&right), &[Permission::All], false).await };
        let (guessed, known) = tokio::join!(guesses, known);
        assert_eq!(known, a(), "who is known waits for nobody");
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
            let asked = auth.let_in(Some(&guess), &[Permission::All], false);
            let asked = tokio::time::timeout(std::time::Duration::from_millis(1), asked).await;
            assert!(asked.is_err(), "a hash takes longer");
            assert_eq!(auth.hashing.available_permits(), HASHING - 1 - n, "it goes on");
        }
        // The last one ends as well.
        let right = header("a:right");
        assert_eq!(auth.let_in(Some(&right), &[Permission::All], false).await, a());
    }
}
