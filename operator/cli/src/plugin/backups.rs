//! Backups, restores and branches: the objects that their verbs make, and what they show.

use super::args::BackupVerb;
use super::print::out;
use super::{FIELD_MANAGER, Plugin, foretold, store};
use anyhow::{Context, Result, bail};
use client::backup::Catalogue;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use operator::crd::{SqliteBackup, SqliteCluster, SqliteRestore};
use operator::names::{ANNOTATION_VERIFY, FINALIZER_BACKUP, LABEL_CLUSTER};
use serde_json::{Value, json};
use std::fmt::Write;

impl Plugin {
    pub(super) async fn backup(&self, verb: &BackupVerb) -> Result<()> {
        match verb {
            BackupVerb::Now { name, called } => {
                self.cluster(name).await?;
                let made = now(&self.namespace, name, called.as_deref(), super::now());
                self.make::<SqliteBackup>(made).await
            }
            BackupVerb::Import { name, path, called } => {
                self.cluster(name).await?;
                let made = import(&self.namespace, name, path, called.as_deref(), super::now());
                self.make::<SqliteBackup>(made).await
            }
            BackupVerb::List { name, in_store: true } => {
                let catalogue = self.catalogue(name).await?;
                self.print(&catalogue, || store::list(&catalogue))
            }
            BackupVerb::List { name, in_store: false } => {
                let all = self.objects::<SqliteBackup>().list(&ListParams::default()).await?.items;
                let mut found: Vec<_> =
                    all.into_iter().filter(|backup| backup.spec.cluster_ref.name == *name).collect();
                found.sort_by_key(|backup| backup.metadata.creation_timestamp.as_ref().map(|time| time.0));
                self.print(&found, || list(&found))
            }
            BackupVerb::Delete { backup } => self.delete_backup(backup).await,
            BackupVerb::Verify { backup } => {
                let patch =
                    json!({"metadata": {"annotations": {ANNOTATION_VERIFY: super::now().to_string()}}});
                if self.dry_run {
                    let mut object = json!({
                        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteBackup",
                        "metadata": {"name": backup, "namespace": self.namespace},
                    });
                    object["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
                    return self.show(&object);
                }
                let params =
                    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
                let marked =
                    self.objects::<SqliteBackup>().patch(backup, &params, &Patch::Merge(&patch)).await?;
                self.print(&marked, || {
                    format!(
                        "{backup} will be restored for a test; its condition Verified tells how it went\n"
                    )
                })
            }
        }
    }

    /// Has the object take along what is in the store, and deletes it. It is held for that by this program, as the operator
    /// would: without that it could be gone before the operator has seen the change.
    async fn delete_backup(&self, name: &str) -> Result<()> {
        let api = self.objects::<SqliteBackup>();
        let backup = api.get(name).await?;
        let patch = taken_along(&backup);
        if self.dry_run {
            let mut object = json!({
                "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteBackup",
                "metadata": {"name": name, "namespace": self.namespace, "finalizers": patch["metadata"]["finalizers"]},
            });
            object["spec"] = patch["spec"].clone();
            return self.show(&object);
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let held = api.patch(name, &params, &Patch::Merge(&patch)).await?;
        let only_this = Preconditions { uid: held.uid(), resource_version: None };
        api.delete(name, &DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() }).await?;
        self.print(&held, || {
            let place = backup.status.as_ref().and_then(|status| status.path.as_deref());
            match place {
                Some(path) => format!("{name} goes, and {path} from the store with it\n"),
                None => format!("{name} goes, and what is made for it with it\n"),
            }
        })
    }

    pub(super) async fn restore(
        &self,
        name: &str,
        to: Option<&Moment>,
        undone: Option<&str>,
        confirm: Option<&str>,
    ) -> Result<()> {
        let cluster = self.cluster(name).await?;
        let moment = match (to, undone) {
            (_, Some(restore)) => undo(&self.objects::<SqliteRestore>().get(restore).await?, name)?,
            (Some(to), None) => to.clone(),
            (None, None) => bail!("say which moment with --to, or which restore to undo with --undo"),
        };
        let made = restore(&cluster, &self.namespace, &moment, confirm, super::now())?;
        if self.dry_run {
            self.foretell(&cluster, &made).await?;
        }
        self.make::<SqliteRestore>(made).await?;
        if confirm.is_none() && !self.dry_run && !self.json {
            out(&format!("it waits until its spec.approval.confirmClusterName is {name}\n"))?;
        }
        Ok(())
    }

    /// Says from what a restore would bring its moment back; fails where it would be refused.
    async fn foretell(&self, cluster: &SqliteCluster, made: &Value) -> Result<()> {
        let restore: SqliteRestore = serde_json::from_value(made.clone())?;
        let backup = match &restore.spec.source.backup_ref {
            Some(reference) => self.objects::<SqliteBackup>().get_opt(&reference.name).await?,
            None => None,
        };
        let refused = "the restore would be refused";
        let (target, unlisted) = foretold::asked(cluster, &restore, backup.as_ref()).context(refused)?;
        if let Some(why) = unlisted {
            eprintln!("{why}: whether the store brings that back was not looked up");
            return Ok(());
        }
        match self.catalogue(&cluster.name_any()).await {
            Ok(catalogue) => {
                eprintln!("{}", foretold::foretold(&catalogue, &target).context(refused)?);
            }
            // What would be made can be said all the same.
            Err(error) => eprintln!("nobody could be asked whether the store brings that back: {error:#}"),
        }
        Ok(())
    }

    /// What is in the store, as a member reads it.
    async fn catalogue(&self, name: &str) -> Result<Catalogue> {
        let way = self.way_to_any(name).await?;
        let (admin, base) = self.admin(name, &way).await?;
        Ok(admin.backups(&base).await?)
    }

    pub(super) async fn branch(&self, name: &str, new: &str, to: &Moment) -> Result<()> {
        let made = branch(&self.cluster(name).await?, &self.namespace, new, to)?;
        self.make::<SqliteCluster>(made).await
    }

    fn objects<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object, or prints it.
    async fn make<K>(&self, object: Value) -> Result<()>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::Serialize
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        if self.dry_run {
            return self.show(&object);
        }
        let object: K = serde_json::from_value(object)?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let made = self.objects::<K>().create(&params, &object).await?;
        self.print(&made, || format!("{} {} is there\n", K::kind(&()), made.name_any()))
    }
}

