//! Members that do not answer for long leave the cluster, where that is wanted.

use super::Consensus;
use client::admin::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Silence that counts as none: heartbeats are answered much more often.
const HEARD: u64 = 2_000;

/// After which silence members are removed; never, if not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reap {
    /// Those that vote.
    pub voters: Option<Duration>,
    /// Those that do not.
    pub read_only: Option<Duration>,
}

impl Consensus {
    /// Removes silent members where this one leads. A new leader gives everybody the whole time.
    pub(super) async fn reap(self: Arc<Self>, after: Reap) {
        if after == Reap::default() {
            return;
        }
        let mut silent_since: HashMap<NodeId, Instant> = HashMap::new();
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.is_leader() {
                silent_since.clear();
                continue;
            }
            let report = self.report();
            silent_since.retain(|id, _| report.membership.members.iter().any(|m| m.node_id == *id));
            for member in &report.membership.members {
                let id = member.node_id;
                if id == report.node_id || member.silent_milliseconds.is_some_and(|silent| silent < HEARD) {
                    silent_since.remove(&id);
                    continue;
                }
                let since = *silent_since.entry(id).or_insert_with(Instant::now);
                let limit = if member.voter { after.voters } else { after.read_only };
                if limit.is_none_or(|limit| since.elapsed() < limit) {
                    continue;
                }
                match self.remove_member(member).await {
                    Ok(_) => {
                        tracing::warn!(member = member.name, silent = ?since.elapsed(), "reaped a member")
                    }
                    Err(refusal) => {
                        tracing::warn!(
                            member = member.name,
                            refusal.message,
                            "a silent member cannot be reaped"
                        );
                    }
                }
            }
        }
    }
}
