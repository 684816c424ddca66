//! Who may do what: users, their passwords and permissions, on a running member.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use node::auth::{Permission, Permissions};
use node::http::{Access, ROUTES};
use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{Cluster, PATIENCE, StopAtEnd};

const NAMES: &[&str] = &[
    "all",
    "execute",
    "query",
    "load",
    "backup",
    "join",
    "join-read-only",
    "join-read-replica",
    "remove",
    "status",
    "ready",
    "snapshot",
    "leader-ops",
    "ui",
];

fn client() -> Client {
    let builder = Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
    builder.build().unwrap()
}

fn as_user(name: &str, password: &str) -> Client {
    let mut headers = reqwest::header::HeaderMap::new();
    let request = client().get("http://127.0.0.1").basic_auth(name, Some(password)).build().unwrap();
    headers.insert("authorization", request.headers()["authorization"].clone());
    let builder = Client::builder().timeout(PATIENCE).default_headers(headers);
    builder.redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn write_users(path: &Path, users: &Value) {
    std::fs::write(path, users.to_string()).unwrap();
}

fn user(name: &str, password: &str, perms: &[&str]) -> Value {
    json!({"username": name, "password": password, "perms": perms})
}

/// A member with users, asked by `root`, who may do everything.
fn member(users: &[Value]) -> (Cluster, PathBuf) {
    member_with(users, &[])
}

fn member_with(users: &[Value], flags: &[&str]) -> (Cluster, PathBuf) {
    let mut c = Cluster::empty();
    let path = c.root().join("users.json");
    let all: Vec<Value> = [user("root", "secret", &["all"])].iter().chain(users).cloned().collect();
    write_users(&path, &json!(all));
    let flags: Vec<&str> = ["-auth", path.to_str().unwrap()].iter().chain(flags).copied().collect();
    c.add_members(1, &flags);
    c.ask_by("http", as_user("root", "secret"));
    c.start(0);
    c.await_ready(0);
    (c, path)
}

fn hash(password: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sqlited"))
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{password}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn each_route_for_each_permission() {
    // C3, F1
    let users: Vec<Value> = NAMES.iter().map(|name| user(name, name, &[name])).collect();
    let (c, _) = member(&users);
    let mut asked = 0;
    for name in NAMES {
        let http = as_user(name, name);
        let held = Permissions::default().with(Permission::from_name(name).unwrap());
        for route in ROUTES {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                // It would end the member's process.
                if route.path == "/cluster/recover" && *name == "all" {
                    continue;
                }
                let answer = http.request(method.clone(), c.url(0, route.path)).send().unwrap();
                let may = held.cover(route.needs.permissions());
                let what = format!("{method} {} as {name}: {}", route.path, answer.status());
                assert_eq!(answer.status() != 401, may, "{what}");
                assert_eq!(answer.headers()["www-authenticate"], "Basic realm=\"rqlite\"", "{what}");
                if !may {
                    assert_eq!(answer.bytes().unwrap(), "", "{what}");
                } else if !route.methods.contains(&method) {
                    assert_eq!(answer.status(), 405, "{what}");
                }
                asked += 1;
            }
        }
    }
    assert!(asked > 900, "{asked}");
}

/// Permissions by their names in a file.
fn names_of(permissions: &[Permission]) -> Vec<&'static str> {
    permissions.iter().fold(Permissions::default(), |held, permission| held.with(*permission)).names()
}

