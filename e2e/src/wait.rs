//! Waiting for something to become true, never for a fixed time.

use anyhow::{Result, anyhow};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(100);

/// Asks `probe` until it answers with a value. An error of the probe is an answer like "not yet"; the last one is
/// reported when the time is over. [`Hopeless`] ends the wait at once.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + within;
    let mut last = None;
    while Instant::now() < end {
        match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => last = None,
            Err(error) if error.is::<Hopeless>() => return Err(error.context(what.to_owned())),
            Err(error) => last = Some(error),
        }
        sleep(POLL).await;
    }
    let late = anyhow!("{what}: not within {within:?}");
    Err(last.map_or_else(|| anyhow!("{late}"), |error| error.context(late.to_string())))
}

/// What is waited for will never be.
#[derive(Debug)]
pub struct Hopeless(pub String);

impl std::fmt::Display for Hopeless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Hopeless {}
