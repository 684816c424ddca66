//! `sqlite-cli`: a shell for `sqlited`.

use clap::Parser;
use cli::Args;
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // The second thread sees the end of idle connections while the first waits for input.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    Ok(cli::run(args, runtime.handle()))
}
