//! (what is wanted, what is) → what to do next. Pure: no client, no clock, no randomness.
//!
//! A plan says how large the StatefulSets are to be, what the claims are to say, and which [`Step`]s to take: any
//! number of safe ones and at most one that costs a member. Nothing is remembered between plans; each is made from
//! what is observed, so that an operator that dies anywhere continues where it stopped.

mod fatal_entry;
mod identity;
pub(super) mod lost_quorum;
mod membership;
mod pods;
mod rollout;
mod sizes;
mod step;
mod traffic;
mod update;
mod upkeep;

#[cfg(test)]
mod tests;

pub use upkeep::bucket;

pub(super) use fatal_entry::explain;
pub(super) use upkeep::counts_for_growth;

pub use step::{
    Activity, ActivityReason, ClaimMark, Obstacle, ObstacleReason, Pending, PendingReason, Sizes, Step,
};

use super::backups::{self, BackupPlan};
use super::observed::Observed;
use super::restore::{self, BootstrapPlan};
use super::validate::Desired;
use super::view::{View, slack};
use crate::crd::{
    BootstrapPhase, BootstrapStatus, ClientTraffic, DisruptionBudget, PeerTraffic, RolloutState,
    RolloutStatus,
};
use identity::Identity;

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Id of the cluster, to be recorded before anything is initialised.
    pub cluster_id: Option<String>,
    /// How the cluster began, to be recorded likewise.
    pub bootstrap: Option<BootstrapStatus>,
    /// Sizes of the StatefulSets; absent: nothing is applied.
    pub sizes: Option<Sizes>,
    /// `minAvailable` of the voters' PodDisruptionBudget; absent: no budget.
    pub voter_budget: Option<i32>,
    /// What claims are to say.
    pub claims: Vec<ClaimMark>,
    /// What to do, in this order: safe steps, then at most one disruptive one.
    pub steps: Vec<Step>,
    /// What is under way.
    pub activity: Option<Activity>,
    /// What needs a human.
    pub obstacle: Option<Obstacle>,
    /// Without a leader: what becomes of the consent to go on without a quorum, or why nothing does.
    pub consent: Option<String>,
    /// What waits for a time or for somebody's word.
    pub pending: Option<Pending>,
    /// Revision of the pod templates that pods shall have now.
    pub revision: String,
    /// How the change to it goes.
    pub rollout: Option<RolloutStatus>,
    /// Size that volumes are to have, as the claims shall say it.
    pub volume_size: String,
    /// Size of the smallest volume, of those that are in use.
    pub volume_allocated: Option<String>,
    /// How members are to talk to each other from the next reconcile on.
    pub peer_traffic: Option<PeerTraffic>,
    /// How clients are to be answered from the next reconcile on.
    pub client_traffic: Option<ClientTraffic>,
    /// Whether applications are to talk TLS: not before every member does, and as long as one does nothing else.
    pub tells_tls: bool,
    /// Backups that are due, and those that are no longer kept.
    pub backups: BackupPlan,
    /// The backup that the cluster begins with.
    pub restore: BootstrapPlan,
}

impl Plan {
    /// Whether something is expected to move soon.
    pub fn progresses(&self) -> bool {
        self.activity.is_some() || !self.steps.is_empty() || !self.claims.is_empty()
    }

    fn recorded(observed: &Observed) -> Self {
        Self {
            cluster_id: observed.status.cluster_id.clone(),
            bootstrap: observed.status.bootstrap.clone(),
            rollout: observed.status.rollout.clone(),
            peer_traffic: observed.status.peer_traffic,
            client_traffic: observed.status.client_traffic,
            volume_allocated: observed.status.storage.as_ref().and_then(|s| s.allocated.clone()),
            ..Self::default()
        }
    }
}

