//! Who gets in to a cluster.

use anyhow::{Context, Result, ensure};
use client::sql::Credentials;
use e2e::database::{Database, Level};
use e2e::ledger::Pace;
use e2e::scenario::OPERATOR_NAMESPACE;
use e2e::{Cluster, Manifest, Scenario, eventually, nodes, proving, scenario};
use k8s_openapi::api::authorization::v1::SelfSubjectRulesReview;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The port for clients, and the one between members.
const CLIENTS: u16 = 4001;
const MEMBERS: u16 = 4002;

fn user(name: &str, password: &str) -> Option<Credentials> {
    Some(Credentials { user: name.to_owned(), password: password.to_owned() })
}

async fn refused(database: Database, sql: &str) -> Result<()> {
    let error = database.read(sql, Level::Weak).await.err().context("it was let in")?;
    ensure!(format!("{error:#}").contains("401"), "{error:#}");
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn nobody_gets_in_without_a_password() {
    scenario("nobody_gets_in_without_a_password", async |test| {
        let orders = test.named("orders");
        let manifest = Manifest::new("orders", 3).with("update", json!({"canary": {"soakSeconds": 0}}));
        orders.apply(&manifest).await?;
        orders.await_ready().await?;
        let database = orders.service("rw").await?;
        database.write("CREATE TABLE t (x INTEGER)").await?;
        database.write("INSERT INTO t VALUES (1)").await?;
        for stranger in [None, user("app", "wrong"), user("nobody", "nothing")] {
            refused(database.clone().by(stranger), "SELECT x FROM t").await?;
        }
        // Applications may not do what the operator does.
        let as_application = database.document::<serde_json::Value>("/cluster").await;
        ensure!(as_application.is_err(), "an application sees {as_application:?}");

        // The port between members answers nobody who talks without TLS.
        for pod in orders.pods().await?.into_iter().filter(|_| test.kubernetes.direct_network) {
            let address = pod.status.and_then(|status| status.pod_ip).context("no address")?;
            let answer = said_in_plaintext(&address).await?;
            ensure!(answer.is_empty(), "a member answers without TLS: {answer:?}");
        }

        // Further users come with a rolling restart, once, under writes.
        let users = json!([{"username": "reader", "password": "r", "perms": ["query"]}]);
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "people"}, "stringData": {"people.json": users.to_string()},
        }))?;
        let secrets = Api::<Secret>::namespaced(test.kubernetes.client.clone(), &test.namespace);
        secrets.create(&PostParams::default(), &secret).await?;
        let ledger = orders.start_writing(Pace::default()).await?.baseline().await?;
        orders.set(json!({"security": {"authentication": {"usersSecretRef": {"name": "people"}}}})).await?;
        orders.await_condition("Reconciling", "True").await?;
        orders.await_ready().await?;
        test.unnoticed("users of a Secret", &ledger.finish().await?)?;

        let reader = database.clone().by(user("reader", "r"));
        ensure!(reader.read_number("SELECT count(*) FROM t", Level::Linearizable).await? == 1);
        let written = reader.write("INSERT INTO t VALUES (2)").await.err().context("a reader wrote")?;
        ensure!(format!("{written:#}").contains("401"), "{written:#}");
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn strangers_do_not_reach_the_port_between_members() {
    // Who keeps NetworkPolicies is compiled for this test.
    if !proving() {
        return;
    }
    scenario("strangers_do_not_reach_the_port_between_members", async |test| {
        nodes::require(&test.kubernetes)?;
        let orders = test.cluster("orders", 3).await?;
        ensure!(reached(&orders, MEMBERS).await? == 3, "they are not reached without a policy either");
        nodes::keep_policies(true).await?;
        let kept = only_members_reach_it(test, &orders).await;
        nodes::keep_policies(false).await?;
        kept
    });
}

/// This machine is none of its members; they come and go, and another one leads, as if nothing were kept.
async fn only_members_reach_it(test: &Scenario, orders: &Cluster) -> Result<()> {
    eventually("no member is reached by strangers", Duration::from_secs(30), async || {
        Ok((reached(orders, MEMBERS).await? == 0).then_some(()))
    })
    .await?;
    let ledger = orders.start_writing(Pace::default()).await?;
    orders.scale(5).await?;
    orders.await_ready().await?;
    orders.delete_pod(&orders.await_leader().await?).await?;
    eventually("another one leads, and all are there", Duration::from_secs(40), async || {
        orders.await_ready().await.map(Some)
    })
    .await?;
    test.unharmed("strangers kept from the port between members", &ledger.finish().await?)?;
    let (members, clients) = (reached(orders, MEMBERS).await?, reached(orders, CLIENTS).await?);
    ensure!((members, clients) == (0, 5), "{members} are reached between members, {clients} by clients");
    Ok(())
}

