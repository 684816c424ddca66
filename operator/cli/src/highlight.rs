//! Colours of what is typed: SQL's words, texts, numbers, comments, and commands.

use crate::command::is_command;
use std::borrow::Cow;

/// Words of SQL, for colours and completions.
pub(crate) const KEYWORDS: &[&str] = &[
    "ABORT",
    "ADD",
    "AFTER",
    "ALL",
    "ALTER",
    "ALWAYS",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "AUTOINCREMENT",
    "BEFORE",
    "BEGIN",
    "BETWEEN",
    "BY",
    "CASCADE",
    "CASE",
    "CAST",
    "CHECK",
    "COLLATE",
    "COLUMN",
    "CONFLICT",
    "CONSTRAINT",
    "CREATE",
    "CROSS",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "DEFAULT",
    "DELETE",
    "DESC",
    "DISTINCT",
    "DO",
    "DROP",
    "EACH",
    "ELSE",
    "END",
    "ESCAPE",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FILTER",
    "FOR",
    "FOREIGN",
    "FROM",
    "FULL",
    "GENERATED",
    "GLOB",
    "GROUP",
    "HAVING",
    "IF",
    "IGNORE",
    "IN",
    "INDEX",
    "INNER",
    "INSERT",
    "INSTEAD",
    "INTERSECT",
    "INTO",
    "IS",
    "JOIN",
    "KEY",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MATCH",
    "NATURAL",
    "NOT",
    "NOTHING",
    "NULL",
    "NULLS",
    "OF",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "PLAN",
    "PRAGMA",
    "PRIMARY",
    "QUERY",
    "RAISE",
    "RANGE",
    "RECURSIVE",
    "REFERENCES",
    "REGEXP",
    "REINDEX",
    "RENAME",
    "REPLACE",
    "RESTRICT",
    "RETURNING",
    "RIGHT",
    "ROW",
    "ROWS",
    "SELECT",
    "SET",
    "STRICT",
    "TABLE",
    "THEN",
    "TO",
    "TRIGGER",
    "UNION",
    "UNIQUE",
    "UPDATE",
    "USING",
    "VACUUM",
    "VALUES",
    "VIEW",
    "VIRTUAL",
    "WHEN",
    "WHERE",
    "WINDOW",
    "WITH",
    "WITHOUT",
];

const KEYWORD: &str = "\x1b[1;34m";
const TEXT: &str = "\x1b[32m";
const NUMBER: &str = "\x1b[33m";
const COMMENT: &str = "\x1b[2m";
const COMMAND: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// What a piece of the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Text,
    Name,
    Number,
    Comment,
    Other,
}

/// The input in colours.
pub(crate) fn highlight(input: &str) -> Cow<'_, str> {
    if is_command(input) {
        let (name, rest) = input.split_at(input.find(' ').unwrap_or(input.len()));
        return format!("{COMMAND}{name}{PLAIN}{rest}").into();
    }
    let mut out = String::with_capacity(input.len() * 2);
    let mut rest = input;
    while !rest.is_empty() {
        let (kind, length) = piece(rest);
        let (text, after) = rest.split_at(length);
        let colour = match kind {
            Kind::Word if is_keyword(text) => KEYWORD,
            Kind::Text => TEXT,
            Kind::Number => NUMBER,
            Kind::Comment => COMMENT,
            _ => "",
        };
        if colour.is_empty() {
            out.push_str(text);
        } else {
            out.extend([colour, text, PLAIN]);
        }
        rest = after;
    }
    out.into()
}

pub(crate) fn is_keyword(word: &str) -> bool {
    KEYWORDS.binary_search(&word.to_ascii_uppercase().as_str()).is_ok()
}

/// Kind and length of what the text begins with; the text is not empty.
fn piece(text: &str) -> (Kind, usize) {
    let until =
        |end: &str, skip: usize| text[skip..].find(end).map_or(text.len(), |at| skip + at + end.len());
    let run = |part: fn(char) -> bool| text.find(|c| !part(c)).unwrap_or(text.len());
    let first = text.chars().next().unwrap_or_default();
    match first {
        '\'' => (Kind::Text, until("'", 1)),
        '"' => (Kind::Name, until("\"", 1)),
        '`' => (Kind::Name, until("`", 1)),
        '[' => (Kind::Name, until("]", 1)),
        '-' if text.starts_with("--") => (Kind::Comment, text.find('\n').unwrap_or(text.len())),
        '/' if text.starts_with("/*") => (Kind::Comment, until("*/", 2)),
        c if c.is_ascii_digit() => (Kind::Number, run(|c| c.is_alphanumeric() || c == '.')),
        c if c.is_alphabetic() || c == '_' => {
            (Kind::Word, run(|c| c.is_alphanumeric() || matches!(c, '_' | '$')))
        }
        c => (Kind::Other, c.len_utf8()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_sorted() {
        assert!(KEYWORDS.is_sorted());
    }

    #[test]
    fn colours_by_table() {
        for (input, expected) in [
            ("", ""),
            ("select x", "<b>select</> x"),
            ("selected 12.5e3", "selected <y>12.5e3</>"),
            ("'it''s' \"FROM\"", "<g>'it'</><g>'s'</> \"FROM\""),
            ("a -- FROM\nFROM", "a <d>-- FROM</>\n<b>FROM</>"),
            ("/* 1 */2 'open", "<d>/* 1 */</><y>2</> <g>'open</>"),
            (".mode csv", "<c>.mode</> csv"),
            ("sélect ü", "sélect ü"),
        ] {
            let shown = [
                (KEYWORD, "<b>"),
                (TEXT, "<g>"),
                (NUMBER, "<y>"),
                (COMMENT, "<d>"),
                (COMMAND, "<c>"),
                (PLAIN, "</>"),
            ]
            .iter()
            .fold(highlight(input).into_owned(), |text, (code, name)| text.replace(code, name));
            assert_eq!(shown, expected, "{input}");
        }
    }
}
