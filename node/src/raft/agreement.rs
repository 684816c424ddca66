//! The members agree on what entries are executed by: extensions ([`super::extensions`]) and foreign keys
//! ([`super::foreign_keys`]).
//!
//! What it is is part of the replicated state, and a member executes by that, whatever it was configured with. Once the
//! leader and all other members are configured alike, the leader proposes the entry that makes it the state's. So a rolling
//! restart with another configuration needs no member to be down for longer than its restart, and no entry is executed by
//! other rules on two members.
//!
//! A member that does not answer for a long time is not waited for, if a majority of the voters agrees: it may be gone for
//! good, and the member that is to take its place can perhaps join only after the change. If it comes back and cannot do
//! what was agreed on, it stops at the entry, and says why.

use super::Consensus;
use super::answer::Described;
use super::membership::describe;
use super::propose::ProposeError;
use crate::observe::{Observe as _, Until as _};
use client::admin::{Member, NodeId};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at whether something is to be agreed on.
const LOOK: Duration = Duration::from_millis(100);
/// Between two rounds of asking.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a member may take to say what it is configured with.
const PATIENCE: Duration = Duration::from_secs(2);
/// After which silence a member is not waited for.
const ABSENT: Duration = Duration::from_secs(60);
/// How long a quorum may take to confirm a change; none of the membership is made meanwhile.
const COMMIT: Duration = Duration::from_secs(10);
/// How long writes wait at most for the state to say something of foreign keys.
const HOLD: Duration = Duration::from_secs(3);

/// What members agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// The extensions.
    Extensions,
    /// Whether foreign keys are enforced.
    ForeignKeys,
}

/// What the leader, configured otherwise than the state is, waits for. It has not looked at what is not in here.
pub(super) type Agreement = BTreeMap<Subject, String>;

/// What a member said of itself, or for how long it has said nothing.
pub(super) type Said = Result<Box<Described>, Duration>;

/// What a member said of what is to be agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// It is configured with this.
    Wants(T),
    /// It is of a version that does not know it.
    OldVersion,
    /// Nothing, for so long.
    Silent(Duration),
}

/// The answer of a member.
pub(super) struct Answered<'a, T> {
    /// Its name.
    pub name: &'a str,
    /// Whether it votes.
    pub votes: bool,
    /// What it answered.
    pub answer: Answer<T>,
}

/// What the members said of what `wants` finds in it: none for a version that does not know it.
pub(super) fn answers<T>(
    said: &[(Member, Said)],
    wants: impl Fn(&Described) -> Option<T>,
) -> Vec<Answered<'_, T>> {
    let answered = |said: &Said| match said {
        Ok(described) => wants(described).map_or(Answer::OldVersion, Answer::Wants),
        Err(silence) => Answer::Silent(*silence),
    };
    let all = said.iter();
    all.map(|(member, said)| Answered { name: &member.name, votes: member.voter, answer: answered(said) })
        .collect()
}

