//! Sends captured changes to the sink while this member leads, and has the members agree on what is captured.
//!
//! A new leader goes on after the last entry that all members know to be delivered (the high-water mark), so an envelope may
//! come twice and none is left out. What it sends is in the database, so a sink that is away costs no memory.

use super::config::ChangesConfig;
use super::envelope::Envelope;
use super::sink::{DeliveryError, Sink};
use super::{PageReader, ReadChangesError};
use crate::clock;
use crate::observe::Until as _;
use crate::raft::command::ChangesCommand;
use crate::raft::{Consensus, ProposeError};
use crate::store::{Cursor, Gap, Part, ReadError};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How often a member looks whether it leads.
const LOOK: Duration = Duration::from_millis(200);
/// After a failure of this member's own.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of changes that are read at once, and about the most of one envelope.
const BYTES: usize = 4 << 20;

/// Changes are not sent at the moment.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Read(#[from] ReadChangesError),
    #[error("read how changes are captured: {0}")]
    State(#[from] ReadError),
    #[error("have the members agree on changes: {0}")]
    Propose(#[from] ProposeError),
}

/// Numbers of the sink, for metrics.
#[derive(Debug, Default)]
pub struct ChangesNumbers {
    /// Changes that the sink took since the start.
    pub delivered: AtomicU64,
    /// Envelopes that it took.
    pub envelopes: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
    /// Changes that were given up after `transmit_max_retries`.
    pub given_up: AtomicU64,
    /// The time of the first entry that waits, in milliseconds since 1970; 0 if none does.
    waiting_since_ms: AtomicI64,
    trouble: Mutex<Option<String>>,
}

impl ChangesNumbers {
    /// How old the oldest change is that waits, in milliseconds.
    pub fn lag_milliseconds(&self) -> u64 {
        match self.waiting_since_ms.load(Ordering::Relaxed) {
            0 => 0,
            since => u64::try_from(clock::now_us() / 1000 - since).unwrap_or(0),
        }
    }

    /// What `/status` tells.
    pub fn status(&self) -> Value {
        let number = |n: &AtomicU64| n.load(Ordering::Relaxed);
        json!({
            "delivered_events": number(&self.delivered),
            "delivered_envelopes": number(&self.envelopes),
            "failed_attempts": number(&self.failed),
            "given_up_events": number(&self.given_up),
            "lag_milliseconds": self.lag_milliseconds(),
            "last_error": *self.trouble.lock(),
        })
    }

    fn waits_since(&self, at_ms: i64) {
        self.waiting_since_ms.store(at_ms, Ordering::Relaxed);
    }
}

/// Sends changes on.
pub struct Sender {
    consensus: Arc<Consensus>,
    config: Option<ChangesConfig>,
    sink: Option<Sink>,
    numbers: Arc<ChangesNumbers>,
}

/// How far a leader has got.
struct Progress {
    /// After what was sent last.
    cursor: Cursor,
    /// All of this entry was sent.
    done: u64,
    /// The members know of this one.
    told: u64,
    told_at: Instant,
    /// What was read and not sent.
    read: VecDeque<Part>,
    /// Since when too few entries wait for an envelope of their own.
    gathering: Option<Instant>,
}

impl Sender {
    /// Of the member of `consensus`.
    pub fn new(
        consensus: Arc<Consensus>,
        config: Option<ChangesConfig>,
        sink: Option<Sink>,
        numbers: Arc<ChangesNumbers>,
    ) -> Self {
        Self { consensus, config, sink, numbers }
    }

    /// Works until `end`.
    pub async fn run(self, mut end: watch::Receiver<bool>) {
        tokio::select! {
            () = self.work() => {}
            // The sender of `end` goes with the member.
            _ = end.until(|end| *end) => {}
        }
    }

    async fn work(&self) {
        loop {
            if self.consensus.is_leader() && self.consensus.leads_by_quorum().await {
                if let Err(error) = self.lead().await {
                    tracing::warn!(%error, "changes are not sent; trying again");
                    sleep(AGAIN).await;
                }
                self.numbers.waits_since(0);
            }
            sleep(LOOK).await;
        }
    }

    /// Sends changes for as long as this member leads.
    async fn lead(&self) -> Result<(), SendError> {
        self.agree().await?;
        match (&self.config, &self.sink) {
            (Some(config), Some(sink)) if sink.is_there() => self.send(config, sink).await,
            _ => {
                while self.consensus.is_leader() {
                    sleep(LOOK).await;
                }
                Ok(())
            }
        }
    }

    /// Has the members capture what this leader was configured to.
    async fn agree(&self) -> Result<(), SendError> {
        let present = self.consensus.store().capture()?;
        let command = match (&self.config, present) {
            (None, None) => return Ok(()),
            (None, Some(_)) => ChangesCommand::Off,
            (Some(config), Some(state)) if state.settings == config.settings => return Ok(()),
            (Some(config), _) => ChangesCommand::On(config.settings.clone()),
        };
        let index = self.consensus.proposer().propose_changes(&command).await?;
        tracing::info!(index, ?command, "change capture is set");
        Ok(())
    }

    async fn send(&self, config: &ChangesConfig, sink: &Sink) -> Result<(), SendError> {
        let Some(state) = self.consensus.store().capture()? else { return Ok(()) };
        let mut news = self.consensus.store().state();
        let reader = PageReader::new(&self.consensus);
        let mut progress = Progress {
            cursor: Cursor::after_entry(state.delivered),
            done: state.delivered,
            told: state.delivered,
            told_at: Instant::now(),
            read: VecDeque::new(),
            gathering: None,
        };
        while self.consensus.is_leader() {
            self.tell(config, &mut progress).await?;
            if !progress.has_full_envelope(config) {
                news.mark_unchanged();
                let Some(page) = reader.read(progress.cursor, BYTES).await? else { return Ok(()) };
                let gap = page.state.gap.filter(|gap| Cursor::after_entry(gap.to) > progress.cursor);
                if let Some(gap) = gap {
                    if !self.send_gap(config, sink, &gap).await {
                        return Ok(());
                    }
                    progress.cursor = Cursor::after_entry(gap.to);
                    progress.done = gap.to;
                    continue;
                }
                progress.read = page.parts.into();
                let waiting = progress.read.front().map_or(0, |part| part.at_ms);
                self.numbers.waits_since(waiting);
                let patience = progress.patience(config, page.is_full);
                if let Some(patience) = patience {
                    // An end of the channel is the end of the store.
                    if let Ok(Err(_)) = timeout(patience, news.changed()).await {
                        return Ok(());
                    }
                    continue;
                }
            }
            if !self.send_one(config, sink, &mut progress).await {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tells the members how far the sink is, if that is due.
    async fn tell(&self, config: &ChangesConfig, progress: &mut Progress) -> Result<(), SendError> {
        if progress.done > progress.told && progress.told_at.elapsed() >= config.high_watermark_interval {
            let entry = progress.done;
            match self.consensus.proposer().propose_changes(&ChangesCommand::Delivered { entry }).await {
                Ok(_) => progress.told = entry,
                // Noticed by the caller, or told again.
                Err(ProposeError::NotLeader | ProposeError::OutcomeUnknown) => {}
                Err(error) => return Err(error.into()),
            }
            progress.told_at = Instant::now();
        }
        Ok(())
    }

    async fn send_gap(&self, config: &ChangesConfig, sink: &Sink, gap: &Gap) -> bool {
        tracing::error!(
            gap.from,
            gap.to,
            gap.events,
            "changes are lost: the sink was away for longer than max_bytes allows"
        );
        self.numbers.waits_since(gap.at_ms);
        let mut envelope = Envelope::new(&config.service_id, &self.consensus.config().name);
        envelope.push_gap(gap);
        self.deliver(config, sink, 0, envelope.finish().into()).await
    }

    /// Sends an envelope of what was read; returns false once this member does not lead any more.
    async fn send_one(&self, config: &ChangesConfig, sink: &Sink, progress: &mut Progress) -> bool {
        let mut envelope = Envelope::new(&config.service_id, &self.consensus.config().name);
        let (mut cursor, mut done, mut entry) = (progress.cursor, progress.done, None);
        while let Some(part) = progress.read.front() {
            let is_new = entry != Some(part.cursor.entry());
            if envelope.size() >= BYTES || (is_new && envelope.entries() >= config.max_batch_size) {
                break;
            }
            envelope.push(part);
            (cursor, entry) = (part.cursor, Some(part.cursor.entry()));
            if !part.more {
                done = part.cursor.entry();
            }
            progress.read.pop_front();
        }
        let events = envelope.events;
        if !self.deliver(config, sink, events, envelope.finish().into()).await {
            return false;
        }
        (progress.cursor, progress.done) = (cursor, done);
        if let Some(next) = progress.read.front() {
            self.numbers.waits_since(next.at_ms);
        }
        true
    }

    /// Delivers an envelope, however often that takes; returns false once this member does not lead any more.
    async fn deliver(&self, config: &ChangesConfig, sink: &Sink, events: u64, envelope: Bytes) -> bool {
        let mut attempt = 0;
        loop {
            match sink.deliver(&envelope).await {
                Ok(()) => {
                    self.numbers.delivered.fetch_add(events, Ordering::Relaxed);
                    self.numbers.envelopes.fetch_add(1, Ordering::Relaxed);
                    if self.numbers.trouble.lock().take().is_some() {
                        tracing::info!("the sink of changes takes them again");
                    }
                    return true;
                }
                Err(error) => self.failed(&error),
            }
            attempt += 1;
            if config.transmit_max_retries.is_some_and(|most| attempt > most) {
                self.numbers.given_up.fetch_add(events, Ordering::Relaxed);
                tracing::error!(events, "changes are given up after transmit_max_retries");
                return true;
            }
            let until = Instant::now() + config.backoff(attempt);
            while Instant::now() < until {
                if !self.consensus.is_leader() {
                    return false;
                }
                sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
            }
            if !self.consensus.is_leader() {
                return false;
            }
        }
    }

    fn failed(&self, error: &DeliveryError) {
        self.numbers.failed.fetch_add(1, Ordering::Relaxed);
        let error = error.to_string();
        let before = self.numbers.trouble.lock().replace(error.clone());
        if before.as_ref() != Some(&error) {
            tracing::warn!(error, "the sink does not take changes; trying again");
        }
    }
}

impl Progress {
    /// Whether as many entries are here as an envelope may hold. What is left of a page waits for more as a whole page does.
    fn has_full_envelope(&self, config: &ChangesConfig) -> bool {
        let whole = self.read.iter().filter(|part| !part.more);
        whole.take(config.max_batch_size).count() == config.max_batch_size
    }

    /// How long to wait for more before the next envelope; none: send it.
    fn patience(&mut self, config: &ChangesConfig, is_full: bool) -> Option<Duration> {
        let interval = config.high_watermark_interval.max(Duration::from_millis(1));
        if self.read.is_empty() {
            self.gathering = None;
            let is_told = self.told >= self.done;
            return Some(if is_told { LOOK } else { interval.min(LOOK) });
        }
        let waited = self.gathering.get_or_insert_with(Instant::now).elapsed();
        if is_full || self.has_full_envelope(config) || waited >= config.max_batch_delay {
            self.gathering = None;
            return None;
        }
        Some(config.max_batch_delay - waited)
    }
}
