//! Which spec counts: the object's own, or, while that asks for what cannot be, the last one that could be had. A mistake in the
//! spec of a cluster that serves is told, and ends no care: it goes on to heal, to renew its certificates and to be backed up.

use super::build::spec;
use super::observed::is_controlled_by;
use super::validate::{Desired, ValidateError, validate};
use crate::context::Context;
use crate::crd::{SqliteCluster, SqliteClusterSpec};
use crate::names::ClusterName;
use kube::ResourceExt;
use std::borrow::Cow;

/// The object with the spec that counts, and what it asks for. `kept` is the spec that was accepted last; where there is none,
/// or it cannot be had any more either, what is wrong with the object's own comes back.
pub fn course<'a>(
    cluster: &'a SqliteCluster,
    kept: impl FnOnce() -> Option<SqliteClusterSpec>,
    node_image: &str,
) -> Result<(Cow<'a, SqliteCluster>, Desired), ValidateError> {
    let invalid = match validate(cluster, node_image) {
        Ok(desired) => return Ok((Cow::Borrowed(cluster), desired)),
        Err(invalid) => invalid,
    };
    let Some(kept) = kept() else { return Err(invalid) };
    let mut before = cluster.clone();
    // Who wants nothing to be done is heard, whatever else is wrong.
    before.spec = SqliteClusterSpec { paused: cluster.spec.paused, ..kept };
    match validate(&before, node_image) {
        Ok(mut desired) => {
            desired.refused = Some(invalid.to_string());
            Ok((Cow::Owned(before), desired))
        }
        // What is wrong with a spec that nobody sees any more would help nobody.
        Err(_) => Err(invalid),
    }
}

/// The spec that was accepted last, from the cache; `None` if nothing was made by one yet.
pub fn kept(cluster: &SqliteCluster, ctx: &Context) -> Option<SqliteClusterSpec> {
    let name = ClusterName::new(cluster.namespace()?, cluster.name_any());
    let uid = cluster.uid()?;
    let mut revisions = ctx.stores.templates.of(&name);
    revisions.retain(|revision| is_controlled_by(&uid, &revision.metadata));
    spec::newest(&revisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cluster(spec: Value) -> SqliteCluster {
        serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 7},
            "spec": spec,
        }))
        .unwrap()
    }

    fn growing(size: &str) -> Value {
        json!({"storage": {"size": size, "autogrow": {"maxSize": "5Gi"}}})
    }

    #[test]
    fn which_spec_counts_by_table() {
        let paused = |mut spec: Value| {
            spec["paused"] = json!(true);
            spec
        };
        let fenced = json!({"storage": {"size": "1Gi"}, "fencing": [{"member": "users-0"}]});
        let scheduled = json!({"storage": {"size": "1Gi"}, "backup": {
            "store": {"s3": {"bucket": "b"}}, "schedules": [{"name": "n", "cron": "0 3 * * 9"}]}});
        for (what, own, kept, size, refused, pauses) in [
            ("valid", growing("2Gi"), Some(growing("1Gi")), Some("2Gi"), None, false),
            ("too large", growing("6Gi"), Some(growing("1Gi")), Some("1Gi"), Some("maxSize"), false),
            ("a stranger fenced", fenced, Some(growing("1Gi")), Some("1Gi"), Some("no member"), false),
            ("no such day", scheduled, Some(growing("1Gi")), Some("1Gi"), Some("schedules, n"), false),
            ("never accepted", growing("6Gi"), None, None, Some("maxSize"), false),
            ("neither can be had", growing("6Gi"), Some(growing("7Gi")), None, Some("maxSize"), false),
            ("paused", paused(growing("6Gi")), Some(growing("1Gi")), Some("1Gi"), Some("maxSize"), true),
            ("goes on", growing("6Gi"), Some(paused(growing("1Gi"))), Some("1Gi"), Some("maxSize"), false),
        ] {
            let own = cluster(own);
            let kept = kept.map(|kept| cluster(kept).spec);
            let (found, told) = match course(&own, || kept, "i") {
                Ok((object, desired)) => {
                    assert_eq!(json!(object.spec), json!(desired.spec), "{what}");
                    assert_eq!((desired.generation, desired.spec.paused), (7, pauses), "{what}");
                    (Some(desired.spec.storage.size), desired.refused)
                }
                Err(invalid) => (None, Some(invalid.to_string())),
            };
            assert_eq!(found.as_deref(), size, "{what}");
            match (told, refused) {
                (Some(told), Some(refused)) => assert!(told.contains(refused), "{what}: {told}"),
                (told, refused) => assert_eq!(told.as_deref(), refused, "{what}"),
            }
        }
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let of = |spec: Value, generation: i64| {
            let mut cluster = cluster(spec);
            cluster.metadata.generation = Some(generation);
            spec::revision(&validate(&cluster, "i").unwrap())
        };
        let (old, new) = (of(growing("3Gi"), 9), of(growing("2Gi"), 10));
        assert_ne!(old.name_any(), new.name_any());
        assert_eq!(of(growing("2Gi"), 11).name_any(), new.name_any(), "by what it keeps");
        let found = spec::newest(&[new.clone(), old]).unwrap();
        assert_eq!(json!(found), json!(cluster(growing("2Gi")).spec));
        assert_eq!(super::super::build::template::pinned(&new), None, "it is no pod template");
        assert!(spec::newest(&[]).is_none());
    }
}
