//! What was found, as a section of docs/measurements.md, beside what was to be shown.

use super::audit::{Requests, total};
use super::clusters::Change;
use super::mebibytes;
use super::process::Memory;
use crate::ledger::percentile;
use std::fmt::Write;
use std::time::Duration;

/// Most memory at rest, in MiB.
const AIM_MEMORY: f64 = 128.0;
/// Most requests to the API server a second at rest.
const AIM_REQUESTS: f64 = 5.0;
/// Longest time from a change to its observation, but for one in a hundred.
const AIM_CHANGE: Duration = Duration::from_secs(1);

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct Found {
    /// Clusters that there were.
    pub clusters: usize,
    /// From none to all.
    pub creation: Start,
    /// Times from change to observation, sorted, by kind.
    pub changes: Vec<(Change, Vec<Duration>)>,
    /// Memory of the first process after all that.
    pub before: Memory,
    /// Another process, to which all clusters are new.
    pub cold_start: Start,
    /// Nothing changes.
    pub rest: Rest,
}

/// What it took until each cluster was looked after.
#[derive(Clone, Debug)]
pub struct Start {
    /// How long.
    pub took: Duration,
    /// What the API server was asked.
    pub requests: Requests,
    /// The operator's memory at the end.
    pub memory: Memory,
    /// Its processor time, in seconds.
    pub processor_seconds: f64,
}

/// What was seen while nothing changed.
#[derive(Clone, Debug)]
pub struct Rest {
    /// For how long.
    pub took: Duration,
    /// What the API server was asked.
    pub requests: Requests,
    /// Most memory that was resident, in bytes.
    pub resident: u64,
    /// What is resident of the one that stands by, in bytes.
    pub standby: u64,
    /// Requests to members but those for events.
    pub member_requests: u64,
    /// Requests to members for events.
    pub member_streams: u64,
    /// Connections to members that were begun.
    pub member_connections: u64,
    /// Connections to members that were open at the end.
    pub open_connections: u64,
    /// Reconciles.
    pub reconciles: f64,
    /// Processor time, in seconds.
    pub processor_seconds: f64,
    /// Changes of cluster objects.
    pub object_changes: u64,
}

impl Start {
    /// For people, with so many decimals.
    fn told(&self, decimals: usize) -> String {
        let (took, requests, processor) =
            (self.took.as_secs_f64(), total(&self.requests), self.processor_seconds);
        format!("{took:.decimals$} s, {requests} requests, {processor:.decimals$} s of processor")
    }
}

impl Found {
    /// What was to be shown and was not.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let memory = mebibytes(self.rest.resident);
        if memory > AIM_MEMORY {
            missed.push(format!("{memory:.0} MiB at rest, more than {AIM_MEMORY}"));
        }
        let requests = per_second(total(&self.rest.requests), self.rest.took);
        if requests > AIM_REQUESTS {
            missed.push(format!("{requests:.1} requests a second at rest, more than {AIM_REQUESTS}"));
        }
        for (change, times) in &self.changes {
            let p99 = percentile(times, 99);
            if p99 > AIM_CHANGE {
                missed.push(format!("changes of {} were seen within {p99:.1?}", change.field()));
            }
        }
        if self.rest.object_changes > 0 {
            missed.push(format!("{} changes of clusters at rest", self.rest.object_changes));
        }
        missed
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let Self { clusters, creation, changes, before, cold_start, rest } = self;
        let mut rows = Rows::default();
        let memory = |bytes| format!("{:.0} MiB", mebibytes(bytes));
        rows.row("memory at rest (resident set)", memory(rest.resident), format!("{AIM_MEMORY} MiB"));
        rows.row("memory of the one that stands by", memory(rest.standby), String::new());
        rows.row("memory, most of a cold start", memory(cold_start.memory.peak), String::new());
        rows.row("memory, most of the process that saw them made", memory(before.peak), String::new());
        rows.row(
            "requests to the API server at rest, those of the one that stands by among them",
            format!("{:.1}/s", per_second(total(&rest.requests), rest.took)),
            format!("{AIM_REQUESTS}/s"),
        );
        rows.row("writes of a status at rest", rest.object_changes.to_string(), "0".to_owned());
        for (change, times) in changes {
            rows.row(
                &format!(
                    "`{}` to `status.observedGeneration`, p50, p99, longest of {}",
                    change.field(),
                    times.len()
                ),
                format!(
                    "{}, {}, {}",
                    milliseconds(percentile(times, 50)),
                    milliseconds(percentile(times, 99)),
                    milliseconds(times.last().copied().unwrap_or_default())
                ),
                format!("p99 {} s", AIM_CHANGE.as_secs()),
            );
        }
        rows.row(
            "requests to members at rest",
            format!(
                "{:.1}/s, {:.1} new connections/s, {} open",
                per_second(rest.member_requests + rest.member_streams, rest.took),
                per_second(rest.member_connections, rest.took),
                rest.open_connections
            ),
            String::new(),
        );
        rows.row(
            "reconciles at rest",
            format!("{:.1}/s", rest.reconciles / rest.took.as_secs_f64()),
            String::new(),
        );
        rows.row(
            "processor at rest",
            format!("{:.0} % of one", 100.0 * rest.processor_seconds / rest.took.as_secs_f64()),
            String::new(),
        );
        rows.row("cold start until each was reconciled", cold_start.told(1), String::new());
        rows.row("from none to all of them settled", creation.told(0), String::new());
        format!(
            "| of one operator with {clusters} clusters of three voters | measured | aim |\n|---|---|---|\n{}\n\
             Requests to the API server in {:.0} s at rest: {}.\n\nOf a cold start: {}.\n",
            rows.0,
            rest.took.as_secs_f64(),
            list(&rest.requests),
            list(&cold_start.requests)
        )
    }
}

#[derive(Default)]
struct Rows(String);

impl Rows {
    fn row(&mut self, what: &str, measured: String, aim: String) {
        let aim = if aim.is_empty() { "-" } else { aim.as_str() };
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "| {what} | {measured} | {aim} |");
    }
}

fn list(requests: &Requests) -> String {
    let mut sorted: Vec<_> = requests.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let items: Vec<String> = sorted.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn per_second(count: u64, during: Duration) -> f64 {
    count as f64 / during.as_secs_f64()
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
