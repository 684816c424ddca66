//! A copy of the whole database at one entry, for a member that lacks the log to get there.
//!
//! Sending: a connection of its own pins a read transaction; its pages are read through SQLite (`sqlite_dbpage`) while
//! writes go on, so nothing is staged on disk, and a transfer that broke goes on at any page of the same pin.
//! Receiving: the pages go into the next generation's file, which is synced as it grows, checked, and only then made the
//! present one. Pages that sum up to what the sender's members agree on are those that were written: only where that sum
//! is not known SQLite looks at all of them once more.
//!
//! Source: <https://www.sqlite.org/dbpage.html>.

use super::apply::LocalFailure;
use super::extensions::Shelf;
use super::freelist::Freelist;
use super::generation::Generations;
use super::guard::Purpose;
use super::meta::{self, Meta, MetaError};
use super::pages::{self, Checksum, PageSum};
use super::write_behind::WriteBehind;
use crate::failpoint::{Place, pass};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes read at once when sending.
pub const CHUNK: usize = 1 << 20;
/// The WAL cannot start anew while a snapshot is pinned. It may grow to this size, in bytes, and by the size of the
/// database, before the pin ends.
const WAL_BYTES: u64 = 256 << 20;
/// A pin lasts this long, and as much longer as the database takes at [`SLOWEST`].
const PIN: Duration = Duration::from_secs(60);
/// Bytes per second below which a transfer is hopeless.
const SLOWEST: u64 = 2 << 20;

/// A read transaction on the state at one entry. The WAL cannot start anew while it is held, so it ends by itself.
pub struct PinnedSnapshot {
    connection: Connection,
    wal: PathBuf,
    pinned_at: Instant,
    /// What the state is.
    pub meta: Meta,
    /// Its checksum, if that is known.
    pub checksum: Option<Checksum>,
    /// Size in bytes.
    pub size: u64,
    /// Size of a page in bytes.
    pub page_size: u64,
}

/// How sending the bytes of a pinned snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streamed {
    /// Everything was sent.
    Whole,
    /// The receiver wants no more.
    Stopped,
    /// The pin was held for too long, or the WAL grew too large: the transfer has to start again on a new one.
    Expired,
}

