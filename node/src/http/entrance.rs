//! The client port from the start of the process on: before log and database are open, what is known is answered at once,
//! and the rest waits for them as long as it would wait for a leader. No connection ends when the member is open.

use super::counters::Counter;
use super::params::Params;
use super::respond::{self, Answer, Envelope};
use super::routes::{Endpoint, Route};
use super::sql::bad_param;
use super::{About, Admitted, App, Counters, admin, admit, pages, status};
use crate::auth::Authenticator;
use crate::tls::ServerTls;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use client::admin::{Refusal, RefusalReason};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::SetOnce;

const NOT_OPEN: &str = "store not open";

/// What is known before the member is open, and the member once it is.
pub struct Entrance {
    /// Who may do what; none: everybody everything.
    pub auth: Option<Arc<Authenticator>>,
    /// TLS of this port.
    pub tls: Option<Arc<ServerTls>>,
    /// What happened how often.
    pub counters: Arc<Counters>,
    /// How long a request waits, unless it says so itself.
    pub apply_timeout: Duration,
    /// Values shown in diagnostics.
    pub about: About,
    app: SetOnce<Arc<App>>,
}

impl Entrance {
    /// Of a member that is not open yet.
    pub fn new(
        auth: Option<Arc<Authenticator>>,
        tls: Option<Arc<ServerTls>>,
        counters: Arc<Counters>,
        apply_timeout: Duration,
        about: About,
    ) -> Arc<Self> {
        Arc::new(Self { auth, tls, counters, apply_timeout, about, app: SetOnce::new() })
    }

    /// The member is open: from now on it answers.
    pub fn open(&self, app: Arc<App>) {
        if self.app.set(app).is_err() {
            tracing::error!("a member was opened twice");
        }
    }

    /// The member, if it is open.
    pub(super) fn opened(&self) -> Option<&Arc<App>> {
        self.app.get()
    }

    /// What a request is answered before the member is open; the member, if it opens while the request waits for that.
    pub(super) async fn before_open(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<&Arc<App>, Answer> {
        if method == Method::OPTIONS {
            return Err(respond::empty(StatusCode::OK));
        }
        let came = Instant::now();
        let asked = (method, uri, headers);
        let Admitted { route, params, .. } = admit(self.auth.as_deref(), &self.counters, asked).await?;
        match route.endpoint {
            Endpoint::Status => return Err(status::status_before_open(self, &params)),
            Endpoint::Ready => return Err(status::ready_before_open(self, &params)),
            Endpoint::Licenses => return Err(pages::licenses()),
            _ => {}
        }
        let patience = params.patience("timeout", self.apply_timeout).map_err(|error| bad_param(&error))?;
        tokio::time::timeout(patience, self.app.wait()).await.map_err(|_| self.not_open(route, &params, came))
    }

    fn not_open(&self, route: &Route, params: &Params, came: Instant) -> Answer {
        match route.endpoint {
            // Each error of this interface is one of its own kind.
            _ if route.path.starts_with("/cluster") => admin::answer::<()>(Err(Refusal {
                reason: RefusalReason::NoLeader,
                message: format!("{NOT_OPEN}; try again"),
            })),
            Endpoint::Execute if params.flag("queue") => {
                self.counters.count(Counter::LeaderNotFound);
                respond::error(StatusCode::SERVICE_UNAVAILABLE, "leader not found")
            }
            Endpoint::Execute | Endpoint::Query | Endpoint::Request => {
                Envelope::asked_for(params, came).failed(NOT_OPEN)
            }
            _ => respond::error(StatusCode::SERVICE_UNAVAILABLE, NOT_OPEN),
        }
    }
}
