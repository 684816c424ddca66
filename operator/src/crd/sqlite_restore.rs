//! `SqliteRestore`: brings a running cluster to another moment, in place.

use super::backup::{BackupEncryption, BackupStore};
use super::bootstrap::{ObjectRef, RestoreTarget};
use super::sqlite_backup::Bookmark;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a user asks for: a cluster as it was at another moment.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "sqlite-operator.io",
    version = "v1alpha1",
    kind = "SqliteRestore",
    plural = "sqliterestores",
    singular = "sqliterestore",
    shortname = "sqr",
    category = "sqlite",
    namespaced,
    status = "SqliteRestoreStatus",
    derive = "PartialEq",
    doc = "Brings a running SqliteCluster to another moment, in place. What it was before is kept as a backup first.",
    printcolumn(
        name = "CLUSTER",
        type_ = "string",
        json_path = ".spec.clusterRef.name",
        description = "The cluster that is restored"
    ),
    printcolumn(
        name = "SUCCEEDED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Succeeded")].status"#,
        description = "Whether the cluster has what was asked for"
    ),
    printcolumn(
        name = "STATUS",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Succeeded")].reason"#,
        description = "How it goes, or why it failed"
    ),
    printcolumn(
        name = "PERCENT",
        type_ = "integer",
        json_path = ".status.progressPercent",
        description = "How far it is"
    ),
    printcolumn(
        name = "UNDO",
        type_ = "string",
        json_path = ".status.undoBookmark.backup",
        priority = 1,
        description = "The SqliteBackup that undoes it"
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.clusterRef == oldSelf.spec.clusterRef && self.spec.source == oldSelf.spec.source && has(self.spec.target) == has(oldSelf.spec.target) && (!has(self.spec.target) || self.spec.target == oldSelf.spec.target)")
        .message("only approval can be changed: create another SqliteRestore for another cluster, source or target")
)]
#[serde(rename_all = "camelCase")]
pub struct SqliteRestoreSpec {
    /// The SqliteCluster of this namespace that is restored.
    pub cluster_ref: ObjectRef,
    /// What it is restored from.
    pub source: RestoreSource,
    /// Which moment. Absent: that of the SqliteBackup, or the last one in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RestoreTarget>,
    /// That what the cluster holds now may be replaced.
    #[serde(default)]
    pub approval: RestoreApproval,
}

/// What a cluster is restored from.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.backupRef) != has(self.store)")
    .message("exactly one of backupRef and store must be set: name a SqliteBackup of this namespace, or say where its backups are"))]
#[x_kube(validation = Rule::new("has(self.store) == has(self.clusterID)")
    .message("store needs clusterID, and backupRef none: a store can hold backups of several clusters, so say whose by status.clusterID of that cluster"))]
#[x_kube(validation = Rule::new("!has(self.encryption) || has(self.store)")
    .message("encryption belongs to store: a SqliteBackup knows by which key it is encrypted, so leave it out"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreSource {
    /// A SqliteBackup of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<ObjectRef>,
    /// Where the backups are: the cluster's own store, or that which it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<BackupStore>,
    /// By which keys they are encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<BackupEncryption>,
    /// Of which cluster they are.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub cluster_id: Option<String>,
}

/// That what a cluster holds may be replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreApproval {
    /// The cluster's name, written once more: until it is, nothing happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub confirm_cluster_name: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqliteRestoreStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Hundredths of the work that are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_percent: Option<i32>,
    /// Where the cluster was before, up to the last write: restoring the backup to the index undoes the restore. Term and
    /// time are those of the backup; what was written after it is kept with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_bookmark: Option<UndoBookmark>,
    /// The last entry of the state that was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_index: Option<i64>,
    /// Its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_time: Option<String>,
    /// The entry by which it took the place of the state before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_index: Option<i64>,
    /// When the leader was first asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub start_time: Option<Time>,
    /// When it was done, or had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub completion_time: Option<Time>,
    /// What holds at this moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Where a cluster was before it was restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UndoBookmark {
    /// The SqliteBackup that holds it.
    pub backup: String,
    /// The moment.
    #[serde(flatten)]
    pub bookmark: Bookmark,
}