impl PinnedSnapshot {
    /// Pins the newest committed state of the database at `path`.
    pub fn pin(path: &Path) -> Result<Self, LocalFailure> {
        let sqlite = |source| LocalFailure::Sqlite { what: "pin a snapshot", source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        connection.execute_batch("PRAGMA cache_size=-4096; PRAGMA mmap_size=0; BEGIN").map_err(sqlite)?;
        let meta = meta::read(&connection)?.ok_or(MetaError::Damaged("it is missing"))?;
        let number = |pragma| connection.pragma_query_value(None, pragma, |r| r.get::<_, i64>(0));
        let page_size = number("page_size").map_err(sqlite)? as u64;
        let size = number("page_count").map_err(sqlite)? as u64 * page_size;
        let mut wal = path.to_owned().into_os_string();
        wal.push("-wal");
        Ok(Self {
            connection,
            wal: wal.into(),
            pinned_at: Instant::now(),
            meta,
            checksum: None,
            size,
            page_size,
        })
    }

    /// Whether the pin has to end although not everything was sent.
    pub fn has_expired(&self) -> bool {
        let wal_bytes = std::fs::metadata(&self.wal).map_or(0, |wal| wal.len());
        wal_bytes > WAL_BYTES + self.size
            || self.pinned_at.elapsed() > PIN + Duration::from_secs(self.size / SLOWEST)
    }

    /// What sums up the pages of the pinned state, given them in order.
    pub fn page_sum(&self) -> Result<PageSum, LocalFailure> {
        let free = Freelist::read(&self.connection)?.pages(&self.connection)?;
        Ok(PageSum::new(self.page_size as usize, free))
    }

    /// Gives the file's bytes from `offset` on, which is at a page, to `send` in order, in chunks of about [`CHUNK`];
    /// stops early if `send` returns false.
    pub fn stream(
        &self,
        offset: u64,
        mut send: impl FnMut(Vec<u8>) -> bool,
    ) -> Result<Streamed, LocalFailure> {
        let sqlite = |source| LocalFailure::Sqlite { what: "read a snapshot", source };
        if !offset.is_multiple_of(self.page_size) {
            return Err(sqlite(rusqlite::Error::InvalidQuery));
        }
        // The table is scanned from its first page, but the bytes of a page that is passed over are not read.
        let sql = "SELECT data FROM sqlite_dbpage('main') WHERE pgno > ?1 ORDER BY pgno";
        let mut statement = self.connection.prepare(sql).map_err(sqlite)?;
        let mut rows = statement.query([(offset / self.page_size) as i64]).map_err(sqlite)?;
        let room = || Vec::with_capacity(CHUNK + self.page_size as usize);
        let mut chunk = room();
        while let Some(row) = rows.next().map_err(sqlite)? {
            let page = row.get_ref(0).map_err(sqlite)?;
            chunk.extend_from_slice(page.as_blob().map_err(|_| sqlite(rusqlite::Error::InvalidQuery))?);
            if chunk.len() >= CHUNK {
                if !send(std::mem::replace(&mut chunk, room())) {
                    return Ok(Streamed::Stopped);
                }
                if self.has_expired() {
                    return Ok(Streamed::Expired);
                }
            }
        }
        let whole = chunk.is_empty() || send(chunk);
        Ok(if whole { Streamed::Whole } else { Streamed::Stopped })
    }
}

/// A snapshot that is being received into a generation that is not the present one.
#[derive(Debug)]
pub struct StagedSnapshot {
    shelf: Shelf,
    path: PathBuf,
    generation: u64,
    file: WriteBehind,
    len: u64,
    /// Of the pages so far, free ones among them; none if what came is not whole pages.
    sum: Option<PageSum>,
}

/// A complete, checked and synced generation.
#[derive(Debug)]
pub struct ReadySnapshot {
    /// Which generation it will be.
    pub generation: u64,
    /// What the state is.
    pub meta: Meta,
}

impl StagedSnapshot {
    /// Begins generation `generation`, replacing what a transfer cut short may have left of it.
    pub fn create(generations: &Generations, generation: u64, shelf: Shelf) -> io::Result<Self> {
        let path = generations.path(generation);
        for suffix in ["-wal", "-shm"] {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            match std::fs::remove_file(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let file = WriteBehind::new(File::create(&path)?);
        pass(Place::ReceiveStaged)?;
        Ok(Self { shelf, file, path, generation, len: 0, sum: None })
    }

    /// Appends bytes of the file.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if self.len == 0 {
            self.sum = pages::page_size(bytes).map(|size| PageSum::new(size, Vec::new()));
        }
        self.len += bytes.len() as u64;
        match &mut self.sum {
            Some(sum) if bytes.len().is_multiple_of(sum.page_size()) => sum.add(bytes),
            _ => self.sum = None,
        }
        pass(Place::ReceiveChunk)
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.len
    }

