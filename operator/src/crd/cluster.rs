//! `SqliteCluster`: a Raft group of voters and read replicas, as a user asks for it.

use super::backup::Backups;
use super::bootstrap::Bootstrap;
use super::change_capture::ChangeCapture;
use super::observability::Observability;
use super::placement::Placement;
use super::security::Security;
use super::service::{ServiceSpec, default_services};
use super::status::SqliteClusterStatus;
use super::storage::Storage;
use super::update::Update;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a user asks for: how many members, on what volumes, with which image.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sqlite-operator.io",
    version = "v1alpha1",
    kind = "SqliteCluster",
    plural = "sqliteclusters",
    singular = "sqlitecluster",
    shortname = "sqc",
    category = "sqlite",
    namespaced,
    status = "SqliteClusterStatus",
    derive = "PartialEq",
    doc = "A highly available SQLite database: a Raft group of voters and read replicas.",
    scale(
        spec_replicas_path = ".spec.readReplicas",
        status_replicas_path = ".status.readReplicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "VOTERS",
        type_ = "string",
        json_path = ".status.votersReady",
        description = "Voters that are ready, of those that are wanted"
    ),
    printcolumn(
        name = "LEADER",
        type_ = "string",
        json_path = ".status.leader.member",
        description = "The member that leads"
    ),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether linearizable reads and writes are served"
    ),
    printcolumn(
        name = "STATUS",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready, or why not"
    ),
    printcolumn(
        name = "VERSION",
        type_ = "string",
        json_path = ".status.version.current",
        description = "Version that the members run"
    ),
    printcolumn(
        name = "UPDATE",
        type_ = "string",
        json_path = ".status.rollout.state",
        priority = 1,
        description = "How the last change of the pods goes"
    ),
    printcolumn(
        name = "LAST-BACKUP",
        type_ = "date",
        json_path = ".status.backup.lastSuccessTime",
        description = "The moment that the last successful backup holds"
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must begin with a letter and hold only a-z, 0-9 and '-': choose another name"),
    validation = Rule::new("!(has(self.spec.hibernated) && self.spec.hibernated && has(self.spec.storage.medium) && self.spec.storage.medium == 'Memory')")
        .message("hibernated needs volumes that outlive their pods: with storage.medium Memory everything would be lost"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name must not be longer than 40 characters, because names of pods and Services are made from it: choose a shorter name"),
    validation = Rule::new("!self.metadata.name.matches('-(replica|nodes|rw|ro|any|app)$')")
        .message("metadata.name must not end in -replica, -nodes, -rw, -ro, -any or -app, which name parts of a cluster: choose another name")
)]
#[serde(rename_all = "camelCase")]
pub struct SqliteClusterSpec {
    /// Stops reconciliation: nothing is created, changed or removed until it is false again.
    #[serde(default)]
    pub paused: bool,

    /// Takes all members away and keeps their volumes; false brings them back with everything they held.
    #[serde(default)]
    pub hibernated: bool,

    /// Image of the members. Absent: the release of the operator that first saw this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Members that vote: 1, 3, 5 or 7.
    #[serde(default = "default_voters")]
    #[x_kube(validation = Rule::new("self in [1, 3, 5, 7]")
        .message("voters must be 1, 3, 5 or 7: an even number survives no more failures than the odd number below it"))]
    pub voters: i32,

    /// Members that replicate and serve reads but do not vote; what the scale subresource sets.
    #[serde(default)]
    #[schemars(range(min = 0, max = 32))]
    pub read_replicas: i32,

    /// How the members keep in touch.
    #[serde(default)]
    pub raft: Raft,

    /// Where the members run.
    #[serde(default)]
    pub placement: Placement,

    /// The volume of each member.
    pub storage: Storage,

    /// Compute resources of each member. They are changed on running pods where Kubernetes can, else by a rolling
    /// restart.
    #[serde(default)]
    pub resources: Resources,

    /// How the members get another image or other settings.
    #[serde(default)]
    pub update: Update,

    /// What the cluster begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,

    /// Backups. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backups>,

    /// Settings of the database itself.
    #[serde(default)]
    pub database: Database,

    /// Who may reach the members.
    #[serde(default)]
    pub security: Security,

    /// Services in front of the members, named `<cluster>-<name>`.
    #[serde(default = "default_services")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub services: Vec<ServiceSpec>,

    /// How voluntary disruptions, as the drain of a Kubernetes node, are bounded.
    #[serde(default)]
    pub disruption: Disruption,

    /// How lost members are replaced.
    #[serde(default)]
    pub recovery: Recovery,

    /// Members that get no traffic and do not lead, though they go on replicating and voting.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["member"]))]
    pub fencing: Vec<Fence>,

    /// What the members tell about themselves.
    #[serde(default)]
    pub observability: Observability,

    /// Additions to the pods of the members.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// Timing of Raft.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Raft {
    /// LAN for members in one region; WAN for members that are tens of milliseconds apart.
    #[serde(default)]
    pub profile: RaftProfile,
}

