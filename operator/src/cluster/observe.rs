//! Looks: at the caches, at names that the caches cannot know, and at each member. Network, reads only.

use super::access::Access;
use super::build::{owner_of, spec, template};
use super::given;
use super::observed::{
    Child, ClaimView, Foreign, Observed, PodView, Resize, SetView, Stuck, is_controlled_by,
};
use super::restore::{self, BootstrapView};
use super::secrets::SecretError;
use super::validate::{Desired, parse_quantity};
use super::zone::zone;
use crate::cache::Cache;
use crate::clock;
use crate::context::Context;
use crate::crd::{ClientTraffic, DisruptionBudget, NetworkPolicyMode, SqliteCluster};
use crate::error::{RejectionReason, is_refused};
use crate::names::{
    ANNOTATION_CLIENT_TRAFFIC, ANNOTATION_CLUSTER_ID, ANNOTATION_METADATA, ANNOTATION_NODE_ID,
    ANNOTATION_REFRESHED, ANNOTATION_RESOURCES, ANNOTATION_REVISION, CONTAINER, ClusterName,
    LABEL_MANAGED_BY, LABEL_SERVING, PodRole,
};
use client::admin::MemberReport;
use client::admin_client::AdminClient;
use futures::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::{Api, Resource, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};

/// Characters of what a program said at last that are told of.
const LAST_WORDS: usize = 300;

