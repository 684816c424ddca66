//! The client: sends to one host, goes on to the next where that is safe.

use super::members::ClusterNodes;
use super::{Answer, ClusterNode, RequestOptions, SqlError, Statement};
use crate::trust::Trust;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Redirects of one request that are followed.
const MAX_REDIRECTS: usize = 3;

/// Who asks.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// Name of the user.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl Credentials {
    /// A request by this user; by nobody, if there is none.
    pub fn sign(by: Option<&Self>, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match by {
            None => request,
            Some(Self { user, password }) => request.basic_auth(user, Some(password)),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where a [`Database`] is and how long to wait for it.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// Base URLs of members, as `http://10.0.0.7:4001`. The first is asked first.
    pub hosts: Vec<String>,
    /// Who asks. Sent to the given hosts only.
    pub credentials: Option<Credentials>,
    /// Whose certificates `https` hosts must have; none: of whom the machine trusts.
    pub trust: Option<Trust>,
    /// For a TCP connection to one host.
    pub connect_timeout: Duration,
    /// For a whole request, whatever happens on the way.
    pub request_timeout: Duration,
}

impl DatabaseConfig {
    /// These hosts, with a second for a connection and 30 s for a request.
    pub fn new(hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            hosts: hosts.into_iter().map(Into::into).collect(),
            credentials: None,
            trust: None,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// What a request does, and so whether it may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It can be asked again.
    Reads,
    /// It is sent again only if the first time it certainly was not received.
    Writes,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Which host gave it.
    pub host: String,
    /// HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text, without the newline that ends messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }

    /// Itself if the request succeeded, else the refusal.
    pub fn accepted(self) -> Result<Self, SqlError> {
        if self.status.is_success() { Ok(self) } else { Err(self.refusal()) }
    }

    /// Itself as a refusal.
    pub(super) fn refusal(self) -> SqlError {
        let message = match self.text() {
            text if !text.is_empty() => excerpt(text.as_bytes()),
            _ => self.status.canonical_reason().unwrap_or("no reason given").to_owned(),
        };
        SqlError::Refused { host: self.host, status: self.status, message }
    }

    /// The body of a successful request as `T`.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, SqlError> {
        let reply = self.accepted()?;
        serde_json::from_slice(&reply.body).map_err(|source| SqlError::Unexpected {
            excerpt: excerpt(&reply.body),
            host: reply.host,
            source,
        })
    }
}

/// Client of the SQL API. Cheap to clone; connections are pooled, and so is the memory of which host answered last.
///
/// * A host that cannot be connected to is passed over, by reads and writes alike: nothing was sent.
/// * A host that breaks off later is passed over by reads, and one that is silent for its share of the time is not the only
///   one that is asked: the first answer counts. A write ends with [`SqlError::OutcomeUnknown`] and is never sent again.
/// * A redirect is followed to the given hosts only, and only with this request.
#[derive(Clone, Debug)]
pub struct Database {
    pub(super) http: reqwest::Client,
    pub(super) hosts: Arc<[Url]>,
    answered_last: Arc<AtomicUsize>,
    pub(super) credentials: Option<Credentials>,
    request_timeout: Duration,
}

impl Database {
    /// A client with its own connection pool. Nothing is sent yet.
    pub fn new(config: DatabaseConfig) -> Result<Self, SqlError> {
        let hosts = config.hosts.iter().map(|host| base_url(host)).collect::<Result<Arc<[Url]>, _>>()?;
        if hosts.is_empty() {
            return Err(SqlError::NoHosts);
        }
        let builder = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(15))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy();
        let http = Trust::applied(config.trust.as_ref(), builder).build().map_err(SqlError::Build)?;
        Ok(Self {
            http,
            hosts,
            answered_last: Arc::default(),
            credentials: config.credentials,
            request_timeout: config.request_timeout,
        })
    }

    /// Runs writes.
    pub async fn execute(
        &self,
        statements: &[Statement],
        options: RequestOptions,
    ) -> Result<Answer, SqlError> {
        self.run("/db/execute", Effect::Writes, statements, options).await
    }

    /// Runs reads; a statement that would write fails.
    pub async fn query(&self, statements: &[Statement], options: RequestOptions) -> Result<Answer, SqlError> {
        self.run("/db/query", Effect::Reads, statements, options).await
    }

    /// Runs reads and writes. For this client it is a write.
    pub async fn request(
        &self,
        statements: &[Statement],
        options: RequestOptions,
    ) -> Result<Answer, SqlError> {
        self.run("/db/request", Effect::Writes, statements, options).await
    }

    /// The members, read replicas too if `all`.
    pub async fn nodes(&self, all: bool) -> Result<Vec<ClusterNode>, SqlError> {
        let mut query = vec![("ver", "2")];
        query.extend(all.then_some(("nonvoters", "")));
        let reply = self.send(Effect::Reads, Method::GET, "/nodes", &query, None).await?;
        reply.json::<ClusterNodes>().map(|list| list.nodes)
    }

    /// The leader.
    pub async fn leader(&self) -> Result<ClusterNode, SqlError> {
        self.send(Effect::Reads, Method::GET, "/leader", &[], None).await?.json()
    }

    async fn run(
        &self,
        path: &str,
        effect: Effect,
        statements: &[Statement],
        options: RequestOptions,
    ) -> Result<Answer, SqlError> {
        let mut query = vec![("level", options.level.name())];
        query.extend(options.transaction.then_some(("transaction", "")));
        query.extend(options.timings.then_some(("timings", "")));
        query.extend(options.blob_array.then_some(("blob_array", "")));
        let body = serde_json::to_vec(statements).map_err(SqlError::Encode)?;
        self.send(effect, Method::POST, path, &query, Some(body.into())).await?.json()
    }

    /// Sends a request to the host that answered last, and where that is safe to the others in turn. `body` is JSON.
    /// A status that tells of an error is an answer.
    pub async fn send(
        &self,
        effect: Effect,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<Reply, SqlError> {
        let deadline = Instant::now() + self.request_timeout;
        let call = Call { effect, method, path, query, body, deadline };
        // A read that takes its time is not slow because of its host, so it goes on there.
        let share = self.request_timeout / (self.hosts.len() as u32 + 1);
        let mut order = self.order().peekable();
        // A connection that was kept may have gone with whoever was at its other end: who breaks off is asked once more.
        let mut once_more = self.order().next().filter(|_| effect == Effect::Reads);
        let mut asked = FuturesUnordered::new();
        let mut failure = None;
        loop {
            if asked.is_empty() {
                match order.next().or_else(|| once_more.take()).filter(|_| Instant::now() < deadline) {
                    Some(at) => asked.push(self.ask(at, &call)),
                    None => return Err(self.unreachable(failure)),
                }
            }
            let may_ask_another = effect == Effect::Reads && order.peek().is_some();
            tokio::select! {
                Some(outcome) = asked.next() => match outcome {
                    Ok(reply) => return Ok(reply),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::PassOver(source)) => failure = Some(source),
                },
                () = tokio::time::sleep(share), if may_ask_another => {
                    asked.extend(order.next().map(|at| self.ask(at, &call)));
                }
            }
        }
    }

    /// The hosts in the order in which they are asked.
    pub(super) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.answered_last.load(Ordering::Relaxed), self.hosts.len());
        (0..count).map(move |turn| (first + turn) % count)
    }

    /// A host answered: it is asked first from now on.
    pub(super) fn answered(&self, at: usize) {
        self.answered_last.store(at, Ordering::Relaxed);
    }

    /// No host gave an answer.
    pub(super) fn unreachable(&self, failure: Option<reqwest::Error>) -> SqlError {
        let tried = self.hosts.iter().map(origin).collect::<Vec<_>>().join(", ");
        failure.map_or(SqlError::NoHosts, |source| SqlError::Unreachable { tried, source })
    }

    /// A client of each host alone.
    pub fn each(&self) -> Vec<Self> {
        let alone =
            |host: &Url| Self { hosts: [host.clone()].into(), answered_last: Arc::default(), ..self.clone() };
        self.hosts.iter().map(alone).collect()
    }

    /// The hosts, as they are named in errors.
    pub fn hosts(&self) -> Vec<String> {
        self.hosts.iter().map(origin).collect()
    }

    /// Asks one host, and those it redirects to.
    async fn ask(&self, mut at: usize, call: &Call<'_>) -> Result<Reply, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            let host = &self.hosts[at];
            let request = call.to(&self.http, host, self.credentials.as_ref());
            let received = match receive(request).await {
                Ok(received) => received,
                Err(error) if call.effect == Effect::Reads || error.is_connect() => {
                    return Err(Failure::PassOver(error.without_url()));
                }
                Err(error) => {
                    let (host, source) = (origin(host), error.without_url());
                    return Err(Failure::Final(SqlError::OutcomeUnknown { host, source }));
                }
            };
            if received.status != StatusCode::MOVED_PERMANENTLY {
                self.answered(at);
                return Ok(Reply { host: origin(host), status: received.status, body: received.body });
            }
            at = self.follow(host, &received.location).map_err(Failure::Final)?;
        }
        Err(Failure::Final(SqlError::TooManyRedirects { host: origin(&self.hosts[at]) }))
    }

    /// Which of the hosts a redirect means.
    fn follow(&self, from: &Url, location: &str) -> Result<usize, SqlError> {
        let to = from.join(location).ok();
        let known = to.and_then(|to| self.hosts.iter().position(|host| host.origin() == to.origin()));
        known.ok_or_else(|| SqlError::ForeignRedirect { host: origin(from), location: location.into() })
    }
}