    /// Gives its space back.
    pub fn discard(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Checks and syncs the file. `expected` is what the sender said that the state is, and `checksum` its checksum, if the
    /// sender knew it.
    pub fn finish(self, expected: &Meta, checksum: Option<u64>) -> Result<ReadySnapshot, LocalFailure> {
        let io = |what| move |source| LocalFailure::Io { what, source };
        pass(Place::ReceiveComplete).map_err(io("receive a snapshot"))?;
        self.file.finish().map_err(io("sync a received snapshot"))?;
        pass(Place::ReceiveSynced).map_err(io("receive a snapshot"))?;
        let sqlite = |source| LocalFailure::Sqlite { what: "check a received snapshot", source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(sqlite)?;
        let meta = meta::read(&connection)?.ok_or(MetaError::Damaged("it is missing"))?;
        if meta != *expected {
            return Err(MetaError::Format("it is not what the sender announced").into());
        }
        let extensions = self.shelf.load(&meta.extensions)?;
        let is_whole = match (checksum, &self.sum) {
            (Some(expected), Some(sum)) => is_state(&connection, sum, expected)?,
            _ => {
                // Constraints may call their functions.
                extensions.install(&connection, Purpose::Read).map_err(sqlite)?;
                let verdict: String =
                    connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(sqlite)?;
                verdict == "ok"
            }
        };
        if !is_whole {
            return Err(MetaError::Damaged("the database that came with it is not what was sent").into());
        }
        connection.close().map_err(|(_, source)| sqlite(source))?;
        pass(Place::ReceiveChecked).map_err(io("receive a snapshot"))?;
        Ok(ReadySnapshot { generation: self.generation, meta })
    }
}

/// Whether pages that sum up to `sum`, and are what `connection` reads, are the state with the checksum `expected`: free
/// pages do not count there.
fn is_state(connection: &Connection, sum: &PageSum, expected: u64) -> Result<bool, LocalFailure> {
    let freelist = Freelist::read(connection)?;
    let mut found = sum.sum();
    if freelist.count > 0 {
        if u64::from(freelist.count) > sum.pages() {
            return Ok(false);
        }
        let sqlite = |source| LocalFailure::Sqlite { what: "read free pages", source };
        let sql = "SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1";
        let mut statement = connection.prepare(sql).map_err(sqlite)?;
        for page in freelist.pages(connection)? {
            if page == pages::lock_byte_page(sum.page_size()) {
                continue;
            }
            let hash = statement
                .query_row([page], |row| Ok(row.get_ref(0)?.as_blob().map(|data| pages::hash(page, data))?))
                .map_err(sqlite)?;
            found = found.wrapping_sub(hash);
        }
    }
    Ok(found == expected)
}

/// CRC-32C of a chunk at its place in the file, so that a chunk at another place is noticed too.
pub fn chunk_crc(offset: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&offset.to_le_bytes()), bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn database(dir: &Path) -> (Connection, PathBuf) {
        let path = dir.join("db-1.sqlite");
        let c = Connection::open(&path).unwrap();
        c.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").unwrap();
        meta::create(&c).unwrap();
        c.execute_batch(
            "CREATE TABLE t(a, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) \
             INSERT INTO t SELECT i, randomblob(1000) FROM n",
        )
        .unwrap();
        (c, path)
    }

    #[test]
    fn a_transfer_goes_on_at_any_page_of_the_same_state() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, path) = database(dir.path());
        let pinned = PinnedSnapshot::pin(&path).unwrap();
        let mut whole = Vec::new();
        let mut add = |bytes: Vec<u8>| {
            whole.extend(bytes);
            true
        };
        assert_eq!(pinned.stream(0, &mut add).unwrap(), Streamed::Whole);
        assert_eq!(whole.len() as u64, pinned.size);
        // What comes after the pin is not in it.
        writer.execute_batch("DELETE FROM t; VACUUM").unwrap();

        let generations = Generations::new(dir.path());
        let mut staged = StagedSnapshot::create(&generations, 2, Shelf::open(dir.path())).unwrap();
        let first = pinned.stream(0, |bytes| {
            staged.write(&bytes).unwrap();
            false
        });
        assert_eq!(first.unwrap(), Streamed::Stopped);
        let from = staged.received();
        assert!(from > 0 && from < pinned.size);
        let mut rest = |bytes: Vec<u8>| staged.write(&bytes).is_ok();
        assert_eq!(pinned.stream(from, &mut rest).unwrap(), Streamed::Whole);
        let ready = staged.finish(&pinned.meta, None).unwrap();
        assert_eq!(ready.meta, pinned.meta);
        assert_eq!(std::fs::read(generations.path(2)).unwrap(), whole);
        assert!(pinned.stream(1, |_| true).is_err(), "not at a page");
    }

