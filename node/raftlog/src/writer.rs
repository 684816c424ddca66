//! Turns records into frames and frames into writes. Only the flush thread has one.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::LogError;
use crate::frame::{Kind, Stamp, encode_header, frame_len};
use crate::index::Slot;
use crate::prepare::Preparer;
use crate::record::{Checkpoint, Sealed};
use crate::replay::{Replay, SegmentUse};
use crate::segment::Segment;
use crate::shared::Op;
use crate::state::LogState;

/// The buffer is written out when it has grown to this size, so it never grows much further.
const WRITE_BYTES: usize = 1 << 20;
/// Payloads from this size on are written from where they are, not copied into the buffer.
const DIRECT_BYTES: usize = 128 << 10;
/// What a disk loses at once, at worst.
const PAGE: u64 = 4096;
/// Bytes of a Seal frame; every segment keeps room for one.
const SEAL_LEN: u64 = 56;
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// The end of the stream.
pub(crate) struct Writer {
    preparer: Preparer,
    state: LogState,
    uses: VecDeque<SegmentUse>,
    segment: Arc<Segment>,
    /// Where the buffer goes, in bytes.
    offset: u64,
    buffer: Vec<u8>,
    sequence: u64,
    chain: u32,
    /// Everything up to this sequence is synced.
    synced: u64,
    /// Whether something was written since the last sync.
    is_dirty: bool,
    /// Sequence of the last frame that somebody is or was told about.
    last_binding: u64,
    /// Where the last binding frame ends, in bytes.
    binding_end: u64,
    /// Synced-to value of the last frame.
    claimed: u64,
    /// Where the last frame starts, in bytes.
    last_offset: u64,
    /// Whether the next segment was asked for.
    is_next_requested: bool,
    bytes_written: u64,
    /// Places of the entries framed since the last [`Writer::take_output`].
    slots: Vec<Slot>,
    /// Segments opened since.
    opened: Vec<Arc<Segment>>,
}

impl Writer {
    /// Starts a new log in an empty segment.
    pub(crate) fn create(preparer: Preparer, first: Segment) -> Result<Self, LogError> {
        let mut writer = Self::with(preparer, LogState::default(), Arc::new(first));
        writer.write_checkpoint(0)?;
        writer.sync()?;
        Ok(writer)
    }

    /// Goes on where a recovered log ends; `unopened` is the next segment if the last one is sealed.
    pub(crate) fn resume(
        preparer: Preparer,
        replay: Replay,
        last: Arc<Segment>,
        unopened: Option<Segment>,
    ) -> Result<Self, LogError> {
        let mut writer = Self::with(preparer, replay.state, last);
        writer.uses = replay.uses;
        writer.offset = replay.offset;
        writer.sequence = replay.sequence;
        writer.chain = replay.chain;
        writer.synced = replay.sequence;
        writer.claimed = replay.synced;
        writer.last_offset = replay.last_offset;
        writer.last_binding = replay.last_binding;
        writer.binding_end = replay.binding_end;
        if let Some(next) = unopened {
            writer.open(next, 0)?;
        }
        writer.sync()?;
        Ok(writer)
    }

    fn with(preparer: Preparer, state: LogState, segment: Arc<Segment>) -> Self {
        Self {
            preparer,
            state,
            uses: VecDeque::new(),
            segment,
            offset: 0,
            buffer: Vec::new(),
            sequence: 0,
            chain: 0,
            synced: 0,
            is_dirty: false,
            last_binding: 0,
            binding_end: 0,
            claimed: 0,
            last_offset: 0,
            is_next_requested: false,
            bytes_written: 0,
            slots: Vec::new(),
            opened: Vec::new(),
        }
    }

