//! `/db/execute`, `/db/query`, `/db/request`, `/db/sql`.

use super::body::{BadBody, decode_json, decode_json_to_show, decode_text, encode_text};
use super::counters::Counter;
use super::params::{BadParam, LONGEST, Params};
use super::queue::QueueError;
use super::receive::Held;
use super::respond::{self, Answer, Envelope};
use super::{App, Scheme, bookmark, idempotency, redirect};
use crate::raft::command::{EncodedRequest, IdempotencyKey, Malformed, RequestFlags};
use crate::raft::{Freshness, Level, QueryAnswer, QueryOptions, ReadBody, RequestError};
use crate::store::{Limits, Position, ResultLimit, begin_entry, write_str};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use bytes::Bytes;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// How long a queued write waits for room, and for its flush.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

const SERVED_BY: HeaderName = HeaderName::from_static("x-rqlite-served-by");

/// A request whose body has not been read.
pub struct Incoming {
    /// How it came.
    pub scheme: Scheme,
    /// Its method.
    pub method: Method,
    /// Where it went, with its parameters as they came.
    pub uri: Uri,
    /// Its parameters.
    pub params: Params,
    /// Its headers.
    pub headers: HeaderMap,
    /// Who sent it, where that is asked for ([`idempotency`]) and their password was right.
    pub user: Option<String>,
    /// Its body.
    pub body: Body,
}

/// A parameter that makes no sense.
pub fn bad_param(error: &BadParam) -> Answer {
    respond::error(StatusCode::BAD_REQUEST, error)
}

fn bad_body(error: &BadBody, envelope: Envelope) -> Answer {
    match error {
        BadBody::DisallowedPragma => envelope.failed(&error.to_string()),
        BadBody::TooLarge => respond::error(StatusCode::PAYLOAD_TOO_LARGE, error),
        _ => respond::error(StatusCode::BAD_REQUEST, error),
    }
}

/// Parameters that the endpoints share.
struct Common {
    flags: RequestFlags,
    key: Option<IdempotencyKey>,
    /// How long it waits for a leader and a quorum.
    timeout: Duration,
    statement_timeout: Option<Duration>,
    redirect: bool,
    envelope: Envelope,
}

impl Common {
    /// Reads them of a request that has just come.
    fn read(app: &App, incoming: &Incoming) -> Result<Self, BadParam> {
        let came = Instant::now();
        let params = &incoming.params;
        let flags = [
            ("transaction", RequestFlags::TRANSACTION),
            ("associative", RequestFlags::ASSOCIATIVE),
            ("blob_array", RequestFlags::BLOB_ARRAY),
            ("timings", RequestFlags::TIMINGS),
            ("qualify_columns", RequestFlags::QUALIFY_COLUMNS),
        ]
        .into_iter()
        .fold(RequestFlags::default(), |flags, (name, flag)| flags.with(flag, params.flag(name)));
        // `retries` has no meaning here: what can be tried again is, until the time is over.
        Ok(Self {
            flags,
            key: idempotency::read(&incoming.headers, incoming.user.as_deref())?,
            timeout: params.patience("timeout", app.apply_timeout)?,
            statement_timeout: params.duration("db_timeout")?.filter(|t| !t.is_zero()),
            redirect: params.flag("redirect"),
            envelope: Envelope::asked_for(params, came),
        })
    }

    fn query_options(&self, params: &Params, headers: &HeaderMap) -> Result<QueryOptions, BadParam> {
        let within = params.duration("freshness")?;
        let strict = params.flag("freshness_strict");
        let level = match params.get("level").map(str::to_ascii_lowercase).as_deref() {
            Some("none") => Level::None,
            Some("linearizable") => Level::Linearizable,
            Some("strong") => Level::Strong,
            Some("auto") => Level::Auto,
            // Also an unknown one.
            _ => Level::Weak,
        };
        let timeout = match level {
            Level::Linearizable => params.patience("linearizable_timeout", self.timeout)?,
            _ => self.timeout,
        };
        Ok(QueryOptions {
            level,
            timeout,
            limits: Limits {
                statement_timeout: self.statement_timeout,
                result: ResultLimit {
                    rows: params.most("db_max_rows")?,
                    bytes: params.most("db_max_bytes")?,
                },
            },
            // None at all is what a duration of 0 says.
            freshness: within.filter(|t| !t.is_zero()).map(|within| Freshness { within, strict }),
            bookmark: bookmark::read(headers)?,
        })
    }
}

