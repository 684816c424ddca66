//! The continuous archive: the leader puts committed entries into the store as they come, so that a restore can bring back
//! the state after any of them.
//!
//! A new leader goes on where the store's segments end. Entries stay in every member's log until they are archived
//! ([`crate::raft`]), so the next leader has what the last one did not get to; one that took over the database instead hands
//! over to a member that has it. If none has, there is a hole, which is said, and closed by a new base backup. Base backups
//! are made once in a while, so that a restore replays little. Entries of another history than the cluster's are not gone on
//! from ([`history`]).

mod history;
mod position;
mod reach;
mod standing;

use super::objects::{ObjectError, Objects};
use super::replaced::{ReplacedError, keep, replacement_of};
use super::repository::Known;
use super::segment::{self, Segment};
use super::until::ArchivedUntil;
use crate::failpoint::{Place, pass};
use crate::identity::ClusterIdentity;
use crate::raft::Consensus;
use crate::reload::Reloaded;
use crate::store::Entry;
use client::admin::Refusal;
use client::backup::ContinuousConfig;
use history::OtherHistory;
use parking_lot::Mutex;
use position::Position;
use reach::Reach;
use standing::{Standing, Waiting};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How often a member looks whether it leads, and how the archive is doing is said anew.
const LOOK: Duration = Duration::from_millis(200);
/// After a failure, and at most after several: each time it is asked anew where the archive ends.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST_AGAIN: Duration = Duration::from_secs(10);
/// While nothing is written it is noted no more often than this up to when everything is archived.
const NOTE: Duration = Duration::from_secs(60);
/// Segments come at least this far apart, unless they are full.
const SHORTEST: Duration = Duration::from_millis(200);
/// So many bytes of entries are looked through for one that has a time.
const SOME: usize = 64 << 10;

