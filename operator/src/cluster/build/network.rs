//! Who reaches which port of the members.

use super::metadata;
use crate::cluster::validate::Desired;
use crate::crd::NetworkPolicyMode;
use crate::names::{PORT_HEALTH, PORT_HTTP, PORT_RAFT};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The policy: the port of the peers is for members of this cluster; clients, the operator, kubelets and monitoring come
/// from everywhere, and what the members reach themselves (each other, names, stores of backups) is left open.
pub fn policy(desired: &Desired) -> Option<NetworkPolicy> {
    if desired.spec.security.network_policy == NetworkPolicyMode::None {
        return None;
    }
    let members =
        LabelSelector { match_labels: Some(desired.name.selector(None)), ..LabelSelector::default() };
    let among_members = NetworkPolicyIngressRule {
        from: Some(vec![NetworkPolicyPeer {
            pod_selector: Some(members.clone()),
            ..NetworkPolicyPeer::default()
        }]),
        ports: Some(vec![port(PORT_RAFT)]),
    };
    let from_everywhere =
        NetworkPolicyIngressRule { from: None, ports: Some(vec![port(PORT_HTTP), port(PORT_HEALTH)]) };
    Some(NetworkPolicy {
        metadata: metadata(desired, desired.name.network_policy(), "network"),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(members),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![among_members, from_everywhere]),
            egress: None,
        }),
    })
}

fn port(number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { port: Some(IntOrString::Int(number)), protocol: Some("TCP".into()), end_port: None }
}
