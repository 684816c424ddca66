//! Looking at members and acting on them, over real connections: observe, plan and execute form a cluster of members
//! that answer as nodes do. The API server is not part of it; what it would tell is in the caches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cert_manager;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use client::admin::{
    AddLearner, Certificates, ChangeVoters, Changed, FatalEntry, Initialise, Member, MemberRef, MemberReport,
    Membership, NodeId, Phase, PortCertificates, Refusal, RefusalReason, Role, SkipEntry, Skipped, Transfer,
    Transferred,
};
use client::admin_client::{AdminClient, AdminTimeouts};
use client::backup::{
    Backup, BackupJob, BackupJobs, BackupKind, DeleteBackups, Deleted, JobState, Probe, StartBackup,
};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::store;
use kube::runtime::watcher::Event;
use operator::admin::EventStreams;
use operator::cache::Cache;
use operator::cluster::access::Access;
use operator::cluster::certificates::exchange::Handed;
use operator::cluster::observe::ObserveError;
use operator::cluster::observed::Observed;
use operator::cluster::plan::Plan;
use operator::cluster::{execute, observe, plan, validate};
use operator::context::Context;
use operator::crd::{ClientTraffic, Port, SecretRef, SqliteBackup, SqliteCluster, TlsMode};
use operator::metrics::Metrics;
use operator::names::{ClusterName, LABEL_CLUSTER};
use operator::stores::{AllTriggers, Stores, Triggers};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CLUSTER_ID: &str = "c1";

/// What the members share: who is a member, who leads, how often a promotion was refused.
#[derive(Default)]
struct Raft {
    cluster_id: Option<String>,
    members: Vec<Member>,
    leader: Option<NodeId>,
    refusals: u32,
    /// Who was asked for which backup.
    backups: Vec<(NodeId, String)>,
    /// Paths that were to be deleted.
    deleted: Vec<String>,
    /// What members loaded of certificates.
    certificates: BTreeMap<String, Certificates>,
    /// What none of them gets over.
    fatal_entry: Option<FatalEntry>,
    /// What they were told to pass over.
    skipped: Vec<u64>,
    /// Whether they accept whatever password there is.
    lets_in: bool,
}

#[derive(Clone)]
struct Node {
    id: NodeId,
    name: String,
    raft: Arc<Mutex<Raft>>,
}

fn body(value: impl Serialize) -> axum::response::Response {
    (StatusCode::OK, serde_json::to_string(&value).unwrap()).into_response()
}

fn refuse(reason: RefusalReason) -> axum::response::Response {
    let refusal = Refusal { reason, message: "no".into() };
    (StatusCode::CONFLICT, serde_json::to_string(&refusal).unwrap()).into_response()
}

impl Node {
    fn report(&self) -> MemberReport {
        let raft = self.raft.lock().unwrap();
        let joined = raft.members.iter().any(|member| member.node_id == self.id);
        let leads = raft.leader == Some(self.id);
        let leader = raft.members.iter().find(|member| Some(member.node_id) == raft.leader);
        MemberReport {
            cluster_id: raft.cluster_id.clone().filter(|_| joined),
            epoch: 0,
            node_id: self.id,
            name: self.name.clone(),
            raft_address: format!("{}:4002", self.name),
            api_address: format!("{}:4001", self.name),
            version: "1.0.0".into(),
            phase: match (joined, raft.fatal_entry) {
                (true, None) => Phase::Serving,
                (true, Some(_)) => Phase::CatchingUp,
                (false, _) => Phase::Uninitialised,
            },
            role: if leads { Role::Leader } else { Role::Learner },
            term: 1,
            leader: leader.map(|leader| MemberRef { node_id: leader.node_id, name: leader.name.clone() }),
            last_log_index: 9,
            committed_index: 9,
            applied_index: raft.fatal_entry.map_or(9, |entry| entry.index - 1),
            quorum_silent_milliseconds: leads.then_some(5),
            membership: Membership {
                log_index: 5,
                committed: true,
                joint: false,
                members: if joined { raft.members.clone() } else { vec![] },
            },
            consistency: None,
            storage: None,
            archive: None,
            certificates: raft.certificates.get(&self.name).cloned().unwrap_or_default(),
            fatal_entry: raft.fatal_entry,
            message: None,
        }
    }

    fn changed(&self) -> axum::response::Response {
        body(Changed { membership: self.report().membership })
    }

    async fn initialise(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: Initialise = serde_json::from_str(&text).unwrap();
        {
            let mut raft = node.raft.lock().unwrap();
            assert!(raft.cluster_id.is_none(), "initialised twice");
            raft.cluster_id = Some(asked.cluster_id);
            raft.leader = Some(node.id);
            raft.members.push(member(node.id, &node.name, true));
        }
        body(node.report())
    }

    async fn learners(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: AddLearner = serde_json::from_str(&text).unwrap();
        node.raft.lock().unwrap().members.push(member(asked.node_id, &asked.name, false));
        node.changed()
    }

