//! Rebuilding the state by reading the stream forward.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::OpenError;
use crate::index::{Index, Slot};
use crate::record::{Checkpoint, FORMAT_VERSION, Record, Sealed};
use crate::scan::{Frame, Window};
use crate::segment::Segment;
use crate::state::LogState;

/// The valid first frame of a segment.
#[derive(Debug)]
pub(crate) struct Opening {
    pub checkpoint: Checkpoint,
    pub sequence: u64,
    pub synced: u64,
    chain: u32,
    frame_len: u64,
}

impl Opening {
    /// `None` if the segment does not start with an intact Checkpoint of its own generation.
    pub(crate) fn read(segment: &Segment) -> Result<Option<Self>, OpenError> {
        let mut window = Window::new(segment);
        let Some(Frame { header, body }) = window.frame(0)? else { return Ok(None) };
        if let Some(version) = Checkpoint::version(body)
            && version > FORMAT_VERSION
        {
            let path = segment.path.clone();
            return Err(OpenError::Version { path, version, known: FORMAT_VERSION });
        }
        let Some(Record::Checkpoint(checkpoint)) = Record::decode(header.kind, body) else {
            return Ok(None);
        };
        if !header.follows(checkpoint.previous_chain) {
            return Ok(None);
        }
        Ok(Some(Self {
            checkpoint,
            sequence: header.sequence,
            synced: header.synced,
            chain: header.chain,
            frame_len: header.frame_len(),
        }))
    }
}

/// A segment in use and the entries in it that may still be needed.
#[derive(Debug)]
pub(crate) struct SegmentUse {
    pub segment: Arc<Segment>,
    /// First and last index, neither purged nor superseded when last looked at.
    pub entries: Option<(u64, u64)>,
}

impl SegmentUse {
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        Self { segment, entries: None }
    }

    pub(crate) fn append(&mut self, index: u64) {
        self.entries = Some((self.entries.map_or(index, |(first, _)| first.min(index)), index));
    }

    pub(crate) fn truncate(&mut self, next: u64) {
        self.entries = match self.entries {
            Some((first, last)) if first < next => Some((first, last.min(next - 1))),
            _ => None,
        };
    }

    pub(crate) fn is_free(&self, state: &LogState) -> bool {
        self.entries.is_none_or(|(_, last)| last < state.first)
    }
}

/// The stream up to some frame.
#[derive(Debug)]
pub(crate) struct Replay {
    pub state: LogState,
    pub index: Index,
    pub uses: VecDeque<SegmentUse>,
    /// Sequence of the last frame.
    pub sequence: u64,
    /// Chain of the last frame.
    pub chain: u32,
    /// Highest synced-to value seen.
    pub synced: u64,
    /// Sequence of the last frame that somebody may have been told about.
    pub last_binding: u64,
    /// Where that frame ends, in bytes.
    pub binding_end: u64,
    /// Where the last frame starts, in bytes.
    pub last_offset: u64,
    /// Where the last segment read ends, in bytes.
    pub offset: u64,
    /// Where the log goes on, if the last segment read is sealed.
    pub sealed: Option<Sealed>,
    /// Frames of the last segment that nothing vouches for: sequence and offset.
    unvouched: VecDeque<(u64, u64)>,
}

impl Replay {
    /// A replay that begins with the segment of this opening: what came before is in its Checkpoint.
    pub(crate) fn starting_with(opening: &Opening) -> Self {
        let state = opening.checkpoint.state.clone();
        Self {
            index: Index::starting_at(state.next),
            state,
            uses: VecDeque::new(),
            sequence: opening.sequence.wrapping_sub(1),
            chain: opening.checkpoint.previous_chain,
            synced: opening.synced,
            last_binding: 0,
            binding_end: 0,
            last_offset: 0,
            offset: 0,
            sealed: None,
            unvouched: VecDeque::new(),
        }
    }

    /// Reads one segment to its seal or to the first position without a valid next frame.
    pub(crate) fn read(&mut self, segment: &Arc<Segment>, opening: &Opening) -> Result<(), OpenError> {
        self.unvouched.clear();
        self.uses.push_back(SegmentUse::new(segment.clone()));
        let checkpoint = &opening.checkpoint;
        self.sealed = None;
        self.offset = 0;
        if opening.sequence != self.sequence.wrapping_add(1)
            || checkpoint.previous_chain != self.chain
            || checkpoint.state != self.state
        {
            return Err(self.impossible(segment, None));
        }
        self.pass(opening.sequence, opening.synced, opening.chain, opening.frame_len, true);
        let mut window = Window::new(segment);
        while self.sealed.is_none() {
            let Some(Frame { header, body }) = window.frame(self.offset)? else { break };
            if header.sequence != self.sequence.wrapping_add(1) || !header.follows(self.chain) {
                break;
            }
            let record = Record::decode(header.kind, body).ok_or_else(|| self.impossible(segment, None))?;
            let binding = !matches!(record, Record::Committed(_) | Record::Synced);
            self.apply(segment, record, header.check)?;
            self.pass(header.sequence, header.synced, header.chain, header.frame_len(), binding);
        }
        Ok(())
    }

    /// Offset from which on nothing vouches for the frames of the last segment, given everything seen.
    pub(crate) fn unvouched_from(&self, synced: u64) -> u64 {
        let mut frames = self.unvouched.iter();
        frames.find(|(sequence, _)| *sequence > synced).map_or(self.offset, |(_, offset)| *offset)
    }

    fn pass(&mut self, sequence: u64, synced: u64, chain: u32, frame_len: u64, binding: bool) {
        self.synced = self.synced.max(synced);
        self.unvouched.push_back((sequence, self.offset));
        while self.unvouched.front().is_some_and(|(sequence, _)| *sequence <= self.synced) {
            self.unvouched.pop_front();
        }
        self.sequence = sequence;
        self.chain = chain;
        self.last_offset = self.offset;
        self.offset += frame_len;
        if binding {
            self.last_binding = sequence;
            self.binding_end = self.offset;
        }
    }

    fn apply(&mut self, segment: &Segment, record: Record<'_>, check: u32) -> Result<(), OpenError> {
        match record {
            Record::Vote(vote) => self.state.vote = Some(Bytes::copy_from_slice(vote)),
            Record::Committed(hint) => self.state.committed = Some(Bytes::copy_from_slice(hint)),
            Record::Append { index, payload_len } => {
                self.state.append(index).map_err(|order| self.impossible(segment, Some(order)))?;
                self.index.push(index, Slot::new(segment.counter(), self.offset, payload_len, check));
                if let Some(current) = self.uses.back_mut() {
                    current.append(index);
                }
            }
            Record::Truncate { next } => {
                self.state.truncate(next).map_err(|order| self.impossible(segment, Some(order)))?;
                self.index.truncate(next);
                self.uses.iter_mut().for_each(|segment| segment.truncate(next));
            }
            Record::Purge { upto, id } => {
                let id = Bytes::copy_from_slice(id);
                self.state.purge(upto, id).map_err(|order| self.impossible(segment, Some(order)))?;
                self.index.purge(self.state.first);
            }
            Record::Synced => {}
            Record::Seal(sealed) => self.sealed = Some(sealed),
            // A Checkpoint opens a segment and stands nowhere else.
            Record::Checkpoint(_) => return Err(self.impossible(segment, None)),
        }
        Ok(())
    }

    fn impossible(&self, segment: &Segment, source: Option<crate::OrderError>) -> OpenError {
        OpenError::Impossible { path: segment.path.clone(), offset: self.offset, source }
    }
}
