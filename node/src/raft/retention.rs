//! How much of the log is kept: enough for a follower that was away for a while, and never less than what the synced
//! database file lacks.

use super::archive::Archived;
use super::types::{Metrics, Raft, log_id_from};
use crate::failpoint::{Place, pass};
use crate::observe::Observe as _;
use crate::store::State;
use openraft::metrics::WaitError;
use raftlog::RaftLog;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Tells Raft of each complete checkpoint and purges the log behind it, down to `kept_bytes` and to what is archived. Ends with the
/// store: a purge that fails is tried again at the next checkpoint.
pub async fn run(
    raft: Raft,
    log: RaftLog,
    mut state: watch::Receiver<State>,
    archived: Arc<Archived>,
    kept_bytes: u64,
) {
    let mut told = None;
    while state.changed().await.is_ok() {
        state.mark_unchanged();
        let durable = state.observe(|state| state.durable.log_id);
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
        let Some(upto) = archived.bound(&log, upto) else { continue };
        if let Err(error) = purge(&raft, &log, upto).await {
            tracing::warn!(error, "the log is not purged this time");
        }
    }
}

/// How long Raft may take to learn of a checkpoint.
const LEARNED: Duration = Duration::from_secs(30);
/// How long a purge is waited for. Raft postpones it while it sends those entries to a member, which may not answer.
const PURGED: Duration = Duration::from_secs(2);

/// Purges the log up to `upto`, which the synced database file holds; returns whether there was anything to purge. What
/// Raft postpones it does by itself later.
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
    match raft.wait(Some(PURGED)).metrics(purged, "the log is purged").await {
        Ok(_) | Err(WaitError::Timeout(..)) => Ok(true),
        Err(error @ WaitError::ShuttingDown) => Err(error.to_string()),
    }
}
