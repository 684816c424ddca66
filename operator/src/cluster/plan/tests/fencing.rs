//! Members that are kept from traffic and leadership.

use super::*;
use crate::crd::Fence;

fn fencing(world: World, members: &[&str]) -> World {
    let fences = members.iter().map(|member| Fence { member: (*member).into(), reason: None }).collect();
    world.spec(|spec| spec.fencing = fences)
}

#[test]
fn a_fenced_member_gets_no_traffic_and_does_not_lead() {
    let world = fencing(World::serving(3, 0), &["orders-0"]);
    let plan = expect(&world, &["serving orders-0 false", "transfer orders-0 orders-1"]);
    assert_eq!(activity(&plan), Some(ActivityReason::Fencing));
    let world = world.led_by("orders-1").edit_pod("orders-0", |pod| pod.serving = false);
    let plan = expect(&world, &[]);
    assert_eq!(plan.activity, None);
    expect(&fencing(world, &[]), &["serving orders-0 true"]);
}

#[test]
fn leadership_does_not_go_to_a_fenced_member() {
    let world = fencing(World::serving(5, 0).wants(3, 0).led_by("orders-4"), &["orders-0"]);
    let world = world.edit_pod("orders-0", |pod| pod.serving = false);
    expect(&world, &["transfer orders-4 orders-1"]);
}

#[test]
fn the_last_read_replica_stays_in_its_service() {
    let world = fencing(World::serving(3, 1), &["orders-replica-0"]);
    expect(&world, &[]);
}
