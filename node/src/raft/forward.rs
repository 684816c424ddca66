//! Who is asked, and where a query is run: here, or on the leader for it.
//!
//! ```text
//! query call = level u8 · timeout ms u32 · statement timeout ms u32 (0 = none) · bookmark (epoch u64 · index u64) · request
//! answer     = 0 · index u64 · position (epoch u64 · index u64) · results | 1 (not the leader)
//!            | 2 · message (outcome unknown) | 3 · message | 4 (received already) | 5 (too large: ask by a stream)
//!            | 8 (not proposed within the time allowed) | 6 · wanted u64 · present u64 (another epoch) | 7 · index u64 (behind)
//!            | 9 (no space)
//! ```
//! A query that no leader ran is asked again until its time is over. One whose result is large comes on a connection of
//! its own ([`super::stream_calls`]), so that neither member ever holds more of it than a few pieces.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::command::EncodedRequest;
use super::local_read::LocalRead;
use super::propose::ProposeError;
use super::read::BarrierError;
use super::stream_calls::{PeerStream, StreamKind};
use super::waiters::Leadership;
use super::wire::{WireError, get_u8, get_u32, get_u64};
use crate::store::{Limits, Position, ReadError, ResultLimit};
use bytes::{BufMut, Bytes, BytesMut};
use client::admin::Refusal;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
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

/// How stale a read without a leader may be.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// The leader was heard within this time.
    pub within: Duration,
    /// And what it said to be committed is applied, or the last entry applied is not older than that.
    pub strict: bool,
}

/// How a query is to be run.
#[derive(Clone, Copy, Debug)]
pub struct QueryOptions {
    /// Consistency.
    pub level: Level,
    /// How long it may wait for a leader and its quorum.
    pub timeout: Duration,
    /// What each statement may take.
    pub limits: Limits,
    /// Of reads without a leader.
    pub freshness: Option<Freshness>,
    /// What the client has seen: the state must be at least as far.
    pub bookmark: Option<Position>,
}

/// Results of a query: the inside of the array `results`.
#[derive(Debug)]
pub enum ReadBody {
    /// All of it.
    Whole(Bytes),
    /// In pieces, as they come. An empty one is the end: without it the result is not whole.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

/// A query that was run.
#[derive(Debug)]
pub struct QueryAnswer {
    /// Its results.
    pub body: ReadBody,
    /// Index of the entry that ordered it, for `strong`; else 0.
    pub index: u64,
    /// How far the state is that they tell of.
    pub position: Position,
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
    /// It was not proposed within the time that its statements may take; nothing was applied.
    #[error("execute timeout")]
    ExecuteTimeout,
    /// What this member has is older than the request allows.
    #[error("stale read")]
    Stale,
    /// The bookmark is of another epoch: since then the cluster was restored.
    #[error("the bookmark is of epoch {wanted}, the cluster is at epoch {present}")]
    OtherEpoch {
        /// Of the bookmark.
        wanted: u64,
        /// Of the cluster.
        present: u64,
    },
    /// What the client has seen was not applied in time.
    #[error("index {0} was not applied in time")]
    Behind(u64),
    /// The disk has no room for more.
    #[error("no space left: the disk of the member that would write it, or of most others, is nearly full")]
    NoSpace,
    /// As many large results as may be are being read.
    #[error("too many large queries at once; try again")]
    Busy,
    /// What the cluster begins with is still on its way.
    #[error("store not ready")]
    NotReady,
    /// An entry before it ends every process that applies it, and is not applied any more.
    #[error(
        "entry {0} of the log ended this member again and again while it was applied; nothing after it is applied until \
         another version of the program gets over it, or it is passed over (POST /cluster/skip)"
    )]
    FatalEntry(u64),
    /// Refused by the leader.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Who asks may not, by the leader's users.
    #[error("remote {0} not authorized")]
    Unauthorized(&'static str),
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
            CallError::Unauthorized(operation) => Self::Unauthorized(operation),
        }
    }
}

impl From<ReadError> for RequestError {
    fn from(error: ReadError) -> Self {
        Self::Internal(error.to_string())
    }
}

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

