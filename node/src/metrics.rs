//! Numbers for `/metrics`, in OpenMetrics' text form.

use crate::backup::ArchiveNumbers;
use crate::changes::ChangesNumbers;
use crate::http::{Counter as Counted, Counters};
use crate::observe::Observe as _;
use crate::otlp::Otlp;
use crate::raft::Consensus;
use crate::store::CaptureState;
use crate::tls::ServerTls;
use axum::http::StatusCode;
use client::admin::{ConsistencyState, Phase, Role};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Whose time a request is: looking at a member is not to hide how long its clients wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Statements.
    Sql,
    /// Everything else.
    Other,
}

/// A request that is being worked on, until it is answered or whoever sent it hangs up.
#[derive(Debug)]
pub struct InFlight {
    since: Instant,
    gauge: Gauge,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl RequestKind {
    /// By its path.
    pub fn of(path: &str) -> Self {
        let sql = ["/db/execute", "/db/query", "/db/request"].iter().any(|prefix| path.starts_with(prefix));
        if sql { Self::Sql } else { Self::Other }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Other => "other",
        }
    }
}

/// A label whose values are known beforehand.
type Label = [(&'static str, &'static str); 1];

/// The numbers of one member.
pub struct NodeMetrics {
    registry: Registry,
    requests: Family<[(&'static str, String); 1], Counter>,
    in_flight: Gauge,
    duration: Family<Label, Histogram, fn() -> Histogram>,
    leader: Gauge,
    ready: Gauge,
    term: Gauge<u64, AtomicU64>,
    last_log_index: Gauge<u64, AtomicU64>,
    committed_index: Gauge<u64, AtomicU64>,
    applied_index: Gauge<u64, AtomicU64>,
    durable_index: Gauge<u64, AtomicU64>,
    wal_pages: Gauge<u64, AtomicU64>,
    damaged: Gauge,
    fatal_entry: Gauge,
    consistent: Gauge,
    compared_index: Gauge<u64, AtomicU64>,
    reinstalls: Gauge<u64, AtomicU64>,
    refused_peers: Family<Label, Gauge<u64, AtomicU64>>,
    log_flushes: Gauge<u64, AtomicU64>,
    log_written: Gauge<u64, AtomicU64>,
    log_segments: Gauge<u64, AtomicU64>,
    voters: Gauge,
    learners: Gauge,
    certificates: Family<Label, Gauge>,
    archive_lag: Gauge<u64, AtomicU64>,
    archive_segments: Gauge<u64, AtomicU64>,
    archive_bytes: Gauge<u64, AtomicU64>,
    changes_events: Gauge<u64, AtomicU64>,
    changes_bytes: Gauge<u64, AtomicU64>,
    changes_lost: Gauge<u64, AtomicU64>,
    changes_watermark: Gauge<u64, AtomicU64>,
    changes_delivered: Gauge<u64, AtomicU64>,
    changes_failed: Gauge<u64, AtomicU64>,
    changes_given_up: Gauge<u64, AtomicU64>,
    changes_lag: Gauge<u64, AtomicU64>,
    otlp_pushes: Family<[(&'static str, &'static str); 2], Gauge<u64, AtomicU64>>,
    otlp_spans: Family<Label, Gauge<u64, AtomicU64>>,
    vacuums: Family<Label, Gauge<u64, AtomicU64>>,
    optimizes: Family<Label, Gauge<u64, AtomicU64>>,
    vacuum_last: Gauge,
    optimize_last: Gauge,
}

impl Default for NodeMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sqlited");
        let requests = Family::default();
        registry.register("http_requests", "Requests of clients by status", requests.clone());
        let new_histogram: fn() -> _ = || Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let duration = Family::new_with_constructor(new_histogram);
        registry.register_with_unit(
            "http_request_duration",
            "Time until the answer to a request began, by kind",
            Unit::Seconds,
            duration.clone(),
        );
        let mut int = |name: &str, help: &str| {
            let gauge: Gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let in_flight = int("http_requests_in_flight", "Requests that are being worked on");
        let leader = int("raft_leader", "1 if this member leads");
        let ready = int("ready", "1 if this member is in service");
        let fatal_entry = int(
            "fatal_entry",
            "1 if an entry of the log is not applied any more, because it ended the process again and again",
        );
        let damaged = int("database_damaged", "1 if a page of the database is not what was written there");
        let consistent = int(
            "database_consistent",
            "0 if this member knows that a member's database is not what it should be",
        );
        let voters = int("raft_voters", "Voters of the membership in effect");
        let learners = int("raft_learners", "Learners of the membership in effect");
        let vacuum_last = int(
            "auto_vacuum_last_seconds",
            "When the cluster did the last VACUUM at an interval, or its first interval began, in seconds since 1970",
        );
        let optimize_last =
            int("auto_optimize_last_seconds", "The same of looks at the planner's statistics");
        let certificates = Family::default();
        registry.register(
            "certificate_not_after_seconds",
            "When the certificate of a port ends, in seconds since 1970",
            certificates.clone(),
        );
        let otlp_pushes = Family::default();
        registry.register(
            "otlp_pushes",
            "Pushes to the collector of -otlp-endpoint since the start, by signal and outcome",
            otlp_pushes.clone(),
        );
        let otlp_spans = Family::default();
        registry.register("otlp_spans", "Spans of traces since the start, by outcome", otlp_spans.clone());
        let vacuums = Family::default();
        registry.register(
            "auto_vacuums",
            "VACUUMs at an interval since the start, by outcome",
            vacuums.clone(),
        );
        let optimizes = Family::default();
        registry.register(
            "auto_optimizes",
            "Looks at the planner's statistics at an interval since the start, by outcome",
            optimizes.clone(),
        );
        let refused_peers = Family::default();
        registry.register(
            "peers_refused",
            "Connections to the peer port that were not let in since the start, by reason",
            refused_peers.clone(),
        );
        let mut wide = |name: &str, help: &str| {
            let gauge: Gauge<u64, AtomicU64> = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            certificates,
            refused_peers,
            term: wide("raft_term", "Current term"),
            last_log_index: wide("raft_last_log_index", "Last entry of the log"),
            committed_index: wide("raft_committed_index", "Last entry known to be committed"),
            applied_index: wide("raft_applied_index", "Last entry in the database"),
            durable_index: wide("raft_checkpointed_index", "Last entry in the synced database file"),
            wal_pages: wide("sqlite_wal_pages", "Pages in SQLite's WAL"),
            compared_index: wide(
                "database_compared_index",
                "Entry after which the members' databases were compared last",
            ),
            reinstalls: wide(
                "database_reinstalls",
                "How often this member's database was wrong and another's took its place, since the start",
            ),
            log_flushes: wide("log_flushes", "Syncs of Raft's log since the start"),
            log_written: wide("log_written_bytes", "Bytes written to Raft's log since the start"),
            log_segments: wide("log_segments", "Segment files of Raft's log"),
            archive_lag: wide(
                "archive_lag_milliseconds",
                "How far the archive is behind; 0 on members that do not lead",
            ),
            archive_segments: wide("archive_segments", "Segments put into the archive since the start"),
            archive_bytes: wide("archive_written_bytes", "Bytes put into the archive since the start"),
            changes_events: wide(
                "changes_captured",
                "Changes of rows captured since capture was switched on",
            ),
            changes_bytes: wide("changes_kept_bytes", "Bytes of captured changes that are kept"),
            changes_lost: wide(
                "changes_lost",
                "Changes dropped before the sink had them: it was away too long",
            ),
            changes_watermark: wide("changes_high_watermark", "The sink has all changes up to this entry"),
            changes_delivered: wide(
                "changes_delivered",
                "Changes that the sink took from here since the start",
            ),
            changes_failed: wide(
                "changes_failed_attempts",
                "Envelopes that the sink did not take, since the start",
            ),
            changes_given_up: wide("changes_given_up", "Changes given up after transmit_max_retries"),
            changes_lag: wide(
                "changes_lag_milliseconds",
                "Age of the oldest change that waits for the sink; 0 on members that do not send",
            ),
            otlp_pushes,
            otlp_spans,
            vacuums,
            optimizes,
            vacuum_last,
            optimize_last,
            registry,
            requests,
            in_flight,
            duration,
            leader,
            ready,
            damaged,
            fatal_entry,
            consistent,
            voters,
            learners,
        }
    }
}

impl NodeMetrics {
    /// Counts a request in.
    pub fn request_started(&self) -> InFlight {
        self.in_flight.inc();
        InFlight { since: Instant::now(), gauge: self.in_flight.clone() }
    }

