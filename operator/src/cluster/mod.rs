//! A cluster, from the object to its members: validate → (access →) observe → plan → build → apply → execute → status.
//!
//! One file for each word. The middle of the sentence is pure; a reconcile remembers nothing that the next one needs.

mod accepted;
pub mod access;
mod application;
pub mod apply;
pub mod backups;
pub mod build;
pub mod certificates;
pub(crate) mod conditions;
pub mod cron;
pub mod execute;
pub mod given;
mod metadata;
pub mod observe;
pub mod observed;
mod passwords;
pub mod plan;
mod refresh;
pub mod resources;
pub mod restore;
pub(crate) mod secrets;
pub mod shortfall;
pub mod status;
pub mod validate;
mod version;
pub mod view;
pub mod window;
mod zone;

#[cfg(test)]
pub(crate) mod fixtures;

use crate::context::Context;
use crate::crd::SqliteCluster;
use crate::error::{Error, Rejection};
use crate::names::ClusterName;
use crate::pace::Matter;
use crate::stores::Guarded;
use access::Access;
use apply::Outcome;
use backups::act::BackupsError;
use build::build;
use client::admin_client::AdminClient;
use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use observed::Observed;
use plan::{Plan, plan};
use std::sync::Arc;
use std::time::{Duration, Instant};
use validate::Desired;
use view::View;

/// The kind, as the log spells it.
const KIND: &str = "SqliteCluster";
/// How soon to look again while something moves.
const PROGRESS: Duration = Duration::from_secs(1);

/// How soon to look again after the cache turned out to be behind the server.
const STALE: Duration = Duration::from_millis(100);

