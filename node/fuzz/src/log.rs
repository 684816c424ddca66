//! A log on disk: records in intact frames, segments, and bytes that are no frame. It is refused, or it is a log: all of it
//! can be read, written on, and is the same when it is opened again.
//!
//! The input is a list of `kind u8 · synced u8 · length u8 · body`. Kind 0 begins a segment, 1 without a body is the
//! Checkpoint of an empty log, what is no kind at all is written as it is.

use bytes::Bytes;
use raftlog::testing::{FaultDisk, StreamWriter};
use raftlog::{OpenError, Options, RaftLog, Recovered};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

const DIRECTORY: &str = "/log";

pub fn run(input: &[u8]) {
    let disk = FaultDisk::new(1);
    write(&disk, input);
    let Ok((log, recovered)) = open(&disk) else { return };
    let entries = entries(&log);
    assert_eq!(
        entries.len() as u64,
        match (recovered.first_index, recovered.last_index) {
            (Some(first), Some(last)) => last - first + 1,
            _ => 0,
        }
    );
    let next = log
        .last_index()
        .or_else(|| log.purged().map(|(index, _)| index))
        .map_or(7, |last| last.saturating_add(1));
    let (done, synced) = mpsc::channel();
    let written = log
        .append([(next, Bytes::from_static(b"one more"))], Box::new(move |result| drop(done.send(result))));
    let is_full = written.is_err();
    // An index has an end.
    assert!(!is_full || next > u64::MAX - 2, "{written:?}");
    if !is_full {
        synced.recv().unwrap().unwrap();
    }
    log.close().unwrap();
    let (again, found) = open(&disk).expect("what was closed in order opens");
    assert_eq!(
        (found.vote, found.committed, found.purged),
        (recovered.vote, recovered.committed, recovered.purged)
    );
    assert_eq!(found.torn_tail, None);
    let mut now = self::entries(&again);
    if !is_full {
        assert_eq!(now.pop(), Some((next, Bytes::from_static(b"one more"))));
    }
    assert_eq!(now, entries);
    again.close().unwrap();
}

fn open(disk: &FaultDisk) -> Result<(RaftLog, Recovered), OpenError> {
    let options = Options {
        segment_bytes: 4096,
        max_spares: 0,
        idle_delay: Duration::from_secs(60),
        ..Options::default()
    };
    RaftLog::open(Path::new(DIRECTORY), options, disk.process())
}

fn entries(log: &RaftLog) -> Vec<(u64, Bytes)> {
    let (Some(first), Some(last)) = (log.first_index(), log.last_index()) else { return Vec::new() };
    let (mut all, mut from) = (Vec::new(), first);
    while from <= last {
        let some = log.read(from..last + 1, 1 << 20).expect("an entry of an open log");
        from = some.last().expect("at least one").0 + 1;
        all.extend(some);
    }
    all
}

fn write(disk: &FaultDisk, mut input: &[u8]) {
    let mut stream = StreamWriter::default();
    let mut segments = 0;
    while let Some(([kind, synced, length], rest)) = input.split_first_chunk() {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        input = rest;
        match kind {
            0 if segments < 8 => {
                stream.begin_segment();
                segments += 1;
            }
            1 if body.is_empty() => stream.checkpoint(),
            1..=8 => stream.frame(*kind, (*synced).into(), body),
            _ => stream.raw(body),
        }
    }
    let io = disk.process();
    io.create_dir_all(Path::new(DIRECTORY)).unwrap();
    for (name, bytes) in stream.finish() {
        let file = io.create(&Path::new(DIRECTORY).join(name)).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
    }
    io.sync_dir(Path::new(DIRECTORY)).unwrap();
}
