//! One replica's database: entries go in through one writer, queries read beside it.
//!
//! Only this module uses SQLite; it knows nothing of Raft beyond the position of an entry ([`LogId`]).

mod apply;
mod attempts;
mod backup;
mod beside_writer;
pub(crate) mod canonical;
mod changes;
mod checkpoint;
mod checkpoint_schedule;
mod confinement;
mod damage;
mod dump;
mod empty_rows;
mod encode;
mod engine;
mod entry_functions;
mod entry_run;
mod entry_vfs;
mod execute;
mod extensions;
mod foreign_keys;
mod freelist;
mod generation;
mod guard;
mod kept_replies;
mod large_value;
mod largest_rowid;
mod maintain;
mod meta;
mod pages;
mod preupdate;
mod query_memory;
mod read_gate;
mod reader;
mod recorder;
mod replace;
mod reply_room;
mod restored;
mod result_limit;
mod script;
mod scrub;
mod snapshot;
mod spool;
mod staging;
mod temporary;
mod text;
mod value;
mod wal_capture;
mod watched;
mod write_behind;
mod writer;
mod writer_connection;

pub use apply::{Entry, LocalFailure, Payload, Reply};
pub use attempts::Suspect;
pub use backup::{BackupError, BackupFormat, BackupOptions, Outlet, leave_out_own_tables};
pub use canonical::{CanonicalError, MAGIC, Order, SUBCOMMAND, Taken, child};
pub use changes::{CaptureState, ChangesReader, Cursor, Gap, Page, Part};
pub use checkpoint::Durable;
pub use encode::{Abandoned, Sink, Stopped, begin_entry};
pub use extensions::{ExtensionError, ExtensionFile, ExtensionSet, ExtensionsConfig, Loaded, Shelf};
pub use foreign_keys::ForeignKeys;
pub use meta::{Applied, LogId, Maintained, Meta, MetaError, Position, RESERVED_PREFIX, StoredMembership};
pub use pages::{Checksum, Damage, PageSum};
pub use query_memory::{install as bound_queries, set_limit as set_query_memory};
pub use reader::{Diagnostics, Inline, Limits, ReadError, ReadPool};
pub use restored::{Seed, first_value, holds_anything, integrity, into_one_file, read_mark, write_mark};
pub use result_limit::ResultLimit;
pub use script::statements;
pub use snapshot::{PinnedSnapshot, ReadySnapshot, StagedSnapshot, Streamed, chunk_crc};
pub use staging::{Receiving, Scratch, Sha256Sum, StagedFile, Staging};
pub use temporary::{ELSEWHERE, temporary_path};
pub use text::is_vacuum;
pub use value::write_str;
pub use write_behind::WriteBehind;
pub use writer::{Committed, State};

use crate::failpoint::{Place, pass};
use crate::observe::{Observe as _, Until as _};
use apply::Applier;
use attempts::Attempts;
use confinement::Lacks;
use entry_vfs::EntryVfs;
use generation::{Generations, LINK};
use pages::Pages;
use rusqlite::Connection;
use scrub::{Scrub, Suspicion};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use temporary::Temporary;
use tokio::sync::{oneshot, watch};
use writer::{PAGE, Writer};

/// One replica's database in a data directory.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: Arc<ReadPool>,
    generations: Generations,
    pages: Arc<Pages>,
    staging: Staging,
    temporary: Temporary,
    lacks: Lacks,
    shelf: Shelf,
    installs: Arc<AtomicU64>,
    attempts: Arc<Attempts>,
    suspect: Option<Suspect>,
    engine: Arc<str>,
    /// The generation that is there only until another member's state is.
    stand_in: Option<u64>,
}

/// A database to open.
struct Opening {
    temporary: Temporary,
    generation: u64,
    /// The damaged one in whose place it is.
    damaged: Option<u64>,
}

impl Store {
    /// Opens the database of `directory`, or makes an empty one; removes what an interrupted install left.
    /// Its pages are compared with what was written there once each `scrub_period`. Where it says nothing of foreign keys,
    /// `foreign_keys` counts.
    pub fn open(directory: &Path, foreign_keys: bool, scrub_period: Duration) -> Result<Self, LocalFailure> {
        Self::open_with(directory, foreign_keys, scrub_period, Shelf::open(directory))
    }

