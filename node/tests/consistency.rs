//! Databases that are not what they should be: noticed, told, and replaced by another member's.
//!
//! Needs `--features failpoints`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use node::failpoint::Place;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Cluster, StopAtEnd, cluster_with};

const OFTEN: &[&str] = &["-consistency-period", "300ms", "-scrub-period", "1s"];
/// Both of them, one after the other.
const PERIODS: Duration = Duration::from_millis(1300);
/// To fetch another member's database and to be back in service, on a machine that has more to do.
const SLACK: Duration = Duration::from_secs(10);
/// In each row, so that the place of a row can be found in the file.
const MARK: &str = "a mark that is found in the file";
const PAGE: usize = 4096;
const CONTENT: &str = "SELECT group_concat(a || b) FROM (SELECT * FROM t ORDER BY a)";

/// How often a database is changed: more for `make prove`.
fn rounds() -> usize {
    std::env::var("CONSISTENCY_ROUNDS").ok().map_or(1, |n| n.parse().expect("CONSISTENCY_ROUNDS is a number"))
}

fn filled(n: usize) -> Cluster {
    let c = cluster_with(n, OFTEN);
    // What is written meanwhile has pages of its own: the others stay as they are.
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)", "CREATE TABLE more(a)"]));
    let rows: Vec<Value> =
        (0..200).map(|i| json!(["INSERT INTO t VALUES(?, ?)", i, format!("{MARK} {i}")])).collect();
    c.execute(0, &json!(rows));
    c
}

fn reinstalls(c: &Cluster, i: usize) -> u64 {
    c.status(i, "store.consistency.reinstalls").as_u64().unwrap_or_default()
}

fn state(c: &Cluster, i: usize) -> String {
    c.status(i, "store.consistency.state").as_str().unwrap_or_default().to_owned()
}

fn await_all_consistent(c: &mut Cluster) {
    c.until("all members have the same database, and say so", |c| {
        (0..c.members.len()).all(|i| c.is_ready(i) && state(c, i) == "consistent").then_some(())
    });
}

fn await_agreement(c: &mut Cluster) {
    await_all_consistent(c);
    let expected = c.value(0, CONTENT, "strong");
    for i in 0..c.members.len() {
        c.until("the same content", |c| (c.value(i, CONTENT, "none") == expected).then_some(()));
    }
}

/// Changes one byte of a row in the database file of a running member, behind SQLite's back.
fn change_a_byte(c: &mut Cluster, i: usize) {
    // A row that is in the WAL is read from there.
    let at = c.until("the row is in the file", |c| {
        assert!(matches!(c.post(i, "/snapshot", "").0, 200 | 204));
        let bytes = fs::read(c.members[i].dir.join("db.sqlite")).unwrap();
        // In a leaf (its first byte is 13): the root was one before it grew, still has those bytes, and is written again
        // at each new leaf.
        let leaves = bytes.chunks(PAGE).enumerate().filter(|(_, page)| page[0] == 13);
        leaves.into_iter().find_map(|(n, page)| {
            let in_page = page.windows(MARK.len()).position(|window| window == MARK.as_bytes())?;
            Some(n * PAGE + in_page)
        })
    });
    let file = OpenOptions::new().write(true).open(c.members[i].dir.join("db.sqlite")).unwrap();
    file.write_all_at(b"A", at as u64).unwrap();
}

