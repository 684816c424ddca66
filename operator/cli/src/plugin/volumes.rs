//! Volumes that removed members left and the spec has kept.
//!
//! This is the one deletion that the plugin makes itself. No edit of a spec says it: `storage.onScaleDown: Delete` would have
//! the operator delete these volumes and all that are left later, and the operator deletes no data that the spec told it to
//! keep. So it is the person's own deletion, as by `kubectl delete pvc`, of exactly the claims that were looked at.

use super::Plugin;
use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use operator::names::ClusterName;
use serde::Serialize;

/// What becomes of a volume.
#[derive(Debug, Serialize)]
struct Orphan {
    claim: String,
    deleted: bool,
    why: String,
}

impl Plugin {
    /// Deletes them, or says which would be.
    pub(super) async fn gc_volumes(&self, name: &str, really: bool) -> Result<()> {
        let status = self.cluster(name).await?.status.unwrap_or_default();
        let mut orphans = Vec::new();
        for claim in status.orphaned_volumes {
            orphans.push(self.gc_volume(name, claim, really).await?);
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&orphans)?);
        } else if orphans.is_empty() {
            println!("{name} has no orphaned volumes");
        }
        for orphan in orphans.iter().filter(|_| !self.json) {
            println!("{} {}", orphan.claim, orphan.why);
        }
        Ok(())
    }

    async fn gc_volume(&self, name: &str, claim: String, really: bool) -> Result<Orphan> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &self.namespace);
        let kept = |claim, why: &str| Orphan { claim, deleted: false, why: why.to_owned() };
        let Some(found) = claims.get_opt(&claim).await? else {
            return Ok(kept(claim, "is gone already"));
        };
        // The status may be of a moment ago: the cluster may have grown into its old volumes since.
        let cluster = ClusterName::new(&self.namespace, name);
        let Some(member) =
            claim.strip_prefix(&cluster.claim("")).filter(|m| cluster.parse_member(m).is_some())
        else {
            bail!("{claim} is no volume of a member of {name}");
        };
        if self.pods().get_opt(member).await?.is_some() {
            return Ok(kept(claim, "is in use again"));
        }
        if !really {
            return Ok(kept(claim, "would be deleted with its data; say --yes"));
        }
        let preconditions = Preconditions { uid: found.uid(), resource_version: found.resource_version() };
        claims.delete(&claim, &DeleteParams::default().preconditions(preconditions)).await?;
        Ok(Orphan { claim, deleted: true, why: "is deleted".to_owned() })
    }
}
