//! Backups, and a cluster that has a store of them.

use super::*;

/// The cluster, complete, with a store of backups.
fn backed_up() -> SqliteCluster {
    let mut cluster = complete();
    cluster.spec.backup = serde_json::from_value(json!({"store": {"s3": {"bucket": "b"}}})).unwrap();
    cluster
}

fn backup(spec: Value, metadata: Value) -> SqliteBackup {
    let mut object = json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteBackup",
        "metadata": {"name": "first", "namespace": "shop", "uid": "b-uid", "generation": 1},
        "spec": {"clusterRef": {"name": "orders"}},
    });
    for (part, more) in [("spec", spec), ("metadata", metadata)] {
        for (key, value) in more.as_object().unwrap() {
            object[part][key] = value.clone();
        }
    }
    object["metadata"]["creationTimestamp"] = json!(now());
    serde_json::from_value(object).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "deadlines count from it")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap()
}

async fn turn_backup(backup: &SqliteBackup, ctx: &Arc<Context>) {
    operator::backup::reconcile(Arc::new(guarded(backup.clone())), ctx.clone()).await.unwrap();
}

#[tokio::test]
async fn a_backup_is_made_by_a_follower_told_of_and_left_alone() {
    let Serving { raft, server, ctx, .. } = Serving::of(backed_up()).await;
    let mut backup = backup(json!({}), json!({}));
    turn_backup(&backup, &ctx).await;
    let asked = raft.lock().unwrap().backups.clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].0, NodeId(101), "the first follower");
    assert!(asked[0].1.starts_with("first-"), "{asked:?}");
    let status = || server.status.lock().unwrap().clone().unwrap();
    assert_eq!(status()["member"], "orders-1");
    backup.status = serde_json::from_value(status()).unwrap();
    turn_backup(&backup, &ctx).await;
    assert_eq!(status()["path"], format!("full/{}", asked[0].1));
    assert_eq!(status()["bookmark"]["index"], 9);
    assert_eq!(status()["store"]["s3"]["bucket"], "b");
    backup.status = serde_json::from_value(status()).unwrap();
    let events = server.asked().iter().filter(|asked| asked.contains("/events")).count();
    assert_eq!(events, 2, "of the backup, and of its cluster");
    for _ in 0..5 {
        turn_backup(&backup, &ctx).await;
    }
    assert_eq!(server.asked(), Vec::<String>::new());
    assert_eq!(raft.lock().unwrap().backups.len(), 1);
}

#[tokio::test]
async fn a_backup_outlasts_an_outage_of_its_store() {
    let Serving { raft, server, ctx, .. } = Serving::of(backed_up()).await;
    let mut backup = backup(json!({}), json!({}));
    let status = || server.status.lock().unwrap().clone().unwrap();
    raft.lock().unwrap().outage = Some("no route to the store".into());
    for attempt in 1..=2 {
        // It is asked for, and seen to have failed.
        for _ in 0..2 {
            turn_backup(&backup, &ctx).await;
            backup.status = serde_json::from_value(status()).unwrap();
        }
        assert_eq!(status()["failures"]["count"], attempt);
        assert_eq!(status()["conditions"][0]["reason"], "Retrying");
        for _ in 0..3 {
            turn_backup(&backup, &ctx).await;
        }
        assert_eq!(raft.lock().unwrap().backups.len(), attempt, "it waits");
        // The time has come.
        let failures = backup.status.as_mut().unwrap().failures.as_mut().unwrap();
        failures.next_time = serde_json::from_value(json!(now())).unwrap();
    }
    raft.lock().unwrap().outage = None;
    for _ in 0..2 {
        turn_backup(&backup, &ctx).await;
        backup.status = serde_json::from_value(status()).unwrap();
    }
    let asked = raft.lock().unwrap().backups.clone();
    let members: Vec<_> = asked.iter().map(|(member, _)| member.0).collect();
    assert_eq!(members, [101, 102, 101], "another one each time");
    assert!(asked.iter().all(|(_, name)| *name == asked[0].1), "it has one name: {asked:?}");
    assert_eq!(status()["path"], format!("full/{}", asked[0].1));
    let events = std::mem::take(&mut *server.events.lock().unwrap());
    let told: Vec<_> = events.iter().map(|(reason, _)| reason.as_str()).collect();
    let of_both = ["BackupAttemptFailed", "BackupAttemptFailed", "BackupSucceeded", "BackupSucceeded"];
    assert_eq!(told, of_both, "one cause, told of the backup and of its cluster: {events:?}");
}

