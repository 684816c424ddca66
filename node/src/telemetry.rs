//! Where events go: standard error, as text for people or JSON for machines.

use crate::config::{Config, LogFormat};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// The filter of `-log-level` makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("-log-level: {0}")]
pub struct BadFilter(#[from] tracing_subscriber::filter::ParseError);

/// Starts logging as configured. What the Raft library reports below errors is of use only when asked for.
pub fn init(config: &Config) -> Result<(), BadFilter> {
    let quiet = !config.log_level.contains(['=', ',']);
    let filter =
        if quiet { format!("{},openraft=error", config.log_level) } else { config.log_level.clone() };
    let builder =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(filter)?).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let json = match config.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let outcome = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(terminal).try_init()
    };
    if outcome.is_err() {
        // Several members in one process (tests) share the first one's.
        tracing::debug!("logging was started before");
    }
    Ok(())
}
