//! What the operator has: the caches, the cluster, and a cluster that serves.

use super::*;

/// A cache that holds these objects.
pub fn cache<K>(objects: &[Value]) -> Cache<K>
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

pub fn cache_of<K>(objects: Vec<K>) -> kube::runtime::reflector::Store<K>
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

/// All clusters are known.
pub fn listed() -> Listed {
    let listed = Listed::default();
    listed.follow(&Event::<()>::InitDone);
    listed
}

pub fn cluster() -> SqliteCluster {
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

/// The same once it has begun, with every voter in service.
pub fn complete() -> SqliteCluster {
    let mut cluster = cluster();
    cluster.status.as_mut().unwrap().bootstrap.as_mut().unwrap().phase =
        operator::crd::BootstrapPhase::Complete;
    cluster
}

/// Claims of the members, which say whose cluster's they are and, if there was time, who lives on them.
pub fn claims(count: usize, inhabited: bool) -> Vec<Value> {
    let claim = |i: usize| {
        let mut annotations = json!({"sqlite-operator.io/cluster-id": CLUSTER_ID});
        if inhabited {
            annotations["sqlite-operator.io/node-id"] = json!(NodeId(100 + i as u64));
        }
        let name = format!("data-orders-{i}");
        json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": name,
                "labels": {"sqlite-operator.io/cluster": "orders", "app.kubernetes.io/managed-by": "sqlite-operator"},
                "annotations": annotations,
            },
            "spec": {"resources": {"requests": {"storage": "1Gi"}}},
            "status": {"capacity": {"storage": "1Gi"}},
        })
    };
    (0..count).map(claim).collect()
}

/// As the operator does, where nobody has to say who they are.
pub async fn look(cluster: &SqliteCluster, ctx: &Context) -> Result<Observed, ObserveError> {
    observe::observe(cluster, &Access::Open(Box::default()), &ctx.admin, ctx).await
}

pub fn context(ips: &[Ipv4Addr]) -> Context {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let pods = Arc::new(Mutex::new(pods(&cluster(), ips)));
    let server = ApiServer { pods, ..ApiServer::default() };
    context_with(server.client(), ips)
}

pub fn context_with(client: kube::Client, ips: &[Ipv4Addr]) -> Context {
    context_of(&cluster(), client, ips)
}

pub fn meta(name: &str) -> Value {
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
pub fn pods(cluster: &SqliteCluster, ips: &[Ipv4Addr]) -> Vec<Value> {
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
pub fn context_of(cluster: &SqliteCluster, client: kube::Client, ips: &[Ipv4Addr]) -> Context {
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
        let pod = json!({
            "metadata": {"annotations": {"sqlite-operator.io/template-revision": revision}},
            "spec": {"containers": [{"name": "sqlited"}]},
        });
        json!({"metadata": metadata, "revision": 1, "data": pod})
    };
    let bare =
        |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"metadata": meta(name)})).collect() };
    Context::new(Surroundings {
        client,
        admin: AdminClient::new(AdminTimeouts::default()).unwrap(),
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
            nodes: None,
            clusters: cache_of(vec![]),
            clusters_listed: listed(),
        },
        triggers: AllTriggers::default(),
        selects_all: true,
        reporter: "test".into(),
        metrics: Metrics::new(),
        node_image: "i".into(),
    })
}

/// observe → validate → plan → execute.
pub async fn turn(cluster: &SqliteCluster, ctx: &Context) -> (Plan, Result<(), execute::ExecuteError>) {
    let observed = look(cluster, ctx).await.unwrap();
    let desired = validate::validate(cluster, "i").unwrap();
    let plan = plan::plan(&desired, &observed, "minted");
    let (lacks, subject) = (Shortfall::default(), ObjectReference::default());
    let failed = execute::execute(&desired, &observed, &plan, &lacks, &subject, &ctx.admin, ctx).await;
    (plan, failed.into_iter().next().map_or(Ok(()), Err))
}

pub fn guarded<K>(object: K) -> kube::core::DeserializeGuard<K> {
    kube::core::DeserializeGuard(Ok(object))
}

