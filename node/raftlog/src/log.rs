//! The handle.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::{JoinHandle, ThreadId};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::io::Io;
use crate::shared::{Op, Shared};
use crate::{LogError, OpenError, Options, OrderError, Recovered, Stats, SubmitError, open, read};

/// Called once, on the flush thread, when everything submitted up to and with this is durable, or with the failure
/// that poisoned the log (it is unknown then whether the record will be there after the next open). Callbacks come in
/// order of submission. They must be short: the next flush waits for them. They may submit, but not wait for, more.
pub type Callback = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// Largest payload of an entry, in bytes.
const MAX_PAYLOAD: usize = 1 << 30;
/// Largest vote, committed hint and log id, in bytes: every segment starts with them.
const MAX_STATE: usize = 1 << 16;

/// An open log. Clones share it; when the last one is dropped the log is closed as by [`RaftLog::close`].
///
/// Every submission changes what the getters and [`RaftLog::read`] show at once, before it is durable.
#[derive(Clone)]
pub struct RaftLog {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
}

impl RaftLog {
    /// Opens the log in `dir`, which is created if needed, and recovers what an earlier process left. What is
    /// returned is durable. Nothing but the log may live in `dir`.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it open; one for which
    /// [`OpenError::is_loss`] holds if records are lost that had been synced; else the step that failed.
    pub fn open(
        dir: impl AsRef<Path>,
        options: Options,
        io: Arc<dyn Io>,
    ) -> Result<(Self, Recovered), OpenError> {
        open::open(dir.as_ref(), options.rounded(), io)
    }

    pub(crate) fn new(shared: Arc<Shared>, flush: JoinHandle<()>) -> Self {
        let id = flush.thread().id();
        let threads = Threads { shared: shared.clone(), id, flush: Mutex::new(Some(flush)) };
        Self { shared, threads: Arc::new(threads) }
    }

    /// The last vote submitted or recovered.
    pub fn vote(&self) -> Option<Bytes> {
        self.shared.lock().state.vote.clone()
    }

    /// The last committed hint submitted or recovered.
    pub fn committed(&self) -> Option<Bytes> {
        self.shared.lock().state.committed.clone()
    }

