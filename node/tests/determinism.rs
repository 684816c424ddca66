//! Replicas that execute the same entries end in the same state, page for page, whatever else happens to them.
//!
//! Statements are drawn from a seed (`DETERMINISM_SEED`) and applied to three stores. One runs through; one is closed and
//! opened again, gets its entries in other batches and checkpoints often; one is replaced by a copy of the first now and
//! then. Their checksums are compared while they run and, at the end, computed anew from what is on disk. And to three
//! processes whose clocks are years apart and whose time zones differ, with foreign keys.
//!
//! `DETERMINISM_STATEMENTS` says how many; the proof takes 1,000,000. Databases grow with what they execute, and are read
//! whole again and again, so after [`RUN`] statements new ones begin, with the next seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine as _;
use bytes::Bytes;
use node::observe::{Observe as _, Until as _};
use node::raft::command::{
    CaptureSettings, ChangesCommand, EntryContext, Param, RequestEncoder, RequestFlags, RequestId,
    encode_changes, encode_execute,
};
use node::store::{Checksum, Cursor, Entry, LogId, Payload, Store};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Statements of one seed.
const RUN: u64 = 20_000;

/// Seeds, and how many statements are drawn from each.
fn runs() -> impl Iterator<Item = (u64, u64)> {
    let (statements, seed) = (number("DETERMINISM_STATEMENTS", 5_000), number("DETERMINISM_SEED", 1));
    (0..statements.div_ceil(RUN)).map(move |run| (seed + run, RUN.min(statements - run * RUN)))
}

const SCHEMA: &[&str] = &[
    "CREATE TABLE plain(a, b, c)",
    "CREATE TABLE keyed(id INTEGER PRIMARY KEY, a UNIQUE, b TEXT DEFAULT CURRENT_TIMESTAMP, c DEFAULT (random()), CHECK(a <> 13))",
    "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, a, at DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now', 'localtime')))",
    "CREATE TABLE clustered(a, b, c REAL, PRIMARY KEY(a, b)) WITHOUT ROWID",
    "CREATE TABLE made(a, b AS (a * 2 + 1) STORED, c AS (upper(hex(a))) VIRTUAL, j DEFAULT (json_object('r', random() % 100)))",
    "CREATE TABLE audit(what, who, n, m, at DEFAULT (julianday('now')))",
    "CREATE INDEX keyed_b ON keyed(b, c)",
    "CREATE INDEX made_e ON made(a + 1, sin(a))",
    "CREATE INDEX plain_p ON plain(b) WHERE a > 10",
    "CREATE TRIGGER keyed_i AFTER INSERT ON keyed BEGIN INSERT INTO audit(what, who, n, m) VALUES('i', new.id, changes(), last_insert_rowid()); END",
    "CREATE TRIGGER keyed_d BEFORE DELETE ON keyed WHEN old.a % 7 = 0 BEGIN SELECT RAISE(ROLLBACK, 'sevens stay'); END",
    "CREATE TRIGGER plain_u AFTER UPDATE ON plain BEGIN INSERT INTO audit(what, who, n) SELECT 'u', count(*), random() FROM clustered; END",
    "CREATE TABLE failing(a UNIQUE)",
    "CREATE TRIGGER failing_i BEFORE INSERT ON failing BEGIN INSERT OR FAIL INTO keyed(a) VALUES(new.a); SELECT RAISE(FAIL, 'no') WHERE new.a % 5 = 0; END",
    "CREATE VIEW both AS SELECT id, a FROM keyed UNION ALL SELECT id, a FROM counted",
    "CREATE TRIGGER both_i INSTEAD OF INSERT ON both BEGIN INSERT INTO counted(a) VALUES(new.a); INSERT OR IGNORE INTO keyed(a) VALUES(new.a); END",
    "CREATE VIRTUAL TABLE texts USING fts5(title, body, prefix='2 3')",
    "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1, y0, y1)",
    "CREATE TABLE child(a UNIQUE, p REFERENCES keyed(id) DEFERRABLE INITIALLY DEFERRED)",
];

