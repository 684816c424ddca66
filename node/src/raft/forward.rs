//! Who is asked, and where a query is run: here, or on the leader for it.
//!
//! ```text
//! query call = level u8 · timeout ms u32 · statement timeout ms u32 (0 = none) · request
//! answer     = 0 · index u64 · results | 1 (not the leader) | 2 · message (outcome unknown) | 3 · message
//!            | 4 (no space)
//! ```
//! A query that no leader ran is asked again until its time is over.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::command::EncodedRequest;
use super::propose::ProposeError;
use super::read::BarrierError;
use super::waiters::Leadership;
use super::wire::{get_u8, get_u32, get_u64};
use crate::store::{Inline, Limits, ReadError, Sink, Stopped};
use bytes::{BufMut, Bytes, BytesMut};
use client::admin::Refusal;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::Instant;

/// Consistency of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// This member, whatever it has.
    None,
    /// Who believes to be the leader.
    Weak,
    /// The leader, after a quorum confirmed it.
    Linearizable,
    /// The leader, in the order of writes.
    Strong,
    /// `Weak` on a voter, `None` on a read replica.
    Auto,
}

/// How a query is to be run.
#[derive(Clone, Copy, Debug)]
pub struct QueryOptions {
    /// Consistency.
    pub level: Level,
    /// How long it may wait for a leader and its quorum.
    pub timeout: Duration,
    /// How long each statement may run.
    pub statement_timeout: Option<Duration>,
}

/// Results of a query: the inside of the array `results`.
#[derive(Debug)]
pub enum ReadBody {
    /// All of it.
    Whole(Bytes),
    /// In pieces, as they come.
    Stream(mpsc::Receiver<Bytes>),
}

/// A query that was run.
#[derive(Debug)]
pub struct QueryAnswer {
    /// Its results.
    pub body: ReadBody,
    /// Index of the entry that ordered it, for `strong`; else 0.
    pub index: u64,
    /// Peer address of the leader that it was forwarded to.
    pub forwarded_to: Option<String>,
}

/// Why a request has no results.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No leader was found in time.
    #[error("leader not found")]
    NoLeader,
    /// It may or may not have been applied.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// No quorum confirmed the leader in time.
    #[error("no quorum confirmed the leader in time")]
    NoQuorum,
    /// The disk has no room for more.
    #[error("no space left: the disk of the member that would write it is nearly full")]
    NoSpace,
    /// Refused by the leader.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// This member or the leader failed.
    #[error("{0}")]
    Internal(String),
}

impl From<CallError> for RequestError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotSent(_) => Self::NoLeader,
            CallError::Broken(_) | CallError::TimedOut(_) => Self::OutcomeUnknown(error.to_string()),
            CallError::Remote(message) => Self::Internal(message),
        }
    }
}

