//! `Database` against hosts that answer, redirect, break off, fall silent, or are not there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use client::sql::{Credentials, Database, DatabaseConfig, Level, RequestOptions, SqlError, Statement};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

/// A host in this process and the requests it got.
struct Host {
    base: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// One that answers every request with `answer`.
    async fn answering<A>(answer: A) -> Self
    where
        A: IntoResponse + Clone + Send + Sync + 'static,
    {
        let (listener, base) = listener().await;
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let log = seen.clone();
        let handler = move |uri: Uri, headers: HeaderMap, body: String| {
            let user = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
            log.lock().unwrap().push(format!("{uri} {body} {user}").trim_end().to_owned());
            let answer = answer.clone();
            async move { answer }
        };
        tokio::spawn(async { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { base, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    (listener, base)
}

/// A host that takes a connection and then closes it (or holds it) without an answer.
async fn mute(close: bool) -> String {
    let (listener, base) = listener().await;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            // Read the request, so that closing is no reset before it was sent.
            let _ = stream.readable().await;
            let _ = stream.try_read(&mut [0; 4096]);
            if !close {
                held.push(stream);
            }
        }
    });
    base
}

/// An address where nobody listens.
async fn nobody() -> String {
    listener().await.1
}

fn database(hosts: &[&str]) -> Database {
    let config =
        DatabaseConfig { request_timeout: Duration::from_secs(2), ..DatabaseConfig::new(hosts.to_vec()) };
    Database::new(config).unwrap()
}

const NO_OPTIONS: RequestOptions =
    RequestOptions { transaction: false, level: Level::Weak, timings: false, blob_array: false };
const DONE: &str = r#"{"results":[{"last_insert_id":1,"rows_affected":1}]}"#;

fn insert() -> [Statement; 1] {
    [Statement::new("INSERT INTO t VALUES(?)").bind(1)]
}

#[tokio::test]
async fn a_request_is_on_the_wire_as_rqlite_wants_it() {
    let host = Host::answering(DONE).await;
    let config = DatabaseConfig {
        credentials: Some(Credentials { user: "u".into(), password: "p".into() }),
        ..DatabaseConfig::new([host.base.as_str()])
    };
    let database = Database::new(config).unwrap();
    let options = RequestOptions { transaction: true, level: Level::Strong, ..RequestOptions::default() };
    database.request(&insert(), options).await.unwrap();
    let sent = r#"/db/request?level=strong&transaction= [["INSERT INTO t VALUES(?)",1]] Basic dTpw"#;
    assert_eq!(host.seen(), [sent]);
}

#[tokio::test]
async fn a_write_passes_over_who_is_not_there_and_remembers_who_is() {
    let (absent, host) = (nobody().await, Host::answering(DONE).await);
    let database = database(&[&absent, &host.base]);
    for _ in 0..2 {
        assert_eq!(database.execute(&insert(), NO_OPTIONS).await.unwrap().first_error(), None);
    }
    assert_eq!(host.seen().len(), 2);
}

#[tokio::test]
async fn nobody_there_is_an_error_that_names_all() {
    let (one, two) = (nobody().await, nobody().await);
    let error = database(&[&one, &two]).execute(&insert(), NO_OPTIONS).await.unwrap_err();
    assert!(
        matches!(&error, SqlError::Unreachable { tried, .. } if *tried == format!("{one}, {two}")),
        "{error}"
    );
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn a_write_without_an_answer_is_never_sent_again() {
    for close in [true, false] {
        let (broken, host) = (mute(close).await, Host::answering(DONE).await);
        let error = database(&[&broken, &host.base]).execute(&insert(), NO_OPTIONS).await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert_eq!(host.seen(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_read_without_an_answer_is_sent_to_the_next() {
    for close in [true, false] {
        let (broken, host) = (mute(close).await, Host::answering(r#"{"results":[]}"#).await);
        let database = database(&[&broken, &host.base]);
        for asked in 1..=2 {
            database.query(&["SELECT 1".into()], NO_OPTIONS).await.unwrap();
            // Who answered is asked first from then on.
            assert_eq!(host.seen(), [r#"/db/query?level=weak ["SELECT 1"]"#].repeat(asked));
        }
    }
}

#[tokio::test]
async fn a_read_that_takes_its_time_is_answered_by_whoever_is_first() {
    let late = async || {
        let (listener, base) = listener().await;
        let answer = async || {
            tokio::time::sleep(Duration::from_millis(1000)).await;
            r#"{"results":[]}"#
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        base
    };
    // Each is asked within the time, and none is given up.
    let (first, second) = (late().await, late().await);
    database(&[&first, &second]).query(&["SELECT 1".into()], NO_OPTIONS).await.unwrap();
}

#[tokio::test]
async fn a_redirect_is_followed_to_a_given_host_with_the_whole_request() {
    let leader = Host::answering(DONE).await;
    let location = format!("{}/db/execute", leader.base);
    let follower = Host::answering((StatusCode::MOVED_PERMANENTLY, [("location", location)])).await;
    database(&[&follower.base, &leader.base]).execute(&insert(), NO_OPTIONS).await.unwrap();
    assert_eq!(leader.seen(), follower.seen());
}

#[tokio::test]
async fn a_redirect_elsewhere_is_refused() {
    let stranger = Host::answering(DONE).await;
    let location = format!("{}/db/execute", stranger.base);
    let follower = Host::answering((StatusCode::MOVED_PERMANENTLY, [("location", location)])).await;
    let error = database(&[&follower.base]).execute(&insert(), NO_OPTIONS).await.unwrap_err();
    assert!(matches!(error, SqlError::ForeignRedirect { .. }), "{error}");
    assert_eq!(stranger.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let host = Host::answering((StatusCode::MOVED_PERMANENTLY, [("location", "/db/execute")])).await;
    let error = database(&[&host.base]).execute(&insert(), NO_OPTIONS).await.unwrap_err();
    assert!(matches!(error, SqlError::TooManyRedirects { .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_carries_the_members_words() {
    for (status, body, message) in [
        (StatusCode::SERVICE_UNAVAILABLE, "leader not found\n", "leader not found"),
        (StatusCode::UNAUTHORIZED, "", "Unauthorized"),
    ] {
        let host = Host::answering((status, body)).await;
        let error = database(&[&host.base]).execute(&insert(), NO_OPTIONS).await.unwrap_err();
        let text = format!("{} refused ({status}): {message}", host.base);
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn hosts_by_table() {
    for (hosts, valid) in [
        (vec!["http://localhost:4001"], true),
        (vec!["https://[::1]:4001/prefix"], true),
        (vec![], false),
        (vec!["localhost:4001"], false),
        (vec!["ftp://localhost"], false),
        (vec!["http://user:password@localhost"], false),
        (vec![""], false),
    ] {
        assert_eq!(Database::new(DatabaseConfig::new(hosts.clone())).is_ok(), valid, "{hosts:?}");
    }
}

#[tokio::test]
async fn transfers_pass_over_who_is_not_there() {
    let (absent, host) = (nobody().await, Host::answering(DONE).await);
    let database = database(&[&absent, &host.base]);
    let file = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let text = std::fs::read_to_string(file).unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let reply = database.upload("/db/load", file, sent.clone()).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, DONE));
    assert_eq!(sent.load(Ordering::Relaxed), text.len() as u64);
    let mut download = database.download("/db/backup", &[("fmt", "sql")]).await.unwrap();
    assert_eq!(download.next().await.unwrap().unwrap(), DONE);
    assert_eq!(download.next().await.unwrap(), None);
    let seen = host.seen();
    assert!(seen[0].starts_with("/db/load ") && seen[0].contains(text.trim_end()), "{seen:?}");
    assert!(seen[1].starts_with("/db/backup?fmt=sql"), "{seen:?}");
}
