//! What the tests share: a model of the log, scripts of operations, and a runner that remembers what was promised.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftlog::testing::FaultDisk;
use raftlog::{Callback, Io, LogError, OpenError, Options, RaftLog, Recovered, SubmitError};

pub const DIR: &str = "/data/log";
pub const SEGMENT: u64 = 4096;

/// How many cases a test runs: `RAFTLOG_CASES` times as many as by default.
pub fn scaled(cases: u64) -> u64 {
    let factor = std::env::var("RAFTLOG_CASES").ok().and_then(|value| value.parse().ok()).unwrap_or(1.0_f64);
    ((cases as f64 * factor) as u64).max(1)
}

pub fn options() -> Options {
    Options {
        segment_bytes: SEGMENT,
        max_spares: 1,
        cache_bytes: 2000,
        idle_delay: Duration::ZERO,
        on_poison: None,
    }
}

pub fn open(disk: &FaultDisk) -> Result<(RaftLog, Recovered), OpenError> {
    open_with(disk.process(), options())
}

pub fn open_with(io: Arc<dyn Io>, options: Options) -> Result<(RaftLog, Recovered), OpenError> {
    RaftLog::open(Path::new(DIR), options, io)
}

/// How a run opens its log again.
pub type Open<'a> = &'a dyn Fn() -> Result<(RaftLog, Recovered), OpenError>;

/// A callback and where its result arrives.
pub fn waiter() -> (Callback, mpsc::Receiver<Result<(), LogError>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

/// Waits until the helper has prepared the second segment and will not touch the disk any more.
pub fn await_prepared(disk: &FaultDisk) {
    let start = Instant::now();
    while disk.files().len() < 2 || disk.has_unsynced_names() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "no segment was prepared: {:?}",
            disk.files().len()
        );
        std::thread::yield_now();
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A payload that cannot be mistaken for another.
pub fn payload(stamp: u64, len: usize) -> Bytes {
    let mut state = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(byte).collect()
}

/// What a log should hold.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub vote: Option<Bytes>,
    pub purged: Option<(u64, Bytes)>,
    pub entries: BTreeMap<u64, Bytes>,
    /// Where an empty log goes on; unknown if it never had an entry or purge.
    pub next: Option<u64>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries: Vec<_> = self.entries.iter().map(|(index, payload)| (index, payload.len())).collect();
        write!(f, "vote {:?}, purged {:?}, (index, bytes) {entries:?}", self.vote, self.purged)
    }
}

impl Model {
    pub fn vote(&mut self, vote: Bytes) {
        self.vote = Some(vote);
    }

    pub fn append(&mut self, index: u64, payload: Bytes) {
        self.entries.insert(index, payload);
        self.next = Some(index + 1);
    }

    pub fn truncate(&mut self, last_kept: Option<u64>) {
        self.entries.retain(|index, _| last_kept.is_some_and(|last| *index <= last));
        self.settle_next();
    }

    pub fn purge(&mut self, upto: u64, id: Bytes) {
        if self.purged.as_ref().is_none_or(|(purged, _)| upto > *purged) {
            self.entries.retain(|index, _| *index > upto);
            self.purged = Some((upto, id));
        }
        self.settle_next();
    }

    fn settle_next(&mut self) {
        let after_entries = self.entries.last_key_value().map(|(index, _)| index + 1);
        self.next = after_entries.or(self.purged.as_ref().map(|(index, _)| index + 1));
    }

    pub fn last(&self) -> Option<u64> {
        self.entries.last_key_value().map(|(index, _)| *index)
    }

