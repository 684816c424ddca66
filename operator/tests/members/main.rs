//! Looking at members and acting on them, over real connections: observe, plan and execute form a cluster of members
//! that answer as nodes do. The API server is not part of it; what it would tell is in the caches.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api_server;
mod backups;
mod cert_manager;
mod certificates;
mod lease;
mod life;
mod member;
mod refusals;
mod world;

use api_server::ApiServer;
use member::{Node, Raft, ip, member, members};
use world::*;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use client::admin::{
    AddLearner, Certificates, ChangeVoters, Changed, FatalEntry, Initialise, Member, MemberRef, MemberReport,
    Membership, NodeId, Phase, PortCertificates, Refusal, RefusalReason, Role, SkipEntry, Skipped, Transfer,
    Transferred, VolumeUsage,
};
use client::admin_client::{AdminClient, AdminTimeouts};
use client::backup::{
    Backup, BackupJob, BackupJobs, BackupKind, DeleteBackups, Deleted, JobState, Probe, StartBackup,
};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::reflector::store;
use kube::runtime::watcher::Event;
use operator::cache::Cache;
use operator::cluster::access::Access;
use operator::cluster::certificates::exchange::Handed;
use operator::cluster::observe::ObserveError;
use operator::cluster::observed::Observed;
use operator::cluster::plan::Plan;
use operator::cluster::shortfall::Shortfall;
use operator::cluster::{execute, observe, plan, validate};
use operator::context::{Context, Surroundings};
use operator::crd::{ClientTraffic, Port, SecretRef, SkippedEntry, SqliteBackup, SqliteCluster, TlsMode};
use operator::listed::Listed;
use operator::metrics::Metrics;
use operator::names::{ClusterName, LABEL_CLUSTER};
use operator::stores::{AllTriggers, Stores};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CLUSTER_ID: &str = "c1";

#[tokio::test]
async fn a_cluster_at_rest_costs_the_api_server_nothing() {
    let mut world = Serving::start().await;
    world.reconcile().await;
    let Serving { server, ctx, .. } = &world;
    let (server, ctx) = (server.clone(), ctx.clone());
    let first = server.asked();
    assert_eq!(first.iter().filter(|asked| asked.ends_with("/orders/status")).count(), 1, "{first:?}");
    let secrets = server.secrets.lock().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(secrets, "orders-app orders-operator orders-peer-ca orders-peer-tls orders-users");
    assert_eq!(world.reason("Ready").as_deref(), Some("Serving"));
    for _ in 0..20 {
        world.reconcile().await;
        assert_eq!(server.asked(), Vec::<String>::new());
    }
    assert_eq!(ctx.metrics.status_writes.get(), 1);
}

#[tokio::test]
async fn a_secret_that_the_spec_names_is_looked_for_and_told() {
    let mut cluster = complete();
    cluster.spec.security.authentication.users_secret_ref = Some(SecretRef { name: "people".into() });
    let mut world = Serving::of(cluster).await;
    world.reconcile().await;
    let looks = |world: &Serving| {
        world.server.asked().iter().filter(|asked| asked.ends_with("/secrets/people")).count()
    };
    assert_eq!(looks(&world), 1);
    assert_eq!(world.reason("Accepted").as_deref(), Some("RefNotFound"));
    assert_eq!(world.reason("Reconciling").as_deref(), Some("AwaitingSecrets"));
    world.reconcile().await;
    assert_eq!(looks(&world), 0, "it is not looked for at every reconcile");

    let people = json!({"metadata": {"name": "people"}, "data": {}});
    world.server.secrets.lock().unwrap().insert("people".into(), people);
    world.ctx.given.forget(&ClusterName::new("shop", "orders"));
    world.reconcile().await;
    assert_eq!((looks(&world), world.reason("Accepted").as_deref()), (1, Some("Accepted")));
    assert_eq!((world.reason("Reconciling"), world.reason("Ready").as_deref()), (None, Some("Serving")));
    for _ in 0..5 {
        world.reconcile().await;
        assert_eq!(world.server.asked(), Vec::<String>::new(), "at rest it costs nothing");
    }
}

