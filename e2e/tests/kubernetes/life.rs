//! A cluster is created, used, deleted and created again.

use crate::rounds;
use anyhow::{Context, Result, ensure};
use e2e::database::Level;
use e2e::ledger::Pace;
use e2e::{Cluster, Manifest, Scenario, eventually, proving, scenario};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Annotation that has the chart's policy refuse the deletion of a cluster.
pub const PROTECTION: &str = "sqlite-operator.io/deletionProtection";

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_created_cluster_is_soon_ready() {
    scenario("a_created_cluster_is_soon_ready", async |test| {
        for round in 0..rounds()? {
            let begin = Instant::now();
            let orders = test.create(&format!("orders-{round}"), 3).await?;
            orders.await_ready().await?;
            let took = begin.elapsed();
            test.measured_at_most("create to Ready", took, Duration::from_secs(12))?;
            ensure!(took <= Duration::from_secs(20), "create to Ready took {took:?}");

            orders.service("rw").await?.write("CREATE TABLE t (x INTEGER)").await?;
            let tolerant = orders.await_condition("FaultTolerant", "True").await?;
            test.say(format_args!("fault tolerant: {}", tolerant.message));
            assert_columns(test, &orders).await?;
            orders.delete().await?;
        }
        Ok(())
    });
}

/// What `kubectl get` says of a cluster that serves and has no backups.
async fn assert_columns(test: &Scenario, orders: &Cluster) -> Result<()> {
    let leader = orders.await_leader().await?;
    let version = orders.report(&leader).await?.version;
    let cells = eventually("kubectl get tells who leads", Duration::from_secs(10), async || {
        let mut kubectl = tokio::process::Command::new("kubectl");
        kubectl.args(["--namespace", &test.namespace, "get", "sqliteclusters", &orders.name]);
        let output = kubectl.output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let cells = cells(&String::from_utf8(output.stdout)?)?;
        Ok(cells.contains(&("LEADER".to_owned(), leader.clone())).then_some(cells))
    })
    .await?;
    let expected: [(&str, &str); 7] = [
        ("NAME", orders.name.as_str()),
        ("VOTERS", "3/3"),
        ("LEADER", &leader),
        ("READY", "True"),
        ("STATUS", "Serving"),
        ("VERSION", &version),
        ("LAST-BACKUP", ""),
    ];
    let (age, told) = cells.split_last().context("no columns")?;
    let told: Vec<_> = told.iter().map(|(column, cell)| (column.as_str(), cell.as_str())).collect();
    ensure!(told == expected, "told is {told:?}");
    ensure!(age.0 == "AGE" && age.1.ends_with(['s', 'm']), "{age:?}");
    Ok(())
}

