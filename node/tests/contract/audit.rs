//! Every line of the contract is named by a test: in its body a comment begins with the line's name, `// C13`, or with
//! several, `// C7, C9`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The lines: C what all answers share, E endpoints, S semantics, F files and flags, B where we do better than rqlite on
/// purpose.
const LINES: &[(&str, &str)] = &[
    ("C1", "served from the start of the process; prefixes; 404 and 405 without a body"),
    ("C2", "OPTIONS without credentials; the version in each answer; CORS"),
    ("C3", "401 without a body, the order in which permissions count"),
    ("C4", "parameters: decoded, the first counts, flags by presence; what is wrong with them"),
    ("C5", "errors as text, JSON compact or pretty, content types"),
    ("C6", "durations in Go's syntax"),
    ("C7", "followers forward, or redirect if asked to"),
    ("C8", "no leader: 503; who asks may not, by the leader's users: 401"),
    ("C9", "who answered"),
    ("C10", "bodies, parameters, content types"),
    ("C11", "several statements in a text"),
    ("C12", "the order of keys, what is left out"),
    ("C13", "results of writes"),
    ("C14", "results of queries"),
    ("C15", "errors of statements"),
    ("C16", "RETURNING, EXPLAIN"),
    ("C17", "types and values"),
    ("C18", "transaction"),
    ("C19", "failures of a whole request"),
    ("C20", "a list is one entry"),
    ("E1", "/db/execute"),
    ("E2", "/db/execute?queue"),
    ("E3", "/db/query"),
    ("E4", "/db/request"),
    ("E5", "/db/sql"),
    ("E6", "/db/backup"),
    ("E7", "/db/load"),
    ("E8", "/boot"),
    ("E9", "/snapshot, /reap"),
    ("E10", "/remove"),
    ("E11", "/leader"),
    ("E12", "/readyz"),
    ("E13", "/nodes"),
    ("E14", "/status"),
    ("E15", "/debug/vars"),
    ("E16", "/licenses, /console"),
    ("S1", "levels of reads"),
    ("S2", "an acknowledged write is committed and applied"),
    ("S3", "without a leader there is an error in time"),
    ("S4", "own writes are read on the leader"),
    ("S5", "chance and time are the same on all members"),
    ("S6", "what SQLite is built with"),
    ("S7", "a name comes back, from the same address or another"),
    ("F1", "the file of users"),
    ("F2", "the files of automatic backups and restores"),
    ("F3", "change capture"),
    ("F4", "the data directory; raft/peers.json"),
    ("F5", "flags, exit codes, signals"),
    ("B1", "nothing is rewritten, nothing diverges"),
    ("B2", "a local failure is fatal for the member; checksums of pages are compared"),
    ("B3", "a statement that does not compile undoes its transaction"),
    ("B4", "auto and linearizable_timeout work for /db/request"),
    ("B5", "a user without perms or password is refused"),
    ("B6", "a load is streamed, in bounded memory"),
    ("B7", "results are streamed"),
    ("B8", "the database file is the snapshot: a hard kill copies nothing"),
    ("B9", "hashed passwords, files that are followed"),
    ("B10", "/metrics"),
    ("B11", "BEGIN, COMMIT, ATTACH are refused with an error"),
    ("B12", "forwarding by default, where rqlite's clients may be redirected"),
    ("B13", "db_timeout bounds the wait, steps bound the execution"),
    ("B14", "what is forwarded again is not applied twice"),
];

/// The lines that the comments of `text` name, after its first test.
fn named(text: &str) -> Vec<&str> {
    let tests = text.find("#[test]").map_or("", |at| &text[at..]);
    let comments = tests.lines().filter_map(|line| line.trim().strip_prefix("// "));
    comments.flat_map(|comment| comment.split(", ").map_while(line_name)).collect()
}

/// The name that a part of a comment is, or begins with before a colon.
fn line_name(part: &str) -> Option<&str> {
    let name = part.split(':').next()?;
    let is_name = name.starts_with(['C', 'E', 'S', 'F', 'B'])
        && name.len() > 1
        && name[1..].bytes().all(|byte| byte.is_ascii_digit());
    is_name.then_some(name)
}

fn walk(directory: &Path, see: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, see) } else { see(&path) }
    }
}

#[test]
fn every_line_is_named_by_a_test_and_every_name_is_a_line() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    walk(&tests, &mut |path| {
        if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("contract/audit.rs")
        {
            for name in named(&std::fs::read_to_string(path).unwrap()) {
                found.entry(name.to_owned()).or_default().insert(path.display().to_string());
            }
        }
    });
    let missing: Vec<_> = LINES.iter().filter(|(name, _)| !found.contains_key(*name)).collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
    let strange: Vec<_> =
        found.iter().filter(|(name, _)| LINES.iter().all(|(line, _)| line != name)).collect();
    assert!(strange.is_empty(), "no line of the contract is called {strange:?}");
}

#[test]
fn comments_that_name_lines() {
    for (text, expected) in [
        ("// C1", &[][..]),
        ("#[test]\n    // C1", &["C1"]),
        ("#[test]\n// C7, C9", &["C7", "C9"]),
        ("#[test]\n// E13: a member that does not answer is no error.", &["E13"]),
        ("#[test]\n// Everything, C1", &[]),
        ("#[test]\nlet x = 1; // C1", &[]),
    ] {
        assert_eq!(named(text), expected, "{text}");
    }
}
