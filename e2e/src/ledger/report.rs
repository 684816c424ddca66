//! What a run says to people, to tests and to the file of results.

use super::account::Account;
use anyhow::{Result, ensure};
use serde::Serialize;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// The account of a finished run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Writes attempted per second.
    pub rate: u32,
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
            self.attempts,
            seconds(self.duration_ms),
            self.acknowledged,
            self.failed,
            self.unknown
        )?;
        let (lost, duplicates) = (self.lost.len(), self.duplicates.len());
        writeln!(f, "acknowledged and missing: {lost}, written twice: {duplicates}")?;
        writeln!(
            f,
            "longest pause: {:.2} s; latency p50 {:.1} ms, p99 {:.1} ms",
            seconds(self.longest_gap.length_ms),
            self.p50_us as f64 / 1e3,
            self.p99_us as f64 / 1e3
        )?;
        for (why, times) in &self.reasons {
            writeln!(f, "  {times} x {why}")?;
        }
        Ok(())
    }
}
