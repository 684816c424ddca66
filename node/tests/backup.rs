//! Backups by real processes: what is in the store brings back every moment, or says why it does not.
//!
//! `BACKUP_MOMENTS`, `BACKUP_DISASTERS` say how many moments are brought back, and how often everything is lost; the proof
//! takes 100 and 20. `BACKUP_MIB` is the size of the large database (2048), `BACKUP_S3` the program of an S3 server
//! (versitygw) that it goes to, and that is left when everything is lost; without it a directory is the store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "backup/away.rs"]
mod away;
#[path = "backup/going_down.rs"]
mod going_down;
#[path = "backup/litestream.rs"]
mod litestream;
#[path = "backup/moments.rs"]
mod moments;
#[path = "backup/recovery_point.rs"]
mod recovery_point;
#[path = "backup/snapshot.rs"]
mod snapshot;
mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use support::backups::{
    await_archived, back_up, cluster_id, files_below, insert, leader_of, ledger, members, restore,
    restore_in_place, restore_with, settings, store,
};
use support::memory::PeakMemory;
use support::{Cluster, cluster};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn with_keys_only_what_they_encrypted_is_restored() {
    let (c, config) = members(1, None, false);
    c.create_ledger(0);
    let last = insert(&c, 0, 1);
    back_up(&c, 0, "from-before-the-keys");
    let out = c.root().join("out.sqlite");
    // The same store, by somebody who has keys.
    settings(c.root(), None, true);
    let refused = restore("restore", &config, &cluster_id(&c), "latest", &out);
    assert!(refused.message.contains("it is not encrypted"), "{}", refused.message);
    assert!(!out.exists());
    let mut accepting: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    accepting["encryption"]["unencrypted"] = json!("accept");
    std::fs::write(&config, accepting.to_string()).unwrap();
    let accepted = restore("restore", &config, &cluster_id(&c), "latest", &out);
    assert_eq!(accepted.restored["index"], json!(last), "{}", accepted.message);
    assert_eq!(ledger(&out), [1]);
}

#[test]
fn what_is_damaged_or_missing_is_an_error_and_never_a_wrong_database() {
    let (c, config) = members(1, None, false);
    c.create_ledger(0);
    for n in 0..50 {
        insert(&c, 0, n);
    }
    let backup = back_up(&c, 0, "first");
    assert_eq!(back_up(&c, 0, "first"), backup, "asked again, it is the same one");
    let other = back_up(&c, 0, "other");
    let id = cluster_id(&c);
    let to = format!("backup:{}", backup["path"].as_str().unwrap());
    let scratch = c.root().join("scratch");
    let verify = || restore("verify", &config, &id, &to, &scratch);
    let good = verify();
    assert_eq!(good.restored["index"], backup["index"], "{}", good.message);
    let own = c.root().join("store").join(&id).join("backups").join(backup["path"].as_str().unwrap());
    for file in files_below(&own) {
        let whole = std::fs::read(&file).unwrap();
        let name = file.display();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            std::fs::write(&file, changed).unwrap();
            assert_eq!(verify().restored, Value::Null, "byte {at} of {name}");
        }
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(verify().restored, Value::Null, "{name} cut short");
        std::fs::remove_file(&file).unwrap();
        let missing = verify();
        assert!(
            missing.message.contains("not in the store") || missing.message.contains("no complete backup")
        );
        std::fs::write(&file, &whole).unwrap();
    }
    assert!(verify().message.is_empty());
    // A manifest that cannot be read hides no other backup, and what can be reached without it is restored.
    let manifest = own.join("manifest.json");
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, b"{}").unwrap();
    let listed: Value = serde_json::from_str(&c.get(0, "/cluster/backups").1).unwrap();
    assert_eq!((&listed["backups"], &listed["damaged"][0]["path"]), (&json!([other]), &backup["path"]));
    let to_other = format!("backup:{}", other["path"].as_str().unwrap());
    let restored = restore("verify", &config, &id, &to_other, &scratch);
    assert_eq!(restored.restored["index"], other["index"], "{}", restored.message);
    std::fs::write(&manifest, whole).unwrap();
    assert!(!scratch.join("verify").exists());
    // A query that a verification asks.
    let queries = c.root().join("queries.yaml");
    for (expect, succeeds) in [("50", true), ("51", false)] {
        std::fs::write(&queries, format!("[{{sql: 'SELECT count(*) FROM ledger', expect: '{expect}'}}]"))
            .unwrap();
        let report = c.root().join("report.json");
        let status = Command::new(env!("CARGO_BIN_EXE_sqlited"))
            .args(["verify", "-backup-config", config.to_str().unwrap(), "-cluster-id", &id, "-to", &to])
            .args(["-queries", queries.to_str().unwrap(), "-report", report.to_str().unwrap()])
            .arg(&scratch)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.success(), succeeds);
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert_eq!((report["restored"].is_object(), report["message"].is_string()), (succeeds, !succeeds));
    }
    // And it goes when it is to go.
    let path = json!({"paths": [backup["path"], other["path"]]}).to_string();
    assert_eq!(c.delete(0, "/cluster/backups", &path).0, 200);
    assert!(files_below(&c.root().join("store")).is_empty());
    assert_eq!(c.delete(0, "/cluster/backups", &path).0, 200, "repeatable");
}

