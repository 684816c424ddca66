//! What the handle promises, one behaviour each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use raftlog::testing::{FaultDisk, Plan, Survival};
use raftlog::{LogError, OpenError, Options, OrderError, OsIo, RaftLog, SubmitError};
use support::{await_prepared, bytes, open, open_with, options, payload, waiter};

fn append(log: &RaftLog, entries: Vec<(u64, Bytes)>) {
    let (callback, result) = waiter();
    log.append(entries, callback).unwrap();
    result.recv().unwrap().unwrap();
}

fn ignore() -> raftlog::Callback {
    Box::new(drop)
}

fn entries(range: std::ops::Range<u64>, len: usize) -> Vec<(u64, Bytes)> {
    range.map(|index| (index, payload(index, len))).collect()
}

#[test]
fn a_gap_is_refused_and_nothing_of_it_recorded() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    append(&log, entries(1..4, 10));
    for bad in [vec![5], vec![3], vec![4, 6]] {
        let (callback, result) = waiter();
        let error = log.append(bad.iter().map(|index| (*index, bytes("x"))), callback).unwrap_err();
        assert!(matches!(error, SubmitError::Order(OrderError::Gap { .. })), "{error}");
        assert!(result.recv().is_err(), "the callback must be dropped");
    }
    assert_eq!(log.last_index(), Some(3));
    log.purge(2, bytes("two"), ignore()).unwrap();
    let error = log.truncate_after(Some(1), ignore()).unwrap_err();
    assert!(matches!(error, SubmitError::Order(OrderError::TruncatesPurged { next: 2, purged: 2 })));
    assert!(log.truncate_after(Some(u64::MAX), ignore()).is_err());
    assert!(log.purge(u64::MAX, bytes(""), ignore()).is_err());
    log.truncate_after(Some(2), ignore()).unwrap();
    append(&log, entries(3..5, 10));
    assert_eq!((log.first_index(), log.last_index()), (Some(3), Some(4)));
}

#[test]
fn oversized_state_is_refused() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let large = Bytes::from(vec![0; 70_000]);
    assert!(matches!(log.submit_vote(large.clone(), ignore()), Err(SubmitError::TooLarge { .. })));
    assert!(matches!(log.submit_committed(large.clone()), Err(SubmitError::TooLarge { .. })));
    assert!(matches!(log.purge(1, large, ignore()), Err(SubmitError::TooLarge { .. })));
}

#[test]
fn reading_is_limited_by_bytes_but_gives_at_least_one() {
    let disk = FaultDisk::new(1);
    for cache_bytes in [0, 500, 1 << 20] {
        disk.crash(Survival::Nothing);
        let (log, _) = open_with(disk.process(), Options { cache_bytes, ..options() }).unwrap();
        if log.last_index().is_none() {
            append(&log, entries(1..41, 100));
        }
        let len = |range, max| log.read(range, max).unwrap().len();
        assert_eq!(len(1..41, 250), 2);
        assert_eq!(len(1..41, 1), 1);
        assert_eq!(len(1..41, usize::MAX), 40);
        assert_eq!(len(30..100, usize::MAX), 11);
        assert_eq!(len(0..3, usize::MAX), 2);
        assert_eq!(len(41..50, usize::MAX), 0);
        assert_eq!(len(5..5, usize::MAX), 0);
        assert_eq!(log.read(7..9, 1000).unwrap(), entries(7..9, 100));
    }
}

#[test]
fn memory_stays_bounded_and_old_entries_are_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 256 << 10, cache_bytes: 100_000, ..Options::default() };
    let (log, _) = RaftLog::open(dir.path(), options, Arc::new(OsIo)).unwrap();
    for start in (1..2001).step_by(100) {
        append(&log, entries(start..start + 100, 500));
        assert!(log.stats().cached_bytes <= 100_000);
    }
    assert_eq!(log.stats().indexed_entries, 2000);
    assert!(log.stats().segments >= 4);
    let mut read = Vec::new();
    while (read.len() as u64) < 2000 {
        let next = read.len() as u64 + 1;
        read.extend(log.read(next..2001, 64 << 10).unwrap());
    }
    assert_eq!(read, entries(1..2001, 500));
}

