//! Recent payloads in memory: what Raft asks for most is what it has just appended.

use std::collections::VecDeque;

use bytes::Bytes;

/// Counted for every entry besides its payload.
const ENTRY_COST: usize = 64;

#[derive(Debug)]
struct Cached {
    /// Number of the submission that brought it: written once the flush thread has passed that number.
    submission: u64,
    payload: Bytes,
}

/// The last entries of the log. Entries that are not written yet are always here, because nowhere else are they.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    start: u64,
    entries: VecDeque<Cached>,
    bytes: usize,
}

impl Cache {
    /// An empty cache in front of the entry `next`.
    pub(crate) fn starting_at(next: u64) -> Self {
        Self { start: next, ..Self::default() }
    }

    /// Bytes held, counting a fixed cost per entry.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, index: u64, submission: u64, payload: Bytes) {
        if self.entries.is_empty() {
            self.start = index;
        }
        self.bytes += payload.len() + ENTRY_COST;
        self.entries.push_back(Cached { submission, payload });
    }

    pub(crate) fn truncate(&mut self, next: u64) {
        while self.start + self.entries.len() as u64 > next
            && let Some(cached) = self.entries.pop_back()
        {
            self.bytes -= cached.payload.len() + ENTRY_COST;
        }
        self.start = self.start.min(next);
    }

    pub(crate) fn purge(&mut self, first: u64) {
        while self.start < first && self.pop_front() {}
        self.start = self.start.max(first);
    }

    /// Drops the oldest entries until `limit` bytes are left, but none that was submitted after `written`.
    pub(crate) fn evict(&mut self, written: u64, limit: usize) {
        while self.bytes > limit
            && self.entries.front().is_some_and(|cached| cached.submission <= written)
            && self.pop_front()
        {}
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Bytes> {
        let at = usize::try_from(index.checked_sub(self.start)?).ok()?;
        self.entries.get(at).map(|cached| &cached.payload)
    }

    fn pop_front(&mut self) -> bool {
        let Some(cached) = self.entries.pop_front() else { return false };
        self.bytes -= cached.payload.len() + ENTRY_COST;
        self.start += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Cache {
        let mut cache = Cache::starting_at(10);
        for n in 10..20 {
            cache.push(n, n, Bytes::from(vec![0; 36]));
        }
        cache
    }

    #[test]
    fn eviction_spares_what_is_not_written() {
        let mut cache = filled();
        assert_eq!(cache.bytes(), 1000);
        cache.evict(12, 0);
        assert_eq!((cache.start, cache.bytes()), (13, 700));
        cache.evict(100, 250);
        assert_eq!((cache.start, cache.bytes()), (18, 200));
        assert!(cache.get(17).is_none());
        assert!(cache.get(18).is_some());
    }

    #[test]
    fn truncation_and_purge_keep_the_count() {
        let mut cache = filled();
        cache.truncate(15);
        cache.purge(12);
        assert_eq!((cache.start, cache.bytes()), (12, 300));
        cache.truncate(5);
        assert_eq!((cache.start, cache.bytes()), (5, 0));
        cache.push(5, 30, Bytes::new());
        cache.purge(50);
        assert_eq!((cache.start, cache.bytes()), (50, 0));
    }
}
