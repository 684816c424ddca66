//! The end-to-end tests. They need a Kubernetes with the operator installed in namespace `e2e-operator`, so plain
//! `cargo test` leaves them out; `make test` and `make e2e` run them.

use anyhow::Context as _;
use k8s_openapi::api::storage::v1::StorageClass;

mod backups;
mod disruptions;
#[path = "../../../node/tests/support/extension.rs"]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod extension;
mod extensions;
mod failures;
mod gitops;
mod life;
mod neighbours;
mod operator;
mod outlets;
#[path = "../../../node/tests/support/page.rs"]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod page;
mod pages;
mod placement;
mod quorum;
mod rest;
mod scaling;
mod security;
mod shell;
mod tls;
mod updates;

/// `make prove` repeats what `make test` shows once.
fn rounds() -> anyhow::Result<u32> {
    rounds_or(1, 30)
}

/// How often something is repeated in `make test` and in `make prove`, unless `E2E_ROUNDS` says otherwise.
fn rounds_or(in_test: u32, in_proof: u32) -> anyhow::Result<u32> {
    match std::env::var("E2E_ROUNDS") {
        Ok(rounds) => rounds.parse().context("E2E_ROUNDS"),
        Err(_) if e2e::proving() => Ok(in_proof),
        Err(_) => Ok(in_test),
    }
}

/// Skips a test where there is no storage class whose volumes have the size that they claim.
async fn require_sized_volumes(test: &e2e::Scenario) -> anyhow::Result<()> {
    let classes = kube::Api::<StorageClass>::all(test.kubernetes.client.clone());
    match classes.get_opt("sized").await? {
        Some(_) => Ok(()),
        None => {
            Err(e2e::Skip("no storage class `sized`, whose volumes can be full, and grow".to_owned()).into())
        }
    }
}