#[test]
fn large_payloads_go_through_whole() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 1 << 20, cache_bytes: 0, ..Options::default() };
    let reopen = || RaftLog::open(dir.path(), options.clone(), Arc::new(OsIo)).unwrap().0;
    let log = reopen();
    let sizes = [0, 1, 128 << 10, (128 << 10) - 1, 3 << 20, 7, 200_001, 5 << 20];
    let all: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(index, len)| (index as u64, payload(9 + index as u64, *len)))
        .collect();
    append(&log, all.clone());
    assert!(log.read(0..8, usize::MAX).unwrap() == all);
    log.close().unwrap();
    assert!(reopen().read(0..8, usize::MAX).unwrap() == all);
}

/// Somebody waits for the first segment, so it is short; nor do the next ones take more than what was there before.
#[test]
fn the_segments_of_a_new_log_grow() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let reopen = || {
        let options = Options { segment_bytes: 16 * MIB, ..Options::default() };
        RaftLog::open(dir.path(), options, Arc::new(OsIo)).unwrap().0
    };
    let mut log = reopen();
    let all: Vec<_> = (1..31).map(|index| (index, payload(index, 1 << 20))).collect();
    let mut grown = vec![log.stats().segment_bytes];
    for entry in &all {
        append(&log, vec![entry.clone()]);
        grown.push(log.stats().segment_bytes);
        // What was prepared before has its length from then.
        log.close().unwrap();
        log = reopen();
    }
    grown.dedup();
    assert_eq!(grown, [4 * MIB, (4 + 8) * MIB, (4 + 8 + 16) * MIB, (4 + 8 + 16 + 16) * MIB]);
    assert!(log.read(1..31, usize::MAX).unwrap() == all);
    log.purge(29, bytes("id"), ignore()).unwrap();
    append(&log, vec![(31, payload(31, 1 << 20))]);
    assert_eq!(log.stats().segment_bytes, 16 * MIB);
    log.close().unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap();
    let mut lengths: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    lengths.retain(|len| *len > 0);
    assert!(lengths.iter().all(|len| *len == 16 * MIB), "a short one was kept as a spare: {lengths:?}");
}

#[test]
fn retired_segments_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 16 << 10, max_spares: 2, ..Options::default() };
    let (log, _) = RaftLog::open(dir.path(), options, Arc::new(OsIo)).unwrap();
    for round in 0..50 {
        append(&log, entries(round * 10..round * 10 + 10, 1000));
        log.purge(round * 10 + 8, bytes("id"), ignore()).unwrap();
    }
    assert!(log.stats().segments <= 3, "{:?}", log.stats());
    // Many at once: no more spares than allowed.
    append(&log, entries(500..600, 1000));
    log.purge(598, bytes("id"), ignore()).unwrap();
    log.close().unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    // The lock, the segments in use, the prepared one and two spares.
    assert!(files <= 7, "{files} files");
    let (log, recovered) =
        RaftLog::open(dir.path(), Options { max_spares: 0, ..Options::default() }, Arc::new(OsIo)).unwrap();
    assert_eq!(recovered.purged, Some((598, bytes("id"))));
    assert_eq!((recovered.first_index, recovered.last_index), (Some(599), Some(599)));
    assert_eq!(log.read(0..1000, 9999).unwrap(), entries(599..600, 1000));
    let names = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_str().unwrap().ends_with(".spare")));
}

#[test]
fn a_second_opener_is_told_who_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        || RaftLog::open(dir.path(), Options { segment_bytes: 4096, ..Options::default() }, Arc::new(OsIo));
    let (log, _) = open().unwrap();
    let error = open().unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(error.to_string().ends_with("LOCK is locked: another process has this log open"), "{error}");
    let clone = log.clone();
    drop(log);
    assert!(open().is_err());
    drop(clone);
    let (log, _) = open().unwrap();
    log.close().unwrap();
    log.close().unwrap();
    // Closed, not only dropped.
    open().unwrap();
    assert!(matches!(log.submit_vote(bytes("v"), ignore()), Err(SubmitError::Closed)));
    assert!(matches!(log.submit_committed(bytes("c")), Err(SubmitError::Closed)));
}

