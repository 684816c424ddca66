//! How a cluster begins with a backup: a situation, and what is done about it.

use super::*;
use crate::cluster::fixtures::World;
use crate::names::PodRole;
use serde_json::{Value, json};

fn status(value: Value) -> BootstrapRestoreStatus {
    serde_json::from_value(value).unwrap()
}

/// A cluster that is to begin with a backup of store `b`.
fn wanted(world: World) -> World {
    world.spec(|spec| {
        let bootstrap = json!({"restore": {"backupRef": {"name": "nightly"}}});
        spec.bootstrap = Some(serde_json::from_value(bootstrap).unwrap());
    })
}

fn found() -> BootstrapRestoreStatus {
    status(json!({
        "phase": "Pending", "store": {"s3": {"bucket": "b"}}, "clusterID": "old", "path": "p",
    }))
}

fn sees(world: World, source: Result<BootstrapRestoreStatus, &str>) -> World {
    world.edit(|world| {
        world.observed.bootstrap_restore.source = Some(source.map(Box::new).map_err(str::to_owned));
    })
}

/// One voter, initialised, of which it is written down where it begins.
fn initialised() -> World {
    let world = World::new(3, 0).recorded(BootstrapPhase::Initialised).set(PodRole::Voter, 3);
    let world = wanted(world.pod("orders-0").joined("orders-0", true).led_by("orders-0"));
    world.edit(|world| {
        world.observed.status.restore = Some(found());
    })
}

fn job(state: JobState) -> RestoreJob {
    RestoreJob {
        name: "bootstrap-cluster-uid".into(),
        state,
        progress_percent: 47,
        restored: None,
        message: (state == JobState::Failed).then(|| "a bit flipped".into()),
    }
}

fn knows(world: World, state: JobState) -> World {
    world.edit(|world| world.observed.bootstrap_restore.job = Some(job(state)))
}

fn of(world: &World) -> BootstrapPlan {
    plan(&world.desired, &world.observe())
}

/// Phase, what is asked for, and what is told.
fn told(world: &World) -> String {
    let plan = of(world);
    let phase = plan.status.as_ref().map_or("-".to_owned(), |status| format!("{:?}", status.phase));
    let start = plan.start.as_ref().map_or("-".to_owned(), |start| format!("{:?}", start.source));
    let activity = plan.activity.as_ref().map_or("-", |activity| activity.reason.as_str());
    let obstacle = plan.obstacle.as_ref().map_or("-", |obstacle| obstacle.reason.as_str());
    format!("{phase} {start} {activity} {obstacle}")
}

#[test]
fn the_way_of_a_beginning() {
    let new = || wanted(World::new(3, 0));
    for (what, world, wanted) in [
        ("not asked for", World::new(3, 0), "- - - -"),
        ("found", sees(new(), Ok(found())), "Pending - Restoring -"),
        ("not found", sees(new(), Err("no")), "- - Restoring -"),
        (
            "not found for long",
            sees(new(), Err("no")).condition("Accepted", "False", "RefNotFound", 400),
            "- - Restoring RefNotFound",
        ),
        ("a cluster that had begun", sees(wanted(World::serving(3, 0)), Ok(found())), "Inert - - -"),
        (
            "volumes that are taken over",
            sees(new().claim("orders-0", Some("c1"), Some(7)), Ok(found())),
            "Inert - - -",
        ),
        ("the leader is asked", initialised(), "Pending Other Restoring -"),
        ("nobody leads", initialised().leaderless(), "Pending - Restoring -"),
        ("under way", knows(initialised(), JobState::Running), "Pending - Restoring -"),
        ("done", knows(initialised(), JobState::Succeeded), "Succeeded - - -"),
        ("failed", knows(initialised(), JobState::Failed), "Failed - - RestoreFailed"),
    ] {
        assert_eq!(told(&world), wanted, "{what}");
    }
}

#[test]
fn what_is_over_stays_over() {
    for phase in ["Succeeded", "Inert"] {
        let world = wanted(World::serving(3, 0)).edit(|world| {
            world.observed.status.restore = Some(status(json!({"phase": phase})));
        });
        assert_eq!(told(&world), format!("{phase} - - -"));
        let plan = world.plan();
        assert!(plan.activity.is_none() && plan.obstacle.is_none() && plan.steps.is_empty(), "{plan:#?}");
    }
}

