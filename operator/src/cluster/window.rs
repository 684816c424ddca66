//! Maintenance windows: spans of time in which restarts may begin. Pure: the time is given.

use super::cron::{Cron, CronError};
use crate::crd::MaintenanceWindow;
use jiff::{SignedDuration, Timestamp};

/// A span of time that comes again and again.
#[derive(Clone, Debug)]
pub struct Window {
    begins: Cron,
    open_for: SignedDuration,
}

impl Window {
    /// The window that the spec describes.
    pub fn parse(spec: &MaintenanceWindow) -> Result<Self, CronError> {
        let begins = Cron::parse(&spec.cron, &spec.time_zone)?;
        Ok(Self { begins, open_for: SignedDuration::from_mins(spec.duration_minutes.into()) })
    }

    /// Whether it is open: whether it began less than its length ago.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.after(now - self.open_for).is_some_and(|begin| begin <= now)
    }

    /// When it opens next. None: never, as on the 30th of February.
    pub fn after(&self, now: Timestamp) -> Option<Timestamp> {
        self.begins.after(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, minutes: i32, time_zone: &str) -> Result<Window, CronError> {
        Window::parse(&MaintenanceWindow {
            cron: cron.into(),
            duration_minutes: minutes,
            time_zone: time_zone.into(),
        })
    }

    #[test]
    fn a_window_is_open_from_its_beginning_for_its_length_in_its_time_zone() {
        // Saturday at three in the morning, in winter an hour before UTC and in summer two.
        let window = window("0 3 * * 6", 90, "Europe/Berlin").unwrap();
        for (at, open) in [
            ("2026-01-10T01:59:59Z", false),
            ("2026-01-10T02:00:00Z", true),
            ("2026-01-10T03:29:59Z", true),
            ("2026-01-10T03:30:00Z", false),
            ("2026-01-11T02:30:00Z", false),
            ("2026-07-11T01:00:00Z", true),
            ("2026-07-11T02:30:00Z", false),
        ] {
            assert_eq!(window.is_open(at.parse().unwrap()), open, "{at}");
        }
        let next = window.after("2026-01-10T02:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(next.to_string(), "2026-01-17T02:00:00Z");
    }

    /// In Berlin the clocks of 29 March 2026 show three after two, and those of 25 October show two after three.
    #[test]
    fn a_window_opens_once_where_the_clocks_change() {
        for (what, cron, minutes, at, open) in [
            ("skipped: not before its time", "30 2 * * *", 45, "2026-03-29T01:29:59Z", false),
            ("skipped: right after", "30 2 * * *", 45, "2026-03-29T01:30:00Z", true),
            ("skipped: for its length", "30 2 * * *", 45, "2026-03-29T02:14:59Z", true),
            ("skipped: no longer", "30 2 * * *", 45, "2026-03-29T02:15:00Z", false),
            (
                "across the gap: its length is time that passes",
                "30 1 * * *",
                60,
                "2026-03-29T01:29:59Z",
                true,
            ),
            ("across the gap", "30 1 * * *", 60, "2026-03-29T01:30:00Z", false),
            ("repeated: not before", "30 2 * * *", 45, "2026-10-25T00:29:59Z", false),
            ("repeated: the first time", "30 2 * * *", 45, "2026-10-25T00:30:00Z", true),
            ("repeated: in between", "30 2 * * *", 45, "2026-10-25T01:15:00Z", false),
            ("repeated: not the second time", "30 2 * * *", 45, "2026-10-25T01:30:00Z", false),
            ("across the repeated hour", "30 2 * * *", 120, "2026-10-25T02:29:59Z", true),
            ("every hour: each of the two", "30 * * * *", 10, "2026-10-25T00:35:00Z", true),
            ("every hour: each of the two", "30 * * * *", 10, "2026-10-25T01:35:00Z", true),
            ("every hour: closed between", "30 * * * *", 10, "2026-10-25T01:10:00Z", false),
        ] {
            let window = window(cron, minutes, "Europe/Berlin").unwrap();
            assert_eq!(window.is_open(at.parse().unwrap()), open, "{what}: {cron} at {at}");
        }
        let nightly = window("30 2 * * *", 45, "Europe/Berlin").unwrap();
        for (after, next) in [
            ("2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z"),
            ("2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"),
            ("2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            ("2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ] {
            assert_eq!(nightly.after(after.parse().unwrap()).unwrap().to_string(), next, "after {after}");
        }
    }

    #[test]
    fn a_window_that_makes_no_sense_is_an_error() {
        assert!(window("0 3 * *", 60, "UTC").is_err());
        assert!(window("61 3 * * *", 60, "UTC").is_err());
        assert!(window("0 3 * * *", 60, "Mars/Olympus").is_err());
    }

    /// The image holds no zone files: those of the program must do.
    #[test]
    fn time_zones_come_with_the_program() {
        assert!(jiff::tz::TimeZoneDatabase::bundled().get("America/New_York").is_ok());
    }
}
