//! What Tab offers: commands and their arguments, tables and columns, SQL's words.

use crate::command::{Argument, argument_of, names};
use crate::highlight::{KEYWORDS, is_keyword};
use crate::render::Mode;
use clap::ValueEnum as _;
use client::sql::Level;

/// Where the word at the end of `before` begins, and what it could become. `known` are names of the database.
pub(crate) fn candidates(before: &str, known: &[String]) -> (usize, Vec<String>) {
    let line = before.trim_start();
    if line.starts_with('.') && !line.contains(' ') {
        return (before.len() - line.len(), matching(line, names().map(str::to_owned)));
    }
    let start = before.rfind(|c| !is_part_of_word(c)).map_or(0, |at| {
        // Behind that character, however long it is.
        at + before[at..].chars().next().map_or(0, char::len_utf8)
    });
    let word = &before[start..];
    if let Some((command, _)) = line.split_once(' ').filter(|_| line.starts_with('.')) {
        return (start, matching(word, arguments(command).into_iter()));
    }
    if word.is_empty() {
        return (start, Vec::new());
    }
    let mut found = matching(word, known.iter().map(|name| quoted(name)));
    // In such letters as are typed.
    let lower = !word.contains(|c: char| c.is_ascii_uppercase());
    let keywords =
        KEYWORDS.iter().map(|word| if lower { word.to_ascii_lowercase() } else { (*word).to_owned() });
    found.extend(matching(word, keywords));
    (start, found)
}

/// Whether the argument before the cursor is the name of a file.
pub(crate) fn wants_file(before: &str) -> bool {
    let split = before.trim_start().split_once(' ');
    split.is_some_and(|(command, _)| argument_of(command) == Argument::File)
}

fn arguments(command: &str) -> Vec<String> {
    match argument_of(command) {
        Argument::Switch => vec!["on".into(), "off".into()],
        Argument::Level => Level::ALL.iter().map(ToString::to_string).collect(),
        Argument::Mode => Mode::value_variants().iter().map(ToString::to_string).collect(),
        Argument::All => vec!["all".into()],
        Argument::File | Argument::Other => Vec::new(),
    }
}

fn is_part_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn matching(start: &str, words: impl Iterator<Item = String>) -> Vec<String> {
    let start = start.to_lowercase();
    words.filter(|word| word.trim_start_matches('"').to_lowercase().starts_with(&start)).collect()
}

/// A name as SQL.
fn quoted(name: &str) -> String {
    let plain = name.chars().all(is_part_of_word) && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain && !is_keyword(name) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_by_table() {
        let known = ["order items", "orders", "group"].map(str::to_owned);
        for (before, start, expected) in [
            (".ta", 0, &[".tables"][..]),
            ("  .ti", 2, &[".timer"]),
            (".mode m", 6, &["markdown"]),
            (".timer o", 7, &["on", "off"]),
            (".consistency st", 13, &["strong"]),
            (".nodes ", 7, &["all"]),
            ("sel", 0, &["select"]),
            ("SEL", 0, &["SELECT"]),
            ("SELECT * FROM order", 14, &["\"order items\"", "orders", "order"]),
            ("SELECT * FROM t WHERE grou", 22, &["\"group\"", "group"]),
            ("SELECT ä,orders", 10, &["orders"]),
            ("SELECT ", 7, &[]),
            ("SELECT xyz", 7, &[]),
            ("", 0, &[]),
        ] {
            let (at, found) = candidates(before, &known);
            assert_eq!(
                (at, found.iter().map(String::as_str).collect::<Vec<_>>()),
                (start, expected.to_vec()),
                "{before}"
            );
        }
    }

    #[test]
    fn files_are_offered_where_one_is_named() {
        for (before, expected) in
            [(".read a", true), (".backup ", true), (".mode c", false), (".read", false), ("SELECT 1", false)]
        {
            assert_eq!(wants_file(before), expected, "{before}");
        }
    }
}
