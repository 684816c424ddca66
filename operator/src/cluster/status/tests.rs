//! The contract table: a situation, and what kstatus, `kubectl wait` and people read.

use super::*;
use crate::cluster::fixtures::World;
use crate::cluster::observed::Foreign;
use crate::crd::BootstrapPhase;

/// What generic tools make of conditions, in the order in which they look.
fn kstatus(status: &SqliteClusterStatus, generation: i64) -> &'static str {
    let holds =
        |kind: &str, value: &str| status.conditions.iter().any(|c| c.type_ == kind && c.status == value);
    if status.observed_generation != Some(generation) || holds("Reconciling", "True") {
        "InProgress"
    } else if holds("Stalled", "True") {
        "Failed"
    } else if holds("Ready", "False") {
        "InProgress"
    } else {
        "Current"
    }
}

fn of(world: &World) -> SqliteClusterStatus {
    status(&world.desired, &world.observe(), &world.plan(), None)
}

/// Reconciling, Stalled, Ready and FaultTolerant as reasons (or `-`, or `!reason` for False), and kstatus.
fn row(world: &World) -> String {
    let status = of(world);
    let show =
        |kind: &str| {
            status.conditions.iter().find(|c| c.type_ == kind).map_or("-".to_owned(), |c| {
                format!("{}{}", if c.status == "True" { "" } else { "!" }, c.reason)
            })
        };
    let kinds = ["Reconciling", "Stalled", "Ready", "Available", "FaultTolerant"].map(show);
    format!("{} {}", kinds.join(" "), kstatus(&status, 1))
}

#[test]
fn the_contract_table() {
    let foreign = |world: World| {
        world.edit(|world| {
            world.observed.foreign = vec![Foreign { object: "Service orders-rw".into(), leftover: false }];
        })
    };
    let no_quorum = || {
        World::serving(3, 0).dead("orders-0").dead("orders-1").leaderless().edit(|world| {
            world.observed.reports.get_mut("orders-2").unwrap().leader = None;
        })
    };
    for (what, world, wanted) in [
        ("created", World::new(3, 0), "Bootstrapping - !Bootstrapping !NoLeader !NoLeader InProgress"),
        ("serving", World::serving(3, 0), "- - Serving Serving QuorumSlack Current"),
        ("single", World::serving(1, 0), "- - Serving Serving !TooFewVoters Current"),
        (
            "rolling",
            World::serving(3, 0).upgraded(),
            "RollingUpdate - Serving Serving QuorumSlack InProgress",
        ),
        ("scaling", World::serving(3, 0).wants(5, 0), "Scaling - Serving Serving QuorumSlack InProgress"),
        ("one down", World::serving(3, 0).dead("orders-2"), "- - Serving Serving !VotersUnhealthy Current"),
        ("no quorum", no_quorum(), "- - !QuorumLost !NoLeader !NoLeader InProgress"),
        (
            "no quorum for long",
            no_quorum().condition("Ready", "False", "QuorumLost", 400),
            "- QuorumLost !QuorumLost !NoLeader !NoLeader Failed",
        ),
        ("electing", World::serving(3, 0).leaderless(), "- - !NoLeader !NoLeader !NoLeader InProgress"),
        (
            "stuck rollout",
            World::serving(3, 0).upgraded().current("orders-2").stuck("orders-2", "ImagePullBackOff"),
            "- MemberStuck Serving Serving !VotersUnhealthy Failed",
        ),
        ("name taken", foreign(World::new(3, 0)), "- NameConflict !NameConflict !NoLeader !NoLeader Failed"),
    ] {
        assert_eq!(row(&world), wanted, "{what}");
    }
}

#[test]
fn the_leader_that_cannot_be_asked_is_known_by_its_followers() {
    let world = World::serving(3, 0).edit(|world| {
        world.observed.reports.remove("orders-0");
    });
    assert!(row(&world).contains("- - Serving Serving"), "{}", row(&world));
}

#[test]
fn a_paused_cluster_keeps_what_was_known_and_follows_the_generation() {
    let world =
        World::serving(3, 0).condition("Ready", "True", "Serving", 50).spec(|spec| spec.paused = true);
    let status = of(&world);
    assert_eq!(kstatus(&status, 1), "Current");
    let kinds: Vec<_> = status.conditions.iter().map(|c| (c.type_.as_str(), c.observed_generation)).collect();
    assert_eq!(kinds, [("Ready", Some(1)), ("Paused", Some(1))]);
}

#[test]
fn a_status_at_rest_does_not_move() {
    let mut world = World::serving(3, 2);
    world.observed.status = of(&world);
    let later = world.observed.now + jiff::SignedDuration::from_secs(100);
    let world = world.edit(|world| world.observed.now = later);
    assert_eq!(of(&world), world.observed.status);
}

#[test]
fn a_transition_is_dated_when_the_status_flips_and_only_then() {
    let world = World::serving(3, 0).condition("Ready", "True", "Serving", 500);
    let ready =
        |status: &SqliteClusterStatus| status.conditions.iter().find(|c| c.type_ == "Ready").unwrap().clone();
    let since = ready(&world.observed.status).last_transition_time;
    assert_eq!(ready(&of(&world)).last_transition_time, since);
    assert_ne!(ready(&of(&world.leaderless())).last_transition_time, since);
}

#[test]
fn numbers_for_columns_and_for_the_scale_subresource() {
    let status = of(&World::serving(3, 2).dead("orders-1"));
    assert_eq!((status.voters, status.ready_voters, status.voters_ready.as_deref()), (3, 2, Some("2/3")));
    assert_eq!((status.read_replicas, status.ready_replicas), (2, 2));
    assert_eq!(
        status.selector.as_deref(),
        Some("sqlite-operator.io/cluster=orders,sqlite-operator.io/role=read-replica")
    );
    assert_eq!(status.leader.unwrap().member, "orders-0");
    let quorum = status.quorum.unwrap();
    assert_eq!((quorum.size, quorum.healthy_voters, quorum.tolerable_failures), (2, 2, 0));
    let lag: Vec<_> = status.members.iter().map(|member| member.lag).collect();
    assert_eq!(lag[1], Some(Lag::Unheard));
    assert_eq!(status.bootstrap.unwrap().phase, BootstrapPhase::Complete);
}

#[test]
fn a_rejected_growth_is_told() {
    let world = World::serving(3, 0);
    let status = status(&world.desired, &world.observe(), &world.plan(), Some("class cannot grow"));
    let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert_eq!((stalled.reason.as_str(), stalled.message.as_str()), ("ResizeRejected", "class cannot grow"));
}
