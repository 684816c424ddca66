//! Tests of backups: the newest one of a schedule is restored by a Job beside the cluster, which tells what it found by the
//! message that its container leaves. Pure, but for looking at the cache.

use super::seen::{BackupState, BackupView};
use crate::cluster::observed::Observed;
use crate::cluster::validate::Desired;
use crate::context::Context;
use crate::crd::{BackupSchedule, Backups, Verification, VerificationResult, number, parse_period};
use crate::names::{CONTAINER, ClusterName, content_hash};
use client::backup::RestoreReport;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, ContainerStateWaiting, Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::events::EventType;
use std::collections::BTreeMap;

/// Annotation of a test's pod: the SqliteBackup that it tests.
pub const ANNOTATION_TESTS: &str = "sqlite-operator.io/tests";

/// After that a test whose pod does not come to run holds up only what is like it.
const STUCK_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// The pod of a test.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifierView {
    /// Its name.
    pub pod: String,
    /// The SqliteBackup that it tests.
    pub backup: String,
    /// When it was made.
    pub created: Timestamp,
    /// What keeps it from running.
    pub hindrance: Option<Hindrance>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// What it found. One that ended without a word, as one that was evicted, says nothing about the backup.
    pub report: Option<RestoreReport>,
    /// Why it ended without a word.
    pub cause: Option<String>,
}

/// What keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// No Kubernetes node takes it, in the words of the scheduler.
    Unschedulable(String),
    /// Its container cannot be started, in the words of the kubelet.
    CannotStart(String),
}

impl VerifierView {
    /// Whether it does not come to run, for so long that others go on.
    fn is_stuck(&self, now: Timestamp) -> bool {
        self.ended.is_none() && self.hindrance.is_some() && now.duration_since(self.created) >= STUCK_AFTER
    }

    /// Why there is no verdict of it, for people.
    fn silence(&self) -> Option<String> {
        let backup = &self.backup;
        match (&self.hindrance, &self.cause) {
            (Some(Hindrance::Unschedulable(why)), _) => {
                Some(format!("no Kubernetes node takes the pod that tests {backup}: {why}"))
            }
            (Some(Hindrance::CannotStart(why)), _) => {
                Some(format!("the pod that tests {backup} cannot start: {why}"))
            }
            (None, Some(cause)) => Some(format!("the test of {backup} ended without a verdict: {cause}")),
            (None, None) => None,
        }
    }
}

/// A test that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVerifier {
    /// Name of the Job.
    pub job: String,
    /// The SqliteBackup.
    pub backup: String,
    /// Where it is in the store.
    pub path: String,
    /// The schedule whose queries are asked.
    pub schedule: String,
    /// Whether there are any.
    pub has_queries: bool,
    /// Whether what is archived after it is tested with it.
    pub replay: bool,
    /// How large the volume is that it is restored to.
    pub volume_size: String,
}

/// What a test came to, to be written down.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The SqliteBackup.
    pub backup: String,
    /// What it came to.
    pub verification: Verification,
}

impl Verdict {
    /// The event that tells of it; metrics count by its reason.
    pub fn event(&self) -> (EventType, &'static str) {
        match self.verification.result {
            VerificationResult::Passed => (EventType::Normal, "BackupVerified"),
            VerificationResult::Failed => (EventType::Warning, "BackupVerificationFailed"),
        }
    }
}

/// Pods of tests of a cluster's backups.
pub fn see(name: &ClusterName, ctx: &Context) -> Vec<VerifierView> {
    ctx.stores.verifiers.of(name).iter().filter_map(view).collect()
}

