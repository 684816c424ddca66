//! SQL that would break out: every attack in every disguise is refused, by writes and by reads, and changes nothing.
//!
//! An attack is a statement as somebody would write it first; a disguise is what makes a filter of texts miss it. The
//! guard is SQLite's authorizer, which sees what a statement means.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use support::Cluster;

/// Statements that are refused on every endpoint.
const ATTACKS: &[&str] = &[
    // Other files.
    "ATTACH 'evil.db' AS evil",
    "ATTACH DATABASE ':memory:' AS evil",
    "ATTACH '' AS evil",
    "ATTACH 'file:evil.db?mode=rwc' AS evil",
    "ATTACH (SELECT 'evil.db') AS evil",
    "DETACH main",
    "DETACH DATABASE evil",
    "VACUUM INTO 'evil.db'",
    "VACUUM main INTO 'evil.db'",
    "VACUUM INTO (SELECT 'evil.db')",
    "SELECT load_extension('evil')",
    "SELECT load_extension('evil', 'main')",
    "SELECT \"load_extension\"('evil')",
    "SELECT 1 WHERE load_extension('evil') IS NULL",
    "SELECT fts3_tokenizer('simple')",
    "SELECT fts3_tokenizer('simple', x'0000000000000000')",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('evil', 'x')",
    "SELECT edit('x', 'evil')",
    "SELECT * FROM fsdir('/')",
    "CREATE VIRTUAL TABLE evil USING csv(filename='/etc/passwd')",
    "CREATE VIRTUAL TABLE evil USING zipfile('evil.zip')",
    "CREATE VIRTUAL TABLE evil USING sqlite_dbpage",
    "CREATE VIRTUAL TABLE evil USING sqlite_dbpage(main)",
    "CREATE VIRTUAL TABLE evil USING dbstat",
    // Transactions of their own.
    "BEGIN",
    "BEGIN TRANSACTION",
    "BEGIN DEFERRED",
    "BEGIN IMMEDIATE",
    "BEGIN EXCLUSIVE TRANSACTION",
    "COMMIT",
    "COMMIT TRANSACTION",
    "END",
    "END TRANSACTION",
    "ROLLBACK",
    "ROLLBACK TRANSACTION",
    "ROLLBACK TO evil",
    "ROLLBACK TRANSACTION TO SAVEPOINT evil",
    "SAVEPOINT evil",
    "SAVEPOINT \"evil\"",
    "RELEASE evil",
    "RELEASE SAVEPOINT evil",
    // As the server itself writes them: its compiled statements are nobody else's.
    "SAVEPOINT request",
    "SAVEPOINT statement",
    "RELEASE request",
    "RELEASE statement",
    "ROLLBACK TO request",
    "ROLLBACK TO statement",
    "/* own */ COMMIT",
    "/* own */ BEGIN IMMEDIATE",
    "/* own */ SAVEPOINT request",
    "/* own */ ROLLBACK TO statement",
    "/* own */ RELEASE request",
    // What belongs to a connection and is not replicated.
    "CREATE TEMP TABLE evil(a)",
    "CREATE TEMPORARY TABLE evil(a)",
    "CREATE TABLE temp.evil(a)",
    "CREATE TABLE \"temp\".evil AS SELECT 1",
    "CREATE TEMP VIEW evil AS SELECT 1",
    "CREATE VIEW temp.evil AS SELECT 1",
    "CREATE TEMP TRIGGER evil AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE temp.evil USING fts5(a)",
    "CREATE TABLE temp . evil(a)",
    "CREATE TABLE [TEMP].[evil](a)",
    "CREATE TABLE temp.evil AS SELECT * FROM t",
    "CREATE TRIGGER temp.evil AFTER INSERT ON t BEGIN SELECT 1; END",
    "INSERT INTO temp.sqlite_master VALUES(1, 1, 1, 1, 1)",
    // The schema as data.
    "UPDATE sqlite_schema SET sql = ''",
    "UPDATE sqlite_master SET sql = 'evil'",
    "UPDATE main.sqlite_master SET rootpage = 2",
    "DELETE FROM sqlite_schema",
    "DELETE FROM sqlite_master WHERE name = 't'",
    "INSERT INTO sqlite_schema VALUES('table', 'evil', 'evil', 2, 'CREATE TABLE evil(a)')",
    "INSERT OR REPLACE INTO sqlite_master(rowid, name) VALUES(1, 'evil')",
    "REPLACE INTO sqlite_schema(name) VALUES('evil')",
    "DROP TABLE sqlite_schema",
    "ALTER TABLE sqlite_schema RENAME TO evil",
    "CREATE TABLE sqlite_evil(a)",
    // Pages.
    "SELECT data FROM sqlite_dbpage",
    "SELECT data FROM sqlite_dbpage('main') WHERE pgno = 1",
    "SELECT count(*) FROM \"sqlite_dbpage\"",
    "SELECT count(*) FROM main.sqlite_dbpage",
    "UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = 1",
    "INSERT INTO sqlite_dbpage(pgno, data) VALUES(2, zeroblob(4096))",
    "DELETE FROM sqlite_dbpage",
    "SELECT (SELECT data FROM sqlite_dbpage LIMIT 1)",
    "WITH p AS (SELECT data FROM sqlite_dbpage) SELECT * FROM p",
    // The table of the server.
    "SELECT * FROM _sqlited_meta",
    "SELECT * FROM main._sqlited_meta",
    "SELECT * FROM \"_sqlited_meta\"",
    "SELECT * FROM [_sqlited_meta]",
    "SELECT * FROM `_SQLITED_META`",
    "SELECT count(*) FROM _Sqlited_Meta AS harmless",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM _sqlited_meta)",
    "SELECT 1 UNION SELECT count(*) FROM _sqlited_meta",
    "WITH m AS (SELECT * FROM _sqlited_meta) SELECT * FROM m",
    "SELECT t.a FROM t JOIN _sqlited_meta",
    "INSERT INTO _sqlited_meta DEFAULT VALUES",
    "INSERT INTO t SELECT 1 FROM _sqlited_meta",
    "UPDATE _sqlited_meta SET id = 7",
    "DELETE FROM _sqlited_meta",
    "DROP TABLE _sqlited_meta",
    "DROP TABLE IF EXISTS main._sqlited_meta",
    "ALTER TABLE _sqlited_meta RENAME TO evil",
    "ALTER TABLE _sqlited_meta ADD COLUMN evil",
    "CREATE INDEX evil ON _sqlited_meta(id)",
    "CREATE TABLE evil AS SELECT * FROM _sqlited_meta",
    "CREATE TRIGGER evil AFTER UPDATE ON _sqlited_meta BEGIN SELECT 1; END",
    "CREATE TABLE _sqlited_evil(a)",
    "CREATE TABLE _SQLITED_evil(a)",
    "CREATE VIEW _sqlited_evil AS SELECT 1",
    "CREATE VIRTUAL TABLE _sqlited_evil USING fts5(a)",
    "CREATE INDEX _sqlited_evil ON t(a)",
    "CREATE TRIGGER _sqlited_evil AFTER INSERT ON t BEGIN SELECT 1; END",
    "ALTER TABLE t RENAME TO _sqlited_evil",
    // More than there is room for.
    "SELECT length(zeroblob(1000000000))",
    "SELECT length(randomblob(1000000000))",
    "SELECT length(printf('%.*c', 1000000000, 'x'))",
    "SELECT length(replace(hex(zeroblob(20000000)), '0', 'xxxxxxxxxx'))",
];

