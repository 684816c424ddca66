//! Members as processes: how they come together, what survives which end, who may leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use node::failpoint::Place;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::acceptor::Acceptor;
use support::{Cluster, StopAtEnd, cluster, cluster_with, patient, with_read_replica};

/// How often what takes a round is done: more for `make prove`.
fn rounds() -> usize {
    std::env::var("MEMBERS_ROUNDS").ok().map_or(2, |n| n.parse().expect("MEMBERS_ROUNDS is a number"))
}

#[test]
fn alone_without_flags_and_again_after_an_end_in_order() {
    let mut c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE t(a)", ["INSERT INTO t VALUES(?)", 7]]));
    assert_eq!(c.terminate(0), Some(0));
    c.start(0);
    c.await_ready(0);
    for level in ["none", "weak", "linearizable", "strong"] {
        assert_eq!(c.value(0, "SELECT a FROM t", level), json!(7), "{level}");
    }
}

#[test]
fn an_open_stream_of_events_does_not_hold_up_the_end() {
    let mut c = cluster(1);
    let events = c.open_events(0);
    let begin = Instant::now();
    assert_eq!(c.terminate(0), Some(0));
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "it ended after {took:?}");
    drop(events);
}

#[test]
fn a_query_that_runs_on_does_not_hold_up_the_end() {
    let mut c = cluster(1);
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
    let url = c.url(0, "/db/query");
    let asked = std::thread::spawn(move || {
        let http = patient();
        // It may end with an error, or without an answer; whoever hangs up ends it.
        drop(http.get(url).query(&[("q", endless)]).send().and_then(|answer| answer.bytes()));
    });
    let used = c.cpu_time(0);
    c.until("it runs", |c| (c.cpu_time(0) > used + Duration::from_millis(300)).then_some(()));
    // Requests in flight have some seconds; then nobody is waited for.
    assert_eq!(c.terminate(0), Some(0));
    asked.join().unwrap();
}

/// A consent that the member of this report goes on alone with everything up to an entry.
fn consent(report: &Value, index: &Value, term: &Value) -> String {
    let (cluster, node) = (&report["clusterId"], &report["nodeId"]);
    json!({"clusterId": cluster, "nodeId": node, "term": term, "index": index}).to_string()
}

#[test]
fn a_consent_names_an_entry_and_not_the_term_of_a_vote() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let (survivor, other) = ((leader + 1) % 3, (leader + 2) % 3);
    c.execute(leader, &json!(["CREATE TABLE t(a)", ["INSERT INTO t VALUES(?)", 7]]));
    c.value(survivor, "SELECT a FROM t", "linearizable");
    // The survivor stands, and whom it asks ends before it has answered.
    let armed = format!("{}=return(abort)", Place::VoteDurable.name());
    c.kill(other);
    c.start_armed(other, &armed);
    c.await_ready(other);
    c.kill(leader);
    let report = c.until("a vote raises the survivor's term", |c| {
        if c.has_ended(other) {
            c.await_abort(other, "it votes");
            c.start_armed(other, &armed);
        }
        let report = c.report(survivor);
        (report["term"].as_u64()? > report["lastLogTerm"].as_u64()?).then_some(report)
    });
    c.await_abort(other, "it voted");
    let index = &report["lastLogIndex"];
    let of_the_vote = c.post(survivor, "/cluster/recover", &consent(&report, index, &report["term"]));
    assert_eq!(of_the_vote.0, 400, "{}", of_the_vote.1);
    let of_the_entry = consent(&report, index, &report["lastLogTerm"]);
    c.until("the consent is taken", |c| {
        (c.post(survivor, "/cluster/recover", &of_the_entry).0 == 200).then_some(())
    });
    assert_eq!(c.exit_code(survivor), Some(0));
    c.start(survivor);
    c.await_ready(survivor);
    assert_eq!(c.value(survivor, "SELECT a FROM t", "linearizable"), json!(7));
}

#[test]
fn a_survivor_goes_on_alone_with_consent_and_the_old_ones_do_not_come_back() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)", ["INSERT INTO t VALUES(?)", 7]]));
    let survivor = 1;
    c.value(survivor, "SELECT a FROM t", "linearizable");
    (0..3).filter(|i| *i != survivor).for_each(|i| c.kill(i));
    let report = c.report(survivor);
    assert_eq!(
        c.post(survivor, "/cluster/recover", &consent(&report, &json!(1), &report["lastLogTerm"])).0,
        400,
        "another loss point"
    );
    c.until("the consent is taken", |c| {
        let report = c.report(survivor);
        let (index, term) = (&report["lastLogIndex"], &report["lastLogTerm"]);
        (c.post(survivor, "/cluster/recover", &consent(&report, index, term)).0 == 200).then_some(())
    });
    assert_eq!(c.exit_code(survivor), Some(0));
    c.start(survivor);
    c.await_ready(survivor);
    assert_eq!(c.value(survivor, "SELECT a FROM t", "linearizable"), json!(7));
    c.execute(survivor, &json!([["INSERT INTO t VALUES(?)", 8]]));
    let after = c.report(survivor);
    assert_eq!(
        (&after["epoch"], after["membership"]["members"].as_array().map(Vec::len)),
        (&json!(2), Some(1))
    );

    // They would be a quorum of the old membership.
    let old: Vec<usize> = (0..3).filter(|i| *i != survivor).collect();
    let in_service = |c: &Cluster, i: usize| c.log(i).matches("caught up; in service").count();
    let before: Vec<usize> = (0..3).map(|i| in_service(&c, i)).collect();
    old.iter().for_each(|i| c.start(*i));
    for i in old.iter().copied() {
        let said = c.fatal(i);
        assert!(said.contains("went on in epoch 2") && said.contains("give it an empty disk"), "{said}");
        assert_eq!(in_service(&c, i), before[i], "nobody wrote anything there: {}", c.log(i));
    }
    let again = c.report(survivor);
    assert_eq!((&again["role"], &again["epoch"]), (&json!("Leader"), &json!(2)));
    assert_eq!(c.value(survivor, "SELECT count(*) FROM t", "linearizable"), json!(2));
    let refused = c.status(survivor, "store.refused_peers.outlived");
    assert!(refused.as_u64() > Some(0), "{refused}");
    // For good: also where nobody can tell them any more.
    c.kill(survivor);
    old.iter().for_each(|i| c.start(*i));
    for i in old {
        let said = c.fatal(i);
        assert!(said.contains("went on in epoch 2"), "{said}");
    }
}

