//! A database that comes from elsewhere and is to be gone on with: put in its place before the store is opened, and looked
//! at when the store is closed.

use super::canonical::own_tables;
use super::extensions::Loaded;
use super::generation::Generations;
use super::guard::Purpose;
use super::meta;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first generation of a data directory that has none.
pub struct Seed {
    generations: Generations,
}

impl Seed {
    /// In `directory`, which is made.
    pub fn new(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let generations = Generations::new(directory);
        match generations.present()? {
            None => Ok(Self { generations }),
            Some(_) => Err(io::Error::other(format!("{} holds a database already", directory.display()))),
        }
    }

    /// Where the file belongs.
    pub fn path(&self) -> PathBuf {
        self.generations.path(1)
    }

    /// The file is complete: [`super::Store::open`] goes on with it.
    pub fn finish(self) -> io::Result<()> {
        File::open(self.path())?.sync_all()?;
        self.generations.activate(1)
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.execute_batch("PRAGMA query_only=ON; PRAGMA cache_size=-16384; PRAGMA mmap_size=0")?;
    Ok(connection)
}

/// Checks all of the database at `path`, whose indexes and constraints may call functions of `extensions`; an error says
/// what is wrong. Blocks.
pub fn integrity(path: &Path, extensions: &Loaded) -> Result<(), String> {
    let check = || {
        let connection = open(path)?;
        extensions.install(&connection, Purpose::Read)?;
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
    };
    match check() {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(verdict),
        Err(error) => Err(error.to_string()),
    }
}

/// The first column of the first row that `sql` answers on the database at `path`, as text; none without a row. Blocks.
pub fn first_value(path: &Path, sql: &str, extensions: &Loaded) -> Result<Option<String>, String> {
    let read = || {
        let connection = open(path)?;
        extensions.install(&connection, Purpose::Read)?;
        connection
            .query_row(sql, [], |row| {
                Ok(match row.get_ref(0)? {
                    ValueRef::Null => "NULL".to_owned(),
                    ValueRef::Integer(n) => n.to_string(),
                    ValueRef::Real(n) => n.to_string(),
                    ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                })
            })
            .optional()
    };
    read().map_err(|error| error.to_string())
}

/// Writes the mark ([`super::Meta::mark`]) into the database at `path`, one of ours that nobody has open. Blocks.
pub fn write_mark(path: &Path, mark: &[u8]) -> Result<(), String> {
    let write = || -> Result<(), meta::MetaError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        meta::write_mark(&connection, mark)?;
        connection.execute_batch("COMMIT")?;
        // Closing the only connection moves the WAL into the file.
        Ok(connection.close().map_err(|(_, error)| error)?)
    };
    write().map_err(|error| error.to_string())
}

/// How long whoever still reads is waited for.
const READ: Duration = Duration::from_secs(60);

/// Moves all that the WAL of the database at `path` holds into the file. Blocks.
pub fn into_one_file(path: &Path) -> Result<(), String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let moved = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(READ)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
    };
    match moved() {
        Ok(false) => Ok(()),
        Ok(true) => Err("it could not be brought into one file: somebody reads it".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The mark of the database at `path`. Blocks.
pub fn read_mark(path: &Path) -> Result<Vec<u8>, String> {
    let read = || Ok(meta::read_existing(&open(path)?)?.mark);
    read().map_err(|error: meta::MetaError| error.to_string())
}

/// Whether entries were applied to the database at `path`, one of ours that nobody has open. Blocks.
pub fn holds_entries(path: &Path) -> Result<bool, String> {
    let read = || Ok(meta::read(&open(path)?)?.is_some_and(|meta| meta.applied.log_id.is_some()));
    read().map_err(|error: meta::MetaError| error.to_string())
}

/// Whether the database at `path` has any table, index, view or trigger of users. Blocks.
pub fn holds_anything(path: &Path) -> Result<bool, String> {
    let read = || {
        let connection = open(path)?;
        let all = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'";
        let tables: i64 = connection.query_row(all, [], |row| row.get(0))?;
        Ok(tables as usize > own_tables(&connection)?.len())
    };
    read().map_err(|error: rusqlite::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_in_the_wal_comes_into_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db-1.sqlite");
        let writer = Connection::open(&path).unwrap();
        writer.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        writer.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1)").unwrap();
        writer.close().unwrap();
        into_one_file(&path).unwrap();
        let moved = dir.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(first_value(&moved, "SELECT a FROM t", &Loaded::none()).unwrap().as_deref(), Some("1"));
    }
}
