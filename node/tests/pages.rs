//! The pages about `sqlited` do what they say: each is followed from top to bottom, block by block, by somebody who has a
//! machine, or three, and copies what stands there. Hosts, ports and files of the pages are other ones here, and the
//! names that each test begins with say which. Pages about Kubernetes are followed by `e2e/tests/kubernetes/pages.rs`, and
//! the API's examples by `contract/docs.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use support::extension::Extension;
use support::free_ports;
use support::page::{Walk, blocks, commands};
use support::sink::Sink;
use tempfile::TempDir;

/// Who follows blocks that are about Kubernetes.
const ON_KUBERNETES: &str = "it is for Kubernetes: e2e/tests/kubernetes/pages.rs";

/// Opens a page, with ports of its own for each that `sqlited` has.
fn open(page: &'static str, directory: &Path, names: &[(&str, &str)]) -> Walk {
    let ports = free_ports(3);
    let [http, raft, health] = [ports[0], ports[1], ports[2]].map(|port| format!(":{port}"));
    let here = directory.display();
    let programs = Path::new(env!("CARGO_BIN_EXE_sqlited")).parent().unwrap().display();
    // A member has a terminal of its own, where it goes on: here it goes on behind.
    let prelude = format!(
        r#"export PATH={programs}:$PATH HOME={here}
export SQLITED_HTTP_ADDR=127.0.0.1{http} SQLITED_RAFT_ADDR=127.0.0.1{raft} SQLITED_HEALTH_ADDR=127.0.0.1{health}
sqlited() {{
  case " $* " in
  *' -check-config '* | ' hash-password '* | ' restore '* | ' verify '*) command sqlited "$@" ;;
  *) command sqlited "$@" 2>>"${{!#}}.log" & echo $! >"${{!#}}.pid" ;;
  esac
}}
stop() {{ kill "$(cat "$1.pid")"; while [ -e "/proc/$(cat "$1.pid")" ]; do sleep 0.02; done; }}
"#
    );
    let etc = format!("{here}/etc");
    let ours = [
        (":4001", &*http),
        (":4002", &raft),
        (":4003", &health),
        ("/var/lib/sqlited", "data"),
        ("/etc/sqlited", &etc),
    ];
    Walk::open(page, directory, &[names, &ours].concat(), &prelude)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"))
}

/// The first value of the first row of a query.
fn value(walk: &mut Walk, host: &str, sql: &str) -> Value {
    let answer = walk.type_in(&format!("curl -sG {host}:4001/db/query --data-urlencode 'q={sql}'"));
    json(&answer)["results"][0]["values"][0][0].clone()
}