#[test]
fn three_members_agree_and_every_one_takes_writes() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    c.execute(0, &json!(["CREATE TABLE t(a, r DEFAULT (random()), at DEFAULT CURRENT_TIMESTAMP)"]));
    for i in 0..3 {
        c.execute(i, &json!([["INSERT INTO t(a) VALUES(?)", i]]));
    }
    for i in 0..3 {
        for level in ["weak", "linearizable", "strong"] {
            assert_eq!(c.value(i, "SELECT count(*) FROM t", level), json!(3), "{level} on {i}");
        }
    }
    let content = "SELECT group_concat(a || r || at) FROM (SELECT * FROM t ORDER BY a)";
    let expected = c.value(leader, content, "linearizable");
    for i in 0..3 {
        c.until("the same content everywhere", |c| (c.value(i, content, "none") == expected).then_some(()));
    }
}

/// Three members with an empty table, which one leads, and a follower that rests at `place` each time.
fn with_a_slow_follower(place: Place, milliseconds: u32) -> (Cluster, usize, usize) {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let leader = c.await_leader(0);
    let slow = (leader + 1) % 3;
    c.kill(slow);
    c.start_armed(slow, &format!("{}=sleep({milliseconds})", place.name()));
    c.await_ready(slow);
    (c, leader, slow)
}

/// Who served a linearizable count of the rows of `t` that `i` was asked for, and the count.
fn count_through(c: &Cluster, i: usize) -> (String, Value) {
    let path = "/db/query?level=linearizable&q=SELECT+count(*)+FROM+t";
    let answer = c.send(Method::GET, i, path, &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body: Value = serde_json::from_str(&answer.text()).unwrap();
    (answer.header("x-rqlite-served-by"), body["results"][0]["values"][0][0].clone())
}

#[test]
fn a_linearizable_read_is_answered_by_the_member_that_is_asked() {
    let mut c = cluster(3);
    let replica = c.add_read_replica();
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    for n in 1..=50 {
        // Each time another one writes, and all others have to see it at once.
        c.execute(n % 3, &json!([["INSERT INTO t VALUES(?)", n]]));
        for i in (0..=replica).filter(|i| *i != n % 3) {
            let own = format!("127.0.0.1:{}", c.members[i].http);
            assert_eq!(count_through(&c, i), (own, json!(n)), "write {n}, read from {i}");
        }
    }
    let leader = c.await_leader(0);
    c.kill(leader);
    let other = (leader + 1) % 3;
    assert_eq!(c.value(other, "SELECT count(*) FROM t", "linearizable"), json!(50));
}

#[test]
fn what_a_member_has_not_applied_yet_the_leader_answers() {
    let (mut c, leader, slow) = with_a_slow_follower(Place::ApplyBegun, 400);
    for n in 1..=3 {
        c.execute(leader, &json!([["INSERT INTO t VALUES(?)", n]]));
        let by_leader = format!("127.0.0.1:{}", c.members[leader].raft);
        assert_eq!(count_through(&c, slow), (by_leader, json!(n)));
    }
    // Once it has applied all of it, it answers itself.
    let own = format!("127.0.0.1:{}", c.members[slow].http);
    c.until("it answers itself", |c| (count_through(c, slow) == (own.clone(), json!(3))).then_some(()));
}

#[test]
fn members_say_the_same_checksum_also_after_a_restart() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a, r DEFAULT (random()), at DEFAULT CURRENT_TIMESTAMP)"]));
    for round in 0..2 {
        c.execute(
            0,
            &json!([["INSERT INTO t(a) VALUES(?)", round], "UPDATE t SET r = changes() || random()"]),
        );
        c.until("the same checksum everywhere", |c| {
            let said: Vec<_> = (0..3).map(|i| c.status(i, "store.checksum")).collect();
            (said[0].is_object() && said.iter().all(|checksum| *checksum == said[0])).then_some(())
        });
        c.kill(1);
        c.start(1);
        c.await_ready(1);
    }
}

