//! `/licenses`.

use super::respond::{self, Answer};
use axum::http::StatusCode;

/// `GET /licenses`
pub fn licenses() -> Answer {
    respond::text(StatusCode::OK, include_str!("licenses.txt").into())
}
