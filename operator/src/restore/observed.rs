//! What is, as one reconcile of a restore sees it: plain data.

use crate::cluster::build::backup::StoreAccess;
use crate::crd::{SqliteRestoreSpec, SqliteRestoreStatus, UndoBookmark};
use client::backup::RestoreJob;
use jiff::Timestamp;

/// What is.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When it was seen.
    pub now: Timestamp,
    /// The object.
    pub object: Object,
    /// Its cluster; none: there is no such cluster.
    pub cluster: Option<Cluster>,
    /// What it is restored from, or why that cannot be had.
    pub source: Result<Source, String>,
    /// Whether that is being made.
    pub source_comes: bool,
    /// The backup that undoes it.
    pub undo: Undo,
    /// Another restore of the cluster that comes first.
    pub ahead: Option<String>,
    /// What a member knows of the restore.
    pub job: Option<RestoreJob>,
    /// Whether every member of the cluster answered what it knows of it.
    pub all_heard: bool,
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
    /// The spec.
    pub spec: SqliteRestoreSpec,
    /// The status as it was last written.
    pub status: SqliteRestoreStatus,
}

impl Object {
    /// Name of the job: the object's own, so that it is not begun twice.
    pub fn job_name(&self) -> String {
        format!("restore-{}", self.uid)
    }

    /// Name of the SqliteBackup that undoes it.
    pub fn undo_name(&self) -> String {
        let kept: String = self.name.chars().take(253 - "-undo".len()).collect();
        format!("{kept}-undo")
    }
}

/// The cluster that is restored.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Its id, once it has begun.
    pub cluster_id: Option<String>,
    /// Where it has its backups.
    pub own: Option<StoreAccess>,
    /// Where what it began with is, if its members know that store apart.
    pub other: Option<StoreAccess>,
    /// Name of the member that leads.
    pub leader: Option<String>,
}

/// What a cluster is restored from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub access: StoreAccess,
    /// Of which cluster.
    pub cluster_id: String,
    /// The backup, where one is meant.
    pub path: Option<String>,
}

/// The backup that undoes a restore.
#[derive(Clone, Debug, PartialEq)]
pub enum Undo {
    /// It was not asked for.
    Missing,
    /// An object of its name is there that is not it.
    Foreign,
    /// It is being made, under this name in the store.
    Running(String),
    /// It is in the store, under this name.
    Done(String, UndoBookmark),
    /// It cannot be had.
    Failed(String),
}
