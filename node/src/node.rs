//! One member, started and stopped in order.

use crate::background::Background;
use crate::backup::{AutoBackups, AutoRestore, AutoRestoreError, Backups, LastBackup, is_pending};
use crate::changes::Changes;
use crate::cluster::{self, FormError, RegistryContact};
use crate::config::Config;
use crate::control;
use crate::drain::Drain;
use crate::foreign_directory;
use crate::http::{
    About, App, BodyRoom, Counter, Counters, Entrance, Queue, Server, serve_clients, serve_health,
};
use crate::identity::{Identity, IdentityError};
use crate::maintenance::Maintenance;
use crate::metrics::NodeMetrics;
use crate::observe::{Observe as _, Until as _};
use crate::otlp::{CollectorError, Otlp};
use crate::raft::{
    Consensus, ConsensusConfig, LOG_FOR_ARCHIVE, NoSource, PeerSecurity, StartError, has_other_voters,
    state_before_log,
};
use crate::security::Security;
use crate::set_aside;
use crate::store::{LocalFailure, Shelf, Store, set_query_memory};
use client::admin::Phase;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long requests in flight may take to end.
const REQUESTS: Duration = Duration::from_secs(10);

/// A member could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory could not be made.
    #[error("data directory {path}: {source}")]
    DataDir {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Its identity could not be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address could not be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The database could not be opened.
    #[error("open the database: {0}")]
    Store(#[source] LocalFailure),
    /// The database is damaged, and no other member's can take its place.
    #[error(
        "open the database: {damage}. No other member can give this one its state, because {why}. {directory} is left as \
         it is: save it, and begin anew from a backup (docs/runbooks.md, \"A damaged disk\")"
    )]
    Damaged {
        /// What is wrong.
        damage: Box<LocalFailure>,
        /// Why.
        why: Box<NoSource>,
        /// The data directory.
        directory: String,
    },
    /// What a flag names is not what it should be.
    #[error("{flag}: {message}")]
    Named {
        /// The flag that names them.
        flag: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The collector of OpenTelemetry cannot be talked to as configured.
    #[error(transparent)]
    Otlp(#[from] CollectorError),
    /// Raft's log is damaged, and this member cannot come back as a new one by itself.
    #[error(
        "open Raft's log: {lost}. It does not come back as a new one by itself, because {why}. {directory} is left as it \
         is: save it, and see docs/runbooks.md, \"A damaged disk\""
    )]
    LogDamaged {
        /// What is wrong.
        lost: Box<raftlog::OpenError>,
        /// Why.
        why: StaysAway,
        /// The data directory.
        directory: String,
    },
    /// Consensus could not be started.
    #[error(transparent)]
    Consensus(#[from] StartError),
    /// A thread could not be started.
    #[error("start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The control socket could not be made.
    #[error("control socket: {0}")]
    Control(#[source] io::Error),
    /// The member did not come to be of a cluster.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The cluster cannot begin with the backup that it is to begin with.
    #[error(transparent)]
    AutoRestore(#[from] AutoRestoreError),
    /// A local failure ended consensus.
    #[error("this member cannot go on: {0}")]
    Failed(String),
    /// It did not go down in order.
    #[error("going down: {0}")]
    Stop(#[source] LocalFailure),
}

/// Why a member whose log is damaged does not come back as a new one.
#[derive(Debug, thiserror::Error)]
pub enum StaysAway {
    /// Nobody else has to have its data, as far as is known.
    #[error("its database names no other voter")]
    Alone,
    /// Nobody would let it in.
    #[error("no flag names members that could let it in again (-join)")]
    NoWayBack,
    /// What it has could not be looked at, or not be set aside.
    #[error("its data cannot be set aside: {0}")]
    Io(#[from] io::Error),
}

/// What became of a start.
pub enum Started {
    /// The member runs.
    Node(Box<Node>),
    /// It is to come back as a new one: the process is to start again, with nothing closed, as after a crash.
    Again,
}

/// How a member that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to go down, and did.
    InOrder,
    /// Its disk was full, and has room again: the process is to start again, with nothing closed, as after a crash.
    StartAgain,
}

/// A running member.
pub struct Node {
    consensus: Arc<Consensus>,
    clients: Server,
    queue: Arc<Queue>,
    changes: Arc<Changes>,
    health: Option<JoinHandle<io::Result<()>>>,
    control: JoinHandle<()>,
    forming: JoinHandle<Result<(), FormError>>,
    restoring: Option<JoinHandle<Result<(), AutoRestoreError>>>,
    otlp: Option<Arc<Otlp>>,
    drain: Arc<Drain>,
    /// Where the archive goes on until the end, whoever is gone before.
    background: Arc<Background>,
    runtime: ConsensusRuntime,
    leave: bool,
    /// Where the client port really listens (the port may have been given as 0).
    http_address: std::net::SocketAddr,
}

/// The thread and runtime of consensus: nothing else runs there.
struct ConsensusRuntime {
    handle: tokio::runtime::Handle,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl ConsensusRuntime {
    fn start() -> Result<Self, NodeError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NodeError::Thread)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("consensus".into())
            .spawn(move || {
                // Ends when `stop` is sent or dropped.
                drop(runtime.block_on(stopped));
                runtime.shutdown_timeout(Duration::from_secs(1));
            })
            .map_err(NodeError::Thread)?;
        Ok(Self { handle, stop, thread })
    }

    /// Ends the runtime and waits for its thread.
    async fn end(self) {
        drop(self.stop);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::warn!("the thread of consensus did not end in order");
        }
    }
}

/// Makes the data directory, durably: everything else syncs only what is in it.
fn make_data_dir(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory.join("raft"))?;
    let directory = directory.canonicalize()?;
    foreign_directory::sync(directory.parent().unwrap_or(&directory))
}

