//! A cluster as a picture for terminals. Pure.

use kube::ResourceExt;
use operator::crd::{Lag, MemberRole, MemberStatus, SqliteCluster, VolumeBucket};
use operator::names::{ClusterName, PodRole};
use std::fmt::Write;

/// The cluster: its conditions, and its members.
pub fn cluster(cluster: &SqliteCluster) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let mut out = String::new();
    let leader = status.leader.as_ref().map_or("nobody", |leader| &leader.member);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{}/{}  {} voters ready, {leader} leads, version {}",
        cluster.namespace().unwrap_or_default(),
        cluster.name_any(),
        status.voters_ready.as_deref().unwrap_or("no"),
        status.version.current.as_deref().unwrap_or("unknown"),
    );
    for condition in &status.conditions {
        let good = match condition.type_.as_str() {
            "Reconciling" | "UpdatePending" | "Paused" => "·",
            "Stalled" => "✗",
            _ if condition.status == "True" => "✓",
            _ => "✗",
        };
        let _ =
            writeln!(out, "  {good} {:<15} {:<20} {}", condition.type_, condition.reason, condition.message);
    }
    out.push_str(&members(&status.members));
    out
}

/// The members, one a line.
pub fn members(members: &[MemberStatus]) -> String {
    let mut out = String::new();
    for member in members {
        let role = match member.role {
            MemberRole::Voter => "voter",
            MemberRole::ReadReplica => "read replica",
            MemberRole::Learner => "learner",
            MemberRole::Candidate => "not a member",
        };
        let lag = match member.lag {
            Some(Lag::CaughtUp) => "caught up",
            Some(Lag::Behind) => "behind",
            Some(Lag::Unheard) => "not heard",
            None => "-",
        };
        let volume = match member.volume {
            Some(VolumeBucket::NearFull) => "  volume nearly full",
            Some(VolumeBucket::Full) => "  volume full",
            Some(VolumeBucket::Roomy) | None => "",
        };
        let _ = writeln!(
            out,
            "  {} {:<24} {role:<13} {lag:<10} {:<20}{}{volume}",
            if member.ready { "●" } else { "○" },
            member.name,
            member.kubernetes_node.as_deref().unwrap_or("-"),
            if member.fenced { "  fenced" } else { "" },
        );
    }
    out
}

/// What the loss of a member for a while does.
pub struct Drain {
    /// Whether the cluster goes on serving.
    pub safe: bool,
    /// Why, for people.
    pub why: String,
}

/// What happens when the pod of `member` is evicted.
pub fn drain(cluster: &SqliteCluster, member: &str) -> Drain {
    let name = ClusterName::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let status = cluster.status.clone().unwrap_or_default();
    let is_voter = matches!(name.parse_member(member), Some((PodRole::Voter, _)));
    let leads = status.leader.is_some_and(|leader| leader.member == member);
    let spare = status.quorum.map_or(0, |quorum| quorum.tolerable_failures);
    let counted = status.members.iter().any(|m| m.name == member && m.lag == Some(Lag::CaughtUp));
    match (is_voter, leads) {
        (false, _) => Drain { safe: true, why: "a read replica: others serve meanwhile".into() },
        (true, _) if spare < 1 && counted => {
            Drain { safe: false, why: "without it there is no quorum: writes would stop".into() }
        }
        (true, true) => Drain { safe: true, why: "leadership is handed over first".into() },
        (true, false) => Drain { safe: true, why: format!("{spare} voters can be missed") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn orders(tolerable: i32) -> SqliteCluster {
        let member = |name: &str| json!({"name": name, "role": "Voter", "ready": true, "lag": "CaughtUp"});
        serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop"}, "spec": {"storage": {"size": "1Gi"}},
            "status": {
                "votersReady": "3/3",
                "leader": {"member": "orders-0", "term": 1, "sinceTime": "2026-01-01T00:00:00Z"},
                "quorum": {"size": 2, "healthyVoters": 2 + tolerable, "tolerableFailures": tolerable},
                "members": [member("orders-0"), member("orders-1"), member("orders-2")],
                "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "served",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .expect("a cluster")
    }

    #[test]
    fn a_picture_tells_who_leads_and_how_everyone_is() {
        let picture = cluster(&orders(1));
        for part in ["shop/orders  3/3 voters ready, orders-0 leads", "✓ Ready", "● orders-2"] {
            assert!(picture.contains(part), "{part} in {picture}");
        }
    }

    #[test]
    fn a_drain_is_safe_while_a_voter_can_be_missed() {
        assert!(drain(&orders(1), "orders-0").why.contains("handed over"));
        assert!(drain(&orders(1), "orders-1").safe);
        assert!(!drain(&orders(0), "orders-1").safe);
        assert!(drain(&orders(0), "orders-replica-0").safe);
    }
}
