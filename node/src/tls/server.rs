//! The end of a connection that was called.

use super::names::Names;
use super::pem::{self, Pair};
use super::refused;
use crate::reload::Reloaded;
use client::admin::PortCertificates;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What the client port's TLS is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsFiles {
    /// Chain, the own certificate first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whose certificates clients must show; none: they need not show one.
    pub client_ca: Option<PathBuf>,
    /// The common name that those must have.
    pub client_common_name: Option<String>,
    /// Whether clients may talk without TLS too: while they move.
    pub plaintext: bool,
}

/// TLS of the client port.
pub struct ServerTls {
    current: Arc<Reloaded<Current>>,
    client_common_name: Option<String>,
    plaintext: bool,
}

struct Current {
    config: Arc<ServerConfig>,
    told: PortCertificates,
}

impl ServerTls {
    /// From files, whose changes it follows.
    pub fn follow(files: ServerTlsFiles) -> Result<Self, String> {
        let (client_common_name, plaintext) = (files.client_common_name, files.plaintext);
        let own = [files.certificate, files.key];
        let current = pem::follow("certificates of the client port", own, files.client_ca, |material| {
            let mut config = server_config(material.pair, material.roots, rustls::ALL_VERSIONS)?;
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Ok(Current { config: Arc::new(config), told: material.told })
        })?;
        Ok(Self { current, client_common_name, plaintext })
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.current.current().told.not_after
    }

    /// What is shown at this moment.
    pub fn certificates(&self) -> PortCertificates {
        self.current.current().told.clone()
    }

    /// Shakes hands; none if the client talks without TLS and may.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Result<TlsStream<TcpStream>, TcpStream>> {
        if self.plaintext && !super::begins_with_tls(&stream).await? {
            return Ok(Err(stream));
        }
        let acceptor = TlsAcceptor::from(self.current.current().config.clone());
        let stream = acceptor.accept(stream).await?;
        if let Some(expected) = self.client_common_name.as_deref() {
            let names = Names::shown(stream.get_ref().1)?;
            if !Names::have_common_name(names.as_ref(), Some(expected)) {
                return Err(refused("the client's certificate has another common name"));
            }
        }
        Ok(Ok(stream))
    }
}

/// With `roots` a client must show a certificate of theirs.
pub fn server_config(
    pair: Pair,
    roots: Option<Arc<RootCertStore>>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(pem::provider())
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?;
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(roots, pem::provider())
                .build()
                .map_err(|e| e.to_string())?,
        ),
    };
    builder.with_single_cert(pair.chain, pair.key).map_err(|e| format!("certificate and key: {e}"))
}
