//! Extensions of SQLite by real processes: all members execute entries by the same ones, whatever comes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::backups::{
    await_archived, cluster_id, files_below, insert, leader_of, restore_in_place, settings,
};
use support::extension::Extension;
use support::{Cluster, Door, cluster_with, patient};

/// What uses an extension in every way that writes may.
const SCHEMA: &str = "CREATE TABLE t(a INTEGER CHECK (twice(a) > -100), b TEXT COLLATE reversed, \
                      c AS (twice(a)) STORED, d DEFAULT (twice(4)))";
const INDEX: &str = "CREATE INDEX by_twice ON t(twice(a), b)";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a statement answers as an error.
fn error_of(c: &Cluster, i: usize, path: &str, sql: &str) -> String {
    let (_, body) = c.post(i, path, &json!([sql]).to_string());
    let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
    answer["results"][0]["error"].as_str().unwrap_or_else(|| panic!("{sql}: {answer}")).to_owned()
}

/// The factor that `twice` has by the state's extensions.
fn times(c: &Cluster, i: usize) -> Value {
    c.value(i, "SELECT twice(1)", "none")
}

fn await_same_state(c: &mut Cluster) {
    let running: Vec<usize> = (0..c.members.len()).filter(|i| c.runs(*i)).collect();
    c.until("the same checksum everywhere", |c| {
        let said: Vec<Value> = running.iter().map(|i| c.status(*i, "store.checksum")).collect();
        (said[0].is_object() && said.iter().all(|checksum| *checksum == said[0])).then_some(())
    });
}

fn purge(c: &Cluster) {
    for i in (0..c.members.len()).filter(|i| c.runs(*i)) {
        let (status, body) = c.post(i, "/snapshot?trailing_logs=0", "");
        assert!(status == 200 || status == 204, "{body}");
    }
}

#[test]
fn members_execute_by_the_same_extensions() {
    let root = tempfile::tempdir().unwrap();
    let path = Extension::SOUND.build(root.path(), "twice.so");
    let flags = ["-extensions-path", text(&path), "-consistency-period", "500ms"];
    let mut c = cluster_with(3, &flags);
    for i in 0..3 {
        c.until("the extension is there", |c| (times(c, i) == 2).then_some(()));
        assert_eq!(c.status(i, "extensions.names"), json!(["twice.so"]));
        assert_eq!(c.status(i, "store.sqlite3.extensions"), json!(["twice.so"]));
        assert_eq!(c.status(i, "extensions.message"), Value::Null);
    }
    c.execute(0, &json!([SCHEMA, INDEX]));
    for i in 0..3 {
        c.execute(i, &json!([["INSERT INTO t(a, b) VALUES(twice(?), ?)", i, format!("b{i}")]]));
    }
    assert_eq!(c.value(1, "SELECT group_concat(b) FROM (SELECT b FROM t ORDER BY b)", "strong"), "b2,b1,b0");
    assert_eq!(c.value(1, "SELECT sum(c) + sum(d) FROM t WHERE twice(a) = 4", "strong"), 12);
    await_same_state(&mut c);

    // What members could do differently, queries may and writes may not.
    assert!(c.value(0, "SELECT draw()", "none").is_i64());
    assert_eq!(c.value(0, "SELECT sum(n) FROM three", "none"), 6);
    for (sql, part) in [
        ("INSERT INTO t(a) VALUES(draw())", "not marked as deterministic"),
        ("INSERT INTO t(a) SELECT 1 WHERE DRAW() <> 0", "not marked as deterministic"),
        ("INSERT INTO t(a) SELECT n FROM three", "no such table: three"),
        ("CREATE VIRTUAL TABLE v USING three", "-extensions-modules"),
        ("CREATE INDEX i ON t(draw())", "not marked as deterministic"),
        ("SELECT load_extension('x')", "not authorized"),
    ] {
        let error = error_of(&c, 0, "/db/execute", sql);
        assert!(error.contains(part), "{sql}: {error}");
    }
    assert!(error_of(&c, 0, "/db/query", "SELECT load_extension('x')").contains("not authorized"));

    // A restart, without the file that the flag names: each member has a copy.
    c.kill(1);
    c.start(1);
    c.await_ready(1);
    c.execute(1, &json!([["INSERT INTO t(a, b) VALUES(twice(?), 'again')", 9]]));
    await_same_state(&mut c);

    // A new member gets the state as a snapshot, and has the extension.
    purge(&c);
    let leader = c.await_leader(0);
    let join = format!("127.0.0.1:{}", c.members[leader].raft);
    let stranger = c.member("stranger", &["-join", &join, "-join-interval", "200ms"]);
    c.start(stranger);
    assert_eq!(c.exit_code(stranger), Some(1));
    let log = c.log(stranger);
    assert!(
        log.contains("the cluster has the extensions twice.so (sha256 ")
            && log.contains("configured with none"),
        "{log}"
    );
    let new = c.member("n4", &[&["-join", &join], &flags[..]].concat());
    c.start(new);
    c.await_ready(new);
    // The line follows what it says.
    c.await_log(new, "installed a snapshot");
    c.members.swap_remove(stranger);
    c.execute(3, &json!(["UPDATE t SET a = a + twice(1)"]));
    await_same_state(&mut c);
    c.until("all are consistent", |c| {
        (0..4).all(|i| c.status(i, "store.consistency.state") == "consistent").then_some(())
    });
    assert_eq!(c.value(3, "SELECT count(*) FROM t WHERE twice(a) >= 4", "none"), 4);
}

