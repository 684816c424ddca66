//! `status --watch`: a cluster as it changes, for as long as somebody looks.

use anyhow::{Result, bail};
use futures::TryStreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Error, watch_object};
use kube::{Api, ResourceExt};
use operator::crd::SqliteCluster;
use std::pin::pin;

/// Shows what becomes of a cluster that was shown as it is `known`, until it is deleted.
pub(super) async fn follow(
    clusters: Api<SqliteCluster>,
    known: &SqliteCluster,
    mut show: impl FnMut(&SqliteCluster) -> Result<()>,
) -> Result<()> {
    let name = known.name_any();
    let mut shown = known.resource_version();
    let mut changes = pin!(watch_object(clusters, &name).default_backoff());
    loop {
        match changes.try_next().await {
            Ok(Some(Some(cluster))) => {
                // A list, at the beginning or made anew, may say nothing new.
                if cluster.resource_version() != shown {
                    show(&cluster)?;
                    shown = cluster.resource_version();
                }
            }
            Ok(Some(None)) => bail!("{name} was deleted"),
            Ok(None) => bail!("the watch of {name} ended"),
            // What happened since then is known no more: a list follows.
            Err(Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::extract::Request;
    use kube::{Client, Config};
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};

    fn cluster(version: &str) -> Value {
        json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop", "resourceVersion": version},
            "spec": {"storage": {"size": "1Gi"}},
        })
    }

    /// What the API server answers to the list or the watch that is asked for as the n-th.
    fn answer(n: usize) -> String {
        let list = |version: &str| {
            let metadata = json!({"resourceVersion": version});
            json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": [cluster(version)]})
        };
        let bookmark = json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"resourceVersion": "20"},
        });
        let gone = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410,
            "message": "too old resource version: 20 (30)"});
        let event = |kind: &str, object: Value| json!({"type": kind, "object": object});
        let found = match n {
            0 => list("7"),
            1 => event("BOOKMARK", bookmark),
            2 => event("ERROR", gone),
            3 => list("31"),
            4 => event("MODIFIED", cluster("32")),
            _ => event("DELETED", cluster("33")),
        };
        found.to_string() + "\n"
    }

    #[tokio::test]
    async fn a_quiet_spell_neither_ends_it_nor_shows_anything_twice() {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = asked.clone();
        let handler = move |request: Request| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let mut asked = log.lock().unwrap();
            let version = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
            let what = if query.contains("watch=true") { "watch" } else { "list" };
            asked.push(format!("{what} {}", version.unwrap_or_default()));
            let found = answer(asked.len() - 1);
            async move { ([("content-type", "application/json")], found) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, Router::new().fallback(handler)).await });
        // Only the first process-wide choice counts; a second one is the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_from(Config::new(server.parse().unwrap())).unwrap();
        let known = serde_json::from_value(cluster("7")).unwrap();
        let mut shown = Vec::new();
        let show = |cluster: &SqliteCluster| {
            shown.extend(cluster.resource_version());
            Ok(())
        };
        let ended = follow(Api::namespaced(client, "shop"), &known, show).await.unwrap_err();
        assert_eq!(ended.to_string(), "orders was deleted");
        assert_eq!(shown, ["31", "32"]);
        let asked = asked.lock().unwrap();
        assert_eq!(*asked, ["list ", "watch 7", "watch 20", "list ", "watch 31", "watch 32"]);
    }
}
