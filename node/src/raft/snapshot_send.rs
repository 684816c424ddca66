//! Sends a pinned snapshot to another member, over as many connections as it takes.

use super::calls::Peers;
use super::connection::{ConnectError, FrameReader, Purpose, put_frame, write_out};
use super::snapshot_stream::{Chunk, Head, Intent, Reply};
use super::types::Vote;
use crate::failpoint::{Place, pass};
use crate::store::{LocalFailure, PinnedSnapshot, Streamed};
use crate::tls::ReadHalf;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Chunks read ahead of the network.
const READ_AHEAD: usize = 4;
/// How long a receiver may take for one chunk.
const STALLED: Duration = Duration::from_secs(20);
/// How long a receiver may take to sync, check and install what it has: some seconds for each GiB.
const INSTALLED: Duration = Duration::from_secs(300);
/// How long after the last chunk that arrived a broken transfer is taken up again.
const RESUME: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a snapshot was not installed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The receiver cannot be reached, or refuses.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The receiver could not do it.
    #[error("the receiver: {0}")]
    Receiver(String),
    /// The state could not be read.
    #[error("read the snapshot: {0}")]
    Read(#[source] LocalFailure),
    /// It took too long: the pin has ended.
    #[error("the snapshot was pinned for too long, or the WAL grew too large; it starts again")]
    Expired,
}

/// What there is to send; none once all was sent.
type Pinned = Arc<Mutex<Option<PinnedSnapshot>>>;

/// One snapshot on its way to one member.
pub struct Sending<'a> {
    peers: &'a Peers,
    target: u64,
    address: &'a str,
    head: Head,
    pinned: Pinned,
    /// How far the receiver was last.
    reached: u64,
    progress: Instant,
}

impl<'a> Sending<'a> {
    /// To member `target` at `address`; `vote` names the leader.
    pub fn new(
        peers: &'a Peers,
        target: u64,
        address: &'a str,
        vote: Vote,
        intent: Intent,
        pinned: PinnedSnapshot,
    ) -> Self {
        let head =
            Head { vote, transfer: rand::random(), intent, size: pinned.size, meta: pinned.meta.clone() };
        let pinned = Arc::new(Mutex::new(Some(pinned)));
        Self { peers, target, address, head, pinned, reached: 0, progress: Instant::now() }
    }

    /// Sends it; returns the receiver's vote once it is installed.
    pub async fn run(mut self) -> Result<Vote, SendError> {
        pass(Place::SendPinned)?;
        loop {
            let error = match self.attempt().await {
                Ok(vote) => return Ok(vote),
                Err(error) => error,
            };
            let goes_on = match &error {
                SendError::Broken(_) => true,
                // Never begun: Raft has a patience of its own.
                SendError::Connect(_) => self.reached > 0,
                SendError::Receiver(_) | SendError::Read(_) | SendError::Expired => false,
            };
            let is_pinned = self.pinned.lock().is_some();
            if !goes_on || !is_pinned || self.progress.elapsed() > RESUME {
                return Err(error);
            }
            tracing::info!(%error, megabytes = self.reached >> 20, "a snapshot goes on over another connection");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn attempt(&mut self) -> Result<Vote, SendError> {
        let (socket, _) = self.peers.connect(Purpose::Snapshot, self.target, self.address).await?;
        let (read, mut write) = socket.into_split();
        let mut replies = FrameReader::new(read);
        let mut out = BytesMut::new();
        put_frame(&mut out, |out| self.head.put(out));
        write_out(&mut write, &mut out).await?;
        // Another transfer to the same member may have to end first.
        let offset = match next_reply(&mut replies, INSTALLED).await? {
            Reply::Done(vote) => return Ok(vote),
            Reply::Failed(message) => return Err(SendError::Receiver(message)),
            Reply::From(offset) => offset,
        };
        pass(Place::SendBegun)?;
        self.advance(offset);
        let mut chunks = read_chunks(self.pinned.clone(), offset);
        let mut sent = offset;
        loop {
            let chunk = match chunks.recv().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => {
                    put_frame(&mut out, |out| Chunk::Failed.put(sent, out));
                    // The error that is returned is the one that counts.
                    drop(timeout(STALLED, write_out(&mut write, &mut out)).await);
                    return Err(error);
                }
                None => return Err(io::Error::other("reading the snapshot was cut short").into()),
            };
            put_frame(&mut out, |out| chunk.put(sent, out));
            tokio::select! {
                written = timeout(STALLED, write_out(&mut write, &mut out)) => written.map_err(io::Error::from)??,
                // Nothing is to be said now: it has failed, or hung up.
                reply = replies.next() => match reply?.map(|mut frame| Reply::get(&mut frame)) {
                    Some(Ok(Reply::Failed(message))) => return Err(SendError::Receiver(message)),
                    Some(_) => return Err(SendError::Receiver("it answers before it has everything".into())),
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                },
            }
            match chunk {
                Chunk::Bytes(bytes) => {
                    sent += bytes.len() as u64;
                    self.advance(sent);
                    pass(Place::SendChunk)?;
                }
                Chunk::End(_) | Chunk::Failed => break,
            }
        }
        // Nothing has to be sent again: the WAL need not wait for the receiver to check and install it.
        self.pinned.lock().take();
        pass(Place::SendEnded)?;
        match next_reply(&mut replies, INSTALLED).await? {
            Reply::Done(vote) => Ok(vote),
            Reply::Failed(message) => Err(SendError::Receiver(message)),
            Reply::From(_) => Err(SendError::Receiver("it asks for what it has".into())),
        }
    }

    fn advance(&mut self, reached: u64) {
        if reached > self.reached {
            self.progress = Instant::now();
        }
        self.reached = reached;
    }
}

async fn next_reply(replies: &mut FrameReader<ReadHalf>, patience: Duration) -> io::Result<Reply> {
    let mut frame = timeout(patience, replies.next()).await??.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Reply::get(&mut frame)?)
}

/// Reads a pinned snapshot from `offset` on, on a thread of its own, until the receiver is dropped.
fn read_chunks(pinned: Pinned, offset: u64) -> mpsc::Receiver<Result<Chunk, SendError>> {
    let (send, receive) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        // Held while reading: an attempt that was given up reads at most one chunk more.
        let pinned = pinned.lock();
        let Some(pinned) = pinned.as_ref() else { return };
        let streamed = pinned.stream(offset, |bytes| {
            let bytes: Bytes = bytes.into();
            send.blocking_send(Ok(Chunk::Bytes(bytes))).is_ok()
        });
        let end = match streamed {
            Ok(Streamed::Whole) => Ok(Chunk::End(pinned.checksum.map(|checksum| checksum.sum))),
            Ok(Streamed::Stopped) => return,
            Ok(Streamed::Expired) => Err(SendError::Expired),
            Err(error) => Err(SendError::Read(error)),
        };
        // Nobody left to tell is fine.
        drop(send.blocking_send(end));
    });
    receive
}
