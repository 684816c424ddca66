//! The checksum of the database's state: equal on every replica at the same entry, page for page.
//!
//! It is the sum of the hashes of all pages, so it follows each entry by what the entry changed: minus the hashes the
//! pages had, plus those they have. It depends on the state only and can be computed from a file too. Left out is what
//! may differ in databases of the same content: in page 1 the change counter, the schema cookie and the version of the
//! library that wrote last; pages on the free list, whose content is undefined; the page that SQLite never writes
//! because locks are there.
//!
//! The hashes of a database that was just opened are not known: a thread of its own reads the pages ([`super::scrub`]),
//! and only then the member knows its checksum. So a restart takes as long for a large database as for a small one, and
//! what is on disk is read once after each restart, and then once in a while.
//!
//! Source: <https://www.sqlite.org/fileformat2.html>, "The Database Header", "The Freelist", "The Lock-Byte Page".

use super::freelist::Freelist;
use super::wal_capture::Committed;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use tokio::sync::watch;
use twox_hash::XxHash3_64;

/// Checksums kept of the entries applied last.
const KEPT: usize = 256;
/// Checksums kept of earlier entries, at multiples of [`STRIDE`]: members that are some seconds apart have some in
/// common.
const KEPT_STRIDES: usize = 1024;
/// While there are free pages only checksums at multiples of this are known: the list is walked for them.
const STRIDE: u64 = 64;

/// The checksum of the state after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The entry.
    pub index: u64,
    /// The sum.
    pub sum: u64,
}

/// A page on disk is not what was written there, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The page; where SQLite finds no database in the file, the first one.
    pub page: u32,
}

/// Hash of a page's content; never 0.
pub fn hash(page: u32, content: &[u8]) -> u64 {
    let seed = u64::from(page);
    if page == 1 && content.len() >= 100 {
        let mut masked = content.to_vec();
        for range in [24..28, 40..44, 92..100] {
            masked[range].fill(0);
        }
        return XxHash3_64::oneshot_with_seed(seed, &masked).max(1);
    }
    XxHash3_64::oneshot_with_seed(seed, content).max(1)
}

/// Size of the pages, in bytes, of the database that begins like this; none if it is none of SQLite's.
///
/// Source: <https://www.sqlite.org/fileformat2.html#page_size>.
pub fn page_size(beginning: &[u8]) -> Option<usize> {
    match u16::from_be_bytes([*beginning.get(16)?, *beginning.get(17)?]) {
        1 => Some(1 << 16),
        size => (size.is_power_of_two() && size >= 512).then_some(size.into()),
    }
}

/// The checksum of a state whose pages are given in order: computed from what is read, where [`Pages`] follows what was
/// written.
#[derive(Debug)]
pub struct PageSum {
    page_size: usize,
    next: u32,
    free: HashSet<u32>,
    sum: u64,
}

impl PageSum {
    /// Of a database with pages of `page_size` bytes, of which those in `free` are on the free list.
    pub fn new(page_size: usize, free: Vec<u32>) -> Self {
        Self { page_size, next: 1, free: free.into_iter().collect(), sum: 0 }
    }

    /// Size of a page in bytes.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// How many pages there were so far.
    pub fn pages(&self) -> u64 {
        u64::from(self.next - 1)
    }

    /// The next pages, whole.
    pub fn add(&mut self, pages: &[u8]) {
        for content in pages.chunks_exact(self.page_size) {
            let page = self.next;
            self.next += 1;
            if page != lock_byte_page(self.page_size) && !self.free.contains(&page) {
                self.sum = self.sum.wrapping_add(hash(page, content));
            }
        }
    }

    /// The checksum, after the last page.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

/// Page that SQLite never uses: it holds the lock bytes at 1 GiB.
pub fn lock_byte_page(page_size: usize) -> u32 {
    ((1_u64 << 30) / page_size as u64) as u32 + 1
}

/// Hashes of all pages of the present database, shared by the writer and the thread that reads the pages.
pub struct Pages {
    inner: Mutex<Inner>,
    damage: watch::Sender<Option<Damage>>,
}

#[derive(Default)]
struct Inner {
    /// Counts databases: what is found in an earlier one says nothing of the present one.
    database: u64,
    /// Of page n at n - 1; 0 is not known.
    hashes: Vec<u64>,
    sum: u64,
    freelist: Freelist,
    /// Sum of the hashes of the pages on the free list, if known.
    free_sum: Option<u64>,
    /// Every page that counts is known.
    complete: bool,
    /// While a range is read: pages that were changed since, with what they were.
    changed: Option<HashMap<u32, u64>>,
    recent: VecDeque<Checksum>,
    /// Those at multiples of [`STRIDE`], also of the entries in `recent`.
    strides: VecDeque<Checksum>,
}

impl Inner {
    fn set(&mut self, page: u32, hash: u64) {
        let Some(at) = (page as usize).checked_sub(1) else { return };
        let Some(known) = self.hashes.get_mut(at) else { return };
        if let Some(changed) = &mut self.changed {
            changed.entry(page).or_insert(*known);
        }
        self.sum = self.sum.wrapping_sub(*known).wrapping_add(hash);
        *known = hash;
    }

