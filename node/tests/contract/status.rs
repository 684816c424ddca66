//! E12, E14–E16: what a member says of itself.

use super::member;
use super::support::{Cluster, cluster, cluster_with};
use reqwest::Method;
use serde_json::{Value, json};

#[test]
fn status_and_its_parts() {
    let c = member();
    c.post(0, "/db/execute?queue&wait", "[\"UPDATE foo SET name = name\"]");
    // E14
    let (status, body) = c.get(0, "/status");
    let all: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    for path in [
        "build.version",
        "build.commit",
        "build.build_time",
        "os.pid",
        "runtime.num_cpu",
        "http.bind_addr",
        "node.start_time",
        "cluster.phase",
        "network.raft_address",
        "mux.addr",
        "extensions.names",
        "store.open",
        "store.node_id",
        "store.addr",
        "store.leader.node_id",
        "store.leader.addr",
        "store.ready",
        "store.fsm_index",
        "store.fsm_term",
        "store.db_applied_index",
        "store.strong_read_term",
        "store.nodes",
        "store.dir",
        "store.dir_size",
        "store.apply_timeout",
        "store.heartbeat_timeout",
        "store.election_timeout",
        "store.commit_timeout",
        "store.snapshot_threshold",
        "store.snapshot_interval",
        "store.trailing_logs",
        "store.db_conf",
        "store.snapshot_store.dir",
        "store.snapshot_store.dir_size",
        "store.snapshot_store.snapshots",
        "store.raft.state",
        "store.raft.term",
        "store.raft.commit_index",
        "store.raft.applied_index",
        "store.raft.last_log_index",
        "store.raft.last_log_term",
        "store.raft.last_snapshot_index",
        "store.raft.last_snapshot_term",
        "store.raft.fsm_pending",
        "store.raft.num_peers",
        "store.raft.last_contact",
        "store.raft.voter",
        "store.raft.log_size",
        "store.sqlite3.path",
        "store.sqlite3.size",
        "store.sqlite3.wal_size",
        "store.sqlite3.db_size",
        "store.sqlite3.version",
        "store.sqlite3.compile_options",
        "store.sqlite3.extensions",
        "store.sqlite3.mem_stats",
        "store.sqlite3.conn_pool_stats.ro",
        "store.sqlite3.conn_pool_stats.rw",
        "store.sqlite3.pragmas.ro.journal_mode",
        "store.sqlite3.pragmas.rw.foreign_keys",
        "http.queue._default.sequence_number",
        "http.queue._default.max_size",
        "http.queue._default.batch_size",
        "http.queue._default.timeout",
    ] {
        let value = path.split('.').fold(&all, |value, name| &value[name]);
        assert!(!value.is_null(), "{path} is not in {all}");
        let (_, part) = c.get(0, &format!("/status?key={path}"));
        let part: Value = serde_json::from_str(&part).unwrap();
        assert_eq!(std::mem::discriminant(&part), std::mem::discriminant(value), "{path}");
    }
    assert_eq!(all["store"]["raft"]["state"], json!("Leader"));
    assert_eq!(all["store"]["raft"]["voter"], json!(true));
    assert!(all["store"]["raft"]["term"].is_u64());
    assert_eq!(
        all["store"]["nodes"][0],
        json!({ "id": "n1", "addr": format!("127.0.0.1:{}", c.members[0].raft), "suffrage": "Voter" })
    );
    for (kind, pragma, value) in [
        ("ro", "journal_mode", "wal"),
        ("rw", "journal_mode", "wal"),
        ("rw", "synchronous", "1"),
        ("rw", "foreign_keys", "0"),
        ("rw", "wal_autocheckpoint", "0"),
        ("ro", "busy_timeout", "5000"),
        ("ro", "foreign_keys", "0"),
    ] {
        assert_eq!(all["store"]["sqlite3"]["pragmas"][kind][pragma], json!(value), "{kind} {pragma}");
    }
    assert_eq!(c.get(0, "/status?key=no.such.thing"), (200, "{}".into()));
    assert_eq!(c.get(0, "/status/?key=store.raft.state"), (200, "\"Leader\"".into()));
}

