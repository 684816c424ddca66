//! Change capture: what each entry did to the rows of users' tables, as part of the replicated state.
//!
//! The entry's transaction that changes rows also writes what it changed into `_sqlited_changes`, on every member alike. So a change
//! is there exactly if the row's is: after a crash, in a snapshot, on whoever leads next; and the checksum of the state
//! covers it. Whether and how changes are captured is the row of `_sqlited_capture`, which a command of the log
//! makes ([`ChangesCommand`]). Neither table exists while capture is off.
//!
//! ```text
//! _sqlited_changes  id = entry << 20 | part · at (ms since 1970) · count · more · events
//! ```
//! `events` are JSON texts with a newline between each two: an entry's in parts of about [`PART`] bytes.

use super::generation::Generations;
use super::meta::{MetaError, Position, read_position};
use super::writer::State;
use crate::observe::Observe as _;
use crate::raft::command::{CaptureSettings, ChangesCommand};
use regex::Regex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use std::path::Path;
use tokio::sync::watch;

/// How changes are captured, and how far they were taken.
const STATE_TABLE: &str = "_sqlited_capture";

/// Bytes of events after which a part of an entry's ends.
const PART: usize = 64 << 10;
const PART_BITS: u32 = 20;
/// More parts an entry cannot have.
const MOST_PARTS: i64 = 1 << PART_BITS;

/// Changes of entries that were dropped before the sink had them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first entry.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// How many changes.
    pub events: u64,
    /// When the last one was made, in milliseconds since 1970.
    pub at_ms: i64,
}

/// How changes are captured, and how far they were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureState {
    /// What is captured, and how much of it is kept.
    pub settings: CaptureSettings,
    /// The entry that switched it on.
    pub since: u64,
    /// The sink has all changes up to this entry.
    pub delivered: u64,
    /// Changes up to this entry are not kept any more.
    pub trimmed: u64,
    /// What was dropped before the sink had it, last.
    pub gap: Option<Gap>,
    /// Bytes that are kept.
    pub bytes: u64,
    /// Changes captured since it was switched on.
    pub events: u64,
    /// Changes that were dropped before the sink had them, since it was switched on.
    pub lost: u64,
}

impl CaptureState {
    /// The first entry after which all changes are kept.
    pub fn earliest(&self) -> u64 {
        self.since.max(self.trimmed)
    }

    /// The sink will not have `events` changes of `entry`: the gap is longer, or a new one.
    fn lose(&mut self, entry: u64, events: u64, at_ms: i64) {
        self.lost += events;
        // What the sink was told of is over.
        let gap = self.gap.filter(|gap| gap.to > self.delivered);
        let (from, before) = gap.map_or((entry, 0), |gap| (gap.from, gap.events));
        self.gap = Some(Gap { from, to: entry, events: before + events, at_ms });
    }
}

/// Where a reader is: after a part of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(i64);

impl Cursor {
    /// After all of an entry.
    pub fn after_entry(entry: u64) -> Self {
        let entry = i64::try_from(entry).unwrap_or(i64::MAX).min((i64::MAX >> PART_BITS) - 1);
        Self(((entry + 1) << PART_BITS) - 1)
    }

    /// The entry of the part before it.
    pub fn entry(self) -> u64 {
        (self.0 >> PART_BITS) as u64
    }
}

/// A part of an entry's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// After it.
    pub cursor: Cursor,
    /// The entry's time, in milliseconds since 1970.
    pub at_ms: i64,
    /// How many changes it holds.
    pub count: u64,
    /// Whether another part of the same entry follows.
    pub more: bool,
    /// The changes: JSON texts, a newline between each two.
    pub events: Vec<u8>,
}

/// What a reader found.
#[derive(Clone, Debug)]
pub struct Page {
    /// How capture stands.
    pub state: CaptureState,
    /// How far the state is that was read.
    pub position: Position,
    /// What follows the cursor, in order, of about as many bytes as were asked for.
    pub parts: Vec<Part>,
    /// Whether there may be more than `parts`.
    pub is_full: bool,
}

