//! How the archive is doing, as its leader says it.

use super::super::catalogue::{Hole, time_text};
use client::backup::{ArchiveReport, ArchiveState};
use std::time::Duration;
use tokio::time::Instant;

/// How the archive is doing.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The last moment at which everything that was applied was archived.
    pub caught_up_at: Instant,
    /// Clock of the last archived entry, in microseconds since 1970.
    pub archived_us: i64,
    /// Clock of the first moment that can be reached without a hole since; none before there is a base backup.
    pub earliest_us: Option<i64>,
    /// From this entry on nothing is missing up to where the archive goes on; none before it was looked up.
    pub unbroken_from: Option<u64>,
    /// There is a hole before that, which the next base backup of what comes after it closes.
    pub hole: Option<Hole>,
    /// Why it did not get on last.
    pub trouble: Option<String>,
}

impl Standing {
    /// Of a leader that has not looked yet.
    pub fn new() -> Self {
        let caught_up_at = Instant::now();
        Self {
            caught_up_at,
            archived_us: 0,
            earliest_us: None,
            unbroken_from: None,
            hole: None,
            trouble: None,
        }
    }

    /// Entries before `next` are missing. What could be reached before an earlier hole that is still open stays the last.
    pub fn break_before(&mut self, next: u64, message: String) {
        let reached_us = self.reached_us();
        self.hole = Some(Hole { message, reached_us });
        self.earliest_us = None;
        self.unbroken_from = Some(next);
    }

    /// The first moment that can be reached without a hole since, if there is one: what is missing is before it then.
    pub fn reach_from(&mut self, earliest_us: Option<i64>) {
        self.earliest_us = earliest_us;
        if earliest_us.is_some() {
            self.hole = None;
        }
    }

    /// Whether a base backup after entry `index` is one to which what is archived from now on belongs.
    pub fn is_closed_by(&self, index: u64) -> bool {
        self.unbroken_from.is_none_or(|from| index + 1 >= from)
    }

    /// Clock of the last moment that can be reached, in microseconds since 1970; 0 if none can.
    fn reached_us(&self) -> i64 {
        match (&self.hole, self.earliest_us) {
            (Some(hole), _) => hole.reached_us,
            (None, Some(earliest)) => self.archived_us.max(earliest),
            (None, None) => 0,
        }
    }

    /// What is told of it, where it may be `target` behind and is `lag`.
    pub fn report(&self, target: Duration, lag: Duration) -> ArchiveReport {
        let state = match (&self.hole, self.earliest_us) {
            (Some(_), _) => ArchiveState::Broken,
            _ if lag > target => ArchiveState::Behind,
            (None, None) => ArchiveState::Starting,
            (None, Some(_)) => ArchiveState::OnTarget,
        };
        let is_well = state == ArchiveState::OnTarget;
        let reached_us = self.reached_us();
        let hole = self.hole.as_ref().map(|hole| &hole.message);
        ArchiveReport {
            state,
            earliest: self.earliest_us.map(time_text),
            latest: (!is_well && reached_us > 0).then(|| time_text(reached_us)),
            message: if is_well { None } else { hole.or(self.trouble.as_ref()).cloned() },
        }
    }
}
