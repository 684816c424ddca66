//! What a verb changes on the object: a merge patch, and a sentence. Pure.

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use operator::crd::{Fence, SqliteCluster};
use operator::names::{ANNOTATION_APPROVED, ANNOTATION_RESTARTED};
use serde_json::{Value, json};

/// A change of a cluster object.
#[derive(Debug)]
pub struct Edit {
    /// The change, as a merge patch.
    pub patch: Value,
    /// What it leads to, for people.
    pub what: String,
}

impl Edit {
    /// The change as a manifest.
    pub fn manifest(&self, namespace: &str, name: &str) -> Value {
        let mut manifest = json!({
            "apiVersion": "sqlite-operator.io/v1alpha1",
            "kind": "SqliteCluster",
            "metadata": {"name": name, "namespace": namespace},
        });
        if let Some(annotations) = self.patch["metadata"].get("annotations") {
            manifest["metadata"]["annotations"] = annotations.clone();
        }
        if let Some(spec) = self.patch.get("spec") {
            manifest["spec"] = spec.clone();
        }
        manifest
    }
}

pub fn restart(at: Timestamp) -> Edit {
    Edit {
        patch: json!({"metadata": {"annotations": {ANNOTATION_RESTARTED: at.to_string()}}}),
        what: "all members will be restarted, one after the other".into(),
    }
}

/// The word for exactly the revision that waits.
pub fn approve(cluster: &SqliteCluster) -> Result<Edit> {
    let rollout = cluster.status.as_ref().and_then(|status| status.rollout.as_ref());
    let waits = rollout.filter(|rollout| rollout.state == operator::crd::RolloutState::WaitingForApproval);
    let revision =
        waits.and_then(|rollout| rollout.revision.clone()).context("no update waits for approval")?;
    Ok(Edit {
        what: format!("revision {revision} is approved"),
        patch: json!({"metadata": {"annotations": {ANNOTATION_APPROVED: revision}}}),
    })
}

pub fn hibernate(asleep: bool) -> Edit {
    let what =
        if asleep { "all members will go; the volumes are kept" } else { "the members are coming back" };
    Edit { patch: json!({"spec": {"hibernated": asleep}}), what: what.into() }
}

pub fn pause(paused: bool) -> Edit {
    let what = if paused { "reconciliation stops" } else { "reconciliation goes on" };
    Edit { patch: json!({"spec": {"paused": paused}}), what: what.into() }
}

pub fn fence(cluster: &SqliteCluster, member: &str, reason: Option<&str>) -> Edit {
    let mut fencing = others(cluster, member);
    fencing.push(Fence { member: member.to_owned(), reason: reason.map(str::to_owned) });
    Edit {
        patch: json!({"spec": {"fencing": fencing}}),
        what: format!("{member} will get no traffic and not lead"),
    }
}

pub fn unfence(cluster: &SqliteCluster, member: &str) -> Result<Edit> {
    if !cluster.spec.fencing.iter().any(|fence| fence.member == member) {
        bail!("{member} is not fenced");
    }
    let patch = json!({"spec": {"fencing": others(cluster, member)}});
    Ok(Edit { patch, what: format!("{member} gets traffic again") })
}

fn others(cluster: &SqliteCluster, member: &str) -> Vec<Fence> {
    cluster.spec.fencing.iter().filter(|fence| fence.member != member).cloned().collect()
}

/// Consent to the loss point that the survivor offers at this moment.
pub fn consent(cluster: &SqliteCluster, survivor: &str) -> Result<Edit> {
    let quorum = cluster.status.as_ref().and_then(|status| status.quorum.as_ref());
    let points = quorum.map(|quorum| quorum.loss_points.as_slice()).unwrap_or_default();
    let point = points.iter().find(|point| point.survivor == survivor).with_context(|| {
        let offered: Vec<_> = points.iter().map(|point| point.survivor.as_str()).collect();
        format!("{survivor} offers nothing to go on with; those that do: [{}]", offered.join(", "))
    })?;
    Ok(Edit {
        patch: json!({"spec": {"recovery": {"quorumLoss": {"consent": point}}}}),
        what: format!("everything after index {} of {survivor} is given up", point.index),
    })
}

