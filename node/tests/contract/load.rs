//! E7, E8: `/db/load` and `/boot`.

use super::support::{Cluster, cluster};
use reqwest::Method;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

/// A database file with `rows` rows in `foo`, as a member that is asked for a backup gives it.
fn database(rows: usize) -> Vec<u8> {
    let c = cluster(1);
    c.execute(
        0,
        &json!([
            "CREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT)",
            "CREATE INDEX foo_name ON foo(name)",
            ["WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT ?) INSERT INTO foo(name) SELECT hex(randomblob(50)) FROM c", rows],
        ]),
    );
    c.send(Method::GET, 0, "/db/backup", &[], b"").body
}

fn load(c: &Cluster, i: usize, path: &str, body: &[u8]) -> (u16, String) {
    let answer = c.send(Method::POST, i, path, &[], body);
    (answer.status, answer.text())
}

#[test]
fn sql_text_is_applied_whole_or_not_at_all() {
    let c = cluster(1);
    // E7
    let dump = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT);\nINSERT INTO \"foo\" VALUES(1,'semi;colon');\nINSERT INTO \"foo\" VALUES(2,'it''s');\nCREATE TRIGGER t AFTER INSERT ON foo BEGIN UPDATE foo SET name = 'x'; SELECT 1; END;\nCOMMIT;\n";
    assert_eq!(
        load(&c, 0, "/db/load", dump.as_bytes()),
        (200, r#"{"results":[{"last_insert_id":2,"rows_affected":1}]}"#.into())
    );
    assert_eq!(c.value(0, "SELECT group_concat(name) FROM foo", "weak"), json!("semi;colon,it's"));
    let failing =
        b"CREATE TABLE bar(x); INSERT INTO bar VALUES(1); INSERT INTO nowhere VALUES(1); DROP TABLE foo";
    assert_eq!(
        load(&c, 0, "/db/load", failing),
        (200, r#"{"results":[{"error":"no such table: nowhere"}]}"#.into())
    );
    assert_eq!(c.value(0, "SELECT count(*) FROM sqlite_schema WHERE name = 'bar'", "weak"), json!(0));
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "weak"), json!(2));
    assert_eq!(load(&c, 0, "/db/load", b" -- nothing\n"), (400, "no statements\n".into()));
    let many = "SELECT 1;".repeat(1_000_001);
    let (status, refusal) = load(&c, 0, "/db/load", many.as_bytes());
    assert!(status == 413 && refusal.contains("load it in parts, or as a database"), "{status} {refusal}");
    assert_eq!(load(&c, 0, "/db/load", &[0xff, 0xfe, 8, 0, 0xff, 0xfe]).0, 400);
}

#[test]
fn a_file_takes_the_place_of_the_database_on_every_member() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    let away = (leader + 2) % 3;
    c.execute(leader, &json!(["CREATE TABLE old(x)", "INSERT INTO old VALUES(1)"]));
    let file = database(3000);
    // A member that is away meets the entry later, and fetches the file.
    c.kill(away);
    // E7
    assert_eq!(load(&c, follower, "/db/load", &file), (200, r#"{"results":[]}"#.into()));
    let schema = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema WHERE name NOT LIKE '%sqlited%' ORDER BY name)";
    assert_eq!(c.value(leader, schema, "weak"), json!("foo,foo_name"));
    c.execute(follower, &json!(["INSERT INTO foo(name) VALUES('after')"]));
    c.start(away);
    c.await_ready(away);
    for i in [leader, follower, away] {
        c.until("the new database", |c| {
            (c.value(i, "SELECT count(*) FROM foo", "none") == json!(3001)).then_some(())
        });
        assert_eq!(c.value(i, schema, "none"), json!("foo,foo_name"));
        assert_eq!(c.value(i, "PRAGMA integrity_check", "none"), json!("ok"));
        assert_eq!(c.value(i, "SELECT count(*) FROM foo WHERE id = 3001", "none"), json!(1));
    }
    // It is there after a restart, and nothing is left of the old one.
    c.terminate(away);
    c.start(away);
    c.await_ready(away);
    assert_eq!(c.value(away, "SELECT count(*) FROM foo", "none"), json!(3001));
    for i in [leader, follower, away] {
        c.until("the staged file to go", |c| {
            std::fs::read_dir(c.members[i].dir.join("staging")).unwrap().next().is_none().then_some(())
        });
        let databases = std::fs::read_dir(&c.members[i].dir).unwrap().flatten();
        let databases = databases.filter(|e| e.file_name().to_string_lossy().ends_with(".sqlite")).count();
        assert_eq!(databases, 2, "a generation and the link to it");
    }
}