#[test]
fn the_leaders_death_loses_nothing_that_was_acknowledged() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let mut acknowledged = 0;
    for round in 0..3 {
        let leader = c.await_leader(round % 3);
        let other = (leader + 1) % 3;
        for _ in 0..5 {
            acknowledged += 1;
            c.execute(other, &json!([["INSERT INTO t VALUES(?)", acknowledged]]));
        }
        c.kill(leader);
        acknowledged += 1;
        // Waits for the next leader inside.
        c.execute(other, &json!([["INSERT INTO t VALUES(?)", acknowledged]]));
        let next = c.await_leader(other);
        c.until("the next leader and who follows it say so", |c| {
            let (follower, name) = (3 - leader - next, c.report(next)["name"].as_str()?.to_owned());
            let last =
                |i: usize, what: &str| Some(c.log(i).lines().rfind(|line| line.contains(what))?.to_owned());
            let follows = last(follower, "another member leads")?;
            (last(next, "this member leads").is_some() && follows.contains(&name)).then_some(())
        });
        c.start(leader);
        c.await_ready(leader);
    }
    for i in 0..3 {
        assert_eq!(c.value(i, "SELECT count(DISTINCT a) FROM t", "linearizable"), json!(acknowledged));
        assert_eq!(c.value(i, "SELECT count(*) FROM t", "linearizable"), json!(acknowledged));
    }
}

#[test]
fn what_a_living_member_accepted_does_not_fail_when_the_leader_dies() {
    // B14
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
    for _ in 0..rounds() {
        let leader = c.await_leader(0);
        let doors: Vec<_> = (0..3).filter(|i| *i != leader).map(|i| c.door(i)).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            for door in doors.iter().cycle().take(8) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let number = begun.fetch_add(1, Ordering::Relaxed);
                        door.execute(&json!([["INSERT INTO t VALUES(?)", number]]));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            c.await_more(&done, 100);
            c.kill(leader);
            c.await_more(&done, 100);
        });
        c.start(leader);
        c.await_ready(leader);
    }
    let all = json!(done.load(Ordering::Relaxed));
    println!("{} kills of the leader: {all} writes at the others, none failed", rounds());
    for i in 0..3 {
        assert_eq!(c.value(i, "SELECT count(*) FROM t", "linearizable"), all, "applied twice");
        assert_eq!(c.value(i, "SELECT count(DISTINCT a) FROM t", "linearizable"), all);
    }
}

#[test]
// A member that described itself held on to its state and looked at it again: a database that took the place of another
// one in between stopped it for ever.
fn a_member_that_is_asked_while_its_database_changes_does_not_stand_still() {
    let mut c = cluster(3);
    let file = c.root().join("db");
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch(
        "CREATE TABLE t AS WITH RECURSIVE k(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM k LIMIT 1000) SELECT a, randomblob(10000) AS b FROM k",
    )
    .unwrap();
    db.close().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let http = reqwest::blocking::Client::new();
    let urls: Vec<String> = (0..3).map(|i| c.url(i, "/nodes?timeout=5s")).collect();
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let (stop, answered, http, urls) = (&stop, &answered, &http, &urls);
        for first in 0..12 {
            scope.spawn(move || {
                for url in urls.iter().cycle().skip(first) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = http.get(url).send().unwrap();
                    assert_eq!(answer.status(), 200, "{url}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for i in (0..3).cycle().take(15 * rounds()) {
            let loaded =
                c.send(Method::POST, i, "/db/load", &[("content-type", "application/octet-stream")], &bytes);
            assert_eq!(loaded.status, 200, "{}", loaded.text());
        }
        c.await_more(answered, 100);
    });
    for i in 0..3 {
        assert_eq!(c.value(i, "SELECT count(*) FROM t", "linearizable"), json!(1000));
    }
}

#[test]
fn what_a_client_sends_again_under_a_key_is_applied_once() {
    // B14
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    c.execute(leader, &json!(["CREATE TABLE t(id INTEGER PRIMARY KEY, a)"]));
    let key = [("Idempotency-Key", "order-1")];
    let insert = |c: &Cluster, i: usize, path: &str| {
        let answer = c.send(Method::POST, i, path, &key, br#"["INSERT INTO t(a) VALUES(1)"]"#);
        (answer.status, answer.text())
    };
    let first = insert(&c, leader, "/db/execute");
    assert_eq!(first.0, 200, "{first:?}");
    // The member that took it is gone; another one knows the answer, also when all have been down.
    c.kill(leader);
    let other = (leader + 1) % 3;
    c.await_leader(other);
    assert_eq!(insert(&c, other, "/db/execute"), first);
    c.start(leader);
    c.await_ready(leader);
    for i in 0..3 {
        c.kill(i);
    }
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    assert_eq!(insert(&c, leader, "/db/execute"), first);
    assert_eq!(c.value(other, "SELECT count(*) FROM t", "strong"), json!(1));
    // What is kept is nobody's data.
    let backup = c.root().join("backup.sqlite");
    std::fs::write(&backup, c.send(Method::GET, leader, "/db/backup", &[], b"").body).unwrap();
    let backup = rusqlite::Connection::open(&backup).unwrap();
    let told = |sql: &str| backup.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(told("PRAGMA integrity_check"), "ok");
    assert_eq!(told("SELECT group_concat(name) FROM sqlite_schema"), "t");
    let (status, text) = insert(&c, leader, "/db/execute?queue");
    assert!(status == 400 && text.contains("queued"), "{status} {text}");
    let answer = c.send(Method::POST, leader, "/db/execute", &[("Idempotency-Key", "a b")], b"[]");
    assert!(answer.status == 400 && answer.text().contains("visible ASCII"), "{answer:?}");
}

#[test]
fn all_killed_at_once_come_back_with_everything() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    for n in 0..20 {
        c.execute(n % 3, &json!([["INSERT INTO t VALUES(?)", n]]));
    }
    let file = |c: &Cluster, i: usize| std::fs::metadata(c.members[i].dir.join("db.sqlite")).unwrap().ino();
    let files: Vec<u64> = (0..3).map(|i| file(&c, i)).collect();
    let applied = |c: &Cluster, i: usize| c.report(i)["appliedIndex"].as_u64().unwrap();
    let applied: Vec<u64> = (0..3).map(|i| applied(&c, i)).collect();
    (0..3).for_each(|i| c.kill(i));
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    for (i, applied) in applied.into_iter().enumerate() {
        // Its database has what it had applied: only the tail of the log is applied again.
        let log = c.log(i);
        let opened = log.lines().rfind(|line| line.contains("opened Raft's log")).unwrap();
        let found =
            opened.split("applied=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(found >= Some(applied), "{opened}: {applied} was applied");
    }
    for (i, before) in files.into_iter().enumerate() {
        assert_eq!(c.value(i, "SELECT count(*) FROM t", "linearizable"), json!(20));
        // B8
        assert_eq!(file(&c, i), before, "it goes on with the file that it had");
    }
}

#[test]
fn a_leader_that_goes_down_in_order_hands_over_first() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let leader = c.await_leader(0);
    assert_eq!(c.terminate(leader), Some(0));
    assert!(c.log(leader).contains("handed over leadership"), "{}", c.log(leader));
    let other = (leader + 1) % 3;
    c.execute(other, &json!(["INSERT INTO t VALUES(1)"]));
}

#[test]
fn leadership_goes_where_it_is_sent() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let to = (leader + 1) % 3;
    let id = c.report(to)["nodeId"].clone();
    let (status, body) = c.post(leader, "/cluster/transfer", &json!({ "to": id }).to_string());
    assert_eq!(status, 200, "{body}");
    assert_eq!(c.await_leader(0), to);
    let (status, body) = c.post(0, "/cluster/transfer", r#"{"to": "00000000000000ff"}"#);
    assert!(status == 409 && body.contains("NoSuchMember"), "{status} {body}");
}

#[test]
fn a_member_that_lost_its_disk_is_replaced_and_gets_a_snapshot() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a, b)"]));
    for _ in 0..10 {
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) \
                    INSERT INTO t SELECT i, hex(randomblob(400)) FROM n";
        c.execute(0, &json!([rows]));
    }
    let leader = c.await_leader(0);
    let lost = (leader + 1) % 3;
    let old_id = c.report(lost)["nodeId"].as_str().unwrap().to_owned();
    c.kill(lost);
    std::fs::remove_dir_all(&c.members[lost].dir).unwrap();
    let (status, _) = c.delete(leader, "/remove", &json!({ "id": c.members[lost].name }).to_string());
    assert_eq!(status, 200);
    for i in (0..3).filter(|i| *i != lost) {
        let (status, body) = c.post(i, "/snapshot?trailing_logs=0", "");
        assert_eq!(status, 200, "{body}");
    }
    c.execute(leader, &json!(["INSERT INTO t VALUES(0, 0)"]));

    c.start(lost);
    c.await_ready(lost);
    c.await_log(lost, "installed a snapshot");
    assert_ne!(c.report(lost)["nodeId"], json!(old_id));
    assert_eq!(c.value(lost, "SELECT count(*) FROM t", "none"), json!(5001));
    let name = c.members[lost].name.clone();
    c.until("a voter again", |c| {
        let report = c.report(leader);
        let members = report["membership"]["members"].as_array()?;
        members.iter().any(|m| m["name"] == json!(name) && m["voter"] == json!(true)).then_some(())
    });
    // And it goes on from there, also after another start.
    c.execute(lost, &json!(["INSERT INTO t VALUES(1, 1)"]));
    c.kill(lost);
    c.start(lost);
    c.await_ready(lost);
    assert_eq!(c.value(lost, "SELECT count(*) FROM t", "none"), json!(5002));
}

