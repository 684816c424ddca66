//! (what is wanted, the plan) → objects. Pure: every object is made in full, for server-side apply.

pub mod backup;
pub mod budget;
pub mod claim;
pub mod network;
pub mod outlet;
pub mod pod;
pub mod secret;
pub mod service;
pub mod set;
pub mod spec;
pub mod template;
pub mod verifier;

use super::observed::{Child, Observed};
use super::plan::{Plan, Sizes};
use super::validate::Desired;
use crate::crd::{NetworkPolicyMode, SqliteCluster};
use crate::names::{ANNOTATION_REVISION, ClusterName, PodRole, image_version, role_revision};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

/// Everything that a cluster consists of. Taken apart without `..` wherever it is used, so that a new kind of object
/// does not compile until it is applied.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Identity of the pods; it may do nothing.
    pub service_account: ServiceAccount,
    /// The headless Service that names the members.
    pub nodes: Service,
    /// Services for clients.
    pub services: Vec<Service>,
    /// What members are told of stores of backups.
    pub config_maps: Vec<ConfigMap>,
    /// Pinned pod templates, and the spec.
    pub templates: Vec<ControllerRevision>,
    /// What evictions must leave running.
    pub budgets: Vec<PodDisruptionBudget>,
    /// Who reaches which port of the members.
    pub network_policy: Option<NetworkPolicy>,
    /// Marks on claims.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The pods of each role.
    pub sets: Vec<StatefulSet>,
    /// What there is and is no longer wanted.
    pub surplus: Vec<Child>,
}

impl Resources {
    /// The same, with no more pods than there are, and of the templates that those have: StatefulSets that are to grow or
    /// to have another template wait, and those that are not there. A pod that is lost meanwhile comes back as it was.
    pub fn without_new_pods(mut self, name: &ClusterName, observed: &Observed) -> Self {
        for role in PodRole::ALL {
            let called = name.set(role);
            self.sets.retain_mut(|set| {
                if set.metadata.name.as_ref() != Some(&called) {
                    return true;
                }
                let (Some(there), Some(spec)) = (observed.sets.get(&role), set.spec.as_mut()) else {
                    return false;
                };
                let size = i32::try_from(there.replicas).unwrap_or(i32::MAX);
                spec.replicas = spec.replicas.map(|replicas| size.min(replicas));
                let template = spec.template.metadata.as_ref();
                let revision = template.and_then(|pods| pods.annotations.as_ref()?.get(ANNOTATION_REVISION));
                there.revision.as_ref() == revision
            });
        }
        self
    }
}

/// The objects that the plan asks for; `None` if it asks for nothing to be applied.
pub fn build(desired: &Desired, observed: &Observed, plan: &Plan) -> Option<Resources> {
    let sizes = plan.sizes.as_ref()?;
    let pods: Vec<(PodRole, k8s_openapi::api::core::v1::PodTemplateSpec)> = roles(sizes)
        .map(|role| {
            let pinned = observed.templates.get(&role_revision(&plan.revision, role));
            (role, pinned.cloned().unwrap_or_else(|| pod::template(desired, role)))
        })
        .collect();
    let pinned = pods.iter().map(|(role, pod)| template::revision(desired, *role, &plan.revision, pod));
    // While the spec is refused, the one that counts is kept already.
    let accepted = desired.refused.is_none().then(|| spec::revision(desired));
    let templates: Vec<_> = pinned.chain(accepted).collect();
    let budgets: Vec<_> = budget::budgets(desired, plan, sizes);
    let services: Vec<_> =
        desired.spec.services.iter().map(|service| service::client(desired, service)).collect();
    let surplus = surplus(desired, observed, plan, &services, &budgets, &templates);
    let sets = pods
        .into_iter()
        .filter(|(role, _)| observed.sets.get(role).is_none_or(|set| !set.terminating))
        .map(|(role, pod)| set::set(desired, observed, plan, role, pod::dressed(desired, pod)))
        .collect();
    Some(Resources {
        service_account: service::account(desired),
        nodes: service::nodes(desired),
        services,
        config_maps: backup::config_maps(desired),
        templates,
        budgets,
        network_policy: network::policy(desired),
        claims: plan.claims.iter().map(|mark| claim::marked(desired, mark)).collect(),
        sets,
        surplus,
    })
}

fn roles(sizes: &Sizes) -> impl Iterator<Item = PodRole> + use<> {
    let replicas = sizes.read_replicas.map(|_| PodRole::ReadReplica);
    [PodRole::Voter].into_iter().chain(replicas)
}

/// Children that nothing asks for any more. A pinned template stays as long as a pod or a StatefulSet has it.
fn surplus(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    services: &[Service],
    budgets: &[PodDisruptionBudget],
    revisions: &[ControllerRevision],
) -> Vec<Child> {
    let nodes = desired.name.nodes_service();
    let stable = plan.rollout.as_ref().and_then(|rollout| rollout.stable_revision.clone());
    let kept = [Some(plan.revision.clone()), Some(desired.voter_revision.clone()), stable];
    let in_use = |revision: &str| {
        kept.iter()
            .flatten()
            .any(|kept| PodRole::ALL.iter().any(|role| role_revision(kept, *role) == revision))
            || observed.pods.values().any(|pod| pod.revision.as_deref() == Some(revision))
            || observed.sets.values().any(|set| set.revision.as_deref() == Some(revision))
    };
    let is_wanted = |child: &Child| match child {
        Child::Service(name) => {
            *name == nodes || services.iter().any(|service| service.metadata.name.as_ref() == Some(name))
        }
        Child::Budget(name) => budgets.iter().any(|budget| budget.metadata.name.as_ref() == Some(name)),
        Child::NetworkPolicy(_) => desired.spec.security.network_policy == NetworkPolicyMode::Managed,
        Child::Template(revision) => in_use(revision),
        Child::Spec(name) => {
            desired.refused.is_some()
                || revisions.iter().any(|revision| revision.metadata.name.as_ref() == Some(name))
        }
    };
    observed.children.iter().filter(|child| !is_wanted(child)).cloned().collect()
}

/// Metadata of a child that the cluster controls.
fn metadata(desired: &Desired, name: String, component: &str) -> ObjectMeta {
    let labels = desired.name.labels(component, Some(&image_version(&desired.image)));
    ObjectMeta {
        name: Some(name),
        namespace: Some(desired.name.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![owner(desired, true)]),
        ..ObjectMeta::default()
    }
}

/// Metadata of a child that is the same whatever the members run.
fn metadata_of(name: &ClusterName, owner: OwnerReference, called: String, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(called),
        namespace: Some(name.namespace.clone()),
        labels: Some(name.labels(component, None)),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The cluster as an owner.
pub(super) fn owner(desired: &Desired, controls: bool) -> OwnerReference {
    reference(desired.name.name.clone(), desired.uid.clone(), controls)
}

/// The object as the owner that controls.
pub fn owner_of(cluster: &SqliteCluster) -> OwnerReference {
    reference(cluster.name_any(), cluster.uid().unwrap_or_default(), true)
}

fn reference(name: String, uid: String, controls: bool) -> OwnerReference {
    OwnerReference {
        api_version: SqliteCluster::api_version(&()).into_owned(),
        kind: SqliteCluster::kind(&()).into_owned(),
        name,
        uid,
        controller: controls.then_some(true),
        block_owner_deletion: None,
    }
}

#[cfg(test)]
mod tests;
