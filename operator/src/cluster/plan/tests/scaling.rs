//! How the number of members changes.

use super::*;

#[test]
fn growth_starts_the_pods_first() {
    let plan = expect(&World::serving(1, 0).wants(3, 2), &[]);
    assert_eq!(size(&plan), (3, Some(2)));
    assert_eq!(activity(&plan), Some(ActivityReason::Scaling));
    assert_eq!(plan.voter_budget, Some(1), "none of the pods that are to come is counted on yet");
}

#[test]
fn growth_1_to_3_to_5() {
    let world = World::serving(1, 0).wants(3, 0).set(PodRole::Voter, 3).pod("orders-1").pod("orders-2");
    let plan = expect(&world, &["learn orders-1=101", "learn orders-2=102"]);
    assert_eq!(plan.voter_budget, Some(3), "written before the change");
    let world = world.learner("orders-1", 101).learner("orders-2", 102);
    expect(&world, &["vote [orders-1=101] -[]"]);
    let world = world.joined("orders-1", true);
    expect(&world, &["vote [orders-2=102] -[]"]);
    let world = world.joined("orders-2", true).wants(5, 0);
    let plan = expect(&world, &[]);
    assert_eq!((size(&plan), plan.voter_budget), ((5, None), Some(2)));
    let world = world.set(PodRole::Voter, 5).pod("orders-3").learner("orders-3", 103);
    let plan = expect(&world, &["vote [orders-3=103] -[]"]);
    assert_eq!(plan.voter_budget, Some(3), "slack of four voters is one");
}

#[test]
fn a_stale_claim_is_wiped_before_a_pod_starts_on_it() {
    let world = World::serving(3, 0).wants(5, 0).claim("orders-3", Some(CLUSTER_ID), Some(103));
    let plan = expect(&world, &["wipe orders-3"]);
    assert_eq!(size(&plan), (3, None));
    let leaving = world.edit_claim("orders-3", |claim| claim.terminating = true);
    assert_eq!(size(&expect(&leaving, &[])), (3, None));
}

#[test]
fn a_pod_on_data_of_a_removed_member_is_made_anew() {
    let world = World::serving(3, 0).removed("orders-2");
    expect(&world, &["wipe orders-2", "renew orders-2"]);
}

#[test]
fn a_member_that_knows_a_newer_membership_than_the_leader_is_not_wiped() {
    let world = World::serving(3, 0).removed("orders-2");
    let mut observed = world.observe();
    observed.reports.get_mut("orders-2").unwrap().membership.log_index = 11;
    let plan = plan(&world.desired, &observed, MINTED);
    assert!(!steps(&plan).iter().any(|step| step.starts_with("wipe")), "{plan:#?}");
}

/// Those that are being evicted are heard until they are gone.
#[test]
fn no_voter_leaves_whom_those_that_stay_need() {
    let goes = |world: World, pod: &str| world.edit_pod(pod, |pod| pod.terminating = true);
    let world = World::serving(5, 0).wants(3, 0);
    let one = goes(world, "orders-0");
    expect(&one, &["vote [] -[orders-4=104]"]);
    let says_so =
        one.edit(|world| world.observed.reports.get_mut("orders-2").unwrap().phase = Phase::Draining);
    let both = goes(World::serving(5, 0).wants(3, 0), "orders-0");
    for world in [says_so, goes(both, "orders-2")] {
        let plan = expect(&world, &[]);
        assert_eq!(plan.voter_budget, Some(4), "no more evictions than the voters to be can bear");
        let waits = plan.activity.unwrap().message;
        assert!(waits.contains("orders-0, orders-2 must recover first"), "{waits}");
    }
    // Nor does one come in that would raise the number that is needed.
    let growing = World::serving(3, 0).wants(5, 0).set(PodRole::Voter, 5).pod("orders-3");
    let one = goes(growing.learner("orders-3", 103), "orders-1");
    expect(&one, &["vote [orders-3=103] -[]"]);
    expect(&goes(one, "orders-2"), &[]);
}

#[test]
fn shrinking_removes_the_highest_first_and_keeps_the_pods_until_then() {
    let world = World::serving(5, 0).wants(3, 0);
    let plan = expect(&world, &["vote [] -[orders-4=104]"]);
    assert_eq!((size(&plan), plan.voter_budget), ((5, None), Some(4)));
    let world = world.removed("orders-4");
    let plan = expect(&world, &["vote [] -[orders-3=103]"]);
    assert_eq!(size(&plan), (4, None), "its pod may go");
    let plan = expect(&world.removed("orders-3"), &[]);
    assert_eq!(size(&plan), (3, None));
}

