//! A step and what it came to, and what kstatus and people read.

use super::*;
use crate::backup::observed::{Cluster, Object};
use crate::cluster::build::backup::StoreAccess;
use crate::crd::{BackupStore, Verification};
use client::backup::BackupKind;
use serde_json::json;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn observed(status: SqliteBackupStatus) -> Observed {
    let store: BackupStore = serde_json::from_value(json!({"s3": {"bucket": "b"}})).unwrap();
    Observed {
        now: now(),
        object: Object {
            namespace: "shop".into(),
            name: "b".into(),
            uid: "u".into(),
            generation: 1,
            created: now(),
            deleted: None,
            held: false,
            spec: serde_json::from_value(json!({"clusterRef": {"name": "orders"}})).unwrap(),
            status,
        },
        cluster: Some(Cluster {
            access: Some(StoreAccess { store, encryption: None }),
            ..Cluster::default()
        }),
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
        time: "2026-01-01T00:00:00.5Z".into(),
        size_bytes: 10,
        stored_bytes: 5,
        sha256: "ab".into(),
        page_checksum: Some("cd".into()),
        sqlite_version: "3".into(),
        member: "orders-1".into(),
        encrypted: false,
    }
}

/// Conditions as `Kind=reason`, or `Kind!reason` for False.
fn told(status: &SqliteBackupStatus) -> String {
    let show =
        |c: &Condition| format!("{}{}{}", c.type_, if c.status == "True" { "=" } else { "!" }, c.reason);
    status.conditions.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn after(before: SqliteBackupStatus, step: Step, outcome: Outcome) -> SqliteBackupStatus {
    status(&observed(before), &step, &outcome)
}

#[test]
fn each_state_is_told_as_tools_read_it() {
    let fresh = SqliteBackupStatus::default;
    let wait = Step::Wait { reason: "NoMember", message: "nobody".into() };
    let start = || Step::Start { member: "orders-1".into() };
    let refused = Outcome::Refused { reason: "Invalid", message: "no".into() };
    let later = Outcome::NotYet { message: "busy".into() };
    for (step, outcome, wanted) in [
        (wait, Outcome::Done, "Succeeded!NoMember Reconciling=NoMember"),
        (start(), Outcome::Begun { member: "orders-1".into() }, "Succeeded!Running Reconciling=Running"),
        (start(), later, "Succeeded!NotYet Reconciling=NotYet"),
        (start(), refused, "Succeeded!Invalid Stalled=Invalid"),
        (
            Step::Fail { reason: "DeadlineExceeded", message: "late".into() },
            Outcome::Done,
            "Succeeded!DeadlineExceeded Stalled=DeadlineExceeded",
        ),
        (
            Step::AwaitEnd { member: "orders-1".into() },
            Outcome::Done,
            "Succeeded!AwaitingEnd Reconciling=AwaitingEnd",
        ),
        (Step::Succeed(Box::new(backup())), Outcome::Done, "Succeeded=Succeeded"),
    ] {
        let status = after(fresh(), step.clone(), outcome);
        assert_eq!(told(&status), wanted, "{step:?}");
        assert!(status.conditions.iter().all(|c| c.observed_generation == Some(1) && !c.message.is_empty()));
        assert_eq!(is_over(&status), !wanted.contains("Reconciling"), "{step:?}");
    }
}

#[test]
fn the_end_of_one_is_told_once() {
    let fresh = SqliteBackupStatus::default();
    let waits = after(fresh.clone(), Step::Retry(failures(1, "disk")), Outcome::Done);
    let late = Step::Fail { reason: "BackupFailed", message: "the disk is gone".into() };
    let failed = after(waits.clone(), late, Outcome::Done);
    let done = after(waits.clone(), Step::Succeed(Box::new(backup())), Outcome::Done);
    for (what, before, status, wanted) in [
        ("an attempt failed", &fresh, &waits, None),
        ("it failed", &waits, &failed, Some(("BackupFailed", true, "the disk is gone"))),
        ("once", &failed, &failed, None),
        ("it succeeded", &waits, &done, Some(("BackupSucceeded", false, "index 7, 10 bytes"))),
        ("once", &done, &done, None),
    ] {
        let told = end(before, status);
        let told = told
            .as_ref()
            .map(|(type_, reason, note)| (*reason, matches!(type_, EventType::Warning), note.as_str()));
        assert_eq!(told, wanted, "{what}");
    }
}

fn failures(count: i32, message: &str) -> BackupFailures {
    let next_time = Some(Time(now() + jiff::SignedDuration::from_secs(10)));
    BackupFailures { count, member: "orders-1".into(), message: message.into(), next_time }
}

#[test]
fn attempts_that_failed_are_told_and_each_cause_once() {
    let fresh = SqliteBackupStatus::default();
    let waits = after(fresh.clone(), Step::Retry(failures(1, "disk")), Outcome::Done);
    assert_eq!(told(&waits), "Succeeded!Retrying Reconciling=Retrying");
    assert_eq!(
        waits.conditions[0].message,
        "attempt 1 failed: orders-1: disk; the next one begins at 2027-01-15T08:00:10Z"
    );
    assert_eq!((waits.member.as_deref(), is_over(&waits)), (Some("orders-1"), false));
    let begun = Outcome::Begun { member: "orders-2".into() };
    let runs = after(waits.clone(), Step::Start { member: "orders-2".into() }, begun);
    assert_eq!(runs.conditions[0].message, "orders-2 is at it; attempt 1 failed: orders-1: disk");
    assert_eq!(runs.failures.as_ref().unwrap().next_time, None);
    let again = after(runs.clone(), Step::Retry(failures(2, "disk")), Outcome::Done);
    let other = after(runs.clone(), Step::Retry(failures(2, "no route")), Outcome::Done);
    for (what, before, status, is_news) in [
        ("the first", &fresh, &waits, true),
        ("it runs", &waits, &runs, false),
        ("the same once more", &runs, &again, false),
        ("another cause", &runs, &other, true),
    ] {
        assert_eq!(news(before, status).is_some(), is_news, "{what}");
    }
    let done = after(again, Step::Succeed(Box::new(backup())), Outcome::Done);
    assert!(has_succeeded(&done));
    assert_eq!(done.failures.map(|failures| (failures.count, failures.next_time)), Some((2, None)));
}

#[test]
fn what_is_missing_for_five_minutes_takes_a_person() {
    let after = |before: &SqliteBackupStatus, age: i64, reason| {
        let mut observed = observed(before.clone());
        observed.now += jiff::SignedDuration::from_secs(age);
        let step = Step::Wait { reason, message: "it is not there".into() };
        status(&observed, &step, &Outcome::Done)
    };
    for reason in ["RefNotFound", "NoStore"] {
        let [waits, stalls] = ["Reconciling", "Stalled"]
            .map(|kind| format!("Succeeded!{reason} {kind}={reason} Accepted!{reason}"));
        let first = after(&SqliteBackupStatus::default(), 0, reason);
        assert_eq!(told(&first), waits);
        assert_eq!(told(&after(&first, 299, reason)), waits);
        let late = after(&first, 300, reason);
        assert_eq!((told(&late), is_over(&late)), (stalls, false));
        let found = after(&late, 301, "NoMember");
        assert_eq!(told(&found), "Succeeded!NoMember Reconciling=NoMember", "it goes on when it is there");
    }
    let waits = after(&SqliteBackupStatus::default(), 0, "NoMember");
    assert_eq!(told(&after(&waits, 3_000, "NoMember")), "Succeeded!NoMember Reconciling=NoMember");
}

#[test]
fn what_the_manifest_says_is_in_the_status_and_stays() {
    let done = after(SqliteBackupStatus::default(), Step::Succeed(Box::new(backup())), Outcome::Done);
    assert_eq!(done.path.as_deref(), Some("p"));
    assert_eq!(done.page_checksum.as_deref(), Some("cd"));
    assert_eq!(done.bookmark.as_ref().unwrap().time.0.to_string(), "2026-01-01T00:00:00Z");
    assert!(done.store.as_ref().unwrap().s3.is_some());
    assert!(has_succeeded(&done));
    assert_eq!(after(done.clone(), Step::Nothing, Outcome::Done), done, "a status at rest does not move");
    assert_eq!(after(done.clone(), Step::Hold, Outcome::Done), done, "nor by a change of deletionPolicy");
}

#[test]
fn a_test_of_it_is_a_condition() {
    let mut done = after(SqliteBackupStatus::default(), Step::Succeed(Box::new(backup())), Outcome::Done);
    let tested = |result, message: Option<&str>| Verification {
        time: Time(now()),
        result,
        restore_seconds: Some(3),
        bytes_per_second: Some(2_000_000),
        index: Some(41),
        checked_index: Some(40),
        message: message.map(str::to_owned),
    };
    done.verification = Some(tested(VerificationResult::Passed, None));
    let passed = verified(&done, &[], now(), 1).unwrap();
    let told = "it was restored up to entry 41 in 3 s, 1.9 MiB in a second; compared with the members after entry 40";
    assert_eq!((passed.status.as_str(), passed.message.as_str()), ("True", told));
    done.verification = Some(tested(VerificationResult::Failed, Some("flipped bit")));
    let failed = verified(&done, &[], now(), 1).unwrap();
    assert_eq!((failed.status.as_str(), failed.message.as_str()), ("False", "flipped bit"));
}
