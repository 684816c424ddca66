//! Gathers what the statements of an entry change, on the writer's connection while changes are captured.
//!
//! The hook sees a row before it changes, and must not use the connection; so it notes the values in a [`Spool`], and what
//! the table is, and what its columns are called, is asked after the statement. What SQLite undoes is cut off again: the
//! changes of a statement that failed, of a savepoint that is rolled back to, of an attempt at the entry. With the entry's
//! position they are written into the database ([`super::changes`]).

use super::apply::LocalFailure;
use super::changes::{self, EntryChanges};
use super::guard::Guard;
use super::meta::RESERVED_PREFIX;
use super::preupdate::{Follower, RowChange, RowOp, Side};
use super::spool::Spool;
use super::value::{Affinity, write_str, write_value};
use crate::raft::command::CaptureSettings;
use parking_lot::Mutex;
use regex::Regex;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, ffi};
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of one row's values, before and after together, that are captured; of a larger row only what happened to it.
pub const LARGEST_ROW: usize = 16 << 20;
const TOO_LARGE: &str = "the values are left out: the row is larger than 16 MiB";

/// Gathers what an entry changes.
pub struct Recorder {
    row_ids_only: bool,
    /// None takes every table.
    filter: Option<Regex>,
    /// Bytes that one entry's changes may take here.
    most: u64,
    /// A statement of a user runs. Beside the lock: the hook is called for statements of our own while that is held.
    running: AtomicBool,
    recording: Mutex<Recording>,
}

/// How far the changes of an entry are noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    length: u64,
    unheld: u64,
}

struct Recording {
    spool: Spool,
    /// Changes that there was no more room for, since `spool` was that full.
    unheld: u64,
    tables: Vec<Table>,
    /// Numbers of tables as the schema is now; none of a table that is not captured.
    numbers: HashMap<String, Option<u32>>,
    schema_version: i64,
    /// Numbers of the tables that the present statement has changed.
    touched: Vec<u32>,
    /// Why something could not be noted.
    failure: Option<LocalFailure>,
    scratch: Vec<u8>,
}

enum Table {
    /// Seen in the statement that runs.
    New(String),
    /// Virtual tables keep what they hold in it, or it went within the statement: not what a user changed.
    Inner,
    Ordinary(Columns),
}

struct Columns {
    /// Name of the table, as JSON.
    table: Vec<u8>,
    /// Names of the columns as JSON, with a colon.
    names: Vec<Vec<u8>>,
    has_rowid: bool,
}

impl Recorder {
    /// Captures as `settings` say; what does not fit in memory goes into a file in `directory`.
    pub fn new(settings: &CaptureSettings, directory: &Path) -> Result<Self, regex::Error> {
        let filter = &settings.table_filter;
        let filter = if filter.is_empty() { None } else { Some(Regex::new(filter)?) };
        Ok(Self {
            row_ids_only: settings.row_ids_only,
            filter,
            most: settings.max_bytes,
            running: AtomicBool::new(false),
            recording: Mutex::new(Recording {
                spool: Spool::new(directory),
                unheld: 0,
                tables: Vec::new(),
                numbers: HashMap::new(),
                schema_version: -1,
                touched: Vec::new(),
                failure: None,
                scratch: Vec::new(),
            }),
        })
    }

    /// An attempt at an entry begins; what the last one left is forgotten. So are the tables: of one that is seen first a
    /// little more is noted, and what that leads to must not depend on what was seen since this connection was opened.
    pub fn begin_entry(&self) {
        let mut recording = self.recording.lock();
        recording.spool.clear();
        recording.unheld = 0;
        recording.tables.clear();
        recording.forget_numbers();
    }

    /// How far the changes are noted now.
    pub fn mark(&self) -> Mark {
        self.recording.lock().mark()
    }

    /// SQLite undid what came after `mark`.
    pub fn undo_to(&self, mark: Mark) {
        self.recording.lock().undo_to(mark);
    }

