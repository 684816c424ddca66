//! Statements that would never end, and those that only take long: what the limit on the steps of a write lets through, and
//! what others notice of those that it stops.
//!
//! `BULK_ROWS` is how many rows the bulk statements are tried with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use node::config::{self, Command};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::ledger::p99;
use support::{Cluster, StopAtEnd, cluster_with, patient};

/// What writes of many rows look like, in the order in which they are run; `ROWS` stands for how many.
const BULK: &[(&str, &str)] = &[
    (
        "INSERT of a series",
        "INSERT INTO a WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT ROWS) \
         SELECT x, x * 7 % 1000003, 'name ' || x, x % 100 FROM c",
    ),
    ("CREATE INDEX", "CREATE INDEX by_n ON a(n)"),
    ("CREATE INDEX of two columns", "CREATE INDEX by_t ON a(t, u)"),
    ("INSERT … SELECT, all of a table", "INSERT INTO b SELECT * FROM a"),
    ("INSERT … SELECT, with indexes and checks", "INSERT INTO c SELECT id, n, t, u FROM a WHERE u >= 0"),
    ("UPDATE", "UPDATE a SET t = t || 'x'"),
    ("UPDATE of what is indexed", "UPDATE a SET n = n + 1"),
    (
        "INSERT … ON CONFLICT",
        "INSERT INTO c SELECT * FROM b WHERE true ON CONFLICT(id) DO UPDATE SET u = excluded.u",
    ),
    ("DELETE", "DELETE FROM a WHERE u >= 0"),
];

/// Statements that have no end, or none that anybody waits for.
const BOMBS: &[(&str, &str)] = &[
    (
        "a series without an end",
        "INSERT INTO bomb WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    ),
    ("a product of tables", "INSERT INTO bomb SELECT count(*) FROM b AS x, b AS y, b AS z"),
    (
        "rows without an end",
        "INSERT INTO bomb WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c",
    ),
];

/// How many steps a statement takes, in thousands, and whether it was stopped, by a limit on them.
fn thousands_of_steps(database: &mut Connection, sql: &str, limit: u64) -> (u64, bool) {
    let counted = Arc::new(AtomicU64::new(0));
    let count = counted.clone();
    database
        .progress_handler(1000, Some(move || count.fetch_add(1, Ordering::Relaxed) + 1 >= limit))
        .unwrap();
    let ended = database.execute_batch(sql);
    database.progress_handler(1000, None::<fn() -> bool>).unwrap();
    let counted = counted.load(Ordering::Relaxed);
    assert_eq!(ended.is_err(), counted >= limit, "{sql}: {ended:?}");
    (counted, ended.is_err())
}

fn default_limit() -> u64 {
    match config::parse(["data".to_owned()], |_| None) {
        Ok(Command::Run(config)) => config.write_step_limit,
        _ => panic!("a directory is all that a member needs"),
    }
}

#[test]
fn a_million_rows_fit_into_the_default() {
    let rows: u64 = std::env::var("BULK_ROWS").map_or(50_000, |rows| rows.parse().expect("a number"));
    let directory = tempfile::tempdir().unwrap();
    let mut database = Connection::open(directory.path().join("bulk")).unwrap();
    let columns = "id INTEGER PRIMARY KEY, n INTEGER, t TEXT, u";
    database
        .execute_batch(&format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE a({columns}); CREATE TABLE b({columns});
             CREATE TABLE c({columns} CHECK (u >= 0), UNIQUE(n, id)); CREATE TABLE bomb(x)"
        ))
        .unwrap();
    let limit = default_limit();
    let tell = |what: &str, thousands: u64, took: Duration| {
        let rate = thousands as f64 / 1000.0 / took.as_secs_f64();
        println!("{what}: {:.1} million steps, {took:.2?}, {rate:.1} million/s", thousands as f64 / 1000.0);
    };
    for (what, sql) in BULK {
        let begun = Instant::now();
        let sql = sql.replace("ROWS", &rows.to_string());
        let (thousands, stopped) = thousands_of_steps(&mut database, &sql, u64::MAX);
        tell(what, thousands, begun.elapsed());
        let of_a_million = thousands * 1000 * 1_000_000 / rows;
        println!("{what}: {} steps for each row", thousands * 1000 / rows);
        assert!(!stopped && of_a_million < limit / 2, "{what}: {of_a_million} steps of {limit}");
    }
    for (what, sql) in BOMBS {
        let begun = Instant::now();
        let (thousands, stopped) = thousands_of_steps(&mut database, sql, 20_000);
        tell(what, thousands, begun.elapsed());
        assert!(stopped, "{what}");
    }
}

