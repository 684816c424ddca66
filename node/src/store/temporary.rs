//! The directory of what nobody needs once the process has ended: SQLite's temporary files, and what a child works in.
//!
//! SQLite would take `/var/tmp` or `/tmp`. What sorts, makes an index, rewrites the database or keeps the way back of a
//! large statement spills there, and is to be on the disk whose free space is looked at: a member that meets a full disk
//! waits for room among its data, and would wait for good if it were another one that is full.
//!
//! Source: <https://www.sqlite.org/tempfiles.html>, "Temporary File Storage Locations".

use crate::scratch_directory::ScratchDirectory;
use rusqlite::Connection;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that names another directory for SQLite's files.
pub const ELSEWHERE: &str = "SQLITE_TMPDIR";
const DIRECTORY: &str = "temporary";

/// Where it is in a data directory.
pub fn temporary_path(data_dir: &Path) -> PathBuf {
    data_dir.join(DIRECTORY)
}

/// The directory of a process that has a database open.
#[derive(Clone, Debug)]
pub struct Temporary {
    directory: PathBuf,
    next: Arc<AtomicU64>,
}

impl Temporary {
    /// In a data directory, emptied. SQLite's files go there from now on, whatever database of this process they belong to,
    /// unless `SQLITE_TMPDIR` names another directory.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let directory = temporary_path(data_dir);
        fs::create_dir_all(&directory)?;
        // It may be a disk of its own: what is in it goes, and it stays.
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        let directory = directory.canonicalize()?;
        if std::env::var_os(ELSEWHERE).is_none() {
            let name = directory.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
            let connection = Connection::open_in_memory().map_err(io::Error::other)?;
            connection.pragma_update(None, "temp_store_directory", name).map_err(io::Error::other)?;
        }
        Ok(Self { directory, next: Arc::default() })
    }

    /// An empty directory for a child.
    pub fn room(&self) -> io::Result<ScratchDirectory> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        ScratchDirectory::make(&self.directory.join(format!("child-{n}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_left_is_gone_and_rooms_are_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = temporary_path(dir.path());
        fs::create_dir_all(path.join("child-0/deep")).unwrap();
        fs::write(path.join("etilqs_left"), b"x").unwrap();
        let temporary = Temporary::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        let (one, other) = (temporary.room().unwrap(), temporary.room().unwrap());
        assert_ne!(one.path, other.path);
        fs::write(one.path.join("database"), b"x").unwrap();
        drop((one, other));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }
}