#[test]
fn the_page_about_clusters() {
    let directory = TempDir::new().unwrap();
    // Three machines are three addresses of this one.
    let machines = [1, 2, 3, 4].map(|n| (format!("db-{n}.example"), format!("127.0.0.{n}")));
    let machines = machines.each_ref().map(|(name, address)| (&**name, &**address));
    let mut walk = open("docs/cluster.md", directory.path(), &machines);
    let on_machine = |walk: &mut Walk, n: usize, text: &str| {
        walk.rename("-node-id db-1", &format!("-node-id db-{n}"));
        walk.rename("-adv-addr db-1.", &format!("-adv-addr db-{n}."));
        walk.rename("0.0.0.0", &format!("127.0.0.{n}"));
        walk.rename("127.0.0.1:4003", &format!("127.0.0.{n}:4003"));
        walk.rename("/var/lib/sqlited", &format!("db-{n}"));
        walk.type_in(text);
    };
    let ready = |walk: &mut Walk, n: usize| walk.until(&format!("curl -sf db-{n}.example:4003/ready"));
    let start = walk.next("sqlited -node-id db-1").text;
    (1..=3).for_each(|n| on_machine(&mut walk, n, &start));
    (1..=3).for_each(|n| drop(ready(&mut walk, n)));
    walk.type_in("curl -sf db-1.example:4001/db/execute -d '[\"CREATE TABLE t(x)\"]'");

    // Two of them, one behind the other, and then a member that goes: all of it has come about afterwards.
    walk.follow("curl -X POST db-1.example:4001/leader");
    walk.until("curl -s db-1.example:4001/leader | grep '\"id\":\"db-1\"'");
    let nodes = json(&walk.until("curl -sf db-1.example:4001/nodes"));
    assert!(nodes.get("db-2").is_some() && nodes.get("db-3").is_none(), "{nodes}");

    // A read replica votes for a while.
    let addresses = "-http-addr 127.0.0.4:4001 -raft-addr 127.0.0.4:4002 -health-addr 127.0.0.4:4003";
    walk.type_in(&format!("sqlited -node-id db-4 {addresses} -raft-non-voter -join db-1.example:4002 db-4"));
    ready(&mut walk, 4);
    let promote = walk.next("id=$(curl").text;
    walk.until(&promote);
    walk.until("curl -s db-4.example:4001/status?key=store.raft.voter | grep true");
    let demote = walk.next("id=$(curl").text;
    walk.until(&demote);
    walk.until("curl -s db-4.example:4001/status?key=store.raft.voter | grep false");
    walk.type_in("curl -sf -X DELETE db-1.example:4001/remove -d '{\"id\": \"db-4\"}'");
    walk.type_in("kill -KILL $(cat db-4.pid)");

    walk.type_in("kill -KILL $(cat db-2.pid)");
    let read = "db-1.example:4001/db/query?level=linearizable&linearizable_timeout=1s&q=SELECT+1";
    walk.until(&format!("! curl -sf '{read}' | grep values"));
    walk.follow("curl -s db-1.example:4001/cluster");
    walk.until("[ ! -e /proc/$(cat db-1.pid) ]");
    on_machine(&mut walk, 1, &start);
    walk.until(
        "curl -s db-1.example:4001/db/execute -d '[\"INSERT INTO t VALUES(1)\"]' | grep rows_affected",
    );

    // db-2 comes with an empty disk, so that there are two whose names a file can tell.
    walk.type_in("rm -r db-2");
    on_machine(&mut walk, 2, &start);
    ready(&mut walk, 2);
    walk.type_in("stop db-1; stop db-2");
    walk.write("[{\"id\": \"db-1\"", "db-1/raft/peers.json");
    walk.type_in("cp db-1/raft/peers.json db-2/raft/");
    (1..=2).for_each(|n| on_machine(&mut walk, n, &start));
    (1..=2).for_each(|n| drop(ready(&mut walk, n)));
    walk.type_in("[ -e db-1/raft/peers.info ] && [ ! -e db-1/raft/peers.json ]");
    assert_eq!(value(&mut walk, "db-2.example", "SELECT count(*) FROM t"), 1);
    // They stand at no entry, and say so.
    assert!(walk.follow("curl db-1.example:4001/cluster/skip").contains("NotFatal"));
    walk.end();
}

#[test]
fn the_page_about_the_configuration() {
    let directory = TempDir::new().unwrap();
    let mut walk = open("docs/configuration.md", directory.path(), &[]);
    walk.type_in("mkdir etc && echo token >etc/consul-token && export ETCD_PASSWORD=secret");
    walk.write("data-dir:", "sqlited.yaml");
    walk.type_in("sqlited -check-config -config sqlited.yaml");
    for (begin, store) in [("{\"address\"", "consul"), ("{\"endpoints\"", "etcd")] {
        walk.write(begin, &format!("{store}.json"));
        // The flags of the table above it.
        let flags = format!("-disco-mode {store}-kv -disco-key orders -disco-config {store}.json");
        walk.type_in(&format!("sqlited -check-config {flags} data"));
    }
    walk.end();
}

#[test]
fn the_page_about_extensions() {
    let directory = TempDir::new().unwrap();
    let here = directory.path().display().to_string();
    Extension::SOUND.build(directory.path(), "text.so");
    Extension::SOUND.build(&directory.path().join("more"), "more.so");
    let mut walk =
        open("docs/extensions.md", directory.path(), &[("/usr/lib/sqlite", &here), ("/opt", &here)]);
    walk.type_in("rm more/.more.so.c && tar czf more.tar.gz more");
    walk.follow("sqlited -extensions-path");
    walk.until("curl -s localhost:4001/status?key=extensions.names | grep more.so");
    assert_eq!(value(&mut walk, "localhost", "SELECT twice(21)"), 42);
    walk.pass_over("spec:", ON_KUBERNETES);
    walk.pass_over("FROM", ON_KUBERNETES);
    walk.end();
}

