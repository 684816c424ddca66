//! Extensions of SQLite that the image of the members carries, and that a SqliteCluster names.

use crate::extension::Extension;
use crate::updates;
use anyhow::{Result, ensure};
use e2e::database::Level;
use e2e::ledger::Pace;
use e2e::{Cluster, Scenario, eventually, images, scenario};
use serde_json::json;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const FIRST: &str = "/extensions/1/twice.so";
const SECOND: &str = "/extensions/2/twice.so";

/// An image of members with both in it, made once.
fn image() -> Result<&'static str> {
    static IMAGE: OnceLock<String> = OnceLock::new();
    if let Some(image) = IMAGE.get() {
        return Ok(image);
    }
    let run = uuid::Uuid::new_v4().simple().to_string();
    let directory = std::env::temp_dir().join(format!("extensions-{run}"));
    Extension::SOUND.build(&directory.join("1"), "twice.so");
    Extension { times: 3, ..Extension::SOUND }.build(&directory.join("2"), "twice.so");
    let image = images::make(&format!("extensions-{}", &run[..12]), Some(&directory));
    std::fs::remove_dir_all(&directory)?;
    let image = image?;
    Ok(IMAGE.get_or_init(|| image))
}

/// A cluster of three with that image, and with these extensions.
async fn cluster(test: &Scenario, image: &str, extensions: &[&str]) -> Result<Cluster> {
    updates::cluster(test, json!({"image": image, "database": {"extensions": extensions}})).await
}

/// Waits until the state has the extension whose `twice(1)` is this.
async fn await_factor(orders: &Cluster, factor: i64) -> Result<()> {
    let database = orders.service("rw").await?;
    eventually(&format!("twice(1) is {factor}"), Duration::from_secs(40), async || {
        let is = database.read_number("SELECT twice(1)", Level::Linearizable).await?;
        Ok((is == factor).then_some(()))
    })
    .await
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn extensions_come_to_a_running_cluster() {
    let image = image();
    scenario("extensions_come_to_a_running_cluster", async |test| {
        let orders = cluster(test, image?, &[]).await?;
        let database = orders.service("rw").await?;
        ensure!(database.read_number("SELECT twice(1)", Level::None).await.is_err(), "twice is there");
        let ledger = orders.start_writing(Pace::default()).await?;
        let begin = Instant::now();
        orders.set(json!({"database": {"extensions": [FIRST]}})).await?;
        await_factor(&orders, 2).await?;
        test.measured("extensions asked for to there", begin.elapsed())?;
        database.write("CREATE TABLE t (x INTEGER, y AS (twice(x)) STORED)").await?;
        database.write("INSERT INTO t (x) VALUES (twice(21))").await?;
        let report = ledger.finish().await?;
        test.reported("extensions turned on", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))?;
        orders.assert_same_content("SELECT x, y FROM t").await?;
        let y = database.read_number("SELECT y FROM t", Level::Linearizable).await?;
        ensure!(y == 84, "y is {y}");
        orders.await_ready().await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn an_extension_that_is_not_there_changes_nothing() {
    let image = image();
    scenario("an_extension_that_is_not_there_changes_nothing", async |test| {
        let orders = cluster(test, image?, &[FIRST]).await?;
        await_factor(&orders, 2).await?;
        let ledger = orders.start_writing(Pace::default()).await?;
        orders.set(json!({"database": {"extensions": ["/extensions/3/twice.so"]}})).await?;
        let stalled = orders.await_reason("Stalled", "CanaryFailed").await?;
        test.say(&stalled.message);
        ensure!(
            stalled.message.contains("/extensions/3/twice.so"),
            "it does not say why: {}",
            stalled.message
        );
        await_factor(&orders, 2).await?;
        orders.set(json!({"database": {"extensions": [FIRST]}})).await?;
        orders.await_no("Stalled").await?;
        let report = ledger.finish().await?;
        test.reported("an extension that is missing", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn another_version_of_an_extension_takes_the_place_of_the_first() {
    let image = image();
    scenario("another_version_of_an_extension", async |test| {
        let orders = cluster(test, image?, &[FIRST]).await?;
        await_factor(&orders, 2).await?;
        let ledger = orders.start_writing(Pace::default()).await?;
        // With the first one for who comes with an empty disk meanwhile.
        orders.set(json!({"database": {"extensions": [SECOND], "formerExtensions": [FIRST]}})).await?;
        await_factor(&orders, 3).await?;
        let report = ledger.finish().await?;
        test.reported("another version of an extension", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))
    });
}
