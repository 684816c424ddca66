//! Nodes of the Kubernetes that `e2e/kube` starts on this machine: they can lose power, and keep policies.

use crate::kubernetes::Kubernetes;
use crate::wait::eventually;
use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// Skips a test where nodes are not of this machine.
pub fn require(kubernetes: &Kubernetes) -> Result<()> {
    kubernetes.require_local("only nodes of the local Kubernetes can lose power")
}

/// Ends all processes of a node at once.
pub async fn lose_power(node: &str) -> Result<()> {
    let number = node.trim_start_matches("node");
    run("kube-node.sh", &["kill", number]).await
}

/// Takes a node that lost power out of Kubernetes; when it starts it is a new one of the same name.
pub async fn forget(kubernetes: &Kubernetes, node: &str) -> Result<()> {
    Api::<Node>::all(kubernetes.client.clone()).delete(node, &DeleteParams::default()).await?;
    Ok(())
}

/// Starts what does not run, and waits until all nodes are Ready.
pub async fn start_all(kubernetes: &Kubernetes) -> Result<()> {
    run("kube-up.sh", &[]).await?;
    let nodes = Api::<Node>::all(kubernetes.client.clone());
    eventually("all nodes are Ready", Duration::from_secs(60), async || {
        let all = nodes.list(&ListParams::default()).await?.items;
        let is_ready = |node: &Node| {
            let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        Ok(all.iter().all(is_ready).then_some(()))
    })
    .await
}

/// Has NetworkPolicies kept on all nodes, or no longer.
pub async fn keep_policies(keep: bool) -> Result<()> {
    run("kube-policy.sh", &[if keep { "start" } else { "stop" }]).await
}

async fn run(script: &str, arguments: &[&str]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube").join(script);
    let output = Command::new(path).args(arguments).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script} {}: {}\n{said}", arguments.join(" "), output.status);
    Ok(())
}
