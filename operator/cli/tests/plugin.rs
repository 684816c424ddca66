//! `kubectl sqlite` against an API server in this process: what it prints, and what it asks for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "plugin/member.rs"]
mod member;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::response::IntoResponse;
use clap::CommandFactory;
use cli::plugin::PluginArgs;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

type Asked = Arc<Mutex<Vec<String>>>;

/// A cluster with a backup store, an orphaned volume, a supervised update that waits, no quorum, and an entry that ends all.
fn orders() -> Value {
    json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
        "spec": {
            "storage": {"size": "1Gi"}, "image": "i:2", "fencing": [{"member": "orders-2"}],
            "backup": {"store": {"s3": {"bucket": "b"}}},
        },
        "status": {
            "clusterID": "c1", "orphanedVolumes": ["data-orders-3"],
            "leader": {"member": "orders-0", "term": 1, "sinceTime": "2026-01-01T00:00:00Z"},
            "quorum": {
                "size": 2, "healthyVoters": 1, "tolerableFailures": 0,
                "lossPoints": [{"survivor": "orders-1", "index": 4711, "term": 3}],
            },
            "fatalEntry": {"index": 4711, "term": 2, "crashes": 3},
            "members": [
                {"name": "orders-0", "role": "Voter", "ready": true},
                {"name": "orders-1", "role": "Voter", "ready": true, "nodeID": member::ID},
            ],
            "version": {"stable": "i:1", "target": "i:2"},
            "rollout": {"state": "WaitingForApproval", "updated": 0, "total": 3, "revision": "r2",
                "stableRevision": stable_revision()},
        },
    })
}

/// Revision of the template with the image before.
fn stable_revision() -> String {
    let before = json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u"},
        "spec": {
            "storage": {"size": "1Gi"}, "image": "i:1", "fencing": [{"member": "orders-2"}],
            "backup": {"store": {"s3": {"bucket": "b"}}},
        },
    });
    operator::cluster::validate::validate(&serde_json::from_value(before).unwrap(), "i:1")
        .unwrap()
        .voter_revision
}

/// A cluster whose volumes cannot all be deleted.
fn users() -> Value {
    json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
        "metadata": {"name": "users", "namespace": "shop", "uid": "u"},
        "spec": {"storage": {"size": "1Gi"}},
        "status": {"orphanedVolumes":
            ["data-users-3", "data-users-4", "data-users-5", "data-orders-0", "data-users-6", "data-users-7", "data-users-0"],
            "members": [{"name": "users-0", "role": "Voter", "ready": false}]},
    })
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"sqlite-operator.io/cluster": "orders"}}})
}

/// The same, whose program ended once.
fn restarted(name: &str) -> Value {
    let mut pod = pod(name);
    let container = json!({"name": "sqlited", "image": "i", "imageID": "", "ready": true, "restartCount": 1});
    pod["status"] = json!({"containerStatuses": [container]});
    pod
}

/// A cluster of another namespace, of which no voter can be missed.
fn books() -> Value {
    let member = |name: &str| json!({"name": name, "role": "Voter", "ready": true, "lag": "CaughtUp"});
    json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
        "metadata": {"name": "books", "namespace": "bank", "uid": "u"},
        "spec": {"storage": {"size": "1Gi"}},
        "status": {
            "quorum": {"size": 2, "healthyVoters": 2, "tolerableFailures": 0},
            "members": [member("books-0"), member("books-1")],
        },
    })
}

/// A pod template that is pinned, with what somebody may have put into it.
fn revision() -> Value {
    let env = json!([{"name": "TOKEN", "value": "s3cret"}]);
    json!({
        "metadata": {
            "name": "orders-template-r1", "namespace": "shop", "annotations": {"somebody/else": "s3cret"},
        },
        "revision": 1,
        "data": {"spec": {"containers": [{"name": "sqlited", "args": ["-o=https://me:s3cret@host"], "env": env}]}},
    })
}

