//! What the chart brings: every alert has its runbook, nothing asks for a metric of the operator that there is not, and what
//! is optional is rendered and fits the rest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/expressions.rs"]
mod expressions;

use operator::cluster::build::pod;
use operator::cluster::plan::ObstacleReason;
use operator::cluster::validate::validate;
use operator::error::RejectionReason;
use operator::metrics::Metrics;
use operator::names::{ANNOTATION_DELETION_PROTECTION, ClusterName, PORT_HEALTH, PodRole};
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

/// However seldom it is tried again: between two attempts are half a minute and however long an attempt takes.
#[test]
fn one_cluster_that_cannot_be_reconciled_for_ten_minutes_is_an_alert() {
    let alerts = alerts();
    let fails = alerts.iter().find(|alert| alert["alert"] == "SqliteOperatorFails").unwrap();
    assert_eq!(fails["for"], "10m");
    let metrics = Metrics::new();
    metrics.fails("SqliteCluster", "shop", "orders");
    let told = metrics.text().unwrap();
    let series = "sqlite_operator_reconcile_failing";
    assert!(
        told.contains(&format!("{series}{{kind=\"SqliteCluster\",namespace=\"shop\",name=\"orders\"}} 1\n"))
    );
    assert_eq!(fails["expr"], format!("max by (kind, namespace, name) ({series}) == 1"));
}

#[test]
fn every_condition_that_is_a_reason_to_stall_is_in_the_runbook() {
    let runbooks = read("docs/runbooks.md");
    let (_, stalled) = runbooks.split_once("\n## SqliteClusterStalled\n").unwrap();
    let (stalled, _) = stalled.split_once("\n## ").unwrap();
    let told: BTreeSet<&str> = stalled
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(r, _)| r)
        .collect();
    let obstacles = ObstacleReason::ALL.iter().map(|reason| reason.as_str());
    let all: BTreeSet<&str> =
        obstacles.chain(RejectionReason::ALL.iter().map(|reason| reason.as_str())).collect();
    assert_eq!(told, all);
}

#[test]
fn metrics_of_the_operator_that_are_asked_for_exist() {
    // Families are written only once they have a member.
    let metrics = Metrics::new();
    metrics.observe("apply", std::time::Duration::ZERO);
    metrics.failed("apply");
    metrics.fails("SqliteCluster", "shop", "orders");
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
    let series = expressions::series(&metrics.text().unwrap());
    let alerts = alerts().into_iter().map(|alert| {
        (
            alert["expr"].as_str().unwrap().to_owned(),
            alert["annotations"]["summary"].as_str().unwrap().to_owned(),
        )
    });
    let panels = queries().into_iter().map(|query| (query, String::new()));
    let mut names = BTreeSet::new();
    for (expression, summary) in alerts.chain(panels) {
        let (asked, missing) = expressions::asked(&expression, &summary, "sqlite_operator_", &series);
        assert_eq!(missing, Vec::<String>::new(), "{expression}: there are {series:#?}");
        names.extend(asked);
    }
    assert!(names.len() >= 5, "{names:?}");
}

#[test]
fn a_label_that_is_not_there_is_noticed() {
    let series = expressions::series("# TYPE m counter\nm_total{x=\"1\",y=\"2\"} 3\nm_b 4\n");
    for (expression, quoting, expected) in [
        ("max by (x, pod) (m_total{y=\"2\", namespace=~\".\"})", "{{ $labels.x }}", &[][..]),
        ("m_total - m_b", "$labels.y", &[]),
        ("m_total{z!=\"\"}", "", &["m_total{z}"]),
        ("rate(m_other[5m])", "", &["m_other"]),
        ("sum by (z) (m_total)", "$labels.z", &["by (z)"]),
        ("sum by (x) (m_total)", "$labels.y", &["$labels.y"]),
        ("absent(m_total)", "$labels.x", &["$labels.x"]),
        ("up", "$labels.z", &[]),
    ] {
        assert_eq!(expressions::asked(expression, quoting, "m_", &series).1, expected, "{expression}");
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

/// The objects that the chart of the operator makes of values. None where helm is missing, which CI does not let pass.
fn rendered(values: &[&str]) -> Option<Vec<Value>> {
    let chart = root().join("charts/sqlite-operator");
    let mut helm = std::process::Command::new("helm");
    helm.args(["template", "test", "--namespace", "operators"]).arg(&chart).args(values);
    let output = match helm.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "helm is not installed");
            eprintln!("SKIP: helm is not installed");
            return None;
        }
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text);
    let objects = documents.map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap());
    Some(objects.filter(|object| !object.is_null()).collect())
}