    async fn voters(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: ChangeVoters = serde_json::from_str(&text).unwrap();
        {
            let mut raft = node.raft.lock().unwrap();
            if raft.refusals == 0 {
                raft.refusals = 1;
                return refuse(RefusalReason::NotCaughtUp);
            }
            raft.members.retain(|member| !asked.remove.contains(&member.node_id));
            for member in raft.members.iter_mut().filter(|member| asked.add.contains(&member.node_id)) {
                member.voter = true;
            }
        }
        node.changed()
    }

    async fn transfer(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: Transfer = serde_json::from_str(&text).unwrap();
        let to = asked.to.unwrap();
        let mut raft = node.raft.lock().unwrap();
        raft.leader = Some(to);
        let Some(leader) = raft.members.iter().find(|member| member.node_id == to) else {
            return refuse(RefusalReason::NoSuchMember);
        };
        body(Transferred { leader: MemberRef { node_id: to, name: leader.name.clone() }, term: 2 })
    }

    async fn skip(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: SkipEntry = serde_json::from_str(&text).unwrap();
        let mut raft = node.raft.lock().unwrap();
        assert_eq!(
            (raft.leader, raft.fatal_entry.map(|entry| entry.index)),
            (Some(node.id), Some(asked.index))
        );
        raft.fatal_entry = None;
        raft.skipped.push(asked.index);
        body(Skipped { by: 10 })
    }

    async fn start_backup(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: StartBackup = serde_json::from_str(&text).unwrap();
        node.raft.lock().unwrap().backups.push((node.id, asked.name.clone()));
        let job = BackupJob {
            name: asked.name,
            state: JobState::Running,
            progress_percent: 1,
            backup: None,
            message: None,
        };
        body(job)
    }

    /// What it was asked for is done by the time that somebody looks.
    async fn backup_jobs(State(node): State<Self>) -> axum::response::Response {
        let asked = node.raft.lock().unwrap().backups.clone();
        let mine = asked.into_iter().filter(|(id, _)| *id == node.id);
        let jobs = mine.map(|(_, name)| BackupJob {
            backup: Some(Backup {
                name: name.clone(),
                kind: BackupKind::Full,
                path: format!("full/{name}"),
                cluster_id: CLUSTER_ID.into(),
                epoch: 1,
                index: 9,
                term: 1,
                time: "2026-01-01T00:00:00Z".into(),
                size_bytes: 8192,
                stored_bytes: 100,
                sha256: "ab".into(),
                page_checksum: None,
                sqlite_version: "3".into(),
                member: node.name.clone(),
                encrypted: false,
            }),
            name,
            state: JobState::Succeeded,
            progress_percent: 100,
            message: None,
        });
        body(BackupJobs { jobs: jobs.collect() })
    }

    async fn delete_backups(State(node): State<Self>, text: String) -> axum::response::Response {
        let asked: DeleteBackups = serde_json::from_str(&text).unwrap();
        node.raft.lock().unwrap().deleted.extend(asked.paths);
        body(Deleted { objects: 3 })
    }

    async fn let_in(State(node): State<Self>) -> StatusCode {
        let lets_in = node.raft.lock().unwrap().lets_in;
        if lets_in { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::UNAUTHORIZED }
    }

    async fn probe() -> axum::response::Response {
        body(Probe { writable: true, readable: true, deletable: true, message: None })
    }

    async fn events(State(node): State<Self>) -> axum::response::Response {
        let line = format!("\n{}\n\n", serde_json::to_string(&node.report()).unwrap());
        let chunks = line.into_bytes().chunks(50).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let stream = futures::stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>));
        axum::body::Body::from_stream(stream).into_response()
    }

    async fn serve(self, ip: Ipv4Addr) {
        let router = Router::new()
            .route("/cluster", get(|State(node): State<Self>| async move { body(node.report()) }))
            .route("/cluster/initialise", post(Self::initialise))
            .route("/cluster/learners", post(Self::learners))
            .route("/cluster/voters", post(Self::voters))
            .route("/cluster/transfer", post(Self::transfer))
            .route("/cluster/skip", post(Self::skip))
            .route("/cluster/events", get(Self::events))
            .route("/cluster/backups", post(Self::start_backup).delete(Self::delete_backups))
            .route("/cluster/backups/jobs", get(Self::backup_jobs))
            .route("/cluster/backups/probe", post(Self::probe))
            .route("/db/request", get(Self::let_in))
            .with_state(self);
        let listener = tokio::net::TcpListener::bind((ip, 4001)).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    }
}

fn member(node_id: NodeId, name: &str, voter: bool) -> Member {
    Member {
        node_id,
        name: name.into(),
        raft_address: format!("{name}:4002"),
        api_address: format!("{name}:4001"),
        voter,
        matched_index: Some(9),
        silent_milliseconds: Some(1),
    }
}

