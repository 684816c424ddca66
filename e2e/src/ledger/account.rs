//! The accounting of a ledger: what was attempted against what is in the database. Pure, tested by table.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
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

/// One request for a write.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When its outcome was known, since the beginning of the run.
    pub ended: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// One write: the same request under the same key until it is acknowledged, or the client gives up.
#[derive(Clone, Debug)]
pub struct Write {
    /// Never used twice in a run.
    pub id: u64,
    /// When it was due, since the beginning of the run; an open loop sends then, whatever became of the earlier ones.
    pub due: Duration,
    /// Every time that it was sent. Only the last one can be acknowledged.
    pub attempts: Vec<Attempt>,
}

impl Write {
    /// When it was acknowledged, if it was.
    fn acknowledged(&self) -> Option<Duration> {
        self.attempts.iter().find(|a| a.outcome == Outcome::Acknowledged).map(|attempt| attempt.ended)
    }

    /// Whether something may have come of it all the same, though no answer said so.
    fn is_open(&self) -> bool {
        self.attempts.iter().any(|attempt| matches!(attempt.outcome, Outcome::Unknown(_)))
    }
}

/// Longest time in which nothing was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Milliseconds from the start of the run to the gap.
    pub begins_ms: u64,
    /// Its length in milliseconds.
    pub length_ms: u64,
}

/// A time in which writes took [`SLOW`] or longer: says where in a run to look for what held them up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spell {
    /// Milliseconds from the start of the run until the first of them was due.
    pub begins_ms: u64,
    /// Milliseconds until the last of them was due.
    pub length_ms: u64,
    /// How many writes took so long.
    pub writes: u64,
    /// What the slowest of them took, in milliseconds.
    pub longest_ms: u64,
}

/// What is slow enough to be told of.
const SLOW: Duration = Duration::from_millis(25);

/// Slow writes that are due closer together than this are of one spell.
const SAME_SPELL: Duration = Duration::from_millis(100);

/// How long acknowledgements took, from when each write was due: what an attempt waited for counts, and so do the
/// attempts before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Acknowledged writes that were counted.
    pub writes: u64,
    /// Median, in microseconds.
    pub p50_us: u64,
    /// 99th percentile of that.
    pub p99_us: u64,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Writes that were due.
    pub writes: u64,
    /// Of these: acknowledged, at once or after being sent again.
    pub acknowledged: u64,
    /// Of these: refused as often as the client tries.
    pub failed: u64,
    /// Of these: given up, and it is open what became of them.
    pub unknown: u64,
    /// Requests sent for all of them.
    pub attempts: u64,
    /// Of these: not acknowledged.
    pub attempts_failed: u64,
    /// Acknowledged and not in the database. Must be empty.
    pub lost: Vec<u64>,
    /// In the database more than once. Must be empty: what is sent again is sent under the same key.
    pub duplicates: Vec<u64>,
    /// In the database and never attempted. Must be empty.
    pub strangers: Vec<u64>,
    /// Refused and in the database all the same.
    pub refused_but_present: u64,
    /// Longest time without an acknowledgement, the edges of the run included.
    pub longest_gap: Gap,
    /// When writes were slow, in the order of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slow: Vec<Spell>,
    /// Of the writes that were due in peace, if there was such a time.
    pub baseline: Latency,
    /// Of the writes that were due after it; of all of them if there was none.
    pub latency: Latency,
    /// Why attempts failed or stayed open, and how many did so.
    pub reasons: BTreeMap<String, u64>,
}

