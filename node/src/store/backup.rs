//! Copies of the database for clients: without the internal table, while writes go on, and without holding more of it
//! in memory than a few pieces.
//!
//! A binary copy is read page by page through one pinned read transaction (`sqlite_dbpage`), so nothing is staged on
//! disk. The internal table is taken out on the way: the few pages that dropping it touches (the schema, the table, the
//! head of the freelist) are put into a sparse scratch file, SQLite drops the table there, and those pages go out in
//! place of the originals. Which journal mode the copy claims is two bytes of its header.
//!
//! A client that reads slowly would keep the pin, and the WAL would grow with every write: what such a client has not
//! taken is moved to a scratch file at the disk's speed, and the pin ends.

use super::canonical::own_tables;
use super::dump;
use super::extensions::Loaded;
use super::guard::Purpose;
use super::staging::{Scratch, Staging};
use super::text::quoted;
use flate2::Compression;
use flate2::write::GzEncoder;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupFormat {
    /// A database file.
    Binary {
        /// Its header says WAL mode, else DELETE mode.
        wal: bool,
        /// Without free space.
        vacuum: bool,
    },
    /// SQL text.
    Sql {
        /// Of these tables only; all if empty.
        tables: Vec<String>,
    },
}

/// How a backup is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOptions {
    /// What it is.
    pub format: BackupFormat,
    /// Compressed with gzip.
    pub compress: bool,
}

/// Why a backup is not whole.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// SQLite failed.
    #[error("{what}: {source}")]
    Sqlite {
        /// What was being done.
        what: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A scratch file could not be written, or nobody reads the backup any more.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<rusqlite::Error> for BackupError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite { what: "read a backup", source }
    }
}

/// Takes pieces of a backup.
pub trait Outlet {
    /// Gives a piece on; returns it if nobody takes it for a while.
    fn offer(&mut self, piece: Vec<u8>) -> io::Result<Option<Vec<u8>>>;
    /// Gives a piece on, however long it takes.
    fn give(&mut self, piece: Vec<u8>) -> io::Result<()>;
}

/// Writes a backup of the database at `path`. Blocks.
pub fn write_backup(
    path: &Path,
    staging: &Staging,
    options: &BackupOptions,
    extensions: &Loaded,
    outlet: &mut dyn Outlet,
) -> Result<(), BackupError> {
    let mut pieces = Pieces { outlet, staging, piece: Vec::with_capacity(PIECE), moved: None };
    if options.compress {
        let mut gzip = GzEncoder::new(&mut pieces, Compression::fast());
        write_plain((path, extensions), staging, &options.format, &mut gzip)?;
        gzip.finish()?;
    } else {
        write_plain((path, extensions), staging, &options.format, &mut pieces)?;
    }
    // By now the read transaction has ended.
    Ok(pieces.finish()?)
}

fn write_plain(
    (path, extensions): (&Path, &Loaded),
    staging: &Staging,
    format: &BackupFormat,
    out: &mut dyn Write,
) -> Result<(), BackupError> {
    match format {
        BackupFormat::Sql { tables } => {
            let connection = open_reader(path, extensions)?;
            Ok(dump::write_dump(&connection, tables, out)?)
        }
        BackupFormat::Binary { wal, vacuum: false } => write_pages(path, staging, *wal, out),
        BackupFormat::Binary { wal, vacuum: true } => write_vacuumed((path, extensions), staging, *wal, out),
    }
}

/// Opens a connection of the product's own for reading: indexes and generated columns may call functions of `extensions`.
fn open_reader(path: &Path, extensions: &Loaded) -> Result<Connection, BackupError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch("PRAGMA cache_size=-4096; PRAGMA mmap_size=0; PRAGMA busy_timeout=5000")?;
    extensions.install(&connection, Purpose::Read)?;
    Ok(connection)
}

fn write_pages(path: &Path, staging: &Staging, wal: bool, out: &mut dyn Write) -> Result<(), BackupError> {
    let connection = open_reader(path, &Loaded::none())?;
    connection.execute_batch("BEGIN")?;
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64);
    let page_size = number("PRAGMA page_size")? as usize;
    let changed = Changed::without_own_tables(&connection, staging, page_size)?;
    let sql = "SELECT pgno, data FROM sqlite_dbpage('main') ORDER BY pgno";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut replaced = vec![0; page_size];
    while let Some(row) = rows.next()? {
        let number = row.get::<_, i64>(0)? as u64;
        if changed.pages.contains(&number) {
            changed.file.read_exact_at(&mut replaced, (number - 1) * page_size as u64)?;
            if number == 1 {
                replaced[18..20].fill(journal_version(wal));
            }
            out.write_all(&replaced)?;
        } else {
            let page = row.get_ref(1)?.as_blob().map_err(|_| rusqlite::Error::InvalidQuery)?;
            out.write_all(page)?;
        }
    }
    Ok(())
}

/// Bytes 18 and 19 of a database's header.
fn journal_version(wal: bool) -> u8 {
    if wal { 2 } else { 1 }
}

/// Makes a database file claim WAL or DELETE mode.
pub fn set_journal_version(path: &Path, wal: bool) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all_at(&[journal_version(wal); 2], 18)
}

