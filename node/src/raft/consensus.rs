//! One member's consensus: its parts, what they say together, and how it ends.

use super::admission::{PeerSecurity, Seen};
use super::agreement::Agreement;
use super::applying::Applying;
use super::archive::Archived;
use super::calls::Peers;
use super::consensus_config::ConsensusConfig;
use super::consistency::Verdict;
use super::contact::LeaderContact;
use super::fatal_entry::EntryGate;
use super::follower_read::AskLeader;
use super::membership::{describe, metrics_of};
use super::propose::Proposer;
use super::read::{Barrier, Quorum};
use super::received::Received;
use super::refused_peers::RefusedPeers;
use super::replace::StagedFiles;
use super::request_error::RequestError;
use super::retention::{self, Kept};
use super::snapshot_receive::Receiving;
use super::traced::Takes;
use super::types::{Metrics, Raft, ServerMetrics};
use super::waiters::{Leadership, Waiters};
use crate::identity::Identity;
use crate::observe::{Observe as _, Until as _};
use crate::space::Space;
use crate::store::{Durable, LocalFailure, Store};
use client::admin::{AddLearner, NodeId, Phase};
use futures::FutureExt as _;
use openraft::async_runtime::watch::WatchReceiver;
use raftlog::RaftLog;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, watch};

/// One member's consensus.
pub struct Consensus {
    pub(super) config: ConsensusConfig,
    pub(super) identity: Arc<Identity>,
    pub(super) raft: Raft,
    /// Who leads, looked at with each request.
    pub(super) server: ServerMetrics,
    pub(super) waiters: Arc<Waiters>,
    pub(super) received: Received,
    pub(super) contact: LeaderContact,
    pub(super) joins: AtomicU64,
    /// Of these, on the leader: of members that were there already, and that were there under other addresses.
    pub(super) ignored_joins: AtomicU64,
    pub(super) moved_joins: AtomicU64,
    pub(super) log: RaftLog,
    pub(super) store: Store,
    pub(super) peers: Arc<Peers>,
    pub(super) proposer: Arc<Proposer>,
    /// Of reads here, while this member leads, and of other members' questions.
    pub(super) barrier: Arc<Barrier<Quorum>>,
    /// Of linearizable reads here, while another member leads.
    pub(super) leaders_index: Arc<Barrier<AskLeader>>,
    /// Streaming queries at once.
    pub(super) streams: Arc<Semaphore>,
    /// Copies for clients at once.
    pub(super) copies: Arc<Semaphore>,
    /// Loads, one at a time.
    pub(super) loading: Mutex<()>,
    pub(super) staged: Arc<StagedFiles>,
    pub(super) entry_gate: Arc<EntryGate>,
    pub(super) phase: watch::Sender<Phase>,
    /// Whether the process is to end and start again.
    pub(super) restart: watch::Sender<bool>,
    /// Whether streams of reports are to end.
    pub(super) reports_end: watch::Sender<bool>,
    pub(super) notified: watch::Sender<BTreeMap<NodeId, AddLearner>>,
    pub(super) administering: Mutex<()>,
    pub(super) receiving: Receiving,
    pub(super) space: Space,
    /// Whether too few voters had room for a quorum when this member, leading, last asked them.
    pub(super) quorum_lacks_room: AtomicBool,
    pub(super) log_met_full_disk: Arc<AtomicBool>,
    pub(super) applying: Arc<Applying>,
    pub(super) held_back: AtomicBool,
    pub(super) consistency: watch::Sender<Verdict>,
    /// Who had the right state when databases were compared last.
    pub(super) equal: parking_lot::Mutex<BTreeSet<NodeId>>,
    /// Since when this database, just opened, was not compared.
    pub(super) uncompared_since: parking_lot::Mutex<Instant>,
    pub(super) agreement: watch::Sender<Agreement>,
    /// Whether the state is known to say something of foreign keys: then it always will.
    pub(super) foreign_keys_are_said: AtomicBool,
    pub(super) archived: Arc<Archived>,
    /// What the leader that was asked last takes.
    pub(super) leader_takes: parking_lot::Mutex<Option<(Leadership, Takes)>>,
    pub(super) asking_leader: Mutex<()>,
    pub(super) reinstalls: AtomicU64,
    pub(super) strong_read_term: AtomicU64,
    pub(super) security: PeerSecurity,
    /// Where clients' requests run, also those that other members pass on.
    pub(super) clients: Handle,
    pub(super) seen: Seen,
}

impl Consensus {
    /// Who this member is.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it was started with.
    pub fn config(&self) -> &ConsensusConfig {
        &self.config
    }

    /// Groups and names requests.
    pub fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    pub(super) fn metrics(&self) -> Metrics {
        metrics_of(&self.raft)
    }

    /// Numbers of Raft's log, for metrics.
    pub fn log_stats(&self) -> raftlog::Stats {
        self.log.stats()
    }

    /// Index of the first entry that the log has.
    pub fn first_log_index(&self) -> u64 {
        self.log.first_index().unwrap_or(0)
    }

