//! What the writer must notice of a user's statement besides its result, so that every replica ends it alike.
//!
//! * **Counters.** `changes()` and `total_changes()` are the connection's own; a member that restarted, or opened its
//!   writer anew, has to go on with the numbers that the others have.
//! * **Steps.** A write may take only so many steps of SQLite's virtual machine, the same on every replica. The progress
//!   handler comes every [`TICK`] steps; what a statement took in all is read from its own counter.
//! * **The largest rowid.** Once a table holds rowid 2^63 - 1 SQLite draws the next one at random
//!   (<https://www.sqlite.org/autoinc.html>), so no statement may store it.
//!
//! Source: <https://www.sqlite.org/c3ref/progress_handler.html>, <https://www.sqlite.org/c3ref/changes.html>.

use super::entry_vfs;
use super::meta::Applied;
use super::text;
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, Result, Statement, StatementStatus};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Steps between two looks at the budget.
pub const TICK: u64 = 1000;

/// Follows the statements on the writer's connection.
pub struct Watch {
    counters: Arc<Counters>,
    steps: Arc<Steps>,
    largest_rowid: Arc<AtomicBool>,
}

/// Why a statement that SQLite ran must not have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Verdict {
    /// It went over its request's budget of steps.
    #[error("execute timeout: the statements of a request may take only so many steps (-write-step-limit)")]
    OverBudget,
    /// It stored the largest rowid.
    #[error("rowid 9223372036854775807 is not allowed: after it SQLite would choose rowids at random")]
    LargestRowid,
    /// It made a table whose columns SQLite named at random.
    #[error("more than five columns have the same name: name them with AS, SQLite would do it at random")]
    RandomNames,
    /// It failed, and it cannot be told whether what it changed until then stays.
    #[error("undone: it ended by FAIL before its first row was done, and changes are captured")]
    FailedHalfway,
}

/// What the entry's counters are, against those of the connection. They part when the connection is opened, and at
/// each commit: FTS5 then writes what it gathered, through statements that count.
#[derive(Default)]
struct Counters {
    /// `changes()` when they were brought in line last, as the entries have it and as the connection had it.
    changes: AtomicU64,
    changes_of_connection: AtomicU64,
    /// Whether an INSERT, UPDATE or DELETE of an entry has ended since.
    own: AtomicBool,
    /// Whether the present statement is one.
    running: AtomicBool,
    /// What `total_changes()` is more than the connection's own.
    total_offset: AtomicU64,
}

impl Counters {
    /// Goes on from `applied`.
    fn align(&self, connection: &Connection, applied: &Applied) {
        self.changes.store(applied.changes as u64, Ordering::Relaxed);
        self.changes_of_connection.store(connection.changes(), Ordering::Relaxed);
        self.own.store(false, Ordering::Relaxed);
        let offset = (applied.total_changes as u64).wrapping_sub(connection.total_changes());
        self.total_offset.store(offset, Ordering::Relaxed);
    }

    /// Within the first statement that counts only a trigger's own statements change what the connection says. It says 0
    /// when an entry begins, on every replica: any other number that was left there, by what a commit of FTS5 counted,
    /// could be the one that a trigger's statement leaves. One that changes nothing cannot be told from none.
    fn changes(&self, of_connection: u64) -> u64 {
        if self.own.load(Ordering::Relaxed)
            || of_connection != self.changes_of_connection.load(Ordering::Relaxed)
        {
            of_connection
        } else {
            self.changes.load(Ordering::Relaxed)
        }
    }

    fn total(&self, of_connection: u64) -> u64 {
        of_connection.wrapping_add(self.total_offset.load(Ordering::Relaxed))
    }
}

/// Steps of the present request.
struct Steps {
    /// By statements that have ended.
    used: AtomicU64,
    /// By the present one, in whole ticks.
    running: AtomicU64,
    budget: AtomicU64,
    /// While a compiled statement is stepped: compiling counts steps too, and is left out where a compiled one is kept.
    stepping: AtomicBool,
    over: AtomicBool,
}

