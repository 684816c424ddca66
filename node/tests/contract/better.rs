//! Where we do better than rqlite on purpose: one test for each of those points that exists.

use super::member;
use super::support::{cluster, cluster_with};
use reqwest::Method;
use serde_json::{Value, json};

#[test]
fn nothing_is_rewritten() {
    // B1
    let c = member();
    let body = r#"["INSERT INTO foo(name) VALUES(RANDOM() || datetime('now'))"]"#;
    let expected =
        r#"{"results":[{"original":"INSERT INTO foo(name) VALUES(RANDOM() || datetime('now'))"}]}"#;
    assert_eq!(c.post(0, "/db/sql", body), (200, expected.to_owned()));
}

#[test]
fn a_statement_that_does_not_compile_ends_its_transaction() {
    // B3
    let c = member();
    let body = r#"["INSERT INTO foo(name) VALUES('a')", "INSERT INTO nowhere VALUES(1)", "INSERT INTO foo(name) VALUES('b')"]"#;
    let (_, answer) = c.post(0, "/db/request?transaction", body);
    assert_eq!(
        answer,
        r#"{"results":[{"last_insert_id":1,"rows_affected":1},{"error":"no such table: nowhere"}]}"#
    );
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "weak"), json!(0));
}

#[test]
fn auto_and_its_time_work_for_requests_too() {
    // B4
    let mut c = cluster(1);
    let replica = c.add_read_replica();
    c.execute(0, &json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY)"]));
    c.until("the table on the replica", |c| {
        (c.value(replica, "SELECT count(*) FROM foo", "none") == json!(0)).then_some(())
    });
    let served_by = |c: &super::Cluster, query: &str| {
        let answer = c.send(
            Method::POST,
            replica,
            &format!("/db/request?{query}"),
            &[],
            br#"["SELECT count(*) FROM foo"]"#,
        );
        assert_eq!(answer.status, 200);
        answer.header("x-rqlite-served-by")
    };
    assert_eq!(served_by(&c, "level=auto"), format!("127.0.0.1:{}", c.members[replica].http));
    assert_eq!(served_by(&c, "level=weak"), format!("127.0.0.1:{}", c.members[0].raft));
    c.kill(0);
    let started = std::time::Instant::now();
    let (status, _) =
        c.post(replica, "/db/request?level=linearizable&linearizable_timeout=300ms", r#"["SELECT 1"]"#);
    assert_eq!(status, 503);
    assert!(started.elapsed().as_secs() < 8);
}

#[test]
fn large_results_are_streamed_also_through_a_follower() {
    // B7
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    // 160 MB: more than a follower could have collected before.
    let sql = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 40000) SELECT x, hex(zeroblob(2000)) FROM c";
    for path in ["/db/query?level=weak", "/db/query?level=strong", "/db/request?level=strong"] {
        let answer = c.send(Method::POST, follower, path, &[], json!([sql]).to_string().as_bytes());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-rqlite-served-by"), format!("127.0.0.1:{}", c.members[leader].raft));
        assert!(answer.body.len() > 160_000_000);
        let whole: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(whole["results"][0]["values"].as_array().unwrap().len(), 40_000);
    }
    for i in [leader, follower] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", c.pid(i))).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
        assert!(peak < 96 << 10, "{peak} KiB");
    }
}

