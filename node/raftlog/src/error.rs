//! What can go wrong, one variant per step.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// The failure that poisoned a log. The result of everything that was not durable yet is unknown.
///
/// It is cheap to clone, because every waiting callback gets it.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// A segment could not be created.
    #[error("cannot create {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A new segment could not be filled with zeros.
    #[error("cannot fill {path} with zeros")]
    ZeroFill {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Records could not be written.
    #[error("cannot write to {path} at offset {offset}")]
    Write {
        /// The file.
        path: PathBuf,
        /// In bytes.
        offset: u64,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A segment could not be synced.
    #[error("cannot sync {path}")]
    Sync {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The directory could not be synced.
    #[error("cannot sync the directory {path}")]
    SyncDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A segment could not be renamed.
    #[error("cannot rename {from} to {to}")]
    Rename {
        /// Old name.
        from: PathBuf,
        /// New name.
        to: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A segment that is not needed any more could not be removed.
    #[error("cannot remove {path}")]
    Unlink {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The log's own book-keeping contradicts itself; nothing was written.
    #[error("the records of the log contradict each other")]
    Order(#[from] OrderError),
    /// A record that should have been refused at submission does not fit a frame; nothing was written.
    #[error("a record of {bytes} bytes does not fit a frame")]
    FrameTooLarge {
        /// Size of the record.
        bytes: usize,
    },
    /// A thread of the log ended by a panic, in the log or in a callback.
    #[error("a thread of the log has panicked")]
    Panicked,
}

impl LogError {
    /// The kind of the underlying system error, if there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Create { source, .. }
            | Self::ZeroFill { source, .. }
            | Self::Write { source, .. }
            | Self::Sync { source, .. }
            | Self::SyncDirectory { source, .. }
            | Self::Rename { source, .. }
            | Self::Unlink { source, .. } => Some(source.kind()),
            Self::Order(_) | Self::FrameTooLarge { .. } | Self::Panicked => None,
        }
    }

    /// Whether the disk (or the quota) was full: the one failure that can heal by itself.
    pub fn is_storage_full(&self) -> bool {
        matches!(self.io_kind(), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        Self::new(error.io_kind().unwrap_or(io::ErrorKind::Other), error)
    }
}

/// A record that contradicts the log it was meant for: a programming error of the caller, not of the disk.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OrderError {
    /// An entry does not follow the last one.
    #[error("entry {found} cannot be appended where entry {expected} must follow")]
    Gap {
        /// The only index that may follow.
        expected: u64,
        /// The index that was given.
        found: u64,
    },
    /// A truncation would remove purged entries.
    #[error("the log cannot be cut back to {next} entries, it is purged up to {purged}")]
    TruncatesPurged {
        /// First index that would have been removed.
        next: u64,
        /// Last purged index.
        purged: u64,
    },
    /// The highest number is reserved.
    #[error("index {0} is out of range")]
    IndexOutOfRange(u64),
}

/// Why a submission was refused. The callback is dropped without being called; nothing of it was recorded.
#[derive(Clone, Debug, Error)]
pub enum SubmitError {
    /// The log is poisoned by this earlier failure.
    #[error("the log is poisoned by an earlier failure")]
    Poisoned(#[from] LogError),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The record does not fit the log.
    #[error("the record does not fit the log")]
    Order(#[from] OrderError),
    /// The record is too large.
    #[error("a record of {bytes} bytes is too large, the limit is {limit}")]
    TooLarge {
        /// Size of the record.
        bytes: usize,
        /// Largest allowed size.
        limit: usize,
    },
}

impl From<SubmitError> for io::Error {
    fn from(error: SubmitError) -> Self {
        let kind = match &error {
            SubmitError::Poisoned(cause) => cause.io_kind().unwrap_or(io::ErrorKind::Other),
            SubmitError::Closed => io::ErrorKind::BrokenPipe,
            SubmitError::Order(_) | SubmitError::TooLarge { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// Why a log could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory could not be created.
    #[error("cannot create the directory {path}")]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lock file could not be used.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else has the log open.
    #[error("{path} is locked: another process has this log open")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory could not be listed.
    #[error("cannot list the directory {path}")]
    List {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A segment could not be opened.
    #[error("cannot open {path}")]
    OpenSegment {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A segment could not be read.
    #[error("cannot read {path} at offset {offset}")]
    Read {
        /// The file.
        path: PathBuf,
        /// In bytes.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A record that had been synced is damaged. Starting without it could break promises made to other members.
    #[error(
        "{path} is damaged at offset {offset}: record {sequence} is unreadable although it had been synced \
         (records up to {synced} had); this member must not vote and has to rejoin under a new id"
    )]
    Rot {
        /// The file.
        path: PathBuf,
        /// Where the unreadable record starts, in bytes.
        offset: u64,
        /// Its sequence.
        sequence: u64,
        /// The highest sequence known to have been synced.
        synced: u64,
    },
    /// A segment that holds entries or the end of the log is not there.
    #[error(
        "{path} is missing although the log still needs it; this member must not vote and has to rejoin under a \
         new id"
    )]
    MissingSegment {
        /// The file.
        path: PathBuf,
    },
    /// A segment file is shorter than when it was synced.
    #[error(
        "{path} has {len} bytes where it must have {expected}; this member must not vote and has to rejoin under a \
         new id"
    )]
    Shortened {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// Its least length in bytes.
        expected: u64,
    },
    /// A segment that the log needs does not start with a readable checkpoint.
    #[error(
        "{path} is damaged at offset 0: its checkpoint is unreadable although it had been synced; this member must \
         not vote and has to rejoin under a new id"
    )]
    NoCheckpoint {
        /// The file.
        path: PathBuf,
    },
    /// An intact record makes no sense where it stands: a defect of the program that wrote it.
    #[error("{path} holds an impossible record at offset {offset}")]
    Impossible {
        /// The file.
        path: PathBuf,
        /// In bytes.
        offset: u64,
        /// Why, if it is about the order of entries.
        source: Option<OrderError>,
    },
    /// The log was written by a newer program.
    #[error("{path} has format version {version}, this program knows version {known}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Found in the file.
        version: u8,
        /// The newest this program reads.
        known: u8,
    },
    /// The recovered log could not be made durable.
    #[error("cannot make the recovered log durable")]
    Repair(#[from] LogError),
    /// A thread could not be started.
    #[error("cannot start a thread of the log")]
    Spawn(#[source] io::Error),
}

impl OpenError {
    /// Whether records are lost that had been synced, so that this member may have promised what it does not
    /// remember: it must not take part in Raft any more and rejoins under a new id.
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Rot { .. }
                | Self::MissingSegment { .. }
                | Self::Shortened { .. }
                | Self::NoCheckpoint { .. }
        )
    }
}

/// Shorthand that names the file in an error.
pub(crate) fn write_error(path: &Path, offset: u64, source: io::Error) -> LogError {
    LogError::Write { path: path.to_owned(), offset, source: Arc::new(source) }
}

/// Shorthand that names the file in an error.
pub(crate) fn sync_error(path: &Path, source: io::Error) -> LogError {
    LogError::Sync { path: path.to_owned(), source: Arc::new(source) }
}
