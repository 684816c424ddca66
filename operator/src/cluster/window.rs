//! Maintenance windows: spans of time in which restarts may begin. Pure: the time is given.

use crate::crd::MaintenanceWindow;
use cronexpr::{Crontab, MakeTimestamp};
use jiff::{SignedDuration, Timestamp};

/// A window cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("`{cron}` in time zone {time_zone}: {source}")]
pub struct WindowError {
    cron: String,
    time_zone: String,
    source: cronexpr::Error,
}

/// A span of time that comes again and again.
#[derive(Clone, Debug)]
pub struct Window {
    begins: Crontab,
    open_for: SignedDuration,
}

impl Window {
    /// The window that the spec describes.
    pub fn parse(spec: &MaintenanceWindow) -> Result<Self, WindowError> {
        let begins =
            cronexpr::parse_crontab(&format!("{} {}", spec.cron, spec.time_zone)).map_err(|source| {
                WindowError { cron: spec.cron.clone(), time_zone: spec.time_zone.clone(), source }
            })?;
        Ok(Self { begins, open_for: SignedDuration::from_mins(spec.duration_minutes.into()) })
    }

    /// Whether it is open: whether it began less than its length ago.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.after(now - self.open_for).is_some_and(|begin| begin <= now)
    }

    /// When it opens next. None: never, as on the 30th of February.
    pub fn after(&self, now: Timestamp) -> Option<Timestamp> {
        self.begins.find_next(MakeTimestamp(now)).ok().map(|begin| begin.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, minutes: i32, time_zone: &str) -> Result<Window, WindowError> {
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
