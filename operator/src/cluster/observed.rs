//! What is, as one reconcile sees it: plain data, made by [`super::observe`] and read by everything that decides.

use super::backups::BackupsView;
use super::certificates::KeptPorts;
use super::restore::BootstrapView;
use crate::admin;
use crate::crd::{BootstrapStatus, ClientTraffic, SqliteClusterStatus};
use crate::names::PodRole;
use client::admin::{MemberReport, NodeId};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// When it was seen.
    pub now: Timestamp,
    /// Resource version of the object.
    pub resource_version: Option<String>,
    /// The status as it was last written.
    pub status: SqliteClusterStatus,
    /// StatefulSets that there are.
    pub sets: BTreeMap<PodRole, SetView>,
    /// Pods by name.
    pub pods: BTreeMap<String, PodView>,
    /// Claims by the member they belong to.
    pub claims: BTreeMap<String, ClaimView>,
    /// What members said of themselves just now, by pod.
    pub reports: BTreeMap<String, MemberReport>,
    /// Objects that hold a name of ours and are not ours.
    pub foreign: Vec<Foreign>,
    /// Pinned pod templates by revision.
    pub templates: BTreeMap<String, PodTemplateSpec>,
    /// Its backups.
    pub backups: BackupsView,
    /// The backup that it begins with.
    pub bootstrap_restore: BootstrapView,
    /// Restores of it that are under way, with hundredths that are done.
    pub restores: BTreeMap<String, i32>,
    /// What is known of the certificates; none: nothing was looked at yet.
    pub certificates: Option<KeptPorts>,
    /// Whether members are to accept other passwords before anybody is told.
    pub exchanges_passwords: bool,
    /// What is not there of the Secrets that the spec names, as a sentence.
    pub missing_secret: Option<String>,
    /// Names of the cluster's Services, budgets and pinned templates, for those that are no longer wanted.
    pub children: BTreeSet<Child>,
}

impl Observed {
    /// Whether a member that is in service by its pod did not answer in time just now: nothing tells when it would.
    pub fn has_silent_members(&self) -> bool {
        self.pods.iter().any(|(name, pod)| pod.ready && !self.reports.contains_key(name))
    }

    /// Id of the cluster, if it was recorded.
    pub fn cluster_id(&self) -> Option<&str> {
        self.status.cluster_id.as_deref()
    }

    /// How the cluster began, if that was recorded.
    pub fn bootstrap(&self) -> Option<&BootstrapStatus> {
        self.status.bootstrap.as_ref()
    }
}

/// A StatefulSet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetView {
    /// Uid.
    pub uid: String,
    /// Size it is set to.
    pub replicas: usize,
    /// Whether its controller has seen the latest spec.
    pub settled: bool,
    /// Revision of its pod template.
    pub revision: Option<String>,
    /// Which compute resources the pods that it makes have from the spec.
    pub resources_mark: Option<String>,
    /// Size of the volumes it makes, in bytes.
    pub volume_bytes: Option<u128>,
    /// The same, as it is written.
    pub volume_size: Option<String>,
    /// Whether it is going away.
    pub terminating: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// Uid.
    pub uid: String,
    /// Address, once it has one.
    pub ip: Option<String>,
    /// Whether it is Ready.
    pub ready: bool,
    /// Since when it is not Ready.
    pub not_ready_since: Option<Timestamp>,
    /// Whether it is going away.
    pub terminating: bool,
    /// How it answers clients.
    pub client_traffic: ClientTraffic,
    /// What the kubelet was last asked to look for.
    pub refreshed: Option<String>,
    /// Why Kubernetes takes it away, where somebody or something asked for that: the drain of a node, a taint, preemption.
    pub evicted: Option<String>,
    /// Whether the database container runs.
    pub running: bool,
    /// Why the container cannot start.
    pub stuck: Option<Stuck>,
    /// Why it cannot be scheduled.
    pub unschedulable: Option<String>,
    /// Revision of the template it was made from.
    pub revision: Option<String>,
    /// Kubernetes node.
    pub node: Option<String>,
    /// Failure zone, where its node or the pod tells it.
    pub zone: Option<String>,
    /// Whether Services send traffic to it.
    pub serving: bool,
    /// How often its container was started again.
    pub restarts: i32,
    /// What its program said at last when it ended by itself.
    pub last_words: Option<String>,
    /// Which labels and annotations it has from the spec.
    pub metadata_mark: Option<String>,
    /// Which compute resources it has from the spec.
    pub resources_mark: Option<String>,
    /// How a change of its resources goes.
    pub resize: Resize,
    /// Whether the API server refused to change its resources.
    pub resize_refused: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
}

impl PodView {
    /// Whether what it has mounted is waited for: it runs, and has not been away for as long as `patience`. One that
    /// starts mounts what there is by then, and one that comes back is brought it by its kubelet.
    pub fn is_waited_for(&self, now: Timestamp, patience: Duration) -> bool {
        self.running && !self.is_away(now, patience)
    }

    /// Whether it has not been Ready for as long as `patience`.
    pub fn is_away(&self, now: Timestamp, patience: Duration) -> bool {
        let away = |since| Duration::try_from(now.duration_since(since)).is_ok_and(|away| away >= patience);
        self.not_ready_since.is_some_and(away)
    }

