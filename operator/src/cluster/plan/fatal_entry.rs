//! An entry of the log that ends every member: nothing is written until one gets over it, or all of them pass it over. That
//! loses what it would have written, so that it takes a human.

use super::{ActivityReason, ObstacleReason, Planner, Step};
use crate::crd::{SkippedEntry, number};
use crate::names::ClusterName;
use client::admin::{FatalEntry, SkipEntry};

impl Planner<'_> {
    /// The entry is passed over only with the consent that names it, and only when every member says that it does not apply
    /// it: what one of them applied may have been acknowledged.
    pub(super) fn plan_fatal_entry(&mut self) {
        let Some(entry) = self.view.entry_fatal_to_all() else { return };
        let explained = explain(&self.desired.name, entry);
        let consent = self.desired.spec.recovery.skip_entry;
        let wanted = SkippedEntry { index: number(entry.index), term: number(entry.term) };
        let hindrance = match consent {
            None => None,
            Some(named) if named == wanted => {
                let unheard = self.view.members().filter(|member| !self.view.is_held_up(member, entry.index));
                let names: Vec<&str> = unheard.map(|member| member.name.as_str()).collect();
                if names.is_empty() {
                    let leads = self.view.leader().is_some();
                    let when = if leads { "" } else { "once there is a leader, " };
                    let message = format!("entry {} is passed over {when}as was agreed to", entry.index);
                    self.act(ActivityReason::SkippingEntry, message);
                    if leads {
                        self.safe(Step::SkipEntry(SkipEntry { index: entry.index, term: entry.term }));
                    }
                    return;
                }
                Some(format!(
                    "recovery.skipEntry is given, and {} may have applied the entry: every member must say that it does not",
                    names.join(", ")
                ))
            }
            Some(SkippedEntry { index, term }) => Some(format!(
                "recovery.skipEntry names entry {index} of term {term}, and must name {} of term {}",
                entry.index, entry.term
            )),
        };
        let message = hindrance.into_iter().fold(explained, |told, hindrance| format!("{told}. {hindrance}"));
        self.obstruct(ObstacleReason::FatalEntry, message);
    }
}

/// What is wrong, and the two ways out.
pub(in crate::cluster) fn explain(cluster: &ClusterName, entry: FatalEntry) -> String {
    let FatalEntry { index, term, crashes } = entry;
    format!(
        "entry {index} ended each member that applied it, up to {crashes} times in a row, and is not applied any more: nothing is \
         written, and nothing that was acknowledged is lost. It takes a version of the program that gets over the entry, or the \
         consent to lose what only this entry would have written: kubectl sqlite skip-entry {} {index}, or \
         spec.recovery.skipEntry: {{index: {index}, term: {term}}}",
        cluster.name
    )
}