/// The change by which a backup takes along what is in the store when it is deleted.
fn taken_along(backup: &SqliteBackup) -> Value {
    let others = backup.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER_BACKUP);
    let finalizers: Vec<&str> = others.map(String::as_str).chain([FINALIZER_BACKUP]).collect();
    json!({
        // As it was seen: finalizers of others that came in between are not taken away.
        "metadata": {"finalizers": finalizers, "uid": backup.uid(), "resourceVersion": backup.resource_version()},
        "spec": {"deletionPolicy": "Delete"},
    })
}

/// A backup of a cluster as it is now.
fn now(namespace: &str, cluster: &str, name: Option<&str>, at: Timestamp) -> Value {
    let name = name.map_or_else(|| format!("{cluster}-{}", stamp(at)), str::to_owned);
    backup(namespace, cluster, &name, json!({"clusterRef": {"name": cluster}}))
}

/// A backup that is in the store already.
fn import(namespace: &str, cluster: &str, path: &str, name: Option<&str>, at: Timestamp) -> Value {
    let name = name.map_or_else(|| format!("{cluster}-import-{}", stamp(at)), str::to_owned);
    let spec = json!({"clusterRef": {"name": cluster}, "import": {"path": path}});
    backup(namespace, cluster, &name, spec)
}

fn backup(namespace: &str, cluster: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "sqlite-operator.io/v1alpha1",
        "kind": "SqliteBackup",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL_CLUSTER: cluster}},
        "spec": spec,
    })
}

/// A moment as the end of a name: to the millisecond, as a restore may be undone within the second.
fn stamp(at: Timestamp) -> String {
    TimeZone::UTC.to_datetime(at).strftime("%Y%m%d%H%M%S%3f").to_string()
}

/// Which moment a restore is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The last one in the archive.
    Latest,
    /// The last one not after this time.
    Time(String),
    /// After this entry.
    Index(i64),
    /// That of a SqliteBackup.
    Backup(String),
    /// After an entry that is kept with a SqliteBackup.
    After {
        /// The SqliteBackup.
        backup: String,
        /// The entry.
        index: i64,
    },
}

impl std::str::FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(name) = text.strip_prefix("backup/").filter(|name| !name.is_empty()) {
            return Ok(Self::Backup(name.to_owned()));
        }
        if let Some(index) = text.parse::<i64>().ok().filter(|index| *index > 0) {
            return Ok(Self::Index(index));
        }
        match text.parse::<Timestamp>() {
            Ok(time) => Ok(Self::Time(time.to_string())),
            Err(_) => {
                Err("write latest, backup/NAME, the index of an entry, or a time as 2026-01-02T03:04:05Z"
                    .into())
            }
        }
    }
}