/// An address that no other test of this process has, nor another process.
fn ip() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A cache that holds these objects.
fn cache<K>(objects: &[Value]) -> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + serde::de::DeserializeOwned,
{
    let objects = objects.iter().map(|object| serde_json::from_value(object.clone()).unwrap());
    let cache = Cache::by(LABEL_CLUSTER);
    cache.follow(&Event::Init);
    for object in objects {
        cache.follow(&Event::InitApply(object));
    }
    cache.follow(&Event::InitDone);
    cache
}

fn cache_of<K>(objects: Vec<K>) -> kube::runtime::reflector::Store<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let (reader, mut writer) = store();
    writer.apply_watcher_event(&Event::Init);
    for object in objects {
        writer.apply_watcher_event(&Event::InitApply(object));
    }
    writer.apply_watcher_event(&Event::InitDone);
    reader
}

fn cluster() -> SqliteCluster {
    serde_json::from_value(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": {"voters": 3, "storage": {"size": "1Gi"}},
        "status": {
            "clusterID": CLUSTER_ID, "peerTraffic": "Tls", "bootstrap": {"member": "orders-0", "phase": "Chosen"},
        },
    }))
    .unwrap()
}

/// Claims of the members, which say whose cluster's they are and, if there was time, who lives on them.
fn claims(count: usize, inhabited: bool) -> Vec<Value> {
    let claim = |i: usize| {
        let mut annotations = json!({"sqlite-operator.io/cluster-id": CLUSTER_ID});
        if inhabited {
            annotations["sqlite-operator.io/node-id"] = json!(NodeId(100 + i as u64));
        }
        let name = format!("data-orders-{i}");
        json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": name,
                "labels": {"sqlite-operator.io/cluster": "orders"}, "annotations": annotations,
            },
            "spec": {"resources": {"requests": {"storage": "1Gi"}}},
        })
    };
    (0..count).map(claim).collect()
}

/// As the operator does, where nobody has to say who they are.
async fn look(cluster: &SqliteCluster, ctx: &Context) -> Result<Observed, ObserveError> {
    observe::observe(cluster, &Access::Open(Box::default()), &ctx.admin, ctx).await
}

fn context(ips: &[Ipv4Addr]) -> Context {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let server = ApiServer { pods: Arc::new(pods(&cluster(), ips)), ..ApiServer::default() };
    context_with(server.client(), ips)
}

fn context_with(client: kube::Client, ips: &[Ipv4Addr]) -> Context {
    context_of(&cluster(), client, ips)
}

fn meta(name: &str) -> Value {
    json!({
        "name": name, "namespace": "shop", "uid": name, "generation": 1,
        "labels": {"sqlite-operator.io/cluster": "orders"},
        "ownerReferences": [{
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster", "name": "orders", "uid": "u",
            "controller": true,
        }],
    })
}

/// Pods of the members at these addresses, by the template of this cluster.
fn pods(cluster: &SqliteCluster, ips: &[Ipv4Addr]) -> Vec<Value> {
    let revision = validate::validate(cluster, "i").unwrap().voter_revision;
    ips.iter()
        .enumerate()
        .map(|(i, ip)| {
            let mut metadata = meta(&format!("orders-{i}"));
            metadata["annotations"] = json!({"sqlite-operator.io/template-revision": revision});
            metadata["labels"]["sqlite-operator.io/serving"] = json!("true");
            json!({
                "metadata": metadata,
                "status": {
                    "podIP": ip.to_string(),
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [{
                        "name": "sqlited", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                        "state": {"running": {}},
                    }],
                },
            })
        })
        .collect()
}

/// What is in the caches has the pod template of this cluster.
fn context_of(cluster: &SqliteCluster, client: kube::Client, ips: &[Ipv4Addr]) -> Context {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let revision = validate::validate(cluster, "i").unwrap().voter_revision;
    let set = json!({
        "metadata": meta("orders"),
        "spec": {
            "replicas": ips.len(), "selector": {}, "serviceName": "orders-nodes",
            "template": {"metadata": {"annotations": {"sqlite-operator.io/template-revision": revision}}},
            "volumeClaimTemplates": [
                {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}},
            ],
        },
        "status": {"observedGeneration": 1, "replicas": ips.len()},
    });
    let template = {
        let mut metadata = meta(&format!("orders-template-{revision}"));
        metadata["annotations"] = json!({"sqlite-operator.io/template-revision": revision});
        json!({"metadata": metadata, "revision": 1, "data": {"spec": {"containers": [{"name": "sqlited"}]}}})
    };
    let bare =
        |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"metadata": meta(name)})).collect() };
    let admin = AdminClient::new(AdminTimeouts::default()).unwrap();
    Context {
        admin: admin.clone(),
        streams: EventStreams::new(Triggers::default()),
        stores: Stores {
            pods: cache(&pods(cluster, ips)),
            claims: cache(&claims(ips.len(), false)),
            sets: cache(&[set]),
            templates: cache(&[template]),
            services: cache(&bare(&["orders-nodes", "orders-rw", "orders-ro", "orders-any"])),
            budgets: cache(&bare(&["orders"])),
            network_policies: cache(&bare(&["orders"])),
            accounts: cache(&bare(&["orders"])),
            backups: cache_of(vec![]),
            restores: cache_of(vec![]),
            verifiers: cache(&[]),
            clusters: cache_of(vec![]),
        },
        triggers: AllTriggers::default(),
        selects_all: true,
        recorder: Recorder::new(client.clone(), "test".into()),
        client,
        metrics: Metrics::new(),
        pace: Default::default(),
        known: Default::default(),
        certificates: Default::default(),
        told: Default::default(),
        node_image: "i".into(),
        remembered: Default::default(),
        refused_resizes: Default::default(),
        probes: Default::default(),
        tests: Default::default(),
        retentions: Default::default(),
        failures: Default::default(),
        put_off: Default::default(),
    }
}

