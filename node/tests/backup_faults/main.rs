//! Backups, the archive and restores go wrong in the middle: a member ends at each step, the store fails as stores do,
//! the server of an import too. What comes back is exactly a state that the cluster had, or a clear error.
//!
//! Needs `--features failpoints`; tests that are ignored need a real S3 server, whose program `BACKUP_S3` names.
//! `BACKUP_AWAY` is how many seconds the store is away (5; the proof takes 300).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod latency;

use node::failpoint::Place;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::backups::{
    IMPORT, await_archived, await_failed, await_job, back_up, cluster_id, import_settings, importing, insert,
    leader_of, ledger, members, pin, restore,
};
use support::certificates::Authority;
use support::http_faults::{Fault, HttpFaults, Request};
use support::stores::{self, StoreServer, s3_at};
use support::tls_door::TlsDoor;
use support::{Cluster, cluster, free_ports};

fn armed(place: Place, after: u32) -> String {
    format!("{}={after}*off->return(abort)", place.name())
}

/// Restores the newest state, which must be exactly what the cluster has.
fn assert_archive_is_whole(c: &mut Cluster, config: &Path, what: &str) {
    let leader = leader_of(c);
    let last = insert(c, leader, 1 << 40);
    await_archived(c, last);
    let out = c.root().join("whole.sqlite");
    let all = restore("restore", config, &cluster_id(c), "latest", &out);
    assert_eq!(all.restored["index"], json!(last), "{what}: {}", all.message);
    let order = "SELECT group_concat(n) FROM (SELECT n FROM ledger ORDER BY rowid)";
    let order = c.value(leader, order, "linearizable");
    let found: Vec<String> = ledger(&out).iter().map(i64::to_string).collect();
    assert!(
        order == json!(found.join(",")),
        "{what}: {} rows, in another order or of other numbers",
        found.len()
    );
    std::fs::remove_file(&out).unwrap();
    c.execute(leader, &json!([format!("DELETE FROM ledger WHERE n = {}", 1_u64 << 40)]));
}

#[test]
fn a_member_ends_while_it_archives() {
    let (mut c, config) = members(3, Some(1), true);
    c.create_ledger(0);
    let writers = c.write_to(&[0, 1, 2], 2, 100);
    for place in [Place::ArchiveRead, Place::ArchivePut] {
        let i = (leader_of(&mut c) + 1) % 3;
        c.kill(i);
        c.start_armed(i, &armed(place, 2));
        // What members say of the leader may be from before: it is handed over until it ends.
        c.until("it leads, and ends", |c| {
            c.send_leadership((i + 1) % 3, i)?;
            c.log(i).contains(&format!("failpoint {}", place.name())).then_some(())
        });
        c.await_abort(i, place.name());
        c.start(i);
        c.await_ready(i);
        writers.await_more(10);
    }
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
    assert_archive_is_whole(&mut c, &config, "killed while it archives");
}

#[test]
fn a_member_ends_while_it_archives_a_database_that_was_loaded() {
    let (mut c, config) = members(1, Some(1), false);
    c.create_ledger(0);
    let index = insert(&c, 0, 1);
    await_archived(&mut c, index);
    assert_eq!(c.terminate(0), Some(0));
    c.start_armed(0, &armed(Place::ArchiveFile, 0));
    c.await_ready(0);
    let file = c.root().join("loaded.sqlite");
    let loaded = rusqlite::Connection::open(&file).unwrap();
    loaded.execute_batch("CREATE TABLE ledger(n, filling); INSERT INTO ledger VALUES(7, NULL)").unwrap();
    loaded.close().unwrap();
    // It may end before it answers.
    let load = reqwest::blocking::Client::new().post(c.url(0, "/db/load"));
    drop(load.body(std::fs::read(&file).unwrap()).send());
    c.await_abort(0, "archive.file");
    c.start(0);
    c.await_ready(0);
    assert_archive_is_whole(&mut c, &config, "killed beside a loaded database");
}

