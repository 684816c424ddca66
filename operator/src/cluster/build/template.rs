//! Pinned pod templates. What a revision stands for is stored once and used verbatim ever after, so that an operator
//! that would render it otherwise restarts nothing.

use super::metadata;
use crate::cluster::validate::Desired;
use crate::names::{ANNOTATION_REVISION, LABEL_TEMPLATE, PodRole, role_revision};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The object that keeps `pod` as the template of the wanted revision.
pub fn revision(
    desired: &Desired,
    role: PodRole,
    revision: &str,
    pod: &PodTemplateSpec,
) -> ControllerRevision {
    let revision = role_revision(revision, role);
    let mut meta = metadata(desired, desired.name.template(&revision), "template");
    meta.labels.get_or_insert_default().insert(LABEL_TEMPLATE.into(), role.label().into());
    meta.annotations = Some(BTreeMap::from([(ANNOTATION_REVISION.into(), revision)]));
    ControllerRevision { metadata: meta, data: serde_json::to_value(pod).ok().map(RawExtension), revision: 1 }
}

/// Revision and template that an object keeps; `None` if it keeps none.
pub fn pinned(object: &ControllerRevision) -> Option<(String, PodTemplateSpec)> {
    let revision = object.metadata.annotations.as_ref()?.get(ANNOTATION_REVISION)?.clone();
    let pod = PodTemplateSpec::deserialize(&object.data.as_ref()?.0).ok()?;
    Some((revision, pod))
}
