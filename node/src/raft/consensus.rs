//! One member's consensus: the parts put together, started and stopped.

use super::admission::{PeerSecurity, Seen};
use super::agreement::Agreement;
use super::applying::Applying;
use super::archive::Archived;
use super::calls::Peers;
use super::consensus_config::{ConsensusConfig, raft_config};
use super::consistency::Verdict;
use super::contact::LeaderContact;
use super::fatal_entry::EntryGate;
use super::follower_read::AskLeader;
use super::log_store::LogStore;
use super::membership::{describe, metrics_of};
use super::peer_client::PeerClients;
use super::peer_server;
use super::peers_file;
use super::propose::Proposer;
use super::read::{Barrier, Quorum};
use super::received::Received;
use super::recovery::Recovery;
use super::refused_peers::RefusedPeers;
use super::replace::StagedFiles;
use super::request_error::RequestError;
use super::retention::{self, Kept};
use super::snapshot_receive::Receiving;
use super::start_error::{StartError, check_together};
use super::state_machine::StateMachine;
use super::teller::Teller;
use super::traced::Takes;
use super::types::{Metrics, PeerInfo, Raft, ServerMetrics};
use super::waiters::{Leadership, Waiters};
use super::whereabouts::Whereabouts;
use crate::failpoint::{Place, pass};
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
use tokio::net::TcpListener;
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
    receiving: Receiving,
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
    /// Starts consensus on the present runtime, which is its own: nothing on it may block for long. Requests are made
    /// by tasks of the runtime `clients`.
    pub async fn start(
        config: ConsensusConfig,
        identity: Arc<Identity>,
        store: Store,
        security: PeerSecurity,
        listener: TcpListener,
        clients: Handle,
    ) -> Result<Arc<Self>, StartError> {
        let grows = store.clone();
        let owed = Box::new(move || grows.growth_due());
        let space =
            Space::new(&config.directory, config.disk_reserve_bytes, owed).map_err(StartError::Space)?;
        let log_met_full_disk = Arc::new(AtomicBool::new(false));
        let met_full_disk = log_met_full_disk.clone();
        let options = raftlog::Options {
            segment_bytes: config.log_segment_bytes,
            on_poison: Some(Arc::new(move |error| {
                met_full_disk.store(error.is_storage_full(), Ordering::Release)
            })),
            ..raftlog::Options::default()
        };
        let (log, recovered) =
            RaftLog::open(config.directory.join("raft").join("log"), options, Arc::new(raftlog::OsIo))?;
        // What is to be applied again is what comes after `applied`.
        let applied = store.applied().index();
        tracing::info!(
            first = recovered.first_index,
            last = recovered.last_index,
            applied,
            "opened Raft's log"
        );
        if let Some(torn) = &recovered.torn_tail {
            tracing::warn!(?torn, "cut an unfinished write off the log");
        }
        check_together(&log, &store, &identity).await?;
        pass(Place::StartLogOpened).map_err(|e| StartError::Raft(e.to_string()))?;
        let peers = Arc::new(Peers::new(identity.clone(), security.tls.clone()));
        let mut log_store = LogStore::new(log.clone());
        log_store.note_members_of(store.clone());
        let own = PeerInfo {
            name: config.name.clone(),
            raft_addr: config.raft_address.clone(),
            api_addr: config.api_address.clone(),
        };
        Recovery::perform(&config.directory, &identity, &mut log_store, own).await?;
        peers_file::consume(&config.directory, &identity, &mut log_store, &store).await?;
        let last = store.applied().log_id.unwrap_or_default();
        let waiters = Waiters::new(Leadership { term: last.term, node: last.leader });
        let whereabouts = Whereabouts::default();
        let staged = StagedFiles::new(store.clone(), identity.node_id(), peers.clone(), whereabouts.clone());
        let entry_gate = EntryGate::open(store.clone(), &config.directory).map_err(StartError::Skipped)?;
        let entry_gate = Arc::new(entry_gate);
        let lacking = staged.first_lacking(&log_store).map_err(|e| StartError::Raft(e.to_string()))?;
        if let Some(first) = lacking {
            tracing::info!(
                first,
                "an entry names a database that is not here: it is looked for once this member runs"
            );
        }
        if let Some(first) = lacking.into_iter().chain(entry_gate.first_held()).min() {
            log_store.start_before(first);
        }
        let applying = Arc::new(Applying::from(last.index));
        let teller = Teller::start(waiters.clone(), &clients);
        let raft = Raft::new(
            identity.node_id().0,
            Arc::new(raft_config(config.profile)?),
            PeerClients::new(peers.clone(), whereabouts.clone()),
            log_store,
            StateMachine::new(
                store.clone(),
                identity.clone(),
                waiters.clone(),
                (staged.clone(), entry_gate.clone()),
                applying.clone(),
                teller,
            ),
        )
        .await
        .map_err(|fatal| StartError::Raft(fatal.to_string()))?;
        peers.rolled_back().follow(raft.clone());
        tokio::spawn(whereabouts.clone().follow(raft.clone()));
        tokio::spawn(peers.clone().look_around(whereabouts, raft.clone()));
        let first_phase = match identity.cluster() {
            Some(_) if store.lacks_state() => Phase::Fenced,
            Some(_) => Phase::CatchingUp,
            None => Phase::Uninitialised,
        };
        let consensus = Arc::new(Self {
            proposer: Proposer::start(
                raft.clone(),
                identity.clone(),
                waiters.clone(),
                config.write_step_limit,
            ),
            server: raft.server_metrics(),
            waiters,
            received: Received::default(),
            contact: LeaderContact::default(),
            joins: AtomicU64::new(0),
            ignored_joins: AtomicU64::new(0),
            moved_joins: AtomicU64::new(0),
            barrier: Barrier::start(Quorum(raft.clone())),
            leaders_index: Barrier::start(AskLeader { server: raft.server_metrics(), peers: peers.clone() }),
            streams: Arc::new(Semaphore::new(16)),
            copies: Arc::new(Semaphore::new(2)),
            loading: Mutex::default(),
            staged,
            entry_gate,
            phase: watch::Sender::new(first_phase),
            restart: watch::Sender::new(false),
            reports_end: watch::Sender::new(false),
            notified: watch::Sender::default(),
            administering: Mutex::default(),
            receiving: Receiving::default(),
            space,
            quorum_lacks_room: AtomicBool::new(false),
            log_met_full_disk,
            applying,
            held_back: AtomicBool::new(config.is_held_back),
            consistency: watch::Sender::default(),
            equal: parking_lot::Mutex::default(),
            uncompared_since: parking_lot::Mutex::new(Instant::now()),
            agreement: watch::Sender::default(),
            foreign_keys_are_said: AtomicBool::new(false),
            archived: Arc::new(Archived::up_to(config.log_for_archive_bytes)),
            leader_takes: parking_lot::Mutex::default(),
            asking_leader: Mutex::default(),
            reinstalls: AtomicU64::new(0),
            strong_read_term: AtomicU64::new(0),
            security,
            seen: Seen::default(),
            clients,
            config,
            identity,
            raft,
            log,
            store,
            peers,
        });
        tokio::spawn(peer_server::serve(listener, consensus.clone()));
        let kept_bytes = consensus.config.log_retention_bytes;
        let (raft, log) = (consensus.raft.clone(), consensus.log.clone());
        let archived = consensus.archived.clone();
        tokio::spawn(retention::run(raft, log, consensus.store.clone(), archived, kept_bytes));
        tokio::spawn(consensus.clone().watch_phase());
        tokio::spawn(consensus.clone().tidy_staged());
        tokio::spawn(consensus.clone().watch_space());
        tokio::spawn(consensus.clone().watch_consistency());
        tokio::spawn(consensus.clone().leads_not_while_fenced());
        tokio::spawn(consensus.clone().agree());
        tokio::spawn(consensus.clone().end_if_rolled_back());
        tokio::spawn(consensus.clone().end_if_store_failed());
        tokio::spawn(consensus.clone().reap(consensus.config.reap));
        Ok(consensus)
    }

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
    async fn end_if_rolled_back(self: Arc<Self>) {
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

    /// Ends consensus here once nothing more can be written, whether or not there is something to be written: a member
    /// that nobody writes to would count as healthy, and lead.
    async fn end_if_store_failed(self: Arc<Self>) {
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
        self.identity.rolled_back().or_else(|| self.store().failure().map(|why| why.to_string()))
    }

    /// Moves the phase on: into service once this process reached an index that a quorum confirmed; to failed when
    /// Raft stops by itself.
    async fn watch_phase(self: Arc<Self>) {
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
