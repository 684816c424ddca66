//! Acts: makes the objects of backups that are due, and sends errands to the store. Network.

use super::schedule::{BackupPlan, Expiry, NewBackup};
use super::seen::{Probed, probe_purpose};
use super::verify::{NewVerifier, Verdict};
use crate::backup::status::{publish, verified};
use crate::backup::{explain, find};
use crate::cluster::build::verifier;
use crate::cluster::observed::Observed;
use crate::cluster::plan::Plan;
use crate::cluster::validate::Desired;
use crate::cluster::view::View;
use crate::context::Context;
use crate::crd::SqliteBackup;
use crate::names::{
    ANNOTATION_SCHEDULED, FIELD_MANAGER, LABEL_CLUSTER, LABEL_SCHEDULE, MANAGED_BY, content_hash,
};
use crate::status::StatusError;
use crate::stores::GuardedBackup;
use client::admin::RefusalReason;
use client::admin_client::AdminClient;
use client::backup::DeleteBackups;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt as _};
use serde_json::json;
use std::time::Duration;

/// How often the store is tried out.
const PROBE: Duration = Duration::from_secs(600);
/// How often it is while nobody could, or while nothing can be written to it: that it is back is not told for ten minutes
/// otherwise.
const PROBE_AGAIN: Duration = Duration::from_secs(30);
/// How often what is no longer kept is tried to be deleted.
const RETRY: Duration = Duration::from_secs(60);

