//! What is told of certificates: in the status, in a condition, and as what is under way. Pure.

use super::exchange::{Lack, Offer, Waits};
use super::keep::Kept;
use crate::cluster::conditions::{Draft, whole_second};
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
/// An exchange in which the same members are waited for this long needs a human: kubelets bring what is new in two minutes.
const HANGING_AFTER: SignedDuration = SignedDuration::from_mins(5);

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
        let exchange = kept.next.waits.as_ref().map(told);
        let now = || Time(whole_second(observed.now));
        let waiting_since = awaited(kept).map(|_| waiting_since(observed, port, kept).unwrap_or_else(now));
        Some(CertificateStatus { port, not_after: Time(at(not_after)), exchange, waiting_since })
    };
    Port::ALL.into_iter().filter(|port| concerns(desired, *port)).filter_map(of).collect()
}

/// What an exchange waits for, as a sentence.
fn told(waits: &Waits) -> String {
    match waits {
        Waits::ForTrust(members) => {
            format!("waiting for {} to trust another authority", members.join(", "))
        }
        Waits::Until(until) => {
            format!("another authority is trusted beside the first, and issues from {} on", date(*until))
        }
        Waits::ForLeaves(members) => {
            format!("waiting for {} to show another certificate", members.join(", "))
        }
    }
}

/// What an exchange waits for, if that is members. Nobody has to do anything for the rest, which takes a day.
fn awaited(kept: &Kept) -> Option<&Waits> {
    kept.next.waits.as_ref().filter(|waits| !matches!(waits, Waits::Until(_)))
}

/// Since when it waits for these members to do this, if that was told already.
fn waiting_since(observed: &Observed, port: Port, kept: &Kept) -> Option<Time> {
    let before = observed.status.certificates.iter().find(|status| status.port == port)?;
    let same = before.exchange == kept.next.waits.as_ref().map(told);
    before.waiting_since.clone().filter(|_| same)
}

/// Who holds up the exchange of a port for so long that it needs a human, and what can be done.
fn hanging(desired: &Desired, observed: &Observed, port: Port, kept: &Kept) -> Option<String> {
    let waits = awaited(kept)?;
    let since = waiting_since(observed, port, kept)?.0;
    (observed.now.duration_since(since) >= HANGING_AFTER).then(|| {
        format!(
            "port {}: {} since {since}: see what they log, and whether Secret {} reaches their pods; a pod that is deleted \
             comes back with it",
            port.called(),
            told(waits),
            desired.name.certificates_secret(port)
        )
    })
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
    if let Some(message) = known.iter().find_map(|(port, kept)| hanging(desired, observed, *port, kept)) {
        return draft(false, "RotationFailed", message);
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
        let Some(waits) = awaited(kept) else { continue };
        let message = format!("port {}: {}", port.called(), told(waits));
        let hanging = hanging(desired, observed, port, kept);
        let obstacle = hanging.map(|message| Obstacle::new(ObstacleReason::RotationFailed, message));
        return (act(ActivityReason::RotatingCertificates, message), obstacle);
    }
    (None, None)
}

#[cfg(test)]
mod tests {
    use super::super::exchange::{Handed, Next, PortView};
    use super::*;
    use crate::cluster::fixtures::World;
    use std::time::Instant;

    /// A cluster in which the exchange of the authority between members waits, as it was told so many seconds ago.
    fn waiting(waits: Waits, told: Option<(&str, i64)>) -> World {
        let mut world = World::serving(3, 0);
        let view = PortView { offer: Offer::Nobody, handed: Some(Handed::default()) };
        let next = Next { write: None, waits: Some(waits) };
        let (wanted, mode, until) = (String::new(), TlsMode::Managed, Instant::now());
        let kept = Kept { view, next, wanted, mode, until };
        world.observed.certificates = Some([(Port::Peers, kept)].into());
        world.observed.status.certificates = told
            .map(|(exchange, ago)| CertificateStatus {
                port: Port::Peers,
                not_after: Time(world.observed.now),
                exchange: Some(exchange.to_owned()),
                waiting_since: Some(Time(world.observed.now - SignedDuration::from_secs(ago))),
            })
            .into_iter()
            .collect();
        world
    }

    #[test]
    fn an_exchange_that_hangs_is_told_with_whom_it_waits_for() {
        let trust = || Waits::ForTrust(vec!["orders-1".into()]);
        let leaves = || Waits::ForLeaves(vec!["orders-1".into(), "orders-2".into()]);
        let (one, two) = (
            "waiting for orders-1 to trust another authority",
            "waiting for orders-1, orders-2 to show another certificate",
        );
        for (what, waits, before, failed) in [
            ("it begins", trust(), None, false),
            ("for a while", trust(), Some((one, 299)), false),
            ("for long", trust(), Some((one, 300)), true),
            ("it got one step further", leaves(), Some((one, 900)), false),
            ("the next step hangs", leaves(), Some((two, 300)), true),
            ("one of them did it", Waits::ForLeaves(vec!["orders-2".into()]), Some((two, 900)), false),
            ("clients are given time", Waits::Until(0), Some((&told(&Waits::Until(0)), 900)), false),
        ] {
            let sentence = told(&waits);
            let World { desired, observed, .. } = &waiting(waits, before);
            let found = condition(desired, observed).unwrap();
            let obstacle = plan(desired, observed).1;
            assert_eq!((found.reason == "RotationFailed", obstacle.is_some()), (failed, failed), "{what}");
            if let Some(obstacle) = obstacle {
                assert_eq!(obstacle.reason, ObstacleReason::RotationFailed, "{what}");
                assert!(!found.holds && found.message == obstacle.message, "{what}");
                let parts = [sentence.as_str(), "since 2027-", "Secret orders-peer-tls"];
                assert!(parts.iter().all(|part| found.message.contains(part)), "{what}: {}", found.message);
            }
        }
    }
}