/// A restore of a cluster to a moment. It waits for the cluster's name unless `confirmed` is it.
fn restore(
    cluster: &SqliteCluster,
    namespace: &str,
    moment: &Moment,
    confirmed: Option<&str>,
    at: Timestamp,
) -> Result<Value> {
    let name = cluster.name_any();
    if confirmed.is_some_and(|confirmed| confirmed != name) {
        bail!("--confirm must be {name}, the name of the cluster whose data is replaced");
    }
    let (source, target) = source(cluster, moment)?;
    let mut spec = json!({"clusterRef": {"name": name}, "source": source});
    if let Some(target) = target {
        spec["target"] = target;
    }
    if let Some(confirmed) = confirmed {
        spec["approval"] = json!({"confirmClusterName": confirmed});
    }
    Ok(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1",
        "kind": "SqliteRestore",
        "metadata": {
            "name": format!("{name}-restore-{}", stamp(at)),
            "namespace": namespace,
            "labels": {LABEL_CLUSTER: name},
        },
        "spec": spec,
    }))
}

/// Where a moment of a cluster comes from, and which one is meant there.
fn source(cluster: &SqliteCluster, moment: &Moment) -> Result<(Value, Option<Value>)> {
    let target = match moment {
        Moment::Backup(backup) => return Ok((json!({"backupRef": {"name": backup}}), None)),
        Moment::After { backup, index } => {
            return Ok((json!({"backupRef": {"name": backup}}), Some(json!({"index": index}))));
        }
        Moment::Time(time) => json!({"time": time}),
        Moment::Index(index) => json!({"index": index}),
        Moment::Latest => json!({"latest": true}),
    };
    let backups = cluster.spec.backup.as_ref().context("the cluster has no spec.backup")?;
    let status = cluster.status.as_ref();
    let id = status.and_then(|s| s.cluster_id.clone()).context("the cluster has not begun yet")?;
    let mut source = json!({"store": backups.store, "clusterID": id});
    if let Some(encryption) = &backups.encryption {
        source["encryption"] = json!(encryption);
    }
    Ok((source, Some(target)))
}

