//! Which pods a spec would restart, in the order in which the operator does it. Pure.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use operator::cluster::resources::{marked_resources, quality, resources_mark};
use operator::cluster::validate::{Desired, validate};
use operator::crd::{SqliteCluster, Traffic as _};
use operator::names::{ANNOTATION_RESOURCES, ANNOTATION_REVISION, PodRole};
use serde::Serialize;

/// A pod that would be restarted.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Restart {
    /// In which round, from 1: the next one begins when all pods of one have come back.
    pub round: usize,
    /// Its name.
    pub pod: String,
    /// What it is, and why.
    pub why: String,
}

/// A change of the template takes one round, then each step of TLS one: they all answer it before any of them insists.
pub fn restarts(cluster: &SqliteCluster, pods: &[Pod]) -> Result<Vec<Restart>> {
    let mut cluster = cluster.clone();
    let mut present = pods.to_vec();
    let mut restarts = Vec::new();
    let mut reason = "another template".to_owned();
    loop {
        let image = cluster.status.as_ref().and_then(|status| status.version.target.clone());
        let desired = validate(&cluster, &image.unwrap_or_default())?;
        let number = restarts.last().map_or(1, |last: &Restart| last.round + 1);
        restarts.extend(round(&cluster, &desired, &present, (number, &reason)));
        for pod in &mut present {
            let Some((role, _)) = desired.name.parse_member(&pod.name_any()) else { continue };
            // As the operator marks a new one.
            pod.annotations_mut().insert(ANNOTATION_REVISION.into(), desired.revision(role).into());
            pod.annotations_mut().remove(ANNOTATION_RESOURCES);
            let mark = resources_mark(&desired.spec.resources);
            pod.annotations_mut().extend(mark.map(|mark| (ANNOTATION_RESOURCES.to_owned(), mark)));
        }
        let (peers, clients) = desired.wanted_traffic();
        let next = (desired.peer_traffic.towards(peers), desired.client_traffic.towards(clients));
        if next == (desired.peer_traffic, desired.client_traffic) {
            return Ok(restarts);
        }
        reason = format!("TLS, members {:?}, clients {:?}", next.0, next.1);
        let status = cluster.status.get_or_insert_default();
        (status.peer_traffic, status.client_traffic) = (Some(next.0), Some(next.1));
    }
}

/// Read replicas, then followers, the leader last; of each the highest ordinals first.
fn round(
    cluster: &SqliteCluster,
    desired: &Desired,
    pods: &[Pod],
    (round, changed): (usize, &str),
) -> impl Iterator<Item = Restart> {
    let leader =
        cluster.status.as_ref().and_then(|status| status.leader.as_ref()).map(|leader| &leader.member);
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
                (true, _) => changed,
                (false, true) => "another quality-of-service class",
                (false, false) => return None,
            };
            let leads = leader == Some(&name);
            let what = match (role, leads) {
                (PodRole::ReadReplica, _) => "read replica",
                (PodRole::Voter, false) => "follower",
                (PodRole::Voter, true) => "leader, after a transfer",
            };
            let why = format!("{what}: {reason}");
            Some((leads, role == PodRole::Voter, usize::MAX - ordinal, Restart { round, pod: name, why }))
        })
        .collect();
    order.sort_by_key(|(leads, voter, ordinal, _)| (*leads, *voter, *ordinal));
    order.into_iter().map(|(.., restart)| restart)
}

/// As people read it.
pub fn text(restarts: &[Restart]) -> String {
    if restarts.is_empty() {
        return "no pod would be restarted\n".to_owned();
    }
    let mut text = String::new();
    for (number, restart) in (1..).zip(restarts) {
        if number > 1 && restarts[number - 2].round != restart.round {
            text += "then, when all of these have come back:\n";
        }
        text += &format!("{number}. {} ({})\n", restart.pod, restart.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use operator::crd::{ClientTraffic, PeerTraffic};
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
        // A pod that was given nothing cannot be given something while it runs, and one round does.
        let mut reserved = cluster.clone();
        reserved.spec.resources =
            serde_json::from_value(json!({"requests": {"cpu": "1"}})).expect("resources");
        let order = restarts(&reserved, &pods).expect("an order");
        assert_eq!(order.len(), 4, "{order:?}");
        assert!(
            order.iter().all(|restart| restart.why.ends_with("another quality-of-service class")),
            "{order:?}"
        );
        cluster.spec.image = Some("sqlited:2".into());
        let order: Vec<_> = restarts(&cluster, &pods).expect("an order").into_iter().map(|r| r.pod).collect();
        assert_eq!(order, ["orders-replica-0", "orders-1", "orders-0", "orders-2"]);
        // TLS for clients comes with what else changes, and then once more: nobody is locked out on the way.
        let status = cluster.status.get_or_insert_default();
        status.bootstrap =
            serde_json::from_value(json!({"member": "orders-0", "phase": "Complete"})).expect("a bootstrap");
        status.peer_traffic = Some(PeerTraffic::Tls);
        for (clients, rounds) in [("Managed", 3), ("Disabled", 1)] {
            cluster.status.get_or_insert_default().client_traffic = Some(ClientTraffic::Plaintext);
            cluster.spec.security.tls.clients = serde_json::from_value(json!(clients)).expect("a mode");
            let order = restarts(&cluster, &pods).expect("an order");
            assert_eq!(order.iter().map(|restart| restart.round).max(), Some(rounds), "{order:?}");
            assert_eq!(order.len(), 4 * rounds, "{order:?}");
        }
    }
}
