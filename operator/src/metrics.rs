//! What the operator tells Prometheus.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Label: a step of the sentence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StepLabels {
    step: &'static str,
}

/// Label: how something ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    result: &'static str,
}

/// Labels of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabels {
    kind: &'static str,
    namespace: String,
    name: String,
    r#type: String,
    status: String,
    reason: String,
}

/// Labels of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ObjectLabels {
    kind: String,
    namespace: String,
    name: String,
}

impl ObjectLabels {
    fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Conditions that are told of, by kind, namespace and name of the object.
type Published = Arc<Mutex<HashMap<(&'static str, String, String), HashSet<ConditionLabels>>>>;

/// What the operator counts. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    duration: Family<StepLabels, Histogram, fn() -> Histogram>,
    errors: Family<StepLabels, Counter>,
    failing: Family<ObjectLabels, Gauge>,
    steps: Family<StepLabels, Counter>,
    conditions: Family<ConditionLabels, Gauge>,
    backups: Family<ResultLabels, Counter>,
    published: Published,
    /// Reconciles that ended, well or not.
    pub reconciles: Counter,
    /// Writes of a status. None while nothing changes.
    pub status_writes: Counter,
    /// Objects that were applied. None while nothing changes.
    pub applies: Counter,
    /// Watches that broke and were started again.
    pub watch_errors: Counter,
    /// 1 while this process leads.
    pub leading: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with everything in it.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sqlite_operator");
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let duration = Family::new_with_constructor(histogram);
        let (errors, steps, conditions) = (Family::default(), Family::default(), Family::default());
        let (backups, failing) = (Family::default(), Family::default());
        let (reconciles, status_writes, applies) =
            (Counter::default(), Counter::default(), Counter::default());
        let (watch_errors, leading) = (Counter::default(), Gauge::default());
        registry.register("reconcile_duration_seconds", "Time by step of a reconcile", duration.clone());
        registry.register("reconcile_errors", "Reconciles that failed, by step", errors.clone());
        registry.register(
            "reconcile_failing",
            "1 for each object whose last reconcile failed",
            failing.clone(),
        );
        registry.register("steps", "Steps taken by plans", steps.clone());
        registry.register("condition", "1 for each condition of each object", conditions.clone());
        registry.register("backups", "Backups that ended, by result", backups.clone());
        registry.register("reconciles", "Reconciles", reconciles.clone());
        registry.register("status_writes", "Writes of a status", status_writes.clone());
        registry.register("applies", "Objects applied", applies.clone());
        registry.register("watch_errors", "Watches that broke and were started again", watch_errors.clone());
        registry.register("leading", "1 while this process leads", leading.clone());
        Self {
            registry: Arc::new(registry),
            duration,
            errors,
            failing,
            steps,
            conditions,
            backups,
            published: Arc::default(),
            reconciles,
            status_writes,
            applies,
            watch_errors,
            leading,
        }
    }

    /// How long a step of the sentence took.
    pub fn observe(&self, step: &'static str, took: Duration) {
        self.duration.get_or_create(&StepLabels { step }).observe(took.as_secs_f64());
    }

    /// A reconcile failed at this step.
    pub fn failed(&self, step: &'static str) {
        self.errors.get_or_create(&StepLabels { step }).inc();
    }

    /// The reconcile of an object failed.
    pub fn fails(&self, kind: &str, namespace: &str, name: &str) {
        self.failing.get_or_create(&ObjectLabels::new(kind, namespace, name)).set(1);
    }

    /// It succeeded, or the object is gone.
    pub fn fails_no_more(&self, kind: &str, namespace: &str, name: &str) {
        self.failing.remove(&ObjectLabels::new(kind, namespace, name));
    }

    /// A step of a plan was taken.
    pub fn took(&self, step: &'static str) {
        self.steps.get_or_create(&StepLabels { step }).inc();
    }

    /// A backup, or the test of one, ended so.
    pub fn backup_ended(&self, result: &'static str) {
        self.backups.get_or_create(&ResultLabels { result }).inc();
    }

    /// The conditions of an object, in the place of those it had.
    pub fn publish(&self, kind: &'static str, namespace: &str, name: &str, conditions: &[Condition]) {
        let labels: HashSet<_> = conditions
            .iter()
            .map(|condition| ConditionLabels {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                r#type: condition.type_.clone(),
                status: condition.status.clone(),
                reason: condition.reason.clone(),
            })
            .collect();
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let before = published
            .insert((kind, namespace.to_owned(), name.to_owned()), labels.clone())
            .unwrap_or_default();
        for gone in before.difference(&labels) {
            self.conditions.remove(gone);
        }
        for label in &labels {
            self.conditions.get_or_create(label).set(1);
        }
    }

    /// Forgets objects that no longer exist.
    pub fn retain(&self, exists: impl Fn(&str, &str, &str) -> bool) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.retain(|(kind, namespace, name), labels| {
            let stays = exists(kind, namespace, name);
            if !stays {
                for label in labels.iter() {
                    self.conditions.remove(label);
                }
            }
            stays
        });
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn condition(reason: &str) -> Condition {
        Condition {
            type_: "Ready".into(),
            status: "True".into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    #[test]
    fn a_condition_is_there_once_and_goes_with_its_object() {
        let metrics = Metrics::new();
        metrics.publish("SqliteCluster", "shop", "orders", &[condition("NoLeader")]);
        metrics.publish("SqliteCluster", "shop", "orders", &[condition("Serving")]);
        let text = metrics.text().unwrap();
        assert!(text.contains(
            r#"sqlite_operator_condition{kind="SqliteCluster",namespace="shop",name="orders",type="Ready",status="True",reason="Serving"} 1"#
        ), "{text}");
        assert!(!text.contains("NoLeader"), "{text}");
        metrics.retain(|_, _, _| false);
        assert!(!metrics.text().unwrap().contains("orders"));
    }

    #[test]
    fn an_object_that_cannot_be_reconciled_is_told_until_it_can() {
        let metrics = Metrics::new();
        for _ in 0..2 {
            metrics.fails("SqliteCluster", "shop", "orders");
        }
        let told =
            r#"sqlite_operator_reconcile_failing{kind="SqliteCluster",namespace="shop",name="orders"} 1"#;
        assert!(metrics.text().unwrap().contains(told), "{}", metrics.text().unwrap());
        metrics.fails_no_more("SqliteCluster", "shop", "orders");
        assert!(!metrics.text().unwrap().contains("orders"));
    }
}
