//! The continuous archive: the leader puts committed entries into the store as they come, so that a restore can bring back
//! the state after any of them.
//!
//! A new leader goes on where the store's segments end. Entries stay in every member's log until they are archived
//! ([`crate::raft`]), so the next leader has what the last one did not get to; if it has not, there is a hole, which is
//! said, and closed by a new base backup. Base backups are made once in a while, so that a restore replays little.

mod standing;

use super::catalogue::Contents;
use super::full::{BackupFailure, Progress, Source, make_backup};
use super::manifest::Manifest;
use super::objects::{ObjectError, Objects};
use super::replaced::{ReplacedError, keep, replacement_of};
use super::repository::Known;
use super::segment::{self, Segment};
use super::until::ArchivedUntil;
use crate::failpoint::{Place, pass};
use crate::identity::ClusterIdentity;
use crate::raft::Consensus;
use crate::reload::Reloaded;
use crate::store::{Entry, sqlite_version};
use client::backup::{BackupKind, ContinuousConfig};
use parking_lot::Mutex;
use standing::{Standing, Waiting};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// How often a member looks whether it leads, and how the archive is doing is said anew.
const LOOK: Duration = Duration::from_millis(200);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// While nothing is written it is noted no more often than this up to when everything is archived.
const NOTE: Duration = Duration::from_secs(60);
/// Between two attempts to make a base backup.
const BASE_AGAIN: Duration = Duration::from_secs(30);
/// Segments come at least this far apart, unless they are full.
const SHORTEST: Duration = Duration::from_millis(200);
/// So many bytes of entries are looked through for one that has a time.
const SOME: usize = 64 << 10;
/// Name of base backups.
const BASE: &str = "base";