#[test]
fn what_would_be_undefined_is_refused() {
    // B11
    let c = member();
    // Transactions of the server's own first: what it compiled for itself is not for users.
    c.execute(0, &json!(["UPDATE foo SET name = name"]));
    assert_eq!(c.post(0, "/db/execute?transaction", r#"["nonsense"]"#).0, 200);
    for sql in [
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "SAVEPOINT request",
        "ROLLBACK TO request",
        "RELEASE request",
        "SAVEPOINT statement",
        "RELEASE statement",
        "ATTACH 'x' AS y",
        "DETACH y",
    ] {
        for path in ["/db/execute", "/db/execute?transaction", "/db/request", "/db/query"] {
            let (status, answer) = c.post(0, path, &json!([sql]).to_string());
            assert!(
                status == 200 && answer.contains("\"error\":\"not authorized: "),
                "{path} {sql}: {answer}"
            );
        }
    }
    let (status, answer) = c.post(0, "/db/execute", r#"["VACUUM INTO 'x'"]"#);
    assert!(status == 200 && answer.contains("\"error\":"), "{answer}");
    c.execute(0, &json!(["INSERT INTO foo(name) VALUES('still here')"]));
}

#[test]
fn a_time_for_the_proposal_is_no_time_for_the_execution() {
    // B13
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    c.execute(leader, &json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY)"]));
    let body = r#"["INSERT INTO foo DEFAULT VALUES"]"#;
    assert_eq!(c.post((leader + 1) % 3, "/db/execute?db_timeout=5s", body).0, 200);
    // Without a leader nothing is proposed in time, and then not at all.
    let follower = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    c.kill(leader);
    c.kill(other);
    c.await_no_leader(follower);
    let (status, answer) = c.post(follower, "/db/execute?db_timeout=100ms&timeout=5s", body);
    assert_eq!((status, answer.as_str()), (200, r#"{"results":[],"error":"execute timeout"}"#));
    c.start(leader);
    c.start(other);
    c.await_ready(leader);
    assert_eq!(c.value(leader, "SELECT count(*) FROM foo", "linearizable"), json!(1));
}

#[test]
fn a_write_without_measure_ends_by_its_steps() {
    let c = cluster_with(1, &["-write-step-limit", "100000"]);
    c.execute(0, &json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY)"]));
    let bomb =
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) INSERT INTO foo SELECT x FROM c";
    // B13
    let (status, answer) = c.post(0, "/db/execute?db_timeout=1h", &json!([bomb]).to_string());
    assert_eq!(status, 200);
    assert!(answer.starts_with(r#"{"results":[{"error":"execute timeout: "#), "{answer}");
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "weak"), json!(0));
}

#[test]
fn a_result_has_no_more_rows_and_bytes_than_its_client_wants() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let fill = "INSERT INTO t SELECT value, printf('%01000d', value) FROM json_each('[1,2,3,4,5]')";
    c.execute(leader, &json!(["CREATE TABLE t(a, b)", fill]));
    let large =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n";
    let rows = |n: u64| format!("the result has more than {n} rows (db_max_rows)");
    let bytes = |n: u64| format!("the rows of the result take more than {n} bytes (db_max_bytes)");
    // (parameters, text, rows, error)
    let cases = [
        ("db_max_rows=5&db_max_bytes=0", "SELECT a FROM t", 5, None),
        ("db_max_rows=4", "SELECT a FROM t", 4, Some(rows(4))),
        ("db_max_rows=4&associative", "SELECT a FROM t", 4, Some(rows(4))),
        ("db_max_rows=4", "SELECT 1; SELECT a FROM t LIMIT 4", 4, None),
        ("db_max_bytes=2500", "SELECT b FROM t", 2, Some(bytes(2500))),
        ("db_max_bytes=10", "SELECT b FROM t", 0, Some(bytes(10))),
        // Larger than what is answered inline, and than a piece of what is streamed.
        ("db_max_rows=90000", large, 90_000, Some(rows(90_000))),
        // A row takes its digits, two brackets and a comma, the first one none.
        ("db_max_bytes=408887", large, 52_499, Some(bytes(408_887))),
        ("db_max_rows=100000", large, 100_000, None),
    ];
    for (parameters, sql, wanted, error) in cases {
        for (i, level) in [(leader, "weak"), ((leader + 1) % 3, "linearizable"), ((leader + 2) % 3, "none")] {
            let path = format!("/db/query?level={level}&{parameters}");
            let (status, body) = c.post(i, &path, &json!([sql, "SELECT 7 AS seven"]).to_string());
            let answer: Value = serde_json::from_str(&body).unwrap();
            let result = &answer["results"][0];
            let list = result["values"].as_array().or(result["rows"].as_array()).unwrap();
            assert_eq!(
                (status, list.len(), result["error"].as_str()),
                (200, wanted, error.as_deref()),
                "{path} {sql}"
            );
            assert!(list.iter().all(|row| row.as_array().map_or(1, Vec::len) == 1), "whole rows");
            let seven = &answer["results"][1];
            assert!(seven["values"] == json!([[7]]) || seven["rows"] == json!([{"seven": 7}]), "{seven}");
        }
    }
    // What is set aside has no rows to show.
    let both = json!(["SELECT 1; SELECT a FROM t"]).to_string();
    let (_, answer) = c.post(0, "/db/query?db_max_rows=4", &both);
    assert_eq!(answer, json!({"results": [{"error": rows(4)}]}).to_string());
    for (parameters, message) in [
        ("db_max_rows=-1", "db_max_rows must not be negative\n"),
        ("db_max_bytes=many", "db_max_bytes is not a valid integer\n"),
    ] {
        let answer = c.post(0, &format!("/db/query?{parameters}"), r#"["SELECT 1"]"#);
        assert_eq!(answer, (400, message.to_owned()));
    }
}

#[test]
fn limits_are_told_clearly() {
    let c = member();
    let deep = format!("[{}{}]", "[".repeat(200), "]".repeat(200));
    let too_deep = (400, "the JSON is nested deeper than 128 levels\n".to_owned());
    for path in ["/db/execute", "/db/query", "/db/request", "/db/sql"] {
        assert_eq!(c.post(0, path, &deep), too_deep, "{path}");
    }
    let many = format!("[[\"SELECT 1\"{}]]", ",1".repeat(70_000));
    assert_eq!(c.post(0, "/db/query", &many), (400, "too many parameters in one request\n".into()));
    let statements = format!("[\"\"{}]", ",\"\"".repeat(1_000_001));
    assert_eq!(c.post(0, "/db/execute", &statements), (400, "too many statements in one request\n".into()));
    // Announced larger than allowed: refused before it is sent.
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", c.members[0].http)).unwrap();
    stream.set_read_timeout(Some(super::support::PATIENCE)).unwrap();
    write!(stream, "POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}