    /// Before a user's statement is stepped.
    pub fn begin_statement(&self, on: &Connection, guard: &Guard) -> Mark {
        let version = guard.unguarded(|| {
            on.prepare_cached("/* own */ PRAGMA schema_version")?.query_row([], |row| row.get::<_, i64>(0))
        });
        let mut recording = self.recording.lock();
        match version {
            Ok(version) if version == recording.schema_version => {}
            Ok(version) => {
                recording.schema_version = version;
                recording.numbers.clear();
            }
            Err(source) => {
                let what = "read the version of the schema";
                recording.failure.get_or_insert(LocalFailure::Sqlite { what, source });
            }
        }
        recording.touched.clear();
        self.running.store(true, Ordering::Relaxed);
        recording.mark()
    }

    /// After it was stepped, or `failed`; `sql` is its text. Returns whether it cannot be told if what it did until then
    /// stays: nothing else may have used the connection since.
    pub fn end_statement(&self, on: &Connection, guard: &Guard, mark: Mark, failed: bool, sql: &str) -> bool {
        // SQLite says 0 of a statement that it undid, and what stays of one that ended by FAIL.
        let stays = failed && on.changes() > 0;
        self.running.store(false, Ordering::Relaxed);
        let recording = &mut *self.recording.lock();
        let mut is_unclear = false;
        let resolved = guard.unguarded(|| {
            recording.resolve(on)?;
            if failed && !stays {
                // The first row may have failed after triggers changed others. What virtual tables keep for themselves they
                // may have written before the first row.
                is_unclear =
                    recording.has_touched_rows() && !on.is_autocommit() && may_fail_halfway(on, sql)?;
                recording.undo_to(mark);
            }
            Ok(())
        });
        if let Err(source) = resolved {
            let what = "read the schema";
            recording.failure.get_or_insert(LocalFailure::Sqlite { what, source });
        }
        is_unclear
    }

    /// Writes what the entry changed into its transaction.
    pub fn write(&self, on: &Connection, entry: u64, at_ms: i64) -> Result<(), LocalFailure> {
        let recording = &mut *self.recording.lock();
        if let Some(failure) = recording.failure.take() {
            return Err(failure);
        }
        if recording.spool.len() == 0 && recording.unheld == 0 {
            return Ok(());
        }
        let sqlite = |source| LocalFailure::Sqlite { what: "write what an entry changed", source };
        let io = |source| LocalFailure::Io { what: "read what an entry changed", source };
        let mut written = EntryChanges::new(on, entry, at_ms);
        let mut left = if recording.unheld > 0 { 0 } else { recording.spool.len() };
        let mut unheld = recording.unheld;
        let mut noted = recording.spool.read().map_err(io)?;
        if unheld > 0 {
            // None of it is kept, so all of it counts.
            unheld += count(&mut noted).map_err(io)?;
        }
        let mut bytes = Vec::new();
        while left > 0 {
            left -= read_noted(&mut noted, &mut bytes).map_err(io)?;
            let mut event = Noted { bytes: &bytes };
            let (flags, table) = event.head();
            let Some(Table::Ordinary(columns)) = recording.tables.get(table as usize) else { continue };
            written.add(|out| event.write(out, flags, columns)).map_err(sqlite)?;
        }
        written.finish(unheld).map_err(sqlite)?;
        drop(noted);
        recording.spool.clear();
        recording.unheld = 0;
        Ok(())
    }
}

/// How many changes are noted.
fn count(noted: &mut impl Read) -> io::Result<u64> {
    let (mut count, mut bytes) = (0, Vec::new());
    loop {
        match read_noted(noted, &mut bytes) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(count),
            Err(error) => return Err(error),
        }
    }
}