/// The archive does not get on at the moment.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    /// The volumes were put back to an earlier moment: what the members write now is another history than what is archived.
    #[error(
        "the store has entries up to {archived} of this epoch, and the cluster ends at {last}: its volumes are of an earlier \
         moment. Archive to another prefix, or restore the archive's latest state"
    )]
    Ahead { archived: u64, last: u64 },
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error(transparent)]
    Replaced(#[from] ReplacedError),
    #[error("read the log: {0}")]
    Log(#[from] io::Error),
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

/// Where the archive goes on.
struct Position {
    /// The first entry that is not archived.
    next: u64,
    /// When the newest base backup was made.
    base_at: Option<jiff::Timestamp>,
    /// When the next one may be begun.
    base_due: Instant,
    /// When it may be noted next up to when everything is archived.
    note_due: Instant,
}

/// Base backups in the making: one at most.
type Bases = JoinSet<Result<Manifest, BackupFailure>>;

/// What of an epoch in the store can be restored; none if the credentials only write.
async fn readable(objects: &Objects, epoch: u64) -> Result<Option<Contents>, ObjectError> {
    let mut contents = match Contents::read(objects, Some(epoch)).await {
        Ok(contents) => contents,
        Err(error) if error.is_refusal() => return Ok(None),
        Err(error) => return Err(error),
    };
    // Those from before there were keys are not restored with them.
    contents.manifests.retain(|manifest| objects.accepts(manifest.backup.encrypted));
    Ok(Some(contents))
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
            let goes_on = || self.consensus.is_leader() && Arc::ptr_eq(&known, &self.repository.current());
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
        // A base backup in the making outlives a failure of the archive.
        let mut bases = Bases::new();
        let archiving = async {
            while goes_on() {
                if let Err(error) = self.archive(objects, settings, cluster, &goes_on, &mut bases).await {
                    let error = error.to_string();
                    let said = self.standing.lock().trouble.replace(error.clone());
                    if said.as_ref() != Some(&error) {
                        tracing::warn!(error, "the archive does not get on; trying again");
                    }
                    sleep(AGAIN).await;
                }
            }
        };
        tokio::select! {
            () = archiving => {}
            () = self.keep_reporting(settings) => {}
        }
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
        bases: &mut Bases,
    ) -> Result<(), ArchiveError> {
        let mut at = self.find_position(objects, cluster.epoch).await?;
        self.standing.lock().trouble = None;
        let pause = Duration::from_secs(settings.rpo_target_seconds.into()) / 2;
        let pause = pause.max(SHORTEST);
        while goes_on() {
            let begun = Instant::now();
            let is_full = self.go_on(objects, settings, cluster, &mut at, bases).await?;
            if !is_full {
                tokio::select! {
                    () = sleep_until(begun + pause) => {}
                    () = self.consensus.archive_is_to_hurry() => {}
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
        bases: &mut Bases,
    ) -> Result<bool, ArchiveError> {
        let begun = Instant::now();
        if let Some(made) = bases.try_join_next() {
            self.take_base(made?, at);
        }
        if self.trimmed.swap(false, Ordering::AcqRel) {
            let looked = self.look_back(objects, cluster.epoch, at).await;
            if !looked.inspect_err(|_| self.trimmed.store(true, Ordering::Release))? {
                at.base_due = begun;
            }
        }
        if bases.is_empty() && begun >= at.base_due && is_base_due(at, settings) {
            let (source, objects) = (self.source(), objects.clone());
            bases.spawn(async move {
                make_backup(&source, &objects, BASE, BackupKind::Base, Arc::new(Progress::default())).await
            });
        }
        let applied = self.consensus.store().applied().index().map_or(0, |index| index + 1);
        let (consensus, next) = (self.consensus.clone(), at.next);
        let entries =
            tokio::task::spawn_blocking(move || consensus.entries_applied(next, segment::BYTES)).await??;
        // The log has what is present: without what was purged, or came with another member's database.
        let first = entries.first().map_or(applied, |entry| entry.log_id.index);
        if first > at.next {
            let message = format!("entries {} to {} are in no member's log any more", at.next, first - 1);
            self.note_hole(at, first, message);
        }
        let is_full = entries.iter().map(segment::size_of).sum::<usize>() >= segment::BYTES;
        if !entries.is_empty() {
            self.put(objects, cluster, at, entries).await?;
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

    fn source(&self) -> Source {
        Source { store: self.consensus.store().clone(), member: self.consensus.config().name.clone() }
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

    /// Where the archive of the epoch ends, as the store and the other members say.
    async fn find_position(&self, objects: &Objects, epoch: u64) -> Result<Position, ArchiveError> {
        // Credentials that only write are enough to archive; then what was there before is not known.
        let read = readable(objects, epoch).await?;
        let is_readable = read.is_some();
        let mut contents = read.unwrap_or_default();
        // Those that are kept with a backup go with it.
        contents.segments.retain(|segment| segment.of.is_none());
        let archived = contents.last_archived(epoch).map_or(0, |last| last + 1);
        // A leader has all that was ever archived of its epoch, unless time was turned back.
        let last = self.consensus.report().last_log_index;
        if archived > last + 1 {
            return Err(ArchiveError::Ahead { archived: archived - 1, last });
        }
        let next = match archived.max(self.consensus.next_to_archive()) {
            // What comes before the base backup that is to be made serves nothing.
            0 => match contents.manifests.last() {
                Some(base) => base.backup.index + 1,
                None => self.consensus.store().applied().index().map_or(0, |index| index + 1),
            },
            next => next,
        };
        self.consensus.archived_before(next);
        if archived == 0 {
            // A backup of somebody's own says nothing of what came after it: without segments the archive needs its own,
            // or nothing would be reached by a time until there is a write.
            contents.manifests.retain(|manifest| manifest.backup.kind == BackupKind::Base);
        }
        let waiting = self.waiting_from(next).await?;
        let mut standing = self.standing.lock();
        if !standing.is_found {
            (standing.is_found, standing.caught_up_at) = (true, waiting.since);
        }
        if is_readable || standing.unbroken_from.is_none() {
            standing.unbroken_from = Some(contents.unbroken_from(epoch, next));
        }
        let last = next.saturating_sub(1);
        let first = contents.first_base(epoch, last);
        standing.reach_from(first.map(Manifest::moment_us));
        if standing.hole.is_none() && first.is_none() {
            // The leader before found it, and its base backup did not come.
            standing.hole = contents.hole_before(epoch, next);
        }
        let segment_us = contents.segments.last().map(|segment| segment.time_us);
        // Entries are replayed by the present version of SQLite, so a base backup of its own comes first.
        let of_this_version = |base: &&Manifest| base.backup.sqlite_version == sqlite_version();
        let base = first.and_then(|_| contents.newest_base(epoch, last));
        let base = base.filter(of_this_version);
        standing.archived_us = segment_us.or(first.map(|base| base.entry_time_us)).unwrap_or(0);
        let base_at = base.and_then(|base| base.backup.time.parse().ok());
        let now = Instant::now();
        Ok(Position { next, base_at, base_due: now, note_due: now })
    }

    /// Finds out from when on moments can be reached, after something was deleted; false if none can.
    async fn look_back(
        &self,
        objects: &Objects,
        epoch: u64,
        at: &mut Position,
    ) -> Result<bool, ArchiveError> {
        // Who may only write has not deleted it either.
        let Some(contents) = readable(objects, epoch).await? else { return Ok(true) };
        let of_later = || contents.manifests.iter().find(|manifest| manifest.backup.index >= at.next);
        let first = contents.first_base(epoch, at.next.saturating_sub(1)).or_else(of_later);
        if first.is_none() {
            at.base_at = None;
        }
        self.standing.lock().reach_from(first.map(Manifest::moment_us));
        Ok(first.is_some())
    }

    /// Entries before `next` are missing: the archive goes on there, and needs a base backup of what comes after them.
    fn note_hole(&self, at: &mut Position, next: u64, message: String) {
        tracing::error!(message, "the archive has a hole; a new base backup is made");
        self.standing.lock().break_before(next, message);
        at.base_at = None;
        at.next = next;
        self.consensus.archived_anew_from(next);
    }

    fn take_base(&self, made: Result<Manifest, BackupFailure>, at: &mut Position) {
        at.base_due = Instant::now() + BASE_AGAIN;
        match made {
            Ok(manifest) => {
                let (index, bytes) = (manifest.backup.index, manifest.backup.stored_bytes);
                let mut standing = self.standing.lock();
                if !standing.is_closed_by(index) {
                    // It was begun before the hole: what is archived now does not go on from it.
                    tracing::info!(
                        index,
                        bytes,
                        "made a base backup of before the hole; another one is made"
                    );
                    at.base_due = Instant::now();
                    return;
                }
                tracing::info!(index, bytes, "made a base backup");
                at.base_at = manifest.backup.time.parse().ok();
                let earliest_us = standing.earliest_us.unwrap_or(manifest.moment_us());
                standing.reach_from(Some(earliest_us));
            }
            Err(error) => {
                tracing::warn!(%error, "a base backup was not made; trying again");
                self.standing.lock().trouble = Some(error.to_string());
            }
        }
    }

    async fn put(
        &self,
        objects: &Objects,
        cluster: &ClusterIdentity,
        at: &mut Position,
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
            self.note_hole(at, index + 1, message);
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

fn is_base_due(at: &Position, settings: &ContinuousConfig) -> bool {
    let Some(made) = at.base_at else { return true };
    let age = crate::clock::now().duration_since(made);
    age > jiff::SignedDuration::from_hours(settings.base_every_hours.into())
}

#[cfg(test)]
mod tests;
