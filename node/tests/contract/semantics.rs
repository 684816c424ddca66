//! S1–S7: what clients rely on, and bookmarks.

use super::member;
use super::support::{cluster, cluster_with, patient, with_read_replica};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const STALE: &str = r#"{"results":[],"error":"stale read"}"#;

#[test]
fn levels_staleness_and_bookmarks() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    let insert = br#"["CREATE TABLE IF NOT EXISTS foo(id INTEGER PRIMARY KEY, name TEXT)", "INSERT INTO foo(name) VALUES('a')"]"#;
    // S2, S4
    for n in 1..=20 {
        let written = c.send(Method::POST, follower, "/db/execute", &[], insert);
        assert_eq!(written.status, 200);
        assert_eq!(c.value(leader, "SELECT count(*) FROM foo", "none"), json!(n));
        // S1
        assert_eq!(c.value(follower, "SELECT count(*) FROM foo", "auto"), json!(n));
        assert_eq!(c.value(follower, "SELECT count(*) FROM foo", "linearizable"), json!(n));
        // A bookmark: one's own write, on any member.
        let bookmark = written.header("x-raft-index");
        let headers = [("x-raft-index", bookmark.as_str())];
        let read = c.send(
            Method::GET,
            follower,
            "/db/query?level=none&q=SELECT+count(*)+AS+n+FROM+foo",
            &headers,
            b"",
        );
        assert_eq!(
            read.text(),
            format!(r#"{{"results":[{{"columns":["n"],"types":["integer"],"values":[[{n}]]}}]}}"#)
        );
        let index = |mark: &str| mark.split_once('.').unwrap().1.parse::<u64>().unwrap();
        assert!(index(&read.header("x-raft-index")) >= index(&bookmark));
    }
    let read = |c: &super::Cluster, i: usize, query: &str, bookmark: &str| {
        let headers = [("x-raft-index", bookmark)];
        let answer = c.send(Method::GET, i, &format!("/db/query?q=SELECT+1&{query}"), &headers, b"");
        (answer.status, answer.text())
    };
    let here = c.send(Method::GET, leader, "/db/query?q=SELECT+1", &[], b"").header("x-raft-index");
    let (epoch, index) = here.split_once('.').unwrap();
    let future = format!("{epoch}.{}", index.parse::<u64>().unwrap() + 1_000_000);
    let elsewhere = format!("{}.1", epoch.parse::<u64>().unwrap() + 1);
    for i in [leader, follower] {
        for level in ["level=none", "level=weak", "level=linearizable&linearizable_timeout=100ms"] {
            let (status, text) = read(&c, i, &format!("{level}&timeout=100ms"), &future);
            assert_eq!(status, 503, "{level}: {text}");
            let (status, text) = read(&c, i, &format!("{level}&timeout=100ms"), &elsewhere);
            assert_eq!(status, 409, "{level}: {text}");
        }
        assert_eq!(read(&c, i, "level=none", "7").0, 400);
    }

    // Freshness is kept while the leader is heard, and not without one.
    for query in ["freshness=1s", "freshness=1s&freshness_strict", "freshness=1h"] {
        assert_eq!(read(&c, follower, &format!("level=none&{query}"), &here).0, 200, "{query}");
    }
    let other = (0..3).find(|i| *i != leader && *i != follower).unwrap();
    c.kill(other);
    c.kill(leader);
    c.until("the leader to be silent for a second", |c| {
        let (status, text) = c.get(follower, "/db/query?q=SELECT+1&level=none&freshness=1s");
        assert_eq!(status, 200);
        (text == STALE).then_some(())
    });
    let (_, long) = c.get(follower, "/db/query?q=SELECT+1&level=none&freshness=1h");
    assert_ne!(long, STALE);
    let (_, any) = c.get(follower, "/db/query?q=SELECT+1&level=none");
    assert_ne!(any, STALE);
    // S3
    let started = Instant::now();
    for (path, body) in
        [("/db/execute?timeout=1s", "[\"DELETE FROM foo\"]"), ("/db/query?timeout=1s", "[\"SELECT 1\"]")]
    {
        assert_eq!(c.post(follower, path, body), (503, "leader not found\n".into()));
    }
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_strong_read_says_which_state_it_saw() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    c.execute(leader, &json!(["CREATE TABLE foo(n)"]));
    let write = c.url(leader, "/db/execute?raft_index");
    let (written, mut read) = (Mutex::new(Vec::new()), Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let http = patient();
                for _ in 0..200 {
                    let answer = http.post(&write).body(r#"["INSERT INTO foo VALUES(1)"]"#).send().unwrap();
                    let answer: Value = serde_json::from_str(&answer.text().unwrap()).unwrap();
                    written.lock().unwrap().push(answer["raft_index"].as_u64().unwrap());
                }
            });
        }
        // S1: while others write.
        for n in 0..100 {
            let i = if n % 2 == 0 { leader } else { follower };
            let path = if n % 4 < 2 { "/db/query" } else { "/db/request" };
            let path = format!("{path}?level=strong&raft_index");
            let answer = c.send(Method::POST, i, &path, &[], br#"["SELECT count(*) FROM foo"]"#);
            let body: Value = serde_json::from_str(&answer.text()).unwrap();
            let index = body["raft_index"].as_u64().unwrap();
            assert!(answer.header("x-raft-index").ends_with(&format!(".{index}")), "{path}: {body}");
            read.push((index, body["results"][0]["values"][0][0].as_u64().unwrap()));
        }
    });
    let written = written.into_inner().unwrap();
    for (index, rows) in read {
        let before = written.iter().filter(|written| **written <= index).count();
        assert_eq!(rows, before as u64, "at {index}");
    }
}

