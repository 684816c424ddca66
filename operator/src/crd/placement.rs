//! Where members run.

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where members run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Label of Kubernetes nodes that names their failure zone.
    #[serde(default = "default_zone_key")]
    #[schemars(length(min = 1, max = 317))]
    pub zone_topology_key: String,
    /// Whether members of a cluster must, should or need not be on different nodes and in different zones.
    #[serde(default)]
    pub spread: Spread,
    /// Labels that a Kubernetes node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated, as in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::open_objects")]
    pub tolerations: Vec<Toleration>,
    /// Affinity as in a pod; what `spread` asks for is added to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::open_object")]
    pub affinity: Option<Affinity>,
    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            zone_topology_key: default_zone_key(),
            spread: Spread::default(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            priority_class_name: None,
        }
    }
}

/// How strictly members are spread over nodes and zones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Spread {
    /// A member that would share a node, or unbalance the zones, stays pending.
    Required,
    /// Where possible.
    #[default]
    Preferred,
    /// Not at all.
    None,
}

fn default_zone_key() -> String {
    "topology.kubernetes.io/zone".into()
}