/// The sentence.
pub async fn reconcile(cluster: Arc<Guarded>, ctx: Arc<Context>) -> Result<Action, Error> {
    let cluster = match &cluster.0 {
        Ok(cluster) => cluster,
        Err(unreadable) => return refuse_unreadable(unreadable, &ctx).await,
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    ctx.pace.count(ctx.stores.clusters.len());
    let kept = || accepted::kept(cluster, &ctx);
    let (course, desired) = match accepted::course(cluster, kept, &ctx.node_image) {
        Ok(course) => course,
        Err(invalid) => return refuse(cluster, &invalid.to_string(), &ctx).await,
    };
    let cluster = course.as_ref();
    let (access, admin, mut observed) = match look(cluster, &ctx).await {
        Ok(seen) => seen,
        Err(error) => return Err(tell_unseen(cluster, error, &ctx).await),
    };
    let minted = uuid::Uuid::new_v4().to_string();
    let plan = plan(&desired, &observed, &minted);
    follow(&desired, &observed, &plan, &admin, &ctx);
    let mut failures = act(cluster, &desired, &observed, &plan, &access, &ctx).await;
    // Whatever became of the rest: what is due is due.
    let undone = timed("backups", &ctx, backups::act::act(&desired, &observed, &plan, &admin, &ctx)).await;
    let (namespace, name) = (&desired.name.namespace, &desired.name.name);
    observed.backups.failures = lasting(&undone, ctx.failures.have_lasted(KIND, namespace, name));
    failures.extend(undone.into_iter().map(Error::from));
    observed.certificates = ctx.certificates.get(&desired.name, &desired.uid);
    let rejection = Rejection::of(&failures);
    let status = status::status(&desired, &observed, &plan, rejection.as_ref());
    let subject = cluster.object_ref(&());
    match timed("status", &ctx, status::publish(&desired, &observed, &status, &subject, &ctx)).await {
        Err(stale) if stale.is_stale() => return Ok(Action::requeue(STALE)),
        told => failures.extend(told.err().map(Error::from)),
    }
    if let Some(error) = first(failures, &desired.name, &ctx) {
        return Err(error);
    }
    ctx.settled(KIND, &desired.name.namespace, &desired.name.name);
    ctx.metrics.reconciles.inc();
    let soon = plan.progresses() || observed.has_silent_members();
    // While nothing moves, changes are pushed; but for the time, which tells nobody that something is due.
    let rest = ctx.pace.rest(Matter::Cluster, &desired.name);
    let due = plan.backups.next_due();
    Ok(Action::requeue(if soon { PROGRESS } else { until_due(rest, due, observed.now) }))
}

/// access → observe: the way in to the members, by which they are asked, and what there is.
async fn look(cluster: &SqliteCluster, ctx: &Context) -> Result<(Access, AdminClient, Observed), Error> {
    let access = timed("access", ctx, access::access(cluster, ctx)).await?;
    let admin = access.client(&ctx.admin);
    let observed = timed("observe", ctx, observe::observe(cluster, &access, &admin, ctx)).await?;
    Ok((access, admin, observed))
}

/// Says in the status why nothing could be seen, where that lasts; then the failure is as any other.
async fn tell_unseen(cluster: &SqliteCluster, error: Error, ctx: &Context) -> Error {
    if let Err(untold) = status::tell_unseen(cluster, &error, ctx).await {
        let error = &untold as &dyn std::error::Error;
        tracing::warn!(cluster = cluster.name_any(), error, "why nothing can be seen could not be told");
    }
    error
}

/// What of backups could not be done, as sentences: what asking again does not change, and all of it once reconciles have failed
/// for a while.
fn lasting(undone: &[BackupsError], have_lasted: bool) -> Vec<String> {
    undone.iter().filter(|error| have_lasted || error.lasts()).map(BackupsError::sentence).collect()
}

/// The first of what failed, by which the next attempt goes. The others are told of here.
fn first(failures: Vec<Error>, cluster: &ClusterName, ctx: &Context) -> Option<Error> {
    let mut failures = failures.into_iter();
    let first = failures.next();
    for other in failures {
        ctx.metrics.failed(other.step());
        tracing::warn!(%cluster, error = &other as &dyn std::error::Error, "this failed as well");
    }
    first
}

/// How long to rest, if something is due then: not longer than until it is.
fn until_due(rest: Duration, due: Option<Timestamp>, now: Timestamp) -> Duration {
    let left = due.and_then(|due| Duration::try_from(due.duration_since(now)).ok());
    // What is overdue waits for something else.
    let left = left.filter(|left| !left.is_zero());
    left.map_or(rest, |left| left.max(PROGRESS).min(rest))
}

/// build → apply → execute: what failed, each for itself, for nothing waits for what it does not depend on. What a member refuses
/// because its time has not come is no failure.
async fn act(
    cluster: &SqliteCluster,
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    access: &Access,
    ctx: &Context,
) -> Vec<Error> {
    let Some(mut resources) = build(desired, observed, plan) else { return Vec::new() };
    let subject = cluster.object_ref(&());
    let mut failures = Vec::new();
    // Nothing is started that would wait for certificates.
    let certified = timed("certificates", ctx, certificates::keep(desired, observed, &subject, ctx)).await;
    let footing = Footing::of(certified.as_ref().ok(), observed);
    failures.extend(certified.err().map(Error::from));
    match footing {
        Footing::Nothing => return failures,
        Footing::OfWhoRuns => resources = resources.without_new_pods(&desired.name, observed),
        Footing::Unknown | Footing::Whole => {}
    }
    failures.extend(application::keep(desired, plan, access, ctx).await.err().map(Error::from));
    failures.extend(passwords::keep(desired, observed, access, &subject, ctx).await.err().map(Error::from));
    let applied = timed("apply", ctx, apply::apply(desired, observed, &resources, ctx)).await;
    let Outcome { failures: unapplied, mut shortfall } = applied;
    failures.extend(unapplied.into_iter().map(Error::from));
    // Who runs has certificates. One that is made anew may not find any.
    shortfall.ground |= footing != Footing::Whole;
    let admin = access.client(&ctx.admin);
    let steps = execute::execute(desired, observed, plan, &shortfall, &subject, &admin, ctx);
    for error in timed("execute", ctx, steps).await {
        if error.passes() {
            tracing::info!(cluster = %desired.name, reason = &error as &dyn std::error::Error, "not yet");
        } else {
            failures.push(error.into());
        }
    }
    failures
}

/// What of a cluster can be done with the certificates that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Footing {
    /// Everything.
    Whole,
    /// Whether they are there is not known: nobody is restarted.
    Unknown,
    /// They are gone: who runs has read them and is looked after, and nobody is started or restarted.
    OfWhoRuns,
    /// Nothing: what would be started would wait for them.
    Nothing,
}

impl Footing {
    /// `complete`: whether pods find all that they mount, where that is known.
    fn of(complete: Option<&bool>, observed: &Observed) -> Self {
        let runs = !(observed.sets.is_empty() && observed.pods.is_empty());
        match complete {
            Some(true) => Self::Whole,
            Some(false) if runs => Self::OfWhoRuns,
            None if runs => Self::Unknown,
            Some(false) | None => Self::Nothing,
        }
    }
}

/// What to do after a failure: again, after a while that doubles.
pub fn error_policy(cluster: Arc<Guarded>, error: &Error, ctx: Arc<Context>) -> Action {
    ctx.metrics.reconciles.inc();
    ctx.retry(KIND, &*cluster, error.step(), error)
}

/// Follows the leader's events, or those of any member that belongs to the cluster.
fn follow(desired: &Desired, observed: &Observed, plan: &Plan, admin: &AdminClient, ctx: &Context) {
    let view = View::of(observed, plan.cluster_id.as_deref());
    let leader = view.leader().map(|leader| &leader.name);
    let member = || observed.reports.iter().find(|(_, r)| r.cluster_id.is_some()).map(|(pod, _)| pod);
    let base = leader.or_else(member).and_then(|pod| observed.pods.get(pod)?.base());
    ctx.streams.follow(&desired.name, base.filter(|_| !desired.spec.paused), admin);
}

