//! Databases that are not this member's yet: uploads of clients, and checked files that an entry of the log is about to
//! name. A checked file is called by its SHA-256, so that whoever has it knows that it is the one meant.

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const DIRECTORY: &str = "staging";
const STAGED: &str = ".sqlite";
/// Space that stays free on the disk.
const RESERVE: u64 = 64 << 20;

/// The SHA-256 of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Sum(pub [u8; 32]);

impl std::fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Sha256Sum {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "not a SHA-256");
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut sum = [0; 32];
        for (i, byte) in sum.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(sum))
    }
}

/// A file that is gone when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            match fs::remove_file(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %self.path.display(), "cannot remove a scratch file");
                }
                _ => {}
            }
        }
    }
}

/// The directory of such files.
#[derive(Clone, Debug)]
pub struct Staging {
    directory: PathBuf,
    next: Arc<AtomicU64>,
    /// Copies of checked files that are to become databases.
    copies: Arc<Mutex<BTreeMap<Sha256Sum, Scratch>>>,
}

impl Staging {
    /// In a data directory; removes what an earlier process left unfinished.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let directory = data_dir.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if staged_name(&path).is_none() {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self { directory, next: Arc::default(), copies: Arc::default() })
    }

    /// A name for a file of one use.
    pub fn scratch(&self) -> Scratch {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        Scratch { path: self.directory.join(format!("scratch-{n}")) }
    }

    /// A file without a name: gone when it is closed.
    pub fn unnamed(&self) -> io::Result<File> {
        let scratch = self.scratch();
        File::options().create_new(true).read(true).write(true).open(scratch.path())
    }

    /// Where the checked file `sum` is, or would be.
    pub fn path(&self, sum: Sha256Sum) -> PathBuf {
        self.directory.join(format!("{sum}{STAGED}"))
    }

    /// Whether the checked file `sum` is here.
    pub fn has(&self, sum: Sha256Sum) -> bool {
        self.path(sum).is_file()
    }

    /// Begins to receive a file; refuses one that the disk has no room for.
    pub fn receive(&self, size: u64) -> io::Result<Receiving> {
        self.check_room(size)?;
        let scratch = self.scratch();
        let file = File::create(scratch.path())?;
        Ok(Receiving { staging: self.clone(), scratch, file, sum: Sha256::new(), size: 0 })
    }

    /// Fails unless the disk has room for `size` bytes, and some more.
    pub fn check_room(&self, size: u64) -> io::Result<()> {
        let free = crate::space::usage(&self.directory)?.available_bytes;
        if free < size.saturating_add(RESERVE) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("{size} bytes do not fit on the disk: {free} are free"),
            ));
        }
        Ok(())
    }

    /// Syncs a complete scratch file and gives it its name; returns that and its size.
    pub fn adopt(&self, scratch: &Scratch) -> io::Result<(Sha256Sum, u64)> {
        let (sum, size) = self.sync(scratch)?;
        self.name(scratch, sum)?;
        Ok((sum, size))
    }

    /// Syncs a complete scratch file; returns what its name is to be, and its size.
    pub fn sync(&self, scratch: &Scratch) -> io::Result<(Sha256Sum, u64)> {
        let mut file = File::open(scratch.path())?;
        let (sum, size) = sum_of(&mut file)?;
        file.sync_all()?;
        Ok((sum, size))
    }

    /// Gives a complete, synced scratch file its name.
    pub fn name(&self, scratch: &Scratch, sum: Sha256Sum) -> io::Result<()> {
        fs::rename(scratch.path(), self.path(sum))?;
        File::open(&self.directory)?.sync_all()
    }

    /// Checked files and how long they have been here.
    pub fn staged(&self) -> io::Result<Vec<(Sha256Sum, Duration)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if let Some(sum) = staged_name(&entry.path()) {
                let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
                all.push((sum, age));
            }
        }
        Ok(all)
    }

    /// Makes a synced copy of a checked file, for whoever makes a database of it: that takes as long as the file is large,
    /// and nothing is written meanwhile if it is done only then. The file itself stays for members that lack it.
    pub fn copy_ahead(&self, sum: Sha256Sum) -> io::Result<()> {
        if self.copies.lock().contains_key(&sum) {
            return Ok(());
        }
        self.check_room(fs::metadata(self.path(sum))?.len())?;
        let copy = self.scratch();
        fs::copy(self.path(sum), copy.path())?;
        File::open(copy.path())?.sync_all()?;
        self.copies.lock().insert(sum, copy);
        Ok(())
    }

    /// Moves a copy of the checked file `sum` to `path`, one that was made ahead if there is one.
    pub fn move_copy(&self, sum: Sha256Sum, path: &Path) -> io::Result<()> {
        let copy = self.copies.lock().remove(&sum);
        match copy {
            Some(copy) => fs::rename(copy.path(), path),
            None => fs::copy(self.path(sum), path).map(drop),
        }
    }

    /// Nobody needs a copy of the checked file `sum` any more.
    pub fn drop_copy(&self, sum: Sha256Sum) {
        let copy = self.copies.lock().remove(&sum);
        drop(copy);
    }

    /// Removes a checked file.
    pub fn remove(&self, sum: Sha256Sum) -> io::Result<()> {
        self.drop_copy(sum);
        match fs::remove_file(self.path(sum)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn staged_name(path: &Path) -> Option<Sha256Sum> {
    path.file_name()?.to_str()?.strip_suffix(STAGED)?.parse().ok()
}

/// The SHA-256 and the size of a whole file.
pub(super) fn sum_of(file: &mut File) -> io::Result<(Sha256Sum, u64)> {
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 20];
    file.seek(SeekFrom::Start(0))?;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((Sha256Sum(hash.finalize().into()), size));
        }
        hash.update(&buffer[..n]);
        size += n as u64;
    }
}