    /// Counts a request out.
    pub fn request_ended(&self, started: InFlight, kind: RequestKind, status: StatusCode) {
        self.duration.get_or_create(&[("kind", kind.name())]).observe(started.since.elapsed().as_secs_f64());
        self.requests.get_or_create(&[("code", status.as_str().to_owned())]).inc();
    }

    /// The present numbers as text.
    pub fn encode(
        &self,
        consensus: &Consensus,
        tls: Option<&ServerTls>,
        archive: &ArchiveNumbers,
        changes: &ChangesNumbers,
        counters: &Counters,
        otlp: Option<&Otlp>,
    ) -> String {
        if let Some(otlp) = otlp {
            let numbers = &otlp.numbers;
            for (signal, pushed) in [("metrics", &numbers.metrics), ("traces", &numbers.traces)] {
                for (outcome, count) in [("done", &pushed.done), ("failed", &pushed.failed)] {
                    let labels = [("signal", signal), ("outcome", outcome)];
                    self.otlp_pushes.get_or_create(&labels).set(count.load(Ordering::Relaxed));
                }
            }
            let spans =
                [("pushed", numbers.spans.load(Ordering::Relaxed)), ("dropped", otlp.dropped_spans())];
            for (outcome, count) in spans {
                self.otlp_spans.get_or_create(&[("outcome", outcome)]).set(count);
            }
        }
        match consensus.store().capture() {
            Ok(state) => {
                let number = |f: fn(&CaptureState) -> u64| state.as_ref().map_or(0, f);
                self.changes_events.set(number(|state| state.events));
                self.changes_bytes.set(number(|state| state.bytes));
                self.changes_lost.set(number(|state| state.lost));
                self.changes_watermark.set(number(|state| state.delivered));
            }
            Err(error) => tracing::warn!(%error, "the numbers of captured changes are not known"),
        }
        self.changes_delivered.set(changes.delivered.load(Ordering::Relaxed));
        self.changes_failed.set(changes.failed.load(Ordering::Relaxed));
        self.changes_given_up.set(changes.given_up.load(Ordering::Relaxed));
        self.changes_lag.set(changes.lag_milliseconds());
        self.archive_lag.set(archive.lag_milliseconds.load(Ordering::Relaxed));
        self.archive_segments.set(archive.segments.load(Ordering::Relaxed));
        self.archive_bytes.set(archive.bytes.load(Ordering::Relaxed));
        let ends = [("client", tls.map(ServerTls::not_after)), ("peer", consensus.certificate_not_after())];
        for (port, not_after) in ends {
            if let Some(not_after) = not_after {
                self.certificates.get_or_create(&[("port", port)]).set(not_after);
            }
        }
        let report = consensus.report();
        let state = consensus.store().state().current();
        let log = consensus.log_stats();
        let voters = report.membership.members.iter().filter(|m| m.voter).count();
        for (family, outcome, counted) in [
            (&self.vacuums, "done", Counted::AutoVacuums),
            (&self.vacuums, "failed", Counted::AutoVacuumsFailed),
            (&self.optimizes, "done", Counted::AutoOptimizes),
            (&self.optimizes, "failed", Counted::AutoOptimizesFailed),
        ] {
            family.get_or_create(&[("outcome", outcome)]).set(counters.get(counted));
        }
        self.vacuum_last.set(state.maintained.vacuum_us / 1_000_000);
        self.optimize_last.set(state.maintained.optimize_us / 1_000_000);
        self.leader.set(i64::from(report.role == Role::Leader));
        self.ready.set(i64::from(report.phase == Phase::Serving));
        self.term.set(report.term);
        self.last_log_index.set(report.last_log_index);
        self.committed_index.set(report.committed_index);
        self.applied_index.set(report.applied_index);
        self.fatal_entry.set(i64::from(report.fatal_entry.is_some()));
        self.damaged.set(i64::from(consensus.store().damage().observe(Option::is_some)));
        let found = consensus.consistency().observe(|verdict| verdict.report());
        let is_well = matches!(found.state, ConsistencyState::Unknown | ConsistencyState::Consistent);
        self.consistent.set(i64::from(is_well));
        self.compared_index.set(found.index.unwrap_or(0));
        self.reinstalls.set(consensus.reinstalls());
        for (reason, count) in consensus.refused_peers().counted() {
            self.refused_peers.get_or_create(&[("reason", reason.name())]).set(count);
        }
        self.durable_index.set(state.durable.log_id.map_or(0, |id| id.index));
        self.wal_pages.set(state.wal_pages);
        self.log_flushes.set(log.flushes);
        self.log_written.set(log.bytes_written);
        self.log_segments.set(log.segments as u64);
        self.voters.set(voters as i64);
        self.learners.set((report.membership.members.len() - voters) as i64);
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "cannot write the metrics");
        }
        text
    }
}

