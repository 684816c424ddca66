//! An array of objects whose members are in the order of the columns.

use client::sql::Rows;
use serde_json::Value;
use std::io::{self, Write};

pub(super) fn render(rows: &Rows, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"[")?;
    for (at, row) in rows.values.iter().enumerate() {
        out.write_all(if at > 0 { b",\n{" } else { b"{" })?;
        for (at, (name, value)) in rows.columns.iter().zip(row).enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(out, "{comma}{}:{value}", Value::from(name.as_str()))?;
        }
        out.write_all(b"}")?;
    }
    out.write_all(b"]\n")
}
