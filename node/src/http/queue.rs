//! Queued writes: answered before they are applied, applied in order, many at once.
//!
//! What is accepted is in memory only until it is flushed: a client that cannot bear to lose it asks to `wait`. A batch
//! is one request, so a retry of it is never applied twice ([`crate::raft`]), and the next one waits until its outcome
//! is known. A batch is of one caller, because the leader looks whether they may.

use super::counters::{Counter, Counters};
use crate::auth::Caller;
use crate::raft::command::{EncodedRequest, LARGEST_REQUEST, Malformed, RequestFlags};
use crate::raft::{Consensus, LONGEST, RequestError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// Bytes of requests that wait.
const WAITING_BYTES: usize = 64 << 20;
/// Bytes of one batch, unless a single request is larger.
const BATCH_BYTES: usize = 2 << 20;
/// Between two attempts to flush a batch that nobody took.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a batch waits for a leader by whose users its caller may, as they might when it was queued: files of users are
/// not changed everywhere at the same moment.
const USERS_AGREE: Duration = Duration::from_secs(10);

/// How the queue works.
#[derive(Clone, Copy, Debug)]
pub struct QueueConfig {
    /// Requests that wait at most; then more wait at the door.
    pub capacity: usize,
    /// Statements that are flushed at once, unless a single request has more.
    pub batch_size: usize,
    /// How long the first request of a batch waits for others.
    pub timeout: Duration,
    /// A batch is applied whole or not at all.
    pub transaction: bool,
}

/// Why a request was not queued, or not flushed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// There was no room in time.
    #[error("queue full")]
    Full,
    /// The member is going down.
    #[error("the queue is closed: this member is going down")]
    Closed,
    /// It was queued; when it will be flushed is not known.
    #[error("queue wait timeout")]
    WaitTimeout,
    /// It was queued; whether it was applied is not known.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// It was queued, and not applied: who asked may not, by the leader's users.
    #[error("{0}")]
    Unauthorized(String),
    /// The bytes of the request are malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The queue of this member.
pub struct Queue {
    config: QueueConfig,
    consensus: Arc<Consensus>,
    counters: Arc<Counters>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Something came, or the queue was closed.
    kick: Notify,
    /// The last batch was flushed.
    flushed: Notify,
}

struct Waiting {
    items: VecDeque<Item>,
    statements: usize,
    /// The last number given.
    sequence: i64,
    closed: bool,
    /// A batch is on its way.
    busy: bool,
}

struct Item {
    /// None is a mark: whoever waits for it waits for what came before.
    request: Option<EncodedRequest>,
    /// Whose it is, where users are asked for.
    caller: Option<Caller>,
    statements: usize,
    since: Instant,
    done: Option<oneshot::Sender<Result<(), QueueError>>>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// Waits until a request was flushed.
pub type Flushed = oneshot::Receiver<Result<(), QueueError>>;

impl Queue {
    /// Starts a queue on the present runtime. Its numbers begin with the time, so that they grow over restarts.
    pub fn start(config: QueueConfig, consensus: Arc<Consensus>, counters: Arc<Counters>) -> Arc<Self> {
        let waiting = Waiting {
            items: VecDeque::new(),
            statements: 0,
            sequence: crate::clock::now_us().saturating_mul(1000),
            closed: false,
            busy: false,
        };
        let queue = Arc::new(Self {
            config,
            consensus,
            counters,
            requests: Arc::new(Semaphore::new(config.capacity)),
            bytes: Arc::new(Semaphore::new(WAITING_BYTES)),
            waiting: Mutex::new(waiting),
            kick: Notify::new(),
            flushed: Notify::new(),
        });
        tokio::spawn(queue.clone().run());
        queue
    }

    /// How it works.
    pub fn config(&self) -> &QueueConfig {
        &self.config
    }

    /// The last number given.
    pub fn sequence(&self) -> i64 {
        self.waiting.lock().sequence
    }

    /// Queues a request of the present caller, or a mark; waits for room until `deadline`. Returns its number, and what
    /// to wait on for its flush.
    pub async fn push(
        &self,
        request: Option<EncodedRequest>,
        wait: bool,
        deadline: Instant,
    ) -> Result<(i64, Option<Flushed>), QueueError> {
        let size = request.as_ref().map_or(1, |r| r.bytes().len()).clamp(1, WAITING_BYTES) as u32;
        let statements = match &request {
            Some(request) => request.view()?.count as usize,
            None => 0,
        };
        let room = async {
            let one = self.requests.clone().acquire_owned().await.map_err(|_| QueueError::Closed)?;
            let bytes = self.bytes.clone().acquire_many_owned(size).await.map_err(|_| QueueError::Closed)?;
            Ok::<_, QueueError>((one, bytes))
        };
        let room = timeout_at(deadline, room).await.map_err(|_| QueueError::Full)??;
        let (done, flushed) = if wait {
            let (done, flushed) = oneshot::channel();
            (Some(done), Some(flushed))
        } else {
            (None, None)
        };
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(QueueError::Closed);
        }
        waiting.sequence += 1;
        waiting.statements += statements;
        let (caller, since) = (Caller::present(), Instant::now());
        waiting.items.push_back(Item { request, caller, statements, since, done, _room: room });
        let sequence = waiting.sequence;
        drop(waiting);
        self.kick.notify_one();
        Ok((sequence, flushed))
    }

    /// Takes no more requests and flushes what waits, for at most `patience`; returns how many requests were left.
    pub async fn close(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        self.waiting.lock().closed = true;
        self.requests.close();
        self.bytes.close();
        self.kick.notify_one();
        loop {
            let flushed = self.flushed.notified();
            let left = {
                let waiting = self.waiting.lock();
                waiting.items.len() + usize::from(waiting.busy)
            };
            if left == 0 || timeout_at(deadline, flushed).await.is_err() {
                return left;
            }
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            self.await_due().await;
            let batch = self.next_batch();
            if batch.is_empty() {
                if self.waiting.lock().closed {
                    return;
                }
                continue;
            }
            let outcome = self.flush(&batch).await;
            if let Err(error) = &outcome {
                tracing::warn!(%error, requests = batch.len(), "a batch of queued writes was not flushed in order");
            }
            self.waiting.lock().busy = false;
            for item in batch {
                if let Some(done) = item.done {
                    // Who no longer waits does not want to know.
                    drop(done.send(outcome.clone()));
                }
            }
            self.flushed.notify_waiters();
        }
    }

    /// Waits until a batch is full, old enough, asked for by a mark, or the last one.
    async fn await_due(&self) {
        loop {
            let due = {
                let waiting = self.waiting.lock();
                let is_marked = waiting.items.iter().any(|item| item.request.is_none());
                if waiting.closed || is_marked || waiting.statements >= self.config.batch_size {
                    return;
                }
                waiting.items.front().map(|first| first.since + self.config.timeout)
            };
            match due {
                None => self.kick.notified().await,
                Some(due) if due <= Instant::now() => return,
                // Either is a reason to look again.
                Some(due) => drop(timeout_at(due, self.kick.notified()).await),
            }
        }
    }

    fn next_batch(&self) -> Vec<Item> {
        let mut waiting = self.waiting.lock();
        let (mut statements, mut bytes) = (0, 0);
        let mut batch = Vec::new();
        while let Some(next) = waiting.items.front() {
            if batch.first().is_some_and(|first: &Item| first.caller != next.caller) {
                break;
            }
            statements += next.statements;
            bytes += next.request.as_ref().map_or(0, |r| r.bytes().len());
            if !batch.is_empty() && (statements > self.config.batch_size || bytes > BATCH_BYTES) {
                break;
            }
            let Some(next) = waiting.items.pop_front() else { break };
            waiting.statements -= next.statements;
            batch.push(next);
        }
        waiting.busy = !batch.is_empty();
        batch
    }

    /// Applies a batch, however long it takes.
    async fn flush(&self, batch: &[Item]) -> Result<(), QueueError> {
        // Each of them may be as large as a request may be.
        let bytes = |batch: &[Item]| -> usize {
            batch.iter().filter_map(|item| item.request.as_ref()).map(|request| request.bytes().len()).sum()
        };
        if batch.len() > 1 && bytes(batch) > LARGEST_REQUEST {
            let (first, rest) = batch.split_at(batch.len() / 2);
            Box::pin(self.flush(first)).await?;
            return Box::pin(self.flush(rest)).await;
        }
        let parts: Vec<EncodedRequest> = batch.iter().filter_map(|item| item.request.clone()).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let flags = RequestFlags::default().with(RequestFlags::TRANSACTION, self.config.transaction);
        let id = self.consensus.proposer().next_request_id();
        let request = EncodedRequest::merge(&parts, flags, id)?;
        let statements: usize = batch.iter().map(|item| item.statements).sum();
        let caller = batch.first().and_then(|item| item.caller.clone());
        let begun = Instant::now();
        loop {
            let attempt = self.consensus.execute(request.clone(), LONGEST);
            let applied = match caller.clone() {
                None => attempt.await,
                Some(caller) => caller.during(attempt).await,
            };
            match applied {
                Ok(_) => {
                    self.counters.add(Counter::QueuedExecutionsOk, batch.len());
                    self.counters.add(Counter::QueuedStatementsSent, statements);
                    return Ok(());
                }
                // It is in no log: again.
                Err(RequestError::NoLeader) => {
                    self.counters.count(Counter::QueuedExecutionsNoLeader);
                    tokio::time::sleep(PAUSE).await;
                }
                // So is this, once there is room; until then the queue fills up and clients wait.
                Err(RequestError::NoSpace | RequestError::NotReady | RequestError::FatalEntry(_)) => {
                    tokio::time::sleep(PAUSE).await
                }
                Err(RequestError::Unauthorized(_)) if begun.elapsed() < USERS_AGREE => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error @ RequestError::Unauthorized(_)) => {
                    self.counters.add(Counter::QueuedExecutionsFailed, batch.len());
                    return Err(QueueError::Unauthorized(error.to_string()));
                }
                Err(error) => {
                    self.counters.add(Counter::QueuedExecutionsFailed, batch.len());
                    return Err(QueueError::OutcomeUnknown(error.to_string()));
                }
            }
        }
    }
}
