//! What the continuous archive asks of consensus: committed entries, and that none is purged before it is archived.
//!
//! Any member may lead next and go on archiving, so all of them keep what is not archived yet. They hear how far the
//! archive is when they compare their databases ([`super::consistency`]).

use super::Consensus;
use super::log_store::LogStore;
use super::state_machine::entry_to_store;
use super::types::log_id_to;
use crate::observe::Observe as _;
use crate::store;
use client::backup::ArchiveReport;
use raftlog::RaftLog;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Notify, watch};

/// The log of a member does not grow beyond this, in bytes, for the sake of an archive that does not get on: then there is a
/// hole in the archive, which says so and begins anew.
pub const LOG_FOR_ARCHIVE: u64 = 1 << 30;

/// How far the archive of this cluster's log is, as far as this member knows.
#[derive(Debug, Default)]
pub struct Archived {
    /// So many bytes of the log are kept for it at most.
    longest: u64,
    wanted: AtomicBool,
    /// The first entry that is not known to be archived.
    next: AtomicU64,
    /// Somebody waits for that to move.
    reached: Notify,
    /// Somebody needs it to move now.
    hurry: Notify,
    /// How often it moved over entries that are not archived.
    holes: AtomicU64,
    /// How many keep the log from being purged.
    held: AtomicUsize,
    report: watch::Sender<Option<ArchiveReport>>,
}

/// While this lives the log is not purged, up to the size that it may have for the archive.
#[derive(Debug)]
pub struct LogHold(Arc<Archived>);

impl Drop for LogHold {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Archived {
    /// Of a log of which at most `longest` bytes are kept until they are archived.
    pub fn up_to(longest: u64) -> Self {
        Self { longest, ..Self::default() }
    }

    /// The first entry that has to stay in the log; none if any may go.
    pub fn needed(&self) -> Option<u64> {
        if self.held.load(Ordering::Acquire) > 0 {
            return Some(0);
        }
        self.wanted.load(Ordering::Acquire).then(|| self.next())
    }

    /// The first entry that is not known to be archived.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Everything before `next` is archived.
    pub fn reach(&self, next: u64) {
        self.next.fetch_max(next, Ordering::AcqRel);
        self.reached.notify_waiters();
    }

    /// Up to where `log` may be purged of what could go up to `upto`.
    pub fn bound(&self, log: &RaftLog, upto: u64) -> Option<u64> {
        let Some(needed) = self.needed() else { return Some(upto) };
        let at_least = log.first_index_within(self.longest);
        upto.min(needed.max(at_least).checked_sub(1)?).into()
    }
}

impl Consensus {
    /// Whether entries are to be kept until they are archived.
    pub fn keep_for_archive(&self, wanted: bool) {
        self.archived.wanted.store(wanted, Ordering::Release);
    }

    /// How far the archive is, as far as this member knows: the first entry that is not in it.
    pub fn next_to_archive(&self) -> u64 {
        self.archived.next()
    }

    /// Whether this cluster has an archive.
    pub fn is_archived(&self) -> bool {
        self.archived.wanted.load(Ordering::Acquire)
    }

    /// Everything before `next` is archived.
    pub fn archived_before(&self, next: u64) {
        self.archived.reach(next);
    }

    /// The archive goes on at `next`, whether what is before is in it or not.
    pub fn archived_anew_from(&self, next: u64) {
        // First: who sees that it moved is to see how.
        self.archived.holes.fetch_add(1, Ordering::AcqRel);
        self.archived.reach(next);
    }

    /// How often the archive of this leader went on behind entries that are not in it.
    pub fn archive_holes(&self) -> u64 {
        self.archived.holes.load(Ordering::Acquire)
    }

    /// Waits until the archive is past entry `index`, and lets it hurry there.
    pub async fn until_archived(&self, index: u64) {
        loop {
            let mut reached = pin!(self.archived.reached.notified());
            reached.as_mut().enable();
            if self.next_to_archive() > index {
                return;
            }
            self.archived.hurry.notify_one();
            reached.await;
        }
    }

    /// Waits until somebody needs what is not archived yet to be.
    pub async fn archive_is_to_hurry(&self) {
        self.archived.hurry.notified().await;
    }

    /// Keeps entries in this member's log, as long as the guard lives.
    pub fn hold_log(&self) -> LogHold {
        self.archived.held.fetch_add(1, Ordering::AcqRel);
        LogHold(self.archived.clone())
    }

    /// Says in reports how the archive is doing.
    pub fn report_archive(&self, report: Option<ArchiveReport>) {
        self.archived.report.send_if_modified(|present| {
            let is_news = *present != report;
            if is_news {
                *present = report;
            }
            is_news
        });
    }

    /// How the archive is doing, where this member leads and there is one.
    pub fn archive_report(&self) -> Option<ArchiveReport> {
        self.archived.report.current()
    }

    /// The last entry that was purged from this member's log; none if none ever was.
    pub fn purged(&self) -> io::Result<Option<store::LogId>> {
        let purged = LogStore::new(self.log.clone()).purged()?;
        Ok(purged.map(|(purged, _)| log_id_to(&purged)))
    }

    /// Entries that are in this member's database, from index `from` on and of about `bytes` bytes together; at least one,
    /// if there is one. What was passed over is nothing. Blocks on the disk.
    pub fn entries_applied(&self, from: u64, bytes: usize) -> io::Result<Vec<store::Entry>> {
        let Some(applied) = self.store.applied().log_id else { return Ok(Vec::new()) };
        if from > applied.index {
            return Ok(Vec::new());
        }
        let entries = LogStore::new(self.log.clone()).entries(from, applied.index + 1, bytes)?;
        let applied = |entry| {
            let entry = entry_to_store(entry, &self.identity, false);
            if self.entry_gate.is_skipped(entry.log_id.index) { entry.passed_over() } else { entry }
        };
        Ok(entries.into_iter().map(applied).collect())
    }
}