/// Columns of a table of one row, by their headings; a cell may be empty.
fn cells(table: &str) -> Result<Vec<(String, String)>> {
    let (heads, row) = table.trim_end().split_once('\n').context("not two lines")?;
    let begins = |at: usize| at == 0 || heads.as_bytes().get(at - 1) == Some(&b' ');
    let starts: Vec<usize> =
        heads.char_indices().filter(|(at, c)| *c != ' ' && begins(*at)).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([usize::MAX]);
    let cut = |line: &str, from: usize, to: usize| {
        line.get(from..to.min(line.len())).unwrap_or_default().trim().to_owned()
    };
    Ok(starts.iter().zip(ends).map(|(from, to)| (cut(heads, *from, to), cut(row, *from, to))).collect())
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn each_service_takes_writes_and_reads() {
    scenario("each_service_takes_writes_and_reads", async |test| {
        let orders = test.named("orders");
        orders.apply(&Manifest::new("orders", 3).with("readReplicas", json!(1))).await?;
        orders.await_ready().await?;
        test.say("orders is ready, with a read replica");
        orders.service("rw").await?.write("CREATE TABLE t (service TEXT)").await?;
        for (count, suffix) in (1..).zip(["rw", "ro", "any"]) {
            let database = orders.service(suffix).await?;
            database.write(&format!("INSERT INTO t VALUES ('{suffix}')")).await?;
            for level in [Level::Weak, Level::Linearizable, Level::Strong] {
                let seen = database.read_number("SELECT count(*) FROM t", level).await?;
                ensure!(seen == count, "{suffix}: {level:?} reads {seen} rows of {count}");
            }
            test.say(format_args!("{suffix} writes and reads"));
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_single_voter_is_a_cluster_too() {
    scenario("a_single_voter_is_a_cluster_too", async |test| {
        let notes = test.cluster("notes", 1).await?;
        let tolerant = notes.await_condition("FaultTolerant", "False").await?;
        ensure!(!tolerant.message.is_empty(), "FaultTolerant=False does not say why");
        let ledger = notes.start_writing(Pace::default()).await?;
        // Longer than the operator believes a leader whose quorum is silent.
        ledger.await_acknowledged(300, Duration::from_secs(20)).await?;
        notes.scale(3).await?;
        notes.await_condition("FaultTolerant", "True").await?;
        let report = ledger.finish().await?;
        test.reported("1 to 3 voters", &report)?;
        report.nothing_lost()
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_cluster_at_rest_writes_no_status() {
    scenario("a_cluster_at_rest_writes_no_status", async |test| {
        let orders = test.cluster("orders", 3).await?;
        // Writes are counted for all clusters together.
        eventually("clusters of other tests are gone", Duration::from_secs(20), async || {
            Ok((test.kubernetes.count_clusters().await? == 1).then_some(()))
        })
        .await?;
        let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
        // What is found out only once is told after it is Ready.
        eventually("all is told of every member", Duration::from_secs(60), async || {
            let status = orders.object().await?.data["status"].clone();
            let told = |member: &Value| member["checksum"] == "Agrees" && member["lag"] == "CaughtUp";
            let members = status["members"].as_array().cloned().unwrap_or_default();
            Ok((members.len() == 3 && members.iter().all(told)).then_some(()))
        })
        .await?;
        let before = written(test, &orders).await?;
        // Twenty seconds at a hundred a second, or two minutes at two hundred.
        let (writes, within) = if proving() { (24_000, 240) } else { (2_000, 40) };
        ledger.await_acknowledged(writes, Duration::from_secs(within)).await?;
        let after = written(test, &orders).await?;
        ensure!(before == after, "something was written at rest: {before:?} became {after:?}");
        test.unharmed("a cluster at rest, under writes", &ledger.finish().await?)
    });
}

/// Resource version of the object, who leads of the operators, and how often that one has written a status.
async fn written(test: &Scenario, orders: &Cluster) -> Result<(Option<String>, String, f64)> {
    let version = orders.object().await?.metadata.resource_version;
    let (operator, writes) = test.status_writes().await?;
    Ok((version, operator, writes))
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_cluster_created_again_finds_its_data() {
    scenario("a_cluster_created_again_finds_its_data", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let database = orders.service("rw").await?;
        database.write("CREATE TABLE t (x INTEGER)").await?;
        database.write("INSERT INTO t VALUES (4711)").await?;
        let id_before = cluster_id(&orders).await?;
        let claims_before = orders.claims().await?;

        orders.delete().await?;
        test.say("deleted");
        ensure!(orders.claims().await? == claims_before, "deleting the cluster touched its claims");

        let orders = test.cluster("orders", 3).await?;
        let seen = orders.service("rw").await?.read_number("SELECT x FROM t", Level::Linearizable).await?;
        ensure!(seen == 4711, "reads {seen}");
        ensure!(cluster_id(&orders).await? == id_before, "the cluster has another id");
        ensure!(orders.claims().await? == claims_before, "the cluster has other claims");
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_protected_cluster_is_not_deleted_by_mistake() {
    scenario("a_protected_cluster_is_not_deleted_by_mistake", async |test| {
        let notes = test.create("notes", 1).await?;
        notes.annotate(PROTECTION, "true").await?;
        // The API server takes a moment to know a policy that was just installed.
        let refusal = eventually("the deletion is refused", Duration::from_secs(20), async || {
            Ok(notes.try_delete().await?.filter(|refusal| refusal.contains("protected from deletion")))
        })
        .await?;
        ensure!(refusal.contains("SqliteCluster notes") && refusal.contains(PROTECTION), "{refusal}");
        notes.object().await?;
        notes.annotate(PROTECTION, "false").await?;
        notes.delete().await
    });
}

async fn cluster_id(cluster: &Cluster) -> Result<String> {
    let object = cluster.object().await?;
    let id = object.data["status"]["clusterID"].as_str().unwrap_or_default().to_owned();
    ensure!(!id.is_empty(), "status.clusterID is empty");
    Ok(id)
}
