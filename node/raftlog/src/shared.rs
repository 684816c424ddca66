//! What the handle and the flush thread share: one lock, held for moments.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::Cache;
use crate::index::Index;
use crate::log::Callback;
use crate::segment::Segment;
use crate::state::LogState;
use crate::stats::Stats;
use crate::writer::Writer;
use crate::{LogError, PoisonHook, SubmitError};

/// A record on its way to the disk.
#[derive(Debug)]
pub(crate) enum Op {
    Vote(Bytes),
    Append {
        index: u64,
        payload: Bytes,
    },
    /// First index to drop.
    Truncate {
        next: u64,
    },
    Purge {
        upto: u64,
        id: Bytes,
    },
    /// Nothing, but in order.
    Barrier,
}

pub(crate) struct Queued {
    pub op: Op,
    pub callback: Option<Callback>,
}

/// What the flush thread waits for, so that nobody wakes it in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// It does not wait.
    No,
    /// For a submission, or for the log to have been idle long enough.
    UntilIdle,
    /// For a submission.
    Forever,
}

pub(crate) struct Inner {
    /// After everything submitted.
    pub state: LogState,
    pub cache: Cache,
    /// Of everything written.
    pub index: Index,
    /// In log order.
    pub segments: Vec<Arc<Segment>>,
    pub queue: Vec<Queued>,
    /// Number of records submitted so far.
    pub submitted: u64,
    pub stats: Stats,
    is_committed_pending: bool,
    waiting: Waiting,
    is_closing: bool,
    failure: Option<LogError>,
}

/// What the flush thread shall do next.
pub(crate) enum Work {
    /// Write and sync the batch; `submitted` is the number of its last record.
    Flush { submitted: u64, committed: Option<Bytes> },
    /// The log is idle: write what needs no sync.
    WriteIdle { committed: Option<Bytes> },
    /// Write what is left and end.
    Close { committed: Option<Bytes> },
    /// The log is poisoned; the batch holds what was submitted before anybody knew.
    Fail(LogError),
}

pub(crate) struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
    on_poison: Option<PoisonHook>,
}

impl Shared {
    pub(crate) fn new(state: LogState, index: Index, on_poison: Option<PoisonHook>) -> Self {
        let inner = Inner {
            cache: Cache::starting_at(state.next),
            state,
            index,
            segments: Vec::new(),
            queue: Vec::new(),
            submitted: 0,
            stats: Stats::default(),
            is_committed_pending: false,
            waiting: Waiting::No,
            is_closing: false,
            failure: None,
        };
        Self { inner: Mutex::new(inner), wake: Condvar::new(), on_poison }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Changes the log and queues what makes the change durable, in one step, so that the order of both is the same.
    pub(crate) fn submit(
        &self,
        change: impl FnOnce(&mut Inner) -> Result<(), SubmitError>,
    ) -> Result<(), SubmitError> {
        let mut inner = self.inner.lock();
        inner.check_open()?;
        change(&mut inner)?;
        self.wake_flush(inner, Waiting::UntilIdle);
        Ok(())
    }

    /// Notes the committed hint; the flush thread takes it along.
    pub(crate) fn submit_committed(&self, hint: Bytes) -> Result<(), SubmitError> {
        let mut inner = self.inner.lock();
        inner.check_open()?;
        inner.state.committed = Some(hint);
        inner.is_committed_pending = true;
        self.wake_flush(inner, Waiting::Forever);
        Ok(())
    }

    /// Lets the flush thread finish.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.is_closing = true;
        self.wake_flush(inner, Waiting::UntilIdle);
    }

    /// Ends the log for good. Only the first failure counts, and only it is told to the hook.
    pub(crate) fn poison(&self, error: &LogError) {
        let mut inner = self.inner.lock();
        if inner.failure.is_some() {
            return;
        }
        inner.failure = Some(error.clone());
        self.wake_flush(inner, Waiting::UntilIdle);
        tracing::error!(error = error as &dyn std::error::Error, "the log is poisoned");
        if let Some(hook) = &self.on_poison {
            hook(error);
        }
    }

    pub(crate) fn failure(&self) -> Option<LogError> {
        self.inner.lock().failure.clone()
    }

    /// Waits for something to do. Everything submitted so far is moved to the end of `batch`.
    pub(crate) fn next_work(&self, batch: &mut Vec<Queued>, needs_witness: bool, idle: Duration) -> Work {
        let deadline = Instant::now() + idle;
        let mut inner = self.inner.lock();
        loop {
            if let Some(error) = inner.failure.clone() {
                batch.append(&mut inner.queue);
                return Work::Fail(error);
            }
            if !inner.queue.is_empty() {
                std::mem::swap(batch, &mut inner.queue);
                return Work::Flush { submitted: inner.submitted, committed: inner.take_committed() };
            }
            if inner.is_closing {
                return Work::Close { committed: inner.take_committed() };
            }
            if !needs_witness && !inner.is_committed_pending {
                inner.waiting = Waiting::Forever;
                self.wake.wait(&mut inner);
            } else if Instant::now() < deadline {
                inner.waiting = Waiting::UntilIdle;
                self.wake.wait_until(&mut inner, deadline);
            } else {
                return Work::WriteIdle { committed: inner.take_committed() };
            }
            inner.waiting = Waiting::No;
        }
    }

    /// Makes a synced batch findable, and tells whether it may be acknowledged.
    pub(crate) fn publish(
        &self,
        writer: &mut Writer,
        batch: &[Queued],
        submitted: u64,
        duration: Duration,
        cache_bytes: usize,
    ) -> Result<(), LogError> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.stats.record_flush(duration);
        inner.stats.bytes_written = writer.bytes_written();
        let (mut slots, opened) = writer.take_output();
        inner.segments.extend(opened);
        for queued in batch {
            match &queued.op {
                Op::Append { index, .. } => {
                    if let Some(slot) = slots.next() {
                        inner.index.push(*index, slot);
                    }
                }
                Op::Truncate { next } => inner.index.truncate(*next),
                Op::Purge { upto, .. } => inner.index.purge(upto + 1),
                Op::Vote(_) | Op::Barrier => {}
            }
        }
        inner.cache.evict(submitted, cache_bytes);
        // The helper may have failed meanwhile: from then on nothing is acknowledged.
        inner.failure.clone().map_or(Ok(()), Err)
    }

    /// Makes segments unfindable, so that they can be retired.
    pub(crate) fn forget(&self, segments: &[Arc<Segment>]) {
        self.inner.lock().segments.retain(|segment| !segments.iter().any(|gone| Arc::ptr_eq(gone, segment)));
    }

    /// Wakes the flush thread if it waits for as little as `least`.
    fn wake_flush(&self, mut inner: MutexGuard<'_, Inner>, least: Waiting) {
        let waits = inner.waiting == Waiting::Forever
            || (inner.waiting == Waiting::UntilIdle && least == Waiting::UntilIdle);
        if waits {
            inner.waiting = Waiting::No;
            drop(inner);
            self.wake.notify_one();
        }
    }
}

impl Inner {
    /// Queues a record.
    pub(crate) fn enqueue(&mut self, op: Op, callback: Option<Callback>) {
        self.submitted += 1;
        self.queue.push(Queued { op, callback });
    }

    fn check_open(&self) -> Result<(), SubmitError> {
        match &self.failure {
            Some(error) => Err(SubmitError::Poisoned(error.clone())),
            None if self.is_closing => Err(SubmitError::Closed),
            None => Ok(()),
        }
    }

    fn take_committed(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.is_committed_pending) { self.state.committed.clone() } else { None }
    }
}
