//! The contract table: a situation, and what kstatus, `kubectl wait` and people read.

use super::*;
use crate::cluster::fixtures::{World, now};
use crate::cluster::observed::Foreign;
use crate::cluster::plan::{Obstacle, ObstacleReason};
use crate::crd::{BootstrapPhase, SkippedEntry};
use crate::error::RejectionReason;
use crate::names::PodRole;
use jiff::SignedDuration;
use serde_json::Value;

/// What kstatus (cli-utils) computes for a custom resource: the generation that was observed, if the object tells one;
/// then the first condition, in the order of the list, that is Reconciling or Stalled and true; then Ready; and without
/// any of them the object counts as current.
fn kstatus(status: &Value, generation: i64) -> &'static str {
    if status["observedGeneration"].as_i64().is_some_and(|observed| observed != generation) {
        return "InProgress";
    }
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    for condition in &conditions {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Reconciling"), Some("True")) => return "InProgress",
            (Some("Stalled"), Some("True")) => return "Failed",
            _ => {}
        }
    }
    match conditions.iter().find(|condition| condition["type"] == "Ready").map(|ready| &ready["status"]) {
        Some(status) if status != "True" => "InProgress",
        _ => "Current",
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
    format!("{} {}", kinds.join(" "), kstatus(&json!(status), 1))
}

fn no_quorum() -> World {
    World::serving(3, 0).dead("orders-0").dead("orders-1").leaderless().edit(|world| {
        world.observed.reports.get_mut("orders-2").unwrap().leader = None;
    })
}

