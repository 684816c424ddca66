//! The client port while log and database open.

use super::support::Cluster;
use reqwest::Method;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

/// What is asked on one connection, and its status and body.
fn ask(connection: &mut TcpStream, path: &str) -> (u16, String) {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect(&head);
    let mut body = vec![0; length.parse().unwrap()];
    connection.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), String::from_utf8(body).unwrap())
}

#[test]
fn a_member_answers_while_log_and_database_open() {
    let mut c = Cluster::empty();
    c.add_members(1, &[]);
    c.start(0);
    c.await_ready(0);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    assert_eq!(c.terminate(0), Some(0));
    // Reading it takes until the test writes to it.
    let held = c.members[0].dir.join("skipped.json");
    assert!(Command::new("mkfifo").arg(&held).status().unwrap().success());
    c.start(0);
    c.await_listening(0);
    let mut kept = TcpStream::connect(("127.0.0.1", c.members[0].http)).unwrap();
    kept.set_read_timeout(Some(super::support::PATIENCE)).unwrap();

    // C1, E12, E14
    assert_eq!(ask(&mut kept, "/readyz"), (503, "[+]node ok\n[+]leader does not exist".into()));
    assert_eq!(ask(&mut kept, "/readyz?noleader"), (200, "[+]node ok".into()));
    assert_eq!(ask(&mut kept, "/status?key=store"), (200, r#"{"open":false}"#.into()));
    for known in ["build.version", "os.pid", "runtime.GOOS", "http.bind_addr", "node.start_time"] {
        assert!(!c.status(0, known).is_object(), "{known}");
    }
    assert_eq!(c.status(0, "store.raft"), json!({}));
    assert_eq!(c.get(0, "/licenses").0, 200);
    // C1, C2, C4
    let options = c.send(Method::OPTIONS, 0, "/db/execute", &[], b"");
    assert!(options.status == 200 && !options.header("x-rqlite-version").is_empty());
    assert_eq!(c.get(0, "/unknown"), (404, String::new()));
    assert_eq!(c.get(0, "/db/execute"), (405, String::new()));
    assert_eq!(c.get(0, "/db/query?timeout=soon"), (400, "timeout is not a valid duration\n".into()));
    // C19, S3
    let not_open = (200, r#"{"results":[],"error":"store not open"}"#.to_owned());
    assert_eq!(c.get(0, "/db/query?timeout=10ms&q=SELECT+1"), not_open);
    assert_eq!(c.post(0, "/db/execute?timeout=10ms", r#"["DROP TABLE t"]"#), not_open);
    assert_eq!(c.post(0, "/db/request?timeout=10ms", r#"["DROP TABLE t"]"#), not_open);
    let (_, timed) = c.get(0, "/db/query?timeout=10ms&timings&q=SELECT+1");
    assert!(timed.starts_with(r#"{"results":[],"error":"store not open","time":"#), "{timed}");
    // C8
    let no_leader = (503, "leader not found\n".to_owned());
    assert_eq!(c.post(0, "/db/execute?queue&timeout=10ms", r#"["DROP TABLE t"]"#), no_leader);
    for path in ["/db/backup", "/nodes", "/leader", "/metrics"] {
        assert_eq!(c.get(0, &format!("{path}?timeout=10ms")), (503, "store not open\n".into()), "{path}");
    }
    let (status, refusal) = c.get(0, "/cluster?timeout=10ms");
    assert_eq!(
        (status, refusal),
        (503, r#"{"reason":"NoLeader","message":"store not open; try again"}"#.into())
    );

    // Who would wait for a leader waits for this.
    let door = c.door(0);
    let writing = std::thread::spawn(move || door.execute(&json!(["INSERT INTO t VALUES(1)"])));
    std::fs::write(&held, "[]").unwrap();
    writing.join().unwrap();
    c.await_ready(0);
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(1));
    // The connection of before is still there.
    let all = "[+]node ok\n[+]leader ok\n[+]store ok\n[+]db ok";
    assert_eq!(ask(&mut kept, "/readyz"), (200, all.into()));
    assert_eq!(ask(&mut kept, "/status?key=store.open"), (200, "true".into()));
}

#[test]
fn users_count_before_log_and_database_are_open() {
    let mut c = Cluster::empty();
    let users = c.root().join("users.json");
    std::fs::write(&users, r#"[{"username": "*", "perms": ["ready"]}]"#).unwrap();
    c.add_members(1, &["-auth", users.to_str().unwrap()]);
    std::fs::create_dir_all(&c.members[0].dir).unwrap();
    let held = c.members[0].dir.join("skipped.json");
    assert!(Command::new("mkfifo").arg(&held).status().unwrap().success());
    c.start(0);
    c.await_listening(0);
    // C1, C3
    for (path, expected) in [("/status", 401), ("/db/query?timeout=10ms&q=SELECT+1", 401), ("/readyz", 503)] {
        let answer = c.send(Method::GET, 0, path, &[], b"");
        assert_eq!(answer.status, expected, "{path}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"rqlite\"", "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), "true", "{path}");
    }
    // It may be told to end before it has begun.
    assert_eq!(c.terminate(0), Some(0));
}
