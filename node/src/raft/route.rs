//! Who leads, as far as this member knows, and so who is asked.

use super::Consensus;
use super::types::ServerMetrics;
use super::waiters::Leadership;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use std::time::Duration;

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
    /// Who leads, by what Raft says of this member.
    pub(super) fn of(server: &ServerMetrics) -> Self {
        let server = server.borrow_watched();
        let leader = Leadership { term: server.vote.leader_id.term, node: server.vote.leader_id.node_id };
        match server.current_leader {
            // A vote that is not on disk yet is of nobody who leads already.
            Some(id) if id != leader.node => Self::Nobody,
            Some(id) if id == server.id => Self::Here(leader),
            Some(id) => match server.membership_config.get_node(&id) {
                Some(info) => Self::Leader { leader, address: info.raft_addr.clone() },
                None => Self::Nobody,
            },
            None => Self::Nobody,
        }
    }

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

    /// The present term, as far as this member knows.
    pub fn term(&self) -> u64 {
        self.server.borrow_watched().vote.leader_id.term
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
        Route::of(&self.server)
    }

    /// [`while_led_by`], as far as this member knows.
    pub(super) async fn while_led_by<T>(
        &self,
        leader: Leadership,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        while_led_by(&self.server, leader, work).await
    }
}

/// What `work` comes to while `leader` leads, this member or another; none once it does not. A leader that is cut off
/// may never answer.
pub(super) async fn while_led_by<T>(
    server: &ServerMetrics,
    leader: Leadership,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = no_longer_led_by(server, leader) => None,
    }
}

/// Waits until `leader` no longer leads.
async fn no_longer_led_by(server: &ServerMetrics, leader: Leadership) {
    let mut server = server.clone();
    while Route::of(&server).leader() == Some(leader) {
        // An end of the channel is the end of Raft on this member.
        if server.changed().await.is_err() {
            return;
        }
    }
}
