//! What a tool sees that applies the same manifest again and again.

use anyhow::{Context, Result, ensure};
use e2e::{Manifest, Scenario, eventually, scenario};
use kube::api::{DynamicObject, ListParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Kinds that tell of what goes on, and so change while nothing does.
const NEWS: [&str; 4] = ["Event", "Lease", "Endpoints", "EndpointSlice"];

/// Kinds whose objects Kubernetes makes, and writes to; the operator owns single fields of them only.
const OF_KUBERNETES: [&str; 2] = ["Pod", "PersistentVolumeClaim"];

/// All objects of the test's namespace, by kind and name.
async fn objects(test: &Scenario) -> Result<BTreeMap<(String, String), DynamicObject>> {
    let client = &test.kubernetes.client;
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut objects = BTreeMap::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let counts =
                capabilities.scope == Scope::Namespaced && capabilities.supports_operation(verbs::LIST);
            if !counts || NEWS.contains(&resource.kind.as_str()) {
                continue;
            }
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), &test.namespace, &resource);
            for object in api.list(&ListParams::default()).await? {
                objects.insert((resource.kind.clone(), object.name_any()), object);
            }
        }
    }
    Ok(objects)
}

/// What a write changes of an object. The kubelet and others write what they see of objects that Kubernetes makes: of those,
/// what others than they write.
fn version(kind: &str, object: &DynamicObject) -> String {
    let metadata = &object.metadata;
    if OF_KUBERNETES.contains(&kind) {
        return format!("{:?} {:?} {:?}", metadata.generation, metadata.labels, metadata.annotations);
    }
    format!("{:?} {:?}", metadata.generation, metadata.resource_version)
}

fn versions(objects: &BTreeMap<(String, String), DynamicObject>) -> BTreeMap<(String, String), String> {
    objects.iter().map(|(key, object)| (key.clone(), version(&key.0, object))).collect()
}

/// Who holds fields of the object itself; what only its status says is left out.
fn managers(object: &DynamicObject) -> BTreeSet<String> {
    let entries = object.metadata.managed_fields.iter().flatten();
    let of_spec = entries.filter(|entry| entry.subresource.is_none());
    of_spec.filter_map(|entry| entry.manager.clone()).collect()
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn ten_applies_of_a_manifest_write_nothing() {
    scenario("ten_applies_of_a_manifest_write_nothing", async |test| {
        let manifest = Manifest::new("orders", 3);
        let orders = test.named("orders");
        orders.apply(&manifest).await?;
        orders.await_ready().await?;
        orders.await_condition("FaultTolerant", "True").await?;
        // How their databases compare is told some seconds after the start, and stays.
        eventually("all members were compared", Duration::from_secs(50), async || {
            let members = orders.object().await?.data["status"]["members"].clone();
            let members = members.as_array().context("no members")?;
            Ok((members.len() == 3 && members.iter().all(|member| member["checksum"].is_string()))
                .then_some(()))
        })
        .await?;
        // What follows from getting ready is still being written down: until two looks see the same.
        let mut last = BTreeMap::new();
        let before = eventually("nothing changes any more", Duration::from_secs(30), async || {
            let now = versions(&objects(test).await?);
            let same = now == last;
            last.clone_from(&now);
            Ok(same.then_some(now))
        })
        .await?;
        ensure!(before.len() > 15, "these are not all objects: {before:?}");

        for _ in 0..10 {
            orders.apply(&manifest).await?;
        }
        let assert_unwritten = async |when: &str| -> Result<BTreeMap<(String, String), DynamicObject>> {
            let after = objects(test).await?;
            let now = versions(&after);
            let written: Vec<_> =
                now.iter().filter(|(key, version)| before.get(*key) != Some(version)).collect();
            ensure!(written.is_empty() && now.len() == before.len(), "written {when}: {written:?}");
            Ok(after)
        };
        assert_unwritten("by the applies").await?;
        // An operator to which all of it is new applies what it would make, and that is what there is.
        test.delete_operator_pods().await?;
        test.await_operator().await?;
        test.await_reconciled("orders").await?;
        let after = assert_unwritten("by an operator that starts").await?;

        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut of_operator = 0;
        for ((kind, name), object) in &after {
            let found = managers(object);
            if kind == "SqliteCluster" {
                ensure!(found == names(&["e2e"]), "the fields of {kind} {name} are of {found:?}");
            } else if found.contains("sqlite-operator") && !OF_KUBERNETES.contains(&kind.as_str()) {
                of_operator += 1;
                ensure!(found == names(&["sqlite-operator"]), "the fields of {kind} {name} are of {found:?}");
            }
        }
        ensure!(of_operator >= 8, "only {of_operator} objects are the operator's");
        let object = after.get(&("SqliteCluster".to_owned(), "orders".to_owned())).context("no cluster")?;
        let status: BTreeSet<_> = object
            .metadata
            .managed_fields
            .iter()
            .flatten()
            .filter(|entry| entry.subresource.is_some())
            .filter_map(|entry| entry.manager.as_deref())
            .collect();
        ensure!(status == BTreeSet::from(["sqlite-operator"]), "its status is of {status:?}");
        Ok(())
    });
}
