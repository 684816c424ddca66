//! What a member is asked to be: by its command line, by environment variables, by a file of YAML. The command line
//! stands over the environment, and that over the file; all three have the same names ([`flags`]).

mod expand;
mod file;
mod flags;
mod parse;
mod resolve;
mod values;

pub use expand::expand_environment;
pub use flags::usage;
pub use parse::parse;

use crate::backup::{AutoBackupConfig, AutoRestoreConfig};
use crate::changes::ChangesConfig;
use crate::discovery::Discovery;
use crate::http::QueueConfig;
use crate::maintenance::Intervals;
use crate::otlp::OtlpConfig;
use crate::raft::{Profile, Reap};
use crate::store::ExtensionsConfig;
use crate::tls::{PeerTlsFiles, ServerTlsFiles};
use axum::http::HeaderValue;
use std::path::PathBuf;
use std::time::Duration;

/// How the log of events is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What `sqlited` was asked to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Name of the member; by default its advertised peer address.
    pub node_id: String,
    /// Where the client port listens.
    pub http_addr: String,
    /// Where clients reach it.
    pub http_adv_addr: String,
    /// `Access-Control-Allow-Origin` of answers.
    pub http_allow_origin: Option<HeaderValue>,
    /// TLS of the client port.
    pub http_tls: Option<ServerTlsFiles>,
    /// Who may do what: a file, or a directory of files.
    pub auth: Option<PathBuf>,
    /// The store of backups: a file of settings.
    pub backup_config: Option<PathBuf>,
    /// The store that a restore may read beside it: a file of settings.
    pub restore_config: Option<PathBuf>,
    /// How changes are captured and sent.
    pub changes: Option<ChangesConfig>,
    /// Where numbers and traces are pushed to.
    pub otlp: Option<OtlpConfig>,
    /// Where the leader puts a copy at an interval.
    pub auto_backup: Option<AutoBackupConfig>,
    /// What a new cluster begins with.
    pub auto_restore: Option<AutoRestoreConfig>,
    /// Where the peer port listens.
    pub raft_addr: String,
    /// Where peers reach it.
    pub raft_adv_addr: String,
    /// Where probes and metrics are served; none switches them off.
    pub health_addr: Option<String>,
    /// Where members to join through are found.
    pub join: Discovery,
    /// TLS between members.
    pub node_tls: Option<PeerTlsFiles>,
    /// The user of `auth` that it joins as.
    pub join_as: Option<String>,
    /// How often joining is tried.
    pub join_attempts: u32,
    /// Between two attempts.
    pub join_interval: Duration,
    /// How many members make a new cluster together; 0: this one alone.
    pub bootstrap_expect: usize,
    /// How long to wait for them.
    pub bootstrap_expect_timeout: Duration,
    /// Replicate without voting.
    pub non_voter: bool,
    /// Election and heartbeat times.
    pub profile: Profile,
    /// How long a request waits for a leader and its quorum, unless it says so itself.
    pub apply_timeout: Duration,
    /// Enforce foreign keys.
    pub foreign_keys: bool,
    /// Extensions of SQLite.
    pub extensions: ExtensionsConfig,
    /// Wait for the operator instead of making or joining a cluster.
    pub managed: bool,
    /// Leave the cluster on shutdown.
    pub leave_on_shutdown: bool,
    /// Hand over leadership on shutdown.
    pub hand_over_on_shutdown: bool,
    /// After which silence members are removed.
    pub reap: Reap,
    /// Size of the log's segment files, in bytes.
    pub log_segment_bytes: u64,
    /// How much of the log is kept for followers that were away, in bytes.
    pub log_retention_bytes: u64,
    /// Steps of SQLite's virtual machine that the statements of one write may take together; 0 is without limit.
    pub write_step_limit: u64,
    /// How often every page is compared with what was written there.
    pub scrub_period: Duration,
    /// How often the members' databases are compared.
    pub consistency_period: Duration,
    /// How queued writes are gathered.
    pub write_queue: QueueConfig,
    /// What the leader does for the database at an interval.
    pub maintenance: Intervals,
    /// Free space below which no more writes are taken, in bytes.
    pub disk_reserve_bytes: u64,
    /// Size of SQLite's WAL from which on long queries have to give way to checkpoints, in bytes.
    pub wal_limit_bytes: u64,
    /// What SQLite may take for all queries together, in bytes; 0 is without limit.
    pub query_memory_limit_bytes: u64,
    /// What is logged.
    pub log_level: String,
    /// How it is written.
    pub log_format: LogFormat,
    /// What is not done as it was said, for the log.
    pub notices: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a member.
    Run(Box<Config>),
    /// Say whether it could be run, as far as its flags and files say.
    Check(Box<Config>),
    /// Print a hash of the password on standard input, for the file of users.
    HashPassword,
    /// Print the version.
    Version,
    /// Print the usage.
    Help,
    /// Ask the member of a data directory to hand over and go down.
    Drain {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Print the usage of that.
    RestoreHelp,
    /// Bring back what is in a store of backups.
    Restore(crate::backup::Command),
    /// Make a canonical database of a client's file: the limited child that a load starts.
    WriteCanonical(crate::store::Order),
}

/// The command line makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A flag that is not known, or without its value: the usage follows, exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The same of `restore` and `verify`, with their usage.
    #[error("{0}")]
    Restore(String),
    /// Flags that contradict each other: `fatal:`, exit code 1.
    #[error("{0}")]
    Invalid(String),
}
