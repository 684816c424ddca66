//! The bodies of the fuzz targets, one file each. `fuzz_targets/` feeds them what libFuzzer finds, `node/tests/fuzz.rs`
//! what is kept of that in `corpus/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod auth;
pub mod database;
pub mod log;
pub mod peer;
pub mod request;
pub mod sql;

/// Names and bodies.
pub const TARGETS: [(&str, fn(&[u8])); 6] = [
    ("auth", auth::run),
    ("database", database::run),
    ("log", log::run),
    ("peer", peer::run),
    ("request", request::run),
    ("sql", sql::run),
];
