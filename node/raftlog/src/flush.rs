//! The flush thread: the only one that writes records. It takes everything that has gathered, writes it, syncs once
//! and completes the callbacks in order; what arrives meanwhile is the next batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::LogError;
use crate::io::DirLock;
use crate::shared::{Queued, Shared, Work};
use crate::writer::Writer;

/// A batch vector that grew beyond this is given back.
const KEEP_CAPACITY: usize = 16 << 10;

pub(crate) struct FlushThread {
    pub shared: Arc<Shared>,
    pub writer: Writer,
    pub batch: Vec<Queued>,
    pub idle_delay: Duration,
    pub cache_bytes: usize,
    /// Held until nothing is written any more.
    pub lock: DirLock,
}

impl FlushThread {
    /// Runs until the log is closed or poisoned.
    pub(crate) fn run(mut self) {
        let result = catch_unwind(AssertUnwindSafe(|| self.work()));
        if let Err(error) = result.unwrap_or(Err(LogError::Panicked)) {
            self.shared.poison(&error);
            self.fail_all();
        }
        // The helper first, then the lock: another process may go on from here.
        let Self { writer, lock, .. } = self;
        drop(writer);
        drop(lock);
    }

    fn work(&mut self) -> Result<(), LogError> {
        loop {
            let needs_witness = self.writer.needs_witness();
            match self.shared.next_work(&mut self.batch, needs_witness, self.idle_delay) {
                Work::Flush { submitted, committed } => self.flush(submitted, committed.as_ref())?,
                Work::WriteIdle { committed } => self.write_idle(committed.as_ref())?,
                Work::Close { committed } => {
                    self.write_idle(committed.as_ref())?;
                    return self.writer.finish();
                }
                Work::Fail(error) => return Err(error),
            }
        }
    }

    fn flush(&mut self, submitted: u64, committed: Option<&Bytes>) -> Result<(), LogError> {
        let start = Instant::now();
        for queued in &self.batch {
            self.writer.apply(&queued.op)?;
        }
        if let Some(hint) = committed {
            self.writer.apply_committed(hint)?;
        }
        self.writer.sync()?;
        self.shared.publish(&mut self.writer, &self.batch, submitted, start.elapsed(), self.cache_bytes)?;
        for queued in &mut self.batch {
            if let Some(callback) = queued.callback.take() {
                callback(Ok(()));
            }
        }
        self.batch.clear();
        self.batch.shrink_to(KEEP_CAPACITY);
        self.retire_segments();
        Ok(())
    }

    /// The hint and the witness need no sync: if they are lost, nothing is.
    fn write_idle(&mut self, committed: Option<&Bytes>) -> Result<(), LogError> {
        if let Some(hint) = committed {
            self.writer.apply_committed(hint)?;
        }
        self.writer.write_witness()
    }

    pub(crate) fn retire_segments(&mut self) {
        let free = self.writer.free_segments();
        if !free.is_empty() {
            self.shared.forget(&free);
            self.writer.retire(free);
        }
    }

    /// Completes everything that still waits, and everything submitted up to now, with the failure. Nothing can be
    /// submitted any more.
    fn fail_all(&mut self) {
        while let Work::Fail(error) = self.shared.next_work(&mut self.batch, false, Duration::ZERO) {
            for queued in &mut self.batch {
                if let Some(callback) = queued.callback.take() {
                    let error = error.clone();
                    // One callback's panic must not cost the others their answer.
                    if catch_unwind(AssertUnwindSafe(|| callback(Err(error)))).is_err() {
                        tracing::error!("a callback of the log has panicked");
                    }
                }
            }
            if self.batch.is_empty() {
                return;
            }
            self.batch.clear();
        }
    }
}
