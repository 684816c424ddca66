#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::raft::command::{
    CaptureSettings, EncodedRequest, EntryContext, Param, RequestEncoder, RequestId, encode_changes,
    encode_execute, encode_extensions, encode_foreign_keys, encode_maintenance,
};

struct Fixture {
    _dir: tempfile::TempDir,
    applier: Applier,
    next: u64,
    step_limit: u64,
}

fn fixture(foreign_keys: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.sqlite");
    crate::store::create(&path).unwrap();
    let (vfs, shelf) = (EntryVfs::register().unwrap(), Shelf::open(dir.path()));
    let applier = Applier::open(&path, vfs, foreign_keys, shelf, Arc::default()).unwrap();
    Fixture { _dir: dir, applier, next: 0, step_limit: 0 }
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
        self.apply(0, &requests)
    }

    /// Applies one entry, `seconds` after the first possible moment.
    fn apply(&mut self, seconds: i64, requests: &[EncodedRequest]) -> Vec<String> {
        let timestamp_us = 1_700_000_000_000_000 + seconds * 1_000_000;
        let context = EntryContext { timestamp_us, seed: 7, step_limit: self.step_limit };
        let bytes =
            encode_execute(context, requests.iter().map(|r| r.bytes()).collect::<Vec<_>>().into_iter());
        let log_id = LogId { term: 1, leader: 2, index: self.next };
        self.next += 1;
        let entry = Entry { log_id, payload: Payload::Command(bytes), wants_reply: true };
        let reply = self.applier.apply(&entry).unwrap();
        reply.iter().map(|b| String::from_utf8(b.to_vec()).unwrap()).collect()
    }

    /// Applies one entry of requests under keys, each (key, statement), `seconds` after the first possible moment.
    fn keyed(&mut self, seconds: i64, requests: &[(u8, &str)]) -> Vec<String> {
        let requests: Vec<_> = requests
            .iter()
            .map(|(key, statement)| {
                let mut e = RequestEncoder::new(RequestFlags::default(), 0);
                e.statement(statement);
                e.finish(RequestId::default()).with_key(&[*key; 32]).unwrap()
            })
            .collect();
        self.apply(seconds, &requests)
    }

    /// Applies an entry for the database itself, `seconds` after the first possible moment.
    fn maintain(&mut self, seconds: i64, command: &MaintenanceCommand) {
        let timestamp_us = 1_700_000_000_000_000 + seconds * 1_000_000;
        let context = EntryContext { timestamp_us, seed: 7, step_limit: 0 };
        let payload = Payload::Command(encode_maintenance(context, command));
        let log_id = LogId { term: 1, leader: 2, index: self.next };
        self.next += 1;
        assert!(self.applier.apply(&Entry { log_id, payload, wants_reply: false }).unwrap().is_empty());
    }

    /// Has changes captured from the next entry on, as long as those of one take at most `max_bytes`.
    fn capture(&mut self, max_bytes: u64) {
        let settings = CaptureSettings {
            row_ids_only: false,
            has_sink: false,
            table_filter: String::new(),
            max_bytes,
            retain_bytes: 1 << 20,
        };
        let context = EntryContext { timestamp_us: 1_700_000_000_000_000, seed: 7, step_limit: 0 };
        let payload = Payload::Command(encode_changes(context, &ChangesCommand::On(settings)));
        let log_id = LogId { term: 1, leader: 2, index: self.next };
        self.next += 1;
        self.applier.apply(&Entry { log_id, payload, wants_reply: false }).unwrap();
    }

    fn one(&mut self, flags: u16, statements: &[&str]) -> String {
        self.entry(&[(flags, statements)]).remove(0)
    }

    fn value(&self, sql: &str) -> String {
        let value: rusqlite::types::Value =
            self.applier.connection().query_row(sql, [], |r| r.get(0)).unwrap();
        match value {
            rusqlite::types::Value::Integer(i) => i.to_string(),
            rusqlite::types::Value::Text(t) => t,
            other => format!("{other:?}"),
        }
    }
}

const TX: u16 = RequestFlags::TRANSACTION;

