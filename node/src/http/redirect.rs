//! `?redirect`: the client goes to the leader itself instead of being forwarded.

use super::counters::Counter;
use super::respond::{self, Answer};
use super::{App, Scheme};
use axum::http::{StatusCode, Uri};

/// The answer that sends the client to the leader; none if this member leads.
pub fn to_leader(app: &App, scheme: Scheme, uri: &Uri) -> Option<Answer> {
    if app.consensus.is_leader() {
        return None;
    }
    Some(match app.consensus.leader_api_address() {
        None => no_leader(app),
        Some(address) if address.is_empty() => {
            respond::error(StatusCode::INTERNAL_SERVER_ERROR, "leader not found")
        }
        Some(address) => {
            let path = uri.path_and_query().map_or("/", |p| p.as_str());
            let location = format!("{}://{address}{path}", scheme.as_str());
            respond::redirect(StatusCode::MOVED_PERMANENTLY, &location)
        }
    })
}

/// There is no leader.
pub fn no_leader(app: &App) -> Answer {
    app.counters.count(Counter::LeaderNotFound);
    respond::error(StatusCode::SERVICE_UNAVAILABLE, "leader not found")
}
