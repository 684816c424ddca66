//! One frame: the unit that is written, checked and chained. See [`format`](mod@crate::format).

use crc32c::{crc32c, crc32c_append};

/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 40;
/// Frames start at multiples of this.
pub(crate) const ALIGN: u64 = 8;
/// Bytes of the header that `check` covers.
const CHECKED: usize = 32;
/// Bytes of the header that `chain` covers.
const CHAINED: usize = 36;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Checkpoint = 1,
    Vote = 2,
    Append = 3,
    Truncate = 4,
    Purge = 5,
    Committed = 6,
    Synced = 7,
    Seal = 8,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Checkpoint,
            2 => Self::Vote,
            3 => Self::Append,
            4 => Self::Truncate,
            5 => Self::Purge,
            6 => Self::Committed,
            7 => Self::Synced,
            8 => Self::Seal,
            _ => return None,
        })
    }
}

/// Where a frame stands in the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub generation: u64,
    pub sequence: u64,
    /// Everything up to this sequence is known to be synced.
    pub synced: u64,
    /// Chain of the frame before.
    pub previous_chain: u32,
}

/// A header as found in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub body_len: u32,
    pub kind: u8,
    pub generation: u64,
    pub sequence: u64,
    pub synced: u64,
    pub check: u32,
    pub chain: u32,
    raw: [u8; HEADER_LEN],
}

impl Header {
    /// Reads a header from the first bytes of `bytes`; `None` if there are too few.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let raw: [u8; HEADER_LEN] = *bytes.first_chunk()?;
        Some(Self {
            body_len: u32_at(&raw, 0)?,
            kind: raw[4],
            generation: u64_at(&raw, 8)?,
            sequence: u64_at(&raw, 16)?,
            synced: u64_at(&raw, 24)?,
            check: u32_at(&raw, 32)?,
            chain: u32_at(&raw, 36)?,
            raw,
        })
    }

    /// Bytes the whole frame takes in the file.
    pub(crate) fn frame_len(&self) -> u64 {
        frame_len(self.body_len as usize)
    }

    /// Whether header and body are what was written.
    pub(crate) fn is_intact(&self, body: &[u8]) -> bool {
        body.len() == self.body_len as usize
            && crc32c_append(crc32c(&self.raw[..CHECKED]), body) == self.check
    }

    /// Whether this frame was made to follow the one with chain `previous`.
    pub(crate) fn follows(&self, previous: u32) -> bool {
        crc32c_append(previous, &self.raw[..CHAINED]) == self.chain
    }
}

/// A header ready to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoded {
    pub bytes: [u8; HEADER_LEN],
    pub check: u32,
    pub chain: u32,
}

/// Makes the header of a frame whose body is `head` followed by `tail` (two parts, so that an index can stand before
/// a payload that nobody copies). `None` if the body is too large for a frame.
pub(crate) fn encode_header(stamp: &Stamp, kind: Kind, head: &[u8], tail: &[u8]) -> Option<Encoded> {
    let body_len = u32::try_from(head.len() + tail.len()).ok()?;
    let mut bytes = [0; HEADER_LEN];
    bytes[0..4].copy_from_slice(&body_len.to_le_bytes());
    bytes[4] = kind as u8;
    bytes[8..16].copy_from_slice(&stamp.generation.to_le_bytes());
    bytes[16..24].copy_from_slice(&stamp.sequence.to_le_bytes());
    bytes[24..32].copy_from_slice(&stamp.synced.to_le_bytes());
    let check = crc32c_append(crc32c_append(crc32c(&bytes[..CHECKED]), head), tail);
    bytes[32..36].copy_from_slice(&check.to_le_bytes());
    let chain = crc32c_append(stamp.previous_chain, &bytes[..CHAINED]);
    bytes[36..40].copy_from_slice(&chain.to_le_bytes());
    Some(Encoded { bytes, check, chain })
}

/// Bytes that a frame with a body of this length takes in a file.
pub(crate) fn frame_len(body_len: usize) -> u64 {
    ((HEADER_LEN + body_len) as u64).next_multiple_of(ALIGN)
}

/// The little-endian number at `at`, if there are enough bytes.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// The little-endian number at `at`, if there are enough bytes.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STAMP: Stamp = Stamp { generation: 7, sequence: 3, synced: 2, previous_chain: 99 };

    #[test]
    fn a_header_survives_the_round_trip() {
        let encoded = encode_header(&STAMP, Kind::Append, b"12345678", b"payload").unwrap();
        let header = Header::decode(&encoded.bytes).unwrap();
        assert_eq!((header.body_len, header.kind), (15, Kind::Append as u8));
        assert_eq!((header.generation, header.sequence, header.synced), (7, 3, 2));
        assert!(header.is_intact(b"12345678payload"));
        assert!(header.follows(99));
        assert!(!header.follows(98));
        assert_eq!(header.frame_len(), 56);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let encoded = encode_header(&STAMP, Kind::Vote, b"", b"vote").unwrap();
        let frame = [&encoded.bytes[..], b"vote"].concat();
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let header = Header::decode(&bad).unwrap();
            assert!(!header.is_intact(&bad[HEADER_LEN..]) || !header.follows(99), "bit {bit}");
        }
    }

    #[test]
    fn kinds_are_what_the_format_says() {
        for byte in 0..=255 {
            assert!(Kind::from_byte(byte).is_none_or(|kind| kind as u8 == byte));
            assert_eq!(Kind::from_byte(byte).is_some(), (1..=8).contains(&byte));
        }
        assert!(Header::decode(&[0; 39]).is_none());
    }
}
