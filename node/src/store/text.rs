//! The little that must be known of a statement's text before SQLite compiles it, or that SQLite does not say after.

/// What comes after white space, comments and empty statements.
fn skip_trivia(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';' || c == '\u{feff}');
        if let Some(comment) = sql.strip_prefix("--") {
            sql = comment.find('\n').map_or("", |end| &comment[end..]);
        } else if let Some(comment) = sql.strip_prefix("/*") {
            // SQLite lets the end of the text end a comment.
            sql = comment.find("*/").map_or("", |end| &comment[end + 2..]);
        } else {
            return sql;
        }
    }
}

/// The first word and what follows it.
fn split_word(sql: &str) -> (&str, &str) {
    let sql = skip_trivia(sql);
    let end = sql.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(sql.len());
    sql.split_at(end)
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// A name as an identifier of SQL, whatever is in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether a statement that is not read-only inserts, updates or deletes rows, or explains one that does: after such a
/// statement `changes()` is its own, after any other it is that of the one before.
pub fn changes_rows(sql: &str) -> bool {
    let (mut word, mut rest) = split_word(sql);
    if is_one_of(word, &["EXPLAIN"]) {
        (word, rest) = split_word(rest);
        if is_one_of(word, &["QUERY"]) {
            word = split_word(split_word(rest).1).0;
        }
    }
    is_one_of(word, &["INSERT", "REPLACE", "UPDATE", "DELETE", "WITH"])
}

/// Whether the text is a plain VACUUM of the database, which runs outside a transaction.
pub fn is_vacuum(sql: &str) -> bool {
    let (word, rest) = split_word(sql);
    if !is_one_of(word, &["VACUUM"]) {
        return false;
    }
    let (schema, after) = split_word(rest);
    let rest = if is_one_of(schema, &["main"]) { after } else { rest };
    skip_trivia(rest).is_empty()
}

/// Whether no SQL statement follows the first: nothing but white space comes after a semicolon, and no comment begins
/// it (a text that is all comment compiles to nothing). Errs on the side of false.
pub fn is_single(sql: &str) -> bool {
    let sql = sql.trim_start();
    if sql.starts_with("--") || sql.starts_with("/*") || sql.starts_with(';') {
        return false;
    }
    sql.as_bytes().iter().position(|b| *b == b';').is_none_or(|at| sql[at + 1..].trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_table() {
        for (sql, rows, vacuum, single) in [
            ("INSERT INTO t VALUES(1)", true, false, true),
            (" /* a */ -- b\n ;with x AS (SELECT 1) DELETE FROM t", true, false, false),
            ("replace into t values(1);", true, false, true),
            ("CREATE TABLE t(a)", false, false, true),
            ("EXPLAIN delete FROM t", true, false, true),
            ("explain /* */ query PLAN WITH c AS (SELECT 1) INSERT INTO t SELECT 1", true, false, true),
            ("EXPLAIN DROP TABLE t", false, false, true),
            ("insert2 x", false, false, true),
            ("", false, false, true),
            ("/* no end", false, false, false),
            ("VACUUM", false, true, true),
            ("vacuum main ; -- done", false, true, false),
            ("/**/Vacuum/**/;", false, true, false),
            ("VACUUM INTO 'f'", false, false, true),
            ("VACUUM main INTO 'f'", false, false, true),
            ("VACUUM temp", false, false, true),
            ("VACUUM; DROP TABLE t", false, false, false),
            ("vacuums", false, false, true),
            ("INSERT INTO t VALUES(';')", true, false, false),
        ] {
            assert_eq!((changes_rows(sql), is_vacuum(sql), is_single(sql)), (rows, vacuum, single), "{sql}");
        }
    }
}
