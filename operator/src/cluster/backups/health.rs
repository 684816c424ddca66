//! How backups go, for the status: pure.

use super::seen::{BackupState, BackupView, Probed};
use super::verify;
use crate::cluster::conditions::Draft;
use crate::cluster::observed::Observed;
use crate::cluster::plan::Plan;
use crate::cluster::validate::Desired;
use crate::cluster::view::View;
use crate::crd::{
    ArchiveStatus, BackupStatus, Backups, ContinuousBackup, RecoveryWindow, ScheduleStatus,
    VerificationResult, parse_period,
};
use client::backup::{ArchiveReport, ArchiveState};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// An archive that is behind moves with every write: what is told of it is this exact.
const STEP: SignedDuration = SignedDuration::from_mins(1);

/// How backups go; none where none are asked for.
pub fn status(desired: &Desired, observed: &Observed, plan: &Plan) -> Option<BackupStatus> {
    let backups = desired.spec.backup.as_ref()?;
    let before = observed.status.backup.clone().unwrap_or_default();
    let seen = &observed.backups.backups;
    let success = succeeded(seen).filter_map(|backup| backup.time).max();
    let verified = seen.iter().filter_map(passed).max();
    let (archive, window) = match (backups.has_archive(), report(observed, plan)) {
        (false, _) => (None, None),
        // Nobody who would know leads at this moment.
        (true, None) => (before.archive, before.recovery_window.clone()),
        (true, Some(report)) => (Some(state(report.state)), window(report, before.recovery_window.as_ref())),
    };
    let rpo_seconds = match (backups.continuous.as_ref(), report(observed, plan)) {
        (Some(continuous), Some(report)) if archive.is_some() => rpo(continuous, report, observed.now),
        _ => before.rpo_seconds.filter(|_| archive.is_some()),
    };
    Some(BackupStatus {
        last_success_time: success.map(Time).max(before.last_success_time),
        last_verified_time: verified.map(Time).max(before.last_verified_time),
        recovery_window: window,
        archive,
        rpo_seconds,
        schedules: plan.backups.schedules.clone(),
    })
}

fn succeeded(backups: &[BackupView]) -> impl Iterator<Item = &BackupView> {
    backups.iter().filter(|backup| backup.state == BackupState::Succeeded)
}

fn passed(backup: &BackupView) -> Option<Timestamp> {
    let verification = backup.verification.as_ref()?;
    (verification.result == VerificationResult::Passed).then_some(verification.time.0)
}

fn report<'a>(observed: &'a Observed, plan: &Plan) -> Option<&'a ArchiveReport> {
    View::of(observed, plan.cluster_id.as_deref()).leader()?.archive.as_ref()
}

fn state(state: ArchiveState) -> ArchiveStatus {
    match state {
        ArchiveState::Starting => ArchiveStatus::Starting,
        ArchiveState::OnTarget => ArchiveStatus::OnTarget,
        ArchiveState::Behind => ArchiveStatus::Behind,
        ArchiveState::Broken => ArchiveStatus::Broken,
    }
}

/// At most the writes of so many seconds are not in the archive yet. While it is behind that grows with time: it is told by
/// doublings, which are few.
fn rpo(continuous: &ContinuousBackup, report: &ArchiveReport, now: Timestamp) -> Option<i64> {
    let target = i64::from(continuous.rpo_target_seconds).max(1);
    if report.state == ArchiveState::OnTarget {
        return Some(target);
    }
    let latest = report.latest.as_ref()?.parse::<Timestamp>().ok()?;
    let lag = now.duration_since(latest).as_secs();
    let doubled = std::iter::successors(Some(target), |seconds| seconds.checked_mul(2));
    doubled.into_iter().find(|seconds| *seconds >= lag)
}

/// While the archive is on target, its end is not told, because it moves with time.
fn window(report: &ArchiveReport, before: Option<&RecoveryWindow>) -> Option<RecoveryWindow> {
    let time = |text: &Option<String>| text.as_ref()?.parse::<Timestamp>().ok();
    let earliest = crate::cluster::conditions::whole_second(time(&report.earliest)?);
    let told = before.and_then(|before| before.latest.clone());
    let latest = time(&report.latest).filter(|_| report.state != ArchiveState::OnTarget).map(|latest| {
        let latest = crate::cluster::conditions::whole_second(latest);
        told.filter(|told| latest >= told.0 && latest.duration_since(told.0) < STEP).unwrap_or(Time(latest))
    });
    Some(RecoveryWindow { earliest: Time(earliest), latest })
}