    /// The same, with the extensions of `shelf` that the database is executed by.
    pub fn open_with(
        directory: &Path,
        foreign_keys: bool,
        scrub_period: Duration,
        shelf: Shelf,
    ) -> Result<Self, LocalFailure> {
        let temporary = temporary(directory)?;
        let (generations, present) = Self::present(directory)?;
        let place =
            |place| pass(place).map_err(|source| LocalFailure::Io { what: "open the database", source });
        place(Place::StartCleaned)?;
        let generation = match present {
            Some(n) => n,
            None => {
                create(&generations.path(1))?;
                place(Place::StartCreated)?;
                let what = "activate the new database";
                generations.activate(1).map_err(|source| LocalFailure::Io { what, source })?;
                1
            }
        };
        let opening = Opening { temporary, generation, damaged: None };
        Self::open_generation(directory, foreign_keys, scrub_period, shelf, opening)
    }

    /// Opens a new database in the place of one that is damaged, until another member's takes the place of both. It says
    /// that it is what `meta` is, and holds nothing; the damaged one stays as it is until then, and is met again if this
    /// process ends before.
    pub fn open_instead(
        directory: &Path,
        foreign_keys: bool,
        scrub_period: Duration,
        shelf: Shelf,
        meta: &Meta,
    ) -> Result<Self, LocalFailure> {
        let temporary = temporary(directory)?;
        let (generations, damaged) = Self::present(directory)?;
        let generation = damaged.unwrap_or_default() + 1;
        create_of(&generations.path(generation), meta)?;
        let opening = Opening { temporary, generation, damaged };
        let store = Self::open_generation(directory, foreign_keys, scrub_period, shelf, opening)?;
        store.pages.unreadable(store.pages.database(), 1);
        Ok(store)
    }

    /// The generations in `directory`, without what an interrupted install left, and which is the present one.
    fn present(directory: &Path) -> Result<(Generations, Option<u64>), LocalFailure> {
        let io = |what| move |source| LocalFailure::Io { what, source };
        let generations = Generations::new(directory);
        let present = generations.present().map_err(io("find the present database"))?;
        if present.is_none()
            && let Some(lost) = generations.with_data().map_err(io("look for databases"))?
        {
            let message = format!(
                "{} is a database, and the link {LINK} that would name the present one is missing: make it again \
                 (ln -s db-N.sqlite {LINK}), or give the member an empty disk",
                lost.display()
            );
            return Err(io("find the present database")(std::io::Error::other(message)));
        }
        generations.remove_others(present).map_err(io("remove what an interrupted install left"))?;
        Ok((generations, present))
    }

    fn open_generation(
        directory: &Path,
        foreign_keys: bool,
        scrub_period: Duration,
        shelf: Shelf,
        Opening { temporary, generation, damaged }: Opening,
    ) -> Result<Self, LocalFailure> {
        let io = |what| move |source| LocalFailure::Io { what, source };
        let generations = Generations::new(directory);
        let path = generations.path(generation);
        let staging = Staging::open(directory).map_err(io("open the staging directory"))?;
        staging.resume(&path).map_err(io("look for staged databases"))?;
        let engine = engine::name()
            .map_err(|source| LocalFailure::Sqlite { what: "look at what SQLite is made of", source })?;
        let vfs = EntryVfs::register()
            .map_err(|e| io("register the file system layer")(std::io::Error::other(e)))?;
        let pages = Arc::new(Pages::default());
        let applier = Applier::open(&path, vfs, foreign_keys, shelf.clone(), pages.clone())?;
        let program = format!("{} {}", crate::VERSION, sqlite_version());
        // What ended the process before is in the state that is to come.
        let applied = damaged.map_or(applier.applied().index(), |_| Some(u64::MAX));
        let (attempts, suspect) = Attempts::open(directory, applied, &program)
            .map_err(io("open the note of the entry that is applied"))?;
        let attempts = Arc::new(attempts);
        pass(Place::StartOpened).map_err(io("open the database"))?;
        let (wake, woken) = std::sync::mpsc::channel();
        let suspicion = Suspicion::new(wake.clone());
        let owed = suspicion.owed();
        let (enforced, extensions) = (applier.foreign_keys().are_enforced(), applier.extensions().clone());
        let readers = Arc::new(ReadPool::new(&path, enforced, extensions, suspicion));
        let (own, pool) = (generations.clone(), readers.clone());
        let writer = Writer::start(
            (applier, attempts.clone()),
            own,
            (generation, damaged),
            pool,
            staging.clone(),
            shelf.clone(),
            wake,
        )?;
        let told = (woken, owed);
        let scrub = Scrub::new(pages.clone(), writer.clone(), generations.clone(), scrub_period, told);
        std::thread::Builder::new()
            .name("scrub".into())
            .spawn(move || scrub.run())
            .map_err(io("start a thread"))?;
        Ok(Self {
            writer,
            readers,
            generations,
            pages,
            staging,
            temporary,
            lacks: Lacks::default(),
            shelf,
            installs: Arc::default(),
            attempts,
            suspect,
            engine: engine.into(),
            stand_in: damaged.map(|_| generation),
        })
    }