/// A set of Raft timings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RaftProfile {
    /// Members in one region.
    #[default]
    #[serde(rename = "LAN")]
    Lan,
    /// Members that are tens of milliseconds apart.
    #[serde(rename = "WAN")]
    Wan,
}

impl RaftProfile {
    /// As the node's command line spells it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }
}

/// Compute resources, as of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Upper bounds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::quantities")]
    pub limits: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    /// What is reserved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::quantities")]
    pub requests: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
}

/// Settings of the database, the same on every member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.extensionModules) || has(self.extensions)")
    .message("extensionModules names modules of extensions: name the extensions in extensions"))]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Whether foreign key constraints are enforced.
    #[serde(default)]
    pub foreign_keys: bool,
    /// How often the leader has the members VACUUM the database, in seconds; 0: never. Writes wait meanwhile. A change
    /// restarts the members.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 31536000))]
    pub auto_vacuum_seconds: i32,
    /// Extensions of SQLite that the image of the members carries: paths of files, and of directories and archives of
    /// files. A change restarts the members one after the other, and counts once all have it (docs/extensions.md).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::extension_paths")]
    pub extensions: Vec<String>,
    /// Extensions that the cluster still has, or had, and is not to have any more: members with an empty disk need them until
    /// a change is complete, and tests of backups for entries of before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::extension_paths")]
    pub former_extensions: Vec<String>,
    /// Modules of `extensions` whose virtual tables writes may use, because their rows do not depend on the member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::extension_modules")]
    pub extension_modules: Vec<String>,
    /// What writes do to rows, recorded and sent to a sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_capture: Option<ChangeCapture>,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// How voluntary disruptions are bounded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// Auto keeps a quorum of voters running through evictions; None leaves evictions unbounded.
    #[serde(default)]
    pub pod_disruption_budget: DisruptionBudget,
}

/// Whether a PodDisruptionBudget is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DisruptionBudget {
    /// By quorum slack; none for a single voter.
    #[default]
    Auto,
    /// No budget.
    None,
}

/// How lost members are replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// A voter that was neither heard nor Ready for this long is replaced by a new member.
    #[serde(default = "default_replacement_seconds")]
    #[schemars(range(min = 10, max = 604800))]
    pub member_replacement_after_seconds: i32,
    /// What is agreed to after a quorum of voters was lost for good.
    #[serde(default)]
    pub quorum_loss: QuorumLoss,
    /// That this entry of the log is passed over, and its writes are lost. It must be the one of status.fatalEntry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_entry: Option<SkippedEntry>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            member_replacement_after_seconds: default_replacement_seconds(),
            quorum_loss: QuorumLoss::default(),
            skip_entry: None,
        }
    }
}

/// What is agreed to after a quorum of voters was lost for good.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuorumLoss {
    /// That the cluster goes on with what one survivor holds, and loses what only the others held. It must equal one
    /// of status.quorum.lossPoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<LossPoint>,
}

/// Up to where a survivor's log reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LossPoint {
    /// The member that answers.
    #[schemars(length(min = 1, max = 63))]
    pub survivor: String,
    /// Last entry of its log: later writes are lost.
    #[schemars(range(min = 0))]
    pub index: i64,
    /// Term of that entry.
    #[schemars(range(min = 0))]
    pub term: i64,
}

/// An entry of the log that is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkippedEntry {
    /// Its index.
    #[schemars(range(min = 1))]
    pub index: i64,
    /// Its term: another entry may come to have its index.
    #[schemars(range(min = 0))]
    pub term: i64,
}

/// A member that gets no traffic and does not lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// Its name, which is its pod's.
    #[schemars(length(min = 1, max = 63))]
    pub member: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub reason: Option<String>,
}

/// Additions to the pods of the members.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.serviceAccountAnnotations) || self.serviceAccountAnnotations.all(k, !k.startsWith('sqlite-operator.io/'))")
    .message("annotations under sqlite-operator.io/ belong to the operator: use a prefix of your own"))]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations.
    #[serde(default)]
    pub metadata: PodMetadata,
    /// Annotations of the members' ServiceAccount, by which clouds give pods an identity, to reach a store of backups
    /// without a Secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::annotations")]
    pub service_account_annotations: BTreeMap<String, String>,
}

/// Labels and annotations to add to each pod. They are changed on running pods, without a restart.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.labels) || self.labels.all(k, !k.startsWith('sqlite-operator.io/') && !k.startsWith('app.kubernetes.io/'))")
    .message("labels under sqlite-operator.io/ and app.kubernetes.io/ belong to the operator: use a prefix of your own"))]
#[x_kube(validation = Rule::new("!has(self.annotations) || self.annotations.all(k, !k.startsWith('sqlite-operator.io/'))")
    .message("annotations under sqlite-operator.io/ belong to the operator: use a prefix of your own"))]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::annotations")]
    pub annotations: BTreeMap<String, String>,
}

fn default_voters() -> i32 {
    3
}

fn default_replacement_seconds() -> i32 {
    300
}
