//! What backups and the archive cost writes. `BACKUP_SECONDS` is how long is measured (2; the proof takes 60). With
//! `BACKUP_BUSY` all processors are busy, with backups and without: by programs that give way to everything else at once.

use crate::backing_up;
use crate::support::Cluster;
use crate::support::backups::{back_up, leader_of};
use crate::support::ledger::p99;
use crate::support::stores::s3_at;
use serde_json::json;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// An open loop of this many writes in a second, or as many as four writers get done.
#[derive(Clone, Copy)]
enum Load {
    PerSecond(u32),
    Full,
}

/// A program for each processor that does nothing, and only where nobody else wants it. A virtual disk whose device is
/// played by the processors of the virtual machine answers later when these are busy, whatever they are busy with.
struct BusyProcessors(Vec<Child>);

impl BusyProcessors {
    fn start() -> Self {
        let processors = std::thread::available_parallelism().unwrap().get();
        let spin =
            || Command::new("chrt").args(["-i", "0", "sh", "-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..processors).map(|_| spin()).collect())
    }
}

impl Drop for BusyProcessors {
    fn drop(&mut self) {
        for program in &mut self.0 {
            drop(program.kill());
            drop(program.wait());
        }
    }
}

/// p99 of writes without backups and archive, and with both, and how many backups were made.
fn latencies(
    c: &mut Cluster,
    (bare, with_archive): (&str, &[u8]),
    load: Load,
    turn: Duration,
) -> [Duration; 2] {
    let config = c.root().join("backup.yaml");
    let mut measured: [Vec<Duration>; 2] = [Vec::new(), Vec::new()];
    // In turns, so that what else the machine does is in both.
    for round in 0..6 {
        let with = round % 2 == 1;
        std::fs::write(&config, if with { with_archive } else { bare.as_bytes() }).unwrap();
        let leader = leader_of(c);
        c.until("the settings are taken", |c| {
            let reported = c.report(leader)["archive"]["state"] == "OnTarget";
            (reported == with).then_some(())
        });
        let urls = (0..3).map(|i| c.url(i, "/db/execute")).collect();
        let first = rand::random_range(1_u64 << 32..1 << 48);
        let writers = match load {
            Load::PerSecond(n) => c.paced_ledger(urls, n, 200, first),
            Load::Full => c.continue_ledger(urls, 4, 200, first),
        };
        // Connections are made, statements prepared.
        writers.await_more(40);
        writers.take_times();
        let (begun, mut made) = (Instant::now(), 0);
        while begun.elapsed() < turn || with && made == 0 {
            if with {
                let maker = (leader_of(c) + 1) % 3;
                back_up(c, maker, &format!("{first}-{made}"));
                made += 1;
            } else {
                writers.await_more(20);
            }
        }
        assert_eq!(writers.refused(), 0, "a write was hurt: {}", writers.last_refusal());
        measured[usize::from(with)].extend(writers.take_times());
        assert!(!writers.stop().is_empty());
    }
    measured.map(|mut times| {
        times.sort();
        p99(&times)
    })
}

#[test]
#[ignore = "needs an S3 server: make test gives one"]
fn latency_of_writes_hardly_changes_while_a_backup_is_made_and_the_log_archived() {
    const ROWS_PER_MIB: usize = 256;
    let seconds: u64 =
        std::env::var("BACKUP_SECONDS").map_or(2, |n| n.parse().expect("BACKUP_SECONDS is a number"));
    let _busy = std::env::var_os("BACKUP_BUSY").map(|_| BusyProcessors::start());
    let (mut c, server, config) = backing_up(3, |port| port);
    let with_archive = std::fs::read(&config).unwrap();
    let bare = json!({ "store": s3_at(c.root(), server.port) }).to_string();
    let leader = leader_of(&mut c);
    for _ in 0..seconds * 4 {
        let rows = format!("SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT {}", 4 * ROWS_PER_MIB);
        let fill =
            format!("WITH RECURSIVE c(x) AS ({rows}) INSERT INTO ledger SELECT -x, randomblob(4000) FROM c");
        c.execute(leader, &json!([fill]));
    }
    for (load, what) in
        [(Load::PerSecond(200), "200 writes a second"), (Load::Full, "as many as four get done")]
    {
        let [without, with] =
            latencies(&mut c, (&bare, &with_archive), load, Duration::from_secs(seconds) / 3);
        println!(
            "p99 of writes, {what}: {:.2} ms without, {:.2} ms with backups one after another and the archive: {:.2} \
             times; none failed",
            without.as_secs_f64() * 1e3,
            with.as_secs_f64() * 1e3,
            with.as_secs_f64() / without.as_secs_f64()
        );
    }
}
