//! Acts: makes the objects of backups that are due, and sends errands to the store. Network.

use super::schedule::{BackupPlan, Expiry, NewBackup};
use super::seen::{Probed, probe_purpose};
use super::verify::{self, NewVerifier, Verdict};
use crate::backup::status::{publish, verified};
use crate::backup::{explain, find};
use crate::cluster::build::verifier;
use crate::cluster::observed::Observed;
use crate::cluster::plan::Plan;
use crate::cluster::validate::Desired;
use crate::cluster::view::View;
use crate::context::Context;
use crate::crd::SqliteBackup;
use crate::error::{is_refused, sentence};
use crate::names::{
    ANNOTATION_SCHEDULED, FIELD_MANAGER, LABEL_CLUSTER, LABEL_SCHEDULE, MANAGED_BY, content_hash,
};
use crate::status::StatusError;
use crate::stores::GuardedBackup;
use client::admin::RefusalReason;
use client::admin_client::AdminClient;
use client::backup::DeleteBackups;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::json;
use std::time::Duration;

/// How often the store is tried out.
const PROBE: Duration = Duration::from_secs(600);
/// How often it is while nobody could, or while nothing can be written to it: that it is back is not told for ten minutes
/// otherwise.
const PROBE_AGAIN: Duration = Duration::from_secs(30);
/// How often what is no longer kept is tried to be deleted.
const RETRY: Duration = Duration::from_secs(60);

