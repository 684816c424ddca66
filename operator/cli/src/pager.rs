//! Rows that do not fit on the screen, through a program that shows them page by page.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use terminal_size::{Height, Width, terminal_size};
use unicode_width::UnicodeWidthStr as _;

/// What shows pages unless `PAGER` names something: no wrapping, and nothing to close where one page is enough.
const DEFAULT: &str = "less -SFX";
/// Lines of the screen that are the prompt's.
const PROMPT: usize = 2;

/// Whether a text is larger than a screen of so many columns and lines.
fn exceeds(text: &str, columns: usize, lines: usize) -> bool {
    text.lines().count() > lines.saturating_sub(PROMPT) || text.lines().any(|line| line.width() > columns)
}

/// Shows a text through the pager if it is larger than the screen; says whether it did.
pub(crate) fn show(text: &str) -> io::Result<bool> {
    let Some((Width(columns), Height(lines))) = terminal_size() else { return Ok(false) };
    if !exceeds(text, columns.into(), lines.into()) {
        return Ok(false);
    }
    let program = std::env::var("PAGER").ok().filter(|program| !program.trim().is_empty());
    let program = program.as_deref().unwrap_or(DEFAULT);
    // As every program does that knows PAGER: it may have arguments.
    let spawned = Command::new("sh").args(["-c", program]).stdin(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(text.as_bytes()) {
            // Who has seen enough leaves.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    // A shell that finds no such program has shown nothing.
    Ok(child.wait()?.code() != Some(127))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screens_by_table() {
        for (text, columns, lines, expected) in [
            ("", 80, 24, false),
            ("a\nb\n", 80, 4, false),
            ("a\nb\nc\n", 80, 4, true),
            ("12345", 5, 24, false),
            ("日本語", 5, 24, true),
        ] {
            assert_eq!(exceeds(text, columns, lines), expected, "{text}");
        }
    }
}
