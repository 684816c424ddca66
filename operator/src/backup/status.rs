//! Tells: the status of a backup is made from what was seen and done, and written if it says something new.

use super::KIND;
use super::execute::Outcome;
use super::observed::Observed;
use super::plan::{Step, told};
use crate::cluster::conditions::{Draft, dated, whole_second};
use crate::context::Context;
use crate::crd::{
    BackupFailures, Bookmark, SqliteBackup, SqliteBackupStatus, SqliteCluster, Verification,
    VerificationResult, number,
};
use crate::status::{StatusError, waits, write};
use client::backup::Backup;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use kube::runtime::events::EventType;

/// Reason of a backup that is to go and is still made.
const AWAITING_END: &str = "AwaitingEnd";

/// Whether nothing will be done about it any more.
pub fn is_over(status: &SqliteBackupStatus) -> bool {
    status.completion_time.is_some()
}

/// Whether it is in the store.
pub fn has_succeeded(status: &SqliteBackupStatus) -> bool {
    is_over(status) && holds(&status.conditions, "Succeeded")
}

fn holds(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// How a backup goes, in a word and a sentence.
enum State {
    Over,
    Waits(&'static str, String),
    Runs(String),
    Failed(&'static str, String),
}

/// Whether the status of an object that is to go is written: while what it stands for is made, and once that is in the store.
pub(super) fn is_told_to_the_end(step: &Step, outcome: &Outcome) -> bool {
    matches!((step, outcome), (Step::AwaitEnd { .. } | Step::Succeed(_), _) | (_, Outcome::Found(_)))
}

/// The status after the step. Pure.
pub(super) fn status(observed: &Observed, step: &Step, outcome: &Outcome) -> SqliteBackupStatus {
    let before = &observed.object.status;
    let now = observed.now;
    let mut status =
        SqliteBackupStatus { observed_generation: Some(observed.object.generation), ..before.clone() };
    let state = match (step, outcome) {
        (Step::Succeed(backup), _) | (_, Outcome::Found(backup)) => {
            fill(&mut status, backup, observed, now);
            State::Over
        }
        (Step::Fail { reason, message }, _) | (_, Outcome::Refused { reason, message }) => {
            State::Failed(reason, message.clone())
        }
        (Step::Nothing, _) => State::Over,
        // That it is to take its objects along may be said at any time.
        (Step::Hold, _) if is_over(before) => State::Over,
        (_, Outcome::Begun { member }) | (Step::Follow { member, .. }, _) => {
            status.member = Some(member.clone());
            status.start_time.get_or_insert(Time(whole_second(now)));
            forget_next(&mut status);
            let before = status.failures.as_ref().map(|failures| format!("; {}", told(failures)));
            State::Runs(format!("{member} is at it{}", before.unwrap_or_default()))
        }
        (Step::Retry(failures), _) => {
            status.member = Some(failures.member.clone());
            status.failures = Some(failures.clone());
            State::Waits("Retrying", told(failures))
        }
        (_, Outcome::NotYet { message }) => State::Waits("NotYet", message.clone()),
        (Step::Wait { reason, message }, _) => State::Waits(reason, message.clone()),
        (Step::Hold, _) => State::Waits("Pending", "it has not begun".into()),
        (Step::AwaitEnd { member }, _) => State::Waits(
            AWAITING_END,
            format!(
                "{member} may be at it still: it is deleted from the store when it is there, and then this object goes"
            ),
        ),
        // A deleted object's status is not written.
        (
            Step::Start { .. }
            | Step::LookUp { .. }
            | Step::Find { .. }
            | Step::DeleteObjects { .. }
            | Step::Release { .. },
            _,
        ) => State::Over,
    };
    let drafts = match state {
        State::Over if is_over(&status) && !has_failed(before) => {
            vec![draft("Succeeded", true, "Succeeded", "the backup is in the store".into())]
        }
        // As it was.
        State::Over => {
            status.conditions.clone_from(&before.conditions);
            for condition in &mut status.conditions {
                condition.observed_generation = Some(observed.object.generation);
            }
            return status;
        }
        State::Waits(reason, message) => {
            let is_missing = matches!(reason, "RefNotFound" | "NoStore");
            waits(reason, &message, is_missing, &before.conditions, now)
        }
        State::Runs(message) => vec![
            draft("Succeeded", false, "Running", message.clone()),
            draft("Reconciling", true, "Running", message),
        ],
        State::Failed(reason, message) => {
            forget_next(&mut status);
            status.completion_time.get_or_insert(Time(whole_second(now)));
            vec![draft("Succeeded", false, reason, message.clone()), draft("Stalled", true, reason, message)]
        }
    };
    let finish = |draft| dated(draft, &before.conditions, now, observed.object.generation);
    status.conditions = drafts.into_iter().map(finish).collect();
    status.conditions.extend(verified(&status, &before.conditions, now, observed.object.generation));
    status
}

fn has_failed(status: &SqliteBackupStatus) -> bool {
    is_over(status) && !holds(&status.conditions, "Succeeded")
}

fn draft(kind: &'static str, holds: bool, reason: &'static str, message: String) -> Draft {
    Draft { kind, holds, reason, message }
}

/// The condition that the last test of a backup leads to.
pub(crate) fn verified(
    status: &SqliteBackupStatus,
    before: &[Condition],
    now: Timestamp,
    generation: i64,
) -> Option<Condition> {
    let verification = status.verification.as_ref()?;
    let draft = match verification.result {
        VerificationResult::Passed => draft("Verified", true, "Passed", restored(verification)),
        VerificationResult::Failed => {
            let why = verification.message.clone().unwrap_or_else(|| "the test does not say why".into());
            draft("Verified", false, "Failed", why)
        }
    };
    Some(dated(draft, before, now, generation))
}

fn restored(verification: &Verification) -> String {
    let Verification { restore_seconds, bytes_per_second, index, checked_index, .. } = verification;
    let speed = bytes_per_second.unwrap_or_default() as f64 / f64::from(1 << 20);
    let (index, seconds) = (index.unwrap_or_default(), restore_seconds.unwrap_or_default());
    let compared = match checked_index {
        Some(index) => format!("; compared with the members after entry {index}"),
        None => String::new(),
    };
    format!("it was restored up to entry {index} in {seconds} s, {speed:.1} MiB in a second{compared}")
}

/// What the manifest tells of it.
fn fill(status: &mut SqliteBackupStatus, backup: &Backup, observed: &Observed, now: Timestamp) {
    let time = backup.time.parse().unwrap_or(now);
    let access = observed.cluster.as_ref().and_then(|cluster| cluster.access.clone());
    status.bookmark = Some(Bookmark {
        index: number(backup.index),
        term: number(backup.term),
        time: Time(whole_second(time)),
    });
    status.cluster_id = Some(backup.cluster_id.clone());
    status.encryption = access.as_ref().filter(|_| backup.encrypted).and_then(|a| a.encryption.clone());
    status.store = access.map(|access| access.store);
    status.path = Some(backup.path.clone());
    status.member = Some(backup.member.clone());
    status.size_bytes = Some(number(backup.size_bytes));
    status.stored_bytes = Some(number(backup.stored_bytes));
    status.sha256 = Some(backup.sha256.clone());
    status.page_checksum.clone_from(&backup.page_checksum);
    status.sqlite_version = Some(backup.sqlite_version.clone());
    status.start_time.get_or_insert(Time(whole_second(now)));
    // From now on its deletion is tried, whatever was thought of it before.
    let ended = status.completion_time.take().filter(|_| !observed.object.is_deleted());
    status.completion_time = ended.or_else(|| Some(Time(whole_second(now))));
    forget_next(status);
}

/// No attempt is waited for.
fn forget_next(status: &mut SqliteBackupStatus) {
    if let Some(failures) = &mut status.failures {
        failures.next_time = None;
    }
}

/// Writes the status if it says something new, and tells of what ended.
pub async fn publish(
    backup: &SqliteBackup,
    status: &SqliteBackupStatus,
    cluster: Option<&SqliteCluster>,
    ctx: &Context,
) -> Result<(), StatusError> {
    let (namespace, name) = (backup.namespace().unwrap_or_default(), backup.name_any());
    ctx.metrics.publish(KIND, &namespace, &name, &status.conditions);
    let before = backup.status.clone().unwrap_or_default();
    if *status == before {
        return Ok(());
    }
    if !write(backup, status, false, ctx).await? {
        return Ok(());
    }
    if let Some(failures) = news(&before, status) {
        let about = (EventType::Warning, "BackupAttemptFailed", "Backup");
        ctx.tell_both(backup, cluster, about, &told(failures)).await;
    }
    if let Some(waits) = awaits_end(status).filter(|_| awaits_end(&before).is_none()) {
        let about = (EventType::Normal, "BackupDeletionWaits", "Delete");
        ctx.tell_both(backup, cluster, about, &waits.message).await;
    }
    if let Some((type_, reason, note)) = end(&before, status) {
        ctx.metrics.backup_ended(reason);
        ctx.tell_both(backup, cluster, (type_, reason, "Backup"), &note).await;
    }
    Ok(())
}

/// An attempt that failed by another cause than the one before.
fn news<'a>(before: &SqliteBackupStatus, status: &'a SqliteBackupStatus) -> Option<&'a BackupFailures> {
    let known = before.failures.as_ref().map(|failures| &failures.message);
    status.failures.as_ref().filter(|failures| known != Some(&failures.message))
}

fn awaits_end(status: &SqliteBackupStatus) -> Option<&Condition> {
    let waits = |condition: &&Condition| condition.type_ == "Succeeded" && condition.reason == AWAITING_END;
    status.conditions.iter().find(waits)
}

/// How it ended, if it just did: as an event, by whose reason metrics count.
fn end(
    before: &SqliteBackupStatus,
    status: &SqliteBackupStatus,
) -> Option<(EventType, &'static str, String)> {
    if is_over(before) || !is_over(status) {
        return None;
    }
    if has_succeeded(status) {
        let index = status.bookmark.as_ref().map(|bookmark| bookmark.index).unwrap_or_default();
        let bytes = status.size_bytes.unwrap_or_default();
        return Some((EventType::Normal, "BackupSucceeded", format!("index {index}, {bytes} bytes")));
    }
    let found = status.conditions.iter().find(|condition| condition.type_ == "Succeeded");
    let message = found.map(|condition| condition.message.clone()).unwrap_or_default();
    Some((EventType::Warning, "BackupFailed", message))
}

#[cfg(test)]
mod tests;
