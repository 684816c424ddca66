//! Members that find each other by a key-value store: who makes the cluster, who joins, what happens when the store or
//! the leader is not there. And by answers of a server of names.
//!
//! The test that is ignored needs a real etcd, whose program `DISCO_ETCD` names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use support::certificates::Authority;
use support::http_faults::{Fault, HttpFaults};
use support::names::{Names, Records};
use support::registry::{Kind, Store};
use support::{Cluster, free_ports};

const KEY: &str = "orders/leader";

fn settings(kind: Kind, port: u16) -> Value {
    match kind {
        Kind::Consul => json!({ "address": format!("127.0.0.1:{port}") }),
        Kind::Etcd => json!({ "endpoints": [format!("http://127.0.0.1:{port}")] }),
    }
}

fn mode(kind: Kind) -> &'static str {
    match kind {
        Kind::Consul => "consul-kv",
        Kind::Etcd => "etcd-kv",
    }
}

/// Members that are to find each other, not started yet.
fn members(n: usize, kind: Kind, settings: &Value) -> Cluster {
    let mut c = Cluster::empty();
    let config = c.root().join("disco.json");
    std::fs::write(&config, settings.to_string()).unwrap();
    let flags =
        ["-disco-mode", mode(kind), "-disco-key", "orders", "-join-interval", "200ms", "-disco-config"];
    for i in 0..n {
        c.member(&format!("n{i}"), &[&flags[..], &[config.to_str().unwrap()]].concat());
    }
    c
}

fn start_all(c: &mut Cluster) {
    (0..c.members.len()).for_each(|i| c.start(i));
    (0..c.members.len()).for_each(|i| c.await_ready(i));
}

/// Waits until all members are voters of one cluster.
fn await_one_cluster(c: &mut Cluster) {
    let n = c.members.len();
    c.until("one cluster of voters", |c| {
        let reports: Vec<Value> = (0..n).map(|i| c.report(i)).collect();
        let ids: BTreeSet<String> = reports.iter().map(|report| report["clusterId"].to_string()).collect();
        assert!(ids.len() == 1, "{ids:?}");
        let voters =
            reports[0]["membership"]["members"].as_array()?.iter().filter(|m| m["voter"] == true).count();
        (voters == n).then_some(())
    });
}

fn await_registered(c: &mut Cluster, store: &Store, i: usize) {
    let name = c.members[i].name.clone();
    c.until("the leader is registered", |_| (store.get(KEY)?["id"] == json!(name)).then_some(()));
}

