//! Power is cut, and errors happen, at every single operation of a script. What was promised must be there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use raftlog::Options;
use raftlog::testing::{FaultDisk, Plan, Survival};
use support::{Model, Run, Step, await_prepared, open, open_with, options, payload, scaled, script, waiter};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Runs a script on a disk of its own until the plan ends it.
fn run(seed: u64, plan: Plan, steps: &[Step]) -> (FaultDisk, Run) {
    let disk = FaultDisk::new(seed);
    disk.set_plan(plan);
    let log = open(&disk).ok().map(|(log, _)| log);
    let mut run = Run::new(log);
    run.steps(&|| open(&disk), steps);
    run.end();
    (disk, run)
}

/// Opens what is left, checks it, works with it, and checks again after a clean end.
fn check_and_go_on(disk: &FaultDisk, before: &Run, context: &str) {
    let (log, _) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    before.check(&log, context);
    let mut after = Run::resume(log, 1_000_000);
    let more =
        [Step::Append(vec![30, 700]), Step::Vote, Step::Wait, Step::Append(vec![2500]), Step::Truncate(1)];
    after.steps(&|| open(disk), &more);
    after.steps(&|| open(disk), &[Step::Append(vec![10; 3]), Step::Purge(3), Step::Wait]);
    after.end();
    assert_eq!(after.promised(), after.states.len() - 1, "{context}: the log does not go on");
    disk.crash(Survival::Nothing);
    let (log, recovered) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(recovered.torn_tail, None, "{context}");
    assert_eq!(Model::observe(&log).unwrap(), *after.state(), "{context}");
}

/// Number of operations of a whole run, with some room because threads interleave differently each time.
fn operations(steps: &[Step]) -> u64 {
    let (disk, run) = run(1, Plan::None, steps);
    assert_eq!(run.promised(), run.states.len() - 1);
    disk.operations() + 10
}

