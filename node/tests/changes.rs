//! Change capture: what is in it, that none is lost or out of order, and what happens when nobody takes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::backups::files_below;
use support::certificates::Authority;
use support::deliveries::{Deliveries, Row};
use support::memory::PeakMemory;
use support::sink::{Reply, Sink};
use support::{Cluster, StopAtEnd, cluster};

/// The most memory that a member may take, in MiB, however much is captured.
const MEMORY: u64 = 256;

/// Members that capture as `config` says.
fn capturing(n: usize, config: &Value, flags: &[&str]) -> Cluster {
    let mut c = Cluster::empty();
    let path = c.root().join("cdc.json");
    std::fs::write(&path, config.to_string()).unwrap();
    c.add_members(n, flags);
    for i in 0..n {
        c.add_flags(i, &["-cdc-config", path.to_str().unwrap()]);
        c.start(i);
    }
    (0..n).for_each(|i| c.await_ready(i));
    await_capture(&mut c);
    c
}

fn await_capture(c: &mut Cluster) {
    for i in 0..c.members.len() {
        c.until("capture", |c| (c.status(i, "cdc.enabled") == json!(true)).then_some(()));
    }
}

/// Waits until all members that run have applied what the first did.
fn await_equal(c: &mut Cluster, members: &[usize]) {
    c.until("members with the same checksum", |c| {
        let sums: BTreeSet<String> =
            members.iter().map(|i| c.status(*i, "store.checksum").to_string()).collect();
        (sums.len() == 1 && !sums.contains("null")).then_some(())
    });
}

/// The entries after `from`, and the index that a reader goes on from.
fn read(c: &Cluster, i: usize, from: u64, rest: &str) -> (Vec<Value>, u64) {
    let (status, text) = c.get(i, &format!("/db/changes?from={from}&timeout=0s{rest}"));
    assert_eq!(status, 200, "{text}");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.pop().unwrap();
    assert_eq!(last["heartbeat"], true, "{text}");
    (lines, last["index"].as_u64().unwrap())
}

/// The newest term that a member knows.
fn term(c: &Cluster) -> u64 {
    (0..c.members.len()).map(|i| c.report(i)["term"].as_u64().unwrap()).max().unwrap()
}

fn applied(c: &Cluster, i: usize) -> u64 {
    c.report(i)["appliedIndex"].as_u64().unwrap()
}

/// Runs statements as one request; returns what was captured of it.
fn captured(c: &Cluster, path: &str, statements: Value) -> Vec<Value> {
    let from = applied(c, 0);
    let (status, body) = c.post(0, path, &statements.to_string());
    assert_eq!(status, 200, "{body}");
    let (entries, _) = read(c, 0, from, "");
    entries.iter().flat_map(|entry| entry["events"].as_array().unwrap().clone()).collect()
}