    /// Term of the last strong read that this member, leading, answered since its start; 0 until one.
    pub fn strong_read_term(&self) -> u64 {
        self.strong_read_term.load(Ordering::Relaxed)
    }

    /// How long ago the leader was heard; none if it never was.
    pub fn leader_silence(&self) -> Option<Duration> {
        self.contact.silence()
    }

    /// Index and term of the last entry of the log; of an empty log both are 0.
    pub(super) fn last_log(&self) -> (u64, u64) {
        let metrics = self.raft.data_metrics();
        metrics.borrow_watched().last_log.as_ref().map_or((0, 0), |id| (id.index, id.leader_id.term))
    }

    /// Requests to join since the start.
    pub fn joins(&self) -> u64 {
        self.joins.load(Ordering::Relaxed)
    }

    /// Requests, to this member as the leader, to let in who was there already.
    pub fn ignored_joins(&self) -> u64 {
        self.ignored_joins.load(Ordering::Relaxed)
    }

    /// Requests, to this member as the leader, to let in who was there under other addresses.
    pub fn moved_joins(&self) -> u64 {
        self.moved_joins.load(Ordering::Relaxed)
    }

    /// Connections to other members that took the place of broken ones.
    pub fn reconnections(&self) -> u64 {
        self.peers.reconnections()
    }

    /// Databases of others that took the place of this member's since the start.
    pub fn restores(&self) -> u64 {
        self.store.installs()
    }

    /// How often its database was wrong and another member's took its place, since the start.
    pub fn reinstalls(&self) -> u64 {
        self.reinstalls.load(Ordering::Relaxed)
    }

    /// Who was not let in on the peer port since the start.
    pub fn refused_peers(&self) -> &RefusedPeers {
        self.peers.refused()
    }

    /// How far the member is in its life.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// From now on the member says that it is going down.
    pub fn set_draining(&self) {
        self.store.excuse_end();
        self.phase.send_replace(Phase::Draining);
    }

    /// Whether the member is going down.
    pub fn is_draining(&self) -> bool {
        self.phase.current() == Phase::Draining
    }

    pub(super) fn receiving(&self) -> &Receiving {
        &self.receiving
    }

    /// Whether the process is to end and start again.
    pub fn restart(&self) -> watch::Receiver<bool> {
        self.restart.subscribe()
    }

    /// Ends the streams of reports, which would go on for as long as somebody listens.
    pub fn end_reports(&self) {
        self.reports_end.send_replace(true);
    }

    /// This member as others are to know it.
    pub fn own_member(&self) -> AddLearner {
        AddLearner {
            node_id: self.identity.node_id(),
            name: self.config.name.clone(),
            raft_address: self.config.raft_address.clone(),
            api_address: self.config.api_address.clone(),
        }
    }

    /// Whether Raft has stopped on this member, as after a failed disk: it can be told nothing any more.
    pub(super) fn has_stopped(&self) -> bool {
        self.raft.metrics().borrow_watched().running_state.is_err()
    }

    /// Waits until who leads may have changed, but not for long.
    pub async fn await_leader_change(&self, at_most: Duration) {
        let mut watch = self.raft.server_metrics();
        // A new receiver has seen nothing yet: the present value is no change.
        watch.changed().now_or_never();
        // Either is a reason to look again.
        drop(tokio::time::timeout(at_most, watch.changed()).await);
    }

    /// Members whose volume was put back to an earlier state, as far as this one met it, with why.
    pub fn rolled_back(&self) -> Vec<(NodeId, String)> {
        self.peers.rolled_back().known()
    }

    /// Ends consensus here, for good, once others say that this member's volume is not what it was.
    pub(super) async fn end_if_rolled_back(self: Arc<Self>) {
        let mut told = self.peers.rolled_back().told();
        loop {
            let voters = describe(&self.metrics()).members.into_iter().filter(|member| member.voter);
            let voters: BTreeSet<u64> = voters.map(|member| member.node_id.0).collect();
            let Some(why) = told.observe(|told| told.verdict(&voters).map(str::to_owned)) else {
                // The sender lives as long as this.
                if told.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tracing::error!(why, "other members do not count on this one any more");
            // Raft shares this thread: it votes for nobody before this is written.
            if let Err(error) = self.identity.set_rolled_back(&why) {
                tracing::error!(%error, "the next start will have to be told again");
            }
            return self.end_raft().await;
        }
    }

    /// Asks those whom this member knows whether the cluster went on without it.
    pub(super) async fn ask_around(self: Arc<Self>) {
        let own = self.identity.node_id();
        let members = describe(&self.metrics()).members.into_iter().filter(|member| member.node_id != own);
        let members = members.map(|member| (member.node_id.0, member.raft_address)).collect();
        self.peers.outlived().ask_around(&self.peers, members).await;
    }

    /// Ends consensus here, for good, once a member says that the cluster went on without this one.
    pub(super) async fn end_if_outlived(self: Arc<Self>) {
        let mut told = self.peers.outlived().told();
        // The sender lives as long as this.
        if told.until(Option::is_some).await.is_err() {
            return;
        }
        let why = told.current().unwrap_or_default();
        tracing::error!(why, "the cluster went on without this member");
        if let Err(error) = self.identity.set_outlived(&why) {
            tracing::error!(%error, "the next start will have to be told again");
        }
        self.end_raft().await;
    }

    /// Ends consensus here once nothing more can be written, whether or not there is something to be written: a member
    /// that nobody writes to would count as healthy, and lead.
    pub(super) async fn end_if_store_failed(self: Arc<Self>) {
        // An error is the store's end, in order.
        if self.store().state().until(|state| state.failure.is_some()).await.is_ok() {
            self.end_raft().await;
        }
    }

    async fn end_raft(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop in order");
        }
    }

