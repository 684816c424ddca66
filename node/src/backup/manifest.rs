//! What is said of a backup, and by what it is known to be complete: the manifest is written last.

use super::objects::{ObjectError, Objects};
use super::seal::sha256_hex;
use bytes::Bytes;
use client::backup::Backup;
use serde::{Deserialize, Serialize};

/// The version that this program writes and reads.
const FORMAT: u32 = 1;
/// Name of the object.
pub const MANIFEST: &str = "manifest.json";

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
    /// SHA-256 of this text without it.
    checksum: String,
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
        Self { format: FORMAT, backup, entry_time_us, foreign_keys, parts, checksum: String::new() }
    }

    /// The moment that it is of, in microseconds since 1970: that of its last entry, or of its making if no entry in it
    /// has a clock.
    pub fn moment_us(&self) -> i64 {
        let made = || self.backup.time.parse::<jiff::Timestamp>().map_or(0, |made| made.as_microsecond());
        if self.entry_time_us == 0 { made() } else { self.entry_time_us }
    }

    /// Its text.
    pub fn encode(&self) -> serde_json::Result<Bytes> {
        let unsigned = Self { checksum: String::new(), ..self.clone() };
        let checksum = sha256_hex(&serde_json::to_vec(&unsigned)?);
        Ok(serde_json::to_vec_pretty(&Self { checksum, ..unsigned })?.into())
    }

    /// Reads its text; an error says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if read.format != FORMAT {
            return Err(format!("it has format {}; this version reads format {FORMAT}", read.format));
        }
        let signed = read.encode().map_err(|error| error.to_string())?;
        // The same text: nothing in it was changed, added or lost.
        if signed != bytes {
            return Err("its text is not the one that was written".into());
        }
        Ok(read)
    }

    /// Reads that of the backup at `path`, if it is complete.
    pub async fn read(objects: &Objects, path: &str) -> Result<Option<Self>, ManifestError> {
        let name = format!("backups/{path}/{MANIFEST}");
        let Some(bytes) = objects.get(&name).await? else { return Ok(None) };
        let read =
            Self::decode(&bytes).map_err(|what| ManifestError::Damaged { name: name.clone(), what })?;
        if read.backup.path != path {
            return Err(ManifestError::Damaged { name, what: "it is of another backup".into() });
        }
        Ok(Some(read))
    }
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

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = manifest(7).encode().unwrap();
        let read = Manifest::decode(&bytes).unwrap();
        assert_eq!((read.backup, read.parts), (manifest(7).backup, manifest(7).parts));
        for at in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..at]).is_err(), "cut to {at}");
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert!(Manifest::decode(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn sizes_of_parts() {
        let parts = manifest(1).parts;
        assert_eq!([0, 1, 2].map(|n| parts.size_of(n)), [5000, 3192, 0]);
    }
}
