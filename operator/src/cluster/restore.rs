//! What a cluster begins with, if that is a backup or an import: found out before anything starts, written down, and brought in after
//! the cluster was initialised and before it counts as ready. Then it is over for good.
//!
//! What decides is pure. A restore that happened is part of the state that it brought, so that the leader knows of it, and
//! may be asked again, even where nobody remembers the job.

use super::build::backup::StoreAccess;
use super::given::is_unfound_for_long;
use super::observed::Observed;
use super::plan::{Activity, ActivityReason, Obstacle, ObstacleReason};
use super::validate::Desired;
use super::view::View;
use crate::backup::status::has_succeeded;
use crate::context::Context;
use crate::crd::{
    Bootstrap, BootstrapPhase, BootstrapRestore, BootstrapRestoreStatus, RestorePhase, SqliteBackup,
    SqliteCluster, number,
};
use crate::names::ClusterName;
use crate::stores::GuardedBackup;
use client::admin_client::AdminClient;
use client::backup::{JobState, RestoreJob, RestoreJobs, RestoreSource, RestoreTarget, StartRestore};
use futures::future::join_all;
use kube::runtime::reflector::ObjectRef;
use std::collections::BTreeMap;

/// What is known of what a cluster is to begin with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BootstrapView {
    /// What the spec leads to; none where nothing is asked for, or it is written down already.
    pub source: Option<Result<Box<BootstrapRestoreStatus>, String>>,
    /// What a member knows of the restore.
    pub job: Option<RestoreJob>,
}

/// What is to be done about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BootstrapPlan {
    /// To be written down.
    pub status: Option<BootstrapRestoreStatus>,
    /// Why nothing may start yet: the backup is not there.
    pub missing: Option<String>,
    /// What to ask the leader for.
    pub start: Option<StartRestore>,
    /// What is under way.
    pub activity: Option<Activity>,
    /// What needs a human.
    pub obstacle: Option<Obstacle>,
}

impl BootstrapPlan {
    /// Whether nothing may be applied before what is planned here is written down.
    pub fn comes_first(&self, observed: &Observed) -> bool {
        self.missing.is_some() || self.status.is_some() && observed.status.restore.is_none()
    }

    /// Whether the cluster does not have yet what it is to begin with.
    pub fn is_pending(&self) -> bool {
        self.missing.is_some() || self.status.as_ref().is_some_and(|s| s.phase == RestorePhase::Pending)
    }

    /// Whether it will never have it.
    pub fn has_failed(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase == RestorePhase::Failed)
    }
}

/// Name of the job: the cluster's own, so that it is not begun twice.
fn job_name(uid: &str) -> String {
    format!("bootstrap-{uid}")
}

/// Looks at the backup that the spec names, and at the job. Network, reads only.
pub async fn see(
    cluster: &SqliteCluster,
    name: &ClusterName,
    observed: &Observed,
    admin: &AdminClient,
    ctx: &Context,
) -> BootstrapView {
    let Some(wanted) = cluster.spec.bootstrap.as_ref().filter(|bootstrap| bootstrap.is_with_data()) else {
        return BootstrapView::default();
    };
    match &observed.status.restore {
        None => {
            // Where an import comes from is in the spec alone.
            let restore = wanted.restore.clone().unwrap_or_default();
            BootstrapView { source: Some(source(&restore, name, ctx)), job: None }
        }
        Some(status) if status.phase == RestorePhase::Pending => {
            let job = job_name(cluster.metadata.uid.as_deref().unwrap_or_default());
            BootstrapView { source: None, job: jobs(&job, observed, admin).await.job }
        }
        Some(_) => BootstrapView::default(),
    }
}

/// What a reference leads to, or why it leads nowhere.
fn source(
    wanted: &BootstrapRestore,
    name: &ClusterName,
    ctx: &Context,
) -> Result<Box<BootstrapRestoreStatus>, String> {
    let pending = BootstrapRestoreStatus {
        phase: RestorePhase::Pending,
        store: wanted.store.clone(),
        encryption: wanted.encryption.clone(),
        cluster_id: wanted.cluster_id.clone(),
        path: None,
        target: wanted.target.clone(),
        restored_index: None,
        message: None,
    };
    let Some(reference) = &wanted.backup_ref else { return Ok(Box::new(pending)) };
    let backup = complete_backup(&name.namespace, &reference.name, ctx)?;
    let status = backup.status.unwrap_or_default();
    Ok(Box::new(BootstrapRestoreStatus {
        store: status.store,
        encryption: status.encryption,
        cluster_id: status.cluster_id,
        path: status.path.filter(|_| wanted.target.is_none()),
        ..pending
    }))
}

