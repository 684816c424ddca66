//! How pods get another template.

use super::*;

#[test]
fn read_replicas_go_first_then_followers_then_the_leader() {
    let world = World::serving(3, 2).upgraded();
    expect(&world, &["restart orders-replica-1"]);
    let world = world.current("orders-replica-1");
    expect(&world, &["restart orders-replica-0"]);
    let world = world.current("orders-replica-0");
    expect(&world, &["restart orders-2"]);
    let world = world.current("orders-2");
    expect(&world, &["restart orders-1"]);
    let world = world.current("orders-1");
    expect(&world, &["transfer orders-0 orders-1"]);
    let world = world.led_by("orders-1");
    expect(&world, &["restart orders-0"]);
    expect(&world.current("orders-0"), &[]);
}

#[test]
fn the_next_voter_waits_until_the_last_is_back_in_service() {
    for world in [
        World::serving(3, 0).upgraded().current("orders-2").dead("orders-2"),
        World::serving(3, 0).upgraded().current("orders-2").behind("orders-2"),
        World::serving(3, 0).upgraded().current("orders-2").edit_pod("orders-2", |pod| pod.ready = false),
        World::serving(3, 0).upgraded().edit_pod("orders-2", |pod| pod.terminating = true),
    ] {
        let plan = world.plan();
        assert!(!plan.steps.iter().any(Step::is_disruptive), "{plan:#?}");
        assert_eq!(activity(&plan), Some(ActivityReason::RollingUpdate));
    }
}

#[test]
fn the_next_replica_waits_until_the_last_is_ready() {
    let world = World::serving(3, 2).upgraded().current("orders-replica-1");
    expect(&world.edit_pod("orders-replica-1", |pod| pod.ready = false), &[]);
}

#[test]
fn voters_wait_for_the_replicas() {
    let world =
        World::serving(3, 1).upgraded().current("orders-replica-0").edit_pod("orders-replica-0", |pod| {
            pod.ready = false;
        });
    expect(&world, &[]);
}

#[test]
fn nothing_restarts_before_the_set_has_the_new_template() {
    let world = World::serving(3, 0).spec(|spec| spec.image = Some("example/sqlited:2".into()));
    let plan = expect(&world, &[]);
    assert_eq!(activity(&plan), Some(ActivityReason::RollingUpdate));
    let unseen = World::serving(3, 0).upgraded().edit(|world| {
        world.observed.sets.get_mut(&PodRole::Voter).unwrap().settled = false;
    });
    expect(&unseen, &[]);
}

#[test]
fn an_unsound_outdated_voter_goes_before_sound_ones() {
    let world = World::serving(3, 0).upgraded().edit_pod("orders-1", |pod| pod.ready = false);
    expect(&world, &["restart orders-1"]);
}

#[test]
fn a_single_voter_is_restarted() {
    expect(&World::serving(1, 0).upgraded(), &["restart orders-0"]);
}

#[test]
fn two_voters_wait_for_a_third_that_is_on_its_way() {
    let world = World::serving(3, 0).removed("orders-2").wants(3, 0).upgraded().wiped("orders-2", 902);
    let plan = expect(&world, &["learn orders-2=902"]);
    assert_eq!(activity(&plan), Some(ActivityReason::Scaling));
}

#[test]
fn two_voters_are_restarted_when_no_third_can_come() {
    let two = || {
        World::serving(3, 0)
            .removed("orders-2")
            .unschedulable("orders-2")
            .edit_claim("orders-2", |claim| claim.node_id = None)
    };
    let world = two().upgraded().current("orders-2");
    let plan = expect(&world, &["restart orders-1"]);
    assert_eq!(obstacle(&plan), Some(ObstacleReason::InsufficientCapacity));
    let world = world.current("orders-1");
    expect(&world, &["transfer orders-0 orders-1"]);
    expect(&world.led_by("orders-1"), &["restart orders-0"]);
}

#[test]
fn membership_comes_before_restarts() {
    let world = World::serving(5, 0).wants(3, 0).upgraded();
    expect(&world, &["vote [] -[orders-4=104]"]);
}

