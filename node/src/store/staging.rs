//! Databases that are not this member's yet: uploads of clients, and checked files that an entry of the log is about to
//! name. A checked file is called by its SHA-256, so that whoever has it knows that it is the one meant.
//!
//! When it becomes the database it is not copied: it gets a second name. Members that lack it may still be sent it then, so
//! nothing may change what is in it, and nothing does: what is written to the database goes into its WAL, up to the next
//! checkpoint. Before that, what still has both names is copied ([`Staging::unshare`]), while writes go on; mostly the
//! first name is gone by then, because nobody needs it any more.
//!
//! SQLite's locks on a file are the process's, and gone as soon as the process closes any descriptor of it. So one of a file
//! that is the database as well is not closed before another database is present ([`Staging::release`]).
//!
//! Source: fcntl(2), "Advisory record locking"; <https://www.sqlite.org/src/file?name=src/os_unix.c>, "Posix Advisory
//! Locking".

use super::write_behind::{WriteBehind, copy_synced};
use crate::failpoint::{Place, pass};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
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
    /// Held while it is decided whether a checked file becomes a file of its own.
    opened: Arc<Mutex<Opened>>,
}

/// Which file it is, whatever it is called.
type Inode = (u64, u64);

fn inode(file: &Metadata) -> Inode {
    (file.dev(), file.ino())
}

/// Checked files that are or were open.
#[derive(Debug, Default)]
struct Opened {
    /// How many are being read.
    readers: usize,
    /// Those that became a database too.
    shared: BTreeSet<Inode>,
    /// Descriptors of these that nobody needs.
    parked: Vec<File>,
}

/// A checked file that is being read: what is in it does not change meanwhile, unless that takes very long.
#[derive(Debug)]
pub struct StagedFile {
    /// None when it is dropped.
    file: Option<File>,
    opened: Arc<Mutex<Opened>>,
}

impl StagedFile {
    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Its size in bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file()?.metadata()?.len())
    }
}