/// Why nothing could be seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Whether a name is taken could not be found out.
    #[error("cannot look at {object}")]
    Get {
        /// What was looked at.
        object: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// Whether a Secret is there that the spec names could not be found out.
    #[error("cannot look for what the spec names")]
    Given(#[source] SecretError),
}

impl ObserveError {
    /// Why it needs a human, for programs, if it does.
    pub fn rejection(&self) -> Option<RejectionReason> {
        match self {
            Self::Get { source, .. } => is_refused(source).then_some(RejectionReason::Rejected),
            Self::Given(error) => error.rejection(),
        }
    }
}

/// What is, for the cluster of this object.
pub async fn observe(
    cluster: &SqliteCluster,
    access: &Access,
    admin: &AdminClient,
    ctx: &Context,
) -> Result<Observed, ObserveError> {
    let name = ClusterName::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let stores = &ctx.stores;
    let pods = pods(&name, zone_key(cluster), ctx);
    let (reports, foreign, missing_secret) = tokio::join!(
        reports(&pods, &name, admin, ctx),
        foreign(cluster, &name, ctx),
        given::look(cluster, &name, ctx)
    );
    let foreign = foreign?.into_iter().chain(access.taken().cloned()).collect();
    let mut observed = Observed {
        now: clock::now(),
        resource_version: cluster.resource_version(),
        status: cluster.status.clone().unwrap_or_default(),
        sets: sets(cluster, &name, ctx),
        claims: claims(cluster, &name, ctx),
        templates: stores.templates.of(&name).iter().filter_map(template::pinned).collect(),
        children: children(cluster, &name, ctx),
        backups: super::backups::seen::see(cluster, &name, ctx),
        bootstrap_restore: BootstrapView::default(),
        restores: restore::running(cluster, &name, ctx),
        certificates: ctx.certificates.get(&name, &cluster.uid().unwrap_or_default()),
        exchanges_passwords: access.is_exchanging(),
        missing_secret: missing_secret?,
        pods,
        reports,
        foreign,
    };
    observed.bootstrap_restore = restore::see(cluster, &name, &observed, admin, ctx).await;
    Ok(observed)
}

/// The members and what they say of themselves just now, and nothing else.
pub async fn members(cluster: &SqliteCluster, admin: &AdminClient, ctx: &Context) -> Observed {
    let name = ClusterName::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let pods = pods(&name, zone_key(cluster), ctx);
    let reports = reports(&pods, &name, admin, ctx).await;
    let status = cluster.status.clone().unwrap_or_default();
    Observed { now: clock::now(), status, pods, reports, ..Observed::default() }
}

/// Looks again at the pods and at what members say, just before a step that must not come too late. The pods as the API
/// server has them: one that is being evicted is not known to a cache yet.
pub async fn look_again(
    observed: &Observed,
    desired: &Desired,
    admin: &AdminClient,
    ctx: &Context,
) -> Result<Observed, kube::Error> {
    let (cluster, zone_key) = (&desired.name, desired.spec.placement.zone_topology_key.as_str());
    let of_members = ListParams::default().labels_from(&cluster.selector(None).into_iter().collect());
    let pods = Api::<Pod>::namespaced(ctx.client.clone(), &cluster.namespace).list(&of_members).await?;
    let pods = pods.iter().map(|pod| (pod.name_any(), pod_view(cluster, pod, zone_key, ctx))).collect();
    let reports = reports(&pods, cluster, admin, ctx).await;
    Ok(Observed { now: clock::now(), pods, reports, ..observed.clone() })
}

/// The label of Kubernetes nodes that names their zones.
fn zone_key(cluster: &SqliteCluster) -> &str {
    &cluster.spec.placement.zone_topology_key
}

fn pods(cluster: &ClusterName, zone_key: &str, ctx: &Context) -> BTreeMap<String, PodView> {
    let pods = ctx.stores.pods.of(cluster);
    pods.iter().map(|pod| (pod.name_any(), pod_view(cluster, pod, zone_key, ctx))).collect()
}

/// Asks each pod that has an address; those that do not answer in time have nothing to say.
async fn reports(
    pods: &BTreeMap<String, PodView>,
    cluster: &ClusterName,
    admin: &AdminClient,
    ctx: &Context,
) -> BTreeMap<String, MemberReport> {
    let asked =
        pods.iter().filter_map(|(name, pod)| Some((name, pod.base()?))).map(|(name, base)| async move {
            match admin.report(&base).await {
                // The address of a pod that went may be another cluster's by now.
                Ok(report) if report.name != *name => {
                    tracing::debug!(pod = name, found = report.name, "another pod has its address");
                    None
                }
                Ok(report) => Some((name.clone(), report)),
                Err(error) => {
                    if error.is_unauthorized() {
                        ctx.known.forget(cluster);
                    }
                    tracing::debug!(pod = name, error = &error as &dyn std::error::Error, "no report");
                    None
                }
            }
        });
    let reports: BTreeMap<String, MemberReport> = join_all(asked).await.into_iter().flatten().collect();
    // Nobody of those who are in service and talk TLS answers: whom to trust may have changed.
    let silent = |pod: &PodView| pod.ready && pod.client_traffic != ClientTraffic::Plaintext;
    if reports.is_empty() && pods.values().any(silent) {
        ctx.known.forget(cluster);
    }
    reports
}

fn controls(cluster: &SqliteCluster, meta: &ObjectMeta) -> bool {
    cluster.metadata.uid.as_ref().is_some_and(|uid| is_controlled_by(uid, meta))
}

fn sets(cluster: &SqliteCluster, name: &ClusterName, ctx: &Context) -> BTreeMap<PodRole, SetView> {
    PodRole::ALL
        .into_iter()
        .filter_map(|role| {
            let set = ctx.stores.sets.get(&name.namespace, &name.set(role))?;
            controls(cluster, &set.metadata).then(|| (role, set_view(&set)))
        })
        .collect()
}

fn set_view(set: &StatefulSet) -> SetView {
    let spec = set.spec.as_ref();
    let volume_size = spec
        .and_then(|spec| spec.volume_claim_templates.as_ref()?.first()?.spec.as_ref()?.resources.as_ref())
        .and_then(|resources| resources.requests.as_ref()?.get("storage"))
        .map(|quantity| quantity.0.clone());
    let template = spec.and_then(|spec| spec.template.metadata.as_ref()?.annotations.as_ref());
    let seen = set.status.as_ref().and_then(|status| status.observed_generation);
    SetView {
        uid: set.uid().unwrap_or_default(),
        replicas: spec.and_then(|spec| usize::try_from(spec.replicas?).ok()).unwrap_or_default(),
        settled: seen.is_some() && seen >= set.metadata.generation,
        revision: template.and_then(|annotations| annotations.get(ANNOTATION_REVISION).cloned()),
        resources_mark: template.and_then(|annotations| annotations.get(ANNOTATION_RESOURCES).cloned()),
        volume_bytes: volume_size.as_deref().and_then(parse_quantity),
        volume_size,
        terminating: set.metadata.deletion_timestamp.is_some(),
    }
}

fn claims(cluster: &SqliteCluster, name: &ClusterName, ctx: &Context) -> BTreeMap<String, ClaimView> {
    ctx.stores
        .claims
        .of(name)
        .iter()
        .filter_map(|claim| {
            let member = claim.name_any().strip_prefix(&name.claim(""))?.to_owned();
            name.parse_member(&member)?;
            Some((member, claim_view(cluster, claim)))
        })
        .collect()
}

fn claim_view(cluster: &SqliteCluster, claim: &PersistentVolumeClaim) -> ClaimView {
    let requested = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"))
        .map(|quantity| quantity.0.clone());
    let allocated = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
    let owners = claim.owner_references().iter();
    ClaimView {
        uid: claim.uid().unwrap_or_default(),
        cluster_id: claim.annotations().get(ANNOTATION_CLUSTER_ID).cloned(),
        node_id: claim.annotations().get(ANNOTATION_NODE_ID).and_then(|id| id.parse().ok()),
        owned: owners.into_iter().any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref()),
        bare: !claim.labels().contains_key(LABEL_MANAGED_BY),
        terminating: claim.metadata.deletion_timestamp.is_some(),
        requested_bytes: requested.as_deref().and_then(parse_quantity),
        requested,
        allocated: allocated.map(|quantity| quantity.0.clone()),
    }
}

