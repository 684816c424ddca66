//! Clusters that are backed up, and clusters that come back from nothing but a bucket.

use anyhow::{Context, Result, bail, ensure};
use client::backup::{ArchiveState, Catalogue};
use e2e::database::Level;
use e2e::ledger::Pace;
use e2e::{Cluster, Database, Manifest, ObjectStore, Scenario, eventually, proving, scenario};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(40);
/// How long the kubelet may take to bring a member other settings.
const SETTINGS_ARRIVE: Duration = Duration::from_secs(150);
/// How long a gibibyte may take to be restored in place, from the wish to `Ready`.
const RESTORED: Duration = Duration::from_secs(30);
const COUNT: &str = "SELECT count(*) FROM t";

/// Creates a SqliteBackup of `orders`.
pub(super) async fn begin_backup(test: &Scenario, name: &str) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1",
        "kind": "SqliteBackup",
        "metadata": {"name": name, "labels": {"sqlite-operator.io/e2e": ""}},
        "spec": {"clusterRef": {"name": "orders"}},
    }))?;
    test.kubernetes.objects("SqliteBackup", &test.namespace).create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Creates one, and waits until it has succeeded; returns its status.
async fn back_up(test: &Scenario, name: &str) -> Result<Value> {
    begin_backup(test, name).await?;
    await_succeeded(test, "SqliteBackup", name).await
}

/// Runs `kubectl sqlite` in the namespace of the test; returns what it printed, and what it said beside that.
async fn plugin(test: &Scenario, arguments: &str) -> Result<(String, String)> {
    let mut command = tokio::process::Command::new(crate::shell::plugin()?);
    command.args(["--namespace", &test.namespace]).args(arguments.split(' '));
    let done = command.output().await?;
    let (told, said) = (String::from_utf8(done.stdout)?, String::from_utf8(done.stderr)?);
    ensure!(done.status.success(), "{arguments}: {told}{said}");
    Ok((told, said))
}

/// The same of a verb that makes an object, or would make it; returns the object.
async fn object_by_plugin(test: &Scenario, arguments: &str) -> Result<Value> {
    let (told, _) = plugin(test, &format!("--json {arguments}")).await?;
    serde_json::from_str(&told).with_context(|| format!("{arguments}: {told}"))
}