#[test]
fn an_entry_that_names_extensions_which_are_not_here_changes_nothing() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(a)"]);
    let before = (*f.applier.applied(), f.value("PRAGMA data_version"));
    let file =
        crate::store::ExtensionFile { name: "gone.so".into(), sha256: crate::store::Sha256Sum([7; 32]) };
    let set = ExtensionSet::new([file], []).unwrap();
    let context = EntryContext { timestamp_us: 1, seed: 1, step_limit: 0 };
    let bytes = encode_extensions(context, &set);
    assert_eq!(CommandView::parse(&bytes).unwrap().extensions.as_ref(), Some(&set));
    for end in 6..bytes.len() {
        assert!(CommandView::parse(&bytes[..end]).is_err(), "{end}");
    }
    let log_id = LogId { term: 1, leader: 2, index: f.next };
    let entry = Entry { log_id, payload: Payload::Command(bytes), wants_reply: false };
    let failure = f.applier.apply(&entry).unwrap_err().to_string();
    assert!(failure.contains("gone.so (sha256 070707070707…) is not here"), "{failure}");
    assert_eq!((*f.applier.applied(), f.value("PRAGMA data_version")), before);
    // The empty set is everywhere.
    let bytes = encode_extensions(context, &ExtensionSet::default());
    f.applier.apply(&Entry { payload: Payload::Command(bytes), ..entry }).unwrap();
    assert_eq!(f.applier.applied().log_id, Some(log_id));
}