fn view(pod: &Pod) -> Option<VerifierView> {
    let backup = pod.annotations().get(ANNOTATION_TESTS)?.clone();
    let nothing = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&nothing);
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    let state = statuses.iter().find(|c| c.name == CONTAINER).and_then(|container| container.state.as_ref());
    let container = state.and_then(|state| state.terminated.as_ref());
    let finished = container.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let report: Option<RestoreReport> =
        container.and_then(|ended| serde_json::from_str(ended.message.as_deref()?.trim()).ok());
    let ended = over.then(|| finished.or(created)).flatten();
    let waits = state.and_then(|state| state.waiting.as_ref());
    let hindrance =
        unschedulable(status).or_else(|| waits.and_then(cannot_start)).filter(|_| ended.is_none());
    let (report, cause) = match report {
        // Of a store that did not answer nothing is learned about what is in it.
        Some(report) if report.unanswered => {
            let why = report.message.map(|why| format!(": {why}")).unwrap_or_default();
            (None, Some(format!("the store did not answer{why}")))
        }
        None => (None, ended.map(|_| cause(status, container))),
        report => (report, None),
    };
    let created = created.unwrap_or_default();
    Some(VerifierView { pod: pod.name_any(), backup, created, hindrance, ended, report, cause })
}

/// In the words of the scheduler.
fn unschedulable(status: &PodStatus) -> Option<Hindrance> {
    let waits = |condition: &&PodCondition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    };
    let waits = status.conditions.as_ref()?.iter().find(waits)?;
    let why = waits.message.clone().unwrap_or_else(|| "the scheduler does not say why".into());
    Some(Hindrance::Unschedulable(why))
}

/// In the words of the kubelet, but for an image: of that they change with each attempt.
fn cannot_start(waits: &ContainerStateWaiting) -> Option<Hindrance> {
    let reason = waits.reason.as_deref()?;
    let why = match reason {
        "ContainerCreating" | "PodInitializing" => return None,
        reason if reason.contains("Image") => "its image cannot be pulled".to_owned(),
        reason => worded(reason, waits.message.as_deref()),
    };
    Some(Hindrance::CannotStart(why))
}

/// Why a pod ended without a report: what was done to it (Evicted, DeadlineExceeded), or to its container (OOMKilled).
fn cause(status: &PodStatus, container: Option<&ContainerStateTerminated>) -> String {
    if let Some(reason) = &status.reason {
        return worded(reason, status.message.as_deref());
    }
    let Some(container) = container else { return "Kubernetes does not say why".into() };
    let ended =
        format!("{}, exit code {}", container.reason.as_deref().unwrap_or("Error"), container.exit_code);
    worded(&ended, container.message.as_deref())
}

fn worded(reason: &str, message: Option<&str>) -> String {
    let message = message.map(str::trim).filter(|message| !message.is_empty());
    message.map_or_else(|| reason.to_owned(), |message| format!("{reason}: {message}"))
}

/// What keeps a test from running or from a verdict, for people.
pub fn obstacle(observed: &Observed) -> Option<String> {
    observed.backups.verifiers.iter().find_map(VerifierView::silence)
}

/// Tests that came to no verdict, or do not come to run, by their pods: why. What may pass in a moment is not told of.
pub fn silent(observed: &Observed) -> BTreeMap<String, String> {
    let is_silent = |verifier: &&VerifierView| verifier.ended.is_some() || verifier.is_stuck(observed.now);
    let silent = observed.backups.verifiers.iter().filter(is_silent);
    silent.filter_map(|verifier| Some((verifier.pod.clone(), verifier.silence()?))).collect()
}

/// What ended and is not written down yet.
pub fn verdicts(observed: &Observed) -> Vec<Verdict> {
    let backup = |name: &str| observed.backups.backups.iter().find(|backup| backup.name == name);
    observed
        .backups
        .verifiers
        .iter()
        .filter_map(|verifier| {
            let (ended, report) = (verifier.ended?, verifier.report.as_ref()?);
            let known = backup(&verifier.backup)?.verification.as_ref().map(|known| known.time.0);
            let verification = verification(report, ended);
            (known < Some(verification.time.0))
                .then(|| Verdict { backup: verifier.backup.clone(), verification })
        })
        .collect()
}

