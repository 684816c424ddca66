//! A client's write, from the member that accepted it to its outcome.
//!
//! ```text
//! execute call = timeout ms u32 · to be proposed within ms u32 (0 = whenever) · term u64 · request
//! answer       = as of a query, without a position
//! ```
//! It is proposed here, or by the leader for this member, each time to one leader by name; when nobody can say any more
//! what became of a proposal, what is applied here does ([`super::waiters`]). So it is tried again until its time is
//! over, and is never applied twice. A leader that lost the connection but not its lead may or may not have received
//! it: it is sent again, and the leader takes only the first copy ([`super::received`]).

use super::Consensus;
use super::calls::{CallError, Kind};
use super::command::EncodedRequest;
use super::peer_answer::{ExecuteError, read_answer, write_answer};
use super::propose::{ProposeError, Proposed};
use super::request_error::RequestError;
use super::route::{PAUSE, Route};
use super::waiters::{Leadership, Outcome, Ticket};
use super::wire::{WireError, get_u32, get_u64};
use crate::store::Position;
use crate::trace::StagedWrite;
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

/// How long a leader may take.
struct Times {
    /// Until it answers.
    answer: Duration,
    /// Until it proposes, if that is bounded.
    not_after: Option<Instant>,
}

/// What came of proposing a request to one leader.
enum Attempt {
    Applied(Proposed),
    /// It is in no log that can still commit.
    Again,
    /// The leader may or may not have it.
    Unsettled(Leadership),
    Failed(RequestError),
}

const SKIPPED: &str = "the outcome is unknown: this member stopped, or took over another member's state";
/// No request waits longer.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the outcome is waited for before a request is sent again to a leader that it may not have reached.
const SEND_AGAIN: Duration = Duration::from_millis(500);
const NO_LONGER_LET_IN: &str =
    "the outcome is unknown: it was sent to the leader, by whose users it is not allowed any more";
const TIMED_OUT: &str = "timed out while committing log: the outcome is unknown";
/// In rqlite's words.
const LEADERSHIP_LOST: &str = "leadership lost while committing log";

impl Consensus {
    /// Applies a request on every member, once; returns after this member, or the leader, applied it.
    pub async fn execute(
        &self,
        request: EncodedRequest,
        timeout: Duration,
    ) -> Result<Executed, RequestError> {
        self.execute_within(request, timeout, None).await
    }

