//! Applies entries of the log: one entry is one SQLite transaction, on every replica.
//!
//! Statements of different requests of an entry share the transaction but not their fate: a statement that fails is
//! undone alone (SQLite's own statement rollback), a request with `transaction` is undone whole (a savepoint). Some
//! failures end the whole transaction inside SQLite (`ON CONFLICT ROLLBACK`, `RAISE(ROLLBACK)`), and some statements
//! must not have happened though SQLite ran them ([`super::watched`]). Then the entry is replayed from its start with that
//! statement left out and its error recorded; seeds are per statement, so that the others see the same as before.

use super::damage::tells_of_damage;
use super::entry_run::{Attempt, Count, EntryRun, LeftOut, Muted, replicated};
use super::entry_vfs::{self, EntryVfs};
use super::extensions::{ExtensionError, ExtensionSet, Loaded, Shelf};
use super::foreign_keys::ForeignKeys;
use super::freelist::Freelist;
use super::kept_replies::{self, KeptReply};
use super::maintain;
use super::meta::{self, Applied, LogId, Maintained, MetaError, StoredMembership};
use super::pages::{Checksum, Pages};
use super::writer_connection::WriterConnection;
use super::{changes, encode, query_memory, wal_capture};
use crate::failpoint::{Place, pass};
use crate::raft::command::{ChangesCommand, CommandView, MaintenanceCommand, Malformed, RequestFlags};
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

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

impl Entry {
    /// The same position with nothing in it.
    #[must_use]
    pub fn passed_over(self) -> Self {
        Self { payload: Payload::Blank, wants_reply: false, ..self }
    }

    /// The command that it holds, if it holds one.
    pub fn command(&self) -> Result<Option<CommandView<'_>>, Malformed> {
        match &self.payload {
            Payload::Command(bytes) => CommandView::parse(bytes).map(Some),
            Payload::Blank | Payload::Membership { .. } => Ok(None),
        }
    }

    /// The same where bytes that make no sense are left to whoever applies the entry, and reports them.
    pub fn readable_command(&self) -> Option<CommandView<'_>> {
        self.command().ok().flatten()
    }
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
    /// What the state is executed by is not here.
    #[error(transparent)]
    Extensions(#[from] ExtensionError),
    /// There was no memory for SQLite while it applied an entry; what it made of that is not to be trusted.
    #[error("apply an entry: out of memory")]
    OutOfMemory,
    /// The database is a new one, in the place of a damaged one.
    #[error("the database is damaged, and another member's has not taken its place yet")]
    NoState,
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
            Self::Meta(_)
            | Self::Malformed { .. }
            | Self::Extensions(_)
            | Self::OutOfMemory
            | Self::NoState
            | Self::Stopped(_) => false,
        }
    }

    /// Whether the cause is that the database's file cannot be read, or is not what was written there.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => tells_of_damage(source),
            Self::Meta(error) => error.is_damage(),
            Self::Malformed { .. }
            | Self::Io { .. }
            | Self::Extensions(_)
            | Self::OutOfMemory
            | Self::NoState
            | Self::Stopped(_) => false,
        }
    }
}

/// The writer's connection and what belongs to it.
pub struct Applier {
    on: WriterConnection,
    // After the connection: it must outlive it.
    vfs: EntryVfs,
    path: PathBuf,
    applied: Applied,
    membership: StoredMembership,
    maintained: Maintained,
    /// Why the last entry for the database itself came to nothing.
    maintenance_error: Option<String>,
    shelf: Shelf,
    page_size: usize,
    pages: Arc<Pages>,
    /// It could not be told what a transaction changed: the pages have to be read anew.
    lost_pages: bool,
    /// How often there was no memory for SQLite before the present entry.
    memory_failures: u64,
}