/// Consent to pass over the entry that every member is held up by at this moment.
pub fn skip_entry(cluster: &SqliteCluster, index: i64) -> Result<Edit> {
    let entry = cluster.status.as_ref().and_then(|status| status.fatal_entry);
    let entry = entry.context("no entry ends every member: there is nothing to pass over")?;
    if entry.index != index {
        bail!("entry {index} is not the one that ends every member; that is {}", entry.index);
    }
    Ok(Edit {
        patch: json!({"spec": {"recovery": {"skipEntry": {"index": index, "term": entry.term}}}}),
        what: format!("what only entry {index} would have written is given up"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(spec: Value, status: Value) -> SqliteCluster {
        serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop"}, "spec": spec, "status": status,
        }))
        .expect("a cluster")
    }

    #[test]
    fn fences_are_added_and_taken_away_beside_others() {
        let spec = json!({"storage": {"size": "1Gi"}, "fencing": [{"member": "orders-1"}]});
        let cluster = cluster(spec, json!({}));
        assert_eq!(
            fence(&cluster, "orders-2", Some("disk")).patch,
            json!({"spec": {"fencing": [{"member": "orders-1"}, {"member": "orders-2", "reason": "disk"}]}})
        );
        assert_eq!(unfence(&cluster, "orders-1").expect("fenced").patch, json!({"spec": {"fencing": []}}));
        assert!(unfence(&cluster, "orders-0").is_err());
    }

    #[test]
    fn an_approval_names_the_revision_that_waits() {
        let status =
            |state: &str| json!({"rollout": {"state": state, "updated": 0, "total": 3, "revision": "abc"}});
        let spec = || json!({"storage": {"size": "1Gi"}});
        let edit = approve(&cluster(spec(), status("WaitingForApproval"))).expect("an edit");
        assert_eq!(edit.patch["metadata"]["annotations"][ANNOTATION_APPROVED], "abc");
        assert!(approve(&cluster(spec(), status("Progressing"))).is_err());
        let yaml = serde_yaml::to_string(&edit.manifest("shop", "orders")).expect("YAML");
        assert!(yaml.contains("sqlite-operator.io/approvedRevision: abc"), "{yaml}");
    }

    #[test]
    fn a_consent_is_exactly_what_is_offered() {
        let status = json!({"quorum": {
            "size": 2, "healthyVoters": 0, "tolerableFailures": 0,
            "lossPoints": [{"survivor": "orders-1", "index": 4711, "term": 3}],
        }});
        let cluster = cluster(json!({"storage": {"size": "1Gi"}}), status);
        let edit = consent(&cluster, "orders-1").expect("an edit");
        assert_eq!(
            edit.patch["spec"]["recovery"]["quorumLoss"]["consent"],
            json!({"survivor": "orders-1", "index": 4711, "term": 3})
        );
        assert!(consent(&cluster, "orders-0").expect_err("nothing offered").to_string().contains("orders-1"));
    }

    #[test]
    fn only_the_entry_that_ends_every_member_is_passed_over() {
        let of = |status: Value| cluster(json!({"storage": {"size": "1Gi"}}), status);
        let held_up = of(json!({"fatalEntry": {"index": 4711, "term": 2, "crashes": 3}}));
        let edit = skip_entry(&held_up, 4711).expect("an edit");
        assert_eq!(edit.patch, json!({"spec": {"recovery": {"skipEntry": {"index": 4711, "term": 2}}}}));
        assert_eq!(edit.manifest("shop", "orders")["spec"]["recovery"]["skipEntry"]["index"], 4711);
        let refused = |cluster, index| skip_entry(&cluster, index).expect_err("refused").to_string();
        assert!(refused(held_up, 4710).contains("that is 4711"));
        assert!(refused(of(json!({})), 4711).contains("nothing to pass over"));
    }
}
