//! Everything the log knows except payloads: small enough to open every segment with it.

use bytes::Bytes;

use crate::OrderError;

/// The state after a prefix of the record stream. The same rules apply to records when they are submitted, when they
/// are written and when they are replayed, so the three can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogState {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    /// Index of the last purged entry and its opaque log id.
    pub purged: Option<(u64, Bytes)>,
    /// Index of the first entry present, if `first < next`.
    pub first: u64,
    /// Index after the last entry.
    pub next: u64,
}

impl LogState {
    pub(crate) fn is_empty(&self) -> bool {
        self.first == self.next
    }

    pub(crate) fn first_index(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.first)
    }

    pub(crate) fn last_index(&self) -> Option<u64> {
        (!self.is_empty()).then(|| self.next - 1)
    }

    /// Adds an entry. An empty log that was never purged has no expectation and starts at any index.
    pub(crate) fn append(&mut self, index: u64) -> Result<(), OrderError> {
        if index == u64::MAX {
            return Err(OrderError::IndexOutOfRange(index));
        }
        if self.is_empty() && self.purged.is_none() {
            self.first = index;
        } else if index != self.next {
            return Err(OrderError::Gap { expected: self.next, found: index });
        }
        self.next = index + 1;
        Ok(())
    }

    /// Checks a truncation without doing it.
    pub(crate) fn check_truncate(&self, next: u64) -> Result<(), OrderError> {
        match &self.purged {
            Some((purged, _)) if next <= *purged => {
                Err(OrderError::TruncatesPurged { next, purged: *purged })
            }
            _ => Ok(()),
        }
    }

    /// Drops the entries from `next` on.
    pub(crate) fn truncate(&mut self, next: u64) -> Result<(), OrderError> {
        self.check_truncate(next)?;
        if next > self.first {
            self.next = self.next.min(next);
        } else if let Some((purged, _)) = &self.purged {
            (self.first, self.next) = (purged + 1, purged + 1);
        } else {
            self.next = self.first;
        }
        Ok(())
    }

    /// Whether a purge would change anything: the purge point never moves back.
    pub(crate) fn would_purge(&self, upto: u64) -> bool {
        self.purged.as_ref().is_none_or(|(purged, _)| upto > *purged)
    }

    /// Drops the entries up to `upto`; beyond the last entry it empties the log, which goes on at `upto + 1`.
    pub(crate) fn purge(&mut self, upto: u64, id: Bytes) -> Result<(), OrderError> {
        if upto == u64::MAX {
            return Err(OrderError::IndexOutOfRange(upto));
        }
        if self.would_purge(upto) {
            // An empty log goes on behind the purge point, whatever had been truncated from it before.
            let was_empty = self.is_empty();
            self.purged = Some((upto, id));
            self.first = self.first.max(upto + 1);
            if was_empty || self.next <= upto {
                self.first = upto + 1;
                self.next = upto + 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with_entries(range: std::ops::Range<u64>) -> LogState {
        let mut state = LogState::default();
        for index in range {
            state.append(index).unwrap();
        }
        state
    }

    #[test]
    fn appends_are_contiguous() {
        let mut state = with_entries(5..8);
        assert_eq!((state.first_index(), state.last_index()), (Some(5), Some(7)));
        assert_eq!(state.append(9), Err(OrderError::Gap { expected: 8, found: 9 }));
        assert_eq!(state.append(7), Err(OrderError::Gap { expected: 8, found: 7 }));
        assert_eq!(LogState::default().append(u64::MAX), Err(OrderError::IndexOutOfRange(u64::MAX)));
    }

    #[test]
    fn truncation_keeps_what_is_below() {
        let mut state = with_entries(5..8);
        state.truncate(20).unwrap();
        assert_eq!(state.next, 8);
        state.truncate(6).unwrap();
        assert_eq!(state.last_index(), Some(5));
        state.truncate(0).unwrap();
        assert!(state.is_empty());
        state.append(1).unwrap();
        assert_eq!(state.first_index(), Some(1));
    }

    #[test]
    fn a_purge_never_moves_back_and_may_pass_the_end() {
        let mut state = with_entries(0..8);
        state.purge(3, Bytes::from_static(b"a")).unwrap();
        state.purge(2, Bytes::from_static(b"b")).unwrap();
        assert_eq!((state.first, state.next, state.purged.clone().unwrap().0), (4, 8, 3));
        assert_eq!(state.truncate(3), Err(OrderError::TruncatesPurged { next: 3, purged: 3 }));
        state.truncate(4).unwrap();
        assert!(state.is_empty());
        assert!(state.append(5).is_err());
        state.purge(100, Bytes::new()).unwrap();
        assert!(state.append(100).is_err());
        state.append(101).unwrap();
        assert_eq!(state.first_index(), Some(101));
    }

    #[test]
    fn a_purge_of_an_empty_log_sets_the_next_index() {
        let mut state = with_entries(7..9);
        state.truncate(0).unwrap();
        state.purge(2, Bytes::new()).unwrap();
        state.append(3).unwrap();
        assert_eq!((state.first, state.next), (3, 4));
    }
}
