//! Answers in rqlite's shapes.

use super::params::Params;
use super::pretty::Indenter;
use crate::raft::{ReadBody, RequestError};
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use std::io;
use std::time::Instant;

/// An answer.
pub type Answer = Response<Body>;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn answer(status: StatusCode, content_type: Option<HeaderValue>, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    if let Some(content_type) = content_type {
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    answer
}

/// A status and nothing else.
pub fn empty(status: StatusCode) -> Answer {
    answer(status, None, Body::empty())
}

/// An error as text, with the newline that Go's `http.Error` adds.
pub fn error(status: StatusCode, message: impl std::fmt::Display) -> Answer {
    answer(status, Some(TEXT), Body::from(format!("{message}\n")))
}

/// Who asks has to wait: checking passwords takes time.
pub fn busy() -> Answer {
    error(StatusCode::SERVICE_UNAVAILABLE, "too many passwords are being checked")
}

/// Text as it is.
pub fn text(status: StatusCode, body: String) -> Answer {
    answer(status, Some(TEXT), Body::from(body))
}

/// Compact JSON, indented if asked.
pub fn json(status: StatusCode, body: Vec<u8>, pretty: bool) -> Answer {
    let body = if pretty {
        let mut out = Vec::with_capacity(body.len() * 2);
        Indenter::default().push(&body, &mut out);
        out
    } else {
        body
    };
    answer(status, Some(JSON), Body::from(body))
}

/// A value as JSON.
pub fn json_value(status: StatusCode, value: &impl serde::Serialize, pretty: bool) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => json(status, body, pretty),
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, e),
    }
}

/// A body of JSON that grows as it is sent.
pub fn stream(body: Body) -> Answer {
    answer(StatusCode::OK, Some(JSON), body)
}

/// A body that is not JSON and grows as it is sent.
pub fn stream_of(content_type: &'static str, body: Body) -> Answer {
    answer(StatusCode::OK, Some(HeaderValue::from_static(content_type)), body)
}

/// Look elsewhere. A place that no header can hold is an error of this member.
pub fn redirect(status: StatusCode, to: &str) -> Answer {
    match HeaderValue::from_str(to) {
        Ok(to) => {
            let mut answer = empty(status);
            answer.headers_mut().insert(LOCATION, to);
            answer
        }
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, e),
    }
}

/// What stands around the results of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope {
    /// Indent.
    pub pretty: bool,
    /// When the request came, if its time is wanted.
    pub timed_from: Option<Instant>,
    /// Whether the index of the entry is wanted.
    pub indexed: bool,
}

/// What follows results on top of an answer; what is 0 is left out.
#[derive(Clone, Copy, Default)]
struct Rest<'e> {
    error: Option<&'e str>,
    sequence_number: i64,
    raft_index: u64,
}

/// Results of so many bytes are sent as one piece with what stands around them.
const AT_ONCE: usize = 128 << 10;
const HEAD: &[u8] = b"{\"results\":[";

impl Envelope {
    /// What the parameters ask for of a request that came at `started`.
    pub fn asked_for(params: &Params, started: Instant) -> Self {
        Self {
            pretty: params.flag("pretty"),
            timed_from: params.flag("timings").then_some(started),
            indexed: params.flag("raft_index"),
        }
    }

    fn tail(self, rest: Rest<'_>) -> Vec<u8> {
        let mut out = b"]".to_vec();
        if let Some(message) = rest.error {
            out.extend_from_slice(b",\"error\":");
            crate::store::write_str(&mut out, message);
        }
        if let Some(started) = self.timed_from {
            out.extend_from_slice(b",\"time\":");
            out.extend_from_slice(ryu_js::Buffer::new().format(started.elapsed().as_secs_f64()).as_bytes());
        }
        if rest.sequence_number != 0 {
            out.extend_from_slice(b",\"sequence_number\":");
            out.extend_from_slice(itoa::Buffer::new().format(rest.sequence_number).as_bytes());
        }
        if self.indexed && rest.raft_index > 0 {
            out.extend_from_slice(b",\"raft_index\":");
            out.extend_from_slice(itoa::Buffer::new().format(rest.raft_index).as_bytes());
        }
        out.push(b'}');
        out
    }