#[test]
fn a_member_whose_database_is_older_than_its_log_refuses_to_start() {
    let mut c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    assert_eq!(c.post(0, "/snapshot?trailing_logs=0", "").0, 200);
    c.kill(0);
    for file in std::fs::read_dir(&c.members[0].dir).unwrap().map(Result::unwrap) {
        if file.file_name().to_string_lossy().starts_with("db") {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    c.start(0);
    assert_eq!(c.exit_code(0), Some(1));
    assert!(c.log(0).contains("one of the two was replaced"), "{}", c.log(0));
}

/// It had not heard of the newcomer, and answered as if that one had been removed.
#[test]
fn who_is_removed_by_name_is_not_left_to_what_a_follower_has_heard() {
    let (mut c, leader, slow) = with_a_slow_follower(Place::AppendSubmitted, 150);
    let names = |c: &Cluster, i: usize| {
        let members = c.report(i)["membership"]["members"].as_array().unwrap().clone();
        members.iter().map(|member| member["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for round in 0..rounds() {
        let address = "127.0.0.1:1";
        let learner = json!({
            "nodeId": format!("{:016x}", 1000 + round), "name": "new", "raftAddress": address, "apiAddress": address,
        });
        let (status, body) = c.post(leader, "/cluster/learners", &learner.to_string());
        assert_eq!(status, 200, "{body}");
        // One that is that slow may not know of a leader for a moment, and says so.
        let remove = json!({ "id": "new" }).to_string();
        let (status, body) = c.until("it knows who leads", |c| {
            let answer = c.delete(slow, "/remove", &remove);
            (answer.0 != 503).then_some(answer)
        });
        assert_eq!(status, 200, "{body}");
        let leader = c.await_leader(leader);
        assert!(!names(&c, leader).contains(&"new".to_owned()), "{:?}", names(&c, leader));
    }
}

/// Each of many writes is a reason to call who is away, and whom the cluster's DNS has no name for yet.
#[test]
fn who_is_away_is_not_called_for_each_write() {
    let mut c = cluster(3);
    c.create_ledger(0);
    let leader = c.await_leader(0);
    let away = (leader + 1) % 3;
    c.kill(away);
    let calls = Arc::new(AtomicU64::new(0));
    let count = calls.clone();
    let _door = Acceptor::start(c.members[away].raft, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let writers = c.write_to(&[leader], 8, 1000);
    c.await_more(&calls, 10);
    let (began, before) = (Instant::now(), calls.load(Ordering::Relaxed));
    writers.await_more(2000);
    let (took, called) = (began.elapsed(), calls.load(Ordering::Relaxed) - before);
    drop(writers.stop());
    // Ten for entries and ten heartbeats a second, and what the follower that is left wants of it.
    let most = 10 + 30 * took.as_millis() as u64 / 1000;
    assert!(called <= most, "{called} calls in {took:?}");
}

/// Raft postpones a purge of what it is sending to somebody.
#[test]
fn a_follower_that_does_not_answer_holds_up_neither_a_snapshot_nor_later_purges() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let leader = c.await_leader(0);
    let silent = (leader + 1) % 3;
    c.signal(silent, "STOP");
    for round in 0..3 {
        let rows: Vec<_> = (0..200).map(|i| json!(["INSERT INTO t VALUES(?)", round * 1000 + i])).collect();
        c.execute(leader, &json!(rows));
        let began = Instant::now();
        let (status, body) = c.post(leader, "/snapshot?trailing_logs=0", "");
        assert!(matches!(status, 200 | 204), "{status} {body}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    c.signal(silent, "CONT");
    c.until("all have the same", |c| {
        (c.value(silent, "SELECT count(*) FROM t", "none") == json!(600)).then_some(())
    });
}

#[test]
fn a_read_replica_follows_without_voting() {
    let (mut c, replica) = with_read_replica();
    assert_eq!(c.value(replica, "SELECT count(*) FROM t", "auto"), json!(1));
    c.execute(replica, &json!(["INSERT INTO t VALUES(2)"]));
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "weak"), json!(2));
    assert!(!c.get(0, "/nodes").1.contains("replica"));
    assert!(c.get(0, "/nodes?nonvoters").1.contains("replica"));
    c.kill(replica);
    c.execute(0, &json!(["INSERT INTO t VALUES(3)"]));
}

#[test]
fn an_operator_forms_a_cluster_step_by_step() {
    let mut c = Cluster::empty();
    for name in ["m-0", "m-1"] {
        let i = c.member(name, &["-managed"]);
        c.start(i);
    }
    for i in 0..2 {
        c.until("the client port", |c| {
            std::net::TcpStream::connect(("127.0.0.1", c.members[i].http)).is_ok().then_some(())
        });
        assert_eq!(c.report(i)["phase"], json!("Uninitialised"));
        let (status, body) = c.post(i, "/db/execute", r#"["CREATE TABLE t(a)"]"#);
        assert_eq!((status, body.as_str()), (503, "leader not found\n"));
    }
    for _ in 0..2 {
        let (status, body) = c.post(0, "/cluster/initialise", r#"{"clusterId": "c-1"}"#);
        assert_eq!(status, 200, "{body}");
    }
    let (status, body) = c.post(0, "/cluster/initialise", r#"{"clusterId": "c-2"}"#);
    assert!(status == 409 && body.contains("NotEmpty"), "{status} {body}");
    c.await_ready(0);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));

    let new = c.report(1);
    let learner = json!({
        "nodeId": new["nodeId"], "name": new["name"], "raftAddress": new["raftAddress"], "apiAddress": new["apiAddress"],
    });
    for _ in 0..2 {
        let (status, body) = c.post(0, "/cluster/learners", &learner.to_string());
        assert_eq!(status, 200, "{body}");
    }
    let add = json!({ "add": [new["nodeId"]] }).to_string();
    c.until("promoted", |c| match c.post(1, "/cluster/voters", &add) {
        (200, body) => {
            assert!(body.contains(r#""committed":true"#), "{body}");
            Some(())
        }
        (409, body) if body.contains("NotCaughtUp") => None,
        (503, _) => None,
        other => panic!("{other:?}"),
    });
    c.await_ready(1);
    assert_eq!(c.report(1)["clusterId"], json!("c-1"));

    // Somebody else under a name that is taken by a member that answers.
    let imposter = json!({
        "nodeId": "00000000000000aa", "name": "m-1", "raftAddress": "127.0.0.1:1", "apiAddress": "127.0.0.1:1",
    });
    let (status, body) = c.post(0, "/cluster/learners", &imposter.to_string());
    assert!(status == 409 && body.contains("NameTaken"), "{status} {body}");

    // The leader is removed: it hands over first, and the cluster goes on.
    let leader = c.await_leader(0);
    let id = c.report(leader)["nodeId"].clone();
    let other = 1 - leader;
    let (status, body) = c.post(leader, "/cluster/voters", &json!({ "remove": [id] }).to_string());
    assert_eq!(status, 200, "{body}");
    c.execute(other, &json!(["INSERT INTO t VALUES(1)"]));
    let (status, body) =
        c.post(other, "/cluster/voters", &json!({ "remove": [c.report(other)["nodeId"]] }).to_string());
    assert!(status == 400 && body.contains("last voter"), "{status} {body}");
}

#[test]
fn drain_hands_over_and_goes_on_serving() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let leader = c.await_leader(0);
    assert!(c.begin_drain(leader).wait().unwrap().success());
    // Who did not take over hears of it with the first heartbeat.
    c.until("another leads", |c| (c.await_leader((leader + 1) % 3) != leader).then_some(()));
    c.execute(leader, &json!(["INSERT INTO t VALUES(1)"]));
    assert_eq!(c.report(leader)["phase"], json!("Draining"));
    // Clients go elsewhere, one request after the other.
    for (i, expected) in [(leader, "close"), ((leader + 1) % 3, "")] {
        let answer = c.send(Method::GET, i, "/status", &[], b"");
        assert_eq!((answer.status, answer.header("connection").as_str()), (200, expected), "{i}");
    }
}

#[test]
fn what_cannot_work_says_so() {
    let mut c = cluster(1);
    // The directory is in use.
    let second = c.member("second", &[]);
    c.members[second].dir = c.members[0].dir.clone();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sqlited"))
        .args(["-http-addr", "127.0.0.1:0", "-raft-addr", "127.0.0.1:0"])
        .arg(&c.members[0].dir)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("fatal:"), "{stderr}");
    c.members.pop();
    // Nobody to join.
    let lonely =
        c.member("lonely", &["-join", "127.0.0.1:1", "-join-attempts", "2", "-join-interval", "50ms"]);
    c.start(lonely);
    assert_eq!(c.exit_code(lonely), Some(1));
    assert!(c.log(lonely).contains("unable to join"), "{}", c.log(lonely));
}

#[test]
fn members_find_each_other_by_dns() {
    let mut c = Cluster::empty();
    let config = r#"{"name": "members.example"}"#;
    for name in ["a", "b", "c"] {
        c.member(name, &["-bootstrap-expect", "3", "-disco-mode", "dns", "-disco-config", config]);
    }
    // Where DNS would say that they are.
    let hosts: Vec<String> = c.members.iter().map(|m| format!("127.0.0.1:{}", m.raft)).collect();
    c.set_environment("RQLITE_DISCO_DNS_HOSTS", hosts.join(","));
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    // A read replica needs no number.
    let replica = c.member("d", &["-raft-non-voter", "-disco-mode", "dns", "-disco-config", config]);
    c.start(replica);
    c.await_ready(replica);
    // It has no meaning any more once there is a cluster.
    (0..4).for_each(|i| c.kill(i));
    (0..4).for_each(|i| c.start(i));
    (0..4).for_each(|i| c.await_ready(i));
    assert_eq!(c.status(0, "disco.mode"), json!("dns"));
    assert_eq!(c.value(replica, "SELECT count(*) FROM t", "weak"), json!(0));
}

#[test]
fn silent_members_are_reaped() {
    let flags = ["-raft-reap-node-timeout", "4s", "-raft-reap-read-only-node-timeout", "2s"];
    let mut c = cluster_with(3, &flags);
    let replica = c.add_read_replica();
    let names = |c: &Cluster, at: usize| -> Vec<String> {
        let nodes: Value = serde_json::from_str(&c.get(at, "/nodes?nonvoters&timeout=1s").1).unwrap();
        nodes.as_object().unwrap().keys().cloned().collect()
    };
    let leader = c.await_leader(0);
    assert_eq!(names(&c, leader).len(), 4);
    let voter = (leader + 1) % 3;
    c.kill(replica);
    c.kill(voter);
    let (gone, stays) = (c.members[replica].name.clone(), c.members[voter].name.clone());
    c.until("the read replica is reaped", |c| (!names(c, leader).contains(&gone)).then_some(()));
    c.until("the voter is reaped", |c| (!names(c, leader).contains(&stays)).then_some(()));
    c.execute(leader, &json!(["CREATE TABLE t(a)"]));
    assert_eq!(names(&c, leader).len(), 2);
}

#[test]
fn two_of_five_go_on_by_a_file_that_names_them() {
    // F4
    let mut c = cluster(5);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    (0..5).for_each(|i| drop(c.value(i, "SELECT a FROM t", "linearizable")));
    (0..5).for_each(|i| c.kill(i));
    let peers = |c: &Cluster, names: [usize; 2]| {
        let peer = |i: usize| json!({"id": c.members[i].name, "address": format!("127.0.0.1:{}", c.members[i].raft)});
        json!([peer(names[0]), peer(names[1])]).to_string()
    };
    // A file that makes no sense changes nothing.
    let file = |c: &Cluster, i: usize| c.members[i].dir.join("raft/peers.json");
    std::fs::write(file(&c, 0), peers(&c, [1, 2])).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(1));
    assert!(c.log(0).contains("this member is not in it"), "{}", c.log(0));

    for i in [0, 1] {
        std::fs::write(file(&c, i), peers(&c, [0, 1])).unwrap();
    }
    (0..2).for_each(|i| c.start(i));
    (0..2).for_each(|i| c.await_ready(i));
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(1));
    c.execute(1, &json!(["INSERT INTO t VALUES(2)"]));
    for i in [0, 1] {
        assert!(!file(&c, i).exists() && c.members[i].dir.join("raft/peers.info").exists());
        c.kill(i);
    }
    // It is done once.
    (0..2).for_each(|i| c.start(i));
    (0..2).for_each(|i| c.await_ready(i));
    let nodes: Value = serde_json::from_str(&c.get(0, "/nodes?nonvoters").1).unwrap();
    assert_eq!(nodes.as_object().unwrap().len(), 2, "{nodes}");
    // Those that were lost do not come back with the old future, though they are most of the old ones.
    (2..5).for_each(|i| c.start(i));
    for i in 2..5 {
        let said = c.fatal(i);
        assert!(said.contains("went on in epoch 2"), "{said}");
    }
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(2));
}

#[test]
fn members_that_all_moved_at_once_go_on_by_a_file_that_says_where_they_are_and_who_votes() {
    // F4
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    (0..3).for_each(|i| drop(c.value(i, "SELECT a FROM t", "linearizable")));
    (0..3).for_each(|i| c.kill(i));
    for i in 0..3 {
        let elsewhere = c.member("elsewhere", &[]);
        let place = c.members.remove(elsewhere);
        let member = &mut c.members[i];
        (member.http, member.raft, member.health) = (place.http, place.raft, place.health);
    }
    let peer = |i: usize| {
        let address = format!("127.0.0.1:{}", c.members[i].raft);
        json!({"id": c.members[i].name, "address": address, "non_voter": i == 2})
    };
    let peers = json!([peer(0), peer(1), peer(2)]).to_string();
    for i in 0..3 {
        std::fs::write(c.members[i].dir.join("raft/peers.json"), &peers).unwrap();
    }
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    for i in 0..3 {
        c.execute(i, &json!(["INSERT INTO t VALUES(2)"]));
    }
    assert_eq!(c.value(2, "SELECT count(*) FROM t", "linearizable"), json!(4));
    // Where clients reach them they tell the leader themselves.
    for i in 0..3 {
        c.until("all know where all are, and who votes", |c| {
            let nodes: Value = serde_json::from_str(&c.get(i, "/nodes?nonvoters").1).unwrap();
            let is_known = |(n, m): (usize, &support::Member)| {
                let node = &nodes[&m.name];
                node["addr"] == json!(format!("127.0.0.1:{}", m.raft))
                    && node["api_addr"] == json!(format!("http://127.0.0.1:{}", m.http))
                    && node["reachable"] == json!(true)
                    && node["voter"] == json!(n != 2)
            };
            c.members.iter().enumerate().all(is_known).then_some(())
        });
    }
}

#[test]
// Each of them writes an entry of its own that makes it so; the one with the largest id was elected, whatever its log.
fn of_those_that_a_file_names_the_one_that_knows_most_leads() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    (0..3).for_each(|i| drop(c.value(i, "SELECT a FROM t", "linearizable")));
    let id =
        |c: &Cluster, i: usize| u64::from_str_radix(c.report(i)["nodeId"].as_str().unwrap(), 16).unwrap();
    let behind = (0..3).max_by_key(|i| id(&c, *i)).unwrap();
    c.kill(behind);
    let rest: Vec<usize> = (0..3).filter(|i| *i != behind).collect();
    for n in 0..50 {
        c.execute(rest[0], &json!([["INSERT INTO t VALUES(?)", n]]));
    }
    rest.iter().for_each(|i| c.kill(*i));
    let peers: Vec<_> = (0..3)
        .map(|i| json!({"id": c.members[i].name, "address": format!("127.0.0.1:{}", c.members[i].raft)}))
        .collect();
    for i in 0..3 {
        std::fs::write(c.members[i].dir.join("raft/peers.json"), json!(peers).to_string()).unwrap();
    }
    // Of the two that know most one ends in between, and does it again.
    for (place, i) in [(Place::PeersAppended, rest[0]), (Place::PeersRaised, rest[1])] {
        c.start_armed(i, &format!("{}=return(abort)", place.name()));
        c.await_abort(i, place.name());
    }
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
    for i in 0..3 {
        assert_eq!(c.value(i, "SELECT count(*) FROM t", "linearizable"), json!(50), "{i}");
    }
    c.execute(behind, &json!(["INSERT INTO t VALUES(50)"]));
}

#[test]
fn a_database_whose_link_or_log_is_gone_is_not_taken_for_a_new_member() {
    let mut c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    assert_eq!(c.terminate(0), Some(0));
    let dir = c.members[0].dir.clone();
    let database = std::fs::read_link(dir.join("db.sqlite")).unwrap();
    std::fs::remove_file(dir.join("db.sqlite")).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(1));
    assert!(c.log(0).contains("the link db.sqlite"), "{}", c.log(0));
    assert!(dir.join(&database).exists(), "nothing is removed");
    std::os::unix::fs::symlink(&database, dir.join("db.sqlite")).unwrap();
    std::fs::rename(dir.join("raft/log"), dir.join("raft/away")).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(1));
    assert!(c.log(0).contains("Raft's log is gone"), "{}", c.log(0));
    std::fs::remove_dir_all(dir.join("raft/log")).unwrap();
    std::fs::rename(dir.join("raft/away"), dir.join("raft/log")).unwrap();
    c.start(0);
    c.await_ready(0);
    assert_eq!(c.value(0, "SELECT a FROM t", "linearizable"), json!(1));
}