#[test]
fn a_rolling_restart_changes_them_while_clients_write() {
    let root = tempfile::tempdir().unwrap();
    let old = Extension::SOUND.build(&root.path().join("old"), "twice.so");
    let new = Extension { times: 3, ..Extension::SOUND }.build(&root.path().join("new"), "twice.so");
    let mut c = cluster_with(3, &["-consistency-period", "500ms", "-extensions-path", text(&old)]);
    c.until("the extension is there", |c| (0..3).all(|i| times(c, i) == 2).then_some(()));
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    // A member that restarts refuses connections.
    let write = |door: &Door| door.try_execute(&json!(["INSERT INTO t VALUES(twice(1))"]));
    c.while_written_to(write, |c, written| {
        for i in 0..3 {
            c.await_more(written, 20);
            assert_eq!(c.terminate(i), Some(0));
            c.remove_flags(i, 1);
            c.add_flags(i, &[text(&new)]);
            c.start(i);
            c.await_ready(i);
            if i < 2 {
                assert_eq!(times(c, i), 2, "it goes on with the state's until all have the new one");
                let message = c.status(i, "extensions.message");
                assert!(
                    message.as_str().unwrap().contains("when all members are configured alike"),
                    "{message}"
                );
            }
            if i == 0 {
                // A member with an empty disk needs the former one.
                let leader = c.await_leader(0);
                let join = format!("127.0.0.1:{}", c.members[leader].raft);
                let flags = ["-join", &join, "-consistency-period", "500ms", "-extensions-path", text(&new)];
                let early = c.member("early", &[&flags[..], &["-join-interval", "200ms"]].concat());
                c.start(early);
                assert_eq!(c.exit_code(early), Some(1));
                assert!(c.log(early).contains("-extensions-former"), "{}", c.log(early));
                c.members.remove(early);
                let n4 = c.member("n4", &[&flags[..], &["-extensions-former", text(&old)]].concat());
                c.start(n4);
                c.await_ready(n4);
                assert_eq!(times(c, n4), 2);
            }
        }
        c.until("all have the new one", |c| (0..4).all(|i| times(c, i) == 3).then_some(()));
        c.await_more(written, 20);
    });
    await_same_state(&mut c);
    let values = "SELECT group_concat(DISTINCT a) FROM (SELECT a FROM t ORDER BY rowid)";
    assert_eq!(c.value(0, values, "strong"), "2,3", "each entry was executed by one of the two");
    // Entries of the time before are executed again by what they were executed by then.
    c.kill(2);
    c.start(2);
    c.await_ready(2);
    await_same_state(&mut c);

    // A member that was away while they changed, and comes back without the new one, says so.
    c.remove_flags(2, 2);
    c.terminate(2);
    std::fs::remove_dir_all(c.members[2].dir.join("extensions")).unwrap();
    c.start(2);
    assert_eq!(c.exit_code(2), Some(1));
    let log = c.log(2);
    assert!(
        log.contains("the state needs the extensions twice.so (sha256") && log.contains("is not here"),
        "{log}"
    );
    c.add_flags(2, &["-extensions-path", text(&new)]);
    c.start(2);
    c.await_ready(2);
    await_same_state(&mut c);
}

