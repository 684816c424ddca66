//! Numbers and traces pushed to a collector, by members as real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::certificates::Authority;
use support::collector::{Collector, Reply, Seen, text};
use support::{Cluster, cluster_with, free_ports};
use tempfile::TempDir;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn pushing(n: usize, collector: &Collector, more: &[&str]) -> Cluster {
    let endpoint = format!("127.0.0.1:{}", collector.port);
    let flags = ["-otlp-endpoint", &endpoint, "-otlp-interval", "300ms"];
    cluster_with(n, &[&flags[..], more].concat())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes at a member as part of a client's trace.
fn write_traced(c: &Cluster, i: usize, flags: &str) -> u16 {
    let traceparent = format!("00-{TRACE}-{SPAN}-{flags}");
    let body = json!(["INSERT INTO t VALUES('secret')"]).to_string();
    let headers = [("traceparent", traceparent.as_str()), ("tracestate", "congo=t61rcWkgMzE, rojo=1")];
    c.send(Method::POST, i, "/db/execute", &headers, body.as_bytes()).status
}

#[test]
fn the_numbers_of_metrics_and_the_spans_of_two_members_arrive() {
    // E14: otlp_metrics
    let collector = Collector::start(0, None);
    // Users are asked for: what is forwarded names whom it is for, and its span.
    let directory = TempDir::new().unwrap();
    let users = directory.path().join("users.json");
    std::fs::write(&users, r#"[{"username": "*", "perms": ["all"]}]"#).unwrap();
    let mut c = pushing(3, &collector, &["-otlp-insecure", "-auth", users.to_str().unwrap()]);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    let (leads, follows) = (c.members[leader].name.clone(), c.members[follower].name.clone());
    c.execute(follower, &json!(["CREATE TABLE t(a)"]));
    c.execute(follower, &json!(["INSERT INTO t VALUES(1)"]));
    c.until("the numbers of two members", |_| {
        (collector.number(&leads, "sqlited_raft_leader", None) == Some(1)
            && collector.number(&follows, "sqlited_raft_leader", None) == Some(0)
            && collector.number(&follows, "sqlited_http_requests", Some(("code", "200"))) >= Some(2)
            && collector.number(&follows, "sqlited_http_request_duration_seconds", Some(("kind", "sql")))
                == Some(2))
        .then_some(())
    });
    // Nobody asked for a trace, and one client does not want one.
    assert_eq!(write_traced(&c, follower, "00"), 200);
    assert_eq!(write_traced(&c, follower, "01"), 200);
    let spans = c.until("the spans of a forwarded write", |_| {
        let spans = collector.spans();
        let has = |name: &str| spans.iter().any(|seen| seen.span.name == name);
        (has("HTTP request") && has("forwarded write") && has("apply")).then_some(spans)
    });
    assert!(spans.iter().all(|seen| hex(&seen.span.trace_id) == TRACE), "{spans:?}");
    let state = "congo=t61rcWkgMzE,rojo=1";
    assert!(spans.iter().all(|seen| seen.span.trace_state == state), "{spans:?}");
    let found = |name: &str| -> &Seen {
        let mut all = spans.iter().filter(|seen| seen.span.name == name);
        let one = all.next().unwrap_or_else(|| panic!("{name} in {spans:?}"));
        assert!(all.next().is_none(), "{name} twice in {spans:?}");
        one
    };
    let mut parent = SPAN.to_owned();
    for (name, member) in
        [("HTTP request", &follows), ("forward to the leader", &follows), ("forwarded write", &leads)]
    {
        let seen = found(name);
        assert_eq!((&seen.member, hex(&seen.span.parent_span_id)), (member, parent), "{name}");
        parent = hex(&seen.span.span_id);
    }
    let mut ended = found("forwarded write").span.start_time_unix_nano;
    for name in ["propose", "append and commit", "apply"] {
        let seen = found(name);
        assert_eq!((&seen.member, &hex(&seen.span.parent_span_id)), (&leads, &parent), "{name}");
        assert!(ended <= seen.span.start_time_unix_nano, "{spans:?}");
        ended = seen.span.end_time_unix_nano;
    }
    let request = &found("HTTP request").span;
    assert_eq!(text(&request.attributes, "http.response.status_code"), "200");
    assert_eq!(text(&request.attributes, "url.path"), "/db/execute");
    assert!(!format!("{spans:?}").contains("secret"));

    let query = format!("00-{TRACE}-{SPAN}-01");
    let path = "/db/query?q=SELECT+count(*)+FROM+t";
    assert_eq!(c.send(Method::GET, follower, path, &[("traceparent", &query)], b"").status, 200);
    c.until("the span of a forwarded query", |_| {
        collector.spans().iter().any(|seen| seen.span.name == "forwarded query").then_some(())
    });
    let status = c.status(follower, "otlp_metrics");
    assert!(status["pushed"].as_u64() > Some(0), "{status}");
    assert_eq!((&status["failed"], &status["last_error"]), (&json!(0), &Value::Null), "{status}");
    assert!(c.status(follower, "otlp_traces")["spans"].as_u64() >= Some(2));
    assert_eq!(c.status(follower, "otlp_traces")["dropped_spans"], json!(0));
}

#[test]
fn a_collector_that_is_away_hangs_or_refuses_hurts_no_request_and_is_told_once() {
    let port = free_ports(1)[0];
    let endpoint = format!("http://127.0.0.1:{port}");
    let flags = ["-otlp-endpoint", &endpoint, "-otlp-interval", "200ms", "-otlp-trace-ratio", "1"];
    let mut c = cluster_with(1, &flags);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let failed = |c: &Cluster, key: &str| c.status(0, key)["failed"].as_u64().unwrap();
    c.until("attempts that fail", |c| {
        (failed(c, "otlp_metrics") > 2 && failed(c, "otlp_traces") > 0).then_some(())
    });
    let collector = Collector::start(port, None);
    c.until("it takes them", |c| {
        c.execute(0, &json!(["INSERT INTO t VALUES(1)"]));
        let (metrics, traces) = (c.status(0, "otlp_metrics"), c.status(0, "otlp_traces"));
        (metrics["last_error"].is_null() && traces["last_error"].is_null() && !collector.spans().is_empty())
            .then_some(())
    });
    collector.reply(Reply::Refuse(8));
    let refused = c.until("a refusal", |c| {
        c.execute(0, &json!(["INSERT INTO t VALUES(1)"]));
        let error = c.status(0, "otlp_traces")["last_error"].clone();
        error.as_str().map(str::to_owned)
    });
    assert_eq!(refused, "the collector refused: gRPC status 8 not now");
    assert!(c.status(0, "otlp_traces")["dropped_spans"].as_u64() > Some(0));
    collector.reply(Reply::Hang);
    let began = Instant::now();
    let statements = json!(["INSERT INTO t VALUES(1)"]);
    for _ in 0..50 {
        c.execute(0, &statements);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "requests wait for the collector");
    for what in ["what=\"metrics\"", "what=\"traces\""] {
        let lines: Vec<_> = c.log(0).lines().filter(|line| line.contains(what)).map(str::to_owned).collect();
        let bad = lines.iter().filter(|line| line.contains("does not take them")).count();
        assert!((1..=2).contains(&bad), "{lines:?}");
    }
    assert_eq!(c.log(0).matches("pushed without TLS").count(), 1);
}

#[test]
fn a_collector_must_show_a_certificate_of_the_authority() {
    let dir = TempDir::new().unwrap();
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let files = right.issue(dir.path(), "collector", &["localhost", "127.0.0.1"]);
    let collector = Collector::start(0, Some(&files));
    let right = right.write(&dir.path().join("right.crt"));
    let wrong = wrong.write(&dir.path().join("wrong.crt"));
    let mut c = pushing(1, &collector, &["-otlp-ca-cert", &wrong]);
    c.until("a failure that says why", |c| {
        let error = c.status(0, "otlp_metrics")["last_error"].as_str()?.to_owned();
        assert!(error.contains("certificate"), "{error}");
        Some(())
    });
    assert_eq!(c.status(0, "otlp_metrics")["pushed"], json!(0));
    for trusting in [vec!["-otlp-ca-cert", &right], vec!["-otlp-no-verify"]] {
        assert_eq!(c.terminate(0), Some(0));
        c.remove_flags(0, 2);
        c.add_flags(0, &trusting);
        c.start(0);
        c.await_ready(0);
        c.until("a push", |c| (c.status(0, "otlp_metrics")["pushed"].as_u64() > Some(0)).then_some(()));
    }
}

#[test]
fn a_collector_that_asks_for_a_certificate_is_shown_one() {
    let dir = TempDir::new().unwrap();
    let (authority, stranger) = (Authority::new("collectors"), Authority::new("strangers"));
    let files = authority.issue(dir.path(), "collector", &["localhost", "127.0.0.1"]);
    let own = authority.issue(dir.path(), "member", &["member"]);
    let others = stranger.issue(dir.path(), "other", &["member"]);
    let ca = authority.write(&dir.path().join("ca.crt"));
    let collector = Collector::start_for(&authority, &files);
    for (shown, is_taken) in [(None, false), (Some(&others), false), (Some(&own), true)] {
        let mut flags = vec!["-otlp-ca-cert", &ca, "-otlp-trace-ratio", "1"];
        if let Some(files) = shown {
            flags.extend(["-otlp-cert", files.certificate(), "-otlp-key", files.key()]);
        }
        let mut c = pushing(1, &collector, &flags);
        c.execute(0, &json!(["CREATE TABLE t(a)"]));
        c.until(&format!("{shown:?}: taken {is_taken}"), |c| {
            let pushes = [c.status(0, "otlp_metrics"), c.status(0, "otlp_traces")];
            let key = if is_taken { "pushed" } else { "failed" };
            pushes.iter().all(|push| push[key].as_u64() > Some(0)).then_some(())
        });
        let status = c.status(0, "otlp_metrics");
        assert_eq!(
            (status["pushed"] == json!(0), status["last_error"].is_null()),
            (!is_taken, is_taken),
            "{status}"
        );
    }
}

#[test]
fn what_waits_is_pushed_when_a_member_goes_down() {
    let collector = Collector::start(0, None);
    let endpoint = format!("http://127.0.0.1:{}", collector.port);
    let mut c =
        cluster_with(1, &["-otlp-endpoint", &endpoint, "-otlp-interval", "1h", "-otlp-trace-ratio", "1"]);
    let name = c.members[0].name.clone();
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    c.until("what was traced is pushed", |_| (!collector.spans().is_empty()).then_some(()));
    let before = collector.spans().len();
    c.execute(0, &json!(["INSERT INTO t VALUES(1)"]));
    assert_eq!(c.terminate(0), Some(0));
    let spans = collector.spans();
    let after: Vec<_> = spans[before..].iter().map(|seen| seen.span.name.as_str()).collect();
    assert!(after.contains(&"HTTP request") && after.contains(&"apply"), "{after:?}");
    assert_eq!(collector.number(&name, "sqlited_raft_leader", None), Some(1));

    // One that says nothing holds up nobody for long.
    collector.reply(Reply::Hang);
    c.start(0);
    c.await_ready(0);
    c.execute(0, &json!(["INSERT INTO t VALUES(2)"]));
    let began = Instant::now();
    assert_eq!(c.terminate(0), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(c.log(0).contains("did not take the last metrics and traces in time"), "{}", c.log(0));
}

#[test]
fn whoever_asks_for_traces_gets_no_more_than_the_limit() {
    let collector = Collector::start(0, None);
    let mut c = Cluster::empty();
    let users = c.root().join("users.json");
    let user = json!([
        {"username": "app", "password": "secret", "perms": ["execute", "query"]},
        {"username": "*", "perms": ["status"]},
    ]);
    std::fs::write(&users, user.to_string()).unwrap();
    let endpoint = format!("http://127.0.0.1:{}", collector.port);
    c.add_members(
        1,
        &["-auth", users.to_str().unwrap(), "-otlp-endpoint", &endpoint, "-otlp-trace-limit", "3"],
    );
    c.start(0);
    c.await_ready(0);
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let ask = |c: &Cluster, more: &[(&str, &str)]| {
        let headers = [&[("traceparent", traceparent.as_str())], more].concat();
        c.send(Method::GET, 0, "/db/query?q=SELECT+1", &headers, b"").status
    };
    // Those who may not send statements take nothing of it.
    for _ in 0..10 {
        assert_eq!(ask(&c, &[]), 401);
    }
    assert_eq!(c.status(0, "otlp_traces")["over_limit"], json!(0));
    // app:secret
    let user = [("authorization", "Basic YXBwOnNlY3JldA==")];
    let began = Instant::now();
    while c.status(0, "otlp_traces")["over_limit"] == json!(0) {
        assert_eq!(ask(&c, &user), 200);
        assert!(began.elapsed() < support::PATIENCE, "all are traced");
    }
    c.until("spans", |_| (collector.spans().len() >= 3).then_some(()));
    assert!(
        collector
            .spans()
            .iter()
            .all(|seen| text(&seen.span.attributes, "http.response.status_code") == "200")
    );
    assert_eq!(c.status(0, "otlp_traces")["limit"], json!(3));
}
