//! Marks on claims: whose data is on the volume, who lives on it, whether it goes with the cluster; and the labels of a child,
//! which are not in the templates of claims, because those can never be changed.

use super::owner;
use crate::cluster::plan::ClaimMark;
use crate::cluster::validate::Desired;
use crate::names::{ANNOTATION_CLUSTER_ID, ANNOTATION_NODE_ID, LABEL_MEMBER};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// A claim with the marks of `mark`. The uid is part of it, so that applying it never creates one.
pub fn marked(desired: &Desired, mark: &ClaimMark) -> PersistentVolumeClaim {
    let mut annotations = BTreeMap::from([(ANNOTATION_CLUSTER_ID.to_owned(), mark.cluster_id.clone())]);
    if let Some(node_id) = mark.node_id {
        annotations.insert(ANNOTATION_NODE_ID.to_owned(), node_id.to_string());
    }
    // It outlives every version of the program.
    let mut labels = desired.name.labels(mark.role.label(), None);
    labels.extend(desired.name.selector(Some(mark.role)));
    labels.insert(LABEL_MEMBER.to_owned(), mark.member.clone());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(desired.name.claim(&mark.member)),
            namespace: Some(desired.name.namespace.clone()),
            uid: Some(mark.uid.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: mark.owned.then(|| vec![owner(desired, false)]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(mark.size.clone()))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
