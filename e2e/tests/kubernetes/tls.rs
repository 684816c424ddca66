//! TLS for clients, and what is exchanged while they write: the way to TLS and back, authorities, passwords, certificates of
//! somebody else's making.

use crate::rounds_or;
use anyhow::{Context, Result, ensure};
use e2e::database::{Database, Level};
use e2e::ledger::Pace;
use e2e::{Cluster, Manifest, Scenario, eventually, scenario};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const ROTATE_CERTIFICATES: &str = "sqlite-operator.io/rotateCertificatesAt";
const ROTATE_PASSWORD: &str = "sqlite-operator.io/rotatePasswordAt";
const APPLICATION: &str = "app";

/// A cluster of three that is secured so, and whose restarts are not watched for long.
async fn cluster(test: &Scenario, security: Value) -> Result<Cluster> {
    let orders = test.named("orders");
    let manifest = Manifest::new("orders", 3)
        .with("security", security)
        .with("update", json!({"canary": {"soakSeconds": 0}}));
    orders.apply(&manifest).await?;
    Ok(orders)
}

/// For how many seconds both the former and the new one count. In that time a second client has its time of peace.
fn overlap() -> u64 {
    if e2e::proving() { 20 } else { 8 }
}

fn clients(tls: Value) -> Value {
    json!({"security": {"tls": tls}})
}

async fn await_traffic(orders: &Cluster, wanted: &str) -> Result<()> {
    let what = format!("the traffic of clients is {wanted}");
    eventually(&what, Duration::from_secs(50), async || {
        let object = orders.object().await?;
        Ok((object.data["status"]["clientTraffic"] == wanted).then_some(()))
    })
    .await?;
    orders.await_no("Reconciling").await
}