    /// Index of the last purged entry and its log id.
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.shared.lock().state.purged.clone()
    }

    /// The first entry present.
    pub fn first_index(&self) -> Option<u64> {
        self.shared.lock().state.first_index()
    }

    /// The last entry present.
    pub fn last_index(&self) -> Option<u64> {
        self.shared.lock().state.last_index()
    }

    /// The first entry of the longest tail of the log whose payloads take at most `bytes`, at least the last entry:
    /// what to keep when everything before it is purged. Entries that are not written yet do not count.
    pub fn first_index_within(&self, bytes: u64) -> u64 {
        self.shared.lock().index.first_within(bytes)
    }

    /// Replaces the vote.
    ///
    /// # Errors
    /// [`SubmitError`]; the callback is dropped then.
    pub fn submit_vote(&self, vote: Bytes, callback: Callback) -> Result<(), SubmitError> {
        check_len(&vote, MAX_STATE)?;
        self.shared.submit(|inner| {
            inner.state.vote = Some(vote.clone());
            inner.enqueue(Op::Vote(vote), Some(callback));
            Ok(())
        })
    }

    /// Adds entries. Each index must follow the one before; behind a purge point the log goes on at the next index,
    /// and only a log that is empty and was never purged starts anywhere. Payloads are kept by reference: a slice of
    /// a large buffer keeps the buffer in memory as long as the entry is cached.
    ///
    /// # Errors
    /// [`OrderError::Gap`] if an index does not follow, else as [`RaftLog::submit_vote`]; none of the entries is
    /// recorded then, and the callback is dropped.
    pub fn append(
        &self,
        entries: impl IntoIterator<Item = (u64, Bytes)>,
        callback: Callback,
    ) -> Result<(), SubmitError> {
        // Before the lock: the iterator is the caller's code.
        let entries: Vec<_> = entries.into_iter().collect();
        self.shared.submit(|inner| {
            let (first, next) = (inner.state.first, inner.state.next);
            for (index, payload) in &entries {
                let fits = check_len(payload, MAX_PAYLOAD);
                if let Err(error) = fits.and_then(|()| Ok(inner.state.append(*index)?)) {
                    (inner.state.first, inner.state.next) = (first, next);
                    return Err(error);
                }
            }
            let mut callback = Some(callback);
            let Some(last) = entries.len().checked_sub(1) else {
                inner.enqueue(Op::Barrier, callback);
                return Ok(());
            };
            for (position, (index, payload)) in entries.into_iter().enumerate() {
                inner.cache.push(index, inner.submitted + 1, payload.clone());
                let callback = if position == last { callback.take() } else { None };
                inner.enqueue(Op::Append { index, payload }, callback);
            }
            Ok(())
        })
    }

    /// Drops the entries after `last_kept`, all of them if it is `None`. Later appends take their place.
    ///
    /// # Errors
    /// [`OrderError::TruncatesPurged`] if purged entries would have to go, else as [`RaftLog::submit_vote`].
    pub fn truncate_after(&self, last_kept: Option<u64>, callback: Callback) -> Result<(), SubmitError> {
        let next = match last_kept {
            None => 0,
            Some(last) => last.checked_add(1).ok_or(OrderError::IndexOutOfRange(last))?,
        };
        self.shared.submit(|inner| {
            inner.state.truncate(next)?;
            inner.cache.truncate(next);
            inner.enqueue(Op::Truncate { next }, Some(callback));
            Ok(())
        })
    }

    /// Drops the entries up to and with `upto`, whose opaque log id is kept. Beyond the last entry it empties the
    /// log, which goes on at `upto + 1`: a snapshot was installed. The purge point never moves back: a lower `upto`
    /// changes nothing and succeeds.
    ///
    /// # Errors
    /// As [`RaftLog::submit_vote`].
    pub fn purge(&self, upto: u64, id: Bytes, callback: Callback) -> Result<(), SubmitError> {
        check_len(&id, MAX_STATE)?;
        self.shared.submit(|inner| {
            if !inner.state.would_purge(upto) {
                inner.enqueue(Op::Barrier, Some(callback));
                return Ok(());
            }
            inner.state.purge(upto, id.clone())?;
            inner.cache.purge(inner.state.first);
            inner.enqueue(Op::Purge { upto, id }, Some(callback));
            Ok(())
        })
    }

    /// Replaces the committed hint. It is written with the next batch, or without a sync when the log is idle; after
    /// a crash an older one may be found.
    ///
    /// # Errors
    /// As [`RaftLog::submit_vote`].
    pub fn submit_committed(&self, hint: Bytes) -> Result<(), SubmitError> {
        check_len(&hint, MAX_STATE)?;
        self.shared.submit_committed(hint)
    }

    /// The entries of `range` that are present, in order, until their payloads exceed `max_bytes`; at least one
    /// unless none is present. Entries that are not durable yet are included. Reading blocks on the disk if the
    /// payloads are not in memory any more, and goes on working when the log is poisoned or closed.
    ///
    /// # Errors
    /// `InvalidData` if a payload on disk is not what was written; else whatever the file system reports.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        read::read(&self.shared, range, max_bytes)
    }

    /// The failure that poisoned the log, if it is poisoned.
    pub fn poisoned(&self) -> Option<LogError> {
        self.shared.failure()
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Stats {
        let inner = self.shared.lock();
        Stats {
            segments: inner.segments.len(),
            segment_bytes: inner.segments.iter().map(|segment| segment.len).sum(),
            cached_bytes: inner.cache.bytes(),
            indexed_entries: inner.index.len(),
            queued_records: inner.queue.len(),
            ..inner.stats
        }
    }

    /// Writes and syncs everything submitted, completes all callbacks, ends the threads and releases the lock of the
    /// directory. Called from a callback it does not wait for that.
    ///
    /// # Errors
    /// The failure that poisoned the log.
    pub fn close(&self) -> Result<(), LogError> {
        self.threads.stop();
        self.shared.failure().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for RaftLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.shared.lock();
        f.debug_struct("RaftLog")
            .field("first_index", &inner.state.first_index())
            .field("last_index", &inner.state.last_index())
            .finish_non_exhaustive()
    }
}

/// Ends the threads when the last handle goes.
struct Threads {
    shared: Arc<Shared>,
    id: ThreadId,
    flush: Mutex<Option<JoinHandle<()>>>,
}

impl Threads {
    fn stop(&self) {
        self.shared.close();
        // The last handle may die in a callback, and a thread cannot wait for itself.
        if std::thread::current().id() == self.id {
            return;
        }
        if let Some(flush) = self.flush.lock().take()
            && flush.join().is_err()
        {
            self.shared.poison(&LogError::Panicked);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

fn check_len(bytes: &Bytes, limit: usize) -> Result<(), SubmitError> {
    if bytes.len() > limit { Err(SubmitError::TooLarge { bytes: bytes.len(), limit }) } else { Ok(()) }
}
