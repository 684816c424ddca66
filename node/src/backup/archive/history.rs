//! Whether what the store has of an epoch is of the log that a leader archives. It is not where the members' volumes were put
//! back to an earlier moment: what they write since is another history, of the same indexes. Entries of the one behind
//! entries of the other would make a database that never was.

use crate::store::{Entry, LogId, Payload};

/// What the store has is of another history than this cluster's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OtherHistory {
    /// It goes on where this one ends.
    #[error(
        "the store has entries up to {stored} of this epoch, and the cluster ends at {last}: its volumes are of an earlier \
         moment. {REMEDY}"
    )]
    Ahead {
        /// The last entry that the store has.
        stored: u64,
        /// The last one that the cluster has.
        last: u64,
    },
    /// It has other entries.
    #[error(
        "entry {index} of this epoch in the store {what}: the cluster's volumes were of an earlier moment, and what it wrote \
         since is another history. {REMEDY}"
    )]
    Differs {
        /// An entry of which both have one.
        index: u64,
        /// How they differ.
        what: String,
    },
}

const REMEDY: &str = "Nothing more is archived here, and what is here stays as it is: archive to another prefix. The latest \
                      state of this archive can still be restored from it";

/// Compares entries of the store with those of the log that have their indexes, of which those up to `purged` are not there any
/// more. Returns whether it was by what they hold: of leaders' first entries only who led when can be compared.
pub fn compare(stored: &[Entry], own: &[Entry], purged: Option<LogId>) -> Result<bool, OtherHistory> {
    let first = own.first().map_or(0, |entry| entry.log_id.index);
    let mut by_content = false;
    for entry in stored {
        let index = entry.log_id.index;
        match index.checked_sub(first).and_then(|n| own.get(usize::try_from(n).ok()?)) {
            Some(own) => {
                compare_ids(entry.log_id, own.log_id)?;
                if let (Payload::Command(stored), Payload::Command(own)) = (&entry.payload, &own.payload) {
                    if stored != own {
                        return Err(OtherHistory::Differs { index, what: "holds something else".into() });
                    }
                    by_content = true;
                }
            }
            None => compare_with_purged(entry.log_id.term, Some(entry.log_id), index, purged)?,
        }
    }
    Ok(by_content)
}

/// The same of an entry of which only index and term are known.
pub fn compare_term(
    index: u64,
    term: u64,
    own: Option<LogId>,
    purged: Option<LogId>,
) -> Result<(), OtherHistory> {
    match own.filter(|own| own.index == index) {
        Some(own) => compare_ids(LogId { term, leader: own.leader, index }, own),
        None => compare_with_purged(term, None, index, purged),
    }
}

fn compare_ids(stored: LogId, own: LogId) -> Result<(), OtherHistory> {
    let what = match () {
        () if stored == own => return Ok(()),
        () if stored.term != own.term => {
            format!("is of term {}, and the cluster's is of term {}", stored.term, own.term)
        }
        () => format!("was proposed by another leader of term {} than the cluster's", own.term),
    };
    Err(OtherHistory::Differs { index: stored.index, what })
}

/// Of what the log does not have any more its last position is known, and that terms never fall.
fn compare_with_purged(
    term: u64,
    id: Option<LogId>,
    index: u64,
    purged: Option<LogId>,
) -> Result<(), OtherHistory> {
    let Some(purged) = purged.filter(|purged| purged.index >= index) else { return Ok(()) };
    if purged.index == index {
        return compare_ids(id.unwrap_or(LogId { term, ..purged }), purged);
    }
    if term > purged.term {
        let what = format!("is of term {term}, and a later one of the cluster's was of term {}", purged.term);
        return Err(OtherHistory::Differs { index, what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn id(index: u64, term: u64) -> LogId {
        LogId { term, leader: 1, index }
    }

    /// Entries by index, term and what they hold.
    fn entries(of: &[(u64, u64, &'static str)]) -> Vec<Entry> {
        let payload = |text: &'static str| match text {
            "" => Payload::Blank,
            text => Payload::Command(Bytes::from_static(text.as_bytes())),
        };
        let entry = |&(index, term, text): &(u64, u64, _)| Entry {
            log_id: id(index, term),
            payload: payload(text),
            wants_reply: false,
        };
        of.iter().map(entry).collect()
    }

    #[test]
    fn entries_of_another_history_are_told_from_those_of_this_one() {
        let stored = entries(&[(8, 3, "a"), (9, 3, "b"), (10, 3, "c")]);
        let blank = entries(&[(10, 3, "")]);
        // (of the store, of the log, purged) → whether it was by content, or what is said.
        for (stored, own, purged, expected) in [
            (&stored, &[(8, 3, "a"), (9, 3, "b"), (10, 3, "c"), (11, 4, "")][..], None, Ok(true)),
            (&stored, &[(10, 3, "c"), (11, 4, "d")], Some(id(9, 3)), Ok(true)),
            (
                &stored,
                &[(8, 3, "a"), (9, 4, ""), (10, 4, "x")],
                None,
                Err("entry 9 of this epoch in the store is of term 3"),
            ),
            (
                &stored,
                &[(10, 3, "x")],
                Some(id(9, 3)),
                Err("entry 10 of this epoch in the store holds something else"),
            ),
            // It was skipped since: a gap in what is compared is no difference.
            (&stored, &[(8, 3, "a"), (9, 3, ""), (10, 3, "c")], None, Ok(true)),
            (&blank, &[(10, 3, "")], None, Ok(false)),
            // All of it is purged.
            (&stored, &[(11, 4, "d")], Some(id(10, 3)), Ok(false)),
            (&stored, &[], Some(id(10, 3)), Ok(false)),
            (&stored, &[], Some(id(10, 4)), Err("entry 10 of this epoch in the store is of term 3")),
            (&stored, &[(21, 5, "d")], Some(id(20, 5)), Ok(false)),
            (&stored, &[(21, 5, "d")], Some(id(20, 2)), Err("a later one of the cluster's was of term 2")),
        ] {
            let found = compare(stored, &entries(own), purged);
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{own:?} {purged:?}"),
                (Err(found), Err(part)) => assert!(found.to_string().contains(part), "{found}"),
                _ => unreachable!("{own:?} {purged:?}: {found:?}"),
            }
        }
        let another = LogId { leader: 2, ..id(10, 3) };
        assert!(compare(&blank, &[], Some(another)).is_err());
    }

    #[test]
    fn of_a_backup_the_term_is_compared() {
        for (term, own, purged, is_same) in [
            (3, Some(id(10, 3)), None, true),
            (3, Some(id(10, 4)), None, false),
            (3, None, Some(id(10, 3)), true),
            (3, None, Some(id(10, 4)), false),
            (3, Some(id(21, 4)), Some(id(20, 4)), true),
            (5, Some(id(21, 4)), Some(id(20, 4)), false),
        ] {
            let found = compare_term(10, term, own, purged);
            assert_eq!(found.is_ok(), is_same, "term {term}, {own:?}, {purged:?}: {found:?}");
        }
    }
}