#[test]
fn a_member_whose_log_is_damaged_says_where_and_comes_back_as_a_new_one() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let i = (c.await_leader(0) + 1) % 3;
    for n in 0..50 {
        c.execute(0, &json!([["INSERT INTO t VALUES(?)", n]]));
    }
    let id = c.report(i)["nodeId"].clone();
    c.kill(i);
    // In the middle of what it had promised to keep: entries come after it.
    let segments = std::fs::read_dir(c.members[i].dir.join("raft/log")).unwrap();
    let marked = segments.map(|entry| entry.unwrap().path()).find_map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(8).position(|window| window == b"INSERT I")?;
        Some((path, at as u64))
    });
    let (path, at) = marked.unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"i", at).unwrap();
    c.start(i);
    c.await_log(i, "Raft's log is damaged");
    let log = c.log(i);
    let told = log.lines().rfind(|line| line.contains("Raft's log is damaged")).unwrap();
    assert!(told.contains(path.file_name().unwrap().to_str().unwrap()) && told.contains("offset"), "{told}");
    // The others go on, and it is another member that has its name next.
    let others = (i + 1) % 3;
    c.execute(others, &json!([["INSERT INTO t VALUES(?)", 50]]));
    c.await_ready(i);
    assert_ne!(c.report(i)["nodeId"], id);
    assert_eq!(c.value(i, "SELECT count(*) FROM t", "linearizable"), json!(51));
    let own = c.report(i)["nodeId"].clone();
    c.until("it votes in the place of the one that it was", |c| {
        let members = c.report(others)["membership"]["members"].as_array()?.clone();
        let votes = members.iter().any(|m| m["nodeId"] == own && m["voter"] == json!(true));
        (votes && members.len() == 3 && members.iter().all(|m| m["nodeId"] != id)).then_some(())
    });
    c.until("nothing of the former one is kept", |c| {
        (c.status(i, "store.set_aside") == Value::Null).then_some(())
    });
}

