//! `ledger`: writes to a cluster in an open loop, then says whether every acknowledged write is there.

use anyhow::{Result, bail};
use clap::Parser;
use e2e::ledger::Pace;
use e2e::{Cluster, Database, Kubernetes, Ledger, Report};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Writes in an open loop, records every attempt, then compares with the database.
#[derive(Parser)]
struct Options {
    /// Base address of the SQL API, like http://127.0.0.1:4001; may be given several times.
    #[arg(long)]
    url: Vec<String>,
    /// Instead: a SqliteCluster of the Kubernetes that KUBECONFIG names, as namespace/name.
    #[arg(long)]
    cluster: Option<String>,
    /// Writes per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Milliseconds after which the outcome of an attempt counts as unknown.
    #[arg(long, default_value_t = 250)]
    timeout_ms: u64,
    /// How often a write that is not acknowledged is sent again, under the same Idempotency-Key.
    #[arg(long, default_value_t = 2)]
    retries: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let report = run(&options).await?;
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.nothing_lost().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(options: &Options) -> Result<Report> {
    let patience = Duration::from_millis(options.timeout_ms);
    let pace = Pace { rate: options.rate, patience, retries: options.retries };
    let database = match (&options.cluster, options.url.as_slice()) {
        (None, []) => bail!("--url or --cluster is needed"),
        (None, urls) => Database::at(urls.to_vec())?,
        (Some(cluster), _) => {
            let Some((namespace, name)) = cluster.split_once('/') else {
                bail!("--cluster is namespace/name")
            };
            let kubernetes = Kubernetes::connect().await?;
            Cluster::named(&kubernetes, namespace, name).service("rw").await?
        }
    };
    let ledger = Ledger::start(database, pace).await?;
    let length = Duration::from_secs(options.seconds);
    tokio::select! {
        () = sleep(length) => {}
        _ = tokio::signal::ctrl_c() => {}
        () = watch(&ledger) => {}
    }
    ledger.finish().await
}

/// Says on stderr when acknowledgements stop and when they come again.
async fn watch(ledger: &Ledger) {
    let noticeable = Duration::from_millis(250);
    let (mut count, mut since, mut paused) = (ledger.acknowledged(), Instant::now(), false);
    loop {
        sleep(Duration::from_millis(20)).await;
        let now = ledger.acknowledged();
        if now != count {
            if paused {
                eprintln!("writes are acknowledged again after {:.2} s", since.elapsed().as_secs_f64());
            }
            (count, since, paused) = (now, Instant::now(), false);
        } else if !paused && since.elapsed() > noticeable {
            eprintln!("no write is acknowledged …");
            paused = true;
        }
    }
}