#[test]
fn a_member_ends_while_it_makes_a_backup() {
    let (mut c, config) = members(3, None, false);
    let id = cluster_id(&c);
    c.create_ledger(0);
    for n in 0..20 {
        insert(&c, 0, n);
    }
    let places = [Place::BackupPinned, Place::BackupPart, Place::BackupParts, Place::BackupComplete];
    for (round, place) in places.into_iter().enumerate() {
        let i = round % 3;
        let name = format!("round-{round}");
        assert_eq!(c.terminate(i), Some(0));
        c.start_armed(i, &armed(place, 0));
        c.await_ready(i);
        // It may end before it answers.
        let url = c.url(i, "/cluster/backups");
        let request = json!({"name": name, "kind": "Full"}).to_string();
        drop(reqwest::blocking::Client::new().post(url).body(request).send());
        c.await_abort(i, place.name());
        let other = (i + 1) % 3;
        let catalogue = |c: &Cluster| -> Vec<Value> {
            let read: Value = serde_json::from_str(&c.get(other, "/cluster/backups").1).unwrap();
            let all = read["backups"].as_array().unwrap();
            all.iter().filter(|backup| backup["name"] == json!(name)).cloned().collect()
        };
        assert_eq!(catalogue(&c).len(), usize::from(place == Place::BackupComplete), "{}", place.name());
        // Another member makes it, or finds it made.
        let made = back_up(&c, other, &name);
        assert_eq!(catalogue(&c), std::slice::from_ref(&made));
        let out = c.root().join("out.sqlite");
        let to = format!("backup:{}", made["path"].as_str().unwrap());
        let back = restore("restore", &config, &id, &to, &out);
        assert_eq!(ledger(&out), (0..20).collect::<Vec<_>>(), "{}", back.message);
        std::fs::remove_file(&out).unwrap();
        c.start(i);
        c.await_ready(i);
    }
}

/// With the archive alone, and with a backup that undoes it.
fn a_leader_ends_while_it_restores(by_archive: bool) {
    let (mut c, config) = members(3, by_archive.then_some(1), false);
    c.create_ledger(0);
    let target = insert(&c, 0, 1);
    let target = if by_archive {
        await_archived(&mut c, target);
        json!({ "index": target })
    } else {
        json!({"backup": back_up(&c, 0, "base")["path"]})
    };
    let places = [
        Place::RestoreRebuilt,
        Place::RestoreMarked,
        Place::RestoreFenced,
        Place::RestoreKept,
        Place::RestoreProposed,
        Place::RestoreInstalled,
    ];
    for (round, place) in places.into_iter().enumerate() {
        let leader = leader_of(&mut c);
        let name = format!("round-{round}");
        let undo = format!("{name}-undo");
        let mut request = json!({"name": name, "target": target, "confirmClusterId": cluster_id(&c)});
        if !by_archive {
            pin(&c, (leader + 1) % 3, &undo);
            request["undo"] = json!(undo);
        }
        let present = insert(&c, leader, 100 + round);
        if by_archive {
            await_archived(&mut c, present);
        }
        let before = c.assert_ledger(leader, &[]);
        c.kill(leader);
        c.start_armed(leader, &armed(place, 0));
        c.await_ready(leader);
        c.lead(leader);
        assert_eq!(c.post(leader, "/cluster/restore", &request.to_string()).0, 200);
        c.await_abort(leader, place.name());
        let next = leader_of(&mut c);
        let jobs: Value = serde_json::from_str(&c.get(next, "/cluster/restore").1).unwrap();
        let known = jobs["jobs"].as_array().unwrap().iter().any(|job| job["name"] == json!(name));
        let happened = match place {
            Place::RestoreInstalled => true,
            // Whoever leads next has the entry, or nobody.
            Place::RestoreProposed => known,
            _ => false,
        };
        assert_eq!(known, happened, "{}", place.name());
        let holds = c.assert_ledger(next, &[]);
        assert_eq!(holds, if happened { vec![1] } else { before.clone() }, "{}", place.name());
        // Asked again, it comes to its end, once.
        insert(&c, next, 7);
        assert_eq!(c.post(next, "/cluster/restore", &request.to_string()).0, 200);
        let job = await_job(&c, next, "/cluster/restore", &name);
        let holds = c.assert_ledger(next, &[]);
        assert_eq!(holds, if happened { vec![1, 7] } else { vec![1] }, "{}", place.name());
        if !by_archive {
            // Whoever tells of it knows what was replaced, to the last write.
            let out = c.root().join("out.sqlite");
            let to = format!("index:{}", job["restored"]["replacedIndex"]);
            let back = restore("restore", &config, &cluster_id(&c), &to, &out);
            assert!(back.restored.is_object(), "{}: {}", place.name(), back.message);
            let mut wanted: Vec<u64> = before;
            if !happened {
                wanted.push(7);
            }
            wanted.sort_unstable();
            let mut found: Vec<u64> = ledger(&out).into_iter().map(|n| n as u64).collect();
            found.sort_unstable();
            assert_eq!(found, wanted, "{}", place.name());
            std::fs::remove_file(&out).unwrap();
        }
        c.start(leader);
        c.await_ready(leader);
    }
}