/// A cluster that serves, with an API server that keeps its Secrets.
pub struct Serving {
    pub server: ApiServer,
    pub ctx: Arc<Context>,
    pub cluster: SqliteCluster,
    pub raft: Arc<Mutex<Raft>>,
    /// Pods that were deleted and that nobody has made anew.
    pub away: Mutex<Vec<Value>>,
}

impl Serving {
    /// Of [`complete`].
    pub async fn start() -> Self {
        Self::of(complete()).await
    }

    pub async fn of(cluster: SqliteCluster) -> Self {
        let (ips, raft) = members().await;
        {
            let mut raft = raft.lock().unwrap();
            raft.cluster_id = Some(CLUSTER_ID.into());
            raft.members = (0..3).map(|i| member(NodeId(100 + i), &format!("orders-{i}"), true)).collect();
            raft.leader = Some(NodeId(100));
        }
        let server = ApiServer { pods: Arc::new(Mutex::new(pods(&cluster, &ips))), ..ApiServer::default() };
        let mut ctx = context_of(&cluster, server.client(), &ips);
        ctx.stores.claims = cache(&claims(3, true));
        ctx.stores.clusters = cache_of(vec![guarded(cluster.clone())]);
        Self { server, ctx: Arc::new(ctx), cluster, raft, away: Mutex::default() }
    }

    /// One reconcile; what it writes into the status is there for the next.
    pub async fn reconcile(&mut self) {
        self.try_to().await.unwrap();
    }

    /// The same, which may fail; then the controller decides when it is tried again.
    pub async fn try_to(&mut self) -> Result<(), operator::error::Error> {
        let object = Arc::new(guarded(self.cluster.clone()));
        let done = operator::cluster::reconcile(object.clone(), self.ctx.clone()).await;
        if let Err(error) = &done {
            operator::cluster::error_policy(object, error, self.ctx.clone());
        }
        self.keep_revisions();
        if let Some(status) = self.server.status.lock().unwrap().clone() {
            self.cluster.status = serde_json::from_value(status).unwrap();
        }
        done.map(drop)
    }

    /// The cache learns of ControllerRevisions at once, in the order in which they were written.
    fn keep_revisions(&self) {
        let revisions = &self.ctx.stores.templates;
        for (asked, object) in self.server.written.lock().unwrap().iter() {
            let Some((method, name)) = asked
                .split_once(' ')
                .and_then(|(method, path)| Some((method, path.rsplit_once("/controllerrevisions/")?.1)))
            else {
                continue;
            };
            match (method, revisions.get("shop", name)) {
                ("DELETE", Some(revision)) => revisions.follow(&Event::Delete(revision)),
                ("DELETE", None) => {}
                _ => revisions.follow(&Event::Apply(serde_json::from_value(object.clone()).unwrap())),
            }
        }
    }

    pub fn annotate(&mut self, key: &str, value: &str) {
        self.cluster.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
    }

    /// An entry of a Secret.
    pub fn entry(&self, secret: &str, key: &str) -> Option<String> {
        let secrets = self.server.secrets.lock().unwrap();
        let secret: k8s_openapi::api::core::v1::Secret =
            serde_json::from_value(secrets.get(secret)?.clone()).unwrap();
        Some(String::from_utf8(secret.data?.get(key)?.0.clone()).unwrap())
    }

    /// What members of the port between them have to mount.
    pub fn handed(&self) -> Handed {
        let name = ClusterName::new("shop", "orders");
        let known = self.ctx.certificates.get(&name, "u").unwrap();
        known[&Port::Peers].view.handed.clone().unwrap()
    }

    /// The kubelet brings it to every pod.
    pub fn load(&self) {
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

    pub fn reason(&self, kind: &str) -> Option<String> {
        self.condition(kind).map(|condition| condition.reason)
    }

    pub fn condition(&self, kind: &str) -> Option<Condition> {
        let conditions = &self.cluster.status.as_ref().unwrap().conditions;
        conditions.iter().find(|condition| condition.type_ == kind).cloned()
    }
}