async fn members() -> (Vec<Ipv4Addr>, Arc<Mutex<Raft>>) {
    let raft = Arc::new(Mutex::new(Raft::default()));
    let ips: Vec<_> = (0..3).map(|_| ip()).collect();
    for (i, ip) in ips.iter().enumerate() {
        let node = Node { id: NodeId(100 + i as u64), name: format!("orders-{i}"), raft: raft.clone() };
        node.serve(*ip).await;
    }
    (ips, raft)
}

/// observe → validate → plan → execute.
async fn turn(cluster: &SqliteCluster, ctx: &Context) -> (Plan, Result<(), execute::ExecuteError>) {
    let observed = look(cluster, ctx).await.unwrap();
    let desired = validate::validate(cluster, "i").unwrap();
    let plan = plan::plan(&desired, &observed, "minted");
    let done =
        execute::execute(&desired, &observed, &plan, &ObjectReference::default(), &ctx.admin, ctx).await;
    (plan, done)
}

/// An API server that has whatever is applied, counts what it is asked, and keeps the last status, the Secrets, the
/// ConfigMaps and the Certificates, and what events tell: reason and note.
#[derive(Clone, Default)]
struct ApiServer {
    pods: Arc<Vec<Value>>,
    requests: Arc<Mutex<Vec<String>>>,
    status: Arc<Mutex<Option<Value>>>,
    secrets: Arc<Mutex<BTreeMap<String, Value>>>,
    events: Arc<Mutex<Vec<(String, String)>>>,
}

impl ApiServer {
    fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        kube::Client::new(service, "shop")
    }

    async fn answer(
        &self,
        request: http::Request<kube::client::Body>,
    ) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
        let path = request.uri().path().to_owned();
        self.requests.lock().unwrap().push(format!("{} {path}", request.method()));
        if request.method() == http::Method::GET && path.ends_with("/pods") {
            let list = json!({"metadata": {}, "items": *self.pods});
            return Ok(http::Response::new(list.to_string().into_bytes().into()));
        }
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let mut object: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!({}));
        if path.ends_with("/status") {
            *self.status.lock().unwrap() = Some(object["status"].clone());
            object["spec"] = json!(cluster().spec);
        }
        if path.contains("/sqlitebackups/") {
            object["spec"] = json!({"clusterRef": {"name": "orders"}});
        }
        let name = object["metadata"]["name"].clone();
        let by_name =
            ["/secrets", "/configmaps", "/certificates"].into_iter().find_map(|kind| path.split_once(kind));
        if let Some((_, kept)) = by_name {
            let mut secrets = self.secrets.lock().unwrap();
            match secrets.get(kept.trim_start_matches('/')) {
                _ if name.is_string() => drop(secrets.insert(name.as_str().unwrap().into(), object.clone())),
                Some(secret) => object = secret.clone(),
                None => {
                    let missing =
                        json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
                    let answer =
                        http::Response::builder().status(404).body(missing.to_string().into_bytes().into());
                    return Ok(answer.unwrap());
                }
            }
        }
        if path.contains("/events.k8s.io/") {
            let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
            self.events.lock().unwrap().push((text("reason"), text("note")));
            object["metadata"]["name"] = json!("event");
        }
        object["metadata"]["uid"] = if name.is_null() { object["metadata"]["name"].clone() } else { name };
        object["metadata"]["generation"] = json!(1);
        Ok(http::Response::new(object.to_string().into_bytes().into()))
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

/// A cluster that serves, with an API server that keeps its Secrets.
struct Serving {
    server: ApiServer,
    ctx: Arc<Context>,
    cluster: SqliteCluster,
    raft: Arc<Mutex<Raft>>,
}