    /// Everything the log says about itself; reading is part of it.
    pub fn observe(log: &RaftLog) -> std::io::Result<Self> {
        let (first, last) = (log.first_index(), log.last_index());
        let mut entries = BTreeMap::new();
        // Piece by piece, so that limits are used too.
        let mut next = first.unwrap_or(0);
        while let Some(last) = last
            && next <= last
        {
            let piece = log.read(next..last + 1, 1500)?;
            assert_eq!(piece.first().map(|(index, _)| *index), Some(next));
            next += piece.len() as u64;
            entries.extend(piece);
        }
        assert_eq!(entries.first_key_value().map(|(index, _)| *index), first);
        let mut model = Self { vote: log.vote(), purged: log.purged(), entries, next: None };
        model.settle_next();
        Ok(model)
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    Vote,
    /// Payload lengths of the entries.
    Append(Vec<usize>),
    /// How many of the entries present go.
    Truncate(u64),
    /// How many of the entries present go; more than there are moves the log ahead.
    Purge(u64),
    Committed,
    /// Wait for everything submitted.
    Wait,
    Reopen,
}

/// A log under test, and everything that was asked of it and promised by it.
pub struct Run {
    pub log: Option<RaftLog>,
    /// States after every record; the first is the empty log.
    pub states: Vec<Model>,
    pub committed: Vec<Bytes>,
    /// Results in order of arrival: which state, and whether it was promised.
    pub results: Arc<Mutex<Vec<(usize, bool)>>>,
    waiting: Vec<mpsc::Receiver<Result<(), LogError>>>,
    stamp: u64,
}

impl Run {
    pub fn new(log: Option<RaftLog>) -> Self {
        Self {
            log,
            states: vec![Model::default()],
            committed: Vec::new(),
            results: Arc::default(),
            waiting: Vec::new(),
            stamp: 0,
        }
    }

    /// Goes on from what a log holds now.
    pub fn resume(log: RaftLog, stamp: u64) -> Self {
        let state = Model::observe(&log).unwrap();
        let committed = log.committed().into_iter().collect();
        Self { states: vec![state], committed, stamp, ..Self::new(Some(log)) }
    }

    pub fn state(&self) -> &Model {
        self.states.last().unwrap()
    }

    fn callback(&mut self) -> Callback {
        let (sender, receiver) = mpsc::channel();
        self.waiting.push(receiver);
        let (results, state) = (self.results.clone(), self.states.len() - 1);
        Box::new(move |result| {
            results.lock().unwrap().push((state, result.is_ok()));
            let _ = sender.send(result);
        })
    }

    /// Does one step; false if the log refused it.
    pub fn step(&mut self, open: Open, step: &Step) -> bool {
        let Some(log) = self.log.clone() else { return false };
        self.stamp += 1;
        let stamp = self.stamp;
        let mut state = self.state().clone();
        let before = self.states.len();
        let submitted: Result<(), SubmitError> = match step {
            Step::Vote => {
                let vote = bytes(&format!("vote {stamp}"));
                state.vote(vote.clone());
                self.states.push(state);
                log.submit_vote(vote, self.callback())
            }
            Step::Append(lens) => {
                let mut entries = Vec::new();
                for len in lens {
                    let index = state.next.unwrap_or(1);
                    let payload = payload(stamp * 1000 + index, *len);
                    state.append(index, payload.clone());
                    self.states.push(state.clone());
                    entries.push((index, payload));
                }
                log.append(entries, self.callback())
            }
            Step::Truncate(count) => {
                let Some(last) = state.last() else { return true };
                let first = *state.entries.first_key_value().unwrap().0;
                let keep = (last + 1).saturating_sub(*count).max(first).checked_sub(1);
                state.truncate(keep);
                self.states.push(state);
                log.truncate_after(keep, self.callback())
            }
            Step::Purge(count) => {
                let Some(next) = state.next else { return true };
                let first = state.entries.first_key_value().map_or(next, |(index, _)| *index);
                let Some(upto) = (first + count).checked_sub(1) else { return true };
                let id = bytes(&format!("id {upto} {stamp}"));
                state.purge(upto, id.clone());
                self.states.push(state);
                log.purge(upto, id, self.callback())
            }
            Step::Committed => {
                let hint = bytes(&format!("committed {stamp}"));
                self.committed.push(hint.clone());
                log.submit_committed(hint)
            }
            Step::Wait => return self.wait(),
            Step::Reopen => {
                let closed = log.close().is_ok();
                drop(log);
                self.log = None;
                if !self.wait() || !closed {
                    return false;
                }
                let Ok((log, recovered)) = open() else { return false };
                assert_eq!(recovered.torn_tail, None);
                assert_eq!(recovered.committed.as_ref(), self.committed.last());
                // The helper may already have met the end of the power.
                let found = Model::observe(&log);
                assert!(found.as_ref().is_ok_and(|found| found == self.state()) || found.is_err());
                self.log = Some(log);
                return found.is_ok();
            }
        };
        if submitted.is_err() {
            // Nothing of it was recorded.
            self.states.truncate(before);
        }
        submitted.is_ok()
    }