impl Read for StagedFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file()?.read(into)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let mut opened = self.opened.lock();
        opened.readers -= 1;
        let Some(file) = self.file.take() else { return };
        let may_close = file.metadata().is_ok_and(|of| !opened.shared.contains(&inode(&of)));
        if !may_close {
            opened.parked.push(file);
        }
    }
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
        Ok(Self { directory, next: Arc::default(), opened: Arc::default() })
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
        let file = WriteBehind::new(File::create(scratch.path())?);
        Ok(Receiving { staging: self.clone(), scratch, file, sum: None, size: 0 })
    }

    /// The same, of a file that is to be kept under its name ([`Receiving::finish`]).
    pub fn receive_checked(&self, size: u64) -> io::Result<Receiving> {
        Ok(Receiving { sum: Some(Sha256::new()), ..self.receive(size)? })
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

    /// Opens the checked file `sum`, if it is here.
    pub fn open_checked(&self, sum: Sha256Sum) -> io::Result<StagedFile> {
        let mut opened = self.opened.lock();
        let of = inode(&fs::metadata(self.path(sum))?);
        let is_it = |file: &File| file.metadata().is_ok_and(|parked| inode(&parked) == of);
        // Who reads it again and again is not to leave a descriptor each time.
        let parked = opened.parked.iter().position(is_it);
        let file = match parked {
            Some(at) => {
                opened.parked[at].rewind()?;
                opened.parked.swap_remove(at)
            }
            None => File::open(self.path(sum))?,
        };
        opened.readers += 1;
        Ok(StagedFile { file: Some(file), opened: self.opened.clone() })
    }

    /// Makes the checked file `sum` the file at `path` as well, which is not there: the same file, where it is in WAL mode and
    /// the file system knows second names; else a synced copy. See the module for what may be done with it.
    pub fn share(&self, sum: Sha256Sum, path: &Path) -> io::Result<()> {
        let staged = self.open_checked(sum)?;
        let of = staged.file()?.metadata()?;
        let mut head = [0; 20];
        staged.file()?.read_exact_at(&mut head, 0)?;
        let is_wal = head[18..] == [2, 2];
        if is_wal {
            // First: whoever closes it from now on is to know.
            self.opened.lock().shared.insert(inode(&of));
            if fs::hard_link(self.path(sum), path).is_ok() {
                return Ok(());
            }
        }
        self.check_room(of.len())?;
        copy_synced(staged.file()?, path)
    }

    /// The checked file that the file at `path` is too.
    fn shared_with(&self, path: &Path) -> io::Result<Option<Sha256Sum>> {
        let of = fs::metadata(path)?;
        if of.nlink() == 1 {
            return Ok(None);
        }
        for (sum, _) in self.staged()? {
            match fs::metadata(self.path(sum)) {
                Ok(staged) if inode(&staged) == inode(&of) => return Ok(Some(sum)),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether the file at `path` is a checked one as well.
    pub fn is_shared(&self, path: &Path) -> io::Result<bool> {
        Ok(self.shared_with(path)?.is_some())
    }

    /// Makes the checked file that the file at `path` is too a file of its own; removes it where there is no room for that.
    /// False if somebody reads it and is to be waited for: it is not done then. Blocks for as long as copying takes.
    pub fn unshare(&self, path: &Path, waits: bool) -> io::Result<bool> {
        let Some(sum) = self.shared_with(path)? else { return Ok(true) };
        if waits && self.opened.lock().readers > 0 {
            return Ok(false);
        }
        let copy = self.scratch();
        let copied = self.copy_checked(sum, copy.path());
        let opened = self.opened.lock();
        if waits && opened.readers > 0 {
            return Ok(false);
        }
        match copied {
            // It may have been removed meanwhile, or be another file by now.
            _ if self.shared_with(path)? != Some(sum) => Ok(true),
            Ok(()) => fs::rename(copy.path(), self.path(sum)).map(|()| true),
            Err(error) => {
                tracing::warn!(%error, %sum, "a staged database is removed: members that lack it take a whole state");
                fs::remove_file(self.path(sum)).map(|()| true)
            }
        }
    }

    fn copy_checked(&self, sum: Sha256Sum, to: &Path) -> io::Result<()> {
        let staged = self.open_checked(sum)?;
        self.check_room(staged.size()?)?;
        copy_synced(staged.file()?, to)?;
        pass(Place::UnshareCopied)
    }

    /// The database at `present` has been opened, and the one before is gone.
    pub fn release(&self, present: &Path) -> io::Result<()> {
        let present = inode(&fs::metadata(present)?);
        let mut opened = self.opened.lock();
        opened.shared.retain(|shared| *shared == present);
        opened.parked.retain(|file| !file.metadata().is_ok_and(|of| inode(&of) != present));
        Ok(())
    }

    /// The database at `present` is about to be opened, by a process that has just started.
    pub fn resume(&self, present: &Path) -> io::Result<()> {
        if self.is_shared(present)? {
            self.opened.lock().shared.insert(inode(&fs::metadata(present)?));
        }
        Ok(())
    }

    /// Removes a checked file.
    pub fn remove(&self, sum: Sha256Sum) -> io::Result<()> {
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
    file: WriteBehind,
    /// Of a file that is to be kept.
    sum: Option<Sha256>,
    size: u64,
}

impl Receiving {
    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Looked at now and then: nobody knows how much is to come.
        if self.size >> 26 != (self.size + bytes.len() as u64) >> 26 {
            self.staging.check_room(bytes.len() as u64)?;
        }
        self.size += bytes.len() as u64;
        match &mut self.sum {
            Some(sum) => {
                sum.update(bytes);
                self.file.write_all(bytes)
            }
            // What is thrown away again need not get to the disk.
            None => (&**self.file.file()).write_all(bytes),
        }
    }

    /// How much was received.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, unchecked and not synced.
    pub fn into_scratch(self) -> Scratch {
        self.scratch
    }

    /// Keeps the file under its name, synced, if it is the one meant.
    pub fn finish(self, expected: Sha256Sum) -> io::Result<()> {
        let sum = self.sum.map(|sum| Sha256Sum(sum.finalize().into()));
        if sum != Some(expected) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a staged file came with another SHA-256",
            ));
        }
        self.file.finish()?;
        self.staging.name(&self.scratch, expected)
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
        let mut receiving = staging.receive_checked(3).unwrap();
        receiving.write(b"ab").unwrap();
        receiving.write(b"c").unwrap();
        receiving.finish(sum).unwrap();
        assert!(staging.has(sum));

        let mut other = staging.receive_checked(1).unwrap();
        other.write(b"x").unwrap();
        assert!(other.finish(sum).is_err());

        let scratch = staging.scratch();
        fs::write(scratch.path(), b"abc").unwrap();
        assert_eq!(staging.adopt(&scratch).unwrap(), (sum, 3));
        assert!(staging.receive(u64::MAX).is_err());

        fs::write(dir.path().join("staging/left by a crash"), b"x").unwrap();
        let again = Staging::open(dir.path()).unwrap();
        assert_eq!(again.staged().unwrap().len(), 1);
        let mut read = String::new();
        again.open_checked(sum).unwrap().read_to_string(&mut read).unwrap();
        assert_eq!(read, "abc");
        assert!(again.has(sum));
        again.remove(sum).unwrap();
        assert!(again.open_checked(sum).is_err());
        assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }

    /// A checked file that begins as a database whose header says `mode`.
    fn checked(dir: &Path, mode: u8) -> (Staging, Sha256Sum, Vec<u8>) {
        let staging = Staging::open(dir).unwrap();
        let mut bytes = vec![7; 3 << 20];
        bytes[18..20].fill(mode);
        let scratch = staging.scratch();
        fs::write(scratch.path(), &bytes).unwrap();
        let sum = staging.adopt(&scratch).unwrap().0;
        (staging, sum, bytes)
    }

    /// One that became a database, and the path of that.
    fn shared(dir: &Path) -> (Staging, Sha256Sum, Vec<u8>, PathBuf) {
        let (staging, sum, bytes) = checked(dir, 2);
        let path = dir.join("db-3.sqlite");
        staging.share(sum, &path).unwrap();
        (staging, sum, bytes, path)
    }

    #[test]
    fn a_file_that_became_the_database_is_one_of_its_own_before_that_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (staging, sum, bytes, path) = shared(dir.path());
        assert!(staging.is_shared(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), fs::metadata(staging.path(sum)).unwrap().ino());
        // Whoever reads it goes on reading the same.
        let reader = staging.open_checked(sum).unwrap();
        assert!(!staging.unshare(&path, true).unwrap() && staging.is_shared(&path).unwrap());
        drop(reader);
        assert!(staging.unshare(&path, true).unwrap() && !staging.is_shared(&path).unwrap());
        File::options().write(true).open(&path).unwrap().write_all_at(b"changed", 0).unwrap();
        assert!(fs::read(staging.path(sum)).unwrap() == bytes);
        assert!(staging.unshare(&path, true).unwrap(), "there is nothing to do");
        assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_nobody_needs_any_more_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (staging, sum, bytes, path) = shared(dir.path());
        staging.remove(sum).unwrap();
        assert!(!staging.is_shared(&path).unwrap() && staging.unshare(&path, true).unwrap());
        assert!(fs::read(&path).unwrap() == bytes && !staging.has(sum));
    }

    #[test]
    fn a_reader_that_takes_too_long_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (staging, sum, _, path) = shared(dir.path());
        let _reader = staging.open_checked(sum).unwrap();
        assert!(staging.unshare(&path, false).unwrap() && !staging.is_shared(&path).unwrap());
        assert!(staging.has(sum));
    }

    #[test]
    fn descriptors_of_a_file_that_is_the_database_are_kept_until_another_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let (staging, sum, bytes) = checked(dir.path(), 2);
        let kept = |staging: &Staging| staging.opened.lock().parked.len();
        drop(staging.open_checked(sum).unwrap());
        assert_eq!(kept(&staging), 0, "it is no database yet");
        // Opened before it became one.
        let reader = staging.open_checked(sum).unwrap();
        let (path, next) = (dir.path().join("db-3.sqlite"), dir.path().join("db-5.sqlite"));
        staging.share(sum, &path).unwrap();
        let before = kept(&staging);
        drop(reader);
        assert_eq!(kept(&staging), before + 1);
        for _ in 0..3 {
            let mut read = Vec::new();
            staging.open_checked(sum).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(
                (read == bytes, kept(&staging)),
                (true, before + 1),
                "one that was kept is used again"
            );
        }
        staging.unshare(&path, true).unwrap();
        let of_database = kept(&staging);
        drop(staging.open_checked(sum).unwrap());
        assert_eq!(kept(&staging), of_database, "the staged file is another one by now");
        staging.release(&path).unwrap();
        assert_eq!(kept(&staging), of_database, "it is present still");
        fs::write(&next, b"").unwrap();
        staging.release(&next).unwrap();
        assert_eq!(kept(&staging), 0);

        // The same after a start.
        let (staging, sum, _) = checked(dir.path(), 2);
        staging.share(sum, &dir.path().join("db-7.sqlite")).unwrap();
        let again = Staging::open(dir.path()).unwrap();
        again.resume(&dir.path().join("db-7.sqlite")).unwrap();
        drop(again.open_checked(sum).unwrap());
        assert_eq!(kept(&again), 1);
    }

    #[test]
    fn a_file_that_opening_would_change_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (staging, sum, bytes) = checked(dir.path(), 1);
        let path = dir.path().join("db-3.sqlite");
        staging.share(sum, &path).unwrap();
        assert!(!staging.is_shared(&path).unwrap() && fs::read(&path).unwrap() == bytes);
    }
}