#[test]
fn entries_go_by_what_the_state_says_of_foreign_keys_whatever_a_start_says() {
    const SCHEMA: &[&str] =
        &["CREATE TABLE p(id INTEGER PRIMARY KEY)", "CREATE TABLE c(p REFERENCES p ON DELETE CASCADE)"];
    // Two members: the second one is started anew before each entry, with the other flag.
    let mut sums = Vec::new();
    for restarts in [false, true] {
        let mut f = fixture(false);
        let path = f._dir.path().join("t.sqlite");
        let mut flag = false;
        let mut restarted = |f: Fixture| {
            flag ^= restarts;
            let (vfs, closed) = f.applier.close();
            closed.unwrap();
            let (shelf, pages) = (Shelf::open(f._dir.path()), Arc::default());
            let applier = Applier::open(&path, vfs, flag, shelf, pages).unwrap();
            Fixture { applier, ..f }
        };
        f.one(0, SCHEMA);
        for enforced in [false, true, true, false] {
            let context = EntryContext { timestamp_us: 1, seed: 1, step_limit: 0 };
            let log_id = LogId { term: 1, leader: 2, index: f.next };
            f.next += 1;
            let payload = Payload::Command(encode_foreign_keys(context, enforced));
            assert!(f.applier.apply(&Entry { log_id, payload, wants_reply: false }).unwrap().is_empty());
            f = restarted(f);
            assert_eq!(f.applier.foreign_keys().are_enforced(), enforced);
            let answer = f.one(0, &["INSERT INTO c VALUES(9)"]);
            assert_eq!(answer.contains("FOREIGN KEY constraint failed"), enforced, "{answer}");
            f = restarted(f);
            f.one(0, &["DELETE FROM c", "INSERT INTO p VALUES(1)", "INSERT INTO c VALUES(1)"]);
            f.one(0, &["DELETE FROM p WHERE id = 1"]);
            assert_eq!(f.value("SELECT count(*) FROM c"), if enforced { "0" } else { "1" });
            f = restarted(f);
        }
        let meta = meta::read_existing(f.applier.connection()).unwrap();
        assert_eq!(meta.foreign_keys, Some(false));
        sums.push((meta, f.value("SELECT count(*) FROM c")));
    }
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn a_request_under_a_key_is_applied_once_and_answered_alike_for_ten_minutes() {
    const INSERT: &str = "INSERT INTO t(a) VALUES(5)";
    let other = [r#"{"error":"this Idempotency-Key was used for another request"}"#];
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)"]);
    f.one(0, &["INSERT INTO t VALUES(40, 1)"]);
    let first = [r#"{"last_insert_id":41,"rows_affected":1}"#];
    // Twice in one entry, and again in a later one.
    assert_eq!(f.keyed(0, &[(1, INSERT), (1, INSERT)]), [first[0], first[0]]);
    let counters = f.one(RequestFlags::UNIFIED, &["SELECT changes(), total_changes(), last_insert_rowid()"]);
    assert!(counters.contains("[[1,2,41]]"), "{counters}");
    assert_eq!(f.keyed(599, &[(1, INSERT)]), first);
    assert_eq!(f.keyed(599, &[(1, "DELETE FROM t")]), other);
    assert_eq!(f.value("SELECT count(*) FROM t"), "2");
    // A failure is an answer too.
    let failure = f.keyed(599, &[(2, INSERT)]);
    assert!(failure[0].contains("UNIQUE"), "{failure:?}");
    f.one(0, &["DELETE FROM t WHERE a = 5"]);
    assert_eq!(f.keyed(599, &[(2, INSERT)]), failure);
    assert_eq!(f.value("SELECT count(*) FROM _sqlited_replies"), "2");
    // After ten minutes the first is forgotten, and only that.
    assert_eq!(f.keyed(601, &[(1, INSERT)]), first);
    assert_eq!(f.value("SELECT count(*) FROM t"), "2");
    assert_eq!(f.keyed(1300, &[(3, "DELETE FROM t")]), [r#"{"last_insert_id":41,"rows_affected":2}"#]);
    assert_eq!(f.value("SELECT count(*) FROM _sqlited_replies"), "1");
    assert_eq!(f.keyed(1300, &[(4, "SELECT 1; VACUUM; SELECT * FROM _sqlited_replies")]).len(), 1);
}

#[test]
fn what_explain_says_is_of_one_member_and_becomes_no_part_of_the_state() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(a)"]);
    let mut e = RequestEncoder::new(RequestFlags(RequestFlags::UNIFIED), 0);
    for statement in
        ["EXPLAIN SELECT * FROM json_each('[1]')", "EXPLAIN QUERY PLAN SELECT * FROM t", "SELECT 7"]
    {
        e.statement(statement);
    }
    let request = e.finish(RequestId::default());
    let told = f.apply(0, std::slice::from_ref(&request)).remove(0);
    assert!(told.contains("VOpen") && told.contains("SCAN t") && told.contains("[[7]]"), "{told}");
    let kept = f.apply(0, &[request.with_key(&[1; 32]).unwrap()]).remove(0);
    assert!(
        !kept.contains("VOpen") && kept.contains("EXPLAIN is not answered under an Idempotency-Key"),
        "{kept}"
    );
    assert!(kept.contains("SCAN t") && kept.contains("[[7]]"), "{kept}");
}

#[test]
fn closing_the_database_writes_nothing_to_its_file() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(a)"]);
    let path = f.applier.connection().path().unwrap().to_owned();
    let before = std::fs::read(&path).unwrap();
    let (_, closed) = f.applier.close();
    closed.unwrap();
    assert!(std::fs::read(&path).unwrap() == before);
    assert!(std::fs::metadata(format!("{path}-wal")).unwrap().len() > 0);
}

#[test]
fn an_answer_too_large_to_keep_is_not_given_again_but_the_request_is_not_run_again() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(a)"]);
    let large = "INSERT INTO t VALUES(zeroblob(60000)) RETURNING hex(a)";
    assert!(f.keyed(0, &[(1, large)])[0].len() > kept_replies::LARGEST);
    assert!(f.keyed(0, &[(1, large)])[0].contains("too large to be kept"));
    assert_eq!(f.value("SELECT count(*) FROM t"), "1");
}

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

/// A text stays as far as it ran. Whoever comes next in the entry is not to pay for it.
#[test]
fn a_deferred_violation_of_a_statement_that_failed_is_its_own() {
    let mut f = fixture(true);
    f.one(
        0,
        &[
            "CREATE TABLE p(id INTEGER PRIMARY KEY)",
            "CREATE TABLE c(a UNIQUE, p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
            "CREATE TABLE t(a)",
        ],
    );
    for broken in [
        "INSERT INTO c VALUES(1, 99); INSERT INTO nosuch VALUES(1)",
        "INSERT OR FAIL INTO c VALUES(1, 99), (1, 98)",
    ] {
        let replies = f.entry(&[
            (0, &[broken, "INSERT INTO t VALUES(1)"]),
            (0, &["INSERT INTO t VALUES(2)"]),
            (TX, &["INSERT INTO t VALUES(3)"]),
        ]);
        let errors = replies.iter().map(|reply| reply.matches("error").count()).collect::<Vec<_>>();
        assert_eq!(errors, [1, 0, 0], "{broken}: {replies:?}");
        assert_eq!(f.value("SELECT group_concat(a) FROM t"), "1,2,3", "{broken}");
        assert_eq!(f.value("SELECT count(*) FROM c"), "0", "{broken}");
        f.one(0, &["DELETE FROM t"]);
    }
}

#[test]
fn a_statement_whose_result_is_too_large_says_so_once_and_changes_nothing() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(a)"]);
    let rows = |mib: u32| {
        format!(
            "INSERT INTO t SELECT zeroblob(393216) FROM json_each('[{}1]') RETURNING hex(a)",
            "1,".repeat((mib * 4 / 3) as usize - 1)
        )
    };
    let (alone, in_a_text) = (rows(72), format!("INSERT INTO t VALUES(7); {}", rows(20)));
    for (large, stays) in [(alone.as_str(), "1,2"), (in_a_text.as_str(), "1,7,2")] {
        let replies = f.entry(&[
            (0, &["INSERT INTO t VALUES(1)", large, "INSERT INTO t VALUES(2)"]),
            (TX, &["INSERT INTO t VALUES(3)", large]),
        ]);
        let told = r#"{"error":"the result is larger than allowed here"}"#;
        let at = |n: usize| &replies[0][n..];
        assert!(replies[0].len() < 200 && replies[0].matches('{').count() == 3, "{:.200}", at(0));
        assert!(replies[0].contains(told) && replies[1].ends_with(told), "{:.200}", replies[1]);
        assert_eq!(f.value("SELECT group_concat(a) FROM t"), stays);
        f.one(0, &["DELETE FROM t"]);
    }
}

