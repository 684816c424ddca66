//! Voters that are too few to elect a leader: what is told of it, and the way out by a human's consent.

use super::{ActivityReason, Obstacle, ObstacleReason, Planner, Step};
use crate::cluster::conditions::loss_points;
use crate::cluster::validate::Desired;
use crate::cluster::view::{View, is_empty};
use crate::crd::{BootstrapPhase, LossPoint};
use client::admin::{Recover, quorum};
use jiff::SignedDuration;

/// A cluster without a leader for this long needs a human.
const QUORUM_LOST_AFTER: SignedDuration = SignedDuration::from_mins(5);

impl Planner<'_> {
    pub(super) fn plan_leaderless(&mut self) {
        let pods = &self.observed.pods;
        let all_empty = pods.keys().all(|pod| self.observed.reports.get(pod).is_some_and(is_empty));
        let lost = !pods.is_empty() && all_empty && pods.len() >= self.desired.voters;
        if lost && self.desired.is_in_memory() {
            // There is nothing that could come back.
            self.plan.cluster_id = Some(self.minted.to_owned());
            if let Some(bootstrap) = &mut self.plan.bootstrap {
                bootstrap.phase = BootstrapPhase::Chosen;
            }
            self.act(
                ActivityReason::Bootstrapping,
                "all members were lost with their memory: an empty cluster begins".into(),
            );
        } else if lost {
            self.obstruct(
                ObstacleReason::DataLost,
                "every member has an empty volume though the cluster had begun: bring the volumes back, or delete the cluster with its claims and create it again from a backup".into(),
            );
        }
        let consent = self.desired.spec.recovery.quorum_loss.consent.as_ref();
        self.plan.consent = consent.and_then(|consent| self.plan_quorum_recovery(consent));
        // Where nobody answers, pods that are Ready may serve all the same: the operator does not reach them.
        let may_serve = !self.view.is_known() && pods.values().any(|pod| pod.ready);
        let lacks_quorum = self.view.lacks_quorum() && !may_serve;
        let not_ready =
            self.observed.status.conditions.iter().find(|c| c.type_ == "Ready" && c.status == "False");
        let lasts = not_ready.is_some_and(|not_ready| {
            matches!(not_ready.reason.as_str(), "NoLeader" | "QuorumLost" | "FatalEntry")
                && self.observed.now.duration_since(not_ready.last_transition_time.0) >= QUORUM_LOST_AFTER
        });
        let is_met = self.plan.obstacle.is_some();
        if lasts || lacks_quorum && is_met {
            self.tell_lost_quorum(lasts);
        } else if let Some(consent) = self.plan.consent.clone().filter(|_| lacks_quorum) {
            self.act(ActivityReason::RecoveringQuorum, consent);
        }
    }

    /// Comes before what else needs a human, which may be why the quorum is lost, but for what says more of the same.
    fn tell_lost_quorum(&mut self, lasts: bool) {
        let other = self.plan.obstacle.take();
        if let Some(ObstacleReason::FatalEntry | ObstacleReason::DataLost) = other.as_ref().map(|o| o.reason)
        {
            self.plan.obstacle = other;
            return;
        }
        let told = explain(self.desired, &self.view, self.plan.consent.as_deref());
        let message = if lasts { format!("no leader for more than five minutes: {told}") } else { told };
        let message = beside(message, other.as_ref());
        self.plan.obstacle = Some(Obstacle::new(ObstacleReason::QuorumLost, message));
    }

    /// A lost quorum is recovered only with a consent that names what a survivor holds, and only when no other voter can
    /// come back: two halves of a cluster that both go on would be worse than none. Says what becomes of it.
    fn plan_quorum_recovery(&mut self, consent: &LossPoint) -> Option<String> {
        if self.view.serves() {
            return None;
        }
        let points = loss_points(&self.view);
        if points.is_empty() {
            let (answering, voters) = (self.view.answering_voters(), self.view.voters().count());
            return Some(match self.view.lacks_quorum() {
                true => "recovery.quorumLoss.consent is given, and no voter answers that could go on".into(),
                false => format!(
                    "recovery.quorumLoss.consent is not carried out while {answering} of {voters} voters answer: they elect a \
                     leader once they can talk to each other"
                ),
            });
        }
        let Some(report) = self.observed.reports.get(&consent.survivor).filter(|_| points.contains(consent))
        else {
            let offers: Vec<_> = points
                .iter()
                .map(|p| format!("{{survivor: {}, index: {}, term: {}}}", p.survivor, p.index, p.term))
                .collect();
            return Some(format!(
                "recovery.quorumLoss.consent is none of what can be had: {}",
                offers.join(", ")
            ));
        };
        let (node_id, index, term) = (report.node_id, report.last_log_index, report.held_term());
        let others = self.view.voters().filter(|voter| voter.node_id != node_id);
        let feared: Vec<&str> =
            others.filter(|voter| !self.view.lost_its_volume(voter)).map(|v| v.name.as_str()).collect();
        if !feared.is_empty() {
            return Some(format!(
                "recovery.quorumLoss.consent is given, and {} may still come back: a voter counts as lost once its volume is, or once neither its pod nor its claim is there",
                feared.join(", ")
            ));
        }
        let cluster_id = self.plan.cluster_id.clone()?;
        let pod = consent.survivor.clone();
        let carried_out = format!("{pod} goes on alone, as was agreed to");
        self.safe(Step::RecoverQuorum { pod, body: Recover { cluster_id, node_id, index, term } });
        Some(carried_out)
    }
}

