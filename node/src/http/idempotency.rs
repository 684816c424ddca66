//! `Idempotency-Key`: what a client calls a write that it may send again (see [`crate::store`]'s answers that are kept).

use super::params::BadParam;
use crate::raft::command::IdempotencyKey;
use axum::http::header::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

/// The header that has it.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in bytes.
const LONGEST: usize = 255;

/// The key of a request, if it has one. Users have keys of their own: nobody reads another's answers by guessing. `user` is
/// who sent it, if their password was right; all others share the keys of nobody.
pub fn read(headers: &HeaderMap, user: Option<&str>) -> Result<Option<IdempotencyKey>, BadParam> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let is_fine = (1..=LONGEST).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic);
    if !is_fine || keys.next().is_some() {
        let message =
            format!("Idempotency-Key must be given once, with 1 to {LONGEST} visible ASCII characters");
        return Err(BadParam(message));
    }
    let user = user.unwrap_or_default();
    let mut hash = Sha256::new();
    hash.update((user.len() as u64).to_le_bytes());
    hash.update(user);
    hash.update(key.as_bytes());
    Ok(Some(hash.finalize().into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::HeaderValue;

    fn of(keys: &[&str], user: Option<&str>) -> Result<Option<IdempotencyKey>, BadParam> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(key).unwrap());
        }
        read(&headers, user)
    }

    #[test]
    fn keys_by_table() {
        assert_eq!(of(&[], None), Ok(None));
        let longest = "x".repeat(255);
        for fine in ["1", "\"8e03978e\"", &longest] {
            assert!(of(&[fine], None).unwrap().is_some(), "{fine}");
        }
        let too_long = "x".repeat(256);
        for bad in [&[""][..], &["a b"], &[&too_long], &["a", "a"], &["a\tb"]] {
            assert!(of(bad, None).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn users_have_keys_of_their_own() {
        let all = [(None, "k"), (Some("a"), "k"), (Some("b"), "k"), (Some("a"), "kb"), (Some("ak"), "b")];
        let keys: std::collections::BTreeSet<_> =
            all.iter().map(|(user, key)| of(&[key], *user).unwrap().unwrap()).collect();
        assert_eq!(keys.len(), all.len());
        assert_eq!(of(&["k"], Some("a")), of(&["k"], Some("a")));
    }
}
