//! Why a moment cannot be brought back from a store: as the member says who restores, and who only asks what would happen.

use crate::backup::DamagedBackup;

/// Nothing in the store brings back that moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReachable {
    /// There is no complete backup.
    #[error("the store has no complete backup of this cluster")]
    NoBackup,
    /// The backup that was asked for cannot be read.
    #[error("backup {path} is damaged: {message}")]
    Damaged {
        /// Its path.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A later backup cannot be read: what would come back is not what was asked for.
    #[error(
        "backup {path} is damaged, and what is left does not reach it: {message}; the last moment that can be restored \
         is entry {last}"
    )]
    NewerDamaged {
        /// Its path.
        path: String,
        /// What is wrong.
        message: String,
        /// Last entry that can be reached.
        last: u64,
    },
    /// There is none that is named so.
    #[error("the store has no complete backup {0}")]
    NoSuchBackup(String),
    /// The time cannot be read.
    #[error("{0}: not a time such as 2026-01-31T12:00:00Z")]
    NotATime(String),
    /// The first backup is later.
    #[error("the first backup is of entry {index}, {time}: nothing before that can be restored")]
    TooEarly {
        /// Its entry.
        index: u64,
        /// Its time.
        time: String,
    },
    /// The archive does not know of that time.
    #[error(
        "the archive has everything up to {until}, and does not know yet what was written up to {wanted}: the latest time is \
         {until}; `latest` is the last entry that it has"
    )]
    NotYet {
        /// Up to when it has everything.
        until: String,
        /// The time that was asked for.
        wanted: String,
    },
    /// The archive ends earlier.
    #[error(
        "the archive ends with entry {last}: entry {wanted} cannot be reached; the last moment is entry {last}"
    )]
    TooLate {
        /// Last entry that can be reached.
        last: u64,
        /// The one that was asked for.
        wanted: u64,
    },
    /// Entries are missing.
    #[error(
        "the archive lacks entries {from} to {to}: what comes after them cannot be reached from the backup before; the \
         last moment before the hole is entry {last}"
    )]
    Hole {
        /// First missing entry.
        from: u64,
        /// Last missing entry.
        to: u64,
        /// Last entry that can be reached.
        last: u64,
    },
}

impl NotReachable {
    /// What comes after entry `last` goes on with entry `resumes` only.
    pub fn hole(last: u64, resumes: u64) -> Self {
        Self::Hole { from: last + 1, to: resumes - 1, last }
    }
}

impl From<&DamagedBackup> for NotReachable {
    fn from(DamagedBackup { path, message }: &DamagedBackup) -> Self {
        Self::Damaged { path: path.clone(), message: message.clone() }
    }
}
