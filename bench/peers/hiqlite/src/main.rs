//! hiqlite under the loads of `bench`: a node of it (`hiqlite-bench node`), and its own client as the target of
//! `run` and `failover`.
//!
//! Nodes sync their log before they acknowledge (`wal_sync = immediate`); hiqlite's default acknowledges up to 200 ms
//! before that. One remote client is shared by all clients of a load: it is made to send them over one connection.

use bench::BenchError;
use bench::cli::Command;
use bench::random::Random;
use bench::target::{Connection, OperationError, Target};
use bench::work::{Level, Operation, Work};
use clap::{Args, Parser};
use hiqlite::{Client, Node, NodeConfig, Param};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Between nodes that live for a measurement, on loopback.
const SECRET: &str = "a secret of loopback only";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS bench(id INTEGER PRIMARY KEY, v TEXT)";
const INSERT: &str = "INSERT INTO bench(v) VALUES($1)";
const SELECT: &str = "SELECT v FROM bench WHERE id=$1";

#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
enum Program {
    /// Run a node
    Node(NodeOptions),
    #[command(flatten)]
    Bench(Command),
}

#[derive(Debug, Args)]
struct NodeOptions {
    /// Which of the nodes this is, from 1
    #[arg(long)]
    id: u64,
    /// Client ports of all nodes: host:port,host:port,…
    #[arg(long, value_delimiter = ',', required = true)]
    api: Vec<String>,
    /// Peer ports of all nodes, in the same order
    #[arg(long, value_delimiter = ',', required = true)]
    raft: Vec<String>,
    /// Directory of its data
    #[arg(long)]
    data: PathBuf,
}

fn main() -> anyhow::Result<()> {
    match Program::parse() {
        Program::Node(options) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run_node(options))
        }
        Program::Bench(command) => {
            // One thread, as in `bench`: the servers shall have the rest of the machine.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let common = match &command {
                Command::Run(options) => &options.common,
                Command::Failover(options) => &options.common,
                _ => anyhow::bail!("only `node`, `run` and `failover`; the rest is in `bench`"),
            };
            let target = Hiqlite { addrs: common.addrs.clone(), first: None, shared: Arc::default() };
            Ok(runtime.block_on(bench::measure(target, &command))?)
        }
    }
}

async fn run_node(options: NodeOptions) -> anyhow::Result<()> {
    let nodes = (1..).zip(options.raft.iter().zip(&options.api)).map(|(id, (addr_raft, addr_api))| Node {
        id,
        addr_raft: addr_raft.clone(),
        addr_api: addr_api.clone(),
    });
    let config = NodeConfig {
        node_id: options.id,
        nodes: nodes.collect(),
        listen_addr_api: "127.0.0.1".into(),
        listen_addr_raft: "127.0.0.1".into(),
        data_dir: options.data.to_string_lossy().into_owned().into(),
        wal_sync: "immediate".try_into().map_err(|e| anyhow::anyhow!("wal_sync: {e:?}"))?,
        secret_raft: SECRET.into(),
        secret_api: SECRET.into(),
        // It wants a key for backups, of which there are none here.
        enc_keys: cryptr::EncKeys { enc_key_active: "bench1".into(), enc_keys: vec![("bench1".into(), vec![7; 32])] },
        health_check_delay: Duration::from_secs(1),
        ..NodeConfig::default()
    };
    let client = hiqlite::start_node(config).await?;
    client.wait_until_healthy_db().await;
    println!("ready");
    std::future::pending().await
}

type Shared = Arc<Mutex<Option<(usize, Client)>>>;

/// A cluster of hiqlite nodes.
struct Hiqlite {
    addrs: Vec<String>,
    first: Option<usize>,
    /// The client, and how often one was made.
    shared: Shared,
}

struct HiqliteConnection(Client);

fn failed(error: hiqlite::Error) -> OperationError {
    OperationError::Refused { status: 0, body: error.to_string().chars().take(120).collect() }
}

impl Hiqlite {
    async fn client(&self, attempt: usize) -> Result<Client, OperationError> {
        let mut shared = self.shared.lock().await;
        if let Some((_, client)) = shared.as_ref() {
            return Ok(client.clone());
        }
        let mut addrs = self.addrs.clone();
        let count = addrs.len();
        addrs.rotate_left((self.first.unwrap_or(0) + attempt) % count);
        let client = Client::remote(addrs, false, false, SECRET.into(), false, None).await.map_err(failed)?;
        *shared = Some((attempt, client.clone()));
        Ok(client)
    }
}

impl Target for Hiqlite {
    type Connection = HiqliteConnection;

    async fn leader(&self) -> Option<usize> {
        let metrics = self.client(0).await.ok()?.metrics_db().await.ok()?;
        usize::try_from(metrics.current_leader?).ok()?.checked_sub(1)
    }

    fn start_at(&mut self, first: Option<usize>) {
        self.first = first;
    }

    async fn transfer(&self, _leader: usize) -> Option<Result<(), OperationError>> {
        None
    }

    async fn connect(&self, _client: usize, attempt: usize) -> Result<HiqliteConnection, OperationError> {
        // The client goes to the leader by itself, also to another one after a failure.
        Ok(HiqliteConnection(self.client(attempt).await?))
    }

    async fn prepare(&self, work: &Work) -> Result<(), BenchError> {
        let client = self.client(0).await.map_err(BenchError::Seed)?;
        client.execute(CREATE, Vec::new()).await.map_err(|e| BenchError::PrepareRefused(e.to_string()))?;
        let mut rows = self.count().await?.unwrap_or_default();
        let mut connection = HiqliteConnection(client);
        while rows < work.rows {
            connection.run(work, Operation::Bulk, &mut Random::new(0)).await.map_err(BenchError::Seed)?;
            rows += work.bulk;
        }
        Ok(())
    }

    async fn count(&self) -> Result<Option<u64>, BenchError> {
        let client = self.client(0).await.map_err(BenchError::Seed)?;
        let refused = |e: hiqlite::Error| BenchError::PrepareRefused(e.to_string());
        let rows = client.query_consistent("SELECT count(*) AS n FROM bench", Vec::new()).await.map_err(refused)?;
        Ok(rows.into_iter().next().map(|mut row| row.get::<i64>("n").max(0) as u64))
    }
}

impl Connection for HiqliteConnection {
    async fn run(&mut self, work: &Work, operation: Operation, random: &mut Random) -> Result<(), OperationError> {
        let value = || vec![Param::from(work.value.clone())];
        match operation {
            Operation::Insert => drop(self.0.execute(INSERT, value()).await.map_err(failed)?),
            Operation::Bulk => {
                let statements: Vec<_> = (0..work.bulk).map(|_| (INSERT, value())).collect();
                for done in self.0.txn(statements).await.map_err(failed)? {
                    done.map_err(failed)?;
                }
            }
            Operation::Query(level) => {
                let id = vec![Param::from((random.below(work.rows) + 1) as i64)];
                let rows = if matches!(level, Level::None | Level::Weak | Level::Auto) {
                    // By the node that the client is connected to: the leader.
                    self.0.query_raw(SELECT, id).await
                } else {
                    self.0.query_consistent(SELECT, id).await
                };
                if rows.map_err(failed)?.len() != 1 {
                    return Err(OperationError::Malformed("not one row"));
                }
            }
        }
        Ok(())
    }
}
