//! The accounting of a ledger: what was attempted against what is in the database. Pure, tested by table.

use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster said that it is written.
    Acknowledged,
    /// The cluster refused it, or was not reached.
    Failed(String),
    /// No answer in time, or one that leaves it open.
    Unknown(String),
}

/// One attempt to write, with times since the first one.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Never used twice in a run.
    pub id: u64,
    /// When it was due; an open loop sends then, whatever became of the earlier ones.
    pub sent: Duration,
    /// When its outcome was known.
    pub ended: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Longest time in which nothing was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Milliseconds from the start of the run to the gap.
    pub begins_ms: u64,
    /// Its length in milliseconds.
    pub length_ms: u64,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Writes attempted.
    pub attempts: u64,
    /// Of these: acknowledged.
    pub acknowledged: u64,
    /// Of these: refused.
    pub failed: u64,
    /// Of these: open.
    pub unknown: u64,
    /// Acknowledged and not in the database. Must be empty.
    pub lost: Vec<u64>,
    /// In the database more than once. Must be empty, as nothing is sent twice.
    pub duplicates: Vec<u64>,
    /// In the database and never attempted. Must be empty.
    pub strangers: Vec<u64>,
    /// Refused and in the database all the same.
    pub refused_but_present: u64,
    /// Longest time without an acknowledgement, the edges of the run included.
    pub longest_gap: Gap,
    /// Median of the time from when a write was due to its acknowledgement, in microseconds.
    pub p50_us: u64,
    /// 99th percentile of that.
    pub p99_us: u64,
    /// Why attempts failed or stayed open, and how many did so.
    pub reasons: BTreeMap<String, u64>,
}

/// Compares the attempts of a run with the ids found in the database and how often each was there.
pub fn account(attempts: &[Attempt], found: &BTreeMap<u64, u64>) -> Account {
    let mut sum = Account { attempts: attempts.len() as u64, ..Account::default() };
    let mut acknowledged_at = Vec::new();
    let mut latencies = Vec::new();
    let mut known = BTreeMap::new();
    for attempt in attempts {
        known.insert(attempt.id, ());
        let present = found.contains_key(&attempt.id);
        match &attempt.outcome {
            Outcome::Acknowledged => {
                sum.acknowledged += 1;
                acknowledged_at.push(attempt.ended);
                latencies.push(attempt.ended.saturating_sub(attempt.sent));
                if !present {
                    sum.lost.push(attempt.id);
                }
            }
            Outcome::Failed(why) => {
                sum.failed += 1;
                sum.refused_but_present += u64::from(present);
                *sum.reasons.entry(why.clone()).or_default() += 1;
            }
            Outcome::Unknown(why) => {
                sum.unknown += 1;
                *sum.reasons.entry(why.clone()).or_default() += 1;
            }
        }
    }
    sum.duplicates = found.iter().filter(|(_, times)| **times > 1).map(|(id, _)| *id).collect();
    sum.strangers = found.keys().filter(|id| !known.contains_key(id)).copied().collect();
    sum.longest_gap = longest_gap(attempts, acknowledged_at);
    latencies.sort_unstable();
    let percentile_us = |percent| percentile(&latencies, percent).as_micros() as u64;
    sum.p50_us = percentile_us(50);
    sum.p99_us = percentile_us(99);
    sum
}

/// The gap before the first acknowledgement counts from the first attempt, the one after the last until the last
/// attempt: a cluster that never answers again has a gap, not a short run.
fn longest_gap(attempts: &[Attempt], mut acknowledged_at: Vec<Duration>) -> Gap {
    let Some(begin) = attempts.iter().map(|a| a.sent).min() else { return Gap::default() };
    let end = attempts.iter().map(|a| a.sent).max().unwrap_or(begin);
    acknowledged_at.sort_unstable();
    let mut longest = Gap::default();
    let mut previous = begin;
    for at in acknowledged_at.into_iter().chain([end]) {
        let length_ms = at.saturating_sub(previous).as_millis() as u64;
        if length_ms > longest.length_ms {
            longest = Gap { begins_ms: previous.as_millis() as u64, length_ms };
        }
        previous = previous.max(at);
    }
    longest
}

