//! Tells: the status is made from what was seen and planned, and written if it differs from what was written.

use super::conditions::{self, whole_second};
use super::observed::Observed;
use super::plan::{Plan, bucket};
use super::validate::Desired;
use super::version::Version;
use super::view::View;
use crate::clock;
use crate::context::Context;
use crate::crd::{
    ChecksumState, FatalEntryStatus, Lag, LeaderStatus, MemberRole, MemberStatus, QuorumStatus, RolloutState,
    SqliteCluster, SqliteClusterStatus, StorageStatus, VersionStatus, number,
};
use crate::error::{Error, Rejection};
use crate::names::{FIELD_MANAGER, PORT_HTTP, PodRole};
use crate::status::StatusError;
use client::admin::{ConsistencyState, FatalEntry, Member, MemberReport, quorum};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

/// Reason of the condition DisruptionTarget of a pod that is evicted, as a drain does. Lost Kubernetes nodes, preemption and
/// the kubelet have others; who led on such a pod did not hand over.
const EVICTED: &str = "EvictionByEvictionAPI";

/// The status of a cluster. Pure.
pub fn status(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    rejection: Option<&Rejection>,
) -> SqliteClusterStatus {
    let conditions = conditions::conditions(desired, observed, plan, rejection);
    let before = &observed.status;
    if desired.spec.paused {
        return SqliteClusterStatus {
            observed_generation: Some(desired.generation),
            conditions,
            ..before.clone()
        };
    }
    let view = View::of(observed, plan.cluster_id.as_deref());
    // A hibernated cluster has no members to ask: who they were is what it wakes with. Its pods end one after the other,
    // so those that are left are not all of them.
    let members = if desired.spec.hibernated && !view.is_known() {
        before.members.iter().cloned().map(|m| MemberStatus { ready: false, lag: None, ..m }).collect()
    } else {
        members(desired, observed, &view)
    };
    let ready_voters = count(view.voters().filter(|member| view.is_sound(member)).count());
    let is_replica =
        |member: &&Member| matches!(desired.name.parse_member(&member.name), Some((PodRole::ReadReplica, _)));
    SqliteClusterStatus {
        observed_generation: Some(desired.generation),
        cluster_id: plan.cluster_id.clone(),
        bootstrap: plan.bootstrap.clone(),
        version: version(desired, observed, plan),
        template_revision: Some(desired.voter_revision.clone()),
        peer_traffic: plan.peer_traffic.or(before.peer_traffic),
        client_traffic: plan.client_traffic.or(before.client_traffic),
        certificates: super::certificates::health::status(desired, observed),
        voters: count(view.voters().count()),
        ready_voters,
        voters_ready: Some(format!("{ready_voters}/{}", desired.voters)),
        read_replicas: count(view.learners().filter(is_replica).count()),
        ready_replicas: count(
            view.learners().filter(is_replica).filter(|member| view.is_sound(member)).count(),
        ),
        selector: Some(selector(desired)),
        leader: leader(observed, &view),
        quorum: view.is_known().then(|| quorum_status(&view)),
        fatal_entry: view.entry_fatal_to_all().map(fatal_entry),
        members,
        endpoints: desired
            .spec
            .services
            .iter()
            .map(|service| {
                let host = desired.name.service(&service.name);
                let scheme = if plan.tells_tls { "https" } else { "http" };
                let base = format!("{scheme}://{host}.{}.svc:{PORT_HTTP}", desired.name.namespace);
                (service.name.clone(), base)
            })
            .collect(),
        storage: Some(StorageStatus {
            requested: if plan.volume_size.is_empty() {
                desired.spec.storage.size.clone()
            } else {
                plan.volume_size.clone()
            },
            allocated: plan.volume_allocated.clone(),
        }),
        rollout: plan.rollout.clone(),
        backup: super::backups::health::status(desired, observed, plan),
        restore: plan.restore.status.clone().or_else(|| before.restore.clone()),
        orphaned_volumes: orphaned(desired, observed, plan),
        conditions,
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn selector(desired: &Desired) -> String {
    let labels = desired.name.selector(Some(PodRole::ReadReplica));
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn leader(observed: &Observed, view: &View<'_>) -> Option<LeaderStatus> {
    let leader = view.leader()?;
    let term = number(leader.term);
    let same = observed.status.leader.clone().filter(|old| old.member == leader.name && old.term == term);
    Some(same.unwrap_or_else(|| LeaderStatus {
        member: leader.name.clone(),
        term,
        since_time: Time(whole_second(observed.now)),
    }))
}

fn quorum_status(view: &View<'_>) -> QuorumStatus {
    let size = quorum(view.voters().count());
    let healthy = view.healthy_voters();
    QuorumStatus {
        size: count(size),
        healthy_voters: count(healthy),
        tolerable_failures: count(healthy.saturating_sub(size)),
        loss_points: conditions::loss_points(view),
    }
}

fn fatal_entry(entry: FatalEntry) -> FatalEntryStatus {
    let FatalEntry { index, term, crashes } = entry;
    FatalEntryStatus { index: number(index), term: number(term), crashes: number(crashes) }
}

fn members(desired: &Desired, observed: &Observed, view: &View<'_>) -> Vec<MemberStatus> {
    let mut members: Vec<MemberStatus> =
        view.members().map(|member| of_member(desired, observed, view, member)).collect();
    for (name, pod) in &observed.pods {
        if members.iter().any(|member| member.name == *name) {
            continue;
        }
        let report = observed.reports.get(name);
        members.push(MemberStatus {
            name: name.clone(),
            role: MemberRole::Candidate,
            node_id: report.map(|report| report.node_id.to_string()),
            zone: pod.zone.clone(),
            kubernetes_node: pod.node.clone(),
            version: report.map(|report| report.version.clone()),
            ready: pod.ready,
            lag: None,
            checksum: report.and_then(checksum),
            volume: report.and_then(|report| report.storage).map(|usage| bucket(desired, usage)),
            fenced: desired.is_fenced(name),
            message: report.and_then(|report| report.message.clone()),
        });
    }
    members.sort_by_key(|member| (desired.name.parse_member(&member.name), member.name.clone()));
    members.dedup_by(|later, earlier| later.name == earlier.name);
    members
}

fn of_member(desired: &Desired, observed: &Observed, view: &View<'_>, member: &Member) -> MemberStatus {
    let pod = observed.pods.get(&member.name);
    let report = view.report(member);
    let is_replica = matches!(desired.name.parse_member(&member.name), Some((PodRole::ReadReplica, _)));
    MemberStatus {
        name: member.name.clone(),
        role: match (member.voter, is_replica) {
            (true, _) => MemberRole::Voter,
            (false, true) => MemberRole::ReadReplica,
            (false, false) => MemberRole::Learner,
        },
        node_id: Some(member.node_id.to_string()),
        zone: pod.and_then(|pod| pod.zone.clone()),
        kubernetes_node: pod.and_then(|pod| pod.node.clone()),
        version: report.map(|report| report.version.clone()),
        ready: pod.is_some_and(|pod| pod.ready) && report.is_some(),
        lag: view.leader().map(|_| match (view.is_heard(member), view.has_caught_up(member)) {
            (false, _) => Lag::Unheard,
            (true, false) => Lag::Behind,
            (true, true) => Lag::CaughtUp,
        }),
        checksum: report.and_then(checksum),
        volume: report.and_then(|report| report.storage).map(|usage| bucket(desired, usage)),
        fenced: desired.is_fenced(&member.name),
        message: report.and_then(|report| report.message.clone()),
    }
}

/// In a word: the entry after which was compared moves.
fn checksum(report: &MemberReport) -> Option<ChecksumState> {
    match report.consistency.as_ref()?.state {
        ConsistencyState::Unknown => None,
        ConsistencyState::Consistent => Some(ChecksumState::Agrees),
        ConsistencyState::OthersDiffer => Some(ChecksumState::OthersDiffer),
        ConsistencyState::Minority => Some(ChecksumState::Differs),
        ConsistencyState::Divided => Some(ChecksumState::Divided),
        ConsistencyState::Damaged => Some(ChecksumState::Damaged),
    }
}

/// What members run and shall run. What is wanted becomes what there was only once all members had it in service: until
/// then taking the wish back is enough.
fn version(desired: &Desired, observed: &Observed, plan: &Plan) -> VersionStatus {
    let before = observed.status.version.clone();
    let stable = plan.rollout.as_ref().and_then(|rollout| rollout.stable_revision.as_ref());
    let proved = stable == Some(&desired.voter_revision);
    VersionStatus {
        current: oldest(observed).or(before.current),
        target: Some(desired.image.clone()),
        stable: if proved { Some(desired.image.clone()) } else { before.stable },
        updated_at: if proved { desired.updated_at.clone() } else { before.updated_at },
    }
}

/// The oldest version that a member runs; one that cannot be read counts as older than all others.
fn oldest(observed: &Observed) -> Option<String> {
    let running = observed.reports.values().map(|report| report.version.as_str());
    running.min_by_key(|text| (Version::parse(text), *text)).map(str::to_owned)
}

/// Claims that no pod will use at this size. A hibernated cluster has no pods, and its volumes are what it wakes with: of those
/// only what was left before it went to sleep is left.
fn orphaned(desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<String> {
    let before = &observed.status;
    let Some(sizes) = &plan.sizes else { return before.orphaned_volumes.clone() };
    let beyond = |member: &str| {
        if desired.spec.hibernated {
            let was_member = before.members.iter().any(|known| known.name == member);
            return !was_member && before.orphaned_volumes.contains(&desired.name.claim(member));
        }
        desired.name.parse_member(member).is_none_or(|(role, ordinal)| ordinal >= sizes.of(role))
    };
    observed
        .claims
        .iter()
        .filter(|(member, claim)| {
            beyond(member) && !claim.terminating && !observed.pods.contains_key(*member)
        })
        .map(|(member, _)| desired.name.claim(member))
        .collect()
}

/// Writes the status if it says something new. An id that is recorded for the first time is written only over the
/// object that it was decided on, so that two of them cannot be minted.
pub async fn publish(
    desired: &Desired,
    observed: &Observed,
    status: &SqliteClusterStatus,
    subject: &ObjectReference,
    ctx: &Context,
) -> Result<(), StatusError> {
    let (namespace, name) = (&desired.name.namespace, &desired.name.name);
    ctx.metrics.publish("SqliteCluster", namespace, name, &status.conditions);
    if *status == observed.status {
        return Ok(());
    }
    let is_first = observed.status.cluster_id != status.cluster_id;
    let version = observed.resource_version.as_deref().filter(|_| is_first);
    write(namespace, name, version, json!(status), ctx).await?;
    tell(observed, status, subject, ctx).await;
    Ok(())
}

/// Says in the status of an object that it cannot be had.
pub async fn refuse(cluster: &SqliteCluster, message: &str, ctx: &Context) -> Result<(), StatusError> {
    let before = cluster.status.clone().unwrap_or_default();
    let conditions =
        conditions::refused(&before.conditions, cluster.metadata.generation, message, clock::now());
    let meta = cluster.meta();
    let (namespace, name) =
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    ctx.metrics.publish("SqliteCluster", &namespace, &name, &conditions);
    let status = SqliteClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions,
        ..before.clone()
    };
    if status == before {
        return Ok(());
    }
    write(&namespace, &name, None, json!(status), ctx).await
}

/// Says the same of an object that cannot even be read; its other status is not known, and stays as it is.
pub async fn refuse_unreadable(
    namespace: &str,
    name: &str,
    generation: Option<i64>,
    message: &str,
    ctx: &Context,
) -> Result<(), StatusError> {
    let api: Api<kube::core::DynamicObject> = Api::namespaced_with(
        ctx.client.clone(),
        namespace,
        &kube::core::ApiResource::erase::<SqliteCluster>(&()),
    );
    let failed = |source| StatusError::Write { name: name.to_owned(), source };
    let mut object = api.get(name).await.map_err(failed)?;
    let before: Vec<Condition> =
        serde_json::from_value(object.data["status"]["conditions"].take()).unwrap_or_default();
    let conditions = conditions::refused(&before, generation, message, clock::now());
    ctx.metrics.publish("SqliteCluster", namespace, name, &conditions);
    if conditions == before {
        return Ok(());
    }
    let mut status = object.data["status"].take();
    if !status.is_object() {
        status = json!({});
    }
    status["conditions"] = json!(conditions);
    status["observedGeneration"] = json!(generation);
    write(namespace, name, None, status, ctx).await
}

/// Says in the status of an object why nothing can be seen of its cluster, and leaves all else as it was. What may be over in a
/// moment is told only once it has lasted: a status of every cluster is the last thing that an API server needs which has too much
/// to do. Of a cluster that is paused nothing is told but that.
pub async fn tell_unseen(cluster: &SqliteCluster, error: &Error, ctx: &Context) -> Result<(), StatusError> {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let rejection = error.rejection();
    let is_told = rejection.is_some() || ctx.failures.have_lasted(super::KIND, &namespace, &name);
    if cluster.spec.paused || !is_told {
        return Ok(());
    }
    let before = cluster.status.clone().unwrap_or_default();
    let (generation, message) = (cluster.metadata.generation, error.sentence());
    let conditions =
        conditions::unseen(&before.conditions, generation, rejection.as_ref(), &message, clock::now());
    ctx.metrics.publish("SqliteCluster", &namespace, &name, &conditions);
    let status = SqliteClusterStatus { observed_generation: generation, conditions, ..before.clone() };
    if status == before {
        return Ok(());
    }
    write(&namespace, &name, None, json!(status), ctx).await?;
    tell_stalled(&before, &status, &cluster.object_ref(&()), ctx).await;
    Ok(())
}

async fn write(
    namespace: &str,
    name: &str,
    resource_version: Option<&str>,
    status: serde_json::Value,
    ctx: &Context,
) -> Result<(), StatusError> {
    let api: Api<SqliteCluster> = Api::namespaced(ctx.client.clone(), namespace);
    let mut patch = json!({
        "apiVersion": SqliteCluster::api_version(&()),
        "kind": SqliteCluster::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    if let Some(version) = resource_version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    ctx.metrics.status_writes.inc();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(name, &params, &Patch::Apply(&patch))
        .await
        .map(drop)
        .map_err(|source| StatusError::Write { name: name.to_owned(), source })
}

async fn tell(observed: &Observed, status: &SqliteClusterStatus, subject: &ObjectReference, ctx: &Context) {
    for (reason, note) in lead_news(observed, status) {
        ctx.tell(subject, EventType::Normal, reason, "Elect", note).await;
    }
    for (reason, warns, note) in news(&observed.status, status) {
        let kind = if warns { EventType::Warning } else { EventType::Normal };
        ctx.tell(subject, kind, reason, "Observe", note).await;
    }
    tell_stalled(&observed.status, status, subject, ctx).await;
}

async fn tell_stalled(
    before: &SqliteClusterStatus,
    status: &SqliteClusterStatus,
    subject: &ObjectReference,
    ctx: &Context,
) {
    let stalled = |status: &SqliteClusterStatus| {
        let condition = status.conditions.iter().find(|c| c.type_ == "Stalled");
        condition.map(|c| (c.reason.clone(), c.message.clone()))
    };
    if let (Some((now, message)), before) = (stalled(status), stalled(before))
        && before.is_none_or(|(before, _)| before != now)
    {
        ctx.tell(subject, EventType::Warning, &now, "Reconcile", message).await;
    }
}

/// That somebody else leads, and that it is because the pod of who led is evicted: such a member hands over by itself, before
/// it ends.
fn lead_news(observed: &Observed, status: &SqliteClusterStatus) -> Vec<(&'static str, String)> {
    let led = |status: &SqliteClusterStatus| status.leader.as_ref().map(|leader| leader.member.clone());
    let (Some(now), before) = (led(status), led(&observed.status)) else { return Vec::new() };
    let Some(before) = before else { return vec![("LeaderChanged", format!("{now} leads"))] };
    if before == now {
        return Vec::new();
    }
    let mut news = vec![("LeaderChanged", format!("{now} leads, after {before}"))];
    if observed.pods.get(&before).and_then(|pod| pod.evicted.as_deref()) == Some(EVICTED) {
        news.push((
            "DrainTransfer",
            format!("leadership went from {before}, whose pod is evicted, to {now}"),
        ));
    }
    news
}

/// What happened between two statuses that people want to read: reason, whether it is a warning, and a sentence.
fn news(before: &SqliteClusterStatus, now: &SqliteClusterStatus) -> Vec<(&'static str, bool, String)> {
    let mut news = Vec::new();
    let rollout = |status: &SqliteClusterStatus| status.rollout.clone();
    if let (Some(before), Some(now)) = (rollout(before), rollout(now)) {
        if let Some(canary) = now.canary.filter(|canary| canary.passed)
            && before.canary.as_ref().is_none_or(|before| !before.passed)
        {
            news.push(("CanaryPassed", false, format!("{} proved the new template", canary.member)));
        }
        if now.failed_revision.is_some() && before.failed_revision != now.failed_revision {
            let why = now.message.unwrap_or_default();
            let reason =
                if now.state == RolloutState::RolledBack { "CanaryRolledBack" } else { "CanaryFailed" };
            news.push((reason, true, why));
        }
    }
    let allocated = |status: &SqliteClusterStatus| {
        let size = status.storage.as_ref().and_then(|storage| storage.allocated.clone())?;
        Some((super::validate::parse_quantity(&size)?, size))
    };
    if let (Some((before, _)), Some((now, size))) = (allocated(before), allocated(now))
        && now > before
    {
        news.push(("VolumeGrown", false, format!("every volume has {size} now")));
    }
    if let (Some(before), Some(now)) = (&before.cluster_id, &now.cluster_id)
        && before != now
    {
        let note = format!("all members of {before} were lost with their memory; {now} begins empty");
        news.push(("DataLost", true, note));
    }
    let quorum_lost = |status: &SqliteClusterStatus| {
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
        (ready.reason == "QuorumLost").then(|| ready.message.clone())
    };
    if let (None, Some(message)) = (quorum_lost(before), quorum_lost(now)) {
        news.push(("QuorumLost", true, message));
    }
    news
}

#[cfg(test)]
mod tests;