#[test]
fn a_power_cut_at_every_operation_loses_nothing_promised() {
    let steps = script();
    let total = operations(&steps);
    for round in 0..scaled(1) {
        for at in 0..total {
            let seed = round * 1_000_003 + at;
            let (disk, before) = run(seed, Plan::CutAt(at), &steps);
            let survivals =
                [Survival::Nothing, Survival::Everything, Survival::Prefix, Survival::RandomSectors];
            for survival in survivals {
                let disk = disk.fork();
                disk.crash(survival);
                check_and_go_on(&disk, &before, &format!("cut at {at}, {survival:?}, seed {seed}"));
            }
        }
    }
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_promised() {
    let steps = script();
    let total = operations(&steps);
    let stride = (8 / scaled(1)).max(1);
    for at in (0..total).step_by(stride as usize) {
        let (disk, before) = run(at, Plan::CutAt(at), &steps);
        disk.crash(Survival::RandomSectors);
        for second in 0.. {
            let disk = disk.fork();
            disk.set_plan(Plan::CutAt(second));
            let is_open = match open(&disk) {
                Ok((log, _)) => log.close().is_ok(),
                Err(_) => false,
            };
            let is_through = disk.operations() <= second;
            disk.crash(Survival::RandomSectors);
            check_and_go_on(&disk, &before, &format!("cut at {at}, then at {second}, opened {is_open}"));
            if is_through {
                break;
            }
        }
    }
}

#[test]
fn an_error_at_every_operation_poisons_and_loses_nothing_promised() {
    let steps = script();
    let total = operations(&steps);
    for round in 0..scaled(1) {
        for at in 0..total {
            for error in [EIO, ENOSPC] {
                let seed = round * 1_000_003 + at;
                let context = format!("error {error} at {at}, seed {seed}");
                let (disk, before) = run(seed, Plan::FailAt(at, error), &steps);
                // The process starts again and sees its page cache, also the part that a failed sync has lost.
                disk.set_plan(Plan::None);
                let restarted = disk.fork();
                let (log, _) = open(&restarted).unwrap_or_else(|error| panic!("{context}: {error}"));
                before.check(&log, &context);
                let shown = Model::observe(&log).unwrap();
                // Whatever it shows must be durable, or a member would vote on what may vanish.
                drop(log);
                restarted.crash(Survival::Nothing);
                let (log, _) = open(&restarted).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(Model::observe(&log).unwrap(), shown, "{context}: shown, then lost");
                drop(log);
                check_and_go_on(&restarted, &before, &context);
                // And the same with a power cut right after the error.
                disk.crash(Survival::RandomSectors);
                check_and_go_on(&disk, &before, &context);
            }
        }
    }
}

#[test]
fn a_restart_shows_only_what_is_durable() {
    // Killed, not cut: the page cache survives, and what it shows must be made durable before anybody sees it.
    let steps = script();
    let total = operations(&steps);
    for at in 0..total {
        let (disk, before) = run(at, Plan::CutAt(at), &steps);
        disk.set_plan(Plan::None);
        let (log, _) = open(&disk).unwrap();
        before.check(&log, &format!("killed at {at}"));
        let shown = Model::observe(&log).unwrap();
        disk.crash(Survival::Nothing);
        drop(log);
        let (log, _) = open(&disk).unwrap();
        assert_eq!(Model::observe(&log).unwrap(), shown, "killed at {at}");
        drop(log);
        check_and_go_on(&disk, &before, &format!("killed at {at}"));
    }
}

#[test]
fn a_cut_tail_does_not_come_back() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk).unwrap();
    let mut before = Run::new(Some(log));
    before.steps(&|| open(&disk), &[Step::Vote, Step::Wait, Step::Reopen]);
    // Two entries in one batch; the power fails before the sync, and everything but a byte of the first survives.
    let entries = || [(1, payload(1, 600)), (2, payload(2, 50))];
    drop(before);
    let never = Options { idle_delay: Duration::from_secs(3600), ..options() };
    let (log, _) = open_with(disk.process(), never).unwrap();
    await_prepared(&disk);
    disk.set_plan(Plan::CutAt(1));
    let (callback, result) = waiter();
    log.append(entries(), callback).unwrap();
    assert!(result.recv().unwrap().is_err());
    drop(log);
    disk.crash(Survival::Everything);
    let (path, content) = disk.files().into_iter().next().unwrap();
    let first = entries()[0].1.clone();
    let at = content.windows(first.len()).position(|window| window == first).unwrap();
    disk.flip(&path, at + 300, 1);

    let (log, recovered) = open(&disk).unwrap();
    assert!(recovered.torn_tail.is_some());
    assert_eq!(recovered.last_index, None);
    // The same entry again: the same bytes at the same place. The second one must not follow.
    let (callback, result) = waiter();
    log.append(entries().into_iter().take(1), callback).unwrap();
    assert!(result.recv().unwrap().is_ok());
    disk.crash(Survival::Nothing);
    drop(log);
    let (log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last_index, Some(1));
    assert_eq!(log.read(0..9, 9999).unwrap(), entries()[..1]);
}

#[test]
fn a_cut_segment_does_not_come_back() {
    let disk = FaultDisk::new(1);
    let never = || Options { idle_delay: Duration::from_secs(3600), ..options() };
    let (log, _) = open_with(disk.process(), never()).unwrap();
    let (callback, result) = waiter();
    log.append([(1, payload(1, 3000))], callback).unwrap();
    result.recv().unwrap().unwrap();
    await_prepared(&disk);
    // A batch that seals this segment and opens the next; the power fails before the next one is synced.
    let batch = || [(2, payload(2, 700)), (3, payload(3, 600)), (4, payload(4, 50))];
    disk.set_plan(Plan::CutAt(3));
    let (callback, result) = waiter();
    log.append(batch(), callback).unwrap();
    assert!(result.recv().unwrap().is_err());
    drop(log);
    disk.crash(Survival::Everything);
    let (path, content) = disk.files().into_iter().last().unwrap();
    assert_ne!(content[..40], [0; 40]);
    disk.flip(&path, 50, 1);

    let (log, recovered) = open_with(disk.process(), never()).unwrap();
    assert_eq!(recovered.last_index, Some(2));
    let (callback, result) = waiter();
    log.append(batch().into_iter().skip(1).take(1), callback).unwrap();
    result.recv().unwrap().unwrap();
    disk.crash(Survival::Nothing);
    drop(log);
    let (log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last_index, Some(3));
    assert_eq!(log.read(2..9, 9999).unwrap(), batch()[..2]);
}
