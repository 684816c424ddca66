//! A snapshot on its way between two members.
//!
//! ```text
//! head   = vote · size u64 · meta          meta  = applied · epoch u64 · cluster id · membership (as lengths and bytes)
//! chunk  = 0 · bytes | 1 · crc32c u32 of all bytes (the last one) | 2 (the sender failed)
//! answer = 0 · vote | 1 · message
//! ```

use super::types::{log_id_from, log_id_to};
use super::wire::{
    WireError, get_bytes, get_option, get_str, get_u8, get_u32, get_u64, put_bytes, put_option,
};
use crate::store::{Applied, LocalFailure, Meta, PinnedSnapshot, StoredMembership, crc32c};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

/// Chunks read ahead of the network.
const READ_AHEAD: usize = 4;

/// A piece of the database file.
#[derive(Debug)]
pub enum Chunk {
    /// The next bytes.
    Bytes(Bytes),
    /// All bytes were sent; their checksum.
    End(u32),
}

impl Chunk {
    /// Whether no other follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::End(_))
    }
}

/// Reads a pinned snapshot on a thread of its own. The pin ends with the last chunk, or when the receiver is dropped.
pub fn read_chunks(pinned: PinnedSnapshot) -> mpsc::Receiver<Result<Chunk, LocalFailure>> {
    let (send, receive) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut crc = 0;
        let outcome = pinned.stream(|bytes| {
            crc = crc32c(crc, &bytes);
            send.blocking_send(Ok(Chunk::Bytes(bytes.into()))).is_ok()
        });
        let end = match outcome {
            Ok(true) => Ok(Chunk::End(crc)),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        // Nobody left to tell is fine.
        drop(send.blocking_send(end));
    });
    receive
}

/// Appends a chunk; none says that the sender failed.
pub fn put_chunk(out: &mut BytesMut, chunk: Option<&Chunk>) {
    match chunk {
        Some(Chunk::Bytes(bytes)) => {
            out.put_u8(0);
            out.put_slice(bytes);
        }
        Some(Chunk::End(crc)) => {
            out.put_u8(1);
            out.put_u32_le(*crc);
        }
        None => out.put_u8(2),
    }
}

/// Reads a chunk.
pub fn get_chunk(frame: &mut Bytes) -> Result<Chunk, WireError> {
    match get_u8(frame)? {
        0 => Ok(Chunk::Bytes(std::mem::take(frame))),
        1 => Ok(Chunk::End(get_u32(frame)?)),
        2 => Err(WireError("snapshot: the sender failed")),
        _ => Err(WireError("snapshot chunk")),
    }
}

/// Appends what a state is.
pub fn put_meta(out: &mut BytesMut, meta: &Meta) {
    let a = &meta.applied;
    put_option(out, a.log_id.map(log_id_from).as_ref());
    for number in [a.timestamp_us, a.last_insert_rowid, a.changes, a.total_changes] {
        out.put_i64_le(number);
    }
    out.put_u64_le(meta.epoch);
    put_bytes(out, meta.cluster_id.as_bytes());
    put_option(out, meta.membership.log_id.map(log_id_from).as_ref());
    put_bytes(out, &meta.membership.bytes);
}

/// Reads what a state is.
pub fn get_meta(frame: &mut Bytes) -> Result<Meta, WireError> {
    let log_id = get_option(frame)?.as_ref().map(log_id_to);
    let mut number = || get_u64(frame).map(|n| n as i64);
    let (timestamp_us, last_insert_rowid, changes, total_changes) =
        (number()?, number()?, number()?, number()?);
    let applied = Applied { log_id, timestamp_us, last_insert_rowid, changes, total_changes };
    let epoch = get_u64(frame)?;
    let cluster_id = get_str(frame)?;
    let log_id = get_option(frame)?.as_ref().map(log_id_to);
    let membership = StoredMembership { log_id, bytes: get_bytes(frame)?.to_vec() };
    Ok(Meta { applied, epoch, cluster_id, membership })
}
