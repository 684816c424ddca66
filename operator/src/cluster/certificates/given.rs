//! Certificates that somebody else makes: in a Secret of the user's, or by cert-manager. They are looked at before members
//! get them, so that what does not fit is told of and not handed on.

use super::exchange::Lack;
use super::pki::{Fingerprint, Leaf, Pair, authorities};
use crate::crd::{IssuerRef, Port};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Keys of a Secret with a certificate, as Kubernetes and cert-manager name them.
pub const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub const KEY: &str = "tls.key";
/// Who signed it.
pub const AUTHORITIES: &str = "ca.crt";

/// A certificate that fits.
#[derive(Clone)]
pub struct Given {
    /// The chain and its key.
    pub pair: Pair,
    /// Who are to be trusted, as PEM.
    pub authorities: BTreeMap<Fingerprint, String>,
    /// What the certificate says.
    pub leaf: Leaf,
}

fn lack(reason: &'static str, message: String) -> Lack {
    Lack { reason, message }
}

/// What is in `called`, if it fits: signed by its own authorities, good now, for all of `names`, with its own key.
pub fn look(
    called: &str,
    data: &BTreeMap<String, String>,
    port: Port,
    names: &BTreeSet<String>,
    now: i64,
) -> Result<Given, Lack> {
    let entry = |key: &str| {
        let missing = || {
            lack(
                "SecretIncomplete",
                format!("{called} has no {key}: it needs {CERTIFICATE}, {KEY} and {AUTHORITIES}"),
            )
        };
        data.get(key).filter(|text| !text.trim().is_empty()).cloned().ok_or_else(missing)
    };
    let pair = Pair { certificate: entry(CERTIFICATE)?, key: entry(KEY)? };
    let invalid = |what: String| lack("CertificateInvalid", format!("{called}: {what}"));
    let authorities = authorities(&entry(AUTHORITIES)?)
        .ok_or_else(|| invalid(format!("{AUTHORITIES} holds no certificates (PEM)")))?;
    let leaf = Leaf::read(&pair.certificate)
        .ok_or_else(|| invalid(format!("{CERTIFICATE} holds no certificate (PEM)")))?;
    verify(&pair, &authorities, port, names, now).map_err(|wrong| match wrong {
        Wrong::Expired => lack(
            "CertificateExpired",
            format!("{called}: the certificate is not good at this time: renew it"),
        ),
        Wrong::NotFor(name) => invalid(format!("the certificate is not for {name}: have one made that is")),
        Wrong::Other(message) => invalid(message),
    })?;
    Ok(Given { pair, authorities, leaf })
}

/// What is wrong with a certificate.
enum Wrong {
    Expired,
    NotFor(String),
    Other(String),
}

fn verify(
    pair: &Pair,
    authorities: &BTreeMap<Fingerprint, String>,
    port: Port,
    names: &BTreeSet<String>,
    now: i64,
) -> Result<(), Wrong> {
    let other = |error: &dyn std::fmt::Display| Wrong::Other(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect();
    let chain = chain.map_err(|error| other(&error))?;
    // The library's message names no content.
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
        .map_err(|_| Wrong::Other(format!("{KEY} holds no key (PEM)")))?;
    CertifiedKey::from_der(chain.clone(), key, &provider)
        .map_err(|error| Wrong::Other(format!("certificate and key do not belong together: {error}")))?;
    let mut roots = RootCertStore::empty();
    for pem in authorities.values() {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| other(&error))?;
        roots.add(der).map_err(|error| other(&error))?;
    }
    let roots = Arc::new(roots);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(Wrong::Other(format!("{CERTIFICATE} holds no certificate (PEM)")));
    };
    let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| other(&error))?;
    for name in names {
        let expected = ServerName::try_from(name.as_str()).map_err(|error| other(&error))?;
        server
            .verify_server_cert(leaf, intermediates, &expected, &[], now)
            .map_err(|error| explain(&error, name))?;
    }
    if port == Port::Peers {
        let client = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| other(&error))?;
        client.verify_client_cert(leaf, intermediates, now).map_err(|error| match &error {
            rustls::Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => Wrong::Other(
                "the certificate is not for clients too, as members are of each other: add that usage".into(),
            ),
            _ => explain(&error, "members"),
        })?;
    }
    Ok(())
}

fn explain(error: &rustls::Error, name: &str) -> Wrong {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
        UnknownIssuer,
    };
    match error {
        rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) => Wrong::Expired,
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            Wrong::NotFor(name.to_owned())
        }
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            Wrong::Other(format!("the certificate is not signed by an authority in {AUTHORITIES}"))
        }
        error => Wrong::Other(error.to_string()),
    }
}

