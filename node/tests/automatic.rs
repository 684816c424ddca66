//! rqlite's own backups: a copy at an interval, and a new cluster that begins with it.
//!
//! Needs `--features failpoints`; tests that are ignored need a real S3 server, whose program `BACKUP_S3` names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use node::failpoint::Place;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use support::acceptor::Acceptor;
use support::automatic::{
    Stored, all, await_counted, backing_up, beginning, counter, file, start_all, there_and_back,
};
use support::backups::{insert, leader_of};
use support::stores;
use support::{Cluster, cluster};

/// Numbers in the ledger of a backup that is not packed; none of one that was made before there was a ledger.
fn ledger(file: &Path) -> Vec<i64> {
    let db = rusqlite::Connection::open(file).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    if !db.table_exists(None, "ledger").unwrap() {
        return vec![];
    }
    let mut rows = db.prepare("SELECT n FROM ledger ORDER BY n").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn unpack(packed: &Path, to: &Path) {
    let mut plain = Vec::new();
    let packed = std::fs::read(packed).unwrap();
    assert_eq!(packed[..2], [0x1f, 0x8b], "gzip");
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
    std::fs::write(to, plain).unwrap();
}

#[test]
// F2: the leader backs up when there is something new, whoever led before.
fn the_leader_backs_up_what_is_new() {
    let mut c = backing_up(3, |root| {
        let sub = json!({"dir": root.join("backups"), "name": "db.gz"});
        file("file", &sub, &json!({"interval": "300ms"}))
    });
    let (packed, plain) = (c.root().join("backups/db.gz"), c.root().join("plain"));
    let leader = leader_of(&mut c);
    for n in 0..5 {
        insert(&c, leader, n);
    }
    c.until("it is backed up", |_| {
        packed.is_file().then(|| unpack(&packed, &plain))?;
        (ledger(&plain) == [0, 1, 2, 3, 4]).then_some(())
    });
    // Nothing new, nothing done.
    let skipped = counter(&c, leader, "num_uploads_skipped");
    await_counted(&mut c, leader, "num_uploads_skipped", skipped + 1);
    let made = all(&c, "num_uploads_ok");
    let skipped = counter(&c, leader, "num_uploads_skipped");
    await_counted(&mut c, leader, "num_uploads_skipped", skipped + 3);
    assert_eq!(all(&c, "num_uploads_ok"), made);
    assert_eq!(made.iter().sum::<u64>(), made[leader], "only the leader does it");
    let about: Value =
        serde_json::from_slice(&std::fs::read(c.root().join("backups/METADATA.json")).unwrap()).unwrap();
    assert_eq!(about["name"], json!(packed));
    let written: i64 = about["id"].as_str().unwrap().parse().unwrap();
    assert!(written > 1_700_000_000_000_000, "microseconds since 1970: {written}");
    let report = c.status(leader, "auto_backups");
    assert_eq!(report["upload_destination"], json!(packed));
    assert_eq!(report["upload_interval"], json!("300ms"));
    assert!(
        report["last_upload_time"] != json!("") && c.status(leader, "last_backup_time").is_string(),
        "{report}"
    );

    // The next leader finds that it is there, and goes on.
    let next = (leader + 1) % 3;
    c.lead(next);
    await_counted(&mut c, next, "num_uploads_skipped", 1);
    assert_eq!((counter(&c, next, "num_uploads_skipped_id"), counter(&c, next, "num_uploads_ok")), (1, 0));
    insert(&c, next, 5);
    await_counted(&mut c, next, "num_uploads_ok", 1);
    c.until("with what is new", |_| {
        unpack(&packed, &plain);
        (ledger(&plain).len() == 6).then_some(())
    });
    assert!(all(&c, "num_uploads_fail").iter().all(|n| *n == 0));
}

#[test]
fn as_it_is_without_free_space_each_under_a_name_of_its_own() {
    let mut c = backing_up(1, |root| {
        let sub = json!({"dir": root.join("backups"), "file": "db.sqlite"});
        let more = json!({"interval": "200ms", "timestamp": true, "no_compress": true, "vacuum": true});
        file("file", &sub, &more)
    });
    let backups = |c: &Cluster| -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(c.root().join("backups")) else { return vec![] };
        let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        all.retain(|path| name(path).ends_with("_db.sqlite") && !name(path).starts_with('.'));
        all.sort();
        all
    };
    insert(&c, 0, 1);
    c.until("a second one", |c| {
        insert(c, 0, 2);
        (backups(c).len() >= 2).then_some(())
    });
    let name = backups(&c)[0].file_name().unwrap().to_str().unwrap().to_owned();
    assert!(
        name.len() == "20260131120000_db.sqlite".len() && name[..14].bytes().all(|b| b.is_ascii_digit()),
        "{name}"
    );
    // What is free is what the internal table had, which is left out, as from `/db/backup`.
    c.execute(
        0,
        &json!(["INSERT INTO ledger VALUES(3, zeroblob(1000000))", "DELETE FROM ledger WHERE n = 3"]),
    );
    c.until("one without free space", |c| {
        insert(c, 0, 4);
        let db = rusqlite::Connection::open(backups(c).last()?).ok()?;
        let of = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).ok();
        let written = of("SELECT count(*) FROM ledger WHERE n = 4")? > 0;
        (written && of("PRAGMA freelist_count")? < 50).then_some(())
    });
    assert!(c.value(0, "PRAGMA freelist_count", "none").as_i64().is_some_and(|free| free > 50));
    // A place that cannot be written is told, and tried again.
    let directory = c.root().join("backups");
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "in the way").unwrap();
    insert(&c, 0, 3);
    await_counted(&mut c, 0, "num_uploads_fail", 1);
    assert!(c.status(0, "auto_backups.error").as_str().unwrap().contains("backups"));
    std::fs::remove_file(&directory).unwrap();
    let made = counter(&c, 0, "num_uploads_ok");
    await_counted(&mut c, 0, "num_uploads_ok", made + 1);
    assert_eq!(c.status(0, "auto_backups.error"), json!({}));
}