#[tokio::test]
async fn a_backup_takes_its_objects_along_if_it_is_asked_to() {
    let Serving { raft, server, ctx, .. } = Serving::of(backed_up()).await;
    let delete = json!({"deletionPolicy": "Delete"});
    turn_backup(&backup(delete.clone(), json!({})), &ctx).await;
    assert!(raft.lock().unwrap().backups.is_empty(), "it is held before anything is in the store");
    assert!(server.asked().iter().any(|asked| asked.starts_with("PATCH") && asked.ends_with("/first")));
    let gone = json!({"finalizers": ["sqlite-operator.io/backup-objects"], "deletionTimestamp": now()});
    let mut backup = backup(delete, gone);
    backup.status = serde_json::from_value(json!({
        "path": "full/x", "clusterID": CLUSTER_ID, "store": {"s3": {"bucket": "b"}},
        "completionTime": now(),
    }))
    .unwrap();
    turn_backup(&backup, &ctx).await;
    assert_eq!(raft.lock().unwrap().deleted, ["full/x"]);
    assert!(server.asked().iter().any(|asked| asked.starts_with("PATCH") && asked.ends_with("/first")));
}

#[tokio::test]
async fn a_backup_that_is_deleted_while_it_is_made_leaves_nothing_in_the_store() {
    let Serving { raft, server, ctx, .. } = Serving::of(backed_up()).await;
    let finalizers = json!({"finalizers": ["sqlite-operator.io/backup-objects"]});
    let mut backup = backup(json!({"deletionPolicy": "Delete"}), finalizers);
    let status = || serde_json::from_value(server.status.lock().unwrap().clone().unwrap()).unwrap();
    let is_let_go = || {
        let written = std::mem::take(&mut *server.written.lock().unwrap());
        written.iter().any(|(asked, _)| asked.starts_with("PATCH") && asked.ends_with("/sqlitebackups/first"))
    };
    raft.lock().unwrap().is_slow = true;
    turn_backup(&backup, &ctx).await;
    backup.status = status();
    backup.metadata.deletion_timestamp = serde_json::from_value(json!(now())).unwrap();
    for _ in 0..3 {
        turn_backup(&backup, &ctx).await;
        backup.status = status();
    }
    assert!(!is_let_go() && raft.lock().unwrap().deleted.is_empty());
    raft.lock().unwrap().is_slow = false;
    turn_backup(&backup, &ctx).await;
    backup.status = status();
    assert!(!is_let_go(), "where it is is written down first");
    turn_backup(&backup, &ctx).await;
    let (asked, deleted) = {
        let raft = raft.lock().unwrap();
        (raft.backups.clone(), raft.deleted.clone())
    };
    assert_eq!((asked.len(), deleted), (1, vec![format!("full/{}", asked[0].1)]));
    assert!(is_let_go());
    let events = std::mem::take(&mut *server.events.lock().unwrap());
    let waits = events.iter().filter(|(reason, _)| reason == "BackupDeletionWaits").count();
    assert_eq!(waits, 2, "told once, of the backup and of its cluster: {events:?}");
}

#[tokio::test]
async fn a_backup_does_not_hold_up_a_namespace_whose_cluster_is_gone_already() {
    let server = ApiServer::default();
    let ctx = Arc::new(context_with(server.client(), &[]));
    let gone = json!({"finalizers": ["sqlite-operator.io/backup-objects"], "deletionTimestamp": now()});
    let mut backup = backup(json!({"deletionPolicy": "Delete"}), gone);
    backup.status = serde_json::from_value(json!({
        "path": "full/x", "clusterID": CLUSTER_ID, "store": {"s3": {"bucket": "b"}}, "completionTime": now(),
    }))
    .unwrap();
    let is_let_go = || {
        let written = std::mem::take(&mut *server.written.lock().unwrap());
        written.iter().any(|(asked, _)| asked.starts_with("PATCH") && asked.ends_with("/sqlitebackups/first"))
    };
    turn_backup(&backup, &ctx).await;
    assert!(!is_let_go(), "somebody may make the cluster again");
    server.ends.store(true, Ordering::Relaxed);
    turn_backup(&backup, &ctx).await;
    assert!(is_let_go());
    let events = server.events.lock().unwrap().clone();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].0, "BackupObjectsLeft");
    assert!(events[0].1.contains("full/x"), "{events:?}");
}