/// Reads how capture stands; none if it is off.
pub fn read_state(connection: &Connection) -> rusqlite::Result<Option<CaptureState>> {
    let known = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    if connection.query_row(known, [STATE_TABLE], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    read_present(connection).map(Some)
}

fn read_present(connection: &Connection) -> rusqlite::Result<CaptureState> {
    let sql = "/* own */ SELECT row_ids_only, has_sink, table_filter, max_bytes, retain_bytes, since, delivered, trimmed,
               gap_from, gap_to, gap_events, gap_at, bytes, events, lost FROM _sqlited_capture WHERE id = 1";
    connection.prepare_cached(sql)?.query_row([], |row| {
        let number = |column: usize| row.get::<_, i64>(column).map(|n| n as u64);
        let gap = Gap { from: number(8)?, to: number(9)?, events: number(10)?, at_ms: row.get(11)? };
        Ok(CaptureState {
            settings: CaptureSettings {
                row_ids_only: row.get(0)?,
                has_sink: row.get(1)?,
                table_filter: row.get(2)?,
                max_bytes: number(3)?,
                retain_bytes: number(4)?,
            },
            since: number(5)?,
            delivered: number(6)?,
            trimmed: number(7)?,
            gap: (gap.events > 0).then_some(gap),
            bytes: number(12)?,
            events: number(13)?,
            lost: number(14)?,
        })
    })
}

fn write_state(connection: &Connection, state: &CaptureState) -> rusqlite::Result<()> {
    let sql = "/* own */ INSERT OR REPLACE INTO _sqlited_capture VALUES(1,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
    let gap = state.gap.unwrap_or(Gap { from: 0, to: 0, events: 0, at_ms: 0 });
    let settings = &state.settings;
    connection.prepare_cached(sql)?.execute(params![
        settings.row_ids_only,
        settings.has_sink,
        settings.table_filter,
        settings.max_bytes as i64,
        settings.retain_bytes as i64,
        state.since as i64,
        state.delivered as i64,
        state.trimmed as i64,
        gap.from as i64,
        gap.to as i64,
        gap.events as i64,
        gap.at_ms,
        state.bytes as i64,
        state.events as i64,
        state.lost as i64,
    ])?;
    Ok(())
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _sqlited_changes(id INTEGER PRIMARY KEY, at INTEGER NOT NULL,
             count INTEGER NOT NULL, more INTEGER NOT NULL, events BLOB NOT NULL);
         CREATE TABLE IF NOT EXISTS _sqlited_capture(id INTEGER PRIMARY KEY, row_ids_only INTEGER NOT NULL,
             has_sink INTEGER NOT NULL, table_filter TEXT NOT NULL, max_bytes INTEGER NOT NULL,
             retain_bytes INTEGER NOT NULL, since INTEGER NOT NULL, delivered INTEGER NOT NULL,
             trimmed INTEGER NOT NULL, gap_from INTEGER NOT NULL, gap_to INTEGER NOT NULL,
             gap_events INTEGER NOT NULL, gap_at INTEGER NOT NULL, bytes INTEGER NOT NULL,
             events INTEGER NOT NULL, lost INTEGER NOT NULL)",
    )
}

fn remove(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("DROP TABLE IF EXISTS _sqlited_changes; DROP TABLE IF EXISTS _sqlited_capture")
}

