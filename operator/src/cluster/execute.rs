//! Acts: takes the steps of a plan, one after the other. Network: the members and the API server.
//!
//! Each step carries what it was decided on (a uid, a Raft id), and the member refuses what is unsafe by then; so a
//! step that comes too late does nothing.

use super::observe;
use super::observed::Observed;
use super::plan::{Plan, Step};
use super::shortfall::Shortfall;
use super::validate::Desired;
use super::view::View;
use crate::context::Context;
use crate::error::{RejectionReason, is_refused};
use crate::names::{
    ANNOTATION_METADATA, ANNOTATION_RESOURCES, CONTAINER, LABEL_SERVING, POD_MANAGER, PodRole,
    SERVING_MANAGER,
};
use client::admin::{ChangeVoters, Initialise, NodeId, RefusalReason};
use client::admin_client::{AdminClient, AdminError};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::runtime::events::EventType;
use serde_json::json;

/// Why a step could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The member that a step is for has no address, or no leader is known.
    #[error("{step} is for a member that cannot be addressed")]
    NoAddress {
        /// Which step.
        step: &'static str,
    },
    /// Not every other voter that is needed is in service any more.
    #[error("{step} waits: another voter left service meanwhile")]
    Changed {
        /// Which step.
        step: &'static str,
    },
    /// A member refused, or did not answer.
    #[error("{step} failed")]
    Admin {
        /// Which step.
        step: &'static str,
        /// Why.
        #[source]
        source: AdminError,
    },
    /// The API server refused, or did not answer.
    #[error("{step} failed")]
    Kube {
        /// Which step.
        step: &'static str,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

impl ExecuteError {
    /// Whether it is a matter of a moment: what the step needs is on its way.
    pub fn passes(&self) -> bool {
        use RefusalReason::{ChangeInProgress, NoLeader, NoQuorum, NotCaughtUp, NotFatal, OutcomeUnknown};
        match self {
            // A member that is just starting, or just going; the next look finds out which.
            Self::Admin { source: AdminError::Transport { .. }, .. } => true,
            Self::Admin { source, .. } => matches!(
                source.refusal(),
                Some(ChangeInProgress | NoLeader | NoQuorum | NotCaughtUp | NotFatal | OutcomeUnknown)
            ),
            Self::NoAddress { .. } | Self::Changed { .. } => true,
            Self::Kube { .. } => false,
        }
    }

    /// Why it needs a human, for programs, if the API server refuses the step for good.
    pub fn rejection(&self) -> Option<RejectionReason> {
        matches!(self, Self::Kube { source, .. } if is_refused(source)).then_some(RejectionReason::Rejected)
    }

    /// Why the leader does not bring in the backup that the cluster begins with, if that is what happened.
    pub fn restore_refusal(&self) -> Option<&str> {
        match self {
            Self::Admin { step: "Restore", source: AdminError::Refused { refusal, .. } }
                if !self.passes() =>
            {
                Some(&refusal.message)
            }
            _ => None,
        }
    }
}

/// Takes the steps of the plan, but for those that wait for what the API server lacks, and for those that were decided on one that
/// failed. What failed, in the order of the steps.
pub async fn execute(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    shortfall: &Shortfall,
    subject: &ObjectReference,
    admin: &AdminClient,
    ctx: &Context,
) -> Vec<ExecuteError> {
    let view = View::of(observed, plan.cluster_id.as_deref());
    let leader = view.leader().map(|leader| leader.name.as_str());
    let cluster_id = plan.cluster_id.as_deref();
    let hands = Hands { desired, observed, cluster_id, leader, subject, admin, ctx };
    let mut failed: Vec<(&Step, ExecuteError)> = Vec::new();
    for step in &plan.steps {
        let cluster = &desired.name;
        if shortfall.holds_up(cluster, step) {
            tracing::info!(%cluster, ?step, ?shortfall, "a step waits for what could not be applied");
        } else if let Some((earlier, _)) = failed.iter().find(|(earlier, _)| step.needs(earlier)) {
            tracing::info!(%cluster, ?step, ?earlier, "a step waits for one that failed");
        } else if let Err(error) = hands.take(step).await {
            failed.push((step, error));
        } else {
            ctx.metrics.took(name(step));
        }
    }
    failed.into_iter().map(|(_, error)| error).collect()
}

struct Hands<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    cluster_id: Option<&'a str>,
    leader: Option<&'a str>,
    subject: &'a ObjectReference,
    admin: &'a AdminClient,
    ctx: &'a Context,
}

