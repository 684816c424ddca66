//! Keeps queries from beginning for a moment: a checkpoint is complete only when none is left that began before the last
//! entry, and queries that follow one another may leave no such moment by themselves, however short each is.

use crate::observe::{Observe as _, Until as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Nobody waits for longer: the writer may be in the middle of an entry that takes its time.
const AT_MOST: Duration = Duration::from_secs(2);

/// What queries pass before they begin.
#[derive(Default)]
pub struct ReadGate {
    /// How many want it closed.
    closed: watch::Sender<usize>,
}

/// Keeps the gate closed until it is dropped.
pub struct Closed(Arc<ReadGate>);

impl ReadGate {
    /// Closes it.
    pub fn close(self: &Arc<Self>) -> Closed {
        self.closed.send_modify(|closed| *closed += 1);
        Closed(self.clone())
    }

    /// Waits until it is open, for at most two seconds.
    pub async fn passed(&self) {
        if self.closed.observe(|closed| *closed > 0) {
            // Who goes before it is open may have the checkpoint come to nothing, and there will be others.
            drop(timeout(AT_MOST, self.closed.subscribe().until(|closed| *closed == 0)).await);
        }
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.closed.send_modify(|closed| *closed -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let gate = Arc::new(ReadGate::default());
        let _closed = gate.close();
        gate.passed().await;
    }

    #[tokio::test]
    async fn it_is_open_unless_somebody_closes_it() {
        let gate = Arc::new(ReadGate::default());
        gate.passed().await;
        let (first, second) = (gate.close(), gate.close());
        let mut waiting = Box::pin(gate.passed());
        assert_eq!(waiting.as_mut().now_or_never(), None);
        drop(first);
        assert_eq!(waiting.as_mut().now_or_never(), None);
        drop(second);
        waiting.await;
        gate.passed().await;
    }
}
