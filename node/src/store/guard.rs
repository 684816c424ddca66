//! What SQL may not do. SQLite's authorizer decides while a statement is compiled, so no spelling, comment or nesting
//! gets around it.

use super::encode;
use super::extensions::Loaded;
use super::meta::RESERVED_PREFIX;
use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// PRAGMAs that, without an argument, only tell something about the schema, the database or the connection. SQLAlchemy asks
/// for `read_uncommitted` before anything else.
const READ_PRAGMAS: &[&str] = &[
    "application_id",
    "auto_vacuum",
    "automatic_index",
    "busy_timeout",
    "cache_size",
    "cache_spill",
    "cell_size_check",
    "collation_list",
    "compile_options",
    "data_version",
    "database_list",
    "defer_foreign_keys",
    "encoding",
    "foreign_key_check",
    "foreign_key_list",
    "foreign_keys",
    "freelist_count",
    "function_list",
    "ignore_check_constraints",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "journal_mode",
    "journal_size_limit",
    "legacy_alter_table",
    "locking_mode",
    "max_page_count",
    "mmap_size",
    "module_list",
    "page_count",
    "page_size",
    "pragma_list",
    "query_only",
    "quick_check",
    "read_uncommitted",
    "recursive_triggers",
    "schema_version",
    "secure_delete",
    "synchronous",
    "table_info",
    "table_list",
    "table_xinfo",
    "temp_store",
    "threads",
    "trusted_schema",
    "user_version",
    "wal_autocheckpoint",
];
/// Of these, the ones whose argument names a thing and does not set anything.
const READ_PRAGMAS_WITH_ARGUMENT: &[&str] = &[
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];
/// Of these, the ones that tell of the member: of its files, its connections, what it read of the database so far, its disk.
/// Answers to requests with an `Idempotency-Key` are kept by all members, so they may not hold any of it. Not
/// `data_version`, which FTS5 asks for itself.
const TELLING_PRAGMAS: &[&str] = &[
    "collation_list",
    "compile_options",
    "database_list",
    "function_list",
    "integrity_check",
    "module_list",
    "pragma_list",
    "quick_check",
    "schema_version",
];
/// Table-valued forms of PRAGMAs that tell the same on every replica, so that what they tell may be stored. Others tell
/// of the member, as `pragma_database_list` does of its files.
const REPLICATED_PRAGMA_TABLES: &[&str] = &[
    "pragma_foreign_key_list",
    "pragma_index_info",
    "pragma_index_list",
    "pragma_index_xinfo",
    "pragma_table_info",
    "pragma_table_list",
    "pragma_table_xinfo",
];
/// PRAGMAs whose argument is stored in the database, so they may be written through the log.
const STORED_PRAGMAS: &[&str] = &["application_id", "user_version"];

/// Functions that no statement may call.
const REFUSED_FUNCTIONS: &[&str] = &["load_extension", "fts3_tokenizer"];
/// Functions that tell of the program, which differs between members while they are upgraded.
const TELLING_FUNCTIONS: &[&str] = &[
    "sqlite_version",
    "sqlite_source_id",
    "sqlite_compileoption_get",
    "sqlite_compileoption_used",
    "fts5_source_id",
];

/// Whether a connection now runs statements of users (guarded) or the product's own.
#[derive(Clone, Debug)]
pub struct Guard {
    users: Arc<AtomicBool>,
    refused: Arc<AtomicU8>,
    compiled: Arc<Mutex<Compiled>>,
}

/// What was seen of the statements compiled since somebody looked.
#[derive(Debug, Default)]
struct Compiled {
    /// Tables that are created.
    tables: Vec<String>,
    /// Something is queried.
    queries: bool,
    /// The planner's statistics are gathered or written.
    statistics: bool,
}

impl Compiled {
    /// A statement begins; of one before it that came to nothing, this may still be known.
    fn forget_tables(&mut self) {
        self.tables.clear();
        self.queries = false;
    }

    fn note(&mut self, action: &AuthAction<'_>) {
        use AuthAction as A;
        match *action {
            A::CreateTable { table_name } => self.tables.push(table_name.to_owned()),
            A::Select => self.queries = true,
            A::Analyze { .. } => self.statistics = true,
            A::Insert { table_name } | A::Delete { table_name } | A::Update { table_name, .. } => {
                self.statistics |= holds_statistics(table_name);
            }
            _ => {}
        }
    }
}

/// Which statements a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Entries of the log.
    Write,
    /// Queries.
    Read,
}

