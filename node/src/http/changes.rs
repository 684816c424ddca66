//! `GET /db/changes`: captured changes as they are applied here, a line of JSON or a server-sent event for each entry.

use super::App;
use super::respond::{self, Answer};
use super::sql::{Incoming, bad_param};
use crate::changes::{PageReader, Reads, Wanted, push_entry_head};
use crate::observe::Observe as _;
use crate::raft::Consensus;
use crate::store::{CaptureState, Cursor, Part};
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use client::admin::Phase;
use futures::Stream;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Something is sent at least this often.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Bytes of changes that are read at once.
const BYTES: usize = 256 << 10;
/// Bytes of a page that is large.
const LARGE: usize = 1 << 20;
const OFF: &str = "change capture is off: start the members with -cdc-config";
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// How entries are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Lines,
    Events,
}

impl Form {
    fn accepted(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("text/event-stream") { Self::Events } else { Self::Lines }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }

    fn begin(self, out: &mut Vec<u8>, event: &str, index: u64) {
        if self == Self::Events {
            out.extend_from_slice(format!("id: {index}\nevent: {event}\ndata: ").as_bytes());
        }
    }

    fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Lines => b"\n",
            Self::Events => b"\n\n",
        });
    }

    fn heartbeat(self, index: u64) -> Bytes {
        let mut out = Vec::new();
        self.begin(&mut out, "heartbeat", index);
        out.extend_from_slice(format!("{{\"index\":{index},\"heartbeat\":true}}").as_bytes());
        self.end(&mut out);
        out.into()
    }

    fn error(self, index: u64, message: &str) -> Bytes {
        let mut out = Vec::new();
        self.begin(&mut out, "error", index);
        out.extend_from_slice(b"{\"error\":");
        crate::store::write_str(&mut out, message);
        out.push(b'}');
        self.end(&mut out);
        out.into()
    }
}

fn gone(from: u64, state: &CaptureState) -> String {
    format!(
        "changes after index {from} are not kept any more; they are from index {} on: read the tables anew, then follow",
        state.earliest()
    )
}

/// Whether this member's state is one to read.
fn is_in_service(phase: Phase) -> bool {
    matches!(phase, Phase::Serving | Phase::Draining)
}

