//! How certificates are handed to members and exchanged: each step only after every member has loaded the one before.
//!
//! An authority that takes another one's place is first trusted beside it; then certificates are of the new one; then the
//! old one is trusted no more. It is the same whoever makes the certificates, and whether one authority follows another
//! of the same kind or of another. Pure.

use super::pki::{AUTHORITY_RENEWAL_DAYS, DAY, Fingerprint, Leaf, Names};
use crate::crd::Port;
use client::admin::PortCertificates;
use std::collections::{BTreeMap, BTreeSet};

/// Name of the one certificate that all members show to clients.
pub const SHARED: &str = "tls";

/// For so many days before the members' certificates end nobody is waited for any more.
const LAST_DAYS: i64 = 7;

/// What is there for a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// What its certificates are to be made of.
    pub offer: Offer,
    /// What members have.
    pub handed: Option<Handed>,
}

/// What certificates are to be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing: the port is on its way to no TLS, and what members have stays until they do not use it.
    Withdrawn,
    /// The cluster's own authority, which there is not yet.
    Nobody,
    /// The cluster's own authority.
    Own {
        /// Which.
        authority: Fingerprint,
        /// Until when it is good, in seconds since 1970.
        not_after: i64,
        /// The wish for another one that it answered.
        rotated: Option<String>,
    },
    /// A certificate that somebody else made.
    Given {
        /// Who are to be trusted.
        authorities: BTreeSet<Fingerprint>,
        /// The certificate.
        leaf: Leaf,
    },
    /// There is none that can be used.
    Lacking(Lack),
}

/// Why there is no certificate that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// For programs.
    pub reason: &'static str,
    /// For people: what is wrong and what to do.
    pub message: String,
}

/// What members have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Who is trusted.
    pub trusted: BTreeSet<Fingerprint>,
    /// Whose the certificates are.
    pub issuers: BTreeSet<Fingerprint>,
    /// Since when all of the trusted are, in seconds since 1970.
    pub since: i64,
    /// The certificates: by member, or the one that is [`SHARED`].
    pub leaves: BTreeMap<String, Leaf>,
}

impl Handed {
    /// When the first certificate ends.
    pub fn not_after(&self) -> Option<i64> {
        self.leaves.values().map(|leaf| leaf.not_after).min()
    }
}

/// What is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of which port.
    pub port: Port,
    /// Which certificates there are to be, and what each is for.
    pub names: BTreeMap<String, BTreeSet<String>>,
    /// Whether members use them.
    pub in_use: bool,
    /// A wish for another authority.
    pub rotate: Option<String>,
    /// For how long clients are given time to trust another authority, in seconds.
    pub overlap: i64,
}

/// What a member says of the port.
pub type Told<'a> = (&'a str, Option<&'a PortCertificates>);

/// What is next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// What to write.
    pub write: Option<Write>,
    /// What to wait for.
    pub waits: Option<Waits>,
}

/// A change of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new authority.
    Mint,
    /// Certificates of the authorities that are offered, and nobody else is trusted.
    Begin,
    /// The authorities that are offered are trusted too.
    Trust,
    /// Certificates of the authorities that are offered, where those that there are will not do.
    Issue,
    /// Nobody but the authorities that are offered is trusted.
    Settle,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Until these members trust the authorities that are offered.
    ForTrust(Vec<String>),
    /// Until clients had time to do so, in seconds since 1970.
    Until(i64),
    /// Until these members show the certificates that were handed to them.
    ForLeaves(Vec<String>),
}

impl Next {
    fn write(write: Write) -> Self {
        Self { write: Some(write), waits: None }
    }

    fn wait(waits: Waits) -> Self {
        Self { write: None, waits: Some(waits) }
    }
}