/// The archive does not get on at the moment.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    /// The volumes were put back to an earlier moment: what the members write now is another history than what is archived.
    #[error(transparent)]
    OtherHistory(#[from] OtherHistory),
    /// Another member may lead, and have archived what this one has not applied yet.
    #[error("the store has more than this member, and no quorum says that it leads")]
    Unconfirmed,
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error(transparent)]
    Replaced(#[from] ReplacedError),
    #[error("read the log: {0}")]
    Log(#[from] io::Error),
    /// Another member has entries that this one lacks, and leadership could not be handed to it.
    #[error("hand over to a member that has what is to be archived: {}", .0.message)]
    HandOver(Refusal),
    #[error("a thread ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Numbers of the archive, for metrics.
#[derive(Debug, Default)]
pub struct ArchiveNumbers {
    /// Segments put into the store since the start.
    pub segments: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// How far the archive is behind, in milliseconds; 0 on members that do not archive.
    pub lag_milliseconds: AtomicU64,
}

/// The archiver of one member: it works while the member leads.
pub struct Archiver {
    consensus: Arc<Consensus>,
    repository: Arc<Reloaded<Known>>,
    numbers: Arc<ArchiveNumbers>,
    trimmed: Arc<AtomicBool>,
    standing: Mutex<Standing>,
}

impl From<Refusal> for ArchiveError {
    fn from(refusal: Refusal) -> Self {
        Self::HandOver(refusal)
    }
}

impl Archiver {
    /// Of a member whose store is `repository`; `trimmed` is set whenever something of that was deleted.
    pub fn new(
        consensus: Arc<Consensus>,
        repository: Arc<Reloaded<Known>>,
        numbers: Arc<ArchiveNumbers>,
        trimmed: Arc<AtomicBool>,
    ) -> Self {
        let standing = Mutex::new(Standing::heard(Waiting::unknown()));
        Self { consensus, repository, numbers, trimmed, standing }
    }

    /// Archives for as long as the member runs.
    pub async fn run(self) {
        loop {
            let known = self.repository.current();
            let (continuous, repository) = match &*known {
                Ok(repository) => (&repository.continuous, Ok(repository)),
                Err(missing) => (&missing.continuous, Err(&missing.why)),
            };
            self.consensus.keep_for_archive(continuous.is_some());
            let cluster = self.consensus.identity().cluster();
            let (Some(settings), Some(cluster), true) = (continuous, cluster, self.consensus.is_leader())
            else {
                self.consensus.report_archive(None);
                self.numbers.lag_milliseconds.store(0, Ordering::Relaxed);
                sleep(LOOK).await;
                continue;
            };
            // Whoever leads again may find that another one has archived meanwhile.
            let term = self.consensus.term();
            let leads_on = || self.consensus.is_leader() && self.consensus.term() == term;
            let goes_on = || leads_on() && Arc::ptr_eq(&known, &self.repository.current());
            let heard = self.heard().await;
            *self.standing.lock() = Standing::heard(heard);
            match repository {
                Ok(repository) => {
                    self.lead(&repository.cluster(&cluster.cluster_id), settings, &cluster, goes_on).await;
                }
                Err(why) => self.wait(why, settings, goes_on).await,
            }
        }
    }

    /// Says that there is nowhere to archive to, until there is.
    async fn wait(&self, why: &str, settings: &ContinuousConfig, goes_on: impl Fn() -> bool) {
        self.standing.lock().trouble = Some(why.to_owned());
        let waiting = async {
            while goes_on() {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = waiting => {}
            () = self.keep_reporting(settings) => {}
        }
    }

    /// Archives as long as this member leads and the settings stay; failures are tried again.
    async fn lead(
        &self,
        objects: &Objects,
        settings: &ContinuousConfig,
        cluster: &ClusterIdentity,
        goes_on: impl Fn() -> bool,
    ) {
        let mut reach = Reach::unknown();
        let archiving = async {
            let mut pause = Duration::ZERO;
            while goes_on() {
                let (begun, archived) = (Instant::now(), self.consensus.next_to_archive());
                if let Err(error) = self.archive(objects, settings, cluster, &goes_on, &mut reach).await {
                    let error = error.to_string();
                    let said = self.standing.lock().trouble.replace(error.clone());
                    if said.as_ref() != Some(&error) {
                        tracing::warn!(error, "the archive does not get on; trying again");
                    }
                    let got_on =
                        self.consensus.next_to_archive() > archived || begun.elapsed() > LONGEST_AGAIN;
                    pause = if got_on { AGAIN } else { longer(pause) };
                    if self.pause_for(pause, &goes_on).await {
                        pause = Duration::ZERO;
                    }
                }
            }
        };
        tokio::select! {
            () = archiving => {}
            () = self.keep_reporting(settings) => {}
        }
    }

    /// Waits after a failure; not for long if this member goes down, or somebody needs the archive: then it returns true.
    async fn pause_for(&self, pause: Duration, goes_on: &impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        let is_over = || {
            let pause = if self.consensus.is_draining() { AGAIN } else { pause };
            begun.elapsed() >= pause || !goes_on()
        };
        while !is_over() {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.consensus.archive_is_to_hurry() => {
                    sleep_until(begun + AGAIN).await;
                    return true;
                }
            }
        }
        false
    }

    async fn keep_reporting(&self, settings: &ContinuousConfig) {
        let target = Duration::from_secs(settings.rpo_target_seconds.into());
        loop {
            let standing = self.standing.lock().clone();
            let applied = self.consensus.store().applied().index().unwrap_or(0);
            let is_behind = applied >= self.consensus.next_to_archive();
            let lag = if is_behind { standing.caught_up_at.elapsed() } else { Duration::ZERO };
            self.numbers.lag_milliseconds.store(lag.as_millis() as u64, Ordering::Relaxed);
            let ends = !is_behind && self.consensus.is_draining();
            self.consensus.report_archive(Some(standing.report(target, lag, standing.led(), ends)));
            sleep(LOOK).await;
        }
    }

    async fn archive(
        &self,
        objects: &Objects,
        settings: &ContinuousConfig,
        cluster: &ClusterIdentity,
        goes_on: &impl Fn() -> bool,
        reach: &mut Reach,
    ) -> Result<(), ArchiveError> {
        let mut at = self.find_position(objects, cluster).await?;
        self.standing.lock().trouble = None;
        let pause = Duration::from_secs(settings.rpo_target_seconds.into()) / 2;
        let pause = pause.max(SHORTEST);
        while goes_on() {
            let begun = Instant::now();
            let is_full = self.go_on(objects, settings, cluster, &mut at, reach).await?;
            while !is_full && goes_on() {
                tokio::select! {
                    () = sleep_until(begun + pause) => break,
                    () = sleep(LOOK) => {}
                    () = self.consensus.archive_is_to_hurry() => break,
                    // Beside segments, which may be far apart.
                    () = reach.news() => self.see_to_reach(objects, settings, cluster.epoch, &at, reach)?,
                }
            }
        }
        Ok(())
    }

    /// Archives what there is, a segment at most, and sees to base backups; returns whether there may be more.
    async fn go_on(
        &self,
        objects: &Objects,
        settings: &ContinuousConfig,
        cluster: &ClusterIdentity,
        at: &mut Position,
        reach: &mut Reach,
    ) -> Result<bool, ArchiveError> {
        let begun = Instant::now();
        self.see_to_reach(objects, settings, cluster.epoch, at, reach)?;
        let applied = self.consensus.store().applied().index().map_or(0, |index| index + 1);
        let (consensus, next) = (self.consensus.clone(), at.next);
        let entries =
            tokio::task::spawn_blocking(move || consensus.entries_applied(next, segment::BYTES)).await??;
        // The log has what is present: without what was purged, or came with another member's database.
        let first = entries.first().map_or(applied, |entry| entry.log_id.index);
        if first > at.next {
            // A member that got a snapshot lacks what others keep for the archive.
            if self.consensus.hand_over_to_who_has(at.next).await? {
                return Ok(false);
            }
            let message = format!("entries {} to {} are in no member's log any more", at.next, first - 1);
            self.note_hole(at, reach, first, message);
        }
        let is_full = entries.iter().map(segment::size_of).sum::<usize>() >= segment::BYTES;
        if !entries.is_empty() {
            self.put(objects, cluster, at, reach, entries).await?;
        } else if begun >= at.note_due {
            self.note_until(objects, cluster.epoch, at).await?;
        }
        let mut standing = self.standing.lock();
        standing.trouble = None;
        if !is_full {
            standing.caught_up_at = begun;
        }
        Ok(is_full)
    }

    /// Notes in the store that everything that was written until now is archived.
    async fn note_until(&self, objects: &Objects, epoch: u64, at: &mut Position) -> Result<(), ArchiveError> {
        let time_us = crate::clock::now_us();
        // Then what was acknowledged before, by whomever, is applied here.
        if !self.consensus.leads_by_quorum().await {
            return Ok(());
        }
        let applied = self.consensus.store().applied().index();
        let Some(index) = applied.filter(|applied| *applied < at.next) else { return Ok(()) };
        at.note_due = Instant::now() + NOTE;
        Ok(ArchivedUntil { index, time_us }.put(&objects.at_once(), epoch).await?)
    }

    /// What a leader knows of the archive before it has read anything: how far it is, members hear.
    async fn heard(&self) -> Waiting {
        let next = self.consensus.next_to_archive();
        if next == 0 {
            return Waiting::unknown();
        }
        match self.waiting_from(next).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "cannot tell how far the archive is behind");
                Waiting::unknown()
            }
        }
    }

    /// What waits to be archived if `next` is the first entry that is not.
    async fn waiting_from(&self, next: u64) -> Result<Waiting, ArchiveError> {
        let consensus = self.consensus.clone();
        let applied = self.consensus.store().applied();
        let read = tokio::task::spawn_blocking(move || consensus.entries_applied(next, SOME));
        let entries = read.await??;
        let (first, last) = (entries.first(), entries.last());
        let written_us = entries.iter().find_map(|entry| segment::clock_after(entry, i64::MIN));
        Ok(match written_us {
            Some(written_us) => {
                let age_us = crate::clock::now_us().saturating_sub(written_us).max(0) as u64;
                let now = Instant::now();
                Waiting {
                    since: now.checked_sub(Duration::from_micros(age_us)).unwrap_or(now),
                    // No two entries are of the same moment.
                    archived_us: if first.is_some_and(|f| f.log_id.index == next) {
                        written_us - 1
                    } else {
                        0
                    },
                }
            }
            // Nothing that waits has a time.
            None if last.is_none_or(|last| Some(last.log_id.index) >= applied.index()) => {
                Waiting { archived_us: applied.timestamp_us, ..Waiting::unknown() }
            }
            None => Waiting::unknown(),
        })
    }

    /// Entries before `next` are missing: the archive goes on there, and needs a base backup of what comes after them.
    fn note_hole(&self, at: &mut Position, reach: &mut Reach, next: u64, message: String) {
        tracing::error!(message, "the archive has a hole; a new base backup is made");
        self.standing.lock().break_before(next, message);
        reach.break_off();
        at.next = next;
        self.consensus.archived_anew_from(next);
    }

    async fn put(
        &self,
        objects: &Objects,
        cluster: &ClusterIdentity,
        at: &mut Position,
        reach: &mut Reach,
        mut entries: Vec<Entry>,
    ) -> Result<(), ArchiveError> {
        pass(Place::ArchiveRead)?;
        for n in 0..entries.len() {
            let Some(replacement) = replacement_of(&entries[n]) else { continue };
            if keep(objects, self.consensus.store().staging(), replacement).await? {
                pass(Place::ArchiveFile)?;
                continue;
            }
            // Without the file the entry cannot be replayed: the archive ends before it, and begins anew after it.
            let index = entries[n].log_id.index;
            entries.truncate(n);
            if !entries.is_empty() {
                self.put_segment(objects, cluster, at, entries).await?;
            }
            let message = format!("the database that entry {index} loaded is not on this member any more");
            self.note_hole(at, reach, index + 1, message);
            return Ok(());
        }
        self.put_segment(objects, cluster, at, entries).await
    }

    async fn put_segment(
        &self,
        objects: &Objects,
        cluster: &ClusterIdentity,
        at: &mut Position,
        entries: Vec<Entry>,
    ) -> Result<(), ArchiveError> {
        let segment = Segment::of(entries, cluster, self.consensus.store());
        let name = segment.name(self.standing.lock().archived_us, None);
        let (stored, _) = objects.at_once().put_sealed(&name.object(), segment.encode()).await?;
        pass(Place::ArchivePut)?;
        self.numbers.segments.fetch_add(1, Ordering::Relaxed);
        self.numbers.bytes.fetch_add(stored, Ordering::Relaxed);
        at.next = name.last + 1;
        self.consensus.archived_before(at.next);
        self.standing.lock().archived_us = name.time_us;
        Ok(())
    }
}

/// How long it is waited after another failure, if it was `pause` after the last one.
fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(AGAIN, LONGEST_AGAIN)
}

#[cfg(test)]
pub(super) mod tests;
