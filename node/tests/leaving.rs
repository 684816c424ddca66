//! Members that leave when they are asked to go down, and those that go down without handing over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{Cluster, Door, StopAtEnd, cluster, cluster_with, with_read_replica};

const LEAVES: &[&str] = &["-raft-cluster-remove-shutdown"];

/// Names of the members, as member `at` knows them.
fn names(c: &Cluster, at: usize) -> BTreeSet<String> {
    let report = c.report(at);
    let members = report["membership"]["members"].as_array().unwrap();
    members.iter().map(|member| member["name"].as_str().unwrap().to_owned()).collect()
}

/// Writes a number, at whichever member is there. What a member that is there answers must not be an error.
fn write(doors: &[Door], number: u64) {
    // The same number may arrive twice: the answer of a member that goes down may get lost.
    let insert = json!([["INSERT OR IGNORE INTO t VALUES(?)", number]]);
    for door in doors.iter().cycle().skip(number as usize % doors.len()).take(100) {
        if let Some((status, body)) = door.attempt(&insert) {
            assert!(status == 200 && !body.contains("\"error\""), "{number}: {status} {body}");
            return;
        }
    }
    panic!("nobody takes {number}");
}

/// Has four clients write to all members that run while `during` goes on, which is told how many rows are acknowledged;
/// returns how many are in the end.
fn under_load(c: &mut Cluster, during: impl FnOnce(&mut Cluster, &AtomicU64)) -> u64 {
    let running: Vec<usize> = (0..c.members.len()).filter(|i| c.runs(*i)).collect();
    let doors: Vec<Door> = running.iter().map(|i| c.door(*i)).collect();
    let from: u64 = c.value(running[0], "SELECT count(*) FROM t", "strong").as_u64().unwrap();
    let (stop, begun, done) = (AtomicBool::new(false), AtomicU64::new(from), AtomicU64::new(from));
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    write(&doors, begun.fetch_add(1, Ordering::Relaxed));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        during(c, &done);
    });
    done.into_inner()
}

/// Everything that was acknowledged is there, by member `i`.
fn assert_all_there(c: &Cluster, i: usize, acknowledged: u64) {
    let count = c.value(i, "SELECT count(*) FROM t", "linearizable");
    assert_eq!(count, json!(acknowledged), "acknowledged and not there");
}

/// Asks a member to go down while clients write to all of them; it is to be missed by nobody.
fn leaves_under_load(c: &mut Cluster, leaving: usize) {
    let stay: Vec<usize> = (0..c.members.len()).filter(|i| c.runs(*i) && *i != leaving).collect();
    let mut expected = names(c, stay[0]);
    let acknowledged = under_load(c, |c, done| {
        c.await_more(done, 50);
        assert_eq!(c.terminate(leaving), Some(0), "{}", c.log(leaving));
        c.await_more(done, 50);
    });
    assert!(c.log(leaving).contains("left the cluster"), "{}", c.log(leaving));
    assert!(expected.remove(&c.members[leaving].name));
    for i in stay {
        c.until("the membership without it", |c| (names(c, i) == expected).then_some(()));
        assert_all_there(c, i, acknowledged);
    }
}

#[test]
fn replicas_and_followers_that_leave_are_missed_by_nobody() {
    let mut c = cluster_with(3, LEAVES);
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY)"]));
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let replica = c.member("replica", &["-raft-non-voter", "-join", &join, LEAVES[0]]);
    c.start(replica);
    c.await_ready(replica);
    leaves_under_load(&mut c, replica);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    leaves_under_load(&mut c, follower);
    // Who left is nobody's member; it comes back with an empty disk, as another one.
    std::fs::remove_dir_all(&c.members[follower].dir).unwrap();
    let join = format!("127.0.0.1:{}", c.members[leader].raft);
    c.add_flags(follower, &["-bootstrap-expect", "0", "-join", &join]);
    c.start(follower);
    c.await_ready(follower);
    assert_eq!(names(&c, leader).len(), 3);
}

#[test]
fn leaders_that_leave_hand_over_first_down_to_the_last_voter() {
    let mut c = cluster_with(3, LEAVES);
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY)"]));
    for _ in 0..2 {
        let any = (0..3).find(|i| c.runs(*i)).unwrap();
        let leader = c.await_leader(any);
        leaves_under_load(&mut c, leader);
    }
    // Nobody is left to whom it could leave the data.
    let last = (0..3).find(|i| c.runs(*i)).unwrap();
    let count = c.value(last, "SELECT count(*) FROM t", "strong");
    assert_eq!(c.terminate(last), Some(0));
    assert!(c.log(last).contains("could not leave the cluster"), "{}", c.log(last));
    c.start(last);
    c.await_ready(last);
    assert_eq!(c.value(last, "SELECT count(*) FROM t", "strong"), count);
}

