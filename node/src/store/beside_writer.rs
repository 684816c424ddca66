//! The thread beside the writer: the bulk of checkpoints, and the WAL brought to the disk as it grows.

use super::apply::LocalFailure;
use super::checkpoint;
use super::checkpoint_schedule::Urgency;
use super::read_gate::Closed;
use super::reader::ReadPool;
use super::staging::Staging;
use super::writer::Job;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// What is done beside the writer for the database at this path.
pub enum Order {
    /// The bulk of a checkpoint.
    Checkpoint { path: PathBuf, urgency: Urgency },
    /// What is new in the WAL is brought to the disk.
    Flush { path: PathBuf },
}

/// Works beside the writer.
pub struct BesideWriter {
    pub orders: mpsc::Receiver<Order>,
    pub writer: mpsc::Sender<Job>,
    pub staging: Staging,
    pub readers: Arc<ReadPool>,
    /// Whether an order to flush waits.
    pub flushing: Arc<AtomicBool>,
}

impl BesideWriter {
    /// Does what is ordered, until the writer is gone.
    pub fn run(&self) {
        while let Ok(order) = self.orders.recv() {
            let job = match order {
                Order::Checkpoint { path, urgency } => {
                    let bulk = self.checkpoint(&path, urgency);
                    Job::FinishCheckpoint { path, bulk }
                }
                Order::Flush { path } => {
                    // What is written from now on is asked for once more.
                    self.flushing.store(false, Ordering::Release);
                    // Whoever syncs the WAL next would not be told any more, and write pages into the database that the WAL
                    // on the disk lacks.
                    match checkpoint::flush_wal(&path) {
                        Ok(()) => continue,
                        Err(error) => Job::CannotFlush { error },
                    }
                }
            };
            if self.writer.send(job).is_err() {
                return;
            }
        }
    }

    /// The bulk of a checkpoint of the database at `path`. If it is insisted on, no query begins until what it returns is
    /// dropped.
    fn checkpoint(&self, path: &Path, urgency: Urgency) -> Result<Option<Closed>, LocalFailure> {
        let what = "make a staged database a file of its own";
        let io = |source| LocalFailure::Io { what, source };
        if !self.staging.unshare(path, urgency.waits).map_err(io)? {
            // At the next checkpoint then.
            return Ok(None);
        }
        checkpoint::bulk(path)?;
        if !urgency.insists {
            return Ok(None);
        }
        let (quiet, ended) = self.readers.quiesce();
        if ended > 0 {
            tracing::info!(ended, "queries had to give way to a checkpoint: none was complete before");
        }
        checkpoint::bulk(path)?;
        Ok(Some(quiet))
    }
}
