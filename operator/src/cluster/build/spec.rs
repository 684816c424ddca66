//! The spec as it was accepted last: what a cluster is kept by while its object asks for what cannot be.

use super::{metadata_of, owner};
use crate::cluster::validate::Desired;
use crate::crd::SqliteClusterSpec;
use crate::names::{KEEPS_SPEC, LABEL_TEMPLATE, content_hash};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::json;

/// The object that keeps the spec. What it keeps cannot be changed, so it is named by that.
pub fn revision(desired: &Desired) -> ControllerRevision {
    let spec = json!(desired.spec);
    let name = desired.name.spec(&content_hash(spec.to_string().as_bytes()));
    let mut metadata = metadata_of(&desired.name, owner(desired, true), name, "spec");
    metadata.labels.get_or_insert_default().insert(LABEL_TEMPLATE.into(), KEEPS_SPEC.into());
    ControllerRevision { metadata, data: Some(RawExtension(spec)), revision: desired.generation }
}

/// Whether an object keeps a spec, and no pod template.
pub fn is_one(object: &ControllerRevision) -> bool {
    object.labels().get(LABEL_TEMPLATE).is_some_and(|keeps| keeps == KEEPS_SPEC)
}

/// The newest spec that these objects keep; `None` if none of them keeps one that can be read.
pub fn newest(objects: &[ControllerRevision]) -> Option<SqliteClusterSpec> {
    let newest = objects.iter().filter(|object| is_one(object)).max_by_key(|object| object.revision)?;
    SqliteClusterSpec::deserialize(&newest.data.as_ref()?.0).ok()
}
