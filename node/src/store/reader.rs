//! Connections for queries, and the budgets that keep a query from taking more than its share.
//!
//! A query is first tried on the thread that received it, with a small budget of VM steps and bytes; most queries end
//! within it. One that does not is interrupted before a byte of it is sent, and starts again on a thread where it may
//! take its time and stream its rows.
//!
//! The statements of a request see one state: they share a read transaction, in which the state's position is read too.

use super::encode::{self, Abandoned, Bounded, Sink, Style};
use super::entry_functions;
use super::execute::{Mode, On, StatementError, run_statement};
use super::extensions::Loaded;
use super::guard::{Guard, Purpose};
use super::meta::{self, Applied, Position};
use super::query_memory::QueryMemory;
use super::read_gate::{Closed, ReadGate};
use super::result_limit::{Limited, ResultLimit};
use super::scrub::Suspicion;
use super::text::is_single;
use crate::raft::command::{Malformed, RequestFlags, RequestView};
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// VM steps between two looks at the budget.
const STEPS_PER_TICK: u64 = 1000;
/// Of the first attempt.
const INLINE_STEPS: u64 = 20_000;
/// Of the first attempt.
const INLINE_BYTES: usize = 64 << 10;
/// Idle connections kept.
const KEPT: usize = 16;
/// How long a statement may run that was not given a limit.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How long queries that run have to end by themselves when no other one may begin.
const GRACE: Duration = Duration::from_millis(250);
/// How long it takes them at most to end when they have to give way.
const ENDING: Duration = Duration::from_secs(1);
/// The error of a query that was ended for a checkpoint.
const GAVE_WAY: &str = "query ended to let the database be checkpointed: it ran for too long beside many writes; \
                        read in smaller parts";

/// Connections for queries on the present generation.
pub struct ReadPool {
    present: Mutex<Present>,
    /// Queries that take their time, since when.
    running: Mutex<Vec<(Instant, Arc<Budget>)>>,
    /// The last of them has ended.
    idle: Condvar,
    gate: Arc<ReadGate>,
    suspicion: Suspicion,
}

struct Present {
    path: PathBuf,
    extensions: Arc<Loaded>,
    /// Shown by `PRAGMA foreign_keys`, as the writer has it.
    foreign_keys: bool,
    number: u64,
    idle: Vec<Reader>,
}

/// How a query ended that was tried inline.
#[derive(Debug)]
pub enum Inline {
    /// The inside of the array `results`, and how far the state was that they tell of.
    Done(Vec<u8>, Position),
    /// It needs more than the small budget: run it with [`ReadPool::run`].
    OverBudget,
}

/// A query could not be run at all; what SQLite says of a statement is part of the results instead.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No connection could be opened or prepared.
    #[error("open the database for reading: {0}")]
    Open(#[source] rusqlite::Error),
    /// The internal table could not be read.
    #[error(transparent)]
    Meta(#[from] meta::MetaError),
    /// The transaction around the statements failed.
    #[error("read transaction: {0}")]
    Transaction(#[source] rusqlite::Error),
    /// The bytes of the request are malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The sink stopped.
    #[error("the reader of the results is gone")]
    Stopped,
}

/// Limits of one query, per statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Wall time per statement; its end is the error `query timeout`.
    pub statement_timeout: Option<Duration>,
    /// Size of its result; beyond it there is an error instead of more rows.
    pub result: ResultLimit,
}

/// What `/status` tells of SQLite.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// What the library was compiled with.
    pub compile_options: Vec<String>,
    /// Numbers about memory.
    pub memory: BTreeMap<&'static str, i64>,
    /// Connections for queries that wait for one.
    pub idle_readers: usize,
    /// PRAGMAs of connections for queries.
    pub reader: BTreeMap<&'static str, String>,
    /// PRAGMAs of the writer.
    pub writer: BTreeMap<&'static str, String>,
}

/// The progress handler's view of the present query.
#[derive(Default)]
struct Budget {
    /// Ticks left; `u64::MAX` is without limit.
    ticks: AtomicU64,
    /// Nanoseconds after `origin`; `u64::MAX` is without limit.
    deadline: AtomicU64,
    /// The query has to end.
    gives_way: Arc<AtomicBool>,
    /// Tells whether anybody waits for the result still, while there is a query whose reader may go.
    abandoned: Mutex<Option<Abandoned>>,
}