#[test]
fn the_contract_table() {
    let foreign = |world: World| {
        world.edit(|world| {
            world.observed.foreign = vec![Foreign { object: "Service orders-rw".into(), leftover: false }];
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
        (
            "no quorum, and pods find no node",
            no_quorum().unschedulable("orders-0").unschedulable("orders-1"),
            "- QuorumLost !QuorumLost !NoLeader !NoLeader Failed",
        ),
        (
            "no member answers, and pods find no node",
            no_quorum().unschedulable("orders-0").unschedulable("orders-1").dead("orders-2"),
            "- QuorumLost !QuorumLost !NoLeader !NoLeader Failed",
        ),
        (
            "no leader, and a pod finds no node",
            World::serving(5, 0).unschedulable("orders-4").leaderless(),
            "- InsufficientCapacity !NoLeader !NoLeader !NoLeader Failed",
        ),
        (
            "an entry ends every member",
            World::all_held_up(),
            "- FatalEntry !FatalEntry !FatalEntry !FatalEntry Failed",
        ),
        (
            "it is passed over",
            World::all_held_up()
                .spec(|spec| spec.recovery.skip_entry = Some(SkippedEntry { index: 900, term: 2 })),
            "SkippingEntry - !FatalEntry !FatalEntry !FatalEntry InProgress",
        ),
        (
            "an entry ended the leader alone",
            World::serving(3, 0).held_up("orders-0", 900),
            "- - !FatalEntry !FatalEntry !FatalEntry InProgress",
        ),
        (
            "an entry ended a follower alone",
            World::serving(3, 0).held_up("orders-2", 900),
            "- - Serving Serving QuorumSlack Current",
        ),
        (
            "an entry ends every member that is left, and they are too few",
            World::all_held_up().dead("orders-0").dead("orders-1").leaderless(),
            "- - !QuorumLost !NoLeader !NoLeader InProgress",
        ),
        ("electing", World::serving(3, 0).leaderless(), "- - !NoLeader !NoLeader !NoLeader InProgress"),
        (
            "stuck rollout",
            World::serving(3, 0).upgraded().current("orders-2").stuck("orders-2", "ImagePullBackOff"),
            "- MemberStuck Serving Serving !VotersUnhealthy Failed",
        ),
        ("name taken", foreign(World::new(3, 0)), "- NameConflict !NameConflict !NoLeader !NoLeader Failed"),
        ("waiting for a window", closed(), "- - Serving Serving QuorumSlack Current"),
        (
            "the window opens",
            closed().later(19 * 3_600),
            "RollingUpdate - Serving Serving QuorumSlack InProgress",
        ),
        (
            "volumes grow",
            World::serving(3, 0).spec(|spec| spec.storage.size = "2Gi".into()),
            "Resizing - Serving Serving QuorumSlack InProgress",
        ),
        ("resources change", resized(), "Resizing - Serving Serving QuorumSlack InProgress"),
        (
            "restoring in place",
            World::serving(3, 0).edit(|world| world.observed.restores.extend([("back".to_owned(), 40)])),
            "Restoring - !Restoring Serving QuorumSlack InProgress",
        ),
        ("its backup is not there", unfound(), "Restoring - !Restoring !NoLeader !NoLeader InProgress"),
        (
            "its backup is not there for long",
            unfound().condition("Accepted", "False", "RefNotFound", 400),
            "- RefNotFound !RefNotFound !NoLeader !NoLeader Failed",
        ),
        ("a Secret is not there", unmounted(), "AwaitingSecrets - Serving Serving QuorumSlack InProgress"),
        (
            "a Secret is not there for four minutes",
            unmounted().condition("Accepted", "False", "RefNotFound", 240),
            "AwaitingSecrets - Serving Serving QuorumSlack InProgress",
        ),
        (
            "a Secret is not there for long",
            unmounted().condition("Accepted", "False", "RefNotFound", 400),
            "- RefNotFound Serving Serving QuorumSlack Failed",
        ),
        (
            "a Secret is not there, and nobody acts",
            unmounted()
                .condition("Ready", "True", "Serving", 50)
                .condition("Accepted", "False", "RefNotFound", 400)
                .spec(|spec| spec.paused = true),
            "- - Serving Serving QuorumSlack Current",
        ),
        (
            "paused",
            World::serving(3, 0).condition("Ready", "True", "Serving", 50).spec(|spec| spec.paused = true),
            "- - Serving Serving QuorumSlack Current",
        ),
        (
            "created while paused",
            World::new(3, 0).spec(|spec| spec.paused = true),
            "- - !Bootstrapping !NoLeader !NoLeader InProgress",
        ),
        (
            "the spec cannot be had",
            refused(World::serving(3, 0)),
            "- InvalidSpec Serving Serving QuorumSlack Failed",
        ),
        (
            "the spec cannot be had, and something is under way",
            refused(World::serving(3, 0).upgraded()),
            "- InvalidSpec Serving Serving QuorumSlack Failed",
        ),
        (
            "the spec cannot be had, and the quorum is lost",
            refused(no_quorum().condition("Ready", "False", "QuorumLost", 400)),
            "- InvalidSpec !QuorumLost !NoLeader !NoLeader Failed",
        ),
        (
            "the spec cannot be had, and nobody acts",
            refused(
                World::serving(3, 0)
                    .condition("Ready", "True", "Serving", 50)
                    .spec(|spec| spec.paused = true),
            ),
            "- InvalidSpec Serving Serving QuorumSlack Failed",
        ),
        (
            "the spec can be had again, and nobody acts",
            World::serving(3, 0)
                .condition("Stalled", "True", "InvalidSpec", 50)
                .spec(|spec| spec.paused = true),
            "- - Serving Serving QuorumSlack Current",
        ),
        ("waiting for approval", supervised(), "- - Serving Serving QuorumSlack Current"),
        ("canary failed, rolled back", rolled_back(), "- CanaryFailed Serving Serving QuorumSlack Failed"),
        ("canary failed, left", left_failed(), "- CanaryFailed Serving Serving QuorumSlack Failed"),
        (
            "falling asleep",
            World::serving(3, 0).spec(|spec| spec.hibernated = true),
            "Hibernating - !Hibernated !Hibernated !Hibernated InProgress",
        ),
        ("hibernated", hibernated(), "- - Hibernated !Hibernated !Hibernated Current"),
        (
            "a stand-in that stays",
            World::serving(3, 0)
                .set(PodRole::Voter, 4)
                .pod("orders-3")
                .joined("orders-3", true)
                .dead("orders-1")
                .removed("orders-1"),
            "- - Serving Serving QuorumSlack Current",
        ),
        (
            "a member of another cluster",
            World::serving(3, 0).edit(|world| {
                world.observed.claims.get_mut("orders-2").unwrap().cluster_id = Some("other".into());
            }),
            "- ClusterIDConflict Serving Serving QuorumSlack Failed",
        ),
    ] {
        assert_eq!(row(&world), wanted, "{what}");
    }
}

/// Its template proved itself, and another one waits for a human.
fn supervised() -> World {
    World::serving(3, 0).stable().upgraded().spec(|spec| {
        spec.update.strategy = crate::crd::UpdateStrategy::Supervised;
    })
}

/// Its template proved itself, and another one waits for Saturday, three in the morning; it is Friday, eight.
fn closed() -> World {
    World::serving(3, 0).stable().upgraded().spec(|spec| {
        spec.update.maintenance_windows = vec![crate::crd::MaintenanceWindow {
            cron: "0 3 * * 6".into(),
            duration_minutes: 60,
            time_zone: "UTC".into(),
        }];
    })
}

/// Other compute resources are wanted, of the same quality-of-service class.
fn resized() -> World {
    let world = World::serving(3, 0).spec(|spec| {
        spec.resources = serde_json::from_value(json!({"requests": {"cpu": "100m"}})).unwrap();
    });
    ["orders-0", "orders-1", "orders-2"].into_iter().fold(world, |world, name| {
        world.edit_pod(name, |pod| pod.resources_mark = Some(r#"{"requests":{"cpu":"50m"}}"#.into()))
    })
}

/// It is to begin with a SqliteBackup that is not there.
fn unfound() -> World {
    let world = World::new(3, 0).spec(|spec| {
        let bootstrap = json!({"restore": {"backupRef": {"name": "nightly"}}});
        spec.bootstrap = Some(serde_json::from_value(bootstrap).unwrap());
    });
    world.edit(|world| world.observed.bootstrap_restore.source = Some(Err("no SqliteBackup nightly".into())))
}

/// Its object asks for what cannot be, and it is kept by the spec that was accepted last.
fn refused(world: World) -> World {
    world.edit(|world| world.desired.refused = Some("spec.fencing names users-0, which is no member".into()))
}

/// A cluster of which users' file is not there.
fn unmounted() -> World {
    World::serving(3, 0)
        .edit(|world| world.observed.missing_secret = Some("Secret people is not there".into()))
}

#[test]
fn a_secret_that_is_not_there_is_told_by_name() {
    let told = |world: &World, kind: &str| {
        let found = of(world).conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        format!("{} {} {}", found.status, found.reason, found.message)
    };
    assert_eq!(told(&unmounted(), "Accepted"), "False RefNotFound Secret people is not there");
    assert_eq!(told(&unmounted(), "Reconciling"), "True AwaitingSecrets Secret people is not there");
    let long = unmounted().condition("Accepted", "False", "RefNotFound", 300);
    assert_eq!(told(&long, "Stalled"), "True RefNotFound Secret people is not there");
}

/// The canary of another template failed and has the former one again.
fn rolled_back() -> World {
    let world = World::serving(3, 0).stable().upgraded();
    world.edit(|world| {
        let rollout = world.observed.status.rollout.as_mut().unwrap();
        rollout.revision = Some(world.desired.voter_revision.clone());
        rollout.failed_revision = rollout.revision.clone();
    })
}

fn left_failed() -> World {
    rolled_back().spec(|spec| spec.update.canary.on_failure = crate::crd::CanaryFailure::Pause)
}

fn hibernated() -> World {
    let asleep = World::serving(3, 0).spec(|spec| spec.hibernated = true).set(PodRole::Voter, 0);
    ["orders-0", "orders-1", "orders-2"].into_iter().fold(asleep, World::no_pod)
}

#[test]
fn who_was_a_member_is_known_until_it_wakes() {
    let awake = World::serving(3, 0);
    let told = |world: &World| {
        let observed = world.observe();
        status(&world.desired, &observed, &world.plan(), None).members
    };
    let names = |members: &[MemberStatus]| members.iter().map(|m| m.name.clone()).collect::<Vec<_>>();
    let known = told(&awake);
    assert_eq!(names(&known).len(), 3);
    // One pod after the other ends; the last one is there for a moment after its program.
    let mut asleep = awake.spec(|spec| spec.hibernated = true).set(PodRole::Voter, 0);
    asleep.observed.status.members = known.clone();
    let going = asleep
        .no_pod("orders-2")
        .no_pod("orders-1")
        .leaderless()
        .edit(|world| world.observed.reports.clear());
    assert_eq!(names(&told(&going)), names(&known));
    assert_eq!(names(&told(&going.no_pod("orders-0"))), names(&known));
}

#[test]
fn before_the_operator_saw_it() {
    let fresh = crate::crd::definitions().remove(0);
    let schema = json!(fresh)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    assert_eq!(kstatus(&schema["properties"]["status"]["default"], 1), "InProgress", "just created");
    assert_eq!(kstatus(&json!({"observedGeneration": 1}), 2), "InProgress", "edited and not seen yet");
    let refused = conditions::refused(&[], Some(1), "voters is 2", now());
    assert_eq!(kstatus(&json!({"observedGeneration": 1, "conditions": refused}), 1), "Failed", "invalid");
}

/// Some tools look at each condition's generation and not at the status'.
#[test]
fn every_condition_tells_its_generation_and_none_is_unknown() {
    for world in [World::new(3, 0), World::serving(3, 0), supervised(), rolled_back(), hibernated()] {
        for condition in of(&world).conditions {
            assert_eq!(condition.observed_generation, Some(1), "{condition:?}");
            assert!(matches!(condition.status.as_str(), "True" | "False"), "{condition:?}");
            assert!(!condition.message.is_empty(), "{condition:?}");
        }
    }
}

#[test]
fn what_waits_is_told_without_a_fault() {
    let pending = |world: &World| {
        let conditions = of(world).conditions;
        conditions.into_iter().find(|c| c.type_ == "UpdatePending").map(|c| c.reason)
    };
    assert_eq!(pending(&supervised()).as_deref(), Some("WaitingForApproval"));
    assert_eq!(pending(&World::serving(3, 0)), None);
}

#[test]
fn volumes_that_fill_or_grow_are_told_of() {
    let healthy = |world: &World| {
        let conditions = of(world).conditions;
        let found = conditions.into_iter().find(|c| c.type_ == "StorageHealthy").unwrap();
        format!("{} {}", found.status, found.reason)
    };
    let used = |percent: u64| {
        World::serving(3, 0).edit(|world| {
            world.observed.reports.get_mut("orders-1").unwrap().storage =
                Some(client::admin::VolumeUsage { capacity_bytes: 100, available_bytes: 100 - percent });
        })
    };
    assert_eq!(healthy(&used(79)), "True Roomy");
    assert_eq!(healthy(&used(80)), "False NearFull");
    assert_eq!(of(&used(99)).members[1].volume, Some(crate::crd::VolumeBucket::Full));
    let growing = World::serving(3, 0)
        .edit_claim("orders-0", |claim| claim.allocated = Some("1Gi".into()))
        .spec(|spec| spec.storage.size = "2Gi".into());
    assert_eq!(healthy(&growing), "False ResizePending");
    let small = |claim: &mut crate::cluster::observed::ClaimView| claim.allocated = Some("512Mi".into());
    let left = World::serving(3, 0).claim("orders-3", Some("c1"), Some(103)).edit_claim("orders-3", small);
    assert_eq!(healthy(&left), "True Roomy", "nobody mounts it");
    let lost = World::serving(3, 0).lost("orders-1").edit_claim("orders-1", small);
    assert_eq!(healthy(&lost), "True Roomy", "nobody mounts it at present");
    let gone = World::serving(3, 0).edit_claim("orders-1", small).no_pod("orders-1");
    assert_eq!(healthy(&gone), "False ResizePending", "it is being restarted");
    let at_max = used(80).spec(|spec| {
        spec.storage.autogrow = serde_json::from_value(json!({"maxSize": "1Gi"})).unwrap();
    });
    assert_eq!(healthy(&at_max), "False AutogrowAtMax");
}

#[test]
fn databases_that_differ_are_told_of() {
    use client::admin::{Consistency, ConsistencyState as S};
    for (found, wanted) in [
        ([None, None, None], "True NotCompared"),
        ([Some(S::Unknown), None, None], "True NotCompared"),
        ([Some(S::Consistent), Some(S::Consistent), Some(S::Unknown)], "True ChecksumsAgree"),
        ([Some(S::Consistent), Some(S::Damaged), Some(S::Consistent)], "False PageDamaged"),
        ([Some(S::OthersDiffer), Some(S::Minority), Some(S::OthersDiffer)], "False StateDiffers"),
        ([Some(S::OthersDiffer), Some(S::OthersDiffer), None], "False StateDiffers"),
        ([Some(S::Divided), Some(S::Damaged), Some(S::Divided)], "False Divided"),
    ] {
        let world = World::serving(3, 0).edit(|world| {
            for (report, state) in world.observed.reports.values_mut().zip(found) {
                report.consistency = state.map(|state| Consistency { state, index: Some(7), message: None });
            }
        });
        let told = of(&world).conditions.into_iter().find(|c| c.type_ == "Consistent").unwrap();
        assert_eq!(format!("{} {}", told.status, told.reason), wanted, "{found:?}");
    }
    for (voters, then) in [(3, "the database is replaced"), (1, "restore a backup")] {
        let world = World::serving(voters, 0).edit(|world| {
            for (i, report) in world.observed.reports.values_mut().enumerate() {
                let state = if i == 0 { S::Damaged } else { S::Consistent };
                report.consistency = Some(Consistency { state, index: Some(7), message: None });
            }
        });
        let told = of(&world).conditions.into_iter().find(|c| c.type_ == "Consistent").unwrap();
        assert!(told.message.ends_with(then), "{}", told.message);
    }
}

#[test]
fn a_member_that_cannot_be_compared_does_not_count_as_equal() {
    use client::admin::{Consistency, ConsistencyState as S};
    let world = World::serving(3, 0).edit(|world| {
        for (report, unknown) in world.observed.reports.values_mut().zip([false, true, false]) {
            let state = if unknown { S::Unknown } else { S::Consistent };
            let message = unknown.then(|| "not all of its pages could be read".to_owned());
            report.consistency = Some(Consistency { state, index: None, message });
        }
    });
    let told = of(&world).conditions.into_iter().find(|c| c.type_ == "Consistent").unwrap();
    assert_eq!((told.status.as_str(), told.reason.as_str()), ("Unknown", "ChecksumUnknown"));
    assert!(told.message.contains("orders-1"), "{}", told.message);
}

#[test]
fn each_member_tells_how_its_database_compares_and_not_up_to_where() {
    use client::admin::{Consistency, ConsistencyState as S};
    let compared = |states: [S; 3], index: u64| {
        World::serving(3, 0).edit(|world| {
            for (report, state) in world.observed.reports.values_mut().zip(states) {
                report.consistency = Some(Consistency { state, index: Some(index), message: None });
            }
        })
    };
    let told = |world: &World| of(world).members.iter().map(|member| member.checksum).collect::<Vec<_>>();
    use ChecksumState as C;
    assert_eq!(told(&World::serving(3, 0)), [None; 3]);
    assert_eq!(told(&compared([S::Consistent, S::Consistent, S::Unknown], 7))[1..], [Some(C::Agrees), None]);
    let differ = told(&compared([S::OthersDiffer, S::Minority, S::Damaged], 7));
    assert_eq!(differ, [Some(C::OthersDiffer), Some(C::Differs), Some(C::Damaged)]);
    // Comparing goes on, and the status stays.
    assert_eq!(of(&compared([S::Consistent; 3], 7)), of(&compared([S::Consistent; 3], 4711)));
}

#[test]
fn what_a_lost_quorum_costs_is_offered() {
    let world = World::serving(3, 0).dead("orders-0").dead("orders-1").leaderless().edit(|world| {
        let report = world.observed.reports.get_mut("orders-2").unwrap();
        (report.leader, report.last_log_index) = (None, 4711);
    });
    let points = of(&world).quorum.unwrap().loss_points;
    assert_eq!(points.len(), 1);
    assert_eq!((points[0].survivor.as_str(), points[0].index, points[0].term), ("orders-2", 4711, 3));
    assert!(of(&World::serving(3, 0)).quorum.unwrap().loss_points.is_empty());
    // Votes have raised the term since; an older member does not tell whether.
    for (told, term) in [(Some(2), 2), (None, 3)] {
        let mut world = World::serving(3, 0).dead("orders-0").dead("orders-1").leaderless();
        world.observed.reports.get_mut("orders-2").unwrap().last_log_term = told;
        assert_eq!(of(&world).quorum.unwrap().loss_points[0].term, term, "{told:?}");
    }
}

#[test]
fn volumes_that_removed_members_left_are_told() {
    let left = || World::serving(3, 1).claim("orders-3", Some("c1"), Some(103));
    let told = |world: &World| of(world).orphaned_volumes.join(" ");
    let asleep = |world: World| {
        let world = world.spec(|spec| spec.hibernated = true).set(PodRole::Voter, 0);
        let pods = ["orders-0", "orders-1", "orders-2", "orders-replica-0"];
        pods.into_iter().fold(world, World::no_pod).leaderless()
    };
    let slept = |mut world: World| {
        world.observed.status = of(&world);
        asleep(world)
    };
    for (what, world, wanted) in [
        ("none", World::serving(3, 1), ""),
        ("a voter's", left(), "data-orders-3"),
        (
            "a voter's and a read replica's",
            left().claim("orders-replica-1", Some("c1"), Some(201)),
            "data-orders-3 data-orders-replica-1",
        ),
        ("one that is on its way out", left().edit_claim("orders-3", |claim| claim.terminating = true), ""),
        ("one whose pod is there still", left().pod("orders-3"), ""),
        ("a dead member's", World::serving(3, 0).no_pod("orders-2"), ""),
        ("those of members that are to go", World::serving(5, 0).wants(3, 0), ""),
        ("those of a hibernated cluster", slept(World::serving(3, 1)), ""),
        ("what a hibernated cluster had left before", slept(left()), "data-orders-3"),
        ("nothing is known of a hibernated cluster", asleep(World::serving(3, 1)), ""),
    ] {
        assert_eq!(told(&world), wanted, "{what}");
    }
    let mut asleep = slept(left());
    asleep.observed.claims.remove("orders-3");
    assert_eq!(told(&asleep), "", "deleted while it sleeps");
    // Who told that a sleeping member's volume is left was wrong.
    asleep.observed.status.orphaned_volumes = vec!["data-orders-1".into()];
    assert_eq!(told(&asleep), "");
}

#[test]
fn the_oldest_version_is_the_one_that_is_told() {
    for (versions, oldest) in [
        (["0.10.0", "0.9.0", "0.10.0"], "0.9.0"),
        (["1.2.10", "1.2.9", "1.2.10"], "1.2.9"),
        (["2.0.0", "10.0.0", "2.0.0"], "2.0.0"),
        (["1.0.0", "1.0.0-rc.10", "1.0.0-rc.9"], "1.0.0-rc.9"),
        (["1.0.0", "unknown", "1.0.0"], "unknown"),
    ] {
        let world = World::serving(3, 0).edit(|world| {
            for (report, version) in world.observed.reports.values_mut().zip(versions) {
                report.version = version.into();
            }
        });
        assert_eq!(of(&world).version.current.as_deref(), Some(oldest), "{versions:?}");
    }
}

#[test]
fn the_entry_that_ends_every_member_is_told_and_does_not_move() {
    let mut world = World::all_held_up();
    let told = of(&world);
    assert_eq!(told.fatal_entry, Some(FatalEntryStatus { index: 900, term: 2, crashes: 3 }));
    assert!(told.quorum.as_ref().unwrap().loss_points.is_empty(), "there is a quorum");
    let message = |kind: &str| told.conditions.iter().find(|c| c.type_ == kind).unwrap().message.clone();
    assert!(message("Ready").contains("entry 900") && message("Ready") == message("Stalled"));
    world.observed.status = told;
    assert_eq!(of(&world), world.observed.status);
    assert_eq!(of(&World::serving(3, 0).held_up("orders-0", 900)).fatal_entry, None, "it heals by itself");
}

#[test]
fn a_lost_quorum_names_what_is_lost_and_what_is_left() {
    let lost = || {
        World::serving(3, 0).wiped("orders-1", 901).no_pod("orders-2").leaderless().edit(|world| {
            world.observed.claims.remove("orders-2");
            let report = world.observed.reports.get_mut("orders-0").unwrap();
            (report.leader, report.last_log_index) = (None, 4711);
        })
    };
    let message = |world: &World| {
        of(world).conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.message).unwrap()
    };
    let told = message(&lost());
    for part in [
        "1 of 3 voters",
        "the volumes of orders-1, orders-2 are lost",
        "orders-0 holds everything up to index 4711",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let refused = lost().spec(|spec| {
        let consent = crate::crd::LossPoint { survivor: "orders-0".into(), index: 1, term: 3 };
        spec.recovery.quorum_loss.consent = Some(consent);
    });
    assert!(message(&refused).contains("recovery.quorumLoss.consent is none of what can be had"));
    let later = message(&lost().condition("Ready", "False", "QuorumLost", 400));
    assert!(later.contains("the volumes of orders-1, orders-2 are lost"), "{later}");
    // Who is merely away may come back with everything.
    let away = message(&World::serving(3, 0).dead("orders-1").dead("orders-2").leaderless());
    assert!(!away.contains("lost") && away.contains("orders-1, orders-2 do not answer"), "{away}");
}

#[test]
fn one_zone_may_be_lost_where_zones_are_required() {
    let world = |zones: [&str; 3]| {
        zones.into_iter().enumerate().fold(
            World::serving(3, 0).spec(|spec| spec.placement.spread = crate::crd::Spread::Required),
            |world, (i, zone)| world.edit_pod(&format!("orders-{i}"), |pod| pod.zone = Some(zone.into())),
        )
    };
    let reason = |world: &World| {
        let conditions = of(world).conditions;
        conditions.into_iter().find(|c| c.type_ == "FaultTolerant").unwrap().reason
    };
    assert_eq!(reason(&world(["a", "b", "c"])), "QuorumSlack");
    assert_eq!(reason(&world(["a", "a", "c"])), "ZoneNeeded");
}

#[test]
fn what_happened_is_told_once() {
    let before = of(&World::serving(3, 0));
    let mut after = before.clone();
    assert!(news(&before, &after).is_empty());
    let rollout = after.rollout.as_mut().unwrap();
    (rollout.failed_revision, rollout.state) = (Some("x".into()), RolloutState::RolledBack);
    after.cluster_id = Some("c2".into());
    let reasons: Vec<_> = news(&before, &after).into_iter().map(|(reason, ..)| reason).collect();
    assert_eq!(reasons, ["CanaryRolledBack", "DataLost"]);
    assert!(news(&after, &after).is_empty());
}

#[test]
fn a_quorum_that_is_lost_is_told_once_with_who_is_missing() {
    let (before, after) = (of(&World::serving(3, 0)), of(&no_quorum()));
    let told = news(&before, &after);
    let [("QuorumLost", true, note)] = told.as_slice() else { panic!("{told:?}") };
    assert!(note.contains("orders-1"), "{note}");
    assert!(news(&after, &after).is_empty() && news(&after, &before).is_empty());
}

#[test]
fn a_lead_that_leaves_an_evicted_pod_is_told_as_a_drain() {
    let told = |before: &World, after: &World| {
        let observed = Observed { status: of(before), ..after.observe() };
        lead_news(&observed, &of(after)).into_iter().map(|(reason, _)| reason).collect::<Vec<_>>()
    };
    let (before, after) = (World::serving(3, 0), World::serving(3, 0).led_by("orders-1"));
    let evicted = |world: World, name: &str| {
        world.edit_pod(name, |pod| pod.evicted = Some("EvictionByEvictionAPI".into()))
    };
    assert_eq!(told(&before, &before), [""; 0]);
    assert_eq!(told(&World::new(3, 0), &before), ["LeaderChanged"]);
    assert_eq!(told(&before, &after), ["LeaderChanged"], "an election");
    let drained = evicted(World::serving(3, 0).led_by("orders-1"), "orders-0");
    assert_eq!(told(&before, &drained), ["LeaderChanged", "DrainTransfer"]);
    assert_eq!(told(&drained, &drained), [""; 0], "once");
    let lost = World::serving(3, 0).led_by("orders-1").edit_pod("orders-0", |pod| {
        pod.evicted = Some("DeletionByTaintManager".into());
    });
    assert_eq!(told(&before, &lost), ["LeaderChanged"]);
    let follower = evicted(World::serving(3, 0).led_by("orders-1"), "orders-2");
    assert_eq!(told(&before, &follower), ["LeaderChanged"], "another one is drained");
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
    assert_eq!(kstatus(&json!(status), 1), "Current");
    let kinds: Vec<_> = status.conditions.iter().map(|c| (c.type_.as_str(), c.observed_generation)).collect();
    let all = ["Accepted", "Ready", "Available", "FaultTolerant", "StorageHealthy", "Consistent", "Paused"];
    assert_eq!(kinds, all.map(|kind| (kind, Some(1))));
}

/// Conditions that are always there.
const LASTING: [&str; 6] =
    ["Accepted", "Ready", "Available", "FaultTolerant", "StorageHealthy", "Consistent"];

#[test]
fn conditions_that_are_always_there_always_are() {
    let worlds: [fn() -> World; 3] = [|| World::new(3, 0), || World::serving(3, 0), hibernated];
    let ways: [fn(World) -> World; 3] =
        [|world| world, refused, |world| world.spec(|spec| spec.paused = true)];
    for (world, way) in worlds.into_iter().flat_map(|world| ways.map(|way| (world, way))) {
        assert_lasting(&of(&way(world())).conditions);
    }
    let now = now();
    assert_lasting(&conditions::refused(&[], Some(1), "voters is 2", now));
    let before = of(&World::serving(3, 0)).conditions;
    let refused = conditions::refused(&before, Some(2), "voters is 2", now);
    assert_lasting(&refused);
    assert!(refused.iter().all(|condition| condition.observed_generation == Some(2)), "{refused:?}");
    let told = |kind: &str| refused.iter().find(|condition| condition.type_ == kind).unwrap().reason.clone();
    assert_eq!(["Accepted", "Stalled", "Ready"].map(told), ["InvalidSpec", "InvalidSpec", "Serving"]);
}

fn assert_lasting(conditions: &[Condition]) {
    for kind in LASTING {
        let told = conditions.iter().filter(|condition| condition.type_ == kind).count();
        assert_eq!(told, 1, "{kind}: {conditions:?}");
    }
}

#[test]
fn a_spec_that_cannot_be_had_is_told_with_what_counts_instead() {
    let told = |world: &World, kind: &str| {
        let found = of(world).conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        format!("{} {} {}", found.status, found.reason, found.message)
    };
    let sentence = "spec.fencing names users-0, which is no member; until that is corrected, the spec counts that was accepted last";
    let world = refused(World::serving(3, 0));
    assert_eq!(told(&world, "Accepted"), format!("False InvalidSpec {sentence}"));
    assert_eq!(told(&world, "Stalled"), format!("True InvalidSpec {sentence}"));
    let failed = told(&refused(rolled_back()), "Stalled");
    assert!(failed.starts_with(&format!("True InvalidSpec {sentence}; besides, ")), "{failed}");
}

#[test]
fn a_status_at_rest_does_not_move() {
    let mut world = World::serving(3, 2);
    world.observed.status = of(&world);
    let later = world.observed.now + SignedDuration::from_secs(100);
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
    let rejection =
        Rejection { reason: RejectionReason::ResizeRejected, message: "class cannot grow".into() };
    let status = status(&world.desired, &world.observe(), &world.plan(), Some(&rejection));
    let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    assert_eq!((stalled.reason.as_str(), stalled.message.as_str()), ("ResizeRejected", "class cannot grow"));
}

#[test]
fn what_is_refused_is_told_beside_what_the_plan_met() {
    let world = World::serving(3, 0);
    let obstacle = Obstacle::new(ObstacleReason::MemberStuck, "orders-1 cannot start".into());
    let plan = Plan { obstacle: Some(obstacle), ..world.plan() };
    let rejection = Rejection { reason: RejectionReason::Rejected, message: "no budget".into() };
    let status = status(&world.desired, &world.observe(), &plan, Some(&rejection));
    let stalled = status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    let told = (stalled.reason.as_str(), stalled.message.as_str());
    assert_eq!(told, ("MemberStuck", "orders-1 cannot start; no budget"));
}

#[test]
fn of_a_cluster_that_cannot_be_seen_the_rest_is_what_was_last_known() {
    let world = World::serving(3, 0);
    let before = of(&world).conditions;
    let refused = Rejection { reason: RejectionReason::SecretUnusable, message: "delete it".into() };
    let short = |conditions: &[Condition]| {
        conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect::<Vec<_>>()
    };
    let stalled = conditions::unseen(&before, Some(7), Some(&refused), "delete it", now());
    let (told, kept) = stalled.split_last().unwrap();
    assert_eq!(
        (kept, short(std::slice::from_ref(told))),
        (&before[..], vec!["Stalled=True SecretUnusable".into()])
    );
    assert_eq!((told.message.as_str(), told.observed_generation), ("delete it", Some(7)));
    // One follows the other, and the date is that of the first.
    let later = now() + SignedDuration::from_secs(60);
    let again = conditions::unseen(&stalled, Some(7), Some(&refused), "delete it", later);
    assert_eq!(again, stalled);
    let passes = conditions::unseen(&stalled, Some(7), None, "no answer", later);
    assert_eq!(short(&passes[before.len()..]), ["Reconciling=True Retrying"]);
    let new = conditions::unseen(&[], Some(1), None, "no answer", later);
    assert_eq!(short(&new), ["Ready=False Retrying", "Reconciling=True Retrying"]);
}
