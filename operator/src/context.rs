//! What every reconcile needs and none owns.

use crate::admin::EventStreams;
use crate::cluster::access::Way;
use crate::cluster::apply::Remembered;
use crate::cluster::backups::Probed;
use crate::cluster::certificates::KeptPorts;
use crate::cluster::given::Looked;
use crate::crd::SqliteCluster;
use crate::errands::Errands;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::names::ClusterName;
use crate::pace::{Matter, Pace};
use crate::stores::{AllTriggers, Stores};
use crate::trusted::Trusted;
use client::admin_client::AdminClient;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What every reconcile needs and none owns.
#[derive(Clone)]
pub struct Context {
    /// The Kubernetes API.
    pub client: Client,
    /// The members' administrative API.
    pub admin: AdminClient,
    /// One stream of events per cluster.
    pub streams: EventStreams,
    /// Caches of the namespace, or of all.
    pub stores: Stores,
    /// What asks for reconciles.
    pub triggers: AllTriggers,
    /// Whether every cluster is this operator's to look after, so that one that is not in the caches is not there.
    pub selects_all: bool,
    /// Events for people.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// How often is looked at what does not move.
    pub pace: Pace,
    /// How to get in to members.
    pub known: Trusted<Way>,
    /// What is known of certificates.
    pub certificates: Trusted<KeptPorts>,
    /// What names that which applications were told last.
    pub told: Trusted<String>,
    /// Image of members whose spec names none.
    pub node_image: String,
    /// What was applied, so that it is not applied again.
    pub remembered: Remembered,
    /// Pods whose resources cannot be changed while they run.
    pub refused_resizes: RefusedResizes,
    /// What trying out stores came to.
    pub probes: Errands<Probed>,
    /// What was found of the Secrets that the spec names.
    pub given: Trusted<Looked>,
    /// The Job that was last made to test a backup.
    pub tests: Trusted<String>,
    /// Pods of tests that came to no verdict, of which was told.
    pub silent_tests: Trusted<BTreeSet<String>>,
    /// What deleting backups that are no longer kept came to.
    pub retentions: Errands<Result<(), String>>,
    /// How often in a row the reconcile of an object failed.
    pub failures: Failures,
    /// Restores that the leader refused for a moment.
    pub put_off: PutOff,
}

/// Where an operator works.
pub struct Surroundings {
    /// The Kubernetes API.
    pub client: Client,
    /// The members' administrative API.
    pub admin: AdminClient,
    /// Caches of the namespace, or of all.
    pub stores: Stores,
    /// What asks for reconciles.
    pub triggers: AllTriggers,
    /// Whether every cluster is this operator's to look after.
    pub selects_all: bool,
    /// Who events are of.
    pub reporter: Reporter,
    /// What is counted.
    pub metrics: Metrics,
    /// Image of members whose spec names none.
    pub node_image: String,
}

impl Context {
    /// Of an operator that knows nothing yet.
    pub fn new(surroundings: Surroundings) -> Self {
        let Surroundings { client, admin, stores, triggers, selects_all, reporter, metrics, node_image } =
            surroundings;
        let pace = Pace::default();
        Self {
            admin,
            streams: EventStreams::new(triggers.clusters.clone()),
            stores,
            triggers,
            selects_all,
            events: Events::new(client.clone(), reporter),
            client,
            metrics,
            known: Trusted::new(&pace, Matter::OwnSecrets),
            certificates: Trusted::default(),
            told: Trusted::new(&pace, Matter::OwnSecrets),
            node_image,
            remembered: Remembered::default(),
            refused_resizes: RefusedResizes::default(),
            probes: Errands::default(),
            given: Trusted::default(),
            tests: Trusted::new(&pace, Matter::OwnSecrets),
            silent_tests: Trusted::default(),
            retentions: Errands::default(),
            failures: Failures::default(),
            put_off: PutOff::default(),
            pace,
        }
    }

