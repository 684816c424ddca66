//! Runs one statement text of a request, which may hold several SQL statements, on a connection.

use super::encode::{self, Bounded, RowsError, Sink, Style, error_text};
use super::guard::Guard;
use super::recorder::Recorder;
use super::result_limit::Limited;
use super::text::is_single;
use super::watched::{Verdict, Watch};
use crate::raft::command::{Malformed, Param, StatementView};
use fallible_iterator::FallibleIterator as _;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Batch, Connection, Statement};
use std::borrow::Cow;
use std::time::Instant;

impl ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Param::Null => ValueRef::Null,
            Param::Integer(i) => ValueRef::Integer(i),
            Param::Real(r) => ValueRef::Real(r),
            Param::Text(t) => ValueRef::Text(t.as_bytes()),
            Param::Blob(b) => ValueRef::Blob(b),
        }))
    }
}

/// Which entry point a statement came through: it decides what may run and how it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `/db/execute`: rows only of statements that change something (RETURNING).
    Execute,
    /// `/db/request`: rows of every statement that has columns.
    Unified,
    /// `/db/query`: nothing that changes the database.
    Query,
}

/// Why a statement text did not run to its end.
#[derive(Debug)]
pub enum StatementError {
    /// SQLite refused or failed; `sub` counts the SQL statements of the text that had run before.
    Sqlite {
        /// Position within the text.
        sub: u32,
        /// What SQLite said.
        error: rusqlite::Error,
        /// Whether the error already is in the output.
        reported: bool,
    },
    /// The request itself is wrong.
    Refused(String),
    /// SQLite ran it, and it must not have happened: the whole entry is undone and run again without it.
    Undo {
        /// Position within the text.
        sub: u32,
        /// Why.
        verdict: Verdict,
    },
    /// The sink stopped.
    Stopped,
    /// Its result is larger than what is kept in memory; `sub` counts the SQL statements of the text that had run before.
    TooLarge {
        /// Position within the text.
        sub: u32,
    },
    /// The bytes of the request are malformed.
    Malformed(Malformed),
}

impl StatementError {
    /// The message for the client.
    pub fn text(&self, guard: &Guard) -> String {
        match self {
            Self::Sqlite { error, .. } => guard.explain(error).unwrap_or_else(|| error_text(error)),
            Self::Refused(message) => message.clone(),
            Self::Undo { verdict, .. } => verdict.to_string(),
            Self::Stopped | Self::TooLarge { .. } => TOO_LARGE.into(),
            Self::Malformed(error) => error.to_string(),
        }
    }
}

/// The text of `/db/query` when a statement would change something.
pub const READ_ONLY: &str = "attempt to change database via query operation";

/// The text of an EXPLAIN whose answer is part of the state: it names addresses in this process's memory, and counts what
/// its connection has seen.
const EXPLAINED: &str = "EXPLAIN is not answered under an Idempotency-Key: its answer is of one member";

/// The text of a result that is not kept in memory.
const TOO_LARGE: &str = "the result is larger than allowed here";

/// Of a text with several SQL statements only the last one's result counts, so it is collected before it is sent.
const BATCH_RESULT_LIMIT: usize = 16 << 20;

/// Where statements run.
#[derive(Clone, Copy)]
pub struct On<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// What its users may not do.
    pub guard: &'a Guard,
    /// On the writer: what follows each statement.
    pub watch: Option<&'a Watch>,
    /// On the writer, while changes are captured.
    pub recorder: Option<&'a Recorder>,
}

