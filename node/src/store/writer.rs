//! The one thread that changes the database, and the handle by which others ask it to.

use super::apply::{Applier, Entry, LocalFailure, Payload, Reply};
use super::attempts::Attempts;
use super::beside_writer::{BesideWriter, Order};
use super::checkpoint::{self, Durable};
use super::checkpoint_schedule::CheckpointSchedule;
use super::extensions::{Loaded, Shelf};
use super::foreign_keys::ForeignKeys;
use super::generation::Generations;
use super::meta::{Applied, LogId, Maintained, StoredMembership};
use super::pages::{Checksum, Pages};
use super::read_gate::Closed;
use super::reader::ReadPool;
use super::replace;
use super::scrub::{PinnedRange, Wake};
use super::snapshot::{PinnedSnapshot, ReadySnapshot};
use super::staging::Staging;
use crate::failpoint::{Place, pass};
use crate::observe::Observe as _;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use tokio::sync::{oneshot, watch};

/// Given the replies of entries, in order, on the writer's thread after the last one's COMMIT; must not block.
pub type Committed = Box<dyn FnOnce(Vec<Reply>) + Send>;

/// What the writer's thread is asked to do.
pub enum Job {
    Apply {
        entries: Vec<Entry>,
        committed: Committed,
        done: oneshot::Sender<Result<(), LocalFailure>>,
    },
    Install {
        snapshot: ReadySnapshot,
        done: oneshot::Sender<Result<(), LocalFailure>>,
    },
    /// The bulk of a checkpoint of the database at this path ended: do the rest.
    FinishCheckpoint {
        path: PathBuf,
        /// If it was insisted on, what keeps queries from beginning.
        bulk: Result<Option<Closed>, LocalFailure>,
    },
    /// The WAL could not be brought to the disk.
    CannotFlush {
        error: LocalFailure,
    },
    /// A checkpoint on demand.
    Checkpoint {
        done: oneshot::Sender<Result<Durable, LocalFailure>>,
    },
    /// Pins the present state on a connection, for the thread that reads the pages.
    PinRange {
        connection: Connection,
        generation: u64,
        done: oneshot::Sender<Result<Option<PinnedRange>, LocalFailure>>,
    },
    /// The checksum of the present state.
    Checksum {
        done: oneshot::Sender<Result<Option<Checksum>, LocalFailure>>,
    },
    /// Tables without statistics.
    Unanalyzed {
        done: oneshot::Sender<Result<Vec<String>, LocalFailure>>,
    },
    /// The present state, with its checksum.
    Pin {
        done: oneshot::Sender<Result<PinnedSnapshot, LocalFailure>>,
    },
    Close {
        done: oneshot::Sender<Result<(), LocalFailure>>,
    },
}

/// Handle of the writer thread.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    state: watch::Receiver<State>,
    met_full_disk: Arc<AtomicBool>,
    wal_limit_pages: Arc<AtomicU64>,
}

/// What the writer has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What is in the database.
    pub applied: Applied,
    /// The last membership in the database.
    pub membership: StoredMembership,
    /// When what is done for the database at an interval was done last.
    pub maintained: Maintained,
    /// Why the last of it came to nothing; unknown after a start.
    pub maintenance_error: Option<String>,
    /// What of it is in the synced database file.
    pub durable: Durable,
    /// Whether entries are executed with foreign keys enforced, and by what.
    pub foreign_keys: ForeignKeys,
    /// Pages in the WAL.
    pub wal_pages: u64,
    /// The present generation.
    pub generation: u64,
    /// Why nothing more can be written.
    pub failure: Option<Arc<str>>,
}

impl State {
    /// All that has been applied is in the synced database file.
    fn all_durable(&mut self) {
        self.durable = Durable { log_id: self.applied.log_id, membership: self.membership.clone() };
    }
}

/// Size of a page, in bytes: databases are made with SQLite's default.
pub const PAGE: u64 = 4096;
const GONE: LocalFailure = LocalFailure::Stopped("the writer");

