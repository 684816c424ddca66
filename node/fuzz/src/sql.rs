//! SQL of a client, written and read as a member does it. Whatever it is: the member goes on, its database is sound, its own
//! table is untouched, and there is no file that was not there before.
//!
//! The first byte says how; the rest is statements with a NUL between them.

use bytes::Bytes;
use futures::executor::block_on;
use node::observe::Observe as _;
use node::raft::command::{
    EncodedRequest, EntryContext, RequestEncoder, RequestFlags, RequestId, encode_execute,
};
use node::store::{Entry, Limits, Loaded, LogId, Payload, Store, first_value, integrity};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;

const FOREIGN_KEYS: u8 = 0x80;
/// Of one request: enough for anything but a bomb.
const STEPS: u64 = 100_000;
const STATEMENTS: usize = 32;

pub fn run(input: &[u8]) {
    let Some((how, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let flags = RequestFlags(u16::from(*how & !FOREIGN_KEYS));
    let statements: Vec<&str> = text.split('\0').take(STATEMENTS).collect();
    let request = request(flags, &statements);
    let directory = scratch();
    let data = directory.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let store = Store::open(&data, how & FOREIGN_KEYS != 0, Duration::from_secs(3600)).unwrap();
    let names = names_of(directory.path());

    apply(&store, 1, &request);
    // Inline queries have a budget; longer ones run the same code.
    let read = store.readers().try_inline(&request.view().unwrap(), Limits::default());
    read.expect("a query is answered, or its statements have errors");
    let unified = RequestFlags(RequestFlags::UNIFIED);
    let sane = apply(&store, 2, &self::request(unified, &["SELECT 40 + 2 AS n", "PRAGMA journal_mode"]));
    let sane = String::from_utf8_lossy(&sane);
    assert!(sane.contains("[[42]]") && sane.contains("[[\"wal\"]]"), "{sane}");
    assert_eq!(store.damage().current(), None);

    let path = store.database_path();
    let state = store.state().current();
    assert_eq!(state.generation, 1);
    block_on(store.close()).unwrap();
    if let Err(verdict) = integrity(&path, &Loaded::none()) {
        // Rows may break rules that were made, or whose functions were changed, after them.
        let about_rows =
            ["CHECK constraint failed in", "NULL value in", "non-", "TEXT value in", "NUMERIC value in"];
        assert!(about_rows.iter().any(|part| verdict.starts_with(part)), "{verdict}");
    }
    let own = "SELECT group_concat(type || ' ' || name || ' ' || tbl_name) FROM sqlite_schema
               WHERE lower(name || ' ' || tbl_name) LIKE '%\\_sqlited\\_%' ESCAPE '\\'
                 AND (lower(name) GLOB '_sqlited_*' OR lower(tbl_name) GLOB '_sqlited_*')";
    assert_eq!(
        first_value(&path, own, &Loaded::none()),
        Ok(Some("table _sqlited_meta _sqlited_meta".into()))
    );
    assert_eq!(names_of(directory.path()), names);
    // It opens again where it was.
    let again = Store::open(&data, how & FOREIGN_KEYS != 0, Duration::from_secs(3600)).unwrap();
    assert_eq!(again.applied(), state.applied);
    block_on(again.close()).unwrap();
}

fn request(flags: RequestFlags, statements: &[&str]) -> EncodedRequest {
    let mut request = RequestEncoder::new(flags, 0);
    statements.iter().for_each(|sql| request.statement(sql));
    request.finish(RequestId::default())
}

fn apply(store: &Store, index: u64, request: &EncodedRequest) -> Bytes {
    let context = EntryContext { timestamp_us: 1_700_000_000_000_000, seed: 7, step_limit: STEPS };
    let entry = Entry {
        log_id: LogId { term: 1, leader: 1, index },
        payload: Payload::Command(encode_execute(context, [request.bytes()].into_iter())),
        wants_reply: true,
    };
    let mut replies = block_on(store.apply(vec![entry])).expect("no statement stops a member");
    replies.remove(0).remove(0)
}

/// A directory of its own, within the one that relative names are in.
fn scratch() -> TempDir {
    static HERE: OnceLock<TempDir> = OnceLock::new();
    let here = HERE.get_or_init(|| {
        let here = tempfile::tempdir().unwrap();
        std::env::set_current_dir(&here).unwrap();
        here
    });
    tempfile::tempdir_in(here).unwrap()
}

/// What is in a directory and beside it, but for what SQLite keeps beside the database.
fn names_of(directory: &Path) -> BTreeSet<String> {
    let list = |directory: &Path| std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let all = list(directory.parent().unwrap()).chain(list(directory)).chain(list(&directory.join("data")));
    all.map(|path| path.display().to_string())
        .filter(|name| !name.ends_with("-wal") && !name.ends_with("-shm"))
        .collect()
}
