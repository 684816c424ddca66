//! Which backups are due and which are no longer kept. Pure: no client, no clock.

use super::retention::{Ended, expired};
use super::seen::{BackupState, BackupView};
use super::verify::{self, NewVerifier, Verdict};
use crate::cluster::conditions::whole_second;
use crate::cluster::cron::Cron;
use crate::cluster::observed::Observed;
use crate::cluster::validate::Desired;
use crate::crd::{BackupSchedule, BootstrapPhase, RestorePhase, ScheduleStatus};
use crate::names::content_hash;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What is to be done about backups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackupPlan {
    /// How each schedule goes, to be recorded.
    pub schedules: Vec<ScheduleStatus>,
    /// What is due.
    pub create: Vec<NewBackup>,
    /// What is no longer kept.
    pub expiry: Option<Expiry>,
    /// Tests of backups that are due, one of which is to be made.
    pub verify: Vec<NewVerifier>,
    /// What tests came to.
    pub verdicts: Vec<Verdict>,
}

impl BackupPlan {
    /// When the next backup is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.schedules.iter().filter_map(|schedule| schedule.next_time.as_ref()).map(|time| time.0).min()
    }
}

/// A backup that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBackup {
    /// Name of the object.
    pub name: String,
    /// Its name where that is taken: `orders-eu-nightly-…` is of the clusters `orders` and `orders-eu`.
    pub otherwise: String,
    /// The schedule.
    pub schedule: String,
    /// The time that is due.
    pub due: Timestamp,
}

/// Backups that are no longer kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Names and uids of the objects.
    pub objects: Vec<(String, String)>,
    /// Where they are in the store.
    pub paths: Vec<String>,
    /// The moment of the oldest one that is kept: the archive need not reach further back.
    pub archive_before: Option<Timestamp>,
}

/// What is to be done about backups. A cluster that has not begun, rests or is paused makes none.
pub fn plan(desired: &Desired, observed: &Observed) -> BackupPlan {
    let mut plan = BackupPlan::default();
    let begun = observed.bootstrap().is_some_and(|bootstrap| bootstrap.phase == BootstrapPhase::Complete);
    let restores = observed.status.restore.as_ref().is_some_and(|r| r.phase == RestorePhase::Pending);
    let active = begun && !restores && !desired.spec.hibernated && !desired.spec.paused;
    for (schedule, cron) in &desired.schedules {
        let (status, due) = turn(desired, observed, schedule, cron, active);
        plan.schedules.push(status);
        plan.create.extend(due);
    }
    if active {
        // A restore may need what would go: its own source, or what its moment is reached from.
        plan.expiry = expiry(desired, observed).filter(|_| observed.restores.is_empty());
        plan.verify = verify::due(desired, observed);
        plan.verdicts = verify::verdicts(observed);
    }
    plan
}