#[test]
fn the_page_about_rqlite() {
    let directory = TempDir::new().unwrap();
    let mut walk = open("docs/migration.md", directory.path(), &[("sqlited.example", "127.0.0.1")]);
    // Its part is taken by a member: the API is the same.
    let ports = free_ports(3).iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>();
    walk.rename("rqlite.example:4001", &ports[0]);
    let flags = format!("-http-addr {} -raft-addr {} -health-addr {}", ports[0], ports[1], ports[2]);
    walk.type_in(&format!("sqlited {flags} rqlite; sqlited data"));
    walk.until(&format!("curl -sf {}/ready && curl -sf localhost:4003/ready", ports[2]));
    walk.type_in(
        "curl -sf rqlite.example:4001/db/execute -d '[\"CREATE TABLE t(x)\", \"INSERT INTO t VALUES(7)\"]'",
    );
    walk.follow("curl -sf http://rqlite.example:4001/db/backup");
    // As rqlite leaves it: the file of a database in WAL mode, without its WAL.
    let copy = fs::read(directory.path().join("rqlite.sqlite")).unwrap();
    assert_eq!((&copy[..16], &copy[18..20]), (&b"SQLite format 3\0"[..], &[2, 2][..]));
    walk.follow("curl -sf http://sqlited.example:4001/db/load");
    assert_eq!(value(&mut walk, "localhost", "SELECT x FROM t"), 7);
    walk.type_in("curl -sf localhost:4001/db/execute -d '[\"UPDATE t SET x = 8\"]'");
    walk.follow("curl -sf http://sqlited.example:4001/boot");
    assert_eq!(value(&mut walk, "localhost", "SELECT x FROM t"), 7);
    walk.end();
}

#[test]
fn the_page_about_security() {
    let directory = TempDir::new().unwrap();
    let mut walk = open("docs/security.md", directory.path(), &[]);
    let users = walk.next("[\n  {\"username\": \"app\"").text;
    let hash = walk.follow("umask 077");
    // The hash of the page is shortened.
    let whole = users.replace("$argon2id$v=19$m=19456,t=2,p=1$…", hash.trim());
    assert_ne!(whole, users);
    fs::write(directory.path().join("users.json"), whole).unwrap();
    walk.type_in("sqlited -check-config -auth users.json data; sqlited -auth users.json data");
    walk.until("curl -sf localhost:4003/ready");
    walk.type_in("printf 'user = \"app:%s\"\\n' \"$(cat app-password)\" >app");
    walk.type_in("printf 'user = \"backup:plain text works too\"\\n' >backup");
    for (user, path, status) in [
        ("-K app", "/db/query?q=SELECT+1", 200),
        ("-K app", "/db/backup", 401),
        ("-K backup", "/db/backup", 200),
        ("-K backup", "/db/query?q=SELECT+1", 401),
        ("", "/readyz", 200),
        ("", "/status", 401),
    ] {
        let asked = format!("curl -s -o /dev/null -w '%{{http_code}}' {user} 'localhost:4001{path}'");
        assert_eq!(walk.type_in(&asked), status.to_string(), "{user} {path}");
    }
    walk.end();
}

