//! Databases that are larger than the memory that members may take. `LOAD_MIB` is their size (2048 for `make prove`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::json;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};
use support::memory::{Peak, PeakMemory};
use support::{Cluster, PATIENCE, cluster, cluster_with, patient};

const ROWS: u64 = 100_000;
/// What each member may take with the processes that it starts, in MiB.
const MEMORY: u64 = 256;

fn mib() -> u64 {
    std::env::var("LOAD_MIB").ok().map_or(32, |n| n.parse().expect("LOAD_MIB is a number"))
}

/// A database in WAL mode, as SQLite leaves it.
fn write_database(path: &Path, mib: u64) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let fill = format!(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
         CREATE TABLE large(id INTEGER PRIMARY KEY, name TEXT, value BLOB); CREATE INDEX large_name ON large(name);
         WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {ROWS})
         INSERT INTO large(name, value) SELECT 'name ' || x, randomblob({}) FROM c",
        (mib << 20) / ROWS
    );
    connection.execute_batch(&fill).unwrap();
    connection.close().unwrap();
    let mut header = [0; 100];
    std::io::Read::read_exact(&mut File::open(path).unwrap(), &mut header).unwrap();
    assert_eq!(header[18..20], [2, 2], "it is not in WAL mode");
}

/// Sends the file piece by piece; returns the seconds of the attempt that succeeded and the peaks of the members. A
/// disk that is busy with others may cost a leader its lead: then the answer is 503, nothing has changed, and it is sent
/// again.
fn send(c: &Cluster, i: usize, to: &str, path: &Path) -> (f64, Vec<Peak>) {
    let http = patient();
    let memory = PeakMemory::watch(c);
    for attempt in 1..=5 {
        let begun = Instant::now();
        let answer = http.post(c.url(i, to)).body(File::open(path).unwrap()).send().unwrap();
        let (status, said) = (answer.status().as_u16(), answer.text().unwrap());
        if status == 200 {
            return (begun.elapsed().as_secs_f64(), memory.end());
        }
        println!("attempt {attempt}: {status} {}", said.trim_end());
        let logs: Vec<String> = (0..c.members.len()).map(|i| c.log(i)).collect();
        assert_eq!(status, 503, "{said}\n{}", logs.join("\n----\n"));
    }
    panic!("the leader was lost five times");
}

fn holds_everything(c: &mut Cluster) {
    for i in 0..c.members.len() {
        // A member may still be installing what the leader has.
        let deadline = Instant::now() + PATIENCE + Duration::from_secs(mib() / 16);
        while c.value(i, "SELECT count(*) FROM large", "none") != json!(ROWS) {
            assert!(Instant::now() < deadline, "member {i} has not got it: {}", c.log(i));
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let name = c.value(i, "SELECT name FROM large WHERE id = 77777", "none");
        assert_eq!(name, json!("name 77777"), "member {i}");
    }
    c.execute(0, &json!(["INSERT INTO large(name) VALUES('and goes on')"]));
}

fn tell(what: &str, size: u64, seconds: f64, peaks: &[Peak]) {
    let each: Vec<String> =
        peaks.iter().map(|p| format!("{} + {} MiB", p.member >> 10, p.child >> 10)).collect();
    let mib = size as f64 / f64::from(1 << 20);
    println!(
        "{what} of {mib:.0} MiB, {ROWS} rows: {seconds:.1} s ({:.0} MiB/s); most memory of each member + its child: {}",
        mib / seconds,
        each.join(", ")
    );
    for peak in peaks {
        assert!(peak.mib() <= MEMORY, "{what}: {peak:?}");
    }
}

#[test]
fn a_database_larger_than_memory_is_booted_and_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.sqlite");
    write_database(&path, mib());
    let size = std::fs::metadata(&path).unwrap().len();

    let mut alone = cluster(1);
    let (seconds, peaks) = send(&alone, 0, "/boot", &path);
    holds_everything(&mut alone);
    assert!(peaks[0].child > 0, "the child that checks the file was not seen");
    tell("boot", size, seconds, &peaks);
    // The disk is needed for what follows.
    drop(alone);

    let mut three = cluster_with(3, &["-consistency-period", "500ms"]);
    let follower = (three.await_leader(0) + 1) % 3;
    let (seconds, peaks) = send(&three, follower, "/db/load", &path);
    holds_everything(&mut three);
    tell("load through a follower of three", size, seconds, &peaks);
    three.until("members agree", |c| {
        (0..3).all(|i| c.report(i)["consistency"]["state"] == "consistent").then_some(())
    });
}