/// Reads one change into `bytes`; returns how many bytes it took.
fn read_noted(noted: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<u64> {
    let mut length = [0; 4];
    noted.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    bytes.resize(length as usize, 0);
    noted.read_exact(bytes)?;
    Ok(u64::from(length) + 4)
}

impl Recording {
    fn forget_numbers(&mut self) {
        self.numbers.clear();
        self.schema_version = -1;
    }

    /// Whether the present statement has changed rows of a user's table.
    fn has_touched_rows(&self) -> bool {
        let table = |number: &u32| self.tables.get(*number as usize);
        self.touched.iter().filter_map(table).any(|table| matches!(table, Table::Ordinary(_)))
    }

    fn mark(&self) -> Mark {
        Mark { length: self.spool.len(), unheld: self.unheld }
    }

    fn undo_to(&mut self, mark: Mark) {
        self.unheld = mark.unheld;
        if let Err(source) = self.spool.truncate(mark.length) {
            let what = "forget what an entry changed";
            self.failure.get_or_insert(LocalFailure::Io { what, source });
        }
        // The schema may be another again, under a number that it had before.
        self.forget_numbers();
    }

    /// Asks what the tables are that were seen first in the last statement.
    fn resolve(&mut self, on: &Connection) -> rusqlite::Result<()> {
        let new =
            self.tables.iter().rposition(|table| !matches!(table, Table::New(_))).map_or(0, |at| at + 1);
        for number in new..self.tables.len() {
            let Table::New(name) = &self.tables[number] else { continue };
            let table = describe(on, name)?;
            if matches!(table, Table::Inner) {
                self.numbers.insert(name.clone(), None);
            }
            self.tables[number] = table;
        }
        Ok(())
    }

    fn note(&mut self, change: &RowChange<'_>, table: u32, row_ids_only: bool, most: u64) -> io::Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&[0; 4]);
        let complete = row_ids_only || append(&mut scratch, change, table, true)?;
        if row_ids_only || !complete {
            scratch.truncate(4);
            append(&mut scratch, change, table, false)?;
            if !complete {
                scratch[4] |= LEFT_OUT;
            }
        }
        let length = (scratch.len() - 4) as u32;
        scratch[..4].copy_from_slice(&length.to_le_bytes());
        if self.unheld > 0 || self.spool.len() + scratch.len() as u64 > most {
            self.unheld += 1;
        } else {
            self.spool.push(&scratch)?;
        }
        scratch.shrink_to(LARGEST_ROW / 64);
        self.scratch = scratch;
        Ok(())
    }
}

const OP: u8 = 3;
const BEFORE: u8 = 1 << 2;
const AFTER: u8 = 1 << 3;
const LEFT_OUT: u8 = 1 << 4;
/// The tag of a column that is not stored.
const NOT_STORED: u8 = 255;

/// `flags u8 · table u32 · rowid before i64 · rowid after i64 · [count u16 · values]`, the last for each side that there
/// is. Returns false if the values are too large.
fn append(out: &mut Vec<u8>, change: &RowChange<'_>, table: u32, with_values: bool) -> io::Result<bool> {
    let (op, sides): (u8, &[Side]) = match change.op {
        RowOp::Insert => (0, &[Side::After]),
        RowOp::Update => (1, &[Side::Before, Side::After]),
        RowOp::Delete => (2, &[Side::Before]),
    };
    let sides = if with_values { sides } else { &[] };
    let flags = sides.iter().fold(op, |flags, side| {
        flags
            | match side {
                Side::Before => BEFORE,
                Side::After => AFTER,
            }
    });
    let start = out.len();
    out.push(flags);
    out.extend_from_slice(&table.to_le_bytes());
    out.extend_from_slice(&change.rowids.0.to_le_bytes());
    out.extend_from_slice(&change.rowids.1.to_le_bytes());
    for side in sides {
        let columns = change.columns();
        out.extend_from_slice(&(columns as u16).to_le_bytes());
        for column in 0..columns {
            let value = change.value(*side, column);
            let value = value.map_err(|code| match code & 0xff {
                ffi::SQLITE_NOMEM => io::ErrorKind::OutOfMemory.into(),
                code => io::Error::other(format!("SQLite cannot read a row that changes (code {code})")),
            })?;
            let text = |out: &mut Vec<u8>, tag: u8, bytes: &[u8]| {
                out.push(tag);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            };
            let size = match value {
                Some(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => bytes.len(),
                _ => 0,
            };
            if out.len() - start + size > LARGEST_ROW {
                return Ok(false);
            }
            match value {
                None => out.push(NOT_STORED),
                Some(ValueRef::Null) => out.push(0),
                Some(ValueRef::Integer(n)) => {
                    out.push(1);
                    out.extend_from_slice(&n.to_le_bytes());
                }
                Some(ValueRef::Real(r)) => {
                    out.push(2);
                    out.extend_from_slice(&r.to_le_bytes());
                }
                Some(ValueRef::Text(bytes)) => text(out, 3, bytes),
                Some(ValueRef::Blob(bytes)) => text(out, 4, bytes),
            }
        }
    }
    Ok(true)
}

/// Reads what [`append`] wrote.
struct Noted<'a> {
    bytes: &'a [u8],
}

impl<'a> Noted<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(n.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().unwrap_or([0; N])
    }

    fn head(&mut self) -> (u8, u32) {
        (self.number::<1>()[0], u32::from_le_bytes(self.number()))
    }

    fn value(&mut self) -> Option<ValueRef<'a>> {
        Some(match self.number::<1>()[0] {
            0 => ValueRef::Null,
            1 => ValueRef::Integer(i64::from_le_bytes(self.number())),
            2 => ValueRef::Real(f64::from_le_bytes(self.number())),
            tag @ (3 | 4) => {
                let length = u32::from_le_bytes(self.number());
                let bytes = self.take(length as usize);
                if tag == 3 { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) }
            }
            _ => return None,
        })
    }

    fn row(&mut self, out: &mut Vec<u8>, columns: &Columns) {
        out.push(b'{');
        let count = u16::from_le_bytes(self.number());
        let mut first = true;
        for column in 0..usize::from(count) {
            let (Some(value), Some(name)) = (self.value(), columns.names.get(column)) else { continue };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(name);
            write_value(out, value, Affinity::Plain, false);
        }
        out.push(b'}');
    }

    /// Appends the change as JSON, after its head was read.
    fn write(&mut self, out: &mut Vec<u8>, flags: u8, columns: &Columns) {
        let (op, has_old, has_new): (&[u8], bool, bool) = match flags & OP {
            0 => (b"INSERT", false, true),
            1 => (b"UPDATE", true, true),
            _ => (b"DELETE", true, false),
        };
        let (old, new) = (i64::from_le_bytes(self.number()), i64::from_le_bytes(self.number()));
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(op);
        out.extend_from_slice(b"\",\"table\":");
        out.extend_from_slice(&columns.table);
        let mut rowid = |name: &[u8], rowid: i64| {
            out.extend_from_slice(name);
            out.extend_from_slice(itoa::Buffer::new().format(rowid).as_bytes());
        };
        if columns.has_rowid && has_new {
            rowid(b",\"new_row_id\":", new);
        }
        if columns.has_rowid && has_old {
            rowid(b",\"old_row_id\":", old);
        }
        if flags & BEFORE != 0 {
            out.extend_from_slice(b",\"before\":");
            self.row(out, columns);
        }
        if flags & AFTER != 0 {
            out.extend_from_slice(b",\"after\":");
            self.row(out, columns);
        }
        if flags & LEFT_OUT != 0 {
            out.extend_from_slice(b",\"error\":");
            write_str(out, TOO_LARGE);
        }
        out.push(b'}');
    }
}