/// Reads the body of an endpoint that takes SQL as it is too, if it is said to be plain text.
fn decode_any(
    app: &App,
    headers: &HeaderMap,
    body: &[u8],
    flags: RequestFlags,
) -> Result<EncodedRequest, BadBody> {
    let is_text = headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/plain"));
    if is_text {
        let sql = std::str::from_utf8(body).map_err(|_| BadBody::Invalid)?;
        return decode_text(sql, flags, app.consensus.proposer().next_request_id());
    }
    decode(app, body, flags)
}

/// Reads a body of JSON, whatever it is said to be: browsers call every string plain text.
fn decode(app: &App, body: &[u8], flags: RequestFlags) -> Result<EncodedRequest, BadBody> {
    decode_json(body, flags, app.consensus.proposer().next_request_id())
}

/// Says who answered.
pub fn served_by(app: &App, answer: &mut Answer, forwarded_to: Option<&str>) {
    let by = forwarded_to.unwrap_or(&app.consensus.config().api_address);
    if let Ok(by) = HeaderValue::from_str(by) {
        answer.headers_mut().insert(SERVED_BY, by);
    }
}

fn failed(app: &App, error: &RequestError, envelope: Envelope) -> Answer {
    if matches!(error, RequestError::NoLeader) {
        return redirect::no_leader(app);
    }
    respond::request_error(error, envelope)
}