impl Serving {
    async fn start() -> Self {
        let (ips, raft) = members().await;
        {
            let mut raft = raft.lock().unwrap();
            raft.cluster_id = Some(CLUSTER_ID.into());
            raft.members = (0..3).map(|i| member(NodeId(100 + i), &format!("orders-{i}"), true)).collect();
            raft.leader = Some(NodeId(100));
        }
        let server = ApiServer::default();
        let mut ctx = context_with(server.client(), &ips);
        ctx.stores.claims = cache(&claims(3, true));
        let mut cluster = cluster();
        cluster.status.as_mut().unwrap().bootstrap.as_mut().unwrap().phase =
            operator::crd::BootstrapPhase::Complete;
        Self { server, ctx: Arc::new(ctx), cluster, raft }
    }

    /// One reconcile; what it writes into the status is there for the next.
    async fn reconcile(&mut self) {
        let object = Arc::new(kube::core::DeserializeGuard(Ok(self.cluster.clone())));
        operator::cluster::reconcile(object, self.ctx.clone()).await.unwrap();
        if let Some(status) = self.server.status.lock().unwrap().clone() {
            self.cluster.status = serde_json::from_value(status).unwrap();
        }
    }

    fn annotate(&mut self, key: &str, value: &str) {
        self.cluster.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
    }

    /// An entry of a Secret.
    fn entry(&self, secret: &str, key: &str) -> Option<String> {
        let secrets = self.server.secrets.lock().unwrap();
        let secret: k8s_openapi::api::core::v1::Secret =
            serde_json::from_value(secrets.get(secret)?.clone()).unwrap();
        Some(String::from_utf8(secret.data?.get(key)?.0.clone()).unwrap())
    }

    /// What members of the port between them have to mount.
    fn handed(&self) -> Handed {
        let name = ClusterName::new("shop", "orders");
        let known = self.ctx.certificates.get(&name, "u").unwrap();
        known[&Port::Peers].view.handed.clone().unwrap()
    }

    /// The kubelet brings it to every pod.
    fn load(&self) {
        let handed = self.handed();
        let mut raft = self.raft.lock().unwrap();
        for name in ["orders-0", "orders-1", "orders-2"] {
            let peers = PortCertificates {
                certificate: handed.leaves[name].fingerprint.clone(),
                not_after: handed.leaves[name].not_after,
                authorities: handed.trusted.iter().cloned().collect(),
            };
            raft.certificates.insert(name.into(), Certificates { peers: Some(peers), clients: None });
        }
    }

    fn reason(&self, kind: &str) -> Option<String> {
        let conditions = &self.cluster.status.as_ref().unwrap().conditions;
        conditions.iter().find(|condition| condition.type_ == kind).map(|c| c.reason.clone())
    }
}

#[tokio::test]
async fn an_authority_is_exchanged_once_every_member_has_loaded_each_step() {
    let mut world = Serving::start().await;
    world.reconcile().await;
    world.load();
    world.reconcile().await;
    let before = world.handed();
    assert_eq!((before.trusted.len(), world.reason("CertificatesValid").as_deref()), (1, Some("Valid")));
    world.server.asked();

    world.annotate("sqlite-operator.io/rotateCertificatesAt", "once");
    world.reconcile().await;
    let both = world.handed();
    assert!(both.trusted.len() == 2 && both.trusted.is_superset(&before.trusted));
    assert_eq!(both.leaves, before.leaves, "nobody shows what not everybody trusts");
    let asked = world.server.asked();
    let hurried = asked.iter().filter(|asked| asked.contains("/pods/orders-")).count();
    assert_eq!(hurried, 3, "the kubelet is asked to hurry: {asked:?}");
    world.reconcile().await;
    assert_eq!(world.handed(), both, "it waits");
    assert_eq!(world.reason("Reconciling").as_deref(), Some("RotatingCertificates"));

    world.load();
    world.reconcile().await;
    let issued = world.handed();
    assert_eq!(issued.trusted, both.trusted, "the first is trusted until nobody shows it");
    assert!(issued.leaves.iter().all(|(name, leaf)| before.leaves[name] != *leaf));
    world.load();
    world.reconcile().await;
    let after = world.handed();
    assert!(after.trusted.len() == 1 && after.trusted.is_disjoint(&before.trusted));
    assert_eq!(after.leaves, issued.leaves);
    world.load();
    world.reconcile().await;
    assert_eq!(
        (world.reason("Reconciling"), world.reason("CertificatesValid").as_deref()),
        (None, Some("Valid"))
    );
    let told: Vec<_> = world.server.events.lock().unwrap().iter().map(|(reason, _)| reason.clone()).collect();
    assert_eq!(told.iter().filter(|reason| *reason == "CertificateRotated").count(), 2, "{told:?}");
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "a wish is answered once");
}

