//! Where the entries are: 16 bytes per entry that is not purged.

use std::collections::VecDeque;

use crate::frame::ALIGN;

/// The place of one entry's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Counter of the segment.
    pub segment: u32,
    /// Offset in units of [`ALIGN`]: 32 bits reach 32 GiB.
    offset_units: u32,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// Check of the frame. It covers generation and sequence, so no other frame can pass for this one.
    pub check: u32,
}

impl Slot {
    pub(crate) fn new(segment: u32, offset: u64, payload_len: u32, check: u32) -> Self {
        Self { segment, offset_units: (offset / ALIGN) as u32, payload_len, check }
    }

    /// Offset of the frame in bytes.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.offset_units) * ALIGN
    }
}

/// Slots of a contiguous range of entries, changed only in the order of the stream.
#[derive(Debug, Default)]
pub(crate) struct Index {
    start: u64,
    slots: VecDeque<Slot>,
}

impl Index {
    /// An index that expects `next` and knows nothing below.
    pub(crate) fn starting_at(next: u64) -> Self {
        Self { start: next, slots: VecDeque::new() }
    }

    /// The first index from which on every entry has a slot.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Adds the slot of the entry that follows.
    pub(crate) fn push(&mut self, index: u64, slot: Slot) {
        if self.slots.is_empty() {
            self.start = index;
        }
        self.slots.push_back(slot);
    }

    /// Forgets the entries from `next` on.
    pub(crate) fn truncate(&mut self, next: u64) {
        let keep = next.saturating_sub(self.start);
        self.slots.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.start = self.start.min(next);
    }

    /// Forgets the entries before `first`.
    pub(crate) fn purge(&mut self, first: u64) {
        let gone = first.saturating_sub(self.start);
        self.slots.drain(..self.slots.len().min(usize::try_from(gone).unwrap_or(usize::MAX)));
        self.start = self.start.max(first);
        if self.slots.capacity() > 1024 && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }

    /// The first entry of the longest tail whose payloads take at most `bytes`, at least the last entry.
    pub(crate) fn first_within(&self, bytes: u64) -> u64 {
        let mut total = 0;
        let kept = self.slots.iter().rev().take_while(|slot| {
            total += u64::from(slot.payload_len);
            total <= bytes
        });
        let kept = kept.count().max(1).min(self.slots.len());
        self.start + (self.slots.len() - kept) as u64
    }

    pub(crate) fn get(&self, index: u64) -> Option<Slot> {
        let at = usize::try_from(index.checked_sub(self.start)?).ok()?;
        self.slots.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(n: u32) -> Slot {
        Slot::new(1, u64::from(n) * 64, n, n)
    }

    #[test]
    fn a_tail_is_measured_by_its_payloads() {
        let mut index = Index::starting_at(5);
        assert_eq!(index.first_within(100), 5);
        for n in [10, 20, 30] {
            index.push(index.start() + index.len() as u64, slot(n));
        }
        assert_eq!([0, 29, 30, 49, 50, 59, 60].map(|bytes| index.first_within(bytes)), [7, 7, 7, 7, 6, 6, 5]);
    }

    #[test]
    fn slots_are_found_by_index() {
        let mut index = Index::starting_at(5);
        for n in 5..10 {
            index.push(u64::from(n), slot(n));
        }
        index.purge(7);
        index.truncate(9);
        assert_eq!((index.start(), index.len()), (7, 2));
        assert_eq!((index.get(6), index.get(8), index.get(9)), (None, Some(slot(8)), None));
        assert_eq!(index.get(8).map(|slot| slot.offset()), Some(512));
        index.purge(100);
        index.push(100, slot(1));
        assert_eq!(index.get(100), Some(slot(1)));
    }

    #[test]
    fn a_truncation_below_the_known_part_lowers_the_start() {
        let mut index = Index::starting_at(50);
        index.push(50, slot(1));
        index.truncate(20);
        assert_eq!((index.start(), index.len()), (20, 0));
        index.push(20, slot(2));
        assert_eq!(index.get(20), Some(slot(2)));
    }

    #[test]
    fn memory_is_given_back() {
        let mut index = Index::default();
        for n in 0..10_000 {
            index.push(n, slot(1));
        }
        index.purge(9_990);
        assert!(index.slots.capacity() < 1024);
        assert_eq!(size_of::<Slot>(), 16);
    }
}
