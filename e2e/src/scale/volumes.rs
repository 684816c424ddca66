//! Volumes that are played: each claim of a cluster is bound to a volume that nobody mounts. The controller that binds them
//! does not run; what the scheduler looks at is written here.

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// Claims that are bound at a time.
const CONCURRENCY: usize = 16;
const BOUND: &str = "pv.kubernetes.io/bind-completed";

/// Binds claims until it is dropped.
pub async fn bind(client: Client) -> Result<()> {
    let claims = watcher(Api::<PersistentVolumeClaim>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .touched_objects();
    claims
        .for_each_concurrent(CONCURRENCY, |claim| {
            let client = client.clone();
            async move {
                let Ok(claim) = claim else { return };
                let open = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_none());
                if !open || claim.metadata.deletion_timestamp.is_some() {
                    return;
                }
                if let Err(error) = bind_one(&client, &claim).await {
                    eprintln!("claim {}: {error:#}", claim.name_any());
                }
            }
        })
        .await;
    Ok(())
}

async fn bind_one(client: &Client, claim: &PersistentVolumeClaim) -> Result<()> {
    let (name, namespace) = (claim.name_any(), claim.namespace().unwrap_or_default());
    let volume = format!("pv-{namespace}-{name}");
    let spec = claim.spec.clone().unwrap_or_default();
    let capacity = spec.resources.and_then(|resources| resources.requests);
    let modes = spec.access_modes;
    let object: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": volume},
        "spec": {
            "accessModes": modes,
            "capacity": capacity,
            "claimRef": {"kind": "PersistentVolumeClaim", "namespace": namespace, "name": name, "uid": claim.uid()},
            "hostPath": {"path": "/nowhere"},
            "storageClassName": spec.storage_class_name.unwrap_or_default(),
        },
    }))?;
    match Api::<PersistentVolume>::all(client.clone()).create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        created => drop(created?),
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
    let status = json!({"status": {"phase": "Bound", "accessModes": modes, "capacity": capacity}});
    claims.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    let bound = json!({"metadata": {"annotations": {(BOUND): "yes"}}, "spec": {"volumeName": volume}});
    claims.patch(&name, &PatchParams::default(), &Patch::Merge(&bound)).await?;
    Ok(())
}
