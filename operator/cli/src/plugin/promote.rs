//! Leadership to where a person wants it: asked of the member, because it is of a moment and no spec says it.

use super::Plugin;
use anyhow::{Result, bail};
use operator::crd::SqliteCluster;
use operator::names::{ClusterName, PodRole};
use serde_json::json;

impl Plugin {
    /// Hands it over, or says from whom to whom it would go.
    pub(super) async fn promote(&self, name: &str, member: &str) -> Result<()> {
        let leader = leader_before(&self.cluster(name).await?, member)?;
        let before = leader.as_deref().unwrap_or("nobody");
        if self.dry_run {
            let would = json!({"cluster": name, "from": leader, "to": member});
            return self.print(&would, || format!("leadership would go from {before} to {member}\n"));
        }
        let way = self.way_to(name, &self.pods().get(member).await?).await?;
        let (admin, base) = self.admin(name, &way).await?;
        let report = admin.report(&base).await?;
        let done = admin.transfer(&base, Some(report.node_id)).await?;
        let told = json!({"cluster": name, "from": leader, "to": done.leader.name, "term": done.term});
        self.print(&told, || format!("{} leads in term {}\n", done.leader.name, done.term))
    }
}

/// Who leads before `member` does, which must be one that can.
fn leader_before(cluster: &SqliteCluster, member: &str) -> Result<Option<String>> {
    let name = ClusterName::new(
        cluster.metadata.namespace.clone().unwrap_or_default(),
        cluster.metadata.name.clone().unwrap_or_default(),
    );
    match name.parse_member(member) {
        Some((PodRole::Voter, _)) => {}
        Some((PodRole::ReadReplica, _)) => {
            bail!("{member} is a read replica: it does not vote, and cannot lead")
        }
        None => bail!("{member} is no member of {}", name.name),
    }
    Ok(cluster.status.as_ref().and_then(|status| status.leader.as_ref()).map(|leader| leader.member.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_voters_can_lead() {
        let cluster: SqliteCluster = serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop"}, "spec": {"storage": {"size": "1Gi"}},
            "status": {"leader": {"member": "orders-0", "term": 1, "sinceTime": "2026-01-01T00:00:00Z"}},
        }))
        .expect("a cluster");
        let before = |member: &str| leader_before(&cluster, member).map_err(|error| error.to_string());
        assert_eq!(before("orders-1"), Ok(Some("orders-0".into())));
        assert!(before("orders-replica-0").is_err_and(|error| error.contains("cannot lead")));
        assert!(before("users-0").is_err_and(|error| error.contains("no member of orders")));
    }
}
