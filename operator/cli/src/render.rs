//! Rows as text.

mod column;
mod csv;
mod json;
mod line;
mod markdown;

use clap::ValueEnum;
use client::sql::Rows;
use serde_json::Value;
use std::fmt;
use std::io::{self, Write};

/// How rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Aligned, with a header
    Column,
    /// RFC 4180, with a header; NULL is empty and an empty string ""
    Csv,
    /// An array of objects, one row a line
    Json,
    /// One value a line
    Line,
    /// A Markdown table
    Markdown,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// Writes rows.
pub fn render(mode: Mode, rows: &Rows, out: &mut dyn Write) -> io::Result<()> {
    match mode {
        Mode::Column => column::render(rows, out),
        Mode::Csv => csv::render(rows, out),
        Mode::Json => json::render(rows, out),
        Mode::Line => line::render(rows, out),
        Mode::Markdown => markdown::render(rows, out),
    }
}

/// A value for people: control characters are shown as escapes, so that data cannot command the terminal.
fn display(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) => escape(text),
        other => other.to_string(),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(mode: Mode, rows: &Rows) -> String {
        let mut out = Vec::new();
        render(mode, rows, &mut out).expect("memory");
        String::from_utf8(out).expect("text")
    }

    fn rows(columns: &[&str], values: Value) -> Rows {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        Rows { columns, types: vec![], values: serde_json::from_value(values).expect("rows") }
    }

    #[test]
    fn each_mode_by_table() {
        let data = json!([[1, "Ann", null], [20, "日本 \"|,\n", ""]]);
        let some = rows(&["id", "name", "x"], data);
        let none = rows(&["id", "name"], json!([]));
        for (mode, expected, empty) in [
            (
                Mode::Column,
                "id  name        x\n--  ----------  ----\n 1  Ann         NULL\n20  日本 \"|,\\n\n",
                "id  name\n--  ----\n",
            ),
            (Mode::Csv, "id,name,x\n1,Ann,\n20,\"日本 \"\"|,\n\",\"\"\n", "id,name\n"),
            (
                Mode::Json,
                "[{\"id\":1,\"name\":\"Ann\",\"x\":null},\n{\"id\":20,\"name\":\"日本 \\\"|,\\n\",\"x\":\"\"}]\n",
                "[]\n",
            ),
            (
                Mode::Line,
                "  id = 1\nname = Ann\n   x = NULL\n\n  id = 20\nname = 日本 \"|,\\n\n   x = \n",
                "",
            ),
            (
                Mode::Markdown,
                "| id | name | x |\n|---|---|---|\n| 1 | Ann | NULL |\n| 20 | 日本 \"\\|,<br> |  |\n",
                "| id | name |\n|---|---|\n",
            ),
        ] {
            assert_eq!(rendered(mode, &some), expected, "{mode}");
            assert_eq!(rendered(mode, &none), empty, "{mode}");
        }
    }

    #[test]
    fn data_cannot_command_the_terminal() {
        let hostile = rows(&["\u{1b}[2J"], json!([["\u{1b}]0;x\u{7}"]]));
        for mode in [Mode::Column, Mode::Line, Mode::Markdown] {
            assert!(!rendered(mode, &hostile).contains(['\u{1b}', '\u{7}']), "{mode}");
        }
    }

    #[test]
    fn large_integers_are_exact() {
        let large = rows(&["n"], json!([[i64::MAX]]));
        assert!(rendered(Mode::Csv, &large).contains("9223372036854775807"));
    }
}