/// What others ask meanwhile: each of `levels` of each member in turn; the times that it took.
fn read_beside(c: &Cluster, stop: &AtomicBool) -> Vec<Duration> {
    let http = patient();
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for (i, level) in (0..3).flat_map(|i| ["none", "weak", "linearizable"].map(|level| (i, level))) {
            let begun = Instant::now();
            let query = [("q", "SELECT count(*) >= 0 FROM ledger"), ("level", level)];
            let answer = http.get(c.url(i, "/db/query")).query(&query).send().unwrap();
            let body: Value = answer.json().unwrap();
            assert_eq!(body["results"][0]["values"], json!([[1]]), "{level} {i}: {body}");
            took.push(begun.elapsed());
        }
    }
    took.sort();
    took
}

#[test]
fn others_read_and_write_beside_statements_without_an_end() {
    // One of them takes a second or two of all members on a slow machine.
    let mut c = cluster_with(3, &["-write-step-limit", "10000000", "-consistency-period", "500ms"]);
    c.await_leader(0);
    c.create_ledger(0);
    let rows = "INSERT INTO b WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 1000) SELECT x FROM c";
    c.execute(0, &json!(["CREATE TABLE b(x)", "CREATE TABLE bomb(x)", rows]));
    let urls = (0..3).map(|i| c.url(i, "/db/execute")).collect();
    let writers = c.paced_ledger(urls, 50, 10, 0);
    writers.await_more(50);
    let peace = writers.take_times();
    let stop = AtomicBool::new(false);
    let (bombs, reads) = std::thread::scope(|scope| {
        let end = StopAtEnd(&stop);
        let reading = scope.spawn(|| read_beside(&c, &stop));
        let of_reads = scope.spawn(|| {
            let http = patient();
            let sql = "SELECT count(*) FROM b AS x, b AS y, b AS z, b AS w";
            while !stop.load(Ordering::Relaxed) {
                for i in 0..3 {
                    let query = [("q", sql), ("level", "none"), ("db_timeout", "300ms")];
                    let answer = http.get(c.url(i, "/db/query")).query(&query).send().unwrap();
                    let body = answer.text().unwrap();
                    assert!(body.contains("\"error\""), "{body}");
                }
            }
        });
        let mut took = Vec::new();
        for (n, (what, sql)) in BOMBS.iter().cycle().take(9).enumerate() {
            let begun = Instant::now();
            let (status, body) = c.post(n % 3, "/db/execute", &json!([sql]).to_string());
            took.push(begun.elapsed());
            assert!(status == 200 && body.contains("-write-step-limit"), "{what}: {status} {body}");
            // Who had to wait for it has its turn.
            writers.await_more(20);
        }
        drop(end);
        of_reads.join().unwrap();
        (took, reading.join().unwrap())
    });
    let beside = writers.take_times();
    assert_eq!(writers.refused(), 0, "{}", writers.last_refusal());
    println!(
        "writes: p99 {:?} before, {:?} beside; reads: p99 {:?} of {}; the bombs took {bombs:.1?}",
        p99(&peace),
        p99(&beside),
        p99(&reads),
        reads.len()
    );
    assert!(!reads.is_empty() && p99(&reads) < Duration::from_secs(5), "{:?}", p99(&reads));
    c.assert_ledgers(&writers.stop());
    c.until("members agree", |c| {
        (0..3).all(|i| c.report(i)["consistency"]["state"] == "consistent").then_some(())
    });
    assert_eq!(c.value(0, "SELECT count(*) FROM bomb", "strong"), 0);
}
