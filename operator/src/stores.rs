//! Caches of what the operator owns, by watches that are scoped to its label, and the triggers that they pull.
//!
//! The caches fill whether or not this process leads, so that a standby takes over warm.

use crate::crd::SqliteCluster;
use crate::metrics::Metrics;
use crate::names::{LABEL_CLUSTER, LABEL_TEMPLATE};
use futures::{StreamExt, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A cluster object that may be unreadable; one of those never stops the watch of the others.
pub type Guarded = DeserializeGuard<SqliteCluster>;

/// Asks for the reconcile of a cluster. Deaf while this process does not lead.
#[derive(Clone, Debug, Default)]
pub struct Triggers(Arc<Mutex<Option<UnboundedSender<ObjectRef<Guarded>>>>>);

impl Triggers {
    /// Asks for the reconcile of a cluster.
    pub fn pull(&self, namespace: &str, name: &str) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = sender.as_ref() {
            // A receiver that is gone belongs to a controller that stopped.
            let _ = sender.send(ObjectRef::new(name).within(namespace));
        }
    }

    /// What is asked for from now on.
    pub fn listen(&self) -> UnboundedReceiver<ObjectRef<Guarded>> {
        let (sender, receiver) = unbounded_channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }
}

/// The caches of one namespace, or of all.
#[derive(Clone)]
pub struct Stores {
    /// Pods.
    pub pods: Store<Pod>,
    /// Claims.
    pub claims: Store<PersistentVolumeClaim>,
    /// StatefulSets.
    pub sets: Store<StatefulSet>,
    /// Pinned pod templates.
    pub templates: Store<ControllerRevision>,
    /// Services.
    pub services: Store<PartialObjectMeta<Service>>,
    /// PodDisruptionBudgets.
    pub budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    /// ServiceAccounts.
    pub accounts: Store<PartialObjectMeta<ServiceAccount>>,
}

impl Stores {
    /// Starts the watches of `namespace`, or of all namespaces.
    pub fn start(client: &Client, namespace: Option<&str>, triggers: &Triggers, metrics: &Metrics) -> Self {
        let watch = Watch { client, namespace, triggers, metrics };
        Self {
            pods: watch.start(LABEL_CLUSTER),
            claims: watch.start(LABEL_CLUSTER),
            sets: watch.start(LABEL_CLUSTER),
            templates: watch.start(LABEL_TEMPLATE),
            services: watch.start(LABEL_CLUSTER),
            budgets: watch.start(LABEL_CLUSTER),
            accounts: watch.start(LABEL_CLUSTER),
        }
    }

    /// Resolves once every cache was filled.
    pub async fn synced(&self) {
        let Self { pods, claims, sets, templates, services, budgets, accounts } = self;
        // A writer lives as long as the process; a dropped one would mean that it ends.
        let _ = tokio::join!(
            pods.wait_until_ready(),
            claims.wait_until_ready(),
            sets.wait_until_ready(),
            templates.wait_until_ready(),
            services.wait_until_ready(),
            budgets.wait_until_ready(),
            accounts.wait_until_ready(),
        );
    }
}

struct Watch<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
    triggers: &'a Triggers,
    metrics: &'a Metrics,
}

impl Watch<'_> {
    /// A cache of the objects with `label`, each of whose changes asks for the reconcile of the cluster that it names.
    fn start<K>(&self, label: &str) -> Store<K>
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
        K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
    {
        let api: Api<K> = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (reader, writer) = store();
        let triggers = self.triggers.clone();
        let errors = self.metrics.watch_errors.clone();
        let stream = watcher(api, watcher::Config::default().labels(label))
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .touched_objects();
        tokio::spawn(stream.for_each(move |object| {
            match object {
                Ok(object) => {
                    let cluster = object.labels().get(LABEL_CLUSTER);
                    if let (Some(namespace), Some(cluster)) = (object.namespace(), cluster) {
                        triggers.pull(&namespace, cluster);
                    }
                }
                Err(error) => {
                    errors.inc();
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a watch failed and starts again"
                    );
                }
            }
            future::ready(())
        }));
        reader
    }
}
