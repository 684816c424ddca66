//! Which certificates there are to be, and for which names. Pure.

use super::exchange::{SHARED, Wanted};
use crate::cluster::validate::Desired;
use crate::crd::{ClientTraffic, PeerTraffic, Port};
use crate::names::{ClusterName, PodRole};
use std::collections::{BTreeMap, BTreeSet};

/// Voters that there may be: seven, and those that stand in for lost ones.
const VOTERS: usize = 10;
/// Read replicas are provided for in groups of this size.
const REPLICAS: usize = 8;

/// What is to be for a port.
pub fn wanted(desired: &Desired, port: Port) -> Wanted {
    let names = match port {
        Port::Peers => {
            members(desired).into_iter().map(|m| (m.clone(), member_names(&desired.name, &m))).collect()
        }
        Port::Clients => BTreeMap::from([(SHARED.to_owned(), client_names(desired))]),
    };
    let in_use = match port {
        Port::Peers => desired.peer_traffic != PeerTraffic::Plaintext,
        Port::Clients => desired.client_traffic != ClientTraffic::Plaintext,
    };
    Wanted {
        port,
        names,
        in_use,
        rotate: desired.rotate_certificates.clone(),
        overlap: i64::from(desired.spec.security.rotation_overlap_seconds),
    }
}

/// Members that there may be soon: more than there are, so that one that is added finds its certificate at once.
fn members(desired: &Desired) -> Vec<String> {
    let replicas = desired.read_replicas.div_ceil(REPLICAS).max(1) * REPLICAS;
    let of = |role, count| (0..count).map(move |ordinal| desired.name.member(role, ordinal));
    of(PodRole::Voter, VOTERS).chain(of(PodRole::ReadReplica, replicas)).collect()
}

/// What a member is called where it is called by others: the name of its pod in the headless Service.
fn member_names(name: &ClusterName, member: &str) -> BTreeSet<String> {
    let host = format!("{member}.{}.{}.svc", name.nodes_service(), name.namespace);
    [format!("{host}.cluster.local"), host].into()
}

/// What clients call members: every Service in each form of its name, each member by the headless one, and what leads to a
/// member through a tunnel.
fn client_names(desired: &Desired) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(dns_names(desired));
    names
}

fn dns_names(desired: &Desired) -> BTreeSet<String> {
    let (name, namespace) = (&desired.name, &desired.name.namespace);
    let nodes = name.nodes_service();
    let services = desired.spec.services.iter().map(|service| name.service(&service.name));
    let forms = |service: String| {
        ["", ".NS", ".NS.svc", ".NS.svc.cluster.local"]
            .map(|form| format!("{service}{}", form.replace("NS", namespace)))
    };
    let each = [format!("*.{nodes}.{namespace}.svc"), format!("*.{nodes}.{namespace}.svc.cluster.local")];
    let further = desired.spec.security.tls.client_names.iter().cloned();
    services.chain([nodes]).flat_map(forms).chain(each).chain(further).collect()
}

/// What somebody else's certificate must be for, or it is not handed to members.
pub fn required(desired: &Desired, port: Port) -> BTreeSet<String> {
    let name = &desired.name;
    match port {
        Port::Peers => {
            let of = |role| (0..desired.members(role)).map(move |ordinal| name.member(role, ordinal));
            let members = PodRole::ALL.into_iter().flat_map(of);
            members
                .map(|member| format!("{member}.{}.{}.svc", name.nodes_service(), name.namespace))
                .collect()
        }
        Port::Clients => [name.tls_name(), desired.application_host()].into(),
    }
}

/// What an issuer of cert-manager is asked for: one certificate for all members. Addresses are left out, which many refuse.
pub fn to_be_issued(desired: &Desired, port: Port) -> BTreeSet<String> {
    match port {
        Port::Peers => member_names(&desired.name, "*"),
        Port::Clients => dns_names(desired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::desired;

    #[test]
    fn clients_may_use_every_name_that_leads_to_a_member() {
        let desired = desired(|spec| spec.security.tls.client_names = vec!["db.example.com".into()]);
        let wanted = wanted(&desired, Port::Clients);
        let names = &wanted.names[SHARED];
        for name in [
            "orders-rw",
            "orders-ro.shop",
            "orders-any.shop.svc",
            "orders-nodes.shop.svc.cluster.local",
            "*.orders-nodes.shop.svc",
            "localhost",
            "127.0.0.1",
            "::1",
            "db.example.com",
        ] {
            assert!(names.contains(name), "{name} in {names:?}");
        }
        let asked = to_be_issued(&desired, Port::Clients);
        assert!(asked.contains("db.example.com") && !asked.contains("127.0.0.1"), "{asked:?}");
        assert_eq!(
            required(&desired, Port::Clients),
            ["orders-nodes.shop.svc", "orders-rw.shop.svc"].map(str::to_owned).into()
        );
    }

    #[test]
    fn members_find_their_certificates_before_they_are_there() {
        let desired = desired(|spec| spec.read_replicas = 9);
        let wanted = wanted(&desired, Port::Peers);
        assert_eq!(wanted.names.len(), 10 + 16);
        assert!(wanted.names["orders-0"].contains("orders-0.orders-nodes.shop.svc"));
        assert_eq!(required(&desired, Port::Peers).len(), 3 + 9);
        assert!(to_be_issued(&desired, Port::Peers).contains("*.orders-nodes.shop.svc"));
    }
}