#[test]
fn a_leader_ends_while_it_restores_beside_an_archive() {
    a_leader_ends_while_it_restores(true);
}

#[test]
fn a_leader_ends_while_it_restores_what_an_undo_brings_back() {
    a_leader_ends_while_it_restores(false);
}

#[test]
fn a_cluster_begins_with_what_another_one_serves() {
    let from = cluster(1);
    from.create_ledger(0);
    for n in 0..50 {
        insert(&from, 0, n);
    }
    let faults = HttpFaults::start(from.members[0].http);
    faults.set(|request: &Request| match request.number {
        0 => Fault::Refuse(503),
        1 => Fault::Cut,
        2 => Fault::Close,
        _ => Fault::Pass,
    });
    for query in ["", "?compress", "?fmt=sql"] {
        let mut c = importing(&format!("http://127.0.0.1:{}/db/backup{query}", faults.port));
        assert_eq!(c.post(0, "/cluster/restore", IMPORT).0, 200);
        await_job(&c, 0, "/cluster/restore", "begin");
        assert_eq!(c.assert_ledger(0, &[]), (0..50).collect::<Vec<_>>(), "{query}");
        // It is not done twice, whatever was forgotten.
        insert(&c, 0, 50);
        assert_eq!(c.terminate(0), Some(0));
        c.start(0);
        c.await_ready(0);
        assert_eq!(c.post(0, "/cluster/restore", IMPORT).0, 200);
        await_job(&c, 0, "/cluster/restore", "begin");
        assert_eq!(c.assert_ledger(0, &[]).len(), 51, "{query}");
        let other = IMPORT.replace("begin", "again");
        assert_eq!(c.post(0, "/cluster/restore", &other).0, 409, "it holds something");
    }
    assert!(faults.count() >= 6);
}

