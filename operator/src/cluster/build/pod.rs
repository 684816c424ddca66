//! The pod of a member.

use super::{backup, outlet};
use crate::cluster::certificates::exchange::SHARED;
use crate::cluster::resources::{metadata_mark, resources_mark};
use crate::cluster::validate::Desired;
use crate::crd::{ClientTraffic, Port, Spread};
use crate::names::{
    ANNOTATION_CLIENT_TRAFFIC, ANNOTATION_METADATA, ANNOTATION_RESOURCES, ANNOTATION_REVISION, CONTAINER,
    DATA, LABEL_SERVING, PORT_HEALTH, PORT_HTTP, PORT_RAFT, PodRole, image_version,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction,
    HTTPGetAction, Lifecycle, LifecycleHandler, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements,
    SeccompProfile, SecretProjection, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume,
    VolumeMount, VolumeProjection, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// Name of the volume with the certificates of members.
const PEER_TLS: &str = "peer-tls";
/// Where it is.
const PEER_TLS_PATH: &str = "/etc/sqlited/peer-tls";
/// Name of the volume with the certificate for clients.
const CLIENT_TLS: &str = "client-tls";
/// Where it is.
const CLIENT_TLS_PATH: &str = "/etc/sqlited/client-tls";
/// Name of the volume with the files of users.
const USERS: &str = "users";
/// Where it is.
const USERS_PATH: &str = "/etc/sqlited/users";
/// User and group of the process.
const UID: i64 = 65_532;

/// A pinned template with what can be changed on running pods, and is therefore not pinned: resources, and the labels and
/// annotations of the spec.
pub fn dressed(desired: &Desired, mut template: PodTemplateSpec) -> PodTemplateSpec {
    let spec = &desired.spec;
    let metadata = template.metadata.get_or_insert_default();
    let (labels, annotations) =
        (metadata.labels.get_or_insert_default(), metadata.annotations.get_or_insert_default());
    // What the operator set stands.
    for (added, into) in [
        (&spec.pod_template.metadata.labels, &mut *labels),
        (&spec.pod_template.metadata.annotations, &mut *annotations),
    ] {
        for (key, value) in added {
            into.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if let Some(mark) = metadata_mark(&spec.pod_template.metadata) {
        annotations.insert(ANNOTATION_METADATA.into(), mark);
    }
    if let Some(mark) = resources_mark(&spec.resources) {
        annotations.insert(ANNOTATION_RESOURCES.into(), mark);
    }
    let container =
        template.spec.as_mut().and_then(|pod| pod.containers.iter_mut().find(|c| c.name == CONTAINER));
    if let Some(container) = container {
        let (limits, requests) = (&spec.resources.limits, &spec.resources.requests);
        container.resources = Some(ResourceRequirements {
            limits: Some(limits.clone()).filter(|limits| !limits.is_empty()),
            requests: Some(requests.clone()).filter(|requests| !requests.is_empty()),
            ..ResourceRequirements::default()
        });
    }
    template
}

/// The pod template of a role, without what [`dressed`] adds.
pub fn template(desired: &Desired, role: PodRole) -> PodTemplateSpec {
    let spec = &desired.spec;
    let mut labels = desired.name.labels(role.label(), Some(&image_version(&desired.image)));
    labels.extend(desired.name.selector(Some(role)));
    labels.insert(LABEL_SERVING.into(), "true".into());
    let mut annotations = BTreeMap::from([
        (ANNOTATION_REVISION.to_owned(), desired.revision(role).to_owned()),
        ("kubectl.kubernetes.io/default-container".to_owned(), CONTAINER.to_owned()),
    ]);
    let traffic = desired.client_traffic.mark();
    annotations.extend(traffic.map(|mark| (ANNOTATION_CLIENT_TRAFFIC.to_owned(), mark.to_owned())));
    let placement = &spec.placement;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: affinity(desired, role),
            automount_service_account_token: Some(false),
            containers: vec![container(desired, role)],
            enable_service_links: Some(false),
            node_selector: Some(placement.node_selector.clone()).filter(|selector| !selector.is_empty()),
            priority_class_name: placement.priority_class_name.clone(),
            security_context: Some(security_context()),
            service_account_name: Some(desired.name.service_account()),
            termination_grace_period_seconds: Some(30),
            tolerations: Some(placement.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
            topology_spread_constraints: zones(desired, role),
            volumes: Some(volumes(desired, role)),
            ..PodSpec::default()
        }),
    }
}

/// Of pods that pass the restricted standard.
pub(super) fn security_context() -> PodSecurityContext {
    PodSecurityContext {
        fs_group: Some(UID),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        run_as_group: Some(UID),
        run_as_non_root: Some(true),
        run_as_user: Some(UID),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

/// Of their containers.
pub(super) fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        ..SecurityContext::default()
    }
}

/// The claim of a member is not among them: its StatefulSet adds it.
fn volumes(desired: &Desired, role: PodRole) -> Vec<Volume> {
    let empty = |name: &str, empty_dir: EmptyDirVolumeSource| Volume {
        name: name.into(),
        empty_dir: Some(empty_dir),
        ..Volume::default()
    };
    let memory = desired.is_in_memory().then(|| {
        let size = Quantity(desired.spec.storage.size.clone());
        empty(DATA, EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(size) })
    });
    let tmp = empty("tmp", EmptyDirVolumeSource::default());
    let others = backup::volumes(desired).into_iter().chain(outlet::volumes(desired, role));
    [tmp]
        .into_iter()
        .chain(memory)
        .chain(users(desired))
        .chain(certificates(desired))
        .chain(others.map(|(volume, _)| volume))
        .collect()
}

