//! `/db/load` and `/boot`: a database file takes the place of the present one, or SQL text is run.

use super::body::STATEMENTS;
use super::counters::Counter;
use super::json::outside_strings;
use super::respond::{self, Answer, Envelope};
use super::sql::{Incoming, bad_param, served_by};
use super::{App, bookmark, redirect};
use crate::backup::Packing;
use crate::raft::command::{LARGEST_REQUEST, RequestEncoder, RequestFlags};
use crate::raft::{LoadError, Loaded, RequestError, Upload};
use crate::store::{MAGIC, Position, statements};
use axum::body::Body;
use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What tells a database file from SQL text.
const BEGINNING: usize = 13;
/// How long an upload may bring nothing.
const STALLED: Duration = Duration::from_secs(30);
/// How long SQL text waits for a leader and a quorum.
const TIMEOUT: Duration = Duration::from_secs(30);

/// `POST /db/load`
pub async fn load(app: &Arc<App>, incoming: Incoming) -> Answer {
    app.counters.count(Counter::Loads);
    let pretty = incoming.params.flag("pretty");
    let timeout = match incoming.params.patience("timeout", TIMEOUT) {
        Ok(timeout) => timeout,
        Err(error) => return bad_param(&error),
    };
    if incoming.params.flag("redirect")
        && let Some(answer) = redirect::to_leader(app, incoming.scheme, &incoming.uri)
    {
        return answer;
    }
    let mut body = incoming.body;
    let beginning = match read_beginning(&mut body).await {
        Ok(beginning) => beginning,
        Err(error) => return respond::error(StatusCode::BAD_REQUEST, error),
    };
    if let Some(packing) = Packing::of(&beginning) {
        return packed(packing);
    }
    if !beginning.starts_with(&MAGIC[..BEGINNING]) {
        return load_sql(app, beginning, body, timeout, pretty).await;
    }
    match app.consensus.load(upload(beginning, body)).await {
        Ok(loaded) => {
            let mut answer = respond::json(StatusCode::OK, b"{\"results\":[]}".to_vec(), pretty);
            loaded_by(app, &mut answer, &loaded);
            answer
        }
        Err(error) => failed(app, &error, pretty),
    }
}

/// `POST /boot`
pub async fn boot(app: &Arc<App>, incoming: Incoming) -> Answer {
    app.counters.count(Counter::Boots);
    if let Err(error) = app.consensus.may_boot() {
        return respond::error(StatusCode::SERVICE_UNAVAILABLE, error);
    }
    let mut body = incoming.body;
    let beginning = match read_beginning(&mut body).await {
        Ok(beginning) => beginning,
        Err(error) => return respond::error(StatusCode::SERVICE_UNAVAILABLE, error),
    };
    if let Some(packing) = Packing::of(&beginning) {
        return packed(packing);
    }
    if beginning.len() < BEGINNING {
        // As of an upload that broke off: the whole may come yet.
        return respond::error(StatusCode::SERVICE_UNAVAILABLE, "the body ended before a database began");
    }
    if !beginning.starts_with(&MAGIC[..BEGINNING]) {
        return respond::error(StatusCode::BAD_REQUEST, "invalid SQLite data");
    }
    match app.consensus.boot(upload(beginning, body)).await {
        Ok(loaded) => {
            let mut answer = respond::empty(StatusCode::OK);
            loaded_by(app, &mut answer, &loaded);
            answer
        }
        Err(LoadError::Io(error)) => respond::error(StatusCode::SERVICE_UNAVAILABLE, error),
        Err(error) => failed(app, &error, false),
    }
}

/// What is packed is not taken: only who unpacks it knows how much it may come to.
fn packed(packing: Packing) -> Answer {
    let message = format!("invalid SQLite data: it is packed by {}; unpack it first", packing.name());
    respond::error(StatusCode::BAD_REQUEST, message)
}

fn loaded_by(app: &App, answer: &mut Answer, loaded: &Loaded) {
    if loaded.forwarded_to.is_some() {
        app.counters.count(Counter::RemoteLoads);
    }
    let epoch = app.consensus.identity().cluster().map_or(0, |c| c.epoch);
    bookmark::write(answer, Position { epoch, index: loaded.index });
    served_by(app, answer, loaded.forwarded_to.as_deref());
}

