//! What members send of their own accord, and to whom: changes of rows to a sink, numbers and traces to a collector.
//!
//! Everything but what Secrets hold is in the pod's arguments, and so in the pinned template: pods of the old template keep
//! what they were started with.

use crate::cluster::validate::{Desired, parse_quantity};
use crate::crd::{ChangeCapture, Otlp, RetryPolicy, SecretKeyRef, SecretRef};
use crate::names::PodRole;
use k8s_openapi::api::core::v1::{
    KeyToPath, ProjectedVolumeSource, SecretProjection, Volume, VolumeMount, VolumeProjection,
};
use serde_json::{Map, Value, json};

/// Key and file of a certificate, as in Secrets of type kubernetes.io/tls.
const CERTIFICATE: &str = "tls.crt";
/// Key and file of its private key.
const PRIVATE_KEY: &str = "tls.key";
/// File with certificates of authorities.
const AUTHORITIES: &str = "ca.crt";
/// File with a URL.
const ENDPOINT: &str = "endpoint";

/// Somebody that members send something to, and what Secrets hold for that.
struct Outlet<'a> {
    name: &'static str,
    /// Certificates of authorities that the other side's is of.
    ca: Option<&'a SecretKeyRef>,
    /// What is shown to the other side.
    certificate: Option<&'a SecretRef>,
    /// Where it is.
    endpoint: Option<&'a SecretKeyRef>,
}

/// The sink of the members of a role. A read replica sends no changes.
fn changes(desired: &Desired, role: PodRole) -> Option<(&ChangeCapture, Outlet<'_>)> {
    let capture = desired.spec.database.change_capture.as_ref().filter(|_| role == PodRole::Voter)?;
    let outlet = Outlet {
        name: "changes",
        ca: capture.ca_secret_ref.as_ref(),
        certificate: capture.certificate_secret_ref.as_ref(),
        endpoint: capture.endpoint_secret_ref.as_ref(),
    };
    Some((capture, outlet))
}

/// The collector.
fn telemetry(desired: &Desired) -> Option<(&Otlp, Outlet<'_>)> {
    let otlp = desired.spec.observability.otlp.as_ref()?;
    let outlet = Outlet {
        name: "otlp",
        ca: otlp.ca_secret_ref.as_ref(),
        certificate: otlp.certificate_secret_ref.as_ref(),
        endpoint: None,
    };
    Some((otlp, outlet))
}

/// Volumes of a pod with what Secrets hold for them, and where they are mounted.
pub fn volumes(desired: &Desired, role: PodRole) -> impl Iterator<Item = (Volume, VolumeMount)> {
    let changes = changes(desired, role).map(|(_, outlet)| outlet);
    let telemetry = telemetry(desired).map(|(_, outlet)| outlet);
    [changes, telemetry].into_iter().flatten().filter_map(|outlet| outlet.volume())
}

/// What tells a member of them.
pub fn args(desired: &Desired, role: PodRole) -> impl Iterator<Item = String> {
    let changes = changes(desired, role).map(|(capture, outlet)| {
        let config = changes_config(capture, &outlet, &desired.name.name);
        // Kubernetes takes `$(NAME)` for a variable, and `$$` for a dollar.
        format!("-cdc-config={}", config.to_string().replace('$', "$$"))
    });
    let telemetry = telemetry(desired).map(|(otlp, outlet)| telemetry_flags(otlp, &outlet));
    changes.into_iter().chain(telemetry.into_iter().flatten())
}

