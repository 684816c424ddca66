//! Pods get another template while a ledger is kept.

use crate::rounds_or;
use anyhow::{Context, Result, ensure};
use e2e::ledger::Pace;
use e2e::{Cluster, Manifest, Scenario, eventually, images, proving, scenario};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub const RESTARTED: &str = "sqlite-operator.io/restartedAt";
const APPROVED: &str = "sqlite-operator.io/approvedRevision";

/// A cluster of three whose canary is watched for a second, with more in its spec.
pub async fn cluster(test: &Scenario, more: serde_json::Value) -> Result<Cluster> {
    let orders = test.named("orders");
    let mut manifest = Manifest::new("orders", 3).with("update", json!({"canary": {"soakSeconds": 1}}));
    for (field, value) in more.as_object().into_iter().flatten() {
        manifest = manifest.with(field, value.clone());
    }
    orders.apply(&manifest).await?;
    orders.await_ready().await?;
    test.say("orders is ready");
    Ok(orders)
}

/// Waits until each of the pods is another one.
pub async fn await_new_pods(orders: &Cluster, before: &BTreeMap<String, String>) -> Result<()> {
    eventually("every pod is a new one", Duration::from_secs(45), async || {
        let now = orders.pod_uids().await?;
        let renewed =
            now.len() == before.len() && now.iter().all(|(name, uid)| before.get(name) != Some(uid));
        Ok(renewed.then_some(()))
    })
    .await
}

/// A tag of the minor version after this one: the version of an image is the one that its tag says.
fn next_tag() -> Result<String> {
    let run = uuid::Uuid::new_v4().simple().to_string();
    let mut numbers = env!("CARGO_PKG_VERSION").split('.').map(str::parse::<u64>);
    let (major, minor) = (numbers.next().context("no version")??, numbers.next().context("no version")??);
    Ok(format!("{major}.{}.0-{}", minor + 1, &run[..12]))
}

/// An image that cannot follow what runs is refused before anybody is restarted for it.
async fn refuse_a_jump(orders: &Cluster, image: &str) -> Result<()> {
    let before = orders.pod_uids().await?;
    let (repository, _) = image.rsplit_once(':').context("an image without a tag")?;
    orders.set(json!({"image": format!("{repository}:99.9.9")})).await?;
    let stalled = orders.await_reason("Stalled", "VersionSkew").await?;
    ensure!(stalled.message.contains("99.9.9"), "{}", stalled.message);
    ensure!(orders.pod_uids().await? == before, "somebody was restarted");
    Ok(())
}

/// The pods of `before` were made anew one after the other, the one that `led` last, and those who read events were told.
async fn assert_leader_last(orders: &Cluster, before: &[(String, String)], led: &str) -> Result<()> {
    let mut pods = orders.pods().await?;
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0));
    let order: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
    ensure!(order.last().map(String::as_str) == Some(led), "{led} led, and they were restarted as {order:?}");
    let told = orders.events().await?;
    let mut wanted = Vec::new();
    for pod in &order {
        if pod == led {
            wanted.push(("LeadershipTransferred", format!("leadership asked from {led} to ")));
        }
        wanted.push(("MemberRestarted", format!("pod {pod} is made anew: ")));
    }
    let kinds: Vec<&str> = wanted.iter().map(|(reason, _)| *reason).collect();
    let of_rollout = told
        .iter()
        .filter(|event| !before.contains(event) && kinds.contains(&event.0.as_str()))
        .collect::<Vec<_>>();
    let as_wanted = of_rollout.len() == wanted.len()
        && of_rollout
            .iter()
            .zip(&wanted)
            .all(|((reason, note), (kind, begins))| reason == kind && note.starts_with(begins));
    ensure!(as_wanted, "{wanted:?} were to be told, and {of_rollout:?} are");
    let first = order.first().context("no pods")?;
    let passed = ("CanaryPassed".to_owned(), format!("{first} proved the new template"));
    ensure!(told.contains(&passed), "nobody says that {first} proved itself: {told:?}");
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn another_image_is_rolled_out_and_nothing_is_lost() {
    let image = next_tag().and_then(|tag| images::make(&tag, None));
    scenario("another_image_is_rolled_out_and_nothing_is_lost", async |test| {
        let image = image?;
        let orders = cluster(test, json!({})).await?;
        let (before, led) = (orders.pod_uids().await?, orders.await_leader().await?);
        let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
        refuse_a_jump(&orders, &image).await?;
        test.say("a jump is refused");
        let told = orders.events().await?;
        let begin = Instant::now();
        orders.set(json!({"image": image})).await?;
        await_new_pods(&orders, &before).await?;
        orders.await_ready().await?;
        test.measured_at_most("three voters updated", begin.elapsed(), Duration::from_secs(90))?;
        test.unnoticed("update to another image", &ledger.finish().await?)?;
        for pod in orders.pods().await? {
            let runs = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.as_deref());
            ensure!(runs == Some(&image), "{} runs {runs:?}", pod.name_any());
        }
        eventually("it is told as what all of them run", Duration::from_secs(10), async || {
            let object = orders.object().await?;
            Ok((object.data["status"]["version"]["stable"] == image.as_str()).then_some(()))
        })
        .await?;
        assert_leader_last(&orders, &told, &led).await
    });
}