#[test]
fn a_test_of_a_backup_goes_on_with_what_is_archived_after_it() {
    let (mut c, config) = members(1, Some(1), false);
    c.create_ledger(0);
    insert(&c, 0, 0);
    let backup = back_up(&c, 0, "first");
    let mut last = 0;
    for n in 1..20 {
        last = insert(&c, 0, n);
        if n % 6 == 0 {
            await_archived(&mut c, last);
        }
    }
    await_archived(&mut c, last);
    let id = cluster_id(&c);
    assert_eq!(c.terminate(0), Some(0), "nothing is put there any more");
    let to = format!("backup:{}", backup["path"].as_str().unwrap());
    let scratch = c.root().join("scratch");
    let alone = || restore("verify", &config, &id, &to, &scratch);
    let all = || restore_with(&["-replay"], "verify", &config, &id, &to, &scratch);
    assert_eq!(alone().restored["replayed"], 0);
    let whole = all();
    assert_eq!(whole.restored["backup"], backup["path"], "{}", whole.message);
    assert!(
        whole.restored["index"].as_u64() >= Some(last) && whole.restored["replayed"].as_u64() >= Some(19)
    );
    let is_after = |object: &Path| {
        let name = object.file_name().unwrap().to_str().unwrap();
        name.split('-').nth(1).unwrap().parse::<u64>().unwrap() > backup["index"].as_u64().unwrap()
    };
    let mut segments = files_below(&c.root().join("store").join(&id).join("log"));
    segments.retain(|object| is_after(object));
    assert!(segments.len() >= 3, "{segments:?}");
    for segment in &segments {
        let whole = std::fs::read(segment).unwrap();
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 4;
        std::fs::write(segment, changed).unwrap();
        assert_eq!(all().restored, Value::Null, "{}", segment.display());
        assert_eq!(alone().restored["index"], backup["index"]);
        std::fs::write(segment, whole).unwrap();
    }
    // A hole is no fault of the backup: it is told how far it reaches.
    std::fs::remove_file(&segments[1]).unwrap();
    let holed = all();
    assert!(holed.restored["index"].as_u64() < Some(last), "{}", holed.restored);
    assert!(holed.restored["index"].as_u64() > backup["index"].as_u64(), "{}", holed.message);
}