/// PRAGMAs that set something, each with a value.
const PRAGMAS: &[(&str, &str)] = &[
    ("analysis_limit", "1"),
    ("auto_vacuum", "1"),
    ("automatic_index", "0"),
    ("busy_timeout", "1"),
    ("cache_size", "1"),
    ("cache_spill", "0"),
    ("case_sensitive_like", "1"),
    ("cell_size_check", "0"),
    ("checkpoint_fullfsync", "1"),
    ("data_store_directory", "'/tmp'"),
    ("default_cache_size", "1"),
    ("defer_foreign_keys", "1"),
    ("encoding", "'UTF-16'"),
    ("foreign_keys", "1"),
    ("full_column_names", "1"),
    ("fullfsync", "1"),
    ("hard_heap_limit", "1"),
    ("hexkey", "'00'"),
    ("ignore_check_constraints", "1"),
    ("incremental_vacuum", "1"),
    ("journal_mode", "DELETE"),
    ("journal_size_limit", "1"),
    ("key", "'evil'"),
    ("legacy_alter_table", "1"),
    ("locking_mode", "EXCLUSIVE"),
    ("max_page_count", "1"),
    ("mmap_size", "1000000"),
    ("optimize", "0xfffe"),
    ("page_size", "512"),
    ("parser_trace", "1"),
    ("query_only", "0"),
    ("read_uncommitted", "1"),
    ("recursive_triggers", "1"),
    ("rekey", "'evil'"),
    ("reverse_unordered_selects", "1"),
    ("schema_version", "7"),
    ("secure_delete", "0"),
    ("short_column_names", "0"),
    ("soft_heap_limit", "1"),
    ("synchronous", "0"),
    ("temp_store", "1"),
    ("temp_store_directory", "'/tmp'"),
    ("threads", "8"),
    ("trusted_schema", "1"),
    ("wal_autocheckpoint", "1"),
    ("wal_checkpoint", "TRUNCATE"),
    ("writable_schema", "1"),
];