    /// The same, but not at all if it is not proposed within `propose_within`.
    pub async fn execute_within(
        &self,
        request: EncodedRequest,
        timeout: Duration,
        propose_within: Option<Duration>,
    ) -> Result<Executed, RequestError> {
        if self.is_out_of_space() {
            return Err(RequestError::NoSpace);
        }
        let started = Instant::now();
        let not_after = propose_within.and_then(|within| started.checked_add(within));
        // A duration too long for the clock is as good as none.
        let deadline = started.checked_add(timeout).unwrap_or(started + LONGEST);
        let id = request.id().map_err(|error| RequestError::Internal(error.to_string()))?;
        let mut ticket = self.waiters.wait_for(id);
        let mut unsettled = None;
        let mut was_tried = false;
        // A leader that is there is asked, however short the time.
        while !was_tried || Instant::now() < deadline {
            was_tried = true;
            if unsettled.is_none() && not_after.is_some_and(|at| at < Instant::now()) {
                return Err(RequestError::ExecuteTimeout);
            }
            let route = self.route();
            let asked = unsettled.or(route.leader());
            let (attempt, forwarded_to) = match route {
                // First what became of it with the leader that may have it; to that one it can be sent again.
                route if unsettled.is_some_and(|old| route.leader() != Some(old)) => {
                    let old = unsettled.take().unwrap_or_default();
                    (timeout_at(deadline, settle(&mut ticket, old)).await, None)
                }
                Route::Here(leader) => (
                    timeout_at(deadline, self.execute_here(&request, leader, not_after, &mut ticket)).await,
                    None,
                ),
                Route::Leader { leader, address } => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let times = Times { answer: left, not_after };
                    // In a box: `http::handle` says why.
                    let there = Box::pin(self.execute_there(&request, leader, &address, times, &mut ticket));
                    (timeout_at(deadline, there).await, Some(address))
                }
                Route::Nobody if self.identity().cluster().is_none() => return Err(RequestError::NoLeader),
                Route::Nobody => (Ok(Attempt::Again), None),
            };
            match attempt {
                Ok(Attempt::Applied(Proposed { results, index })) => {
                    return Ok(Executed { results, index, forwarded_to });
                }
                // The leader looked at who asks before it looked whether it has the request already.
                Ok(Attempt::Failed(RequestError::Unauthorized(_))) if unsettled.is_some() => {
                    return Err(RequestError::OutcomeUnknown(NO_LONGER_LET_IN.into()));
                }
                Ok(Attempt::Failed(error)) => return Err(error),
                Ok(Attempt::Again) => {}
                Ok(Attempt::Unsettled(leader)) => unsettled = Some(leader),
                Err(_) => return Err(self.undecided(asked)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.await_leader_change(left.min(PAUSE)).await;
        }
        Err(match unsettled {
            None => RequestError::NoLeader,
            leader => self.undecided(leader),
        })
    }

    /// What is said of a request whose time is over, and that `leader` may or may not have.
    fn undecided(&self, leader: Option<Leadership>) -> RequestError {
        let still_leads = leader.is_some() && self.route().leader() == leader && self.knows_leader();
        RequestError::OutcomeUnknown(if still_leads { TIMED_OUT } else { LEADERSHIP_LOST }.into())
    }

    async fn execute_here(
        &self,
        request: &EncodedRequest,
        leader: Leadership,
        not_after: Option<Instant>,
        ticket: &mut Ticket,
    ) -> Attempt {
        if self.lacks_room() {
            return Attempt::Failed(RequestError::NoSpace);
        }
        if let Err(error) = self.may_serve().and_then(|()| self.may_apply()) {
            return Attempt::Failed(error);
        }
        self.until_foreign_keys_are_said().await;
        let staged = StagedWrite::begin();
        if let Some(staged) = &staged {
            ticket.follow(staged.stages.clone());
        }
        match self.proposer().submit(request.clone(), leader, not_after).await {
            Ok(()) => {
                let attempt = settle(ticket, leader).await;
                if let (Attempt::Applied(_), Some(staged)) = (&attempt, staged) {
                    staged.applied();
                }
                attempt
            }
            Err(ProposeError::NotLeader) => Attempt::Again,
            Err(error) => Attempt::Failed(RequestError::Internal(error.to_string())),
        }
    }

    async fn execute_there(
        &self,
        request: &EncodedRequest,
        leader: Leadership,
        address: &str,
        Times { answer: timeout, not_after }: Times,
        ticket: &mut Ticket,
    ) -> Attempt {
        let mut body = BytesMut::with_capacity(request.bytes().len() + 16);
        body.put_u32_le(timeout.min(LONGEST).as_millis() as u32);
        let within = not_after.map(|at| at.saturating_duration_since(Instant::now()).min(LONGEST));
        body.put_u32_le(within.map_or(0, |within| within.as_millis().max(1) as u32));
        body.put_u64_le(leader.term);
        body.put_slice(request.bytes());
        // While it leads its answer is waited for, though this member may have applied the request before: who was
        // answered finds the write in a weak read on the leader.
        let there = self.call_leader(leader, address, Kind::Execute, &body, timeout);
        let Some(answer) = self.while_led_by(leader, there).await else {
            return settle(ticket, leader).await;
        };
        match answer.map(read_answer) {
            Ok(Ok((index, _, results))) => Attempt::Applied(Proposed { results, index }),
            Ok(Err(ExecuteError::NotLeader)) | Err(CallError::NotSent(_)) => Attempt::Again,
            Ok(Err(ExecuteError::ReceivedAlready))
            | Ok(Err(ExecuteError::Failed(RequestError::OutcomeUnknown(_)))) => settle(ticket, leader).await,
            // Perhaps it never arrived. If this leader has it, it says so when it is sent again.
            Err(CallError::Broken(_) | CallError::TimedOut(_)) => {
                let settled = tokio::time::timeout(SEND_AGAIN, settle(ticket, leader)).await;
                settled.unwrap_or(Attempt::Unsettled(leader))
            }
            Ok(Err(error)) => Attempt::Failed(error.into()),
            Err(error @ (CallError::Remote(_) | CallError::Unauthorized(_))) => Attempt::Failed(error.into()),
        }
    }

    /// Proposes a request for another member, if this one is the leader that it means.
    pub(super) async fn answer_execute(&self, mut body: Bytes) -> Result<Bytes, String> {
        let mut head = || Ok::<_, WireError>((get_u32(&mut body)?, get_u32(&mut body)?, get_u64(&mut body)?));
        let (timeout, within, term) = head().map_err(|e| e.to_string())?;
        let request = EncodedRequest::from_peer(body).map_err(|e| e.to_string())?;
        let id = request.id().map_err(|e| e.to_string())?;
        let leader = Leadership { term, node: self.identity().node_id().0 };
        if !self.received.is_first(leader, id) {
            return Ok(write_answer(Err(ExecuteError::ReceivedAlready)));
        }
        let mut ticket = self.waiters.wait_for(id);
        let timeout = Duration::from_millis(timeout.into());
        let not_after = (within > 0).then(|| Instant::now() + Duration::from_millis(within.into()));
        let here = self.execute_here(&request, leader, not_after, &mut ticket);
        let attempt = tokio::time::timeout(timeout, here).await;
        Ok(write_answer(match attempt {
            Ok(Attempt::Applied(Proposed { results, index })) => Ok((index, Position::default(), results)),
            Ok(Attempt::Again | Attempt::Unsettled(_)) => {
                self.received.forget(leader, id);
                Err(ExecuteError::NotLeader)
            }
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
        Some(Outcome::TooLate) => Attempt::Failed(RequestError::ExecuteTimeout),
        Some(Outcome::Skipped) => Attempt::Failed(RequestError::OutcomeUnknown(SKIPPED.into())),
        None => Attempt::Again,
    }
}
