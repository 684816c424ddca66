//! Something breaks while a ledger is kept: how long are writes refused, and is an acknowledged one missing?

use crate::{rounds, rounds_or};
use anyhow::{Context, Result, ensure};
use client::admin::Role;
use e2e::database::Level;
use e2e::ledger::{Pace, percentile};
use e2e::{Cluster, Database, Report, eventually, limit, proving, scenario};
use kube::ResourceExt;
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// What every member must answer alike after a ledger.
pub const SAME: &str = "SELECT count(*), max(id), total(number) FROM ledger";

/// What the times of the others are compared with.
#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn nothing_happens() {
    scenario("nothing_happens", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let report = while_writing(&orders, async || Ok(())).await?;
        test.unnoticed("nothing", &report)
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_leaders_pod_is_deleted() {
    scenario("the_leaders_pod_is_deleted", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let mut pauses = Vec::new();
        for _ in 0..rounds()? {
            let report = while_writing(&orders, async || {
                let leader = orders.await_leader().await?;
                orders.delete_pod(&leader).await?;
                test.say(format_args!("{leader}, which leads, is deleted"));
                await_new_leader(&orders, &leader).await
            })
            .await?;
            test.reported("leader pod deleted", &report)?;
            report.nothing_lost()?;
            report.outage_at_most(Duration::from_secs(2))?;
            pauses.push(report.outage());
            orders.await_ready().await?;
            orders.assert_same_content(SAME).await?;
        }
        pauses.sort_unstable();
        let (p99, aim) = (percentile(&pauses, 99), limit(Duration::from_secs(2), Duration::from_secs(1)));
        ensure!(p99 <= aim, "p99 of the longest pauses is {p99:?} (limit {aim:?}): {pauses:?}");
        Ok(())
    });
}

