//! Whether a Kubernetes node can be drained. A drain takes the pods of every namespace, so all of them are looked at, unless
//! the command line names one.

use super::{Plugin, picture, print};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use operator::crd::SqliteCluster;
use operator::names::LABEL_CLUSTER;
use serde::Serialize;
use std::process::ExitCode;

/// What the drain does to the cluster of a member.
#[derive(Debug, Serialize)]
struct Drained {
    namespace: String,
    cluster: String,
    member: String,
    safe: bool,
    why: String,
}

impl Plugin {
    /// What the drain of a Kubernetes node would do to clusters. Whoever may not look at all namespaces is not told that
    /// the node can be drained.
    pub(super) async fn drain_check(&self, node: &str) -> Result<ExitCode> {
        let mut found = Vec::new();
        for pod in self.members_on(node).await? {
            found.push(self.drained(&pod).await?);
        }
        let text = || match found.as_slice() {
            [] => format!("no member {} runs on {node}\n", self.looked_at()),
            found => found.iter().map(line).collect(),
        };
        let is_safe = found.iter().all(|drained| drained.safe);
        let code = if is_safe { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        print::unless_unread(self.print(&found, text).map(|()| code), code)
    }

    fn looked_at(&self) -> String {
        match self.names_namespace {
            true => format!("in namespace {}", self.namespace),
            false => "in any namespace".to_owned(),
        }
    }

    async fn members_on(&self, node: &str) -> Result<Vec<Pod>> {
        let which = ListParams::default().labels(LABEL_CLUSTER).fields(&format!("spec.nodeName={node}"));
        let pods = if self.names_namespace { self.pods() } else { Api::all(self.client.clone()) };
        match pods.list(&which).await {
            Err(kube::Error::Api(status)) if status.code == 403 && !self.names_namespace => bail!(
                "a drain concerns all namespaces, and their pods may not be listed ({}): ask somebody who may, or look at one by --namespace",
                status.message
            ),
            listed => Ok(listed?.items),
        }
    }

    async fn drained(&self, pod: &Pod) -> Result<Drained> {
        let (namespace, member) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let name = pod.labels().get(LABEL_CLUSTER).cloned().unwrap_or_default();
        let clusters = Api::<SqliteCluster>::namespaced(self.client.clone(), &namespace);
        let missing = || format!("no SqliteCluster {name} in namespace {namespace}");
        let cluster = clusters.get_opt(&name).await?.with_context(missing)?;
        let verdict = picture::drain(&cluster, &member);
        Ok(Drained { namespace, cluster: name, member, safe: verdict.safe, why: verdict.why })
    }
}

fn line(drained: &Drained) -> String {
    let mark = if drained.safe { "✓" } else { "✗" };
    format!("{mark} {}/{}: {}\n", drained.namespace, drained.member, drained.why)
}