/// Whether the state may get what is `wanted`, by what the other members said; an error says what is waited for. `old` is
/// what is said of the version of a member that does not know it.
pub(super) fn may_change<T: PartialEq + Display>(
    wanted: &T,
    others: &[Answered<'_, T>],
    old: &str,
) -> Result<(), String> {
    let mut waits = Vec::new();
    let (mut voters, mut agreeing) = (1, 1);
    for Answered { name, votes, answer } in others {
        voters += usize::from(*votes);
        match answer {
            Answer::Wants(theirs) if theirs == wanted => agreeing += usize::from(*votes),
            Answer::Wants(theirs) => waits.push(format!("{name} is configured with {theirs}")),
            Answer::OldVersion => waits.push(format!("{name} is of a version that {old}")),
            Answer::Silent(time) if *time < ABSENT => waits.push(format!("{name} does not answer")),
            Answer::Silent(_) => {}
        }
    }
    if waits.is_empty() && agreeing * 2 <= voters {
        waits.push("fewer than a majority of the voters answer".into());
    }
    if waits.is_empty() { Ok(()) } else { Err(waits.join("; ")) }
}

impl Consensus {
    /// What the state has otherwise than this member is configured.
    fn disagreed(&self) -> Vec<Subject> {
        let foreign_keys = self.store.foreign_keys();
        [
            (Subject::Extensions, self.store.extensions().set() != self.store.shelf().wanted()),
            (Subject::ForeignKeys, foreign_keys.present != Some(foreign_keys.configured)),
        ]
        .into_iter()
        .filter_map(|(subject, differs)| differs.then_some(subject))
        .collect()
    }

    /// Whether this member leads and has yet to find out if the state gets what it is configured with: the first clients of
    /// a new cluster are to find that.
    pub(super) fn is_agreeing(&self) -> bool {
        let disagreed = self.disagreed();
        self.is_leader()
            && self.agreement.observe(|waits| disagreed.iter().any(|subject| !waits.contains_key(subject)))
    }

    /// What the state's change to what this member is configured with waits for, as far as it is known here.
    pub(super) fn waits_for(&self, subject: Subject) -> String {
        let waits = self.agreement.observe(|waits| waits.get(&subject).cloned());
        waits.map_or_else(String::new, |why| format!(": {why}"))
    }

    /// Waits until the state says something of foreign keys, or is known to wait for other members: what comes before is
    /// executed by what each member was started with.
    pub(super) async fn until_foreign_keys_are_said(&self) {
        if self.foreign_keys_are_said.load(Ordering::Relaxed) {
            return;
        }
        let (mut state, mut agreement) = (self.store.state(), self.agreement.subscribe());
        tokio::select! {
            // Its end is the end of the writer, which whoever waits meets next.
            said = state.until(|state| state.foreign_keys.present.is_some()) => {
                self.foreign_keys_are_said.store(said.is_ok(), Ordering::Relaxed);
            }
            _ = agreement.until(|waits| waits.contains_key(&Subject::ForeignKeys)) => {}
            () = sleep(HOLD) => {}
        }
    }

    /// Has the members agree for as long as this one runs.
    pub(super) async fn agree(self: Arc<Self>) {
        for message in [self.extensions_message(), self.foreign_keys_message()].into_iter().flatten() {
            tracing::info!("{message}");
        }
        let mut silent_since: BTreeMap<NodeId, Instant> = BTreeMap::new();
        loop {
            if !self.is_leader() {
                silent_since.clear();
                self.agreement.send_replace(Agreement::new());
                self.until_it_leads().await;
            }
            let disagreed = self.disagreed();
            if disagreed.is_empty() {
                silent_since.clear();
                self.agreement.send_replace(Agreement::new());
                sleep(LOOK).await;
                continue;
            }
            // What earlier leaders had agreed on is applied here then.
            if !self.leads_by_quorum().await {
                sleep(LOOK).await;
                continue;
            }
            let others = self.ask_others(&mut silent_since).await;
            let mut waits = Agreement::new();
            for subject in self.disagreed() {
                let agreed = match subject {
                    Subject::Extensions => self.agree_on_extensions(&others).await,
                    Subject::ForeignKeys => self.agree_on_foreign_keys(&others).await,
                };
                if let Err(why) = agreed {
                    waits.insert(subject, why);
                }
            }
            let is_over = waits.is_empty();
            let before = self.agreement.send_replace(waits.clone());
            for (subject, why) in waits.iter().filter(|(subject, why)| before.get(*subject) != Some(*why)) {
                tracing::info!(why, ?subject, "what entries are executed by does not change yet");
            }
            sleep(if is_over { LOOK } else { AGAIN }).await;
        }
    }

    /// Asks all others what they are configured with, and counts for how long they have said nothing.
    async fn ask_others(&self, silent_since: &mut BTreeMap<NodeId, Instant>) -> Vec<(Member, Said)> {
        let own = self.identity.node_id();
        let others = describe(&self.metrics()).members.into_iter().filter(|member| member.node_id != own);
        let asked = others.map(async |member| {
            let described = self.describe_peer(member.node_id, &member.raft_address, PATIENCE).await;
            (member, described)
        });
        let described = futures::future::join_all(asked).await;
        let now = Instant::now();
        let mut silence = |id: NodeId, is_silent: bool| match is_silent {
            true => now - *silent_since.entry(id).or_insert(now),
            false => {
                silent_since.remove(&id);
                Duration::ZERO
            }
        };
        let said = described.into_iter().map(|(member, described)| {
            let silence = silence(member.node_id, described.is_err());
            (member, described.map(Box::new).map_err(|_| silence))
        });
        said.collect()
    }

    /// Makes a proposal on which `others` agreed; returns its index.
    pub(super) async fn propose_agreed(
        &self,
        others: &[(Member, Said)],
        proposal: impl Future<Output = Result<u64, ProposeError>>,
    ) -> Result<u64, String> {
        // Nobody comes in between who was not asked.
        let _turn = self.administering.lock().await;
        let own = self.identity.node_id();
        let members = describe(&self.metrics()).members;
        let present = members.iter().map(|member| member.node_id).filter(|id| *id != own);
        if !present.eq(others.iter().map(|(member, _)| member.node_id)) {
            return Err("the membership changes".into());
        }
        match timeout(COMMIT, proposal).await {
            Ok(proposed) => proposed.map_err(|error| error.to_string()),
            Err(_) => Err("no quorum confirmed it in time".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_changes_when_all_that_answer_agree() {
        let (new, old) = (Answer::Wants("new"), Answer::Wants("old"));
        let (short, long) = (Answer::Silent(Duration::from_secs(5)), Answer::Silent(ABSENT));
        for (others, waits_for) in [
            (vec![], None),
            (vec![("n2", true, new.clone()), ("n3", true, new.clone())], None),
            (vec![("n2", true, new.clone()), ("n3", true, old.clone())], Some("n3 is configured with old")),
            // Read replicas execute entries too.
            (vec![("n2", true, new.clone()), ("r1", false, old.clone())], Some("r1 is configured")),
            (
                vec![("n2", true, new.clone()), ("n3", true, Answer::OldVersion)],
                Some("n3 is of a version that cannot"),
            ),
            (vec![("n2", true, new.clone()), ("n3", true, short.clone())], Some("n3 does not answer")),
            (vec![("n2", true, new.clone()), ("n3", true, long.clone())], None),
            (vec![("n2", true, long.clone()), ("n3", true, long.clone())], Some("majority")),
            (vec![("n2", true, long.clone()), ("r1", false, new.clone())], Some("majority")),
        ] {
            let said: Vec<Answered<'_, &str>> = others
                .iter()
                .map(|(name, votes, answer)| Answered { name, votes: *votes, answer: answer.clone() })
                .collect();
            match (may_change(&"new", &said, "cannot"), waits_for) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{why}"),
                (found, expected) => assert!(found.is_ok() == expected.is_none(), "{expected:?}: {found:?}"),
            }
        }
    }
}
