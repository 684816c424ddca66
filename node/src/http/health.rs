//! Port 4003: probes and `/metrics`; it reads only, and needs no credentials.
//!
//! * `/started`: the process is up and its log and database are open.
//! * `/ready`: this process has reached an index that a quorum confirmed, and is not going down. It stays so through
//!   elections and the loss of a quorum: taking members out of a Service would not bring the quorum back.
//! * `/live`: the runtimes tick. Never Raft, never the disk: restarting a member does not repair those.

use super::App;
use super::respond::{self, Answer};
use crate::observe::Observe as _;
use crate::tcp;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use client::admin::Phase;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How long the runtime of consensus may take to answer that it ticks.
const TICK: Duration = Duration::from_secs(5);

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long a probe may take to say what it asks; also how long a connection may rest.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take nothing of the answer.
const UNREAD: Duration = Duration::from_secs(10);

/// Serves the probes until the task is dropped. `consensus_runtime` is asked whether it ticks.
pub async fn serve_health(
    listener: TcpListener,
    app: Arc<App>,
    consensus_runtime: tokio::runtime::Handle,
) -> io::Result<()> {
    let live = move || {
        let runtime = consensus_runtime.clone();
        async move {
            let tick = tokio::time::timeout(TICK, runtime.spawn(async {})).await;
            if matches!(tick, Ok(Ok(()))) {
                (StatusCode::OK, "live\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "the runtime of consensus does not tick\n")
            }
        }
    };
    let router = Router::new()
        .route("/started", get(async || "started\n"))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(async |State(app): State<Arc<App>>| metrics(&app)))
        .with_state(app);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, permit) = tcp::accept(&listener, &room, UNREAD).await.map_err(io::Error::other)?;
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, service).await {
                tracing::debug!(error, "the connection of a probe ended");
            }
            drop(permit);
        });
    }
}

async fn converse(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    Ok(builder.serve_connection(TokioIo::new(stream), service).await?)
}

async fn ready(State(app): State<Arc<App>>) -> (StatusCode, String) {
    match app.consensus.phase().current() {
        Phase::Serving => (StatusCode::OK, "ready\n".into()),
        phase => (StatusCode::SERVICE_UNAVAILABLE, format!("{phase:?}\n")),
    }
}

/// `GET /metrics`; on the client port too, for the console.
pub fn metrics(app: &App) -> Answer {
    let text = app.metrics_text();
    respond::stream_of("application/openmetrics-text; version=1.0.0; charset=utf-8", text.into())
}

impl App {
    /// What `/metrics` says.
    pub fn metrics_text(&self) -> String {
        let otlp = self.otlp.as_deref();
        let (archive, changes) = (&self.backups.numbers, &self.changes.numbers);
        self.metrics.encode(&self.consensus, self.tls.as_deref(), archive, changes, &self.counters, otlp)
    }
}
