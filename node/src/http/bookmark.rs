//! `X-Raft-Index: epoch.index`: how far the state is that an answer tells of, and how far one must be that a client
//! asks for. A client that carries it along reads its own writes, and never goes back in time, on any member.

use super::params::BadParam;
use super::respond::Answer;
use crate::store::Position;
use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue};

const RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");

/// What the client has seen, if it says so.
pub fn read(headers: &HeaderMap) -> Result<Option<Position>, BadParam> {
    let Some(value) = headers.get(RAFT_INDEX) else { return Ok(None) };
    let parse = |text: &str| {
        let (epoch, index) = text.split_once('.')?;
        Some(Position { epoch: epoch.parse().ok()?, index: index.parse().ok()? })
    };
    match value.to_str().ok().and_then(|text| parse(text.trim())) {
        Some(position) => Ok(Some(position)),
        None => Err(BadParam("X-Raft-Index is not epoch.index".into())),
    }
}

/// Adds it to an answer.
pub fn write(answer: &mut Answer, position: Position) {
    if let Ok(value) = HeaderValue::from_str(&format!("{}.{}", position.epoch, position.index)) {
        answer.headers_mut().insert(RAFT_INDEX, value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn headers_by_table() {
        let position = |epoch, index| Ok(Some(Position { epoch, index }));
        let bad = || Err(BadParam("X-Raft-Index is not epoch.index".into()));
        for (text, expected) in [
            ("1.42", position(1, 42)),
            (" 0.0 ", position(0, 0)),
            ("18446744073709551615.1", position(u64::MAX, 1)),
            ("42", bad()),
            ("1.", bad()),
            ("-1.2", bad()),
            ("", bad()),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RAFT_INDEX, HeaderValue::from_str(text).unwrap());
            assert_eq!(read(&headers), expected, "{text}");
        }
        assert_eq!(read(&HeaderMap::new()), Ok(None));
    }
}
