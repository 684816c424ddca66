//! A client's write, from the member that accepted it to its outcome.
//!
//! ```text
//! execute call = timeout ms u32 · term u64 · request
//! answer       = as of a query
//! ```
//! It is proposed here, or by the leader for this member, each time to one leader by name; when nobody can say any more
//! what became of a proposal, what is applied here does ([`super::waiters`]). So it is tried again until its time is
//! over, and is never applied twice.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::command::EncodedRequest;
use super::forward::{ExecuteError, PAUSE, RequestError, Route, read_answer, write_answer};
use super::propose::{ProposeError, Proposed};
use super::waiters::{Leadership, Outcome, Ticket};
use super::wire::{WireError, get_u32, get_u64};
use bytes::{BufMut, Bytes, BytesMut};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A request that was applied.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The inside of the array `results`.
    pub results: Bytes,
    /// Index of its entry.
    pub index: u64,
    /// Peer address of the leader that it was forwarded to.
    pub forwarded_to: Option<String>,
}

/// What came of proposing a request to one leader.
enum Attempt {
    Applied(Proposed),
    /// It is in no log that can still commit.
    Again,
    Failed(RequestError),
}

const SKIPPED: &str = "the outcome is unknown: this member stopped, or took over another member's state";
const TIMED_OUT: &str = "timed out while committing log: the outcome is unknown";

impl Consensus {
    /// Applies a request on every member, once; returns after this member, or the leader, applied it.
    pub async fn execute(
        &self,
        request: EncodedRequest,
        timeout: Duration,
    ) -> Result<Executed, RequestError> {
        if self.is_out_of_space() {
            return Err(RequestError::NoSpace);
        }
        let deadline = Instant::now() + timeout;
        let id = request.id().map_err(|error| RequestError::Internal(error.to_string()))?;
        let mut ticket = self.waiters.wait_for(id);
        while Instant::now() < deadline {
            let (attempt, forwarded_to) = match self.route() {
                Route::Here(leader) => {
                    (timeout_at(deadline, self.execute_here(&request, leader, &mut ticket)).await, None)
                }
                Route::Leader { leader, address } => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let there = self.execute_there(&request, leader, &address, left, &mut ticket);
                    (timeout_at(deadline, there).await, Some(address))
                }
                Route::Nobody if self.identity().cluster().is_none() => return Err(RequestError::NoLeader),
                Route::Nobody => (Ok(Attempt::Again), None),
            };
            match attempt {
                Ok(Attempt::Applied(Proposed { results, index })) => {
                    return Ok(Executed { results, index, forwarded_to });
                }
                Ok(Attempt::Failed(error)) => return Err(error),
                Ok(Attempt::Again) => {}
                Err(_) => return Err(RequestError::OutcomeUnknown(TIMED_OUT.into())),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.await_leader_change(left.min(PAUSE)).await;
        }
        Err(RequestError::NoLeader)
    }

    async fn execute_here(
        &self,
        request: &EncodedRequest,
        leader: Leadership,
        ticket: &mut Ticket,
    ) -> Attempt {
        if self.space.is_low() {
            return Attempt::Failed(RequestError::NoSpace);
        }
        match self.proposer().submit(request.clone(), leader).await {
            Ok(_room) => settle(ticket, leader).await,
            Err(ProposeError::NotLeader) => Attempt::Again,
            Err(error) => Attempt::Failed(RequestError::Internal(error.to_string())),
        }
    }

    async fn execute_there(
        &self,
        request: &EncodedRequest,
        leader: Leadership,
        address: &str,
        timeout: Duration,
        ticket: &mut Ticket,
    ) -> Attempt {
        let mut body = BytesMut::with_capacity(request.bytes().len() + 12);
        body.put_u32_le(timeout.as_millis() as u32);
        body.put_u64_le(leader.term);
        body.put_slice(request.bytes());
        let answer = tokio::select! {
            answer = self.peers.call(leader.node, address, Kind::Execute, &body, timeout) => answer,
            // It may be cut off, and never answer. While it leads its answer is waited for, though this member may
            // have applied the request before: who was answered finds the write in a weak read on the leader.
            () = self.no_longer_led_by(leader) => return settle(ticket, leader).await,
        };
        match answer.map(read_answer) {
            Ok(Ok((index, results))) => Attempt::Applied(Proposed { results, index }),
            Ok(Err(ExecuteError::NotLeader)) | Err(CallError::NotSent(_)) => Attempt::Again,
            Ok(Err(ExecuteError::Failed(RequestError::OutcomeUnknown(_))))
            | Err(CallError::Broken(_) | CallError::TimedOut(_)) => settle(ticket, leader).await,
            Ok(Err(ExecuteError::Failed(error))) => Attempt::Failed(error),
            Err(error @ CallError::Remote(_)) => Attempt::Failed(error.into()),
        }
    }

    /// Proposes a request for another member, if this one is the leader that it means.
    pub(super) async fn answer_execute(&self, mut body: Bytes) -> Result<Bytes, String> {
        let mut head = || Ok::<_, WireError>((get_u32(&mut body)?, get_u64(&mut body)?));
        let (timeout, term) = head().map_err(|e| e.to_string())?;
        let request = EncodedRequest::from_peer(body).map_err(|e| e.to_string())?;
        let mut ticket = self.waiters.wait_for(request.id().map_err(|e| e.to_string())?);
        let leader = Leadership { term, node: self.identity().node_id().0 };
        let timeout = Duration::from_millis(timeout.into());
        let attempt = tokio::time::timeout(timeout, self.execute_here(&request, leader, &mut ticket)).await;
        Ok(write_answer(match attempt {
            Ok(Attempt::Applied(Proposed { results, index })) => Ok((index, results)),
            Ok(Attempt::Again) => Err(ExecuteError::NotLeader),
            Ok(Attempt::Failed(error)) => Err(ExecuteError::Failed(error)),
            Err(_) => Err(ExecuteError::Failed(RequestError::OutcomeUnknown(TIMED_OUT.into()))),
        }))
    }
}

/// Waits for the outcome of what was proposed to `leader`.
async fn settle(ticket: &mut Ticket, leader: Leadership) -> Attempt {
    match ticket.settled(leader).await {
        Some(Outcome::Applied(proposed)) => Attempt::Applied(proposed),
        Some(Outcome::NotAppended) => {
            ticket.again();
            Attempt::Again
        }
        Some(Outcome::Skipped) => Attempt::Failed(RequestError::OutcomeUnknown(SKIPPED.into())),
        None => Attempt::Again,
    }
}
