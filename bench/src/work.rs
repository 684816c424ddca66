//! What clients do.

use crate::random::Random;
use clap::ValueEnum;
pub use client::sql::Level;

/// Works by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorkName {
    /// One row a request
    Insert,
    /// Many rows a request, in one transaction
    Bulk,
    /// One row by id, from what the member has applied
    QueryNone,
    /// One row by id, from the leader
    QueryWeak,
    /// One row by id, from a leader that a quorum confirmed
    QueryLinearizable,
    /// One row by id, in the order of the writes
    QueryStrong,
    /// Nine weak queries to one insert
    Mixed,
    /// Nine linearizable queries to one insert
    MixedLinearizable,
}

impl WorkName {
    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Insert one row.
    Insert,
    /// Insert many.
    Bulk,
    /// Read one.
    Query(Level),
}

/// What a client needs to know to make requests.
#[derive(Clone, Debug)]
pub struct Work {
    write: Operation,
    read: Operation,
    read_percent: u64,
    /// Rows to read from.
    pub rows: u64,
    /// Rows of a bulk request.
    pub bulk: u64,
    /// Value of a row.
    pub value: String,
}

impl Work {
    /// The work of this name.
    pub fn new(name: WorkName, rows: u64, bulk: u64, value_bytes: usize) -> Self {
        let (read_percent, level, write) = match name {
            WorkName::Insert => (0, Level::Weak, Operation::Insert),
            WorkName::Bulk => (0, Level::Weak, Operation::Bulk),
            WorkName::QueryNone => (100, Level::None, Operation::Insert),
            WorkName::QueryWeak => (100, Level::Weak, Operation::Insert),
            WorkName::QueryLinearizable => (100, Level::Linearizable, Operation::Insert),
            WorkName::QueryStrong => (100, Level::Strong, Operation::Insert),
            WorkName::Mixed => (90, Level::Weak, Operation::Insert),
            WorkName::MixedLinearizable => (90, Level::Linearizable, Operation::Insert),
        };
        let value = ('a'..='z').cycle().take(value_bytes).collect();
        Self {
            write,
            read: Operation::Query(level),
            read_percent,
            rows: rows.max(1),
            bulk: bulk.max(1),
            value,
        }
    }

    /// The next request of a client.
    pub fn pick(&self, random: &mut Random) -> Operation {
        if random.below(100) < self.read_percent { self.read } else { self.write }
    }

    /// Rows that a request writes or reads.
    pub fn rows_of(&self, operation: Operation) -> u64 {
        match operation {
            Operation::Bulk => self.bulk,
            Operation::Insert | Operation::Query(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_reads() {
        for (name, least, most) in [
            (WorkName::Insert, 0, 0),
            (WorkName::Bulk, 0, 0),
            (WorkName::Mixed, 870, 930),
            (WorkName::QueryLinearizable, 1000, 1000),
        ] {
            let (work, mut random) = (Work::new(name, 10, 10, 3), Random::new(1));
            let reads = (0..1000).filter(|_| matches!(work.pick(&mut random), Operation::Query(_))).count();
            assert!((least..=most).contains(&reads), "{name:?}: {reads}");
            assert_eq!(work.value, "abc");
        }
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        assert_eq!(WorkName::QueryLinearizable.name(), "query-linearizable");
    }
}