#[tokio::test]
async fn a_zone_is_told_by_the_node_under_the_key_of_the_spec() {
    let mut ctx = context(&[]);
    let pod = json!({
        "metadata": {"name": "orders-0", "namespace": "shop", "labels": {LABEL_CLUSTER: "orders"}},
        "spec": {"nodeName": "n", "containers": []},
    });
    let node =
        json!({"metadata": {"name": "n", "labels": {"rack": "7", "topology.kubernetes.io/zone": "a"}}});
    ctx.stores.pods = cache(&[pod]);
    let mut cluster = cluster();
    assert_eq!(look(&cluster, &ctx).await.unwrap().pods["orders-0"].zone, None, "nobody tells");
    ctx.stores.nodes = Some(cache_of(vec![serde_json::from_value(node).unwrap()]));
    assert_eq!(look(&cluster, &ctx).await.unwrap().pods["orders-0"].zone.as_deref(), Some("a"));
    cluster.spec.placement.zone_topology_key = "rack".into();
    assert_eq!(look(&cluster, &ctx).await.unwrap().pods["orders-0"].zone.as_deref(), Some("7"));
}

#[tokio::test]
async fn an_entry_that_ends_every_member_is_passed_over_once_with_a_consent() {
    let mut world = Serving::start().await;
    world.raft.lock().unwrap().fatal_entry = Some(FatalEntry { index: 9, term: 2, crashes: 3 });
    world.reconcile().await;
    for kind in ["Ready", "Stalled"] {
        assert_eq!(world.reason(kind).as_deref(), Some("FatalEntry"), "{kind}");
    }
    assert_eq!(world.cluster.status.as_ref().unwrap().fatal_entry.map(|entry| entry.index), Some(9));
    world.server.asked();
    world.cluster.spec.recovery.skip_entry = Some(SkippedEntry { index: 9, term: 1 });
    world.reconcile().await;
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "it waits, and costs nothing");
    assert_eq!(world.raft.lock().unwrap().skipped, Vec::<u64>::new());

    world.cluster.spec.recovery.skip_entry = Some(SkippedEntry { index: 9, term: 2 });
    world.reconcile().await;
    let told = world.server.asked();
    assert!(told.iter().any(|asked| asked.contains("/events")), "{told:?}");
    world.reconcile().await;
    assert_eq!((world.reason("Ready").as_deref(), world.reason("Stalled")), (Some("Serving"), None));
    assert_eq!(world.cluster.status.as_ref().unwrap().fatal_entry, None);
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "the consent that is left does nothing");
    assert_eq!(world.raft.lock().unwrap().skipped, [9]);
}

#[tokio::test]
async fn a_cluster_without_a_budget_is_not_asked_for_one() {
    let (ips, _raft) = members().await;
    let server = ApiServer::default();
    let mut ctx = context_with(server.client(), &ips);
    ctx.stores.budgets = cache(&[]);
    let mut single = cluster();
    single.spec.voters = 1;
    look(&single, &ctx).await.unwrap();
    assert_eq!(server.asked(), Vec::<String>::new());
    look(&cluster(), &ctx).await.unwrap();
    let asked = server.asked();
    assert!(asked.len() == 1 && asked[0].contains("/poddisruptionbudgets/orders"), "{asked:?}");
}

#[tokio::test]
async fn a_member_at_the_address_of_another_pod_is_not_heard() {
    let (mut ips, _raft) = members().await;
    ips.swap(1, 2);
    let observed = look(&cluster(), &context(&ips)).await.unwrap();
    assert_eq!(observed.reports.keys().collect::<Vec<_>>(), ["orders-0"]);
}

#[tokio::test]
async fn a_pod_that_is_taken_away_says_why() {
    let mut ctx = context(&[]);
    let pod = |name: &str, conditions: Value| {
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {LABEL_CLUSTER: "orders"}},
            "status": {"conditions": conditions},
        })
    };
    let evicted = json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]);
    ctx.stores.pods = cache(&[pod("orders-0", evicted), pod("orders-1", json!([]))]);
    let observed = look(&cluster(), &ctx).await.unwrap();
    assert_eq!(observed.pods["orders-0"].evicted.as_deref(), Some("EvictionByEvictionAPI"));
    assert_eq!(observed.pods["orders-1"].evicted, None);
}

