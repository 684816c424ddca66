//! A snapshot on its way between two members.
//!
//! ```text
//! head   = vote · transfer u64 · intent u8 (0 = to catch up, 1 = to replace a wrong state) · size u64 · meta
//! begin  = 0 · vote (the receiver is that far already) | 1 · message | 2 · offset u64 (send from there)
//! chunk  = 0 · crc32c u32 of (offset, bytes) · bytes | 1 (all bytes were sent) [· the state's checksum u64, if it is known] |
//!          2 (the sender failed)
//! answer = 0 · vote | 1 · message
//! meta   = applied · epoch u64 · cluster id · membership · mark (as lengths and bytes)
//!          · [length · extensions, if there are or the rest is · [foreign keys u8 (0 = off, 1 = on), if the state says it]]
//! ```
//! When a connection breaks, the sender keeps the state pinned and the receiver what it has; the next connection names
//! the same transfer and goes on.

use super::types::{Vote, log_id_from, log_id_to};
use super::wire::{
    WireError, get_bytes, get_option, get_str, get_u8, get_u32, get_u64, get_vote, put_bytes, put_option,
    put_vote,
};
use crate::store::{Applied, ExtensionSet, Meta, StoredMembership, chunk_crc};
use bytes::{Buf as _, BufMut, Bytes, BytesMut};

/// What a snapshot is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// The receiver lacks the log to get there; Raft installs it.
    CatchUp,
    /// The receiver's database is wrong, and it asked for this one.
    Replace,
}

/// What is sent, before any of it.
#[derive(Clone, Debug)]
pub struct Head {
    /// The sender's vote.
    pub vote: Vote,
    /// Names the transfer: the same for each connection that it takes.
    pub transfer: u64,
    /// What it is for.
    pub intent: Intent,
    /// Size of the file in bytes.
    pub size: u64,
    /// What the state is.
    pub meta: Meta,
}

impl Head {
    /// Appends it.
    pub fn put(&self, out: &mut BytesMut) {
        put_vote(out, &self.vote);
        out.put_u64_le(self.transfer);
        out.put_u8(u8::from(self.intent == Intent::Replace));
        out.put_u64_le(self.size);
        put_meta(out, &self.meta);
    }

    /// Reads it.
    pub fn get(frame: &mut Bytes) -> Result<Self, WireError> {
        let vote = get_vote(frame)?;
        let transfer = get_u64(frame)?;
        let intent = match get_u8(frame)? {
            0 => Intent::CatchUp,
            1 => Intent::Replace,
            _ => return Err(WireError("snapshot: what it is for")),
        };
        Ok(Self { vote, transfer, intent, size: get_u64(frame)?, meta: get_meta(frame)? })
    }
}

/// What the receiver says: to the head, and when it has everything.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The state, or a later one, is installed.
    Done(Vote),
    /// It cannot be.
    Failed(String),
    /// Send from this offset on; only to the head.
    From(u64),
}

impl Reply {
    /// Appends it.
    pub fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Done(vote) => {
                out.put_u8(0);
                put_vote(out, vote);
            }
            Self::Failed(message) => {
                out.put_u8(1);
                out.put_slice(message.as_bytes());
            }
            Self::From(offset) => {
                out.put_u8(2);
                out.put_u64_le(*offset);
            }
        }
    }

    /// Reads it.
    pub fn get(frame: &mut Bytes) -> Result<Self, WireError> {
        Ok(match get_u8(frame)? {
            0 => Self::Done(get_vote(frame)?),
            1 => Self::Failed(String::from_utf8_lossy(frame).into_owned()),
            2 => Self::From(get_u64(frame)?),
            _ => return Err(WireError("snapshot reply")),
        })
    }
}

/// A piece of the database file.
#[derive(Debug)]
pub enum Chunk {
    /// The next bytes.
    Bytes(Bytes),
    /// All bytes were sent. The checksum of the state, if the sender knows it.
    End(Option<u64>),
    /// The sender could not read on.
    Failed,
}