fn pod_view(name: &ClusterName, pod: &Pod, zone_key: &str, ctx: &Context) -> PodView {
    let status = pod.status.as_ref();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let of_node = node.as_deref().and_then(|node| ctx.stores.node(node));
    let condition = |kind: &str| status.and_then(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == kind));
    let ready = condition("Ready");
    let is_ready = ready.is_some_and(|condition| condition.status == "True");
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let of_container = status.and_then(|status| {
        status.container_statuses.as_ref()?.iter().find(|status| status.name == CONTAINER)
    });
    let container = of_container.and_then(|status| status.state.as_ref());
    let last_words = of_container.and_then(last_words);
    let stuck = container.and_then(|state| state.waiting.as_ref()).and_then(|waiting| {
        let reason = waiting.reason.clone()?;
        let starts = matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
        // Between two attempts Kubernetes says when the next one is; the program said why they fail.
        let why =
            last_words.clone().filter(|_| reason == "CrashLoopBackOff").or_else(|| waiting.message.clone());
        (!starts).then(|| Stuck { reason, message: why.unwrap_or_default() })
    });
    let unscheduled = condition("PodScheduled").filter(|condition| {
        condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable")
    });
    PodView {
        uid: pod.uid().unwrap_or_default(),
        ip: status.and_then(|status| status.pod_ip.clone()).filter(|ip| !ip.is_empty()),
        ready: is_ready,
        not_ready_since: (!is_ready)
            .then(|| ready.and_then(|c| c.last_transition_time.as_ref().map(|time| time.0)).or(created))
            .flatten(),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        evicted: condition("DisruptionTarget")
            .filter(|condition| condition.status == "True")
            .map(|condition| condition.reason.clone().unwrap_or_default()),
        client_traffic: ClientTraffic::marked(
            pod.annotations().get(ANNOTATION_CLIENT_TRAFFIC).map(String::as_str),
        ),
        refreshed: pod.annotations().get(ANNOTATION_REFRESHED).cloned(),
        running: container.is_some_and(|state| state.running.is_some()),
        stuck,
        unschedulable: unscheduled.map(|condition| condition.message.clone().unwrap_or_default()),
        revision: pod.annotations().get(ANNOTATION_REVISION).cloned(),
        zone: zone(zone_key, pod.labels(), of_node.as_ref().map(|node| node.labels())),
        node,
        serving: pod.labels().get(LABEL_SERVING).is_some_and(|serving| serving == "true"),
        restarts: of_container.map_or(0, |status| status.restart_count),
        last_words,
        metadata_mark: pod.annotations().get(ANNOTATION_METADATA).cloned(),
        resources_mark: pod.annotations().get(ANNOTATION_RESOURCES).cloned(),
        resize: Resize::of(pod),
        resize_refused: pod.uid().is_some_and(|uid| ctx.refused_resizes.holds(name, &pod.name_any(), &uid)),
        created,
    }
}

/// The last line of what a program said that ended by itself, or is about to be started again: Kubernetes keeps the end of
/// its log (`terminationMessagePolicy`).
fn last_words(status: &ContainerStatus) -> Option<String> {
    let ended = [&status.state, &status.last_state].into_iter().flatten();
    let message = ended.filter_map(|state| state.terminated.as_ref()?.message.as_deref()).next()?;
    let line = message.lines().rfind(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(LAST_WORDS).collect())
}

