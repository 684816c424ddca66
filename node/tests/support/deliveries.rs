//! What a sink of changes was sent, attempt by attempt, and whether it is what `docs/changes.md` promises: at least once,
//! in the order of the log, and again only after an answer that was lost, a refusal, or the end of a leader.

use super::sink::Reply;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// `w`, `n` and `v` of a row.
pub type Row = [u64; 3];

/// Everything that was sent so far, of a table with the columns `id`, `w`, `n` and `v`.
#[derive(Default)]
pub struct Deliveries {
    /// Of each entry that was taken, a hash of its changes.
    entries: BTreeMap<u64, u64>,
    /// What the table is by what was sent, by `id`: a change that does not fit what was sent before it is wrong.
    pub rows: BTreeMap<u64, Row>,
    /// `w` and `n` of each row that there ever was.
    pub writes: BTreeSet<(u64, u64)>,
    /// Changes that were taken, with those that came again.
    pub changes: u64,
    /// Those of them that changed or deleted a row.
    pub updates: u64,
    pub deletes: u64,
    pub envelopes: u64,
    /// Envelopes that came again because the answer was lost or was a refusal.
    pub repeated: u64,
    /// Entries that came again because somebody else leads.
    pub again: u64,
    /// How often somebody began to send.
    pub turns: u64,
    /// How often the one who sent last did so anew.
    pub begun_anew: u64,
    /// The members' high-water mark, as far as the test knows.
    mark: u64,
    present: Option<Turn>,
    /// What must not have been.
    pub wrong: Vec<String>,
}

/// What one leader sends for as long as it leads.
struct Turn {
    /// What was sent last.
    envelope: Value,
    /// Its last entry.
    last: u64,
    /// Whether the member was told that it was taken.
    answered: bool,
}

impl Turn {
    /// Whether `envelope`, which begins with entry `first`, is what this leader sends next.
    fn sends(&self, envelope: &Value, first: u64) -> bool {
        match self.answered {
            true => envelope["node_id"] == self.envelope["node_id"] && first > self.last,
            false => *envelope == self.envelope,
        }
    }
}

impl Deliveries {
    /// The newest entry that was taken; 0 if none was.
    pub fn newest(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Members have applied this high-water mark: whoever begins to send from now on begins after it.
    pub fn marked(&mut self, mark: u64) {
        self.mark = self.mark.max(mark);
    }

    /// Notes an attempt, and what the sink did with it.
    pub fn take(&mut self, reply: Reply, envelope: Value) {
        let entries = envelope["payload"].as_array().unwrap();
        let index = |entry: &Value| entry["index"].as_u64().unwrap();
        let (first, last) = (index(&entries[0]), index(entries.last().unwrap()));
        let mut before = match &self.present {
            Some(turn) if turn.sends(&envelope, first) => {
                self.repeated += u64::from(!turn.answered);
                if turn.answered { turn.last } else { first - 1 }
            }
            turn => {
                self.turns += 1;
                let same = turn.as_ref().is_some_and(|t| t.envelope["node_id"] == envelope["node_id"]);
                self.begun_anew += u64::from(same);
                if first <= self.mark {
                    let mark = self.mark;
                    self.wrong.push(format!("{} begins at {first}, the mark is {mark}", envelope["node_id"]));
                }
                first - 1
            }
        };
        for index in entries.iter().map(index) {
            // What comes again comes without holes, as it came before.
            if index <= before {
                self.wrong.push(format!("{index} follows {before}"));
            } else if let Some((left_out, _)) = self.entries.range(before + 1..index).next() {
                self.wrong.push(format!("{index} follows {before}, but {left_out} does not"));
            }
            before = index;
        }
        if matches!(reply, Reply::Take(_) | Reply::Lose) {
            self.envelopes += 1;
            for entry in entries {
                self.take_entry(index(entry), &entry["events"]);
            }
        }
        let answered = matches!(reply, Reply::Take(_));
        self.present = Some(Turn { envelope, last, answered });
    }

    fn take_entry(&mut self, index: u64, events: &Value) {
        let mut hasher = DefaultHasher::new();
        events.to_string().hash(&mut hasher);
        let hash = hasher.finish();
        let events = events.as_array().unwrap();
        self.changes += events.len() as u64;
        let newest = self.newest();
        if let Some(known) = self.entries.insert(index, hash) {
            self.again += 1;
            if known != hash {
                self.wrong.push(format!("{index} comes again with other changes"));
            }
            return;
        }
        if index < newest {
            self.wrong.push(format!("{index} is new and comes after {newest}"));
        }
        for event in events {
            self.apply(index, event);
        }
    }

    /// Does to `rows` what a change tells.
    fn apply(&mut self, index: u64, event: &Value) {
        let [told_before, after] = ["before", "after"].map(|name| event.get(name).map(row));
        let [old_id, new_id] = ["old_row_id", "new_row_id"].map(|name| event[name].as_u64());
        let before = match (event["op"].as_str().unwrap(), old_id, new_id, after) {
            ("INSERT", None, Some(id), Some(after)) => {
                self.writes.insert((after[0], after[1]));
                self.rows.insert(id, after)
            }
            ("UPDATE", Some(old), Some(id), Some(after)) if old == id => {
                self.updates += 1;
                self.rows.insert(id, after)
            }
            ("DELETE", Some(id), None, None) => {
                self.deletes += 1;
                self.rows.remove(&id)
            }
            _ => {
                self.wrong.push(format!("{index} brings {event}"));
                return;
            }
        };
        if before != told_before {
            self.wrong.push(format!("{index} brings {event}, and the row was {before:?}"));
        }
    }
}

fn row(columns: &Value) -> Row {
    ["w", "n", "v"].map(|column| columns[column].as_u64().unwrap())
}
