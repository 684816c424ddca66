//! More is lost than a majority can bear: the operator says what, and waits for a word.

use crate::failures::SAME;
use anyhow::{Context, Result, ensure};
use client::admin::NodeId;
use e2e::ledger::Pace;
use e2e::{Cluster, Scenario, eventually, scenario};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Looks of the operator at a cluster whose quorum is lost, after which it still has done nothing.
const LOOKS: u32 = 10;

/// What nobody may touch before there is a consent.
#[derive(Debug, PartialEq, Eq)]
struct Untouched {
    pods: BTreeMap<String, String>,
    claims: BTreeMap<String, String>,
    /// Node ids and votes, as the survivor knows them.
    members: Vec<(String, NodeId, bool)>,
    epoch: u64,
}

async fn untouched(orders: &Cluster, survivor: &str) -> Result<Untouched> {
    let report = orders.report(survivor).await?;
    let members = report.membership.members.into_iter();
    Ok(Untouched {
        pods: orders.pod_uids().await?,
        claims: orders.claims().await?,
        members: members.map(|member| (member.name, member.node_id, member.voter)).collect(),
        epoch: report.epoch,
    })
}

/// Waits until Kubernetes has made new pods in the place of those that went: it is not the operator that does so.
async fn await_replaced(orders: &Cluster, before: &BTreeMap<String, String>, survivor: &str) -> Result<()> {
    eventually("Kubernetes has made new pods", Duration::from_secs(30), async || {
        let pods = orders.pods().await?;
        let is_new = |pod: &Pod| {
            let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            let other = before.get(&pod.name_any()) != pod.uid().as_ref();
            runs && pod.metadata.deletion_timestamp.is_none() && (other || pod.name_any() == survivor)
        };
        Ok((pods.len() == before.len() && pods.iter().all(is_new)).then_some(()))
    })
    .await
}

/// The operator looks again and again, and keeps its hands off.
async fn assert_hands_off(test: &Scenario, orders: &Cluster, survivor: &str) -> Result<()> {
    let before = untouched(orders, survivor).await?;
    for look in 0..LOOKS {
        test.await_reconcile_after(async || orders.annotate("e2e/look", &look.to_string()).await).await?;
        let ready = orders.condition("Ready").await?.context("no condition Ready")?;
        ensure!(ready.reason == "QuorumLost", "{ready:?}");
    }
    let after = untouched(orders, survivor).await?;
    ensure!(before == after, "it did something without consent: {before:?} became {after:?}");
    test.say(format_args!("the operator has looked {LOOKS} times and done nothing"));
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn two_of_three_volumes_are_lost() {
    scenario("two_of_three_volumes_are_lost", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
        let before = orders.pod_uids().await?;
        let survivor = orders.await_leader().await?;
        let lost: BTreeSet<_> = before.keys().filter(|name| **name != survivor).cloned().collect();
        for pod in &lost {
            orders.delete_volume(pod).await?;
        }
        test.say(format_args!("only {survivor} has its volume"));
        let ready = orders.await_reason("Ready", "QuorumLost").await?;
        test.say(&ready.message);
        for pod in &lost {
            let named = ready.message.contains(pod.as_str());
            ensure!(named, "{pod}, which is lost, is not named: {}", ready.message);
        }
        await_replaced(&orders, &before, &survivor).await?;
        let point = eventually("the survivor's offer", Duration::from_secs(20), async || {
            let object = orders.object().await?;
            let point = object.data["status"]["quorum"]["lossPoints"][0].clone();
            Ok(point.is_object().then_some(point))
        })
        .await?;
        ensure!(point["survivor"] == survivor.as_str(), "{point}");
        assert_hands_off(test, &orders, &survivor).await?;
        // Nothing could be acknowledged since, so what was is up to the point.
        ensure!(point == loss_point(&orders).await?, "the point has moved");

        orders.set(json!({"recovery": {"quorumLoss": {"consent": point}}})).await?;
        orders.await_ready().await?;
        test.say("three voters again");
        ledger.await_acknowledged(100, Duration::from_secs(10)).await?;
        let report = ledger.finish().await?;
        test.reported("two of three volumes lost, until consent", &report)?;
        report.nothing_lost()?;
        let epochs: Vec<_> = orders.reports().await?.iter().map(|report| report.epoch).collect();
        ensure!(epochs == [2, 2, 2], "epochs {epochs:?}");
        orders.assert_same_content(SAME).await
    });
}

async fn loss_point(orders: &Cluster) -> Result<Value> {
    Ok(orders.object().await?.data["status"]["quorum"]["lossPoints"][0].clone())
}