/// Runs `view` and writes the entry of its last SQL statement; nothing is written for an empty text or an error that
/// is not `reported`. `skip` names a statement within the text that must fail with a recorded message instead.
pub fn run_statement(
    on: On<'_>,
    view: &StatementView<'_>,
    mode: Mode,
    style: Style,
    sink: &mut dyn Sink,
    skip: Option<(u32, &str)>,
) -> Result<(), StatementError> {
    if view.sql.trim().is_empty() {
        return Ok(());
    }
    if super::guard::renames_to_reserved(view.sql) {
        return Err(StatementError::Refused(super::guard::RESERVED_NAME.into()));
    }
    let started = Instant::now();
    let params = view.params().collect::<Result<Vec<_>, _>>().map_err(StatementError::Malformed)?;
    let run = Run { on, mode, style, started, text: view.sql };
    on.guard.guarded(|| {
        if is_single(view.sql) {
            if let Some((0, message)) = skip {
                return Err(StatementError::Refused(message.to_owned()));
            }
            let sqlite = |error| StatementError::Sqlite { sub: 0, error, reported: false };
            let mut statement = on.connection.prepare_cached(view.sql).map_err(sqlite)?;
            return run.step(&mut statement, Some(view.sql), &params, 0, sink).map(drop);
        }
        run.batch(view.sql, &params, skip, sink)
    })
}

struct Run<'a> {
    on: On<'a>,
    mode: Mode,
    style: Style,
    started: Instant,
    text: &'a str,
}

type Params<'p> = [(Option<&'p str>, Param<'p>)];

impl Run<'_> {
    fn batch(
        &self,
        sql: &str,
        params: &Params<'_>,
        skip: Option<(u32, &str)>,
        sink: &mut dyn Sink,
    ) -> Result<(), StatementError> {
        let mut aside = Bounded::new(BATCH_RESULT_LIMIT);
        let mut batch = Batch::new(self.on.connection, sql);
        let mut sub = 0;
        let mut used = 0;
        let sqlite = |sub| move |error| StatementError::Sqlite { sub, error, reported: false };
        let mut current = batch.next().map_err(sqlite(sub))?;
        let empty = aside.filled();
        if current.is_none() {
            let timed = encode::write_executed(aside.buffer(), self.style, 0, 0, self.started);
            aside.time_written(timed);
        }
        while let Some(mut statement) = current {
            if let Some((at, message)) = skip
                && at == sub
            {
                return Err(StatementError::Refused(message.to_owned()));
            }
            // The result is that of the last statement, and whether this is the last shows only when the next one
            // compiles; it may need what this one creates. So run first, with the output set aside.
            aside.take_back(empty);
            let params = &params[used.min(params.len())..];
            let mut limited = Limited::new(&mut aside, sink.limit());
            used +=
                self.step(&mut statement, None, params, sub, &mut limited).map_err(|error| match error {
                    // Nobody reads from what is set aside, and what it tells goes with it.
                    StatementError::Stopped => match limited.into_refusal() {
                        Some(refusal) => StatementError::Refused(refusal),
                        None => StatementError::TooLarge { sub },
                    },
                    StatementError::Sqlite { sub, error, .. } => {
                        StatementError::Sqlite { sub, error, reported: false }
                    }
                    error => error,
                })?;
            drop(statement);
            current = batch.next().map_err(sqlite(sub + 1))?;
            sub += 1;
        }
        aside.pass_on(sink);
        Ok(())
    }

    /// Binds, runs and answers one compiled statement, `alone` if it is the whole text; returns how many parameters it
    /// took.
    fn step(
        &self,
        statement: &mut Statement<'_>,
        alone: Option<&str>,
        params: &Params<'_>,
        sub: u32,
        sink: &mut dyn Sink,
    ) -> Result<usize, StatementError> {
        if self.mode == Mode::Query && changes_database(statement) {
            return Err(StatementError::Refused(READ_ONLY.into()));
        }
        let wanted = statement.parameter_count();
        if params.len() < wanted {
            let got = params.len();
            return Err(StatementError::Refused(format!(
                "not enough args to execute query: want {wanted} got {got}"
            )));
        }
        let params = if alone.is_some() { params } else { &params[..wanted] };
        bind(statement, params, wanted).map_err(|error| StatementError::Sqlite {
            sub,
            error,
            reported: false,
        })?;
        let Some(watch) = self.on.watch else {
            return self.answer(statement, sub, sink).map(|()| wanted);
        };
        let connection = self.on.connection;
        let recording =
            self.on.recorder.map(|recorder| (recorder, recorder.begin_statement(connection, self.on.guard)));
        watch.before(statement, || match alone {
            Some(sql) => Cow::Borrowed(sql),
            None => statement.expanded_sql().unwrap_or_default().into(),
        });
        let outcome = self.answer(statement, sub, sink);
        let verdict = watch.after(statement);
        let unclear = recording.is_some_and(|(recorder, mark)| {
            let failed = matches!(outcome, Err(StatementError::Sqlite { .. }));
            recorder.end_statement(connection, self.on.guard, mark, failed, self.text)
        });
        let unclear = unclear.then_some(Verdict::FailedHalfway);
        if let Some(verdict) = verdict.or(unclear) {
            return Err(StatementError::Undo { sub, verdict });
        }
        outcome?;
        if self.on.guard.named_at_random(connection) {
            return Err(StatementError::Undo { sub, verdict: Verdict::RandomNames });
        }
        Ok(wanted)
    }

    fn answer(
        &self,
        statement: &mut Statement<'_>,
        sub: u32,
        sink: &mut dyn Sink,
    ) -> Result<(), StatementError> {
        let sqlite = |error| StatementError::Sqlite { sub, error, reported: false };
        let with_rows = statement.column_count() > 0
            && match self.mode {
                Mode::Query | Mode::Unified => true,
                Mode::Execute => changes_database(statement),
            };
        if with_rows && self.style.is_kept && statement.is_explain() == 1 {
            encode::write_error(sink.buffer(), EXPLAINED, self.style.associative);
            return Ok(());
        }
        if with_rows || self.mode == Mode::Query {
            return encode::write_rows(statement, sink, self.style, self.started).map_err(
                |error| match error {
                    RowsError::Before(error) => sqlite(error),
                    RowsError::Within(error) => StatementError::Sqlite { sub, error, reported: true },
                    RowsError::Stopped => StatementError::Stopped,
                },
            );
        }
        let mut rows = statement.raw_query();
        while rows.next().map_err(sqlite)?.is_some() {}
        drop(rows);
        let connection = self.on.connection;
        let changes = self.on.watch.map_or_else(
            || connection.changes(),
            |watch| {
                watch.ended();
                watch.changes(connection).0
            },
        );
        let rowid = connection.last_insert_rowid();
        let timed = encode::write_executed(sink.buffer(), self.style, rowid, changes, self.started);
        sink.time_written(timed);
        Ok(())
    }
}