/// A file that is being received.
pub struct Receiving {
    staging: Staging,
    scratch: Scratch,
    file: File,
    sum: Sha256,
    size: u64,
}

impl Receiving {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Looked at now and then: nobody knows how much is to come.
        if self.size >> 26 != (self.size + bytes.len() as u64) >> 26 {
            self.staging.check_room(bytes.len() as u64)?;
        }
        self.sum.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// How much was received.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, unchecked.
    pub fn into_scratch(self) -> Scratch {
        self.scratch
    }

    /// Keeps the file under its name, synced, if it is the one meant.
    pub fn finish(self, expected: Sha256Sum) -> io::Result<()> {
        let sum = Sha256Sum(self.sum.finalize().into());
        if sum != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a staged file came with another SHA-256",
            ));
        }
        self.file.sync_all()?;
        self.staging.name(&self.scratch, sum)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_called_by_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path()).unwrap();
        // Of "abc", FIPS 180-2.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let sum: Sha256Sum = abc.parse().unwrap();
        assert_eq!(sum.to_string(), abc);
        let mut receiving = staging.receive(3).unwrap();
        receiving.write(b"ab").unwrap();
        receiving.write(b"c").unwrap();
        receiving.finish(sum).unwrap();
        assert!(staging.has(sum));

        let mut other = staging.receive(1).unwrap();
        other.write(b"x").unwrap();
        assert!(other.finish(sum).is_err());

        let scratch = staging.scratch();
        fs::write(scratch.path(), b"abc").unwrap();
        assert_eq!(staging.adopt(&scratch).unwrap(), (sum, 3));
        assert!(staging.receive(u64::MAX).is_err());

        fs::write(dir.path().join("staging/left by a crash"), b"x").unwrap();
        let again = Staging::open(dir.path()).unwrap();
        assert_eq!(again.staged().unwrap().len(), 1);
        again.copy_ahead(sum).unwrap();
        let made = dir.path().join("made ahead");
        again.move_copy(sum, &made).unwrap();
        assert_eq!(fs::read(&made).unwrap(), b"abc");
        again.move_copy(sum, &dir.path().join("made then")).unwrap();
        again.copy_ahead(sum).unwrap();
        assert!(again.has(sum));
        again.remove(sum).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }
}
