//! Client of the administrative API under `/cluster`: one request to one member, typed both ways.
//!
//! It follows nobody and retries nothing. Which member to ask, and what to do when the answer is a refusal or no
//! answer at all, is the caller's decision: for the operator that is the next reconcile.

use crate::admin::{
    AddLearner, ChangeVoters, Changed, Initialise, MemberReport, NodeId, Recover, Refusal, RefusalReason,
    RemoveLearner, SkipEntry, Skipped, Transfer, Transferred,
};
use crate::backup::{
    BackupJob, BackupJobs, Catalogue, DeleteBackups, Deleted, Probe, RestoreJob, RestoreJobs, StartBackup,
    StartRestore,
};
use crate::events::Events;
use crate::sql::Credentials;
use crate::trust::Trust;
use futures::{Stream, stream};
use reqwest::{Method, StatusCode};
use rustls::ClientConfig;
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;
use std::time::Duration;

/// Why a request of the administrative API gave no answer of the kind that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The HTTP client could not be made.
    #[error("cannot make an HTTP client")]
    Build(#[source] reqwest::Error),
    /// The member could not be reached, or the connection broke. Whether a change took effect is not known.
    #[error("no answer from {url}")]
    Transport {
        /// What was asked.
        url: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The same of the connection for events.
    #[error("no events from {url}")]
    Connection {
        /// What was asked.
        url: String,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// The member refused and said why.
    #[error("{url} refused ({reason:?}): {message}", reason = refusal.reason, message = refusal.message)]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// The member's answer.
        refusal: Refusal,
    },
    /// An answer that is not of this API.
    #[error("{url} answered {status} with something that is not of this API: {body}")]
    Unexpected {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// The start of the body.
        body: String,
    },
    /// A line of the event stream is no report.
    #[error("the event stream of {url} holds a line that is no report")]
    Event {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A line of the event stream never ends.
    #[error("the event stream of {url} holds a line that is too long")]
    EventTooLong {
        /// What was asked.
        url: String,
    },
    /// The event stream was silent for longer than its keep-alive allows.
    #[error("the event stream of {url} fell silent")]
    EventsSilent {
        /// What was asked.
        url: String,
    },
}

impl AdminError {
    /// The member's reason, if it refused.
    pub fn refusal(&self) -> Option<RefusalReason> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.reason),
            _ => None,
        }
    }

    /// Whether the member does not know who asks, or who asks may not.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Refused { status: 401, .. } | Self::Unexpected { status: 401, .. })
    }
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct AdminTimeouts {
    /// For a TCP connection.
    pub connect: Duration,
    /// For a report.
    pub report: Duration,
    /// For a change of the membership or of the leadership.
    pub change: Duration,
    /// For passing over an entry, which asks every member first.
    pub skip: Duration,
    /// For what waits for the store of backups.
    pub store: Duration,
    /// For the next byte of the event stream, whose keep-alive comes every 10 s.
    pub event: Duration,
}

impl Default for AdminTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(500),
            report: Duration::from_secs(1),
            change: Duration::from_secs(10),
            skip: Duration::from_secs(60),
            store: Duration::from_secs(60),
            event: Duration::from_secs(25),
        }
    }
}

/// Client of the administrative API. Cheap to clone; connections are pooled.
#[derive(Clone, Debug)]
pub struct AdminClient {
    http: reqwest::Client,
    /// For connections that are not of the pool; none: they talk no TLS.
    tls: Option<Arc<ClientConfig>>,
    timeouts: AdminTimeouts,
    credentials: Option<Credentials>,
}

impl AdminClient {
    /// A client with its own connection pool.
    pub fn new(timeouts: AdminTimeouts) -> Result<Self, AdminError> {
        Ok(Self { http: http(timeouts, None)?, tls: None, timeouts, credentials: None })
    }

