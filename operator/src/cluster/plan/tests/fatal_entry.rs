//! An entry of the log that ends whoever applies it, and the ways out.

use super::*;
use crate::crd::{Medium, RolloutState, SkippedEntry};

fn consenting(world: World, index: i64) -> World {
    world.spec(|spec| spec.recovery.skip_entry = Some(SkippedEntry { index, term: 2 }))
}

/// The member got over it.
fn over_it(world: World, name: &str) -> World {
    let world = world.joined(name, true);
    world.edit(|world| world.observed.reports.get_mut(name).unwrap().fatal_entry = None)
}

#[test]
fn an_entry_that_ends_every_member_needs_a_human_who_is_told_both_ways_out() {
    let plan = expect(&World::all_held_up(), &[]);
    assert_eq!((obstacle(&plan), activity(&plan)), (Some(ObstacleReason::FatalEntry), None));
    let message = plan.obstacle.unwrap().message;
    for part in ["entry 900", "3 times", "nothing that was acknowledged is lost", "version of the program"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(
        message.contains("kubectl sqlite skip-entry orders 900")
            && message.ends_with("skipEntry: {index: 900, term: 2}")
    );
}

#[test]
fn an_entry_is_passed_over_with_the_consent_that_names_it() {
    let plan = expect(&consenting(World::all_held_up(), 900), &["skip 900"]);
    assert_eq!((obstacle(&plan), activity(&plan)), (None, Some(ActivityReason::SkippingEntry)));
    for named in [SkippedEntry { index: 899, term: 2 }, SkippedEntry { index: 900, term: 1 }] {
        let plan = expect(&World::all_held_up().spec(|spec| spec.recovery.skip_entry = Some(named)), &[]);
        assert_eq!(obstacle(&plan), Some(ObstacleReason::FatalEntry));
        let SkippedEntry { index, term } = named;
        let told =
            format!("recovery.skipEntry names entry {index} of term {term}, and must name 900 of term 2");
        assert!(plan.obstacle.unwrap().message.ends_with(&told));
    }
    let electing = expect(&consenting(World::all_held_up().leaderless(), 900), &[]);
    assert_eq!((obstacle(&electing), activity(&electing)), (None, Some(ActivityReason::SkippingEntry)));
    let leaderless = consenting(World::all_held_up().leaderless(), 900);
    let leaderless = leaderless.condition("Ready", "False", "FatalEntry", 400);
    assert_eq!(obstacle(&expect(&leaderless, &[])), Some(ObstacleReason::QuorumLost), "nobody was elected");
}

#[test]
fn nothing_is_passed_over_while_a_member_may_have_applied_it() {
    let silent = consenting(World::all_held_up().dead("orders-2"), 900);
    assert!(expect(&silent, &[]).obstacle.unwrap().message.contains("orders-2 may have applied"));
    // A read replica's state is as good as a voter's.
    let world = World::all_held_up().wants(3, 1).set(PodRole::ReadReplica, 1).pod("orders-replica-0");
    let world = consenting(world.joined("orders-replica-0", false), 900).edit(|world| {
        world.observed.reports.get_mut("orders-replica-0").unwrap().applied_index = 10;
    });
    assert!(expect(&world, &[]).obstacle.unwrap().message.contains("orders-replica-0 may have applied"));
    expect(&world.held_up("orders-replica-0", 900), &["skip 900"]);
}

#[test]
fn members_that_can_take_anothers_state_need_nobody() {
    for world in [
        over_it(World::all_held_up(), "orders-2"),
        over_it(World::all_held_up(), "orders-0"),
        over_it(World::all_held_up(), "orders-2").leaderless(),
        World::all_held_up().held_up("orders-1", 950).leaderless(),
    ] {
        let plan = expect(&consenting(world, 900), &[]);
        assert_eq!((obstacle(&plan), activity(&plan)), (None, None));
    }
}

#[test]
fn a_consent_to_pass_over_that_is_left_in_the_spec_does_nothing() {
    let plan = expect(&consenting(World::serving(3, 0), 900), &[]);
    assert!(!plan.progresses() && plan.obstacle.is_none());
}

/// It may be the only one that has applied the entry, and what it wrote may have been acknowledged.
#[test]
fn a_lost_voter_is_not_replaced_while_the_others_are_held_up() {
    let plan = expect(&World::all_held_up().lost("orders-2"), &[]);
    assert_eq!((size(&plan), obstacle(&plan)), ((3, None), Some(ObstacleReason::FatalEntry)));
    let healed = over_it(over_it(World::all_held_up(), "orders-0"), "orders-1").lost("orders-2");
    assert_eq!(size(&healed.plan()), (4, None));
}

#[test]
fn voters_do_not_change_while_nothing_is_applied() {
    expect(&World::all_held_up().wants(1, 0), &[]);
    let learning = World::all_held_up().wiped("orders-1", 901).learner("orders-1", 901);
    let plan = learning.plan();
    assert!(!plan.steps.iter().any(Step::is_disruptive), "{plan:#?}");
}

#[test]
fn another_template_is_rolled_out_though_nobody_is_in_service() {
    let world = || World::all_held_up().stable().upgraded();
    for (what, world, wanted) in [
        ("all answer", world(), vec!["restart orders-2"]),
        ("one just went away", world().dead("orders-1"), vec!["restart orders-2"]),
        ("it is the last", world().dead("orders-2"), vec!["restart orders-1"]),
        (
            "one is lost and on its way out for ever",
            world().lost("orders-2").edit_pod("orders-2", |pod| pod.terminating = true),
            vec!["restart orders-1"],
        ),
        (
            "one lost its volume",
            world().wiped("orders-1", 901),
            vec!["learn orders-1=901", "restart orders-2"],
        ),
        ("one is being restarted", world().edit_pod("orders-1", |pod| pod.terminating = true), vec![]),
        (
            "what is in memory goes with pods",
            world().dead("orders-1").edit(|world| world.desired.spec.storage.medium = Medium::Memory),
            vec![],
        ),
        ("one has applied it, and the others take its state", over_it(world(), "orders-1"), vec![]),
    ] {
        let plan = world.plan();
        assert_eq!(steps(&plan), wanted, "{what}: {plan:#?}");
    }
}

/// The canary has another template and tries the entry again.
fn trying() -> World {
    let world = World::all_held_up().stable().upgraded().told();
    expect(&world, &["restart orders-2"]);
    world.told().current("orders-2").edit(|world| {
        let report = world.observed.reports.get_mut("orders-2").unwrap();
        (report.fatal_entry, report.applied_index) = (None, 100);
    })
}

#[test]
fn a_canary_that_gets_over_it_is_followed_by_the_others() {
    let plan = expect(&trying(), &[]);
    assert_eq!(
        (obstacle(&plan), activity(&plan)),
        (Some(ObstacleReason::FatalEntry), Some(ActivityReason::RollingUpdate))
    );
    let passed = over_it(trying(), "orders-2").told();
    assert_eq!(obstacle(&expect(&passed, &[])), None);
    let healed = over_it(over_it(passed, "orders-0"), "orders-1");
    expect(&healed.later(60).told(), &["restart orders-1"]);
}

#[test]
fn a_canary_that_does_not_get_over_it_is_taken_back() {
    let failed = trying().edit_pod("orders-2", |pod| pod.restarts = 2).told();
    let plan = expect(&failed, &["restart orders-2"]);
    assert_eq!(plan.rollout.as_ref().unwrap().state, RolloutState::RolledBack);
    assert_eq!(obstacle(&plan), Some(ObstacleReason::FatalEntry), "that is what needs a human");
}

#[test]
fn a_restart_where_nobody_is_in_service_is_looked_at_again_too() {
    let may = |world: World| View::of(&world.observe(), Some(CLUSTER_ID)).may_restart("orders-2");
    assert!(may(World::all_held_up()));
    assert!(!may(World::all_held_up().behind("orders-1")));
    assert!(!may(World::all_held_up().edit_pod("orders-1", |pod| pod.terminating = true)));
    assert!(!may(over_it(World::all_held_up(), "orders-2")), "the others are to take its state");
}
