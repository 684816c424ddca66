//! Results as JSON in rqlite's shapes, written while the statement steps: nothing is collected first.

use super::large_value;
use super::result_limit::ResultLimit;
use super::value::{self, Affinity};
use crate::raft::command::RequestFlags;
use rusqlite::{Rows, Statement};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Where results go.
pub trait Sink {
    /// The buffer to append to.
    fn buffer(&mut self) -> &mut Vec<u8>;

    /// Called before each row, and the comma before it: the sink may stop the statement.
    fn row_begins(&mut self) -> Result<(), Stopped> {
        Ok(())
    }

    /// Called after each row, and within it after each value and each part of a long one, for a row has no bound of its own:
    /// the sink may send on what it has, or stop the statement. It keeps the last byte, by which the encoder sees whether a
    /// comma is due.
    fn part_written(&mut self) -> Result<(), Stopped>;

    /// After it stopped: takes back what it still has of the row, and returns whether that was all of it.
    fn take_row_back(&mut self) -> bool {
        false
    }

    /// Once `flag` is set the statement is to end: a sink that waits for its reader then stops, and keeps what it has.
    fn gives_way_on(&mut self, _flag: Arc<AtomicBool>) {}

    /// So many bytes of what was written tell how long it took: members differ in them, so they count for no limit.
    fn time_written(&mut self, _bytes: usize) {}

    /// How large the client lets the result become. For what is set aside first; the sink sees to it itself.
    fn limit(&self) -> ResultLimit {
        ResultLimit::default()
    }

    /// Tells whether whoever reads is gone, while nothing is written.
    fn abandoned(&self) -> Option<Abandoned> {
        None
    }
}

/// The sink wants no more: the reader is gone, or the result is larger than allowed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Whether nobody reads a result any more.
pub type Abandoned = Box<dyn Fn() -> bool + Send>;

/// Collects into memory up to a number of bytes.
#[derive(Debug)]
pub struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    /// Of the bytes: those that tell times.
    timed: usize,
}

/// How much a [`Bounded`] held at some point.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    bytes: usize,
    timed: usize,
}

impl Bounded {
    /// At most about `limit` bytes, exceeded by at most one value, of a long one by a part.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::with_capacity(256), limit, timed: 0 }
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How much it holds.
    pub fn filled(&self) -> Filled {
        Filled { bytes: self.bytes.len(), timed: self.timed }
    }

    /// Takes back what was written since.
    pub fn take_back(&mut self, Filled { bytes, timed }: Filled) {
        self.bytes.truncate(bytes);
        self.timed = timed;
    }

    /// Gives what it holds to `sink` as an entry.
    pub fn pass_on(self, sink: &mut dyn Sink) {
        let out = sink.buffer();
        begin_entry(out);
        out.extend_from_slice(&self.bytes);
        sink.time_written(self.timed);
    }
}

impl Sink for Bounded {
    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn part_written(&mut self) -> Result<(), Stopped> {
        if self.bytes.len() - self.timed > self.limit { Err(Stopped) } else { Ok(()) }
    }

    fn time_written(&mut self, bytes: usize) {
        self.timed += bytes;
    }
}

/// Why a statement's rows did not all get written.
#[derive(Debug)]
pub enum RowsError {
    /// SQLite failed before anything was written.
    Before(rusqlite::Error),
    /// SQLite failed in the middle; the entry was closed with the error in it.
    Within(rusqlite::Error),
    /// The sink stopped.
    Stopped,
}

/// How the entries of one request are written.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Rows as objects.
    pub associative: bool,
    /// BLOBs as arrays of integers.
    pub blob_array: bool,
    /// Add `time`.
    pub timings: bool,
    /// Column names as `table.column`.
    pub qualify_columns: bool,
    /// The answer becomes part of the state, so that it has to be the same on every member.
    pub is_kept: bool,
}

impl From<RequestFlags> for Style {
    fn from(flags: RequestFlags) -> Self {
        Self {
            associative: flags.has(RequestFlags::ASSOCIATIVE),
            blob_array: flags.has(RequestFlags::BLOB_ARRAY),
            timings: flags.has(RequestFlags::TIMINGS),
            qualify_columns: flags.has(RequestFlags::QUALIFY_COLUMNS),
            is_kept: false,
        }
    }
}