fn verification(report: &RestoreReport, ended: Timestamp) -> Verification {
    let message = match (&report.restored, &report.message) {
        (Some(_), None) => None,
        (_, message) => Some(message.clone().unwrap_or_else(|| "the test does not say why".into())),
    };
    let result = if message.is_none() { VerificationResult::Passed } else { VerificationResult::Failed };
    let restored = report.restored.as_ref();
    Verification {
        time: Time(crate::cluster::conditions::whole_second(ended)),
        result,
        restore_seconds: restored.map(|restored| number(restored.milliseconds.div_ceil(1000))),
        bytes_per_second: restored
            .map(|restored| number(restored.size_bytes.saturating_mul(1000) / restored.milliseconds.max(1))),
        index: restored.map(|restored| number(restored.index)),
        checked_index: restored.and_then(|restored| restored.checked_index).map(number),
        message,
    }
}

/// Tests that are due, one of which is to be made: the first one that was not made before.
///
/// One that is stuck holds up further ones of its schedule only, whose pods would be like its own.
pub fn due(desired: &Desired, observed: &Observed) -> Vec<NewVerifier> {
    let runs = |verifier: &VerifierView| verifier.ended.is_none() && !verifier.is_stuck(observed.now);
    if observed.backups.verifiers.iter().any(runs) {
        return Vec::new();
    }
    let schedules = || desired.spec.backup.iter().flat_map(|backups| &backups.schedules);
    let reachable =
        |backup: &&BackupView| is_reachable(desired, observed, backup) && !has_test(observed, backup);
    let asked = observed.backups.backups.iter().filter(reachable).filter(|backup| {
        let last = backup.verification.as_ref().map(|verification| verification.time.0);
        backup.verify_at.is_some_and(|asked| Some(asked) > last)
    });
    let by_hand = asked.filter_map(|backup| {
        new_verifier(
            desired,
            observed,
            backup,
            schedules().find(|schedule| Some(&schedule.name) == backup.schedule.as_ref()),
        )
    });
    by_hand.chain(schedules().filter_map(|schedule| of_schedule(desired, observed, schedule))).collect()
}

/// Whether a test of it is stuck, or ended without a word, as one does that was evicted, and its pod is still there: it is
/// tested again when that is gone, and others meanwhile.
fn has_test(observed: &Observed, backup: &BackupView) -> bool {
    observed
        .backups
        .verifiers
        .iter()
        .any(|verifier| verifier.backup == backup.name && verifier.report.is_none())
}

/// Whether it is complete, and where the members read.
fn is_reachable(desired: &Desired, observed: &Observed, backup: &BackupView) -> bool {
    backup.state == BackupState::Succeeded
        && !backup.terminating
        && backup.store.as_ref() == desired.spec.backup.as_ref().map(|backups| &backups.store)
        && backup.cluster_id.as_deref() == observed.cluster_id()
}

/// The test of a backup, with the queries of its schedule.
fn new_verifier(
    desired: &Desired,
    observed: &Observed,
    backup: &BackupView,
    schedule: Option<&BackupSchedule>,
) -> Option<NewVerifier> {
    // Another test of the same backup is another Job.
    let again = backup.verification.as_ref().map(|verification| verification.time.0);
    let hash = content_hash(format!("{}/{again:?}", backup.uid).as_bytes());
    let queries = schedule.and_then(|schedule| schedule.verify.as_ref()).map(|verify| &verify.queries);
    Some(NewVerifier {
        job: format!("{}-verify-{hash}", desired.name.name),
        backup: backup.name.clone(),
        path: backup.path.clone()?,
        schedule: schedule.map(|schedule| schedule.name.clone()).unwrap_or_default(),
        has_queries: queries.is_some_and(|queries| !queries.is_empty()),
        replay: desired.spec.backup.as_ref().is_some_and(Backups::has_archive),
        volume_size: volume_size(desired, observed),
    })
}

/// That of the members' largest volume, which may have grown beyond what the spec says.
fn volume_size(desired: &Desired, observed: &Observed) -> String {
    let claims = observed
        .claims
        .values()
        .filter_map(|claim| Some((claim.requested_bytes?, claim.requested.as_ref()?)));
    let grown = claims.max_by_key(|(bytes, _)| *bytes).filter(|(bytes, _)| *bytes > desired.volume_bytes);
    grown.map_or_else(|| desired.spec.storage.size.clone(), |(_, size)| size.clone())
}