/// How a schedule goes, and the backup that is due by it.
fn turn(
    desired: &Desired,
    observed: &Observed,
    schedule: &BackupSchedule,
    cron: &Cron,
    active: bool,
) -> (ScheduleStatus, Option<NewBackup>) {
    let now = observed.now;
    let counted_by = format!("{} {}", schedule.cron, schedule.time_zone);
    let known = observed.status.backup.as_ref().map(|backup| backup.schedules.as_slice()).unwrap_or_default();
    let before = known.iter().find(|known| known.name == schedule.name).cloned();
    let mut status =
        before.unwrap_or_else(|| ScheduleStatus { name: schedule.name.clone(), ..ScheduleStatus::default() });
    // By another expression, what was due before is not.
    if status.cron != counted_by {
        status.cron = counted_by;
        status.counted_from = Some(Time(whole_second(now)));
    }
    let mine = || of_schedule(observed, schedule);
    // What a clock that was ahead made or counted is not counted from.
    let made = mine().filter_map(|backup| backup.due).filter(|due| *due <= now).max();
    let past = |time: &Time| time.0 <= now;
    status.last_schedule_time = made.map(Time).max(status.last_schedule_time.filter(past));
    let success = mine().filter(|b| b.state == BackupState::Succeeded).filter_map(|b| b.time).max();
    status.last_success_time = success.map(Time).max(status.last_success_time);
    if status.counted_from.as_ref().is_some_and(|from| !past(from)) {
        status.counted_from = Some(Time(whole_second(now)));
    }
    status.counted_from = status.counted_from.max(status.last_schedule_time.clone());
    if status.missed_time <= status.last_schedule_time {
        status.missed_time = None;
    }
    let from = status.counted_from.as_ref().map_or(now, |time| time.0);
    let mut create = None;
    // A cluster begins later by its own part of the allowance, as if its clock were behind.
    let jitter = jitter(desired, schedule);
    let shifted = now.saturating_sub(jitter).unwrap_or(now);
    let due = cron.last(from, shifted).filter(|_| active && !schedule.suspend);
    if let Some(due) = due {
        let starts = due.saturating_add(jitter).unwrap_or(due);
        let deadline = schedule.starting_deadline_seconds;
        let missed = deadline
            .is_some_and(|seconds| now.duration_since(starts) > SignedDuration::from_secs(seconds.into()));
        let overlaps = mine().any(|backup| backup.state == BackupState::Running);
        if missed {
            status.missed_time = Some(Time(due));
            status.counted_from = Some(Time(due));
        } else if !overlaps {
            let name = object_name(&desired.name.name, &schedule.name, due);
            let whose = content_hash(format!("{}/{}", desired.name.name, schedule.name).as_bytes());
            let otherwise = format!("{name}-{whose}");
            create = Some(NewBackup { name, otherwise, schedule: schedule.name.clone(), due });
        }
    }
    let pending = due.filter(|due| status.counted_from.as_ref().is_none_or(|from| from.0 < *due));
    status.next_time =
        (!schedule.suspend).then(|| pending.or_else(|| cron.after(shifted))).flatten().map(Time);
    (status, create)
}

fn of_schedule<'a>(
    observed: &'a Observed,
    schedule: &'a BackupSchedule,
) -> impl Iterator<Item = &'a BackupView> {
    observed.backups.backups.iter().filter(|backup| backup.schedule.as_ref() == Some(&schedule.name))
}

/// How much later than it is due a backup begins: the cluster's own part of the allowance.
fn jitter(desired: &Desired, schedule: &BackupSchedule) -> SignedDuration {
    let hash = content_hash(format!("{}/{}", desired.uid, schedule.name).as_bytes());
    let number = u64::from_str_radix(&hash, 16).unwrap_or_default();
    let allowance = u64::try_from(schedule.jitter_seconds).unwrap_or_default();
    SignedDuration::from_secs(i64::try_from(number % (allowance + 1)).unwrap_or_default())
}

fn object_name(cluster: &str, schedule: &str, due: Timestamp) -> String {
    let due = TimeZone::UTC.to_datetime(due);
    let (year, month, day, hour, minute) = (due.year(), due.month(), due.day(), due.hour(), due.minute());
    format!("{cluster}-{schedule}-{year:04}{month:02}{day:02}{hour:02}{minute:02}")
}

/// What no schedule keeps any more. What is in another store, or of another cluster, is out of reach and stays.
fn expiry(desired: &Desired, observed: &Observed) -> Option<Expiry> {
    let store = desired.spec.backup.as_ref().map(|backups| &backups.store);
    let cluster_id = observed.cluster_id();
    let reachable = |backup: &&BackupView| {
        !backup.terminating
            && (backup.state == BackupState::Failed
                || backup.store.as_ref() == store && backup.cluster_id.as_deref() == cluster_id)
    };
    let mut gone: Vec<&BackupView> = Vec::new();
    let mut oldest: Option<Timestamp> = None;
    for (schedule, cron) in &desired.schedules {
        let mine: Vec<&BackupView> = of_schedule(observed, schedule).filter(reachable).collect();
        let ended: Vec<Ended> = mine.iter().filter_map(|backup| ended(backup)).collect();
        let names = schedule
            .retention
            .as_ref()
            .map(|rules| expired(&ended, rules, cron, observed.now))
            .unwrap_or_default();
        let kept = ended.iter().filter(|b| b.succeeded && !names.contains(&b.name)).map(|b| b.time).min();
        oldest = [oldest, kept].into_iter().flatten().min();
        gone.extend(mine.into_iter().filter(|backup| names.contains(&backup.name)));
    }
    let bound = archive_bound(desired, observed.now);
    let reached = observed.status.backup.as_ref().and_then(|backup| backup.recovery_window.as_ref());
    let is_too_old = bound.zip(reached).is_some_and(|((_, overdue), window)| window.earliest.0 < overdue);
    (!gone.is_empty() || is_too_old).then(|| Expiry {
        objects: gone.iter().map(|backup| (backup.name.clone(), backup.uid.clone())).collect(),
        paths: gone.iter().filter_map(|backup| backup.path.clone()).collect(),
        archive_before: bound.map(|(before, _)| before).or(oldest),
    })
}