impl Style {
    /// Returns how many bytes that took.
    fn write_time(self, out: &mut Vec<u8>, started: Instant) -> usize {
        let before = out.len();
        if self.timings {
            separate(out);
            // Writing to a Vec cannot fail.
            drop(write!(out, "\"time\":{}", ryu_js::Buffer::new().format(started.elapsed().as_secs_f64())));
        }
        out.len() - before
    }
}

/// Puts a comma unless the last byte opens an array or object.
fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), None | Some(b'[' | b'{')) {
        out.push(b',');
    }
}

/// Begins an entry of `results`: the comma to the one before it.
pub fn begin_entry(out: &mut Vec<u8>) {
    if !out.is_empty() && out.last() != Some(&b'[') {
        out.push(b',');
    }
}

/// `{"last_insert_id":N,"rows_affected":N,"time":F}`, each omitted when 0. Returns how many bytes tell the time.
pub fn write_executed(
    out: &mut Vec<u8>,
    style: Style,
    last_insert_rowid: i64,
    changes: u64,
    started: Instant,
) -> usize {
    begin_entry(out);
    out.push(b'{');
    if last_insert_rowid != 0 {
        out.extend_from_slice(b"\"last_insert_id\":");
        out.extend_from_slice(itoa::Buffer::new().format(last_insert_rowid).as_bytes());
    }
    if changes != 0 {
        separate(out);
        out.extend_from_slice(b"\"rows_affected\":");
        out.extend_from_slice(itoa::Buffer::new().format(changes).as_bytes());
    }
    let timed = style.write_time(out, started);
    if style.associative {
        separate(out);
        out.extend_from_slice(b"\"rows\":null");
    }
    out.push(b'}');
    timed
}

/// `{"error":"…"}`; a failed associative query has empty rows before it.
pub fn write_error(out: &mut Vec<u8>, message: &str, associative_query: bool) {
    begin_entry(out);
    out.extend_from_slice(if associative_query { b"{\"rows\":[],\"error\":" } else { b"{\"error\":" });
    value::write_str(out, message);
    out.push(b'}');
}

/// Puts a message into the query entry that was closed last, in the place of the `error` that was written there, if one
/// was.
pub fn end_with_error(out: &mut Vec<u8>, error: Option<&rusqlite::Error>, message: &str) {
    let written = error.map(|error| {
        let mut end = b",".to_vec();
        write_end(&mut end, &error_text(error));
        end
    });
    let end = written.filter(|end| out.ends_with(end)).map_or(1, |end| end.len());
    out.truncate(out.len().saturating_sub(end));
    separate(out);
    write_end(out, message);
}

/// Closes an entry with an error.
fn write_end(out: &mut Vec<u8>, message: &str) {
    out.extend_from_slice(b"\"error\":");
    value::write_str(out, message);
    out.push(b'}');
}

struct Column {
    /// The name as a JSON string.
    name: Vec<u8>,
    declared: Option<String>,
    affinity: Affinity,
}

fn columns_of(statement: &Statement<'_>, style: Style) -> Vec<Column> {
    let tables: Vec<Option<String>> = if style.qualify_columns {
        statement.columns_with_metadata().map(|c| c.table_name().map(str::to_owned)).collect()
    } else {
        Vec::new()
    };
    let of = |(i, column): (usize, rusqlite::Column<'_>)| {
        let declared = column.decl_type().map(str::to_ascii_lowercase);
        let mut name = Vec::new();
        match tables.get(i).and_then(Option::as_deref) {
            Some(table) => value::write_str(&mut name, &format!("{table}.{}", column.name())),
            None => value::write_str(&mut name, column.name()),
        }
        Column { name, affinity: declared.as_deref().map_or(Affinity::Plain, Affinity::of), declared }
    };
    statement.columns().enumerate().map(of).collect()
}

