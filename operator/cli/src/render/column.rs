//! Aligned columns; numbers to the right. Drawn here and not by comfy-table, whose rule below the header runs on through the
//! space between columns, and whose columns are at most 65,535 wide.

use super::{display, escape};
use client::sql::Rows;
use serde_json::Value;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

pub(super) fn render(rows: &Rows, out: &mut dyn Write) -> io::Result<()> {
    let header: Vec<String> = rows.columns.iter().map(|name| escape(name)).collect();
    let body: Vec<Vec<String>> = rows.values.iter().map(|row| row.iter().map(display).collect()).collect();
    let layout: Vec<Layout> = (0..header.len())
        .map(|at| {
            let cells = body.iter().chain([&header]).filter_map(|row| row.get(at));
            let mut values =
                rows.values.iter().filter_map(|row| row.get(at)).filter(|v| !v.is_null()).peekable();
            let width = cells.map(|cell| cell.width()).max().unwrap_or_default();
            Layout { width, right: values.peek().is_some() && values.all(Value::is_number) }
        })
        .collect();
    write_row(&header, &layout, out)?;
    let rule: Vec<String> = layout.iter().map(|column| "-".repeat(column.width)).collect();
    write_row(&rule, &layout, out)?;
    body.iter().try_for_each(|row| write_row(row, &layout, out))
}

struct Layout {
    width: usize,
    right: bool,
}

fn write_row(cells: &[String], layout: &[Layout], out: &mut dyn Write) -> io::Result<()> {
    let mut line = String::new();
    for (at, (cell, column)) in cells.iter().zip(layout).enumerate() {
        let padding = " ".repeat(column.width.saturating_sub(cell.width()));
        line.push_str(if at > 0 { "  " } else { "" });
        if column.right {
            line.push_str(&padding);
            line.push_str(cell);
        } else {
            line.push_str(cell);
            line.push_str(&padding);
        }
    }
    writeln!(out, "{}", line.trim_end())
}