impl Writer {
    /// Starts the thread on an open database.
    pub fn start(
        (applier, attempts): (Applier, Arc<Attempts>),
        generations: Generations,
        (generation, damaged): (u64, Option<u64>),
        readers: Arc<ReadPool>,
        staging: Staging,
        shelf: Shelf,
        wake_scrub: mpsc::Sender<Wake>,
    ) -> Result<Self, LocalFailure> {
        let (jobs, queue) = mpsc::channel();
        let first = State {
            applied: *applier.applied(),
            membership: applier.membership().clone(),
            maintained: applier.maintained(),
            foreign_keys: applier.foreign_keys(),
            generation,
            ..State::default()
        };
        let (publish, state) = watch::channel(first);
        let (beside, orders) = mpsc::channel();
        let flushing = Arc::new(AtomicBool::new(false));
        let to_writer = jobs.clone();
        let met_full_disk = Arc::new(AtomicBool::new(false));
        let wal_limit_pages = Arc::new(AtomicU64::new(checkpoint::WAL_LIMIT / PAGE));
        let spawn = |name: &str, f: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(f)
                .map_err(|source| LocalFailure::Io { what: "start a thread", source })
        };
        let beside_writer = BesideWriter {
            orders,
            writer: to_writer,
            staging: staging.clone(),
            readers: readers.clone(),
            flushing: flushing.clone(),
        };
        spawn("checkpoint", Box::new(move || beside_writer.run()))?;
        let thread = WriterThread {
            pages: applier.pages().clone(),
            extensions: applier.extensions().clone(),
            foreign_keys: applier.foreign_keys(),
            applier: Some(applier),
            attempts,
            generations,
            generation,
            damaged,
            readers,
            staging,
            shelf,
            publish,
            beside,
            checkpointing: false,
            flushing,
            flushed_pages: 0,
            wake_scrub,
            awaiting: Vec::new(),
            schedule: CheckpointSchedule::first_at(checkpoint::DUE_PAGES),
            met_full_disk: met_full_disk.clone(),
            wal_limit_pages: wal_limit_pages.clone(),
        };
        spawn("writer", Box::new(move || thread.run(&queue)))?;
        Ok(Self { jobs, state, met_full_disk, wal_limit_pages })
    }

    /// The checksum of the present state; none while it is not known.
    pub async fn checksum(&self) -> Result<Option<Checksum>, LocalFailure> {
        self.ask(|done| Job::Checksum { done }).await
    }

    /// Tables whose statistics had better be gathered anew.
    pub async fn unanalyzed(&self) -> Result<Vec<String>, LocalFailure> {
        self.ask(|done| Job::Unanalyzed { done }).await
    }

    /// Pins the present state, between two entries, and says its checksum.
    pub async fn pin(&self) -> Result<PinnedSnapshot, LocalFailure> {
        self.ask(|done| Job::Pin { done }).await
    }

    /// Pins the present state on `connection`; none if the database it is open on is not the present one. Blocks.
    pub fn pin_range(
        &self,
        connection: Connection,
        generation: u64,
    ) -> Result<Option<PinnedRange>, LocalFailure> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::PinRange { connection, generation, done }).map_err(|_| GONE)?;
        answer.blocking_recv().map_err(|_| GONE)?
    }

    /// Applies committed entries in order; resolves after the last one's COMMIT, and after `committed` has the replies.
    pub async fn apply(&self, entries: Vec<Entry>, committed: Committed) -> Result<(), LocalFailure> {
        self.ask(|done| Job::Apply { entries, committed, done }).await
    }

    /// Makes a received snapshot the present database.
    pub async fn install(&self, snapshot: ReadySnapshot) -> Result<(), LocalFailure> {
        self.ask(|done| Job::Install { snapshot, done }).await
    }

    /// Moves the WAL into the database file as far as readers allow; returns how far that is on disk then.
    pub async fn checkpoint(&self) -> Result<Durable, LocalFailure> {
        self.ask(|done| Job::Checkpoint { done }).await
    }

    /// Ends the thread after what was asked before.
    pub async fn close(&self) -> Result<(), LocalFailure> {
        self.ask(|done| Job::Close { done }).await
    }

    /// What the writer has reached, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// From which size of the WAL on, in bytes, long queries have to give way to checkpoints.
    pub fn set_wal_limit(&self, bytes: u64) {
        self.wal_limit_pages.store(bytes / PAGE, Ordering::Relaxed);
    }

    /// Whether the writer stopped because the disk was full.
    pub fn met_full_disk(&self) -> bool {
        self.met_full_disk.load(Ordering::Acquire)
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, LocalFailure>>) -> Job,
    ) -> Result<T, LocalFailure> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(job(done)).map_err(|_| GONE)?;
        answer.await.map_err(|_| GONE)?
    }
}