fn children(cluster: &SqliteCluster, name: &ClusterName, ctx: &Context) -> BTreeSet<Child> {
    let services = ctx.stores.services.of(name);
    let budgets = ctx.stores.budgets.of(name);
    let policies = ctx.stores.network_policies.of(name);
    let templates = ctx.stores.templates.of(name);
    let services =
        services.iter().filter(|s| controls(cluster, &s.metadata)).map(|s| Child::Service(s.name_any()));
    let budgets =
        budgets.iter().filter(|b| controls(cluster, &b.metadata)).map(|b| Child::Budget(b.name_any()));
    let policies = policies
        .iter()
        .filter(|p| controls(cluster, &p.metadata))
        .map(|p| Child::NetworkPolicy(p.name_any()));
    let templates = templates.iter().filter(|t| controls(cluster, &t.metadata)).filter_map(|t| {
        if spec::is_one(t) {
            return Some(Child::Spec(t.name_any()));
        }
        Some(Child::Template(t.annotations().get(ANNOTATION_REVISION)?.clone()))
    });
    services.chain(budgets).chain(policies).chain(templates).collect()
}

/// Objects that hold our names and that this cluster does not control. A cache answers for what is labelled; what it
/// does not know is asked for, which happens only until it is made.
async fn foreign(
    cluster: &SqliteCluster,
    name: &ClusterName,
    ctx: &Context,
) -> Result<Vec<Foreign>, ObserveError> {
    let look = Look { cluster, name, ctx };
    let mut services = vec![name.nodes_service()];
    services.extend(cluster.spec.services.iter().map(|service| name.service(&service.name)));
    let (sets, budgets) = (wanted_sets(cluster, name), wanted_budgets(cluster, name));
    let mut found = Vec::new();
    for service in services {
        found.extend(look.at::<Service, _>(&ctx.stores.services, &service).await?);
    }
    for set in sets {
        found.extend(look.at::<StatefulSet, _>(&ctx.stores.sets, &set).await?);
    }
    for budget in budgets {
        found.extend(look.at::<PodDisruptionBudget, _>(&ctx.stores.budgets, &budget).await?);
    }
    if cluster.spec.security.network_policy == NetworkPolicyMode::Managed {
        let policy = name.network_policy();
        found.extend(look.at::<NetworkPolicy, _>(&ctx.stores.network_policies, &policy).await?);
    }
    found.extend(look.at::<ServiceAccount, _>(&ctx.stores.accounts, &name.service_account()).await?);
    Ok(found)
}

fn wanted_sets(cluster: &SqliteCluster, name: &ClusterName) -> Vec<String> {
    let replicas = (cluster.spec.read_replicas > 0).then_some(PodRole::ReadReplica);
    [PodRole::Voter].into_iter().chain(replicas).map(|role| name.set(role)).collect()
}

/// Budgets that the spec leads to. One that is not wanted is in no cache and would be asked for for ever.
fn wanted_budgets(cluster: &SqliteCluster, name: &ClusterName) -> Vec<String> {
    let spec = &cluster.spec;
    if spec.disruption.pod_disruption_budget == DisruptionBudget::None || spec.hibernated {
        return Vec::new();
    }
    let voters = (spec.voters > 1).then_some(PodRole::Voter);
    let replicas = (spec.read_replicas > 0).then_some(PodRole::ReadReplica);
    voters.into_iter().chain(replicas).map(|role| name.budget(role)).collect()
}

struct Look<'a> {
    cluster: &'a SqliteCluster,
    name: &'a ClusterName,
    ctx: &'a Context,
}

impl Look<'_> {
    async fn at<K, C>(&self, cache: &Cache<C>, object: &str) -> Result<Option<Foreign>, ObserveError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
        C: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let kind = K::kind(&()).into_owned();
        let meta = match cache.get(&self.name.namespace, object) {
            Some(cached) => Some(cached.meta().clone()),
            None => {
                let api: Api<K> = Api::namespaced(self.ctx.client.clone(), &self.name.namespace);
                let found: Option<PartialObjectMeta<K>> = api
                    .get_metadata_opt(object)
                    .await
                    .map_err(|source| ObserveError::Get { object: format!("{kind} {object}"), source })?;
                found.map(|found| found.metadata)
            }
        };
        Ok(meta.and_then(|meta| Foreign::of(&owner_of(self.cluster), &kind, &meta)))
    }
}
