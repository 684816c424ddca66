//! One replica's database: entries go in through one writer, queries read beside it.
//!
//! Only this module uses SQLite; it knows nothing of Raft beyond the position of an entry ([`LogId`]).

mod apply;
mod checkpoint;
mod encode;
mod entry_functions;
mod entry_vfs;
mod execute;
mod generation;
mod guard;
mod meta;
mod reader;
mod snapshot;
mod value;
mod writer;

pub use apply::{Entry, LocalFailure, Payload, Reply};
pub use checkpoint::Durable;
pub use encode::{Sink, Stopped};
pub use meta::{Applied, LogId, Meta, RESERVED_PREFIX, StoredMembership};
pub use reader::{Inline, Limits, ReadError, ReadPool};
pub use snapshot::{PinnedSnapshot, ReadySnapshot, StagedSnapshot, crc32c};
pub use value::write_str;
pub use writer::{Committed, State};

use apply::Applier;
use entry_vfs::EntryVfs;
use generation::Generations;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use writer::Writer;

/// One replica's database in a data directory.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: Arc<ReadPool>,
    generations: Generations,
}

impl Store {
    /// Opens the database of `directory`, or makes an empty one; removes what an interrupted install left.
    pub fn open(directory: &Path, foreign_keys: bool) -> Result<Self, LocalFailure> {
        let io = |what| move |source| LocalFailure::Io { what, source };
        let generations = Generations::new(directory);
        let present = generations.present().map_err(io("find the present database"))?;
        generations.remove_others(present).map_err(io("remove what an interrupted install left"))?;
        let generation = match present {
            Some(n) => n,
            None => {
                create(&generations.path(1))?;
                generations.activate(1).map_err(io("activate the new database"))?;
                1
            }
        };
        let path = generations.path(generation);
        let vfs = EntryVfs::register()
            .map_err(|e| io("register the file system layer")(std::io::Error::other(e)))?;
        let applier = Applier::open(&path, vfs, foreign_keys)?;
        let readers = Arc::new(ReadPool::new(&path));
        let writer = Writer::start(applier, generations.clone(), generation, readers.clone(), foreign_keys)?;
        Ok(Self { writer, readers, generations })
    }

    /// Applies committed entries in order; `committed` is given the replies, in the same order, before it resolves.
    pub async fn apply(&self, entries: Vec<Entry>, committed: Committed) -> Result<(), LocalFailure> {
        self.writer.apply(entries, committed).await
    }

    /// What has been applied and what of it is on disk, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.writer.state()
    }

    /// Connections for queries.
    pub fn readers(&self) -> &Arc<ReadPool> {
        &self.readers
    }

    /// Pins the present state, to send it to another member. Blocks on the disk.
    pub fn pin_snapshot(&self) -> Result<PinnedSnapshot, LocalFailure> {
        PinnedSnapshot::pin(&self.database_path())
    }

    /// Begins to receive a snapshot beside the present database.
    pub fn stage_snapshot(&self) -> std::io::Result<StagedSnapshot> {
        StagedSnapshot::create(&self.generations, self.writer.state().borrow().generation + 1)
    }

    /// Stages a snapshot that is pinned in this process. Blocks on the disk.
    pub fn copy_snapshot(&self, pinned: &PinnedSnapshot) -> Result<ReadySnapshot, LocalFailure> {
        let io = |source| LocalFailure::Io { what: "copy a snapshot", source };
        let mut staged = self.stage_snapshot().map_err(io)?;
        let mut written = Ok(());
        pinned.stream(|bytes| {
            written = staged.write(&bytes);
            written.is_ok()
        })?;
        written.map_err(io)?;
        staged.finish(&pinned.meta)
    }

    /// Makes a received snapshot the present database.
    pub async fn install(&self, snapshot: ReadySnapshot) -> Result<(), LocalFailure> {
        self.writer.install(snapshot).await
    }

    /// Moves the WAL into the database file as far as readers allow; returns how far that is on disk then.
    pub async fn checkpoint(&self) -> Result<Durable, LocalFailure> {
        self.writer.checkpoint().await
    }

    /// The present database's file.
    pub fn database_path(&self) -> PathBuf {
        self.generations.path(self.writer.state().borrow().generation)
    }

    /// Ends the writer after what it was asked before, and closes the database.
    pub async fn close(&self) -> Result<(), LocalFailure> {
        self.writer.close().await
    }
}

/// Makes an empty, synced database with the internal table.
fn create(path: &Path) -> Result<(), LocalFailure> {
    let sqlite = |source| LocalFailure::Sqlite { what: "make the database", source };
    let connection = Connection::open(path).map_err(sqlite)?;
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL").map_err(sqlite)?;
    meta::create(&connection)?;
    // Closing the last connection moves the WAL into the file and syncs it.
    connection.close().map_err(|(_, source)| sqlite(source))?;
    let io = |source| LocalFailure::Io { what: "sync the new database", source };
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(io)
}

/// The library's version, for diagnostics.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}
