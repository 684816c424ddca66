//! The rqlite-compatible SQL API (`/db/execute`, `/db/query`, `/db/request`) and a client of it.
//!
//! | request | what it runs | who answers |
//! |---|---|---|
//! | `POST /db/execute` | writes | the leader; others forward |
//! | `POST /db/query` | reads, on a connection that cannot write | by [`Level`] |
//! | `POST /db/request` | both | the leader; pure reads by [`Level`] |
//!
//! A request is a JSON array of [`Statement`]s, its answer an [`Answer`] with one [`StatementResult`] for each.

mod database;
mod error;
mod members;
mod statement;
mod transfer;

pub use database::{Credentials, Database, DatabaseConfig, Effect, Reply};
pub use error::SqlError;
pub use members::ClusterNode;
pub use reqwest::{Method, StatusCode};
pub use statement::Statement;
pub use transfer::Download;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// How fresh a read is, and who serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// By the member that is asked, from what it has applied.
    None,
    /// By whoever believes to lead; for less than a second after a change of leader this may be an old one.
    #[default]
    Weak,
    /// By the leader after a quorum confirmed it.
    Linearizable,
    /// By the leader, in the order of the writes.
    Strong,
    /// Weak on voters, none on read replicas.
    Auto,
}

impl Level {
    /// All of them, weakest first.
    pub const ALL: [Self; 5] = [Self::None, Self::Weak, Self::Linearizable, Self::Strong, Self::Auto];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Weak => "weak",
            Self::Linearizable => "linearizable",
            Self::Strong => "strong",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No level has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no consistency level: choose none, weak, linearizable, strong or auto")]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        let found = Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownLevel(name.into()))
    }
}

/// What a request asks for beside its statements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// All statements or none; those after a failed one are not run.
    pub transaction: bool,
    /// How fresh reads are.
    pub level: Level,
    /// Ask for the time each statement took.
    pub timings: bool,
    /// BLOBs as arrays of bytes instead of base64.
    pub blob_array: bool,
}

/// Answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Answer {
    /// One for each statement that was run, in their order.
    #[serde(default)]
    pub results: Vec<StatementResult>,
    /// Why the request failed as a whole.
    #[serde(default)]
    pub error: Option<String>,
    /// Seconds it took on the server, if asked for.
    #[serde(default)]
    pub time: Option<f64>,
    /// Index of its log entry, if asked for.
    #[serde(default)]
    pub raft_index: Option<u64>,
}

impl Answer {
    /// The first thing that went wrong: of the request, else of a statement.
    pub fn first_error(&self) -> Option<&str> {
        let of_statement = || {
            self.results.iter().find_map(|result| match result {
                StatementResult::Failed(message) => Some(message.as_str()),
                _ => None,
            })
        };
        self.error.as_deref().or_else(of_statement)
    }

    /// The first row's first value, as of `SELECT count(*) …`.
    pub fn scalar(&self) -> Option<&Value> {
        match self.results.first()? {
            StatementResult::Rows(rows) => rows.values.first()?.first(),
            _ => None,
        }
    }
}

/// What became of one statement.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Entry")]
pub enum StatementResult {
    /// It has columns: a read, or a write with `RETURNING`.
    Rows(Rows),
    /// It has none.
    Done(Done),
    /// SQLite's message.
    Failed(String),
}

/// Rows of a statement.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Their types: as declared, else of the first row's value.
    pub types: Vec<String>,
    /// Row by row; BLOBs are base64.
    pub values: Vec<Vec<Value>>,
}

/// Counters of the write connection after a statement. Statements that change no row leave them as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Id of the last inserted row.
    pub last_insert_id: i64,
    /// Rows that the last change touched.
    pub rows_affected: i64,
}

/// An element of `results` as it is on the wire: which members it has says what it is.
#[derive(Deserialize)]
struct Entry {
    error: Option<String>,
    columns: Option<Vec<String>>,
    types: Option<Vec<String>>,
    values: Option<Vec<Vec<Value>>>,
    #[serde(default)]
    last_insert_id: i64,
    #[serde(default)]
    rows_affected: i64,
}

impl From<Entry> for StatementResult {
    fn from(entry: Entry) -> Self {
        if let Some(message) = entry.error {
            return Self::Failed(message);
        }
        match entry.columns {
            Some(columns) => Self::Rows(Rows {
                columns,
                types: entry.types.unwrap_or_default(),
                values: entry.values.unwrap_or_default(),
            }),
            None => {
                Self::Done(Done { last_insert_id: entry.last_insert_id, rows_affected: entry.rows_affected })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_by_table() {
        let rows = |columns: &[&str], values: Vec<Vec<Value>>| {
            StatementResult::Rows(Rows {
                columns: columns.iter().map(|c| (*c).into()).collect(),
                types: columns.iter().map(|_| "integer".into()).collect(),
                values,
            })
        };
        let done =
            |last_insert_id, rows_affected| StatementResult::Done(Done { last_insert_id, rows_affected });
        for (wire, expected) in [
            (json!({}), done(0, 0)),
            (json!({"last_insert_id": 7, "rows_affected": 1, "time": 0.1}), done(7, 1)),
            (json!({"columns": ["a"], "types": ["integer"]}), rows(&["a"], vec![])),
            (
                json!({"columns": ["a"], "types": ["integer"], "values": [[9_007_199_254_740_993_i64]]}),
                rows(&["a"], vec![vec![json!(9_007_199_254_740_993_i64)]]),
            ),
            (json!({"error": "no such table: x"}), StatementResult::Failed("no such table: x".into())),
        ] {
            let parsed: StatementResult = serde_json::from_value(wire.clone()).expect("a result");
            assert_eq!(parsed, expected, "{wire}");
        }
    }

    #[test]
    fn the_first_error_of_an_answer() {
        for (wire, expected) in [
            (r#"{"results":[]}"#, None),
            (r#"{"results":[{},{"error":"second"},{"error":"third"}]}"#, Some("second")),
            (r#"{"results":[],"error":"store not ready"}"#, Some("store not ready")),
        ] {
            let answer: Answer = serde_json::from_str(wire).expect("an answer");
            assert_eq!(answer.first_error(), expected, "{wire}");
        }
    }

    #[test]
    fn levels_are_named_in_any_case() {
        assert_eq!("Linearizable".parse(), Ok(Level::Linearizable));
        assert_eq!("".parse::<Level>(), Err(UnknownLevel(String::new())));
    }
}
