//! Pushes numbers at an interval, and spans as they end.

use super::collector::{Collector, CollectorError, ExportError};
use super::config::OtlpConfig;
use super::metrics::{Times, metrics_of};
use super::spans::{attribute, nanoseconds, span_of};
use crate::background::Background;
use crate::clock;
use crate::http::App;
use crate::observe::Until as _;
use crate::trace::{Span, Tracer};
use futures::future::join_all;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Spans that are sent at once, at most.
const BATCH: usize = 512;
/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long a member that goes down waits for the collector to take what is left.
const LAST: Duration = Duration::from_secs(2);

/// How pushing goes, of numbers or of traces.
#[derive(Debug, Default)]
pub struct Pushed {
    /// Calls that the collector took.
    pub done: AtomicU64,
    /// Calls that it did not.
    pub failed: AtomicU64,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    time: Option<jiff::Timestamp>,
    error: Option<String>,
}

impl Pushed {
    fn note(&self, what: &str, outcome: Result<(), ExportError>) {
        let mut last = self.last.lock();
        match outcome {
            Ok(()) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                last.time = Some(clock::now());
                if last.error.take().is_some() {
                    tracing::info!(what, "the collector takes them again");
                }
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                // Once for as long as it does not work: why may differ from time to time.
                if last.error.is_none() {
                    tracing::warn!(what, %error, "the collector of -otlp-endpoint does not take them");
                }
                last.error = Some(error.to_string());
            }
        }
    }

    fn status(&self) -> Value {
        let last = self.last.lock();
        json!({
            "pushed": self.done.load(Ordering::Relaxed),
            "failed": self.failed.load(Ordering::Relaxed),
            "last_push_time": last.time.map(|time| time.to_string()),
            "last_error": last.error,
        })
    }
}

/// Numbers of it, for metrics.
#[derive(Debug, Default)]
pub struct OtlpNumbers {
    /// Of numbers.
    pub metrics: Pushed,
    /// Of traces.
    pub traces: Pushed,
    /// Spans that the collector took.
    pub spans: AtomicU64,
    /// Spans that it did not take.
    pub lost_spans: AtomicU64,
}

/// What is pushed.
pub struct Otlp {
    config: OtlpConfig,
    collector: Collector,
    tracer: Arc<Tracer>,
    /// Spans that have ended, until they are taken to be sent.
    ended: Mutex<Option<mpsc::Receiver<Span>>>,
    pushing: Mutex<Vec<JoinHandle<()>>>,
    /// Whether the member goes down: what is left is pushed, and nothing after that.
    stopping: watch::Sender<bool>,
    /// How it goes.
    pub numbers: OtlpNumbers,
}

impl Otlp {
    /// As configured; pushes nothing before [`Otlp::start`]. Reads certificates.
    pub fn new(config: OtlpConfig) -> Result<Arc<Self>, CollectorError> {
        let collector = Collector::new(&config)?;
        if config.endpoint.scheme() == "http" {
            tracing::warn!(
                endpoint = config.shown_endpoint(),
                "metrics and traces are pushed without TLS: whoever is in between can read them"
            );
        }
        let (tracer, ended) = Tracer::new(config.trace_ratio, config.trace_limit);
        let (ended, pushing) = (Mutex::new(Some(ended)), Mutex::default());
        let (stopping, numbers) = (watch::Sender::new(false), OtlpNumbers::default());
        Ok(Arc::new(Self { config, collector, tracer, ended, pushing, stopping, numbers }))
    }

    /// What decides which requests are traced.
    pub fn tracer(&self) -> &Arc<Tracer> {
        &self.tracer
    }

    /// Spans that never reached the collector.
    pub fn dropped_spans(&self) -> u64 {
        self.tracer.dropped() + self.numbers.lost_spans.load(Ordering::Relaxed)
    }

    /// Begins to push, on threads that step back behind those of requests.
    pub fn start(self: &Arc<Self>, app: &Arc<App>, background: &Background) {
        let mut pushing = self.pushing.lock();
        pushing.push(background.spawn(self.clone().push_metrics(app.clone())));
        if let Some(ended) = self.ended.lock().take() {
            pushing.push(background.spawn(self.clone().push_spans(app.clone(), ended)));
        }
    }

