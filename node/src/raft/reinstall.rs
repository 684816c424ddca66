//! A member whose database is wrong, or which is to apply an entry that names a database which is nowhere any more
//! ([`super::replace`]), takes another member's.
//!
//! Its log is right: it goes on voting and acknowledging entries. It hands over if it leads, leaves service
//! ([`Phase::Fenced`]), and stops applying; then a member that has the right state, and has applied as much, sends it as
//! a snapshot. Raft does not learn of it: it hands over entries that are in the new database already, and those are
//! passed over.
//!
//! ```text
//! reinstall call = own id u64 · to hold at least entry u64        answer = nothing, once it is in place
//! ```

use super::Consensus;
use super::calls::{CallError, Kind};
use super::membership::describe;
use super::snapshot_send::Sending;
use super::snapshot_stream::Intent;
use super::wire::get_u64;
use crate::observe::{Observe as _, Until as _};
use bytes::{BufMut as _, Bytes, BytesMut};
use client::admin::{Member, Phase, Refusal};
use openraft::async_runtime::watch::WatchReceiver as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How long the sender waits until it has applied as much as the receiver.
const BEHIND: Duration = Duration::from_secs(30);
/// How long the sender may take until it begins to send.
const BEGINS: Duration = Duration::from_secs(60);
/// How long this member may go on leading after it handed over.
const HANDED_OVER: Duration = Duration::from_secs(5);
/// How long a member may take to say what it has applied.
const DESCRIBED: Duration = Duration::from_secs(2);
/// Between two attempts to hand over, or to find a state to take.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a member could not take over another's state.
#[derive(Debug, thiserror::Error)]
pub enum ReinstallError {
    /// Nobody else can lead.
    #[error("it leads, and could not hand over: {}", .0.message)]
    HandOver(Refusal),
    /// Nobody took over in time.
    #[error("it still leads")]
    StillLeads,
    /// The other member did not send it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// This member goes down.
    #[error("this member goes down")]
    GoesDown,
}

impl Consensus {
    /// Whether this member's database is wrong and must not be read.
    pub fn is_fenced(&self) -> bool {
        self.phase.current() == Phase::Fenced
    }

    /// Takes this member out of service and puts `source`'s state, with at least entry `at_least`, in the place of its own.
    pub(super) async fn reinstall(&self, source: &Member, at_least: u64) -> Result<(), ReinstallError> {
        self.give_up_leading().await?;
        let fenced = self.phase.send_if_modified(|phase| {
            let is_up = matches!(*phase, Phase::Serving | Phase::CatchingUp);
            if is_up {
                *phase = Phase::Fenced;
            }
            is_up
        });
        if fenced {
            tracing::warn!(from = %source.name, "out of service; another member's state takes the place of this one's");
        }
        let mut phase = self.phase.subscribe();
        let goes_down = phase.until(|phase| !matches!(phase, Phase::Fenced));
        tokio::select! {
            replaced = self.replace_by(source, at_least) => replaced?,
            _ = goes_down => return Err(ReinstallError::GoesDown),
        }
        self.reinstalls.fetch_add(1, Ordering::Relaxed);
        tracing::info!(from = %source.name, "has another member's state");
        self.lift_fence();
        Ok(())
    }

    /// Takes the state of a member that has applied entry `index`, which this one cannot apply.
    pub(super) async fn take_over_state(&self, index: u64) {
        let own = self.identity.node_id();
        for member in describe(&self.metrics()).members {
            if member.node_id == own {
                continue;
            }
            let described = self.describe_peer(member.node_id, &member.raft_address, DESCRIBED).await;
            if !described.is_ok_and(|described| described.applied_index.is_some_and(|at| at >= index)) {
                continue;
            }
            match self.reinstall(&member, index).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, from = %member.name, "could not take over a state"),
            }
        }
        sleep(PAUSE).await;
    }

    async fn replace_by(&self, source: &Member, at_least: u64) -> Result<(), ReinstallError> {
        let _held = self.applying.hold().await;
        let applied = self.store.applied().index().unwrap_or(0);
        let before = self.store.installs();
        let _open = self.receiving().open_for_replacement();
        let mut body = BytesMut::with_capacity(16);
        body.put_u64_le(self.identity.node_id().0);
        body.put_u64_le(applied.max(at_least));
        let mut connections = self.receiving().connections();
        let does_not_begin = async {
            if let Ok(Ok(())) = timeout(BEGINS, connections.changed()).await {
                std::future::pending().await
            }
        };
        let (id, address) = (source.node_id.0, &source.raft_address);
        let sent = tokio::select! {
            sent = self.peers.call(id, address, Kind::Reinstall, &body, PATIENCE) => sent,
            () = does_not_begin => Err(CallError::TimedOut(address.clone())),
        };
        // The answer may be lost after the state is in place.
        if self.store.installs() > before { Ok(()) } else { sent.map(drop).map_err(Into::into) }
    }

    async fn give_up_leading(&self) -> Result<(), ReinstallError> {
        if !self.is_leader() {
            return Ok(());
        }
        self.hand_over().await.map_err(ReinstallError::HandOver)?;
        let mut server = self.raft.server_metrics();
        let follows = async {
            while self.is_leader() {
                // An end of the channel is the end of Raft on this member.
                if server.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(HANDED_OVER, follows).await.map_err(|_| ReinstallError::StillLeads)
    }

    /// Back towards service, if this member was out of it because of its database.
    pub(super) fn lift_fence(&self) {
        self.phase.send_if_modified(|phase| {
            let was_fenced = *phase == Phase::Fenced;
            if was_fenced {
                *phase = Phase::CatchingUp;
            }
            was_fenced
        });
    }

    /// A member that is out of service may be elected all the same: it hands over at once.
    pub(super) async fn leads_not_while_fenced(self: Arc<Self>) {
        let mut phase = self.phase.subscribe();
        let mut server = self.raft.server_metrics();
        loop {
            if phase.until(|phase| *phase == Phase::Fenced).await.is_err() {
                return;
            }
            if self.is_leader() {
                if let Err(refusal) = self.hand_over().await {
                    tracing::warn!(refusal.message, "leads with a wrong database, and could not hand over");
                }
                sleep(PAUSE).await;
                continue;
            }
            tokio::select! {
                _ = phase.changed() => {}
                changed = server.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Sends the present state to a member that asks for it.
    pub(super) async fn answer_reinstall(&self, mut body: Bytes) -> Result<Bytes, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut word = || get_u64(&mut body).map_err(|e| text(&e));
        let (to, at_least) = (word()?, word()?);
        let is_wrong = self.store.damage().observe(Option::is_some)
            || self.consistency.observe(|verdict| verdict.is_wrong());
        if is_wrong || self.phase.current() != Phase::Serving {
            return Err("this member is not known to have the right state".into());
        }
        let metrics = self.metrics();
        let to_address = metrics.membership_config.get_node(&to).map(|node| node.raft_addr.clone());
        let address = to_address.ok_or("it is not a member")?;
        match timeout(BEHIND, self.store.until_applied(at_least)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(text(&error)),
            Err(_) => return Err("this member has not applied as much".into()),
        }
        // Who asks goes to the next member rather than wait: clients' copies may take long.
        let _permit = self.copies.try_acquire().map_err(|_| "this member sends other copies of its state")?;
        let pinned = self.store.pin_to_send().await.map_err(|e| text(&e))?;
        let sending = Sending::new(&self.peers, to, &address, metrics.vote, Intent::Replace, pinned);
        sending.run().await.map_err(|e| text(&e))?;
        Ok(Bytes::new())
    }
}
