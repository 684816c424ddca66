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

/// Nodes of bare metal that die and stay what they are: the names of their pods are held.
#[test]
fn each_lost_voter_whose_name_is_held_gets_a_stand_in_one_after_the_other() {
    let five = || World::serving(5, 0);
    let standing_in = |world: World, name: &str| world.pod(name).joined(name, true);
    let one = || standing_in(five().replaced("orders-1"), "orders-5").set(PodRole::Voter, 6);
    let second = || one().lost("orders-2");
    let surge = || second().set(PodRole::Voter, 7).pod("orders-6");
    let both = || five().lost("orders-1").lost("orders-2");
    let swapped = || standing_in(both().removed("orders-1"), "orders-5").set(PodRole::Voter, 6);
    let two = || standing_in(one().replaced("orders-2"), "orders-6").set(PodRole::Voter, 7);
    let three = || standing_in(World::serving(3, 0).replaced("orders-1"), "orders-3").set(PodRole::Voter, 4);
    let third = || standing_in(three().replaced("orders-3"), "orders-4").set(PodRole::Voter, 5);
    let unserved = ["serving orders-1 false", "serving orders-2 false"];
    let back = |world: World, name: &str| {
        world.edit_claim(name, |claim| claim.node_id = None).pod(name).learner(name, 901)
    };
    for (what, world, voters, wanted) in [
        ("the first is replaced", one(), 6, vec![]),
        ("and a second is lost", second(), 7, vec![unserved[1]]),
        ("another pod comes", surge(), 7, vec![unserved[1], "learn orders-6=106"]),
        (
            "it has caught up",
            surge().learner("orders-6", 106),
            7,
            vec![unserved[1], "vote [orders-6=106] -[orders-2=102]"],
        ),
        ("both are replaced", two(), 7, vec![]),
        ("both are lost at once: one at a time", both(), 6, unserved.to_vec()),
        (
            "the first of them is replaced",
            both().set(PodRole::Voter, 6).pod("orders-5").learner("orders-5", 105),
            6,
            [&unserved[..], &["vote [orders-5=105] -[orders-1=101]"]].concat(),
        ),
        ("then the other one", swapped(), 7, vec![unserved[1]]),
        (
            "a name is free again before the second is replaced: it takes that one's place",
            back(surge(), "orders-1"),
            7,
            vec![unserved[1], "learn orders-6=106", "vote [orders-1=901] -[orders-2=102]"],
        ),
        (
            "a name is free again: the last stand-in goes first",
            back(two(), "orders-1"),
            7,
            vec!["vote [orders-1=901] -[orders-6=106]"],
        ),
        (
            "the other one too",
            back(standing_in(two().removed("orders-6"), "orders-1"), "orders-2"),
            6,
            vec!["vote [orders-2=901] -[orders-5=105]"],
        ),
        ("of three the second", three().lost("orders-2"), 5, vec![unserved[1]]),
        (
            "of three a stand-in",
            three().lost("orders-3").set(PodRole::Voter, 5).pod("orders-4").learner("orders-4", 104),
            5,
            vec!["serving orders-3 false", "vote [orders-4=104] -[orders-3=103]"],
        ),
        ("a stand-in is replaced", third(), 5, vec![]),
        ("and the name of it is held as well", third().lost("orders-2"), 6, vec![unserved[1]]),
        (
            "a stand-in lost its volume",
            three().wiped("orders-3", 903),
            4,
            vec!["serving orders-3 false", "learn orders-3=903"],
        ),
        (
            "no quorum is healthy",
            both().lost("orders-3"),
            5,
            vec![unserved[0], unserved[1], "serving orders-3 false"],
        ),
        (
            "fewer voters are wanted",
            five().lost("orders-1").wants(3, 0),
            5,
            vec![unserved[0], "vote [] -[orders-4=104]"],
        ),
    ] {
        let plan = world.plan();
        assert_eq!(
            (steps(&plan), size(&plan).0),
            (wanted.into_iter().map(str::to_owned).collect(), voters),
            "{what}: {plan:#?}"
        );
        assert_eq!(obstacle(&plan), None, "{what}");
    }
    assert_eq!(activity(&two().plan()), None, "nothing is left to be done");
    let gone =
        standing_in(standing_in(two().removed("orders-6"), "orders-1").removed("orders-5"), "orders-2");
    assert_eq!(size(&gone.plan()).0, 5, "it is as the spec says");
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

/// Two of three voters find no Kubernetes node, for longer than it takes to be told of.
fn two_without_a_node() -> World {
    let world = World::serving(3, 0).unschedulable("orders-1").unschedulable("orders-2").leaderless();
    world.edit(|world| {
        let report = world.observed.reports.get_mut("orders-0").unwrap();
        (report.leader, report.last_log_index) = (None, 4711);
    })
}

#[test]
fn a_lost_quorum_comes_before_why_pods_do_not_start_and_says_what_becomes_of_a_consent() {
    let gone = |world: World| {
        ["orders-1", "orders-2"].into_iter().fold(world, |world, name| {
            world.no_pod(name).edit(|world| drop(world.observed.claims.remove(name)))
        })
    };
    type Case<'a> = (&'a str, &'a dyn Fn() -> World, &'a [&'a str], &'a str);
    let cases: [Case<'_>; 5] = [
        (
            "nobody consents",
            &two_without_a_node,
            &[],
            "kubectl sqlite recover-quorum orders --survivor MEMBER",
        ),
        (
            "the consent names something else",
            &|| consenting(two_without_a_node(), "orders-0", 1),
            &[],
            "recovery.quorumLoss.consent is none of what can be had: {survivor: orders-0, index: 4711, term: 3}",
        ),
        (
            "others may come back",
            &|| consenting(two_without_a_node(), "orders-0", 4711),
            &[],
            "recovery.quorumLoss.consent is given, and orders-1, orders-2 may still come back",
        ),
        (
            "nobody can, and a read replica finds no node",
            &|| {
                let world = World::serving(3, 1).unschedulable("orders-replica-0").leaderless();
                consenting(gone(world), "orders-0", 4711)
                    .edit(|world| world.observed.reports.get_mut("orders-0").unwrap().last_log_index = 4711)
            },
            &["recover orders-0 at 4711"],
            "orders-0 goes on alone, as was agreed to",
        ),
        (
            "nobody answers",
            &|| consenting(two_without_a_node().dead("orders-0"), "orders-0", 4711),
            &[],
            "recovery.quorumLoss.consent is given, and no voter answers that could go on",
        ),
    ];
    for (what, world, wanted, told) in cases {
        let plan = expect(&world(), wanted);
        assert_eq!(obstacle(&plan), Some(ObstacleReason::QuorumLost), "{what}");
        let message = plan.obstacle.unwrap().message;
        for part in [told, "; besides, orders-", "finds no Kubernetes node: 0/3 nodes are available"] {
            assert!(message.contains(part), "{what}: {part} in {message}");
        }
        let lasts = expect(&world().condition("Ready", "False", "QuorumLost", 301), wanted);
        let lasts = lasts.obstacle.unwrap();
        assert_eq!(lasts.reason, ObstacleReason::QuorumLost, "{what}");
        assert_eq!(lasts.message, format!("no leader for more than five minutes: {message}"), "{what}");
    }
}

#[test]
fn members_that_only_the_operator_does_not_reach_are_no_lost_quorum() {
    let world = World::serving(3, 0).unschedulable("orders-2").leaderless();
    let unreached = world.edit(|world| world.observed.reports.clear());
    assert_eq!(obstacle(&unreached.plan()), Some(ObstacleReason::InsufficientCapacity));
}

#[test]
fn voters_that_answer_and_elect_nobody_are_told_of_a_consent_too() {
    let electing = || {
        consenting(World::serving(3, 0).leaderless(), "orders-0", 1000).edit(|world| {
            for report in world.observed.reports.values_mut() {
                report.leader = None;
            }
        })
    };
    let plan = expect(&electing(), &[]);
    assert_eq!((plan.activity, plan.obstacle), (None, None), "it may be a matter of a moment");
    let told = "recovery.quorumLoss.consent is not carried out while 3 of 3 voters answer";
    assert!(plan.consent.unwrap().starts_with(told));
    let lasts = expect(&electing().condition("Ready", "False", "NoLeader", 301), &[]);
    assert!(lasts.obstacle.unwrap().message.contains(told));
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
