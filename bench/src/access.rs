//! How clients get in: by TLS or without, as somebody or as nobody.

use crate::BenchError;
use crate::cli::Common;
use crate::target::OperationError;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use client::sql::Credentials;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// How clients get in.
#[derive(Clone, Default)]
pub struct Access {
    /// TLS, with the authority that is trusted.
    pub tls: Option<TlsConnector>,
    /// That authority, PEM.
    pub authority: Option<Vec<u8>>,
    /// Who they are.
    pub credentials: Option<Credentials>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Access {
    /// As the command line says.
    pub fn read(common: &Common) -> Result<Self, BenchError> {
        let mut access = Self::default();
        if let Some(path) = &common.ca {
            let pem = read(path)?;
            access.tls = Some(connector(&pem).map_err(|message| wrong(path, message))?);
            access.authority = Some(pem);
        }
        if let Some(path) = &common.user_file {
            let text = String::from_utf8(read(path)?).map_err(|e| wrong(path, e.to_string()))?;
            let (user, password) = text
                .trim_end()
                .split_once(':')
                .ok_or_else(|| wrong(path, "it is not user:password".into()))?;
            access.credentials = Some(Credentials { user: user.into(), password: password.into() });
        }
        Ok(access)
    }

    /// Of URLs.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The line of a request's head that says who asks.
    pub fn header(&self) -> String {
        self.credentials.as_ref().map_or_else(String::new, |Credentials { user, password }| {
            format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("{user}:{password}")))
        })
    }

    /// Of the member at `host:port`.
    pub fn server_name(address: &str) -> Result<ServerName<'static>, OperationError> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = ServerName::try_from(host.to_owned());
        name.map_err(|e| OperationError::Io(std::io::Error::other(e)))
    }
}

fn wrong(path: &Path, message: String) -> BenchError {
    BenchError::Access { path: path.to_owned(), message }
}

fn read(path: &Path) -> Result<Vec<u8>, BenchError> {
    std::fs::read(path).map_err(|e| wrong(path, e.to_string()))
}

fn connector(pem: &[u8]) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()).into())
}
