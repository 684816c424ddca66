//! What lies damaged on the disk of a member that is down: it starts again by itself and has everything, or it says why not
//! and leaves the disk as it is. Never a wrong answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use support::{Cluster, cluster_with};

const OFTEN: &[&str] = &["-consistency-period", "300ms", "-scrub-period", "1s"];
const CONTENT: &str = "SELECT group_concat(a) FROM (SELECT a FROM t ORDER BY a)";

/// `n` members with a table of some pages, all of it in the databases' files and none of it in the log.
fn filled(n: usize) -> Cluster {
    let mut c = cluster_with(n, OFTEN);
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"]));
    let rows: Vec<Value> =
        (0..200).map(|i| json!(["INSERT INTO t VALUES(?, ?)", i, format!("{i:0500}")])).collect();
    c.execute(0, &json!(rows));
    for i in 0..n {
        c.until("it has all rows", |c| {
            (c.value(i, "SELECT count(*) FROM t", "none") == json!(200)).then_some(())
        });
        c.until("the log is purged", |c| (c.post(i, "/snapshot?trailing_logs=0", "").0 == 200).then_some(()));
    }
    c
}

fn await_same(c: &mut Cluster, expected: &Value) {
    for i in 0..c.members.len() {
        c.until("in service, and the same", |c| {
            let is_consistent = |c: &Cluster| c.status(i, "store.consistency.state") == json!("consistent");
            (c.is_ready(i) && is_consistent(c) && c.value(i, CONTENT, "none") == *expected).then_some(())
        });
    }
    c.until("one checksum", |c| {
        let said: Vec<_> = (0..c.members.len()).map(|i| c.status(i, "store.checksum")).collect();
        (said[0].is_object() && said.iter().all(|checksum| *checksum == said[0])).then_some(())
    });
}

/// The database's file of a member that is down; its WAL goes, if asked.
fn database(c: &Cluster, i: usize, without_wal: bool) -> PathBuf {
    let file = c.members[i].dir.join("db.sqlite").canonicalize().unwrap();
    if without_wal {
        fs::remove_file(file.with_extension("sqlite-wal")).unwrap();
    }
    file
}

fn cut(file: &Path, to: u64) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(to).unwrap();
}

#[test]
fn a_member_whose_database_was_cut_takes_anothers() {
    let mut c = filled(3);
    let half = |file: &Path| fs::metadata(file).unwrap().len() / 2;
    let mut expected = c.value(0, CONTENT, "strong");
    for (n, (to, without_wal)) in
        [(Some(0), false), (Some(16), false), (Some(16), true), (None, false), (None, true)]
            .into_iter()
            .enumerate()
    {
        // A follower, and then the one who leads.
        let leader = c.await_leader(0);
        let victim = if n % 2 == 0 { (leader + 1) % 3 } else { leader };
        let id = c.report(victim)["nodeId"].clone();
        assert!(matches!(c.post(victim, "/snapshot", "").0, 200 | 204));
        // With this the WAL begins anew: the rest is in the file only.
        c.execute(victim, &json!([["INSERT INTO t VALUES(?, 0)", 2000 + n]]));
        expected = c.value(leader, CONTENT, "strong");
        c.until("it is applied", |c| (c.value(victim, CONTENT, "none") == expected).then_some(()));
        c.kill(victim);
        let file = database(&c, victim, without_wal);
        cut(&file, to.unwrap_or_else(|| half(&file)));
        // What is acknowledged meanwhile is there, too.
        let away = c.await_leader((victim + 1) % 3);
        c.execute(away, &json!([["INSERT INTO t VALUES(?, 0)", 1000 + n]]));
        expected = c.value(away, CONTENT, "strong");
        c.start(victim);
        await_same(&mut c, &expected);
        assert_eq!(c.report(victim)["nodeId"], id, "its log and its votes are right");
        assert_eq!(c.status(victim, "store.consistency.reinstalls"), json!(1), "{to:?} {without_wal}");
    }
    c.kill_all();
    (0..3).for_each(|i| c.start(i));
    await_same(&mut c, &expected);
}

#[test]
fn a_member_that_ends_before_it_has_anothers_database_begins_anew() {
    let mut c = filled(3);
    let expected = c.value(0, CONTENT, "strong");
    let victim = (c.await_leader(0) + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|i| *i != victim).collect();
    c.kill_all();
    let file = database(&c, victim, false);
    cut(&file, 16);
    // Alone it has nobody to ask, and answers nothing.
    c.start(victim);
    c.await_log(victim, "the database is damaged");
    c.await_listening(victim);
    let answer = c.get(victim, "/db/query?level=none&timeout=1s&q=SELECT+count(*)+FROM+t");
    assert!(!answer.1.contains("values"), "{answer:?}");
    c.kill(victim);
    assert_eq!(fs::metadata(&file).unwrap().len(), 16, "it is kept until there is another one");
    c.start(victim);
    others.iter().for_each(|i| c.start(*i));
    await_same(&mut c, &expected);
    assert!(!file.exists());
}

