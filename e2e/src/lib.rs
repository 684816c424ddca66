//! Vocabulary of the end-to-end tests: they run against a real Kubernetes and read like prose.
//!
//! A test is a [`scenario`]: it gets a namespace of its own, makes [`Cluster`]s in it, writes through a
//! [`ledger`] that records every attempt, disturbs something, and compares what was acknowledged with what is there.
//! Which Kubernetes is used is said by `KUBECONFIG`; `make test` sets it and everything else a test needs.

pub mod cluster;
pub mod database;
mod diagnostics;
mod forward;
pub mod images;
pub mod kubernetes;
pub mod ledger;
pub mod measurements;
pub mod nodes;
pub mod object_store;
mod operator;
mod processes;
pub mod scale;
pub mod scenario;
mod wait;

pub use cluster::{Cluster, Manifest};
pub use database::Database;
pub use kubernetes::Kubernetes;
pub use ledger::{Ledger, Report};
pub use object_store::ObjectStore;
pub use scenario::{Scenario, Skip, limit, proving, scenario};
pub use wait::{Hopeless, eventually};
