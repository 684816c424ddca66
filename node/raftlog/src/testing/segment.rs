//! Segments whose frames are intact, whatever they say.

use crate::frame::{Kind, Stamp, encode_header, frame_len};
use crate::options::MIN_SEGMENT_BYTES;
use crate::record::{Checkpoint, Sealed};
use crate::segment::{Role, file_name, make_generation};
use crate::state::LogState;

/// Writes a stream of records frame by frame, with right checksums and sequences: checks of what a frame says are only
/// met behind those.
#[derive(Debug, Default)]
pub struct StreamWriter {
    segments: Vec<(u64, Vec<u8>)>,
    sequence: u64,
    chain: u32,
}

impl StreamWriter {
    /// Begins the next segment; the one before is sealed.
    pub fn begin_segment(&mut self) {
        let counter = self.segments.len() as u32 + 1;
        let generation = make_generation(counter, 0x5eed);
        if !self.segments.is_empty() {
            let sealed = Sealed { next_generation: generation, next_len: MIN_SEGMENT_BYTES };
            self.frame(Kind::Seal as u8, self.sequence, &sealed.encode());
        }
        self.segments.push((generation, Vec::new()));
    }

    /// Opens the segment with the Checkpoint of an empty log.
    pub fn checkpoint(&mut self) {
        let before = self.segments.len().checked_sub(2).and_then(|at| self.segments.get(at));
        let checkpoint = Checkpoint {
            segment_len: MIN_SEGMENT_BYTES,
            previous_generation: before.map_or(0, |(generation, _)| *generation),
            previous_chain: self.chain,
            state: LogState::default(),
        };
        self.frame(Kind::Checkpoint as u8, self.sequence, &checkpoint.encode());
    }

    /// Appends a frame; one of an unknown kind is left out.
    pub fn frame(&mut self, kind: u8, synced: u64, body: &[u8]) {
        let (Some(kind), Some((generation, bytes))) = (Kind::from_byte(kind), self.segments.last_mut())
        else {
            return;
        };
        let sequence = self.sequence + 1;
        let stamp = Stamp { generation: *generation, sequence, synced, previous_chain: self.chain };
        let Some(header) = encode_header(&stamp, kind, &[], body) else { return };
        let end = bytes.len() + frame_len(body.len()) as usize;
        bytes.extend_from_slice(&header.bytes);
        bytes.extend_from_slice(body);
        bytes.resize(end, 0);
        (self.sequence, self.chain) = (sequence, header.chain);
    }

    /// Appends bytes that are no frame.
    pub fn raw(&mut self, raw: &[u8]) {
        if let Some((_, bytes)) = self.segments.last_mut() {
            bytes.extend_from_slice(raw);
        }
    }

    /// Names and contents of the files.
    pub fn finish(self) -> Vec<(String, Vec<u8>)> {
        let whole = |(generation, mut bytes): (u64, Vec<u8>)| {
            bytes.resize(
                bytes.len().next_multiple_of(MIN_SEGMENT_BYTES as usize).max(MIN_SEGMENT_BYTES as usize),
                0,
            );
            (file_name(generation, Role::Segment), bytes)
        };
        self.segments.into_iter().map(whole).collect()
    }
}