impl Guard {
    /// Puts limits and the authorizer on `connection`, which has the extensions `extensions`.
    pub fn install(connection: &mut Connection, purpose: Purpose, extensions: &Arc<Loaded>) -> Result<Self> {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_LENGTH, 256 << 20),
            (Limit::SQLITE_LIMIT_SQL_LENGTH, 16 << 20),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, 1000),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
            (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50_000),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1000),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
            // One, not none: a plain VACUUM attaches its copy.
            (Limit::SQLITE_LIMIT_ATTACHED, 1),
        ] {
            connection.set_limit(limit, value)?;
        }
        let users = Arc::new(AtomicBool::new(false));
        let refused = Arc::new(AtomicU8::new(0));
        let compiled = Arc::new(Mutex::new(Compiled::default()));
        let (guarding, refusing, noting) = (users.clone(), refused.clone(), compiled.clone());
        let extensions = extensions.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            if !guarding.load(Ordering::Relaxed) {
                return Authorization::Allow;
            }
            if matches!(context.action, AuthAction::Analyze { table_name } if is_reserved(table_name)) {
                // An ANALYZE of everything comes by here.
                return Authorization::Ignore;
            }
            if makes_temporary(&context) {
                refusing.store(TEMPORARY, Ordering::Relaxed);
                return Authorization::Deny;
            }
            if !allows(purpose, &context.action) {
                refusing.store(reason(&context.action), Ordering::Relaxed);
                return Authorization::Deny;
            }
            if purpose == Purpose::Write {
                if let Some(reason) = refused_of_extensions(&extensions, &context.action) {
                    refusing.store(reason, Ordering::Relaxed);
                    return Authorization::Deny;
                }
                noting.lock().note(&context.action);
            }
            Authorization::Allow
        }))?;
        Ok(Self { users, refused, compiled })
    }

    /// Whether, since this was last asked, a table was made from a query and SQLite had to make up column names for
    /// it: it counts as far as `a:4`, and then draws numbers at random (`sqlite3ColumnsFromExprList`).
    pub fn named_at_random(&self, connection: &Connection) -> bool {
        let tables = {
            let mut compiled = self.compiled.lock();
            let queries = std::mem::take(&mut compiled.queries);
            let tables = std::mem::take(&mut compiled.tables);
            if !queries || tables.is_empty() {
                return false;
            }
            tables
        };
        tables.iter().any(|table| {
            let names = || -> Result<Vec<String>> {
                let sql = "SELECT name FROM pragma_table_info(?1)";
                connection.prepare(sql)?.query_map([table], |row| row.get(0))?.collect()
            };
            // A table that is not there any more has no columns.
            names().unwrap_or_default().iter().any(|name| {
                let number = name.rsplit_once(':').and_then(|(_, number)| number.parse::<u32>().ok());
                number.is_some_and(|number| number > 4)
            })
        })
    }

    /// Whether, since this was last asked, a statement was compiled that changes the planner's statistics. SQLite reads
    /// them when it opens the database, so that a member that did so later would plan otherwise.
    pub fn changed_statistics(&self) -> bool {
        std::mem::take(&mut self.compiled.lock().statistics)
    }

    /// Runs `f` with the statements of users guarded.
    pub fn guarded<T>(&self, f: impl FnOnce() -> T) -> T {
        // An answer must not depend on what was refused before, which other members need not have been asked, nor on what
        // was compiled before, which others may have had compiled already.
        self.refused.store(0, Ordering::Relaxed);
        self.compiled.lock().forget_tables();
        self.users.store(true, Ordering::Relaxed);
        let result = f();
        self.users.store(false, Ordering::Relaxed);
        result
    }

    /// Runs `f`, within [`Guard::guarded`], with statements of the product's own.
    pub fn unguarded<T>(&self, f: impl FnOnce() -> T) -> T {
        let guarded = self.users.swap(false, Ordering::Relaxed);
        let result = f();
        self.users.store(guarded, Ordering::Relaxed);
        result
    }

    /// What to say instead of SQLite's "not authorized", if that is what `error` is.
    pub fn explain(&self, error: &rusqlite::Error) -> Option<String> {
        let reason = self.refused.load(Ordering::Relaxed);
        // SQLite has a code of its own for everything but functions.
        let text = encode::error_text(error);
        if reason == VOLATILE && text.starts_with("not authorized to use function: ") {
            return Some(format!("{text}: {}", REASONS[usize::from(VOLATILE)]));
        }
        if error.sqlite_error_code() != Some(ErrorCode::AuthorizationForStatementDenied) {
            return None;
        }
        let reason = usize::from(reason);
        Some(format!("not authorized: {}", REASONS.get(reason).unwrap_or(&REASONS[0])))
    }
}