fn of_schedule(desired: &Desired, observed: &Observed, schedule: &BackupSchedule) -> Option<NewVerifier> {
    let verify = schedule.verify.as_ref()?;
    let every = SignedDuration::from_secs(parse_period(&verify.every)?);
    let mine = || {
        let of = move |backup: &&BackupView| backup.schedule.as_ref() == Some(&schedule.name);
        observed.backups.backups.iter().filter(of)
    };
    let last = mine().filter_map(|backup| Some(backup.verification.as_ref()?.time.0)).max();
    if last.is_some_and(|last| observed.now.duration_since(last) < every) {
        return None;
    }
    let reachable =
        |backup: &&BackupView| is_reachable(desired, observed, backup) && !has_test(observed, backup);
    let stuck = |backup: &BackupView| {
        let of = |verifier: &VerifierView| verifier.backup == backup.name && verifier.is_stuck(observed.now);
        observed.backups.verifiers.iter().any(of)
    };
    if mine().any(stuck) {
        return None;
    }
    let newest = mine().filter(reachable).max_by_key(|backup| backup.time)?;
    new_verifier(desired, observed, newest, Some(schedule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::conditions::dated;
    use crate::cluster::fixtures::{CLUSTER_ID, World, verification};
    use crate::metrics::Metrics;
    use crate::trim::Trim as _;
    use serde_json::{Value, json};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn backup(name: &str, age: i64) -> BackupView {
        BackupView {
            name: name.into(),
            uid: name.into(),
            schedule: Some("nightly".into()),
            due: Some(at(-age)),
            created: at(-age),
            state: BackupState::Succeeded,
            time: Some(at(-age)),
            path: Some(format!("path-{name}")),
            store: Some(serde_json::from_value(json!({"s3": {"bucket": "b"}})).unwrap()),
            cluster_id: Some(CLUSTER_ID.into()),
            verification: None,
            verify_at: None,
            message: String::new(),
            terminating: false,
        }
    }

    fn world(backups: Vec<BackupView>) -> World {
        let spec = json!({"store": {"s3": {"bucket": "b"}}, "schedules": [
            {"name": "nightly", "cron": "0 3 * * *", "verify": {"every": "24h"}},
        ]});
        World::serving(3, 0)
            .spec(|s| s.backup = Some(serde_json::from_value(spec).unwrap()))
            .edit(|world| world.observed.backups.backups = backups)
    }

    fn tested(backup: BackupView, age: i64) -> BackupView {
        BackupView { verification: Some(verification(at(-age), VerificationResult::Passed)), ..backup }
    }

    fn asked(backup: BackupView) -> BackupView {
        BackupView { verify_at: Some(at(-60)), ..backup }
    }

    fn verifier(ended: Option<i64>, report: Option<Value>) -> VerifierView {
        let report = report.map(|report| serde_json::from_value(report).unwrap());
        VerifierView {
            pod: "p".into(),
            backup: "new".into(),
            created: at(-60),
            hindrance: None,
            ended: ended.map(at),
            report,
            cause: None,
        }
    }

    #[test]
    fn the_newest_is_tested_when_it_is_time() {
        let due =
            |world: &World| due(&world.desired, &world.observed).into_iter().next().map(|new| new.backup);
        let both = || vec![backup("new", 100), backup("old", 90_000)];
        let evicted = |backups: Vec<BackupView>| {
            world(backups).edit(|w| w.observed.backups.verifiers = vec![verifier(Some(0), None)])
        };
        let running = world(both()).edit(|w| w.observed.backups.verifiers = vec![verifier(None, None)]);
        for (what, world, wanted) in [
            ("none there", world(vec![]), None),
            ("never tested", world(both()), Some("new")),
            ("tested lately", world(vec![backup("new", 100), tested(backup("old", 90_000), 3_600)]), None),
            ("long ago", world(vec![backup("new", 100), tested(backup("old", 90_000), 86_400)]), Some("new")),
            ("the same once more", world(vec![tested(backup("new", 100_000), 90_000)]), Some("new")),
            ("one at a time", running, None),
            (
                "by hand",
                world(vec![asked(backup("new", 100)), tested(backup("old", 90_000), 3_600)]),
                Some("new"),
            ),
            ("evicted lately: another one", evicted(both()), Some("old")),
            (
                "evicted lately, by hand",
                evicted(vec![asked(backup("new", 100)), backup("old", 90_000)]),
                Some("old"),
            ),
            ("by hand, and done", world(vec![tested(asked(backup("new", 100)), 10)]), None),
        ] {
            assert_eq!(due(&world).as_deref(), wanted, "{what}");
        }
    }

    #[test]
    fn a_test_that_finds_no_node_does_not_hold_up_others() {
        let hourly = |name: &str| BackupView { schedule: Some("hourly".into()), ..backup(name, 50) };
        let seen = |of: &str, age: i64| VerifierView {
            backup: of.into(),
            created: at(-age),
            hindrance: Some(Hindrance::Unschedulable("0/3 nodes are available".into())),
            ..verifier(None, None)
        };
        let with = |backups: Vec<BackupView>, verifiers: Vec<VerifierView>| {
            let spec = json!([
                {"name": "nightly", "cron": "0 3 * * *", "verify": {"every": "24h"}},
                {"name": "hourly", "cron": "0 * * * *", "verify": {"every": "24h"}},
            ]);
            world(backups)
                .spec(|s| s.backup.as_mut().unwrap().schedules = serde_json::from_value(spec).unwrap())
                .edit(|world| world.observed.backups.verifiers = verifiers)
        };
        let all = || vec![backup("new", 100), backup("old", 90_000), hourly("h")];
        let running = || VerifierView { hindrance: None, ..seen("h", 600) };
        for (what, world, wanted) in [
            ("nothing runs", with(all(), vec![]), vec!["new", "h"]),
            ("for a moment", with(all(), vec![seen("new", 299)]), vec![]),
            ("another schedule goes on", with(all(), vec![seen("new", 300)]), vec!["h"]),
            ("one at a time", with(all(), vec![seen("new", 300), running()]), vec![]),
            ("all are stuck", with(all(), vec![seen("new", 300), seen("h", 300)]), vec![]),
            (
                "by hand",
                with(vec![backup("new", 100), asked(backup("old", 90_000))], vec![seen("new", 300)]),
                vec!["old"],
            ),
            ("by hand, and stuck", with(vec![asked(backup("new", 100))], vec![seen("new", 300)]), vec![]),
        ] {
            let found: Vec<_> =
                due(&world.desired, &world.observed).into_iter().map(|new| new.backup).collect();
            assert_eq!(found, wanted, "{what}");
        }
        let stuck = with(all(), vec![seen("new", 10)]);
        let drafts = super::super::health::conditions(&stuck.desired, &stuck.observe(), &stuck.plan());
        let verified = drafts.into_iter().find(|draft| draft.kind == "BackupVerified").unwrap();
        assert_eq!((verified.holds, verified.reason), (false, "NotVerified"));
        let why = "no Kubernetes node takes the pod that tests new: 0/3 nodes are available";
        assert!(verified.message.contains(why), "{}", verified.message);
    }

    /// A pod of a test, with this status.
    fn pod(status: Value) -> Pod {
        let annotations = json!({ANNOTATION_TESTS: "new"});
        let metadata = json!({"name": "p", "annotations": annotations, "creationTimestamp": at(0)});
        let mut pod: Pod = serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap();
        // What the cache keeps of it.
        pod.trim();
        pod
    }

    #[test]
    fn why_a_pod_waits_is_read_from_it() {
        use Hindrance::{CannotStart, Unschedulable};
        let scheduled = |status: &str, reason: &str| {
            let condition =
                json!({"type": "PodScheduled", "status": status, "reason": reason, "message": "no room"});
            json!({"phase": "Pending", "conditions": [condition]})
        };
        let waiting = |reason: &str| {
            let state = json!({"waiting": {"reason": reason, "message": "why"}});
            let container = json!({"name": CONTAINER, "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": state});
            json!({"phase": "Pending", "containerStatuses": [container]})
        };
        let pull = || Some(CannotStart("its image cannot be pulled".into()));
        for (status, wanted) in [
            (scheduled("False", "Unschedulable"), Some(Unschedulable("no room".into()))),
            (scheduled("False", "SchedulerError"), None),
            (scheduled("True", ""), None),
            (json!({"phase": "Pending"}), None),
            (waiting("ContainerCreating"), None),
            (waiting("ErrImagePull"), pull()),
            (waiting("ImagePullBackOff"), pull()),
            (
                waiting("CreateContainerConfigError"),
                Some(CannotStart("CreateContainerConfigError: why".into())),
            ),
        ] {
            assert_eq!(view(&pod(status.clone())).unwrap().hindrance, wanted, "{status}");
        }
    }

    #[test]
    fn a_test_that_ends_without_a_verdict_says_why() {
        let ended = |reason: &str, exit_code: i32, message: &str| {
            let terminated = json!({"reason": reason, "exitCode": exit_code, "message": message,
                "finishedAt": at(10)});
            json!([{"name": CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": terminated}}])
        };
        let failed = |containers: Value| json!({"phase": "Failed", "containerStatuses": containers});
        let of_pod = |reason: &str, message: &str| {
            json!({"phase": "Failed", "reason": reason, "message": message,
                "containerStatuses": ended("Error", 137, "")})
        };
        let silent_store = r#"{"unanswered": true, "message": "connection refused"}"#;
        for (status, wanted) in [
            (failed(ended("OOMKilled", 137, "")), Some("OOMKilled, exit code 137")),
            (failed(ended("Error", 2, "no such flag\n")), Some("Error, exit code 2: no such flag")),
            (failed(json!([])), Some("Kubernetes does not say why")),
            (
                of_pod("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"),
                Some("DeadlineExceeded: Pod was active on the node longer than the specified deadline"),
            ),
            (of_pod("Evicted", "disk pressure"), Some("Evicted: disk pressure")),
            (failed(ended("Error", 1, silent_store)), Some("the store did not answer: connection refused")),
            (failed(ended("Error", 1, r#"{"message": "a bit flipped"}"#)), None),
            (json!({"phase": "Running"}), None),
        ] {
            let verifier = view(&pod(status.clone())).unwrap();
            assert_eq!(verifier.cause.as_deref(), wanted, "{status}");
            let world = world(vec![backup("new", 100)])
                .edit(|world| world.observed.backups.verifiers = vec![verifier]);
            let sentence = wanted.map(|why| format!("the test of new ended without a verdict: {why}"));
            let told = silent(&world.observed).remove("p");
            assert_eq!(told, sentence, "by an event");
            let drafts = super::super::health::conditions(&world.desired, &world.observe(), &world.plan());
            let verified = drafts.into_iter().find(|draft| draft.kind == "BackupVerified").unwrap();
            let is_in = sentence.is_none_or(|sentence| verified.message.contains(&sentence));
            assert!(!verified.holds && is_in, "{}", verified.message);
        }
    }

    #[test]
    fn a_test_that_waits_is_told_by_an_event_once_it_is_stuck() {
        let waits = |age: i64| VerifierView {
            created: at(-age),
            hindrance: Some(Hindrance::CannotStart("its image cannot be pulled".into())),
            ..verifier(None, None)
        };
        let told = |age| {
            let world = world(vec![]).edit(|world| world.observed.backups.verifiers = vec![waits(age)]);
            (silent(&world.observed).into_values().next(), obstacle(&world.observed))
        };
        let why = Some("the pod that tests new cannot start: its image cannot be pulled".to_owned());
        assert_eq!((told(299), told(300)), ((None, why.clone()), (why.clone(), why)));
    }

    #[test]
    fn a_database_that_grew_has_room_in_its_test() {
        let size = |world: &World| due(&world.desired, &world.observed).remove(0).volume_size;
        let world = world(vec![backup("new", 100)]);
        assert_eq!(size(&world), world.desired.spec.storage.size);
        let grown = world.edit(|world| {
            let claim = world.observed.claims.get_mut("orders-1").unwrap();
            (claim.requested, claim.requested_bytes) = (Some("5Gi".into()), Some(5 << 30));
        });
        assert_eq!(size(&grown), "5Gi");
    }

    #[test]
    fn a_test_of_the_same_backup_is_another_job() {
        let job = |world: &World| due(&world.desired, &world.observed).remove(0).job;
        let first = job(&world(vec![backup("new", 100_000)]));
        assert_ne!(first, job(&world(vec![tested(backup("new", 100_000), 90_000)])));
        assert!(first.starts_with("orders-verify-") && first.len() <= 63, "{first}");
    }

    #[test]
    fn only_a_report_is_a_verdict_and_it_is_written_down_once() {
        let restored = json!({
            "clusterId": "c1", "epoch": 1, "backup": "p", "index": 7, "time": "2026-01-01T00:00:00Z",
            "replayed": 0, "sizeBytes": 3_000_000, "milliseconds": 1500, "checkedIndex": 5,
        });
        let found = |verifier: VerifierView, backup: BackupView| {
            let world = world(vec![backup]).edit(|w| w.observed.backups.verifiers = vec![verifier]);
            verdicts(&world.observed).into_iter().map(|verdict| verdict.verification).next()
        };
        let new = || backup("new", 100);
        let passed = found(verifier(Some(0), Some(json!({"restored": restored}))), new()).unwrap();
        assert_eq!((passed.result, passed.restore_seconds), (VerificationResult::Passed, Some(2)));
        assert_eq!(
            (passed.bytes_per_second, passed.index, passed.checked_index),
            (Some(2_000_000), Some(7), Some(5))
        );
        let failed = found(verifier(Some(0), Some(json!({"message": "a bit flipped"}))), new()).unwrap();
        assert_eq!(failed.message.as_deref(), Some("a bit flipped"));
        assert_eq!(found(verifier(Some(0), None), new()), None, "evicted");
        assert_eq!(found(verifier(None, None), new()), None, "under way");
        let written = tested(new(), 0);
        assert_eq!(found(verifier(Some(0), Some(json!({"message": "x"}))), written), None);
    }

    #[test]
    fn a_flipped_bit_is_told_by_event_metric_and_condition() {
        let why = "after entry 7 the page checksum is 0000000000000001 and the cluster had 0000000000000002";
        let mut world = world(vec![backup("new", 100)])
            .edit(|w| w.observed.backups.verifiers = vec![verifier(Some(0), Some(json!({"message": why})))]);
        let verdict = verdicts(&world.observed).remove(0);
        let (type_, reason) = verdict.event();
        assert!(matches!(type_, EventType::Warning) && reason == "BackupVerificationFailed");
        world.observed.backups.backups[0].verification = Some(verdict.verification);
        let drafts = super::super::health::conditions(&world.desired, &world.observe(), &world.plan());
        let verified = drafts.into_iter().find(|draft| draft.kind == "BackupVerified").unwrap();
        assert_eq!((verified.holds, verified.reason), (false, "VerificationFailed"));
        assert!(verified.message.contains(why), "{}", verified.message);
        let metrics = Metrics::new();
        metrics.backup_ended(reason);
        metrics.publish("SqliteCluster", "shop", "orders", &[dated(verified, &[], at(0), 1)]);
        let text = metrics.text().unwrap();
        let condition = r#"type="BackupVerified",status="False",reason="VerificationFailed"} 1"#;
        assert!(
            text.contains(condition) && text.contains(r#"result="BackupVerificationFailed"} 1"#),
            "{text}"
        );
    }
}
