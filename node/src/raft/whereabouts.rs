//! Where members are now. Raft makes a client for each member when it begins to lead, and keeps it; a member may come back
//! under another address meanwhile.

use super::types::Raft;
use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Peer addresses of the members, as the last membership has them.
#[derive(Clone, Default)]
pub struct Whereabouts(Arc<Mutex<HashMap<u64, String>>>);

impl Whereabouts {
    /// Of one member; none if the membership does not name it.
    pub fn of(&self, id: u64) -> Option<String> {
        self.0.lock().get(&id).cloned()
    }

    /// Of all members.
    pub fn all(&self) -> Vec<(u64, String)> {
        self.0.lock().iter().map(|(id, address)| (*id, address.clone())).collect()
    }

    /// Follows the membership until Raft ends.
    pub async fn follow(self, raft: Raft) {
        let mut watch = raft.server_metrics();
        loop {
            let now = {
                let server = watch.borrow_watched();
                server.membership_config.nodes().map(|(id, node)| (*id, node.raft_addr.clone())).collect()
            };
            *self.0.lock() = now;
            if watch.changed().await.is_err() {
                return;
            }
        }
    }
}
