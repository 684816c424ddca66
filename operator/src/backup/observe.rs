//! Looks: at the cluster in the cache, at its members, and at what they know of the backup. Network, reads only.

use super::observed::{Cluster, Object, Observed};
use super::status::is_over;
use crate::clock;
use crate::cluster::access::{self, AccessError};
use crate::cluster::build::backup::StoreAccess;
use crate::cluster::observe::members;
use crate::cluster::observed::Observed as Members;
use crate::cluster::view::View;
use crate::context::Context;
use crate::crd::{SqliteBackup, SqliteCluster};
use crate::names::FINALIZER_BACKUP;
use crate::stores::Guarded;
use client::admin_client::AdminClient;
use client::backup::BackupJob;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

/// What was seen, and the way to it.
pub struct Seen {
    /// For what decides.
    pub observed: Observed,
    /// The cluster object.
    pub cluster: Option<SqliteCluster>,
    /// Its members.
    pub members: Members,
    /// The way in to them.
    pub admin: AdminClient,
}

/// What is, for the backup of this object; none if its cluster is another operator's to look after.
pub async fn observe(backup: &SqliteBackup, ctx: &Context) -> Result<Option<Seen>, AccessError> {
    // Until the controller of clusters has looked around, none would be there.
    ctx.stores.clusters_listed.wait().await;
    let object = object(backup);
    let cluster = find(ctx, &object.namespace, &object.spec.cluster_ref.name);
    // An object that is to go is let go, whoever looked after its cluster.
    if cluster.is_none() && !ctx.selects_all && !(object.is_deleted() && object.held) {
        return Ok(None);
    }
    let mut seen = Seen {
        observed: Observed { now: clock::now(), object, cluster: None, jobs: vec![], ends: false },
        cluster,
        members: Members::default(),
        admin: ctx.admin.clone(),
    };
    let object = &seen.observed.object;
    // Nothing more is asked for what is over.
    if is_over(&object.status) && !object.is_deleted() {
        return Ok(Some(seen));
    }
    if object.is_deleted() {
        // A cluster goes at once with its namespace: there may be none left to ask by now.
        seen.observed.ends = ends(&object.namespace, ctx).await;
    }
    let object = &seen.observed.object;
    let Some(cluster) = &seen.cluster else { return Ok(Some(seen)) };
    match access::access(cluster, ctx).await {
        Ok(access) => {
            seen.admin = access.client(&ctx.admin);
            seen.members = members(cluster, &seen.admin, ctx).await;
        }
        // Without a way in there is nobody to ask, and what is to go is not held up by that for ever.
        Err(error) if object.is_deleted() => {
            tracing::warn!(error = &error as &dyn std::error::Error, "no way in to the members");
        }
        Err(error) => return Err(error),
    }
    seen.observed.cluster = Some(of_cluster(cluster, &seen.members));
    seen.observed.jobs = jobs(&seen).await;
    Ok(Some(seen))
}

/// A cluster of the cache.
pub fn find(ctx: &Context, namespace: &str, name: &str) -> Option<SqliteCluster> {
    let key = ObjectRef::<Guarded>::new(name).within(namespace);
    ctx.stores.clusters.get(&key).and_then(|cluster| cluster.0.as_ref().ok().cloned())
}

fn object(backup: &SqliteBackup) -> Object {
    let meta = &backup.metadata;
    let time =
        |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.as_ref().map(|t| t.0);
    Object {
        namespace: backup.namespace().unwrap_or_default(),
        name: backup.name_any(),
        uid: backup.uid().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        created: time(&meta.creation_timestamp).unwrap_or_default(),
        deleted: time(&meta.deletion_timestamp),
        held: backup.finalizers().iter().any(|finalizer| finalizer == FINALIZER_BACKUP),
        spec: backup.spec.clone(),
        status: backup.status.clone().unwrap_or_default(),
    }
}

/// Followers first, because a backup takes work off the leader; then read replicas; the leader last.
fn of_cluster(cluster: &SqliteCluster, members: &Members) -> Cluster {
    let view = View::of(members, members.cluster_id());
    let fenced = |name: &str| cluster.spec.fencing.iter().any(|fence| fence.member == name);
    let fit = || view.members().filter(|m| view.is_sound(m) && !fenced(&m.name));
    let followers = fit().filter(|member| member.voter && !view.leads(member));
    let replicas = fit().filter(|member| !member.voter);
    let leader = fit().filter(|member| view.leads(member));
    let silent = members
        .pods
        .iter()
        .filter(|(name, pod)| pod.ready && !pod.terminating && !members.reports.contains_key(*name));
    Cluster {
        cluster_id: members.status.cluster_id.clone(),
        access: cluster.spec.backup.as_ref().map(StoreAccess::of),
        members: followers.chain(replicas).chain(leader).map(|member| member.name.clone()).collect(),
        silent: silent.map(|(name, _)| name.clone()).collect(),
    }
}

/// What each member that answers knows of the backup.
async fn jobs(seen: &Seen) -> Vec<(String, BackupJob)> {
    let name = seen.observed.object.job_name();
    let asked = seen.members.reports.keys().filter_map(|member| {
        let base = seen.members.pods.get(member)?.base()?;
        let name = &name;
        Some(async move {
            match seen.admin.backup_jobs(&base).await {
                Ok(known) => Some((member.clone(), known.jobs.into_iter().rfind(|job| job.name == *name)?)),
                Err(error) => {
                    tracing::debug!(member, error = &error as &dyn std::error::Error, "no backup jobs");
                    None
                }
            }
        })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Whether the namespace is on its way out. What cannot be found out is not: patience ends as well.
async fn ends(namespace: &str, ctx: &Context) -> bool {
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    match api.get_metadata_opt(namespace).await {
        Ok(found) => found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()),
        Err(error) => {
            tracing::warn!(
                namespace,
                error = &error as &dyn std::error::Error,
                "the namespace cannot be seen"
            );
            false
        }
    }
}
