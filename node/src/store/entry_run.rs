//! One attempt at an entry: its requests, one after the other, within the transaction that the applier began.

use super::apply::{Entry, LocalFailure, Reply};
use super::encode::{self, Bounded, Sink as _, Style};
use super::entry_vfs;
use super::execute::{Mode, StatementError, run_statement};
use super::kept_replies::{KeptReply, Keyed};
use super::recorder::Mark;
use super::reply_room;
use super::watched::Verdict;
use super::writer_connection::WriterConnection;
use crate::raft::command::{CommandView, Malformed, RequestFlags, RequestView};
use bytes::Bytes;
use rusqlite::ErrorCode;

/// Largest reply of one request that is kept in memory. A statement whose result goes beyond it fails, and changes nothing.
const REPLY_LIMIT: usize = 64 << 20;
/// How many statements of one request may end the entry's transaction; each costs a replay of the entry.
const ENDINGS: usize = 8;
const NO_ROOM: &str = "it was run all the same; its result is not told, because those of other requests take all the \
                       room there is for them: ask for less at once";
const FOREIGN_KEY_FAILED: &str = "FOREIGN KEY constraint failed";
const TOO_MANY_ENDINGS: &str = "not run: too many statements of this request rolled back the transaction";

/// How steps are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// On a connection that ran other statements before: their traces in its caches shift the count a little, so
    /// reaching 80 % of the limit ends the attempt without a verdict.
    Estimate,
    /// On a connection opened for this attempt: every replica counts the same.
    Exact,
}

/// A statement that must be left out when the entry is run again.
pub struct Failed {
    request: u32,
    statement: u32,
    /// Position within the statement's text.
    sub: u32,
    message: String,
    /// What the request's later statements are answered, which are not run either.
    rest: Option<&'static str>,
}

/// A request that is answered without being run.
pub struct Muted {
    request: u32,
    output: Vec<u8>,
}

impl Muted {
    /// Answers every statement of `request`, the entry's `number`th, with `error`.
    fn refused(number: u32, request: &RequestView<'_>, error: &rusqlite::Error) -> Self {
        let message = format!("the transaction cannot be committed: {}", encode::error_text(error));
        let statements = if request.flags.has(RequestFlags::TRANSACTION) { 1 } else { request.count };
        Self { request: number, output: each_answered(statements, &message) }
    }

    /// The same of all requests of an entry.
    pub fn all(command: &CommandView<'_>, error: &rusqlite::Error) -> Result<Vec<Self>, Malformed> {
        let numbered = (0..).zip(command.requests());
        numbered.map(|(number, request)| Ok(Self::refused(number, &request?, error))).collect()
    }
}

/// Answers so many statements with an error.
fn each_answered(statements: u32, message: &str) -> Vec<u8> {
    let mut output = Vec::new();
    (0..statements).for_each(|_| encode::write_error(&mut output, message, false));
    output
}

/// What is said in the place of a result that there is no room for here. Of that other members know nothing, so that it
/// changes nothing else.
fn no_room(request: &RequestView<'_>) -> Bytes {
    each_answered(request.count, NO_ROOM).into()
}

/// What is left out of an attempt.
#[derive(Default)]
pub struct LeftOut {
    /// Statements that failed in earlier attempts.
    pub failed: Vec<Failed>,
    /// Requests that are not run.
    pub muted: Vec<Muted>,
    /// Virtual tables keep some of their writes until the commit, and fail then where what made them was undone in
    /// between, for one. After such a failure they write what they kept after each request, so that it is known whose
    /// it is.
    pub flushes: bool,
}

/// How an attempt ended.
pub enum Attempt {
    /// All requests were run: their results, and those of them to be kept.
    Finished(Reply, Vec<KeptReply>),
    /// A virtual table fails at a boundary between requests: the entry is to be undone and run again with flushes.
    Refused,
    /// The entry is to be undone and run again without this request.
    WithoutRequest(Muted),
    /// The entry is to be undone and run again without this statement.
    Without(Failed),
    /// The entry is to be undone and run again with an exact count.
    Recount,
}

/// One attempt.
pub struct EntryRun<'a> {
    on: &'a WriterConnection,
    entry: &'a Entry,
    /// Its time, in microseconds since 1970.
    time: i64,
    count: Count,
    left_out: &'a LeftOut,
}

