//! Linearizable reads on a member that does not lead: the leader says up to which index a quorum has confirmed its lead,
//! and this member answers from its own database once it has applied that (Raft dissertation, section 6.4). Statements and
//! results stay here, and one question serves all reads that wait, so that such reads grow with the number of members.
//!
//! Where that does not work, or not soon, the whole query goes to the leader, as it does at other levels
//! ([`super::forward`]).

use super::Consensus;
use super::calls::{Kind, Peers};
use super::command::EncodedRequest;
use super::local_read::LocalRead;
use super::query::QueryOptions;
use super::read::{BarrierError, Outcome, ROUND, Round};
use super::request_error::RequestError;
use super::route::{Route, while_led_by};
use super::types::ServerMetrics;
use super::waiters::Leadership;
use super::wire::get_u64;
use crate::observe::Observe as _;
use client::admin::Phase;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a read waits until this member has applied what the leader has. What takes longer, the leader answers.
const APPLIED_SOON: Duration = Duration::from_millis(100);

/// The round of a member that does not lead: it asks the leader for the index.
pub(super) struct AskLeader {
    pub(super) server: ServerMetrics,
    pub(super) peers: Arc<Peers>,
}

impl Round for AskLeader {
    async fn confirm(&self) -> Outcome {
        let Route::Leader { leader, address } = Route::of(&self.server) else {
            return Err(BarrierError::NotLeader);
        };
        match while_led_by(&self.server, leader, read_index(&self.peers, leader, &address)).await {
            Some(index) => index.map_err(|_| BarrierError::NoQuorum),
            None => Err(BarrierError::NotLeader),
        }
    }
}

/// Asks `leader`, another member, up to which index a quorum confirms that it leads.
pub(super) async fn read_index(
    peers: &Arc<Peers>,
    leader: Leadership,
    address: &str,
) -> Result<u64, RequestError> {
    let mut answer = peers.call(leader.node, address, Kind::ReadIndex, &[], ROUND).await?;
    get_u64(&mut answer).map_err(|e| RequestError::Internal(e.to_string()))
}

impl Consensus {
    /// Runs a linearizable query here, while another member leads. None if the leader is to run it.
    pub(super) async fn read_behind(
        &self,
        request: &EncodedRequest,
        options: &QueryOptions,
        deadline: Instant,
    ) -> Result<Option<LocalRead>, RequestError> {
        if !self.may_read_behind() {
            return Ok(None);
        }
        let Ok(Ok(index)) = timeout_at(deadline, self.leaders_index.pass()).await else { return Ok(None) };
        let soon = deadline.min(Instant::now() + APPLIED_SOON);
        if !matches!(timeout_at(soon, self.store().until_applied(index)).await, Ok(Ok(()))) {
            return Ok(None);
        }
        if let Some(bookmark) = options.bookmark {
            self.await_position(bookmark, deadline).await?;
        }
        // Its state may have turned out to be wrong while it waited.
        if !self.may_read_behind() {
            return Ok(None);
        }
        self.read_here(request.clone(), options.limits).await.map(Some)
    }

    /// Whether what is here is right, and is kept up to date.
    fn may_read_behind(&self) -> bool {
        self.phase.current() == Phase::Serving && self.may_serve().is_ok() && self.may_apply().is_ok()
    }
}
