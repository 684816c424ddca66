//! What an object in the store looks like: compressed, encrypted if there is a key, and with a sum by which every change
//! on the way or in the store is noticed.
//!
//! ```text
//! object = "SQLDOBJ1" · flags u8 (1 = encrypted) · key id [8] · plain length u32 · [nonce 12] · body · SHA-256 of all before
//! body   = zstd(plain), or AES-256-GCM(zstd(plain)) with the bytes before the nonce and the object's name as what is
//!          authenticated beside it, so that an object put in another's place is noticed too
//! ```
//! Little endian. A nonce is random; a key may seal some 2^32 objects (NIST SP 800-38D, 8.3).

use super::duty::DutyCycle;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use std::io::{self, Write as _};
use zstd::stream::write::Encoder;

const MAGIC: &[u8; 8] = b"SQLDOBJ1";
const ENCRYPTED: u8 = 1;
const HEAD: usize = 8 + 1 + KEY_ID + 4;
const KEY_ID: usize = 8;
const KEY: usize = 32;
/// Pages of databases shrink well at the lowest level already; higher ones cost processor time that writes need.
const LEVEL: i32 = 1;
/// Bytes that are worked on in one step of a [`DutyCycle`]: about a millisecond.
const STEP: usize = 256 << 10;

/// An object was not made, or is not what was put there.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is not an object of ours, cut short, or changed.
    #[error("{name}: {what}")]
    Damaged {
        /// The object.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// None of the keys is the one it was encrypted with.
    #[error("{name}: it is encrypted with key {key}, which is not among the keys that are configured")]
    NoKey {
        /// The object.
        name: String,
        /// Id of the key, in hexadecimal digits.
        key: String,
    },
    /// There are keys, and it is not encrypted with any.
    #[error(
        "{0}: it is not encrypted, so that anybody who can write to the store may have put it there; if it is from before \
         there were keys, set encryption.unencrypted to accept"
    )]
    NotEncrypted(String),
    /// It could not be compressed or encrypted.
    #[error("{name}: cannot be {what}")]
    Failed {
        /// The object.
        name: String,
        /// What failed.
        what: &'static str,
    },
}

struct Key {
    id: [u8; KEY_ID],
    key: LessSafeKey,
}

/// Keys: the first one encrypts, all of them decrypt. Without any nothing is encrypted.
#[derive(Default)]
pub struct Keyring {
    keys: Vec<Key>,
    accepts_unencrypted: bool,
}

/// Bytes of the sum that an object ends with.
pub const SUM: usize = SHA256_OUTPUT_LEN;

/// The sum that an object ends with, in hexadecimal digits.
pub fn sum_of(object: &[u8]) -> String {
    hex(&object[object.len().saturating_sub(SUM)..])
}

/// SHA-256 in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Compresses `plain` behind what is in `out`.
fn compress(out: Vec<u8>, plain: &[u8], duty: Option<&DutyCycle>) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(out, LEVEL)?;
    encoder.set_pledged_src_size(Some(plain.len() as u64))?;
    for step in plain.chunks(STEP) {
        in_turn(duty, || encoder.write_all(step))?;
    }
    encoder.finish()
}

fn in_turn<T>(duty: Option<&DutyCycle>, work: impl FnOnce() -> T) -> T {
    match duty {
        Some(duty) => duty.step(work),
        None => work(),
    }
}

