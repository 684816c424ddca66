//! Reads the pages of the database as they are on disk: after the start to learn their hashes, and then once in a while
//! to notice what was changed there behind SQLite's back.
//!
//! Pages are read in ranges, each in a read transaction of its own, so that none holds up checkpoints for long; between
//! two of them the thread rests. What is in the operating system's cache is read from there: damage under it shows when
//! it has gone from the cache.

use super::apply::LocalFailure;
use super::damage::tells_of_damage;
use super::generation::Generations;
use super::pages::{self, Pages};
use super::writer::Writer;
use crate::observe::Observe as _;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Bytes read in one transaction.
const RANGE: u64 = 32 << 20;
/// How many times as long as the reading of a range the rest after it is; shorter until all pages are known.
const REST: u32 = 9;
/// When a round that failed is tried again while pages are not known.
const RETRY: Duration = Duration::from_secs(10);

/// Why the thread is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The database is another one, or its pages are not known any more.
    Anew,
    /// A query met what looks like damage.
    Suspicion,
}

/// By which queries tell that they met what looks like damage. Nobody acts on that alone, for a query may be made to look
/// so: all pages are read, and what is found counts.
#[derive(Clone, Debug)]
pub struct Suspicion {
    wake: Sender<Wake>,
    owed: Owed,
}

/// Whether a round is owed for what queries met. Who reads the pages knows of that alone: with a sender of its own it would
/// never hear that all others are gone, and outlive the store.
#[derive(Clone, Debug, Default)]
pub struct Owed(Arc<AtomicBool>);

impl Suspicion {
    /// Told to whoever receives from `wake`.
    pub fn new(wake: Sender<Wake>) -> Self {
        Self { wake, owed: Owed::default() }
    }

    /// What is owed for all that is told by this.
    pub fn owed(&self) -> Owed {
        self.owed.clone()
    }

    /// Tells of `error`, if it is one that damage causes.
    pub fn look_at(&self, error: &rusqlite::Error) {
        if !tells_of_damage(error) || self.owed.0.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(%error, "a query met what looks like damage; all pages are read");
        if self.wake.send(Wake::Suspicion).is_err() {
            tracing::warn!("nothing reads the pages any more: what a query met is not looked at");
        }
    }
}

impl Owed {
    fn is_some(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// A round begins: what is met from now on is owed another one.
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// The thread's state.
pub struct Scrub {
    pages: Arc<Pages>,
    writer: Writer,
    generations: Generations,
    period: Duration,
    wake: Receiver<Wake>,
    owed: Owed,
}

/// A connection whose read transaction is on a state between two entries.
pub struct PinnedRange {
    connection: Connection,
    database: u64,
    size: u32,
}

impl PinnedRange {
    /// Opens the database at `path`.
    pub fn open(path: &Path) -> Result<Connection, LocalFailure> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection
                .execute_batch("PRAGMA cache_size=-1024; PRAGMA mmap_size=0; PRAGMA busy_timeout=5000")?;
            Ok(connection)
        };
        open().map_err(|source| LocalFailure::Sqlite { what: "open the database to check it", source })
    }

    /// Pins the present state. Called by the writer, between two entries.
    pub fn pin(connection: Connection, pages: &Pages) -> Result<Self, LocalFailure> {
        connection
            .execute_batch("BEGIN; SELECT 1 FROM sqlite_schema LIMIT 1")
            .map_err(|source| LocalFailure::Sqlite { what: "pin the pages to check", source })?;
        let (database, size) = pages.begin_range();
        Ok(Self { connection, database, size })
    }

    /// Reads pages from `first` on; returns the page after the last one read, or none at the end.
    fn read(&self, first: u32, pages: &Pages) -> Result<Option<u32>, LocalFailure> {
        let sqlite = |source| LocalFailure::Sqlite { what: "read pages to check them", source };
        let page_size: i64 =
            self.connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(sqlite)?;
        let page_size = page_size as usize;
        let end = first.saturating_add((RANGE / page_size as u64) as u32).min(self.size + 1);
        let sql = "SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1";
        let mut statement = self.connection.prepare(sql).map_err(sqlite)?;
        for page in first..end {
            if page == pages::lock_byte_page(page_size) {
                continue;
            }
            let hash = statement
                .query_row([page], |row| Ok(row.get_ref(0)?.as_blob().map(|data| pages::hash(page, data))?))
                .map_err(|source| {
                    if tells_of_damage(&source) {
                        pages.unreadable(self.database, page);
                    }
                    pages.end_range(self.database, false);
                    sqlite(source)
                })?;
            if !pages.read(self.database, page, hash) {
                break;
            }
        }
        let all = end > self.size;
        pages.end_range(self.database, all);
        Ok((!all).then_some(end))
    }
}

