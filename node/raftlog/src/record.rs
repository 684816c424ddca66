//! What a frame's body means.

use bytes::Bytes;

use crate::frame::{Kind, u32_at, u64_at};
use crate::state::LogState;

/// Newest format this program writes and reads.
pub(crate) const FORMAT_VERSION: u8 = 1;
const MAGIC: &[u8; 7] = b"RAFTLOG";
/// Bytes of a Checkpoint before its variable part.
const CHECKPOINT_FIXED: usize = 72;
const HAS_VOTE: u32 = 1;
const HAS_COMMITTED: u32 = 2;
const HAS_PURGED: u32 = 4;

/// A decoded body; payloads stay where they are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Checkpoint(Checkpoint),
    Vote(&'a [u8]),
    Append { index: u64, payload_len: u32 },
    Truncate { next: u64 },
    Purge { upto: u64, id: &'a [u8] },
    Committed(&'a [u8]),
    Synced,
    Seal(Sealed),
}

impl<'a> Record<'a> {
    /// `None` if an intact frame holds something this program never writes.
    pub(crate) fn decode(kind: u8, body: &'a [u8]) -> Option<Self> {
        Some(match Kind::from_byte(kind)? {
            Kind::Checkpoint => Self::Checkpoint(Checkpoint::decode(body)?),
            Kind::Vote => Self::Vote(body),
            Kind::Append => {
                let payload_len = u32::try_from(body.len().checked_sub(8)?).ok()?;
                Self::Append { index: u64_at(body, 0)?, payload_len }
            }
            Kind::Truncate => Self::Truncate { next: u64_at(body, 0)? },
            Kind::Purge => Self::Purge { upto: u64_at(body, 0)?, id: body.get(8..)? },
            Kind::Committed => Self::Committed(body),
            Kind::Synced => Self::Synced,
            Kind::Seal => {
                Self::Seal(Sealed { next_generation: u64_at(body, 0)?, next_len: u64_at(body, 8)? })
            }
        })
    }
}

/// The last record of a full segment: where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub next_generation: u64,
    /// What the next file measures at least, in bytes.
    pub next_len: u64,
}

impl Sealed {
    pub(crate) fn encode(&self) -> [u8; 16] {
        let mut body = [0; 16];
        body[..8].copy_from_slice(&self.next_generation.to_le_bytes());
        body[8..].copy_from_slice(&self.next_len.to_le_bytes());
        body
    }
}

/// The first record of a segment: all an older segment could tell, except entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Length of the segment file in bytes.
    pub segment_len: u64,
    /// 0 for the first segment.
    pub previous_generation: u64,
    /// Chain of the previous segment's last frame.
    pub previous_chain: u32,
    pub state: LogState,
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let state = &self.state;
        let vote = state.vote.as_deref().unwrap_or_default();
        let committed = state.committed.as_deref().unwrap_or_default();
        let (purged, purged_id) =
            state.purged.as_ref().map_or((0, &[][..]), |(index, id)| (*index, id.as_ref()));
        let flags = if state.vote.is_some() { HAS_VOTE } else { 0 }
            | if state.committed.is_some() { HAS_COMMITTED } else { 0 }
            | if state.purged.is_some() { HAS_PURGED } else { 0 };
        let parts = [vote, committed, purged_id];
        let mut body =
            Vec::with_capacity(CHECKPOINT_FIXED + parts.iter().map(|part| part.len()).sum::<usize>());
        body.extend_from_slice(MAGIC);
        body.push(FORMAT_VERSION);
        body.extend_from_slice(&self.segment_len.to_le_bytes());
        body.extend_from_slice(&self.previous_generation.to_le_bytes());
        body.extend_from_slice(&self.previous_chain.to_le_bytes());
        body.extend_from_slice(&flags.to_le_bytes());
        body.extend_from_slice(&state.first.to_le_bytes());
        body.extend_from_slice(&state.next.to_le_bytes());
        body.extend_from_slice(&purged.to_le_bytes());
        for part in parts {
            // Submissions are limited far below 4 GiB.
            body.extend_from_slice(&(part.len() as u32).to_le_bytes());
        }
        body.resize(CHECKPOINT_FIXED, 0);
        for part in parts {
            body.extend_from_slice(part);
        }
        body
    }

    /// The format version of a body that at least looks like a Checkpoint.
    pub(crate) fn version(body: &[u8]) -> Option<u8> {
        if body.starts_with(MAGIC) { body.get(MAGIC.len()).copied() } else { None }
    }

    fn decode(body: &[u8]) -> Option<Self> {
        if Self::version(body)? != FORMAT_VERSION {
            return None;
        }
        let flags = u32_at(body, 28)?;
        let mut rest = body.get(CHECKPOINT_FIXED..)?;
        let mut parts = [None, None, None];
        for (i, part) in parts.iter_mut().enumerate() {
            let (bytes, after) = rest.split_at_checked(u32_at(body, 56 + 4 * i)? as usize)?;
            *part = (flags & (1 << i) != 0).then(|| Bytes::copy_from_slice(bytes));
            rest = after;
        }
        let [vote, committed, purged_id] = parts;
        let purged_index = u64_at(body, 48)?;
        let state = LogState {
            vote,
            committed,
            purged: purged_id.map(|id| (purged_index, id)),
            first: u64_at(body, 32)?,
            next: u64_at(body, 40)?,
        };
        (rest.is_empty() && state.first <= state.next).then_some(())?;
        Some(Self {
            segment_len: u64_at(body, 8)?,
            previous_generation: u64_at(body, 16)?,
            previous_chain: u32_at(body, 24)?,
            state,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_checkpoint_survives_the_round_trip() {
        let full = Checkpoint {
            segment_len: 4096,
            previous_generation: 9,
            previous_chain: 8,
            state: LogState {
                vote: Some(Bytes::from_static(b"v")),
                committed: Some(Bytes::new()),
                purged: Some((6, Bytes::from_static(b"id"))),
                first: 7,
                next: 12,
            },
        };
        let mut empty = full.clone();
        empty.state = LogState::default();
        for checkpoint in [full, empty] {
            let body = checkpoint.encode();
            assert_eq!(Record::decode(1, &body), Some(Record::Checkpoint(checkpoint)));
            for cut in 0..body.len() {
                assert_eq!(Record::decode(1, &body[..cut]), None);
            }
        }
    }

    #[test]
    fn short_and_unknown_bodies_are_refused() {
        for kind in [3, 4, 5, 8] {
            assert_eq!(Record::decode(kind, &[0; 7]), None);
        }
        let sealed = Sealed { next_generation: 8, next_len: 4096 };
        assert_eq!(Record::decode(8, &sealed.encode()), Some(Record::Seal(sealed)));
        assert_eq!(Record::decode(0, &[]), None);
        assert_eq!(Record::decode(9, &[]), None);
        let append = [&5u64.to_le_bytes()[..], b"xyz"].concat();
        assert_eq!(Record::decode(3, &append), Some(Record::Append { index: 5, payload_len: 3 }));
    }
}