fn container(desired: &Desired, role: PodRole) -> Container {
    Container {
        name: CONTAINER.into(),
        image: Some(desired.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(args(desired, role)),
        env: Some(vec![EnvVar {
            name: "POD_NAME".into(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".into()),
                    field_path: "metadata.name".into(),
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }]),
        ports: Some(
            [("http", PORT_HTTP), ("raft", PORT_RAFT), ("health", PORT_HEALTH)]
                .map(|(name, port)| ContainerPort {
                    name: Some(name.into()),
                    container_port: port,
                    protocol: Some("TCP".into()),
                    ..ContainerPort::default()
                })
                .into(),
        ),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction { command: Some(vec!["/sqlited".into(), "drain".into()]) }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        startup_probe: Some(probe("/started", 1, 600)),
        readiness_probe: Some(probe("/ready", 1, 3)),
        liveness_probe: Some(probe("/live", 10, 6)),
        security_context: Some(confined()),
        // Why it ended is told by the status, and by the operator.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(mounts(desired, role)),
        ..Container::default()
    }
}

fn mounts(desired: &Desired, role: PodRole) -> Vec<VolumeMount> {
    let users = desired.has_users().then_some((USERS, USERS_PATH, true));
    let certificates = ports(desired).map(|(_, volume, path)| (volume, path, true));
    [(DATA, "/data", false), ("tmp", "/tmp", false)]
        .into_iter()
        .chain(users)
        .chain(certificates)
        .map(|(name, path, read_only)| VolumeMount {
            name: name.into(),
            mount_path: path.into(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        })
        .chain(backup::volumes(desired).into_iter().map(|(_, mount)| mount))
        .chain(outlet::volumes(desired, role).map(|(_, mount)| mount))
        .collect()
}

/// Ports that talk TLS, with the volume of their certificates and where it is.
fn ports(desired: &Desired) -> impl Iterator<Item = (Port, &'static str, &'static str)> + use<> {
    let peers = desired.peer_traffic.flag().map(|_| (Port::Peers, PEER_TLS, PEER_TLS_PATH));
    let clients = desired.client_traffic.mark().map(|_| (Port::Clients, CLIENT_TLS, CLIENT_TLS_PATH));
    peers.into_iter().chain(clients)
}

/// The certificates of all members, of which each takes its own: one Secret can be there before any pod. Whole directories,
/// because the kubelet brings nothing new to single files.
fn certificates(desired: &Desired) -> impl Iterator<Item = Volume> + use<> {
    let name = desired.name.clone();
    ports(desired).map(move |(port, volume, _)| Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.certificates_secret(port)),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    })
}

/// The files of users: those of the spec, and over them the operator's, so that nobody locks it out.
fn users(desired: &Desired) -> Option<Volume> {
    let source = |name: String, optional: Option<bool>| VolumeProjection {
        secret: Some(SecretProjection { name, optional, ..SecretProjection::default() }),
        ..VolumeProjection::default()
    };
    let authentication = &desired.spec.security.authentication;
    let of_spec =
        authentication.users_secret_ref.as_ref().map(|secret| source(secret.name.clone(), Some(true)));
    let sources = of_spec.into_iter().chain([source(desired.name.users_secret(), None)]).collect();
    desired.has_users().then(|| Volume {
        name: USERS.into(),
        projected: Some(ProjectedVolumeSource { default_mode: Some(0o440), sources: Some(sources) }),
        ..Volume::default()
    })
}

/// The flags that name extensions; none where there are none, which older members do not know.
fn extensions(desired: &Desired) -> impl Iterator<Item = String> {
    let database = &desired.spec.database;
    let flag =
        |name: &str, values: &[String]| (!values.is_empty()).then(|| format!("-{name}={}", values.join(",")));
    [
        flag("extensions-path", &database.extensions),
        flag("extensions-former", &database.former_extensions),
        flag("extensions-modules", &database.extension_modules),
    ]
    .into_iter()
    .flatten()
}

fn args(desired: &Desired, role: PodRole) -> Vec<String> {
    let host = format!("$(POD_NAME).{}.{}.svc", desired.name.nodes_service(), desired.name.namespace);
    let spec = &desired.spec;
    let mut args = vec![
        "-node-id=$(POD_NAME)".to_owned(),
        format!("-http-addr=0.0.0.0:{PORT_HTTP}"),
        format!("-http-adv-addr={host}:{PORT_HTTP}"),
        format!("-raft-addr=0.0.0.0:{PORT_RAFT}"),
        format!("-raft-adv-addr={host}:{PORT_RAFT}"),
        format!("-health-addr=0.0.0.0:{PORT_HEALTH}"),
        "-managed".to_owned(),
    ];
    if role == PodRole::ReadReplica {
        args.push("-raft-non-voter".into());
    }
    if spec.database.foreign_keys {
        args.push("-fk".into());
    }
    // Members of older versions do not know the flag.
    if spec.database.auto_vacuum_seconds > 0 {
        args.push(format!("-auto-vacuum-int={}s", spec.database.auto_vacuum_seconds));
    }
    args.extend(extensions(desired));
    if desired.has_users() {
        args.push(format!("-auth={USERS_PATH}"));
    }
    if let Some(plaintext) = desired.peer_traffic.flag() {
        args.extend([
            format!("-node-cert={PEER_TLS_PATH}/$(POD_NAME).crt"),
            format!("-node-key={PEER_TLS_PATH}/$(POD_NAME).key"),
            format!("-node-ca-cert={PEER_TLS_PATH}/ca.crt"),
            "-node-verify-member-name".to_owned(),
            format!("-node-plaintext={plaintext}"),
        ]);
    }
    if desired.client_traffic != ClientTraffic::Plaintext {
        args.extend([
            format!("-http-cert={CLIENT_TLS_PATH}/{SHARED}.crt"),
            format!("-http-key={CLIENT_TLS_PATH}/{SHARED}.key"),
        ]);
    }
    if desired.client_traffic == ClientTraffic::AnswersBoth {
        args.push("-http-allow-plaintext".into());
    }
    args.extend(backup::args(desired));
    args.extend(outlet::args(desired, role));
    args.push(format!("-raft-profile={}", spec.raft.profile.flag()));
    args.push(format!("-log-level={}", spec.observability.log_level.flag()));
    args.push("/data".into());
    args
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(PORT_HEALTH),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5.min(period.max(2))),
        failure_threshold: Some(failures),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

/// The affinity of the spec, and that members of a role keep off each other's Kubernetes nodes.
fn affinity(desired: &Desired, role: PodRole) -> Option<Affinity> {
    let placement = &desired.spec.placement;
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector {
            match_labels: Some(desired.name.selector(Some(role))),
            ..LabelSelector::default()
        }),
        topology_key: "kubernetes.io/hostname".into(),
        ..PodAffinityTerm::default()
    };
    let mut affinity = placement.affinity.clone();
    if placement.spread == Spread::None {
        return affinity;
    }
    let anti: &mut PodAntiAffinity =
        affinity.get_or_insert_default().pod_anti_affinity.get_or_insert_default();
    if placement.spread == Spread::Required {
        anti.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(term);
    } else {
        anti.preferred_during_scheduling_ignored_during_execution
            .get_or_insert_default()
            .push(WeightedPodAffinityTerm { pod_affinity_term: term, weight: 100 });
    }
    affinity
}

fn zones(desired: &Desired, role: PodRole) -> Option<Vec<TopologySpreadConstraint>> {
    let when_unsatisfiable = match desired.spec.placement.spread {
        Spread::Required => "DoNotSchedule",
        Spread::Preferred => "ScheduleAnyway",
        Spread::None => return None,
    };
    let selector: BTreeMap<String, String> = desired.name.selector(Some(role));
    Some(vec![TopologySpreadConstraint {
        label_selector: Some(LabelSelector { match_labels: Some(selector), ..LabelSelector::default() }),
        max_skew: 1,
        topology_key: desired.spec.placement.zone_topology_key.clone(),
        when_unsatisfiable: when_unsatisfiable.into(),
        ..TopologySpreadConstraint::default()
    }])
}
