//! What is, as the operator last saw it.
//!
//! Nothing in here moves while a cluster is at rest, so that steady state writes nothing: positions in the log,
//! durations and percentages are metrics.

use super::backup::{BackupEncryption, BackupStore};
use super::bootstrap::RestoreTarget;
use super::cluster::LossPoint;
use super::tls::{ClientTraffic, PeerTraffic, Port};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is, as the operator last saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqliteClusterStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Minted once; in every peer message and on every claim.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cluster_id: Option<String>,
    /// How the cluster began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapStatus>,
    /// What the members run.
    #[serde(default)]
    pub version: VersionStatus,
    /// Revision of the pod template of voters that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_revision: Option<String>,
    /// How members talk to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_traffic: Option<PeerTraffic>,
    /// How clients are answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_traffic: Option<ClientTraffic>,
    /// The certificates of the ports that talk TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"]))]
    pub certificates: Vec<CertificateStatus>,
    /// Voters in the membership.
    #[serde(default)]
    pub voters: i32,
    /// Voters that are in the membership, heard by the leader, and Ready.
    #[serde(default)]
    pub ready_voters: i32,
    /// Ready voters of those that are wanted, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voters_ready: Option<String>,
    /// Read replicas in the membership.
    #[serde(default)]
    pub read_replicas: i32,
    /// Read replicas that are in the membership and Ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the read replicas, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Who leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderStatus>,
    /// How many failures the cluster can take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,
    /// The entry of the log that no member gets over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fatal_entry: Option<FatalEntryStatus>,
    /// The members, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<MemberStatus>,
    /// Addresses for clients, by name of the Service in the spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, String>,
    /// The volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageStatus>,
    /// A change of the pods that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// How backups go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
    /// The backup that the cluster began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<BootstrapRestoreStatus>,
    /// Claims of removed members that were kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub orphaned_volumes: Vec<String>,
    /// What holds at this moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The certificates of a port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Which port.
    pub port: Port,
    /// When the first of them ends.
    pub not_after: Time,
    /// How far the exchange of their authority is, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    /// Since when the same members are waited for in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub waiting_since: Option<Time>,
}

/// How the cluster began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapStatus {
    /// The member that initialises the cluster, chosen before it does.
    pub member: String,
    /// How far the beginning got.
    pub phase: BootstrapPhase,
}

/// How far the beginning of a cluster got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum BootstrapPhase {
    /// The member is chosen; nothing is initialised.
    Chosen,
    /// A member belongs to the cluster. Nothing will ever be initialised again.
    Initialised,
    /// All voters that were wanted at the time have joined once.
    Complete,
}

/// What the members run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// Lowest version that a member reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Image that the members shall run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Image that all members last had in service together; what they run where the spec names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// Value of the annotation sqlite-operator.io/updateAt that was followed to its end last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderStatus {
    /// Name of the member.
    pub member: String,
    /// Term it was elected in.
    pub term: i64,
    /// Since when the operator knows it.
    #[schemars(schema_with = "super::schema::time")]
    pub since_time: Time,
}

/// How many failures the cluster can take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Voters that must agree.
    pub size: i32,
    /// Voters that are heard and caught up.
    pub healthy_voters: i32,
    /// Voters that can still be lost.
    pub tolerable_failures: i32,
    /// Without a quorum: up to where the log of each voter reaches that answers. One of them is what
    /// spec.recovery.quorumLoss.consent may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["survivor"]))]
    pub loss_points: Vec<LossPoint>,
}

/// An entry of the log that no member gets over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FatalEntryStatus {
    /// Its index.
    pub index: i64,
    /// Its term.
    pub term: i64,
    /// How often in a row it ended one.
    pub crashes: i64,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name of the member, which is its pod's.
    pub name: String,
    /// What it is in the membership.
    pub role: MemberRole,
    /// Its Raft id.
    #[serde(default, rename = "nodeID", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Failure zone, where its Kubernetes node or the pod tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Kubernetes node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_node: Option<String>,
    /// Version it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether its pod is Ready.
    pub ready: bool,
    /// How far it is behind the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// What comparing its database with the others' came to; absent before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<ChecksumState>,
    /// How full its volume is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeBucket>,
    /// Whether it is kept from traffic and leadership.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What comparing a member's database with the others' came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ChecksumState {
    /// All that were compared are equal.
    Agrees,
    /// It is what most voters have, and another one's is not.
    OthersDiffer,
    /// It is not what most voters have.
    Differs,
    /// No state has a majority.
    Divided,
    /// A page on its disk is not what was written there.
    Damaged,
}

