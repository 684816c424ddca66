//! How members talk to each other and to clients: on the way from plaintext to TLS and back, one round of restarts after
//! the other.

use super::{ActivityReason, Planner};
use crate::cluster::certificates::health::is_provided;
use crate::crd::{ClientTraffic, PeerTraffic, Port, TlsMode, Traffic};

impl Planner<'_> {
    /// The next step to where the spec wants each of the two, once all members have taken the last one. One round of
    /// restarts does for both.
    pub(super) fn plan_traffic(&mut self) {
        let (peers, clients) = (self.desired.peer_traffic, self.desired.client_traffic);
        let mode = self.desired.tls_mode(Port::Clients);
        let (wanted_of_peers, wanted_of_clients) = self.desired.wanted_traffic();
        let stable = self.rollout.stable_revision.as_ref() == Some(&self.desired.voter_revision);
        let nobody = self.observed.pods.is_empty();
        let rests = self.plan.activity.is_none()
            && self.plan.obstacle.is_none()
            && self.plan.steps.is_empty()
            && self.disruption.is_none();
        let may_step = rests && (stable || nobody);
        // Pods do not start without the certificates that they mount.
        let next = |provided: bool| may_step && provided;
        let has = |port| is_provided(self.observed, port);
        let (to_peers, to_clients) = (
            next(peers != PeerTraffic::Plaintext || has(Port::Peers)),
            next(clients != ClientTraffic::Plaintext || has(Port::Clients)),
        );
        self.plan.peer_traffic = Some(if to_peers { peers.towards(wanted_of_peers) } else { peers });
        self.plan.client_traffic =
            Some(if to_clients { clients.towards(wanted_of_clients) } else { clients });
        let pods = self.observed.pods.values().map(|pod| pod.client_traffic);
        self.plan.tells_tls = tells_tls(mode, clients, pods);
        if peers != wanted_of_peers {
            self.act(
                ActivityReason::SecuringPeers,
                format!("the traffic between members is {peers:?} on its way to {wanted_of_peers:?}"),
            );
        }
        if clients != wanted_of_clients {
            self.act(
                ActivityReason::SecuringClients,
                format!("the traffic of clients is {clients:?} on its way to {wanted_of_clients:?}"),
            );
        }
    }
}

/// Whether applications are to talk TLS: if they are to in the end, as soon as every member does; if not, as long as one
/// does nothing else.
fn tells_tls(mode: TlsMode, now: ClientTraffic, mut pods: impl Iterator<Item = ClientTraffic>) -> bool {
    if mode == TlsMode::Disabled {
        now == ClientTraffic::Tls || pods.any(|pod| pod == ClientTraffic::Tls)
    } else {
        now != ClientTraffic::Plaintext && pods.all(|pod| pod != ClientTraffic::Plaintext)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::certificates::Kept;
    use crate::cluster::certificates::exchange::{Handed, Next, Offer, PortView};
    use crate::cluster::fixtures::World;
    use crate::crd::PlaintextClients;
    use ClientTraffic::{AnswersBoth, Plaintext, Tls};

    /// A cluster that rests, and whose spec wants `mode` for its clients, who are answered as `now` says.
    fn resting(mode: TlsMode, plaintext: PlaintextClients, now: ClientTraffic, provided: bool) -> World {
        let world = World::serving(3, 0).spec(|spec| {
            spec.security.tls.clients = Some(mode);
            spec.security.tls.plaintext_clients = plaintext;
        });
        world.edit(|world| {
            world.desired.client_traffic = now;
            let revision = world.desired.voter_revision.clone();
            for pod in world.observed.pods.values_mut() {
                (pod.client_traffic, pod.revision) = (now, Some(revision.clone()));
            }
            for set in world.observed.sets.values_mut() {
                set.revision = Some(revision.clone());
            }
            if provided {
                let kept = Kept {
                    view: PortView { offer: Offer::Nobody, handed: Some(Handed::default()) },
                    next: Next::default(),
                    wanted: String::new(),
                    mode,
                    until: std::time::Instant::now(),
                };
                world.observed.certificates = Some([(Port::Clients, kept)].into());
            }
        })
    }

    #[test]
    fn clients_are_led_one_step_at_a_time_and_not_without_certificates() {
        use PlaintextClients::{Allow, Refuse};
        for (mode, plaintext, now, provided, expected) in [
            (TlsMode::Managed, Refuse, Plaintext, false, Plaintext),
            (TlsMode::Managed, Refuse, Plaintext, true, AnswersBoth),
            (TlsMode::Managed, Refuse, AnswersBoth, true, Tls),
            (TlsMode::Managed, Allow, AnswersBoth, true, AnswersBoth),
            (TlsMode::Disabled, Refuse, Tls, true, AnswersBoth),
            (TlsMode::Disabled, Refuse, AnswersBoth, false, Plaintext),
        ] {
            let plan = resting(mode, plaintext, now, provided).plan();
            assert_eq!(plan.client_traffic, Some(expected), "{mode:?} {plaintext:?} {now:?} {provided}");
            let settles = now == ClientTraffic::wanted(mode, plaintext, now);
            let moves = plan.activity.as_ref().is_some_and(|a| a.reason == ActivityReason::SecuringClients);
            assert_eq!(moves, !settles, "{:?}", plan.activity);
        }
    }

    #[test]
    fn applications_are_told_what_every_member_understands() {
        for (mode, now, pods, expected) in [
            (TlsMode::Managed, Plaintext, vec![Plaintext; 3], false),
            (TlsMode::Managed, AnswersBoth, vec![AnswersBoth, AnswersBoth, Plaintext], false),
            (TlsMode::Managed, AnswersBoth, vec![AnswersBoth; 3], true),
            (TlsMode::Managed, Tls, vec![AnswersBoth, Tls], true),
            (TlsMode::Managed, Tls, vec![], true),
            (TlsMode::Managed, AnswersBoth, vec![Tls, AnswersBoth], true),
            (TlsMode::Disabled, Tls, vec![Tls; 3], true),
            (TlsMode::Disabled, AnswersBoth, vec![AnswersBoth, Tls], true),
            (TlsMode::Disabled, AnswersBoth, vec![AnswersBoth; 3], false),
            (TlsMode::Disabled, Plaintext, vec![AnswersBoth, Plaintext], false),
            (TlsMode::Disabled, Plaintext, vec![], false),
        ] {
            let found = tells_tls(mode, now, pods.iter().copied());
            assert_eq!(found, expected, "{mode:?} {now:?} {pods:?}");
        }
    }
}
