//! Large results, and the ports for probes and noise; the rest of the interface is in `contract/`.
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
fn probes_metrics_and_noise_on_every_port() {
    // B10
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