/// Members differ in how many digits a time has.
#[test]
fn bytes_that_tell_times_count_for_no_limit() {
    use encode::Sink as _;
    let mut sink = encode::Bounded::new(10);
    let written = |sink: &mut encode::Bounded, bytes: &[u8], time: usize| {
        sink.buffer().extend_from_slice(bytes);
        sink.time_written(time);
        sink.part_written().is_ok()
    };
    let empty = sink.filled();
    assert!(written(&mut sink, b"0123456789, time: 0.1", 11));
    let filled = sink.filled();
    assert!(written(&mut sink, b"; and 0.123", 11));
    sink.take_back(filled);
    assert!(!written(&mut sink, b"x", 0), "what was taken back counts no more, nor does its time");
    sink.take_back(empty);
    assert!(!written(&mut sink, b"0123456789x", 0), "nor that of the statement before");
    sink.take_back(empty);
    assert!(written(&mut sink, b"012345", 3));
    let mut all = encode::Bounded::new(4);
    sink.pass_on(&mut all);
    assert!(written(&mut all, b"6", 0) && !written(&mut all, b"7", 0), "the time came with it");
}

#[test]
fn an_error_in_the_middle_of_a_texts_rows_is_answered() {
    let mut f = fixture(false);
    let text =
        "SELECT 1; SELECT CASE value WHEN 2 THEN abs(-9223372036854775807 - 1) END FROM json_each('[1,2]')";
    let out = f.one(RequestFlags::UNIFIED, &[text, "SELECT 5 AS a"]);
    assert!(out.starts_with(r#"{"error":"integer overflow"},{"columns":["a"]"#), "{out}");
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
        let mut applier = Applier::open(
            &path,
            EntryVfs::register().unwrap(),
            false,
            Shelf::open(Path::new("none")),
            Arc::default(),
        )
        .unwrap();
        assert!(applier.apply(&entry).unwrap().is_empty());
        assert_eq!(applier.applied().log_id, Some(log_id));
        let rows: i64 = applier.connection().query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 1);
        assert_eq!(applier.connection().last_insert_rowid(), 1);
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
            "INSERT INTO sqlite_sequence VALUES('t', 9223372036854775807)",
        ],
    );
    assert_eq!(f.one(0, &["INSERT INTO t DEFAULT VALUES"]), r#"{"error":"database or disk is full"}"#);
    assert!(f.one(0, &["DROP TABLE t"]).starts_with('{'));
}

