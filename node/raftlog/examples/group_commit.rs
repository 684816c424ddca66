//! Measures group commit on a real disk: `group_commit <dir> <entries> <payload bytes> <in flight>`.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use raftlog::{Options, OsIo, RaftLog};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, entries, bytes, in_flight] = &args[..] else {
        return Err("usage: group_commit <dir> <entries> <payload bytes> <in flight>".into());
    };
    let (entries, in_flight) = (entries.parse::<u64>()?, in_flight.parse::<usize>()?);
    let payload = Bytes::from(vec![7; bytes.parse()?]);
    let (log, recovered) = RaftLog::open(dir, Options::default(), Arc::new(OsIo))?;
    let first = recovered.last_index.map_or(1, |last| last + 1);
    let start = Instant::now();
    let mut waiting: VecDeque<mpsc::Receiver<_>> = VecDeque::new();
    for index in first..first + entries {
        if waiting.len() >= in_flight
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.recv()??;
        }
        let (done, durable) = mpsc::sync_channel(1);
        log.append([(index, payload.clone())], Box::new(move |result| drop(done.send(result))))?;
        waiting.push_back(durable);
        if index % 10_000 == 0 {
            log.purge(index - 5_000, Bytes::new(), Box::new(drop))?;
        }
    }
    for durable in waiting {
        durable.recv()??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let stats = log.stats();
    log.close()?;
    println!("{:.0} entries/s, {:.0} flushes/s", entries as f64 / seconds, stats.flushes as f64 / seconds);
    println!(
        "{:.1} entries and {:.0} us per flush",
        entries as f64 / stats.flushes as f64,
        stats.flush_micros as f64 / stats.flushes as f64
    );
    println!("{stats:?}");
    Ok(())
}