#[test]
fn each_route_needs_all_of_what_it_says_and_no_more() {
    // C3, F1
    let mut users = Vec::new();
    for (i, route) in ROUTES.iter().enumerate() {
        users.push(user(&format!("exactly-{i}"), "p", &names_of(route.needs.permissions())));
    }
    for missing in NAMES {
        let rest: Vec<&str> =
            NAMES.iter().copied().filter(|name| name != missing && *name != "all").collect();
        users.push(user(&format!("without-{missing}"), "p", &rest));
    }
    let (c, _) = member(&users);
    // No route has this method: who is let in changes nothing.
    let foreign = Method::from_bytes(b"PURGE").unwrap();
    let try_in = |http: &Client, path: &str| {
        http.request(foreign.clone(), c.url(0, path)).send().unwrap().status().as_u16()
    };
    let exactly: Vec<Client> = (0..ROUTES.len()).map(|i| as_user(&format!("exactly-{i}"), "p")).collect();
    for (i, route) in ROUTES.iter().enumerate() {
        assert_eq!(try_in(&exactly[i], route.path), 405, "{} with what it needs", route.path);
        for needed in names_of(route.needs.permissions()) {
            let http = as_user(&format!("without-{needed}"), "p");
            assert_eq!(try_in(&http, route.path), 401, "{} without {needed}", route.path);
        }
    }
    let nobody = client();
    let wrong: Vec<Client> = [("root", "wrong"), ("nobody", "secret"), ("", "")]
        .map(|(name, password)| as_user(name, password))
        .into();
    for route in ROUTES {
        for http in wrong.iter().chain([&nobody]) {
            let expected = if matches!(route.needs, Access::Open(_)) { 405 } else { 401 };
            assert_eq!(try_in(http, route.path), expected, "{}", route.path);
            for method in route.methods.iter().filter(|_| expected == 401) {
                let answer = http.request(method.clone(), c.url(0, route.path)).send().unwrap();
                assert_eq!(answer.status(), 401, "{method} {}", route.path);
                assert_eq!(answer.bytes().unwrap(), "", "{method} {}", route.path);
            }
        }
    }
}

#[test]
fn nobody_gets_at_the_keys_of_another_by_a_name_without_its_password() {
    // F1
    let (c, _) = member(&[
        json!({"username": "*", "perms": ["execute"]}),
        user("alice", "right", &["execute"]),
        user("hashed", &hash("right"), &["execute"]),
    ]);
    c.execute(0, &json!(["CREATE TABLE t(id INTEGER PRIMARY KEY, a)"]));
    let write = |http: &Client, key: &str, statement: &str| {
        let request = http.post(c.url(0, "/db/execute")).header("idempotency-key", key);
        let answer = request.body(json!([statement]).to_string()).send().unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().unwrap()
    };
    let row = |id: u64| format!(r#"{{"results":[{{"last_insert_id":{id},"rows_affected":1}}]}}"#);
    let insert = "INSERT INTO t(a) VALUES(1)";
    let mut last = 0;
    for name in ["alice", "hashed"] {
        let (right, wrong) = (as_user(name, "right"), as_user(name, "wrong"));
        let (own, others) = (format!("{name}-1"), format!("{name}-2"));
        assert_eq!(write(&right, &own, insert), row(last + 1));
        assert_eq!(write(&right, &own, insert), row(last + 1));
        // Their answer is not told to others, who write what they write for themselves.
        assert_eq!(write(&wrong, &own, insert), row(last + 2));
        // Nor is a key taken from them.
        assert_eq!(write(&wrong, &others, "DELETE FROM t WHERE 0").matches("error").count(), 0);
        assert_eq!(write(&right, &others, insert), row(last + 3));
        // Whoever is not known is nobody, by whatever name.
        assert_eq!(write(&client(), &own, insert), row(last + 2));
        last += 3;
    }
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(last));
}

#[test]
fn what_needs_no_credentials() {
    // C2, C3
    let (c, _) = member(&[json!({"username": "*", "perms": ["status"]})]);
    let answer = |method: Method, path: &str| client().request(method, c.url(0, path)).send().unwrap();
    for (method, path, expected) in [
        (Method::OPTIONS, "/db/execute", 200),
        (Method::GET, "/status", 200),
        (Method::GET, "/readyz", 401),
        (Method::POST, "/db/execute", 401),
        (Method::GET, "/unknown", 404),
    ] {
        let answer = answer(method.clone(), path);
        assert_eq!(answer.status(), expected, "{method} {path}");
        assert_eq!(answer.headers()["www-authenticate"], "Basic realm=\"rqlite\"");
        assert_eq!(answer.headers()["access-control-allow-headers"], "Content-Type, Authorization");
        assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
    }
    // What everybody may do, somebody with a wrong password may too.
    let wrong = client().get(c.url(0, "/status")).basic_auth("root", Some("wrong")).send().unwrap();
    assert_eq!(wrong.status(), 200);
    let wrong = client().get(c.url(0, "/readyz")).basic_auth("root", Some("wrong")).send().unwrap();
    assert_eq!(wrong.status(), 401);
}