    /// Writes an event. Events are for people: one that cannot be written stops nothing.
    pub async fn tell(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let (reason, action) = (reason.to_owned(), action.to_owned());
        let event = Event { type_, reason, note: Some(note), action, secondary: None };
        if let Err(error) = self.events.publish(event, about).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(kind = about.kind, name = about.name, error, "an event could not be written");
        }
    }

    /// The same about an object that belongs to a cluster, and about the cluster, where it is there.
    pub async fn tell_both<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        cluster: Option<&SqliteCluster>,
        (type_, reason, action): (EventType, &str, &str),
        note: &str,
    ) {
        self.tell(&object.object_ref(&()), type_, reason, action, note.to_owned()).await;
        if let Some(cluster) = cluster {
            let note = format!("{}: {note}", object.name_any());
            self.tell(&cluster.object_ref(&()), type_, reason, action, note).await;
        }
    }

    /// What to do after the reconcile of an object of `kind` failed at `step`: again, after a while that doubles.
    pub fn retry(
        &self,
        kind: &str,
        object: &impl ResourceExt,
        step: &'static str,
        error: &(dyn std::error::Error + 'static),
    ) -> Action {
        self.metrics.failed(step);
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let wait = self.failures.add(kind, &namespace, &name);
        self.metrics.fails(kind, &namespace, &name);
        tracing::warn!(kind, namespace, name, error, ?wait, "a reconcile failed");
        Action::requeue(wait)
    }

    /// Forgets what is remembered of objects that are gone.
    pub fn tidy(&self) {
        let clusters = &self.stores.clusters;
        let exists =
            |name: &ClusterName| clusters.get(&ObjectRef::new(&name.name).within(&name.namespace)).is_some();
        self.known.retain(exists);
        self.certificates.retain(exists);
        self.told.retain(exists);
        self.given.retain(exists);
        self.tests.retain(exists);
        self.silent_tests.retain(exists);
        self.remembered.retain(exists);
        self.refused_resizes.retain(exists);
        for (kind, namespace, name) in
            self.failures.retain(|kind, namespace, name| self.stores.hold(kind, namespace, name))
        {
            self.metrics.fails_no_more(&kind, &namespace, &name);
        }
    }

    /// The reconcile of an object of `kind` succeeded.
    pub fn settled(&self, kind: &str, namespace: &str, name: &str) {
        self.failures.clear(kind, namespace, name);
        self.metrics.fails_no_more(kind, namespace, name);
    }
}

/// Uids of the pods, by cluster and name, whose resources the API server refused to change. Forgotten with the process:
/// another one asks again.
#[derive(Clone, Debug, Default)]
pub struct RefusedResizes(Arc<Mutex<HashMap<ClusterName, HashMap<String, String>>>>);

impl RefusedResizes {
    /// The API server refused.
    pub fn add(&self, cluster: &ClusterName, pod: &str, uid: &str) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.entry(cluster.clone()).or_default().insert(pod.to_owned(), uid.to_owned());
    }

    /// Whether it did.
    pub fn holds(&self, cluster: &ClusterName, pod: &str, uid: &str) -> bool {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(cluster).and_then(|pods| pods.get(pod)).is_some_and(|refused| refused == uid)
    }

    /// Forgets clusters that are gone.
    pub fn retain(&self, exists: impl Fn(&ClusterName) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| exists(name));
    }
}

/// Restores, by uid, that the leader refused for a moment, and when they are asked for again. Every status that is written asks
/// for the next look at once, and what is told of a refusal is written.
#[derive(Clone, Debug, Default)]
pub struct PutOff(Arc<Mutex<HashMap<String, Instant>>>);

impl PutOff {
    /// It is asked for again after this time.
    pub fn add(&self, uid: &str, time: Duration) {
        let now = Instant::now();
        let mut put_off = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        put_off.retain(|_, until| *until > now);
        put_off.insert(uid.to_owned(), now + time);
    }

