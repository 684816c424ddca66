//! What is encrypted, and by whose certificates.

use super::security::SecretRef;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is encrypted, and by whose certificates.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("(has(self.peers) && self.peers == 'CertManager') == has(self.peersIssuerRef)")
        .message("peers: CertManager and peersIssuerRef belong together: set both, or neither"),
    validation = Rule::new("(has(self.clients) && self.clients == 'CertManager') == has(self.clientsIssuerRef)")
        .message("clients: CertManager and clientsIssuerRef belong together: set both, or neither"),
    validation = Rule::new("(has(self.peers) && self.peers == 'Secret') == has(self.peersSecretRef)")
        .message("peers: Secret and peersSecretRef belong together: set both, or neither"),
    validation = Rule::new("(has(self.clients) && self.clients == 'Secret') == has(self.clientsSecretRef)")
        .message("clients: Secret and clientsSecretRef belong together: set both, or neither")
)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Between members. It can be turned on and off while the cluster serves: the members are restarted three times,
    /// one after the other, and no request fails.
    #[serde(default)]
    pub peers: TlsMode,
    /// Between clients and members. Absent: as the cluster began. It can be turned on and off while the cluster serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<TlsMode>,
    /// Whether clients are answered without TLS too. Allow while they move: both are answered, and clients says which of
    /// them applications are told.
    #[serde(default)]
    pub plaintext_clients: PlaintextClients,
    /// Further names that clients call the cluster by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 253), regex(pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub client_names: Vec<String>,
    /// With peers CertManager: who issues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers_issuer_ref: Option<IssuerRef>,
    /// With clients CertManager: who issues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients_issuer_ref: Option<IssuerRef>,
    /// With peers Secret: a Secret with `tls.crt`, `tls.key` and `ca.crt`, for every member, as
    /// `*.<cluster>-nodes.<namespace>.svc` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers_secret_ref: Option<SecretRef>,
    /// With clients Secret: a Secret with `tls.crt`, `tls.key` and `ca.crt`, for `<cluster>-nodes.<namespace>.svc` and the
    /// Service of the voters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients_secret_ref: Option<SecretRef>,
}

/// Where the certificates of a port come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// From an authority of this cluster's own, which the operator makes, renews and exchanges.
    #[default]
    Managed,
    /// From cert-manager, by an issuer that is named beside.
    CertManager,
    /// From a Secret that is named beside.
    Secret,
    /// Nothing is encrypted. Between members, whoever reaches the port is believed.
    Disabled,
}

/// Whether clients are answered without TLS, where there is TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PlaintextClients {
    /// They are not.
    #[default]
    Refuse,
    /// They are.
    Allow,
}

/// An issuer of cert-manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its kind: Issuer or ClusterIssuer, or what another group has.
    #[serde(default = "IssuerRef::default_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its group.
    #[serde(default = "IssuerRef::default_group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

impl IssuerRef {
    fn default_kind() -> String {
        "Issuer".into()
    }

    fn default_group() -> String {
        "cert-manager.io".into()
    }
}

/// A port of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Port {
    /// Between members.
    Peers,
    /// For clients.
    Clients,
}

impl Port {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Peers, Self::Clients];

    /// As people call it.
    pub fn called(self) -> &'static str {
        match self {
            Self::Peers => "between members",
            Self::Clients => "for clients",
        }
    }
}

impl Tls {
    /// What a cluster that begins has for clients, if nothing is said.
    const CLIENTS_AT_FIRST: TlsMode = TlsMode::Managed;

    /// Where the certificates of a port come from. `clients` is how clients are answered now, if the cluster has begun.
    pub fn mode(&self, port: Port, clients: Option<ClientTraffic>) -> TlsMode {
        match (port, self.clients, clients) {
            (Port::Peers, ..) => self.peers,
            (Port::Clients, Some(mode), _) => mode,
            (Port::Clients, None, None) => Self::CLIENTS_AT_FIRST,
            (Port::Clients, None, Some(ClientTraffic::Plaintext)) => TlsMode::Disabled,
            (Port::Clients, None, Some(_)) => TlsMode::Managed,
        }
    }

    /// The issuer of a port's certificates.
    pub fn issuer(&self, port: Port) -> Option<&IssuerRef> {
        match port {
            Port::Peers => self.peers_issuer_ref.as_ref(),
            Port::Clients => self.clients_issuer_ref.as_ref(),
        }
    }

    /// The Secret with a port's certificates.
    pub fn secret(&self, port: Port) -> Option<&SecretRef> {
        match port {
            Port::Peers => self.peers_secret_ref.as_ref(),
            Port::Clients => self.clients_secret_ref.as_ref(),
        }
    }
}

