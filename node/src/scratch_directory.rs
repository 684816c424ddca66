//! A directory for work that is done once, or not at all.

use std::io;
use std::path::{Path, PathBuf};

/// An empty directory that is gone when it is dropped.
pub struct ScratchDirectory {
    /// Where it is.
    pub path: PathBuf,
}

impl ScratchDirectory {
    /// Makes it at `path`. What somebody who was cut short left there goes first.
    pub fn make(path: &Path) -> io::Result<Self> {
        Self::clear(path)?;
        std::fs::create_dir_all(path)?;
        Ok(Self { path: path.canonicalize()? })
    }

    /// Removes what somebody who was cut short left at `path`.
    pub fn clear(path: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a scratch directory");
        }
    }
}
