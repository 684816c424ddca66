//! How the members get another image or other settings.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the members get another image or other settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Automatic begins as soon as a window allows it. Supervised waits until the annotation
    /// sqlite-operator.io/approvedRevision of this object names the pending revision.
    #[serde(default)]
    pub strategy: UpdateStrategy,
    /// The first member that is restarted, and what follows if it does not come up.
    #[serde(default)]
    pub canary: Canary,
    /// When restarts may begin. None: at any time. One that has begun is finished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub maintenance_windows: Vec<MaintenanceWindow>,
    /// Whether members without an image of their own follow the release of the operator.
    #[serde(default)]
    pub follow_operator: bool,
}

/// Who decides that an update begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateStrategy {
    /// The operator.
    #[default]
    Automatic,
    /// A human, for each revision.
    Supervised,
}

/// The first member that is restarted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// How long it must have been in service before the others follow.
    #[serde(default = "default_soak")]
    #[schemars(range(min = 0, max = 86400))]
    pub soak_seconds: i32,
    /// What follows if it does not come up, or fails while it is watched.
    #[serde(default)]
    pub on_failure: CanaryFailure,
}

impl Default for Canary {
    fn default() -> Self {
        Self { soak_seconds: default_soak(), on_failure: CanaryFailure::default() }
    }
}

/// What follows the failure of a canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CanaryFailure {
    /// It gets the former template back, and the failed one is not tried again.
    #[default]
    Rollback,
    /// Nothing, until the spec changes.
    Pause,
}

/// A span of time that begins by a cron expression.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.cron.split(' ').filter(field, size(field) > 0).size() == 5")
    .message("cron must have five fields, as in \"0 3 * * 6\": minute, hour, day of month, month, day of week"))]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceWindow {
    /// When it begins: minute, hour, day of month, month, day of week.
    #[schemars(length(min = 9, max = 100))]
    pub cron: String,
    /// How long it is open.
    #[schemars(range(min = 1, max = 10080))]
    pub duration_minutes: i32,
    /// Time zone by its name in the IANA database.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
}

fn default_soak() -> i32 {
    60
}

fn utc() -> String {
    "UTC".into()
}
