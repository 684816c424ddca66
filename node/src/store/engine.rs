//! What SQL is executed by: the library's source and how it was compiled. Members of one engine execute entries alike, page
//! for page; of two engines that cannot be known.

use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

/// Digits of the hash that are told.
const DIGITS: usize = 16;

/// The name of this program's engine: the library's version, and a hash of what it was made of.
pub fn name() -> rusqlite::Result<String> {
    if let Some(name) = crate::failpoint::engine() {
        return Ok(name);
    }
    let connection = Connection::open_in_memory()?;
    let source: String = connection.query_row("SELECT sqlite_source_id()", [], |row| row.get(0))?;
    let mut options = connection.prepare("PRAGMA compile_options")?;
    let options = options.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    Ok(named(rusqlite::version(), &source, options))
}

fn named(version: &str, source: &str, mut options: Vec<String>) -> String {
    // Which compiler it was changes nothing of what SQL means, and every build of the program would be another engine.
    options.retain(|option| !option.starts_with("COMPILER="));
    options.sort();
    let sum = Sha256::digest(format!("{source}\n{}", options.join("\n")));
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{version}-{}", &sum[..DIGITS])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_engine_is_named_by_source_and_options() {
        let options = |all: &[&str]| all.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>();
        let first = named("3.1", "source", options(&["A", "B=1", "COMPILER=gcc-12"]));
        assert!(first.starts_with("3.1-") && first.len() == 4 + DIGITS, "{first}");
        for (source, given, is_same) in [
            ("source", &["B=1", "A", "COMPILER=clang-19"][..], true),
            ("source", &["A", "B=1"], true),
            ("source", &["A", "B=2"], false),
            ("source", &["A"], false),
            ("other source", &["A", "B=1"], false),
        ] {
            assert_eq!(named("3.1", source, options(given)) == first, is_same, "{source} {given:?}");
        }
        assert_eq!(name().unwrap(), name().unwrap());
    }
}
