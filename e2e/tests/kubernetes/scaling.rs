//! The number of voters changes under load.

use anyhow::{Result, ensure};
use e2e::ledger::Pace;
use e2e::{Cluster, scenario};
use std::time::Duration;

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn voters_come_and_go_under_load() {
    scenario("voters_come_and_go_under_load", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let ledger = orders.start_writing(Pace::default()).await?;
        for voters in [5, 3] {
            orders.scale(voters).await?;
            orders.await_ready().await?;
            test.say(format_args!("{voters} voters"));
            assert_voters(&orders, voters as usize).await?;
        }
        let report = ledger.finish().await?;
        test.reported("3 to 5 to 3 voters", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_operator_goes_in_the_middle_of_a_scale() {
    scenario("the_operator_goes_in_the_middle_of_a_scale", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let ledger = orders.start_writing(Pace::default()).await?;
        orders.scale(5).await?;
        e2e::eventually("the fourth pod", Duration::from_secs(20), async || {
            Ok((orders.pods().await?.len() > 3).then_some(()))
        })
        .await?;
        test.delete_operator_pods().await?;
        orders.await_ready().await?;
        test.say("5 voters all the same");
        assert_voters(&orders, 5).await?;
        let report = ledger.finish().await?;
        test.reported("operator deleted while scaling", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))?;
        test.await_operator().await
    });
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
