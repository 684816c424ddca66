//! A Markdown table.

use super::display;
use client::sql::Rows;
use serde_json::Value;
use std::io::{self, Write};

pub(super) fn render(rows: &Rows, out: &mut dyn Write) -> io::Result<()> {
    let header = rows.columns.iter().map(|name| cell(&Value::from(name.as_str())));
    write_row(header, out)?;
    writeln!(out, "|{}", "---|".repeat(rows.columns.len()))?;
    rows.values.iter().try_for_each(|row| write_row(row.iter().map(cell), out))
}

fn write_row(cells: impl Iterator<Item = String>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "| {} |", cells.collect::<Vec<_>>().join(" | "))
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) => {
            let lines: Vec<_> = text.split('\n').map(|line| display(&Value::from(line))).collect();
            lines.join("<br>")
        }
        other => display(other),
    };
    text.replace('|', "\\|")
}