/// What to do next. `minted` becomes the id of the cluster if it has none.
pub fn plan(desired: &Desired, observed: &Observed, minted: &str) -> Plan {
    let restore = restore::plan(desired, observed);
    let backups = backups::plan(desired, observed);
    let mut plan = if restore.comes_first(observed) && observed.bootstrap().is_none() && !has_claims(observed)
    {
        Plan::recorded(observed)
    } else {
        plan_members(desired, observed, minted)
    };
    // What the beginning waits for tells more than that it is a beginning.
    if let Some(activity) = restore.activity.clone() {
        plan.activity = Some(activity);
    }
    let (certificates, missing) = super::certificates::health::plan(desired, observed);
    let waits = certificates.as_ref().is_some_and(|a| a.reason == ActivityReason::AwaitingCertificates);
    if (plan.activity.is_none() || waits) && !desired.spec.paused {
        plan.activity = certificates.or(plan.activity);
    }
    if plan.obstacle.is_none() {
        plan.obstacle = restore.obstacle.clone().or(missing.filter(|_| !desired.spec.paused));
    }
    if plan.activity.is_none() && observed.exchanges_passwords && !desired.spec.paused {
        let message = "the members are to accept the next passwords before anybody is told".into();
        plan.activity = Some(Activity::new(ActivityReason::RotatingPassword, message));
    }
    let (awaited, unfound) = super::given::plan(observed);
    if !desired.spec.paused {
        // Pods may wait for it, which tells more than that they do.
        plan.activity = awaited.or(plan.activity);
        plan.obstacle = plan.obstacle.or(unfound);
    }
    if !plan.steps.iter().any(Step::is_disruptive) {
        plan.steps.extend(restore.start.clone().map(Step::Restore));
    }
    Plan { backups, restore, ..plan }
}

/// Whether there is data that a cluster of this name would take over.
fn has_claims(observed: &Observed) -> bool {
    observed.claims.values().any(|claim| claim.cluster_id.is_some())
}

/// All but backups and restores.
fn plan_members(desired: &Desired, observed: &Observed, minted: &str) -> Plan {
    let recorded = Plan::recorded(observed);
    if desired.spec.paused {
        return recorded;
    }
    if !observed.foreign.is_empty() {
        return foreign(recorded, observed);
    }
    if observed.cluster_id().is_none() && is_leaving(observed) {
        let message = "waiting for pods and claims of a deleted cluster of this name to go".into();
        return Plan { activity: Some(Activity::new(ActivityReason::Deleting, message)), ..recorded };
    }
    match identity::identify(desired, observed, minted) {
        Err(obstacle) => Plan { obstacle: Some(obstacle), ..recorded },
        Ok(identity) => Planner::new(desired, observed, identity, minted).run(),
    }
}

/// Whether something of an earlier cluster is still on its way out. Its data is neither adopted nor kept from going.
fn is_leaving(observed: &Observed) -> bool {
    observed.claims.values().any(|claim| claim.terminating)
        || observed.pods.values().any(|pod| pod.terminating)
}

fn foreign(recorded: Plan, observed: &Observed) -> Plan {
    let list = |leftover: bool| {
        let objects: Vec<_> =
            observed.foreign.iter().filter(|f| f.leftover == leftover).map(|f| f.object.as_str()).collect();
        objects.join(", ")
    };
    let (conflicts, leftovers) = (list(false), list(true));
    if conflicts.is_empty() {
        let message = format!("waiting for what a deleted cluster of this name left to go: {leftovers}");
        return Plan { activity: Some(Activity::new(ActivityReason::Deleting, message)), ..recorded };
    }
    let message =
        format!("{conflicts} exists and is not of this cluster: delete or rename it, or rename the cluster");
    Plan { obstacle: Some(Obstacle::new(ObstacleReason::NameConflict, message)), ..recorded }
}

/// A plan in the making.
struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    view: View<'a>,
    phase: BootstrapPhase,
    sizes: Sizes,
    /// Revision of the pod templates that pods shall have now.
    revision: String,
    rollout: RolloutStatus,
    /// Whether the rollout began by a canary.
    gated: bool,
    /// Whether nobody else is restarted yet.
    waits_for_canary: bool,
    canary_failed: Option<Obstacle>,
    /// Whether nobody is restarted for other resources yet.
    restarts_wait: bool,
    /// Revision under which that begins now.
    restarts_as: Option<String>,
    /// Size that volumes are to have: in bytes, and as the claims shall say it.
    volume: (u128, String),
    /// Id of a new cluster in the place of one whose members were all in memory.
    minted: &'a str,
    strangers: Option<Obstacle>,
    plan: Plan,
    disruption: Option<Step>,
}