#[tokio::test]
async fn three_empty_members_become_a_cluster() {
    let (ips, raft) = members().await;
    let ctx = context(&ips);
    let cluster = cluster();
    let mut put_off = 0;
    for _ in 0..10 {
        let (plan, done) = turn(&cluster, &ctx).await;
        if let Err(error) = done {
            assert!(error.passes(), "{error}");
            put_off += 1;
        }
        if plan.steps.is_empty() {
            break;
        }
    }
    let raft = raft.lock().unwrap();
    assert_eq!(raft.cluster_id.as_deref(), Some(CLUSTER_ID));
    assert_eq!(raft.members.iter().filter(|member| member.voter).count(), 3);
    assert_eq!(put_off, 1, "a promotion that is refused as too early is tried again");
}

#[tokio::test]
async fn a_read_replica_that_joins_is_told_of() {
    let (ips, raft) = members().await;
    let address = ip();
    Node { id: NodeId(200), name: "orders-replica-0".into(), raft: raft.clone() }.serve(address).await;
    {
        let mut raft = raft.lock().unwrap();
        raft.cluster_id = Some(CLUSTER_ID.into());
        raft.members = (0..3).map(|i| member(NodeId(100 + i), &format!("orders-{i}"), true)).collect();
        raft.leader = Some(NodeId(100));
    }
    let mut cluster = complete();
    cluster.spec.read_replicas = 1;
    let server = ApiServer::default();
    let mut ctx = context_of(&cluster, server.client(), &ips);
    let mut all = pods(&cluster, &ips);
    let mut replica = all[0].clone();
    replica["metadata"]["name"] = json!("orders-replica-0");
    replica["status"]["podIP"] = json!(address.to_string());
    all.push(replica);
    ctx.stores.pods = cache(&all);
    ctx.stores.budgets = cache(&["orders", "orders-replica"].map(|name| json!({"metadata": meta(name)})));
    turn(&cluster, &ctx).await.1.unwrap();
    let replicates =
        |member: &Member| (member.name.clone(), member.voter) == ("orders-replica-0".into(), false);
    assert!(raft.lock().unwrap().members.iter().any(replicates));
    let told = server.events.lock().unwrap().clone();
    assert!(
        told.iter().any(|(reason, note)| reason == "MemberAdded" && note.contains("orders-replica-0")),
        "{told:?}"
    );
}

#[tokio::test]
async fn leadership_is_asked_away_from_a_leader_that_is_to_go() {
    let (ips, raft) = members().await;
    let ctx = context(&ips);
    {
        let mut raft = raft.lock().unwrap();
        raft.cluster_id = Some(CLUSTER_ID.into());
        raft.members = (0..3).map(|i| member(NodeId(100 + i), &format!("orders-{i}"), true)).collect();
        (raft.leader, raft.refusals) = (Some(NodeId(102)), 1);
    }
    let mut cluster = cluster();
    cluster.spec.voters = 1;
    turn(&cluster, &ctx).await.1.unwrap();
    assert_eq!(raft.lock().unwrap().leader, Some(NodeId(100)));
    turn(&cluster, &ctx).await.1.unwrap();
    let left: Vec<_> = raft.lock().unwrap().members.iter().map(|member| member.node_id.0).collect();
    assert_eq!(left, [100, 101]);
}

#[tokio::test]
async fn a_member_that_does_not_answer_is_simply_not_heard_of() {
    let (mut ips, _raft) = members().await;
    ips.push(ip());
    let ctx = context(&ips);
    let observed = look(&cluster(), &ctx).await.unwrap();
    assert_eq!((observed.pods.len(), observed.reports.len()), (4, 3));
    assert!(observed.foreign.is_empty());
}

#[tokio::test]
async fn events_arrive_whole_and_the_end_is_an_end() {
    let (ips, _raft) = members().await;
    let admin = AdminClient::new(AdminTimeouts::default()).unwrap();
    let events =
        admin.events(&operator::admin::base(&ips[0].to_string(), ClientTraffic::Plaintext)).await.unwrap();
    let events: Vec<_> = tokio::time::timeout(Duration::from_secs(5), events.collect()).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].as_ref().unwrap().name, "orders-0");
}

#[tokio::test]
async fn a_refusal_keeps_its_reason() {
    let (ips, _raft) = members().await;
    let admin = AdminClient::new(AdminTimeouts::default()).unwrap();
    let base = operator::admin::base(&ips[0].to_string(), ClientTraffic::Plaintext);
    let error = admin.change_voters(&base, &ChangeVoters::default()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalReason::NotCaughtUp));
}