    /// Base of the member's API, once the pod has an address.
    pub fn base(&self) -> Option<String> {
        Some(admin::base(self.ip.as_deref()?, self.client_traffic))
    }
}

/// How the change of a pod's resources goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resize {
    /// There is none.
    #[default]
    None,
    /// The kubelet is at it.
    InProgress,
    /// Its Kubernetes node has had no room since then, and may have it again.
    Deferred(Timestamp),
    /// Its Kubernetes node will never have the room.
    Infeasible,
}

impl Resize {
    /// By the conditions of a pod. What the kubelet said of an earlier change does not count for the present one.
    pub fn of(pod: &Pod) -> Self {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let found = |kind: &str| {
            let mut conditions = conditions.into_iter().flatten();
            conditions.find(|condition| condition.type_ == kind && condition.status == "True")
        };
        let is_of_earlier = |condition: &PodCondition| {
            condition.observed_generation.is_some_and(|seen| Some(seen) < pod.metadata.generation)
        };
        let Some(pending) = found("PodResizePending") else {
            return if found("PodResizeInProgress").is_some() { Self::InProgress } else { Self::None };
        };
        let since = pending.last_transition_time.as_ref().map(|since| since.0);
        match (pending.reason.as_deref(), since) {
            _ if is_of_earlier(pending) => Self::InProgress,
            (Some("Infeasible"), _) => Self::Infeasible,
            (Some("Deferred"), Some(since)) => Self::Deferred(since),
            _ => Self::InProgress,
        }
    }
}

/// Why a container cannot start.
#[derive(Clone, Debug, PartialEq)]
pub struct Stuck {
    /// For programs, as the kubelet names it.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Stuck {
    /// Whether another pod from the same template would be stuck as well.
    pub fn is_template_fault(&self) -> bool {
        self.reason.contains("Image") || self.reason.starts_with("CreateContainer")
    }
}

/// A claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimView {
    /// Uid.
    pub uid: String,
    /// Which cluster's data is on the volume.
    pub cluster_id: Option<String>,
    /// Raft id of the member that lives on the volume.
    pub node_id: Option<NodeId>,
    /// Whether it goes with the cluster object.
    pub owned: bool,
    /// Whether it lacks the labels of a child.
    pub bare: bool,
    /// Whether it is going away.
    pub terminating: bool,
    /// Size that is asked for, in bytes.
    pub requested_bytes: Option<u128>,
    /// The same, as it is written.
    pub requested: Option<String>,
    /// Size that it has.
    pub allocated: Option<String>,
}

/// An object that holds a name of ours and is not ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreign {
    /// Kind and name.
    pub object: String,
    /// Whether it belonged to a deleted cluster of the same name and will go by itself.
    pub leftover: bool,
}

impl Foreign {
    /// What an object that holds a name of `cluster` is, if it is not the cluster's.
    pub fn of(cluster: &OwnerReference, kind: &str, meta: &ObjectMeta) -> Option<Self> {
        if is_controlled_by(&cluster.uid, meta) {
            return None;
        }
        let leftover =
            controllers(meta).any(|owner| owner.kind == cluster.kind && owner.name == cluster.name);
        Some(Self { object: format!("{kind} {}", meta.name.clone().unwrap_or_default()), leftover })
    }
}

fn controllers(meta: &ObjectMeta) -> impl Iterator<Item = &OwnerReference> {
    meta.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true))
}

/// Whether the object with this uid controls the one with this metadata.
pub fn is_controlled_by(uid: &str, meta: &ObjectMeta) -> bool {
    controllers(meta).any(|owner| owner.uid == uid)
}

/// A child that may be no longer wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Child {
    /// A Service.
    Service(String),
    /// A PodDisruptionBudget.
    Budget(String),
    /// A NetworkPolicy.
    NetworkPolicy(String),
    /// A ControllerRevision that keeps a pod template of this revision.
    Template(String),
    /// A ControllerRevision that keeps a spec.
    Spec(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resize_is_what_the_kubelet_says_of_the_latest_change() {
        let since = "2027-01-15T08:00:00Z";
        let condition = |kind: &str, status: &str, reason: &str, generation: i64| {
            json!({"type": kind, "status": status, "reason": reason, "observedGeneration": generation,
                "lastTransitionTime": since})
        };
        let pending = |reason: &str, generation| condition("PodResizePending", "True", reason, generation);
        let at_it = || condition("PodResizeInProgress", "True", "", 2);
        let deferred = Resize::Deferred(since.parse().unwrap());
        for (conditions, wanted) in [
            (json!([]), Resize::None),
            (json!([condition("PodResizePending", "False", "Infeasible", 2)]), Resize::None),
            (json!([at_it()]), Resize::InProgress),
            (json!([pending("Infeasible", 2)]), Resize::Infeasible),
            (json!([pending("Deferred", 2)]), deferred),
            (json!([at_it(), pending("Deferred", 2)]), deferred),
            (json!([pending("Deferred", 1)]), Resize::InProgress),
            (json!([pending("Infeasible", 1)]), Resize::InProgress),
            // A Kubernetes that does not tell of which change it speaks.
            (
                json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]),
                Resize::Infeasible,
            ),
        ] {
            let pod = json!({"metadata": {"generation": 2}, "status": {"conditions": conditions}});
            assert_eq!(Resize::of(&serde_json::from_value(pod.clone()).unwrap()), wanted, "{pod}");
        }
    }
}