impl<'a> EntryRun<'a> {
    /// An attempt at `entry`, whose time is `time`, without what is `left_out`.
    pub fn new(
        on: &'a WriterConnection,
        (entry, time): (&'a Entry, i64),
        count: Count,
        left_out: &'a LeftOut,
    ) -> Self {
        Self { on, entry, time, count, left_out }
    }

    fn enforces_foreign_keys(&self) -> bool {
        self.on.foreign_keys.are_enforced()
    }

    /// Runs all requests of `command`.
    pub fn run(&self, command: &CommandView<'_>) -> Result<Attempt, LocalFailure> {
        let limit = command.context.step_limit;
        let budget = match self.count {
            Count::Estimate => limit / 5 * 4,
            Count::Exact => limit,
        };
        let mut reply = Reply::new();
        let mut kept = Vec::new();
        for (number, request) in (0..).zip(command.requests()) {
            let request = request.map_err(|source| self.malformed(source))?;
            let keyed = Keyed::of(&request);
            if let Some(known) = self.known(keyed, &kept)? {
                if self.entry.wants_reply {
                    reply.push(known.into());
                }
                continue;
            }
            let mut sink = Bounded::new(REPLY_LIMIT);
            match self.left_out.muted.iter().find(|muted| muted.request == number) {
                Some(muted) => sink.buffer().extend_from_slice(&muted.output),
                None => {
                    self.on.watch.begin_request(budget);
                    let mut run = RequestRun { entry: self, number, request: &request, aborted: false };
                    let refusal = match run.run(command.context.seed, &mut sink) {
                        Ok(Some(end)) => return Ok(end),
                        Ok(None) => self.flush()?,
                        Err(Stop::Refused(_)) if !self.left_out.flushes => return Ok(Attempt::Refused),
                        Err(Stop::Refused(error)) => Some(error),
                        Err(Stop::Local(failure)) => return Err(failure),
                    };
                    if let Some(error) = refusal {
                        let output = sink.into_bytes();
                        return Ok(Attempt::WithoutRequest(match run.aborted {
                            true => Muted { request: number, output },
                            false => Muted::refused(number, &request, &error),
                        }));
                    }
                }
            }
            let output = sink.into_bytes();
            kept.extend(keyed.map(|keyed| keyed.answered(&output)));
            if self.entry.wants_reply {
                reply.push(reply_room::keep(output).unwrap_or_else(|| no_room(&request)));
            }
        }
        Ok(Attempt::Finished(reply, kept))
    }

    /// The answer to a request that was run before.
    fn known(&self, keyed: Option<Keyed>, kept: &[KeptReply]) -> Result<Option<Vec<u8>>, LocalFailure> {
        let Some(keyed) = keyed else { return Ok(None) };
        let what = "look for an answer that was kept";
        keyed
            .known(kept, &self.on.connection, self.time)
            .map_err(|source| LocalFailure::Sqlite { what, source })
    }

    /// Has virtual tables write what they keep, if that is wanted; returns why they cannot. A savepoint makes them.
    fn flush(&self) -> Result<Option<rusqlite::Error>, LocalFailure> {
        if !self.left_out.flushes {
            return Ok(None);
        }
        let full_before = entry_vfs::full_writes();
        let flushed = self.on.connection.execute_batch("SAVEPOINT flush; RELEASE flush");
        flushed.err().map(|error| replicated(error, full_before)).transpose()
    }

    /// How far the changes of rows are noted, if they are captured.
    fn noted(&self) -> Option<Mark> {
        self.on.recorder.as_ref().map(|recorder| recorder.mark())
    }

    /// What came after `mark` was undone.
    fn undo_noted(&self, mark: Option<Mark>) {
        if let (Some(recorder), Some(mark)) = (&self.on.recorder, mark) {
            recorder.undo_to(mark);
        }
    }

    fn malformed(&self, source: Malformed) -> LocalFailure {
        LocalFailure::Malformed { index: self.entry.log_id.index, source }
    }
}

/// One request of an entry.
struct RequestRun<'a> {
    entry: &'a EntryRun<'a>,
    number: u32,
    request: &'a RequestView<'a>,
    /// What it did was undone.
    aborted: bool,
}

/// Why a request was not run to its end.
enum Stop {
    /// A failure of this replica alone.
    Local(LocalFailure),
    /// A virtual table failed at a savepoint.
    Refused(rusqlite::Error),
}

