//! Memory that SQLite does not get while entries are applied. What lacked memory here has it elsewhere, so it must never
//! become a result: either SQLite does without, and everything is as ever, or the member stops, and after its next start it
//! has what the others have.
//!
//! Each piece of memory is refused once, one after the other; `NO_MEMORY_EACH` says each how manieth. The proof takes 1.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use node::failpoint::{Place, set, watch};
use node::raft::command::{EntryContext, Param, RequestEncoder, RequestFlags, RequestId, encode_execute};
use node::store::{Checksum, Entry, LocalFailure, LogId, Payload, Reply, Store, bound_queries};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::cluster;

const SCHEMA: &[&str] = &[
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b TEXT DEFAULT CURRENT_TIMESTAMP, c DEFAULT (random()), CHECK(a <> 13))",
    "CREATE TABLE made(a, b AS (a * 2) STORED, c AS (upper(hex(a))) VIRTUAL)",
    "CREATE INDEX made_e ON made(a + 1, c)",
    "CREATE TABLE child(id INTEGER PRIMARY KEY AUTOINCREMENT, of REFERENCES t(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TRIGGER t_i AFTER INSERT ON t BEGIN INSERT INTO made VALUES(new.a); END",
    "CREATE TRIGGER t_d BEFORE DELETE ON t WHEN old.a % 7 = 0 BEGIN SELECT RAISE(ROLLBACK, 'sevens stay'); END",
    "CREATE VIRTUAL TABLE texts USING fts5(title, body, prefix='2 3')",
    "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1)",
];

/// Requests, one entry each; `true` is one transaction.
const REQUESTS: &[(bool, &[&str])] = &[
    (
        false,
        &[
            "INSERT INTO t(a) VALUES(?1), ('zwei'), (x'03') RETURNING *",
            "INSERT INTO t(a) VALUES('zwei')",
            "INSERT INTO t(id, a) VALUES(1, 'eins') ON CONFLICT(id) DO UPDATE SET a = excluded.a || random() RETURNING a",
            "INSERT OR REPLACE INTO t(id, a) SELECT 2, json_group_array(json_object('k', a, 'n', id)) FROM t",
            "UPDATE t SET b = printf('%.3f', sin(id)) || datetime('now', '+1 day') WHERE id IN (SELECT id FROM t ORDER BY b LIMIT 2)",
        ],
    ),
    (true, &["INSERT INTO t(a) VALUES(4711)", "INSERT INTO t(a) VALUES(13)", "INSERT INTO t(a) VALUES(5)"]),
    (
        true,
        &[
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 60) INSERT INTO texts SELECT 'title ' || i, hex(randomblob(60)) || ' word' || i FROM n",
            "INSERT INTO boxes SELECT rowid, rowid, rowid + 1 FROM texts LIMIT 40",
            "DELETE FROM texts WHERE texts MATCH 'word7 OR word8'",
            "UPDATE boxes SET x1 = x1 + 2 WHERE x0 > 3",
        ],
    ),
    (
        false,
        &[
            "INSERT INTO t(id, a) VALUES(7, 7)",
            "DELETE FROM t WHERE id = 7",
            "INSERT INTO child(of) VALUES(4000)",
            "INSERT INTO child(of) SELECT id FROM t",
            "DELETE FROM t WHERE id = 1",
        ],
    ),
    (
        false,
        &[
            "CREATE TABLE more AS SELECT * FROM t",
            "ALTER TABLE more ADD COLUMN d DEFAULT 5",
            "CREATE INDEX more_a ON more(a DESC)",
            "ALTER TABLE more RENAME COLUMN d TO e",
            "ANALYZE",
            "SELECT group_concat(a), sum(e), abs(max(id)) FROM (SELECT * FROM more ORDER BY b DESC, a)",
            "EXPLAIN QUERY PLAN SELECT * FROM more JOIN t USING (a)",
            "DROP TABLE more",
            "no such statement",
            "SELECT * FROM nowhere",
        ],
    ),
    (
        false,
        &[
            "INSERT INTO t(a) VALUES(zeroblob(70000))",
            "SELECT last_insert_rowid(), changes(), total_changes()",
        ],
    ),
    (false, &["VACUUM"]),
    (false, &["INSERT INTO t(a) VALUES('last')", "PRAGMA foreign_key_check", "SELECT count(*) FROM t"]),
];

fn entry(index: u64, transaction: bool, statements: &[&str]) -> Entry {
    let flags = RequestFlags::default().with(RequestFlags::TRANSACTION, transaction);
    let mut e = RequestEncoder::new(flags.with(RequestFlags::UNIFIED, true), 0);
    for sql in statements {
        e.statement(sql);
        if sql.contains("?1") {
            assert!(e.param(None, Param::Text("ein Wert")));
        }
    }
    let request = e.finish(RequestId::default());
    let context = EntryContext { timestamp_us: 1_750_000_000_000_000, seed: 9, step_limit: 1_000_000 };
    let command = encode_execute(context, [request.bytes()].into_iter());
    let log_id = LogId { term: 1, leader: 7, index };
    Entry { log_id, payload: Payload::Command(command), wants_reply: true }
}

fn entries() -> Vec<Entry> {
    let requests = REQUESTS.iter().enumerate();
    requests.map(|(i, (transaction, statements))| entry(1 + i as u64, *transaction, statements)).collect()
}

