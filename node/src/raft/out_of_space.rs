//! What a member does whose disk is nearly full, or full.

use super::Consensus;
use super::membership::MembershipChanges;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the free space is looked at. What is written in between has to fit into the reserve.
const LOOK: Duration = Duration::from_millis(200);
/// Between two attempts to hand over.
const HAND_OVER: Duration = Duration::from_secs(5);

impl Consensus {
    /// Whether this member met a full disk, and cannot write any more.
    pub fn is_out_of_space(&self) -> bool {
        self.store().met_full_disk() || self.log_met_full_disk.load(Ordering::Acquire)
    }

    /// Waits until more than the reserve is free.
    pub async fn await_space(&self) {
        loop {
            match self.space.look() {
                Ok(_) if !self.space.is_low() => return,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "cannot look at the free space"),
            }
            sleep(LOOK).await;
        }
    }

    /// Looks at the free space for as long as this member runs. A leader without room hands over to a voter with room.
    pub(super) async fn watch_space(self: Arc<Self>) {
        let mut tried: Option<Instant> = None;
        loop {
            sleep(LOOK).await;
            if let Err(error) = self.space.look() {
                tracing::warn!(%error, "cannot look at the free space");
                continue;
            }
            let is_due = tried.is_none_or(|at| at.elapsed() >= HAND_OVER);
            if !self.space.is_low() || !self.is_leader() || !is_due {
                continue;
            }
            tried = Some(Instant::now());
            let with_room = self.voters_fit_to_lead(|_| true, |d| !d.is_low_on_space).await;
            if with_room.is_empty() {
                continue;
            }
            match MembershipChanges::new(&self.raft).transfer(&with_room).await {
                Ok(to) => {
                    tracing::info!(to = to.leader.name, "handed over to a member with room on its disk")
                }
                Err(refusal) => tracing::warn!(refusal.message, "could not hand over to a member with room"),
            }
        }
    }
}
