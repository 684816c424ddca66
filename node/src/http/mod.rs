//! The client port: rqlite's HTTP API and the administrative one, and the port for probes and metrics.

mod admin;
mod backup;
mod backups;
pub(crate) mod body;
mod bookmark;
mod changes;
mod console;
mod counters;
mod entrance;
mod health;
mod idempotency;
mod json;
mod load;
mod nodes;
mod pages;
pub mod params;
mod pretty;
mod queue;
mod receive;
mod redirect;
mod respond;
mod routes;
mod server;
mod sql;
mod status;

pub use counters::{Counter, Counters};
pub use entrance::Entrance;
pub use health::serve_health;
pub use queue::{Queue, QueueConfig};
pub use receive::BodyRoom;
pub use routes::{Access, ROUTES, Route};
pub use server::{Server, serve_clients};

use crate::auth::{Authenticator, Caller, Denied, Permissions};
use crate::backup::{AutoBackups, Backups, LastBackup};
use crate::changes::Changes;
use crate::cluster::RegistryContact;
use crate::maintenance::Maintenance;
use crate::metrics::{NodeMetrics, RequestKind};
use crate::otlp::Otlp;
use crate::raft::Consensus;
use crate::tls::ServerTls;
use crate::trace::{OpenSpan, TraceState};
use axum::body::Body;
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Request, StatusCode, Uri, Version, header};
use futures::future::Either;
use params::Params;
use respond::Answer;
use routes::{Endpoint, Match};
use sql::Incoming;
use std::sync::Arc;
use std::time::Duration;

/// Version of rqlite whose interface this is, as clients read it from each answer.
const RQLITE_VERSION: &str = "v10.0.0";

/// What requests are answered from.
pub struct App {
    /// The member.
    pub consensus: Arc<Consensus>,
    /// Counters and gauges.
    pub metrics: NodeMetrics,
    /// What happened how often.
    pub counters: Arc<Counters>,
    /// Queued writes.
    pub queue: Arc<Queue>,
    /// Who may do what; none: everybody everything.
    pub auth: Option<Arc<Authenticator>>,
    /// TLS of this port.
    pub tls: Option<Arc<ServerTls>>,
    /// What is done with backups.
    pub backups: Arc<Backups>,
    /// Captured changes.
    pub changes: Arc<Changes>,
    /// Backups at an interval.
    pub auto_backups: Option<Arc<AutoBackups>>,
    /// What is done for the database at an interval.
    pub maintenance: Arc<Maintenance>,
    /// What is pushed to a collector, if anything is.
    pub otlp: Option<Arc<Otlp>>,
    /// When the last copy of the database was made.
    pub last_backup: Arc<LastBackup>,
    /// How long a request waits for a leader and its quorum, unless it says so itself.
    pub apply_timeout: Duration,
    /// Room for bodies.
    pub room: BodyRoom,
    /// Values shown in diagnostics.
    pub about: About,
}

/// How a request came. Who is told addresses of other members is told them so: both may be answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// By TLS.
    Https,
}

impl Scheme {
    /// As addresses begin.
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What the program was started as.
#[derive(Clone, Debug)]
pub struct About {
    /// Where the client port listens.
    pub http_bind: String,
    /// How other members are found; empty: they are named one by one.
    pub discovery: &'static str,
    /// How the registry among them was last met.
    pub registry: Arc<RegistryContact>,
    /// `Access-Control-Allow-Origin`, if configured.
    pub allow_origin: Option<HeaderValue>,
    /// Since when it runs.
    pub started: jiff::Timestamp,
}

/// Answers one request of the client port. Each request has this whole future, and it is copied when it begins, so what
/// only few requests need is in boxes, here and below.
async fn handle(entrance: Arc<Entrance>, scheme: Scheme, request: Request<Body>) -> Answer {
    let app = match entrance.opened() {
        Some(app) => Ok(app),
        None => entrance.before_open(request.method(), request.uri(), request.headers()).await,
    };
    let mut answer = match app {
        Ok(app) => handle_open(app, scheme, request).await,
        Err(answer) => answer,
    };
    say_always(&entrance, answer.headers_mut());
    answer
}

/// Adds what every answer says.
fn say_always(entrance: &Entrance, headers: &mut HeaderMap) {
    let name = HeaderName::from_static;
    headers.insert(name("x-rqlite-version"), HeaderValue::from_static(RQLITE_VERSION));
    headers.insert(name("access-control-allow-methods"), HeaderValue::from_static("OPTIONS, GET, POST"));
    let allowed = if entrance.auth.is_some() {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"rqlite\""));
        headers.insert(name("access-control-allow-credentials"), HeaderValue::from_static("true"));
        "Content-Type, Authorization"
    } else {
        "Content-Type"
    };
    headers.insert(name("access-control-allow-headers"), HeaderValue::from_static(allowed));
    if let Some(origin) = &entrance.about.allow_origin {
        headers.insert(name("access-control-allow-origin"), origin.clone());
    }
}

