//! The HTTP interface on one member, by table: (method, path, body) → (status, body).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use support::{Cluster, cluster};

fn member() -> Cluster {
    let c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY, name TEXT UNIQUE, at DATETIME, b BLOB)"]));
    c
}

#[test]
fn requests_that_make_no_sense() {
    let c = member();
    for (path, body, expected) in [
        ("/db/execute", "", (400, "invalid JSON body\n")),
        ("/db/execute", "{", (400, "invalid JSON body\n")),
        ("/db/execute", "{}", (400, "invalid request\n")),
        ("/db/execute", "[]", (400, "no statements\n")),
        ("/db/execute", "[7]", (400, "invalid request\n")),
        ("/db/execute", r#"[["S", {"a": {}}]]"#, (400, "unsupported type object\n")),
        ("/db/execute?timeout=5", "[\"S\"]", (400, "timeout is not a valid duration\n")),
        ("/db/execute?retries=x", "[\"S\"]", (400, "retries is not a valid integer\n")),
        ("/db/query?freshness_strict", "[\"SELECT 1\"]", (400, "freshness_strict requires freshness\n")),
        ("/db/query?q=%zz", "[\"SELECT 1\"]", (400, "malformed query parameter %zz\n")),
        ("/nope", "", (404, "")),
        ("/status", "", (405, "")),
        ("/cluster/voters", "{\"ad\": 1}", (400, "")),
    ] {
        let (status, text) = c.post(0, path, body);
        let wanted = if path.starts_with("/cluster") { text.clone() } else { expected.1.to_owned() };
        assert_eq!((status, text), (expected.0, wanted), "{path} {body}");
    }
    assert_eq!(c.get(0, "/db/execute"), (405, String::new()));
    assert_eq!(c.get(0, "/db/query?q="), (400, "query parameter not set\n".into()));
    assert_eq!(c.get(0, "/db/query"), (200, r#"{"results":[]}"#.into()));
}

#[test]
fn what_sql_answers() {
    let c = member();
    for (path, body, expected) in [
        (
            "/db/execute",
            r#"[["INSERT INTO foo(name) VALUES(?)", "a"]]"#,
            r#"{"results":[{"last_insert_id":1,"rows_affected":1}]}"#,
        ),
        (
            "/db/execute",
            r#"["INSERT INTO foo(name) VALUES('a')"]"#,
            r#"{"results":[{"error":"UNIQUE constraint failed: foo.name"}]}"#,
        ),
        ("/db/execute", r#"["INSERT blah"]"#, r#"{"results":[{"error":"near \"blah\": syntax error"}]}"#),
        (
            "/db/execute?transaction",
            r#"["INSERT INTO foo(name) VALUES('b')", "nonsense"]"#,
            r#"{"results":[{"last_insert_id":2,"rows_affected":1},{"error":"near \"nonsense\": syntax error"}]}"#,
        ),
        (
            "/db/query",
            r#"["SELECT count(*) AS n FROM foo"]"#,
            r#"{"results":[{"columns":["n"],"types":["integer"],"values":[[1]]}]}"#,
        ),
        (
            "/db/query?level=whatever",
            r#"["SELECT name FROM foo WHERE 0"]"#,
            r#"{"results":[{"columns":["name"],"types":["text"]}]}"#,
        ),
        (
            "/db/query",
            r#"["DELETE FROM foo"]"#,
            r#"{"results":[{"error":"attempt to change database via query operation"}]}"#,
        ),
        ("/db/query", r#"["SELECT * FROM nowhere"]"#, r#"{"results":[{"error":"no such table: nowhere"}]}"#),
        (
            "/db/query?associative",
            r#"["SELECT name, id FROM foo", "SELECT x"]"#,
            r#"{"results":[{"types":{"id":"integer","name":"text"},"rows":[{"id":1,"name":"a"}]},{"rows":[],"error":"no such column: x"}]}"#,
        ),
        (
            "/db/request",
            r#"["SELECT id FROM foo", "UPDATE foo SET name = 'c'"]"#,
            r#"{"results":[{"columns":["id"],"types":["integer"],"values":[[1]]},{"last_insert_id":2,"rows_affected":1}]}"#,
        ),
        (
            "/db/request",
            r#"[["UPDATE foo SET b = x'00ff', at = '2024-01-02 03:04:05' RETURNING b, at"]]"#,
            r#"{"results":[{"columns":["b","at"],"types":["blob","datetime"],"values":[["AP8=","2024-01-02T03:04:05Z"]]}]}"#,
        ),
        (
            "/db/query?blob_array",
            r#"["SELECT b FROM foo"]"#,
            r#"{"results":[{"columns":["b"],"types":["blob"],"values":[[[0,255]]]}]}"#,
        ),
        ("/db/execute", r#"["PRAGMA journal_mode=DELETE"]"#, r#"{"results":[],"error":"disallowed pragma"}"#),
        (
            "/db/query?qualify_columns",
            r#"["SELECT id FROM foo"]"#,
            r#"{"results":[{"columns":["foo.id"],"types":["integer"],"values":[[1]]}]}"#,
        ),
        (
            "/db/query?db_timeout=20ms",
            r#"["WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c"]"#,
            r#"{"results":[{"error":"query timeout"}]}"#,
        ),
    ] {
        assert_eq!(c.post(0, path, body), (200, expected.to_owned()), "{path} {body}");
    }
}

#[test]
fn timings_index_and_indentation_are_there_when_asked_for() {
    let c = member();
    let (_, body) = c.post(0, "/db/execute?timings&raft_index", r#"["INSERT INTO foo(name) VALUES('a')"]"#);
    let keys: Vec<usize> =
        ["results", "\"time\":", "raft_index"].iter().map(|k| body.find(k).unwrap()).collect();
    assert!(keys.is_sorted(), "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert!(
        answer["results"][0]["time"].as_f64().unwrap() > 0.0 && answer["raft_index"].as_u64().unwrap() > 1
    );
    let (_, body) = c.get(0, "/db/query?q=SELECT+1+AS+n&pretty&level=strong&raft_index");
    assert!(body.starts_with("{\n    \"results\": [\n") && body.contains("\"raft_index\": "), "{body}");
}

#[test]
fn a_large_result_is_streamed_whole() {
    let c = member();
    let rows =
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 200000) SELECT x, 'row' FROM c";
    for pretty in ["", "&pretty"] {
        let url = reqwest::Url::parse_with_params(&c.url(0, "/db/query"), [("q", rows)]).unwrap();
        let (status, body) = c.get(0, &format!("/db/query?{}{pretty}", url.query().unwrap()));
        let answer: Value = serde_json::from_str(&body).unwrap();
        let values = answer["results"][0]["values"].as_array().unwrap();
        assert_eq!((status, values.len(), &values[199_999]), (200, 200_000, &json!([200_000, "row"])));
    }
}

#[test]
fn every_answer_has_the_headers_clients_look_for() {
    let c = member();
    let http = reqwest::blocking::Client::new();
    let answer = http.get(c.url(0, "/db/query?q=SELECT+1")).send().unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert!(header("x-rqlite-version").starts_with('v'));
    assert_eq!(header("x-rqlite-served-by"), format!("127.0.0.1:{}", c.members[0].http));
    assert_eq!(header("content-type"), "application/json; charset=utf-8");
    let options = http.request(reqwest::Method::OPTIONS, c.url(0, "/anything")).send().unwrap();
    assert_eq!(options.status().as_u16(), 200);
    assert_eq!(options.headers()["access-control-allow-methods"], "OPTIONS, GET, POST");
}

#[test]
fn probes_metrics_and_noise_on_every_port() {
    use std::io::{Read as _, Write as _};
    let mut c = member();
    let health = format!("http://127.0.0.1:{}", c.members[0].health);
    for path in ["/started", "/ready", "/live"] {
        assert!(reqwest::blocking::get(format!("{health}{path}")).unwrap().status().is_success(), "{path}");
    }
    let metrics = reqwest::blocking::get(format!("{health}/metrics")).unwrap().text().unwrap();
    for name in [
        "sqlited_raft_leader 1",
        "sqlited_raft_applied_index ",
        "sqlited_http_requests_total{code=\"200\"}",
        "# EOF",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    let noise: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n",
        &[0x16, 3, 1, 0xff, 0xff, 1],
        &[0xff; 64],
        b"SQLITED\x01\xff\xff\xff\x7f",
    ];
    for port in [c.members[0].http, c.members[0].raft, c.members[0].health] {
        for bytes in noise {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
            // Whatever it answers, it hangs up, perhaps before everything was said.
            drop(stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write)));
            drop(stream.read_to_end(&mut Vec::new()));
        }
    }
    c.await_ready(0);
    c.execute(0, &json!(["INSERT INTO foo(name) VALUES('still here')"]));
}
