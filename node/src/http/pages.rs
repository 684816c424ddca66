//! What a browser finds: `/`, `/console/`, and `/licenses`.

use super::respond::{self, Answer};
use axum::body::Body;
use axum::http::StatusCode;

const CONSOLE: &str = "<!doctype html>
<meta charset=utf-8>
<title>sqlited</title>
<h1>sqlited</h1>
<p>This member of a replicated SQLite cluster has no console yet. Its interface is HTTP:
<ul>
<li><a href=/nodes?pretty&amp;nonvoters>/nodes</a>: the members
<li><a href=/status?pretty>/status</a>: everything about this one
<li><a href=/readyz>/readyz</a>: whether it is in service
<li><a href=/licenses>/licenses</a>
</ul>
";

/// `/`, `/console`, `/console/`
pub fn console(path: &str) -> Answer {
    match path {
        "/" => respond::redirect(StatusCode::FOUND, "/console/"),
        "/console" => respond::redirect(StatusCode::MOVED_PERMANENTLY, "/console/"),
        "/console/" => respond::stream_of("text/html; charset=utf-8", Body::from(CONSOLE)),
        _ => respond::empty(StatusCode::NOT_FOUND),
    }
}

/// `GET /licenses`
pub fn licenses() -> Answer {
    respond::text(StatusCode::OK, include_str!("licenses.txt").into())
}
