//! A client that keeps a ledger: it writes in an open loop, records every attempt, and compares with the database.
//!
//! Open loop: writes are sent when they are due, whatever became of the earlier ones, so an outage shows in full
//! instead of slowing the client down. Each write is one request under one `Idempotency-Key`, sent again a few times if it
//! is not acknowledged soon: what a careful client does. So a duplicate in the database is the cluster's.

mod account;
mod report;

pub use account::{Account, Attempt, Gap, Latency, Outcome, Spell, Write, account, percentile};
pub use report::Report;

use crate::database::{Database, Level, WriteError};
use crate::wait::eventually;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// Before a write is sent again the first time; twice that before the second. A refusal comes at once: without a pause
/// all attempts would meet the same moment.
const PAUSE: Duration = Duration::from_millis(50);

/// How a ledger writes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Writes due per second.
    pub rate: u32,
    /// How long an attempt may take before its outcome counts as unknown.
    pub patience: Duration,
    /// How often a write that is not acknowledged is sent again.
    pub retries: u32,
}

impl Default for Pace {
    /// What is to be shown is 200 writes a second with 250 ms for each attempt. `make test` is gentler and more patient:
    /// it may share the machine with anything, and a processor that is busy is not what it looks for.
    fn default() -> Self {
        let (rate, milliseconds) = if crate::proving() { (200, 250) } else { (100, 1_000) };
        Self { rate, patience: Duration::from_millis(milliseconds), retries: 2 }
    }
}

/// A run under way.
pub struct Ledger {
    run: String,
    pace: Pace,
    database: Database,
    begin: Instant,
    peace: Option<Range<Duration>>,
    acknowledged: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    writer: JoinHandle<Vec<Write>>,
}

impl Ledger {
    /// Makes the table and starts to write.
    pub async fn start(database: Database, pace: Pace) -> Result<Self> {
        let table = "CREATE TABLE IF NOT EXISTS ledger \
                     (id INTEGER PRIMARY KEY, run TEXT NOT NULL, number INTEGER NOT NULL)";
        database.write(table).await?;
        let run = uuid::Uuid::new_v4().to_string();
        let acknowledged = Arc::<AtomicU64>::default();
        let (stop, stopped) = watch::channel(false);
        let begin = Instant::now();
        let client = Client {
            database: database.clone(),
            run: run.clone(),
            pace,
            begin,
            acknowledged: acknowledged.clone(),
        };
        let writer = tokio::spawn(write(client, stopped));
        Ok(Self { run, pace, database, begin, peace: None, acknowledged, stop, writer })
    }

    /// Lets the connections come about, then writes in peace for a while: what is measured from then on is compared
    /// with that.
    pub async fn baseline(mut self) -> Result<Self> {
        const CONNECTED: u64 = 50;
        // Of a thousand, ten are the slowest hundredth: enough for a limit that counts.
        let enough = if crate::proving() { 1_000 } else { 200 };
        let within = Duration::from_secs(30);
        self.await_acknowledged(CONNECTED, within).await?;
        let begin = self.begin.elapsed();
        self.await_acknowledged(enough, within).await?;
        self.peace = Some(begin..self.begin.elapsed());
        Ok(self)
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` writes were acknowledged from now on.
    pub async fn await_acknowledged(&self, more: u64, within: Duration) -> Result<()> {
        let goal = self.acknowledged() + more;
        let what = format!("{more} more acknowledged writes");
        eventually(&what, within, async || Ok((self.acknowledged() >= goal).then_some(()))).await
    }

    /// Stops writing, waits for the answers that are still out, reads everything back and compares.
    pub async fn finish(self) -> Result<Report> {
        self.stop.send_replace(true);
        let writes = self.writer.await.context("the ledger's writer ended early")?;
        let found = read_back(&self.database, &self.run).await.context("reading the ledger back")?;
        let ended = writes.iter().flat_map(|write| &write.attempts).map(|attempt| attempt.ended);
        let duration = ended.max().unwrap_or_default();
        Ok(Report {
            rate: self.pace.rate,
            retries: self.pace.retries,
            timeout_ms: self.pace.patience.as_millis() as u64,
            duration_ms: duration.as_millis() as u64,
            account: account(&writes, &found, self.peace.as_ref()),
        })
    }
}

/// Who writes.
#[derive(Clone)]
struct Client {
    database: Database,
    run: String,
    pace: Pace,
    begin: Instant,
    acknowledged: Arc<AtomicU64>,
}

impl Client {
    /// Sends a write until it is acknowledged, or as often as the pace allows.
    async fn write(self, id: u32, due: Duration) -> Write {
        let sql = "INSERT INTO ledger (run, number) VALUES (?, ?)";
        let parameters = [json!(self.run), json!(id)];
        let key = format!("{}-{id}", self.run);
        let mut attempts = Vec::new();
        for retry in 0..=self.pace.retries {
            if retry > 0 {
                sleep(PAUSE * 2_u32.pow(retry - 1)).await;
            }
            let sent = self.database.write_with(sql, &parameters, Some(&key), self.pace.patience);
            let outcome = match sent.await {
                Ok(()) => Outcome::Acknowledged,
                Err(WriteError::Failed(why)) => Outcome::Failed(why),
                Err(WriteError::Unknown(why)) => Outcome::Unknown(why),
            };
            let acknowledged = outcome == Outcome::Acknowledged;
            attempts.push(Attempt { ended: self.begin.elapsed(), outcome });
            if acknowledged {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        Write { id: u64::from(id), due, attempts }
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing is done while the guard is held")]
async fn write(client: Client, mut stopped: watch::Receiver<bool>) -> Vec<Write> {
    let period = Duration::from_secs(1) / client.pace.rate.max(1);
    let mut out = JoinSet::new();
    let mut ended = Vec::new();
    for id in 0.. {
        let due = period * id;
        tokio::select! {
            () = sleep_until(client.begin + due) => {}
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
        out.spawn(client.clone().write(id, due));
        while let Some(Ok(write)) = out.try_join_next() {
            ended.push(write);
        }
    }
    while let Some(Ok(write)) = out.join_next().await {
        ended.push(write);
    }
    ended
}

/// Every write of the run that is in the database, with how often it is there. The cluster may just have been
/// disturbed, so a page that cannot be read is asked for again.
async fn read_back(database: &Database, run: &str) -> Result<BTreeMap<u64, u64>> {
    const PAGE: usize = 5_000;
    let mut found = BTreeMap::new();
    let mut after = 0;
    loop {
        let sql = format!(
            "SELECT id, number FROM ledger WHERE run = '{run}' AND id > {after} ORDER BY id LIMIT {PAGE}"
        );
        let within = Duration::from_secs(15);
        let page = eventually("a page of the ledger", within, async || {
            database.read(&sql, Level::Linearizable).await.map(Some)
        })
        .await?;
        for row in &page {
            after = row.first().and_then(Value::as_i64).context("a row without an id")?;
            let number = row.get(1).and_then(Value::as_u64).context("a row without a number")?;
            *found.entry(number).or_default() += 1;
        }
        if page.len() < PAGE {
            return Ok(found);
        }
    }
}
