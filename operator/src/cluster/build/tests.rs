//! Objects as they are sent.

use super::*;
use crate::cluster::fixtures::{World, desired};
use crate::crd::{DisruptionBudget, Spread};
use serde_json::{Value, json};

fn built(world: &World) -> Resources<Prepared> {
    build(&world.desired, &world.observe(), &world.plan()).unwrap()
}

fn json(object: impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

#[test]
fn a_serving_cluster_with_replicas() {
    let resources = built(&World::serving(3, 2));
    insta::assert_yaml_snapshot!("voters", resources.sets[0]);
    insta::assert_yaml_snapshot!("nodes", resources.nodes);
    insta::assert_yaml_snapshot!("services", resources.services);
    insta::assert_yaml_snapshot!("budgets", resources.budgets);
    assert_eq!(resources.sets.len(), 2);
    assert!(resources.surplus.is_empty());
    assert!(resources.claims.is_empty());
}

#[test]
fn pods_pass_the_restricted_standard() {
    for role in PodRole::ALL {
        let pod = json(pod::template(&desired(|_| {}), role));
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
        assert!(spec.get("hostNetwork").is_none());
    }
}

#[test]
fn arguments_follow_role_and_spec() {
    let wan = desired(|spec| {
        spec.database.foreign_keys = true;
        spec.raft.profile = crate::crd::RaftProfile::Wan;
    });
    let args = |role| json(pod::template(&wan, role))["spec"]["containers"][0]["args"].to_string();
    let voter = args(PodRole::Voter);
    for flag in [
        "-node-id=$(POD_NAME)",
        "-http-adv-addr=$(POD_NAME).orders-nodes.shop.svc:4001",
        "-raft-adv-addr=$(POD_NAME).orders-nodes.shop.svc:4002",
        "-managed",
        "-fk",
        "-raft-profile=wan",
        "-log-level=info",
    ] {
        assert!(voter.contains(&format!("\"{flag}\"")), "{flag} in {voter}");
    }
    assert!(!voter.contains("non-voter"));
    assert!(args(PodRole::ReadReplica).contains("\"-raft-non-voter\""));
    assert!(voter.ends_with("\"/data\"]"));
}

#[test]
fn spread_is_strict_when_required_and_absent_when_not_wanted() {
    let with = |spread| json(pod::template(&desired(|spec| spec.placement.spread = spread), PodRole::Voter));
    let anti = |pod: &Value| pod["spec"]["affinity"]["podAntiAffinity"].clone();
    let required = with(Spread::Required);
    assert!(anti(&required)["requiredDuringSchedulingIgnoredDuringExecution"].is_array());
    assert_eq!(required["spec"]["topologySpreadConstraints"][0]["whenUnsatisfiable"], "DoNotSchedule");
    let preferred = with(Spread::Preferred);
    assert!(anti(&preferred)["preferredDuringSchedulingIgnoredDuringExecution"].is_array());
    let none = with(Spread::None);
    assert!(none["spec"].get("affinity").is_none());
    assert!(none["spec"].get("topologySpreadConstraints").is_none());
}

#[test]
fn selectors_and_claim_templates_carry_only_cluster_and_role() {
    let set = json(&built(&World::serving(1, 0)).sets[0]);
    let bare = json!({"sqlite-operator.io/cluster": "orders", "sqlite-operator.io/role": "voter"});
    assert_eq!(set["spec"]["selector"]["matchLabels"], bare);
    assert_eq!(set["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"], bare);
    assert_eq!(
        set["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
}

#[test]
fn the_size_of_claims_is_the_sets_while_it_exists() {
    let world = World::serving(1, 0).spec(|spec| spec.storage.size = "2Gi".into());
    let size = |set: &Value| {
        set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"].clone()
    };
    assert_eq!(size(&json(&built(&world).sets[0])), "1Gi");
    assert_eq!(size(&json(&built(&world.without_set(PodRole::Voter)).sets[0])), "2Gi");
}

#[test]
fn a_pinned_template_is_used_as_it_is() {
    let world = World::serving(1, 0);
    let mut old = pod::template(&world.desired, PodRole::Voter);
    old.spec.as_mut().unwrap().termination_grace_period_seconds = Some(77);
    let kept = template::revision(&world.desired, PodRole::Voter, &world.desired.voter_revision, &old);
    let (revision, pinned) = template::pinned(&kept).unwrap();
    let world = world.edit(|world| {
        world.observed.templates.insert(revision, pinned);
    });
    let resources = built(&world);
    assert_eq!(json(&resources.sets[0])["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 77);
    assert_eq!(json(&resources.templates[0]), json(&kept));
}

#[test]
fn what_is_no_longer_wanted_is_surplus() {
    let world = World::serving(1, 0).edit(|world| {
        let current = world.desired.voter_revision.clone();
        world.observed.children = [
            Child::Service("orders-nodes".into()),
            Child::Service("orders-rw".into()),
            Child::Service("orders-old".into()),
            Child::Budget("orders".into()),
            Child::Template(current),
            Child::Template("old".into()),
        ]
        .into();
    });
    let wanted =
        [Child::Service("orders-old".into()), Child::Budget("orders".into()), Child::Template("old".into())];
    assert_eq!(built(&world).surplus, wanted);
}

#[test]
fn budgets_can_be_left_out() {
    let world =
        World::serving(3, 1).spec(|spec| spec.disruption.pod_disruption_budget = DisruptionBudget::None);
    assert!(built(&world).budgets.is_empty());
    assert!(built(&World::serving(1, 0)).budgets.is_empty());
}

#[test]
fn a_marked_claim_never_creates_one() {
    let world =
        World::serving(1, 0).spec(|spec| spec.storage.on_delete = crate::crd::RetentionPolicy::Delete);
    let claim = json(&built(&world).claims[0]);
    assert_eq!(claim["metadata"]["uid"], "orders-0-claim");
    assert_eq!(claim["metadata"]["annotations"]["sqlite-operator.io/cluster-id"], "c1");
    assert_eq!(claim["metadata"]["annotations"]["sqlite-operator.io/node-id"], "0000000000000064");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["kind"], "SqliteCluster");
    assert!(claim["metadata"]["ownerReferences"][0].get("controller").is_none());
}

#[test]
fn nothing_is_built_for_a_paused_cluster() {
    let world = World::serving(1, 0).spec(|spec| spec.paused = true);
    assert!(build(&world.desired, &world.observe(), &world.plan()).is_none());
}