#[test]
fn whatever_happens_to_an_object_of_the_archive_an_older_state_comes_back_or_an_error() {
    let (mut c, config) = members(1, Some(1), true);
    c.create_ledger(0);
    // What the ledger held after an entry.
    let mut states = BTreeMap::new();
    let mut held = Vec::new();
    for round in 0..4 {
        if round == 2 {
            // A database that an entry names is an object too.
            let file = c.root().join("loaded.sqlite");
            let loaded = rusqlite::Connection::open(&file).unwrap();
            loaded
                .execute_batch("CREATE TABLE ledger(n, filling); INSERT INTO ledger VALUES(7, NULL)")
                .unwrap();
            loaded.close().unwrap();
            let load = reqwest::blocking::Client::new().post(c.url(0, "/db/load"));
            assert_eq!(load.body(std::fs::read(&file).unwrap()).send().unwrap().status(), 200);
            held = vec![7];
            states.insert(c.report(0)["appliedIndex"].as_u64().unwrap(), held.clone());
        }
        for n in 0..3 {
            held.push(100 * round + n);
            states.insert(insert(&c, 0, (100 * round + n) as usize), held.clone());
        }
        await_archived(&mut c, *states.last_key_value().unwrap().0);
    }
    let id = cluster_id(&c);
    assert_eq!(c.terminate(0), Some(0), "nothing is put there any more");
    let out = c.root().join("out.sqlite");
    let mut came_back = 0;
    let mut try_out = |what: &str| {
        let latest = restore("restore", &config, &id, "latest", &out);
        if latest.restored == Value::Null {
            assert!(latest.message.starts_with("fatal: ") && !latest.message.contains("panicked"), "{what}");
            return;
        }
        let index = latest.restored["index"].as_u64().unwrap();
        let state = states.range(..=index).next_back().map(|(_, state)| state.clone());
        assert_eq!(Some(ledger(&out)), state, "{what}: {}", latest.restored);
        std::fs::remove_file(&out).unwrap();
        came_back += 1;
    };
    try_out("nothing");
    let objects = files_below(&c.root().join("store").join(&id));
    assert!(objects.len() > 6, "{objects:?}");
    for object in &objects {
        let whole = std::fs::read(object).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            std::fs::write(object, changed).unwrap();
            try_out(&format!("byte {at} of {}", object.display()));
        }
        for length in [0, whole.len() - 1] {
            std::fs::write(object, &whole[..length]).unwrap();
            try_out(&format!("{length} bytes of {}", object.display()));
        }
        std::fs::remove_file(object).unwrap();
        try_out(&format!("without {}", object.display()));
        std::fs::write(object, &whole).unwrap();
    }
    try_out("everything as it was");
    println!("{} objects; {came_back} of {} restores came back", objects.len(), 6 * objects.len() + 2);
    assert!(came_back >= 2);
}

#[test]
fn a_cluster_goes_back_in_place_and_forth_again() {
    let (mut c, _) = members(3, Some(1), false);
    c.create_ledger(0);
    let mut index = 0;
    for n in 0..30 {
        index = insert(&c, 0, n);
    }
    await_archived(&mut c, index);
    for n in 30..60 {
        insert(&c, 0, n);
    }
    let leader = leader_of(&mut c);
    let follower = (leader + 1) % 3;
    let target = json!({ "index": index });
    let unconfirmed = json!({"name": "r", "target": target}).to_string();
    assert_eq!(c.post(leader, "/cluster/restore", &unconfirmed).0, 409);
    assert_eq!(c.post(follower, "/cluster/restore", &unconfirmed).0, 503, "only the leader");
    let restored = restore_in_place(&mut c, "back", &target, &json!({}));
    // Whoever leads next knows of it, and does not do it again.
    c.kill(leader);
    let next = leader_of(&mut c);
    let known: Value = serde_json::from_str(&c.get(next, "/cluster/restore").1).unwrap();
    assert_eq!(known["confirmed"], json!(true), "{known}");
    assert_eq!(
        (&known["jobs"][0]["name"], &known["jobs"][0]["state"]),
        (&json!("back"), &json!("Succeeded"))
    );
    let request = json!({"name": "back", "target": target, "confirmClusterId": cluster_id(&c)}).to_string();
    let again: Value = serde_json::from_str(&c.post(next, "/cluster/restore", &request).1).unwrap();
    assert_eq!(again, known["jobs"][0], "it is not begun again");
    c.start(leader);
    c.await_ready(leader);
    assert_eq!(restored["index"], json!(index));
    let rows = |c: &Cluster, i| c.value(i, "SELECT count(*) || ' ' || max(n) FROM ledger", "linearizable");
    (0..3).for_each(|i| assert_eq!(rows(&c, i), json!("30 29"), "member {i}"));
    // Members agree, page for page, and go on.
    let again = insert(&c, follower, 1000);
    await_archived(&mut c, again);
    c.until("members agree", |c| {
        (0..3).all(|i| c.report(i)["consistency"]["state"] == "consistent").then_some(())
    });
    // The undo: what was there before is an entry of the same log.
    let before = restored["replacedIndex"].clone();
    restore_in_place(&mut c, "undo", &json!({ "index": before }), &json!({}));
    (0..3).for_each(|i| assert_eq!(rows(&c, i), json!("60 59"), "member {i}"));
    // What came between is still there too, over the entry that put another database in place.
    restore_in_place(&mut c, "redo", &json!({ "index": again }), &json!({}));
    (0..3).for_each(|i| assert_eq!(rows(&c, i), json!("31 1000"), "member {i}"));
}

