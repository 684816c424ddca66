//! What a cluster begins with.

use super::backup::{BackupEncryption, BackupStore, SecretKeyRef};
use super::security::SecretRef;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a cluster begins with. It is read once: after the cluster has begun, it changes nothing.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.restore) || !has(self.import)")
    .message("restore and import exclude each other: leave one out"))]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// With what a backup holds. Neither this nor import: with an empty database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<BootstrapRestore>,
    /// With a database from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<BootstrapImport>,
}

impl Bootstrap {
    /// Whether the cluster begins with anything.
    pub fn is_with_data(&self) -> bool {
        self.restore.is_some() || self.import.is_some()
    }
}

/// A database from elsewhere: a SQLite file or SQL text, as it is or packed by gzip, Zstandard or LZ4.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.url.startsWith('https://') || self.url.startsWith('http://')")
    .message("url must begin with https:// (or http://, by which everybody on the way can change what comes): of a cluster of rqlite write https://host:4001/db/backup"))]
#[x_kube(validation = Rule::new("!self.url.matches('^https?://[^/?#]*@')")
    .message("url must hold no user and no password, because whoever may read the object would know them: put them into the keys username and password of secretRef"))]
#[serde(rename_all = "camelCase")]
pub struct BootstrapImport {
    /// Where it is. The first leader fetches it; credentials belong into secretRef.
    #[schemars(length(min = 9, max = 2048))]
    pub url: String,
    /// Secret with the keys username and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Certificates of the authorities that the server's certificate is checked against, beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// Which backup a cluster begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.backupRef) != has(self.store)")
    .message("exactly one of backupRef and store must be set: name a SqliteBackup of this namespace, or say where its backups are"))]
#[x_kube(validation = Rule::new("has(self.store) == has(self.clusterID)")
    .message("store needs clusterID, and backupRef none: a store can hold backups of several clusters, so say whose by status.clusterID of that cluster"))]
#[x_kube(validation = Rule::new("!has(self.encryption) || has(self.store)")
    .message("encryption belongs to store: a SqliteBackup knows by which key it is encrypted, so leave it out"))]
#[serde(rename_all = "camelCase")]
pub struct BootstrapRestore {
    /// A SqliteBackup of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<ObjectRef>,
    /// Where the backups are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<BackupStore>,
    /// By which keys they are encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<BackupEncryption>,
    /// Of which cluster they are.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub cluster_id: Option<String>,
    /// Which moment. Absent: that of the SqliteBackup, or the last one in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RestoreTarget>,
}

/// Name of an object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// The name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Which moment a restore brings back.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.time), has(self.index), has(self.latest)].filter(set, set).size() == 1")
    .message("exactly one of time, index and latest must be set: choose one, and leave the others out"))]
#[x_kube(validation = Rule::new("!has(self.latest) || self.latest")
    .message("latest can only be true: leave it out and set time or index instead"))]
#[serde(rename_all = "camelCase")]
pub struct RestoreTarget {
    /// The last moment that is not after this time, as 2026-01-02T03:04:05Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub time: Option<String>,
    /// After this entry of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub index: Option<i64>,
    /// The last one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<bool>,
}
