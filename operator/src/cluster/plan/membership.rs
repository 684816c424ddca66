//! Who is to be a member: bootstrap, learners, promotion, replacement, removal. Membership changes before pods do.

use super::{ActivityReason, Planner, Step};
use crate::cluster::observed::ClaimView;
use crate::cluster::view::is_empty;
use crate::crd::{BootstrapPhase, RetentionPolicy};
use crate::names::PodRole;
use client::admin::{AddLearner, Member, MemberReport, NodeId};
use std::collections::BTreeSet;

impl<'a> Planner<'a> {
    /// Exactly one member initialises, once it is recorded in the status and on the claims that it does.
    pub(super) fn plan_bootstrap(&mut self) {
        let Some((cluster_id, member)) = self.plan.cluster_id.clone().zip(self.plan.bootstrap.clone()) else {
            return;
        };
        let member = member.member;
        let recorded = self.observed.cluster_id() == Some(&cluster_id) && self.observed.bootstrap().is_some();
        let marked =
            self.observed.claims.values().all(|claim| claim.cluster_id.as_deref() == Some(&cluster_id))
                && (self.desired.is_in_memory() || self.observed.claims.contains_key(&member));
        let waits = self.observed.reports.get(&member).is_some_and(is_empty);
        let stays = self.observed.pods.get(&member).is_some_and(|pod| !pod.terminating);
        self.act(ActivityReason::Bootstrapping, format!("waiting for {member} to initialise the cluster"));
        if recorded && marked && waits && stays {
            self.safe(Step::Initialise { pod: member, cluster_id });
        }
    }

    /// Members come as learners; those that the spec no longer wants and that do not vote go.
    pub(super) fn plan_learners(&mut self) {
        for role in PodRole::ALL {
            let (wanted, size) = (self.wanted_ordinals(role), self.sizes.of(role));
            for ordinal in wanted.range(..size) {
                self.plan_learner(role, *ordinal);
            }
            let surplus: Vec<&Member> = self
                .view
                .learners()
                .filter(|member| matches!(self.desired.name.parse_member(&member.name), Some((r, o)) if r == role && !wanted.contains(&o)))
                .collect();
            for member in surplus {
                self.act(ActivityReason::Scaling, format!("removing {}", member.name));
                self.safe(Step::RemoveLearner { name: member.name.clone(), node_id: member.node_id });
            }
        }
    }

    fn plan_learner(&mut self, role: PodRole, ordinal: usize) {
        let name = self.desired.name.member(role, ordinal);
        let held = self.view.members().any(|member| member.name == name);
        let Some(pod) = self.observed.pods.get(&name) else {
            if !held {
                self.act(ActivityReason::Scaling, format!("waiting for pod {name}"));
            }
            return;
        };
        let Some(report) = self.observed.reports.get(&name) else {
            let stale = self.observed.claims.get(&name).is_some_and(|claim| self.is_of_removed_member(claim));
            if stale && !pod.running && !held {
                self.wipe(&name);
            }
            // A name that a lost Kubernetes node holds is waited for by nobody once another member votes in its place.
            let is_covered = role == PodRole::Voter && self.view.voters().count() >= self.desired.voters;
            if !held && !is_covered {
                self.act(ActivityReason::Scaling, format!("waiting for {name} to start"));
            }
            return;
        };
        if let Some(member) = self.view.member(report.node_id) {
            if !member.voter && (role == PodRole::Voter || !self.view.is_healthy(member)) {
                self.act(ActivityReason::Scaling, format!("{name} is catching up"));
            }
            return;
        }
        if is_empty(report) {
            self.plan_join(&name, report, held, pod.terminating);
        } else if self.is_outlived(report) {
            self.act(
                ActivityReason::ReplacingMember,
                format!("{name} was removed and comes back as a new member"),
            );
            self.wipe(&name);
        }
    }

    fn plan_join(&mut self, name: &str, report: &MemberReport, held: bool, terminating: bool) {
        let (reason, message) = if held {
            (ActivityReason::ReplacingMember, format!("{name} lost its volume and joins as a new member"))
        } else {
            (ActivityReason::Scaling, format!("{name} is joining"))
        };
        self.act(reason, message);
        if terminating {
            return;
        }
        let former: Vec<&Member> = self.view.learners().filter(|member| member.name == name).collect();
        for member in former {
            self.safe(Step::RemoveLearner { name: member.name.clone(), node_id: member.node_id });
        }
        self.safe(Step::AddLearner(AddLearner {
            node_id: report.node_id,
            name: report.name.clone(),
            raft_address: report.raft_address.clone(),
            api_address: report.api_address.clone(),
        }));
    }

