//! `sqlited`: one member of a replicated SQLite cluster.
//!
//! Requests come in by [`http`], are ordered and replicated by [`raft`], and change or read the database in
//! [`store`]. [`node`](mod@node) puts the parts together.

pub mod auth;
mod background;
pub mod backup;
pub mod changes;
pub mod clock;
mod cluster;
pub mod config;
pub mod control;
pub mod discovery;
pub mod drain;
pub mod failpoint;
mod foreign_directory;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod identity;
mod maintenance;
pub mod metrics;
pub mod node;
pub mod observe;
pub mod otlp;
pub mod raft;
mod reload;
mod scratch_directory;
mod secret;
pub mod security;
mod set_aside;
mod space;
pub mod store;
mod tcp;
pub mod telemetry;
pub mod tls;
pub mod trace;

pub use node::{Ended, Node, NodeError, Started};

/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
