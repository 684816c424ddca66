//! The volume of each member.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A size in bytes, as Kubernetes writes them.
pub(super) const QUANTITY: &str = r"^[0-9]+(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";

/// The volume of each member.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("quantity(self.size).isGreaterThan(quantity('0'))")
    .message("storage.size must be greater than zero"))]
#[x_kube(validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0")
    .message("storage.size must not shrink, because volumes cannot: keep it, or move the data to a new cluster"))]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
    .message("storage.storageClassName cannot be changed, because a volume keeps its class: create a new cluster with the other class"))]
#[x_kube(validation = Rule::new("(has(self.medium) ? self.medium : 'Disk') == (has(oldSelf.medium) ? oldSelf.medium : 'Disk')")
    .message("storage.medium cannot be changed: create a new cluster with the other medium"))]
#[x_kube(validation = Rule::new("!has(self.autogrow) || !has(self.medium) || self.medium == 'Disk'")
    .message("storage.autogrow is for storage.medium Disk: memory does not grow"))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of each volume, as 5Gi. It can grow where the storage class allows it; it never shrinks.
    #[schemars(
        length(min = 1, max = 24),
        regex(pattern = QUANTITY)
    )]
    pub size: String,
    /// Disk: a volume that outlives its pod. Memory: a memory-backed one that does not, for caches and tests; a member
    /// that restarts comes back as a new one.
    #[serde(default)]
    pub medium: Medium,
    /// Lets volumes grow by themselves when they fill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autogrow: Option<Autogrow>,
    /// StorageClass of the volumes. Absent: the default class of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What becomes of the volumes when the SqliteCluster is deleted. A cluster that is created again under the same
    /// name adopts retained volumes.
    #[serde(default)]
    pub on_delete: RetentionPolicy,
    /// What becomes of a member's volume after scaling down removed the member.
    #[serde(default = "delete")]
    pub on_scale_down: RetentionPolicy,
}

/// What a volume is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Medium {
    /// A claim.
    #[default]
    Disk,
    /// The memory of the Kubernetes node.
    Memory,
}

/// How volumes grow by themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Autogrow {
    /// No volume grows beyond this.
    #[schemars(
        length(min = 1, max = 24),
        regex(pattern = QUANTITY)
    )]
    pub max_size: String,
    /// All volumes grow when one of them is fuller than this.
    #[serde(default = "default_threshold")]
    #[schemars(range(min = 10, max = 95))]
    pub threshold_percent: i32,
    /// By how much of their size.
    #[serde(default = "default_step")]
    #[schemars(range(min = 5, max = 100))]
    pub step_percent: i32,
}

/// Whether a volume outlives its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetentionPolicy {
    /// The claim is kept.
    #[default]
    Retain,
    /// The claim is deleted.
    Delete,
}

fn default_threshold() -> i32 {
    80
}

fn default_step() -> i32 {
    25
}

fn delete() -> RetentionPolicy {
    RetentionPolicy::Delete
}
