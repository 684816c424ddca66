//! The only caller of `client_write`: groups waiting requests into entries and keeps few of them in flight.
//!
//! While one entry is on its way to a quorum of disks, requests gather for the next: under load one sync and one
//! transaction serve many requests, and an idle member proposes at once.
//!
//! Everything that changes the database goes through a gate. Whoever closes it ([`Proposer::fence`]) knows that what was
//! proposed before has its outcome, and that nothing more is proposed until it opens: requests wait. What only orders
//! (reads at level `strong`) or is Raft's own (members) passes beside it.

use super::command::{
    ChangesCommand, EncodedRequest, EntryContext, MaintenanceCommand, Replacement, RequestId, encode_changes,
    encode_execute, encode_extensions, encode_foreign_keys, encode_maintenance, encode_replace, encode_skip,
};
use super::types::{CommandBytes, LeaderId, Raft, Responder, TypeConfig};
use super::waiters::{Leadership, Waiters};
use crate::clock;
use crate::identity::Identity;
use crate::store::ExtensionSet;
use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{
    Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, RwLock, Semaphore,
};
use tokio::time::{Instant, sleep_until};

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

struct Queued {
    request: EncodedRequest,
    id: RequestId,
    /// Only this leader may append it.
    leader: Leadership,
    /// It is not proposed any more after this.
    not_after: Option<Instant>,
    /// Of the room for requests: it may wait for longer than whoever sent it.
    room: OwnedSemaphorePermit,
}

impl Queued {
    fn is_late(&self, now: Instant) -> bool {
        self.not_after.is_some_and(|at| at < now)
    }
}

/// Wakes the proposer when dropped.
struct Kick<'a>(&'a Notify);

impl Drop for Kick<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Has passed the gate: held until the outcome of what it let through is known.
type Pass = OwnedRwLockReadGuard<()>;