/// The same, once the member is open.
async fn handle_open(app: &Arc<App>, scheme: Scheme, request: Request<Body>) -> Answer {
    let pressed = app.metrics.request_started();
    let is_options = request.method() == Method::OPTIONS;
    let version = request.version();
    let kind = RequestKind::of(request.uri().path());
    let mut answer =
        if is_options { respond::empty(StatusCode::OK) } else { dispatch(app, scheme, kind, request).await };
    // A client must not be sending by a connection when that is closed: it could not know what became of its request.
    // HTTP/2 says the same at the end by itself.
    if version < Version::HTTP_2 && app.consensus.is_draining() {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    app.metrics.request_ended(pressed, kind, answer.status());
    answer
}

/// The span of a request with statements that came at `came_us`, if it is to be traced.
fn traced(app: &App, kind: RequestKind, came_us: i64, request: &Request<Body>) -> Option<OpenSpan> {
    let otlp = app.otlp.as_ref().filter(|_| kind == RequestKind::Sql)?;
    let headers = request.headers();
    let said = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let state =
        || TraceState::parse(headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok()));
    let mut span = otlp.tracer().request(came_us, said, state)?;
    span.set("http.request.method", request.method().as_str());
    span.set("url.path", request.uri().path());
    span.set("db.system.name", "sqlite");
    Some(span)
}

/// Lets a request pass that may do what its route needs. Says for whom it is, where users are asked for.
async fn let_in(
    auth: Option<&Authenticator>,
    counters: &Counters,
    route: &Route,
    headers: &HeaderMap,
) -> Result<Option<Caller>, Denied> {
    // What nobody is asked for is not counted.
    let Access::All(needed) = route.needs else { return Ok(None) };
    let caller = match auth {
        None => None,
        Some(auth) => {
            // Something of theirs depends on who it is, so a name whose password is wrong is nobody's.
            let asks_who = headers.contains_key(idempotency::IDEMPOTENCY_KEY);
            let user = auth.let_in(headers.get(header::AUTHORIZATION), needed, asks_who).await?;
            let operation = route.endpoint.operation();
            Some(Caller { user, needs: Permissions::of(needed), operation })
        }
    };
    counters.count(Counter::AuthOk);
    Ok(caller)
}

/// What a request asks for, by somebody who may.
struct Admitted {
    route: &'static Route,
    caller: Option<Caller>,
    params: Params,
}

/// Looks what a request asks for, and whether who asks may; else what it is answered.
async fn admit(
    auth: Option<&Authenticator>,
    counters: &Counters,
    (method, uri, headers): (&Method, &Uri, &HeaderMap),
) -> Result<Admitted, Answer> {
    let (route, has_method) = match routes::find(method, uri.path()) {
        Match::Found(route) => (route, true),
        Match::WrongMethod(route) => (route, false),
        Match::Unknown => return Err(respond::empty(StatusCode::NOT_FOUND)),
    };
    let caller = let_in(auth, counters, route, headers).await.map_err(|denied| refused(counters, denied))?;
    if !has_method {
        return Err(respond::empty(StatusCode::METHOD_NOT_ALLOWED));
    }
    let params =
        Params::of_request(uri.query()).map_err(|error| respond::error(StatusCode::BAD_REQUEST, error))?;
    Ok(Admitted { route, caller, params })
}

