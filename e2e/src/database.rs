//! SQL over the HTTP API of a cluster or of one of its members.

use crate::forward::Forward;
use anyhow::{Context, Result, bail};
use client::sql::Credentials;
use client::trust::Trust;
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long one request may take, unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// How strong a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// From the member that is asked, as it is.
    None,
    /// From the member that believes to lead.
    Weak,
    /// Confirmed by a quorum.
    Linearizable,
    /// Ordered with the writes.
    Strong,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Weak => "weak",
            Self::Linearizable => "linearizable",
            Self::Strong => "strong",
        }
    }
}

/// An address under which the SQL API answers: a Service, or one member.
#[derive(Clone)]
pub struct Database {
    http: Client,
    bases: Arc<Vec<String>>,
    user: Option<Credentials>,
    next: Arc<AtomicUsize>,
    _forwards: Arc<Vec<Forward>>,
}

impl Database {
    /// The API at one or more base addresses (`http://host:port`), asked in turn.
    pub fn at(bases: Vec<String>) -> Result<Self> {
        Self::new(bases, Vec::new(), None)
    }

    /// The API at hosts with their ports, by TLS if there is somebody to trust.
    pub(crate) fn trusting(hosts: Vec<String>, trust: Option<&Trust>) -> Result<Self> {
        Self::new(urls(hosts, trust), Vec::new(), trust)
    }

    pub(crate) fn forwarded(forwards: Vec<Forward>, trust: Option<&Trust>) -> Result<Self> {
        let hosts = forwards.iter().map(|forward| forward.address.to_string()).collect();
        Self::new(urls(hosts, trust), forwards, trust)
    }

    /// The same, asked by a user; none: by nobody.
    #[must_use]
    pub fn by(self, user: Option<Credentials>) -> Self {
        Self { user, ..self }
    }

    fn request(&self, method: Method, url: impl reqwest::IntoUrl) -> RequestBuilder {
        Credentials::sign(self.user.as_ref(), self.http.request(method, url))
    }

    fn new(bases: Vec<String>, forwards: Vec<Forward>, trust: Option<&Trust>) -> Result<Self> {
        if bases.is_empty() {
            bail!("no address to reach the database at");
        }
        // A connection to a machine that has lost its power just goes quiet, and everything that is sent on it with it.
        let http = Client::builder()
            .timeout(PATIENCE)
            .connect_timeout(Duration::from_millis(500))
            .http2_keep_alive_interval(Duration::from_millis(500))
            .http2_keep_alive_timeout(Duration::from_millis(500));
        let http = Trust::applied(trust, http).build()?;
        Ok(Self {
            http,
            bases: Arc::new(bases),
            user: None,
            next: Arc::default(),
            _forwards: Arc::new(forwards),
        })
    }

    fn base(&self) -> &str {
        &self.bases[self.next.fetch_add(1, Ordering::Relaxed) % self.bases.len()]
    }

    /// Runs one write; an error of any kind is an error here.
    pub async fn write(&self, sql: &str) -> Result<()> {
        self.write_with(sql, &[], None, PATIENCE)
            .await
            .map_err(|e| anyhow::anyhow!("{e}"))
            .context(sql.to_owned())
    }

    /// Runs one write with parameters and says how it ended. Under the same key it is applied once, however often it
    /// is sent.
    pub async fn write_with(
        &self,
        sql: &str,
        parameters: &[Value],
        key: Option<&str>,
        patience: Duration,
    ) -> Result<(), WriteError> {
        let mut statement = vec![json!(sql)];
        statement.extend_from_slice(parameters);
        let url = format!("{}/db/execute", self.base());
        let mut request = self.request(Method::POST, url).timeout(patience).json(&json!([statement]));
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.send().await.map_err(WriteError::of_transport)?;
        let status = response.status();
        let text = response.text().await.map_err(WriteError::of_transport)?;
        WriteError::of_answer(status, &text).map_or(Ok(()), Err)
    }