impl Keyring {
    /// Reads a file of keys: one on each line, 32 bytes in base64; empty lines and those that begin with `#` are skipped.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || format!("line {}: not a key of {KEY} bytes in base64", number + 1);
            let bytes = STANDARD.decode(line).map_err(|_| bad())?;
            if bytes.len() != KEY {
                return Err(bad());
            }
            let mut id = [0; KEY_ID];
            let named = [b"sqlited backup key", bytes.as_slice()].concat();
            id.copy_from_slice(&digest(&SHA256, &named).as_ref()[..KEY_ID]);
            let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| bad())?;
            keys.push(Key { id, key: LessSafeKey::new(key) });
        }
        if keys.is_empty() {
            return Err("it holds no key".into());
        }
        Ok(Self { keys, accepts_unencrypted: false })
    }

    /// The same, which opens what is not encrypted too, if `accept`.
    #[must_use]
    pub fn accepting_unencrypted(self, accept: bool) -> Self {
        Self { accepts_unencrypted: accept, ..self }
    }

    /// Whether what is sealed is encrypted.
    pub fn encrypts(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether what is not encrypted is opened: where there are no keys, or it is to be.
    pub fn accepts_unencrypted(&self) -> bool {
        self.accepts_unencrypted || !self.encrypts()
    }

    /// Makes the object `name` of `plain`, in steps of `duty` if there is one.
    pub fn seal(&self, name: &str, plain: &[u8], duty: Option<&DutyCycle>) -> Result<Bytes, SealError> {
        let failed = |what| SealError::Failed { name: name.into(), what };
        let length = u32::try_from(plain.len()).map_err(|_| failed("made: it is too large"))?;
        let key = self.keys.first();
        let around = HEAD + NONCE_LEN + AES_256_GCM.tag_len() + SUM;
        // All of it is made in one buffer: several objects are made at once, and each is large.
        let mut out = Vec::with_capacity(around + zstd::zstd_safe::compress_bound(plain.len()));
        out.extend_from_slice(MAGIC);
        out.push(if key.is_some() { ENCRYPTED } else { 0 });
        out.extend_from_slice(&key.map_or([0; KEY_ID], |key| key.id));
        out.extend_from_slice(&length.to_le_bytes());
        let sealing = key.map(|key| {
            let aad = Aad::from([&out[..], name.as_bytes()].concat());
            let nonce: [u8; NONCE_LEN] = rand::random();
            out.extend_from_slice(&nonce);
            (key, nonce, aad)
        });
        let begin = out.len();
        let mut out = compress(out, plain, duty).map_err(|_| failed("compressed"))?;
        if let Some((key, nonce, aad)) = sealing {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let seal = || key.key.seal_in_place_separate_tag(nonce, aad, &mut out[begin..]);
            let tag = in_turn(duty, seal).map_err(|_| failed("encrypted"))?;
            out.extend_from_slice(tag.as_ref());
        }
        let mut sum = Context::new(&SHA256);
        for step in out.chunks(STEP) {
            in_turn(duty, || sum.update(step));
        }
        out.extend_from_slice(sum.finish().as_ref());
        out.shrink_to_fit();
        Ok(out.into())
    }

    /// What the object `name` was made of; at most `at_most` bytes. Nothing of it is copied if nobody else holds it: it may
    /// be large.
    pub fn open(&self, name: &str, object: Bytes, at_most: usize) -> Result<Vec<u8>, SealError> {
        let damaged = |what| SealError::Damaged { name: name.into(), what };
        let Some(end) = object.len().checked_sub(SUM).filter(|end| *end >= HEAD) else {
            return Err(damaged("it is cut short"));
        };
        let (sealed, sum) = object.split_at(end);
        if !sealed.starts_with(MAGIC) {
            return Err(damaged("it is not an object of sqlited"));
        }
        if digest(&SHA256, sealed).as_ref() != sum {
            return Err(damaged("its bytes are not those that were put there"));
        }
        let mut length = [0; 4];
        length.copy_from_slice(&sealed[HEAD - 4..HEAD]);
        let length = u32::from_le_bytes(length) as usize;
        if length > at_most {
            return Err(damaged("it claims to hold more than it may"));
        }
        let flags = sealed[8];
        let sealed = object.slice(..end);
        drop(object);
        let compressed = match flags {
            0 if !self.accepts_unencrypted() => return Err(SealError::NotEncrypted(name.into())),
            0 => sealed.slice(HEAD..),
            ENCRYPTED => self.decrypt(name, sealed)?,
            _ => return Err(damaged("it is of another version")),
        };
        let plain =
            zstd::bulk::decompress(&compressed, length).map_err(|_| damaged("it cannot be decompressed"))?;
        if plain.len() != length {
            return Err(damaged("it holds less than it says"));
        }
        Ok(plain)
    }

    fn decrypt(&self, name: &str, sealed: Bytes) -> Result<Bytes, SealError> {
        let damaged = |what| SealError::Damaged { name: name.into(), what };
        let id = &sealed[9..9 + KEY_ID];
        let Some(key) = self.keys.iter().find(|key| key.id == *id) else {
            return Err(SealError::NoKey { name: name.into(), key: hex(id) });
        };
        if sealed.len() < HEAD + NONCE_LEN {
            return Err(damaged("it is cut short"));
        }
        let aad = Aad::from([&sealed[..HEAD], name.as_bytes()].concat());
        let mut body = sealed.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let nonce = body.split_to(HEAD + NONCE_LEN);
        let nonce =
            Nonce::try_assume_unique_for_key(&nonce[HEAD..]).map_err(|_| damaged("its nonce is none"))?;
        let plain = key
            .key
            .open_in_place(nonce, aad, &mut body)
            .map_err(|_| damaged("it was not encrypted under this name with this key"))?
            .len();
        body.truncate(plain);
        Ok(body.freeze())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(byte: u8) -> String {
        STANDARD.encode([byte; KEY])
    }

    fn rings() -> Vec<Keyring> {
        vec![Keyring::default(), Keyring::parse(&key(1)).unwrap()]
    }

    #[test]
    fn what_is_sealed_comes_back() {
        for ring in rings() {
            for plain in [vec![], b"x".to_vec(), vec![7; 100_000]] {
                let object = ring.seal("a/b", &plain, None).unwrap();
                assert_eq!(ring.open("a/b", object, plain.len()).unwrap(), plain);
            }
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        for ring in rings() {
            let object = ring.seal("name", b"some content that is long enough", None).unwrap();
            for at in 0..object.len() {
                assert!(ring.open("name", object.slice(..at), 1000).is_err(), "cut to {at}");
                for bit in 0..8 {
                    let mut changed = object.to_vec();
                    changed[at] ^= 1 << bit;
                    assert!(ring.open("name", changed.into(), 1000).is_err(), "bit {bit} of byte {at}");
                }
            }
            assert!(ring.open("name", object.clone(), 3).is_err(), "more than it may");
        }
    }

    #[test]
    fn an_encrypted_object_belongs_to_its_name_and_key() {
        let ring = Keyring::parse(&key(1)).unwrap();
        let object = ring.seal("log/1", b"secret", None).unwrap();
        assert!(!object.windows(6).any(|w| w == b"secret"));
        assert!(matches!(ring.open("log/2", object.clone(), 10), Err(SealError::Damaged { .. })));
        // A new key in front encrypts; the old one still reads.
        let rotated = Keyring::parse(&format!("# newest first\n{}\n\n{}\n", key(2), key(1))).unwrap();
        assert_eq!(rotated.open("log/1", object.clone(), 10).unwrap(), b"secret");
        let newer = rotated.seal("log/1", b"secret", None).unwrap();
        assert!(matches!(ring.open("log/1", newer, 10), Err(SealError::NoKey { .. })));
        assert!(matches!(Keyring::default().open("log/1", object.clone(), 10), Err(SealError::NoKey { .. })));
    }

    #[test]
    fn with_keys_only_what_they_encrypted_counts() {
        let object = Keyring::default().seal("log/1", b"anybody's", None).unwrap();
        let ring = || Keyring::parse(&key(1)).unwrap();
        assert!(matches!(ring().open("log/1", object.clone(), 10), Err(SealError::NotEncrypted(_))));
        assert_eq!(
            ring().accepting_unencrypted(true).open("log/1", object.clone(), 10).unwrap(),
            b"anybody's"
        );
    }

    #[test]
    fn files_of_keys_that_are_none() {
        for text in ["", "# nothing", "c2hvcnQ=", "not base64!"] {
            assert!(Keyring::parse(text).is_err(), "{text}");
        }
    }
}