impl Hands<'_> {
    async fn take(&self, step: &Step) -> Result<(), ExecuteError> {
        tracing::info!(cluster = %self.desired.name, ?step, "taking a step");
        let named = name(step);
        let refused = |source| ExecuteError::Admin { step: named, source };
        let failed = |source| ExecuteError::Kube { step: named, source };
        let admin = self.admin;
        match step {
            Step::SetServing { pod, uid, serving } => {
                self.set_serving(pod, uid, *serving).await.map_err(failed)?;
            }
            Step::RecreateSet { role, uid } => {
                let set = self.desired.name.set(*role);
                self.delete::<StatefulSet>(&set, uid, PropagationPolicy::Orphan).await.map_err(failed)?;
            }
            Step::Initialise { pod, cluster_id } => {
                let base = self.base(Some(pod), named)?;
                let body = Initialise { cluster_id: cluster_id.clone() };
                admin.initialise(&base, &body).await.map_err(refused)?;
                self.tell("Initialised", "Initialise", format!("{pod} began cluster {cluster_id}")).await;
            }
            Step::AddLearner(body) => {
                admin.add_learner(&self.base(self.leader, named)?, body).await.map_err(refused)?;
                // Of one that is to vote it is told when it does.
                if matches!(self.desired.name.parse_member(&body.name), Some((PodRole::ReadReplica, _))) {
                    let note = format!("{} ({}) replicates", body.name, body.node_id);
                    self.tell("MemberAdded", "AddMember", note).await;
                }
            }
            Step::RemoveLearner { name, node_id } => {
                let base = self.base(self.leader, named)?;
                admin.remove_learner(&base, *node_id).await.map_err(refused)?;
                let note = format!("{name} ({node_id}) no longer replicates");
                self.tell("MemberRemoved", "RemoveMember", note).await;
            }
            Step::ChangeVoters { add, remove } => {
                let ids = |list: &[(String, NodeId)]| list.iter().map(|(_, id)| *id).collect();
                let body = ChangeVoters { add: ids(add), remove: ids(remove), retain: false };
                // The budget is that of the voters to be by now: nobody goes any more whom they need, but somebody may
                // have been let go just before.
                let now = self.look_again().await.map_err(failed)?;
                if !View::of(&now, self.cluster_id).keeps_quorum(&body.add, &body.remove) {
                    return Err(ExecuteError::Changed { step: named });
                }
                admin.change_voters(&self.base(self.leader, named)?, &body).await.map_err(refused)?;
                let (reason, note) = change(add, remove);
                self.tell(reason, "ChangeVoters", note).await;
            }
            Step::Restore(body) => {
                admin.start_restore(&self.base(self.leader, named)?, body).await.map_err(refused)?;
                self.tell("Restoring", "Restore", "the backup that the cluster begins with".to_owned()).await;
            }
            Step::Transfer { from, to, to_id } => {
                let base = self.base(self.leader, named)?;
                let done = admin.transfer(&base, Some(*to_id)).await.map_err(refused)?;
                let note = format!("leadership asked from {from} to {to}; {} leads now", done.leader.name);
                self.tell("LeadershipTransferred", "Transfer", note).await;
            }
            Step::RecoverQuorum { pod, body } => {
                admin.recover(&self.base(Some(pod), named)?, body).await.map_err(refused)?;
                let note = format!("{pod} goes on alone from index {}, as was agreed to", body.index);
                self.tell("QuorumRecovered", "RecoverQuorum", note).await;
            }
            Step::SkipEntry(entry) => {
                admin.skip_entry(&self.base(self.leader, named)?, entry).await.map_err(refused)?;
                let note = format!("entry {} is passed over, as was agreed to", entry.index);
                self.tell("EntrySkipped", "SkipEntry", note).await;
            }
            Step::DressPod { pod, uid, patch, mark } => {
                self.dress(pod, uid, patch, mark.as_deref()).await.map_err(failed)?;
            }
            Step::ResizePod { pod, uid, patch, mark } => {
                self.resize(pod, uid, patch, mark.as_deref()).await.map_err(failed)?;
            }
            Step::DeletePod { pod, uid, restart, why } => {
                if *restart && !self.may_restart(pod).await.map_err(failed)? {
                    return Err(ExecuteError::Changed { step: named });
                }
                self.delete::<Pod>(pod, uid, PropagationPolicy::Background).await.map_err(failed)?;
                let reason = if *restart { "MemberRestarted" } else { "PodReplaced" };
                self.tell(reason, "DeletePod", format!("pod {pod} is made anew: {why}")).await;
            }
            Step::DeleteClaim { member, uid, why } => {
                let claim = self.desired.name.claim(member);
                self.delete::<PersistentVolumeClaim>(&claim, uid, PropagationPolicy::Background)
                    .await
                    .map_err(failed)?;
                self.tell("VolumeDeleted", "DeleteClaim", format!("claim {claim} is deleted: {why}")).await;
            }
        }
        Ok(())
    }

    /// What a step was decided on may be long ago: steps before it may take seconds each, and nothing but this asks for
    /// the others at the moment in which one goes.
    async fn look_again(&self) -> Result<Observed, kube::Error> {
        observe::look_again(self.observed, self.desired, self.admin, self.ctx).await
    }

    async fn may_restart(&self, pod: &str) -> Result<bool, kube::Error> {
        let now = self.look_again().await?;
        let view = View::of(&now, self.cluster_id);
        let votes = view.voters().any(|voter| voter.name == pod);
        // Where an entry is fatal to all, none is in service that could have left it; what is in memory is to be kept.
        let costs = view.entry_fatal_to_all().is_none() || self.desired.is_in_memory();
        Ok(view.is_known() && (!votes || !costs || view.may_restart(pod)))
    }

    fn base(&self, pod: Option<&str>, step: &'static str) -> Result<String, ExecuteError> {
        pod.and_then(|pod| self.observed.pods.get(pod)?.base()).ok_or(ExecuteError::NoAddress { step })
    }

    fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.ctx.client.clone(), &self.desired.name.namespace)
    }

    /// What is said of a pod whose uid is in `metadata`; one that is gone needs it no more.
    async fn merge_metadata(&self, pod: &str, metadata: serde_json::Value) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({"metadata": metadata}));
        gone_is_fine(self.namespaced::<Pod>().patch_metadata(pod, &pod_patch(), &patch).await.map(drop))
    }

    /// By a field manager of its own, so that the pod template's value stays whose it is; with the uid, so that a
    /// pod of the same name that came later is not meant.
    async fn set_serving(&self, pod: &str, uid: &str, serving: bool) -> Result<(), kube::Error> {
        let patch = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "uid": uid, "labels": {(LABEL_SERVING): serving.to_string()}},
        });
        let params = PatchParams::apply(SERVING_MANAGER).force();
        gone_is_fine(
            self.namespaced::<Pod>().patch_metadata(pod, &params, &Patch::Apply(&patch)).await.map(drop),
        )
    }

    /// Labels and annotations, and the mark that tells which.
    async fn dress(
        &self,
        pod: &str,
        uid: &str,
        patch: &serde_json::Value,
        mark: Option<&str>,
    ) -> Result<(), kube::Error> {
        let mut metadata = patch.clone();
        metadata["uid"] = json!(uid);
        metadata["annotations"][ANNOTATION_METADATA] = json!(mark);
        self.merge_metadata(pod, metadata).await
    }

    /// Resources first, then the mark. Where the API server refuses, the pod is remembered as one to be made anew.
    async fn resize(
        &self,
        pod: &str,
        uid: &str,
        patch: &serde_json::Value,
        mark: Option<&str>,
    ) -> Result<(), kube::Error> {
        let resources = json!({
            "metadata": {"uid": uid},
            "spec": {"containers": [{"name": CONTAINER, "resources": patch}]},
        });
        match self
            .namespaced::<Pod>()
            .patch_subresource("resize", pod, &pod_patch(), &Patch::Strategic(resources))
            .await
        {
            Ok(_) => {}
            // 404: a Kubernetes that cannot; 403, 422: it can, and this change it does not allow.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 422) => {
                tracing::info!(pod, reason = status.message, "the resources cannot be changed in place");
                self.ctx.refused_resizes.add(&self.desired.name, pod, uid);
                return Ok(());
            }
            Err(error) => return gone_is_fine(Err(error)),
        }
        self.merge_metadata(pod, json!({"uid": uid, "annotations": {ANNOTATION_RESOURCES: mark}})).await?;
        self.tell("PodResized", "ResizePod", format!("the resources of {pod} are changed in place")).await;
        Ok(())
    }

    async fn delete<K>(
        &self,
        name: &str,
        uid: &str,
        propagation: PropagationPolicy,
    ) -> Result<(), kube::Error>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let params = DeleteParams {
            propagation_policy: Some(propagation),
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        gone_is_fine(self.namespaced::<K>().delete(name, &params).await.map(drop))
    }

    async fn tell(&self, reason: &str, action: &str, note: String) {
        self.ctx.tell(self.subject, EventType::Normal, reason, action, note).await;
    }
}