#[test]
fn shrinking_3_to_1() {
    let world = World::serving(3, 0).wants(1, 0);
    expect(&world, &["vote [] -[orders-2=102]"]);
    let plan = expect(&world.removed("orders-2"), &["vote [] -[orders-1=101]"]);
    assert_eq!(plan.voter_budget, Some(3), "none of two voters can be missed");
}

#[test]
fn a_leader_that_is_to_go_hands_over_first() {
    expect(&World::serving(5, 0).wants(3, 0).led_by("orders-4"), &["transfer orders-4 orders-0"]);
    expect(&World::serving(3, 0).wants(1, 0).led_by("orders-2"), &["transfer orders-2 orders-0"]);
    let last = World::serving(3, 0).wants(1, 0).removed("orders-2").led_by("orders-1");
    expect(&last, &["transfer orders-1 orders-0"]);
}

#[test]
fn leadership_goes_to_a_healthy_voter_that_stays() {
    let world = World::serving(5, 0).wants(3, 0).led_by("orders-4").behind("orders-0");
    expect(&world, &["transfer orders-4 orders-1"]);
}

#[test]
fn shrinking_waits_for_a_quorum_of_those_that_remain() {
    let world = World::serving(5, 0).wants(3, 0).behind("orders-0").behind("orders-1").led_by("orders-2");
    let plan = expect(&world, &[]);
    assert_eq!(activity(&plan), Some(ActivityReason::Scaling));
    assert!(plan.activity.unwrap().message.contains("orders-0, orders-1"));
}

#[test]
fn a_dead_surplus_member_goes_first() {
    let world = World::serving(5, 0).wants(3, 0).dead("orders-3");
    expect(&world, &["serving orders-3 false", "vote [] -[orders-3=103]"]);
}

#[test]
fn of_two_voters_a_dead_one_cannot_be_removed() {
    let world = World::serving(3, 0).wants(1, 0).removed("orders-2").dead("orders-1").leaderless();
    expect(&world, &[]);
}

#[test]
fn claims_go_after_pods_by_policy() {
    let world = World::serving(3, 0).claim("orders-3", Some(CLUSTER_ID), Some(103));
    expect(&world, &["wipe orders-3"]);
    let kept = world.spec(|spec| spec.storage.on_scale_down = RetentionPolicy::Retain);
    expect(&kept, &[]);
}

#[test]
fn claims_stay_while_pod_or_membership_holds_them() {
    let removed = World::serving(5, 0).wants(3, 0).removed("orders-4").removed("orders-3");
    expect(&removed, &[]);
    let shrunk = removed.set(PodRole::Voter, 3).no_pod("orders-3");
    expect(&shrunk, &["wipe orders-3"]);
    let unsettled = shrunk.edit(|w| w.observed.sets.get_mut(&PodRole::Voter).unwrap().settled = false);
    expect(&unsettled, &[]);
}

#[test]
fn scaling_down_lasts_until_pods_and_claims_are_gone() {
    let removed = World::serving(5, 0).wants(3, 0).removed("orders-4").removed("orders-3");
    assert_eq!(activity(&removed.plan()), Some(ActivityReason::Scaling), "the pods are there");
    let shrunk = removed.set(PodRole::Voter, 3).no_pod("orders-3").no_pod("orders-4");
    assert_eq!(activity(&shrunk.plan()), Some(ActivityReason::Scaling), "the claims are there");
    let kept = shrunk.spec(|spec| spec.storage.on_scale_down = RetentionPolicy::Retain);
    assert_eq!(activity(&kept.plan()), None, "the claims stay by policy");
}

#[test]
fn read_replicas_come_and_go_without_votes() {
    let world = World::serving(3, 0).wants(3, 2).set(PodRole::ReadReplica, 2);
    let world = world.pod("orders-replica-0").pod("orders-replica-1");
    expect(&world, &["learn orders-replica-0=200", "learn orders-replica-1=201"]);
    let plan = expect(
        &World::serving(3, 2).wants(3, 0),
        &["forget orders-replica-0=200", "forget orders-replica-1=201"],
    );
    assert_eq!(size(&plan), (3, Some(2)), "pods stay until they are no members");
    let gone = World::serving(3, 2).wants(3, 0).removed("orders-replica-0").removed("orders-replica-1");
    assert_eq!(size(&gone.plan()), (3, Some(0)));
}

#[test]
fn a_read_replica_is_never_promoted() {
    let plan = expect(&World::serving(3, 2), &[]);
    assert_eq!(plan.activity, None);
}

#[test]
fn replicas_and_voters_can_scale_together() {
    let world = World::serving(5, 1).wants(3, 0);
    expect(&world, &["forget orders-replica-0=200", "vote [] -[orders-4=104]"]);
}