/// That a leader hands over before it ends is the matter of its pod, and of nobody else.
#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_leaders_pod_is_deleted_while_the_operator_is_away() {
    if !proving() {
        return;
    }
    scenario("the_leaders_pod_is_deleted_while_the_operator_is_away", async |test| {
        let orders = test.cluster("orders", 3).await?;
        for _ in 0..rounds_or(1, 10)? {
            let operators = test.scale_operator(0).await?;
            let report = while_writing(&orders, async || {
                let leader = orders.await_leader().await?;
                orders.delete_pod(&leader).await?;
                await_new_leader(&orders, &leader).await
            })
            .await;
            test.scale_operator(operators).await?;
            test.await_operator().await?;
            let report = report?;
            test.unharmed("leader pod deleted, no operator", &report)?;
            report.outage_at_most(Duration::from_secs(1))?;
            orders.await_ready().await?;
        }
        orders.assert_same_content(SAME).await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_leaders_process_is_killed() {
    scenario("the_leaders_process_is_killed", async |test| {
        for round in 0..rounds()? {
            // A new one each time: the kubelet waits longer with each restart of a container that was killed.
            let orders = test.cluster(&format!("orders-{round}"), 3).await?;
            let report = while_writing(&orders, async || {
                let leader = orders.await_leader().await?;
                orders.kill(std::slice::from_ref(&leader)).await?;
                test.say(format_args!("{leader}, which leads, is killed"));
                // It may be back, and lead again, before anyone else stands for election.
                let next = orders.await_leader().await?;
                test.say(format_args!("{next} leads"));
                Ok(())
            })
            .await?;
            test.reported("leader killed", &report)?;
            report.nothing_lost()?;
            report.outage_at_most(limit(Duration::from_secs(3), Duration::from_secs(2)))?;
            orders.await_ready().await?;
            orders.assert_same_content(SAME).await?;
            orders.delete().await?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn all_members_are_killed_at_once() {
    scenario("all_members_are_killed_at_once", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let report = while_writing(&orders, async || {
            let members: Vec<_> = orders.pods().await?.iter().map(ResourceExt::name_any).collect();
            orders.kill(&members).await?;
            test.say(format_args!("{} are killed", members.join(", ")));
            Ok(())
        })
        .await?;
        test.reported("all members killed", &report)?;
        report.nothing_lost()?;
        orders.await_ready().await?;
        orders.assert_same_content(SAME).await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_followers_volume_is_deleted() {
    scenario("a_followers_volume_is_deleted", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let follower = orders.follower().await?;
        let (id, claims) = (orders.report(&follower).await?.node_id, orders.claims().await?);
        let report = while_writing(&orders, async || {
            orders.delete_volume(&follower).await?;
            test.say(format_args!("the volume of {follower} is deleted"));
            eventually("the member votes again under a new id", Duration::from_secs(40), async || {
                let leader = orders.report(&orders.await_leader().await?).await?;
                let ours = leader.membership.members.iter().find(|member| member.name == follower);
                Ok(ours.filter(|member| member.voter && member.node_id != id).map(drop))
            })
            .await
        })
        .await?;
        test.reported("follower's volume deleted", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))?;
        orders.await_ready().await?;
        let leader = orders.report(&orders.await_leader().await?).await?;
        let members = &leader.membership.members;
        ensure!(
            members.iter().all(|member| member.node_id != id),
            "the old id is still a member: {members:?}"
        );
        let changed =
            orders.claims().await?.into_iter().filter(|(name, uid)| claims.get(name) != Some(uid)).count();
        ensure!(changed == 1, "{changed} claims are new");
        orders.assert_same_content(SAME).await
    });
}

/// One byte, which nobody wrote, on the disk of one member. Others have the state: nobody notices. Nobody else has it: the
/// cluster says so.
#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_byte_changes_on_a_disk() {
    scenario("a_byte_changes_on_a_disk", async |test| {
        let (orders, alone) = (test.create("orders", 3).await?, test.create("alone", 1).await?);
        orders.await_ready().await?;
        let follower = orders.follower().await?;
        let report = while_writing(&orders, async || {
            let database = damage(&orders, &follower).await?;
            test.say(format_args!("a byte of the database of {follower} is changed, and read"));
            eventually("another member's database takes its place", Duration::from_secs(30), async || {
                let found: Value = database.document("/status?key=store.consistency").await?;
                Ok((found["reinstalls"] == 1 && found["state"] == "consistent").then_some(()))
            })
            .await?;
            let rows = database.read_number("SELECT count(*) FROM marked", Level::None).await?;
            ensure!(rows == 1, "{rows} rows");
            Ok(())
        })
        .await?;
        test.unharmed("a byte of a follower's database changed", &report)?;
        orders.await_reason("Consistent", "ChecksumsAgree").await?;
        orders.assert_same_content(SAME).await?;

        alone.await_ready().await?;
        let only = alone.await_leader().await?;
        damage(&alone, &only).await?;
        let told = alone.await_reason("Consistent", "PageDamaged").await?;
        ensure!(
            told.message.contains(&only) && told.message.contains("restore a backup"),
            "{}",
            told.message
        );
        Ok(())
    });
}

/// Changes the byte that says what kind of page the only one of a table is, on the disk of a member, and has that read.
async fn damage(cluster: &Cluster, pod: &str) -> Result<Database> {
    const PAGE: u64 = 4096;
    let members = cluster.service("rw").await?;
    members.write("CREATE TABLE marked(a)").await?;
    members.write("INSERT INTO marked VALUES(1)").await?;
    // What is in the WAL is read from there: this is enough for a checkpoint.
    members.write("CREATE TABLE large(a)").await?;
    members.write("INSERT INTO large VALUES(zeroblob(20000000))").await?;
    let member = cluster.member(pod).await?;
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'marked'";
    let root = eventually("the table is there", Duration::from_secs(10), async || {
        Ok(member.read_number(root, Level::None).await.ok())
    })
    .await?;
    let at = (u64::try_from(root)? - 1) * PAGE;
    let file = OpenOptions::new().read(true).write(true).open(cluster.database_file(pod).await?)?;
    // A leaf of a table, as section 1.6 of SQLite's file format has it.
    eventually("its page is in the file", Duration::from_secs(30), async || {
        let mut kind = [0];
        Ok((file.read_at(&mut kind, at)? == 1 && kind == [13]).then_some(()))
    })
    .await?;
    file.write_all_at(&[0xff], at)?;
    // What is in the WAL as well is read from there until the next write begins that anew; it empties caches, too.
    eventually("the page is read from the file", Duration::from_secs(10), async || {
        members.write("INSERT INTO large VALUES(0)").await?;
        let met = member.read("SELECT a FROM marked", Level::None).await;
        Ok(met.is_err_and(|error| error.to_string().contains("malformed")).then_some(()))
    })
    .await?;
    Ok(member)
}

/// Keeps a ledger while `disturb` runs, and a little before and after it.
pub async fn while_writing(cluster: &Cluster, disturb: impl AsyncFnOnce() -> Result<()>) -> Result<Report> {
    let patience = Duration::from_secs(30);
    let ledger = cluster.start_writing(Pace::default()).await?.baseline().await?;
    disturb().await?;
    // A proof has some seconds more, so that a hundredth of the writes are some.
    let more = if proving() { 2000 } else { 200 };
    ledger.await_acknowledged(more, patience).await.context("after the disturbance")?;
    ledger.finish().await
}

/// Waits until another member leads, or the same in a later term.
async fn await_new_leader(cluster: &Cluster, old: &str) -> Result<()> {
    eventually("a new leader", Duration::from_secs(10), async || {
        let reports = cluster.reports().await?;
        Ok(reports.iter().any(|r| r.role == Role::Leader && r.name != old).then_some(()))
    })
    .await
}