/// `GET /db/changes`
pub async fn changes(app: &Arc<App>, incoming: Incoming) -> Answer {
    let params = &incoming.params;
    let asked = params.integer("from").and_then(|from| Ok((from, params.duration("timeout")?)));
    let (from, timeout) = match asked {
        Ok(asked) => asked,
        Err(error) => return bad_param(&error),
    };
    let wanted = match Wanted::new(params.get("tables")) {
        Ok(wanted) => wanted,
        Err(error) => return respond::error(StatusCode::BAD_REQUEST, format!("tables: {error}")),
    };
    // A browser that comes back says so.
    let last = incoming.headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = match from.map(u64::try_from) {
        Some(Err(_)) => return respond::error(StatusCode::BAD_REQUEST, "from is below 0"),
        Some(Ok(from)) => Some(last.map_or(from, |last| last.max(from))),
        None => last,
    };
    if !is_in_service(app.consensus.phase().current()) {
        return respond::error(StatusCode::SERVICE_UNAVAILABLE, "this member is not in service");
    }
    let Ok(room) = app.changes.streams.clone().try_acquire_owned() else {
        return respond::error(StatusCode::SERVICE_UNAVAILABLE, "too many streams of changes here");
    };
    let reader = PageReader::new(&app.consensus);
    // Nothing follows the last cursor: only how capture stands is read.
    let at = match reader.read(Cursor::after_entry(u64::MAX), 1).await {
        Ok(Some(page)) => page,
        Ok(None) => return respond::error(StatusCode::CONFLICT, OFF),
        Err(error) => return respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let from = from.unwrap_or(at.position.index);
    if from < at.state.earliest() {
        return respond::error(StatusCode::GONE, gone(from, &at.state));
    }
    let form = Form::accepted(&incoming.headers);
    let follower = Follower {
        consensus: app.consensus.clone(),
        reader,
        cursor: Cursor::after_entry(from),
        sent: from,
        form,
        wanted,
        deadline: timeout.map(|timeout| Instant::now() + timeout.min(LONGEST)),
        ended: app.changes.ended(),
        since: at.state.since,
        reads: app.changes.reads.clone(),
        _room: room,
    };
    let mut answer = respond::stream_of(form.content_type(), Body::from_stream(follower.stream()));
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    answer
}

/// One stream.
struct Follower {
    consensus: Arc<Consensus>,
    reader: PageReader,
    cursor: Cursor,
    /// All up to this entry was sent.
    sent: u64,
    form: Form,
    wanted: Wanted,
    deadline: Option<Instant>,
    ended: watch::Receiver<bool>,
    /// When capture was switched on: another number is another capture.
    since: u64,
    reads: Reads,
    _room: OwnedSemaphorePermit,
}

/// An entry of which parts were sent.
#[derive(Default)]
struct Open {
    entry: Option<u64>,
    has_events: bool,
}

impl Follower {
    fn stream(mut self) -> impl Stream<Item = io::Result<Bytes>> {
        async_stream::stream! {
            let mut news = self.consensus.store().state();
            let phase = self.consensus.phase();
            let mut open = Open::default();
            let mut quiet_until = Instant::now() + HEARTBEAT;
            loop {
                news.mark_unchanged();
                if self.ended.current() || !is_in_service(phase.current()) {
                    return;
                }
                // A page with a change of megabytes is read again once few others hold such a one.
                let mut large = None;
                let page = loop {
                    let turn = self.reads.reading.acquire().await;
                    let page = match self.reader.read(self.cursor, BYTES).await {
                        Ok(Some(page)) if page.state.since == self.since => page,
                        Ok(_) => { yield Ok(self.form.error(self.sent, OFF)); return }
                        // An error ends the connection.
                        Err(error) => { yield Err(io::Error::other(error)); return }
                    };
                    let size: usize = page.parts.iter().map(|part| part.events.len()).sum();
                    if size > LARGE && large.is_none() {
                        large = self.reads.large.clone().try_acquire_owned().ok();
                    }
                    if size <= LARGE || large.is_some() {
                        break page;
                    }
                    drop((page, turn));
                    match timeout(HEARTBEAT, self.reads.large.clone().acquire_owned()).await {
                        Ok(permit) => large = permit.ok(),
                        Err(_) => yield Ok(self.form.heartbeat(self.sent)),
                    }
                };
                // What this stream has read is not missed when it goes.
                if self.cursor < Cursor::after_entry(page.state.earliest()) {
                    if open.entry.is_some() {
                        yield Err(io::Error::other("the rest of an entry is not kept any more"));
                        return;
                    }
                    yield Ok(self.form.error(self.sent, &gone(self.sent, &page.state)));
                    return;
                }
                let is_full = page.is_full;
                let position = page.position.index;
                for part in page.parts {
                    let mut out = Vec::new();
                    self.push(&part, &mut open, &mut out);
                    if !out.is_empty() {
                        quiet_until = Instant::now() + HEARTBEAT;
                        yield Ok(out.into());
                    }
                }
                drop(large);
                if is_full {
                    continue;
                }
                self.sent = self.sent.max(position);
                self.cursor = self.cursor.max(Cursor::after_entry(self.sent));
                let now = Instant::now();
                if self.deadline.is_some_and(|deadline| deadline <= now) {
                    yield Ok(self.form.heartbeat(self.sent));
                    return;
                }
                if quiet_until <= now {
                    quiet_until = now + HEARTBEAT;
                    yield Ok(self.form.heartbeat(self.sent));
                }
                let until = self.deadline.map_or(quiet_until, |deadline| deadline.min(quiet_until));
                let changed = async {
                    tokio::select! {
                        changed = news.changed() => changed.is_ok(),
                        _ = self.ended.changed() => false,
                    }
                };
                match timeout_at(until, changed).await {
                    Ok(true) | Err(_) => {}
                    // The member goes down.
                    Ok(false) => return,
                }
            }
        }
    }

    fn push(&mut self, part: &Part, open: &mut Open, out: &mut Vec<u8>) {
        let entry = part.cursor.entry();
        let mut events = Vec::with_capacity(part.events.len() + 128);
        let begun = open.entry == Some(entry) && open.has_events;
        let any = self.wanted.push(&mut events, &part.events, begun);
        if any && !begun {
            self.form.begin(out, "changes", entry);
            push_entry_head(out, entry, part.at_ms);
        }
        out.extend_from_slice(&events);
        *open = Open { entry: Some(entry), has_events: any };
        if !part.more {
            if any {
                out.extend_from_slice(b"]}");
                self.form.end(out);
            }
            *open = Open::default();
            self.sent = entry;
        }
        self.cursor = part.cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_for_who_asks_for_them() {
        for (accept, expected) in [
            (None, Form::Lines),
            (Some("*/*"), Form::Lines),
            (Some("application/x-ndjson"), Form::Lines),
            (Some("text/event-stream"), Form::Events),
            (Some("text/html, text/event-stream;q=0.9"), Form::Events),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
            }
            assert_eq!(Form::accepted(&headers), expected, "{accept:?}");
        }
        assert_eq!(&Form::Lines.heartbeat(7)[..], b"{\"index\":7,\"heartbeat\":true}\n");
        assert_eq!(
            &Form::Events.heartbeat(7)[..],
            b"id: 7\nevent: heartbeat\ndata: {\"index\":7,\"heartbeat\":true}\n\n"
        );
    }
}
