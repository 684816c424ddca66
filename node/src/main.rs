//! `sqlited`: one member of a replicated SQLite cluster.

use node::config::{self, Command, Config, ConfigError};
use node::{Node, control, telemetry};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let command = match config::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(ConfigError::Usage(message)) => {
            eprintln!("{message}\n\n{}", config::usage());
            return ExitCode::from(2);
        }
        Err(error @ ConfigError::Invalid(_)) => return fatal(&error.into()),
    };
    let outcome = match command {
        Command::Version => {
            println!("sqlited {} (SQLite {})", node::VERSION, node::store::sqlite_version());
            Ok(())
        }
        Command::Help => {
            print!("{}", config::usage());
            Ok(())
        }
        Command::Drain { data_dir } => runtime().and_then(|rt| Ok(rt.block_on(control::drain(&data_dir))?)),
        Command::Run(config) => runtime().and_then(|rt| rt.block_on(run(*config))),
    };
    outcome.map_or_else(|error| fatal(&error), |()| ExitCode::SUCCESS)
}

fn fatal(error: &anyhow::Error) -> ExitCode {
    eprintln!("fatal: {error:#}");
    ExitCode::FAILURE
}

/// Clients and queries; consensus has a thread of its own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
    let mut builder = if workers == 1 {
        // One thread wakes its own tasks without locks.
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    Ok(builder.worker_threads(workers).enable_all().build()?)
}

async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(Node::start(config).await?.run(shutdown).await?)
}