impl Budget {
    fn is_abandoned(&self) -> bool {
        self.abandoned.lock().as_ref().is_some_and(|is_abandoned| is_abandoned())
    }
}

struct Reader {
    connection: Connection,
    guard: Guard,
    budget: Arc<Budget>,
    origin: Instant,
    generation: u64,
    suspicion: Suspicion,
}

impl ReadError {
    /// What SQLite said, if that is the cause.
    fn sqlite(&self) -> Option<&rusqlite::Error> {
        match self {
            Self::Open(error) | Self::Transaction(error) => Some(error),
            Self::Meta(error) => error.sqlite(),
            Self::Malformed(_) | Self::Stopped => None,
        }
    }
}

impl ReadPool {
    /// A pool for the database at `path`, with `extensions`; what looks like damage is told to `suspicion`.
    pub fn new(path: &Path, foreign_keys: bool, extensions: Arc<Loaded>, suspicion: Suspicion) -> Self {
        let path = path.to_owned();
        let present = Present { path, extensions, foreign_keys, number: 0, idle: Vec::new() };
        Self {
            present: Mutex::new(present),
            running: Mutex::default(),
            idle: Condvar::new(),
            gate: Arc::default(),
            suspicion,
        }
    }

    /// From now on queries run on the database at `path`, with `extensions`; those that run already end on the old one.
    pub fn switch_to(&self, path: &Path, foreign_keys: bool, extensions: &Arc<Loaded>) {
        let mut present = self.present.lock();
        present.extensions = extensions.clone();
        present.foreign_keys = foreign_keys;
        path.clone_into(&mut present.path);
        present.number += 1;
        present.idle.clear();
    }

    /// Tries a request on this thread, within the small budget.
    pub fn try_inline(&self, request: &RequestView<'_>, limits: Limits) -> Result<Inline, ReadError> {
        let reader = self.take()?;
        reader.budget.ticks.store(INLINE_STEPS / STEPS_PER_TICK, Ordering::Relaxed);
        let mut sink = Bounded::new(INLINE_BYTES);
        let mut position = Position::default();
        let outcome = reader.run(request, limits, &mut sink, &mut |at| position = at);
        let over = reader.budget.ticks.load(Ordering::Relaxed) == 0;
        self.give_back(reader);
        match outcome {
            Err(ReadError::Stopped) => Ok(Inline::OverBudget),
            Ok(()) if over => Ok(Inline::OverBudget),
            Ok(()) => Ok(Inline::Done(sink.into_bytes(), position)),
            Err(error) => Err(error),
        }
    }

    /// Runs a request on this thread for as long as it takes, writing the inside of the array `results`. Before
    /// anything is written `at` learns how far the state is.
    pub fn run(
        &self,
        request: &RequestView<'_>,
        limits: Limits,
        sink: &mut dyn Sink,
        at: &mut dyn FnMut(Position),
    ) -> Result<(), ReadError> {
        let reader = self.take()?;
        reader.budget.ticks.store(u64::MAX, Ordering::Relaxed);
        sink.gives_way_on(reader.budget.gives_way.clone());
        *reader.budget.abandoned.lock() = sink.abandoned();
        self.running.lock().push((Instant::now(), reader.budget.clone()));
        let outcome = reader.run(request, limits, sink, at);
        let mut running = self.running.lock();
        running.retain(|(_, budget)| !Arc::ptr_eq(budget, &reader.budget));
        if running.is_empty() {
            self.idle.notify_all();
        }
        drop(running);
        *reader.budget.abandoned.lock() = None;
        reader.budget.gives_way.store(false, Ordering::Relaxed);
        self.give_back(reader);
        outcome
    }

    /// Ends queries that run for longer than `age`, each with an error; returns how many.
    pub fn give_way(&self, age: Duration) -> usize {
        let running = self.running.lock();
        let old = running.iter().filter(|(since, _)| since.elapsed() > age);
        old.filter(|(_, budget)| !budget.gives_way.swap(true, Ordering::Relaxed)).count()
    }

    /// Waits until a query may begin.
    pub async fn admitted(&self) {
        self.gate.passed().await;
    }

    /// Lets no query begin until what it returns is dropped. Those that run end by themselves, within a moment, or have to
    /// give way; returns how many had to. Blocks.
    pub fn quiesce(&self) -> (Closed, usize) {
        let closed = self.gate.close();
        let mut ended = 0;
        if !self.is_idle_within(GRACE) {
            ended = self.give_way(Duration::ZERO);
            // Whoever is left has the checkpoint come to nothing this time.
            self.is_idle_within(ENDING);
        }
        (closed, ended)
    }

