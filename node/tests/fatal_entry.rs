//! Entries that end the process that applies them: no member ends for good, nothing acknowledged is lost.
//!
//! Needs `--features failpoints`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "failpoints")]

mod support;

use node::failpoint::Place;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use support::{Cluster, backups, cluster_with};

/// Ends the process whenever it is about to apply a command.
fn deadly() -> String {
    format!("{}=return(abort)", Place::ApplyNoted.name())
}

/// What a member says that it stands at; null if it applies everything, or does not run.
fn fatal_entry(c: &Cluster, i: usize) -> Value {
    c.try_report(i).map_or(Value::Null, |report| report["fatalEntry"].clone())
}

/// Starts members anew, armed like this, as often as they end, until each of them stands at an entry; returns its index.
fn await_all_standing(c: &mut Cluster, failpoints: &str) -> u64 {
    c.until_within(support::PATIENCE * 3, "all stand at an entry", |c| {
        let members = 0..c.members.len();
        for i in members.clone() {
            if c.has_ended(i) {
                c.await_abort(i, "a command is applied");
                c.start_armed(i, failpoints);
            }
        }
        let found: Vec<Value> = members.map(|i| fatal_entry(c, i)["index"].clone()).collect();
        found.iter().all(|index| index.is_u64() && *index == found[0]).then(|| found[0].as_u64().unwrap())
    })
}

fn restart(c: &mut Cluster, failpoints: &str) {
    for i in 0..c.members.len() {
        c.kill(i);
    }
    for i in 0..c.members.len() {
        c.start_armed(i, failpoints);
    }
}

#[test]
fn an_entry_that_ends_every_member_is_passed_over_once_all_agree() {
    let (mut c, config) = backups::members(3, Some(1), false);
    c.execute(0, &json!(["CREATE TABLE ledger(n, filling)", "INSERT INTO ledger(n) VALUES(1)"]));
    for i in 0..3 {
        c.until("it is applied", |c| (c.value(i, "SELECT n FROM ledger", "none") == json!(1)).then_some(()));
    }
    restart(&mut c, &deadly());
    (0..3).for_each(|i| c.await_ready(i));
    let writer = c.await_leader(0);
    let write = json!(["INSERT INTO ledger(n) VALUES(2)"]).to_string();
    let answer = support::patient().post(c.url(writer, "/db/execute?timeout=2s")).body(write.clone()).send();
    let answer = answer.and_then(|answer| answer.text()).unwrap_or_default();
    assert!(!answer.contains("rows_affected"), "acknowledged: {answer}");

    let index = await_all_standing(&mut c, &deadly());
    // They stay up, though a command would still end them, and say why nothing is written.
    c.await_leader(0);
    for i in 0..3 {
        assert!(fatal_entry(&c, i)["crashes"].as_u64() >= Some(3));
        assert_eq!(c.value(i, "SELECT group_concat(n) FROM ledger", "none"), json!("1"));
        assert_eq!(c.status(i, "store.fatal_entry.index"), json!(index));
        assert!(!c.is_ready(i));
        let metrics = c.get(i, "/metrics").1;
        assert!(metrics.contains("\nsqlited_fatal_entry 1\n"), "{metrics}");
        let (status, body) = c.post(i, "/db/execute", &write);
        assert!(status == 503 && body.contains(&format!("entry {index} of the log")), "{status} {body}");
        let (status, body) = c.get(i, "/db/query?level=strong&q=SELECT+1");
        assert!(status == 503 && body.contains("/cluster/skip"), "{status} {body}");
    }

    let term = fatal_entry(&c, 0)["term"].as_u64().unwrap();
    let skip_of = |c: &Cluster, by: usize, index: u64, term: u64| {
        c.post(by, "/cluster/skip", &json!({"index": index, "term": term}).to_string())
    };
    let skip = |c: &Cluster, by: usize, index: u64| skip_of(c, by, index, term);
    let (status, body) = skip(&c, 1, index + 1);
    assert!(status == 409 && body.contains("NotFatal"), "another entry: {status} {body}");
    let (status, body) = skip_of(&c, 1, index, term + 1);
    assert!(status == 409 && body.contains("NotFatal"), "another one in its place: {status} {body}");
    let leader = c.await_leader(0);
    let away = (leader + 1) % 3;
    c.kill(away);
    let (status, body) = skip(&c, leader, index);
    assert!(status == 409 && body.contains("does not say"), "one may have applied it: {status} {body}");
    c.start(away);

    restart(&mut c, "");
    c.until("all stand there still", |c| {
        (0..3).all(|i| fatal_entry(c, i)["index"] == json!(index)).then_some(())
    });
    c.await_leader(0);
    let by = c.until("it is passed over", |c| {
        let (status, body) = skip(c, 0, index);
        // They have been led for a moment only.
        if status == 503 {
            return None;
        }
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["index"].as_u64()
    });
    assert!(by > index);
    (0..3).for_each(|i| c.await_ready(i));
    c.execute(1, &json!(["INSERT INTO ledger(n) VALUES(3)"]));
    let last = c.report(1)["appliedIndex"].as_u64().unwrap();
    for again in [false, true] {
        if again {
            restart(&mut c, "");
            (0..3).for_each(|i| c.await_ready(i));
        }
        for i in 0..3 {
            let content = c.value(i, "SELECT group_concat(n) FROM ledger", "linearizable");
            assert_eq!((content, fatal_entry(&c, i)), (json!("1,3"), Value::Null));
        }
        c.until("all have the same database", |c| {
            (0..3).all(|i| c.status(i, "store.consistency.state") == json!("consistent")).then_some(())
        });
        assert!((0..3).all(|i| c.status(i, "store.consistency.reinstalls") == json!(0)));
    }
    // What was passed over is nothing in the archive, too.
    backups::await_archived(&mut c, last);
    let file = c.root().join("restored.sqlite");
    let outcome = backups::restore("restore", &config, &backups::cluster_id(&c), "latest", &file);
    assert_ne!(outcome.restored, Value::Null, "{}", outcome.message);
    assert_eq!(backups::ledger(&file), [1, 3]);
}

