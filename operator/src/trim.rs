//! What of an object is kept in a cache: what somebody reads. With a thousand clusters everything else would be most of the
//! operator's memory.

use crate::names::{CONTAINER, LABEL_MANAGED_BY};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    ContainerStatus, Node, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
    Pod, PodSpec, PodStatus, PodTemplateSpec, VolumeResourceRequirements,
};
use kube::Resource;
use kube::core::{DeserializeGuard, ObjectMeta, PartialObjectMeta};
use std::collections::BTreeMap;

/// Where ours begin.
const OURS: &str = "sqlite-operator.io/";
/// Label of pods: their failure zone, where Kubernetes copies it from the node.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Annotation in which `kubectl apply` keeps what it was given.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Conditions of pods that somebody reads.
const POD_CONDITIONS: [&str; 5] =
    ["DisruptionTarget", "Ready", "PodScheduled", "PodResizePending", "PodResizeInProgress"];

/// An object that is smaller after that, and as good for whoever reads the cache.
pub trait Trim {
    /// Drops what nobody reads.
    fn trim(&mut self);
}

/// Labels and annotations of ours, and what identifies and owns the object.
fn trim_metadata(metadata: &mut ObjectMeta) {
    let ours = |map: &mut Option<BTreeMap<String, String>>| {
        if let Some(map) = map {
            // Built anew, because a map does not give back what it does not need any more.
            *map = std::mem::take(map)
                .into_iter()
                .filter(|(key, _)| key.starts_with(OURS) || key == ZONE)
                .collect();
        }
    };
    ours(&mut metadata.labels);
    ours(&mut metadata.annotations);
    metadata.managed_fields = None;
    metadata.generate_name = None;
    metadata.self_link = None;
}

/// Objects of users stay as they are, but for what the API server and kubectl keep in them for themselves.
impl<K: Resource> Trim for DeserializeGuard<K> {
    fn trim(&mut self) {
        let metadata = self.meta_mut();
        metadata.managed_fields = None;
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(LAST_APPLIED);
        }
    }
}

impl<K> Trim for PartialObjectMeta<K> {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
    }
}

/// Which of its labels names a zone, each cluster says for itself.
pub fn trim_node(node: &mut PartialObjectMeta<Node>) {
    node.metadata.annotations = None;
    node.metadata.managed_fields = None;
}

impl Trim for Pod {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        // Nobody asks whose they are: their labels say it.
        self.metadata.owner_references = None;
        let node_name = self.spec.take().and_then(|spec| spec.node_name);
        self.spec = Some(PodSpec { node_name, ..PodSpec::default() });
        self.status = self.status.take().map(|status| PodStatus {
            phase: status.phase,
            // Why one ended that did not end by itself.
            reason: status.reason,
            message: status.message,
            pod_ip: status.pod_ip,
            conditions: status.conditions.map(|conditions| {
                conditions.into_iter().filter(|c| POD_CONDITIONS.contains(&c.type_.as_str())).collect()
            }),
            container_statuses: status.container_statuses.map(|statuses| {
                let ours = statuses.into_iter().filter(|status| status.name == CONTAINER);
                ours.map(|status| ContainerStatus {
                    name: status.name,
                    state: status.state,
                    // The last words of a program that is to be started again.
                    last_state: status.last_state,
                    restart_count: status.restart_count,
                    ..ContainerStatus::default()
                })
                .collect()
            }),
            ..PodStatus::default()
        });
    }
}

fn trim_claim(claim: &mut PersistentVolumeClaim) {
    let labelled = claim.metadata.labels.as_ref().and_then(|labels| labels.get_key_value(LABEL_MANAGED_BY));
    let labelled = labelled.map(|(key, value)| (key.clone(), value.clone()));
    trim_metadata(&mut claim.metadata);
    if let Some((key, value)) = labelled {
        claim.metadata.labels.get_or_insert_default().insert(key, value);
    }
    claim.spec = claim.spec.take().map(|spec| PersistentVolumeClaimSpec {
        resources: spec
            .resources
            .map(|resources| VolumeResourceRequirements { requests: resources.requests, limits: None }),
        ..PersistentVolumeClaimSpec::default()
    });
    claim.status = claim.status.take().map(|status| PersistentVolumeClaimStatus {
        capacity: status.capacity,
        ..PersistentVolumeClaimStatus::default()
    });
}

impl Trim for PersistentVolumeClaim {
    fn trim(&mut self) {
        trim_claim(self);
    }
}

impl Trim for StatefulSet {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
        self.spec = self.spec.take().map(|spec| {
            let annotations = spec.template.metadata.map(|mut metadata| {
                trim_metadata(&mut metadata);
                ObjectMeta { annotations: metadata.annotations, ..ObjectMeta::default() }
            });
            StatefulSetSpec {
                replicas: spec.replicas,
                template: PodTemplateSpec { metadata: annotations, spec: None },
                volume_claim_templates: spec.volume_claim_templates.map(|mut claims| {
                    claims.iter_mut().for_each(trim_claim);
                    claims
                }),
                ..StatefulSetSpec::default()
            }
        });
        self.status = self.status.take().map(|status| StatefulSetStatus {
            observed_generation: status.observed_generation,
            ..StatefulSetStatus::default()
        });
    }
}

