//! The timed closed loop.

use crate::random::Random;
use crate::record::LoadRecord;
use crate::target::{Connection, OperationError, Target};
use crate::usage::Sample;
use crate::work::Work;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Pause of a client after a failure, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(10);

/// How a load is run.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Number of clients.
    pub clients: usize,
    /// Time before the measured interval.
    pub warm: Duration,
    /// The measured interval.
    pub measured: Duration,
    /// Longest operation.
    pub timeout: Duration,
    /// Servers whose use of the machine is recorded.
    pub pids: Vec<u32>,
    /// Block device whose writes are recorded.
    pub disk: Option<String>,
}

/// An acknowledged operation.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// When its answer came.
    pub at: Instant,
    /// From the request to the answer.
    pub latency: Duration,
    /// Rows it wrote or read.
    pub rows: u64,
}

/// What one client saw, or all of them.
#[derive(Debug, Default)]
pub struct Observed {
    /// Operations in the order of each client.
    pub acknowledged: Vec<Acknowledged>,
    /// Failed operations and connections.
    pub errors: usize,
    /// The first of them.
    pub first_error: Option<String>,
}

impl Observed {
    fn failed(&mut self, error: &OperationError) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn merge(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// Clients that run until a moment.
#[derive(Debug)]
pub struct Clients(JoinSet<Observed>);

impl Clients {
    /// Starts them.
    pub fn start<T: Target>(
        target: &Arc<T>,
        work: &Arc<Work>,
        count: usize,
        end: Instant,
        timeout: Duration,
    ) -> Self {
        let mut clients = JoinSet::new();
        for client in 0..count {
            clients.spawn(run_client(target.clone(), work.clone(), client, end, timeout));
        }
        Self(clients)
    }

    /// Waits for them; returns what they saw.
    pub async fn finish(self) -> Observed {
        let mut all = Observed::default();
        self.0.join_all().await.into_iter().for_each(|one| all.merge(one));
        all
    }
}

async fn run_client<T: Target>(
    target: Arc<T>,
    work: Arc<Work>,
    client: usize,
    end: Instant,
    patience: Duration,
) -> Observed {
    let mut observed = Observed::default();
    let mut random = Random::new(client as u64);
    let mut connection = None;
    let mut attempt = 0;
    while Instant::now() < end {
        let step = async {
            let connection = match &mut connection {
                Some(connection) => connection,
                None => connection.insert(target.connect(client, attempt).await?),
            };
            let (operation, sent) = (work.pick(&mut random), Instant::now());
            connection.run(&work, operation, &mut random).await?;
            let at = Instant::now();
            Ok(Acknowledged { at, latency: at - sent, rows: work.rows_of(operation) })
        };
        match timeout(patience, step).await.unwrap_or(Err(OperationError::Timeout)) {
            Ok(acknowledged) => observed.acknowledged.push(acknowledged),
            Err(error) => {
                observed.failed(&error);
                connection = None;
                attempt += 1;
                sleep(PAUSE).await;
            }
        }
    }
    observed
}

/// Runs a load and measures it. Tag, work and repetition are left to the caller.
pub async fn measure<T: Target>(target: &Arc<T>, work: &Arc<Work>, config: &LoadConfig) -> LoadRecord {
    let sample = || Sample::take(&config.pids, config.disk.as_deref());
    let from = Instant::now() + config.warm;
    let to = from + config.measured;
    let clients = Clients::start(target, work, config.clients, to, config.timeout);
    sleep_until(from).await;
    let before = sample();
    sleep_until(to).await;
    let after = sample();
    let mut observed = clients.finish().await;
    observed.acknowledged.retain(|a| (from..=to).contains(&a.at));
    let rows = observed.acknowledged.iter().map(|a| a.rows).sum::<u64>();
    let seconds = config.measured.as_secs_f64();
    let mut latencies: Vec<Duration> = observed.acknowledged.iter().map(|a| a.latency).collect();
    latencies.sort_unstable();
    LoadRecord {
        clients: config.clients,
        seconds,
        operations: latencies.len(),
        rows_per_s: (rows as f64 / seconds * 10.0).round() / 10.0,
        p50_ms: quantile_ms(&latencies, 0.5),
        p99_ms: quantile_ms(&latencies, 0.99),
        p999_ms: quantile_ms(&latencies, 0.999),
        max_ms: quantile_ms(&latencies, 1.0),
        errors: observed.errors,
        first_error: observed.first_error,
        usage: before.until(&after, rows, seconds),
        ..LoadRecord::default()
    }
}

/// The smallest of the sorted latencies that at least this share does not exceed; 0 if there are none.
fn quantile_ms(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    let latency = sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default();
    latency.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BenchError;
    use crate::work::{Operation, WorkName};

    #[test]
    fn quantiles_by_table() {
        let ms = |n| Duration::from_millis(n);
        let hundred: Vec<_> = (1..=100).map(ms).collect();
        for (sorted, share, expected) in [
            (&[][..], 0.5, 0.0),
            (&[ms(7)], 0.999, 7.0),
            (&hundred, 0.5, 50.0),
            (&hundred, 0.99, 99.0),
            (&hundred, 1.0, 100.0),
        ] {
            assert_eq!(quantile_ms(sorted, share), expected);
        }
    }

    /// Answers after 10 ms, each third time with an error.
    struct Fake;
    struct FakeConnection(u32);

    impl Target for Fake {
        type Connection = FakeConnection;
        async fn leader(&self) -> Option<usize> {
            Some(0)
        }
        fn start_at(&mut self, _: Option<usize>) {}
        async fn transfer(&self, _: usize) -> Option<Result<(), OperationError>> {
            None
        }
        async fn connect(&self, _: usize, attempt: usize) -> Result<FakeConnection, OperationError> {
            Ok(FakeConnection(attempt as u32))
        }
        async fn prepare(&self, _: &Work) -> Result<(), BenchError> {
            Ok(())
        }
        async fn count(&self) -> Result<Option<u64>, BenchError> {
            Ok(None)
        }
    }

    impl Connection for FakeConnection {
        async fn run(&mut self, _: &Work, _: Operation, _: &mut Random) -> Result<(), OperationError> {
            sleep(Duration::from_millis(10)).await;
            self.0 += 1;
            if self.0.is_multiple_of(3) { Err(OperationError::Closed) } else { Ok(()) }
        }
    }

    #[tokio::test]
    async fn a_load_counts_what_is_acknowledged_in_its_interval() {
        let config = LoadConfig {
            clients: 2,
            warm: Duration::from_millis(50),
            measured: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            pids: vec![],
            disk: None,
        };
        let work = Arc::new(Work::new(WorkName::Bulk, 1, 5, 1));
        let record = measure(&Arc::new(Fake), &work, &config).await;
        assert!((1..=100).contains(&record.operations), "{record:?}");
        assert_eq!(record.rows_per_s, record.operations as f64 * 5.0 / 0.5);
        assert!(record.errors > 0 && record.first_error.as_deref() == Some("connection closed"));
        assert!(record.p50_ms >= 10.0 && record.max_ms >= record.p50_ms, "{record:?}");
    }
}
