//! The operator ends at any moment of a script of changes, and another version takes its place.

use crate::backups;
use crate::failures::SAME;
use crate::rounds_or;
use crate::updates::RESTARTED;
use anyhow::{Context, Result, ensure};
use client::sql::Credentials;
use e2e::ledger::{Ledger, Pace};
use e2e::{Cluster, Manifest, ObjectStore, Scenario, eventually, proving, scenario};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const ROTATE_PASSWORD: &str = "sqlite-operator.io/rotatePasswordAt";
const ROTATE_CERTIFICATES: &str = "sqlite-operator.io/rotateCertificatesAt";
const SERVING: &str = "sqlite-operator.io/serving";
const APPLICATION: &str = "app";
/// Of each volume, and how much more with each growth. Enough that none is nearly full.
const MEBIBYTES: u64 = 1024;
const MORE_MEBIBYTES: u64 = 16;

/// How long a change may take whose operator ended in its middle.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes from which the 99th percentile is more than one moment on a machine that is shared with all of Kubernetes.
const ENOUGH: u64 = 2_000;

/// For how many seconds the former password and the former authority count: longer than it takes until a client has moved to
/// the other.
const OVERLAP: u64 = 60;

/// A change of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// So many voters and read replicas.
    Members(u32, u32),
    /// All pods are restarted, one after the other.
    Restart,
    /// Applications get another password.
    Password,
    /// Volumes grow.
    Volumes,
    /// Another authority signs certificates; clients are told of both until they have had time to learn of it.
    Authority,
    /// A backup is made.
    Backup,
    /// Who leads is kept from traffic, and leads no longer.
    Fence,
    /// And is back.
    Unfence,
    /// No pod is left.
    Hibernate,
    /// And back.
    Wake,
}

/// What is gone through again and again.
const SCRIPT: [Change; 12] = [
    Change::Members(5, 0),
    Change::Password,
    Change::Volumes,
    Change::Fence,
    Change::Unfence,
    Change::Members(3, 1),
    Change::Backup,
    Change::Restart,
    Change::Authority,
    Change::Hibernate,
    Change::Wake,
    Change::Members(3, 0),
];

/// A cluster in the middle of the script.
struct Script<'a> {
    test: &'a Scenario,
    orders: Cluster,
    /// Changes so far, which makes each of them another one.
    count: u64,
    /// How large volumes are, in MiB.
    mebibytes: u64,
}

/// What a change is compared with.
struct Before {
    pods: BTreeMap<String, String>,
    user: Option<Credentials>,
    authorities: Vec<String>,
    leader: Option<String>,
}

