//! Everything that a bug report needs: the objects of a cluster, what its members say of themselves, and what they and the
//! operator logged last. Of data and secrets there is nothing in it (see `redact`). What cannot be had is told, and holds up
//! nothing: a report is asked for where something is broken, often by somebody who may not see everything.

use super::redact::redact;
use super::{Plugin, of};
use anyhow::Result;
use futures::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, LogParams};
use kube::{Api, Resource, ResourceExt};
use operator::crd::{SqliteBackup, SqliteRestore};
use operator::names::CONTAINER;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;

/// So many lines that a member logged last.
const MEMBER_LINES: i64 = 200;
/// So many lines that a process of the operator logged last, of which those are left that concern the cluster.
const OPERATOR_LINES: i64 = 2_000;
/// Pods of the operator, and no others.
const OPERATOR: &str = "app.kubernetes.io/name=sqlite-operator";
/// What a line of the operator's log is of that is of no cluster.
const OF_ITSELF: [&str; 4] = ["message", "error", "identity", "lease"];

impl Plugin {
    /// Prints it.
    pub(super) async fn report(&self, name: &str) -> Result<()> {
        let mut found = vec![serde_json::to_value(self.cluster(name).await?)?];
        found.extend(self.belongings(name).await);
        let pods = self.pods_of(name).await.unwrap_or_default();
        found.extend(join_all(pods.iter().map(|pod| self.member_report(name, pod))).await);
        for pod in &pods {
            found.extend(self.member_logs(pod).await);
        }
        found.extend(self.operator_logs(name).await);
        found.iter_mut().for_each(redact);
        let stream = stream(&found)?;
        self.print(&found, || stream)
    }

    /// What belongs to the cluster, and what happened to it.
    async fn belongings(&self, name: &str) -> Vec<Value> {
        let of_cluster =
            |object: &Value| object.get("failed").is_some() || object["spec"]["clusterRef"]["name"] == *name;
        let (all, labelled) = (ListParams::default(), of(name));
        let about = ListParams::default().fields(&format!("regarding.name={name}"));
        let users = [self.list::<SqliteBackup>(&all).await, self.list::<SqliteRestore>(&all).await];
        let mut objects: Vec<Value> = users.into_iter().flatten().filter(of_cluster).collect();
        objects.extend(self.list::<StatefulSet>(&labelled).await);
        objects.extend(self.list::<ControllerRevision>(&labelled).await);
        objects.extend(self.list::<Pod>(&labelled).await);
        objects.extend(self.list::<PersistentVolumeClaim>(&labelled).await);
        objects.extend(self.list::<Service>(&labelled).await);
        objects.extend(self.list::<PodDisruptionBudget>(&labelled).await);
        objects.extend(self.list::<NetworkPolicy>(&labelled).await);
        objects.extend(self.list::<Event>(&about).await);
        objects
    }

    /// Objects of a kind, or why they cannot be had.
    async fn list<K>(&self, which: &ListParams) -> Vec<Value>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + Debug,
    {
        let kind = K::kind(&());
        let listed = Api::<K>::namespaced(self.client.clone(), &self.namespace).list(which).await;
        let named = |object: K| {
            let mut value = serde_json::to_value(object)?;
            value["kind"] = json!(kind);
            Ok(value)
        };
        let objects = listed.map_err(anyhow::Error::from);
        let objects = objects.and_then(|listed| listed.items.into_iter().map(named).collect());
        objects.unwrap_or_else(|error| vec![json!({"kind": kind, "failed": format!("{error:#}")})])
    }

    /// What a member says of itself, or why it does not.
    async fn member_report(&self, name: &str, pod: &Pod) -> Value {
        let asked = async {
            let way = self.way_to(name, pod).await?;
            let (admin, base) = self.admin(name, &way).await?;
            anyhow::Ok(serde_json::to_value(admin.report(&base).await?)?)
        };
        let member = pod.name_any();
        match asked.await {
            Ok(report) => json!({"kind": "MemberReport", "member": member, "report": report}),
            Err(error) => json!({"kind": "MemberReport", "member": member, "failed": format!("{error:#}")}),
        }
    }

