//! Assembly: client, caches, lease, controllers, and the order in which they start and stop.

use crate::api_server;
use crate::backup;
use crate::cluster::{error_policy, reconcile};
use crate::config::RunConfig;
use crate::context::{Context, Surroundings};
use crate::health::{self, Readiness};
use crate::lease::{LeaderLease, LeaseError};
use crate::listed::Listed;
use crate::metrics::Metrics;
use crate::restore;
use crate::stores::{AllTriggers, Guarded, PAGE, Stores, Triggers, tell_broken};
use crate::trim::Trim;
use client::admin_client::{AdminClient, AdminError, AdminTimeouts};
use futures::future::{BoxFuture, join_all, select_all};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use kube::api::ListParams;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{Controller, WatchStreamExt, controller, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

/// Reconciles at a time, per scope.
const CONCURRENCY: u16 = 32;
/// How often is looked for what is gone.
const TIDY: Duration = Duration::from_secs(30);
/// How long running reconciles may take to finish when the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no way to reach an API server.
    #[error("no Kubernetes API: set KUBECONFIG, or run in a pod with a service account")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The client could not be made.
    #[error("cannot make a client of the Kubernetes API")]
    Client(#[source] kube::Error),
    /// The client of the members could not be made.
    #[error("cannot make a client of the members")]
    Admin(#[source] AdminError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signal(#[source] std::io::Error),
    /// Health and metrics cannot be served.
    #[error("cannot serve health and metrics")]
    Health(#[source] std::io::Error),
    /// Another operator may lead by now.
    #[error("stopping at once, because another operator may lead")]
    Lease(#[source] LeaseError),
    /// The watch of clusters ended by itself.
    #[error("a controller ended by itself")]
    ControllerEnded,
}

/// Runs until a signal to stop, or until the lease is lost.
pub async fn run(config: RunConfig) -> Result<(), RunError> {
    // Only the first process-wide choice counts; a second one is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = connect().await?;
    let metrics = Metrics::new();
    let readiness = Readiness::default();
    let stop = stop_signal()?;
    let serving = health::serve(config.metrics_addr, metrics.clone(), readiness.clone());
    tokio::select! {
        served = serving => Err(RunError::Health(served.err().unwrap_or_else(|| std::io::ErrorKind::BrokenPipe.into()))),
        led = lead(&config, client, metrics, readiness, stop) => led,
    }
}

async fn connect() -> Result<Client, RunError> {
    let config = if std::env::var_os("KUBECONFIG").is_some() {
        kube::Config::infer().await.map_err(|error| RunError::Config(error.into()))?
    } else {
        kube::Config::incluster().map_err(|error| RunError::Config(error.into()))?
    };
    api_server::connect(config).map_err(RunError::Client)
}

/// Becomes true on SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>, RunError> {
    let mut term = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut int = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("stopping");
        // Nobody listens any more if the process ends already.
        let _ = sender.send(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone has sent its signal.
    #[expect(clippy::disallowed_methods, reason = "the guard ends with the statement")]
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn lead(
    config: &RunConfig,
    client: Client,
    metrics: Metrics,
    readiness: Readiness,
    stop: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let identity =
        config.identity.clone().unwrap_or_else(|| format!("sqlite-operator-{}", uuid::Uuid::new_v4()));
    let scopes = tokio::select! {
        scopes = warm_up(config, &client, &metrics, &identity) => scopes?,
        () = stopped(stop.clone()) => return Ok(()),
    };
    readiness.set();
    let lease = LeaderLease::new(
        client,
        &config.lease_namespace,
        &config.lease_name,
        &identity,
        config.lease_timing(),
    );
    tracing::info!(identity, "ready, waiting for the lease");
    let mut held = tokio::select! {
        held = lease.acquire() => held,
        () = stopped(stop.clone()) => return Ok(()),
    };
    tracing::info!(identity, "leading");
    metrics.leading.set(1);
    let ended = tokio::select! {
        // First of all, also after this process stood still: nothing is begun without the lease.
        biased;
        lost = held.lost() => return Err(RunError::Lease(lost)),
        ended = control(scopes, config.watched_clusters(), metrics.clone(), stop) => ended,
    };
    metrics.leading.set(0);
    held.release().await;
    ended
}

/// A namespace, or all of them, with warm caches.
struct Scope {
    namespace: Option<String>,
    context: Context,
}

/// Waits until the custom resources are served, then fills the caches.
async fn warm_up(
    config: &RunConfig,
    client: &Client,
    metrics: &Metrics,
    identity: &str,
) -> Result<Vec<Scope>, RunError> {
    let admin = AdminClient::new(AdminTimeouts::default()).map_err(RunError::Admin)?;
    let reporter = Reporter { controller: "sqlite-operator".into(), instance: Some(identity.to_owned()) };
    let mut scopes = Vec::new();
    // Namespaces beside each other share the API server: each is counted by its own, and there are few.
    for namespace in config.scopes() {
        await_served(client, namespace.as_deref()).await;
        let triggers = AllTriggers::default();
        let context = Context::new(Surroundings {
            client: client.clone(),
            admin: admin.clone(),
            stores: Stores::start(client, namespace.as_deref(), &triggers, metrics),
            triggers,
            selects_all: config.selects_all(),
            reporter: reporter.clone(),
            metrics: metrics.clone(),
            node_image: config.node_image.clone(),
        });
        scopes.push(Scope { namespace, context });
    }
    join_all(scopes.iter().map(|scope| scope.context.stores.synced())).await;
    Ok(scopes)
}

async fn await_served(client: &Client, namespace: Option<&str>) {
    let api: Api<Guarded> = clusters(client, namespace);
    loop {
        match api.list(&ListParams::default().limit(1)).await {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "SqliteCluster is not served yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn clusters(client: &Client, namespace: Option<&str>) -> Api<Guarded> {
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Runs the controllers until a signal to stop; then lets running reconciles finish for a moment.
async fn control(
    scopes: Vec<Scope>,
    watched: watcher::Config,
    metrics: Metrics,
    stop: watch::Receiver<bool>,
) -> Result<(), RunError> {
    let mut contexts = Vec::new();
    let mut running: Vec<BoxFuture<'static, ()>> = Vec::new();
    for mut scope in scopes {
        let api = clusters(&scope.context.client, scope.namespace.as_deref());
        let (clusters, writer) = store();
        let listed = scope.context.stores.clusters_listed.clone();
        let objects = follow(api, watched.clone(), writer, listed, metrics.clone());
        let controller = Controller::for_stream(objects.applied_objects(), clusters.clone())
            .with_config(controller::Config::default().concurrency(CONCURRENCY))
            .reconcile_on(stream_of(scope.context.triggers.clusters.listen()))
            .graceful_shutdown_on(stopped(stop.clone()));
        scope.context.stores.clusters = clusters;
        let context = Arc::new(scope.context);
        contexts.push(context.clone());
        let backups = of_cache(&context.stores.backups, &context.triggers.backups, &stop);
        running.push(controller.run(reconcile, error_policy, context.clone()).for_each(|_| async {}).boxed());
        let restores = of_cache(&context.stores.restores, &context.triggers.restores, &stop);
        let backups = backups.run(backup::reconcile, backup::error_policy, context.clone());
        running.push(backups.for_each(|_| async {}).boxed());
        let restores = restores.run(restore::reconcile, restore::error_policy, context);
        running.push(restores.for_each(|_| async {}).boxed());
    }
    let tidying = tokio::spawn(tidy(contexts, metrics));
    let mut ended = false;
    tokio::select! {
        _ = select_all(&mut running) => ended = true,
        () = stopped(stop.clone()) => {}
    }
    tidying.abort();
    #[expect(clippy::disallowed_methods, reason = "the guard ends with the statement")]
    let is_stopped = *stop.borrow();
    if ended && !is_stopped {
        return Err(RunError::ControllerEnded);
    }
    if !ended && tokio::time::timeout(GRACE, join_all(running)).await.is_err() {
        tracing::warn!("a reconcile did not finish in time");
    }
    Ok(())
}

/// The watch of clusters, by which their cache is filled. The controller goes on without a word where it fails.
fn follow(
    api: Api<Guarded>,
    watched: watcher::Config,
    writer: Writer<Guarded>,
    listed: Listed,
    metrics: Metrics,
) -> impl Stream<Item = watcher::Result<watcher::Event<Guarded>>> + Send {
    watcher(api, watched.page_size(PAGE))
        .default_backoff()
        .modify(Trim::trim)
        .reflect(writer)
        .inspect_ok(move |event| listed.follow(event))
        .inspect_err(move |error| tell_broken(&metrics, error))
}

/// A controller of objects that are in a cache already: all of them at first, and then those that are asked for.
fn of_cache<K>(cache: &Store<K>, triggers: &Triggers<K>, stop: &watch::Receiver<bool>) -> Controller<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let asked = triggers.listen();
    let known = cache.state();
    let known = known.iter().map(|object| ObjectRef::from_obj(&**object)).collect::<Vec<_>>();
    Controller::for_stream(futures::stream::pending(), cache.clone())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(futures::stream::iter(known).chain(stream_of(asked)))
        .graceful_shutdown_on(stopped(stop.clone()))
}

/// Forgets what is told and remembered of objects that are gone.
async fn tidy(contexts: Vec<Arc<Context>>, metrics: Metrics) {
    for context in &contexts {
        // Until then nothing is known to be gone.
        context.stores.clusters_listed.wait().await;
    }
    loop {
        contexts.iter().for_each(|context| context.tidy());
        metrics.retain(|kind, namespace, name| {
            contexts.iter().any(|context| context.stores.hold(kind, namespace, name))
        });
        tokio::time::sleep(TIDY).await;
    }
}

/// The receiver of triggers as a stream.
fn stream_of<T>(receiver: UnboundedReceiver<T>) -> impl Stream<Item = T> {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;
    use std::convert::Infallible;
    use std::pin::pin;

    #[tokio::test]
    async fn a_watch_of_clusters_that_fails_is_counted() {
        let refuse = tower::service_fn(|_: http::Request<Body>| async {
            let status = r#"{"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403}"#;
            let refusal = http::Response::builder().status(403).body(Body::from(status.as_bytes().to_vec()));
            Ok::<_, Infallible>(refusal.unwrap())
        });
        let api = clusters(&Client::new(refuse, "shop"), None);
        let (metrics, (_, writer)) = (Metrics::new(), store());
        let events = follow(api, watcher::Config::default(), writer, Listed::default(), metrics.clone());
        let failed = pin!(events.filter_map(|event| async move { event.err() })).next().await;
        assert!(failed.is_some());
        assert_eq!(metrics.watch_errors.get(), 1);
    }
}