/// The pages that differ in a copy without the internal table.
struct Changed {
    pages: BTreeSet<u64>,
    file: File,
    _scratch: Scratch,
}

impl Changed {
    fn without_own_tables(
        connection: &Connection,
        staging: &Staging,
        page_size: usize,
    ) -> Result<Self, BackupError> {
        let own = own_tables(connection)?;
        let count = connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))? as u64;
        let mut page = connection.prepare("SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1")?;
        let mut page =
            |number: u64| -> rusqlite::Result<Vec<u8>> { page.query_row([number as i64], |row| row.get(0)) };
        let header = page(1)?;
        let mut pages = BTreeSet::from([1]);
        pages.extend(freelist_head(&header));
        // Dropping a table looks for what ANALYZE knows of it, too.
        let looked_at = ["sqlite_schema", "sqlite_stat1", "sqlite_stat3", "sqlite_stat4", "sqlite_sequence"];
        let exists = |name: &str| -> rusqlite::Result<bool> {
            let sql = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
            connection.query_row(sql, [name], |row| row.get(0))
        };
        for table in looked_at.into_iter().chain(own.iter().map(String::as_str)) {
            if table == "sqlite_schema" || exists(table)? {
                pages.extend(pages_of(connection, table)?);
            }
        }
        for table in &own {
            for index in indexes_of(connection, table)? {
                pages.extend(pages_of(connection, &index)?);
            }
        }
        let scratch = staging.scratch();
        let file = File::options().create_new(true).read(true).write(true).open(scratch.path())?;
        file.set_len(count * page_size as u64)?;
        for number in &pages {
            file.write_all_at(&page(*number)?, (number - 1) * page_size as u64)?;
        }
        pages.extend(leave_out_own_tables(scratch.path())?);
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0)?;
        pages.extend(freelist_head(&header));
        Ok(Self { pages, file, _scratch: scratch })
    }
}

/// The first page of the freelist.
fn freelist_head(header: &[u8]) -> Option<u64> {
    let head = u32::from_be_bytes([header[32], header[33], header[34], header[35]]);
    (head != 0).then_some(head.into())
}

/// Names of a table's indexes, but for the one that a table without rowids is itself.
fn indexes_of(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1";
    connection.prepare(sql)?.query_map([table], |row| row.get(0))?.collect()
}

/// Every page of a table or an index, also of values too large for its tree.
fn pages_of(connection: &Connection, table: &str) -> rusqlite::Result<Vec<u64>> {
    let mut statement = connection.prepare("SELECT pageno FROM dbstat WHERE name = ?1")?;
    statement.query_map([table], |row| row.get::<_, i64>(0).map(|n| n as u64))?.collect()
}

/// Takes the internal table out of the database at `path`, which nobody has open and whose WAL is in the file, in place, and
/// leaves it in DELETE mode; returns the pages of the schema afterwards. What a crash leaves of it is no database: it counts
/// only once it is synced. Blocks.
pub fn leave_out_own_tables(path: &Path) -> Result<Vec<u64>, BackupError> {
    let what = |source| BackupError::Sqlite { what: "leave out the internal table", source };
    set_journal_version(path, false)?;
    let without = || -> rusqlite::Result<Vec<u64>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch(
            "PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;
             PRAGMA secure_delete=ON; PRAGMA foreign_keys=OFF; PRAGMA mmap_size=0",
        )?;
        for table in own_tables(&connection)? {
            connection.execute_batch(&format!("DROP TABLE {}", quoted(&table)))?;
        }
        pages_of(&connection, "sqlite_schema")
    };
    without().map_err(what)
}

