//! What is watched, as text, and by the cluster that it belongs to.
//!
//! Objects in memory are mostly room for what they do not have; as text they take a tenth of it, and are read again by the
//! reconcile of their cluster alone. With a thousand clusters that is most of the operator's memory. What of an object is
//! kept at all, [`crate::trim`] says.

use crate::listed::Listed;
use crate::names::ClusterName;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeSet, HashMap};
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock};

/// A cache of objects that a label gives to clusters. Cheap to clone; clones are one.
pub struct Cache<K> {
    /// The label that has the cluster's name.
    label: &'static str,
    contents: Arc<RwLock<Contents>>,
    /// What a list has told so far, of which the rest is on the way.
    listed: Arc<RwLock<Contents>>,
    filled: Listed,
    kind: PhantomData<fn() -> K>,
}

#[derive(Default)]
struct Contents {
    /// By namespace and name.
    texts: HashMap<(String, String), Box<str>>,
    /// Names by cluster.
    names: HashMap<ClusterName, BTreeSet<String>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            label: self.label,
            contents: self.contents.clone(),
            listed: self.listed.clone(),
            filled: self.filled.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope> + Serialize + DeserializeOwned,
{
    /// Nothing yet, of objects that belong to the cluster that `label` names.
    pub fn by(label: &'static str) -> Self {
        let (contents, listed) = (Arc::default(), Arc::default());
        Self { label, contents, listed, filled: Listed::default(), kind: PhantomData }
    }

    /// The object of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<K> {
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        contents.get(namespace, name)
    }

    /// The objects of a cluster, by name.
    pub fn of(&self, cluster: &ClusterName) -> Vec<K> {
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        let names = contents.names.get(cluster).into_iter().flatten();
        names.filter_map(|name| contents.get(&cluster.namespace, name)).collect()
    }

    /// Resolves once it was filled.
    pub async fn wait_until_ready(&self) {
        self.filled.wait().await;
    }

    /// Takes in what a watch tells. What it held stays until a list is complete.
    pub fn follow(&self, event: &Event<K>) {
        match event {
            Event::Init => self.listing(|listed| *listed = Contents::default()),
            Event::InitApply(object) => self.listing(|listed| listed.insert(self.label, object)),
            Event::InitDone => {
                let mut complete = Contents::default();
                self.listing(|listed| complete = std::mem::take(listed));
                self.change(|contents| *contents = complete);
            }
            Event::Apply(object) => self.change(|contents| contents.insert(self.label, object)),
            Event::Delete(object) => self.change(|contents| contents.remove(self.label, object)),
        }
        self.filled.follow(event);
    }

    fn listing(&self, change: impl FnOnce(&mut Contents)) {
        change(&mut self.listed.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn change(&self, change: impl FnOnce(&mut Contents)) {
        change(&mut self.contents.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Contents {
    fn get<K: DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<K> {
        let text = self.texts.get(&(namespace.to_owned(), name.to_owned()))?;
        serde_json::from_str(text)
            .inspect_err(
                |error| tracing::error!(namespace, name, %error, "an object in a cache is unreadable"),
            )
            .ok()
    }

    fn insert<K: Resource + Serialize>(&mut self, label: &str, object: &K) {
        let (namespace, name) = key(object);
        match serde_json::to_string(object) {
            Ok(text) => drop(self.texts.insert((namespace, name.clone()), text.into_boxed_str())),
            Err(error) => tracing::error!(namespace, name, %error, "an object cannot be cached"),
        }
        if let Some(cluster) = cluster(label, object) {
            self.names.entry(cluster).or_default().insert(name);
        }
    }

    fn remove<K: Resource>(&mut self, label: &str, object: &K) {
        let (namespace, name) = key(object);
        let Some(cluster) = cluster(label, object) else { return };
        if let Some(names) = self.names.get_mut(&cluster) {
            names.remove(&name);
            if names.is_empty() {
                self.names.remove(&cluster);
            }
        }
        self.texts.remove(&(namespace, name));
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.meta().namespace.clone().unwrap_or_default(), object.name_any())
}

fn cluster<K: Resource>(label: &str, object: &K) -> Option<ClusterName> {
    let namespace = object.meta().namespace.as_ref()?;
    Some(ClusterName::new(namespace, object.labels().get(label)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    const LABEL: &str = "sqlite-operator.io/cluster";

    fn pod(name: &str, cluster: &str) -> Pod {
        let metadata = json!({"name": name, "namespace": "shop", "labels": {(LABEL): cluster}});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[tokio::test]
    async fn objects_are_found_by_their_cluster_through_changes_and_lists() {
        let cache = Cache::by(LABEL);
        let orders = ClusterName::new("shop", "orders");
        for (event, expected) in [
            (Event::Init, &[][..]),
            (Event::InitApply(pod("orders-1", "orders")), &[]),
            (Event::InitApply(pod("carts-0", "carts")), &[]),
            (Event::InitDone, &["orders-1"]),
            (Event::Apply(pod("orders-0", "orders")), &["orders-0", "orders-1"]),
            (Event::Apply(pod("orders-0", "orders")), &["orders-0", "orders-1"]),
            (Event::Delete(pod("orders-1", "orders")), &["orders-0"]),
            (Event::Init, &["orders-0"]),
            (Event::InitApply(pod("orders-2", "orders")), &["orders-0"]),
            (Event::InitDone, &["orders-2"]),
        ] {
            cache.follow(&event);
            let found: Vec<_> = cache.of(&orders).iter().map(|pod: &Pod| pod.name_any()).collect();
            assert_eq!(found, expected, "{event:?}");
        }
        assert_eq!(cache.get("shop", "orders-2"), Some(pod("orders-2", "orders")));
        assert_eq!(cache.get("shop", "orders-0"), None);
        assert!(cache.of(&ClusterName::new("other", "orders")).is_empty());
        cache.wait_until_ready().await;
    }
}
