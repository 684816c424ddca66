//! What is changed on pods without a restart.

use super::*;
use crate::cluster::observed::Resize;
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
