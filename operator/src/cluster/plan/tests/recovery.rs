//! What is lost, and how it is replaced.

use super::*;

#[test]
fn a_lost_volume_joins_as_a_new_member_and_takes_the_old_ones_place_in_one_change() {
    let world = World::serving(3, 0).wiped("orders-1", 901);
    let plan = expect(&world, &["serving orders-1 false", "learn orders-1=901"]);
    assert_eq!(activity(&plan), Some(ActivityReason::ReplacingMember));
    let world = world.learner("orders-1", 901);
    expect(&world, &["vote [orders-1=901] -[orders-1=101]"]);
    expect(&world.edit_member(NodeId(901), |member| member.matched_index = Some(0)), &[]);
}

#[test]
fn a_learner_that_lost_its_volume_is_forgotten_first() {
    let world = World::serving(3, 1).wiped("orders-replica-0", 902);
    expect(&world, &["forget orders-replica-0=200", "learn orders-replica-0=902"]);
}

#[test]
fn two_lost_volumes_of_three_are_not_repaired_by_guessing() {
    let world = World::serving(3, 0).wiped("orders-1", 901).wiped("orders-2", 902).leaderless();
    let plan = expect(&world, &[]);
    assert_eq!(size(&plan), (3, None));
}

#[test]
fn a_member_is_not_replaced_where_that_would_cost_the_quorum() {
    let world = World::serving(5, 0).wiped("orders-1", 901).learner("orders-1", 901);
    let world = world.behind("orders-2").behind("orders-3").behind("orders-4");
    let plan = world.plan();
    assert!(!plan.steps.iter().any(Step::is_disruptive), "{plan:#?}");
}

#[test]
fn a_lost_voter_gets_a_stand_in() {
    let world = World::serving(3, 0).lost("orders-1");
    let plan = expect(&world, &["serving orders-1 false"]);
    assert_eq!(size(&plan), (4, None));
    let world = world.set(PodRole::Voter, 4).pod("orders-3");
    expect(&world, &["serving orders-1 false", "learn orders-3=103"]);
    let world = world.learner("orders-3", 103);
    expect(&world, &["serving orders-1 false", "vote [orders-3=103] -[orders-1=101]"]);
}

#[test]
fn a_stand_in_is_no_surplus_until_the_ordinal_is_back() {
    let world = World::serving(3, 0).set(PodRole::Voter, 4).pod("orders-3").joined("orders-3", true);
    let held = world.dead("orders-1").removed("orders-1");
    let plan = expect(&held, &[]);
    assert_eq!((size(&plan), activity(&plan)), ((4, None), None));
    let back = held.edit_claim("orders-1", |c| c.node_id = None).pod("orders-1").learner("orders-1", 901);
    expect(&back, &["vote [orders-1=901] -[orders-3=103]"]);
}

/// What an eviction is decided by: `minAvailable` against the pods that are Ready.
#[test]
fn evictions_are_refused_only_while_a_voter_fewer_would_cost_the_quorum() {
    // A lost Kubernetes node holds the name of orders-1, and orders-3 stands in for it.
    let standing_in = || {
        let world = World::serving(3, 0).set(PodRole::Voter, 4).pod("orders-3").joined("orders-3", true);
        world.dead("orders-1").removed("orders-1")
    };
    let joining = || World::serving(3, 0).lost("orders-1").set(PodRole::Voter, 4).pod("orders-3");
    let back = || {
        let world = standing_in().edit_claim("orders-1", |claim| claim.node_id = None);
        world.pod("orders-1")
    };
    for (what, world, budget, may_evict) in [
        ("three", World::serving(3, 0), 2, 1),
        ("five", World::serving(5, 0), 3, 2),
        ("one of three down", World::serving(3, 0).dead("orders-2"), 2, 0),
        ("its pod is being made anew", World::serving(3, 0).no_pod("orders-2"), 2, 0),
        ("lost, and nobody stands in yet", World::serving(3, 0).lost("orders-1"), 2, 0),
        ("a stand-in is about to join", joining(), 3, 0),
        ("a stand-in catches up", joining().learner("orders-3", 103), 3, 0),
        ("a stand-in for good", standing_in(), 2, 1),
        ("a stand-in, and one of the others down", standing_in().dead("orders-2"), 2, 0),
        ("the name is free again", back(), 3, 0),
        ("and a member again", back().learner("orders-1", 901), 3, 0),
        ("no leader", World::serving(3, 0).leaderless(), 2, 1),
        ("nobody answers", World::serving(3, 0).edit(|world| world.observed.reports.clear()), 3, 0),
    ] {
        let ready = world.observed.pods.values().filter(|pod| pod.ready && !pod.terminating).count();
        let plan = world.plan();
        assert_eq!(plan.voter_budget, Some(budget), "{what}: {plan:#?}");
        assert_eq!((i32::try_from(ready).unwrap() - budget).max(0), may_evict, "{what}");
    }
}

#[test]
fn a_lost_voter_that_comes_back_in_time_needs_no_stand_in() {
    let world = World::serving(3, 0).set(PodRole::Voter, 4).pod("orders-3").learner("orders-3", 103);
    expect(&world, &["forget orders-3=103"]);
}

