#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::raft::command::{EntryContext, Param, RequestEncoder, RequestId, encode_execute};

struct Fixture {
    _dir: tempfile::TempDir,
    applier: Applier,
    next: u64,
}

fn fixture(foreign_keys: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.sqlite");
    crate::store::create(&path).unwrap();
    let applier = Applier::open(&path, EntryVfs::register().unwrap(), foreign_keys).unwrap();
    Fixture { _dir: dir, applier, next: 0 }
}

impl Fixture {
    /// Applies one entry of requests, each (flags, statements).
    fn entry(&mut self, requests: &[(u16, &[&str])]) -> Vec<String> {
        let requests: Vec<_> = requests
            .iter()
            .map(|(flags, statements)| {
                let mut e = RequestEncoder::new(RequestFlags(*flags), 0);
                statements.iter().for_each(|s| e.statement(s));
                e.finish(RequestId::default())
            })
            .collect();
        let context = EntryContext { timestamp_us: 1_700_000_000_000_000, seed: 7, step_limit: 0 };
        let bytes =
            encode_execute(context, requests.iter().map(|r| r.bytes()).collect::<Vec<_>>().into_iter());
        let log_id = LogId { term: 1, leader: 2, index: self.next };
        self.next += 1;
        let entry = Entry { log_id, payload: Payload::Command(bytes), wants_reply: true };
        let reply = self.applier.apply(&entry).unwrap();
        reply.iter().map(|b| String::from_utf8(b.to_vec()).unwrap()).collect()
    }

    fn one(&mut self, flags: u16, statements: &[&str]) -> String {
        self.entry(&[(flags, statements)]).remove(0)
    }

    fn value(&self, sql: &str) -> String {
        let value: rusqlite::types::Value = self.applier.connection.query_row(sql, [], |r| r.get(0)).unwrap();
        match value {
            rusqlite::types::Value::Integer(i) => i.to_string(),
            rusqlite::types::Value::Text(t) => t,
            other => format!("{other:?}"),
        }
    }
}

const TX: u16 = RequestFlags::TRANSACTION;

