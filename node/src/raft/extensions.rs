//! The members agree on the extensions by which entries are executed.
//!
//! Which they are is part of the replicated state, and a member executes by those, whatever it was configured with: it has
//! a copy of them ([`Shelf`](crate::store::Shelf)). Once the leader and all other members are configured with another set,
//! the leader proposes the entry that makes it the state's. So a rolling restart with other extensions needs no member to
//! be down for longer than its restart, and no entry is executed by different code on two members.
//!
//! A member that does not answer for a long time is not waited for, if a majority of the voters agrees: it may be gone for
//! good, and the member that is to take its place can perhaps join only after the change. If it comes back without the new
//! extensions it stops at the entry, and says why.

use super::Consensus;
use super::answer::Described;
use super::calls::Kind;
use super::membership::{describe, refuse};
use crate::observe::Observe as _;
use crate::store::{ExtensionFile, ExtensionSet};
use client::admin::{AddLearner, Member, NodeId, Refusal, RefusalReason};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
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
/// How long a quorum may take to confirm a set; no change of the membership is made meanwhile.
const COMMIT: Duration = Duration::from_secs(10);

/// A set of extensions, as members and operators are told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionsReport {
    /// Names of files, with the SHA-256 of each.
    pub files: BTreeMap<String, String>,
    /// Modules whose virtual tables writes may use.
    #[serde(default)]
    pub modules: Vec<String>,
}

impl From<&ExtensionSet> for ExtensionsReport {
    fn from(set: &ExtensionSet) -> Self {
        let files = set.files().iter().map(|file| (file.name.clone(), file.sha256.to_string())).collect();
        Self { files, modules: set.modules().iter().cloned().collect() }
    }
}

impl ExtensionsReport {
    /// The set; none if this does not describe one.
    fn to_set(&self) -> Option<ExtensionSet> {
        let file = |(name, sum): (&String, &String)| {
            Some(ExtensionFile { name: name.clone(), sha256: sum.parse().ok()? })
        };
        let files: Option<Vec<ExtensionFile>> = self.files.iter().map(file).collect();
        ExtensionSet::new(files?, self.modules.iter().cloned()).ok()
    }
}

/// How far the members agree, as this one knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Agreement {
    /// It leads and has not looked yet, or does not lead.
    #[default]
    Unknown,
    /// It leads, and the state has other extensions than it was configured with, until something happens.
    Waits(String),
}

/// What a member said of the extensions that it is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// These.
    Wants(ExtensionSet),
    /// It is of a version that knows of none.
    OldVersion,
    /// Nothing, for so long.
    Silent(Duration),
}

struct Said<'a> {
    name: &'a str,
    votes: bool,
    answer: Answer,
}