/// Explaining a write is a read, though SQLite does not say so.
fn changes_database(statement: &Statement<'_>) -> bool {
    !statement.readonly() && statement.is_explain() == 0
}

fn bind(statement: &mut Statement<'_>, params: &Params<'_>, wanted: usize) -> rusqlite::Result<()> {
    statement.clear_bindings();
    for (i, (name, value)) in params.iter().enumerate() {
        match name {
            None if i < wanted => statement.raw_bind_parameter(i + 1, value)?,
            None => {}
            Some(name) => {
                for prefix in [":", "@", "$"] {
                    if let Some(at) = statement.parameter_index(&format!("{prefix}{name}"))? {
                        statement.raw_bind_parameter(at, value)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::raft::command::{RequestEncoder, RequestFlags, RequestId};
    use crate::store::encode::Bounded;
    use crate::store::extensions::Loaded;
    use crate::store::guard::Purpose;

    type Case<'a> = (Mode, &'a str, &'a Params<'a>, &'a str);

    fn run(c: &Connection, guard: &Guard, mode: Mode, sql: &str, params: &Params<'_>) -> String {
        let mut e = RequestEncoder::new(RequestFlags::default(), 0);
        e.statement(sql);
        for (name, value) in params {
            assert!(e.param(*name, *value));
        }
        let request = e.finish(RequestId::default());
        let mut statements = request.view().unwrap().statements();
        let view = statements.next().unwrap().unwrap();
        let mut sink = Bounded::new(1 << 20);
        let style = Style::from(RequestFlags::default());
        let on = On { connection: c, guard, watch: None, recorder: None };
        if let Err(error) = run_statement(on, &view, mode, style, &mut sink, None) {
            return error.text(guard);
        }
        String::from_utf8(sink.into_bytes()).unwrap()
    }

    #[test]
    fn answers_by_table() {
        let mut c = Connection::open_in_memory().unwrap();
        let g = Guard::install(&mut c, Purpose::Write, &Loaded::none()).unwrap();
        let null = (None, Param::Null);
        let cases: &[Case<'_>] = &[
            (Mode::Execute, "CREATE TABLE t(id INTEGER PRIMARY KEY, a VARCHAR(9), b BOOLEAN)", &[], "{}"),
            (
                Mode::Execute,
                "INSERT INTO t(a, b) VALUES(?, :b)",
                &[(None, Param::Text("x")), (Some("b"), Param::Integer(1))],
                r#"{"last_insert_id":1,"rows_affected":1}"#,
            ),
            (
                Mode::Execute,
                "INSERT INTO t(a) VALUES(?)",
                &[],
                "not enough args to execute query: want 1 got 0",
            ),
            (
                Mode::Execute,
                "INSERT INTO t(a) VALUES('y') RETURNING id, a",
                &[],
                r#"{"columns":["id","a"],"types":["integer","varchar(9)"],"values":[[2,"y"]]}"#,
            ),
            (
                Mode::Query,
                "SELECT * FROM t WHERE id = 1",
                &[],
                r#"{"columns":["id","a","b"],"types":["integer","varchar(9)","boolean"],"values":[[1,"x",true]]}"#,
            ),
            (
                Mode::Query,
                "SELECT 1 AS n, ? AS m",
                &[null],
                r#"{"columns":["n","m"],"types":["integer",""],"values":[[1,null]]}"#,
            ),
            (Mode::Query, "SELECT a FROM t WHERE 0", &[], r#"{"columns":["a"],"types":["varchar(9)"]}"#),
            (Mode::Query, "DELETE FROM t", &[], READ_ONLY),
            (
                Mode::Query,
                "EXPLAIN DELETE FROM t; SELECT 7 AS n",
                &[],
                r#"{"columns":["n"],"types":["integer"],"values":[[7]]}"#,
            ),
            (Mode::Query, "SELECT nope", &[], "no such column: nope"),
            // Explaining a write counts as one that changed nothing.
            (Mode::Execute, "SELECT 1", &[], r#"{"last_insert_id":2}"#),
            (
                Mode::Unified,
                "INSERT INTO t(a) VALUES('p'); INSERT INTO t(a) VALUES('q') -- end",
                &[],
                r#"{"last_insert_id":4,"rows_affected":1}"#,
            ),
            (
                Mode::Unified,
                "CREATE TABLE u(a); SELECT count(*) AS n FROM u;",
                &[],
                r#"{"columns":["n"],"types":["integer"],"values":[[0]]}"#,
            ),
            (
                Mode::Execute,
                "INSERT INTO t(a) VALUES(?); UPDATE t SET a = ? WHERE id = ?",
                &[(None, Param::Text("r")), (None, Param::Text("s")), (None, Param::Integer(1))],
                r#"{"last_insert_id":5,"rows_affected":1}"#,
            ),
            (Mode::Execute, "INSERT INTO t(id) VALUES(1)", &[], "UNIQUE constraint failed: t.id"),
            (Mode::Execute, "-- nothing", &[], "{}"),
            (Mode::Execute, "  ", &[], ""),
            (Mode::Execute, "INSERT INTO t(a) VALUES(';')", &[], r#"{"last_insert_id":6,"rows_affected":1}"#),
            (Mode::Execute, "DROP TABLE u", &[], r#"{"last_insert_id":6,"rows_affected":1}"#),
        ];
        for (mode, sql, params, expected) in cases {
            assert_eq!(run(&c, &g, *mode, sql, params), *expected, "{sql}");
        }
        assert!(run(&c, &g, Mode::Execute, "BEGIN", &[]).contains("transaction"));
        assert!(run(&c, &g, Mode::Query, "SELECT * FROM _sqlited_meta", &[]).len() > 5);
    }
}