impl Chunk {
    /// Appends a chunk whose bytes begin at `offset` of the file.
    pub fn put(&self, offset: u64, out: &mut BytesMut) {
        match self {
            Self::Bytes(bytes) => {
                out.put_u8(0);
                out.put_u32_le(chunk_crc(offset, bytes));
                out.put_slice(bytes);
            }
            Self::End(checksum) => {
                out.put_u8(1);
                // Members of before it was sent take no notice of it.
                checksum.iter().for_each(|sum| out.put_u64_le(*sum));
            }
            Self::Failed => out.put_u8(2),
        }
    }

    /// Reads a chunk whose bytes begin at `offset` of the file.
    pub fn get(offset: u64, frame: &mut Bytes) -> Result<Self, WireError> {
        match get_u8(frame)? {
            0 => {
                let crc = get_u32(frame)?;
                let bytes = std::mem::take(frame);
                if chunk_crc(offset, &bytes) != crc {
                    return Err(WireError("snapshot: the checksum of a chunk is wrong"));
                }
                Ok(Self::Bytes(bytes))
            }
            1 if frame.is_empty() => Ok(Self::End(None)),
            1 => Ok(Self::End(Some(get_u64(frame)?))),
            2 => Ok(Self::Failed),
            _ => Err(WireError("snapshot chunk")),
        }
    }
}

/// Appends what a state is.
fn put_meta(out: &mut BytesMut, meta: &Meta) {
    let a = &meta.applied;
    put_option(out, a.log_id.map(log_id_from).as_ref());
    for number in [a.timestamp_us, a.last_insert_rowid, a.changes, a.total_changes] {
        out.put_i64_le(number);
    }
    out.put_u64_le(meta.epoch);
    put_bytes(out, meta.cluster_id.as_bytes());
    put_option(out, meta.membership.log_id.map(log_id_from).as_ref());
    put_bytes(out, &meta.membership.bytes);
    put_bytes(out, &meta.mark);
    // A member that knows nothing of them is sent none. One that knows nothing of foreign keys in the state refuses what it
    // is sent, and is right: it would execute what follows by its own rules.
    if !meta.extensions.is_empty() || meta.foreign_keys.is_some() {
        put_bytes(out, &meta.extensions.encode());
    }
    if let Some(enforced) = meta.foreign_keys {
        out.put_u8(enforced.into());
    }
}

/// Reads what a state is.
fn get_meta(frame: &mut Bytes) -> Result<Meta, WireError> {
    let log_id = get_option(frame)?.as_ref().map(log_id_to);
    let mut number = || get_u64(frame).map(|n| n as i64);
    let (timestamp_us, last_insert_rowid, changes, total_changes) =
        (number()?, number()?, number()?, number()?);
    let applied = Applied { log_id, timestamp_us, last_insert_rowid, changes, total_changes };
    let epoch = get_u64(frame)?;
    let cluster_id = get_str(frame)?;
    let log_id = get_option(frame)?.as_ref().map(log_id_to);
    let membership = StoredMembership { log_id, bytes: get_bytes(frame)?.to_vec() };
    let mark = get_bytes(frame)?.to_vec();
    let extensions = if frame.has_remaining() {
        let bytes = get_bytes(frame)?;
        let set = ExtensionSet::decode(&bytes).ok().filter(|set| !set.is_empty() || frame.has_remaining());
        set.ok_or(WireError("snapshot: its extensions"))?
    } else {
        ExtensionSet::default()
    };
    let foreign_keys = if frame.has_remaining() {
        match get_u8(frame)? {
            enforced @ 0..=1 => Some(enforced == 1),
            _ => return Err(WireError("snapshot: its foreign keys")),
        }
    } else {
        None
    };
    Ok(Meta { applied, epoch, cluster_id, membership, extensions, foreign_keys, mark })
}
