//! Servers with rqlite's HTTP API.

use crate::BenchError;
use crate::access::Access;
use crate::http1::{HttpConnection, find};
use crate::random::Random;
use crate::target::{Connection, OperationError, Target};
use crate::work::{Operation, Work};
use client::sql::{Database, DatabaseConfig, Level, RequestOptions};
use client::trust::Trust;
use std::fmt::Write;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS bench(id INTEGER PRIMARY KEY, v TEXT)";
const INSERT: &str = "INSERT INTO bench(v) VALUES(?)";

/// A cluster of such servers.
#[derive(Debug)]
pub struct Rqlite {
    addrs: Vec<String>,
    database: Database,
    access: Access,
    /// Which address clients start with; none spreads them over all.
    first: Option<usize>,
}

impl Rqlite {
    /// The cluster at these addresses.
    pub fn new(addrs: Vec<String>, access: Access) -> Result<Self, BenchError> {
        let hosts = addrs.iter().map(|addr| format!("{}://{addr}", access.scheme()));
        let trust = access.authority.as_deref().map(|pem| Trust::new(pem, None)).transpose();
        let config = DatabaseConfig {
            trust: trust.map_err(BenchError::Authority)?,
            credentials: access.credentials.clone(),
            ..DatabaseConfig::new(hosts)
        };
        let database = Database::new(config).map_err(BenchError::Addresses)?;
        Ok(Self { addrs, database, access, first: None })
    }

    async fn create(&self) -> Result<(), BenchError> {
        let answer = self.database.execute(&[CREATE.into()], RequestOptions::default()).await;
        let answer = answer.map_err(BenchError::Prepare)?;
        answer.first_error().map_or(Ok(()), |error| Err(BenchError::PrepareRefused(error.into())))
    }

    async fn count_rows(&self) -> Result<u64, BenchError> {
        let options = RequestOptions { level: Level::Linearizable, ..RequestOptions::default() };
        let answer = self.database.query(&["SELECT count(*) FROM bench".into()], options).await;
        let answer = answer.map_err(BenchError::Prepare)?;
        let refused = || BenchError::PrepareRefused(answer.first_error().unwrap_or("no rows").into());
        answer.scalar().and_then(serde_json::Value::as_u64).ok_or_else(refused)
    }
}

impl Target for Rqlite {
    type Connection = RqliteConnection;

    async fn leader(&self) -> Option<usize> {
        let leader = self.database.leader().await.ok()?;
        let address = leader.api_addr.split("://").last()?;
        self.addrs.iter().position(|addr| addr == address)
    }

    fn start_at(&mut self, first: Option<usize>) {
        self.first = first;
    }

    /// rqlite's `POST /leader`: steps down and waits until another member leads.
    async fn transfer(&self, leader: usize) -> Option<Result<(), OperationError>> {
        let step_down = async {
            let mut http = HttpConnection::open(&self.addrs[leader], &self.access).await?;
            match http.post("/leader?wait", b"").await? {
                (200, _) => Ok(()),
                (status, body) => Err(refused(status, body)),
            }
        };
        Some(step_down.await)
    }

    async fn connect(&self, client: usize, attempt: usize) -> Result<RqliteConnection, OperationError> {
        let at = (self.first.unwrap_or(client) + attempt) % self.addrs.len();
        let http = HttpConnection::open(&self.addrs[at], &self.access).await?;
        Ok(RqliteConnection { http, body: String::new() })
    }

    async fn prepare(&self, work: &Work) -> Result<(), BenchError> {
        self.create().await?;
        let mut rows = self.count_rows().await?;
        let mut connection = self.connect(0, 0).await.map_err(BenchError::Seed)?;
        while rows < work.rows {
            connection.run(work, Operation::Bulk, &mut Random::new(0)).await.map_err(BenchError::Seed)?;
            rows += work.bulk;
        }
        Ok(())
    }

    async fn count(&self) -> Result<Option<u64>, BenchError> {
        self.count_rows().await.map(Some)
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct RqliteConnection {
    http: HttpConnection,
    body: String,
}

impl Connection for RqliteConnection {
    async fn run(
        &mut self,
        work: &Work,
        operation: Operation,
        random: &mut Random,
    ) -> Result<(), OperationError> {
        self.body.clear();
        let path = write_request(&mut self.body, work, operation, random);
        let (status, body) = self.http.post(path, self.body.as_bytes()).await?;
        if status == 200 && find(body, b"\"error\"").is_none() {
            return Ok(());
        }
        Err(refused(status, body))
    }
}

fn refused(status: u16, body: &[u8]) -> OperationError {
    let body = String::from_utf8_lossy(body).trim_end().chars().take(120).collect();
    OperationError::Refused { status, body }
}

/// Writes the body of a request; returns its path.
fn write_request(body: &mut String, work: &Work, operation: Operation, random: &mut Random) -> &'static str {
    let rows = |body: &mut String, count| {
        for i in 0..count {
            let comma = if i > 0 { "," } else { "" };
            // Writing to a String does not fail.
            let _ = write!(body, "{comma}[\"{INSERT}\",\"{}\"]", work.value);
        }
    };
    body.push('[');
    let path = match operation {
        Operation::Insert => {
            rows(body, 1);
            "/db/execute"
        }
        Operation::Bulk => {
            rows(body, work.bulk);
            "/db/execute?transaction"
        }
        Operation::Query(level) => {
            let _ = write!(body, "[\"SELECT v FROM bench WHERE id=?\",{}]", random.below(work.rows) + 1);
            match level {
                Level::None => "/db/query?level=none",
                Level::Weak => "/db/query?level=weak",
                Level::Linearizable => "/db/query?level=linearizable",
                Level::Strong => "/db/query?level=strong",
                Level::Auto => "/db/query?level=auto",
            }
        }
    };
    body.push(']');
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::WorkName;

    #[test]
    fn requests_by_table() {
        let work = Work::new(WorkName::Mixed, 1, 2, 3);
        for (operation, path, body) in [
            (Operation::Insert, "/db/execute", r#"[["INSERT INTO bench(v) VALUES(?)","abc"]]"#),
            (
                Operation::Bulk,
                "/db/execute?transaction",
                r#"[["INSERT INTO bench(v) VALUES(?)","abc"],["INSERT INTO bench(v) VALUES(?)","abc"]]"#,
            ),
            (
                Operation::Query(Level::None),
                "/db/query?level=none",
                r#"[["SELECT v FROM bench WHERE id=?",1]]"#,
            ),
        ] {
            let mut written = String::new();
            assert_eq!(write_request(&mut written, &work, operation, &mut Random::new(0)), path);
            assert_eq!(written, body);
            serde_json::from_str::<serde_json::Value>(&written).expect("JSON");
        }
    }
}
