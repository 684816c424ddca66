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

use client::sql::{Credentials, Database, DatabaseConfig};
use client::trust::Trust;
use render::Mode;
use session::Session;
use std::io::{IsTerminal, stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::runtime::Handle;

/// Runs the shell until its input ends.
pub fn run(args: Args, runtime: &Handle) -> ExitCode {
    run_as(args, Known::default(), runtime)
}

/// What is known without arguments, which stand over it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// A user whose password is known.
    pub credentials: Option<Credentials>,
    /// Whom to trust.
    pub trust: Option<Trust>,
}

/// The same, with what is known already.
pub fn run_as(args: Args, known: Known, runtime: &Handle) -> ExitCode {
    match start(args, known, runtime) {
        Ok(code) => code,
        Err(error) => {
            error.report();
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args, known: Known, runtime: &Handle) -> Result<ExitCode, ShellError> {
    let interactive = args.command.is_empty() && stdin().is_terminal();
    let default_mode = if stdout().is_terminal() { Mode::Column } else { Mode::Csv };
    let database = database(&args, known)?;
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

fn database(args: &Args, known: Known) -> Result<Database, ShellError> {
    let credentials = match &args.user {
        None => known.credentials,
        Some(user) => {
            let password = password::read(user, args.password_file.as_deref())?;
            Some(Credentials { user: user.name.clone(), password })
        }
    };
    let trust = trust(args)?.or(known.trust);
    let request_timeout = args.http_timeout;
    let config = DatabaseConfig { credentials, trust, request_timeout, ..DatabaseConfig::new(args.hosts()) };
    Database::new(config).map_err(ShellError::Sql)
}

/// Whom to trust and who to be, from the files that are named; none if nothing is said of it.
fn trust(args: &Args) -> Result<Option<Trust>, ShellError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| ShellError::File { path: path.clone(), source })
    };
    let authorities = args.ca_cert.as_ref().map(read).transpose()?;
    let identity = match (&args.client_cert, &args.client_key) {
        (Some(certificate), Some(key)) => Some([read(certificate)?, b"\n".to_vec(), read(key)?].concat()),
        _ => None,
    };
    if authorities.is_none() && identity.is_none() && !args.insecure {
        return Ok(None);
    }
    let trust = Trust::shown(authorities.as_deref(), identity.as_deref(), args.insecure);
    trust.map(Some).map_err(ShellError::Trust)
}