fn describe(on: &Connection, name: &str) -> rusqlite::Result<Table> {
    let sql = "/* own */ SELECT type, wr FROM pragma_table_list(?1) WHERE schema = 'main'";
    let kind = on
        .prepare_cached(sql)?
        .query_row([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))
        .optional()?;
    let Some((kind, without_rowid)) = kind else { return Ok(Table::Inner) };
    if kind != "table" {
        return Ok(Table::Inner);
    }
    let sql = "/* own */ SELECT name FROM pragma_table_xinfo(?1) ORDER BY cid";
    let mut statement = on.prepare_cached(sql)?;
    let names = statement.query_map([name], |row| {
        let mut name = Vec::new();
        write_str(&mut name, &row.get::<_, String>(0)?);
        name.push(b':');
        Ok(name)
    })?;
    let names = names.collect::<rusqlite::Result<_>>()?;
    let mut table = Vec::new();
    write_str(&mut table, name);
    Ok(Table::Ordinary(Columns { table, names, has_rowid: !without_rowid }))
}

impl Follower for Recorder {
    fn about_to_change(&self, change: &RowChange<'_>) {
        if !self.running.load(Ordering::Relaxed) {
            return;
        }
        let recording = &mut *self.recording.lock();
        let number = match recording.numbers.get(change.table) {
            Some(number) => *number,
            None => {
                let is_own = [RESERVED_PREFIX, "sqlite_"].iter().any(|prefix| {
                    change.table.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                });
                let is_wanted =
                    !is_own && self.filter.as_ref().is_none_or(|filter| filter.is_match(change.table));
                let number = is_wanted.then(|| {
                    recording.tables.push(Table::New(change.table.to_owned()));
                    (recording.tables.len() - 1) as u32
                });
                recording.numbers.insert(change.table.to_owned(), number);
                number
            }
        };
        let Some(number) = number else { return };
        if !recording.touched.contains(&number) {
            recording.touched.push(number);
        }
        if let Err(source) = recording.note(change, number, self.row_ids_only, self.most) {
            let what = "note a row that changes";
            recording.failure.get_or_insert(LocalFailure::Io { what, source });
        }
    }
}