    /// Frames one record. It is durable after the next [`Writer::sync`].
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), LogError> {
        match op {
            Op::Vote(vote) => {
                self.push(Kind::Vote, vote, &[])?;
                self.state.vote = Some(vote.clone());
            }
            Op::Append { index, payload } => {
                let (offset, check) = self.push(Kind::Append, &index.to_le_bytes(), payload)?;
                self.state.append(*index)?;
                // Submissions are limited far below 4 GiB.
                self.slots.push(Slot::new(self.segment.counter(), offset, payload.len() as u32, check));
                if let Some(current) = self.uses.back_mut() {
                    current.append(*index);
                }
            }
            Op::Truncate { next } => {
                self.push(Kind::Truncate, &next.to_le_bytes(), &[])?;
                self.state.truncate(*next)?;
                self.uses.iter_mut().for_each(|segment| segment.truncate(*next));
            }
            Op::Purge { upto, id } => {
                self.push(Kind::Purge, &upto.to_le_bytes(), id)?;
                self.state.purge(*upto, id.clone())?;
            }
            Op::Barrier => return Ok(()),
        }
        self.bind();
        Ok(())
    }

    /// Frames the committed hint, which binds nobody.
    pub(crate) fn apply_committed(&mut self, hint: &bytes::Bytes) -> Result<(), LogError> {
        self.push(Kind::Committed, hint, &[])?;
        self.state.committed = Some(hint.clone());
        Ok(())
    }

    /// Whether no frame says yet that the last binding one is synced.
    pub(crate) fn needs_witness(&self) -> bool {
        self.last_binding > self.claimed
    }

    /// Frames a witness of the last sync, if it has none, and writes everything framed, without a sync.
    pub(crate) fn write_witness(&mut self) -> Result<(), LogError> {
        if self.last_binding > self.synced {
            // The hint has opened a new segment.
            self.sync()?;
        }
        if self.needs_witness() {
            self.push(Kind::Synced, &[], &[])?;
        }
        self.write_out()
    }

    /// Syncs everything and leaves a synced witness in another page than what it vouches for, so that whatever page
    /// is lost while nobody looks, the loss is seen.
    pub(crate) fn finish(&mut self) -> Result<(), LogError> {
        self.write_witness()?;
        let is_near = self.last_offset / PAGE == self.binding_end.saturating_sub(1) / PAGE;
        let filler = (self.position() + frame_len(0)).next_multiple_of(PAGE) - self.position() - frame_len(0);
        let needed = frame_len(filler as usize) + frame_len(0) + SEAL_LEN;
        if is_near && self.position() + needed <= self.segment.len {
            self.put(Kind::Synced, &ZEROS[..filler as usize], &[])?;
            self.put(Kind::Synced, &[], &[])?;
        }
        self.sync()
    }

    /// Writes and syncs everything framed so far.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        self.write_out()?;
        if self.is_dirty {
            self.segment.sync()?;
            self.is_dirty = false;
        }
        self.synced = self.sequence;
        // Not before this segment has a durable Checkpoint: recovery expects one unopened segment at most.
        if !self.is_next_requested {
            self.is_next_requested = true;
            self.preparer.request();
        }
        Ok(())
    }

    /// Retires the oldest segments without needed entries. Only after a sync: until then, disk may need them.
    pub(crate) fn free_segments(&mut self) -> Vec<Arc<Segment>> {
        let mut free = Vec::new();
        while self.uses.len() > 1
            && let Some(oldest) = self.uses.pop_front_if(|oldest| oldest.is_free(&self.state))
        {
            free.push(oldest.segment);
        }
        free
    }

    /// Hands freed segments to the helper, once nobody can find them any more.
    pub(crate) fn retire(&self, segments: Vec<Arc<Segment>>) {
        self.preparer.retire(segments);
    }

    /// The places of the entries framed, in order, and the segments opened, since the last call.
    pub(crate) fn take_output(&mut self) -> (std::vec::Drain<'_, Slot>, std::vec::Drain<'_, Arc<Segment>>) {
        (self.slots.drain(..), self.opened.drain(..))
    }

    /// Bytes of frames written since the log was opened.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// The segments in use.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.uses.iter().map(|used| &used.segment)
    }

    /// Notes that the last frame binds.
    fn bind(&mut self) {
        self.last_binding = self.sequence;
        self.binding_end = self.position();
    }

    fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Frames a record, in the next segment if this one is full; returns its offset and check.
    fn push(&mut self, kind: Kind, head: &[u8], tail: &[u8]) -> Result<(u64, u32), LogError> {
        let len = frame_len(head.len() + tail.len());
        if self.position() + len + SEAL_LEN > self.segment.len {
            self.roll(len)?;
        }
        self.put(kind, head, tail)
    }

    fn put(&mut self, kind: Kind, head: &[u8], tail: &[u8]) -> Result<(u64, u32), LogError> {
        let stamp = Stamp {
            generation: self.segment.generation,
            sequence: self.sequence + 1,
            synced: self.synced,
            previous_chain: self.chain,
        };
        let body_len = head.len() + tail.len();
        let encoded =
            encode_header(&stamp, kind, head, tail).ok_or(LogError::FrameTooLarge { bytes: body_len })?;
        let offset = self.position();
        self.buffer.extend_from_slice(&encoded.bytes);
        self.buffer.extend_from_slice(head);
        if tail.len() >= DIRECT_BYTES {
            self.write_out()?;
            self.write(tail)?;
        } else {
            self.buffer.extend_from_slice(tail);
        }
        let padding = (offset + frame_len(body_len)).saturating_sub(self.position());
        self.buffer.resize(self.buffer.len() + padding as usize, 0);
        self.sequence = stamp.sequence;
        self.chain = encoded.chain;
        self.claimed = self.synced;
        self.last_offset = offset;
        if self.buffer.len() >= WRITE_BYTES {
            self.write_out()?;
        }
        Ok((offset, encoded.check))
    }

    fn write_out(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer)?;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.is_dirty = true;
        self.segment.write(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        self.bytes_written += bytes.len() as u64;
        self.preparer.note_position(self.offset);
        Ok(())
    }

    /// Seals this segment and opens the next one with room for a frame of `len` bytes.
    fn roll(&mut self, len: u64) -> Result<(), LogError> {
        if !self.is_next_requested {
            self.sync()?;
        }
        let next = self.preparer.take()?;
        let sealed = Sealed { next_generation: next.generation, next_len: next.len };
        self.put(Kind::Seal, &sealed.encode(), &[])?;
        self.bind();
        self.sync()?;
        self.open(next, len)
    }

    fn open(&mut self, mut next: Segment, len: u64) -> Result<(), LogError> {
        let needed = self.checkpoint_len() + len + SEAL_LEN;
        if next.len < needed {
            next.extend(needed.next_multiple_of(4096), &|_| true)?;
        }
        let previous = std::mem::replace(&mut self.segment, Arc::new(next));
        self.offset = 0;
        self.preparer.note_position(0);
        self.is_next_requested = false;
        self.write_checkpoint(previous.generation)
    }

    fn write_checkpoint(&mut self, previous_generation: u64) -> Result<(), LogError> {
        let body = self.checkpoint(previous_generation).encode();
        self.put(Kind::Checkpoint, &body, &[])?;
        self.bind();
        self.uses.push_back(SegmentUse::new(self.segment.clone()));
        self.opened.push(self.segment.clone());
        Ok(())
    }

    fn checkpoint(&self, previous_generation: u64) -> Checkpoint {
        Checkpoint {
            segment_len: self.segment.len,
            previous_generation,
            previous_chain: self.chain,
            state: self.state.clone(),
        }
    }

    fn checkpoint_len(&self) -> u64 {
        frame_len(self.checkpoint(0).encode().len())
    }
}