impl Scrub {
    /// Of `pages`, the hashes of the database that `writer` writes; reads all of it once each `period`.
    pub fn new(
        pages: Arc<Pages>,
        writer: Writer,
        generations: Generations,
        period: Duration,
        (wake, owed): (Receiver<Wake>, Owed),
    ) -> Self {
        Self { pages, writer, generations, period, wake, owed }
    }

    /// Runs until the store is closed.
    pub fn run(self) {
        loop {
            let began = Instant::now();
            let is_suspected = self.owed.take();
            match self.round(is_suspected) {
                Ok(true) => tracing::debug!(took = ?began.elapsed(), "read all pages"),
                Ok(false) => continue,
                // What it tells of the file is noted where it was met; anything else may be gone at the next round.
                Err(error) => tracing::warn!(%error, "reading the pages to check them failed"),
            }
            let period = if self.pages.is_complete() { self.period } else { self.period.min(RETRY) };
            if !self.await_next(began, period) {
                return;
            }
        }
    }

    /// Waits for the next round, `period` after the last one `began`, or sooner if there is a reason; false if the store is
    /// closed.
    fn await_next(&self, began: Instant, mut period: Duration) -> bool {
        // Whoever asks again and again for what looks damaged does not have pages read all the time.
        let soonest = (began.elapsed() * (REST + 1)).max(RETRY);
        if self.owed.is_some() {
            period = period.min(soonest);
        }
        loop {
            match self.wake.recv_timeout(period.saturating_sub(began.elapsed())) {
                Ok(Wake::Suspicion) => period = period.min(soonest),
                Ok(Wake::Anew) | Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Pins a range of the present database, which is `generation`; none if that is another one by now.
    fn pin(&self, generation: u64) -> Result<Option<PinnedRange>, LocalFailure> {
        let database = self.pages.database();
        let pin = || {
            let connection = PinnedRange::open(&self.generations.path(generation))?;
            self.writer.pin_range(connection, generation)
        };
        match pin() {
            // Another database took its place before it was open, and the file is gone.
            Err(_) if self.writer.state().observe(|state| state.generation) != generation => Ok(None),
            Err(error) => {
                if error.is_damage() {
                    self.pages.unreadable(database, 1);
                }
                Err(error)
            }
            pinned => pinned,
        }
    }

    /// Reads all pages once, in haste if one of them `is_suspected`; false if it has to begin anew. An error ends the round,
    /// and the next one comes in time.
    fn round(&self, is_suspected: bool) -> Result<bool, LocalFailure> {
        let mut first = 1;
        loop {
            let began = Instant::now();
            let generation = self.writer.state().observe(|state| state.generation);
            let Some(pinned) = self.pin(generation)? else { return Ok(false) };
            let next = pinned.read(first, &self.pages)?;
            drop(pinned);
            let Some(next) = next else { return Ok(true) };
            first = next;
            let rest = match self.pages.is_complete() {
                true if is_suspected => 1,
                true => REST,
                // Where pages are read only once nobody is served meanwhile, and somebody waits for it.
                false if self.period == Duration::MAX => 0,
                false => 1,
            };
            match self.wake.recv_timeout(began.elapsed() * rest) {
                Ok(Wake::Anew) => return Ok(false),
                // Where it was met may have been read already: in haste, from the beginning.
                Ok(Wake::Suspicion) if !is_suspected => return Ok(false),
                // It is noted, and owed a round after this one.
                Ok(Wake::Suspicion) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(true),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Store;
    use super::*;

    #[test]
    fn the_thread_ends_with_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), false, Duration::MAX).unwrap();
        let pages = Arc::downgrade(&store.pages);
        futures::executor::block_on(store.close()).unwrap();
        drop(store);
        let begun = Instant::now();
        while pages.upgrade().is_some() {
            assert!(begun.elapsed() < Duration::from_secs(10), "something still holds the pages");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}
