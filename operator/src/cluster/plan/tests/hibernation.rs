//! How a cluster sleeps and wakes, and what lives in memory only.

use super::*;
use crate::crd::{Medium, MemberRole, MemberStatus};

fn asleep() -> World {
    let mut world = World::serving(3, 1).spec(|spec| spec.hibernated = true);
    for (name, role) in [
        ("orders-0", MemberRole::Voter),
        ("orders-1", MemberRole::Voter),
        ("orders-2", MemberRole::Voter),
        ("orders-replica-0", MemberRole::ReadReplica),
    ] {
        world = world.no_pod(name);
        world.observed.status.members.push(MemberStatus {
            name: name.into(),
            role,
            node_id: None,
            zone: None,
            kubernetes_node: None,
            version: None,
            ready: false,
            lag: None,
            checksum: None,
            volume: None,
            fenced: false,
            message: None,
        });
    }
    for role in PodRole::ALL {
        world = world.set(role, 0);
    }
    world.leaderless()
}

#[test]
fn all_pods_go_and_no_claim_does() {
    let world = World::serving(3, 1).spec(|spec| spec.hibernated = true);
    let plan = expect(&world, &[]);
    assert_eq!((size(&plan), plan.voter_budget), ((0, Some(0)), None));
    assert_eq!(activity(&plan), Some(ActivityReason::Hibernating));
    let plan = expect(&asleep(), &[]);
    assert_eq!((size(&plan), plan.activity), ((0, Some(0)), None));
}

#[test]
fn it_wakes_with_everyone_it_had() {
    let plan = expect(&asleep().spec(|spec| spec.hibernated = false), &[]);
    assert_eq!(size(&plan), (3, Some(1)));
    let claim = asleep().claim("orders-3", Some(CLUSTER_ID), Some(103));
    let plan = expect(&claim.spec(|spec| spec.hibernated = false), &[]);
    assert_eq!(size(&plan), (3, Some(1)), "a volume that scaling down left is not started");
    let forgotten = asleep().edit(|world| world.observed.status = Default::default());
    let plan = expect(&forgotten.spec(|spec| spec.hibernated = false), &[]);
    assert_eq!(size(&plan), (3, Some(1)), "the claims are enough");
}

#[test]
fn one_that_woke_with_too_few_gets_those_that_they_know_of() {
    let woken =
        World::serving(3, 0).leaderless().set(PodRole::Voter, 1).no_pod("orders-1").no_pod("orders-2");
    let known = woken.edit(|world| {
        // It answers, and knows of the two that it cannot hear.
        let report = world.observed.reports.get_mut("orders-0").unwrap();
        report.membership = World::serving(3, 0).observe().reports["orders-0"].membership.clone();
    });
    assert_eq!(size(&known.plan()).0, 3);
    let gone = known.edit(|world| drop(world.observed.claims.remove("orders-2")));
    assert_eq!(size(&gone.plan()).0, 2, "on volumes that are there");
}

#[test]
fn volumes_grow_while_it_sleeps() {
    let plan = asleep().spec(|spec| spec.storage.size = "2Gi".into()).plan();
    assert_eq!(plan.claims.len(), 4);
}

#[test]
fn a_cluster_can_be_made_asleep() {
    let plan = expect(&World::new(3, 0).spec(|spec| spec.hibernated = true), &[]);
    assert_eq!((size(&plan), plan.activity), ((0, None), None));
}

fn in_memory() -> World {
    World::serving(3, 0).spec(|spec| spec.storage.medium = Medium::Memory).told().edit(|world| {
        world.observed.claims.clear();
        let revision = world.desired.voter_revision.clone();
        for pod in world.observed.pods.values_mut() {
            pod.revision = Some(revision.clone());
        }
    })
}

#[test]
fn a_cluster_in_memory_begins_without_claims() {
    let world = World::new(3, 0).recorded(BootstrapPhase::Chosen).set(PodRole::Voter, 3).pod("orders-0");
    let world = world.spec(|spec| spec.storage.medium = Medium::Memory).current("orders-0").told();
    expect(&world.edit(|world| world.observed.claims.clear()), &["initialise orders-0 c1"]);
}

#[test]
fn a_member_in_memory_that_restarts_is_a_new_one() {
    expect(&in_memory(), &[]);
    let world = in_memory().wiped("orders-1", 901);
    expect(&world, &["serving orders-1 false", "learn orders-1=901"]);
    expect(&world.learner("orders-1", 901), &["vote [orders-1=901] -[orders-1=101]"]);
}

#[test]
fn when_all_memory_is_lost_an_empty_cluster_begins() {
    let world = in_memory().wiped("orders-0", 900).wiped("orders-1", 901).wiped("orders-2", 902).leaderless();
    let plan = expect(&world, &[]);
    assert_eq!((plan.cluster_id.as_deref(), obstacle(&plan)), (Some(MINTED), None));
    assert_eq!(plan.bootstrap.unwrap().phase, BootstrapPhase::Chosen);
}
