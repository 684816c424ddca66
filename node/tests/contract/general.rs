//! C1–C9: what all endpoints share.

use super::member;
use super::support::{Cluster, cluster, cluster_with};
use node::http::ROUTES;
use reqwest::Method;

#[test]
fn paths_methods_and_headers() {
    let c = member();
    // C1
    for (method, path, expected) in [
        (Method::GET, "/nope", 404),
        (Method::POST, "/console", 405),
        (Method::GET, "/db/execute", 405),
        (Method::DELETE, "/db/query", 405),
        (Method::POST, "/status", 405),
        (Method::GET, "/boot", 405),
        (Method::GET, "/leader/x", 404),
    ] {
        let answer = c.send(method.clone(), 0, path, &[], b"");
        assert_eq!((answer.status, answer.body.len()), (expected, 0), "{method} {path}");
        // C2
        assert!(answer.header("x-rqlite-version").starts_with('v'), "{path}");
        assert_eq!(answer.header("access-control-allow-methods"), "OPTIONS, GET, POST");
        assert_eq!(answer.header("access-control-allow-headers"), "Content-Type");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    // E15: whatever the method.
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let root = c.send(method.clone(), 0, "/", &[], b"");
        assert_eq!((root.status, root.header("location").as_str()), (302, "/console/"), "{method}");
        assert_eq!(c.send(method.clone(), 0, "/debug/vars", &[], b"").status, 200, "{method}");
    }
    assert_eq!(c.post(0, "/cluster/voters", "{\"ad\": 1}").0, 400);
    assert_eq!(c.post(0, "/db/execute/", "[\"INSERT INTO foo(name) VALUES('prefix')\"]").0, 200);
    assert_eq!(c.get(0, "/db/query/anything?q=SELECT+1").0, 200);
    for path in ["/", "/nope", "/db/execute"] {
        let answer = c.send(Method::OPTIONS, 0, path, &[], b"");
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
}

#[test]
fn parameters() {
    let c = member();
    let execute = "[\"UPDATE foo SET name = name\"]";
    // C4, C6
    for (path, expected) in [
        ("/db/execute?timeout=5", (400, "timeout is not a valid duration\n")),
        ("/db/execute?timeout=1h2m3.5s", (200, "")),
        ("/db/execute?timeout=%2B1s", (200, "")),
        // Without a bound of its own: a leader that is there answers.
        ("/db/execute?timeout=0s", (200, "")),
        ("/db/execute?timeout=-1s", (200, "")),
        ("/db/query?timeout=0s", (200, "")),
        ("/db/query?timeout=-5m&level=strong", (200, "")),
        ("/db/query?timeout=0&level=linearizable&linearizable_timeout=0s", (200, "")),
        ("/db/request?timeout=0s", (200, "")),
        ("/db/execute?db_timeout=x", (400, "db_timeout is not a valid duration\n")),
        ("/db/execute?retries=1.5", (400, "retries is not a valid integer\n")),
        ("/db/execute?linearizable_timeout=1", (400, "linearizable_timeout is not a valid duration\n")),
        ("/db/query?freshness=1y", (400, "freshness is not a valid duration\n")),
        ("/db/query?freshness_strict", (400, "freshness_strict requires freshness\n")),
        ("/db/query?level=none&level=strong&raft_index", (200, "")),
        ("/db/execute?x=%zz", (400, "malformed query parameter %zz\n")),
        ("/snapshot?trailing_logs=x", (400, "trailing_logs is not a valid integer\n")),
    ] {
        let (status, body) = c.post(0, path, execute);
        assert_eq!(status, expected.0, "{path}: {body}");
        assert!(status == 400 || !body.contains("outcome is unknown"), "{path}: {body}");
        if status == 400 {
            assert_eq!(body, expected.1, "{path}");
        }
    }
    assert_eq!(c.get(0, "/db/query?q="), (400, "query parameter not set\n".into()));
    // A flag counts by being there.
    let (_, pretty) = c.get(0, "/db/query?q=SELECT+1&pretty=false");
    // C5
    assert!(pretty.starts_with("{\n    \"results\": ["), "{pretty}");
    let error = c.send(Method::POST, 0, "/db/execute", &[], b"{");
    assert_eq!(error.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(error.text(), "invalid JSON body\n");
    let json = c.send(Method::GET, 0, "/db/query?q=SELECT+1+AS+n", &[], b"");
    assert_eq!(json.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(json.text(), r#"{"results":[{"columns":["n"],"types":["integer"],"values":[[1]]}]}"#);
}

#[test]
fn a_timeout_of_no_time_is_none_of_the_clients_own() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    c.execute(leader, &serde_json::json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT)"]));
    let (read, write) = (r#"["SELECT 1"]"#, r#"["UPDATE foo SET name = name"]"#);
    // C4, C6
    for timeout in ["0", "0s", "-1s", "-0h"] {
        for i in [leader, follower] {
            for (method, path, body) in [
                (Method::POST, "/db/execute?", write),
                (Method::GET, "/db/query?q=SELECT+1&", ""),
                (Method::POST, "/db/query?level=linearizable&", read),
                (Method::POST, "/db/query?level=linearizable&linearizable_timeout=-1s&", read),
                (Method::POST, "/db/query?level=strong&", read),
                (Method::POST, "/db/request?", write),
                (Method::POST, "/db/request?", read),
                (Method::GET, "/db/backup?", ""),
                (Method::GET, "/db/backup?fmt=sql&", ""),
                (Method::POST, "/db/load?", "UPDATE foo SET name = name"),
                (Method::GET, "/nodes?", ""),
                (Method::GET, "/readyz?", ""),
                (Method::GET, "/readyz?sync&", ""),
            ] {
                let path = format!("{path}timeout={timeout}");
                let answer = c.send(method, i, &path, &[], body.as_bytes());
                let text = String::from_utf8_lossy(&answer.body);
                assert_eq!(answer.status, 200, "{path}: {text}");
                assert!(!text.contains("error"), "{path}: {text}");
            }
        }
    }
}

#[test]
fn parameters_that_make_no_sense_are_refused_on_every_path() {
    let c = member();
    // C4
    for route in ROUTES {
        for (query, expected) in [
            ("timeout=5", "timeout is not a valid duration\n"),
            ("freshness=", "freshness is not a valid duration\n"),
            ("db_timeout=x", "db_timeout is not a valid duration\n"),
            ("linearizable_timeout=1y", "linearizable_timeout is not a valid duration\n"),
            ("retries=1.5", "retries is not a valid integer\n"),
            ("trailing_logs=x", "trailing_logs is not a valid integer\n"),
            ("freshness_strict", "freshness_strict requires freshness\n"),
            ("q=", "query parameter not set\n"),
            ("q=%f", "malformed query parameter %f\n"),
        ] {
            let path = format!("{}?pretty&{query}", route.path);
            let answer = c.send(route.methods[0].clone(), 0, &path, &[], b"");
            assert_eq!((answer.status, answer.text().as_str()), (400, expected), "{path}");
        }
    }
}

#[test]
fn who_removed_a_member_and_who_stepped_down() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let (follower, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let addresses = |c: &Cluster, i: usize| {
        (format!("127.0.0.1:{}", c.members[i].http), format!("127.0.0.1:{}", c.members[i].raft))
    };
    // C7, C9: through a follower it was the one that led.
    let wish = serde_json::json!({ "id": c.members[follower].name }).to_string();
    let json = [("content-type", "application/json")];
    let stepped = c.send(Method::POST, follower, "/leader", &json, wish.as_bytes());
    assert_eq!((stepped.status, stepped.header("x-rqlite-served-by")), (200, addresses(&c, leader).1));
    c.until("the new leader is known", |c| (c.await_leader(leader) == follower).then_some(()));
    let wish = serde_json::json!({ "id": c.members[leader].name }).to_string();
    let stepped = c.send(Method::POST, follower, "/leader", &json, wish.as_bytes());
    assert_eq!((stepped.status, stepped.header("x-rqlite-served-by")), (200, addresses(&c, follower).0));
    c.until("the new leader is known", |c| (c.await_leader(third) == leader).then_some(()));
    // E11: nobody in particular.
    for anybody in ["null", r#"{"id": null}"#, r#"{"id": ""}"#] {
        let before = c.await_leader(third);
        assert_eq!(
            c.send(Method::POST, before, "/leader", &json, anybody.as_bytes()).status,
            200,
            "{anybody}"
        );
        c.until("another one leads", |c| (c.await_leader(third) != before).then_some(()));
    }
    let back = serde_json::json!({ "id": c.members[leader].name }).to_string();
    if c.await_leader(third) != leader {
        assert_eq!(c.send(Method::POST, third, "/leader", &json, back.as_bytes()).status, 200);
        c.until("the first one leads again", |c| (c.await_leader(third) == leader).then_some(()));
    }
    let gone = serde_json::json!({ "id": c.members[follower].name }).to_string();
    let removed = c.send(Method::DELETE, third, "/remove", &[], gone.as_bytes());
    assert_eq!((removed.status, removed.header("x-rqlite-served-by")), (200, addresses(&c, leader).1));
    let gone = serde_json::json!({ "id": c.members[third].name }).to_string();
    let removed = c.send(Method::DELETE, leader, "/remove", &[], gone.as_bytes());
    assert_eq!((removed.status, removed.header("x-rqlite-served-by")), (200, addresses(&c, leader).0));
}

#[test]
fn forwarding_redirects_and_who_answered() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (0..3).find(|i| *i != leader).unwrap();
    let leader_http = format!("127.0.0.1:{}", c.members[leader].http);
    let leader_raft = format!("127.0.0.1:{}", c.members[leader].raft);
    c.execute(leader, &serde_json::json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT)"]));
    let insert = br#"["INSERT INTO foo(name) VALUES('a')"]"#;
    // C7, C9, B12
    for (path, body) in [
        ("/db/execute", &insert[..]),
        ("/db/query", br#"["SELECT * FROM foo"]"#),
        ("/db/request", br#"["INSERT INTO foo(name) VALUES('b')"]"#),
        ("/db/load", b"INSERT INTO foo(name) VALUES('c')"),
    ] {
        let here = c.send(Method::POST, leader, path, &[], body);
        assert_eq!((here.status, here.header("x-rqlite-served-by")), (200, leader_http.clone()), "{path}");
        let there = c.send(Method::POST, follower, path, &[], body);
        assert_eq!((there.status, there.header("x-rqlite-served-by")), (200, leader_raft.clone()), "{path}");
        let path = format!("{path}?redirect&pretty");
        let elsewhere = c.send(Method::POST, follower, &path, &[], body);
        assert_eq!(elsewhere.status, 301, "{path}");
        assert_eq!(elsewhere.header("location"), format!("http://{leader_http}{path}"));
        assert_eq!(c.send(Method::POST, leader, &path, &[], body).status, 200, "{path}");
    }
    // A queued write is answered before it goes anywhere.
    for i in [leader, follower] {
        for path in ["/db/execute?queue", "/db/execute?queue&wait"] {
            let own = format!("127.0.0.1:{}", c.members[i].http);
            let queued = c.send(Method::POST, i, path, &[], insert);
            assert_eq!((queued.status, queued.header("x-rqlite-served-by")), (200, own), "{path}");
        }
    }
    for (method, path) in [
        (Method::GET, "/db/backup?redirect"),
        (Method::POST, "/leader?redirect"),
        (Method::DELETE, "/remove?redirect"),
    ] {
        let answer = c.send(method, follower, path, &[], b"");
        assert_eq!((answer.status, answer.header("location")), (301, format!("http://{leader_http}{path}")));
    }
    assert_eq!(
        c.send(Method::POST, follower, "/db/query?redirect&level=none", &[], br#"["SELECT 1"]"#).status,
        200
    );

    // C8
    let other = (0..3).find(|i| *i != leader && *i != follower).unwrap();
    c.kill(leader);
    c.kill(other);
    c.await_no_leader(follower);
    for (path, body) in [
        ("/db/execute?timeout=100ms", &insert[..]),
        ("/db/query?timeout=100ms", br#"["SELECT 1"]"#),
        ("/db/query?timeout=100ms&level=strong", br#"["SELECT 1"]"#),
        ("/db/query?linearizable_timeout=100ms&level=linearizable", br#"["SELECT 1"]"#),
        ("/db/request?timeout=100ms", &insert[..]),
        ("/db/execute?queue", &insert[..]),
        ("/db/execute?redirect", &insert[..]),
        ("/db/load?timeout=100ms", &insert[..]),
        ("/leader", b""),
    ] {
        let answer = c.send(Method::POST, follower, path, &[], body);
        assert_eq!((answer.status, answer.text().as_str()), (503, "leader not found\n"), "{path}");
    }
    assert_eq!(c.get(follower, "/db/backup?timeout=100ms"), (503, "leader not found\n".into()));
    assert_eq!(c.get(follower, "/leader"), (503, "leader not found\n".into()));
    // What needs no leader goes on.
    assert_eq!(c.get(follower, "/db/query?level=none&q=SELECT+1").0, 200);
    assert_eq!(c.send(Method::GET, follower, "/db/backup?noleader", &[], b"").status, 200);
    assert_eq!(c.post(follower, "/db/execute?queue&noleader", "[\"UPDATE foo SET name = 'queued'\"]").0, 200);
}

#[test]
fn a_member_answers_before_it_is_of_a_cluster() {
    let mut c = Cluster::empty();
    let lonely =
        c.member("lonely", &["-join", "127.0.0.1:1", "-join-attempts", "1000", "-join-interval", "1s"]);
    c.start(lonely);
    c.await_listening(lonely);
    c.until("log and database are open", |c| (c.status(lonely, "store.open") == true).then_some(()));
    // C1, E12, E14
    assert_eq!(c.status(lonely, "store.ready"), serde_json::json!(false));
    assert_eq!(c.status(lonely, "store.leader"), serde_json::json!({"node_id": "", "addr": ""}));
    assert_eq!(c.get(lonely, "/readyz"), (503, "[+]node ok\n[+]leader does not exist".into()));
    assert_eq!(c.get(lonely, "/readyz?noleader"), (200, "[+]node ok".into()));
    // C8
    assert_eq!(c.get(lonely, "/db/query?timeout=100ms&q=SELECT+1"), (503, "leader not found\n".into()));
    assert_eq!(c.get(lonely, "/nodes"), (200, "{}".into()));
    assert_eq!(c.terminate(lonely), Some(0));
}

#[test]
fn other_origins_are_let_in_if_they_are_named() {
    let c = cluster_with(1, &["-http-allow-origin", "https://example.com"]);
    // C2
    for (method, path) in [(Method::OPTIONS, "/db/query"), (Method::GET, "/status"), (Method::GET, "/nope")] {
        let answer = c.send(method, 0, path, &[], b"");
        assert_eq!(answer.header("access-control-allow-origin"), "https://example.com", "{path}");
    }
}
