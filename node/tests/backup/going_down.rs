//! Members that go down in order leave nothing behind that only their disks have.

use super::support::backups::{await_archived, cluster_id, insert, leader_of, ledger, members, restore};
use std::path::Path;

/// Between two segments there would be half an hour.
pub const HOUR: u32 = 3600;

/// All of `n` members go down at once, right after the last write, as those of a cluster that is hibernated.
fn go_down(n: usize) {
    let (mut c, config) = members(n, Some(HOUR), false);
    c.create_ledger(0);
    // The archive begins at once; what is written from then on waits for the next segment.
    await_archived(&mut c, 0);
    let leader = leader_of(&mut c);
    let last = (0..20).map(|number| insert(&c, leader, number)).max();
    let id = cluster_id(&c);
    (0..n).for_each(|i| c.signal(i, "TERM"));
    for i in 0..n {
        let status = c.await_end(i, "SIGTERM");
        assert_eq!(status.code(), Some(0), "{}", c.log(i));
    }
    let told =
        |c: &super::Cluster| (0..n).any(|i| c.log(i).contains("everything that is committed is archived"));
    assert!(told(&c), "{}", c.log(leader));
    let out = c.root().join("out.sqlite");
    let restored = restore("restore", &config, &id, "latest", &out);
    assert!(
        restored.restored["index"].as_u64() >= last,
        "{} of {last:?}: {}",
        restored.restored,
        restored.message
    );
    assert_eq!(ledger(&out), (0..20).collect::<Vec<i64>>());
}

#[test]
fn one_member_that_goes_down_archives_what_is_committed() {
    go_down(1);
}

#[test]
fn members_that_all_go_down_at_once_archive_what_is_committed() {
    go_down(3);
}

#[test]
fn a_store_that_is_away_does_not_hold_up_going_down_for_good() {
    let (mut c, config) = members(1, Some(1), false);
    c.create_ledger(0);
    let begun = c.report(0)["lastLogIndex"].as_u64().unwrap();
    await_archived(&mut c, begun);
    make_away(&c.root().join("store"));
    let last = insert(&c, 0, 1);
    assert_eq!(c.terminate(0), Some(0));
    let log = c.log(0);
    assert!(log.contains("goes down before these entries are archived"), "{log}");
    // They are archived when it is back.
    bring_back(&c.root().join("store"));
    c.start(0);
    c.await_ready(0);
    await_archived(&mut c, last);
    let out = c.root().join("out.sqlite");
    let restored = restore("restore", &config, &cluster_id(&c), "latest", &out);
    assert_eq!(ledger(&out), [1], "{}", restored.message);
}

/// A file in the place of the directory: nothing can be written there.
pub fn make_away(store: &Path) {
    std::fs::rename(store, store.with_file_name("away")).unwrap();
    std::fs::write(store, "away").unwrap();
}

/// What was there is there again.
pub fn bring_back(store: &Path) {
    std::fs::remove_file(store).unwrap();
    std::fs::rename(store.with_file_name("away"), store).unwrap();
}
