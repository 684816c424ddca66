//! Takes leadership from the leader under inserts: kills it, or lets it hand over.

use crate::BenchError;
use crate::cli::{By, FailoverOptions};
use crate::load::Clients;
use crate::record::{FailoverRecord, Journal, Record};
use crate::target::Target;
use crate::work::{Work, WorkName};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Over which time the rate after the failover is taken.
const TAIL: Duration = Duration::from_secs(3);

/// What `bench failover` measures.
#[derive(Debug)]
pub struct Failover<'a, T> {
    target: Arc<T>,
    leader: usize,
    options: &'a FailoverOptions,
}

/// A time without an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Gap {
    start: Duration,
    length: Duration,
}

impl<'a, T: Target> Failover<'a, T> {
    /// Measures the failure of the member at `leader`, an index of the addresses.
    pub fn new(target: Arc<T>, leader: usize, options: &'a FailoverOptions) -> Result<Self, BenchError> {
        if options.common.pids.len() != options.common.addrs.len() {
            return Err(BenchError::Pids);
        }
        Ok(Self { target, leader, options })
    }

    /// Measures it. Acknowledged rows that are missing afterwards are an error.
    pub async fn run(&self, journal: &mut Journal) -> Result<(), BenchError> {
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let work = Arc::new(Work::new(WorkName::Insert, 1, 1, 100));
        self.target.prepare(&work).await?;
        let rows_before = self.target.count().await?;
        let start = Instant::now();
        let kill = start + seconds(self.options.warm);
        let end = kill + seconds(self.options.seconds);
        let timeout = seconds(self.options.timeout);
        let clients = Clients::start(&self.target, &work, self.options.clients, end, timeout);
        sleep_until(kill).await;
        let kill = Instant::now();
        match self.options.by {
            By::Kill => self.kill_leader()?,
            By::Transfer => match self.target.transfer(self.leader).await {
                Some(handed_over) => handed_over.map_err(BenchError::Transfer)?,
                None => return Err(BenchError::NoTransfer),
            },
        }
        let observed = clients.finish().await;
        let rows_after = self.target.count().await?;

        let mut times: Vec<Instant> = observed.acknowledged.iter().map(|a| a.at).collect();
        times.sort_unstable();
        let killed_at = times.partition_point(|at| *at < kill);
        let after: Vec<Duration> = times[killed_at..].iter().map(|at| *at - kill).collect();
        let gap = longest_gap(&after, end.saturating_duration_since(kill));
        let in_tail = times.iter().filter(|at| **at + TAIL > end).count();
        let acknowledged = times.len() as u64;
        let found = rows_after.zip(rows_before).map(|(after, before)| after.saturating_sub(before));
        journal.write(&Record::Failover(FailoverRecord {
            tag: self.options.common.tag.clone(),
            by: self.options.by,
            clients: self.options.clients,
            outage_s: milliseconds(gap.length),
            outage_began_s: milliseconds(gap.start),
            before_per_s: (killed_at as f64 / (kill - start).as_secs_f64()).round(),
            after_per_s: (in_tail as f64 / TAIL.as_secs_f64()).round(),
            acknowledged,
            found,
            errors: observed.errors,
            first_error: observed.first_error,
        }))?;
        match found.map_or(0, |found| acknowledged.saturating_sub(found)) {
            0 => Ok(()),
            lost => Err(BenchError::Lost { lost }),
        }
    }

    fn kill_leader(&self) -> Result<(), BenchError> {
        let number = *self.options.common.pids.get(self.leader).ok_or(BenchError::Pids)?;
        let pid = i32::try_from(number).ok().and_then(Pid::from_raw).ok_or(BenchError::Pids)?;
        let failed = |error: rustix::io::Errno| BenchError::Kill { pid: number, source: error.into() };
        kill_process(pid, Signal::KILL).map_err(failed)
    }
}

/// The longest time between two of: the kill (0), the acknowledgements after it, the end. A few answers can still
/// arrive just after the kill, so the outage need not begin with it; one that outlasts the run counts up to its end.
fn longest_gap(after: &[Duration], end: Duration) -> Gap {
    let mut longest = Gap::default();
    let mut start = Duration::ZERO;
    for at in after.iter().copied().chain([end]) {
        let length = at.saturating_sub(start);
        if length > longest.length {
            longest = Gap { start, length };
        }
        start = at;
    }
    longest
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_by_table() {
        let ms = Duration::from_millis;
        for (after, end, start, length) in [
            (vec![], 1000, 0, 1000),
            (vec![5, 10, 700, 710], 1000, 10, 690),
            (vec![5, 10], 1000, 10, 990),
            (vec![400, 500, 600], 700, 0, 400),
            // An answer that comes after the end.
            (vec![100, 1100], 1000, 100, 1000),
        ] {
            let after: Vec<_> = after.into_iter().map(ms).collect();
            let expected = Gap { start: ms(start), length: ms(length) };
            assert_eq!(longest_gap(&after, ms(end)), expected, "{after:?}");
        }
    }
}
