//! A SqliteCluster under test and the verbs for it.

use crate::database::Database;
use crate::forward::Forward;
use crate::kubernetes::Kubernetes;
use crate::ledger::{Ledger, Pace};
use crate::processes;
use crate::wait::{Hopeless, eventually};
use anyhow::{Context, Result, bail};
use client::admin::{MemberReport, Role};
use client::sql::Credentials;
use client::trust::Trust;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const FIELD_MANAGER: &str = "e2e";
const API_PORT: u16 = 4001;
/// Secrets with a user: of applications, and of the operator.
const APPLICATION: &str = "app";
const OPERATOR: &str = "operator";
/// Annotation of pods that talk TLS to clients.
const CLIENT_TRAFFIC: &str = "sqlite-operator.io/client-traffic";
const CLUSTER_LABEL: &str = "sqlite-operator.io/cluster";

/// How long a cluster may take to become what its spec says.
const PATIENCE: Duration = Duration::from_secs(50);

/// How long kube-proxy may take to route a Service that has endpoints, and one attempt to connect to it.
const ROUTING: Duration = Duration::from_secs(5);
const POLL_CONNECT: Duration = Duration::from_millis(200);

/// What is to be applied: the minimal manifest and what a test adds to it.
#[derive(Clone, Debug)]
pub struct Manifest {
    name: String,
    spec: Value,
}

impl Manifest {
    /// `spec: {voters, storage: {size: 1Gi}}`, and of the processors what makes members more than BestEffort, as
    /// docs/operator.md advises: beside those the operator's own pods, when they start, get ten times as much.
    pub fn new(name: &str, voters: u32) -> Self {
        let spec = json!({
            "voters": voters,
            "storage": {"size": "1Gi"},
            "resources": {"requests": {"cpu": "100m"}},
        });
        Self { name: name.to_owned(), spec }
    }

    /// Sets one field of the spec.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    fn object(&self) -> Value {
        json!({
            "apiVersion": "sqlite-operator.io/v1alpha1",
            "kind": "SqliteCluster",
            // The operator under test selects by it.
            "metadata": {"name": self.name, "labels": {"sqlite-operator.io/e2e": ""}},
            "spec": self.spec,
        })
    }
}

/// A condition of the status.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// `True` or `False`.
    pub status: String,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// A SqliteCluster of a scenario.
#[derive(Clone)]
pub struct Cluster {
    kubernetes: Kubernetes,
    namespace: String,
    /// Its name.
    pub name: String,
}