/// The same of a verb that makes one; returns its name.
async fn make_by_plugin(test: &Scenario, arguments: &str) -> Result<String> {
    let made = object_by_plugin(test, arguments).await?;
    let name = made["metadata"]["name"].as_str();
    Ok(name.with_context(|| format!("{arguments}: {made}"))?.to_owned())
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

/// `again`, a cluster that begins with the last that is archived of `orders`, as somebody writes it down while there still is
/// something to ask.
async fn branch_of_latest(test: &Scenario) -> Result<DynamicObject> {
    let mut branch = object_by_plugin(test, "--dry-run branch orders again --to latest").await?;
    branch["metadata"]["labels"] = json!({"sqlite-operator.io/e2e": ""});
    Ok(serde_json::from_value(branch)?)
}

/// Settings of an archive that is at most a second behind.
fn archive() -> Value {
    json!({"enabled": true, "rpoTargetSeconds": 1})
}

/// A cluster that is backed up to a bucket of its own, as `settings` of `spec.backup` say.
async fn with_bucket(test: &Scenario, voters: u32, mut settings: Value) -> Result<(ObjectStore, Cluster)> {
    let store = ObjectStore::start(test).await?;
    settings["store"] = store.spec();
    let orders = test.named("orders");
    orders.apply(&Manifest::new("orders", voters).with("backup", settings)).await?;
    orders.await_ready().await?;
    Ok((store, orders))
}

/// A cluster with a store, an archive that is at most a second behind, these schedules, and an empty table.
async fn backed_up(
    test: &Scenario,
    voters: u32,
    schedules: &[Value],
) -> Result<(ObjectStore, Cluster, Database)> {
    let settings = json!({"continuous": archive(), "schedules": schedules});
    let (store, orders) = with_bucket(test, voters, settings).await?;
    let database = orders.service("rw").await?;
    database.write("CREATE TABLE t (x INTEGER)").await?;
    Ok((store, orders, database))
}

/// Makes the database larger by a table of this many MiB.
async fn fill(database: &Database, mib: u32) -> Result<()> {
    database.write("CREATE TABLE filling (x BLOB)").await?;
    for _ in 0..mib / 8 {
        let rows = "SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2048";
        let fill = "INSERT INTO filling SELECT randomblob(4096) FROM c";
        database.write(&format!("WITH RECURSIVE c(n) AS ({rows}) {fill}")).await?;
    }
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn only_the_bucket_is_left() {
    scenario("only_the_bucket_is_left", async |test| {
        let (_store, orders, database) = backed_up(test, 3, &[]).await?;

        // A backup under writes, made by a member that does not lead.
        let ledger = orders.start_writing(Pace::default()).await?;
        ledger.await_acknowledged(50, Duration::from_secs(10)).await?;
        let made = back_up(test, "first").await?;
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
        // Somebody writes down how to begin again while there still is something to ask.
        let branch = branch_of_latest(test).await?;

        // Members, volumes and Secrets are gone, and another cluster goes on where this one was.
        orders.delete().await?;
        let again = test.named("again");
        test.kubernetes.clusters(&test.namespace).create(&PostParams::default(), &branch).await?;
        again.await_ready().await?;
        let database = again.service("rw").await?;
        ensure!(database.read_number(COUNT, Level::Linearizable).await? == 5);
        database.write("INSERT INTO t VALUES (5)").await?;
        again.assert_same_content(COUNT).await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_volume_that_all_members_mount_is_a_store_too() {
    scenario("a_volume_that_all_members_mount_is_a_store_too", async |test| {
        test.kubernetes.require_local("volumes that several pods may write are not everywhere")?;
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "backups"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }))?;
        let claims =
            Api::<PersistentVolumeClaim>::namespaced(test.kubernetes.client.clone(), &test.namespace);
        claims.create(&PostParams::default(), &claim).await?;
        let orders = test.named("orders");
        let store = json!({"filesystem": {"claimName": "backups"}});
        let settings = json!({"store": store, "continuous": archive()});
        orders.apply(&Manifest::new("orders", 3).with("backup", settings)).await?;
        orders.await_ready().await?;
        let database = orders.service("rw").await?;
        database.write("CREATE TABLE t (x INTEGER)").await?;
        back_up(test, "first").await?;
        database.write("INSERT INTO t VALUES (1), (2)").await?;
        await_archived(&orders).await?;
        orders.await_condition("BackupHealthy", "True").await?;

        let branch = branch_of_latest(test).await?;
        test.kubernetes.clusters(&test.namespace).create(&PostParams::default(), &branch).await?;
        let again = test.named("again");
        again.await_ready().await?;
        ensure!(again.service("rw").await?.read_number(COUNT, Level::Linearizable).await? == 2);
        again.assert_same_content(COUNT).await
    });
}

/// The store goes away and comes back: no write is hurt, the archive has no hole, and the condition tells of it meanwhile.
async fn the_store_is_away(test: &Scenario, store: &ObjectStore, orders: &Cluster) -> Result<()> {
    let away = Duration::from_secs(if proving() { 300 } else { 2 });
    orders.await_condition("BackupHealthy", "True").await?;
    let ledger = orders.start_writing(Pace::default()).await?;
    ledger.await_acknowledged(50, Duration::from_secs(10)).await?;
    store.go_away().await?;
    let begin = Instant::now();
    let told = orders.await_reason("BackupHealthy", "ArchiveBehind").await?;
    ensure!(told.status == "False", "{told:?}");
    test.say(format_args!("the store is away: {}", told.message));
    while begin.elapsed() < away {
        ledger.await_acknowledged(50, Duration::from_secs(10)).await?;
    }
    let behind = orders.object().await?.data["status"]["backup"].clone();
    ensure!(behind["archive"] == json!("Behind"), "{behind}");
    store.come_back().await?;
    let back = Instant::now();
    orders.await_condition("BackupHealthy", "True").await?;
    test.measured("BackupHealthy is true again once the store is back", back.elapsed())?;
    let report = ledger.finish().await?;
    test.unharmed("the store was away", &report)?;
    await_archived(orders).await?;
    let leader = orders.await_leader().await?;
    let catalogue: Catalogue = orders.member(&leader).await?.document("/cluster/backups").await?;
    ensure!(catalogue.windows.len() == 1, "the archive has a hole: {:?}", catalogue.windows);
    Ok(())
}

/// Waits until an event tells this of each of these objects: (kind, name).
async fn await_events(test: &Scenario, reason: &str, of: &[(&str, &str)]) -> Result<()> {
    let events = Api::<Event>::namespaced(test.kubernetes.client.clone(), &test.namespace);
    eventually(&format!("events tell of {reason}"), PATIENCE, async || {
        let told = events.list(&ListParams::default()).await?.items;
        let tells = |(kind, name): &(&str, &str)| {
            told.iter().any(|event| {
                let about = &event.involved_object;
                event.reason.as_deref() == Some(reason)
                    && (about.kind.as_deref(), about.name.as_deref()) == (Some(*kind), Some(*name))
            })
        };
        Ok(of.iter().all(tells).then_some(()))
    })
    .await
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn what_goes_wrong_with_backups_is_told() {
    scenario("what_goes_wrong_with_backups_is_told", async |test| {
        // By itself it makes a backup at New Year.
        let yearly = json!({"name": "yearly", "cron": "0 0 1 1 *", "verify": {"every": "24h"}});
        let (store, orders, database) = backed_up(test, 1, &[yearly]).await?;
        the_store_is_away(test, &store, &orders).await?;

        let backups = test.kubernetes.objects("SqliteBackup", &test.namespace);
        for (name, damaged) in [("sound", false), ("damaged", true)] {
            let made = back_up(test, name).await?;
            database.write("INSERT INTO t VALUES (1)").await?;
            await_archived(&orders).await?;
            if damaged {
                store.flip_a_bit(made["path"].as_str().context("no path")?).await?;
            }
            // From now on it is one of the schedule's, which has the first one tried out. The next day is not waited for.
            let label = json!({"metadata": {"labels": {"sqlite-operator.io/schedule": "yearly"}}});
            backups.patch(name, &PatchParams::default(), &Patch::Merge(label)).await?;
            if damaged {
                plugin(test, &format!("backup verify {name}")).await?;
            }
            let found = eventually(&format!("{name} was tried out"), PATIENCE, async || {
                let found = backups.get(name).await?.data["status"]["verification"].clone();
                Ok(found["result"].is_string().then_some(found))
            })
            .await?;
            ensure!(found["result"] == json!(if damaged { "Failed" } else { "Passed" }), "{name}: {found}");
            // What was archived after the backup is tried out with it.
            let reached = found["index"].as_i64() > made["bookmark"]["index"].as_i64();
            ensure!(damaged || reached && found["bytesPerSecond"].as_i64() > Some(0), "{name}: {found}");
            let reason = if damaged { "VerificationFailed" } else { "Verified" };
            let told = orders.await_reason("BackupVerified", reason).await?;
            ensure!(told.message.contains(name), "{told:?}");
        }
        await_events(
            test,
            "BackupVerificationFailed",
            &[("SqliteBackup", "damaged"), ("SqliteCluster", "orders")],
        )
        .await?;
        test.await_metric(r#"sqlite_operator_backups_total{result="BackupVerificationFailed"}"#).await?;
        test.await_metric(&format!(
            r#"sqlite_operator_condition{{kind="SqliteCluster",namespace="{}",name="orders",type="BackupVerified",status="False",reason="VerificationFailed"}}"#,
            test.namespace
        ))
        .await?;

        // Somebody without the bucket's credentials sees what is in it, and what a restore would take of it.
        let (listed, _) = plugin(test, "backup list orders --in-store").await?;
        let path = backups.get("sound").await?.data["status"]["path"].as_str().context("no path")?.to_owned();
        ensure!(listed.contains(&path) && listed.contains("any moment from "), "{listed}");
        let (made, foretold) = plugin(test, "restore orders --to latest --dry-run").await?;
        ensure!(
            made.contains("kind: SqliteRestore") && foretold.contains("it would begin with "),
            "{made}{foretold}"
        );
        // An object that is gone is made again of what is left in the bucket.
        backups.delete("sound", &DeleteParams::default()).await?;
        let imported = make_by_plugin(test, &format!("backup import orders {path}")).await?;
        let status = await_succeeded(test, "SqliteBackup", &imported).await?;
        ensure!(status["path"] == json!(path), "{status}");
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn back_to_an_earlier_moment_and_forth_again() {
    scenario("back_to_an_earlier_moment_and_forth_again", async |test| {
        let (_store, orders, database) = backed_up(test, 3, &[]).await?;
        let mib = if proving() { 1024 } else { 16 };
        fill(&database, mib).await?;
        database.write("INSERT INTO t VALUES (1)").await?;
        let leader = orders.await_leader().await?;
        let index = orders.report(&leader).await?.applied_index;
        await_archived(&orders).await?;
        database.write("INSERT INTO t VALUES (2)").await?;

        let begin = Instant::now();
        let back = make_by_plugin(test, &format!("restore orders --to {index} --confirm orders")).await?;
        let status = await_succeeded(test, "SqliteRestore", &back).await?;
        orders.await_ready().await?;
        test.measured_at_most(
            &format!("{mib} MiB restored in place to an index"),
            begin.elapsed(),
            RESTORED,
        )?;
        ensure!(database.read_number(COUNT, Level::Linearizable).await? == 1);
        // What was there before was kept first.
        let undo = &status["undoBookmark"];
        ensure!(undo["index"].as_i64() < status["installedIndex"].as_i64(), "{status}");
        let begin = Instant::now();
        let forth = make_by_plugin(test, &format!("restore orders --undo {back} --confirm orders")).await?;
        await_succeeded(test, "SqliteRestore", &forth).await?;
        orders.await_ready().await?;
        let what = format!("{mib} MiB restored in place from the backup that undoes it");
        test.measured_at_most(&what, begin.elapsed(), RESTORED)?;
        ensure!(database.read_number(COUNT, Level::Linearizable).await? == 2);
        orders.assert_same_content(COUNT).await
    });
}

/// A minute: in `make test` a backup is made under writes by `only_the_bucket_is_left`.
#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn writes_do_not_notice_backups_and_the_archive() {
    const WRITES: u64 = 2_000;
    if !proving() {
        return;
    }
    scenario("writes_do_not_notice_backups_and_the_archive", async |test| {
        let (_store, orders) = with_bucket(test, 3, json!({})).await?;
        fill(&orders.service("rw").await?, 256).await?;
        let peace = orders.start_writing(Pace::default()).await?.baseline().await?;
        peace.await_acknowledged(WRITES, PATIENCE).await?;
        let peace = peace.finish().await?;
        orders.set(json!({"backup": {"continuous": archive()}})).await?;
        eventually("the archive is on its target", SETTINGS_ARRIVE, async || {
            let leader = orders.await_leader().await?;
            let archive = orders.report(&leader).await?.archive.context("no archive")?;
            Ok((archive.state == ArchiveState::OnTarget).then_some(()))
        })
        .await?;
        let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
        let (goal, mut made) = (ledger.acknowledged() + WRITES, 0);
        while ledger.acknowledged() < goal {
            back_up(test, &format!("backup-{made}")).await?;
            made += 1;
        }
        let report = ledger.finish().await?;
        test.say(format_args!("{made} backups of 256 MiB"));
        test.unharmed("backups one after another, and the archive", &report)?;
        await_archived(&orders).await?;
        let (with, without) = (report.latency.p99_us, peace.latency.p99_us);
        test.say(format_args!("p99 is {with} µs, {without} µs with neither backups nor archive"));
        ensure!(2 * with <= 3 * without, "p99 is more than 1.5 times that of neither\n{report}");
        Ok(())
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
        let schedule = json!({"name": "often", "cron": "*/1 * * * *", "retention": {"keepLast": 2}});
        let (store, _orders) = with_bucket(test, 1, json!({"schedules": [schedule]})).await?;
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
