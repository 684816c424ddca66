//! One file of the stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{LogError, sync_error, write_error};
use crate::io::{Io, IoFile};

/// Zeros are written in pieces of this size: larger writes leave larger folios in the page cache, which make every
/// later small write account a whole folio as dirty.
const ZERO_WRITE: usize = 4096;
/// Zeros are synced in pieces of this size, so that they never queue long before the log's own syncs.
const ZERO_SYNC: u64 = 256 << 10;
static ZEROS: [u8; ZERO_WRITE] = [0; ZERO_WRITE];

/// What a file in the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Segment,
    Spare,
    New,
}

/// How far the making of a segment is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    /// Bytes of zeros on disk.
    pub bytes: u64,
    /// What the sync of the last piece took.
    pub sync: Duration,
}

/// Asked after each piece of zeros whether the work is still wanted; may take its time.
pub(crate) type GoOn<'a> = &'a dyn Fn(Filled) -> bool;

/// The name of a file in its role.
pub(crate) fn file_name(generation: u64, role: Role) -> String {
    let suffix = match role {
        Role::Segment => "segment",
        Role::Spare => "spare",
        Role::New => "new",
    };
    format!("{generation:016x}.{suffix}")
}

/// The meaning of a name; `None` if it is not one of ours.
pub(crate) fn parse_name(name: &str) -> Option<(u64, Role)> {
    let (digits, suffix) = name.split_once('.')?;
    let role = match suffix {
        "segment" => Role::Segment,
        "spare" => Role::Spare,
        "new" => Role::New,
        _ => return None,
    };
    let generation = u64::from_str_radix(digits, 16).ok()?;
    (file_name(generation, role) == name).then_some((generation, role))
}

/// The generation of a new segment: counted up, with a random half that payloads cannot imitate.
pub(crate) fn make_generation(counter: u32, nonce: u32) -> u64 {
    (u64::from(counter) << 32) | u64::from(nonce)
}

/// The counting half of a generation.
pub(crate) fn counter_of(generation: u64) -> u32 {
    (generation >> 32) as u32
}

/// An open file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub generation: u64,
    /// Length of the file in bytes.
    pub len: u64,
    pub path: PathBuf,
    pub file: Box<dyn IoFile>,
}

impl Segment {
    /// Creates a file of zeros and gives it its name; file and directory are synced. `None` if `go_on` stopped it.
    pub(crate) fn create(
        io: &dyn Io,
        dir: &Path,
        generation: u64,
        len: u64,
        go_on: GoOn<'_>,
    ) -> Result<Option<Self>, LogError> {
        let new = dir.join(file_name(generation, Role::New));
        let file = io
            .create(&new)
            .map_err(|source| LogError::Create { path: new.clone(), source: Arc::new(source) })?;
        let mut segment = Self { generation, len: 0, path: new, file };
        let filled = segment.extend(len, go_on);
        if !matches!(filled, Ok(true)) {
            // Give the space back at once; if even that fails, the next open removes the file.
            if let Err(error) = io.unlink(&segment.path) {
                tracing::warn!(path = %segment.path.display(), %error, "cannot remove a half-made segment");
            }
            return filled.map(|_| None);
        }
        segment.rename(io, dir, generation, Role::Segment)?;
        Ok(Some(segment))
    }

    /// Appends zeros up to `len` and syncs; `false` if `go_on` stopped it.
    pub(crate) fn extend(&mut self, len: u64, go_on: GoOn<'_>) -> Result<bool, LogError> {
        let fail = |source| LogError::ZeroFill { path: self.path.clone(), source: Arc::new(source) };
        let mut offset = self.len;
        if offset < len {
            self.file.reserve(offset, len - offset).map_err(fail)?;
        }
        while offset < len {
            let piece = ZERO_WRITE.min((len - offset) as usize);
            self.file.write_all_at(&ZEROS[..piece], offset).map_err(fail)?;
            offset += piece as u64;
            if offset.is_multiple_of(ZERO_SYNC) {
                let begin = Instant::now();
                self.file.sync_data().map_err(|source| sync_error(&self.path, source))?;
                if !go_on(Filled { bytes: offset, sync: begin.elapsed() }) {
                    return Ok(false);
                }
            }
        }
        self.file.sync_all().map_err(|source| sync_error(&self.path, source))?;
        self.len = self.len.max(len);
        Ok(true)
    }

    /// Gives the file a new name and syncs the directory.
    pub(crate) fn rename(
        &mut self,
        io: &dyn Io,
        dir: &Path,
        generation: u64,
        role: Role,
    ) -> Result<(), LogError> {
        let to = dir.join(file_name(generation, role));
        io.rename(&self.path, &to).map_err(|source| LogError::Rename {
            from: self.path.clone(),
            to: to.clone(),
            source: Arc::new(source),
        })?;
        self.path = to;
        self.generation = generation;
        sync_dir(io, dir)
    }

    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), LogError> {
        self.file.write_all_at(bytes, offset).map_err(|source| write_error(&self.path, offset, source))
    }

    /// Overwrites a range with zeros, without a sync.
    pub(crate) fn write_zeros(&self, from: u64, to: u64) -> Result<(), LogError> {
        let mut offset = from;
        while offset < to {
            // Whole pages after the first piece.
            let piece = (ZERO_WRITE as u64 - offset % ZERO_WRITE as u64).min(to - offset);
            self.write(&ZEROS[..piece as usize], offset)?;
            offset += piece;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|source| sync_error(&self.path, source))
    }

    /// The name under which index slots know this segment.
    pub(crate) fn counter(&self) -> u32 {
        counter_of(self.generation)
    }
}

/// Syncs the directory.
pub(crate) fn sync_dir(io: &dyn Io, dir: &Path) -> Result<(), LogError> {
    io.sync_dir(dir)
        .map_err(|source| LogError::SyncDirectory { path: dir.to_owned(), source: Arc::new(source) })
}

/// Removes a file, without syncing the directory.
pub(crate) fn unlink(io: &dyn Io, path: &Path) -> Result<(), LogError> {
    io.unlink(path).map_err(|source| LogError::Unlink { path: path.to_owned(), source: Arc::new(source) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::OsIo;

    #[test]
    fn names_round_trip_and_strangers_are_ignored() {
        let generation = make_generation(3, 0xabcd);
        for role in [Role::Segment, Role::Spare, Role::New] {
            assert_eq!(parse_name(&file_name(generation, role)), Some((generation, role)));
        }
        assert_eq!(counter_of(generation), 3);
        for name in ["LOCK", "lost+found", "0.segment", "000000030000ABCD.segment", "000000030000abcd.log"] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_new_segment_is_all_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let segment = Segment::create(&OsIo, dir.path(), 5, 10_000, &|_| true).unwrap().unwrap();
        assert_eq!(std::fs::read(&segment.path).unwrap(), vec![0; 10_000]);
        segment.write(&[1; 9000], 0).unwrap();
        segment.write_zeros(10, 8999).unwrap();
        let bytes = std::fs::read(&segment.path).unwrap();
        assert!(bytes[..10].iter().chain(&bytes[8999..9000]).all(|byte| *byte == 1));
        assert!(bytes[10..8999].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_unwanted_segment_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Segment::create(&OsIo, dir.path(), 5, ZERO_SYNC, &|_| false).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