/// How full a volume is, in steps that do not move at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum VolumeBucket {
    /// There is room.
    Roomy,
    /// Fuller than the threshold at which it grows, or would.
    NearFull,
    /// Less than a hundredth is free.
    Full,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberRole {
    /// Votes.
    Voter,
    /// Replicates and serves reads.
    ReadReplica,
    /// Replicates in order to become a voter.
    Learner,
    /// Not in the membership (yet).
    Candidate,
}

/// How far a member is behind the leader, in steps that do not move at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Lag {
    /// Caught up.
    CaughtUp,
    /// Behind.
    Behind,
    /// Not heard by the leader.
    Unheard,
}

/// The volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageStatus {
    /// Size that is asked for.
    pub requested: String,
    /// Size of the smallest volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<String>,
}

/// A change of the pods that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// How it goes.
    pub state: RolloutState,
    /// Pods that have the wanted template.
    pub updated: i32,
    /// Pods there are.
    pub total: i32,
    /// Revision that the spec asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Revision that all pods had when they were last all in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<String>,
    /// Revision whose canary failed. It is not tried again until the spec asks for another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_revision: Option<String>,
    /// The first member that was restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
    /// What is waited for, or what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The first member that was restarted in a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// Its name.
    pub member: String,
    /// Since when it is in service with the new template; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub in_service_since: Option<Time>,
    /// Whether it was in service for as long as it had to be.
    #[serde(default)]
    pub passed: bool,
}

/// How a rollout goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutState {
    /// Pods are being restarted one at a time.
    Progressing,
    /// The first one is watched.
    Canary,
    /// For a maintenance window.
    WaitingForWindow,
    /// For the annotation sqlite-operator.io/approvedRevision.
    WaitingForApproval,
    /// The target cannot follow what the members run.
    Refused,
    /// The canary failed.
    Failed,
    /// The canary failed, and the former template is back.
    RolledBack,
    /// Every pod has the wanted template.
    Complete,
}

/// How backups go. Nothing in here moves between backups: while the archive is on target, the last moment that can be
/// reached is that many seconds ago.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// The moment that the last successful backup holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub last_success_time: Option<Time>,
    /// The last time that restoring a backup was tried and worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub last_verified_time: Option<Time>,
    /// From when to when a restore can reach any moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_window: Option<RecoveryWindow>,
    /// How far the continuous archive is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,
    /// At most the writes of so many seconds are in no archive yet: rpoTargetSeconds, or that doubled until it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<i64>,
    /// The schedules, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub schedules: Vec<ScheduleStatus>,
}

/// From when to when a restore can reach any moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryWindow {
    /// The first moment.
    #[schemars(schema_with = "super::schema::time")]
    pub earliest: Time,
    /// The last one; absent while the archive is on target and the cluster awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub latest: Option<Time>,
}

/// How far the continuous archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ArchiveStatus {
    /// It has no base backup yet.
    Starting,
    /// At most its target behind.
    OnTarget,
    /// Further behind.
    Behind,
    /// Writes are missing that no member has any more.
    Broken,
}

/// How a schedule goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// What it counts by: expression and time zone.
    pub cron: String,
    /// From when on it counts: when it was first seen, or the last time that was due, whether a backup was made then or
    /// not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub counted_from: Option<Time>,
    /// The last time that was due and that a backup was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub last_schedule_time: Option<Time>,
    /// The moment that its last successful backup holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub last_success_time: Option<Time>,
    /// The last time that was due and for which no backup could begin within its deadline, if it is the last that was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub missed_time: Option<Time>,
    /// The next time that is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub next_time: Option<Time>,
}

/// The backup that the cluster began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapRestoreStatus {
    /// How far it is. Once it is done, spec.bootstrap changes nothing any more.
    pub phase: RestorePhase,
    /// The store that it is read from, as the spec says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::open_object")]
    pub store: Option<BackupStore>,
    /// By which keys it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<BackupEncryption>,
    /// Of which cluster it is.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Path of the backup; absent where a moment is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The moment; absent where a backup is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RestoreTarget>,
    /// The last entry of the state that was restored, in the log of the cluster that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_index: Option<i64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far the beginning from a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestorePhase {
    /// It is known from where; the database is empty.
    Pending,
    /// The cluster has what the backup holds.
    Succeeded,
    /// It could not be had.
    Failed,
    /// The cluster had begun before, or took over volumes: nothing is restored.
    Inert,
}
