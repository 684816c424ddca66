//! What a member does whose disk is nearly full, or full.

use super::Consensus;
use super::answer::Described;
use super::hand_over::fit_to_lead;
use super::membership::MembershipChanges;
use client::admin::quorum;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the free space is looked at. What is written in between has to fit into the reserve.
const LOOK: Duration = Duration::from_millis(200);
/// How often a leader asks the other voters for theirs while there is room; without, each time it looks.
const ASK: Duration = Duration::from_secs(1);
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

    /// Whether a leader had better not let a write in: it has no room for it, or too many others have none.
    pub(super) fn lacks_room(&self) -> bool {
        self.space.is_low_now() || self.quorum_lacks_room.load(Ordering::Relaxed)
    }

    /// Looks at the free space for as long as this member runs. A leader asks the other voters for theirs, because each
    /// of them writes what it lets in; without room itself, it hands over to one with room.
    pub(super) async fn watch_space(self: Arc<Self>) {
        let mut asked: Option<Instant> = None;
        let mut tried: Option<Instant> = None;
        loop {
            sleep(LOOK).await;
            if let Err(error) = self.space.look() {
                tracing::warn!(%error, "cannot look at the free space");
                continue;
            }
            if !self.is_leader() {
                asked = None;
                self.quorum_lacks_room.store(false, Ordering::Relaxed);
                continue;
            }
            let is_roomy = !self.space.is_low() && !self.quorum_lacks_room.load(Ordering::Relaxed);
            if is_roomy && asked.is_some_and(|at| at.elapsed() < ASK) {
                continue;
            }
            asked = Some(Instant::now());
            let others = self.described_voters(|_| true).await;
            self.note_room(&others);
            // A leader with room would let no writes in either without a quorum that has room.
            let is_of_use = self.space.is_low() && !self.quorum_lacks_room.load(Ordering::Relaxed);
            if !is_of_use || tried.is_some_and(|at| at.elapsed() < HAND_OVER) {
                continue;
            }
            tried = Some(Instant::now());
            let with_room = fit_to_lead(&others, |d| !d.is_low_on_space);
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

    /// Notes whether a quorum has room, by what the other voters say and by what this one knows.
    fn note_room(&self, others: &[(u64, Described)]) {
        let is_low = self.space.is_low();
        let low = others.iter().filter(|(_, d)| d.is_low_on_space).count() + usize::from(is_low);
        let lacks = lacks_quorum(self.metrics().membership_config.voter_ids().count(), low);
        match (self.quorum_lacks_room.swap(lacks, Ordering::Relaxed), lacks) {
            (false, true) => {
                tracing::error!(low, "the disks of too many voters are nearly full: no more writes")
            }
            (true, false) => tracing::info!(low, "a quorum has room on its disks again"),
            _ => {}
        }
    }
}

/// Whether those without room, of so many voters, leave no quorum that has some. Who did not say is not counted: a slow
/// answer is no reason to refuse writes.
fn lacks_quorum(voters: usize, low: usize) -> bool {
    voters.saturating_sub(low) < quorum(voters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_needs_room() {
        for (voters, low, lacks) in [
            (1, 0, false),
            (1, 1, true),
            (2, 1, true),
            (3, 1, false),
            (3, 2, true),
            (4, 1, false),
            (4, 2, true),
            (5, 2, false),
            (5, 3, true),
        ] {
            assert_eq!(lacks_quorum(voters, low), lacks, "{low} of {voters}");
        }
    }
}
