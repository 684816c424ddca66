//! What is refused, or not answered, keeps nothing else from being done, and is told.

use super::*;
use operator::api_server::bounded;
use operator::error::Error;

/// Plural names of what is applied for a cluster, and an object of each.
const KINDS: [(&str, &str); 5] = [
    ("serviceaccounts", "ServiceAccount orders"),
    ("services", "Service orders-ro"),
    ("controllerrevisions", "ControllerRevision orders-template-"),
    ("poddisruptionbudgets", "PodDisruptionBudget orders"),
    ("networkpolicies", "NetworkPolicy orders"),
];
const FAILING: &str = "sqlite_operator_reconcile_failing{";

impl Serving {
    /// Plural names of what was applied since this was asked last.
    fn applied(&self) -> Vec<String> {
        let written = std::mem::take(&mut *self.server.written.lock().unwrap());
        let kind = |(asked, _): &(String, Value)| {
            let (path, _) = asked.strip_prefix("PATCH ")?.rsplit_once('/')?;
            Some(path.rsplit('/').next()?.to_owned())
        };
        written.iter().filter_map(kind).collect()
    }

    fn stalled(&self) -> (String, String) {
        self.condition("Stalled").map(|condition| (condition.reason, condition.message)).unwrap_or_default()
    }

    fn fails(&self) -> bool {
        self.ctx.metrics.text().unwrap().contains(FAILING)
    }

    /// Voters, by their Raft ids.
    fn voters(&self) -> Vec<u64> {
        let raft = self.raft.lock().unwrap();
        raft.members.iter().filter(|member| member.voter).map(|member| member.node_id.0).collect()
    }
}

#[tokio::test]
async fn no_object_that_is_refused_keeps_another_from_being_applied() {
    for (refused, object) in KINDS {
        let mut world = Serving::start().await;
        world.cluster.spec.storage.size = "2Gi".into();
        let path = format!("/{refused}/");
        world.server.refuse(&[&path], Some(422));
        world.try_to().await.unwrap_err();
        let applied = world.applied();
        for other in KINDS.map(|(kind, _)| kind).into_iter().chain(["persistentvolumeclaims", "statefulsets"])
        {
            assert_eq!(applied.iter().any(|kind| kind == other), other != refused, "{refused}: {applied:?}");
        }
        let (reason, message) = world.stalled();
        assert_eq!(reason, "Rejected", "{refused}");
        assert!(message.contains(&format!("cannot apply {object}")), "{message}");
        assert!(message.ends_with("the answer is 422"), "{message}");
        assert_eq!(world.reason("Ready").as_deref(), Some("Serving"));
        assert!(world.fails(), "the alert goes by it");

        world.server.refuse(&[], None);
        world.reconcile().await;
        assert!(world.applied().iter().any(|kind| kind == refused), "{refused}");
        assert_eq!((world.reason("Stalled"), world.fails()), (None, false), "{refused}");
    }
}

#[tokio::test]
async fn all_that_is_refused_is_told_and_what_may_pass_is_not() {
    let mut world = Serving::start().await;
    world.server.refuse(&["/services/orders-ro", "/networkpolicies/"], Some(403));
    world.try_to().await.unwrap_err();
    let (_, message) = world.stalled();
    assert!(message.contains("Service orders-ro") && message.contains("NetworkPolicy orders"), "{message}");

    let mut world = Serving::start().await;
    world.server.refuse(&["/services/orders-ro"], Some(500));
    let error = world.try_to().await.unwrap_err();
    assert!(matches!(error, Error::Apply(_)), "{error:?}");
    assert!(world.applied().contains(&"statefulsets".into()));
    assert_eq!(world.reason("Stalled"), None);
}