#[test]
fn callbacks_come_in_order_of_submission_from_many_threads() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let (sender, receiver) = mpsc::channel();
    let next = parking_lot::Mutex::new(0_u64);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let sender = sender.clone();
                    // The index decides the order; the lock makes it the order of submission.
                    let mut next = next.lock();
                    let index = *next;
                    *next += 1;
                    let done: raftlog::Callback = Box::new(move |result| {
                        result.unwrap();
                        sender.send(index).unwrap();
                    });
                    if index % 10 == 7 {
                        log.append([], done).unwrap();
                        *next -= 1;
                        continue;
                    }
                    log.append([(index, payload(index, 20))], done).unwrap();
                }
            });
        }
    });
    drop(sender);
    log.close().unwrap();
    let order: Vec<u64> = receiver.into_iter().collect();
    assert_eq!(order.len(), 800);
    assert!(order.is_sorted());
}

#[test]
fn the_committed_hint_costs_no_sync() {
    let disk = FaultDisk::new(1);
    let never = Options { idle_delay: Duration::from_secs(3600), ..options() };
    let (log, _) = open_with(disk.process(), never).unwrap();
    append(&log, entries(1..2, 10));
    let flushes = log.stats().flushes;
    for n in 0..100 {
        log.submit_committed(bytes(&format!("{n}"))).unwrap();
    }
    assert_eq!(log.committed(), Some(bytes("99")));
    assert_eq!(log.stats().flushes, flushes);
    // It rides along.
    append(&log, entries(2..3, 10));
    assert_eq!(log.stats().flushes, flushes + 1);
    disk.crash(Survival::Nothing);
    drop(log);
    assert_eq!(open(&disk).unwrap().1.committed, Some(bytes("99")));
}