impl Trim for ControllerRevision {
    fn trim(&mut self) {
        trim_metadata(&mut self.metadata);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn trimmed<K: Trim + serde::Serialize + serde::de::DeserializeOwned>(object: Value) -> Value {
        let mut object: K = serde_json::from_value(object).unwrap();
        object.trim();
        serde_json::to_value(&object).unwrap()
    }

    fn metadata() -> Value {
        json!({
            "name": "orders-0", "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "labels": {"sqlite-operator.io/cluster": "orders", "app.kubernetes.io/name": "sqlited", (ZONE): "a"},
            "annotations": {"sqlite-operator.io/template-revision": "r", "somebody/else": "x"},
            "managedFields": [{"manager": "kubelet"}],
        })
    }

    fn kept() -> Value {
        json!({
            "name": "orders-0", "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "labels": {"sqlite-operator.io/cluster": "orders", (ZONE): "a"},
            "annotations": {"sqlite-operator.io/template-revision": "r"},
        })
    }

    #[test]
    fn of_a_pod_stays_where_it_is_and_how_it_is() {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let ended = json!({"terminated": {"exitCode": 1, "message": "no such file"}});
        let pod = trimmed::<Pod>(json!({
            "metadata": metadata(),
            "spec": {"nodeName": "n", "containers": [{"name": "sqlited", "image": "i"}]},
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2", "reason": "Evicted", "message": "m",
                "conditions": [
                    {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"},
                    {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
                ],
                "containerStatuses": [
                    {"name": "sqlited", "image": "i", "imageID": "sha", "ready": true, "restartCount": 2, "state": running,
                     "lastState": ended},
                    {"name": "side", "image": "i", "imageID": "sha", "ready": true, "restartCount": 0},
                ],
            },
        }));
        assert_eq!(pod["metadata"], kept());
        assert_eq!(pod["spec"]["nodeName"], "n");
        assert_eq!(pod["spec"]["containers"], json!([]));
        assert_eq!(
            pod["status"],
            json!({
                "phase": "Running", "podIP": "10.0.0.1", "reason": "Evicted", "message": "m",
                "conditions": [
                    {"type": "Ready", "status": "True"},
                    {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
                ],
                "containerStatuses": [{
                    "name": "sqlited", "image": "", "imageID": "", "ready": false, "restartCount": 2, "state": running,
                    "lastState": ended,
                }],
            })
        );
    }

    #[test]
    fn of_a_set_stays_how_large_it_is_and_of_which_template() {
        let claim = json!({
            "metadata": {"name": "data", "labels": {"sqlite-operator.io/cluster": "orders"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        let set = trimmed::<StatefulSet>(json!({
            "metadata": metadata(),
            "spec": {
                "replicas": 3, "serviceName": "orders-nodes", "selector": {"matchLabels": {"a": "b"}},
                "template": {
                    "metadata": {"annotations": {"sqlite-operator.io/template-revision": "r"}, "labels": {"a": "b"}},
                    "spec": {"containers": [{"name": "sqlited"}]},
                },
                "volumeClaimTemplates": [claim],
            },
            "status": {"replicas": 3, "observedGeneration": 4},
        }));
        assert_eq!(set["spec"]["replicas"], 3);
        assert_eq!(
            set["spec"]["template"],
            json!({"metadata": {"annotations": {"sqlite-operator.io/template-revision": "r"}}})
        );
        let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
        assert_eq!(*claim, json!({"resources": {"requests": {"storage": "1Gi"}}}));
        assert_eq!(set["status"]["observedGeneration"], 4);
    }

    #[test]
    fn of_a_claim_stays_its_size() {
        let claim = trimmed::<PersistentVolumeClaim>(json!({
            "metadata": metadata(),
            "spec": {"volumeName": "pv", "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
        }));
        assert_eq!(claim["metadata"], kept());
        let labels =
            json!({"app.kubernetes.io/managed-by": "sqlite-operator", "app.kubernetes.io/name": "sqlited"});
        let labelled = trimmed::<PersistentVolumeClaim>(json!({"metadata": {"labels": labels}}));
        let labels = json!({"app.kubernetes.io/managed-by": "sqlite-operator"});
        assert_eq!(labelled["metadata"]["labels"], labels, "it tells whether it was labelled");
        assert_eq!(claim["spec"], json!({"resources": {"requests": {"storage": "2Gi"}}}));
        assert_eq!(claim["status"], json!({"capacity": {"storage": "1Gi"}}));
    }
}
