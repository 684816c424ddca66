//! Sends: prepared objects become applied ones, by server-side apply. Network, writes.
//!
//! What was applied before and has not been touched since is not sent again, so that a cluster at rest costs the API
//! server nothing.

use super::build::{Applied, Prepared, Resources, owner};
use super::observed::{Child, Foreign};
use super::validate::Desired;
use crate::cache::Cache;
use crate::context::Context;
use crate::error::RejectionReason;
use crate::names::{ClusterName, FIELD_MANAGER, content_hash};
use crate::pace::Matter;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Why an object could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The server refused it.
    #[error("cannot apply {kind} {name}")]
    Apply {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// Whether its name is free could not be found out.
    #[error("cannot look at {kind} {name}")]
    Look {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// One that is not this cluster's has its name.
    #[error("{} exists and is not of this cluster: delete or rename it, or rename the cluster", .0.object)]
    Taken(Foreign),
    /// It cannot be written as JSON.
    #[error("{kind} {name} cannot be written as JSON")]
    Encode {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// What is no longer wanted could not be deleted.
    #[error("cannot delete {child:?}")]
    Delete {
        /// Which.
        child: Child,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

impl ApplyError {
    /// Why the rest goes on all the same, for programs: the server rejected the growth of a volume, or a StatefulSet, which
    /// stay as they were.
    pub fn rejection(&self) -> Option<RejectionReason> {
        let Self::Apply { kind, source: kube::Error::Api(status), .. } = self else { return None };
        match (kind.as_str(), status.code) {
            ("PersistentVolumeClaim", 403 | 422) => Some(RejectionReason::ResizeRejected),
            ("StatefulSet", 400 | 403 | 422) => Some(RejectionReason::Rejected),
            _ => None,
        }
    }
}

/// What was applied: content, and the version of the object that it led to.
#[derive(Clone, Debug, Default)]
pub struct Remembered(Arc<Mutex<HashMap<ClusterName, HashMap<String, Memory>>>>);

#[derive(Debug)]
struct Memory {
    content: String,
    version: Version,
    /// Until when it is trusted, whatever the caches say.
    until: Instant,
}

impl Remembered {
    /// Whether the object was applied, and `holds` of it.
    fn is(&self, cluster: &ClusterName, object: &str, holds: impl Fn(&Memory) -> bool) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = all.get(cluster).and_then(|objects| objects.get(object));
        memory.is_some_and(|memory| holds(memory) && Instant::now() < memory.until)
    }

    fn set(&self, cluster: &ClusterName, object: String, memory: Memory) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(cluster.clone()).or_default().insert(object, memory);
    }

    /// Forgets clusters that are gone.
    pub fn retain(&self, exists: impl Fn(&ClusterName) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| exists(name));
    }
}

/// What tells whether somebody touched an object: its generation where it has one, because that leaves out what
/// controllers write into the status.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    uid: Option<String>,
    version: Option<String>,
}

impl Version {
    fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        let generation =
            meta.generation.filter(|generation| *generation > 0).map(|generation| generation.to_string());
        Self { uid: meta.uid.clone(), version: generation.or_else(|| meta.resource_version.clone()) }
    }
}

/// The server has all of them after this, but for claims whose growth it rejected, and StatefulSets that it rejected: those
/// hold up nothing else, and why comes back beside the rest.
pub async fn apply(
    desired: &Desired,
    resources: Resources<Prepared>,
    ctx: &Context,
) -> Result<(Resources<Applied>, Option<ApplyError>), ApplyError> {
    let mut rejection = None;
    let applier = Applier { cluster: &desired.name, ctx };
    let stores = &ctx.stores;
    {
        let Resources {
            service_account,
            nodes,
            services,
            config_maps,
            templates,
            budgets,
            network_policy,
            claims,
            sets,
            surplus,
            state: _,
        } = &resources;
        applier.apply(service_account, &stores.accounts).await?;
        applier.apply(nodes, &stores.services).await?;
        for service in services {
            applier.apply(service, &stores.services).await?;
        }
        for config_map in config_maps {
            applier.keep(desired, config_map).await?;
        }
        for template in templates {
            applier.apply(template, &stores.templates).await?;
        }
        // Before any change that the plan may lead to.
        for budget in budgets {
            applier.apply(budget, &stores.budgets).await?;
        }
        if let Some(policy) = network_policy {
            applier.apply(policy, &stores.network_policies).await?;
        }
        for claim in claims {
            match applier.send(claim).await {
                Err(error) if error.rejection().is_some() => rejection = Some(error),
                other => drop(other?),
            }
        }
        for set in sets {
            match applier.apply(set, &stores.sets).await {
                Err(error) if error.rejection().is_some() => rejection = Some(error),
                other => other?,
            }
        }
        for child in surplus {
            applier.delete(desired, child).await?;
        }
    }
    Ok((resources.applied(), rejection))
}

