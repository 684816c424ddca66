//! Reading frames out of a file, and looking for frames in a region that cannot be read in order.

use crate::OpenError;
use crate::frame::{ALIGN, HEADER_LEN, Header, frame_len, u64_at};
use crate::segment::Segment;

/// Bytes read at once; only a larger frame needs more.
const READ_BYTES: u64 = 1 << 20;

/// A window onto a segment, moved forward as needed, so that opening a log needs little memory.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    segment: &'a Segment,
    start: u64,
    bytes: Vec<u8>,
}

/// A frame that is what was written. Whether it follows its predecessor is another question.
#[derive(Debug)]
pub(crate) struct Frame<'w> {
    pub header: Header,
    pub body: &'w [u8],
}

impl<'a> Window<'a> {
    pub(crate) fn new(segment: &'a Segment) -> Self {
        Self { segment, start: 0, bytes: Vec::new() }
    }

    /// The bytes at `offset`, `None` if the file ends before.
    fn get(&mut self, offset: u64, len: u64) -> Result<Option<&[u8]>, OpenError> {
        let Some(end) = offset.checked_add(len).filter(|end| *end <= self.segment.len) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let read = READ_BYTES.max(len).min(self.segment.len - offset);
            self.bytes.resize(read as usize, 0);
            self.start = offset;
            if let Err(source) = self.segment.file.read_exact_at(&mut self.bytes, offset) {
                self.bytes.clear();
                return Err(OpenError::Read { path: self.segment.path.clone(), offset, source });
            }
        }
        let at = (offset - self.start) as usize;
        Ok(self.bytes.get(at..at + len as usize))
    }

    /// The header at `offset` if it is of this generation and its frame fits the file.
    pub(crate) fn header(&mut self, offset: u64) -> Result<Option<Header>, OpenError> {
        let (generation, len) = (self.segment.generation, self.segment.len);
        let header = self.get(offset, HEADER_LEN as u64)?.and_then(Header::decode);
        Ok(header.filter(|header| {
            header.generation == generation
                && offset.checked_add(header.frame_len()).is_some_and(|end| end <= len)
        }))
    }

    /// The intact frame of this generation at `offset`, if there is one.
    pub(crate) fn frame(&mut self, offset: u64) -> Result<Option<Frame<'_>>, OpenError> {
        let Some(header) = self.header(offset)? else { return Ok(None) };
        let frame = self.get(offset, header.frame_len())?;
        let body = frame.and_then(|frame| frame.get(HEADER_LEN..HEADER_LEN + header.body_len as usize));
        Ok(body.filter(|body| header.is_intact(body)).map(|body| Frame { header, body }))
    }

    /// Searches everything from `offset` on for intact frames of this generation.
    pub(crate) fn find_frames(&mut self, offset: u64) -> Result<Found, OpenError> {
        let generation = self.segment.generation;
        let mut found = Found::default();
        let mut at = offset.next_multiple_of(ALIGN);
        while at + frame_len(0) <= self.segment.len {
            let block_len = READ_BYTES.min(self.segment.len - at);
            let Some(block) = self.get(at, block_len)? else { break };
            // The generation is the second word of a header.
            let hit = block[8..].chunks_exact(8).position(|word| u64_at(word, 0) == Some(generation));
            let Some(words) = hit else {
                // The last word of the block may be the first of a header.
                at += (block_len - 8).max(8) / ALIGN * ALIGN;
                continue;
            };
            at += words as u64 * ALIGN;
            at += match self.frame(at)? {
                Some(frame) => {
                    found.synced = found.synced.max(frame.header.synced);
                    found.end = Some(at + frame.header.frame_len());
                    frame.header.frame_len()
                }
                None => ALIGN,
            };
        }
        Ok(found)
    }
}

/// What a search has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Highest synced-to value: records up to it were on disk once.
    pub synced: u64,
    /// End of the last intact frame, in bytes.
    pub end: Option<u64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::frame::{Kind, Stamp, encode_header};
    use crate::testing::FaultDisk;

    fn segment(len: u64) -> Segment {
        let io = FaultDisk::new(1).process();
        let path = std::path::PathBuf::from("/log/x");
        io.create_dir_all(std::path::Path::new("/log")).unwrap();
        let mut segment = Segment { generation: 77, len: 0, file: io.create(&path).unwrap(), path };
        segment.extend(len, &|_| true).unwrap();
        segment
    }

    fn put(segment: &Segment, offset: u64, synced: u64, body: &[u8]) {
        let stamp = Stamp { generation: 77, sequence: synced + 1, synced, previous_chain: 0 };
        let encoded = encode_header(&stamp, Kind::Vote, &[], body).unwrap();
        segment.write(&[&encoded.bytes[..], body].concat(), offset).unwrap();
    }

    #[test]
    fn frames_are_found_wherever_they_lie() {
        // Also across the border of a block and at the very end.
        for offset in
            [0, 8, 4096, READ_BYTES - 48, READ_BYTES - 16, READ_BYTES - 8, READ_BYTES, 2 * READ_BYTES]
        {
            let segment = segment(2 * READ_BYTES + 48);
            put(&segment, offset, 5, b"12345678");
            let found = Window::new(&segment).find_frames(0).unwrap();
            assert_eq!(found, Found { synced: 5, end: Some(offset + 48) }, "at {offset}");
            let beyond = Window::new(&segment).find_frames(offset + 8).unwrap();
            assert_eq!(beyond, Found::default());
        }
    }

    #[test]
    fn a_frame_that_does_not_fit_is_none() {
        let segment = segment(4096);
        put(&segment, 4048, 1, b"12345678");
        put(&segment, 0, 1, &[3; 100]);
        segment.write(&[9], 60).unwrap();
        let mut window = Window::new(&segment);
        assert!(window.frame(4048).unwrap().is_some());
        assert!(window.frame(4056).unwrap().is_none());
        assert!(window.header(0).unwrap().is_some());
        assert!(window.frame(0).unwrap().is_none());
        assert!(window.frame(u64::MAX - 7).unwrap().is_none());
    }

    #[test]
    fn a_large_frame_is_read_whole() {
        let segment = segment(4 * READ_BYTES);
        let body = vec![7; 3 * READ_BYTES as usize];
        put(&segment, 64, 1, &body);
        assert_eq!(Window::new(&segment).frame(64).unwrap().unwrap().body, body);
    }
}
