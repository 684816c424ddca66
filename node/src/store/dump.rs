//! The database as SQL text, as the `sqlite3` shell's `.dump` and rqlite write it.

use super::meta::RESERVED_PREFIX;
use super::text::quoted;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::io::{self, Write};

/// What of the schema is written.
struct Object {
    kind: String,
    name: String,
    sql: String,
    /// The table that it belongs to.
    table: String,
}

/// Writes everything in one read transaction; of `tables` only, unless there are none.
pub fn write_dump(connection: &Connection, tables: &[String], out: &mut dyn Write) -> Result<(), DumpError> {
    connection.execute_batch("BEGIN")?;
    out.write_all(b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n")?;
    let wanted = |name: &str| tables.is_empty() || tables.iter().any(|t| t.eq_ignore_ascii_case(name));
    let objects = objects(connection)?;
    // Virtual tables last: some read from ordinary ones when they are made.
    let (virtual_tables, plain): (Vec<_>, Vec<_>) =
        objects.iter().filter(|o| o.kind == "table").partition(|o| is_virtual(&o.sql));
    for table in plain.into_iter().filter(|t| wanted(&t.name)) {
        writeln!(out, "{};", table.sql)?;
        write_rows(connection, &table.name, false, out)?;
    }
    for table in virtual_tables.into_iter().filter(|t| wanted(&t.name)) {
        writeln!(out, "{};", table.sql)?;
        write_rows(connection, &table.name, true, out)?;
    }
    if tables.is_empty() && exists(connection, "sqlite_sequence")? {
        out.write_all(b"DELETE FROM \"sqlite_sequence\";\n")?;
        write_rows(connection, "sqlite_sequence", false, out)?;
    }
    // A view needs no table to be made; an index or a trigger does.
    for object in objects.iter().filter(|o| o.kind != "table" && (o.kind == "view" || wanted(&o.table))) {
        writeln!(out, "{};", object.sql)?;
    }
    out.write_all(b"COMMIT;\n")?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// A dump could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// Nobody reads it any more.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<DumpError> for super::backup::BackupError {
    fn from(error: DumpError) -> Self {
        match error {
            DumpError::Sqlite(error) => error.into(),
            DumpError::Io(error) => error.into(),
        }
    }
}

/// Tables in the order of their names, then the rest in the order in which it was made.
fn objects(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    // Tables that belong to a virtual table come with it.
    let mut shadows =
        connection.prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'")?;
    let shadows = shadows.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let mut statement = connection.prepare(
        "SELECT type, name, sql, tbl_name FROM sqlite_schema
         WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
         ORDER BY type <> 'table', CASE type WHEN 'table' THEN name END, rowid",
    )?;
    let mut rows = statement.query([])?;
    let mut objects = Vec::new();
    while let Some(row) = rows.next()? {
        let object = Object { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)?, table: row.get(3)? };
        let is_own = |name: &str| name.to_ascii_lowercase().starts_with(RESERVED_PREFIX);
        if !is_own(&object.name) && !shadows.contains(&object.table) {
            objects.push(object);
        }
    }
    Ok(objects)
}

fn is_virtual(sql: &str) -> bool {
    sql.get(..14).is_some_and(|start| start.eq_ignore_ascii_case("CREATE VIRTUAL"))
}

fn exists(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
    connection.query_row(sql, [table], |row| row.get(0))
}

/// Columns that can be inserted into, and whether there are others.
fn columns(connection: &Connection, table: &str) -> rusqlite::Result<(Vec<String>, bool)> {
    let mut statement = connection.prepare("SELECT name, hidden FROM pragma_table_xinfo(?1)")?;
    let mut rows = statement.query([table])?;
    let (mut columns, mut others) = (Vec::new(), false);
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? == 0 {
            columns.push(quoted(&row.get::<_, String>(0)?));
        } else {
            others = true;
        }
    }
    Ok((columns, others))
}

