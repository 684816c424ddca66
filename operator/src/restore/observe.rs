//! Looks: at the cluster, at the source and at the backup that undoes the restore in the caches, and at what members know
//! of it. Network, reads only.

use super::observed::{Cluster, Object, Observed, Source, Undo};
use crate::backup::find;
use crate::backup::observed::job_name;
use crate::backup::status::{has_succeeded, is_over};
use crate::clock;
use crate::cluster::access::{self, AccessError};
use crate::cluster::build::backup::StoreAccess;
use crate::cluster::observe::members;
use crate::cluster::observed::Observed as Members;
use crate::cluster::restore::{complete_backup, jobs};
use crate::cluster::validate::restore_store;
use crate::cluster::view::View;
use crate::context::Context;
use crate::crd::{BackupPurpose, SqliteCluster, SqliteRestore, UndoBookmark};
use crate::names::ANNOTATION_UNDOES;
use crate::stores::GuardedBackup;
use client::admin_client::AdminClient;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

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

/// What is, for the restore of this object; none if its cluster is another operator's to look after.
pub async fn observe(restore: &SqliteRestore, ctx: &Context) -> Result<Option<Seen>, AccessError> {
    // Until the controller of clusters has looked around, none would be there.
    ctx.stores.clusters_listed.wait().await;
    let object = object(restore);
    let cluster = find(ctx, &object.namespace, &object.spec.cluster_ref.name);
    if cluster.is_none() && !ctx.selects_all {
        return Ok(None);
    }
    let observed = Observed {
        now: clock::now(),
        source: source(&object, ctx),
        source_comes: source_comes(&object, ctx),
        undo: undo(&object, ctx),
        ahead: ahead(restore, ctx),
        object,
        cluster: None,
        job: None,
        all_heard: false,
    };
    let mut seen = Seen { observed, cluster, members: Members::default(), admin: ctx.admin.clone() };
    if seen.observed.object.status.completion_time.is_some() {
        return Ok(Some(seen));
    }
    let Some(cluster) = &seen.cluster else { return Ok(Some(seen)) };
    seen.admin = access::access(cluster, ctx).await?.client(&ctx.admin);
    seen.members = members(cluster, &seen.admin, ctx).await;
    let view = View::of(&seen.members, seen.members.cluster_id());
    let leader = view.leader().map(|leader| leader.name.clone());
    seen.observed.cluster = Some(Cluster {
        cluster_id: seen.members.status.cluster_id.clone(),
        own: cluster.spec.backup.as_ref().map(StoreAccess::of),
        other: restore_store(cluster),
        leader,
    });
    // The cache may be behind: whether it was asked for is not decided by the object alone.
    let heard = jobs(&seen.observed.object.job_name(), &seen.members, &seen.admin).await;
    (seen.observed.job, seen.observed.all_heard) = (heard.job, heard.by_all);
    Ok(Some(seen))
}

fn object(restore: &SqliteRestore) -> Object {
    Object {
        namespace: restore.namespace().unwrap_or_default(),
        name: restore.name_any(),
        uid: restore.uid().unwrap_or_default(),
        generation: restore.metadata.generation.unwrap_or_default(),
        spec: restore.spec.clone(),
        status: restore.status.clone().unwrap_or_default(),
    }
}

fn source(object: &Object, ctx: &Context) -> Result<Source, String> {
    let spec = &object.spec.source;
    if let Some(reference) = &spec.backup_ref {
        let status = complete_backup(&object.namespace, &reference.name, ctx)?.status.unwrap_or_default();
        let complete = status.store.zip(status.cluster_id);
        let (store, cluster_id) =
            complete.ok_or_else(|| format!("SqliteBackup {} does not say where it is", reference.name))?;
        let access = StoreAccess { store, encryption: status.encryption };
        return Ok(Source { access, cluster_id, path: status.path });
    }
    let complete = spec.store.clone().zip(spec.cluster_id.clone());
    let (store, cluster_id) = complete.ok_or("spec.source names neither a backup nor a store")?;
    Ok(Source { access: StoreAccess { store, encryption: spec.encryption.clone() }, cluster_id, path: None })
}

/// Whether the backup that is meant is there and has not ended.
fn source_comes(object: &Object, ctx: &Context) -> bool {
    let Some(reference) = &object.spec.source.backup_ref else { return false };
    let key = ObjectRef::<GuardedBackup>::new(&reference.name).within(&object.namespace);
    let found = ctx.stores.backups.get(&key);
    found.is_some_and(|found| {
        found.0.as_ref().is_ok_and(|backup| !is_over(&backup.status.clone().unwrap_or_default()))
    })
}

/// The backup that undoes the restore. It is its own if it says so by an annotation.
fn undo(object: &Object, ctx: &Context) -> Undo {
    let name = object.undo_name();
    let key = ObjectRef::<GuardedBackup>::new(&name).within(&object.namespace);
    let Some(found) = ctx.stores.backups.get(&key) else { return Undo::Missing };
    let Ok(backup) = &found.0 else { return Undo::Foreign };
    let ours = backup.annotations().get(ANNOTATION_UNDOES) == Some(&object.uid)
        && backup.spec.kind == BackupPurpose::Pin;
    if !ours {
        return Undo::Foreign;
    }
    let job = job_name(&name, &backup.uid().unwrap_or_default());
    let status = backup.status.clone().unwrap_or_default();
    match (is_over(&status), has_succeeded(&status), status.bookmark) {
        (false, ..) => Undo::Running(job),
        (true, true, Some(bookmark)) => Undo::Done(job, UndoBookmark { backup: name, bookmark }),
        _ => {
            let failed = status.conditions.into_iter().find(|condition| condition.type_ == "Succeeded");
            Undo::Failed(failed.map(|condition| condition.message).unwrap_or_default())
        }
    }
}

/// Another restore of the same cluster that has begun, or that was there before this one.
fn ahead(restore: &SqliteRestore, ctx: &Context) -> Option<String> {
    let age = |restore: &SqliteRestore| {
        let created = restore.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, restore.name_any())
    };
    let begun = |restore: &SqliteRestore| restore.status.as_ref().is_some_and(|s| s.start_time.is_some());
    let others = ctx.stores.restores.state();
    let others = others.iter().filter_map(|other| other.0.as_ref().ok()).filter(|other| {
        other.metadata.namespace == restore.metadata.namespace
            && other.spec.cluster_ref == restore.spec.cluster_ref
            && other.metadata.uid != restore.metadata.uid
            && other.metadata.deletion_timestamp.is_none()
            && other.status.as_ref().is_none_or(|status| status.completion_time.is_none())
            && other.spec.approval.confirm_cluster_name.as_ref() == Some(&other.spec.cluster_ref.name)
    });
    let mut ahead: Vec<_> = others
        .filter(|other| {
            begun(other) && !begun(restore) || begun(other) == begun(restore) && age(other) < age(restore)
        })
        .map(|other| other.name_any())
        .collect();
    ahead.sort();
    ahead.into_iter().next()
}
