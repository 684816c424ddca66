//! (what is asked for, what is) → the next step of a backup. Pure: no client, no clock.

use super::observed::{Cluster, Observed};
use super::status::is_over;
use crate::cluster::conditions::whole_second;
use crate::crd::{BackupDeletion, BackupFailures};
use client::backup::{Backup, JobState};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How long the objects of a deleted backup are tried to be deleted before they are given up.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// How long after the first attempt that failed the next one begins; after each it is twice as long.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// No pause is longer: a store that is back is used soon.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is over.
    Nothing,
    /// Marks the object, so that it does not go before what is in the store.
    Hold,
    /// Something has to come first.
    Wait {
        /// For programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// Asks a member for the backup.
    Start {
        /// Which.
        member: String,
    },
    /// A member is at it.
    Follow {
        /// Which.
        member: String,
        /// Hundredths that are done.
        percent: u8,
    },
    /// An attempt failed, and another one follows.
    Retry(BackupFailures),
    /// Asks a member what is in the store.
    LookUp {
        /// Which.
        member: String,
        /// The path to look for.
        path: String,
    },
    /// It is in the store.
    Succeed(Box<Backup>),
    /// It will not be in the store.
    Fail {
        /// For programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// The object is to go, and a member may be at what it stands for, which nobody can stop.
    AwaitEnd {
        /// Which.
        member: String,
    },
    /// The object is to go, and nobody knows any more what became of it: asks a member whether it is in the store.
    Find {
        /// Which.
        member: String,
    },
    /// Has a member delete what is in the store.
    DeleteObjects {
        /// Which.
        member: String,
        /// What.
        path: String,
    },
    /// Lets the object go.
    Release {
        /// Why something may be left in the store.
        left: Option<String>,
    },
}

/// The next step.
pub fn plan(observed: &Observed) -> Step {
    let object = &observed.object;
    let deletes = object.spec.deletion_policy == BackupDeletion::Delete;
    if let Some(since) = object.deleted {
        return match (object.held, deletes) {
            (true, true) => let_go(observed, since),
            // It was to take them along, and is not any more.
            (true, false) => Step::Release { left: None },
            (false, _) => Step::Nothing,
        };
    }
    if deletes && !object.held {
        return Step::Hold;
    }
    if is_over(&object.status) {
        return Step::Nothing;
    }
    let done = |state| observed.jobs.iter().find(move |(_, job)| job.state == state);
    if let Some(backup) = done(JobState::Succeeded).and_then(|(_, job)| job.backup.clone()) {
        return Step::Succeed(Box::new(backup));
    }
    let deadline = SignedDuration::from_secs(object.spec.deadline_seconds.into());
    let ends = object.created.saturating_add(deadline).unwrap_or(Timestamp::MAX);
    let late = observed.now >= ends;
    if let (Some((member, job)), false) = (done(JobState::Running), late) {
        return Step::Follow { member: member.clone(), percent: job.progress_percent.min(100) };
    }
    if let Some(step) = after_failure(observed, ends) {
        return step;
    }
    let next = next(observed);
    match next {
        _ if late => {
            let why = match next {
                Step::Wait { message, .. } => message,
                _ => "no member finished it".into(),
            };
            let why = match &object.status.failures {
                Some(failures) => format!("{why}; {}", told(failures)),
                None => why,
            };
            let seconds = object.spec.deadline_seconds;
            Step::Fail {
                reason: "DeadlineExceeded",
                message: format!("it is not in the store after {seconds} seconds: {why}"),
            }
        }
        next => next,
    }
}

/// An attempt failed; none: none did since the last one began, or it is time for the next one.
///
/// A member makes a backup that failed anew when it is asked for the same name, and the name in the store is the same: an
/// attempt of which the status was not written is only made once more.
fn after_failure(observed: &Observed, ends: Timestamp) -> Option<Step> {
    let status = &observed.object.status;
    let before = status.failures.as_ref();
    if let Some((failures, next)) = before.and_then(|failures| Some((failures, failures.next_time.as_ref()?)))
    {
        let message = told(failures);
        return (observed.now < next.0).then_some(Step::Wait { reason: "Retrying", message });
    }
    // What another member failed in before was counted then.
    let asked = status.member.as_ref();
    let (member, job) = observed
        .jobs
        .iter()
        .find(|(member, job)| job.state == JobState::Failed && asked.is_none_or(|asked| asked == member))?;
    let count = before.map_or(0, |failures| failures.count).saturating_add(1);
    let why = job.message.clone().unwrap_or_else(|| "it does not say why".into());
    let next = observed.now.saturating_add(pause(count)).unwrap_or(Timestamp::MAX);
    if next >= ends {
        let seconds = observed.object.spec.deadline_seconds;
        let message = format!(
            "{member}: {why}; that was attempt {count}, and the next one would begin after the {seconds} seconds of spec.deadlineSeconds"
        );
        return Some(Step::Fail { reason: "BackupFailed", message });
    }
    let next_time = Some(Time(whole_second(next)));
    Some(Step::Retry(BackupFailures { count, member: member.clone(), message: why, next_time }))
}

/// How long after so many failed attempts the next one begins.
fn pause(count: i32) -> SignedDuration {
    let doublings = u32::try_from(count.saturating_sub(1)).unwrap_or_default();
    FIRST_PAUSE.saturating_mul(2_i32.saturating_pow(doublings)).min(LONGEST_PAUSE)
}

/// What failed, for people.
pub(super) fn told(failures: &BackupFailures) -> String {
    let BackupFailures { count, member, message, next_time } = failures;
    let next =
        next_time.as_ref().map(|next| format!("; the next one begins at {}", next.0)).unwrap_or_default();
    format!("attempt {count} failed: {member}: {message}{next}")
}

/// What comes next for a backup of which no member knows.
fn next(observed: &Observed) -> Step {
    let object = &observed.object;
    let wait = |reason, message: String| Step::Wait { reason, message };
    let name = &object.spec.cluster_ref.name;
    let Some(cluster) = &observed.cluster else {
        return wait("RefNotFound", format!("there is no SqliteCluster {name} in this namespace"));
    };
    if cluster.access.is_none() {
        let message = format!("SqliteCluster {name} has no store of backups: set its spec.backup");
        return wait("NoStore", message);
    }
    let has_failed = object.status.failures.as_ref().is_some_and(|failures| failures.next_time.is_some());
    // It may be at it still: another one would only do the same work beside it.
    if let Some(asked) = object.status.member.as_ref().filter(|_| !has_failed)
        && cluster.silent.contains(asked)
    {
        return wait("MemberSilent", format!("waiting for {asked} to answer"));
    }
    let Some(member) = member(cluster, object.status.member.as_deref()) else {
        return wait("NoMember", format!("no member of {name} is in service"));
    };
    match &object.spec.import {
        Some(import) => Step::LookUp { member, path: import.path.clone() },
        None => Step::Start { member },
    }
}

/// Whom to ask: the best one, and the one that was asked before only if there is no other.
fn member(cluster: &Cluster, before: Option<&str>) -> Option<String> {
    let other = cluster.members.iter().find(|member| Some(member.as_str()) != before);
    other.or(cluster.members.first()).cloned()
}

/// The object is to go, and waits for what is in the store.
fn let_go(observed: &Observed, since: Timestamp) -> Step {
    let status = &observed.object.status;
    let Some(path) = status.path.clone() else { return let_go_unfinished(observed, since) };
    // One that was in the making is deleted from when it was made.
    let since = status.completion_time.as_ref().map_or(since, |ended| ended.0.max(since));
    let give_up = |why: &str| Step::Release { left: Some(format!("{path} may be left in the store: {why}")) };
    let cluster = observed.cluster.as_ref();
    if observed.ends {
        return give_up("the namespace is on its way out");
    }
    let access = cluster.and_then(|cluster| cluster.access.as_ref());
    if access.is_some_and(|access| Some(&access.store) != status.store.as_ref()) {
        return give_up("the cluster has another store by now");
    }
    if cluster.is_some_and(|cluster| {
        cluster.cluster_id.is_some() && cluster.cluster_id.as_ref() != status.cluster_id.as_ref()
    }) {
        return give_up("it is of an earlier cluster of this name");
    }
    if observed.now.duration_since(since) >= PATIENCE {
        return give_up("no member could delete it within half a minute");
    }
    match cluster.filter(|cluster| cluster.access.is_some()).and_then(|cluster| member(cluster, None)) {
        Some(member) => Step::DeleteObjects { member, path },
        None => Step::Wait { reason: "Deleting", message: format!("no member can delete {path}") },
    }
}

/// The object is to go, and is not known to be in the store. A member that makes it goes on, and it would stay there.
fn let_go_unfinished(observed: &Observed, since: Timestamp) -> Step {
    let object = &observed.object;
    let found = |state| observed.jobs.iter().find(move |(_, job)| job.state == state);
    if let Some(backup) = found(JobState::Succeeded).and_then(|(_, job)| job.backup.clone()) {
        // Its path is written down, and deleted then.
        return Step::Succeed(Box::new(backup));
    }
    let runs = found(JobState::Running).map(|(member, _)| member);
    let asked = object.status.member.as_ref();
    let has_ended = is_over(&object.status)
        || observed.jobs.iter().any(|(member, job)| job.state == JobState::Failed && Some(member) == asked);
    let asked = asked.filter(|_| !has_ended);
    if runs.or(asked).is_none() {
        return Step::Release { left: None };
    }
    let name = object.job_name();
    let give_up =
        |why: &str| Step::Release { left: Some(format!("backup {name} may be left in the store: {why}")) };
    if observed.ends {
        return give_up("the namespace is on its way out");
    }
    let seconds = object.spec.deadline_seconds;
    let waited = observed.now.duration_since(since) >= PATIENCE;
    if waited && observed.now.duration_since(object.created) >= SignedDuration::from_secs(seconds.into()) {
        return give_up("it did not end within spec.deadlineSeconds");
    }
    let cluster = observed.cluster.as_ref().filter(|cluster| cluster.access.is_some());
    let silent = asked.filter(|asked| cluster.is_some_and(|cluster| cluster.silent.contains(asked)));
    if let Some(at_it) = runs.or(silent) {
        return Step::AwaitEnd { member: at_it.clone() };
    }
    match cluster.and_then(|cluster| member(cluster, None)) {
        Some(member) => Step::Find { member },
        None if waited => give_up("no member could look for it within half a minute"),
        None => Step::Wait { reason: "Deleting", message: format!("no member can look for {name}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::observed::Object;
    use crate::cluster::build::backup::StoreAccess;
    use crate::crd::{BackupStore, SqliteBackupStatus};
    use client::backup::{BackupJob, BackupKind};
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn store() -> BackupStore {
        serde_json::from_value(json!({"filesystem": {"claimName": "b"}})).unwrap()
    }

    fn cluster(members: &[&str], silent: &[&str]) -> Cluster {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Cluster {
            cluster_id: Some("c1".into()),
            access: Some(StoreAccess { store: store(), encryption: None }),
            members: names(members),
            silent: names(silent),
        }
    }

    fn seen(spec: serde_json::Value, age: i64, cluster: Option<Cluster>) -> Observed {
        let mut whole = json!({"clusterRef": {"name": "orders"}});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        Observed {
            now: at(age),
            object: Object {
                namespace: "shop".into(),
                name: "b".into(),
                uid: "u".into(),
                generation: 1,
                created: at(0),
                deleted: None,
                held: false,
                spec: serde_json::from_value(whole).unwrap(),
                status: SqliteBackupStatus::default(),
            },
            cluster,
            jobs: vec![],
            ends: false,
        }
    }

    fn backup() -> Backup {
        Backup {
            name: "b-1".into(),
            kind: BackupKind::Full,
            path: "p".into(),
            cluster_id: "c1".into(),
            epoch: 1,
            index: 7,
            term: 2,
            time: "2026-01-01T00:00:00Z".into(),
            size_bytes: 10,
            stored_bytes: 5,
            sha256: "ab".into(),
            page_checksum: None,
            sqlite_version: "3".into(),
            member: "orders-1".into(),
            encrypted: false,
        }
    }

    fn job(state: JobState) -> BackupJob {
        BackupJob {
            name: "b-1".into(),
            state,
            progress_percent: 40,
            backup: (state == JobState::Succeeded).then(backup),
            message: (state == JobState::Failed).then(|| "disk".into()),
        }
    }

    /// In short.
    fn step(observed: &Observed) -> String {
        match plan(observed) {
            Step::Nothing => "nothing".into(),
            Step::Hold => "hold".into(),
            Step::Wait { reason, .. } => format!("wait {reason}"),
            Step::Start { member } => format!("start {member}"),
            Step::Follow { member, percent } => format!("follow {member} {percent}"),
            Step::Retry(BackupFailures { count, member, .. }) => format!("retry {count} {member}"),
            Step::LookUp { member, path } => format!("look {member} {path}"),
            Step::Succeed(backup) => format!("succeed {}", backup.path),
            Step::Fail { reason, .. } => format!("fail {reason}"),
            Step::AwaitEnd { member } => format!("await {member}"),
            Step::Find { member } => format!("find {member}"),
            Step::DeleteObjects { member, path } => format!("delete {member} {path}"),
            Step::Release { left } => format!("release {}", if left.is_some() { "left" } else { "clean" }),
        }
    }

    #[test]
    fn the_way_of_a_backup() {
        let some = |members: &[&str]| Some(cluster(members, &[]));
        let with = |jobs: &[(&str, JobState)], age: i64| {
            let mut observed = seen(json!({}), age, some(&["orders-1", "orders-2", "orders-0"]));
            observed.jobs = jobs.iter().map(|(member, state)| ((*member).into(), job(*state))).collect();
            observed.object.status.member = Some("orders-1".into());
            observed
        };
        let no_store = Cluster { access: None, ..cluster(&["orders-1"], &[]) };
        let mut asked = seen(json!({}), 0, Some(cluster(&["orders-2"], &["orders-1"])));
        asked.object.status.member = Some("orders-1".into());
        for (what, observed, wanted) in [
            ("no cluster", seen(json!({}), 0, None), "wait RefNotFound"),
            ("no store", seen(json!({}), 0, Some(no_store)), "wait NoStore"),
            ("nobody", seen(json!({}), 0, some(&[])), "wait NoMember"),
            ("the best one", seen(json!({}), 0, some(&["orders-1", "orders-0"])), "start orders-1"),
            ("under way", with(&[("orders-1", JobState::Running)], 5), "follow orders-1 40"),
            ("done", with(&[("orders-1", JobState::Succeeded)], 5), "succeed p"),
            ("done in the end", with(&[("orders-1", JobState::Succeeded)], 4000), "succeed p"),
            // There is time for another attempt.
            ("failed", with(&[("orders-1", JobState::Failed)], 5), "retry 1 orders-1"),
            ("failed at the end", with(&[("orders-1", JobState::Failed)], 3595), "fail BackupFailed"),
            ("failed, and seen too late", with(&[("orders-1", JobState::Failed)], 4000), "fail BackupFailed"),
            // That was counted when it was asked.
            ("failed elsewhere before", with(&[("orders-2", JobState::Failed)], 5), "start orders-2"),
            (
                "failed there, done here",
                with(&[("orders-1", JobState::Failed), ("orders-2", JobState::Succeeded)], 5),
                "succeed p",
            ),
            ("forgotten by who was asked", with(&[], 5), "start orders-2"),
            ("may be at it", asked, "wait MemberSilent"),
            ("too late", with(&[("orders-1", JobState::Running)], 3600), "fail DeadlineExceeded"),
            ("nobody for too long", seen(json!({}), 3600, some(&[])), "fail DeadlineExceeded"),
            ("found", seen(json!({"import": {"path": "x"}}), 0, some(&["orders-1"])), "look orders-1 x"),
            ("held first", seen(json!({"deletionPolicy": "Delete"}), 0, some(&["orders-1"])), "hold"),
        ] {
            assert_eq!(step(&observed), wanted, "{what}");
        }
    }

    #[test]
    fn a_backup_is_tried_again_until_its_deadline() {
        // At that age an attempt of orders-1 was counted as the `count`th that failed; the next one is due at age 100.
        let failed = |age: i64, count: i32, waits: bool, jobs: &[(&str, JobState)]| {
            let mut observed = seen(json!({}), age, Some(cluster(&["orders-1", "orders-2"], &[])));
            observed.jobs = jobs.iter().map(|(member, state)| ((*member).into(), job(*state))).collect();
            observed.object.status.member = Some("orders-1".into());
            observed.object.status.failures = Some(BackupFailures {
                count,
                member: "orders-1".into(),
                message: "disk".into(),
                next_time: waits.then(|| Time(at(100))),
            });
            observed
        };
        let [failed_1, failed_2] = ["orders-1", "orders-2"].map(|member| (member, JobState::Failed));
        let mut silent = failed(100, 1, true, &[]);
        silent.cluster.as_mut().unwrap().silent = vec!["orders-1".into()];
        let elsewhere = |jobs: &[(&str, JobState)]| {
            let mut observed = failed(120, 1, false, jobs);
            observed.object.status.member = Some("orders-2".into());
            observed
        };
        for (what, observed, wanted) in [
            ("it waits", failed(99, 1, true, &[failed_1]), "wait Retrying"),
            ("whoever failed is not asked at once", failed(100, 1, true, &[failed_1]), "start orders-2"),
            ("nor waited for", silent, "start orders-2"),
            (
                "the next attempt runs",
                elsewhere(&[failed_1, ("orders-2", JobState::Running)]),
                "follow orders-2 40",
            ),
            ("is forgotten", elsewhere(&[failed_1]), "start orders-1"),
            ("fails", elsewhere(&[failed_1, failed_2]), "retry 2 orders-2"),
            ("the same one fails again", failed(120, 4, false, &[failed_1]), "retry 5 orders-1"),
            ("or is done", elsewhere(&[failed_1, ("orders-2", JobState::Succeeded)]), "succeed p"),
            ("no time is left", failed(3300, 20, false, &[failed_1]), "fail BackupFailed"),
            ("nobody was there for it", failed(3600, 1, true, &[]), "fail DeadlineExceeded"),
        ] {
            assert_eq!(step(&observed), wanted, "{what}");
        }
        let pauses: Vec<_> = [1, 2, 3, 4, 5, 6, 7, 40].map(|count| pause(count).as_secs()).into();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn who_was_asked_is_asked_again_if_there_is_nobody_else() {
        let mut observed = seen(json!({}), 0, Some(cluster(&["orders-0"], &[])));
        observed.object.status.member = Some("orders-0".into());
        assert_eq!(step(&observed), "start orders-0");
    }

    #[test]
    fn a_deleted_backup_waits_for_its_objects_only_so_long() {
        let going = |age: i64, cluster: Option<Cluster>| {
            let mut observed = seen(json!({"deletionPolicy": "Delete"}), age, cluster);
            observed.object.deleted = Some(at(0));
            observed.object.held = true;
            observed.object.status.path = Some("p".into());
            observed.object.status.store = Some(store());
            observed.object.status.cluster_id = Some("c1".into());
            observed
        };
        let one = || Some(cluster(&["orders-1"], &[]));
        let moved = || {
            let other = serde_json::from_value(json!({"filesystem": {"claimName": "other"}})).unwrap();
            Cluster { access: Some(StoreAccess { store: other, encryption: None }), ..cluster(&["a"], &[]) }
        };
        let ending = |cluster| Observed { ends: true, ..going(1, cluster) };
        let mut never = going(1, one());
        never.object.status.path = None;
        let mut free = going(1, one());
        free.object.held = false;
        let mut changed = going(1, one());
        changed.object.spec.deletion_policy = BackupDeletion::Retain;
        for (what, observed, wanted) in [
            ("deleted", going(1, one()), "delete orders-1 p"),
            ("nobody", going(1, Some(cluster(&[], &[]))), "wait Deleting"),
            ("too long", going(30, one()), "release left"),
            ("no cluster", going(1, None), "wait Deleting"),
            ("ends", ending(one()), "release left"),
            ("ends, and the cluster is gone already", ending(None), "release left"),
            ("another store", going(1, Some(moved())), "release left"),
            (
                "another cluster",
                going(1, Some(Cluster { cluster_id: Some("c2".into()), ..cluster(&["a"], &[]) })),
                "release left",
            ),
            ("nobody was asked for it", never, "release clean"),
            ("not held", free, "nothing"),
            ("held, and to leave them after all", changed, "release clean"),
        ] {
            assert_eq!(step(&observed), wanted, "{what}");
        }
    }

    /// What has no path yet is not nothing: who was asked for it goes on, and it would stay in the store for good.
    #[test]
    fn a_backup_that_is_deleted_while_it_is_made_is_waited_for() {
        // Made at age 0, deleted at age 10.
        let going = |age: i64, asked: Option<&str>, jobs: &[(&str, JobState)]| {
            let cluster = Some(cluster(&["orders-1", "orders-2"], &[]));
            let mut observed = seen(json!({"deletionPolicy": "Delete"}), age, cluster);
            observed.object.deleted = Some(at(10));
            observed.object.held = true;
            observed.object.status.member = asked.map(str::to_owned);
            observed.jobs = jobs.iter().map(|(member, state)| ((*member).into(), job(*state))).collect();
            observed
        };
        let asked = Some("orders-1");
        let with = |observed: Observed, edit: fn(&mut Observed)| {
            let mut observed = observed;
            edit(&mut observed);
            observed
        };
        let [runs, failed, done] =
            [JobState::Running, JobState::Failed, JobState::Succeeded].map(|state| [("orders-1", state)]);
        let silent = |age| {
            with(going(age, asked, &[]), |o| o.cluster.as_mut().unwrap().silent = vec!["orders-1".into()])
        };
        let alone = |age| with(going(age, asked, &[]), |o| o.cluster = None);
        for (what, observed, wanted) in [
            ("nobody was asked", going(11, None, &[]), "release clean"),
            ("it is made", going(11, asked, &runs), "await orders-1"),
            ("though the status does not say so yet", going(11, None, &runs), "await orders-1"),
            ("for long", going(3599, asked, &runs), "await orders-1"),
            ("for too long", going(3600, asked, &runs), "release left"),
            ("it is there", going(11, asked, &done), "succeed p"),
            ("it failed", going(11, asked, &failed), "release clean"),
            ("it may be made", silent(11), "await orders-1"),
            ("for too long it may be", silent(3600), "release left"),
            ("forgotten by who was asked", going(11, asked, &[]), "find orders-1"),
            ("nobody to ask", alone(11), "wait Deleting"),
            ("for too long nobody", alone(40), "release left"),
            ("the namespace ends", with(going(11, asked, &runs), |o| o.ends = true), "release left"),
            (
                "it had failed before",
                with(going(11, asked, &[]), |o| o.object.status.completion_time = Some(Time(at(5)))),
                "release clean",
            ),
            (
                "it had failed before, and is made all the same",
                with(going(11, asked, &runs), |o| o.object.status.completion_time = Some(Time(at(5)))),
                "await orders-1",
            ),
        ] {
            assert_eq!(step(&observed), wanted, "{what}");
        }
        // Once its path is known there is as much time to delete it as for any other.
        let mut known = going(3000, asked, &done);
        known.object.status.path = Some("p".into());
        known.object.status.store = Some(store());
        known.object.status.cluster_id = Some("c1".into());
        known.object.status.completion_time = Some(Time(at(2990)));
        assert_eq!(step(&known), "delete orders-1 p");
    }
}
