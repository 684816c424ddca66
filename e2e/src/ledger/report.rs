//! What a run says to people, to tests and to the file of results.

use super::account::Account;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// How many times slower than in peace the slowest hundredth may be while something is changed on purpose.
const SLOWER: u64 = 5;

/// What a baseline below it counts as, in microseconds. Between 1 ms and 5 ms the moment at which a thread gets its
/// processor, or a disk its turn, decides; five times that says nothing of the change that is looked at.
const FLOOR_US: u64 = 5_000;

/// The account of a finished run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Writes due per second.
    pub rate: u32,
    /// How often the client sends a write again.
    pub retries: u32,
    /// How long it waits for the answer to each attempt, in milliseconds.
    pub timeout_ms: u64,
    /// Length of the run in milliseconds.
    pub duration_ms: u64,
    /// What came of it.
    #[serde(flatten)]
    pub account: Account,
}

impl Deref for Report {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.account
    }
}

impl Report {
    /// Longest time without an acknowledgement.
    pub fn outage(&self) -> Duration {
        Duration::from_millis(self.longest_gap.length_ms)
    }

    /// An error unless every acknowledged write is there, each once, and at least one was acknowledged.
    pub fn nothing_lost(&self) -> Result<()> {
        ensure!(self.acknowledged > 0, "no write was acknowledged\n{self}");
        let faults = self.lost.len() + self.duplicates.len() + self.strangers.len();
        ensure!(faults == 0, "{} acknowledged writes are lost\n{self}", self.lost.len());
        Ok(())
    }

    /// An error if a write was not acknowledged however often it was sent.
    pub fn none_failed(&self) -> Result<()> {
        ensure!(self.failed + self.unknown == 0, "writes failed\n{self}");
        Ok(())
    }

    /// The most that the slowest hundredth may take while something is changed on purpose, in microseconds.
    pub fn p99_limit_us(&self) -> u64 {
        SLOWER * self.baseline.p99_us.max(FLOOR_US)
    }

    /// An error if the slowest hundredth took much longer than in peace.
    pub fn p99_near_baseline(&self) -> Result<()> {
        ensure!(self.baseline.writes > 0 && self.latency.writes > 0, "nothing to compare\n{self}");
        let (p99, limit) = (self.latency.p99_us, self.p99_limit_us());
        ensure!(p99 <= limit, "p99 is {} ms (limit {} ms)\n{self}", p99 / 1_000, limit / 1_000);
        Ok(())
    }

    /// An error if nothing was acknowledged for longer than `limit`.
    pub fn outage_at_most(&self, limit: Duration) -> Result<()> {
        ensure!(
            self.outage() <= limit,
            "nothing acknowledged for {:?} (limit {limit:?})\n{self}",
            self.outage()
        );
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| ms as f64 / 1e3;
        writeln!(
            f,
            "{} writes in {:.1} s: {} acknowledged, {} failed, {} unknown",
            self.writes,
            seconds(self.duration_ms),
            self.acknowledged,
            self.failed,
            self.unknown
        )?;
        writeln!(f, "{} attempts, {} of them without success", self.attempts, self.attempts_failed)?;
        let (lost, duplicates) = (self.lost.len(), self.duplicates.len());
        writeln!(f, "acknowledged and missing: {lost}, written twice: {duplicates}")?;
        let ms = |us: u64| us as f64 / 1e3;
        let (gap, latency) = (seconds(self.longest_gap.length_ms), self.latency);
        write!(f, "longest pause: {gap:.2} s; ")?;
        writeln!(f, "latency p50 {:.1} ms, p99 {:.1} ms", ms(latency.p50_us), ms(latency.p99_us))?;
        if self.baseline.writes > 0 {
            let (p50, p99) = (ms(self.baseline.p50_us), ms(self.baseline.p99_us));
            writeln!(f, "before, in peace: p50 {p50:.1} ms, p99 {p99:.1} ms")?;
        }
        for spell in &self.slow {
            let (at, length) = (seconds(spell.begins_ms), seconds(spell.length_ms));
            let (writes, longest) = (spell.writes, spell.longest_ms);
            writeln!(f, "  slow at {at:.2} s, for {length:.2} s: {writes} writes, the longest {longest} ms")?;
        }
        for (why, times) in &self.reasons {
            writeln!(f, "  {times} x {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Latency;

    fn report(baseline_us: u64, p99_us: u64) -> Report {
        let latency = |p99_us| Latency { writes: 100, p50_us: 1_000, p99_us };
        let account = Account {
            writes: 200,
            acknowledged: 200,
            baseline: latency(baseline_us),
            latency: latency(p99_us),
            ..Account::default()
        };
        Report { rate: 200, retries: 2, timeout_ms: 250, duration_ms: 1_000, account }
    }

    #[test]
    fn five_times_the_baseline_is_the_limit_and_a_quick_one_has_a_floor() {
        let cases =
            [(10_000, 50_000, true), (10_000, 50_001, false), (1_000, 25_000, true), (1_000, 25_001, false)];
        for (baseline, p99, holds) in cases {
            let outcome = report(baseline, p99).p99_near_baseline();
            assert_eq!(outcome.is_ok(), holds, "{baseline} {p99}");
        }
        // Nothing that could be compared is no success.
        assert!(Report { account: Account::default(), ..report(1, 1) }.p99_near_baseline().is_err());
    }

    #[test]
    fn a_write_that_was_given_up_is_a_failure() {
        let with = |failed, unknown| Report {
            account: Account { failed, unknown, attempts_failed: 7, ..report(1, 1).account },
            ..report(1, 1)
        };
        assert!(with(0, 0).none_failed().is_ok());
        assert!(with(1, 0).none_failed().is_err());
        assert!(with(0, 1).none_failed().is_err());
    }
}