fn write_vacuumed(
    (path, extensions): (&Path, &Loaded),
    staging: &Staging,
    wal: bool,
    out: &mut dyn Write,
) -> Result<(), BackupError> {
    let scratch = staging.scratch();
    staging.check_room(std::fs::metadata(path)?.len())?;
    let connection = open_reader(path, extensions)?;
    let target = scratch.path().to_str().ok_or_else(|| io::Error::other("a path that is not UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [target])?;
    drop(connection);
    leave_out_own_tables(scratch.path())?;
    set_journal_version(scratch.path(), wal)?;
    io::copy(&mut File::open(scratch.path())?, out)?;
    Ok(())
}

/// Gathers what is written into pieces and gives them on; moves them to disk if nobody takes them.
struct Pieces<'a> {
    outlet: &'a mut dyn Outlet,
    staging: &'a Staging,
    piece: Vec<u8>,
    moved: Option<File>,
}

impl Pieces<'_> {
    fn pass(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        if let Some(moved) = &mut self.moved {
            return moved.write_all(&piece);
        }
        if let Some(piece) = self.outlet.offer(piece)? {
            let mut file = self.staging.unnamed()?;
            file.write_all(&piece)?;
            self.moved = Some(file);
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        if !self.piece.is_empty() {
            self.pass()?;
        }
        let Some(mut moved) = self.moved else { return Ok(()) };
        moved.seek(SeekFrom::Start(0))?;
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            (&mut moved).take(PIECE as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                return Ok(());
            }
            self.outlet.give(piece)?;
        }
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() == PIECE {
            self.pass()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::meta;
    use super::*;

    /// Takes so many pieces at once, then none until it is given them.
    struct Taking {
        bytes: Vec<u8>,
        patience: usize,
        given: usize,
    }

    impl Outlet for Taking {
        fn offer(&mut self, piece: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
            let Some(patience) = self.patience.checked_sub(1) else { return Ok(Some(piece)) };
            self.patience = patience;
            self.bytes.extend(piece);
            Ok(None)
        }

        fn give(&mut self, piece: Vec<u8>) -> io::Result<()> {
            self.given += 1;
            self.bytes.extend(piece);
            Ok(())
        }
    }

    fn taking(patience: usize) -> Taking {
        Taking { bytes: Vec::new(), patience, given: 0 }
    }

    const ROWS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 2000)
         INSERT INTO t(b) SELECT randomblob(2000) FROM c";

    /// A database as the store has it, with its writer's connection open.
    fn database(dir: &Path, setup: &str) -> (std::path::PathBuf, Connection, Staging) {
        let path = dir.join("db.sqlite");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").unwrap();
        meta::create(&connection).unwrap();
        connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, b)").unwrap();
        connection.execute_batch(setup).unwrap();
        (path, connection, Staging::open(dir).unwrap())
    }

    fn check(dir: &Path, bytes: &[u8], wal: bool) -> Connection {
        assert_eq!(bytes[18..20], [journal_version(wal); 2]);
        let copy = dir.join("copy.sqlite");
        std::fs::write(&copy, bytes).unwrap();
        let connection = Connection::open(&copy).unwrap();
        let one = |sql: &str| {
            let text = |r: &rusqlite::Row<'_>| {
                Ok(match r.get_ref(0)? {
                    rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                    other => other.as_str()?.to_owned(),
                })
            };
            connection.query_row(sql, [], text).unwrap()
        };
        assert_eq!(one("PRAGMA integrity_check"), "ok");
        assert_eq!(one("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%sqlited%'"), "0");
        connection
    }

    fn binary(wal: bool, vacuum: bool) -> BackupOptions {
        BackupOptions { format: BackupFormat::Binary { wal, vacuum }, compress: false }
    }

    fn setups() -> [String; 5] {
        let many_tables = (0..400).map(|n| format!("CREATE TABLE many_{n}(a, b, c, d UNIQUE);")).collect();
        let with_free_pages =
            format!("{ROWS}; DELETE FROM t WHERE id % 3 = 0; CREATE TABLE u(a); DROP TABLE u");
        let analysed = format!("{ROWS}; CREATE INDEX i ON t(b); ANALYZE");
        [String::new(), ROWS.into(), with_free_pages, many_tables, analysed]
    }

    /// What tells contents of the table apart.
    fn content(connection: &Connection) -> (i64, i64, String) {
        let sql = "SELECT count(*), coalesce(sum(length(b)), 0), coalesce(max(hex(b)), '') FROM t";
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
    }

    #[test]
    fn copies_are_whole_and_without_the_internal_table_whatever_the_schema() {
        for setup in setups() {
            for (wal, vacuum) in [(true, false), (false, false), (true, true), (false, true)] {
                let dir = tempfile::tempdir().unwrap();
                let (path, live, staging) = database(dir.path(), &setup);
                let mut out = taking(usize::MAX);
                write_backup(&path, &staging, &binary(wal, vacuum), &Loaded::none(), &mut out).unwrap();
                let copy = check(dir.path(), &out.bytes, wal);
                assert_eq!(content(&copy), content(&live));
                assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
            }
        }
    }

    #[test]
    fn the_internal_table_is_left_out_in_place_whatever_the_schema() {
        for setup in setups() {
            let dir = tempfile::tempdir().unwrap();
            let (path, live, _staging) = database(dir.path(), &setup);
            let before = content(&live);
            // The last one who closes it moves the WAL into it.
            live.close().unwrap();
            leave_out_own_tables(&path).unwrap();
            let left = check(dir.path(), &std::fs::read(&path).unwrap(), false);
            assert_eq!(content(&left), before);
            assert!(!dir.path().join("db.sqlite-wal").exists());
        }
    }

    #[test]
    fn a_slow_reader_gets_the_state_of_the_beginning_and_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let (path, live, staging) = database(dir.path(), ROWS);
        let mut out = taking(2);
        write_backup(&path, &staging, &binary(true, false), &Loaded::none(), &mut out).unwrap();
        assert!(out.given >= 2, "{}", out.given);
        live.execute_batch("DELETE FROM t").unwrap();
        let copy = check(dir.path(), &out.bytes, true);
        assert_eq!(copy.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)).unwrap(), 2000);
    }

    #[test]
    fn gzip() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _live, staging) = database(dir.path(), ROWS);
        let mut out = taking(usize::MAX);
        let options = BackupOptions { compress: true, ..binary(true, false) };
        write_backup(&path, &staging, &options, &Loaded::none(), &mut out).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&out.bytes[..]).read_to_end(&mut plain).unwrap();
        check(dir.path(), &plain, true);
    }
}
