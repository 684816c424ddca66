//! Databases that were made to harm whoever opens them, through `/db/load` and `/boot`: what they hold is refused, or does
//! no harm when it runs, and all members are equal afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use rusqlite::Connection;
use serde_json::{Value, json};
use support::{Cluster, cluster, patient};

/// What is to become of a file.
enum Outcome {
    /// It is refused, with this in the message.
    Refused(&'static str),
    /// It is taken: these statements are then answered with this.
    Taken(&'static [(&'static str, &'static str)]),
}
use Outcome::{Refused, Taken};

struct Crafted {
    what: &'static str,
    /// What makes it.
    sql: String,
    outcome: Outcome,
}

fn crafted(what: &'static str, sql: impl Into<String>, outcome: Outcome) -> Crafted {
    Crafted { what, sql: sql.into(), outcome }
}

/// An error of a statement; of one of those that the guard refuses.
const ERROR: &str = r#""error":""#;
const DENIED: &str = r#""error":"not authorized"#;
const YES: &str = r#""values":[[1]]"#;
const DONE: &str = r#""rows_affected":1"#;
/// Whether the server's own table is all that has a name of the server's.
const OWN: &str =
    "SELECT count(*) = 1 AS own FROM sqlite_schema WHERE lower(substr(name, 1, 9)) = '_sqlited_'";

fn files() -> Vec<Crafted> {
    let words = "INSERT INTO f VALUES('some words'), ('and more of them')";
    let many_tables: String = (0..8000).map(|n| format!("CREATE TABLE t{n}(a);")).collect();
    vec![
        // What a virtual table keeps its data in.
        crafted(
            "a damaged index of FTS5",
            format!("CREATE VIRTUAL TABLE f USING fts5(a); {words}; UPDATE f_data SET block = zeroblob(60) WHERE id > 10"),
            Refused("it is damaged"),
        ),
        crafted(
            "FTS5 without its structure",
            format!("CREATE VIRTUAL TABLE f USING fts5(a); {words}; DELETE FROM f_data WHERE id = 10"),
            Refused("it is damaged"),
        ),
        crafted(
            "a damaged index of FTS4",
            format!("CREATE VIRTUAL TABLE f USING fts4(a); {words}; UPDATE f_segdir SET root = x'00ff'"),
            Refused("it is damaged"),
        ),
        crafted(
            "a damaged node of RTREE",
            "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES(1, 2, 3);
             UPDATE r_node SET data = x'0001ffff'",
            Refused("RTree"),
        ),
        crafted(
            "RTREE whose rows are nowhere",
            "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES(1, 2, 3), (2, 3, 4);
             DELETE FROM r_rowid WHERE rowid = 1",
            Refused("Wrong number of entries"),
        ),
        // What would tell a member's own, or differ between members.
        crafted(
            "a virtual table of pages",
            "CREATE VIRTUAL TABLE evil USING sqlite_dbpage",
            Refused("evil: not authorized"),
        ),
        crafted(
            "a virtual table of the file",
            "CREATE VIRTUAL TABLE evil USING dbstat",
            Refused("evil: not authorized"),
        ),
        crafted(
            "a constraint that differs between versions",
            "CREATE TABLE evil(a CHECK (a <> sqlite_version()))",
            Refused("evil: not authorized"),
        ),
        crafted(
            "a constraint that loads a library",
            "CREATE TABLE evil(a); PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET sql = 'CREATE TABLE evil(a CHECK (load_extension(a) IS NULL))'",
            Refused("load_extension"),
        ),
        crafted(
            "values that differ between versions",
            "CREATE TABLE evil(a, b DEFAULT (sqlite_version() || sqlite_source_id()))",
            Refused("evil: not authorized"),
        ),
        crafted(
            "a value that loads a library",
            "CREATE TABLE evil(a, b DEFAULT (load_extension('evil')))",
            Refused("evil: not authorized"),
        ),
        crafted(
            "views of what is nobody's",
            "CREATE TABLE _sqlited_meta(id); CREATE VIEW a AS SELECT * FROM _sqlited_meta;
             CREATE VIEW b AS SELECT data FROM sqlite_dbpage; CREATE VIEW c AS SELECT load_extension('evil')",
            Taken(&[
                ("SELECT * FROM a", DENIED),
                ("SELECT * FROM b", ERROR),
                ("SELECT * FROM c", ERROR),
            ]),
        ),
        crafted(
            "triggers that write what is nobody's",
            "CREATE TABLE _sqlited_meta(id); CREATE TABLE t(a);
             CREATE TRIGGER a AFTER INSERT ON t BEGIN DELETE FROM _sqlited_meta; END;
             CREATE TRIGGER b AFTER DELETE ON t BEGIN INSERT INTO t SELECT file FROM pragma_database_list; END;
             CREATE TRIGGER c AFTER UPDATE ON t BEGIN SELECT load_extension('evil'); END;
             INSERT INTO t VALUES(1)",
            Taken(&[
                ("INSERT INTO t VALUES(2)", DENIED),
                ("DELETE FROM t", ERROR),
                ("UPDATE t SET a = 3", ERROR),
            ]),
        ),
        crafted(
            "a view of itself",
            "CREATE TABLE v(a); PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET type = 'view', rootpage = 0, sql = 'CREATE VIEW v AS SELECT * FROM v'",
            Taken(&[("SELECT * FROM v", ERROR)]),
        ),
        // What would be taken for the server's.
        crafted("a view with the name of the server's table", "CREATE VIEW _sqlited_meta AS SELECT 1 AS id", Taken(&[(OWN, YES)])),
        crafted(
            "names of the server's on everything",
            "CREATE TABLE t(a); CREATE INDEX _sqlited_i ON t(a); CREATE TRIGGER _SQLITED_t AFTER INSERT ON t BEGIN SELECT 1; END;
             CREATE VIEW _Sqlited_v AS SELECT * FROM t; CREATE VIRTUAL TABLE _sqlited_f USING fts5(a);
             CREATE TABLE _sqlited_x(a UNIQUE); CREATE INDEX _sqlited_j ON _sqlited_x(a);
             CREATE TRIGGER kept AFTER INSERT ON _sqlited_x BEGIN SELECT 1; END",
            Taken(&[
                (OWN, YES),
                ("SELECT count(*) = 1 AS alone FROM sqlite_schema WHERE tbl_name = 't'", YES),
                ("INSERT INTO t VALUES(1)", DONE),
            ]),
        ),
        crafted(
            "a name that is not what stands there",
            "CREATE TABLE t(a); PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET sql = 'CREATE TABLE _sqlited_meta(a)' WHERE name = 't'",
            Refused("malformed database schema"),
        ),
        crafted(
            "a statement in the place of a kind",
            "CREATE TABLE _sqlited_x(a); PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET type = 'TABLE t; ATTACH ''evil'' AS evil; --'",
            Refused(""),
        ),
        // What takes more than there is room for.
        crafted(
            "an index that takes more memory than the child has",
            "CREATE TABLE t(a); INSERT INTO t VALUES(300000000); CREATE INDEX i ON t(length(hex(zeroblob(a))))",
            Refused(""),
        ),
        crafted(
            "a file that grows beyond its measure",
            format!("PRAGMA page_size=512; BEGIN; {many_tables} COMMIT"),
            Refused("took more than it may"),
        ),
    ]
}

/// A file, as `sql` makes it.
fn file(directory: &std::path::Path, sql: &str) -> Vec<u8> {
    let path = directory.join("crafted");
    drop(std::fs::remove_file(&path));
    let database = Connection::open(&path).unwrap();
    database.execute_batch(sql).unwrap_or_else(|error| panic!("{sql:.200}: {error}"));
    database.close().unwrap();
    std::fs::read(&path).unwrap()
}

fn send(c: &Cluster, i: usize, path: &str, body: Vec<u8>) -> (u16, String) {
    let answer = patient().post(c.url(i, path)).body(body).send().unwrap();
    (answer.status().as_u16(), answer.text().unwrap())
}

/// All members have applied the same, and have the same pages.
fn await_equal(c: &mut Cluster, what: &str) {
    c.until(&format!("equal members after {what}"), |c| {
        let said: Vec<Value> = (0..c.members.len()).map(|i| c.status(i, "store.checksum")).collect();
        (said[0].is_object() && said.iter().all(|checksum| *checksum == said[0])).then_some(())
    });
    for i in 0..c.members.len() {
        assert_eq!(c.value(i, "PRAGMA integrity_check", "none"), json!("ok"), "{what}");
    }
}

/// Puts each file through `path` of member `by`.
fn put_through(c: &mut Cluster, by: usize, path: &str) {
    let directory = tempfile::tempdir().unwrap();
    let innocent = file(directory.path(), "CREATE TABLE kept(a); INSERT INTO kept VALUES(7)");
    assert_eq!(send(c, by, path, innocent.clone()).0, 200);
    for Crafted { what, sql, outcome } in files() {
        let (status, body) = send(c, by, path, file(directory.path(), &sql));
        match outcome {
            Refused(part) => {
                assert_eq!(status, 400, "{what}: {body}");
                assert!(body.starts_with("invalid SQLite data: ") && body.contains(part), "{what}: {body}");
                assert_eq!(c.value(by, "SELECT a FROM kept", "strong"), json!(7), "{what}");
            }
            Taken(statements) => {
                assert_eq!(status, 200, "{what}: {body}");
                for (sql, part) in statements {
                    let (_, answer) = c.post(by, "/db/request", &json!([sql]).to_string());
                    assert!(answer.contains(part), "{what}: {sql}: {answer}");
                    assert_eq!(answer.contains("error"), part.contains("error"), "{what}: {sql}: {answer}");
                }
                await_equal(c, what);
                assert_eq!(send(c, by, path, innocent.clone()).0, 200, "{what}");
            }
        }
        c.execute(by, &json!([["INSERT INTO kept VALUES(?)", what]]));
        await_equal(c, what);
        c.execute(by, &json!(["DELETE FROM kept WHERE a <> 7"]));
    }
}

#[test]
fn crafted_databases_that_are_loaded_harm_no_member() {
    let mut c = cluster(3);
    let follower = (c.await_leader(0) + 1) % 3;
    put_through(&mut c, follower, "/db/load");
}

#[test]
fn crafted_databases_that_a_member_boots_with_do_not_harm_it() {
    let mut c = cluster(1);
    put_through(&mut c, 0, "/boot");
}
