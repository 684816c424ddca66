//! Room on the disk that the data are on.
//!
//! Below a reserve the leader takes no more writes (507) and hands over to a voter that has room: what is committed
//! already can still be applied, checkpointed and logged everywhere, and nobody meets a full disk in the middle of it.
//! What a checkpoint will make the database file grow by is spoken for, and counts as taken.

use crate::store::{ELSEWHERE, temporary_path};
use client::admin::VolumeUsage;
use parking_lot::Mutex;
use rustix::fs::{Access, access, statvfs};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How old what is known may be where a write is let in: what one client after the other writes meanwhile fits into the
/// reserve, on the fastest disks too. A look takes about a microsecond.
const FRESH: Duration = Duration::from_millis(5);
/// The reserve is at most this part of the disk.
const LARGEST_PART: u64 = 8;

/// Says how many of the free bytes are spoken for.
type Owed = Box<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// Free space, as it was last looked at.
pub struct Space {
    directory: PathBuf,
    reserve: u64,
    owed: Owed,
    is_low: AtomicBool,
    last: Mutex<Look>,
}

/// What was seen, and when.
#[derive(Clone, Copy, Debug)]
struct Look {
    usage: VolumeUsage,
    at: Instant,
}

impl Look {
    fn at(directory: &Path) -> io::Result<Self> {
        Ok(Self { usage: usage(directory)?, at: Instant::now() })
    }
}

/// How full the file system of `directory` is, as `df` counts: what is reserved for root can be had by nobody here.
pub fn usage(directory: &Path) -> io::Result<VolumeUsage> {
    let disk = statvfs(directory)?;
    let taken = disk.f_blocks.saturating_sub(disk.f_bfree);
    Ok(VolumeUsage {
        capacity_bytes: taken.saturating_add(disk.f_bavail).saturating_mul(disk.f_frsize),
        available_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
    })
}

impl Space {
    /// Of the disk that `directory` is on, where `reserve` bytes, or an eighth of it if that is less, are to stay free
    /// beside what `owed` says.
    pub fn new(directory: &Path, reserve: u64, owed: Owed) -> io::Result<Self> {
        let disk = statvfs(directory)?;
        let reserve = reserve.min(disk.f_blocks * disk.f_frsize / LARGEST_PART);
        let last = Mutex::new(Look::at(directory)?);
        let is_low = AtomicBool::new(false);
        let space = Self { directory: directory.to_owned(), reserve, owed, is_low, last };
        space.look()?;
        Ok(space)
    }

    /// Looks how much is free and not spoken for, in bytes.
    pub fn look(&self) -> io::Result<u64> {
        let seen = Look::at(&self.directory)?;
        *self.last.lock() = seen;
        let free = seen.usage.available_bytes.saturating_sub((self.owed)()?);
        // Some more than the reserve has to be free again, so that it does not go back and forth.
        let enough = if self.is_low() { self.reserve + self.reserve / 4 } else { self.reserve };
        let is_low = free < enough;
        if self.is_low.swap(is_low, Ordering::Relaxed) != is_low {
            let (megabytes, reserve) = (free >> 20, self.reserve >> 20);
            if is_low {
                tracing::error!(megabytes, reserve, "the disk is nearly full: no more writes");
            } else {
                tracing::info!(megabytes, reserve, "there is room on the disk again");
            }
        }
        Ok(free)
    }

    /// How full the disk was when it was last looked at.
    pub fn usage(&self) -> VolumeUsage {
        self.last.lock().usage
    }

    /// Whether less than the reserve is free at this moment, give or take a few milliseconds.
    pub fn is_low_now(&self) -> bool {
        if self.last.lock().at.elapsed() >= FRESH {
            // Who looks all the time says what is wrong; meanwhile what is known holds.
            drop(self.look());
        }
        self.is_low()
    }

    /// Whether less than the reserve was free when it was last looked at.
    pub fn is_low(&self) -> bool {
        self.is_low.load(Ordering::Relaxed)
    }

    /// How many bytes more have to be free for a VACUUM of a database of `size` bytes: it is written into a temporary file,
    /// and from there into the WAL.
    pub fn lacks_for_vacuum(&self, size: u64) -> io::Result<u64> {
        let (free, temporary) = (self.look()?, temporary_directory(&self.directory));
        let is_same_disk = std::fs::metadata(&temporary)?.dev() == std::fs::metadata(&self.directory)?.dev();
        let elsewhere = if is_same_disk { None } else { Some(usage(&temporary)?.available_bytes) };
        Ok(shortage(size, self.reserve, free, elsewhere))
    }