/// Does what the entry `index` says, within its transaction; returns whether the writer has to be opened anew.
pub fn execute(connection: &Connection, index: u64, command: &ChangesCommand) -> rusqlite::Result<bool> {
    let present = read_state(connection)?;
    match command {
        ChangesCommand::Off => {
            remove(connection)?;
            Ok(present.is_some())
        }
        // The leader looked before it proposed: what only this version cannot read must not end the member.
        ChangesCommand::On(settings) if Regex::new(&settings.table_filter).is_err() => Ok(false),
        ChangesCommand::On(settings) => {
            let state = match present {
                Some(state) => CaptureState { settings: settings.clone(), ..state },
                None => {
                    create(connection)?;
                    CaptureState {
                        settings: settings.clone(),
                        since: index,
                        delivered: index,
                        trimmed: 0,
                        gap: None,
                        bytes: 0,
                        events: 0,
                        lost: 0,
                    }
                }
            };
            write_state(connection, &state)?;
            Ok(true)
        }
        ChangesCommand::Delivered { entry } => {
            // From a leader that did not know yet that capture is off.
            let Some(mut state) = present else { return Ok(false) };
            state.delivered = state.delivered.max(*entry).min(index);
            let (keep, upto) = (state.settings.retain_bytes, state.delivered);
            drop_oldest(connection, &mut state, keep, upto)?;
            write_state(connection, &state)?;
            Ok(false)
        }
    }
}

/// Drops whole entries, the oldest first and none after `upto`, until at most `keep` bytes are left.
fn drop_oldest(
    connection: &Connection,
    state: &mut CaptureState,
    keep: u64,
    upto: u64,
) -> rusqlite::Result<()> {
    if state.bytes <= keep {
        return Ok(());
    }
    let mut dropped: Option<u64> = None;
    let mut oldest = connection
        .prepare_cached("/* own */ SELECT id, at, count, length(events) FROM _sqlited_changes ORDER BY id")?;
    let mut rows = oldest.query([])?;
    while let Some(row) = rows.next()? {
        let entry = Cursor(row.get(0)?).entry();
        let begins = dropped != Some(entry);
        if begins && (state.bytes <= keep || entry > upto) {
            break;
        }
        dropped = Some(entry);
        state.bytes = state.bytes.saturating_sub(row.get::<_, i64>(3)? as u64);
        if state.settings.has_sink && entry > state.delivered {
            state.lose(entry, row.get::<_, i64>(2)? as u64, row.get(1)?);
        }
    }
    drop(rows);
    drop(oldest);
    if let Some(entry) = dropped {
        state.trimmed = state.trimmed.max(entry);
        let sql = "/* own */ DELETE FROM _sqlited_changes WHERE id <= ?1";
        connection.prepare_cached(sql)?.execute([Cursor::after_entry(entry).0])?;
    }
    Ok(())
}

/// Writes the changes of one entry, within its transaction.
pub struct EntryChanges<'a> {
    connection: &'a Connection,
    entry: u64,
    at_ms: i64,
    part: i64,
    count: u64,
    events: Vec<u8>,
    written: (u64, u64),
}

impl<'a> EntryChanges<'a> {
    /// Of the entry `entry`, at `at_ms` milliseconds since 1970.
    pub fn new(connection: &'a Connection, entry: u64, at_ms: i64) -> Self {
        Self { connection, entry, at_ms, part: 0, count: 0, events: Vec::new(), written: (0, 0) }
    }

    /// Adds a change, by what appends its JSON.
    pub fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> rusqlite::Result<()> {
        if self.events.len() >= PART && self.part + 1 < MOST_PARTS {
            self.flush(true)?;
        }
        if self.count > 0 {
            self.events.push(b'\n');
        }
        write(&mut self.events);
        self.count += 1;
        Ok(())
    }

    fn flush(&mut self, more: bool) -> rusqlite::Result<()> {
        let sql =
            "/* own */ INSERT INTO _sqlited_changes(id, at, count, more, events) VALUES(?1, ?2, ?3, ?4, ?5)";
        let id = (self.entry as i64) << PART_BITS | self.part;
        self.connection.prepare_cached(sql)?.execute(params![
            id,
            self.at_ms,
            self.count as i64,
            more,
            self.events
        ])?;
        self.written.0 += self.events.len() as u64;
        self.written.1 += self.count;
        self.part += 1;
        self.count = 0;
        self.events.clear();
        Ok(())
    }

