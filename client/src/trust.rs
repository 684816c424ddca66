//! Whose certificates a client of the API takes.
//!
//! Members are called by the address of a pod, or by a local port that leads to one, for which no certificate is: the name
//! that they must show can be told apart from the address.

use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Servers whose TLS sessions are remembered.
const SESSIONS: usize = 8;

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// What should be certificates is none.
    #[error("no certificates of authorities (PEM)")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// What should be certificates, or a certificate and its key, is none.
    #[error("no certificates, or no certificate with its key (PEM)")]
    Shown(#[source] reqwest::Error),
    /// There is none.
    #[error("there is no certificate in the file of authorities; it has to be PEM")]
    Empty,
    /// One cannot be used.
    #[error("a certificate of an authority cannot be used")]
    Authority(#[source] rustls::Error),
    /// The verifier cannot be made.
    #[error("certificates cannot be verified")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// The name that members must have is none.
    #[error("`{0}` is no name that a certificate could be for")]
    Name(String),
    /// TLS itself cannot be had.
    #[error("TLS cannot be set up")]
    Protocol(#[source] rustls::Error),
}

/// Whose certificates a client takes, and for which name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// Authorities, and perhaps a name.
    Named(Arc<ClientConfig>),
    /// What people say to a shell.
    Shown { authorities: Option<Vec<Certificate>>, identity: Option<Box<Identity>>, everybody: bool },
}

impl Trust {
    /// In the authorities of `pem`, and nobody else. With `name` each certificate must be for that name, whatever the
    /// address; otherwise for the host of the address.
    pub fn new(pem: &[u8], name: Option<&str>) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(TrustError::Pem)?).map_err(TrustError::Authority)?;
        }
        if roots.is_empty() {
            return Err(TrustError::Empty);
        }
        let provider = provider();
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(TrustError::Verifier)?;
        let name = name
            .map(|name| ServerName::try_from(name.to_owned()).map_err(|_| TrustError::Name(name.to_owned())));
        let verifier = Verifier { inner, name: name.transpose()? };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Protocol)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // For the few servers that a client is for; the default has room for hundreds from the start.
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self(Kind::Named(Arc::new(config))))
    }

    /// In the authorities of `authorities`, else in those of the machine, or in `everybody`; with the certificate and key
    /// `identity` to show. All of it is PEM.
    pub fn shown(
        authorities: Option<&[u8]>,
        identity: Option<&[u8]>,
        everybody: bool,
    ) -> Result<Self, TrustError> {
        let authorities =
            authorities.map(Certificate::from_pem_bundle).transpose().map_err(TrustError::Shown)?;
        if authorities.as_ref().is_some_and(Vec::is_empty) {
            return Err(TrustError::Empty);
        }
        let identity = identity.map(Identity::from_pem).transpose().map_err(TrustError::Shown)?;
        Ok(Self(Kind::Shown { authorities, identity: identity.map(Box::new), everybody }))
    }

    /// How TLS is talked to members of a cluster; none where the certificates are not of named authorities.
    pub fn config(&self) -> Option<Arc<ClientConfig>> {
        match &self.0 {
            Kind::Named(config) => Some(config.clone()),
            Kind::Shown { .. } => None,
        }
    }

    /// A client that trusts so; without, one that trusts whom the machine trusts.
    pub fn applied(trust: Option<&Self>, builder: ClientBuilder) -> ClientBuilder {
        match trust {
            None => builder,
            Some(Self(Kind::Named(config))) => builder.tls_backend_preconfigured((**config).clone()),
            Some(Self(Kind::Shown { authorities, identity, everybody })) => {
                let mut builder = builder.tls_danger_accept_invalid_certs(*everybody);
                if let Some(authorities) = authorities {
                    builder = builder.tls_certs_only(authorities.clone());
                }
                match identity {
                    Some(identity) => builder.identity((**identity).clone()),
                    None => builder,
                }
            }
        }
    }
}

/// The one implementation of the primitives.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The library's verifier, asked for another name than that of the address.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    name: Option<ServerName<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.name.as_ref().unwrap_or(server_name);
        self.inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_authority_is_refused() {
        for (pem, expected) in [
            ("", "there is no certificate in the file of authorities; it has to be PEM"),
            ("nonsense", "there is no certificate in the file of authorities; it has to be PEM"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used"),
        ] {
            let error = Trust::new(pem.as_bytes(), None).expect_err(pem).to_string();
            assert!(error.contains(expected), "{pem}: {error}");
        }
    }
}