/// Loads a database with two rows.
fn load(c: &Cluster, i: usize) {
    let file = c.root().join("loaded.sqlite");
    let loaded = rusqlite::Connection::open(&file).unwrap();
    loaded.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES(1), (2)").unwrap();
    loaded.close().unwrap();
    let load = reqwest::blocking::Client::new().post(c.url(i, "/db/load"));
    assert_eq!(load.body(std::fs::read(&file).unwrap()).send().unwrap().status().as_u16(), 200);
}

/// A cluster of one whose database was loaded.
fn loaded() -> Cluster {
    let c = cluster(1);
    load(&c, 0);
    c
}

/// The same, where nobody has the file any more that an entry of the log names.
fn loaded_and_thrown_away() -> Cluster {
    let c = loaded();
    for file in std::fs::read_dir(c.members[0].dir.join("staging")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    c
}

/// Another member that has not started; returns its number.
fn new_member(c: &mut Cluster) -> usize {
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    c.member("second", &["-join", &join])
}

/// Starts another member, and waits until it serves; returns its number.
fn join(c: &mut Cluster) -> usize {
    let second = new_member(c);
    c.start(second);
    c.await_ready(second);
    second
}

#[test]
fn a_member_that_joins_long_after_a_database_was_loaded_gets_it() {
    let mut c = loaded();
    let staging = c.members[0].dir.join("staging");
    c.until("the loaded file is thrown away", |_| {
        std::fs::read_dir(&staging).unwrap().next().is_none().then_some(())
    });
    c.execute(0, &json!(["INSERT INTO t VALUES(3)"]));
    let second = join(&mut c);
    assert_eq!(c.value(second, "SELECT count(*) FROM t", "none"), json!(3));
}

#[test]
fn a_loaded_file_is_what_it_was_after_a_clean_stop() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
    c.kill(away);
    load(&c, leader);
    c.execute(leader, &json!(["INSERT INTO t VALUES(3)"]));
    for i in [leader, other] {
        assert_eq!(c.terminate(i), Some(0));
    }
    // Who was away is sent it, and each of these has it as its database too.
    for i in [leader, other] {
        let staging = std::fs::read_dir(c.members[i].dir.join("staging")).unwrap();
        let files: Vec<_> = staging.map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let sum = Sha256::digest(std::fs::read(&files[0]).unwrap());
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(files[0].file_stem().unwrap().to_str(), Some(sum.as_str()));
    }
    (0..3).for_each(|i| c.start(i));
    c.await_ready(away);
    assert_eq!(c.value(away, "SELECT count(*) FROM t", "linearizable"), json!(3));
}