/// A backup of 50 numbers, as another cluster serves it.
fn made_backup(root: &Path, query: &str) -> PathBuf {
    let from = cluster(1);
    from.create_ledger(0);
    for n in 0..50 {
        insert(&from, 0, n);
    }
    let answer = from.send(reqwest::Method::GET, 0, &format!("/db/backup{query}"), &[], &[]);
    let path = root.join("db");
    std::fs::write(&path, answer.body).unwrap();
    path
}

#[test]
// F2: a new cluster begins with a backup, once.
fn a_new_cluster_begins_with_a_backup_once() {
    let root = tempfile::tempdir().unwrap();
    for query in ["", "?compress", "?fmt=sql"] {
        made_backup(root.path(), query);
        let mut c = beginning(3, &file("file", &json!({"dir": root.path(), "name": "db"}), &json!({})));
        start_all(&mut c);
        for i in 0..3 {
            assert_eq!(c.assert_ledger(i, &[]), (0..50).collect::<Vec<_>>(), "{query}");
            let known: Value = serde_json::from_str(&c.get(i, "/cluster/restore").1).unwrap();
            assert_eq!(known["jobs"][0]["name"], json!("auto-restore"), "{known}");
        }
        if query == "?compress" {
            // With data, and with none any more, it means nothing.
            c.execute(0, &json!(["DROP TABLE ledger"]));
            for i in 0..3 {
                assert_eq!(c.terminate(i), Some(0));
            }
            start_all(&mut c);
            let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'ledger'";
            assert_eq!(c.value(0, tables, "linearizable"), json!(0));
            // Nor for a member that comes to a cluster.
            let flags: Vec<String> = (0..3).map(|i| format!("127.0.0.1:{}", c.members[i].raft)).collect();
            let path = c.root().join("restore.json").to_str().unwrap().to_owned();
            let new = c.member(
                "new",
                &["-auto-restore", &path, "-bootstrap-expect", "3", "-join", &flags.join(",")],
            );
            c.start(new);
            c.await_ready(new);
            c.lead(new);
            assert_eq!(c.value(new, tables, "linearizable"), json!(0));
        }
    }
}