/// PRAGMAs that do something by being named.
const BARE_PRAGMAS: &[&str] = &[
    "incremental_vacuum",
    "optimize",
    "shrink_memory",
    "wal_checkpoint",
    "stats",
    "lock_status",
    "evil_of_theirs",
];

/// What a write may not depend on: it differs between members, or between versions.
const DIFFERS: &[&str] = &[
    "INSERT INTO t SELECT file FROM pragma_database_list",
    "INSERT INTO t SELECT count(*) FROM pragma_page_count",
    "INSERT INTO t SELECT freelist_count FROM pragma_freelist_count()",
    "INSERT INTO t SELECT name FROM pragma_function_list",
    "INSERT INTO t SELECT name FROM pragma_module_list",
    "INSERT INTO t SELECT compile_options FROM pragma_compile_options",
    "INSERT INTO t SELECT * FROM \"pragma_journal_mode\"",
    "UPDATE t SET a = (SELECT count(*) FROM pragma_pragma_list)",
    "DELETE FROM t WHERE a IN (SELECT seq FROM pragma_database_list)",
    "INSERT INTO t SELECT sum(pgsize) FROM dbstat",
    "INSERT INTO t SELECT sum(pgsize) FROM dbstat('main')",
    "CREATE TABLE evil AS SELECT * FROM pragma_database_list",
    "INSERT INTO t VALUES(sqlite_version())",
    "INSERT INTO t VALUES(sqlite_source_id())",
    "INSERT INTO t VALUES(sqlite_compileoption_used('THREADSAFE'))",
    "INSERT INTO t VALUES(sqlite_compileoption_get(1))",
];