async fn await_told(orders: &Cluster, scheme: &str) -> Result<()> {
    eventually(&format!("applications are told {scheme}"), Duration::from_secs(50), async || {
        let uri = orders.entry(APPLICATION, "uri").await?.unwrap_or_default();
        Ok(uri.starts_with(&format!("{scheme}://")).then_some(()))
    })
    .await
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn clients_move_to_tls_and_back_under_writes() {
    scenario("clients_move_to_tls_and_back_under_writes", async |test| {
        let orders = cluster(test, json!({"tls": {"clients": "Disabled"}})).await?;
        orders.await_ready().await?;
        let plain = orders.start_writing(Pace::default()).await?;
        plain.await_acknowledged(100, Duration::from_secs(10)).await?;

        // Both are answered: who has not moved yet does not notice, who has does neither.
        orders.set(clients(json!({"clients": "Managed", "plaintextClients": "Allow"}))).await?;
        await_told(&orders, "https").await?;
        await_traffic(&orders, "AnswersBoth").await?;
        let secure = orders.start_writing(Pace::default()).await?;
        secure.await_acknowledged(100, Duration::from_secs(10)).await?;
        plain.await_acknowledged(100, Duration::from_secs(10)).await?;
        test.unharmed("clients without TLS, while it is turned on", &plain.finish().await?)?;
        // One round of restarts is what there is time for.
        if !e2e::proving() {
            return test.unharmed("clients with TLS", &secure.finish().await?);
        }

        orders.set(clients(json!({"plaintextClients": "Refuse"}))).await?;
        await_traffic(&orders, "Tls").await?;
        for report in orders.reports().await? {
            ensure!(report.certificates.clients.is_some(), "{} shows no certificate", report.name);
        }
        // And back, the other way round.
        orders.set(clients(json!({"clients": "Disabled", "plaintextClients": "Allow"}))).await?;
        await_told(&orders, "http").await?;
        await_traffic(&orders, "AnswersBoth").await?;
        let plain = orders.start_writing(Pace::default()).await?;
        plain.await_acknowledged(100, Duration::from_secs(10)).await?;
        test.unharmed("clients with TLS, until it is turned off", &secure.finish().await?)?;
        orders.set(clients(json!({"plaintextClients": "Refuse"}))).await?;
        await_traffic(&orders, "Plaintext").await?;
        test.unharmed("clients without TLS, while it is turned off", &plain.finish().await?)
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn an_authority_is_exchanged_under_writes() {
    scenario("an_authority_is_exchanged_under_writes", async |test| {
        let security = json!({"tls": {"clients": "Managed"}, "rotationOverlapSeconds": overlap()});
        let orders = cluster(test, security).await?;
        orders.await_ready().await?;
        for round in 0..rounds_or(1, 5)? {
            exchange_authority(test, &orders, round).await?;
        }
        Ok(())
    });
}

/// Another authority takes the place of the one there is, while clients write that know the one or the other.
async fn exchange_authority(test: &Scenario, orders: &Cluster, round: u32) -> Result<()> {
    let before = told_authorities(orders).await?;
    ensure!(before.len() == 1, "{before:?}");
    refuses_plaintext(test, orders).await?;
    let (shown, runs) = (shown(orders).await?, runs(orders).await?);
    let first = orders.start_writing(Pace::default()).await?.baseline().await?;

    orders.annotate(ROTATE_CERTIFICATES, &format!("round {round}")).await?;
    let within = Duration::from_secs(20);
    eventually("applications are told of both authorities", within, async || {
        Ok((told_authorities(orders).await?.len() == 2).then_some(()))
    })
    .await?;
    // Who has read it anew trusts both; who has not is served until then.
    let second = orders.start_writing(Pace::default()).await?.baseline().await?;
    test.unnoticed("clients that trust the first authority", &first.finish().await?)?;
    let after = eventually("the first authority is forgotten", Duration::from_secs(40), async || {
        let told = told_authorities(orders).await?;
        Ok((told.len() == 1).then_some(told))
    })
    .await?;
    ensure!(before != after, "the authority is the same");
    second.await_acknowledged(50, Duration::from_secs(10)).await?;
    test.unnoticed("clients that trust both", &second.finish().await?)?;
    // Each port of each member shows another certificate, and nobody was restarted.
    let now = self::shown(orders).await?;
    ensure!(now.len() == 6 && now.iter().all(|certificate| !shown.contains(certificate)), "{now:?}");
    never_restarted(orders, &runs).await?;
    orders.service("rw").await?.read_number("SELECT count(*) FROM ledger", Level::Linearizable).await?;
    Ok(())
}

/// Uids of the pods, by name, and how often their containers were started again: a pod that was made anew counts from nothing.
async fn runs(orders: &Cluster) -> Result<BTreeMap<String, (String, i32)>> {
    let run = |pod: Pod| {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let restarts = containers.map(|container| container.restart_count).sum();
        (pod.name_any(), (pod.uid().unwrap_or_default(), restarts))
    };
    Ok(orders.pods().await?.into_iter().map(run).collect())
}

/// The pods are those of `before`, and none of their containers ever ended.
async fn never_restarted(orders: &Cluster, before: &BTreeMap<String, (String, i32)>) -> Result<()> {
    let now = runs(orders).await?;
    ensure!(now == *before, "somebody was restarted: {before:?} became {now:?}");
    ensure!(now.values().all(|(_, restarts)| *restarts == 0), "a container ended: {now:?}");
    Ok(())
}

/// Certificates of both ports of all members.
async fn shown(orders: &Cluster) -> Result<Vec<String>> {
    let ports =
        |report: client::admin::MemberReport| [report.certificates.peers, report.certificates.clients];
    let ports = orders.reports().await?.into_iter().flat_map(ports).flatten();
    Ok(ports.map(|port| port.certificate).collect())
}

/// Authorities that applications are told to trust.
async fn told_authorities(orders: &Cluster) -> Result<Vec<String>> {
    let pem = orders.entry(APPLICATION, "ca.crt").await?.context("no ca.crt")?;
    Ok(pem.split("-----BEGIN").skip(1).map(str::to_owned).collect())
}

async fn refuses_plaintext(test: &Scenario, orders: &Cluster) -> Result<()> {
    let pods = orders.pods().await?;
    for pod in pods.into_iter().filter(|_| test.kubernetes.direct_network) {
        let address = pod.status.and_then(|status| status.pod_ip).context("no address")?;
        let database = Database::at(vec![format!("http://{address}:4001")])?;
        let answer = database.read("SELECT 1", Level::None).await;
        ensure!(answer.is_err(), "a member answers without TLS: {answer:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_password_is_exchanged_under_writes() {
    scenario("a_password_is_exchanged_under_writes", async |test| {
        let orders = cluster(test, json!({"rotationOverlapSeconds": overlap()})).await?;
        orders.await_ready().await?;
        for round in 0..rounds_or(1, 5)? {
            exchange_password(test, &orders, round).await?;
        }
        Ok(())
    });
}

/// Another password takes the place of the one there is, while clients write that know the one or the other.
async fn exchange_password(test: &Scenario, orders: &Cluster, round: u32) -> Result<()> {
    let before = orders.user(APPLICATION).await?.context("no user")?;
    let runs = runs(orders).await?;
    let first = orders.start_writing(Pace::default()).await?.baseline().await?;
    orders.annotate(ROTATE_PASSWORD, &format!("round {round}")).await?;
    eventually("applications are told another password", Duration::from_secs(25), async || {
        let user = orders.user(APPLICATION).await?.context("no user")?;
        Ok((user.password != before.password).then_some(()))
    })
    .await?;
    // Both count for a while.
    let second = orders.start_writing(Pace::default()).await?.baseline().await?;
    test.unnoticed("clients with the first password", &first.finish().await?)?;
    let former = orders.service("rw").await?.by(Some(before));
    eventually("the first password counts no more", Duration::from_secs(40), async || {
        let answer = former.read("SELECT 1", Level::Weak).await;
        Ok(answer.is_err_and(|error| format!("{error:#}").contains("401")).then_some(()))
    })
    .await?;
    test.unnoticed("clients with the second password", &second.finish().await?)?;
    never_restarted(orders, &runs).await
}

/// A certificate as somebody else would make it, in a Secret.
async fn put_certificate(test: &Scenario, called: &str) -> Result<()> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "somebody");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let names = ["orders-nodes", "orders-rw"].map(|service| format!("{service}.{}.svc", test.namespace));
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names.to_vec())?.signed_by(&key, &authority)?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": called},
        "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem(), "ca.crt": authority.pem()},
    });
    let secrets = Api::<Secret>::namespaced(test.kubernetes.client.clone(), &test.namespace);
    secrets.patch(called, &PatchParams::apply("e2e").force(), &Patch::Apply(&secret)).await?;
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn certificates_of_somebody_else_are_taken_and_followed() {
    scenario("certificates_of_somebody_else_are_taken_and_followed", async |test| {
        let tls = json!({"clients": "Secret", "clientsSecretRef": {"name": "mine"}});
        let orders = cluster(test, json!({"tls": tls, "rotationOverlapSeconds": 0})).await?;
        orders.await_reason("CertificatesValid", "SecretMissing").await?;
        ensure!(orders.pods().await?.is_empty(), "pods wait for certificates");
        put_certificate(test, "mine").await?;
        orders.await_ready().await?;
        orders.service("rw").await?.write("CREATE TABLE t (x INTEGER)").await?;

        // Another authority in the same Secret: nobody is restarted.
        let (before, pods) = (told_authorities(&orders).await?, orders.pod_uids().await?);
        put_certificate(test, "mine").await?;
        eventually("applications are told of the new authority", Duration::from_secs(45), async || {
            let told = told_authorities(&orders).await?;
            Ok((told.len() == 1 && told != before).then_some(()))
        })
        .await?;
        orders.service("rw").await?.write("INSERT INTO t VALUES (1)").await?;
        ensure!(orders.pod_uids().await? == pods, "pods were restarted");

        // What cannot be had is told of, and what there is stays in force.
        let issuer =
            json!({"clients": "CertManager", "clientsSecretRef": null, "clientsIssuerRef": {"name": "ca"}});
        orders.set(clients(issuer)).await?;
        let condition = orders.await_condition("CertificatesValid", "False").await?;
        ensure!(condition.reason.starts_with("Cert"), "{condition:?}");
        orders.service("rw").await?.write("INSERT INTO t VALUES (2)").await
    });
}