#[test]
fn a_member_that_ends_while_it_restores_goes_on() {
    let root = tempfile::tempdir().unwrap();
    made_backup(root.path(), "?compress");
    let fenced = [Place::RestoreFenced, Place::RestoreKept, Place::RestoreProposed];
    for place in
        [Place::RestoreRebuilt, Place::RestoreMarked, Place::RestoreInstalled].into_iter().chain(fenced)
    {
        let mut c = beginning(1, &file("file", &json!({"dir": root.path(), "name": "db"}), &json!({})));
        c.start_armed(0, &format!("{}=return(abort)", place.name()));
        c.await_abort(0, place.name());
        c.start(0);
        c.await_ready(0);
        assert_eq!(c.assert_ledger(0, &[]).len(), 50, "{}", place.name());
    }
}

/// Where somebody listens who never says anything.
fn silent() -> (TcpListener, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let sub = json!({
        "endpoint": endpoint, "bucket": "b", "path": "p", "force_path_style": true,
        "access_key_id": "$AUTO_TEST_KEY", "secret_access_key": "${AUTO_TEST_SECRET}",
    });
    (listener, sub)
}

#[test]
// F2: nobody is served before the attempt has ended.
fn nobody_is_served_before_the_attempt_has_ended() {
    let (_listener, sub) = silent();
    let more = json!({"timeout": "6s", "continue_on_failure": true});
    let mut c = beginning(3, &file("s3", &sub, &more));
    c.set_environment("AUTO_TEST_KEY", "id".into());
    c.set_environment("AUTO_TEST_SECRET", "sesame".into());
    (0..3).for_each(|i| c.start(i));
    let http = reqwest::blocking::Client::new();
    let leader = c.until("a leader", |c| {
        // At first it does not listen, then it knows no leader.
        let sent = http.post(c.url(0, "/db/execute")).body(r#"["CREATE TABLE t(a)"]"#).send().ok()?;
        let body = sent.text().unwrap();
        let answer: Value = serde_json::from_str(&body).ok()?;
        assert!(answer["error"] == "store not ready", "{body}");
        Some(c.await_leader(0))
    });
    for i in 0..3 {
        assert!(!c.is_ready(i));
        // It may not have heard of the leader yet.
        c.until("it says why", |c| c.get(i, "/readyz").1.contains("[+]store not ready").then_some(()));
        for level in ["none", "weak", "strong"] {
            let (_, body) = c.get(i, &format!("/db/query?q=SELECT+1&level={level}"));
            assert!(body.contains("store not ready"), "{i} {level} {body}");
        }
        assert!(c.post(i, "/db/load", "CREATE TABLE t(a)").1.contains("store not ready"));
    }
    (0..3).for_each(|i| c.await_ready(i));
    assert!(c.log(leader).contains("it has not come within 6s"), "{}", c.log(leader));
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    assert!((0..3).all(|i| !c.log(i).contains("sesame")));
}

#[test]
fn without_a_backup_to_begin_with_it_ends() {
    let root = tempfile::tempdir().unwrap();
    let config = file("file", &json!({"dir": root.path(), "name": "db"}), &json!({}));
    for (content, part) in [(None, "No such file"), (Some("SELECT nonsense"), "statement 1")] {
        if let Some(content) = content {
            std::fs::write(root.path().join("db"), content).unwrap();
        }
        let mut c = beginning(1, &config);
        c.start(0);
        assert_eq!(c.exit_code(0), Some(1));
        let log = c.log(0);
        let fatal = log.lines().find(|line| line.starts_with("fatal: -auto-restore: ")).unwrap();
        assert!(fatal.contains(part) && fatal.contains("continue_on_failure"), "{fatal}");
        // When it is there, it goes on.
        made_backup(root.path(), "");
        c.start(0);
        c.await_ready(0);
        assert_eq!(c.assert_ledger(0, &[]).len(), 50);
    }
}

/// A file of a thousandth of what it unpacks to.
fn bomb() -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(128 << 20), &mut packed).unwrap();
    packed.finish().unwrap()
}

