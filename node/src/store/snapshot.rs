//! A copy of the whole database at one entry, for a member that lacks the log to get there.
//!
//! Sending: a connection of its own pins a read transaction; its pages are read through SQLite (`sqlite_dbpage`) while
//! writes go on, so nothing is staged on disk. Receiving: the pages go into the next generation's file, which is
//! checked, synced, and only then made the present one.
//!
//! Source: <https://www.sqlite.org/dbpage.html>.

use super::apply::LocalFailure;
use super::generation::Generations;
use super::meta::{self, Meta, MetaError};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Bytes read at once when sending.
pub const CHUNK: usize = 1 << 20;

/// A read transaction on the state at one entry. The WAL cannot start anew while it is held, so holders have a deadline.
pub struct PinnedSnapshot {
    connection: Connection,
    /// What the state is.
    pub meta: Meta,
    /// Size in bytes.
    pub size: u64,
}

impl PinnedSnapshot {
    /// Pins the newest committed state of the database at `path`.
    pub fn pin(path: &Path) -> Result<Self, LocalFailure> {
        let sqlite = |source| LocalFailure::Sqlite { what: "pin a snapshot", source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        connection.execute_batch("PRAGMA cache_size=-4096; PRAGMA mmap_size=0; BEGIN").map_err(sqlite)?;
        let meta = meta::read(&connection)?.ok_or(MetaError::Format("it is missing"))?;
        let size = connection
            .query_row("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size", [], |r| {
                r.get::<_, i64>(0)
            })
            .map_err(sqlite)?;
        Ok(Self { connection, meta, size: size as u64 })
    }

    /// Gives the file's bytes to `send` in order, in chunks of about [`CHUNK`]; stops early if `send` returns false.
    /// Returns whether everything was sent.
    pub fn stream(&self, mut send: impl FnMut(Vec<u8>) -> bool) -> Result<bool, LocalFailure> {
        let sqlite = |source| LocalFailure::Sqlite { what: "read a snapshot", source };
        let sql = "SELECT data FROM sqlite_dbpage('main') ORDER BY pgno";
        let mut statement = self.connection.prepare(sql).map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        let mut chunk = Vec::with_capacity(CHUNK + (64 << 10));
        while let Some(row) = rows.next().map_err(sqlite)? {
            let page = row.get_ref(0).map_err(sqlite)?;
            chunk.extend_from_slice(page.as_blob().map_err(|_| sqlite(rusqlite::Error::InvalidQuery))?);
            if chunk.len() >= CHUNK
                && !send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK + (64 << 10))))
            {
                return Ok(false);
            }
        }
        Ok(chunk.is_empty() || send(chunk))
    }
}

/// A snapshot that is being received into a generation that is not the present one.
pub struct StagedSnapshot {
    path: PathBuf,
    generation: u64,
    file: File,
    crc: u32,
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
    pub fn create(generations: &Generations, generation: u64) -> std::io::Result<Self> {
        let path = generations.path(generation);
        for suffix in ["-wal", "-shm"] {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            match std::fs::remove_file(name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(Self { file: File::create(&path)?, path, generation, crc: 0 })
    }

    /// Appends bytes of the file.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.crc = crc32c(self.crc, bytes);
        self.file.write_all(bytes)
    }

    /// CRC-32C of what was written.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Checks and syncs the file. `expected` is what the sender said that the state is.
    pub fn finish(self, expected: &Meta) -> Result<ReadySnapshot, LocalFailure> {
        let io = |what| move |source| LocalFailure::Io { what, source };
        self.file.sync_all().map_err(io("sync a received snapshot"))?;
        drop(self.file);
        let sqlite = |source| LocalFailure::Sqlite { what: "check a received snapshot", source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(sqlite)?;
        let meta = meta::read(&connection)?.ok_or(MetaError::Format("it is missing"))?;
        if meta != *expected {
            return Err(MetaError::Format("it is not what the sender announced").into());
        }
        let verdict: String =
            connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(sqlite)?;
        if verdict != "ok" {
            return Err(MetaError::Format("the database that came with it is damaged").into());
        }
        connection.close().map_err(|(_, source)| sqlite(source))?;
        Ok(ReadySnapshot { generation: self.generation, meta })
    }
}

/// CRC-32C, continued from `crc`.
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}
