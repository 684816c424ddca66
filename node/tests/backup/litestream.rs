//! A database that Litestream looked after until now.

use super::support::acceptor::Acceptor;
use super::support::backups::{IMPORT, await_job, importing};
use super::support::{Cluster, cluster};
use reqwest::Method;
use rusqlite::Connection;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::path::Path;

/// As Litestream leaves it: in WAL mode, with the tables in which it counts, and by which it locks.
fn file(directory: &Path) -> Vec<u8> {
    let path = directory.join("litestream.sqlite");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = wal;
         CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT);
         CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
         CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER);
         INSERT INTO _litestream_seq (id, seq) VALUES (1, 17);
         WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 2000)
         INSERT INTO orders SELECT x, 'item ' || x FROM c",
    )
    .unwrap();
    db.close().unwrap();
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes[18..20], [2, 2], "its header says that it has a WAL");
    bytes
}

/// Everything of it is there, is written to, and what was Litestream's can go.
fn is_taken(c: &Cluster, how: &str) {
    let value = |sql: &str| c.value(0, sql, "linearizable");
    assert_eq!(value("SELECT count(*) || ' ' || max(item) FROM orders"), json!("2000 item 999"), "{how}");
    assert_eq!(value("SELECT seq FROM _litestream_seq"), json!(17), "{how}");
    c.execute(0, &json!(["INSERT INTO orders VALUES(2001, 'one more')"]));
    c.execute(0, &json!(["DROP TABLE _litestream_seq", "DROP TABLE _litestream_lock"]));
    let left =
        "SELECT group_concat(name) FROM sqlite_schema WHERE name NOT LIKE '\\_sqlited\\_%' ESCAPE '\\'";
    assert_eq!(value(left), json!("orders"), "{how}");
    assert_eq!(value("SELECT count(*) FROM orders"), json!(2001), "{how}");
}

#[test]
fn what_litestream_looked_after_is_booted_and_loaded() {
    for path in ["/boot", "/db/load"] {
        let c = cluster(1);
        let sent = c.send(Method::POST, 0, path, &[], &file(c.root()));
        assert_eq!(sent.status, 200, "{path}: {}", sent.text());
        is_taken(&c, path);
    }
}

#[test]
fn what_litestream_restored_or_keeps_as_a_snapshot_is_imported() {
    let directory = tempfile::tempdir().unwrap();
    let plain = file(directory.path());
    let mut packed = lz4_flex::frame::FrameEncoder::new(Vec::new());
    packed.write_all(&plain).unwrap();
    let packed = packed.finish().unwrap();
    let server = Acceptor::start(0, move |mut caller| {
        let mut head = [0; 4096];
        let read = caller.read(&mut head)?;
        let body = if head[..read].starts_with(b"GET /snapshot.lz4 ") { &packed } else { &plain };
        write!(caller, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        caller.write_all(body)
    });
    for path in ["restored.sqlite", "snapshot.lz4"] {
        let c = importing(&format!("http://127.0.0.1:{}/{path}", server.port));
        assert_eq!(c.post(0, "/cluster/restore", IMPORT).0, 200);
        await_job(&c, 0, "/cluster/restore", "begin");
        is_taken(&c, path);
    }
}
