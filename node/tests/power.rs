//! The power goes, and with it everything that was not synced: of one member, of two, of all at once. Every acknowledged
//! write is there afterwards, and none twice.
//!
//! Needs root, `mkfs.ext4` and `xfs_io` (Debian: e2fsprogs, xfsprogs). `POWER_ROUNDS` is how often each is done.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::Cluster;
use support::disk::{Disk, is_possible};
use tempfile::TempDir;

const PROGRAMS: &[&str] = &["mkfs.ext4", "mount", "umount", "xfs_io"];

fn rounds() -> usize {
    std::env::var("POWER_ROUNDS").ok().map_or(2, |n| n.parse().expect("POWER_ROUNDS is a number"))
}

/// Three members with a disk each. In this order: processes end before their disks go.
struct Machines {
    cluster: Cluster,
    disks: Vec<Disk>,
    _root: TempDir,
}

fn machines() -> Machines {
    let root = TempDir::new().unwrap();
    let disks: Vec<Disk> =
        (0..3).map(|i| Disk::make(root.path(), &format!("n{}", i + 1), 192).unwrap()).collect();
    let mut cluster = Cluster::empty();
    cluster.add_members(3, &["-log-retention", "4MiB"]);
    for (member, disk) in cluster.members.iter_mut().zip(&disks) {
        member.dir = disk.mount.join("data");
    }
    (0..3).for_each(|i| cluster.start(i));
    (0..3).for_each(|i| cluster.await_ready(i));
    Machines { cluster, disks, _root: root }
}

/// Cuts the power of `victims` members at once, again and again, under writes.
fn cut(victims: usize) {
    if !is_possible(PROGRAMS) {
        return;
    }
    let mut m = machines();
    m.cluster.create_ledger(0);
    let mut acknowledged = Vec::new();
    let mut next = 0;
    for round in 0..rounds() {
        let urls = (0..3).map(|i| m.cluster.url(i, "/db/execute")).collect();
        let writers = m.cluster.continue_ledger(urls, 6, 2000, next);
        writers.await_more(50 + rand::random_range(0..200));
        // The leader first, then one after the other.
        let first = if round % 2 == 0 { m.cluster.await_leader(0) } else { round % 3 };
        let dark: Vec<usize> = (0..victims).map(|i| (first + i) % 3).collect();
        std::thread::scope(|scope| {
            for i in &dark {
                scope.spawn(|| m.disks[*i].cut());
            }
        });
        for i in &dark {
            m.cluster.kill(*i);
        }
        if victims == 1 {
            writers.await_more(20);
        }
        next = writers.next();
        acknowledged.extend(writers.stop());
        for i in &dark {
            m.disks[*i].restore();
            m.cluster.start(*i);
        }
        dark.iter().for_each(|i| m.cluster.await_ready(*i));
        m.cluster.assert_ledgers(&acknowledged);
    }
    let count = acknowledged.len();
    println!(
        "{} cuts of {victims} of 3 members: {count} acknowledged writes, none lost, none twice",
        rounds()
    );
}

#[test]
fn of_one_member() {
    cut(1);
}

#[test]
fn of_two_members() {
    cut(2);
}

#[test]
fn of_all_members() {
    cut(3);
}

#[test]
fn what_was_not_synced_is_gone() {
    if !is_possible(PROGRAMS) {
        return;
    }
    let root = TempDir::new().unwrap();
    let disk = Disk::make(root.path(), "probe", 16).unwrap();
    let write = |name: &str| {
        let path = disk.mount.join(name);
        std::fs::write(&path, b"x").unwrap();
        std::fs::File::open(path).unwrap()
    };
    let synced = write("synced");
    synced.sync_all().unwrap();
    std::fs::File::open(&disk.mount).unwrap().sync_all().unwrap();
    drop((synced, write("unsynced")));
    disk.cut();
    assert!(std::fs::write(disk.mount.join("later"), b"x").is_err());
    disk.restore();
    assert!(disk.mount.join("synced").exists());
    assert!(!disk.mount.join("unsynced").exists());
}
