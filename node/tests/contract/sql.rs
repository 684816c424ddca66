//! C10–C20, E1, E3, E4, E5: bodies of statements and what they answer.

use super::member;
use super::support::{Cluster, cluster};
use reqwest::Method;
use serde_json::{Value, json};

fn check(c: &Cluster, cases: &[(&str, &str, &str)]) {
    for (path, body, expected) in cases {
        assert_eq!(c.post(0, path, body), (200, (*expected).to_owned()), "{path} {body}");
    }
}

#[test]
fn bodies() {
    let c = member();
    // C10
    for (body, expected) in [
        ("", "invalid JSON body\n"),
        ("{", "invalid JSON body\n"),
        ("[\"SELECT", "invalid JSON body\n"),
        ("{}", "invalid request\n"),
        ("\"SELECT 1\"", "invalid request\n"),
        ("[7]", "invalid request\n"),
        ("[[]]", "invalid request\n"),
        ("[]", "no statements\n"),
        (r#"[["S", {"a": {}}]]"#, "unsupported type object\n"),
        (r#"[["S", ["x"]]]"#, "unsupported type array\n"),
        // Cut short, or text that is none: whatever it was to be.
        (r#"[["S", [1"#, "invalid JSON body\n"),
        (r#"[["S", {"a":{"#, "invalid JSON body\n"),
        (r#"["PRAGMA journal_mode=x""#, "invalid JSON body\n"),
        (r#"["\ud800"]"#, "invalid JSON body\n"),
    ] {
        for path in ["/db/execute", "/db/query", "/db/request", "/db/sql"] {
            assert_eq!(c.post(0, path, body), (400, expected.to_owned()), "{path} {body}");
        }
    }
    let typed = r#"{"results":[{"columns":["typeof(?)","hex(?)"],"types":["text","text"],"values":[["blob","00FF"]]}]}"#;
    check(
        &c,
        &[
            ("/db/query", r#"[["SELECT typeof(?), hex(?)", [0, 255], "x'00ff'"]]"#, typed),
            ("/db/query", r#"[["SELECT typeof(?), hex(?)", " X'00ff' ", [0, 255]]]"#, typed),
            (
                "/db/query",
                r#"[["SELECT ? AS d, :a AS a, $b AS b, @c AS c", 9223372036854775807, {"a": null, "b": true, "c": 1.5}]]"#,
                r#"{"results":[{"columns":["d","a","b","c"],"types":["integer","","integer","real"],"values":[[9223372036854775807,null,1,1.5]]}]}"#,
            ),
            ("/db/execute", r#"["", "UPDATE foo SET id = 1 WHERE 0", "  "]"#, r#"{"results":[{}]}"#),
            ("/db/execute", r#"["", " "]"#, r#"{"results":[]}"#),
            (
                "/db/query",
                r#"[["SELECT typeof(?), typeof(?)", -0, -0.0]]"#,
                r#"{"results":[{"columns":["typeof(?)","typeof(?)"],"types":["text","text"],"values":[["integer","real"]]}]}"#,
            ),
        ],
    );
    let no_text = b"[\"SELECT '\xff'\"]";
    for path in ["/db/execute", "/db/query", "/db/request", "/db/sql"] {
        let answer = c.send(Method::POST, 0, path, &[], no_text);
        assert_eq!((answer.status, answer.text().as_str()), (400, "invalid JSON body\n"), "{path}");
    }
    let text = [("content-type", "text/plain; charset=utf-8")];
    let answer = c.send(Method::POST, 0, "/db/query", &text, b"SELECT 1 AS n");
    assert_eq!(answer.text(), r#"{"results":[{"columns":["n"],"types":["integer"],"values":[[1]]}]}"#);
    let answer = c.send(Method::POST, 0, "/db/execute", &text, b"INSERT INTO foo(name) VALUES('text')");
    assert_eq!(answer.text(), r#"{"results":[{"last_insert_id":1,"rows_affected":1}]}"#);
    // Only these two take text; browsers call the JSON of all others so too.
    for path in ["/db/request", "/db/sql"] {
        assert_eq!(c.send(Method::POST, 0, path, &text, b"SELECT 1").text(), "invalid JSON body\n", "{path}");
        assert_eq!(c.send(Method::POST, 0, path, &text, b"[\"SELECT 1\"]").status, 200, "{path}");
    }
    let odd = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(c.send(Method::POST, 0, "/db/query", &odd, b"[\"SELECT 1\"]").status, 200);
}

#[test]
fn entries() {
    let c = cluster(1);
    check(
        &c,
        &[
            // C13
            (
                "/db/execute",
                r#"["CREATE TABLE foo(id INTEGER PRIMARY KEY, name VARCHAR(64) UNIQUE, r REAL, ok BOOLEAN, at DATETIME, b BLOB)"]"#,
                r#"{"results":[{}]}"#,
            ),
            (
                "/db/execute",
                r#"["INSERT INTO foo(name, r, ok) VALUES('a', 2.0, 1)"]"#,
                r#"{"results":[{"last_insert_id":1,"rows_affected":1}]}"#,
            ),
            (
                "/db/execute",
                r#"["CREATE TABLE bar(x)"]"#,
                r#"{"results":[{"last_insert_id":1,"rows_affected":1}]}"#,
            ),
            (
                "/db/execute?associative",
                r#"["UPDATE foo SET r = 0.1 WHERE 0"]"#,
                r#"{"results":[{"last_insert_id":1,"rows":null}]}"#,
            ),
            // C11
            (
                "/db/execute",
                r#"[["INSERT INTO bar VALUES(?); INSERT INTO bar VALUES(?)", 1, 2]]"#,
                r#"{"results":[{"last_insert_id":2,"rows_affected":1}]}"#,
            ),
            (
                "/db/query",
                r#"[["SELECT 1; SELECT ? AS x", 7]]"#,
                r#"{"results":[{"columns":["x"],"types":["integer"],"values":[[7]]}]}"#,
            ),
            (
                "/db/query",
                r#"[["SELECT ?, ?", 7]]"#,
                r#"{"results":[{"error":"not enough args to execute query: want 2 got 1"}]}"#,
            ),
            // C14
            (
                "/db/query",
                r#"["SELECT id, name FROM foo WHERE 0"]"#,
                r#"{"results":[{"columns":["id","name"],"types":["integer","varchar(64)"]}]}"#,
            ),
            (
                "/db/query?associative",
                r#"["SELECT name, id FROM foo", "SELECT id FROM foo WHERE 0"]"#,
                r#"{"results":[{"types":{"id":"integer","name":"varchar(64)"},"rows":[{"id":1,"name":"a"}]},{"types":{"id":"integer"},"rows":[]}]}"#,
            ),
            // C15
            (
                "/db/query",
                r#"["SELECT * FROM nowhere"]"#,
                r#"{"results":[{"error":"no such table: nowhere"}]}"#,
            ),
            ("/db/execute", r#"["blah"]"#, r#"{"results":[{"error":"near \"blah\": syntax error"}]}"#),
            (
                "/db/execute",
                r#"["INSERT INTO foo(name) VALUES('a')"]"#,
                r#"{"results":[{"error":"UNIQUE constraint failed: foo.name"}]}"#,
            ),
            (
                "/db/query",
                r#"["DELETE FROM foo"]"#,
                r#"{"results":[{"error":"attempt to change database via query operation"}]}"#,
            ),
            (
                "/db/query?associative",
                r#"["SELECT x"]"#,
                r#"{"results":[{"rows":[],"error":"no such column: x"}]}"#,
            ),
            // Of /db/request whichever way its statements take.
            (
                "/db/request?associative",
                r#"["SELECT abs(-9223372036854775808)"]"#,
                r#"{"results":[{"error":"integer overflow"}]}"#,
            ),
            (
                "/db/query?associative",
                r#"["SELECT abs(-9223372036854775808)"]"#,
                r#"{"results":[{"rows":[],"error":"integer overflow"}]}"#,
            ),
            (
                "/db/request?associative",
                r#"["UPDATE bar SET x = x WHERE 0", "SELECT x FROM nowhere"]"#,
                r#"{"results":[{"last_insert_id":2,"rows":null},{"error":"no such table: nowhere"}]}"#,
            ),
            (
                "/db/query?db_timeout=20ms",
                r#"["WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c"]"#,
                r#"{"results":[{"error":"query timeout"}]}"#,
            ),
            // C16
            (
                "/db/execute",
                r#"["INSERT INTO foo(name) VALUES('b') RETURNING id, name"]"#,
                r#"{"results":[{"columns":["id","name"],"types":["integer","varchar(64)"],"values":[[2,"b"]]}]}"#,
            ),
            (
                "/db/request",
                r#"["UPDATE foo SET name = 'c' WHERE id = 2 RETURNING name"]"#,
                r#"{"results":[{"columns":["name"],"types":["varchar(64)"],"values":[["c"]]}]}"#,
            ),
            // C17
            (
                "/db/query",
                r#"["SELECT 1 AS i, 1.0 AS r, 1.5e-7 AS s, 'x' AS t, NULL AS n, x'00ff' AS b, 9223372036854775807 AS m"]"#,
                r#"{"results":[{"columns":["i","r","s","t","n","b","m"],"types":["integer","real","real","text","","blob","integer"],"values":[[1,1,1.5e-7,"x",null,"AP8=",9223372036854775807]]}]}"#,
            ),
            (
                "/db/query?blob_array",
                r#"["SELECT x'00ff' AS b"]"#,
                r#"{"results":[{"columns":["b"],"types":["blob"],"values":[[[0,255]]]}]}"#,
            ),
            (
                "/db/query",
                r#"["SELECT ok FROM foo WHERE id = 1"]"#,
                r#"{"results":[{"columns":["ok"],"types":["boolean"],"values":[[true]]}]}"#,
            ),
            (
                "/db/request",
                r#"["UPDATE foo SET at = '2024-01-02 03:04:05.25' WHERE id = 1", "SELECT at FROM foo WHERE id = 1", "UPDATE foo SET at = 0 WHERE id = 1", "SELECT at FROM foo WHERE id = 1"]"#,
                r#"{"results":[{"last_insert_id":2,"rows_affected":1},{"columns":["at"],"types":["datetime"],"values":[["2024-01-02T03:04:05.25Z"]]},{"last_insert_id":2,"rows_affected":1},{"columns":["at"],"types":["datetime"],"values":[["1970-01-01T00:00:00Z"]]}]}"#,
            ),
            // C18
            (
                "/db/execute?transaction",
                r#"["INSERT INTO bar VALUES(9)", "nonsense", "INSERT INTO bar VALUES(10)"]"#,
                r#"{"results":[{"last_insert_id":3,"rows_affected":1},{"error":"near \"nonsense\": syntax error"}]}"#,
            ),
            (
                "/db/query",
                r#"["SELECT count(*) AS n FROM bar"]"#,
                r#"{"results":[{"columns":["n"],"types":["integer"],"values":[[2]]}]}"#,
            ),
            (
                "/db/execute",
                r#"["nonsense", "INSERT INTO bar VALUES(10)"]"#,
                r#"{"results":[{"error":"near \"nonsense\": syntax error"},{"last_insert_id":3,"rows_affected":1}]}"#,
            ),
            // C19
            (
                "/db/execute",
                r#"["PRAGMA journal_mode=DELETE"]"#,
                r#"{"results":[],"error":"disallowed pragma"}"#,
            ),
            (
                "/db/query",
                r#"["SELECT 1", "PRAGMA wal_checkpoint"]"#,
                r#"{"results":[],"error":"disallowed pragma"}"#,
            ),
            // E3
            (
                "/db/query?qualify_columns",
                r#"["SELECT id FROM foo WHERE 0"]"#,
                r#"{"results":[{"columns":["foo.id"],"types":["integer"]}]}"#,
            ),
            // E1: what rewriting there would be to switch off is accepted.
            (
                "/db/execute?noparse&norwrandom&norwtime",
                r#"["DELETE FROM bar"]"#,
                r#"{"results":[{"last_insert_id":3,"rows_affected":3}]}"#,
            ),
            // E4
            (
                "/db/request",
                r#"["SELECT count(*) AS n FROM bar", "INSERT INTO bar VALUES(1)", "SELECT x FROM bar"]"#,
                r#"{"results":[{"columns":["n"],"types":["integer"],"values":[[0]]},{"last_insert_id":1,"rows_affected":1},{"columns":["x"],"types":["integer"],"values":[[1]]}]}"#,
            ),
        ],
    );
    // C16: EXPLAIN of a write is a read.
    let (status, plan) = c.post(0, "/db/query", r#"["EXPLAIN QUERY PLAN DELETE FROM foo"]"#);
    assert!(
        status == 200 && plan.contains("\"columns\":[\"id\",\"parent\",\"notused\",\"detail\"]"),
        "{plan}"
    );
    // C12
    let (_, body) = c.post(0, "/db/execute?timings&raft_index", r#"["INSERT INTO bar VALUES(1)"]"#);
    let at: Vec<usize> =
        ["\"results\"", "\"time\":", "\"raft_index\""].iter().map(|k| body.rfind(k).unwrap()).collect();
    assert!(at.is_sorted(), "{body}");
    let index = serde_json::from_str::<Value>(&body).unwrap()["raft_index"].as_u64().unwrap();
    assert!(index > 1);
    let (_, weak) = c.get(0, "/db/query?q=SELECT+1&raft_index");
    assert!(!weak.contains("raft_index"), "{weak}");
    let (_, strong) = c.get(0, "/db/query?q=SELECT+1&raft_index&level=strong");
    let strong: Value = serde_json::from_str(&strong).unwrap();
    assert!(strong["raft_index"].as_u64().unwrap() > index);
    // E3
    assert_eq!(c.get(0, "/db/query"), (200, r#"{"results":[]}"#.into()));
    for level in ["none", "weak", "linearizable", "strong", "auto", "STRONG", "whatever"] {
        assert_eq!(c.value(0, "SELECT count(*) FROM bar", level), json!(2), "{level}");
    }
    // E5
    check(
        &c,
        &[
            (
                "/db/sql",
                r#"["SELECT random()", ["INSERT INTO bar VALUES(?)", 1]]"#,
                r#"{"results":[{"original":"SELECT random()"},{"original":"INSERT INTO bar VALUES(?)"}]}"#,
            ),
            (
                "/db/sql",
                r#"["PRAGMA journal_mode=DELETE", "PRAGMA wal_checkpoint"]"#,
                r#"{"results":[{"original":"PRAGMA journal_mode=DELETE"},{"original":"PRAGMA wal_checkpoint"}]}"#,
            ),
        ],
    );
    let shown = c.get(0, "/db/sql?q=PRAGMA+synchronous%3D0");
    assert_eq!(shown, (200, r#"{"results":[{"original":"PRAGMA synchronous=0"}]}"#.into()));
    assert_eq!(c.get(0, "/db/sql?q=SELECT+1"), (200, r#"{"results":[{"original":"SELECT 1"}]}"#.into()));
    assert_eq!(c.get(0, "/db/sql"), (400, "query not specified\n".into()));
    assert_eq!(c.value(0, "SELECT count(*) FROM bar", "weak"), json!(2));
}

/// The keys on top of an answer, in order.
fn keys(body: &str) -> Vec<String> {
    let answer: serde_json::Map<String, Value> = serde_json::from_str(body).unwrap();
    // The last of those that have the name: results come first, and may have it too.
    let mut keys: Vec<_> =
        answer.keys().map(|key| (body.rfind(&format!("\"{key}\":")).unwrap(), key.clone())).collect();
    keys.sort();
    keys.into_iter().map(|(_, key)| key).collect()
}

#[test]
fn whatever_is_answered_in_json_says_its_time() {
    let c = member();
    let insert = r#"["INSERT INTO foo(b) VALUES(1)"]"#;
    // C12, E2, E3
    for (method, path, body, expected) in [
        (Method::POST, "/db/execute?", insert, &["results"][..]),
        (Method::POST, "/db/execute?raft_index&", insert, &["results", "raft_index"]),
        (Method::POST, "/db/execute?queue&", insert, &["results", "sequence_number"]),
        (Method::POST, "/db/execute?queue&wait&raft_index&", "[]", &["results", "sequence_number"]),
        (Method::GET, "/db/query?q=SELECT+1&", "", &["results"]),
        (Method::GET, "/db/query?", "", &["results"]),
        (Method::POST, "/db/sql?raft_index&", insert, &["results"]),
        // C19
        (Method::POST, "/db/execute?", r#"["PRAGMA synchronous=0"]"#, &["results", "error"]),
        (Method::POST, "/db/execute?queue&", r#"["PRAGMA synchronous=0"]"#, &["results", "error"]),
        (Method::POST, "/db/query?level=strong&", r#"["PRAGMA query_only=0"]"#, &["results", "error"]),
        (Method::POST, "/db/request?", r#"["PRAGMA journal_mode=x"]"#, &["results", "error"]),
    ] {
        for timed in [false, true] {
            let path = format!("{path}{}", if timed { "timings" } else { "pretty" });
            let answer = c.send(method.clone(), 0, &path, &[], body.as_bytes());
            let mut expected = expected.to_vec();
            if timed {
                let at = 1 + usize::from(expected.contains(&"error"));
                expected.insert(at, "time");
            }
            assert_eq!(
                (answer.status, keys(&answer.text())),
                (200, expected.into_iter().map(str::to_owned).collect()),
                "{path} {body}"
            );
        }
    }
}

#[test]
fn each_result_says_its_time() {
    let c = member();
    let body = r#"["INSERT INTO foo(name) VALUES('a')", "nonsense", "UPDATE foo SET name = 'b' RETURNING name", "SELECT 1 AS n"]"#;
    let error = json!({"error": "near \"nonsense\": syntax error"});
    // C13, C14
    for path in ["/db/execute", "/db/request"] {
        let (status, answer) = c.post(0, &format!("{path}?timings"), body);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((status, &answer["results"][1]), (200, &error), "{path}: {answer}");
        for at in [0, 2, 3] {
            assert!(answer["results"][at]["time"].as_f64().unwrap() > 0.0, "{path}: {answer}");
        }
        c.execute(0, &json!(["DELETE FROM foo"]));
    }
    // In this order.
    let insert = r#"["INSERT INTO foo(name) VALUES('a')"]"#;
    for path in ["/db/execute?associative&timings", "/db/request?timings&associative"] {
        let (_, answer) = c.post(0, path, insert);
        let entry = answer.strip_prefix(r#"{"results":[{"last_insert_id":1,"rows_affected":1,"time":"#);
        let (time, rest) = entry.unwrap_or_else(|| panic!("{answer}")).split_once(',').unwrap();
        assert!(time.parse::<f64>().is_ok() && rest.starts_with(r#""rows":null}],"time":"#), "{answer}");
        c.execute(0, &json!(["DELETE FROM foo"]));
    }
}

#[test]
fn a_transaction_of_reads_ends_with_the_first_error() {
    let c = member();
    let body = r#"["SELECT 1 AS n", "SELECT nope", "SELECT 2 AS n"]"#;
    let one = r#"{"columns":["n"],"types":["integer"],"values":[[1]]}"#;
    let two = r#"{"columns":["n"],"types":["integer"],"values":[[2]]}"#;
    let error = r#"{"error":"no such column: nope"}"#;
    // C18
    for level in ["none", "weak", "linearizable", "strong"] {
        check(
            &c,
            &[
                (
                    &format!("/db/query?transaction&level={level}"),
                    body,
                    &format!(r#"{{"results":[{one},{error}]}}"#),
                ),
                (
                    &format!("/db/query?level={level}"),
                    body,
                    &format!(r#"{{"results":[{one},{error},{two}]}}"#),
                ),
            ],
        );
    }
}

#[test]
fn a_list_is_one_entry() {
    let c = member();
    // C20
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let door = c.door(0);
            std::thread::spawn(move || {
                for n in 0..25 {
                    let names: Vec<String> =
                        (0..5).map(|i| format!("INSERT INTO foo(name) VALUES('{w}-{n}-{i}')")).collect();
                    door.execute(&json!(names));
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    let (_, body) = c.get(0, "/db/query?q=SELECT+name+FROM+foo+ORDER+BY+id");
    let rows: Value = serde_json::from_str(&body).unwrap();
    let names: Vec<&str> =
        rows["results"][0]["values"].as_array().unwrap().iter().map(|r| r[0].as_str().unwrap()).collect();
    assert_eq!(names.len(), 500);
    for group in names.chunks(5) {
        let of = |name: &str| name.rsplit_once('-').unwrap().0.to_owned();
        assert!(group.iter().all(|name| of(name) == of(group[0])), "{group:?}");
    }
}

#[test]
fn what_only_reads_is_read_at_every_level() {
    let c = member();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
    // E3, E4
    for path in ["/db/query", "/db/request"] {
        for level in ["none", "weak", "linearizable", "strong", "auto"] {
            let ask = |rest: &str, sql: &str| {
                let path = format!("{path}?level={level}{rest}");
                let (status, body) = c.post(0, &path, &json!([sql]).to_string());
                assert_eq!(status, 200, "{path} {sql}: {body}");
                serde_json::from_str::<Value>(&body).unwrap()["results"][0].take()
            };
            // What tells of one member is for who reads: only what all of them execute may not depend on it.
            for sql in [
                "PRAGMA integrity_check",
                "PRAGMA database_list",
                "SELECT sqlite_version()",
                "SELECT count(*) FROM dbstat",
            ] {
                let result = ask("", sql);
                assert!(!result["values"][0][0].is_null(), "{path} {level} {sql}: {result}");
            }
            let bounded = ask("&db_max_rows=1", "VALUES(1), (2)");
            assert_eq!(bounded["error"], "the result has more than 1 rows (db_max_rows)", "{path} {level}");
            assert_eq!(ask("&db_timeout=20ms", endless), json!({"error": "query timeout"}), "{path} {level}");
        }
    }
}

#[test]
fn what_only_reads_stays_out_of_the_log() {
    let c = member();
    let log = |c: &Cluster| c.status(0, "store.raft.last_log_index").as_u64().unwrap();
    let before = log(&c);
    // E4
    for level in ["none", "weak", "linearizable", "auto"] {
        let path = format!("/db/request?raft_index&level={level}");
        let (status, body) = c.post(0, &path, r#"["SELECT count(*) AS n FROM foo"]"#);
        let expected = r#"{"results":[{"columns":["n"],"types":["integer"],"values":[[0]]}]}"#;
        assert_eq!((status, body.as_str()), (200, expected), "{level}");
    }
    assert_eq!(log(&c), before);
    for body in
        [r#"["SELECT 1", "UPDATE foo SET name = name"]"#, r#"["UPDATE foo SET name = name RETURNING id"]"#]
    {
        assert!(c.post(0, "/db/request?raft_index", body).1.contains("\"raft_index\":"), "{body}");
    }
    assert_eq!(log(&c), before + 2);
    // E5
    let (status, body) = c.post(0, "/db/sql?timings&pretty", r#"["DELETE FROM foo"]"#);
    let sql: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &sql["results"][0]["original"]), (200, &json!("DELETE FROM foo")));
    assert!(sql["time"].is_number() && body.starts_with("{\n    \"results\""), "{body}");
    assert_eq!(log(&c), before + 2);
}