fn write_rows(
    connection: &Connection,
    table: &str,
    is_virtual: bool,
    out: &mut dyn Write,
) -> Result<(), DumpError> {
    let (mut columns, hidden) = columns(connection, table)?;
    if is_virtual {
        // Rows of a full-text index are found by their rowids.
        columns.insert(0, "rowid".into());
    }
    let list = columns.join(",");
    let named = if hidden || is_virtual { format!("({list})") } else { String::new() };
    let head = format!("INSERT INTO {}{named} VALUES(", quoted(table));
    let select = format!("SELECT {list} FROM {}", quoted(table));
    let mut statement = match connection.prepare(&select) {
        Ok(statement) => statement,
        // A virtual table need not have rowids, or rows of its own at all.
        Err(_) if is_virtual => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let count = statement.column_count();
    let mut rows = statement.query([])?;
    let mut line = Vec::new();
    while let Some(row) = rows.next()? {
        line.clear();
        line.extend_from_slice(head.as_bytes());
        for i in 0..count {
            if i > 0 {
                line.push(b',');
            }
            write_value(row.get_ref(i)?, &mut line);
        }
        line.extend_from_slice(b");\n");
        out.write_all(&line)?;
    }
    Ok(())
}

/// A value as SQL that reads back as the same value.
fn write_value(value: ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::Null => out.extend_from_slice(b"NULL"),
        ValueRef::Integer(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
        ValueRef::Real(r) if r == f64::INFINITY => out.extend_from_slice(b"9e999"),
        ValueRef::Real(r) if r == f64::NEG_INFINITY => out.extend_from_slice(b"-9e999"),
        ValueRef::Real(r) => {
            // The shortest text that reads back as the same number, and as a number with a fraction.
            let mut text = format!("{r:?}");
            if !text.contains(['.', 'e']) {
                text.push_str(".0");
            }
            out.extend_from_slice(text.as_bytes());
        }
        // A NUL ends SQL text.
        ValueRef::Text(text) if text.contains(&0) => {
            out.extend_from_slice(b"CAST(");
            write_hex(text, out);
            out.extend_from_slice(b" AS TEXT)");
        }
        ValueRef::Text(text) => {
            out.push(b'\'');
            for byte in text {
                if *byte == b'\'' {
                    out.push(b'\'');
                }
                out.push(*byte);
            }
            out.push(b'\'');
        }
        ValueRef::Blob(bytes) => write_hex(bytes, out),
    }
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(b"X'");
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn dump(connection: &Connection, tables: &[&str]) -> String {
        let tables: Vec<String> = tables.iter().map(|t| (*t).to_owned()).collect();
        let mut out = Vec::new();
        write_dump(connection, &tables, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const SETUP: &str = "
        CREATE TABLE _sqlited_meta(a);
        CREATE TABLE \"odd \"\"name\"(id INTEGER PRIMARY KEY AUTOINCREMENT, v, twice AS (v || v));
        INSERT INTO \"odd \"\"name\"(v) VALUES(NULL), (-5), (1.0), (0.1), (1e300), (9e999), ('it''s'), (x'00fF'), (''), (CAST(x'6100' AS TEXT));
        CREATE TABLE w(a TEXT PRIMARY KEY, b) WITHOUT ROWID;
        INSERT INTO w VALUES('k', 2);
        CREATE INDEX i ON w(b);
        CREATE VIEW z AS SELECT * FROM w;
        CREATE TRIGGER tr AFTER INSERT ON w BEGIN UPDATE w SET b = b + 1; END;
        CREATE VIRTUAL TABLE f USING fts5(words);
        INSERT INTO f(rowid, words) VALUES(7, 'some words');
    ";

    #[test]
    fn a_dump_reads_back_as_the_same_database() {
        let source = Connection::open_in_memory().unwrap();
        source.execute_batch(SETUP).unwrap();
        let text = dump(&source, &[]);
        assert!(text.starts_with("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n"));
        assert!(text.ends_with("COMMIT;\n") && !text.contains("sqlited") && !text.contains("f_data"));
        let copy = Connection::open_in_memory().unwrap();
        copy.execute_batch("CREATE TABLE _sqlited_meta(a)").unwrap();
        copy.execute_batch(&text).unwrap();
        assert_eq!(dump(&copy, &[]), text);
        let rowid = copy.query_row("SELECT rowid FROM f WHERE f MATCH 'words'", [], |r| r.get::<_, i64>(0));
        assert_eq!(rowid.unwrap(), 7);
    }

    #[test]
    fn only_the_tables_asked_for() {
        let source = Connection::open_in_memory().unwrap();
        source.execute_batch(SETUP).unwrap();
        let expected = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE w(a TEXT PRIMARY KEY, b) WITHOUT ROWID;\nINSERT INTO \"w\" VALUES('k',2);\nCREATE INDEX i ON w(b);\nCREATE VIEW z AS SELECT * FROM w;\nCREATE TRIGGER tr AFTER INSERT ON w BEGIN UPDATE w SET b = b + 1; END;\nCOMMIT;\n";
        assert_eq!(dump(&source, &["W", "nowhere"]), expected);
    }
}