/// Number of the reason that is for temporary objects.
const TEMPORARY: u8 = 3;
const TEMPORARY_SCHEMAS: &[&str] =
    &["sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"];

/// What the answer says when a statement would give something a name of the server's.
pub const RESERVED_NAME: &str = "not authorized: names that begin with _sqlited_ belong to the server";

/// Whether a text may rename something to a name of the server's: SQLite's authorizer is not told the new name of
/// `ALTER TABLE … RENAME TO`. A name cannot be written without its letters, so looking for them misses none; a text that
/// only mentions both words is refused too.
pub fn renames_to_reserved(sql: &str) -> bool {
    let contains = |word: &str| {
        sql.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
    };
    let may_alter = sql.len() > RESERVED_PREFIX.len() && sql.as_bytes().contains(&b'_');
    may_alter && contains(RESERVED_PREFIX) && contains("alter")
}

const REASONS: [&str; 9] = [
    "the statement touches what belongs to the server",
    "BEGIN, COMMIT, ROLLBACK and SAVEPOINT are not allowed; send the statements as one request with ?transaction",
    "ATTACH, DETACH and VACUUM INTO are not allowed",
    "TEMP objects belong to a connection and are not replicated",
    "this PRAGMA is not allowed",
    "what this table tells differs between members, so a write must not depend on it",
    "what this function tells differs between members, so a write must not depend on it",
    "this function of an extension is not marked as deterministic, so members could come to different values; ask a query \
     for the value, and write that",
    "members could come to different rows with this module of an extension; if it does not depend on the machine, name it \
     in -extensions-modules on all members",
];
/// Number of the reason that is for functions of extensions.
const VOLATILE: u8 = 7;
/// Number of the reason that is for modules of extensions.
const MODULE: u8 = 8;

/// Why a write may not do something for what an extension made it.
fn refused_of_extensions(extensions: &Loaded, action: &AuthAction<'_>) -> Option<u8> {
    use AuthAction as A;
    match *action {
        A::Function { function_name } if extensions.is_volatile(function_name) => Some(VOLATILE),
        A::CreateVtable { module_name, .. } if extensions.refuses_module(module_name) => Some(MODULE),
        _ => None,
    }
}

fn reason(action: &AuthAction<'_>) -> u8 {
    use AuthAction as A;
    match action {
        A::Transaction { .. } | A::Savepoint { .. } => 1,
        A::Attach { .. } | A::Detach { .. } => 2,
        A::CreateTempIndex { .. }
        | A::CreateTempTable { .. }
        | A::CreateTempTrigger { .. }
        | A::CreateTempView { .. }
        | A::DropTempIndex { .. }
        | A::DropTempTable { .. }
        | A::DropTempTrigger { .. }
        | A::DropTempView { .. } => TEMPORARY,
        A::Pragma { .. } => 4,
        A::Read { table_name, .. } if tells_of_the_member(table_name) => 5,
        A::Function { function_name } if listed(TELLING_FUNCTIONS, function_name) => 6,
        _ => 0,
    }
}

/// Whether something is changed in the database of temporary objects. `CREATE TABLE temp.x` is to SQLite a table as any
/// other, in that database. Renaming a table writes to its schema, to follow the name there.
fn makes_temporary(context: &AuthContext<'_>) -> bool {
    use AuthAction as A;
    let follows =
        matches!(context.action, A::Update { table_name, .. } if listed(TEMPORARY_SCHEMAS, table_name));
    let reads = matches!(
        context.action,
        A::Read { .. } | A::Select | A::Function { .. } | A::Recursive | A::Pragma { .. }
    );
    context.database_name.is_some_and(|name| name.eq_ignore_ascii_case("temp")) && !reads && !follows
}

fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(RESERVED_PREFIX))
}

