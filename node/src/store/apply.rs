//! Applies entries of the log: one entry is one SQLite transaction, on every replica.
//!
//! Statements of different requests of an entry share the transaction but not their fate: a statement that fails is
//! undone alone (SQLite's own statement rollback), a request with `transaction` is undone whole (a savepoint). Some
//! failures end the whole transaction inside SQLite (`ON CONFLICT ROLLBACK`, `RAISE(ROLLBACK)`). Then the entry is
//! replayed from its start with the failed statement left out and its error recorded; seeds are per statement, so that
//! the others see the same as before.

use super::encode::{self, Bounded, Sink as _, Style};
use super::entry_functions::{self, EntryRandom};
use super::entry_vfs::{self, EntryVfs};
use super::execute::{Mode, StatementError, run_statement};
use super::guard::{Guard, Purpose};
use super::meta::{self, Applied, LogId, MetaError, StoredMembership};
use crate::failpoint::{Place, pass};
use crate::raft::command::{CommandView, Malformed, RequestFlags, RequestView};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an entry holds, free of any Raft library's types.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Nothing: a new leader's first entry, a barrier.
    Blank,
    /// A [`crate::raft::command`].
    Command(Bytes),
    /// A membership.
    Membership {
        /// Encoded by the Raft layer.
        bytes: Vec<u8>,
        /// Of which cluster; the same on every member.
        cluster_id: String,
        /// The cluster's epoch.
        epoch: u64,
    },
}

/// A committed entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its position.
    pub log_id: LogId,
    /// What it holds.
    pub payload: Payload,
    /// Whether somebody here waits for the results.
    pub wants_reply: bool,
}

/// Results of an entry's requests, each the inside of a JSON array `results`; empty if nobody asked.
pub type Reply = Vec<Bytes>;

/// This replica cannot go on: what happened is not part of the replicated state. The node stops, and another one
/// serves. Never a result that a client sees.
#[derive(Debug, thiserror::Error)]
pub enum LocalFailure {
    /// SQLite reported an error that other replicas need not have.
    #[error("{what}: {source}")]
    Sqlite {
        /// What was being done.
        what: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The internal table could not be read or written.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The entry's bytes make no sense.
    #[error("entry {index}: {source}")]
    Malformed {
        /// Index of the entry.
        index: u64,
        /// What is wrong.
        source: Malformed,
    },
    /// A file could not be read, written or synced.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The thread that does it ended.
    #[error("{0} has stopped")]
    Stopped(&'static str),
}

impl LocalFailure {
    /// Whether the cause is that the disk has no room left.
    pub fn is_full_disk(&self) -> bool {
        let full = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::DiskFull);
        match self {
            Self::Io { source, .. } | Self::Meta(MetaError::Blob(source)) => {
                matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            }
            Self::Sqlite { source, .. } | Self::Meta(MetaError::Sqlite(source)) => full(source),
            Self::Meta(_) | Self::Malformed { .. } | Self::Stopped(_) => false,
        }
    }
}

/// Largest reply of one request that is kept in memory; the change itself is not affected.
const REPLY_LIMIT: usize = 64 << 20;

/// The writer's connection and what belongs to it.
pub struct Applier {
    connection: Connection,
    // After the connection: it must outlive it.
    vfs: EntryVfs,
    random: EntryRandom,
    guard: Guard,
    applied: Applied,
    membership: StoredMembership,
    foreign_keys: bool,
    /// Pages in the WAL after the last commit.
    wal_pages: Arc<AtomicU64>,
}

struct Failed {
    at: (u32, u32, u32),
    message: String,
}

enum Attempt {
    Finished(Reply),
    /// SQLite ended the transaction at this statement.
    Ended(Failed),
}

impl Applier {
    /// Opens the database at `path`, which must hold the internal table.
    pub fn open(path: &Path, vfs: EntryVfs, foreign_keys: bool) -> Result<Self, LocalFailure> {
        let sqlite = |what| move |source| LocalFailure::Sqlite { what, source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags_and_vfs(path, flags, vfs.name())
            .map_err(sqlite("open the database for writing"))?;
        // Any real time will do: 0 would mean "no time" to SQLite.
        vfs.set_time(0);
        configure_writer(&connection, foreign_keys).map_err(sqlite("configure the writer"))?;
        let meta = meta::read(&connection)?.ok_or(MetaError::Format("it is missing"))?;
        let random = EntryRandom::default();
        random.install(&connection).map_err(sqlite("install functions"))?;
        entry_functions::install_math(&connection).map_err(sqlite("install functions"))?;
        let guard =
            Guard::install(&mut connection, Purpose::Write).map_err(sqlite("install the authorizer"))?;
        let wal_pages = Arc::new(AtomicU64::new(0));
        let pages = wal_pages.clone();
        connection
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, n: std::ffi::c_int| {
                pages.store(n.max(0) as u64, Ordering::Relaxed);
                Ok(())
            }))
            .map_err(sqlite("install the WAL hook"))?;
        entry_vfs::set_last_insert_rowid(&connection, meta.applied.last_insert_rowid);
        let (applied, membership) = (meta.applied, meta.membership);
        Ok(Self { connection, vfs, random, guard, applied, membership, foreign_keys, wal_pages })
    }

