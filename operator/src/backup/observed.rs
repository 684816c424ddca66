//! What is, as one reconcile of a backup sees it: plain data.

use crate::cluster::build::backup::StoreAccess;
use crate::crd::{SqliteBackupSpec, SqliteBackupStatus};
use crate::names::content_hash;
use client::backup::BackupJob;
use jiff::Timestamp;

/// Longest name of a backup in the store.
const MAX_NAME: usize = 253;

/// What is.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When it was seen.
    pub now: Timestamp,
    /// The object.
    pub object: Object,
    /// Its cluster; none: there is no such cluster.
    pub cluster: Option<Cluster>,
    /// What the members that answered know of it.
    pub jobs: Vec<(String, BackupJob)>,
    /// Whether the namespace of an object that is to go is on its way out too.
    pub ends: bool,
}

/// The object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Generation.
    pub generation: i64,
    /// When it was made.
    pub created: Timestamp,
    /// Since when it is to go.
    pub deleted: Option<Timestamp>,
    /// Whether it has our finalizer.
    pub held: bool,
    /// The spec.
    pub spec: SqliteBackupSpec,
    /// The status as it was last written.
    pub status: SqliteBackupStatus,
}

impl Object {
    /// Whether it is to go.
    pub fn is_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    /// Its name in the store. It is made of the object's, and never that of an earlier object of the same name.
    pub fn job_name(&self) -> String {
        job_name(&self.name, &self.uid)
    }
}

/// The name in the store of what an object asks for.
pub fn job_name(name: &str, uid: &str) -> String {
    let suffix: String = content_hash(uid.as_bytes()).chars().take(8).collect();
    let kept: String = name.chars().take(MAX_NAME - suffix.len() - 1).collect();
    format!("{kept}-{suffix}")
}

/// The cluster that a backup is of.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Its id, once it has begun.
    pub cluster_id: Option<String>,
    /// Where it has its backups; none: nowhere.
    pub access: Option<StoreAccess>,
    /// Members that can be asked for a backup, best first.
    pub members: Vec<String>,
    /// Members that are there and did not answer.
    pub silent: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_enough_and_the_objects_own() {
        let name = job_name("nightly", "uid-1");
        assert!(name.starts_with("nightly-") && name.len() == "nightly-".len() + 8, "{name}");
        assert_ne!(name, job_name("nightly", "uid-2"));
        assert_eq!(job_name(&"a".repeat(253), "u").len(), 253);
    }
}