#[test]
fn the_console_is_told_who_asks_and_what_they_may() {
    let (c, _) = member(&[
        user("reader", "r", &["query", "ui"]),
        user("writer", "w", &["execute"]),
        json!({"username": "*", "perms": ["status"]}),
    ]);
    let asked = |http: Client| {
        let answer = http.get(c.url(0, "/console/session")).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    };
    let (status, told) = asked(as_user("reader", "r"));
    assert_eq!((status, told.as_str()), (200, r#"{"permissions":["query","status","ui"],"user":"reader"}"#));
    for refused in [as_user("reader", "wrong"), as_user("writer", "w"), client()] {
        assert_eq!(asked(refused), (401, String::new()));
    }
    // The page itself holds nothing to protect.
    assert_eq!(client().get(c.url(0, "/console/")).send().unwrap().status(), 200);
}

#[test]
fn users_are_exchanged_under_load_without_a_failed_request() {
    // B9
    let old = user("app", "old", &["execute", "query"]);
    let new = user("app", &hash("new"), &["execute", "query"]);
    let (mut c, path) = member(std::slice::from_ref(&old));
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let root = user("root", "secret", &["all"]);
    let may = |c: &Cluster, password: &str| {
        as_user("app", password).get(c.url(0, "/db/query?q=SELECT+1")).send().unwrap().status() == 200
    };
    let (stop, uses_new, done) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let url = c.url(0, "/db/execute");
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                let (old, new) = (as_user("app", "old"), as_user("app", "new"));
                while !stop.load(Ordering::Relaxed) {
                    let http = if uses_new.load(Ordering::Relaxed) { &new } else { &old };
                    let answer = http.post(&url).body(r#"["INSERT INTO t VALUES(1)"]"#).send().unwrap();
                    assert_eq!(answer.status(), 200);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        c.await_more(&done, 50);
        write_users(&path, &json!([root, old, new]));
        c.until("the new password is known", |c| may(c, "new").then_some(()));
        c.await_more(&done, 50);
        uses_new.store(true, Ordering::Relaxed);
        c.await_more(&done, 50);
        // What makes no sense is not taken.
        write_users(&path, &json!([{"username": "app"}]));
        c.await_log(0, "no \\\"perms\\\"");
        c.await_more(&done, 50);
        write_users(&path, &json!([root, new]));
        c.until("the old password is forgotten", |c| (!may(c, "old")).then_some(()));
        c.await_more(&done, 50);
    });
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(done.load(Ordering::Relaxed)));
}

#[test]
fn users_that_make_no_sense_are_refused_at_the_start() {
    // B5, F1
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.json");
    for (users, expected) in [
        ("[{\"username\": \"a\", \"password\": \"p\"}]", "entry 1 (\"a\"): no \"perms\""),
        ("nonsense", "not a JSON array"),
    ] {
        std::fs::write(&path, users).unwrap();
        for extra in [&["-check-config"][..], &[]] {
            let output = Command::new(env!("CARGO_BIN_EXE_sqlited"))
                .args(extra)
                .args(["-auth", path.to_str().unwrap()])
                .args(["-http-addr", "127.0.0.1:0", "-raft-addr", "127.0.0.1:0"])
                .arg(dir.path().join("data"))
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.contains("fatal: -auth: ") && stderr.contains(expected), "{stderr}");
        }
    }
    std::fs::write(&path, "[]").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sqlited"))
        .args(["-check-config", "-auth", path.to_str().unwrap(), "d"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn joining_takes_a_user_who_may() {
    let joiner = user("joiner", "j", &["join"]);
    let reader = user("reader", "r", &["join-read-only"]);
    let also_reader = user("also-reader", "r2", &["join-read-replica"]);
    let other = user("other", "o", &["status"]);
    let (mut c, path) = member(&[joiner, reader, also_reader, other]);
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let auth = path.to_str().unwrap().to_owned();
    let with = |as_user: &'static str| {
        let mut flags =
            vec!["-join", &join, "-join-attempts", "3", "-join-interval", "100ms", "-auth", &auth];
        if !as_user.is_empty() {
            flags.extend(["-join-as", as_user]);
        }
        flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>()
    };
    for (name, as_user) in
        [("nobody", ""), ("other", "other"), ("reader-votes", "reader"), ("also-reader-votes", "also-reader")]
    {
        let flags = with(as_user);
        let i = c.member(name, &flags.iter().map(String::as_str).collect::<Vec<_>>());
        c.start(i);
        assert_eq!(c.exit_code(i), Some(1));
        assert!(c.log(i).contains("remote join not authorized"), "{}", c.log(i));
    }
    for (name, as_user, extra) in [
        ("voter", "joiner", &[][..]),
        ("replica", "reader", &["-raft-non-voter"]),
        ("also-replica", "also-reader", &["-raft-non-voter"]),
    ] {
        let flags = with(as_user);
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(extra.iter().copied()).collect();
        let i = c.member(name, &flags);
        c.start(i);
        c.await_ready(i);
    }
    let nodes: Value = serde_json::from_str(&c.get(0, "/nodes?nonvoters").1).unwrap();
    assert_eq!(nodes.as_object().unwrap().len(), 4, "{nodes}");
}

/// A leader and its read replica, with users of their own; a user of the replica whom the leader does not know, and where the
/// leader's users stand.
fn leader_and_replica(everybody: &[&str]) -> (Cluster, usize, Client, PathBuf) {
    let mut c = Cluster::empty();
    let (leaders, replicas) = (c.root().join("leader.json"), c.root().join("replica.json"));
    write_users(&leaders, &json!(known_to_all()));
    let app = user("app", "p", &["execute", "query", "backup", "load", "remove", "leader-ops"]);
    let open = json!({"username": "*", "perms": everybody});
    let all = [&known_to_all()[..], &[app, open]].concat();
    write_users(&replicas, &json!(all));
    c.add_members(1, &["-auth", leaders.to_str().unwrap()]);
    c.ask_by("http", as_user("root", "secret"));
    c.start(0);
    c.await_ready(0);
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let joining = ["-raft-non-voter", "-join", &join, "-join-as", "joiner"];
    let replica = c.member("replica", &[&joining[..], &["-auth", replicas.to_str().unwrap()]].concat());
    c.start(replica);
    c.await_ready(replica);
    (c, replica, as_user("app", "p"), leaders)
}

fn known_to_all() -> [Value; 2] {
    [user("root", "secret", &["all"]), user("joiner", "j", &["join-read-only"])]
}

#[test]
fn the_leader_looks_at_its_own_users_for_what_is_forwarded() {
    let (mut c, replica, app, leaders) = leader_and_replica(&["query"]);
    c.execute(replica, &json!(["CREATE TABLE t(a)"]));
    let asked = |http: &Client, c: &Cluster, method: &Method, path: &str, body: &[u8]| {
        let answer = http.request(method.clone(), c.url(replica, path)).body(body.to_vec()).send().unwrap();
        (answer.status().as_u16(), answer.bytes().unwrap().to_vec())
    };
    let insert = br#"["INSERT INTO t VALUES(1)"]"#;
    let database = [b"SQLite format 3\0", &[0; 84][..]].concat();
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    // C7, C8
    for (method, path, body, operation) in [
        (&post, "/db/execute", &insert[..], "Execute"),
        (&post, "/db/query", br#"["SELECT 1"]"#, "query"),
        (&get, "/db/query?level=strong&q=SELECT+1", b"", "query"),
        (&post, "/db/request", insert, "Request"),
        (&post, "/db/request", br#"["SELECT 1"]"#, "Request"),
        (&get, "/db/backup", b"", "backup"),
        (&post, "/db/load", b"INSERT INTO t VALUES(1)", "load"),
        (&post, "/db/load", &database, "load"),
        (&delete, "/remove", br#"{"id":"n1"}"#, "remove node"),
        (&post, "/leader", b"", "stepdown"),
    ] {
        let (status, said) = asked(&app, &c, method, path, body);
        let expected = format!("remote {operation} not authorized\n");
        assert_eq!((status, String::from_utf8_lossy(&said).into_owned()), (401, expected), "{path}");
    }
    // Also where everybody may, here.
    let nobody = asked(&client(), &c, &get, "/db/query?q=SELECT+1", b"");
    assert_eq!(nobody, (401, b"remote query not authorized\n".to_vec()));
    // What this member answers by itself is up to its own users.
    for level in ["none", "linearizable"] {
        assert_eq!(
            asked(&app, &c, &get, &format!("/db/query?level={level}&q=SELECT+1"), b"").0,
            200,
            "{level}"
        );
    }
    assert_eq!(asked(&app, &c, &get, "/db/backup?noleader", b"").0, 200);
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(0));
    c.await_log(0, "user=\"app\"");

    // Nobody asks for the password there: another one will do.
    let queued = std::thread::spawn({
        let (app, url) = (app.clone(), c.url(replica, "/db/execute?queue&wait"));
        move || app.post(url).body(&insert[..]).send().unwrap().status().as_u16()
    });
    let app_there = user("app", "another", &["execute", "query", "backup", "load"]);
    let all = [&known_to_all()[..], &[app_there]].concat();
    write_users(&leaders, &json!(all));
    c.until("the leader knows the user", |c| {
        (asked(&app, c, &post, "/db/execute", insert).0 == 200).then_some(())
    });
    // What waited in the queue was let in here when it came, and is as soon as the leader knows.
    assert_eq!(queued.join().unwrap(), 200);
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(2));
    // A result that takes a connection of its own, and what is sent on one.
    let large = asked(&app, &c, &get, "/db/query?q=SELECT+hex(zeroblob(200000))", b"");
    assert!(large.0 == 200 && large.1.len() > 400_000, "{} {}", large.0, large.1.len());
    let (status, copy) = asked(&app, &c, &get, "/db/backup", b"");
    assert!(status == 200 && copy.starts_with(b"SQLite format 3"), "{status}");
    assert_eq!(asked(&app, &c, &post, "/db/request", insert).0, 200);
    assert_eq!(asked(&app, &c, &post, "/db/load", &copy), (200, br#"{"results":[]}"#.to_vec()));
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(2));
    // What was not given is not there, whatever this member says.
    let stepdown = asked(&app, &c, &post, "/leader", b"");
    assert_eq!(stepdown, (401, b"remote stepdown not authorized\n".to_vec()));
}

#[test]
fn members_that_wait_for_each_other_in_vain_say_why() {
    let mut c = Cluster::empty();
    let path = c.root().join("users.json");
    write_users(&path, &json!([user("admin", "secret", &["all"])]));
    c.add_members(2, &["-auth", path.to_str().unwrap()]);
    (0..2).for_each(|i| c.start(i));
    c.until("both say so", |c| {
        let says = |i| c.log(i).contains("-join-as must name a user with permission");
        (says(0) && says(1)).then_some(())
    });
}

#[test]
fn no_secret_is_logged() {
    const CANARY: &str = "canary-5e7c";
    let users = [user("known", &format!("{CANARY}-known"), &["query"])];
    let (mut c, _) = member_with(&users, &["-log-level", "trace"]);
    let send = |request: RequestBuilder| drop(request.send().unwrap());
    for password in [format!("{CANARY}-known"), format!("{CANARY}-wrong")] {
        for path in ["/db/query?q=SELECT+1", "/db/execute", "/unknown", "/status", "/db/query?q=%zz"] {
            send(client().get(c.url(0, path)).basic_auth("known", Some(&password)));
            send(client().post(c.url(0, path)).basic_auth("known", Some(&password)).body("["));
        }
        send(client().get(c.url(0, "/status")).header("authorization", format!("Bearer {password}")));
    }
    assert_eq!(c.terminate(0), Some(0));
    let log = c.log(0);
    assert!(log.contains("starting"), "{log}");
    let told: Vec<&str> = log.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(told.is_empty(), "{told:?}");
    let encoded = base64_of("known", CANARY);
    assert!(!log.contains(&encoded), "{encoded}");
}

#[test]
fn no_secret_is_logged_or_told_on_the_way_to_the_leader_or_to_a_store() {
    const CANARY: &str = "canary-7b1f";
    // 32 bytes.
    const KEY: &str = "Y2FuYXJ5LTdiMWYtYW5kLXR3ZW50eS1ieXRlcyE2Njc=";
    let mut c = Cluster::empty();
    let secret = |what: &str| format!("{CANARY}-{what}");
    let write = |name: &str, text: &str| {
        let path = c.root().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let users = json!([
        user("root", &secret("root"), &["all"]),
        user("joiner", &secret("joiner"), &["join-read-replica"]),
        user("app", &secret("app"), &["execute", "query"]),
    ]);
    let users = write("users.json", &users.to_string());
    for (name, what) in [("accessKeyId", "id"), ("secretAccessKey", "store")] {
        std::fs::create_dir_all(c.root().join("store")).unwrap();
        write(&format!("store/{name}"), &secret(what));
    }
    // Nobody is there; what is sent is known anyway.
    let s3 = json!({
        "endpoint": "http://127.0.0.1:1", "region": "r", "bucket": "b", "forcePathStyle": true,
        "credentialsDir": c.root().join("store"),
    });
    let backups = json!({
        "store": {"s3": s3}, "encryption": {"keyFile": write("keys", KEY)},
        "continuous": {"enabled": true, "rpoTargetSeconds": 1},
    });
    let backups = write("backup.yaml", &backups.to_string());
    let auto = json!({
        "version": 1, "type": "s3", "interval": "200ms",
        "sub": {"endpoint": "http://127.0.0.1:1", "region": "r", "bucket": "b", "path": "p", "force_path_style": true,
                "access_key_id": "$CANARY_ID", "secret_access_key": "${CANARY_SECRET}"},
    });
    let auto = write("auto.json", &auto.to_string());
    c.set_environment("CANARY_ID", secret("auto-id"));
    c.set_environment("CANARY_SECRET", secret("auto"));
    let flags = ["-auth", &users, "-log-level", "trace", "-backup-config", &backups, "-auto-backup", &auto];
    c.add_members(1, &flags);
    c.ask_by("http", as_user("root", &secret("root")));
    c.start(0);
    c.await_ready(0);
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let joining = ["-raft-non-voter", "-join", &join, "-join-as", "joiner"];
    let replica = c.member("replica", &[&flags[..], &joining].concat());
    c.start(replica);
    c.await_ready(replica);
    c.execute(replica, &json!(["CREATE TABLE t(a)"]));
    for (password, expected) in [(secret("app"), 200), (secret("wrong"), 401)] {
        let http = as_user("app", &password);
        for i in [0, replica] {
            let write =
                http.post(c.url(i, "/db/execute")).body(r#"["INSERT INTO t VALUES(1)"]"#).send().unwrap();
            assert_eq!(write.status(), expected);
            let read = http.get(c.url(i, "/db/query?level=strong&q=SELECT+1")).send().unwrap();
            assert_eq!(read.status(), expected);
        }
    }
    c.until("both stores were tried", |c| {
        let tried = c.status(0, "auto_backups.error").is_string();
        (tried && !c.report(0)["archive"]["message"].is_null()).then_some(())
    });
    let mut told = String::new();
    for i in [0, replica] {
        for path in ["/status", "/debug/vars", "/cluster", "/nodes?nonvoters", "/metrics", "/cluster/backups"]
        {
            told += &c.get(i, path).1;
        }
    }
    for i in [0, replica] {
        assert_eq!(c.terminate(i), Some(0));
        told += &c.log(i);
    }
    let passwords = ["root", "joiner", "app"].map(|name| base64_of(name, CANARY));
    for part in passwords.iter().map(String::as_str).chain([CANARY, KEY]) {
        let lines: Vec<&str> = told.lines().filter(|line| line.contains(part)).collect();
        assert!(lines.is_empty(), "{part}: {lines:?}");
    }
}

/// The beginning of what Basic authentication makes of a name and a password.
fn base64_of(name: &str, password: &str) -> String {
    let request = client().get("http://127.0.0.1").basic_auth(name, Some(password)).build().unwrap();
    let header = request.headers()["authorization"].to_str().unwrap().trim_start_matches("Basic ").to_owned();
    header[..16].to_owned()
}

#[test]
fn many_wrong_passwords_do_not_keep_others_out() {
    let (c, _) = member(&[user("slow", &hash("right"), &["query"])]);
    let url = c.url(0, "/db/query?q=SELECT+1");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for n in 0..8 {
            let (stop, url) = (&stop, &url);
            scope.spawn(move || {
                let http = as_user("slow", &format!("wrong{n}"));
                while !stop.load(Ordering::Relaxed) {
                    let status = http.get(url).send().unwrap().status();
                    assert!(status == 401 || status == 503, "{status}");
                }
            });
        }
        let known = as_user("root", "secret");
        for _ in 0..50 {
            let began = std::time::Instant::now();
            assert_eq!(known.get(&url).send().unwrap().status(), 200);
            assert!(began.elapsed() < Duration::from_secs(5));
        }
        // Its turn comes, and from then on it is known.
        assert_eq!(as_user("slow", "right").get(&url).send().unwrap().status(), 200);
    });
}
