//! The continuous archive: the leader puts committed entries into the store as they come, so that a restore can bring back
//! the state after any of them.
//!
//! A new leader goes on where the store's segments end. Entries stay in every member's log until they are archived
//! ([`crate::raft`]), so the next leader has what the last one did not get to; if it has not, there is a hole, which is
//! said, and closed by a new base backup. Base backups are made once in a while, so that a restore replays little.

use super::catalogue::{Contents, time_text};
use super::full::{BackupFailure, Progress, Source, make_backup};
use super::manifest::Manifest;
use super::objects::{ObjectError, Objects};
use super::replaced::{ReplacedError, keep, replacement_of};
use super::repository::Known;
use super::segment::{self, Segment};
use crate::failpoint::{Place, pass};
use crate::identity::ClusterIdentity;
use crate::raft::Consensus;
use crate::reload::Reloaded;
use crate::store::{Entry, sqlite_version};
use client::backup::{ArchiveReport, ArchiveState, BackupKind, ContinuousConfig};
use parking_lot::Mutex;
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
/// Between two attempts to make a base backup.
const BASE_AGAIN: Duration = Duration::from_secs(30);
/// Segments come at least this far apart, unless they are full.
const SHORTEST: Duration = Duration::from_millis(200);
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

/// How the archive is doing.
#[derive(Clone, Debug)]
struct Standing {
    /// The last moment at which everything that was applied was archived.
    caught_up_at: Instant,
    /// Clock of the last archived entry, in microseconds since 1970.
    archived_us: i64,
    /// Clock of the first moment that can be reached without a hole since; none before there is a base backup.
    earliest_us: Option<i64>,
    /// There is a hole that the next base backup closes.
    hole: Option<String>,
    /// Why it did not get on last.
    trouble: Option<String>,
}

impl Standing {
    fn new() -> Self {
        Self { caught_up_at: Instant::now(), archived_us: 0, earliest_us: None, hole: None, trouble: None }
    }

    fn report(&self, target: Duration, lag: Duration) -> ArchiveReport {
        let state = match (&self.hole, self.earliest_us) {
            (Some(_), _) => ArchiveState::Broken,
            _ if lag > target => ArchiveState::Behind,
            (None, None) => ArchiveState::Starting,
            (None, Some(_)) => ArchiveState::OnTarget,
        };
        let is_well = state == ArchiveState::OnTarget;
        let reached_us = self.archived_us.max(self.earliest_us.unwrap_or(0));
        ArchiveReport {
            state,
            earliest: self.earliest_us.map(time_text),
            latest: (!is_well && reached_us > 0).then(|| time_text(reached_us)),
            message: if is_well { None } else { self.hole.clone().or_else(|| self.trouble.clone()) },
        }
    }
}

