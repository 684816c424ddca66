//! `kubectl sqlite`: clusters of a Kubernetes, from a terminal.

use clap::Parser;
use cli::plugin::{PluginArgs, run};
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let args = PluginArgs::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    run(args, runtime.handle())
}
