//! What the leader does for the database at an interval: VACUUM (`-auto-vacuum-int`) and gathering statistics for the
//! planner (`-auto-optimize-int`).
//!
//! Both are entries of the log, so that every member does the same at the same place, and the moment of the last one is
//! part of the replicated state: another leader goes on with the intervals of the last one. One task of the leader does
//! everything, one thing after another, and looks only after a quorum has confirmed the lead, when all that earlier leaders
//! did is applied here.
//!
//! A VACUUM holds up writes on every member until it is done, and writes the whole database anew, twice: into a temporary
//! file, and from there into the WAL. So it waits until every member says that it has the room.

use crate::clock;
use crate::http::{Counter, Counters};
use crate::observe::Observe as _;
use crate::raft::command::MaintenanceCommand;
use crate::raft::{Consensus, ProposeError};
use crate::store::{LocalFailure, Maintained};
use client::admin::{NodeId, Phase};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a member looks whether it leads and something is due.
const LOOK: Duration = Duration::from_secs(1);
/// After something was in the way.
const AGAIN: Duration = Duration::from_secs(30);
/// How long a member has led before the first interval begins: a cluster that was just made has better things to do.
const SETTLED: Duration = Duration::from_secs(60);

/// How often what is done; none: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    /// Between two VACUUMs.
    pub vacuum: Option<Duration>,
    /// Between two looks at the planner's statistics.
    pub optimize: Option<Duration>,
}