#[test]
fn a_failed_statement_undoes_itself_and_a_failed_transaction_all_of_it() {
    let mut f = fixture(false);
    assert_eq!(f.one(0, &["CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)"]), "{}");
    let out =
        f.one(0, &["INSERT INTO t VALUES(1,1)", "INSERT INTO t VALUES(2,1)", "INSERT INTO t VALUES(3,3)"]);
    assert_eq!(
        out,
        r#"{"last_insert_id":1,"rows_affected":1},{"error":"UNIQUE constraint failed: t.a"},{"last_insert_id":3,"rows_affected":1}"#
    );
    let out =
        f.one(TX, &["INSERT INTO t VALUES(4,4)", "INSERT INTO t VALUES(5,1)", "INSERT INTO t VALUES(6,6)"]);
    assert_eq!(out, r#"{"last_insert_id":4,"rows_affected":1},{"error":"UNIQUE constraint failed: t.a"}"#);
    assert_eq!(f.value("SELECT group_concat(id) FROM t"), "1,3");
}

#[test]
fn a_statement_that_ends_sqlites_transaction_takes_nothing_else_with_it() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(a UNIQUE, r DEFAULT (random()))", "INSERT INTO t VALUES(1, 0)"]);
    let replies = f.entry(&[
        (0, &["INSERT INTO t(a) VALUES(2)"]),
        (0, &["INSERT OR ROLLBACK INTO t(a) VALUES(1)", "INSERT INTO t(a) VALUES(3)"]),
        (TX, &["INSERT INTO t(a) VALUES(4)", "INSERT OR ROLLBACK INTO t(a) VALUES(2)"]),
        (
            0,
            &[
                "INSERT INTO t(a) VALUES(5); INSERT OR ROLLBACK INTO t(a) VALUES(5)",
                "INSERT INTO t(a) VALUES(6)",
            ],
        ),
    ]);
    assert_eq!(f.value("SELECT group_concat(a) FROM (SELECT a FROM t ORDER BY a)"), "1,2,3,5,6");
    assert!(replies[1].starts_with(r#"{"error":"UNIQUE constraint failed: t.a"},{"last"#), "{}", replies[1]);
    assert!(replies[2].ends_with(r#"{"error":"UNIQUE constraint failed: t.a"}"#), "{}", replies[2]);
    // The replay drew the same numbers as an entry without the failures.
    let with_failures =
        f.value("SELECT group_concat(r) FROM (SELECT r FROM t WHERE a IN (2, 3, 6) ORDER BY a)");
    let mut g = fixture(false);
    g.one(0, &["CREATE TABLE t(a UNIQUE, r DEFAULT (random()))", "INSERT INTO t VALUES(1, 0)"]);
    g.entry(&[
        (0, &["INSERT INTO t(a) VALUES(2)"]),
        (0, &["SELECT 1", "INSERT INTO t(a) VALUES(3)"]),
        (0, &[]),
        (0, &["SELECT 1", "INSERT INTO t(a) VALUES(6)"]),
    ]);
    assert_eq!(g.value("SELECT group_concat(r) FROM t WHERE a > 1"), with_failures);
}

#[test]
fn users_cannot_run_what_the_writer_compiled_for_itself() {
    for foreign_keys in [false, true] {
        let mut f = fixture(foreign_keys);
        f.one(0, &["CREATE TABLE t(a)"]);
        f.one(TX, &["INSERT INTO t VALUES(1)", "nonsense"]);
        for sql in [
            "COMMIT",
            "BEGIN IMMEDIATE",
            "SAVEPOINT request",
            "ROLLBACK TO request",
            "RELEASE request",
            "SAVEPOINT statement",
            "ROLLBACK TO statement",
            "RELEASE statement",
        ] {
            for flags in [0, TX] {
                let answer = f.one(flags, &[sql]);
                assert!(answer.contains("not authorized: BEGIN, COMMIT"), "{sql}: {answer}");
            }
        }
        assert_eq!(f.value("SELECT count(*) FROM t"), "0");
    }
}

#[test]
fn time_and_chance_come_from_the_entry() {
    let run = || {
        let mut f = fixture(false);
        f.one(
            0,
            &[
                "CREATE TABLE t(a, at DEFAULT CURRENT_TIMESTAMP, r DEFAULT (hex(randomblob(4))), n)",
                "CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET n = strftime('%s','now') || random() WHERE a = new.a; END",
                "INSERT INTO t(a) VALUES(1),(2)",
            ],
        );
        f.value("SELECT group_concat(at || r || n) FROM t")
    };
    let first = run();
    assert!(first.starts_with("2023-11-14 22:13:20"), "{first}");
    assert_eq!(first, run());
}

#[test]
fn foreign_keys_are_checked_when_the_client_would_have_committed() {
    let mut f = fixture(true);
    f.one(
        0,
        &[
            "CREATE TABLE p(id INTEGER PRIMARY KEY)",
            "CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
        ],
    );
    let out = f.one(0, &["INSERT INTO c VALUES(1)", "INSERT INTO p VALUES(1)"]);
    assert_eq!(out, r#"{"last_insert_id":1,"rows_affected":1},{"error":"FOREIGN KEY constraint failed"},{"last_insert_id":1,"rows_affected":1}"#.replace(r#"{"last_insert_id":1,"rows_affected":1},{"error""#, r#"{"error""#));
    assert_eq!(f.value("SELECT count(*) FROM c"), "0");
    f.one(TX, &["INSERT INTO c VALUES(2)", "INSERT INTO p VALUES(2)"]);
    assert_eq!(f.value("SELECT count(*) FROM c"), "1");
    assert!(f.one(TX, &["INSERT INTO c VALUES(9)"]).contains("FOREIGN KEY"));
    assert_eq!(f.value("SELECT count(*) FROM c"), "1");
}

#[test]
fn what_was_applied_survives_and_is_not_applied_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.sqlite");
    crate::store::create(&path).unwrap();
    let mut e = RequestEncoder::new(RequestFlags::default(), 0);
    e.statement("CREATE TABLE t(a)");
    e.statement("INSERT INTO t VALUES(?)");
    assert!(e.param(None, Param::Integer(5)));
    let request = e.finish(RequestId::default());
    let context = EntryContext { timestamp_us: 9, seed: 1, step_limit: 0 };
    let command = encode_execute(context, [request.bytes()].into_iter());
    let log_id = LogId { term: 1, leader: 2, index: 0 };
    let entry = Entry { log_id, payload: Payload::Command(command), wants_reply: false };
    for _ in 0..2 {
        let mut applier = Applier::open(&path, EntryVfs::register().unwrap(), false).unwrap();
        assert!(applier.apply(&entry).unwrap().is_empty());
        assert_eq!(applier.applied().log_id, Some(log_id));
        let rows: i64 = applier.connection.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 1);
        assert_eq!(applier.connection.last_insert_rowid(), 1);
        applier.close().1.unwrap();
    }
}

#[test]
fn an_exhausted_sequence_is_a_result_and_not_a_full_disk() {
    let mut f = fixture(false);
    f.one(
        0,
        &[
            "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)",
            "INSERT INTO t VALUES(9223372036854775807)",
        ],
    );
    assert_eq!(f.one(0, &["INSERT INTO t DEFAULT VALUES"]), r#"{"error":"database or disk is full"}"#);
    assert!(f.one(0, &["DROP TABLE t"]).starts_with('{'));
}
