//! The one thread that changes the database, and the handle by which others ask it to.

use super::apply::{Applier, Entry, LocalFailure, Reply};
use super::checkpoint::{self, Durable};
use super::generation::Generations;
use super::meta::{Applied, StoredMembership};
use super::reader::ReadPool;
use super::snapshot::ReadySnapshot;
use std::sync::Arc;
use std::sync::mpsc;
use tokio::sync::{oneshot, watch};

/// Given the replies of entries, in order, on the writer's thread after the last one's COMMIT; must not block.
pub type Committed = Box<dyn FnOnce(Vec<Reply>) + Send>;

enum Job {
    Apply {
        entries: Vec<Entry>,
        committed: Committed,
        done: oneshot::Sender<Result<(), LocalFailure>>,
    },
    Install {
        snapshot: ReadySnapshot,
        done: oneshot::Sender<Result<(), LocalFailure>>,
    },
    /// The bulk of a checkpoint is done: do the rest.
    FinishCheckpoint,
    /// A checkpoint on demand.
    Checkpoint {
        done: oneshot::Sender<Result<Durable, LocalFailure>>,
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
}

/// What the writer has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What is in the database.
    pub applied: Applied,
    /// The last membership in the database.
    pub membership: StoredMembership,
    /// What of it is in the synced database file.
    pub durable: Durable,
    /// Pages in the WAL.
    pub wal_pages: u64,
    /// The present generation.
    pub generation: u64,
}

impl State {
    /// All that has been applied is in the synced database file.
    fn all_durable(&mut self) {
        self.durable = Durable { log_id: self.applied.log_id, membership: self.membership.clone() };
    }
}

const GONE: LocalFailure = LocalFailure::Stopped("the writer");

impl Writer {
    /// Starts the thread on an open database.
    pub fn start(
        applier: Applier,
        generations: Generations,
        generation: u64,
        readers: Arc<ReadPool>,
        foreign_keys: bool,
    ) -> Result<Self, LocalFailure> {
        let (jobs, queue) = mpsc::channel();
        let first = State {
            applied: *applier.applied(),
            membership: applier.membership().clone(),
            generation,
            ..State::default()
        };
        let (publish, state) = watch::channel(first);
        let (kick, bulk) = mpsc::sync_channel(1);
        let to_writer = jobs.clone();
        let spawn = |name: &str, f: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(f)
                .map_err(|source| LocalFailure::Io { what: "start a thread", source })
        };
        spawn("checkpoint", Box::new(move || checkpoint_loop(&bulk, &to_writer)))?;
        let thread = WriterThread {
            applier: Some(applier),
            generations,
            generation,
            readers,
            foreign_keys,
            publish,
            kick,
            checkpointing: false,
        };
        spawn("writer", Box::new(move || thread.run(&queue)))?;
        Ok(Self { jobs, state })
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

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, LocalFailure>>) -> Job,
    ) -> Result<T, LocalFailure> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(job(done)).map_err(|_| GONE)?;
        answer.await.map_err(|_| GONE)?
    }
}

/// Does the bulk of checkpoints beside the writer, until the writer is gone.
fn checkpoint_loop(bulk: &mpsc::Receiver<std::path::PathBuf>, writer: &mpsc::Sender<Job>) {
    while let Ok(path) = bulk.recv() {
        if let Err(error) = checkpoint::bulk(&path) {
            // The writer's own part meets the same error if it is real, and stops the node.
            tracing::warn!(%error, "checkpoint beside the writer failed");
        }
        if writer.send(Job::FinishCheckpoint).is_err() {
            return;
        }
    }
}

struct WriterThread {
    /// None once closed or failed.
    applier: Option<Applier>,
    generations: Generations,
    generation: u64,
    readers: Arc<ReadPool>,
    foreign_keys: bool,
    publish: watch::Sender<State>,
    kick: mpsc::SyncSender<std::path::PathBuf>,
    checkpointing: bool,
}

impl WriterThread {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                Job::Apply { entries, committed, done } => {
                    let result = self.apply(&entries).map(committed);
                    let failed = result.is_err();
                    drop(done.send(result));
                    if failed {
                        // What is in the database is consistent up to some entry; nothing may come after a failure.
                        self.applier = None;
                    }
                }
                Job::Install { snapshot, done } => {
                    let result = self.install(&snapshot);
                    if result.is_err() {
                        self.applier = None;
                    }
                    drop(done.send(result));
                }
                Job::FinishCheckpoint => {
                    self.checkpointing = false;
                    // Reported where it happened; later jobs find the writer stopped.
                    drop(self.checkpoint());
                }
                Job::Checkpoint { done } => drop(done.send(self.checkpoint())),
                Job::Close { done } => {
                    let closed = self.applier.take().map_or(Ok(()), |a| a.close().1);
                    drop(done.send(closed));
                    return;
                }
            }
        }
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Reply>, LocalFailure> {
        let applier = self.applier.as_mut().ok_or(GONE)?;
        let replies = entries.iter().map(|entry| applier.apply(entry)).collect::<Result<Vec<_>, _>>()?;
        self.publish(|_| {});
        if let Some(applier) = &self.applier
            && applier.wal_pages() >= checkpoint::DUE_PAGES
            && !self.checkpointing
        {
            self.checkpointing = self.kick.try_send(self.generations.path(self.generation)).is_ok();
        }
        Ok(replies)
    }

    /// One checkpoint on this thread; returns how far the database file is on disk after it.
    fn checkpoint(&mut self) -> Result<Durable, LocalFailure> {
        let applier = self.applier.as_ref().ok_or(GONE)?;
        let outcome = checkpoint::passive(applier.connection());
        match &outcome {
            Ok(true) => self.publish(State::all_durable),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "checkpoint failed; this member stops writing");
                self.applier = None;
            }
        }
        outcome.map(|_| self.publish.borrow().durable.clone())
    }

    fn install(&mut self, snapshot: &ReadySnapshot) -> Result<(), LocalFailure> {
        let applier = self.applier.take().ok_or(GONE)?;
        let (vfs, closed) = applier.close();
        closed?;
        let io = |what| move |source| LocalFailure::Io { what, source };
        self.generations.activate(snapshot.generation).map_err(io("activate a snapshot"))?;
        self.generation = snapshot.generation;
        let path = self.generations.path(snapshot.generation);
        self.readers.switch_to(&path);
        self.applier = Some(Applier::open(&path, vfs, self.foreign_keys)?);
        self.generations.remove_others(Some(snapshot.generation)).map_err(io("remove the old database"))?;
        self.publish(State::all_durable);
        Ok(())
    }

    fn publish(&self, change: impl FnOnce(&mut State)) {
        let Some(applier) = &self.applier else { return };
        self.publish.send_modify(|state| {
            state.applied = *applier.applied();
            if state.membership.log_id != applier.membership().log_id {
                state.membership = applier.membership().clone();
            }
            state.wal_pages = applier.wal_pages();
            state.generation = self.generation;
            change(state);
        });
    }
}
