//! A shell for `sqlited` and every other server with rqlite's HTTP API.
//!
//! Input becomes statements ([`splitter`]) and commands ([`command`]); a [`session`] runs them and renders the rows
//! ([`render`]). [`interactive`] and [`script`] are the two ways in which input comes.

mod args;
pub mod command;
mod complete;
mod error;
mod highlight;
pub mod interactive;
mod output;
mod pager;
mod password;
pub mod plugin;
pub mod render;
pub mod script;
pub mod session;
pub mod splitter;
mod transfer;

pub use args::Args;
pub use error::ShellError;
pub use output::Output;

use client::sql::{Credentials, Database, DatabaseConfig, Trust};
use render::Mode;
use session::Session;
use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use tokio::runtime::Handle;

/// Runs the shell until its input ends.
pub fn run(args: Args, runtime: &Handle) -> ExitCode {
    run_as(args, None, runtime)
}

/// The same, as a user whose password is known, unless the arguments name another one.
pub fn run_as(args: Args, credentials: Option<Credentials>, runtime: &Handle) -> ExitCode {
    match start(args, credentials, runtime) {
        Ok(code) => code,
        Err(error) => {
            error.report();
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args, credentials: Option<Credentials>, runtime: &Handle) -> Result<ExitCode, ShellError> {
    let interactive = args.command.is_empty() && stdin().is_terminal();
    let default_mode = if stdout().is_terminal() { Mode::Column } else { Mode::Csv };
    let database = database(&args, credentials)?;
    let mut session = Session::new(database, args.mode.unwrap_or(default_mode), interactive);
    if interactive {
        interactive::run(&mut session, runtime)?;
        return Ok(ExitCode::SUCCESS);
    }
    runtime.block_on(async {
        if args.command.is_empty() {
            return script::run(&mut session, stdin().lock()).await;
        }
        for text in &args.command {
            script::run(&mut session, text.as_bytes()).await?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn database(args: &Args, known: Option<Credentials>) -> Result<Database, ShellError> {
    let credentials = match &args.user {
        None => known,
        Some(user) => {
            let password = password::read(user, args.password_file.as_deref())?;
            Some(Credentials { user: user.clone(), password })
        }
    };
    let request_timeout = args.http_timeout;
    let trust = trust(args)?;
    let config = DatabaseConfig { credentials, request_timeout, trust, ..DatabaseConfig::new(args.hosts()) };
    Database::new(config).map_err(ShellError::Sql)
}

/// Certificates, keys and authorities from their files.
fn trust(args: &Args) -> Result<Trust, ShellError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|source| ShellError::File { path: path.clone(), source })
    };
    let authorities = args.ca_cert.as_ref().map(read).transpose()?;
    let identity = match (&args.client_cert, &args.client_key) {
        (Some(certificate), Some(key)) => Some([read(certificate)?, b"\n".to_vec(), read(key)?].concat()),
        _ => None,
    };
    Ok(Trust { authorities, identity, insecure: args.insecure })
}
