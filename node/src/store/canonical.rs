//! Makes a database of ours out of a file that a client sent, in a process of its own that may do little else: the file
//! may have been made to harm whoever opens it.
//!
//! The child is this program again, with a hidden subcommand. Before it looks at the file it limits itself: memory,
//! processor time, size of what it writes, open files, no core; and confines itself to that file and to a directory of its
//! own (`confinement.rs`). It checks the whole file, then writes a *canonical* one
//! (`VACUUM INTO`: the layout depends on the content only as SQLite writes it, pages of 4 KiB, no auto-vacuum), drops
//! what has a name of ours, refuses what a user could not have made (a table whose CHECK asks for SQLite's version, a row
//! with the largest rowid) and adds a fresh internal table. What a crafted file can do to the child ends with it. A large
//! file is checked and rewritten at the same time, on two threads; what is written goes to the disk meanwhile.
//!
//! Where SQL text is taken too, the child first runs it, under the rules for statements of users, on an empty database.

use super::confinement::{Lacks, confine};
use super::empty_rows;
use super::encode::error_text;
use super::extensions::{ExtensionError, ExtensionSet, Loaded, Shelf};
use super::guard::{Guard, Purpose};
use super::largest_rowid;
use super::meta::{self, RESERVED_PREFIX};
use super::pages;
use super::script::Statements;
use super::temporary::{ELSEWHERE, Temporary};
use super::text::quoted;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// The subcommand; not for people.
pub const SUBCOMMAND: &str = "write-canonical-database";
/// How a SQLite file begins.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER: usize = 100;
/// Address space of the child, in bytes.
const MEMORY: u64 = 512 << 20;
/// Files open in the child.
const FILES: u64 = 16;
/// Processor time of the child in seconds: at least, and for each 64 MiB of the file.
const SECONDS: u64 = 60;
const SECONDS_PER_64_MIB: u64 = 10;
/// The canonical file may be so much larger than the file it is made of.
const ALLOWANCE: u64 = 16 << 20;
/// Indexes may make so many times the size of the text out of SQL text, and running it takes so many times longer.
const OF_TEXT: u64 = 4;
/// From this size on a file is rewritten while it is checked. What is wrong with a smaller one is better told first: a file
/// that was made to have no end would be, by the limit on what is written.
const AT_ONCE: u64 = 64 << 20;
/// How often it is looked at how much the child has written, and after how many bytes more that is synced.
const LOOK: Duration = Duration::from_millis(100);
const SYNC_BYTES: u64 = 16 << 20;
/// Of a statement that fails, so much is repeated, in characters.
const EXCERPT: usize = 80;
/// Third argument of the subcommand: what is taken.
const ONLY_DATABASE: &str = "database";
const OR_SQL: &str = "or-sql";

/// What is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Database files.
    Database,
    /// SQL text as well.
    DatabaseOrSql,
}

/// What the child makes in its directory: the canonical file, and of SQL text a database before that.
const OUTPUT: &str = "database";
const RUN: &str = "run";

/// What the child is to do.
#[derive(Clone, Debug)]
pub struct Order {
    input: PathBuf,
    /// The directory that it works in.
    room: PathBuf,
    taken: Taken,
    /// On whose shelf which extensions are.
    extensions: Option<(PathBuf, ExtensionSet)>,
}

impl Order {
    /// What the arguments of the subcommand say; none if they make no sense.
    pub fn parse(arguments: &[String]) -> Option<Self> {
        let [input, room, taken, extensions @ ..] = arguments else { return None };
        let taken = match taken.as_str() {
            ONLY_DATABASE => Taken::Database,
            OR_SQL => Taken::DatabaseOrSql,
            _ => return None,
        };
        let extensions = if extensions.is_empty() { None } else { Some(Loaded::of_arguments(extensions)?) };
        Some(Self { input: input.into(), room: room.into(), taken, extensions })
    }
}

/// A file does not become a database of ours.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// The file is not a database, damaged, or of a kind that is not taken.
    #[error("invalid SQLite data: {0}")]
    Invalid(String),
    /// The child could not be run.
    #[error("check a database: {0}")]
    Io(#[from] io::Error),
}