    /// Whether the member belongs to this cluster's past: the leader's membership, which is no older than what the
    /// member knows, does not hold its id.
    fn is_outlived(&self, report: &MemberReport) -> bool {
        let leader = self.view.leader();
        report.cluster_id == self.plan.cluster_id
            && leader.is_some_and(|leader| {
                let knows_no_more = report.membership.log_index <= leader.membership.log_index;
                leader.membership.committed && (report.epoch < leader.epoch || knows_no_more)
            })
    }

    /// Claim and pod go; the StatefulSet makes both anew.
    fn wipe(&mut self, name: &str) {
        self.wipe_claim(name);
        if let Some(pod) = self.observed.pods.get(name)
            && !pod.terminating
        {
            self.safe(Step::DeletePod {
                pod: name.to_owned(),
                uid: pod.uid.clone(),
                restart: false,
                why: "its member was removed from the membership; it comes back empty".into(),
            });
        }
    }

    /// A learner that has caught up becomes a voter: in the place of the id that its name had before, in the place
    /// of a lost voter, in the place of the one that stood in for it, or in addition.
    pub(super) fn plan_promotion(&mut self) {
        for ordinal in self.wanted_ordinals(PodRole::Voter) {
            let name = self.desired.name.member(PodRole::Voter, ordinal);
            let Some(learner) = self.learner_of(&name) else { continue };
            if !self.view.is_healthy(learner) {
                self.act(ActivityReason::Scaling, format!("{name} is catching up"));
                continue;
            }
            let former = self.view.voters().find(|voter| voter.name == name);
            let replaced = match former {
                Some(former) => Some(former),
                None if ordinal >= self.desired.voters => self.lost_voter(),
                None if self.view.voters().count() >= self.desired.voters => {
                    self.lost_voter().or_else(|| self.surplus().into_iter().next())
                }
                None => None,
            };
            if let Some(replaced) = replaced.filter(|replaced| self.view.leads(replaced))
                && let Some(transfer) = self.transfer_from(replaced)
            {
                return self.disrupt(transfer);
            }
            let replaced = replaced.filter(|replaced| !self.view.leads(replaced));
            let leaves: Vec<NodeId> = replaced.iter().map(|replaced| replaced.node_id).collect();
            if !self.view.keeps_quorum(&[learner.node_id], &leaves) {
                self.act(ActivityReason::Scaling, format!("{name} waits until a quorum with it is healthy"));
                continue;
            }
            let add = vec![(learner.name.clone(), learner.node_id)];
            let remove: Vec<_> = replaced.into_iter().map(|m| (m.name.clone(), m.node_id)).collect();
            let reason =
                if remove.is_empty() { ActivityReason::Scaling } else { ActivityReason::ReplacingMember };
            self.act(reason, format!("{name} becomes a voter"));
            return self.disrupt(Step::ChangeVoters { add, remove });
        }
    }

