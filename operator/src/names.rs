//! Names, labels and annotations: every string that another part of the system must spell the same way.

use crate::crd::Port;
use std::collections::BTreeMap;
use std::fmt;

/// Field manager of everything that a reconcile applies.
pub const FIELD_MANAGER: &str = "sqlite-operator";
/// Field manager of what is changed on running pods.
pub const POD_MANAGER: &str = "sqlite-operator/pods";
/// Field manager of the label that takes a member out of its Services.
pub const SERVING_MANAGER: &str = "sqlite-operator/serving";
/// Value of `app.kubernetes.io/managed-by`.
pub const MANAGED_BY: &str = "sqlite-operator";

/// Label: whose an object is. Every child has it.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: which cluster a child belongs to.
pub const LABEL_CLUSTER: &str = "sqlite-operator.io/cluster";
/// Label: what the member is.
pub const LABEL_ROLE: &str = "sqlite-operator.io/role";
/// Label: which member a claim belongs to. Pods have Kubernetes' own, `statefulset.kubernetes.io/pod-name`, which says the same.
pub const LABEL_MEMBER: &str = "sqlite-operator.io/member";
/// Label: whether Services send traffic to the member.
pub const LABEL_SERVING: &str = "sqlite-operator.io/serving";
/// Label: of which role a ControllerRevision keeps the pod template; or [`KEEPS_SPEC`].
pub const LABEL_TEMPLATE: &str = "sqlite-operator.io/template";
/// Value of [`LABEL_TEMPLATE`]: it keeps the spec that was accepted last.
pub const KEEPS_SPEC: &str = "spec";

/// Label of pods that test a backup: of which cluster.
pub const LABEL_VERIFIES: &str = "sqlite-operator.io/verifies";
/// Label of SqliteBackups: which schedule of their cluster made them.
pub const LABEL_SCHEDULE: &str = "sqlite-operator.io/schedule";

/// Annotation of SqliteBackups that a schedule made: the time that was due.
pub const ANNOTATION_SCHEDULED: &str = "sqlite-operator.io/scheduledFor";
/// Finalizer of SqliteBackups whose objects in the store go with them.
pub const FINALIZER_BACKUP: &str = "sqlite-operator.io/backup-objects";
/// Annotation of pods, StatefulSets and ControllerRevisions: revision of the pod template.
pub const ANNOTATION_REVISION: &str = "sqlite-operator.io/template-revision";
/// Annotation of pods: keys and hash of the labels and annotations that the spec added to it.
pub const ANNOTATION_METADATA: &str = "sqlite-operator.io/pod-metadata";
/// Annotation of pods: the compute resources that the spec gave it.
pub const ANNOTATION_RESOURCES: &str = "sqlite-operator.io/resources";
/// Annotation of a SqliteCluster: the revision that may be rolled out though the strategy is Supervised.
pub const ANNOTATION_APPROVED: &str = "sqlite-operator.io/approvedRevision";
/// Annotation of a SqliteCluster: another value restarts all members once.
pub const ANNOTATION_RESTARTED: &str = "sqlite-operator.io/restartedAt";
/// Annotation of a SqliteCluster: another value takes over the operator's image and template once.
pub const ANNOTATION_UPDATE: &str = "sqlite-operator.io/updateAt";
/// Annotation of a SqliteCluster: `true` has the chart's admission policy refuse its deletion. The operator does not read it.
pub const ANNOTATION_DELETION_PROTECTION: &str = "sqlite-operator.io/deletionProtection";
/// Annotation of a SqliteBackup: another value, a time, has it tested once.
pub const ANNOTATION_VERIFY: &str = "sqlite-operator.io/verifyAt";
/// Annotation of SqliteBackups: uid of the SqliteRestore that it undoes.
pub const ANNOTATION_UNDOES: &str = "sqlite-operator.io/undoes";
/// Annotation of SqliteBackups: name of that SqliteRestore, which the backup's own name may have only a part of.
pub const ANNOTATION_UNDONE: &str = "sqlite-operator.io/undone";
/// Annotation of a SqliteCluster: another value has another authority take the place of the present one, on each port whose
/// authority is the cluster's own.
pub const ANNOTATION_ROTATE_CERTIFICATES: &str = "sqlite-operator.io/rotateCertificatesAt";
/// Annotation of a SqliteCluster: another value has other passwords take the place of those that the operator made.
pub const ANNOTATION_ROTATE_PASSWORD: &str = "sqlite-operator.io/rotatePasswordAt";
/// Annotation of Secrets with an authority or with passwords: the wish for others that was answered.
pub const ANNOTATION_ROTATED: &str = "sqlite-operator.io/rotated-at";
/// Annotation of the operator's Secret: when other passwords were handed over, in seconds since 1970.
pub const ANNOTATION_HANDED_OVER: &str = "sqlite-operator.io/handed-over";
/// Annotation of Secrets with certificates: fingerprints of the authorities that they are of.
pub const ANNOTATION_ISSUERS: &str = "sqlite-operator.io/issuers";
/// Annotation of Secrets with certificates: since when all authorities in it are trusted, in seconds since 1970.
pub const ANNOTATION_TRUSTED_SINCE: &str = "sqlite-operator.io/trusted-since";
/// Annotation of pods: what the kubelet was last asked to look for.
pub const ANNOTATION_REFRESHED: &str = "sqlite-operator.io/refreshed";
/// Annotation of pods that talk TLS to clients: whether they answer without it too.
pub const ANNOTATION_CLIENT_TRAFFIC: &str = "sqlite-operator.io/client-traffic";
/// Annotation of claims: which cluster's data is on the volume.
pub const ANNOTATION_CLUSTER_ID: &str = "sqlite-operator.io/cluster-id";
/// Annotation of claims: Raft id of the member that lives on the volume.
pub const ANNOTATION_NODE_ID: &str = "sqlite-operator.io/node-id";
/// Annotation of the Secret with the users that the operator made: of which passwords it has the hashes.
pub const ANNOTATION_USERS: &str = "sqlite-operator.io/users";