/// Whether a failed statement may have left changes: after `FAIL` what it had done stays, and SQLite does not say that it
/// was `FAIL`. The word is in the statement's own text, or in that of a table or a trigger.
fn may_fail_halfway(on: &Connection, sql: &str) -> rusqlite::Result<bool> {
    if says_fail(sql) {
        return Ok(true);
    }
    let mut schema = on.prepare_cached("/* own */ SELECT sql FROM sqlite_schema WHERE sql LIKE '%fail%'")?;
    let mut rows = schema.query([])?;
    while let Some(row) = rows.next()? {
        if says_fail(row.get_ref(0)?.as_str()?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn says_fail(sql: &str) -> bool {
    let is_part =
        |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 128);
    let bytes = sql.as_bytes();
    bytes.windows(4).enumerate().any(|(at, word)| {
        word.eq_ignore_ascii_case(b"fail")
            && !is_part(at.checked_sub(1).and_then(|before| bytes.get(before)))
            && !is_part(bytes.get(at + 4))
    })
}

/// What captures on a connection whose database is at `path`, if capture is on.
pub fn of(connection: &Connection, path: &Path) -> Result<Option<Recorder>, LocalFailure> {
    let sqlite = |source| LocalFailure::Sqlite { what: "read how changes are captured", source };
    let Some(state) = changes::read_state(connection).map_err(sqlite)? else { return Ok(None) };
    let directory = path.parent().unwrap_or(Path::new("."));
    Recorder::new(&state.settings, directory).map(Some).map_err(|error| LocalFailure::Io {
        what: "read which tables changes are captured of",
        source: io::Error::other(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_by_table() {
        for (sql, expected) in [
            ("INSERT OR FAIL INTO t VALUES(1)", true),
            ("SELECT RAISE(fail, 'no')", true),
            ("CREATE TABLE t(a UNIQUE ON CONFLICT FAIL)", true),
            ("CREATE TABLE t(failed, fail_count, \u{e4}fail)", false),
            ("INSERT INTO failures VALUES(1)", false),
            ("fail", true),
        ] {
            assert_eq!(says_fail(sql), expected, "{sql}");
        }
    }
}
