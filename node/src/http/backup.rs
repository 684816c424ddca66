//! `/db/backup`: a copy of the database, streamed.

use super::App;
use super::counters::Counter;
use super::redirect;
use super::respond::{self, Answer, Envelope};
use super::sql::{Incoming, bad_param, served_by};
use crate::raft::{DatabaseCopy, RequestError};
use crate::store::{BackupFormat, BackupOptions};
use axum::body::Body;
use axum::http::StatusCode;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a leader is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// `GET /db/backup`
pub async fn backup(app: &Arc<App>, incoming: Incoming) -> Answer {
    app.counters.count(Counter::Backups);
    let params = &incoming.params;
    let timeout = match params.patience("timeout", TIMEOUT) {
        Ok(timeout) => timeout,
        Err(error) => return bad_param(&error),
    };
    let vacuum = params.flag("vacuum");
    let format = match params.get("fmt") {
        Some("sql") if vacuum => {
            return respond::error(StatusCode::INTERNAL_SERVER_ERROR, "invalid backup format");
        }
        Some("sql") => {
            let tables = params.get("tables").unwrap_or_default();
            let tables = tables.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
            BackupFormat::Sql { tables: tables.collect() }
        }
        Some("delete") => BackupFormat::Binary { wal: false, vacuum },
        // Also an unknown one.
        _ => BackupFormat::Binary { wal: true, vacuum },
    };
    let content_type = match format {
        BackupFormat::Sql { .. } => "application/sql",
        BackupFormat::Binary { .. } => "application/octet-stream",
    };
    let options = BackupOptions { format, compress: params.flag("compress") };
    let copy = if params.flag("noleader") {
        app.consensus.copy_here(options).await
    } else {
        if params.flag("redirect")
            && let Some(answer) = redirect::to_leader(app, incoming.scheme, &incoming.uri)
        {
            return answer;
        }
        app.consensus.copy_of_leader(options, timeout).await
    };
    let DatabaseCopy { mut pieces, forwarded_to } = match copy {
        Ok(copy) => copy,
        Err(RequestError::NoLeader) => return redirect::no_leader(app),
        Err(error) => return respond::request_error(&error, Envelope::default()),
    };
    // What fails before the first piece is told as an error, not by a connection that ends.
    let first = match pieces.recv().await {
        Some(Ok(piece)) => piece,
        Some(Err(error)) => return respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        None => return respond::error(StatusCode::INTERNAL_SERVER_ERROR, "the copy was cut short"),
    };
    if forwarded_to.is_some() {
        app.counters.count(Counter::RemoteBackups);
    }
    let last_backup = app.last_backup.clone();
    let body = async_stream::stream! {
        let mut next = Some(Ok(first));
        loop {
            match next {
                Some(Ok(piece)) if piece.is_empty() => { last_backup.is_now(); return }
                Some(Ok(piece)) => yield Ok(piece),
                // An error ends the connection: the client must not take a part for the whole.
                Some(Err(error)) => { yield Err(error); return }
                None => { yield Err(io::Error::other("the copy was cut short")); return }
            }
            next = pieces.recv().await;
        }
    };
    let mut answer = respond::stream_of(content_type, Body::from_stream(body));
    served_by(app, &mut answer, forwarded_to.as_deref());
    answer
}
