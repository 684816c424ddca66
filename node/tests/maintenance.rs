//! What the leader does for the database at an interval, with real processes: the same on every member, at the same entry.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::time::Duration;
use support::disk::{Disk, is_possible};
use support::{Cluster, cluster_with};
use tempfile::TempDir;

const OFTEN: &[&str] =
    &["-auto-vacuum-int", "2s", "-auto-optimize-int", "2s", "-consistency-period", "300ms"];
/// Rows of about 4 KiB.
const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                    INSERT INTO t(b) SELECT hex(randomblob(2000)) FROM n";

fn filled(c: &Cluster) {
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)", "CREATE INDEX i ON t(b)", FILL]));
}

fn last(c: &Cluster, i: usize, task: &str) -> Option<String> {
    let status = c.status(i, &format!("store.auto_{task}"));
    status[format!("last_{task}")].as_str().map(str::to_owned)
}

fn counted(c: &Cluster, i: usize, name: &str) -> u64 {
    let vars: Value = serde_json::from_str(&c.get(i, "/debug/vars?key=store").1).unwrap();
    vars["store"][name].as_u64().unwrap()
}

fn metric(c: &Cluster, i: usize, line: &str) -> u64 {
    let metrics = c.get(i, "/metrics").1;
    let found = metrics.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{line} in {metrics}")).parse().unwrap()
}

#[test]
fn every_member_does_the_same_and_the_next_leader_goes_on_with_the_interval() {
    // E14 E15: store.auto_vacuum, num_auto_vacuums
    let mut c = cluster_with(3, OFTEN);
    filled(&c);
    c.execute(0, &json!(["DELETE FROM t WHERE a % 10 <> 0"]));
    let pages = "SELECT page_count FROM pragma_page_count";
    let large = c.value(0, pages, "strong").as_u64().unwrap();
    c.until("the database is smaller on every member, and its tables have statistics", |c| {
        (0..3)
            .all(|i| {
                c.value(i, pages, "none").as_u64() < Some(large / 2)
                    && c.value(i, "SELECT count(*) FROM pragma_table_info('sqlite_stat1')", "none")
                        != json!(0)
                    && c.value(i, "SELECT count(*) FROM sqlite_stat1 WHERE tbl = 't'", "none") == json!(1)
            })
            .then_some(())
    });
    let leader = c.await_leader(0);
    c.until("both are counted", |c| {
        let done = |name| counted(c, leader, name) > 0;
        (done("num_auto_vacuums") && done("num_auto_optimizes")).then_some(())
    });
    assert!(counted(&c, leader, "auto_vacuum_duration") < 10_000);
    assert_eq!(counted(&c, leader, "num_auto_vacuums_failed"), 0, "{}", c.log(leader));
    assert!(metric(&c, leader, "sqlited_auto_vacuums{outcome=\"done\"}") > 0);
    assert!(metric(&c, leader, "sqlited_auto_optimize_last_seconds") > 1_700_000_000);
    for i in (0..3).filter(|i| *i != leader) {
        assert_eq!(counted(&c, i, "num_auto_vacuums"), 0);
    }
    c.until("the databases are compared and equal", |c| {
        (0..3).all(|i| c.status(i, "store.consistency.state") == json!("consistent")).then_some(())
    });

    // Longer intervals: the moment of the last ones is in the state, and who leads next waits for the next.
    for i in 0..3 {
        assert_eq!(c.terminate(i), Some(0), "{}", c.log(i));
    }
    (0..3).for_each(|i| c.add_flags(i, &["-auto-vacuum-int", "1h", "-auto-optimize-int", "0"]));
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    let leader = c.await_leader(0);
    let done = c.until("all say when the last one was", |c| {
        let all: Vec<_> = (0..3).filter_map(|i| last(c, i, "vacuum")).collect();
        (all.len() == 3 && all[0] == all[1] && all[1] == all[2]).then(|| all[0].clone())
    });
    let next = (leader + 1) % 3;
    c.lead(next);
    let index = c.report(next)["appliedIndex"].clone();
    // Longer than it looks.
    std::thread::park_timeout(Duration::from_millis(2500));
    assert_eq!(last(&c, next, "vacuum"), Some(done));
    assert_eq!(c.report(next)["appliedIndex"], index);
    assert_eq!(c.status(next, "store.auto_optimize"), json!({}));
    let status = c.status(next, "store.auto_vacuum");
    assert!(status["next_vacuum_after"].as_str() > status["last_vacuum"].as_str(), "{status}");
}

#[test]
fn a_vacuum_waits_until_every_member_has_room_for_it() {
    if !is_possible(&["mkfs.ext4", "mount", "umount"]) {
        return;
    }
    let root = TempDir::new().unwrap();
    let disk = Disk::make(root.path(), "n1", 128).unwrap();
    let mut c = Cluster::empty();
    let flags = ["-auto-vacuum-int", "3s", "-disk-reserve", "8MiB", "-log-retention", "4MiB"];
    c.add_members(3, &flags);
    c.members[0].dir = disk.mount.join("data");
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    c.lead(1);
    // Room for the database and its WAL, and not for as much once more beside the reserve.
    let ballast = disk.fill(56 << 20);
    filled(&c);
    let waits = c.until("the leader says who has no room", |c| {
        let leader = c.await_leader(1);
        c.status(leader, "store.auto_vacuum")["waits_for"].as_str().map(str::to_owned)
    });
    assert!(waits.contains("member n1 has no room"), "{waits}");
    assert_eq!(c.status(0, "store.auto_vacuum")["waits_for"], Value::Null);
    let before = last(&c, 1, "vacuum").expect("the interval has begun");
    // Nothing else waits for room.
    c.execute(0, &json!(["INSERT INTO t(b) VALUES(1)"]));
    std::fs::remove_file(ballast).unwrap();
    c.until_within(Duration::from_secs(50), "a VACUUM after there is room", |c| {
        (0..3).all(|i| last(c, i, "vacuum") > Some(before.clone())).then_some(())
    });
    assert_eq!(c.status(1, "store.auto_vacuum")["waits_for"], Value::Null);
}