/// What is next for a port, whose members are `members`.
pub fn next(wanted: &Wanted, view: &PortView, members: &[Told<'_>], now: i64) -> Next {
    let authorities = match &view.offer {
        Offer::Withdrawn | Offer::Lacking(_) => return Next::default(),
        Offer::Nobody => return Next::write(Write::Mint),
        Offer::Own { authority, .. } => BTreeSet::from([authority.clone()]),
        Offer::Given { authorities, .. } => authorities.clone(),
    };
    let Some(handed) = &view.handed else { return Next::write(Write::Begin) };
    let settled = handed.issuers == authorities && handed.trusted == authorities;
    if !wanted.in_use && !settled {
        return Next::write(Write::Begin);
    }
    if !authorities.is_subset(&handed.trusted) {
        return Next::write(Write::Trust);
    }
    if handed.issuers != authorities {
        return after_trust(wanted, handed, &authorities, members, now);
    }
    if is_due(wanted, &view.offer, handed, now) {
        return Next::write(Write::Issue);
    }
    if !settled {
        let elsewhere = without(members, |name, told| shows(wanted.port, handed, name, told));
        return match elsewhere.is_empty() {
            true => Next::write(Write::Settle),
            false => Next::wait(Waits::ForLeaves(elsewhere)),
        };
    }
    if is_to_rotate(wanted, &view.offer, now) { Next::write(Write::Mint) } else { Next::default() }
}

/// Members verify each other, and say whom they trust. Clients say nothing: they are given time, but no more than the
/// certificate has that is still shown.
fn after_trust(
    wanted: &Wanted,
    handed: &Handed,
    authorities: &BTreeSet<Fingerprint>,
    members: &[Told<'_>],
    now: i64,
) -> Next {
    match wanted.port {
        Port::Peers => {
            let trusts = |_: &str, told: &PortCertificates| {
                authorities.iter().all(|authority| told.authorities.contains(authority))
            };
            // Those that have it are not to be without certificates because one of them does not say so.
            let ends = handed.not_after().unwrap_or_default() - LAST_DAYS * DAY;
            match without(members, trusts) {
                waiting if !waiting.is_empty() && now < ends => Next::wait(Waits::ForTrust(waiting)),
                _ => Next::write(Write::Issue),
            }
        }
        Port::Clients => {
            let ends = handed.not_after().unwrap_or_default() - DAY;
            let until = handed.since.saturating_add(wanted.overlap).min(ends);
            if now < until { Next::wait(Waits::Until(until)) } else { Next::write(Write::Issue) }
        }
    }
}

/// Members that do not say so. One that says nothing does not.
fn without(members: &[Told<'_>], does: impl Fn(&str, &PortCertificates) -> bool) -> Vec<String> {
    let not = members.iter().filter(|(name, told)| !told.is_some_and(|told| does(name, told)));
    not.map(|(name, _)| (*name).to_owned()).collect()
}

fn shows(port: Port, handed: &Handed, member: &str, told: &PortCertificates) -> bool {
    let leaf = match port {
        Port::Peers => handed.leaves.get(member),
        Port::Clients => handed.leaves.get(SHARED),
    };
    leaf.is_some_and(|leaf| leaf.fingerprint == told.certificate)
}

/// Whether a certificate of the right authority has to be made anew, or there is a newer one.
fn is_due(wanted: &Wanted, offer: &Offer, handed: &Handed, now: i64) -> bool {
    wanted.names.iter().any(|(called, names)| {
        let Some(leaf) = handed.leaves.get(called) else { return true };
        match offer {
            Offer::Given { leaf: given, .. } => leaf.fingerprint != given.fingerprint,
            _ => !still_good(leaf, names, now),
        }
    })
}

/// Whether a certificate of the cluster's own authority can stay as it is.
pub fn still_good(leaf: &Leaf, names: &BTreeSet<String>, now: i64) -> bool {
    leaf.names == Names::of(names) && leaf.lasts(now)
}

fn is_to_rotate(wanted: &Wanted, offer: &Offer, now: i64) -> bool {
    let Offer::Own { not_after, rotated, .. } = offer else { return false };
    let asked = wanted.rotate.is_some() && wanted.rotate != *rotated;
    asked || not_after - now < AUTHORITY_RENEWAL_DAYS * DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn leaf(fingerprint: &str) -> Leaf {
        Leaf {
            fingerprint: fingerprint.into(),
            not_before: NOW,
            not_after: NOW + 90 * DAY,
            names: Names::of(&set(&["n"])),
        }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn wanted(port: Port) -> Wanted {
        let called: &[&str] = if port == Port::Peers { &["m-0", "m-1"] } else { &[SHARED] };
        Wanted {
            port,
            names: called.iter().map(|called| ((*called).to_owned(), set(&["n"]))).collect(),
            in_use: true,
            rotate: None,
            overlap: 3600,
        }
    }

    fn own(authority: &str) -> Offer {
        Offer::Own { authority: authority.into(), not_after: NOW + 3650 * DAY, rotated: None }
    }

    /// Certificates of `issuer`, named after it and who has them.
    fn handed(port: Port, trusted: &[&str], issuer: &str) -> Handed {
        let leaves = wanted(port).names.into_keys().map(|called| {
            let fingerprint = format!("{issuer}/{called}");
            (called, leaf(&fingerprint))
        });
        Handed { trusted: set(trusted), issuers: set(&[issuer]), since: NOW, leaves: leaves.collect() }
    }

    fn told(certificate: &str, authorities: &[&str]) -> PortCertificates {
        let authorities = authorities.iter().map(|a| (*a).to_owned()).collect();
        PortCertificates { certificate: certificate.into(), not_after: 0, authorities }
    }

    #[test]
    fn an_authority_of_members_is_exchanged_step_by_step() {
        let wait = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (both, old, new) = (&["a", "b"][..], &["a"][..], &["b"][..]);
        let on = |issuer: &str, of: &str, trusted: &[&str]| told(&format!("{issuer}/{of}"), trusted);
        for (what, trusted, issuer, first, second, expected) in [
            ("it is new", old, "a", on("a", "m-0", old), on("a", "m-1", old), Next::write(Write::Trust)),
            (
                "one trusts it",
                both,
                "a",
                on("a", "m-0", both),
                on("a", "m-1", old),
                Next::wait(Waits::ForTrust(wait(&["m-1"]))),
            ),
            (
                "all trust it",
                both,
                "a",
                on("a", "m-0", both),
                on("a", "m-1", both),
                Next::write(Write::Issue),
            ),
            (
                "nobody shows its certificates",
                both,
                "b",
                on("a", "m-0", both),
                on("a", "m-1", both),
                Next::wait(Waits::ForLeaves(wait(&["m-0", "m-1"]))),
            ),
            (
                "all show them",
                both,
                "b",
                on("b", "m-0", both),
                on("b", "m-1", both),
                Next::write(Write::Settle),
            ),
            ("it is over", new, "b", on("b", "m-0", both), on("b", "m-1", both), Next::default()),
        ] {
            let view = PortView { offer: own("b"), handed: Some(handed(Port::Peers, trusted, issuer)) };
            let members = [("m-0", Some(&first)), ("m-1", Some(&second))];
            assert_eq!(next(&wanted(Port::Peers), &view, &members, NOW), expected, "{what}");
        }
    }

    #[test]
    fn who_says_nothing_is_waited_for() {
        let view = PortView { offer: own("b"), handed: Some(handed(Port::Peers, &["a", "b"], "a")) };
        let found = next(&wanted(Port::Peers), &view, &[("m-0", None)], NOW);
        assert_eq!(found, Next::wait(Waits::ForTrust(vec!["m-0".into()])));
        assert_eq!(next(&wanted(Port::Peers), &view, &[], NOW), Next::write(Write::Issue), "nobody is there");
    }

    #[test]
    fn clients_are_given_time() {
        let view = PortView { offer: own("b"), handed: Some(handed(Port::Clients, &["a", "b"], "a")) };
        let shows = told("a/tls", &[]);
        let members = [("m-0", Some(&shows))];
        let until = NOW + 3600;
        for (now, expected) in [(NOW, Next::wait(Waits::Until(until))), (until, Next::write(Write::Issue))] {
            assert_eq!(next(&wanted(Port::Clients), &view, &members, now), expected);
        }
        let long = Wanted { overlap: i64::MAX, ..wanted(Port::Clients) };
        let ends = NOW + 89 * DAY;
        assert_eq!(next(&long, &view, &members, NOW), Next::wait(Waits::Until(ends)), "as long as it lasts");
        let view = PortView { offer: own("b"), handed: Some(handed(Port::Clients, &["a", "b"], "b")) };
        let waits = Waits::ForLeaves(vec!["m-0".into()]);
        assert_eq!(next(&wanted(Port::Clients), &view, &members, until), Next::wait(waits));
    }

    #[test]
    fn what_is_not_used_is_exchanged_at_once() {
        let view = PortView { offer: own("b"), handed: Some(handed(Port::Clients, &["a"], "a")) };
        let idle = Wanted { in_use: false, ..wanted(Port::Clients) };
        assert_eq!(next(&idle, &view, &[], NOW), Next::write(Write::Begin));
        assert_eq!(next(&idle, &PortView { handed: None, ..view }, &[], NOW), Next::write(Write::Begin));
    }

    #[test]
    fn certificates_are_renewed_and_follow_their_names() {
        let view = |offer| PortView { offer, handed: Some(handed(Port::Peers, &["a"], "a")) };
        let at_rest = wanted(Port::Peers);
        let renamed = Wanted { names: BTreeMap::from([("m-0".to_owned(), set(&["o"]))]), ..at_rest.clone() };
        let grown = Wanted { names: BTreeMap::from([("m-2".to_owned(), set(&["n"]))]), ..at_rest.clone() };
        let given = |fingerprint: &str| Offer::Given { authorities: set(&["a"]), leaf: leaf(fingerprint) };
        let withdrawn = || Offer::Lacking(Lack { reason: "SecretMissing", message: String::new() });
        let issue = || Next::write(Write::Issue);
        for (what, wanted, offer, now, expected) in [
            ("at rest", &at_rest, own("a"), NOW, Next::default()),
            ("old", &at_rest, own("a"), NOW + 61 * DAY, issue()),
            ("renamed", &renamed, own("a"), NOW, issue()),
            ("grown", &grown, own("a"), NOW, issue()),
            ("another of the same authority", &at_rest, given("other"), NOW, issue()),
            ("nothing to be had", &renamed, withdrawn(), NOW + 61 * DAY, Next::default()),
            ("withdrawn", &renamed, Offer::Withdrawn, NOW + 61 * DAY, Next::default()),
            ("no authority", &at_rest, Offer::Nobody, NOW, Next::write(Write::Mint)),
        ] {
            assert_eq!(next(wanted, &view(offer), &[], now), expected, "{what}");
        }
    }

    #[test]
    fn an_authority_gives_way_by_age_and_by_wish() {
        let with = |not_after: i64, rotated: Option<&str>| PortView {
            offer: Offer::Own { authority: "a".into(), not_after, rotated: rotated.map(str::to_owned) },
            handed: Some(handed(Port::Peers, &["a"], "a")),
        };
        let far = NOW + 3650 * DAY;
        for (what, rotate, view, expected) in [
            ("at rest", None, with(far, None), None),
            ("old", None, with(NOW + 364 * DAY, None), Some(Write::Mint)),
            ("wished for", Some("now"), with(far, Some("before")), Some(Write::Mint)),
            ("answered", Some("now"), with(far, Some("now")), None),
            ("taken back", None, with(far, Some("now")), None),
        ] {
            let wanted = Wanted { rotate: rotate.map(str::to_owned), ..wanted(Port::Peers) };
            assert_eq!(next(&wanted, &view, &[], NOW).write, expected, "{what}");
        }
        let wanted = Wanted { rotate: Some("again".into()), ..wanted(Port::Peers) };
        let under_way = PortView { handed: Some(handed(Port::Peers, &["a", "z"], "a")), ..with(far, None) };
        assert_eq!(next(&wanted, &under_way, &[], NOW), Next::write(Write::Settle), "one after the other");
    }

    #[test]
    fn nobody_is_waited_for_until_certificates_end() {
        let (both, old) = (&["a", "b"][..], &["a"][..]);
        let view = PortView { offer: own("b"), handed: Some(handed(Port::Peers, both, "a")) };
        let first = told("a/m-0", both);
        let second = told("a/m-1", old);
        let members = [("m-0", Some(&first)), ("m-1", Some(&second))];
        let at = |day: i64| next(&wanted(Port::Peers), &view, &members, NOW + day * DAY);
        assert_eq!(at(82).waits, Some(Waits::ForTrust(vec!["m-1".into()])));
        assert_eq!(at(83), Next::write(Write::Issue));
    }
}