#[cfg(test)]
#[path = "../../operator/tests/support/expressions.rs"]
mod expressions;

#[cfg(test)]
mod tests {
    use super::expressions::{OF_THE_TARGET, Series, asked, series};
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Series as they are printed. A family prints nothing before it has a member, so each has one.
    fn printed() -> Series {
        let metrics = NodeMetrics::default();
        metrics.request_ended(metrics.request_started(), RequestKind::Sql, StatusCode::OK);
        metrics.certificates.get_or_create(&[("port", "client")]).set(0);
        metrics.otlp_pushes.get_or_create(&[("signal", "metrics"), ("outcome", "done")]).set(0);
        for family in [&metrics.otlp_spans, &metrics.vacuums, &metrics.optimizes] {
            family.get_or_create(&[("outcome", "done")]).set(0);
        }
        metrics.refused_peers.get_or_create(&[("reason", "removed")]).set(0);
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        series(&text)
    }

    /// Expressions of the alerts, each with what its summary quotes of the result.
    fn alerts(text: &str) -> Vec<(String, String)> {
        let alerts: serde_json::Value = serde_yaml::from_str(text).unwrap();
        let groups = alerts["groups"].as_array().unwrap();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        rules.map(|rule| (text(&rule["expr"]), text(&rule["annotations"]["summary"]))).collect()
    }

