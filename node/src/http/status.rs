//! `/status` and `/readyz`.

use super::counters::Counter;
use super::params::{Params, format_duration};
use super::respond::{self, Answer};
use super::sql::bad_param;
use super::{About, App, Entrance, RQLITE_VERSION};
use crate::auth::Authenticator;
use crate::observe::Observe as _;
use crate::raft::{Consensus, ExtensionsReport, RequestError};
use crate::tls::ServerTls;
use axum::http::StatusCode;
use client::admin::{MemberReport, Phase, Role};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long `/readyz` waits, unless it is told.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const NODE_OK: &str = "[+]node ok";
const NO_LEADER: &str = "\n[+]leader does not exist";

/// `GET /status`
pub async fn status(app: &Arc<App>, params: &Params) -> Answer {
    app.counters.count(Counter::Statuses);
    let told = app.clone();
    // It looks at files and asks SQLite: other requests do not wait for that.
    let whole = match tokio::task::spawn_blocking(move || whole(&told)).await {
        Ok(whole) => whole,
        Err(error) => return respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    part(whole, params)
}

/// The same before log and database are open.
pub fn status_before_open(entrance: &Entrance, params: &Params) -> Answer {
    entrance.counters.count(Counter::Statuses);
    let mut whole = known(&entrance.about, entrance.auth.as_deref(), entrance.tls.as_deref());
    whole["store"] = json!({ "open": false });
    part(whole, params)
}

/// The part that is asked for.
fn part(whole: Value, params: &Params) -> Answer {
    let part = match params.get("key") {
        None | Some("") => whole,
        Some(key) => {
            key.split('.').try_fold(whole, |value, name| value.get(name).cloned()).unwrap_or(json!({}))
        }
    };
    respond::json_value(StatusCode::OK, &part, params.flag("pretty"))
}

fn raft_state(role: Role) -> &'static str {
    match role {
        Role::Leader => "Leader",
        Role::Candidate => "Candidate",
        Role::Shutdown => "Shutdown",
        // rqlite knows no third word: a read replica follows.
        Role::Follower | Role::Learner => "Follower",
    }
}

/// What is known from the start of the process on.
fn known(about: &About, auth: Option<&Authenticator>, tls: Option<&ServerTls>) -> Value {
    json!({
        "build": {
            "version": crate::VERSION,
            "rqlite_api": RQLITE_VERSION,
            "sqlite_version": crate::store::sqlite_version(),
            "commit": option_env!("GIT_COMMIT").unwrap_or("unknown"),
            "build_time": option_env!("BUILD_TIME").unwrap_or("unknown"),
            "compiler": "rustc",
        },
        "os": { "pid": std::process::id(), "ppid": std::os::unix::process::parent_id() },
        "runtime": {
            "GOOS": std::env::consts::OS,
            "GOARCH": std::env::consts::ARCH,
            "num_cpu": std::thread::available_parallelism().map_or(1, usize::from),
        },
        "http": {
            "bind_addr": about.http_bind,
            "auth": if auth.is_some() { "enabled" } else { "disabled" },
            "users_revision": auth.map(Authenticator::revision),
            "tls": { "enabled": tls.is_some().to_string(), "not_after": tls.map(ServerTls::not_after) },
        },
        "node": {
            "start_time": about.started.to_string(),
            "uptime": format!("{:.0}s", crate::clock::now().duration_since(about.started).as_secs_f64()),
            "current_time": crate::clock::now().to_string(),
        },
    })
}

fn whole(app: &App) -> Value {
    let report = app.consensus.report();
    let mut whole = known(&app.about, app.auth.as_deref(), app.tls.as_deref());
    whole["http"]["queue"] = json!({ "_default": queue(app) });
    for (name, value) in [
        (
            "network",
            json!({
                "raft_address": report.raft_address,
                "api_address": report.api_address,
                "tls": { "not_after": app.consensus.certificate_not_after() },
            }),
        ),
        ("mux", json!({ "addr": report.raft_address, "timeout": "1.5s" })),
        ("extensions", extensions(&app.consensus)),
        ("store", store(app, &report)),
        ("cluster", serde_json::to_value(&report).unwrap_or_default()),
    ] {
        whole[name] = value;
    }
    if !app.about.discovery.is_empty() {
        let (last_contact, error) = app.about.registry.report();
        whole["disco"] = json!({ "mode": app.about.discovery });
        if let Some(at) = last_contact {
            whole["disco"]["last_contact"] = json!(at.to_string());
        }
        if let Some(error) = error {
            whole["disco"]["error"] = json!(error);
        }
    }
    if let Some(backups) = &app.auto_backups {
        whole["auto_backups"] = backups.report();
    }
    if let Some(otlp) = &app.otlp {
        for (name, status) in otlp.status() {
            whole[name] = status;
        }
    }
    if let Some(at) = app.last_backup.time() {
        whole["last_backup_time"] = json!(at.to_string());
    }
    if let Some(changes) = app.changes.status() {
        whole["cdc"] = changes;
    }
    whole
}

