//! Authorities and passwords that are exchanged, and certificates that somebody else is to make.

use super::*;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

#[tokio::test]
async fn an_authority_is_exchanged_once_every_member_has_loaded_each_step() {
    let mut world = Serving::start().await;
    world.reconcile().await;
    world.load();
    world.reconcile().await;
    let before = world.handed();
    assert_eq!((before.trusted.len(), world.reason("CertificatesValid").as_deref()), (1, Some("Valid")));
    world.server.asked();

    world.annotate("sqlite-operator.io/rotateCertificatesAt", "once");
    world.reconcile().await;
    let both = world.handed();
    assert!(both.trusted.len() == 2 && both.trusted.is_superset(&before.trusted));
    assert_eq!(both.leaves, before.leaves, "nobody shows what not everybody trusts");
    let asked = world.server.asked();
    let hurried = asked.iter().filter(|asked| asked.contains("/pods/orders-")).count();
    assert_eq!(hurried, 3, "the kubelet is asked to hurry: {asked:?}");
    world.reconcile().await;
    assert_eq!(world.handed(), both, "it waits");
    assert_eq!(world.reason("Reconciling").as_deref(), Some("RotatingCertificates"));

    world.load();
    world.reconcile().await;
    let issued = world.handed();
    assert_eq!(issued.trusted, both.trusted, "the first is trusted until nobody shows it");
    assert!(issued.leaves.iter().all(|(name, leaf)| before.leaves[name] != *leaf));
    world.load();
    world.reconcile().await;
    let after = world.handed();
    assert!(after.trusted.len() == 1 && after.trusted.is_disjoint(&before.trusted));
    assert_eq!(after.leaves, issued.leaves);
    world.load();
    world.reconcile().await;
    assert_eq!(
        (world.reason("Reconciling"), world.reason("CertificatesValid").as_deref()),
        (None, Some("Valid"))
    );
    let told: Vec<_> = world.server.events.lock().unwrap().iter().map(|(reason, _)| reason.clone()).collect();
    assert_eq!(told.iter().filter(|reason| *reason == "CertificateRotated").count(), 2, "{told:?}");
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "a wish is answered once");
}

#[tokio::test]
async fn an_exchange_that_a_member_holds_up_for_long_is_told_and_goes_on_with_it() {
    let mut world = Serving::start().await;
    world.reconcile().await;
    world.load();
    world.reconcile().await;
    let since =
        |world: &Serving| world.cluster.status.as_ref().unwrap().certificates[0].waiting_since.clone();
    assert_eq!(since(&world), None, "nobody is waited for");
    world.annotate("sqlite-operator.io/rotateCertificatesAt", "once");
    world.reconcile().await;
    let begun = since(&world);
    assert!(begun.is_some());
    world.reconcile().await;
    assert_eq!((since(&world), world.reason("CertificatesValid").as_deref()), (begun.clone(), Some("Valid")));

    let long_ago = begun.map(|begun| Time(begun.0 - jiff::SignedDuration::from_mins(5)));
    world.cluster.status.as_mut().unwrap().certificates[0].waiting_since.clone_from(&long_ago);
    world.reconcile().await;
    for kind in ["CertificatesValid", "Stalled"] {
        assert_eq!(world.reason(kind).as_deref(), Some("RotationFailed"), "{kind}");
    }
    assert_eq!((since(&world), world.reason("Ready").as_deref()), (long_ago, Some("Serving")));
    let both = world.handed();
    world.load();
    world.reconcile().await;
    assert_ne!(world.handed().leaves, both.leaves, "it goes on");
    world.reconcile().await;
    assert_eq!(
        (world.reason("CertificatesValid").as_deref(), world.reason("Stalled")),
        (Some("Valid"), None)
    );
}

#[tokio::test]
async fn a_password_is_accepted_before_it_is_told_and_for_a_while_after() {
    let mut world = Serving::start().await;
    world.cluster.spec.security.rotation_overlap_seconds = 0;
    world.reconcile().await;
    let told = |world: &Serving| world.entry("orders-app", "password").unwrap();
    let hashes = |world: &Serving| {
        let users = world.entry("orders-users", "sqlite-operator.json").unwrap();
        serde_json::from_str::<Value>(&users).unwrap().as_array().unwrap().len()
    };
    let (first, own) = (told(&world), world.entry("orders-operator", "password").unwrap());
    assert_eq!(hashes(&world), 2);

    world.annotate("sqlite-operator.io/rotatePasswordAt", "once");
    for _ in 0..3 {
        world.reconcile().await;
    }
    assert_eq!((told(&world), hashes(&world)), (first.clone(), 4), "told before it is accepted");
    assert_eq!(world.reason("Reconciling").as_deref(), Some("RotatingPassword"));
    world.raft.lock().unwrap().lets_in = true;
    world.reconcile().await;
    world.reconcile().await;
    let second = told(&world);
    assert!(second != first && world.entry("orders-operator", "password").unwrap() != own);
    assert_eq!(world.entry("orders-app", "uri").unwrap().matches(&second).count(), 1);
    for _ in 0..3 {
        world.reconcile().await;
    }
    assert_eq!((told(&world), hashes(&world)), (second, 2), "the former one is forgotten");
    assert_eq!(world.entry("orders-operator", "former-password"), None);
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "a wish is answered once");
}

#[tokio::test]
async fn nothing_starts_without_certificates_that_somebody_else_is_to_make() {
    let mut world = Serving::start().await;
    let tls = &mut world.cluster.spec.security.tls;
    (tls.peers, tls.peers_secret_ref) = (TlsMode::Secret, Some(SecretRef { name: "mine".into() }));
    world.reconcile().await;
    assert_eq!(world.reason("CertificatesValid").as_deref(), Some("SecretMissing"));
    let asked = world.server.asked();
    // Who runs is looked after, by the template that is there; nobody is started or restarted.
    assert!(
        asked.iter().any(|asked| asked.starts_with("PATCH") && asked.contains("/services/")),
        "{asked:?}"
    );
    assert!(!asked.iter().any(|asked| asked.starts_with("DELETE")), "{asked:?}");
    world.reconcile().await;
    assert_eq!(world.reason("Reconciling").as_deref(), Some("AwaitingCertificates"));
}