impl Route {
    /// The leader, if one is known.
    pub(super) fn leader(&self) -> Option<Leadership> {
        match self {
            Self::Here(leader) | Self::Leader { leader, .. } => Some(*leader),
            Self::Nobody => None,
        }
    }
}

impl Consensus {
    /// Whether this member believes that it leads.
    pub fn is_leader(&self) -> bool {
        let server = self.server.borrow_watched();
        server.current_leader == Some(server.id)
    }

    /// Whether this member leads and a quorum has just said so: then everything acknowledged before is applied here.
    pub async fn leads_by_quorum(&self) -> bool {
        self.is_leader() && self.barrier.pass().await.is_ok()
    }

    /// Whether any member is known to lead, and was heard of late. With pre-votes a member that is cut off keeps the
    /// last leader's vote for good, so knowing a name is not enough.
    pub fn knows_leader(&self) -> bool {
        let patience = self.config.profile.election_timeout * 4;
        match self.route() {
            Route::Here(_) => true,
            Route::Leader { .. } => self.contact.silence().is_some_and(|silence| silence < patience),
            Route::Nobody => false,
        }
    }

    /// `host:port` of the client port of the leader: none if nobody leads, empty if the leader's is not known.
    pub fn leader_api_address(&self) -> Option<String> {
        if !self.knows_leader() {
            return None;
        }
        let server = self.server.borrow_watched();
        let leader = server.current_leader?;
        if leader == server.id {
            return Some(self.config.api_address.clone());
        }
        Some(
            server.membership_config.get_node(&leader).map_or_else(String::new, |info| info.api_addr.clone()),
        )
    }

    /// Whether this member replicates without voting.
    pub fn is_learner(&self) -> bool {
        self.server.borrow_watched().state == ServerState::Learner
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

    /// What `work` comes to while `leader` leads, this member or another; none once it does not. A leader that is cut off
    /// may never answer.
    pub(super) async fn while_led_by<T>(
        &self,
        leader: Leadership,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.no_longer_led_by(leader) => None,
        }
    }

    /// Waits until `leader` no longer leads, as far as this member knows.
    async fn no_longer_led_by(&self, leader: Leadership) {
        let mut server = self.server.clone();
        while self.route().leader() == Some(leader) {
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
        let limits = options.limits;
        let level = match options.level {
            Level::Auto if self.is_learner() => Level::None,
            Level::Auto => Level::Weak,
            // What is here is wrong.
            Level::None if self.is_fenced() => Level::Weak,
            level => level,
        };
        if level == Level::None {
            self.may_serve()?;
            if let Some(freshness) = options.freshness {
                self.check_freshness(freshness)?;
            }
            if let Some(bookmark) = options.bookmark {
                self.await_position(bookmark, deadline).await?;
            }
            let LocalRead { body, position } = self.read_here(request, limits).await?;
            return Ok(QueryAnswer { body, index: 0, position, forwarded_to: None });
        }
        let mut was_tried = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if was_tried && left.is_zero() {
                return Err(RequestError::NoLeader);
            }
            was_tried = true;
            match self.route() {
                // It is about to hand over.
                Route::Here(_) if self.is_fenced() => {}
                Route::Here(_) => match self.order_read(level, options.bookmark, left).await {
                    Err(ExecuteError::NotLeader) => {}
                    Err(error) => return Err(error.into()),
                    Ok(index) => {
                        let LocalRead { body, position } = self.read_here(request, limits).await?;
                        return Ok(QueryAnswer { body, index, position, forwarded_to: None });
                    }
                },
                Route::Leader { leader, address } => {
                    let there = self.query_there(&request, level, &options, leader, &address, left);
                    match self.while_led_by(leader, there).await.unwrap_or(Err(ExecuteError::NotLeader)) {
                        Err(ExecuteError::NotLeader) => {}
                        // Reads can be asked again.
                        Err(ExecuteError::Failed(RequestError::OutcomeUnknown(_))) => {}
                        Err(error) => return Err(error.into()),
                        Ok(answer) => return Ok(answer),
                    }
                }
                Route::Nobody if self.identity().cluster().is_none() => return Err(RequestError::NoLeader),
                Route::Nobody => {}
            }
            self.await_leader_change(left.min(PAUSE)).await;
        }
    }

