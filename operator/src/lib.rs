//! The operator of replicated SQLite: reconciles [`crd::SqliteCluster`] into StatefulSets, Services and budgets, and
//! drives membership and restarts through the members' administrative API. [`backup`] does the same for
//! [`crd::SqliteBackup`], [`restore`] for [`crd::SqliteRestore`].
//!
//! A reconcile is one sentence, [`cluster`]: validate → observe → plan → build → apply → execute → status. What
//! decides ([`cluster::plan`]) is a pure function; what touches the network says so in its signature.

pub mod admin;
pub mod api_server;
pub mod backup;
pub mod cache;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod context;
pub mod crd;
pub mod errands;
pub mod error;
pub mod events;
pub mod health;
pub mod lease;
pub mod listed;
pub mod metrics;
pub mod names;
pub mod pace;
mod reasons;
pub mod restore;
pub mod run;
pub mod status;
pub mod stores;
pub mod telemetry;
pub mod trim;
pub mod trusted;