    /// Why Raft was ended on this member, if it knows better than Raft does.
    pub(super) fn why_stopped(&self) -> Option<String> {
        let found = self.identity.rolled_back().or_else(|| self.identity.outlived());
        found.or_else(|| self.store().failure().map(|why| why.to_string()))
    }

    /// Moves the phase on: into service once this process reached an index that a quorum confirmed; to failed when
    /// Raft stops by itself.
    pub(super) async fn watch_phase(self: Arc<Self>) {
        let mut watch = self.raft.metrics();
        loop {
            let running = watch.borrow_watched().running_state.clone();
            if let Err(fatal) = running {
                let planned = self.phase.current() == Phase::Draining;
                if !planned {
                    let why = self.why_stopped().unwrap_or_else(|| fatal.to_string());
                    tracing::error!(why, "consensus failed on this member");
                    self.phase.send_replace(Phase::Failed);
                }
                return;
            }
            let phase = self.phase.current();
            if phase == Phase::Uninitialised && self.identity.cluster().is_some() {
                self.phase.send_replace(Phase::CatchingUp);
            }
            if phase == Phase::CatchingUp
                && !self.is_held_back()
                && !self.is_agreeing()
                && self.has_caught_up().await
            {
                // Draining may have come in between.
                self.phase.send_if_modified(|phase| {
                    let was_behind = *phase == Phase::CatchingUp;
                    if was_behind {
                        *phase = Phase::Serving;
                    }
                    was_behind
                });
                tracing::info!("caught up; in service");
            }
            let pause = if self.phase.current() == Phase::Serving { 1000 } else { 50 };
            drop(tokio::time::timeout(Duration::from_millis(pause), watch.changed()).await);
            // A busy member's metrics change all the time; there is no need to look as often.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether this member has applied what a quorum confirmed.
    async fn has_caught_up(&self) -> bool {
        let metrics = self.metrics();
        if metrics.membership_config.get_node(&metrics.id).is_none() {
            return false;
        }
        let Ok(index) = self.confirmed_index().await else { return false };
        let applied = self.store.applied().log_id;
        applied.is_some_and(|id| id.index >= index)
    }

    /// Brings the database file up to date on disk and purges the log behind it, but for `trailing` entries or, if none
    /// is said, what is usually kept. Returns whether anything was purged.
    pub async fn snapshot(&self, trailing: Option<u64>) -> Result<bool, RequestError> {
        let durable = self.store.checkpoint().await.map_err(|e| RequestError::Internal(e.to_string()))?;
        let Some(durable) = durable.log_id else { return Ok(false) };
        let upto = match trailing {
            Some(trailing) => durable.index.checked_sub(trailing),
            None => Kept::beside(&self.store, self.config.log_retention_bytes).last_to_purge(&self.log),
        };
        let upto = upto.and_then(|upto| self.archived.bound(&self.log, upto.min(durable.index)));
        let Some(upto) = upto else { return Ok(false) };
        retention::purge(&self.raft, &self.log, upto).await.map_err(RequestError::Internal)
    }

    /// Purges the log up to entry `index`, unless the database file on disk lacks it or it is to be archived first.
    pub(super) async fn purge_up_to(&self, index: u64) -> Result<(), String> {
        let reaches = |durable: &Durable| durable.log_id.is_some_and(|durable| durable.index >= index);
        let is_durable = self.store.state().observe(|state| reaches(&state.durable))
            || reaches(&self.store.checkpoint().await.map_err(|e| e.to_string())?);
        let may = is_durable && self.archived.bound(&self.log, index) == Some(index);
        if may {
            retention::purge(&self.raft, &self.log, index).await?;
        }
        Ok(())
    }

    /// Stops Raft, closes the log and the database. What was acknowledged is on disk already.
    pub async fn stop(&self) -> Result<(), LocalFailure> {
        self.phase.send_replace(Phase::Draining);
        self.store.readers().give_way(Duration::ZERO);
        self.staged.stop();
        self.entry_gate.stop();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop in order");
        }
        self.peers.close();
        let closed = self.store.close().await;
        let log = self.log.clone();
        let closing = tokio::task::spawn_blocking(move || log.close()).await;
        let io = |what| move |source| LocalFailure::Io { what, source };
        closing
            .map_err(|e| io("close Raft's log")(io::Error::other(e)))?
            .map_err(|e| io("close Raft's log")(io::Error::other(e)))?;
        closed
    }
}