/// Why a backup that is due was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupsError {
    /// The server refused the object.
    #[error("cannot create SqliteBackup {name}")]
    Create {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// Its name is that of an object of another cluster or schedule, or of somebody else.
    #[error("SqliteBackup {name} is there already and is not of this schedule: rename the schedule")]
    Taken {
        /// Its name.
        name: String,
    },
    /// The server refused the Job that tests one.
    #[error("cannot create Job {name}")]
    Test {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// What a test came to could not be written down.
    #[error("cannot write down what a test came to")]
    Record(#[source] StatusError),
    /// It cannot be made.
    #[error("SqliteBackup {name} cannot be made")]
    Encode {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Does what the plan says of backups.
pub async fn act(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    admin: &AdminClient,
    ctx: &Context,
) -> Result<(), BackupsError> {
    let Some(backups) = &desired.spec.backup else { return Ok(()) };
    let BackupPlan { schedules: _, create, expiry, verify, verdicts } = &plan.backups;
    for new in create {
        make(desired, new, ctx).await?;
    }
    for verdict in verdicts {
        record(desired, verdict, ctx).await?;
    }
    if let Some(cluster_id) = observed.cluster_id() {
        test(desired, cluster_id, verify, ctx).await?;
    }
    let view = View::of(observed, plan.cluster_id.as_deref());
    let leader = view.leader().and_then(|leader| observed.pods.get(&leader.name)?.base());
    let Some(base) = leader.filter(|_| !desired.spec.paused) else { return Ok(()) };
    let every = probe_period(observed.backups.probe.as_ref());
    let probe = probe(admin.clone(), base.clone());
    ctx.probes.begin(&desired.name, &probe_purpose(backups), every, &ctx.triggers.clusters, probe);
    if let Some(expiry) = expiry {
        let purpose = content_hash(format!("{:?}{:?}", expiry.objects, expiry.paths).as_bytes());
        let api: Api<SqliteBackup> = Api::namespaced(ctx.client.clone(), &desired.name.namespace);
        let work = expire(admin.clone(), base, api, expiry.clone());
        ctx.retentions.begin(&desired.name, &purpose, RETRY, &ctx.triggers.clusters, work);
    }
    Ok(())
}

/// Makes the object. One that is there already was made by an operator before.
async fn make(desired: &Desired, new: &NewBackup, ctx: &Context) -> Result<(), BackupsError> {
    let NewBackup { name, schedule, due } = new;
    let object = json!({
        "apiVersion": SqliteBackup::api_version(&()),
        "kind": SqliteBackup::kind(&()),
        "metadata": {
            "name": name,
            "namespace": desired.name.namespace,
            "labels": {
                (LABEL_CLUSTER): desired.name.name,
                (LABEL_SCHEDULE): schedule,
                "app.kubernetes.io/managed-by": MANAGED_BY,
            },
            "annotations": {(ANNOTATION_SCHEDULED): due.to_string()},
        },
        "spec": {"clusterRef": {"name": desired.name.name}},
    });
    let object: SqliteBackup = serde_json::from_value(object)
        .map_err(|source| BackupsError::Encode { name: name.clone(), source })?;
    let api: Api<SqliteBackup> = Api::namespaced(ctx.client.clone(), &desired.name.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&params, &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let found = api.get_opt(name).await;
            let found = found.map_err(|source| BackupsError::Create { name: name.clone(), source })?;
            let is_ours = found.is_none_or(|found| {
                let label = |key: &str| found.labels().get(key).map(String::as_str);
                (label(LABEL_CLUSTER), label(LABEL_SCHEDULE)) == (Some(&desired.name.name), Some(schedule))
            });
            if is_ours { Ok(()) } else { Err(BackupsError::Taken { name: name.clone() }) }
        }
        Err(source) => Err(BackupsError::Create { name: name.clone(), source }),
    }
}

/// Writes down what a test came to.
async fn record(desired: &Desired, verdict: &Verdict, ctx: &Context) -> Result<(), BackupsError> {
    let key = ObjectRef::<GuardedBackup>::new(&verdict.backup).within(&desired.name.namespace);
    let Some(found) = ctx.stores.backups.get(&key) else { return Ok(()) };
    let Ok(backup) = &found.0 else { return Ok(()) };
    let mut status = backup.status.clone().unwrap_or_default();
    let time = verdict.verification.time.0;
    status.verification = Some(verdict.verification.clone());
    let generation = backup.metadata.generation.unwrap_or_default();
    let condition = verified(&status, &status.conditions, time, generation);
    let told = condition.as_ref().map(|condition| condition.message.clone()).unwrap_or_default();
    status.conditions.retain(|condition| condition.type_ != "Verified");
    status.conditions.extend(condition);
    publish(backup, &status, None, ctx).await.map_err(BackupsError::Record)?;
    let (type_, reason) = verdict.event();
    ctx.metrics.backup_ended(reason);
    let cluster = find(ctx, &desired.name.namespace, &desired.name.name);
    ctx.tell_both(backup, cluster.as_ref(), (type_, reason, "Verify"), &told).await;
    Ok(())
}

/// Makes the Job of the first test whose Job is not there: one that is, without a pod, came to its deadline, and is made again
/// once Kubernetes has taken it away. One that was made just now may not have been heard of yet, and is waited for.
async fn test(
    desired: &Desired,
    cluster_id: &str,
    due: &[NewVerifier],
    ctx: &Context,
) -> Result<(), BackupsError> {
    let made = ctx.tests.get(&desired.name, &desired.uid);
    if due.iter().any(|new| Some(&new.job) == made.as_ref()) {
        return Ok(());
    }
    let api: Api<Job> = Api::namespaced(ctx.client.clone(), &desired.name.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    for new in due {
        let Some(job) = verifier::job(desired, cluster_id, new) else { return Ok(()) };
        let found = api.create(&params, &job).await;
        let is_there = matches!(&found, Err(kube::Error::Api(status)) if status.is_already_exists());
        match found {
            Err(source) if !is_there => return Err(BackupsError::Test { name: new.job.clone(), source }),
            _ => ctx.tests.set(&desired.name, &desired.uid, new.job.clone()),
        }
        if !is_there {
            break;
        }
    }
    Ok(())
}

/// After how long the store is tried out again. Credentials that only write are a choice, and nothing that passes.
fn probe_period(last: Option<&Probed>) -> Duration {
    match last {
        Some(Probed::Tried(probe)) if probe.writable => PROBE,
        _ => PROBE_AGAIN,
    }
}

async fn probe(admin: AdminClient, base: String) -> Probed {
    match admin.probe_store(&base).await {
        Ok(probe) => Probed::Tried(probe),
        Err(error) if error.refusal() == Some(RefusalReason::NoStore) => Probed::NotConfigured,
        Err(error) => Probed::Failed(explain(&error)),
    }
}

/// First what is in the store, then the objects: what is left of an attempt that failed is still known.
async fn expire(
    admin: AdminClient,
    base: String,
    api: Api<SqliteBackup>,
    expiry: Expiry,
) -> Result<(), String> {
    let Expiry { objects, paths, archive_before } = expiry;
    let body = DeleteBackups { paths, archive_before: archive_before.map(|time| time.to_string()) };
    let deleted = admin.delete_backups(&base, &body).await.map_err(|error| explain(&error))?;
    tracing::info!(paths = ?body.paths, objects = deleted.objects, "backups that are no longer kept were deleted");
    for (name, uid) in objects {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => return Err(format!("SqliteBackup {name} cannot be deleted: {error}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::backup::Probe;

    #[test]
    fn a_store_that_was_away_is_tried_out_again_soon() {
        let tried = |writable, readable| {
            Probed::Tried(Probe { writable, readable, deletable: readable, message: None })
        };
        for (last, again) in [
            (None, PROBE_AGAIN),
            (Some(Probed::NotConfigured), PROBE_AGAIN),
            (Some(Probed::Failed("it is down".into())), PROBE_AGAIN),
            (Some(tried(false, false)), PROBE_AGAIN),
            (Some(tried(true, false)), PROBE),
            (Some(tried(true, true)), PROBE),
        ] {
            assert_eq!(probe_period(last.as_ref()), again, "{last:?}");
        }
    }
}