    fn is_idle_within(&self, patience: Duration) -> bool {
        let mut running = self.running.lock();
        self.idle.wait_while_for(&mut running, |running| !running.is_empty(), patience);
        running.is_empty()
    }

    /// What the newest committed state is. For start-up and diagnostics.
    pub fn applied(&self) -> Result<Applied, ReadError> {
        let reader = self.take()?;
        let meta = meta::read(&reader.connection)?;
        self.give_back(reader);
        Ok(meta.unwrap_or_default().applied)
    }

    /// Runs `f` on a connection: for diagnostics.
    pub fn inspect<T>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        let reader = self.take()?;
        reader.budget.ticks.store(u64::MAX, Ordering::Relaxed);
        reader.budget.deadline.store(u64::MAX, Ordering::Relaxed);
        let result = f(&reader.connection).map_err(ReadError::Transaction);
        self.give_back(reader);
        result
    }

    /// What SQLite says of itself and of this pool's connections. Parts that it does not say are empty.
    pub fn diagnostics(&self) -> Diagnostics {
        const NAMES: [&str; 5] =
            ["synchronous", "journal_mode", "foreign_keys", "wal_autocheckpoint", "busy_timeout"];
        let read = self.inspect(|connection| {
            let pragma = |name: &str| -> rusqlite::Result<String> {
                use rusqlite::types::ValueRef;
                connection.query_row(&format!("PRAGMA {name}"), [], |row| {
                    Ok(match row.get_ref(0)? {
                        ValueRef::Integer(n) => n.to_string(),
                        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                        _ => String::new(),
                    })
                })
            };
            let mut options = connection.prepare("PRAGMA compile_options")?;
            let compile_options =
                options.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
            let pages = connection.query_row("PRAGMA cache_size", [], |row| row.get::<_, i64>(0))?;
            let reader =
                NAMES.iter().map(|name| Ok((*name, pragma(name)?))).collect::<rusqlite::Result<_>>()?;
            Ok((compile_options, pages, reader))
        });
        let (compile_options, cache_size, reader) = read.unwrap_or_default();
        // The writer belongs to its thread; these are what it is configured with (`apply.rs`).
        let foreign_keys = if self.present.lock().foreign_keys { "1" } else { "0" };
        let writer =
            NAMES.into_iter().zip(["1", "wal", foreign_keys, "0", "5000"].map(str::to_owned)).collect();
        let memory = BTreeMap::from([("cache_size", cache_size)]);
        let idle_readers = self.present.lock().idle.len();
        Diagnostics { compile_options, memory, idle_readers, reader, writer }
    }

    /// Whether the text, without running it, may change the database: a single SQL statement that compiles here and
    /// only reads does not.
    pub fn changes_database(&self, sql: &str) -> Result<bool, ReadError> {
        if sql.trim().is_empty() {
            return Ok(false);
        }
        if !is_single(sql) {
            return Ok(true);
        }
        let reader = self.take()?;
        let reads = reader.guard.guarded(|| {
            let statement = reader.connection.prepare_cached(sql);
            statement.is_ok_and(|s| s.readonly() || s.is_explain() != 0)
        });
        self.give_back(reader);
        Ok(!reads)
    }

    /// The extensions that queries are run with.
    pub fn extensions(&self) -> Arc<Loaded> {
        self.present.lock().extensions.clone()
    }

    fn take(&self) -> Result<Reader, ReadError> {
        let (path, number, foreign_keys, extensions) = {
            let mut present = self.present.lock();
            if let Some(reader) = present.idle.pop() {
                return Ok(reader);
            }
            (present.path.clone(), present.number, present.foreign_keys, present.extensions.clone())
        };
        let opened = Reader::open(&path, number, foreign_keys, &extensions, &self.suspicion);
        opened.inspect_err(|error| self.suspicion.look_at(error)).map_err(ReadError::Open)
    }

    fn give_back(&self, reader: Reader) {
        let mut present = self.present.lock();
        if reader.generation == present.number
            && present.idle.len() < KEPT
            && reader.connection.is_autocommit()
        {
            present.idle.push(reader);
        }
    }
}

