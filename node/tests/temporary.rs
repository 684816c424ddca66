//! What SQLite has no room for in memory while it sorts: where it goes, and that nothing of it stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use support::{Cluster, StopAtEnd};

/// Temporary files of SQLite that a process has open, by the names that they had: one that it gave, or, of a file that never
/// had any, the kernel's (open(2), `O_TMPFILE`).
fn open_temporary_files(pid: u32) -> Vec<PathBuf> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let names = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let is_temporary = |name: &PathBuf| {
        let name = name.to_string_lossy();
        name.ends_with(" (deleted)") && (name.contains("/etilqs_") || name.contains("/#"))
    };
    names.filter(is_temporary).collect()
}

/// The directories in which member 0 has temporary files open while `work` is done.
fn directories_during(c: &Cluster, work: impl FnOnce()) -> BTreeSet<PathBuf> {
    let (pid, done) = (c.pid(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let end = StopAtEnd(&done);
        let watching = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                seen.extend(open_temporary_files(pid).iter().map(|file| file.parent().unwrap().to_owned()));
            }
            seen
        });
        work();
        drop(end);
        watching.join().unwrap()
    })
}

/// A member whose table takes more than the memory for sorting, by a statement of a write and by one of a query.
fn sorts_in(c: &mut Cluster, expected: &Path) {
    c.start(0);
    c.await_ready(0);
    let rows = "INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000) \
                SELECT hex(randomblob(100)) FROM c";
    c.execute(0, &json!(["CREATE TABLE t(a)", rows]));
    let only = BTreeSet::from([expected.canonicalize().unwrap()]);
    let index = directories_during(c, || drop(c.execute(0, &json!(["CREATE INDEX i ON t(a)"]))));
    assert_eq!(index, only, "of CREATE INDEX");
    let sorted = directories_during(c, || {
        let sql = "SELECT a FROM t NOT INDEXED ORDER BY substr(a, 7) LIMIT 1 OFFSET 99999";
        assert!(c.value(0, sql, "none").is_string());
    });
    assert_eq!(sorted, only, "of a query");
    assert_eq!(std::fs::read_dir(expected).unwrap().count(), 0, "nothing is left");
}

#[test]
fn what_does_not_fit_into_memory_goes_beside_the_data() {
    let mut c = Cluster::empty();
    c.work_apart();
    c.add_members(1, &[]);
    let temporary = c.members[0].dir.join("temporary");
    // Somebody ended in the middle.
    std::fs::create_dir_all(temporary.join("child-0")).unwrap();
    std::fs::write(temporary.join("etilqs_left"), b"left").unwrap();
    sorts_in(&mut c, &temporary);
    assert_eq!(c.left_outside(0), Vec::<PathBuf>::new());
    assert_eq!(c.terminate(0), Some(0));
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn it_goes_where_the_environment_says() {
    let mut c = Cluster::empty();
    let elsewhere = c.root().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    c.set_environment("SQLITE_TMPDIR", elsewhere.to_str().unwrap().to_owned());
    c.add_members(1, &[]);
    sorts_in(&mut c, &elsewhere);
}
