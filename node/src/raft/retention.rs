//! How much of the log is kept: enough for a follower that was away for a while, no more than it would apply in the time
//! in which it takes over the whole database, and never less than what the synced database file lacks.

use super::archive::Archived;
use super::types::{Metrics, Raft, log_id_from};
use crate::failpoint::{Place, pass};
use crate::observe::Observe as _;
use crate::store::Store;
use openraft::metrics::WaitError;
use raftlog::RaftLog;
use std::sync::Arc;
use std::time::Duration;

/// Entries that are kept however small the database is: a few seconds of applying. rqlite keeps about as many.
const ENTRIES: u64 = 10_000;
/// Bytes of a database that a member takes over in the time in which it applies one entry: at 200 MB/s in 50 µs.
const BYTES_AN_ENTRY: u64 = 10_000;

/// What of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// At most so many bytes.
    bytes: u64,
    /// At most so many entries.
    entries: u64,
}

impl Kept {
    /// What is kept of the log of `store`, of which at most `bytes`.
    pub fn beside(store: &Store, bytes: u64) -> Self {
        // Where the file cannot be looked at now, only the bytes count this time.
        Self::of(bytes, store.size().unwrap_or(u64::MAX))
    }

    /// At most `bytes` of the log of a database of `database` bytes.
    fn of(bytes: u64, database: u64) -> Self {
        Self { bytes, entries: ENTRIES.max(database / BYTES_AN_ENTRY) }
    }

    /// From how much on the log is purged down to this. Not at every checkpoint: a purge brings a checkpoint of its own.
    fn with_slack(self) -> Self {
        Self { bytes: self.bytes + self.bytes / 8, entries: self.entries * 2 }
    }

    /// The first entry that is kept.
    fn first(self, log: &RaftLog) -> u64 {
        let by_entries = log.last_index().map_or(0, |last| (last + 1).saturating_sub(self.entries));
        log.first_index_within(self.bytes).max(by_entries)
    }

    /// The last entry that is not kept, if there is one.
    pub fn last_to_purge(self, log: &RaftLog) -> Option<u64> {
        self.first(log).checked_sub(1)
    }
}

/// Tells Raft of each complete checkpoint and purges the log behind it, down to what is kept, of which at most `kept_bytes`,
/// and to what is archived. Ends with the store: a purge that fails is tried again at the next checkpoint.
pub async fn run(raft: Raft, log: RaftLog, store: Store, archived: Arc<Archived>, kept_bytes: u64) {
    let (mut state, mut told) = (store.state(), None);
    while state.changed().await.is_ok() {
        state.mark_unchanged();
        let durable = state.observe(|state| state.durable.log_id);
        if durable == told {
            continue;
        }
        told = durable;
        let Some(durable) = durable.map(log_id_from) else { continue };
        let kept = Kept::beside(&store, kept_bytes);
        if log.first_index().is_none_or(|first| first >= kept.with_slack().first(&log)) {
            continue;
        }
        let upto = kept.last_to_purge(&log).map(|upto| upto.min(durable.index));
        let Some(upto) = upto.and_then(|upto| archived.bound(&log, upto)) else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_entries_are_kept_as_the_database_is_worth() {
        const MIB: u64 = 1 << 20;
        for (database, entries) in
            [(0, 10_000), (5 * MIB, 10_000), (1024 * MIB, 107_374), (u64::MAX, 1_844_674_407_370_955)]
        {
            assert_eq!(Kept::of(256 * MIB, database), Kept { bytes: 256 * MIB, entries }, "{database} bytes");
        }
        let slack = Kept::of(8 * MIB, 0).with_slack();
        assert_eq!(slack, Kept { bytes: 9 * MIB, entries: 20_000 });
    }

    #[test]
    fn of_a_long_log_of_a_small_database_the_last_entries_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let options = raftlog::Options::default();
        let (log, _) = RaftLog::open(directory.path().join("log"), options, Arc::new(raftlog::OsIo)).unwrap();
        assert_eq!(Kept::of(1 << 20, 0).last_to_purge(&log), None);
        let (done, written) = std::sync::mpsc::channel();
        let entries = (0..25_000).map(|index| (index, bytes::Bytes::from_static(b"entry")));
        log.append(entries, Box::new(move |outcome| done.send(outcome).unwrap())).unwrap();
        written.recv().unwrap().unwrap();
        for (bytes, database, expected) in [
            (1 << 30, 0, Some(14_999)),
            (1 << 30, 240_000_000, Some(999)),
            (1 << 30, 1 << 30, None),
            (5_000, 1 << 30, Some(23_999)),
            (0, 0, Some(24_998)),
        ] {
            assert_eq!(Kept::of(bytes, database).last_to_purge(&log), expected, "{bytes}, {database}");
        }
        log.close().unwrap();
    }
}