impl Watch {
    /// Puts hooks and functions on `connection`, which is new: its counters go on from `applied`.
    pub fn install(connection: &mut Connection, applied: &Applied) -> Result<Self> {
        let largest_rowid = Arc::new(AtomicBool::new(false));
        let seen = largest_rowid.clone();
        connection.update_hook(Some(move |_: rusqlite::hooks::Action, _: &str, _: &str, rowid: i64| {
            if rowid == i64::MAX {
                seen.store(true, Ordering::Relaxed);
            }
        }))?;
        let steps = Arc::new(Steps {
            used: AtomicU64::new(0),
            running: AtomicU64::new(0),
            budget: AtomicU64::new(u64::MAX),
            stepping: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let counting = steps.clone();
        connection.progress_handler(TICK as i32, Some(move || counting.tick()))?;

        let counters = Arc::new(Counters::default());
        counters.align(connection, applied);
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        let own = counters.clone();
        connection.create_scalar_function("changes", 0, flags, move |context| {
            Ok(own.changes(entry_vfs::counters_of(context)?.0) as i64)
        })?;
        let own = counters.clone();
        connection.create_scalar_function("total_changes", 0, flags, move |context| {
            Ok(own.total(entry_vfs::counters_of(context)?.1) as i64)
        })?;
        entry_vfs::set_last_insert_rowid(connection, applied.last_insert_rowid);
        Ok(Self { counters, steps, largest_rowid })
    }

    /// After a commit: the counters go on from `applied`, whatever the commit itself counted.
    pub fn committed(&self, connection: &Connection, applied: &Applied) {
        entry_vfs::set_last_insert_rowid(connection, applied.last_insert_rowid);
        self.counters.align(connection, applied);
    }

    /// An entry begins, and the connection's own counter of changes is 0: what the counters go on from is `applied`.
    pub fn begun(&self, connection: &Connection, applied: &Applied) {
        self.counters.align(connection, applied);
    }

    /// What `changes()` and `total_changes()` say now.
    pub fn changes(&self, connection: &Connection) -> (u64, u64) {
        (self.counters.changes(connection.changes()), self.counters.total(connection.total_changes()))
    }

    /// From now on statements count against `budget` steps; 0 is without limit.
    pub fn begin_request(&self, budget: u64) {
        let budget = if budget == 0 { u64::MAX } else { budget };
        self.steps.budget.store(budget, Ordering::Relaxed);
        self.steps.used.store(0, Ordering::Relaxed);
        self.largest_rowid.store(false, Ordering::Relaxed);
    }

    /// Before a compiled statement is stepped; `sql` is its text.
    pub fn before<'t>(&self, statement: &Statement<'_>, sql: impl FnOnce() -> Cow<'t, str>) {
        if !self.counters.own.load(Ordering::Relaxed) && !statement.readonly() && text::changes_rows(&sql()) {
            self.counters.running.store(true, Ordering::Relaxed);
        }
        // A statement that is used again would go on counting, and ticks would come at other steps than at first.
        statement.reset_status(StatementStatus::VmStep);
        self.steps.running.store(0, Ordering::Relaxed);
        self.steps.over.store(false, Ordering::Relaxed);
        self.steps.stepping.store(true, Ordering::Relaxed);
    }

    /// After a statement was stepped to its end: `changes()` is its own now.
    pub fn ended(&self) {
        if self.counters.running.swap(false, Ordering::Relaxed) {
            self.counters.own.store(true, Ordering::Relaxed);
        }
    }

    /// After a statement was stepped, whatever came of it.
    pub fn after(&self, statement: &Statement<'_>) -> Option<Verdict> {
        self.ended();
        self.steps.stepping.store(false, Ordering::Relaxed);
        let took = u64::from(statement.reset_status(StatementStatus::VmStep).unsigned_abs());
        let used = self.steps.used.fetch_add(took, Ordering::Relaxed) + took;
        let over =
            self.steps.over.load(Ordering::Relaxed) || used > self.steps.budget.load(Ordering::Relaxed);
        if over {
            return Some(Verdict::OverBudget);
        }
        self.largest_rowid.swap(false, Ordering::Relaxed).then_some(Verdict::LargestRowid)
    }
}

impl Steps {
    /// Whether the statement must stop.
    fn tick(&self) -> bool {
        if !self.stepping.load(Ordering::Relaxed) {
            return false;
        }
        let running = self.running.fetch_add(TICK, Ordering::Relaxed) + TICK;
        let over =
            self.used.load(Ordering::Relaxed).saturating_add(running) > self.budget.load(Ordering::Relaxed);
        if over {
            self.over.store(true, Ordering::Relaxed);
        }
        over
    }
}