#[test]
fn a_file_that_unpacks_without_measure_is_not_restored() {
    let root = tempfile::tempdir().unwrap();
    let config = file("file", &json!({"dir": root.path(), "name": "db"}), &json!({}));
    let zeros = vec![0; 128 << 20];
    for (bytes, by) in [(bomb(), "gzip"), (zstd::encode_all(&zeros[..], 1).unwrap(), "Zstandard")] {
        std::fs::write(root.path().join("db"), bytes).unwrap();
        let mut c = beginning(1, &config);
        c.start(0);
        assert_eq!(c.exit_code(0), Some(1));
        let log = c.log(0);
        let fatal = log.lines().find(|line| line.starts_with("fatal: -auto-restore: ")).unwrap();
        let name = root.path().join("db").display().to_string();
        for part in [&name, by, "unpack to more than", "over 200 times as much"] {
            assert!(fatal.contains(part), "{part}: {fatal}");
        }
        let left = std::fs::read_dir(c.members[0].dir.join("staging")).unwrap().count();
        assert_eq!(left, 0, "of what came out of it");
        // With something that has measure it goes on.
        made_backup(root.path(), "?compress");
        c.start(0);
        c.await_ready(0);
        assert_eq!(c.assert_ledger(0, &[]).len(), 50);
    }
}

#[test]
fn a_file_that_unpacks_without_measure_is_not_imported() {
    let bytes = bomb();
    let server = Acceptor::start(0, move |mut caller| {
        // What is asked is not looked at.
        let mut asked = [0; 4096];
        assert!(caller.read(&mut asked)? > 0);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
        caller.write_all(head.as_bytes())?;
        caller.write_all(&bytes)
    });
    let mut c = Cluster::empty();
    let url = format!("http://127.0.0.1:{}/orders.sqlite.gz", server.port);
    let settings = c.root().join("import.yaml");
    std::fs::write(&settings, json!({"import": {"url": format!("{url}?signature=sesame")}}).to_string())
        .unwrap();
    c.add_members(1, &["-restore-config", settings.to_str().unwrap()]);
    start_all(&mut c);
    let begin = json!({"name": "begin", "source": "Other", "target": {"latest": {}}});
    assert_eq!(c.post(0, "/cluster/restore", &begin.to_string()).0, 200);
    let message = c.until("it fails", |c| {
        let known: Value = serde_json::from_str(&c.get(0, "/cluster/restore").1).unwrap();
        let job = &known["jobs"][0];
        (job["state"] == "Failed").then(|| job["message"].as_str().unwrap().to_owned())
    });
    assert!(message.contains(&url) && message.contains("over 200 times as much"), "{message}");
    assert!(!message.contains("sesame"), "{message}");
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn to_an_s3_server_and_back() {
    let program = std::env::var("BACKUP_S3").expect("BACKUP_S3 names the program of an S3 server");
    let root = tempfile::tempdir().unwrap();
    let (server, _) = stores::s3(&program, root.path());
    let sub = |secret: &str| {
        json!({
            "endpoint": format!("http://127.0.0.1:{}", server.port), "region": "us-east-1", "bucket": "backups",
            "path": "orders/db.gz", "force_path_style": true, "access_key_id": "access", "secret_access_key": secret,
        })
    };
    let object = root.path().join("buckets/backups/orders/db.gz");
    // More than a part.
    there_and_back("s3", &sub("not really secret"), 20, &["not really secret"], || {
        // Where that server keeps what it was told of an object.
        let about = std::fs::read(root.path().join("about/backups/orders/db.gz/meta/metadata")).unwrap();
        let about: Value = serde_json::from_slice(&about).unwrap();
        let id = about["x-rqlite-auto-backup-id"].as_str().unwrap_or_else(|| panic!("{about}"));
        Stored { size: std::fs::metadata(&object).unwrap().len(), id: id.into() }
    });

    let mut wrong = backing_up(1, |_| file("s3", &sub("wrong"), &json!({"interval": "200ms"})));
    await_counted(&mut wrong, 0, "num_uploads_fail", 1);
    let error = wrong.status(0, "auto_backups.error");
    assert!(error.as_str().unwrap().contains("SignatureDoesNotMatch"), "{error}");
    let mut wrong = beginning(1, &file("s3", &sub("wrong"), &json!({})));
    wrong.start(0);
    assert_eq!(wrong.exit_code(0), Some(1));
    assert!(wrong.log(0).contains("fatal: -auto-restore: "), "{}", wrong.log(0));
}