/// A new cluster that begins where another one was at a moment, and goes on by itself: of the same size and settings, but for
/// backups, which are a matter of what the new one is for.
fn branch(cluster: &SqliteCluster, namespace: &str, name: &str, moment: &Moment) -> Result<Value> {
    if name == cluster.name_any() {
        bail!("the branch needs a name of its own; to bring {name} itself back, use restore");
    }
    let (mut restore, target) = source(cluster, moment)?;
    if let Some(target) = target {
        restore["target"] = target;
    }
    let mut spec = json!(cluster.spec);
    if let Some(spec) = spec.as_object_mut() {
        // What is the other one's own: its backups, what it began with, and what is being done to it.
        for field in ["backup", "bootstrap", "fencing", "hibernated", "paused", "recovery", "services"] {
            spec.remove(field);
        }
    }
    spec["bootstrap"] = json!({ "restore": restore });
    Ok(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1",
        "kind": "SqliteCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }))
}

/// The moment by which a restore is undone: the last entry before it.
fn undo(restore: &SqliteRestore, cluster: &str) -> Result<Moment> {
    let name = restore.name_any();
    if restore.spec.cluster_ref.name != cluster {
        bail!("{name} is a restore of {}, not of {cluster}", restore.spec.cluster_ref.name);
    }
    let undo = restore.status.as_ref().and_then(|status| status.undo_bookmark.as_ref());
    let undo = undo.with_context(|| format!("{name} has kept nothing to go back to"))?;
    Ok(Moment::After { backup: undo.backup.clone(), index: undo.bookmark.index })
}

/// Backups, one a line, oldest first.
fn list(backups: &[SqliteBackup]) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "{:<44} {:<10} {:<20} {:>12} VERIFIED", "NAME", "SUCCEEDED", "TIME", "BYTES");
    for backup in backups {
        let status = backup.status.clone().unwrap_or_default();
        let condition = |kind: &str| {
            let found = status.conditions.iter().find(|condition| condition.type_ == kind);
            found.map_or("-", |condition| condition.status.as_str()).to_owned()
        };
        let time = status.bookmark.as_ref().map_or("-".to_owned(), |bookmark| bookmark.time.0.to_string());
        let bytes = status.size_bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
        let (name, succeeded, verified) = (backup.name_any(), condition("Succeeded"), condition("Verified"));
        let _ = writeln!(text, "{name:<44} {succeeded:<10} {time:<20} {bytes:>12} {verified}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Timestamp {
        "2026-01-02T03:04:05.006789Z".parse().expect("a time")
    }

    fn cluster() -> SqliteCluster {
        serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"storage": {"size": "1Gi"}, "backup": {"store": {"s3": {"bucket": "b"}}}},
            "status": {"clusterID": "c1"},
        }))
        .expect("a cluster")
    }

    #[test]
    fn moments() {
        for (text, wanted) in [
            ("latest", Some(Moment::Latest)),
            ("4711", Some(Moment::Index(4711))),
            ("backup/nightly", Some(Moment::Backup("nightly".into()))),
            ("2026-01-02T04:04:05+01:00", Some(Moment::Time("2026-01-02T03:04:05Z".into()))),
            ("backup/", None),
            ("0", None),
            ("yesterday", None),
        ] {
            assert_eq!(text.parse::<Moment>().ok(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_made_is_what_the_operator_reads() {
        let backup: SqliteBackup =
            serde_json::from_value(now("shop", "orders", None, at())).expect("a SqliteBackup");
        assert_eq!(backup.name_any(), "orders-20260102030405006");
        let imported: SqliteBackup =
            serde_json::from_value(import("shop", "orders", "full/1", Some("old"), at()))
                .expect("a SqliteBackup");
        assert_eq!(imported.spec.import.expect("an import").path, "full/1");
        let to = |moment: &Moment, confirmed| -> SqliteRestore {
            let restore = restore(&cluster(), "shop", moment, confirmed, at()).expect("a restore");
            serde_json::from_value(restore).expect("a SqliteRestore")
        };
        let latest = to(&Moment::Latest, None);
        assert_eq!(latest.spec.source.cluster_id.as_deref(), Some("c1"));
        assert_eq!(latest.spec.approval.confirm_cluster_name, None);
        let backup = to(&Moment::Backup("nightly".into()), Some("orders"));
        assert_eq!(backup.spec.source.backup_ref.expect("a reference").name, "nightly");
        assert_eq!(backup.spec.approval.confirm_cluster_name.as_deref(), Some("orders"));
        assert!(restore(&cluster(), "shop", &Moment::Latest, Some("order"), at()).is_err());
    }

    #[test]
    fn a_branch_is_a_cluster_of_its_own() {
        let mut orders = cluster();
        orders.spec.paused = true;
        orders.spec.voters = 5;
        let branch = |name: &str, moment: &Moment| -> Result<SqliteCluster> {
            Ok(serde_json::from_value(branch(&orders, "shop", name, moment)?)?)
        };
        let new = branch("orders-test", &Moment::Index(7)).expect("a cluster");
        assert_eq!((new.name_any(), new.spec.voters, new.spec.paused), ("orders-test".into(), 5, false));
        assert!(new.spec.backup.is_none());
        let restore = new.spec.bootstrap.and_then(|bootstrap| bootstrap.restore).expect("a backup");
        assert_eq!(restore.cluster_id.as_deref(), Some("c1"));
        assert_eq!(restore.target.and_then(|target| target.index), Some(7));
        let new = branch("orders-test", &Moment::Backup("nightly".into())).expect("a cluster");
        let restore = new.spec.bootstrap.and_then(|bootstrap| bootstrap.restore).expect("a backup");
        assert_eq!(restore.backup_ref.expect("a reference").name, "nightly");
        assert!(branch("orders", &Moment::Latest).is_err());
    }

    #[test]
    fn an_undo_is_what_the_restore_kept() {
        let mut restore: SqliteRestore = serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteRestore", "metadata": {"name": "back"},
            "spec": {"clusterRef": {"name": "orders"}, "source": {"backupRef": {"name": "b"}}},
        }))
        .expect("a restore");
        assert!(undo(&restore, "orders").is_err());
        let status = json!({"undoBookmark":
            {"backup": "back-undo", "index": 11, "term": 1, "time": "2026-01-02T03:04:05Z"}});
        restore.status = serde_json::from_value(status).expect("a status");
        let moment = undo(&restore, "orders").expect("a moment");
        assert_eq!(moment, Moment::After { backup: "back-undo".into(), index: 11 });
        let made = super::restore(&cluster(), "shop", &moment, None, at()).expect("a restore");
        let made: SqliteRestore = serde_json::from_value(made).expect("a SqliteRestore");
        assert_eq!(made.spec.source.backup_ref.expect("a reference").name, "back-undo");
        assert_eq!(made.spec.target.expect("a target").index, Some(11));
        assert!(undo(&restore, "other").is_err());
    }
}
