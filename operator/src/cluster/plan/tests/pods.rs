//! What is changed on pods without a restart.

use super::*;
use crate::cluster::fixtures::now;
use crate::cluster::observed::Resize;
use crate::crd::{RolloutState, SqliteClusterSpec, UpdateStrategy};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

fn requesting(world: World, cpu: &str) -> World {
    let cpu = Quantity(cpu.into());
    world.spec(|spec| drop(spec.resources.requests.insert("cpu".into(), cpu)))
}

/// As the pods are after they were made from the present spec.
fn made(mut world: World) -> World {
    let mark = crate::cluster::resources::resources_mark(&world.desired.spec.resources);
    for pod in world.observed.pods.values_mut() {
        pod.resources_mark.clone_from(&mark);
    }
    world
}

const TO_TWO: &str = r#"{"limits":{},"requests":{"cpu":"2"}}"#;

#[test]
fn resources_are_changed_in_place_one_pod_after_the_other() {
    let world = requesting(made(requesting(World::serving(3, 0).stable(), "1")), "2").told();
    let plan = expect(&world, &[&format!("resize orders-0 {TO_TWO}")]);
    assert_eq!(activity(&plan), Some(ActivityReason::Resizing));
    let mark = crate::cluster::resources::resources_mark(&world.desired.spec.resources);
    let world = world.edit_pod("orders-0", |pod| {
        (pod.resources_mark, pod.resize) = (mark, Resize::InProgress);
    });
    let plan = expect(&world, &[]);
    assert_eq!(activity(&plan), Some(ActivityReason::Resizing));
    let world = world.edit_pod("orders-0", |pod| pod.resize = Resize::None);
    expect(&world, &[&format!("resize orders-1 {TO_TWO}")]);
    expect(&made(world), &[]);
}

#[test]
fn what_cannot_be_changed_in_place_is_restarted() {
    let world = || requesting(made(requesting(World::serving(3, 0).stable(), "1")), "2").told();
    let refused = world().edit_pod("orders-2", |pod| pod.resize_refused = true);
    expect(&refused, &[&format!("resize orders-0 {TO_TWO}"), "restart orders-2"]);
    let full = made(world()).edit_pod("orders-2", |pod| pod.resize = Resize::Infeasible);
    expect(&full, &["restart orders-2"]);
    let quality = requesting(World::serving(3, 0).stable(), "1").told();
    expect(&quality, &["restart orders-2"]);
}

#[test]
fn labels_are_changed_on_all_pods_at_once() {
    let world = World::serving(3, 0).stable().spec(|spec| {
        spec.pod_template.metadata.labels.insert("team".into(), "a".into());
    });
    let plan = expect(&world, &["dress orders-0", "dress orders-1", "dress orders-2"]);
    let Step::DressPod { patch, mark, .. } = &plan.steps[0] else { panic!("{plan:#?}") };
    assert_eq!(*patch, serde_json::json!({"labels": {"team": "a"}, "annotations": {}}));
    let mark = mark.clone();
    let dressed = world.edit(|world| {
        for pod in world.observed.pods.values_mut() {
            pod.metadata_mark.clone_from(&mark);
        }
    });
    expect(&dressed, &[]);
}

#[test]
fn resources_that_wait_for_room_are_taken_back() {
    let world = requesting(made(requesting(World::serving(3, 0).stable(), "2")), "8").told();
    let mark = crate::cluster::resources::resources_mark(&world.desired.spec.resources);
    let waits =
        world.edit_pod("orders-1", |pod| (pod.resources_mark, pod.resize) = (mark, Resize::InProgress));
    let back = requesting(waits, "2").told();
    expect(&back, &[&format!("resize orders-1 {TO_TWO}")]);
}

