//! What the chart brings for Prometheus and Grafana: every alert has its runbook, and nothing asks for a metric of the
//! operator that there is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use operator::metrics::Metrics;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn alerts() -> Vec<Value> {
    let file: Value = serde_yaml::from_str(&read("charts/sqlite-operator/files/alerts.yaml")).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Expressions of the dashboard.
fn queries() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&read("charts/sqlite-operator/files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 5);
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_alert_has_a_runbook_and_says_how_bad_it_is() {
    let runbooks = read("docs/runbooks.md");
    let alerts = alerts();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        let name = alert["alert"].as_str().unwrap();
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert!(url.ends_with(&format!("/docs/runbooks.md#{}", name.to_lowercase())), "{url}");
        assert!(runbooks.contains(&format!("\n## {name}\n")), "no runbook for {name}");
        assert!(
            matches!(alert["labels"]["severity"].as_str(), Some("critical" | "warning" | "info")),
            "{name}"
        );
        assert!(!alert["annotations"]["summary"].as_str().unwrap().is_empty());
        assert!(alert["for"].is_string(), "{name} fires at once");
    }
}

#[test]
fn every_condition_that_is_a_reason_to_stall_is_in_the_runbook() {
    let runbooks = read("docs/runbooks.md");
    use operator::cluster::plan::ObstacleReason as Reason;
    for reason in [
        Reason::NameConflict,
        Reason::ClusterIdConflict,
        Reason::InsufficientCapacity,
        Reason::MemberStuck,
        Reason::QuorumLost,
        Reason::FatalEntry,
        Reason::DataLost,
        Reason::CanaryFailed,
        Reason::VersionSkew,
    ] {
        assert!(runbooks.contains(&format!("| `{}` |", reason.as_str())), "{reason:?}");
    }
}

#[test]
fn metrics_of_the_operator_that_are_asked_for_exist() {
    // Families are written only once they have a member.
    let metrics = Metrics::new();
    metrics.observe("apply", std::time::Duration::ZERO);
    metrics.failed("apply");
    metrics.took("DeletePod");
    metrics.publish(
        "SqliteCluster",
        "shop",
        "orders",
        &[serde_json::from_value(serde_json::json!({
            "type": "Ready", "status": "True", "reason": "Serving", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }))
        .unwrap()],
    );
    let text = metrics.text().unwrap();
    let known: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let expressions = alerts().into_iter().map(|alert| alert["expr"].as_str().unwrap().to_owned());
    let mut asked = BTreeSet::new();
    for expression in expressions.chain(queries()) {
        let names = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        asked.extend(names.filter(|name| name.starts_with("sqlite_operator_")).map(str::to_owned));
    }
    assert!(asked.len() >= 5, "{asked:?}");
    for name in asked {
        let family = name.trim_end_matches("_total").trim_end_matches("_bucket");
        assert!(known.contains(family), "{name} is none of {known:?}");
    }
}

/// What a script for Argo CD says of an object.
fn health(script: &str, object: &Value) -> (String, String) {
    let lua = mlua::Lua::new();
    lua.globals().set("obj", mlua::LuaSerdeExt::to_value(&lua, object).unwrap()).unwrap();
    let said: mlua::Table = lua.load(read(&format!("charts/{script}"))).eval().unwrap();
    (said.get("status").unwrap(), said.get("message").unwrap())
}

fn object(conditions: &Value) -> Value {
    json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": conditions}})
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": "why"})
}

#[test]
fn argo_cd_sees_how_a_cluster_is() {
    let ready = || condition("Ready", "True", "Ready");
    for (conditions, expected) in [
        (json!([ready()]), "Healthy"),
        (json!([ready(), condition("Reconciling", "True", "Scaling")]), "Progressing"),
        (json!([ready(), condition("Stalled", "True", "QuorumLost")]), "Degraded"),
        (json!([ready(), condition("Paused", "True", "Paused")]), "Suspended"),
        (json!([condition("Ready", "True", "Hibernated")]), "Suspended"),
        (json!([condition("Ready", "False", "NoQuorum")]), "Progressing"),
        (json!([ready(), condition("UpdatePending", "True", "Supervised")]), "Suspended"),
        (json!([ready(), condition("UpdatePending", "True", "NewerOperator")]), "Healthy"),
        (json!([]), "Progressing"),
    ] {
        assert_eq!(health("argocd-health.lua", &object(&conditions)).0, expected, "{conditions}");
    }
    let stale =
        json!({"metadata": {"generation": 3}, "status": {"observedGeneration": 2, "conditions": [ready()]}});
    assert_eq!(health("argocd-health.lua", &stale).0, "Progressing");
    assert_eq!(health("argocd-health.lua", &json!({"metadata": {}})).0, "Progressing");
}

#[test]
fn argo_cd_sees_how_a_backup_or_a_restore_is() {
    for (conditions, expected) in [
        (json!([condition("Succeeded", "False", "Restoring")]), "Progressing: Restoring: why"),
        (json!([condition("Succeeded", "False", "AwaitingApproval")]), "Suspended: AwaitingApproval: why"),
        (json!([condition("Succeeded", "True", "Succeeded")]), "Healthy: Succeeded: why"),
        (
            json!([condition("Succeeded", "True", "Succeeded"), condition("Verified", "False", "Failed")]),
            "Degraded: Failed: why",
        ),
        (
            json!([
                condition("Succeeded", "False", "BackupFailed"),
                condition("Stalled", "True", "BackupFailed")
            ]),
            "Degraded: BackupFailed: why",
        ),
        (json!([]), "Progressing: the operator has not seen the object yet"),
    ] {
        let (status, message) = health("argocd-health-tasks.lua", &object(&conditions));
        assert_eq!(format!("{status}: {message}"), expected, "{conditions}");
    }
}
