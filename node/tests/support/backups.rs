//! Verbs for tests of backups.

use super::stores::{self, StoreServer};
use super::{Cluster, PATIENCE};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Writes settings of a store in a directory `store` of the cluster's; returns the file.
pub fn settings(root: &Path, rpo: Option<u32>, encrypted: bool) -> PathBuf {
    let mut settings = json!({"store": {"filesystem": {"path": root.join("store")}}});
    if let Some(rpo) = rpo {
        settings["continuous"] = json!({"enabled": true, "rpoTargetSeconds": rpo});
    }
    if encrypted {
        let keys = root.join("keys");
        std::fs::write(&keys, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
        settings["encryption"] = json!({ "keyFile": keys });
    }
    let path = root.join("backup.yaml");
    std::fs::write(&path, serde_json::to_string(&settings).unwrap()).unwrap();
    path
}

/// A store for what is below `root`: in a directory, or of the S3 server whose program `BACKUP_S3` names. The server, and
/// settings of the store.
pub fn store(root: &Path) -> (Option<StoreServer>, Value) {
    match std::env::var("BACKUP_S3") {
        Ok(program) => {
            let (server, store) = stores::s3(&program, root);
            (Some(server), store)
        }
        Err(_) => (None, json!({"filesystem": {"path": root.join("store")}})),
    }
}

/// Members that back up into a directory.
pub fn members(n: usize, rpo: Option<u32>, encrypted: bool) -> (Cluster, PathBuf) {
    let mut c = Cluster::empty();
    let config = settings(c.root(), rpo, encrypted);
    c.add_members(n, &["-backup-config", config.to_str().unwrap(), "-consistency-period", "1s"]);
    (0..n).for_each(|i| c.start(i));
    (0..n).for_each(|i| c.await_ready(i));
    (c, config)
}

/// What `sqlited restore` or `verify` came to.
pub struct Outcome {
    pub restored: Value,
    pub message: String,
}

pub fn restore(verb: &str, config: &Path, cluster_id: &str, to: &str, output: &Path) -> Outcome {
    restore_with(&[], verb, config, cluster_id, to, output)
}

/// The same with more flags.
pub fn restore_with(
    flags: &[&str],
    verb: &str,
    config: &Path,
    cluster_id: &str,
    to: &str,
    output: &Path,
) -> Outcome {
    let done = Command::new(env!("CARGO_BIN_EXE_sqlited"))
        .args([verb, "-backup-config", config.to_str().unwrap(), "-cluster-id", cluster_id, "-to", to])
        .args(flags)
        .arg(output)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let restored = serde_json::from_slice(&done.stdout).unwrap_or(Value::Null);
    let message = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.success(), restored != Value::Null, "{message}");
    Outcome { restored, message }
}

