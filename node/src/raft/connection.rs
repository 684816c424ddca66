//! Connections between members: one TCP port, a preface that says who talks to whom about what, then frames.
//!
//! ```text
//! preface = "SQLITED\x01" · length u32 · purpose u8 · from u64 · to u64 (0 = whoever answers) · epoch u64 · cluster id
//! answer  = length u32 · 0 · answering id u64 | 1 · message
//! frame   = length u32 · body
//! ```
//! Whatever does not begin with the preface (HTTP, TLS, SSH, noise) is dropped before anything is allocated for it. The
//! answer refuses a wrong cluster, a wrong id and another epoch: pod addresses are used again by others.

use super::addresses::Addresses;
use super::wire::{WireError, get_str, get_u8, get_u64, put_bytes};
use crate::tcp;
use crate::tls::{PeerSocket, PeerTls};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: &[u8; 8] = b"SQLITED\x01";
const HELLO_LIMIT: usize = 1024;
/// Largest frame: an append of about 2 MiB, one entry of the largest size, or a forwarded body.
pub const FRAME_LIMIT: usize = 288 << 20;
/// How long establishing a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long bytes may be on their way without the other host's acknowledgement. Longer than a member stops reading when its
/// disk is slow: then its host acknowledges until the buffers are full.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(4);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Log entries and heartbeats, answered in order.
    Append,
    /// Requests with answers in any order: votes, forwarded requests, joins.
    Calls,
    /// One snapshot.
    Snapshot,
    /// One request whose question or answer is large.
    Stream,
}

/// Who talks to whom about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub purpose: Purpose,
    /// Raft id of the caller.
    pub from: u64,
    /// Raft id of the member called; 0 if only its address is known yet.
    pub to: u64,
    /// The caller's cluster; empty while it is of none.
    pub cluster_id: String,
    /// The caller's epoch.
    pub epoch: u64,
}

impl Hello {
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u8(match self.purpose {
            Purpose::Append => 1,
            Purpose::Calls => 2,
            Purpose::Snapshot => 3,
            Purpose::Stream => 4,
        });
        body.put_u64_le(self.from);
        body.put_u64_le(self.to);
        body.put_u64_le(self.epoch);
        put_bytes(&mut body, self.cluster_id.as_bytes());
        body.freeze()
    }

    pub fn decode(mut body: Bytes) -> Result<Self, WireError> {
        let purpose = match get_u8(&mut body)? {
            1 => Purpose::Append,
            2 => Purpose::Calls,
            3 => Purpose::Snapshot,
            4 => Purpose::Stream,
            _ => return Err(WireError("preface: unknown purpose")),
        };
        let (from, to, epoch) = (get_u64(&mut body)?, get_u64(&mut body)?, get_u64(&mut body)?);
        Ok(Self { purpose, from, to, epoch, cluster_id: get_str(&mut body)? })
    }
}

/// Why a connection could not be established.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address does not answer.
    #[error("{address}: {source}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It answers, and refuses us.
    #[error("{address} refused: {message}")]
    Refused {
        /// Where.
        address: String,
        /// Why.
        message: String,
    },
}

impl ConnectError {
    /// `address` does not answer.
    pub fn unreachable(address: &str, source: impl Into<io::Error>) -> Self {
        Self::Unreachable { address: address.to_owned(), source: source.into() }
    }

    /// The same, if it is of the address and not of who asked.
    pub fn for_others(&self) -> Option<Self> {
        let Self::Unreachable { address, source } = self else { return None };
        Some(Self::unreachable(address, io::Error::new(source.kind(), source.to_string())))
    }
}

/// Connects to `address`, by `tls` if there is any, and says `hello`; returns the id of who answered.
pub async fn connect(
    addresses: &Addresses,
    address: &str,
    hello: &Hello,
    tls: Option<&PeerTls>,
) -> Result<(PeerSocket, u64), ConnectError> {
    let unreachable = |source: io::Error| ConnectError::unreachable(address, source);
    let establish = async {
        let stream = addresses.dial(address, hello.to != 0).await?;
        tcp::prepare(&stream, UNACKNOWLEDGED)?;
        let mut stream = match tls {
            None => PeerSocket::Plain(stream),
            Some(tls) => tls.dial(stream, address).await?,
        };
        let body = hello.encode();
        let mut out = BytesMut::with_capacity(12 + body.len());
        out.put_slice(MAGIC);
        put_bytes(&mut out, &body);
        stream.write_all(&out).await?;
        stream.flush().await?;
        let mut answer = read_small_frame(&mut stream).await?;
        Ok::<_, io::Error>((stream, get_u8(&mut answer)?, answer))
    };
    let (stream, status, mut answer) = tokio::time::timeout(CONNECT_TIMEOUT, establish)
        .await
        .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
        .map_err(unreachable)?;
    if status != 0 {
        let message = get_str(&mut answer).map_err(|e| unreachable(e.into()))?;
        return Err(ConnectError::Refused { address: address.to_owned(), message });
    }
    let id = get_u64(&mut answer).map_err(|e| unreachable(e.into()))?;
    Ok((stream, id))
}

/// Reads a caller's preface.
pub async fn read_hello(stream: &mut PeerSocket) -> io::Result<Hello> {
    let mut magic = [0; 8];
    stream.read_exact(&mut magic).await?;
    if magic != *MAGIC {
        return Err(WireError("preface: not a member of a cluster of this version").into());
    }
    Ok(Hello::decode(read_small_frame(stream).await?)?)
}

/// Answers a caller's preface.
pub async fn answer_hello(stream: &mut PeerSocket, verdict: Result<u64, String>) -> io::Result<()> {
    let mut body = BytesMut::new();
    match verdict {
        Ok(id) => {
            body.put_u8(0);
            body.put_u64_le(id);
        }
        Err(message) => {
            body.put_u8(1);
            put_bytes(&mut body, message.as_bytes());
        }
    }
    let mut out = BytesMut::new();
    put_bytes(&mut out, &body);
    stream.write_all(&out).await?;
    stream.flush().await
}

async fn read_small_frame(stream: &mut PeerSocket) -> io::Result<Bytes> {
    let length = stream.read_u32_le().await? as usize;
    if length > HELLO_LIMIT {
        return Err(WireError("preface: too long").into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body.into())
}

/// Reads frames.
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// On a stream whose preface was read.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(64 << 10) }
    }

    /// A frame that has been received already.
    pub fn buffered(&mut self) -> io::Result<Option<Bytes>> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > FRAME_LIMIT {
            return Err(WireError("frame: too long").into());
        }
        if self.buffer.len() < 4 + length {
            // Grows with what arrives, not with what is announced.
            let missing = 4 + length - self.buffer.len();
            self.buffer.reserve(missing.min(1 << 20));
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Receives more bytes; false at the end of the stream. Dropping the future loses nothing.
    pub async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next frame; none at the end of the stream.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

/// Appends a frame whose body `write` writes.
pub fn put_frame(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32_le(0);
    write(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Writes all of `out` and empties it, keeping its memory unless it grew large.
pub async fn write_out<W: AsyncWrite + Unpin>(stream: &mut W, out: &mut BytesMut) -> io::Result<()> {
    stream.write_all(out).await?;
    stream.flush().await?;
    if out.capacity() > 4 << 20 {
        *out = BytesMut::new();
    } else {
        out.clear();
    }
    Ok(())
}
