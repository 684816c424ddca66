//! From the object to what is wanted, or to why it cannot be had. No network, no clock.
//!
//! The schema refuses most mistakes before they are stored; an object can be older than the schema, though, and a
//! few rules need more than CEL.

use super::build::backup::{Beginning, Mounts, StoreAccess};
use super::build::service;
use super::cron::Cron;
use super::metadata;
use super::window::Window;
use crate::crd::{
    AuthenticationMode, BackupSchedule, BackupStore, BootstrapPhase, ChangeCapture, ClientTraffic, Medium,
    PeerTraffic, Port, RestorePhase, RetentionPolicy, SqliteCluster, SqliteClusterSpec, TlsMode,
};
use crate::names::{
    ANNOTATION_APPROVED, ANNOTATION_RESTARTED, ANNOTATION_ROTATE_CERTIFICATES, ANNOTATION_ROTATE_PASSWORD,
    ANNOTATION_UPDATE, ClusterName, PodRole, content_hash, role_revision,
};
use kube::ResourceExt;
use regex::Regex;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Which cluster.
    pub name: ClusterName,
    /// Uid of the object: what owns the children.
    pub uid: String,
    /// Generation of the object.
    pub generation: i64,
    /// The spec, for the builders.
    pub spec: SqliteClusterSpec,
    /// Why the object's own spec cannot be had, where this is the last one that could.
    pub refused: Option<String>,
    /// Image of the members, resolved.
    pub image: String,
    /// Image of the operator's release, where the members could follow it and do not.
    pub newer_image: Option<String>,
    /// Value of the annotation that takes over the operator's image once.
    pub updated_at: Option<String>,
    /// Revision that a human approved.
    pub approved: Option<String>,
    /// When restarts may begin; none: at any time.
    pub windows: Vec<Window>,
    /// Members that vote.
    pub voters: usize,
    /// Members that only replicate.
    pub read_replicas: usize,
    /// Size of each volume in bytes.
    pub volume_bytes: u128,
    /// Up to which size volumes grow by themselves, in bytes.
    pub volume_limit: Option<u128>,
    /// How long a voter may be lost before it is replaced.
    pub replacement_after: Duration,
    /// How members talk to each other for now.
    pub peer_traffic: PeerTraffic,
    /// How clients are answered for now.
    pub client_traffic: ClientTraffic,
    /// Where the certificates for clients come from.
    client_tls: TlsMode,
    /// Wish for other authorities.
    pub rotate_certificates: Option<String>,
    /// Wish for other passwords.
    pub rotate_passwords: Option<String>,
    /// When backups are due.
    pub schedules: Vec<(BackupSchedule, Cron)>,
    /// What the cluster begins with, once it is known and where it is not in the store of its own backups.
    pub beginning: Option<Beginning>,
    /// Revision of the pod templates; that of the voters' is named the same.
    pub voter_revision: String,
    /// Revision of the read replicas' pod template.
    pub replica_revision: String,
}

impl Desired {
    /// Revision of a role's pod template.
    pub fn revision(&self, role: PodRole) -> &str {
        match role {
            PodRole::Voter => &self.voter_revision,
            PodRole::ReadReplica => &self.replica_revision,
        }
    }

    /// How many members of a role are wanted.
    pub fn members(&self, role: PodRole) -> usize {
        match role {
            PodRole::Voter => self.voters,
            PodRole::ReadReplica => self.read_replicas,
        }
    }

    /// Whether a member is kept from traffic and leadership.
    pub fn is_fenced(&self, member: &str) -> bool {
        self.spec.fencing.iter().any(|fence| fence.member == member)
    }

    /// Whether clients have to say who they are.
    pub fn has_users(&self) -> bool {
        self.spec.security.authentication.mode == AuthenticationMode::Required
    }

    /// Where the certificates of a port come from.
    pub fn tls_mode(&self, port: Port) -> TlsMode {
        match port {
            Port::Peers => self.spec.security.tls.peers,
            Port::Clients => self.client_tls,
        }
    }

    /// How members are to talk to each other and to clients in the end.
    pub fn wanted_traffic(&self) -> (PeerTraffic, ClientTraffic) {
        let tls = &self.spec.security.tls;
        let clients = ClientTraffic::wanted(self.client_tls, tls.plaintext_clients, self.client_traffic);
        (PeerTraffic::wanted(tls.peers), clients)
    }