    /// A client with a connection pool of its own, by which members talk TLS with certificates of `trust`.
    pub fn trusting(&self, trust: &Trust) -> Result<Self, AdminError> {
        Ok(Self { http: http(self.timeouts, Some(trust))?, tls: trust.config(), ..self.clone() })
    }

    /// The same connections, with credentials for each request.
    #[must_use]
    pub fn with_credentials(&self, credentials: Option<Credentials>) -> Self {
        Self { credentials, ..self.clone() }
    }

    fn request(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        Credentials::sign(self.credentials.as_ref(), self.http.request(method, url))
    }

    /// Whether the member at `base` lets the user by whom this client asks read and write. Nothing is run: credentials are
    /// looked at before the method, and the path is none to GET.
    pub async fn lets_in(&self, base: &str) -> Result<bool, AdminError> {
        let url = format!("{base}/db/request");
        let sent = self.request(Method::GET, &url).timeout(self.timeouts.report).send().await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(source) => return Err(AdminError::Transport { url, source: source.without_url() }),
        };
        match answer.status() {
            StatusCode::UNAUTHORIZED => Ok(false),
            StatusCode::METHOD_NOT_ALLOWED => Ok(true),
            _ => Err(refused(url, answer).await),
        }
    }

    /// What the member at `base` (as `http://10.0.0.7:4001`) knows of itself and of its cluster.
    pub async fn report(&self, base: &str) -> Result<MemberReport, AdminError> {
        self.call(Method::GET, base, "/cluster", None::<&()>, self.timeouts.report).await
    }

    /// Makes the member at `base` the only voter of a new cluster.
    pub async fn initialise(&self, base: &str, body: &Initialise) -> Result<MemberReport, AdminError> {
        self.call(Method::POST, base, "/cluster/initialise", Some(body), self.timeouts.change).await
    }

    /// Adds a learner.
    pub async fn add_learner(&self, base: &str, body: &AddLearner) -> Result<Changed, AdminError> {
        self.call(Method::POST, base, "/cluster/learners", Some(body), self.timeouts.change).await
    }

    /// Removes a learner.
    pub async fn remove_learner(&self, base: &str, node_id: NodeId) -> Result<Changed, AdminError> {
        let body = RemoveLearner { node_id };
        self.call(Method::DELETE, base, "/cluster/learners", Some(&body), self.timeouts.change).await
    }

    /// Promotes learners and removes voters in one joint change.
    pub async fn change_voters(&self, base: &str, body: &ChangeVoters) -> Result<Changed, AdminError> {
        self.call(Method::POST, base, "/cluster/voters", Some(body), self.timeouts.change).await
    }

    /// Hands the leadership over; answers once the new leader is known.
    pub async fn transfer(&self, base: &str, to: Option<NodeId>) -> Result<Transferred, AdminError> {
        let body = Transfer { to };
        self.call(Method::POST, base, "/cluster/transfer", Some(&body), self.timeouts.change).await
    }

    /// Lets the member at `base` go on alone after the other voters were lost for good.
    pub async fn recover(&self, base: &str, body: &Recover) -> Result<MemberReport, AdminError> {
        self.call(Method::POST, base, "/cluster/recover", Some(body), self.timeouts.change).await
    }

    /// Has every member pass over an entry that ends them all.
    pub async fn skip_entry(&self, base: &str, body: &SkipEntry) -> Result<Skipped, AdminError> {
        self.call(Method::POST, base, "/cluster/skip", Some(body), self.timeouts.skip).await
    }

    /// Has the member at `base` make a backup; answers at once.
    pub async fn start_backup(&self, base: &str, body: &StartBackup) -> Result<BackupJob, AdminError> {
        self.call(Method::POST, base, "/cluster/backups", Some(body), self.timeouts.change).await
    }

    /// The backups that the member at `base` makes, or made since it started.
    pub async fn backup_jobs(&self, base: &str) -> Result<BackupJobs, AdminError> {
        self.call(Method::GET, base, "/cluster/backups/jobs", None::<&()>, self.timeouts.report).await
    }

    /// The backups in the store.
    pub async fn backups(&self, base: &str) -> Result<Catalogue, AdminError> {
        self.call(Method::GET, base, "/cluster/backups", None::<&()>, self.timeouts.store).await
    }

    /// Deletes backups from the store.
    pub async fn delete_backups(&self, base: &str, body: &DeleteBackups) -> Result<Deleted, AdminError> {
        self.call(Method::DELETE, base, "/cluster/backups", Some(body), self.timeouts.store).await
    }

    /// Tries out the store.
    pub async fn probe_store(&self, base: &str) -> Result<Probe, AdminError> {
        self.call(Method::POST, base, "/cluster/backups/probe", None::<&()>, self.timeouts.store).await
    }

    /// Has the leader at `base` bring the cluster to another moment; answers at once.
    pub async fn start_restore(&self, base: &str, body: &StartRestore) -> Result<RestoreJob, AdminError> {
        self.call(Method::POST, base, "/cluster/restore", Some(body), self.timeouts.change).await
    }

    /// The restores that the member at `base` does, or did since it started.
    pub async fn restore_jobs(&self, base: &str) -> Result<RestoreJobs, AdminError> {
        self.call(Method::GET, base, "/cluster/restore", None::<&()>, self.timeouts.report).await
    }

    /// Reports of the member at `base`, one at once and one after each change, until the stream ends or fails.
    pub async fn events(
        &self,
        base: &str,
    ) -> Result<impl Stream<Item = Result<MemberReport, AdminError>> + Send + use<>, AdminError> {
        let url = format!("{base}/cluster/events");
        let request = self.request(Method::GET, &url).build();
        let request =
            request.map_err(|source| AdminError::Transport { url, source: source.without_url() })?;
        let events = Events::follow(request, self.tls.clone(), self.timeouts).await?;
        Ok(stream::unfold(Some(events), |events| async move {
            let mut events = events?;
            match events.next().await {
                Ok(Some(report)) => Some((Ok(report), Some(events))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn call<B: Serialize + ?Sized, A: DeserializeOwned>(
        &self,
        method: Method,
        base: &str,
        path: &str,
        body: Option<&B>,
        timeout: Duration,
    ) -> Result<A, AdminError> {
        let url = format!("{base}{path}");
        let mut request = self.request(method, &url).timeout(timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .map_err(|source| AdminError::Transport { url: url.clone(), source: source.without_url() })?;
        if !response.status().is_success() {
            return Err(refused(url, response).await);
        }
        let status = response.status().as_u16();
        let body = response
            .bytes()
            .await
            .map_err(|source| AdminError::Transport { url: url.clone(), source: source.without_url() })?;
        serde_json::from_slice(&body).map_err(|_| AdminError::Unexpected {
            url,
            status,
            body: excerpt(&body),
        })
    }
}

fn http(timeouts: AdminTimeouts, trust: Option<&Trust>) -> Result<reqwest::Client, AdminError> {
    let builder = reqwest::Client::builder()
        .connect_timeout(timeouts.connect)
        // Longer than between two looks at a cluster in which something moves, and not so long that one at rest keeps a
        // connection to each member: an operator has thousands of them.
        .pool_idle_timeout(Duration::from_secs(2))
        .pool_max_idle_per_host(1)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    Trust::applied(trust, builder).build().map_err(AdminError::Build)
}

async fn refused(url: String, response: reqwest::Response) -> AdminError {
    let status = response.status().as_u16();
    refusal(url, status, &response.bytes().await.unwrap_or_default())
}

/// What an answer says that is none of those that were asked for.
pub(crate) fn refusal(url: String, status: u16, body: &[u8]) -> AdminError {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => AdminError::Refused { url, status, refusal },
        Err(_) => AdminError::Unexpected { url, status, body: excerpt(body) },
    }
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(200).collect()
}
