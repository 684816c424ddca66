//! Disks that fill up and disks that fail, under members as processes.
//!
//! Needs root and `mkfs.ext4`; the test of failed syncs needs `strace`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::json;
use std::fs::DirEntry;
use std::process::{Child, Command, Stdio};
use support::disk::{Disk, is_possible};
use support::{Cluster, cluster, cluster_with};
use tempfile::TempDir;

const PROGRAMS: &[&str] = &["mkfs.ext4", "mount", "umount"];

/// Three members, the first `small` of them on a disk of 96 MiB, of which 12 are the reserve.
struct Machines {
    cluster: Cluster,
    disks: Vec<Disk>,
    _root: TempDir,
}

fn machines(small: usize) -> Machines {
    let root = TempDir::new().unwrap();
    let disks: Vec<Disk> =
        (0..small).map(|i| Disk::make(root.path(), &format!("n{}", i + 1), 96).unwrap()).collect();
    let mut cluster = Cluster::empty();
    cluster.add_members(3, &["-log-retention", "4MiB", "-disk-reserve", "12MiB"]);
    for (member, disk) in cluster.members.iter_mut().zip(&disks) {
        member.dir = disk.mount.join("data");
    }
    (0..3).for_each(|i| cluster.start(i));
    (0..3).for_each(|i| cluster.await_ready(i));
    cluster.create_ledger(0);
    Machines { cluster, disks, _root: root }
}

#[test]
fn a_leader_without_room_hands_over_to_a_member_with_room() {
    if !is_possible(PROGRAMS) {
        return;
    }
    let mut m = machines(1);
    m.cluster.lead(0);
    let writers = m.cluster.write_to(&[0, 1, 2], 2, 100);
    writers.await_more(10);
    let ballast = m.disks[0].fill(6 << 20);
    m.cluster.until("another leader", |c| (c.report(1)["leader"]["name"] != json!("n1")).then_some(()));
    writers.await_more(50);
    std::fs::remove_file(ballast).unwrap();
    let acknowledged = writers.stop();
    m.cluster.assert_ledgers(&acknowledged);
}

#[test]
fn without_room_anywhere_writes_are_refused_until_there_is_some() {
    if !is_possible(PROGRAMS) {
        return;
    }
    let mut m = machines(3);
    let writers = m.cluster.write_to(&[0, 1, 2], 2, 100);
    writers.await_more(10);
    // At once: what the others still write is written here too, and would take the room that is left.
    let ballast: Vec<_> = std::thread::scope(|scope| {
        let filling: Vec<_> = m.disks.iter().map(|disk| scope.spawn(|| disk.fill(6 << 20))).collect();
        filling.into_iter().map(|disk| disk.join().unwrap()).collect()
    });
    // By the last member, too: leadership goes round while there is one with room.
    let refused = m.cluster.until("writes refused", |c| {
        let pause = writers.acknowledged();
        let (status, body) = c.post(0, "/db/execute", r#"["INSERT INTO ledger(n) VALUES(-1)"]"#);
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        (status == 507 && writers.acknowledged() == pause).then_some(body)
    });
    assert!(refused.contains("no space left"), "{refused}");
    for i in 0..3 {
        for level in ["none", "weak", "linearizable"] {
            assert!(m.cluster.value(i, "SELECT count(*) FROM ledger", level).as_u64() > Some(0), "{level}");
        }
    }
    let pids: Vec<_> = (0..3).map(|i| m.cluster.pid(i)).collect();
    ballast.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    writers.await_more(20);
    let acknowledged = writers.stop();
    // Leadership may have gone once more to a member that has not looked since.
    m.cluster.until("a write is taken", |c| {
        let (status, body) = c.post(0, "/db/execute", r#"["DELETE FROM ledger WHERE n < 0"]"#);
        assert!(status == 200 || status == 507, "{status} {body}");
        (status == 200 && !body.contains("error")).then_some(())
    });
    m.cluster.assert_ledgers(&acknowledged);
    assert_eq!((0..3).map(|i| m.cluster.pid(i)).collect::<Vec<_>>(), pids);
}

#[test]
fn who_writes_as_fast_as_it_goes_is_refused_before_a_disk_is_full() {
    if !is_possible(PROGRAMS) {
        return;
    }
    let mut m = machines(3);
    let (mut taken, mut refused) = (0, 0);
    let write = r#"["INSERT INTO ledger VALUES (1, randomblob(3000000))"]"#;
    m.cluster.until("writes are refused", |c| {
        // As long as there is room without a pause: more than the reserve between two looks at the disk.
        loop {
            let (status, body) = c.post(0, "/db/execute", write);
            assert!(status == 507 || (status == 200 && !body.contains("error")), "{status} {body}");
            if status == 507 {
                break;
            }
            (taken, refused) = (taken + 1, 0);
        }
        // What members no longer need goes, and there may be room again.
        refused += 1;
        (refused == 100).then_some(())
    });
    for i in 0..3 {
        assert!(!m.cluster.log(i).contains("the disk is full"), "{}", m.cluster.log(i));
        assert_eq!(m.cluster.value(i, "SELECT count(*) FROM ledger", "linearizable"), json!(taken));
    }
}

#[test]
fn a_member_whose_disk_is_full_serves_what_it_has_and_comes_back() {
    if !is_possible(PROGRAMS) {
        return;
    }
    let mut m = machines(1);
    m.cluster.lead(1);
    // Of a size that leaves room for a snapshot beside the database, however far behind a slow machine gets.
    let writers = m.cluster.write_to(&[1, 2], 4, 4_000);
    writers.await_more(20);
    // To the last block, while it is written to.
    let ballast = m.disks[0].fill(0);
    m.cluster.await_log(0, "the disk is full");
    assert!(m.cluster.value(0, "SELECT count(*) FROM ledger", "none").as_u64() > Some(0));
    let (status, body) = m.cluster.post(0, "/db/execute", r#"["INSERT INTO ledger(n) VALUES(-1)"]"#);
    assert_eq!(status, 507, "{body}");
    // The others go on, and are not logged as a failure each time they ask: only what was on its way may be.
    m.cluster.until("nothing more is logged as a failure", |c| {
        let failures = |c: &Cluster| c.log(0).matches(" ERROR ").count();
        let before = failures(c);
        writers.await_more(20);
        (failures(c) == before).then_some(())
    });
    std::fs::remove_file(ballast).unwrap();
    m.cluster.await_ready(0);
    writers.await_more(20);
    let acknowledged = writers.stop();
    m.cluster.assert_ledgers(&acknowledged);
}

/// Whether syncs can be made to fail. If not, the test is skipped; in CI that is a failure.
fn has_strace() -> bool {
    let strace = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    let is_there = strace.is_ok_and(|status| status.success());
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "strace is not installed");
        eprintln!("skipped: strace is not installed");
    }
    is_there
}

/// Makes calls of one thread of member `i` on its database's file fail, as `inject` says, until the process is killed.
fn fail_on_database(c: &mut Cluster, i: usize, thread: &str, inject: &str) -> Child {
    let mut tasks = std::fs::read_dir(format!("/proc/{}/task", c.pid(i))).unwrap().map(Result::unwrap);
    let is_called = |task: &DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == thread)
    };
    let task = tasks.find(is_called).expect("a thread of its own");
    let (id, status) = (task.file_name().into_string().unwrap(), task.path().join("status"));
    let database = c.members[i].dir.join("db.sqlite").canonicalize().unwrap();
    let calls = inject.split(':').next().unwrap();
    let strace = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &format!("inject={inject}")])
        .args(["-P", database.to_str().unwrap(), "-p", &id])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tracer = format!("TracerPid:\t{}\n", strace.id());
    c.until("the thread is watched", |_| {
        std::fs::read_to_string(&status).unwrap().contains(&tracer).then_some(())
    });
    strace
}

