//! What is said of a backup, and by what it is known to be complete: the manifest is written last.

use super::objects::{ObjectError, Objects};
use super::seal::{Keyring, SealError, sha256_hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::backup::Backup;
use serde::{Deserialize, Serialize};

/// The version that this program writes and reads.
const FORMAT: u32 = 1;
/// Name of the object in the backup's directory.
const MANIFEST: &str = "manifest.json";

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    format: u32,
    /// What is told of it.
    #[serde(flatten)]
    pub backup: Backup,
    /// Clock of the last entry in it, in microseconds since 1970: what a restore to a time goes by.
    pub entry_time_us: i64,
    /// Whether foreign keys were enforced: entries after it are to be replayed the same way.
    pub foreign_keys: bool,
    /// The file's parts.
    pub parts: Parts,
    /// SHA-256 of this text without it and the seal.
    checksum: String,
    /// The checksum as a sealed object in base64, where there are keys: who has none cannot make a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seal: Option<String>,
}

/// A file in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parts {
    /// Bytes of the file in each part; the last one may have fewer.
    pub part_bytes: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// The SHA-256 that each part in the store ends with, in order: that of everything before it.
    pub sums: Vec<String>,
}

impl Parts {
    /// How many bytes of the file part `n` has.
    pub fn size_of(&self, n: usize) -> u64 {
        let begin = self.part_bytes.saturating_mul(n as u64);
        self.size_bytes.saturating_sub(begin).min(self.part_bytes)
    }
}

/// Name of part `n`.
pub fn part_name(directory: &str, n: usize) -> String {
    format!("{directory}/{n:05}")
}

impl Manifest {
    /// Of a backup whose parts are in the store.
    pub fn new(backup: Backup, entry_time_us: i64, foreign_keys: bool, parts: Parts) -> Self {
        let (checksum, seal) = (String::new(), None);
        Self { format: FORMAT, backup, entry_time_us, foreign_keys, parts, checksum, seal }
    }

    /// The moment that it is of, in microseconds since 1970: that of its last entry, or of its making if no entry in it
    /// has a clock.
    pub fn moment_us(&self) -> i64 {
        if self.entry_time_us == 0 { self.made_us() } else { self.entry_time_us }
    }

    /// When its state was pinned, in microseconds since 1970.
    pub fn made_us(&self) -> i64 {
        self.backup.time.parse::<jiff::Timestamp>().map_or(0, |made| made.as_microsecond())
    }

    /// Name of its object.
    pub fn object(&self) -> String {
        object_of(&self.backup.path)
    }

    /// The same, with its checksum, sealed by the first of the keys.
    pub fn sealed(mut self, keys: &Keyring) -> Result<Self, SealManifestError> {
        self.checksum = self.sum()?;
        self.seal = keys
            .encrypts()
            .then(|| keys.seal(&self.object(), self.checksum.as_bytes(), None))
            .transpose()?
            .map(|seal| STANDARD.encode(seal));
        Ok(self)
    }

    fn sum(&self) -> serde_json::Result<String> {
        let unsigned = Self { checksum: String::new(), seal: None, ..self.clone() };
        Ok(sha256_hex(&serde_json::to_vec(&unsigned)?))
    }

    /// Its text.
    pub fn encode(&self) -> serde_json::Result<Bytes> {
        Ok(serde_json::to_vec_pretty(self)?.into())
    }

