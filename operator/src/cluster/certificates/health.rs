//! What is told of certificates: in the status, in a condition, and as what is under way. Pure.

use super::exchange::{Lack, Offer, Waits};
use super::keep::Kept;
use crate::cluster::conditions::Draft;
use crate::cluster::observed::Observed;
use crate::cluster::plan::{Activity, ActivityReason, Obstacle, ObstacleReason};
use crate::cluster::validate::Desired;
use crate::crd::{CertificateStatus, ClientTraffic, PeerTraffic, Port, TlsMode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The condition.
pub const CERTIFICATES_VALID: &str = "CertificatesValid";
/// What is not there for this long needs a human.
const MISSING_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// Whether a port talks TLS, or is to.
fn concerns(desired: &Desired, port: Port) -> bool {
    let in_use = match port {
        Port::Peers => desired.peer_traffic != PeerTraffic::Plaintext,
        Port::Clients => desired.client_traffic != ClientTraffic::Plaintext,
    };
    in_use || desired.tls_mode(port) != TlsMode::Disabled
}

fn kept(observed: &Observed, port: Port) -> Option<&Kept> {
    observed.certificates.as_ref()?.get(&port)
}

/// Whether members of a port find certificates in the Secret that they mount.
pub fn is_provided(observed: &Observed, port: Port) -> bool {
    kept(observed, port).is_some_and(|kept| kept.view.handed.is_some())
}

fn lack(kept: &Kept) -> Option<&Lack> {
    match &kept.view.offer {
        Offer::Lacking(lack) => Some(lack),
        _ => None,
    }
}

/// What is told of each port. What was not looked at yet is as it was told last.
pub fn status(desired: &Desired, observed: &Observed) -> Vec<CertificateStatus> {
    let of = |port: Port| {
        let before = || observed.status.certificates.iter().find(|status| status.port == port).cloned();
        let Some(kept) = kept(observed, port) else { return before() };
        let not_after = kept.view.handed.as_ref().and_then(|handed| handed.not_after())?;
        let exchange = kept.next.waits.as_ref().map(|waits| match waits {
            Waits::ForTrust(members) => {
                format!("waiting for {} to trust another authority", members.join(", "))
            }
            Waits::Until(until) => {
                format!("another authority is trusted beside the first, and issues from {} on", date(*until))
            }
            Waits::ForLeaves(members) => {
                format!("waiting for {} to show another certificate", members.join(", "))
            }
        });
        Some(CertificateStatus { port, not_after: Time(at(not_after)), exchange })
    };
    Port::ALL.into_iter().filter(|port| concerns(desired, *port)).filter_map(of).collect()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or_default()
}

fn date(seconds: i64) -> String {
    at(seconds).to_string()
}

/// The condition; none where nothing talks TLS, or it is not known yet and never was.
pub(crate) fn condition(desired: &Desired, observed: &Observed) -> Option<Draft> {
    let draft = |holds, reason, message| Some(Draft { kind: CERTIFICATES_VALID, holds, reason, message });
    let ports: Vec<Port> = Port::ALL.into_iter().filter(|port| concerns(desired, *port)).collect();
    let known: Vec<(Port, &Kept)> =
        ports.iter().filter_map(|port| Some((*port, kept(observed, *port)?))).collect();
    if ports.is_empty() || known.is_empty() {
        return None;
    }
    if let Some((port, lack)) = known.iter().find_map(|(port, kept)| Some((port, lack(kept)?))) {
        return draft(false, lack.reason, format!("port {}: {}", port.called(), lack.message));
    }
    let now = observed.now.as_second();
    for (port, kept) in &known {
        let handed = kept.view.handed.as_ref();
        let ending = handed.and_then(|handed| handed.leaves.values().find(|leaf| leaf.ends_soon(now)));
        if let Some(leaf) = ending {
            let message = format!(
                "port {}: the certificate ends at {}, and nobody has renewed it",
                port.called(),
                date(leaf.not_after)
            );
            return draft(false, "ExpiringSoon", message);
        }
    }
    draft(true, "Valid", "the members have certificates that are good for a while".into())
}

/// The condition as it was, where nothing was looked at yet since the operator started.
pub fn carried_over(desired: &Desired, observed: &Observed) -> Option<Condition> {
    let concerns = Port::ALL.into_iter().any(|port| concerns(desired, port));
    let condition = observed.status.conditions.iter().find(|condition| condition.type_ == CERTIFICATES_VALID);
    condition.filter(|_| concerns && observed.certificates.is_none()).cloned()
}

/// What is under way, and what needs a human.
pub fn plan(desired: &Desired, observed: &Observed) -> (Option<Activity>, Option<Obstacle>) {
    let act = |reason, message| Some(Activity::new(reason, message));
    for port in Port::ALL.into_iter().filter(|port| concerns(desired, *port)) {
        let Some(kept) = kept(observed, port) else { continue };
        if let (None, Some(lack)) = (&kept.view.handed, lack(kept)) {
            let message = format!("the port {} has no certificate: {}", port.called(), lack.message);
            let told = observed.status.conditions.iter().find(|c| c.type_ == CERTIFICATES_VALID);
            let long = told.filter(|condition| condition.status == "False").is_some_and(|condition| {
                observed.now.duration_since(condition.last_transition_time.0) >= MISSING_AFTER
            });
            let obstacle = long.then(|| Obstacle::new(ObstacleReason::RefNotFound, message.clone()));
            return (act(ActivityReason::AwaitingCertificates, message), obstacle);
        }
        let waiting = match &kept.next.waits {
            Some(Waits::ForTrust(members)) => (members, "to trust another authority"),
            Some(Waits::ForLeaves(members)) => (members, "to show another certificate"),
            // Nobody has to do anything for it, and it takes a day.
            Some(Waits::Until(_)) | None => continue,
        };
        let (members, what) = waiting;
        let message = format!("port {}: waiting for {} {what}", port.called(), members.join(", "));
        return (act(ActivityReason::RotatingCertificates, message), None);
    }
    (None, None)
}
