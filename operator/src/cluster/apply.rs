//! Sends: objects become what they are to be, by server-side apply. Network, writes.
//!
//! Each is tried, whatever became of those before it: what needs one that the server does not have is told so by the
//! [`Shortfall`], and everything else goes on.
//!
//! What was applied before and has not been touched since is not sent again, so that a cluster at rest costs the API
//! server nothing.

use super::build::{Resources, owner};
use super::observed::{Child, Foreign, Observed};
use super::shortfall::Shortfall;
use super::validate::Desired;
use crate::cache::Cache;
use crate::context::Context;
use crate::error::{RejectionReason, is_refused};
use crate::names::{ANNOTATION_REVISION, ClusterName, FIELD_MANAGER, PodRole, content_hash};
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
use std::collections::{BTreeSet, HashMap};
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
    /// Why it needs a human, for programs, if it does.
    pub fn rejection(&self) -> Option<RejectionReason> {
        match self {
            Self::Taken(_) => Some(RejectionReason::NameConflict),
            Self::Apply { kind, source, .. } if is_refused(source) => Some(match kind.as_str() {
                "PersistentVolumeClaim" => RejectionReason::ResizeRejected,
                _ => RejectionReason::Rejected,
            }),
            Self::Look { source, .. } | Self::Delete { source, .. } if is_refused(source) => {
                Some(RejectionReason::Rejected)
            }
            Self::Apply { .. } | Self::Look { .. } | Self::Delete { .. } | Self::Encode { .. } => None,
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

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Why what could not be applied could not.
    pub failures: Vec<ApplyError>,
    /// What the server lacks therefore.
    pub shortfall: Shortfall,
}

impl Outcome {
    /// Whether it went well. If not, it is told, and whoever asks decides what has to wait for it.
    fn note<T>(&mut self, result: Result<T, ApplyError>) -> bool {
        result.map_err(|error| self.failures.push(error)).is_ok()
    }
}

/// Tries all of them.
pub async fn apply(desired: &Desired, observed: &Observed, resources: &Resources, ctx: &Context) -> Outcome {
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
    } = resources;
    let mut outcome = Outcome::default();
    let (applier, stores) = (Applier { cluster: &desired.name, ctx }, &ctx.stores);
    // Those that are there, if not as they are to be, do for a pod to start. ConfigMaps are in no cache, so that nobody knows.
    let accounted = outcome.note(applier.apply(service_account, &stores.accounts).await)
        || applier.has(&stores.accounts, service_account);
    let named =
        outcome.note(applier.apply(nodes, &stores.services).await) || applier.has(&stores.services, nodes);
    for service in services {
        outcome.note(applier.apply(service, &stores.services).await);
    }
    let mut told = true;
    for config_map in config_maps {
        told &= outcome.note(applier.keep(desired, config_map).await);
    }
    outcome.shortfall.ground = !(accounted && named && told);
    let mut unpinned = BTreeSet::new();
    for template in templates {
        if !outcome.note(applier.apply(template, &stores.templates).await)
            && !applier.has(&stores.templates, template)
        {
            unpinned.extend(template.annotations().get(ANNOTATION_REVISION));
        }
    }
    // Before any change that the plan may lead to.
    for budget in budgets {
        if !outcome.note(applier.apply(budget, &stores.budgets).await) {
            outcome.shortfall.budgets.extend(applier.role(budget));
        }
    }
    if let Some(policy) = network_policy {
        outcome.note(applier.apply(policy, &stores.network_policies).await);
    }
    for claim in claims {
        outcome.note(applier.send(claim).await);
    }
    for set in sets {
        let role = applier.role(set);
        let before = role.and_then(|role| observed.sets.get(&role)?.revision.as_ref());
        let revision = set.annotations().get(ANNOTATION_REVISION);
        // A template that nobody keeps could neither be gone back to nor be told from what another operator renders.
        let is_unpinned = revision.is_some_and(|wanted| unpinned.contains(wanted) && before != Some(wanted));
        if is_unpinned || !outcome.note(applier.apply(set, &stores.sets).await) {
            outcome.shortfall.sets.extend(role);
        }
    }
    for child in surplus {
        outcome.note(applier.delete(desired, child).await);
    }
    outcome
}

struct Applier<'a> {
    cluster: &'a ClusterName,
    ctx: &'a Context,
}

impl Applier<'_> {
    fn namespace(&self) -> &str {
        &self.cluster.namespace
    }

    /// Whether the cache knows an object of this name.
    fn has<C>(&self, cache: &Cache<C>, object: &impl ResourceExt) -> bool
    where
        C: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned,
    {
        cache.get(self.namespace(), &object.name_any()).is_some()
    }

    /// Whose pods a StatefulSet or a budget is for.
    fn role(&self, object: &impl ResourceExt) -> Option<PodRole> {
        let name = object.name_any();
        PodRole::ALL
            .into_iter()
            .find(|role| [self.cluster.set(*role), self.cluster.budget(*role)].contains(&name))
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
