//! Clusters that are backed up, and clusters that come back from nothing but a bucket.

use anyhow::{Context, Result, bail, ensure};
use client::backup::Catalogue;
use e2e::database::Level;
use e2e::ledger::Pace;
use e2e::{Cluster, Database, Manifest, ObjectStore, Scenario, eventually, proving, scenario};
use kube::ResourceExt as _;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(40);
const COUNT: &str = "SELECT count(*) FROM t";

/// Creates an object of one of the operator's kinds.
pub(super) async fn create(test: &Scenario, kind: &str, name: &str, spec: Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "labels": {"sqlite-operator.io/e2e": ""}},
        "spec": spec,
    }))?;
    test.kubernetes.objects(kind, &test.namespace).create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Waits until an object has succeeded; returns its status.
pub(super) async fn await_succeeded(test: &Scenario, kind: &str, name: &str) -> Result<Value> {
    eventually(&format!("{kind} {name} has succeeded"), PATIENCE, async || {
        let status = test.kubernetes.objects(kind, &test.namespace).get(name).await?.data["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let is = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
        if is("Succeeded") {
            return Ok(Some(status));
        }
        bail!("its status is {status}")
    })
    .await
}

/// Waits until everything that the cluster has applied by now can be brought back.
pub(super) async fn await_archived(cluster: &Cluster) -> Result<()> {
    let leader = cluster.await_leader().await?;
    let applied = cluster.report(&leader).await?.applied_index;
    eventually("the archive has everything", PATIENCE, async || {
        let catalogue: Catalogue = cluster.member(&leader).await?.document("/cluster/backups").await?;
        let last = catalogue.windows.last().map(|window| window.last_index);
        Ok((last >= Some(applied)).then_some(()))
    })
    .await
}

/// A cluster with a store, an archive as `archive` says, and an empty table.
async fn backed_up(test: &Scenario, voters: u32, archive: Value) -> Result<(ObjectStore, Cluster, Database)> {
    let store = ObjectStore::start(test).await?;
    let orders = test.named("orders");
    let backup = json!({"store": store.spec(), "continuous": archive});
    orders.apply(&Manifest::new("orders", voters).with("backup", backup)).await?;
    orders.await_ready().await?;
    let database = orders.service("rw").await?;
    database.write("CREATE TABLE t (x INTEGER)").await?;
    Ok((store, orders, database))
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn only_the_bucket_is_left() {
    scenario("only_the_bucket_is_left", async |test| {
        let (store, orders, database) =
            backed_up(test, 3, json!({"enabled": true, "rpoTargetSeconds": 1})).await?;

        // A backup under writes, made by a member that does not lead.
        let ledger = orders.start_writing(Pace::default()).await?;
        ledger.await_acknowledged(50, Duration::from_secs(10)).await?;
        create(test, "SqliteBackup", "first", json!({"clusterRef": {"name": "orders"}})).await?;
        let made = await_succeeded(test, "SqliteBackup", "first").await?;
        let report = ledger.finish().await?;
        test.reported("a backup", &report)?;
        report.nothing_lost()?;
        ensure!(report.failed == 0, "{} writes failed during a backup", report.failed);
        ensure!(made["member"] != json!(orders.await_leader().await?), "the leader made it: {made}");

        for n in 0..5 {
            database.write(&format!("INSERT INTO t VALUES ({n})")).await?;
        }
        await_archived(&orders).await?;
        orders.await_condition("BackupHealthy", "True").await?;
        let id = orders.object().await?.data["status"]["clusterID"].clone();
        let id = id.as_str().context("no clusterID")?.to_owned();

        // Members, volumes and Secrets are gone, and another cluster goes on where this one was.
        orders.delete().await?;
        let again = test.named("again");
        let restore = json!({"store": store.spec(), "clusterID": id, "target": {"latest": true}});
        again.apply(&Manifest::new("again", 3).with("bootstrap", json!({"restore": restore}))).await?;
        again.await_ready().await?;
        let database = again.service("rw").await?;
        ensure!(database.read_number(COUNT, Level::Linearizable).await? == 5);
        database.write("INSERT INTO t VALUES (5)").await?;
        again.assert_same_content(COUNT).await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_backup_is_tried_out_and_a_damaged_one_is_found() {
    scenario("a_backup_is_tried_out_and_a_damaged_one_is_found", async |test| {
        let (store, orders, database) =
            backed_up(test, 1, json!({"enabled": true, "rpoTargetSeconds": 1})).await?;
        let backups = test.kubernetes.objects("SqliteBackup", &test.namespace);
        for (name, damaged) in [("sound", false), ("damaged", true)] {
            create(test, "SqliteBackup", name, json!({"clusterRef": {"name": "orders"}})).await?;
            let made = await_succeeded(test, "SqliteBackup", name).await?;
            database.write("INSERT INTO t VALUES (1)").await?;
            await_archived(&orders).await?;
            if damaged {
                store.flip_a_bit(made["path"].as_str().context("no path")?).await?;
            }
            // What `kubectl sqlite backup verify` does.
            let asked = json!({"sqlite-operator.io/verifyAt": made["completionTime"]});
            let asked = Patch::Merge(json!({"metadata": {"annotations": asked}}));
            backups.patch(name, &PatchParams::default(), &asked).await?;
            let found = eventually(&format!("{name} was tried out"), PATIENCE, async || {
                let found = backups.get(name).await?.data["status"]["verification"].clone();
                Ok(found["result"].is_string().then_some(found))
            })
            .await?;
            ensure!(found["result"] == json!(if damaged { "Failed" } else { "Passed" }), "{name}: {found}");
            // What was archived after the backup is tried out with it.
            let reached = found["index"].as_i64() > made["bookmark"]["index"].as_i64();
            ensure!(damaged || reached && found["bytesPerSecond"].as_i64() > Some(0), "{name}: {found}");
        }
        // Somebody without the bucket's credentials sees what is in it, and what a restore would take of it.
        let plugin = async |arguments: &str| -> Result<(String, String)> {
            let mut command = tokio::process::Command::new(crate::shell::plugin()?);
            command.args(["--namespace", &test.namespace]).args(arguments.split(' '));
            let done = command.output().await?;
            let (told, said) = (String::from_utf8(done.stdout)?, String::from_utf8(done.stderr)?);
            ensure!(done.status.success(), "{arguments}: {told}{said}");
            Ok((told, said))
        };
        let (listed, _) = plugin("backup list orders --in-store").await?;
        let path = backups.get("sound").await?.data["status"]["path"].as_str().context("no path")?.to_owned();
        ensure!(listed.contains(&path) && listed.contains("any moment from "), "{listed}");
        let (made, foretold) = plugin("restore orders --to latest --dry-run").await?;
        ensure!(
            made.contains("kind: SqliteRestore") && foretold.contains("it would begin with "),
            "{made}{foretold}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn back_to_an_earlier_moment_and_forth_again() {
    scenario("back_to_an_earlier_moment_and_forth_again", async |test| {
        let (store, orders, database) =
            backed_up(test, 3, json!({"enabled": true, "rpoTargetSeconds": 1})).await?;
        database.write("CREATE TABLE filling (x BLOB)").await?;
        let mib = if proving() { 1024 } else { 16 };
        for _ in 0..mib / 8 {
            let rows = "SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2048";
            let fill = "INSERT INTO filling SELECT randomblob(4096) FROM c";
            database.write(&format!("WITH RECURSIVE c(n) AS ({rows}) {fill}")).await?;
        }
        database.write("INSERT INTO t VALUES (1)").await?;
        let leader = orders.await_leader().await?;
        let index = orders.report(&leader).await?.applied_index;
        await_archived(&orders).await?;
        database.write("INSERT INTO t VALUES (2)").await?;

        let spec = json!({
            "clusterRef": {"name": "orders"},
            "source": {"clusterID": orders.object().await?.data["status"]["clusterID"], "store": store.spec()},
            "target": {"index": index},
            "approval": {"confirmClusterName": "orders"},
        });
        let begin = Instant::now();
        create(test, "SqliteRestore", "back", spec).await?;
        let status = await_succeeded(test, "SqliteRestore", "back").await?;
        orders.await_ready().await?;
        test.measured(&format!("{mib} MiB restored in place to an index"), begin.elapsed())?;
        ensure!(database.read_number(COUNT, Level::Linearizable).await? == 1);
        // What was there before was kept first.
        let undo = &status["undoBookmark"];
        ensure!(undo["index"].as_i64() < status["installedIndex"].as_i64(), "{status}");
        let spec = json!({
            "clusterRef": {"name": "orders"},
            "source": {"backupRef": {"name": undo["backup"]}},
            "target": {"index": undo["index"]},
            "approval": {"confirmClusterName": "orders"},
        });
        let begin = Instant::now();
        create(test, "SqliteRestore", "forth", spec).await?;
        await_succeeded(test, "SqliteRestore", "forth").await?;
        orders.await_ready().await?;
        test.measured(
            &format!("{mib} MiB restored in place from the backup that undoes it"),
            begin.elapsed(),
        )?;
        ensure!(database.read_number(COUNT, Level::Linearizable).await? == 2);
        orders.assert_same_content(COUNT).await
    });
}

/// Five minutes: what `make test` looks at is the arithmetic of schedules and of retention, by table.
#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_schedule_makes_a_backup_each_minute_and_keeps_two() {
    const RUNS: usize = 5;
    if !proving() {
        return;
    }
    scenario("a_schedule_makes_a_backup_each_minute_and_keeps_two", async |test| {
        let store = ObjectStore::start(test).await?;
        let orders = test.named("orders");
        let schedule = json!({"name": "often", "cron": "*/1 * * * *", "retention": {"keepLast": 2}});
        let backup = json!({"store": store.spec(), "schedules": [schedule]});
        orders.apply(&Manifest::new("orders", 1).with("backup", backup)).await?;
        orders.await_ready().await?;
        let backups = test.kubernetes.objects("SqliteBackup", &test.namespace);
        // (name, path) of those that succeeded, oldest first.
        let succeeded = async || -> Result<Vec<(String, String)>> {
            let label = "sqlite-operator.io/schedule=often";
            let found = backups.list(&ListParams::default().labels(label)).await?;
            let done = found.into_iter().filter(|b| b.data["status"]["completionTime"].is_string());
            let mut all: Vec<_> = done
                .filter_map(|b| Some((b.name_any(), b.data["status"]["path"].as_str()?.to_owned())))
                .collect();
            all.sort();
            Ok(all)
        };
        let mut seen = BTreeSet::new();
        eventually("five backups were made", Duration::from_secs(70 * RUNS as u64), async || {
            seen.extend(succeeded().await?.into_iter().map(|(name, _)| name));
            Ok((seen.len() >= RUNS).then_some(()))
        })
        .await?;
        let newest: Vec<String> = seen.into_iter().skip(RUNS - 2).collect();
        eventually("the two newest are left, here and in the bucket", PATIENCE, async || {
            let left = succeeded().await?;
            let (names, paths): (Vec<String>, Vec<String>) = left.into_iter().unzip();
            let in_the_bucket = store.backups().await?;
            if names == newest && paths == in_the_bucket {
                return Ok(Some(()));
            }
            bail!("left are {names:?} of {newest:?}, in the bucket {in_the_bucket:?}")
        })
        .await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_cluster_begins_with_what_another_one_serves() {
    scenario("a_cluster_begins_with_what_another_one_serves", async |test| {
        let old = test.named("old");
        old.apply(&Manifest::new("old", 1)).await?;
        old.await_ready().await?;
        let database = old.service("rw").await?;
        database.write("CREATE TABLE t (x INTEGER)").await?;
        database.write("INSERT INTO t VALUES (1), (2), (3)").await?;

        let new = test.named("new");
        let url = format!("https://old-rw.{}.svc:4001/db/backup", test.namespace);
        let authority = json!({"name": "old-app", "key": "ca.crt"});
        let import = json!({"url": url, "secretRef": {"name": "old-app"}, "caSecretRef": authority});
        new.apply(&Manifest::new("new", 3).with("bootstrap", json!({"import": import}))).await?;
        new.await_ready().await?;
        let database = new.service("rw").await?;
        ensure!(database.read_number(COUNT, Level::Linearizable).await? == 3);
        ensure!(new.object().await?.data["status"]["restore"]["phase"] == json!("Succeeded"));
        database.write("INSERT INTO t VALUES (4)").await?;
        // It is read once: whatever happens to the old cluster and to the members, the new one goes on.
        old.delete().await?;
        for n in 0..3 {
            new.delete_pod(&format!("new-{n}")).await?;
            new.await_ready().await?;
        }
        ensure!(database.read_number(COUNT, Level::Linearizable).await? == 4);
        new.assert_same_content(COUNT).await
    });
}
