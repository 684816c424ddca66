//! A client that keeps a ledger: it writes in an open loop, records every attempt, and compares with the database.
//!
//! Open loop: writes are sent when they are due, whatever became of the earlier ones, so an outage shows in full
//! instead of slowing the client down. Nothing is sent twice, so a duplicate in the database is the cluster's.

mod account;
mod report;

pub use account::{Account, Attempt, Gap, Outcome, account, percentile};
pub use report::Report;

use crate::database::{Database, Level, WriteError};
use crate::wait::eventually;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// How a ledger writes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Writes attempted per second.
    pub rate: u32,
    /// How long an attempt may take before its outcome counts as unknown.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rate: if crate::proving() { 200 } else { 100 }, patience: Duration::from_secs(5) }
    }
}

/// A run under way.
pub struct Ledger {
    run: String,
    pace: Pace,
    database: Database,
    acknowledged: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    writer: JoinHandle<Vec<Attempt>>,
}

impl Ledger {
    /// Makes the table and starts to write.
    pub async fn start(database: Database, pace: Pace) -> Result<Self> {
        let table = "CREATE TABLE IF NOT EXISTS ledger \
                     (id INTEGER PRIMARY KEY, run TEXT NOT NULL, attempt INTEGER NOT NULL)";
        database.write(table).await?;
        let run = uuid::Uuid::new_v4().to_string();
        let acknowledged = Arc::<AtomicU64>::default();
        let (stop, stopped) = watch::channel(false);
        let writer = tokio::spawn(write(database.clone(), run.clone(), pace, acknowledged.clone(), stopped));
        Ok(Self { run, pace, database, acknowledged, stop, writer })
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
        let attempts = self.writer.await.context("the ledger's writer ended early")?;
        let found = read_back(&self.database, &self.run).await.context("reading the ledger back")?;
        let duration = attempts.iter().map(|attempt| attempt.ended).max().unwrap_or_default();
        let account = account(&attempts, &found);
        Ok(Report { rate: self.pace.rate, duration_ms: duration.as_millis() as u64, account })
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing is done while the guard is held")]
async fn write(
    database: Database,
    run: String,
    pace: Pace,
    acknowledged: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Vec<Attempt> {
    let begin = Instant::now();
    let period = Duration::from_secs(1) / pace.rate.max(1);
    let mut out = JoinSet::new();
    let mut ended = Vec::new();
    for id in 0.. {
        let due = begin + period * id;
        tokio::select! {
            () = sleep_until(due) => {}
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
        let (database, run, acknowledged) = (database.clone(), run.clone(), acknowledged.clone());
        out.spawn(async move {
            let sql = "INSERT INTO ledger (run, attempt) VALUES (?, ?)";
            let outcome = match database.write_with(sql, &[json!(run), json!(id)], pace.patience).await {
                Ok(()) => {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    Outcome::Acknowledged
                }
                Err(WriteError::Failed(why)) => Outcome::Failed(why),
                Err(WriteError::Unknown(why)) => Outcome::Unknown(why),
            };
            Attempt { id: u64::from(id), sent: due - begin, ended: begin.elapsed(), outcome }
        });
        while let Some(Ok(attempt)) = out.try_join_next() {
            ended.push(attempt);
        }
    }
    while let Some(Ok(attempt)) = out.join_next().await {
        ended.push(attempt);
    }
    ended
}

/// Every attempt of the run that is in the database, with how often it is there. The cluster may just have been
/// disturbed, so a page that cannot be read is asked for again.
async fn read_back(database: &Database, run: &str) -> Result<BTreeMap<u64, u64>> {
    const PAGE: usize = 5_000;
    let mut found = BTreeMap::new();
    let mut after = 0;
    loop {
        let sql = format!(
            "SELECT id, attempt FROM ledger WHERE run = '{run}' AND id > {after} ORDER BY id LIMIT {PAGE}"
        );
        let within = Duration::from_secs(15);
        let page = eventually("a page of the ledger", within, async || {
            database.read(&sql, Level::Linearizable).await.map(Some)
        })
        .await?;
        for row in &page {
            after = row.first().and_then(Value::as_i64).context("a row without an id")?;
            let attempt = row.get(1).and_then(Value::as_u64).context("a row without an attempt")?;
            *found.entry(attempt).or_default() += 1;
        }
        if page.len() < PAGE {
            return Ok(found);
        }
    }
}