/// `/db/execute`
pub async fn execute(app: &App, incoming: Incoming) -> Answer {
    app.counters.count(Counter::Executions);
    let common = match Common::read(app, &incoming) {
        Ok(common) => common,
        Err(error) => return bad_param(&error),
    };
    if incoming.params.flag("queue") {
        if common.key.is_some() {
            let message =
                "Idempotency-Key is not for queued writes: they are answered before they are applied";
            return respond::error(StatusCode::BAD_REQUEST, message);
        }
        return enqueue(app, incoming, &common).await;
    }
    if common.redirect
        && let Some(answer) = redirect::to_leader(app, incoming.scheme, &incoming.uri)
    {
        return answer;
    }
    let Held { bytes, room } = match app.room.receive(incoming.body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let request = match decode_any(app, &incoming.headers, &bytes, common.flags) {
        Ok(request) => request,
        Err(error) => return bad_body(&error, common.envelope),
    };
    drop(bytes);
    apply(app, request, room, &common).await
}

fn with_key(request: EncodedRequest, key: Option<&IdempotencyKey>) -> Result<EncodedRequest, Malformed> {
    match key {
        None => Ok(request),
        Some(key) => request.with_key(key),
    }
}

async fn apply(app: &App, request: EncodedRequest, _room: OwnedSemaphorePermit, common: &Common) -> Answer {
    let request = match with_key(request, common.key.as_ref()) {
        Ok(request) => request,
        Err(error) => return respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    match app.consensus.execute_within(request, common.timeout, common.statement_timeout).await {
        Ok(done) => {
            let mut answer = common.envelope.wrap(ReadBody::Whole(done.results), done.index);
            if done.forwarded_to.is_some() {
                app.counters.count(Counter::RemoteExecutions);
            }
            let epoch = app.consensus.identity().cluster().map_or(0, |c| c.epoch);
            bookmark::write(&mut answer, Position { epoch, index: done.index });
            served_by(app, &mut answer, done.forwarded_to.as_deref());
            answer
        }
        Err(error) => failed(app, &error, common.envelope),
    }
}

/// `/db/execute?queue`
async fn enqueue(app: &App, incoming: Incoming, common: &Common) -> Answer {
    app.counters.count(Counter::QueuedExecutions);
    let wait = incoming.params.flag("wait");
    // Here 0 means what it says, as in rqlite: who is not to wait is told whether it was flushed already.
    let timeout = match incoming.params.duration("timeout") {
        Ok(timeout) => timeout.unwrap_or(QUEUE_TIMEOUT).min(LONGEST),
        Err(error) => return bad_param(&error),
    };
    let deadline = tokio::time::Instant::now() + timeout;
    let Held { bytes, room } = match app.room.receive(incoming.body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let request = match decode_any(app, &incoming.headers, &bytes, RequestFlags::default()) {
        Ok(request) => Some(request),
        Err(BadBody::NoStatements) if wait => None,
        Err(error) => return bad_body(&error, common.envelope),
    };
    drop(bytes);
    if !incoming.params.flag("noleader") && !app.consensus.knows_leader() {
        return redirect::no_leader(app);
    }
    let statements = request.as_ref().and_then(|r| Some(r.view().ok()?.count)).unwrap_or(0);
    let queued = app.queue.push(request, wait, deadline).await;
    // From here on it has its room in the queue.
    drop(room);
    let flushed = match queued {
        Ok((sequence, None)) => Ok(sequence),
        Ok((sequence, Some(flushed))) => {
            app.counters.count(Counter::QueuedExecutionsWait);
            match tokio::time::timeout_at(deadline, flushed).await {
                Ok(Ok(outcome)) => outcome.map(|()| sequence),
                Ok(Err(_)) => Err(QueueError::Closed),
                Err(_) => Err(QueueError::WaitTimeout),
            }
        }
        Err(error) => Err(error),
    };
    match flushed {
        Ok(sequence) => {
            app.counters.add(Counter::QueuedStatementsReceived, statements as usize);
            let mut answer = common.envelope.queued(sequence);
            // It was taken here, wherever it goes from here.
            served_by(app, &mut answer, None);
            answer
        }
        Err(error @ QueueError::WaitTimeout) => respond::error(StatusCode::REQUEST_TIMEOUT, error),
        Err(QueueError::OutcomeUnknown(message)) => common.envelope.failed(&message),
        Err(error @ QueueError::Unauthorized(_)) => respond::error(StatusCode::UNAUTHORIZED, error),
        Err(error @ QueueError::Malformed(_)) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(error @ (QueueError::Full | QueueError::Closed)) => {
            respond::error(StatusCode::SERVICE_UNAVAILABLE, error)
        }
    }
}

/// `/db/query`
pub async fn query(app: &App, incoming: Incoming) -> Answer {
    app.counters.count(Counter::Queries);
    let read = Common::read(app, &incoming);
    let options = |c: Common| c.query_options(&incoming.params, &incoming.headers).map(|o| (c, o));
    let (common, options) = match read.and_then(options) {
        Ok(read) => read,
        Err(error) => return bad_param(&error),
    };
    if let Some(answer) = redirect_query(app, &common, &options, (incoming.scheme, &incoming.uri)) {
        return answer;
    }
    let mut room = None;
    let request = if incoming.method == Method::GET {
        match incoming.params.get("q") {
            None => return common.envelope.wrap(ReadBody::Whole(Bytes::new()), 0),
            Some(sql) => decode_text(sql, common.flags, app.consensus.proposer().next_request_id()),
        }
    } else {
        match app.room.receive(incoming.body).await {
            Ok(body) => {
                room = Some(body.room);
                decode_any(app, &incoming.headers, &body.bytes, common.flags)
            }
            Err(answer) => return answer,
        }
    };
    match request {
        Ok(request) => run_query(app, request, room, options, &common).await,
        Err(error) => bad_body(&error, common.envelope),
    }
}

/// Sends the client to the leader, if it asked for that and the query needs the leader.
fn redirect_query(
    app: &App,
    common: &Common,
    options: &QueryOptions,
    (scheme, uri): (Scheme, &Uri),
) -> Option<Answer> {
    let needs_leader = match options.level {
        Level::None => false,
        Level::Auto => !app.consensus.is_learner(),
        Level::Weak | Level::Linearizable | Level::Strong => true,
    };
    if common.redirect && needs_leader { redirect::to_leader(app, scheme, uri) } else { None }
}

async fn run_query(
    app: &App,
    request: EncodedRequest,
    _room: Option<OwnedSemaphorePermit>,
    options: QueryOptions,
    common: &Common,
) -> Answer {
    match app.consensus.query(request, options).await {
        Ok(QueryAnswer { body, index, position, forwarded_to }) => {
            let mut answer = common.envelope.wrap(body, index);
            if forwarded_to.is_some() {
                app.counters.count(Counter::RemoteQueries);
            }
            bookmark::write(&mut answer, position);
            served_by(app, &mut answer, forwarded_to.as_deref());
            answer
        }
        Err(error) => failed(app, &error, common.envelope),
    }
}

/// `/db/request`: what only reads takes the way of queries, at every level; everything else goes through the log.
pub async fn request(app: &App, incoming: Incoming) -> Answer {
    app.counters.count(Counter::Requests);
    let read = Common::read(app, &incoming);
    let options = |c: Common| c.query_options(&incoming.params, &incoming.headers).map(|o| (c, o));
    let (mut common, options) = match read.and_then(options) {
        Ok(read) => read,
        Err(error) => return bad_param(&error),
    };
    let Held { bytes, room } = match app.room.receive(incoming.body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    common.flags = common.flags.with(RequestFlags::UNIFIED, true);
    let request = match decode(app, &bytes, common.flags) {
        Ok(request) => request,
        Err(error) => return bad_body(&error, common.envelope),
    };
    drop(bytes);
    let only_reads = match only_reads(app, &request) {
        Ok(only_reads) => only_reads,
        Err(error) => return respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    if only_reads {
        match redirect_query(app, &common, &options, (incoming.scheme, &incoming.uri)) {
            Some(answer) => answer,
            None => run_query(app, request, Some(room), options, &common).await,
        }
    } else if common.redirect
        && let Some(answer) = redirect::to_leader(app, incoming.scheme, &incoming.uri)
    {
        answer
    } else {
        apply(app, request, room, &common).await
    }
}

/// Whether no statement of the request changes the database. A statement that does not compile here (its table may be
/// made by the one before it) counts as one that does.
fn only_reads(app: &App, request: &EncodedRequest) -> Result<bool, crate::store::ReadError> {
    let readers = app.consensus.store().readers();
    let mut statements = request.view()?.statements();
    while let Some(statement) = statements.next()? {
        if readers.changes_database(statement.sql)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `/db/sql`: what would be run. Replicas run every entry with its own clock and random seed, so there is nothing to
/// rewrite, and `rewritten` is never there.
pub async fn sql(app: &App, incoming: Incoming) -> Answer {
    let common = match Common::read(app, &incoming) {
        Ok(common) => common,
        Err(error) => return bad_param(&error),
    };
    let id = app.consensus.proposer().next_request_id();
    // What is made of the body takes about as much as it.
    let (request, _room) = if incoming.method == Method::GET {
        match incoming.params.get("q") {
            None => return respond::error(StatusCode::BAD_REQUEST, "query not specified"),
            Some(sql) => (Ok(encode_text(sql, common.flags, id)), None),
        }
    } else {
        match app.room.receive(incoming.body).await {
            Ok(body) => (decode_json_to_show(&body.bytes, common.flags, id), Some(body.room)),
            Err(answer) => return answer,
        }
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => return bad_body(&error, common.envelope),
    };
    let originals = || -> Result<Vec<u8>, Malformed> {
        let mut statements = request.view()?.statements();
        let mut all = Vec::with_capacity(request.bytes().len());
        while let Some(statement) = statements.next()? {
            begin_entry(&mut all);
            all.extend_from_slice(b"{\"original\":");
            write_str(&mut all, statement.sql);
            all.push(b'}');
        }
        Ok(all)
    };
    match originals() {
        Ok(inside) => common.envelope.wrap(ReadBody::Whole(inside.into()), 0),
        Err(error) => respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