/// Port for clients and for the operator.
pub const PORT_HTTP: i32 = 4001;
/// Port between members.
pub const PORT_RAFT: i32 = 4002;
/// Port for probes and metrics.
pub const PORT_HEALTH: i32 = 4003;
/// Name of the volume, of its mount and of the claim template.
pub const DATA: &str = "data";
/// Name of the database container.
pub const CONTAINER: &str = "sqlited";

/// What a member's pod is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodRole {
    /// Votes.
    Voter,
    /// Replicates and serves reads.
    ReadReplica,
}

impl PodRole {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Voter, Self::ReadReplica];

    /// As the label spells it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::ReadReplica => "read-replica",
        }
    }
}

/// Name and namespace of a cluster: what every child's name is made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// How names of what belongs to a port spell it.
fn part(port: Port) -> &'static str {
    match port {
        Port::Peers => "peer",
        Port::Clients => "client",
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ClusterName {
    /// A name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Name of the StatefulSet of a role.
    pub fn set(&self, role: PodRole) -> String {
        match role {
            PodRole::Voter => self.name.clone(),
            PodRole::ReadReplica => format!("{}-replica", self.name),
        }
    }

    /// Name of a member, which is its pod's.
    pub fn member(&self, role: PodRole, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.set(role))
    }

    /// Role and ordinal of a member of this cluster by its name.
    pub fn parse_member(&self, member: &str) -> Option<(PodRole, usize)> {
        let rest = member.strip_prefix(&self.name)?.strip_prefix('-')?;
        let (role, ordinal) = match rest.strip_prefix("replica-") {
            Some(ordinal) => (PodRole::ReadReplica, ordinal),
            None => (PodRole::Voter, rest),
        };
        let canonical = ordinal == "0" || !ordinal.starts_with('0');
        let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
        (canonical && digits).then(|| ordinal.parse().ok().map(|ordinal| (role, ordinal)))?
    }

    /// Name of a member's claim.
    pub fn claim(&self, member: &str) -> String {
        format!("{DATA}-{member}")
    }

    /// Name of the headless Service that names the members.
    pub fn nodes_service(&self) -> String {
        format!("{}-nodes", self.name)
    }

    /// Name of a Service of the spec.
    pub fn service(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// Name of the Secret with the user of the applications.
    pub fn application_secret(&self) -> String {
        format!("{}-app", self.name)
    }

    /// Name of the Secret with the operator's user.
    pub fn operator_secret(&self) -> String {
        format!("{}-operator", self.name)
    }

    /// Name of the Secret with the users that the members read.
    pub fn users_secret(&self) -> String {
        format!("{}-users", self.name)
    }

    /// Name of the Secret with the authority of a port, and its key.
    pub fn authority_secret(&self, port: Port) -> String {
        format!("{}-{}-ca", self.name, part(port))
    }

    /// Name of the Secret with the certificates of a port, which pods mount.
    pub fn certificates_secret(&self, port: Port) -> String {
        format!("{}-{}-tls", self.name, part(port))
    }

    /// Name of the Certificate that cert-manager is asked for.
    pub fn certificate(&self, port: Port) -> String {
        format!("{}-{}", self.name, part(port))
    }

    /// Name of the Secret that cert-manager puts it into.
    pub fn issued_secret(&self, port: Port) -> String {
        format!("{}-{}-issued", self.name, part(port))
    }

    /// The name that every certificate for clients is for, whatever the spec says: that of the headless Service.
    pub fn tls_name(&self) -> String {
        format!("{}.{}.svc", self.nodes_service(), self.namespace)
    }

    /// Name of the ConfigMap with what members are told of a store of backups: `backup` or `restore`.
    pub fn config_map(&self, purpose: &str) -> String {
        format!("{}-{purpose}", self.name)
    }

    /// Name of the PodDisruptionBudget of a role.
    pub fn budget(&self, role: PodRole) -> String {
        self.set(role)
    }

    /// Name of the NetworkPolicy of the members.
    pub fn network_policy(&self) -> String {
        self.name.clone()
    }

    /// Name of the ServiceAccount of the pods.
    pub fn service_account(&self) -> String {
        self.name.clone()
    }

    /// Name of the ControllerRevision that keeps a pod template.
    pub fn template(&self, revision: &str) -> String {
        format!("{}-template-{revision}", self.name)
    }

    /// Name of the ControllerRevision that keeps a spec, by the hash of it.
    pub fn spec(&self, hash: &str) -> String {
        format!("{}-spec-{hash}", self.name)
    }

    /// Labels that select all members, or those of a role. They never change.
    pub fn selector(&self, role: Option<PodRole>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([(LABEL_CLUSTER.to_owned(), self.name.clone())]);
        if let Some(role) = role {
            labels.insert(LABEL_ROLE.to_owned(), role.label().to_owned());
        }
        labels
    }

    /// Labels of a child.
    pub fn labels(&self, component: &str, version: Option<&str>) -> BTreeMap<String, String> {
        let version = version.map(|version| ("app.kubernetes.io/version", version));
        [
            ("app.kubernetes.io/name", "sqlited"),
            ("app.kubernetes.io/instance", &self.name),
            ("app.kubernetes.io/component", component),
            ("app.kubernetes.io/part-of", "sqlite"),
            (LABEL_MANAGED_BY, MANAGED_BY),
            (LABEL_CLUSTER, &self.name),
        ]
        .into_iter()
        .chain(version)
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }
}

/// Revision of a role's pod template, by the revision of the cluster's.
pub fn role_revision(revision: &str, role: PodRole) -> String {
    match role {
        PodRole::Voter => revision.to_owned(),
        PodRole::ReadReplica => format!("{revision}-replica"),
    }
}

/// The version that an image's reference tells, fit for a label.
pub fn image_version(image: &str) -> String {
    let reference = image.split('@').next().unwrap_or_default();
    let last = reference.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map_or("latest", |(_, tag)| tag);
    let fit: String = tag
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' })
        .take(63)
        .collect();
    fit.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// A short, stable name for a content: FNV-1a, as hexadecimal digits. Not for adversaries.
pub fn content_hash(content: &[u8]) -> String {
    let hash = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}").chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_and_parsed_alike() {
        let name = ClusterName::new("default", "orders");
        for role in PodRole::ALL {
            for ordinal in [0, 1, 10] {
                assert_eq!(name.parse_member(&name.member(role, ordinal)), Some((role, ordinal)));
            }
        }
        for foreign in [
            "orders",
            "orders-",
            "orders-x",
            "orders-01",
            "orders-replica",
            "order-0",
            "orders-+1",
            "orders-a-0",
        ] {
            assert_eq!(name.parse_member(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn an_image_tells_its_version() {
        assert_eq!(image_version("r.example:5000/a/sqlited:1.2.3"), "1.2.3");
        assert_eq!(image_version("sqlited"), "latest");
        assert_eq!(image_version("r.example:5000/sqlited"), "latest");
        assert_eq!(image_version("sqlited:1.0@sha256:abcd"), "1.0");
    }

    #[test]
    fn hashes_are_short_and_stable() {
        assert_eq!(content_hash(b""), "cbf29ce48422");
        assert_ne!(content_hash(b"a"), content_hash(b"b"));
    }
}
