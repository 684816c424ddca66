//! `/status` and `/readyz`.

use super::params::Params;
use super::respond::{self, Answer};
use super::{App, RQLITE_VERSION};
use axum::http::StatusCode;
use client::admin::{MemberReport, Phase, Role};
use serde_json::{Value, json};

/// `GET /status`
pub async fn status(app: &App, params: &Params) -> Answer {
    let whole = whole(app);
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

fn whole(app: &App) -> Value {
    let report = app.consensus.report();
    json!({
        "build": {
            "version": crate::VERSION,
            "rqlite_api": RQLITE_VERSION,
            "sqlite_version": crate::store::sqlite_version(),
            "commit": option_env!("GIT_COMMIT").unwrap_or("unknown"),
        },
        "os": { "pid": std::process::id(), "ppid": std::os::unix::process::parent_id() },
        "runtime": {
            "GOOS": std::env::consts::OS,
            "GOARCH": std::env::consts::ARCH,
            "num_cpu": std::thread::available_parallelism().map_or(1, usize::from),
        },
        "http": { "bind_addr": app.about.http_bind, "auth": "disabled", "tls": { "enabled": "false" } },
        "node": {
            "start_time": app.about.started.to_string(),
            "uptime": format!("{:.0}s", crate::clock::now().duration_since(app.about.started).as_secs_f64()),
            "current_time": crate::clock::now().to_string(),
        },
        "store": store(app, &report),
        "cluster": serde_json::to_value(&report).unwrap_or_default(),
    })
}

fn store(app: &App, report: &MemberReport) -> Value {
    let consensus = &app.consensus;
    let state = consensus.store().state().borrow().clone();
    let own_id = consensus.identity().node_id();
    let leader = report.leader.as_ref().map(|l| {
        let found = report.membership.members.iter().find(|m| m.node_id == l.node_id);
        json!({ "node_id": l.name, "addr": found.map_or("", |m| m.raft_address.as_str()) })
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
    let election = consensus.config().profile.election_timeout;
    let heartbeat = consensus.config().profile.heartbeat;
    json!({
        "open": true,
        "node_id": report.name,
        "addr": report.raft_address,
        "leader": leader.unwrap_or_else(|| json!({ "node_id": "", "addr": "" })),
        "ready": report.phase == Phase::Serving,
        "fsm_index": report.applied_index,
        "fsm_term": state.applied.log_id.map_or(0, |id| id.term),
        "db_applied_index": report.applied_index,
        "heartbeat_timeout": format!("{}ms", heartbeat.as_millis()),
        "election_timeout": format!("{}ms", election.as_millis()),
        "nodes": nodes,
        "dir": consensus.config().directory.display().to_string(),
        "db_conf": { "fk_constraints": app.about.foreign_keys },
        "raft": {
            "state": raft_state(report.role),
            "term": report.term,
            "commit_index": report.committed_index,
            "applied_index": report.applied_index,
            "last_log_index": report.last_log_index,
            "fsm_pending": report.committed_index.saturating_sub(report.applied_index),
            "num_peers": report.membership.members.iter().filter(|m| m.voter).count().saturating_sub(1),
            "voter": voter,
            "log_size": log.segments as u64 * consensus.config().log_segment_bytes,
            "last_snapshot_index": state.durable.log_id.map_or(0, |id| id.index),
            "last_snapshot_term": state.durable.log_id.map_or(0, |id| id.term),
        },
        "checksum": consensus.store().last_checksum().map(|checksum| {
            json!({ "index": checksum.index, "sum": format!("{:016x}", checksum.sum) })
        }),
        "damaged_page": consensus.store().damage().borrow().map(|damage| damage.page),
        "sqlite3": {
            "path": path.display().to_string(),
            "version": crate::store::sqlite_version(),
            "db_size": size(""),
            "size": size("") + size("-wal"),
            "wal_size": size("-wal"),
        },
    })
}

/// `GET /readyz`
pub async fn ready(app: &App, params: &Params) -> Answer {
    const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    if params.flag("noleader") {
        return respond::text(StatusCode::OK, "[+]node ok".into());
    }
    let report = app.consensus.report();
    if report.leader.is_none() {
        return respond::text(UNAVAILABLE, "[+]node ok\n[+]leader does not exist".into());
    }
    let caught_up = matches!(report.phase, Phase::Serving | Phase::Draining);
    if !caught_up {
        return respond::text(UNAVAILABLE, "[+]node ok\n[+]leader ok\n[+]store not ready".into());
    }
    let sync = if params.flag("sync") { "\n[+]sync ok" } else { "" };
    if report.phase == Phase::Failed {
        return respond::text(UNAVAILABLE, "[+]node ok\n[+]leader ok\n[+]store ok\n[+]db not ok".into());
    }
    respond::text(StatusCode::OK, format!("[+]node ok\n[+]leader ok\n[+]store ok{sync}\n[+]db ok"))
}