/// Draws statements.
struct Generator {
    random: StdRng,
    tables: u32,
}

impl Generator {
    fn n(&mut self, below: i64) -> i64 {
        self.random.random_range(0..below)
    }

    fn word(&mut self) -> &'static str {
        const WORDS: &[&str] =
            &["ash", "birch", "cedar", "elm", "fir", "larch", "oak", "pine", "rowan", "yew"];
        WORDS.choose(&mut self.random).unwrap()
    }

    fn statement(&mut self) -> String {
        let (n, m, k) = (self.n(2000), self.n(50), self.n(20) + 1);
        let (v, w) = (self.word(), self.word());
        match self.n(82) {
            0..=5 => format!("INSERT INTO plain VALUES({n}, '{v}', random())"),
            6..=8 => format!("INSERT INTO plain SELECT value, randomblob({m}), changes() FROM json_each('[1,2,{n}]')"),
            9..=14 => format!("INSERT INTO keyed(a) VALUES({n})"),
            15..=17 => format!("INSERT INTO keyed(a, b) VALUES({n}, '{v}') ON CONFLICT(a) DO UPDATE SET b = excluded.b || keyed.b, c = random()"),
            18 => format!("INSERT OR REPLACE INTO keyed(id, a) VALUES({n}, {n} + {m})"),
            19 => format!("INSERT OR ROLLBACK INTO keyed(a) VALUES({n})"),
            20 => format!("INSERT OR IGNORE INTO keyed(a) SELECT a FROM plain WHERE a < {m} LIMIT 20"),
            21..=23 => format!("INSERT INTO counted(a) VALUES({n}), (last_insert_rowid()), (total_changes())"),
            24 => format!("INSERT INTO counted(a) SELECT a FROM plain ORDER BY random() LIMIT {k} RETURNING id, a, at"),
            25..=27 => format!("INSERT OR REPLACE INTO clustered VALUES({m}, {n}, pow({m}, 1.1) / 3)"),
            28 => format!("UPDATE clustered SET c = c + exp({m} / 50.0) WHERE a = {m}"),
            29..=31 => format!("INSERT INTO made(a) VALUES({n}), ('{v}')"),
            32 => format!("UPDATE made SET a = a + 1 WHERE rowid % 17 = {m} % 17"),
            33..=34 => format!("UPDATE plain SET c = abs(random() % 1000) WHERE a BETWEEN {n} AND {n} + 5"),
            35 => format!("DELETE FROM plain WHERE rowid IN (SELECT rowid FROM plain LIMIT {k} OFFSET {m})"),
            36 => format!("DELETE FROM keyed WHERE id = {n}"),
            37 => "DELETE FROM keyed WHERE a IN (SELECT a FROM keyed LIMIT 2)".into(),
            38 => format!("DELETE FROM counted WHERE id < {n}"),
            39 => format!("DELETE FROM clustered WHERE a > {m} + 40"),
            40 => format!("INSERT INTO both(a) VALUES({n})"),
            41..=43 => format!("INSERT INTO texts VALUES('{v} {w}', '{w} ' || hex(randomblob({k})))"),
            44 => format!("DELETE FROM texts WHERE rowid IN (SELECT rowid FROM texts('{v}') LIMIT 3)"),
            45 => format!("UPDATE texts SET body = body || ' {v}' WHERE rowid = {n}"),
            46 => "INSERT INTO texts(texts) VALUES('optimize')".into(),
            47..=48 => format!("INSERT OR REPLACE INTO boxes VALUES({n}, {m}, {m} + 1, {k}, {k} + 2)"),
            49 => format!("DELETE FROM boxes WHERE x0 > {m}"),
            50 => "DELETE FROM audit WHERE rowid <= (SELECT max(rowid) - 500 FROM audit)".into(),
            51 => format!("INSERT INTO audit(what, who) SELECT 'a', group_concat(title) FROM texts('{v} OR {w}')"),
            52 => format!("INSERT INTO plain VALUES({n}, zeroblob({n} * 7), '{v}'); UPDATE plain SET b = NULL WHERE length(b) > 9000"),
            53 => {
                self.tables += 1;
                format!("CREATE TABLE made_{} AS SELECT a, b, a AS c FROM plain LIMIT {m}", self.tables)
            }
            54 => format!("DROP TABLE IF EXISTS made_{}", self.n(i64::from(self.tables) + 1)),
            55 => "CREATE INDEX IF NOT EXISTS counted_a ON counted(a)".into(),
            56 => "DROP INDEX IF EXISTS counted_a".into(),
            57 => format!("ALTER TABLE audit ADD COLUMN extra_{n} DEFAULT {m}"),
            58 => "ANALYZE".into(),
            59 => "REINDEX".into(),
            60 => "VACUUM".into(),
            61 => "PRAGMA user_version = 7".into(),
            62 => "INSERT INTO keyed(id, a) VALUES(9223372036854775807, -1)".into(),
            63 => "INSERT INTO no_such_table VALUES(1)".into(),
            64 => format!("INSERT INTO plain SELECT x, x, x FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {n} * 10) SELECT x FROM c) WHERE x % 997 = 0"),
            65 => "INSERT INTO plain(a) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c".into(),
            66 => format!("UPDATE counted SET a = (SELECT count(*) FROM made AS x WHERE x.a > {n}) WHERE id % 5 = {k} % 5"),
            67 => format!("INSERT INTO audit(what, n) VALUES(datetime('now', '+{m} days', 'localtime'), unixepoch('now', 'subsec'))"),
            68 => format!("INSERT INTO audit(what, n, m) SELECT json_group_array(a), sum(c), avg(b) FROM clustered WHERE a < {m}"),
            69 => format!("UPDATE sqlite_sequence SET seq = seq + {k} WHERE name = 'counted'"),
            70 => "DELETE FROM plain WHERE rowid % 3 = 0".into(),
            71 => format!("INSERT INTO plain SELECT a, b, row_number() OVER (PARTITION BY a ORDER BY c) FROM plain LIMIT {m}"),
            72 => format!("SELECT count(*), {m} FROM keyed"),
            73 => format!("INSERT OR FAIL INTO keyed(a) SELECT a FROM plain WHERE a > {n} LIMIT {k}"),
            74 => format!("INSERT INTO keyed(a) SELECT a FROM plain WHERE a > {n} LIMIT {k}"),
            75 => format!("INSERT INTO failing(a) VALUES({m})"),
            76 => format!("UPDATE OR REPLACE keyed SET id = id + 1 WHERE id BETWEEN {n} AND {n} + 3"),
            77 => format!("INSERT INTO child VALUES({n}, (SELECT min(id) FROM keyed WHERE id > {n}))"),
            78 => format!("INSERT OR FAIL INTO child VALUES({n}, -1), ({n}, -2)"),
            79 => format!("INSERT INTO child VALUES({n}, -{m}); INSERT INTO no_such_table VALUES(1)"),
            80 => format!("DELETE FROM child WHERE a < {n}"),
            _ => format!("INSERT INTO keyed(a) VALUES({n}); INSERT INTO keyed(a) VALUES({n})"),
        }
    }

    /// The next entry, and how many statements it holds.
    fn entry(&mut self, index: u64) -> (Entry, u64) {
        let mut count = 0;
        let requests: Vec<Bytes> = (0..self.n(4) + 1)
            .map(|_| {
                let transaction = self.n(3) == 0;
                let flags = RequestFlags::default().with(RequestFlags::TRANSACTION, transaction);
                let flags = flags.with(RequestFlags::UNIFIED, self.n(4) == 0);
                let mut e = RequestEncoder::new(flags.with(RequestFlags::TIMINGS, self.n(4) == 0), 0);
                for _ in 0..self.n(5) + 1 {
                    e.statement(&self.statement());
                    assert!(e.param(None, Param::Null));
                    count += 1;
                }
                e.finish(RequestId::default()).into_bytes()
            })
            .collect();
        let context = EntryContext {
            // Clocks of leaders differ and go back.
            timestamp_us: 1_750_000_000_000_000 + index as i64 * 1000 + self.n(5_000_000),
            seed: self.random.random(),
            step_limit: 200_000,
        };
        let command = encode_execute(context, requests.iter().map(|r| r.as_ref()));
        let log_id = LogId { term: 1 + index / 1000, leader: 7, index };
        (Entry { log_id, payload: Payload::Command(command), wants_reply: self.n(2) == 0 }, count)
    }
}

