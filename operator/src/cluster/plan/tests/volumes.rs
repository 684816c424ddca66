//! What claims say, and how volumes grow.

use super::*;

#[test]
fn growth_asks_the_claims_first_and_recreates_the_set_after() {
    let world = World::serving(3, 0).spec(|spec| spec.storage.size = "2Gi".into());
    let plan = expect(&world, &[]);
    assert_eq!(plan.claims.len(), 3);
    assert!(plan.claims.iter().all(|mark| mark.grows && mark.size == "2Gi"));
    assert_eq!(activity(&plan), Some(ActivityReason::Resizing));
    let asked = (0..3).fold(world, |world, i| {
        world.edit_claim(&format!("orders-{i}"), |claim| claim.requested_bytes = Some(2 << 30))
    });
    expect(&asked, &["recreate voter"]);
}

#[test]
fn volumes_grow_even_without_a_leader() {
    let world = World::serving(3, 0).leaderless().spec(|spec| spec.storage.size = "2Gi".into());
    assert_eq!(world.plan().claims.len(), 3);
}

#[test]
fn a_larger_volume_is_not_shrunk() {
    let world = World::serving(1, 0).edit_claim("orders-0", |claim| {
        (claim.requested_bytes, claim.requested) = (Some(4 << 30), Some("4Gi".into()));
    });
    let plan = expect(&world, &[]);
    assert!(plan.claims.is_empty());
}

#[test]
fn ownership_of_claims_follows_the_policy() {
    let world = World::serving(1, 0).spec(|spec| spec.storage.on_delete = RetentionPolicy::Delete);
    let plan = expect(&world, &[]);
    assert!(plan.claims[0].owned);
    let owned = World::serving(1, 0).edit_claim("orders-0", |claim| claim.owned = true).plan();
    assert!(!owned.claims[0].owned);
}

#[test]
fn the_raft_id_is_written_on_the_claim_and_stays_while_the_member_is_silent() {
    let world = World::serving(3, 0).edit_claim("orders-1", |claim| claim.node_id = None);
    let plan = expect(&world, &[]);
    assert_eq!(plan.claims[0].node_id, Some(NodeId(101)));
    let silent = World::serving(3, 0).dead("orders-1").plan();
    assert!(silent.claims.is_empty());
}