impl Reader {
    fn open(
        path: &Path,
        generation: u64,
        foreign_keys: bool,
        extensions: &Arc<Loaded>,
        suspicion: &Suspicion,
    ) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.execute_batch("PRAGMA query_only=ON; PRAGMA mmap_size=0; PRAGMA busy_timeout=5000")?;
        // SQLite as it is compiled here would have them on.
        connection.pragma_update(None, "foreign_keys", foreign_keys)?;
        // First: what follows stands over what they bring along.
        extensions.install(&connection, Purpose::Read)?;
        entry_functions::install_math(&connection)?;
        let guard = Guard::install(&mut connection, Purpose::Read, extensions)?;
        let budget = Arc::new(Budget::default());
        let origin = Instant::now();
        let watched = budget.clone();
        let handler = move || {
            let left = watched.ticks.load(Ordering::Relaxed);
            if left == 0 || watched.gives_way.load(Ordering::Relaxed) || watched.is_abandoned() {
                return true;
            }
            if left != u64::MAX {
                watched.ticks.store(left - 1, Ordering::Relaxed);
            }
            let deadline = watched.deadline.load(Ordering::Relaxed);
            deadline != u64::MAX && origin.elapsed().as_nanos() as u64 >= deadline
        };
        connection.progress_handler(STEPS_PER_TICK as i32, Some(handler))?;
        let suspicion = suspicion.clone();
        Ok(Self { connection, guard, budget, origin, generation, suspicion })
    }

    fn run(
        &self,
        request: &RequestView<'_>,
        limits: Limits,
        sink: &mut dyn Sink,
        at: &mut dyn FnMut(Position),
    ) -> Result<(), ReadError> {
        self.control("BEGIN")?;
        let outcome = meta::read_position(&self.connection).map_err(ReadError::from).and_then(|position| {
            at(position);
            self.run_statements(request, limits, sink)
        });
        if !self.connection.is_autocommit() {
            self.control("ROLLBACK")?;
        }
        if let Err(error) = &outcome
            && let Some(error) = error.sqlite()
        {
            self.suspicion.look_at(error);
        }
        outcome
    }

    /// Runs a statement of the reader's own, outside the guard.
    fn control(&self, sql: &str) -> Result<(), ReadError> {
        // Not from the cache, which the statements of users share: what was compiled here is not guarded.
        self.connection.execute_batch(sql).map_err(ReadError::Transaction)
    }

    fn run_statements(
        &self,
        request: &RequestView<'_>,
        limits: Limits,
        sink: &mut dyn Sink,
    ) -> Result<(), ReadError> {
        let memory = QueryMemory::begin();
        let style = Style::from(request.flags);
        // What `/db/request` answers does not depend on which way its statements take, and writes have one shape only.
        let has_rows = style.associative && !request.flags.has(RequestFlags::UNIFIED);
        let transaction = request.flags.has(RequestFlags::TRANSACTION);
        let mut statements = request.statements();
        loop {
            let view = match statements.next() {
                Ok(Some(view)) => view,
                Ok(None) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let timeout = limits.statement_timeout.unwrap_or(DEADLINE);
            let deadline = self.origin.elapsed().saturating_add(timeout).as_nanos();
            let deadline = deadline.min(u128::from(u64::MAX - 1)) as u64;
            self.budget.deadline.store(deadline, Ordering::Relaxed);
            let on = On { connection: &self.connection, guard: &self.guard, watch: None, recorder: None };
            let mut limited = Limited::new(sink, limits.result);
            let ran = run_statement(on, &view, Mode::Query, style, &mut limited, None);
            let mut no_memory = memory.take_refusal();
            // Where SQLite went on without memory it is not certain that this is the answer.
            let refusal = limited.into_refusal().or_else(|| no_memory.take_if(|_| ran.is_ok()));
            if let Some(refusal) = refusal {
                encode::end_with_error(sink.buffer(), None, &refusal);
                if transaction {
                    return Ok(());
                }
                continue;
            }
            match ran {
                Ok(()) => {}
                Err(StatementError::Malformed(error)) => return Err(error.into()),
                Err(StatementError::Stopped) if self.budget.gives_way.load(Ordering::Relaxed) => {
                    encode::end_with_error(sink.buffer(), None, GAVE_WAY);
                    return Ok(());
                }
                Err(StatementError::Stopped) => return Err(ReadError::Stopped),
                // Nor does anybody want what the statements after it say.
                Err(_) if self.budget.is_abandoned() => return Err(ReadError::Stopped),
                Err(error) => {
                    let mut message = error.text(&self.guard);
                    let gives_way = self.budget.gives_way.load(Ordering::Relaxed);
                    let (mut written, mut interrupted) = (None, false);
                    if let StatementError::Sqlite { error, reported, .. } = &error {
                        self.suspicion.look_at(error);
                        written = reported.then_some(error);
                        interrupted = error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted);
                    }
                    if interrupted {
                        message = if gives_way { GAVE_WAY } else { "query timeout" }.into();
                    } else if let Some(refusal) = no_memory {
                        message = refusal;
                    }
                    match written {
                        None => encode::write_error(sink.buffer(), &message, has_rows),
                        Some(error) => encode::end_with_error(sink.buffer(), Some(error), &message),
                    }
                    if transaction || gives_way || self.budget.ticks.load(Ordering::Relaxed) == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::raft::command::{RequestEncoder, RequestId};

    fn pool(dir: &Path) -> ReadPool {
        let path = dir.join("t.sqlite");
        let c = Connection::open(&path).unwrap();
        c.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1),(2)").unwrap();
        meta::create(&c).unwrap();
        meta::write_cluster(&c, "c", 3).unwrap();
        ReadPool::new(&path, false, Loaded::none(), Suspicion::new(std::sync::mpsc::channel().0))
    }

    fn request(sql: &[&str], flags: u16) -> bytes::Bytes {
        let mut e = RequestEncoder::new(RequestFlags(flags), 0);
        sql.iter().for_each(|s| e.statement(s));
        e.finish(RequestId::default()).into_bytes()
    }

    const ENDLESS: &str =
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";

    #[test]
    fn small_queries_end_inline_and_large_ones_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path());
        let small = request(&["SELECT sum(a) AS s FROM t", "SELECT nope"], 0);
        let view = RequestView::parse(&small).unwrap();
        let Inline::Done(bytes, position) = pool.try_inline(&view, Limits::default()).unwrap() else {
            panic!("over budget")
        };
        assert_eq!(position, Position { epoch: 3, index: 0 });
        let expected =
            r#"{"columns":["s"],"types":["integer"],"values":[[3]]},{"error":"no such column: nope"}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);

        for large in [ENDLESS, "SELECT hex(zeroblob(100000)) FROM t"] {
            let large = request(&[large], 0);
            let view = RequestView::parse(&large).unwrap();
            assert!(matches!(pool.try_inline(&view, Limits::default()).unwrap(), Inline::OverBudget));
        }
    }

    #[test]
    fn a_deadline_ends_one_statement_and_not_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path());
        let bytes = request(&[ENDLESS, "SELECT 1 AS n"], 0);
        let mut sink = Bounded::new(1000);
        let limits = Limits { statement_timeout: Some(Duration::from_millis(20)), ..Limits::default() };
        pool.run(&RequestView::parse(&bytes).unwrap(), limits, &mut sink, &mut |_| {}).unwrap();
        let expected = r#"{"error":"query timeout"},{"columns":["n"],"types":["integer"],"values":[[1]]}"#;
        assert_eq!(String::from_utf8(sink.into_bytes()).unwrap(), expected);
    }

    #[test]
    fn users_cannot_run_what_the_reader_compiled_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path());
        for sql in ["SELECT 1", "BEGIN", "ROLLBACK", "COMMIT"] {
            let bytes = request(&[sql], 0);
            let mut sink = Bounded::new(1000);
            pool.run(&RequestView::parse(&bytes).unwrap(), Limits::default(), &mut sink, &mut |_| {})
                .unwrap();
            let text = String::from_utf8(sink.into_bytes()).unwrap();
            assert!(sql == "SELECT 1" || text.contains("not authorized: BEGIN, COMMIT"), "{sql}: {text}");
            assert!(pool.changes_database(sql).unwrap() != (sql == "SELECT 1"), "{sql}");
        }
    }

    #[test]
    fn a_transaction_stops_at_the_first_error() {
        let dir = tempfile::tempdir().unwrap();
        let pool = pool(dir.path());
        let bytes = request(&["SELECT nope", "SELECT 1"], RequestFlags::TRANSACTION);
        let mut sink = Bounded::new(1000);
        pool.run(&RequestView::parse(&bytes).unwrap(), Limits::default(), &mut sink, &mut |_| {}).unwrap();
        assert_eq!(sink.into_bytes(), br#"{"error":"no such column: nope"}"#);
    }
}