#[test]
fn a_failure_poisons_for_good_and_is_told_once() {
    let disk = FaultDisk::new(1);
    let told = Arc::new(AtomicUsize::new(0));
    let counter = told.clone();
    let on_poison: raftlog::PoisonHook = Arc::new(move |error: &LogError| {
        assert!(matches!(error, LogError::Write { .. }), "{error}");
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let idle_delay = Duration::from_secs(3600);
    let options = Options { on_poison: Some(on_poison), idle_delay, ..options() };
    let (log, _) = open_with(disk.process(), options).unwrap();
    await_prepared(&disk);
    disk.set_plan(Plan::FailAt(0, 5));
    let (callback, result) = waiter();
    log.append(entries(1..5, 10), callback).unwrap();
    assert!(result.recv().unwrap().is_err());
    let error = log.submit_vote(bytes("v"), ignore()).unwrap_err();
    assert!(matches!(error, SubmitError::Poisoned(LogError::Write { .. })));
    assert!(matches!(log.append(entries(5..6, 10), ignore()), Err(SubmitError::Poisoned(_))));
    assert!(log.poisoned().is_some());
    assert_eq!(std::io::Error::from(error).kind(), std::io::Error::from_raw_os_error(5).kind());
    // What is in memory can still be read.
    assert_eq!(log.read(1..5, 999).unwrap(), entries(1..5, 10));
    assert!(log.close().is_err());
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn a_panicking_callback_poisons_and_the_others_get_their_answer() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let (gate, go) = mpsc::channel::<()>();
    // Holds the flush thread until all three are submitted, so that they are one batch.
    log.append([], Box::new(move |_| go.recv().unwrap())).unwrap();
    let (before, first) = waiter();
    let (after, third) = waiter();
    log.append(entries(1..2, 10), before).unwrap();
    log.append(entries(2..3, 10), Box::new(|_| panic!("a defect of the caller"))).unwrap();
    log.append(entries(3..4, 10), after).unwrap();
    gate.send(()).unwrap();
    assert!(first.recv().unwrap().is_ok());
    assert!(matches!(third.recv().unwrap(), Err(LogError::Panicked)));
    assert!(log.close().is_err());
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let (sender, receiver) = mpsc::channel();
    let own = log.clone();
    let (gate, go) = mpsc::channel::<()>();
    log.append(
        entries(1..2, 10),
        Box::new(move |result| {
            go.recv().unwrap();
            own.append(entries(2..3, 10), ignore()).unwrap();
            drop(own);
            sender.send(result).unwrap();
        }),
    )
    .unwrap();
    drop(log);
    gate.send(()).unwrap();
    receiver.recv().unwrap().unwrap();
}

#[test]
fn a_full_disk_hurts_only_when_the_segment_is_needed() {
    let disk = FaultDisk::new(1);
    drop(open(&disk).unwrap());
    drop(open(&disk).unwrap());
    let (log, _) = open(&disk).unwrap();
    // A batch that rolls, with an error at each of its operations: its own and the helper's.
    let before = disk.operations();
    append(&log, entries(1..5, 1000));
    drop(log);
    let rolled = disk.operations() - before;
    for at in 0..rolled {
        let disk = FaultDisk::new(1);
        drop(open(&disk).unwrap());
        drop(open(&disk).unwrap());
        let (log, _) = open(&disk).unwrap();
        disk.set_plan(Plan::FailAt(at, 28));
        let (callback, result) = waiter();
        log.append(entries(1..5, 1000), callback).unwrap();
        if result.recv().unwrap().is_ok() {
            // Space is back: the log goes on over more segments.
            let mut good = true;
            for start in 5..15 {
                let (callback, result) = waiter();
                good &= log.append(entries(start..start + 1, 1000), callback).is_ok()
                    && result.recv().is_ok_and(|result| result.is_ok());
            }
            assert!(good || log.poisoned().is_some());
        } else {
            assert!(log.poisoned().unwrap().is_storage_full());
        }
    }
}

#[test]
fn a_snapshot_beyond_the_log_moves_it_ahead() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    append(&log, entries(1..10, 10));
    log.purge(500, bytes("snapshot"), ignore()).unwrap();
    assert_eq!((log.first_index(), log.last_index()), (None, None));
    assert!(log.append(entries(10..11, 10), ignore()).is_err());
    log.purge(400, bytes("older"), ignore()).unwrap();
    append(&log, entries(501..503, 10));
    log.close().unwrap();
    let (log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.purged, Some((500, bytes("snapshot"))));
    assert_eq!(log.read(0..1000, 999).unwrap(), entries(501..503, 10));
}

#[test]
fn rot_is_refused_with_file_and_offset() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    append(&log, entries(1..3, 100));
    append(&log, entries(3..5, 100));
    log.close().unwrap();
    let (path, content) = disk.files().into_iter().next().unwrap();
    let second = payload(2, 100);
    let at = content.windows(100).position(|window| window == second).unwrap();
    disk.flip(&path, at + 50, 4);
    let error = open(&disk).unwrap_err();
    assert!(matches!(&error, OpenError::Rot { offset, .. } if *offset == at as u64 - 48), "{error}");
    assert!(error.to_string().contains(&format!("{} is damaged at offset {}", path.display(), at - 48)));
}

#[test]
fn stored_frames_are_payload_not_records() {
    // Somebody stores a copy of the log in the log, in the same segment; the batch is torn inside the copy.
    let disk = FaultDisk::new(1);
    let idle_delay = Duration::from_secs(3600);
    let options = || Options { segment_bytes: 16 << 10, idle_delay, ..options() };
    let (log, _) = open_with(disk.process(), options()).unwrap();
    append(&log, entries(1..4, 300));
    append(&log, entries(4..6, 300));
    await_prepared(&disk);
    let (path, content) = disk.files().into_iter().next().unwrap();
    let copy = Bytes::from(content).slice(..4000);
    disk.set_plan(Plan::CutAt(1));
    let (callback, result) = waiter();
    log.append([(6, copy.clone())], callback).unwrap();
    assert!(result.recv().unwrap().is_err());
    drop(log);
    disk.crash(Survival::Everything);
    let (_, content) = disk.files().into_iter().next().unwrap();
    let at = content.windows(4000).rposition(|window| window == copy).unwrap();
    disk.flip(&path, at + 8, 1);
    let (log, recovered) = open_with(disk.process(), options()).unwrap();
    assert_eq!((recovered.last_index, recovered.torn_tail.is_some()), (Some(5), true));
    append(&log, vec![(6, copy.clone())]);
    log.close().unwrap();
    let (log, _) = open_with(disk.process(), options()).unwrap();
    assert_eq!(log.read(6..7, 1).unwrap(), [(6, copy)]);
}
