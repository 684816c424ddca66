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
            ("/db/backup", _) => (StatusCode::OK, "SQLite format 3"),
            ("/boot", _) => (StatusCode::BAD_REQUEST, "invalid SQLite data"),
            ("/snapshot", _) => (StatusCode::NO_CONTENT, ""),
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
        (".expvar http\n", "/debug/vars?key=http", "{\"results\":[{\"rows_affected\":1}]}\n"),
        (".extensions\n", "/status?key=extensions.names", "{\"results\":[{\"rows_affected\":1}]}\n"),
        (".snapshot 5\n", "/snapshot?trailing_logs=5", ""),
        (".changes on\n.snapshot\n", "/snapshot", "nothing to do\n"),
        (".reap\n", "/reap {}", "{\"results\":[{\"rows_affected\":1}]}\n"),
        (".changes on\nDELETE FROM t;\n", r#"/db/request?level=weak ["DELETE FROM t"]"#, "1 row changed\n"),
        (".forcewrites on\nSELECT 1;\n", r#"/db/execute?level=weak ["SELECT 1"]"#, "a\n1\n2\n"),
        (".blobarray on\nSELECT 1;\n", r#"/db/query?level=weak&blob_array= ["SELECT 1"]"#, "a\n1\n2\n"),
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

#[tokio::test]
async fn copies_and_files_go_through() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (copy, dump, system) = (path("copy.sqlite"), path("dump.sql"), path("system"));
    let text = format!(".backup {copy}\n.dump {dump} t,u\n.restore {copy}\n.sysdump {system}");
    let ran = run(&text).await;
    ran.outcome.unwrap();
    let backup = "/db/backup?fmt=sql&tables=t%2Cu";
    assert_eq!(ran.seen[..3], ["/db/backup", backup, "/db/load SQLite format 3"]);
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), "SQLite format 3");
    let said = std::fs::read_to_string(&system).unwrap();
    assert!(said.contains("/status\n") && said.contains("leader does not exist"), "{said}");
    let mut names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["copy.sqlite", "dump.sql", "system"]);
}

#[tokio::test]
async fn a_file_that_is_refused_or_not_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("no.sqlite");
    let error = run(&format!(".restore {}", path.display())).await.outcome.unwrap_err().explain();
    assert!(error.contains("no.sqlite: No such file"), "{error}");
    std::fs::write(&path, "nonsense").unwrap();
    let error = run(&format!(".boot {}", path.display())).await.outcome.unwrap_err().explain();
    assert!(error.contains("(400 Bad Request): invalid SQLite data"), "{error}");
}
