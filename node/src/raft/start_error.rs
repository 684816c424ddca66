//! Why a member's consensus could not be started, and whether what it finds on its disk can be of one member.

use super::peers_file::PeersError;
use crate::identity::Identity;
use crate::store::{LocalFailure, Store};
use raftlog::RaftLog;
use std::io;

/// Consensus could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Raft's log could not be opened.
    #[error("open Raft's log: {0}")]
    Log(#[from] raftlog::OpenError),
    /// The free space of the disk could not be read.
    #[error("look at the free space of the data directory: {0}")]
    Space(#[source] io::Error),
    /// The log does not reach back to what the database holds: one of the two is not what this member left.
    #[error(
        "the log begins after entry {purged}, the database ends at {applied:?}: one of the two was replaced; \
         give the member an empty disk, it comes back as a new member"
    )]
    Gap {
        /// Last entry that was purged.
        purged: u64,
        /// Last entry in the database.
        applied: Option<u64>,
    },
    /// There is a database of a cluster, and a log in which nothing ever was: whom this member voted for is not known.
    #[error(
        "the database is of a cluster and Raft's log is gone: give the member an empty disk, it comes back as a new member"
    )]
    LogLost,
    /// The database could not be brought to disk.
    #[error(transparent)]
    Store(LocalFailure),
    /// The same, because something reads it.
    #[error(
        "the database reaches beyond Raft's log, and is not on disk while something reads it: end that, and start again"
    )]
    Behind,
    /// The timing is refused.
    #[error("Raft's configuration: {0}")]
    Config(String),
    /// Which entries were passed over cannot be read.
    #[error("entries that were passed over: {0}")]
    Skipped(#[source] io::Error),
    /// Raft could not be started.
    #[error("start Raft: {0}")]
    Raft(String),
    /// The cluster went on without this member.
    #[error("{0}")]
    Outlived(String),
    /// What was agreed to after the loss of the quorum could not be done.
    #[error(transparent)]
    Recovery(#[from] super::recovery::RecoveryError),
    /// What `raft/peers.json` says could not be done.
    #[error(transparent)]
    Peers(#[from] PeersError),
}

/// Whether log and database can be of one member; after this, what the log lacks is on disk in the database.
pub(super) async fn check_together(
    log: &RaftLog,
    store: &Store,
    identity: &Identity,
) -> Result<(), StartError> {
    let applied = store.applied().index();
    let (last, purged) = (log.last_index(), log.purged().map(|(purged, _)| purged));
    if let Some(purged) = purged
        && applied < Some(purged)
    {
        return Err(StartError::Gap { purged, applied });
    }
    let is_new = last.or(purged).is_none() && log.vote().is_none();
    if is_new && applied.is_some() && identity.cluster().is_some() {
        return Err(StartError::LogLost);
    }
    if applied > last.max(purged) {
        // What others had on disk was applied before this log had it. Raft purges a log that ends before the database, and
        // then only the database has its entries: all of them on disk first.
        let durable = store.checkpoint().await.map_err(StartError::Store)?;
        if durable.log_id.map(|id| id.index) != applied {
            return Err(StartError::Behind);
        }
    }
    Ok(())
}
