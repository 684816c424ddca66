//! How a cluster begins.

use super::*;

#[test]
fn a_new_cluster_mints_an_id_and_starts_pods() {
    let plan = expect(&World::new(3, 2), &[]);
    assert_eq!(plan.cluster_id.as_deref(), Some(MINTED));
    assert_eq!(plan.bootstrap.as_ref().unwrap().member, "orders-0");
    assert_eq!(size(&plan), (3, Some(2)));
    assert_eq!(plan.voter_budget, Some(3));
    assert_eq!(activity(&plan), Some(ActivityReason::Bootstrapping));
}

#[test]
fn nothing_is_initialised_before_the_id_is_recorded() {
    let world = World::new(3, 0).set(PodRole::Voter, 3).pod("orders-0");
    let plan = expect(&world, &[]);
    assert!(plan.claims.is_empty(), "claims come after the status");
}

#[test]
fn nothing_is_initialised_before_the_claims_are_marked() {
    let world = World::new(3, 0).recorded(BootstrapPhase::Chosen).set(PodRole::Voter, 3);
    let world = world.claim("orders-0", None, None).pod("orders-0").claim("orders-1", None, None);
    let plan = expect(&world, &[]);
    assert_eq!(plan.claims.len(), 2);
    assert!(plan.claims.iter().all(|mark| mark.cluster_id == CLUSTER_ID && mark.node_id.is_none()));
}

#[test]
fn then_the_chosen_member_initialises() {
    let world = World::new(3, 0).recorded(BootstrapPhase::Chosen).set(PodRole::Voter, 3);
    expect(&world.pod("orders-0").pod("orders-1"), &["initialise orders-0 c1"]);
}

#[test]
fn no_other_member_initialises() {
    let world = World::new(3, 0).recorded(BootstrapPhase::Chosen).set(PodRole::Voter, 3);
    expect(&world.pod("orders-1").pod("orders-2"), &[]);
}

#[test]
fn a_pod_that_leaves_does_not_initialise() {
    let world = World::new(1, 0).recorded(BootstrapPhase::Chosen).set(PodRole::Voter, 1).pod("orders-0");
    expect(&world.edit_pod("orders-0", |pod| pod.terminating = true), &[]);
}

#[test]
fn others_join_as_learners_all_at_once() {
    let world = World::new(3, 1).recorded(BootstrapPhase::Initialised).set(PodRole::Voter, 3);
    let world =
        world.set(PodRole::ReadReplica, 1).pod("orders-0").joined("orders-0", true).led_by("orders-0");
    let world = world.pod("orders-1").pod("orders-2").pod("orders-replica-0");
    let plan = expect(&world, &["learn orders-1=101", "learn orders-2=102", "learn orders-replica-0=200"]);
    assert_eq!(plan.bootstrap.unwrap().phase, BootstrapPhase::Initialised);
}

#[test]
fn promotion_goes_one_at_a_time_from_the_lowest() {
    let world = World::new(3, 0).recorded(BootstrapPhase::Initialised).set(PodRole::Voter, 3);
    let world = world.pod("orders-0").joined("orders-0", true).led_by("orders-0");
    let world = world.pod("orders-1").learner("orders-1", 101).pod("orders-2").learner("orders-2", 102);
    expect(&world, &["vote [orders-1=101] -[]"]);
}

#[test]
fn promotion_waits_for_the_learner_and_not_for_ready() {
    let world = World::new(3, 0).recorded(BootstrapPhase::Initialised).set(PodRole::Voter, 3);
    let world = world.pod("orders-0").joined("orders-0", true).led_by("orders-0");
    let world = world.pod("orders-1").learner("orders-1", 101);
    let behind = world.edit_member(NodeId(101), |member| member.matched_index = Some(1));
    expect(&behind, &[]);
    let there = behind.edit_member(NodeId(101), |member| member.matched_index = Some(1000));
    assert!(!there.observed.pods["orders-1"].ready);
    expect(&there, &["vote [orders-1=101] -[]"]);
}

#[test]
fn the_beginning_is_over_when_all_voters_serve() {
    let world = World::serving(3, 0).edit(|world| {
        world.observed.status.bootstrap.as_mut().unwrap().phase = BootstrapPhase::Initialised;
    });
    assert_eq!(world.plan().bootstrap.unwrap().phase, BootstrapPhase::Complete);
    let two = world.dead("orders-2");
    assert_eq!(two.plan().bootstrap.unwrap().phase, BootstrapPhase::Initialised);
}

#[test]
fn a_begun_cluster_never_initialises_again() {
    let world = World::new(3, 0).recorded(BootstrapPhase::Initialised).set(PodRole::Voter, 3);
    let world = world.pod("orders-0").pod("orders-1").pod("orders-2");
    let plan = expect(&world, &[]);
    assert_eq!(obstacle(&plan), Some(ObstacleReason::DataLost));
}

#[test]
fn a_claim_with_a_raft_id_says_that_the_cluster_had_begun() {
    let world = World::new(1, 0).recorded(BootstrapPhase::Chosen).set(PodRole::Voter, 1).pod("orders-0");
    let plan = expect(&world.edit_claim("orders-0", |claim| claim.node_id = Some(NodeId(7))), &[]);
    assert_eq!(plan.bootstrap.unwrap().phase, BootstrapPhase::Initialised);
}