    /// Whether a read without a leader may be answered from what is applied here. The leader itself is always fresh.
    fn check_freshness(&self, wanted: Freshness) -> Result<(), RequestError> {
        if self.is_leader() {
            return Ok(());
        }
        if self.contact.silence().is_none_or(|silence| silence > wanted.within) {
            return Err(RequestError::Stale);
        }
        if wanted.strict {
            let heard = self.raft.data_metrics();
            let committed = heard.borrow_watched().cluster_committed.as_ref().map_or(0, |id| id.index);
            let applied = self.store().applied();
            let age_us = crate::clock::now_us().saturating_sub(applied.timestamp_us);
            let is_behind = applied.log_id.is_none_or(|id| id.index < committed);
            if is_behind && u128::from(age_us.unsigned_abs()) > wanted.within.as_micros() {
                return Err(RequestError::Stale);
            }
        }
        Ok(())
    }

    /// On the leader: waits until a read at `level` may be answered from what is applied here; returns the index of
    /// its place in the order of writes, if it has one.
    async fn order_read(
        &self,
        level: Level,
        bookmark: Option<Position>,
        timeout: Duration,
    ) -> Result<u64, ExecuteError> {
        self.may_serve().and_then(|()| self.may_apply()).map_err(ExecuteError::Failed)?;
        let failed = |error| Err(ExecuteError::Failed(error));
        let deadline = Instant::now() + timeout;
        if let Some(bookmark) = bookmark {
            self.await_position(bookmark, deadline).await.map_err(ExecuteError::Failed)?;
        }
        match level {
            Level::None | Level::Weak | Level::Auto => Ok(0),
            Level::Linearizable => match tokio::time::timeout_at(deadline, self.barrier.pass()).await {
                Ok(Ok(_)) => Ok(0),
                Ok(Err(BarrierError::NotLeader)) => Err(ExecuteError::NotLeader),
                // Perhaps another member has become the leader: ask again until the time is over.
                Ok(Err(BarrierError::NoQuorum)) => Err(ExecuteError::NotLeader),
                Ok(Err(BarrierError::Stopped(message))) => failed(RequestError::Internal(message)),
                Err(_) => failed(RequestError::NoQuorum),
            },
            Level::Strong => match tokio::time::timeout_at(deadline, self.proposer().propose_blank()).await {
                Ok(Ok(index)) => {
                    let term = self.server.borrow_watched().vote.leader_id.term;
                    self.strong_read_term.fetch_max(term, Ordering::Relaxed);
                    Ok(index)
                }
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
        leader: Leadership,
        address: &str,
        timeout: Duration,
    ) -> Result<QueryAnswer, ExecuteError> {
        let body = QueryCall { level, timeout, options: *options }.encode(request);
        // The statements may run longer than the wait for a leader.
        let patience = timeout + options.limits.statement_timeout.unwrap_or(Duration::from_secs(60));
        let answered = |index, position, body| QueryAnswer {
            body,
            index,
            position,
            forwarded_to: Some(address.to_owned()),
        };
        match self.call_leader(leader, address, Kind::Query, &body, patience).await {
            Ok(answer) => match read_answer(answer) {
                Ok((index, position, results)) => Ok(answered(index, position, ReadBody::Whole(results))),
                Err(ExecuteError::TooLarge) => {
                    let (index, position, body) = self.query_stream(leader, address, &body, patience).await?;
                    Ok(answered(index, position, body))
                }
                Err(error) => Err(error),
            },
            Err(CallError::NotSent(_)) => Err(ExecuteError::NotLeader),
            Err(error) => Err(ExecuteError::Failed(error.into())),
        }
    }

    /// Asks for a result that is too large for one answer.
    async fn query_stream(
        &self,
        leader: Leadership,
        address: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<(u64, Position, ReadBody), ExecuteError> {
        let broken = |_: io::Error| ExecuteError::Failed(CallError::Broken(address.to_owned()).into());
        let mut stream = match self.open_for_caller(leader, address, StreamKind::Query, body).await {
            Ok(stream) => stream,
            Err(CallError::NotSent(_)) => return Err(ExecuteError::NotLeader),
            Err(error) => return Err(ExecuteError::Failed(error.into())),
        };
        let head = stream.head(patience).await.map_err(broken)?;
        let head = head.map_err(|message| ExecuteError::Failed(RequestError::Internal(message)))?;
        let (index, position, _) = read_answer(head)?;
        let (pieces, received) = mpsc::channel(4);
        tokio::spawn(async move { stream.pass_on(&pieces).await });
        Ok((index, position, ReadBody::Stream(received)))
    }

    pub(super) async fn answer_query(&self, body: Bytes) -> Result<Bytes, String> {
        let (call, request) = QueryCall::decode(body).map_err(|e| e.to_string())?;
        if !self.is_leader() || self.is_fenced() {
            return Ok(write_answer(Err(ExecuteError::NotLeader)));
        }
        let index = match self.order_read(call.level, call.options.bookmark, call.timeout).await {
            Ok(index) => index,
            Err(error) => return Ok(write_answer(Err(error))),
        };
        let limits = call.options.limits;
        Ok(write_answer(match self.read_inline(&request, limits) {
            Ok(Some(LocalRead { body: ReadBody::Whole(results), position })) => {
                Ok((index, position, results))
            }
            Ok(_) => Err(ExecuteError::TooLarge),
            Err(error) => Err(ExecuteError::Failed(error)),
        }))
    }

    /// Answers a query whose result is large.
    pub(super) async fn answer_query_stream(&self, body: Bytes, stream: &mut PeerStream) -> io::Result<()> {
        let (call, request) = QueryCall::decode(body)?;
        if !self.is_leader() || self.is_fenced() {
            return stream.accept(&write_answer(Err(ExecuteError::NotLeader))).await;
        }
        let index = match self.order_read(call.level, call.options.bookmark, call.timeout).await {
            Ok(index) => index,
            Err(error) => return stream.accept(&write_answer(Err(error))).await,
        };
        let limits = call.options.limits;
        let read = match self.read_streaming(request, limits).await {
            Ok(read) => read,
            Err(error) => return stream.accept(&write_answer(Err(ExecuteError::Failed(error)))).await,
        };
        stream.accept(&write_answer(Ok((index, read.position, Bytes::new())))).await?;
        match read.body {
            ReadBody::Whole(results) => {
                stream.send(&results).await?;
                stream.end().await
            }
            ReadBody::Stream(mut pieces) => stream.send_all(&mut pieces).await,
        }
    }

    /// An index that a quorum confirmed to be committed; asks the leader if that is another member.
    pub async fn confirmed_index(&self) -> Result<u64, RequestError> {
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

/// A query as it is sent to the leader.
pub struct QueryCall {
    level: Level,
    timeout: Duration,
    options: QueryOptions,
}

impl QueryCall {
    pub fn encode(&self, request: &EncodedRequest) -> Bytes {
        let mut body = BytesMut::with_capacity(request.bytes().len() + 41);
        body.put_u8(match self.level {
            Level::None | Level::Weak | Level::Auto => 1,
            Level::Linearizable => 2,
            Level::Strong => 3,
        });
        body.put_u32_le(self.timeout.as_millis() as u32);
        let Limits { statement_timeout, result } = self.options.limits;
        body.put_u32_le(statement_timeout.map_or(0, |t| t.as_millis().max(1) as u32));
        for most in [result.rows, result.bytes] {
            body.put_u64_le(most.unwrap_or(u64::MAX));
        }
        let bookmark = self.options.bookmark.unwrap_or_default();
        body.put_u64_le(bookmark.epoch);
        body.put_u64_le(bookmark.index);
        body.put_slice(request.bytes());
        body.freeze()
    }

    pub fn decode(mut body: Bytes) -> io::Result<(Self, EncodedRequest)> {
        let level = match get_u8(&mut body)? {
            2 => Level::Linearizable,
            3 => Level::Strong,
            _ => Level::Weak,
        };
        let milliseconds = |n: u32| Duration::from_millis(n.into());
        let timeout = milliseconds(get_u32(&mut body)?);
        let statement_timeout = Some(milliseconds(get_u32(&mut body)?)).filter(|t| !t.is_zero());
        let mut most = || get_u64(&mut body).map(|most| Some(most).filter(|most| *most != u64::MAX));
        let result = ResultLimit { rows: most()?, bytes: most()? };
        let limits = Limits { statement_timeout, result };
        let bookmark = Position { epoch: get_u64(&mut body)?, index: get_u64(&mut body)? };
        let bookmark = Some(bookmark).filter(|b| *b != Position::default());
        let request = EncodedRequest::from_peer(body).map_err(io::Error::other)?;
        let options = QueryOptions { level, timeout, limits, freshness: None, bookmark };
        Ok((Self { level, timeout, options }, request))
    }
}

pub(crate) enum ExecuteError {
    /// It was not appended, nor run.
    NotLeader,
    /// The leader received it before; what is applied will tell.
    ReceivedAlready,
    /// Its result does not fit into one answer.
    TooLarge,
    Failed(RequestError),
}

impl From<ExecuteError> for RequestError {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::NotLeader => Self::NoLeader,
            ExecuteError::Failed(error) => error,
            ExecuteError::ReceivedAlready | ExecuteError::TooLarge => {
                Self::Internal("an answer to another question".into())
            }
        }
    }
}

pub(crate) fn write_answer(outcome: Result<(u64, Position, Bytes), ExecuteError>) -> Bytes {
    let mut out = BytesMut::new();
    match outcome {
        Ok((index, position, results)) => {
            out.reserve(25 + results.len());
            out.put_u8(0);
            out.put_u64_le(index);
            out.put_u64_le(position.epoch);
            out.put_u64_le(position.index);
            out.put_slice(&results);
        }
        Err(ExecuteError::NotLeader) => out.put_u8(1),
        Err(ExecuteError::ReceivedAlready) => out.put_u8(4),
        Err(ExecuteError::TooLarge) => out.put_u8(5),
        Err(ExecuteError::Failed(RequestError::OutcomeUnknown(message))) => {
            out.put_u8(2);
            out.put_slice(message.as_bytes());
        }
        Err(ExecuteError::Failed(RequestError::ExecuteTimeout)) => out.put_u8(8),
        Err(ExecuteError::Failed(RequestError::OtherEpoch { wanted, present })) => {
            out.put_u8(6);
            out.put_u64_le(wanted);
            out.put_u64_le(present);
        }
        Err(ExecuteError::Failed(RequestError::Behind(index))) => {
            out.put_u8(7);
            out.put_u64_le(index);
        }
        Err(ExecuteError::Failed(RequestError::NoSpace)) => out.put_u8(9),
        Err(ExecuteError::Failed(RequestError::NotReady)) => out.put_u8(10),
        Err(ExecuteError::Failed(RequestError::Busy)) => out.put_u8(11),
        Err(ExecuteError::Failed(RequestError::FatalEntry(index))) => {
            out.put_u8(12);
            out.put_u64_le(index);
        }
        Err(ExecuteError::Failed(error)) => {
            out.put_u8(3);
            out.put_slice(error.to_string().as_bytes());
        }
    }
    out.freeze()
}

pub(crate) fn read_answer(mut answer: Bytes) -> Result<(u64, Position, Bytes), ExecuteError> {
    let internal = |e: WireError| ExecuteError::Failed(RequestError::Internal(e.to_string()));
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let kind = get_u8(&mut answer).map_err(internal)?;
    let mut word = || get_u64(&mut answer).map_err(internal);
    Err(match kind {
        0 => {
            let (index, position) = (word()?, Position { epoch: word()?, index: word()? });
            return Ok((index, position, answer));
        }
        1 => ExecuteError::NotLeader,
        2 => ExecuteError::Failed(RequestError::OutcomeUnknown(text(&answer))),
        4 => ExecuteError::ReceivedAlready,
        5 => ExecuteError::TooLarge,
        6 => ExecuteError::Failed(RequestError::OtherEpoch { wanted: word()?, present: word()? }),
        7 => ExecuteError::Failed(RequestError::Behind(word()?)),
        8 => ExecuteError::Failed(RequestError::ExecuteTimeout),
        9 => ExecuteError::Failed(RequestError::NoSpace),
        10 => ExecuteError::Failed(RequestError::NotReady),
        11 => ExecuteError::Failed(RequestError::Busy),
        12 => ExecuteError::Failed(RequestError::FatalEntry(word()?)),
        _ => ExecuteError::Failed(RequestError::Internal(text(&answer))),
    })
}
