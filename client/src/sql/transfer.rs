//! Bodies that may be larger than memory: copies on their way to a file, files on their way to the database.

use super::database::{Reply, origin};
use super::{Credentials, Database, SqlError};
use bytes::Bytes;
use futures::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method, RequestBuilder, Response};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

/// How long a transfer may stand still: a file is checked and installed before it is answered.
const STALLED: Duration = Duration::from_secs(300);
const PIECE: usize = 256 << 10;

/// A body that is read as it comes.
#[derive(Debug)]
pub struct Download {
    host: String,
    response: Response,
}

impl Download {
    /// The next piece, none at the end. A body that ends early is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SqlError> {
        let host = || self.host.clone();
        match timeout(STALLED, self.response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(source)) => Err(SqlError::CutShort { host: host(), source: source.without_url() }),
            Err(_) => Err(SqlError::Stalled { host: host() }),
        }
    }
}

impl Database {
    /// Asks for a body without holding it in memory. Hosts that do not answer are passed over.
    pub async fn download(&self, path: &str, query: &[(&str, &str)]) -> Result<Download, SqlError> {
        let mut failure = None;
        for at in self.order() {
            let host = origin(&self.hosts[at]);
            match timeout(STALLED, self.begin(at, Method::GET, path, query).send()).await {
                Ok(Ok(response)) => {
                    self.answered(at);
                    if response.status().is_success() {
                        return Ok(Download { host, response });
                    }
                    let reply = whole(host, response).await?;
                    return Err(reply.refusal());
                }
                Ok(Err(error)) => failure = Some(error.without_url()),
                Err(_) => return Err(SqlError::Stalled { host }),
            }
        }
        Err(self.unreachable(failure))
    }

    /// Posts a file without holding it in memory; `progress` is how many bytes of it were sent. It goes to the first host
    /// that can be connected to, and to no other.
    pub async fn upload(&self, path: &str, file: &Path, progress: Arc<AtomicU64>) -> Result<Reply, SqlError> {
        let mut failure = None;
        for at in self.order() {
            let host = origin(&self.hosts[at]);
            let opened = File::open(file).await.map_err(SqlError::File)?;
            let length = opened.metadata().await.map_err(SqlError::File)?.len();
            progress.store(0, Ordering::Relaxed);
            let request = self
                .begin(at, Method::POST, path, &[])
                .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
                .header(CONTENT_LENGTH, length)
                .body(pieces(opened, progress.clone()));
            match unless_stalled(request.send(), &progress).await {
                Some(Ok(response)) => {
                    self.answered(at);
                    return whole(host, response).await;
                }
                Some(Err(error)) if error.is_connect() => failure = Some(error.without_url()),
                Some(Err(error)) => {
                    return Err(SqlError::OutcomeUnknown { host, source: error.without_url() });
                }
                None => return Err(SqlError::Stalled { host }),
            }
        }
        Err(self.unreachable(failure))
    }

    fn begin(&self, at: usize, method: Method, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let target = super::database::target(&self.hosts[at], path, query);
        Credentials::sign(self.credentials.as_ref(), self.http.request(method, target))
    }
}

async fn whole(host: String, response: Response) -> Result<Reply, SqlError> {
    let status = response.status();
    match response.bytes().await {
        Ok(body) => Ok(Reply { host, status, body }),
        Err(source) => Err(SqlError::OutcomeUnknown { host, source: source.without_url() }),
    }
}

/// A file as a body that counts what is taken of it.
fn pieces(file: File, progress: Arc<AtomicU64>) -> Body {
    Body::wrap_stream(stream::try_unfold((file, progress), async |(mut file, progress)| {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        progress.fetch_add(read as u64, Ordering::Relaxed);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), (file, progress))))
    }))
}

/// What `sending` comes to; none if nothing moves for too long.
async fn unless_stalled<T>(sending: impl Future<Output = T>, progress: &AtomicU64) -> Option<T> {
    let mut sending = pin!(sending);
    loop {
        let before = progress.load(Ordering::Relaxed);
        match timeout(STALLED, &mut sending).await {
            Ok(done) => return Some(done),
            Err(_) if progress.load(Ordering::Relaxed) > before => {}
            Err(_) => return None,
        }
    }
}