impl Script<'_> {
    fn size(&self) -> String {
        format!("{}Mi", self.mebibytes)
    }

    fn backup(&self) -> String {
        format!("backup-{}", self.count)
    }

    /// Authorities that applications are told to trust.
    async fn authorities(&self) -> Result<Vec<String>> {
        let pem = self.orders.entry(APPLICATION, "ca.crt").await?.unwrap_or_default();
        Ok(pem.split("-----BEGIN").skip(1).map(str::to_owned).collect())
    }

    /// Waits until clients are told of one authority only, and everything of the exchange is done.
    async fn await_one_authority(&self) -> Result<()> {
        let within = PATIENCE + Duration::from_secs(OVERLAP);
        eventually("the former authority is forgotten", within, async || {
            Ok((self.authorities().await?.len() == 1).then_some(()))
        })
        .await?;
        self.orders.await_ready().await?;
        self.orders.await_condition("CertificatesValid", "True").await.map(drop)
    }

    /// Members that are in the Services.
    async fn serving(&self) -> Result<BTreeSet<String>> {
        let pods = self.orders.pods().await?.into_iter();
        let serving = pods.filter(|pod| pod.labels().get(SERVING).is_some_and(|serving| serving == "true"));
        Ok(serving.map(|pod| pod.name_any()).collect())
    }

    /// Asks for a change; returns at once.
    async fn begin(&mut self, change: Change) -> Result<Before> {
        self.count += 1;
        let leads = change == Change::Fence;
        let before = Before {
            pods: self.orders.pod_uids().await?,
            user: self.orders.user(APPLICATION).await?,
            authorities: self.authorities().await?,
            leader: if leads { Some(self.orders.await_leader().await?) } else { None },
        };
        if change == Change::Volumes {
            self.mebibytes += MORE_MEBIBYTES;
        }
        let (orders, once) = (&self.orders, self.count.to_string());
        match change {
            Change::Members(voters, replicas) => {
                orders.set(json!({"voters": voters, "readReplicas": replicas})).await?;
            }
            Change::Restart => orders.annotate(RESTARTED, &once).await?,
            Change::Password => orders.annotate(ROTATE_PASSWORD, &once).await?,
            Change::Volumes => orders.set(json!({"storage": {"size": self.size()}})).await?,
            Change::Authority => orders.annotate(ROTATE_CERTIFICATES, &once).await?,
            Change::Backup => {
                backups::begin_backup(self.test, &self.backup()).await?;
            }
            Change::Fence => {
                let fence = json!({"member": before.leader, "reason": "a change of the script"});
                orders.set(json!({"fencing": [fence]})).await?;
            }
            Change::Unfence => orders.set(json!({"fencing": []})).await?,
            Change::Hibernate => orders.set(json!({"hibernated": true})).await?,
            Change::Wake => orders.set(json!({"hibernated": false})).await?,
        }
        Ok(before)
    }

    /// Waits until a change is there, and the status says so of the spec as it is.
    async fn await_done(&self, change: Change, before: &Before) -> Result<()> {
        let orders = &self.orders;
        if change == Change::Backup {
            return backups::await_succeeded(self.test, "SqliteBackup", &self.backup()).await.map(drop);
        }
        eventually(&format!("{change:?} is done"), PATIENCE, async || {
            let done = match change {
                Change::Members(voters, replicas) => {
                    orders.pods().await?.len() == (voters + replicas) as usize
                }
                Change::Restart => {
                    let now = orders.pod_uids().await?;
                    now.len() == before.pods.len()
                        && now.iter().all(|(name, uid)| before.pods.get(name) != Some(uid))
                }
                Change::Password => {
                    let password = |user: Option<Credentials>| user.map(|user| user.password);
                    let now = password(orders.user(APPLICATION).await?);
                    now.is_some() && now != before.user.as_ref().map(|user| user.password.clone())
                }
                Change::Volumes => {
                    let object = orders.object().await?;
                    object.data["status"]["storage"]["allocated"] == self.size().as_str()
                }
                Change::Authority => {
                    let now = self.authorities().await?;
                    now.len() == 2 && now.iter().any(|authority| !before.authorities.contains(authority))
                }
                Change::Fence => {
                    let fenced = before.leader.as_ref().context("nobody led")?;
                    !self.serving().await?.contains(fenced) && orders.await_leader().await? != *fenced
                }
                Change::Unfence => self.serving().await?.len() == before.pods.len(),
                Change::Backup => true,
                Change::Hibernate => orders.pods().await?.is_empty(),
                Change::Wake => !orders.pods().await?.is_empty(),
            };
            Ok(done.then_some(()))
        })
        .await?;
        match change {
            Change::Hibernate => {
                orders.await_reason("Ready", "Hibernated").await?;
                return orders.await_no("Reconciling").await;
            }
            // It goes on until clients have moved.
            Change::Authority => return Ok(()),
            _ => {}
        }
        orders.await_ready().await?;
        orders.await_condition("StorageHealthy", "True").await.map(drop)
    }

    /// A change in whose middle the operator ends.
    async fn interrupted(&mut self, change: Change) -> Result<()> {
        let before = self.begin(change).await?;
        // Any moment of what follows: that is what is tried out.
        let longest = if proving() { 8_000 } else { 2_000 };
        let moment = Duration::from_millis(u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * longest / 255);
        tokio::time::sleep(moment).await;
        self.test.delete_operator_pods().await?;
        self.await_done(change, &before).await?;
        self.test.say(format_args!("{change:?} is done, interrupted after {moment:?}"));
        Ok(())
    }
}