    /// Where applications are sent to.
    pub fn application_host(&self) -> String {
        format!("{}.{}.svc", service::of_applications(&self.spec, &self.name), self.name.namespace)
    }

    /// Whether volumes end with their pods.
    pub fn is_in_memory(&self) -> bool {
        self.spec.storage.medium == Medium::Memory
    }

    /// Whether claims go with the cluster.
    pub fn deletes_claims(&self) -> bool {
        self.spec.storage.on_delete == RetentionPolicy::Delete
    }
}

/// Why an object cannot be reconciled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValidateError {
    /// The object has no namespace or uid: it did not come from a server.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
    /// The spec asks for what cannot be.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// What `cluster` asks for. `node_image` is used where neither the spec nor an earlier decision names an image.
pub fn validate(cluster: &SqliteCluster, node_image: &str) -> Result<Desired, ValidateError> {
    let namespace = cluster.namespace().ok_or(ValidateError::Incomplete("namespace"))?;
    let uid = cluster.uid().ok_or(ValidateError::Incomplete("uid"))?;
    let spec = cluster.spec.clone();
    let mut wrong = Vec::new();

    if !matches!(spec.voters, 1 | 3 | 5 | 7) {
        wrong.push(format!("spec.voters is {}: it must be 1, 3, 5 or 7", spec.voters));
    }
    if !(0..=32).contains(&spec.read_replicas) {
        wrong.push(format!("spec.readReplicas is {}: it must be 0 to 32", spec.read_replicas));
    }
    let volume_bytes = parse_quantity(&spec.storage.size).filter(|bytes| *bytes > 0);
    if volume_bytes.is_none() {
        wrong.push(format!("spec.storage.size `{}` is no size: write it as 5Gi", spec.storage.size));
    }
    let volume_limit = match &spec.storage.autogrow {
        None => None,
        Some(autogrow) => {
            let limit = parse_quantity(&autogrow.max_size).filter(|limit| Some(*limit) >= volume_bytes);
            if limit.is_none() {
                wrong.push(
                    "spec.storage.autogrow.maxSize must be a size that is not below storage.size".into(),
                );
            }
            limit
        }
    };
    if spec.hibernated && spec.storage.medium == Medium::Memory {
        wrong.push("spec.hibernated needs volumes that outlive their pods, not storage.medium Memory".into());
    }
    let mut windows = Vec::new();
    for window in &spec.update.maintenance_windows {
        match Window::parse(window) {
            Ok(window) => windows.push(window),
            Err(error) => wrong.push(format!("spec.update.maintenanceWindows: {error}")),
        }
    }
    let mut schedules = Vec::new();
    for schedule in spec.backup.iter().flat_map(|backups| &backups.schedules) {
        match Cron::parse(&schedule.cron, &schedule.time_zone) {
            Ok(cron) => schedules.push((schedule.clone(), cron)),
            Err(error) => {
                wrong.push(format!("spec.backup.schedules, {}: {error}", schedule.name));
            }
        }
    }
    let names: BTreeSet<_> = spec.services.iter().map(|service| service.name.as_str()).collect();
    if names.len() != spec.services.len() {
        wrong.push("spec.services holds a name twice".into());
    }
    for (resource, request) in &spec.resources.requests {
        let limit = spec.resources.limits.get(resource);
        let exceeds = limit.is_some_and(|limit| {
            matches!((parse_milli(&request.0), parse_milli(&limit.0)), (Some(request), Some(limit)) if request > limit)
        });
        if exceeds {
            wrong.push(format!("spec.resources requests more {resource} than its limit: lower the request"));
        }
    }
    wrong.extend(metadata::mistakes(&spec));
    wrong.extend(store_mistakes(&spec));
    wrong.extend(spec.database.change_capture.as_ref().map(capture_mistakes).unwrap_or_default());
    let name = cluster.name_any();
    if name.len() > 40 {
        wrong.push("metadata.name is longer than 40 characters".into());
    }

    let cluster_name = ClusterName::new(namespace, name);
    wrong.extend(fencing_mistakes(&cluster_name, &spec));

    let annotation = |key: &str| cluster.annotations().get(key).cloned();
    let version = cluster.status.as_ref().map(|status| status.version.clone()).unwrap_or_default();
    let updated_at = annotation(ANNOTATION_UPDATE);
    let follows = spec.update.follow_operator || updated_at.is_some() && updated_at != version.updated_at;
    // What was wanted is no witness: it may be an image that never came up, and that the spec was taken back from.
    let has_begun = cluster.status.as_ref().and_then(|status| status.bootstrap.as_ref());
    let wanted = version.target.filter(|_| has_begun.is_some_and(|b| b.phase == BootstrapPhase::Complete));
    let recorded = version.stable.or(wanted).filter(|_| !follows);
    let image = spec.image.clone().or(recorded).unwrap_or_else(|| node_image.to_owned());
    let newer_image = (spec.image.is_none() && image != node_image).then(|| node_image.to_owned());
    if image.is_empty() {
        wrong.push("no image: set spec.image, or start the operator with --node-image".into());
    }
    let (Some(volume_bytes), true) = (volume_bytes, wrong.is_empty()) else {
        return Err(ValidateError::Invalid(wrong));
    };
    // A cluster that begins needs no steps.
    let tls = &spec.security.tls;
    let told_of_peers = cluster.status.as_ref().and_then(|status| status.peer_traffic);
    let begun_without = has_begun.map(|_| PeerTraffic::Plaintext);
    let peer_traffic = told_of_peers.or(begun_without).unwrap_or(PeerTraffic::wanted(tls.peers));
    let told_of_clients = cluster.status.as_ref().and_then(|status| status.client_traffic);
    let clients_before = told_of_clients.or(has_begun.map(|_| ClientTraffic::Plaintext));
    let client_tls = tls.mode(Port::Clients, clients_before);
    let client_traffic = clients_before.unwrap_or_else(|| {
        ClientTraffic::wanted(client_tls, tls.plaintext_clients, ClientTraffic::Plaintext)
    });
    let beginning = beginning(cluster);
    let stores = Stores {
        backup: spec.backup.as_ref().map(|backups| Mounts::of(&StoreAccess::of(backups))),
        restore: beginning.as_ref().map(Beginning::mounts),
    };
    let nudges = Nudges { restarted_at: annotation(ANNOTATION_RESTARTED), updated_at: updated_at.clone() };
    let traffic = (peer_traffic, client_traffic);
    let voter_revision = revision(&spec, &image, traffic, &stores, &nudges);
    Ok(Desired {
        name: cluster_name,
        uid,
        newer_image,
        updated_at,
        approved: annotation(ANNOTATION_APPROVED),
        windows,
        volume_limit,
        peer_traffic,
        client_traffic,
        client_tls,
        rotate_certificates: annotation(ANNOTATION_ROTATE_CERTIFICATES),
        rotate_passwords: annotation(ANNOTATION_ROTATE_PASSWORD),
        beginning,
        schedules,
        generation: cluster.metadata.generation.unwrap_or_default(),
        voters: usize::try_from(spec.voters).unwrap_or(1),
        read_replicas: usize::try_from(spec.read_replicas).unwrap_or(0),
        volume_bytes,
        replacement_after: Duration::from_secs(
            u64::try_from(spec.recovery.member_replacement_after_seconds).unwrap_or(300),
        ),
        replica_revision: role_revision(&voter_revision, PodRole::ReadReplica),
        voter_revision,
        image,
        refused: None,
        spec,
    })
}