/// Why the child refuses a file; its text is what the client reads.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not taken.
    #[error("{0}")]
    Kind(&'static str),
    /// It is damaged.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A user could not have made something in it.
    #[error("{name}: {message}")]
    Schema {
        /// What it is called.
        name: String,
        /// Why.
        message: String,
    },
    /// A statement of SQL text failed.
    #[error("statement {number}, {excerpt:?}: {message}")]
    Statement {
        /// Which one, from 1.
        number: u64,
        /// How it begins.
        excerpt: String,
        /// Why.
        message: String,
    },
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The extensions are not there.
    #[error(transparent)]
    Extensions(#[from] ExtensionError),
    /// The internal table could not be made.
    #[error(transparent)]
    Meta(#[from] meta::MetaError),
    /// A file could not be read or written, or a limit not set.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the child on `input`; afterwards `output`, on the disk of `temporary`, is the canonical file, not synced.
pub async fn write_in_child(
    input: &Path,
    output: &Path,
    taken: Taken,
    extensions: &Loaded,
    (temporary, lacks): (&Temporary, &Lacks),
) -> Result<(), CanonicalError> {
    let size = std::fs::metadata(input)?.len();
    let room = temporary.room()?;
    let written = room.path.join(OUTPUT);
    let child = tokio::process::Command::new(std::env::current_exe()?)
        .arg(SUBCOMMAND)
        .args([input, &room.path])
        .arg(if taken == Taken::DatabaseOrSql { OR_SQL } else { ONLY_DATABASE })
        .args(extensions.arguments())
        .env_clear()
        .env(ELSEWHERE, &room.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // Waiting for the disk costs no processor time, but must end too.
    let patience = Duration::from_secs(10 * cpu_seconds(size, taken == Taken::DatabaseOrSql));
    let mut running = std::pin::pin!(tokio::time::timeout(patience, child.wait_with_output()));
    let mut synced = 0;
    let done = loop {
        tokio::select! {
            done = &mut running => break done,
            () = tokio::time::sleep(LOOK) => {}
        }
        // Not cut short: that a disk fails is told once, to whoever syncs next.
        let written = written.clone();
        synced = tokio::task::spawn_blocking(move || sync_grown(&written, synced))
            .await
            .map_err(io::Error::from)??;
    };
    let Ok(done) = done else { return Err(CanonicalError::Invalid("checking it took too long".into())) };
    let done = done?;
    lacks.note(&done.stdout);
    match done.status.code() {
        Some(0) => Ok(std::fs::rename(&written, output)?),
        Some(_) => {
            let said = String::from_utf8_lossy(&done.stderr);
            let said: String = said.lines().last().unwrap_or_default().chars().take(300).collect();
            Err(CanonicalError::Invalid(said))
        }
        None => Err(CanonicalError::Invalid("checking it took more than it may".into())),
    }
}

/// Syncs a file of which `synced` bytes are on disk, if it is there and has grown by enough; returns how many are then.
fn sync_grown(path: &Path, synced: u64) -> io::Result<u64> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(synced),
        opened => opened?,
    };
    let size = file.metadata()?.len();
    if size < synced + SYNC_BYTES {
        return Ok(synced);
    }
    file.sync_data().map(|()| size)
}

fn cpu_seconds(size: u64, is_text: bool) -> u64 {
    let each = SECONDS_PER_64_MIB * if is_text { OF_TEXT } else { 1 };
    SECONDS + each * (size >> 26)
}

/// What the child does. `tell` is given what keeps it from confining itself, in words.
pub fn child(order: &Order, tell: impl FnMut(String)) -> Result<(), Refused> {
    let Order { input, room, taken, extensions } = order;
    // Before it limits itself: a library may want more when it is opened.
    let extensions = match extensions {
        Some((data_dir, set)) => Shelf::open(data_dir).load(set)?,
        None => Loaded::none(),
    };
    let size = std::fs::metadata(input)?.len();
    let is_text = *taken == Taken::DatabaseOrSql && !is_database(input)?;
    let largest = if is_text { size.saturating_mul(OF_TEXT) } else { size + size / 2 };
    let io = |e: rustix::io::Errno| Refused::Io(e.into());
    let limit = |resource, value| {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }).map_err(io)
    };
    limit(Resource::As, MEMORY)?;
    limit(Resource::Cpu, cpu_seconds(size, is_text))?;
    limit(Resource::Fsize, largest.saturating_add(ALLOWANCE))?;
    limit(Resource::Nofile, FILES)?;
    limit(Resource::Core, 0)?;
    confine(input, room).into_iter().for_each(tell);
    let output = room.join(OUTPUT);
    if !is_text {
        return write_canonical(input, &output, &extensions);
    }
    let run = room.join(RUN);
    run_text(input, &run, &extensions)?;
    write_canonical(&run, &output, &extensions)
}

