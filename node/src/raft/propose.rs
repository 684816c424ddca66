//! The only caller of `client_write`: groups waiting requests into entries and keeps few of them in flight.
//!
//! While one entry is on its way to a quorum of disks, requests gather for the next: under load one sync and one
//! transaction serve many requests, and an idle member proposes at once.

use super::command::{EncodedRequest, EntryContext, RequestId, encode_execute};
use super::types::{CommandBytes, Raft, Responder, TypeConfig};
use crate::clock;
use crate::identity::Identity;
use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Notify, Semaphore, oneshot};

/// Entries on their way at once.
const IN_FLIGHT: usize = 2;
/// Bytes of requests in one entry, unless a single request is larger.
const GROUP_BYTES: usize = 2 << 20;
/// Bytes of requests that wait: more wait at the door.
const WAITING_BYTES: usize = 64 << 20;

/// What became of a request that was applied.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// The inside of the array `results`.
    pub results: Bytes,
    /// The entry's index.
    pub index: u64,
}

/// Why a request was not applied, as far as known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was never appended; ask the leader.
    #[error("not the leader")]
    NotLeader,
    /// It was appended; a new leader may have kept or discarded it.
    #[error("leadership lost while committing log")]
    OutcomeUnknown,
    /// Raft has stopped on this member.
    #[error("{0}")]
    Stopped(String),
}

type Outcome = Result<Proposed, ProposeError>;

struct Waiting {
    request: EncodedRequest,
    answer: oneshot::Sender<Outcome>,
}

/// Groups requests into proposals.
pub struct Proposer {
    raft: Raft,
    identity: Arc<Identity>,
    queue: Mutex<Vec<Waiting>>,
    room: Semaphore,
    in_flight: AtomicUsize,
    kick: Notify,
    sequence: AtomicU64,
}

impl Proposer {
    /// Starts the proposer on the present runtime.
    pub fn start(raft: Raft, identity: Arc<Identity>) -> Arc<Self> {
        let proposer = Arc::new(Self {
            raft,
            identity,
            queue: Mutex::default(),
            room: Semaphore::new(WAITING_BYTES),
            in_flight: AtomicUsize::new(0),
            kick: Notify::new(),
            sequence: AtomicU64::new(0),
        });
        tokio::spawn(proposer.clone().run());
        proposer
    }

    /// Names a request that this member accepted.
    pub fn next_request_id(&self) -> RequestId {
        RequestId {
            node: self.identity.node_id().0,
            boot: self.identity.boot(),
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Proposes a request and waits until it is applied here.
    pub async fn propose(&self, request: EncodedRequest) -> Outcome {
        let stopped = || ProposeError::Stopped("this member is going down".into());
        let size = request.bytes().len().clamp(1, WAITING_BYTES) as u32;
        let _room = self.room.acquire_many(size).await.map_err(|_| stopped())?;
        let (answer, outcome) = oneshot::channel();
        let first = {
            let mut queue = self.queue.lock();
            queue.push(Waiting { request, answer });
            queue.len() == 1
        };
        if first {
            self.kick.notify_one();
        }
        outcome.await.map_err(|_| stopped())?
    }

    /// Proposes an entry that changes nothing, and returns its index once applied here: a point in the order of
    /// writes.
    pub async fn propose_blank(&self) -> Result<u64, ProposeError> {
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        let written = self.raft.write_blank().await;
        match written {
            Ok(response) => Ok(response.log_id.index),
            Err(openraft::errors::RaftError::APIError(error)) => Err(error.into()),
            Err(openraft::errors::RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(fatal.to_string())),
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            if self.in_flight.load(Ordering::Acquire) >= IN_FLIGHT || self.queue.lock().is_empty() {
                self.kick.notified().await;
                continue;
            }
            let group = self.next_group();
            self.in_flight.fetch_add(1, Ordering::AcqRel);
            if let Err(fatal) = self.submit(group).await {
                tracing::info!(%fatal, "no more proposals");
                self.room.close();
                self.queue.lock().clear();
                return;
            }
        }
    }

    fn next_group(&self) -> Vec<Waiting> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let fits = queue
            .iter()
            .position(|waiting| {
                bytes += waiting.request.bytes().len();
                bytes > GROUP_BYTES
            })
            .map_or(queue.len(), |n| n.max(1));
        let rest = queue.split_off(fits);
        std::mem::replace(&mut *queue, rest)
    }

    async fn submit(
        self: &Arc<Self>,
        group: Vec<Waiting>,
    ) -> Result<(), openraft::errors::Fatal<TypeConfig>> {
        let context = EntryContext { timestamp_us: clock::now_us(), seed: rand::random(), step_limit: 0 };
        let requests: Vec<&[u8]> = group.iter().map(|waiting| waiting.request.bytes()).collect();
        let command = encode_execute(context, requests.into_iter());
        let answers: Vec<_> = group.into_iter().map(|waiting| waiting.answer).collect();
        let proposer = self.clone();
        let respond = move |outcome: ClientWriteResult<TypeConfig>| {
            proposer.in_flight.fetch_sub(1, Ordering::AcqRel);
            proposer.kick.notify_one();
            // Who no longer waits does not want to know.
            match outcome {
                Ok(response) => {
                    let index = response.log_id.index;
                    for (answer, results) in answers.into_iter().zip(response.data.0) {
                        drop(answer.send(Ok(Proposed { results, index })));
                    }
                }
                Err(error) => {
                    let error = ProposeError::from(error);
                    for answer in answers {
                        drop(answer.send(Err(error.clone())));
                    }
                }
            }
        };
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        self.raft.client_write_ff(CommandBytes(command), Some(Responder(Box::new(respond)))).await
    }
}

impl From<ClientWriteError<TypeConfig>> for ProposeError {
    fn from(error: ClientWriteError<TypeConfig>) -> Self {
        match error {
            ClientWriteError::ForwardToLeader(_) => Self::NotLeader,
            ClientWriteError::LogEntryDiscarded(_) => Self::OutcomeUnknown,
            ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
                Self::Stopped(error.to_string())
            }
        }
    }
}
