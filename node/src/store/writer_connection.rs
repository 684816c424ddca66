//! The writer's connection: how it is opened, and what is on it so that every replica executes an entry alike.

use super::apply::LocalFailure;
use super::entry_functions::{self, EntryRandom};
use super::entry_vfs::EntryVfs;
use super::execute::On;
use super::extensions::{Loaded, Shelf};
use super::foreign_keys::ForeignKeys;
use super::guard::{Guard, Purpose};
use super::meta::{self, Meta, MetaError};
use super::preupdate;
use super::recorder::{self, Recorder};
use super::watched::Watch;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open connection for entries.
pub struct WriterConnection {
    /// The connection.
    pub connection: Connection,
    /// By which extensions entries are executed.
    pub extensions: Arc<Loaded>,
    /// Whether foreign keys are enforced, and by what.
    pub foreign_keys: ForeignKeys,
    /// What statements may not do.
    pub guard: Guard,
    /// Chance.
    pub random: EntryRandom,
    /// What is to be noticed of statements.
    pub watch: Watch,
    /// What follows the rows that change; none while changes are not captured. After the connection: it must outlive it.
    pub recorder: Option<Arc<Recorder>>,
    /// Pages in the WAL after the last commit.
    wal_pages: Arc<AtomicU64>,
}

impl WriterConnection {
    /// Opens the database at `path`, which must hold the internal table, with the extensions of `shelf` that it names;
    /// returns what it holds too. Where it says nothing of foreign keys, `foreign_keys` counts.
    pub fn open(
        path: &Path,
        vfs: &EntryVfs,
        foreign_keys: bool,
        shelf: &Shelf,
    ) -> Result<(Self, Meta), LocalFailure> {
        let sqlite = |what| move |source| LocalFailure::Sqlite { what, source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        match std::fs::metadata(path) {
            // To SQLite that is a new database, and its WAL one to be thrown away.
            Ok(file) if file.len() == 0 => return Err(MetaError::Damaged("the file is empty").into()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(MetaError::Damaged("the file is missing").into());
            }
            Ok(_) | Err(_) => {}
        }
        let mut connection = Connection::open_with_flags_and_vfs(path, flags, vfs.name())
            .map_err(sqlite("open the database for writing"))?;
        // A database that cannot be opened is left as it is. Nor does the end of this connection write to the file: it may be
        // a staged one as well, and where the disk failed, one more sync that succeeds says nothing of the pages before.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(sqlite("configure the writer"))?;
        configure(&connection).map_err(|error| not_taken(error, "configure the writer"))?;
        let meta = meta::read(&connection).map_err(|error| match error {
            MetaError::Sqlite(error) => not_taken(error, "read the internal table"),
            other => other.into(),
        });
        let meta = meta?.ok_or(MetaError::Damaged("it is missing"))?;
        let foreign_keys = ForeignKeys { configured: foreign_keys, present: meta.foreign_keys };
        connection
            .pragma_update(None, "foreign_keys", foreign_keys.are_enforced())
            .map_err(sqlite("configure the writer"))?;
        // By a byte of its header: each entry would end this process.
        if connection.is_readonly(MAIN_DB).map_err(sqlite("configure the writer"))? {
            return Err(MetaError::Damaged("the file is not to be written").into());
        }
        let install = sqlite("install functions and hooks");
        let extensions = shelf.load(&meta.extensions)?;
        // First: what follows stands over what they bring along.
        extensions.install(&connection, Purpose::Write).map_err(install)?;
        let random = EntryRandom::default();
        random.install(&connection).map_err(install)?;
        entry_functions::install_math(&connection).map_err(install)?;
        let watch = Watch::install(&mut connection, &meta.applied).map_err(install)?;
        let guard = Guard::install(&mut connection, Purpose::Write, &extensions).map_err(install)?;
        let wal_pages = Arc::new(AtomicU64::new(0));
        let pages = wal_pages.clone();
        connection
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, n: std::ffi::c_int| {
                pages.store(n.max(0) as u64, Ordering::Relaxed);
                Ok(())
            }))
            .map_err(install)?;
        let recorder = recorder::of(&connection, path)?.map(Arc::new);
        if let Some(recorder) = &recorder {
            preupdate::follow(&connection, recorder);
        }
        let on = Self { connection, extensions, foreign_keys, guard, random, watch, recorder, wal_pages };
        Ok((on, meta))
    }

    /// Where statements of an entry run.
    pub fn on(&self) -> On<'_> {
        On {
            connection: &self.connection,
            guard: &self.guard,
            watch: Some(&self.watch),
            recorder: self.recorder.as_deref(),
        }
    }

    /// Pages in the WAL after the last commit.
    pub fn wal_pages(&self) -> u64 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// Runs a statement of the applier's own, outside the guard. It begins with a comment: a user's text that does is
    /// never taken from the cache of compiled statements ([`is_single`](super::text::is_single)), so that nobody's
    /// COMMIT is this one, which the guard has not seen.
    pub fn control(&self, sql: &str, what: &'static str) -> Result<(), LocalFailure> {
        let run = || self.connection.prepare_cached(sql)?.raw_execute();
        run().map(drop).map_err(|source| LocalFailure::Sqlite { what, source })
    }
}

/// What SQLite finds wrong with statements of our own, which are right, is the file's fault: a format of the schema that it
/// does not know, or a text that is none of SQL.
fn not_taken(source: rusqlite::Error, what: &'static str) -> LocalFailure {
    match source.sqlite_error_code() {
        Some(ErrorCode::Unknown) => {
            tracing::error!(error = %source, "SQLite does not take the database's schema");
            MetaError::Damaged("SQLite does not take the schema").into()
        }
        _ => LocalFailure::Sqlite { what, source },
    }
}

/// Settings of the writer's connection; see `docs/design.md` for why each.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(256);
    connection.execute_batch(
        "PRAGMA locking_mode=NORMAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;
         PRAGMA secure_delete=FAST; PRAGMA mmap_size=0; PRAGMA busy_timeout=5000; PRAGMA temp_store=DEFAULT;
         PRAGMA journal_size_limit=67108864;",
    )
}
