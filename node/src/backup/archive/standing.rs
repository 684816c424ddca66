//! How the archive is doing, as its leader says it.

use super::super::catalogue::{Hole, time_text};
use client::backup::{ArchiveReport, ArchiveState};
use std::time::Duration;
use tokio::time::Instant;

const NO_BASE: &str = "the archive has no base backup yet";
const LOOKS: &str = "a leader has just taken over, and looks up where the archive ends";

/// What waits to be archived, as far as is known.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// When the oldest entry that waits was written; now, if none does.
    pub since: Instant,
    /// Everything up to this moment is archived, in microseconds since 1970; 0 if that is not known.
    pub archived_us: i64,
}

impl Waiting {
    /// Of a member that knows nothing.
    pub fn unknown() -> Self {
        Self { since: Instant::now(), archived_us: 0 }
    }
}

/// How the archive is doing.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Since when this member leads.
    led_since: Instant,
    /// Where the archive ends was read. Until then all that is known of it was heard from the leader before.
    pub is_found: bool,
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
    /// Of a leader that has not looked yet where the archive ends, and heard that this waits.
    pub fn heard(waiting: Waiting) -> Self {
        Self {
            led_since: Instant::now(),
            is_found: false,
            caught_up_at: waiting.since,
            archived_us: waiting.archived_us,
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
            // From some moment on, which the leader before knew.
            (None, None) if !self.is_found => self.archived_us,
            (None, None) => 0,
        }
    }

    /// For how long this member has led.
    pub fn led(&self) -> Duration {
        self.led_since.elapsed()
    }

    /// What is told of it, where it may be `target` behind and is `lag`, as far as is known, after this member has `led` for
    /// so long. Of an archive that `ends`, because its leader goes down, its end is told even if it is on target.
    pub fn report(&self, target: Duration, lag: Duration, led: Duration, ends: bool) -> ArchiveReport {
        let state = match (&self.hole, self.earliest_us) {
            (Some(_), _) => ArchiveState::Broken,
            // What was heard is some seconds old: the archive may have more.
            _ if !self.is_found && led <= target => ArchiveState::Starting,
            _ if lag > target => ArchiveState::Behind,
            (None, None) => ArchiveState::Starting,
            (None, Some(_)) => ArchiveState::OnTarget,
        };
        let is_well = state == ArchiveState::OnTarget;
        let reached_us = self.reached_us();
        let looks = (state == ArchiveState::Starting).then_some(if self.is_found { NO_BASE } else { LOOKS });
        let hole = self.hole.as_ref().map(|hole| &hole.message);
        let message = hole.or(self.trouble.as_ref()).cloned().or(looks.map(str::to_owned));
        ArchiveReport {
            state,
            earliest: self.earliest_us.map(time_text),
            latest: ((ends || !is_well) && reached_us > 0).then(|| time_text(reached_us)),
            taking_over: !self.is_found,
            message: message.filter(|_| !is_well),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_an_archive() {
        use ArchiveState as S;
        let seconds = Duration::from_secs;
        let (target, now) = (seconds(5), Waiting { archived_us: 7_000_000, ..Waiting::unknown() });
        let heard = Standing::heard(now);
        let unknown = Standing::heard(Waiting::unknown());
        let without_base = Standing { is_found: true, ..heard.clone() };
        let sound = Standing { earliest_us: Some(3_000_000), ..without_base.clone() };
        let mut broken = sound.clone();
        broken.break_before(40, "entries 30 to 39".into());
        let archived_on = Standing { archived_us: 9_000_000, ..broken.clone() };
        let mut broken_again = archived_on.clone();
        broken_again.break_before(60, "entries 50 to 59".into());
        let mut closed = archived_on.clone();
        closed.reach_from(Some(8_000_000));
        let (earliest, end) = (Some(3), Some(7));
        // (standing, lag, led) → state, earliest, latest, whether it says that it takes over.
        for (what, standing, lag, led, state, first, latest, taking_over) in [
            ("heard", &heard, 0, 1, S::Starting, None, end, true),
            ("heard that it waits", &heard, 12, 1, S::Starting, None, end, true),
            ("does not get to read", &heard, 12, 6, S::Behind, None, end, true),
            ("does not get to read, and nothing waits", &heard, 0, 600, S::Starting, None, end, true),
            ("heard nothing", &unknown, 6, 6, S::Behind, None, None, true),
            ("no base", &without_base, 0, 1, S::Starting, None, None, false),
            ("no base, and behind", &without_base, 6, 1, S::Behind, None, None, false),
            ("sound", &sound, 5, 1, S::OnTarget, earliest, None, false),
            ("behind", &sound, 6, 1, S::Behind, earliest, end, false),
            ("a hole", &broken, 0, 1, S::Broken, None, end, false),
            ("what comes after a hole is not reached", &archived_on, 0, 1, S::Broken, None, end, false),
            ("nor after another one", &broken_again, 0, 1, S::Broken, None, end, false),
            ("a base after it", &closed, 0, 1, S::OnTarget, Some(8), None, false),
        ] {
            let report = standing.report(target, seconds(lag), seconds(led), false);
            let text = |second: Option<i64>| second.map(|second| time_text(second * 1_000_000));
            assert_eq!(
                (report.state, &report.earliest, &report.latest, report.taking_over),
                (state, &text(first), &text(latest), taking_over),
                "{what}: {report:?}"
            );
            assert_eq!(report.message.is_some(), state == S::Starting || state == S::Broken, "{what}");
        }
        let ended = sound.report(target, seconds(0), seconds(1), true);
        assert_eq!((ended.state, ended.latest), (S::OnTarget, Some(time_text(7_000_000))));
        assert!(!broken.is_closed_by(38) && broken.is_closed_by(39) && !broken_again.is_closed_by(39));
    }
}