/// What is asked for beyond the namespace `shop`: pods of all namespaces, and the cluster of another one.
fn answer_beyond(uri: &Uri) -> Option<(StatusCode, String)> {
    let books = json!({"metadata":
        {"name": "books-0", "namespace": "bank", "labels": {"sqlite-operator.io/cluster": "books"}}});
    let list = |items: Value| json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
    let query = uri.query().unwrap_or_default();
    let found = match uri.path() {
        "/api/v1/pods" if query.contains("node-secret") => {
            let status = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403,
                "message": "pods is forbidden"});
            return Some((StatusCode::FORBIDDEN, status.to_string()));
        }
        "/api/v1/pods" if query.contains("name%3Dsqlite-operator") => {
            list(json!([{"metadata": {"name": "operator-0", "namespace": "operators"}}]))
        }
        "/api/v1/namespaces/operators/pods/operator-0/log" => {
            let line = |message: &str, cluster: &str| {
                json!({"fields": {"message": message, "cluster": cluster}}).to_string() + "\n"
            };
            let log =
                line("see https://me:s3cret@store/?k=s3cret", "shop/orders") + &line("mine", "bank/books");
            return Some((StatusCode::OK, log));
        }
        "/api/v1/pods" if query.contains("node-2") => list(json!([books])),
        "/api/v1/pods" if query.contains("node-3") => list(json!([])),
        "/api/v1/pods" => list(json!([pod("orders-0"), books])),
        path if path.ends_with("/namespaces/bank/sqliteclusters/books") => self::books(),
        _ => return None,
    };
    Some((StatusCode::OK, found.to_string()))
}

fn answer(method: &Method, path: &str, body: &str) -> (StatusCode, String) {
    let list = |items: Value| {
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}).to_string()
    };
    let missing = || {
        let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
            "message": "not found"});
        (StatusCode::NOT_FOUND, status.to_string())
    };
    let failure = |code: StatusCode, reason: &str| {
        let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code.as_u16(),
            "message": format!("it is {reason}")});
        (code, status.to_string())
    };
    let (_, path) = path.split_once("/namespaces/shop/").unwrap();
    let sent: Value = serde_json::from_str(body).unwrap_or_default();
    let found = match (method.as_str(), path) {
        (_, "sqliteclusters/orders") => orders().to_string(),
        (_, "sqliteclusters/users") => users().to_string(),
        ("DELETE", "persistentvolumeclaims/data-users-4") => return failure(StatusCode::CONFLICT, "Conflict"),
        ("DELETE", "persistentvolumeclaims/data-users-5") | ("GET", "persistentvolumeclaims/data-users-6") => {
            return failure(StatusCode::FORBIDDEN, "Forbidden");
        }
        ("GET", "sqliterestores/before") => json!({
            "metadata": {"name": "before", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "orders"}, "source": {"backupRef": {"name": "nightly"}}},
            "status": {"undoBookmark": {"backup": "before-undo", "index": 1, "term": 1, "time": "2026-01-01T00:00:00Z"}},
        })
        .to_string(),
        ("GET", "sqlitebackups/before-undo") => json!({
            "metadata": {"name": "before-undo", "namespace": "shop", "uid": "b", "resourceVersion": "8",
                "finalizers": ["example.com/theirs"]},
            "spec": {"clusterRef": {"name": "orders"}},
            "status": {"path": "00000001-00000000000000000001-before-undo"},
        })
        .to_string(),
        ("PATCH" | "DELETE", "sqlitebackups/before-undo") => json!({
            "metadata": {"name": "before-undo", "namespace": "shop", "uid": "b"},
            "spec": {"clusterRef": {"name": "orders"}},
        })
        .to_string(),
        ("PATCH", "sqlitebackups/nightly") => json!({
            "metadata": {"name": "nightly", "namespace": "shop"}, "spec": {"clusterRef": {"name": "orders"}},
        })
        .to_string(),
        ("POST", _) => sent.to_string(),
        ("GET", "pods/orders-3") => return missing(),
        ("GET", "pods/orders-1") => pod("orders-1").to_string(),
        ("GET", "secrets/orders-operator") => {
            json!({"metadata": {"name": "orders-operator"}, "data": {"username": "bWU=", "password": "czNjcmV0"}}).to_string()
        }
        ("GET", "pods") => list(json!([restarted("orders-0"), pod("orders-1")])),
        ("GET", "controllerrevisions") => list(json!([revision()])),
        ("GET", "networkpolicies") => return failure(StatusCode::FORBIDDEN, "Forbidden"),
        ("GET", "pods/orders-0/log") => "{\"message\":\"serving\"}\nplain\n".to_owned(),
        ("GET", "pods/orders-1/log") => "following\n".to_owned(),
        ("GET" | "DELETE", claim) if claim.starts_with("persistentvolumeclaims/") => json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim.rsplit('/').next(), "namespace": "shop", "uid": "claim-uid", "resourceVersion": "9"},
        })
        .to_string(),
        ("GET", kind) if !kind.contains('/') => list(json!([])),
        _ => return missing(),
    };
    (StatusCode::OK, found)
}