    /// What a member logged last, and before that its program that ended, if one did.
    async fn member_logs(&self, pod: &Pod) -> Vec<Value> {
        let mut statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let restarted = statuses.any(|status| status.name == CONTAINER && status.restart_count > 0);
        let mut logs = Vec::new();
        for previous in [true, false].into_iter().filter(|previous| restarted || !previous) {
            let which = LogParams {
                container: Some(CONTAINER.to_owned()),
                previous,
                tail_lines: Some(MEMBER_LINES),
                ..LogParams::default()
            };
            logs.push(self.log(&self.namespace, &pod.name_any(), &which, |_| true).await);
        }
        logs
    }

    /// What each process of the operator logged last of this cluster, or of none.
    async fn operator_logs(&self, name: &str) -> Vec<Value> {
        let pods = Api::<Pod>::all(self.client.clone());
        let pods = match pods.list(&ListParams::default().labels(OPERATOR)).await {
            Ok(pods) => pods.items,
            Err(error) => {
                let error = format!("the pods of the operator: {:#}", anyhow::Error::from(error));
                return vec![json!({"kind": "Log", "failed": error})];
            }
        };
        let which = &LogParams { tail_lines: Some(OPERATOR_LINES), ..LogParams::default() };
        let concerned = |line: &str| concerns(line, &self.namespace, name);
        let asked = pods.iter().map(|pod| async move {
            let namespace = pod.namespace().unwrap_or_default();
            self.log(&namespace, &pod.name_any(), which, concerned).await
        });
        join_all(asked).await
    }

    /// Lines of a log that are wanted, or why there are none.
    async fn log(
        &self,
        namespace: &str,
        pod: &str,
        which: &LogParams,
        wanted: impl Fn(&str) -> bool,
    ) -> Value {
        let mut log = json!({"kind": "Log", "namespace": namespace, "pod": pod, "previous": which.previous});
        match Api::<Pod>::namespaced(self.client.clone(), namespace).logs(pod, which).await {
            Ok(text) => {
                let lines = text.lines().filter(|line| wanted(line));
                log["lines"] = lines.map(|line| line.to_owned() + "\n").collect::<String>().into();
            }
            Err(error) => log["failed"] = format!("{:#}", anyhow::Error::from(error)).into(),
        }
        log
    }
}

/// Whether a line of the operator's log is of this cluster, or of none. Others are nobody's business who reads the report.
fn concerns(line: &str, namespace: &str, name: &str) -> bool {
    let Ok(said) = serde_json::from_str::<Value>(line) else { return line.contains(name) };
    let is_ours = |field: &str, ours: &str| said["fields"][field].as_str().is_none_or(|of| of == ours);
    let of_itself = || {
        let fields = said["fields"].as_object();
        fields.is_some_and(|fields| fields.keys().all(|field| OF_ITSELF.contains(&field.as_str())))
    };
    is_ours("cluster", &format!("{namespace}/{name}"))
        && is_ours("namespace", namespace)
        && (line.contains(name) || of_itself())
}

/// Objects as one stream of YAML.
fn stream(objects: &[Value]) -> Result<String> {
    let mut stream = String::new();
    for object in objects {
        stream.push_str("---\n");
        stream.push_str(&serde_yaml::to_string(object)?);
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_operators_log_is_told_what_concerns_the_cluster() {
        let line =
            |fields: Value| json!({"level": "INFO", "fields": fields, "target": "operator"}).to_string();
        for (line, told) in [
            (line(json!({"message": "taking a step", "cluster": "shop/orders"})), true),
            (line(json!({"message": "taking a step", "cluster": "shop/users"})), false),
            (line(json!({"message": "taking a step", "cluster": "bank/orders"})), false),
            (line(json!({"message": "a reconcile failed", "namespace": "shop", "name": "orders"})), true),
            (line(json!({"message": "a reconcile failed", "namespace": "shop", "name": "users"})), false),
            (line(json!({"message": "a reconcile failed", "namespace": "bank", "name": "orders"})), false),
            (line(json!({"message": "asking for a backup", "name": "n", "member": "orders-1"})), true),
            (line(json!({"message": "asking for a backup", "name": "n", "member": "users-1"})), false),
            (line(json!({"message": "leading", "identity": "sqlite-operator-0"})), true),
            ("thread 'main' panicked at orders".to_owned(), true),
            ("INFO taking a step cluster=shop/users".to_owned(), false),
        ] {
            assert_eq!(concerns(&line, "shop", "orders"), told, "{line}");
        }
    }
}
