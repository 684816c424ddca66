//! E2: queued writes.

use super::member;
use super::support::{Cluster, PATIENCE, cluster};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn sequence(c: &Cluster, path: &str, body: &str) -> i64 {
    let (status, answer) = c.post(0, path, body);
    assert_eq!(status, 200, "{path} {body}: {answer}");
    assert!(answer.starts_with(r#"{"results":[],"sequence_number":"#), "{answer}");
    serde_json::from_str::<Value>(&answer).unwrap()["sequence_number"].as_i64().unwrap()
}

#[test]
fn queued_writes_are_numbered_flushed_and_kept_in_order() {
    let mut c = member();
    // E2
    let first = sequence(&c, "/db/execute?queue", r#"["INSERT INTO foo(name) VALUES('first')"]"#);
    assert!(first > 0);
    let mut last = first;
    for n in 0..300 {
        let next =
            sequence(&c, "/db/execute?queue", &format!(r#"[["INSERT INTO foo(name) VALUES(?)", "n{n}"]]"#));
        assert!(next > last);
        last = next;
    }
    // A mark waits for all that came before.
    assert!(sequence(&c, "/db/execute?queue&wait", "[]") > last);
    assert_eq!(c.value(0, "SELECT count(*) FROM foo", "weak"), json!(301));
    let disorder = "SELECT count(*) FROM foo WHERE id > 1 AND name <> 'n' || (id - 2)";
    assert_eq!(c.value(0, disorder, "weak"), json!(0));
    // Who waits reads its own write; statement errors are not told.
    sequence(
        &c,
        "/db/execute?queue&wait",
        r#"["INSERT INTO foo(name) VALUES('waited')", "nonsense", "INSERT INTO foo(name) VALUES('after')"]"#,
    );
    assert_eq!(c.value(0, "SELECT count(*) FROM foo WHERE name IN ('waited', 'after')", "none"), json!(2));

    for (path, body, expected) in [
        ("/db/execute?queue", "[]", (400, "no statements\n")),
        ("/db/execute?queue&wait", "nonsense", (400, "invalid JSON body\n")),
        ("/db/execute?queue", "{}", (400, "invalid request\n")),
        ("/db/execute?queue&timeout=1", "[\"SELECT 1\"]", (400, "timeout is not a valid duration\n")),
        (
            "/db/execute?queue&wait&timeout=0s",
            "[\"UPDATE foo SET name = name\"]",
            (408, "queue wait timeout\n"),
        ),
    ] {
        let (status, text) = c.post(0, path, body);
        // Without any time there may be no room either.
        if status == 503 && expected.0 == 408 {
            continue;
        }
        assert_eq!((status, text.as_str()), expected, "{path} {body}");
    }

    // A graceful stop flushes what waits.
    sequence(&c, "/db/execute?queue", r#"["INSERT INTO foo(name) VALUES('before the end')"]"#);
    assert_eq!(c.terminate(0), Some(0));
    c.start(0);
    c.await_ready(0);
    assert_eq!(c.value(0, "SELECT count(*) FROM foo WHERE name = 'before the end'", "weak"), json!(1));
    assert!(sequence(&c, "/db/execute?queue", r#"["UPDATE foo SET name = name"]"#) > last);
}

#[test]
fn a_full_queue_holds_clients_up_and_loses_nothing() {
    let mut c = Cluster::empty();
    let flags =
        ["-write-queue-capacity", "4", "-write-queue-batch-size", "1000", "-write-queue-timeout", "1h"];
    let i = c.member("alone", &flags);
    c.start(i);
    c.await_ready(i);
    c.execute(i, &json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT)"]));
    let insert = r#"["INSERT INTO foo(name) VALUES('x')"]"#;
    for _ in 0..4 {
        assert_eq!(c.post(i, "/db/execute?queue", insert).0, 200);
    }
    let started = Instant::now();
    assert_eq!(c.post(i, "/db/execute?queue&timeout=200ms", insert), (503, "queue full\n".into()));
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(c.value(i, "SELECT count(*) FROM foo", "weak"), json!(0));
    assert_eq!(c.terminate(i), Some(0));
    c.start(i);
    c.await_ready(i);
    assert_eq!(c.value(i, "SELECT count(*) FROM foo", "weak"), json!(4));
}

#[test]
fn queued_writes_survive_the_leader_and_are_applied_once() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    c.execute(leader, &json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY, n INTEGER)"]));
    let http = reqwest::blocking::Client::builder().timeout(PATIENCE).build().unwrap();
    let url = c.url(follower, "/db/execute?queue&noleader");
    let mut killed = false;
    for n in 0..600 {
        if n == 200 {
            c.kill(leader);
            killed = true;
        }
        let answer =
            http.post(&url).body(format!("[[\"INSERT INTO foo(n) VALUES(?)\", {n}]]")).send().unwrap();
        assert_eq!(answer.status().as_u16(), 200);
    }
    assert!(killed);
    let (status, answer) = c.post(follower, "/db/execute?queue&wait&noleader", "[]");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(c.value(follower, "SELECT count(*) FROM foo", "weak"), json!(600));
    assert_eq!(c.value(follower, "SELECT count(*) FROM foo WHERE n <> id - 1", "weak"), json!(0));
}

#[test]
fn queued_statements_are_whole_or_not_at_all_if_that_is_said() {
    let mut c = Cluster::empty();
    let i = c.member("alone", &["-write-queue-tx", "-write-queue-timeout", "1h"]);
    c.start(i);
    c.await_ready(i);
    c.execute(i, &json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT)"]));
    // E2
    sequence(&c, "/db/execute?queue", r#"["INSERT INTO foo(name) VALUES('with another one')"]"#);
    sequence(&c, "/db/execute?queue", r#"["nonsense"]"#);
    sequence(&c, "/db/execute?queue&wait", "[]");
    assert_eq!(c.value(i, "SELECT count(*) FROM foo", "weak"), json!(0));
    sequence(&c, "/db/execute?queue", r#"["INSERT INTO foo(name) VALUES('alone')"]"#);
    sequence(&c, "/db/execute?queue&wait", "[]");
    assert_eq!(c.value(i, "SELECT count(*) FROM foo", "weak"), json!(1));
}