    fn resize(&mut self, size: u32) {
        for page in size + 1..=self.hashes.len() as u32 {
            self.set(page, 0);
        }
        self.hashes.resize(size as usize, 0);
    }
}

fn push(kept: &mut VecDeque<Checksum>, at_most: usize, checksum: Checksum) {
    if kept.len() == at_most {
        kept.pop_front();
    }
    kept.push_back(checksum);
}

impl Default for Pages {
    fn default() -> Self {
        Self { inner: Mutex::default(), damage: watch::Sender::new(None) }
    }
}

impl Pages {
    /// The database is another one now, or what was changed in it is not known: all begins anew.
    pub fn reset(&self, size: u32, freelist: Freelist) {
        let mut inner = self.inner.lock();
        *inner = Inner { database: inner.database + 1, freelist, ..Inner::default() };
        inner.resize(size);
        self.damage.send_replace(None);
    }

    /// Which database it is: what is found in an earlier one says nothing of the present one.
    pub fn database(&self) -> u64 {
        self.inner.lock().database
    }

    /// A page of that database cannot be read.
    pub fn unreadable(&self, database: u64, page: u32) {
        let inner = self.inner.lock();
        // Under the lock: a reset that comes in between forgets it.
        if inner.database == database {
            tracing::error!(page, "a page of the database cannot be read");
            self.damaged(page);
        }
    }

    fn damaged(&self, page: u32) {
        self.damage.send_if_modified(|damage| {
            let first = damage.is_none();
            damage.get_or_insert(Damage { page });
            first
        });
    }

    /// How many pages the database has after the last commit.
    pub fn count(&self) -> u32 {
        self.inner.lock().hashes.len() as u32
    }

    /// A transaction changed pages.
    pub fn committed(&self, committed: &Committed) {
        if committed.pages.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        inner.resize(committed.size);
        for (page, hash) in &committed.pages {
            inner.set(*page, *hash);
        }
        if let Some(freelist) = committed.freelist {
            inner.freelist = freelist;
            inner.free_sum = None;
        }
    }

    /// Notes the checksum after entry `index`, if it is known. `walk` lists the pages of a free list; it is called only
    /// where that is worth it, or if `now` asks for it.
    pub fn record<E>(
        &self,
        index: u64,
        now: bool,
        walk: impl FnOnce(Freelist) -> Result<Vec<u32>, E>,
    ) -> Result<Option<Checksum>, E> {
        let mut inner = self.inner.lock();
        if !inner.complete {
            return Ok(None);
        }
        let free_sum = match inner.free_sum {
            Some(sum) => sum,
            None if inner.freelist.count == 0 => 0,
            None if !now && !index.is_multiple_of(STRIDE) => return Ok(None),
            None => {
                let hashes = &inner.hashes;
                walk(inner.freelist)?
                    .into_iter()
                    .filter_map(|page| hashes.get((page as usize).checked_sub(1)?))
                    .fold(0_u64, |sum, hash| sum.wrapping_add(*hash))
            }
        };
        inner.free_sum = Some(free_sum);
        let checksum = Checksum { index, sum: inner.sum.wrapping_sub(free_sum) };
        if inner.recent.back().is_none_or(|last| last.index < index) {
            push(&mut inner.recent, KEPT, checksum);
            if index.is_multiple_of(STRIDE) {
                push(&mut inner.strides, KEPT_STRIDES, checksum);
            }
        }
        Ok(Some(checksum))
    }

    /// Checksums after the entries applied last, oldest first, and of some before.
    pub fn recent(&self) -> Vec<Checksum> {
        let inner = self.inner.lock();
        let first = inner.recent.front().map_or(0, |checksum| checksum.index);
        inner.strides.iter().filter(|checksum| checksum.index < first).chain(&inner.recent).copied().collect()
    }

    /// The newest of them.
    pub fn last(&self) -> Option<Checksum> {
        self.inner.lock().recent.back().copied()
    }