impl Applier {
    /// Opens the database at `path`, which must hold the internal table. Where that says nothing of foreign keys,
    /// `foreign_keys` counts.
    pub fn open(
        path: &Path,
        vfs: EntryVfs,
        foreign_keys: bool,
        shelf: Shelf,
        pages: Arc<Pages>,
    ) -> Result<Self, LocalFailure> {
        // Any real time will do: 0 would mean "no time" to SQLite.
        vfs.set_time(0);
        let (on, meta) = WriterConnection::open(path, &vfs, foreign_keys, &shelf)?;
        let (applied, membership) = (meta.applied, meta.membership);
        let maintained = meta::read_maintained(&on.connection)?;
        let (page_size, size) = on
            .connection
            .query_row("SELECT page_size, page_count FROM pragma_page_size, pragma_page_count", [], |row| {
                Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?))
            })
            .map_err(|source| LocalFailure::Sqlite { what: "read the size of the database", source })?;
        pages.reset(size, Freelist::read(&on.connection)?);
        let (path, page_size) = (path.to_owned(), page_size as usize);
        Ok(Self {
            on,
            vfs,
            path,
            applied,
            membership,
            maintained,
            maintenance_error: None,
            shelf,
            page_size,
            pages,
            lost_pages: false,
            memory_failures: 0,
        })
    }

    /// By which extensions entries are executed.
    pub fn extensions(&self) -> &Arc<Loaded> {
        &self.on.extensions
    }

    /// Whether entries are executed with foreign keys enforced, and by what.
    pub fn foreign_keys(&self) -> ForeignKeys {
        self.on.foreign_keys
    }

    /// The hashes of the database's pages.
    pub fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    /// Whether, since this was last asked, it was lost what a transaction changed.
    pub fn has_lost_pages(&mut self) -> bool {
        std::mem::take(&mut self.lost_pages)
    }

    /// The checksum of the state, if it is known.
    pub fn checksum(&self) -> Result<Option<Checksum>, LocalFailure> {
        let Some(last) = self.applied.log_id else { return Ok(None) };
        self.record(last.index, true)
    }

    /// Notes the checksum after entry `index`, if it is known.
    fn record(&self, index: u64, now: bool) -> Result<Option<Checksum>, LocalFailure> {
        let database = self.pages.database();
        let mut first = 0;
        let recorded = self.pages.record(index, now, |freelist| {
            first = freelist.first;
            freelist.pages(&self.on.connection)
        });
        match recorded {
            // Nothing that was applied depends on it.
            Err(error) if error.is_damage() => {
                self.pages.unreadable(database, first);
                Ok(None)
            }
            recorded => recorded,
        }
    }

    /// What has been applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The last membership applied.
    pub fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    /// When what is done for the database at an interval was done last.
    pub fn maintained(&self) -> Maintained {
        self.maintained
    }

    /// Why the last of it that was applied here came to nothing.
    pub fn maintenance_error(&self) -> Option<&str> {
        self.maintenance_error.as_deref()
    }

    /// Tables whose statistics had better be gathered anew.
    pub fn unanalyzed(&self) -> Result<Vec<String>, LocalFailure> {
        maintain::unanalyzed(&self.on)
    }

    /// Pages in the WAL after the last commit.
    pub fn wal_pages(&self) -> u64 {
        self.on.wal_pages()
    }

    /// The connection, for checkpoints.
    pub fn connection(&self) -> &Connection {
        &self.on.connection
    }

    /// Gives the VFS back, for the next generation of the database.
    pub fn close(self) -> (EntryVfs, Result<(), LocalFailure>) {
        let closed = self.on.connection.close();
        let what = "close the database";
        (self.vfs, closed.map_err(|(_, source)| LocalFailure::Sqlite { what, source }))
    }

    /// Applies one entry; one that has been applied before changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> Result<Reply, LocalFailure> {
        if self.applied.log_id.is_some_and(|last| entry.log_id.index <= last.index) {
            return Ok(Reply::new());
        }
        self.memory_failures = query_memory::failures();
        // A lack of memory is the cause, whatever else SQLite says.
        self.apply_new(entry).map_err(|failure| self.had_memory().err().unwrap_or(failure))
    }

    fn apply_new(&mut self, entry: &Entry) -> Result<Reply, LocalFailure> {
        match &entry.payload {
            Payload::Blank => {
                self.begin()?;
                self.commit(entry.log_id)?;
                Ok(Reply::new())
            }
            Payload::Membership { bytes, cluster_id, epoch } => {
                let membership = StoredMembership { log_id: Some(entry.log_id), bytes: bytes.clone() };
                self.begin()?;
                meta::write_membership(&self.on.connection, &membership)?;
                meta::write_cluster(&self.on.connection, cluster_id, *epoch)?;
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
        if command.replacement.is_some() {
            // The writer's thread does that: it changes the connection that this works on.
            return Err(LocalFailure::Stopped("the present database"));
        }
        // Entry time never stands still or goes back, whichever leader's clock it came from.
        let time = command.context.timestamp_us.max(self.applied.timestamp_us.saturating_add(1));
        self.vfs.set_time(time);
        if let Some(changes) = &command.changes {
            return self.set_changes(entry, time, changes);
        }
        if let Some(maintenance) = &command.maintenance {
            return self.maintain(entry, time, maintenance);
        }
        if let Some(set) = &command.extensions {
            return self.set_extensions(entry, time, set);
        }
        if let Some(enforced) = command.foreign_keys {
            return self.set_foreign_keys(entry, time, enforced);
        }
        if command.skip.is_some() {
            // Whoever comes to it has passed over the other entry, or it would not be here.
            self.begin()?;
            self.applied.timestamp_us = time;
            self.commit(entry.log_id)?;
            return Ok(Reply::new());
        }
        if let Some(flags) = command.sole_vacuum().map_err(malformed)? {
            return self.vacuum(entry, time, flags);
        }
        let mut left_out = LeftOut::default();
        let mut count = Count::Estimate;
        loop {
            self.begin()?;
            let run = EntryRun::new(&self.on, (entry, time), count, &left_out);
            match run.run(&command)? {
                Attempt::Finished(reply, kept) => {
                    let before = self.applied;
                    self.applied.timestamp_us = time;
                    let Some(error) = self.try_commit(entry.log_id, &kept)? else {
                        if self.on.guard.changed_statistics() {
                            self.reopen()?;
                        }
                        return Ok(reply);
                    };
                    self.applied = before;
                    if left_out.muted.len() == command.count as usize {
                        let what = "commit an entry of which nothing was run";
                        return Err(LocalFailure::Sqlite { what, source: error });
                    }
                    if left_out.flushes {
                        left_out.muted = Muted::all(&command, &error).map_err(malformed)?;
                    }
                    left_out.flushes = true;
                }
                Attempt::Refused => left_out.flushes = true,
                Attempt::Without(failure) => left_out.failed.push(failure),
                Attempt::WithoutRequest(muted) => left_out.muted.push(muted),
                Attempt::Recount => {
                    // What was recorded so far came about on this connection, whose count is not the others'.
                    left_out = LeftOut::default();
                    count = Count::Exact;
                }
            }
            self.undo()?;
            // What the attempt left on the connection (counters, statistics) must not show in the next one.
            self.reopen()?;
        }
    }

    /// VACUUM runs outside a transaction, so the position is committed after it. In between a crash is harmless: a
    /// database that has just been vacuumed comes out of another VACUUM the same, but for the schema cookie.
    fn vacuum(&mut self, entry: &Entry, time: i64, flags: RequestFlags) -> Result<Reply, LocalFailure> {
        let started = Instant::now();
        let mut out = Vec::new();
        match self.run_vacuum()? {
            Ok(()) => {
                let changes = self.on.watch.changes(&self.on.connection).0;
                let rowid = self.on.connection.last_insert_rowid();
                encode::write_executed(&mut out, flags.into(), rowid, changes, started);
            }
            Err(error) => encode::write_error(&mut out, &encode::error_text(&error), false),
        }
        pass(Place::ApplyVacuumed).map_err(|source| LocalFailure::Io { what: "apply an entry", source })?;
        self.begin()?;
        self.applied.timestamp_us = time;
        self.commit(entry.log_id)?;
        self.reopen()?;
        Ok(if entry.wants_reply { vec![out.into()] } else { Reply::new() })
    }

    /// Writes the database anew; the inner error is the same on every replica.
    fn run_vacuum(&mut self) -> Result<Result<(), rusqlite::Error>, LocalFailure> {
        let full_before = entry_vfs::full_writes();
        wal_capture::begin(self.page_size);
        let outcome = self.on.connection.execute_batch("VACUUM");
        self.note_pages()?;
        match outcome {
            Ok(()) => Ok(Ok(())),
            Err(error) => replicated(error, full_before).map(Err),
        }
    }

    /// Does what an entry says for the database itself, and notes when. What fails on every replica is tried again after
    /// an interval: it is noted all the same.
    fn maintain(
        &mut self,
        entry: &Entry,
        time: i64,
        command: &MaintenanceCommand,
    ) -> Result<Reply, LocalFailure> {
        let mut failure = None;
        if *command == MaintenanceCommand::Vacuum {
            failure = self.run_vacuum()?.err();
        }
        self.begin()?;
        self.applied.timestamp_us = time;
        // Before the statements of our own, which count too.
        self.note_counters(entry.log_id);
        match command {
            MaintenanceCommand::Begin { vacuum, optimize } => {
                self.maintained.vacuum_us = if *vacuum { time } else { self.maintained.vacuum_us };
                self.maintained.optimize_us = if *optimize { time } else { self.maintained.optimize_us };
            }
            MaintenanceCommand::Vacuum => self.maintained.vacuum_us = time,
            MaintenanceCommand::Optimize { tables } => {
                failure = maintain::analyze(&self.on, tables)?;
                self.maintained.optimize_us = time;
            }
        }
        meta::write_maintained(&self.on.connection, self.maintained)?;
        let what = "commit what an entry says for the database itself";
        self.commit_noted(entry.log_id)?
            .map_or(Ok(()), |source| Err(LocalFailure::Sqlite { what, source }))?;
        self.maintenance_error = failure.map(|error| encode::error_text(&error));
        if !matches!(command, MaintenanceCommand::Begin { .. }) {
            self.reopen()?;
        }
        Ok(Reply::new())
    }

    /// Does what an entry says about the capture of changes.
    fn set_changes(
        &mut self,
        entry: &Entry,
        time: i64,
        command: &ChangesCommand,
    ) -> Result<Reply, LocalFailure> {
        self.begin()?;
        self.applied.timestamp_us = time;
        // Before the statements of our own, which count too.
        self.note_counters(entry.log_id);
        let done = changes::execute(&self.on.connection, entry.log_id.index, command);
        let what = "do what an entry says of changes";
        let is_other = done.map_err(|source| LocalFailure::Sqlite { what, source })?;
        self.commit_noted(entry.log_id)?
            .map_or(Ok(()), |source| Err(LocalFailure::Sqlite { what, source }))?;
        if is_other {
            // The hook counts for statements that are compiled while it is there.
            self.reopen()?;
        }
        Ok(Reply::new())
    }

    /// From the next entry on, statements are executed by other extensions. A member that does not have them cannot go on,
    /// and its state is as it was before the entry.
    fn set_extensions(
        &mut self,
        entry: &Entry,
        time: i64,
        set: &ExtensionSet,
    ) -> Result<Reply, LocalFailure> {
        self.shelf.load(set)?;
        self.begin()?;
        meta::write_extensions(&self.on.connection, set)?;
        self.applied.timestamp_us = time;
        self.commit(entry.log_id)?;
        self.reopen()?;
        Ok(Reply::new())
    }

    /// From the next entry on, statements are executed with foreign keys enforced, or without. What is there is not looked
    /// at, as SQLite does not.
    fn set_foreign_keys(&mut self, entry: &Entry, time: i64, enforced: bool) -> Result<Reply, LocalFailure> {
        self.begin()?;
        meta::write_foreign_keys(&self.on.connection, Some(enforced))?;
        self.applied.timestamp_us = time;
        self.commit(entry.log_id)?;
        // It counts for statements that are compiled from then on.
        self.reopen()?;
        Ok(Reply::new())
    }

    fn begin(&self) -> Result<(), LocalFailure> {
        if let Some(recorder) = &self.on.recorder {
            recorder.begin_entry();
        }
        wal_capture::begin(self.page_size);
        self.on.control("/* own */ BEGIN IMMEDIATE", "begin the entry's transaction")?;
        if self.on.connection.changes() != 0 {
            // A statement that changes nothing: entries begin with the same counter on every connection.
            let sql = "/* own */ DELETE FROM _sqlited_meta WHERE 0";
            self.on.control(sql, "reset the counter of changes")?;
            self.on.watch.begun(&self.on.connection, &self.applied);
        }
        Ok(())
    }

    /// Whether SQLite got all the memory that it asked for, for the present entry. Otherwise nothing of it may stay, even
    /// where SQLite says that all went well: it may have done less than elsewhere.
    fn had_memory(&self) -> Result<(), LocalFailure> {
        match query_memory::failures() == self.memory_failures {
            true => Ok(()),
            false => Err(LocalFailure::OutOfMemory),
        }
    }

    /// Undoes the entry, unless SQLite did so itself.
    fn undo(&self) -> Result<(), LocalFailure> {
        if self.on.connection.is_autocommit() {
            return Ok(());
        }
        self.on.control("/* own */ ROLLBACK", "undo the entry")
    }

    fn commit(&mut self, log_id: LogId) -> Result<(), LocalFailure> {
        let what = "commit the entry's transaction";
        self.try_commit(log_id, &[])?.map_or(Ok(()), |source| Err(LocalFailure::Sqlite { what, source }))
    }

    /// Commits, with the answers that are kept and the changes that are captured, or returns why SQLite refuses to on every
    /// replica.
    fn try_commit(
        &mut self,
        log_id: LogId,
        kept: &[KeptReply],
    ) -> Result<Option<rusqlite::Error>, LocalFailure> {
        self.note_counters(log_id);
        // What follows counts on the connection, and not in the entry.
        kept_replies::keep(&self.on.connection, kept, self.applied.timestamp_us)
            .map_err(|source| LocalFailure::Sqlite { what: "keep the answers of an entry", source })?;
        if let Some(recorder) = &self.on.recorder {
            recorder.write(&self.on.connection, log_id.index, self.applied.timestamp_us.div_euclid(1000))?;
        }
        self.commit_noted(log_id)
    }

    /// Takes the position and the counters as the entry leaves them.
    fn note_counters(&mut self, log_id: LogId) {
        let (changes, total_changes) = self.on.watch.changes(&self.on.connection);
        self.applied.log_id = Some(log_id);
        self.applied.last_insert_rowid = self.on.connection.last_insert_rowid();
        self.applied.changes = changes as i64;
        self.applied.total_changes = total_changes as i64;
    }

    fn commit_noted(&mut self, log_id: LogId) -> Result<Option<rusqlite::Error>, LocalFailure> {
        meta::write_applied(&self.on.connection, &self.applied)?;
        pass(Place::ApplyRan).map_err(|source| LocalFailure::Io { what: "apply an entry", source })?;
        self.had_memory()?;
        let full_before = entry_vfs::full_writes();
        let committed = self.on.control("/* own */ COMMIT", "commit the entry's transaction");
        match committed {
            Ok(()) => {}
            Err(LocalFailure::Sqlite { source, .. }) => return replicated(source, full_before).map(Some),
            Err(other) => return Err(other),
        }
        self.on.watch.committed(&self.on.connection, &self.applied);
        self.note_pages()?;
        self.record(log_id.index, false)?;
        Ok(None)
    }

    /// Takes up what the transaction that has just ended changed.
    fn note_pages(&mut self) -> Result<(), LocalFailure> {
        match wal_capture::take() {
            Some(committed) => self.pages.committed(&committed),
            None => {
                tracing::warn!("what an entry changed cannot be told; all pages are read anew");
                let sql = "SELECT page_count FROM pragma_page_count";
                let size = self.on.connection.query_row(sql, [], |row| row.get(0));
                let what = "read the size of the database";
                let size = size.map_err(|source| LocalFailure::Sqlite { what, source })?;
                self.pages.reset(size, Freelist::read(&self.on.connection)?);
                self.lost_pages = true;
            }
        }
        Ok(())
    }

    /// Puts a new connection in the place of the present one: without compiled statements, and with the planner's
    /// statistics as the database has them.
    fn reopen(&mut self) -> Result<(), LocalFailure> {
        let configured = self.on.foreign_keys.configured;
        let (on, meta) = WriterConnection::open(&self.path, &self.vfs, configured, &self.shelf)?;
        debug_assert_eq!(meta.applied, self.applied);
        // Closed when dropped; what it held is committed.
        self.on = on;
        Ok(())
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