#[test]
fn the_page_about_changes() {
    let directory = TempDir::new().unwrap();
    let sink = Sink::start();
    let ca = directory.path().join("sink.pem").display().to_string();
    let names = [("https://sink.example/changes", &*sink.url()), ("/etc/sink/ca.pem", &*ca)];
    let mut walk = open("docs/changes.md", directory.path(), &names);
    let authority = support::certificates::Authority::new("sink");
    fs::write(&ca, authority.pem()).unwrap();
    walk.write("{\n  \"endpoint\"", "cdc.json");
    walk.type_in(
        "mv sink.pem elsewhere; ! sqlited -check-config -cdc-config cdc.json data; mv elsewhere sink.pem",
    );
    walk.type_in(
        "sqlited -check-config -cdc-config cdc.json data; sqlited -node-id db-1 -cdc-config cdc.json data",
    );
    walk.until("curl -sf localhost:4003/ready && curl -s localhost:4001/status?key=cdc.enabled | grep true");
    let rows = r#"["CREATE TABLE orders(id INTEGER PRIMARY KEY, paid)", "INSERT INTO orders VALUES(7, 0)"]"#;
    walk.type_in(&format!("curl -sf localhost:4001/db/execute -d '{rows}'"));
    walk.type_in("curl -sf localhost:4001/db/execute -d '[\"UPDATE orders SET paid = 1\"]'");
    let updated = |envelope: &Value| {
        let mut entries = envelope["payload"].as_array().unwrap().iter();
        entries.find(|entry| entry["events"][0]["op"] == "UPDATE").cloned()
    };
    let begun = std::time::Instant::now();
    let (envelope, entry) = loop {
        let found =
            sink.envelopes().into_iter().find_map(|envelope| Some((envelope.clone(), updated(&envelope)?)));
        if let Some(found) = found {
            break found;
        }
        assert!(begun.elapsed() < support::PATIENCE, "{:?}", sink.envelopes());
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    };
    let mut expected = json(&walk.next("{\"service_id\"").text);
    // Where and when it was.
    for field in ["index", "commit_timestamp"] {
        assert!(entry[field].is_u64(), "{entry}");
        expected["payload"][0][field] = entry[field].clone();
    }
    assert_eq!(expected["payload"], Value::Array(vec![entry]));
    for field in ["service_id", "node_id"] {
        assert_eq!(expected[field], envelope[field]);
    }
    walk.pass_over("apiVersion:", ON_KUBERNETES);
    walk.end();
}

