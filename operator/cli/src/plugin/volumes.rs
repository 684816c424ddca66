//! Volumes that removed members left and the spec has kept.
//!
//! This is the one deletion that the plugin makes itself. No edit of a spec says it: `storage.onScaleDown: Delete` would have
//! the operator delete these volumes and all that are left later, and the operator deletes no data that the spec told it to
//! keep. So it is the person's own deletion, as by `kubectl delete pvc`, of exactly the claims that were looked at.

use super::Plugin;
use super::print::{out, unless_unread};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use operator::names::ClusterName;
use serde::Serialize;
use std::process::ExitCode;

/// What becomes of a volume.
#[derive(Debug, Serialize)]
struct Orphan {
    claim: String,
    deleted: bool,
    /// Whether something stood in the way.
    failed: bool,
    why: String,
}

impl Plugin {
    /// Deletes them, or says which would be. What became of each is told, whatever becomes of another: it is somebody's data.
    /// People are told at once, because a server that is busy is asked for minutes, and they may not wait for the last.
    pub(super) async fn gc_volumes(&self, name: &str, really: bool) -> Result<ExitCode> {
        let status = self.cluster(name).await?.status.unwrap_or_default();
        let mut orphans = Vec::new();
        let members: Vec<String> = status.members.into_iter().map(|member| member.name).collect();
        for claim in status.orphaned_volumes {
            let failed = |error: anyhow::Error| Orphan {
                claim: claim.clone(),
                deleted: false,
                failed: true,
                why: format!("{error:#}"),
            };
            let orphan = self.gc_volume(name, claim.clone(), &members, really).await.unwrap_or_else(failed);
            if !self.json {
                let line = format!("{} {}\n", orphan.claim, orphan.why);
                unless_unread(out(&line).map_err(Into::into), ())?;
            }
            orphans.push(orphan);
        }
        let code = match orphans.iter().any(|orphan| orphan.failed) {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        };
        let printed = self.print(&orphans, || match orphans.as_slice() {
            [] => format!("{name} has no orphaned volumes\n"),
            _ => String::new(),
        });
        unless_unread(printed.map(|()| code), code)
    }

    async fn gc_volume(&self, name: &str, claim: String, members: &[String], really: bool) -> Result<Orphan> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &self.namespace);
        let kept = |claim, why: &str| Orphan { claim, deleted: false, failed: false, why: why.to_owned() };
        let Some(found) = claims.get_opt(&claim).await.context("is kept")? else {
            return Ok(kept(claim, "is gone already"));
        };
        // The status may be of a moment ago: the cluster may have grown into its old volumes since.
        let cluster = ClusterName::new(&self.namespace, name);
        let Some(member) =
            claim.strip_prefix(&cluster.claim("")).filter(|m| cluster.parse_member(m).is_some())
        else {
            bail!("is kept: it is no volume of a member of {name}");
        };
        // Members of a hibernated cluster have no pods, and wake with their volumes.
        if members.iter().any(|known| known == member) {
            bail!("is kept: {member} is a member of {name}");
        }
        if self.pods().get_opt(member).await.context("is kept")?.is_some() {
            return Ok(kept(claim, "is in use again"));
        }
        if !really {
            return Ok(kept(claim, "would be deleted with its data; say --yes"));
        }
        let preconditions = Preconditions { uid: found.uid(), resource_version: found.resource_version() };
        let asked = claims.delete(&claim, &DeleteParams::default().preconditions(preconditions)).await;
        asked.map(drop).map_err(|error| {
            // Where the answer is lost the client asks again, and a conflict may be with its own first try.
            let refused = matches!(&error, kube::Error::Api(status)
                if status.code < 500 && !status.is_conflict() && !status.is_not_found());
            anyhow::Error::new(error).context(if refused { "is kept" } else { "may be deleted" })
        })?;
        Ok(Orphan { claim, deleted: true, failed: false, why: "is deleted".to_owned() })
    }
}
