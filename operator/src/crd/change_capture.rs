//! Change capture.

use super::backup::SecretKeyRef;
use super::security::SecretRef;
use super::storage::QUANTITY;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of a host. Its last part begins with a letter: members refuse an address.
const HOST_NAME: &str = r"^([A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?\.)*[A-Za-z]([-A-Za-z0-9]*[A-Za-z0-9])?$";

/// How the wait between two attempts grows; absent: Linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryPolicy {
    /// Always the same.
    Linear,
    /// Twice as long each time, up to the longest.
    Exponential,
}

/// What writes do to rows, recorded and sent to a sink (docs/changes.md). Any member streams it from `/db/changes`, also
/// without a sink. A change restarts the members one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.endpoint) || !has(self.endpointSecretRef)")
    .message("endpoint and endpointSecretRef both name the sink: leave one out"))]
#[serde(rename_all = "camelCase")]
pub struct ChangeCapture {
    /// A URL that takes each batch as a POST, or stdout. A URL with credentials belongs into endpointSecretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^(stdout|https?://[^/@]+(/[^@]*)?)$"))]
    pub endpoint: Option<String>,
    /// A key of a Secret with that URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_secret_ref: Option<SecretKeyRef>,
    /// Whose certificate the sink must show; absent: authorities of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// What is shown to it: a Secret of type kubernetes.io/tls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_secret_ref: Option<SecretRef>,
    /// The name that the sink's certificate must be for; absent: the host of the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = HOST_NAME))]
    pub server_name: Option<String>,
    /// A regular expression that the name of a table must match somewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub table_filter: Option<String>,
    /// Without the values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub row_ids_only: bool,
    /// Said in each batch; absent: the cluster's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub service_id: Option<String>,
    /// Entries in a batch at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_size: Option<i32>,
    /// How long a batch waits to be full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 60_000))]
    pub batch_delay_milliseconds: Option<i32>,
    /// How long the sink may take for a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<i32>,
    /// Further attempts, then a batch is given up; absent: without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_retries: Option<i32>,
    /// How the wait between two attempts grows; absent: Linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
    /// The first wait between attempts; absent: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub min_backoff_milliseconds: Option<i32>,
    /// The longest one; absent: 30000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub max_backoff_milliseconds: Option<i32>,
    /// How often the members are told how far the sink is; absent: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3_600_000))]
    pub high_watermark_interval_milliseconds: Option<i32>,
    /// Changes that are kept at most while the sink does not take them, as 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = QUANTITY))]
    pub max_size: Option<String>,
    /// Changes that are kept for `/db/changes` though the sink has them, as 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24), regex(pattern = QUANTITY))]
    pub retain_size: Option<String>,
}
