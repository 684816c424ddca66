//! Which pod is restarted next: read replicas first, then followers, the leader last; one at a time, and a voter only
//! while every other one is in service, or none can be.

use super::{ActivityReason, ObstacleReason, Planner, Step};
use crate::cluster::observed::PodView;
use crate::cluster::resources::resources_mark;
use crate::crd::BootstrapPhase;
use crate::names::PodRole;
use client::admin::Member;
use jiff::SignedDuration;

/// A pod of the wanted template that cannot start for this long needs a human.
pub(super) const STUCK_AFTER: SignedDuration = SignedDuration::from_secs(120);

impl<'a> Planner<'a> {
    /// Pods that cannot start: those of a template that is no longer wanted go, the others are told of.
    pub(super) fn plan_stuck_pods(&mut self) {
        for (name, pod) in &self.observed.pods {
            let Some((role, _)) = self.desired.name.parse_member(name) else { continue };
            let held_up = pod.stuck.is_some() || pod.unschedulable.is_some();
            if pod.terminating || pod.running || !held_up {
                continue;
            }
            // One that does not run costs nobody anything, so that other resources need not wait.
            if self.is_outdated(role, pod) || self.resources_differ(pod) {
                if self.set_is_current(role) {
                    self.safe(self.deletion(
                        name,
                        pod,
                        false,
                        "it cannot start, and another template or other resources are wanted",
                    ));
                }
            } else if self.is_older_than(pod, STUCK_AFTER) {
                match (&pod.stuck, &pod.unschedulable) {
                    (Some(stuck), _) => self.obstruct(
                        ObstacleReason::MemberStuck,
                        format!("{name} cannot start: {}: {}", stuck.reason, stuck.message),
                    ),
                    (None, Some(message)) => self.obstruct(
                        ObstacleReason::InsufficientCapacity,
                        format!("{name} finds no Kubernetes node: {message}"),
                    ),
                    (None, None) => {}
                }
            }
        }
        if self.view.leader().is_none() {
            self.plan_silent_outdated_pods();
        }
    }

    /// Without a leader a pod that does not answer holds up nothing: it may as well get the wanted template.
    fn plan_silent_outdated_pods(&mut self) {
        for (name, pod) in self.observed.pods.iter().rev() {
            let Some((role, _)) = self.desired.name.parse_member(name) else { continue };
            let useless = if self.phase == BootstrapPhase::Chosen {
                true
            } else {
                !pod.ready && !self.observed.reports.contains_key(name)
            };
            let outdated = self.is_outdated(role, pod) && self.set_is_current(role);
            if useless && outdated && !pod.terminating && !self.is_renewed(name) {
                self.act(ActivityReason::RollingUpdate, format!("restarting {name}"));
                self.safe(self.deletion(
                    name,
                    pod,
                    false,
                    "it does not answer, and another template is wanted",
                ));
            }
        }
    }

    pub(super) fn plan_rollout(&mut self) {
        let outdated = |role: PodRole| -> Vec<(&'a String, &'a PodView)> {
            self.observed
                .pods
                .iter()
                .filter(|(name, pod)| {
                    let found = self.desired.name.parse_member(name).map(|(role, _)| role);
                    found == Some(role) && self.is_outdated(role, pod)
                })
                .collect()
        };
        let replicas = outdated(PodRole::ReadReplica);
        let mut voters = outdated(PodRole::Voter);
        // What comes in the place of one that is on its way out, and has no vote, has the wanted template.
        voters.retain(|(name, pod)| !pod.terminating || self.voter_named(name).is_some());
        if replicas.is_empty() && voters.is_empty() {
            return self.watch_rollout();
        }
        let total = self.observed.pods.len();
        let outdated = replicas.len() + voters.len();
        self.act(
            ActivityReason::RollingUpdate,
            format!("{outdated} of {total} pods are still to be restarted"),
        );
        if self.is_disruptive()
            || self.waits_for_canary
            || !PodRole::ALL.into_iter().all(|role| self.set_is_current(role))
        {
            return;
        }
        if !replicas.is_empty() {
            self.roll_replica(&replicas);
        } else if self.replicas_are_up() {
            self.roll_voter(&voters);
        }
    }

