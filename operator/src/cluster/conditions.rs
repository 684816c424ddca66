//! Conditions of a cluster, as kstatus, `kubectl wait` and people read them. Pure.

use super::certificates;
use super::observed::Observed;
use super::plan::{ActivityReason, ObstacleReason, Plan, bucket, counts_for_growth, explain, lost_quorum};
use super::validate::Desired;
use super::view::View;
use crate::crd::{BootstrapPhase, LossPoint, Spread, VolumeBucket, number};
use crate::error::{Rejection, RejectionReason};
use client::admin::{ConsistencyState, FatalEntry, Member, quorum};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::collections::BTreeSet;

/// The one reason with which a condition is neither true nor false.
const CHECKSUM_UNKNOWN: &str = "ChecksumUnknown";
/// The spec cannot be had.
const INVALID_SPEC: &str = RejectionReason::InvalidSpec.as_str();

/// A condition in the making.
pub(crate) struct Draft {
    pub(crate) kind: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What holds. Conditions that are there only while true (Reconciling, Stalled, Paused) are left out otherwise.
pub(super) fn conditions(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    rejection: Option<&Rejection>,
) -> Vec<Condition> {
    if desired.spec.paused {
        return paused(desired, observed, plan);
    }
    let mut drafts = vec![accepted(desired, observed, plan)];
    drafts.extend(lasting(desired, observed, plan));
    drafts.extend(super::backups::health::conditions(desired, observed, plan));
    drafts.extend(certificates::health::condition(desired, observed));
    if let Some(stalled) = stalled(desired, plan, rejection) {
        drafts.push(stalled);
    } else if let Some(activity) = &plan.activity {
        let (reason, message) = (activity.reason.as_str(), activity.message.clone());
        drafts.push(Draft { kind: "Reconciling", holds: true, reason, message });
    }
    if let Some(pending) = &plan.pending {
        let (reason, message) = (pending.reason.as_str(), pending.message.clone());
        drafts.push(Draft { kind: "UpdatePending", holds: true, reason, message });
    }
    let carried = certificates::health::carried_over(desired, observed)
        .map(|condition| Condition { observed_generation: Some(desired.generation), ..condition });
    let drawn = drafts.into_iter().map(|draft| finish(draft, observed, desired.generation));
    drawn.chain(carried).collect()
}

/// Conditions that are always there, but for Accepted, as they are observed.
fn lasting(desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<Draft> {
    let view = View::of(observed, plan.cluster_id.as_deref());
    let serving = if desired.spec.hibernated {
        hibernated(observed)
    } else {
        [
            ready(desired, observed, plan, &view),
            available(observed, &view),
            fault_tolerant(desired, observed, &view),
        ]
    };
    serving.into_iter().chain([storage_healthy(desired, observed, plan), consistent(observed)]).collect()
}

/// What needs a human: what the plan met, and what others refuse; but before all else a spec that cannot be had, because
/// nothing else comes of what it asks for.
fn stalled(desired: &Desired, plan: &Plan, rejection: Option<&Rejection>) -> Option<Draft> {
    let met = plan.obstacle.as_ref().map(|obstacle| (obstacle.reason.as_str(), obstacle.message.as_str()));
    let refused = rejection.map(|rejection| (rejection.reason.as_str(), rejection.message.as_str()));
    let messages: Vec<&str> = [met, refused].into_iter().flatten().map(|(_, message)| message).collect();
    let other = messages.join("; ");
    let (reason, message) = match (refusal(desired), met.or(refused)) {
        (Some(refusal), Some(_)) => (INVALID_SPEC, format!("{refusal}; besides, {other}")),
        (Some(refusal), None) => (INVALID_SPEC, refusal),
        (None, Some((reason, _))) => (reason, other),
        (None, None) => return None,
    };
    Some(Draft { kind: "Stalled", holds: true, reason, message })
}

/// Why the object's own spec cannot be had, where another one counts.
fn refusal(desired: &Desired) -> Option<String> {
    let why = desired.refused.as_ref()?;
    Some(format!("{why}; until that is corrected, the spec counts that was accepted last"))
}

fn accepted(desired: &Desired, observed: &Observed, plan: &Plan) -> Draft {
    if let Some(message) = refusal(desired) {
        return Draft { kind: "Accepted", holds: false, reason: INVALID_SPEC, message };
    }
    if let Some(missing) = plan.restore.missing.as_ref().or(observed.missing_secret.as_ref()) {
        let message = missing.clone();
        return Draft { kind: "Accepted", holds: false, reason: "RefNotFound", message };
    }
    Draft { kind: "Accepted", holds: true, reason: "Accepted", message: "the spec is valid".into() }
}

/// As asked: nothing serves, and that is what Ready means then.
fn hibernated(observed: &Observed) -> [Draft; 3] {
    let gone = observed.pods.is_empty();
    let message = if gone { "hibernated: the volumes are kept" } else { "members are on their way out" };
    let draft = |kind, holds| Draft { kind, holds, reason: "Hibernated", message: message.into() };
    [draft("Ready", gone), draft("Available", false), draft("FaultTolerant", false)]
}

fn storage_healthy(desired: &Desired, observed: &Observed, plan: &Plan) -> Draft {
    let kind = "StorageHealthy";
    let draft = |holds, reason, message: String| Draft { kind, holds, reason, message };
    let filling: Vec<&str> = observed
        .reports
        .iter()
        .filter(|(_, report)| {
            report.storage.is_some_and(|usage| bucket(desired, usage) != VolumeBucket::Roomy)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let wanted = super::validate::parse_quantity(&plan.volume_size);
    let pending: Vec<&str> = observed
        .claims
        .iter()
        .filter(|(_, claim)| {
            let allocated = claim.allocated.as_deref().and_then(super::validate::parse_quantity);
            allocated.is_some() && !claim.terminating && allocated < wanted
        })
        .filter(|(name, _)| counts_for_growth(desired, observed, plan.sizes.as_ref(), name))
        .map(|(name, _)| name.as_str())
        .collect();
    if !pending.is_empty() {
        let message = format!("the volumes of {} are growing to {}", pending.join(", "), plan.volume_size);
        return draft(false, "ResizePending", message);
    }
    if filling.is_empty() {
        return roomy();
    }
    let names = filling.join(", ");
    match desired.volume_limit {
        Some(limit) if wanted >= Some(limit) => {
            let message =
                format!("the volumes of {names} are nearly full, and storage.autogrow.maxSize is reached");
            draft(false, "AutogrowAtMax", message)
        }
        _ => draft(
            false,
            "NearFull",
            format!("the volumes of {names} are nearly full: raise storage.size, or set storage.autogrow"),
        ),
    }
}

fn roomy() -> Draft {
    let message = "no volume is nearly full".into();
    Draft { kind: "StorageHealthy", holds: true, reason: "Roomy", message }
}

/// Whether the members' databases are equal, as the members find out by themselves: false once one is known to differ.
fn consistent(observed: &Observed) -> Draft {
    let draft = |holds, reason, message| Draft { kind: "Consistent", holds, reason, message };
    let found = || {
        observed
            .reports
            .iter()
            .filter_map(|(name, report)| Some((name.as_str(), report.consistency.as_ref()?)))
    };
    let told = |state| {
        let names: Vec<&str> =
            found().filter(|(_, found)| found.state == state).map(|(name, _)| name).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = told(ConsistencyState::Divided) {
        let message = format!(
            "{names} find that no state of the database has a majority, so that none is taken for right: compare them, \
             and delete the volumes of those that are wrong"
        );
        return draft(false, "Divided", message);
    }
    if let Some(names) = told(ConsistencyState::Damaged) {
        let has_others = found().any(|(_, found)| found.state != ConsistencyState::Damaged);
        let then = if has_others {
            "the database is replaced"
        } else {
            "no other member is there whose database could take its place: restore a backup"
        };
        let message = format!("pages on the disks of {names} are not what was written there; {then}");
        return draft(false, "PageDamaged", message);
    }
    if let Some(names) = told(ConsistencyState::Minority) {
        let message = format!("the database of {names} is not what most voters have, and is replaced");
        return draft(false, "StateDiffers", message);
    }
    if let Some(names) = told(ConsistencyState::OthersDiffer) {
        let message = format!("{names} find that another member's database is not what most voters have");
        return draft(false, "StateDiffers", message);
    }
    let unknown: Vec<&str> = found()
        .filter(|(_, found)| found.state == ConsistencyState::Unknown && found.message.is_some())
        .map(|(name, _)| name)
        .collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        let message = format!(
            "the database of {names} cannot be compared, for not all of its pages could be read for an hour: look at \
             its disk and at what it logged"
        );
        return draft(false, CHECKSUM_UNKNOWN, message);
    }
    match told(ConsistencyState::Consistent) {
        Some(_) => {
            draft(true, "ChecksumsAgree", "the members that were compared have the same database".into())
        }
        None => draft(
            true,
            "NotCompared",
            "nothing is known to differ; the databases were not compared yet".into(),
        ),
    }
}

/// Conditions of an object whose spec cannot be had, and for which no other one counts: nothing was observed, so what was known
/// stays, and what never was is as it is of a cluster that has not begun.
pub(super) fn refused(
    before: &[Condition],
    generation: Option<i64>,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let generation = generation.unwrap_or_default();
    let draft = |kind, holds| Draft { kind, holds, reason: INVALID_SPEC, message: message.to_owned() };
    let nothing = Observed::default();
    let drafts = [
        draft("Accepted", false),
        draft("Ready", false),
        draft("Available", false),
        draft("FaultTolerant", false),
        roomy(),
        consistent(&nothing),
        draft("Stalled", true),
    ];
    let passing = ["Accepted", "Stalled", "Reconciling", "UpdatePending", "Paused"];
    let kept = before.iter().filter(|condition| !passing.contains(&condition.type_.as_str()));
    let kept = kept.map(|condition| of_generation(condition, generation));
    let is_known =
        |kind: &str| !passing.contains(&kind) && before.iter().any(|condition| condition.type_ == kind);
    let drafts = drafts.into_iter().filter(|draft| !is_known(draft.kind));
    drafts.map(|draft| dated(draft, before, now, generation)).chain(kept).collect()
}

/// The same, of another generation of the object.
fn of_generation(condition: &Condition, generation: i64) -> Condition {
    Condition { observed_generation: Some(generation), ..condition.clone() }
}

/// What was last known, and why nothing newer is: `rejection` where that needs a human, `message` where it may pass.
pub(super) fn unseen(
    before: &[Condition],
    generation: Option<i64>,
    rejection: Option<&Rejection>,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let (kind, reason) = match rejection {
        Some(rejection) => ("Stalled", rejection.reason.as_str()),
        None => ("Reconciling", ActivityReason::Retrying.as_str()),
    };
    let finish = |kind, holds| {
        let draft = Draft { kind, holds, reason, message: message.to_owned() };
        dated(draft, before, now, generation.unwrap_or_default())
    };
    let kept = before.iter().filter(|c| !matches!(c.type_.as_str(), "Stalled" | "Reconciling")).cloned();
    // A cluster of which nothing was ever seen is not ready.
    let ready = (!before.iter().any(|c| c.type_ == "Ready")).then(|| finish("Ready", false));
    kept.chain(ready).chain([finish(kind, true)]).collect()
}

/// What was last known, and that nothing is done. What never was known is as it is observed.
fn paused(desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<Condition> {
    let draft = Draft {
        kind: "Paused",
        holds: true,
        reason: "Paused",
        message: "spec.paused is true: nothing is done".into(),
    };
    let refused = refusal(desired);
    let is_known = |condition: &&Condition| match condition.type_.as_str() {
        "Accepted" | "Paused" | "Reconciling" => false,
        "Stalled" => refused.is_none() && condition.reason != INVALID_SPEC,
        _ => true,
    };
    let known: Vec<Condition> = observed
        .status
        .conditions
        .iter()
        .filter(is_known)
        .map(|condition| of_generation(condition, desired.generation))
        .collect();
    let mut unknown = lasting(desired, observed, plan);
    unknown.retain(|draft| known.iter().all(|condition| condition.type_ != draft.kind));
    let stalled = refused.as_ref().and_then(|_| stalled(desired, plan, None));
    let finish = |draft| finish(draft, observed, desired.generation);
    [finish(accepted(desired, observed, plan))]
        .into_iter()
        .chain(known)
        .chain(unknown.into_iter().chain(stalled).chain([draft]).map(finish))
        .collect()
}

fn ready(desired: &Desired, observed: &Observed, plan: &Plan, view: &View<'_>) -> Draft {
    let kind = "Ready";
    let complete = plan.bootstrap.as_ref().is_some_and(|b| b.phase == BootstrapPhase::Complete);
    let begun = plan.bootstrap.as_ref().is_some_and(|b| b.phase >= BootstrapPhase::Initialised);
    let voters = view.voters().count();
    if let Some(entry) = view.fatal_entry() {
        return held_up(desired, plan, view, entry);
    }
    if begun && !view.serves() && view.is_known() {
        return unserved(desired, plan, view);
    }
    if let (false, Some(obstacle)) = (view.serves(), &plan.obstacle) {
        return Draft {
            kind,
            holds: false,
            reason: obstacle.reason.as_str(),
            message: obstacle.message.clone(),
        };
    }
    if begun && !view.serves() {
        return Draft { kind, holds: false, reason: "NoLeader", message: no_leader(plan) };
    }
    if plan.restore.is_pending() {
        let message = plan.activity.as_ref().map_or_else(String::new, |activity| activity.message.clone());
        let message = if message.is_empty() { "a backup is on its way".into() } else { message };
        return Draft { kind, holds: false, reason: "Restoring", message };
    }
    if plan.restore.has_failed() {
        let message = "the cluster does not have what it is to begin with".into();
        return Draft { kind, holds: false, reason: "RestoreFailed", message };
    }
    if let Some((name, percent)) = observed.restores.iter().next() {
        let message = format!("SqliteRestore {name} is {percent} % there");
        return Draft { kind, holds: false, reason: "Restoring", message };
    }
    if !complete {
        let message = format!("{voters} of {} voters have joined", desired.voters);
        return Draft { kind, holds: false, reason: "Bootstrapping", message };
    }
    Draft { kind, holds: true, reason: "Serving", message: "linearizable reads and writes are served".into() }
}

/// Members are known, and they serve nothing. That they are too few comes before what else needs a human.
fn unserved(desired: &Desired, plan: &Plan, view: &View<'_>) -> Draft {
    let kind = "Ready";
    let obstacle = plan.obstacle.as_ref();
    if let Some(lost) = obstacle.filter(|obstacle| obstacle.reason == ObstacleReason::QuorumLost) {
        let (reason, message) = (lost.reason.as_str(), lost.message.clone());
        return Draft { kind, holds: false, reason, message };
    }
    let (reason, message) = if view.lacks_quorum() {
        ("QuorumLost", lost_quorum::explain(desired, view, plan.consent.as_deref()))
    } else {
        ("NoLeader", no_leader(plan))
    };
    Draft { kind, holds: false, reason, message: lost_quorum::beside(message, obstacle) }
}

fn no_leader(plan: &Plan) -> String {
    let message = "the voters have no leader at this moment";
    plan.consent.as_ref().map_or_else(|| message.to_owned(), |consent| format!("{message}; {consent}"))
}

/// Nothing is written because of an entry of the log.
fn held_up(desired: &Desired, plan: &Plan, view: &View<'_>, entry: FatalEntry) -> Draft {
    let obstacle = plan.obstacle.as_ref().filter(|obstacle| obstacle.reason == ObstacleReason::FatalEntry);
    let message = match obstacle {
        Some(obstacle) => obstacle.message.clone(),
        None if view.entry_fatal_to_all().is_some() => explain(&desired.name, entry),
        None => format!(
            "entry {} ended the leader {} times in a row, and another member has applied it: those that have not take its state",
            entry.index, entry.crashes
        ),
    };
    Draft { kind: "Ready", holds: false, reason: "FatalEntry", message }
}

/// Why no linearizable reads and writes are served.
fn why_unserved(view: &View<'_>) -> &'static str {
    if view.fatal_entry().is_some() { "FatalEntry" } else { "NoLeader" }
}

fn available(observed: &Observed, view: &View<'_>) -> Draft {
    let kind = "Available";
    let reachable = observed.pods.values().any(|pod| pod.ready && pod.serving);
    if view.serves() && reachable {
        return Draft { kind, holds: true, reason: "Serving", message: "traffic can be served".into() };
    }
    let reason = if view.serves() { "NoEndpoints" } else { why_unserved(view) };
    Draft { kind, holds: false, reason, message: "traffic cannot be served".into() }
}

fn fault_tolerant(desired: &Desired, observed: &Observed, view: &View<'_>) -> Draft {
    let kind = "FaultTolerant";
    let voters = view.voters().count();
    let healthy = view.healthy_voters();
    let needed = quorum(voters);
    let message = format!("{healthy} of {voters} voters are healthy, {needed} are needed");
    if view.leader().is_none() || view.fatal_entry().is_some() {
        return Draft { kind, holds: false, reason: why_unserved(view), message };
    }
    if voters <= 2 {
        return Draft { kind, holds: false, reason: "TooFewVoters", message };
    }
    if healthy <= needed {
        return Draft { kind, holds: false, reason: "VotersUnhealthy", message };
    }
    if let Some(zone) = needed_zone(desired, observed, view) {
        let message = format!("{message}; without zone {zone} fewer would be left");
        return Draft { kind, holds: false, reason: "ZoneNeeded", message };
    }
    let message = if desired.is_in_memory() {
        format!("{message}; what they hold is in memory and ends with them")
    } else {
        message
    };
    Draft { kind, holds: true, reason: "QuorumSlack", message }
}

/// A zone without which no quorum would be healthy, where members must be spread over zones and tell theirs.
fn needed_zone(desired: &Desired, observed: &Observed, view: &View<'_>) -> Option<String> {
    if desired.spec.placement.spread != Spread::Required {
        return None;
    }
    let zone = |member: &Member| observed.pods.get(&member.name).and_then(|pod| pod.zone.clone());
    let healthy: Vec<Option<String>> =
        view.voters().filter(|member| view.is_healthy(member)).map(zone).collect();
    let needed = quorum(view.voters().count());
    let zones: BTreeSet<&String> = healthy.iter().flatten().collect();
    let without = |zone: &String| healthy.iter().filter(|other| other.as_ref() != Some(zone)).count();
    zones.into_iter().find(|zone| without(zone) < needed).cloned()
}

fn finish(draft: Draft, observed: &Observed, generation: i64) -> Condition {
    dated(draft, &observed.status.conditions, observed.now, generation)
}

/// The condition, whose transition is dated by the last time that its status flipped.
pub(crate) fn dated(draft: Draft, before: &[Condition], now: Timestamp, generation: i64) -> Condition {
    let status = match draft.holds {
        _ if draft.reason == CHECKSUM_UNKNOWN => "Unknown",
        true => "True",
        false => "False",
    };
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

/// Without a quorum: up to where the log of each voter reaches that answers.
pub(super) fn loss_points(view: &View<'_>) -> Vec<LossPoint> {
    let has_leader = view.leader().is_some() || view.serves();
    if has_leader || !view.lacks_quorum() {
        return Vec::new();
    }
    view.voters()
        .filter_map(|voter| view.report(voter))
        .map(|report| LossPoint {
            survivor: report.name.clone(),
            index: number(report.last_log_index),
            term: number(report.held_term()),
        })
        .collect()
}

/// As the server will give it back.
pub(crate) fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
