//! One value a line, an empty line between rows.

use super::{display, escape};
use client::sql::Rows;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

pub(super) fn render(rows: &Rows, out: &mut dyn Write) -> io::Result<()> {
    let names: Vec<String> = rows.columns.iter().map(|name| escape(name)).collect();
    let width = names.iter().map(|name| name.width()).max().unwrap_or_default();
    for (at, row) in rows.values.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        for (name, value) in names.iter().zip(row) {
            let padding = " ".repeat(width.saturating_sub(name.width()));
            writeln!(out, "{padding}{name} = {}", display(value))?;
        }
    }
    Ok(())
}
