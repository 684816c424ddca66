//! How large the StatefulSets are to be: membership first, pods after it.

use super::{ActivityReason, Planner, Step};
use crate::cluster::observed::{ClaimView, PodView};
use crate::crd::BootstrapPhase;
use crate::names::PodRole;
use client::admin::{Member, quorum};
use std::collections::BTreeSet;

impl Planner<'_> {
    pub(super) fn plan_sizes(&mut self) {
        self.sizes.voters = self.size(PodRole::Voter);
        let has_set = self.observed.sets.contains_key(&PodRole::ReadReplica);
        let replicas = self.size(PodRole::ReadReplica);
        self.sizes.read_replicas = (has_set || replicas > 0).then_some(replicas);
    }

    fn size(&mut self, role: PodRole) -> usize {
        let wanted = self.wanted(role);
        if self.phase == BootstrapPhase::Chosen {
            return wanted;
        }
        let set = self.observed.sets.get(&role);
        if self.view.leader().is_none() || !self.view.is_settled() {
            // Without a leader nobody can say who is a member: nothing shrinks, and what there was is started.
            // A set of no pods was hibernated.
            return match set {
                Some(set) if set.replicas > 0 => set.replicas.max(self.known_size(role)),
                _ => self.unled_size(role),
            };
        }
        let members = self
            .view
            .members()
            .filter_map(|member| self.desired.name.parse_member(&member.name))
            .filter(|(found, _)| *found == role)
            .map(|(_, ordinal)| ordinal + 1)
            .max()
            .unwrap_or(0);
        self.wipe_before_growth(role, wanted.max(members))
    }

    fn unled_size(&mut self, role: PodRole) -> usize {
        let claims = self.retained(role, self.observed.claims.keys().filter(|name| self.held_a_member(name)));
        let pods = self.retained(role, self.observed.pods.keys());
        let retained = claims.max(pods);
        if retained > 0 && role == PodRole::Voter {
            self.act(ActivityReason::Adopting, format!("starting {retained} members on retained volumes"));
        }
        match role {
            PodRole::Voter if retained == 0 => self.wanted(role),
            _ => retained,
        }
    }

    /// How many pods it takes for the members that those which run know of, and whose volumes are there: without them they
    /// may elect nobody.
    fn known_size(&self, role: PodRole) -> usize {
        let is_known = |name: &&String| {
            !self.is_stranger(name) && self.view.members().any(|member| member.name == **name)
        };
        self.retained(role, self.observed.claims.keys().filter(is_known))
    }

    /// Whether a member of this cluster may live on the claim. Where the status tells who the members were, as of a
    /// hibernated cluster, it is one of those.
    fn held_a_member(&self, name: &str) -> bool {
        let members = &self.observed.status.members;
        !self.is_stranger(name) && (members.is_empty() || members.iter().any(|member| member.name == name))
    }

    /// How many pods of a role it takes for those that are wanted.
    pub(super) fn wanted(&self, role: PodRole) -> usize {
        self.wanted_ordinals(role).last().map_or(0, |ordinal| ordinal + 1)
    }

    /// Whose pods are wanted: those of the spec, those that stand in for voters whose names are held, and the one that takes
    /// the place of a lost voter.
    pub(super) fn wanted_ordinals(&self, role: PodRole) -> BTreeSet<usize> {
        let of_spec = 0..self.desired.members(role);
        match role {
            PodRole::Voter => of_spec.chain(self.stand_ins()).chain(self.surge()).collect(),
            PodRole::ReadReplica => of_spec.collect(),
        }
    }

    /// Voters beyond the spec, as many as names of the spec have no vote; of more the lowest, for the others leave first.
    fn stand_ins(&self) -> impl Iterator<Item = usize> + use<> {
        let votes: BTreeSet<usize> = self.voting_ordinals().collect();
        let missing = (0..self.desired.voters).filter(|ordinal| !votes.contains(ordinal)).count();
        let spec = self.desired.voters;
        votes.into_iter().filter(move |ordinal| *ordinal >= spec).take(missing)
    }

    /// The one that takes the place of a lost voter: the first beyond the spec that does not vote, and whose name is free. One
    /// is replaced at a time, and none while there are more voters than are wanted.
    fn surge(&self) -> Option<usize> {
        self.lost_voter().filter(|_| self.view.voters().count() <= self.desired.voters)?;
        let votes: BTreeSet<usize> = self.voting_ordinals().collect();
        (self.desired.voters..).find(|ordinal| !votes.contains(ordinal) && !self.is_held(*ordinal))
    }

    fn voting_ordinals(&self) -> impl Iterator<Item = usize> {
        let voters = self.view.voters().filter_map(|voter| self.desired.name.parse_member(&voter.name));
        voters.filter(|(role, _)| *role == PodRole::Voter).map(|(_, ordinal)| ordinal)
    }

    /// Whether the name of a pod is held by a lost Kubernetes node. One that never ran tells nothing of a node: the next would
    /// not run either.
    fn is_held(&self, ordinal: usize) -> bool {
        let name = self.desired.name.member(PodRole::Voter, ordinal);
        let ran = |pod: &PodView| pod.terminating || pod.running && pod.restarts == 0;
        self.is_away(&name) && self.observed.pods.get(&name).is_some_and(ran)
    }

    /// A retained claim of a removed member is deleted before a pod would start on it.
    fn wipe_before_growth(&mut self, role: PodRole, target: usize) -> usize {
        for ordinal in self.observed_replicas(role)..target {
            let member = self.desired.name.member(role, ordinal);
            let Some(claim) = self.observed.claims.get(&member) else { continue };
            if self.observed.pods.contains_key(&member) {
                continue;
            }
            if self.is_stranger(&member) {
                return ordinal;
            }
            if claim.terminating || self.is_of_removed_member(claim) {
                self.act(
                    ActivityReason::Scaling,
                    format!("removing the volume that a removed {member} left"),
                );
                self.wipe_claim(&member);
                return ordinal;
            }
        }
        target
    }

    /// Whether the leader's membership says that whoever lived on the volume was removed.
    pub(super) fn is_of_removed_member(&self, claim: &ClaimView) -> bool {
        self.view.leader().is_some()
            && self.view.is_settled()
            && claim.cluster_id.is_some()
            && claim.cluster_id == self.plan.cluster_id
            && claim.node_id.is_some_and(|node_id| self.view.member(node_id).is_none())
    }

    pub(super) fn wipe_claim(&mut self, member: &str) {
        if let Some(claim) = self.observed.claims.get(member)
            && !claim.terminating
        {
            self.safe(Step::DeleteClaim {
                member: member.to_owned(),
                uid: claim.uid.clone(),
                why: "its member was removed from the membership".into(),
            });
        }
    }

    /// The voter whose place is to be taken by another: neither heard nor Ready for as long as the spec says, while
    /// its name is held by a pod that does not come back, and the others are a healthy quorum. Where an entry is fatal to
    /// those, the lost one may be the only one that has applied it.
    pub(super) fn lost_voter(&self) -> Option<&Member> {
        let leader = self.view.leader()?;
        let voters = self.view.voters().count();
        let is_quorum_well = self.view.healthy_voters() >= quorum(voters);
        if !is_quorum_well || self.view.fatal_entry().is_some() {
            return None;
        }
        self.view.voters().find(|member| {
            member.node_id != leader.node_id && !self.view.is_heard(member) && self.is_lost(member)
        })
    }

    pub(super) fn is_lost(&self, member: &Member) -> bool {
        let patience = self.desired.replacement_after;
        let silent = member.silent_milliseconds.is_none_or(|ms| u128::from(ms) >= patience.as_millis());
        let Some(pod) = self.observed.pods.get(&member.name) else { return false };
        let is_voter = matches!(self.desired.name.parse_member(&member.name), Some((PodRole::Voter, _)));
        let pointless = pod.stuck.as_ref().is_some_and(|stuck| stuck.is_template_fault());
        is_voter && silent && !pointless && self.is_away(&member.name)
    }

    /// Whether the pod of this name has been there for as long as the spec says, and neither Ready nor answering.
    fn is_away(&self, name: &str) -> bool {
        let away =
            |pod: &PodView| !pod.ready && pod.is_away(self.observed.now, self.desired.replacement_after);
        self.observed.pods.get(name).is_some_and(away) && !self.observed.reports.contains_key(name)
    }
}
