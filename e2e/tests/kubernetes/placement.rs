//! Where members run.

use crate::failures::SAME;
use anyhow::{Context, Result, ensure};
use e2e::ledger::Pace;
use e2e::{Cluster, Manifest, eventually, nodes, proving, scenario};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Kubernetes nodes, each a zone of its own, that the local Kubernetes has.
const NODES: usize = 3;

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn members_that_must_be_apart_wait_for_room() {
    scenario("members_that_must_be_apart_wait_for_room", async |test| {
        nodes::require(&test.kubernetes)?;
        let orders = test.named("orders");
        let manifest = Manifest::new("orders", 3).with("placement", json!({"spread": "Required"}));
        let manifest = manifest.with("update", json!({"canary": {"soakSeconds": 0}}));
        orders.apply(&manifest).await?;
        orders.await_ready().await?;
        assert_spread(&orders, NODES).await?;

        let ledger = orders.start_writing(Pace::default()).await?;
        orders.scale(5).await?;
        let waiting = eventually("pods find no Kubernetes node", Duration::from_secs(20), async || {
            let pods = orders.pods().await?;
            let waits = |pod: &&Pod| {
                let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions.any(|c| c.reason.as_deref() == Some("Unschedulable"))
            };
            let waiting = pods.iter().filter(waits).count();
            Ok((waiting > 0).then_some(waiting))
        })
        .await?;
        test.say(format_args!("{waiting} of {} pods wait", orders.pods().await?.len()));
        if proving() {
            // It is given two minutes to come right by itself, as by a node that is added.
            let told = eventually("the cluster says so", Duration::from_secs(150), async || {
                let stalled = orders.condition("Stalled").await?;
                Ok(stalled.filter(|stalled| stalled.reason == "InsufficientCapacity"))
            })
            .await?;
            test.say(format_args!("it says: {}", told.message));
        }
        // Those that wait have the former template: they go first, or the change would wait for them as for any member.
        orders.set(json!({"placement": {"spread": "Preferred"}})).await?;
        orders.await_no("Stalled").await?;
        orders.await_ready().await?;
        test.unharmed("members find no Kubernetes node, until they may share one", &ledger.finish().await?)?;
        assert_spread(&orders, NODES).await?;
        orders.assert_same_content(SAME).await
    });
}

/// The status names a Kubernetes node and a zone of each member, and so many of both.
async fn assert_spread(orders: &Cluster, wanted: usize) -> Result<()> {
    eventually("the status tells where members are", Duration::from_secs(10), async || {
        let told = orders.object().await?.data["status"]["members"].clone();
        let members = told.as_array().context("no members")?;
        let distinct = |field: &str| {
            let all: Option<BTreeSet<&str>> =
                members.iter().map(|m| m.get(field).and_then(Value::as_str)).collect();
            all.map(|all| all.len())
        };
        let told = (distinct("kubernetesNode"), distinct("zone"));
        ensure!(told == (Some(wanted), Some(wanted)), "nodes and zones of {told:?} members: {members:?}");
        Ok(Some(()))
    })
    .await
}