/// Of a backup alone nobody knows whether anything happened after it.
#[test]
fn an_archive_that_begins_after_a_backup_reaches_the_present_without_a_write() {
    let (mut c, config) = members(1, None, false);
    c.create_ledger(0);
    let index = insert(&c, 0, 1);
    let made = back_up(&c, 0, "mine");
    assert!(made["index"].as_u64().unwrap() >= index);
    let windows = |c: &Cluster| -> Value {
        let catalogue: Value = serde_json::from_str(&c.get(0, "/cluster/backups").1).unwrap();
        catalogue["windows"].clone()
    };
    assert_eq!(windows(&c), json!([]));
    assert_eq!(settings(c.root(), Some(1), false), config);
    c.until("the archive is on target", |c| (c.report(0)["archive"]["state"] == "OnTarget").then_some(()));
    let reached = windows(&c);
    assert!(reached[0]["lastIndex"].as_u64() >= Some(index), "{reached}");
}

/// What the leader reports of the archive follows what is deleted.
#[test]
fn what_is_deleted_is_no_moment_to_go_back_to_any_more() {
    let (mut c, _) = members(1, Some(1), false);
    c.create_ledger(0);
    let index = insert(&c, 0, 1);
    await_archived(&mut c, index);
    let earliest = |c: &mut Cluster, before: &Value| {
        c.until("the report says from when on", |c| {
            let report = c.report(0)["archive"].clone();
            let is_new = report["state"] == "OnTarget" && report["earliest"] != *before;
            is_new.then(|| report["earliest"].clone())
        })
    };
    let first = earliest(&mut c, &Value::Null);
    insert(&c, 0, 2);
    let mine = back_up(&c, 0, "mine");
    // What comes after it is archived: otherwise another base backup takes the place of the first at once.
    let after = insert(&c, 0, 3);
    await_archived(&mut c, after);
    let catalogue: Value = serde_json::from_str(&c.get(0, "/cluster/backups").1).unwrap();
    let all = catalogue["backups"].as_array().unwrap();
    let base = all.iter().find(|backup| backup["kind"] == "Base").unwrap();
    let paths = |path: &Value| json!({"paths": [path]}).to_string();
    assert_eq!(c.delete(0, "/cluster/backups", &paths(&base["path"])).0, 200);
    let second = earliest(&mut c, &first);
    assert!(second.as_str() > first.as_str(), "{first} {second}");
    // Without any, the archive makes another one.
    insert(&c, 0, 4);
    assert_eq!(c.delete(0, "/cluster/backups", &paths(&mine["path"])).0, 200);
    let third = earliest(&mut c, &second);
    assert!(third.as_str() > second.as_str(), "{second} {third}");
}