/// Why a backup that is due was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupsError {
    /// The server refused the object.
    #[error("cannot create SqliteBackup {name}")]
    Create {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// Its names are those of objects of other clusters or schedules, or of somebody else.
    #[error(
        "SqliteBackup {name} is there already and is not of this schedule: delete it, or rename the schedule"
    )]
    Taken {
        /// Its name.
        name: String,
    },
    /// The server refused the Job that tests one.
    #[error("cannot create Job {name}")]
    Test {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// What a test came to could not be written down.
    #[error("cannot write down what a test came to")]
    Record(#[source] StatusError),
    /// It cannot be made.
    #[error("SqliteBackup {name} cannot be made")]
    Encode {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl BackupsError {
    /// Whether asking again changes nothing.
    pub fn lasts(&self) -> bool {
        match self {
            Self::Create { source, .. } | Self::Test { source, .. } => is_refused(source),
            Self::Record(StatusError::Write { source, .. }) => is_refused(source),
            Self::Taken { .. } | Self::Encode { .. } => true,
        }
    }

    /// What failed and why, for people.
    pub fn sentence(&self) -> String {
        sentence(self)
    }
}

/// Does what the plan says of backups. What failed, each for itself: one that cannot be made is no reason to look after the
/// others no more.
pub async fn act(
    desired: &Desired,
    observed: &Observed,
    plan: &Plan,
    admin: &AdminClient,
    ctx: &Context,
) -> Vec<BackupsError> {
    let mut failures = Vec::new();
    let Some(backups) = &desired.spec.backup else { return failures };
    let BackupPlan { schedules: _, create, expiry, verify, verdicts } = &plan.backups;
    for new in create {
        failures.extend(make(desired, new, &ctx.client).await.err());
    }
    for verdict in verdicts {
        failures.extend(record(desired, verdict, ctx).await.err());
    }
    if let Some(cluster_id) = observed.cluster_id() {
        failures.extend(test(desired, cluster_id, verify, ctx).await.err());
    }
    tell_silent(desired, observed, ctx).await;
    let view = View::of(observed, plan.cluster_id.as_deref());
    let leader = view.leader().and_then(|leader| observed.pods.get(&leader.name)?.base());
    let Some(base) = leader.filter(|_| !desired.spec.paused) else { return failures };
    let every = probe_period(observed.backups.probe.as_ref());
    let probe = probe(admin.clone(), base.clone());
    ctx.probes.begin(&desired.name, &probe_purpose(backups), every, &ctx.triggers.clusters, probe);
    if let Some(expiry) = expiry {
        let purpose = content_hash(format!("{:?}{:?}", expiry.objects, expiry.paths).as_bytes());
        let api: Api<SqliteBackup> = Api::namespaced(ctx.client.clone(), &desired.name.namespace);
        let work = expire(admin.clone(), base, api, expiry.clone());
        ctx.retentions.begin(&desired.name, &purpose, RETRY, &ctx.triggers.clusters, work);
    }
    failures
}

/// Makes the object, under its other name where somebody else has the first.
async fn make(desired: &Desired, new: &NewBackup, client: &Client) -> Result<(), BackupsError> {
    match offer(desired, new, &new.name, client).await {
        Err(BackupsError::Taken { .. }) => offer(desired, new, &new.otherwise, client).await,
        made => made,
    }
}

/// Makes the object under this name. One that is there already was made by an operator before.
async fn offer(desired: &Desired, new: &NewBackup, name: &str, client: &Client) -> Result<(), BackupsError> {
    let NewBackup { schedule, due, .. } = new;
    let called = || name.to_owned();
    let object = json!({
        "apiVersion": SqliteBackup::api_version(&()),
        "kind": SqliteBackup::kind(&()),
        "metadata": {
            "name": name,
            "namespace": desired.name.namespace,
            "labels": {
                (LABEL_CLUSTER): desired.name.name,
                (LABEL_SCHEDULE): schedule,
                "app.kubernetes.io/managed-by": MANAGED_BY,
            },
            "annotations": {(ANNOTATION_SCHEDULED): due.to_string()},
        },
        "spec": {"clusterRef": {"name": desired.name.name}},
    });
    let object: SqliteBackup =
        serde_json::from_value(object).map_err(|source| BackupsError::Encode { name: called(), source })?;
    let api: Api<SqliteBackup> = Api::namespaced(client.clone(), &desired.name.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&params, &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let found = api.get_opt(name).await;
            let found = found.map_err(|source| BackupsError::Create { name: called(), source })?;
            let is_ours = found.is_none_or(|found| {
                let label = |key: &str| found.labels().get(key).map(String::as_str);
                (label(LABEL_CLUSTER), label(LABEL_SCHEDULE)) == (Some(&desired.name.name), Some(schedule))
            });
            if is_ours { Ok(()) } else { Err(BackupsError::Taken { name: called() }) }
        }
        Err(source) => Err(BackupsError::Create { name: called(), source }),
    }
}

/// Writes down what a test came to.
async fn record(desired: &Desired, verdict: &Verdict, ctx: &Context) -> Result<(), BackupsError> {
    let key = ObjectRef::<GuardedBackup>::new(&verdict.backup).within(&desired.name.namespace);
    let Some(found) = ctx.stores.backups.get(&key) else { return Ok(()) };
    let Ok(backup) = &found.0 else { return Ok(()) };
    let mut status = backup.status.clone().unwrap_or_default();
    let time = verdict.verification.time.0;
    status.verification = Some(verdict.verification.clone());
    let generation = backup.metadata.generation.unwrap_or_default();
    let condition = verified(&status, &status.conditions, time, generation);
    let told = condition.as_ref().map(|condition| condition.message.clone()).unwrap_or_default();
    status.conditions.retain(|condition| condition.type_ != "Verified");
    status.conditions.extend(condition);
    publish(backup, &status, None, ctx).await.map_err(BackupsError::Record)?;
    let (type_, reason) = verdict.event();
    ctx.metrics.backup_ended(reason);
    let cluster = find(ctx, &desired.name.namespace, &desired.name.name);
    ctx.tell_both(backup, cluster.as_ref(), (type_, reason, "Verify"), &told).await;
    Ok(())
}

/// Tells of each test that came to no verdict, or does not come to run, and why: once, as long as this process remembers.
async fn tell_silent(desired: &Desired, observed: &Observed, ctx: &Context) {
    let mut silent = verify::silent(observed);
    let told = ctx.silent_tests.get(&desired.name, &desired.uid).unwrap_or_default();
    ctx.silent_tests.set(&desired.name, &desired.uid, silent.keys().cloned().collect());
    silent.retain(|pod, _| !told.contains(pod));
    if silent.is_empty() {
        return;
    }
    let Some(cluster) = find(ctx, &desired.name.namespace, &desired.name.name) else { return };
    let subject = cluster.object_ref(&());
    for note in silent.into_values() {
        ctx.tell(&subject, EventType::Warning, "BackupNotVerified", "Verify", note).await;
    }
}

/// Makes the Job of the first test whose Job is not there: one that is, without a pod, came to its deadline, and is made again
/// once Kubernetes has taken it away. One that was made just now may not have been heard of yet, and is waited for.
async fn test(
    desired: &Desired,
    cluster_id: &str,
    due: &[NewVerifier],
    ctx: &Context,
) -> Result<(), BackupsError> {
    let made = ctx.tests.get(&desired.name, &desired.uid);
    if due.iter().any(|new| Some(&new.job) == made.as_ref()) {
        return Ok(());
    }
    let api: Api<Job> = Api::namespaced(ctx.client.clone(), &desired.name.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    for new in due {
        let Some(job) = verifier::job(desired, cluster_id, new) else { return Ok(()) };
        let found = api.create(&params, &job).await;
        let is_there = matches!(&found, Err(kube::Error::Api(status)) if status.is_already_exists());
        match found {
            Err(source) if !is_there => return Err(BackupsError::Test { name: new.job.clone(), source }),
            _ => ctx.tests.set(&desired.name, &desired.uid, new.job.clone()),
        }
        if !is_there {
            break;
        }
    }
    Ok(())
}

/// After how long the store is tried out again. Credentials that only write are a choice, and nothing that passes.
fn probe_period(last: Option<&Probed>) -> Duration {
    match last {
        Some(Probed::Tried(probe)) if probe.writable => PROBE,
        _ => PROBE_AGAIN,
    }
}

async fn probe(admin: AdminClient, base: String) -> Probed {
    match admin.probe_store(&base).await {
        Ok(probe) => Probed::Tried(probe),
        Err(error) if error.refusal() == Some(RefusalReason::NoStore) => Probed::NotConfigured,
        Err(error) => Probed::Failed(explain(&error)),
    }
}

/// First what is in the store, then the objects: what is left of an attempt that failed is still known.
async fn expire(
    admin: AdminClient,
    base: String,
    api: Api<SqliteBackup>,
    expiry: Expiry,
) -> Result<(), String> {
    let Expiry { objects, paths, archive_before } = expiry;
    let body = DeleteBackups { paths, archive_before: archive_before.map(|time| time.to_string()) };
    let deleted = admin.delete_backups(&base, &body).await.map_err(|error| explain(&error))?;
    tracing::info!(paths = ?body.paths, objects = deleted.objects, "backups that are no longer kept were deleted");
    for (name, uid) in objects {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => return Err(format!("SqliteBackup {name} cannot be deleted: {error}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::backups::verify::VerifierView;
    use crate::cluster::fixtures::{CLUSTER_ID, World, verification};
    use crate::context::fixtures::ApiServer;
    use crate::crd::VerificationResult;
    use client::backup::Probe;
    use jiff::Timestamp;
    use kube::runtime::reflector::store;
    use kube::runtime::watcher::Event;
    use serde_json::Value;

    const BACKUPS: &str = "/apis/sqlite-operator.io/v1alpha1/namespaces/shop/sqlitebackups";

    /// The cluster `orders` with a schedule, of which a backup is due whose name could be of `orders-eu` as well.
    fn world() -> (World, NewBackup) {
        let backups = json!({"store": {"s3": {"bucket": "b"}}, "schedules": [
            {"name": "eu-nightly", "cron": "0 3 * * *", "verify": {"every": "24h"}},
        ]});
        let due: Timestamp = "2027-01-15T03:00:00Z".parse().unwrap();
        let world = World::serving(3, 0).spec(|spec| spec.backup = serde_json::from_value(backups).unwrap());
        let world = world.edit(|world| {
            let before = json!({"schedules": [
                {"name": "eu-nightly", "cron": "0 3 * * * UTC", "countedFrom": "2027-01-14T03:00:00Z"},
            ]});
            world.observed.status.backup = serde_json::from_value(before).unwrap();
        });
        let create = world.plan().backups.create;
        assert_eq!(create.len(), 1, "at {due}");
        (world, create[0].clone())
    }

    fn object(cluster: &str, schedule: &str) -> Value {
        json!({
            "metadata": {"name": "b", "labels": {(LABEL_CLUSTER): cluster, (LABEL_SCHEDULE): schedule}},
            "spec": {"clusterRef": {"name": cluster}},
        })
    }

    #[tokio::test]
    async fn a_name_that_another_cluster_has_holds_up_no_backup() {
        let (world, new) = world();
        assert_eq!(new.name, "orders-eu-nightly-202701150300");
        let [first, second] = [&new.name, &new.otherwise].map(|name| format!("{BACKUPS}/{name}"));
        let (ours, others) = (object("orders", "eu-nightly"), object("orders-eu", "nightly"));
        for (what, there, refuses, made, failed) in [
            ("nothing is there", vec![], vec![], Some(&first), None),
            ("it is there", vec![(&first, &ours)], vec![], None, None),
            ("its name is taken", vec![(&first, &others)], vec![], Some(&second), None),
            ("and it is there", vec![(&first, &others), (&second, &ours)], vec![], None, None),
            (
                "so is the other name",
                vec![(&first, &others), (&second, &others)],
                vec![],
                None,
                Some("is there already and is not of this schedule"),
            ),
            ("it is refused", vec![], vec!["POST"], None, Some("cannot create SqliteBackup")),
        ] {
            let there: Vec<_> =
                there.into_iter().map(|(path, found)| (path.as_str(), found.clone())).collect();
            let server = ApiServer::new(&there, &refuses);
            let failure = make(&world.desired, &new, &server.client()).await.err();
            let written = server.written();
            let paths: Vec<_> = written.iter().filter_map(|(asked, _)| asked.strip_prefix("POST ")).collect();
            assert_eq!(paths, made.into_iter().collect::<Vec<_>>(), "{what}");
            let told = failure.as_ref().map(BackupsError::sentence);
            assert_eq!(told.is_some(), failed.is_some(), "{what}: {told:?}");
            let (told, part) = (told.unwrap_or_default(), failed.unwrap_or_default());
            assert!(told.contains(part), "{what}: {told}");
            assert!(failure.is_none_or(|failure| failure.lasts()), "{what}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_done_keeps_the_rest_from_nothing() {
        let (world, new) = world();
        let world = world.edit_pod("orders-0", |pod| pod.ip = Some("127.77.0.1".into()));
        let verdict = Verdict {
            backup: "tested".into(),
            verification: verification(world.observed.now, VerificationResult::Passed),
        };
        let test = NewVerifier {
            job: "orders-verify-1".into(),
            backup: "b".into(),
            path: "p".into(),
            schedule: "eu-nightly".into(),
            has_queries: false,
            replay: false,
            volume_size: "1Gi".into(),
        };
        let later = NewBackup { name: "later".into(), ..new.clone() };
        let backups = BackupPlan {
            create: vec![new, later],
            verify: vec![test],
            verdicts: vec![verdict],
            ..BackupPlan::default()
        };
        let plan = Plan { cluster_id: Some(CLUSTER_ID.into()), backups, ..Plan::default() };
        let tested = json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteBackup",
            "metadata": {"name": "tested", "namespace": "shop", "uid": "u"},
            "spec": {"clusterRef": {"name": "orders"}},
        });
        let (one, verdicts, tests) = (
            "POST /apis/sqlite-operator.io/v1alpha1/namespaces/shop/sqlitebackups/orders-",
            "/status",
            "/jobs/",
        );
        for refused in [vec![], vec![one], vec![verdicts], vec![tests], vec![one, verdicts, tests]] {
            let server = ApiServer::new(&[], &refused);
            let ctx = Context::of(&server, vec![tested.clone()]);
            let mut tried = ctx.triggers.clusters.listen();
            let failures = act(&world.desired, &world.observe(), &plan, &ctx.admin, &ctx).await;
            assert_eq!(failures.len(), refused.len(), "{refused:?}: {failures:?}");
            let done: Vec<String> = server.written().into_iter().map(|(asked, _)| asked).collect();
            let is_done = |part: &str| done.iter().any(|asked| asked.contains(part));
            assert!(is_done("/sqlitebackups/later"), "{refused:?}: {done:?}");
            for part in [one, verdicts, tests] {
                assert_eq!(is_done(part), !refused.contains(&part), "{refused:?}: {done:?}");
            }
            // The store was tried out, and that is over.
            assert!(tried.recv().await.is_some(), "{refused:?}");
            let backups = world.desired.spec.backup.as_ref().unwrap();
            let outcome = ctx.probes.outcome(&world.desired.name, &probe_purpose(backups));
            assert!(matches!(outcome, Some(Probed::Failed(_))), "{outcome:?}");
        }
    }

    #[test]
    fn a_store_that_was_away_is_tried_out_again_soon() {
        let tried = |writable, readable| {
            Probed::Tried(Probe { writable, readable, deletable: readable, message: None })
        };
        for (last, again) in [
            (None, PROBE_AGAIN),
            (Some(Probed::NotConfigured), PROBE_AGAIN),
            (Some(Probed::Failed("it is down".into())), PROBE_AGAIN),
            (Some(tried(false, false)), PROBE_AGAIN),
            (Some(tried(true, false)), PROBE),
            (Some(tried(true, true)), PROBE),
        ] {
            assert_eq!(probe_period(last.as_ref()), again, "{last:?}");
        }
    }

    #[tokio::test]
    async fn a_test_that_came_to_nothing_is_told_of_once() {
        let killed = |pod: &str| VerifierView {
            pod: pod.into(),
            backup: "b".into(),
            created: Timestamp::UNIX_EPOCH,
            hindrance: None,
            ended: Some(Timestamp::UNIX_EPOCH),
            report: None,
            cause: Some("OOMKilled, exit code 137".into()),
        };
        let server = ApiServer::default();
        let mut ctx = Context::of(&server, vec![]);
        let (clusters, mut writer) = store();
        let cluster = json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u"}, "spec": {"storage": {"size": "1Gi"}},
        });
        writer.apply_watcher_event(&Event::Apply(serde_json::from_value(cluster).unwrap()));
        ctx.stores.clusters = clusters;
        let (mut world, _) = world();
        let told = || server.written().into_iter().filter(|(asked, _)| asked.contains("/events")).count();
        for (verifiers, so_far) in [
            (vec![], 0),
            (vec![killed("first")], 1),
            (vec![killed("first")], 1),
            (vec![killed("first"), killed("second")], 2),
        ] {
            world.observed.backups.verifiers = verifiers;
            tell_silent(&world.desired, &world.observed, &ctx).await;
            assert_eq!(told(), so_far, "{:?}", world.observed.backups.verifiers);
        }
        let (_, event) = server.written().swap_remove(0);
        assert_eq!((&event["reason"], &event["type"]), (&json!("BackupNotVerified"), &json!("Warning")));
        assert_eq!(event["note"], "the test of b ended without a verdict: OOMKilled, exit code 137");
    }
}