    /// Whether the database is damaged, and what is open in its place holds nothing.
    pub fn lacks_state(&self) -> bool {
        let is_present = |n: u64| self.writer.state().observe(|state| state.generation == n);
        self.stand_in.is_some_and(is_present)
    }

    /// Waits until another member's state is here, where this one [lacks](Self::lacks_state) its own; fails when the writer
    /// has stopped.
    pub async fn until_it_has_state(&self) -> Result<(), watch::error::RecvError> {
        let stand_in = self.stand_in;
        self.state().until(move |state| Some(state.generation) != stand_in).await
    }

    fn has_state(&self) -> Result<(), LocalFailure> {
        if self.lacks_state() { Err(LocalFailure::NoState) } else { Ok(()) }
    }

    /// Checksums of the states after the entries applied last, oldest first; none while they are not known. Equal on
    /// every replica.
    pub fn checksums(&self) -> Vec<Checksum> {
        // What stands in for a damaged database is no state that anybody has.
        if self.lacks_state() { Vec::new() } else { self.pages.recent() }
    }

    /// The newest of them.
    pub fn last_checksum(&self) -> Option<Checksum> {
        self.pages.last().filter(|_| !self.lacks_state())
    }

    /// The checksum of the present state; none while it is not known.
    pub async fn checksum(&self) -> Result<Option<Checksum>, LocalFailure> {
        self.writer.checksum().await
    }

    /// The first page found that is not what was written there, now and from now on.
    pub fn damage(&self) -> watch::Receiver<Option<Damage>> {
        self.pages.damage()
    }

    /// Applies committed entries in order; the replies are in the same order.
    pub async fn apply(&self, entries: Vec<Entry>) -> Result<Vec<Reply>, LocalFailure> {
        let (tell, replies) = oneshot::channel();
        // Who no longer waits does not want to know.
        self.apply_telling(entries, Box::new(move |replies| drop(tell.send(replies)))).await?;
        replies.await.map_err(|_| LocalFailure::Stopped("the writer"))
    }

    /// The same; `committed` is given the replies before it resolves.
    pub async fn apply_telling(&self, entries: Vec<Entry>, committed: Committed) -> Result<(), LocalFailure> {
        self.writer.apply(entries, committed).await
    }