fn is_database(path: &Path) -> io::Result<bool> {
    let mut beginning = Vec::new();
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut beginning)?;
    Ok(beginning == MAGIC)
}

/// Makes the database `output` by running the SQL text `input`, all of it or nothing.
fn run_text(input: &Path, output: &Path, extensions: &Arc<Loaded>) -> Result<(), Refused> {
    let mut connection = Connection::open(output)?;
    // A database that did not become complete is thrown away.
    connection.execute_batch("PRAGMA page_size=4096; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")?;
    configure(&connection, Purpose::Write, extensions)?;
    let guard = Guard::install(&mut connection, Purpose::Write, extensions)?;
    let mut statements = Statements::of(File::open(input)?);
    let mut number = 0;
    connection.execute_batch("BEGIN")?;
    while let Some(statement) = statements.next()? {
        number += 1;
        let ran = guard.guarded(|| {
            let mut statement = connection.prepare(statement)?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        });
        ran.map_err(|error: rusqlite::Error| Refused::Statement {
            number,
            excerpt: statement.chars().take(EXCERPT).collect(),
            message: guard.explain(&error).unwrap_or_else(|| error.to_string()),
        })?;
    }
    if number == 0 {
        return Err(Refused::Kind("it holds no statement"));
    }
    connection.execute_batch("COMMIT")?;
    Ok(connection.close().map_err(|(_, error)| error)?)
}

/// Checks `input` and writes `output`.
pub fn write_canonical(input: &Path, output: &Path, extensions: &Arc<Loaded>) -> Result<(), Refused> {
    check_header(input)?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    // There is no WAL beside the file, and none is to be made. Opened as immutable SQLite would take it for a temporary
    // file, whose page size VACUUM keeps.
    super::backup::set_journal_version(input, false)?;
    let uri = format!("file:{}?mode=ro", uri_path(input)?);
    let open = || -> Result<Connection, Refused> {
        let connection = Connection::open_with_flags(&uri, flags)?;
        configure(&connection, Purpose::Read, extensions)?;
        Ok(connection)
    };
    let named = objects(&open()?)?;
    if std::fs::metadata(input)?.len() < AT_ONCE {
        check(&open()?)?;
        rewrite(&open()?, output)?;
    } else {
        check_and_rewrite(&open, output)?;
    }
    if empty_rows::has_some(output)? {
        return Err(Refused::Damaged("a row has no content".into()));
    }

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(output, flags)?;
    configure(&connection, Purpose::Write, extensions)?;
    connection.execute_batch("PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY")?;
    if let Some((kind, name)) = named.difference(&objects(&connection)?).next() {
        return Err(Refused::Damaged(format!("its schema calls {name:?} a {kind:?}, which it is not")));
    }
    drop_own(&connection)?;
    check_schema(&connection, extensions)?;
    if let Some(name) = largest_rowid::table_with_one(&connection)? {
        let message = "it has a row with the largest rowid there is: those of later rows would be drawn at random, on each \
                       member others";
        return Err(Refused::Schema { name, message: message.into() });
    }
    meta::create(&connection)?;
    connection.close().map_err(|(_, error)| error)?;
    super::backup::set_journal_version(output, true)?;
    Ok(())
}

/// What the schema says that there is: types and names, the latter in lower case.
///
/// SQLite believes the statement that made an object, and VACUUM the type beside it: a table of type `tabLe` can be read,
/// passes the check, and is left behind. Found by fuzzing (`node/fuzz`, target `database`).
fn objects(connection: &Connection) -> Result<BTreeSet<(String, String)>, Refused> {
    let mut statement = connection.prepare("SELECT type, lower(name) FROM sqlite_schema")?;
    let objects = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(objects.collect::<rusqlite::Result<_>>()?)
}

fn check(connection: &Connection) -> Result<(), Refused> {
    let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(Refused::Damaged(verdict)) }
}

