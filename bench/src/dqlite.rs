//! dqlite: its own protocol over TCP, words of 8 bytes, little endian.
//!
//! ```text
//! message = body's words u32 · type u8 · schema u8 · 0 u16 · body
//! text    = bytes · 0, filled up to whole words
//! tuple   = count u8 · count × type u8, filled up to whole words · values
//! ```
//! Source: <https://dqlite.io/docs/reference/wire-protocol>.

use crate::BenchError;
use crate::random::Random;
use crate::target::{Connection, OperationError, Target};
use crate::work::{Operation, Work};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS bench(id INTEGER PRIMARY KEY, v TEXT)";
const INSERT: &str = "INSERT INTO bench(v) VALUES(?)";
const SELECT: &str = "SELECT v FROM bench WHERE id=?";
const COUNT: &str = "SELECT count(*) FROM bench";

const VERSION: u64 = 1;
const LEADER: u8 = 0;
const OPEN: u8 = 3;
const PREPARE: u8 = 4;
const EXEC: u8 = 5;
const QUERY: u8 = 6;
const EXEC_SQL: u8 = 8;
const QUERY_SQL: u8 = 9;
const ADD: u8 = 12;
const ASSIGN: u8 = 13;
const FAILURE: u8 = 0;
const INTEGER: u8 = 1;
const TEXT: u8 = 3;
/// Instead of a row: there are no more.
const NO_MORE: u64 = u64::MAX;
/// Low byte of SQLite's codes for "somebody else writes".
const BUSY: u64 = 5;

/// A cluster of dqlite nodes.
#[derive(Debug)]
pub struct Dqlite {
    addrs: Vec<String>,
    first: Option<usize>,
}

/// A client's connection, with its two statements prepared.
#[derive(Debug)]
pub struct DqliteConnection {
    stream: TcpStream,
    out: Vec<u8>,
    insert: Option<u32>,
    select: Option<u32>,
}

/// What a request failed with.
enum Failure {
    Busy,
    Other(OperationError),
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        Self::Other(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<Failure> for OperationError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Busy => Self::Refused { status: 0, body: "database is busy".into() },
            Failure::Other(error) => error,
        }
    }
}

type Reply<T> = Result<T, Failure>;

impl Dqlite {
    /// The cluster at these addresses.
    pub fn new(addrs: Vec<String>) -> Self {
        Self { addrs, first: None }
    }

    /// Adds all but the first node, which is a cluster of its own, as voters.
    pub async fn form(&self) -> Result<(), BenchError> {
        let form = async {
            let mut leader = DqliteConnection::open(&self.addrs[0]).await?;
            for (id, addr) in (1_u64..).zip(&self.addrs).skip(1) {
                let mut body = id.to_le_bytes().to_vec();
                put_text(&mut body, addr);
                leader.call(ADD, &body).await?;
                let voter = 0_u64;
                leader.call(ASSIGN, &[id.to_le_bytes(), voter.to_le_bytes()].concat()).await?;
            }
            Ok::<_, Failure>(())
        };
        form.await.map_err(|failure| BenchError::Seed(failure.into()))
    }
}

impl Target for Dqlite {
    type Connection = DqliteConnection;

    async fn leader(&self) -> Option<usize> {
        for addr in &self.addrs {
            if let Ok(mut connection) = DqliteConnection::open(addr).await
                && let Ok(body) = connection.call(LEADER, &[0; 8]).await
                && let Some(text) = body.get(8..).and_then(|text| text.split(|byte| *byte == 0).next())
                && let Some(at) = self.addrs.iter().position(|addr| addr.as_bytes() == text)
            {
                return Some(at);
            }
        }
        None
    }

    fn start_at(&mut self, first: Option<usize>) {
        self.first = first;
    }

    async fn transfer(&self, _leader: usize) -> Option<Result<(), OperationError>> {
        None
    }

    async fn connect(&self, _client: usize, attempt: usize) -> Result<DqliteConnection, OperationError> {
        // Only the leader opens the database.
        let at = match (attempt, self.first) {
            (0, Some(first)) => first % self.addrs.len(),
            _ => self.leader().await.ok_or(OperationError::Closed)?,
        };
        let mut connection = DqliteConnection::open(&self.addrs[at]).await?;
        let mut body = Vec::new();
        put_text(&mut body, "bench");
        body.extend_from_slice(&0_u64.to_le_bytes());
        put_text(&mut body, "volatile");
        connection.call(OPEN, &body).await?;
        Ok(connection)
    }

    async fn prepare(&self, work: &Work) -> Result<(), BenchError> {
        let mut connection = self.connect(0, 1).await.map_err(BenchError::Seed)?;
        connection.execute(CREATE).await.map_err(|e| BenchError::Seed(e.into()))?;
        let mut rows = connection.count().await.map_err(|e| BenchError::Seed(e.into()))?;
        while rows < work.rows {
            connection.run(work, Operation::Bulk, &mut Random::new(0)).await.map_err(BenchError::Seed)?;
            rows += work.bulk;
        }
        Ok(())
    }

    async fn count(&self) -> Result<Option<u64>, BenchError> {
        let mut connection = self.connect(0, 1).await.map_err(BenchError::Seed)?;
        connection.count().await.map(Some).map_err(|e| BenchError::Seed(e.into()))
    }
}