/// What a change of the voters came to: the reason of the event, and its note.
fn change(add: &[(String, NodeId)], remove: &[(String, NodeId)]) -> (&'static str, String) {
    let names = |list: &[(String, NodeId)]| {
        list.iter().map(|(name, id)| format!("{name} ({id})")).collect::<Vec<_>>().join(", ")
    };
    match (add.is_empty(), remove.is_empty()) {
        (false, false) => {
            ("MemberReplaced", format!("{} votes in the place of {}", names(add), names(remove)))
        }
        (false, true) => ("MemberAdded", format!("{} votes", names(add))),
        _ => ("MemberRemoved", format!("{} left", names(remove))),
    }
}

/// Of a patch of pods, beside what their template says.
fn pod_patch() -> PatchParams {
    PatchParams { field_manager: Some(POD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// An object that is gone, or that another one took the name of, needs no deletion.
fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other,
    }
}

/// Name of a step, for metrics and errors.
fn name(step: &Step) -> &'static str {
    match step {
        Step::SetServing { .. } => "SetServing",
        Step::RecreateSet { .. } => "RecreateSet",
        Step::Initialise { .. } => "Initialise",
        Step::AddLearner(_) => "AddLearner",
        Step::RemoveLearner { .. } => "RemoveLearner",
        Step::ChangeVoters { .. } => "ChangeVoters",
        Step::Restore(_) => "Restore",
        Step::Transfer { .. } => "Transfer",
        Step::RecoverQuorum { .. } => "RecoverQuorum",
        Step::SkipEntry(_) => "SkipEntry",
        Step::DressPod { .. } => "DressPod",
        Step::ResizePod { .. } => "ResizePod",
        Step::DeletePod { .. } => "DeletePod",
        Step::DeleteClaim { .. } => "DeleteClaim",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_voters_is_told_by_who_comes_and_goes() {
        let voter = |name: &str, id: u64| (name.to_owned(), NodeId(id));
        let [new, old] = [voter("orders-1", 7), voter("orders-1", 2)];
        for (add, remove, reason, names) in [
            (vec![new.clone()], vec![], "MemberAdded", vec![&new]),
            (vec![], vec![old.clone()], "MemberRemoved", vec![&old]),
            (vec![new.clone()], vec![old.clone()], "MemberReplaced", vec![&new, &old]),
        ] {
            let (told, note) = change(&add, &remove);
            assert_eq!(told, reason);
            for (name, id) in names {
                assert!(note.contains(&format!("{name} ({id})")), "{note}");
            }
        }
    }
}