    /// The learner that the pod of this name is now, if the pod is there to stay.
    fn learner_of(&self, name: &str) -> Option<&'a Member> {
        let report = self.observed.reports.get(name)?;
        let pod = self.observed.pods.get(name)?;
        let member = self.view.member(report.node_id)?;
        (!member.voter && !pod.terminating).then_some(member)
    }

    /// Voters beyond the spec, first those that are missed least: the unhealthy, then the highest ordinals.
    fn surplus(&self) -> Vec<&'a Member> {
        let mut surplus: Vec<(bool, usize, &Member)> = self
            .view
            .voters()
            .filter_map(|voter| match self.desired.name.parse_member(&voter.name) {
                Some((PodRole::Voter, ordinal)) if ordinal >= self.desired.voters => {
                    Some((self.view.is_healthy(voter), usize::MAX - ordinal, voter))
                }
                _ => None,
            })
            .collect();
        surplus.sort_by_key(|(healthy, order, _)| (*healthy, *order));
        surplus.into_iter().map(|(_, _, voter)| voter).collect()
    }

    /// Leadership goes to a voter that stays, best to one that is in service and runs the wanted template.
    pub(super) fn transfer_from(&self, leader: &Member) -> Option<Step> {
        let rank = |voter: &Member| {
            let pod = self.observed.pods.get(&voter.name);
            let current =
                pod.is_some_and(|pod| pod.revision.as_deref() == Some(&self.role_revision(PodRole::Voter)));
            let ordinal =
                self.desired.name.parse_member(&voter.name).map_or(usize::MAX, |(_, ordinal)| ordinal);
            (ordinal < self.desired.voters, self.view.is_sound(voter), current, usize::MAX - ordinal)
        };
        let heir = self
            .view
            .voters()
            .filter(|voter| {
                voter.node_id != leader.node_id && self.view.is_healthy(voter) && self.view.stays(voter)
            })
            .filter(|voter| !self.desired.is_fenced(&voter.name))
            .max_by_key(|voter| rank(voter))?;
        Some(Step::Transfer { from: leader.name.clone(), to: heir.name.clone(), to_id: heir.node_id })
    }

    /// A fenced member does not lead while another one can.
    pub(super) fn plan_fencing(&mut self) {
        let leader = self.view.voters().find(|voter| self.view.leads(voter));
        let Some(leader) = leader.filter(|leader| self.desired.is_fenced(&leader.name)) else { return };
        if let Some(transfer) = self.transfer_from(leader) {
            self.act(ActivityReason::Fencing, format!("leadership leaves {}", leader.name));
            self.disrupt(transfer);
        }
    }

    /// Voters beyond the spec leave, one at a time, as long as a quorum of those that remain is healthy.
    pub(super) fn plan_scale_down(&mut self) {
        let voters = self.view.voters().count();
        let Some(victim) = self.surplus().into_iter().next().filter(|_| voters > self.desired.voters) else {
            return;
        };
        self.act(ActivityReason::Scaling, format!("removing {}", victim.name));
        if self.is_disruptive() {
            return;
        }
        if !self.view.keeps_quorum(&[], &[victim.node_id]) {
            let ill: Vec<_> = self
                .view
                .voters()
                .filter(|voter| voter.node_id != victim.node_id)
                .filter(|voter| !self.view.is_healthy(voter) || !self.view.stays(voter))
                .map(|voter| voter.name.as_str())
                .collect();
            let message = format!(
                "{} stays until a quorum without it is healthy: {} must recover first",
                victim.name,
                ill.join(", ")
            );
            self.plan.activity = Some(super::Activity::new(ActivityReason::Scaling, message));
        } else if self.view.leads(victim) {
            if let Some(transfer) = self.transfer_from(victim) {
                self.disrupt(transfer);
            }
        } else {
            self.disrupt(Step::ChangeVoters {
                add: vec![],
                remove: vec![(victim.name.clone(), victim.node_id)],
            });
        }
    }

    /// Claims that scaling down left, once neither a pod nor the membership holds them.
    pub(super) fn plan_removed_claims(&mut self) {
        if self.desired.spec.storage.on_scale_down != RetentionPolicy::Delete {
            return;
        }
        for (member, claim) in &self.observed.claims {
            let Some((role, ordinal)) = self.desired.name.parse_member(member) else { continue };
            let shrunk =
                self.observed.sets.get(&role).is_none_or(|set| set.settled && set.replicas <= ordinal);
            let held = self.view.members().any(|m| m.name == *member || Some(m.node_id) == claim.node_id);
            let ours = claim.cluster_id.is_none() || claim.cluster_id == self.plan.cluster_id;
            let beyond = ordinal >= self.sizes.of(role) && ordinal >= self.wanted(role);
            if shrunk
                && beyond
                && ours
                && !held
                && !claim.terminating
                && !self.observed.pods.contains_key(member)
            {
                self.safe(Step::DeleteClaim {
                    member: member.clone(),
                    uid: claim.uid.clone(),
                    why: "scaling down removed its member".into(),
                });
            }
        }
    }

    /// Scaling down is over once the pods, and by policy the claims, of those that left are gone.
    pub(super) fn plan_departures(&mut self) {
        let beyond = |member: &String| {
            let parsed = self.desired.name.parse_member(member);
            parsed.is_some_and(|(role, ordinal)| ordinal >= self.sizes.of(role))
        };
        let deletes = self.desired.spec.storage.on_scale_down == RetentionPolicy::Delete;
        let ours = |claim: &ClaimView| claim.cluster_id.is_none() || claim.cluster_id == self.plan.cluster_id;
        let claims =
            self.observed.claims.iter().filter(|(_, claim)| deletes && ours(claim)).map(|(name, _)| name);
        let leaving: BTreeSet<&str> = self
            .observed
            .pods
            .keys()
            .chain(claims)
            .filter(|member| beyond(member))
            .map(String::as_str)
            .collect();
        if !leaving.is_empty() {
            let names = leaving.into_iter().collect::<Vec<_>>().join(", ");
            self.act(ActivityReason::Scaling, format!("waiting for what {names} left to go"));
        }
    }

    /// The beginning is over once every wanted voter has been in service together with the others.
    pub(super) fn complete_bootstrap(&mut self) {
        let sound = self.view.voters().filter(|voter| self.view.is_sound(voter)).count();
        let Some(bootstrap) = &mut self.plan.bootstrap else { return };
        if bootstrap.phase == BootstrapPhase::Initialised && sound >= self.desired.voters {
            bootstrap.phase = BootstrapPhase::Complete;
        }
    }

    /// Raft ids by name, of the members that vote.
    pub(super) fn voter_named(&self, name: &str) -> Option<NodeId> {
        self.view.voters().find(|voter| voter.name == name).map(|voter| voter.node_id)
    }
}