/// What lets followed logs go on.
type Cues = Arc<[Notify; 2]>;

/// What is logged while it is followed: orders-0 breaks off at the first cue, and orders-1 speaks at the second.
fn followed(path: &str, cues: &Cues) -> Body {
    let at = |cue: usize, what| {
        let cues = cues.clone();
        stream::once(async move {
            cues[cue].notified().await;
            what
        })
    };
    if path.ends_with("pods/orders-0/log") {
        let end = at(0, Err(std::io::Error::other("restarted")));
        return Body::from_stream(stream::iter([Ok("last words\n")]).chain(end));
    }
    Body::from_stream(at(1, Ok("following\n")))
}

struct Kubernetes {
    asked: Asked,
    cues: Cues,
    directory: tempfile::TempDir,
}

impl Kubernetes {
    async fn start() -> Self {
        let asked = Asked::default();
        let (log, cues) = (asked.clone(), Cues::default());
        let given = cues.clone();
        let member = member::start(asked.clone()).await;
        let handler = move |request: Request| {
            let (log, given) = (log.clone(), given.clone());
            async move {
                if request.uri().path().ends_with("/portforward") {
                    return member::forward(request, member).await;
                }
                let (method, uri) = (request.method().clone(), request.uri().clone());
                let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                log.lock().unwrap().push(format!("{method} {} {body}", uri.path()));
                let beyond = answer_beyond(&uri);
                let (status, found) = beyond.unwrap_or_else(|| answer(&method, uri.path(), &body));
                let follows = uri.query().is_some_and(|query| query.contains("follow=true"));
                let found = if follows { followed(uri.path(), &given) } else { found.into() };
                (status, [("content-type", "application/json")], found).into_response()
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, Router::new().fallback(handler)).await });
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": server}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "shop"}}],
        });
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self { asked, cues, directory }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-sqlite"));
        command.env("KUBECONFIG", self.directory.path().join("kubeconfig")).args(words.split(' '));
        command
    }

    async fn run(&self, words: &str) -> Output {
        let mut command = self.command(words);
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    /// The same where nobody reads what it prints.
    async fn run_unread(&self, words: &str) -> Output {
        let mut child = self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap()
    }

    /// What it prints, if it succeeds.
    async fn prints(&self, words: &str) -> String {
        let output = self.run(words).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        // Whether a node can be drained is told by the exit code too.
        assert!(output.status.success() || words.starts_with("drain-check"), "{words}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Requests that change something.
    fn changes(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().filter(|asked| !asked.starts_with("GET")).collect()
    }
}

/// Every verb, and whether it changes something. `sql` goes to a member.
const VERBS: [(&str, bool); 28] = [
    ("status orders", false),
    ("members orders", false),
    ("plan orders", false),
    ("events orders", false),
    ("logs orders", false),
    ("report orders", false),
    ("drain-check node-1", false),
    ("backup list orders", false),
    ("restart orders", true),
    ("upgrade approve orders", true),
    ("upgrade abort orders", true),
    ("fence orders orders-1", true),
    ("unfence orders orders-2", true),
    ("hibernate orders", true),
    ("wake orders", true),
    ("pause orders", true),
    ("resume orders", true),
    ("recover-quorum orders --survivor orders-1", true),
    ("skip-entry orders 4711", true),
    ("backup now orders", true),
    ("backup verify nightly", true),
    ("backup delete before-undo", true),
    ("backup import orders full/x", true),
    ("restore orders --to latest", true),
    ("restore orders --undo before", true),
    ("branch orders orders-test", true),
    ("gc-volumes orders --yes", true),
    ("volumes gc orders --yes", true),
];

#[tokio::test]
async fn every_verb_prints_json_when_it_is_asked_to() {
    let kubernetes = Kubernetes::start().await;
    for (words, changes) in VERBS {
        let printed = kubernetes.prints(&format!("{words} --json")).await;
        // A stream of values, one after the other, for those that go on.
        let values: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_str(&printed).into_iter().collect();
        let values = values.unwrap_or_else(|error| panic!("{words}: {error}: {printed}"));
        assert!(!values.is_empty(), "{words} prints nothing");
        assert_eq!(kubernetes.changes().is_empty(), !changes, "{words}");
    }
    let told: BTreeSet<&str> = VERBS.iter().map(|(words, _)| words.split(' ').next().unwrap()).collect();
    let plugin = PluginArgs::command();
    let verbs: BTreeSet<&str> = plugin.get_subcommands().map(clap::Command::get_name).collect();
    // These talk to a member, and have tests of their own.
    let untold: Vec<_> = verbs.difference(&told).copied().collect();
    assert_eq!(untold, ["promote", "sql"], "verbs without a line here");
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_says_what_would_be() {
    let kubernetes = Kubernetes::start().await;
    let promote = ("promote orders orders-1", true);
    for (words, _) in VERBS.iter().chain([&promote]).filter(|(_, changes)| *changes) {
        let printed = kubernetes.prints(&format!("{words} --dry-run")).await;
        assert!(!printed.is_empty(), "{words} prints nothing");
        assert_eq!(kubernetes.changes(), Vec::<String>::new(), "{words}");
        let json = kubernetes.prints(&format!("{words} --dry-run --json")).await;
        assert!(serde_json::from_str::<Value>(&json).is_ok(), "{words}: {json}");
        assert_eq!(kubernetes.changes(), Vec::<String>::new(), "{words}");
    }
    let asked = kubernetes.prints("promote orders orders-1 --dry-run").await;
    let asked: Value = serde_yaml::from_str(&asked).unwrap();
    let request = json!({"method": "POST", "path": "/cluster/transfer", "body": {"to": member::ID}});
    assert_eq!(asked, json!({"from": "orders-0", "to": "orders-1", "request": request}));
    for verb in ["gc-volumes", "volumes gc"] {
        let kept = kubernetes.prints(&format!("{verb} orders --yes --dry-run")).await;
        assert!(kept.starts_with("data-orders-3 would be deleted"), "{kept}");
    }
}

#[tokio::test]
async fn leadership_is_asked_of_the_member_that_is_to_lead() {
    let kubernetes = Kubernetes::start().await;
    let printed = kubernetes.prints("promote orders orders-1").await;
    assert_eq!(printed, "orders-1 leads in term 2\n");
    let transfer = format!(r#"POST member /cluster/transfer as me {{"to":"{}"}}"#, member::ID);
    assert_eq!(kubernetes.changes(), [transfer]);
    let told: Value =
        serde_json::from_str(&kubernetes.prints("promote orders orders-1 --json").await).unwrap();
    assert_eq!(told, json!({"cluster": "orders", "from": "orders-0", "to": "orders-1", "term": 2}));
    let output = kubernetes.run("promote orders orders-replica-0").await;
    assert!(!output.status.success());
}

#[tokio::test]
async fn a_report_has_what_members_say_and_log_and_nothing_secret() {
    let kubernetes = Kubernetes::start().await;
    let text = kubernetes.prints("report orders --json").await;
    assert!(!text.contains("s3cret") && !text.contains("bank/books"), "{text}");
    let report: Vec<Value> = serde_json::from_str(&text).unwrap();
    let of = |kind: &str| report.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
    assert_eq!(of("SqliteCluster").len(), 1);
    let container = &of("ControllerRevision")[0]["data"]["spec"]["containers"][0];
    assert_eq!(container["args"][0], "-o=https://(left out)@host");
    assert!(of("NetworkPolicy")[0]["failed"].as_str().unwrap().contains("Forbidden"), "it is told");
    let members: Vec<_> = of("MemberReport").iter().map(|said| said["report"]["nodeId"].clone()).collect();
    assert_eq!(members, [json!(member::ID), json!(member::ID)]);
    let logs: Vec<_> = of("Log")
        .iter()
        .map(|log| {
            (log["pod"].as_str().unwrap(), log["previous"].as_bool().unwrap(), log["lines"].as_str().unwrap())
        })
        .collect();
    let own = "{\"message\":\"serving\"}\nplain\n";
    let operator = "{\"fields\":{\"cluster\":\"shop/orders\",\"message\":\"see https://(left out)@store/?(left out)\"}}\n";
    let wanted = [
        ("orders-0", true, own),
        ("orders-0", false, own),
        ("orders-1", false, "following\n"),
        ("operator-0", false, operator),
    ];
    assert_eq!(logs, wanted);
}

#[tokio::test]
async fn a_drain_is_looked_at_in_all_namespaces_unless_one_is_named() {
    let kubernetes = Kubernetes::start().await;
    let looked = async |words: &str| {
        let output = kubernetes.run(words).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (safe, told, _) = looked("drain-check node-1").await;
    assert!(!safe && told.contains("✓ shop/orders-0: ") && told.contains("✗ bank/books-0: "), "{told}");
    let (safe, told, _) = looked("drain-check node-2 --json").await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(!safe && told[0]["namespace"] == "bank" && told[0]["safe"] == false, "{told}");
    let (safe, told, _) = looked("drain-check node-1 --namespace shop").await;
    assert!(safe && told.contains("shop/orders-1") && !told.contains("books"), "{told}");
    let (safe, told, _) = looked("drain-check node-3").await;
    assert!(safe && told == "no member in any namespace runs on node-3\n", "{told}");
    let (safe, told, error) = looked("drain-check node-secret").await;
    assert!(
        !safe && told.is_empty() && error.contains("all namespaces") && error.contains("--namespace"),
        "{error}"
    );
}

#[tokio::test]
async fn an_update_is_taken_back_by_an_edit_of_the_spec() {
    let kubernetes = Kubernetes::start().await;
    kubernetes.prints("upgrade abort orders").await;
    let changes = kubernetes.changes();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].ends_with(r#"sqliteclusters/orders {"spec":{"image":"i:1"}}"#), "{changes:?}");
}

#[tokio::test]
async fn a_backup_that_is_deleted_takes_along_what_is_in_the_store() {
    let kubernetes = Kubernetes::start().await;
    let told = kubernetes.prints("backup delete before-undo").await;
    assert_eq!(
        told,
        "before-undo goes, and 00000001-00000000000000000001-before-undo from the store with it\n"
    );
    let changes = kubernetes.changes();
    let [held, deleted] = &changes[..] else { panic!("{changes:?}") };
    assert!(held.starts_with("PATCH") && deleted.starts_with("DELETE"), "{changes:?}");
    let (_, patch) = held.split_once(" {").unwrap();
    let patch: Value = serde_json::from_str(&format!("{{{patch}")).unwrap();
    assert_eq!(patch["spec"], json!({"deletionPolicy": "Delete"}));
    let held = json!(["example.com/theirs", "sqlite-operator.io/backup-objects"]);
    assert_eq!(patch["metadata"], json!({"finalizers": held, "uid": "b", "resourceVersion": "8"}));
    assert!(deleted.contains(r#""uid":"b""#), "only the one that was looked at: {deleted}");
}

#[tokio::test]
async fn a_volume_is_deleted_only_as_it_was_looked_at() {
    let kubernetes = Kubernetes::start().await;
    let kept = kubernetes.prints("gc-volumes orders").await;
    assert!(kept.contains("say --yes") && kubernetes.changes().is_empty(), "{kept}");
    assert_eq!(kubernetes.prints("gc-volumes orders --yes").await, "data-orders-3 is deleted\n");
    let changes = kubernetes.changes();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].starts_with("DELETE") && changes[0].contains(r#""uid":"claim-uid""#), "{changes:?}");
}

#[tokio::test]
async fn what_became_of_each_volume_is_told_whatever_became_of_another() {
    let kubernetes = Kubernetes::start().await;
    let output = kubernetes.run("gc-volumes users --yes").await;
    assert!(!output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let told: Vec<_> = text.lines().collect();
    let wanted = [
        "data-users-3 is deleted",
        "data-users-4 may be deleted: ",
        "data-users-5 is kept: ",
        "data-orders-0 is kept: it is no volume of a member of users",
        "data-users-6 is kept: ",
        "data-users-7 is deleted",
        "data-users-0 is kept: users-0 is a member of users",
    ];
    assert_eq!(told.len(), wanted.len(), "{told:?}");
    for (told, wanted) in told.iter().zip(wanted) {
        assert!(told.starts_with(wanted), "{told}: {wanted}");
    }
    assert!(told[1].contains("Conflict") && told[4].contains("Forbidden"), "{told:?}");

    let output = kubernetes.run("gc-volumes users --yes --json").await;
    assert!(!output.status.success());
    let told: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let told: Vec<_> = told
        .iter()
        .map(|orphan| (orphan["deleted"].as_bool().unwrap(), orphan["failed"].as_bool().unwrap()))
        .collect();
    let (deleted, failed) = ((true, false), (false, true));
    assert_eq!(told, [deleted, failed, failed, failed, failed, deleted, failed]);
}

#[tokio::test]
async fn a_verb_that_nobody_reads_ends_quietly_as_it_would_have() {
    let kubernetes = Kubernetes::start().await;
    for (words, _) in VERBS.iter().chain([&("gc-volumes users --yes", true)]) {
        for words in [(*words).to_owned(), format!("{words} --json")] {
            let (read, unread) = (kubernetes.run(&words).await, kubernetes.run_unread(&words).await);
            assert_eq!(unread.status.code(), read.status.code(), "{words}");
            assert_eq!(String::from_utf8_lossy(&unread.stderr), "", "{words}");
        }
    }
}

#[tokio::test]
async fn a_log_that_breaks_off_does_not_end_the_others() {
    let kubernetes = Kubernetes::start().await;
    let mut child = kubernetes.command("logs orders --follow");
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let cues = kubernetes.cues.clone();
    let heard = tokio::task::spawn_blocking(move || {
        let (mut out, mut err) =
            (BufReader::new(child.stdout.take().unwrap()), BufReader::new(child.stderr.take().unwrap()));
        let (mut text, mut error) = (String::new(), String::new());
        out.read_line(&mut text).unwrap();
        cues[0].notify_one();
        err.read_line(&mut error).unwrap();
        cues[1].notify_one();
        out.read_to_string(&mut text).unwrap();
        err.read_to_string(&mut error).unwrap();
        (text, error, child.wait().unwrap())
    });
    let (text, error, status) = heard.await.unwrap();
    assert_eq!(text, "orders-0 | last words\norders-1 | following\n", "{error}");
    assert!(error.starts_with("orders-0: "), "{error}");
    // Something of what was asked for is missing.
    assert!(!status.success());
}

#[tokio::test]
async fn logs_of_all_members_say_whose_they_are() {
    let kubernetes = Kubernetes::start().await;
    let all = kubernetes.prints("logs orders").await;
    assert_eq!(all, "orders-0 | {\"message\":\"serving\"}\norders-0 | plain\norders-1 | following\n");
    assert_eq!(kubernetes.prints("logs orders orders-1").await, "following\n");
    let json = kubernetes.prints("logs orders orders-0 --json --tail 2").await;
    assert!(json.starts_with(r#"{"log":{"message":"serving"},"member":"orders-0"}"#), "{json}");
    let output = kubernetes.run("logs orders orders-7").await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("orders has no pod orders-7"));
}
