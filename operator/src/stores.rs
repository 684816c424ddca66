//! Caches of what the operator owns, by watches that are scoped to its label, and the triggers that they pull.
//!
//! The caches fill whether or not this process leads, so that a standby takes over warm.

use crate::cache::Cache;
use crate::crd::{SqliteBackup, SqliteCluster, SqliteRestore};
use crate::listed::Listed;
use crate::metrics::Metrics;
use crate::names::{ANNOTATION_UNDONE, LABEL_CLUSTER, LABEL_TEMPLATE, LABEL_VERIFIES};
use crate::trim::{Trim, trim_node};
use futures::{Stream, StreamExt, TryStreamExt, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A cluster object that may be unreadable; one of those never stops the watch of the others.
pub type Guarded = DeserializeGuard<SqliteCluster>;

/// A backup object that may be unreadable.
pub type GuardedBackup = DeserializeGuard<SqliteBackup>;
/// A restore object that may be unreadable.
pub type GuardedRestore = DeserializeGuard<SqliteRestore>;

/// How long a start waits for what Kubernetes nodes say: without the right to look at them, zones are told by pods alone.
const NODES_WAIT: Duration = Duration::from_secs(5);

/// Asks for the reconcile of an object. Deaf while this process does not lead.
#[derive(Debug)]
pub struct Triggers<K: reflector::Lookup = Guarded>(Arc<Mutex<Option<UnboundedSender<ObjectRef<K>>>>>)
where
    K::DynamicType: Hash + Eq;

impl<K: reflector::Lookup> Clone for Triggers<K>
where
    K::DynamicType: Hash + Eq,
{
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: reflector::Lookup> Default for Triggers<K>
where
    K::DynamicType: Hash + Eq,
{
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// The triggers of every controller.
#[derive(Clone, Default)]
pub struct AllTriggers {
    /// Of clusters.
    pub clusters: Triggers<Guarded>,
    /// Of backups.
    pub backups: Triggers<GuardedBackup>,
    /// Of restores.
    pub restores: Triggers<GuardedRestore>,
}

impl<K: reflector::Lookup> Triggers<K>
where
    K::DynamicType: Hash + Eq + Clone + Default,
{
    /// Asks for the reconcile of an object.
    pub fn pull(&self, namespace: &str, name: &str) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = sender.as_ref() {
            // A receiver that is gone belongs to a controller that stopped.
            let _ = sender.send(ObjectRef::new(name).within(namespace));
        }
    }

    /// What is asked for from now on.
    pub fn listen(&self) -> UnboundedReceiver<ObjectRef<K>> {
        let (sender, receiver) = unbounded_channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }
}

/// The caches of one namespace, or of all.
#[derive(Clone)]
pub struct Stores {
    /// Pods.
    pub pods: Cache<Pod>,
    /// Claims.
    pub claims: Cache<PersistentVolumeClaim>,
    /// StatefulSets.
    pub sets: Cache<StatefulSet>,
    /// Pinned pod templates.
    pub templates: Cache<ControllerRevision>,
    /// Services.
    pub services: Cache<PartialObjectMeta<Service>>,
    /// PodDisruptionBudgets.
    pub budgets: Cache<PartialObjectMeta<PodDisruptionBudget>>,
    /// NetworkPolicies.
    pub network_policies: Cache<PartialObjectMeta<NetworkPolicy>>,
    /// ServiceAccounts.
    pub accounts: Cache<PartialObjectMeta<ServiceAccount>>,
    /// Backups.
    pub backups: Store<GuardedBackup>,
    /// Restores.
    pub restores: Store<GuardedRestore>,
    /// Pods that test backups.
    pub verifiers: Cache<Pod>,
    /// Kubernetes nodes; none where some namespaces are watched only, which gives no right to look at nodes.
    pub nodes: Option<Store<PartialObjectMeta<Node>>>,
    /// Clusters, as the controller of clusters knows them. Empty while this process does not lead.
    pub clusters: Store<Guarded>,
    /// Whether it knows all of them.
    pub clusters_listed: Listed,
}

impl Stores {
    /// Whether an object of a kind that has conditions is there.
    pub fn hold(&self, kind: &str, namespace: &str, name: &str) -> bool {
        fn holds<K: Resource<DynamicType = ()> + Clone + 'static>(
            cache: &Store<K>,
            namespace: &str,
            name: &str,
        ) -> bool {
            cache.get(&ObjectRef::<K>::new(name).within(namespace)).is_some()
        }
        match kind {
            crate::backup::KIND => holds(&self.backups, namespace, name),
            crate::restore::KIND => holds(&self.restores, namespace, name),
            _ => holds(&self.clusters, namespace, name),
        }
    }

    /// A Kubernetes node, as far as its labels.
    pub fn node(&self, name: &str) -> Option<Arc<PartialObjectMeta<Node>>> {
        self.nodes.as_ref()?.get(&ObjectRef::new(name))
    }

    /// Starts the watches of `namespace`, or of all namespaces.
    pub fn start(
        client: &Client,
        namespace: Option<&str>,
        triggers: &AllTriggers,
        metrics: &Metrics,
    ) -> Self {
        let watch = Watch { client, namespace, triggers, metrics };
        let of_backup = triggers.clone();
        let of_restore = triggers.clone();
        Self {
            pods: watch.of_clusters(LABEL_CLUSTER),
            claims: watch.of_clusters(LABEL_CLUSTER),
            sets: watch.of_clusters(LABEL_CLUSTER),
            templates: watch.of_clusters(LABEL_TEMPLATE),
            services: watch.of_clusters(LABEL_CLUSTER),
            budgets: watch.of_clusters(LABEL_CLUSTER),
            network_policies: watch.of_clusters(LABEL_CLUSTER),
            accounts: watch.of_clusters(LABEL_CLUSTER),
            backups: watch.of_users(move |backup: &GuardedBackup| {
                let namespace = backup.namespace().unwrap_or_default();
                of_backup.backups.pull(&namespace, &backup.name_any());
                if let Some(restore) = undone_by(backup) {
                    of_backup.restores.pull(&namespace, &restore);
                }
                if let Ok(backup) = &backup.0 {
                    of_backup.clusters.pull(&namespace, &backup.spec.cluster_ref.name);
                }
            }),
            restores: watch.of_users(move |restore: &GuardedRestore| {
                let namespace = restore.namespace().unwrap_or_default();
                of_restore.restores.pull(&namespace, &restore.name_any());
                if let Ok(restore) = &restore.0 {
                    of_restore.clusters.pull(&namespace, &restore.spec.cluster_ref.name);
                }
            }),
            verifiers: watch.by_label(LABEL_VERIFIES),
            nodes: namespace.is_none().then(|| watch.nodes()),
            clusters: store().0,
            clusters_listed: Listed::default(),
        }
    }

    /// Resolves once every cache was filled. For one who waits, before anybody else does.
    #[expect(clippy::disallowed_methods, reason = "nobody else waits")]
    pub async fn synced(&self) {
        let Self {
            pods,
            claims,
            sets,
            templates,
            services,
            budgets,
            network_policies,
            accounts,
            backups,
            restores,
            verifiers,
            nodes,
            clusters: _,
            clusters_listed: _,
        } = self;
        // A writer lives as long as the process; a dropped one would mean that it ends.
        let _ = tokio::join!(
            pods.wait_until_ready(),
            claims.wait_until_ready(),
            sets.wait_until_ready(),
            templates.wait_until_ready(),
            services.wait_until_ready(),
            budgets.wait_until_ready(),
            network_policies.wait_until_ready(),
            accounts.wait_until_ready(),
            backups.wait_until_ready(),
            restores.wait_until_ready(),
            verifiers.wait_until_ready(),
            synced_nodes(nodes.as_ref()),
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "nobody else waits")]
async fn synced_nodes(nodes: Option<&Store<PartialObjectMeta<Node>>>) {
    let Some(nodes) = nodes else { return };
    if tokio::time::timeout(NODES_WAIT, nodes.wait_until_ready()).await.is_err() {
        tracing::warn!("Kubernetes nodes cannot be looked at yet: zones are told by the labels of pods");
    }
}

/// Name of the restore that a backup undoes, if it does.
fn undone_by(backup: &GuardedBackup) -> Option<String> {
    backup.meta().annotations.as_ref()?.get(ANNOTATION_UNDONE).cloned()
}

/// Objects that a list has at a time. They come whole, and are trimmed then: the fewer, the less memory a start takes.
pub const PAGE: u32 = 100;

/// What can be watched, and kept.
trait Watched:
    Resource<Scope = NamespaceResourceScope, DynamicType: Default + Eq + Hash + Clone + Send + Sync>
    + Clone
    + DeserializeOwned
    + Trim
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType: Default + Eq + Hash + Clone + Send + Sync>
        + Clone
        + DeserializeOwned
        + Trim
        + Debug
        + Send
        + Sync
        + 'static
{
}

struct Watch<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
    triggers: &'a AllTriggers,
    metrics: &'a Metrics,
}

impl Watch<'_> {
    /// A cache of the objects with `label`, each of whose changes asks for the reconcile of the cluster that it belongs to.
    fn of_clusters<K: Watched + Serialize>(&self, label: &str) -> Cache<K> {
        self.named_by(label, LABEL_CLUSTER)
    }

    /// The same of the cluster that `label` names.
    fn by_label<K: Watched + Serialize>(&self, label: &'static str) -> Cache<K> {
        self.named_by(label, label)
    }

    fn named_by<K: Watched + Serialize>(&self, label: &str, cluster: &'static str) -> Cache<K> {
        let triggers = self.triggers.clusters.clone();
        let objects = self.watch(watcher::Config::default().labels(label));
        let cache = Cache::by(cluster);
        let filled = Cache::clone(&cache);
        let objects = objects.inspect_ok(move |event| filled.follow(event));
        self.follow(objects, move |object: &K| {
            if let (Some(namespace), Some(cluster)) = (object.namespace(), object.labels().get(cluster)) {
                triggers.pull(&namespace, cluster);
            }
        });
        cache
    }

    /// A cache of objects of users; `touched` is called with each that was changed or is gone.
    fn of_users<K: Watched>(&self, touched: impl Fn(&K) + Send + 'static) -> Store<K> {
        let (reader, writer) = store();
        self.follow(self.watch(watcher::Config::default()).reflect(writer), touched);
        reader
    }

    /// A cache of the labels of Kubernetes nodes. Nobody waits for a change of them: clusters are looked at often enough.
    fn nodes(&self) -> Store<PartialObjectMeta<Node>> {
        let (reader, writer) = store();
        let nodes = watcher(Api::all(self.client.clone()), watcher::Config::default().page_size(PAGE));
        self.follow(nodes.default_backoff().modify(trim_node).reflect(writer), |_| {});
        reader
    }

    fn watch<K: Watched>(
        &self,
        which: watcher::Config,
    ) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + use<K> {
        let api: Api<K> = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        watcher(api, which.page_size(PAGE)).default_backoff().modify(Trim::trim)
    }

    fn follow<K: Send + 'static>(
        &self,
        events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
        touched: impl Fn(&K) + Send + 'static,
    ) {
        let metrics = self.metrics.clone();
        tokio::spawn(events.touched_objects().for_each(move |object| {
            match object {
                Ok(object) => touched(&object),
                Err(error) => tell_broken(&metrics, &error),
            }
            future::ready(())
        }));
    }
}

/// Tells of a watch that failed. It starts again by itself.
pub fn tell_broken(metrics: &Metrics, error: &watcher::Error) {
    metrics.watch_errors.inc();
    tracing::warn!(error = error as &dyn std::error::Error, "a watch failed and starts again");
}
