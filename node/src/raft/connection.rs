//! Connections between members: one TCP port, a preface that says who talks to whom about what, then frames.
//!
//! ```text
//! preface = "SQLITED\x01" · length u32 · purpose u8 · from u64 · to u64 (0 = whoever answers) · epoch u64 · cluster id [· start]
//! answer  = length u32 · 0 · answering id u64 [· start · held] | 1 · message | 2 · message · leads u8 (the caller's volume is
//!           not what it was) | 3 · message (the cluster is of a later epoch)
//! start   = boot u64 · nonce u64
//! held    = index after the log's last entry u64 · term of the vote u64 · for whom u64
//! frame   = length u32 · body
//! ```
//! Whatever does not begin with the preface (HTTP, TLS, SSH, noise) is dropped before anything is allocated for it. The
//! answer refuses a wrong cluster, a wrong id and another epoch: pod addresses are used again by others. What is in brackets
//! members of older versions do not say, and do not read.

use super::addresses::Addresses;
use super::rolled_back::Held;
use super::wire::{WireError, get_str, get_u8, get_u64, put_bytes};
use crate::identity::Start;
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
    /// The caller's start; none if it is of a version that does not tell.
    pub start: Option<Start>,
}

/// What a member says that lets another one in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Its Raft id.
    pub id: u64,
    /// Its start, and how far its log goes; none if it is of a version that does not tell.
    pub told: Option<(Start, Held)>,
}

/// What a member says that does not let another one in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Why.
    For(String),
    /// The caller's volume is not what it was.
    RolledBack {
        /// What was found.
        why: String,
        /// Whether whoever says so leads.
        leads: bool,
    },
    /// The caller's cluster went on without it, in a later epoch.
    Outlived(String),
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
        if let Some(start) = &self.start {
            put_start(&mut body, start);
        }
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
        let cluster_id = get_str(&mut body)?;
        let start = if body.has_remaining() { Some(get_start(&mut body)?) } else { None };
        Ok(Self { purpose, from, to, epoch, cluster_id, start })
    }
}

fn put_start(out: &mut BytesMut, start: &Start) {
    out.put_u64_le(start.boot);
    out.put_u64_le(start.nonce);
}

fn get_start(body: &mut Bytes) -> Result<Start, WireError> {
    Ok(Start { boot: get_u64(body)?, nonce: get_u64(body)? })
}

fn put_answer(out: &mut BytesMut, verdict: &Result<Greeting, Refused>) {
    match verdict {
        Ok(Greeting { id, told }) => {
            out.put_u8(0);
            out.put_u64_le(*id);
            if let Some((start, held)) = told {
                put_start(out, start);
                for word in [held.end, held.vote.0, held.vote.1] {
                    out.put_u64_le(word);
                }
            }
        }
        Err(Refused::For(message)) => {
            out.put_u8(1);
            put_bytes(out, message.as_bytes());
        }
        Err(Refused::RolledBack { why, leads }) => {
            out.put_u8(2);
            put_bytes(out, why.as_bytes());
            out.put_u8((*leads).into());
        }
        Err(Refused::Outlived(why)) => {
            out.put_u8(3);
            put_bytes(out, why.as_bytes());
        }
    }
}

fn get_answer(body: &mut Bytes) -> Result<Result<Greeting, Refused>, WireError> {
    Ok(match get_u8(body)? {
        0 => {
            let id = get_u64(body)?;
            let told = if body.has_remaining() {
                let start = get_start(body)?;
                let end = get_u64(body)?;
                Some((start, Held { end, vote: (get_u64(body)?, get_u64(body)?) }))
            } else {
                None
            };
            Ok(Greeting { id, told })
        }
        1 => Err(Refused::For(get_str(body)?)),
        2 => Err(Refused::RolledBack { why: get_str(body)?, leads: get_u8(body)? != 0 }),
        3 => Err(Refused::Outlived(get_str(body)?)),
        _ => return Err(WireError("preface: unknown answer")),
    })
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
    /// It answers, and says that this member's volume is not what it was.
    #[error("{address} refused: {why}")]
    RolledBack {
        /// Where.
        address: String,
        /// What it found.
        why: String,
        /// Whether it leads.
        leads: bool,
    },
    /// It answers, and says that the cluster went on without this member.
    #[error("{address} refused: {why}")]
    Outlived {
        /// Where.
        address: String,
        /// What it said.
        why: String,
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

/// Connects to `address`, by `tls` if there is any, and says `hello`; returns what was answered.
pub async fn connect(
    addresses: &Addresses,
    address: &str,
    hello: &Hello,
    tls: Option<&PeerTls>,
) -> Result<(PeerSocket, Greeting), ConnectError> {
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
        Ok::<_, io::Error>((stream, get_answer(&mut answer)?))
    };
    let (stream, answer) = tokio::time::timeout(CONNECT_TIMEOUT, establish)
        .await
        .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
        .map_err(unreachable)?;
    let address = address.to_owned();
    match answer {
        Ok(greeting) => Ok((stream, greeting)),
        Err(Refused::For(message)) => Err(ConnectError::Refused { address, message }),
        Err(Refused::RolledBack { why, leads }) => Err(ConnectError::RolledBack { address, why, leads }),
        Err(Refused::Outlived(why)) => Err(ConnectError::Outlived { address, why }),
    }
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
pub async fn answer_hello(stream: &mut PeerSocket, verdict: &Result<Greeting, Refused>) -> io::Result<()> {
    let mut body = BytesMut::new();
    put_answer(&mut body, verdict);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_one_is_crosses_the_wire_also_to_and_from_older_members() {
        let start = Start { boot: 3, nonce: u64::MAX };
        let hello = |start| Hello {
            purpose: Purpose::Append,
            from: 1,
            to: 2,
            cluster_id: "c".into(),
            epoch: 5,
            start,
        };
        let (new, old) = (hello(Some(start)).encode(), hello(None).encode());
        assert_eq!(Hello::decode(new.clone()).unwrap(), hello(Some(start)));
        assert_eq!(Hello::decode(old.clone()).unwrap(), hello(None));
        // An older member reads the beginning.
        assert_eq!(new[..old.len()], old[..]);
        for end in 0..new.len() {
            assert_eq!(Hello::decode(new.slice(..end)).is_ok(), end == old.len(), "{end}");
        }
        let held = Held { end: 7, vote: (8, 9) };
        for answer in [
            Ok(Greeting { id: 6, told: None }),
            Ok(Greeting { id: 6, told: Some((start, held)) }),
            Err(Refused::For("why".into())),
            Err(Refused::RolledBack { why: "why".into(), leads: true }),
            Err(Refused::Outlived("why".into())),
        ] {
            let mut out = BytesMut::new();
            put_answer(&mut out, &answer);
            let out = out.freeze();
            assert_eq!(get_answer(&mut out.clone()).unwrap(), answer);
            // As older members read it: whatever is not 0 is a message.
            let mut rest = out.slice(1..);
            match &answer {
                Ok(greeting) => assert_eq!((out[0], get_u64(&mut rest).unwrap()), (0, greeting.id)),
                Err(_) => assert!(out[0] != 0 && get_str(&mut rest).unwrap() == "why"),
            }
        }
    }
}
