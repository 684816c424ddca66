//! Connections of the client port: how many, how long they may take to say what they want, how they end.

use super::{App, Scheme, handle};
use crate::tcp::{self, Expectant};
use crate::tls::ServerTls;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 16_384;
/// How long a client may take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client that speaks HTTP/2 says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often a client that speaks HTTP/2 is asked whether it is there; it has 20 seconds to say so.
const PING: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what is sent to it.
const UNREAD: Duration = Duration::from_secs(60);

/// Ends the client port in order.
pub struct Server {
    stop: watch::Sender<bool>,
    done: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Takes no more connections, lets requests in flight end for at most `patience`, then drops what is left.
    pub async fn stop(self, patience: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(patience, self.done).await.is_err() {
            tracing::warn!("requests were still running when the time to drain was over");
        }
    }
}

/// Serves clients on the present runtime; by `tls`, if there is any.
pub fn serve_clients(listener: TcpListener, app: Arc<App>, tls: Option<Arc<ServerTls>>) -> Server {
    let (stop, mut stopped) = watch::channel(false);
    let done = tokio::spawn(async move {
        let graceful = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = tcp::accept(&listener, &room, UNREAD) => accepted,
                _ = stopped.changed() => break,
            };
            let Ok((stream, permit)) = accepted else { break };
            let (app, tls, watcher) = (app.clone(), tls.clone(), graceful.watcher());
            tokio::spawn(async move {
                let ended = match &tls {
                    None => converse(stream, Scheme::Http, app, watcher).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                        Ok(Ok(Ok(stream))) => converse(stream, Scheme::Https, app, watcher).await,
                        Ok(Ok(Err(plaintext))) => converse(plaintext, Scheme::Http, app, watcher).await,
                        Ok(Err(error)) => Err(error.into()),
                        Err(_) => Err("no handshake in time".into()),
                    },
                };
                if let Err(error) = ended {
                    tracing::debug!(error, "client connection ended");
                }
                drop(permit);
            });
        }
        drop(listener);
        graceful.shutdown().await;
    });
    Server { stop, done }
}

/// Answers the requests of one connection.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    scheme: Scheme,
    app: Arc<App>,
    watcher: Watcher,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(handle(app, scheme, request.map(Body::new)).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).keep_alive_interval(PING);
    // The time for a head begins once it shows which of the two it is.
    let stream = Expectant::new(stream, PREFACE, HEAD_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    watcher.watch(connection).await
}