const ENDLESS: &str =
    "INSERT INTO t(a) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c";

#[test]
fn a_request_takes_only_so_many_steps_and_the_others_go_on() {
    let mut f = fixture(false);
    f.step_limit = 100_000;
    f.one(0, &["CREATE TABLE t(a)"]);
    let replies = f.entry(&[
        (0, &["INSERT INTO t VALUES(-1)"]),
        (0, &["INSERT INTO t VALUES(-2)", ENDLESS, "INSERT INTO t VALUES(-3)"]),
        (TX, &["INSERT INTO t VALUES(-4)", ENDLESS]),
        (RequestFlags::UNIFIED, &[&ENDLESS[17..], "SELECT 1 AS n"]),
        (0, &["INSERT INTO t VALUES(-5)"]),
    ]);
    assert_eq!(f.value("SELECT group_concat(a) FROM t"), "-1,-2,-5");
    assert_eq!(replies[0], r#"{"last_insert_id":1,"rows_affected":1}"#);
    assert!(replies[1].contains(r#"{"error":"execute timeout: "#), "{}", replies[1]);
    assert!(replies[1].contains("has used up the steps"), "{}", replies[1]);
    assert!(replies[2].ends_with(r#"(-write-step-limit)"}"#), "{}", replies[2]);
    assert!(replies[3].starts_with(r#"{"error":"execute timeout: "#), "{}", replies[3]);
    // Within the limit, though not far from it: the second count decides.
    let most = "INSERT INTO t(a) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 4000) SELECT x FROM c";
    let out = f.one(0, &[most]);
    assert!(out.contains(r#""rows_affected":4000"#), "{out}");
}

#[test]
fn the_verdict_on_steps_does_not_depend_on_what_ran_before() {
    // Steps of the largest statement that passes, found on a member that ran nothing before and on one that did.
    let largest = |warm: bool| {
        let (mut low, mut high) = (1, 20_000);
        while high - low > 1 {
            let n = (low + high) / 2;
            let mut f = fixture(false);
            f.step_limit = 50_000;
            f.one(0, &["CREATE TABLE t(a)", "CREATE VIRTUAL TABLE s USING fts5(a)"]);
            let sql = format!(
                "INSERT INTO t(a) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {n}) SELECT x FROM c"
            );
            if warm {
                for _ in 0..7 {
                    f.one(0, &["INSERT INTO s VALUES('one two three')", "DELETE FROM t WHERE a > 5", &sql]);
                }
                f.one(0, &["DELETE FROM t", "DELETE FROM s"]);
            }
            if f.one(0, &[&sql]).contains("error") { high = n } else { low = n }
        }
        low
    };
    assert_eq!(largest(false), largest(true));
}

#[test]
fn what_ends_the_transaction_again_and_again_is_cut_short() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(a UNIQUE)", "INSERT INTO t VALUES(1)"]);
    let statements: Vec<&str> = (0..50).map(|_| "INSERT OR ROLLBACK INTO t VALUES(1)").collect();
    let out = f.one(0, &statements);
    assert_eq!(out.matches("UNIQUE constraint failed").count(), 8);
    assert_eq!(out.matches("not run: too many").count(), 42);
}

#[test]
fn the_largest_rowid_and_made_up_names_are_refused() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(id INTEGER PRIMARY KEY, a)", "INSERT INTO t VALUES(1, 1)"]);
    for sql in [
        "INSERT INTO t VALUES(9223372036854775807, 1)",
        "UPDATE t SET id = 9223372036854775807",
        "INSERT INTO t VALUES(2, 2), (9223372036854775807, 1)",
    ] {
        assert!(f.one(0, &[sql]).contains("rowid 9223372036854775807 is not allowed"), "{sql}");
    }
    assert!(
        f.one(0, &["CREATE TABLE u AS SELECT 1 AS a, 2 AS a, 3 AS a, 4 AS a, 5 AS a, 6 AS a, 7 AS a"])
            .contains("name them with AS")
    );
    assert_eq!(
        f.one(0, &["CREATE TABLE v AS SELECT 1 AS a, 2 AS a, 3 AS a"]),
        r#"{"last_insert_id":1,"rows_affected":1}"#
    );
    assert_eq!(
        f.value("SELECT group_concat(id) || (SELECT count(*) FROM sqlite_schema WHERE name = 'u') FROM t"),
        "10"
    );
}

#[test]
fn counters_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.sqlite");
    crate::store::create(&path).unwrap();
    let mut f = Fixture {
        applier: Applier::open(
            &path,
            EntryVfs::register().unwrap(),
            false,
            Shelf::open(Path::new("none")),
            Arc::default(),
        )
        .unwrap(),
        _dir: dir,
        next: 0,
        step_limit: 0,
    };
    f.one(0, &["CREATE TABLE t(a, b)", "INSERT INTO t(a) VALUES(1), (2), (3)"]);
    let tell = "INSERT INTO t SELECT changes(), total_changes() || '/' || last_insert_rowid()";
    let restarted = |f: Fixture| {
        let (vfs, closed) = f.applier.close();
        closed.unwrap();
        Fixture {
            applier: Applier::open(&path, vfs, false, Shelf::open(Path::new("none")), Arc::default())
                .unwrap(),
            ..f
        }
    };
    let mut f = restarted(f);
    // A statement that changes no rows leaves them alone.
    assert_eq!(f.one(0, &["CREATE TABLE u(a)"]), r#"{"last_insert_id":3,"rows_affected":3}"#);
    f.one(0, &[tell, "DELETE FROM t WHERE a = 77", tell]);
    let mut f = restarted(f);
    f.one(0, &[tell]);
    assert_eq!(f.value("SELECT group_concat(a || ':' || b, ' ') FROM t WHERE b"), "3:3/3 0:4/4 1:5/5");
}

#[test]
fn counters_within_triggers_do_not_depend_on_what_a_commit_counted() {
    let tell = |rows: usize, reopened: bool| {
        let mut f = fixture(false);
        f.one(
            0,
            &[
                "CREATE TABLE t(a)",
                "CREATE TABLE u(x)",
                "CREATE TABLE told(n)",
                "CREATE VIRTUAL TABLE s USING fts5(a)",
                "CREATE TRIGGER i AFTER INSERT ON t BEGIN UPDATE u SET x = 1; INSERT INTO told VALUES(changes()); END",
            ],
        );
        (0..rows).for_each(|_| drop(f.one(0, &["INSERT INTO u VALUES(0)"])));
        f.one(
            0,
            &["INSERT INTO s VALUES('some words'), ('more of them'), ('and more'), ('and'), ('so'), ('on')"],
        );
        if reopened {
            f.applier.reopen().unwrap();
        }
        f.one(0, &["INSERT INTO t VALUES(1)"]);
        f.value("SELECT n FROM told")
    };
    for rows in 0..8 {
        let told = tell(rows, false);
        assert_eq!(told, tell(rows, true), "{rows} rows");
        assert!(rows == 0 || told == rows.to_string(), "{rows} rows: {told}");
    }
}

#[test]
fn a_table_that_was_not_made_is_no_reason_to_undo_the_next_statement() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(\"a:5\")", "CREATE TABLE u(a)", "INSERT INTO u VALUES(1)"]);
    let insert = "INSERT INTO u SELECT a FROM u";
    let replies = f.one(0, &["CREATE TABLE t AS SELECT 1", insert]);
    let (failed, inserted) = replies.split_once("},{").unwrap();
    assert!(failed.contains("table t already exists"), "{replies}");
    assert!(inserted.contains("\"rows_affected\":1"), "{replies}");
}

/// What is captured of a table that is seen first is more than of one that is known.
#[test]
fn what_is_captured_does_not_depend_on_what_a_connection_has_seen() {
    let captured = |reopened: bool, foreign_keys: bool, max_bytes: u64| {
        let mut f = fixture(foreign_keys);
        f.one(
            0,
            &[
                "CREATE TABLE t(a UNIQUE)",
                "CREATE TABLE told(n)",
                "CREATE TRIGGER t_i AFTER INSERT ON t BEGIN INSERT INTO told VALUES(changes()); END",
                "CREATE TABLE other(a)",
                "CREATE TRIGGER other_i BEFORE INSERT ON other BEGIN INSERT OR FAIL INTO t VALUES(new.a); END",
                "CREATE VIRTUAL TABLE s USING fts5(a)",
                "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
                "CREATE TABLE child(p REFERENCES parent(id) ON DELETE CASCADE)",
            ],
        );
        f.capture(max_bytes);
        f.one(0, &["INSERT INTO s VALUES('words')", "INSERT INTO t VALUES(1)"]);
        f.one(0, &["INSERT INTO parent VALUES(1), (2)", "INSERT INTO child VALUES(1), (2)"]);
        if reopened {
            f.applier.reopen().unwrap();
        }
        let first = f.one(
            0,
            &[
                "DELETE FROM told",
                "INSERT INTO s VALUES('more words')",
                "INSERT INTO t VALUES(1)",
                "INSERT INTO t VALUES(2)",
            ],
        );
        assert!(first.contains("UNIQUE constraint failed: t.a"), "{first}");
        let second = f.one(0, &["DROP TABLE parent"]);
        let told = f.value("SELECT group_concat(n) FROM told");
        let changes = f.value(
            "SELECT group_concat(count || ': ' || CAST(events AS TEXT), char(10)) FROM _sqlited_changes",
        );
        (first, second, told, changes)
    };
    for foreign_keys in [false, true] {
        for max_bytes in [1 << 20, 100] {
            let known = captured(false, foreign_keys, max_bytes);
            let is_held = known.3.contains("\"table\":\"told\"");
            assert_eq!(is_held, max_bytes > 100, "{}", known.3);
            assert_eq!(known, captured(true, foreign_keys, max_bytes));
        }
    }
}

#[test]
fn statistics_count_from_the_next_entry_on_and_vacuum_is_an_entry_of_its_own() {
    let mut f = fixture(false);
    let out = f
        .one(0, &["CREATE TABLE t(a, b)", "CREATE INDEX i ON t(a)", "INSERT INTO t VALUES(1, 2)", "ANALYZE"]);
    assert!(!out.contains("error"), "{out}");
    assert_eq!(f.value("SELECT stat FROM sqlite_stat1"), "1 1");
    assert!(f.one(0, &["UPDATE sqlite_stat1 SET stat = '1000000 1000000'"]).starts_with('{'));
    assert!(f.one(0, &["DELETE FROM t", "VACUUM"]).contains("cannot VACUUM from within a transaction"));
    let pages = "SELECT page_count FROM pragma_page_count";
    f.one(0, &["INSERT INTO t SELECT zeroblob(100000), 0", "DELETE FROM t"]);
    let before: i64 = f.value(pages).parse().unwrap();
    assert_eq!(f.one(0, &["vacuum main;"]), r#"{"last_insert_id":1,"rows_affected":1}"#);
    assert!(f.value(pages).parse::<i64>().unwrap() < before - 20);
    assert_eq!(f.applier.applied().log_id.unwrap().index, f.next - 1);
    assert!(f.one(0, &["VACUUM INTO 'elsewhere'"]).contains("cannot VACUUM"));
}

#[test]
fn local_time_is_universal_time() {
    let mut f = fixture(false);
    f.one(0, &["CREATE TABLE t(a)", "INSERT INTO t VALUES(datetime('now', 'localtime'))"]);
    assert_eq!(f.value("SELECT a FROM t"), "2023-11-14 22:13:20");
    let options = "SELECT count(*) FROM pragma_compile_options WHERE compile_options = 'ENABLE_STAT4'";
    assert_eq!(f.value(options), "0");
}

/// A virtual table keeps writes until the commit, and fails there if what made it was undone in between.
#[test]
fn a_virtual_table_whose_making_was_undone_stops_nobody() {
    let fts4 = "CREATE VIRTUAL TABLE f USING fts4(a)";
    let fts5 = "CREATE VIRTUAL TABLE f USING fts5(a)";
    let insert = "INSERT INTO f VALUES('some words')";
    for make in [fts4, fts5] {
        let mut f = fixture(true);
        f.one(
            0,
            &[
                "CREATE TABLE p(id INTEGER PRIMARY KEY)",
                "CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
                "CREATE TABLE t(a)",
            ],
        );
        let child = format!("{make}; {insert}; INSERT INTO c VALUES(1)");
        let replies = f.entry(&[
            (0, &["INSERT INTO t VALUES('before')"]),
            (TX, &[make, insert, "nonsense"]),
            // The name is free again.
            (TX, &[make, insert]),
            (0, &["DROP TABLE f", &child, "INSERT INTO t VALUES('after')"]),
        ]);
        assert!(replies[1].ends_with(r#"{"error":"near \"nonsense\": syntax error"}"#), "{}", replies[1]);
        assert!(!replies[2].contains("error"), "{}", replies[2]);
        assert!(replies[3].contains("FOREIGN KEY constraint failed"), "{}", replies[3]);
        assert_eq!(f.value("SELECT group_concat(a) FROM t"), "before,after");
        assert_eq!(f.value("SELECT count(*) FROM sqlite_schema WHERE name = 'f'"), "0");
        assert_eq!(f.one(TX, &[make, insert]).matches("error").count(), 0);
        assert_eq!(f.value("SELECT count(*) FROM f WHERE f MATCH 'words'"), "1");
        assert_eq!(f.value("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn what_is_done_at_an_interval_is_noted_in_the_state_and_counts_for_nobody() {
    let mut f = fixture(false);
    let counters = "SELECT changes(), total_changes(), last_insert_rowid()";
    f.one(
        0,
        &["CREATE TABLE \"a \"\"b\"\"\"(x)", "CREATE INDEX i ON \"a \"\"b\"\"\"(x)", "CREATE TABLE empty(x)"],
    );
    f.one(0, &["INSERT INTO \"a \"\"b\"\"\" VALUES(zeroblob(200000)),(2)"]);
    let before = f.one(RequestFlags::UNIFIED, &[counters]);
    assert_eq!(f.applier.maintained(), Maintained::default());

    f.maintain(1, &MaintenanceCommand::Begin { vacuum: true, optimize: false });
    let begun = f.applier.maintained();
    assert_eq!((begun.vacuum_us, begun.optimize_us), (1_700_000_001_000_000, 0));

    let unanalyzed = |f: &Fixture| {
        let mut tables = f.applier.unanalyzed().unwrap();
        tables.sort();
        tables
    };
    assert_eq!(unanalyzed(&f), ["a \"b\"", "empty"]);
    let tables = vec!["a \"b\"".into(), "gone".into(), "_sqlited_meta".into(), "sqlite_schema".into()];
    f.maintain(2, &MaintenanceCommand::Optimize { tables });
    assert_eq!(f.applier.maintenance_error(), None);
    assert_eq!(f.value("SELECT group_concat(tbl || ':' || stat) FROM sqlite_stat1"), "a \"b\":2 1");
    // SQLite keeps no statistics of an empty table, and would look at it again.
    assert_eq!(unanalyzed(&f), ["empty"]);

    f.one(0, &["CREATE TABLE t(x)"]);
    let pages = "SELECT page_count FROM pragma_page_count";
    f.one(0, &["DELETE FROM \"a \"\"b\"\"\" WHERE x <> 2"]);
    let large: i64 = f.value(pages).parse().unwrap();
    let counted = f.one(RequestFlags::UNIFIED, &[counters]);
    f.maintain(9, &MaintenanceCommand::Vacuum);
    assert!(f.value(pages).parse::<i64>().unwrap() < large - 40);
    assert_eq!(f.one(RequestFlags::UNIFIED, &[counters]), counted);
    assert_ne!(before, counted);
    let maintained = f.applier.maintained();
    assert_eq!(
        (maintained.vacuum_us, maintained.optimize_us),
        (1_700_000_009_000_000, 1_700_000_002_000_000)
    );
    // It is read when the database is opened.
    assert_eq!(meta::read_maintained(f.applier.connection()).unwrap(), maintained);
    assert_eq!(f.value("PRAGMA integrity_check"), "ok");
}