impl From<ReadError> for RequestError {
    fn from(error: ReadError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// Bytes gathered before they are sent on.
const PIECE: usize = 64 << 10;
/// How long a reader may keep a query from going on.
const STALLED: Duration = Duration::from_secs(30);
/// How often a query that waits for its reader looks whether it has to give way.
const LOOK: Duration = Duration::from_millis(100);
/// Results of a forwarded query are collected on the leader; larger ones are to be asked for with level `none`.
const FORWARDED_RESULTS: usize = 128 << 20;
/// Between two attempts while there is no leader.
pub(super) const PAUSE: Duration = Duration::from_millis(25);

/// Who is believed to lead.
pub(super) enum Route {
    /// This member.
    Here(Leadership),
    /// Another one, at this address.
    Leader { leader: Leadership, address: String },
    /// Nobody is known.
    Nobody,
}

impl Consensus {
    /// Whether this member believes that it leads.
    pub fn is_leader(&self) -> bool {
        let server = self.server.borrow_watched();
        server.current_leader == Some(server.id)
    }

    pub(super) fn route(&self) -> Route {
        let server = self.server.borrow_watched();
        let leader = Leadership { term: server.vote.leader_id.term, node: server.vote.leader_id.node_id };
        match server.current_leader {
            // A vote that is not on disk yet is of nobody who leads already.
            Some(id) if id != leader.node => Route::Nobody,
            Some(id) if id == server.id => Route::Here(leader),
            Some(id) => match server.membership_config.get_node(&id) {
                Some(info) => Route::Leader { leader, address: info.raft_addr.clone() },
                None => Route::Nobody,
            },
            None => Route::Nobody,
        }
    }

    /// Waits until this member no longer follows `leader`.
    pub(super) async fn no_longer_led_by(&self, leader: Leadership) {
        let mut server = self.server.clone();
        while matches!(self.route(), Route::Leader { leader: now, .. } if now == leader) {
            // An end of the channel is the end of Raft on this member.
            if server.changed().await.is_err() {
                return;
            }
        }
    }

    /// Runs a query at the level it asks for.
    pub async fn query(
        self: &Arc<Self>,
        request: EncodedRequest,
        options: QueryOptions,
    ) -> Result<QueryAnswer, RequestError> {
        let deadline = Instant::now() + options.timeout;
        let limits = Limits { statement_timeout: options.statement_timeout };
        let level = match options.level {
            Level::Auto if self.server.borrow_watched().state == ServerState::Learner => Level::None,
            Level::Auto => Level::Weak,
            level => level,
        };
        if level == Level::None {
            let body = self.read_here(request, limits).await?;
            return Ok(QueryAnswer { body, index: 0, forwarded_to: None });
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RequestError::NoLeader);
            }
            match self.route() {
                Route::Here(_) => match self.order_read(level, left).await {
                    Err(ExecuteError::NotLeader) => {}
                    Err(ExecuteError::Failed(error)) => return Err(error),
                    Ok(index) => {
                        let body = self.read_here(request, limits).await?;
                        return Ok(QueryAnswer { body, index, forwarded_to: None });
                    }
                },
                Route::Leader { leader, address } => {
                    match self.query_there(&request, level, &options, leader.node, &address, left).await {
                        Err(ExecuteError::NotLeader) => {}
                        // Reads can be asked again.
                        Err(ExecuteError::Failed(RequestError::OutcomeUnknown(_))) => {}
                        Err(ExecuteError::Failed(error)) => return Err(error),
                        Ok((index, results)) => {
                            let body = ReadBody::Whole(results);
                            return Ok(QueryAnswer { body, index, forwarded_to: Some(address) });
                        }
                    }
                }
                Route::Nobody if self.identity().cluster().is_none() => return Err(RequestError::NoLeader),
                Route::Nobody => {}
            }
            self.await_leader_change(left.min(PAUSE)).await;
        }
    }

    /// On the leader: waits until a read at `level` may be answered from what is applied here; returns the index of
    /// its place in the order of writes, if it has one.
    async fn order_read(&self, level: Level, timeout: Duration) -> Result<u64, ExecuteError> {
        let failed = |error| Err(ExecuteError::Failed(error));
        match level {
            Level::None | Level::Weak | Level::Auto => Ok(0),
            Level::Linearizable => match tokio::time::timeout(timeout, self.barrier.pass()).await {
                Ok(Ok(_)) => Ok(0),
                Ok(Err(BarrierError::NotLeader)) => Err(ExecuteError::NotLeader),
                // Perhaps another member has become the leader: ask again until the time is over.
                Ok(Err(BarrierError::NoQuorum)) => Err(ExecuteError::NotLeader),
                Ok(Err(BarrierError::Stopped(message))) => failed(RequestError::Internal(message)),
                Err(_) => failed(RequestError::NoQuorum),
            },
            Level::Strong => match tokio::time::timeout(timeout, self.proposer().propose_blank()).await {
                Ok(Ok(index)) => Ok(index),
                Ok(Err(ProposeError::NotLeader | ProposeError::OutcomeUnknown)) => {
                    Err(ExecuteError::NotLeader)
                }
                Ok(Err(ProposeError::Stopped(message))) => failed(RequestError::Internal(message)),
                Err(_) => failed(RequestError::NoQuorum),
            },
        }
    }