/// Where the archive goes on.
struct Position {
    /// The first entry that is not archived.
    next: u64,
    /// When the newest base backup was made.
    base_at: Option<jiff::Timestamp>,
}

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
        let standing = Mutex::new(Standing::new());
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
            *self.standing.lock() = Standing::new();
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
        let mut bases = JoinSet::new();
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
            self.consensus.report_archive(Some(standing.report(target, lag)));
            sleep(LOOK).await;
        }
    }

    async fn archive(
        &self,
        objects: &Objects,
        settings: &ContinuousConfig,
        cluster: &ClusterIdentity,
        goes_on: &impl Fn() -> bool,
        bases: &mut JoinSet<Result<Manifest, BackupFailure>>,
    ) -> Result<(), ArchiveError> {
        let mut at = self.find_position(objects, cluster.epoch).await?;
        self.standing.lock().trouble = None;
        let pause = Duration::from_secs(settings.rpo_target_seconds.into()) / 2;
        let pause = pause.max(SHORTEST);
        let mut base_due = Instant::now();
        while goes_on() {
            let begun = Instant::now();
            if let Some(made) = bases.try_join_next() {
                base_due = Instant::now() + BASE_AGAIN;
                self.take_base(made?, &mut at);
            }
            if self.trimmed.swap(false, Ordering::AcqRel) {
                let looked = self.look_back(objects, cluster.epoch, &mut at).await;
                if !looked.inspect_err(|_| self.trimmed.store(true, Ordering::Release))? {
                    base_due = begun;
                }
            }
            if bases.is_empty() && begun >= base_due && is_base_due(&at, settings) {
                let (source, objects) = (self.source(), objects.clone());
                bases.spawn(async move {
                    make_backup(&source, &objects, BASE, BackupKind::Base, Arc::new(Progress::default()))
                        .await
                });
            }
            let applied = self.consensus.store().applied().index().map_or(0, |index| index + 1);
            let (consensus, next) = (self.consensus.clone(), at.next);
            let entries =
                tokio::task::spawn_blocking(move || consensus.entries_applied(next, segment::BYTES))
                    .await??;
            // The log has what is present: without what was purged, or came with another member's database.
            let first = entries.first().map_or(applied, |entry| entry.log_id.index);
            if first > at.next {
                self.note_hole(&mut at, first);
            }
            let is_full = entries.iter().map(segment::size_of).sum::<usize>() >= segment::BYTES;
            if !entries.is_empty() {
                self.put(objects, cluster, &mut at, entries).await?;
            }
            {
                let mut standing = self.standing.lock();
                standing.trouble = None;
                if !is_full {
                    standing.caught_up_at = begun;
                }
            }
            if !is_full {
                tokio::select! {
                    () = sleep_until(begun + pause) => {}
                    () = self.consensus.archive_is_to_hurry() => {}
                }
            }
        }
        Ok(())
    }

    fn source(&self) -> Source {
        Source { store: self.consensus.store().clone(), member: self.consensus.config().name.clone() }
    }

    /// Where the archive of the epoch ends, as the store and the other members say.
    async fn find_position(&self, objects: &Objects, epoch: u64) -> Result<Position, ArchiveError> {
        // Credentials that only write are enough to archive; then what was there before is not known.
        let mut contents = readable(objects, epoch).await?.unwrap_or_default();
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
        let mut standing = self.standing.lock();
        let last = next.saturating_sub(1);
        let first = contents.first_base(epoch, last);
        standing.earliest_us = first.map(Manifest::moment_us);
        let segment_us = contents.segments.last().map(|segment| segment.time_us);
        // Entries are replayed by the present version of SQLite, so a base backup of its own comes first.
        let of_this_version = |base: &&Manifest| base.backup.sqlite_version == sqlite_version();
        let base = first.and_then(|_| contents.newest_base(epoch, last));
        let base = base.filter(of_this_version);
        standing.archived_us = segment_us.or(first.map(|base| base.entry_time_us)).unwrap_or(0);
        Ok(Position { next, base_at: base.and_then(|base| base.backup.time.parse().ok()) })
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
        self.standing.lock().earliest_us = first.map(Manifest::moment_us);
        Ok(first.is_some())
    }

    /// The log begins after what is archived.
    fn note_hole(&self, at: &mut Position, first: u64) {
        let message = format!("entries {} to {} are in no member's log any more", at.next, first - 1);
        tracing::error!(message, "the archive has a hole; a new base backup is made");
        self.standing.lock().hole = Some(message);
        self.begin_anew(at, first);
    }

    /// The archive goes on at `next`, and needs a base backup.
    fn begin_anew(&self, at: &mut Position, next: u64) {
        self.standing.lock().earliest_us = None;
        at.base_at = None;
        at.next = next;
        self.consensus.archived_anew_from(next);
    }

    fn take_base(&self, made: Result<Manifest, BackupFailure>, at: &mut Position) {
        match made {
            Ok(manifest) => {
                tracing::info!(
                    index = manifest.backup.index,
                    bytes = manifest.backup.stored_bytes,
                    "made a base backup"
                );
                at.base_at = manifest.backup.time.parse().ok();
                let mut standing = self.standing.lock();
                standing.earliest_us.get_or_insert(manifest.moment_us());
                standing.hole = None;
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
            tracing::error!(message, "the archive has a hole; a new base backup is made");
            self.standing.lock().hole = Some(message);
            self.begin_anew(at, index + 1);
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