#[test]
fn a_changed_byte_on_disk_is_noticed_and_the_database_replaced() {
    let mut c = filled(3);
    await_agreement(&mut c);
    let stop = AtomicBool::new(false);
    let doors: Vec<_> = (0..3).map(|i| c.door(i)).collect();
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        // No request fails meanwhile, on any member.
        for (door, from) in doors.iter().zip([1_000_000, 2_000_000, 3_000_000]) {
            let stop = &stop;
            scope.spawn(move || {
                for number in from.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    door.execute(&json!([["INSERT INTO more VALUES(?)", number]]));
                }
            });
        }
        let mut times = Vec::new();
        // A follower, and then the one who leads.
        for of_leader in [false, true].repeat(rounds()) {
            let leader = c.await_leader(0);
            let victim = if of_leader { leader } else { (leader + 1) % 3 };
            let before = reinstalls(&c, victim);
            change_a_byte(&mut c, victim);
            let changed = Instant::now();
            c.until("the database was replaced", |c| (reinstalls(c, victim) > before).then_some(()));
            c.until("it is back", |c| (c.is_ready(victim) && state(c, victim) == "consistent").then_some(()));
            times.push(changed.elapsed());
            // A byte is noticed within one pass over the pages, and told within the next comparison.
            assert!(changed.elapsed() < PERIODS + SLACK, "{:?}", changed.elapsed());
            assert_eq!(c.status(victim, "store.damaged_page"), Value::Null);
        }
        println!("from a changed byte to the member's return: {times:?}");
        let numbers = |name: &str| -> Vec<u64> {
            (0..3)
                .map(|i| {
                    let metrics = format!("http://127.0.0.1:{}/metrics", c.members[i].health);
                    let metrics = reqwest::blocking::get(metrics).unwrap().text().unwrap();
                    let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                    line.trim().parse().unwrap()
                })
                .collect()
        };
        assert_eq!(numbers("sqlited_database_damaged "), [0, 0, 0]);
        let reinstalls = numbers("sqlited_database_reinstalls ").iter().sum::<u64>();
        assert!(reinstalls >= 2 * rounds() as u64, "{reinstalls}");
    });
    await_agreement(&mut c);
    let rows = c.value(0, &format!("SELECT count(*) FROM t WHERE b LIKE '{MARK}%'"), "none");
    assert_eq!(rows, json!(200));
}

/// Nobody looked before the next round over all pages, which is a day away by default.
#[test]
fn damage_that_a_query_meets_is_looked_at_at_once() {
    let mut c = cluster_with(3, &["-consistency-period", "300ms", "-scrub-period", "1h"]);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    await_all_consistent(&mut c);
    let victim = (c.await_leader(0) + 1) % 3;
    let root = c.value(victim, "SELECT rootpage FROM sqlite_schema WHERE name = 't'", "none");
    assert!(matches!(c.post(victim, "/snapshot", "").0, 200 | 204));
    let file = OpenOptions::new().write(true).open(c.members[victim].dir.join("db.sqlite")).unwrap();
    file.write_all_at(&[0xff; 64], (root.as_u64().unwrap() - 1) * PAGE as u64).unwrap();
    // Nobody has read it here before, so that it is in no cache.
    let (_, met) = c.get(victim, "/db/query?level=none&q=SELECT+a+FROM+t");
    assert!(met.contains("malformed"), "{met}");
    c.until("the database was replaced", |c| (reinstalls(c, victim) == 1).then_some(()));
    await_all_consistent(&mut c);
    assert_eq!(c.value(victim, "SELECT a FROM t", "none"), json!(1));
    assert!(c.log(victim).contains("a query met what looks like damage"), "{}", c.log(victim));
}

/// Changes a row of a member that is down, as SQLite does it: nothing is damaged, but the state is another one.
fn change_a_row_of(c: &Cluster, i: usize) {
    let file = Connection::open(c.members[i].dir.join("db.sqlite")).unwrap();
    let to = format!("changed behind the log's back on {i}");
    assert_eq!(file.execute("UPDATE t SET b = ? WHERE a = 7", [to]).unwrap(), 1);
}

/// The same of members that run, and go on.
fn change_a_row(c: &mut Cluster, victims: &[usize]) {
    victims.iter().for_each(|i| c.kill(*i));
    victims.iter().for_each(|i| change_a_row_of(c, *i));
    victims.iter().for_each(|i| c.start(*i));
    victims.iter().for_each(|i| c.await_ready(*i));
}

