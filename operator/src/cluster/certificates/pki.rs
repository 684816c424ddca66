//! Certificates as they are made and read. No network; chance only in keys.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::crd::Port;

/// A day in seconds.
pub const DAY: i64 = 86_400;
/// For how long a certificate that the operator makes is good.
const LEAF_DAYS: i64 = 90;
/// How long before its end it is renewed.
const RENEWAL_DAYS: i64 = 30;
/// For how long an authority is good.
const AUTHORITY_DAYS: i64 = 3650;
/// How long before its end another one takes its place: no certificate may outlive who signed it.
pub const AUTHORITY_RENEWAL_DAYS: i64 = 365;
/// Clocks differ.
const SKEW_SECONDS: i64 = 3600;

/// SHA-256 of a certificate in its DER form, in hexadecimal digits: as members name it in their reports.
pub type Fingerprint = String;

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// The chain, the own one first.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Signs certificates.
pub struct Signer(Issuer<'static, KeyPair>);

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// What names it.
    pub fingerprint: Fingerprint,
    /// From when on it is good, in seconds since 1970.
    pub not_before: i64,
    /// Until when, likewise.
    pub not_after: i64,
    /// What it is for.
    pub names: Names,
}

/// DNS names and addresses that a certificate is for, as their digest: they are only ever compared, and a cluster has
/// hundreds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names([u8; 32]);

impl Names {
    /// These.
    pub fn of(names: &BTreeSet<String>) -> Self {
        let mut digest = Sha256::new();
        for name in names {
            digest.update(name);
            digest.update([0]);
        }
        Self(digest.finalize().into())
    }
}

impl Leaf {
    /// The first certificate of a chain; none if there is none that can be read.
    pub fn read(pem: &str) -> Option<Self> {
        Self::of(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
    }

    fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let alternatives = parsed.subject_alternative_name().ok()?;
        let names = alternatives.map(|names| names.value.general_names.iter().filter_map(text).collect());
        let names: BTreeSet<String> = names.unwrap_or_default();
        Some(Self {
            fingerprint: fingerprint(der),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            names: Names::of(&names),
        })
    }

    /// Whether it is good for long enough not to be renewed.
    pub fn lasts(&self, now: i64) -> bool {
        self.not_after - now > RENEWAL_DAYS * DAY
    }

    /// Whether it ends so soon that whoever should have renewed it did not: in the last fifth of its time, or week.
    pub fn ends_soon(&self, now: i64) -> bool {
        let margin = ((self.not_after - self.not_before) / 5).min(7 * DAY);
        self.not_after - now < margin
    }
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn fingerprint(der: &[u8]) -> Fingerprint {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The certificates of a file of authorities, each by what names it; none if one of them makes no sense.
pub fn authorities(pem: &str) -> Option<BTreeMap<Fingerprint, String>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = BTreeMap::new();
    for rest in pem.split(BEGIN).skip(1) {
        let (body, _) = rest.split_once(END)?;
        let one = format!("{BEGIN}{body}{END}\n");
        let leaf = Leaf::read(&one)?;
        found.insert(leaf.fingerprint, one);
    }
    (!found.is_empty()).then_some(found)
}

/// A new authority.
pub fn mint(common_name: &str, now: i64) -> Result<Pair, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (at(now - SKEW_SECONDS), at(now + AUTHORITY_DAYS * DAY));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

impl Signer {
    /// By the authority's certificate and key.
    pub fn new(authority: &Pair) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(&authority.key)?;
        Issuer::from_ca_cert_pem(&authority.certificate, key).map(Self)
    }

    /// A certificate for `names`, by which its holder is called on `port`, and calls others where those ask for one.
    pub fn issue(&self, port: Port, names: &BTreeSet<String>, now: i64) -> Result<Pair, rcgen::Error> {
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        // Names of pods may be longer than a common name can be: the others say it all.
        params.distinguished_name.push(DnType::CommonName, "member");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if port == Port::Peers {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        (params.not_before, params.not_after) = (at(now - SKEW_SECONDS), at(now + LEAF_DAYS * DAY));
        // Strict clients, as Python's are by now, ask for it.
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn issued(port: Port) -> (Pair, Pair, Leaf) {
        let authority = mint("members of shop/orders", NOW).unwrap();
        let names = ["*.orders-nodes.shop.svc", "localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        let pair = Signer::new(&authority).unwrap().issue(port, &names, NOW).unwrap();
        let leaf = Leaf::read(&pair.certificate).unwrap();
        assert_eq!(leaf.names, Names::of(&names));
        (authority, pair, leaf)
    }

    #[test]
    fn a_certificate_is_renewed_a_month_before_its_end() {
        let (_, _, leaf) = issued(Port::Peers);
        for (days, lasts, ends_soon) in
            [(0, true, false), (59, true, false), (61, false, false), (84, false, true)]
        {
            let now = NOW + days * DAY;
            assert_eq!((leaf.lasts(now), leaf.ends_soon(now)), (lasts, ends_soon), "after {days} days");
        }
        assert_eq!(Leaf::read("nonsense"), None);
    }

    #[test]
    fn a_short_lived_certificate_is_not_always_about_to_end() {
        let leaf = Leaf {
            fingerprint: "f".into(),
            not_before: 0,
            not_after: 10 * 3600,
            names: Names::of(&BTreeSet::new()),
        };
        for (hour, expected) in [(0, false), (7, false), (9, true)] {
            assert_eq!(leaf.ends_soon(hour * 3600), expected, "after {hour} h");
        }
    }

    #[test]
    fn authorities_are_taken_apart_and_put_together() {
        let (first, second) = (mint("a", NOW).unwrap(), mint("b", NOW).unwrap());
        let both = format!("what this is\n{}{}", first.certificate, second.certificate);
        let found = authorities(&both).unwrap();
        assert_eq!(found.len(), 2);
        let again: String = found.values().cloned().collect();
        assert_eq!(authorities(&again).unwrap(), found);
        for nonsense in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"] {
            assert_eq!(authorities(nonsense), None, "{nonsense}");
        }
    }
}