fn everything(more: &[&str]) -> Option<Vec<Value>> {
    let values = root().join("charts/sqlite-operator/ci/everything-values.yaml");
    let values = values.to_str().unwrap().to_owned();
    rendered(&[&["--values", values.as_str()], more].concat())
}

#[track_caller]
fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

/// Switches of the values, by their path: everything that is a boolean.
fn switches(path: &str, values: &Value, found: &mut Vec<(String, bool)>) {
    match values {
        Value::Bool(on) => found.push((path.to_owned(), *on)),
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| switches(&format!("{path}.{key}"), value, found));
        }
        _ => {}
    }
}

#[test]
fn nothing_that_is_optional_is_left_out_of_the_values_for_tests() {
    let of = |path: &str| serde_yaml::from_str::<Value>(&read(path)).unwrap();
    let (mut defaults, mut tested) = (Vec::new(), Vec::new());
    switches("", &of("charts/sqlite-operator/values.yaml"), &mut defaults);
    switches("", &of("charts/sqlite-operator/ci/everything-values.yaml"), &mut tested);
    let off: Vec<_> = defaults.iter().filter(|(_, on)| !on).map(|(path, _)| path).collect();
    assert!(off.len() >= 5, "{off:?}");
    for path in off {
        assert!(tested.contains(&(path.clone(), true)), "{path} is not switched on");
    }
}

/// Helm installs what is in a folder `crds` once, and never again; what is a template it updates with the rest.
#[test]
fn an_upgrade_of_the_chart_brings_its_definitions() {
    assert!(!root().join("charts/sqlite-operator/crds").exists());
    let Some(objects) = rendered(&[]) else { return };
    let mut definitions: Vec<&Value> =
        objects.iter().filter(|object| object["kind"] == "CustomResourceDefinition").collect();
    definitions.sort_by_key(|definition| definition["metadata"]["name"].as_str());
    let plain = ["sqlitebackups", "sqliteclusters", "sqliterestores"]
        .map(|plural| serde_yaml::from_str::<Value>(&read(&format!("crds/{plural}.yaml"))).unwrap());
    assert_eq!(definitions.len(), plain.len());
    for (found, plain) in definitions.into_iter().zip(&plain) {
        let name = &plain["metadata"]["name"];
        assert_eq!((&found["metadata"]["name"], &found["spec"]), (name, &plain["spec"]), "{name}");
        let kept = &found["metadata"]["annotations"]["helm.sh/resource-policy"];
        assert_eq!(kept, "keep", "{name} goes with the release, and every cluster with it");
    }
    let Some(without) = rendered(&["--set", "crds.install=false"]) else { return };
    assert!(without.iter().all(|object| object["kind"] != "CustomResourceDefinition"));
}

#[test]
fn by_default_there_is_nothing_that_needs_others() {
    let Some(objects) = rendered(&[]) else { return };
    let kinds: BTreeSet<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    let expected = [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds, expected.into());
}

/// The port that the pods of a role call by this name.
fn port_of_pods(role: PodRole, name: &str) -> Option<i32> {
    let cluster = serde_json::from_value(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": {"voters": 3, "storage": {"size": "1Gi"}},
    }));
    let desired = validate(&cluster.unwrap(), "i").unwrap();
    let containers = pod::template(&desired, role).spec.unwrap().containers;
    let mut ports = containers.into_iter().flat_map(|container| container.ports.unwrap_or_default());
    ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
}

