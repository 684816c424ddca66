//! What is kept of a password, and how another one is compared with it.

use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};
use argon2::{Argon2, Params};
use aws_lc_rs::hmac;
use parking_lot::Mutex;

/// Memory that checking one password may take, in KiB: a file must not be able to stop a member.
const MEMORY_KIB: u32 = 256 << 10;
/// Passes over that memory.
const PASSES: u32 = 16;
/// Largest cost of bcrypt: about two seconds.
const BCRYPT_COST: u32 = 14;

/// A password as no attacker can use it: keyed with a secret of this process, and quick to compare.
pub type Tag = hmac::Tag;

/// What is kept of a password.
pub enum Secret {
    /// It stands in the file as it is.
    Plain(Tag),
    /// The file has a hash, which takes long to compare; the password that was right before is known again.
    Hashed {
        /// As in the file.
        hash: Hash,
        /// What was right before.
        verified: Mutex<Option<Tag>>,
    },
}

/// A hash that is slow by purpose.
pub enum Hash {
    /// `$argon2id$…` (RFC 9106).
    Argon2(String),
    /// `$2a$…`, `$2b$…`, `$2y$…`.
    Bcrypt(String),
}

/// Makes the secret of what a file says.
pub fn secret(password: &str, key: &hmac::Key) -> Result<Secret, String> {
    let hash = if password.starts_with("$argon2") {
        let parsed = PasswordHash::new(password).map_err(|e| format!("the Argon2 hash is malformed: {e}"))?;
        if parsed.salt.is_none() || parsed.hash.is_none() {
            return Err("the Argon2 hash is malformed: salt or hash is missing".into());
        }
        let params = Params::try_from(&parsed).map_err(|e| format!("the Argon2 hash is malformed: {e}"))?;
        if params.m_cost() > MEMORY_KIB || params.t_cost() > PASSES {
            return Err(format!(
                "the Argon2 hash takes more than {MEMORY_KIB} KiB or {PASSES} passes to check"
            ));
        }
        Hash::Argon2(password.to_owned())
    } else if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| password.starts_with(prefix)) {
        let parts: bcrypt::HashParts =
            password.parse().map_err(|e| format!("the bcrypt hash is malformed: {e}"))?;
        if parts.get_cost() > BCRYPT_COST {
            return Err(format!("the bcrypt hash has a cost above {BCRYPT_COST}"));
        }
        Hash::Bcrypt(password.to_owned())
    } else {
        return Ok(Secret::Plain(hmac::sign(key, password.as_bytes())));
    };
    Ok(Secret::Hashed { hash, verified: Mutex::default() })
}

impl Hash {
    /// Whether it is the hash of `password`: takes long, and is not for threads that others wait for.
    pub fn matches(&self, password: &str) -> bool {
        match self {
            // It was parsed before, and its parameters are those of the hash.
            Self::Argon2(hash) => PasswordHash::new(hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()),
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).is_ok_and(|same| same),
        }
    }
}

/// An Argon2id hash of a password, for the file.
pub fn hash(password: &str) -> Result<String, String> {
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])
    }

    #[test]
    fn hashes_of_both_kinds() {
        let argon2 = hash("correct").unwrap();
        let bcrypt = bcrypt::hash("correct", 4).unwrap();
        for text in [argon2, bcrypt] {
            let Secret::Hashed { hash, .. } = secret(&text, &key()).unwrap() else { panic!("{text}") };
            assert!(hash.matches("correct"), "{text}");
            assert!(!hash.matches("wrong") && !hash.matches(""), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_hash_is_refused_and_so_is_what_costs_too_much() {
        for text in [
            "$argon2id$v=19$m=19456",
            "$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHRzYWx0$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE",
            "$2b$10$short",
            "$2b$31$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyz01234",
        ] {
            assert!(secret(text, &key()).is_err(), "{text}");
        }
        assert!(matches!(secret("$5 is the price", &key()), Ok(Secret::Plain(_))));
    }
}
