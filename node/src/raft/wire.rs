//! Bytes of what Raft keeps and sends: little endian, no self-description; the connection's preface and the log's
//! format number say which version it is.
//!
//! ```text
//! vote     = term u64 · node u64 · committed u8
//! log id   = term u64 · node u64 · index u64
//! option   = 0 | 1 · value
//! entry    = log id · 0 | 1 · length u32 · command | 2 · length u32 · membership (JSON)
//! purged   = log id · nothing | term u64 · leader u64 · index u64 · length u32 · membership (JSON)
//! append   = vote · option(log id: previous) · option(log id: leader's commit) · count u32 · count × entry
//! ```
//! An entry has the same bytes in the log and on the wire.

use super::types::{CommandBytes, Entry, LogId, StoredMembership, TypeConfig, Vote, log_id_from, log_id_to};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse,
};

pub type AppendRequest = AppendEntriesRequest<TypeConfig>;

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct WireError(pub &'static str);

impl From<WireError> for std::io::Error {
    fn from(error: WireError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

type Result<T> = std::result::Result<T, WireError>;

pub fn get_u8(b: &mut Bytes) -> Result<u8> {
    b.try_get_u8().map_err(|_| WireError("message: cut short"))
}

pub fn get_u32(b: &mut Bytes) -> Result<u32> {
    b.try_get_u32_le().map_err(|_| WireError("message: cut short"))
}

pub fn get_u64(b: &mut Bytes) -> Result<u64> {
    b.try_get_u64_le().map_err(|_| WireError("message: cut short"))
}

pub fn get_bytes(b: &mut Bytes) -> Result<Bytes> {
    let length = get_u32(b)? as usize;
    if length > b.len() {
        return Err(WireError("message: cut short"));
    }
    Ok(b.split_to(length))
}

pub fn get_str(b: &mut Bytes) -> Result<String> {
    String::from_utf8(get_bytes(b)?.to_vec()).map_err(|_| WireError("text: not UTF-8"))
}

pub fn put_bytes(b: &mut BytesMut, bytes: &[u8]) {
    b.put_u32_le(bytes.len() as u32);
    b.put_slice(bytes);
}

pub fn put_vote(b: &mut BytesMut, vote: &Vote) {
    b.put_u64_le(vote.leader_id.term);
    b.put_u64_le(vote.leader_id.node_id);
    b.put_u8(u8::from(vote.committed));
}

pub fn get_vote(b: &mut Bytes) -> Result<Vote> {
    let (term, node) = (get_u64(b)?, get_u64(b)?);
    Ok(if get_u8(b)? == 1 { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

pub fn put_log_id(b: &mut BytesMut, id: &LogId) {
    let id = log_id_to(id);
    for word in [id.term, id.leader, id.index] {
        b.put_u64_le(word);
    }
}

pub fn get_log_id(b: &mut Bytes) -> Result<LogId> {
    Ok(log_id_from(crate::store::LogId { term: get_u64(b)?, leader: get_u64(b)?, index: get_u64(b)? }))
}

pub fn put_option(b: &mut BytesMut, id: Option<&LogId>) {
    match id {
        None => b.put_u8(0),
        Some(id) => {
            b.put_u8(1);
            put_log_id(b, id);
        }
    }
}

pub fn get_option(b: &mut Bytes) -> Result<Option<LogId>> {
    Ok(if get_u8(b)? == 1 { Some(get_log_id(b)?) } else { None })
}

/// The bytes of a membership, as the store keeps them.
pub fn membership_to_bytes(membership: &openraft::Membership<u64, super::types::PeerInfo>) -> Vec<u8> {
    // It holds only numbers and strings: serialising it cannot fail.
    serde_json::to_vec(membership).unwrap_or_default()
}

/// The membership that the store keeps.
pub fn membership_from_store(stored: &crate::store::StoredMembership) -> Result<StoredMembership> {
    let Some(log_id) = stored.log_id else { return Ok(StoredMembership::default()) };
    let membership = serde_json::from_slice(&stored.bytes).map_err(|_| WireError("membership"))?;
    Ok(StoredMembership::new(Some(log_id_from(log_id)), membership))
}

/// What the log keeps of what is purged: the last entry, and the membership at that, if it is known.
pub fn put_purged(b: &mut BytesMut, id: &LogId, membership: &crate::store::StoredMembership) {
    put_log_id(b, id);
    if let Some(at) = membership.log_id {
        put_log_id(b, &log_id_from(at));
        put_bytes(b, &membership.bytes);
    }
}

/// The same, read back.
pub fn get_purged(b: &mut Bytes) -> Result<(LogId, crate::store::StoredMembership)> {
    let id = get_log_id(b)?;
    if b.is_empty() {
        return Ok((id, crate::store::StoredMembership::default()));
    }
    let log_id = Some(log_id_to(&get_log_id(b)?));
    Ok((id, crate::store::StoredMembership { log_id, bytes: get_bytes(b)?.to_vec() }))
}

pub fn put_entry(b: &mut BytesMut, entry: &Entry) {
    put_log_id(b, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => b.put_u8(0),
        EntryPayload::Normal(command) => {
            b.put_u8(1);
            put_bytes(b, &command.0);
        }
        EntryPayload::Membership(membership) => {
            b.put_u8(2);
            put_bytes(b, &membership_to_bytes(membership));
        }
    }
}

/// Bytes that an entry takes, about.
pub fn entry_size(entry: &Entry) -> usize {
    29 + match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(command) => command.0.len(),
        EntryPayload::Membership(_) => 1024,
    }
}

/// Reads an entry; its command shares the buffer.
pub fn get_entry(b: &mut Bytes) -> Result<Entry> {
    let id = get_log_id(b)?;
    let payload = match get_u8(b)? {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Normal(CommandBytes(get_bytes(b)?)),
        2 => EntryPayload::Membership(
            serde_json::from_slice(&get_bytes(b)?).map_err(|_| WireError("membership"))?,
        ),
        _ => return Err(WireError("entry: unknown kind")),
    };
    Ok(<Entry as RaftEntry>::new(id, payload))
}

pub fn put_append(b: &mut BytesMut, request: &AppendRequest) {
    put_vote(b, &request.vote);
    put_option(b, request.prev_log_id.as_ref());
    put_option(b, request.leader_commit.as_ref());
    b.put_u32_le(request.entries.len() as u32);
    for entry in &request.entries {
        put_entry(b, entry);
    }
}

pub fn get_append(b: &mut Bytes) -> Result<AppendRequest> {
    let vote = get_vote(b)?;
    let prev_log_id = get_option(b)?;
    let leader_commit = get_option(b)?;
    let count = get_u32(b)? as usize;
    if count > b.len() / 25 {
        return Err(WireError("append: more entries than bytes"));
    }
    let entries = (0..count).map(|_| get_entry(b)).collect::<Result<_>>()?;
    Ok(AppendRequest { vote, prev_log_id, leader_commit, entries })
}

pub fn put_append_result(b: &mut BytesMut, result: &StreamAppendResult<TypeConfig>) {
    match result {
        Ok(id) => {
            b.put_u8(0);
            put_option(b, id.as_ref());
        }
        Err(StreamAppendError::Conflict(id)) => {
            b.put_u8(1);
            put_log_id(b, id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            b.put_u8(2);
            put_vote(b, vote);
        }
    }
}

pub fn get_append_result(b: &mut Bytes) -> Result<StreamAppendResult<TypeConfig>> {
    Ok(match get_u8(b)? {
        0 => Ok(get_option(b)?),
        1 => Err(StreamAppendError::Conflict(get_log_id(b)?)),
        2 => Err(StreamAppendError::HigherVote(get_vote(b)?)),
        _ => return Err(WireError("append result")),
    })
}

pub fn put_vote_request(b: &mut BytesMut, request: &VoteRequest<TypeConfig>) {
    put_vote(b, &request.vote);
    put_option(b, request.last_log_id.as_ref());
    b.put_u8(u8::from(request.leadership_transfer));
}

pub fn get_vote_request(b: &mut Bytes) -> Result<VoteRequest<TypeConfig>> {
    let mut request = VoteRequest::new(get_vote(b)?, get_option(b)?);
    request.leadership_transfer = get_u8(b)? == 1;
    Ok(request)
}

pub fn put_vote_response(b: &mut BytesMut, response: &VoteResponse<TypeConfig>) {
    put_vote(b, &response.vote);
    put_option(b, response.last_log_id.as_ref());
    b.put_u8(u8::from(response.vote_granted));
}

pub fn get_vote_response(b: &mut Bytes) -> Result<VoteResponse<TypeConfig>> {
    let (vote, last) = (get_vote(b)?, get_option(b)?);
    Ok(VoteResponse::new(vote, last, get_u8(b)? == 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_kept_of_a_purge_reads_back() {
        let at = |index| crate::store::LogId { term: 3, leader: 9, index };
        let known = crate::store::StoredMembership { log_id: Some(at(4)), bytes: b"{}".to_vec() };
        for membership in [known, crate::store::StoredMembership::default()] {
            let mut b = BytesMut::new();
            put_purged(&mut b, &log_id_from(at(7)), &membership);
            let b = b.freeze();
            assert_eq!(get_purged(&mut b.clone()).unwrap(), (log_id_from(at(7)), membership));
            // Who looks only for the entry finds it.
            assert_eq!(get_log_id(&mut b.clone()).unwrap(), log_id_from(at(7)));
        }
    }

    #[test]
    fn an_append_reads_back_and_every_cut_is_noticed() {
        let id = |index| log_id_from(crate::store::LogId { term: 3, leader: 9, index });
        let membership = openraft::Membership::new_with_defaults(vec![[9].into()], [9]);
        let request = AppendRequest {
            vote: Vote::new_committed(3, 9),
            prev_log_id: Some(id(4)),
            leader_commit: None,
            entries: vec![
                Entry::new(id(5), EntryPayload::Blank),
                Entry::new(id(6), EntryPayload::Normal(CommandBytes(Bytes::from_static(b"abc")))),
                Entry::new(id(7), EntryPayload::Membership(membership)),
            ],
        };
        let mut b = BytesMut::new();
        put_append(&mut b, &request);
        let b = b.freeze();
        let read = get_append(&mut b.clone()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
        for end in 0..b.len() {
            assert!(get_append(&mut b.slice(..end)).is_err(), "{end}");
        }
    }
}
