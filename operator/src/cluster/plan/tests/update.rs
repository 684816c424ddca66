//! When a template is rolled out: versions, approval, windows, and a canary that is watched and taken back.

use super::*;
use crate::crd::{CanaryFailure, RolloutState, UpdateStrategy};

/// A cluster whose template proved itself, and whose spec asks for another image.
fn pending(edit: impl FnOnce(&mut crate::crd::SqliteClusterSpec)) -> World {
    World::serving(3, 0).stable().spec(|spec| {
        spec.image = Some("example/sqlited:1.1.0".into());
        spec.update.canary.soak_seconds = 60;
        edit(spec);
    })
}

fn state(plan: &Plan) -> RolloutState {
    plan.rollout.as_ref().unwrap().state
}

#[test]
fn a_template_is_stable_once_everyone_serves_with_it() {
    let world = World::serving(3, 1);
    let stable = |world: &World| world.plan().rollout.unwrap().stable_revision;
    assert_eq!(stable(&world), Some(world.desired.voter_revision.clone()));
    assert_eq!(state(&world.plan()), RolloutState::Complete);
    assert_eq!(stable(&world.dead("orders-1")), None);
}

#[test]
fn the_canary_is_watched_before_anyone_else_is_restarted() {
    let world = pending(|_| {}).told();
    expect(&world, &["restart orders-2"]);
    let world = world.told();
    let gone = world.edit(|_| {}).no_pod("orders-2");
    expect(&gone, &[]);
    let back = gone.pod("orders-2").current("orders-2").joined("orders-2", true).told();
    let plan = expect(&back, &[]);
    assert_eq!((state(&plan), activity(&plan)), (RolloutState::Canary, Some(ActivityReason::RollingUpdate)));
    let soaked = back.later(59);
    expect(&soaked, &[]);
    let passed = soaked.later(1).told();
    assert!(passed.observed.status.rollout.as_ref().unwrap().canary.as_ref().unwrap().passed);
    expect(&passed, &["restart orders-1"]);
    let world = passed.current("orders-1").current("orders-0").told();
    let rollout = world.observed.status.rollout.clone().unwrap();
    assert_eq!(rollout.state, RolloutState::Complete);
    assert_eq!((rollout.stable_revision, rollout.canary), (Some(world.desired.voter_revision.clone()), None));
}

#[test]
fn a_canary_that_cannot_start_is_taken_back_by_itself_and_not_tried_again() {
    let world = pending(|_| {}).told().current("orders-2").told();
    let former = world.observed.status.rollout.clone().unwrap().stable_revision.unwrap();
    let broken = world.stuck("orders-2", "ImagePullBackOff").edit_pod("orders-2", |pod| {
        pod.created = Some(crate::cluster::fixtures::now());
    });
    expect(&broken, &["serving orders-2 false"]);
    let failed = broken.later(20);
    let plan = failed.plan();
    assert_eq!((plan.revision.as_str(), state(&plan)), (former.as_str(), RolloutState::RolledBack));
    assert_eq!(obstacle(&plan), Some(ObstacleReason::CanaryFailed));
    let back = failed.told();
    expect(&back, &["serving orders-2 false", "renew orders-2"]);
    let healed = back.edit_pod("orders-2", |pod| pod.revision = Some(former.clone()));
    let healed = healed.edit_pod("orders-2", |pod| pod.stuck = None).joined("orders-2", true);
    let id = healed.id("orders-2");
    let healed = healed.edit(|w| {
        let report = crate::cluster::fixtures::report("orders-2", id.0).leads(&[]).get();
        w.observed.reports.insert("orders-2".into(), report);
    });
    let plan = expect(&healed, &[]);
    assert_eq!(obstacle(&plan), Some(ObstacleReason::CanaryFailed), "it is told of until the spec changes");
    assert_eq!(plan.activity, None);
    let reverted = healed.spec(|spec| spec.image = None);
    let plan = expect(&reverted, &[]);
    assert_eq!((obstacle(&plan), state(&plan)), (None, RolloutState::Complete));
    assert_eq!(plan.rollout.unwrap().failed_revision, None);
}

#[test]
fn a_canary_whose_program_ends_or_that_is_late_has_failed() {
    let world = || {
        let world = pending(|_| {}).told();
        world
            .current("orders-2")
            .edit_pod("orders-2", |pod| pod.created = Some(crate::cluster::fixtures::now()))
    };
    let fails = |world: World| obstacle(&world.plan()) == Some(ObstacleReason::CanaryFailed);
    assert!(!fails(world()));
    assert!(fails(world().edit_pod("orders-2", |pod| pod.restarts = 2)));
    let said = world().edit_pod("orders-2", |pod| {
        (pod.restarts, pod.last_words) = (2, Some("fatal: -extensions-path: no such file".into()));
    });
    let message = said.plan().rollout.unwrap().message.unwrap();
    assert_eq!(message, "the program in orders-2 ended by itself: fatal: -extensions-path: no such file");
    assert!(fails(world().told().edit_pod("orders-2", |pod| pod.restarts = 1)));
    assert!(!fails(world().dead("orders-2").later(239)));
    assert!(fails(world().dead("orders-2").later(240)));
    let homeless = world().dead("orders-2").later(240);
    assert!(!fails(homeless.edit_pod("orders-2", |pod| pod.unschedulable = Some("no room".into()))));
}