    /// Reads rows; each is a list of values.
    pub async fn read(&self, sql: &str, level: Level) -> Result<Vec<Vec<Value>>> {
        let query = [("q", sql), ("level", level.name())];
        let url = Url::parse_with_params(&format!("{}/db/query", self.base()), query)?;
        let response = self.request(Method::GET, url).send().await.context(sql.to_owned())?;
        let status = response.status();
        let text = response.text().await?;
        if status != StatusCode::OK {
            bail!("{sql}: {status}: {}", text.trim());
        }
        let answer: Value =
            serde_json::from_str(&text).with_context(|| format!("{sql}: not JSON: {text}"))?;
        if let Some(error) = error_in(&answer) {
            bail!("{sql}: {error}");
        }
        let values = answer["results"][0]["values"].as_array().cloned().unwrap_or_default();
        Ok(values.into_iter().filter_map(|row| row.as_array().cloned()).collect())
    }

    /// Reads one number.
    pub async fn read_number(&self, sql: &str, level: Level) -> Result<i64> {
        let rows = self.read(sql, level).await?;
        rows.first()
            .and_then(|row| row.first())
            .and_then(Value::as_i64)
            .with_context(|| format!("{sql}: no number in {rows:?}"))
    }

    /// Fetches a JSON document of the API.
    pub async fn document<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let url = format!("{}{path}", self.base());
        Ok(self
            .request(Method::GET, url)
            .timeout(Duration::from_secs(2))
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?)
    }
}

fn urls(hosts: Vec<String>, trust: Option<&Trust>) -> Vec<String> {
    let scheme = if trust.is_some() { "https" } else { "http" };
    hosts.into_iter().map(|host| format!("{scheme}://{host}")).collect()
}

/// How a write did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// It was refused; it is not expected in the database.
    Failed(String),
    /// It may have been applied or not.
    Unknown(String),
}

impl std::fmt::Display for WriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Unknown(why) => write!(f, "outcome unknown: {why}"),
        }
    }
}

impl WriteError {
    fn of_transport(error: reqwest::Error) -> Self {
        if error.is_connect() {
            Self::Failed("no connection".to_owned())
        } else if error.is_timeout() {
            Self::Unknown("no answer in time".to_owned())
        } else {
            Self::Unknown("connection lost".to_owned())
        }
    }

    /// What the answer says, if it is not success. An error with status 200 is a failure too.
    fn of_answer(status: StatusCode, text: &str) -> Option<Self> {
        let why = if status == StatusCode::OK {
            match serde_json::from_str::<Value>(text) {
                Ok(answer) => error_in(&answer)?,
                Err(_) => format!("not JSON: {text}"),
            }
        } else {
            format!("{} {}", status.as_u16(), text.trim())
        };
        let undecided = [
            "outcome unknown",
            "outcome is unknown",
            "OutcomeUnknown",
            "leadership lost",
            "timeout",
            "not JSON",
        ];
        Some(if undecided.iter().any(|words| why.contains(words)) {
            Self::Unknown(why)
        } else {
            Self::Failed(why)
        })
    }
}

/// The error of an answer, at its top or in one of its results.
fn error_in(answer: &Value) -> Option<String> {
    let of_results = answer["results"].as_array().into_iter().flatten().map(|result| &result["error"]);
    let error = std::iter::once(&answer["error"]).chain(of_results).find(|e| e.is_string());
    match (error, answer["results"].is_array()) {
        (Some(error), _) => error.as_str().map(str::to_owned),
        (None, true) => None,
        (None, false) => Some(format!("no results in {answer}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let failed = |why: &str| Some(WriteError::Failed(why.to_owned()));
        let unknown = |why: &str| Some(WriteError::Unknown(why.to_owned()));
        let cases = [
            (200, r#"{"results":[{"last_insert_id":1,"rows_affected":1}]}"#, None),
            (200, r#"{"results":[{"error":"no such table: t"}]}"#, failed("no such table: t")),
            (200, r#"{"results":[],"error":"store not ready"}"#, failed("store not ready")),
            (
                200,
                r#"{"results":[],"error":"leadership lost while committing log"}"#,
                unknown("leadership lost while committing log"),
            ),
            (
                200,
                r#"{"results":[],"error":"timed out while committing log: the outcome is unknown"}"#,
                unknown("timed out while committing log: the outcome is unknown"),
            ),
            (200, "{}", failed("no results in {}")),
            (200, r#"{"resu"#, unknown(r#"not JSON: {"resu"#)),
            (503, "leader not found\n", failed("503 leader not found")),
            (503, "outcome unknown\n", unknown("503 outcome unknown")),
            (408, "queue wait timeout\n", unknown("408 queue wait timeout")),
        ];
        for (status, text, expected) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(WriteError::of_answer(status, text), expected, "{status} {text}");
        }
    }
}