impl DqliteConnection {
    async fn open(addr: &str) -> Result<Self, OperationError> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&VERSION.to_le_bytes()).await?;
        Ok(Self { stream, out: Vec::new(), insert: None, select: None })
    }

    /// Sends a request of whole words; returns the body of its answer.
    async fn call(&mut self, kind: u8, body: &[u8]) -> Reply<Vec<u8>> {
        self.out.clear();
        self.out.extend_from_slice(&((body.len() / 8) as u32).to_le_bytes());
        self.out.extend_from_slice(&[kind, 0, 0, 0]);
        self.out.extend_from_slice(body);
        self.stream.write_all(&self.out).await?;
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, d, kind, ..] = head;
        let mut answer = vec![0; u32::from_le_bytes([a, b, c, d]) as usize * 8];
        self.stream.read_exact(&mut answer).await?;
        if kind != FAILURE {
            return Ok(answer);
        }
        let code = word(&answer, 0)?;
        if code & 0xff == BUSY {
            return Err(Failure::Busy);
        }
        let body = format!("{code}: {}", String::from_utf8_lossy(answer.get(8..).unwrap_or_default()));
        Err(OperationError::Refused { status: 0, body: body.trim_end_matches('\0').into() }.into())
    }

    async fn execute(&mut self, sql: &str) -> Reply<()> {
        let mut body = 0_u64.to_le_bytes().to_vec();
        put_text(&mut body, sql);
        body.extend_from_slice(&[0; 8]);
        self.call(EXEC_SQL, &body).await.map(drop)
    }

    async fn count(&mut self) -> Reply<u64> {
        let mut body = 0_u64.to_le_bytes().to_vec();
        put_text(&mut body, COUNT);
        body.extend_from_slice(&[0; 8]);
        let answer = self.call(QUERY_SQL, &body).await?;
        // The only value ends where the word begins that says that there is no more.
        word(&answer, answer.len().saturating_sub(16))
    }

    async fn prepare(&mut self, sql: &str) -> Reply<u32> {
        let mut body = 0_u64.to_le_bytes().to_vec();
        put_text(&mut body, sql);
        let answer = self.call(PREPARE, &body).await?;
        Ok((word(&answer, 0)? >> 32) as u32)
    }

    async fn insert(&mut self, value: &str) -> Reply<()> {
        let statement = match self.insert {
            Some(statement) => statement,
            None => self.prepare(INSERT).await?,
        };
        self.insert = Some(statement);
        let mut body = (u64::from(statement) << 32).to_le_bytes().to_vec();
        body.extend_from_slice(&[1, TEXT, 0, 0, 0, 0, 0, 0]);
        put_text(&mut body, value);
        self.call(EXEC, &body).await.map(drop)
    }

    async fn select(&mut self, id: u64) -> Reply<()> {
        let statement = match self.select {
            Some(statement) => statement,
            None => self.prepare(SELECT).await?,
        };
        self.select = Some(statement);
        let mut body = (u64::from(statement) << 32).to_le_bytes().to_vec();
        body.extend_from_slice(&[1, INTEGER, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&id.to_le_bytes());
        let answer = self.call(QUERY, &body).await?;
        // Number of columns, the column's name (one word), then the row or none.
        if word(&answer, 16)? == NO_MORE { Err(OperationError::Malformed("no row").into()) } else { Ok(()) }
    }

    async fn bulk(&mut self, work: &Work) -> Reply<()> {
        self.execute("BEGIN").await?;
        for _ in 0..work.bulk {
            self.insert(&work.value).await?;
        }
        self.execute("COMMIT").await
    }

    async fn attempt(&mut self, work: &Work, operation: Operation, random: &mut Random) -> Reply<()> {
        match operation {
            Operation::Insert => self.insert(&work.value).await,
            Operation::Query(_) => self.select(random.below(work.rows) + 1).await,
            Operation::Bulk => {
                let outcome = self.bulk(work).await;
                if let Err(Failure::Busy) = outcome {
                    // Where BEGIN itself was refused there is nothing to roll back, which is an error to SQLite.
                    drop(self.execute("ROLLBACK").await);
                }
                outcome
            }
        }
    }
}

impl Connection for DqliteConnection {
    /// A concurrent writer is refused; the application is to try again.
    async fn run(
        &mut self,
        work: &Work,
        operation: Operation,
        random: &mut Random,
    ) -> Result<(), OperationError> {
        loop {
            match self.attempt(work, operation, random).await {
                Err(Failure::Busy) => sleep(Duration::from_micros(200 + random.below(600))).await,
                outcome => return Ok(outcome?),
            }
        }
    }
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(text.as_bytes());
    body.push(0);
    body.resize(body.len().next_multiple_of(8), 0);
}

fn word(body: &[u8], at: usize) -> Reply<u64> {
    let chunk = body.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u64::from_le_bytes(*chunk.ok_or(OperationError::Malformed("dqlite answer"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fill_whole_words() {
        for (text, length) in [("", 8), ("1234567", 8), ("12345678", 16)] {
            let mut body = Vec::new();
            put_text(&mut body, text);
            assert_eq!(body.len(), length, "{text}");
            assert!(body.starts_with(text.as_bytes()) && body.ends_with(&[0]));
        }
    }

    #[test]
    fn words_are_little_endian_and_cuts_are_noticed() {
        assert!(matches!(word(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0], 8), Ok(513)));
        assert!(word(&[0; 7], 0).is_err());
        assert!(word(&[0; 8], 9).is_err());
    }
}
