//! A cluster that went on without this member, after its quorum was lost (`recovery.rs`, `peers_file.rs`). Whoever of the
//! old ones comes back could still be a quorum of the old membership, and acknowledge what the cluster never gets. So one
//! that hears of a later epoch of its cluster ends, for good, and nobody's vote counts before it has asked around.
//!
//! What nobody can be asked about is not noticed: old members that reach no one of the new epoch.

use super::calls::{CallError, Kind, Peers};
use super::connection::CONNECT_TIMEOUT;
use crate::observe::{Observe as _, Until as _};
use futures::future::join_all;
use std::sync::Arc;
use tokio::sync::watch;

/// What this member heard of later epochs.
#[derive(Default)]
pub struct Outlived {
    told: watch::Sender<Option<String>>,
    has_asked: watch::Sender<bool>,
}

impl Outlived {
    /// A member of a later epoch said so: `why`.
    pub fn note(&self, why: &str) {
        self.told.send_if_modified(|told| {
            let is_first = told.is_none();
            told.get_or_insert_with(|| why.to_owned());
            is_first
        });
    }

    /// What was said of it, now and from now on.
    pub fn told(&self) -> watch::Receiver<Option<String>> {
        self.told.subscribe()
    }

    /// Asks each of `members`, by id and address, once, whether the cluster is still that of this member. Who does not
    /// answer is waited for as long as a connection may take.
    pub async fn ask_around(&self, peers: &Arc<Peers>, members: Vec<(u64, String)>) {
        let asked = join_all(members.iter().map(|(id, address)| {
            let answered = peers.call(*id, address, Kind::Describe, &[], CONNECT_TIMEOUT);
            async move { (address, answered.await) }
        }));
        for (address, answered) in asked.await {
            // What follows from a refusal is noted where connections are made.
            if let Err(error @ CallError::NotSent(_)) = answered {
                tracing::debug!(address, %error, "whether the cluster went on there is not known");
            }
        }
        self.has_asked.send_replace(true);
    }

    /// Why this member may not vote, once everybody was asked.
    pub async fn may_vote(&self) -> Result<(), String> {
        // The sender is `self`.
        drop(self.has_asked.subscribe().until(|has_asked| *has_asked).await);
        self.told.current().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn nobody_votes_before_it_has_asked_nor_once_it_was_told() {
        let outlived = Outlived::default();
        assert_eq!(outlived.may_vote().now_or_never(), None);
        outlived.has_asked.send_replace(true);
        assert_eq!(outlived.may_vote().now_or_never(), Some(Ok(())));
        outlived.note("epoch 2");
        outlived.note("epoch 3");
        assert_eq!(outlived.may_vote().now_or_never(), Some(Err("epoch 2".into())));
    }
}
