//! What an entry does for the planner: rqlite's `PRAGMA optimize`, in two steps.
//!
//! What SQLite would analyze depends on what the connection has seen, so the leader asks its writer which tables need it,
//! and the entry names them: every member gathers statistics of the same tables. It looks at a part of each index only
//! ([`LIMIT`]), so that a large table holds up writes for no longer than a small one.
//!
//! Source: <https://www.sqlite.org/pragma.html#pragma_optimize>, <https://www.sqlite.org/lang_analyze.html>.

use super::apply::LocalFailure;
use super::entry_run::replicated;
use super::entry_vfs;
use super::meta::RESERVED_PREFIX;
use super::text::quoted;
use super::writer_connection::WriterConnection;
use rusqlite::Connection;

/// Rows of an index that are looked at, about: what `PRAGMA optimize` itself takes.
const LIMIT: u32 = 2000;
/// Only say what would be done (1), which is to analyze (2); of all tables, not only those this connection queried (0x10000).
const TELL: &str = "PRAGMA optimize(0x10003)";

/// Tables that have no statistics, or of which there are ten times as many rows, or as few, as when they were gathered.
pub fn unanalyzed(on: &WriterConnection) -> Result<Vec<String>, LocalFailure> {
    // It takes the lock of a writer. Undone, so that nothing takes the end of it for a commit.
    on.control("/* own */ BEGIN", "look for tables without statistics")?;
    let told = told(&on.connection);
    on.control("/* own */ ROLLBACK", "look for tables without statistics")?;
    let what = "look for tables without statistics";
    let told = told.map_err(|source| LocalFailure::Sqlite { what, source })?;
    Ok(told.iter().filter_map(|sql| table_of(sql)).filter(|t| !t.starts_with(RESERVED_PREFIX)).collect())
}

fn told(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection.prepare(TELL)?.query_map([], |row| row.get(0))?.collect()
}

/// The table of `ANALYZE "main"."table"`.
fn table_of(sql: &str) -> Option<String> {
    let quoted = sql.strip_prefix("ANALYZE \"main\".\"")?.strip_suffix('"')?;
    Some(quoted.replace("\"\"", "\""))
}

/// Gathers statistics of `tables`, within a transaction; returns what every replica meets alike. One that is not there any
/// more, or is none of a user's, is left out. The connection is to be opened anew after it.
pub fn analyze(on: &WriterConnection, tables: &[String]) -> Result<Option<rusqlite::Error>, LocalFailure> {
    let full_before = entry_vfs::full_writes();
    let what = "bound what an ANALYZE looks at";
    on.connection
        .execute_batch(&format!("PRAGMA analysis_limit={LIMIT}"))
        .map_err(|source| LocalFailure::Sqlite { what, source })?;
    let mut failure = None;
    for table in tables {
        let known = "/* own */ SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        let exists = on
            .connection
            .prepare_cached(known)
            .and_then(|mut statement| statement.exists([table]))
            .map_err(|source| LocalFailure::Sqlite { what: "look for a table", source })?;
        if !exists || table.starts_with(RESERVED_PREFIX) {
            continue;
        }
        let sql = format!("ANALYZE main.{}", quoted(table));
        if let Err(error) = on.guard.guarded(|| on.connection.execute_batch(&sql)) {
            failure = Some(replicated(error, full_before)?);
        }
    }
    Ok(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_read_as_sqlite_writes_them() {
        for (sql, table) in [
            ("ANALYZE \"main\".\"t\"", Some("t")),
            ("ANALYZE \"main\".\"a \"\"b\"\" c\"", Some("a \"b\" c")),
            ("ANALYZE \"temp\".\"t\"", None),
            ("PRAGMA main.foreign_key_check", None),
        ] {
            assert_eq!(table_of(sql).as_deref(), table, "{sql}");
        }
    }
}