#[test]
fn the_only_voter_leaves_a_damaged_database_as_it_is() {
    let mut c = filled(1);
    c.kill(0);
    for (to, without_wal) in [(0, false), (16, true)] {
        let file = database(&c, 0, without_wal);
        let whole = fs::read(&file).unwrap();
        cut(&file, to);
        let dir = c.members[0].dir.clone();
        let files = || {
            let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
            let is_data = |name: &str| name.contains("/db-") && !name.ends_with("-shm");
            let databases = names.filter(|path| is_data(&path.to_string_lossy()));
            databases.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
        };
        let before = files();
        c.start(0);
        assert_eq!(c.exit_code(0), Some(1));
        let log = c.log(0);
        let told = log.lines().rfind(|line| line.contains("fatal: ")).unwrap();
        assert!(told.contains("its log names no other voter") && told.contains("backup"), "{told}");
        assert_eq!(files(), before);
        fs::write(&file, whole).unwrap();
    }
    // Put back, as from a copy of the disk.
    c.start(0);
    c.await_ready(0);
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(200));
}

/// Changes a byte in the middle of what the log of a member that is down had promised to keep.
fn rot_log(c: &Cluster, i: usize) {
    let segments = fs::read_dir(c.members[i].dir.join("raft/log")).unwrap();
    let marked = segments.map(|entry| entry.unwrap().path()).find_map(|path| {
        let at = fs::read(&path).unwrap().windows(8).position(|window| window == b"INSERT I")?;
        Some((path, at as u64))
    });
    let (path, at) = marked.expect("an entry");
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"i", at).unwrap();
}

/// Members with some entries in their logs.
fn logged(n: usize) -> Cluster {
    let mut c = cluster_with(n, OFTEN);
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)"]));
    (0..20).for_each(|a| drop(c.execute(0, &json!([["INSERT INTO t VALUES(?, 0)", a]]))));
    for i in 0..n {
        c.until("it has all rows", |c| {
            (c.value(i, "SELECT count(*) FROM t", "none") == json!(20)).then_some(())
        });
    }
    c
}

fn set_aside(c: &Cluster, i: usize) -> Vec<String> {
    let names = fs::read_dir(&c.members[i].dir).unwrap().map(|e| e.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("damaged-")).collect()
}

fn last_words(c: &Cluster, i: usize) -> String {
    c.log(i).lines().rfind(|line| line.contains("fatal: ")).unwrap().to_owned()
}

#[test]
fn the_last_voter_keeps_a_damaged_log_as_it_is() {
    let mut c = logged(1);
    c.kill(0);
    rot_log(&c, 0);
    let identity = fs::read(c.members[0].dir.join("identity.json")).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(1));
    let told = last_words(&c, 0);
    assert!(told.contains("its database names no other voter") && told.contains("offset"), "{told}");
    assert_eq!(set_aside(&c, 0), [""; 0]);
    let kept = fs::read(c.members[0].dir.join("identity.json")).unwrap();
    let id = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["nodeId"].clone();
    assert_eq!(id(&kept), id(&identity));
}

#[test]
fn who_knows_no_way_back_keeps_a_damaged_log_as_it_is() {
    let mut c = logged(3);
    let i = (c.await_leader(0) + 1) % 3;
    c.kill(i);
    rot_log(&c, i);
    // As one that the others joined: by its flags it would be a cluster of its own.
    let flags = 4 + OFTEN.len();
    c.remove_flags(i, flags);
    c.start(i);
    assert_eq!(c.exit_code(i), Some(1));
    assert!(last_words(&c, i).contains("-join"), "{}", last_words(&c, i));
    assert_eq!(set_aside(&c, i), [""; 0]);
}

#[test]
fn a_cluster_whose_logs_are_all_damaged_is_not_forgotten() {
    let mut c = logged(2);
    c.kill_all();
    (0..2).for_each(|i| rot_log(&c, i));
    (0..2).for_each(|i| c.start(i));
    for _ in 0..2 {
        for i in 0..2 {
            // It waits, and what it had is there for somebody who brings the cluster back from it.
            c.until("it waits to be let in", |c| {
                let report = c.try_report(i)?;
                report["message"].as_str()?.contains("its log was damaged").then_some(())
            });
            assert_eq!(c.report(i)["clusterId"], Value::Null);
            let found = set_aside(&c, i);
            let [kept] = &found[..] else { panic!("{found:?}") };
            assert!(c.members[i].dir.join(kept).join("db.sqlite").exists());
            assert_eq!(c.status(i, "store.set_aside"), json!(kept));
        }
        c.kill_all();
        (0..2).for_each(|i| c.start(i));
    }
}

/// What of a database is changed.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// The file's header.
    Header,
    /// The rest of page 1.
    FirstPage,
    /// A page that says where others are.
    Interior,
    /// What says which tables there are.
    Schema,
    /// A page of the free list that names others.
    FreeList,
    /// Position, cluster and members.
    Internal,
    /// What is not in the file yet.
    Wal,
}

const PARTS: [Part; 7] =
    [Part::Header, Part::FirstPage, Part::Interior, Part::Schema, Part::FreeList, Part::Internal, Part::Wal];
