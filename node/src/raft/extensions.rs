//! Which extensions entries are executed by: the state's, of which each member has a copy
//! ([`Shelf`](crate::store::Shelf)). How the state gets others: [`super::agreement`].

use super::Consensus;
use super::agreement::{Said, Subject, answers, may_change};
use super::answer::Described;
use super::calls::Kind;
use super::membership::refuse;
use crate::store::{ExtensionFile, ExtensionSet};
use client::admin::{AddLearner, Member, Refusal, RefusalReason};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a member may take to say what it is configured with.
const PATIENCE: Duration = Duration::from_secs(2);

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
        Some(format!(
            "this member is configured with the extensions {wanted}, and the cluster has {}; that changes when all members \
             are configured alike{}",
            present.set(),
            self.waits_for(Subject::Extensions)
        ))
    }

    /// Has the state get the extensions that this member is configured with, if `others` agree; an error says what is waited
    /// for.
    pub(super) async fn agree_on_extensions(&self, others: &[(Member, Said)]) -> Result<(), String> {
        let wanted = self.store.shelf().wanted().clone();
        let answers = answers(others, wanted_by);
        may_change(&wanted, &answers, "knows of no extensions")?;
        let index = self.propose_agreed(others, self.proposer.propose_extensions(&wanted)).await?;
        tracing::info!(index, %wanted, "the cluster has other extensions");
        Ok(())
    }

    /// Whether somebody who is no member yet could execute entries if it became one.
    pub(super) async fn may_add(&self, learner: &AddLearner) -> Result<(), Refusal> {
        let present = self.store.extensions();
        let (needs_files, says_foreign_keys) =
            (!present.set().files().is_empty(), self.store.foreign_keys().present.is_some());
        let is_known = self.metrics().membership_config.get_node(&learner.node_id.0).is_some();
        if is_known || !(needs_files || says_foreign_keys) {
            return Ok(());
        }
        // Called by its id it would become a member of this cluster.
        let answer = self.peers.call(0, &learner.raft_address, Kind::Describe, &[], PATIENCE).await;
        let described = answer.map_err(|error| error.to_string()).and_then(|answer| {
            serde_json::from_slice::<Described>(&answer).map_err(|error| error.to_string())
        });
        let name = &learner.name;
        if says_foreign_keys && described.as_ref().is_ok_and(|described| described.foreign_keys.is_none()) {
            return refuse(
                RefusalReason::Invalid,
                format!(
                    "{name} cannot join: whether the cluster enforces foreign keys is part of its state, and the version of \
                     {name} would go by its own flag; start it with the version of the others"
                ),
            );
        }
        if !needs_files {
            return Ok(());
        }
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