    /// Whether `bytes` more would leave the reserve free.
    pub fn has_room_for(&self, bytes: u64) -> io::Result<bool> {
        Ok(self.look()? >= bytes.saturating_add(self.reserve))
    }
}

/// What a VACUUM of `size` bytes lacks where `free` bytes are free beside the data, of which `reserve` are to stay so, and
/// `elsewhere` where temporary files go, if that is another disk.
fn shortage(size: u64, reserve: u64, free: u64, elsewhere: Option<u64>) -> u64 {
    let beside = if elsewhere.is_some() { size } else { size.saturating_mul(2) };
    let here = beside.saturating_add(reserve).saturating_sub(free);
    here.saturating_add(elsewhere.map_or(0, |free| size.saturating_sub(free)))
}

/// Where SQLite puts temporary files: the first of these that is a directory it may write to (`unixTempFileDir`).
fn temporary_directory(data_dir: &Path) -> PathBuf {
    let own = std::env::var_os(ELSEWHERE).is_none().then(|| temporary_path(data_dir));
    let named = [ELSEWHERE, "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let usual = ["/var/tmp", "/usr/tmp", "/tmp"].into_iter().map(PathBuf::from);
    let may_write =
        |path: &PathBuf| path.is_dir() && access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    own.into_iter().chain(named).chain(usual).find(may_write).unwrap_or_else(|| PathBuf::from("."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn nothing_owed() -> Owed {
        Box::new(|| Ok(0))
    }

    #[test]
    fn the_reserve_is_never_most_of_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), u64::MAX, nothing_owed()).unwrap();
        let disk = statvfs(dir.path()).unwrap();
        assert_eq!(space.reserve, disk.f_blocks * disk.f_frsize / LARGEST_PART);
        assert!(!space.has_room_for(u64::MAX).unwrap());
        let free = space.look().unwrap();
        let nothing = Space::new(dir.path(), 0, nothing_owed()).unwrap();
        assert!(!nothing.is_low() && nothing.has_room_for(free / 2).unwrap());
    }

    #[test]
    fn a_vacuum_needs_the_database_twice() {
        for (size, reserve, free, elsewhere, lacks) in [
            (100, 10, 210, None, 0),
            (100, 10, 209, None, 1),
            (100, 10, 110, Some(100), 0),
            (100, 10, 109, Some(98), 3),
            (0, 10, 0, None, 10),
            (u64::MAX, 10, 20, Some(0), u64::MAX),
        ] {
            assert_eq!(shortage(size, reserve, free, elsewhere), lacks, "{size} {free} {elsewhere:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path(), 0, nothing_owed()).unwrap();
        assert_eq!(space.lacks_for_vacuum(4096).unwrap(), 0);
        if std::env::var_os(ELSEWHERE).is_none() {
            let temporary = temporary_path(dir.path());
            assert_ne!(temporary_directory(dir.path()), temporary);
            std::fs::create_dir(&temporary).unwrap();
            assert_eq!(temporary_directory(dir.path()), temporary);
        }
        assert!(space.lacks_for_vacuum(u64::MAX / 4).unwrap() > 0);
    }

    #[test]
    fn low_until_more_than_the_reserve_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let free = Space::new(dir.path(), 0, nothing_owed()).unwrap().look().unwrap();
        let with = |reserve, low| {
            let last = Mutex::new(Look::at(dir.path()).unwrap());
            let (is_low, owed) = (AtomicBool::new(low), nothing_owed());
            let space = Space { directory: dir.path().to_owned(), reserve, owed, is_low, last };
            space.look().unwrap();
            space.is_low()
        };
        // What others on this machine write in between is less than a sixteenth.
        assert!(with(free * 2, false));
        assert!(!with(free / 2, false));
        assert!(with(free - free / 16, true), "a quarter more than the reserve has to be free");
        assert!(!with(free / 2, true));
    }

    #[test]
    fn what_is_owed_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Space::new(dir.path(), 1, nothing_owed()).unwrap().is_low_now());
        let space = Space::new(dir.path(), 1, Box::new(|| Ok(u64::MAX))).unwrap();
        assert!(space.is_low_now() && !space.has_room_for(0).unwrap());
        assert!(space.usage().available_bytes > 0);
    }
}