fn open(directory: &Path) -> Store {
    open_with(directory, false)
}

fn open_with(directory: &Path, foreign_keys: bool) -> Store {
    Store::open(directory, foreign_keys, Duration::from_secs(3600)).unwrap()
}

/// The entry that makes the tables.
fn schema() -> Entry {
    let mut e = RequestEncoder::new(RequestFlags::default(), 0);
    SCHEMA.iter().for_each(|sql| e.statement(sql));
    let request = e.finish(RequestId::default());
    let context = EntryContext { timestamp_us: 1_750_000_000_000_000, seed: 9, step_limit: 0 };
    let command = encode_execute(context, [request.bytes()].into_iter());
    let log_id = LogId { term: 1, leader: 7, index: 0 };
    Entry { log_id, payload: Payload::Command(command), wants_reply: true }
}

/// Waits until the pages have been read.
async fn checksum(store: &Store) -> Checksum {
    loop {
        if let Some(checksum) = store.checksum().await.unwrap() {
            return checksum;
        }
        assert_eq!(store.damage().current(), None);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn execute(store: &Store, entries: &[Entry], batch: usize) {
    for entries in entries.chunks(batch) {
        store.apply(entries.to_vec()).await.unwrap();
    }
}

/// Pages in which two stores differ: number, what they belong to, and the first byte that differs.
fn differences(a: &Store, b: &Store) -> Vec<String> {
    let pages = |store: &Store| -> Vec<(Vec<u8>, String)> {
        let sql =
            "SELECT data, coalesce((SELECT name || ' ' || path FROM dbstat WHERE pageno = pgno), 'free')
                   FROM sqlite_dbpage ORDER BY pgno";
        store
            .readers()
            .inspect(|c| c.prepare(sql)?.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect())
            .unwrap()
    };
    let stores = [a, b];
    let (a, b) = (pages(a), pages(b));
    let mut found = vec![format!("{} and {} pages", a.len(), b.len())];
    for (number, (a, b)) in a.iter().zip(&b).enumerate() {
        if let Some(at) = a.0.iter().zip(&b.0).position(|(x, y)| x != y) {
            let around = |page: &[u8]| format!("{:02x?}", &page[at..(at + 24).min(page.len())]);
            found.push(format!("page {} {} at {at}: {} {}", number + 1, a.1, around(&a.0), around(&b.0)));
        }
    }
    found.extend(differing_rows(stores));
    found
}

/// Rows in which two stores differ, table by table.
fn differing_rows(stores: [&Store; 2]) -> Vec<String> {
    let rows = |store: &Store, sql: &str| -> Vec<String> {
        let read = |row: &rusqlite::Row<'_>| {
            let columns = row.as_ref().column_count();
            let values = (0..columns).map(|i| row.get::<_, rusqlite::types::Value>(i));
            Ok(values.map(|value| format!("{:?}", value.unwrap())).collect::<Vec<_>>().join(", "))
        };
        store.readers().inspect(|c| c.prepare(sql)?.query_map([], read)?.collect()).unwrap()
    };
    let mut found = Vec::new();
    for table in ["plain", "keyed", "counted", "clustered", "made", "audit"] {
        let [a, b] = stores.map(|store| rows(store, &format!("SELECT * FROM {table}")));
        found.push(format!("{table}: {} and {} rows", a.len(), b.len()));
        let differing = a.iter().zip(&b).filter(|(a, b)| a != b).take(3);
        found.extend(differing.map(|(a, b)| format!("{table}: {a:.300} <> {b:.300}")));
    }
    found
}

/// The tables of which captured changes are followed, with columns that they always have and that are stored.
const FOLLOWED: &[(&str, &[&str])] = &[
    ("plain", &["a", "b", "c"]),
    ("keyed", &["id", "a", "b", "c"]),
    ("counted", &["id", "a", "at"]),
    ("clustered", &["a", "b", "c"]),
    ("made", &["a", "b", "j"]),
    ("audit", &["what", "who", "n", "m", "at"]),
    ("failing", &["a"]),
];

/// The rows that tables must have after the changes that were captured of them, and how often.
#[derive(Default)]
struct Followed {
    rows: BTreeMap<(String, String), i64>,
    cursor: u64,
    seen: u64,
}

impl Followed {
    /// Takes what was captured since.
    fn follow(&mut self, store: &Store) {
        let mut reader = store.changes_reader();
        let mut cursor = Cursor::after_entry(self.cursor);
        loop {
            let page = reader.read(cursor, 1 << 20).unwrap().unwrap();
            assert_eq!(page.state.gap, None);
            for part in &page.parts {
                assert!(part.cursor > cursor);
                cursor = part.cursor;
                let events: Vec<Value> = part
                    .events
                    .split(|byte| *byte == b'\n')
                    .map(|event| serde_json::from_slice(event).unwrap())
                    .collect();
                assert_eq!(events.len() as u64, part.count);
                events.iter().for_each(|event| self.take(event));
            }
            if !page.is_full {
                self.cursor = page.position.index;
                return;
            }
        }
    }

    fn take(&mut self, event: &Value) {
        self.seen += 1;
        let table = event["table"].as_str().unwrap();
        assert!(!table.starts_with("texts") && !table.starts_with("boxes"), "{event}");
        let Some((_, columns)) = FOLLOWED.iter().find(|(name, _)| *name == table) else { return };
        let is_keyless = table == "clustered";
        assert_eq!(event.get("new_row_id").is_none() && event.get("old_row_id").is_none(), is_keyless);
        for (side, count) in [("before", -1), ("after", 1)] {
            let Some(row) = event.get(side) else { continue };
            let row: Vec<String> = columns.iter().map(|column| plain(&row[*column])).collect();
            *self.rows.entry((table.to_owned(), row.join("|"))).or_default() += count;
        }
    }

    fn check(&mut self, store: &Store, seed: u64) {
        self.rows.retain(|_, count| *count != 0);
        let mut rows: BTreeMap<(String, String), i64> = BTreeMap::new();
        for (table, columns) in FOLLOWED {
            let sql = format!("SELECT {} FROM {table}", columns.join(", "));
            let read = |row: &rusqlite::Row<'_>| {
                let values = (0..columns.len()).map(|i| row.get::<_, rusqlite::types::Value>(i));
                Ok(values.map(|value| plain(&json(value.unwrap()))).collect::<Vec<_>>().join("|"))
            };
            let found: Vec<String> =
                store.readers().inspect(|c| c.prepare(&sql)?.query_map([], read)?.collect()).unwrap();
            for row in found {
                *rows.entry(((*table).to_owned(), row)).or_default() += 1;
            }
        }
        let differing: Vec<_> = self
            .rows
            .iter()
            .filter(|(row, count)| rows.get(*row) != Some(count))
            .chain(rows.iter().filter(|(row, count)| self.rows.get(*row) != Some(count)))
            .take(6)
            .collect();
        assert!(differing.is_empty(), "seed {seed}: {differing:#?}");
    }
}