#[tokio::test]
async fn a_password_is_accepted_before_it_is_told_and_for_a_while_after() {
    let mut world = Serving::start().await;
    world.cluster.spec.security.rotation_overlap_seconds = 0;
    world.reconcile().await;
    let told = |world: &Serving| world.entry("orders-app", "password").unwrap();
    let hashes = |world: &Serving| {
        let users = world.entry("orders-users", "sqlite-operator.json").unwrap();
        serde_json::from_str::<Value>(&users).unwrap().as_array().unwrap().len()
    };
    let (first, own) = (told(&world), world.entry("orders-operator", "password").unwrap());
    assert_eq!(hashes(&world), 2);

    world.annotate("sqlite-operator.io/rotatePasswordAt", "once");
    for _ in 0..3 {
        world.reconcile().await;
    }
    assert_eq!((told(&world), hashes(&world)), (first.clone(), 4), "told before it is accepted");
    assert_eq!(world.reason("Reconciling").as_deref(), Some("RotatingPassword"));
    world.raft.lock().unwrap().lets_in = true;
    world.reconcile().await;
    world.reconcile().await;
    let second = told(&world);
    assert!(second != first && world.entry("orders-operator", "password").unwrap() != own);
    assert_eq!(world.entry("orders-app", "uri").unwrap().matches(&second).count(), 1);
    for _ in 0..3 {
        world.reconcile().await;
    }
    assert_eq!((told(&world), hashes(&world)), (second, 2), "the former one is forgotten");
    assert_eq!(world.entry("orders-operator", "former-password"), None);
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "a wish is answered once");
}

#[tokio::test]
async fn nothing_starts_without_certificates_that_somebody_else_is_to_make() {
    let mut world = Serving::start().await;
    let tls = &mut world.cluster.spec.security.tls;
    (tls.peers, tls.peers_secret_ref) = (TlsMode::Secret, Some(SecretRef { name: "mine".into() }));
    world.reconcile().await;
    assert_eq!(world.reason("CertificatesValid").as_deref(), Some("SecretMissing"));
    let asked = world.server.asked();
    assert!(!asked.iter().any(|asked| asked.contains("/statefulsets/")), "{asked:?}");
    world.reconcile().await;
    assert_eq!(world.reason("Reconciling").as_deref(), Some("AwaitingCertificates"));
}

#[tokio::test]
async fn a_cluster_at_rest_costs_the_api_server_nothing() {
    let mut world = Serving::start().await;
    world.reconcile().await;
    let Serving { server, ctx, .. } = &world;
    let (server, ctx) = (server.clone(), ctx.clone());
    let first = server.asked();
    assert_eq!(first.iter().filter(|asked| asked.ends_with("/orders/status")).count(), 1, "{first:?}");
    let secrets = server.secrets.lock().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(secrets, "orders-app orders-operator orders-peer-ca orders-peer-tls orders-users");
    assert_eq!(world.reason("Ready").as_deref(), Some("Serving"));
    for _ in 0..20 {
        world.reconcile().await;
        assert_eq!(server.asked(), Vec::<String>::new());
    }
    assert_eq!(ctx.metrics.status_writes.get(), 1);
}

#[tokio::test]
async fn an_entry_that_ends_every_member_is_passed_over_once_with_a_consent() {
    let mut world = Serving::start().await;
    world.raft.lock().unwrap().fatal_entry = Some(FatalEntry { index: 9, ends: 3 });
    world.reconcile().await;
    for kind in ["Ready", "Stalled"] {
        assert_eq!(world.reason(kind).as_deref(), Some("FatalEntry"), "{kind}");
    }
    assert_eq!(world.cluster.status.as_ref().unwrap().fatal_entry.map(|entry| entry.index), Some(9));
    world.server.asked();
    world.cluster.spec.recovery.skip_entry = Some(8);
    world.reconcile().await;
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "it waits, and costs nothing");
    assert_eq!(world.raft.lock().unwrap().skipped, Vec::<u64>::new());

    world.cluster.spec.recovery.skip_entry = Some(9);
    world.reconcile().await;
    let told = world.server.asked();
    assert!(told.iter().any(|asked| asked.contains("/events")), "{told:?}");
    world.reconcile().await;
    assert_eq!((world.reason("Ready").as_deref(), world.reason("Stalled")), (Some("Serving"), None));
    assert_eq!(world.cluster.status.as_ref().unwrap().fatal_entry, None);
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "the consent that is left does nothing");
    assert_eq!(world.raft.lock().unwrap().skipped, [9]);
}

#[tokio::test]
async fn a_cluster_without_a_budget_is_not_asked_for_one() {
    let (ips, _raft) = members().await;
    let server = ApiServer::default();
    let mut ctx = context_with(server.client(), &ips);
    ctx.stores.budgets = cache(&[]);
    let mut single = cluster();
    single.spec.voters = 1;
    look(&single, &ctx).await.unwrap();
    assert_eq!(server.asked(), Vec::<String>::new());
    look(&cluster(), &ctx).await.unwrap();
    let asked = server.asked();
    assert!(asked.len() == 1 && asked[0].contains("/poddisruptionbudgets/orders"), "{asked:?}");
}

