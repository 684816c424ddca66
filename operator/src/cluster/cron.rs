//! When something is due that comes again and again: a backup, a maintenance window. Pure: the time is given.
//!
//! An expression that names its hours means the clock on the wall: what falls into the hour that is skipped in spring is
//! due right after it, and what falls into the hour that comes twice in autumn is due once. One that runs through all hours
//! means time that passes, and goes on through both changes.

use cronexpr::{Crontab, MakeTimestamp};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Longer than any change of a clock.
const CHANGE: SignedDuration = SignedDuration::from_hours(3);
/// An expression that has nothing in this time is not looked through further back.
const LOOK_BACK_HOURS: [i64; 6] = [1, 24, 24 * 8, 24 * 32, 24 * 367, 24 * 366 * 5];

/// An expression cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum CronError {
    /// The expression.
    #[error("`{cron}`: {source}")]
    Expression {
        /// What was written.
        cron: String,
        /// What is wrong with it.
        #[source]
        source: cronexpr::Error,
    },
    /// The time zone.
    #[error("time zone {time_zone}: {source}")]
    TimeZone {
        /// What was written.
        time_zone: String,
        /// What is wrong with it.
        #[source]
        source: jiff::Error,
    },
}

/// Times that are due.
#[derive(Clone, Debug)]
pub struct Cron {
    times: Crontab,
    /// Whether `times` are to be read as a clock on the wall shows them, as though it were in UTC.
    by_the_wall: bool,
    zone: TimeZone,
}

impl Cron {
    /// The times of an expression of five fields in a time zone of the IANA database.
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, CronError> {
        let zone = TimeZone::get(time_zone)
            .map_err(|source| CronError::TimeZone { time_zone: time_zone.to_owned(), source })?;
        let by_the_wall = cron.split_whitespace().nth(1).is_some_and(|hours| !hours.starts_with('*'));
        let read_in = if by_the_wall { "UTC" } else { time_zone };
        let times = cronexpr::parse_crontab(&format!("{cron} {read_in}"))
            .map_err(|source| CronError::Expression { cron: cron.to_owned(), source })?;
        Ok(Self { times, by_the_wall, zone })
    }

    /// The first time after `at`. None: never, as on the 30th of February.
    pub fn after(&self, at: Timestamp) -> Option<Timestamp> {
        if !self.by_the_wall {
            return self.next(at);
        }
        // The wall's time as though it were in UTC, from a little earlier: it may have been set in between.
        let wall = |at: Timestamp| TimeZone::UTC.to_timestamp(self.zone.to_datetime(at)).ok();
        let mut candidate = wall(at.checked_sub(CHANGE).ok()?)?;
        loop {
            candidate = self.next(candidate)?;
            let shown = TimeZone::UTC.to_datetime(candidate);
            let due = self.zone.to_ambiguous_timestamp(shown).compatible().ok()?;
            if due > at {
                return Some(due);
            }
        }
    }

    fn next(&self, at: Timestamp) -> Option<Timestamp> {
        self.times.find_next(MakeTimestamp(at)).ok().map(|next| next.timestamp())
    }

    /// The last time after `from` and not after `now`.
    pub fn last(&self, from: Timestamp, now: Timestamp) -> Option<Timestamp> {
        for hours in LOOK_BACK_HOURS {
            let start = now.checked_sub(SignedDuration::from_hours(hours)).unwrap_or(from).max(from);
            let mut last = None;
            let mut at = start;
            while let Some(due) = self.after(at).filter(|due| *due <= now) {
                last = Some(due);
                at = due;
            }
            if last.is_some() || start == from {
                return last;
            }
        }
        None
    }

    /// The calendar day on which a moment is, in the time zone.
    pub fn day(&self, at: Timestamp) -> jiff::civil::Date {
        self.zone.to_datetime(at).date()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(cron: &str, zone: &str) -> Cron {
        Cron::parse(cron, zone).unwrap()
    }

    /// By the clocks of Berlin: an expression, a moment, and the three times that follow it.
    #[track_caller]
    fn assert_series(cases: &[(&str, &str, [&str; 3])]) {
        for (expression, from, wanted) in cases {
            let cron = cron(expression, "Europe/Berlin");
            let times = std::iter::successors(from.parse().ok(), |at| cron.after(*at));
            let found: Vec<String> = times.skip(1).take(3).map(|time| time.to_string()).collect();
            assert_eq!(found, wanted, "{expression} from {from}");
        }
    }

    /// On 29 March 2026 two o'clock is three o'clock, on 25 October three o'clock is two o'clock once more.
    #[test]
    fn the_clocks_of_berlin_change() {
        let (spring, autumn) = ("2026-03-27T20:00:00Z", "2026-10-23T20:00:00Z");
        assert_series(&[
            ("15 1 * * *", spring, ["2026-03-28T00:15:00Z", "2026-03-29T00:15:00Z", "2026-03-29T23:15:00Z"]),
            ("30 2 * * *", spring, ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]),
            ("0 3 * * *", spring, ["2026-03-28T02:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"]),
            ("15 1 * * *", autumn, ["2026-10-23T23:15:00Z", "2026-10-24T23:15:00Z", "2026-10-26T00:15:00Z"]),
            ("30 2 * * *", autumn, ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
            ("0 3 * * *", autumn, ["2026-10-24T01:00:00Z", "2026-10-25T02:00:00Z", "2026-10-26T02:00:00Z"]),
        ]);
        // What runs through all hours is due every hour that passes, whatever the clocks show.
        let (spring, autumn) = ("2026-03-29T00:00:00Z", "2026-10-25T00:00:00Z");
        assert_series(&[
            ("30 * * * *", spring, ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"]),
            ("30 * * * *", autumn, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]),
        ]);
    }

    #[test]
    fn the_last_time_is_found_over_any_gap() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for (expression, from, now, wanted) in [
            ("* * * * *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:30Z", Some("2026-01-01T00:00:00Z")),
            ("0 4 1 1 *", "2020-01-01T00:00:00Z", "2025-12-31T00:00:00Z", Some("2025-01-01T04:00:00Z")),
            ("0 4 * * *", "2026-01-02T04:00:00Z", "2026-01-03T03:59:59Z", None),
            ("0 4 * * *", "2026-01-02T03:59:59Z", "2026-01-02T04:00:00Z", Some("2026-01-02T04:00:00Z")),
            ("0 4 30 2 *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z", None),
        ] {
            let last = cron(expression, "UTC").last(at(from), at(now)).map(|time| time.to_string());
            assert_eq!(last.as_deref(), wanted, "{expression} from {from}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        assert!(Cron::parse("0 3 * *", "UTC").is_err());
        assert!(Cron::parse("61 3 * * *", "UTC").is_err());
        assert!(Cron::parse("0 3 * * *", "Mars/Olympus").is_err());
    }
}
