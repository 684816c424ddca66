//! Which database file is the present one.
//!
//! A database is a *generation* `db-<n>.sqlite` with its own WAL; `db.sqlite` is a symbolic link to the present one.
//! A new generation (a snapshot, a restore) is written beside it and becomes the present one by one rename of a link:
//! renaming a database over another would leave the old one's WAL to be replayed into the new one.

use super::restored::holds_entries;
use crate::failpoint::{Place, pass};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub const LINK: &str = "db.sqlite";
const NEW_LINK: &str = "db.sqlite.new";

/// The generations in a data directory.
#[derive(Clone, Debug)]
pub struct Generations {
    directory: PathBuf,
}

impl Generations {
    /// Those of `directory`, which must exist.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The file of generation `n`.
    pub fn path(&self, n: u64) -> PathBuf {
        self.directory.join(format!("db-{n}.sqlite"))
    }

    /// The present generation, or none in a new directory.
    pub fn present(&self) -> io::Result<Option<u64>> {
        match fs::read_link(self.directory.join(LINK)) {
            Ok(target) => match target.to_str().and_then(number_of) {
                Some(n) => Ok(Some(n)),
                None => Err(io::Error::other(format!(
                    "{LINK} is a link to {}, not to a generation",
                    target.display()
                ))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A file of a generation in which entries were applied. One that is being made has none, and need not be readable.
    pub fn with_data(&self) -> io::Result<Option<PathBuf>> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let is_database = path.extension().is_some_and(|extension| extension == "sqlite")
                && path.file_name().and_then(|name| number_of(name.to_str()?)).is_some();
            if is_database && holds_entries(&path) == Ok(true) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Makes generation `n`, whose file is complete and synced, the present one.
    pub fn activate(&self, n: u64) -> io::Result<()> {
        let new = self.directory.join(NEW_LINK);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(format!("db-{n}.sqlite"), &new)?;
        self.sync()?;
        pass(Place::ActivateLinked)?;
        fs::rename(&new, self.directory.join(LINK))?;
        pass(Place::ActivateRenamed)?;
        self.sync()?;
        pass(Place::ActivateSynced)
    }

    /// Syncs the directory.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// Removes the files of generation `n`.
    pub fn remove(&self, n: u64) -> io::Result<()> {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = self.path(n).into_os_string();
            name.push(suffix);
            match fs::remove_file(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.sync()
    }

    /// Removes every file of generations other than `present`.
    pub fn remove_others(&self, present: Option<u64>) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(n) = name.to_str().and_then(number_of) else { continue };
            if Some(n) != present {
                fs::remove_file(entry.path())?;
            }
        }
        self.sync()
    }
}

/// The generation that a file belongs to: `db-<n>.sqlite`, with or without `-wal`, `-shm` or another suffix.
fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("db-")?.split_once(".sqlite")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_activated_generation_counts() {
        let dir = tempfile::tempdir().unwrap();
        let g = Generations::new(dir.path());
        assert_eq!(g.present().unwrap(), None);
        for n in [1, 2] {
            fs::write(g.path(n), [n as u8]).unwrap();
            fs::write(dir.path().join(format!("db-{n}.sqlite-wal")), []).unwrap();
        }
        g.activate(1).unwrap();
        fs::write(dir.path().join(NEW_LINK), b"left by a crash").unwrap();
        g.activate(2).unwrap();
        assert_eq!(g.present().unwrap(), Some(2));
        fs::write(g.path(3), []).unwrap();
        g.remove(3).unwrap();
        assert!(!g.path(3).exists() && g.path(1).exists());
        g.remove_others(Some(2)).unwrap();
        assert_eq!(fs::read(dir.path().join(LINK)).unwrap(), [2]);
        assert!(!g.path(1).exists() && !dir.path().join("db-1.sqlite-wal").exists());
        assert!(dir.path().join("db-2.sqlite-wal").exists());
    }
}