#[test]
fn a_stuck_pod_of_another_template_is_made_anew() {
    let bad = World::serving(3, 0).stuck("orders-2", "ImagePullBackOff").edit_pod("orders-2", |pod| {
        pod.revision = Some("bad".into());
    });
    let plan = expect(&bad, &["serving orders-2 false", "renew orders-2"]);
    assert_eq!(obstacle(&plan), None);
}

#[test]
fn stuck_pods_of_another_template_are_made_anew_without_a_leader() {
    let bad = ["orders-1", "orders-2"].into_iter().fold(World::serving(3, 0).leaderless(), |world, name| {
        world.stuck(name, "CrashLoopBackOff").edit_pod(name, |pod| pod.revision = Some("bad".into()))
    });
    expect(&bad, &["renew orders-1", "renew orders-2"]);
}

#[test]
fn a_stuck_pod_of_the_wanted_template_stops_the_rollout_and_is_told_of() {
    let world = World::serving(3, 0).upgraded().current("orders-2").stuck("orders-2", "ImagePullBackOff");
    let plan = expect(&world, &["serving orders-2 false"]);
    assert_eq!(obstacle(&plan), Some(ObstacleReason::MemberStuck));
}

#[test]
fn a_pod_without_a_place_is_told_of() {
    let world = World::serving(3, 0).unschedulable("orders-2");
    assert_eq!(obstacle(&world.plan()), Some(ObstacleReason::InsufficientCapacity));
}

#[test]
fn a_silent_outdated_pod_is_made_anew_when_there_is_no_leader() {
    let world = World::serving(3, 0).upgraded().dead("orders-1").dead("orders-2").leaderless();
    expect(&world, &["renew orders-2", "renew orders-1"]);
}

#[test]
fn an_edit_during_bootstrap_renews_pods_that_hold_nothing() {
    let world = World::new(1, 0).recorded(BootstrapPhase::Chosen).set(PodRole::Voter, 1).pod("orders-0");
    let plan = world.upgraded().plan();
    assert!(steps(&plan).contains(&"renew orders-0".to_owned()));
}

#[test]
fn a_rollout_lasts_until_the_last_one_is_back() {
    let world = World::serving(3, 0).dead("orders-0").led_by("orders-1");
    let plan = world.condition("Reconciling", "True", "RollingUpdate", 5).plan();
    assert_eq!(activity(&plan), Some(ActivityReason::RollingUpdate));
}

#[test]
fn a_voter_to_be_that_its_template_keeps_out_gets_the_wanted_one() {
    // Scaled up with a template that does not come into service; the spec was mended since.
    let world = World::serving(3, 0).spec(|spec| spec.voters = 5).set(PodRole::Voter, 4).told();
    let world = world.pod("orders-3").edit_pod("orders-3", |pod| pod.revision = Some("broken".into()));
    let renewed = |world: &World| steps(&world.plan()).contains(&"renew orders-3".to_owned());
    assert!(!renewed(&world), "it has just come");
    let long_ago = crate::cluster::fixtures::now() - jiff::SignedDuration::from_secs(300);
    let world = world.edit_pod("orders-3", |pod| pod.created = Some(long_ago));
    assert!(renewed(&world), "{:#?}", world.plan());
    // It goes, and comes with what is wanted.
    let goes = world.edit_pod("orders-3", |pod| pod.terminating = true);
    assert!(!renewed(&goes) && activity(&goes.plan()) != Some(ActivityReason::RollingUpdate));
}

#[test]
fn a_restart_is_looked_at_again_before_it_is_done() {
    let may = |world: &World, pod: &str| {
        let observed = world.observe();
        View::of(&observed, Some(CLUSTER_ID)).may_restart(pod)
    };
    let serving = || World::serving(3, 0);
    for (what, world, expected) in [
        ("all are well", serving(), true),
        ("it is not well itself", serving().dead("orders-2"), true),
        ("another one is dead", serving().dead("orders-1"), false),
        ("another one is behind", serving().behind("orders-1"), false),
        ("another one goes", serving().edit_pod("orders-1", |pod| pod.terminating = true), false),
        ("it leads now", serving().led_by("orders-2"), false),
        ("nobody leads", serving().leaderless(), false),
        ("the membership changes", serving().changing(), false),
    ] {
        assert_eq!(may(&world, "orders-2"), expected, "{what}");
    }
    assert!(may(&World::serving(1, 0), "orders-0"), "it is alone");
}
