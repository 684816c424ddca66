//! A member whose volume was put back to an earlier state, as from a snapshot of it: it lacks what it acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::{Cluster, cluster};

const REMEDY: &str = "its volume was put back to an earlier state, or copied; give it an empty disk";

/// Copies a directory with all that is in it; links stay what they are.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&path).unwrap(), target).unwrap();
        } else if kind.is_dir() {
            copy(&path, &target);
        } else if kind.is_file() {
            std::fs::copy(&path, target).unwrap();
        }
    }
}

/// Puts `earlier` in the place of a member's directory.
fn put_back(c: &Cluster, i: usize, earlier: &Path) {
    std::fs::remove_dir_all(&c.members[i].dir).unwrap();
    copy(earlier, &c.members[i].dir);
}

fn write(c: &Cluster, i: usize, rows: std::ops::Range<u64>) {
    for n in rows {
        c.execute(i, &json!([["INSERT INTO t VALUES(?)", n]]));
    }
}

fn count(c: &Cluster, i: usize) -> Value {
    c.value(i, "SELECT count(*) FROM t", "strong")
}

/// A member of whose volume `take` made a copy comes back with that.
fn comes_back_with_an_earlier_volume(take: impl Fn(&mut Cluster, usize, &Path)) {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    write(&c, 0, 0..20);
    let leader = c.await_leader(0);
    let (victim, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let earlier = c.root().join("earlier");
    take(&mut c, victim, &earlier);
    c.await_ready(victim);
    let leader = c.await_leader(leader);
    assert_ne!(leader, victim);
    // What this one and the leader have on disk: the third is away.
    c.kill(third);
    write(&c, leader, 20..60);
    c.until("the member has them", |c| {
        (c.value(victim, "SELECT count(*) FROM t", "none") == 60).then_some(())
    });
    c.kill(victim);
    put_back(&c, victim, &earlier);
    let id = c.report(leader)["membership"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .find(|member| member["name"] == json!(c.members[victim].name))
        .unwrap()["nodeId"]
        .clone();

    // Nothing is acknowledged by its disk, and it ends, for good.
    c.start(victim);
    let said = c.fatal(victim);
    assert!(said.contains(REMEDY), "{said}");
    let told = c.status(leader, "store.rolled_back");
    assert_eq!(told[0]["node_id"], id, "{told}");
    assert!(told[0]["message"].as_str().unwrap().contains(REMEDY), "{told}");
    let refused = c.status(leader, "store.refused_peers.rolled-back");
    assert!(refused.as_u64() > Some(0), "{refused}");
    c.start(victim);
    let again = c.fatal(victim);
    assert!(again.contains(REMEDY), "{again}");

    // Who lacks nothing comes back; then the leader dies, and its disk comes back later.
    c.start(third);
    c.until("a quorum again", |c| (count(c, leader) == 60).then_some(()));
    write(&c, leader, 60..70);
    c.await_ready(third);
    c.kill(leader);
    c.start(victim);
    assert!(c.fatal(victim).contains(REMEDY));
    c.await_no_leader(third);
    c.start(leader);
    c.await_ready(leader);
    c.await_ready(third);
    assert_eq!(count(&c, third), json!(70));

    // With an empty disk it is a new member.
    std::fs::remove_dir_all(&c.members[victim].dir).unwrap();
    let gone = json!({ "id": c.members[victim].name }).to_string();
    assert_eq!(c.delete(third, "/remove", &gone).0, 200);
    c.start(victim);
    c.await_ready(victim);
    assert_ne!(c.report(victim)["nodeId"], id);
    assert_eq!(count(&c, victim), json!(70));
}

#[test]
fn a_volume_that_was_copied_while_its_member_ran() {
    comes_back_with_an_earlier_volume(|c, i, to| {
        c.signal(i, "STOP");
        copy(&c.members[i].dir, to);
        c.signal(i, "CONT");
    });
}

#[test]
fn a_volume_that_was_copied_between_two_starts() {
    comes_back_with_an_earlier_volume(|c, i, to| {
        assert_eq!(c.terminate(i), Some(0));
        copy(&c.members[i].dir, to);
        c.start(i);
    });
}

#[test]
fn members_that_are_killed_and_come_back_are_never_taken_for_others() {
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    for round in 0..4 {
        for i in 0..3 {
            c.kill(i);
            c.start(i);
            write(&c, (i + 1) % 3, round * 30 + 10 * i as u64..round * 30 + 10 * i as u64 + 10);
            c.await_ready(i);
        }
    }
    for i in 0..3 {
        assert_eq!(c.status(i, "store.rolled_back"), json!([]));
        assert_eq!(count(&c, i), json!(120));
    }
}
