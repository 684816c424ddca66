//! Services in front of the members.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A Service in front of some of the members.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!(self.name in ['nodes', 'replica', 'app'])")
    .message("the Service names nodes, replica and app are taken by parts of a cluster: choose another name"))]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// The Service is named `<cluster>-<name>`.
    #[schemars(length(min = 1, max = 16), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Which members it reaches.
    pub target: ServiceTarget,
    /// Type of the Service.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations of the Service, as load balancers need them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// Which members a Service reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceTarget {
    /// The voters; each forwards writes to the leader.
    Voters,
    /// The read replicas.
    Replicas,
    /// All members.
    Members,
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster.
    #[default]
    ClusterIP,
    /// On a port of each node.
    NodePort,
    /// By the load balancer of the platform.
    LoadBalancer,
}

impl ServiceType {
    /// As a Service spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// What a cluster has when nothing else is asked for.
pub(super) fn default_services() -> Vec<ServiceSpec> {
    [("rw", ServiceTarget::Voters), ("ro", ServiceTarget::Replicas), ("any", ServiceTarget::Members)]
        .map(|(name, target)| ServiceSpec {
            name: name.into(),
            target,
            type_: ServiceType::default(),
            annotations: BTreeMap::new(),
        })
        .into()
}