/// Numbers in the ledger of a database file, in the order in which they were applied.
pub fn ledger(file: &Path) -> Vec<i64> {
    let db = rusqlite::Connection::open(file).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut rows = db.prepare("SELECT n FROM ledger ORDER BY rowid").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// The cluster's id, of a member that runs.
pub fn cluster_id(c: &Cluster) -> String {
    let any = (0..c.members.len()).find(|i| c.runs(*i)).unwrap();
    c.report(any)["clusterId"].as_str().unwrap().to_owned()
}

/// Inserts the next number; returns the index of its entry.
pub fn insert(c: &Cluster, i: usize, n: usize) -> u64 {
    let statement = json!([["INSERT INTO ledger(n, filling) VALUES(?, hex(randomblob(50)))", n]]);
    let (status, body) = c.post(i, "/db/execute?raft_index", &statement.to_string());
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    answer["raft_index"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

pub fn leader_of(c: &mut Cluster) -> usize {
    let any = (0..c.members.len()).find(|i| c.runs(*i)).unwrap();
    c.await_leader(any)
}

/// The page checksum of member `i` after entry `index`, which is the last one that it has applied.
pub fn sum_after(c: &mut Cluster, i: usize, index: u64) -> Value {
    let checksum = c.until("the member has applied it, and read its pages", |c| {
        let checksum = c.status(i, "store")["checksum"].clone();
        (checksum["index"].as_u64() >= Some(index)).then_some(checksum)
    });
    assert_eq!(checksum["index"], json!(index), "something was applied since");
    checksum["sum"].clone()
}

/// Settings by which a cluster may begin with what is at `url`.
pub fn import_settings(c: &Cluster, url: &str) -> PathBuf {
    let path = c.root().join("import.yaml");
    std::fs::write(&path, json!({"import": {"url": url}}).to_string()).unwrap();
    path
}

/// A cluster of one that may import from `url`.
pub fn importing(url: &str) -> Cluster {
    let mut c = Cluster::empty();
    let config = import_settings(&c, url);
    c.add_members(1, &["-restore-config", config.to_str().unwrap()]);
    c.start(0);
    c.await_ready(0);
    c
}

/// What the leader is asked for, so that it does.
pub const IMPORT: &str = r#"{"name": "begin", "source": "Other", "target": {"latest": {}}}"#;

/// Waits until the archive holds entry `index`, and a base backup before it.
pub fn await_archived(c: &mut Cluster, index: u64) {
    c.until("the archive gets there", |c| {
        let leader = leader_of(c);
        let (_, body) = c.get(leader, "/cluster/backups");
        let catalogue: Value = serde_json::from_str(&body).ok()?;
        let windows = catalogue["windows"].as_array()?;
        windows.last().is_some_and(|window| window["lastIndex"].as_u64() >= Some(index)).then_some(())
    });
}

/// Waits until a job of member `i` has succeeded; returns it.
pub fn await_job(c: &Cluster, i: usize, path: &str, name: &str) -> Value {
    let begun = Instant::now();
    loop {
        // While the database is exchanged a member may not be able to read what it came by.
        let (status, body) = c.get(i, path);
        if status == 200 {
            let jobs: Value = serde_json::from_str(&body).unwrap();
            let job = jobs["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name).unwrap();
            assert_ne!(job["state"], "Failed", "{job}");
            if job["state"] == "Succeeded" {
                return job.clone();
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "{status} {body}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Has member `i` make a backup; returns it.
pub fn back_up(c: &Cluster, i: usize, name: &str) -> Value {
    let (status, body) = c.post(i, "/cluster/backups", &json!({"name": name, "kind": "Full"}).to_string());
    assert_eq!(status, 200, "{body}");
    await_job(c, i, "/cluster/backups/jobs", name)["backup"].clone()
}

/// Has member `i` begin the backup that undoes a restore.
pub fn begin_pin(c: &Cluster, i: usize, name: &str) {
    let (status, body) = c.post(i, "/cluster/backups", &json!({"name": name, "kind": "Pin"}).to_string());
    assert_eq!(status, 200, "{body}");
}

/// The same, and waits for it; returns it.
pub fn pin(c: &Cluster, i: usize, name: &str) -> Value {
    begin_pin(c, i, name);
    await_job(c, i, "/cluster/backups/jobs", name)["backup"].clone()
}

/// Waits until a restore of member `i` has failed; returns why.
pub fn await_failed(c: &mut Cluster, i: usize, name: &str) -> String {
    // It may be tried three times, each with a wait for a store that is slow.
    c.until_within(PATIENCE * 2, "the restore fails", |c| {
        let jobs: Value = serde_json::from_str(&c.get(i, "/cluster/restore").1).ok()?;
        let job = jobs["jobs"].as_array()?.iter().find(|job| job["name"] == name)?.clone();
        assert_ne!(job["state"], "Succeeded", "{job}");
        (job["state"] == "Failed").then(|| job["message"].as_str().unwrap().to_owned())
    })
}

/// Brings the cluster to another moment; returns what that came to.
pub fn restore_in_place(c: &mut Cluster, name: &str, target: &Value, more: &Value) -> Value {
    let leader = leader_of(c);
    let mut request = json!({"name": name, "target": target, "confirmClusterId": cluster_id(c)});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, body) = c.post(leader, "/cluster/restore", &request.to_string());
    assert_eq!(status, 200, "{body}");
    await_job(c, leader, "/cluster/restore", name)["restored"].clone()
}

pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files_below(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}