#[test]
fn the_term_of_the_last_strong_read_is_told_by_whom_it_was_answered_by() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    let told = |c: &Cluster, i: usize| c.status(i, "store.strong_read_term");
    // E14
    c.value(follower, "SELECT 1", "linearizable");
    assert!((0..3).all(|i| told(&c, i) == json!(0)));
    assert_eq!(c.value(follower, "SELECT 1", "strong"), json!(1));
    let term = c.status(leader, "store.raft.term");
    assert_eq!((told(&c, leader), told(&c, follower)), (term.clone(), json!(0)));
    // Another term, and no strong read in it yet.
    c.lead(follower);
    c.until("the next term", |c| (c.status(leader, "store.raft.term") != term).then_some(()));
    assert_eq!((told(&c, leader), told(&c, follower)), (term, json!(0)));
    assert_eq!(c.value(leader, "SELECT 1", "strong"), json!(1));
    assert_eq!(told(&c, follower), c.status(follower, "store.raft.term"));
}

#[test]
fn the_time_for_a_leader_is_a_flag() {
    let mut c = cluster_with(3, &["-raft-apply-timeout", "1500ms"]);
    // E14, S3
    assert_eq!(c.status(0, "store.apply_timeout"), json!("1500ms"));
    let leader = c.await_leader(0);
    let left = (leader + 1) % 3;
    c.kill(leader);
    c.kill((leader + 2) % 3);
    c.await_no_leader(left);
    for path in ["/db/execute", "/db/query", "/db/request"] {
        let began = std::time::Instant::now();
        assert_eq!(c.post(left, path, r#"["SELECT 1"]"#), (503, "leader not found\n".into()));
        let took = began.elapsed();
        assert!((1..8).contains(&took.as_secs()), "{path}: {took:?}");
    }
}

#[test]
fn readiness() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let follower = (leader + 1) % 3;
    // E12
    for i in [leader, follower] {
        let answer = c.send(Method::GET, i, "/readyz", &[], b"");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "[+]node ok\n[+]leader ok\n[+]store ok\n[+]db ok")
        );
        assert_eq!(
            c.get(i, "/readyz/?sync&timeout=5s"),
            (200, "[+]node ok\n[+]leader ok\n[+]store ok\n[+]sync ok\n[+]db ok".into())
        );
        assert_eq!(c.get(i, "/readyz?noleader"), (200, "[+]node ok".into()));
    }
    assert_eq!(c.get(follower, "/readyz?retries=x"), (400, "retries is not a valid integer\n".into()));
    let other = (leader + 2) % 3;
    c.kill(other);
    c.kill(leader);
    // While it still follows, the leader does not answer; then there is none.
    let seen = c.until("no leader", |c| {
        let (status, body) = c.get(follower, "/readyz?timeout=500ms");
        assert_eq!(status, 503, "{body}");
        let gone = body == "[+]node ok\n[+]leader does not exist";
        assert!(gone || body.starts_with("[+]node ok\n[+]leader not contactable: "), "{body}");
        gone.then_some(body)
    });
    assert!(seen.contains("does not exist"));
    assert_eq!(c.get(follower, "/readyz?noleader").0, 200);
}

#[test]
fn counters_licences_and_the_way_to_the_console() {
    let c = member();
    // E15
    let (status, body) = c.get(0, "/debug/vars");
    assert!(status == 200 && body.ends_with("}\n"));
    let vars: Value = serde_json::from_str(&body).unwrap();
    assert!(vars["cmdline"][0].as_str().unwrap().contains("sqlited") && vars["memstats"].is_object());
    for (map, names) in [
        ("http", &["user_snapshots", "user_reaps", "executions", "queries"][..]),
        (
            "store",
            &[
                "num_snapshots",
                "num_restores",
                "num_restores_start",
                "num_restores_start_skipped",
                "num_ignored_joins",
                "num_removed_before_joins",
            ],
        ),
        ("cluster", &["num_join_req", "num_client_force_new_conn"]),
        (
            "uploader",
            &["num_uploads_ok", "num_uploads_fail", "num_uploads_skipped", "num_uploads_skipped_id"],
        ),
    ] {
        for name in names {
            assert!(vars[map][name].is_u64(), "{map}.{name} in {vars}");
        }
    }
    c.post(0, "/snapshot", "");
    c.post(0, "/reap", "");
    let (_, one) = c.get(0, "/debug/vars?key=http");
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one.as_object().unwrap().len(), 1);
    assert_eq!((&one["http"]["user_snapshots"], &one["http"]["user_reaps"]), (&json!(1), &json!(1)));
    // E16
    let licences = c.send(Method::GET, 0, "/licenses", &[], b"");
    assert_eq!(licences.status, 200);
    assert!(licences.header("content-type").starts_with("text/plain"));
    assert!(licences.text().contains("SQLite") && licences.text().contains("openraft"));
    for (path, status, to) in [
        ("/", 302, "/console/"),
        ("/console", 301, "/console/"),
        ("/console/", 200, ""),
        ("/console/main.js", 200, ""),
        ("/console/x", 404, ""),
    ] {
        let answer = c.send(Method::GET, 0, path, &[], b"");
        assert_eq!((answer.status, answer.header("location").as_str()), (status, to), "{path}");
    }
    let page = c.send(Method::GET, 0, "/console/", &[("accept-encoding", "gzip")], b"");
    assert_eq!(page.header("content-encoding"), "gzip");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let known = [("accept-encoding", "gzip"), ("if-none-match", &page.header("etag"))];
    let again = c.send(Method::GET, 0, "/console/", &known, b"");
    assert_eq!((again.status, again.body.len()), (304, 0));
    let (_, session) = c.get(0, "/console/session");
    assert_eq!(session, r#"{"permissions":["all"],"user":null}"#);
}

