//! What the members tell about themselves.

use super::backup::SecretKeyRef;
use super::security::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the members tell about themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// How much the members log.
    #[serde(default)]
    pub log_level: LogLevel,
    /// A collector of OpenTelemetry that numbers and traces are pushed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
}

/// A collector of OpenTelemetry (OTLP by gRPC). A change restarts the members one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Otlp {
    /// https://host:port, or http://host:port without TLS.
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^/@]+:[0-9]+$"))]
    pub endpoint: String,
    /// Between two pushes of numbers.
    #[serde(default = "default_interval")]
    #[schemars(range(min = 1, max = 3600))]
    pub interval_seconds: i32,
    /// How many of 100 requests are traced that say nothing of traces.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub trace_percent: i32,
    /// Whose certificate the collector must show; absent: authorities of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// What is shown to it: a Secret of type kubernetes.io/tls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_secret_ref: Option<SecretRef>,
}

fn default_interval() -> i32 {
    30
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// And what may need attention.
    Warn,
    /// And the course of events.
    #[default]
    Info,
    /// And each decision.
    Debug,
    /// And each message.
    Trace,
}

impl LogLevel {
    /// As the node's command line spells it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