#[test]
fn resources_that_a_node_will_never_have_are_taken_back_in_place() {
    let world = requesting(made(requesting(World::serving(3, 0).stable(), "2")), "8");
    let full = made(world).edit_pod("orders-1", |pod| pod.resize = Resize::Infeasible);
    let back = requesting(full, "2").told();
    expect(&back, &[&format!("resize orders-1 {TO_TWO}")]);
}

#[test]
fn room_is_waited_for_and_not_for_ever() {
    let deferred = |seconds: i64| {
        let world = requesting(made(requesting(World::serving(3, 0).stable(), "1")), "2").told();
        let mark = crate::cluster::resources::resources_mark(&world.desired.spec.resources);
        let since = now() - SignedDuration::from_secs(seconds);
        world.edit_pod("orders-1", |pod| {
            (pod.resources_mark, pod.resize) = (mark, Resize::Deferred(since));
        })
    };
    let plan = expect(&deferred(119), &[]);
    assert_eq!(activity(&plan), Some(ActivityReason::Resizing));
    let message = plan.activity.unwrap().message;
    assert!(message.starts_with("the Kubernetes node of orders-1 has no room at present"), "{message}");
    let others = format!("resize orders-0 {TO_TWO}");
    expect(&deferred(120), &[&others, "restart orders-1"]);
    // Whoever is on the way out holds up nobody.
    let goes = deferred(0).edit_pod("orders-1", |pod| pod.terminating = true);
    assert!(steps(&goes.plan()).contains(&others), "{:#?}", goes.plan());
}

#[test]
fn a_pod_that_finds_no_node_is_made_anew_with_the_resources_that_are_wanted_now() {
    let large = made(requesting(World::serving(3, 0).stable(), "8")).told().unschedulable("orders-2");
    assert_eq!(obstacle(&large.plan()), Some(ObstacleReason::InsufficientCapacity));
    let small = requesting(large, "2");
    assert!(!steps(&small.plan()).contains(&"renew orders-2".into()), "it would come back as it is");
    assert!(steps(&small.told().plan()).contains(&"renew orders-2".into()));
}

/// A cluster whose template proved itself, and whose members have to be restarted for other resources.
fn restarting(edit: impl FnOnce(&mut SqliteClusterSpec)) -> World {
    requesting(World::serving(3, 0).stable(), "1").spec(edit).told()
}

/// The member was made anew with the resources that are wanted.
fn remade(world: World, name: &str) -> World {
    let mark = crate::cluster::resources::resources_mark(&world.desired.spec.resources);
    world.edit_pod(name, |pod| (pod.resources_mark, pod.resize) = (mark, Resize::None)).told()
}

fn rollout(plan: &Plan) -> (RolloutState, String, i32) {
    let rollout = plan.rollout.as_ref().unwrap();
    (rollout.state, rollout.revision.clone().unwrap(), rollout.updated)
}

#[test]
fn restarts_for_resources_wait_for_the_word_that_names_them() {
    let supervised = || restarting(|spec| spec.update.strategy = UpdateStrategy::Supervised);
    let approved = |world: World, revision: &str| {
        let revision = revision.to_owned();
        world.edit(|world| world.desired.approved = Some(revision)).told()
    };
    let plan = expect(&supervised(), &[]);
    let template = supervised().desired.voter_revision.clone();
    let (state, name, updated) = rollout(&plan);
    assert_eq!((state, updated), (RolloutState::WaitingForApproval, 0));
    assert!(name.starts_with(&format!("{template}-")), "{name}");
    assert_eq!((&plan.activity, &plan.obstacle), (&None, &None));
    let pending = plan.pending.unwrap();
    assert_eq!(pending.reason, PendingReason::WaitingForApproval);
    assert!(pending.message.ends_with(&format!("sqlite-operator.io/approvedRevision={name}")), "{pending:?}");
    // What was said of the template, or of other resources, was not said of these.
    expect(&approved(supervised(), &template), &[]);
    expect(&approved(requesting(supervised(), "2"), &name), &[]);
    let world = approved(supervised(), &name);
    let plan = expect(&world, &["restart orders-2"]);
    assert_eq!((rollout(&plan).0, plan.pending), (RolloutState::Progressing, None));
    let world = remade(world, "orders-2");
    let plan = expect(&world, &["restart orders-1"]);
    assert_eq!(rollout(&plan), (RolloutState::Progressing, name, 1));
    let world = remade(remade(world, "orders-1"), "orders-0");
    assert_eq!(rollout(&expect(&world, &[])), (RolloutState::Complete, template, 3));
}

