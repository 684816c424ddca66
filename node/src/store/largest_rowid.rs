//! Tables with a row whose rowid is the largest there is. Where SQLite has to find a rowid for the next one it draws them at
//! random then, in each process others, so that members part. Statements store no such row
//! ([`Verdict::LargestRowid`](super::watched::Verdict)); a database that comes as a file may have one.
//!
//! Source: <https://www.sqlite.org/autoinc.html>.

use super::text::quoted;
use rusqlite::{Connection, Result};

/// What a rowid is called, unless a column of the table is called so.
const NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// A table that has such a row, or whose rowids cannot be asked for.
pub fn table_with_one(connection: &Connection) -> Result<Option<String>> {
    let sql =
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow') AND wr = 0";
    let tables =
        connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>>>()?;
    for table in tables {
        let largest = match rowid_of(connection, &table)? {
            None => true,
            Some(rowid) => {
                let (table, rowid) = (quoted(&table), quoted(&rowid));
                let sql = format!("SELECT EXISTS(SELECT 1 FROM {table} WHERE {rowid} = {})", i64::MAX);
                connection.query_row(&sql, [], |row| row.get(0))?
            }
        };
        if largest {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// What the rowid of `table` is called; none if columns that are something else have all of its names.
fn rowid_of(connection: &Connection, table: &str) -> Result<Option<String>> {
    let mut statement = connection.prepare("SELECT name, type, pk FROM pragma_table_xinfo(?1)")?;
    let columns = statement
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<Vec<(String, String, i64)>>>()?;
    let is_free = |name: &&&str| !columns.iter().any(|(column, ..)| column.eq_ignore_ascii_case(name));
    if let Some(name) = NAMES.iter().find(is_free) {
        return Ok(Some((*name).to_owned()));
    }
    let mut keys = columns.iter().filter(|(.., pk)| *pk > 0);
    let only = keys.next().filter(|_| keys.next().is_none());
    Ok(only.filter(|(_, kind, _)| kind.eq_ignore_ascii_case("integer")).map(|(name, ..)| name.clone()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_found_whatever_the_rowid_is_called() {
        const MAX: &str = "9223372036854775807";
        for (sql, expected) in [
            ("CREATE TABLE t(a); INSERT INTO t(rowid) VALUES(MAX)", Some("t")),
            ("CREATE TABLE t(a); INSERT INTO t(rowid) VALUES(MAX - 1)", None),
            (
                "CREATE TABLE \"a \"\"t\"(id INTEGER PRIMARY KEY); INSERT INTO \"a \"\"t\" VALUES(MAX)",
                Some("a \"t"),
            ),
            ("CREATE TABLE t(rowid, OID); INSERT INTO t(_rowid_) VALUES(MAX)", Some("t")),
            (
                "CREATE TABLE t(rowid, OID, _rowid_ INTEGER PRIMARY KEY); INSERT INTO t(_rowid_) VALUES(MAX)",
                Some("t"),
            ),
            ("CREATE TABLE t(rowid, oid, _rowid_ INTEGER PRIMARY KEY); INSERT INTO t(oid) VALUES(MAX)", None),
            ("CREATE TABLE t(rowid, oid, _rowid_)", Some("t")),
            ("CREATE TABLE t(a INTEGER, PRIMARY KEY(a)) WITHOUT ROWID; INSERT INTO t VALUES(MAX)", None),
            (
                "CREATE TABLE t(a); CREATE TABLE u(a); INSERT INTO u(rowid, a) VALUES(MAX, 1), (1, 2)",
                Some("u"),
            ),
            (
                "CREATE VIRTUAL TABLE f USING fts5(b); INSERT INTO f(rowid, b) VALUES(MAX, 'x')",
                Some("f_content"),
            ),
            ("CREATE VIEW v AS SELECT MAX AS rowid", None),
        ] {
            let connection = Connection::open_in_memory().unwrap();
            connection.execute_batch(&sql.replace("MAX", MAX)).unwrap();
            assert_eq!(table_with_one(&connection).unwrap().as_deref(), expected, "{sql}");
        }
    }
}
