//! Which pods a spec would restart, in the order in which the operator does it. Pure.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use operator::cluster::resources::{marked_resources, quality};
use operator::cluster::validate::validate;
use operator::crd::SqliteCluster;
use operator::names::{ANNOTATION_RESOURCES, ANNOTATION_REVISION, PodRole};
use serde::Serialize;

/// A pod that would be restarted.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Restart {
    /// Its name.
    pub pod: String,
    /// What it is, and why.
    pub why: String,
}

/// Read replicas, then followers, the leader last; of each the highest ordinals first.
pub fn restarts(cluster: &SqliteCluster, pods: &[Pod]) -> Result<Vec<Restart>> {
    let status = cluster.status.clone().unwrap_or_default();
    let image = status.version.target.clone().unwrap_or_default();
    let desired = validate(cluster, &image)?;
    let leader = status.leader.map(|leader| leader.member);
    let mut order: Vec<(bool, bool, usize, Restart)> = pods
        .iter()
        .filter_map(|pod| {
            let name = pod.name_any();
            let (role, ordinal) = desired.name.parse_member(&name)?;
            let annotation = |key: &str| pod.annotations().get(key).map(String::as_str);
            let outdated = annotation(ANNOTATION_REVISION) != Some(desired.revision(role));
            let before = marked_resources(annotation(ANNOTATION_RESOURCES));
            let class = quality(&before) != quality(&desired.spec.resources);
            let reason = match (outdated, class) {
                (true, _) => "another template",
                (false, true) => "another quality-of-service class",
                (false, false) => return None,
            };
            let leads = leader.as_ref() == Some(&name);
            let what = match (role, leads) {
                (PodRole::ReadReplica, _) => "read replica",
                (PodRole::Voter, false) => "follower",
                (PodRole::Voter, true) => "leader, after a transfer",
            };
            let why = format!("{what}: {reason}");
            Some((leads, role == PodRole::Voter, usize::MAX - ordinal, Restart { pod: name, why }))
        })
        .collect();
    order.sort_by_key(|(leads, voter, ordinal, _)| (*leads, *voter, *ordinal));
    Ok(order.into_iter().map(|(.., restart)| restart).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn replicas_then_followers_then_the_leader() {
        let mut cluster: SqliteCluster = serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u"},
            "spec": {"storage": {"size": "1Gi"}, "image": "sqlited:1"},
            "status": {"leader": {"member": "orders-2", "term": 1, "sinceTime": "2026-01-01T00:00:00Z"}},
        }))
        .expect("a cluster");
        let now = validate(&cluster, "sqlited:1").expect("valid");
        let pods: Vec<Pod> = ["orders-0", "orders-1", "orders-2", "orders-replica-0"]
            .into_iter()
            .map(|name| {
                let (role, _) = now.name.parse_member(name).expect("a member");
                let annotations = json!({ANNOTATION_REVISION: now.revision(role)});
                serde_json::from_value(json!({"metadata": {"name": name, "annotations": annotations}}))
                    .expect("a pod")
            })
            .collect();
        assert_eq!(restarts(&cluster, &pods).expect("an order"), []);
        cluster.spec.image = Some("sqlited:2".into());
        let order: Vec<_> = restarts(&cluster, &pods).expect("an order").into_iter().map(|r| r.pod).collect();
        assert_eq!(order, ["orders-replica-0", "orders-1", "orders-0", "orders-2"]);
    }
}
