//! What Kubernetes does to clusters: nodes are drained and lose power, volumes fill up, namespaces go.

use crate::failures::{SAME, while_writing};
use crate::life::PROTECTION;
use crate::scaling::assert_voters;
use crate::{require_sized_volumes, rounds};
use anyhow::{Context, Result, ensure};
use client::admin::Member;
use e2e::database::Level;
use e2e::ledger::Pace;
use e2e::scenario::restricted_namespace;
use e2e::{Cluster, Hopeless, Manifest, Scenario, eventually, nodes, proving, scenario};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::{Duration, Instant};

/// The node whose kube-proxy this machine uses: tests leave it alone.
const OURS: &str = "node1";

async fn set_schedulable(test: &Scenario, node: &str, schedulable: bool) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": !schedulable}}));
    Api::<Node>::all(test.kubernetes.client.clone()).patch(node, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Moves a member away as `kubectl drain` does, and waits until the cluster is whole again.
async fn drain(test: &Scenario, orders: &Cluster, member: &str, node: &str) -> Result<()> {
    let before = orders.pod_uids().await?;
    set_schedulable(test, node, false).await?;
    let moved = async {
        orders.evict(member).await?;
        eventually("another pod has its place", Duration::from_secs(40), async || {
            let now = orders.pod_uids().await?;
            Ok(now.get(member).filter(|uid| before.get(member) != Some(uid)).map(drop))
        })
        .await?;
        orders.await_ready().await
    };
    let moved = moved.await;
    set_schedulable(test, node, true).await?;
    moved
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_leaders_node_is_drained() {
    scenario("the_leaders_node_is_drained", async |test| {
        let orders = test.cluster("orders", 3).await?;
        for _ in 0..rounds()? {
            let report = while_writing(&orders, async || {
                let leader = orders.await_leader().await?;
                let node = orders.node_of(&leader).await?;
                drain(test, &orders, &leader, &node).await?;
                test.say(format_args!("{leader}, which led, has left {node}"));
                Ok(())
            })
            .await?;
            test.unnoticed("leader's node drained", &report)?;
            orders.assert_same_content(SAME).await?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_full_volume_is_raised_and_written_again() {
    scenario("a_full_volume_is_raised_and_written_again", async |test| {
        require_sized_volumes(test).await?;
        let orders = test.named("orders");
        let storage = json!({"size": "320Mi", "storageClassName": "sized"});
        orders.apply(&Manifest::new("orders", 3).with("storage", storage)).await?;
        orders.await_ready().await?;
        let database = orders.service("rw").await?;
        database.write("CREATE TABLE filling (x BLOB)").await?;
        let fill = async || database.write("INSERT INTO filling VALUES (randomblob(8000000))").await;
        let mut written = 0;
        let refusal = loop {
            if let Err(error) = fill().await {
                // Members let go of what they no longer need: there may be room again.
                let again = eventually("room again", Duration::from_secs(4), async || fill().await.map(Some));
                if again.await.is_err() {
                    break format!("{error:#}");
                }
            }
            written += 1;
            ensure!(written < 100, "800 MB fit into 320 MiB");
        };
        ensure!(refusal.contains("507"), "{refusal}");
        test.say(format_args!("after {written} rows: {refusal}"));
        let count = database.read_number("SELECT count(*) FROM filling", Level::Linearizable).await?;
        ensure!(count >= written, "{count} of {written} rows");
        orders.await_condition("StorageHealthy", "False").await?;

        // One of them has to start on its full volume.
        let follower = orders.follower().await?;
        orders.delete_pod(&follower).await?;
        test.say(format_args!("{follower} is deleted"));
        let (begin, limit) = (Instant::now(), Duration::from_secs(60));
        orders.set(json!({"storage": {"size": "700Mi"}})).await?;
        eventually("writes are taken again", limit, async || fill().await.map(Some)).await?;
        test.measured_at_most("full volume raised to writing", begin.elapsed(), limit)?;
        eventually("every volume has grown", Duration::from_secs(40), async || {
            let object = orders.object().await?;
            Ok((object.data["status"]["storage"]["allocated"] == "700Mi").then_some(()))
        })
        .await?;
        orders.await_condition("StorageHealthy", "True").await?;
        orders.await_ready().await?;
        orders.assert_same_content("SELECT count(*), total(length(x)) FROM filling").await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_namespace_is_deleted_with_its_clusters() {
    scenario("a_namespace_is_deleted_with_its_clusters", async |test| {
        let namespaces = Api::<Namespace>::all(test.kubernetes.client.clone());
        for round in 0..rounds()? {
            let name = format!("{}-{round}", test.namespace);
            namespaces.create(&PostParams::default(), &restricted_namespace(&name, &test.name)?).await?;
            let orders = Cluster::named(&test.kubernetes, &name, "orders");
            orders.apply(&Manifest::new("orders", 3)).await?;
            // Who deletes a namespace means everything that is in it.
            orders.annotate(PROTECTION, "true").await?;
            // It goes while it is made, while it serves, and in the middle of a change.
            if round % 3 != 1 {
                orders.await_ready().await?;
            }
            if round % 3 == 2 {
                orders.scale(5).await?;
            }
            hold_by_a_backup(test, &name).await?;
            let begin = Instant::now();
            namespaces.delete(&name, &DeleteParams::background()).await?;
            eventually("the namespace is gone", Duration::from_secs(60), async || {
                Ok(namespaces.get_opt(&name).await?.is_none().then_some(()))
            })
            .await?;
            test.measured_at_most("namespace deleted to gone", begin.elapsed(), Duration::from_secs(60))?;
        }
        Ok(())
    });
}

/// A backup as the operator leaves one that is to take its objects along: held until they are deleted, of a store that
/// nobody reaches.
async fn hold_by_a_backup(test: &Scenario, namespace: &str) -> Result<()> {
    let backups = test.kubernetes.objects("SqliteBackup", namespace);
    let backup: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1",
        "kind": "SqliteBackup",
        "metadata": {
            "name": "held",
            "labels": {"sqlite-operator.io/e2e": ""},
            "finalizers": ["sqlite-operator.io/backup-objects"],
        },
        "spec": {"clusterRef": {"name": "orders"}, "deletionPolicy": "Delete"},
    }))?;
    backups.create(&PostParams::default(), &backup).await?;
    let status = json!({"path": "full/held", "completionTime": "2026-01-01T00:00:00Z"});
    let status = Patch::Merge(json!({"status": status}));
    backups.patch_status("held", &PatchParams::default(), &status).await?;
    Ok(())
}

/// Has a member lead that is not on the node by which this machine reaches Services; returns it and its node.
async fn leader_elsewhere(orders: &Cluster) -> Result<(String, String)> {
    let leader = orders.await_leader().await?;
    let node = orders.node_of(&leader).await?;
    if node != OURS {
        return Ok((leader, node));
    }
    orders.set(json!({"fencing": [{"member": leader, "reason": "another one is to lead"}]})).await?;
    let next = eventually("another one leads", Duration::from_secs(20), async || {
        let next = orders.await_leader().await?;
        Ok((next != leader).then_some(next))
    })
    .await?;
    orders.set(json!({"fencing": []})).await?;
    orders.await_ready().await?;
    let node = orders.node_of(&next).await?;
    ensure!(node != OURS, "{next} is on {node} too");
    Ok((next, node))
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_leader_loses_power_while_the_operator_is_away() {
    // A node takes a minute to be missed and to come back.
    if !proving() {
        return;
    }
    scenario("the_leader_loses_power_while_the_operator_is_away", async |test| {
        nodes::require(&test.kubernetes)?;
        for round in 0..5 {
            let orders = test.cluster(&format!("orders-{round}"), 3).await?;
            let (leader, node) = leader_elsewhere(&orders).await?;
            let ledger = orders.start_writing(Pace::default()).await?;
            ledger.await_acknowledged(100, Duration::from_secs(10)).await?;
            let operators = test.scale_operator(0).await?;
            nodes::lose_power(&node).await?;
            test.say(format_args!("{node} has no power, and {leader}, which leads, runs there"));
            let went_on = ledger.await_acknowledged(500, Duration::from_secs(30)).await;
            let report = ledger.finish().await?;
            nodes::start_all(&test.kubernetes).await?;
            test.scale_operator(operators).await?;
            test.await_operator().await?;
            went_on.context("after the loss of the node")?;
            test.reported("leader's node without power, no operator", &report)?;
            report.nothing_lost()?;
            report.outage_at_most(Duration::from_secs(3))?;
            eventually("it is whole again", Duration::from_secs(180), async || {
                orders.await_ready().await.map(Some)
            })
            .await?;
            orders.assert_same_content(SAME).await?;
            orders.delete().await?;
        }
        Ok(())
    });
}

/// The voters as the leader has them; there may never be fewer than three.
async fn three_voters(orders: &Cluster) -> Result<Vec<Member>> {
    let leader = orders.report(&orders.await_leader().await?).await?;
    let voters: Vec<_> = leader.membership.members.into_iter().filter(|member| member.voter).collect();
    if voters.len() < 3 {
        return Err(Hopeless(format!("there are only {} voters", voters.len())).into());
    }
    Ok(voters)
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_node_is_lost_with_its_disk() {
    if !proving() {
        return;
    }
    const AFTER: u64 = 10;
    scenario("a_node_is_lost_with_its_disk", async |test| {
        nodes::require(&test.kubernetes)?;
        let orders = test.named("orders");
        let manifest = Manifest::new("orders", 3)
            .with("storage", json!({"size": "1Gi", "storageClassName": "local"}))
            .with("recovery", json!({"memberReplacementAfterSeconds": AFTER}));
        orders.apply(&manifest).await?;
        orders.await_ready().await?;
        let (lost, node) = leader_elsewhere(&orders).await?;
        let id = orders.report(&lost).await?.node_id;
        let ledger = orders.start_writing(Pace::default()).await?;
        let begin = Instant::now();
        nodes::lose_power(&node).await?;
        test.say(format_args!("{node} is lost with the volume of {lost}"));
        let limit = Duration::from_secs(180);
        let course = async {
            eventually("another member has its vote", Duration::from_secs(AFTER) + limit, async || {
                let voters = three_voters(&orders).await?;
                Ok(voters.iter().all(|member| member.node_id != id).then_some(()))
            })
            .await?;
            let took = begin.elapsed().saturating_sub(Duration::from_secs(AFTER));
            test.measured_at_most("node lost with its disk to replaced", took, limit)?;
            // As a cloud does once it knows that the machine will not be seen again: Kubernetes ends its pods with it.
            nodes::forget(&test.kubernetes, &node).await?;
            let begin = Instant::now();
            eventually("who stood in is gone, and the name in use again", limit, async || {
                let voters = three_voters(&orders).await?;
                assert_voters(&orders, 3).await?;
                let names = ["orders-0", "orders-1", "orders-2"];
                let is_whole = voters.iter().map(|member| member.name.as_str()).eq(names)
                    && orders.pod_uids().await?.keys().eq(&names);
                Ok(is_whole.then_some(()))
            })
            .await?;
            let what = "lost node forgotten by Kubernetes to all as before";
            test.measured_at_most(what, begin.elapsed(), limit)?;
            orders.await_ready().await
        };
        let course = course.await;
        let report = ledger.finish().await?;
        nodes::start_all(&test.kubernetes).await?;
        test.await_operator().await?;
        course?;
        test.reported("node lost with its disk", &report)?;
        report.nothing_lost()?;
        orders.assert_same_content(SAME).await
    });
}