/// Who has the password of now.
async fn writer(orders: &Cluster) -> Result<Ledger> {
    orders.start_writing(Pace::default()).await?.baseline().await
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_operator_ends_at_any_moment() {
    scenario("the_operator_ends_at_any_moment", async |test| {
        let ends = rounds_or(3, 100)? as usize;
        let classes = Api::<StorageClass>::all(test.kubernetes.client.clone());
        let sized = classes.get_opt("sized").await?.is_some();
        let mut manifest = Manifest::new("orders", 3)
            .with("update", json!({"canary": {"soakSeconds": 0}}))
            .with("security", json!({"rotationOverlapSeconds": OVERLAP}));
        if sized {
            let storage = json!({"size": format!("{MEBIBYTES}Mi"), "storageClassName": "sized"});
            manifest = manifest.with("storage", storage);
        }
        // What `make test` has time for comes before the first backup.
        let store = if proving() { Some(ObjectStore::start(test).await?) } else { None };
        if let Some(store) = &store {
            manifest = manifest.with("backup", json!({"store": store.spec()}));
        }
        let orders = test.named("orders");
        orders.apply(&manifest).await?;
        orders.await_ready().await?;
        let mut script = Script { test, orders: orders.clone(), count: 0, mebibytes: MEBIBYTES };
        let changes = SCRIPT.into_iter().filter(|change| match change {
            Change::Volumes => sized,
            Change::Backup => store.is_some(),
            _ => true,
        });
        let changes: Vec<_> = changes.collect();

        let mut ledger = Some(writer(&orders).await?);
        let report = async |ledger: Option<Ledger>| -> Result<()> {
            let report = ledger.context("nobody writes")?.finish().await?;
            // How fast writes are beside a single change is measured beside single changes.
            test.unharmed("operator deleted in the middle of changes", &report)
        };
        for change in changes.iter().copied().cycle().take(ends) {
            if change == Change::Hibernate {
                report(ledger.take()).await?;
            }
            script.interrupted(change).await?;
            match change {
                Change::Wake => ledger = Some(writer(&orders).await?),
                Change::Password => report(ledger.replace(writer(&orders).await?)).await?,
                Change::Authority => {
                    report(ledger.replace(writer(&orders).await?)).await?;
                    script.await_one_authority().await?;
                }
                _ => {}
            }
        }
        if ledger.is_none() {
            script.interrupted(Change::Wake).await?;
            ledger = Some(writer(&orders).await?);
        }
        report(ledger).await?;
        test.await_operator().await?;
        orders.assert_same_content(SAME).await
    });
}

/// Minutes: in `make test` the operator ends in the middle of a change. What its end does to the slowest writes is looked at
/// where it is killed: a pod that is deleted is ended and made anew on the processors that the members use, and which part of
/// that is the operator's cannot be told.
#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn nobody_notices_that_the_operator_ends() {
    /// The kubelet waits longer each time before it starts the same container again.
    const KILLS: usize = 6;
    const DELETIONS: usize = 10;
    if !proving() {
        return;
    }
    scenario("nobody_notices_that_the_operator_ends", async |test| {
        let orders = test.cluster("orders", 3).await?;
        for _ in 0..KILLS {
            let ledger = writer(&orders).await?;
            test.kill_leading_operator().await?;
            test.await_reconciled("orders").await?;
            ledger.await_acknowledged(ENOUGH, PATIENCE).await?;
            test.unnoticed("operator killed", &ledger.finish().await?)?;
            test.await_operator().await?;
        }
        for _ in 0..DELETIONS {
            let ledger = writer(&orders).await?;
            test.delete_leading_operator().await?;
            test.await_operator().await?;
            test.await_reconciled("orders").await?;
            ledger.await_acknowledged(ENOUGH, PATIENCE).await?;
            test.unharmed("operator deleted", &ledger.finish().await?)?;
        }
        orders.assert_same_content(SAME).await
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn another_operator_restarts_no_pod() {
    scenario("another_operator_restarts_no_pod", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let before = orders.pod_uids().await?;
        let ledger = writer(&orders).await?;
        test.exchange_operator().await?;
        test.await_reconciled("orders").await?;
        test.say("another operator has reconciled orders");
        orders.await_ready().await?;
        ensure!(orders.pod_uids().await? == before, "pods were restarted");
        let pods = orders.pods().await?;
        let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref());
        let restarts: i32 = statuses.flatten().map(|container| container.restart_count).sum();
        ensure!(restarts == 0, "containers were restarted");
        if proving() {
            // Of what is written in the few seconds of an exchange, the slowest hundredth would be a dozen writes.
            ledger.await_acknowledged(ENOUGH, PATIENCE).await?;
        }
        test.unnoticed("operator exchanged", &ledger.finish().await?)
    });
}
