//! Foreign keys by real processes: members execute entries alike, however each was started.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::backups::{await_archived, cluster_id, insert, restore, settings};
use support::{Cluster, Door, cluster_with};

const SCHEMA: &str =
    "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p ON DELETE CASCADE)";

/// Whether a row without its parent is refused, by a write through member `i`.
fn refuses(c: &Cluster, i: usize) -> bool {
    let (status, body) = c.post(i, "/db/execute", &json!(["INSERT INTO c VALUES(-1)"]).to_string());
    assert_eq!(status, 200, "{body}");
    body.contains("FOREIGN KEY constraint failed")
}

/// Whether member `i` enforces them, by all that it says of it; not while that may change, as it is asked twice.
fn enforces(c: &Cluster, i: usize) -> bool {
    let store = c.status(i, "store");
    let enforced = store["foreign_keys"]["enforced"].as_bool().unwrap();
    assert_eq!(store["db_conf"]["fk_constraints"], json!(enforced));
    assert_eq!(c.value(i, "PRAGMA foreign_keys", "none"), json!(i64::from(enforced)));
    enforced
}

/// Waits until member `i` enforces them, or does not.
fn await_enforced(c: &mut Cluster, i: usize, wanted: bool) {
    let field = "store.foreign_keys.enforced";
    c.until("what is enforced changes", |c| (c.status(i, field) == json!(wanted)).then_some(()));
    assert_eq!(enforces(c, i), wanted);
}

fn await_same_state(c: &mut Cluster) {
    let running: Vec<usize> = (0..c.members.len()).filter(|i| c.runs(*i)).collect();
    c.until("the same checksum everywhere", |c| {
        let said: Vec<Value> = running.iter().map(|i| c.status(*i, "store.checksum")).collect();
        (said[0].is_object() && said.iter().all(|checksum| *checksum == said[0])).then_some(())
    });
}

/// Rows with and without their parents, and the end of a parent.
fn write_through(c: &Cluster, i: usize, enforced: bool) {
    let id = i + 1;
    assert_eq!(refuses(c, i), enforced, "through {}", c.members[i].name);
    let statements = json!([["INSERT INTO p VALUES(?)", id], ["INSERT INTO c VALUES(?)", id]]);
    c.execute(i, &statements);
    let deleted = c.execute(i, &json!([["DELETE FROM p WHERE id = ?", id]]));
    assert_eq!(deleted["results"][0]["rows_affected"], 1);
    let left = c.value(i, &format!("SELECT count(*) FROM c WHERE p = {id}"), "strong");
    assert_eq!(left, json!(i64::from(!enforced)));
    c.execute(i, &json!([["DELETE FROM c WHERE p = ?", id]]));
}

#[test]
fn members_that_were_started_differently_execute_alike() {
    let mut c = Cluster::empty();
    c.add_members(3, &["-consistency-period", "500ms"]);
    for (i, flag) in ["-fk", "-fk=false", "-fk"].into_iter().enumerate() {
        c.add_flags(i, &[flag]);
        c.start(i);
    }
    // The first write comes as soon as there is somebody to take it.
    c.await_listening(1);
    let made = "SELECT count(*) FROM sqlite_schema WHERE name IN ('p', 'c')";
    c.until("the first write", |c| {
        c.door(1)
            .try_execute(&json!([SCHEMA, "INSERT INTO c VALUES(7)"]))
            .then_some(())
            .or_else(|| (c.value(1, made, "none") == 2).then_some(()))
    });
    (0..3).for_each(|i| c.await_ready(i));
    let enforced = enforces(&c, 0);
    for i in 0..3 {
        assert_eq!(enforces(&c, i), enforced);
        let said = c.status(i, "store.foreign_keys");
        let differs = said["configured"] != json!(enforced);
        assert_eq!(said["message"].is_string(), differs, "{said}");
        write_through(&c, i, enforced);
    }
    await_same_state(&mut c);

    // Another database, and a member that gets the state as a snapshot, change nothing of it.
    let copy = c.send(reqwest::Method::GET, 0, "/db/backup", &[], b"");
    let loaded = c.send(reqwest::Method::POST, 1, "/db/load", &[], &copy.body);
    assert_eq!(loaded.status, 200, "{}", loaded.text());
    for i in 0..3 {
        await_enforced(&mut c, i, enforced);
        write_through(&c, i, enforced);
        let (status, body) = c.post(i, "/snapshot?trailing_logs=0", "");
        assert!(status == 200 || status == 204, "{body}");
    }
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let n4 = c.member("n4", &["-join", &join, if enforced { "-fk=false" } else { "-fk" }]);
    c.start(n4);
    c.await_ready(n4);
    c.await_log(n4, "installed a snapshot");
    assert_eq!(enforces(&c, n4), enforced);
    write_through(&c, n4, enforced);
    c.kill(n4);
    c.start(n4);
    c.await_ready(n4);
    write_through(&c, n4, enforced);
    await_same_state(&mut c);
    c.until("all are consistent", |c| {
        (0..3).all(|i| c.status(i, "store.consistency.state") == "consistent").then_some(())
    });
}

