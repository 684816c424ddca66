//! Requests to other members whose question or answer is too large for one frame: each has a connection of its own, so
//! that neither side holds more of it than a few pieces.
//!
//! ```text
//! question = kind u8 · body                                      (one frame)
//! piece    = 0 · bytes | 1 (the end) | 2 · message (the sender failed)
//! answer   = 0 · head | 1 · message                              (one frame), before it the question's pieces, after
//!                                                                it the answer's
//! ```
//! A piece may be empty: that says that the sender is still at it.

use super::Consensus;
use super::calls::{CallError, Peers};
use super::connection::{FrameReader, Purpose, put_frame, write_out};
use super::wire::{WireError, get_u8};
use crate::tls::{PeerSocket, ReadHalf, WriteHalf};
use bytes::{BufMut, Bytes, BytesMut};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// How long the other side may be silent; it says that it is still at it much more often.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a sender that has nothing to send yet says so.
pub const STILL_HERE: Duration = Duration::from_secs(5);
/// Bytes of a piece; longer ones are sent as several.
const PIECE: usize = 1 << 20;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamKind {
    /// A forwarded query with a large result.
    Query = 1,
    /// A copy of the database for a client.
    Backup = 2,
    /// A database that takes the place of the present one, from a client.
    Load = 3,
    /// Keep this file: it is about to become the database.
    Stage = 4,
    /// Give me the staged file of this name.
    Staged = 5,
    /// One of these for a client, whose name is in it. Only for members that know it.
    OnBehalf = 6,
}

impl StreamKind {
    pub(super) fn from_u8(number: u8) -> Option<Self> {
        use StreamKind as K;
        [K::Query, K::Backup, K::Load, K::Stage, K::Staged, K::OnBehalf]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    /// Whether it is asked for a client.
    pub(super) fn is_for_clients(self) -> bool {
        matches!(self, Self::Query | Self::Backup | Self::Load)
    }
}

/// One end of such a connection.
pub struct PeerStream {
    frames: FrameReader<ReadHalf>,
    write: WriteHalf,
    out: BytesMut,
}

impl PeerStream {
    fn new(socket: PeerSocket) -> Self {
        let (read, write) = socket.into_split();
        Self { frames: FrameReader::new(read), write, out: BytesMut::new() }
    }

    async fn frame(&mut self) -> io::Result<Bytes> {
        match tokio::time::timeout(SILENCE, self.frames.next()).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn put(&mut self, tag: u8, body: &[u8]) -> io::Result<()> {
        put_frame(&mut self.out, |out| {
            out.put_u8(tag);
            out.put_slice(body);
        });
        let written = tokio::time::timeout(SILENCE, write_out(&mut self.write, &mut self.out)).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends bytes; none of them says that more are to come.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return self.put(0, bytes).await;
        }
        for piece in bytes.chunks(PIECE) {
            self.put(0, piece).await?;
        }
        Ok(())
    }

    /// Says that everything was sent.
    pub async fn end(&mut self) -> io::Result<()> {
        self.put(1, &[]).await
    }

    /// Says that the rest cannot be sent.
    pub async fn fail(&mut self, message: &str) -> io::Result<()> {
        self.put(2, message.as_bytes()).await
    }

    /// The next bytes; none at the end.
    pub async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let mut frame = self.frame().await?;
            match get_u8(&mut frame)? {
                0 if frame.is_empty() => {}
                0 => return Ok(Some(frame)),
                1 => return Ok(None),
                _ => return Err(io::Error::other(String::from_utf8_lossy(&frame).into_owned())),
            }
        }
    }

    /// Answers the question: yes, and this is the head of the answer.
    pub async fn accept(&mut self, head: &[u8]) -> io::Result<()> {
        self.put(0, head).await
    }

    /// Answers the question: no.
    pub async fn refuse(&mut self, message: &str) -> io::Result<()> {
        self.put(1, message.as_bytes()).await
    }

    /// The head of the answer; waits at most `patience` for it.
    pub async fn head(&mut self, patience: Duration) -> io::Result<Result<Bytes, String>> {
        let frame = tokio::time::timeout(patience, self.frames.next()).await;
        let mut frame = frame??.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(match get_u8(&mut frame)? {
            0 => Ok(frame),
            _ => Err(String::from_utf8_lossy(&frame).into_owned()),
        })
    }

    /// Ends the connection after what was sent.
    async fn shut(&mut self) -> io::Result<()> {
        self.write.shutdown().await
    }
}

impl Peers {
    /// Asks member `to` at `address` something large.
    pub async fn open_stream(
        &self,
        to: u64,
        address: &str,
        kind: StreamKind,
        body: &[u8],
    ) -> Result<PeerStream, CallError> {
        let (stream, _) = self.connect(Purpose::Stream, to, address).await?;
        let mut stream = PeerStream::new(stream);
        stream.put(kind as u8, body).await.map_err(|_| CallError::Broken(address.to_owned()))?;
        Ok(stream)
    }
}

/// Answers the one question of a connection.
pub async fn serve(socket: PeerSocket, consensus: &Arc<Consensus>) -> io::Result<()> {
    let mut stream = PeerStream::new(socket);
    let mut question = stream.frame().await?;
    let unknown = || WireError("question: unknown kind");
    let mut kind = StreamKind::from_u8(get_u8(&mut question)?).ok_or_else(unknown)?;
    if kind == StreamKind::OnBehalf {
        match consensus.hear_on_behalf(question, &mut stream).await? {
            Some(inside) => (kind, question) = inside,
            None => return stream.shut().await,
        }
    }
    match kind {
        StreamKind::Query => consensus.answer_query_stream(question, &mut stream).await?,
        StreamKind::Backup => consensus.answer_backup(question, &mut stream).await?,
        StreamKind::Load => consensus.answer_load(question, &mut stream).await?,
        StreamKind::Stage => consensus.answer_stage(question, &mut stream).await?,
        StreamKind::Staged => consensus.answer_staged(question, &mut stream).await?,
        StreamKind::OnBehalf => return Err(unknown().into()),
    }
    stream.shut().await
}
