//! What members send of their own accord: changes of rows, numbers and traces.

use crate::updates::{self, await_new_pods};
use anyhow::{Context, ensure};
use e2e::ledger::Pace;
use e2e::{eventually, scenario};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn changes_and_numbers_are_sent_once_it_is_asked_for() {
    scenario("changes_and_numbers_are_sent_once_it_is_asked_for", async |test| {
        let orders = updates::cluster(test, json!({})).await?;
        let rw = orders.service("rw").await?;
        rw.write("CREATE TABLE lamps (name TEXT)").await?;
        rw.write("CREATE TABLE shades (name TEXT)").await?;

        let ledger = orders.start_writing(Pace::default()).await?;
        let before = orders.pod_uids().await?;
        let changes = json!({"endpoint": "stdout", "tableFilter": "^lamps$", "serviceId": "$(shop)"});
        let collector = json!({"endpoint": "http://nobody.invalid:4317", "intervalSeconds": 1});
        let spec = json!({"database": {"changeCapture": changes}, "observability": {"otlp": collector}});
        orders.set(spec).await?;
        await_new_pods(&orders, &before).await?;
        orders.await_ready().await?;
        ledger.finish().await?.nothing_lost()?;

        rw.write("INSERT INTO shades VALUES ('green')").await?;
        rw.write("INSERT INTO lamps VALUES ('floor')").await?;
        let pods = Api::<Pod>::namespaced(test.kubernetes.client.clone(), &test.namespace);
        let sent = eventually("the leader sends the change", SOON, async || {
            let log = pods.logs(&orders.await_leader().await?, &LogParams::default()).await?;
            Ok(log.lines().find(|line| line.contains("\"payload\"")).map(str::to_owned))
        })
        .await?;
        let sent: Value = serde_json::from_str(&sent).with_context(|| sent.clone())?;
        ensure!(sent["service_id"] == "$(shop)", "{sent}");
        ensure!(sent["payload"][0]["events"][0]["after"] == json!({"name": "floor"}), "{sent}");

        let leader = orders.member(&orders.await_leader().await?).await?;
        eventually("a push to the collector is tried", SOON, async || {
            let status: Value = leader.document("/status").await?;
            let said = status["otlp_metrics"].to_string();
            Ok(said.contains("nobody.invalid").then_some(()))
        })
        .await
    });
}
