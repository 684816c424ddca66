//! The operator of the tests: it can end, be away, be exchanged, and tells what it has done.

use crate::forward::Forward;
use crate::processes;
use crate::scenario::{OPERATOR_NAMESPACE, Scenario};
use crate::wait::eventually;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::Duration;

/// Label of the operator's pods.
const LABEL: &str = "app.kubernetes.io/name=sqlite-operator";
/// Its program, as the kernel calls it.
const PROGRAM: &str = "sqlite-operator";
/// Its container, and the port that tells of it.
const CONTAINER: &str = "operator";
const METRICS: &str = "metrics";

/// How long it may take until it is there, leads, and has looked at a cluster.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long one question for its metrics may take.
const ASK: Duration = Duration::from_secs(2);

impl Scenario {
    fn operator_pods(&self) -> Api<Pod> {
        self.kubernetes.pods(OPERATOR_NAMESPACE)
    }

    async fn operator_deployment(&self) -> Result<(Api<Deployment>, Deployment)> {
        let deployments = Api::<Deployment>::namespaced(self.kubernetes.client.clone(), OPERATOR_NAMESPACE);
        let all = deployments.list(&ListParams::default().labels(LABEL)).await?.items;
        let deployment = all.into_iter().next().context("there is no operator")?;
        Ok((deployments, deployment))
    }

    /// Deletes the operator's pods, as if all its nodes went; its Deployment makes new ones.
    pub async fn delete_operator_pods(&self) -> Result<()> {
        self.delete_operators(|_| true).await?;
        self.say("the operator's pods are deleted");
        Ok(())
    }

    /// SIGKILL for the operator that leads; skips a test that could not reach its process.
    pub async fn kill_leading_operator(&self) -> Result<()> {
        processes::require(&self.kubernetes)?;
        let leading = self.leading_operator().await?;
        let pid = processes::find(&leading, PROGRAM).context("the operator that leads has no process")?;
        processes::kill(&[pid]).await?;
        self.say("the operator that leads is killed");
        Ok(())
    }

    /// Uid of its pod.
    async fn leading_operator(&self) -> Result<String> {
        let leading = async || self.operator_metrics().await.map(|(leading, _)| Some(leading));
        eventually("an operator leads", PATIENCE, leading).await
    }

    /// Deletes the pod of the operator that leads, as if its node went.
    pub async fn delete_leading_operator(&self) -> Result<()> {
        let leading = self.leading_operator().await?;
        self.delete_operators(|pod| pod.uid().as_ref() == Some(&leading)).await?;
        self.say("the pod of the operator that leads is deleted");
        Ok(())
    }

    async fn delete_operators(&self, which: impl Fn(&Pod) -> bool) -> Result<()> {
        let pods = self.operator_pods();
        let mut found = pods.list(&ListParams::default().labels(LABEL)).await?.items;
        found.retain(which);
        ensure!(!found.is_empty(), "no such operator runs in {OPERATOR_NAMESPACE}");
        for pod in found {
            match pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await {
                // One that ended by itself meanwhile.
                Err(kube::Error::Api(refusal)) if refusal.code == 404 => {}
                deleted => drop(deleted?),
            }
        }
        Ok(())
    }

    /// Sets how many pods the operator's Deployment has; returns how many it had.
    pub async fn scale_operator(&self, replicas: i32) -> Result<i32> {
        let (deployments, deployment) = self.operator_deployment().await?;
        let had = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch(&deployment.name_any(), &PatchParams::default(), &patch).await?;
        if replicas == 0 {
            eventually("the operator is away", Duration::from_secs(20), async || {
                let left = self.operator_pods().list(&ListParams::default().labels(LABEL)).await?;
                Ok(left.items.is_empty().then_some(()))
            })
            .await?;
        }
        Ok(had)
    }

    /// Exchanges the operator as a new version does: its Deployment gets another template.
    pub async fn exchange_operator(&self) -> Result<()> {
        let (deployments, deployment) = self.operator_deployment().await?;
        let version = json!({"name": "E2E_VERSION", "value": uuid::Uuid::new_v4().to_string()});
        let containers = json!([{"name": CONTAINER, "env": [version]}]);
        let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
        deployments.patch(&deployment.name_any(), &PatchParams::default(), &patch).await?;
        self.await_operator().await
    }

