//! What becomes of a cluster that runs when its spec, its volumes or the operator change: with the whole sentence, and with a
//! Kubernetes that follows what is written.

use super::*;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use operator::crd::{LogLevel, MaintenanceWindow, RetentionPolicy};
use serde::de::DeserializeOwned;

const REVISION: &str = "sqlite-operator.io/template-revision";
/// After so many reconciles it must have come to rest.
const LOOKS: usize = 40;

fn read<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap()
}

fn value(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

impl Serving {
    /// Reconciles until nothing is written any more.
    async fn settle(&mut self) {
        for _ in 0..LOOKS {
            self.reconcile().await;
            if !self.follow() {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.server.asked());
    }

    /// As Kubernetes does: caches learn what was written, volumes grow, and pods that are deleted come back with the
    /// template of their StatefulSet. Whether anything was written.
    fn follow(&self) -> bool {
        let written = std::mem::take(&mut *self.server.written.lock().unwrap());
        for (asked, object) in &written {
            let (method, path) = asked.split_once(' ').unwrap();
            let mut parts = path.rsplit('/');
            let (name, kind) = (parts.next().unwrap(), parts.next().unwrap());
            match (method, kind) {
                ("PATCH", "statefulsets") => self.keep_set(object),
                ("DELETE", "statefulsets") => {
                    let set = self.ctx.stores.sets.get("shop", name).unwrap();
                    self.ctx.stores.sets.follow(&Event::Delete(set));
                }
                ("PATCH", "persistentvolumeclaims") => self.keep_claim(name, object),
                ("DELETE", "pods") => self.renew(name),
                _ => {}
            }
        }
        self.make_pods();
        !written.is_empty()
    }

    fn keep_set(&self, object: &Value) {
        let mut set = object.clone();
        set["status"] = json!({"observedGeneration": 1, "replicas": set["spec"]["replicas"]});
        self.ctx.stores.sets.follow(&Event::Apply(read::<StatefulSet>(&set)));
    }

    /// What the operator said before and does not say any more is taken away.
    fn keep_claim(&self, name: &str, object: &Value) {
        let mut claim = value(&self.ctx.stores.claims.get("shop", name).unwrap());
        for field in ["annotations", "ownerReferences"] {
            claim["metadata"][field] = object["metadata"][field].clone();
        }
        let size = &object["spec"]["resources"]["requests"];
        claim["spec"]["resources"]["requests"] = size.clone();
        claim["status"]["capacity"] = size.clone();
        self.ctx.stores.claims.follow(&Event::Apply(read::<PersistentVolumeClaim>(&claim)));
    }

    fn renew(&self, name: &str) {
        let mut pods = self.server.pods.lock().unwrap();
        let at = pods.iter().position(|pod| pod["metadata"]["name"] == name).unwrap();
        let pod = pods.remove(at);
        self.ctx.stores.pods.follow(&Event::Delete(read::<Pod>(&pod)));
        self.away.lock().unwrap().push(pod);
    }

    /// Pods that were deleted, once there is a StatefulSet that makes them.
    fn make_pods(&self) {
        let Some(set) = self.ctx.stores.sets.get("shop", "orders") else { return };
        let revision = value(&set)["spec"]["template"]["metadata"]["annotations"][REVISION].clone();
        let mut pods = self.server.pods.lock().unwrap();
        for mut pod in self.away.lock().unwrap().drain(..) {
            let uid = format!("{} again", pod["metadata"]["uid"].as_str().unwrap());
            pod["metadata"]["uid"] = json!(uid);
            pod["metadata"]["annotations"][REVISION] = revision.clone();
            self.ctx.stores.pods.follow(&Event::Apply(read::<Pod>(&pod)));
            pods.push(pod);
        }
    }

    /// The StatefulSet of the voters.
    fn set(&self) -> Value {
        value(&self.ctx.stores.sets.get("shop", "orders").unwrap())
    }

    /// The image that pods of the voters are made with; none in the template that the other operator rendered.
    fn image(&self) -> Value {
        self.set()["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    }

    fn claim(&self, member: &str) -> Value {
        value(&self.ctx.stores.claims.get("shop", &format!("data-{member}")).unwrap())
    }

    /// Objects of a kind that were deleted since this was asked last, in order.
    fn deleted(&self, kind: &str) -> Vec<String> {
        let deleted = |asked: String| {
            let (parent, name) = asked.strip_prefix("DELETE ")?.rsplit_once('/')?;
            parent.ends_with(&format!("/{kind}")).then(|| name.to_owned())
        };
        self.server.asked().into_iter().filter_map(deleted).collect()
    }

    /// Events since this was asked last, in order, each with the first member that it names.
    fn news(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.server.events.lock().unwrap());
        let told = |(reason, note): &(String, String)| {
            let member = note.split([' ', ',', ';']).find(|word| word.starts_with("orders-"));
            format!("{reason} {}", member.unwrap_or_default()).trim_end().to_owned()
        };
        events.iter().map(told).collect()
    }
}

fn window(cron: &str) -> Vec<MaintenanceWindow> {
    vec![read(&json!({"cron": cron, "durationMinutes": 30, "timeZone": "UTC"}))]
}

#[tokio::test]
async fn what_another_operator_rendered_stays_until_spec_and_window_want_another_template() {
    let mut cluster = complete();
    cluster.spec.update.canary.soak_seconds = 0;
    // On the 30th of February.
    cluster.spec.update.maintenance_windows = window("0 0 30 2 *");
    let mut world = Serving::of(cluster).await;
    world.settle().await;
    assert_eq!(
        (world.image(), world.deleted("pods")),
        (Value::Null, vec![]),
        "a newer operator restarts nobody"
    );
    assert_eq!(world.reason("UpdatePending"), None);
    world.news();

    world.cluster.spec.observability.log_level = LogLevel::Debug;
    world.settle().await;
    assert_eq!(world.reason("UpdatePending").as_deref(), Some("WaitingForWindow"));
    assert_eq!(
        (world.image(), world.deleted("pods"), world.news()),
        (Value::Null, vec![], vec![]),
        "it waits"
    );

    world.cluster.spec.update.maintenance_windows = window("* * * * *");
    world.settle().await;
    assert_eq!(world.image(), "i", "with the change comes what this operator renders");
    assert_eq!(world.deleted("pods"), ["orders-2", "orders-1", "orders-0"]);
    assert_eq!((world.reason("UpdatePending"), world.reason("Reconciling")), (None, None));
    assert_eq!(
        world.news(),
        [
            "MemberRestarted orders-2",
            // What was observed is told after what is done about it.
            "MemberRestarted orders-1",
            "CanaryPassed orders-2",
            "LeadershipTransferred orders-0",
            "MemberRestarted orders-0",
            "LeaderChanged orders-1",
        ]
    );
    assert_eq!(world.raft.lock().unwrap().leader, Some(NodeId(101)));
}

#[tokio::test]
async fn a_paused_cluster_is_let_alone_until_it_goes_on() {
    let mut world = Serving::start().await;
    world.settle().await;
    world.server.asked();
    world.cluster.spec.paused = true;
    world.cluster.spec.observability.log_level = LogLevel::Debug;
    world.cluster.spec.storage.size = "2Gi".into();
    world.settle().await;
    assert_eq!(world.reason("Paused").as_deref(), Some("Paused"));
    let asked = world.server.asked();
    let status = "PATCH /apis/sqlite-operator.io/v1alpha1/namespaces/shop/sqliteclusters/orders/status";
    assert_eq!(asked, [status], "it is told, and nothing is done");

    world.cluster.spec.paused = false;
    world.settle().await;
    assert_eq!((world.reason("Paused"), world.reason("Ready").as_deref()), (None, Some("Serving")));
    assert_eq!(world.claim("orders-0")["spec"]["resources"]["requests"]["storage"], "2Gi");
}

/// What a person does whose disk is full: they ask for more than the spec lets volumes grow to.
#[tokio::test]
async fn a_cluster_is_kept_by_the_spec_that_was_accepted_last() {
    let mut cluster = complete();
    cluster.spec.storage.autogrow = read(&json!({"maxSize": "1500Mi"}));
    let mut world = Serving::of(cluster).await;
    world.settle().await;
    let conditions = |world: &Serving| {
        let told = world.cluster.status.as_ref().unwrap().conditions.iter();
        told.filter(|c| !matches!(c.type_.as_str(), "Accepted" | "Stalled" | "StorageHealthy"))
            .cloned()
            .collect::<Vec<_>>()
    };
    let before = conditions(&world);
    world.news();

    world.cluster.spec.storage.size = "2Gi".into();
    world.cluster.spec.observability.log_level = LogLevel::Debug;
    world.raft.lock().unwrap().storage = Some(VolumeUsage { capacity_bytes: 100, available_bytes: 10 });
    world.settle().await;
    for kind in ["Accepted", "Stalled"] {
        assert_eq!(world.reason(kind).as_deref(), Some("InvalidSpec"), "{kind}");
    }
    assert_eq!(conditions(&world), before, "the rest is as it is observed");
    assert_eq!(world.reason("StorageHealthy").as_deref(), Some("AutogrowAtMax"));
    assert_eq!(world.claim("orders-1")["spec"]["resources"]["requests"]["storage"], "1500Mi", "it grew");
    assert_eq!(world.deleted("pods"), Vec::<String>::new(), "nothing that is not accepted is rolled out");
    assert!(world.news().contains(&"InvalidSpec".to_owned()));

    world.raft.lock().unwrap().leader = None;
    world.settle().await;
    assert_eq!(
        (world.reason("Stalled").as_deref(), world.reason("Ready").as_deref()),
        (Some("InvalidSpec"), Some("NoLeader"))
    );
    world.raft.lock().unwrap().leader = Some(NodeId(100));
    world.settle().await;
    assert_eq!(world.reason("Ready").as_deref(), Some("Serving"));
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "at rest it costs nothing");

    world.cluster.spec.storage.autogrow = read(&json!({"maxSize": "2Gi"}));
    world.cluster.spec.observability.log_level = LogLevel::Info;
    world.settle().await;
    assert_eq!((world.reason("Accepted").as_deref(), world.reason("Stalled")), (Some("Accepted"), None));
    assert_eq!(world.claim("orders-1")["spec"]["resources"]["requests"]["storage"], "2Gi");
    let kept = world.ctx.stores.templates.of(&ClusterName::new("shop", "orders"));
    let kept: Vec<_> = kept
        .iter()
        .filter_map(|kept| kept.metadata.name.clone())
        .filter(|name| name.contains("-spec-"))
        .collect();
    assert_eq!(kept.len(), 1, "one spec is kept: {kept:?}");
}

#[tokio::test]
async fn volumes_that_fill_grow_until_they_may_not() {
    let mut cluster = complete();
    cluster.spec.storage.autogrow = read(&json!({"maxSize": "1500Mi"}));
    let mut world = Serving::of(cluster).await;
    world.settle().await;
    assert_eq!(world.claim("orders-1")["spec"]["resources"]["requests"]["storage"], "1Gi", "there is room");
    world.deleted("pods");
    world.news();

    world.raft.lock().unwrap().storage = Some(VolumeUsage { capacity_bytes: 100, available_bytes: 10 });
    world.settle().await;
    for member in ["orders-0", "orders-1", "orders-2"] {
        assert_eq!(world.claim(member)["spec"]["resources"]["requests"]["storage"], "1500Mi", "{member}");
    }
    let template = &world.set()["spec"]["volumeClaimTemplates"][0];
    assert_eq!(template["spec"]["resources"]["requests"]["storage"], "1500Mi");
    assert_eq!(world.deleted("statefulsets"), ["orders"], "it is made anew around its pods");
    assert_eq!(world.news(), ["VolumeGrown"; 2]);
    assert_eq!(world.reason("StorageHealthy").as_deref(), Some("AutogrowAtMax"));
    world.raft.lock().unwrap().storage = Some(VolumeUsage { capacity_bytes: 100, available_bytes: 50 });
    world.settle().await;
    assert_eq!(world.reason("StorageHealthy").as_deref(), Some("Roomy"));
}

#[tokio::test]
async fn volumes_go_with_the_cluster_as_long_as_the_spec_says_so() {
    let mut world = Serving::start().await;
    for (policy, owners) in
        [(RetentionPolicy::Retain, 0), (RetentionPolicy::Delete, 1), (RetentionPolicy::Retain, 0)]
    {
        world.cluster.spec.storage.on_delete = policy;
        world.settle().await;
        for member in ["orders-0", "orders-1", "orders-2"] {
            let claim = world.claim(member);
            let found = claim["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            assert_eq!(found.len(), owners, "{policy:?}: {claim}");
            assert!(
                found.iter().all(|owner| owner["uid"] == "u" && owner["controller"].is_null()),
                "{claim}"
            );
        }
    }
    assert_eq!(world.deleted("pods"), Vec::<String>::new());
}
