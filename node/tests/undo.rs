//! A restore in place loses nothing: what was acknowledged before the entry by which it happens comes back, to the last
//! write, and writes wait for a moment instead of failing. Needs `--features failpoints`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use node::failpoint::Place;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use support::Cluster;
use support::backups::{
    await_archived, await_failed, await_job, back_up, begin_pin, cluster_id, insert, leader_of, ledger,
    members, pin, restore, restore_in_place, settings,
};

/// Asks the leader for a restore.
fn ask(c: &mut Cluster, name: &str, target: &Value, undo: Option<&str>) -> usize {
    let leader = leader_of(c);
    let mut request = json!({"name": name, "target": target, "confirmClusterId": cluster_id(c)});
    if let Some(undo) = undo {
        request["undo"] = json!(undo);
    }
    let (status, body) = c.post(leader, "/cluster/restore", &request.to_string());
    assert_eq!(status, 200, "{body}");
    leader
}

/// What the ledger held after an entry, as the store has it.
fn ledger_at(c: &Cluster, config: &Path, index: u64) -> BTreeSet<u64> {
    let out = c.root().join("at.sqlite");
    let found = restore("restore", config, &cluster_id(c), &format!("index:{index}"), &out);
    assert_eq!(found.restored["index"], json!(index), "{}", found.message);
    let all = ledger(&out).into_iter().map(|n| n as u64).collect();
    std::fs::remove_file(&out).unwrap();
    all
}

