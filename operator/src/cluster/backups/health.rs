//! How backups go, for the status: pure.

use super::seen::{BackupState, BackupView, Probed};
use super::verify;
use crate::cluster::conditions::{Draft, whole_second};
use crate::cluster::observed::Observed;
use crate::cluster::plan::Plan;
use crate::cluster::validate::Desired;
use crate::cluster::view::View;
use crate::crd::{
    ArchiveStatus, BackupSchedule, BackupStatus, Backups, ContinuousBackup, RecoveryWindow, ScheduleStatus,
    Verification, VerificationResult, parse_period,
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
    // Without one nobody who would know leads at this moment.
    let known = report(observed, plan).filter(|report| !holds_on(report, &before));
    let (archive, window) = match (backups.has_archive(), known) {
        (false, _) => (None, None),
        (true, None) => (before.archive, before.recovery_window.clone()),
        (true, Some(report)) => (Some(state(report.state)), window(report, before.recovery_window.as_ref())),
    };
    let window = match (window, backups.continuous.as_ref()) {
        (Some(window), Some(continuous)) if desired.spec.hibernated => {
            let reached = known.map(|report| reached(continuous, report, observed.now));
            Some(asleep(window, before.recovery_window.as_ref(), reached))
        }
        (window, _) => window,
    };
    let rpo_seconds = match (backups.continuous.as_ref(), known) {
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

/// Whether what was told of the archive holds on: its new leader has not looked yet how it is.
fn holds_on(report: &ArchiveReport, before: &BackupStatus) -> bool {
    report.taking_over
        && report.state == ArchiveState::Starting
        && before.archive.is_some_and(|archive| archive != ArchiveStatus::Starting)
}

/// BackupHealthy while a new leader looks: as it was.
fn as_before(before: &BackupStatus, backups: &Backups) -> (bool, &'static str, String) {
    const LOOKS: &str = "a new leader looks up where it ends";
    match before.archive {
        Some(ArchiveStatus::Behind) => {
            let target = target(backups);
            (false, "ArchiveBehind", format!("the archive was more than {target} s behind; {LOOKS}"))
        }
        Some(ArchiveStatus::Broken) => {
            (false, "ArchiveBroken", format!("writes are missing in the archive; {LOOKS}"))
        }
        Some(ArchiveStatus::OnTarget) => (true, "TakingOver", format!("the archive was on target; {LOOKS}")),
        Some(ArchiveStatus::Starting) | None => {
            (false, "Starting", format!("of the archive nothing is known; {LOOKS}"))
        }
    }
}

/// How far the archive may be behind, in seconds.
fn target(backups: &Backups) -> i32 {
    backups.continuous.as_ref().map_or(0, |continuous| continuous.rpo_target_seconds)
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

/// While the archive is on target, its end is not told, because it moves with time. A leader that cannot read where it ends
/// does not know where it begins either, and the leader before did.
fn window(report: &ArchiveReport, before: Option<&RecoveryWindow>) -> Option<RecoveryWindow> {
    let time = |text: &Option<String>| text.as_ref()?.parse::<Timestamp>().ok();
    let earliest = time(&report.earliest).map(|earliest| Time(whole_second(earliest)));
    let told = before.and_then(|before| before.latest.clone());
    let latest = time(&report.latest).filter(|_| report.state != ArchiveState::OnTarget).map(|latest| {
        let latest = whole_second(latest);
        let told = told.clone().filter(|told| latest >= told.0 && latest.duration_since(told.0) < STEP);
        told.unwrap_or(Time(latest))
    });
    if report.taking_over {
        let earliest = earliest.or(before.map(|before| before.earliest.clone()))?;
        // With an end that nobody knows more would be said than is there.
        return Some(RecoveryWindow { earliest, latest: Some(latest.or(told)?) });
    }
    Some(RecoveryWindow { earliest: earliest?, latest })
}

/// The last moment that certainly is in an archive of which this is said now: its end, where that is told.
fn reached(continuous: &ContinuousBackup, report: &ArchiveReport, now: Timestamp) -> Reached {
    let told = report.latest.as_ref().and_then(|latest| latest.parse::<Timestamp>().ok());
    let target = SignedDuration::from_secs(continuous.rpo_target_seconds.into());
    match told {
        Some(end) => Reached::End(whole_second(end)),
        None => Reached::AtLeast(whole_second(now.checked_sub(target).unwrap_or(Timestamp::UNIX_EPOCH))),
    }
}

/// How far an archive is.
enum Reached {
    /// Up to its end.
    End(Timestamp),
    /// Up to there, and perhaps further.
    AtLeast(Timestamp),
}

/// The window of a cluster that goes to sleep or sleeps: it moves no more, so that its end is told. The leader says it when
/// it has archived everything; until then what its report says holds, and of an archive of which nobody says anything any
/// more only where it begins is known.
fn asleep(
    window: RecoveryWindow,
    before: Option<&RecoveryWindow>,
    reached: Option<Reached>,
) -> RecoveryWindow {
    let told = before.and_then(|before| before.latest.clone());
    let latest = match (window.latest, reached) {
        (Some(latest), _) => latest,
        (None, Some(Reached::End(end))) => Time(end),
        (None, Some(Reached::AtLeast(moment))) => told
            .filter(|told| moment.duration_since(told.0) < STEP)
            .unwrap_or(Time(moment.max(window.earliest.0))),
        (None, None) => told.unwrap_or(window.earliest.clone()),
    };
    RecoveryWindow { earliest: window.earliest, latest: Some(latest) }
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
        None => match (starting(backups, observed, plan), looks(backups, observed, plan)) {
            (Some((reason, message)), _) => (false, reason, message),
            (None, Some(before)) => as_before(before, backups),
            (None, None) => (true, "Healthy", "the store can be written to, and what is due is there".into()),
        },
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
    if !seen.failures.is_empty() {
        return Some(("BackupWorkFailed", seen.failures.join("; ")));
    }
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
                let target = target(backups);
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
    let Some(report) = report(observed, plan).filter(|_| backups.has_archive()) else {
        // The kubelet brings changed settings within a minute or two.
        return (backups.has_archive() && leads).then(|| {
            ("AwaitingSettings", "the members have not got the settings of the archive yet".into())
        });
    };
    let starts = report.state == ArchiveState::Starting && looks(backups, observed, plan).is_none();
    starts.then(|| match report.taking_over {
        true => ("Starting", "the leader looks up where the archive ends".into()),
        false => ("Starting", "the archive has no base backup yet".into()),
    })
}

/// What was told of the archive, if its new leader has still to look.
fn looks<'a>(backups: &Backups, observed: &'a Observed, plan: &Plan) -> Option<&'a BackupStatus> {
    let before = observed.status.backup.as_ref().filter(|_| backups.has_archive())?;
    report(observed, plan).is_some_and(|report| holds_on(report, before)).then_some(before)
}

fn verified(backups: &Backups, observed: &Observed) -> Draft {
    // What keeps a test from running is why there is none.
    let draft = |holds: bool, reason, message: String| {
        let why = verify::obstacle(observed).filter(|_| !holds).map(|why| format!("; {why}"));
        Draft { kind: "BackupVerified", holds, reason, message: message + &why.unwrap_or_default() }
    };
    let tests = || observed.backups.backups.iter().filter_map(|b| Some((b, b.verification.as_ref()?)));
    let Some((newest, _)) = tests().max_by_key(|(_, verification)| verification.time.0) else {
        return draft(false, "NotVerified", "no backup was restored for a test yet".into());
    };
    let stands = |(backup, failed): &(&BackupView, &Verification)| {
        failed.result == VerificationResult::Failed
            && !tests().any(|(other, passed)| makes_good(backup, failed, other, passed))
    };
    let failed: Vec<String> = tests()
        .filter(stands)
        .map(|(backup, failed)| {
            let why = failed.message.as_deref().unwrap_or("the test does not say why");
            format!("restoring {} failed: {why}", backup.name)
        })
        .collect();
    if !failed.is_empty() {
        return draft(false, "VerificationFailed", failed.join("; "));
    }
    if let Some(message) = backups.schedules.iter().find_map(|schedule| overdue(schedule, observed)) {
        return draft(false, "Overdue", message);
    }
    draft(true, "Verified", format!("{} was restored and is what it should be", newest.name))
}

/// Whether what a test found of one backup is made good by that of another: the same schedule made a newer one, which was
/// tested later, and passed. What no schedule made stands for itself, for as long as it is there.
fn makes_good(backup: &BackupView, failed: &Verification, other: &BackupView, passed: &Verification) -> bool {
    let moment = |backup: &BackupView| backup.time.unwrap_or(backup.created);
    passed.result == VerificationResult::Passed
        && backup.schedule.is_some()
        && backup.schedule == other.schedule
        && moment(other) > moment(backup)
        && passed.time.0 > failed.time.0
}

/// That the tests of a schedule do not keep up, if they do not. One that had none yet is counted from its first backup on.
fn overdue(schedule: &BackupSchedule, observed: &Observed) -> Option<String> {
    let every = parse_period(&schedule.verify.as_ref()?.every)?;
    let mine = || observed.backups.backups.iter().filter(|b| b.schedule.as_ref() == Some(&schedule.name));
    let tests = mine().filter_map(|backup| Some((backup.verification.as_ref()?.time.0, &backup.name)));
    let last = tests.max();
    let first = || mine().filter(|b| b.state == BackupState::Succeeded).filter_map(|b| b.time).min();
    let since = last.map(|(time, _)| time).or_else(first)?;
    let late = observed.now.duration_since(since) > SignedDuration::from_secs(every.saturating_mul(2));
    late.then(|| match last {
        Some((_, backup)) => {
            format!("the last test of schedule {} was that of {backup}, too long ago", schedule.name)
        }
        None => format!("no backup of schedule {} was restored for a test yet", schedule.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::{World, verification};
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
                taking_over: false,
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
    fn what_could_not_be_done_is_told() {
        let why = "SqliteBackup b is there already; cannot create Job c: quota".to_owned();
        let world = archive(ArchiveState::OnTarget).edit(|world| {
            world.observed.backups.failures = why.split("; ").map(str::to_owned).collect();
        });
        let draft = conditions(&world.desired, &world.observe(), &world.plan()).remove(0);
        assert_eq!((draft.holds, draft.reason, draft.message), (false, "BackupWorkFailed", why));
    }

    /// A backup of a schedule (none: made by hand), so many hours old, and what a test so many hours ago found.
    fn backed_up(schedule: Option<&str>, age: i64, test: Option<(i64, bool)>) -> BackupView {
        let now = crate::cluster::fixtures::now();
        let ago = |hours: i64| now - SignedDuration::from_hours(hours);
        let verification = test.map(|(age, passed)| match passed {
            true => verification(ago(age), VerificationResult::Passed),
            false => Verification {
                message: Some("a bit flipped".into()),
                ..verification(ago(age), VerificationResult::Failed)
            },
        });
        BackupView {
            name: format!("{}-{age}", schedule.unwrap_or("hand")),
            uid: String::new(),
            schedule: schedule.map(str::to_owned),
            due: schedule.map(|_| ago(age)),
            created: ago(age),
            state: BackupState::Succeeded,
            time: Some(ago(age)),
            path: None,
            store: None,
            cluster_id: None,
            verification,
            verify_at: None,
            message: String::new(),
            terminating: false,
        }
    }

    #[test]
    fn a_test_that_failed_stands_until_its_own_schedule_made_it_good() {
        let (a, b) = (Some("a"), Some("b"));
        let (passed, failed) = (|age| Some((age, true)), |age| Some((age, false)));
        for (what, backups, wanted) in [
            ("nothing", vec![], "NotVerified"),
            ("no test", vec![backed_up(a, 5, None)], "NotVerified"),
            ("it passed", vec![backed_up(a, 5, passed(4))], "Verified a-5"),
            ("it failed", vec![backed_up(a, 5, failed(4))], "VerificationFailed a-5"),
            (
                "another schedule passed later",
                vec![backed_up(a, 5, failed(4)), backed_up(b, 5, passed(3))],
                "VerificationFailed a-5",
            ),
            (
                "both failed",
                vec![backed_up(a, 5, failed(4)), backed_up(b, 6, failed(3))],
                "VerificationFailed a-5 b-6",
            ),
            (
                "the next one passed",
                vec![backed_up(a, 30, failed(28)), backed_up(a, 5, passed(4))],
                "Verified a-5",
            ),
            (
                "the next one failed",
                vec![backed_up(a, 30, passed(28)), backed_up(a, 5, failed(4))],
                "VerificationFailed a-5",
            ),
            (
                "an older one passed, by hand",
                vec![backed_up(a, 30, passed(1)), backed_up(a, 5, failed(4))],
                "VerificationFailed a-5",
            ),
            (
                "an older one failed after it",
                vec![backed_up(a, 5, passed(4)), backed_up(a, 30, failed(1))],
                "VerificationFailed a-30",
            ),
            (
                "one that no schedule made",
                vec![
                    backed_up(None, 90, failed(80)),
                    backed_up(a, 5, passed(4)),
                    backed_up(None, 3, passed(2)),
                ],
                "VerificationFailed hand-90",
            ),
            (
                "tests of one are late",
                vec![backed_up(a, 60, passed(49)), backed_up(b, 5, passed(4))],
                "Overdue a-60",
            ),
            ("one has none", vec![backed_up(a, 5, passed(4)), backed_up(b, 49, None)], "Overdue b"),
            ("one has none yet", vec![backed_up(a, 5, passed(4)), backed_up(b, 47, None)], "Verified a-5"),
            ("no backup yet", vec![backed_up(a, 5, passed(4))], "Verified a-5"),
        ] {
            let schedules = json!([
                {"name": "a", "cron": "0 3 * * *", "verify": {"every": "24h"}},
                {"name": "b", "cron": "0 4 * * *", "verify": {"every": "24h"}},
            ]);
            let schedules = || serde_json::from_value(schedules.clone()).unwrap();
            let world = world()
                .spec(|spec| spec.backup.as_mut().unwrap().schedules = schedules())
                .edit(|world| world.observed.backups.backups = backups);
            let draft = conditions(&world.desired, &world.observe(), &world.plan()).remove(1);
            let (reason, names) = wanted.split_once(' ').unwrap_or((wanted, ""));
            assert_eq!((draft.kind, draft.reason), ("BackupVerified", reason), "{what}: {}", draft.message);
            assert_eq!(draft.holds, reason == "Verified", "{what}");
            assert!(names.split(' ').all(|name| draft.message.contains(name)), "{what}: {}", draft.message);
        }
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
    fn the_window_of_a_cluster_that_sleeps_has_an_end() {
        let earliest: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = "2026-01-05T00:00:00Z";
        let window = |latest: Option<&str>| {
            let latest = latest.map(|latest| Time(time(latest)));
            Some(RecoveryWindow { earliest: Time(earliest), latest })
        };
        let (exact, early) = (Some("2026-01-04T23:59:59Z"), Some("2026-01-04T00:00:00Z"));
        // (what the leader says is the end, if there is a leader; what was told before) → what is told.
        for (said, before, wanted) in [
            // It goes to sleep: at most the target is missing.
            (Some(None), window(None), window(Some("2026-01-04T23:59:55Z"))),
            (Some(None), window(early), window(Some("2026-01-04T23:59:55Z"))),
            (Some(None), window(Some("2026-01-04T23:59:00Z")), window(Some("2026-01-04T23:59:00Z"))),
            // It has archived everything.
            (Some(exact), window(None), window(exact)),
            (Some(exact), window(early), window(exact)),
            // It is gone.
            (None, window(exact), window(exact)),
            (None, window(None), window(Some("2026-01-01T00:00:00Z"))),
            (None, None, None),
        ] {
            let world = archive(ArchiveState::OnTarget).spec(|spec| spec.hibernated = true).edit(|world| {
                world.observed.now = time(now);
                world.observed.status.backup = Some(BackupStatus {
                    archive: Some(ArchiveStatus::OnTarget),
                    recovery_window: before.clone(),
                    ..BackupStatus::default()
                });
                let report = world.observed.reports.get_mut("orders-0").unwrap().archive.as_mut().unwrap();
                report.latest = said.flatten().map(str::to_owned);
            });
            let world = if said.is_some() { world } else { world.leaderless() };
            let told = status(&world.desired, &world.observe(), &world.plan()).unwrap().recovery_window;
            assert_eq!(told, wanted, "{said:?} after {before:?}");
            // Awake it moves again.
            let awake = archive(ArchiveState::OnTarget).edit(|world| world.observed.status.backup = None);
            let told = status(&awake.desired, &awake.observe(), &awake.plan()).unwrap().recovery_window;
            assert_eq!(told, window(None));
        }
    }

    /// The same, where a new leader has not looked yet, and what the leader before said was this.
    fn taken_over(
        world: World,
        before: Option<BackupStatus>,
        earliest: Option<&str>,
        latest: Option<&str>,
    ) -> World {
        world.edit(|world| {
            world.observed.status.backup = before;
            let report = world.observed.reports.get_mut("orders-0").unwrap().archive.as_mut().unwrap();
            report.taking_over = true;
            report.earliest = earliest.map(str::to_owned);
            report.latest = latest.map(str::to_owned);
        })
    }

    #[test]
    fn what_was_told_holds_on_while_a_new_leader_looks() {
        use ArchiveState as S;
        let before = |state| {
            let world = archive(state);
            status(&world.desired, &world.observe(), &world.plan())
        };
        let later = Some("2026-01-03T00:00:00Z");
        for (was, wanted) in [
            (before(S::OnTarget), "true TakingOver"),
            (before(S::Behind), "false ArchiveBehind"),
            (before(S::Broken), "false ArchiveBroken"),
        ] {
            let world = taken_over(archive(S::Starting), was.clone(), None, later);
            assert_eq!(status(&world.desired, &world.observe(), &world.plan()), was, "{wanted}");
            assert_eq!(told(&world), wanted);
        }
        let starting = BackupStatus { archive: Some(ArchiveStatus::Starting), ..BackupStatus::default() };
        for was in [None, Some(starting)] {
            let world = taken_over(archive(S::Starting), was, None, None);
            let now = status(&world.desired, &world.observe(), &world.plan()).unwrap();
            assert_eq!((now.archive, now.recovery_window), (Some(ArchiveStatus::Starting), None));
            assert_eq!(told(&world), "false Starting");
        }
        // It has looked, and there is no base backup: another store.
        let world = archive(S::Starting).edit(|world| {
            world.observed.status.backup = before(S::OnTarget);
            let report = world.observed.reports.get_mut("orders-0").unwrap().archive.as_mut().unwrap();
            (report.earliest, report.latest) = (None, None);
        });
        let now = status(&world.desired, &world.observe(), &world.plan()).unwrap();
        assert_eq!(
            (now.recovery_window, now.rpo_seconds, told(&world)),
            (None, None, "false Starting".into())
        );
    }

    #[test]
    fn a_new_leader_that_cannot_look_says_no_more_than_it_heard() {
        let before = |state| {
            let world = archive(state);
            status(&world.desired, &world.observe(), &world.plan())
        };
        let window = |before, latest| {
            let world = taken_over(archive(ArchiveState::Behind), before, None, latest);
            let now = status(&world.desired, &world.observe(), &world.plan()).unwrap();
            assert_eq!(now.archive, Some(ArchiveStatus::Behind));
            let text = |time: Time| time.0.to_string();
            now.recovery_window.map(|window| (text(window.earliest), window.latest.map(text)))
        };
        let known = |latest: &str| Some(("2026-01-01T00:00:00Z".to_owned(), Some(latest.to_owned())));
        let (on_target, behind) = (before(ArchiveState::OnTarget), before(ArchiveState::Behind));
        let heard = Some("2026-01-03T00:00:00.7Z");
        assert_eq!(window(on_target.clone(), heard), known("2026-01-03T00:00:00Z"));
        assert_eq!(window(behind.clone(), heard), known("2026-01-03T00:00:00Z"));
        assert_eq!(window(behind, None), known("2026-01-02T00:00:30Z"));
        assert_eq!(window(on_target, None), None, "nobody knows where it ended");
        assert_eq!(window(None, heard), None);
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
