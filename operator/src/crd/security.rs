//! Who may reach the members.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may reach the members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    /// Whether clients have to say who they are.
    #[serde(default)]
    pub authentication: Authentication,
    /// What is encrypted.
    #[serde(default)]
    pub tls: Tls,
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

/// A Secret of the cluster's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Between members. It can be turned on and off while the cluster serves: the members are restarted three times,
    /// one after the other, and no request fails.
    #[serde(default)]
    pub peers: PeerTls,
}

/// TLS between members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeerTls {
    /// By certificates of an authority of this cluster's own, which the operator makes and renews. Each is good for one
    /// member only.
    #[default]
    Managed,
    /// Nothing is encrypted, and whoever reaches the port between members is believed.
    Disabled,
}

/// How members talk to each other at the moment: each step is taken by all of them before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum PeerTraffic {
    /// Without TLS.
    Plaintext,
    /// They answer both, and call without TLS.
    AnswersBoth,
    /// They answer both, and call by TLS.
    CallsByTls,
    /// By TLS only.
    Tls,
}

impl PeerTraffic {
    /// Where a spec leads to.
    pub fn wanted(tls: PeerTls) -> Self {
        match tls {
            PeerTls::Managed => Self::Tls,
            PeerTls::Disabled => Self::Plaintext,
        }
    }

    /// One step towards `wanted`.
    #[must_use]
    pub fn towards(self, wanted: Self) -> Self {
        const STEPS: [PeerTraffic; 4] =
            [PeerTraffic::Plaintext, PeerTraffic::AnswersBoth, PeerTraffic::CallsByTls, PeerTraffic::Tls];
        let at = STEPS.iter().position(|step| *step == self).unwrap_or_default();
        match self.cmp(&wanted) {
            std::cmp::Ordering::Less => STEPS[at + 1],
            std::cmp::Ordering::Equal => self,
            std::cmp::Ordering::Greater => STEPS[at - 1],
        }
    }

    /// As the node's command line spells what it does without TLS; none if it knows no certificates.
    pub fn flag(self) -> Option<&'static str> {
        match self {
            Self::Plaintext => None,
            Self::AnswersBoth => Some("dial"),
            Self::CallsByTls => Some("accept"),
            Self::Tls => Some("refuse"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PeerTraffic::{AnswersBoth, CallsByTls, Plaintext, Tls};

    #[test]
    fn one_step_at_a_time_both_ways() {
        for (from, wanted, expected) in [
            (Plaintext, Tls, AnswersBoth),
            (AnswersBoth, Tls, CallsByTls),
            (CallsByTls, Tls, Tls),
            (Tls, Tls, Tls),
            (Tls, Plaintext, CallsByTls),
            (CallsByTls, Plaintext, AnswersBoth),
            (AnswersBoth, Plaintext, Plaintext),
            (Plaintext, Plaintext, Plaintext),
        ] {
            assert_eq!(from.towards(wanted), expected, "{from:?} to {wanted:?}");
        }
    }
}
