//! What the fuzz targets found worth keeping (`node/fuzz/corpus`), fed to the same code again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Feeds the corpus of a target to it.
fn replay(target: &str) {
    let (_, run) = targets::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty() && inputs.len() <= 200, "{} inputs of {target}", inputs.len());
    for path in inputs {
        let input = std::fs::read(&path).unwrap();
        let outcome = std::panic::catch_unwind(|| run(&input));
        assert!(outcome.is_ok(), "{}", path.display());
    }
}

#[test]
fn files_of_users() {
    replay("auth");
}

#[test]
fn files_that_are_said_to_be_databases() {
    replay("database");
}

#[test]
fn logs_on_disk() {
    replay("log");
}

#[test]
fn messages_of_members() {
    replay("peer");
}

#[test]
fn requests_of_clients() {
    replay("request");
}

#[test]
fn statements_of_clients() {
    replay("sql");
}