#[tokio::test]
async fn a_member_at_the_address_of_another_pod_is_not_heard() {
    let (mut ips, _raft) = members().await;
    ips.swap(1, 2);
    let observed = look(&cluster(), &context(&ips)).await.unwrap();
    assert_eq!(observed.reports.keys().collect::<Vec<_>>(), ["orders-0"]);
}

#[tokio::test]
async fn a_pod_that_is_taken_away_says_why() {
    let mut ctx = context(&[]);
    let pod = |name: &str, conditions: Value| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {LABEL_CLUSTER: "orders"}},
            "status": {"conditions": conditions},
        })
    };
    let evicted = json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]);
    ctx.stores.pods = cache(&[pod("orders-0", evicted), pod("orders-1", json!([]))]);
    let observed = look(&cluster(), &ctx).await.unwrap();
    assert_eq!(observed.pods["orders-0"].evicted.as_deref(), Some("EvictionByEvictionAPI"));
    assert_eq!(observed.pods["orders-1"].evicted, None);
}

#[tokio::test]
async fn three_empty_members_become_a_cluster() {
    let (ips, raft) = members().await;
    let ctx = context(&ips);
    let cluster = cluster();
    let mut put_off = 0;
    for _ in 0..10 {
        let (plan, done) = turn(&cluster, &ctx).await;
        if let Err(error) = done {
            assert!(error.passes(), "{error}");
            put_off += 1;
        }
        if plan.steps.is_empty() {
            break;
        }
    }
    let raft = raft.lock().unwrap();
    assert_eq!(raft.cluster_id.as_deref(), Some(CLUSTER_ID));
    assert_eq!(raft.members.iter().filter(|member| member.voter).count(), 3);
    assert_eq!(put_off, 1, "a promotion that is refused as too early is tried again");
}

#[tokio::test]
async fn leadership_is_asked_away_from_a_leader_that_is_to_go() {
    let (ips, raft) = members().await;
    let ctx = context(&ips);
    {
        let mut raft = raft.lock().unwrap();
        raft.cluster_id = Some(CLUSTER_ID.into());
        raft.members = (0..3).map(|i| member(NodeId(100 + i), &format!("orders-{i}"), true)).collect();
        (raft.leader, raft.refusals) = (Some(NodeId(102)), 1);
    }
    let mut cluster = cluster();
    cluster.spec.voters = 1;
    turn(&cluster, &ctx).await.1.unwrap();
    assert_eq!(raft.lock().unwrap().leader, Some(NodeId(100)));
    turn(&cluster, &ctx).await.1.unwrap();
    let left: Vec<_> = raft.lock().unwrap().members.iter().map(|member| member.node_id.0).collect();
    assert_eq!(left, [100, 101]);
}

#[tokio::test]
async fn a_member_that_does_not_answer_is_simply_not_heard_of() {
    let (mut ips, _raft) = members().await;
    ips.push(ip());
    let ctx = context(&ips);
    let observed = look(&cluster(), &ctx).await.unwrap();
    assert_eq!((observed.pods.len(), observed.reports.len()), (4, 3));
    assert!(observed.foreign.is_empty());
}

#[tokio::test]
async fn events_arrive_whole_and_the_end_is_an_end() {
    let (ips, _raft) = members().await;
    let admin = AdminClient::new(AdminTimeouts::default()).unwrap();
    let events =
        admin.events(&operator::admin::base(&ips[0].to_string(), ClientTraffic::Plaintext)).await.unwrap();
    let events: Vec<_> = tokio::time::timeout(Duration::from_secs(5), events.collect()).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].as_ref().unwrap().name, "orders-0");
}

#[tokio::test]
async fn a_refusal_keeps_its_reason() {
    let (ips, _raft) = members().await;
    let admin = AdminClient::new(AdminTimeouts::default()).unwrap();
    let base = operator::admin::base(&ips[0].to_string(), ClientTraffic::Plaintext);
    let error = admin.change_voters(&base, &ChangeVoters::default()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalReason::NotCaughtUp));
}

/// The cluster, complete, with a store of backups.
fn backed_up() -> SqliteCluster {
    let mut cluster = cluster();
    cluster.status.as_mut().unwrap().bootstrap.as_mut().unwrap().phase =
        operator::crd::BootstrapPhase::Complete;
    cluster.spec.backup = serde_json::from_value(json!({"store": {"s3": {"bucket": "b"}}})).unwrap();
    cluster
}

fn guarded<K>(object: K) -> kube::core::DeserializeGuard<K> {
    kube::core::DeserializeGuard(Ok(object))
}

/// Three members that serve, an API server, and what the operator has of both.
async fn serving() -> (Arc<Mutex<Raft>>, ApiServer, Context) {
    let (ips, raft) = members().await;
    {
        let mut raft = raft.lock().unwrap();
        raft.cluster_id = Some(CLUSTER_ID.into());
        raft.members = (0..3).map(|i| member(NodeId(100 + i), &format!("orders-{i}"), true)).collect();
        raft.leader = Some(NodeId(100));
    }
    let server = ApiServer::default();
    let mut ctx = context_of(&backed_up(), server.client(), &ips);
    ctx.stores.claims = cache(&claims(3, true));
    ctx.stores.clusters = cache_of(vec![guarded(backed_up())]);
    (raft, server, ctx)
}

