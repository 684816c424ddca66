//! Leadership to where a person wants it: asked of the member, because it is of a moment and no spec says it. A field would go
//! on asking for it after every election, and the operator may be away when it is needed.

use super::Plugin;
use anyhow::{Result, bail};
use client::admin::Transfer;
use operator::crd::SqliteCluster;
use operator::names::{ClusterName, PodRole};
use serde_json::{Value, json};

impl Plugin {
    /// Hands it over, or prints what the member would be asked.
    pub(super) async fn promote(&self, name: &str, member: &str) -> Result<()> {
        let cluster = self.cluster(name).await?;
        let leader = leader_before(&cluster, member)?;
        if self.dry_run {
            return self.show(&request(&cluster, leader.as_deref(), member));
        }
        let way = self.way_to(name, &self.pods().get(member).await?).await?;
        let (admin, base) = self.admin(name, &way).await?;
        let report = admin.report(&base).await?;
        let done = admin.transfer(&base, Some(report.node_id)).await?;
        let told = json!({"cluster": name, "from": leader, "to": done.leader.name, "term": done.term});
        self.print(&told, || format!("{} leads in term {}\n", done.leader.name, done.term))
    }
}

/// What a member would be asked: the request, from whom leadership would go, and to whom.
fn request(cluster: &SqliteCluster, leader: Option<&str>, member: &str) -> Value {
    let known = cluster.status.iter().flat_map(|status| &status.members).find(|known| known.name == member);
    // Who was not heard of yet is asked for its id.
    let to = known.and_then(|known| known.node_id.as_ref()?.parse().ok());
    json!({
        "from": leader,
        "to": member,
        "request": {"method": "POST", "path": "/cluster/transfer", "body": Transfer { to }},
    })
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