#[test]
fn restarts_for_resources_begin_in_a_window_and_are_finished_after_it() {
    // Worlds are seen at 08:00 UTC on a Friday.
    let world = |cron| restarting(|spec| spec.update.maintenance_windows = vec![half_an_hour(cron)]);
    let plan = expect(&world("0 9 * * *"), &[]);
    let pending = plan.pending.unwrap();
    assert_eq!(pending.reason, PendingReason::WaitingForWindow);
    assert!(pending.message.ends_with("2027-01-15T09:00:00Z"), "{}", pending.message);
    let open = world("0 8 * * *");
    expect(&open, &["restart orders-2"]);
    let begun = remade(open.told().later(3600), "orders-2");
    expect(&begun, &["restart orders-1"]);
    // While nobody can be restarted nothing has begun.
    let held_up = remade(world("0 8 * * *").behind("orders-1"), "orders-1");
    assert!(!held_up.plan().steps.iter().any(Step::is_disruptive));
    let later = held_up.told().later(3600).joined("orders-1", true);
    assert_eq!(expect(&later, &[]).pending.unwrap().reason, PendingReason::WaitingForWindow);
}

#[test]
fn what_needs_no_restart_waits_for_nobody() {
    let world = requesting(made(requesting(World::serving(3, 0).stable(), "1")), "2");
    let world = world.spec(|spec| spec.update.strategy = UpdateStrategy::Supervised).told();
    let resize = format!("resize orders-0 {TO_TWO}");
    let plan = expect(&world, &[&resize]);
    assert_eq!(plan.pending, None);
    let plan = expect(&world.edit_pod("orders-2", |pod| pod.resize_refused = true), &[&resize]);
    assert_eq!(rollout(&plan).2, 2);
    assert_eq!(plan.pending.unwrap().reason, PendingReason::WaitingForApproval);
}

#[test]
fn another_template_takes_other_resources_along() {
    let world = restarting(|spec| {
        spec.update.strategy = UpdateStrategy::Supervised;
        spec.image = Some("example/sqlited:1.1.0".into());
    });
    let plan = expect(&world, &[]);
    assert_eq!(rollout(&plan).1, world.desired.voter_revision, "one word is enough");
    let world = world.edit(|world| world.desired.approved = Some(world.desired.voter_revision.clone()));
    let world = world.told();
    expect(&world, &["restart orders-2"]);
    let world = remade(world.told().current("orders-2"), "orders-2").later(60).told();
    expect(&world, &["restart orders-1"]);
    let world = remade(remade(world.current("orders-1"), "orders-1").current("orders-0"), "orders-0");
    assert_eq!(rollout(&expect(&world, &[])).0, RolloutState::Complete);
}

#[test]
fn other_resources_beside_a_template_that_cannot_be_had_wait_as_well() {
    let refused = |strategy| {
        restarting(|spec| {
            spec.update.strategy = strategy;
            spec.image = Some("example/sqlited:2.1.0".into());
        })
    };
    let plan = expect(&refused(UpdateStrategy::Supervised), &[]);
    assert_eq!(
        (rollout(&plan).0, obstacle(&plan)),
        (RolloutState::Refused, Some(ObstacleReason::VersionSkew))
    );
    assert_eq!(plan.pending.unwrap().reason, PendingReason::WaitingForApproval);
    expect(&refused(UpdateStrategy::Automatic), &["restart orders-2"]);
}
