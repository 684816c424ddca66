//! Work beside requests that leaves them the processors: while writes are applied it is done in short steps, one at a time,
//! each followed by a rest as long as it took.
//!
//! A lower rank alone ([`crate::background`]) is not enough: it is among the threads of this member only, and the store's
//! server, the other members on the machine and the device of a virtual disk want their turn as well.

use crate::observe::Observe as _;
use crate::store::{State, Store};
use parking_lot::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Writes go on if the last one that was seen is no longer ago. Ten in a second are few, and what they wait for matters.
const RECENT: Duration = Duration::from_millis(100);

/// Who takes turns. All that is done for one backup shares one.
pub struct DutyCycle {
    state: watch::Receiver<State>,
    turn: Mutex<Seen>,
}

/// The last entry that was applied, and when it was seen to be another.
struct Seen {
    index: Option<u64>,
    at: Option<Instant>,
}

impl DutyCycle {
    /// Beside writes to `store`.
    pub fn beside(store: &Store) -> Self {
        let state = store.state();
        let index = state.observe(|state| state.applied.index());
        Self { state, turn: Mutex::new(Seen { index, at: None }) }
    }

    /// Does a step of some milliseconds, and rests as long where writes are applied. Blocks; `work` must not wait for
    /// anything, least of all for another step.
    pub fn step<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut turn = self.turn.lock();
        let index = self.state.observe(|state| state.applied.index());
        if !turn.is_recent(index, Instant::now()) {
            drop(turn);
            return work();
        }
        let begun = Instant::now();
        let done = work();
        // Nobody else works meanwhile.
        sleep(begun.elapsed());
        done
    }
}

impl Seen {
    /// Whether entries are being applied, if `index` is the last one `now`.
    fn is_recent(&mut self, index: Option<u64>, now: Instant) -> bool {
        if index != self.index {
            *self = Self { index, at: Some(now) };
        }
        self.at.is_some_and(|at| now - at <= RECENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_go_on_for_a_while_after_the_last_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut seen = Seen { index: Some(4), at: None };
        for (index, ms, expected) in [
            (Some(4), 0, false),
            (Some(5), 10, true),
            (Some(5), 110, true),
            (Some(5), 111, false),
            (Some(9), 500, true),
            (Some(9), 700, false),
            // Another database, by a snapshot or a restore.
            (Some(2), 701, true),
        ] {
            assert_eq!(seen.is_recent(index, at(ms)), expected, "{index:?} after {ms} ms");
        }
    }
}