struct Applier<'a> {
    cluster: &'a ClusterName,
    ctx: &'a Context,
}

impl Applier<'_> {
    fn namespace(&self) -> &str {
        &self.cluster.namespace
    }

    fn remember(&self, matter: Matter, key: String, content: String, version: Version) {
        let until = self.ctx.pace.belief(matter, self.cluster);
        self.ctx.remembered.set(self.cluster, key, Memory { content, version, until });
    }

    /// Applies the object, unless it was and the cache shows that nobody touched it since.
    async fn apply<K, C>(&self, object: &K, cache: &Cache<C>) -> Result<(), ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + Debug,
        C: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let (kind, name) = (K::kind(&()).into_owned(), object.name_any());
        let json = serde_json::to_string(object).map_err(|source| ApplyError::Encode {
            kind: kind.clone(),
            name: name.clone(),
            source,
        })?;
        let key = format!("{kind}/{name}");
        let content = content_hash(json.as_bytes());
        let cached = cache.get(self.namespace(), &name).map(|cached| Version::of(&cached));
        let untouched =
            |memory: &Memory| memory.content == content && Some(&memory.version) == cached.as_ref();
        if self.ctx.remembered.is(self.cluster, &key, untouched) {
            return Ok(());
        }
        let version = Version::of(&self.send(object).await?);
        self.remember(Matter::Applied, key, content, version);
        Ok(())
    }

    /// Makes a ConfigMap what it is to be. They are not watched: one is looked at by its name, and what was found is
    /// believed for a while.
    async fn keep(&self, desired: &Desired, map: &ConfigMap) -> Result<(), ApplyError> {
        let (kind, name) = ("ConfigMap".to_owned(), map.name_any());
        let key = format!("{kind}/{name}");
        let content = content_hash(format!("{:?}{:?}", map.data, map.metadata.owner_references).as_bytes());
        if self.ctx.remembered.is(self.cluster, &key, |memory| memory.content == content) {
            return Ok(());
        }
        let api: Api<ConfigMap> = Api::namespaced(self.ctx.client.clone(), self.namespace());
        let found = api.get_opt(&name).await.map_err(|source| ApplyError::Look {
            kind: kind.clone(),
            name: name.clone(),
            source,
        })?;
        let foreign =
            found.as_ref().and_then(|found| Foreign::of(&owner(desired, true), &kind, &found.metadata));
        if let Some(foreign) = foreign {
            return Err(ApplyError::Taken(foreign));
        }
        let version = match found {
            Some(found) if found.data == map.data => Version::of(&found),
            _ => Version::of(&self.send(map).await?),
        };
        self.remember(Matter::OwnSecrets, key, content, version);
        Ok(())
    }

    async fn send<K>(&self, object: &K) -> Result<K, ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.ctx.client.clone(), self.namespace());
        let name = object.name_any();
        self.ctx.metrics.applies.inc();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(object)).await.map_err(|source| ApplyError::Apply {
            kind: K::kind(&()).into_owned(),
            name,
            source,
        })
    }

    async fn delete(&self, desired: &Desired, child: &Child) -> Result<(), ApplyError> {
        match child {
            Child::Service(name) => self.remove::<Service>(name).await,
            Child::Budget(name) => self.remove::<PodDisruptionBudget>(name).await,
            Child::NetworkPolicy(name) => self.remove::<NetworkPolicy>(name).await,
            Child::Template(revision) => {
                self.remove::<ControllerRevision>(&desired.name.template(revision)).await
            }
            Child::Spec(name) => self.remove::<ControllerRevision>(name).await,
        }
        .map_err(|source| ApplyError::Delete { child: child.clone(), source })
    }

    async fn remove<K>(&self, name: &str) -> Result<(), kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.ctx.client.clone(), self.namespace());
        match api.delete(name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
