//! Entries that this member passed over ([`super::fatal_entry`]), on disk before its database says that it applied them.

use crate::identity::replace_file;
use parking_lot::RwLock;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "skipped.json";

/// Indexes of entries that are nothing.
#[derive(Debug)]
pub struct Skipped {
    directory: PathBuf,
    indexes: RwLock<Vec<u64>>,
}

impl Skipped {
    /// As noted in `directory`.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let indexes = match fs::read(directory.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| io::Error::other(format!("{FILE} is not of this version: {error}")))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { directory: directory.to_owned(), indexes: RwLock::new(indexes) })
    }

    /// Whether entry `index` was passed over.
    pub fn contains(&self, index: u64) -> bool {
        self.indexes.read().contains(&index)
    }

    /// Notes that entry `index` is passed over; returns after that is on disk. Blocks.
    pub fn add(&self, index: u64) -> io::Result<()> {
        if self.contains(index) {
            return Ok(());
        }
        let mut indexes = self.indexes.read().clone();
        indexes.push(index);
        replace_file(&self.directory, FILE, &serde_json::to_vec(&indexes)?)?;
        *self.indexes.write() = indexes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_passed_over_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let skipped = Skipped::open(dir.path()).unwrap();
        assert!(!skipped.contains(7));
        for index in [7, 9, 7] {
            skipped.add(index).unwrap();
        }
        let again = Skipped::open(dir.path()).unwrap();
        assert!(again.contains(7) && again.contains(9) && !again.contains(8));
        fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(Skipped::open(dir.path()).is_err());
    }
}