struct WriterThread {
    /// None once closed or failed.
    applier: Option<Applier>,
    attempts: Arc<Attempts>,
    pages: Arc<Pages>,
    generations: Generations,
    generation: u64,
    /// A damaged generation, in whose place the present one is.
    damaged: Option<u64>,
    readers: Arc<ReadPool>,
    staging: Staging,
    shelf: Shelf,
    /// Those that queries are run with.
    extensions: Arc<Loaded>,
    /// What queries are told of them.
    foreign_keys: ForeignKeys,
    publish: watch::Sender<State>,
    /// At most one order of each kind waits there: `checkpointing`, `flushing`.
    beside: mpsc::Sender<Order>,
    checkpointing: bool,
    flushing: Arc<AtomicBool>,
    /// Pages in the WAL when it was last asked to be brought to the disk.
    flushed_pages: u64,
    wake_scrub: mpsc::Sender<Wake>,
    /// Who asked for a checkpoint meanwhile.
    awaiting: Vec<oneshot::Sender<Result<Durable, LocalFailure>>>,
    schedule: CheckpointSchedule,
    met_full_disk: Arc<AtomicBool>,
    wal_limit_pages: Arc<AtomicU64>,
}

impl WriterThread {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Apply { entries, committed, done } => {
                    let result = self.apply(&entries).map(committed);
                    if let Err(error) = &result {
                        // What is in the database is consistent up to some entry; nothing may come after a failure.
                        self.fail(error);
                    }
                    drop(done.send(result));
                }
                Job::Install { snapshot, done } => {
                    let result = self.install(&snapshot);
                    if let Err(error) = &result {
                        self.fail(error);
                    }
                    drop(done.send(result));
                }
                Job::Checksum { done } => {
                    let sum = self.applier.as_ref().ok_or(GONE).and_then(Applier::checksum);
                    drop(done.send(sum));
                }
                Job::Unanalyzed { done } => {
                    let tables = self.applier.as_ref().ok_or(GONE).and_then(Applier::unanalyzed);
                    drop(done.send(tables));
                }
                Job::Pin { done } => drop(done.send(self.pin())),
                Job::PinRange { connection, generation, done } => {
                    let present = generation == self.generation;
                    let pinned = present.then(|| PinnedRange::pin(connection, &self.pages)).transpose();
                    drop(done.send(pinned));
                }
                Job::FinishCheckpoint { path, bulk } => {
                    self.checkpointing = false;
                    let quiet = self.note_bulk(&path, bulk);
                    // Reported where it happened; later jobs find the writer stopped.
                    drop(self.checkpoint());
                    drop(quiet);
                    for done in std::mem::take(&mut self.awaiting) {
                        drop(done.send(self.checkpoint()));
                    }
                    self.schedule_checkpoint();
                }
                Job::CannotFlush { error } => {
                    tracing::error!(%error, "the WAL cannot be synced; this member stops writing");
                    self.fail(&error);
                }
                Job::Checkpoint { done } => self.checkpoint_for(done),
                Job::Close { done } => {
                    // What is in the WAL need not be applied again at the next start.
                    let settled = if self.applier.is_some() { self.checkpoint().map(drop) } else { Ok(()) };
                    let closed = self.applier.take().map_or(Ok(()), |a| a.close().1);
                    drop(done.send(settled.and(closed)));
                    return;
                }
            }
        }
    }

    /// Takes notice of how the bulk of a checkpoint of the database at `path` ended; returns what keeps queries from
    /// beginning.
    fn note_bulk(&mut self, path: &Path, bulk: Result<Option<Closed>, LocalFailure>) -> Option<Closed> {
        match bulk {
            Ok(quiet) => return quiet,
            // The frames stay in the WAL, where they are; there may be room at the next checkpoint.
            Err(error) if error.is_full_disk() => tracing::warn!(%error, "no room for a checkpoint"),
            Err(error) if path != self.path() => {
                tracing::debug!(%error, "another database took the place of one that was checkpointed");
            }
            // The writer's own part would sync once more, and a sync that succeeds says nothing of the pages of one that did
            // not: the WAL would start anew over what the database file lacks.
            Err(error) => {
                tracing::error!(%error, "checkpoint beside the writer failed; this member stops writing");
                self.fail(&error);
            }
        }
        None
    }

    /// Nothing more can be written.
    fn fail(&mut self, error: &LocalFailure) {
        self.applier = None;
        self.publish.send_modify(|state| {
            // What comes after the first one comes of it.
            state.failure.get_or_insert_with(|| error.to_string().into());
        });
        if error.is_full_disk() {
            self.met_full_disk.store(true, Ordering::Release);
            self.attempts.excuse();
        }
    }

    fn pin(&self) -> Result<PinnedSnapshot, LocalFailure> {
        let checksum = self.applier.as_ref().ok_or(GONE)?.checksum()?;
        let mut pinned = PinnedSnapshot::pin(&self.path())?;
        pinned.checksum = checksum;
        Ok(pinned)
    }

    /// The present database's file.
    fn path(&self) -> PathBuf {
        self.generations.path(self.generation)
    }

    /// Whether the database's file is a staged one as well, which nothing may write to: then a checkpoint waits until the
    /// staged one is another file.
    fn is_shared(&self) -> Result<bool, LocalFailure> {
        let shared = self.staging.is_shared(&self.path());
        shared.map_err(|source| LocalFailure::Io { what: "look for staged databases", source })
    }

    /// Has the other thread begin a checkpoint, which is then on its way.
    fn begin_bulk(&mut self) {
        let wal_pages = self.applier.as_ref().map_or(0, Applier::wal_pages);
        let urgency = self.schedule.begin(wal_pages, self.wal_limit_pages.load(Ordering::Relaxed));
        let order = Order::Checkpoint { path: self.path(), urgency };
        self.checkpointing |= self.beside.send(order).is_ok();
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Reply>, LocalFailure> {
        let place = |place| pass(place).map_err(|source| LocalFailure::Io { what: "apply entries", source });
        place(Place::ApplyBegun)?;
        let mut replies = Vec::with_capacity(entries.len());
        for entry in entries {
            replies.push(self.apply_one(entry)?);
            place(Place::ApplyCommitted)?;
        }
        let applier = self.applier.as_mut().ok_or(GONE)?;
        let pages = applier.wal_pages();
        if applier.has_lost_pages() {
            self.read_pages_anew();
        }
        self.publish(|_| {});
        self.order_beside(pages);
        Ok(replies)
    }

    /// Has done beside this thread what is due at so many pages in the WAL.
    fn order_beside(&mut self, wal_pages: u64) {
        self.flushed_pages = self.flushed_pages.min(wal_pages);
        let is_due = self.schedule.is_due(wal_pages);
        if self.checkpointing {
            // Its first step is the same sync.
        } else if is_due {
            self.begin_bulk();
        } else if wal_pages - self.flushed_pages >= checkpoint::FLUSH_PAGES
            && !self.flushing.swap(true, Ordering::AcqRel)
            && self.beside.send(Order::Flush { path: self.path() }).is_ok()
        {
            self.flushed_pages = wal_pages;
        }
    }

    fn apply_one(&mut self, entry: &Entry) -> Result<Reply, LocalFailure> {
        let applier = self.applier.as_mut().ok_or(GONE)?;
        let is_new = applier.applied().log_id.is_none_or(|last| entry.log_id.index > last.index);
        if is_new && matches!(entry.payload, Payload::Command(_)) {
            let what = "note which entry is applied";
            let LogId { index, term, .. } = entry.log_id;
            self.attempts.begin(index, term).map_err(|source| LocalFailure::Io { what, source })?;
            pass(Place::ApplyNoted).map_err(|source| LocalFailure::Io { what: "apply an entry", source })?;
        }
        match replace::replacement_of(entry)? {
            Some(by) if is_new => {
                let (staging, generations) = (&self.staging, &self.generations);
                let ready = replace::prepare(staging, generations, self.generation, applier, entry, by)?;
                self.install(&ready)?;
                Ok(if entry.wants_reply { vec![bytes::Bytes::new()] } else { Reply::new() })
            }
            Some(_) => Ok(Reply::new()),
            None => {
                let reply = applier.apply(entry)?;
                let (extensions, foreign_keys) = (applier.extensions().clone(), applier.foreign_keys());
                if extensions.set() != self.extensions.set() {
                    tracing::info!(extensions = %extensions.set(), "entries are executed by other extensions from now on");
                    self.extensions = extensions;
                    self.switch_readers();
                }
                if foreign_keys != self.foreign_keys {
                    let enforced = foreign_keys.are_enforced();
                    tracing::info!(enforced, "the state says whether foreign keys are enforced from now on");
                    self.foreign_keys = foreign_keys;
                    self.switch_readers();
                }
                Ok(reply)
            }
        }
    }

    /// Queries run on the present database from now on, by what entries are executed by.
    fn switch_readers(&self) {
        self.readers.switch_to(&self.path(), self.foreign_keys.are_enforced(), &self.extensions);
    }

    /// Says when the next checkpoint is due, after one.
    fn schedule_checkpoint(&mut self) {
        let Some(wal_pages) = self.applier.as_ref().map(Applier::wal_pages) else { return };
        if self.schedule.ended(wal_pages, self.wal_limit_pages.load(Ordering::Relaxed)) {
            let ended = self.readers.give_way(checkpoint::GIVE_WAY_AGE);
            if ended > 0 {
                tracing::info!(ended, wal_pages, "queries had to give way to a checkpoint");
            }
        }
    }

    /// A checkpoint for somebody who asked.
    fn checkpoint_for(&mut self, done: oneshot::Sender<Result<Durable, LocalFailure>>) {
        let all_durable = |state: &State| state.durable.log_id == state.applied.log_id;
        // A staged file takes long to become another one, and entries do not wait for it.
        if !self.checkpointing && !self.publish.observe(all_durable) && matches!(self.is_shared(), Ok(true)) {
            self.begin_bulk();
        }
        // Two at once would be in each other's way.
        match self.checkpointing {
            true => self.awaiting.push(done),
            false => drop(done.send(self.checkpoint())),
        }
    }

    /// One checkpoint on this thread; returns how far the database file is on disk after it.
    fn checkpoint(&mut self) -> Result<Durable, LocalFailure> {
        let applier = self.applier.as_ref().ok_or(GONE)?;
        if self.is_shared()? {
            return Ok(self.publish.observe(|state| state.durable.clone()));
        }
        let outcome = checkpoint::passive(applier.connection()).and_then(|complete| {
            let io = |source| LocalFailure::Io { what: "checkpoint", source };
            pass(Place::CheckpointSynced).map(|()| complete).map_err(io)
        });
        match &outcome {
            Ok(true) => self.publish(State::all_durable),
            Ok(false) => {}
            // The frames stay in the WAL, where they are; there may be room at the next checkpoint.
            Err(error) if error.is_full_disk() => tracing::warn!(%error, "no room for a checkpoint"),
            Err(error) => {
                tracing::error!(%error, "checkpoint failed; this member stops writing");
                self.fail(error);
                outcome?;
            }
        }
        Ok(self.publish.observe(|state| state.durable.clone()))
    }

    fn install(&mut self, snapshot: &ReadySnapshot) -> Result<(), LocalFailure> {
        // Without them this member stays with the state that it has.
        let extensions = self.shelf.load(&snapshot.meta.extensions)?;
        let applier = self.applier.take().ok_or(GONE)?;
        let (vfs, closed) = applier.close();
        closed?;
        let io = |what| move |source| LocalFailure::Io { what, source };
        let place = |place| pass(place).map_err(io("install a snapshot"));
        place(Place::InstallClosed)?;
        self.generations.activate(snapshot.generation).map_err(io("activate a snapshot"))?;
        let old = std::mem::replace(&mut self.generation, snapshot.generation);
        let path = self.generations.path(snapshot.generation);
        self.extensions = extensions;
        self.foreign_keys.present = snapshot.meta.foreign_keys;
        self.switch_readers();
        let (shelf, pages) = (self.shelf.clone(), self.pages.clone());
        self.applier = Some(Applier::open(&path, vfs, self.foreign_keys.configured, shelf, pages)?);
        self.read_pages_anew();
        place(Place::InstallOpened)?;
        let due_pages = if self.is_shared()? { checkpoint::SHARED_DUE_PAGES } else { checkpoint::DUE_PAGES };
        self.schedule = CheckpointSchedule::first_at(due_pages);
        // Before the old one goes: who does not find that any more finds this one.
        self.publish(State::all_durable);
        // Only this one: a snapshot may be on its way into another.
        self.generations.remove(old).map_err(io("remove the old database"))?;
        if let Some(damaged) = self.damaged.take() {
            self.generations.remove(damaged).map_err(io("remove the damaged database"))?;
        }
        self.staging.release(&path).map_err(io("close files of the old database"))?;
        place(Place::InstallRemoved)?;
        Ok(())
    }

    fn read_pages_anew(&self) {
        if self.wake_scrub.send(Wake::Anew).is_err() {
            tracing::warn!("nothing reads the pages any more: the checksum of the database stays unknown");
        }
    }

    fn publish(&self, change: impl FnOnce(&mut State)) {
        let Some(applier) = &self.applier else { return };
        self.publish.send_modify(|state| {
            state.applied = *applier.applied();
            state.maintained = applier.maintained();
            state.foreign_keys = applier.foreign_keys();
            if state.maintenance_error.as_deref() != applier.maintenance_error() {
                state.maintenance_error = applier.maintenance_error().map(str::to_owned);
            }
            if state.membership.log_id != applier.membership().log_id {
                state.membership = applier.membership().clone();
            }
            state.wal_pages = applier.wal_pages();
            state.generation = self.generation;
            change(state);
        });
    }
}