#[test]
fn a_store_that_is_away_hurts_no_write_and_leaves_no_hole() {
    let (mut c, config) = members(1, Some(1), false);
    c.create_ledger(0);
    let index = insert(&c, 0, 0);
    await_archived(&mut c, index);
    let (store, away) = (c.root().join("store"), c.root().join("away"));
    std::fs::rename(&store, &away).unwrap();
    std::fs::write(&store, b"not a directory").unwrap();
    let probe: Value = serde_json::from_str(&c.post(0, "/cluster/backups/probe", "").1).unwrap();
    assert_eq!((&probe["writable"], probe["message"].is_string()), (&json!(false), true), "{probe}");
    for n in 1..20 {
        insert(&c, 0, n);
    }
    let behind = c.until("the report says so", |c| {
        let report = c.report(0)["archive"].clone();
        (report["state"] == "Behind").then_some(report)
    });
    assert!(behind["message"].is_string() && behind["latest"].is_string(), "{behind}");
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    let index = insert(&c, 0, 20);
    await_archived(&mut c, index);
    c.until("the report says so", |c| (c.report(0)["archive"]["state"] == "OnTarget").then_some(()));
    let probe: Value = serde_json::from_str(&c.post(0, "/cluster/backups/probe", "").1).unwrap();
    assert_eq!(probe, json!({"writable": true, "readable": true, "deletable": true}));
    let out = c.root().join("out.sqlite");
    let all = restore("restore", &config, &cluster_id(&c), "latest", &out);
    assert_eq!(ledger(&out), (0..=20).collect::<Vec<_>>(), "{}", all.message);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut c = cluster(1);
    assert_eq!(c.get(0, "/cluster/backups").0, 409, "there is no store");
    assert_eq!(c.post(0, "/cluster/backups/probe", "").0, 409);
    assert_eq!(c.terminate(0), Some(0));
    let bad = c.root().join("bad.yaml");
    std::fs::write(&bad, "store: {tape: {}}").unwrap();
    c.add_flags(0, &["-backup-config", bad.to_str().unwrap()]);
    c.start(0);
    assert_eq!(c.exit_code(0), Some(1));
    assert!(c.log(0).contains("-backup-config"), "{}", c.log(0));
    let (mut c, _) = members(1, None, false);
    for name in ["", "Upper", "a/b", "..", ".a"] {
        let body = json!({"name": name, "kind": "Full"}).to_string();
        assert_eq!(c.post(0, "/cluster/backups", &body).0, 400, "{name}");
    }
    c.create_ledger(0);
    let restore =
        json!({"name": "x", "target": {"latest": {}}, "confirmClusterId": cluster_id(&c)}).to_string();
    assert_eq!(c.post(0, "/cluster/restore", &restore).0, 200);
    let job = c.until("it fails", |c| {
        let jobs: Value = serde_json::from_str(&c.get(0, "/cluster/restore").1).unwrap();
        (jobs["jobs"][0]["state"] == "Failed").then(|| jobs["jobs"][0].clone())
    });
    assert!(job["message"].as_str().unwrap().contains("no complete backup"), "{job}");
}

/// Peak of a process's memory, in MiB, since the last call.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    // Where that is not allowed the peak is that since the start, which is only more.
    drop(std::fs::write(format!("/proc/{pid}/clear_refs"), "5"));
    kib >> 10
}

