//! Why there is no measurement.

use crate::target::OperationError;
use client::sql::SqlError;
use std::path::PathBuf;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The addresses make no client.
    #[error("--addrs")]
    Addresses(#[source] SqlError),
    /// What --ca names is no authority.
    #[error("--ca")]
    Authority(#[source] client::trust::TrustError),
    /// What --ca or --user-file names is not what it should be.
    #[error("{}: {message}", path.display())]
    Access {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Nobody leads.
    #[error("no leader among --addrs within 30 s: are the members running?")]
    NoLeader,
    /// The leader's process is not known.
    #[error("--pids has to name one process for each of --addrs, in the same order")]
    Pids,
    /// The table could not be made or counted.
    #[error("cannot prepare the table `bench`")]
    Prepare(#[source] SqlError),
    /// The server refused to make or count it.
    #[error("cannot prepare the table `bench`: {0}")]
    PrepareRefused(String),
    /// The rows to read could not be inserted.
    #[error("cannot insert the rows to read")]
    Seed(#[source] OperationError),
    /// The leader's process could not be killed.
    #[error("cannot kill process {pid}")]
    Kill {
        /// Its id.
        pid: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The leader did not hand over.
    #[error("the leader did not hand over")]
    Transfer(#[source] OperationError),
    /// This program does not know how these servers hand over.
    #[error("--by transfer is not known for this kind of server")]
    NoTransfer,
    /// The file has no place for the table.
    #[error("{} has no lines {begin} and {end}", path.display())]
    Markers {
        /// Which file.
        path: PathBuf,
        /// The first of them.
        begin: &'static str,
        /// The second.
        end: &'static str,
    },
    /// Acknowledged rows are missing.
    #[error("{lost} acknowledged rows are missing after the failover")]
    Lost {
        /// How many.
        lost: u64,
    },
    /// A file of records could not be read or written.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is no record.
    #[error("{}:{line} is no record", path.display())]
    Record {
        /// In which file.
        path: PathBuf,
        /// Its number.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A record could not be encoded.
    #[error("cannot encode a record")]
    Encode(#[source] serde_json::Error),
}
