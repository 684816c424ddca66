//! Services and the ServiceAccount.

use super::metadata;
use crate::cluster::validate::Desired;
use crate::crd::{ServiceSpec as Wanted, ServiceTarget, SqliteClusterSpec};
use crate::names::{ClusterName, LABEL_SERVING, PORT_HTTP, PORT_RAFT, PodRole};
use k8s_openapi::api::core::v1::{Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The ServiceAccount of the pods. It has no rights in Kubernetes and its token is not mounted; a cloud may know it by its
/// annotations.
pub fn account(desired: &Desired) -> ServiceAccount {
    let annotations = desired.spec.pod_template.service_account_annotations.clone();
    ServiceAccount {
        metadata: ObjectMeta {
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..metadata(desired, desired.name.service_account(), "identity")
        },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The headless Service that gives each member its name, ready or not: members find each other by it to become ready.
pub fn nodes(desired: &Desired) -> Service {
    Service {
        metadata: metadata(desired, desired.name.nodes_service(), "nodes"),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            ports: Some(vec![port("http", PORT_HTTP), port("raft", PORT_RAFT)]),
            publish_not_ready_addresses: Some(true),
            selector: Some(desired.name.selector(None)),
            type_: Some("ClusterIP".into()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// A Service for clients.
pub fn client(desired: &Desired, wanted: &Wanted) -> Service {
    let role = match wanted.target {
        ServiceTarget::Voters => Some(PodRole::Voter),
        ServiceTarget::Replicas => Some(PodRole::ReadReplica),
        ServiceTarget::Members => None,
    };
    let mut selector = desired.name.selector(role);
    selector.insert(LABEL_SERVING.into(), "true".into());
    let mut meta = metadata(desired, desired.name.service(&wanted.name), "service");
    meta.annotations = Some(wanted.annotations.clone()).filter(|annotations| !annotations.is_empty());
    Service {
        metadata: meta,
        spec: Some(ServiceSpec {
            ports: Some(vec![port("http", PORT_HTTP)]),
            selector: Some(selector),
            type_: Some(wanted.type_.as_str().into()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service that applications are sent to.
pub fn of_applications(spec: &SqliteClusterSpec, name: &ClusterName) -> String {
    let voters = spec.services.iter().find(|service| service.target == ServiceTarget::Voters);
    let service = voters.or(spec.services.first());
    service.map_or_else(|| name.nodes_service(), |service| name.service(&service.name))
}

fn port(name: &str, port: i32) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(name.into())),
        ..ServicePort::default()
    }
}
