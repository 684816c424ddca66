//! `scale`: makes many clusters whose members are played, and measures the operator that looks after them. Started by
//! `e2e/scale.sh`, which has the Kubernetes for it.

use anyhow::{Result, bail};
use clap::Parser;
use e2e::scale::Measurement;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Measures an operator with many clusters.
#[derive(Parser)]
struct Options {
    /// Clusters to make.
    #[arg(long, default_value_t = 1_000)]
    clusters: usize,
    /// Of these made a second.
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Changes of each kind.
    #[arg(long, default_value_t = 300)]
    changes: usize,
    /// Of these a second.
    #[arg(long, default_value_t = 5.0)]
    change_rate: f64,
    /// Seconds to look on while nothing changes.
    #[arg(long, default_value_t = 180)]
    rest_seconds: u64,
    /// The operator's program.
    #[arg(long)]
    operator: PathBuf,
    /// By which the operator reaches the API server.
    #[arg(long)]
    operator_kubeconfig: PathBuf,
    /// Port of the loopback address for the operator's metrics.
    #[arg(long)]
    metrics_port: u16,
    /// By which everything else reaches the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The API server's audit log of what the operator asks.
    #[arg(long)]
    audit: PathBuf,
    /// Where the operator's log goes.
    #[arg(long)]
    log: PathBuf,
    /// Where to write what was found, as Markdown.
    #[arg(long)]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let measurement = Measurement {
        clusters: options.clusters,
        rate: options.rate,
        changes: options.changes,
        change_rate: options.change_rate,
        rest: Duration::from_secs(options.rest_seconds),
        operator: options.operator,
        operator_kubeconfig: options.operator_kubeconfig,
        metrics_port: options.metrics_port,
        kubeconfig: options.kubeconfig,
        audit: options.audit,
        log: options.log,
    };
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let found = tokio::select! {
        found = measurement.run() => found?,
        _ = term.recv() => bail!("interrupted"),
        _ = int.recv() => bail!("interrupted"),
    };
    let text = found.markdown();
    fs::write(&options.out, &text)?;
    print!("\n{text}");
    let missed = found.missed();
    for what in &missed {
        eprintln!("not met: {what}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