/// While this lives nothing that changes the database is proposed here: requests wait.
#[derive(Debug)]
pub struct Fence(#[expect(dead_code, reason = "it is held, and let go")] OwnedRwLockWriteGuard<()>);

/// Groups requests into proposals.
pub struct Proposer {
    raft: Raft,
    identity: Arc<Identity>,
    waiters: Arc<Waiters>,
    queue: Mutex<Vec<Queued>>,
    room: Arc<Semaphore>,
    in_flight: AtomicUsize,
    kick: Notify,
    gate: Arc<RwLock<()>>,
    sequence: AtomicU64,
    step_limit: u64,
}

/// The world of an entry in which no client's statement is executed.
fn own_context() -> EntryContext {
    EntryContext { timestamp_us: clock::now_us(), seed: rand::random(), step_limit: 0 }
}

impl Proposer {
    /// Starts the proposer on the present runtime.
    pub fn start(raft: Raft, identity: Arc<Identity>, waiters: Arc<Waiters>, step_limit: u64) -> Arc<Self> {
        let proposer = Arc::new(Self {
            raft,
            identity,
            waiters,
            queue: Mutex::default(),
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            in_flight: AtomicUsize::new(0),
            kick: Notify::new(),
            gate: Arc::default(),
            sequence: AtomicU64::new(0),
            step_limit,
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

    /// Queues a request to be appended by `leader`, if that is this member now. Whoever holds a ticket for it learns
    /// what becomes of it.
    pub async fn submit(
        &self,
        request: EncodedRequest,
        leader: Leadership,
        not_after: Option<Instant>,
    ) -> Result<(), ProposeError> {
        let stopped = || ProposeError::Stopped("this member is going down".into());
        let id = request.id().map_err(|error| ProposeError::Stopped(error.to_string()))?;
        let size = request.bytes().len().clamp(1, WAITING_BYTES) as u32;
        let room = self.room.clone().acquire_many_owned(size).await.map_err(|_| stopped())?;
        let first = {
            let mut queue = self.queue.lock();
            queue.push(Queued { request, id, leader, not_after, room });
            queue.len() == 1
        };
        if first {
            // Other requests that have arrived are read before the entry is made of them all. Kicked also where this
            // request is given up meanwhile: the others count on it.
            let _kick = Kick(&self.kick);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Closes the gate, once what was proposed here before has its outcome. As soon as this is called what comes later
    /// waits; who gives up lets it go on.
    pub async fn fence(&self) -> Fence {
        Fence(self.gate.clone().write_owned().await)
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

    /// Proposes what is to become of the capture of changes, if this member leads; returns the entry's index once applied
    /// here.
    pub async fn propose_changes(&self, command: &ChangesCommand) -> Result<u64, ProposeError> {
        self.propose_own(encode_changes(own_context(), command)).await
    }

    /// Proposes something for the database itself, if this member leads; returns the entry's index once applied here.
    pub async fn propose_maintenance(&self, command: &MaintenanceCommand) -> Result<u64, ProposeError> {
        self.propose_own(encode_maintenance(own_context(), command)).await
    }

    /// Proposes that entries after this one are executed by the extensions `set`, if this member leads; returns the
    /// entry's index once applied here.
    pub async fn propose_extensions(&self, set: &ExtensionSet) -> Result<u64, ProposeError> {
        self.propose_own(encode_extensions(own_context(), set)).await
    }

    /// Proposes that entries after this one are executed with foreign keys enforced, or without, if this member leads;
    /// returns the entry's index once applied here.
    pub async fn propose_foreign_keys(&self, enforced: bool) -> Result<u64, ProposeError> {
        self.propose_own(encode_foreign_keys(own_context(), enforced)).await
    }

    /// Proposes that entry `index` is passed over, if this member leads; returns the proposed entry's index once applied
    /// here.
    pub async fn propose_skip(&self, index: u64) -> Result<u64, ProposeError> {
        self.propose_own(encode_skip(own_context(), index)).await
    }

    /// Proposes a command that no client waits for.
    async fn propose_own(&self, command: Bytes) -> Result<u64, ProposeError> {
        let _pass = self.gate.read().await;
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        let written = self.raft.client_write(CommandBytes(command)).await;
        match written {
            Ok(response) => Ok(response.log_id.index),
            Err(openraft::errors::RaftError::APIError(error)) => Err(error.into()),
            Err(openraft::errors::RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(fatal.to_string())),
        }
    }

    /// Proposes another database in the place of the present one, by `leader`, if that is this member now. `request`
    /// names who waits for it. It passes beside the gate: who proposes it may have closed that, and loads are one at a
    /// time.
    pub async fn propose_replacement(
        &self,
        replacement: &Replacement,
        request: &EncodedRequest,
        leader: Leadership,
    ) -> Result<(), ProposeError> {
        let id = request.id().map_err(|error| ProposeError::Stopped(error.to_string()))?;
        let command = encode_replace(own_context(), replacement, request);
        let waiters = self.waiters.clone();
        let respond = move |outcome: ClientWriteResult<TypeConfig>| match outcome {
            // Told where it was applied, or by what is applied here.
            Ok(_) | Err(ClientWriteError::LogEntryDiscarded(_)) => {}
            Err(_) => waiters.not_appended([id]),
        };
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        self.raft
            .write(CommandBytes(command))
            .with_leader(LeaderId { term: leader.term, node_id: leader.node })
            .responder(Responder(Box::new(respond)))
            .await
            .map_err(|fatal| ProposeError::Stopped(fatal.to_string()))
    }

    async fn run(self: Arc<Self>) {
        loop {
            if self.in_flight.load(Ordering::Acquire) >= IN_FLIGHT || self.queue.lock().is_empty() {
                self.kick.notified().await;
                continue;
            }
            let Some(pass) = self.pass_gate().await else { continue };
            let group = self.next_group();
            if group.is_empty() {
                continue;
            }
            self.in_flight.fetch_add(1, Ordering::AcqRel);
            if let Err(fatal) = self.propose(group, pass).await {
                tracing::info!(%fatal, "no more proposals");
                self.room.close();
                self.queue.lock().clear();
                self.waiters.skipped();
                return;
            }
        }
    }

    /// Passes the gate; none if what waits has to be looked at first, because some of it is too late now or there is more
    /// of it.
    async fn pass_gate(&self) -> Option<Pass> {
        if let Ok(pass) = self.gate.clone().try_read_owned() {
            return Some(pass);
        }
        let next_late = self.queue.lock().iter().filter_map(|queued| queued.not_after).min();
        let too_late = async {
            match next_late {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            pass = self.gate.clone().read_owned() => Some(pass),
            () = self.kick.notified() => None,
            () = too_late => {
                self.drop_late(&mut self.queue.lock());
                None
            }
        }
    }

    /// Tells those who wait behind a deadline that is over.
    fn drop_late(&self, queue: &mut Vec<Queued>) {
        if queue.iter().any(|queued| queued.not_after.is_some()) {
            let now = Instant::now();
            self.waiters.too_late(queue.iter().filter(|queued| queued.is_late(now)).map(|queued| queued.id));
            queue.retain(|queued| !queued.is_late(now));
        }
    }

    /// What is queued, up to the size of a group, for one leader.
    fn next_group(&self) -> Vec<Queued> {
        let mut queue = self.queue.lock();
        self.drop_late(&mut queue);
        let leader = queue.first().map(|first| first.leader);
        let mut bytes = 0;
        let fits = queue
            .iter()
            .position(|queued| {
                bytes += queued.request.bytes().len();
                bytes > GROUP_BYTES || Some(queued.leader) != leader || queued.request.is_vacuum()
            })
            .map_or(queue.len(), |n| n.max(1));
        // A VACUUM has an entry to itself: nothing before it, and nothing after it.
        let fits = if queue.first().is_some_and(|first| first.request.is_vacuum()) { 1 } else { fits };
        let rest = queue.split_off(fits);
        std::mem::replace(&mut *queue, rest)
    }

    async fn propose(
        self: &Arc<Self>,
        group: Vec<Queued>,
        pass: Pass,
    ) -> Result<(), openraft::errors::Fatal<TypeConfig>> {
        let Some(Leadership { term, node }) = group.first().map(|first| first.leader) else { return Ok(()) };
        let context =
            EntryContext { timestamp_us: clock::now_us(), seed: rand::random(), step_limit: self.step_limit };
        let command = encode_execute(context, group.iter().map(|queued| queued.request.bytes()));
        let ids: Vec<RequestId> = group.iter().map(|queued| queued.id).collect();
        self.waiters.proposed(&ids);
        let room: Vec<OwnedSemaphorePermit> = group.into_iter().map(|queued| queued.room).collect();
        let proposer = self.clone();
        let respond = move |outcome: ClientWriteResult<TypeConfig>| {
            proposer.in_flight.fetch_sub(1, Ordering::AcqRel);
            proposer.kick.notify_one();
            drop((room, pass));
            match outcome {
                // Told where it was applied.
                Ok(_) => {}
                // Another leader may have it still: what is applied here will tell.
                Err(ClientWriteError::LogEntryDiscarded(_)) => {}
                Err(_) => proposer.waiters.not_appended(ids),
            }
        };
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        self.raft
            .write(CommandBytes(command))
            .with_leader(LeaderId { term, node_id: node })
            .responder(Responder(Box::new(respond)))
            .await
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