    /// Reads the text of that of the backup at `path`; an error says what is wrong.
    pub fn decode(path: &str, bytes: &[u8], keys: &Keyring) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if read.format != FORMAT {
            return Err(format!("it has format {}; this version reads format {FORMAT}", read.format));
        }
        // The same text: nothing in it was changed, added or lost.
        let sum = read.sum().map_err(|error| error.to_string())?;
        if sum != read.checksum || read.encode().map_err(|error| error.to_string())? != bytes {
            return Err("its text is not the one that was written".into());
        }
        if read.backup.path != path {
            return Err("it is of another backup".into());
        }
        read.check_seal(keys)?;
        Ok(read)
    }

    /// That somebody with a key has made it. Of what is not encrypted, the parts are refused.
    fn check_seal(&self, keys: &Keyring) -> Result<(), String> {
        if !self.backup.encrypted || !keys.encrypts() {
            return Ok(());
        }
        let Some(seal) = &self.seal else {
            return match keys.accepts_unencrypted() {
                true => Ok(()),
                false => Err(SealError::NotEncrypted(self.object()).to_string()),
            };
        };
        let seal = STANDARD.decode(seal).map_err(|_| "its seal is not base64")?;
        match keys.open(&self.object(), seal.into(), self.checksum.len()) {
            Ok(sum) if sum == self.checksum.as_bytes() => Ok(()),
            Ok(_) => Err("its seal is that of another text".into()),
            // Who restores it needs that key for its parts too, and is told so then.
            Err(SealError::NoKey { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Reads that of the backup at `path`, if it is complete.
    pub async fn read(objects: &Objects, path: &str) -> Result<Option<Self>, ManifestError> {
        let name = object_of(path);
        let Some(bytes) = objects.get(&name).await? else { return Ok(None) };
        let read = Self::decode(path, &bytes, objects.keys());
        read.map(Some).map_err(|what| ManifestError::Damaged { name, what })
    }
}

/// Name of the manifest of the backup at `path`.
pub fn object_of(path: &str) -> String {
    format!("backups/{path}/{MANIFEST}")
}

/// A manifest could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SealManifestError {
    /// It could not be written as text.
    #[error("the manifest: {0}")]
    Text(#[from] serde_json::Error),
    /// It could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// A manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The store did not give it.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// It is not what was written.
    #[error("{name}: {what}")]
    Damaged {
        /// The object.
        name: String,
        /// What is wrong.
        what: String,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use client::backup::BackupKind;

    pub(crate) fn manifest(index: u64) -> Manifest {
        let backup = Backup {
            name: "nightly".into(),
            kind: BackupKind::Full,
            path: format!("00000001-{index:020}-nightly"),
            cluster_id: "c".into(),
            epoch: 1,
            index,
            term: 2,
            time: "2026-01-01T00:00:00Z".into(),
            size_bytes: 8192,
            stored_bytes: 100,
            sha256: "00".into(),
            page_checksum: Some("1f".into()),
            sqlite_version: "3".into(),
            member: "m".into(),
            encrypted: false,
        };
        let parts = Parts { part_bytes: 5000, size_bytes: 8192, sums: vec!["a".into(), "b".into()] };
        Manifest::new(backup, 17, true, parts)
    }

    fn keys(letter: &str) -> Keyring {
        Keyring::parse(&format!("{}=\n", letter.repeat(43))).unwrap()
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let path = manifest(7).backup.path;
        for (keys, encrypted) in [(Keyring::default(), false), (keys("A"), true)] {
            let mut made = manifest(7);
            made.backup.encrypted = encrypted;
            let made = made.sealed(&keys).unwrap();
            let bytes = made.encode().unwrap();
            assert_eq!(Manifest::decode(&path, &bytes, &keys), Ok(made));
            for at in 0..bytes.len() {
                assert!(Manifest::decode(&path, &bytes[..at], &keys).is_err(), "cut to {at}");
                let mut changed = bytes.to_vec();
                changed[at] ^= 1;
                assert!(Manifest::decode(&path, &changed, &keys).is_err(), "byte {at}");
            }
            assert!(Manifest::decode("elsewhere", &bytes, &keys).is_err());
        }
    }

    #[test]
    fn only_who_has_a_key_makes_a_manifest() {
        let (ours, theirs, none) = (keys("A"), keys("E"), Keyring::default());
        let made = |by: &Keyring, index| {
            let mut made = manifest(index);
            made.backup.encrypted = true;
            made.sealed(by).unwrap()
        };
        let read = |manifest: &Manifest, keys: &Keyring| {
            let path = &manifest.backup.path;
            Manifest::decode(path, &manifest.encode().unwrap(), keys).map(drop)
        };
        assert_eq!(read(&made(&ours, 7), &ours), Ok(()));
        assert_eq!(read(&made(&ours, 7), &none), Ok(()), "it may be listed");
        assert_eq!(read(&made(&theirs, 7), &ours), Ok(()), "what it names is refused: the key is unknown");
        let refused = read(&made(&none, 7), &ours).unwrap_err();
        assert!(refused.contains("it is not encrypted"), "{refused}");
        assert_eq!(read(&made(&none, 7), &keys("A").accepting_unencrypted(true)), Ok(()));
        // Another text with a sum of its own and the seal of the first one.
        let mut forged = made(&none, 7);
        forged.entry_time_us += 1;
        forged.seal = made(&ours, 7).seal;
        forged.checksum = forged.sum().unwrap();
        assert_eq!(read(&forged, &ours), Err("its seal is that of another text".into()));
        let mut moved = made(&none, 8);
        moved.seal = made(&ours, 7).seal;
        assert!(read(&moved, &ours).is_err());
    }

    #[test]
    fn sizes_of_parts() {
        let parts = manifest(1).parts;
        assert_eq!([0, 1, 2].map(|n| parts.size_of(n)), [5000, 3192, 0]);
    }
}