#[test]
fn what_became_of_a_write_is_not_known_when_its_time_is_over() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let (follower, third) = ((leader + 1) % 3, (leader + 2) % 3);
    c.execute(follower, &json!(["CREATE TABLE foo(n)"]));
    let insert = r#"["INSERT INTO foo VALUES(1)"]"#;
    c.kill(third);
    // C19: it leads, and nobody takes its entries.
    c.signal(follower, "STOP");
    let timed_out = r#"{"results":[],"error":"timed out while committing log: the outcome is unknown"}"#;
    assert_eq!(c.post(leader, "/db/execute?timeout=500ms", insert), (200, timed_out.into()));
    c.signal(follower, "CONT");
    c.until("a leader that both know", |c| {
        let leads = c.status(leader, "store.leader.node_id");
        let known = leads.as_str().is_some_and(|name| !name.is_empty());
        (known && leads == c.status(follower, "store.leader.node_id")).then_some(())
    });
    // C12, C19: whom it was sent to does not answer, and nobody else can lead.
    let leader = c.await_leader(follower);
    let follower = if leader == follower { (third + 1) % 3 } else { follower };
    c.execute(follower, &json!(["DELETE FROM foo"]));
    c.signal(leader, "STOP");
    let (status, lost) = c.post(follower, "/db/execute?timings&timeout=5s", insert);
    c.signal(leader, "CONT");
    let beginning = r#"{"results":[],"error":"leadership lost while committing log","time":"#;
    assert!(status == 200 && lost.starts_with(beginning), "{status} {lost}");
    c.start(third);
    c.await_ready(third);
    let rows = c.value(third, "SELECT count(*) FROM foo", "linearizable");
    assert!(rows == json!(0) || rows == json!(1), "{rows}");
}

#[test]
fn a_member_that_lags_is_refused_where_freshness_is_strict() {
    // The statement takes more steps than one may by default.
    let mut c = cluster_with(3, &["-write-step-limit", "0"]);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    c.execute(leader, &json!(["CREATE TABLE foo(n)", "INSERT INTO foo VALUES(1)"]));
    // All of them are at it for seconds: it is committed, and not applied.
    let slow = "UPDATE foo SET n = \
                (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 15000000) SELECT count(*) FROM c)";
    let write = c.url(leader, "/db/execute?timeout=1m");
    let read = |c: &super::Cluster, strict: &str| {
        c.get(follower, &format!("/db/query?q=SELECT+n+FROM+foo&level=none&freshness=400ms{strict}")).1
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer =
                patient().post(&write).body(json!([slow]).to_string()).send().unwrap().text().unwrap();
            assert!(answer.contains("\"rows_affected\":1"), "{answer}");
        });
        // S1
        c.until("it is behind, and the leader is heard", |c| {
            (read(c, "&freshness_strict") == STALE && read(c, "") != STALE).then_some(())
        });
    });
    c.until("it has caught up", |c| {
        let fresh = read(c, "&freshness_strict");
        (fresh != STALE && fresh.contains("[[15000000]]")).then_some(())
    });
}

#[test]
fn a_read_replica_keeps_the_freshness_that_it_is_asked_for() {
    let (mut c, replica) = with_read_replica();
    let read =
        |c: &super::Cluster, rest: &str| c.get(replica, &format!("/db/query?q=SELECT+a+FROM+t&{rest}"));
    // S1: by itself a read replica answers from what it has.
    for rest in ["level=auto", "level=auto&freshness=1s", "level=auto&freshness=1s&freshness_strict"] {
        c.until(rest, |c| (read(c, rest).1.contains("[[1]]")).then_some(()));
    }
    c.kill(0);
    c.until("the leader to be silent for a second", |c| {
        let (status, text) = read(c, "level=auto&freshness=1s");
        assert_eq!(status, 200);
        (text == STALE).then_some(())
    });
    for rest in ["level=auto", "level=auto&freshness=1h"] {
        let (status, text) = read(&c, rest);
        assert!(status == 200 && text.contains("[[1]]"), "{rest}: {status} {text}");
    }
}