/// Something came to nothing.
#[derive(Debug, thiserror::Error)]
enum MaintenanceError {
    #[error("{0}")]
    InTheWay(String),
    #[error("look for tables without statistics: {0}")]
    Look(#[from] LocalFailure),
    #[error("the size of the database: {0}")]
    Size(#[from] io::Error),
    #[error("have the members do it: {0}")]
    Propose(#[from] ProposeError),
    #[error("{0}")]
    Failed(String),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin { vacuum: bool, optimize: bool },
    Vacuum,
    Optimize,
}

impl Intervals {
    /// What is due on a member that has led for `led`, in order.
    fn due(self, last: Maintained, now_us: i64, led: Duration) -> Vec<Step> {
        let is_due = |interval: Option<Duration>, last_us: i64| {
            let passed = Duration::from_micros(u64::try_from(now_us.saturating_sub(last_us)).unwrap_or(0));
            last_us != 0 && interval.is_some_and(|interval| passed >= interval)
        };
        let begins = |interval: Option<Duration>, last_us: i64| {
            last_us == 0 && interval.is_some_and(|interval| led >= interval.min(SETTLED))
        };
        let vacuum = begins(self.vacuum, last.vacuum_us);
        let optimize = begins(self.optimize, last.optimize_us);
        let steps = [
            (vacuum || optimize, Step::Begin { vacuum, optimize }),
            (is_due(self.vacuum, last.vacuum_us), Step::Vacuum),
            (is_due(self.optimize, last.optimize_us), Step::Optimize),
        ];
        steps.into_iter().filter(|(is_due, _)| *is_due).map(|(_, step)| step).collect()
    }
}

/// What one member does of it.
pub struct Maintenance {
    consensus: Arc<Consensus>,
    intervals: Intervals,
    counters: Arc<Counters>,
    trouble: Mutex<Troubles>,
}

/// What is in the way of what is due.
#[derive(Debug, Default)]
struct Troubles {
    vacuum: Option<String>,
    optimize: Option<String>,
}

impl Maintenance {
    /// Begins.
    pub fn start(consensus: Arc<Consensus>, intervals: Intervals, counters: Arc<Counters>) -> Arc<Self> {
        let maintenance = Arc::new(Self { consensus, intervals, counters, trouble: Mutex::default() });
        if intervals != Intervals::default() {
            tokio::spawn(maintenance.clone().run());
        }
        maintenance
    }

    async fn run(self: Arc<Self>) {
        let mut led_since = None;
        // Members that know these entries: they go on knowing them.
        let mut knowing = BTreeSet::new();
        loop {
            sleep(LOOK).await;
            let serves = self.consensus.phase().current() == Phase::Serving;
            if !serves || !self.consensus.is_leader() {
                led_since = None;
                *self.trouble.lock() = Troubles::default();
                continue;
            }
            let led = led_since.get_or_insert_with(Instant::now).elapsed();
            if self.due(led).is_empty() || !self.consensus.leads_by_quorum().await {
                continue;
            }
            // Asked again: what an earlier leader did last may have been applied in between.
            let mut waits = false;
            for step in self.due(led) {
                // A VACUUM that waits for room holds up nothing else.
                let outcome = self.perform(step, &mut knowing).await;
                waits |= outcome.is_err();
                self.note(step, &outcome);
            }
            if waits {
                sleep(AGAIN).await;
            }
        }
    }

    fn due(&self, led: Duration) -> Vec<Step> {
        let last = self.consensus.store().state().observe(|state| state.maintained);
        self.intervals.due(last, clock::now_us(), led)
    }

    async fn perform(&self, step: Step, knowing: &mut BTreeSet<NodeId>) -> Result<(), MaintenanceError> {
        let obstacle = self.consensus.obstacle_to_maintenance(step == Step::Vacuum, knowing).await;
        if let Some(obstacle) = obstacle {
            return Err(MaintenanceError::InTheWay(obstacle));
        }
        match step {
            Step::Begin { vacuum, optimize } => {
                self.propose(&MaintenanceCommand::Begin { vacuum, optimize }).await.map(drop)
            }
            Step::Vacuum => {
                let (began, bytes) = (Instant::now(), self.consensus.store().size()?);
                let index = self.propose(&MaintenanceCommand::Vacuum).await?;
                let took = began.elapsed();
                self.counters.set(Counter::AutoVacuumDuration, took.as_millis() as u64);
                tracing::info!(index, ?took, bytes, "vacuumed the database");
                Ok(())
            }
            Step::Optimize => {
                let began = Instant::now();
                let tables = self.consensus.store().unanalyzed().await?;
                let command = MaintenanceCommand::Optimize { tables: tables.clone() };
                let index = self.propose(&command).await?;
                let took = began.elapsed();
                self.counters.set(Counter::AutoOptimizeDuration, took.as_millis() as u64);
                tracing::info!(index, ?took, ?tables, "gathered statistics for the planner");
                Ok(())
            }
        }
    }

    /// Has the members do it; returns the entry's index once this one has.
    async fn propose(&self, command: &MaintenanceCommand) -> Result<u64, MaintenanceError> {
        let index = self.consensus.proposer().propose_maintenance(command).await?;
        match self.consensus.store().state().observe(|state| state.maintenance_error.clone()) {
            None => Ok(index),
            Some(error) => Err(MaintenanceError::Failed(error)),
        }
    }

    fn note(&self, step: Step, outcome: &Result<(), MaintenanceError>) {
        let (done, failed, what) = match step {
            Step::Begin { .. } => (None, None, "the intervals of VACUUM and ANALYZE"),
            Step::Vacuum => (Some(Counter::AutoVacuums), Some(Counter::AutoVacuumsFailed), "VACUUM"),
            Step::Optimize => (Some(Counter::AutoOptimizes), Some(Counter::AutoOptimizesFailed), "ANALYZE"),
        };
        let trouble = match outcome {
            Ok(()) => {
                done.into_iter().for_each(|counter| self.counters.count(counter));
                None
            }
            // Another leader looks after it.
            Err(MaintenanceError::Propose(ProposeError::NotLeader | ProposeError::OutcomeUnknown)) => None,
            Err(MaintenanceError::InTheWay(obstacle)) => Some(obstacle.clone()),
            Err(error) => {
                failed.into_iter().for_each(|counter| self.counters.count(counter));
                Some(error.to_string())
            }
        };
        let mut troubles = self.trouble.lock();
        let before = match step {
            Step::Begin { vacuum: true, .. } | Step::Vacuum => &mut troubles.vacuum,
            Step::Begin { .. } | Step::Optimize => &mut troubles.optimize,
        };
        if let Some(trouble) = trouble.as_ref().filter(|trouble| before.as_ref() != Some(trouble)) {
            tracing::warn!(what, trouble, "what is due at an interval waits");
        }
        *before = trouble;
    }

    /// What `/status` tells as `store.auto_vacuum` and `store.auto_optimize`, of those that are on.
    pub fn status(&self) -> [(&'static str, Option<Value>); 2] {
        let last = self.consensus.store().state().observe(|state| state.maintained);
        let troubles = self.trouble.lock();
        let of = |interval: Option<Duration>, last_us: i64, trouble: &Option<String>, keys: [&str; 2]| {
            let interval = interval?;
            let text = |us: i64| jiff::Timestamp::from_microsecond(us).ok().map(|time| time.to_string());
            let next_us = last_us.saturating_add(i64::try_from(interval.as_micros()).unwrap_or(i64::MAX));
            let mut status = json!({ "interval": format!("{interval:?}") });
            // Until the first interval has begun neither is known.
            if last_us != 0 {
                status[keys[0]] = json!(text(last_us));
                status[keys[1]] = json!(text(next_us));
            }
            if let Some(trouble) = trouble {
                status["waits_for"] = json!(trouble);
            }
            Some(status)
        };
        let Intervals { vacuum, optimize } = self.intervals;
        let keys = ["last_vacuum", "next_vacuum_after"];
        let vacuum = of(vacuum, last.vacuum_us, &troubles.vacuum, keys);
        let keys = ["last_optimize", "next_optimize_after"];
        let optimize = of(optimize, last.optimize_us, &troubles.optimize, keys);
        [("auto_vacuum", vacuum), ("auto_optimize", optimize)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_when() {
        const HOUR: i64 = 3_600_000_000;
        let hours = |n: u64| Some(Duration::from_secs(n * 3600));
        let (both, vacuum) = (Intervals { vacuum: hours(2), optimize: hours(1) }, hours(2));
        let (only_vacuum, short) = (Intervals { vacuum, optimize: None }, Duration::from_secs(1));
        let at = |vacuum_us: i64, optimize_us: i64| Maintained { vacuum_us, optimize_us };
        let day = 24 * HOUR;
        let begin = |vacuum, optimize| vec![Step::Begin { vacuum, optimize }];
        for (intervals, last, now, led, steps) in [
            (Intervals::default(), at(0, 0), day, 9999, vec![]),
            (both, at(0, 0), day, 59, vec![]),
            (both, at(0, 0), day, 60, begin(true, true)),
            (only_vacuum, at(0, 0), day, 60, begin(true, false)),
            (Intervals { optimize: Some(short), ..both }, at(day, 0), day, 1, begin(false, true)),
            (both, at(day, day), day + HOUR - 1, 0, vec![]),
            (both, at(day, day), day + HOUR, 0, vec![Step::Optimize]),
            // Longer than any member leads.
            (both, at(day, day), day + 2 * HOUR, 0, vec![Step::Vacuum, Step::Optimize]),
            (both, at(day + 2 * HOUR, day), day + 2 * HOUR, 0, vec![Step::Optimize]),
            (only_vacuum, at(day, 0), day + HOUR, 9999, vec![]),
            // An earlier leader's clock was ahead.
            (both, at(day, day), HOUR, 9999, vec![]),
        ] {
            assert_eq!(intervals.due(last, now, Duration::from_secs(led)), steps, "{intervals:?} {last:?}");
        }
    }
}
