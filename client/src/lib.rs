//! The HTTP API of `sqlited` as its clients see it: wire types and clients.
//!
//! The operator, the shell, the load generator and the end-to-end tests share this crate, so that a change of the
//! wire format is a change in one place. It never links the node.

pub mod admin;
pub mod admin_client;
pub mod backup;
mod events;
pub mod not_reachable;
pub mod sql;
pub mod trust;
