//! RFC 4180, with the newline of Unix.

use client::sql::Rows;
use serde_json::Value;
use std::borrow::Cow;
use std::io::{self, Write};

pub(super) fn render(rows: &Rows, out: &mut dyn Write) -> io::Result<()> {
    let header: Vec<_> = rows.columns.iter().map(|name| quote(name)).collect();
    writeln!(out, "{}", header.join(","))?;
    for row in &rows.values {
        let cells: Vec<_> = row.iter().map(cell).collect();
        writeln!(out, "{}", cells.join(","))?;
    }
    Ok(())
}

fn cell(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => "".into(),
        Value::String(text) => quote(text),
        other => other.to_string().into(),
    }
}

fn quote(text: &str) -> Cow<'_, str> {
    if text.is_empty() || text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}
