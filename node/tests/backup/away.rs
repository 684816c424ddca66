//! A member is away while the cluster goes to another moment in place, or the store while a backup is made.

use super::going_down::{bring_back, make_away};
use super::support::Cluster;
use super::support::backups::{await_job, back_up, insert, leader_of, members, restore_in_place, sum_after};
use serde_json::{Value, json};

#[test]
fn a_member_that_is_away_while_another_state_comes_returns_to_the_same_by_its_log() {
    returns(false);
}

#[test]
fn a_member_that_is_away_while_another_state_comes_returns_to_the_same_by_a_snapshot() {
    returns(true);
}

/// Whether the others still have the entry by which it happened, or have purged it from their logs.
fn returns(is_purged: bool) {
    let (mut c, _) = members(3, None, false);
    c.create_ledger(0);
    for n in 0..10 {
        insert(&c, 0, n);
    }
    let base = back_up(&c, 0, "base");
    let leader = leader_of(&mut c);
    let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let present = insert(&c, leader, 10);
    c.until("all have it", |c| (c.report(away)["appliedIndex"].as_u64() >= Some(present)).then_some(()));
    let before = c.report(away);
    c.kill(away);
    // What it does not know of, and what the others do not either any more.
    for n in 11..20 {
        insert(&c, leader, n);
    }
    restore_in_place(&mut c, "back", &json!({"backup": base["path"]}), &json!({}));
    insert(&c, leader, 100);
    if is_purged {
        for i in [leader, other] {
            let (status, body) = c.post(i, "/snapshot?trailing_logs=0", "");
            assert!(matches!(status, 200 | 204), "{status} {body}");
        }
    }
    c.start(away);
    c.await_ready(away);
    let log = c.log(away);
    assert!(is_purged || log.contains("fetched a database that an entry names"), "{log}");
    assert!(!is_purged || log.contains("installed a snapshot"), "{log}");
    let last = insert(&c, leader, 101);
    let sums: Vec<Value> = (0..3).map(|i| sum_after(&mut c, i, last)).collect();
    assert!(sums.iter().all(|sum| *sum == sums[leader]), "{sums:?}");
    let order = "SELECT group_concat(n) FROM (SELECT n FROM ledger ORDER BY rowid)";
    assert_eq!(c.value(away, order, "none"), json!("0,1,2,3,4,5,6,7,8,9,100,101"));
    // It is who it was, in the same life of the cluster.
    let (after, leads) = (c.report(away), c.report(leader));
    for (report, field) in
        [(&before, "nodeId"), (&before, "clusterId"), (&leads, "epoch"), (&leads, "clusterId")]
    {
        assert_eq!(after[field], report[field], "{field}");
    }
    // It knows what happened, and can do what the others can.
    c.lead(away);
    let known: Value = serde_json::from_str(&c.get(away, "/cluster/restore").1).unwrap();
    assert_eq!(known["jobs"][0]["state"], json!("Succeeded"), "{known}");
    insert(&c, away, 102);
    (0..3).for_each(|i| assert_eq!(c.assert_ledger(i, &[]).len(), 13, "member {i}"));
}

#[test]
fn a_backup_waits_for_a_store_that_is_away_and_is_made_once_it_is_back() {
    let (mut c, _) = members(1, None, false);
    c.create_ledger(0);
    insert(&c, 0, 1);
    back_up(&c, 0, "before");
    let store = c.root().join("store");
    make_away(&store);
    let begin = |c: &Cluster, name: &str, within: Option<u64>| {
        let mut request = json!({"name": name, "kind": "Full"});
        if let Some(within) = within {
            request["withinSeconds"] = json!(within);
        }
        let (status, body) = c.post(0, "/cluster/backups", &request.to_string());
        assert_eq!(status, 200, "{body}");
    };
    let job = |c: &Cluster, name: &str| -> Value {
        let jobs: Value = serde_json::from_str(&c.get(0, "/cluster/backups/jobs").1).unwrap();
        jobs["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name).unwrap().clone()
    };
    begin(&c, "patient", None);
    c.until("it says that it waits", |c| {
        let job = job(c, "patient");
        assert_eq!(job["state"], "Running", "{job}");
        job["message"].as_str().is_some_and(|why| why.starts_with("waits for the store: ")).then_some(())
    });
    // One that may not wait says why it was not made.
    begin(&c, "hasty", Some(1));
    c.until("the other one fails", |c| (job(c, "hasty")["state"] == "Failed").then_some(()));
    let last = insert(&c, 0, 2);
    bring_back(&store);
    let made = await_job(&c, 0, "/cluster/backups/jobs", "patient");
    assert_eq!((&made["message"], &made["progressPercent"]), (&Value::Null, &json!(100)), "{made}");
    assert!(made["backup"]["index"].as_u64() >= Some(last), "it is of when the store was back: {made}");
}
