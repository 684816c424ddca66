//! What is measured: something that gives connections, which run operations.

use crate::BenchError;
use crate::random::Random;
use crate::work::{Operation, Work};
use std::future::Future;
use std::time::Duration;

/// Why an operation has no acknowledgement.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The connection failed, in HTTP/2's words.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// The request could not be made.
    #[error("{0}")]
    Request(#[from] http::Error),
    /// The server closed the connection.
    #[error("connection closed")]
    Closed,
    /// The answer is not HTTP as this program knows it.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// The server refused, or the statement failed.
    #[error("{status}: {body}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The start of the body.
        body: String,
    },
    /// The answer did not come in time.
    #[error("timeout")]
    Timeout,
}

/// One client's connection.
pub trait Connection: Send + 'static {
    /// Runs one operation. After an error the connection is dropped and made anew.
    fn run(
        &mut self,
        work: &Work,
        operation: Operation,
        random: &mut Random,
    ) -> impl Future<Output = Result<(), OperationError>> + Send;
}

/// A cluster.
pub trait Target: Send + Sync + 'static {
    /// What its clients use.
    type Connection: Connection;

    /// Which address leads, if one says so.
    fn leader(&self) -> impl Future<Output = Option<usize>> + Send;

    /// Which address clients start with; none spreads them over all.
    fn start_at(&mut self, first: Option<usize>);

    /// Asks the leader to let another member lead. None where this program does not know how.
    fn transfer(&self, leader: usize) -> impl Future<Output = Option<Result<(), OperationError>>> + Send;

    /// Connects a client; `attempt` counts its connections, so that it goes from member to member.
    fn connect(
        &self,
        client: usize,
        attempt: usize,
    ) -> impl Future<Output = Result<Self::Connection, OperationError>> + Send;

    /// Makes sure that there are the rows to read.
    fn prepare(&self, work: &Work) -> impl Future<Output = Result<(), BenchError>> + Send;

    /// How many rows there are, by a read that sees every acknowledged write. None where that is not known.
    fn count(&self) -> impl Future<Output = Result<Option<u64>, BenchError>> + Send;
}

/// Asks for the leader until there is one.
pub async fn await_leader(target: &impl Target) -> Result<usize, BenchError> {
    for _ in 0..300 {
        if let Some(leader) = target.leader().await {
            return Ok(leader);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(BenchError::NoLeader)
}