    /// How long it has to wait still.
    pub fn left(&self, uid: &str) -> Option<Duration> {
        let put_off = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = put_off.get(uid)?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

/// Kind, namespace and name of an object.
type Named = (String, String, String);

/// After so many failures in a row the wait before the next attempt grows no more.
const MOST_FAILURES: u32 = 8;

/// How often in a row the reconcile of an object failed.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<HashMap<Named, u32>>>);

impl Failures {
    /// It failed once more: how long to wait before the next attempt, doubling from a quarter of a second, because most
    /// failures are of a moment, to half a minute.
    pub fn add(&self, kind: &str, namespace: &str, name: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry((kind.to_owned(), namespace.to_owned(), name.to_owned())).or_default();
        *count = (*count + 1).min(MOST_FAILURES);
        Duration::from_millis(250 << (*count - 1)).min(Duration::from_secs(30))
    }

    /// Whether it failed so often, for the better part of a minute, that it is more than a failure of a moment.
    pub fn have_lasted(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&key).is_some_and(|count| *count >= MOST_FAILURES)
    }

    /// It succeeded.
    pub fn clear(&self, kind: &str, namespace: &str, name: &str) {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// Forgets objects that are gone, by kind, namespace and name: these.
    pub fn retain(&self, exists: impl Fn(&str, &str, &str) -> bool) -> Vec<Named> {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = failures.extract_if(|(kind, namespace, name), _| !exists(kind, namespace, name));
        gone.map(|(named, _)| named).collect()
    }
}

#[cfg(test)]
pub(crate) mod fixtures;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failures_cost_little_and_later_ones_no_more_than_half_a_minute() {
        let failures = Failures::default();
        let waits: Vec<_> = (0..9).map(|_| failures.add("K", "shop", "orders").as_millis()).collect();
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert!(failures.have_lasted("K", "shop", "orders") && !failures.have_lasted("K", "shop", "users"));
        failures.clear("K", "shop", "orders");
        assert_eq!(failures.add("K", "shop", "orders"), Duration::from_millis(250));
    }

    #[test]
    fn what_is_remembered_goes_with_its_object_and_leaves_that_of_others() {
        let failures = Failures::default();
        for (kind, name) in
            [("SqliteCluster", "orders"), ("SqliteBackup", "orders"), ("SqliteCluster", "users")]
        {
            failures.add(kind, "shop", name);
        }
        let gone = failures.retain(|kind, _, name| (kind, name) != ("SqliteCluster", "orders"));
        assert_eq!(gone, [("SqliteCluster".into(), "shop".into(), "orders".into())]);
        let next = |kind: &str, name: &str| failures.add(kind, "shop", name).as_millis();
        assert_eq!(next("SqliteCluster", "orders"), 250, "the first failure of another object");
        assert_eq!((next("SqliteBackup", "orders"), next("SqliteCluster", "users")), (500, 500));

        let refused = RefusedResizes::default();
        let [orders, users] = ["orders", "users"].map(|name| ClusterName::new("shop", name));
        refused.add(&orders, "orders-0", "a");
        refused.add(&users, "users-0", "a");
        refused.add(&users, "users-0", "b");
        refused.retain(|name| *name == users);
        assert!(!refused.holds(&orders, "orders-0", "a") && refused.holds(&users, "users-0", "b"));
        assert!(!refused.holds(&orders, "users-0", "b"), "a uid is asked for by its cluster");
        assert!(!refused.holds(&users, "users-0", "a"), "of a name only the last pod is remembered");
    }

    #[test]
    fn what_is_put_off_waits_for_its_time() {
        let put_off = PutOff::default();
        put_off.add("a", Duration::from_secs(3_600));
        put_off.add("b", Duration::ZERO);
        assert!(put_off.left("a").is_some());
        assert_eq!((put_off.left("b"), put_off.left("c")), (None, None));
    }
}