#[test]
fn what_is_no_database_changes_nothing() {
    let c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE kept(x)"]));
    let file = database(2000);
    let damaged = {
        let mut bytes = file.clone();
        let page = bytes.len() / 2 / 4096 * 4096;
        bytes[page..page + 200].fill(0xa5);
        bytes
    };
    let bomb = {
        let mut bytes = file.clone();
        bytes.truncate(4096);
        // A header that promises 16 TiB.
        bytes[28..32].copy_from_slice(&u32::MAX.to_be_bytes());
        bytes
    };
    for (what, body) in [
        ("cut short", &file[..file.len() - 100]),
        ("damaged", &damaged),
        ("bomb", &bomb),
        ("header only", &file[..100]),
    ] {
        let (status, message) = load(&c, 0, "/db/load", body);
        assert_eq!(status, 400, "{what}: {message}");
        assert!(message.starts_with("invalid SQLite data: "), "{what}: {message}");
        assert_eq!(load(&c, 0, "/boot", body).0, 400, "{what}");
    }
    assert_eq!(c.value(0, "SELECT count(*) FROM kept", "weak"), json!(0));
    assert_eq!(std::fs::read_dir(c.members[0].dir.join("staging")).unwrap().count(), 0);
}

#[test]
fn what_is_packed_is_refused() {
    let c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE kept(x)"]));
    let file = database(100);
    let gzip = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    // What it would unpack to is not looked at.
    let bomb = gzip(&vec![0; 64 << 20]);
    for (what, body, by) in [
        ("a database", gzip(&file), "gzip"),
        ("a bomb", bomb, "gzip"),
        ("SQL text", gzip(b"DROP TABLE kept"), "gzip"),
        ("a beginning", vec![0x1f, 0x8b], "gzip"),
        ("a database", zstd::encode_all(&file[..], 1).unwrap(), "Zstandard"),
    ] {
        let expected = format!("invalid SQLite data: it is packed by {by}; unpack it first\n");
        for path in ["/db/load", "/boot"] {
            // E7, E8
            assert_eq!(load(&c, 0, path, &body), (400, expected.clone()), "{what} {path}");
            let headers = [("content-encoding", "gzip"), ("content-type", "application/octet-stream")];
            let answer = c.send(Method::POST, 0, path, &headers, &body);
            assert_eq!((answer.status, answer.text()), (400, expected.clone()), "{what} {path}");
        }
    }
    assert_eq!(c.value(0, "SELECT count(*) FROM kept", "weak"), json!(0));
}

#[test]
fn booting() {
    let c = cluster(1);
    let file = database(1000);
    // E8
    assert_eq!(load(&c, 0, "/boot", b"CREATE TABLE x(y)"), (400, "invalid SQLite data\n".into()));
    for short in [&b""[..], b"SQLite", &file[..12]] {
        assert_eq!(load(&c, 0, "/boot", short).0, 503, "{} bytes", short.len());
    }
    assert_eq!(load(&c, 0, "/boot", &file), (200, String::new()));
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "weak"), json!(1000));
    c.execute(0, &json!(["INSERT INTO foo(name) VALUES('more')"]));
    assert_eq!(load(&c, 0, "/boot", &file), (200, String::new()));
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "strong"), json!(1000));

    let mut three = cluster(3);
    let leader = three.await_leader(0);
    assert_eq!(load(&three, leader, "/boot", &file), (503, "not single-node\n".into()));
    assert_eq!(load(&three, (leader + 1) % 3, "/boot", &file), (503, "not leader\n".into()));
}

#[test]
fn an_upload_that_breaks_off_changes_nothing() {
    let mut c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE kept(x)"]));
    let file = database(2000);
    let sent = &file[..file.len() / 2];
    let whole = format!("Content-Length: {}\r\n\r\n", file.len());
    let chunk = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", sent.len());
    // E7, E8
    for path in ["/boot", "/db/load"] {
        for head in [&whole, &chunk] {
            let mut client = TcpStream::connect(("127.0.0.1", c.members[0].http)).unwrap();
            write!(client, "POST {path} HTTP/1.1\r\nHost: x\r\n{head}").unwrap();
            client.write_all(sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            // The member is done with it once it hangs up, whatever it says before.
            let mut answer = Vec::new();
            if let Err(error) = client.read_to_end(&mut answer) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{path}");
            }
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&answer));
            assert_eq!(c.value(0, "SELECT count(*) FROM kept", "strong"), json!(0), "{path}");
            c.until("the beginning of the file to go", |c| {
                std::fs::read_dir(c.members[0].dir.join("staging")).unwrap().next().is_none().then_some(())
            });
        }
    }
    assert_eq!(load(&c, 0, "/boot", &file), (200, String::new()));
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "strong"), json!(2000));
}

#[test]
fn memory_does_not_grow_with_the_file() {
    // B6
    let c = cluster(1);
    let file = database(1);
    // A large value, zeroed: 200 MB of pages that are cheap to make.
    let source = cluster(1);
    assert_eq!(load(&source, 0, "/db/load", &file).0, 200);
    for _ in 0..10 {
        source.execute(0, &json!(["INSERT INTO foo(name) VALUES(zeroblob(20000000))"]));
    }
    let large = source.send(Method::GET, 0, "/db/backup", &[], b"").body;
    assert!(large.len() > 200_000_000);
    assert_eq!(load(&c, 0, "/db/load", &large).0, 200);
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "weak"), json!(11));
    let status = std::fs::read_to_string(format!("/proc/{}/status", c.pid(0))).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak < 128 << 10, "{peak} KiB");
}