/// Conditions of backups, where they are asked for.
pub(crate) fn conditions(desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<Draft> {
    let Some(backups) = &desired.spec.backup else { return Vec::new() };
    let verifies = backups.schedules.iter().any(|schedule| schedule.verify.is_some());
    let verified = verifies.then(|| verified(backups, observed));
    [healthy(desired, backups, observed, plan)].into_iter().chain(verified).collect()
}

fn healthy(desired: &Desired, backups: &Backups, observed: &Observed, plan: &Plan) -> Draft {
    let (holds, reason, mut message) = match trouble(backups, observed, plan) {
        Some((reason, message)) => (false, reason, message),
        None if desired.spec.hibernated => {
            (true, "Hibernated", "nothing is backed up while the cluster is hibernated".into())
        }
        None => starting(backups, observed, plan).map_or_else(
            || (true, "Healthy", "the store can be written to, and what is due is there".into()),
            |(reason, message)| (false, reason, message),
        ),
    };
    if is_open(backups) {
        message.push_str("; the store is reached by http, so that everybody on the way can read along");
    }
    Draft { kind: "BackupHealthy", holds, reason, message }
}

/// Whether everybody on the way to the store can read along.
fn is_open(backups: &Backups) -> bool {
    let s3 = backups.store.s3.as_ref().and_then(|store| store.endpoint.as_ref());
    let gcs = backups.store.gcs.as_ref().and_then(|store| store.endpoint.as_ref());
    let azure = backups.store.azure.as_ref().and_then(|store| store.endpoint.as_ref());
    [s3, gcs, azure].into_iter().flatten().any(|endpoint| endpoint.starts_with("http://"))
}

/// What is wrong: reason and sentence.
fn trouble(backups: &Backups, observed: &Observed, plan: &Plan) -> Option<(&'static str, String)> {
    let seen = &observed.backups;
    match &seen.probe {
        Some(Probed::Failed(why)) => {
            return Some(("ProbeFailed", format!("the store could not be tried out: {why}")));
        }
        Some(Probed::Tried(probe)) => {
            let deletes = backups.schedules.iter().any(|schedule| schedule.retention.is_some());
            let reads = backups.schedules.iter().any(|schedule| schedule.verify.is_some());
            let why = probe.message.clone().unwrap_or_else(|| "the store does not say why".into());
            if !probe.writable {
                return Some(("StoreNotWritable", format!("nothing can be written to the store: {why}")));
            }
            if reads && !probe.readable {
                return Some(("StoreNotReadable", format!("nothing can be read from the store: {why}")));
            }
            if deletes && !probe.deletable {
                let message = format!("nothing can be deleted from the store, and retention needs it: {why}");
                return Some(("StoreNotDeletable", message));
            }
        }
        Some(Probed::NotConfigured) | None => {}
    }
    for schedule in &backups.schedules {
        let mine = seen.backups.iter().filter(|b| b.schedule.as_ref() == Some(&schedule.name));
        let ended = mine.filter(|backup| backup.state != BackupState::Running);
        let last = ended.max_by_key(|backup| backup.due.unwrap_or(backup.created));
        if let Some(last) = last.filter(|last| last.state == BackupState::Failed) {
            return Some(("BackupFailed", format!("{} failed: {}", last.name, last.message)));
        }
    }
    let missed = |status: &&ScheduleStatus| status.missed_time.is_some();
    if let Some(missed) = plan.backups.schedules.iter().find(missed) {
        let time = missed.missed_time.as_ref().map(|time| time.0.to_string()).unwrap_or_default();
        let message = format!(
            "the backup of schedule {} that was due at {time} could not begin within startingDeadlineSeconds",
            missed.name
        );
        return Some(("ScheduleMissed", message));
    }
    if backups.has_archive()
        && let Some(report) = report(observed, plan)
    {
        let why = report.message.clone().map(|why| format!(": {why}")).unwrap_or_default();
        match report.state {
            ArchiveState::Broken => {
                let message = format!("writes are missing in the archive that no member has any more{why}");
                return Some(("ArchiveBroken", message));
            }
            ArchiveState::Behind => {
                let target = backups.continuous.as_ref().map_or(0, |c| c.rpo_target_seconds);
                return Some(("ArchiveBehind", format!("the archive is more than {target} s behind{why}")));
            }
            ArchiveState::Starting | ArchiveState::OnTarget => {}
        }
    }
    let retention = seen.retention_failure.clone().filter(|_| plan.backups.expiry.is_some())?;
    Some(("RetentionFailed", format!("what is no longer kept could not be deleted: {retention}")))
}

/// What is not known or not there yet.
fn starting(backups: &Backups, observed: &Observed, plan: &Plan) -> Option<(&'static str, String)> {
    match &observed.backups.probe {
        None => return Some(("Starting", "the store was not tried out yet".into())),
        Some(Probed::NotConfigured) => {
            return Some(("Starting", "the leader does not know of the store yet".into()));
        }
        Some(_) => {}
    }
    let leads = View::of(observed, plan.cluster_id.as_deref()).leader().is_some();
    match report(observed, plan).map(|report| report.state).filter(|_| backups.has_archive()) {
        Some(ArchiveState::Starting) => Some(("Starting", "the archive has no base backup yet".into())),
        // The kubelet brings changed settings within a minute or two.
        None if backups.has_archive() && leads => {
            Some(("AwaitingSettings", "the members have not got the settings of the archive yet".into()))
        }
        _ => None,
    }
}

fn verified(backups: &Backups, observed: &Observed) -> Draft {
    // What keeps a test from running is why there is none.
    let draft = |holds: bool, reason, message: String| {
        let why = verify::obstacle(observed).filter(|_| !holds).map(|why| format!("; {why}"));
        Draft { kind: "BackupVerified", holds, reason, message: message + &why.unwrap_or_default() }
    };
    let tests = observed.backups.backups.iter().filter_map(|b| Some((b, b.verification.as_ref()?)));
    let Some((backup, last)) = tests.max_by_key(|(_, verification)| verification.time.0) else {
        return draft(false, "NotVerified", "no backup was restored for a test yet".into());
    };
    if last.result == VerificationResult::Failed {
        let why = last.message.clone().unwrap_or_else(|| "the test does not say why".into());
        return draft(false, "VerificationFailed", format!("restoring {} failed: {why}", backup.name));
    }
    let every = backups.schedules.iter().filter_map(|s| parse_period(&s.verify.as_ref()?.every)).min();
    let overdue = every.is_some_and(|every| {
        observed.now.duration_since(last.time.0) > SignedDuration::from_secs(every.saturating_mul(2))
    });
    if overdue {
        return draft(false, "Overdue", format!("the last test was that of {}, too long ago", backup.name));
    }
    draft(true, "Verified", format!("{} was restored and is what it should be", backup.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::World;
    use client::backup::Probe;
    use serde_json::json;

    fn world() -> World {
        let backups = json!({
            "store": {"s3": {"bucket": "b", "endpoint": "https://s3"}},
            "continuous": {},
            "schedules": [{"name": "nightly", "cron": "0 3 * * *", "retention": {"keepLast": 3}}],
        });
        World::serving(3, 0)
            .spec(|spec| spec.backup = Some(serde_json::from_value(backups).unwrap()))
            .edit(|world| world.observed.backups.probe = Some(probe(true, true, true)))
    }

    fn probe(writable: bool, readable: bool, deletable: bool) -> Probed {
        Probed::Tried(Probe { writable, readable, deletable, message: Some("denied".into()) })
    }

    fn probed(probe: Option<Probed>) -> World {
        world().edit(|world| world.observed.backups.probe = probe)
    }

    fn archive(state: ArchiveState) -> World {
        reported(state, world())
    }

    fn reported(state: ArchiveState, world: World) -> World {
        world.edit(|world| {
            world.observed.reports.get_mut("orders-0").unwrap().archive = Some(ArchiveReport {
                state,
                earliest: Some("2026-01-01T00:00:00Z".into()),
                latest: Some("2026-01-02T00:00:30.5Z".into()),
                message: None,
            });
        })
    }

    fn told(world: &World) -> String {
        let draft = conditions(&world.desired, &world.observe(), &world.plan()).remove(0);
        format!("{} {}", draft.holds, draft.reason)
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (world, wanted) in [
            (probed(None), "false Starting"),
            (probed(Some(Probed::NotConfigured)), "false Starting"),
            (probed(Some(Probed::Failed("down".into()))), "false ProbeFailed"),
            (probed(Some(probe(false, true, true))), "false StoreNotWritable"),
            (probed(Some(probe(true, true, false))), "false StoreNotDeletable"),
            (reported(ArchiveState::OnTarget, probed(Some(probe(true, false, true)))), "true Healthy"),
            (archive(ArchiveState::Starting), "false Starting"),
            (archive(ArchiveState::OnTarget), "true Healthy"),
            (archive(ArchiveState::Behind), "false ArchiveBehind"),
            (archive(ArchiveState::Broken), "false ArchiveBroken"),
            // An archive was asked for, and who leads does not know of it yet.
            (world(), "false AwaitingSettings"),
            (world().spec(|spec| spec.backup.as_mut().unwrap().continuous = None), "true Healthy"),
            (archive(ArchiveState::OnTarget).leaderless(), "true Healthy"),
        ] {
            assert_eq!(told(&world), wanted);
        }
        let none = World::serving(3, 0);
        assert!(conditions(&none.desired, &none.observe(), &none.plan()).is_empty());
    }

    #[test]
    fn an_open_endpoint_is_warned_of() {
        for store in [
            json!({"s3": {"bucket": "b", "endpoint": "http://minio:9000"}}),
            json!({"gcs": {"bucket": "b", "endpoint": "http://fake-gcs:4443"}}),
            json!({"azure": {"container": "b", "account": "a", "endpoint": "http://azurite:10000"}}),
        ] {
            let parsed = serde_json::from_value(store.clone()).unwrap();
            let world = archive(ArchiveState::OnTarget);
            let world = world.spec(|spec| spec.backup.as_mut().unwrap().store = parsed);
            let draft = conditions(&world.desired, &world.observe(), &world.plan()).remove(0);
            assert!(draft.holds && draft.message.contains("by http"), "{store}: {}", draft.message);
        }
    }

    #[test]
    fn how_much_could_be_lost_is_told_by_doublings() {
        let latest: Timestamp = "2026-01-02T00:00:30.5Z".parse().unwrap();
        let told = |state, lag: i64| {
            let world =
                archive(state).edit(|world| world.observed.now = latest + SignedDuration::from_secs(lag));
            status(&world.desired, &world.observe(), &world.plan()).unwrap().rpo_seconds
        };
        for (state, lag, wanted) in [
            (ArchiveState::OnTarget, 900, 5),
            (ArchiveState::Behind, 3, 5),
            (ArchiveState::Behind, 6, 10),
            (ArchiveState::Behind, 41, 80),
            (ArchiveState::Behind, 80, 80),
            (ArchiveState::Broken, 81, 160),
        ] {
            assert_eq!(told(state, lag), Some(wanted), "{state:?} {lag}");
        }
        assert_eq!(status(&world().desired, &world().observe(), &world().plan()).unwrap().rpo_seconds, None);
    }

    #[test]
    fn the_end_of_the_window_is_told_only_while_it_is_not_on_target() {
        let window = |world: &World| {
            let status = status(&world.desired, &world.observe(), &world.plan()).unwrap();
            let window = status.recovery_window.unwrap();
            (window.earliest.0.to_string(), window.latest.map(|time| time.0.to_string()))
        };
        let earliest = "2026-01-01T00:00:00Z".to_owned();
        assert_eq!(window(&archive(ArchiveState::OnTarget)), (earliest.clone(), None));
        let behind = archive(ArchiveState::Behind);
        assert_eq!(window(&behind), (earliest.clone(), Some("2026-01-02T00:00:30Z".into())));
        // It crept on, too little to be told.
        let told = behind.edit(|world| {
            world.observed.status.backup = Some(BackupStatus {
                recovery_window: Some(RecoveryWindow {
                    earliest: Time("2026-01-01T00:00:00Z".parse().unwrap()),
                    latest: Some(Time("2026-01-02T00:00:00Z".parse().unwrap())),
                }),
                ..BackupStatus::default()
            });
        });
        assert_eq!(window(&told), (earliest, Some("2026-01-02T00:00:00Z".into())));
    }

    #[test]
    fn what_was_known_of_the_archive_is_kept_while_nobody_leads() {
        let mut world = archive(ArchiveState::OnTarget);
        world.observed.status.backup = status(&world.desired, &world.observe(), &world.plan());
        let world = world.leaderless();
        let now = status(&world.desired, &world.observe(), &world.plan());
        assert_eq!(now, world.observed.status.backup);
    }
}
