//! How retained volumes are taken over.

use super::*;

#[test]
fn retained_claims_are_adopted_with_every_ordinal() {
    let world = (0..5).fold(World::new(3, 1), |world, i| {
        world.claim(&format!("orders-{i}"), Some(CLUSTER_ID), Some(100 + i))
    });
    let plan = expect(&world.claim("orders-replica-1", Some(CLUSTER_ID), Some(201)), &[]);
    assert_eq!(plan.cluster_id.as_deref(), Some(CLUSTER_ID));
    assert_eq!(plan.bootstrap.as_ref().unwrap().phase, BootstrapPhase::Initialised);
    assert_eq!(size(&plan), (5, Some(2)));
    assert_eq!(activity(&plan), Some(ActivityReason::Adopting));
}

#[test]
fn marked_claims_that_were_never_initialised_begin_anew_under_their_id() {
    let world = World::new(3, 0).claim("orders-0", Some(CLUSTER_ID), None);
    let plan = expect(&world, &[]);
    assert_eq!(plan.cluster_id.as_deref(), Some(CLUSTER_ID));
    assert_eq!(plan.bootstrap.unwrap().phase, BootstrapPhase::Chosen);
}

#[test]
fn two_ids_start_nothing() {
    let world = World::new(3, 0).claim("orders-0", Some("a"), None).claim("orders-1", Some("b"), None);
    let plan = expect(&world, &[]);
    assert_eq!(obstacle(&plan), Some(ObstacleReason::ClusterIdConflict));
    assert_eq!(plan.sizes, None);
    assert_eq!(plan.cluster_id, None);
}

#[test]
fn a_claim_of_another_cluster_is_left_alone_and_not_started() {
    let world = World::serving(3, 0).wants(5, 0).claim("orders-3", Some("other"), None);
    let plan = expect(&world, &[]);
    assert_eq!(obstacle(&plan), Some(ObstacleReason::ClusterIdConflict));
    assert_eq!((size(&plan), plan.claims), ((3, None), vec![]));
    let unled = World::serving(3, 0).without_set(PodRole::Voter).leaderless();
    assert_eq!(size(&unled.claim("orders-3", Some("other"), None).plan()), (3, None));
}

#[test]
fn a_member_of_another_cluster_holds_up_nobody_else() {
    let world = World::serving(3, 0).removed("orders-2").wants(3, 2).edit(|world| {
        world.observed.reports.get_mut("orders-2").unwrap().cluster_id = Some("other".into());
        world.observed.claims.get_mut("orders-2").unwrap().cluster_id = None;
    });
    let plan = expect(&world, &["serving orders-2 false"]);
    assert_eq!(size(&plan), (3, Some(2)), "the others go on");
    assert_eq!(obstacle(&plan), Some(ObstacleReason::ClusterIdConflict));
    assert_eq!(plan.cluster_id.as_deref(), Some(CLUSTER_ID));
    assert!(
        plan.claims.iter().all(|mark| mark.member != "orders-2"),
        "a stranger's claim is not marked as ours"
    );
}

#[test]
fn claims_that_leave_are_waited_for_and_not_adopted() {
    let world = World::new(3, 0).claim("orders-0", Some(CLUSTER_ID), Some(100));
    let plan = expect(&world.edit_claim("orders-0", |claim| claim.terminating = true), &[]);
    assert_eq!(activity(&plan), Some(ActivityReason::Deleting));
    assert_eq!((plan.sizes, plan.cluster_id), (None, None));
}

#[test]
fn adopted_members_beyond_the_spec_leave_by_the_membership() {
    let world = World::serving(5, 0).wants(3, 0);
    let plan = expect(&world, &["vote [] -[orders-4=104]"]);
    assert_eq!(size(&plan), (5, None));
}

#[test]
fn pods_without_a_set_are_no_new_cluster() {
    let world = World::serving(3, 0).without_set(PodRole::Voter);
    let plan = expect(&world, &[]);
    assert_eq!(size(&plan), (3, None));
    assert_eq!(plan.cluster_id.as_deref(), Some(CLUSTER_ID));
}

#[test]
fn pods_without_a_set_and_without_a_leader_keep_their_number() {
    let world = World::serving(5, 0).wants(3, 0).without_set(PodRole::Voter).leaderless();
    assert_eq!(size(&world.plan()), (5, None));
}

#[test]
fn a_lost_status_is_found_again_on_members_and_claims() {
    let world = World::serving(3, 0).edit(|world| world.observed.status = Default::default());
    let plan = expect(&world, &[]);
    assert_eq!(plan.cluster_id.as_deref(), Some(CLUSTER_ID));
    assert_eq!(plan.bootstrap.unwrap().phase, BootstrapPhase::Complete);
}
