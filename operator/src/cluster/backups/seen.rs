//! What a reconcile of a cluster sees of its backups: objects in the cache, and what errands came to.

use super::verify::VerifierView;
use crate::backup::status::{has_succeeded, is_over};
use crate::context::Context;
use crate::crd::{BackupStore, Backups, SqliteBackup, SqliteCluster, Verification};
use crate::names::{ANNOTATION_SCHEDULED, ANNOTATION_VERIFY, ClusterName, LABEL_SCHEDULE, content_hash};
use client::backup::Probe;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

/// What is seen of the backups of a cluster.
#[derive(Clone, Debug, Default)]
pub struct BackupsView {
    /// Objects that are of it.
    pub backups: Vec<BackupView>,
    /// What trying out the store came to.
    pub probe: Option<Probed>,
    /// Pods that test backups.
    pub verifiers: Vec<VerifierView>,
    /// Why the last attempt to delete what is no longer kept failed.
    pub retention_failure: Option<String>,
    /// What this reconcile could not do about them, where that is more than a failure of a moment.
    pub failures: Vec<String>,
}

/// A backup object.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupView {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The schedule that made it.
    pub schedule: Option<String>,
    /// The time that was due.
    pub due: Option<Timestamp>,
    /// When it was made.
    pub created: Timestamp,
    /// How it goes.
    pub state: BackupState,
    /// The moment that it holds.
    pub time: Option<Timestamp>,
    /// Where it is in the store.
    pub path: Option<String>,
    /// The store.
    pub store: Option<BackupStore>,
    /// Of which cluster it is.
    pub cluster_id: Option<String>,
    /// The last time that restoring it was tried.
    pub verification: Option<Verification>,
    /// Since when somebody wants it to be tested.
    pub verify_at: Option<Timestamp>,
    /// Why it failed.
    pub message: String,
    /// Whether it is on its way out.
    pub terminating: bool,
}

/// How a backup goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupState {
    /// It has not ended.
    Running,
    /// It is in the store.
    Succeeded,
    /// It is not, and will not be.
    Failed,
}

/// What trying out the store came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// The leader tried.
    Tried(Probe),
    /// The leader does not know of a store yet.
    NotConfigured,
    /// The leader did not do it.
    Failed(String),
}

impl BackupView {
    fn of(backup: &SqliteBackup) -> Self {
        let status = backup.status.clone().unwrap_or_default();
        let state = match (is_over(&status), has_succeeded(&status)) {
            (false, _) => BackupState::Running,
            (true, true) => BackupState::Succeeded,
            (true, false) => BackupState::Failed,
        };
        let failed = status.conditions.iter().find(|condition| condition.type_ == "Succeeded");
        Self {
            name: backup.name_any(),
            uid: backup.uid().unwrap_or_default(),
            schedule: backup.labels().get(LABEL_SCHEDULE).cloned(),
            due: backup.annotations().get(ANNOTATION_SCHEDULED).and_then(|time| time.parse().ok()),
            verify_at: backup.annotations().get(ANNOTATION_VERIFY).and_then(|time| time.parse().ok()),
            created: backup.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default(),
            state,
            message: failed.map(|condition| condition.message.clone()).unwrap_or_default(),
            time: status.bookmark.map(|bookmark| bookmark.time.0),
            path: status.path,
            store: status.store,
            cluster_id: status.cluster_id,
            verification: status.verification,
            terminating: backup.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// What is seen; nothing where no backups are asked for.
pub fn see(cluster: &SqliteCluster, name: &ClusterName, ctx: &Context) -> BackupsView {
    let Some(backups) = &cluster.spec.backup else { return BackupsView::default() };
    // Those of an earlier cluster of this name tell nothing about this one.
    let id = cluster.status.as_ref().and_then(|status| status.cluster_id.clone());
    let of_another = |backup: &SqliteBackup| {
        let of = backup.status.as_ref().and_then(|status| status.cluster_id.as_ref());
        of.is_some() && of != id.as_ref()
    };
    let ours = |backup: &SqliteBackup| {
        !of_another(backup)
            && backup.metadata.namespace.as_deref() == Some(&name.namespace)
            && backup.spec.cluster_ref.name == name.name
    };
    let found = ctx.stores.backups.state_filter(|backup| backup.0.as_ref().is_ok_and(ours));
    BackupsView {
        backups: found.iter().filter_map(|b| b.0.as_ref().ok()).map(BackupView::of).collect(),
        verifiers: super::verify::see(name, ctx),
        probe: ctx.probes.outcome(name, &probe_purpose(backups)),
        retention_failure: ctx.retentions.outcome_of_any(name).and_then(Result::err),
        failures: Vec::new(),
    }
}

/// What a probe is good for: another store needs another one.
pub fn probe_purpose(backups: &Backups) -> String {
    content_hash(json!([backups.store, backups.encryption]).to_string().as_bytes())
}