#[test]
fn nothing_starts_before_it_is_written_down_with_what() {
    let world = sees(wanted(World::new(3, 0)), Ok(found()));
    let plan = world.plan();
    assert!(plan.sizes.is_none() && plan.cluster_id.is_none());
    assert_eq!(plan.restore.status, Some(found()));
    let world = world.edit(|world| world.observed.status.restore = Some(found()));
    assert!(world.plan().sizes.is_some());
}

#[test]
fn the_leader_is_asked_for_exactly_that_backup_and_nothing_is_overwritten() {
    let start = of(&initialised()).start.unwrap();
    assert_eq!(start.name, "bootstrap-cluster-uid");
    assert_eq!(start.cluster_id.as_deref(), Some("old"));
    assert_eq!(start.target, RestoreTarget::Backup("p".into()));
    assert_eq!(start.confirm_cluster_id, None);
    let own = initialised().spec(|spec| {
        spec.backup = Some(serde_json::from_value(json!({"store": {"s3": {"bucket": "b"}}})).unwrap());
    });
    assert_eq!(of(&own).start.unwrap().source, RestoreSource::Own);
}

#[test]
fn an_import_goes_the_same_way() {
    let importing = |world: World| {
        world.spec(|spec| {
            let bootstrap = json!({"import": {"url": "https://old:4001/db/backup"}});
            spec.bootstrap = Some(serde_json::from_value(bootstrap).unwrap());
        })
    };
    let nothing = || status(json!({"phase": "Pending"}));
    let new = importing(World::new(3, 0));
    assert_eq!(told(&sees(new, Ok(nothing()))), "Pending - Restoring -");
    let begun = || {
        importing(initialised())
            .edit(|world| world.observed.status.restore = Some(status(json!({"phase": "Pending"}))))
    };
    assert_eq!(told(&begun()), "Pending Other Restoring -");
    let start = of(&begun()).start.unwrap();
    assert_eq!(
        (start.target, start.cluster_id, start.confirm_cluster_id),
        (RestoreTarget::Latest {}, None, None)
    );
    assert_eq!(told(&knows(begun(), JobState::Succeeded)), "Succeeded - - -");
    assert_eq!(told(&knows(begun(), JobState::Failed)), "Failed - - RestoreFailed");
}

#[test]
fn a_target_is_a_moment_a_backup_or_the_last() {
    let target = |value: Value| serde_json::from_value::<crate::crd::RestoreTarget>(value).unwrap();
    let time = "2026-01-01T00:00:00Z";
    for (wanted, path, expected) in [
        (None, Some("p"), RestoreTarget::Backup("p".into())),
        (None, None, RestoreTarget::Latest {}),
        (Some(target(json!({"latest": true}))), Some("p"), RestoreTarget::Latest {}),
        (Some(target(json!({"index": 7}))), None, RestoreTarget::Index(7)),
        (Some(target(json!({"time": time}))), Some("p"), RestoreTarget::Time(time.into())),
    ] {
        assert_eq!(wire_target(wanted.as_ref(), path), expected);
    }
}

#[test]
fn who_is_at_a_restore_knows_more_than_who_has_what_came_of_it() {
    let told = |state: &str, restored: Value| -> RestoreJob {
        let job = json!({"name": "n", "state": state, "progressPercent": 80, "restored": restored});
        serde_json::from_value(job).unwrap()
    };
    let restored = |installed: Option<u64>| {
        json!({
            "clusterId": "c", "epoch": 1, "backup": "b", "index": 3, "time": "2026-01-02T03:04:05Z", "replayed": 0,
            "sizeBytes": 1, "milliseconds": 1, "installedIndex": installed,
        })
    };
    let (failed, running) = (told("Failed", json!(null)), told("Running", json!(null)));
    let (by_mark, done) = (told("Succeeded", restored(None)), told("Succeeded", restored(Some(9))));
    for (jobs, wanted) in [
        (vec![], None),
        (vec![&failed, &by_mark], Some(&by_mark)),
        (vec![&running, &by_mark], Some(&running)),
        (vec![&done, &by_mark], Some(&done)),
        (vec![&done, &running], Some(&done)),
    ] {
        assert_eq!(furthest(jobs.iter().copied().cloned()).as_ref(), wanted, "{jobs:?}");
    }
}
