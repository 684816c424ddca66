//! Saying goodbye, so that nobody has to miss this member first.

use crate::raft::Consensus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long handing over leadership may take.
const HAND_OVER: Duration = Duration::from_millis(2500);
/// How long a managed member goes on serving after it said that it goes down: until Services have heard.
const LINGER: Duration = Duration::from_secs(3);
/// Between two attempts to hand over.
const PAUSE: Duration = Duration::from_millis(100);

/// Done once, whoever asks first (the preStop hook, then SIGTERM).
pub struct Drain {
    consensus: Arc<Consensus>,
    hands_over: bool,
    linger: Duration,
    done: OnceCell<()>,
}

impl Drain {
    /// Of a member that is `managed` by an operator or not, and hands over leadership or not.
    pub fn new(consensus: Arc<Consensus>, managed: bool, hands_over: bool) -> Self {
        let linger = if managed { LINGER } else { Duration::ZERO };
        Self { consensus, hands_over, linger, done: OnceCell::new() }
    }

    /// Says that this member goes down, hands over leadership, and goes on serving for a while. Returns when done.
    pub async fn run(&self) {
        self.done.get_or_init(|| self.once()).await;
    }

    async fn once(&self) {
        self.consensus.set_draining();
        if !self.hands_over {
            return sleep(self.linger).await;
        }
        let mut handed_over = self.hand_over().await;
        // Somebody who does not know yet that this member goes may hand over to it, or elect it.
        let end = Instant::now() + self.linger;
        while Instant::now() < end && timeout_at(end, self.consensus.until_it_leads()).await.is_ok() {
            sleep(PAUSE).await;
            handed_over = self.hand_over().await;
        }
        if let Err(why) = handed_over {
            tracing::info!(why, "goes down as the leader");
        }
    }

    /// Hands over if this member leads; the error is why it still does.
    async fn hand_over(&self) -> Result<(), String> {
        match timeout(HAND_OVER, self.consensus.hand_over()).await {
            Ok(Ok(Some(to))) => {
                tracing::info!(leader = to.leader.name, term = to.term, "handed over leadership");
                Ok(())
            }
            Ok(Ok(None)) => Ok(()),
            Ok(Err(refusal)) => Err(refusal.message),
            Err(_) => Err("handing over took too long".into()),
        }
    }
}