    #[test]
    fn a_damaged_or_different_file_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let (_writer, path) = database(dir.path());
        let pinned = PinnedSnapshot::pin(&path).unwrap();
        let generations = Generations::new(dir.path());
        let mut bytes = Vec::new();
        let mut add = |chunk: Vec<u8>| {
            bytes.extend(chunk);
            true
        };
        pinned.stream(0, &mut add).unwrap();
        let receive = |bytes: &[u8], expected: &Meta| {
            let mut staged = StagedSnapshot::create(&generations, 2, Shelf::open(dir.path())).unwrap();
            staged.write(bytes).unwrap();
            staged.finish(expected, None)
        };
        for cut in [0, 16, bytes.len() / 2] {
            assert!(receive(&bytes[..cut], &pinned.meta).is_err(), "cut to {cut}");
        }
        let other = Meta { epoch: 7, ..pinned.meta.clone() };
        assert!(receive(&bytes, &other).is_err());
        let leaf = bytes.len() / 2 / 4096 * 4096;
        let mut damaged = bytes.clone();
        damaged[leaf..leaf + 100].fill(0xff);
        assert!(receive(&damaged, &pinned.meta).is_err());
        assert!(receive(&bytes, &pinned.meta).is_ok());
    }

    #[test]
    fn pages_that_sum_up_to_the_state_are_not_looked_at_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, path) = database(dir.path());
        let value = "a value that stands by itself";
        let filled = format!(
            "CREATE TABLE u AS SELECT * FROM t; DROP TABLE u; CREATE TABLE v AS SELECT '{value}' AS a"
        );
        writer.execute_batch(&filled).unwrap();
        let pinned = PinnedSnapshot::pin(&path).unwrap();
        let mut bytes = Vec::new();
        let mut sum = pinned.page_sum().unwrap();
        let mut add = |chunk: Vec<u8>| {
            sum.add(&chunk);
            bytes.extend(chunk);
            true
        };
        pinned.stream(0, &mut add).unwrap();
        let free = Freelist::read(&writer).unwrap().pages(&writer).unwrap();
        assert!(free.len() > 100, "there are free pages");
        let generations = Generations::new(dir.path());
        let receive = |bytes: &[u8], cuts: usize, checksum: Option<u64>| {
            let mut staged = StagedSnapshot::create(&generations, 2, Shelf::open(dir.path())).unwrap();
            bytes.chunks(cuts).for_each(|piece| staged.write(piece).unwrap());
            staged.finish(&pinned.meta, checksum)
        };
        let sum = sum.sum();
        receive(&bytes, CHUNK, Some(sum)).unwrap();
        assert!(receive(&bytes, CHUNK, Some(sum ^ 1)).is_err());
        // In the middle of a value: SQLite has no reason to notice it.
        let at = bytes.windows(value.len()).position(|window| window == value.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        receive(&changed, CHUNK, None).unwrap();
        assert!(receive(&changed, CHUNK, Some(sum)).is_err());
        // What is in a free page does not count.
        let mut elsewhere = bytes.clone();
        let leaf = *free.last().unwrap() as usize * 4096;
        elsewhere[leaf - 1] ^= 1;
        receive(&elsewhere, CHUNK, Some(sum)).unwrap();
        // Pieces that are not whole pages: then it does look.
        receive(&bytes, 1000, Some(sum)).unwrap();
        let inner = bytes.len() / 4 / 4096 * 4096;
        changed[inner..inner + 100].fill(0xff);
        assert!(receive(&changed, 1000, Some(sum)).is_err());
    }

    #[test]
    fn a_chunk_elsewhere_is_another_chunk() {
        assert_ne!(chunk_crc(0, b"x"), chunk_crc(4096, b"x"));
        assert_ne!(chunk_crc(0, b"x"), chunk_crc(0, b"y"));
    }
}
