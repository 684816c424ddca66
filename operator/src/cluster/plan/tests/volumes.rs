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

/// Scaling down left a volume, and a Kubernetes node is lost with another one.
fn filling_beside_unmounted() -> World {
    let left = |claim: &mut crate::cluster::observed::ClaimView| {
        (claim.requested, claim.requested_bytes) = (Some("512Mi".into()), Some(512 << 20));
        claim.allocated = Some("512Mi".into());
    };
    let world = filling(80).spec(|spec| spec.storage.on_scale_down = RetentionPolicy::Retain);
    let world = world.claim("orders-4", Some(CLUSTER_ID), None).edit_claim("orders-4", left).lost("orders-2");
    world.edit_claim("orders-2", |claim| claim.allocated = Some("512Mi".into()))
}

#[test]
fn volumes_that_nobody_mounts_hold_up_no_growth_and_do_not_grow() {
    let plan = filling_beside_unmounted().plan();
    assert_eq!((plan.volume_size.as_str(), plan.volume_allocated.as_deref()), ("1280Mi", Some("1Gi")));
    let marked: Vec<_> = plan.claims.iter().map(|mark| mark.member.as_str()).collect();
    assert_eq!(marked, ["orders-0", "orders-1", "orders-2"], "a lost one grows when it is mounted again");
    let asked = (0..3).fold(filling_beside_unmounted(), |world, i| {
        world.edit_claim(&format!("orders-{i}"), |claim| {
            (claim.requested, claim.requested_bytes) = (Some("1280Mi".into()), Some(1280 << 20));
        })
    });
    assert!(steps(&asked.plan()).contains(&"recreate voter".into()), "{:#?}", asked.plan());
    // It is used again: it grows before a pod mounts it.
    let marked: Vec<_> = asked
        .wants(5, 0)
        .plan()
        .claims
        .into_iter()
        .map(|mark| (mark.member, mark.size, mark.grows))
        .collect();
    assert_eq!(marked, [("orders-4".to_owned(), "1280Mi".to_owned(), true)]);
}

#[test]
fn a_volume_whose_member_answers_is_waited_for_however_long_it_is_not_ready() {
    let long_ago = crate::cluster::fixtures::now() - jiff::SignedDuration::from_secs(1000);
    let world =
        filling(80).edit_pod("orders-1", |pod| (pod.ready, pod.not_ready_since) = (false, Some(long_ago)));
    let world = world.edit(|world| {
        for claim in world.observed.claims.values_mut() {
            (claim.requested, claim.requested_bytes) = (Some("1280Mi".into()), Some(1280 << 20));
        }
    });
    let grown =
        |world: World, name: &str| world.edit_claim(name, |claim| claim.allocated = Some("1280Mi".into()));
    let world = grown(grown(world, "orders-0"), "orders-2");
    assert_eq!(world.plan().volume_size, "1280Mi");
    assert_eq!(grown(world, "orders-1").plan().volume_size, "1500Mi");
}
