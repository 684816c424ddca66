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

/// A cluster whose volumes may grow, of which one is this full.
fn filling(used_percent: u64) -> World {
    World::serving(3, 0)
        .spec(|spec| {
            spec.storage.autogrow = serde_json::from_value(serde_json::json!({"maxSize": "1500Mi"})).unwrap();
        })
        .edit(|world| {
            for claim in world.observed.claims.values_mut() {
                claim.allocated = Some("1Gi".into());
            }
            world.observed.reports.get_mut("orders-1").unwrap().storage =
                Some(client::admin::VolumeUsage { capacity_bytes: 100, available_bytes: 100 - used_percent });
        })
}

#[test]
fn volumes_grow_by_themselves_up_to_their_limit() {
    assert!(filling(79).plan().claims.is_empty());
    let plan = filling(80).plan();
    assert_eq!((plan.volume_size.as_str(), plan.claims.len()), ("1280Mi", 3));
    assert!(plan.claims.iter().all(|mark| mark.size == "1280Mi" && mark.grows));
    let grown = |size: &str, allocated: &str| {
        let bytes = crate::cluster::validate::parse_quantity(size);
        filling(80).edit(|world| {
            for claim in world.observed.claims.values_mut() {
                (claim.requested, claim.requested_bytes) = (Some(size.into()), bytes);
                claim.allocated = Some(allocated.into());
            }
        })
    };
    let waits = grown("1280Mi", "1Gi").plan();
    assert!(waits.claims.is_empty(), "it has not grown yet");
    assert_eq!(steps(&waits), ["recreate voter"]);
    assert_eq!(grown("1280Mi", "1280Mi").plan().volume_size, "1500Mi");
    assert!(grown("1500Mi", "1500Mi").plan().claims.is_empty(), "no further");
}

#[test]
fn what_claims_say_does_not_wait_for_growth() {
    let owned = World::serving(1, 0).edit_claim("orders-0", |claim| claim.owned = true);
    let plan = owned.spec(|spec| spec.storage.size = "2Gi".into()).plan();
    let marks: Vec<_> = plan.claims.iter().map(|mark| (mark.owned, mark.grows, mark.size.as_str())).collect();
    assert_eq!(marks, [(false, false, "1Gi"), (false, true, "2Gi")]);
}