#[test]
fn what_cannot_be_imported_is_said() {
    let port = free_ports(1)[0];
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for caller in listener.incoming() {
            let Ok(mut caller) = caller else { return };
            let mut head = [0; 4096];
            let read = std::io::Read::read(&mut caller, &mut head).unwrap_or(0);
            let body = match head[..read].split(|b| *b == b' ').nth(1) {
                Some(b"/text") => "CREATE TABLE t(a); INSERT INTO missing VALUES(1);",
                Some(b"/noise") => "SQLite format 3\0 and nothing more",
                Some(b"/end") => return,
                _ => {
                    drop(caller.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\nnot here\n"));
                    continue;
                }
            };
            drop(write!(caller, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let mut c = importing(&format!("http://127.0.0.1:{port}/none?sig=secret"));
    for (path, part) in [
        ("none?sig=secret", "404 Not Found: not here"),
        ("text", "statement 2"),
        ("noise", "invalid SQLite data: it is too short"),
    ] {
        import_settings(&c, &format!("http://127.0.0.1:{port}/{path}"));
        assert_eq!(c.post(0, "/cluster/restore", IMPORT).0, 200);
        let job = c.until("it fails", |c| {
            let jobs: Value = serde_json::from_str(&c.get(0, "/cluster/restore").1).unwrap();
            (jobs["jobs"][0]["state"] == "Failed").then(|| jobs["jobs"][0].clone())
        });
        let message = job["message"].as_str().unwrap();
        assert!(message.contains(part) && !message.contains("secret"), "{path}: {message}");
    }
    assert!(!c.log(0).contains("sig=secret"));
    let index = json!({"name": "i", "source": "Other", "target": {"index": 3}}).to_string();
    assert_eq!(c.post(0, "/cluster/restore", &index).0, 400);
    drop(std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut end| end.write_all(b"GET /end x")));
}

/// Members that back up to a real S3 server, whose port `through` gives another one for.
fn backing_up(n: usize, through: impl FnOnce(u16) -> u16) -> (Cluster, StoreServer, PathBuf) {
    let program = std::env::var("BACKUP_S3").expect("BACKUP_S3 names the program of an S3 server");
    let mut c = Cluster::empty();
    let (server, _) = stores::s3(&program, c.root());
    let config = c.root().join("backup.yaml");
    let settings = json!({
        "store": s3_at(c.root(), through(server.port)), "continuous": {"enabled": true, "rpoTargetSeconds": 1},
    });
    std::fs::write(&config, settings.to_string()).unwrap();
    c.add_members(n, &["-backup-config", config.to_str().unwrap(), "-consistency-period", "1s"]);
    (0..n).for_each(|i| c.start(i));
    (0..n).for_each(|i| c.await_ready(i));
    c.create_ledger(0);
    (c, server, config)
}

/// The same behind a proxy that goes wrong.
fn behind_faults(n: usize) -> (Cluster, StoreServer, HttpFaults, PathBuf) {
    let mut faults = None;
    let (c, server, config) = backing_up(n, |port| faults.insert(HttpFaults::start(port)).port);
    (c, server, faults.unwrap(), config)
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn a_store_that_goes_wrong_in_every_way_costs_time_and_nothing_else() {
    let (mut c, _server, faults, config) = behind_faults(3);
    let writers = c.write_to(&[0, 1, 2], 2, 2000);
    faults.set(|request| match request.number % 7 {
        1 => Fault::Refuse(503),
        2 => Fault::Lose,
        3 => Fault::Late(Duration::from_millis(200)),
        4 if request.method == "GET" => Fault::Cut,
        5 => Fault::Close,
        _ => Fault::Pass,
    });
    writers.await_more(200);
    let leader = leader_of(&mut c);
    let made = back_up(&c, (leader + 1) % 3, "in-trouble");
    writers.await_more(50);
    let acknowledged = writers.stop();
    assert!(!acknowledged.is_empty());
    c.assert_ledgers(&acknowledged);
    assert_archive_is_whole(&mut c, &config, "a store in trouble");
    let out = c.root().join("out.sqlite");
    let to = format!("backup:{}", made["path"].as_str().unwrap());
    let back = restore("restore", &config, &cluster_id(&c), &to, &out);
    assert_eq!(back.restored["index"], made["index"], "{}", back.message);
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn a_store_that_hangs_while_writes_wait_holds_them_up_for_a_moment_and_nothing_is_replaced() {
    let (mut c, _server, faults, config) = behind_faults(3);
    let index = insert(&c, 0, 1 << 40);
    await_archived(&mut c, index);
    let leader = leader_of(&mut c);
    pin(&c, (leader + 1) % 3, "undo");
    let writers = c.write_to(&[0, 1, 2], 3, 100);
    writers.await_more(50);
    // What is kept with the backup takes longer than writes may wait.
    faults.set(|request| match request.path.contains("undo/log/") && request.method == "PUT" {
        true => Fault::Late(Duration::from_secs(4)),
        false => Fault::Pass,
    });
    writers.take_longest_pause();
    let request = |name: &str| {
        let id = cluster_id(&c);
        json!({"name": name, "target": {"index": index}, "confirmClusterId": id, "undo": "undo"}).to_string()
    };
    let (first, second) = (request("first"), request("second"));
    assert_eq!(c.post(leader, "/cluster/restore", &first).0, 200);
    let why = await_failed(&mut c, leader, "first");
    assert!(why.contains("could not be kept within"), "{why}");
    writers.await_more(50);
    assert_eq!(writers.refused(), 0, "{}", writers.last_refusal());
    let pause = writers.take_longest_pause();
    println!("writes waited for {pause:?} at most");
    assert!(pause < Duration::from_secs(4), "{pause:?}");
    assert!(c.assert_ledger(leader, &[]).len() > 50, "it was replaced");
    faults.set(|_| Fault::Pass);
    assert_eq!(c.post(leader, "/cluster/restore", &second).0, 200);
    let job = await_job(&c, leader, "/cluster/restore", "second");
    writers.await_more(50);
    println!("and for {:?} with a store that answers", writers.take_longest_pause());
    let acknowledged = writers.stop();
    let after = c.assert_ledger(leader, &[]);
    let out = c.root().join("before.sqlite");
    let to = format!("index:{}", job["restored"]["replacedIndex"]);
    let before = restore("restore", &config, &cluster_id(&c), &to, &out);
    assert!(before.restored.is_object(), "{}", before.message);
    let before = ledger(&out);
    let is_there = |n: &&u64| after.contains(n) != before.contains(&(**n as i64));
    assert_eq!(acknowledged.iter().filter(is_there).count(), acknowledged.len());
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn a_store_that_is_away_hurts_no_write_and_the_archive_catches_up() {
    let seconds: u64 =
        std::env::var("BACKUP_AWAY").map_or(5, |n| n.parse().expect("BACKUP_AWAY is a number"));
    let (mut c, _server, faults, config) = behind_faults(3);
    let index = insert(&c, 0, 0);
    await_archived(&mut c, index);
    let urls = (0..3).map(|i| c.url(i, "/db/execute")).collect();
    let writers = c.continue_ledger(urls, 2, 200, 1);
    faults.set(|_| Fault::Close);
    let begun = Instant::now();
    let leader = leader_of(&mut c);
    c.until("the report says so", |c| (c.report(leader)["archive"]["state"] == "Behind").then_some(()));
    while begun.elapsed() < Duration::from_secs(seconds) {
        writers.await_more(10);
    }
    faults.set(|_| Fault::Pass);
    let back = Instant::now();
    let last = insert(&c, leader, 1 << 41);
    await_archived(&mut c, last);
    let caught_up = back.elapsed();
    c.until("the report says so", |c| (c.report(leader)["archive"]["state"] == "OnTarget").then_some(()));
    assert_eq!(writers.refused(), 0, "a write was hurt");
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
    assert_archive_is_whole(&mut c, &config, "a store that was away");
    println!(
        "the store was away for {seconds} s: {} writes acknowledged, none failed; caught up {:.1} s after it came back",
        acknowledged.len(),
        caught_up.as_secs_f64()
    );
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn a_list_from_before_gives_an_older_moment_or_an_error_and_never_another_state() {
    let (mut c, _server, faults, config) = behind_faults(1);
    let first = insert(&c, 0, 0);
    await_archived(&mut c, first);
    let id = cluster_id(&c);
    let out = c.root().join("out.sqlite");
    // What this lists is what is listed later on.
    faults.forget();
    let old = restore("restore", &config, &id, "latest", &out);
    std::fs::remove_file(&out).unwrap();
    let old = old.restored["index"].as_u64().unwrap();
    let mut last = 0;
    for n in 1..40 {
        last = insert(&c, 0, n);
    }
    await_archived(&mut c, last);
    faults.set(|request| if request.path.contains("list-type") { Fault::Stale } else { Fault::Pass });
    let stale = restore("restore", &config, &id, "latest", &out);
    let index = stale.restored["index"].as_u64().unwrap_or_else(|| panic!("{}", stale.message));
    assert!((old..=last).contains(&index), "{index}: {}", stale.message);
    let found = ledger(&out);
    assert_eq!(found, (0..found.len() as i64).collect::<Vec<_>>(), "a prefix");
    std::fs::remove_file(&out).unwrap();
    let beyond = restore("restore", &config, &id, &format!("index:{last}"), &out);
    if beyond.restored == Value::Null {
        assert!(beyond.message.contains("the archive ends with entry"), "{}", beyond.message);
    } else {
        assert_eq!(beyond.restored["index"], json!(last));
    }
    // A member that starts with such a list goes on without a hole all the same.
    assert_eq!(c.terminate(0), Some(0));
    c.start(0);
    c.await_ready(0);
    insert(&c, 0, 40);
    faults.set(|_| Fault::Pass);
    assert_archive_is_whole(&mut c, &config, "an archiver with an old list");
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn what_is_deleted_while_it_is_restored_is_gone_around() {
    let (mut c, server, faults, config) = behind_faults(1);
    let first = insert(&c, 0, 1);
    await_archived(&mut c, first);
    let newest = back_up(&c, 0, "newest");
    let last = insert(&c, 0, 2);
    await_archived(&mut c, last);
    let id = cluster_id(&c);
    let path = newest["path"].as_str().unwrap();
    let own = server.objects.join(&id).join("backups").join(path);
    let out = c.root().join("out.sqlite");
    let latest = || restore("restore", &config, &id, "latest", &out);
    let part = format!("{path}/00000");
    // It is chosen before it goes.
    faults.set(move |request| {
        if request.method == "GET" && request.path.contains(&part) && own.exists() {
            std::fs::remove_dir_all(&own).unwrap();
        }
        Fault::Pass
    });
    let back = latest();
    assert!(back.restored["index"].as_u64() >= Some(last), "{}", back.message);
    assert_ne!(back.restored["backup"], newest["path"]);
    assert_eq!(ledger(&out), [1, 2]);
    // What is listed and never comes is an error.
    std::fs::remove_file(&out).unwrap();
    faults.set(|request| match request.method == "GET" && request.path.contains("/log/") {
        true => Fault::Refuse(404),
        false => Fault::Pass,
    });
    let back = latest();
    assert!(back.message.contains("is not in the store"), "{}", back.message);
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn a_store_that_is_away_for_a_moment_ends_neither_a_backup_nor_a_restore() {
    let (mut c, _server, faults, config) = behind_faults(1);
    let last = insert(&c, 0, 1);
    await_archived(&mut c, last);
    // More than its client tries by itself.
    let away = |what: &'static str| {
        let refused = AtomicU64::new(0);
        move |request: &Request| match request.path.contains(what)
            && refused.fetch_add(1, Ordering::Relaxed) < 12
        {
            true => Fault::Close,
            false => Fault::Pass,
        }
    };
    faults.set(away("patient/00000"));
    let made = back_up(&c, 0, "patient");
    faults.set(away("patient/manifest.json"));
    let to = format!("backup:{}", made["path"].as_str().unwrap());
    let out = c.root().join("out.sqlite");
    let back = restore("restore", &config, &cluster_id(&c), &to, &out);
    assert_eq!(back.restored["index"], made["index"], "{}", back.message);
    assert_eq!(ledger(&out), [1]);
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn credentials_that_only_write_are_enough_to_back_up() {
    let (mut c, _server, faults, config) = behind_faults(1);
    faults.set(|request| if request.method == "PUT" { Fault::Pass } else { Fault::Refuse(403) });
    // From the first word on: nothing of the store is known to this process.
    assert_eq!(c.terminate(0), Some(0));
    c.start(0);
    c.await_ready(0);
    let last = insert(&c, 0, 1);
    let made = back_up(&c, 0, "blind");
    assert!(made["index"].as_u64().unwrap() >= last);
    let probe: Value = serde_json::from_str(&c.post(0, "/cluster/backups/probe", "").1).unwrap();
    assert_eq!((&probe["writable"], &probe["readable"]), (&json!(true), &json!(false)), "{probe}");
    c.until("the archive is on target", |c| (c.report(0)["archive"]["state"] == "OnTarget").then_some(()));
    faults.set(|_| Fault::Pass);
    assert_archive_is_whole(&mut c, &config, "made with credentials that only write");
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn a_store_behind_tls_is_used_only_where_its_authority_is_trusted() {
    let (mut c, server, config) = backing_up(1, |port| port);
    let (ours, theirs) = (Authority::new("of the store"), Authority::new("of somebody else"));
    let door = TlsDoor::start(server.port, &ours.issue(c.root(), "store", &["127.0.0.1"]));
    let settings = |ca: Option<String>| {
        let mut store = s3_at(c.root(), door.port);
        store["s3"]["endpoint"] = json!(format!("https://127.0.0.1:{}", door.port));
        if let Some(ca) = ca {
            store["s3"]["caFile"] = json!(ca);
        }
        json!({"store": store, "continuous": {"enabled": true, "rpoTargetSeconds": 1}}).to_string()
    };
    let distrusting = [settings(None), settings(Some(theirs.write(&c.root().join("theirs.crt"))))];
    let trusting = settings(Some(ours.write(&c.root().join("ours.crt"))));
    let (id, out) = (cluster_id(&c), c.root().join("out.sqlite"));
    for (n, distrusting) in distrusting.iter().enumerate() {
        std::fs::write(&config, distrusting).unwrap();
        let probe = c.until("the probe fails", |c| {
            let probe: Value = serde_json::from_str(&c.post(0, "/cluster/backups/probe", "").1).unwrap();
            (probe["writable"] == json!(false)).then_some(probe)
        });
        assert!(probe["message"].as_str().unwrap().contains("certificate"), "{n}: {probe}");
        insert(&c, 0, n);
        c.until("the report says so", |c| {
            let report = c.report(0)["archive"].clone();
            let why = report["message"].as_str().unwrap_or_default();
            (report["state"] != "OnTarget" && why.contains("certificate")).then_some(())
        });
        // From a store that was reached to one that is not.
        std::fs::write(&config, &trusting).unwrap();
        c.until("the archive is on target", |c| {
            (c.report(0)["archive"]["state"] == "OnTarget").then_some(())
        });
    }
    let probe: Value = serde_json::from_str(&c.post(0, "/cluster/backups/probe", "").1).unwrap();
    assert_eq!(probe, json!({"writable": true, "readable": true, "deletable": true}));
    let made = back_up(&c, 0, "over-tls");
    let to = format!("backup:{}", made["path"].as_str().unwrap());
    let back = restore("restore", &config, &id, &to, &out);
    assert_eq!(back.restored["index"], made["index"], "{}", back.message);
    assert_eq!(ledger(&out), [0, 1]);
    assert_archive_is_whole(&mut c, &config, "over TLS");
}
