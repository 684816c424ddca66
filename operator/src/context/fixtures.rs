//! For tests: an API server in this process, and what a reconcile has of it.

use super::*;
use crate::cache::Cache;
use crate::listed::Listed;
use client::admin_client::AdminTimeouts;
use k8s_openapi::NamespaceResourceScope;
use kube::client::Body;
use kube::runtime::reflector::store;
use kube::runtime::watcher;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// An API server that has some objects, takes whatever else it is given, and tells what that was. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct ApiServer {
    /// By path.
    objects: Arc<BTreeMap<String, Value>>,
    /// Parts of methods and paths.
    refuses: Arc<Vec<&'static str>>,
    /// Method and path, and the object.
    written: Arc<Mutex<Vec<(String, Value)>>>,
}

impl ApiServer {
    /// One that has these objects, by their paths, and refuses requests with such parts of method and path.
    pub(crate) fn new(objects: &[(&str, Value)], refuses: &[&'static str]) -> Self {
        let objects = objects.iter().map(|(path, object)| ((*path).to_owned(), object.clone())).collect();
        Self { objects: Arc::new(objects), refuses: Arc::new(refuses.to_vec()), ..Self::default() }
    }

    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "shop")
    }

    /// What it was given and took: method and path, with the name of what was created.
    pub(crate) fn written(&self) -> Vec<(String, Value)> {
        self.written.lock().unwrap().clone()
    }

    async fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let (method, mut path) = (request.method().to_string(), request.uri().path().to_owned());
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let mut object: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if method == "POST" {
            path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        }
        let asked = format!("{method} {path}");
        let there = self.objects.get(&path);
        let (code, answer) = if self.refuses.iter().any(|part| asked.contains(part)) {
            (403, failure(403, "Forbidden"))
        } else {
            match (method.as_str(), there) {
                ("GET", Some(there)) => (200, there.clone()),
                ("GET", None) => (404, failure(404, "NotFound")),
                ("POST", Some(_)) => (409, failure(409, "AlreadyExists")),
                _ => {
                    self.written.lock().unwrap().push((asked, object.clone()));
                    if path.contains("/sqlitebackups/") {
                        object["spec"] = json!({"clusterRef": {"name": "orders"}});
                    }
                    object["metadata"]["uid"] = json!("u");
                    (200, object)
                }
            }
        };
        http::Response::builder().status(code).body(answer.to_string().into_bytes().into()).unwrap()
    }
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code,
        "message": format!("it is {reason}")})
}

fn empty<K>() -> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope> + Serialize + DeserializeOwned,
{
    Cache::by(crate::names::LABEL_CLUSTER)
}

impl Context {
    /// Of an API server, with caches that hold nothing but these backups.
    pub(crate) fn of(server: &ApiServer, backups: Vec<Value>) -> Self {
        // Only the first process-wide choice counts; a second one is the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (known, mut writer) = store();
        for backup in backups {
            writer.apply_watcher_event(&watcher::Event::Apply(serde_json::from_value(backup).unwrap()));
        }
        Self::new(Surroundings {
            client: server.client(),
            admin: AdminClient::new(AdminTimeouts::default()).unwrap(),
            stores: Stores {
                pods: empty(),
                claims: empty(),
                sets: empty(),
                templates: empty(),
                services: empty(),
                budgets: empty(),
                network_policies: empty(),
                accounts: empty(),
                backups: known,
                restores: store().0,
                verifiers: empty(),
                nodes: None,
                clusters: store().0,
                clusters_listed: Listed::default(),
            },
            triggers: AllTriggers::default(),
            selects_all: true,
            reporter: "test".into(),
            metrics: Metrics::new(),
            node_image: "i".into(),
        })
    }
}