impl Cluster {
    /// The cluster of that name, whether or not it exists.
    pub fn named(kubernetes: &Kubernetes, namespace: &str, name: &str) -> Self {
        Self { kubernetes: kubernetes.clone(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn api(&self) -> Api<DynamicObject> {
        self.kubernetes.clusters(&self.namespace)
    }

    /// Creates or changes it. An error of the API server comes back as it was.
    pub async fn apply(&self, manifest: &Manifest) -> Result<(), kube::Error> {
        let how = PatchParams::apply(FIELD_MANAGER).force();
        self.api().patch(&manifest.name, &how, &Patch::Apply(manifest.object())).await.map(drop)
    }

    /// The object as it is.
    pub async fn object(&self) -> Result<DynamicObject> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Sets the number of voters.
    pub async fn scale(&self, voters: u32) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"voters": voters}}));
        self.api().patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Changes the spec by a merge patch.
    pub async fn set(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.api().patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Sets an annotation of the object.
    pub async fn annotate(&self, key: &str, value: &str) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        self.api().patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Asks whether the object may be deleted, without deleting it: the refusal, if it may not.
    pub async fn try_delete(&self) -> Result<Option<String>> {
        match self.api().delete(&self.name, &DeleteParams::default().dry_run()).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(Some(status.message)),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the object and waits until it and its pods are gone.
    pub async fn delete(&self) -> Result<()> {
        self.api().delete(&self.name, &DeleteParams::default()).await?;
        eventually("the cluster and its pods are gone", PATIENCE, async || {
            let object = self.api().get_opt(&self.name).await?;
            Ok((object.is_none() && self.pods().await?.is_empty()).then_some(()))
        })
        .await
    }

    // -- waiting --------------------------------------------------------------------------------------------------

    /// A condition of the status.
    pub async fn condition(&self, kind: &str) -> Result<Option<Condition>> {
        Ok(condition(&self.object().await?, kind))
    }

    /// Waits until a condition has this status, for the spec as it is now.
    pub async fn await_condition(&self, kind: &str, status: &str) -> Result<Condition> {
        let what = format!("{} is {kind}={status}", self.name);
        eventually(&what, PATIENCE, async || {
            let object = self.object().await?;
            match condition(&object, kind) {
                Some(found) if found.status == status && is_observed(&object) => Ok(Some(found)),
                found => bail!("{kind} is {found:?}"),
            }
        })
        .await
    }

    /// Waits until the cluster serves and is what its spec says: all voters there and in service, nothing under way.
    pub async fn await_ready(&self) -> Result<()> {
        let what = format!("{} is ready", self.name);
        eventually(&what, PATIENCE, async || {
            let object = self.object().await?;
            if let Some(stalled) = condition(&object, "Stalled").filter(|c| c.status == "True") {
                return Err(Hopeless(format!("Stalled, {}: {}", stalled.reason, stalled.message)).into());
            }
            let is = |kind| condition(&object, kind).is_some_and(|c| c.status == "True");
            let (spec, status) = (&object.data["spec"], &object.data["status"]);
            let counted =
                [("voters", "readyVoters"), ("readReplicas", "readyReplicas")].iter().all(|(all, ready)| {
                    let wanted = spec[*all].as_u64().unwrap_or_default();
                    [*all, *ready].iter().all(|count| status[*count].as_u64().unwrap_or_default() == wanted)
                });
            if is_observed(&object) && is("Ready") && !is("Reconciling") && counted {
                return Ok(Some(()));
            }
            bail!("its status is {status}")
        })
        .await
    }

    /// Waits until a condition is true, or is there and false, for this reason.
    pub async fn await_reason(&self, kind: &str, reason: &str) -> Result<Condition> {
        eventually(&format!("{} is {kind}, {reason}", self.name), PATIENCE, async || {
            let object = self.object().await?;
            match condition(&object, kind) {
                Some(found) if found.reason == reason && is_observed(&object) => Ok(Some(found)),
                found => bail!("{kind} is {found:?}"),
            }
        })
        .await
    }

    /// Waits until a condition that is there only while it is true is gone, for the spec as it is now.
    pub async fn await_no(&self, kind: &str) -> Result<()> {
        eventually(&format!("{} is no longer {kind}", self.name), PATIENCE, async || {
            let object = self.object().await?;
            match condition(&object, kind) {
                None if is_observed(&object) => Ok(Some(())),
                found => bail!("{kind} is {found:?}"),
            }
        })
        .await
    }

    // -- looking --------------------------------------------------------------------------------------------------

    /// Pods of its members, by name.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let which = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", self.name));
        let mut pods = self.kubernetes.pods(&self.namespace).list(&which).await?.items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Uids of its pods, by name.
    pub async fn pod_uids(&self) -> Result<BTreeMap<String, String>> {
        Ok(self
            .pods()
            .await?
            .into_iter()
            .map(|pod| (pod.name_any(), pod.uid().unwrap_or_default()))
            .collect())
    }

    /// Claims of its members, by name, and the uid of each.
    pub async fn claims(&self) -> Result<BTreeMap<String, String>> {
        let which = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", self.name));
        let claims = self.claim_api().list(&which).await?;
        Ok(claims.into_iter().map(|c| (c.name_any(), c.uid().unwrap_or_default())).collect())
    }

    /// What was told of it, in order: reason and note.
    pub async fn events(&self) -> Result<Vec<(String, String)>> {
        let events = Api::<Event>::namespaced(self.kubernetes.client.clone(), &self.namespace);
        let mut events = events.list(&ListParams::default()).await?.items;
        events.retain(|event| {
            let about = event.regarding.as_ref();
            about.is_some_and(|about| {
                about.kind.as_deref() == Some("SqliteCluster") && about.name.as_ref() == Some(&self.name)
            })
        });
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        let told = |event: Event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default());
        Ok(events.into_iter().map(told).collect())
    }

    fn claim_api(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.kubernetes.client.clone(), &self.namespace)
    }

    /// What a member says of itself.
    pub async fn report(&self, pod: &str) -> Result<MemberReport> {
        self.member(pod).await?.document("/cluster").await.with_context(|| format!("GET /cluster of {pod}"))
    }

    /// What the members that answer say of themselves.
    pub async fn reports(&self) -> Result<Vec<MemberReport>> {
        let mut reports = Vec::new();
        for pod in self.pods().await? {
            reports.extend(self.report(&pod.name_any()).await.ok());
        }
        Ok(reports)
    }

    /// Waits for a leader, as the members see it, and says its name.
    pub async fn await_leader(&self) -> Result<String> {
        eventually("a leader", PATIENCE, async || {
            let reports = self.reports().await?;
            let leads = reports.into_iter().filter(|report| report.role == Role::Leader);
            Ok(leads.max_by_key(|report| report.term).map(|report| report.name))
        })
        .await
    }

    /// Some member that does not lead.
    pub async fn follower(&self) -> Result<String> {
        let leader = self.await_leader().await?;
        let mut names = self.pods().await?.into_iter().map(|pod| pod.name_any());
        names.find(|name| *name != leader).context("no follower")
    }

    /// The same content on every member, read from each by itself once all have applied the same index.
    pub async fn assert_same_content(&self, sql: &str) -> Result<()> {
        let members = eventually("all members have applied the same", PATIENCE, async || {
            let members = self.pods().await?.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
            let mut applied = BTreeSet::new();
            for member in &members {
                applied.insert(self.report(member).await?.applied_index);
            }
            Ok((applied.len() == 1).then_some(members))
        })
        .await?;
        let mut answers = BTreeMap::new();
        for member in members {
            let database = self.member(&member).await?;
            answers.insert(member, database.read(sql, crate::database::Level::None).await?);
        }
        let mut values = answers.values();
        let first = values.next().context("no member")?;
        if values.any(|other| other != first) {
            bail!("members differ in `{sql}`: {answers:?}");
        }
        Ok(())
    }

    // -- reaching -------------------------------------------------------------------------------------------------

    /// The database through the Service `<name>-<suffix>`. Without a route to Services: through port-forwards to the
    /// pods that the Service selects, one after the other, which is said once per test.
    pub async fn service(&self, suffix: &str) -> Result<Database> {
        let name = format!("{}-{suffix}", self.name);
        let (user, trust) = (self.user(APPLICATION).await?, self.trust().await?);
        let services = Api::<Service>::namespaced(self.kubernetes.client.clone(), &self.namespace);
        let spec = services.get(&name).await?.spec.with_context(|| format!("Service {name} has no spec"))?;
        if self.kubernetes.direct_network {
            let address = spec.cluster_ip.with_context(|| format!("Service {name} has no address"))?;
            // Each Kubernetes node learns of a new Service and of its endpoints a moment after the API server.
            eventually(&format!("{name} is reachable"), ROUTING, async || {
                let connection =
                    timeout(POLL_CONNECT, TcpStream::connect((address.as_str(), API_PORT))).await;
                Ok(connection??.peer_addr().ok())
            })
            .await?;
            let database = Database::trusting(vec![format!("{address}:{API_PORT}")], trust.as_ref())?;
            return Ok(database.by(user));
        }
        println!("no route to Services: {name} is reached by port-forwards to its pods");
        let selector: Vec<_> = spec.selector.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
        let pods = self.kubernetes.pods(&self.namespace);
        let mut forwards = Vec::new();
        for pod in pods.list(&ListParams::default().labels(&selector.join(","))).await? {
            forwards.push(Forward::open(pods.clone(), pod.name_any(), API_PORT).await?);
        }
        Ok(Database::forwarded(forwards, trust.as_ref())?.by(user))
    }

    /// The database of one member.
    pub async fn member(&self, pod: &str) -> Result<Database> {
        let pods = self.kubernetes.pods(&self.namespace);
        let user = self.user(OPERATOR).await?;
        let object = pods.get(pod).await?;
        let talks_tls = object.annotations().contains_key(CLIENT_TRAFFIC);
        let trust = if talks_tls { self.trust().await? } else { None };
        if self.kubernetes.direct_network {
            let address = object.status.and_then(|status| status.pod_ip);
            let address = address.with_context(|| format!("{pod} has no address yet"))?;
            let hosts = vec![format!("{address}:{API_PORT}")];
            return Ok(Database::trusting(hosts, trust.as_ref())?.by(user));
        }
        let forward = Forward::open(pods, pod.to_owned(), API_PORT).await?;
        Ok(Database::forwarded(vec![forward], trust.as_ref())?.by(user))
    }

    /// An entry of Secret `<name>-<suffix>`.
    pub async fn entry(&self, suffix: &str, key: &str) -> Result<Option<String>> {
        let name = format!("{}-{suffix}", self.name);
        let secrets = Api::<Secret>::namespaced(self.kubernetes.client.clone(), &self.namespace);
        let data = secrets.get_opt(&name).await?.and_then(|secret| secret.data);
        let entry = data.and_then(|mut data| data.remove(key));
        entry.map(|bytes| String::from_utf8(bytes.0).context("not text")).transpose()
    }

    /// Whom applications are told to trust; none if they are to talk without TLS.
    pub async fn trust(&self) -> Result<Option<Trust>> {
        let Some(pem) = self.entry(APPLICATION, "ca.crt").await? else { return Ok(None) };
        // A name that every certificate for clients has, because tests call members by their addresses.
        let name = format!("{}-nodes.{}.svc", self.name, self.namespace);
        Ok(Some(Trust::new(pem.as_bytes(), Some(&name))?))
    }

    /// The user in Secret `<name>-<suffix>`; none if there is none.
    pub async fn user(&self, suffix: &str) -> Result<Option<Credentials>> {
        let entries = (self.entry(suffix, "username").await?, self.entry(suffix, "password").await?);
        Ok(entries.0.zip(entries.1).map(|(user, password)| Credentials { user, password }))
    }

    /// Starts to write through the Service for reads and writes.
    pub async fn start_writing(&self, pace: Pace) -> Result<Ledger> {
        Ledger::start(self.service("rw").await?, pace).await
    }

    // -- disturbing -----------------------------------------------------------------------------------------------

    /// Deletes a pod as `kubectl delete pod` does, without waiting.
    pub async fn delete_pod(&self, pod: &str) -> Result<()> {
        self.kubernetes.pods(&self.namespace).delete(pod, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Has a pod leave as `kubectl drain` does: as soon as its disruption budget allows it.
    pub async fn evict(&self, pod: &str) -> Result<()> {
        eventually(&format!("{pod} may go"), Duration::from_secs(30), async || {
            Ok(self.try_to_evict(pod).await?.then_some(()))
        })
        .await
    }

    /// Asks once whether a pod may leave, and has it leave if so. Whether it was let go.
    pub async fn try_to_evict(&self, pod: &str) -> Result<bool> {
        match self.kubernetes.evict(&self.namespace, pod).await {
            Ok(()) => Ok(true),
            // Its budget does not allow it now; it is gone already; somebody else changes the budget.
            Err(kube::Error::Api(refusal)) if [429, 404, 409].contains(&refusal.code) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The Kubernetes node that a pod is on.
    pub async fn node_of(&self, pod: &str) -> Result<String> {
        let spec = self.kubernetes.pods(&self.namespace).get(pod).await?.spec;
        spec.and_then(|spec| spec.node_name).with_context(|| format!("{pod} is on no node"))
    }

    /// Deletes a member's claim and its pod; the volume goes with them.
    pub async fn delete_volume(&self, pod: &str) -> Result<()> {
        let claim = self.claim_of(pod).await?;
        self.claim_api().delete(&claim, &DeleteParams::default()).await?;
        self.delete_pod(pod).await
    }

    async fn claim_of(&self, pod: &str) -> Result<String> {
        let spec = self.kubernetes.pods(&self.namespace).get(pod).await?.spec;
        let mut volumes = spec.and_then(|spec| spec.volumes).into_iter().flatten();
        let claim = volumes.find_map(|volume| volume.persistent_volume_claim);
        Ok(claim.with_context(|| format!("{pod} has no claim"))?.claim_name)
    }

    /// SIGKILL for the program of each of these members, all at once. What a member reports afterwards, it says in
    /// another life.
    pub async fn kill(&self, pods: &[String]) -> Result<()> {
        let mut pids = Vec::new();
        for pod in pods {
            pids.push(self.process_of(pod).await?);
        }
        processes::kill(&pids).await
    }

    /// The file of a member's database; skips a test that could not reach it.
    pub async fn database_file(&self, pod: &str) -> Result<PathBuf> {
        let pid = self.process_of(pod).await?;
        Ok(PathBuf::from(format!("/proc/{pid}/root/data/db.sqlite")))
    }

    async fn process_of(&self, pod: &str) -> Result<u32> {
        processes::require(&self.kubernetes)?;
        let uid = self.kubernetes.pods(&self.namespace).get(pod).await?.uid().unwrap_or_default();
        processes::find(&uid, "sqlited").with_context(|| format!("no sqlited runs in {pod}"))
    }
}

fn condition(object: &DynamicObject, kind: &str) -> Option<Condition> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    let text = |field| found[field].as_str().unwrap_or_default().to_owned();
    Some(Condition { status: text("status"), reason: text("reason"), message: text("message") })
}

/// Whether the status speaks of the spec as it is now.
fn is_observed(object: &DynamicObject) -> bool {
    object.data["status"]["observedGeneration"].as_i64() == object.metadata.generation
}