#[tokio::test]
async fn nobody_leaves_the_voters_before_the_budget_says_how_many_must_stay() {
    let mut world = Serving::start().await;
    world.raft.lock().unwrap().refusals = 1;
    world.reconcile().await;
    world.applied();
    world.cluster.spec.voters = 1;
    world.cluster.spec.pod_template.metadata.labels.insert("team".into(), "a".into());
    world.server.refuse(&["/poddisruptionbudgets/"], Some(403));
    world.try_to().await.unwrap_err();
    assert_eq!(world.voters(), [100, 101, 102]);
    assert!(world.applied().contains(&"pods".into()), "labels change all the same");
    world.server.refuse(&[], None);
    world.reconcile().await;
    assert_eq!(world.voters(), [100, 101]);
}

#[tokio::test]
async fn a_label_that_is_refused_keeps_the_members_from_nothing() {
    let mut world = Serving::start().await;
    world.raft.lock().unwrap().refusals = 1;
    world.reconcile().await;
    world.cluster.spec.voters = 1;
    world.cluster.spec.pod_template.metadata.labels.insert("team".into(), "a".into());
    world.server.refuse(&["PATCH /api/v1/namespaces/shop/pods/"], Some(422));
    world.try_to().await.unwrap_err();
    assert_eq!(world.voters(), [100, 101]);
    let told = "DressPod failed: the answer is 422";
    assert_eq!(world.stalled(), ("Rejected".into(), [told; 3].join("; ")));
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_up_nothing_for_ever() {
    let limit = Duration::from_millis(500);
    let patience = Duration::from_secs(30);
    let mut world = Serving::start().await;
    Arc::get_mut(&mut world.ctx).unwrap().client = bounded(world.server.client(), limit);
    world.server.refuse(&["/services/orders-ro"], None);
    let done = tokio::time::timeout(patience, world.try_to()).await.expect("it waits for ever");
    assert!(matches!(done, Err(Error::Apply(_))), "{done:?}");
    assert!(world.applied().contains(&"statefulsets".into()));

    world.server.refuse(&[""], None);
    world.ctx.known.forget(&ClusterName::new("shop", "orders"));
    let done = tokio::time::timeout(patience, world.try_to()).await.expect("it waits for ever");
    assert!(matches!(done, Err(Error::Access(_))), "{done:?}");
    world.server.refuse(&[], None);
    world.reconcile().await;
    assert_eq!(world.reason("Ready").as_deref(), Some("Serving"));
}

#[tokio::test]
async fn why_nothing_can_be_seen_is_told_and_all_else_stays_as_it_was() {
    let mut world = Serving::start().await;
    world.reconcile().await;
    let all_else = |world: &Serving| {
        let mut status = world.cluster.status.clone().unwrap();
        status.conditions.retain(|c| !matches!(c.type_.as_str(), "Stalled" | "Reconciling"));
        status
    };
    let before = all_else(&world);
    let name = ClusterName::new("shop", "orders");
    let damaged = json!({
        "metadata": world.server.secrets.lock().unwrap()["orders-operator"]["metadata"], "data": {},
    });
    world.server.secrets.lock().unwrap().insert("orders-operator".into(), damaged);
    world.ctx.known.forget(&name);
    world.server.asked();
    for writes in [1, 0] {
        world.try_to().await.unwrap_err();
        let asked = world.server.asked();
        let statuses = asked.iter().filter(|asked| asked.ends_with("/orders/status")).count();
        assert_eq!(statuses, writes, "{asked:?}");
    }
    let (reason, message) = world.stalled();
    assert_eq!(reason, "SecretUnusable");
    assert!(message.contains("delete it, and it is made anew"), "{message}");
    assert_eq!((all_else(&world), world.reason("Reconciling")), (before.clone(), None));

    world.server.secrets.lock().unwrap().remove("orders-operator");
    world.reconcile().await;
    assert_eq!(world.reason("Stalled"), None);

    let before = all_else(&world);
    world.server.refuse(&["GET /api/v1/namespaces/shop/secrets/"], Some(500));
    let mut tries = 0;
    while world.reason("Reconciling").as_deref() != Some("Retrying") {
        world.ctx.known.forget(&name);
        world.try_to().await.unwrap_err();
        tries += 1;
        assert!(tries < 20, "it is never told");
    }
    assert!(tries > 5, "a failure of a moment is not told");
    assert_eq!((world.reason("Stalled"), all_else(&world)), (None, before));
}