fn backup(spec: Value, metadata: Value) -> SqliteBackup {
    let mut object = json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteBackup",
        "metadata": {"name": "first", "namespace": "shop", "uid": "b-uid", "generation": 1},
        "spec": {"clusterRef": {"name": "orders"}},
    });
    for (part, more) in [("spec", spec), ("metadata", metadata)] {
        for (key, value) in more.as_object().unwrap() {
            object[part][key] = value.clone();
        }
    }
    object["metadata"]["creationTimestamp"] = json!(now());
    serde_json::from_value(object).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "deadlines count from it")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap()
}

async fn turn_backup(backup: &SqliteBackup, ctx: &Arc<Context>) {
    operator::backup::reconcile(Arc::new(guarded(backup.clone())), ctx.clone()).await.unwrap();
}

#[tokio::test]
async fn a_backup_is_made_by_a_follower_told_of_and_left_alone() {
    let (raft, server, ctx) = serving().await;
    let ctx = Arc::new(ctx);
    let mut backup = backup(json!({}), json!({}));
    turn_backup(&backup, &ctx).await;
    let asked = raft.lock().unwrap().backups.clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].0, NodeId(101), "the first follower");
    assert!(asked[0].1.starts_with("first-"), "{asked:?}");
    let status = || server.status.lock().unwrap().clone().unwrap();
    assert_eq!(status()["member"], "orders-1");
    backup.status = serde_json::from_value(status()).unwrap();
    turn_backup(&backup, &ctx).await;
    assert_eq!(status()["path"], format!("full/{}", asked[0].1));
    assert_eq!(status()["bookmark"]["index"], 9);
    assert_eq!(status()["store"]["s3"]["bucket"], "b");
    backup.status = serde_json::from_value(status()).unwrap();
    let events = server.asked().iter().filter(|asked| asked.contains("/events")).count();
    assert_eq!(events, 2, "of the backup, and of its cluster");
    for _ in 0..5 {
        turn_backup(&backup, &ctx).await;
    }
    assert_eq!(server.asked(), Vec::<String>::new());
    assert_eq!(raft.lock().unwrap().backups.len(), 1);
}

#[tokio::test]
async fn a_backup_takes_its_objects_along_if_it_is_asked_to() {
    let (raft, server, ctx) = serving().await;
    let ctx = Arc::new(ctx);
    let delete = json!({"deletionPolicy": "Delete"});
    turn_backup(&backup(delete.clone(), json!({})), &ctx).await;
    assert!(raft.lock().unwrap().backups.is_empty(), "it is held before anything is in the store");
    assert!(server.asked().iter().any(|asked| asked.starts_with("PATCH") && asked.ends_with("/first")));
    let gone = json!({"finalizers": ["sqlite-operator.io/backup-objects"], "deletionTimestamp": now()});
    let mut backup = backup(delete, gone);
    backup.status = serde_json::from_value(json!({
        "path": "full/x", "clusterID": CLUSTER_ID, "store": {"s3": {"bucket": "b"}},
        "completionTime": now(),
    }))
    .unwrap();
    turn_backup(&backup, &ctx).await;
    assert_eq!(raft.lock().unwrap().deleted, ["full/x"]);
    assert!(server.asked().iter().any(|asked| asked.starts_with("PATCH") && asked.ends_with("/first")));
}

#[tokio::test]
async fn a_cluster_with_backups_at_rest_costs_the_api_server_nothing() {
    let (_raft, server, ctx) = serving().await;
    let ctx = Arc::new(ctx);
    let mut triggers = ctx.triggers.clusters.listen();
    let mut cluster = backed_up();
    let reconcile = async |cluster: &SqliteCluster| {
        operator::cluster::reconcile(Arc::new(guarded(cluster.clone())), ctx.clone()).await.unwrap();
    };
    let status = || serde_json::from_value(server.status.lock().unwrap().clone().unwrap()).unwrap();
    reconcile(&cluster).await;
    cluster.status = Some(status());
    // The store was tried out.
    triggers.recv().await.unwrap();
    reconcile(&cluster).await;
    cluster.status = Some(status());
    let conditions = &cluster.status.as_ref().unwrap().conditions;
    let healthy = conditions.iter().find(|condition| condition.type_ == "BackupHealthy").unwrap();
    assert_eq!((healthy.status.as_str(), healthy.reason.as_str()), ("True", "Healthy"));
    server.asked();
    for _ in 0..20 {
        reconcile(&cluster).await;
        assert_eq!(server.asked(), Vec::<String>::new());
    }
}
