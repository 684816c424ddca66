//! `sqlited`: one member of a replicated SQLite cluster.

use anyhow::Context as _;
use node::backup;
use node::config::{self, Config, ConfigError};
use node::security::Security;
use node::store::{ExtensionsConfig, Shelf};
use node::{Ended, Node, Started, control, telemetry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::IsTerminal as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long work on threads of their own may go on after the end.
const LINGERS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _armed = node::failpoint::arm();
    // Before anything uses SQLite.
    if !node::store::bound_queries() {
        eprintln!("fatal: SQLite takes no bound on its memory");
        return ExitCode::FAILURE;
    }
    let command = match config::parse(std::env::args().skip(1), |name| std::env::var(name).ok()) {
        Ok(command) => command,
        Err(ConfigError::Usage(message)) => {
            eprintln!("{message}\n\n{}", config::usage());
            return ExitCode::from(2);
        }
        Err(ConfigError::Restore(message)) => {
            eprintln!("{message}\n\n{}", backup::USAGE);
            return ExitCode::from(2);
        }
        Err(error @ ConfigError::Invalid(_)) => return fatal(&error.into()),
    };
    let outcome = match command {
        config::Command::Version => {
            println!("sqlited {} (SQLite {})", node::VERSION, node::store::sqlite_version());
            Ok(())
        }
        config::Command::Help => {
            print!("{}", config::usage());
            Ok(())
        }
        config::Command::RestoreHelp => {
            print!("{}", backup::USAGE);
            Ok(())
        }
        config::Command::Restore(command) => runtime().and_then(|rt| rt.block_on(restore(&command))),
        config::Command::HashPassword => hash_password(),
        config::Command::Check(config) => runtime().and_then(|rt| rt.block_on(check(&config))),
        // Its last line is what the client reads; the other output is the member's.
        config::Command::WriteCanonical(order) => {
            return match node::store::child(&order, |lack| println!("{lack}")) {
                Ok(()) => ExitCode::SUCCESS,
                Err(refused) => {
                    eprintln!("{refused}");
                    ExitCode::FAILURE
                }
            };
        }
        config::Command::Drain { data_dir } => {
            runtime().and_then(|rt| Ok(rt.block_on(control::drain(&data_dir))?))
        }
        config::Command::Run(config) => runtime().and_then(|rt| {
            let outcome = rt.block_on(run(*config));
            // A query that nobody waits for any more may run on; everything that matters is closed.
            rt.shutdown_timeout(LINGERS);
            outcome
        }),
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

/// Reads a password from standard input, or from a terminal that does not show it; prints its hash.
fn hash_password() -> anyhow::Result<()> {
    let password = if std::io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ")?;
        anyhow::ensure!(password == rpassword::prompt_password("Again: ")?, "the two are not the same");
        password
    } else {
        std::io::read_to_string(std::io::stdin())?.trim_end_matches(['\r', '\n']).to_owned()
    };
    anyhow::ensure!(!password.is_empty(), "the password is empty");
    println!("{}", node::auth::hash(&password).map_err(anyhow::Error::msg)?);
    Ok(())
}

async fn restore(command: &backup::Command) -> anyhow::Result<()> {
    let restored = command.run().await?;
    if let Some(warning) = &restored.warning {
        eprintln!("warning: {warning}");
    }
    if !command.progress {
        println!("{}", serde_json::to_string_pretty(&restored)?);
    }
    Ok(())
}

/// Says what is not done as the flags say.
fn notify(config: &Config) {
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
}

async fn check(config: &Config) -> anyhow::Result<()> {
    telemetry::init(config)?;
    notify(config);
    Security::read(config)?;
    for file in [&config.backup_config, &config.restore_config].into_iter().flatten() {
        backup::Repository::read(file).map_err(anyhow::Error::msg)?;
    }
    if let Some(otlp) = &config.otlp {
        node::otlp::Collector::new(otlp)?;
    }
    if let Some(changes) = &config.changes {
        node::changes::check(changes).context("-cdc-config")?;
    }
    if config.extensions != ExtensionsConfig::default() {
        Shelf::check(&config.extensions).context("-extensions-path")?;
    }
    println!("the configuration makes sense");
    Ok(())
}

/// As many files as the system allows: each client and each peer takes one, and shells allow few.
fn allow_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the number of open files stays as it was");
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config)?;
    notify(&config);
    allow_files();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(shutdown);
    let node = tokio::select! {
        started = Node::start(config) => match started? {
            Started::Node(node) => node,
            Started::Again => return start_again(),
        },
        // As good as an end by a crash, at whatever point of the start.
        () = &mut shutdown => {
            tracing::info!("told to end before it had started");
            return Ok(());
        }
    };
    match node.run(shutdown).await? {
        Ended::InOrder => Ok(()),
        Ended::StartAgain => start_again(),
    }
}

/// The same process, so that whoever watches it sees no end; its files and sockets are closed by the system.
fn start_again() -> anyhow::Result<()> {
    let error = Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).exec();
    Err(anyhow::Error::new(error).context("start again"))
}