#[test]
fn what_is_captured_by_table() {
    let mut c = capturing(1, &json!({}), &["-fk"]);
    let schema = json!([
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, u UNIQUE)",
        "CREATE TABLE log(what)",
        "CREATE TRIGGER t_d AFTER DELETE ON t BEGIN INSERT INTO log VALUES('gone ' || old.id); END",
        "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
        "CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE ON UPDATE SET NULL)",
        "CREATE TABLE late(p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE keyed(k TEXT PRIMARY KEY, v) WITHOUT ROWID",
        "CREATE TABLE copy(k TEXT PRIMARY KEY, v) WITHOUT ROWID",
        "CREATE TABLE made(a, b AS (a * 2) VIRTUAL, c AS (a + 1) STORED, d)",
        "CREATE VIRTUAL TABLE words USING fts5(body)",
        "CREATE TABLE plain(a, b)",
        "CREATE TABLE plain2(a, b)",
        "CREATE TABLE fails(a UNIQUE)",
        "CREATE TRIGGER fails_i BEFORE INSERT ON fails WHEN new.a = 13 BEGIN INSERT INTO log VALUES('x'); SELECT RAISE(FAIL, 'no'); END",
        "CREATE TABLE asis AS SELECT 1 AS x",
    ]);
    assert_eq!(captured(&c, "/db/execute", schema), Vec::<Value>::new(), "DDL");
    let insert = |table: &str, id: i64, after: Value| json!({"op": "INSERT", "table": table, "new_row_id": id, "after": after});
    let delete = |table: &str, id: i64, before: Value| json!({"op": "DELETE", "table": table, "old_row_id": id, "before": before});
    let update = |table: &str, old: i64, new: i64, before: Value, after: Value| json!({"op": "UPDATE", "table": table, "new_row_id": new, "old_row_id": old, "before": before, "after": after});
    let execute = "/db/execute";
    let whole = "/db/execute?transaction";
    let nothing = Vec::new;
    for (path, statements, expected) in [
        (
            execute,
            json!([
                ["INSERT INTO t VALUES(1, ?, 1.5)", "a\"\n\u{e9}"],
                "INSERT INTO t VALUES(2, x'00ff', NULL)"
            ]),
            vec![
                insert("t", 1, json!({"id": 1, "a": "a\"\n\u{e9}", "u": 1.5})),
                insert("t", 2, json!({"id": 2, "a": "AP8=", "u": null})),
            ],
        ),
        (
            execute,
            json!(["UPDATE t SET a = 5 WHERE id = 2"]),
            vec![update(
                "t",
                2,
                2,
                json!({"id": 2, "a": "AP8=", "u": null}),
                json!({"id": 2, "a": 5, "u": null}),
            )],
        ),
        (
            execute,
            json!(["UPDATE t SET id = 7 WHERE id = 2"]),
            vec![update("t", 2, 7, json!({"id": 2, "a": 5, "u": null}), json!({"id": 7, "a": 5, "u": null}))],
        ),
        // UPSERT, once for each way.
        (
            execute,
            json!(["INSERT INTO t VALUES(7, 6, 9) ON CONFLICT(id) DO UPDATE SET a = excluded.a"]),
            vec![update("t", 7, 7, json!({"id": 7, "a": 5, "u": null}), json!({"id": 7, "a": 6, "u": null}))],
        ),
        (execute, json!(["INSERT INTO t VALUES(7, 6, 9) ON CONFLICT DO NOTHING"]), nothing()),
        // REPLACE takes a row that is in the way; triggers do not fire for it.
        (
            execute,
            json!(["REPLACE INTO t VALUES(8, 'r', 1.5)"]),
            vec![
                delete("t", 1, json!({"id": 1, "a": "a\"\n\u{e9}", "u": 1.5})),
                insert("t", 8, json!({"id": 8, "a": "r", "u": 1.5})),
            ],
        ),
        // Triggers.
        (
            execute,
            json!(["DELETE FROM t WHERE id = 8"]),
            vec![
                delete("t", 8, json!({"id": 8, "a": "r", "u": 1.5})),
                insert("log", 1, json!({"what": "gone 8"})),
            ],
        ),
        // Foreign keys.
        (
            execute,
            json!(["INSERT INTO parent VALUES(1), (2)", "INSERT INTO child VALUES(10, 1), (20, 2)"]),
            vec![
                insert("parent", 1, json!({"id": 1})),
                insert("parent", 2, json!({"id": 2})),
                insert("child", 10, json!({"id": 10, "p": 1})),
                insert("child", 20, json!({"id": 20, "p": 2})),
            ],
        ),
        (
            execute,
            json!(["DELETE FROM parent WHERE id = 1", "UPDATE parent SET id = 3"]),
            vec![
                delete("parent", 1, json!({"id": 1})),
                delete("child", 10, json!({"id": 10, "p": 1})),
                update("parent", 2, 3, json!({"id": 2}), json!({"id": 3})),
                update("child", 20, 20, json!({"id": 20, "p": 2}), json!({"id": 20, "p": null})),
            ],
        ),
        (execute, json!(["INSERT INTO late VALUES(99)"]), nothing()),
        (whole, json!(["INSERT INTO late VALUES(99)", "INSERT INTO parent VALUES(98)"]), nothing()),
        // What is undone.
        (whole, json!(["INSERT INTO log VALUES('undone')", "INSERT INTO nowhere VALUES(1)"]), nothing()),
        (
            execute,
            json!(["INSERT INTO log VALUES('kept')", "INSERT INTO nowhere VALUES(1)"]),
            vec![insert("log", 2, json!({"what": "kept"}))],
        ),
        (execute, json!(["INSERT INTO t(id, u) VALUES(20, 'x'), (21, 'x')"]), nothing()),
        (
            execute,
            json!([
                "INSERT INTO log VALUES('before')",
                "INSERT OR ROLLBACK INTO t(id, u) VALUES(22, 'y'), (23, 'y')"
            ]),
            vec![insert("log", 3, json!({"what": "before"}))],
        ),
        (
            execute,
            json!(["INSERT OR FAIL INTO t(id, u) VALUES(24, 'z'), (25, 'z')"]),
            vec![insert("t", 24, json!({"id": 24, "a": null, "u": "z"}))],
        ),
        // Nothing of its first row was done but what the trigger did: with capture all of it is undone.
        (execute, json!(["INSERT INTO fails VALUES(13)"]), nothing()),
        // Without rowids, as many columns as are stored.
        (
            execute,
            json!(["INSERT INTO keyed VALUES('k', 1)", "UPDATE keyed SET v = 2", "DELETE FROM keyed"]),
            vec![
                json!({"op": "INSERT", "table": "keyed", "after": {"k": "k", "v": 1}}),
                json!({"op": "UPDATE", "table": "keyed", "before": {"k": "k", "v": 1}, "after": {"k": "k", "v": 2}}),
                json!({"op": "DELETE", "table": "keyed", "before": {"k": "k", "v": 2}}),
            ],
        ),
        (
            execute,
            json!(["INSERT INTO made(a, d) VALUES(1, 'd')"]),
            vec![insert("made", 1, json!({"a": 1, "c": 2, "d": "d"}))],
        ),
        // What a virtual table keeps is its own.
        (execute, json!(["INSERT INTO words VALUES('one two')", "DELETE FROM words"]), nothing()),
        // SQLite has shorter ways for these.
        (
            execute,
            json!([
                "INSERT INTO plain VALUES(1, 2), (3, 4)",
                "INSERT INTO plain2 SELECT * FROM plain",
                "DELETE FROM plain"
            ]),
            vec![
                insert("plain", 1, json!({"a": 1, "b": 2})),
                insert("plain", 2, json!({"a": 3, "b": 4})),
                insert("plain2", 1, json!({"a": 1, "b": 2})),
                insert("plain2", 2, json!({"a": 3, "b": 4})),
                delete("plain", 1, json!({"a": 1, "b": 2})),
                delete("plain", 2, json!({"a": 3, "b": 4})),
            ],
        ),
        (
            execute,
            json!(["INSERT INTO keyed VALUES('a', 1)", "INSERT INTO copy SELECT * FROM keyed"]),
            vec![
                json!({"op": "INSERT", "table": "keyed", "after": {"k": "a", "v": 1}}),
                json!({"op": "INSERT", "table": "copy", "after": {"k": "a", "v": 1}}),
            ],
        ),
        // A table that changes within the request.
        (
            execute,
            json!([
                "INSERT INTO plain VALUES(5, 6); ALTER TABLE plain ADD COLUMN c DEFAULT 7; UPDATE plain SET a = 8"
            ]),
            vec![
                insert("plain", 1, json!({"a": 5, "b": 6})),
                update("plain", 1, 1, json!({"a": 5, "b": 6, "c": 7}), json!({"a": 8, "b": 6, "c": 7})),
            ],
        ),
        (
            execute,
            json!([
                "INSERT INTO plain VALUES(1, 2, 3); DROP TABLE plain; CREATE TABLE plain(z); INSERT INTO plain VALUES(9)"
            ]),
            vec![insert("plain", 2, json!({"a": 1, "b": 2, "c": 3})), insert("plain", 1, json!({"z": 9}))],
        ),
        (
            "/db/request",
            json!(["INSERT INTO log VALUES('r') RETURNING what", "SELECT count(*) FROM log", "VACUUM"]),
            vec![insert("log", 4, json!({"what": "r"}))],
        ),
    ] {
        assert_eq!(json!(captured(&c, path, statements.clone())), json!(expected), "{statements}");
    }
    let large = captured(&c, execute, json!(["INSERT INTO log VALUES(zeroblob(17000000))"]));
    assert_eq!(large[0]["new_row_id"], 5);
    assert!(large[0].get("after").is_none() && large[0]["error"].as_str().unwrap().contains("16 MiB"));
    // A change of many parts is one entry.
    let many = "INSERT INTO plain WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000) SELECT x FROM c";
    assert_eq!(captured(&c, execute, json!([many])).len(), 100_000);
    // They are nobody else's, and not part of what users take away.
    for sql in ["SELECT * FROM _sqlited_changes", "SELECT * FROM _sqlited_capture"] {
        assert!(c.post(0, "/db/query", &json!([sql]).to_string()).1.contains("not authorized"), "{sql}");
    }
    assert!(!c.get(0, "/db/backup?fmt=sql").1.contains("_sqlited_"));
    let copy = c.send(Method::GET, 0, "/db/backup", &[], b"").body;
    std::fs::write(c.root().join("copy"), copy).unwrap();
    let copy = rusqlite::Connection::open(c.root().join("copy")).unwrap();
    let own = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%sqlited%'";
    assert_eq!(copy.query_row(own, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    c.terminate(0);
}

#[test]
fn rowids_only_of_some_tables() {
    // F3
    let sink = Sink::start();
    let config = json!({"endpoint": sink.url(), "service_id": "s1", "row_ids_only": true, "table_filter": "^a", "max_batch_delay": "10ms"});
    let mut c = capturing(1, &config, &[]);
    c.execute(0, &json!(["CREATE TABLE a1(x)", "CREATE TABLE b1(x)"]));
    c.execute(
        0,
        &json!([
            "INSERT INTO a1 VALUES(1)",
            "INSERT INTO b1 VALUES(1)",
            "UPDATE a1 SET x = 2",
            "DELETE FROM a1"
        ]),
    );
    c.until("changes at the sink", |_| (sink.events().len() >= 3).then_some(()));
    let events: Vec<Value> = sink.events().into_iter().map(|(_, event)| event).collect();
    let expected = json!([
        {"op": "INSERT", "table": "a1", "new_row_id": 1},
        {"op": "UPDATE", "table": "a1", "new_row_id": 1, "old_row_id": 1},
        {"op": "DELETE", "table": "a1", "old_row_id": 1},
    ]);
    assert_eq!(json!(events), expected);
    let envelope = &sink.envelopes()[0];
    assert_eq!((&envelope["service_id"], &envelope["node_id"]), (&json!("s1"), &json!("n1")));
    let at = envelope["payload"][0]["commit_timestamp"].as_i64().unwrap();
    assert!((1_700_000_000_000..9_000_000_000_000).contains(&at), "{at}");
    let mark = envelope["payload"][0]["index"].clone();
    c.until("the high-water mark", |c| (c.status(0, "cdc.high_watermark") == mark).then_some(()));
    let status = c.status(0, "cdc");
    assert_eq!(status["endpoint"], format!("http://127.0.0.1:{}/changes", sink.port));
    assert_eq!(status["sink"]["delivered_events"], 3);
    let metrics = c.get(0, "/metrics").1;
    for line in ["sqlited_changes_captured 3", "sqlited_changes_delivered 3", "sqlited_changes_lost 0"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

/// The rows of the table of [`killed_leaders_lose_nothing`], by `id`.
fn rows_of(c: &Cluster, i: usize) -> BTreeMap<u64, Row> {
    let mut rows = BTreeMap::new();
    loop {
        let after = rows.last_key_value().map_or(0, |(id, _)| *id);
        let page = format!("SELECT * FROM t WHERE id > {after} ORDER BY id LIMIT 20000");
        let sql = format!("SELECT json_group_array(json_array(id, json_array(w, n, v))) FROM ({page})");
        let page: Vec<(u64, Row)> =
            serde_json::from_str(c.value(i, &sql, "strong").as_str().unwrap()).unwrap();
        if page.is_empty() {
            return rows;
        }
        rows.extend(page);
    }
}

/// `CHANGES` says how many changes, `KILLS` how many leaders die.
fn killed_leaders_lose_nothing(writes: u64, kills: u64) {
    const WRITERS: u64 = 4;
    let sink = Sink::start();
    let random = Mutex::new(StdRng::seed_from_u64(7));
    let away = Arc::new(AtomicBool::new(false));
    let is_away = away.clone();
    sink.rule(move |n| match random.lock().unwrap().random_range(0..400) {
        _ if is_away.load(Ordering::Relaxed) => {
            [Reply::Hang, Reply::Close, Reply::Refuse(503)][n as usize % 3]
        }
        0 => Reply::Hang,
        1..=10 => Reply::Refuse(500),
        11..=20 => Reply::Close,
        21..=30 => Reply::Lose,
        31..=40 => Reply::Take(202),
        _ => Reply::Take(200),
    });
    let seen = Arc::new(Mutex::new(Deliveries::default()));
    let seeing = seen.clone();
    sink.taker(move |reply, envelope| seeing.lock().unwrap().take(reply, envelope));
    let config = json!({
        "endpoint": sink.url(), "max_batch_size": 20, "max_batch_delay": "20ms", "transmit_timeout": "2s",
        "transmit_min_backoff": "10ms", "high_watermark_interval": "200ms",
    });
    let mut c = capturing(3, &config, &[]);
    c.execute(0, &json!(["CREATE TABLE t(id INTEGER PRIMARY KEY, w, n, v)", "CREATE INDEX by_n ON t(w, n)"]));
    let first_term = term(&c);
    let mut memory = PeakMemory::watch(&c);
    let mut peaks = Vec::new();
    let doors: Vec<_> = (0..3).map(|i| c.door(i)).collect();
    let (written, stop, killing) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(true));
    let acknowledged = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let (doors, written, acknowledged) = (&doors, &written, &acknowledged);
                let (stop, killing) = (&stop, &killing);
                scope.spawn(move || {
                    // A member that dies answers nothing: another one is asked, and it is done twice then.
                    let run = |sql: String| {
                        let statement = json!([sql]);
                        let mut tried = doors.iter().cycle().skip(w as usize).take(60);
                        assert!(tried.any(|door| door.try_execute(&statement)), "no member takes writes");
                    };
                    let (mut n, mut changes) = (0, 0);
                    // Each new leader has something to send.
                    while (changes < writes / WRITERS || killing.load(Ordering::Relaxed))
                        && !stop.load(Ordering::Relaxed)
                    {
                        let rows: Vec<String> = (n..n + 30).map(|n| format!("({w}, {n}, 0)")).collect();
                        run(format!("INSERT INTO t(w, n, v) VALUES{}", rows.join(",")));
                        acknowledged.lock().unwrap().extend((n..n + 30).map(|n| (w, n)));
                        let of = |from: u64| format!("w = {w} AND n BETWEEN {from} AND {}", from + 9);
                        run(format!("UPDATE t SET v = v + 1 WHERE {}", of(n)));
                        run(format!("DELETE FROM t WHERE {}", of(n + 10)));
                        n += 30;
                        changes += 50;
                        written.fetch_add(50, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for kill in 1..=kills {
            let at = writes * kill / (kills + 1);
            c.until_within(Duration::from_secs(3600), "more writes", |_| {
                (written.load(Ordering::Relaxed) >= at).then_some(())
            });
            let leader = c.await_leader(0);
            // What the next leader must not begin with again; every second one is not told in time.
            if kill % 2 == 1 {
                let taken =
                    c.until("a delivery", |_| Some(seen.lock().unwrap().newest()).filter(|at| *at > 0));
                let mark = c.until("the high-water mark follows", |c| {
                    c.status(leader, "cdc.high_watermark").as_u64().filter(|mark| *mark >= taken)
                });
                seen.lock().unwrap().marked(mark);
            }
            let asked = sink.asked();
            away.store(true, Ordering::Relaxed);
            c.until("an attempt in vain", |_| (sink.asked() > asked).then_some(()));
            let (turns, asked) = (seen.lock().unwrap().turns, sink.asked());
            c.kill(leader);
            c.await_leader((leader + 1) % 3);
            c.start(leader);
            c.await_ready(leader);
            peaks.extend(std::mem::replace(&mut memory, PeakMemory::watch(&c)).end());
            // Enough of them for one without an answer.
            c.until("the next leader tries", |_| {
                (seen.lock().unwrap().turns > turns && sink.asked() > asked + 2).then_some(())
            });
            away.store(false, Ordering::Relaxed);
        }
        killing.store(false, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
    });
    let leader = c.await_leader(0);
    c.execute(leader, &json!([format!("INSERT INTO t(w, n, v) VALUES({WRITERS}, 0, 0)")]));
    let patience = Duration::from_secs(60) + Duration::from_millis(writes / 5);
    c.until_within(patience, "the last change at the sink", |_| {
        seen.lock().unwrap().writes.contains(&(WRITERS, 0)).then_some(())
    });
    let rows = rows_of(&c, leader);
    let seen = seen.lock().unwrap();
    let acknowledged = acknowledged.into_inner().unwrap();
    let elections = term(&c) - first_term;
    peaks.extend(memory.end());
    let peak = peaks.iter().map(|peak| peak.mib()).max().unwrap();
    println!(
        "{} acknowledged rows, {} in the table, {} changes delivered in {} envelopes, of which {} updates and {} \
         deletions were new, {kills} leaders killed, \
         {elections} elections; {} envelopes repeated, {} entries told again by {} leaders; {peak} MiB of memory at most",
        acknowledged.len(),
        rows.len(),
        seen.changes,
        seen.envelopes,
        seen.updates,
        seen.deletes,
        seen.repeated,
        seen.again,
        seen.turns,
    );
    assert_eq!(seen.wrong, Vec::<String>::new());
    assert!(seen.repeated > 0, "no answer was lost and nothing refused");
    // Who leads on sends on: only an election that no death explains makes a leader of the same one again.
    assert!(seen.begun_anew <= elections - kills, "begun anew {} times", seen.begun_anew);
    assert!(peak <= MEMORY, "{peaks:?}");
    assert!(seen.updates > 0 && seen.deletes > 0);
    assert!(seen.rows == rows, "the table by what the sink was told is another one");
    let missing: Vec<_> = acknowledged.difference(&seen.writes).take(5).collect();
    assert!(missing.is_empty(), "of {} writes the sink lacks {missing:?}", acknowledged.len());
    assert_eq!(c.status(leader, "cdc.lost_events"), 0);
    await_equal(&mut c, &[0, 1, 2]);
}

#[test]
fn an_envelope_holds_as_much_as_it_may_and_waits_as_long_to_be_full() {
    let indexes = |envelope: &Value| -> Vec<Value> {
        envelope["payload"].as_array().unwrap().iter().map(|entry| entry["index"].clone()).collect()
    };
    let insert = |c: &Cluster, n: u64| c.execute(0, &json!([format!("INSERT INTO t VALUES({n})")]));
    // Full ones wait for nothing, the others for long.
    let sink = Sink::start();
    sink.rule(|_| Reply::Refuse(503));
    let config = json!({
        "endpoint": sink.url(), "max_batch_size": 3, "max_batch_delay": "1h", "transmit_min_backoff": "10ms",
    });
    let mut c = capturing(1, &config, &[]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let from = applied(&c, 0);
    // When it takes them, more than one envelope's are there, and the seventh is one too many for two.
    (0..7).for_each(|n| drop(insert(&c, n)));
    sink.rule(|_| Reply::Take(200));
    c.until("two that are full", |_| (sink.envelopes().len() >= 2).then_some(()));
    (7..9).for_each(|n| drop(insert(&c, n)));
    let envelopes = c.until("three that are full", |_| Some(sink.envelopes()).filter(|e| e.len() >= 3));
    let (entries, _) = read(&c, 0, from, "");
    let expected: Vec<Value> = entries.iter().map(|entry| entry["index"].clone()).collect();
    assert_eq!(expected.len(), 9);
    assert_eq!(envelopes.iter().map(indexes).collect::<Vec<_>>(), expected.chunks(3).collect::<Vec<_>>());

    let delay = Duration::from_secs(3);
    let sink = Sink::start();
    let config = json!({"endpoint": sink.url(), "max_batch_size": 1000, "max_batch_delay": "3s"});
    let mut c = capturing(1, &config, &[]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let begun = Instant::now();
    (0..2).for_each(|n| drop(insert(&c, n)));
    let written = begun.elapsed();
    let envelopes = c.until("an envelope", |_| Some(sink.envelopes()).filter(|e| !e.is_empty()));
    let waited = begun.elapsed();
    assert!(waited >= delay, "sent after {waited:?}");
    assert!(written < delay, "this machine is too slow for this test: {written:?} for two writes");
    assert_eq!(indexes(&envelopes[0]).len(), 2);
}

#[test]
fn changes_reach_the_sink_in_order_though_leaders_die() {
    killed_leaders_lose_nothing(4000, 2);
}

#[test]
#[ignore = "the proof: CHANGES changes, with KILLS leaders killed"]
fn proof_that_killed_leaders_lose_nothing() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    killed_leaders_lose_nothing(number("CHANGES", 1_000_000), number("KILLS", 10));
}

/// What a member's directory takes on the disk, in bytes.
fn disk_use(c: &Cluster, i: usize) -> u64 {
    // A file may go between the two looks: logs are purged.
    let sizes = files_below(&c.members[i].dir).into_iter().filter_map(|file| file.metadata().ok());
    sizes.map(|metadata| metadata.blocks() * 512).sum()
}

#[test]
fn a_sink_that_is_away_costs_no_more_than_it_may() {
    const UPDATES: u64 = 600;
    const MAX_BYTES: u64 = 1 << 20;
    const ROWS: u64 = 4 << 20;
    const WAL: u64 = 32 << 20;
    const LOG: u64 = 4 << 20;
    let sink = Sink::start();
    sink.rule(|_| Reply::Hang);
    let config = json!({
        "endpoint": sink.url(), "max_bytes": MAX_BYTES, "retain_bytes": 0, "transmit_timeout": "300ms",
        "transmit_min_backoff": "10ms", "transmit_retry_policy": "exponential", "transmit_max_backoff": "200ms",
        "max_batch_size": 4, "max_batch_delay": 0, "high_watermark_interval": "50ms",
    });
    let mut c = capturing(3, &config, &[]);
    let leader = c.await_leader(0);
    c.execute(leader, &json!(["CREATE TABLE t(id INTEGER PRIMARY KEY, a)"]));
    let memory = PeakMemory::watch(&c);
    let before: Vec<u64> = (0..3).map(|i| disk_use(&c, i)).collect();
    for _ in 0..40 {
        // 3.2 MB of changes.
        c.execute(leader, &json!(["INSERT INTO t(a) SELECT hex(zeroblob(20000)) FROM json_each('[1,2]')"]));
    }
    for _ in 0..UPDATES {
        // 400 kB of changes each: before and after of five rows.
        c.execute(leader, &json!(["UPDATE t SET a = hex(randomblob(20000)) WHERE id <= 5"]));
    }
    c.execute(leader, &json!(["INSERT INTO t(a) VALUES('last')"]));
    c.until("attempts", |_| (sink.asked() > 1).then_some(()));
    let peaks = memory.end();
    println!("peaks of memory while {} MB of changes were written: {peaks:?}", 3 + UPDATES * 2 / 5);
    assert!(peaks.iter().all(|peak| peak.mib() <= MEMORY / 2), "{peaks:?}");
    let status = c.status(leader, "cdc");
    assert!(status["bytes"].as_u64().unwrap() <= MAX_BYTES, "{status}");
    let grown: Vec<u64> = (0..3).map(|i| disk_use(&c, i).saturating_sub(before[i])).collect();
    println!("directories had {before:?} bytes and grew by {grown:?}");
    // Rows and what is kept of changes, in each of two files; SQLite's WAL, of which a checkpoint is due at 16 MiB; segments
    // of the log.
    assert!(grown.iter().all(|bytes| *bytes <= 2 * (ROWS + MAX_BYTES) + WAL + LOG), "{grown:?}");
    let lost = status["lost_events"].as_u64().unwrap();
    assert!(lost > 20 && status["gap"]["events"] == lost, "{status}");
    assert!(
        status["sink"]["failed_attempts"].as_u64().unwrap() > 0 && status["sink"]["last_error"].is_string()
    );
    assert!(c.get(leader, "/metrics").1.contains(&format!("sqlited_changes_lost {lost}")));
    // What is not kept cannot be read.
    let (code, text) = c.get(leader, "/db/changes?from=5&timeout=0s");
    assert!(code == 410 && text.contains("are not kept any more"), "{code} {text}");

    sink.rule(|_| Reply::Take(200));
    let id = |event: &Value| event["after"]["id"].as_u64();
    c.until("the last change", |_| {
        sink.events().iter().any(|(_, event)| id(event) == Some(81)).then_some(())
    });
    let events = sink.events();
    let gaps: Vec<_> = events.iter().filter(|(_, event)| event["op"] == "GAP").collect();
    assert!(gaps.len() == 1 && gaps[0].1["error"].as_str().unwrap().contains("are missing"), "{gaps:?}");
    let changes: BTreeSet<(u64, u64)> =
        events.iter().filter_map(|(index, event)| Some((*index, id(event)?))).collect();
    // It had an envelope of what was lost in hand.
    let made = 81 + 5 * UPDATES;
    assert!(changes.len() as u64 + lost >= made, "{} delivered, {lost} lost", changes.len());
    let indexes: Vec<u64> = events.iter().map(|(index, _)| *index).collect();
    assert!(indexes.is_sorted(), "{indexes:?}");
    // Delivered changes go.
    c.until("room", |c| (c.status(leader, "cdc.bytes") == json!(0)).then_some(()));
    await_equal(&mut c, &[0, 1, 2]);
}

#[test]
fn an_envelope_is_given_up_after_its_retries() {
    let sink = Sink::start();
    sink.rule(|n| if n < 3 { Reply::Refuse(503) } else { Reply::Take(200) });
    let config = json!({
        "endpoint": sink.url(), "transmit_max_retries": 2, "transmit_min_backoff": "5ms", "max_batch_delay": 0,
    });
    let mut c = capturing(1, &config, &[]);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    c.until("an envelope that is given up", |c| {
        (c.status(0, "cdc.sink.given_up_events") == json!(1)).then_some(())
    });
    c.execute(0, &json!(["INSERT INTO t VALUES(2)"]));
    c.until("the next one", |_| (!sink.events().is_empty()).then_some(()));
    assert_eq!(sink.events()[0].1["after"], json!({"a": 2}));
    assert_eq!(sink.asked(), 4);
}

#[test]
fn waits_between_attempts_are_the_policys() {
    for (policy, expected) in [("exponential", [100, 200, 400, 400, 400]), ("linear", [100; 5])] {
        let sink = Sink::start();
        sink.rule(|n| if n < 5 { Reply::Refuse(503) } else { Reply::Take(200) });
        let config = json!({
            "endpoint": sink.url(), "max_batch_delay": 0, "transmit_retry_policy": policy,
            "transmit_min_backoff": "100ms", "transmit_max_backoff": "400ms",
        });
        let mut c = capturing(1, &config, &[]);
        c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
        c.until("the envelope", |_| (!sink.envelopes().is_empty()).then_some(()));
        let gaps: Vec<u128> =
            sink.attempts().windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        println!("{policy}: {gaps:?} ms");
        assert_eq!(gaps.len(), expected.len());
        assert!(gaps.iter().zip(expected).all(|(gap, least)| *gap >= least), "{policy}: {gaps:?}");
        // What would grow on is above twice as long each time; a busy machine lengthens some gaps, not all of them.
        let (last, shortest) = (expected[4], gaps[2..].iter().min().unwrap());
        assert!(*shortest < 2 * last, "{policy}: {gaps:?}");
    }
}

/// An open stream of a member.
fn open(c: &Cluster, i: usize, path: &str, accept: &'static str) -> reqwest::blocking::Response {
    let answer =
        reqwest::blocking::Client::new().get(c.url(i, path)).header("accept", accept).send().unwrap();
    assert_eq!(answer.status(), 200);
    answer
}

#[test]
fn a_stream_goes_on_at_another_member() {
    let mut c = capturing(3, &json!({}), &[]);
    let replica = c.add_read_replica();
    let leader = c.await_leader(0);
    let from = applied(&c, leader);
    c.execute(leader, &json!(["CREATE TABLE t(a)", "CREATE TABLE u(a)"]));
    let write = |c: &Cluster, n: u64| {
        c.execute(
            leader,
            &json!([format!("INSERT INTO t VALUES({n})"), format!("INSERT INTO u VALUES({n})")]),
        )
    };
    for n in 0..10 {
        write(&c, n);
    }
    // A stream that is open sees what comes.
    let first = (leader + 1) % 3;
    let mut lines =
        BufReader::new(open(&c, first, &format!("/db/changes?from={from}&tables=^t$"), "*/*")).lines();
    let mut seen = Vec::new();
    let mut last = from;
    while seen.len() < 6 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if line["heartbeat"] == true {
            continue;
        }
        assert!(line["index"].as_u64().unwrap() > last);
        last = line["index"].as_u64().unwrap();
        seen.extend(line["events"].as_array().unwrap().iter().map(|event| event["after"]["a"].clone()));
    }
    drop(lines);
    c.kill(first);
    // The replica is behind for a moment, and waits.
    for n in 10..20 {
        write(&c, n);
    }
    let mut events = BufReader::new(open(
        &c,
        replica,
        &format!("/db/changes?from={last}&tables=^t$"),
        "text/event-stream",
    ))
    .lines();
    while seen.len() < 20 {
        let mut next = || events.next().unwrap().unwrap();
        let (id, event, data, end) = (next(), next(), next(), next());
        assert!(end.is_empty());
        if event == "event: heartbeat" {
            continue;
        }
        assert_eq!(event, "event: changes");
        let entry: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(id, format!("id: {}", entry["index"]));
        seen.extend(entry["events"].as_array().unwrap().iter().map(|event| event["after"]["a"].clone()));
    }
    assert_eq!(json!(seen), json!((0..20).collect::<Vec<_>>()));
    // A browser says where it was.
    let answer =
        c.send(Method::GET, replica, "/db/changes?timeout=0s", &[("last-event-id", &last.to_string())], b"");
    assert!(answer.text().lines().count() > 5, "{}", answer.text());
    for (path, code, part) in [
        ("/db/changes?from=x", 400, "from is not"),
        ("/db/changes?from=-1", 400, "from is below 0"),
        ("/db/changes?from=1&tables=(", 400, "tables: "),
        ("/db/changes?from=1&timeout=x", 400, "timeout is not"),
        ("/db/changes?from=0&timeout=0s", 410, "are not kept any more"),
    ] {
        let (status, text) = c.get(replica, path);
        assert!(status == code && text.contains(part), "{path}: {status} {text}");
    }
    // One that says nothing begins now, and says so while nothing happens.
    let mut quiet = open(&c, replica, "/db/changes?timeout=100ms", "*/*");
    let mut text = String::new();
    quiet.read_to_string(&mut text).unwrap();
    assert!(text.contains("heartbeat"), "{text}");
    // A member that goes down ends its streams.
    let mut stream = open(&c, replica, "/db/changes", "*/*");
    assert_eq!(c.terminate(replica), Some(0));
    stream.read_to_string(&mut text).unwrap();
}

#[test]
fn a_client_that_stops_reading_costs_little_memory_and_holds_up_nobody() {
    // As many as there may be, with 64 MiB for each: more than sockets take.
    const STREAMS: usize = 64;
    let mut c = capturing(1, &json!({"retain_bytes": 1 << 30}), &[]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let from = applied(&c, 0);
    let insert = "WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k LIMIT 32) \
                  INSERT INTO t SELECT hex(randomblob(1 << 15)) FROM k";
    let fill = |c: &Cluster| {
        for _ in 0..32 {
            c.execute(0, &json!([insert]));
        }
    };
    fill(&c);
    let before = PeakMemory::watch(&c).end()[0].mib();
    let memory = PeakMemory::watch(&c);
    let path = format!("/db/changes?from={from}");
    let stuck: Vec<_> = (0..STREAMS).map(|_| open(&c, 0, &path, "*/*")).collect();
    let (status, text) = c.get(0, &path);
    assert_eq!(status, 503, "{text}");
    // Whatever else is to be written is, and goes away: a transaction of theirs would keep it.
    fill(&c);
    let peak = memory.end()[0].mib();
    println!("{STREAMS} streams that nobody reads: {peak} MiB of memory at most, {before} MiB before");
    assert!(peak <= before + MEMORY / 2, "{peak} MiB, {before} MiB before");
    drop(stuck);
    // The same with a change of megabytes, which each of them has to be sent whole.
    let from_large = applied(&c, 0);
    c.execute(0, &json!(["INSERT INTO t VALUES(hex(randomblob(4000000)))"]));
    let memory = PeakMemory::watch(&c);
    let large = format!("/db/changes?from={from_large}");
    let http = reqwest::blocking::Client::new();
    let stuck: Vec<_> = (0..STREAMS / 2)
        .map(|_| {
            c.until("a place for another one", |c| {
                http.get(c.url(0, &large)).send().ok().filter(|answer| answer.status() == 200)
            })
        })
        .collect();
    let peak = memory.end()[0].mib();
    println!("{} streams that nobody reads, with a change of 8 MB: {peak} MiB", STREAMS / 2);
    // Some of them hold it, as it was read and as it is sent; all of them would take more than twice as much.
    assert!(peak <= before + MEMORY, "{peak} MiB, {before} MiB before");
    // Whoever does read gets it, once one of those is given up.
    drop(stuck);
    let whole = c.until("a place for somebody who reads", |c| {
        let answer = c.send(Method::GET, 0, &format!("{large}&timeout=0s"), &[], b"");
        (answer.status == 200).then_some(answer.body.len())
    });
    assert!(whole > 8_000_000, "{whole} bytes");
    // Their places are free again.
    let lines = c.until("a place for another one", |c| {
        let answer = c.send(Method::GET, 0, &format!("{path}&timeout=0s"), &[], b"");
        (answer.status == 200).then(|| answer.text().lines().count())
    });
    assert_eq!(lines, 64 + 1 + 1, "an entry each, the large one, and the heartbeat");
}

#[test]
fn another_database_keeps_what_is_captured() {
    let mut c = capturing(3, &json!({"table_filter": "^t"}), &[]);
    let leader = c.await_leader(0);
    let from = applied(&c, leader);
    c.execute(leader, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    let path = c.root().join("other");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t(b); INSERT INTO t VALUES(2), (3)").unwrap();
    other.close().unwrap();
    let file = std::fs::read(path).unwrap();
    assert_eq!(c.send(Method::POST, leader, "/db/load", &[], &file).status, 200);
    c.execute(leader, &json!(["INSERT INTO t VALUES(4)"]));
    await_equal(&mut c, &[0, 1, 2]);
    for i in 0..3 {
        let (entries, _) = read(&c, i, from, "");
        let events: Vec<Value> =
            entries.iter().flat_map(|e| e["events"].as_array().unwrap().clone()).collect();
        let after: Vec<&Value> = events.iter().map(|event| &event["after"]).collect();
        assert_eq!(json!(after), json!([{"a": 1}, {"b": 4}]));
    }
    // A restart changes nothing; without the flag, capture ends.
    for i in 0..3 {
        c.terminate(i);
    }
    for i in 0..3 {
        c.remove_flags(i, 2);
        c.start(i);
    }
    c.await_ready(0);
    c.until("the end of capture", |c| (c.status(0, "cdc") == json!({})).then_some(()));
    assert_eq!(c.get(0, "/db/changes?from=1").0, 409);
    (1..3).for_each(|i| c.await_ready(i));
    await_equal(&mut c, &[0, 1, 2]);
}

#[test]
fn a_sink_with_a_certificate_for_another_name() {
    // The sink is another member's port: it takes any POST there.
    let authority = Authority::new("sinks");
    let mut other = Cluster::empty();
    let files = authority.issue(other.root(), "http", &["sink.example"]);
    let ca = authority.write(&other.root().join("ca.pem"));
    other.add_members(1, &["-http-cert", files.certificate(), "-http-key", files.key()]);
    other.add_flags(0, &["-http-ca-cert", &ca, "-http-verify-client"]);
    other.start(0);
    let endpoint = format!("https://127.0.0.1:{}/reap", other.members[0].http);
    for (tls, works) in [
        (json!({"ca_cert_file": ca, "server_name": "sink.example"}), false),
        (json!({"ca_cert_file": ca, "cert_file": files.certificate, "key_file": files.key}), false),
        (
            json!({"ca_cert_file": ca, "server_name": "sink.example", "cert_file": files.certificate, "key_file": files.key}),
            true,
        ),
        (json!({"insecure_skip_verify": true, "cert_file": files.certificate, "key_file": files.key}), true),
    ] {
        let config =
            json!({"endpoint": endpoint, "tls": tls, "max_batch_delay": 0, "transmit_min_backoff": "20ms"});
        let mut c = capturing(1, &config, &[]);
        c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
        let what = format!("{tls}: delivered {works}");
        c.until(&what, |c| {
            let name = if works { "delivered_events" } else { "failed_attempts" };
            (c.status(0, &format!("cdc.sink.{name}")).as_u64() > Some(0)).then_some(())
        });
        assert_eq!(c.status(0, "cdc.sink.delivered_events"), u64::from(works), "{tls}");
    }
}

#[test]
fn standard_output_has_a_line_for_each_envelope() {
    let ports = support::free_ports(2);
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sqlited"))
        .args(["-node-id", "n1", "-cdc-config", "stdout"])
        .args([
            "-http-addr",
            &format!("127.0.0.1:{}", ports[0]),
            "-raft-addr",
            &format!("127.0.0.1:{}", ports[1]),
        ])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let http = reqwest::blocking::Client::new();
    let body = json!(["CREATE TABLE IF NOT EXISTS t(a)", "INSERT INTO t VALUES(1)"]).to_string();
    let url = format!("http://127.0.0.1:{}", ports[0]);
    let mut c = Cluster::empty();
    c.until("capture", |_| {
        let status = http.get(format!("{url}/status?key=cdc.enabled")).send().ok()?.text().ok()?;
        (status == "true").then_some(())
    });
    http.post(format!("{url}/db/execute")).body(body).send().unwrap();
    let envelope: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(envelope["node_id"], "n1");
    assert_eq!(envelope["payload"][0]["events"][0]["after"], json!({"a": 1}));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn leaders_without_the_flag_do_not_capture() {
    let c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    assert_eq!(c.status(0, "cdc"), json!({}));
    let (status, text) = c.get(0, "/db/changes");
    assert!(status == 409 && text.contains("-cdc-config"), "{status} {text}");
}