#[test]
fn a_member_that_joins_right_after_a_database_was_loaded_gets_it() {
    // It is sent the cluster's first entry, which says who the members are, and the database's in one message.
    let mut c = loaded();
    let second = join(&mut c);
    assert_eq!(c.value(second, "SELECT count(*) FROM t", "none"), json!(2));
    assert!(c.log(second).contains("fetched a database that an entry names"), "{}", c.log(second));
}

#[test]
// When it started again it looked for that database before it knew whom to ask.
fn a_member_that_ends_while_it_looks_for_the_database_of_an_entry_goes_on() {
    let mut c = loaded_and_thrown_away();
    let second = new_member(&mut c);
    // Long enough for its log to say that the entry is committed.
    c.start_armed(second, "receive.staged=sleep(300);receive.chunk=return(abort)");
    c.await_abort(second, "receive.chunk");
    c.start(second);
    c.await_ready(second);
    let log = c.log(second);
    assert!(log.contains("an entry names a database that is not here"), "{log}");
    assert_eq!(c.value(second, "SELECT count(*) FROM t", "none"), json!(2));
}

#[test]
fn a_member_that_is_sent_an_entry_whose_database_is_nowhere_takes_anothers_state() {
    let mut c = loaded_and_thrown_away();
    let second = join(&mut c);
    assert_eq!(c.value(second, "SELECT count(*) FROM t", "none"), json!(2));
    c.await_log(second, "has another member's state");
    // It goes on from there, and says the same as the others.
    c.execute(0, &json!(["INSERT INTO t VALUES(3)"]));
    c.until("the entry is there", |c| {
        (c.value(second, "SELECT count(*) FROM t", "none") == json!(3)).then_some(())
    });
}