fn rewrite(connection: &Connection, output: &Path) -> Result<(), Refused> {
    connection.execute_batch("PRAGMA page_size=4096; PRAGMA auto_vacuum=NONE")?;
    let target = output.to_str().ok_or(Refused::Kind("its name is not UTF-8"))?;
    connection.execute("VACUUM INTO ?1", [target])?;
    Ok(())
}

/// Both at the same time; what is written counts only if what it is made of is sound.
fn check_and_rewrite(
    open: &(impl Fn() -> Result<Connection, Refused> + Sync),
    output: &Path,
) -> Result<(), Refused> {
    let source = open()?;
    let writing = source.get_interrupt_handle();
    let (checked, written) = std::thread::scope(|scope| {
        let checking = scope.spawn(|| {
            let checked = open().and_then(|connection| check(&connection));
            if checked.is_err() {
                writing.interrupt();
            }
            checked
        });
        let written = rewrite(&source, output);
        (checking.join(), written)
    });
    checked.unwrap_or_else(|_| Err(io::Error::other("the thread that checks it ended").into()))?;
    written
}

fn configure(connection: &Connection, purpose: Purpose, extensions: &Loaded) -> rusqlite::Result<()> {
    extensions.install(connection, purpose)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.execute_batch(
        "PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384;
         PRAGMA foreign_keys=OFF",
    )
}

/// Drops everything with a name of the product's own, of whatever kind: what another cluster kept, and what somebody made to
/// be taken for it.
fn drop_own(connection: &Connection) -> Result<(), Refused> {
    // Tables last: they take their indexes and triggers along. Of those the virtual ones first, which have no root page: the
    // tables behind one cannot be dropped by themselves.
    let sql = "SELECT type, name FROM sqlite_schema WHERE lower(substr(name, 1, ?1)) = ?2
               ORDER BY type = 'table', rootpage > 0, rowid LIMIT 1";
    let next = || -> rusqlite::Result<Option<(String, String)>> {
        let prefix = (RESERVED_PREFIX.len() as i64, RESERVED_PREFIX);
        connection.query_row(sql, prefix, |row| Ok((row.get(0)?, row.get(1)?))).optional()
    };
    while let Some((kind, name)) = next()? {
        // What stands in the schema is the client's, and becomes a statement here.
        let kind = match kind.as_str() {
            "table" => "TABLE",
            "view" => "VIEW",
            "index" => "INDEX",
            "trigger" => "TRIGGER",
            _ => {
                return Err(Refused::Kind(
                    "its schema has something that is no table, view, index or trigger",
                ));
            }
        };
        connection.execute_batch(&format!("DROP {kind} {}", quoted(&name)))?;
    }
    Ok(())
}

/// Makes tables and indexes of `connection` once more, elsewhere and empty, as users may: what their expressions may not do
/// is looked at when they are made, not when they are used. Bodies of views and triggers are looked at whenever they run.
fn check_schema(connection: &Connection, extensions: &Arc<Loaded>) -> Result<(), Refused> {
    let mut empty = Connection::open_in_memory()?;
    configure(&empty, Purpose::Write, extensions)?;
    let guard = Guard::install(&mut empty, Purpose::Write, extensions)?;
    let sql = "SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'index') AND sql IS NOT NULL ORDER BY rowid";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
        let made = guard.guarded(|| empty.execute_batch(&sql));
        let Err(error) = made else { continue };
        let message = guard.explain(&error).unwrap_or_else(|| error_text(&error));
        // Tables behind a virtual one are there already; what else goes wrong does so for whoever uses it.
        if message.starts_with("not authorized") {
            return Err(Refused::Schema { name, message });
        }
    }
    Ok(())
}

/// Tables whose names are the product's own: of a copy that another cluster kept.
pub fn own_tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND lower(substr(name, 1, ?1)) = ?2";
    let prefix = (RESERVED_PREFIX.len() as i64, RESERVED_PREFIX);
    connection.prepare(sql)?.query_map(prefix, |row| row.get(0))?.collect()
}