    /// What has been applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The last membership applied.
    pub fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    /// Pages in the WAL after the last commit.
    pub fn wal_pages(&self) -> u64 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// The connection, for checkpoints.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Gives the VFS back, for the next generation of the database.
    pub fn close(self) -> (EntryVfs, Result<(), LocalFailure>) {
        let closed = self.connection.close();
        let what = "close the database";
        (self.vfs, closed.map_err(|(_, source)| LocalFailure::Sqlite { what, source }))
    }

    /// Applies one entry; one that has been applied before changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> Result<Reply, LocalFailure> {
        if self.applied.log_id.is_some_and(|last| entry.log_id.index <= last.index) {
            return Ok(Reply::new());
        }
        match &entry.payload {
            Payload::Blank => {
                self.begin()?;
                self.commit(entry.log_id)?;
                Ok(Reply::new())
            }
            Payload::Membership { bytes, cluster_id, epoch } => {
                let membership = StoredMembership { log_id: Some(entry.log_id), bytes: bytes.clone() };
                self.begin()?;
                meta::write_membership(&self.connection, &membership)?;
                meta::write_cluster(&self.connection, cluster_id, *epoch)?;
                self.commit(entry.log_id)?;
                self.membership = membership;
                Ok(Reply::new())
            }
            Payload::Command(bytes) => self.apply_command(entry, bytes),
        }
    }

    fn apply_command(&mut self, entry: &Entry, bytes: &[u8]) -> Result<Reply, LocalFailure> {
        let malformed = |source| LocalFailure::Malformed { index: entry.log_id.index, source };
        let command = CommandView::parse(bytes).map_err(malformed)?;
        // Entry time never stands still or goes back, whichever leader's clock it came from.
        let time = command.context.timestamp_us.max(self.applied.timestamp_us.saturating_add(1));
        self.vfs.set_time(time);
        let mut failed = Vec::new();
        loop {
            self.begin()?;
            match self.attempt(entry, &command, &failed)? {
                Attempt::Finished(reply) => {
                    self.applied.timestamp_us = time;
                    self.commit(entry.log_id)?;
                    return Ok(reply);
                }
                Attempt::Ended(failure) => failed.push(failure),
            }
        }
    }

    fn attempt(
        &self,
        entry: &Entry,
        command: &CommandView<'_>,
        failed: &[Failed],
    ) -> Result<Attempt, LocalFailure> {
        let malformed = |source| LocalFailure::Malformed { index: entry.log_id.index, source };
        let mut reply = Reply::new();
        for (number, request) in command.requests().enumerate() {
            let request = request.map_err(malformed)?;
            let mut sink = Bounded::new(REPLY_LIMIT);
            let mut run =
                RequestRun { applier: self, entry, number: number as u32, request: &request, failed };
            if let Some(failure) = run.run(command.context.seed, &mut sink)? {
                return Ok(Attempt::Ended(failure));
            }
            if entry.wants_reply {
                reply.push(sink.into_bytes().into());
            }
        }
        Ok(Attempt::Finished(reply))
    }

    fn begin(&self) -> Result<(), LocalFailure> {
        self.control("BEGIN IMMEDIATE", "begin the entry's transaction")
    }

    fn commit(&mut self, log_id: LogId) -> Result<(), LocalFailure> {
        self.applied.log_id = Some(log_id);
        self.applied.last_insert_rowid = self.connection.last_insert_rowid();
        self.applied.changes = self.connection.changes() as i64;
        self.applied.total_changes = self.connection.total_changes() as i64;
        meta::write_applied(&self.connection, &self.applied)?;
        pass(Place::ApplyRan).map_err(|source| LocalFailure::Io { what: "apply an entry", source })?;
        self.control("COMMIT", "commit the entry's transaction")
    }

    /// Runs a statement of the applier's own, outside the guard.
    fn control(&self, sql: &str, what: &'static str) -> Result<(), LocalFailure> {
        let run = || self.connection.prepare_cached(sql)?.raw_execute();
        run().map(drop).map_err(|source| LocalFailure::Sqlite { what, source })
    }
}

/// One request of an entry.
struct RequestRun<'a> {
    applier: &'a Applier,
    entry: &'a Entry,
    number: u32,
    request: &'a RequestView<'a>,
    failed: &'a [Failed],
}