    fn whole(self, results: &[u8], rest: Rest<'_>) -> Answer {
        let tail = self.tail(rest);
        let mut body = Vec::with_capacity(HEAD.len() + results.len() + tail.len());
        body.extend_from_slice(HEAD);
        body.extend_from_slice(results);
        body.extend_from_slice(&tail);
        json(StatusCode::OK, body, self.pretty)
    }

    /// A request that failed as a whole: 200 with an error on top, as rqlite answers. `{"results":[],"error":S,"time":F}`
    pub fn failed(self, message: &str) -> Answer {
        self.whole(&[], Rest { error: Some(message), ..Rest::default() })
    }

    /// A write that was queued: `{"results":[],"time":F,"sequence_number":N}`
    pub fn queued(self, sequence_number: i64) -> Answer {
        self.whole(&[], Rest { sequence_number, ..Rest::default() })
    }

    /// The results of a request, of the entry at `raft_index` if that is not 0: `{"results":[…],"time":F,"raft_index":N}`
    pub fn wrap(self, results: ReadBody, raft_index: u64) -> Answer {
        match results {
            ReadBody::Whole(results) if results.len() <= AT_ONCE => {
                self.whole(&results, Rest { raft_index, ..Rest::default() })
            }
            // Not copied, so that what is counted as taken is what is.
            ReadBody::Whole(results) => {
                let begins = (0..results.len()).step_by(AT_ONCE);
                let pieces = begins.map(move |at| Ok(results.slice(at..results.len().min(at + AT_ONCE))));
                self.streamed(futures::stream::iter(pieces), raft_index)
            }
            ReadBody::Stream(mut pieces) => {
                let pieces = async_stream::stream! {
                    loop {
                        match pieces.recv().await {
                            Some(Ok(piece)) if piece.is_empty() => return,
                            Some(piece) => yield piece,
                            // An error here ends the connection: the client must not take a part for the whole.
                            None => { yield Err(io::Error::other("the result was cut short")); return }
                        }
                    }
                };
                self.streamed(pieces, raft_index)
            }
        }
    }

    /// The same of results that come in pieces, the last of which is an error if they are cut short.
    fn streamed(
        self,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        raft_index: u64,
    ) -> Answer {
        let body = async_stream::try_stream! {
            yield Bytes::from_static(HEAD);
            for await piece in pieces {
                yield piece?;
            }
            yield Bytes::from(self.tail(Rest { raft_index, ..Rest::default() }));
        };
        let mut indenter = Indenter::default();
        let body = body.map(move |piece: io::Result<Bytes>| {
            let piece = piece?;
            if !self.pretty {
                return Ok(piece);
            }
            let mut out = Vec::with_capacity(piece.len() * 2);
            indenter.push(&piece, &mut out);
            Ok::<_, io::Error>(out.into())
        });
        stream(Body::from_stream(body))
    }
}

/// The answer to a request without results.
pub fn request_error(error: &RequestError, envelope: Envelope) -> Answer {
    match error {
        RequestError::NoLeader
        | RequestError::NoQuorum
        | RequestError::Behind(_)
        | RequestError::Busy
        | RequestError::FatalEntry(_) => self::error(StatusCode::SERVICE_UNAVAILABLE, error),
        RequestError::Unauthorized(_) => self::error(StatusCode::UNAUTHORIZED, error),
        RequestError::NoSpace => self::error(StatusCode::INSUFFICIENT_STORAGE, error),
        RequestError::OutcomeUnknown(message) => envelope.failed(message),
        RequestError::Stale | RequestError::ExecuteTimeout | RequestError::NotReady => {
            envelope.failed(&error.to_string())
        }
        RequestError::Refused(_) | RequestError::OtherEpoch { .. } => {
            self::error(StatusCode::CONFLICT, error)
        }
        RequestError::Internal(_) => self::error(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