/// A number is the same number, whether it was written as an integer or not.
fn plain(value: &Value) -> String {
    value.as_f64().map_or_else(|| value.to_string(), |n| format!("{n:e}"))
}

fn json(value: rusqlite::types::Value) -> Value {
    use rusqlite::types::Value as V;
    match value {
        V::Null => Value::Null,
        V::Integer(n) => n.into(),
        V::Real(n) => n.into(),
        V::Text(text) => text.into(),
        V::Blob(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
    }
}

fn changes(index: u64, command: &ChangesCommand) -> Entry {
    let context = EntryContext { timestamp_us: 1_750_000_000_000_000, seed: 9, step_limit: 0 };
    let command = encode_changes(context, command);
    let log_id = LogId { term: 1 + index / 1000, leader: 7, index };
    Entry { log_id, payload: Payload::Command(command), wants_reply: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_stay_equal() {
    for (seed, statements) in runs() {
        stay_equal(seed, statements, None).await;
    }
    println!("{}: equal on three stores", told());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_stay_equal_and_capture_what_changes() {
    let mut captured = 0;
    for (seed, statements) in runs() {
        captured += stay_equal(seed, statements, Some(Followed::default())).await;
    }
    println!("{}: equal on three stores, {captured} changes captured", told());
}

/// Of which statements something is said.
fn told() -> String {
    let statements: u64 = runs().map(|(_, statements)| statements).sum();
    format!("{statements} statements, {} seeds", runs().count())
}

/// Returns how many changes were captured.
async fn stay_equal(seed: u64, statements: u64, mut followed: Option<Followed>) -> u64 {
    let directories: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut stores: Vec<Store> = directories.iter().map(|d| open(d.path())).collect();
    let mut schedule = StdRng::seed_from_u64(seed + 1);
    let mut generator = Generator { random: StdRng::seed_from_u64(seed), tables: 0 };

    let first = schema();
    for store in &stores {
        let reply = store.apply(vec![first.clone()]).await.unwrap().remove(0);
        assert!(!String::from_utf8_lossy(&reply[0]).contains("error"), "{reply:?}");
    }

    let (mut done, mut index) = (0, 1);
    if followed.is_some() {
        let settings = CaptureSettings {
            row_ids_only: false,
            has_sink: true,
            table_filter: "^[a-t]".into(),
            max_bytes: 1 << 30,
            retain_bytes: 1 << 18,
        };
        execute(&stores[0], &[changes(index, &ChangesCommand::On(settings.clone()))], 1).await;
        execute(&stores[1], &[changes(index, &ChangesCommand::On(settings.clone()))], 1).await;
        execute(&stores[2], &[changes(index, &ChangesCommand::On(settings))], 1).await;
        index += 1;
    }
    while done < statements {
        let mut entries = Vec::new();
        if let Some(followed) = &followed
            && followed.seen > 0
        {
            entries.push(changes(index, &ChangesCommand::Delivered { entry: followed.cursor }));
            index += 1;
        }
        for _ in 0..schedule.random_range(5..60) {
            let (entry, count) = generator.entry(index);
            entries.push(entry);
            index += 1;
            done += count;
        }
        execute(&stores[0], &entries, 7).await;
        // Closed and opened in the middle, and checkpointed.
        let (before, after) = entries.split_at(schedule.random_range(0..entries.len()));
        execute(&stores[1], before, 1).await;
        if schedule.random_range(0..3) == 0 {
            stores[1].close().await.unwrap();
            stores[1] = open(directories[1].path());
        }
        if schedule.random_range(0..2) == 0 {
            stores[1].checkpoint().await.unwrap();
        }
        execute(&stores[1], after, 64).await;
        // Replaced by a copy of the first now and then, which is ahead of the entries that it is given after.
        if schedule.random_range(0..6) == 0 {
            let source = stores[0].clone();
            let target = stores[2].clone();
            let ready = tokio::task::spawn_blocking(move || {
                target.copy_snapshot(&source.pin_snapshot().unwrap()).unwrap()
            })
            .await
            .unwrap();
            stores[2].install(ready).await.unwrap();
        }
        execute(&stores[2], &entries, 3).await;

        let expected = checksum(&stores[0]).await;
        assert_eq!(expected.index, index - 1);
        for (number, store) in stores.iter().enumerate().skip(1) {
            let found = checksum(store).await;
            assert!(
                found == expected,
                "seed {seed}, after {done} statements, store {number}: {found:?}, not {expected:?}: {:#?}",
                differences(&stores[0], store)
            );
        }
        if let Some(followed) = &mut followed {
            followed.follow(&stores[0]);
            followed.check(&stores[0], seed);
        }
    }
    if let Some(followed) = &followed {
        assert!(followed.seen > statements / 2, "seed {seed}: {} changes captured", followed.seen);
        let state = stores[0].capture().unwrap().unwrap();
        assert!(state.events >= followed.seen && state.delivered > 0 && state.lost == 0, "{state:?}");
    }
    // What was added up along the way is what is on disk.
    for (store, directory) in stores.iter().zip(&directories) {
        let expected = checksum(store).await;
        store.close().await.unwrap();
        let again = open(directory.path());
        assert_eq!(checksum(&again).await, expected);
        let check: String = again
            .readers()
            .inspect(|c| c.query_row("SELECT integrity_check FROM pragma_integrity_check", [], |r| r.get(0)))
            .unwrap();
        assert_eq!(check, "ok");
        again.close().await.unwrap();
    }
    followed.map_or(0, |followed| followed.seen)
}

/// A process of its own: `sum` and index and checksum on each line, and the times of its machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "one of the three processes of the test below"]
async fn one_replica() {
    let (statements, seed) = (number("DETERMINISM_STATEMENTS", 5_000), number("DETERMINISM_SEED", 1));
    let replica = number("DETERMINISM_REPLICA", 0);
    let directory = tempfile::tempdir().unwrap();
    let mut store = open_with(directory.path(), true);
    let mut generator = Generator { random: StdRng::seed_from_u64(seed), tables: 0 };
    let mut schedule = StdRng::seed_from_u64(seed + replica);
    store.apply(vec![schema()]).await.unwrap();
    assert!(Command::new("date").arg("+%nyear %Y%nzone %z").status().unwrap().success());
    let (mut done, mut index) = (0, 1);
    while done < statements {
        let mut entries = Vec::new();
        for _ in 0..40 {
            let (entry, count) = generator.entry(index);
            entries.push(entry);
            index += 1;
            done += count;
        }
        let (before, after) = entries.split_at(schedule.random_range(0..entries.len()));
        execute(&store, before, 1 + replica as usize * 5).await;
        if replica > 0 && schedule.random_range(0..4) == 0 {
            store.checkpoint().await.unwrap();
            store.close().await.unwrap();
            store = open_with(directory.path(), true);
        }
        execute(&store, after, 64).await;
        let Checksum { index, sum, .. } = checksum(&store).await;
        println!("sum {index} {sum:016x}");
    }
    store.close().await.unwrap();
}

/// Of Debian's package libfaketime.
fn faketime() -> PathBuf {
    let at = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(Path::new(&at).exists(), "{at} is missing: apt-get install libfaketime");
    at.into()
}

#[test]
fn clocks_and_time_zones_of_machines_do_not_matter() {
    let states: usize = runs().map(|(seed, statements)| states_of_other_machines(seed, statements)).sum();
    println!("{}: {states} states of three processes with other clocks and time zones, all equal", told());
}

/// Returns how many states were equal.
fn states_of_other_machines(seed: u64, statements: u64) -> usize {
    let faketime = faketime();
    // Without the files of a zone database: hours west of Greenwich, as POSIX has it.
    let machines = [("UTC0", "+0"), ("LINT-14", "+1000d"), ("NST3:30", "-1000d")];
    let replicas: Vec<_> = (0..)
        .zip(machines)
        .map(|(replica, (zone, clock))| {
            Command::new(std::env::current_exe().unwrap())
                .args(["one_replica", "--exact", "--ignored", "--nocapture"])
                .env("DETERMINISM_REPLICA", replica.to_string())
                .env("DETERMINISM_SEED", seed.to_string())
                .env("DETERMINISM_STATEMENTS", statements.to_string())
                .env("TZ", zone)
                .env("FAKETIME", clock)
                // What waits is to wait as long as ever.
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("LD_PRELOAD", &faketime)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let said: Vec<String> = replicas
        .into_iter()
        .map(|replica| {
            let output = replica.wait_with_output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{said}");
            said
        })
        .collect();
    let lines = |said: &str, word: &str| -> Vec<String> {
        said.lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect()
    };
    for word in ["year", "zone"] {
        let mut told: Vec<_> = said.iter().flat_map(|said| lines(said, word)).collect();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), 3, "{told:?}: the machines are alike");
    }
    let sums = lines(&said[0], "sum");
    assert!(sums.len() > 5, "{}", said[0]);
    for other in &said[1..] {
        let sums_there = lines(other, "sum");
        let first = sums.iter().zip(&sums_there).find(|(here, there)| here != there);
        assert!(first.is_none() && sums.len() == sums_there.len(), "seed {seed}: {first:?}");
    }
    sums.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_at_a_database_that_goes_finds_the_next_one() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [source, target] = directories.each_ref().map(|directory| open(directory.path()));
    let other = target.clone();
    let copy = move || other.copy_snapshot(&source.pin_snapshot().unwrap()).unwrap();
    let ready = tokio::task::spawn_blocking(copy).await.unwrap();
    let ready = std::cell::Cell::new(Some(ready));
    let looking = target.clone();
    let runtime = tokio::runtime::Handle::current();
    let found = tokio::task::spawn_blocking(move || {
        looking.look(|path| {
            // The other one takes its place before this one is opened.
            if let Some(ready) = ready.take() {
                runtime.block_on(looking.install(ready)).unwrap();
            }
            std::fs::metadata(path).map(|_| path.to_owned()).map_err(|_| path.to_owned())
        })
    })
    .await
    .unwrap();
    assert_eq!(found, Ok(target.database_path()));
    // What fails for another reason fails.
    assert_eq!(target.look(|_| Err::<(), _>("no")), Err("no"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_changed_on_disk_is_noticed_within_one_period() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), false, Duration::from_millis(100)).unwrap();
    let mut e = RequestEncoder::new(RequestFlags::default(), 0);
    e.statement("CREATE TABLE t(a)");
    e.statement("INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 9999) SELECT x FROM c");
    let request = e.finish(RequestId::default());
    let context = EntryContext { timestamp_us: 1, seed: 9, step_limit: 0 };
    let command = encode_execute(context, [request.bytes()].into_iter());
    let log_id = LogId { term: 1, leader: 7, index: 0 };
    store
        .apply(vec![Entry { log_id, payload: Payload::Command(command), wants_reply: false }])
        .await
        .unwrap();
    checksum(&store).await;
    // Everything is in the file, and nothing in the WAL hides it.
    store.checkpoint().await.unwrap();
    let mut damage = store.damage();
    assert_eq!(damage.current(), None);

    let file = std::fs::OpenOptions::new().read(true).write(true).open(store.database_path()).unwrap();
    let page = file.metadata().unwrap().len() / 4096;
    let at = (page - 1) * 4096 + 4000;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    damage.until(Option::is_some).await.unwrap();
    let found = damage.current().unwrap();
    assert_eq!(u64::from(found.page), page);
    drop(damage);
    store.close().await.unwrap();
}