fn listed(list: &[&str], name: &str) -> bool {
    list.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether the planner reads the table when the database is opened.
fn holds_statistics(table: &str) -> bool {
    listed(&["sqlite_stat1", "sqlite_stat3", "sqlite_stat4"], table)
}

/// Whether rows of this table may differ between replicas of the same state.
fn tells_of_the_member(table: &str) -> bool {
    const PREFIX: &str = "pragma_";
    let is_pragma = table.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
    (is_pragma && !listed(REPLICATED_PRAGMA_TABLES, table)) || listed(&["dbstat"], table)
}

fn allows(purpose: Purpose, action: &AuthAction<'_>) -> bool {
    use AuthAction as A;
    match *action {
        A::Attach { .. } | A::Detach { .. } | A::Transaction { .. } | A::Savepoint { .. } => false,
        A::CreateTempIndex { .. }
        | A::CreateTempTable { .. }
        | A::CreateTempTrigger { .. }
        | A::CreateTempView { .. }
        | A::DropTempIndex { .. }
        | A::DropTempTable { .. }
        | A::DropTempTrigger { .. }
        | A::DropTempView { .. } => false,
        A::Pragma { pragma_name, pragma_value } => match pragma_value {
            _ if purpose == Purpose::Write && listed(TELLING_PRAGMAS, pragma_name) => false,
            None => listed(READ_PRAGMAS, pragma_name),
            Some(_) => {
                listed(READ_PRAGMAS_WITH_ARGUMENT, pragma_name)
                    || (purpose == Purpose::Write && listed(STORED_PRAGMAS, pragma_name))
            }
        },
        A::Function { function_name } => {
            !listed(REFUSED_FUNCTIONS, function_name)
                && (purpose == Purpose::Read || !listed(TELLING_FUNCTIONS, function_name))
        }
        A::CreateVtable { table_name, module_name } => {
            !is_reserved(table_name) && !listed(&["sqlite_dbpage", "dbstat"], module_name)
        }
        A::Read { table_name, .. } => {
            !is_reserved(table_name)
                && !listed(&["sqlite_dbpage"], table_name)
                && (purpose == Purpose::Read || !tells_of_the_member(table_name))
        }
        // The only way to make a virtual table in the database of temporary objects is noticed here.
        A::Insert { table_name } if listed(&["sqlite_temp_master", "sqlite_temp_schema"], table_name) => {
            false
        }
        A::Insert { table_name }
        | A::Delete { table_name }
        | A::Update { table_name, .. }
        | A::CreateTable { table_name }
        | A::DropTable { table_name }
        | A::AlterTable { table_name, .. }
        | A::DropVtable { table_name, .. }
        | A::DropIndex { table_name, .. }
        | A::DropTrigger { table_name, .. }
        | A::Analyze { table_name } => !is_reserved(table_name) && !listed(&["sqlite_dbpage"], table_name),
        A::CreateIndex { table_name, index_name: name }
        | A::CreateTrigger { table_name, trigger_name: name } => {
            !is_reserved(table_name) && !is_reserved(name)
        }
        A::CreateView { view_name } | A::DropView { view_name } => !is_reserved(view_name),
        A::Reindex { .. } | A::Select | A::Recursive => true,
        // An action of a newer SQLite is refused until somebody has thought about it.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn verdicts(purpose: Purpose, statements: &[&str]) -> Vec<bool> {
        let mut c = Connection::open_in_memory().unwrap();
        c.execute_batch(
            "CREATE TABLE _sqlited_meta(a); CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a); CREATE INDEX i ON t(a)",
        )
        .unwrap();
        let guard = Guard::install(&mut c, purpose, &Loaded::none()).unwrap();
        statements.iter().map(|sql| guard.guarded(|| c.prepare(sql).is_ok())).collect()
    }

    #[test]
    fn refused_in_every_spelling() {
        let refused = [
            "ATTACH ':memory:' AS x",
            "DETACH x",
            "/* hi */ aTTach 'f' as y",
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT a",
            "CREATE TEMP TABLE x(a)",
            "CREATE TEMPORARY VIEW x AS SELECT 1",
            "PRAGMA journal_mode=DELETE",
            "PRAGMA main.journal_mode = off",
            "PRAGMA synchronous=0",
            "PRAGMA wal_checkpoint",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "PRAGMA query_only=0",
            "PRAGMA foreign_keys=1",
            "PRAGMA writable_schema=1",
            "PRAGMA trusted_schema=1",
            "PRAGMA temp_store_directory='/tmp'",
            "PRAGMA mmap_size=1000000",
            "SELECT load_extension('x')",
            "SELECT * FROM _sqlited_meta",
            "SELECT count(*) FROM \"_SQLITED_META\"",
            "DELETE FROM _sqlited_meta",
            "DROP TABLE _sqlited_meta",
            "ALTER TABLE _sqlited_meta RENAME TO x",
            "ALTER TABLE t RENAME TO _sqlited_x",
            "CREATE TABLE _sqlited_x(a)",
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM _sqlited_meta; END",
            "SELECT data FROM sqlite_dbpage",
            "UPDATE sqlite_schema SET sql = ''",
        ];
        for purpose in [Purpose::Write, Purpose::Read] {
            for (sql, allowed) in refused.iter().zip(verdicts(purpose, &refused)) {
                // Some are refused later than at compile time: by their target's name, or because they are not there.
                let at_run_time = matches!(*sql, "ALTER TABLE t RENAME TO _sqlited_x")
                    || sql.starts_with("CREATE TRIGGER x");
                assert!(!allowed || at_run_time, "{purpose:?} allows {sql}");
            }
        }
    }

    #[test]
    fn renames_by_table() {
        for (sql, refused) in [
            ("ALTER TABLE t RENAME TO _sqlited_x", true),
            ("SELECT 1; aLtEr/**/TABLE t RENAME TO \"_SQLITED_x\"", true),
            ("ALTER TABLE t RENAME TO x_sqlited", false),
            ("ALTER TABLE t ADD COLUMN a_b", false),
            ("INSERT INTO t VALUES('_sqlited_x')", false),
        ] {
            assert_eq!(renames_to_reserved(sql), refused, "{sql}");
        }
    }

    #[test]
    fn a_write_does_not_depend_on_what_differs_between_members() {
        let telling = [
            "INSERT INTO t(a) SELECT file FROM pragma_database_list",
            "INSERT INTO t(a) SELECT count(*) FROM Pragma_Page_Count",
            "INSERT INTO t(a) SELECT compile_options FROM pragma_compile_options()",
            "UPDATE t SET a = (SELECT freelist_count FROM pragma_freelist_count)",
            "SELECT * FROM pragma_function_list",
            "INSERT INTO t(a) SELECT sum(pgsize) FROM dbstat",
            "INSERT INTO t(a) VALUES(sqlite_version())",
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT sqlite_source_id(); END; INSERT INTO t(a) VALUES(1)",
            "INSERT INTO t(a) SELECT sqlite_compileoption_used('X')",
            "PRAGMA database_list",
            "PRAGMA main.Schema_Version",
            "PRAGMA integrity_check(1)",
        ];
        for (sql, allowed) in telling.iter().zip(verdicts(Purpose::Write, &telling)) {
            // A trigger's body is compiled when it fires.
            assert!(!allowed || sql.starts_with("CREATE TRIGGER"), "{sql}");
        }
        let shared = [
            "PRAGMA table_info(t)",
            "PRAGMA foreign_keys",
            "PRAGMA user_version = 3",
            "INSERT INTO t(a) SELECT name FROM pragma_table_info('t')",
            "INSERT INTO t(a) SELECT name FROM pragma_index_list('t')",
            "INSERT INTO t(a) SELECT \"from\" FROM pragma_foreign_key_list('t')",
        ];
        assert_eq!(verdicts(Purpose::Write, &shared), [true; 6]);
        let read =
            ["SELECT file FROM pragma_database_list", "SELECT sqlite_version()", "PRAGMA integrity_check"];
        assert_eq!(verdicts(Purpose::Read, &read), [true; 3]);
    }

    #[test]
    fn allowed() {
        let allowed = [
            "SELECT * FROM t WHERE a IN (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 3) SELECT x FROM c)",
            "PRAGMA table_info(t)",
            "PRAGMA table_info('t')",
            "SELECT * FROM pragma_table_info('t')",
            "PRAGMA foreign_keys",
            "SELECT name, sql FROM sqlite_schema",
            "SELECT json_extract('{}', '$.a')",
            "INSERT INTO t(a) VALUES(1) RETURNING id",
            "CREATE TABLE u AS SELECT * FROM t",
            "CREATE VIRTUAL TABLE f USING fts5(a)",
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET a = 1; END",
            "DROP TABLE t",
            "DROP INDEX i",
            "ALTER TABLE t ADD COLUMN b DEFAULT CURRENT_TIMESTAMP",
            "ALTER TABLE t RENAME TO u2",
            "ALTER TABLE t RENAME COLUMN a TO c",
            "ANALYZE t",
            "REINDEX",
        ];
        for (sql, ok) in allowed.iter().zip(verdicts(Purpose::Write, &allowed)) {
            assert!(ok, "{sql}");
        }
        assert_eq!(verdicts(Purpose::Write, &["PRAGMA user_version = 3"]), [true]);
        assert_eq!(verdicts(Purpose::Read, &["PRAGMA user_version = 3"]), [false]);
    }
}
