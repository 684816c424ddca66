//! Scripts against a server in this process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use axum::Router;

use axum::http::{StatusCode, Uri};
use cli::render::Mode;
use cli::session::Session;
use cli::{Output, ShellError, script};
use client::sql::{Database, DatabaseConfig};
use std::sync::{Arc, Mutex};

type Seen = Arc<Mutex<Vec<String>>>;

/// Answers what the statement begins with; keeps what it was asked.
async fn server() -> (String, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let handler = move |uri: Uri, body: String| {
        log.lock().unwrap().push(format!("{uri} {body}").trim_end().to_owned());
        let answer = match (uri.path(), body.as_str()) {
            ("/readyz", _) => (StatusCode::SERVICE_UNAVAILABLE, "[+]node ok\n[+]leader does not exist"),
            ("/nodes", _) => (StatusCode::OK, r#"{"nodes":[{"id":"n1","voter":true,"leader":true}]}"#),
            (_, body) if body.contains("SELECT") => {
                (StatusCode::OK, r#"{"results":[{"columns":["a"],"types":["integer"],"values":[[1],[2]]}]}"#)
            }
            (_, body) if body.contains("bad") => {
                (StatusCode::OK, r#"{"results":[{"error":"near \"bad\": syntax error"}]}"#)
            }
            _ => (StatusCode::OK, r#"{"results":[{"rows_affected":1}]}"#),
        };
        async move { answer }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, Router::new().fallback(handler)).await });
    (base, seen)
}

struct Ran {
    outcome: Result<(), ShellError>,
    output: String,
    seen: Vec<String>,
}

async fn run(text: &str) -> Ran {
    let (base, seen) = server().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("output");
    let database = Database::new(DatabaseConfig::new([base])).unwrap();
    let mut session = Session::new(database, Mode::Csv, false).writing_to(Output::file(&path).unwrap());
    let outcome = script::run(&mut session, text.as_bytes()).await;
    let output = std::fs::read_to_string(path).unwrap();
    let seen = seen.lock().unwrap().clone();
    Ran { outcome, output, seen }
}

#[tokio::test]
async fn reads_are_queries_and_everything_else_is_a_request() {
    let ran = run("SELECT\n 1; INSERT INTO t VALUES(1);\n.consistency strong\nSELECT 2").await;
    ran.outcome.unwrap();
    assert_eq!(
        ran.seen,
        [
            r#"/db/query?level=weak ["SELECT\n 1"]"#,
            r#"/db/request?level=weak ["INSERT INTO t VALUES(1)"]"#,
            r#"/db/query?level=strong ["SELECT 2"]"#,
        ]
    );
    assert_eq!(ran.output, "a\n1\n2\na\n1\n2\n");
}

#[tokio::test]
async fn the_first_failure_ends_a_script_and_names_its_line() {
    let ran = run("INSERT INTO t VALUES(1);\n\n bad;\nINSERT INTO t VALUES(2);\n").await;
    assert_eq!(ran.outcome.unwrap_err().explain(), "line 3: near \"bad\": syntax error");
    assert_eq!(ran.seen.len(), 2);
}

#[tokio::test]
async fn commands_ask_what_they_say() {
    for (text, seen, output) in [
        (
            ".nodes all\n",
            "/nodes?ver=2&nonvoters=",
            "id,api,raft,version,voter,leader,reachable,error\nn1,\"\",\"\",\"\",true,true,false,\n",
        ),
        (".status store.raft\n", "/status?pretty=&key=store.raft", "{\"results\":[{\"rows_affected\":1}]}\n"),
        (".remove n2\n", r#"/remove {"id":"n2"}"#, ""),
        (".stepdown\n", "/leader?wait= {}", ""),
        (".stepdown n2\n", r#"/leader?wait= {"id":"n2"}"#, ""),
    ] {
        let ran = run(text).await;
        ran.outcome.unwrap();
        assert_eq!(ran.seen, [seen], "{text}");
        assert_eq!(ran.output, output, "{text}");
    }
}

#[tokio::test]
async fn a_member_that_is_not_ready_is_a_failure() {
    let error = run(".ready\n").await.outcome.unwrap_err();
    assert_eq!(error.explain(), "line 1: not ready:\n[+]node ok\n[+]leader does not exist");
}

#[tokio::test]
async fn exit_ends_a_script() {
    let ran = run(".exit\nSELECT 1;").await;
    ran.outcome.unwrap();
    assert_eq!(ran.seen, Vec::<String>::new());
}

#[tokio::test]
async fn files_can_be_read_and_not_in_a_circle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sql");
    std::fs::write(&path, "SELECT 1;").unwrap();
    let ran = run(&format!(".read {}\nSELECT 2;", path.display())).await;
    ran.outcome.unwrap();
    assert_eq!(ran.seen.len(), 2);
    std::fs::write(&path, format!(".read {}", path.display())).unwrap();
    let error = run(&format!(".read {}", path.display())).await.outcome.unwrap_err();
    assert!(error.explain().contains("nested too deeply"), "{}", error.explain());
}

#[tokio::test]
async fn nobody_there_is_told_in_plain_words() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut session = Session::new(Database::new(DatabaseConfig::new([base])).unwrap(), Mode::Csv, false);
    let error = script::run(&mut session, "SELECT 1".as_bytes()).await.unwrap_err().explain();
    assert!(error.contains("no answer from http://127.0.0.1"), "{error}");
    assert!(error.contains("Is sqlited running there?"), "{error}");
}