#[test]
fn replicas_agree_on_chance_and_time() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    // S5, B1
    c.execute(
        leader,
        &json!([
            "CREATE TABLE foo(id INTEGER PRIMARY KEY, r DEFAULT (random()), at DEFAULT CURRENT_TIMESTAMP, b, d)",
            "CREATE TRIGGER t AFTER INSERT ON foo BEGIN UPDATE foo SET b = hex(randomblob(8)), d = julianday('now') WHERE id = new.id; END",
        ]),
    );
    for _ in 0..20 {
        c.execute(leader, &json!(["INSERT INTO foo DEFAULT VALUES", "INSERT INTO foo(r) VALUES(RANDOM())"]));
    }
    let all = "SELECT group_concat(id || r || at || b || d) FROM foo";
    let expected = c.value(leader, all, "strong");
    for i in 0..3 {
        c.until("the same rows", |c| (c.value(i, all, "none") == expected).then_some(()));
    }
    assert_eq!(c.value(leader, "SELECT count(DISTINCT r) FROM foo", "weak"), json!(40));
}

#[test]
fn what_sqlite_has_here() {
    let c = member();
    // S6
    for sql in [
        "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
        "CREATE TABLE child(p INTEGER REFERENCES parent(id))",
        "INSERT INTO child VALUES(7)",
        "INSERT INTO foo(name) VALUES(\"a double-quoted string\")",
        "CREATE VIRTUAL TABLE f3 USING fts3(a)",
        "CREATE VIRTUAL TABLE f4 USING fts4(a)",
        "CREATE VIRTUAL TABLE f5 USING fts5(a)",
        "CREATE VIRTUAL TABLE r USING rtree(id, a, b)",
        "INSERT INTO f5 VALUES('some words')",
    ] {
        c.execute(0, &json!([sql]));
    }
    for (sql, expected) in [
        ("SELECT a FROM f5 WHERE f5 MATCH 'words'", json!("some words")),
        ("SELECT json_extract('{\"a\":[1,2]}', '$.a[1]')", json!(2)),
        ("SELECT floor(pow(2, 3.5))", json!(11)),
        ("SELECT count(*) > 0 FROM dbstat", json!(1)),
        ("PRAGMA foreign_keys", json!(0)),
    ] {
        assert_eq!(c.value(0, sql, "weak"), expected, "{sql}");
    }
    let version = c.value(0, "SELECT sqlite_version()", "weak");
    let parts: Vec<u32> = version.as_str().unwrap().split('.').map(|n| n.parse().unwrap()).collect();
    assert!((parts[0], parts[1]) >= (3, 53), "{version}");
}

#[test]
fn foreign_keys_are_enforced_where_that_is_asked_for() {
    let c = cluster_with(1, &["-fk"]);
    c.execute(
        0,
        &json!([
            "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
            "CREATE TABLE child(p INTEGER REFERENCES parent(id) ON DELETE CASCADE)",
            "INSERT INTO parent VALUES(1)",
            "INSERT INTO child VALUES(1)",
        ]),
    );
    // S6
    for statement in ["INSERT INTO child VALUES(7)", "UPDATE child SET p = 7"] {
        let refused = r#"{"results":[{"error":"FOREIGN KEY constraint failed"}]}"#;
        assert_eq!(
            c.post(0, "/db/execute", &json!([statement]).to_string()),
            (200, refused.into()),
            "{statement}"
        );
    }
    assert_eq!(c.value(0, "PRAGMA foreign_keys", "weak"), json!(1));
    c.execute(0, &json!(["DELETE FROM parent"]));
    assert_eq!(c.value(0, "SELECT count(*) FROM child", "weak"), json!(0));
}

#[test]
fn a_name_may_come_back_from_the_same_place_and_from_another() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let away = (leader + 1) % 3;
    c.execute(leader, &json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY)"]));
    // S7
    for _ in 0..2 {
        c.kill(away);
        c.execute(leader, &json!(["INSERT INTO foo DEFAULT VALUES"]));
        c.start(away);
        c.await_ready(away);
    }
    let (_, nodes) = c.get(leader, "/nodes?nonvoters");
    let nodes: Value = serde_json::from_str(&nodes).unwrap();
    assert_eq!(nodes.as_object().unwrap().len(), 3);
    // From another place it takes the place of what it was.
    c.kill(away);
    let elsewhere = c.member("elsewhere", &[]);
    let place = c.members.remove(elsewhere);
    (c.members[away].http, c.members[away].raft) = (place.http, place.raft);
    c.start(away);
    c.await_ready(away);
    let address = json!(format!("127.0.0.1:{}", place.raft));
    c.until("the new address on the leader", |c| {
        let nodes: Value = serde_json::from_str(&c.get(leader, "/nodes?nonvoters").1).unwrap();
        assert_eq!(nodes.as_object().unwrap().len(), 3);
        (nodes[&c.members[away].name]["addr"] == address).then_some(())
    });
    c.execute(away, &json!(["INSERT INTO foo DEFAULT VALUES"]));
    c.until("its writes there", |c| {
        (c.value(away, "SELECT count(*) FROM foo", "none") == json!(3)).then_some(())
    });
}
