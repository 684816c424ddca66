//! How much one operator can look after: clusters whose nodes, pods, volumes and members are played, on an API server that
//! is not.
//!
//! Real are etcd, the API server, the controllers of StatefulSets and budgets, the scheduler and the operator, with the
//! rights of the chart. Nodes and pods are kwok's; [`volumes`] are bound by nobody's driver; [`members`] answer what the
//! operator asks, with TLS and a user as by default. `e2e/scale.sh` starts what has to be there.

pub mod audit;
pub mod clusters;
pub mod group;
pub mod members;
pub mod mounts;
pub mod page;
pub mod process;
pub mod volumes;

use crate::wait::{Hopeless, eventually};
use anyhow::{Context, Result, bail};
use audit::{Audit, total};
use clusters::{Change, Clusters};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use members::{Counts, Members};
use mounts::Mounts;
use page::{Found, Rest, Start};
use process::{Operator, Program, await_served};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A member is of this version, and so is the operator's image of it.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A cluster that takes longer than this to settle will not.
const PER_CLUSTER: Duration = Duration::from_secs(5);
/// How often is told how far it is.
const TELL: Duration = Duration::from_secs(20);
/// Without a write for this long, it is quiet.
const QUIET: Duration = Duration::from_secs(15);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Clusters.
    pub clusters: usize,
    /// Of these made a second.
    pub rate: f64,
    /// Changes of each kind.
    pub changes: usize,
    /// Of these a second.
    pub change_rate: f64,
    /// How long to look on while nothing changes.
    pub rest: Duration,
    /// The operator.
    pub operator: PathBuf,
    /// By which it reaches the API server.
    pub operator_kubeconfig: PathBuf,
    /// Where it tells how it is.
    pub metrics_port: u16,
    /// By which everything else does.
    pub kubeconfig: PathBuf,
    /// What the operator asked the API server.
    pub audit: PathBuf,
    /// Where the operator's log goes.
    pub log: PathBuf,
}

impl Measurement {
    /// Measures. What it starts ends with it.
    pub async fn run(&self) -> Result<Found> {
        process::must_be_program(&self.operator)?;
        let client = client(&self.kubeconfig).await?;
        let members = Members::new(Mounts::follow(&client), VERSION.to_owned());
        let played = members.clone().serve();
        let bound = volumes::bind(client.clone());
        tokio::select! {
            ended = played => { ended?; bail!("the members ended") }
            ended = bound => { ended?; bail!("the volumes ended") }
            found = self.measure(&client, &members) => found,
        }
    }

    async fn measure(&self, client: &Client, members: &Arc<Members>) -> Result<Found> {
        let program = Program {
            path: self.operator.clone(),
            kubeconfig: self.operator_kubeconfig.clone(),
            port: self.metrics_port,
            log: self.log.clone(),
            image: format!("sqlite-operator/sqlited:{VERSION}"),
            identity: "first".to_owned(),
        };
        let mut audit = Audit::of(self.audit.clone());
        let clusters = Clusters::follow(client);

        let operator = Operator::start(&program)?;
        await_served(&operator).await?;
        let begun = Instant::now();
        tokio::try_join!(
            clusters.create(self.clusters, self.rate),
            self.all_settled(&clusters, &operator, members.counts())
        )?;
        let creation = Start {
            took: begun.elapsed(),
            requests: audit.since()?,
            memory: operator.memory()?,
            processor_seconds: operator.processor_seconds()?,
        };
        say(&format!(
            "all are settled after {:.0} s; waiting until nothing is written",
            creation.took.as_secs_f64()
        ));
        quiet(&clusters).await?;

        let mut changes = Vec::new();
        for change in Change::ALL {
            let times = clusters.change(change, self.changes, self.clusters, self.change_rate).await?;
            say(&format!("{} changes of {} were seen", times.len(), change.field()));
            changes.push((change, times));
        }
        quiet(&clusters).await?;
        let before = operator.memory()?;
        operator.stop().await?;
        drop(audit.since()?);

        let operator = Operator::start(&program)?;
        await_served(&operator).await?;
        let within = Duration::from_secs(60) + PER_CLUSTER * u32::try_from(self.clusters)?;
        eventually("each cluster reconciled once", within, async || {
            Ok((operator.reconciled().await? == self.clusters).then_some(()))
        })
        .await?;
        let cold_start = Start {
            took: operator.started.elapsed(),
            requests: audit.since()?,
            memory: operator.memory()?,
            processor_seconds: operator.processor_seconds()?,
        };
        say(&format!("started again and looked at all of them in {:.1} s", cold_start.took.as_secs_f64()));
        // As the chart has it: a second one is there to take over, with its caches full.
        let second = Program { port: program.port + 1, identity: "second".to_owned(), ..program.clone() };
        let standby = Operator::start(&second)?;
        await_served(&standby).await?;
        quiet(&clusters).await?;
        let rest = self.rest(&clusters, [&operator, &standby], members.counts(), &mut audit).await?;
        standby.stop().await?;
        operator.stop().await?;
        Ok(Found { clusters: self.clusters, creation, changes, before, cold_start, rest })
    }

