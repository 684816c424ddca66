//! The StatefulSet of a role: `OnDelete`, because the plan chooses who restarts; `Parallel`, because Raft and not
//! the ordinal says who is a member.

use super::metadata;
use crate::cluster::observed::Observed;
use crate::cluster::plan::Plan;
use crate::cluster::validate::Desired;
use crate::names::{ANNOTATION_REVISION, DATA, PodRole, role_revision};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

/// The StatefulSet of a role with as many pods of `template` as the plan says.
pub fn set(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    role: PodRole,
    template: PodTemplateSpec,
) -> StatefulSet {
    let replicas = plan.sizes.as_ref().map_or(0, |sizes| sizes.of(role));
    let mut meta = metadata(desired, desired.name.set(role), role.label());
    meta.labels.get_or_insert_default().extend(desired.name.selector(Some(role)));
    meta.annotations =
        Some(BTreeMap::from([(ANNOTATION_REVISION.into(), role_revision(&plan.revision, role))]));
    let retain = || Some("Retain".to_owned());
    StatefulSet {
        metadata: meta,
        spec: Some(StatefulSetSpec {
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: retain(),
                when_scaled: retain(),
            }),
            pod_management_policy: Some("Parallel".into()),
            replicas: i32::try_from(replicas).ok(),
            revision_history_limit: Some(3),
            selector: LabelSelector {
                match_labels: Some(desired.name.selector(Some(role))),
                ..LabelSelector::default()
            },
            service_name: Some(desired.name.nodes_service()),
            template,
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                rolling_update: None,
            }),
            volume_claim_templates: (!desired.is_in_memory())
                .then(|| vec![claim_template(desired, observed, plan, role)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// The claim of each pod. It cannot be changed in place: while a StatefulSet exists, its size is what it has.
fn claim_template(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    role: PodRole,
) -> PersistentVolumeClaim {
    let storage = &desired.spec.storage;
    let existing = observed.sets.get(&role).and_then(|set| set.volume_size.clone());
    let size = existing.unwrap_or_else(|| plan.volume_size.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.into()),
            labels: Some(desired.name.selector(Some(role))),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".into(), Quantity(size))])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: storage.storage_class_name.clone(),
            volume_mode: Some("Filesystem".into()),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
