//! Whether foreign keys are enforced is the state's, so that every member executes an entry alike.
//!
//! The state of a new cluster, and of one of before, says nothing of it: then each member enforces what it was started
//! with, which may not be the same. So the first leader whose members all know such entries has its own value put into the
//! state at once, whatever the others were started with, and does not take writes before it has asked them. From then on it
//! changes as extensions do ([`super::agreement`]).

use super::Consensus;
use super::agreement::{Said, Subject, answers, may_change};
use super::answer::Described;
use client::admin::Member;
use std::fmt;

/// What a member is started with, as people are told.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Flag(bool);

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-fk={}", self.0)
    }
}

/// What a member is counted for that was started otherwise than the leader, whose value is `wanted`: for that while the
/// `present` state says nothing.
fn counted(described: &Described, wanted: bool, present: Option<bool>) -> Option<Flag> {
    let theirs = described.foreign_keys?;
    Some(Flag(if present.is_some() { theirs } else { wanted }))
}

impl Consensus {
    /// Why foreign keys are enforced here though this member was started otherwise, or are not; none if they are as it was
    /// started.
    pub fn foreign_keys_message(&self) -> Option<String> {
        let foreign_keys = self.store.foreign_keys();
        if foreign_keys.are_enforced() == foreign_keys.configured {
            return None;
        }
        let what =
            if foreign_keys.are_enforced() { "enforces foreign keys" } else { "enforces no foreign keys" };
        Some(format!(
            "this member is started with {}, and the cluster {what}; that changes when all members are started alike{}",
            Flag(foreign_keys.configured),
            self.waits_for(Subject::ForeignKeys)
        ))
    }

    /// Has the state say of foreign keys what this member was started with, if `others` agree; an error says what is waited
    /// for.
    pub(super) async fn agree_on_foreign_keys(&self, others: &[(Member, Said)]) -> Result<(), String> {
        let foreign_keys = self.store.foreign_keys();
        let wanted = foreign_keys.configured;
        let answers = answers(others, |described| counted(described, wanted, foreign_keys.present));
        may_change(&Flag(wanted), &answers, "leaves foreign keys to each member")?;
        let index = self.propose_agreed(others, self.proposer.propose_foreign_keys(wanted)).await?;
        tracing::info!(index, enforced = wanted, "the state says whether foreign keys are enforced");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_value_is_the_leaders_and_only_old_versions_are_waited_for() {
        let said = |foreign_keys: &str| {
            let text = format!(
                r#"{{"member": {{"nodeId": "00000000000000ff", "name": "n"}}, "api_address": "a", "version": "1"{foreign_keys}}}"#
            );
            serde_json::from_str::<Described>(&text).unwrap()
        };
        let (off, on) = (said(r#", "foreign_keys": false"#), said(r#", "foreign_keys": true"#));
        let old = said("");
        for (described, wanted, present, expected) in [
            (&off, true, None, Some(true)),
            (&on, false, None, Some(false)),
            (&off, true, Some(false), Some(false)),
            (&on, true, Some(false), Some(true)),
            (&old, true, None, None),
            (&old, true, Some(true), None),
        ] {
            let found = counted(described, wanted, present).map(|Flag(theirs)| theirs);
            assert_eq!(found, expected, "{:?} {wanted} {present:?}", described.foreign_keys);
        }
    }
}