/// Whether the state may get the extensions `wanted`, by what the other members said; an error says what is waited for.
fn may_change(wanted: &ExtensionSet, others: &[Said<'_>]) -> Result<(), String> {
    let mut waits = Vec::new();
    let (mut voters, mut agreeing) = (1, 1);
    for Said { name, votes, answer } in others {
        voters += usize::from(*votes);
        match answer {
            Answer::Wants(theirs) if theirs == wanted => agreeing += usize::from(*votes),
            Answer::Wants(theirs) => waits.push(format!("{name} is configured with {theirs}")),
            Answer::OldVersion => waits.push(format!("{name} is of a version that knows of no extensions")),
            Answer::Silent(time) if *time < ABSENT => waits.push(format!("{name} does not answer")),
            Answer::Silent(_) => {}
        }
    }
    if waits.is_empty() && agreeing * 2 <= voters {
        waits.push("fewer than a majority of the voters answer".into());
    }
    if waits.is_empty() { Ok(()) } else { Err(waits.join("; ")) }
}

/// Names of files, with the SHA-256 of each.
pub fn named(files: &[ExtensionFile]) -> Vec<(String, String)> {
    files.iter().map(|file| (file.name.clone(), file.sha256.to_string())).collect()
}

/// Whether a member that has `files` lacks one to execute entries by `present`.
fn lacks(present: &ExtensionSet, files: &[(String, String)]) -> bool {
    !named(present.files()).iter().all(|file| files.contains(file))
}

impl Consensus {
    /// Why this member runs with other extensions than it was configured with; none if it does not.
    pub fn extensions_message(&self) -> Option<String> {
        let (present, wanted) = (self.store.extensions(), self.store.shelf().wanted());
        if present.set() == wanted {
            return None;
        }
        let waits = match &self.agreement.current() {
            Agreement::Waits(why) => format!(": {why}"),
            Agreement::Unknown => String::new(),
        };
        Some(format!(
            "this member is configured with the extensions {wanted}, and the cluster has {}; that changes when all members \
             are configured alike{waits}",
            present.set()
        ))
    }

    /// Whether this member leads and has yet to find out if the state gets the extensions that it is configured with: the
    /// first clients of a new cluster are to find them.
    pub(super) fn is_agreeing(&self) -> bool {
        self.is_leader()
            && self.agreement.current() == Agreement::Unknown
            && self.store.extensions().set() != self.store.shelf().wanted()
    }

    /// Has the members agree for as long as this one runs.
    pub(super) async fn agree_on_extensions(self: Arc<Self>) {
        if let Some(message) = self.extensions_message() {
            tracing::info!("{message}");
        }
        let wanted = self.store.shelf().wanted().clone();
        let mut silent_since: BTreeMap<NodeId, Instant> = BTreeMap::new();
        loop {
            sleep(LOOK).await;
            if !self.is_leader() || *self.store.extensions().set() == wanted {
                silent_since.clear();
                self.agreement.send_replace(Agreement::Unknown);
                continue;
            }
            let Err(why) = self.agree(&wanted, &mut silent_since).await else { continue };
            let before = self.agreement.send_replace(Agreement::Waits(why.clone()));
            if before != Agreement::Waits(why.clone()) {
                tracing::info!(why, %wanted, "the extensions do not change yet");
            }
            sleep(AGAIN).await;
        }
    }

    /// Asks all others, and proposes the change if all agree; an error says what is waited for.
    async fn agree(
        &self,
        wanted: &ExtensionSet,
        silent_since: &mut BTreeMap<NodeId, Instant>,
    ) -> Result<(), String> {
        let own = self.identity.node_id();
        let members = describe(&self.metrics()).members;
        let others = members.iter().filter(|member| member.node_id != own);
        let answers = futures::future::join_all(others.map(|member| self.ask_for_extensions(member))).await;
        let now = Instant::now();
        let mut said = Vec::new();
        for (member, answer) in answers {
            let answer = match answer {
                Some(answer) => {
                    silent_since.remove(&member.node_id);
                    answer
                }
                None => Answer::Silent(now - *silent_since.entry(member.node_id).or_insert(now)),
            };
            said.push(Said { name: &member.name, votes: member.voter, answer });
        }
        may_change(wanted, &said)?;
        // Nobody comes in between who was not asked.
        let _turn = self.administering.lock().await;
        let ids = |members: &[Member]| members.iter().map(|member| member.node_id).collect::<Vec<_>>();
        if ids(&describe(&self.metrics()).members) != ids(&members) {
            return Err("the membership changes".into());
        }
        match timeout(COMMIT, self.proposer.propose_extensions(wanted)).await {
            Ok(Ok(index)) => {
                tracing::info!(index, %wanted, "the cluster has other extensions");
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no quorum confirmed them in time".into()),
        }
    }

    async fn ask_for_extensions<'a>(&self, member: &'a Member) -> (&'a Member, Option<Answer>) {
        let described = self.describe_peer(member.node_id, &member.raft_address, PATIENCE).await;
        let answer = described.ok().map(|described| match wanted_by(&described) {
            Some(set) => Answer::Wants(set),
            None => Answer::OldVersion,
        });
        (member, answer)
    }

    /// Whether somebody who is no member yet could execute entries if it became one.
    pub(super) async fn may_add(&self, learner: &AddLearner) -> Result<(), Refusal> {
        let present = self.store.extensions();
        let is_known = self.metrics().membership_config.get_node(&learner.node_id.0).is_some();
        if present.set().files().is_empty() || is_known {
            return Ok(());
        }
        // Called by its id it would become a member of this cluster.
        let answer = self.peers.call(0, &learner.raft_address, Kind::Describe, &[], PATIENCE).await;
        let described = answer.map_err(|error| error.to_string()).and_then(|answer| {
            serde_json::from_slice::<Described>(&answer).map_err(|error| error.to_string())
        });
        let theirs = match described {
            Ok(described) if described.member.node_id != learner.node_id => {
                Err(format!("another member, {}, answers there", described.member.node_id))
            }
            Ok(described) => match wanted_by(&described) {
                Some(wanted) => Ok((wanted, described.extension_files)),
                None => Err("its version knows of no extensions".into()),
            },
            Err(error) => Err(error),
        };
        let name = &learner.name;
        let present = present.set();
        match theirs {
            Ok((theirs, files)) if lacks(present, &files) => refuse(
                RefusalReason::Invalid,
                format!(
                    "{name} cannot join: the cluster has the extensions {present}, and {name} is configured with {theirs}; \
                     start it with -extensions-path naming the cluster's files, or with -extensions-former if these are \
                     to be replaced"
                ),
            ),
            Ok(_) => Ok(()),
            Err(error) => refuse(
                RefusalReason::Invalid,
                format!(
                    "{name} cannot join: the cluster has the extensions {present}, and which {name} is configured with is not \
                     known: {error}"
                ),
            ),
        }
    }
}

fn wanted_by(described: &Described) -> Option<ExtensionSet> {
    described.extensions.as_ref()?.to_set()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set(files: &[(&str, &str)]) -> ExtensionSet {
        let file = |(name, digit): &(&str, &str)| ((*name).to_owned(), digit.repeat(64));
        ExtensionsReport { files: files.iter().map(file).collect(), modules: vec![] }.to_set().unwrap()
    }

    #[test]
    fn the_set_changes_when_all_that_answer_agree() {
        let (new, old) = (set(&[("a.so", "2")]), set(&[("a.so", "1")]));
        let wants = |set: &ExtensionSet| Answer::Wants(set.clone());
        let (short, long) = (Answer::Silent(Duration::from_secs(5)), Answer::Silent(ABSENT));
        for (others, waits_for) in [
            (vec![], None),
            (vec![("n2", true, wants(&new)), ("n3", true, wants(&new))], None),
            (
                vec![("n2", true, wants(&new)), ("n3", true, wants(&old))],
                Some("n3 is configured with a.so (sha256 1111"),
            ),
            (
                vec![("n2", true, wants(&new)), ("n3", true, wants(&set(&[])))],
                Some("n3 is configured with none"),
            ),
            // Read replicas execute entries too.
            (vec![("n2", true, wants(&new)), ("r1", false, wants(&old))], Some("r1 is configured")),
            (vec![("n2", true, wants(&new)), ("n3", true, Answer::OldVersion)], Some("n3 is of a version")),
            (vec![("n2", true, wants(&new)), ("n3", true, short.clone())], Some("n3 does not answer")),
            (vec![("n2", true, wants(&new)), ("n3", true, long.clone())], None),
            (vec![("n2", true, long.clone()), ("n3", true, long.clone())], Some("majority")),
            (vec![("n2", true, long.clone()), ("r1", false, wants(&new))], Some("majority")),
        ] {
            let said: Vec<Said<'_>> = others
                .iter()
                .map(|(name, votes, answer)| Said { name, votes: *votes, answer: answer.clone() })
                .collect();
            match (may_change(&new, &said), waits_for) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{why}"),
                (found, expected) => assert!(found.is_ok() == expected.is_none(), "{expected:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn who_has_the_files_can_execute_entries() {
        let (none, a, b) = (set(&[]), set(&[("a.so", "1")]), set(&[("b.so", "1")]));
        let both = set(&[("a.so", "1"), ("b.so", "1")]);
        for (present, wanted, expected) in [
            (&none, &none, false),
            (&none, &a, false),
            (&a, &a, false),
            (&a, &both, false),
            (&a, &none, true),
            (&a, &b, true),
            (&both, &a, true),
            (&a, &set(&[("a.so", "2")]), true),
        ] {
            assert_eq!(lacks(present, &named(wanted.files())), expected, "{present} {wanted}");
        }
    }
}
