//! One test: a namespace of its own, a time limit, traces when it fails, and nothing left behind.

use crate::cluster::{Cluster, Manifest};
use crate::diagnostics;
use crate::kubernetes::Kubernetes;
use crate::ledger::Report;
use anyhow::{Context, Result, anyhow};
use futures::FutureExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a test may take. Measured from its namespace on, without what comes after.
const LIMIT: Duration = Duration::from_secs(60);

/// The same when `make prove` repeats what `make test` does once.
const LIMIT_OF_PROOF: Duration = Duration::from_secs(20 * 60);

/// Namespace of the operator that all tests share.
pub const OPERATOR_NAMESPACE: &str = "e2e-operator";

/// Label of the operator's pods.
const OPERATOR_LABEL: &str = "app.kubernetes.io/name=sqlite-operator";

/// The Kubernetes under test cannot do what the test needs. A skipped test passes, except in CI.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SKIP: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// What a test works with.
pub struct Scenario {
    /// Name of the test.
    pub name: String,
    /// Its own namespace.
    pub namespace: String,
    /// Where it runs.
    pub kubernetes: Kubernetes,
    begin: Instant,
}

/// Runs `body` in a namespace of its own.
///
/// # Panics
/// If the test fails; that is how `cargo test` learns of it.
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn scenario(name: &str, body: impl AsyncFnOnce(&Scenario) -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(name, body)),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = outcome {
        if error.is::<Skip>() && std::env::var_os("CI").is_none() {
            // Past the test harness, which shows what a passing test printed only when asked to.
            let _ = writeln!(std::io::stderr(), "SKIP {name}: {error}");
            return;
        }
        panic!("{name}: {error:?}");
    }
}

async fn run(name: &str, body: impl AsyncFnOnce(&Scenario) -> Result<()>) -> Result<()> {
    let kubernetes = Kubernetes::connect().await?;
    let namespace = create_namespace(&kubernetes, name).await?;
    let scenario = Scenario { name: name.to_owned(), namespace, kubernetes, begin: Instant::now() };
    let limit = if proving() { LIMIT_OF_PROOF } else { LIMIT };
    let test = AssertUnwindSafe(tokio::time::timeout(limit, body(&scenario))).catch_unwind();
    let outcome = match test.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(anyhow!("not done within {limit:?}")),
        Err(panic) => Err(anyhow!("{}", panic_message(panic.as_ref()))),
    };
    scenario.say(if outcome.is_ok() { "done" } else { "failed" });
    if outcome.as_ref().is_err_and(|error| !error.is::<Skip>()) {
        let folder = artefacts().join(name);
        match diagnostics::collect(&scenario.kubernetes, &scenario.namespace, &folder).await {
            Ok(digest) => println!("{digest}more in {}", folder.display()),
            Err(error) => println!("traces could not be collected: {error:#}"),
        }
    }
    if std::env::var_os("KEEP").is_some() {
        println!("kept: namespace {}", scenario.namespace);
        return outcome;
    }
    // Not waited for: it goes while the next test runs.
    let namespaces = Api::<Namespace>::all(scenario.kubernetes.client.clone());
    let deleted = namespaces.delete(&scenario.namespace, &DeleteParams::background()).await;
    outcome.and(deleted.map(drop).map_err(Into::into))
}

/// Whether this is `make prove`, so that tests repeat what `make test` does once.
pub fn proving() -> bool {
    std::env::var_os("E2E_PROVE").is_some()
}