/// A counter of `/debug/vars`.
fn counted(c: &Cluster, i: usize, map: &str, name: &str) -> u64 {
    let (_, body) = c.get(i, &format!("/debug/vars?key={map}"));
    let vars: Value = serde_json::from_str(&body).unwrap();
    vars[map][name].as_u64().unwrap()
}

#[test]
fn who_may_and_who_may_not_is_counted() {
    let users = |root: &std::path::Path| {
        let path = root.join("users.json");
        let users = json!([{"username": "root", "password": "secret", "perms": ["all"]}, {"username": "*", "perms": ["status"]}]);
        std::fs::write(&path, users.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut c = Cluster::empty();
    let path = users(c.root());
    c.add_members(1, &["-auth", &path]);
    c.start(0);
    c.await_ready(0);
    let counts = |c: &Cluster| (counted(c, 0, "http", "authOK"), counted(c, 0, "http", "authFail"));
    let before = counts(&c);
    // C3, E15
    let http = reqwest::blocking::Client::new();
    for (name, password, expected) in
        [("root", "secret", 200), ("root", "wrong", 401), ("nobody", "secret", 401), ("root", "secret", 200)]
    {
        let asked = http.get(c.url(0, "/readyz")).basic_auth(name, Some(password)).send().unwrap();
        assert_eq!(asked.status().as_u16(), expected);
    }
    // Nobody is asked who they are where nothing is protected.
    for path in ["/nope", "/console/"] {
        c.get(0, path);
    }
    let after = counts(&c);
    // Looking is counted too: once before, and twice now, the first of them within what it tells.
    assert_eq!((after.0 - before.0, after.1 - before.1), (2 + 2, 2));

    let open = member();
    let before = counts(&open);
    open.get(0, "/readyz");
    assert_eq!(counts(&open), (before.0 + 3, 0), "as rqlite, where everybody may do everything");
}

#[test]
fn starts_joins_and_broken_connections_are_counted() {
    let mut c = cluster(1);
    // E15
    let skipped = |c: &Cluster| counted(c, 0, "store", "num_restores_start_skipped");
    assert_eq!(skipped(&c), 0, "it began with nothing");
    c.kill(0);
    c.start(0);
    c.await_ready(0);
    assert_eq!((skipped(&c), counted(&c, 0, "store", "num_restores_start")), (1, 0));

    let replica = c.add_read_replica();
    assert_eq!(counted(&c, 0, "cluster", "num_join_req"), 1);
    let joins = |c: &Cluster| {
        (counted(c, 0, "store", "num_ignored_joins"), counted(c, 0, "store", "num_removed_before_joins"))
    };
    assert_eq!(joins(&c), (0, 0));
    let report = c.report(replica);
    let again = json!({
        "nodeId": report["nodeId"], "name": report["name"], "raftAddress": report["raftAddress"],
        "apiAddress": report["apiAddress"],
    });
    assert_eq!(c.post(replica, "/cluster/learners", &again.to_string()).0, 200);
    assert_eq!(joins(&c), (1, 0));

    // It comes back elsewhere, and says so.
    let broken = |c: &Cluster| counted(c, 0, "cluster", "num_client_force_new_conn");
    assert!(c.get(0, "/nodes?nonvoters").1.contains("\"replica\""));
    c.kill(replica);
    let elsewhere = c.member("elsewhere", &[]);
    let place = c.members.remove(elsewhere);
    c.members[replica].http = place.http;
    c.start(replica);
    c.await_ready(replica);
    c.until("the new address is known", |c| (joins(c).1 == 1).then_some(()));
    // Under the same peer address, where a connection was.
    c.until("it is reached again", |c| {
        let nodes: Value = serde_json::from_str(&c.get(0, "/nodes?nonvoters").1).unwrap();
        (nodes["replica"]["reachable"] == json!(true)).then_some(())
    });
    assert!(broken(&c) >= 1, "{}", broken(&c));
}
