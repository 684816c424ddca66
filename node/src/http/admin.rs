//! `/cluster`: what the operator asks; see [`client::admin`] for the contract.

use super::App;
use super::receive::read_small;
use super::respond::{self, Answer};
use super::sql::Incoming;
use axum::body::Body;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use client::admin::{Refusal, RefusalReason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const BODY_LIMIT: usize = 64 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(10);

fn refused(refusal: &Refusal) -> Answer {
    let status = match refusal.reason {
        RefusalReason::Invalid => StatusCode::BAD_REQUEST,
        RefusalReason::NoLeader | RefusalReason::OutcomeUnknown => StatusCode::SERVICE_UNAVAILABLE,
        RefusalReason::Unauthorized => StatusCode::UNAUTHORIZED,
        RefusalReason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        RefusalReason::Store => StatusCode::BAD_GATEWAY,
        RefusalReason::NoStore
        | RefusalReason::NotConfirmed
        | RefusalReason::NotEmpty
        | RefusalReason::NameTaken
        | RefusalReason::NotCaughtUp
        | RefusalReason::NoQuorum
        | RefusalReason::ChangeInProgress
        | RefusalReason::NoSuchMember
        | RefusalReason::NotFatal => StatusCode::CONFLICT,
    };
    respond::json_value(status, refusal, false)
}

pub(super) fn answer<T: Serialize>(outcome: Result<T, Refusal>) -> Answer {
    match outcome {
        Ok(value) => respond::json_value(StatusCode::OK, &value, false),
        Err(refusal) => refused(&refusal),
    }
}

pub(super) async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Answer> {
    let body = read_small(body, BODY_LIMIT).await?;
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    serde_json::from_slice(&body)
        .map_err(|e| refused(&Refusal { reason: RefusalReason::Invalid, message: format!("body: {e}") }))
}

/// `GET /cluster`
pub fn report(app: &App) -> Answer {
    respond::json_value(StatusCode::OK, &app.consensus.report(), false)
}

/// `GET /cluster/events`
pub fn events(app: &Arc<App>) -> Answer {
    let mut reports = app.consensus.reports(KEEP_ALIVE);
    let lines = async_stream::stream! {
        while let Some(report) = reports.recv().await {
            let mut line = report.map(|r| serde_json::to_vec(&r).unwrap_or_default()).unwrap_or_default();
            line.push(b'\n');
            yield Ok::<_, Infallible>(Bytes::from(line));
        }
    };
    respond::stream(Body::from_stream(lines))
}

/// `POST /cluster/initialise`
pub async fn initialise(app: &App, incoming: Incoming) -> Answer {
    let request: client::admin::Initialise = match read(incoming.body).await {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    answer(app.consensus.initialise(&request.cluster_id).await.map(|()| app.consensus.report()))
}

/// `POST /cluster/learners`, `DELETE /cluster/learners`
pub async fn learners(app: &App, incoming: Incoming) -> Answer {
    if incoming.method == Method::DELETE {
        match read(incoming.body).await {
            Ok(request) => answer(app.consensus.remove_learner(request).await),
            Err(answer) => answer,
        }
    } else {
        match read(incoming.body).await {
            Ok(request) => answer(app.consensus.add_learner(request).await),
            Err(answer) => answer,
        }
    }
}

/// `POST /cluster/voters`
pub async fn voters(app: &App, incoming: Incoming) -> Answer {
    match read(incoming.body).await {
        Ok(request) => answer(app.consensus.change_voters(request).await),
        Err(answer) => answer,
    }
}

/// `POST /cluster/transfer`
pub async fn transfer(app: &App, incoming: Incoming) -> Answer {
    match read(incoming.body).await {
        Ok(request) => answer(app.consensus.transfer(request).await),
        Err(answer) => answer,
    }
}

/// `POST /cluster/recover`
pub async fn recover(app: &App, incoming: Incoming) -> Answer {
    match read::<client::admin::Recover>(incoming.body).await {
        Ok(request) => answer(app.consensus.recover(&request).await.map(|()| app.consensus.report())),
        Err(answer) => answer,
    }
}

/// `POST /cluster/skip`
pub async fn skip(app: &App, incoming: Incoming) -> Answer {
    match read(incoming.body).await {
        Ok(request) => answer(app.consensus.skip_entry(request).await),
        Err(answer) => answer,
    }
}
