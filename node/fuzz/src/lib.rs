//! The bodies of the fuzz targets, one file each. `fuzz_targets/` feeds them what libFuzzer finds, `node/tests/fuzz.rs`
//! what is kept of that in `corpus/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod auth;
pub mod database;
pub mod log;
pub mod peer;
pub mod request;
pub mod sql;

/// A body: what is done with an input. It panics if something is wrong.
pub type Body = fn(&[u8]);

/// Names and bodies.
pub const TARGETS: [(&str, Body); 6] = [
    ("auth", auth::run),
    ("database", database::run),
    ("log", log::run),
    ("peer", peer::run),
    ("request", request::run),
    ("sql", sql::run),
];
