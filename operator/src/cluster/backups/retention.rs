//! Which backups of a schedule are no longer kept. Pure: (backups, rules, now) → names.

use crate::cluster::cron::Cron;
use crate::crd::{Retention, parse_period};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// A backup that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Name of the object.
    pub name: String,
    /// The moment that it holds; of one that failed, when it was due.
    pub time: Timestamp,
    /// Whether it is in the store.
    pub succeeded: bool,
}

/// Names of those that are no longer kept. Of those that failed, only older ones than all that are kept go; the newest
/// that succeeded never goes.
pub fn expired(ended: &[Ended], rules: &Retention, cron: &Cron, now: Timestamp) -> Vec<String> {
    let mut good: Vec<&Ended> = ended.iter().filter(|backup| backup.succeeded).collect();
    good.sort_by_key(|backup| std::cmp::Reverse((backup.time, &backup.name)));
    let Some(newest) = good.first() else { return Vec::new() };
    let Retention { keep_last, keep_daily, keep_weekly, keep_monthly, max_age } = rules;
    let counts = [keep_last, keep_daily, keep_weekly, keep_monthly];
    let count = |n: &Option<i32>| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let mut kept: BTreeSet<&str> = if counts.iter().all(|count| count.is_none()) {
        good.iter().map(|backup| backup.name.as_str()).collect()
    } else {
        let last = good.iter().take(count(keep_last)).map(|backup| backup.name.as_str());
        let day = |at| cron.day(at);
        let week = |at| first_of_week(cron.day(at));
        let month = |at| cron.day(at).first_of_month();
        last.chain(newest_of_each(&good, count(keep_daily), day))
            .chain(newest_of_each(&good, count(keep_weekly), week))
            .chain(newest_of_each(&good, count(keep_monthly), month))
            .collect()
    };
    if let Some(limit) = max_age.as_deref().and_then(parse_period) {
        let too_old = |backup: &&&Ended| now.duration_since(backup.time) > SignedDuration::from_secs(limit);
        for backup in good.iter().filter(too_old) {
            kept.remove(backup.name.as_str());
        }
    }
    kept.insert(&newest.name);
    let oldest = good.iter().filter(|backup| kept.contains(backup.name.as_str())).map(|b| b.time).min();
    let goes = |backup: &&Ended| match backup.succeeded {
        true => !kept.contains(backup.name.as_str()),
        false => oldest.is_some_and(|oldest| backup.time < oldest),
    };
    ended.iter().filter(goes).map(|backup| backup.name.clone()).collect()
}

/// The newest of each of the last `count` periods that have any.
fn newest_of_each<'a>(
    newest_first: &[&'a Ended],
    count: usize,
    period: impl Fn(Timestamp) -> Date,
) -> Vec<&'a str> {
    let mut found: Vec<(Date, &str)> = Vec::new();
    for backup in newest_first {
        let of = period(backup.time);
        if found.last().is_none_or(|(last, _)| *last != of) {
            found.push((of, &backup.name));
        }
    }
    found.into_iter().take(count).map(|(_, name)| name).collect()
}

fn first_of_week(day: Date) -> Date {
    let after_monday = i64::from(day.weekday().to_monday_zero_offset());
    day.checked_sub(SignedDuration::from_hours(24 * after_monday)).unwrap_or(day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cron() -> Cron {
        Cron::parse("0 3 * * *", "Europe/Berlin").unwrap()
    }

    /// One a day at three o'clock UTC, named by its age in days; `!` before those that failed.
    fn daily(days: &[&str]) -> Vec<Ended> {
        let now = now().as_second();
        days.iter()
            .map(|day| {
                let succeeded = !day.starts_with('!');
                let age: i64 = day.trim_start_matches('!').parse().unwrap();
                let time = Timestamp::from_second(now - age * 86_400).unwrap();
                Ended { name: (*day).to_owned(), time, succeeded }
            })
            .collect()
    }

    /// A Wednesday.
    fn now() -> Timestamp {
        "2026-07-15T03:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_goes_by_which_rule() {
        for (rules, there, wanted) in [
            (json!({"keepLast": 2}), vec!["0", "1", "2", "3"], vec!["2", "3"]),
            (json!({"keepLast": 9}), vec!["0", "1"], vec![]),
            (json!({"keepDaily": 2}), vec!["0", "1", "2"], vec!["2"]),
            // The 15th and the 13th are of one week, the 12th of another.
            (json!({"keepWeekly": 2}), vec!["0", "2", "3", "9", "10"], vec!["2", "9", "10"]),
            (json!({"keepMonthly": 2}), vec!["0", "14", "15", "30"], vec!["14", "30"]),
            (json!({"keepLast": 1, "keepMonthly": 2}), vec!["0", "14", "15"], vec!["14"]),
            (json!({"maxAge": "2d"}), vec!["0", "1", "2", "3"], vec!["3"]),
            (json!({"maxAge": "2d", "keepLast": 9}), vec!["0", "3"], vec!["3"]),
            (json!({"maxAge": "1d"}), vec!["5", "6"], vec!["6"]),
            (json!({"keepLast": 1}), vec!["!0", "1", "2"], vec!["2"]),
            (json!({"keepLast": 1}), vec!["0", "!1", "2"], vec!["!1", "2"]),
            (json!({"keepLast": 1}), vec!["!0", "!1"], vec![]),
        ] {
            let rules: Retention = serde_json::from_value(rules).unwrap();
            assert_eq!(expired(&daily(&there), &rules, &cron(), now()), wanted, "{rules:?} of {there:?}");
        }
    }

    #[test]
    fn days_are_those_of_the_schedules_time_zone() {
        let at = |name: &str, time: &str| Ended {
            name: name.into(),
            time: time.parse().unwrap(),
            succeeded: true,
        };
        // In Berlin both are of the 15th, in UTC of two days.
        let there = [at("early", "2026-07-14T22:30:00Z"), at("late", "2026-07-15T01:00:00Z")];
        let rules = serde_json::from_value(json!({"keepDaily": 2})).unwrap();
        assert_eq!(expired(&there, &rules, &cron(), now()), ["early"]);
    }
}