const PAGE: usize = 4096;

/// How many bits are changed, one after the other: more for `make prove`.
fn flips() -> usize {
    std::env::var("DAMAGE_FLIPS").ok().map_or(PARTS.len(), |n| n.parse().expect("DAMAGE_FLIPS is a number"))
}

fn seed() -> u64 {
    let given = std::env::var("DAMAGE_SEED").ok();
    given.map_or_else(rand::random, |seed| seed.parse().expect("DAMAGE_SEED is a number"))
}

/// A byte of that part of the database `file`, by its place in the file.
fn place(file: &[u8], part: Part, rng: &mut StdRng) -> usize {
    let number = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let pages = || file.chunks(PAGE).enumerate().skip(1);
    let holds = |page: &[u8], text: &[u8]| page.windows(text.len()).any(|window| window == text);
    let mut any = |found: Vec<usize>| found[rng.random_range(0..found.len())] * PAGE;
    let page = match part {
        Part::Header => return rng.random_range(0..100),
        Part::FirstPage => return rng.random_range(100..PAGE),
        Part::Wal => return rng.random_range(0..file.len()),
        Part::Interior => any(pages().filter(|(_, page)| matches!(page[0], 2 | 5)).map(|(n, _)| n).collect()),
        Part::Schema => {
            any(pages().filter(|(_, page)| holds(page, b"CREATE TABLE other")).map(|(n, _)| n).collect())
        }
        Part::FreeList => (number(32) - 1) * PAGE,
        Part::Internal => {
            let (page, at) = pages()
                .find_map(|(n, page)| Some((n, page.windows(8).position(|window| window == b"SQLDMETA")?)))
                .unwrap();
            // Where something is written.
            return page * PAGE + at + rng.random_range(0..400);
        }
    };
    page + rng.random_range(0..64)
}

#[test]
fn a_changed_bit_on_one_disk_is_no_wrong_answer() {
    let mut c = cluster_with(3, OFTEN);
    c.execute(0, &json!(["CREATE TABLE t(a INTEGER PRIMARY KEY, b)", "CREATE TABLE dropped(a)"]));
    let others: Vec<Value> =
        (0..60).map(|n| json!([format!("CREATE TABLE other{n}(a, b, c, d, e, f, g, h, i, j)")])).collect();
    c.execute(0, &json!(others));
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) INSERT INTO";
    c.execute(0, &json!([format!("{rows} t SELECT i, hex(randomblob(40)) FROM n")]));
    c.execute(0, &json!([format!("{rows} dropped SELECT hex(randomblob(40)) FROM n"), "DROP TABLE dropped"]));
    let sum = "SELECT count(*) || ' ' || total(a) || ' ' || max(b) || ' ' || total(unicode(b)) FROM t";
    let seed = seed();
    println!("DAMAGE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for (n, part) in PARTS.into_iter().cycle().take(flips()).enumerate() {
        let leader = c.await_leader(0);
        let victim = if rng.random() { leader } else { (leader + 1) % 3 };
        assert!(matches!(c.post(victim, "/snapshot", "").0, 200 | 204));
        // The WAL begins anew with it: what is in the file is read from there.
        for i in 0..4 {
            c.execute(leader, &json!([["INSERT INTO t VALUES(?, 'before')", 10_000 + 10 * n + i]]));
        }
        let applied = c.value(leader, sum, "strong");
        c.until("it is applied", |c| (c.value(victim, sum, "none") == applied).then_some(()));
        c.kill(victim);
        let mut file = c.members[victim].dir.join("db.sqlite").canonicalize().unwrap();
        if matches!(part, Part::Wal) {
            file.set_extension("sqlite-wal");
        }
        let mut bytes = fs::read(&file).unwrap();
        let at = place(&bytes, part, &mut rng);
        bytes[at] ^= 1 << rng.random_range(0..8);
        fs::write(&file, &bytes).unwrap();
        println!("{part:?}: byte {at} of {}", file.display());
        let away = c.await_leader((victim + 1) % 3);
        c.execute(away, &json!([["INSERT INTO t VALUES(?, 'meanwhile')", 20_000 + n]]));
        let expected = c.value(away, sum, "strong");
        c.start(victim);
        c.until_within(support::PATIENCE * 2, &format!("{part:?}, byte {at}, DAMAGE_SEED={seed}"), |c| {
            assert_eq!(c.value(away, sum, "linearizable"), expected, "{part:?}, byte {at}");
            if c.has_ended(victim) {
                // Whoever watches it starts it again.
                assert_eq!(c.exit_code(victim), Some(1));
                c.start(victim);
            }
            let report = c.try_report(victim)?;
            if report["consistency"]["state"] != json!("consistent") || !c.is_ready(victim) {
                return None;
            }
            assert_eq!(c.value(victim, sum, "none"), expected, "{part:?}, byte {at}");
            let said: Vec<_> = (0..3).map(|i| c.status(i, "store.checksum")).collect();
            (said[0].is_object() && said.iter().all(|checksum| *checksum == said[0])).then_some(())
        });
    }
}
