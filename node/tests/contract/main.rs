//! rqlite's contract on real processes, one file for each family of endpoints. A comment `// C13` names the line of the
//! contract that a check is about, `audit.rs` has the list of them and sees to it that each is named; `better.rs` is where
//! we differ on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod backup;
mod better;
mod docs;
mod general;
mod load;
mod members;
mod opening;
mod program;
mod queue;
mod semantics;
mod sql;
mod status;

use support::{Cluster, cluster};

/// One member with the table `foo`.
fn member() -> Cluster {
    let c = cluster(1);
    c.execute(
        0,
        &serde_json::json!([
            "CREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT UNIQUE, at DATETIME, b BLOB)"
        ]),
    );
    c
}
