//! Change capture: what is sent to a sink while this member leads, and what is read by `/db/changes`.
//!
//! What is captured is part of the replicated state ([`crate::store`]); here is only who takes it. `docs/changes.md` says
//! what is promised.

mod config;
mod envelope;
mod sender;
mod sink;

pub use config::{ChangesConfig, ChangesConfigError, Destination};
pub use envelope::{Wanted, push_entry_head};
pub use sender::ChangesNumbers;

use crate::raft::Consensus;
use crate::store::{ChangesReader, Cursor, MetaError, Page};
use parking_lot::Mutex;
use sender::Sender;
use sink::{Sink, SinkError};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// Streams of `/db/changes` at once.
const STREAMS: usize = 64;
/// Of these, how many read at once.
const READING: usize = 2;
/// How many hold a page of megabytes until their client has it.
const HOLDING: usize = 2;

/// How much streams of `/db/changes` hold in memory together: a single change may have 16 MiB of values.
#[derive(Clone)]
pub struct Reads {
    /// Held while a page is read.
    pub reading: Arc<Semaphore>,
    /// Held with a large page.
    pub large: Arc<Semaphore>,
}

/// What a member does with captured changes.
pub struct Changes {
    consensus: Arc<Consensus>,
    config: Option<ChangesConfig>,
    /// Numbers of the sink.
    pub numbers: Arc<ChangesNumbers>,
    /// Room for streams.
    pub streams: Arc<Semaphore>,
    /// Room for what they hold.
    pub reads: Reads,
    end: watch::Sender<bool>,
}

/// Captured changes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadChangesError {
    /// The database could not be read.
    #[error("read captured changes: {0}")]
    Store(#[from] MetaError),
    /// The thread that reads ended.
    #[error("read captured changes: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Reads captured changes away from the threads of clients.
pub struct PageReader(Arc<Mutex<ChangesReader>>);

impl PageReader {
    /// On the store of `consensus`.
    pub fn new(consensus: &Consensus) -> Self {
        Self(Arc::new(Mutex::new(consensus.store().changes_reader())))
    }

    /// What follows `cursor`, of about `bytes` bytes; none if capture is off.
    pub async fn read(&self, cursor: Cursor, bytes: usize) -> Result<Option<Page>, ReadChangesError> {
        let reader = self.0.clone();
        Ok(tokio::task::spawn_blocking(move || reader.lock().read(cursor, bytes)).await??)
    }
}

/// Whether the sink can be used: reads its certificates, and talks to nobody.
pub fn check(config: &ChangesConfig) -> Result<(), SinkError> {
    Sink::new(config).map(drop)
}

impl Changes {
    /// Sends changes on while this member leads, if `config` says so.
    pub fn start(consensus: Arc<Consensus>, config: Option<ChangesConfig>) -> Result<Arc<Self>, SinkError> {
        let sink = config.as_ref().map(Sink::new).transpose()?;
        let numbers = Arc::<ChangesNumbers>::default();
        let changes = Arc::new(Self {
            consensus: consensus.clone(),
            config: config.clone(),
            numbers: numbers.clone(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            reads: Reads {
                reading: Arc::new(Semaphore::new(READING)),
                large: Arc::new(Semaphore::new(HOLDING)),
            },
            end: watch::Sender::new(false),
        });
        tokio::spawn(Sender::new(consensus, config, sink, numbers).run(changes.end.subscribe()));
        Ok(changes)
    }

    /// Ends streams, and sends no more.
    pub fn end(&self) {
        self.end.send_replace(true);
    }

    /// Tells when that was asked for.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.end.subscribe()
    }

    /// What `/status` tells as `cdc`; none if capture is neither on nor asked for.
    pub fn status(&self) -> Option<serde_json::Value> {
        let state = match self.consensus.store().capture() {
            Ok(state) => state,
            Err(error) => return Some(serde_json::json!({ "error": error.to_string() })),
        };
        if state.is_none() && self.config.is_none() {
            return None;
        }
        let mut status = self.config.as_ref().map_or_else(|| serde_json::json!({}), ChangesConfig::status);
        status["node_id"] = self.consensus.config().name.clone().into();
        status["enabled"] = state.is_some().into();
        if let Some(state) = state {
            status["table_filter"] = state.settings.table_filter.clone().into();
            status["row_ids_only"] = state.settings.row_ids_only.into();
            status["high_watermark"] = state.delivered.into();
            status["earliest"] = state.earliest().into();
            status["events"] = state.events.into();
            status["bytes"] = state.bytes.into();
            status["max_bytes"] = state.settings.max_bytes.into();
            status["lost_events"] = state.lost.into();
            status["gap"] = state.gap.map_or(
                serde_json::Value::Null,
                |gap| serde_json::json!({ "from": gap.from, "to": gap.to, "events": gap.events }),
            );
        }
        status["sink"] = self.numbers.status();
        Some(status)
    }
}
