//! E6: `/db/backup`.

use super::support::{Answer, Cluster, cluster};
use reqwest::Method;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

fn database(c: &Cluster, i: usize) {
    c.execute(
        i,
        &json!([
            "CREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT)",
            "CREATE TABLE bar(x)",
            "CREATE INDEX foo_name ON foo(name)",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 5000) INSERT INTO foo(name) SELECT hex(randomblob(50)) FROM c",
            "INSERT INTO bar VALUES('it''s')",
        ]),
    );
}

fn backup(c: &Cluster, i: usize, query: &str) -> Answer {
    c.send(Method::GET, i, &format!("/db/backup?{query}"), &[], b"")
}

/// Loads the copy into a member of its own, and returns what it says about it.
fn check(bytes: &[u8], header: u8) {
    assert_eq!(&bytes[..16], b"SQLite format 3\0");
    assert_eq!(bytes[18..20], [header; 2]);
    let page = u16::from_be_bytes([bytes[16], bytes[17]]) as usize;
    assert_eq!(bytes.len() % page, 0);
    let other = cluster(1);
    let (status, body) = {
        let answer = other.send(Method::POST, 0, "/db/load", &[], bytes);
        (answer.status, answer.text())
    };
    assert_eq!((status, body.as_str()), (200, r#"{"results":[]}"#));
    assert_eq!(other.value(0, "SELECT count(*) FROM foo", "weak"), json!(5000));
    assert_eq!(other.value(0, "PRAGMA integrity_check", "weak"), json!("ok"));
}

#[test]
fn every_form() {
    let c = cluster(1);
    database(&c, 0);
    // E6
    let plain = backup(&c, 0, "");
    assert_eq!((plain.status, plain.header("content-type").as_str()), (200, "application/octet-stream"));
    assert_eq!(plain.header("x-rqlite-served-by"), format!("127.0.0.1:{}", c.members[0].http));
    check(&plain.body, 2);
    let delete = backup(&c, 0, "fmt=delete");
    assert_eq!((delete.status, &delete.body[18..20]), (200, &[1, 1][..]));
    assert_eq!(delete.body.len(), plain.body.len());
    let unknown = backup(&c, 0, "fmt=whatever&noleader");
    assert_eq!((unknown.status, &unknown.body[18..20]), (200, &[2, 2][..]));
    for copy in [&plain, &delete, &unknown] {
        let found = copy.body.windows(8).any(|w| w == b"SQLDMETA");
        assert!(!found, "the internal table is in a copy");
    }

    c.execute(0, &json!(["DELETE FROM foo WHERE id > 2500", "INSERT INTO foo(name) SELECT name FROM foo"]));
    c.execute(0, &json!(["CREATE TABLE gone AS SELECT * FROM foo", "DROP TABLE gone"]));
    let vacuumed = backup(&c, 0, "vacuum&fmt=delete");
    assert!(vacuumed.body.len() < backup(&c, 0, "").body.len());
    check(&vacuumed.body, 1);
    assert_eq!(backup(&c, 0, "vacuum&fmt=sql").text(), "invalid backup format\n");
    assert_eq!(backup(&c, 0, "vacuum&fmt=sql").status, 500);
    assert_eq!(backup(&c, 0, "timeout=1").status, 400);

    let sql = backup(&c, 0, "fmt=sql");
    assert_eq!(sql.header("content-type"), "application/sql");
    let text = sql.text();
    assert!(
        text.starts_with("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n") && text.ends_with("COMMIT;\n")
    );
    assert!(!text.contains("_sqlited_") && text.contains("CREATE INDEX foo_name ON foo(name);"));
    let some = backup(&c, 0, "fmt=sql&tables=bar").text();
    assert_eq!(
        some,
        "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE bar(x);\nINSERT INTO \"bar\" VALUES('it''s');\nCOMMIT;\n"
    );

    let compressed = backup(&c, 0, "compress&fmt=sql");
    assert_eq!(compressed.header("content-encoding"), "");
    let mut gunzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, body) = (gunzip.stdin.take().unwrap(), compressed.body);
    let feeding = std::thread::spawn(move || stdin.write_all(&body).unwrap());
    let mut plain = String::new();
    gunzip.stdout.take().unwrap().read_to_string(&mut plain).unwrap();
    feeding.join().unwrap();
    assert!(gunzip.wait().unwrap().success());
    assert_eq!(plain, text);
}

#[test]
fn a_follower_passes_the_leaders_copy_on() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    database(&c, leader);
    let copy = backup(&c, follower, "fmt=delete");
    assert_eq!(copy.header("x-rqlite-served-by"), format!("127.0.0.1:{}", c.members[leader].raft));
    check(&copy.body, 1);
    let own = backup(&c, follower, "noleader");
    assert_eq!(own.header("x-rqlite-served-by"), format!("127.0.0.1:{}", c.members[follower].http));
    // E16
    let (_, vars) = c.get(follower, "/debug/vars?key=http");
    assert!(vars.contains("\"remote_backups\":1") && vars.contains("\"backups\":2"), "{vars}");
}
