//! A member that took over the database, as a snapshot, lacks entries that others keep for the archive.

use super::going_down::HOUR;
use super::support::Cluster;
use super::support::backups::{await_archived, cluster_id, insert, leader_of, ledger, members, restore};
use serde_json::json;

/// The first entry that a member's log has.
fn log_begins(c: &Cluster, i: usize) -> Option<u64> {
    let store = c.status(i, "store");
    store["raft"]["last_log_index"].as_u64()?.checked_sub(store["trailing_logs"].as_u64()?)
}

#[test]
fn a_leader_that_lacks_what_is_to_be_archived_hands_over_to_one_that_has_it() {
    let (mut c, config) = members(3, Some(HOUR), false);
    c.create_ledger(0);
    let leader = leader_of(&mut c);
    await_archived(&mut c, 0);
    let archived = (0..10).map(|n| insert(&c, leader, n)).max().unwrap();
    c.lead((leader + 1) % 3);
    await_archived(&mut c, archived);
    let leader = leader_of(&mut c);
    // These wait for the next segment.
    let last = (10..20).map(|n| insert(&c, leader, n)).max().unwrap();
    c.until("of the log is left what is to be archived", |c| {
        (0..3).for_each(|i| drop(c.post(i, "/snapshot?trailing_logs=0", "")));
        (0..3).all(|i| log_begins(c, i).is_some_and(|first| first > archived / 2)).then_some(())
    });

    // Another one comes with an empty disk.
    let leader = leader_of(&mut c);
    let new = (leader + 1) % 3;
    c.kill(new);
    std::fs::remove_dir_all(&c.members[new].dir).unwrap();
    let gone = json!({ "id": c.members[new].name }).to_string();
    assert_eq!(c.delete(leader, "/remove", &gone).0, 200);
    c.start(new);
    c.await_ready(new);
    insert(&c, leader, 20);
    c.until("its log begins after what is to be archived", |c| {
        log_begins(c, new).is_some_and(|first| first > archived + 1).then_some(())
    });
    c.lead(new);

    await_archived(&mut c, last);
    assert_ne!(leader_of(&mut c), new);
    for i in 0..3 {
        assert!(!c.log(i).contains("the archive has a hole"), "{}", c.log(i));
    }
    let out = c.root().join("out.sqlite");
    let restored = restore("restore", &config, &cluster_id(&c), &format!("index:{}", last - 5), &out);
    assert_eq!(ledger(&out), (0..15).collect::<Vec<i64>>(), "{}", restored.message);
}
