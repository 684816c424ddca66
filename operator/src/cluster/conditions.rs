//! Conditions of a cluster, as kstatus, `kubectl wait` and people read them. Pure.

use super::observed::Observed;
use super::plan::Plan;
use super::validate::Desired;
use super::view::{View, quorum};
use crate::crd::BootstrapPhase;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition in the making.
struct Draft {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// What holds. Conditions that are there only while true (Reconciling, Stalled, Paused) are left out otherwise.
pub(super) fn conditions(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    resize_rejection: Option<&str>,
) -> Vec<Condition> {
    if desired.spec.paused {
        return paused(desired, observed);
    }
    let view = View::of(observed, plan.cluster_id.as_deref());
    let mut drafts = vec![
        Draft { kind: "Accepted", holds: true, reason: "Accepted", message: "the spec is valid".into() },
        ready(desired, plan, &view),
        available(observed, &view),
        fault_tolerant(&view),
    ];
    if let Some(obstacle) = &plan.obstacle {
        let (reason, message) = (obstacle.reason.as_str(), obstacle.message.clone());
        drafts.push(Draft { kind: "Stalled", holds: true, reason, message });
    } else if let Some(message) = resize_rejection {
        let message = message.to_owned();
        drafts.push(Draft { kind: "Stalled", holds: true, reason: "ResizeRejected", message });
    } else if let Some(activity) = &plan.activity {
        let (reason, message) = (activity.reason.as_str(), activity.message.clone());
        drafts.push(Draft { kind: "Reconciling", holds: true, reason, message });
    }
    drafts.into_iter().map(|draft| finish(draft, observed, desired.generation)).collect()
}

/// Conditions of an object whose spec cannot be had.
pub(super) fn refused(
    before: &[Condition],
    generation: Option<i64>,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let drafts = [
        Draft { kind: "Accepted", holds: false, reason: "InvalidSpec", message: message.to_owned() },
        Draft { kind: "Ready", holds: false, reason: "InvalidSpec", message: message.to_owned() },
        Draft { kind: "Stalled", holds: true, reason: "InvalidSpec", message: message.to_owned() },
    ];
    drafts.into_iter().map(|draft| dated(draft, before, now, generation.unwrap_or_default())).collect()
}

/// What was last known, and that nothing is done.
fn paused(desired: &Desired, observed: &Observed) -> Vec<Condition> {
    let draft = Draft {
        kind: "Paused",
        holds: true,
        reason: "Paused",
        message: "spec.paused is true: nothing is done".into(),
    };
    let kept = observed
        .status
        .conditions
        .iter()
        .filter(|condition| !matches!(condition.type_.as_str(), "Paused" | "Reconciling"))
        .cloned()
        .map(|condition| Condition { observed_generation: Some(desired.generation), ..condition });
    kept.chain([finish(draft, observed, desired.generation)]).collect()
}

fn ready(desired: &Desired, plan: &Plan, view: &View<'_>) -> Draft {
    let kind = "Ready";
    let complete = plan.bootstrap.as_ref().is_some_and(|b| b.phase == BootstrapPhase::Complete);
    let begun = plan.bootstrap.as_ref().is_some_and(|b| b.phase >= BootstrapPhase::Initialised);
    let voters = view.voters().count();
    if let (false, Some(obstacle)) = (view.serves(), &plan.obstacle) {
        return Draft {
            kind,
            holds: false,
            reason: obstacle.reason.as_str(),
            message: obstacle.message.clone(),
        };
    }
    if begun && !view.serves() {
        if view.is_known() && view.answering_voters() < quorum(voters) {
            let answering = view.answering_voters();
            let message = format!("{answering} of {voters} voters answer; {} are needed", quorum(voters));
            return Draft { kind, holds: false, reason: "QuorumLost", message };
        }
        let message = "the voters have no leader at this moment".into();
        return Draft { kind, holds: false, reason: "NoLeader", message };
    }
    if !complete {
        let message = format!("{voters} of {} voters have joined", desired.voters);
        return Draft { kind, holds: false, reason: "Bootstrapping", message };
    }
    Draft { kind, holds: true, reason: "Serving", message: "linearizable reads and writes are served".into() }
}

fn available(observed: &Observed, view: &View<'_>) -> Draft {
    let kind = "Available";
    let reachable = observed.pods.values().any(|pod| pod.ready && pod.serving);
    if view.serves() && reachable {
        return Draft { kind, holds: true, reason: "Serving", message: "traffic can be served".into() };
    }
    let reason = if view.serves() { "NoEndpoints" } else { "NoLeader" };
    Draft { kind, holds: false, reason, message: "traffic cannot be served".into() }
}

fn fault_tolerant(view: &View<'_>) -> Draft {
    let kind = "FaultTolerant";
    let voters = view.voters().count();
    let healthy = view.healthy_voters();
    let needed = quorum(voters);
    let message = format!("{healthy} of {voters} voters are healthy, {needed} are needed");
    if view.leader().is_none() {
        return Draft { kind, holds: false, reason: "NoLeader", message };
    }
    if voters <= 2 {
        return Draft { kind, holds: false, reason: "TooFewVoters", message };
    }
    let holds = healthy > needed;
    Draft { kind, holds, reason: if holds { "QuorumSlack" } else { "VotersUnhealthy" }, message }
}

fn finish(draft: Draft, observed: &Observed, generation: i64) -> Condition {
    dated(draft, &observed.status.conditions, observed.now, generation)
}

/// The condition, whose transition is dated by the last time that its status flipped.
fn dated(draft: Draft, before: &[Condition], now: Timestamp, generation: i64) -> Condition {
    let status = if draft.holds { "True" } else { "False" };
    let since = before
        .iter()
        .find(|condition| condition.type_ == draft.kind && condition.status == status)
        .map_or_else(|| whole_second(now), |condition| condition.last_transition_time.0);
    Condition {
        type_: draft.kind.to_owned(),
        status: status.to_owned(),
        reason: draft.reason.to_owned(),
        message: draft.message,
        last_transition_time: Time(since),
        observed_generation: Some(generation),
    }
}

/// As the server will give it back.
pub(super) fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