#[test]
fn a_large_database_goes_out_and_comes_back() {
    const STATEMENT_MIB: usize = 8;
    /// Memory that a backup and a restore may take, in MiB.
    const MORE: u64 = 128;
    let mib = number("BACKUP_MIB", 24);
    let mut c = Cluster::empty();
    let config = c.root().join("backup.yaml");
    let (server, store) = store(c.root());
    std::fs::write(&config, json!({ "store": store }).to_string()).unwrap();
    c.add_members(3, &["-backup-config", config.to_str().unwrap()]);
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    let leader = c.await_leader(0);
    c.execute(leader, &json!(["CREATE TABLE large(n INTEGER PRIMARY KEY, a, b)"]));
    for _ in 0..mib / STATEMENT_MIB {
        let rows = format!("SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {}", (STATEMENT_MIB << 20) / 4000);
        // Half of it shrinks, as data do.
        c.execute(leader, &json!([format!(
            "WITH RECURSIVE c(x) AS ({rows}) INSERT INTO large(a, b) SELECT randomblob(2000), zeroblob(1900) FROM c"
        )]));
    }
    let maker = (leader + 1) % 3;
    // Both have applied everything, and rest.
    c.until("members agree", |c| {
        (0..3).all(|i| c.report(i)["consistency"]["state"] == "consistent").then_some(())
    });
    let pid = c.pid(maker);
    peak_mib(pid);
    c.until("the backup's member answers", |c| (c.get(maker, "/cluster").0 == 200).then_some(()));
    let idle = peak_mib(pid);
    let begun = Instant::now();
    let backup = back_up(&c, maker, "large");
    let out = begun.elapsed();
    let peak = peak_mib(pid);
    let size = backup["sizeBytes"].as_f64().unwrap() / f64::from(1 << 20);
    assert!(peak < idle + MORE, "the backup took {peak} MiB of memory, {idle} MiB before");

    for i in 0..3 {
        peak_mib(c.pid(i));
    }
    let memory = PeakMemory::watch(&c);
    let begun = Instant::now();
    restore_in_place(&mut c, "back", &json!({ "backup": backup["path"] }), &json!({}));
    let back = begun.elapsed();
    let peaks = memory.end();
    let restoring = peaks.iter().map(|peak| peak.mib()).max().unwrap();
    assert!(restoring < idle + MORE, "the restore took {restoring} MiB of memory, {idle} MiB before");
    let rows = c.value(leader, "SELECT count(*) FROM large", "linearizable");
    assert_eq!(rows, json!(mib / STATEMENT_MIB * ((STATEMENT_MIB << 20) / 4000)));

    let out_of_it = c.root().join("out.sqlite");
    let begun = Instant::now();
    let to = format!("backup:{}", backup["path"].as_str().unwrap());
    let file = restore("restore", &config, &cluster_id(&c), &to, &out_of_it);
    let as_file = begun.elapsed();
    assert_eq!(file.restored["index"], backup["index"], "{}", file.message);
    println!(
        "{size:.0} MiB to {}: out in {:.1} s ({:.0} MiB/s), {} MiB of memory more; back as a file in {:.1} s ({:.0} MiB/s); back \
         in place on three members in {:.1} s, {} MiB more in a member and the process that it starts",
        if server.is_some() { "an S3 server" } else { "a directory" },
        out.as_secs_f64(),
        size / out.as_secs_f64(),
        peak.saturating_sub(idle),
        as_file.as_secs_f64(),
        size / as_file.as_secs_f64(),
        back.as_secs_f64(),
        restoring.saturating_sub(idle)
    );
}

#[test]
fn a_member_serves_without_the_credentials_of_its_store_and_takes_them_when_they_come() {
    let mut c = Cluster::empty();
    let keys = c.root().join("keys");
    let config = c.root().join("backup.yaml");
    let settings = json!({
        "store": {"filesystem": {"path": c.root().join("store")}}, "encryption": {"keyFile": keys},
        "continuous": {"enabled": true, "rpoTargetSeconds": 1},
    });
    std::fs::write(&config, settings.to_string()).unwrap();
    c.add_members(1, &["-backup-config", config.to_str().unwrap()]);
    c.start(0);
    c.await_ready(0);
    c.create_ledger(0);
    let (status, body) = c.get(0, "/cluster/backups");
    assert!(status == 502 && body.contains("keys"), "{status} {body}");
    let behind = c.until("the report says so", |c| {
        let report = c.report(0)["archive"].clone();
        (report["state"] == "Behind").then_some(report)
    });
    assert!(behind["message"].as_str().unwrap().contains("keys"), "{behind}");
    std::fs::write(&keys, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    let index = insert(&c, 0, 1);
    await_archived(&mut c, index);
}
