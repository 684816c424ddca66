//! Where a query is run: here, or on the leader for this member.
//!
//! A query that no leader ran is asked again until its time is over. One whose result is large comes on a connection of
//! its own ([`super::stream_calls`]), so that neither member ever holds more of it than a few pieces.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::command::EncodedRequest;
use super::follower_read::read_index;
use super::local_read::LocalRead;
use super::peer_answer::{ExecuteError, read_answer, write_answer};
use super::propose::ProposeError;
use super::query::{Freshness, Level, QueryAnswer, QueryCall, QueryOptions, ReadBody};
use super::read::BarrierError;
use super::request_error::RequestError;
use super::route::{PAUSE, Route};
use super::stream_calls::{PeerStream, StreamKind};
use super::waiters::Leadership;
use crate::store::Position;
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Where in the order of writes a read at `level` stands that saw the state at `position`; 0 if it stands nowhere.
fn place(level: Level, position: Position) -> u64 {
    if level == Level::Strong { position.index } else { 0 }
}

impl Consensus {
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
            // What most reads do not need is in boxes: `http::handle` says why.
            match self.route() {
                // It is about to hand over.
                Route::Here(_) if self.is_fenced() => {}
                Route::Here(_) => match self.order_read(level, options.bookmark, left).await {
                    Err(ExecuteError::NotLeader) => {}
                    Err(error) => return Err(error.into()),
                    Ok(()) => {
                        let LocalRead { body, position } = self.read_here(request, limits).await?;
                        let index = place(level, position);
                        return Ok(QueryAnswer { body, index, position, forwarded_to: None });
                    }
                },
                Route::Leader { leader, address } => {
                    if level == Level::Linearizable
                        && let Some(LocalRead { body, position }) =
                            Box::pin(self.read_behind(&request, &options, deadline)).await?
                    {
                        return Ok(QueryAnswer { body, index: 0, position, forwarded_to: None });
                    }
                    let left = deadline.saturating_duration_since(Instant::now());
                    let there = Box::pin(self.query_there(&request, level, &options, leader, &address, left));
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

    /// On the leader: waits until a read at `level` may be answered from what is applied here. A strong one then sees what
    /// its entry found, and perhaps writes after it that were applied meanwhile: with them its place in the order of writes
    /// is a later one ([`place`]), still before any write that is sent after its answer.
    async fn order_read(
        &self,
        level: Level,
        bookmark: Option<Position>,
        timeout: Duration,
    ) -> Result<(), ExecuteError> {
        self.may_serve().and_then(|()| self.may_apply()).map_err(ExecuteError::Failed)?;
        let failed = |error| Err(ExecuteError::Failed(error));
        let deadline = Instant::now() + timeout;
        if let Some(bookmark) = bookmark {
            self.await_position(bookmark, deadline).await.map_err(ExecuteError::Failed)?;
        }
        match level {
            Level::None | Level::Weak | Level::Auto => Ok(()),
            Level::Linearizable => match tokio::time::timeout_at(deadline, self.barrier.pass()).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(BarrierError::NotLeader)) => Err(ExecuteError::NotLeader),
                // Perhaps another member has become the leader: ask again until the time is over.
                Ok(Err(BarrierError::NoQuorum)) => Err(ExecuteError::NotLeader),
                Ok(Err(BarrierError::Stopped(message))) => failed(RequestError::Internal(message)),
                Err(_) => failed(RequestError::NoQuorum),
            },
            Level::Strong => {
                match tokio::time::timeout_at(deadline, Box::pin(self.proposer().propose_blank())).await {
                    Ok(Ok(_)) => {
                        let term = self.server.borrow_watched().vote.leader_id.term;
                        self.strong_read_term.fetch_max(term, Ordering::Relaxed);
                        Ok(())
                    }
                    Ok(Err(ProposeError::NotLeader | ProposeError::OutcomeUnknown)) => {
                        Err(ExecuteError::NotLeader)
                    }
                    Ok(Err(ProposeError::Stopped(message))) => failed(RequestError::Internal(message)),
                    Err(_) => failed(RequestError::NoQuorum),
                }
            }
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
        let answered = |position, body| QueryAnswer {
            body,
            index: place(level, position),
            position,
            forwarded_to: Some(address.to_owned()),
        };
        match self.call_leader(leader, address, Kind::Query, &body, patience).await {
            Ok(answer) => match read_answer(answer) {
                Ok((_, position, results)) => Ok(answered(position, ReadBody::Whole(results))),
                Err(ExecuteError::TooLarge) => {
                    let (position, body) = self.query_stream(leader, address, &body, patience).await?;
                    Ok(answered(position, body))
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
    ) -> Result<(Position, ReadBody), ExecuteError> {
        let broken = |_: io::Error| ExecuteError::Failed(CallError::Broken(address.to_owned()).into());
        let mut stream = match self.open_for_caller(leader, address, StreamKind::Query, body).await {
            Ok(stream) => stream,
            Err(CallError::NotSent(_)) => return Err(ExecuteError::NotLeader),
            Err(error) => return Err(ExecuteError::Failed(error.into())),
        };
        let head = stream.head(patience).await.map_err(broken)?;
        let head = head.map_err(|message| ExecuteError::Failed(RequestError::Internal(message)))?;
        let (_, position, _) = read_answer(head)?;
        let (pieces, received) = mpsc::channel(4);
        tokio::spawn(async move { stream.pass_on(&pieces).await });
        Ok((position, ReadBody::Stream(received)))
    }

    pub(super) async fn answer_query(&self, body: Bytes) -> Result<Bytes, String> {
        let (call, request) = QueryCall::decode(body).map_err(|e| e.to_string())?;
        if !self.is_leader() || self.is_fenced() {
            return Ok(write_answer(Err(ExecuteError::NotLeader)));
        }
        if let Err(error) = self.order_read(call.level, call.options.bookmark, call.timeout).await {
            return Ok(write_answer(Err(error)));
        }
        let limits = call.options.limits;
        Ok(write_answer(match self.read_inline(&request, limits).await {
            Ok(Some(LocalRead { body: ReadBody::Whole(results), position })) => {
                Ok((place(call.level, position), position, results))
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
        if let Err(error) = self.order_read(call.level, call.options.bookmark, call.timeout).await {
            return stream.accept(&write_answer(Err(error))).await;
        }
        let limits = call.options.limits;
        let read = match self.read_streaming(request, limits).await {
            Ok(read) => read,
            Err(error) => return stream.accept(&write_answer(Err(ExecuteError::Failed(error)))).await,
        };
        let index = place(call.level, read.position);
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
        match self.route() {
            Route::Here(_) => self.barrier.pass().await.map_err(|e| RequestError::Internal(e.to_string())),
            Route::Nobody => Err(RequestError::NoLeader),
            Route::Leader { leader, address } => read_index(&self.peers, leader, &address).await,
        }
    }
}
