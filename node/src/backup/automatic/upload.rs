//! Puts the database at its place at each interval, if this member leads and there is something new.

use super::config::AutoBackupConfig;
use super::place::{Place, PlaceError};
use crate::background::Background;
use crate::http::{Counter, Counters};
use crate::raft::{Consensus, RequestError};
use crate::store::{BackupFormat, BackupOptions};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// When the last copy of the database left this member.
#[derive(Debug, Default)]
pub struct LastBackup(Mutex<Option<jiff::Timestamp>>);

impl LastBackup {
    /// Now.
    pub fn is_now(&self) {
        *self.0.lock() = Some(crate::clock::now());
    }

    /// When it was.
    pub fn time(&self) -> Option<jiff::Timestamp> {
        *self.0.lock()
    }
}

/// A backup was not made.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    /// The database could not be copied.
    #[error("copy the database: {0}")]
    Copy(#[from] RequestError),
    /// The copy was not whole.
    #[error("copy the database: {0}")]
    CutShort(io::Error),
    /// It did not come to its place.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// What is there, by what this member knows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    /// In whose reign it was so: another leader may have put something else there since.
    term: u64,
    /// Time of the last write that it has, in microseconds since 1970.
    written: i64,
}

/// What became of a tick.
enum Outcome {
    Uploaded { bytes: u64, index: u64 },
    NothingNew,
    ThereAlready,
}

#[derive(Default)]
struct Status {
    known: Option<Known>,
    last_time: Option<jiff::Timestamp>,
    last_duration: Duration,
    last_index: u64,
    error: Option<String>,
}

/// Backups at an interval.
pub struct AutoBackups {
    consensus: Arc<Consensus>,
    config: AutoBackupConfig,
    place: Place,
    counters: Arc<Counters>,
    last_backup: Arc<LastBackup>,
    status: Mutex<Status>,
}

impl AutoBackups {
    /// Begins; the first is made after an interval.
    pub fn start(
        consensus: Arc<Consensus>,
        config: AutoBackupConfig,
        counters: Arc<Counters>,
        last_backup: Arc<LastBackup>,
        background: &Background,
    ) -> Result<Arc<Self>, PlaceError> {
        let place = Place::open(&config.storage)?;
        tracing::info!(to = %place, every = ?config.interval, "backing up while this member leads");
        let status = Mutex::default();
        let backups = Arc::new(Self { consensus, config, place, counters, last_backup, status });
        background.spawn(backups.clone().run());
        Ok(backups)
    }

    async fn run(self: Arc<Self>) {
        let mut ticks = interval_at(Instant::now() + self.config.interval, self.config.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.consensus.leads_by_quorum().await {
                let outcome = self.back_up().await;
                self.note(&outcome);
            }
        }
    }

    async fn back_up(&self) -> Result<Outcome, UploadError> {
        let began = Instant::now();
        let term = self.consensus.report().term;
        let applied = self.consensus.store().applied();
        // Only what changes the database has a time, the same on every member, later with each; an election has none.
        let written = applied.timestamp_us;
        let known = self.status.lock().known.filter(|known| known.term == term);
        if written == 0 || known == Some(Known { term, written }) {
            return Ok(Outcome::NothingNew);
        }
        if known.is_none() && self.is_there(written).await {
            self.status.lock().known = Some(Known { term, written });
            return Ok(Outcome::ThereAlready);
        }
        let format = BackupFormat::Binary { wal: true, vacuum: self.config.vacuum };
        let options = BackupOptions { format, compress: !self.config.no_compress };
        let mut pieces = self.consensus.copy_here(options).await?.pieces;
        let cut_short = || Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        let first = pieces.recv().await.unwrap_or_else(cut_short).map_err(UploadError::CutShort)?;
        let now = crate::clock::now();
        let stamp = self.config.timestamp.then(|| now.strftime("%Y%m%d%H%M%S").to_string());
        // What was written since may be in it: then it is made once more.
        let bytes = self.place.put(first, pieces, &written.to_string(), stamp.as_deref()).await?;
        let index = applied.log_id.map_or(0, |id| id.index);
        let mut status = self.status.lock();
        status.known = Some(Known { term, written });
        status.last_time = Some(now);
        status.last_duration = began.elapsed();
        status.last_index = index;
        Ok(Outcome::Uploaded { bytes, index })
    }

    /// Whether what is there is of the state with that last write.
    async fn is_there(&self, written: i64) -> bool {
        match self.place.stored_id().await {
            Ok(id) => id.is_some_and(|id| id == written.to_string()),
            // Credentials that only write are enough.
            Err(error) => {
                tracing::debug!(%error, "cannot look at the last backup");
                false
            }
        }
    }

    fn note(&self, outcome: &Result<Outcome, UploadError>) {
        let to = &self.place;
        match outcome {
            Ok(Outcome::Uploaded { bytes, index }) => {
                self.counters.count(Counter::UploadsOk);
                self.last_backup.is_now();
                tracing::info!(%to, bytes, index, "made an automatic backup");
            }
            Ok(Outcome::NothingNew) => self.counters.count(Counter::UploadsSkipped),
            Ok(Outcome::ThereAlready) => self.counters.count(Counter::UploadsSkippedId),
            Err(error) => {
                self.counters.count(Counter::UploadsFail);
                tracing::error!(%to, %error, "an automatic backup was not made");
            }
        }
        self.status.lock().error = outcome.as_ref().err().map(ToString::to_string);
    }

    /// For `/status`.
    pub fn report(&self) -> Value {
        let status = self.status.lock();
        let mut report = json!({
            "upload_destination": self.place.to_string(),
            "upload_interval": format!("{:?}", self.config.interval),
            "last_upload_time": status.last_time.map(|time| time.to_string()).unwrap_or_default(),
            "last_upload_duration": format!("{:?}", status.last_duration),
            "last_index": status.last_index.to_string(),
        });
        if let Some(error) = &status.error {
            report["error"] = json!(error);
        }
        report
    }
}