    async fn query_there(
        &self,
        request: &EncodedRequest,
        level: Level,
        options: &QueryOptions,
        leader: u64,
        address: &str,
        timeout: Duration,
    ) -> Result<(u64, Bytes), ExecuteError> {
        let mut body = BytesMut::with_capacity(request.bytes().len() + 9);
        body.put_u8(match level {
            Level::None | Level::Weak | Level::Auto => 1,
            Level::Linearizable => 2,
            Level::Strong => 3,
        });
        body.put_u32_le(timeout.as_millis() as u32);
        body.put_u32_le(options.statement_timeout.map_or(0, |t| t.as_millis().max(1) as u32));
        body.put_slice(request.bytes());
        // The statements may run longer than the wait for a leader.
        let patience = timeout + options.statement_timeout.unwrap_or(Duration::from_secs(60));
        match self.peers.call(leader, address, Kind::Query, &body, patience).await {
            Ok(answer) => read_answer(answer),
            Err(CallError::NotSent(_)) => Err(ExecuteError::NotLeader),
            Err(error) => Err(ExecuteError::Failed(error.into())),
        }
    }

    pub(super) async fn answer_query(&self, mut body: Bytes) -> Result<Bytes, String> {
        let mut head = || {
            Ok::<_, super::wire::WireError>((get_u8(&mut body)?, get_u32(&mut body)?, get_u32(&mut body)?))
        };
        let (level, timeout, statement_timeout) = head().map_err(|e| e.to_string())?;
        let level = match level {
            2 => Level::Linearizable,
            3 => Level::Strong,
            _ => Level::Weak,
        };
        let request = EncodedRequest::from_peer(body).map_err(|e| e.to_string())?;
        if !self.is_leader() {
            return Ok(write_answer(Err(ExecuteError::NotLeader)));
        }
        let index = match self.order_read(level, Duration::from_millis(timeout.into())).await {
            Ok(index) => index,
            Err(error) => return Ok(write_answer(Err(error))),
        };
        let statement_timeout =
            (statement_timeout > 0).then(|| Duration::from_millis(statement_timeout.into()));
        let answer = match self.read_here(request, Limits { statement_timeout }).await {
            Ok(body) => collect(body).await.map(|results| (index, results)),
            Err(error) => Err(error),
        };
        Ok(write_answer(answer.map_err(ExecuteError::Failed)))
    }

    /// Runs a query on what is applied here: inline if it is small, else on a thread of its own, streaming.
    pub async fn read_here(&self, request: EncodedRequest, limits: Limits) -> Result<ReadBody, RequestError> {
        let readers = self.store().readers().clone();
        let view = request.view().map_err(|e| RequestError::Internal(e.to_string()))?;
        if let Inline::Done(results) = readers.try_inline(&view, limits)? {
            return Ok(ReadBody::Whole(results.into()));
        }
        let permit = self.streams.clone().acquire_owned().await;
        let permit = permit.map_err(|e| RequestError::Internal(e.to_string()))?;
        let (pieces, body) = mpsc::channel(4);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut sink = Pieces::new(pieces, runtime);
            let outcome = request
                .view()
                .map_err(ReadError::from)
                .and_then(|view| readers.run(&view, limits, &mut sink));
            match outcome {
                Ok(()) => drop(sink.end()),
                Err(ReadError::Stopped) => {}
                Err(error) => tracing::warn!(%error, "a query ended early"),
            }
        });
        Ok(ReadBody::Stream(body))
    }

    /// An index that a quorum confirmed to be committed; asks the leader if that is another member.
    pub(super) async fn confirmed_index(&self) -> Result<u64, RequestError> {
        const PATIENCE: Duration = Duration::from_secs(2);
        match self.route() {
            Route::Here(_) => self.barrier.pass().await.map_err(|e| RequestError::Internal(e.to_string())),
            Route::Nobody => Err(RequestError::NoLeader),
            Route::Leader { leader, address } => {
                let answer = self.peers.call(leader.node, &address, Kind::ReadIndex, &[], PATIENCE).await?;
                get_u64(&mut answer.clone()).map_err(|e| RequestError::Internal(e.to_string()))
            }
        }
    }
}