#[test]
fn a_member_whose_sync_fails_ends_and_acknowledges_nothing_more() {
    // B2
    if !has_strace() {
        return;
    }
    let mut c = cluster(3);
    c.create_ledger(0);
    let writers = c.write_to(&[0, 1, 2], 3, 100);
    for leads in [false, true] {
        let leader = c.await_leader(0);
        let i = if leads { leader } else { (leader + 1) % 3 };
        writers.await_more(10);
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
            .args(["-e", "inject=fsync,fdatasync:error=EIO", "-p", &c.pid(i).to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = c.await_end(i, "its syncs fail");
        strace.wait().unwrap();
        assert_eq!(ended.code(), Some(1), "{}", c.log(i));
        assert!(c.log(i).contains("Input/output error"), "{}", c.log(i));
        writers.await_more(10);
        c.start(i);
        c.await_ready(i);
    }
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

/// The sync was repeated by the writer, and the second one succeeds whatever became of the pages of the first.
#[test]
fn a_member_ends_by_one_failed_sync_of_a_checkpoint() {
    if !has_strace() {
        return;
    }
    let mut c = cluster(1);
    c.create_ledger(0);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let writers = c.write_to(&[0], 4, 100);
    writers.await_more(10);
    let acknowledged = writers.stop();
    // The first one only.
    let mut strace = fail_on_database(&mut c, 0, "checkpoint", "fsync,fdatasync:error=EIO:when=1");
    // Enough for a checkpoint, and nothing after it: what comes meanwhile leaves the sync to the writer. The member may end
    // before it answers.
    let large = json!(["INSERT INTO t VALUES(zeroblob(20000000))"]).to_string();
    drop(reqwest::blocking::Client::new().post(c.url(0, "/db/execute")).body(large).send());
    let ended = c.await_end(0, "a sync of its checkpoint fails");
    strace.wait().unwrap();
    assert_eq!(ended.code(), Some(1), "{}", c.log(0));
    assert!(c.log(0).contains("checkpoint beside the writer failed"), "{}", c.log(0));
    c.start(0);
    c.await_ready(0);
    assert_eq!(c.value(0, "SELECT sum(length(a)) FROM t", "none"), json!(20_000_000));
    c.assert_ledgers(&acknowledged);
}

/// The thread that reads all pages only warned, and stopped there at each round; the writer need never touch the page.
#[test]
fn a_page_that_cannot_be_read_is_damage() {
    if !has_strace() {
        return;
    }
    let mut c = cluster_with(3, &["-consistency-period", "300ms", "-scrub-period", "1s"]);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(7)"]));
    let i = (c.await_leader(0) + 1) % 3;
    let state = |c: &Cluster| c.status(i, "store.consistency.state");
    c.until("it is compared", |c| (state(c) == json!("consistent")).then_some(()));
    // What is in the WAL is read from there.
    assert!(matches!(c.post(i, "/snapshot", "").0, 200 | 204));
    let mut strace = fail_on_database(&mut c, i, "scrub", "read,pread64:error=EIO");
    c.until("another member's state", |c| {
        (c.status(i, "store.consistency.reinstalls") == json!(1)).then_some(())
    });
    strace.kill().unwrap();
    strace.wait().unwrap();
    c.until("it is back", |c| (c.is_ready(i) && state(c) == json!("consistent")).then_some(()));
    assert_eq!(c.status(i, "store.damaged_page"), json!(null));
    assert_eq!(c.value(i, "SELECT a FROM t", "none"), json!(7));
    assert!(c.log(i).contains("a page of the database cannot be read"), "{}", c.log(i));
}