    /// What has been applied and what of it is on disk, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.writer.state()
    }

    /// Resolves once entry `index` is in the database; fails when the writer has stopped.
    pub async fn until_applied(&self, index: u64) -> Result<(), watch::error::RecvError> {
        self.state().until(|state| state.applied.index() >= Some(index)).await
    }

    /// What is in the database.
    pub fn applied(&self) -> Applied {
        self.writer.state().observe(|state| state.applied)
    }

    /// Connections for queries.
    pub fn readers(&self) -> &Arc<ReadPool> {
        &self.readers
    }

    /// From which size of the WAL on, in bytes, long queries have to give way to checkpoints.
    pub fn set_wal_limit(&self, bytes: u64) {
        self.writer.set_wal_limit(bytes);
    }

    /// Why nothing more can be written, once that is so.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.state().observe(|state| state.failure.clone())
    }

    /// Whether writing stopped because the disk was full.
    pub fn met_full_disk(&self) -> bool {
        self.writer.met_full_disk()
    }

    /// The entry that was being applied when the process before this one ended, if its program was the same.
    pub fn suspect(&self) -> Option<Suspect> {
        self.suspect
    }

    /// From now on the process ends because somebody wants it, whatever is being applied.
    pub fn excuse_end(&self) {
        self.attempts.excuse();
    }

    /// Looks at the database file; at the next one where another database takes its place meanwhile. Blocks on the disk.
    pub fn look<T, E>(&self, look: impl Fn(&Path) -> Result<T, E>) -> Result<T, E> {
        loop {
            let path = self.database_path();
            match look(&path) {
                Err(_) if path != self.database_path() => {}
                outcome => return outcome,
            }
        }
    }

    /// The same, on a thread that may block.
    pub async fn look_aside<T: Send + 'static>(
        &self,
        look: impl Fn(&Path) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let store = self.clone();
        let looked = tokio::task::spawn_blocking(move || store.look(look)).await;
        looked.map_err(|error| error.to_string())?
    }

    /// Pins the present state. Blocks on the disk.
    pub fn pin_snapshot(&self) -> Result<PinnedSnapshot, LocalFailure> {
        self.has_state()?;
        self.look(PinnedSnapshot::pin)
    }

    /// Pins the present state, with its checksum if that is known.
    pub async fn pin_checked(&self) -> Result<PinnedSnapshot, LocalFailure> {
        self.has_state()?;
        self.writer.pin().await
    }

    /// The same, to send it to another member; where the writer has stopped, what it left, without a checksum.
    pub async fn pin_to_send(&self) -> Result<PinnedSnapshot, LocalFailure> {
        match self.pin_checked().await {
            Err(LocalFailure::Stopped(_)) => {}
            pinned => return pinned,
        }
        let store = self.clone();
        let pinned = tokio::task::spawn_blocking(move || store.pin_snapshot()).await;
        pinned.map_err(|error| LocalFailure::Io { what: "pin a snapshot", source: error.into() })?
    }

    /// Begins to receive a snapshot beside the present database.
    pub fn stage_snapshot(&self) -> std::io::Result<StagedSnapshot> {
        let generation = self.writer.state().observe(|state| state.generation) + 1;
        StagedSnapshot::create(&self.generations, generation, self.shelf.clone())
    }

    /// Stages a snapshot that is pinned in this process. Blocks on the disk.
    pub fn copy_snapshot(&self, pinned: &PinnedSnapshot) -> Result<ReadySnapshot, LocalFailure> {
        let io = |source| LocalFailure::Io { what: "copy a snapshot", source };
        let mut staged = self.stage_snapshot().map_err(io)?;
        let mut written = Ok(());
        let streamed = pinned.stream(0, |bytes| {
            written = staged.write(&bytes);
            written.is_ok()
        })?;
        written.map_err(io)?;
        if streamed != Streamed::Whole {
            return Err(io(std::io::ErrorKind::TimedOut.into()));
        }
        staged.finish(&pinned.meta, pinned.checksum.map(|checksum| checksum.sum))
    }

    /// Makes a received snapshot the present database.
    pub async fn install(&self, snapshot: ReadySnapshot) -> Result<(), LocalFailure> {
        self.installs.fetch_add(1, Ordering::Relaxed);
        self.writer.install(snapshot).await
    }

    /// How often another member's database took the place of this one since the start.
    pub fn installs(&self) -> u64 {
        self.installs.load(Ordering::Relaxed)
    }

    /// Databases that are not this member's yet.
    pub fn staging(&self) -> &Staging {
        &self.staging
    }

    /// Writes a copy of the present state for a client. Blocks.
    pub fn write_backup(&self, options: &BackupOptions, outlet: &mut dyn Outlet) -> Result<(), BackupError> {
        self.has_state().map_err(std::io::Error::other)?;
        backup::write_backup(&self.database_path(), &self.staging, options, &self.extensions(), outlet)
    }

    /// Removes extensions from the disk that were not used for long. Blocks.
    pub fn tidy_extensions(&self) {
        if let Err(error) = self.shelf.tidy(self.extensions().set()) {
            tracing::warn!(%error, "cannot remove old extensions");
        }
    }

    /// The extensions on this member's disk.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// By which extensions entries are executed.
    pub fn extensions(&self) -> Arc<Loaded> {
        self.readers.extensions()
    }

    /// What SQL is executed by here: its version, and a hash of what it is made of.
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// Whether entries are executed with foreign keys enforced, and by what.
    pub fn foreign_keys(&self) -> ForeignKeys {
        self.writer.state().observe(|state| state.foreign_keys)
    }

    /// Makes the canonical database `output` of a client's file, with the present extensions, in a child process; it is
    /// not synced then.
    pub async fn write_canonical(
        &self,
        input: &Path,
        output: &Path,
        taken: Taken,
    ) -> Result<(), CanonicalError> {
        let (extensions, own) = (self.extensions(), (&self.temporary, &self.lacks));
        canonical::write_in_child(input, output, taken, &extensions, own).await
    }

    /// What the system does not give the process that makes canonical databases, in words: nothing, if it is confined.
    /// None before the first one.
    pub fn lacks_confinement(&self) -> Option<Vec<String>> {
        self.lacks.known()
    }

    /// How changes are captured; none if they are not. Reads the database.
    pub fn capture(&self) -> Result<Option<CaptureState>, ReadError> {
        self.readers.inspect(changes::read_state)
    }

    /// Tables whose statistics had better be gathered anew.
    pub async fn unanalyzed(&self) -> Result<Vec<String>, LocalFailure> {
        self.writer.unanalyzed().await
    }

    /// The size of the database with what its WAL holds, in bytes: about the most that a VACUUM writes.
    pub fn size(&self) -> std::io::Result<u64> {
        let path = self.database_path();
        let mut wal = path.clone().into_os_string();
        wal.push("-wal");
        let wal = std::fs::metadata(wal).map_or(0, |file| file.len());
        Ok(std::fs::metadata(path)?.len() + wal)
    }

    /// How many bytes the database's file grows by once all that the WAL holds now is in it.
    pub fn growth_due(&self) -> std::io::Result<u64> {
        let file = self.look(|path| std::fs::metadata(path))?;
        Ok((u64::from(self.pages.count()) * PAGE).saturating_sub(file.len()))
    }

    /// Reads captured changes.
    pub fn changes_reader(&self) -> ChangesReader {
        ChangesReader::new(self.generations.clone(), self.writer.state())
    }

    /// Moves the WAL into the database file as far as readers allow; returns how far that is on disk then.
    pub async fn checkpoint(&self) -> Result<Durable, LocalFailure> {
        self.writer.checkpoint().await
    }

    /// Some state that is on disk: the present one, as far as readers allow. While the database is a staged file as well it may
    /// be an earlier one, so that the file need not be copied.
    pub async fn durable(&self) -> Result<Durable, LocalFailure> {
        let known = self.writer.state().observe(|state| state.durable.clone());
        let shared = self.staging.is_shared(&self.database_path());
        // Where it cannot be told, a checkpoint meets the same.
        if known.log_id.is_some() && matches!(shared, Ok(true)) { Ok(known) } else { self.checkpoint().await }
    }

    /// The present database's file.
    pub fn database_path(&self) -> PathBuf {
        self.generations.path(self.writer.state().observe(|state| state.generation))
    }

    /// Ends the writer after what it was asked before, and closes the database.
    pub async fn close(&self) -> Result<(), LocalFailure> {
        self.writer.close().await
    }
}

/// The directory of temporary files: before anything of SQLite's may need it.
fn temporary(directory: &Path) -> Result<Temporary, LocalFailure> {
    let what = "make the directory of temporary files";
    Temporary::open(directory).map_err(|source| LocalFailure::Io { what, source })
}

/// Makes an empty, synced database with the internal table.
fn create(path: &Path) -> Result<(), LocalFailure> {
    create_of(path, &Meta::default())
}

/// The same, whose internal table says `meta`.
fn create_of(path: &Path, meta: &Meta) -> Result<(), LocalFailure> {
    let sqlite = |source| LocalFailure::Sqlite { what: "make the database", source };
    let connection = Connection::open(path).map_err(sqlite)?;
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL").map_err(sqlite)?;
    match *meta == Meta::default() {
        true => meta::create(&connection)?,
        false => meta::create_of(&connection, meta)?,
    }
    // Closing the last connection moves the WAL into the file and syncs it.
    connection.close().map_err(|(_, source)| sqlite(source))?;
    let io = |source| LocalFailure::Io { what: "sync the new database", source };
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(io)
}

/// The library's version, for diagnostics.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}