/// Why a host gave no answer.
enum Failure {
    /// Another one may be asked.
    PassOver(reqwest::Error),
    /// Nobody else may be asked.
    Final(SqlError),
}

/// One request, whoever it is sent to.
struct Call<'a> {
    effect: Effect,
    method: Method,
    path: &'a str,
    query: &'a [(&'a str, &'a str)],
    body: Option<Bytes>,
    deadline: Instant,
}

impl Call<'_> {
    fn to(
        &self,
        http: &reqwest::Client,
        host: &Url,
        credentials: Option<&Credentials>,
    ) -> reqwest::RequestBuilder {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let target = target(host, self.path, self.query);
        let mut request =
            Credentials::sign(credentials, http.request(self.method.clone(), target).timeout(left));
        if let Some(body) = &self.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        request
    }
}

/// An answer as it came.
struct Received {
    status: StatusCode,
    location: String,
    body: Bytes,
}

async fn receive(request: reqwest::RequestBuilder) -> Result<Received, reqwest::Error> {
    let response = request.send().await?;
    let location =
        response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default().to_owned();
    Ok(Received { status: response.status(), location, body: response.bytes().await? })
}

fn base_url(host: &str) -> Result<Url, SqlError> {
    let bad = |reason| SqlError::BadHost { host: host.into(), reason };
    let url = Url::parse(host).map_err(|_| bad("it has to look like http://host:4001"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad("it has to begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("user and password do not belong into it"));
    }
    Ok(url)
}

pub(super) fn origin(host: &Url) -> String {
    host.origin().ascii_serialization()
}

pub(super) fn target(host: &Url, path: &str, query: &[(&str, &str)]) -> Url {
    let mut url = host.clone();
    url.set_path(&format!("{}{path}", host.path().trim_end_matches('/')));
    url.set_query(None);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(200).collect()
}
