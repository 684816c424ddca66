//! One test: a namespace of its own, a time limit, traces when it fails, and nothing left behind.

use crate::cluster::{Cluster, Manifest};
use crate::diagnostics;
use crate::kubernetes::Kubernetes;
use crate::ledger::Report;
use crate::measurements::Measured;
use anyhow::{Context, Result, anyhow, ensure};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a test may take. Measured from its namespace on, without what comes after.
const LIMIT: Duration = Duration::from_secs(60);

/// The same when `make prove` repeats what `make test` does once.
const LIMIT_OF_PROOF: Duration = Duration::from_secs(75 * 60);

/// How long nothing may be acknowledged while something is changed on purpose.
const PAUSE: Duration = Duration::from_secs(2);

/// Namespace of the operator that all tests share.
pub const OPERATOR_NAMESPACE: &str = "e2e-operator";

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

/// What is allowed while `make test` may share the machine with anything, and what a proof is to show.
pub fn limit(in_test: Duration, in_proof: Duration) -> Duration {
    if proving() { in_proof } else { in_test }
}

async fn create_namespace(kubernetes: &Kubernetes, test: &str) -> Result<String> {
    let suffix = &uuid::Uuid::new_v4().simple().to_string()[..5];
    let name = format!("e2e-{}-{suffix}", test.replace('_', "-"));
    Api::<Namespace>::all(kubernetes.client.clone())
        .create(&PostParams::default(), &restricted_namespace(&name, test)?)
        .await?;
    Ok(name)
}

/// A namespace of a test, for pods that may do nothing special.
pub fn restricted_namespace(name: &str, test: &str) -> Result<Namespace> {
    let labels = json!({
        "sqlite-operator.io/e2e": test.replace('_', "-"),
        "pod-security.kubernetes.io/enforce": "restricted",
    });
    Ok(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))?)
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

    /// Notes a measured time among the results.
    pub fn measured(&self, what: &str, time: Duration) -> Result<()> {
        self.timed(what, time, None)
    }

    /// Notes a measured time among the results, with the most that it may be. In `make test` it is only noted: other
    /// things may be going on on the machine.
    pub fn measured_at_most(&self, what: &str, time: Duration, limit: Duration) -> Result<()> {
        self.timed(what, time, Some(limit))?;
        ensure!(!proving() || time <= limit, "{what}: {time:?} (limit {limit:?})");
        Ok(())
    }

    fn timed(&self, what: &str, time: Duration, limit: Option<Duration>) -> Result<()> {
        self.say(format_args!("{what}: {:.2} s", time.as_secs_f64()));
        self.record(&Measured {
            test: self.name.clone(),
            what: what.to_owned(),
            milliseconds: Some(time.as_millis() as u64),
            limit_ms: limit.map(|limit| limit.as_millis() as u64),
            ledger: None,
        })
    }

    /// Notes the account of a ledger among the results.
    pub fn reported(&self, what: &str, report: &Report) -> Result<()> {
        self.say(format_args!("{what}: {report}"));
        self.record(&Measured {
            test: self.name.clone(),
            what: what.to_owned(),
            milliseconds: None,
            limit_ms: None,
            ledger: Some(report.clone()),
        })
    }

    /// Notes the account of a ledger; an error unless nothing was lost, no write failed, and nobody waited for long.
    pub fn unharmed(&self, what: &str, report: &Report) -> Result<()> {
        self.reported(what, report)?;
        let sound = report.nothing_lost().and_then(|()| report.none_failed());
        sound.and_then(|()| report.outage_at_most(PAUSE)).context(what.to_owned())
    }

    /// The same, and in a proof the slowest writes are not much slower than they were in peace. In `make test` that is
    /// only noted: other things may be going on on the machine.
    pub fn unnoticed(&self, what: &str, report: &Report) -> Result<()> {
        self.unharmed(what, report)?;
        if proving() { report.p99_near_baseline().context(what.to_owned()) } else { Ok(()) }
    }

    /// Appends a line to the file of results, in one write, as tests may run beside each other.
    fn record(&self, measured: &Measured) -> Result<()> {
        let folder = artefacts();
        std::fs::create_dir_all(&folder)?;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(folder.join("results.jsonl"));
        let line = serde_json::to_string(measured)?;
        file?.write_all(format!("{line}\n").as_bytes()).context("results.jsonl")
    }
}