#[test]
fn what_prometheus_and_grafana_are_given_fits_what_there_is() {
    let Some(objects) = everything(&[]) else { return };
    let labels = |object: &Value| object["metadata"]["labels"].clone();
    // Members are found by labels that every child of a cluster has, at a port that their pods name.
    let members = only(&objects, "PodMonitor");
    let children = ClusterName::new("shop", "orders").labels("voter", None);
    for (key, value) in members["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(children.get(key).map(String::as_str), value.as_str(), "{key}");
    }
    let port = members["spec"]["podMetricsEndpoints"][0]["port"].as_str().unwrap();
    for role in [PodRole::Voter, PodRole::ReadReplica] {
        assert_eq!(port_of_pods(role, port), Some(PORT_HEALTH), "{role:?}: {port}");
    }
    assert_eq!(members["spec"]["namespaceSelector"]["any"], true);
    // The operator is found by its Service, and the Service finds the pods.
    let (monitor, service) = (only(&objects, "ServiceMonitor"), only(&objects, "Service"));
    let deployment = only(&objects, "Deployment");
    let pods = &deployment["spec"]["template"]["metadata"]["labels"];
    for (wanted, found) in [
        (&monitor["spec"]["selector"]["matchLabels"], &labels(service)),
        (&service["spec"]["selector"], pods),
    ] {
        for (key, value) in wanted.as_object().unwrap() {
            assert_eq!(found[key], *value, "{key}");
        }
    }
    assert_eq!(
        monitor["spec"]["endpoints"][0]["honorLabels"], true,
        "conditions have labels that Prometheus gives to what it reads from as well"
    );
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    assert_eq!(
        service["spec"]["ports"][0]["targetPort"],
        deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["name"]
    );
    for kind in ["PodMonitor", "ServiceMonitor", "PrometheusRule"] {
        assert_eq!(labels(only(&objects, kind))["release"], "prometheus", "{kind}");
    }
    let rules = only(&objects, "PrometheusRule")["spec"]["groups"].as_array().unwrap();
    let rendered = rules.iter().flat_map(|group| group["rules"].as_array().unwrap().clone());
    assert_eq!(rendered.collect::<Vec<_>>(), alerts(), "helm leaves the templates of alerts alone");
    let dashboard = only(&objects, "ConfigMap");
    assert_eq!(labels(dashboard)["grafana_dashboard"], "1");
    let text = dashboard["data"]["sqlite-clusters.json"].as_str().unwrap();
    let (shown, file): (Value, Value) = (
        serde_json::from_str(text).unwrap(),
        serde_json::from_str(&read("charts/sqlite-operator/files/dashboard.json")).unwrap(),
    );
    assert_eq!(shown, file);
}

#[test]
fn an_operator_of_some_namespaces_is_told_of_those_only() {
    let Some(objects) = everything(&["--set", "watchNamespaces={shop,crm}"]) else { return };
    let of = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
    assert!(of("ClusterRole").is_empty() && of("ClusterRoleBinding").is_empty());
    let places: BTreeSet<&str> =
        of("Role").iter().map(|role| role["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(places, ["crm", "operators", "shop"].into());
    assert_eq!(
        only(&objects, "PodMonitor")["spec"]["namespaceSelector"],
        json!({"matchNames": ["shop", "crm"]})
    );
    let binding = only(&objects, "ValidatingAdmissionPolicyBinding");
    let selector = &binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"];
    let expected =
        json!([{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop", "crm"]}]);
    assert_eq!(*selector, expected);
}

#[test]
fn clusters_that_are_protected_are_not_deleted() {
    let Some(objects) = everything(&[]) else { return };
    let policy = only(&objects, "ValidatingAdmissionPolicy");
    let binding = only(&objects, "ValidatingAdmissionPolicyBinding");
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    let spec = &policy["spec"];
    let rule = &spec["matchConstraints"]["resourceRules"][0];
    assert_eq!((&rule["operations"], &rule["resources"]), (&json!(["DELETE"]), &json!(["sqliteclusters"])));
    let validation = &spec["validations"][0];
    for field in ["expression", "messageExpression", "message"] {
        let text = validation[field].as_str().unwrap();
        assert!(text.contains(ANNOTATION_DELETION_PROTECTION), "{field}: {text}");
    }
    assert!(read("docs/operator.md").contains(ANNOTATION_DELETION_PROTECTION));
}
