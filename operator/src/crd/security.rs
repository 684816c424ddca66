//! Who may reach the members.

use super::tls::Tls;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may reach the members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    /// Whether clients have to say who they are.
    #[serde(default)]
    pub authentication: Authentication,
    /// What is encrypted.
    #[serde(default)]
    pub tls: Tls,
    /// Whether a NetworkPolicy keeps everybody but the members from the port by which they replicate. Clients, the
    /// operator and monitoring reach the other ports from everywhere.
    #[serde(default)]
    pub network_policy: NetworkPolicyMode,
    /// For how long what was exchanged is accepted beside what took its place: the password of applications, and the
    /// authority that clients trust.
    #[serde(default = "default_overlap")]
    #[schemars(range(min = 0, max = 2_592_000))]
    pub rotation_overlap_seconds: i32,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            authentication: Authentication::default(),
            tls: Tls::default(),
            network_policy: NetworkPolicyMode::default(),
            rotation_overlap_seconds: default_overlap(),
        }
    }
}

fn default_overlap() -> i32 {
    86_400
}

/// Whether clients have to say who they are. The operator makes a user for applications, whose name and password are in
/// Secret `<cluster>-app`, and one for itself.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.usersSecretRef) || !has(self.mode) || self.mode == 'Required'")
    .message("usersSecretRef names users that nobody would be asked for: set mode to Required, or leave it out"))]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// Required: a request without the credentials of a user that may do it is refused. Disabled: everybody who reaches
    /// the members may do everything.
    #[serde(default)]
    pub mode: AuthenticationMode,
    /// A Secret of the same namespace with further users: each key that ends in `.json` is a file of users as
    /// docs/security.md describes. Changes reach the members within a minute or two, without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users_secret_ref: Option<SecretRef>,
}

/// Whether clients have to say who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthenticationMode {
    /// They have to.
    #[default]
    Required,
    /// They need not.
    Disabled,
}

/// Whether a NetworkPolicy is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkPolicyMode {
    /// One is. It has an effect where the network of the Kubernetes cluster enforces them.
    #[default]
    Managed,
    /// None is.
    None,
}

/// A Secret of the cluster's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
