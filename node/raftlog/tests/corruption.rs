//! Damage at every byte: the log refuses, or it holds exactly what it held. It never shows anything else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::PathBuf;
use std::time::Duration;

use raftlog::Options;
use raftlog::testing::{FaultDisk, Plan, Survival};
use support::{Model, Run, Step, open, open_with, options, scaled};

/// A log of three segments with every kind of record, and what it holds.
fn build(disk: &FaultDisk, options: Options) -> Run {
    use Step::{Append, Committed, Purge, Truncate, Vote, Wait};
    let (log, _) = open_with(disk.process(), options).unwrap();
    let mut run = Run::new(Some(log));
    let steps = [
        Vote,
        Append(vec![100, 300, 0, 500]),
        Wait,
        Committed,
        Append(vec![700; 3]),
        Wait,
        Truncate(2),
        Append(vec![33; 3]),
        Vote,
        Wait,
        Purge(2),
        Wait,
        Append(vec![400; 8]),
        Committed,
        Wait,
        Append(vec![60; 5]),
        Wait,
        Append(vec![1100, 20]),
        Vote,
        Wait,
    ];
    run.steps(&|| unreachable!(), &steps);
    assert_eq!(run.promised(), run.states.len() - 1);
    run
}

fn closed() -> (FaultDisk, Run) {
    let disk = FaultDisk::new(3);
    let mut run = build(&disk, options());
    run.end();
    (disk, run)
}

/// Positions of all bytes of all files; fewer of them unless asked for all.
fn positions(disk: &FaultDisk, stride: u64) -> impl Iterator<Item = (PathBuf, usize)> {
    let stride = (stride as usize / scaled(1) as usize).max(1);
    disk.files()
        .into_iter()
        .flat_map(|(path, content)| (0..content.len()).map(move |at| (path.clone(), at)))
        .step_by(stride)
}

#[test]
fn a_flipped_bit_anywhere_in_a_closed_log_is_refused_or_harmless() {
    let (disk, run) = closed();
    let (mut refused, mut harmless) = (0, 0);
    for (path, at) in positions(&disk, 1) {
        let disk = disk.fork();
        disk.flip(&path, at, 1 << ((at * 7 + 3) % 8));
        match open(&disk) {
            Err(error) if error.is_loss() => refused += 1,
            Err(error) => panic!("{path:?} at {at}: {error}"),
            Ok((log, _)) => {
                assert_eq!(Model::observe(&log).unwrap(), *run.state(), "{path:?} at {at}");
                assert_eq!(log.committed().as_ref(), run.committed.last());
                harmless += 1;
            }
        }
    }
    // Some 8 KiB of the files are frames.
    assert!(refused > 7000 && harmless > 1000, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_lost_page_or_sector_in_a_closed_log_is_refused_or_harmless() {
    let disk = FaultDisk::new(3);
    let options = || Options { segment_bytes: 16 << 10, ..options() };
    let mut run = build(&disk, options());
    run.end();
    // Closing once more adds nothing.
    let files = disk.files();
    drop(open_with(disk.process(), options()).unwrap());
    let again = disk.files();
    assert!(files.iter().all(|file| again.contains(file)));
    for unit in [512, 4096] {
        for (path, content) in disk.files() {
            for start in (0..content.len()).step_by(unit) {
                for garbage in [false, true] {
                    let disk = disk.fork();
                    for (at, byte) in content.iter().enumerate().skip(start).take(unit) {
                        disk.flip(&path, at, if garbage { (at * 31 + at / 7) as u8 } else { *byte });
                    }
                    if let Ok((log, _)) = open_with(disk.process(), options()) {
                        assert_eq!(Model::observe(&log).unwrap(), *run.state(), "{path:?} at {start}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_lost_file_or_end_of_a_file_is_refused_or_harmless() {
    let (disk, run) = closed();
    let mut refused = 0;
    for (path, content) in disk.files() {
        let cuts = (0..content.len()).step_by(128).map(Some).chain([None]);
        for cut in cuts {
            let disk = disk.fork();
            match cut {
                Some(len) => disk.cut_file(&path, len),
                None => disk.remove(&path),
            }
            match open(&disk) {
                Ok((log, _)) => assert_eq!(Model::observe(&log).unwrap(), *run.state(), "{path:?} {cut:?}"),
                Err(error) if error.is_loss() => refused += 1,
                Err(error) => panic!("{path:?} {cut:?}: {error}"),
            }
        }
    }
    assert!(refused > 64);
}

#[test]
fn without_a_witness_only_the_last_batch_is_at_risk() {
    let disk = FaultDisk::new(3);
    let mut run = build(&disk, Options { idle_delay: Duration::from_secs(3600), ..options() });
    let last_batch = {
        let results = run.results.lock().unwrap();
        // The last wait covers an append and a vote.
        results[results.len() - 3].0
    };
    disk.set_plan(Plan::CutAt(0));
    run.end();
    disk.crash(Survival::Nothing);
    for (path, at) in positions(&disk, 2) {
        let disk = disk.fork();
        disk.flip(&path, at, 1 << (at % 8));
        if let Ok((log, _)) = open(&disk) {
            let found = Model::observe(&log).unwrap();
            assert!(run.states[last_batch..].contains(&found), "{path:?} at {at}: {found:?}");
        }
    }
}

#[test]
fn damage_under_an_open_log_is_never_read_as_an_entry() {
    let disk = FaultDisk::new(3);
    let mut run =
        build(&disk, Options { cache_bytes: 0, idle_delay: Duration::from_secs(3600), ..options() });
    let log = run.log.clone().unwrap();
    let expected: Vec<_> = run.state().entries.clone().into_iter().collect();
    let (first, next) = (log.first_index().unwrap(), log.last_index().unwrap() + 1);
    assert_eq!(log.stats().cached_bytes, 0);
    let mut refused = 0;
    for (path, at) in positions(&disk, 3) {
        disk.flip(&path, at, 0x10);
        match log.read(first..next, usize::MAX) {
            Ok(entries) => assert_eq!(entries, expected, "{path:?} at {at}"),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                assert!(error.to_string().contains(".segment is damaged: entry"), "{error}");
                refused += 1;
            }
        }
        disk.flip(&path, at, 0x10);
    }
    assert!(refused > 1000);
    run.end();
}