async fn listen(address: &str) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| NodeError::Listen { address: address.to_owned(), source })
}

/// Puts the extensions that are configured into the data directory.
async fn stock_shelf(config: &Config) -> Result<Shelf, NodeError> {
    let (directory, extensions) = (config.data_dir.clone(), config.extensions.clone());
    let stocked = tokio::task::spawn_blocking(move || Shelf::stock(&directory, &extensions)).await;
    stocked
        .map_err(|error| NodeError::Failed(error.to_string()))?
        .map_err(|error| NodeError::Named { flag: "-extensions-path", message: error.to_string() })
}

/// Opens the database; one that is damaged makes room for another member's, if there is one. Blocks.
fn open_store(config: &Config, identity: &Identity, shelf: Shelf) -> Result<Store, NodeError> {
    let (directory, foreign_keys, scrub_period) =
        (&config.data_dir, config.foreign_keys, config.scrub_period);
    let store = match Store::open_with(directory, foreign_keys, scrub_period, shelf.clone()) {
        Err(damage) if damage.is_damage() => {
            let meta = match state_before_log(directory, identity, config.log_segment_bytes) {
                Ok(meta) => meta,
                Err(why) => {
                    let directory = directory.display().to_string();
                    let (damage, why) = (Box::new(damage), Box::new(why));
                    return Err(NodeError::Damaged { damage, why, directory });
                }
            };
            tracing::error!(error = %damage, "the database is damaged; another member's takes its place");
            Store::open_instead(directory, foreign_keys, scrub_period, shelf, &meta)
        }
        opened => opened,
    };
    let store = store.map_err(NodeError::Store)?;
    store.tidy_extensions();
    Ok(store)
}

/// Decides that a member that may have forgotten what it promised comes back as a new one. Refused where the data could be
/// the last there is.
fn decide_to_come_back(config: &Config, identity: &Identity, store: &Store) -> Result<(), StaysAway> {
    let membership = store.state().observe(|state| state.membership.clone());
    if identity.cluster().is_none() || !has_other_voters(&membership, identity.node_id().0)? {
        return Err(StaysAway::Alone);
    }
    // By a registry it would take itself for the first member.
    if !config.managed && (config.join.is_empty() || config.join.registry().is_some()) {
        return Err(StaysAway::NoWayBack);
    }
    Ok(set_aside::begin(&config.data_dir, crate::clock::now().as_second())?)
}

