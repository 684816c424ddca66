//! Moments by chance: each is compared with what a replica had that stopped there.

use super::number;
use super::support::Cluster;
use super::support::backups::{
    Outcome, await_archived, cluster_id, insert, leader_of, ledger, members, restore, settings, sum_after,
};
use jiff::Timestamp;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a replica had after an entry.
struct State {
    /// The page checksum, which is another one after each entry.
    sum: Value,
    /// Rows of the ledger.
    rows: i64,
}

/// A write, and for how long there was no other: microseconds since 1970, no earlier than its entry, and before the next
/// write's.
struct Write {
    index: u64,
    from: i64,
    until: i64,
}

/// What was written, and what a replica had each time that it stopped.
#[derive(Default)]
struct History {
    writes: Vec<Write>,
    states: BTreeMap<u64, State>,
}

fn now() -> i64 {
    node::clock::now().as_microsecond()
}

impl History {
    /// Writes the next row by member `leader`, and notes what member `replica` has then.
    fn write(&mut self, c: &mut Cluster, leader: usize, replica: usize) {
        let n = self.writes.len();
        if let Some(before) = self.writes.last_mut() {
            before.until = now();
        }
        let index = insert(c, leader, n);
        let from = now() + 1;
        self.note(c, replica, index);
        self.writes.push(Write { index, from, until: from });
    }

    /// Notes what member `replica` has after entry `index`, behind which there is none.
    fn note(&mut self, c: &mut Cluster, replica: usize, index: u64) {
        let sum = sum_after(c, replica, index);
        let rows = ledger_rows(c, replica);
        self.states.insert(index, State { sum, rows });
    }

    /// The last entry before the next write after entry `index`. What is between has no time, as the first entry of a
    /// leader, and comes along with what is before it.
    fn along(&self, index: u64) -> u64 {
        self.writes.iter().find(|write| write.index > index).unwrap().index - 1
    }

    /// The entry that a time brings back; none while a write was on its way, when nobody outside can say whether it had
    /// happened.
    fn at(&self, time: i64) -> Option<u64> {
        let write = self.writes.iter().find(|write| (write.from..write.until).contains(&time))?;
        Some(self.along(write.index))
    }
}

fn ledger_rows(c: &Cluster, i: usize) -> i64 {
    c.value(i, "SELECT count(*) FROM ledger", "none").as_i64().unwrap()
}

/// Where states are brought back to.
struct Restorer {
    config: PathBuf,
    id: String,
    out: PathBuf,
}

impl Restorer {
    /// Brings a moment back, which must be after entry `index`, and page for page what the replica had; returns its time.
    fn compare(&self, to: &str, index: u64, history: &History) -> String {
        let Outcome { restored, message } = restore("restore", &self.config, &self.id, to, &self.out);
        let state = &history.states[&index];
        assert_eq!(restored["index"], json!(index), "{to}: {message}{restored}");
        assert_eq!(restored["pageChecksum"], state.sum, "{to}: {restored}");
        assert!(restored["checkedIndex"].is_u64(), "no checksum was compared: {restored}");
        assert_eq!(ledger(&self.out), (0..state.rows).collect::<Vec<_>>(), "{to}");
        std::fs::remove_file(&self.out).unwrap();
        restored["time"].as_str().unwrap().to_owned()
    }
}

#[test]
fn every_moment_comes_back_over_changes_of_the_leader() {
    let (mut c, config) = members(3, Some(1), true);
    c.create_ledger(0);
    let mut history = History::default();
    let mut chosen = Vec::new();
    for round in 0..3 {
        let leader = leader_of(&mut c);
        let replica = (leader + 1) % 3;
        // What a leader begins with is an entry too.
        let last = c.report(leader)["lastLogIndex"].as_u64().unwrap();
        history.note(&mut c, replica, last);
        for _ in 0..40 {
            history.write(&mut c, leader, replica);
        }
        chosen.extend(history.writes.last().map(|write| write.index));
        if round < 2 {
            c.kill(leader);
            leader_of(&mut c);
            c.start(leader);
            c.await_ready(leader);
        }
    }
    // The archive reaches beyond every moment.
    let leader = leader_of(&mut c);
    history.write(&mut c, leader, (leader + 1) % 3);
    let end = history.writes.last().unwrap().index;
    await_archived(&mut c, end);
    // A moment before the first base backup has never been in the archive.
    let catalogue: Value = serde_json::from_str(&c.get(0, "/cluster/backups").1).unwrap();
    let reached = catalogue["windows"][0]["firstIndex"].as_u64().unwrap();
    let to = Restorer { config, id: cluster_id(&c), out: c.root().join("out.sqlite") };
    let mut random = rand::rng();
    let moments = number("BACKUP_MOMENTS", 4);
    let known: Vec<u64> = history.states.range(reached..end).map(|(index, _)| *index).collect();
    // Two entries may come at once where the leader changes.
    let missing = (end - known[0]) as usize - known.len();
    assert!(missing <= 4, "{missing} entries of which no state is known");
    chosen.retain(|index| known.contains(index));
    assert!(!chosen.is_empty());
    chosen.extend(std::iter::repeat_with(|| *known.choose(&mut random).unwrap()).take(moments));
    for index in &chosen {
        let time = to.compare(&format!("index:{index}"), *index, &history);
        let same = to.compare(&format!("time:{time}"), history.along(*index), &history);
        assert_eq!(same, time);
    }
    let first = history.writes.iter().find(|write| write.index >= reached).unwrap().from;
    let span = first..history.writes.last().unwrap().from;
    let times = std::iter::repeat_with(|| random.random_range(span.clone()));
    let times: Vec<_> = times.filter_map(|time| Some((time, history.at(time)?))).take(moments).collect();
    for (time, index) in &times {
        let time = Timestamp::from_microsecond(*time).unwrap();
        to.compare(&format!("time:{time}"), *index, &history);
    }
    println!("{} indexes and {} times: each is what a replica had", chosen.len(), times.len());
    what_is_not_there_is_said(&c, &to, end);
}

fn what_is_not_there_is_said(c: &Cluster, to: &Restorer, end: u64) {
    let refused = |moment: &str| restore("restore", &to.config, &to.id, moment, &to.out).message;
    let later = refused(&format!("index:{}", end + 1000));
    assert!(later.contains("the archive ends with entry"), "{later}");
    // Nothing of it can be read without the key.
    settings(c.root(), None, false);
    let blind = refused("latest");
    assert!(blind.contains("it is encrypted with key"), "{blind}");
    assert!(!to.out.exists());
}