    /// Expressions of the panels.
    fn queries(text: &str) -> Vec<(String, String)> {
        let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        targets.map(|target| (target["expr"].as_str().unwrap().to_owned(), String::new())).collect()
    }

    #[test]
    fn what_alerts_and_the_dashboard_ask_for_is_printed() {
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/sqlite-operator/files");
        let printed = printed();
        let read = |file: &str| std::fs::read_to_string(files.join(file)).unwrap();
        let all = [
            ("alerts", 3, alerts(&read("alerts.yaml"))),
            ("the dashboard", 8, queries(&read("dashboard.json"))),
        ];
        for (what, least, expressions) in all {
            let mut names = BTreeSet::new();
            for (expression, summary) in expressions {
                let (asked, missing) = asked(&expression, &summary, "sqlited_", &printed);
                assert_eq!(missing, Vec::<String>::new(), "{expression}: there are {printed:#?}");
                names.extend(asked);
            }
            assert!(names.len() >= least, "{what}: {names:?}");
        }
    }

    #[test]
    fn no_label_is_one_that_prometheus_gives() {
        for (name, labels) in printed() {
            let taken: Vec<_> =
                labels.iter().filter(|label| OF_THE_TARGET.contains(&label.as_str())).collect();
            assert!(taken.is_empty(), "{name} has {taken:?}");
        }
    }
}
