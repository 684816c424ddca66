//! Moments by chance: each is compared with what a replica had that stopped there.

use super::number;
use super::support::Cluster;
use super::support::backups::{
    Outcome, await_archived, cluster_id, insert, leader_of, ledger, members, restore, settings, sum_after,
};
use jiff::Timestamp;
use rand::Rng as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a replica had after an entry, and for how long nothing came after it.
struct State {
    /// The page checksum.
    sum: Value,
    /// Rows of the ledger.
    rows: i64,
    /// Microseconds since 1970: no earlier than the entry, and before the next one.
    from: i64,
    until: i64,
}

/// What was written, as a replica had it, by entry.
#[derive(Default)]
struct History(BTreeMap<u64, State>);

fn now() -> i64 {
    node::clock::now().as_microsecond()
}

impl History {
    /// Writes the next row by member `leader`, and notes what member `replica` has then.
    fn write(&mut self, c: &mut Cluster, leader: usize, replica: usize) {
        let rows = self.0.len() as i64;
        self.close();
        let index = insert(c, leader, rows as usize);
        let from = now() + 1;
        let sum = sum_after(c, replica, index);
        self.0.insert(index, State { sum, rows: rows + 1, from, until: from });
    }

    /// From now on another state may be the newest.
    fn close(&mut self) {
        if let Some(mut newest) = self.0.last_entry() {
            newest.get_mut().until = now();
        }
    }

    /// After this entry: that of the last write up to there. What else is in the log changes nothing.
    fn after(&self, index: u64) -> &State {
        self.0.range(..=index).next_back().unwrap().1
    }

    /// At this time; none while a write was on its way, when nobody outside can say whether it had happened.
    fn at(&self, time: i64) -> Option<&State> {
        self.0.values().find(|state| (state.from..state.until).contains(&time))
    }
}

/// Where states are brought back to.
struct Restorer {
    config: PathBuf,
    id: String,
    out: PathBuf,
}

impl Restorer {
    /// Brings a moment back, which must be this state, page for page; says what came of it.
    fn compare(&self, to: &str, state: &State) -> Value {
        let Outcome { restored, message } = restore("restore", &self.config, &self.id, to, &self.out);
        assert_eq!(restored["pageChecksum"], state.sum, "{to}: {message}{restored}");
        assert!(restored["checkedIndex"].is_u64(), "no checksum was compared: {restored}");
        assert_eq!(ledger(&self.out), (0..state.rows).collect::<Vec<_>>(), "{to}");
        std::fs::remove_file(&self.out).unwrap();
        restored
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
        for _ in 0..40 {
            history.write(&mut c, leader, (leader + 1) % 3);
        }
        // The last one of each leader, and what the next one begins with.
        chosen.extend(history.0.last_key_value().map(|(index, _)| *index));
        if round < 2 {
            c.kill(leader);
            leader_of(&mut c);
            c.start(leader);
            c.await_ready(leader);
        }
    }
    history.close();
    let last = *history.0.last_key_value().unwrap().0;
    // The archive reaches beyond every moment.
    let leader = leader_of(&mut c);
    let end = insert(&c, leader, 1 << 40);
    await_archived(&mut c, end);
    // A moment before the first base backup has never been in the archive.
    let catalogue: Value = serde_json::from_str(&c.get(0, "/cluster/backups").1).unwrap();
    let reached = catalogue["windows"][0]["firstIndex"].as_u64().unwrap();
    history.0 = history.0.split_off(&reached);
    let first = *history.0.first_key_value().unwrap().0;
    let to = Restorer { config, id: cluster_id(&c), out: c.root().join("out.sqlite") };
    let mut random = rand::rng();
    let moments = number("BACKUP_MOMENTS", 4);
    chosen.retain(|index| *index >= first);
    assert!(!chosen.is_empty());
    chosen.extend(std::iter::repeat_with(|| random.random_range(first..=last)).take(moments));
    for index in &chosen {
        let state = history.after(*index);
        let restored = to.compare(&format!("index:{index}"), state);
        assert_eq!(restored["index"], json!(index));
        // The entry's time brings back the same. What has no time, as the first entry of the next leader, comes along.
        let time = restored["time"].as_str().unwrap();
        assert_eq!(to.compare(&format!("time:{time}"), state)["time"], restored["time"]);
    }
    let span = history.0[&first].from..history.0[&last].until;
    let times = std::iter::repeat_with(|| random.random_range(span.clone()));
    let times: Vec<_> = times.filter_map(|time| Some((time, history.at(time)?))).take(moments).collect();
    for (time, state) in &times {
        let time = Timestamp::from_microsecond(*time).unwrap();
        to.compare(&format!("time:{time}"), state);
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
