//! Everything is lost but the store.

use super::number;
use super::support::Cluster;
use super::support::backups::{await_archived, restore_in_place, store};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes that are begun in each second, whatever becomes of those before.
const PER_SECOND: u32 = 200;
/// What was acknowledged so long ago is not lost.
const POINT: Duration = Duration::from_secs(2);

#[test]
fn what_is_left_when_everything_is_lost_is_a_prefix_and_seconds_old() {
    let rounds = number("BACKUP_DISASTERS", 1);
    for _ in 0..rounds {
        everything_is_lost(rounds > 1);
    }
}

/// All members are killed at a moment by chance, and their disks thrown away. In a proof that is an error where the writers
/// could not keep their pace: it would be one of fewer writes.
fn everything_is_lost(is_proof: bool) {
    let mut c = Cluster::empty();
    let (server, store) = store(c.root());
    let config = c.root().join("backup.yaml");
    let settings = json!({"store": store, "continuous": {"enabled": true, "rpoTargetSeconds": 1}});
    std::fs::write(&config, settings.to_string()).unwrap();
    c.add_members(3, &["-backup-config", config.to_str().unwrap(), "-consistency-period", "1s"]);
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    c.create_ledger(0);
    let base = c.report(0)["lastLogIndex"].as_u64().unwrap();
    await_archived(&mut c, base);
    let urls = (0..3).map(|i| c.url(i, "/db/execute?raft_index")).collect();
    let begun = Instant::now();
    let writers = c.paced_ledger(urls, PER_SECOND, 100, 0);
    let enough = Duration::from_millis(rand::random_range(3000..if is_proof { 9000 } else { 5000 }));
    while begun.elapsed() < enough {
        writers.await_more(1);
    }
    let lost_at = Instant::now();
    c.kill_all();
    let (tried, due) = (writers.next(), (lost_at - begun).as_millis() as u64 * u64::from(PER_SECOND) / 1000);
    for member in &c.members {
        std::fs::remove_dir_all(&member.dir).unwrap();
    }
    let receipts = writers.stop_with_receipts();
    assert!(!is_proof || tried >= due * 9 / 10, "{tried} of {due} writes were begun");

    let objects = server.as_ref().map_or_else(|| c.root().join("store"), |server| server.objects.clone());
    let id = only_cluster(&objects);
    let mut again = Cluster::empty();
    again.add_members(3, &["-restore-config", config.to_str().unwrap()]);
    (0..3).for_each(|i| again.start(i));
    (0..3).for_each(|i| again.await_ready(i));
    let more = json!({"source": "Other", "clusterId": id});
    let restored = restore_in_place(&mut again, "disaster", &json!({"latest": {}}), &more);
    let reached = restored["index"].as_u64().unwrap();

    let rows = rows(&again);
    assert!(rows.keys().copied().eq(1..=rows.len() as u64), "rows are missing: {rows:?}");
    // Exactly what the entries up to there wrote, each where it was.
    for receipt in &receipts {
        let expected = (receipt.entry <= reached).then_some(&receipt.number);
        assert_eq!(rows.get(&receipt.row), expected, "entry {reached} was reached: {receipt:?}");
    }
    let numbers: BTreeSet<u64> = rows.values().copied().collect();
    assert!(numbers.len() == rows.len() && numbers.last() < Some(&tried), "{numbers:?}");
    let came_back = receipts.iter().filter(|receipt| receipt.entry <= reached).count();
    let old: Vec<_> = receipts.iter().filter(|receipt| receipt.at + POINT < lost_at).collect();
    let lost: Vec<_> = old.iter().filter(|receipt| receipt.entry > reached).collect();
    assert!(lost.is_empty(), "acknowledged more than {POINT:?} before, and lost: {lost:?}");
    let lost_entries = receipts.iter().filter(|receipt| receipt.entry > reached);
    let age = lost_entries.map(|receipt| lost_at.saturating_duration_since(receipt.at)).max();
    println!(
        "{came_back} of {} acknowledged writes came back, with {} that nobody heard of; {} were older than 2 s, the oldest \
         that was lost {:.2} s; {tried} of {due} begun in {:.1} s; {} was left",
        receipts.len(),
        rows.len() - came_back,
        old.len(),
        age.unwrap_or_default().as_secs_f64(),
        (lost_at - begun).as_secs_f64(),
        if server.is_some() { "an S3 server" } else { "a directory" },
    );
}

/// The id of the one cluster that has something in the store: nothing else is left of it.
fn only_cluster(objects: &Path) -> String {
    let names =
        std::fs::read_dir(objects).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // The server has a directory of its own for what is not whole yet.
    let ids: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    ids.into_iter().next().unwrap()
}

/// Numbers in the ledger, by row.
fn rows(c: &Cluster) -> BTreeMap<u64, u64> {
    let sql = "SELECT coalesce(group_concat(rowid || ':' || n), '') FROM ledger";
    let text = c.value(0, sql, "linearizable");
    let pairs = text.as_str().unwrap().split(',').filter(|pair| !pair.is_empty());
    let numbers = pairs.map(|pair| pair.split_once(':').unwrap());
    numbers.map(|(row, number)| (row.parse().unwrap(), number.parse().unwrap())).collect()
}