#[test]
fn a_member_with_other_extensions_joins_once_it_has_the_right_ones() {
    let root = tempfile::tempdir().unwrap();
    let right = Extension::SOUND.build(&root.path().join("right"), "twice.so");
    let other = Extension { times: 3, ..Extension::SOUND }.build(&root.path().join("other"), "twice.so");
    let mut c = cluster_with(1, &["-extensions-path", text(&right)]);
    c.execute(0, &json!([SCHEMA, INDEX, "INSERT INTO t(a, b) VALUES(twice(2), 'b')"]));
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let n2 = c.member("n2", &["-join", &join, "-join-interval", "200ms", "-extensions-path", text(&other)]);
    // Each start is refused, and each time by the sums of both.
    for start in 1..=2 {
        c.start(n2);
        assert_eq!(c.exit_code(n2), Some(1));
        let log = c.log(n2);
        let refused: Vec<&str> = log.lines().filter(|line| line.starts_with("fatal: ")).collect();
        assert_eq!(refused.len(), start, "{log}");
        for (whose, file) in [("the cluster has the extensions", &right), ("is configured with", &other)] {
            let part = format!("{whose} twice.so (sha256 {}", &sum_of(file)[..12]);
            assert!(refused[start - 1].contains(&part), "{part}: {log}");
        }
    }
    let report = c.report(0);
    assert_eq!(report["membership"]["members"].as_array().unwrap().len(), 1, "{report}");
    // The directory is as good as a new one, and still the same member's.
    let identity = c.members[n2].dir.join("identity.json");
    let node_id = || {
        let kept: Value = serde_json::from_slice(&std::fs::read(&identity).unwrap()).unwrap();
        kept["nodeId"].clone()
    };
    let before = node_id();
    c.remove_flags(n2, 1);
    c.add_flags(n2, &[text(&right)]);
    c.start(n2);
    c.await_ready(n2);
    assert_eq!(c.report(n2)["nodeId"], before);
    assert_eq!(node_id(), before);
    c.execute(n2, &json!(["UPDATE t SET a = a + twice(1)"]));
    c.until("it is applied here too", |c| (c.value(n2, "SELECT a FROM t", "none") == 6).then_some(()));
    await_same_state(&mut c);
}

