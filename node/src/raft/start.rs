//! Putting the parts of a member's consensus together.

use super::admission::{PeerSecurity, Seen};
use super::applying::Applying;
use super::archive::Archived;
use super::calls::Peers;
use super::consensus::Consensus;
use super::consensus_config::{ConsensusConfig, raft_config};
use super::contact::LeaderContact;
use super::fatal_entry::EntryGate;
use super::follower_read::AskLeader;
use super::log_store::LogStore;
use super::peer_client::PeerClients;
use super::peer_server;
use super::peers_file;
use super::propose::Proposer;
use super::read::{Barrier, Quorum};
use super::received::Received;
use super::recovery::Recovery;
use super::replace::StagedFiles;
use super::retention;
use super::snapshot_receive::Receiving;
use super::start_error::{StartError, check_together};
use super::state_machine::StateMachine;
use super::teller::Teller;
use super::types::{PeerInfo, Raft};
use super::waiters::{Leadership, Waiters};
use super::whereabouts::Whereabouts;
use crate::failpoint::{Place, pass};
use crate::identity::Identity;
use crate::space::Space;
use crate::store::Store;
use client::admin::Phase;
use raftlog::RaftLog;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, watch};

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
        let log = open_log(&config, &store, log_met_full_disk.clone())?;
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
        if let Some(why) = identity.outlived() {
            return Err(StartError::Outlived(why));
        }
        let last = store.applied().log_id.unwrap_or_default();
        let waiters = Waiters::new(Leadership { term: last.term, node: last.leader });
        let whereabouts = Whereabouts::default();
        let staged = StagedFiles::new(store.clone(), identity.node_id(), peers.clone(), whereabouts.clone());
        let entry_gate = EntryGate::open(store.clone(), &config.directory).map_err(StartError::Skipped)?;
        let entry_gate = Arc::new(entry_gate);
        hold_entries(&mut log_store, &staged, &entry_gate)?;
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
        consensus.start_tasks(listener);
        Ok(consensus)
    }

    /// Serves other members, and starts what goes on for as long as the member runs.
    fn start_tasks(self: &Arc<Self>, listener: TcpListener) {
        tokio::spawn(peer_server::serve(listener, self.clone()));
        tokio::spawn(retention::run(
            self.raft.clone(),
            self.log.clone(),
            self.store.clone(),
            self.archived.clone(),
            self.config.log_retention_bytes,
        ));
        tokio::spawn(self.clone().watch_phase());
        tokio::spawn(self.clone().tell_who_leads());
        tokio::spawn(self.clone().tidy_staged());
        tokio::spawn(self.clone().watch_space());
        tokio::spawn(self.clone().watch_consistency());
        tokio::spawn(self.clone().leads_not_while_fenced());
        tokio::spawn(self.clone().agree());
        tokio::spawn(self.clone().end_if_rolled_back());
        tokio::spawn(self.clone().end_if_outlived());
        tokio::spawn(self.clone().ask_around());
        tokio::spawn(self.clone().end_if_store_failed());
        tokio::spawn(self.clone().reap(self.config.reap));
    }
}

/// Opens Raft's log; `met_full_disk` becomes true if it ends for want of room.
fn open_log(
    config: &ConsensusConfig,
    store: &Store,
    met_full_disk: Arc<AtomicBool>,
) -> Result<RaftLog, StartError> {
    let options = raftlog::Options {
        segment_bytes: config.log_segment_bytes,
        on_poison: Some(Arc::new(move |error| {
            met_full_disk.store(error.is_storage_full(), Ordering::Release)
        })),
        ..raftlog::Options::default()
    };
    let (log, recovered) =
        RaftLog::open(config.directory.join("raft").join("log"), options, Arc::new(raftlog::OsIo))?;
    tracing::info!(
        first = recovered.first_index,
        last = recovered.last_index,
        // What is to be applied again is what comes after it.
        applied = store.applied().index(),
        "opened Raft's log"
    );
    if let Some(torn) = &recovered.torn_tail {
        tracing::warn!(?torn, "cut an unfinished write off the log");
    }
    Ok(log)
}

/// Has Raft start before the first entry that it may come to only once it runs: one that names a database that is not here,
/// or one of which it is found out beside how it is applied.
fn hold_entries(
    log_store: &mut LogStore,
    staged: &StagedFiles,
    entry_gate: &EntryGate,
) -> Result<(), StartError> {
    let lacking = staged.first_lacking(log_store).map_err(|e| StartError::Raft(e.to_string()))?;
    if let Some(first) = lacking {
        tracing::info!(
            first,
            "an entry names a database that is not here: it is looked for once this member runs"
        );
    }
    if let Some(first) = lacking.into_iter().chain(entry_gate.first_held()).min() {
        log_store.start_before(first);
    }
    Ok(())
}