    async fn all_settled(&self, clusters: &Clusters, operator: &Operator, counts: &Counts) -> Result<()> {
        let begun = Instant::now();
        let within = Duration::from_secs(60) + PER_CLUSTER * u32::try_from(self.clusters)?;
        let mut told = begun;
        eventually("all clusters settled", within, async || {
            let settled = clusters.settled();
            let memory = operator.memory().map_err(|error| Hopeless(format!("{error:#}")))?;
            if told.elapsed() >= TELL {
                told = Instant::now();
                say(&format!(
                    "{:.0} s: {settled} of {} settled, operator {:.0} MiB, {} connections to members open",
                    begun.elapsed().as_secs_f64(),
                    self.clusters,
                    mebibytes(memory.resident),
                    counts.open.load(Ordering::Relaxed)
                ));
            }
            Ok((settled == self.clusters).then_some(()))
        })
        .await
    }

    /// Looks on while nothing changes.
    async fn rest(
        &self,
        clusters: &Clusters,
        [operator, standby]: [&Operator; 2],
        counts: &Counts,
        audit: &mut Audit,
    ) -> Result<Rest> {
        drop(audit.since()?);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let members = |counts: &Counts| [of(&counts.requests), of(&counts.streams), of(&counts.connections)];
        let (asked, events) = (members(counts), clusters.events());
        let reconciles = operator.value("sqlite_operator_reconciles_total").await?;
        let processor = operator.processor_seconds()?;
        let begun = Instant::now();
        let mut most = 0;
        while begun.elapsed() < self.rest {
            sleep(Duration::from_secs(1)).await;
            most = most.max(operator.memory()?.resident);
        }
        let took = begun.elapsed();
        let requests = audit.since()?;
        let now = members(counts);
        say(&format!("{} requests in {:.0} s at rest", total(&requests), took.as_secs_f64()));
        Ok(Rest {
            took,
            requests,
            resident: most,
            standby: standby.memory()?.resident,
            member_requests: now[0] - asked[0],
            member_streams: now[1] - asked[1],
            member_connections: now[2] - asked[2],
            open_connections: of(&counts.open),
            reconciles: operator.value("sqlite_operator_reconciles_total").await? - reconciles,
            processor_seconds: operator.processor_seconds()? - processor,
            object_changes: clusters.events() - events,
        })
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig).with_context(|| format!("{}", kubeconfig.display()))?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)?)
}

/// Waits until no object of a cluster has changed for a while.
async fn quiet(clusters: &Clusters) -> Result<()> {
    let (mut events, mut since) = (clusters.events(), Instant::now());
    eventually("quiet", Duration::from_secs(300), async || {
        let now = clusters.events();
        if now != events {
            (events, since) = (now, Instant::now());
        }
        Ok((since.elapsed() >= QUIET).then_some(()))
    })
    .await
}

/// To people who wait.
fn say(what: &str) {
    println!("   {what}");
}

/// Bytes as MiB.
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