fn three_members_find_each_other(kind: Kind) {
    let mut store = Store::start(kind, free_ports(1)[0], None);
    let mut c = members(3, kind, &settings(kind, store.port));
    start_all(&mut c);
    await_one_cluster(&mut c);
    assert_eq!(c.status(0, "disco.mode"), json!(mode(kind)));
    assert!(c.status(0, "disco.last_contact").is_string());
    let leader = c.await_leader(0);
    await_registered(&mut c, &store, leader);
    let registered = store.get(KEY).unwrap();
    assert_eq!(registered["addr"], json!(format!("127.0.0.1:{}", c.members[leader].raft)));
    assert_eq!(registered["api_addr"], json!(format!("http://127.0.0.1:{}", c.members[leader].http)));
    assert_eq!(store.version(KEY), 1, "who is registered writes nothing anew");

    // Another leader registers itself.
    c.execute(leader, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(7)"]));
    let next = (leader + 1) % 3;
    c.lead(next);
    await_registered(&mut c, &store, next);
    c.kill(next);
    let others = [(next + 1) % 3, (next + 2) % 3];
    let name = c.members[next].name.clone();
    c.until("one of the others is registered", |_| (store.get(KEY)?["id"] != json!(name)).then_some(()));
    c.start(next);
    c.await_ready(next);

    // Members that are of a cluster do not ask who is registered, and serve without the store.
    (0..3).for_each(|i| c.kill(i));
    store.go_away();
    start_all(&mut c);
    await_one_cluster(&mut c);
    assert_eq!(c.value(others[0], "SELECT a FROM t", "linearizable"), json!(7));
    let leader = c.await_leader(others[0]);
    c.until("what is wrong is told", |c| {
        let error = c.status(leader, "disco.error");
        error.as_str().is_some_and(|error| error.contains("onnection refused")).then_some(())
    });
    store.come_back();
    await_registered(&mut c, &store, leader);
    c.until("nothing is wrong any more", |c| (c.status(leader, "disco.error") == json!({})).then_some(()));

    // A read replica joins whom it finds.
    let config = c.root().join("disco.json");
    let config = config.to_str().unwrap().to_owned();
    let replica = c.member(
        "replica",
        &["-raft-non-voter", "-disco-mode", mode(kind), "-disco-key", "orders", "-disco-config", &config],
    );
    c.start(replica);
    c.await_ready(replica);
    assert_eq!(c.value(replica, "SELECT a FROM t", "weak"), json!(7));
}

#[test]
fn members_that_wait_for_others_in_vain_end_and_go_on_when_they_are_there() {
    let mut c = Cluster::empty();
    c.add_members(3, &["-bootstrap-expect-timeout", "1500ms"]);
    let began = std::time::Instant::now();
    (0..2).for_each(|i| c.start(i));
    for i in 0..2 {
        assert_eq!(c.exit_code(i), Some(1));
        let log = c.log(i);
        let fatal = log.lines().find(|line| line.starts_with("fatal: ")).unwrap();
        assert!(fatal.contains("of 3 expected members appeared within 1.5s"), "{fatal}");
    }
    assert!((1..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    // Nothing was made; whoever watches the processes starts them again.
    (0..3).for_each(|i| c.add_flags(i, &["-bootstrap-expect-timeout", "60s"]));
    start_all(&mut c);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
}

/// Addresses of this machine that nobody else uses, by their last part.
fn own_addresses() -> impl Fn(u8) -> Ipv4Addr {
    let (a, b) = (rand::random_range(10..250), rand::random_range(1..250));
    move |n| Ipv4Addr::new(127, a, b, n)
}

/// Three members form a cluster by what a server of names says, and write. They come back when all were down, also where
/// the names, and then their server, are gone: by what their logs tell of the others.
fn form_by_names(c: &mut Cluster, names: Names, mode: &str) {
    c.ask_for_names(&names);
    start_all(c);
    await_one_cluster(c);
    assert!(names.answered() > 0, "nobody asked");
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(7)"]));
    let come_back = |c: &mut Cluster| {
        (0..3).for_each(|i| c.kill(i));
        start_all(c);
        for i in 0..3 {
            assert_eq!(c.value(i, "SELECT a FROM t", "linearizable"), json!(7));
            assert_eq!(c.status(i, "disco.mode"), json!(mode));
        }
    };
    come_back(c);
    names.forget();
    come_back(c);
    drop(names);
    come_back(c);
    await_one_cluster(c);
    c.execute(0, &json!(["UPDATE t SET a = 8"]));
}

#[test]
fn members_form_a_cluster_by_the_services_that_a_server_of_names_tells() {
    let mut c = Cluster::empty();
    let config = r#"{"name": "members.example", "service": "raft"}"#;
    let mut records = Records::default();
    for name in ["a", "b", "c"] {
        let i =
            c.member(name, &["-bootstrap-expect", "3", "-disco-mode", "dns-srv", "-disco-config", config]);
        let host = format!("{name}.members.example.");
        records.service("_raft._tcp.members.example.", &host, c.members[i].raft);
        records.address(&host, Ipv4Addr::LOCALHOST);
    }
    let names = Names::serve(own_addresses()(53), records);
    form_by_names(&mut c, names, "dns-srv");
}

#[test]
fn members_form_a_cluster_by_the_addresses_that_a_server_of_names_tells() {
    let mut c = Cluster::empty();
    let address = own_addresses();
    let port = free_ports(1)[0];
    let config = json!({ "name": "members.example", "port": port }).to_string();
    let mut records = Records::default();
    for (n, name) in (1..).zip(["a", "b", "c"]) {
        let own = format!("{}:{port}", address(n));
        c.member(
            name,
            &["-bootstrap-expect", "3", "-disco-mode", "dns", "-disco-config", &config, "-raft-addr", &own],
        );
        records.address("members.example.", address(n));
    }
    let names = Names::serve(address(53), records);
    form_by_names(&mut c, names, "dns");
}

#[test]
fn three_members_find_each_other_by_consul() {
    three_members_find_each_other(Kind::Consul);
}

#[test]
fn three_members_find_each_other_by_etcd() {
    three_members_find_each_other(Kind::Etcd);
}

#[test]
fn a_store_that_is_away_is_waited_for() {
    for kind in [Kind::Consul, Kind::Etcd] {
        let port = free_ports(1)[0];
        let mut c = members(2, kind, &settings(kind, port));
        c.start(0);
        c.start(1);
        for i in 0..2 {
            c.until("it says what it waits for", |c| {
                let log = c.log(i);
                let says = log.contains("waiting for it to make or join a cluster");
                (says && log.contains(&format!("127.0.0.1:{port}")) && log.contains("onnection refused"))
                    .then_some(())
            });
            assert!(!c.is_ready(i));
            assert_eq!(c.get(i, "/status").0, 200);
        }
        let _store = Store::start(kind, port, None);
        c.await_ready(0);
        c.await_ready(1);
        await_one_cluster(&mut c);
    }
}

#[test]
fn credentials_count() {
    for (kind, right, wrong, said) in [
        (
            Kind::Consul,
            json!({"token": "sesame"}),
            json!({"token": "open"}),
            "403 Forbidden: Permission denied",
        ),
        (Kind::Consul, json!({"token_file": "FILE"}), json!({}), "403 Forbidden: Permission denied"),
        (
            Kind::Etcd,
            json!({"username": "me", "password": "$DISCO_TEST_PASSWORD"}),
            json!({"username": "me", "password": "open"}),
            "authentication failed, invalid user ID or password",
        ),
        (
            Kind::Etcd,
            json!({"username": "${DISCO_TEST_USER}", "password": "sesame"}),
            json!({}),
            "user name is empty",
        ),
    ] {
        let store = Store::start(kind, free_ports(1)[0], Some("sesame"));
        let of = |more: &Value, c: &Cluster| {
            let mut settings = settings(kind, store.port);
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            if settings["token_file"] == "FILE" {
                let file = c.root().join("token");
                std::fs::write(&file, "sesame\n").unwrap();
                settings["token_file"] = json!(file);
            }
            std::fs::write(c.root().join("disco.json"), settings.to_string()).unwrap();
        };
        let mut c = members(1, kind, &json!({}));
        c.set_environment("DISCO_TEST_PASSWORD", "sesame".into());
        c.set_environment("DISCO_TEST_USER", "me".into());
        of(&wrong, &c);
        c.start(0);
        assert_eq!(c.exit_code(0), Some(1), "{wrong}");
        let log = c.log(0);
        let fatal = log.lines().find(|line| line.starts_with("fatal: ")).unwrap();
        assert!(fatal.contains(said) && fatal.contains("look at the credentials"), "{fatal}");
        assert!(!log.contains("open\""), "{log}");
        of(&right, &c);
        c.start(0);
        c.await_ready(0);
        assert!(!c.log(0).contains("sesame"));
        assert!(!c.get(0, "/status").1.contains("sesame"));
    }
}

#[test]
fn an_answer_that_is_lost_makes_no_second_cluster() {
    for (kind, write) in [(Kind::Consul, "PUT /v1/kv/"), (Kind::Etcd, "POST /v3/kv/txn")] {
        let store = Store::start(kind, free_ports(1)[0], None);
        let faults = HttpFaults::start(store.port);
        faults.set(move |request| {
            let line = format!("{} {}", request.method, request.path);
            if line.starts_with(write) { Fault::Lose } else { Fault::Pass }
        });
        let mut c = members(2, kind, &settings(kind, faults.port));
        start_all(&mut c);
        await_one_cluster(&mut c);
    }
}

#[test]
fn a_member_on_another_disk_makes_no_second_cluster() {
    let store = Store::start(Kind::Consul, free_ports(1)[0], None);
    let mut c = members(1, Kind::Consul, &settings(Kind::Consul, store.port));
    start_all(&mut c);
    let before = c.report(0)["clusterId"].clone();
    assert_eq!(c.terminate(0), Some(0));
    std::fs::remove_dir_all(&c.members[0].dir).unwrap();
    c.start(0);
    c.await_log(0, "from another disk; waiting");
    assert!(!c.is_ready(0));
    store.delete(KEY);
    c.await_ready(0);
    assert_ne!(c.report(0)["clusterId"], before);
    assert_eq!(store.get(KEY).unwrap()["node_id"], c.report(0)["nodeId"]);
}

/// A real etcd, ended with the test.
struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "needs etcd: make test gives one"]
fn three_members_find_each_other_by_a_real_etcd() {
    let program = std::env::var("DISCO_ETCD").expect("DISCO_ETCD names the program of etcd");
    let ports = free_ports(2);
    let url = format!("https://127.0.0.1:{}", ports[0]);
    let peers = format!("http://127.0.0.1:{}", ports[1]);
    let authority = Authority::new("registry");
    let mut c = members(3, Kind::Etcd, &json!({}));
    let ca = authority.write(&c.root().join("ca.crt"));
    let files = authority.issue(c.root(), "etcd", &["127.0.0.1"]);
    // etcd takes no common name here.
    let own = authority.issue_nameless(c.root(), "own");
    let data = c.root().join("etcd");
    let child = Command::new(program)
        .args(["--name", "e", "--data-dir", data.to_str().unwrap()])
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("e={peers}")])
        .args(["--cert-file", files.certificate(), "--key-file", files.key()])
        .args(["--trusted-ca-file", &ca, "--client-cert-auth", "--unsafe-no-fsync"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _etcd = Etcd(child);
    let http = reqwest::blocking::Client::builder()
        .add_root_certificate(authority.trusted())
        .identity(own.identity())
        .build()
        .unwrap();
    let ask = |path: &str, body: Value| -> Option<Value> {
        let answer = http.post(format!("{url}{path}")).body(body.to_string()).send().ok()?;
        answer.status().is_success().then(|| answer.json().unwrap())
    };
    c.until("etcd answers", |_| ask("/v3/kv/range", json!({"key": "YQ=="})).map(drop));
    for (path, body) in [
        ("/v3/auth/user/add", json!({"name": "root", "password": "sesame"})),
        ("/v3/auth/role/add", json!({"name": "root"})),
        ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
        ("/v3/auth/enable", json!({})),
    ] {
        ask(path, body).unwrap_or_else(|| panic!("{path}"));
    }
    let settings = |password: &str| {
        json!({
            "endpoints": ["https://127.0.0.1:1", url], "username": "root", "password": password,
            "tls_config": {"ca_file": ca, "cert_file": own.certificate(), "key_file": own.key()},
        })
    };
    let config = c.root().join("disco.json");
    std::fs::write(&config, settings("open").to_string()).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(1));
    assert!(c.log(0).contains("authentication failed, invalid user ID or password"), "{}", c.log(0));
    std::fs::write(&config, settings("sesame").to_string()).unwrap();
    start_all(&mut c);
    await_one_cluster(&mut c);
    let token = ask("/v3/auth/authenticate", json!({"name": "root", "password": "sesame"})).unwrap();
    let token = token["token"].as_str().unwrap().to_owned();
    let registered = || -> Option<Value> {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD;
        let range = http.post(format!("{url}/v3/kv/range")).header("Authorization", &token);
        let range: Value =
            range.body(json!({"key": base64.encode(KEY)}).to_string()).send().ok()?.json().ok()?;
        serde_json::from_slice(&base64.decode(range["kvs"][0]["value"].as_str()?).ok()?).ok()
    };
    for _ in 0..2 {
        let next = (c.await_leader(0) + 1) % 3;
        c.lead(next);
        let name = c.members[next].name.clone();
        c.until("the leader is registered", |_| (registered()?["id"] == json!(name)).then_some(()));
    }
    assert!((0..3).all(|i| !c.log(i).contains("sesame")));
}