    /// Waits until the operator's Deployment has all its pods, and no others.
    pub async fn await_operator(&self) -> Result<()> {
        eventually("the operator is back", PATIENCE, async || {
            let (_, deployment) = self.operator_deployment().await?;
            let wanted = deployment.spec.and_then(|spec| spec.replicas);
            let status = deployment.status.unwrap_or_default();
            let complete = status.observed_generation == deployment.metadata.generation
                && [status.replicas, status.updated_replicas, status.ready_replicas]
                    .iter()
                    .all(|count| *count == wanted);
            Ok(complete.then_some(()))
        })
        .await
    }

    /// The operator's pod that leads, and what it tells Prometheus.
    async fn operator_metrics(&self) -> Result<(String, String)> {
        let pods = self.operator_pods();
        for pod in pods.list(&ListParams::default().labels(LABEL)).await? {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let port = ports.find(|port| port.name.as_deref() == Some(METRICS));
            let port = u16::try_from(port.context("the operator has no metrics")?.container_port)?;
            let forward = Forward::open(pods.clone(), pod.name_any(), port).await?;
            let url = format!("http://{}/metrics", forward.address);
            let asked = reqwest::Client::new().get(url).timeout(ASK).send();
            // It may be about to start, or to end.
            let Ok(answer) = asked.await else { continue };
            let text = answer.error_for_status()?.text().await?;
            if value(&text, "sqlite_operator_leading") == Some(1.0) {
                return Ok((pod.uid().unwrap_or_default(), text));
            }
        }
        anyhow::bail!("no pod of the operator leads")
    }

    /// Uid of the operator's pod that leads, and how often it has written a status, of whichever cluster.
    pub async fn status_writes(&self) -> Result<(String, f64)> {
        let (pod, text) = self.operator_metrics().await?;
        let count = value(&text, "sqlite_operator_status_writes_total");
        Ok((pod, count.context("it counts no writes of a status")?))
    }

    /// Waits until the operator that leads counts at least one for `series`: a name and its labels, as it tells Prometheus.
    pub async fn await_metric(&self, series: &str) -> Result<()> {
        eventually(&format!("the operator tells of {series}"), PATIENCE, async || {
            let (_, text) = self.operator_metrics().await?;
            Ok(value(&text, series).is_some_and(|count| count >= 1.0).then_some(()))
        })
        .await
    }

    /// Waits until the operator that leads, and that need not have been there for long, has reconciled a cluster of
    /// this namespace.
    pub async fn await_reconciled(&self, cluster: &str) -> Result<()> {
        let of = format!(
            r#"sqlite_operator_condition{{kind="SqliteCluster",namespace="{}",name="{cluster}","#,
            self.namespace
        );
        eventually(&format!("the operator has reconciled {cluster}"), PATIENCE, async || {
            let (_, text) = self.operator_metrics().await?;
            Ok(text.lines().any(|line| line.starts_with(&of)).then_some(()))
        })
        .await
    }

    /// Waits until the operator has ended another reconcile than those so far. An error if another one leads meanwhile.
    pub async fn await_reconcile_after(&self, touch: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let reconciles = async || -> Result<(String, f64)> {
            let (pod, text) = self.operator_metrics().await?;
            let count =
                value(&text, "sqlite_operator_reconciles_total").context("it counts no reconciles")?;
            Ok((pod, count))
        };
        let (pod, before) = reconciles().await?;
        touch().await?;
        eventually("another reconcile", PATIENCE, async || {
            let (now, count) = reconciles().await?;
            ensure!(now == pod, "another operator leads");
            Ok((count > before).then_some(()))
        })
        .await
    }
}

/// Value of a metric: of one with labels, if the name is given with them.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = "# TYPE a counter\na_total 3\na_total_more 4\nb{x=\"y\"} 5\n";
        assert_eq!(value(text, "a_total"), Some(3.0));
        assert_eq!(value(text, "a"), None);
        assert_eq!(value(text, "b"), None);
    }
}