/// Throws away what the member had before it came back as a new one, once it is in service.
async fn tidy_up(consensus: Arc<Consensus>, directory: PathBuf) {
    if consensus.phase().until(|phase| *phase == Phase::Serving).await.is_err() {
        return;
    }
    match tokio::task::spawn_blocking(move || set_aside::remove(&directory)).await {
        Ok(Ok(())) => tracing::info!("in service again; what was set aside is removed"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot remove what was set aside; tried again at the next start")
        }
        Err(error) => {
            tracing::warn!(%error, "cannot remove what was set aside; tried again at the next start")
        }
    }
}

/// Takes this member out of the cluster, for good: it comes back only with an empty disk.
async fn leave(consensus: &Consensus) {
    match consensus.remove_by_name(&consensus.config().name).await {
        Ok(_) => tracing::info!("left the cluster"),
        Err(refusal) => tracing::warn!(refusal.message, "could not leave the cluster"),
    }
}

impl Node {
    /// Opens the data directory, starts consensus and listens. How it comes to be of a cluster goes on beside.
    pub async fn start(config: Config) -> Result<Started, NodeError> {
        let directory = config.data_dir.clone();
        let data_dir = |source| NodeError::DataDir { path: directory.display().to_string(), source };
        set_aside::resume(&directory).and_then(|()| make_data_dir(&directory)).map_err(data_dir)?;
        let is_set_aside = set_aside::kept(&directory).map_err(data_dir)?.is_some();
        let security = Security::read(&config)?;
        let otlp = config.otlp.clone().map(Otlp::new).transpose()?;
        let shelf = stock_shelf(&config).await?;
        let client_listener = listen(&config.http_addr).await?;
        let http_address = client_listener
            .local_addr()
            .map_err(|source| NodeError::Listen { address: config.http_addr.clone(), source })?;
        let counters = Arc::<Counters>::default();
        let registry = Arc::<RegistryContact>::default();
        let about = About {
            http_bind: http_address.to_string(),
            discovery: config.join.mode(),
            registry: registry.clone(),
            allow_origin: config.http_allow_origin.clone(),
            started: crate::clock::now(),
        };
        let entrance = Entrance::new(
            security.auth.clone(),
            security.clients.clone(),
            counters.clone(),
            config.apply_timeout,
            about.clone(),
        );
        // Clients are answered while log and database open, which may take a while.
        let clients = serve_clients(client_listener, entrance.clone());
        let health_listener = match &config.health_addr {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let identity = Arc::new(Identity::open(&directory)?);
        tracing::info!(
            version = crate::VERSION,
            node_id = %identity.node_id(),
            name = config.node_id,
            data_dir = %directory.display(),
            "starting"
        );
        let has_restore = config.auto_restore.is_some();
        let is_new = identity.cluster().is_none() && identity.former().is_none();
        let is_held_back = is_pending(&directory, has_restore, is_new).map_err(data_dir)?;
        let (for_store, own) = (config.clone(), identity.clone());
        let store = tokio::task::spawn_blocking(move || open_store(&for_store, &own, shelf))
            .await
            .map_err(|e| NodeError::Failed(e.to_string()))??;
        store.set_wal_limit(config.wal_limit_bytes);
        set_query_memory(config.query_memory_limit_bytes);
        let has_data = store.applied().log_id.is_some();

        let runtime = ConsensusRuntime::start()?;
        let consensus_config = ConsensusConfig {
            name: config.node_id.clone(),
            raft_address: config.raft_adv_addr.clone(),
            api_address: config.http_adv_addr.clone(),
            directory: directory.clone(),
            profile: config.profile,
            log_segment_bytes: config.log_segment_bytes,
            log_retention_bytes: config.log_retention_bytes,
            log_for_archive_bytes: LOG_FOR_ARCHIVE,
            write_step_limit: config.write_step_limit,
            consistency_period: config.consistency_period,
            disk_reserve_bytes: config.disk_reserve_bytes,
            reap: config.reap,
            is_held_back,
            tracer: otlp.as_ref().map(|otlp| otlp.tracer().clone()),
        };
        let raft_addr = config.raft_addr.clone();
        let peers = PeerSecurity {
            tls: security.peers,
            clients: security.clients.clone(),
            auth: security.auth.clone(),
            join_as: security.join_as,
        };
        let here = tokio::runtime::Handle::current();
        let (own, own_store) = (identity.clone(), store.clone());
        let starting = runtime.handle.spawn(async move {
            let listener = listen(&raft_addr).await?;
            Ok::<_, NodeError>(
                Consensus::start(consensus_config, identity, store, peers, listener, here).await?,
            )
        });
        let consensus = match starting.await.map_err(|e| NodeError::Failed(e.to_string()))? {
            Err(NodeError::Consensus(StartError::Log(lost))) if lost.is_loss() => {
                if let Err(why) = decide_to_come_back(&config, &own, &own_store) {
                    let directory = directory.display().to_string();
                    let lost = Box::new(lost);
                    return Err(NodeError::LogDamaged { lost, why, directory });
                }
                tracing::error!(
                    error = %lost,
                    "Raft's log is damaged; what this member has is set aside, and it comes back as a new one"
                );
                return Ok(Started::Again);
            }
            started => started?,
        };
        if is_set_aside {
            tokio::spawn(tidy_up(consensus.clone(), directory.clone()));
        }

        let (own_backups, other_store) = (config.backup_config.clone(), config.restore_config.clone());
        let background = Arc::new(Background::start().map_err(NodeError::Thread)?);
        let backups = Backups::start(consensus.clone(), own_backups, other_store, background.clone())
            .map_err(|(flag, message)| NodeError::Named { flag, message })?;
        let changes = Changes::start(consensus.clone(), config.changes.clone())
            .map_err(|error| NodeError::Named { flag: "-cdc-config", message: error.to_string() })?;
        if has_data {
            counters.count(Counter::RestoresStartSkipped);
        }
        let maintenance = Maintenance::start(consensus.clone(), config.maintenance, counters.clone());
        let last_backup = Arc::<LastBackup>::default();
        let auto_backups = config.auto_backup.clone().map(|auto| {
            AutoBackups::start(consensus.clone(), auto, counters.clone(), last_backup.clone(), &background)
                .map_err(|error| NodeError::Named { flag: "-auto-backup", message: error.to_string() })
        });
        let auto_restore = config.auto_restore.clone().filter(|_| is_held_back);
        let restoring =
            auto_restore.map(|auto| tokio::spawn(AutoRestore::new(consensus.clone(), auto).run()));
        let queue = Queue::start(config.write_queue, consensus.clone(), counters.clone());
        let app = Arc::new(App {
            consensus: consensus.clone(),
            metrics: NodeMetrics::default(),
            counters,
            queue: queue.clone(),
            auth: security.auth,
            tls: security.clients.clone(),
            backups,
            changes: changes.clone(),
            auto_backups: auto_backups.transpose()?,
            maintenance,
            otlp: otlp.clone(),
            last_backup,
            apply_timeout: config.apply_timeout,
            room: BodyRoom::default(),
            about,
        });
        if let Some(otlp) = &otlp {
            otlp.start(&app, &background);
        }
        entrance.open(app.clone());
        let health =
            health_listener.map(|listener| tokio::spawn(serve_health(listener, app, runtime.handle.clone())));
        let drain = Arc::new(Drain::new(consensus.clone(), config.managed, config.hand_over_on_shutdown));
        let control = control::serve(&directory, drain.clone()).map_err(NodeError::Control)?;
        let leave = config.leave_on_shutdown;
        if let Some(found_in) = config.join.registry().cloned() {
            let staying =
                cluster::stay_registered(consensus.clone(), config.clone(), found_in, registry.clone());
            tokio::spawn(staying);
        }
        let former = consensus.clone();
        let forming = runtime.handle.spawn(async move { cluster::form(&former, &config, &registry).await });
        tracing::info!(%http_address, "serving");
        Ok(Started::Node(Box::new(Self {
            consensus,
            clients,
            queue,
            changes,
            health,
            control,
            forming,
            restoring,
            otlp,
            drain,
            background,
            runtime,
            leave,
            http_address,
        })))
    }

    /// Where the client port listens.
    pub fn http_address(&self) -> std::net::SocketAddr {
        self.http_address
    }

    /// The member's consensus.
    pub fn consensus(&self) -> &Arc<Consensus> {
        &self.consensus
    }

    /// Runs until `shutdown` resolves or the member cannot go on; then goes down in order. A member that met a full
    /// disk goes on serving reads of what it has until there is room again, and is to be started again then.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Ended, NodeError> {
        let mut phase = self.consensus.phase();
        let mut restart = self.consensus.restart();
        let failed = phase.until(|phase| *phase == Phase::Failed);
        let mut outcome = Ok(());
        let restoring = async {
            match self.restoring.as_mut() {
                None => std::future::pending().await,
                Some(restoring) => match restoring.await {
                    Ok(Ok(())) => std::future::pending().await,
                    Ok(Err(error)) => NodeError::AutoRestore(error),
                    Err(error) => NodeError::Failed(error.to_string()),
                },
            }
        };
        tokio::pin!(shutdown);
        let forming = async {
            match (&mut self.forming).await {
                Ok(Ok(())) => std::future::pending().await,
                Ok(Err(error)) => NodeError::Form(error),
                Err(error) => NodeError::Failed(error.to_string()),
            }
        };
        tokio::select! {
            () = &mut shutdown => tracing::info!("going down"),
            _ = restart.until(|restart| *restart) => {
                // Whoever watches the process starts it again.
                tracing::info!("ending, to start again");
                return self.stop(false).await.map(|()| Ended::InOrder);
            }
            _ = failed => {
                if self.consensus.is_out_of_space() {
                    tracing::error!("the disk is full: only reads of level none until there is room");
                    tokio::select! {
                        () = self.consensus.await_space() => return Ok(Ended::StartAgain),
                        () = &mut shutdown => {}
                    }
                }
                let message = self.consensus.report().message.unwrap_or_else(|| "consensus has stopped".into());
                outcome = Err(NodeError::Failed(message));
            }
            error = forming => outcome = Err(error),
            error = restoring => outcome = Err(error),
        }
        let stopped = self.stop(outcome.is_ok()).await;
        outcome.and(stopped).map(|()| Ended::InOrder)
    }

