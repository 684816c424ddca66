//! Connections of the client port: how many, how long they may take to say what they want, how they end.

use super::{Entrance, Scheme, handle, say_always};
use crate::observe::Until as _;
use crate::tcp::{self, Expectant};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use hyper::Version;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Connections at once; who is one too many is told so.
const CONNECTIONS: usize = 16_384;
/// Of those that are one too many, how many are told so at once; more are hung up on.
const TURNING_AWAY: usize = 256;
/// How long that may take.
const TURNED_AWAY: Duration = Duration::from_secs(2);
/// How long a client may take to shake hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request, the first one or the next; so a connection on which no request
/// is under way ends after that, of HTTP/1 and of HTTP/2.
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

/// Serves clients on the present runtime, by TLS if there is any, whether or not the member is open. Ends with the `Server`.
pub fn serve_clients(listener: TcpListener, entrance: Arc<Entrance>) -> Server {
    serve_at_most(CONNECTIONS, listener, entrance)
}

fn serve_at_most(connections: usize, listener: TcpListener, entrance: Arc<Entrance>) -> Server {
    let (stop, mut stopped) = watch::channel(false);
    let done = tokio::spawn(async move {
        let (end, ending) = watch::channel(());
        let room = Arc::new(Semaphore::new(connections));
        let doorstep = Arc::new(Semaphore::new(TURNING_AWAY));
        let mut is_full = false;
        loop {
            let stream = tokio::select! {
                stream = tcp::next(&listener, UNREAD) => stream,
                _ = stopped.changed() => break,
            };
            let Ok(permit) = room.clone().try_acquire_owned() else {
                if !std::mem::replace(&mut is_full, true) {
                    tracing::warn!(
                        connections,
                        "as many clients as may be are connected: more are turned away"
                    );
                }
                // Who talks TLS could not read what is said before the handshake.
                if entrance.tls.is_none()
                    && let Ok(place) = doorstep.clone().try_acquire_owned()
                {
                    tokio::spawn(turn_away(stream, place, entrance.clone()));
                }
                continue;
            };
            // Told once, not each time that one goes and two come.
            is_full &= room.available_permits() < connections / 8;
            let (entrance, ending) = (entrance.clone(), ending.clone());
            tokio::spawn(async move {
                let ended = match entrance.tls.clone() {
                    None => converse(stream, Scheme::Http, entrance, ending).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                        Ok(Ok(Ok(stream))) => converse(stream, Scheme::Https, entrance, ending).await,
                        Ok(Ok(Err(plaintext))) => converse(plaintext, Scheme::Http, entrance, ending).await,
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
        drop((listener, ending));
        end.send_replace(());
        // Each connection keeps its receiver until it ended.
        end.closed().await;
    });
    Server { stop, done }
}

/// Tells a client that there is no room for its connection, whatever it asks.
async fn turn_away(mut stream: TcpStream, place: OwnedSemaphorePermit, entrance: Arc<Entrance>) {
    const SAID: &str = "too many connections to this member; try again, or another one\n";
    let mut headers = HeaderMap::new();
    say_always(&entrance, &mut headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(SAID.len()));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let mut answer = b"HTTP/1.1 503 Service Unavailable\r\n".to_vec();
    for (name, value) in &headers {
        answer.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    answer.extend_from_slice(&[b"\r\n", SAID.as_bytes()].concat());
    let said = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        // What is sent meanwhile is heard: otherwise the end of the connection would take the answer away.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    if !matches!(tokio::time::timeout(TURNED_AWAY, said).await, Ok(Ok(_))) {
        tracing::debug!("a client was turned away and did not listen");
    }
    drop(place);
}

/// Answers the requests of one connection, until the client hangs up, `ending` says so, or nothing comes any more.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    scheme: Scheme,
    entrance: Arc<Entrance>,
    mut ending: watch::Receiver<()>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (open, streams) = watch::channel(0);
    let open = Arc::new(open);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let entrance = entrance.clone();
        // HTTP/1 counts by itself: `header_read_timeout`.
        let open = (request.version() == Version::HTTP_2).then(|| OpenStream::begin(open.clone()));
        // In a box, so that a connection has no room for a request while there is none.
        Box::pin(async move {
            let answer = handle(entrance, scheme, request.map(Body::new)).await;
            Ok::<_, Infallible>(answer.map(|body| Answered { body, _open: open }))
        })
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).keep_alive_interval(PING);
    // The time for a head begins once it shows which of the two it is.
    let (stream, is_http2) = Expectant::new(stream, PREFACE, HEAD_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).into_owned());
    tokio::select! {
        ended = connection.as_mut() => return ended,
        // Nobody can say so any more: the same.
        _ = ending.changed() => {}
        () = falls_silent(is_http2, streams) => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Resolves once a connection of HTTP/2 had no stream for as long as a head may take; never for one of HTTP/1. A client
/// that goes on answering pings is there, but nothing says that it ever wants something.
async fn falls_silent(is_http2: oneshot::Receiver<()>, mut streams: watch::Receiver<usize>) {
    if is_http2.await.is_err() {
        return pending().await;
    }
    while streams.until(|open| *open == 0).await.is_ok() {
        if tokio::time::timeout(HEAD_TIMEOUT, streams.changed()).await.is_err() {
            return;
        }
    }
    // Without the service there is no connection either.
    pending().await
}

/// A request of HTTP/2, until its answer is sent or given up.
struct OpenStream(Arc<watch::Sender<usize>>);

impl OpenStream {
    fn begin(open: Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// The body of an answer, which is under way as long as it is there.
struct Answered {
    body: Body,
    _open: Option<OpenStream>,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::{About, Counters};
    use tokio::io::AsyncReadExt as _;

    /// A member that is not open, and answers all the same.
    fn entrance() -> Arc<Entrance> {
        let about = About {
            http_bind: String::new(),
            discovery: "",
            registry: Arc::default(),
            allow_origin: None,
            started: crate::clock::now(),
        };
        Entrance::new(None, None, Arc::<Counters>::default(), Duration::from_secs(1), about)
    }

    /// What is answered, up to its end or to the end of the connection.
    async fn ask(client: &mut TcpStream) -> String {
        client.write_all(b"GET /readyz?noleader HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"[+]node ok") && client.read_buf(&mut answer).await.unwrap() > 0 {}
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn who_is_one_too_many_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = serve_at_most(2, listener, entrance());
        let connect = || async { TcpStream::connect(address).await.unwrap() };
        let (mut first, mut second) = (connect().await, connect().await);
        for client in [&mut first, &mut second] {
            assert!(ask(client).await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
        let answer = ask(&mut connect().await).await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        for header in [
            "retry-after: 1",
            "content-type: text/plain; charset=utf-8",
            "x-rqlite-version: v10.0.0",
            "access-control-allow-methods: OPTIONS, GET, POST",
            "access-control-allow-headers: Content-Type",
        ] {
            assert!(answer.contains(&format!("\r\n{header}\r\n")), "{header}: {answer}");
        }
        assert!(answer.ends_with("\r\n\r\ntoo many connections to this member; try again, or another one\n"));
        // Those that are there stay, and one that goes makes room.
        assert!(ask(&mut first).await.starts_with("HTTP/1.1 200 OK\r\n"));
        drop(second);
        let room = async {
            while !ask(&mut connect().await).await.starts_with("HTTP/1.1 200 OK\r\n") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), room).await.unwrap();
        drop(first);
        server.stop(Duration::from_secs(10)).await;
    }
}
