//! Members that are played: one process answers for all of them what the operator asks, at the address of each pod.
//!
//! Pods have addresses of the loopback range, so one listener gets all calls, and the address that was called says whose.
//! The defaults of the product are on: TLS by the cluster's certificates, and the operator says who it is.

use super::group::{Group, Identity};
use super::mounts::Mounts;
use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::admin::{Changed, MemberReport, Refusal, RefusalReason, RemoveLearner};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// The port for clients and for the operator.
const PORT: u16 = 4001;
/// As members do.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long the begin of a connection may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// All members.
pub struct Members {
    mounts: Mounts,
    version: String,
    groups: Mutex<HashMap<String, watch::Sender<Group>>>,
    counts: Counts,
}

/// What members were asked.
#[derive(Default)]
pub struct Counts {
    /// Requests but those for events.
    pub requests: AtomicU64,
    /// Requests for events.
    pub streams: AtomicU64,
    /// Connections that were begun.
    pub connections: AtomicU64,
    /// Connections that are open.
    pub open: AtomicU64,
    /// Requests that were refused.
    pub refusals: AtomicU64,
}

impl Members {
    /// Members of this version that find what `mounts` has.
    pub fn new(mounts: Mounts, version: String) -> Arc<Self> {
        Arc::new(Self { mounts, version, groups: Mutex::default(), counts: Counts::default() })
    }

    /// What they were asked.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Answers at every address of this machine until it is dropped.
    pub async fn serve(self: Arc<Self>) -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            let members = self.clone();
            tokio::spawn(async move {
                members.counts.connections.fetch_add(1, Ordering::Relaxed);
                members.counts.open.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = members.clone().connection(stream).await {
                    members.counts.refusals.fetch_add(1, Ordering::Relaxed);
                    if std::env::var_os("SCALE_DEBUG").is_some() {
                        eprintln!("a connection to a member: {error:#}");
                    }
                }
                members.counts.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let IpAddr::V4(address) = stream.local_addr()?.ip() else { return Ok(()) };
        let identity = self.mounts.member(address).await?;
        let tls = TlsAcceptor::from(self.mounts.tls(&identity).await?);
        let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await??;
        let service = TowerToHyperService::new(routes(Asked { members: self, identity }));
        let connection = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        // The operator ends connections as it likes.
        let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        Ok(())
    }

    fn group(&self, member: &Identity) -> watch::Sender<Group> {
        let key = format!("{}/{}", member.namespace, member.cluster);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.entry(key).or_insert_with(|| watch::channel(Group::default()).0).clone()
    }
}

/// A member that was called.
#[derive(Clone)]
struct Asked {
    members: Arc<Members>,
    identity: Identity,
}

impl Asked {
    #[expect(clippy::disallowed_methods, reason = "the guard ends with the only statement that looks")]
    fn report(&self) -> MemberReport {
        let certificates = self.members.mounts.certificates(&self.identity);
        let group = self.members.group(&self.identity);
        group.borrow().report(&self.identity, &self.members.version, certificates)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Group) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut done = None;
        self.members.group(&self.identity).send_if_modified(|group| {
            let outcome = change(group);
            let changed = outcome.is_ok();
            done = Some(outcome);
            changed
        });
        let nothing = || Refusal { reason: RefusalReason::NoLeader, message: "nothing was done".into() };
        done.unwrap_or_else(|| Err(nothing()))
    }

    #[expect(clippy::disallowed_methods, reason = "the guard ends with the only statement that looks")]
    fn changed(&self) -> Changed {
        Changed { membership: self.members.group(&self.identity).borrow().membership(true) }
    }

    fn is_operator(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        self.members.mounts.operator(&self.identity).is_some_and(|(user, password)| {
            given == Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))).as_str())
        })
    }
}

fn routes(asked: Asked) -> Router {
    Router::new()
        .route("/cluster", get(|State(asked): State<Asked>| async move { answer(Ok(asked.report())) }))
        .route("/cluster/events", get(events))
        .route("/cluster/initialise", post(initialise))
        .route("/cluster/learners", post(add_learner).delete(remove_learner))
        .route("/cluster/voters", post(change_voters))
        .route("/cluster/transfer", post(transfer))
        .route("/db/request", post(async || StatusCode::NOT_IMPLEMENTED))
        .layer(middleware::from_fn_with_state(asked.clone(), admit))
        .with_state(asked)
}

/// Counts, and refuses who is not the operator.
async fn admit(State(asked): State<Asked>, request: Request<Body>, next: Next) -> Response {
    let counts = &asked.members.counts;
    let is_stream = request.method() == Method::GET && request.uri().path() == "/cluster/events";
    let counter = if is_stream { &counts.streams } else { &counts.requests };
    counter.fetch_add(1, Ordering::Relaxed);
    if !asked.is_operator(request.headers()) {
        counts.refusals.fetch_add(1, Ordering::Relaxed);
        return StatusCode::UNAUTHORIZED.into_response();
    }
    next.run(request).await
}

/// A report at once and after each change, and a sign of life.
async fn events(State(asked): State<Asked>) -> Response {
    let changes = asked.members.group(&asked.identity).subscribe();
    let lines = futures::stream::unfold((asked, changes, true), |(asked, mut changes, first)| async move {
        let news = match first {
            true => true,
            false => match tokio::time::timeout(KEEP_ALIVE, changes.changed()).await {
                Ok(changed) => {
                    changed.ok()?;
                    true
                }
                Err(_) => false,
            },
        };
        changes.mark_unchanged();
        let line = match news {
            true => format!("{}\n", serde_json::to_string(&asked.report()).ok()?),
            false => "\n".to_owned(),
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), (asked, changes, false)))
    });
    Body::from_stream(lines).into_response()
}

async fn initialise(State(asked): State<Asked>, body: Bytes) -> Response {
    let done = read(&body)
        .and_then(|body| asked.change(|group| group.initialise(&asked.identity, body)))
        .map(|()| asked.report());
    answer(done)
}

async fn add_learner(State(asked): State<Asked>, body: Bytes) -> Response {
    let done = read(&body).and_then(|body| asked.change(|group| group.add_learner(body)));
    answer(done.map(|()| asked.changed()))
}

async fn remove_learner(State(asked): State<Asked>, body: Bytes) -> Response {
    let done =
        read(&body).and_then(|body: RemoveLearner| asked.change(|group| group.remove_learner(body.node_id)));
    answer(done.map(|()| asked.changed()))
}

async fn change_voters(State(asked): State<Asked>, body: Bytes) -> Response {
    let done = read(&body).and_then(|body| asked.change(|group| group.change_voters(&body)));
    answer(done.map(|()| asked.changed()))
}

async fn transfer(State(asked): State<Asked>, body: Bytes) -> Response {
    answer(read(&body).and_then(|body| asked.change(|group| group.transfer(&body))))
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal { reason: RefusalReason::Invalid, message: error.to_string() })
}

fn answer<T: Serialize>(outcome: Result<T, Refusal>) -> Response {
    let (status, text) = match outcome {
        Ok(value) => (StatusCode::OK, serde_json::to_string(&value)),
        Err(refusal) => (StatusCode::CONFLICT, serde_json::to_string(&refusal)),
    };
    match text {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
