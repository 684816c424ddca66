//! The API server, as far as the operator asks it.

use super::*;

/// Parts of methods and paths, and what becomes of requests with them.
type Refused = Vec<(String, Option<u16>)>;

/// An API server that has whatever is applied, counts what it is asked, and keeps the last status, the Secrets, the
/// ConfigMaps and the Certificates, the backups that are created, what is written, and what events tell: reason and note.
#[derive(Clone, Default)]
pub struct ApiServer {
    pub pods: Arc<Mutex<Vec<Value>>>,
    pub requests: Arc<Mutex<Vec<String>>>,
    pub status: Arc<Mutex<Option<Value>>>,
    pub secrets: Arc<Mutex<BTreeMap<String, Value>>>,
    pub backups: Arc<Mutex<BTreeMap<String, Value>>>,
    pub events: Arc<Mutex<Vec<(String, String)>>>,
    /// Method and path, and what became of the object.
    pub written: Arc<Mutex<Vec<(String, Value)>>>,
    /// Whether the namespace is on its way out.
    pub ends: Arc<AtomicBool>,
    /// Parts of methods and paths that are refused, and with which code; none: there is no answer.
    pub refuses: Arc<Mutex<Refused>>,
}

fn failure(code: u16, reason: &str) -> http::Response<kube::client::Body> {
    let message = format!("the answer is {code}");
    let status =
        json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": message});
    http::Response::builder().status(code).body(status.to_string().into_bytes().into()).unwrap()
}

impl ApiServer {
    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        kube::Client::new(service, "shop")
    }

    pub async fn answer(
        &self,
        request: http::Request<kube::client::Body>,
    ) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
        let path = request.uri().path().to_owned();
        let asked = format!("{} {path}", request.method());
        let (reads, creates, deletes) = [http::Method::GET, http::Method::POST, http::Method::DELETE]
            .map(|method| request.method() == method)
            .into();
        self.requests.lock().unwrap().push(asked.clone());
        let refused = self.refuses.lock().unwrap().iter().find(|(part, _)| asked.contains(part)).cloned();
        match refused {
            Some((_, Some(code))) => return Ok(failure(code, "Refused")),
            Some((_, None)) => return std::future::pending().await,
            None => {}
        }
        if reads && path.ends_with("/pods") {
            let list = json!({"metadata": {}, "items": *self.pods.lock().unwrap()});
            return Ok(http::Response::new(list.to_string().into_bytes().into()));
        }
        // It is asked for by its name when it is not known: whether somebody else's is in its place.
        if reads && path.contains("/statefulsets/") {
            return Ok(failure(404, "NotFound"));
        }
        if deletes {
            self.written.lock().unwrap().push((asked, Value::Null));
            let done = json!({"kind": "Status", "status": "Success"});
            return Ok(http::Response::new(done.to_string().into_bytes().into()));
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
                None => return Ok(failure(404, "NotFound")),
            }
        }
        if path.ends_with("/sqlitebackups") && creates {
            let mut backups = self.backups.lock().unwrap();
            let name = name.as_str().unwrap().to_owned();
            if backups.contains_key(&name) {
                return Ok(failure(409, "AlreadyExists"));
            }
            backups.insert(name, object.clone());
        } else if let Some((_, name)) = path.split_once("/sqlitebackups/")
            && let Some(backup) = self.backups.lock().unwrap().get(name)
        {
            object = backup.clone();
        }
        if path.contains("/events.k8s.io/") {
            let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
            self.events.lock().unwrap().push((text("reason"), text("note")));
            object["metadata"]["name"] = json!("event");
        }
        object["metadata"]["uid"] = if name.is_null() { object["metadata"]["name"].clone() } else { name };
        object["metadata"]["generation"] = json!(1);
        if path == "/api/v1/namespaces/shop" && self.ends.load(Ordering::Relaxed) {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if !reads {
            self.written.lock().unwrap().push((asked, object.clone()));
        }
        Ok(http::Response::new(object.to_string().into_bytes().into()))
    }

    /// From now on it refuses these parts of methods and paths.
    pub fn refuse(&self, parts: &[&str], code: Option<u16>) {
        *self.refuses.lock().unwrap() = parts.iter().map(|part| ((*part).to_owned(), code)).collect();
    }

    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}
