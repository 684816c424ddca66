//! Clusters beside each other, and one that nobody can make.

use anyhow::{Context, Result, bail, ensure};
use e2e::database::Level;
use e2e::ledger::Pace;
use e2e::{Manifest, scenario};
use serde_json::json;
use std::time::Duration;

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn two_clusters_share_a_namespace() {
    scenario("two_clusters_share_a_namespace", async |test| {
        let (orders, stock) = tokio::try_join!(test.cluster("orders", 3), test.cluster("stock", 3))?;
        for cluster in [&orders, &stock] {
            let database = cluster.service("rw").await?;
            database.write("CREATE TABLE t (owner TEXT)").await?;
            database.write(&format!("INSERT INTO t VALUES ('{}')", cluster.name)).await?;
        }
        for cluster in [&orders, &stock] {
            let rows = cluster.service("any").await?.read("SELECT owner FROM t", Level::Linearizable).await?;
            ensure!(rows == [[json!(cluster.name)]], "{} reads {rows:?}", cluster.name);
        }
        orders.delete().await?;
        test.say("orders is deleted");
        stock.service("rw").await?.write("INSERT INTO t VALUES ('still here')").await?;
        stock.await_ready().await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn an_invalid_cluster_is_told_so_and_disturbs_nobody() {
    scenario("an_invalid_cluster_is_told_so_and_disturbs_nobody", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let ledger = orders.start_writing(Pace::default()).await?;

        // What a schema can see is refused at once.
        let refusals = [
            (Manifest::new("even", 2), "odd"),
            (Manifest::new("many", 9), "7"),
            (Manifest::new("tiny", 3).with("storage", json!({"size": "-1Gi"})), "size"),
            (Manifest::new("orders-rw", 3), "name"),
        ];
        for (manifest, word) in refusals {
            let message = refusal(&test.named("refused"), &manifest).await?;
            test.say(&message);
            ensure!(message.contains(word), "the message does not speak of `{word}`: {message}");
        }
        let ready = orders.await_ready().await;
        ledger.await_acknowledged(100, Duration::from_secs(10)).await?;
        let report = ledger.finish().await?;
        test.reported("invalid neighbours", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(1))?;
        ready
    });
}

/// What the API server says against a manifest.
async fn refusal(like: &e2e::Cluster, manifest: &Manifest) -> Result<String> {
    match like.apply(manifest).await {
        Ok(()) => bail!("accepted: {manifest:?}"),
        Err(kube::Error::Api(status)) => Ok(status.message),
        Err(other) => Err(other).context("not an answer of the API server"),
    }
}
