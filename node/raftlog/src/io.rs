//! The only door to the file system, so that tests can replace it by one that tears writes and forgets syncs.

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::path::Path;

/// A held lock of a directory; dropping it releases the lock.
pub type DirLock = Box<dyn Any + Send + Sync>;

/// The file system as the log uses it.
///
/// Nothing is durable before it is synced: bytes by [`IoFile::sync_data`], names by [`Io::sync_dir`].
pub trait Io: Send + Sync + Debug {
    /// Creates a directory and its missing parents. It is no error if it exists.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock at `path`, creating the file; `None` if somebody else holds it. Never waits.
    ///
    /// # Errors
    /// Whatever the file system reports, except that the lock is taken.
    fn lock(&self, path: &Path) -> io::Result<Option<DirLock>>;

    /// The names of the files in a directory, in any order.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a file that must not exist yet, for reading and writing.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn create(&self, path: &Path) -> io::Result<Box<dyn IoFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn open(&self, path: &Path) -> io::Result<Box<dyn IoFile>>;

    /// Renames a file atomically; open handles stay valid. Not durable before [`Io::sync_dir`].
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name. Not durable before [`Io::sync_dir`].
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes every creation, renaming and removal in `dir` durable.
    ///
    /// # Errors
    /// Whatever the file system reports; the state on disk is unknown then.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// A number that an outsider cannot guess: the random half of a new segment's generation.
    fn nonce(&self) -> u32;
}

/// An open file.
pub trait IoFile: Send + Sync + Debug {
    /// The length of the file in bytes.
    ///
    /// # Errors
    /// Whatever the file system reports.
    fn byte_len(&self) -> io::Result<u64>;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; else whatever the file system reports.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, extending the file if needed.
    ///
    /// # Errors
    /// Whatever the file system reports; any part of `buf` may have been written then.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Reserves `len` bytes of zeros from `offset`, the end of the file, and lengthens the file by them: a hint, which a file
    /// system may be unable to take. Not durable before a sync.
    ///
    /// Without it, a file that is written piece by piece is given room ahead of its end by XFS: as much again as it has.
    ///
    /// # Errors
    /// Whatever the file system reports, such as that there is no room; not that it cannot reserve.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the bytes written so far durable, and of the metadata what is needed to read them back.
    ///
    /// # Errors
    /// Whatever the file system reports; the state on disk is unknown then, and trying again proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Like [`IoFile::sync_data`], with all metadata: for files that have grown.
    ///
    /// # Errors
    /// As [`IoFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
}