/// Compares the writes of a run with the ids found in the database and how often each was there. `peace` is the time
/// before anything was changed that the rest is compared with.
pub fn account(writes: &[Write], found: &BTreeMap<u64, u64>, peace: Option<&Range<Duration>>) -> Account {
    let mut sum = Account { writes: writes.len() as u64, ..Account::default() };
    let mut acknowledged_at = Vec::new();
    let mut known = BTreeMap::new();
    for write in writes {
        known.insert(write.id, ());
        let present = found.contains_key(&write.id);
        if let Some(at) = write.acknowledged() {
            sum.acknowledged += 1;
            acknowledged_at.push(at);
            if !present {
                sum.lost.push(write.id);
            }
        } else if write.is_open() {
            sum.unknown += 1;
        } else {
            sum.failed += 1;
            sum.refused_but_present += u64::from(present);
        }
        for attempt in &write.attempts {
            sum.attempts += 1;
            if let Outcome::Failed(why) | Outcome::Unknown(why) = &attempt.outcome {
                sum.attempts_failed += 1;
                *sum.reasons.entry(why.clone()).or_default() += 1;
            }
        }
    }
    sum.duplicates = found.iter().filter(|(_, times)| **times > 1).map(|(id, _)| *id).collect();
    sum.strangers = found.keys().filter(|id| !known.contains_key(id)).copied().collect();
    sum.longest_gap = longest_gap(writes, acknowledged_at);
    // What was due before the peace began, found connections that had to be made first.
    let changes = peace.map_or(Duration::ZERO, |peace| peace.end);
    sum.baseline = peace.map(|peace| latency(writes, |due| peace.contains(&due))).unwrap_or_default();
    sum.latency = latency(writes, |due| due >= changes);
    sum.slow = spells(writes);
    sum
}

/// The times in which acknowledged writes were slow.
fn spells(writes: &[Write]) -> Vec<Spell> {
    let took = |write: &Write| Some((write.due, write.acknowledged()?.saturating_sub(write.due)));
    let mut slow: Vec<_> = writes.iter().filter_map(took).filter(|(_, took)| *took >= SLOW).collect();
    slow.sort_unstable();
    let together = slow.chunk_by(|(before, _), (after, _)| after.saturating_sub(*before) < SAME_SPELL);
    let spell = |slow: &[(Duration, Duration)]| {
        let first = slow.first().map_or(Duration::ZERO, |(due, _)| *due);
        let last = slow.last().map_or(Duration::ZERO, |(due, _)| *due);
        let longest = slow.iter().map(|(_, took)| *took).max().unwrap_or_default();
        Spell {
            begins_ms: first.as_millis() as u64,
            length_ms: (last - first).as_millis() as u64,
            writes: slow.len() as u64,
            longest_ms: longest.as_millis() as u64,
        }
    };
    together.map(spell).collect()
}

/// Of the acknowledged writes that were due at such a time.
fn latency(writes: &[Write], counts: impl Fn(Duration) -> bool) -> Latency {
    let counted = writes.iter().filter(|write| counts(write.due));
    let took = |write: &Write| Some(write.acknowledged()?.saturating_sub(write.due));
    let mut latencies: Vec<_> = counted.filter_map(took).collect();
    latencies.sort_unstable();
    let percentile_us = |percent| percentile(&latencies, percent).as_micros() as u64;
    Latency { writes: latencies.len() as u64, p50_us: percentile_us(50), p99_us: percentile_us(99) }
}