fn fencing_mistakes(name: &ClusterName, spec: &SqliteClusterSpec) -> Vec<String> {
    let fenced = |role: PodRole| {
        spec.fencing.iter().filter(move |f| matches!(name.parse_member(&f.member), Some((r, _)) if r == role))
    };
    let strangers = spec.fencing.iter().filter(|fence| name.parse_member(&fence.member).is_none());
    let mut wrong: Vec<String> =
        strangers.map(|fence| format!("spec.fencing names {}, which is no member", fence.member)).collect();
    let voters = usize::try_from(spec.voters).unwrap_or(1);
    let ordinals: BTreeSet<usize> = fenced(PodRole::Voter)
        .filter_map(|fence| name.parse_member(&fence.member))
        .map(|(_, ordinal)| ordinal)
        .filter(|ordinal| *ordinal < voters)
        .collect();
    if ordinals.len() >= voters {
        wrong.push(
            "spec.fencing names every voter: nobody could lead; set hibernated to stop a cluster".into(),
        );
    }
    wrong
}

/// What the members would refuse to start with, or take for something else.
fn capture_mistakes(capture: &ChangeCapture) -> Vec<String> {
    const FIELD: &str = "spec.database.changeCapture";
    let filter = capture.table_filter.as_deref().and_then(|filter| Regex::new(filter).err());
    let bytes = |size: &Option<String>, default| size.as_deref().map_or(Some(default), parse_quantity);
    let (most, kept) = (bytes(&capture.max_size, 1 << 30), bytes(&capture.retain_size, 0));
    let shortest = capture.min_backoff_milliseconds.unwrap_or(1000);
    let longest = capture.max_backoff_milliseconds.unwrap_or(30_000);
    [
        filter.map(|error| format!("{FIELD}.tableFilter: {error}")),
        (most < Some(1 << 20)).then(|| format!("{FIELD}.maxSize must be a size of at least 1Mi")),
        (kept.is_none() || kept > most).then(|| {
            format!("{FIELD}.retainSize must be a size that is not above maxSize, which is 1Gi by default")
        }),
        (shortest > longest).then(|| {
            format!(
                "{FIELD}.minBackoffMilliseconds, 1000 by default, must not be above maxBackoffMilliseconds, \
                 30000 by default"
            )
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn store_mistakes(spec: &SqliteClusterSpec) -> Vec<String> {
    let restore = spec.bootstrap.as_ref().and_then(|bootstrap| bootstrap.restore.as_ref());
    let stores = [
        ("spec.backup.store", spec.backup.as_ref().map(|backups| &backups.store)),
        ("spec.bootstrap.restore.store", restore.and_then(|restore| restore.store.as_ref())),
    ];
    let names = |store: &BackupStore| {
        let BackupStore { s3, gcs, azure, filesystem } = store;
        [s3.is_some(), gcs.is_some(), azure.is_some(), filesystem.is_some()]
            .iter()
            .filter(|set| **set)
            .count()
    };
    let wrong = stores.into_iter().filter(|(_, store)| store.is_some_and(|store| names(store) != 1));
    wrong.map(|(field, _)| format!("{field} must be exactly one of s3, gcs, azure and filesystem")).collect()
}

/// The store that members are told of to begin with. One that is also that of backups is told of already.
pub fn restore_store(cluster: &SqliteCluster) -> Option<StoreAccess> {
    let wanted = cluster.spec.bootstrap.as_ref()?.restore.is_some();
    let restore = cluster.status.as_ref()?.restore.as_ref()?;
    let access = StoreAccess { store: restore.store.clone()?, encryption: restore.encryption.clone() };
    let own = cluster.spec.backup.as_ref().map(StoreAccess::of);
    (wanted && restore.phase != RestorePhase::Inert && own.as_ref() != Some(&access)).then_some(access)
}

/// What members are told of to begin with: that store, or what is imported.
fn beginning(cluster: &SqliteCluster) -> Option<Beginning> {
    let import = || {
        let import = cluster.spec.bootstrap.as_ref()?.import.clone()?;
        let known = cluster.status.as_ref()?.restore.as_ref()?;
        (known.phase != RestorePhase::Inert).then_some(Beginning::Import(import))
    };
    restore_store(cluster).map(Box::new).map(Beginning::Store).or_else(import)
}

/// What pods mount for stores of backups.
struct Stores {
    backup: Option<Mounts>,
    restore: Option<Mounts>,
}

/// What asks for a change of the pods once.
struct Nudges {
    restarted_at: Option<String>,
    updated_at: Option<String>,
}

/// Revision of the pod templates: a hash of the parts of the spec that make them and cannot be changed on a running pod,
/// and of nothing else, so that a newer operator restarts nothing unless it is asked to.
fn revision(
    spec: &SqliteClusterSpec,
    image: &str,
    (peer_traffic, client_traffic): (PeerTraffic, ClientTraffic),
    stores: &Stores,
    nudges: &Nudges,
) -> String {
    let in_memory = (spec.storage.medium == Medium::Memory).then_some(&spec.storage.size);
    let renderer = spec.update.follow_operator.then_some(env!("CARGO_PKG_VERSION"));
    let mut inputs = json!({
        "image": image,
        "raft": spec.raft,
        "placement": spec.placement,
        "database": spec.database,
        "observability": spec.observability,
        "authentication": spec.security.authentication,
        "peerTraffic": peer_traffic,
        "memory": in_memory,
        "renderer": renderer,
        "restartedAt": nudges.restarted_at,
        "updateAt": nudges.updated_at,
    });
    // Named only where they are, so that a cluster without backups, or TLS for clients, keeps the revision that it had.
    if client_traffic != ClientTraffic::Plaintext {
        inputs["clientTraffic"] = json!(client_traffic);
    }
    for (name, mounts) in [("backup", &stores.backup), ("restore", &stores.restore)] {
        if let Some(mounts) = mounts {
            inputs[name] = json!(mounts);
        }
    }
    content_hash(inputs.to_string().as_bytes())
}

/// Bytes of a quantity as 5Gi; `None` if it is none.
pub fn parse_quantity(text: &str) -> Option<u128> {
    parse_milli(text).map(|milli| milli.div_ceil(1000))
}

/// Thousandths of a quantity.
pub(super) fn parse_milli(text: &str) -> Option<u128> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator): (u128, u128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000 * 1_000, 1),
        "M" => (1_000 * 1_000_u128.pow(2), 1),
        "G" => (1_000 * 1_000_u128.pow(3), 1),
        "T" => (1_000 * 1_000_u128.pow(4), 1),
        "P" => (1_000 * 1_000_u128.pow(5), 1),
        "E" => (1_000 * 1_000_u128.pow(6), 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let value = whole.checked_mul(scale)?.checked_add(fraction)?;
    Some(value.checked_mul(numerator)?.div_ceil(scale.checked_mul(denominator)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{BootstrapStatus, SqliteClusterStatus, VersionStatus};
    use serde_json::Value;

    fn cluster(spec: Value) -> SqliteCluster {
        serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 4},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn quantities() {
        for (text, bytes) in [
            ("1Gi", Some(1 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("1000", Some(1000)),
            ("2k", Some(2000)),
            ("1500m", Some(2)),
            ("0", Some(0)),
            ("", None),
            ("Gi", None),
            ("1GB", None),
            ("-1Gi", None),
            ("1.2.3", None),
        ] {
            assert_eq!(parse_quantity(text), bytes, "{text}");
        }
    }

    #[test]
    fn the_minimal_manifest_is_valid() {
        let desired = validate(&cluster(json!({"storage": {"size": "1Gi"}})), "sqlited:1").unwrap();
        assert_eq!((desired.voters, desired.read_replicas, desired.generation), (3, 0, 4));
        assert_eq!(desired.image, "sqlited:1");
        assert_eq!(desired.volume_bytes, 1 << 30);
    }

    #[test]
    fn every_mistake_is_named() {
        let wrong = cluster(json!({
            "voters": 2, "readReplicas": 33, "storage": {"size": "big"},
            "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}},
        }));
        let Err(ValidateError::Invalid(wrong)) = validate(&wrong, "sqlited:1") else { panic!("valid") };
        assert_eq!(wrong.len(), 4, "{wrong:?}");
    }

    #[test]
    fn capture_that_members_would_refuse_is_named() {
        for (capture, part) in [
            (json!({}), None),
            (
                json!({"endpoint": "stdout", "tableFilter": "^(a|b)$", "maxSize": "2Gi", "retainSize": "2Gi"}),
                None,
            ),
            (json!({"tableFilter": "("}), Some("tableFilter: regex parse error")),
            (json!({"maxSize": "1023Ki"}), Some("maxSize must be a size of at least 1Mi")),
            (json!({"maxSize": "much"}), Some("maxSize must be")),
            (json!({"retainSize": "2Gi"}), Some("retainSize must be")),
            (json!({"retainSize": "much"}), Some("retainSize must be")),
            (json!({"minBackoffMilliseconds": 10, "maxBackoffMilliseconds": 10}), None),
            (json!({"minBackoffMilliseconds": 30_001}), Some("must not be above maxBackoffMilliseconds")),
            (json!({"maxBackoffMilliseconds": 999}), Some("must not be above maxBackoffMilliseconds")),
        ] {
            let spec = json!({"storage": {"size": "1Gi"}, "database": {"changeCapture": capture}});
            let said = validate(&cluster(spec), "sqlited:1").err().map(|error| error.to_string());
            let fits = match (&said, part) {
                (Some(said), Some(part)) => said.contains(part),
                (said, part) => said.is_none() && part.is_none(),
            };
            assert!(fits, "{capture}: {said:?}");
        }
    }

    #[test]
    fn a_schedule_that_makes_no_sense_is_named() {
        let with = |cron: &str, zone: &str| {
            let schedule = json!({"name": "nightly", "cron": cron, "timeZone": zone});
            let backups = json!({"store": {"s3": {"bucket": "b"}}, "schedules": [schedule]});
            validate(&cluster(json!({"storage": {"size": "1Gi"}, "backup": backups})), "sqlited:1")
        };
        assert_eq!(with("0 3 * * *", "Europe/Berlin").unwrap().schedules.len(), 1);
        for (cron, zone) in [("0 25 * * *", "UTC"), ("0 3 * * *", "Mars/Olympus")] {
            let wrong = with(cron, zone).unwrap_err().to_string();
            assert!(wrong.contains("spec.backup.schedules, nightly"), "{wrong}");
        }
    }

    /// The store that it begins with is mounted unless it is that of its backups, and nothing is where nothing is restored.
    #[test]
    fn the_store_of_the_beginning_is_known_once_it_is_written_down() {
        let store = |bucket: &str| json!({"s3": {"bucket": bucket}});
        let with = |backup: Option<&str>, phase: Option<&str>| {
            let mut spec = json!({
                "storage": {"size": "1Gi"}, "bootstrap": {"restore": {"backupRef": {"name": "b"}}},
            });
            if let Some(bucket) = backup {
                spec["backup"] = json!({"store": store(bucket)});
            }
            let mut cluster = cluster(spec);
            if let Some(phase) = phase {
                let status = json!({"restore": {"phase": phase, "store": store("a"), "clusterID": "old"}});
                cluster.status = serde_json::from_value(status).unwrap();
            }
            validate(&cluster, "sqlited:1").unwrap().beginning.is_some()
        };
        assert!(!with(None, None));
        assert!(with(None, Some("Pending")) && with(Some("b"), Some("Succeeded")));
        assert!(!with(Some("a"), Some("Pending")) && !with(None, Some("Inert")));
    }

    #[test]
    fn a_newer_operator_turns_on_no_tls_that_a_cluster_began_without() {
        let mut old = cluster(json!({"storage": {"size": "1Gi"}}));
        let new = validate(&old, "i").unwrap();
        assert_eq!((new.client_traffic, new.tls_mode(Port::Clients)), (ClientTraffic::Tls, TlsMode::Managed));
        let begun = |traffic: Value| {
            let bootstrap = json!({"member": "orders-0", "phase": "Complete"});
            serde_json::from_value(json!({"bootstrap": bootstrap, "clientTraffic": traffic})).unwrap()
        };
        for (told, traffic, mode) in [
            (Value::Null, ClientTraffic::Plaintext, TlsMode::Disabled),
            (json!("Plaintext"), ClientTraffic::Plaintext, TlsMode::Disabled),
            (json!("Tls"), ClientTraffic::Tls, TlsMode::Managed),
        ] {
            old.status = Some(begun(told.clone()));
            let found = validate(&old, "i").unwrap();
            assert_eq!((found.client_traffic, found.tls_mode(Port::Clients)), (traffic, mode), "{told}");
        }
    }

    #[test]
    fn an_unset_image_is_resolved_once() {
        let mut old = cluster(json!({"storage": {"size": "1Gi"}}));
        let first = validate(&old, "sqlited:1").unwrap();
        old.status = Some(ran("sqlited:1"));
        let later = validate(&old, "sqlited:2").unwrap();
        assert_eq!(later.image, "sqlited:1");
        assert_eq!(first.voter_revision, later.voter_revision);
    }

    #[test]
    fn a_bad_image_is_taken_back_by_taking_it_from_the_spec() {
        let mut old = cluster(json!({"storage": {"size": "1Gi"}}));
        let first = validate(&old, "sqlited:1").unwrap();
        old.status = Some(ran("sqlited:1"));
        old.status.as_mut().unwrap().version.target = Some("sqlited:bad".into());
        assert_eq!(validate(&old, "sqlited:1").unwrap().voter_revision, first.voter_revision);
        old.status = Some(SqliteClusterStatus {
            version: VersionStatus { target: Some("sqlited:bad".into()), ..VersionStatus::default() },
            ..SqliteClusterStatus::default()
        });
        assert_eq!(validate(&old, "sqlited:1").unwrap().image, "sqlited:1", "before anything ran");
    }

    #[test]
    fn what_is_wanted_is_kept_while_a_member_has_not_come_up_yet() {
        let mut old = cluster(json!({"storage": {"size": "1Gi"}}));
        let version = VersionStatus { target: Some("sqlited:1".into()), ..VersionStatus::default() };
        let bootstrap = BootstrapStatus { member: "orders-0".into(), phase: BootstrapPhase::Complete };
        old.status = Some(SqliteClusterStatus {
            version,
            bootstrap: Some(bootstrap),
            ..SqliteClusterStatus::default()
        });
        assert_eq!(validate(&old, "sqlited:2").unwrap().image, "sqlited:1");
    }

    /// All members were in service with this image.
    fn ran(image: &str) -> SqliteClusterStatus {
        let image = Some(image.to_owned());
        SqliteClusterStatus {
            version: VersionStatus { target: image.clone(), stable: image, ..VersionStatus::default() },
            ..SqliteClusterStatus::default()
        }
    }

    #[test]
    fn a_newer_operator_is_followed_when_asked_to() {
        let mut old = cluster(json!({"storage": {"size": "1Gi"}}));
        old.status = Some(ran("sqlited:1"));
        let waits = validate(&old, "sqlited:2").unwrap();
        assert_eq!(
            (waits.image.as_str(), waits.newer_image.as_deref()),
            ("sqlited:1", Some("sqlited:2")),
            "not by itself"
        );
        old.metadata.annotations = Some([(ANNOTATION_UPDATE.to_owned(), "now".to_owned())].into());
        let nudged = validate(&old, "sqlited:2").unwrap();
        assert_eq!((nudged.image.as_str(), nudged.newer_image), ("sqlited:2", None));
        let version = &mut old.status.as_mut().unwrap().version;
        version.target = Some("sqlited:2".into());
        assert_eq!(validate(&old, "sqlited:2").unwrap().image, "sqlited:2", "until it is done");
        let version = &mut old.status.as_mut().unwrap().version;
        (version.stable, version.updated_at) = (Some("sqlited:2".into()), Some("now".into()));
        assert_eq!(validate(&old, "sqlited:3").unwrap().image, "sqlited:2", "once");
        old.spec.update.follow_operator = true;
        assert_eq!(validate(&old, "sqlited:3").unwrap().image, "sqlited:3");
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for (spec, word) in [
            (json!({"storage": {"size": "1Gi"}, "fencing": [{"member": "other-0"}]}), "no member"),
            (
                json!({"voters": 1, "storage": {"size": "1Gi"}, "fencing": [{"member": "orders-0"}]}),
                "every voter",
            ),
            (json!({"storage": {"size": "2Gi", "autogrow": {"maxSize": "1Gi"}}}), "maxSize"),
            (json!({"hibernated": true, "storage": {"size": "1Gi", "medium": "Memory"}}), "Memory"),
            (
                json!({"storage": {"size": "1Gi"}, "update": {"maintenanceWindows": [
                    {"cron": "0 3 * * 9", "durationMinutes": 60}]}}),
                "maintenanceWindows",
            ),
        ] {
            let error = validate(&cluster(spec), "i").unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn only_what_makes_the_template_moves_its_revision() {
        let base = validate(&cluster(json!({"storage": {"size": "1Gi"}})), "i").unwrap();
        let same =
            validate(&cluster(json!({"storage": {"size": "2Gi"}, "voters": 5, "readReplicas": 2})), "i")
                .unwrap();
        assert_eq!(base.voter_revision, same.voter_revision);
        let live = validate(
            &cluster(json!({
                "storage": {"size": "1Gi"}, "resources": {"requests": {"cpu": "1"}},
                "podTemplate": {"metadata": {"labels": {"team": "a"}}},
            })),
            "i",
        )
        .unwrap();
        assert_eq!(base.voter_revision, live.voter_revision, "what is changed on running pods restarts none");
        let mut nudged = cluster(json!({"storage": {"size": "1Gi"}}));
        nudged.metadata.annotations = Some([(ANNOTATION_RESTARTED.to_owned(), "now".to_owned())].into());
        assert_ne!(base.voter_revision, validate(&nudged, "i").unwrap().voter_revision);
        let other = validate(&cluster(json!({"storage": {"size": "1Gi"}, "image": "j"})), "i").unwrap();
        assert_ne!(base.voter_revision, other.voter_revision);
        assert_ne!(base.voter_revision, base.replica_revision);
    }
}
