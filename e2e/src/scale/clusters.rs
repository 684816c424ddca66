//! The clusters of a measurement: they are made, seen, and changed.

use crate::kubernetes::resource;
use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Clusters in a namespace.
const PER_NAMESPACE: usize = 50;
/// Clusters that may be on their way at a time.
const UNSETTLED: usize = 40;
/// How long a change may go unseen before that is an error.
const UNSEEN: Duration = Duration::from_secs(60);

/// The clusters, as their objects say.
#[derive(Clone)]
pub struct Clusters {
    client: Client,
    seen: Arc<Mutex<HashMap<String, Seen>>>,
    news: watch::Receiver<u64>,
}

/// What an object said last.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    settled: bool,
    observed: i64,
    /// When `observed` became that.
    at: Option<Instant>,
    /// How often the object changed.
    events: u64,
}

/// What is changed in a spec. None restarts a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Something that only the operator itself goes by.
    Policy,
    /// An annotation of a Service, which is applied.
    Service,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Policy, Self::Service];

    /// The field.
    pub fn field(self) -> &'static str {
        match self {
            Self::Policy => "recovery.memberReplacementAfterSeconds",
            Self::Service => "services[].annotations",
        }
    }

    fn patch(self, count: usize) -> Value {
        match self {
            Self::Policy => json!({"spec": {"recovery": {"memberReplacementAfterSeconds": 301 + count}}}),
            Self::Service => json!({"spec": {"services": [
                {"name": "rw", "target": "Voters", "annotations": {"scale/change": count.to_string()}},
                {"name": "ro", "target": "Replicas"},
                {"name": "any", "target": "Members"},
            ]}}),
        }
    }
}

fn namespace(index: usize) -> String {
    format!("scale-{:02}", index / PER_NAMESPACE)
}

fn name(index: usize) -> String {
    format!("c{index:04}")
}

fn key(index: usize) -> String {
    format!("{}/{}", namespace(index), name(index))
}

impl Clusters {
    /// Follows those of all namespaces.
    pub fn follow(client: &Client) -> Self {
        let (tell, news) = watch::channel(0);
        let seen = Arc::<Mutex<HashMap<String, Seen>>>::default();
        let known = seen.clone();
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource("SqliteCluster"));
        let objects = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
        tokio::spawn(objects.for_each(move |object| {
            if let Ok(object) = object {
                let key = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                let before = known.entry(key).or_default();
                *before = before.after(&object);
                drop(known);
                tell.send_modify(|count| *count += 1);
            }
            std::future::ready(())
        }));
        Self { client: client.clone(), seen, news }
    }

    /// Makes `count` clusters, at most `rate` a second, and no more while many are not settled: what is to be measured is not
    /// how an API server fares that is asked for more than its machine can do.
    pub async fn create(&self, count: usize, rate: f64) -> Result<()> {
        for index in (0..count).step_by(PER_NAMESPACE) {
            let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace(index)}}))?;
            Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &object).await?;
        }
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
        for index in 0..count {
            ticks.tick().await;
            let mut news = self.news.clone();
            while index >= self.settled() + UNSETTLED {
                news.changed().await?;
            }
            let object = serde_json::from_value(json!({
                "apiVersion": "sqlite-operator.io/v1alpha1",
                "kind": "SqliteCluster",
                "metadata": {"name": name(index), "namespace": namespace(index)},
                "spec": {"voters": 3, "storage": {"size": "1Gi", "storageClassName": "played"}},
            }))?;
            self.api(index).create(&PostParams::default(), &object).await.with_context(|| key(index))?;
        }
        Ok(())
    }

    /// How many are Ready, with nothing on the way.
    pub fn settled(&self) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().filter(|seen| seen.settled).count()
    }

    /// How often objects changed.
    pub fn events(&self) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().map(|seen| seen.events).sum()
    }

    /// Makes `changes` changes of one kind, `rate` a second, spread over `count` clusters, whatever becomes of the earlier
    /// ones; the time from each to `status.observedGeneration`, sorted.
    pub async fn change(
        &self,
        change: Change,
        changes: usize,
        count: usize,
        rate: f64,
    ) -> Result<Vec<Duration>> {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running = Vec::new();
        for done in 0..changes {
            ticks.tick().await;
            // Not one after the other: neighbours are in one namespace.
            let index = done * 7_919 % count;
            let clusters = self.clone();
            running.push(tokio::spawn(async move { clusters.change_one(change, index, done).await }));
        }
        let mut times = Vec::new();
        for one in running {
            times.push(one.await??);
        }
        times.sort_unstable();
        Ok(times)
    }

    async fn change_one(&self, change: Change, index: usize, count: usize) -> Result<Duration> {
        let begun = Instant::now();
        let patch = Patch::Merge(change.patch(count));
        let object = self.api(index).patch(&name(index), &PatchParams::default(), &patch).await?;
        let generation = object.metadata.generation.context("an object without generation")?;
        let key = key(index);
        let mut news = self.news.clone();
        let seen = timeout(UNSEEN, async {
            loop {
                news.mark_unchanged();
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
                if let Some(at) = seen.filter(|seen| seen.observed >= generation).and_then(|seen| seen.at) {
                    return Ok(at);
                }
                news.changed().await?;
            }
        });
        let seen: Result<Instant> = seen.await.with_context(|| format!("{key}: unseen for {UNSEEN:?}"))?;
        Ok(seen?.saturating_duration_since(begun))
    }

    fn api(&self, index: usize) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &namespace(index), &resource("SqliteCluster"))
    }
}

impl Seen {
    fn after(self, object: &DynamicObject) -> Self {
        let status = &object.data["status"];
        let observed = status["observedGeneration"].as_i64().unwrap_or_default();
        let conditions = status["conditions"].as_array();
        let is_true = |kind: &str| {
            conditions.is_some_and(|conditions| {
                conditions.iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
            })
        };
        let settled = is_true("Ready") && is_true("FaultTolerant") && !is_true("Reconciling");
        let at = if observed == self.observed { self.at } else { Some(Instant::now()) };
        Self { settled, observed, at, events: self.events + 1 }
    }
}
