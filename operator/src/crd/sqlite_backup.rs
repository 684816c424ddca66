//! `SqliteBackup`: one backup, made on demand, by a schedule, or found in a store.

use super::backup::{BackupEncryption, BackupStore};
use super::bootstrap::ObjectRef;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a user asks for: a backup of a cluster.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "sqlite-operator.io",
    version = "v1alpha1",
    kind = "SqliteBackup",
    plural = "sqlitebackups",
    singular = "sqlitebackup",
    shortname = "sqb",
    category = "sqlite",
    namespaced,
    status = "SqliteBackupStatus",
    derive = "PartialEq",
    doc = "One backup of a SqliteCluster: made on demand, by a schedule, or found in a store.",
    printcolumn(
        name = "CLUSTER",
        type_ = "string",
        json_path = ".spec.clusterRef.name",
        description = "The cluster that it is of"
    ),
    printcolumn(
        name = "SUCCEEDED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Succeeded")].status"#,
        description = "Whether it is in the store"
    ),
    printcolumn(
        name = "STATUS",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Succeeded")].reason"#,
        description = "How it goes, or why it failed"
    ),
    printcolumn(
        name = "TIME",
        type_ = "date",
        json_path = ".status.bookmark.time",
        description = "The moment that it holds"
    ),
    printcolumn(
        name = "BYTES",
        type_ = "integer",
        json_path = ".status.sizeBytes",
        description = "Size of the database"
    ),
    printcolumn(
        name = "VERIFIED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Verified")].status"#,
        description = "Whether restoring it was tried and worked"
    ),
    printcolumn(
        name = "KIND",
        type_ = "string",
        json_path = ".spec.kind",
        priority = 1,
        description = "What it is for"
    ),
    printcolumn(
        name = "PATH",
        type_ = "string",
        json_path = ".status.path",
        priority = 1,
        description = "Where it is in the store"
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.clusterRef == oldSelf.spec.clusterRef && self.spec.kind == oldSelf.spec.kind && self.spec.deadlineSeconds == oldSelf.spec.deadlineSeconds && has(self.spec.__import__) == has(oldSelf.spec.__import__) && (!has(self.spec.__import__) || self.spec.__import__ == oldSelf.spec.__import__)")
        .message("only deletionPolicy can be changed: create another SqliteBackup")
)]
#[serde(rename_all = "camelCase")]
pub struct SqliteBackupSpec {
    /// The SqliteCluster of this namespace that it is of.
    pub cluster_ref: ObjectRef,
    /// What it is for.
    #[serde(default)]
    pub kind: BackupPurpose,
    /// It fails if it is not in the store after this time.
    #[serde(default = "default_deadline")]
    #[schemars(range(min = 30, max = 604800))]
    pub deadline_seconds: i32,
    /// What becomes of its objects in the store when this object is deleted.
    #[serde(default)]
    pub deletion_policy: BackupDeletion,
    /// It is in the store already, and only looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<BackupImport>,
}

/// What a backup is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupPurpose {
    /// To be kept.
    #[default]
    Full,
    /// Where a cluster was before something was done to it.
    Pin,
}

/// What becomes of a backup's objects in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackupDeletion {
    /// They stay.
    #[default]
    Retain,
    /// They are deleted, if a member can do it within half a minute. A backup that is still made is waited for first.
    Delete,
}

/// A backup that is in the store already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupImport {
    /// Where it is, below the prefix and the cluster's id, as status.path of another SqliteBackup names it.
    #[schemars(length(min = 1, max = 512))]
    pub path: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqliteBackupStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The moment that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bookmark: Option<Bookmark>,
    /// Id of the cluster that it is of.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The store that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<BackupStore>,
    /// By which keys it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<BackupEncryption>,
    /// Where it is there, below the prefix and the cluster's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The member that makes it, or made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Size of the database, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Bytes in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<i64>,
    /// SHA-256 of the database file, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The page checksum on which the members agreed at that moment, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_checksum: Option<String>,
    /// Version of SQLite that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite_version: Option<String>,
    /// Attempts that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<BackupFailures>,
    /// When a member was first asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub start_time: Option<Time>,
    /// When it was in the store, or had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub completion_time: Option<Time>,
    /// The last time that restoring it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// What holds at this moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Attempts of a backup that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupFailures {
    /// How many.
    pub count: i32,
    /// The member that made the last of them.
    pub member: String,
    /// Why that failed.
    pub message: String,
    /// When the next attempt begins. Absent once it has begun, and where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::time")]
    pub next_time: Option<Time>,
}

/// A moment in the life of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bookmark {
    /// The last entry of the log.
    pub index: i64,
    /// Its term.
    pub term: i64,
    /// When.
    #[schemars(schema_with = "super::schema::time")]
    pub time: Time,
}

/// What restoring a backup came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// When it was tried.
    #[schemars(schema_with = "super::schema::time")]
    pub time: Time,
    /// What it came to.
    pub result: VerificationResult,
    /// How long the restore took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_seconds: Option<i64>,
    /// Bytes of the database that were restored in a second, the replay of the archive included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<i64>,
    /// The last entry of the log that was restored: with a continuous archive, all that is archived after the backup, up to
    /// its end or its first hole, is replayed too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<i64>,
    /// The entry after which the page checksum of what was restored was last compared with the one that the members had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_index: Option<i64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What restoring a backup came to, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerificationResult {
    /// It was restored, and is what it should be.
    Passed,
    /// It was not.
    Failed,
}

fn default_deadline() -> i32 {
    3600
}