#[test]
fn a_rolling_restart_changes_it_while_clients_write() {
    let mut c = cluster_with(3, &["-consistency-period", "500ms", "-fk=false"]);
    c.execute(0, &json!([SCHEMA, "CREATE TABLE t(a)"]));
    let write = |door: &Door| {
        // A member that restarts refuses connections.
        drop(door.attempt(&json!(["INSERT INTO c VALUES(-1)"])));
        door.try_execute(&json!(["INSERT INTO t VALUES(1)"]))
    };
    c.while_written_to(write, |c, written| {
        for i in 0..3 {
            c.await_more(written, 20);
            assert_eq!(c.terminate(i), Some(0));
            c.remove_flags(i, 1);
            c.add_flags(i, &["-fk"]);
            c.start(i);
            c.await_ready(i);
            if i < 2 {
                assert!(!enforces(c, i), "it goes on with the state's until all have the new one");
                let message = c.status(i, "store.foreign_keys.message");
                let part = "started with -fk=true, and the cluster enforces no foreign keys";
                assert!(message.as_str().unwrap().contains(part), "{message}");
                assert!(c.log(i).contains(part));
            }
        }
        (0..3).for_each(|i| await_enforced(c, i, true));
        c.await_more(written, 20);
    });
    (0..3).for_each(|i| write_through(&c, i, true));
    assert_eq!(c.status(1, "store.foreign_keys.message"), Value::Null);
    await_same_state(&mut c);
    c.until("all are consistent", |c| {
        (0..3).all(|i| c.status(i, "store.consistency.state") == "consistent").then_some(())
    });
}

/// The files of a member's database.
fn database_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("db-1.sqlite")).collect()
}

#[test]
fn what_is_applied_again_goes_by_the_value_of_its_time() {
    let mut c = cluster_with(1, &["-fk=false"]);
    c.execute(0, &json!([SCHEMA]));
    assert_eq!(c.terminate(0), Some(0));
    let directory = c.members[0].dir.clone();
    let early: Vec<(PathBuf, Vec<u8>)> = database_files(&directory)
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    for (flag, enforced) in [("-fk=false", false), ("-fk", true), ("-fk=false", false), ("-fk", true)] {
        c.remove_flags(0, 1);
        c.add_flags(0, &[flag]);
        c.start(0);
        c.await_ready(0);
        await_enforced(&mut c, 0, enforced);
        assert_eq!(refuses(&c, 0), enforced);
        c.kill(0);
    }
    c.start(0);
    c.await_ready(0);
    assert_eq!(c.value(0, "SELECT count(*) FROM c", "strong"), 2);
    assert_eq!(c.terminate(0), Some(0));

    // The database as it was, and all of the log: as after a power cut.
    database_files(&directory).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    early.iter().for_each(|(path, content)| std::fs::write(path, content).unwrap());
    c.remove_flags(0, 1);
    c.add_flags(0, &["-fk=false"]);
    c.start(0);
    c.await_ready(0);
    assert_eq!(c.value(0, "SELECT count(*) FROM c", "strong"), 2);
}

#[test]
fn an_archive_comes_back_by_the_value_of_its_time() {
    let mut c = Cluster::empty();
    let config = settings(c.root(), Some(1), false);
    c.add_members(1, &["-backup-config", config.to_str().unwrap(), "-fk=false"]);
    c.start(0);
    c.await_ready(0);
    c.create_ledger(0);
    c.execute(0, &json!([SCHEMA]));
    assert!(!refuses(&c, 0));
    let first = insert(&c, 0, 1);
    await_archived(&mut c, first);
    c.terminate(0);
    c.remove_flags(0, 1);
    c.add_flags(0, &["-fk"]);
    c.start(0);
    c.await_ready(0);
    await_enforced(&mut c, 0, true);
    assert!(refuses(&c, 0));
    let last = insert(&c, 0, 2);
    await_archived(&mut c, last);
    let out = c.root().join("out.sqlite");
    let back = restore("restore", &config, &cluster_id(&c), &format!("index:{last}"), &out);
    assert_eq!(back.restored["index"], json!(last), "{}", back.message);
    let file = rusqlite::Connection::open(&out).unwrap();
    let rows: i64 = file.query_row("SELECT count(*) FROM c", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}
