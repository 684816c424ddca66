//! Random operations against a map in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use raftlog::testing::{FaultDisk, Plan, Survival};
use raftlog::{Options, OsIo, RaftLog};
use support::{Model, Open, Run, Step, open, options, scaled};

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![8 => 0..100_usize, 4 => 100..1500_usize, 1 => 1500..12_000_usize];
    prop_oneof![
        2 => Just(Step::Vote),
        8 => prop::collection::vec(len, 0..8).prop_map(Step::Append),
        2 => (0..12_u64).prop_map(Step::Truncate),
        3 => (0..14_u64).prop_map(Step::Purge),
        1 => Just(Step::Purge(1000)),
        2 => Just(Step::Committed),
        4 => Just(Step::Wait),
        1 => Just(Step::Reopen),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..60)
}

/// Does the steps and compares after each of them, also with what is not durable yet.
fn compare(reopen: Open<'_>, log: RaftLog, steps: &[Step]) {
    let mut run = Run::new(Some(log));
    for step in steps {
        assert!(run.step(reopen, step), "{step:?} was refused");
        let log = run.log.as_ref().unwrap();
        assert_eq!(Model::observe(log).unwrap(), *run.state(), "after {step:?}");
    }
    assert!(run.step(reopen, &Step::Reopen));
    run.end();
    assert_eq!(run.promised(), run.states.len() - 1);
}

fn config(cases: u64) -> ProptestConfig {
    ProptestConfig { cases: scaled(cases) as u32, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn the_log_is_what_the_model_says(steps in steps(), seed: u64) {
        let disk = FaultDisk::new(seed);
        compare(&|| open(&disk), open(&disk).unwrap().0, &steps);
    }

    #[test]
    fn a_power_cut_anywhere_leaves_what_was_promised_and_a_prefix(
        steps in steps(),
        seed: u64,
        at in 0..400_u64,
        survival in prop_oneof![
            Just(Survival::Nothing), Just(Survival::Prefix), Just(Survival::RandomSectors)
        ],
    ) {
        let disk = FaultDisk::new(seed);
        disk.set_plan(Plan::CutAt(at));
        let mut run = Run::new(open(&disk).ok().map(|(log, _)| log));
        run.steps(&|| open(&disk), &steps);
        run.end();
        disk.crash(survival);
        let (log, _) = open(&disk).unwrap();
        run.check(&log, "after the cut");
        let mut after = Run::resume(log, 1_000_000);
        after.steps(&|| open(&disk), &[Step::Append(vec![50; 5]), Step::Vote, Step::Reopen]);
        after.end();
        prop_assert_eq!(after.promised(), after.states.len() - 1);
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn the_log_is_what_the_model_says_on_a_real_disk(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let reopen = || {
            RaftLog::open(dir.path(), Options { segment_bytes: 16 << 10, ..options() }, Arc::new(OsIo))
        };
        compare(&reopen, reopen().unwrap().0, &steps);
    }
}
