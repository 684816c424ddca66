//! `/debug/vars`: what happened how often since the start, in the maps and under the names of rqlite.

use super::App;
use super::params::Params;
use super::respond::{self, Answer};
use crate::observe::Observe as _;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($variant:ident $group:literal $name:literal $meaning:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $(#[doc = $meaning] $variant,)* }

        /// Map and name of each, in the order of the enum.
        const NAMES: &[(&str, &str)] = &[$(($group, $name),)*];
    };
}

counters! {
    Executions "http" "executions" "Requests to `/db/execute`.",
    QueuedExecutions "http" "queued_executions" "Of these, queued ones.",
    QueuedExecutionsOk "http" "queued_executions_ok" "Queued requests that were applied.",
    QueuedExecutionsFailed "http" "queued_executions_failed" "Queued requests of which it is not known.",
    QueuedExecutionsNoLeader "http" "queued_executions_no_leader" "Attempts to flush without a leader.",
    QueuedExecutionsWait "http" "queued_executions_wait" "Queued requests that waited for the flush.",
    QueuedStatementsReceived "http" "queued_executions_num_stmts_rx" "Statements that were queued.",
    QueuedStatementsSent "http" "queued_executions_num_stmts_tx" "Queued statements that were applied.",
    Queries "http" "queries" "Requests to `/db/query`.",
    Requests "http" "requests" "Requests to `/db/request`.",
    Backups "http" "backups" "Backups.",
    Loads "http" "loads" "Loads.",
    Boots "http" "boot" "Boots.",
    RemoteExecutions "http" "remote_executions" "Writes that another member proposed.",
    RemoteQueries "http" "remote_queries" "Queries that another member ran.",
    RemoteBackups "http" "remote_backups" "Backups that another member sent.",
    RemoteLoads "http" "remote_loads" "Loads that another member did.",
    RemoteRemoveNode "http" "remote_remove_node" "Removals that another member did.",
    RemoteStepdowns "http" "remote_stepdowns" "Hand-overs that another member did.",
    LeaderNotFound "http" "leader_not_found" "Requests that found no leader.",
    Statuses "http" "num_status" "Requests to `/status`.",
    Readies "http" "num_readyz" "Requests to `/readyz`.",
    UserSnapshots "http" "user_snapshots" "Requests to `/snapshot`.",
    UserReaps "http" "user_reaps" "Requests to `/reap`.",
    AuthOk "http" "authOK" "Requests that whoever sent them may send, also where everybody may do everything.",
    AuthFail "http" "authFail" "Requests that were refused for their credentials.",
    Snapshots "store" "num_snapshots" "Purges of the log behind a complete checkpoint, on request.",
    Restores "store" "num_restores" "Databases of others that took the place of this member's.",
    RestoresStart "store" "num_restores_start" "Of these, at the start: none, the database file is the snapshot.",
    RestoresStartSkipped "store" "num_restores_start_skipped" "Starts with a database that needed no restore.",
    IgnoredJoins "store" "num_ignored_joins" "Joins, on the leader, of members that were there already, also to ask for a vote.",
    RemovedBeforeJoins "store" "num_removed_before_joins" "Joins, on the leader, of members that were there under other addresses.",
    AutoVacuums "store" "num_auto_vacuums" "VACUUMs at an interval.",
    AutoVacuumsFailed "store" "num_auto_vacuums_failed" "Of these, what came to nothing.",
    AutoVacuumDuration "store" "auto_vacuum_duration" "How long the last one took, in milliseconds.",
    AutoOptimizes "store" "num_auto_optimizes" "Looks at the planner's statistics at an interval.",
    AutoOptimizesFailed "store" "num_auto_optimizes_failed" "Of these, what came to nothing.",
    AutoOptimizeDuration "store" "auto_optimize_duration" "How long the last one took, in milliseconds.",
    JoinRequests "cluster" "num_join_req" "Requests to join.",
    ForcedConnections "cluster" "num_client_force_new_conn" "Connections to members in the place of broken ones.",
    UploadsOk "uploader" "num_uploads_ok" "Automatic backups that were uploaded.",
    UploadsFail "uploader" "num_uploads_fail" "Automatic backups that could not be uploaded.",
    UploadsSkipped "uploader" "num_uploads_skipped" "Automatic backups without news.",
    UploadsSkippedId "uploader" "num_uploads_skipped_id" "Automatic backups that were there already.",
}

/// All of them, from 0.
#[derive(Debug)]
pub struct Counters {
    values: [AtomicU64; NAMES.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { values: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Counters {
    /// It happened once.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// It happened `n` times.
    pub fn add(&self, counter: Counter, n: usize) {
        self.values[counter as usize].fetch_add(n as u64, Ordering::Relaxed);
    }

    /// It is `n` now.
    pub fn set(&self, counter: Counter, n: u64) {
        self.values[counter as usize].store(n, Ordering::Relaxed);
    }

    /// How often it happened.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }

    fn groups(&self) -> Map<String, Value> {
        let mut groups = Map::new();
        for ((group, name), value) in NAMES.iter().zip(&self.values) {
            if let Value::Object(group) = groups.entry(*group).or_insert_with(|| json!({})) {
                group.insert((*name).to_owned(), value.load(Ordering::Relaxed).into());
            }
        }
        groups
    }
}

/// `/debug/vars`
pub fn vars(app: &App, params: &Params) -> Answer {
    for (counter, n) in [
        (Counter::JoinRequests, app.consensus.joins()),
        (Counter::IgnoredJoins, app.consensus.ignored_joins()),
        (Counter::RemovedBeforeJoins, app.consensus.moved_joins()),
        (Counter::ForcedConnections, app.consensus.reconnections()),
        (Counter::Restores, app.consensus.restores()),
    ] {
        app.counters.set(counter, n);
    }
    let mut all = app.counters.groups();
    let state = app.consensus.store().state().current();
    let log = app.consensus.log_stats();
    all.insert("db".into(), json!({ "wal_pages": state.wal_pages, "generation": state.generation }));
    all.insert(
        "snapshot".into(),
        json!({ "checkpointed_index": state.durable.log_id.map_or(0, |id| id.index) }),
    );
    all.insert("log".into(), json!({ "flushes": log.flushes, "bytes_written": log.bytes_written }));
    all.insert("cmdline".into(), std::env::args().collect::<Vec<_>>().into());
    all.insert("memstats".into(), json!({ "Sys": resident_bytes() }));
    let part: Vec<(String, Value)> = match params.get("key") {
        None | Some("") => all.into_iter().collect(),
        Some(key) => all.into_iter().filter(|(name, _)| name == key).collect(),
    };
    let lines: Vec<String> = part.iter().map(|(name, value)| format!("{}: {value}", json!(name))).collect();
    respond::json(StatusCode::OK, format!("{{\n{}\n}}\n", lines.join(",\n")).into_bytes(), false)
}

/// Memory of this process, from `/proc`; 0 where there is none.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_place_and_begins_with_nothing() {
        let counters = Counters::default();
        counters.count(Counter::Executions);
        counters.add(Counter::UploadsSkippedId, 2);
        let groups = counters.groups();
        assert_eq!(groups["http"]["executions"], 1);
        assert_eq!(groups["uploader"]["num_uploads_skipped_id"], 2);
        let all: u64 = groups
            .values()
            .flat_map(|g| g.as_object())
            .flat_map(|g| g.values())
            .filter_map(Value::as_u64)
            .sum();
        assert_eq!(all, 3);
        assert_eq!(counters.get(Counter::UploadsSkippedId), 2);
    }
}