/// Something laid that is harmless as such, and what would spring it.
const TRAPS: &[(&str, &str)] = &[
    ("CREATE VIEW trap1 AS SELECT * FROM _sqlited_meta", "SELECT * FROM trap1"),
    ("CREATE VIEW trap2 AS SELECT data FROM sqlite_dbpage", "SELECT * FROM trap2"),
    ("CREATE VIEW trap3 AS SELECT load_extension('evil') AS a", "SELECT a FROM trap3"),
    (
        "CREATE TRIGGER trap4 AFTER INSERT ON victim WHEN new.a = 4 BEGIN DELETE FROM _sqlited_meta; END",
        "INSERT INTO victim VALUES(4)",
    ),
    (
        "CREATE TRIGGER trap5 AFTER DELETE ON victim BEGIN UPDATE _sqlited_meta SET id = 1; END",
        "DELETE FROM victim",
    ),
    ("CREATE TABLE trap6(a DEFAULT (load_extension('evil')))", "INSERT INTO trap6 DEFAULT VALUES"),
    ("CREATE TABLE trap7(a, b AS (load_extension(a)))", "INSERT INTO trap7(a) VALUES('evil')"),
    ("CREATE TABLE trap8(a CHECK (load_extension(a) IS NULL))", "INSERT INTO trap8 VALUES('evil')"),
    ("CREATE TABLE trap9(a, b DEFAULT (sqlite_version()))", "INSERT INTO trap9(a) VALUES(1)"),
    ("CREATE TABLE trap10(a DEFAULT (upper(sqlite_source_id())))", "INSERT INTO trap10 DEFAULT VALUES"),
    ("CREATE TABLE trap11(a DEFAULT (sqlite_compileoption_get(1)))", "INSERT INTO trap11 DEFAULT VALUES"),
    ("CREATE TABLE trap12(a CHECK (a <> sqlite_version()))", "INSERT INTO trap12 VALUES(1)"),
    ("CREATE TABLE trap13(a, b AS (a || sqlite_source_id()))", "INSERT INTO trap13(a) VALUES(1)"),
    (
        "CREATE TRIGGER trap14 AFTER INSERT ON victim WHEN new.a = 14 BEGIN INSERT INTO t SELECT sqlite_version(); END",
        "INSERT INTO victim VALUES(14)",
    ),
];