    fn roll_replica(&mut self, outdated: &[(&'a String, &'a PodView)]) {
        // The ones that are down anyway come first.
        let mut order: Vec<_> = outdated.to_vec();
        order.sort_by_key(|(name, pod)| (pod.ready, std::cmp::Reverse(self.desired.name.parse_member(name))));
        let Some((name, pod)) = order.first() else { return };
        let others_up = self.observed.pods.iter().all(|(other, pod)| {
            other == *name
                || !self.is_replica(other)
                || (pod.ready && !pod.terminating)
                || !pod.ready && self.is_outdated(PodRole::ReadReplica, pod)
        });
        let complete = self.observed.pods.keys().filter(|name| self.is_replica(name)).count()
            >= self.sizes.of(PodRole::ReadReplica);
        if others_up && complete && !pod.terminating && !self.is_renewed(name) {
            self.disrupt(self.deletion(name, pod, true, self.why_outdated(PodRole::ReadReplica, pod)));
            self.begin_with(name);
        }
    }

    fn roll_voter(&mut self, outdated: &[(&'a String, &'a PodView)]) {
        // One that has no vote and has not come into service for long, perhaps because of its template, costs no quorum.
        let idle = outdated.iter().find(|(name, pod)| {
            let in_service = |member: &Member| member.name == **name && self.view.is_sound(member);
            self.voter_named(name).is_none()
                && self.is_older_than(pod, STUCK_AFTER)
                && !self.view.members().any(in_service)
        });
        if let Some((name, pod)) = idle {
            if !pod.terminating && !self.is_renewed(name) {
                self.safe(self.deletion(name, pod, false, "it has no vote, and another template is wanted"));
            }
            return;
        }
        let voters = self.view.voters().count();
        let is_fatal = self.view.entry_fatal_to_all().is_some();
        if !is_fatal && voters <= 2 && voters < self.desired.voters && self.is_voter_on_its_way() {
            // A restart would cost the quorum for a moment: with the members that are to come it will not.
            return;
        }
        let mut order: Vec<(bool, bool, usize, &Member, &PodView)> = outdated
            .iter()
            .filter_map(|(name, pod)| {
                let node_id = self.voter_named(name)?;
                let member = self.view.member(node_id)?;
                if is_fatal && self.view.report(member).is_none() {
                    // Nobody knows when it comes back, and what gets over the entry is not to wait for that.
                    return None;
                }
                let (_, ordinal) = self.desired.name.parse_member(name)?;
                Some((
                    self.view.leads(member),
                    self.view.is_sound(member),
                    usize::MAX - ordinal,
                    member,
                    *pod,
                ))
            })
            .collect();
        order.sort_by_key(|(leads, sound, order, _, _)| (*leads, *sound, *order));
        let Some((leads, _, _, member, pod)) = order.into_iter().next() else { return };
        let unsound: Vec<&str> = self
            .view
            .voters()
            .filter(|voter| voter.node_id != member.node_id && self.is_waited_for(voter))
            .map(|voter| voter.name.as_str())
            .collect();
        if !unsound.is_empty() {
            let message =
                format!("{} is restarted once {} is back in service", member.name, unsound.join(", "));
            self.plan.activity = Some(super::Activity::new(ActivityReason::RollingUpdate, message));
            return;
        }
        if pod.terminating || self.is_renewed(&member.name) {
            return;
        }
        match self.transfer_from(member).filter(|_| leads) {
            Some(transfer) => self.disrupt(transfer),
            None if leads && voters > 1 => {}
            None => {
                self.disrupt(self.deletion(&member.name, pod, true, self.why_outdated(PodRole::Voter, pod)));
                self.begin_with(&member.name);
            }
        }
    }