/// How many pods take a connection from this machine at a port.
async fn reached(orders: &Cluster, port: u16) -> Result<usize> {
    let addresses = orders.pods().await?.into_iter().filter_map(|pod| pod.status?.pod_ip);
    let connects = addresses.map(async |address| {
        let connected = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect((address, port)));
        matches!(connected.await, Ok(Ok(_)))
    });
    Ok(futures::future::join_all(connects).await.into_iter().filter(|connects| *connects).count())
}

/// What the port between members answers to somebody who talks without TLS.
async fn said_in_plaintext(address: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect((address, MEMBERS)).await?;
    // The beginning of a preface, and then nothing more.
    stream.write_all(b"SQLITED\x01").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    // Hanging up at once is an answer too.
    drop(tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await?);
    Ok(answer)
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn members_move_to_tls_under_writes() {
    scenario("members_move_to_tls_under_writes", async |test| {
        let orders = test.named("orders");
        let plain = Manifest::new("orders", 3)
            .with("security", json!({"tls": {"peers": "Disabled"}}))
            .with("update", json!({"canary": {"soakSeconds": 0}}));
        orders.apply(&plain).await?;
        orders.await_ready().await?;
        let ledger = orders.start_writing(Pace::default()).await?;
        ledger.await_acknowledged(100, Duration::from_secs(10)).await?;
        // Each member answers both, then calls by TLS, then answers nothing else: three rounds of restarts.
        let await_traffic = async |wanted: &str| {
            eventually(
                &format!("the traffic between members is {wanted}"),
                Duration::from_secs(50),
                async || {
                    let object = orders.object().await?;
                    Ok((object.data["status"]["peerTraffic"] == wanted).then_some(()))
                },
            )
            .await
        };
        orders.set(json!({"security": {"tls": {"peers": "Managed"}}})).await?;
        // One round is what there is time for; node/tests/tls.rs has all of them with processes.
        await_traffic("CallsByTls").await?;
        if proving() {
            await_traffic("Tls").await?;
            orders.await_no("Reconciling").await?;
            orders.set(json!({"security": {"tls": {"peers": "Disabled"}}})).await?;
            for step in ["CallsByTls", "AnswersBoth", "Plaintext"] {
                await_traffic(step).await?;
            }
            orders.await_no("Reconciling").await?;
        }
        let report = ledger.finish().await?;
        test.reported("to TLS between members", &report)?;
        report.nothing_lost()?;
        report.outage_at_most(Duration::from_secs(2))
    });
}

/// Groups of which every account may something, asking for its own rights above all.
const OF_EVERYBODY: [&str; 3] = ["authentication.k8s.io/", "authorization.k8s.io/", "certificates.k8s.io/"];

/// What the operator's account may do in a namespace with clusters, one line for each rule. What every account may do
/// is left out.
async fn rights(test: &Scenario) -> Result<Vec<String>> {
    let account = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:sqlite-operator");
    let review = json!({"spec": {"namespace": test.namespace}});
    let client = test.kubernetes.impersonating(&account)?;
    let reviews = Api::<SelfSubjectRulesReview>::all(client);
    let review = reviews.create(&PostParams::default(), &serde_json::from_value(review)?).await?;
    let rules = review.status.context("no rules")?.resource_rules;
    let join = |list: Option<Vec<String>>| {
        let mut list = list.unwrap_or_default();
        list.sort();
        list.join(",")
    };
    let lines = rules.into_iter().map(|rule| {
        let names = join(rule.resource_names);
        let names = if names.is_empty() { names } else { format!(" named {names}") };
        format!("{}/{}{names}: {}", join(rule.api_groups), join(rule.resources), join(Some(rule.verbs)))
    });
    let mut lines: Vec<_> =
        lines.filter(|line| !OF_EVERYBODY.iter().any(|own| line.starts_with(own))).collect();
    lines.sort();
    Ok(lines)
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_operator_may_do_what_is_written_down_and_no_more() {
    scenario("the_operator_may_do_what_is_written_down_and_no_more", async |test| {
        let written: Vec<_> = include_str!("operator-rights.txt").lines().map(str::to_owned).collect();
        let found = rights(test).await?;
        ensure!(
            found == written,
            "operator-rights.txt says otherwise; the operator may now:\n{}",
            found.join("\n")
        );
        Ok(())
    });
}