    /// Whether the checksum is known.
    pub fn is_complete(&self) -> bool {
        self.inner.lock().complete
    }

    /// The first page that was found damaged.
    pub fn damage(&self) -> watch::Receiver<Option<Damage>> {
        self.damage.subscribe()
    }

    /// Pages are about to be read in the state of this moment; returns which database it is and its size in pages.
    pub fn begin_range(&self) -> (u64, u32) {
        let mut inner = self.inner.lock();
        inner.changed = Some(HashMap::new());
        (inner.database, inner.hashes.len() as u32)
    }

    /// A page was read: compares it, or learns it. Returns false if the database is another one by now.
    pub fn read(&self, database: u64, page: u32, hash: u64) -> bool {
        let mut inner = self.inner.lock();
        if inner.database != database {
            return false;
        }
        let Some(known) = inner.hashes.get(page as usize - 1).copied() else { return true };
        let changed = inner.changed.as_ref().and_then(|changed| changed.get(&page).copied());
        match changed.unwrap_or(known) {
            0 if changed.is_none() => inner.set(page, hash),
            0 => {}
            expected if expected != hash => {
                drop(inner);
                tracing::error!(page, "a page of the database is not what was written there");
                self.damaged(page);
            }
            _ => {}
        }
        true
    }

    /// The pages of a range were read; `all` if it was the last one.
    pub fn end_range(&self, database: u64, all: bool) {
        let mut inner = self.inner.lock();
        inner.changed = None;
        if all && inner.database == database && !inner.complete {
            inner.complete = true;
            // Pages on the free list may have become known.
            inner.free_sum = None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::observe::Observe as _;
    use std::convert::Infallible;

    fn committed(size: u32, pages: &[(u32, u64)]) -> Committed {
        Committed { size, pages: pages.iter().copied().collect(), freelist: None }
    }

    fn sum(pages: &Pages, index: u64) -> Option<u64> {
        pages.record(index, true, |_| Ok::<_, Infallible>(vec![3])).unwrap().map(|c| c.sum)
    }

    #[test]
    fn what_is_read_and_what_is_written_meet() {
        let pages = Pages::default();
        pages.reset(3, Freelist::default());
        let (database, size) = pages.begin_range();
        assert_eq!((size, sum(&pages, 1)), (3, None));
        // Page 2 is changed after the state that is read; page 4 is new.
        pages.committed(&committed(4, &[(2, 20), (4, 40)]));
        for (page, hash) in [(1, 10), (2, 99), (3, 30)] {
            assert!(pages.read(database, page, hash));
        }
        pages.end_range(database, true);
        assert_eq!(sum(&pages, 1), Some(100));
        pages.committed(&committed(2, &[(1, 11)]));
        assert_eq!(sum(&pages, 2), Some(31));
        assert_eq!(pages.recent().iter().map(|c| c.index).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(pages.damage().current(), None);

        let (database, _) = pages.begin_range();
        pages.committed(&committed(2, &[(1, 12)]));
        assert!(pages.read(database, 1, 11), "the state that is read is the one before");
        assert!(pages.read(database, 2, 21));
        assert_eq!(pages.damage().current(), Some(Damage { page: 2 }));
        pages.reset(1, Freelist::default());
        assert!(!pages.read(database, 1, 1));
        assert_eq!(pages.damage().current(), None);
    }

    #[test]
    fn a_page_that_cannot_be_read_is_damage_of_the_database_that_it_is_of() {
        let pages = Pages::default();
        pages.reset(2, Freelist::default());
        let before = pages.database();
        pages.reset(2, Freelist::default());
        pages.unreadable(before, 2);
        assert_eq!(pages.damage().current(), None, "another database took its place");
        pages.unreadable(pages.database(), 2);
        pages.unreadable(pages.database(), 1);
        assert_eq!(pages.damage().current(), Some(Damage { page: 2 }), "the first one found");
    }

    #[test]
    fn free_pages_do_not_count() {
        let pages = Pages::default();
        pages.reset(3, Freelist { first: 3, count: 1 });
        let (database, _) = pages.begin_range();
        for (page, hash) in [(1, 10), (2, 20), (3, 77)] {
            pages.read(database, page, hash);
        }
        pages.end_range(database, true);
        let never = |_| -> Result<Vec<u32>, Infallible> { panic!("walked without need") };
        assert_eq!(pages.record(1, false, never).unwrap(), None);
        assert_eq!(sum(&pages, 64), Some(30));
        assert_eq!(pages.record(65, false, never).unwrap().unwrap().sum, 30);
    }
}
