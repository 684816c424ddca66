//! Requests to other members with answers in any order, many at once on one connection for each member.
//!
//! ```text
//! request = id u64 · kind u8 · body        answer = id u64 · status u8 (0 = fine, 1 = error message) · body
//! ```

use super::addresses::{Addresses, LOOK_AROUND};
use super::connection::{self, ConnectError, FrameReader, Greeting, Hello, Purpose, put_frame, write_out};
use super::execute::LONGEST;
use super::outlived::Outlived;
use super::refused_peers::{Reason, RefusedPeers};
use super::rolled_back::{Accusation, RolledBack};
use super::types::Raft;
use super::whereabouts::Whereabouts;
use super::wire::{get_u8, get_u64};
use crate::identity::{Identity, Start};
use crate::tls::{PeerSocket, PeerTls, ReadHalf};
use bytes::{BufMut, Bytes, BytesMut};
use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A vote.
    Vote = 1,
    /// A vote that commits to nothing.
    PreVote = 2,
    /// Take over leadership.
    TransferLeader = 3,
    /// A forwarded write.
    Execute = 16,
    /// A forwarded query.
    Query = 17,
    /// A change of the membership, or of leadership, for the leader to make.
    Administer = 18,
    /// Let me in.
    Join = 19,
    /// I am here, and new: for `-bootstrap-expect`.
    Notify = 20,
    /// Who are you?
    Describe = 21,
    /// Up to which index has a quorum confirmed your lead?
    ReadIndex = 22,
    /// Which checksums do you have?
    Checksums = 23,
    /// Send me your state: mine is wrong.
    Reinstall = 24,
    /// A write or a query of a request that is traced. Only for members that know it.
    Traced = 25,
    /// A call for a client, whose name is in it. Only for members that know it.
    OnBehalf = 26,
    /// Your volume was put back to an earlier state. Only for members that know it.
    RolledBack = 27,
}