#[tokio::test]
async fn a_cluster_with_backups_at_rest_costs_the_api_server_nothing() {
    let mut world = Serving::of(backed_up()).await;
    let mut triggers = world.ctx.triggers.clusters.listen();
    world.reconcile().await;
    // The store was tried out.
    triggers.recv().await.unwrap();
    world.reconcile().await;
    let conditions = &world.cluster.status.as_ref().unwrap().conditions;
    let healthy = conditions.iter().find(|condition| condition.type_ == "BackupHealthy").unwrap();
    assert_eq!((healthy.status.as_str(), healthy.reason.as_str()), ("True", "Healthy"));
    world.server.asked();
    for _ in 0..20 {
        world.reconcile().await;
        assert_eq!(world.server.asked(), Vec::<String>::new());
    }
}

/// What the watch brings of a backup that the operator made: with `more` of its status.
fn seen(made: &Value, status: Value) -> SqliteBackup {
    let mut object = made.clone();
    object["metadata"]["uid"] = json!("b-uid");
    object["metadata"]["generation"] = json!(1);
    object["metadata"]["creationTimestamp"] = json!(now());
    object["status"] = status;
    serde_json::from_value(object).unwrap()
}

#[tokio::test]
async fn an_operator_that_was_suspended_for_days_catches_up_with_one_backup() {
    // Due once a day, half a day from now: no moment is due while this runs.
    let hour = jiff::tz::TimeZone::UTC.to_datetime(now() + jiff::SignedDuration::from_hours(12)).hour();
    let cron = format!("0 {hour} * * *");
    let before = now() - jiff::SignedDuration::from_hours(24 * 5 + 1);
    let mut cluster = backed_up();
    cluster.spec.backup.as_mut().unwrap().schedules =
        serde_json::from_value(json!([{"name": "daily", "cron": cron}])).unwrap();
    // What it wrote down before it was suspended.
    let zone = &cluster.spec.backup.as_ref().unwrap().schedules[0].time_zone;
    let known = json!({"name": "daily", "cron": format!("{cron} {zone}"), "countedFrom": before});
    let known = json!({ "schedules": [known] });
    cluster.status.as_mut().unwrap().backup = serde_json::from_value(known).unwrap();
    let mut world = Serving::of(cluster).await;
    let (reader, mut watch) = store();
    watch.apply_watcher_event(&Event::Init);
    watch.apply_watcher_event(&Event::InitDone);
    Arc::get_mut(&mut world.ctx).unwrap().stores.backups = reader;
    // It looks again before its watch has told it what it did.
    for _ in 0..3 {
        world.reconcile().await;
    }
    let made = world.server.backups.lock().unwrap().clone();
    assert_eq!(made.len(), 1, "{made:?}");
    let (name, object) = made.into_iter().next().unwrap();
    let due: jiff::Timestamp = object["metadata"]["annotations"]["sqlite-operator.io/scheduledFor"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let age = now().duration_since(due).as_hours();
    assert!((12..=13).contains(&age), "it is not the last one that was due: {due}");
    // Nor while it is made, nor once it is.
    let condition = json!({
        "type": "Succeeded", "status": "True", "reason": "Succeeded", "message": "", "lastTransitionTime": now(),
    });
    let ended = json!({
        "conditions": [condition], "completionTime": now(), "path": "p", "clusterID": CLUSTER_ID,
        "store": {"s3": {"bucket": "b"}},
        "bookmark": {"index": 9, "term": 1, "time": now()},
    });
    for status in [json!({}), ended] {
        watch.apply_watcher_event(&Event::Apply(guarded(seen(&object, status))));
        for _ in 0..3 {
            world.reconcile().await;
        }
    }
    assert_eq!(world.server.backups.lock().unwrap().keys().collect::<Vec<_>>(), [&name]);
    let schedule = world.cluster.status.as_ref().unwrap().backup.as_ref().unwrap().schedules[0].clone();
    assert_eq!(schedule.last_schedule_time.map(|time| time.0), Some(due));
    let next = schedule.next_time.unwrap().0;
    assert_eq!(next.duration_since(due), jiff::SignedDuration::from_hours(24), "{next}");
}
