//! Where envelopes go.

use super::config::{ChangesConfig, Destination, SinkTls, without_secrets};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HOST, HeaderValue};
use reqwest::{Certificate, Client, Identity, StatusCode, Url, redirect};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;

/// The sink cannot be used, whenever it is tried.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates or keys are not what they should be.
    #[error("tls: {0}")]
    Tls(#[source] reqwest::Error),
    /// The name that the certificate is to be for is none.
    #[error("tls.server_name {0:?} is not the name of a host")]
    ServerName(String),
}

/// An envelope was not delivered this time.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The sink did not take it, or could not be reached.
    #[error("{}", chain(.0))]
    Http(reqwest::Error),
    /// It answered with something else than 200 or 202.
    #[error("the sink answered {0}")]
    Status(StatusCode),
    /// Standard output could not be written.
    #[error("standard output: {0}")]
    Stdout(#[from] std::io::Error),
}

/// All that is said about an error, outside in.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Where envelopes go.
pub enum Sink {
    /// Nowhere.
    Kept,
    /// A line each.
    Stdout,
    /// A POST each.
    Http {
        /// The client, with its certificates.
        client: Client,
        /// Where to.
        url: Url,
        /// What the sink is called in the request, if not as in `url`.
        host: Option<HeaderValue>,
    },
}

impl Sink {
    /// As configured. Reads certificates.
    pub fn new(config: &ChangesConfig) -> Result<Self, SinkError> {
        let url = match &config.destination {
            Destination::Kept => return Ok(Self::Kept),
            Destination::Stdout => return Ok(Self::Stdout),
            Destination::Http(url) => url,
        };
        if url.scheme() == "http" {
            tracing::warn!(
                endpoint = without_secrets(url),
                "changes are sent without TLS: whoever is in between can read and change them"
            );
        }
        let mut url = url.clone();
        let mut client = Client::builder()
            .timeout(config.transmit_timeout)
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(1);
        let SinkTls { ca_cert_file, cert_file, key_file, insecure_skip_verify, server_name } = &config.tls;
        if let Some(path) = ca_cert_file {
            let certificates = Certificate::from_pem_bundle(&read(path)?).map_err(SinkError::Tls)?;
            client = client.tls_certs_only(certificates);
        }
        if let (Some(certificate), Some(key)) = (cert_file, key_file) {
            let both = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
            client = client.identity(Identity::from_pem(&both).map_err(SinkError::Tls)?);
        }
        if *insecure_skip_verify {
            client = client.tls_danger_accept_invalid_certs(true);
        }
        let mut host = None;
        if let Some(name) = server_name.as_ref().filter(|_| url.scheme() == "https") {
            // The name is shown and verified where the URL has it, so it goes there, and leads to the host's address.
            let at = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            host = HeaderValue::from_str(&format!("{}{port}", url.host_str().unwrap_or_default())).ok();
            let is_name = name.parse::<std::net::IpAddr>().is_err() && url.set_host(Some(name)).is_ok();
            if !is_name {
                return Err(SinkError::ServerName(name.clone()));
            }
            client = client.dns_resolver(Arc::new(Elsewhere(at)));
        }
        let client = client.build().map_err(SinkError::Tls)?;
        Ok(Self::Http { client, url, host })
    }

    /// Whether there is anywhere to send to.
    pub fn is_there(&self) -> bool {
        !matches!(self, Self::Kept)
    }

    /// Delivers an envelope, once.
    pub async fn deliver(&self, envelope: &bytes::Bytes) -> Result<(), DeliveryError> {
        match self {
            Self::Kept => Ok(()),
            Self::Stdout => {
                let mut out = tokio::io::stdout();
                out.write_all(envelope).await?;
                out.write_all(b"\n").await?;
                Ok(out.flush().await?)
            }
            Self::Http { client, url, host } => {
                let mut request = client
                    .post(url.clone())
                    .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                    .body(envelope.clone());
                if let Some(host) = host {
                    request = request.header(HOST, host);
                }
                let answer = request.send().await.map_err(|e| DeliveryError::Http(e.without_url()))?;
                match answer.status() {
                    StatusCode::OK | StatusCode::ACCEPTED => Ok(()),
                    status => Err(DeliveryError::Status(status)),
                }
            }
        }
    }
}

/// Every name has the addresses of this host.
struct Elsewhere(String);

impl Resolve for Elsewhere {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, SinkError> {
    std::fs::read(path).map_err(|source| SinkError::File { path: path.to_owned(), source })
}