/// The gap before the first acknowledgement counts from the first write, the one after the last until the last
/// write: a cluster that never answers again has a gap, not a short run.
fn longest_gap(writes: &[Write], mut acknowledged_at: Vec<Duration>) -> Gap {
    let Some(begin) = writes.iter().map(|w| w.due).min() else { return Gap::default() };
    let end = writes.iter().map(|w| w.due).max().unwrap_or(begin);
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

    fn write(id: u64, due: u64, attempts: &[(u64, Outcome)]) -> Write {
        let attempts =
            attempts.iter().map(|(ended, outcome)| Attempt { ended: MS(*ended), outcome: outcome.clone() });
        Write { id, due: MS(due), attempts: attempts.collect() }
    }

    fn acknowledged(id: u64, due: u64, ended: u64) -> Write {
        write(id, due, &[(ended, Outcome::Acknowledged)])
    }

    fn refused() -> Outcome {
        Outcome::Failed("503 leader not found".into())
    }

    fn open() -> Outcome {
        Outcome::Unknown("no answer in time".into())
    }

    fn found(ids: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn nothing_attempted_is_nothing_wrong() {
        assert_eq!(account(&[], &found(&[]), None), Account::default());
    }

    #[test]
    fn what_is_there_decides() {
        use Outcome::Acknowledged;
        // writes, found, (lost, duplicates, strangers, refused but present)
        type Case = (Vec<Write>, Vec<(u64, u64)>, (Vec<u64>, Vec<u64>, Vec<u64>, u64));
        let two = || vec![acknowledged(0, 0, 1), acknowledged(1, 1, 2)];
        let one = |outcomes: &[Outcome]| {
            let attempts: Vec<_> = (1..).zip(outcomes.iter().cloned()).collect();
            vec![write(0, 0, &attempts)]
        };
        let cases: Vec<(&str, Case)> = vec![
            ("all well", (two(), vec![(0, 1), (1, 1)], (vec![], vec![], vec![], 0))),
            ("one lost", (two(), vec![(0, 1)], (vec![1], vec![], vec![], 0))),
            ("twice", (one(&[Acknowledged]), vec![(0, 2)], (vec![], vec![0], vec![], 0))),
            ("unknown may be there", (one(&[open()]), vec![(0, 1)], (vec![], vec![], vec![], 0))),
            ("or not", (one(&[open()]), vec![], (vec![], vec![], vec![], 0))),
            ("unknown and twice", (one(&[open()]), vec![(0, 2)], (vec![], vec![0], vec![], 0))),
            ("refused and there", (one(&[refused()]), vec![(0, 1)], (vec![], vec![], vec![], 1))),
            (
                "open once, so it may be there",
                (one(&[open(), refused()]), vec![(0, 1)], (vec![], vec![], vec![], 0)),
            ),
            (
                "acknowledged at last, and lost",
                (one(&[open(), Acknowledged]), vec![], (vec![0], vec![], vec![], 0)),
            ),
            (
                "sent again and there twice",
                (one(&[open(), Acknowledged]), vec![(0, 2)], (vec![], vec![0], vec![], 0)),
            ),
            ("stranger", (one(&[Acknowledged]), vec![(0, 1), (7, 1)], (vec![], vec![], vec![7], 0))),
        ];
        for (name, (writes, ids, expected)) in cases {
            let sum = account(&writes, &found(&ids), None);
            assert_eq!(
                (sum.lost, sum.duplicates, sum.strangers, sum.refused_but_present),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn a_write_fails_when_its_last_attempt_does() {
        use Outcome::Acknowledged;
        // outcomes of the attempts, (acknowledged, failed, unknown), (attempts, of these failed)
        type Case<'a> = (&'a str, Vec<Outcome>, (u64, u64, u64), (u64, u64));
        let cases: Vec<Case> = vec![
            ("at once", vec![Acknowledged], (1, 0, 0), (1, 0)),
            ("the second time", vec![refused(), Acknowledged], (1, 0, 0), (2, 1)),
            ("the third time", vec![refused(), open(), Acknowledged], (1, 0, 0), (3, 2)),
            ("refused each time", vec![refused(), refused(), refused()], (0, 1, 0), (3, 3)),
            ("open at last", vec![refused(), refused(), open()], (0, 0, 1), (3, 3)),
            ("open once", vec![open(), refused(), refused()], (0, 0, 1), (3, 3)),
        ];
        for (name, outcomes, writes, attempts) in cases {
            let sent: Vec<_> = (1..).zip(outcomes).collect();
            let sum = account(&[write(0, 0, &sent)], &found(&[(0, 1)]), None);
            assert_eq!((sum.acknowledged, sum.failed, sum.unknown), writes, "{name}");
            assert_eq!((sum.attempts, sum.attempts_failed), attempts, "{name}");
            assert_eq!(sum.writes, 1, "{name}");
        }
    }

    #[test]
    fn gaps_include_the_edges_and_forgive_nothing() {
        let gap = |begins_ms, length_ms| Gap { begins_ms, length_ms };
        let failed = |id, at| write(id, at, &[(at, refused())]);
        let cases: Vec<(&str, Vec<Write>, Gap)> = vec![
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
            // Acknowledged late, but acknowledged: the time is what counts, not the order of the writes.
            (
                "late answers",
                vec![acknowledged(0, 0, 1), acknowledged(1, 100, 900), acknowledged(2, 200, 250)],
                gap(250, 650),
            ),
            // An attempt that failed ends no gap; the one that was acknowledged does.
            (
                "sent again",
                vec![acknowledged(0, 0, 1), write(1, 100, &[(350, open()), (400, Outcome::Acknowledged)])],
                gap(1, 399),
            ),
        ];
        for (name, writes, expected) in cases {
            assert_eq!(account(&writes, &found(&[]), None).longest_gap, expected, "{name}");
        }
    }

    #[test]
    fn percentiles_count_from_when_a_write_was_due() {
        let writes: Vec<_> = (0..100).map(|id| acknowledged(id, id * 10, id * 10 + id + 1)).collect();
        let sum = account(&writes, &found(&[]), None);
        assert_eq!(sum.latency, Latency { writes: 100, p50_us: 50_000, p99_us: 99_000 });
        // What was sent again has waited since it was due the first time.
        let again = write(0, 10, &[(260, open()), (400, Outcome::Acknowledged)]);
        assert_eq!(account(&[again], &found(&[]), None).latency.p99_us, 390_000);
    }

    #[test]
    fn peace_is_counted_by_itself() {
        // Slow while connections are made, 1 ms in peace, 7 ms afterwards.
        let took = |id: u64| {
            if id < 10 {
                50
            } else if id < 20 {
                1
            } else {
                7
            }
        };
        let mut writes: Vec<_> = (0..40).map(|id| acknowledged(id, id * 10, id * 10 + took(id))).collect();
        writes.push(write(40, 400, &[(650, refused())]));
        let sum = account(&writes, &found(&[]), Some(&(MS(100)..MS(200))));
        assert_eq!(sum.baseline, Latency { writes: 10, p50_us: 1_000, p99_us: 1_000 });
        assert_eq!(sum.latency, Latency { writes: 20, p50_us: 7_000, p99_us: 7_000 });
        assert_eq!((sum.writes, sum.acknowledged), (41, 40));
        let all = account(&writes, &found(&[]), None);
        assert_eq!((all.baseline, all.latency.writes), (Latency::default(), 40));
    }

    #[test]
    fn slow_writes_that_are_due_together_are_one_spell() {
        let slow = |id, due| acknowledged(id, due, due + 40 + id);
        let writes = [slow(3, 199), slow(1, 10), acknowledged(2, 50, 74), slow(4, 100), slow(5, 299)];
        let spell =
            |begins_ms, length_ms, writes, longest_ms| Spell { begins_ms, length_ms, writes, longest_ms };
        let sum = account(&writes, &found(&[]), None);
        assert_eq!(sum.slow, [spell(10, 189, 3, 44), spell(299, 0, 1, 45)]);
        // One that was never acknowledged is told of by its reason.
        assert!(account(&[write(1, 0, &[(900, open())])], &found(&[]), None).slow.is_empty());
    }

    #[test]
    fn reasons_are_counted() {
        let writes = [
            write(0, 0, &[(1, Outcome::Failed("a".into())), (2, Outcome::Acknowledged)]),
            write(1, 0, &[(1, Outcome::Unknown("b".into()))]),
            write(2, 0, &[(1, Outcome::Failed("a".into()))]),
        ];
        let sum = account(&writes, &found(&[]), None);
        assert_eq!((sum.failed, sum.unknown), (1, 1));
        assert_eq!(sum.reasons, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
    }
}
