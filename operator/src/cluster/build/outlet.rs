//! What members send of their own accord, and to whom: changes of rows to a sink, numbers and traces to a collector.
//!
//! Everything but what Secrets hold is in the pod's arguments, and so in the pinned template: pods of the old template keep
//! what they were started with.

use crate::cluster::validate::{Desired, parse_quantity};
use crate::crd::{ChangeCapture, Otlp, SecretKeyRef, SecretRef};
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

/// Somebody that members send something to.
enum Outlet<'a> {
    Changes(&'a ChangeCapture),
    Telemetry(&'a Otlp),
}

/// Those of the members of a role. A read replica sends no changes.
fn outlets(desired: &Desired, role: PodRole) -> impl Iterator<Item = Outlet<'_>> {
    let changes = desired.spec.database.change_capture.as_ref().filter(|_| role == PodRole::Voter);
    let telemetry = desired.spec.observability.otlp.as_ref();
    changes.map(Outlet::Changes).into_iter().chain(telemetry.map(Outlet::Telemetry))
}

/// Volumes of a pod with what Secrets hold for them, and where they are mounted.
pub fn volumes(desired: &Desired, role: PodRole) -> impl Iterator<Item = (Volume, VolumeMount)> {
    outlets(desired, role).filter_map(|outlet| outlet.volume())
}

/// What tells a member of them.
pub fn args(desired: &Desired, role: PodRole) -> impl Iterator<Item = String> {
    outlets(desired, role).flat_map(|outlet| match outlet {
        Outlet::Changes(capture) => {
            vec![format!("-cdc-config={}", literal(&outlet.changes(desired, capture)))]
        }
        Outlet::Telemetry(otlp) => outlet.telemetry(otlp),
    })
}

/// Text that Kubernetes does not replace anything in: `$(NAME)` stands for a variable, and `$$` for a dollar.
fn literal(value: &Value) -> String {
    value.to_string().replace('$', "$$")
}

impl Outlet<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Changes(_) => "changes",
            Self::Telemetry(_) => "otlp",
        }
    }

    /// Path of a file that a Secret holds.
    fn at(&self, file: &str) -> String {
        format!("/etc/sqlited/{}/{file}", self.name())
    }

    /// Certificates of authorities, and what is shown to the other side.
    fn tls(&self) -> (Option<&SecretKeyRef>, Option<&SecretRef>) {
        match self {
            Self::Changes(capture) => {
                (capture.ca_secret_ref.as_ref(), capture.certificate_secret_ref.as_ref())
            }
            Self::Telemetry(otlp) => (otlp.ca_secret_ref.as_ref(), otlp.certificate_secret_ref.as_ref()),
        }
    }

    /// A Secret that is not there keeps the pod from starting, and the kubelet says so in an event of the pod: nothing is
    /// sent to somebody who is not who he should be.
    fn volume(&self) -> Option<(Volume, VolumeMount)> {
        let (ca, certificate) = self.tls();
        let endpoint = match self {
            Self::Changes(capture) => capture.endpoint_secret_ref.as_ref(),
            Self::Telemetry(_) => None,
        };
        let source = |name: &str, items: &[(&str, &str)]| VolumeProjection {
            secret: Some(SecretProjection {
                name: name.to_owned(),
                items: Some(
                    items
                        .iter()
                        .map(|(key, path)| KeyToPath {
                            key: (*key).to_owned(),
                            path: (*path).to_owned(),
                            mode: None,
                        })
                        .collect(),
                ),
                optional: None,
            }),
            ..VolumeProjection::default()
        };
        let key = |of: &SecretKeyRef, file: &str| source(&of.name, &[(&of.key, file)]);
        let both = [(CERTIFICATE, CERTIFICATE), (PRIVATE_KEY, PRIVATE_KEY)];
        let sources: Vec<_> = [
            ca.map(|ca| key(ca, AUTHORITIES)),
            certificate.map(|certificate| source(&certificate.name, &both)),
            endpoint.map(|endpoint| key(endpoint, ENDPOINT)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let projected = ProjectedVolumeSource { default_mode: Some(0o440), sources: Some(sources) };
        let wanted = projected.sources.as_ref().is_some_and(|sources| !sources.is_empty());
        wanted.then(|| {
            let volume = Volume { name: self.name().into(), projected: Some(projected), ..Volume::default() };
            let mount = VolumeMount {
                name: self.name().into(),
                mount_path: format!("/etc/sqlited/{}", self.name()),
                read_only: Some(true),
                ..VolumeMount::default()
            };
            (volume, mount)
        })
    }

    /// What `-cdc-config` takes (docs/changes.md).
    fn changes(&self, desired: &Desired, capture: &ChangeCapture) -> Value {
        let (ca, certificate) = self.tls();
        let file = |file: &str, there: bool| there.then(|| self.at(file));
        let bytes = |size: &Option<String>| size.as_deref().and_then(parse_quantity);
        let tls: Map<String, Value> = [
            ("ca_cert_file", file(AUTHORITIES, ca.is_some())),
            ("cert_file", file(CERTIFICATE, certificate.is_some())),
            ("key_file", file(PRIVATE_KEY, certificate.is_some())),
        ]
        .into_iter()
        .filter_map(|(name, path)| Some((name.to_owned(), path?.into())))
        .collect();
        let all = [
            ("endpoint", json!(capture.endpoint)),
            ("endpoint_file", json!(file(ENDPOINT, capture.endpoint_secret_ref.is_some()))),
            ("service_id", json!(capture.service_id.as_ref().unwrap_or(&desired.name.name))),
            ("table_filter", json!(capture.table_filter)),
            ("row_ids_only", json!(capture.row_ids_only.then_some(true))),
            ("max_batch_size", json!(capture.batch_size)),
            ("max_batch_delay", json!(capture.batch_delay_milliseconds.map(|n| format!("{n}ms")))),
            ("transmit_timeout", json!(capture.timeout_seconds.map(|n| format!("{n}s")))),
            ("transmit_max_retries", json!(capture.max_retries)),
            ("max_bytes", json!(bytes(&capture.max_size))),
            ("retain_bytes", json!(bytes(&capture.retain_size))),
            ("tls", if tls.is_empty() { Value::Null } else { tls.into() }),
        ];
        let said = all.into_iter().filter(|(_, value)| !value.is_null());
        said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
    }

    fn telemetry(&self, otlp: &Otlp) -> Vec<String> {
        let (ca, certificate) = self.tls();
        let ca = ca.map(|_| format!("-otlp-ca-cert={}", self.at(AUTHORITIES)));
        let shown = certificate.map(|_| {
            [format!("-otlp-cert={}", self.at(CERTIFICATE)), format!("-otlp-key={}", self.at(PRIVATE_KEY))]
        });
        [
            format!("-otlp-endpoint={}", otlp.endpoint),
            format!("-otlp-interval={}s", otlp.interval_seconds),
            format!("-otlp-trace-ratio={}", f64::from(otlp.trace_percent) / 100.0),
        ]
        .into_iter()
        .chain(ca)
        .chain(shown.into_iter().flatten())
        .collect()
    }
}