/// The way is that of another image, at which `make test` looks; a proof looks at both.
#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_rolling_restart_loses_nothing() {
    if !proving() {
        return;
    }
    scenario("a_rolling_restart_loses_nothing", async |test| {
        let orders = cluster(test, json!({})).await?;
        for round in 0..rounds_or(1, 5)? {
            let before = orders.pod_uids().await?;
            let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
            let begin = Instant::now();
            orders.annotate(RESTARTED, &format!("round {round}")).await?;
            await_new_pods(&orders, &before).await?;
            orders.await_ready().await?;
            test.measured_at_most("three voters restarted", begin.elapsed(), Duration::from_secs(90))?;
            test.unnoticed("rolling restart", &ledger.finish().await?)?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_broken_image_is_taken_back_by_itself() {
    scenario("a_broken_image_is_taken_back_by_itself", async |test| {
        let orders = cluster(test, json!({})).await?;
        let before = orders.pod_uids().await?;
        let ledger = orders.start_writing(Pace::default()).await?;
        orders.set(json!({"image": "example.invalid/sqlited:main"})).await?;
        let stalled = orders.await_reason("Stalled", "CanaryFailed").await?;
        test.say(&stalled.message);
        eventually("the canary is back", Duration::from_secs(20), async || {
            let ready = orders.object().await?.data["status"]["readyVoters"].as_u64();
            Ok((ready == Some(3)).then_some(()))
        })
        .await?;
        let kept = orders.pod_uids().await?.into_iter().filter(|(name, uid)| before.get(name) == Some(uid));
        ensure!(kept.count() == 2, "more than the canary was restarted");
        orders.set(json!({"image": null})).await?;
        orders.await_no("Stalled").await?;
        orders.await_ready().await?;
        let report = ledger.finish().await?;
        test.reported("broken image", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_supervised_update_waits_for_a_word() {
    scenario("a_supervised_update_waits_for_a_word", async |test| {
        let update = json!({"strategy": "Supervised", "canary": {"soakSeconds": 0}});
        let orders = cluster(test, json!({"voters": 1, "update": update})).await?;
        let before = orders.pod_uids().await?;
        orders.set(json!({"observability": {"logLevel": "debug"}})).await?;
        let pending = orders.await_reason("UpdatePending", "WaitingForApproval").await?;
        test.say(&pending.message);
        ensure!(orders.pod_uids().await? == before, "it did not wait");
        let revision = orders.object().await?.data["status"]["rollout"]["revision"].clone();
        orders.annotate(APPROVED, revision.as_str().unwrap_or_default()).await?;
        orders.await_no("UpdatePending").await?;
        orders.await_ready().await?;
        ensure!(orders.pod_uids().await? != before, "it waits still");

        // Who restarts by hand has said the word, where nobody supervises.
        let before = orders.pod_uids().await?;
        orders.set(json!({"update": {"strategy": "Automatic"}})).await?;
        orders.annotate(RESTARTED, "by hand").await?;
        await_new_pods(&orders, &before).await?;
        orders.await_ready().await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn resources_and_labels_change_without_a_restart() {
    scenario("resources_and_labels_change_without_a_restart", async |test| {
        let with = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "32Mi"}});
        let orders = cluster(test, json!({"resources": with("10m")})).await?;
        let before = orders.pod_uids().await?;
        orders
            .set(json!({"resources": with("20m"), "podTemplate": {"metadata": {"labels": {"team": "a"}}}}))
            .await?;
        eventually("every pod has both", Duration::from_secs(30), async || {
            Ok(orders.pods().await?.iter().all(has_both).then_some(()))
        })
        .await?;
        orders.await_ready().await?;
        ensure!(orders.pod_uids().await? == before, "pods were restarted");
        Ok(())
    });
}

fn has_both(pod: &Pod) -> bool {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let requests = container.and_then(|container| container.resources.as_ref()?.requests.as_ref());
    let cpu = requests.and_then(|requests| requests.get("cpu")).is_some_and(|cpu| cpu.0 == "20m");
    cpu && pod.labels().get("team").is_some_and(|team| team == "a")
}
