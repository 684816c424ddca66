//! The real file system.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::io::{DirLock, Io, IoFile};

/// [`Io`] on the operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsIo;

impl Io for OsIo {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DirLock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // The log's own names are plain ASCII; any other name is not ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn IoFile>> {
        Ok(Box::new(OsFile(OpenOptions::new().read(true).write(true).create_new(true).open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn IoFile>> {
        Ok(Box::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn nonce(&self) -> u32 {
        // The standard library seeds every `RandomState` from the operating system.
        let hash = RandomState::new().hash_one(std::process::id());
        (hash >> 32) as u32
    }
}

#[derive(Debug)]
struct OsFile(File);

impl IoFile for OsFile {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::{Errno, retry_on_intr};
        match retry_on_intr(|| fallocate(&self.0, FallocateFlags::empty(), offset, len)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lock_excludes_and_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = OsIo.lock(&path).unwrap();
        assert!(held.is_some());
        assert!(OsIo.lock(&path).unwrap().is_none());
        drop(held);
        assert!(OsIo.lock(&path).unwrap().is_some());
    }

    #[test]
    fn files_are_created_once_and_keep_their_handle_over_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let file = OsIo.create(&a).unwrap();
        assert!(OsIo.create(&a).is_err());
        OsIo.rename(&a, &b).unwrap();
        OsIo.sync_dir(dir.path()).unwrap();
        file.reserve(0, 5).unwrap();
        file.write_all_at(b"xyz", 5).unwrap();
        file.sync_all().unwrap();
        let mut buf = [0; 3];
        OsIo.open(&b).unwrap().read_exact_at(&mut buf, 5).unwrap();
        assert_eq!((&buf, file.byte_len().unwrap()), (b"xyz", 8));
        assert_eq!(OsIo.list(dir.path()).unwrap(), ["b"]);
        assert_ne!(OsIo.nonce(), OsIo.nonce());
    }
}