/// Looks at the file before SQLite does.
fn check_header(path: &Path) -> Result<(), Refused> {
    let mut header = [0; HEADER];
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.read_exact(&mut header).map_err(|_| Refused::Kind("it is too short"))?;
    if header[..16] != *MAGIC {
        return Err(Refused::Kind("it does not begin like a database"));
    }
    let page_size =
        pages::page_size(&header).ok_or(Refused::Kind("its page size is none of SQLite's"))? as u64;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if size % page_size != 0 {
        return Err(Refused::Kind("it is cut short: its size is not a multiple of its page size"));
    }
    let written_by_new = word(24) == word(92);
    if written_by_new && u64::from(word(28)) * page_size > size {
        return Err(Refused::Kind("it is cut short: its header counts more pages than it has"));
    }
    if word(56) > 1 {
        return Err(Refused::Kind("its text is UTF-16; only UTF-8 is taken"));
    }
    Ok(())
}

/// A path as part of a URI.
fn uri_path(path: &Path) -> Result<String, Refused> {
    let path = path.to_str().ok_or(Refused::Kind("its name is not UTF-8"))?;
    Ok(percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2F", "/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn database(path: &Path, setup: &str) {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(setup).unwrap();
        connection.close().unwrap();
    }

    #[test]
    fn a_large_file_is_checked_while_it_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        let rows = AT_ONCE / (1 << 20) + 1;
        let filled = format!(
            "CREATE TABLE t(a, b); CREATE INDEX j ON t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows})
             INSERT INTO t SELECT i, zeroblob(1048576) FROM n"
        );
        database(&input, &filled);
        write_canonical(&input, &output, &Loaded::none()).unwrap();
        let count = "SELECT count(*) FROM t WHERE length(b) = 1048576";
        let connection = Connection::open(&output).unwrap();
        assert_eq!(connection.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap(), rows as i64);
        drop(connection);
        std::fs::remove_file(&output).unwrap();
        // An index that lacks a row is copied as it is: only the check notices it.
        for sql in [
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET type = 'table', name = 'i', tbl_name = 'i',
             sql = 'CREATE TABLE i(a, r, PRIMARY KEY(a, r)) WITHOUT ROWID' WHERE name = 'j'",
            "DELETE FROM i WHERE a = 1",
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET type = 'index', name = 'j', tbl_name = 't',
             sql = 'CREATE INDEX j ON t(a)' WHERE name = 'i'",
        ] {
            database(&input, sql);
        }
        let refused = write_canonical(&input, &output, &Loaded::none()).unwrap_err().to_string();
        assert!(refused.starts_with("it is damaged: ") && refused.contains("index j"), "{refused}");
    }

    #[test]
    fn a_table_that_would_be_left_behind_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        database(&input, "CREATE TABLE t(a); INSERT INTO t VALUES(7); CREATE VIEW v AS SELECT 1");
        for (what, kind) in [("t", "tabLe"), ("v", "View")] {
            let copy = dir.path().join("copy");
            std::fs::copy(&input, &copy).unwrap();
            let set = format!(
                "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET type = '{kind}' WHERE name = '{what}'"
            );
            database(&copy, &set);
            let refused = write_canonical(&copy, &output, &Loaded::none()).unwrap_err().to_string();
            assert!(refused.contains("damaged") && refused.contains(kind), "{kind} {what}: {refused}");
            std::fs::remove_file(&output).unwrap();
        }
        write_canonical(&input, &output, &Loaded::none()).unwrap();
    }

    #[test]
    fn what_is_written_is_synced_as_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(sync_grown(&path, 0).unwrap(), 0, "it is not there yet");
        let file = File::create(&path).unwrap();
        for (size, synced, then) in
            [(SYNC_BYTES - 1, 0, 0), (SYNC_BYTES, 0, SYNC_BYTES), (SYNC_BYTES + 1, SYNC_BYTES, SYNC_BYTES)]
        {
            file.set_len(size).unwrap();
            assert_eq!(sync_grown(&path, synced).unwrap(), then, "{size}");
        }
    }

    #[test]
    fn a_foreign_database_becomes_one_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in put%"), dir.path().join("out"));
        database(
            &input,
            "PRAGMA page_size=1024; PRAGMA auto_vacuum=FULL; PRAGMA journal_mode=WAL;
             CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE); INSERT INTO t(a) VALUES('x'), (randomblob(9000));
             CREATE VIRTUAL TABLE f USING fts5(b); INSERT INTO f VALUES('some words');
             CREATE TABLE _sqlited_meta(old); CREATE TABLE _SQLited_other(old)",
        );
        write_canonical(&input, &output, &Loaded::none()).unwrap();
        let connection = Connection::open(&output).unwrap();
        assert_eq!(meta::read(&connection).unwrap(), Some(meta::Meta::default()));
        let one = |sql: &str| {
            let text = |r: &rusqlite::Row<'_>| {
                Ok(match r.get_ref(0)? {
                    rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                    other => other.as_str()?.to_owned(),
                })
            };
            connection.query_row(sql, [], text).unwrap()
        };
        assert_eq!(one("SELECT count(*) FROM t WHERE a IS NOT NULL"), "2");
        assert_eq!(one("SELECT b FROM f WHERE f MATCH 'words'"), "some words");
        assert_eq!(
            one("SELECT group_concat(name, ' ') FROM sqlite_schema WHERE name LIKE '%sqlited%'"),
            "_sqlited_meta"
        );
        assert_eq!(one("PRAGMA journal_mode"), "wal");
        assert_eq!(one("PRAGMA integrity_check"), "ok");
        for (pragma, value) in [("page_size", 4096), ("auto_vacuum", 0)] {
            let sql = format!("PRAGMA {pragma}");
            assert_eq!(connection.query_row(&sql, [], |r| r.get::<_, i64>(0)).unwrap(), value, "{pragma}");
        }
    }

    #[test]
    fn sql_text_is_run_as_users_may() {
        let dir = tempfile::tempdir().unwrap();
        let run = |text: &str| {
            let (input, output) = (dir.path().join("text"), dir.path().join("run"));
            std::fs::write(&input, text).unwrap();
            drop(std::fs::remove_file(&output));
            run_text(&input, &output, &Loaded::none()).map(|()| output).map_err(|refused| refused.to_string())
        };
        let dump = "PRAGMA foreign_keys=OFF;
            BEGIN TRANSACTION;
            CREATE TABLE t(a, b REFERENCES t);
            INSERT INTO t VALUES('x;y', 7) RETURNING a;
            CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END;
            PRAGMA user_version=4;
            COMMIT;";
        let connection = Connection::open(run(dump).unwrap()).unwrap();
        let row = connection.query_row("SELECT a, b FROM t", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(row, ("x;y".to_owned(), 7));
        for (text, part) in [
            ("-- nothing\n", "no statement"),
            (
                "CREATE TABLE t(a); INSERT INTO u VALUES(1);",
                "statement 2, \"INSERT INTO u VALUES(1);\": no such table: u",
            ),
            ("ATTACH '/tmp/other' AS o;", "not authorized"),
            ("CREATE TABLE _sqlited_meta(a);", "not authorized"),
            ("PRAGMA writable_schema=ON;", "not authorized"),
        ] {
            let refused = run(text).unwrap_err();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }

    #[test]
    fn what_is_not_taken_by_table() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole");
        database(
            &whole,
            "CREATE TABLE t(a); WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 5000) INSERT INTO t SELECT x FROM c",
        );
        let bytes = std::fs::read(&whole).unwrap();
        let utf16 = dir.path().join("utf16");
        database(&utf16, "PRAGMA encoding='UTF-16'; CREATE TABLE t(a)");
        let changed = |at: usize, to: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + to.len()].copy_from_slice(to);
            bytes
        };
        let cases: [(&str, Vec<u8>, &str); 8] = [
            ("empty", vec![], "too short"),
            ("a header only", bytes[..100].to_vec(), "cut short"),
            ("cut within a page", bytes[..5000].to_vec(), "cut short"),
            ("cut at a page", bytes[..8192].to_vec(), "cut short"),
            ("another magic", changed(0, b"sqlite"), "does not begin"),
            ("an odd page size", changed(16, &[0, 7]), "page size"),
            ("UTF-16", std::fs::read(&utf16).unwrap(), "UTF-16"),
            ("a damaged page", changed(8192, &[0xff; 64]), ""),
        ];
        for (what, bytes, message) in cases {
            let (input, output) = (dir.path().join("in"), dir.path().join("out"));
            std::fs::write(&input, bytes).unwrap();
            let refused = write_canonical(&input, &output, &Loaded::none()).unwrap_err().to_string();
            assert!(refused.contains(message), "{what}: {refused}");
            drop(std::fs::remove_file(&output));
        }
    }
}