impl Outlet<'_> {
    /// Where the files that Secrets hold are.
    fn directory(&self) -> String {
        format!("/etc/sqlited/{}", self.name)
    }

    /// Path of such a file, if there is one.
    fn file(&self, name: &str, there: bool) -> Option<String> {
        there.then(|| format!("{}/{name}", self.directory()))
    }

    /// Paths of the authorities, the certificate and its key.
    fn tls(&self) -> [Option<String>; 3] {
        let (ca, shown) = (self.ca.is_some(), self.certificate.is_some());
        [self.file(AUTHORITIES, ca), self.file(CERTIFICATE, shown), self.file(PRIVATE_KEY, shown)]
    }

    /// A Secret that is not there keeps the pod from starting, and the kubelet says so in an event of the pod: nothing is
    /// sent to somebody who is not who he should be.
    fn volume(&self) -> Option<(Volume, VolumeMount)> {
        let item =
            |key: &str, path: &str| KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None };
        let source = |name: &str, items: Vec<KeyToPath>| VolumeProjection {
            secret: Some(SecretProjection { name: name.to_owned(), items: Some(items), optional: None }),
            ..VolumeProjection::default()
        };
        let key = |of: &SecretKeyRef, file: &str| source(&of.name, vec![item(&of.key, file)]);
        let both = || [CERTIFICATE, PRIVATE_KEY].map(|name| item(name, name)).into();
        let sources: Vec<_> = [
            self.ca.map(|ca| key(ca, AUTHORITIES)),
            self.certificate.map(|certificate| source(&certificate.name, both())),
            self.endpoint.map(|endpoint| key(endpoint, ENDPOINT)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if sources.is_empty() {
            return None;
        }
        let projected = ProjectedVolumeSource { default_mode: Some(0o440), sources: Some(sources) };
        let volume = Volume { name: self.name.into(), projected: Some(projected), ..Volume::default() };
        let mount = VolumeMount {
            name: self.name.into(),
            mount_path: self.directory(),
            read_only: Some(true),
            ..VolumeMount::default()
        };
        Some((volume, mount))
    }
}

/// What is said of `all`.
fn said<const N: usize>(all: [(&str, Value); N]) -> Map<String, Value> {
    all.into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// What `-cdc-config` takes (docs/changes.md), of the cluster called `cluster`.
fn changes_config(capture: &ChangeCapture, outlet: &Outlet<'_>, cluster: &str) -> Value {
    let bytes = |size: &Option<String>| size.as_deref().and_then(parse_quantity);
    let [ca, certificate, key] = outlet.tls();
    let milliseconds = |n: Option<i32>| json!(n.map(|n| format!("{n}ms")));
    let policy = capture.retry_policy.map(|policy| match policy {
        RetryPolicy::Linear => "linear",
        RetryPolicy::Exponential => "exponential",
    });
    let tls = said([
        ("ca_cert_file", json!(ca)),
        ("cert_file", json!(certificate)),
        ("key_file", json!(key)),
        ("server_name", json!(capture.server_name)),
    ]);
    said([
        ("endpoint", json!(capture.endpoint)),
        ("endpoint_file", json!(outlet.file(ENDPOINT, outlet.endpoint.is_some()))),
        ("service_id", json!(capture.service_id.as_deref().unwrap_or(cluster))),
        ("table_filter", json!(capture.table_filter)),
        ("row_ids_only", json!(capture.row_ids_only.then_some(true))),
        ("max_batch_size", json!(capture.batch_size)),
        ("max_batch_delay", milliseconds(capture.batch_delay_milliseconds)),
        ("high_watermark_interval", milliseconds(capture.high_watermark_interval_milliseconds)),
        ("transmit_timeout", json!(capture.timeout_seconds.map(|n| format!("{n}s")))),
        ("transmit_max_retries", json!(capture.max_retries)),
        ("transmit_retry_policy", json!(policy)),
        ("transmit_min_backoff", milliseconds(capture.min_backoff_milliseconds)),
        ("transmit_max_backoff", milliseconds(capture.max_backoff_milliseconds)),
        ("max_bytes", json!(bytes(&capture.max_size))),
        ("retain_bytes", json!(bytes(&capture.retain_size))),
        ("tls", if tls.is_empty() { Value::Null } else { tls.into() }),
    ])
    .into()
}

fn telemetry_flags(otlp: &Otlp, outlet: &Outlet<'_>) -> Vec<String> {
    let files = ["ca-cert", "cert", "key"].into_iter().zip(outlet.tls());
    let files = files.filter_map(|(flag, path)| Some(format!("-otlp-{flag}={}", path?)));
    [
        format!("-otlp-endpoint={}", otlp.endpoint),
        format!("-otlp-interval={}s", otlp.interval_seconds),
        format!("-otlp-trace-ratio={}", f64::from(otlp.trace_percent) / 100.0),
    ]
    .into_iter()
    .chain(files)
    .collect()
}
