//! Why a request has no results, as its client is told.

use super::calls::CallError;
use crate::store::ReadError;
use client::admin::Refusal;

/// Why a request has no results.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No leader was found in time.
    #[error("leader not found")]
    NoLeader,
    /// It may or may not have been applied.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// No quorum confirmed the leader in time.
    #[error("no quorum confirmed the leader in time")]
    NoQuorum,
    /// It was not proposed within the time that its statements may take; nothing was applied.
    #[error("execute timeout")]
    ExecuteTimeout,
    /// What this member has is older than the request allows.
    #[error("stale read")]
    Stale,
    /// The bookmark is of another epoch: since then the cluster was restored.
    #[error("the bookmark is of epoch {wanted}, the cluster is at epoch {present}")]
    OtherEpoch {
        /// Of the bookmark.
        wanted: u64,
        /// Of the cluster.
        present: u64,
    },
    /// What the client has seen was not applied in time.
    #[error("index {0} was not applied in time")]
    Behind(u64),
    /// The disk has no room for more.
    #[error("no space left: the disk of the member that would write it, or of most others, is nearly full")]
    NoSpace,
    /// As many large results as may be are being read.
    #[error("too many large queries at once; try again")]
    Busy,
    /// What the cluster begins with is still on its way.
    #[error("store not ready")]
    NotReady,
    /// An entry before it ends every process that applies it, and is not applied any more.
    #[error(
        "entry {0} of the log ended this member again and again while it was applied; nothing after it is applied until \
         another version of the program gets over it, or it is passed over (POST /cluster/skip)"
    )]
    FatalEntry(u64),
    /// Refused by the leader.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Who asks may not, by the leader's users.
    #[error("remote {0} not authorized")]
    Unauthorized(&'static str),
    /// This member or the leader failed.
    #[error("{0}")]
    Internal(String),
}

impl From<CallError> for RequestError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(_) => Self::NoLeader,
            CallError::Broken(_) | CallError::TimedOut(_) => Self::OutcomeUnknown(error.to_string()),
            CallError::Remote(message) => Self::Internal(message),
            CallError::Unauthorized(operation) => Self::Unauthorized(operation),
        }
    }
}

impl From<ReadError> for RequestError {
    fn from(error: ReadError) -> Self {
        Self::Internal(error.to_string())
    }
}