/// Smallest value that `percent` of the sorted values do not exceed; zero if there is none.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn attempt(id: u64, sent: u64, ended: u64, outcome: Outcome) -> Attempt {
        Attempt { id, sent: MS(sent), ended: MS(ended), outcome }
    }

    fn acknowledged(id: u64, sent: u64, ended: u64) -> Attempt {
        attempt(id, sent, ended, Outcome::Acknowledged)
    }

    fn found(ids: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn nothing_attempted_is_nothing_wrong() {
        assert_eq!(account(&[], &found(&[])), Account::default());
    }

    #[test]
    fn what_is_there_decides() {
        let failed = || Outcome::Failed("503 leader not found".into());
        let unknown = || Outcome::Unknown("no answer in time".into());
        // attempts, found, (lost, duplicates, strangers, refused but present)
        type Case = (Vec<Attempt>, Vec<(u64, u64)>, (Vec<u64>, Vec<u64>, Vec<u64>, u64));
        let cases: Vec<(&str, Case)> = vec![
            (
                "all well",
                (
                    vec![acknowledged(0, 0, 1), acknowledged(1, 1, 2)],
                    vec![(0, 1), (1, 1)],
                    (vec![], vec![], vec![], 0),
                ),
            ),
            (
                "one lost",
                (
                    vec![acknowledged(0, 0, 1), acknowledged(1, 1, 2)],
                    vec![(0, 1)],
                    (vec![1], vec![], vec![], 0),
                ),
            ),
            ("twice", (vec![acknowledged(0, 0, 1)], vec![(0, 2)], (vec![], vec![0], vec![], 0))),
            (
                "unknown may be there",
                (vec![attempt(0, 0, 1, unknown())], vec![(0, 1)], (vec![], vec![], vec![], 0)),
            ),
            ("or not", (vec![attempt(0, 0, 1, unknown())], vec![], (vec![], vec![], vec![], 0))),
            (
                "unknown and twice",
                (vec![attempt(0, 0, 1, unknown())], vec![(0, 2)], (vec![], vec![0], vec![], 0)),
            ),
            (
                "refused and there",
                (vec![attempt(0, 0, 1, failed())], vec![(0, 1)], (vec![], vec![], vec![], 1)),
            ),
            ("stranger", (vec![acknowledged(0, 0, 1)], vec![(0, 1), (7, 1)], (vec![], vec![], vec![7], 0))),
        ];
        for (name, (attempts, ids, expected)) in cases {
            let sum = account(&attempts, &found(&ids));
            assert_eq!(
                (sum.lost, sum.duplicates, sum.strangers, sum.refused_but_present),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn gaps_include_the_edges_and_forgive_nothing() {
        let gap = |begins_ms, length_ms| Gap { begins_ms, length_ms };
        let failed = |id, at| attempt(id, at, at, Outcome::Failed("x".into()));
        let cases: Vec<(&str, Vec<Attempt>, Gap)> = vec![
            (
                "steady",
                vec![acknowledged(0, 0, 10), acknowledged(1, 10, 20), acknowledged(2, 20, 25)],
                gap(0, 10),
            ),
            (
                "in the middle",
                vec![acknowledged(0, 0, 1), failed(1, 100), acknowledged(2, 500, 501)],
                gap(1, 500),
            ),
            ("before the first", vec![failed(0, 0), failed(1, 300), acknowledged(2, 400, 401)], gap(0, 401)),
            ("after the last", vec![acknowledged(0, 0, 1), failed(1, 300), failed(2, 900)], gap(1, 899)),
            ("never", vec![failed(0, 0), failed(1, 700)], gap(0, 700)),
            // Acknowledged late, but acknowledged: the time is what counts, not the order of the attempts.
            (
                "late answers",
                vec![acknowledged(0, 0, 1), acknowledged(1, 100, 900), acknowledged(2, 200, 250)],
                gap(250, 650),
            ),
        ];
        for (name, attempts, expected) in cases {
            assert_eq!(account(&attempts, &found(&[])).longest_gap, expected, "{name}");
        }
    }

    #[test]
    fn percentiles_count_from_when_a_write_was_due() {
        let attempts: Vec<_> = (0..100).map(|id| acknowledged(id, id * 10, id * 10 + id + 1)).collect();
        let sum = account(&attempts, &found(&[]));
        assert_eq!((sum.p50_us, sum.p99_us), (50_000, 99_000));
    }

    #[test]
    fn reasons_are_counted() {
        let attempts = [
            attempt(0, 0, 1, Outcome::Failed("a".into())),
            attempt(1, 0, 1, Outcome::Unknown("b".into())),
            attempt(2, 0, 1, Outcome::Failed("a".into())),
        ];
        let sum = account(&attempts, &found(&[]));
        assert_eq!((sum.failed, sum.unknown), (2, 1));
        assert_eq!(sum.reasons, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
    }
}
