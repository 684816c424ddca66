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
/// How long a leader archives what is committed before it hands over: whoever takes over may go down a moment later.
const ARCHIVE: Duration = Duration::from_secs(2);
/// How long going down takes at most for the sake of the archive, of the 30 seconds that Kubernetes gives a pod.
const ALL: Duration = Duration::from_secs(25);
/// How often it is told how far that is.
const TELL: Duration = Duration::from_secs(2);

/// Done once, whoever asks first (the preStop hook, then SIGTERM).
pub struct Drain {
    consensus: Arc<Consensus>,
    hands_over: bool,
    linger: Duration,
    /// When it began, once it is done.
    done: OnceCell<Instant>,
}

impl Drain {
    /// Of a member that is `managed` by an operator or not, and hands over leadership or not.
    pub fn new(consensus: Arc<Consensus>, managed: bool, hands_over: bool) -> Self {
        let linger = if managed { LINGER } else { Duration::ZERO };
        Self { consensus, hands_over, linger, done: OnceCell::new() }
    }

    /// Says that this member goes down, archives what is committed and hands over leadership, if it leads, and goes on serving
    /// for a while. Returns when done.
    pub async fn run(&self) {
        self.done.get_or_init(|| self.once()).await;
    }

    /// After the last request: archives the rest, if this member still leads, in the time that is left.
    pub async fn finish(&self) {
        let begun = *self.done.get_or_init(|| self.once()).await;
        if let Some((from, to)) = self.archive(begun + ALL).await {
            tracing::warn!(from, to, "goes down before these entries are archived");
        }
    }

    async fn once(&self) -> Instant {
        let begun = Instant::now();
        self.consensus.set_draining();
        if let Some((from, to)) = self.archive(begun + ARCHIVE).await {
            tracing::info!(from, to, "goes on before these entries are archived");
        }
        if self.hands_over {
            self.hand_over_and_linger().await;
        } else {
            sleep(self.linger).await;
        }
        begun
    }

    async fn hand_over_and_linger(&self) {
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

    /// Waits until everything that is committed is archived, if this member leads and there is an archive; returns the first
    /// and the last entry that are not at the end of the time.
    async fn archive(&self, end: Instant) -> Option<(u64, u64)> {
        let consensus = &self.consensus;
        let last = consensus.store().applied().index().unwrap_or(0);
        let begun = Instant::now();
        let is_asked = || consensus.is_archived() && consensus.is_leader();
        while is_asked() && consensus.next_to_archive() <= last {
            let from = consensus.next_to_archive();
            if Instant::now() >= end {
                return Some((from, last));
            }
            tracing::info!(from, to = last, "archives what is committed before it goes down");
            if timeout_at(end.min(Instant::now() + TELL), consensus.until_archived(last)).await.is_ok() {
                let milliseconds = begun.elapsed().as_millis() as u64;
                tracing::info!(last, milliseconds, "everything that is committed is archived");
            }
        }
        None
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