fn open(directory: &Path) -> Store {
    Store::open(directory, true, Duration::from_secs(3600)).unwrap()
}

/// Applies `entries`; what each answered.
async fn apply(store: &Store, entries: &[Entry]) -> Result<Vec<Reply>, LocalFailure> {
    store.apply(entries.to_vec()).await
}

/// Waits until the pages have been read.
async fn checksum(store: &Store) -> Checksum {
    loop {
        if let Some(checksum) = store.checksum().await.unwrap() {
            return checksum;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (file.path(), to.join(file.file_name()));
        match file.file_type().unwrap() {
            kind if kind.is_symlink() => {
                std::os::unix::fs::symlink(std::fs::read_link(source).unwrap(), target).unwrap();
            }
            kind if kind.is_dir() => copy(&source, &target),
            _ => drop(std::fs::copy(source, target).unwrap()),
        }
    }
}

/// Whether this is SQLite's, or the system's, word for no memory.
fn lacks_memory(failure: &LocalFailure) -> bool {
    let said = format!("{failure:?}");
    ["OutOfMemory", "out of memory"].iter().any(|word| said.contains(word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_of_memory_that_is_missing_is_never_a_result() {
    assert!(bound_queries(), "what stands in front of SQLite's allocator is what refuses");
    let each =
        std::env::var("NO_MEMORY_EACH").ok().map_or(131, |n| n.parse().expect("NO_MEMORY_EACH is a number"));
    let root = tempfile::tempdir().unwrap();
    let begun = root.path().join("begun");
    std::fs::create_dir(&begun).unwrap();
    let store = open(&begun);
    let made = apply(&store, &[entry(0, false, SCHEMA)]).await.unwrap();
    assert!(!String::from_utf8_lossy(&made[0][0]).contains("error"), "{made:?}");
    store.close().await.unwrap();

    // How it is with all the memory that it asks for, and how often it asks.
    let asked = Arc::new(AtomicUsize::new(0));
    let expected = {
        let directory = root.path().join("whole");
        copy(&begun, &directory);
        let store = open(&directory);
        let counts = asked.clone();
        let count = move || {
            counts.fetch_add(1, Ordering::Relaxed);
        };
        watch(Place::SqliteMemory, count).unwrap();
        let replies = apply(&store, &entries()).await.unwrap();
        set(Place::SqliteMemory, "off").unwrap();
        let sum = checksum(&store).await;
        store.close().await.unwrap();
        (replies, sum)
    };
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked > 1000, "asked {asked} times");

    let (mut stopped, mut did_without) = (0, 0);
    for nth in (0..asked).step_by(each) {
        let directory = root.path().join("lacking");
        copy(&begun, &directory);
        let store = open(&directory);
        set(Place::SqliteMemory, &format!("{nth}*off->1*return(enomem)->off")).unwrap();
        let replies = apply(&store, &entries()).await;
        set(Place::SqliteMemory, "off").unwrap();
        match replies {
            Ok(replies) => {
                assert_eq!(replies, expected.0, "piece {nth}");
                assert_eq!(checksum(&store).await, expected.1, "piece {nth}");
                store.close().await.unwrap();
                did_without += 1;
            }
            Err(failure) => {
                assert!(lacks_memory(&failure), "piece {nth}: {failure:?}");
                drop(store);
                let store = open(&directory);
                let applied = store.applied().log_id.unwrap().index;
                let left: Vec<Entry> = entries().into_iter().filter(|e| e.log_id.index > applied).collect();
                let replies = apply(&store, &left).await.unwrap();
                assert_eq!(replies, expected.0[expected.0.len() - left.len()..], "piece {nth}");
                assert_eq!(checksum(&store).await, expected.1, "piece {nth}");
                store.close().await.unwrap();
                stopped += 1;
            }
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
    println!(
        "{asked} pieces of memory, each {each}th missing once: {stopped} stopped, {did_without} did without"
    );
    assert!(stopped > did_without / 10, "{stopped}, {did_without}");
}

#[test]
fn a_member_that_gets_no_memory_ends_and_comes_back() {
    let mut c = cluster(3);
    c.create_ledger(0);
    let leader = c.await_leader(0);
    let victim = (leader + 1) % 3;
    c.kill(victim);
    // So much is for the start.
    c.start_armed(victim, &format!("{}=20000*off->return(enomem)", Place::SqliteMemory.name()));
    c.await_ready(victim);
    let writers = c.write_to(&[leader, (leader + 2) % 3], 4, 2000);
    assert_eq!(c.exit_code(victim), Some(1));
    assert!(c.log(victim).contains("out of memory"), "{}", c.log(victim));
    writers.await_more(20);
    c.start(victim);
    c.await_ready(victim);
    writers.await_more(20);
    assert_eq!(writers.refused(), 0, "{}", writers.last_refusal());
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
    c.until("all have the same state", |c| {
        let said: Vec<_> = (0..3).map(|i| c.status(i, "store.checksum")).collect();
        (said[0].is_object() && said.iter().all(|checksum| *checksum == said[0])).then_some(())
    });
    assert_eq!(c.status(victim, "store.consistency.reinstalls"), json!(0));
}
