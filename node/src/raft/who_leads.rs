//! Who leads, told in the log whenever that changes: what is looked for there first after an outage.

use super::Consensus;
use super::route::Route;
use openraft::async_runtime::watch::WatchReceiver as _;
use std::sync::Arc;

impl Consensus {
    /// A line for each leader that this member follows or is, and one when there is none any more, until Raft ends.
    pub(super) async fn tell_who_leads(self: Arc<Self>) {
        let mut server = self.raft.server_metrics();
        let mut told = None;
        loop {
            let now = Route::of(&server).leader();
            if now != told {
                match now {
                    Some(leader) if leader.node == self.identity.node_id().0 => {
                        tracing::info!(term = leader.term, "this member leads");
                    }
                    Some(leader) => {
                        let member = self.name_of(leader.node);
                        tracing::info!(leader = member, term = leader.term, "another member leads");
                    }
                    None => tracing::info!("no leader is known"),
                }
                told = now;
            }
            if server.changed().await.is_err() {
                return;
            }
        }
    }

    /// What the membership calls a member.
    fn name_of(&self, id: u64) -> Option<String> {
        let server = self.server.borrow_watched();
        server.membership_config.get_node(&id).map(|member| member.name.clone())
    }
}
