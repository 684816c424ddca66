//! When nothing is to be done.

use super::*;

#[test]
fn a_serving_cluster_is_left_alone() {
    for (voters, replicas, budget) in [(1, 0, None), (3, 0, Some(2)), (5, 2, Some(3)), (7, 0, Some(4))] {
        let plan = expect(&World::serving(voters, replicas), &[]);
        assert!(!plan.progresses(), "{plan:#?}");
        assert_eq!(plan.obstacle, None);
        assert_eq!(plan.voter_budget, budget);
    }
}

#[test]
fn a_paused_cluster_is_left_alone_whatever_it_is() {
    for world in [World::new(3, 0), World::serving(3, 0).wants(1, 0), World::serving(3, 0).upgraded()] {
        let plan = expect(&world.spec(|spec| spec.paused = true), &[]);
        assert_eq!((plan.sizes, plan.activity), (None, None));
    }
}

#[test]
fn a_name_that_somebody_else_holds_stops_everything() {
    let world = World::new(3, 0).edit(|world| {
        world.observed.foreign = vec![Foreign { object: "Service orders-rw".into(), leftover: false }];
    });
    let plan = expect(&world, &[]);
    assert_eq!(obstacle(&plan), Some(ObstacleReason::NameConflict));
    assert_eq!(plan.sizes, None);
}

#[test]
fn leftovers_of_a_deleted_cluster_are_waited_for() {
    let world = World::new(3, 0).edit(|world| {
        world.observed.foreign = vec![Foreign { object: "StatefulSet orders".into(), leftover: true }];
    });
    let plan = expect(&world, &[]);
    assert_eq!((activity(&plan), plan.sizes), (Some(ActivityReason::Deleting), None));
}

#[test]
fn one_dead_voter_is_no_activity() {
    let plan = expect(&World::serving(3, 0).dead("orders-2"), &["serving orders-2 false"]);
    assert_eq!(plan.activity, None);
    assert_eq!(plan.obstacle, None);
}

#[test]
fn a_change_of_the_membership_is_waited_for() {
    let plan = expect(&World::serving(5, 0).wants(3, 0).changing(), &[]);
    assert_eq!(activity(&plan), Some(ActivityReason::Scaling));
    assert_eq!(size(&plan), (5, None));
}

#[test]
fn nothing_changes_without_a_leader() {
    let plan = expect(&World::serving(5, 0).wants(3, 0).leaderless(), &[]);
    assert_eq!(size(&plan), (5, None));
    assert_eq!(obstacle(&plan), None);
}

#[test]
fn no_leader_for_five_minutes_needs_a_human() {
    let world = World::serving(3, 0).dead("orders-0").dead("orders-1").leaderless();
    let plan = world.condition("Ready", "False", "QuorumLost", 301).plan();
    assert_eq!(obstacle(&plan), Some(ObstacleReason::QuorumLost));
}

#[test]
fn a_leader_that_no_quorum_confirms_is_not_believed() {
    let world = World::serving(3, 0).wants(1, 0);
    let mut observed = world.observe();
    observed.reports.get_mut("orders-0").unwrap().quorum_silent_milliseconds = Some(5_000);
    let plan = plan(&world.desired, &observed, MINTED);
    assert_eq!(steps(&plan), Vec::<String>::new());
}

#[test]
fn of_two_leaders_the_later_term_counts() {
    let world = World::serving(3, 0).wants(1, 0);
    let mut observed = world.observe();
    let mut stale = observed.reports["orders-0"].clone();
    (stale.node_id, stale.name, stale.term) = (NodeId(102), "orders-2".into(), 2);
    stale.membership.members.clear();
    observed.reports.insert("orders-2".into(), stale);
    let plan = plan(&world.desired, &observed, MINTED);
    assert_eq!(steps(&plan), ["vote [] -[orders-2=102]"]);
}

#[test]
fn a_member_that_did_not_answer_in_time_is_asked_again_soon() {
    assert!(!World::serving(3, 0).observe().has_silent_members());
    let silent = World::serving(3, 0).edit(|world| drop(world.observed.reports.remove("orders-1")));
    assert!(silent.observe().has_silent_members());
    // One that is down is no news.
    assert!(!World::serving(3, 0).dead("orders-1").observe().has_silent_members());
}
