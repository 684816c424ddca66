//! Which pod template the members shall have: the one that the spec asks for, once approval, window, versions and canary
//! allow it, and until then the one that they last had in service all together.

use super::{ActivityReason, Obstacle, ObstacleReason, Pending, PendingReason, Planner};
use crate::cluster::observed::PodView;
use crate::cluster::version::Version;
use crate::crd::{BootstrapPhase, CanaryFailure, CanaryStatus, RolloutState, RolloutStatus, UpdateStrategy};
use crate::names::{PodRole, image_version, role_revision};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A canary that cannot start for this long has failed.
const BROKEN_AFTER: SignedDuration = SignedDuration::from_secs(20);
/// A canary that is not in service for this long, on top of its soak, has failed.
const LATE_AFTER: SignedDuration = SignedDuration::from_secs(180);
/// A canary whose container was started again this often has failed.
const RESTARTS: i32 = 2;

/// What becomes of a canary.
enum Verdict {
    Passed,
    Waits(String),
    Failed(String),
}

impl Planner<'_> {
    /// Decides on the template; says why if it is not yet the one that the spec asks for.
    pub(super) fn choose_revision(&mut self) {
        let wanted = self.desired.voter_revision.clone();
        let before = self.observed.status.rollout.clone();
        let (stable, failed, canary, told) = match before {
            Some(r) => (r.stable_revision, r.failed_revision, r.canary, r.message),
            None => (None, None, None, None),
        };
        let same = self.observed.status.rollout.as_ref().and_then(|r| r.revision.as_deref()) == Some(&wanted);
        self.rollout = RolloutStatus {
            state: RolloutState::Progressing,
            updated: 0,
            total: 0,
            revision: Some(wanted.clone()),
            stable_revision: stable.clone(),
            failed_revision: failed.filter(|failed| *failed == wanted),
            canary: canary.filter(|_| same),
            message: told.filter(|_| same),
        };
        self.revision.clone_from(&wanted);
        let former = stable.filter(|stable| *stable != wanted && self.is_pinned(stable));
        let Some(former) = former.filter(|_| self.phase == BootstrapPhase::Complete) else {
            (self.rollout.canary, self.rollout.failed_revision, self.rollout.message) = (None, None, None);
            return;
        };
        if self.rollout.failed_revision.is_some() {
            return self.stay_failed(former);
        }
        let begun = self.rollout.canary.is_some()
            || self.observed.pods.iter().any(|(name, pod)| self.has_revision(name, pod, &wanted));
        if !begun && !self.may_begin(&wanted) {
            self.revision = former;
            return;
        }
        self.rollout.message = None;
        self.gated = true;
        self.watch_canary(former);
    }

    /// Whether what the role's pods are made from is kept, so that it can be had again.
    fn is_pinned(&self, revision: &str) -> bool {
        self.observed
            .sets
            .keys()
            .all(|role| self.observed.templates.contains_key(&role_revision(revision, *role)))
    }

    fn has_revision(&self, name: &str, pod: &PodView, revision: &str) -> bool {
        let role = self.desired.name.parse_member(name).map(|(role, _)| role);
        role.is_some_and(|role| pod.revision.as_deref() == Some(&role_revision(revision, role)))
    }

    /// Versions come first: no word and no window helps there.
    fn may_begin(&mut self, wanted: &str) -> bool {
        if let Some(message) = self.version_skew() {
            self.rollout.state = RolloutState::Refused;
            self.rollout.message = Some(message.clone());
            self.obstruct(ObstacleReason::VersionSkew, message);
            return false;
        }
        match self.waiting(wanted, &format!("revision {wanted}")) {
            Some((state, pending)) => {
                self.wait(state, pending);
                false
            }
            None => true,
        }
    }

    /// What restarts wait for that are approved by this name, and called `what`: approval, then the window, for what only
    /// time changes comes last.
    pub(super) fn waiting(&self, name: &str, what: &str) -> Option<(RolloutState, Pending)> {
        let update = &self.desired.spec.update;
        if update.strategy == UpdateStrategy::Supervised && self.desired.approved.as_deref() != Some(name) {
            let message = format!(
                "{what} waits for approval: set the annotation {}={name}",
                crate::names::ANNOTATION_APPROVED
            );
            let pending = Pending { reason: PendingReason::WaitingForApproval, message };
            return Some((RolloutState::WaitingForApproval, pending));
        }
        let (windows, now) = (&self.desired.windows, self.observed.now);
        if windows.is_empty() || windows.iter().any(|window| window.is_open(now)) {
            return None;
        }
        let message = match windows.iter().filter_map(|window| window.after(now)).min() {
            Some(next) => format!("{what} waits for the maintenance window that opens at {next}"),
            None => format!("{what} waits for a maintenance window, and none will ever open"),
        };
        let pending = Pending { reason: PendingReason::WaitingForWindow, message };
        Some((RolloutState::WaitingForWindow, pending))
    }

    /// Tells that restarts wait.
    pub(super) fn wait(&mut self, state: RolloutState, pending: Pending) {
        self.rollout.state = state;
        self.rollout.message = Some(pending.message.clone());
        self.plan.pending = Some(pending);
    }

    /// Why the wanted image cannot follow what runs: members of the two versions talk to each other for a while, and
    /// data is never read by an older one.
    fn version_skew(&self) -> Option<String> {
        let target = image_version(&self.desired.image);
        // Versions that differ in the patch alone follow each other either way.
        let version = |text: &str| Version::parse(text).map(|version| (version.major, version.minor));
        let to = version(&target)?;
        let running = self.observed.reports.values().filter_map(|report| version(&report.version));
        let (oldest, newest) = (running.clone().min()?, running.max()?);
        if (to.0, to.1) < (newest.0, newest.1) {
            return Some(format!(
                "version {target} is older than {}.{}, which members run: restore a backup to go back",
                newest.0, newest.1
            ));
        }
        let next = to.0 == oldest.0 && to.1 <= oldest.1 + 1 || to.0 == oldest.0 + 1 && to.1 == 0;
        (!next).then(|| {
            format!(
                "version {target} skips a minor version after {}.{}, which members run: update step by step",
                oldest.0, oldest.1
            )
        })
    }

    fn watch_canary(&mut self, former: String) {
        let recorded = self.rollout.canary.take().filter(|canary| self.is_to_be_watched(canary));
        let Some(mut canary) = recorded.or_else(|| self.first_updated()) else { return };
        if canary.passed {
            self.rollout.canary = Some(canary);
            return;
        }
        let verdict = self.judge(&mut canary);
        match verdict {
            Verdict::Passed => canary.passed = true,
            Verdict::Waits(message) => {
                self.rollout.state = RolloutState::Canary;
                self.waits_for_canary = true;
                self.act(ActivityReason::RollingUpdate, message);
            }
            Verdict::Failed(message) => {
                self.rollout.failed_revision = self.rollout.revision.clone();
                self.rollout.message = Some(message);
                self.rollout.canary = Some(canary);
                return self.stay_failed(former);
            }
        }
        self.rollout.canary = Some(canary);
    }

    /// A canary that the spec no longer wants proves nothing, and one whose restart did not come about is chosen anew.
    fn is_to_be_watched(&self, canary: &CanaryStatus) -> bool {
        let wanted = &self.desired.voter_revision;
        let pod = self.observed.pods.get(&canary.member);
        let untouched =
            pod.is_some_and(|pod| !pod.terminating && !self.has_revision(&canary.member, pod, wanted));
        canary.passed || self.is_wanted(&canary.member) && !untouched
    }

    fn is_wanted(&self, name: &str) -> bool {
        let parsed = self.desired.name.parse_member(name);
        parsed.is_some_and(|(role, ordinal)| ordinal < self.desired.members(role))
    }

    fn first_updated(&self) -> Option<CanaryStatus> {
        let wanted = &self.desired.voter_revision;
        let mut updated =
            self.observed.pods.iter().filter(|(name, pod)| self.has_revision(name, pod, wanted));
        updated.next().map(|(name, _)| CanaryStatus {
            member: name.clone(),
            in_service_since: None,
            passed: false,
        })
    }

    fn judge(&self, canary: &mut CanaryStatus) -> Verdict {
        let name = canary.member.clone();
        let soak = SignedDuration::from_secs(self.desired.spec.update.canary.soak_seconds.into());
        let wanted = &self.desired.voter_revision;
        let pod = self.observed.pods.get(&name).filter(|pod| self.has_revision(&name, pod, wanted));
        let Some(pod) = pod.filter(|pod| !pod.terminating) else {
            canary.in_service_since = None;
            return Verdict::Waits(format!("{name} is the first to be restarted"));
        };
        if let Some(stuck) = pod.stuck.as_ref().filter(|_| self.is_older_than(pod, BROKEN_AFTER)) {
            return Verdict::Failed(format!("{name} cannot start: {}: {}", stuck.reason, stuck.message));
        }
        if pod.restarts >= RESTARTS || pod.restarts > 0 && canary.in_service_since.is_some() {
            let why = pod.last_words.as_ref().map(|said| format!(": {said}")).unwrap_or_default();
            return Verdict::Failed(format!("the program in {name} ended by itself{why}"));
        }
        let member = self.view.members().find(|member| member.name == name && self.view.is_sound(member));
        if member.is_none() {
            canary.in_service_since = None;
            if pod.unschedulable.is_none() && self.is_older_than(pod, soak + LATE_AFTER) {
                return Verdict::Failed(format!("{name} did not come into service"));
            }
            return Verdict::Waits(format!("{name}, the first that was restarted, is coming into service"));
        }
        let since = canary
            .in_service_since
            .get_or_insert_with(|| Time(super::super::conditions::whole_second(self.observed.now)));
        let until = since.0 + soak;
        if self.observed.now >= until {
            return Verdict::Passed;
        }
        Verdict::Waits(format!("{name} has the new template and is watched until {until}"))
    }

    fn stay_failed(&mut self, former: String) {
        let wanted = self.rollout.revision.clone().unwrap_or_default();
        let why = self.rollout.message.clone().unwrap_or_default();
        let rolls_back = self.desired.spec.update.canary.on_failure == CanaryFailure::Rollback;
        let (state, what) = if rolls_back {
            (RolloutState::RolledBack, "the former one is back")
        } else {
            (RolloutState::Failed, "nothing else is restarted")
        };
        self.rollout.state = state;
        self.waits_for_canary = !rolls_back;
        if rolls_back {
            self.revision = former;
        }
        let message = format!(
            "revision {wanted} failed on its canary ({why}), and {what}. Change the spec, or set the annotation {} to try again",
            crate::names::ANNOTATION_RESTARTED
        );
        self.canary_failed = Some(Obstacle::new(ObstacleReason::CanaryFailed, message));
    }

    /// After everything else is planned: how far the rollout is, and whether its template has proved itself.
    pub(super) fn conclude_rollout(&mut self) {
        let wanted = self.desired.voter_revision.clone();
        let pods = &self.observed.pods;
        let has_template = |name: &str, pod: &PodView| self.has_revision(name, pod, &wanted);
        let updated =
            pods.iter().filter(|(name, pod)| has_template(name, pod) && !self.needs_restart(pod)).count();
        let complete = pods.iter().all(|(name, pod)| has_template(name, pod)) && !self.waits_for_canary;
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let is_updated = updated == pods.len();
        (self.rollout.updated, self.rollout.total) = (count(updated), count(pods.len()));
        if self.revision != wanted {
            return;
        }
        let proved = self.phase == BootstrapPhase::Complete
            || self.plan.bootstrap.as_ref().is_some_and(|b| b.phase == BootstrapPhase::Complete);
        let sound = self.view.members().all(|member| self.view.is_sound(member))
            && self.view.voters().count() >= self.desired.voters
            && self.view.leader().is_some();
        if complete && proved && sound && self.canary_failed.is_none() {
            self.rollout.stable_revision = Some(wanted);
            self.rollout.canary = None;
            // Restarts for other resources may wait all the same.
            self.rollout.message = self.rollout.message.take().filter(|_| self.plan.pending.is_some());
        }
        if complete && is_updated && self.rollout.stable_revision.as_deref() == Some(&self.revision) {
            self.rollout.state = RolloutState::Complete;
        }
    }

    /// Notes whom the rollout begins with, or that it has begun.
    pub(super) fn begin_with(&mut self, name: &str) {
        if let Some(revision) = self.restarts_as.take() {
            self.rollout.revision = Some(revision);
        }
        if self.gated && self.rollout.canary.is_none() {
            self.rollout.canary =
                Some(CanaryStatus { member: name.to_owned(), in_service_since: None, passed: false });
        }
    }

    /// Revision of the template that pods of a role shall have now.
    pub(super) fn role_revision(&self, role: PodRole) -> String {
        role_revision(&self.revision, role)
    }
}
