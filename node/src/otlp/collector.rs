//! One call of gRPC: a message with its length before it, over HTTP/2; the outcome is in the trailers.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use super::config::OtlpConfig;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Limited};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use reqwest::{Body, Certificate, Client, Identity, redirect};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const LARGEST: usize = 64 << 10;
/// Length of what is before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The collector cannot be used, whenever it is tried.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// A file could not be read.
    #[error("{flag} {path}: {source}")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates or keys are not what they should be.
    #[error("{flag}: {source}")]
    Tls {
        /// The flag that names them.
        flag: &'static str,
        /// Why.
        source: reqwest::Error,
    },
}

/// Something was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The collector could not be reached, or does not talk as it should.
    #[error("{}", chain(.0))]
    Http(reqwest::Error),
    /// It answered with another status of HTTP.
    #[error("the collector answered with HTTP status {0}: is it a gRPC endpoint?")]
    Status(u16),
    /// Its answer broke off, or is too large.
    #[error("the answer of the collector: {0}")]
    Answer(String),
    /// It refused.
    #[error("the collector refused: gRPC status {code} {message}")]
    Refused {
        /// Number of the status.
        code: u32,
        /// What it says.
        message: String,
    },
    /// It took a part.
    #[error("the collector left out {count}: {message}")]
    Partial {
        /// How many spans or numbers.
        count: i64,
        /// What it says.
        message: String,
    },
    /// There was no answer in time.
    #[error("the collector did not answer within {} s", PATIENCE.as_secs())]
    TimedOut,
}

/// All that is said about an error, outside in.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Where metrics and traces go.
pub struct Collector {
    client: Client,
    config: OtlpConfig,
}

impl Collector {
    /// As configured. Reads certificates.
    pub fn new(config: &OtlpConfig) -> Result<Self, CollectorError> {
        let tls = |flag| move |source| CollectorError::Tls { flag, source };
        let mut client = Client::builder()
            .http2_prior_knowledge()
            .redirect(redirect::Policy::none())
            .no_proxy()
            // One that went without a word is noticed by its silence while it is asked.
            .http2_keep_alive_interval(PATIENCE / 2)
            .http2_keep_alive_timeout(PATIENCE / 2)
            .pool_max_idle_per_host(1);
        if let Some(path) = &config.ca {
            let flag = "-otlp-ca-cert";
            let certificates = Certificate::from_pem_bundle(&read(flag, path)?).map_err(tls(flag))?;
            client = client.tls_certs_only(certificates);
        }
        if let Some((certificate, key)) = &config.identity {
            let both = [read("-otlp-cert", certificate)?, b"\n".to_vec(), read("-otlp-key", key)?].concat();
            client = client.identity(Identity::from_pem(&both).map_err(tls("-otlp-cert, -otlp-key"))?);
        }
        if config.trusts_all {
            client = client.tls_danger_accept_invalid_certs(true);
        }
        let client = client.build().map_err(tls("-otlp-endpoint"))?;
        Ok(Self { client, config: config.clone() })
    }

    /// Calls a method with a message.
    pub async fn export(&self, method: &str, message: &impl Message) -> Result<(), ExportError> {
        let called = tokio::time::timeout(PATIENCE, self.call(method, frame(message)));
        called.await.map_err(|_| ExportError::TimedOut)?
    }

    async fn call(&self, method: &str, body: Bytes) -> Result<(), ExportError> {
        let url = format!("{}{method}", self.config.shown_endpoint());
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .header(TE, HeaderValue::from_static("trailers"))
            .body(body);
        let answer = request.send().await.map_err(|error| ExportError::Http(error.without_url()))?;
        let status = answer.status().as_u16();
        let (head, body) = axum::http::Response::<Body>::from(answer).into_parts();
        // Where there is nothing but an error it is in the headers.
        if let Some(outcome) = outcome(&head.headers) {
            return outcome;
        }
        if status != 200 {
            return Err(ExportError::Status(status));
        }
        let broken = |error: &dyn std::fmt::Display| ExportError::Answer(error.to_string());
        let collected = Limited::new(body, LARGEST).collect().await.map_err(|error| broken(&error))?;
        let outcome = collected.trailers().and_then(outcome);
        outcome.ok_or_else(|| broken(&"it ended without a status"))??;
        let bytes = collected.to_bytes();
        // The answers to metrics and to traces look the same.
        let partial = bytes.get(PREFIX..).map(ExportTraceServiceResponse::decode).transpose();
        let partial = partial.map_err(|error| broken(&error))?.and_then(|answer| answer.partial_success);
        match partial {
            Some(partial) if partial.rejected_spans > 0 => Err(ExportError::Partial {
                count: partial.rejected_spans,
                message: short(&partial.error_message),
            }),
            _ => Ok(()),
        }
    }
}

/// A message with its length before it.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    out.put_slice(&message.encode_to_vec());
    out.freeze()
}

/// What headers or trailers say of the outcome, if they do.
fn outcome(headers: &HeaderMap) -> Option<Result<(), ExportError>> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse::<u32>().unwrap_or(2);
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map_or("", |message| message.to_str().unwrap_or_default());
    let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy();
    Some(Err(ExportError::Refused { code, message: short(&message) }))
}

/// The beginning of what somebody else says, for logs.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, CollectorError> {
    std::fs::read(path).map_err(|source| CollectorError::File { flag, path: path.to_owned(), source })
}
