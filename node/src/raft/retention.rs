//! How much of the log is kept: enough for a follower that was away for a while, and never less than what the synced
//! database file lacks.

use super::types::{Metrics, Raft, log_id_from};
use crate::failpoint::{Place, pass};
use crate::store::State;
use raftlog::RaftLog;
use std::time::Duration;
use tokio::sync::watch;

/// Tells Raft of each complete checkpoint and purges the log behind it, down to `kept_bytes`. Ends with the store or
/// with Raft.
pub async fn run(raft: Raft, log: RaftLog, mut state: watch::Receiver<State>, kept_bytes: u64) {
    let mut told = None;
    while state.changed().await.is_ok() {
        let durable = state.borrow_and_update().durable.log_id;
        if durable == told {
            continue;
        }
        told = durable;
        let Some(durable) = durable.map(log_id_from) else { continue };
        // Not at every checkpoint: a purge brings a checkpoint of its own.
        let slack = kept_bytes / 8;
        if log.first_index().is_none_or(|first| first >= log.first_index_within(kept_bytes + slack)) {
            continue;
        }
        let upto = durable.index.min(log.first_index_within(kept_bytes).saturating_sub(1));
        if purge(&raft, &log, upto).await.is_err() {
            return;
        }
    }
}

/// How long Raft may take to learn of a checkpoint, and to purge.
const LEARNED: Duration = Duration::from_secs(30);

/// Purges the log up to `upto`, which the synced database file holds; returns whether there was anything to purge.
pub async fn purge(raft: &Raft, log: &RaftLog, upto: u64) -> Result<bool, String> {
    if log.first_index().is_none_or(|first| first > upto) {
        return Ok(false);
    }
    let place = |place| pass(place).map_err(|e| e.to_string());
    place(Place::PurgeDecided)?;
    // Raft purges only what it knows to be in a snapshot.
    raft.trigger().snapshot().await.map_err(|e| e.to_string())?;
    let known = |m: &Metrics| m.snapshot.as_ref().is_some_and(|id| id.index >= upto);
    raft.wait(Some(LEARNED)).metrics(known, "the checkpoint is known").await.map_err(|e| e.to_string())?;
    place(Place::PurgeKnown)?;
    raft.trigger().purge_log(upto).await.map_err(|e| e.to_string())?;
    let purged = |m: &Metrics| m.purged.as_ref().is_some_and(|id| id.index >= upto);
    raft.wait(Some(LEARNED)).metrics(purged, "the log is purged").await.map_err(|e| e.to_string())?;
    Ok(true)
}