/// The ways to write a statement differently.
fn disguises(sql: &str) -> Vec<String> {
    let spaced = sql.replace(' ', "\t/* a comment; with ' a quote */\n ");
    let mixed: String = sql
        .chars()
        .enumerate()
        .map(|(i, c)| if i % 2 == 0 { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
        .collect();
    // Names of files and functions may be case-sensitive: not where there is text in quotes.
    let mixed = if sql.contains('\'') { sql.to_ascii_lowercase() } else { mixed };
    vec![
        sql.to_owned(),
        mixed,
        spaced,
        format!("-- PRAGMA harmless\n{sql}"),
        format!("/**/;;\u{c}{sql};"),
        format!("SELECT 1; {sql}"),
        format!("EXPLAIN {sql}"),
    ]
}

fn pragmas() -> Vec<String> {
    let set = PRAGMAS.iter().flat_map(|(name, value)| {
        [
            format!("PRAGMA {name}={value}"),
            format!("PRAGMA main.{name} = {value}"),
            format!("PRAGMA \"{name}\"({value})"),
        ]
    });
    set.chain(BARE_PRAGMAS.iter().map(|name| format!("PRAGMA {name}"))).collect()
}

/// What a statement answers: the request's error, or the statement's.
fn error(c: &Cluster, path: &str, sql: &str) -> Option<String> {
    let (status, body) = c.post(0, path, &json!([sql]).to_string());
    if status != 200 {
        return Some(body);
    }
    let answer: Value = serde_json::from_str(&body).unwrap();
    let of_request = answer["error"].as_str();
    of_request.or_else(|| answer["results"][0]["error"].as_str()).map(str::to_owned)
}

/// What must be as it was. Outside of the data directory there is nothing, and no temporary file stays.
fn state(c: &Cluster) -> (BTreeSet<String>, Vec<Value>) {
    let temporary = std::fs::read_dir(c.members[0].dir.join("temporary")).unwrap();
    let left: Vec<_> = temporary.map(|entry| entry.unwrap().path()).chain(c.left_outside(0)).collect();
    assert!(left.is_empty(), "{left:?}");
    let files =
        std::fs::read_dir(&c.members[0].dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    let told = ["synchronous", "foreign_keys", "schema_version", "page_size", "user_version"];
    let mut values: Vec<Value> = told.iter().map(|p| c.value(0, &format!("PRAGMA {p}"), "none")).collect();
    values.push(c.value(0, "SELECT group_concat(a) FROM t", "none"));
    values.push(c.value(0, "SELECT group_concat(name) FROM sqlite_schema", "none"));
    values.push(c.value(0, "PRAGMA integrity_check", "none"));
    // Version 2 in the file's header is WAL mode.
    let header = std::fs::read(c.members[0].dir.join("db.sqlite")).unwrap();
    values.push(json!([header[18], header[19]]));
    (files.collect(), values)
}

fn member() -> Cluster {
    let mut c = Cluster::empty();
    c.work_apart();
    c.add_members(1, &[]);
    c.start(0);
    c.await_ready(0);
    c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES('kept')", "CREATE TABLE victim(a)"]));
    c
}

#[test]
fn every_attack_in_every_disguise_is_refused_and_changes_nothing() {
    let mut c = member();
    let before = state(&c);
    let attacks = ATTACKS.iter().map(|sql| (*sql).to_owned()).chain(pragmas());
    let spellings: Vec<String> = attacks.flat_map(|sql| disguises(&sql)).collect();
    assert!(spellings.len() >= 1500, "{}", spellings.len());
    let mut through = Vec::new();
    for sql in &spellings {
        for path in ["/db/execute", "/db/query", "/db/request"] {
            // EXPLAIN runs nothing, and these are refused only when they run.
            let late = ["length(", "VACUUM", "USING csv", "USING zipfile", "RENAME TO _sqlited"];
            let only_explained = sql.starts_with("EXPLAIN") && late.iter().any(|part| sql.contains(part));
            if error(&c, path, sql).is_none() && !only_explained {
                through.push(format!("{path} {sql}"));
            }
        }
    }
    assert!(through.is_empty(), "{} got through:\n{}", through.len(), through.join("\n"));
    assert_eq!(state(&c), before);
    c.terminate(0);
    c.start(0);
    c.await_ready(0);
    assert_eq!(state(&c), before);
}

#[test]
fn a_write_does_not_take_in_what_differs_between_members() {
    let c = member();
    let before = state(&c);
    // EXPLAIN of a write is a read.
    let spellings = DIFFERS.iter().flat_map(|sql| disguises(sql)).filter(|sql| !sql.starts_with("EXPLAIN"));
    for sql in spellings {
        for path in ["/db/execute", "/db/request"] {
            assert!(error(&c, path, &sql).is_some(), "{path} {sql}");
        }
    }
    assert_eq!(state(&c), before);
}

#[test]
fn what_is_laid_in_the_schema_does_not_spring() {
    let c = member();
    c.execute(0, &json!(["INSERT INTO victim VALUES('here')"]));
    for (trap, spring) in TRAPS {
        // Some are refused when they are laid.
        if error(&c, "/db/execute", trap).is_none() {
            for path in ["/db/execute", "/db/request"] {
                assert!(error(&c, path, spring).is_some(), "{path} {spring} after {trap}");
            }
        }
    }
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(1));
    assert_eq!(c.value(0, "SELECT a FROM victim", "none"), json!("here"));
    state(&c);
}

#[test]
fn statements_without_measure_are_refused() {
    let c = member();
    let deep = format!("SELECT {}1{}", "abs(".repeat(5000), ")".repeat(5000));
    let not = format!("SELECT {} 1", "NOT ".repeat(5000));
    let wide = format!("SELECT {}", vec!["1"; 40_000].join(","));
    let union = vec!["SELECT 1"; 2000].join(" UNION ALL ");
    let parameters = format!("SELECT {}", vec!["?"; 40_000].join("+"));
    let like = format!("SELECT 'x' LIKE '{}'", "%x".repeat(50_000));
    let joins = format!("SELECT count(*) FROM {}", vec!["t"; 100].join(" NATURAL JOIN "));
    for sql in [deep, not, wide, union, parameters, like, joins] {
        for path in ["/db/execute", "/db/query"] {
            assert!(error(&c, path, &sql).is_some(), "{path} {}", &sql[..60]);
        }
    }
    c.execute(0, &json!(["INSERT INTO t VALUES('and goes on')"]));
    state(&c);
}