#[test]
fn a_failed_canary_can_be_left_as_it_is() {
    let world = pending(|spec| spec.update.canary.on_failure = CanaryFailure::Pause).told();
    let failed = world.current("orders-2").edit_pod("orders-2", |pod| pod.restarts = 2);
    let plan = expect(&failed, &[]);
    assert_eq!(plan.revision, failed.desired.voter_revision);
    assert_eq!((state(&plan), obstacle(&plan)), (RolloutState::Failed, Some(ObstacleReason::CanaryFailed)));
    expect(&failed.told(), &[]);
}

#[test]
fn a_supervised_update_waits_for_the_word_that_names_it() {
    let world = pending(|spec| spec.update.strategy = UpdateStrategy::Supervised).told();
    let plan = expect(&world, &[]);
    assert_eq!(plan.pending.as_ref().unwrap().reason, PendingReason::WaitingForApproval);
    assert_eq!((state(&plan), plan.activity, plan.obstacle), (RolloutState::WaitingForApproval, None, None));
    assert!(plan.pending.unwrap().message.contains(&world.desired.voter_revision));
    let other = world.edit(|world| world.desired.approved = Some("another".into()));
    expect(&other, &[]);
    let approved = other.edit(|world| world.desired.approved = Some(world.desired.voter_revision.clone()));
    expect(&approved.told(), &["restart orders-2"]);
}

#[test]
fn restarts_begin_in_a_window_and_are_finished_after_it() {
    // Worlds are seen at 08:00 UTC on a Friday.
    let world = |cron| pending(|spec| spec.update.maintenance_windows = vec![half_an_hour(cron)]).told();
    let plan = expect(&world("0 9 * * *"), &[]);
    let pending = plan.pending.unwrap();
    assert_eq!(pending.reason, PendingReason::WaitingForWindow);
    assert!(pending.message.ends_with("2027-01-15T09:00:00Z"), "{}", pending.message);
    let open = world("0 8 * * *");
    expect(&open, &["restart orders-2"]);
    let begun = open.told().later(3600);
    let begun = begun.current("orders-2").told().later(60).told();
    expect(&begun, &["restart orders-1"]);
}

#[test]
fn a_revert_waits_for_nothing() {
    let world = pending(|spec| spec.update.strategy = UpdateStrategy::Supervised).told();
    let begun =
        world.edit(|world| world.desired.approved = Some(world.desired.voter_revision.clone())).told();
    let begun = begun.current("orders-2").told();
    let reverted = begun.spec(|spec| spec.image = None).told();
    expect(&reverted, &["restart orders-2"]);
}

#[test]
fn versions_follow_each_other_step_by_step() {
    let to = |image: &str| {
        let image = image.to_owned();
        pending(move |spec| spec.image = Some(image)).told()
    };
    for image in
        ["example/sqlited:1.1.7", "example/sqlited:2.0.0", "example/sqlited:1.0.9", "example/sqlited:main"]
    {
        expect(&to(image), &["restart orders-2"]);
    }
    for image in ["example/sqlited:1.2.0", "example/sqlited:0.9.0", "example/sqlited:2.1.0"] {
        let plan = expect(&to(image), &[]);
        assert_eq!(
            (state(&plan), obstacle(&plan)),
            (RolloutState::Refused, Some(ObstacleReason::VersionSkew))
        );
    }
}

#[test]
fn a_canary_among_read_replicas_is_watched_as_well() {
    let world = World::serving(3, 2).stable().upgraded().told();
    expect(&world, &["restart orders-replica-1"]);
    let world = world.told().current("orders-replica-1").told();
    assert_eq!(state(&expect(&world, &[])), RolloutState::Canary);
    expect(&world.later(60).told(), &["restart orders-replica-0"]);
}

#[test]
fn a_newer_operator_is_told_of_and_changes_nothing() {
    let world = World::serving(3, 0).stable().edit(|world| world.desired.newer_image = Some("x:2".into()));
    let plan = expect(&world, &[]);
    assert_eq!(plan.pending.unwrap().reason, PendingReason::NewerOperator);
    assert_eq!(plan.activity, None);
}