/// A backup of the cache that is in its store, or why it cannot be had.
pub(crate) fn complete_backup(namespace: &str, name: &str, ctx: &Context) -> Result<SqliteBackup, String> {
    let key = ObjectRef::<GuardedBackup>::new(name).within(namespace);
    let found = ctx.stores.backups.get(&key).and_then(|backup| backup.0.as_ref().ok().cloned());
    let backup = found.ok_or_else(|| format!("there is no SqliteBackup {name} in this namespace"))?;
    let complete = backup
        .status
        .as_ref()
        .is_some_and(|s| has_succeeded(s) && s.store.is_some() && s.cluster_id.is_some() && s.path.is_some());
    complete.then_some(backup).ok_or_else(|| format!("SqliteBackup {name} is not in its store (yet)"))
}

/// What members said of a restore.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Heard {
    /// The furthest of what they say.
    pub job: Option<RestoreJob>,
    /// Whether all members of the cluster answered, and the leader was one.
    pub by_all: bool,
}

/// Asks members what they know of a restore. Network, reads only.
pub(crate) async fn jobs(name: &str, observed: &Observed, admin: &AdminClient) -> Heard {
    let asked = observed.reports.keys().filter_map(|member| {
        let base = observed.pods.get(member)?.base()?;
        Some(async move {
            match admin.restore_jobs(&base).await {
                Ok(known) => Some((member.clone(), known)),
                Err(error) => {
                    tracing::debug!(member, error = &error as &dyn std::error::Error, "no restore jobs");
                    None
                }
            }
        })
    });
    let answers: BTreeMap<String, RestoreJobs> = join_all(asked).await.into_iter().flatten().collect();
    let view = View::of(observed, observed.cluster_id());
    Heard {
        by_all: view.is_known()
            && view.members().all(|member| answers.contains_key(&member.name))
            && answers.values().any(|known| known.confirmed),
        job: furthest(answers.into_values().flat_map(|known| known.jobs).filter(|job| job.name == name)),
    }
}

/// Who is at it knows more than who has only the state that it came to, and says so in a moment.
fn furthest(jobs: impl Iterator<Item = RestoreJob>) -> Option<RestoreJob> {
    jobs.max_by_key(|job| match job.state {
        JobState::Failed => 0,
        JobState::Succeeded if is_told_by_state_alone(job) => 1,
        JobState::Running => 2,
        JobState::Succeeded => 3,
    })
}

/// Whether a member that was not at it tells of its end, by the state that it came to: not which entry brought that, nor
/// which was the last before.
pub(crate) fn is_told_by_state_alone(job: &RestoreJob) -> bool {
    job.restored.as_ref().is_none_or(|restored| restored.installed_index.is_none())
}

/// What is to be done. Pure.
pub fn plan(desired: &Desired, observed: &Observed) -> BootstrapPlan {
    let recorded = observed.status.restore.clone();
    let wanted = desired.spec.bootstrap.as_ref().is_some_and(Bootstrap::is_with_data);
    let kept = BootstrapPlan { status: recorded.clone(), ..BootstrapPlan::default() };
    if !wanted || desired.spec.paused {
        return kept;
    }
    match recorded {
        None => begin(observed),
        Some(status) if status.phase == RestorePhase::Pending => go_on(desired, observed, status),
        Some(status) if status.phase == RestorePhase::Failed => {
            let why = status.message.unwrap_or_default();
            BootstrapPlan {
                obstacle: Some(Obstacle::new(ObstacleReason::RestoreFailed, failed(&why))),
                ..kept
            }
        }
        Some(_) => kept,
    }
}

fn failed(why: &str) -> String {
    format!(
        "what the cluster is to begin with cannot be had: {why}. Correct spec.bootstrap, delete the cluster with its claims, and create it again"
    )
}

fn begin(observed: &Observed) -> BootstrapPlan {
    let adopted = observed.claims.values().any(|claim| claim.cluster_id.is_some());
    if observed.bootstrap().is_some() || adopted {
        let inert = BootstrapRestoreStatus {
            phase: RestorePhase::Inert,
            store: None,
            encryption: None,
            cluster_id: None,
            path: None,
            target: None,
            restored_index: None,
            message: None,
        };
        return BootstrapPlan { status: Some(inert), ..BootstrapPlan::default() };
    }
    let restoring = |message: &str| Some(Activity::new(ActivityReason::Restoring, message.into()));
    match &observed.bootstrap_restore.source {
        Some(Ok(source)) => BootstrapPlan {
            status: Some((**source).clone()),
            activity: restoring("it is written down what the cluster begins with"),
            ..BootstrapPlan::default()
        },
        Some(Err(missing)) => {
            let long = is_unfound_for_long(observed);
            BootstrapPlan {
                missing: Some(missing.clone()),
                activity: restoring(missing),
                obstacle: long.then(|| Obstacle::new(ObstacleReason::RefNotFound, missing.clone())),
                ..BootstrapPlan::default()
            }
        }
        None => BootstrapPlan {
            missing: Some("it is not known what the cluster begins with".into()),
            activity: restoring("waiting for what the cluster begins with"),
            ..BootstrapPlan::default()
        },
    }
}