/// What is lost, what is left, and what to do; or what becomes of the `consent` to go on with what is left.
pub(in crate::cluster) fn explain(desired: &Desired, view: &View<'_>, consent: Option<&str>) -> String {
    let points = loss_points(view);
    let offers: Vec<_> = points
        .iter()
        .map(|p| format!("{} holds everything up to index {} of term {}; ", p.survivor, p.index, p.term))
        .collect();
    let advice = match consent {
        Some(consent) => consent.to_owned(),
        None if !view.lacks_quorum() => "look whether they reach each other on port 4002".to_owned(),
        None if points.is_empty() => "bring their pods and volumes back".to_owned(),
        None => format!(
            "bring pods and volumes of the others back, or, where that cannot be, consent to go on without what only they \
             hold: kubectl sqlite recover-quorum {} --survivor MEMBER",
            desired.name.name
        ),
    };
    format!("{}{}{}{}{advice}", counted(desired, view), view.lost_volumes(), silent(view), offers.concat())
}

fn counted(desired: &Desired, view: &View<'_>) -> String {
    if !view.is_known() {
        return format!(
            "no member answers, and of {} voters {} are needed; ",
            desired.voters,
            quorum(desired.voters)
        );
    }
    let (answering, voters) = (view.answering_voters(), view.voters().count());
    if view.lacks_quorum() {
        return format!("{answering} of {voters} voters answer, {} are needed; ", quorum(voters));
    }
    format!(
        "{answering} of {voters} voters answer, of which {} must be able to talk to each other; ",
        quorum(voters)
    )
}

/// Which voters do not answer and may come back, as a sentence; empty: none.
fn silent(view: &View<'_>) -> String {
    let silent = view.voters().filter(|voter| view.report(voter).is_none() && !view.lost_its_volume(voter));
    let names: Vec<&str> = silent.map(|voter| voter.name.as_str()).collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => format!("{name} does not answer; "),
        names => format!("{} do not answer; ", names.join(", ")),
    }
}

/// With what else needs a human.
pub(in crate::cluster) fn beside(message: String, other: Option<&Obstacle>) -> String {
    match other {
        Some(other) => format!("{message}; besides, {}", other.message),
        None => message,
    }
}