/// What cert-manager is asked for.
pub fn request(port: Port, secret: &str, issuer: &IssuerRef, names: &BTreeSet<String>) -> Value {
    let usages: &[&str] = match port {
        Port::Peers => &["digital signature", "server auth", "client auth"],
        Port::Clients => &["digital signature", "server auth"],
    };
    json!({
        "secretName": secret,
        "dnsNames": names,
        "usages": usages,
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
    })
}

/// Whether cert-manager was asked for this: it adds fields of its own.
pub fn is_asked(found: &Value, wanted: &Value) -> bool {
    let wanted = wanted.as_object().into_iter().flatten();
    wanted.into_iter().all(|(field, value)| match value {
        Value::Object(_) => is_asked(&found[field], value),
        _ => found[field] == *value,
    })
}

/// Why a Certificate of cert-manager is not there yet.
pub fn not_ready(name: &str, object: &Value) -> Lack {
    let conditions = object["status"]["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
    let message = ready.and_then(|ready| ready["message"].as_str()).filter(|message| !message.is_empty());
    let message = message.unwrap_or("cert-manager has not looked at it yet");
    lack("CertificateNotReady", format!("Certificate {name} is not ready: {message}"))
}

#[cfg(test)]
mod tests {
    use super::super::pki::{DAY, Names, Signer, mint};
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn secret(certificate: &str, key: &str, ca: &str) -> BTreeMap<String, String> {
        [(CERTIFICATE, certificate), (KEY, key), (AUTHORITIES, ca)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn what_does_not_fit_is_told_of() {
        let (authority, stranger) = (mint("a", NOW).unwrap(), mint("b", NOW).unwrap());
        let signer = Signer::new(&authority).unwrap();
        let named = set(&["*.orders-nodes.shop.svc", "orders-rw.shop.svc"]);
        let pair = signer.issue(Port::Peers, &named, NOW).unwrap();
        let server_only = signer.issue(Port::Clients, &named, NOW).unwrap();
        let wanted = set(&["orders-0.orders-nodes.shop.svc", "orders-rw.shop.svc"]);
        let of = |pair: &Pair, ca: &str| secret(&pair.certificate, &pair.key, ca);
        let fits = of(&pair, &authority.certificate);
        let given = look("Secret mine", &fits, Port::Peers, &wanted, NOW).map_err(|l| l.message).unwrap();
        assert_eq!((given.authorities.len(), given.leaf.names), (1, Names::of(&named)));
        let mixed = secret(&pair.certificate, &server_only.key, &authority.certificate);
        let elsewhere = set(&["other-rw.shop.svc"]);
        for (what, data, port, names, now, reason, word) in [
            ("empty", BTreeMap::new(), Port::Clients, &wanted, NOW, "SecretIncomplete", "tls.crt"),
            ("no authority", of(&pair, ""), Port::Clients, &wanted, NOW, "SecretIncomplete", "ca.crt"),
            ("nonsense", of(&pair, "nonsense"), Port::Clients, &wanted, NOW, "CertificateInvalid", "ca.crt"),
            (
                "strange",
                of(&pair, &stranger.certificate),
                Port::Clients,
                &wanted,
                NOW,
                "CertificateInvalid",
                "signed",
            ),
            ("another key", mixed, Port::Clients, &wanted, NOW, "CertificateInvalid", "belong together"),
            ("another name", fits.clone(), Port::Clients, &elsewhere, NOW, "CertificateInvalid", "other-rw"),
            ("late", fits.clone(), Port::Clients, &wanted, NOW + 100 * DAY, "CertificateExpired", "renew"),
            ("early", fits.clone(), Port::Clients, &wanted, NOW - DAY, "CertificateExpired", "renew"),
            (
                "no client",
                of(&server_only, &authority.certificate),
                Port::Peers,
                &wanted,
                NOW,
                "CertificateInvalid",
                "usage",
            ),
        ] {
            let Err(lack) = look("Secret mine", &data, port, names, now) else { panic!("{what} fits") };
            assert_eq!(lack.reason, reason, "{what}: {}", lack.message);
            assert!(lack.message.contains(word), "{what}: {}", lack.message);
        }
    }

    #[test]
    fn what_was_asked_for_is_recognised() {
        let issuer = IssuerRef { name: "ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        let wanted = request(Port::Clients, "s", &issuer, &set(&["a", "b"]));
        let mut found = wanted.clone();
        found["revisionHistoryLimit"] = json!(1);
        found["privateKey"]["encoding"] = json!("PKCS1");
        assert!(is_asked(&found, &wanted));
        found["dnsNames"] = json!(["a"]);
        assert!(!is_asked(&found, &wanted));
        let message =
            not_ready("c", &json!({"status": {"conditions": [{"type": "Ready", "message": "no issuer"}]}}));
        assert!(message.message.contains("no issuer"));
        assert!(not_ready("c", &json!({})).message.contains("not looked"));
    }
}
