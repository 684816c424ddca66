//! Which pages a transaction of the writer changed, seen as their frames go into the WAL.
//!
//! SQLite writes a frame as two writes, a header of 24 bytes and the page; both pass through the writer's file system
//! layer on the writer's thread, so what is noted here is of that thread. A page that is written twice in a transaction
//! may have two frames or one that is overwritten; after a savepoint is rolled back the WAL goes back and frames are
//! overwritten too. What counts in the end are the last frames up to the one that commits.
//!
//! Source: <https://www.sqlite.org/fileformat2.html#walformat>; `walWriteOneFrame` and `sqlite3WalFrames` in `wal.c`.

use super::freelist::{Freelist, be_u32};
use super::pages::hash;
use std::cell::RefCell;
use std::collections::HashMap;

const FRAME_HEADER: usize = 24;
const WAL_HEADER: usize = 32;

/// What a transaction changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The size of the database after it, in pages.
    pub size: u32,
    /// Pages written, with the hash of their content.
    pub pages: HashMap<u32, u64>,
    /// The free list, if page 1 was written.
    pub freelist: Option<Freelist>,
}

#[derive(Debug, Default)]
struct Capture {
    page_size: usize,
    /// The frame header written last: where, and of which page.
    header: Option<(u64, u32)>,
    frames: Vec<Frame>,
    /// Where the committing frame is, and the size it tells.
    commit: Option<(u64, u32)>,
    /// Something was written that is not understood.
    lost: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    at: u64,
    page: u32,
    hash: u64,
    freelist: Option<Freelist>,
}

thread_local! {
    static CAPTURE: RefCell<Capture> = RefCell::default();
}

/// From now on frames belong to a new transaction of a database with pages of `page_size` bytes.
pub fn begin(page_size: usize) {
    CAPTURE.with_borrow_mut(|capture| {
        capture.page_size = page_size;
        capture.header = None;
        capture.frames.clear();
        capture.frames.shrink_to(64 << 10);
        capture.commit = None;
        capture.lost = false;
    });
}

/// What the transaction that has just committed changed; none if that cannot be told.
pub fn take() -> Option<Committed> {
    CAPTURE.with_borrow_mut(Capture::take)
}

/// Bytes that SQLite writes into the WAL at `offset`, on this thread.
pub fn wrote(offset: u64, bytes: &[u8]) {
    CAPTURE.with_borrow_mut(|capture| capture.wrote(offset, bytes));
}

impl Capture {
    fn wrote(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.len() == FRAME_HEADER {
            let (page, size) = (be_u32(bytes, 0), be_u32(bytes, 4));
            self.header = Some((offset, page));
            if size != 0 {
                self.commit = Some((offset, size));
            }
        } else if bytes.len() == self.page_size && offset >= (WAL_HEADER + FRAME_HEADER) as u64 {
            let at = offset - FRAME_HEADER as u64;
            let page = match self.header {
                Some((header_at, page)) if header_at == at => Some(page),
                _ => self.frames.iter().rev().find(|frame| frame.at == at).map(|frame| frame.page),
            };
            match page {
                Some(page) => {
                    let freelist = (page == 1).then(|| Freelist::of(bytes));
                    self.frames.push(Frame { at, page, hash: hash(page, bytes), freelist });
                }
                None => self.lost = true,
            }
        } else if offset != 0 || bytes.len() != WAL_HEADER {
            self.lost = true;
        }
    }

    fn take(&mut self) -> Option<Committed> {
        if self.lost {
            return None;
        }
        let Some((commit_at, size)) = self.commit else {
            return self.frames.is_empty().then(Committed::default);
        };
        if !self.frames.is_sorted_by(|a, b| a.at < b.at) {
            // What was overwritten does not count: stable, so that of one place the last write comes last.
            self.frames.sort_by_key(|frame| frame.at);
        }
        let mut committed = Committed { size, ..Committed::default() };
        let mut frames = self.frames.iter().peekable();
        while let Some(frame) = frames.next() {
            if frame.at > commit_at || frames.peek().is_some_and(|next| next.at == frame.at) {
                continue;
            }
            committed.pages.insert(frame.page, frame.hash);
            if frame.freelist.is_some() {
                committed.freelist = frame.freelist;
            }
        }
        Some(committed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(page: u32, size: u32) -> Vec<u8> {
        [&page.to_be_bytes()[..], &size.to_be_bytes(), &[0; 16]].concat()
    }

    fn at(frame: u64) -> u64 {
        32 + frame * (24 + 512)
    }

    #[test]
    fn the_last_frames_up_to_the_commit_count() {
        begin(512);
        let page = |fill: u8| vec![fill; 512];
        wrote(0, &[0; 32]);
        for (frame, number, size, fill) in
            [(0, 2, 0, 1), (1, 3, 0, 2), (2, 4, 0, 3), (1, 5, 0, 4), (2, 2, 5, 5), (3, 9, 0, 6)]
        {
            wrote(at(frame), &header(number, size));
            wrote(at(frame) + 24, &page(fill));
        }
        // A frame that is written again keeps its page.
        wrote(at(0) + 24, &page(7));
        let committed = take().unwrap();
        assert_eq!(committed.size, 5);
        let expected = [(2, hash(2, &page(5))), (5, hash(5, &page(4)))];
        assert_eq!(committed.pages, expected.into());
        assert_eq!(committed.freelist, None);

        begin(512);
        assert_eq!(take(), Some(Committed::default()));
        wrote(at(7) + 24, &page(1));
        assert_eq!(take(), None);
    }
}
