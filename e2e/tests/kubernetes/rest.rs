//! Clusters that sleep, members that are kept from traffic, volumes that grow or are none, and how soon things go.

use crate::require_sized_volumes;
use anyhow::{Context, Result, ensure};
use e2e::database::Level;
use e2e::ledger::Pace;
use e2e::{Manifest, Scenario, eventually, scenario};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_hibernated_cluster_wakes_with_its_data() {
    scenario("a_hibernated_cluster_wakes_with_its_data", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let database = orders.service("rw").await?;
        database.write("CREATE TABLE t (x INTEGER)").await?;
        database.write("INSERT INTO t VALUES (4711)").await?;
        let claims = orders.claims().await?;

        orders.set(json!({"hibernated": true})).await?;
        orders.await_reason("Ready", "Hibernated").await?;
        let ready = orders.await_condition("Ready", "True").await?;
        test.say(&ready.message);
        ensure!(orders.pods().await?.is_empty(), "pods are left");
        ensure!(orders.claims().await? == claims, "claims changed");
        let orphans = &orders.object().await?.data["status"]["orphanedVolumes"];
        ensure!(
            orphans.as_array().is_none_or(Vec::is_empty),
            "it wakes with what is told as left: {orphans}"
        );

        let begin = Instant::now();
        orders.set(json!({"hibernated": false})).await?;
        orders.await_reason("Ready", "Serving").await?;
        let database = orders.service("rw").await?;
        database.write("INSERT INTO t VALUES (4712)").await?;
        test.measured_at_most("hibernated to writing", begin.elapsed(), Duration::from_secs(15))?;
        ensure!(begin.elapsed() <= Duration::from_secs(20), "it took {:?}", begin.elapsed());
        let count = database.read_number("SELECT count(*) FROM t", Level::Linearizable).await?;
        ensure!(count == 2, "{count} rows");
        orders.await_ready().await?;
        ensure!(orders.claims().await? == claims, "claims changed");
        Ok(())
    });
}

/// Waits until the garbage collector of Kubernetes knows the kind SqliteCluster, by what it does with an object whose owner
/// is not there. It asks only each half minute which kinds there are, and until then nothing goes with its owner.
async fn await_collector(test: &Scenario) -> Result<()> {
    let owned: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "orphan", "ownerReferences": [{
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster", "name": "nobody",
            "uid": "00000000-0000-4000-8000-000000000000",
        }]},
    }))?;
    let maps: Api<ConfigMap> = Api::namespaced(test.kubernetes.client.clone(), &test.namespace);
    maps.create(&PostParams::default(), &owned).await?;
    eventually("what has no owner is collected", Duration::from_secs(60), async || {
        Ok(maps.get_opt("orphan").await?.is_none().then_some(()))
    })
    .await
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_deleted_cluster_is_soon_gone() {
    scenario("a_deleted_cluster_is_soon_gone", async |test| {
        let orders = test.named("orders");
        let storage = json!({"size": "1Gi", "onDelete": "Delete"});
        orders.apply(&Manifest::new("orders", 3).with("storage", storage)).await?;
        orders.await_ready().await?;
        ensure!(orders.claims().await?.len() == 3, "there are other claims than of three");
        await_collector(test).await?;
        let begin = Instant::now();
        orders.delete().await?;
        test.measured("delete to gone", begin.elapsed())?;
        ensure!(begin.elapsed() <= Duration::from_secs(10), "it took {:?}", begin.elapsed());
        eventually("the volumes are gone, as was asked for", Duration::from_secs(30), async || {
            Ok(orders.claims().await?.is_empty().then_some(()))
        })
        .await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_fenced_leader_leads_no_longer() {
    scenario("a_fenced_leader_leads_no_longer", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let ledger = orders.start_writing(Pace::default()).await?;
        let leader = orders.await_leader().await?;
        orders.set(json!({"fencing": [{"member": leader, "reason": "a test"}]})).await?;
        let serves = async |pod: &str| -> Result<bool> {
            let pods = orders.pods().await?;
            let found = pods.iter().find(|found| found.name_any() == pod);
            let label = found.and_then(|pod| pod.labels().get("sqlite-operator.io/serving").cloned());
            Ok(label.as_deref() == Some("true"))
        };
        eventually(
            "another one leads, and the fenced one is out of service",
            Duration::from_secs(15),
            async || {
                let fenced = orders.await_leader().await? != leader && !serves(&leader).await?;
                Ok(fenced.then_some(()))
            },
        )
        .await?;
        test.say(format_args!("{leader} is fenced"));
        orders.set(json!({"fencing": []})).await?;
        eventually("it is back in service", Duration::from_secs(15), async || {
            Ok(serves(&leader).await?.then_some(()))
        })
        .await?;
        let report = ledger.finish().await?;
        test.reported("leader fenced", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_member_in_memory_comes_back_as_a_new_one() {
    scenario("a_member_in_memory_comes_back_as_a_new_one", async |test| {
        let orders = test.named("orders");
        let storage = json!({"size": "256Mi", "medium": "Memory"});
        orders.apply(&Manifest::new("orders", 3).with("storage", storage)).await?;
        orders.await_ready().await?;
        ensure!(orders.claims().await?.is_empty(), "there are claims");
        let follower = orders.follower().await?;
        let id = orders.report(&follower).await?.node_id;
        let ledger = orders.start_writing(Pace::default()).await?;
        orders.delete_pod(&follower).await?;
        eventually("it votes again under another id", Duration::from_secs(30), async || {
            let leader = orders.report(&orders.await_leader().await?).await?;
            let ours = leader.membership.members.into_iter().find(|member| member.name == follower);
            Ok(ours.filter(|member| member.voter && member.node_id != id).map(drop))
        })
        .await?;
        let report = ledger.finish().await?;
        test.reported("member in memory deleted", &report)?;
        report.nothing_lost()?;
        orders.await_ready().await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn volumes_grow_while_a_pod_is_down() {
    scenario("volumes_grow_while_a_pod_is_down", async |test| {
        require_sized_volumes(test).await?;
        let orders = test.named("orders");
        let storage = |size: &str| json!({"size": size, "storageClassName": "sized"});
        orders.apply(&Manifest::new("orders", 3).with("storage", storage("320Mi"))).await?;
        orders.await_ready().await?;
        let ledger = orders.start_writing(Pace::default()).await?;
        let follower = orders.follower().await?;
        orders.delete_pod(&follower).await?;
        let begin = Instant::now();
        orders.set(json!({"storage": {"size": "400Mi"}})).await?;
        eventually("every volume has grown", Duration::from_secs(40), async || {
            let object = orders.object().await?;
            Ok((object.data["status"]["storage"]["allocated"] == "400Mi").then_some(()))
        })
        .await?;
        test.measured("volumes grown", begin.elapsed())?;
        orders.await_condition("StorageHealthy", "True").await?;
        orders.await_ready().await?;
        let report = ledger.finish().await?;
        test.reported("volumes grown", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))?;
        // Two files of the log, and what the file system needs for itself; XFS gives a file that grows as much again.
        for report in orders.reports().await? {
            let usage = report.storage.with_context(|| format!("{} tells no usage", report.name))?;
            let used = usage.capacity_bytes - usage.available_bytes;
            ensure!(used <= 200 << 20, "{} takes {used} bytes", report.name);
        }
        Ok(())
    });
}
