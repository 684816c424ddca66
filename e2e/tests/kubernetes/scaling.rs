//! The number of voters changes under load.

use crate::failures::SAME;
use crate::rounds_or;
use anyhow::{Result, ensure};
use e2e::ledger::Pace;
use e2e::{Cluster, Manifest, eventually, proving, scenario};
use futures::future::join_all;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn voters_come_and_go_under_load() {
    scenario("voters_come_and_go_under_load", async |test| {
        let orders = test.cluster("orders", 1).await?;
        let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
        for voters in [3, 5, 3] {
            orders.scale(voters).await?;
            orders.await_ready().await?;
            test.say(format_args!("{voters} voters"));
            assert_voters(&orders, voters as usize).await?;
        }
        test.unnoticed("1 to 3 to 5 to 3 voters", &ledger.finish().await?)
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn kept_volumes_are_told_until_they_are_used() {
    scenario("kept_volumes_are_told_until_they_are_used", async |test| {
        let orders = test.named("orders");
        let kept = json!({"size": "1Gi", "onScaleDown": "Retain"});
        orders.apply(&Manifest::new("orders", 5).with("storage", kept)).await?;
        orders.await_ready().await?;
        await_orphans(&orders, &[]).await?;
        orders.scale(3).await?;
        orders.await_ready().await?;
        await_orphans(&orders, &["data-orders-3", "data-orders-4"]).await?;
        let claims = orders.claims().await?.len();
        ensure!(claims == 5, "{claims} claims are left of five");
        orders.scale(5).await?;
        orders.await_ready().await?;
        await_orphans(&orders, &[]).await?;
        assert_voters(&orders, 5).await
    });
}

/// Waits until exactly these volumes are told as left by removed members.
async fn await_orphans(orders: &Cluster, wanted: &[&str]) -> Result<()> {
    eventually(&format!("volumes that are left: {wanted:?}"), Duration::from_secs(20), async || {
        let told = orders.object().await?.data["status"]["orphanedVolumes"].clone();
        let told: Vec<String> = if told.is_null() { Vec::new() } else { serde_json::from_value(told)? };
        ensure!(told == wanted, "told are {told:?}");
        Ok(Some(()))
    })
    .await
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_operator_goes_in_the_middle_of_a_scale() {
    scenario("the_operator_goes_in_the_middle_of_a_scale", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
        orders.scale(5).await?;
        eventually("the fourth pod", Duration::from_secs(20), async || {
            Ok((orders.pods().await?.len() > 3).then_some(()))
        })
        .await?;
        test.delete_operator_pods().await?;
        orders.await_ready().await?;
        test.say("5 voters all the same");
        assert_voters(&orders, 5).await?;
        test.unnoticed("operator deleted while scaling", &ledger.finish().await?)?;
        test.await_operator().await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_storm_of_evictions_leaves_a_quorum() {
    scenario("a_storm_of_evictions_leaves_a_quorum", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
        // Each of them costs the time in which a member starts and catches up.
        let evictions = if proving() { 10 } else { 2 };
        for _ in 0..rounds_or(1, 5)? {
            for voters in [5, 3] {
                orders.scale(voters).await?;
                storm(&orders, evictions).await?;
                test.say(format_args!("{evictions} evictions on the way to {voters} voters"));
                orders.await_ready().await?;
                assert_voters(&orders, voters as usize).await?;
            }
        }
        test.unharmed("all pods evicted at once, again and again, while scaling", &ledger.finish().await?)?;
        orders.assert_same_content(SAME).await
    });
}

/// Has all pods leave at once, again and again, until so many were let go: as many as the budget allows, one by one.
async fn storm(orders: &Cluster, evictions: usize) -> Result<()> {
    // By uid: one that is on its way out is let go once more each time.
    let mut evicted = BTreeSet::new();
    eventually(&format!("{evictions} evictions"), Duration::from_secs(180), async || {
        let pods = orders.pod_uids().await?;
        let answers = join_all(pods.keys().map(|pod| orders.try_to_evict(pod))).await;
        for (uid, let_go) in pods.into_values().zip(answers) {
            if let_go? {
                evicted.insert(uid);
            }
        }
        Ok((evicted.len() >= evictions).then_some(()))
    })
    .await
}

/// The leader's membership has so many voters, no learners, and there are as many pods and claims.
pub async fn assert_voters(cluster: &Cluster, voters: usize) -> Result<()> {
    let leader = cluster.report(&cluster.await_leader().await?).await?;
    let members = &leader.membership.members;
    ensure!(members.len() == voters && members.iter().all(|m| m.voter), "not {voters} voters: {members:?}");
    let (pods, claims) = (cluster.pods().await?.len(), cluster.claims().await?.len());
    ensure!((pods, claims) == (voters, voters), "{pods} pods and {claims} claims for {voters} voters");
    Ok(())
}