    /// Waits for all callbacks; false if one had bad news.
    pub fn wait(&mut self) -> bool {
        let results: Vec<_> = self.waiting.drain(..).filter_map(|receiver| receiver.recv().ok()).collect();
        results.iter().all(Result::is_ok)
    }

    /// Does the steps until the log refuses.
    pub fn steps(&mut self, open: Open, steps: &[Step]) {
        for step in steps {
            if !self.step(open, step) {
                break;
            }
        }
    }

    /// Ends the log and checks that promises came in order, and none after a refusal.
    pub fn end(&mut self) {
        if let Some(log) = self.log.take() {
            let _ = log.close();
        }
        self.wait();
        let results = self.results.lock().unwrap();
        assert!(results.windows(2).all(|pair| pair[0].0 <= pair[1].0), "callbacks out of order: {results:?}");
        let first_bad = results.iter().position(|(_, ok)| !ok).unwrap_or(results.len());
        assert!(results[first_bad..].iter().all(|(_, ok)| !ok), "acknowledged after a failure: {results:?}");
    }

    /// The last state that was promised.
    pub fn promised(&self) -> usize {
        self.results.lock().unwrap().iter().filter(|(_, ok)| *ok).map(|(state, _)| *state).max().unwrap_or(0)
    }

    /// Checks that a log holds everything promised and, of the rest, a prefix.
    pub fn check(&self, log: &RaftLog, context: &str) {
        let found = Model::observe(log).unwrap();
        let allowed = &self.states[self.promised()..];
        assert!(
            allowed.contains(&found),
            "{context}: promised state {} of {}, found {found:?}",
            self.promised(),
            self.states.len() - 1
        );
        if let Some(hint) = log.committed() {
            assert!(self.committed.contains(&hint), "{context}: committed {hint:?}");
        }
    }
}

/// A script with everything in it: batches, rolls, rewinds, purges over segments, oversized entries, reopenings.
pub fn script() -> Vec<Step> {
    use Step::{Append, Committed, Purge, Reopen, Truncate, Vote, Wait};
    vec![
        Vote,
        Append(vec![10, 0, 700]),
        Wait,
        Append(vec![300; 4]),
        Committed,
        Vote,
        Append(vec![900, 20]),
        Wait,
        Truncate(3),
        Append(vec![111, 222]),
        Vote,
        Wait,
        // Over several segments in one batch.
        Append(vec![1200; 7]),
        Committed,
        Wait,
        Purge(6),
        Wait,
        Append(vec![64; 10]),
        Truncate(12),
        Append(vec![65; 3]),
        Wait,
        Reopen,
        Append(vec![9000]),
        Wait,
        Append(vec![40; 30]),
        Vote,
        Wait,
        Purge(20),
        Append(vec![500; 5]),
        Wait,
        Committed,
        Reopen,
        // A snapshot beyond the end.
        Purge(100),
        Append(vec![77; 8]),
        Wait,
        Truncate(8),
        Append(vec![5; 2]),
        Vote,
        Wait,
        Append(vec![1500; 6]),
        Purge(5),
        Wait,
        Append(vec![8]),
        Wait,
    ]
}