#[test]
fn the_page_about_backups() {
    let directory = TempDir::new().unwrap();
    let here = directory.path().display().to_string();
    let mut walk = open("docs/backup.md", directory.path(), &[("/var/tmp", &here)]);
    walk.type_in("mkdir -p etc/store etc/store-ca etc/import && head -c 32 /dev/urandom | base64 >etc/keys");
    walk.type_in("echo id >etc/store/accessKeyId; echo key >etc/store/secretAccessKey");
    let authority = support::certificates::Authority::new("store");
    fs::write(directory.path().join("etc/store-ca/ca.crt"), authority.pem()).unwrap();
    let settings = walk.write("store:", "backup.yaml");
    walk.type_in("sqlited -check-config -backup-config backup.yaml data");
    // There is no S3 server here: e2e/tests/kubernetes/backups.rs has one. A directory takes the bucket's place.
    let mut directory_store: serde_yaml::Value =
        serde_yaml::from_str(&fs::read_to_string(&settings).unwrap()).unwrap();
    directory_store["store"] = serde_yaml::from_str(&format!("filesystem: {{path: {here}/store}}")).unwrap();
    fs::write(&settings, serde_yaml::to_string(&directory_store).unwrap()).unwrap();

    let user = r#"[{"username": "operator", "password": "secret", "perms": ["all"]}]"#;
    fs::write(directory.path().join("users.json"), user).unwrap();
    fs::write(directory.path().join("login"), "user = \"operator:secret\"\n").unwrap();
    walk.type_in("export SQLITED_AUTH=$PWD/users.json; sqlited -backup-config backup.yaml data");
    walk.until("curl -sf localhost:4003/ready");
    let rows = r#"["CREATE TABLE orders(item)", "INSERT INTO orders VALUES(\"a lamp\")"]"#;
    let wrote =
        walk.type_in(&format!("curl -sf -K login 'localhost:4001/db/execute?raft_index' -d '{rows}'"));
    let index = json(&wrote)["raft_index"].to_string();

    walk.follow("curl -K login -X POST localhost:4001/cluster/backups");
    walk.until("curl -s -K login localhost:4001/cluster/backups/jobs | grep Succeeded");
    let archived = format!("jq -e '.windows[-1].lastIndex >= {index}'");
    walk.until(&format!("curl -s -K login localhost:4001/cluster/backups | {archived}"));
    let id = walk.type_in("curl -s -K login localhost:4001/cluster | jq -r .clusterId");
    walk.rename("-cluster-id ID", &format!("-cluster-id {}", id.trim()));
    walk.rename("\"ID\"", &format!("\"{}\"", id.trim()));
    walk.rename("4711", &index);
    let now = walk.type_in("curl -s -K login localhost:4001/cluster/backups | jq -r '.windows[-1].latest'");
    walk.rename("2026-01-31T12:00:00Z", now.trim());
    let verify = walk.next("sqlited restore -backup-config").text;
    // The page shows afterwards what is in the file.
    walk.write("- {sql:", "queries.yaml");
    walk.type_in(&verify);
    for copy in ["orders", &format!("orders-{index}"), "orders-noon"] {
        let db = rusqlite::Connection::open(directory.path().join(format!("{copy}.sqlite"))).unwrap();
        let item: String = db.query_row("SELECT item FROM orders", [], |row| row.get(0)).unwrap();
        assert_eq!(item, "a lamp", "{copy}");
    }

    walk.type_in("curl -sf -K login localhost:4001/db/execute -d '[\"DELETE FROM orders\"]'");
    walk.follow("curl -K login -X POST localhost:4001/cluster/backups -d '{\"name\": \"back-undo\"");
    let count = "curl -sG -K login localhost:4001/db/query --data-urlencode 'q=SELECT count(*) FROM orders'";
    walk.until(&format!("{count} | grep -F '[[1]]'"));
    let succeeded = "curl -s -K login localhost:4001/cluster/restore | grep Succeeded";
    walk.until(succeeded);
    // What is restored last of all is the last state that is archived.
    let installed =
        "$(curl -s -K login localhost:4001/cluster/restore | jq '.jobs[-1].restored.installedIndex')";
    let archived = format!("jq -e \".windows[-1].lastIndex >= {installed}\"");
    walk.until(&format!("curl -s -K login localhost:4001/cluster/backups | {archived}"));

    // The next one begins with what the first one has, and gets it by the first one's own API.
    let ports = free_ports(3);
    let other: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    walk.rename("https://old-cluster:4001", &format!("http://{}", other[0]));
    walk.rename("\n  caFile: /etc/sqlited/import-ca/ca.crt", "");
    walk.type_in("stop data; echo operator >etc/import/username; echo secret >etc/import/password");
    let flags = format!("-http-addr {} -raft-addr {} -health-addr {}", other[0], other[1], other[2]);
    walk.type_in(&format!("mv data old; sqlited {flags} old"));
    walk.until(&format!("curl -sf {}/ready", other[2]));
    walk.write("import:", "import.yaml");
    walk.follow("sqlited -restore-config import.yaml");
    walk.until("curl -sf localhost:4003/ready");
    walk.follow("curl -K login -X POST localhost:4001/cluster/restore -d '{\"name\": \"begin\"");
    walk.until(succeeded);
    walk.until(&format!("{count} | grep -F '[[1]]'"));

    walk.type_in("export BACKUP_KEY_ID=id BACKUP_KEY=key");
    for (begin, what) in [("{\"version\": 1, \"type\": \"s3\", \"interval\"", "backup"), ("{", "restore")] {
        walk.write(begin, &format!("auto-{what}.json"));
        walk.type_in(&format!("sqlited -check-config -auto-{what} auto-{what}.json data"));
    }

    walk.type_in("stop data; stop old; rm -r data old");
    walk.follow("sqlited -restore-config backup.yaml data");
    walk.until("curl -sf localhost:4003/ready");
    walk.follow("curl -K login -X POST localhost:4001/cluster/restore");
    walk.until(succeeded);
    walk.until(&format!("{count} | grep -F '[[1]]'"));
    walk.pass_over("<prefix>", "it shows names, not commands");
    walk.end();
}

#[test]
fn blocks_and_commands_are_found() {
    let page = "a `curl x\ny` b\n```sh\necho `curl no`\n```\n1. c\n   ```yaml\n   a:\n     b\n\n   ```\n`curly` `curl z`\n";
    let found = blocks(page);
    let found: Vec<_> = found.iter().map(|b| (b.line, &*b.language, &*b.text)).collect();
    assert_eq!(found, [(3, "sh", "echo `curl no`\n"), (7, "yaml", "a:\n  b\n\n")]);
    assert_eq!(commands(page, "curl"), ["curl x y", "curl z"]);
}
