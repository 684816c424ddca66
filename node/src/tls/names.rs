//! Whom a certificate names.

use super::refused;
use rustls::CommonState;
use rustls::pki_types::CertificateDer;
use std::io;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What is in a certificate that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Common name of the subject.
    pub common_name: Option<String>,
    /// DNS names it is for.
    pub dns: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

impl Names {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| e.to_string())?;
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let alternatives = parsed.subject_alternative_name().map_err(|e| e.to_string())?;
        let dns = alternatives.map_or_else(Vec::new, |names| {
            let dns = names.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            });
            dns.collect()
        });
        Ok(Self {
            common_name: common_name.map(str::to_owned),
            dns,
            not_after: parsed.validity().not_after.timestamp(),
        })
    }

    /// Of the certificate that the other end of a connection showed, if it showed one.
    pub fn shown(connection: &CommonState) -> io::Result<Option<Self>> {
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        certificate.map(Self::of).transpose().map_err(refused)
    }

    /// Whether a certificate that was shown, or none, has the common name that it must have, if it must.
    pub fn have_common_name(shown: Option<&Self>, expected: Option<&str>) -> bool {
        expected.is_none_or(|expected| shown.and_then(|names| names.common_name.as_deref()) == Some(expected))
    }

    /// Whether it names this member: in the first label of a DNS name, the rest of which names the cluster. A wildcard
    /// names every member: authorities that are not the cluster's own make one certificate for all.
    pub fn name_member(&self, member: &str) -> bool {
        let labels = || self.dns.iter().filter_map(|name| name.split('.').next());
        labels().any(|label| label == member || label == "*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_by_name() {
        for (name, member, expected) in [
            ("db-0.nodes.shop.svc", "db-0", true),
            ("db-0.nodes.shop.svc", "db-1", false),
            ("db-0", "db-0", true),
            ("*.nodes.shop.svc", "db-1", true),
            ("db-*.nodes.shop.svc", "db-1", false),
            ("nodes.db-1.svc", "db-1", false),
        ] {
            let names = Names { dns: vec![name.to_owned()], ..Names::default() };
            assert_eq!(names.name_member(member), expected, "{name} for {member}");
        }
    }
}
