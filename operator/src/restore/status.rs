//! Tells: the status of a restore is made from what was seen and done, and written if it says something new.

use super::KIND;
use super::execute::Outcome;
use super::observed::{Observed, Undo};
use super::plan::Step;
use crate::cluster::conditions::{Draft, dated, whole_second};
use crate::context::Context;
use crate::crd::{SqliteCluster, SqliteRestore, SqliteRestoreStatus};
use crate::status::{StatusError, waits, write};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::events::EventType;

/// How a restore goes, in a word and a sentence.
enum State {
    Waits(&'static str, String),
    Runs(&'static str, String),
    Done,
    Failed(&'static str, String),
}

/// The status after the step. Pure.
pub(super) fn status(observed: &Observed, step: &Step, outcome: &Outcome) -> SqliteRestoreStatus {
    let before = &observed.object.status;
    let (now, generation) = (observed.now, observed.object.generation);
    let mut status = SqliteRestoreStatus { observed_generation: Some(generation), ..before.clone() };
    if let Undo::Done(_, bookmark) = &observed.undo {
        status.undo_bookmark = Some(bookmark.clone());
    }
    let state = match (step, outcome) {
        (Step::Nothing, _) => {
            status.undo_bookmark.clone_from(&before.undo_bookmark);
            for condition in &mut status.conditions {
                condition.observed_generation = Some(generation);
            }
            return status;
        }
        (Step::Fail { reason, message }, _) | (_, Outcome::Refused { reason, message }) => {
            State::Failed(reason, message.clone())
        }
        (Step::Succeed, _) => State::Done,
        // It was written down that the leader is asked; it did not begin, and is asked again.
        (_, Outcome::NotYet { message }) => {
            status.start_time = None;
            State::Runs("NotYet", message.clone())
        }
        (Step::Wait { reason, message }, _) => State::Waits(reason, message.clone()),
        (Step::Pin, _) => {
            let undo = observed.object.undo_name();
            State::Runs("Pinning", format!("where the cluster is is kept as SqliteBackup {undo} first"))
        }
        (Step::Start { .. }, _) => {
            status.start_time.get_or_insert(Time(whole_second(now)));
            State::Runs("Restoring", "the leader is asked".into())
        }
        (Step::AwaitWord, _) => State::Runs("Restoring", "waiting for a member that knows of it".into()),
        (Step::Follow { percent }, _) => {
            status.progress_percent = Some(i32::from(*percent));
            let undo = observed.object.undo_name();
            let message = match &observed.undo {
                Undo::Running(_) => {
                    format!("the leader is at it, and where the cluster is is kept as SqliteBackup {undo}")
                }
                Undo::Failed(why) => {
                    format!(
                        "SqliteBackup {undo} failed ({why}); the leader gives up when it is not in the store"
                    )
                }
                _ => "the leader is at it".into(),
            };
            State::Runs("Restoring", message)
        }
    };
    let draft =
        |kind, holds, reason, message: &String| Draft { kind, holds, reason, message: message.clone() };
    let drafts = match &state {
        // Where somebody has to agree, a tool that waits is to go on waiting.
        State::Waits(reason, message) => {
            let is_missing = matches!(*reason, "RefNotFound" | "SourceNotFound" | "NoStore" | "NameConflict");
            waits(reason, message, is_missing, &before.conditions, now)
        }
        State::Runs(reason, message) => {
            vec![draft("Succeeded", false, reason, message), draft("Reconciling", true, reason, message)]
        }
        State::Done => {
            status.completion_time.get_or_insert(Time(whole_second(now)));
            status.progress_percent = Some(100);
            if let Some(restored) = observed.job.as_ref().and_then(|job| job.restored.as_ref()) {
                status.restored_index = i64::try_from(restored.index).ok();
                status.restored_time = Some(restored.time.clone());
                status.installed_index = restored.installed_index.and_then(|index| i64::try_from(index).ok());
                // What was acknowledged after the backup is kept with it.
                let replaced = restored.replaced_index.and_then(|index| i64::try_from(index).ok());
                if let (Some(undo), Some(replaced)) = (&mut status.undo_bookmark, replaced) {
                    undo.bookmark.index = replaced;
                }
            }
            let restored = observed.job.as_ref().and_then(|job| job.restored.as_ref());
            let message = match restored.and_then(|restored| restored.warning.as_ref()) {
                Some(warning) => {
                    format!("the cluster has what comes nearest to what was asked for: {warning}")
                }
                None => "the cluster has what was asked for".into(),
            };
            vec![draft("Succeeded", true, "Succeeded", &message)]
        }
        State::Failed(reason, message) => {
            status.completion_time.get_or_insert(Time(whole_second(now)));
            vec![draft("Succeeded", false, reason, message), draft("Stalled", true, reason, message)]
        }
    };
    status.conditions =
        drafts.into_iter().map(|draft| dated(draft, &before.conditions, now, generation)).collect();
    status
}

/// Writes the status if it says something new, and tells of what ended. With `only_as_seen` it is written only over the object
/// that it was decided on; false if that changed since, or is gone.
pub async fn publish(
    restore: &SqliteRestore,
    status: &SqliteRestoreStatus,
    only_as_seen: bool,
    cluster: Option<&SqliteCluster>,
    ctx: &Context,
) -> Result<bool, StatusError> {
    let (namespace, name) = (restore.namespace().unwrap_or_default(), restore.name_any());
    ctx.metrics.publish(KIND, &namespace, &name, &status.conditions);
    let before = restore.status.clone().unwrap_or_default();
    if *status == before {
        return Ok(true);
    }
    if !write(restore, status, only_as_seen, ctx).await? {
        return Ok(false);
    }
    if before.completion_time.is_none() && status.completion_time.is_some() {
        tell(restore, status, cluster, ctx).await;
    }
    Ok(true)
}

async fn tell(
    restore: &SqliteRestore,
    status: &SqliteRestoreStatus,
    cluster: Option<&SqliteCluster>,
    ctx: &Context,
) {
    let Some(ended) = status.conditions.iter().find(|condition| condition.type_ == "Succeeded") else {
        return;
    };
    let (type_, reason) = match ended.status.as_str() {
        "True" => (EventType::Normal, "RestoreSucceeded"),
        _ => (EventType::Warning, "RestoreFailed"),
    };
    ctx.tell_both(restore, cluster, (type_, reason, "Restore"), &ended.message).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{Bookmark, UndoBookmark};
    use crate::restore::observed::{Cluster, Object};
    use client::backup::{JobState, RestoreJob};
    use jiff::Timestamp;
    use serde_json::json;

    fn observed(status: SqliteRestoreStatus, job: Option<RestoreJob>) -> Observed {
        let spec = json!({"clusterRef": {"name": "orders"}, "source": {"backupRef": {"name": "b"}}});
        Observed {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            object: Object {
                namespace: "shop".into(),
                name: "back".into(),
                uid: "u".into(),
                generation: 1,
                spec: serde_json::from_value(spec).unwrap(),
                status,
            },
            cluster: Some(Cluster::default()),
            source: Err(String::new()),
            source_comes: false,
            undo: Undo::Missing,
            ahead: None,
            job,
            all_heard: true,
        }
    }

    fn told(status: &SqliteRestoreStatus) -> String {
        let sign = |status: &str| if status == "True" { "=" } else { "!" };
        let show = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("{}{}{}", c.type_, sign(&c.status), c.reason)
        };
        status.conditions.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_state_is_told_as_tools_read_it() {
        let wait = Step::Wait { reason: "AwaitingApproval", message: "say so".into() };
        let later = Outcome::NotYet { message: "busy".into() };
        let start = || Step::Start {
            member: "orders-0".into(),
            body: Box::new(serde_json::from_value(json!({"name": "n", "target": {"latest": {}}})).unwrap()),
        };
        for (step, outcome, wanted) in [
            (wait, Outcome::Done, "Succeeded!AwaitingApproval Reconciling=AwaitingApproval"),
            (Step::Pin, Outcome::Done, "Succeeded!Pinning Reconciling=Pinning"),
            (Step::AwaitWord, Outcome::Done, "Succeeded!Restoring Reconciling=Restoring"),
            (start(), Outcome::Unknown, "Succeeded!Restoring Reconciling=Restoring"),
            (start(), Outcome::Begun, "Succeeded!Restoring Reconciling=Restoring"),
            (start(), later, "Succeeded!NotYet Reconciling=NotYet"),
            (Step::Succeed, Outcome::Done, "Succeeded=Succeeded"),
            (
                Step::Fail { reason: "PinFailed", message: "no".into() },
                Outcome::Done,
                "Succeeded!PinFailed Stalled=PinFailed",
            ),
        ] {
            let status = status(&observed(SqliteRestoreStatus::default(), None), &step, &outcome);
            assert_eq!(told(&status), wanted, "{step:?}");
            assert!(status.conditions.iter().all(|c| c.observed_generation == Some(1)));
        }
    }

    #[test]
    fn what_is_missing_for_five_minutes_takes_a_person() {
        let after = |before: &SqliteRestoreStatus, age: i64, reason| {
            let mut observed = observed(before.clone(), None);
            observed.now += jiff::SignedDuration::from_secs(age);
            let step = match reason {
                "Pin" => Step::Pin,
                reason => Step::Wait { reason, message: "it is not there".into() },
            };
            status(&observed, &step, &Outcome::Done)
        };
        let fresh = SqliteRestoreStatus::default();
        for reason in ["RefNotFound", "SourceNotFound", "NoStore", "NameConflict"] {
            let [waits, stalls] = ["Reconciling", "Stalled"]
                .map(|kind| format!("Succeeded!{reason} {kind}={reason} Accepted!{reason}"));
            let first = after(&fresh, 0, reason);
            assert_eq!(told(&first), waits);
            let later = after(&first, 299, reason);
            assert_eq!((told(&later), &later.conditions), (waits, &first.conditions), "it is quiet");
            let late = after(&later, 300, reason);
            assert_eq!(told(&late), stalls);
            assert_eq!(late.completion_time, None, "it is not over");
            // Another thing that is missing is no new beginning.
            assert!(told(&after(&late, 301, "NoStore")).contains("Stalled=NoStore"));
            let found = after(&late, 301, "Pin");
            assert_eq!(told(&found), "Succeeded!Pinning Reconciling=Pinning");
            assert_eq!(told(&after(&found, 302, reason)), told(&first), "it counts from then");
        }
        for reason in ["AwaitingApproval", "AnotherRestore", "SourceNotReady", "NotBegun", "NoLeader"] {
            let first = after(&fresh, 0, reason);
            let wanted = format!("Succeeded!{reason} Reconciling={reason}");
            assert_eq!(told(&after(&first, 86_400, reason)), wanted, "it comes by itself, or by a word");
        }
    }

    #[test]
    fn it_is_written_down_that_the_leader_is_asked_unless_it_certainly_did_not_begin() {
        let body =
            || Box::new(serde_json::from_value(json!({"name": "n", "target": {"latest": {}}})).unwrap());
        let step = Step::Start { member: "orders-0".into(), body: body() };
        let before = || observed(SqliteRestoreStatus::default(), None);
        for outcome in [Outcome::Done, Outcome::Begun, Outcome::Unknown] {
            let status = status(&before(), &step, &outcome);
            assert!(status.start_time.is_some(), "{outcome:?}");
        }
        let status = status(&before(), &step, &Outcome::NotYet { message: "busy".into() });
        assert_eq!(status.start_time, None);
    }

    #[test]
    fn the_undo_is_the_last_entry_that_was_replaced() {
        let time = Time(Timestamp::UNIX_EPOCH);
        let undo =
            UndoBookmark { backup: "back-undo".into(), bookmark: Bookmark { index: 7, term: 1, time } };
        let restored = json!({
            "clusterId": "c", "epoch": 1, "backup": "b", "index": 3, "time": "2026-01-02T03:04:05Z", "replayed": 0,
            "sizeBytes": 1, "milliseconds": 1, "installedIndex": 12, "replacedIndex": 11, "undo": "1-7-back-undo",
        });
        let job = RestoreJob {
            name: "n".into(),
            state: JobState::Succeeded,
            progress_percent: 100,
            restored: Some(serde_json::from_value(restored).unwrap()),
            message: None,
        };
        let mut observed = observed(SqliteRestoreStatus::default(), Some(job));
        observed.undo = Undo::Done("back-undo-1".into(), undo);
        let done = status(&observed, &Step::Succeed, &Outcome::Done);
        let index = done.undo_bookmark.as_ref().map(|undo| undo.bookmark.index);
        assert_eq!((index, done.restored_index, done.installed_index), (Some(11), Some(3), Some(12)));
        // What the backup says does not come back over it.
        observed.object.status = done.clone();
        assert_eq!(status(&observed, &Step::Nothing, &Outcome::Done), done);
    }

    #[test]
    fn what_is_over_does_not_move() {
        let job = RestoreJob {
            name: "n".into(),
            state: JobState::Succeeded,
            progress_percent: 100,
            restored: None,
            message: None,
        };
        let done =
            status(&observed(SqliteRestoreStatus::default(), Some(job)), &Step::Succeed, &Outcome::Done);
        assert_eq!(done.progress_percent, Some(100));
        assert_eq!(status(&observed(done.clone(), None), &Step::Nothing, &Outcome::Done), done);
    }
}