impl<'a> Planner<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed, identity: Identity, minted: &'a str) -> Self {
        // The id is borrowed from the observation where it is recorded; reports carry it otherwise.
        let view = View::of(observed, Some(&identity.cluster_id));
        let phase = identity.bootstrap.phase;
        let plan = Plan {
            cluster_id: Some(identity.cluster_id),
            bootstrap: Some(identity.bootstrap),
            ..Plan::default()
        };
        let strangers = identity.strangers;
        let rollout = RolloutStatus {
            state: RolloutState::Progressing,
            updated: 0,
            total: 0,
            revision: None,
            stable_revision: None,
            failed_revision: None,
            canary: None,
            message: None,
        };
        Self {
            desired,
            observed,
            view,
            phase,
            sizes: Sizes::default(),
            revision: desired.voter_revision.clone(),
            rollout,
            gated: false,
            waits_for_canary: false,
            canary_failed: None,
            restarts_wait: false,
            restarts_as: None,
            volume: (desired.volume_bytes, desired.spec.storage.size.clone()),
            minted,
            strangers,
            plan,
            disruption: None,
        }
    }

    fn run(mut self) -> Plan {
        self.choose_revision();
        self.choose_volume();
        if self.desired.spec.hibernated {
            return self.hibernate();
        }
        self.choose_restarts();
        self.plan_sizes();
        self.plan_claims();
        self.plan_serving();
        self.plan_recreation();
        self.plan_stuck_pods();
        self.plan_fatal_entry();
        self.plan_pod_changes();
        if self.phase == BootstrapPhase::Chosen {
            self.plan_bootstrap();
        } else if self.view.leader().is_none() {
            self.plan_leaderless();
        } else if self.view.is_settled() {
            self.plan_learners();
            // Voters change by two entries, of which the second one waits until the first is applied.
            let applies = self.view.fatal_entry().is_none();
            if applies {
                self.plan_promotion();
            }
            if self.observed.restores.is_empty() {
                if applies {
                    self.plan_scale_down();
                }
                self.plan_fencing();
                self.plan_rollout();
            } else {
                let names: Vec<&str> = self.observed.restores.keys().map(String::as_str).collect();
                self.act(
                    ActivityReason::Restoring,
                    format!("SqliteRestore {} is under way", names.join(", ")),
                );
            }
            self.plan_removed_claims();
            self.plan_departures();
        } else {
            self.act(ActivityReason::Scaling, "waiting for a change of the membership to finish".into());
        }
        self.complete_bootstrap();
        if let Some(strangers) = self.strangers.take() {
            self.obstruct(strangers.reason, strangers.message);
        }
        self.finish()
    }

    /// All pods go, all volumes stay, whatever else is asked for. What the members were is kept in the status.
    fn hibernate(mut self) -> Plan {
        let has_replicas = self.observed.sets.contains_key(&crate::names::PodRole::ReadReplica);
        self.sizes = Sizes { voters: 0, read_replicas: has_replicas.then_some(0) };
        self.plan_claims();
        self.plan_recreation();
        let names: Vec<&str> = self.observed.pods.keys().map(String::as_str).collect();
        if !names.is_empty() {
            self.act(ActivityReason::Hibernating, format!("waiting for {} to go", names.join(", ")));
        }
        self.finish()
    }

    fn finish(mut self) -> Plan {
        self.conclude_rollout();
        if let Some(failed) = self.canary_failed.take() {
            self.obstruct(failed.reason, failed.message);
        }
        if let Some(image) = &self.desired.newer_image
            && self.plan.pending.is_none()
        {
            let message = format!(
                "the operator's release runs members by {image}: set update.followOperator, spec.image, or the annotation {}",
                crate::names::ANNOTATION_UPDATE
            );
            self.plan.pending = Some(Pending { reason: PendingReason::NewerOperator, message });
        }
        self.plan_traffic();
        self.plan.revision.clone_from(&self.revision);
        self.plan.rollout = Some(self.rollout.clone());
        self.plan.volume_size.clone_from(&self.volume.1);
        self.plan.volume_allocated = self.allocated();
        self.plan.voter_budget = self.voter_budget();
        self.plan.sizes = Some(self.sizes.clone());
        self.plan.steps.extend(self.disruption.take());
        self.plan
    }

    /// `minAvailable` by the slack of the configurations that are, that this plan leads to, and that scaling down waits
    /// for, whichever is least, over the pods that the budget may find available.
    fn voter_budget(&self) -> Option<i32> {
        let wanted = self.desired.spec.disruption.pod_disruption_budget != DisruptionBudget::None;
        if !wanted || self.desired.spec.hibernated {
            return None;
        }
        let now = self.view.voters().count();
        let after = match &self.disruption {
            Some(Step::ChangeVoters { add, remove, .. }) => (now + add.len()).saturating_sub(remove.len()),
            _ => now,
        };
        if self.desired.voters == 1 && now.max(after) <= 1 {
            return None;
        }
        // Evictions that go on for as long as they are let would keep it waiting.
        let smaller = if now > self.desired.voters { now - 1 } else { now };
        let slack = slack(now).min(slack(after)).min(slack(smaller));
        i32::try_from(self.available_pods().saturating_sub(slack)).ok()
    }

    /// Pods of voters that are Ready or may become it before the next plan. One that is of no member does not: its name
    /// may be held by a lost Kubernetes node for as long as that is not deleted, and to count on it would refuse every
    /// eviction until then.
    fn available_pods(&self) -> usize {
        let role = crate::names::PodRole::Voter;
        let pods = self.sizes.voters.max(self.observed_replicas(role));
        if !self.view.is_known() {
            return pods;
        }
        let is_ready = |name: &str| self.observed.pods.get(name).is_some_and(|pod| pod.ready);
        let is_member = |name: &str| self.view.members().any(|member| member.name == name);
        let joins = |name: &str| {
            self.plan.steps.iter().any(|step| matches!(step, Step::AddLearner(add) if add.name == name))
        };
        (0..pods)
            .map(|ordinal| self.desired.name.member(role, ordinal))
            .filter(|name| is_ready(name) || is_member(name) || joins(name))
            .count()
    }

    fn act(&mut self, reason: ActivityReason, message: String) {
        if self.plan.activity.is_none() {
            self.plan.activity = Some(Activity::new(reason, message));
        }
    }

    fn obstruct(&mut self, reason: ObstacleReason, message: String) {
        if self.plan.obstacle.is_none() {
            self.plan.obstacle = Some(Obstacle::new(reason, message));
        }
    }

    fn safe(&mut self, step: Step) {
        debug_assert!(!step.is_disruptive(), "{step:?}");
        if !self.plan.steps.contains(&step) {
            self.plan.steps.push(step);
        }
    }

    /// Takes the step if the plan has no disruptive one yet.
    fn disrupt(&mut self, step: Step) {
        self.disruption.get_or_insert(step);
    }

    /// Whether the plan costs a member already.
    fn is_disruptive(&self) -> bool {
        self.disruption.is_some()
    }

    /// Size that the StatefulSet of a role has, or the pods that are left of one.
    fn observed_replicas(&self, role: crate::names::PodRole) -> usize {
        let set = self.observed.sets.get(&role).map(|set| set.replicas);
        set.unwrap_or_else(|| self.retained(role, self.observed.pods.keys()))
    }

    /// One more than the highest ordinal of a role among `members`.
    fn retained<'n>(&self, role: crate::names::PodRole, members: impl Iterator<Item = &'n String>) -> usize {
        members
            .filter_map(|member| self.desired.name.parse_member(member))
            .filter(|(found, _)| *found == role)
            .map(|(_, ordinal)| ordinal + 1)
            .max()
            .unwrap_or(0)
    }
}