/// Steps `statement`, whose parameters are bound, to its end and writes its query entry.
pub fn write_rows(
    statement: &mut Statement<'_>,
    sink: &mut dyn Sink,
    style: Style,
    started: Instant,
) -> Result<(), RowsError> {
    let columns = columns_of(statement, style);
    let mut rows = statement.raw_query();
    let mut row = rows.next().map_err(RowsError::Before)?;

    let out = sink.buffer();
    begin_entry(out);
    out.push(b'{');
    let type_of = |i: usize| match (&columns[i].declared, row) {
        (Some(declared), _) => declared.as_str(),
        (None, Some(row)) => row.get_ref(i).map_or("", value::storage_class),
        (None, None) => "",
    };
    // Keys of JSON objects are sorted, and of columns with the same name the last wins.
    let mut order: Vec<usize> = (0..columns.len()).collect();
    if style.associative {
        order.sort_by(|a, b| columns[*a].name.cmp(&columns[*b].name).then(b.cmp(a)));
        order.dedup_by(|next, kept| columns[*next].name == columns[*kept].name);
        if !columns.is_empty() {
            write_list(out, b"\"types\":{", order.iter(), b'}', |out, i| {
                out.extend_from_slice(&columns[*i].name);
                out.push(b':');
                value::write_str(out, type_of(*i));
            });
        }
        separate(out);
        out.extend_from_slice(b"\"rows\":[");
    } else if !columns.is_empty() {
        write_list(out, b"\"columns\":[", order.iter(), b']', |out, i| {
            out.extend_from_slice(&columns[*i].name)
        });
        write_list(out, b",\"types\":[", order.iter(), b']', |out, i| value::write_str(out, type_of(*i)));
        if row.is_some() {
            out.extend_from_slice(b",\"values\":[");
        }
    }
    let list_open = style.associative || row.is_some();

    let mut first = true;
    let outcome = loop {
        let Some(current) = row else { break Ok(()) };
        if sink.row_begins().is_err() {
            break Err(RowsError::Stopped);
        }
        if !first {
            sink.buffer().push(b',');
        }
        first = false;
        if write_row(current, &columns, &order, sink, style).is_err() {
            // What was sent on already has an end.
            if !sink.take_row_back() {
                sink.buffer().push(if style.associative { b'}' } else { b']' });
            }
            break Err(RowsError::Stopped);
        }
        if sink.part_written().is_err() {
            sink.take_row_back();
            break Err(RowsError::Stopped);
        }
        row = match advance(&mut rows) {
            Ok(row) => row,
            Err(error) => break Err(RowsError::Within(error)),
        };
    };
    let out = sink.buffer();
    if list_open {
        out.push(b']');
    }
    let mut timed = 0;
    match &outcome {
        Ok(()) => timed = style.write_time(out, started),
        Err(RowsError::Within(error)) => {
            out.extend_from_slice(b",\"error\":");
            value::write_str(out, &error_text(error));
        }
        Err(_) => {}
    }
    out.push(b'}');
    sink.time_written(timed);
    outcome
}

/// Writes a row, of its columns those in `order`, without the bracket that ends it if the sink stops within.
fn write_row(
    row: &rusqlite::Row<'_>,
    columns: &[Column],
    order: &[usize],
    sink: &mut dyn Sink,
    style: Style,
) -> Result<(), Stopped> {
    let (open, close) = if style.associative { (b'{', b'}') } else { (b'[', b']') };
    sink.buffer().push(open);
    for (i, at) in order.iter().enumerate() {
        let out = sink.buffer();
        if i > 0 {
            out.push(b',');
        }
        let column = &columns[*at];
        if style.associative {
            out.extend_from_slice(&column.name);
            out.push(b':');
        }
        if let Ok(cell) = row.get_ref(*at) {
            if large_value::is_large(cell, column.affinity) {
                large_value::write(sink, cell, style.blob_array)?;
            } else {
                value::write_value(out, cell, column.affinity, style.blob_array);
            }
        }
        sink.part_written()?;
    }
    sink.buffer().push(close);
    Ok(())
}

fn advance<'r, 's>(rows: &'r mut Rows<'s>) -> rusqlite::Result<Option<&'r rusqlite::Row<'s>>> {
    rows.next()
}

fn write_list<T>(
    out: &mut Vec<u8>,
    open: &[u8],
    items: impl Iterator<Item = T>,
    close: u8,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.extend_from_slice(open);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(close);
}

/// SQLite's bare message.
pub fn error_text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::SqliteFailure(code, None) => code.to_string(),
        other => other.to_string(),
    }
}