/// Collects a result, up to what is forwarded.
async fn collect(body: ReadBody) -> Result<Bytes, RequestError> {
    let mut pieces = match body {
        ReadBody::Whole(results) => return Ok(results),
        ReadBody::Stream(pieces) => pieces,
    };
    let mut results = BytesMut::new();
    while let Some(piece) = pieces.recv().await {
        results.extend_from_slice(&piece);
        if results.len() > FORWARDED_RESULTS {
            let message = "the result is too large to be forwarded; ask the leader itself, or use level=none";
            return Err(RequestError::Internal(message.into()));
        }
    }
    Ok(results.freeze())
}

pub(super) enum ExecuteError {
    /// It was not appended, nor run.
    NotLeader,
    Failed(RequestError),
}

pub(super) fn write_answer(outcome: Result<(u64, Bytes), ExecuteError>) -> Bytes {
    let mut out = BytesMut::new();
    match outcome {
        Ok((index, results)) => {
            out.reserve(9 + results.len());
            out.put_u8(0);
            out.put_u64_le(index);
            out.put_slice(&results);
        }
        Err(ExecuteError::NotLeader) => out.put_u8(1),
        Err(ExecuteError::Failed(RequestError::OutcomeUnknown(message))) => {
            out.put_u8(2);
            out.put_slice(message.as_bytes());
        }
        Err(ExecuteError::Failed(RequestError::NoSpace)) => out.put_u8(4),
        Err(ExecuteError::Failed(error)) => {
            out.put_u8(3);
            out.put_slice(error.to_string().as_bytes());
        }
    }
    out.freeze()
}

pub(super) fn read_answer(mut answer: Bytes) -> Result<(u64, Bytes), ExecuteError> {
    let internal = |e: super::wire::WireError| ExecuteError::Failed(RequestError::Internal(e.to_string()));
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    match get_u8(&mut answer).map_err(internal)? {
        0 => Ok((get_u64(&mut answer).map_err(internal)?, answer)),
        1 => Err(ExecuteError::NotLeader),
        2 => Err(ExecuteError::Failed(RequestError::OutcomeUnknown(text(&answer)))),
        4 => Err(ExecuteError::Failed(RequestError::NoSpace)),
        _ => Err(ExecuteError::Failed(RequestError::Internal(text(&answer)))),
    }
}

/// Sends results on in pieces, from a thread that may block.
struct Pieces {
    buffer: Vec<u8>,
    pieces: mpsc::Sender<Bytes>,
    runtime: tokio::runtime::Handle,
    gives_way: Arc<AtomicBool>,
}

impl Pieces {
    fn new(pieces: mpsc::Sender<Bytes>, runtime: tokio::runtime::Handle) -> Self {
        Self { buffer: Vec::with_capacity(PIECE + (PIECE >> 2)), pieces, runtime, gives_way: Arc::default() }
    }

    /// Sends all but the last `keep` bytes; what could not be sent is still in the buffer.
    fn send(&mut self, keep: usize) -> Result<(), Stopped> {
        let rest = self.buffer.split_off(self.buffer.len() - keep.min(self.buffer.len()));
        let mut piece = Bytes::from(std::mem::replace(&mut self.buffer, rest));
        let begun = Instant::now();
        while !piece.is_empty() {
            match self.runtime.block_on(self.pieces.send_timeout(piece, LOOK)) {
                Ok(()) => break,
                Err(SendTimeoutError::Closed(_)) => return Err(Stopped),
                Err(SendTimeoutError::Timeout(unsent)) => {
                    if begun.elapsed() >= STALLED || self.gives_way.load(Ordering::Relaxed) {
                        self.buffer.splice(..0, unsent);
                        return Err(Stopped);
                    }
                    piece = unsent;
                }
            }
        }
        self.buffer.reserve(PIECE);
        Ok(())
    }

    /// Sends what is left. The query has ended, so nobody else waits for the reader any more.
    fn end(&mut self) -> Result<(), Stopped> {
        self.gives_way = Arc::default();
        self.send(0)
    }
}

impl Sink for Pieces {
    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn row_written(&mut self) -> Result<(), Stopped> {
        if self.buffer.len() >= PIECE { self.send(1) } else { Ok(()) }
    }

    fn gives_way_on(&mut self, flag: Arc<AtomicBool>) {
        self.gives_way = flag;
    }
}