impl Kind {
    /// From its number.
    pub fn from_u8(number: u8) -> Option<Self> {
        use Kind as K;
        [
            K::Vote,
            K::PreVote,
            K::TransferLeader,
            K::Execute,
            K::Query,
            K::Administer,
            K::Join,
            K::Notify,
            K::Describe,
            K::ReadIndex,
            K::Checksums,
            K::Reinstall,
            K::Traced,
            K::OnBehalf,
            K::RolledBack,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It was never sent.
    #[error(transparent)]
    NotSent(#[from] ConnectError),
    /// It was sent, or may have been; the connection broke before the answer.
    #[error("the connection to {0} broke before the answer")]
    Broken(String),
    /// It was sent; there was no answer in time.
    #[error("no answer from {0} in time")]
    TimedOut(String),
    /// The other member could not do it.
    #[error("{0}")]
    Remote(String),
    /// It was not done: who asks may not, by the other member's users.
    #[error("remote {0} not authorized")]
    Unauthorized(&'static str),
}

/// Connections to other members, made when needed.
pub struct Peers {
    identity: Arc<Identity>,
    tls: Option<Arc<PeerTls>>,
    addresses: Addresses,
    connections: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Way>>>>,
    reconnections: AtomicU64,
    rolled_back: RolledBack,
    outlived: Outlived,
    refused: RefusedPeers,
}

/// The way to one address. Whoever holds its lock makes the connection that all use.
#[derive(Default)]
struct Way {
    connection: Option<Connection>,
    /// When the last attempt to make one began that failed, and why.
    failed: Option<(Instant, ConnectError)>,
}

impl Way {
    /// A connection that still serves for what `hello` says.
    fn open(&self, hello: &Hello) -> Option<Connection> {
        let connection = self.connection.as_ref()?;
        let serves = !connection.pending.lock().closed
            && connection.cluster_id == hello.cluster_id
            && (hello.to == 0 || connection.to == hello.to);
        serves.then(|| connection.clone())
    }
}

#[derive(Clone)]
struct Connection {
    to: u64,
    /// As a member of which cluster it was made: one made before this member was of a cluster is a stranger's.
    cluster_id: String,
    requests: mpsc::Sender<BytesMut>,
    pending: Arc<Mutex<Pending>>,
    next_id: Arc<AtomicU64>,
}

#[derive(Default)]
struct Pending {
    closed: bool,
    waiting: HashMap<u64, oneshot::Sender<Result<Bytes, String>>>,
}

/// Requests that wait to be written to one connection.
const QUEUED: usize = 1024;

impl Peers {
    /// Speaks for the member `identity`, by `tls` if there is any.
    pub fn new(identity: Arc<Identity>, tls: Option<Arc<PeerTls>>) -> Self {
        Self {
            identity,
            tls,
            addresses: Addresses::default(),
            connections: Mutex::default(),
            reconnections: AtomicU64::new(0),
            rolled_back: RolledBack::default(),
            outlived: Outlived::default(),
            refused: RefusedPeers::default(),
        }
    }

    /// Whose volume was put back to an earlier state.
    pub fn rolled_back(&self) -> &RolledBack {
        &self.rolled_back
    }

    /// Whether the cluster went on without this member.
    pub fn outlived(&self) -> &Outlived {
        &self.outlived
    }

    /// Who was not let in, or not talked to.
    pub fn refused(&self) -> &RefusedPeers {
        &self.refused
    }

    /// A new connection to member `to` (0: whoever it is) at `address`; returns the id of who answered too. One whose volume
    /// is not what it was is not talked to.
    pub async fn connect(
        &self,
        purpose: Purpose,
        to: u64,
        address: &str,
    ) -> Result<(PeerSocket, u64), ConnectError> {
        self.dial(address, &self.hello(purpose, to)).await
    }

    async fn dial(&self, address: &str, hello: &Hello) -> Result<(PeerSocket, u64), ConnectError> {
        let acknowledged = self.rolled_back.acknowledged(hello.to);
        let dialled = connection::connect(&self.addresses, address, hello, self.tls.as_deref()).await;
        match &dialled {
            Err(ConnectError::RolledBack { why, leads, .. }) => {
                self.rolled_back.note(hello.to, *leads, why);
            }
            // Who was not called by its id is at an address that may be another cluster's.
            Err(ConnectError::Outlived { why, .. }) if hello.to != 0 => self.outlived.note(why),
            _ => {}
        }
        let (socket, Greeting { id, told }) = dialled?;
        // Who was not called by its id may be of another cluster.
        if hello.to != 0 {
            let (start, held) = told.unzip();
            if let Err((message, is_new)) = self.rolled_back.meet(id, start, acknowledged, held) {
                if is_new {
                    self.refused.count(Reason::RolledBack);
                    tracing::error!(address, message, "a member is not talked to any more");
                }
                if let Some(start) = start
                    && let Err(error) = self.tell_rolled_back((id, start), address, &message).await
                {
                    tracing::debug!(address, %error, "it could not be told why");
                }
                return Err(ConnectError::Refused { address: address.to_owned(), message });
            }
        }
        Ok((socket, id))
    }

    /// Tells a member that its volume is not what it was: the last word to it, if it still is that start.
    async fn tell_rolled_back(
        &self,
        (to, start): (u64, Start),
        address: &str,
        why: &str,
    ) -> Result<(), ConnectError> {
        let hello = self.hello(Purpose::Calls, to);
        let (socket, _) = connection::connect(&self.addresses, address, &hello, self.tls.as_deref()).await?;
        let (read, mut write) = socket.into_split();
        let mut frame = BytesMut::new();
        put_frame(&mut frame, |out| {
            out.put_u64_le(0);
            out.put_u8(Kind::RolledBack as u8);
            let (by, leads) = (self.identity.node_id().0, self.rolled_back.leads());
            Accusation { by, leads, start, why: why.to_owned() }.put(out);
        });
        let said = async {
            write_out(&mut write, &mut frame).await?;
            FrameReader::new(read).next().await
        };
        let unreachable = |error: io::Error| ConnectError::unreachable(address, error);
        let answered = tokio::time::timeout(connection::CONNECT_TIMEOUT, said).await;
        answered.map_err(|late| unreachable(late.into()))?.map_err(unreachable)?;
        Ok(())
    }

    /// The preface of this member.
    fn hello(&self, purpose: Purpose, to: u64) -> Hello {
        let cluster = self.identity.cluster();
        Hello {
            purpose,
            from: self.identity.node_id().0,
            to,
            epoch: cluster.as_ref().map_or(0, |c| c.epoch),
            cluster_id: cluster.map(|c| c.cluster_id).unwrap_or_default(),
            start: Some(self.identity.start()),
        }
    }

    /// Asks member `to` (0: whoever it is) at `address`. Waits `timeout` for the answer, and for the connection.
    pub async fn call(
        self: &Arc<Self>,
        to: u64,
        address: &str,
        kind: Kind,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let begun = tokio::time::Instant::now();
        // A duration too long for the clock is as good as none.
        let deadline = begun.checked_add(timeout).unwrap_or(begun + LONGEST);
        let connected = timeout_at(deadline, self.connection(to, address)).await;
        let late = |_| Err(ConnectError::unreachable(address, io::ErrorKind::TimedOut));
        connected.unwrap_or_else(late)?.ask(address, kind, body, deadline).await
    }

    /// Asks whoever is at `address`, of whichever cluster, as somebody of none does.
    pub async fn ask_as_stranger(&self, address: &str, kind: Kind) -> Result<Bytes, CallError> {
        let hello = Hello { cluster_id: String::new(), epoch: 0, ..self.hello(Purpose::Calls, 0) };
        let (stream, answered) =
            connection::connect(&self.addresses, address, &hello, self.tls.as_deref()).await?;
        let connection = Connection::start(stream, answered.id, hello.cluster_id);
        let deadline = tokio::time::Instant::now() + connection::CONNECT_TIMEOUT;
        connection.ask(address, kind, &[], deadline).await
    }

    async fn connection(self: &Arc<Self>, to: u64, address: &str) -> Result<Connection, ConnectError> {
        let way = self.connections.lock().entry(address.to_owned()).or_default().clone();
        let hello = self.hello(Purpose::Calls, to);
        if let Ok(way) = way.try_lock()
            && let Some(connection) = way.open(&hello)
        {
            return Ok(connection);
        }
        // In a task of its own: a caller without much time gives up alone, and what it began is there for the next.
        let (peers, place, asked) = (self.clone(), address.to_owned(), Instant::now());
        let connecting = tokio::spawn(async move {
            let mut way = way.lock_owned().await;
            if let Some(connection) = way.open(&hello) {
                return Ok(connection);
            }
            // Who has waited for an attempt that failed does not make the same one.
            if let Some((began, error)) = &way.failed
                && *began >= asked
                && let Some(error) = error.for_others()
            {
                return Err(error);
            }
            let began = Instant::now();
            match peers.dial(&place, &hello).await {
                Ok((stream, answered)) => {
                    if way.connection.is_some() {
                        peers.reconnections.fetch_add(1, Ordering::Relaxed);
                    }
                    let connection = Connection::start(stream, answered, hello.cluster_id);
                    way.connection = Some(connection.clone());
                    Ok(connection)
                }
                Err(error) => {
                    way.failed = error.for_others().map(|error| (began, error));
                    Err(error)
                }
            }
        });
        connecting.await.unwrap_or_else(|error| Err(ConnectError::unreachable(address, error)))
    }

    /// Connections for calls that took the place of one before, since the start.
    pub fn reconnections(&self) -> u64 {
        self.reconnections.load(Ordering::Relaxed)
    }

    /// Knows where members are before anybody needs it, until Raft ends.
    pub async fn look_around(self: Arc<Self>, whereabouts: Whereabouts, raft: Raft) {
        let mut watch = raft.server_metrics();
        let mut ended = pin!(async { while watch.changed().await.is_ok() {} });
        loop {
            let names: Vec<String> = whereabouts.all().into_iter().map(|(_, address)| address).collect();
            self.addresses.look_around(&names).await;
            if tokio::time::timeout(LOOK_AROUND, &mut ended).await.is_ok() {
                return;
            }
        }
    }

    /// Drops what is connected: for a member that goes down.
    pub fn close(&self) {
        self.connections.lock().clear();
    }
}

impl Connection {
    fn start(stream: PeerSocket, to: u64, cluster_id: String) -> Self {
        let (read, mut write) = stream.into_split();
        let (requests, mut queue) = mpsc::channel::<BytesMut>(QUEUED);
        let pending = Arc::new(Mutex::new(Pending::default()));
        let failed = pending.clone();
        tokio::spawn(async move {
            let mut out = BytesMut::new();
            while let Some(frame) = queue.recv().await {
                out.extend_from_slice(&frame);
                // What else waits goes into the same write.
                while out.len() < 256 << 10 {
                    let Ok(frame) = queue.try_recv() else { break };
                    out.extend_from_slice(&frame);
                }
                if write_out(&mut write, &mut out).await.is_err() {
                    break;
                }
            }
            // The other end learns of it also while this one goes on reading.
            drop(write.shutdown().await);
            close(&failed);
        });
        let received = pending.clone();
        tokio::spawn(async move {
            receive(FrameReader::new(read), &received).await;
            close(&received);
        });
        Self { to, cluster_id, requests, pending, next_id: Arc::default() }
    }

    /// Asks what is at the other end, at `address`.
    async fn ask(
        &self,
        address: &str,
        kind: Kind,
        body: &[u8],
        deadline: tokio::time::Instant,
    ) -> Result<Bytes, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, wait) = oneshot::channel();
        {
            let mut pending = self.pending.lock();
            if pending.closed {
                return Err(CallError::Broken(address.to_owned()));
            }
            pending.waiting.insert(id, answer);
        }
        let mut frame = BytesMut::with_capacity(13 + body.len());
        put_frame(&mut frame, |out| {
            out.put_u64_le(id);
            out.put_u8(kind as u8);
            out.put_slice(body);
        });
        let exchange = async {
            self.requests.send(frame).await.map_err(|_| CallError::Broken(address.to_owned()))?;
            match wait.await {
                Ok(Ok(body)) => Ok(body),
                Ok(Err(message)) => Err(CallError::Remote(message)),
                Err(_) => Err(CallError::Broken(address.to_owned())),
            }
        };
        timeout_at(deadline, exchange).await.unwrap_or_else(|_| {
            self.pending.lock().waiting.remove(&id);
            Err(CallError::TimedOut(address.to_owned()))
        })
    }
}

/// Everybody who waits learns that the connection broke.
fn close(pending: &Mutex<Pending>) {
    let mut pending = pending.lock();
    pending.closed = true;
    pending.waiting.clear();
}

async fn receive(mut frames: FrameReader<ReadHalf>, pending: &Mutex<Pending>) {
    while let Ok(Some(mut frame)) = frames.next().await {
        let (Ok(id), Ok(status)) = (get_u64(&mut frame), get_u8(&mut frame)) else { return };
        if let Some(waiting) = pending.lock().waiting.remove(&id) {
            let answer =
                if status == 0 { Ok(frame) } else { Err(String::from_utf8_lossy(&frame).into_owned()) };
            // Who no longer waits does not want to know.
            drop(waiting.send(answer));
        }
    }
}
