//! Automatic backups and restores: verbs, and the way to a store and back.

use super::Cluster;
use super::backups::leader_of;
use serde_json::{Value, json};
use std::path::Path;

/// Writes a file of `-auto-backup` or `-auto-restore`; returns its path.
fn write(root: &Path, name: &str, config: &Value) -> String {
    let path = root.join(name);
    std::fs::write(&path, config.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// `sub` with more fields beside it.
pub fn file(kind: &str, sub: &Value, more: &Value) -> Value {
    let mut file = json!({"version": 1, "type": kind, "sub": sub});
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    file
}

pub fn counter(c: &Cluster, i: usize, name: &str) -> u64 {
    let vars: Value = serde_json::from_str(&c.get(i, "/debug/vars?key=uploader").1).unwrap();
    vars["uploader"][name].as_u64().unwrap()
}

pub fn all(c: &Cluster, name: &str) -> Vec<u64> {
    (0..c.members.len()).map(|i| counter(c, i, name)).collect()
}

pub fn await_counted(c: &mut Cluster, i: usize, name: &str, at_least: u64) {
    c.until(name, |c| (counter(c, i, name) >= at_least).then_some(()));
}

pub fn start_all(c: &mut Cluster) {
    (0..c.members.len()).for_each(|i| c.start(i));
    (0..c.members.len()).for_each(|i| c.await_ready(i));
}

/// Members that back up at an interval.
pub fn backing_up(n: usize, config: impl FnOnce(&Path) -> Value) -> Cluster {
    let mut c = Cluster::empty();
    let path = write(c.root(), "backup.json", &config(c.root()));
    c.add_members(n, &["-auto-backup", &path]);
    start_all(&mut c);
    c.create_ledger(0);
    c
}

/// A new cluster that begins with what `config` names, not started yet.
pub fn beginning(n: usize, config: &Value) -> Cluster {
    let mut c = Cluster::empty();
    let path = write(c.root(), "restore.json", config);
    c.add_members(n, &["-auto-restore", &path]);
    c
}

/// An object as its store has it.
pub struct Stored {
    pub size: u64,
    /// What the backup is of, in the store's metadata of the object.
    pub id: String,
}

/// Members back up into a store, others begin with that; `megabytes` is about how large the object is, and `look` looks at
/// it. Nothing of `secrets` is in a log.
pub fn there_and_back(kind: &str, sub: &Value, megabytes: u64, secrets: &[&str], look: impl Fn() -> Stored) {
    let mut c = backing_up(3, |_| file(kind, sub, &json!({"interval": "300ms"})));
    let leader = leader_of(&mut c);
    let last = 99 + 2 * megabytes;
    let blobs = format!(
        "INSERT INTO ledger(n, filling) WITH RECURSIVE k(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM k WHERE n < {last}) \
         SELECT n, randomblob(500000) FROM k"
    );
    c.execute(leader, &json!([blobs]));
    let skipped = counter(&c, leader, "num_uploads_skipped");
    await_counted(&mut c, leader, "num_uploads_skipped", skipped + 2);
    // The next leader finds by the object's metadata that it is there.
    let next = (leader + 1) % 3;
    c.lead(next);
    await_counted(&mut c, next, "num_uploads_skipped", 1);
    assert_eq!((counter(&c, next, "num_uploads_skipped_id"), counter(&c, next, "num_uploads_ok")), (1, 0));
    assert!(all(&c, "num_uploads_fail").iter().all(|n| *n == 0));
    let stored = look();
    assert!(stored.size > megabytes * 900_000, "{} bytes", stored.size);
    let written: i64 = stored.id.parse().unwrap();
    assert!(written > 1_700_000_000_000_000, "microseconds since 1970: {written}");

    let mut new = beginning(3, &file(kind, sub, &json!({"timeout": "20s"})));
    start_all(&mut new);
    assert_eq!(new.assert_ledger(0, &[]), (100..=last).collect::<Vec<_>>());
    for secret in [secrets, &["backup.json", "restore.json"]].concat() {
        assert!((0..3).all(|i| !c.log(i).contains(secret) && !new.log(i).contains(secret)), "{secret}");
    }
}