fn failed(app: &App, error: &LoadError, pretty: bool) -> Answer {
    match error {
        LoadError::Invalid(_) => respond::error(StatusCode::BAD_REQUEST, error),
        LoadError::NotLeader | LoadError::NotSingleNode => {
            respond::error(StatusCode::SERVICE_UNAVAILABLE, error)
        }
        LoadError::Request(RequestError::NoLeader) => redirect::no_leader(app),
        LoadError::Request(error) => {
            respond::request_error(error, Envelope { pretty, ..Envelope::default() })
        }
        LoadError::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            respond::error(StatusCode::INSUFFICIENT_STORAGE, error)
        }
        LoadError::Io(error) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

async fn frame(body: &mut Body) -> io::Result<Option<Bytes>> {
    loop {
        let Some(frame) = tokio::time::timeout(STALLED, body.frame()).await? else { return Ok(None) };
        if let Ok(piece) = frame.map_err(io::Error::other)?.into_data()
            && !piece.is_empty()
        {
            return Ok(Some(piece));
        }
    }
}

async fn read_beginning(body: &mut Body) -> io::Result<BytesMut> {
    let mut beginning = BytesMut::new();
    while beginning.len() < BEGINNING {
        let Some(piece) = frame(body).await? else { break };
        beginning.extend_from_slice(&piece);
    }
    Ok(beginning)
}

/// The whole body as pieces, read as fast as they are taken.
fn upload(beginning: BytesMut, mut body: Body) -> Upload {
    let (send, upload) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut next = Ok(Some(beginning.freeze()));
        loop {
            let piece = next.map(Option::unwrap_or_default);
            let is_last = !matches!(&piece, Ok(piece) if !piece.is_empty());
            // Who takes no more has failed, and says so itself.
            if send.send(piece).await.is_err() || is_last {
                return;
            }
            next = frame(&mut body).await;
        }
    });
    upload
}

/// Runs SQL text, all of it or nothing.
async fn load_sql(app: &App, beginning: BytesMut, body: Body, timeout: Duration, pretty: bool) -> Answer {
    let held = match app.room.receive_after(beginning, body).await {
        Ok(held) => held,
        Err(answer) => return answer,
    };
    let Ok(text) = std::str::from_utf8(&held.bytes) else {
        return respond::error(
            StatusCode::BAD_REQUEST,
            "invalid SQLite data: neither a database nor SQL text",
        );
    };
    let statements = statements(text);
    if statements.is_empty() {
        return respond::error(StatusCode::BAD_REQUEST, "no statements");
    }
    let flags = RequestFlags::default().with(RequestFlags::TRANSACTION, true);
    let mut request = RequestEncoder::new(flags, text.len() + 8 * statements.len());
    for statement in statements {
        request.statement(statement);
        if request.is_too_large() || request.statements() > STATEMENTS {
            let message = format!(
                "the text has more than {STATEMENTS} statements, or takes more than {LARGEST_REQUEST} bytes: \
                 load it in parts, or as a database"
            );
            return respond::error(StatusCode::PAYLOAD_TOO_LARGE, message);
        }
    }
    let request = request.finish(app.consensus.proposer().next_request_id());
    match app.consensus.execute(request, timeout).await {
        Ok(done) => {
            let body = [b"{\"results\":[", last_result(&done.results), b"]}"].concat();
            let mut answer = respond::json(StatusCode::OK, body, pretty);
            let loaded = Loaded { index: done.index, forwarded_to: done.forwarded_to };
            loaded_by(app, &mut answer, &loaded);
            answer
        }
        Err(RequestError::NoLeader) => redirect::no_leader(app),
        Err(error) => respond::request_error(&error, Envelope { pretty, ..Envelope::default() }),
    }
}

/// Of the results of many statements, as JSON with commas between them, the last: the whole text is one statement to the
/// client.
fn last_result(results: &[u8]) -> &[u8] {
    let commas = outside_strings(results).filter(|(_, byte, depth)| (*byte, *depth) == (b',', 0));
    &results[commas.last().map_or(0, |(at, ..)| at + 1)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_many_results() {
        for (results, expected) in [
            ("", ""),
            ("{}", "{}"),
            (r#"{"a":1},{"b":[{},{}]}"#, r#"{"b":[{},{}]}"#),
            (r#"{"a":"x"},{"error":"near \"},{\": \\"}"#, r#"{"error":"near \"},{\": \\"}"#),
        ] {
            assert_eq!(last_result(results.as_bytes()), expected.as_bytes(), "{results}");
        }
    }
}
