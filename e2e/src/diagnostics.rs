//! What is left of a failed test for the one who looks for the cause: objects, events and logs.

use crate::kubernetes::Kubernetes;
use crate::scenario::OPERATOR_NAMESPACE;
use anyhow::Result;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Service};
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Writes everything into `folder` and answers with the few lines that tell most.
pub(crate) async fn collect(kubernetes: &Kubernetes, namespace: &str, folder: &Path) -> Result<String> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let client = &kubernetes.client;
    let all = ListParams::default();
    let mut digest = String::new();

    let clusters = kubernetes.clusters(namespace).list(&all).await?.items;
    for cluster in &clusters {
        for condition in cluster.data["status"]["conditions"].as_array().into_iter().flatten() {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            let (kind, status) = (text("type"), text("status"));
            writeln!(
                digest,
                "{} {kind}={status} {}: {}",
                cluster.name_any(),
                text("reason"),
                text("message")
            )?;
        }
    }
    save(folder, "sqliteclusters", &clusters)?;
    save(
        folder,
        "statefulsets",
        &Api::<StatefulSet>::namespaced(client.clone(), namespace).list(&all).await?.items,
    )?;
    save(folder, "services", &Api::<Service>::namespaced(client.clone(), namespace).list(&all).await?.items)?;
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace).list(&all).await?.items;
    save(folder, "claims", &claims)?;

    let pods = kubernetes.pods(namespace).list(&all).await?.items;
    for pod in &pods {
        writeln!(digest, "{}", line_of(pod))?;
    }
    save(folder, "pods", &pods)?;
    save_logs(&kubernetes.pods(namespace), &pods, folder).await?;
    let operator = kubernetes.pods(OPERATOR_NAMESPACE);
    save_logs(&operator, &operator.list(&all).await?.items, folder).await?;

    let events = Api::<Event>::namespaced(client.clone(), namespace).list(&all).await?.items;
    fs::write(folder.join("events.txt"), events_as_text(events)?)?;
    Ok(digest)
}

/// As YAML, without the long lists of who set which field.
fn save<K: Serialize>(folder: &Path, name: &str, objects: &[K]) -> Result<()> {
    let mut objects = serde_json::to_value(objects)?;
    for object in objects.as_array_mut().into_iter().flatten() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    Ok(fs::write(folder.join(format!("{name}.yaml")), serde_yaml::to_string(&objects)?)?)
}

fn line_of(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or("?");
    let containers = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    let states: Vec<_> = containers
        .map(|c| {
            let waiting = c.state.as_ref().and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.as_deref());
            format!("ready={} restarts={} {}", c.ready, c.restart_count, waiting.unwrap_or_default())
        })
        .collect();
    format!("pod {} {phase} {}", pod.name_any(), states.join("; "))
}

/// Logs of what runs and of what ran before it.
async fn save_logs(api: &Api<Pod>, pods: &[Pod], folder: &Path) -> Result<()> {
    for pod in pods {
        let name = pod.name_any();
        for previous in [false, true] {
            let which = LogParams { previous, tail_lines: Some(5_000), ..LogParams::default() };
            if let Ok(log) = api.logs(&name, &which).await {
                let end = if previous { ".previous.log" } else { ".log" };
                fs::write(folder.join(format!("{name}{end}")), log)?;
            }
        }
    }
    Ok(())
}

fn events_as_text(mut events: Vec<Event>) -> Result<String> {
    events.sort_by_key(|event| event.metadata.creation_timestamp.clone());
    let mut text = String::new();
    for event in events {
        let at = event.metadata.creation_timestamp.map(|t| t.0.to_string()).unwrap_or_default();
        let about = event.involved_object.name.unwrap_or_default();
        let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        writeln!(text, "{at} {about} {reason}: {message}")?;
    }
    Ok(text)
}
