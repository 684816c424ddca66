//! `bench`: measures `sqlited` and its peers.

use anyhow::Context;
use bench::cli::Cli;
use clap::Parser;

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    // One thread: the servers shall have the rest of the machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(bench::run(cli)).context("the measurement is void")
}