    /// Whether no other voter is restarted before this one is back in service. Where an entry is fatal to all of them, nothing
    /// is interrupted by restarts, and another template may be what gets over it: one that is still to get that, or is lost,
    /// is not waited for, unless data goes with pods.
    fn is_waited_for(&self, voter: &Member) -> bool {
        let is_free = self.view.entry_fatal_to_all().is_some() && !self.desired.is_in_memory();
        let pod = self.observed.pods.get(&voter.name);
        let has_its_turn = pod.is_some_and(|pod| !pod.terminating && self.is_outdated(PodRole::Voter, pod));
        let is_missed = is_free && (has_its_turn || self.is_lost(voter));
        !is_missed && !self.view.is_at_its_best(voter)
    }

    /// Whether a wanted voter is missing that may yet come: its pod is not, or not for long, held up.
    fn is_voter_on_its_way(&self) -> bool {
        (0..self.desired.voters).map(|ordinal| self.desired.name.member(PodRole::Voter, ordinal)).any(
            |name| {
                let held_up = self.observed.pods.get(&name).is_some_and(|pod| {
                    let stuck = pod.stuck.is_some() || pod.unschedulable.is_some();
                    stuck && !pod.running && self.is_older_than(pod, STUCK_AFTER)
                });
                self.voter_named(&name).is_none() && !held_up && !self.is_stranger(&name)
            },
        )
    }

    pub(super) fn is_older_than(&self, pod: &PodView, age: SignedDuration) -> bool {
        pod.created.is_some_and(|at| self.observed.now.duration_since(at) >= age)
    }

    /// After the last restart the rollout is over once everyone is back.
    fn watch_rollout(&mut self) {
        let was_rolling = self.observed.status.conditions.iter().any(|condition| {
            condition.type_ == "Reconciling"
                && condition.status == "True"
                && condition.reason == ActivityReason::RollingUpdate.as_str()
        });
        let back: Vec<&str> = self
            .view
            .members()
            .filter(|member| !self.view.is_sound(member))
            .map(|member| member.name.as_str())
            .collect();
        if was_rolling && !back.is_empty() && self.plan.obstacle.is_none() {
            self.act(
                ActivityReason::RollingUpdate,
                format!("waiting for {} to be back in service", back.join(", ")),
            );
        }
    }

    fn replicas_are_up(&self) -> bool {
        self.observed
            .pods
            .iter()
            .filter(|(name, _)| self.is_replica(name))
            .all(|(_, pod)| pod.ready && !pod.terminating)
    }

    /// Whether the plan deletes the pod already.
    fn is_renewed(&self, name: &str) -> bool {
        self.plan.steps.iter().any(|step| matches!(step, Step::DeletePod { pod, .. } if pod == name))
    }

    fn is_replica(&self, name: &str) -> bool {
        matches!(self.desired.name.parse_member(name), Some((PodRole::ReadReplica, _)))
    }

    fn is_outdated(&self, role: PodRole, pod: &PodView) -> bool {
        self.has_other_template(role, pod) || !self.restarts_wait && self.needs_restart(pod)
    }

    fn has_other_template(&self, role: PodRole, pod: &PodView) -> bool {
        pod.revision.as_deref() != Some(&self.role_revision(role))
    }

    fn why_outdated(&self, role: PodRole, pod: &PodView) -> &'static str {
        if self.has_other_template(role, pod) {
            "another template is wanted"
        } else {
            "its resources cannot be changed while it runs"
        }
    }

    /// Whether a pod that is deleted now comes back with the wanted template and resources.
    fn set_is_current(&self, role: PodRole) -> bool {
        match self.observed.sets.get(&role) {
            Some(set) => {
                set.settled
                    && !set.terminating
                    && set.revision.as_deref() == Some(&self.role_revision(role))
                    && set.resources_mark == resources_mark(&self.desired.spec.resources)
            }
            None => role == PodRole::ReadReplica && self.sizes.read_replicas.is_none(),
        }
    }

    fn deletion(&self, name: &str, pod: &PodView, restart: bool, why: &str) -> Step {
        Step::DeletePod { pod: name.to_owned(), uid: pod.uid.clone(), restart, why: why.to_owned() }
    }
}
