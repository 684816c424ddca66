//! `/db/execute`, `/db/query`, `/db/request`.

use super::App;
use super::body::{BadBody, decode_json, decode_text};
use super::params::{BadParam, Params};
use super::respond::{self, Answer, Envelope};
use crate::raft::command::{EncodedRequest, RequestFlags};
use crate::raft::{Level, QueryAnswer, QueryOptions, ReadBody};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use std::time::{Duration, Instant};

/// Largest body of statements, in bytes.
const BODY_LIMIT: usize = 128 << 20;
/// How long receiving a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request waits for a leader and a quorum, unless it says so itself.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

const SERVED_BY: HeaderName = HeaderName::from_static("x-rqlite-served-by");

/// A request whose body has not been read.
pub struct Incoming {
    /// Its method.
    pub method: Method,
    /// Its parameters.
    pub params: Params,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Body,
}

/// Reads a body of at most `limit` bytes.
pub async fn read_body(body: Body, limit: usize) -> Result<Bytes, Answer> {
    let too_large =
        || respond::error(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"));
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(respond::error(StatusCode::BAD_REQUEST, error)),
        Err(_) => Err(respond::error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

fn bad_param(error: &BadParam) -> Answer {
    respond::error(StatusCode::BAD_REQUEST, error)
}

fn bad_body(error: &BadBody, pretty: bool) -> Answer {
    match error {
        BadBody::DisallowedPragma => respond::failed_request(&error.to_string(), pretty),
        _ => respond::error(StatusCode::BAD_REQUEST, error),
    }
}

/// Parameters that the three endpoints share.
struct Common {
    flags: RequestFlags,
    timeout: Duration,
    statement_timeout: Option<Duration>,
    pretty: bool,
}

impl Common {
    fn read(params: &Params) -> Result<Self, BadParam> {
        let flags = [
            ("transaction", RequestFlags::TRANSACTION),
            ("associative", RequestFlags::ASSOCIATIVE),
            ("blob_array", RequestFlags::BLOB_ARRAY),
            ("timings", RequestFlags::TIMINGS),
            ("qualify_columns", RequestFlags::QUALIFY_COLUMNS),
        ]
        .into_iter()
        .fold(RequestFlags::default(), |flags, (name, flag)| flags.with(flag, params.flag(name)));
        // `retries` is checked and has no meaning here: what can be tried again is, until the time is over.
        params.integer("retries")?;
        params.duration("linearizable_timeout")?;
        Ok(Self {
            flags,
            timeout: params.duration("timeout")?.unwrap_or(APPLY_TIMEOUT).min(Duration::from_secs(3600)),
            statement_timeout: params.duration("db_timeout")?.filter(|t| !t.is_zero()),
            pretty: params.flag("pretty"),
        })
    }

    fn query_options(&self, params: &Params) -> Result<QueryOptions, BadParam> {
        let freshness = params.duration("freshness")?;
        if params.flag("freshness_strict") && freshness.is_none() {
            return Err(BadParam("freshness_strict requires freshness".into()));
        }
        let level = match params.get("level").map(str::to_ascii_lowercase).as_deref() {
            Some("none") => Level::None,
            Some("linearizable") => Level::Linearizable,
            Some("strong") => Level::Strong,
            Some("auto") => Level::Auto,
            // Also an unknown one.
            _ => Level::Weak,
        };
        let timeout = match level {
            Level::Linearizable => params.duration("linearizable_timeout")?.unwrap_or(self.timeout),
            _ => self.timeout,
        };
        Ok(QueryOptions { level, timeout, statement_timeout: self.statement_timeout })
    }
}

fn decode(
    app: &App,
    incoming: &HeaderMap,
    body: &[u8],
    flags: RequestFlags,
) -> Result<EncodedRequest, BadBody> {
    let id = app.consensus.proposer().next_request_id();
    let is_text = incoming.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/plain"));
    if is_text {
        let sql = std::str::from_utf8(body).map_err(|_| BadBody::Invalid)?;
        return decode_text(sql, flags, id);
    }
    decode_json(body, flags, id)
}

fn served_by(app: &App, mut answer: Answer, forwarded_to: Option<&str>) -> Answer {
    let by = forwarded_to.unwrap_or(&app.consensus.config().api_address);
    if let Ok(by) = HeaderValue::from_str(by) {
        answer.headers_mut().insert(SERVED_BY, by);
    }
    answer
}

/// `/db/execute`
pub async fn execute(app: &App, incoming: Incoming) -> Answer {
    let started = Instant::now();
    let common = match Common::read(&incoming.params) {
        Ok(common) => common,
        Err(error) => return bad_param(&error),
    };
    let body = match read_body(incoming.body, BODY_LIMIT).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let request = match decode(app, &incoming.headers, &body, common.flags) {
        Ok(request) => request,
        Err(error) => return bad_body(&error, common.pretty),
    };
    apply(app, request, &common, &incoming.params, started).await
}

async fn apply(
    app: &App,
    request: EncodedRequest,
    common: &Common,
    params: &Params,
    started: Instant,
) -> Answer {
    match app.consensus.execute(request, common.timeout).await {
        Ok(done) => {
            let envelope = Envelope::asked_for(params, started, done.index);
            served_by(app, envelope.wrap(ReadBody::Whole(done.results)), done.forwarded_to.as_deref())
        }
        Err(error) => respond::request_error(&error, common.pretty),
    }
}

/// `/db/query`
pub async fn query(app: &App, incoming: Incoming) -> Answer {
    let started = Instant::now();
    let read = Common::read(&incoming.params);
    let (common, options) = match read.and_then(|c| c.query_options(&incoming.params).map(|o| (c, o))) {
        Ok(read) => read,
        Err(error) => return bad_param(&error),
    };
    let request = if incoming.method == Method::GET {
        match incoming.params.get("q") {
            None => return respond::json(StatusCode::OK, b"{\"results\":[]}".to_vec(), common.pretty),
            Some("") => return respond::error(StatusCode::BAD_REQUEST, "query parameter not set"),
            Some(sql) => decode_text(sql, common.flags, app.consensus.proposer().next_request_id()),
        }
    } else {
        match read_body(incoming.body, BODY_LIMIT).await {
            Ok(body) => decode(app, &incoming.headers, &body, common.flags),
            Err(answer) => return answer,
        }
    };
    match request {
        Ok(request) => run_query(app, request, options, &common, &incoming.params, started).await,
        Err(error) => bad_body(&error, common.pretty),
    }
}

async fn run_query(
    app: &App,
    request: EncodedRequest,
    options: QueryOptions,
    common: &Common,
    params: &Params,
    started: Instant,
) -> Answer {
    match app.consensus.query(request, options).await {
        Ok(QueryAnswer { body, index, forwarded_to }) => {
            let envelope = Envelope::asked_for(params, started, index);
            served_by(app, envelope.wrap(body), forwarded_to.as_deref())
        }
        Err(error) => respond::request_error(&error, common.pretty),
    }
}

/// `/db/request`: what only reads takes the way of queries, everything else goes through the log.
pub async fn request(app: &App, incoming: Incoming) -> Answer {
    let started = Instant::now();
    let read = Common::read(&incoming.params);
    let (mut common, options) = match read.and_then(|c| c.query_options(&incoming.params).map(|o| (c, o))) {
        Ok(read) => read,
        Err(error) => return bad_param(&error),
    };
    let body = match read_body(incoming.body, BODY_LIMIT).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    common.flags = common.flags.with(RequestFlags::UNIFIED, true);
    let request = match decode(app, &incoming.headers, &body, common.flags) {
        Ok(request) => request,
        Err(error) => return bad_body(&error, common.pretty),
    };
    let only_reads = match only_reads(app, &request) {
        Ok(only_reads) => only_reads,
        Err(error) => return respond::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    if only_reads && options.level != Level::Strong {
        run_query(app, request, options, &common, &incoming.params, started).await
    } else {
        apply(app, request, &common, &incoming.params, started).await
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