/// SHA-256 of a file, in hexadecimal digits.
fn sum_of(file: &Path) -> String {
    Sha256::digest(std::fs::read(file).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn writes_use_modules_that_somebody_vouched_for() {
    let root = tempfile::tempdir().unwrap();
    let path = Extension::SOUND.build(root.path(), "twice.so");
    let mut c = cluster_with(1, &["-extensions-path", text(&path), "-extensions-modules", "Three"]);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t SELECT n FROM three"]));
    c.execute(0, &json!(["CREATE VIRTUAL TABLE v USING three", "INSERT INTO t SELECT n FROM v"]));
    assert_eq!(c.value(0, "SELECT sum(a) FROM t", "strong"), 12);
    assert_eq!(c.status(0, "extensions.present.modules"), json!(["three"]));
    c.terminate(0);
    c.remove_flags(0, 1);
    c.add_flags(0, &["four"]);
    c.start(0);
    assert_eq!(c.exit_code(0), Some(1));
    assert!(c.log(0).contains("no extension has a module four"), "{}", c.log(0));
}

/// A tar archive with one entry.
fn tar_with(kind: tar::EntryType, name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    if kind.is_symlink() {
        header.set_link_name("/etc/passwd").unwrap();
    }
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, content).unwrap();
    archive.into_inner().unwrap()
}

fn zip_with(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(content).unwrap();
    archive.finish().unwrap().into_inner()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn what_cannot_be_loaded_is_an_error_that_changes_nothing() {
    let mut c = cluster_with(1, &[]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    c.terminate(0);
    let data = c.members[0].dir.clone();
    let root = c.root().join("files");
    let sound = Extension::SOUND.build(&root.join("sound"), "twice.so");
    let content = std::fs::read(&sound).unwrap();
    let other = Extension { times: 3, ..Extension::SOUND }.build(&root.join("other"), "twice.so");
    let odd = Extension { entry_point: "sqlite3_other_init", ..Extension::SOUND }.build(&root, "odd1.so");
    let failing = Extension { code: 1, ..Extension::SOUND }.build(&root, "failing.so");
    let lacking = Extension { undefined: true, ..Extension::SOUND }.build(&root, "lacking.so");
    let file = |name: &str, content: &[u8]| -> PathBuf {
        let path = root.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    std::fs::create_dir(root.join("empty")).unwrap();
    let regular = tar::EntryType::Regular;
    let bytes = vec![0; 100_000];
    let state = || -> Vec<(PathBuf, Vec<u8>)> {
        let is_kept = |path: &PathBuf| path.is_file() && !text(path).contains("identity");
        let files = files_below(&data).into_iter().filter(is_kept);
        files.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
    };
    let before = state();
    for (paths, parts) in [
        (vec![root.join("missing.so")], &["missing.so: No such file"][..]),
        (vec![file("text.so", b"no library")], &["text.so: it cannot be loaded as a shared library"]),
        (vec![odd], &["odd1.so", "sqlite3_extension_init, sqlite3_odd_init, sqlite3_odd1_init"]),
        (vec![failing], &["failing.so"]),
        (vec![lacking], &["lacking.so: it cannot be loaded", "undefined symbol: nobody_defines_this"]),
        (vec![sound.clone(), other], &["twice.so: two files with different contents"]),
        (vec![root.join("empty")], &["there is no extension in it"]),
        (vec![file("not a name.so", &content)], &["is not the name of an extension"]),
        (vec![file("broken.zip", b"PK no zip")], &["broken.zip: a broken zip archive"]),
        (vec![file("broken.tar.gz", b"no gzip")], &["broken.tar.gz: a broken tar archive"]),
        (vec![file("cut.tar", &tar_with(regular, "a.so", &bytes)[..1000])], &["cut.tar"]),
        (vec![file("cut.tgz", &packed(&tar_with(regular, "a.so", &content))[..2000])], &["cut.tgz"]),
        (vec![file("out.tar", &tar_with(regular, "../a.so", &content))], &["leads out of the archive"]),
        (vec![file("root.tar", &tar_with(regular, "/a.so", &content))], &["leads out of the archive"]),
        (vec![file("out.zip", &zip_with("../a.so", &content))], &["leads out of the archive"]),
        (
            vec![file("link.tar", &tar_with(tar::EntryType::Symlink, "a.so", b""))],
            &["\"a.so\" in it is neither a file nor a directory"],
        ),
        (vec![file("pipe.tar", &tar_with(tar::EntryType::Fifo, "a.so", b""))], &["neither a file nor"]),
        (
            vec![file("more.tar", &tar_with(regular, "x/README.md", b"text"))],
            &["README.md: it cannot be loaded"],
        ),
    ] {
        let list: Vec<&str> = paths.iter().map(|path| text(path)).collect();
        let flag = ["-extensions-path", &list.join(",")];
        c.add_flags(0, &flag);
        c.start(0);
        assert_eq!(c.exit_code(0), Some(1), "{list:?}");
        let log = c.log(0);
        let last = log.lines().last().unwrap();
        assert!(last.starts_with("fatal: -extensions-path: "), "{last}");
        assert!(parts.iter().all(|part| last.contains(part)), "{list:?}: {last}");
        assert!(state() == before, "{list:?} changed the data directory");
        c.remove_flags(0, 2);
        // The check of the configuration says the same, and touches nothing.
        let checked = Command::new(env!("CARGO_BIN_EXE_sqlited"))
            .args(["-check-config", flag[0], flag[1]])
            .arg(&data)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(checked.stderr).unwrap();
        assert!(!checked.status.success() && parts.iter().all(|part| said.contains(part)), "{said}");
        assert!(state() == before, "{list:?} changed the data directory");
    }
    c.start(0);
    c.await_ready(0);
}

#[test]
fn directories_and_archives_hold_extensions() {
    let root = tempfile::tempdir().unwrap();
    let content = std::fs::read(Extension::SOUND.build(root.path(), "x.so")).unwrap();
    std::fs::create_dir(root.path().join("volume")).unwrap();
    // As Kubernetes lays out a volume.
    std::fs::create_dir(root.path().join("volume/..data")).unwrap();
    std::fs::write(root.path().join("volume/..data/twice.so"), &content).unwrap();
    std::os::unix::fs::symlink("..data/twice.so", root.path().join("volume/twice.so")).unwrap();
    let tar = tar_with(tar::EntryType::Regular, "./inside/twice.so", &content);
    for (name, bytes) in [
        ("volume", None),
        ("a.zip", Some(zip_with("inside/twice.so", &content))),
        ("a.tar", Some(tar.clone())),
        ("a.tar.gz", Some(packed(&tar))),
        ("a.tgz", Some(packed(&tar))),
    ] {
        let path = root.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        let c = cluster_with(1, &["-extensions-path", text(&path)]);
        // In service, a new member has what it was configured with.
        assert_eq!(times(&c, 0), 2, "{name}");
        assert_eq!(c.status(0, "extensions.names"), json!(["twice.so"]));
        assert!(!c.members[0].dir.join("extensions.new").exists());
    }
}

/// What `sqlited restore` or `verify` says, and whether it succeeded.
fn bring_back(verb: &str, config: &Path, cluster_id: &str, more: &[&str], output: &Path) -> (bool, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_sqlited"))
        .args([verb, "-backup-config", text(config), "-cluster-id", cluster_id])
        .args(more)
        .arg(output)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (done.status.success(), String::from_utf8(done.stderr).unwrap())
}

#[test]
fn backups_come_back_by_the_extensions_of_their_time() {
    let root = tempfile::tempdir().unwrap();
    let old = Extension::SOUND.build(&root.path().join("old"), "twice.so");
    let new = Extension { times: 3, ..Extension::SOUND }.build(&root.path().join("new"), "twice.so");
    let mut c = Cluster::empty();
    let config = settings(c.root(), Some(1), false);
    c.add_members(1, &["-backup-config", text(&config), "-extensions-path", text(&old)]);
    c.start(0);
    c.await_ready(0);
    c.create_ledger(0);
    c.execute(0, &json!([SCHEMA, INDEX, "INSERT INTO t(a, b) VALUES(twice(1), 'old')"]));
    let before = insert(&c, 0, 1);
    await_archived(&mut c, before);
    c.terminate(0);
    c.remove_flags(0, 1);
    c.add_flags(0, &[text(&new)]);
    c.start(0);
    c.await_ready(0);
    c.execute(0, &json!(["DROP TABLE t", SCHEMA, INDEX, "INSERT INTO t(a, b) VALUES(twice(1), 'new')"]));
    let after = insert(&c, 0, 2);
    await_archived(&mut c, after);

    let id = cluster_id(&c);
    let out = c.root().join("out.sqlite");
    let (done, said) = bring_back("restore", &config, &id, &[], &out);
    assert!(
        !done && said.contains("needs the extensions twice.so (sha256") && said.contains("-extensions-path"),
        "{said}"
    );
    assert!(!out.exists());
    let both = format!("{},{}", text(&old), text(&new));
    let extensions = ["-extensions-path", both.as_str()];
    let queries = c.root().join("queries.yaml");
    let expect = json!([{"sql": "SELECT twice(a) || b FROM t", "expect": "9new"}]);
    std::fs::write(&queries, expect.to_string()).unwrap();
    let more = [&extensions[..], &["-queries", text(&queries)]].concat();
    let (done, said) = bring_back("verify", &config, &id, &more, &c.root().join("room"));
    assert!(done, "{said}");
    let (done, said) = bring_back("restore", &config, &id, &extensions, &out);
    assert!(done, "{said}");
    let file = rusqlite::Connection::open(&out).unwrap();
    let value: i64 = file.query_row("SELECT c FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(value, 9);
    drop(file);

    // In place: the member has copies of both. The extensions stay the cluster's.
    restore_in_place(&mut c, "back", &json!({"index": before}), &json!({}));
    let leader = leader_of(&mut c);
    assert_eq!(c.value(leader, "SELECT c FROM t", "strong"), 4);
    assert_eq!(times(&c, leader), 3);

    // A client's file whose indexes need the extension is taken.
    let (status, body) = c.post(leader, "/db/execute", &json!(["DELETE FROM t"]).to_string());
    assert_eq!(status, 200, "{body}");
    c.execute(leader, &json!(["REINDEX", "INSERT INTO t(a, b) VALUES(twice(1), 'loaded')"]));
    for path in ["/db/backup", "/db/backup?vacuum", "/db/backup?fmt=sql"] {
        let copy = c.send(reqwest::Method::GET, leader, path, &[], b"");
        assert_eq!(copy.status, 200, "{path}");
        if path.contains("sql") {
            assert!(copy.text().contains("twice"), "{}", copy.text());
            continue;
        }
        let loaded = c.send(reqwest::Method::POST, leader, "/db/load", &[], &copy.body);
        assert_eq!(loaded.status, 200, "{path}: {}", loaded.text());
        assert_eq!(c.value(leader, "SELECT b FROM t WHERE twice(a) = 9", "strong"), "loaded");
    }

    // A new cluster begins with such a file, once it has the extension.
    let copy = c.send(reqwest::Method::GET, leader, "/db/backup", &[], b"");
    std::fs::write(c.root().join("copy.sqlite"), &copy.body).unwrap();
    let from = json!({"version": 1, "type": "file", "sub": {"dir": c.root(), "name": "copy.sqlite"}});
    let restore = c.root().join("restore.json");
    std::fs::write(&restore, from.to_string()).unwrap();
    let flags = ["-extensions-path", text(&new), "-auto-restore", text(&restore)];
    let mut begun = cluster_with(3, &flags);
    assert_eq!(begun.value(1, "SELECT b FROM t WHERE twice(a) = 9", "strong"), "loaded");
    await_same_state(&mut begun);
}

/// What is tried in the child that checks databases, and the error number that it gets.
fn attempts(c: &Cluster) -> Vec<(String, i64)> {
    const NOT_PERMITTED: i64 = 1;
    const DENIED: i64 = 13;
    const NO_SUCH_CALL: i64 = 38;
    let own = &c.members[0].dir;
    let mut all = vec![
        ("/dev/urandom".to_owned(), 0),
        ("/etc/passwd".to_owned(), DENIED),
        ("/proc/self/environ".to_owned(), DENIED),
        (text(&own.join("identity.json")).to_owned(), DENIED),
        (text(&own.join("db.sqlite")).to_owned(), DENIED),
        (format!("+{}", text(&own.join("planted"))), DENIED),
        (format!("+{}", text(&own.join("staging/planted"))), DENIED),
        ("thread".to_owned(), 0),
        ("tgkill oneself".to_owned(), 0),
        ("clone3".to_owned(), NO_SUCH_CALL),
    ];
    let calls = "socket|local socket|connect|bind|accept|sendto|execve|execveat|fork|clone|kill|tgkill|prlimit64|ptrace|\
                 process_vm_readv|mount|unshare|init_module|bpf|perf_event_open|keyctl|setuid|io_uring_setup|truncate|\
                 fchmodat";
    all.extend(calls.split('|').map(|call| (call.to_owned(), NOT_PERMITTED)));
    if cfg!(target_arch = "x86_64") {
        all.push(("socket by its second number".to_owned(), NOT_PERMITTED));
    }
    all
}

/// A database that can be written anew only where `attempt` answers so: by an index that would have a value twice. There is
/// a table for each, so that the message names what does not.
fn holds_if(directory: &Path, attempts: &[(String, i64)]) -> Vec<u8> {
    let path = directory.join("attempts");
    drop(std::fs::remove_file(&path));
    let database = rusqlite::Connection::open(&path).unwrap();
    let flags = rusqlite::functions::FunctionFlags::SQLITE_DETERMINISTIC;
    for (what, code) in attempts {
        let code = *code;
        database.create_scalar_function("attempt", 1, flags, move |_| Ok(code)).unwrap();
        let made = format!(
            "CREATE TABLE \"{what}\"(id INTEGER PRIMARY KEY, a);
             INSERT INTO \"{what}\"(a) VALUES('{what}'), ('{what}');
             CREATE UNIQUE INDEX \"index of {what}\" ON \"{what}\"(iif(attempt(a) = {code}, id, 0))"
        );
        database.execute_batch(&made).unwrap();
    }
    database.close().unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn what_checks_a_database_opens_nothing_else_and_calls_nobody() {
    let root = tempfile::tempdir().unwrap();
    let path = Extension::SOUND.build(root.path(), "twice.so");
    let mut c = cluster_with(1, &["-extensions-path", text(&path)]);
    c.until("the extension is there", |c| (times(c, 0) == 2).then_some(()));
    let boot = |c: &Cluster, body| {
        let answer = patient().post(c.url(0, "/boot")).body(body).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    };
    let of_thread = [("thread".to_owned(), 0)];
    assert_eq!(boot(&c, holds_if(root.path(), &of_thread)), (200, String::new()));
    // A machine without one of the two says so, and is asked for the other only.
    let lacks = c.status(0, "store.load.lacks_confinement").to_string();
    let is_there = |what: &str| {
        let by = if what.starts_with(['/', '+']) { "Landlock" } else { "seccomp" };
        !lacks.contains(by)
    };
    let mut tried = attempts(&c);
    tried.retain(|(what, _)| is_there(what));
    assert_eq!(boot(&c, holds_if(root.path(), &tried)), (200, String::new()), "{lacks}");
    let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, 1) <> '_'";
    assert_eq!(c.value(0, tables, "none"), tried.len());
    for planted in ["planted", "staging/planted"] {
        assert!(!c.members[0].dir.join(planted).exists(), "{planted}");
    }
    // The member itself could.
    let identity = c.members[0].dir.join("identity.json");
    for (what, code) in [(text(&identity), 0), ("socket", 0), ("execve", 2), ("fork", 0), ("kill", 0)] {
        assert_eq!(c.value(0, &format!("SELECT attempt('{what}')"), "none"), code, "{what}");
        let (status, body) = boot(&c, holds_if(root.path(), &[(what.to_owned(), code)]));
        assert!(!is_there(what) || status == 400 && body.contains(what), "{what}: {status} {body}");
    }
}