async fn create_namespace(kubernetes: &Kubernetes, test: &str) -> Result<String> {
    let suffix = &uuid::Uuid::new_v4().simple().to_string()[..5];
    let name = format!("e2e-{}-{suffix}", test.replace('_', "-"));
    let namespace = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "sqlite-operator.io/e2e": test.replace('_', "-"),
            "pod-security.kubernetes.io/enforce": "restricted",
        }},
    }))?;
    Api::<Namespace>::all(kubernetes.client.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(name)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// Folder for traces of failed tests and for the results.
fn artefacts() -> PathBuf {
    std::env::var_os("E2E_ARTEFACTS").map_or_else(|| PathBuf::from("target/e2e-artifacts"), PathBuf::from)
}

impl Scenario {
    /// A line of the test's story, shown when it fails.
    pub fn say(&self, what: impl std::fmt::Display) {
        println!("{:6.2} s  {what}", self.begin.elapsed().as_secs_f64());
    }

    /// The cluster of that name, not created.
    pub fn named(&self, name: &str) -> Cluster {
        Cluster::named(&self.kubernetes, &self.namespace, name)
    }

    /// Creates a cluster, without waiting for it.
    pub async fn create(&self, name: &str, voters: u32) -> Result<Cluster> {
        let cluster = self.named(name);
        cluster.apply(&Manifest::new(name, voters)).await?;
        self.say(format_args!("{name} created with {voters} voters"));
        Ok(cluster)
    }

    /// Creates a cluster and waits until it is ready.
    pub async fn cluster(&self, name: &str, voters: u32) -> Result<Cluster> {
        let cluster = self.create(name, voters).await?;
        cluster.await_ready().await?;
        self.say(format_args!("{name} is ready"));
        Ok(cluster)
    }

    /// Deletes the operator's pods, as if all its nodes went; its Deployment makes new ones.
    pub async fn delete_operator_pods(&self) -> Result<()> {
        let pods = Api::<Pod>::namespaced(self.kubernetes.client.clone(), OPERATOR_NAMESPACE);
        let found = pods.list(&ListParams::default().labels(OPERATOR_LABEL)).await?;
        anyhow::ensure!(!found.items.is_empty(), "no operator runs in {OPERATOR_NAMESPACE}");
        for pod in found {
            pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
        }
        self.say("the operator's pods are deleted");
        Ok(())
    }

    /// Sets how many pods the operator's Deployment has; returns how many it had.
    pub async fn scale_operator(&self, replicas: i32) -> Result<i32> {
        let deployments = Api::<Deployment>::namespaced(self.kubernetes.client.clone(), OPERATOR_NAMESPACE);
        let all = deployments.list(&ListParams::default().labels(OPERATOR_LABEL)).await?.items;
        let deployment = all.first().context("there is no operator")?;
        let had = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch(&deployment.name_any(), &PatchParams::default(), &patch).await?;
        let pods = Api::<Pod>::namespaced(self.kubernetes.client.clone(), OPERATOR_NAMESPACE);
        if replicas == 0 {
            crate::eventually("the operator is away", Duration::from_secs(20), async || {
                let left = pods.list(&ListParams::default().labels(OPERATOR_LABEL)).await?;
                Ok(left.items.is_empty().then_some(()))
            })
            .await?;
        }
        Ok(had)
    }

    /// Waits until the operator's Deployment has all its pods again.
    pub async fn await_operator(&self) -> Result<()> {
        let deployments = Api::<Deployment>::namespaced(self.kubernetes.client.clone(), OPERATOR_NAMESPACE);
        crate::eventually("the operator is back", Duration::from_secs(40), async || {
            let all = deployments.list(&ListParams::default().labels(OPERATOR_LABEL)).await?.items;
            let complete = |d: &Deployment| {
                let wanted = d.spec.as_ref().and_then(|s| s.replicas);
                d.status.as_ref().and_then(|s| s.ready_replicas) == wanted
            };
            Ok((!all.is_empty() && all.iter().all(complete)).then_some(()))
        })
        .await
    }

    /// Notes a measured time among the results.
    pub fn measured(&self, what: &str, time: Duration) -> Result<()> {
        self.say(format_args!("{what}: {:.2} s", time.as_secs_f64()));
        self.record(&json!({"test": self.name, "what": what, "milliseconds": time.as_millis() as u64}))
    }

    /// Notes the account of a ledger among the results.
    pub fn reported(&self, what: &str, report: &Report) -> Result<()> {
        self.say(format_args!("{what}: {report}"));
        self.record(&json!({"test": self.name, "what": what, "ledger": report}))
    }

    /// Appends a line to the file of results, in one write, as tests may run beside each other.
    fn record(&self, line: &serde_json::Value) -> Result<()> {
        let folder = artefacts();
        std::fs::create_dir_all(&folder)?;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(folder.join("results.jsonl"));
        file?.write_all(format!("{line}\n").as_bytes()).context("results.jsonl")
    }
}
