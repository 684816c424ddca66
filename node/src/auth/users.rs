//! The users of one reading of the files.

use super::password::{Secret, secret};
use super::permission::{Permission, Permissions};
use aws_lc_rs::{digest, hmac};
use serde::Deserialize;
use std::path::PathBuf;

/// The name of everybody.
const EVERYBODY: &str = "*";

/// Why a file of users is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message}")]
pub struct UsersError {
    /// Which.
    pub file: String,
    /// What is wrong with it. Never has a password.
    pub message: String,
}

/// Who may do what.
pub struct Users {
    entries: Vec<Entry>,
    everybody: Permissions,
    key: hmac::Key,
    revision: String,
}

struct Entry {
    name: String,
    secret: Secret,
    permissions: Permissions,
}

/// An entry as it stands in a file. What rqlite does not know is not an error here either.
#[derive(Deserialize)]
struct Written {
    username: Option<String>,
    password: Option<String>,
    perms: Option<Vec<String>>,
}

/// What can be said of credentials without a slow hash.
#[derive(Debug, PartialEq, Eq)]
pub enum Quick {
    /// They are right: this is what their user may do.
    Right(Permissions),
    /// They are wrong.
    Wrong,
    /// It takes a slow hash.
    Unknown,
}

impl Users {
    /// Reads what was in the files.
    pub fn parse(files: &[(PathBuf, Vec<u8>)]) -> Result<Self, UsersError> {
        let key: [u8; 32] = rand::random();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let mut users =
            Self { entries: Vec::new(), everybody: Permissions::default(), key, revision: String::new() };
        let mut all = digest::Context::new(&digest::SHA256);
        for (path, bytes) in files {
            all.update(bytes);
            users.read(bytes).map_err(|message| UsersError { file: path.display().to_string(), message })?;
        }
        users.revision = all.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(users)
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), String> {
        // Its message would quote what stands there, and that may be a password.
        let written: Vec<Written> = serde_json::from_slice(bytes).map_err(|e| {
            let (line, column) = (e.line(), e.column());
            format!(
                "line {line}, column {column}: not a JSON array of {{\"username\", \"password\", \"perms\"}}"
            )
        })?;
        for (i, entry) in written.into_iter().enumerate() {
            let name = entry.username.filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| format!("entry {}: no \"username\"", i + 1))?;
            let of = |message: String| format!("entry {} ({name:?}): {message}", i + 1);
            if name.contains(':') {
                return Err(of("a name with a colon cannot be sent by Basic authentication".into()));
            }
            let Some(names) = entry.perms else { return Err(of("no \"perms\"".into())) };
            let mut permissions = Permissions::default();
            for known in &names {
                let permission = Permission::from_name(known);
                let permission = permission.ok_or_else(|| {
                    of(format!("unknown permission {known:?}; there are {}", Permission::names()))
                })?;
                permissions = permissions.with(permission);
            }
            match entry.password {
                _ if name == EVERYBODY => self.everybody = self.everybody.or(permissions),
                None => return Err(of("no \"password\"".into())),
                Some(password) if password.is_empty() => return Err(of("the password is empty".into())),
                Some(password) => {
                    let secret = secret(&password, &self.key).map_err(of)?;
                    self.entries.push(Entry { name, secret, permissions });
                }
            }
        }
        Ok(())
    }

    /// The password of a user as it stands in the files.
    pub fn plain_password(files: &[(PathBuf, Vec<u8>)], name: &str) -> Result<String, String> {
        let mut is_hashed = false;
        for (_, bytes) in files {
            // Whoever reads the files for their users says what is wrong with them.
            let written: Vec<Written> = serde_json::from_slice(bytes).unwrap_or_default();
            for entry in written.into_iter().filter(|entry| entry.username.as_deref() == Some(name)) {
                match entry.password {
                    Some(password) if !password.starts_with('$') => return Ok(password),
                    _ => is_hashed = true,
                }
            }
        }
        Err(if is_hashed {
            format!("the password of {name:?} is a hash; to be shown it must stand there as it is")
        } else {
            format!("there is no user {name:?}")
        })
    }

    /// Says which reading this is: a hash of what was in the files.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// What everybody may do.
    pub fn everybody(&self) -> Permissions {
        self.everybody
    }

    /// What a user may do by any of their passwords, beyond what everybody may.
    pub fn permissions_of(&self, name: &str) -> Permissions {
        self.named(name).fold(Permissions::default(), |all, entry| all.or(entry.permissions))
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.name == name)
    }

    /// What can be said at once.
    pub fn quick(&self, name: &str, password: &str) -> Quick {
        let verify = |tag: &hmac::Tag| hmac::verify(&self.key, password.as_bytes(), tag.as_ref()).is_ok();
        let (mut right, mut slow) = (None, false);
        for entry in self.named(name) {
            let same = match &entry.secret {
                Secret::Plain(tag) => verify(tag),
                Secret::Hashed { verified, .. } => {
                    let same = verified.lock().as_ref().is_some_and(verify);
                    slow |= !same;
                    same
                }
            };
            if same {
                right = Some(right.unwrap_or_else(Permissions::default).or(entry.permissions));
            }
        }
        match right {
            Some(permissions) => Quick::Right(permissions),
            // Somebody who is not there takes as long as somebody who is.
            None if slow || (self.named(name).next().is_none() && self.decoy().is_some()) => Quick::Unknown,
            None => Quick::Wrong,
        }
    }

    fn decoy(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| matches!(entry.secret, Secret::Hashed { .. }))
    }

    /// What is left to be said by slow hashes; what is right is known at once from then on.
    pub fn slow(&self, name: &str, password: &str) -> Option<Permissions> {
        if self.named(name).next().is_none()
            && let Some(Entry { secret: Secret::Hashed { hash, .. }, .. }) = self.decoy()
        {
            std::hint::black_box(hash.matches(password));
            return None;
        }
        let mut right: Option<Permissions> = None;
        for entry in self.named(name) {
            if let Secret::Hashed { hash, verified } = &entry.secret
                && hash.matches(password)
            {
                *verified.lock() = Some(hmac::sign(&self.key, password.as_bytes()));
                right = Some(right.unwrap_or_default().or(entry.permissions));
            }
        }
        right
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn users(text: &str) -> Result<Users, UsersError> {
        Users::parse(&[(PathBuf::from("users.json"), text.as_bytes().to_vec())])
    }

    #[test]
    fn refused_by_table() {
        for (text, expected) in [
            ("", "line 1, column 0: not a JSON array"),
            (r#"{"username": "a"}"#, "not a JSON array"),
            (r#"[{"password": "p", "perms": ["all"]}]"#, "entry 1: no \"username\""),
            (r#"[{"username": "", "password": "p", "perms": ["all"]}]"#, "entry 1: no \"username\""),
            (r#"[{"username": "a:b", "password": "p", "perms": ["all"]}]"#, "a name with a colon"),
            // Better than rqlite: they are not those of the entry before.
            (
                r#"[{"username": "a", "password": "p", "perms": ["all"]}, {"username": "b", "password": "q"}]"#,
                "entry 2 (\"b\"): no \"perms\"",
            ),
            (
                r#"[{"username": "a", "password": "p", "perms": ["all"]}, {"username": "b", "perms": []}]"#,
                "entry 2 (\"b\"): no \"password\"",
            ),
            (r#"[{"username": "a", "password": "", "perms": []}]"#, "the password is empty"),
            (r#"[{"username": "a", "password": "p", "perms": ["al"]}]"#, "unknown permission \"al\""),
            (
                r#"[{"username": "a", "password": "$argon2id$x", "perms": []}]"#,
                "the Argon2 hash is malformed",
            ),
        ] {
            let error = users(text).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{text}: {error:?}");
        }
        let secret =
            users(r#"[{"username": "a", "password": "hunter2", "perms": 5}]"#).err().unwrap().to_string();
        assert!(!secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn credentials_by_table() {
        let hash = super::super::hash("slow").unwrap();
        let users = users(&format!(
            r#"[{{"username": "*", "perms": ["ready"]}},
                {{"username": "a", "password": "one", "perms": ["query"], "comment": "not ours"}},
                {{"username": "a", "password": "two", "perms": ["execute"]}},
                {{"username": "h", "password": "{hash}", "perms": ["all"]}}]"#
        ))
        .unwrap();
        let may = |permission| Permissions::default().with(permission);
        assert_eq!(users.everybody(), may(Permission::Ready));
        assert_eq!(users.permissions_of("a"), may(Permission::Query).with(Permission::Execute));
        assert_eq!(users.permissions_of("nobody"), Permissions::default());
        for (name, password, quick, slow) in [
            ("a", "one", Quick::Right(may(Permission::Query)), None),
            ("a", "two", Quick::Right(may(Permission::Execute)), None),
            ("a", "three", Quick::Wrong, None),
            ("a", "", Quick::Wrong, None),
            ("h", "fast", Quick::Unknown, None),
            ("nobody", "one", Quick::Unknown, None),
            ("*", "", Quick::Unknown, None),
            ("h", "slow", Quick::Unknown, Some(may(Permission::All))),
            // It is known by now.
            ("h", "slow", Quick::Right(may(Permission::All)), Some(may(Permission::All))),
            ("h", "fast", Quick::Unknown, None),
        ] {
            assert_eq!(users.quick(name, password), quick, "{name} {password}");
            assert_eq!(users.slow(name, password), slow, "{name} {password}");
        }
    }
}
