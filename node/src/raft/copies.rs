//! Copies of the database for clients: of the leader's, wherever they ask, or of this member's.
//!
//! ```text
//! backup call = options (JSON)        answer = nothing, then the copy
//! ```

use super::Consensus;
use super::calls::CallError;
use super::request_error::RequestError;
use super::route::{PAUSE, Route};
use super::stream_calls::{PeerStream, STILL_HERE, StreamKind};
use super::waiters::Leadership;
use crate::store::{BackupOptions, Outlet};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::Instant;

/// Copies read ahead of the network, in pieces of 1 MiB.
const READ_AHEAD: usize = 4;
/// How long a copy waits for its reader before what is left is moved to disk.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a reader may take for one piece.
const STALLED: Duration = Duration::from_secs(60);

/// A copy on its way.
pub struct DatabaseCopy {
    /// Its bytes. An empty piece is the end: without it the copy is not whole.
    pub pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Peer address of the leader that it comes from, if that is another member.
    pub forwarded_to: Option<String>,
}

impl Consensus {
    /// Copies this member's database.
    pub async fn copy_here(&self, options: BackupOptions) -> Result<DatabaseCopy, RequestError> {
        let permit = self.copies.clone().acquire_owned().await;
        let permit = permit.map_err(|e| RequestError::Internal(e.to_string()))?;
        let (send, pieces) = mpsc::channel(READ_AHEAD);
        let store = self.store().clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut outlet = Pieces { send, runtime };
            let end = match store.write_backup(&options, &mut outlet) {
                Ok(()) => Ok(Bytes::new()),
                Err(error) => {
                    tracing::warn!(%error, "a backup was not finished");
                    Err(io::Error::other(error))
                }
            };
            // Who hung up does not want to know.
            drop(outlet.send_for(STALLED, end));
        });
        Ok(DatabaseCopy { pieces, forwarded_to: None })
    }

    /// Copies the leader's database.
    pub async fn copy_of_leader(
        self: &Arc<Self>,
        options: BackupOptions,
        timeout: Duration,
    ) -> Result<DatabaseCopy, RequestError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RequestError::NoLeader);
            }
            match self.route() {
                Route::Here(_) => return self.copy_here(options).await,
                Route::Leader { leader, address } => {
                    let body =
                        serde_json::to_vec(&options).map_err(|e| RequestError::Internal(e.to_string()))?;
                    let there = self.copy_there(leader, &address, &body, left);
                    match self.while_led_by(leader, there).await.unwrap_or(Ok(None)) {
                        Ok(Some(pieces)) => return Ok(DatabaseCopy { pieces, forwarded_to: Some(address) }),
                        Ok(None) => {}
                        Err(CallError::Unauthorized(operation)) => {
                            return Err(RequestError::Unauthorized(operation));
                        }
                        Err(error) => tracing::debug!(%error, "no copy from the leader yet"),
                    }
                }
                Route::Nobody if self.identity().cluster().is_none() => return Err(RequestError::NoLeader),
                Route::Nobody => {}
            }
            self.await_leader_change(left.min(PAUSE)).await;
        }
    }

    /// None: the other does not lead any more.
    async fn copy_there(
        &self,
        leader: Leadership,
        address: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<Option<mpsc::Receiver<io::Result<Bytes>>>, CallError> {
        let mut stream = match self.open_for_caller(leader, address, StreamKind::Backup, body).await {
            Ok(stream) => stream,
            Err(CallError::NotSent(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let head = stream.head(patience).await.map_err(|_| CallError::Broken(address.to_owned()))?;
        if head.is_err() {
            return Ok(None);
        }
        let (send, pieces) = mpsc::channel(READ_AHEAD);
        // Who hung up does not want to know.
        tokio::spawn(async move { stream.pass_on(&send).await });
        Ok(Some(pieces))
    }

    pub(super) async fn answer_backup(&self, body: Bytes, stream: &mut PeerStream) -> io::Result<()> {
        let options: BackupOptions = serde_json::from_slice(&body)?;
        if !self.is_leader() {
            return stream.refuse("not the leader").await;
        }
        let mut copy = match self.copy_here(options).await {
            Ok(copy) => copy,
            Err(error) => return stream.refuse(&error.to_string()).await,
        };
        stream.accept(&[]).await?;
        stream.send_all(&mut copy.pieces).await
    }
}

impl PeerStream {
    /// Gives what is received on, up to the end or an error; returns false if nobody took it that far.
    pub async fn pass_on(&mut self, to: &mpsc::Sender<io::Result<Bytes>>) -> bool {
        loop {
            let piece = self.receive().await.map(Option::unwrap_or_default);
            let is_last = !matches!(&piece, Ok(piece) if !piece.is_empty());
            if to.send(piece).await.is_err() || is_last {
                return is_last;
            }
        }
    }

    /// Sends pieces up to the empty one that ends them.
    pub async fn send_all(&mut self, pieces: &mut mpsc::Receiver<io::Result<Bytes>>) -> io::Result<()> {
        loop {
            match tokio::time::timeout(STILL_HERE, pieces.recv()).await {
                Ok(Some(Ok(piece))) if piece.is_empty() => return self.end().await,
                Ok(Some(Ok(piece))) => self.send(&piece).await?,
                Ok(Some(Err(error))) => return self.fail(&error.to_string()).await,
                Ok(None) => return self.fail("cut short").await,
                Err(_) => self.send(&[]).await?,
            }
        }
    }
}

/// Gives pieces on from a thread that may block.
struct Pieces {
    send: mpsc::Sender<io::Result<Bytes>>,
    runtime: tokio::runtime::Handle,
}

impl Pieces {
    fn send_for(&self, patience: Duration, piece: io::Result<Bytes>) -> io::Result<Option<Bytes>> {
        match self.runtime.block_on(self.send.send_timeout(piece, patience)) {
            Ok(()) => Ok(None),
            Err(SendTimeoutError::Timeout(piece)) => piece.map(Some),
            Err(SendTimeoutError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Outlet for Pieces {
    fn offer(&mut self, piece: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        Ok(self.send_for(PATIENCE, Ok(piece.into()))?.map(Vec::from))
    }

    fn give(&mut self, piece: Vec<u8>) -> io::Result<()> {
        match self.send_for(STALLED, Ok(piece.into()))? {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