    /// Writes the rest, and drops the oldest changes beyond what may be kept. `unheld` changes were more than could be
    /// held: none of this entry is kept then.
    pub fn finish(mut self, unheld: u64) -> rusqlite::Result<()> {
        if self.count > 0 {
            self.flush(false)?;
        }
        let (bytes, events) = self.written;
        if events + unheld == 0 {
            return Ok(());
        }
        let mut state = read_present(self.connection)?;
        state.bytes += bytes;
        state.events += events + unheld;
        let most = state.settings.max_bytes;
        drop_oldest(self.connection, &mut state, most, self.entry)?;
        if unheld > 0 {
            drop_oldest(self.connection, &mut state, 0, self.entry)?;
            state.trimmed = self.entry;
            if state.settings.has_sink {
                state.lose(self.entry, unheld, self.at_ms);
            }
        }
        write_state(self.connection, &state)
    }
}

/// Takes capture over from `before` into the database of `after`, which takes its place: settings, and what is kept. What
/// `after` brought along of capture elsewhere goes. Part of the caller's transaction on `after`.
pub fn carry_over(before: &Connection, after: &Connection) -> rusqlite::Result<()> {
    remove(after)?;
    let Some(state) = read_state(before)? else { return Ok(()) };
    create(after)?;
    write_state(after, &state)?;
    let mut kept = before.prepare("SELECT id, at, count, more, events FROM _sqlited_changes ORDER BY id")?;
    let mut rows = kept.query([])?;
    let mut insert = after
        .prepare("INSERT INTO _sqlited_changes(id, at, count, more, events) VALUES(?1, ?2, ?3, ?4, ?5)")?;
    while let Some(row) = rows.next()? {
        let number = |column: usize| row.get::<_, i64>(column);
        let events = row.get_ref(4)?.as_blob().map_err(|_| rusqlite::Error::InvalidQuery)?;
        insert.execute(params![number(0)?, number(1)?, number(2)?, number(3)?, events])?;
    }
    Ok(())
}

/// Reads captured changes on a connection of its own. Blocks.
pub struct ChangesReader {
    generations: Generations,
    state: watch::Receiver<State>,
    open: Option<(u64, Connection)>,
}

impl ChangesReader {
    /// Of the present generation, as `state` names it.
    pub fn new(generations: Generations, state: watch::Receiver<State>) -> Self {
        Self { generations, state, open: None }
    }

    /// Reads parts after `cursor`, of about `bytes` bytes together but at least one, if there is one; none if capture is
    /// off.
    pub fn read(&mut self, cursor: Cursor, bytes: usize) -> Result<Option<Page>, MetaError> {
        let present = self.state.observe(|state| state.generation);
        let connection = match self.open.take() {
            Some((generation, connection)) if generation == present => connection,
            _ => open(&self.generations.path(present))?,
        };
        let page = read_page(&connection, cursor, bytes);
        if page.is_ok() {
            self.open = Some((present, connection));
        }
        page
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(
        "PRAGMA query_only=ON; PRAGMA cache_size=-1024; PRAGMA mmap_size=0; PRAGMA busy_timeout=5000",
    )?;
    Ok(connection)
}

/// Reads parts after `cursor`, of about `bytes` bytes together but at least one; none if capture is off.
fn read_page(connection: &Connection, cursor: Cursor, bytes: usize) -> Result<Option<Page>, MetaError> {
    let transaction = connection.unchecked_transaction()?;
    let Some(state) = read_state(&transaction)? else { return Ok(None) };
    let position = read_position(&transaction)?;
    let sql = "SELECT id, at, count, more, events FROM _sqlited_changes WHERE id > ?1 ORDER BY id";
    let mut parts: Vec<Part> = Vec::new();
    let mut read = 0;
    let mut is_full = false;
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query([cursor.0])?;
    while let Some(row) = rows.next()? {
        let events: Vec<u8> = row.get(4)?;
        read += events.len();
        parts.push(Part {
            cursor: Cursor(row.get(0)?),
            at_ms: row.get(1)?,
            count: row.get::<_, i64>(2)? as u64,
            more: row.get(3)?,
            events,
        });
        if read >= bytes {
            is_full = true;
            break;
        }
    }
    drop(rows);
    drop(statement);
    transaction.finish()?;
    Ok(Some(Page { state, position, parts, is_full }))
}