    async fn stop(self, in_order: bool) -> Result<(), NodeError> {
        if in_order {
            self.drain.run().await;
            // Before this member leaves: nobody would take them from it after that.
            let left = self.queue.close(REQUESTS).await;
            if left > 0 {
                tracing::warn!(left, "queued writes were not flushed before the time to drain was over");
            }
        }
        self.forming.abort();
        if let Some(restoring) = &self.restoring {
            restoring.abort();
        }
        // They are requests in flight that never end by themselves: the time for those would be waited out.
        self.consensus.end_reports();
        self.changes.end();
        self.clients.stop(if in_order { REQUESTS } else { Duration::ZERO }).await;
        if in_order {
            self.drain.finish().await;
        }
        // After the last request: what it would forward nobody takes from who has left.
        if in_order && self.leave {
            leave(&self.consensus).await;
        }
        self.control.abort();
        if in_order && let Some(otlp) = &self.otlp {
            otlp.stop().await;
        }
        let consensus = self.consensus.clone();
        drop(self.background);
        let stopped = self.runtime.handle.spawn(async move { consensus.stop().await }).await;
        if let Some(health) = self.health {
            health.abort();
        }
        self.runtime.end().await;
        match stopped {
            Ok(Ok(())) => {
                tracing::info!("stopped");
                Ok(())
            }
            Ok(Err(error)) => Err(NodeError::Stop(error)),
            Err(error) => Err(NodeError::Failed(error.to_string())),
        }
    }
}
