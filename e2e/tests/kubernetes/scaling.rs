//! The number of voters changes under load.

use crate::failures::SAME;
use crate::rounds;
use anyhow::{Result, ensure};
use e2e::ledger::Pace;
use e2e::{Cluster, eventually, scenario};
use futures::future::join_all;
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
        for _ in 0..rounds()? {
            for voters in [5, 3] {
                orders.scale(voters).await?;
                let evicted = storm(&orders).await?;
                test.say(format_args!("{evicted} evictions on the way to {voters} voters"));
                orders.await_ready().await?;
                assert_voters(&orders, voters as usize).await?;
            }
        }
        test.unharmed("all pods evicted at once, again and again, while scaling", &ledger.finish().await?)?;
        orders.assert_same_content(SAME).await
    });
}

/// Has all pods leave at once, again and again, until none is left of those that there were; how many were let go.
async fn storm(orders: &Cluster) -> Result<usize> {
    let before = orders.pod_uids().await?;
    let mut evicted = 0;
    eventually("every pod has left", Duration::from_secs(120), async || {
        let now = orders.pod_uids().await?;
        let left = now.iter().filter(|(name, uid)| before.get(*name) == Some(uid)).count();
        if left == 0 {
            return Ok(Some(()));
        }
        for let_go in join_all(now.keys().map(|pod| orders.try_to_evict(pod))).await {
            evicted += usize::from(let_go?);
        }
        Ok(None)
    })
    .await?;
    Ok(evicted)
}

/// The leader's membership has so many voters, no learners, and there are as many pods and claims.
async fn assert_voters(cluster: &Cluster, voters: usize) -> Result<()> {
    let leader = cluster.report(&cluster.await_leader().await?).await?;
    let members = &leader.membership.members;
    ensure!(members.len() == voters && members.iter().all(|m| m.voter), "not {voters} voters: {members:?}");
    let (pods, claims) = (cluster.pods().await?.len(), cluster.claims().await?.len());
    ensure!((pods, claims) == (voters, voters), "{pods} pods and {claims} claims for {voters} voters");
    Ok(())
}