#[test]
fn no_stand_in_for_a_pod_that_cannot_start_from_this_template() {
    let world = World::serving(3, 0).lost("orders-1").stuck("orders-1", "ImagePullBackOff");
    let id = world.id("orders-1");
    let world = world.edit_member(id, |member| member.silent_milliseconds = Some(1_000_000));
    assert_eq!(size(&world.plan()), (3, None));
}

#[test]
fn no_stand_in_without_a_healthy_quorum() {
    let world = World::serving(3, 0).lost("orders-1").behind("orders-2");
    assert_eq!(size(&world.plan()), (3, None));
}

#[test]
fn a_freed_name_comes_back_empty() {
    let world = World::serving(3, 0).set(PodRole::Voter, 4).pod("orders-3").joined("orders-3", true);
    let pending = world.dead("orders-1").removed("orders-1").edit_pod("orders-1", |pod| {
        pod.running = false;
    });
    expect(&pending, &["wipe orders-1", "renew orders-1"]);
}

#[test]
fn a_member_that_is_heard_again_is_served_again() {
    let world = World::serving(3, 0).edit_pod("orders-2", |pod| pod.serving = false);
    expect(&world, &["serving orders-2 true"]);
}

#[test]
fn never_are_all_members_taken_out() {
    let world = World::serving(3, 2).dead("orders-replica-0").dead("orders-replica-1");
    expect(&world, &[]);
}

/// Two of three voters came back with empty volumes, and the third one says what it holds.
fn two_volumes_lost() -> World {
    World::serving(3, 0).wiped("orders-1", 901).wiped("orders-2", 902).leaderless().edit(|world| {
        let report = world.observed.reports.get_mut("orders-0").unwrap();
        (report.leader, report.last_log_index) = (None, 4711);
    })
}

fn consenting(world: World, survivor: &str, index: i64) -> World {
    let consent = crate::crd::LossPoint { survivor: survivor.into(), index, term: 3 };
    world.spec(|spec| spec.recovery.quorum_loss.consent = Some(consent))
}

#[test]
fn a_lost_quorum_is_recovered_with_the_consent_that_names_the_loss_point() {
    expect(&two_volumes_lost(), &[]);
    let plan = expect(&consenting(two_volumes_lost(), "orders-0", 4711), &["recover orders-0 at 4711"]);
    assert_eq!(activity(&plan), Some(ActivityReason::RecoveringQuorum));
    for (survivor, index) in [("orders-0", 4710), ("orders-1", 4711)] {
        let plan = expect(&consenting(two_volumes_lost(), survivor, index), &[]);
        assert_eq!(obstacle(&plan), None, "it may be a matter of a moment");
        assert!(plan.activity.unwrap().message.contains("{survivor: orders-0, index: 4711, term: 3}"));
    }
}

#[test]
fn a_consent_names_the_term_of_the_entry_whatever_was_voted_in_since() {
    for (told, wanted) in
        [(Some(3), &["recover orders-0 at 4711"][..]), (Some(2), &[]), (None, &["recover orders-0 at 4711"])]
    {
        let world = consenting(two_volumes_lost(), "orders-0", 4711)
            .edit(|world| world.observed.reports.get_mut("orders-0").unwrap().last_log_term = told);
        expect(&world, wanted);
    }
}

#[test]
fn nothing_is_recovered_while_another_voter_may_come_back() {
    let world = || {
        let world = World::serving(3, 0).wiped("orders-1", 901).dead("orders-2").leaderless().edit(|world| {
            let report = world.observed.reports.get_mut("orders-0").unwrap();
            (report.leader, report.last_log_index) = (None, 4711);
        });
        consenting(world, "orders-0", 4711)
    };
    let told = "orders-2 may still come back";
    let plan = expect(&world(), &[]);
    assert!(plan.obstacle.is_none() && plan.activity.unwrap().message.contains(told));
    let later = world().condition("Ready", "False", "QuorumLost", 400).plan();
    assert!(later.obstacle.unwrap().message.contains(told));
    let gone = || world().no_pod("orders-2").edit(|world| drop(world.observed.claims.remove("orders-2")));
    expect(&gone(), &["recover orders-0 at 4711"]);
    // The empty volume was let in as another member already.
    expect(&gone().learner("orders-1", 901).leaderless(), &["recover orders-0 at 4711"]);
}

#[test]
fn a_consent_that_is_left_in_the_spec_does_nothing() {
    expect(&consenting(World::serving(3, 0), "orders-0", 1000), &[]);
}

#[test]
fn who_is_of_an_earlier_epoch_comes_back_as_a_new_member() {
    let world = World::serving(3, 0).removed("orders-2");
    let mut observed = world.observe();
    for name in ["orders-0", "orders-1"] {
        observed.reports.get_mut(name).unwrap().epoch = 2;
    }
    let stale = observed.reports.get_mut("orders-2").unwrap();
    (stale.epoch, stale.term, stale.role) = (1, 9, client::admin::Role::Leader);
    stale.membership.log_index = 99;
    let plan = plan(&world.desired, &observed, MINTED);
    assert_eq!(steps(&plan), ["wipe orders-2", "renew orders-2"]);
}
