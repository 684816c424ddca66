//! What can be changed on a running pod: compute resources, and the labels and annotations that the spec adds. Both are
//! written down on the pod, so that a difference is a comparison of two strings. Pure.

use crate::crd::{PodMetadata, Resources};
use crate::names::content_hash;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What a pod is marked with if the spec gives it compute resources.
pub fn resources_mark(resources: &Resources) -> Option<String> {
    (*resources != Resources::default()).then(|| json!(resources).to_string())
}

/// What a mark says.
pub fn marked_resources(mark: Option<&str>) -> Resources {
    mark.and_then(|mark| serde_json::from_str(mark).ok()).unwrap_or_default()
}

/// Quality of service, by which the kubelet chooses what it kills first. It is fixed for the life of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// Nothing is reserved.
    BestEffort,
    /// Something is.
    Burstable,
    /// All that may be used is reserved.
    Guaranteed,
}

/// The quality of service of a pod with these resources.
pub fn quality(resources: &Resources) -> Quality {
    let (limits, requests) = (&resources.limits, &resources.requests);
    let counts = |name: &String| matches!(name.as_str(), "cpu" | "memory");
    if !limits.keys().chain(requests.keys()).any(counts) {
        return Quality::BestEffort;
    }
    let same = ["cpu", "memory"].iter().all(|name| {
        let Some(limit) = limits.get(*name) else { return false };
        let amount = |quantity: &str| super::validate::parse_milli(quantity);
        requests.get(*name).is_none_or(|request| amount(&request.0) == amount(&limit.0))
    });
    if same { Quality::Guaranteed } else { Quality::Burstable }
}

/// The change of a container's resources from `before` to `after`, as a merge patch.
pub fn resources_patch(before: &Resources, after: &Resources) -> Value {
    let merge = |before: BTreeMap<String, String>, after: BTreeMap<String, String>| {
        let gone = before.into_keys().map(|name| (name, Value::Null));
        gone.chain(after.into_iter().map(|(name, quantity)| (name, quantity.into()))).collect::<Value>()
    };
    let text = |map: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        map.iter().map(|(name, quantity)| (name.clone(), quantity.0.clone())).collect::<BTreeMap<_, _>>()
    };
    json!({
        "limits": merge(text(&before.limits), text(&after.limits)),
        "requests": merge(text(&before.requests), text(&after.requests)),
    })
}

/// Which labels and annotations a pod has from the spec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct MetadataMark {
    hash: String,
    labels: BTreeSet<String>,
    annotations: BTreeSet<String>,
}

/// What a pod is marked with if the spec adds labels or annotations to it.
pub fn metadata_mark(metadata: &PodMetadata) -> Option<String> {
    (*metadata != PodMetadata::default()).then(|| {
        json!(MetadataMark {
            hash: content_hash(json!(metadata).to_string().as_bytes()),
            labels: metadata.labels.keys().cloned().collect(),
            annotations: metadata.annotations.keys().cloned().collect(),
        })
        .to_string()
    })
}

/// The change of a pod's metadata from what `mark` says to `after`, as a merge patch of labels and annotations.
pub fn metadata_patch(mark: Option<&str>, after: &PodMetadata) -> Value {
    let before: MetadataMark = mark.and_then(|mark| serde_json::from_str(mark).ok()).unwrap_or_default();
    let merge = |before: BTreeSet<String>, after: &BTreeMap<String, String>| {
        let gone = before.into_iter().map(|name| (name, Value::Null));
        gone.chain(after.iter().map(|(name, value)| (name.clone(), value.clone().into()))).collect::<Value>()
    };
    json!({
        "labels": merge(before.labels, &after.labels),
        "annotations": merge(before.annotations, &after.annotations),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(value: Value) -> Resources {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn quality_of_service_as_kubernetes_defines_it() {
        for (value, wanted) in [
            (json!({}), Quality::BestEffort),
            (json!({"requests": {"ephemeral-storage": "1Gi"}}), Quality::BestEffort),
            (json!({"requests": {"cpu": "1"}}), Quality::Burstable),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), Quality::Guaranteed),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                Quality::Guaranteed,
            ),
            (json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}), Quality::Burstable),
        ] {
            assert_eq!(quality(&resources(value.clone())), wanted, "{value}");
        }
    }

    #[test]
    fn what_a_spec_no_longer_says_is_taken_away() {
        let before = resources(json!({"limits": {"memory": "1Gi"}, "requests": {"cpu": "1"}}));
        let after = resources(json!({"requests": {"cpu": "2"}}));
        let mark = resources_mark(&before);
        assert_eq!(
            resources_patch(&marked_resources(mark.as_deref()), &after),
            json!({"limits": {"memory": null}, "requests": {"cpu": "2"}})
        );
        assert_eq!(resources_mark(&Resources::default()), None);
        let metadata = |labels: Value| PodMetadata {
            labels: serde_json::from_value(labels).unwrap(),
            annotations: BTreeMap::new(),
        };
        let mark = metadata_mark(&metadata(json!({"team": "a", "tier": "1"})));
        assert_eq!(
            metadata_patch(mark.as_deref(), &metadata(json!({"team": "b"}))),
            json!({"labels": {"team": "b", "tier": null}, "annotations": {}})
        );
        assert_eq!(metadata_mark(&PodMetadata::default()), None);
    }
}