fn extension_names(consensus: &Consensus) -> Vec<String> {
    consensus.store().extensions().set().files().iter().map(|file| file.name.clone()).collect()
}

fn extensions(consensus: &Consensus) -> Value {
    let store = consensus.store();
    json!({
        "names": extension_names(consensus),
        "present": ExtensionsReport::from(store.extensions().set()),
        "configured": ExtensionsReport::from(store.shelf().wanted()),
        "message": consensus.extensions_message(),
    })
}

fn queue(app: &App) -> Value {
    let config = app.queue.config();
    json!({
        "sequence_number": app.queue.sequence(),
        "max_size": config.capacity,
        "batch_size": config.batch_size,
        "timeout": format_duration(config.timeout),
    })
}

/// Bytes of the files of a directory and of those in it.
fn directory_size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => directory_size(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.len(),
            // The link to the present generation is not counted twice.
            _ => 0,
        })
        .sum()
}

fn consistency(consensus: &Consensus) -> Value {
    let found = consensus.consistency().observe(|verdict| verdict.report());
    json!({
        "state": found.state,
        "index": found.index,
        "message": found.message,
        "reinstalls": consensus.reinstalls(),
    })
}

fn refused_peers(consensus: &Consensus) -> Value {
    let counted = consensus.refused_peers().counted();
    counted
        .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn store(app: &App, report: &MemberReport) -> Value {
    let consensus = &app.consensus;
    let state = consensus.store().state().current();
    let own_id = consensus.identity().node_id();
    let leader = report.leader.as_ref().map(|l| {
        let address = report.leading_member().map_or("", |m| m.raft_address.as_str());
        json!({ "node_id": l.name, "addr": address })
    });
    let nodes: Vec<Value> = report
        .membership
        .members
        .iter()
        .map(|m| {
            let suffrage = if m.voter { "Voter" } else { "Nonvoter" };
            json!({ "id": m.name, "addr": m.raft_address, "suffrage": suffrage })
        })
        .collect();
    let voter = report.membership.members.iter().any(|m| m.node_id == own_id && m.voter);
    let log = consensus.log_stats();
    let path = consensus.store().database_path();
    let size = |suffix: &str| {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        std::fs::metadata(name).map_or(0, |m| m.len())
    };
    let durable = state.durable.log_id;
    let first_kept = consensus.first_log_index();
    let last_contact = match consensus.leader_silence() {
        _ if report.role == Role::Leader => "0".to_owned(),
        None => "never".to_owned(),
        Some(silence) => format!("{silence:.3?}"),
    };
    let foreign_keys = consensus.store().foreign_keys();
    let diagnostics = consensus.store().readers().diagnostics();
    let election = consensus.config().profile.election_timeout;
    let heartbeat = consensus.config().profile.heartbeat;
    let mut store = json!({
        "open": true,
        "node_id": report.name,
        "addr": report.raft_address,
        "leader": leader.unwrap_or_else(|| json!({ "node_id": "", "addr": "" })),
        "ready": report.phase == Phase::Serving,
        "fsm_index": report.applied_index,
        "fsm_term": state.applied.log_id.map_or(0, |id| id.term),
        "db_applied_index": report.applied_index,
        "strong_read_term": consensus.strong_read_term(),
        "apply_timeout": format_duration(app.apply_timeout),
        "heartbeat_timeout": format_duration(heartbeat),
        "election_timeout": format_duration(election),
        "commit_timeout": format_duration(heartbeat),
        "snapshot_threshold": 0,
        "snapshot_interval": "0s",
        "trailing_logs": report.last_log_index.saturating_sub(first_kept),
        "nodes": nodes,
        "dir": consensus.config().directory.display().to_string(),
        "dir_size": directory_size(&consensus.config().directory),
        "db_conf": { "fk_constraints": foreign_keys.are_enforced() },
        "snapshot_store": {
            "dir": consensus.config().directory.display().to_string(),
            "dir_size": size(""),
            // The database file, synced up to there, is the only one.
            "snapshots": durable.map(|id| format!("{}-{}", id.term, id.index)).into_iter().collect::<Vec<_>>(),
        },
        "raft": {
            "state": raft_state(report.role),
            "term": report.term,
            "commit_index": report.committed_index,
            "applied_index": report.applied_index,
            "last_log_index": report.last_log_index,
            "last_log_term": report.last_log_term,
            "last_contact": last_contact,
            "fsm_pending": report.committed_index.saturating_sub(report.applied_index),
            "num_peers": report.membership.members.iter().filter(|m| m.voter).count().saturating_sub(1),
            "voter": voter,
            "log_size": log.segment_bytes,
            "last_snapshot_index": durable.map_or(0, |id| id.index),
            "last_snapshot_term": durable.map_or(0, |id| id.term),
        },
        "checksum": consensus.store().last_checksum().map(|checksum| {
            json!({ "index": checksum.index, "sum": format!("{:016x}", checksum.sum) })
        }),
        "consistency": consistency(consensus),
        "fatal_entry": report.fatal_entry,
        "sqlite3": {
            "path": path.display().to_string(),
            "version": crate::store::sqlite_version(),
            "engine": consensus.store().engine(),
            "db_size": size(""),
            "size": size("") + size("-wal"),
            "wal_size": size("-wal"),
            "compile_options": diagnostics.compile_options,
            "extensions": extension_names(consensus),
            "mem_stats": diagnostics.memory,
            "conn_pool_stats": { "ro": { "idle": diagnostics.idle_readers }, "rw": { "open_connections": 1 } },
            "pragmas": { "ro": diagnostics.reader, "rw": diagnostics.writer },
        },
    });
    store["damaged_page"] = json!(consensus.store().damage().current().map(|damage| damage.page));
    store["load"] = json!({ "lacks_confinement": consensus.store().lacks_confinement() });
    store["set_aside"] = json!(set_aside(consensus));
    store["foreign_keys"] = json!({
        "enforced": foreign_keys.are_enforced(),
        "configured": foreign_keys.configured,
        "message": consensus.foreign_keys_message(),
    });
    store["refused_peers"] = refused_peers(consensus);
    let rolled_back = consensus.rolled_back().into_iter();
    store["rolled_back"] = rolled_back.map(|(id, why)| json!({ "node_id": id, "message": why })).collect();
    for (name, status) in app.maintenance.status() {
        if let Some(status) = status {
            store[name] = status;
        }
    }
    store
}

/// Name of the directory with what this member had before it came back as a new one.
fn set_aside(consensus: &Consensus) -> Option<String> {
    let kept = crate::set_aside::kept(&consensus.config().directory);
    kept.ok()??.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// `GET /readyz`
pub async fn ready(app: &App, params: &Params) -> Answer {
    app.counters.count(Counter::Readies);
    let patience = match params.patience("timeout", READY_TIMEOUT) {
        Ok(patience) => patience,
        Err(error) => return bad_param(&error),
    };
    match readiness(app, params, Instant::now() + patience).await {
        Ok(lines) => respond::text(StatusCode::OK, lines),
        Err(lines) => respond::text(StatusCode::SERVICE_UNAVAILABLE, lines),
    }
}

/// The same before log and database are open: who leads is not known.
pub fn ready_before_open(entrance: &Entrance, params: &Params) -> Answer {
    entrance.counters.count(Counter::Readies);
    if params.flag("noleader") {
        return respond::text(StatusCode::OK, NODE_OK.into());
    }
    respond::text(StatusCode::SERVICE_UNAVAILABLE, format!("{NODE_OK}{NO_LEADER}"))
}

/// What is in order, a line each, up to the first thing that is not.
async fn readiness(app: &App, params: &Params, deadline: Instant) -> Result<String, String> {
    let mut lines = NODE_OK.to_owned();
    if params.flag("noleader") {
        return Ok(lines);
    }
    let report = app.consensus.report();
    let leader = report.leading_member().filter(|_| app.consensus.knows_leader());
    let Some(leader) = leader else { return Err(lines + NO_LEADER) };
    if leader.node_id != report.node_id {
        let left = deadline.saturating_duration_since(Instant::now());
        let asked = app.consensus.describe_peer(leader.node_id, &leader.raft_address, left).await;
        if let Err(error) = asked {
            return Err(format!("{lines}\n[+]leader not contactable: {error}"));
        }
    }
    lines += "\n[+]leader ok";
    if !matches!(report.phase, Phase::Serving | Phase::Draining) {
        return Err(lines + "\n[+]store not ready");
    }
    lines += "\n[+]store ok";
    if params.flag("sync") {
        if let Err(error) = synced(app, deadline).await {
            return Err(format!("{lines}\n[+]sync {error}"));
        }
        lines += "\n[+]sync ok";
    }
    match app.consensus.store().readers().applied() {
        Ok(_) => Ok(lines + "\n[+]db ok"),
        Err(error) => Err(format!("{lines}\n[+]db not ok: ({error})")),
    }
}

/// Waits until this member has applied what a quorum has committed by now.
async fn synced(app: &App, deadline: Instant) -> Result<(), RequestError> {
    let confirmed = timeout_at(deadline, app.consensus.confirmed_index()).await;
    let index = confirmed.unwrap_or(Err(RequestError::NoQuorum))?;
    match timeout_at(deadline, app.consensus.store().until_applied(index)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(RequestError::Internal("the writer has stopped".into())),
        Err(_) => Err(RequestError::Behind(index)),
    }
}
