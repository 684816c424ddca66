//! When this member last heard its leader: how stale a read without a leader may be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The moment of the last append or heartbeat that was accepted from a leader.
#[derive(Debug)]
pub struct LeaderContact {
    origin: Instant,
    /// Nanoseconds after `origin`; 0: never.
    at: AtomicU64,
}

impl Default for LeaderContact {
    fn default() -> Self {
        Self { origin: Instant::now(), at: AtomicU64::new(0) }
    }
}

impl LeaderContact {
    /// The leader was heard now.
    pub fn heard(&self) {
        let now = self.origin.elapsed().as_nanos().max(1) as u64;
        self.at.fetch_max(now, Ordering::Relaxed);
    }

    /// How long ago the leader was heard; none if it never was.
    pub fn silence(&self) -> Option<Duration> {
        match self.at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(self.origin.elapsed().saturating_sub(Duration::from_nanos(at))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn silence_begins_with_the_last_word() {
        let contact = LeaderContact::default();
        assert_eq!(contact.silence(), None);
        contact.heard();
        let first = contact.silence().unwrap();
        contact.heard();
        assert!(first < Duration::from_secs(5) && contact.silence().unwrap() < Duration::from_secs(5));
    }
}