    /// Pushes the spans that wait, and the numbers once more, and ends. Gives up after two seconds: a collector that is
    /// away does not keep a member from going down.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        let pushing = std::mem::take(&mut *self.pushing.lock());
        if timeout(LAST, join_all(pushing)).await.is_err() {
            tracing::warn!(
                "the collector of -otlp-endpoint did not take the last metrics and traces in time"
            );
        }
    }

    /// Resolves when the member goes down.
    async fn stopped(&self) {
        // The sender lives as long as this.
        drop(self.stopping.subscribe().until(|stopping| *stopping).await);
    }

    async fn push_metrics(self: Arc<Self>, app: Arc<App>) {
        let started = nanoseconds(app.about.started.as_microsecond());
        let mut ticks = interval_at(Instant::now() + self.config.interval, self.config.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stopped() => is_last = true,
            }
            let times = Times { started, now: nanoseconds(clock::now_us()) };
            let metrics = metrics_of(&app.metrics_text(), times);
            let scope = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
            let resource = ResourceMetrics {
                resource: Some(resource(&app)),
                scope_metrics: vec![scope],
                ..ResourceMetrics::default()
            };
            let message = ExportMetricsServiceRequest { resource_metrics: vec![resource] };
            self.numbers.metrics.note("metrics", self.collector.export(METRICS, &message).await);
        }
    }

    async fn push_spans(self: Arc<Self>, app: Arc<App>, mut ended: mpsc::Receiver<Span>) {
        let mut spans = Vec::with_capacity(BATCH);
        while self.gather(&mut ended, &mut spans).await {
            let count = spans.len() as u64;
            let spans = spans.drain(..).map(span_of).collect();
            let scope = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
            let resource = ResourceSpans {
                resource: Some(resource(&app)),
                scope_spans: vec![scope],
                ..ResourceSpans::default()
            };
            let message = ExportTraceServiceRequest { resource_spans: vec![resource] };
            let outcome = self.collector.export(TRACES, &message).await;
            // Not tried again: those that come meanwhile have to wait for it.
            let sum = if outcome.is_ok() { &self.numbers.spans } else { &self.numbers.lost_spans };
            sum.fetch_add(count, Ordering::Relaxed);
            self.numbers.traces.note("traces", outcome);
        }
    }

    /// Waits for spans, and a moment for others; false if the member goes down and none are left.
    async fn gather(&self, ended: &mut mpsc::Receiver<Span>, spans: &mut Vec<Span>) -> bool {
        tokio::select! {
            _ = ended.recv_many(spans, BATCH) => {}
            () = self.stopped() => {}
        }
        if spans.len() < BATCH {
            tokio::select! {
                () = sleep(GATHER) => {}
                () = self.stopped() => {}
            }
        }
        while spans.len() < BATCH
            && let Ok(span) = ended.try_recv()
        {
            spans.push(span);
        }
        !spans.is_empty()
    }

    /// What `/status` tells as `otlp_metrics` and `otlp_traces`.
    pub fn status(&self) -> [(&'static str, Value); 2] {
        let mut metrics = self.numbers.metrics.status();
        metrics["endpoint"] = json!(self.config.shown_endpoint());
        metrics["interval"] = json!(format!("{:?}", self.config.interval));
        let mut traces = self.numbers.traces.status();
        traces["endpoint"] = json!(self.config.shown_endpoint());
        traces["ratio"] = json!(self.config.trace_ratio);
        traces["spans"] = json!(self.numbers.spans.load(Ordering::Relaxed));
        traces["dropped_spans"] = json!(self.dropped_spans());
        traces["limit"] = json!(self.config.trace_limit);
        traces["over_limit"] = json!(self.tracer.refused());
        [("otlp_metrics", metrics), ("otlp_traces", traces)]
    }
}

fn scope() -> InstrumentationScope {
    let version = crate::VERSION.to_owned();
    InstrumentationScope { name: "sqlited".to_owned(), version, ..InstrumentationScope::default() }
}

/// Whose it is.
fn resource(app: &App) -> Resource {
    let mut attributes = vec![
        attribute("service.name", "sqlited".to_owned()),
        attribute("service.version", crate::VERSION.to_owned()),
        attribute("service.instance.id", app.consensus.config().name.clone()),
    ];
    if let Some(cluster) = app.consensus.identity().cluster() {
        attributes.push(attribute("sqlited.cluster.id", cluster.cluster_id));
    }
    Resource { attributes, ..Resource::default() }
}