#[test]
fn a_member_that_ends_alone_takes_anothers_state() {
    let mut c = cluster_with(3, &["-consistency-period", "1h"]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let leader = c.await_leader(0);
    let victim = (leader + 1) % 3;
    c.kill(victim);
    c.execute(leader, &json!(["INSERT INTO t VALUES(1)"]));
    for _ in 0..3 {
        c.start_armed(victim, &deadly());
        c.await_abort(victim, "a command is applied");
    }
    c.start(victim);
    c.await_ready(victim);
    assert_eq!(c.status(victim, "store.consistency.reinstalls"), json!(1));
    assert_eq!(fatal_entry(&c, victim), Value::Null);
    c.execute(victim, &json!(["INSERT INTO t VALUES(2)"]));
    assert_eq!(c.value(victim, "SELECT group_concat(a) FROM t", "linearizable"), json!("1,2"));
}

#[test]
fn a_member_that_ended_once_applies_the_entry() {
    let mut c = cluster_with(1, &[]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    c.kill(0);
    c.start_armed(0, &deadly());
    c.await_ready(0);
    let write = json!(["INSERT INTO t VALUES(1)"]).to_string();
    let answer = support::patient().post(c.url(0, "/db/execute")).body(write).send();
    assert!(answer.is_err(), "{answer:?}");
    c.await_abort(0, "a command is applied");
    c.start(0);
    c.await_ready(0);
    assert_eq!(c.value(0, "SELECT a FROM t", "strong"), json!(1));
    assert!(c.log(0).contains("this process ended while it applied an entry"), "{}", c.log(0));
}

/// A page so damaged that SQLite refuses to apply to it used to end the member for good.
#[test]
fn a_page_that_entries_cannot_be_applied_to_is_replaced() {
    const PAGE: u64 = 4096;
    let mut c = cluster_with(3, &["-consistency-period", "1h", "-scrub-period", "1h"]);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    let root = c.value(0, "SELECT rootpage FROM sqlite_schema WHERE name = 't'", "strong").as_u64().unwrap();
    let victim = (c.await_leader(0) + 1) % 3;
    c.until("the page is in the file", |c| {
        matches!(c.post(victim, "/snapshot", "").0, 200 | 204).then_some(())
    });
    assert_eq!(c.terminate(victim), Some(0));
    // All of the WAL is in the file, and would be read from there again.
    let database = c.members[victim].dir.join("db.sqlite").canonicalize().unwrap();
    std::fs::write(database.with_extension("sqlite-wal"), b"").unwrap();
    let file = OpenOptions::new().write(true).open(database).unwrap();
    file.write_all_at(&[0xff; 64], (root - 1) * PAGE).unwrap();
    drop(file);
    c.execute((victim + 1) % 3, &json!(["INSERT INTO t VALUES(2)"]));
    c.start(victim);
    c.until_within(support::PATIENCE * 2, "it has another member's state", |c| {
        if c.has_ended(victim) {
            assert_eq!(c.exit_code(victim), Some(1));
            c.start(victim);
        }
        (fatal_entry(c, victim) == Value::Null && c.is_ready(victim)).then_some(())
    });
    assert_eq!(c.status(victim, "store.consistency.reinstalls"), json!(1));
    assert_eq!(c.value(victim, "SELECT group_concat(a) FROM t", "none"), json!("1,2"));
}