fn go_on(desired: &Desired, observed: &Observed, mut status: BootstrapRestoreStatus) -> BootstrapPlan {
    let activity = |message: String| Some(Activity::new(ActivityReason::Restoring, message));
    let job = observed.bootstrap_restore.job.as_ref();
    let begun = observed.bootstrap().is_some_and(|b| b.phase >= BootstrapPhase::Initialised);
    let view = View::of(observed, observed.cluster_id());
    match job.map(|job| job.state) {
        Some(JobState::Succeeded) => {
            status.phase = RestorePhase::Succeeded;
            status.restored_index =
                job.and_then(|job| job.restored.as_ref()).map(|restored| number(restored.index));
            return BootstrapPlan { status: Some(status), ..BootstrapPlan::default() };
        }
        Some(JobState::Failed) => {
            let why = job.and_then(|job| job.message.clone()).unwrap_or_else(|| "no member says why".into());
            status.phase = RestorePhase::Failed;
            status.message = Some(why.clone());
            let obstacle = Some(Obstacle::new(ObstacleReason::RestoreFailed, failed(&why)));
            return BootstrapPlan { status: Some(status), obstacle, ..BootstrapPlan::default() };
        }
        Some(JobState::Running) => {
            let percent = job.map(|job| job.progress_percent / 10 * 10).unwrap_or_default();
            let activity = activity(format!("what the cluster begins with is {percent} % there"));
            return BootstrapPlan { status: Some(status), activity, ..BootstrapPlan::default() };
        }
        None => {}
    }
    if !begun || !view.is_settled() || view.leader().is_none() {
        let activity = activity("what the cluster begins with comes once there is a leader".into());
        return BootstrapPlan { status: Some(status), activity, ..BootstrapPlan::default() };
    }
    // The leader answers what is there already, also when it was another that did it.
    let start = start(desired, &status);
    let activity = activity("the leader is asked for what the cluster begins with".into());
    BootstrapPlan { status: Some(status), start: Some(start), activity, ..BootstrapPlan::default() }
}

/// Without a word that data may be replaced: what somebody wrote in the meantime stays, and is told of.
fn start(desired: &Desired, status: &BootstrapRestoreStatus) -> StartRestore {
    let access =
        status.store.clone().map(|store| StoreAccess { store, encryption: status.encryption.clone() });
    let own = desired.spec.backup.as_ref().map(StoreAccess::of);
    StartRestore {
        name: job_name(&desired.uid),
        source: if own.is_some() && own == access { RestoreSource::Own } else { RestoreSource::Other },
        cluster_id: status.cluster_id.clone(),
        target: wire_target(status.target.as_ref(), status.path.as_deref()),
        confirm_cluster_id: None,
        // Nothing was there before.
        undo: None,
    }
}

/// A moment if one is named, else a backup, else the last moment there is.
pub fn wire_target(target: Option<&crate::crd::RestoreTarget>, path: Option<&str>) -> RestoreTarget {
    let index = target.and_then(|target| target.index).and_then(|index| u64::try_from(index).ok());
    let time = target.and_then(|target| target.time.clone());
    match (time, index, path) {
        (Some(time), _, _) => RestoreTarget::Time(time),
        (None, Some(index), _) => RestoreTarget::Index(index),
        (None, None, Some(path)) if target.is_none() => RestoreTarget::Backup(path.to_owned()),
        _ => RestoreTarget::Latest {},
    }
}

/// Restores of a running cluster that are under way, by name: what they are for is known to their own controller.
pub fn running(cluster: &SqliteCluster, name: &ClusterName, ctx: &Context) -> BTreeMap<String, i32> {
    if cluster.spec.backup.is_none() && cluster.spec.bootstrap.is_none() {
        return BTreeMap::new();
    }
    let restores = ctx.stores.restores.state();
    let of_cluster = restores.iter().filter_map(|restore| restore.0.as_ref().ok()).filter(|restore| {
        restore.metadata.namespace.as_deref() == Some(&name.namespace)
            && restore.spec.cluster_ref.name == name.name
    });
    of_cluster
        .filter_map(|restore| {
            let status = restore.status.as_ref()?;
            let runs = status.start_time.is_some() && status.completion_time.is_none();
            let percent = status.progress_percent.unwrap_or_default();
            runs.then(|| (restore.metadata.name.clone().unwrap_or_default(), percent))
        })
        .collect()
}

#[cfg(test)]
mod tests;
