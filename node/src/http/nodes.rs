//! `/nodes`, `/leader`, `/remove`, `/snapshot`, `/reap`: members as rqlite's tools see them, by name.

use super::counters::Counter;
use super::params::Params;
use super::receive::read_small;
use super::respond::{self, Answer};
use super::sql::{Incoming, bad_param, served_by};
use super::{App, Scheme, redirect};
use crate::observe::Observe as _;
use crate::raft::Described;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use client::admin::{Member, MemberReport, RefusalReason, Transfer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BODY_LIMIT: usize = 64 << 10;
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// A member in rqlite's shape.
#[derive(Clone, Debug, Serialize)]
struct NodeView {
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_addr: String,
    addr: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    voter: bool,
    reachable: bool,
    leader: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_s: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
}

/// How far a member is, with `progress`.
#[derive(Clone, Debug, Serialize)]
struct Progress {
    term: u64,
    applied_index: Option<u64>,
    checksum: Option<ChecksumView>,
}

#[derive(Clone, Debug, Serialize)]
struct ChecksumView {
    index: u64,
    sum: String,
}

impl Progress {
    fn of(described: &Described) -> Self {
        let view = |(index, sum)| ChecksumView { index, sum: format!("{sum:016x}") };
        Self {
            term: described.term,
            applied_index: described.applied_index,
            checksum: described.checksum.map(view),
        }
    }
}

/// Asks a member who it is.
async fn probe(
    app: Arc<App>,
    scheme: Scheme,
    member: Member,
    leader: Option<String>,
    timeout: Duration,
) -> NodeView {
    let started = Instant::now();
    let own = member.node_id == app.consensus.identity().node_id();
    let described = if own {
        Ok(app.consensus.described())
    } else {
        let asked = app.consensus.describe_peer(member.node_id, &member.raft_address, timeout).await;
        asked.map_err(|e| e.to_string())
    };
    let elapsed = started.elapsed();
    let is_leader = leader.as_deref() == Some(member.name.as_str());
    let mut view = NodeView {
        id: member.name,
        api_addr: format!("{}://{}", scheme.as_str(), member.api_address),
        addr: member.raft_address,
        version: String::new(),
        voter: member.voter,
        reachable: false,
        leader: is_leader,
        time: None,
        time_s: None,
        error: None,
        progress: None,
    };
    match described {
        Ok(described) => {
            view.progress = Some(Progress::of(&described));
            view.api_addr = format!("{}://{}", scheme.as_str(), described.api_address);
            view.version = described.version;
            view.reachable = true;
            view.time = Some(elapsed.as_secs_f64());
            view.time_s = Some(format!("{elapsed:?}"));
        }
        Err(error) => view.error = Some(error),
    }
    view
}

/// `GET /nodes`
pub async fn nodes(app: &Arc<App>, scheme: Scheme, params: &Params) -> Answer {
    let timeout = match params.patience("timeout", PROBE_TIMEOUT) {
        Ok(timeout) => timeout,
        Err(error) => return bad_param(&error),
    };
    let report = app.consensus.report();
    let leader = report.leader.map(|l| l.name);
    let with_learners = params.flag("nonvoters");
    let members = report.membership.members.into_iter().filter(|m| m.voter || with_learners);
    let probes = members.map(|m| probe(app.clone(), scheme, m, leader.clone(), timeout));
    let mut views = futures::future::join_all(probes).await;
    views.sort_by(|a, b| a.id.cmp(&b.id));
    if !params.flag("progress") {
        // Tools made for rqlite get what rqlite says.
        views.iter_mut().for_each(|view| view.progress = None);
    }
    let pretty = params.flag("pretty");
    if params.get("ver") == Some("2") {
        #[derive(Serialize)]
        struct List {
            nodes: Vec<NodeView>,
        }
        return respond::json_value(StatusCode::OK, &List { nodes: views }, pretty);
    }
    let by_name: BTreeMap<String, NodeView> = views.into_iter().map(|v| (v.id.clone(), v)).collect();
    respond::json_value(StatusCode::OK, &by_name, pretty)
}

/// Peer address of the leader that does what is asked for; none if that is this member.
fn leader_elsewhere(report: &MemberReport) -> Option<String> {
    let leader = report.leading_member().filter(|leader| leader.node_id != report.node_id);
    leader.map(|leader| leader.raft_address.clone())
}

/// The answer to what was done here, or by the leader at `forwarded_to`.
fn done_by(app: &App, forwarded_to: Option<&str>, counter: Counter) -> Answer {
    if forwarded_to.is_some() {
        app.counters.count(counter);
    }
    let mut answer = respond::empty(StatusCode::OK);
    served_by(app, &mut answer, forwarded_to);
    answer
}

/// `GET /leader`, `POST /leader`
pub async fn leader(app: &Arc<App>, incoming: Incoming) -> Answer {
    let report = app.consensus.report();
    if incoming.method == Method::GET {
        let member = report.leading_member().filter(|_| app.consensus.knows_leader());
        return match member.cloned() {
            None => redirect::no_leader(app),
            Some(member) => {
                let name = Some(member.name.clone());
                let probed = probe(app.clone(), incoming.scheme, member, name, PROBE_TIMEOUT).await;
                let view = NodeView { progress: None, ..probed };
                respond::json_value(StatusCode::OK, &view, incoming.params.flag("pretty"))
            }
        };
    }
    if incoming.params.flag("redirect")
        && let Some(answer) = redirect::to_leader(app, incoming.scheme, &incoming.uri)
    {
        return answer;
    }
    if !app.consensus.knows_leader() {
        return redirect::no_leader(app);
    }
    // Who leads now: afterwards it is another one.
    let forwarded_to = leader_elsewhere(&report);
    #[derive(Default, Deserialize)]
    struct StepDown {
        #[serde(default)]
        id: Option<String>,
    }
    let is_json =
        incoming.headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    let body = match read_small(incoming.body, BODY_LIMIT).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let wish = if is_json && !body.is_empty() {
        // `null` is nobody in particular.
        match serde_json::from_slice::<Option<StepDown>>(&body) {
            Ok(wish) => wish.unwrap_or_default(),
            Err(error) => return respond::error(StatusCode::BAD_REQUEST, format!("invalid JSON: {error}")),
        }
    } else {
        StepDown::default()
    };
    let failed =
        |message: &str| respond::error(StatusCode::INTERNAL_SERVER_ERROR, format!("stepdown: {message}"));
    let to = match wish.id.filter(|id| !id.is_empty()) {
        None => None,
        Some(name) => match report.membership.members.iter().find(|m| m.name == name) {
            None => return failed("node not found in cluster"),
            Some(m) if report.leader.as_ref().is_some_and(|l| l.node_id == m.node_id) => {
                return failed("cannot step down to the current Leader");
            }
            Some(m) => Some(m.node_id),
        },
    };
    match app.consensus.transfer(Transfer { to }).await {
        Ok(_) => done_by(app, forwarded_to.as_deref(), Counter::RemoteStepdowns),
        Err(refusal) if refusal.reason == RefusalReason::NoLeader => redirect::no_leader(app),
        Err(refusal) if refusal.reason == RefusalReason::Unauthorized => {
            respond::error(StatusCode::UNAUTHORIZED, refusal.message)
        }
        Err(refusal) => failed(&refusal.message),
    }
}

/// `POST /snapshot`: of this member alone.
pub async fn snapshot(app: &App, params: &Params) -> Answer {
    let trailing = match params.integer("trailing_logs") {
        Ok(trailing) => trailing.map(|n| n.max(0) as u64),
        Err(error) => return respond::error(StatusCode::BAD_REQUEST, error),
    };
    app.counters.count(Counter::UserSnapshots);
    match app.consensus.snapshot(trailing).await {
        Ok(true) => {
            app.counters.count(Counter::Snapshots);
            respond::empty(StatusCode::OK)
        }
        Ok(false) => respond::empty(StatusCode::NO_CONTENT),
        Err(error) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// `POST /reap`: brings the database file up to date on disk. There are no older snapshots to join: the database file is
/// the only one.
pub async fn reap(app: &App) -> Answer {
    app.counters.count(Counter::UserReaps);
    let before = app.consensus.store().state().observe(|state| state.durable.log_id);
    match app.consensus.store().checkpoint().await {
        Ok(durable) => {
            let checkpointed = u8::from(durable.log_id != before);
            let body = format!("{{\"snapshots_reaped\":0,\"wals_checkpointed\":{checkpointed}}}\n");
            respond::json(StatusCode::OK, body.into_bytes(), false)
        }
        Err(error) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// `DELETE /remove`
pub async fn remove(app: &App, incoming: Incoming) -> Answer {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Remove {
        id: String,
    }
    if incoming.params.flag("redirect")
        && let Some(answer) = redirect::to_leader(app, incoming.scheme, &incoming.uri)
    {
        return answer;
    }
    if !app.consensus.knows_leader() {
        return redirect::no_leader(app);
    }
    let forwarded_to = leader_elsewhere(&app.consensus.report());
    let body = match read_small(incoming.body, BODY_LIMIT).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let Ok(Remove { id }) = serde_json::from_slice::<Remove>(&body) else {
        return respond::empty(StatusCode::BAD_REQUEST);
    };
    match app.consensus.remove_by_name(&id).await {
        Ok(_) => done_by(app, forwarded_to.as_deref(), Counter::RemoteRemoveNode),
        // As rqlite: removing who is not there succeeds.
        Err(refusal) if refusal.reason == RefusalReason::NoSuchMember => {
            done_by(app, None, Counter::RemoteRemoveNode)
        }
        Err(refusal) if refusal.reason == RefusalReason::NoLeader => redirect::no_leader(app),
        Err(refusal) if refusal.reason == RefusalReason::Unauthorized => {
            respond::error(StatusCode::UNAUTHORIZED, refusal.message)
        }
        Err(refusal) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, refusal.message),
    }
}