/// The moment before which the archive need not reach, and the one before which something of it can go: the base backup
/// before a moment stays.
fn archive_bound(desired: &Desired, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
    let archive = desired.spec.backup.as_ref()?.continuous.as_ref().filter(|archive| archive.enabled)?;
    let before = now.checked_sub(SignedDuration::from_hours(24 * i64::from(archive.retention_days?))).ok()?;
    let overdue =
        before.checked_sub(SignedDuration::from_hours(2 * i64::from(archive.base_every_hours))).ok()?;
    Some((before, overdue))
}

fn ended(backup: &BackupView) -> Option<Ended> {
    let succeeded = match backup.state {
        BackupState::Running => return None,
        BackupState::Succeeded => true,
        BackupState::Failed => false,
    };
    let time = backup.time.or(backup.due).unwrap_or(backup.created);
    Some(Ended { name: backup.name.clone(), time, succeeded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::{CLUSTER_ID, World};
    use serde_json::{Value, json};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A cluster that serves, with one schedule, `now`.
    fn world(schedule: Value, now: &str) -> World {
        let mut whole = json!({"name": "nightly", "cron": "0 3 * * *"});
        for (key, value) in schedule.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let backups = json!({"store": {"s3": {"bucket": "b"}}, "schedules": [whole]});
        World::serving(3, 0)
            .spec(|spec| spec.backup = Some(serde_json::from_value(backups).unwrap()))
            .edit(|world| world.observed.now = at(now))
    }

    fn counted(world: World, from: &str) -> World {
        world.edit(|world| {
            let schedule = world.desired.spec.backup.as_ref().unwrap().schedules[0].clone();
            world.observed.status.backup = Some(crate::crd::BackupStatus {
                schedules: vec![ScheduleStatus {
                    name: "nightly".into(),
                    cron: format!("{} {}", schedule.cron, schedule.time_zone),
                    counted_from: Some(Time(at(from))),
                    ..ScheduleStatus::default()
                }],
                ..crate::crd::BackupStatus::default()
            });
        })
    }

    fn backup(due: &str, state: BackupState) -> BackupView {
        let done = state == BackupState::Succeeded;
        BackupView {
            name: object_name("orders", "nightly", at(due)),
            uid: due.into(),
            schedule: Some("nightly".into()),
            due: Some(at(due)),
            created: at(due),
            state,
            time: done.then(|| at(due)),
            path: done.then(|| format!("path-{due}")),
            store: done.then(|| serde_json::from_value(json!({"s3": {"bucket": "b"}})).unwrap()),
            cluster_id: done.then(|| CLUSTER_ID.into()),
            verification: None,
            verify_at: None,
            message: String::new(),
            terminating: false,
        }
    }

    fn with(world: World, backups: &[(&str, BackupState)]) -> World {
        world.edit(|world| {
            world.observed.backups.backups = backups.iter().map(|(due, state)| backup(due, *state)).collect();
        })
    }

    fn due(world: &World) -> Vec<String> {
        plan(&world.desired, &world.observed).create.into_iter().map(|new| new.name).collect()
    }

    #[test]
    fn a_schedule_counts_from_when_it_is_first_seen() {
        let world = world(json!({}), "2026-05-02T10:00:00Z");
        let planned = plan(&world.desired, &world.observed);
        assert_eq!(planned.create, []);
        let status = &planned.schedules[0];
        assert_eq!(status.counted_from, Some(Time(world.observed.now)));
        assert_eq!(status.next_time, Some(Time(at("2026-05-03T03:00:00Z"))));
    }

    #[test]
    fn what_is_due_when() {
        use BackupState::{Failed, Running, Succeeded};
        let counted_from = "2026-05-01T03:00:00Z";
        let case = |schedule: Value, now: &str, there: &[(&str, BackupState)]| {
            with(counted(world(schedule, now), counted_from), there)
        };
        let last = "orders-nightly-202605040300";
        for (what, world, wanted) in [
            ("nothing yet", case(json!({}), "2026-05-02T02:59:59Z", &[]), vec![]),
            ("on time", case(json!({}), "2026-05-02T03:00:00Z", &[]), vec!["orders-nightly-202605020300"]),
            ("after an absence of days, one", case(json!({}), "2026-05-04T12:00:00Z", &[]), vec![last]),
            (
                "it is there",
                case(json!({}), "2026-05-04T12:00:00Z", &[("2026-05-04T03:00:00Z", Running)]),
                vec![],
            ),
            (
                "it failed",
                case(json!({}), "2026-05-04T12:00:00Z", &[("2026-05-04T03:00:00Z", Failed)]),
                vec![],
            ),
            (
                "no two at once",
                case(json!({}), "2026-05-04T12:00:00Z", &[("2026-05-03T03:00:00Z", Running)]),
                vec![],
            ),
            (
                "the one before has ended",
                case(json!({}), "2026-05-04T12:00:00Z", &[("2026-05-03T03:00:00Z", Succeeded)]),
                vec![last],
            ),
            ("suspended", case(json!({"suspend": true}), "2026-05-04T12:00:00Z", &[]), vec![]),
            (
                "within its deadline",
                case(json!({"startingDeadlineSeconds": 600}), "2026-05-04T03:10:00Z", &[]),
                vec![last],
            ),
            ("too late", case(json!({"startingDeadlineSeconds": 600}), "2026-05-04T03:10:01Z", &[]), vec![]),
        ] {
            assert_eq!(due(&world), wanted, "{what}");
        }
    }

    #[test]
    fn what_is_missed_is_told_until_the_next_one_is_made() {
        let late = json!({"startingDeadlineSeconds": 600});
        let world = counted(world(late, "2026-05-04T12:00:00Z"), "2026-05-03T03:00:00Z");
        let status = plan(&world.desired, &world.observed).schedules.remove(0);
        assert_eq!(status.missed_time, Some(Time(at("2026-05-04T03:00:00Z"))));
        assert_eq!(status.counted_from, status.missed_time);
        let world = with(world, &[("2026-05-05T03:00:00Z", BackupState::Succeeded)]).edit(|world| {
            world.observed.now = at("2026-05-05T04:00:00Z");
            world.observed.status.backup.as_mut().unwrap().schedules = vec![status];
        });
        assert_eq!(plan(&world.desired, &world.observed).schedules[0].missed_time, None);
    }

    #[test]
    fn jitter_is_the_clusters_own_and_within_its_bound() {
        let daily =
            counted(world(json!({"jitterSeconds": 600}), "2026-05-04T03:10:00Z"), "2026-05-03T03:00:00Z");
        assert_eq!(due(&daily).len(), 1, "at its bound at the latest");
        let schedule = &daily.desired.schedules[0].0;
        let first = jitter(&daily.desired, schedule);
        assert_eq!(first, jitter(&daily.desired, schedule));
        let mut other = daily.desired.clone();
        other.uid = "another".into();
        assert_ne!(first, jitter(&other, schedule));
        // One that is longer than from one time to the next puts all of them off, and none away.
        let hourly = json!({"cron": "0 * * * *", "jitterSeconds": 7200});
        for uid in ["a", "b", "c", "d", "e", "f"] {
            let mut made = std::collections::BTreeSet::new();
            for minute in 0..360 {
                let now = at("2026-05-04T03:00:00Z") + SignedDuration::from_mins(minute);
                let mut world = counted(world(hourly.clone(), &now.to_string()), "2026-05-04T02:30:00Z");
                world.desired.uid = uid.into();
                made.extend(due(&world));
            }
            assert!(made.len() >= 4, "{uid}: {made:?}");
        }
    }

    #[test]
    fn a_cluster_that_rests_or_has_not_begun_makes_none() {
        let counted = || counted(world(json!({}), "2026-05-04T12:00:00Z"), "2026-05-03T00:00:00Z");
        assert_eq!(due(&counted().spec(|spec| spec.hibernated = true)), Vec::<String>::new());
        assert_eq!(due(&counted().recorded(BootstrapPhase::Initialised)), Vec::<String>::new());
        assert_eq!(due(&counted()).len(), 1);
    }

    #[test]
    fn an_edited_schedule_owes_nothing_for_the_past() {
        let world = counted(world(json!({}), "2026-05-04T12:00:00Z"), "2026-05-03T03:00:00Z");
        let world = world.spec(|spec| spec.backup.as_mut().unwrap().schedules[0].cron = "0 9 * * *".into());
        assert_eq!(due(&world), Vec::<String>::new());
    }

    #[test]
    fn an_archive_is_kept_for_as_long_as_it_says() {
        let world = |days: Option<i32>, earliest: &str| {
            let world = counted(world(json!({}), "2026-05-20T12:00:00Z"), "2026-05-20T03:00:00Z");
            world
                .spec(|spec| {
                    let continuous = json!({"baseEveryHours": 24, "retentionDays": days});
                    spec.backup.as_mut().unwrap().continuous = serde_json::from_value(continuous).unwrap();
                })
                .edit(|world| {
                    let window = json!({"earliest": earliest});
                    let backup = world.observed.status.backup.as_mut().unwrap();
                    backup.recovery_window = serde_json::from_value(window).unwrap();
                })
        };
        let before = |world: &World| plan(&world.desired, &world.observed).expiry.map(|e| e.archive_before);
        let week = Some(Some(at("2026-05-13T12:00:00Z")));
        assert_eq!(before(&world(Some(7), "2026-05-11T11:59:59Z")), week);
        // The newest base backup before that time stays, which may be a day older.
        assert_eq!(before(&world(Some(7), "2026-05-11T12:00:01Z")), None);
        assert_eq!(before(&world(None, "2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn what_is_no_longer_kept_goes_with_the_archive_before_the_oldest_kept() {
        use BackupState::Succeeded;
        let days = ["2026-05-01T03:00:00Z", "2026-05-02T03:00:00Z", "2026-05-03T03:00:00Z"];
        let world = counted(world(json!({"retention": {"keepLast": 2}}), "2026-05-03T12:00:00Z"), days[2]);
        let world = with(world, &days.map(|day| (day, Succeeded)));
        let expiry = plan(&world.desired, &world.observed).expiry.unwrap();
        assert_eq!(expiry.paths, ["path-2026-05-01T03:00:00Z"]);
        assert_eq!(expiry.objects.len(), 1);
        assert_eq!(expiry.archive_before, Some(at(days[1])));
        let restored = world.edit(|world| world.observed.restores = [("back".into(), 10)].into());
        assert_eq!(plan(&restored.desired, &restored.observed).expiry, None, "a restore may need it");
        let world = restored.edit(|world| world.observed.restores.clear());
        let moved = world.spec(|spec| {
            spec.backup.as_mut().unwrap().store =
                serde_json::from_value(json!({"s3": {"bucket": "c"}})).unwrap();
        });
        assert_eq!(plan(&moved.desired, &moved.observed).expiry, None, "it is in another store");
    }

    #[test]
    fn a_clock_that_was_ahead_is_not_counted_from() {
        let world = counted(world(json!({}), "2026-05-04T12:00:00Z"), "2026-06-04T03:00:00Z");
        let world = with(world, &[("2026-06-04T03:00:00Z", BackupState::Succeeded)]);
        let planned = plan(&world.desired, &world.observed);
        assert_eq!(planned.create, []);
        let counted_from = planned.schedules[0].counted_from.clone();
        let later = world.edit(|world| {
            world.observed.status.backup.as_mut().unwrap().schedules = planned.schedules.clone();
            world.observed.now = at("2026-05-05T03:00:10Z");
        });
        let due: Vec<Timestamp> =
            plan(&later.desired, &later.observed).create.into_iter().map(|backup| backup.due).collect();
        assert_eq!(due, [at("2026-05-05T03:00:00Z")], "counted from {counted_from:?}");
    }

    #[test]
    fn a_schedule_at_rest_does_not_move() {
        let world = counted(world(json!({}), "2026-05-04T12:00:00Z"), "2026-05-04T03:00:00Z");
        let first = plan(&world.desired, &world.observed).schedules;
        let later = world.edit(|world| {
            world.observed.status.backup.as_mut().unwrap().schedules = first.clone();
            world.observed.now = at("2026-05-05T02:59:59Z");
        });
        assert_eq!(plan(&later.desired, &later.observed).schedules, first);
    }
}
