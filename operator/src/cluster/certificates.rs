//! Certificates of the members: an authority for each cluster, and a certificate for each member that there may be.
//!
//! They are made before the pods that mount them, for some members more than there are, so that a member that is added
//! finds its own at once, and renewed while they are good for a month still; the members read them anew by themselves.
//! The authority's key is in a Secret that no pod mounts.

use super::build::{owner, secret};
use super::secrets::{SecretError, Secrets};
use super::validate::Desired;
use crate::clock;
use crate::context::Context;
use crate::crd::PeerTraffic;
use crate::names::{ClusterName, PodRole};
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// For how long a member's certificate is good.
const MEMBER_DAYS: i64 = 90;
/// How long before its end it is renewed.
const RENEWAL_DAYS: i64 = 30;
/// For how long the authority is good.
const AUTHORITY_DAYS: i64 = 3650;
/// Clocks differ.
const SKEW_SECONDS: i64 = 3600;
const DAY: i64 = 86_400;
/// Voters that there may be: seven, and those that stand in for lost ones.
const VOTERS: usize = 10;
/// Read replicas are provided for in groups of this size.
const REPLICAS: usize = 8;

const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";

/// Why the members have no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A Secret is not there.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A certificate could not be made or read.
    #[error("cannot make or read a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A certificate in a Secret cannot be read.
    #[error(
        "Secret {name} holds no authority: delete it, and a new one is made, which restarts no member but cuts them off from each other until each has read it"
    )]
    Damaged {
        /// Which.
        name: String,
    },
}

/// Sees to it that the members have certificates.
pub async fn provide(desired: &Desired, ctx: &Context) -> Result<(), CertificateError> {
    if desired.peer_traffic == PeerTraffic::Plaintext {
        return Ok(());
    }
    let replicas = desired.read_replicas.div_ceil(REPLICAS).max(1) * REPLICAS;
    if ctx.provided.get(&desired.name, &desired.uid).is_some_and(|provided| provided >= replicas) {
        return Ok(());
    }
    let secrets = Secrets::new(&ctx.client, &desired.name.namespace, owner(desired, true));
    let keeper = Keeper { secrets, desired };
    let authority = keeper.authority().await?;
    keeper.members(&authority, replicas).await?;
    ctx.provided.set(&desired.name, &desired.uid, replicas);
    Ok(())
}

/// Signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, both PEM.
struct Pair {
    certificate: String,
    key: String,
}

struct Keeper<'a> {
    secrets: Secrets,
    desired: &'a Desired,
}

impl Keeper<'_> {
    async fn authority(&self) -> Result<Authority, CertificateError> {
        let name = self.desired.name.authority_secret();
        let found = match self.secrets.get(&name).await? {
            Some(found) => found,
            None => {
                let made = mint(&self.desired.name, now())?;
                let data = [(AUTHORITY.to_owned(), made.certificate), (AUTHORITY_KEY.to_owned(), made.key)];
                self.secrets.create(&self.secret(&name, &data.into())).await?
            }
        };
        let damaged = || CertificateError::Damaged { name: name.clone() };
        let (pem, key) = text(&found, AUTHORITY).zip(text(&found, AUTHORITY_KEY)).ok_or_else(damaged)?;
        let issuer = KeyPair::from_pem(&key).and_then(|key| Issuer::from_ca_cert_pem(&pem, key));
        Ok(Authority { issuer: issuer.map_err(|_| damaged())?, pem })
    }

    async fn members(&self, authority: &Authority, replicas: usize) -> Result<(), CertificateError> {
        let name = &self.desired.name;
        let called = name.peer_secret();
        let found = self.secrets.get(&called).await?;
        let now = now();
        let mut data = BTreeMap::from([(AUTHORITY.to_owned(), authority.pem.clone())]);
        let voters = (0..VOTERS).map(|ordinal| name.member(PodRole::Voter, ordinal));
        for member in voters.chain((0..replicas).map(|ordinal| name.member(PodRole::ReadReplica, ordinal))) {
            let (certificate, key) = (format!("{member}.crt"), format!("{member}.key"));
            let kept = found.as_ref().and_then(|found| {
                let pair = Pair { certificate: text(found, &certificate)?, key: text(found, &key)? };
                let signed_now = text(found, AUTHORITY)? == authority.pem;
                (signed_now && lasts(&pair.certificate, now)).then_some(pair)
            });
            let pair = match kept {
                Some(pair) => pair,
                None => issue(authority, &member_names(name, &member), now)?,
            };
            data.insert(certificate, pair.certificate);
            data.insert(key, pair.key);
        }
        let secret = self.secret(&called, &data);
        if found.and_then(|found| found.data) != secret.data {
            tracing::info!(cluster = %name, "certificates of members are made or renewed");
            self.secrets.apply(&secret).await?;
        }
        Ok(())
    }

    fn secret(&self, called: &str, data: &BTreeMap<String, String>) -> Secret {
        secret::of(&self.desired.name, self.secrets.owner(), called, "certificates", data)
    }
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

fn now() -> i64 {
    clock::now().as_second()
}

/// What a member is called where it is called: the name of its pod in the headless Service.
fn member_names(name: &ClusterName, member: &str) -> Vec<String> {
    let host = format!("{member}.{}.{}.svc", name.nodes_service(), name.namespace);
    vec![format!("{host}.cluster.local"), host]
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn mint(name: &ClusterName, now: i64) -> Result<Pair, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("members of {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (at(now - SKEW_SECONDS), at(now + AUTHORITY_DAYS * DAY));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn issue(authority: &Authority, names: &[String], now: i64) -> Result<Pair, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    // Names of pods may be longer than a common name can be: the others say it all.
    params.distinguished_name.push(DnType::CommonName, "member");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (at(now - SKEW_SECONDS), at(now + MEMBER_DAYS * DAY));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Whether a certificate is good for long enough.
fn lasts(pem: &str, now: i64) -> bool {
    let parsed = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok();
    let ends =
        parsed.as_ref().and_then(|(_, pem)| Some(pem.parse_x509().ok()?.validity().not_after.timestamp()));
    ends.is_some_and(|ends| ends - now > RENEWAL_DAYS * DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_a_month_before_its_end() {
        let name = ClusterName::new("shop", "orders");
        let now = 1_800_000_000;
        let minted = mint(&name, now).unwrap();
        let issuer =
            Issuer::from_ca_cert_pem(&minted.certificate, KeyPair::from_pem(&minted.key).unwrap()).unwrap();
        let authority = Authority { pem: minted.certificate, issuer };
        let pair = issue(&authority, &member_names(&name, "orders-0"), now).unwrap();
        for (days, expected) in [(0, true), (59, true), (61, false), (100, false)] {
            assert_eq!(lasts(&pair.certificate, now + days * DAY), expected, "after {days} days");
        }
        assert!(!lasts("nonsense", now));
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes()).unwrap();
        let parsed = parsed.parse_x509().unwrap();
        let names = format!("{:?}", parsed.subject_alternative_name().unwrap().unwrap().value.general_names);
        assert!(names.contains("orders-0.orders-nodes.shop.svc.cluster.local"), "{names}");
    }
}
