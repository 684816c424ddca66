//! When a checkpoint is due, and how much others have to give way to it; by pages in the WAL.

use super::checkpoint::DUE_PAGES;

/// A checkpoint is insisted on when the WAL is larger than its limit by this part of it, and again after as much.
const INSIST_EACH: u64 = 4;

/// What a checkpoint that is due may ask of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgency {
    /// Members that read the file as a staged one are waited for.
    pub waits: bool,
    /// Queries are kept from beginning, so that it is complete.
    pub insists: bool,
}

/// Says when the next checkpoint is due.
#[derive(Debug)]
pub struct CheckpointSchedule {
    /// Pages in the WAL at which the next one is due.
    due: u64,
    /// Pages in the WAL when the last one ended.
    tried: u64,
    /// Pages in the WAL from which on one is insisted on; known once the WAL has reached its limit.
    insists_from: Option<u64>,
}

impl CheckpointSchedule {
    /// Of a WAL that begins; the first one is due at `pages`.
    pub fn first_at(pages: u64) -> Self {
        Self { due: pages, tried: 0, insists_from: None }
    }

    /// Takes notice of so many pages in the WAL; returns whether a checkpoint is due.
    pub fn is_due(&mut self, pages: u64) -> bool {
        if pages < self.tried {
            // The WAL has started anew.
            *self = Self::first_at(DUE_PAGES);
        }
        pages >= self.due
    }

    /// One begins, of a WAL that may have `limit` pages.
    pub fn begin(&mut self, pages: u64, limit: u64) -> Urgency {
        let insists = self.insists_from.is_some_and(|from| pages >= from);
        if insists {
            // Where it comes to nothing, because a copy of the state is being read, queries are not held up at each of the next.
            self.insists_from = Some(pages + limit / INSIST_EACH);
        }
        Urgency { waits: pages < limit, insists }
    }

    /// One has ended, complete or not. A reader that keeps the WAL from starting anew must not make each commit a
    /// checkpoint. Returns whether readers that run for long have to give way.
    pub fn ended(&mut self, pages: u64, limit: u64) -> bool {
        self.tried = pages;
        self.due = pages + DUE_PAGES;
        let is_full = pages >= limit;
        if is_full {
            self.insists_from.get_or_insert(pages + limit / INSIST_EACH);
        }
        is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 16 * DUE_PAGES;

    #[test]
    fn a_checkpoint_is_due_for_each_16_mib() {
        let mut schedule = CheckpointSchedule::first_at(DUE_PAGES);
        assert!(!schedule.is_due(DUE_PAGES - 1));
        assert!(schedule.is_due(DUE_PAGES));
        assert_eq!(schedule.begin(DUE_PAGES, LIMIT), Urgency { waits: true, insists: false });
        assert!(!schedule.ended(DUE_PAGES + 5, LIMIT));
        assert!(!schedule.is_due(DUE_PAGES + 6), "it was not complete, and not all it could do is done");
        assert!(schedule.is_due(2 * DUE_PAGES + 5));
        assert!(!schedule.is_due(3), "the WAL has started anew");
        assert!(schedule.is_due(DUE_PAGES));
    }

    #[test]
    fn it_is_insisted_on_a_quarter_beyond_the_limit_and_again_after_as_much() {
        let mut schedule = CheckpointSchedule::first_at(DUE_PAGES);
        let (mut full, mut insisted) = (Vec::new(), Vec::new());
        for step in 1..=28 {
            let pages = step * DUE_PAGES;
            assert!(schedule.is_due(pages));
            let urgency = schedule.begin(pages, LIMIT);
            assert_eq!(urgency.waits, pages < LIMIT);
            insisted.extend(urgency.insists.then_some(step));
            full.extend(schedule.ended(pages, LIMIT).then_some(step));
        }
        assert_eq!((full.first(), full.len()), (Some(&16), 13));
        assert_eq!(insisted, [20, 24, 28]);
        schedule.is_due(1);
        assert!(!schedule.begin(40 * DUE_PAGES, LIMIT).insists, "the WAL has started anew since");
    }
}