#[test]
fn a_state_that_most_do_not_have_is_replaced() {
    // B2
    let mut c = filled(3);
    await_agreement(&mut c);
    for victim in [1, c.await_leader(0)] {
        change_a_row(&mut c, &[victim]);
        c.until("the database was replaced", |c| (reinstalls(c, victim) == 1).then_some(()));
        await_agreement(&mut c);
        c.kill(victim);
        c.start(victim);
        c.await_ready(victim);
        await_agreement(&mut c);
    }
}

#[test]
fn a_member_of_another_engine_that_differs_is_brought_in_line_without_an_alarm() {
    let mut c = filled(3);
    await_agreement(&mut c);
    let engine = c.status(0, "store.sqlite3.engine");
    assert_eq!(c.report(0)["engine"], engine);
    let victim = (c.await_leader(0) + 1) % 3;
    c.kill(victim);
    change_a_row_of(&c, victim);
    c.set_environment("FAILPOINT_ENGINE", "3.99.0-another".into());
    c.start(victim);
    let consistent = |c: &Cluster, i: usize| {
        let metrics = format!("http://127.0.0.1:{}/metrics", c.members[i].health);
        let metrics = reqwest::blocking::get(metrics).unwrap().text().unwrap();
        metrics.lines().any(|line| line == "sqlited_database_consistent 1")
    };
    let others = [(victim + 1) % 3, (victim + 2) % 3];
    c.until("the database was replaced", |c| {
        assert!(others.iter().all(|i| consistent(c, *i)), "nobody is alarmed");
        (c.try_report(victim).is_some() && reinstalls(c, victim) == 1).then_some(())
    });
    assert_eq!(c.status(victim, "store.sqlite3.engine"), "3.99.0-another");
    assert_ne!(engine, "3.99.0-another");
    await_agreement(&mut c);
    for i in others {
        assert!(!c.log(i).contains("the members' databases differ"), "{}", c.log(i));
        assert_eq!(reinstalls(&c, i), 0);
    }
    assert!(c.log(victim).contains("the leader's SQLite is another one"), "{}", c.log(victim));
}

#[test]
fn a_member_ends_while_another_state_takes_the_place_of_its_own() {
    let mut c = filled(3);
    await_agreement(&mut c);
    for place in [
        Place::ReceiveStaged,
        Place::ReceiveChecked,
        Place::InstallClosed,
        Place::ActivateRenamed,
        Place::InstallOpened,
        Place::InstallRemoved,
    ] {
        let victim = (c.await_leader(0) + 1) % 3;
        c.kill(victim);
        change_a_row_of(&c, victim);
        c.start_armed(victim, &format!("{}=return(abort)", place.name()));
        c.await_abort(victim, place.name());
        c.start(victim);
        await_agreement(&mut c);
    }
}

#[test]
fn a_member_that_ends_right_after_a_vacuum_has_the_database_that_the_others_have() {
    let mut c = filled(3);
    let i = (c.await_leader(0) + 1) % 3;
    c.kill(i);
    c.start_armed(i, &format!("{}=return(abort)", Place::ApplyVacuumed.name()));
    c.await_ready(i);
    let away = c.await_leader((i + 1) % 3);
    c.execute(away, &json!(["DELETE FROM t WHERE a % 3 = 0", "INSERT INTO t SELECT a + 1000, b FROM t"]));
    c.execute(away, &json!(["VACUUM"]));
    c.await_abort(i, Place::ApplyVacuumed.name());
    c.start(i);
    await_agreement(&mut c);
    assert_eq!((0..3).map(|i| reinstalls(&c, i)).sum::<u64>(), 0, "nobody needed another one's");
}

#[test]
fn without_a_majority_nobody_gives_up_its_state() {
    let mut c = filled(3);
    await_agreement(&mut c);
    change_a_row(&mut c, &[1, 2]);
    c.until("all say that no state has a majority", |c| {
        (0..3).all(|i| state(c, i) == "divided").then_some(())
    });
    for i in 0..3 {
        assert!(c.is_ready(i) && reinstalls(&c, i) == 0, "{}", c.log(i));
    }
}
