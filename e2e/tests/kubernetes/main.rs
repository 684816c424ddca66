//! The end-to-end tests. They need a Kubernetes with the operator installed in namespace `e2e-operator`, so plain
//! `cargo test` leaves them out; `make test` and `make e2e` run them.

mod backups;
mod disruptions;
mod failures;
mod life;
mod neighbours;
mod rest;
mod scaling;
mod security;
mod tls;
mod updates;

/// `make prove` repeats what `make test` shows once.
fn rounds() -> u32 {
    if e2e::proving() { 30 } else { 1 }
}
