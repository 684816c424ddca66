//! Command line.

use crate::work::WorkName;
use clap::{Args, Parser, Subcommand, ValueEnum};
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
    /// Kill the leader (SIGKILL) under inserts: how long is no insert acknowledged, is an acknowledged one missing?
    Failover(FailoverOptions),
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
    /// Name in the records
    #[arg(long, default_value = "sqlited")]
    pub tag: String,
    /// File to which records are appended (they are printed too)
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// `bench run`
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// What every measurement needs.
    #[command(flatten)]
    pub common: Common,
    /// What clients do
    #[arg(long, value_enum, value_delimiter = ',', default_value = "insert")]
    pub work: Vec<WorkName>,
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub clients: Vec<usize>,
    /// Measured seconds of a repetition
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 1.0)]
    pub warm: f64,
    /// Repetitions
    #[arg(long, default_value_t = 3)]
    pub reps: usize,
    /// Rows to read from; inserted first where they are missing
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// Rows of a bulk request
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub bulk: u64,
    /// Bytes of a row's value
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// Which members clients connect to
    #[arg(long, value_enum, default_value = "leader")]
    pub to: To,
    /// Seconds after which an operation counts as an error
    #[arg(long, default_value_t = 15.0)]
    pub timeout: f64,
    /// Block device whose writes and flushes are recorded, as in /proc/diskstats
    #[arg(long)]
    pub disk: Option<String>,
    /// CPU seconds a second that other processes may use; above it a repetition is noisy and made anew
    #[arg(long, default_value_t = 0.35)]
    pub max_other: f64,
    /// How many noisy repetitions are made anew, for each work and number of clients
    #[arg(long, default_value_t = 4)]
    pub spare: usize,
}

/// `bench failover`
#[derive(Clone, Debug, Args)]
pub struct FailoverOptions {
    /// What every measurement needs.
    #[command(flatten)]
    pub common: Common,
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