impl From<LocalFailure> for Stop {
    fn from(failure: LocalFailure) -> Self {
        Self::Local(failure)
    }
}

/// What became of one statement.
enum Ran {
    Fine,
    /// With a message for the client, unless the output has it already.
    Failed(Option<String>),
    End(Attempt),
}

impl RequestRun<'_> {
    /// Runs the statements; returns how the attempt ended, if it did.
    fn run(&mut self, entry_seed: u64, sink: &mut Bounded) -> Result<Option<Attempt>, Stop> {
        let on = self.entry.on;
        let all_or_nothing = self.request.flags.has(RequestFlags::TRANSACTION);
        let noted = self.entry.noted();
        if all_or_nothing {
            self.control("/* own */ SAVEPOINT request", "begin a request")?;
        }
        let mut statements = self.request.statements();
        let mut number = 0;
        while let Some(view) = statements.next().map_err(|source| self.entry.malformed(source))? {
            on.random.seed(entry_seed, self.number, number);
            let ran = match self.refused(number) {
                Some(message) => Ran::Failed(Some(message.into())),
                None => self.run_one(number, &view, all_or_nothing, sink)?,
            };
            match ran {
                Ran::Fine => {}
                Ran::End(attempt) => return Ok(Some(attempt)),
                Ran::Failed(message) => {
                    if let Some(message) = message {
                        encode::write_error(sink.buffer(), &message, false);
                    }
                    if all_or_nothing {
                        self.aborted = true;
                        break;
                    }
                }
            }
            number += 1;
        }
        if all_or_nothing {
            if !self.aborted && self.violates_deferred() {
                encode::write_error(sink.buffer(), FOREIGN_KEY_FAILED, false);
                self.aborted = true;
            }
            if self.aborted {
                self.control("/* own */ ROLLBACK TO request", "undo a request")?;
                self.entry.undo_noted(noted);
            }
            self.control("/* own */ RELEASE request", "end a request")?;
        }
        Ok(None)
    }

    /// Runs a statement of the applier's own.
    fn control(&self, sql: &str, what: &'static str) -> Result<(), Stop> {
        let full_before = entry_vfs::full_writes();
        match self.entry.on.control(sql, what) {
            Ok(()) => Ok(()),
            Err(LocalFailure::Sqlite { source, .. }) => Err(Stop::Refused(replicated(source, full_before)?)),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Why a statement is not run at all: one before it used up what the request may take.
    fn refused(&self, statement: u32) -> Option<&'static str> {
        self.failures().find(|f| f.statement < statement && f.rest.is_some()).and_then(|f| f.rest)
    }

    fn failures(&self) -> impl Iterator<Item = &Failed> {
        self.entry.left_out.failed.iter().filter(|f| f.request == self.number)
    }

    fn violates_deferred(&self) -> bool {
        self.entry.enforces_foreign_keys() && entry_vfs::has_deferred_violations(&self.entry.on.connection)
    }

    fn run_one(
        &self,
        number: u32,
        view: &crate::raft::command::StatementView<'_>,
        all_or_nothing: bool,
        sink: &mut Bounded,
    ) -> Result<Ran, Stop> {
        let on = self.entry.on;
        // A deferred foreign key is checked when the client's statement would have committed.
        let deferred = self.entry.enforces_foreign_keys() && !all_or_nothing;
        let noted = self.entry.noted();
        if deferred {
            self.control("/* own */ SAVEPOINT statement", "begin a statement")?;
        }
        let skip = self.failures().find(|f| f.statement == number).map(|f| (f.sub, f.message.as_str()));
        let unified = self.request.flags.has(RequestFlags::UNIFIED);
        let mode = if unified { Mode::Unified } else { Mode::Execute };
        let filled = sink.filled();
        let full_before = entry_vfs::full_writes();
        let style = Style { is_kept: self.request.key.is_some(), ..Style::from(self.request.flags) };
        let outcome = run_statement(on.on(), view, mode, style, sink, skip);
        if let Err(StatementError::Undo { sub, verdict }) = &outcome {
            return Ok(Ran::End(self.undo(number, *sub, *verdict)));
        }
        if let Some((sub, message)) = self.too_large(&outcome) {
            return Ok(Ran::End(Attempt::Without(self.failed(number, sub, message, None))));
        }
        if on.connection.is_autocommit() {
            return Ok(Ran::End(self.transaction_ended(outcome, number, full_before)?));
        }
        let mut ran = self.judge(outcome, full_before)?;
        if deferred {
            // Also where it failed: parts of it may have stayed, and what others do next would be blamed for them.
            if self.violates_deferred() {
                self.control("/* own */ ROLLBACK TO statement", "undo a statement")?;
                self.entry.undo_noted(noted);
                if self.entry.flush()?.is_some() {
                    let failed = self.failed(number, 0, FOREIGN_KEY_FAILED.into(), None);
                    return Ok(Ran::End(Attempt::Without(failed)));
                }
                if matches!(ran, Ran::Fine) {
                    sink.take_back(filled);
                    ran = Ran::Failed(Some(FOREIGN_KEY_FAILED.into()));
                }
            }
            self.control("/* own */ RELEASE statement", "end a statement")?;
        }
        Ok(ran)
    }

    /// Where in its text a statement has a result beyond what is kept, and the message. The output has parts of it already.
    fn too_large(&self, outcome: &Result<(), StatementError>) -> Option<(u32, String)> {
        let Err(error) = outcome else { return None };
        let sub = match error {
            StatementError::Stopped => 0,
            StatementError::TooLarge { sub } => *sub,
            _ => return None,
        };
        Some((sub, error.text(&self.entry.on.guard)))
    }

    fn undo(&self, statement: u32, sub: u32, verdict: Verdict) -> Attempt {
        const OVER: &str = "not run: the request has used up the steps it may take";
        if verdict == Verdict::OverBudget && self.entry.count == Count::Estimate {
            return Attempt::Recount;
        }
        let rest = (verdict == Verdict::OverBudget).then_some(OVER);
        Attempt::Without(self.failed(statement, sub, verdict.to_string(), rest))
    }

    fn failed(&self, statement: u32, sub: u32, message: String, rest: Option<&'static str>) -> Failed {
        let rest = rest.or_else(|| (self.failures().count() + 1 >= ENDINGS).then_some(TOO_MANY_ENDINGS));
        Failed { request: self.number, statement, sub, message, rest }
    }

    /// An error of this replica alone is an `Err`. A failure that is in the output already has no message.
    fn judge(&self, outcome: Result<(), StatementError>, full_before: u64) -> Result<Ran, LocalFailure> {
        let Err(error) = outcome else { return Ok(Ran::Fine) };
        let message = error.text(&self.entry.on.guard);
        match error {
            StatementError::Malformed(source) => Err(self.entry.malformed(source)),
            StatementError::Sqlite { error, reported, .. } => {
                replicated(error, full_before)?;
                Ok(Ran::Failed((!reported).then_some(message)))
            }
            StatementError::Refused(_)
            | StatementError::Undo { .. }
            | StatementError::Stopped
            | StatementError::TooLarge { .. } => Ok(Ran::Failed(Some(message))),
        }
    }

    fn transaction_ended(
        &self,
        outcome: Result<(), StatementError>,
        statement: u32,
        full_before: u64,
    ) -> Result<Attempt, LocalFailure> {
        match outcome {
            Err(StatementError::Sqlite { sub, error, .. }) => {
                let error = replicated(error, full_before)?;
                Ok(Attempt::Without(self.failed(statement, sub, encode::error_text(&error), None)))
            }
            _ => {
                let what = "SQLite ended the transaction without an error";
                let source = rusqlite::Error::InvalidQuery;
                Err(LocalFailure::Sqlite { what, source })
            }
        }
    }
}

/// Passes on an error that every replica meets alike; one that is this replica's misfortune becomes an `Err`.
pub fn replicated(error: rusqlite::Error, full_before: u64) -> Result<rusqlite::Error, LocalFailure> {
    let local = match error.sqlite_error_code() {
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::NotADatabase
            | ErrorCode::CannotOpen
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied,
        ) => true,
        // A damaged virtual table (FTS index) is damaged everywhere; a damaged database is not.
        Some(ErrorCode::DatabaseCorrupt) => {
            error.sqlite_error().is_none_or(|e| e.extended_code != rusqlite::ffi::SQLITE_CORRUPT_VTAB)
        }
        // Also the answer to an exhausted AUTOINCREMENT, which is everywhere the same.
        Some(ErrorCode::DiskFull) => entry_vfs::full_writes() != full_before,
        _ => false,
    };
    if local { Err(LocalFailure::Sqlite { what: "apply an entry", source: error }) } else { Ok(error) }
}
