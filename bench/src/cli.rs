//! Command line.

use crate::work::WorkName;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Measures a replicated SQL server: closed loop, one request in flight a client.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure every work with every number of clients
    Run(RunOptions),
    /// Kill the leader (SIGKILL), or let it hand over, under inserts: how long is none acknowledged, is one missing?
    Failover(FailoverOptions),
    /// Print how many repetitions `run --resume` would still make
    Pending(PendingOptions),
    /// Write one table of all targets side by side, with ratios and aims, into a Markdown file
    Compare(CompareOptions),
    /// Make one cluster of dqlite nodes that were just started
    Form {
        /// Their addresses; the first one is a cluster of its own already
        #[arg(long, required = true, value_delimiter = ',')]
        addrs: Vec<String>,
    },
    /// Print records as Markdown tables: medians over the repetitions
    Report {
        /// Files of JSON lines
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// rqlite's HTTP API: sqlited, rqlited
    Rqlite,
    /// etcd's gRPC API; a row is a key
    Etcd,
    /// dqlite's protocol
    Dqlite,
}

/// Which members clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// The leader
    Leader,
    /// One follower
    Follower,
    /// All members in turn
    Spread,
}

/// What every measurement needs.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// What the servers speak
    #[arg(long, value_enum, default_value = "rqlite")]
    pub kind: Kind,
    /// Client ports of the members: host:port,host:port,…
    #[arg(long, required = true, value_delimiter = ',')]
    pub addrs: Vec<String>,
    /// Process ids of the members in the same order, for their CPU time, writes and memory
    #[arg(long, value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Certificate of the authority whose certificates the members show, PEM: talk HTTPS
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// File with `user:password`, by which clients say who they are
    #[arg(long)]
    pub user_file: Option<PathBuf>,
    /// Name in the records
    #[arg(long, default_value = "sqlited")]
    pub tag: String,
    /// File to which records are appended (they are printed too)
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What is to be measured, how often.
#[derive(Clone, Debug, Args)]
pub struct PlanOptions {
    /// What clients do
    #[arg(long, value_enum, value_delimiter = ',', default_value = "insert")]
    pub work: Vec<WorkName>,
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub clients: Vec<usize>,
    /// Repetitions
    #[arg(long, default_value_t = 3)]
    pub reps: usize,
    /// How many noisy records a repetition may leave before one of them counts
    #[arg(long, default_value_t = 3)]
    pub spare: usize,
    /// Which members clients connect to
    #[arg(long, value_enum, default_value = "leader")]
    pub to: To,
}

/// `bench pending`
#[derive(Clone, Debug, Args)]
pub struct PendingOptions {
    /// What is to be measured.
    #[command(flatten)]
    pub plan: PlanOptions,
    /// Name in the records
    #[arg(long, default_value = "sqlited")]
    pub tag: String,
    /// File of records
    #[arg(long)]
    pub out: PathBuf,
}

/// `bench compare`
#[derive(Clone, Debug, Args)]
pub struct CompareOptions {
    /// Files of records
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// The Markdown file: what is between its lines `<!-- bench -->` and `<!-- /bench -->` is replaced
    #[arg(long)]
    pub into: PathBuf,
    /// What was measured, where and when: a line before the table
    #[arg(long)]
    pub about: String,
}

/// `bench run`
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// What every measurement needs.
    #[command(flatten)]
    pub common: Common,
    /// What is to be measured.
    #[command(flatten)]
    pub plan: PlanOptions,
    /// Leave out what the file `--out` has already
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Measured seconds of a repetition
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 1.0)]
    pub warm: f64,
    /// Rows to read from; inserted first where they are missing
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// Rows of a bulk request
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub bulk: u64,
    /// Bytes of a row's value
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// Seconds after which an operation counts as an error
    #[arg(long, default_value_t = 15.0)]
    pub timeout: f64,
    /// Block device whose writes and flushes are recorded, as in /proc/diskstats
    #[arg(long)]
    pub disk: Option<String>,
    /// CPU seconds a second that other processes may use; above it a repetition is noisy and made anew
    #[arg(long, default_value_t = 0.35)]
    pub max_other: f64,
}

/// How leadership is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// kill -9 of the leader
    #[default]
    Kill,
    /// The leader is asked to let another member lead
    Transfer,
}

/// `bench failover`
#[derive(Clone, Debug, Args)]
pub struct FailoverOptions {
    /// What every measurement needs.
    #[command(flatten)]
    pub common: Common,
    /// How leadership is lost
    #[arg(long, value_enum, default_value = "kill")]
    pub by: By,
    /// Number of clients
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Seconds of load before the kill
    #[arg(long, default_value_t = 3.0)]
    pub warm: f64,
    /// Seconds of load after it
    #[arg(long, default_value_t = 12.0)]
    pub seconds: f64,
    /// Seconds after which a client gives an operation up and goes to the next member
    #[arg(long, default_value_t = 2.0)]
    pub timeout: f64,
}