/// The answer to who is not let in.
fn refused(counters: &Counters, denied: Denied) -> Answer {
    match denied {
        Denied::Busy => respond::busy(),
        Denied::Unauthorized => {
            counters.count(Counter::AuthFail);
            respond::empty(StatusCode::UNAUTHORIZED)
        }
    }
}

async fn dispatch(app: &Arc<App>, scheme: Scheme, kind: RequestKind, request: Request<Body>) -> Answer {
    let came_us = if app.otlp.is_some() { crate::clock::now_us() } else { 0 };
    let asked = (request.method(), request.uri(), request.headers());
    let Admitted { route, caller, params } = match admit(app.auth.as_deref(), &app.counters, asked).await {
        Ok(admitted) => admitted,
        Err(answer) => return answer,
    };
    // Only now: who may not send statements has nobody trace them.
    let span = traced(app, kind, came_us, &request);
    let (head, body) = request.into_parts();
    let user = caller.as_ref().and_then(|caller| caller.user.clone());
    let incoming =
        Incoming { scheme, method: head.method, uri: head.uri, params, headers: head.headers, user, body };
    let work = answer(app, route.endpoint, incoming);
    let work = match caller {
        None => Either::Left(work),
        Some(caller) => Either::Right(caller.during(work)),
    };
    let Some(mut span) = span else { return work.await };
    let answer = span.within(Box::pin(work)).await;
    span.set("http.response.status_code", answer.status().as_str());
    if answer.status().is_server_error() {
        span.fail();
    }
    answer
}

async fn answer(app: &Arc<App>, endpoint: Endpoint, incoming: Incoming) -> Answer {
    match endpoint {
        Endpoint::Execute => sql::execute(app, incoming).await,
        Endpoint::Query => sql::query(app, incoming).await,
        Endpoint::Request => sql::request(app, incoming).await,
        Endpoint::Sql => sql::sql(app, incoming).await,
        Endpoint::Changes => changes::changes(app, incoming).await,
        Endpoint::Backup => Box::pin(backup::backup(app, incoming)).await,
        Endpoint::Load => Box::pin(load::load(app, incoming)).await,
        Endpoint::Boot => Box::pin(load::boot(app, incoming)).await,
        Endpoint::Status => status::status(app, &incoming.params).await,
        Endpoint::Nodes => nodes::nodes(app, incoming.scheme, &incoming.params).await,
        Endpoint::Ready => status::ready(app, &incoming.params).await,
        Endpoint::Remove => Box::pin(nodes::remove(app, incoming)).await,
        Endpoint::Leader => Box::pin(nodes::leader(app, incoming)).await,
        Endpoint::Snapshot => nodes::snapshot(app, &incoming.params).await,
        Endpoint::Reap => nodes::reap(app).await,
        Endpoint::Vars => counters::vars(app, &incoming.params),
        Endpoint::Licenses => pages::licenses(),
        Endpoint::Metrics => health::metrics(app),
        Endpoint::Console => console::console(&incoming),
        Endpoint::ConsoleSession => console::session(app, &incoming.headers).await,
        Endpoint::Cluster => admin::report(app),
        Endpoint::ClusterEvents => admin::events(app),
        Endpoint::ClusterInitialise => Box::pin(admin::initialise(app, incoming)).await,
        Endpoint::ClusterLearners => Box::pin(admin::learners(app, incoming)).await,
        Endpoint::ClusterVoters => Box::pin(admin::voters(app, incoming)).await,
        Endpoint::ClusterTransfer => Box::pin(admin::transfer(app, incoming)).await,
        Endpoint::ClusterRecover => Box::pin(admin::recover(app, incoming)).await,
        Endpoint::ClusterSkip => Box::pin(admin::skip(app, incoming)).await,
        Endpoint::ClusterBackups => Box::pin(backups::backups(app, incoming)).await,
        Endpoint::ClusterBackupJobs => backups::jobs(app),
        Endpoint::ClusterBackupProbe => backups::probe(app).await,
        Endpoint::ClusterRestore => Box::pin(backups::restore(app, incoming)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_takes_little_room() {
        fn size<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(handle);
        assert!(bytes <= 6 << 10, "{bytes} bytes");
    }
}