/// For how long writes waited, in milliseconds, as the leader says.
fn fenced_milliseconds(c: &Cluster, leader: usize) -> Vec<u64> {
    let log = c.log(leader);
    let said = log.lines().filter(|line| line.contains("writes go on; the database is replaced"));
    let number = |line: &str| {
        let (_, rest) = line.split_once("milliseconds")?;
        let digits: String =
            rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    said.filter_map(number).collect()
}

/// Writers are at work on all members while the cluster goes back: each acknowledged write is in the state before, or in the
/// one after.
fn comes_back(rpo: Option<u32>, undo: Option<&str>) {
    let (mut c, config) = members(3, rpo, true);
    c.create_ledger(0);
    let mut index = 0;
    for n in 0..20 {
        index = insert(&c, 0, n);
    }
    let base = back_up(&c, 0, "base");
    // One that is behind by an hour is not waited for by anybody but the restore.
    if rpo == Some(1) {
        await_archived(&mut c, index);
    }
    let urls = (0..3).map(|i| c.url(i, "/db/execute")).collect();
    let writers = c.continue_ledger(urls, 3, 100, 1000);
    writers.await_more(50);
    let target = json!({ "backup": base["path"] });
    let leader = ask(&mut c, "back", &target, undo);
    writers.await_more(50);
    if let Some(undo) = undo {
        // The leader waits for it.
        begin_pin(&c, (leader + 1) % 3, undo);
    }
    let job = await_job(&c, leader, "/cluster/restore", "back");
    writers.await_more(50);
    assert_eq!(writers.refused(), 0, "{}", writers.last_refusal());
    let acknowledged = writers.stop();
    let waited = fenced_milliseconds(&c, leader);
    println!("archive {rpo:?}, undo {undo:?}: writes waited for {waited:?} ms");
    assert!(waited.len() == 1 && waited[0] < 3000, "{waited:?}");
    let restored = &job["restored"];
    let (replaced, installed) =
        (restored["replacedIndex"].as_u64().unwrap(), restored["installedIndex"].as_u64().unwrap());
    assert!(replaced < installed && job["message"].is_null(), "{job}");
    let after: BTreeSet<u64> = c.assert_ledger(leader, &[]).into_iter().collect();
    let before = ledger_at(&c, &config, replaced);
    let lost: Vec<_> = acknowledged.iter().filter(|n| !before.contains(n) && !after.contains(n)).collect();
    assert!(lost.is_empty(), "acknowledged, and in no state: {lost:?}");
    let written = |n: &&u64| **n >= 1000;
    assert!(before.intersection(&after).filter(written).count() == 0, "applied twice");
    assert!(before.iter().filter(written).count() >= 100 && after.iter().filter(written).count() >= 50);
    // And in place, on all members, as it was.
    let back = restore_in_place(&mut c, "forth", &json!({ "index": replaced }), &json!({}));
    assert_eq!(back["index"], json!(replaced));
    for i in 0..3 {
        assert_eq!(c.assert_ledger(i, &[]).into_iter().collect::<BTreeSet<_>>(), before, "member {i}");
    }
}

#[test]
fn every_acknowledged_write_comes_back_by_the_undo_without_an_archive() {
    comes_back(None, Some("back-undo"));
}

#[test]
fn every_acknowledged_write_comes_back_by_the_undo_beside_an_archive() {
    comes_back(Some(1), Some("back-undo"));
}

#[test]
fn every_acknowledged_write_comes_back_by_the_archive_alone() {
    comes_back(Some(3600), None);
}

#[test]
fn what_nothing_brings_back_is_said_and_the_latest_moment_is_not_that_of_the_undo() {
    let (mut c, _) = members(1, None, false);
    c.create_ledger(0);
    insert(&c, 0, 1);
    let base = back_up(&c, 0, "base");
    insert(&c, 0, 2);
    // Made before it is asked for, so that it is the newest one in the store.
    let kept = pin(&c, 0, "undo");
    let last = insert(&c, 0, 3);
    ask(&mut c, "back", &json!({"latest": {}}), Some("undo"));
    let restored = await_job(&c, 0, "/cluster/restore", "back")["restored"].clone();
    assert_eq!((&restored["index"], &restored["undo"]), (&base["index"], &kept["path"]));
    assert_eq!(restored["replacedIndex"], json!(last));
    assert_eq!(c.assert_ledger(0, &[]), [1]);
    // After a start only the state tells of it, and the store of what it replaced.
    assert_eq!(c.terminate(0), Some(0));
    c.start(0);
    c.await_ready(0);
    let known = await_job(&c, 0, "/cluster/restore", "back");
    assert_eq!(known["restored"]["replacedIndex"], json!(last), "{known}");
    insert(&c, 0, 4);
    ask(&mut c, "forth", &json!({ "index": last }), None);
    let job = await_job(&c, 0, "/cluster/restore", "forth");
    assert!(job["message"].as_str().unwrap().contains("nothing brings back"), "{job}");
    assert_eq!(job["restored"]["replacedIndex"], Value::Null);
    assert_eq!(c.assert_ledger(0, &[]), [1, 2, 3]);
    // What is kept with a backup goes with it.
    let paths = json!({"paths": [kept["path"], base["path"]]}).to_string();
    assert_eq!(c.delete(0, "/cluster/backups", &paths).0, 200);
    assert!(
        support::backups::files_below(&c.root().join("store").join(cluster_id(&c)).join("backups"))
            .is_empty()
    );
}

#[test]
fn what_the_log_does_not_have_any_more_is_not_replaced() {
    let mut c = Cluster::empty();
    let config = settings(c.root(), None, false);
    c.add_members(1, &["-backup-config", config.to_str().unwrap(), "-log-retention", "0"]);
    c.start(0);
    c.await_ready(0);
    c.create_ledger(0);
    let base = back_up(&c, 0, "base");
    pin(&c, 0, "undo");
    insert(&c, 0, 1);
    let (status, body) = c.post(0, "/snapshot?trailing_logs=0", "");
    assert_eq!(status, 200, "{body}");
    ask(&mut c, "back", &json!({ "backup": base["path"] }), Some("undo"));
    let why = await_failed(&mut c, 0, "back");
    assert!(why.contains("not in the log any more") && why.contains("nothing was replaced"), "{why}");
    assert_eq!(c.assert_ledger(0, &[]), [1]);
}

#[test]
fn a_step_that_fails_while_writes_wait_lets_them_go_on() {
    let (mut c, _) = members(3, None, false);
    c.create_ledger(0);
    let base = back_up(&c, 0, "base");
    let writers = c.write_to(&[0, 1, 2], 3, 100);
    for (place, after) in [(Place::RestoreFenced, "eio"), (Place::RestoreKept, "enospc")] {
        let leader = leader_of(&mut c);
        c.kill(leader);
        c.start_armed(leader, &format!("{}=return({after})", place.name()));
        c.await_ready(leader);
        c.lead(leader);
        let undo = format!("undo-{}", place.name().replace('.', "-"));
        pin(&c, leader, &undo);
        writers.await_more(20);
        let refused = writers.refused();
        let name = format!("back-{undo}");
        ask(&mut c, &name, &json!({ "backup": base["path"] }), Some(&undo));
        let why = await_failed(&mut c, leader, &name);
        assert!(why.contains("os error"), "{why}");
        writers.await_more(20);
        assert_eq!(writers.refused(), refused, "{}", writers.last_refusal());
        assert!(c.log(leader).contains("writes wait until"));
    }
    // Nothing was replaced.
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_store_that_is_too_slow_while_writes_wait_is_given_another_chance() {
    let (mut c, config) = members(3, None, false);
    c.create_ledger(0);
    let base = back_up(&c, 0, "base");
    let leader = leader_of(&mut c);
    c.kill(leader);
    c.start_armed(leader, "restore.fenced=1*sleep(3200)->off");
    c.await_ready(leader);
    c.lead(leader);
    pin(&c, leader, "undo");
    let writers = c.write_to(&[0, 1, 2], 3, 100);
    writers.await_more(20);
    ask(&mut c, "back", &json!({ "backup": base["path"] }), Some("undo"));
    let job = await_job(&c, leader, "/cluster/restore", "back");
    assert!(c.log(leader).contains("was not in time"), "{}", c.log(leader));
    writers.await_more(20);
    let acknowledged = writers.stop();
    let after: BTreeSet<u64> = c.assert_ledger(leader, &[]).into_iter().collect();
    let before = ledger_at(&c, &config, job["restored"]["replacedIndex"].as_u64().unwrap());
    assert!(acknowledged.iter().all(|n| before.contains(n) != after.contains(n)));
}

#[test]
fn a_leader_that_loses_the_lead_while_writes_wait_replaces_nothing() {
    let (mut c, _) = members(3, None, false);
    c.create_ledger(0);
    let base = back_up(&c, 0, "base");
    let leader = leader_of(&mut c);
    let other = (leader + 1) % 3;
    c.kill(leader);
    c.start_armed(leader, "restore.fenced=1*sleep(2500)->off");
    c.await_ready(leader);
    c.lead(leader);
    pin(&c, leader, "undo");
    let last = insert(&c, leader, 1);
    ask(&mut c, "back", &json!({ "backup": base["path"] }), Some("undo"));
    c.await_log(leader, "writes wait until");
    c.send_leadership(other, other).unwrap();
    c.until("another one leads", |c| {
        (c.report(other)["leader"]["name"] == json!(c.members[other].name)).then_some(())
    });
    // It does not wait for what happens on the one before.
    assert!(insert(&c, other, 2) > last);
    let why = await_failed(&mut c, leader, "back");
    // It may have heard of the next leader, or not yet.
    assert!(["not leader", "leader not found"].iter().any(|reason| why.contains(reason)), "{why}");
    c.lead(leader);
    insert(&c, leader, 3);
    (0..3).for_each(|i| assert_eq!(c.assert_ledger(i, &[]), [1, 2, 3]));
}