impl RequestRun<'_> {
    /// Runs the statements; returns the statement at which SQLite ended the whole transaction, if one did.
    fn run(&mut self, entry_seed: u64, sink: &mut Bounded) -> Result<Option<Failed>, LocalFailure> {
        let malformed = |source| LocalFailure::Malformed { index: self.entry.log_id.index, source };
        let all_or_nothing = self.request.flags.has(RequestFlags::TRANSACTION);
        let unified = self.request.flags.has(RequestFlags::UNIFIED);
        let style = Style::from(self.request.flags);
        let connection = &self.applier.connection;
        if all_or_nothing {
            self.applier.control("SAVEPOINT request", "begin a request")?;
        }
        let mut aborted = false;
        let mut statements = self.request.statements();
        let mut number = 0;
        while let Some(view) = statements.next().map_err(malformed)? {
            let full_before = entry_vfs::full_writes();
            self.applier.random.seed(entry_seed, self.number, number);
            let skip = self
                .failed
                .iter()
                .find(|f| (f.at.0, f.at.1) == (self.number, number))
                .map(|f| (f.at.2, f.message.as_str()));
            // A deferred foreign key is checked when the client's statement would have committed.
            let deferred = self.applier.foreign_keys && !all_or_nothing;
            if deferred {
                self.applier.control("SAVEPOINT statement", "begin a statement")?;
            }
            let mark = sink.buffer().len();
            let mode = if unified { Mode::Unified } else { Mode::Execute };
            let outcome = run_statement(connection, &self.applier.guard, &view, mode, style, sink, skip);
            if connection.is_autocommit() {
                return self.transaction_ended(outcome, number, full_before).map(Some);
            }
            let mut message = self.judge(outcome, full_before)?;
            if deferred {
                if message.is_none() && entry_vfs::has_deferred_violations(connection) {
                    self.applier.control("ROLLBACK TO statement", "undo a statement")?;
                    sink.buffer().truncate(mark);
                    message = Some(FOREIGN_KEY_FAILED.into());
                }
                self.applier.control("RELEASE statement", "end a statement")?;
            }
            if let Some(message) = message {
                encode::write_error(sink.buffer(), &message, false);
                if all_or_nothing {
                    aborted = true;
                    break;
                }
            }
            number += 1;
        }
        if all_or_nothing {
            if !aborted && self.applier.foreign_keys && entry_vfs::has_deferred_violations(connection) {
                encode::write_error(sink.buffer(), FOREIGN_KEY_FAILED, false);
                aborted = true;
            }
            if aborted {
                self.applier.control("ROLLBACK TO request", "undo a request")?;
            }
            self.applier.control("RELEASE request", "end a request")?;
        }
        Ok(None)
    }

    /// The message for the client, if the statement failed; an error of this replica alone is an `Err`.
    fn judge(
        &self,
        outcome: Result<(), StatementError>,
        full_before: u64,
    ) -> Result<Option<String>, LocalFailure> {
        let Err(error) = outcome else { return Ok(None) };
        let message = error.text(&self.applier.guard);
        match error {
            StatementError::Malformed(source) => {
                Err(LocalFailure::Malformed { index: self.entry.log_id.index, source })
            }
            StatementError::Sqlite { error, reported, .. } => {
                replicated(error, full_before)?;
                Ok((!reported).then_some(message))
            }
            StatementError::Refused(_) | StatementError::Stopped => Ok(Some(message)),
        }
    }

    fn transaction_ended(
        &self,
        outcome: Result<(), StatementError>,
        statement: u32,
        full_before: u64,
    ) -> Result<Failed, LocalFailure> {
        match outcome {
            Err(StatementError::Sqlite { sub, error, .. }) => {
                let error = replicated(error, full_before)?;
                Ok(Failed { at: (self.number, statement, sub), message: encode::error_text(&error) })
            }
            _ => {
                let what = "SQLite ended the transaction without an error";
                let source = rusqlite::Error::InvalidQuery;
                Err(LocalFailure::Sqlite { what, source })
            }
        }
    }
}

const FOREIGN_KEY_FAILED: &str = "FOREIGN KEY constraint failed";

/// Passes on an error that every replica meets alike; one that is this replica's misfortune becomes an `Err`.
fn replicated(error: rusqlite::Error, full_before: u64) -> Result<rusqlite::Error, LocalFailure> {
    let local = match error.sqlite_error_code() {
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::NotADatabase
            | ErrorCode::CannotOpen
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied,
        ) => true,
        // A damaged virtual table (FTS index) is damaged everywhere; a damaged database is not.
        Some(ErrorCode::DatabaseCorrupt) => {
            error.sqlite_error().is_none_or(|e| e.extended_code != rusqlite::ffi::SQLITE_CORRUPT_VTAB)
        }
        // Also the answer to an exhausted AUTOINCREMENT, which is everywhere the same.
        Some(ErrorCode::DiskFull) => entry_vfs::full_writes() != full_before,
        _ => false,
    };
    if local { Err(LocalFailure::Sqlite { what: "apply an entry", source: error }) } else { Ok(error) }
}

/// Settings of the writer's connection; see `docs/design.md` for why each.
fn configure_writer(connection: &Connection, foreign_keys: bool) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(256);
    let foreign_keys = if foreign_keys { "ON" } else { "OFF" };
    connection.execute_batch(&format!(
        "PRAGMA locking_mode=NORMAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;
         PRAGMA secure_delete=FAST; PRAGMA foreign_keys={foreign_keys}; PRAGMA mmap_size=0; PRAGMA busy_timeout=5000;
         PRAGMA temp_store=DEFAULT; PRAGMA journal_size_limit=67108864;"
    ))
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