/// Invalid input waits for the user.
async fn refuse(cluster: &SqliteCluster, message: &str, ctx: &Context) -> Result<Action, Error> {
    status::refuse(cluster, message, ctx).await?;
    let name = ClusterName::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    ctx.settled(KIND, &name.namespace, &name.name);
    tracing::warn!(cluster = %name, message, "the spec is invalid");
    Ok(Action::await_change())
}

async fn refuse_unreadable(
    unreadable: &kube::core::error_boundary::InvalidObject,
    ctx: &Context,
) -> Result<Action, Error> {
    let meta = &unreadable.metadata;
    let (namespace, name) =
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let message = format!("the object cannot be read: {}", unreadable.error);
    tracing::warn!(namespace, name, message, "the object is unreadable");
    status::refuse_unreadable(&namespace, &name, meta.generation, &message, ctx).await?;
    ctx.settled(KIND, &namespace, &name);
    Ok(Action::await_change())
}

async fn timed<T>(step: &'static str, ctx: &Context, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = work.await;
    ctx.metrics.observe(step, start.elapsed());
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::fixtures::ApiServer;
    use fixtures::World;

    #[test]
    fn who_runs_is_looked_after_without_certificates() {
        let (serving, new) = (World::serving(3, 0).observe(), World::new(3, 0).observe());
        for (complete, observed, wanted) in [
            (Some(true), &serving, Footing::Whole),
            (Some(true), &new, Footing::Whole),
            (Some(false), &serving, Footing::OfWhoRuns),
            (Some(false), &new, Footing::Nothing),
            (None, &serving, Footing::Unknown),
            (None, &new, Footing::Nothing),
        ] {
            assert_eq!(Footing::of(complete.as_ref(), observed), wanted, "{complete:?}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_runs_is_cared_for_where_its_certificates_are_gone() {
        let cluster: SqliteCluster = serde_json::from_value(serde_json::json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "cluster-uid"},
            "spec": {"storage": {"size": "1Gi"}},
        }))
        .unwrap();
        let given = |world: World| {
            world.spec(|spec| {
                spec.voters = 5;
                spec.security.tls.peers = crate::crd::TlsMode::Secret;
                spec.security.tls.peers_secret_ref =
                    serde_json::from_value(serde_json::json!({"name": "given"})).unwrap();
            })
        };
        // Neither the Secret that members mount nor what it is made of is there.
        for (world, sizes) in [(given(World::serving(3, 0)), vec![3]), (given(World::new(3, 0)), vec![])] {
            let server = ApiServer::default();
            let ctx = Context::of(&server, vec![]);
            let (observed, plan) = (world.observe(), world.plan());
            let failures = act(&cluster, &world.desired, &observed, &plan, &Access::NotYet, &ctx).await;
            assert!(failures.is_empty(), "{failures:?}");
            let written = server.written();
            let set = |(asked, object): &(String, serde_json::Value)| {
                asked.ends_with("/statefulsets/orders").then(|| object["spec"]["replicas"].as_i64())?
            };
            assert_eq!(written.iter().filter_map(set).collect::<Vec<_>>(), sizes);
            let observed = Observed {
                certificates: ctx.certificates.get(&world.desired.name, &world.desired.uid),
                ..observed
            };
            let told = certificates::health::condition(&world.desired, &observed).unwrap();
            assert_eq!((told.holds, told.reason), (false, "SecretMissing"), "{}", told.message);
        }
    }

    #[test]
    fn what_backups_lack_is_told_where_it_lasts() {
        let answer = |code: u16| {
            let status = kube::core::Status { code, message: "quota".into(), ..Default::default() };
            BackupsError::Create { name: "b".into(), source: kube::Error::Api(status.boxed()) }
        };
        let all = [answer(403), answer(500), BackupsError::Taken { name: "c".into() }];
        let told = lasting(&all, false);
        assert_eq!(told[0], "cannot create SqliteBackup b: quota");
        assert!(told.len() == 2 && told[1].starts_with("SqliteBackup c is there already"), "{told:?}");
        assert_eq!(lasting(&all, true).len(), 3);
    }

    #[test]
    fn what_is_due_is_not_slept_through() {
        let now = Timestamp::from_second(1_000).unwrap();
        for (due, expected) in
            [(None, 60), (Some(1_010), 10), (Some(2_000), 60), (Some(1_000), 60), (Some(900), 60)]
        {
            let due = due.map(|second| Timestamp::from_second(second).unwrap());
            let found = until_due(Duration::from_secs(60), due, now);
            assert_eq!(found, Duration::from_secs(expected), "{due:?}");
        }
    }
}