/// How a port is talked to at the moment: each step is taken by all members before the next.
pub trait Traffic: Copy + PartialEq + 'static {
    /// From nothing encrypted to nothing in the clear.
    const STEPS: &'static [Self];

    /// One step towards `wanted`.
    #[must_use]
    fn towards(self, wanted: Self) -> Self {
        let at = |step| Self::STEPS.iter().position(|other| *other == step).unwrap_or_default();
        let (now, goal) = (at(self), at(wanted));
        Self::STEPS[if now < goal { now + 1 } else { now.saturating_sub(usize::from(now > goal)) }]
    }
}

/// How members talk to each other at the moment.
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

impl Traffic for PeerTraffic {
    const STEPS: &'static [Self] = &[Self::Plaintext, Self::AnswersBoth, Self::CallsByTls, Self::Tls];
}

impl PeerTraffic {
    /// Where a spec leads to.
    pub fn wanted(mode: TlsMode) -> Self {
        if mode == TlsMode::Disabled { Self::Plaintext } else { Self::Tls }
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

/// How clients are answered at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ClientTraffic {
    /// Without TLS.
    #[default]
    Plaintext,
    /// Either way.
    AnswersBoth,
    /// By TLS only.
    Tls,
}

impl Traffic for ClientTraffic {
    const STEPS: &'static [Self] = &[Self::Plaintext, Self::AnswersBoth, Self::Tls];
}

impl ClientTraffic {
    /// Where a spec leads to. Clients that move away from TLS are answered both ways as long as that is allowed, and no
    /// cluster that never had TLS gets it by that.
    pub fn wanted(mode: TlsMode, plaintext: PlaintextClients, now: Self) -> Self {
        match (mode, plaintext) {
            (TlsMode::Disabled, PlaintextClients::Allow) => now.min(Self::AnswersBoth),
            (TlsMode::Disabled, PlaintextClients::Refuse) => Self::Plaintext,
            (_, PlaintextClients::Allow) => Self::AnswersBoth,
            (_, PlaintextClients::Refuse) => Self::Tls,
        }
    }

    /// As pods are marked with it.
    pub fn mark(self) -> Option<&'static str> {
        match self {
            Self::Plaintext => None,
            Self::AnswersBoth => Some("AnswersBoth"),
            Self::Tls => Some("Tls"),
        }
    }

    /// What a pod is marked with.
    pub fn marked(mark: Option<&str>) -> Self {
        Self::STEPS.iter().copied().find(|step| step.mark() == mark).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_at_a_time_both_ways() {
        use PeerTraffic::{AnswersBoth, CallsByTls, Plaintext, Tls};
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

    #[test]
    fn where_clients_are_led_to() {
        use ClientTraffic::{AnswersBoth, Plaintext, Tls};
        use PlaintextClients::{Allow, Refuse};
        for (mode, plaintext, now, expected) in [
            (TlsMode::Managed, Refuse, Plaintext, Tls),
            (TlsMode::Managed, Allow, Plaintext, AnswersBoth),
            (TlsMode::Secret, Allow, Tls, AnswersBoth),
            (TlsMode::Disabled, Allow, Tls, AnswersBoth),
            (TlsMode::Disabled, Allow, AnswersBoth, AnswersBoth),
            (TlsMode::Disabled, Allow, Plaintext, Plaintext),
            (TlsMode::Disabled, Refuse, Tls, Plaintext),
        ] {
            let found = ClientTraffic::wanted(mode, plaintext, now);
            assert_eq!(found, expected, "{mode:?} {plaintext:?} {now:?}");
        }
        for step in ClientTraffic::STEPS {
            assert_eq!(ClientTraffic::marked(step.mark()), *step);
        }
    }

    #[test]
    fn what_is_not_said_for_clients_is_as_it_was() {
        use ClientTraffic::{AnswersBoth, Plaintext, Tls as Encrypted};
        let unsaid = Tls::default();
        for (now, expected) in [
            (None, Tls::CLIENTS_AT_FIRST),
            (Some(Plaintext), TlsMode::Disabled),
            (Some(AnswersBoth), TlsMode::Managed),
            (Some(Encrypted), TlsMode::Managed),
        ] {
            assert_eq!(unsaid.mode(Port::Clients, now), expected, "{now:?}");
        }
        let said = Tls { clients: Some(TlsMode::Disabled), ..Tls::default() };
        assert_eq!(said.mode(Port::Clients, Some(Encrypted)), TlsMode::Disabled);
    }
}
