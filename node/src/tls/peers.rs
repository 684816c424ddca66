//! TLS between members: both show a certificate of the cluster's authority, unless that is switched off.

use super::names::Names;
use super::pem::{self, Material, Pair};
use super::server::server_config;
use super::{begins_with_tls, refused};
use crate::reload::Reloaded;
use client::admin::PortCertificates;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Peers talk the newest version only: they are of one release or the next.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What members may do without TLS while a cluster moves to it or away from it: each step on every member before the
/// next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// Nothing.
    Refuse,
    /// They may call this one; it calls by TLS.
    Accept,
    /// They may call this one, and it calls so too.
    Dial,
}

/// What TLS between members is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTlsFiles {
    /// Chain, the own certificate first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whose certificates others must show; none: any will do, which protects from nobody who is in between.
    pub ca: Option<PathBuf>,
    /// Whether who calls must show one.
    pub verify_client: bool,
    /// The name that who is called must have; the host of its address otherwise.
    pub server_name: Option<String>,
    /// The common name that who calls must have.
    pub common_name: Option<String>,
    /// Whether who calls must have a certificate in its member's name.
    pub member_name: bool,
    /// What may be done without TLS.
    pub plaintext: Plaintext,
}

/// TLS between members.
pub struct PeerTls {
    current: Arc<Reloaded<Current>>,
    server_name: Option<ServerName<'static>>,
    common_name: Option<String>,
    member_name: bool,
    plaintext: Plaintext,
}

struct Current {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    told: PortCertificates,
}

impl PeerTls {
    /// From files, whose changes it follows.
    pub fn follow(files: PeerTlsFiles) -> Result<Self, String> {
        let server_name = files.server_name.map(ServerName::try_from).transpose();
        let server_name = server_name.map_err(|e| format!("the name that members must have: {e}"))?;
        let verify_client = files.verify_client;
        let own = [files.certificate, files.key];
        let current = pem::follow("certificates of the peer port", own, files.ca, move |material| {
            let Material { pair, told, roots } = material;
            let own = Pair { chain: pair.chain.clone(), key: pair.key.clone_key() };
            let server = server_config(pair, roots.clone().filter(|_| verify_client), VERSIONS)?;
            let client = ClientConfig::builder_with_provider(pem::provider())
                .with_protocol_versions(VERSIONS)
                .map_err(|e| e.to_string())?;
            let client = match roots {
                Some(roots) => {
                    let verifier = WebPkiServerVerifier::builder_with_provider(roots, pem::provider());
                    client.with_webpki_verifier(verifier.build().map_err(|e| e.to_string())?)
                }
                None => client.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)),
            };
            let client = client.with_client_auth_cert(own.chain, own.key).map_err(|e| e.to_string())?;
            Ok(Current { server: Arc::new(server), client: Arc::new(client), told })
        })?;
        let (common_name, member_name, plaintext) = (files.common_name, files.member_name, files.plaintext);
        Ok(Self { current, server_name, common_name, member_name, plaintext })
    }

    /// When the certificate ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.current.current().told.not_after
    }

    /// What is shown and trusted at this moment.
    pub fn certificates(&self) -> PortCertificates {
        self.current.current().told.clone()
    }

    /// Whether who calls must have a certificate in its member's name.
    pub fn verifies_members(&self) -> bool {
        self.member_name
    }

    /// Answers who calls.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(PeerSocket, Option<Names>)> {
        if !begins_with_tls(&stream).await? {
            return match self.plaintext {
                Plaintext::Refuse => Err(refused("a peer talks without TLS")),
                Plaintext::Accept | Plaintext::Dial => Ok((PeerSocket::Plain(stream), None)),
            };
        }
        let stream = TlsAcceptor::from(self.current.current().server.clone()).accept(stream).await?;
        let names = Names::shown(stream.get_ref().1)?;
        if !Names::have_common_name(names.as_ref(), self.common_name.as_deref()) {
            return Err(refused("a peer's certificate has another common name"));
        }
        Ok((PeerSocket::Tls(Box::new(stream.into())), names))
    }

    /// Calls the member at `address`, to which `stream` is connected.
    pub async fn dial(&self, stream: TcpStream, address: &str) -> io::Result<PeerSocket> {
        if self.plaintext == Plaintext::Dial {
            return Ok(PeerSocket::Plain(stream));
        }
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                ServerName::try_from(host).map_err(|e| refused(format!("{address}: {e}")))?
            }
        };
        let stream = TlsConnector::from(self.current.current().client.clone()).connect(name, stream).await?;
        Ok(PeerSocket::Tls(Box::new(stream.into())))
    }
}

/// A connection between members.
pub enum PeerSocket {
    /// As it is.
    Plain(TcpStream),
    /// By TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is read from.
pub type ReadHalf = Box<dyn AsyncRead + Send + Sync + Unpin>;
/// What is written to. One whose reading half lives on is to be shut down.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Sync + Unpin>;

impl PeerSocket {
    /// Its two directions.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Tls(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (Box::new(read), Box::new(write))
            }
        }
    }
}

impl AsyncRead for PeerSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PeerSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Takes every certificate: `-node-no-verify`.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &pem::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &pem::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        pem::provider().signature_verification_algorithms.supported_schemes()
    }
}