#[test]
fn a_leader_that_is_not_to_hand_over_goes_down_and_the_others_elect() {
    let mut c = cluster_with(3, &["-raft-shutdown-stepdown=false"]);
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY)", "INSERT INTO t VALUES(1)"]));
    let leader = c.await_leader(0);
    let other = (leader + 1) % 3;
    let term = |c: &Cluster, i: usize| c.status(i, "store.raft.term").as_u64().unwrap();
    let before = term(&c, leader);
    assert_eq!(c.terminate(leader), Some(0));
    assert!(!c.log(leader).contains("handed over leadership"), "{}", c.log(leader));
    let next = c.await_leader(other);
    assert_ne!(next, leader);
    assert!(term(&c, other) > before, "by an election");
    c.execute(other, &json!(["INSERT INTO t VALUES(2)"]));
    // It is a member as before.
    assert_eq!(names(&c, other).len(), 3);
    c.start(leader);
    c.await_ready(leader);
    assert_eq!(c.value(leader, "SELECT count(*) FROM t", "linearizable"), json!(2));
    // One that is to, says so.
    c.kill(next);
    c.remove_flags(next, 1);
    c.start(next);
    c.await_ready(next);
    c.lead(next);
    assert_eq!(c.terminate(next), Some(0));
    assert!(c.log(next).contains("handed over leadership"), "{}", c.log(next));
}

/// What administrators call a member by.
fn id(c: &Cluster, i: usize) -> Value {
    c.report(i)["nodeId"].clone()
}

#[test]
fn a_read_replica_is_made_a_voter_by_an_administrator() {
    let (mut c, replica) = with_read_replica();
    let add = json!({ "add": [id(&c, replica)] }).to_string();
    c.until("promoted", |c| match c.post(replica, "/cluster/voters", &add) {
        (200, _) => Some(()),
        (409, body) if body.contains("NotCaughtUp") => None,
        other => panic!("{other:?}"),
    });
    c.until("it votes", |c| (c.status(replica, "store.raft.voter") == json!(true)).then_some(()));
    // Now the other one may go: the flag by which it began means nothing any more.
    let remove = json!({ "remove": [id(&c, 0)] }).to_string();
    c.until("the first voter is removed", |c| {
        (c.post(replica, "/cluster/voters", &remove).0 == 200).then_some(())
    });
    c.kill(0);
    assert_eq!(c.await_leader(replica), replica);
    c.execute(replica, &json!(["INSERT INTO t VALUES(2)"]));
    c.kill(replica);
    c.start(replica);
    c.await_ready(replica);
    assert_eq!(c.value(replica, "SELECT count(*) FROM t", "linearizable"), json!(2));
    assert_eq!(names(&c, replica), BTreeSet::from(["replica".to_owned()]));
}

/// Has an administrator change the voters, by whichever member; tries again while that is asked for.
fn change_voters(c: &mut Cluster, by: usize, change: &Value) {
    let change = change.to_string();
    c.until("the voters are changed", |c| match c.post(by, "/cluster/voters", &change) {
        (200, _) => Some(()),
        (409, body) if body.contains("NotCaughtUp") || body.contains("ChangeInProgress") => None,
        (503, _) => None,
        other => panic!("{other:?}"),
    });
}

/// Waits until all members say of `who` that it votes, or that it does not.
fn await_vote(c: &mut Cluster, who: usize, votes: bool) {
    for i in 0..c.members.len() {
        c.until("all know who votes", |c| {
            let nodes: Value = serde_json::from_str(&c.get(i, "/nodes?nonvoters").1).unwrap();
            (nodes[&c.members[who].name]["voter"] == json!(votes)).then_some(())
        });
    }
    c.until("it knows itself", |c| (c.status(who, "store.raft.voter") == json!(votes)).then_some(()));
}

#[test]
fn a_voter_is_made_a_read_replica_and_a_voter_again_by_an_administrator() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY)"]));
    let leader = c.await_leader(0);
    let acknowledged = under_load(&mut c, |c, done| {
        // The leader hands over first.
        for who in [(leader + 1) % 3, leader] {
            c.await_more(done, 50);
            let id = id(c, who);
            change_voters(c, who, &json!({ "remove": [id], "retain": true }));
            await_vote(c, who, false);
            assert_ne!(c.await_leader((who + 1) % 3), who);
            c.await_more(done, 50);
            // It is what it became, also after a new start with the flags by which it was made a voter.
            assert_eq!(c.terminate(who), Some(0), "{}", c.log(who));
            c.await_more(done, 50);
            c.start(who);
            c.await_ready(who);
            await_vote(c, who, false);
            assert_eq!(c.report(who)["role"], json!("Learner"));
            let sql = "SELECT count(*) FROM t";
            let before = done.load(Ordering::Relaxed);
            assert!(c.value(who, sql, "linearizable").as_u64() >= Some(before));
            c.until("it replicates", |c| (c.value(who, sql, "auto").as_u64() >= Some(before)).then_some(()));
            change_voters(c, who, &json!({ "add": [id] }));
            await_vote(c, who, true);
            c.await_more(done, 50);
        }
    });
    for i in 0..3 {
        assert_eq!(names(&c, i).len(), 3);
        assert_all_there(&c, i, acknowledged);
    }
}

#[test]
fn the_last_voter_is_not_made_a_read_replica() {
    let (c, replica) = with_read_replica();
    let demote = json!({ "remove": [id(&c, 0)], "retain": true }).to_string();
    let (status, body) = c.post(replica, "/cluster/voters", &demote);
    assert!(status == 400 && body.contains("the last voter cannot be removed"), "{status} {body}");
    assert_eq!(c.status(0, "store.raft.voter"), json!(true));
}
