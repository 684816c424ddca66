//! `-cdc-config`: a URL, `stdout`, or a JSON file with the names of rqlite's; the text of such a file is taken too.

use crate::http::params::{format_duration, parse_duration};
use crate::raft::command::CaptureSettings;
use regex::Regex;
use reqwest::Url;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize as _};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Changes that are kept at most, unless it is said, in bytes.
const MAX_BYTES: u64 = 1 << 30;
/// Changes that are kept for readers though the sink has them, in bytes.
const RETAIN_BYTES: u64 = 64 << 20;
/// Larger files make no sense.
const FILE_LIMIT: u64 = 1 << 20;

/// `-cdc-config` makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ChangesConfigError {
    /// The file could not be read.
    #[error("{path}: {source} (-cdc-config takes a URL, stdout, or a JSON file)")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A value makes no sense.
    #[error("{name}: {message}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        message: String,
    },
}

fn bad<T>(name: &'static str, message: impl Into<String>) -> Result<T, ChangesConfigError> {
    Err(ChangesConfigError::Value { name, message: message.into() })
}

/// Where changes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere: they are kept for `/db/changes`.
    Kept,
    /// A line each to standard output.
    Stdout,
    /// A POST each to a URL.
    Http(Url),
}

/// How long is waited between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Always the same.
    Linear,
    /// Twice as long each time, up to the longest.
    Exponential,
}

/// TLS towards the sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SinkTls {
    /// Whose certificates the sink may show; the system's authorities if it is not said.
    pub ca_cert_file: Option<PathBuf>,
    /// The certificate that is shown to it.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Take any certificate.
    pub insecure_skip_verify: bool,
    /// The name that the sink's certificate must be for; default: the host of the URL.
    pub server_name: Option<String>,
}

/// How changes are captured and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesConfig {
    /// Where they go.
    pub destination: Destination,
    /// Says in each envelope whose changes they are; empty is left out.
    pub service_id: String,
    /// What every member captures.
    pub settings: CaptureSettings,
    /// TLS towards the sink.
    pub tls: SinkTls,
    /// Entries in one envelope at most.
    pub max_batch_size: usize,
    /// How long an envelope waits to be full.
    pub max_batch_delay: Duration,
    /// How often the members are told how far the sink is.
    pub high_watermark_interval: Duration,
    /// How long the sink may take for one envelope.
    pub transmit_timeout: Duration,
    /// Further attempts before an envelope is given up; none is without end.
    pub transmit_max_retries: Option<u32>,
    /// How the wait between two attempts grows.
    pub transmit_retry_policy: RetryPolicy,
    /// The first wait.
    pub transmit_min_backoff: Duration,
    /// The longest one.
    pub transmit_max_backoff: Duration,
}

/// The file, as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    endpoint: Option<String>,
    /// A file with the endpoint, which may be a secret.
    endpoint_file: Option<PathBuf>,
    service_id: Option<String>,
    row_ids_only: Option<bool>,
    table_filter: Option<String>,
    tls: Option<SinkTls>,
    max_batch_size: Option<i64>,
    max_batch_delay: Option<GoDuration>,
    high_watermark_interval: Option<GoDuration>,
    transmit_timeout: Option<GoDuration>,
    transmit_max_retries: Option<i64>,
    transmit_retry_policy: Option<Policy>,
    transmit_min_backoff: Option<GoDuration>,
    transmit_max_backoff: Option<GoDuration>,
    max_bytes: Option<u64>,
    retain_bytes: Option<u64>,
}

/// A duration in Go's syntax, or in nanoseconds.
struct GoDuration(Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = GoDuration;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a duration such as \"250ms\", or nanoseconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                let parsed = parse_duration(text);
                parsed.map(GoDuration).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_u64<E: de::Error>(self, nanoseconds: u64) -> Result<GoDuration, E> {
                Ok(GoDuration(Duration::from_nanos(nanoseconds)))
            }
        }
        from.deserialize_any(Either)
    }
}

struct Policy(RetryPolicy);

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Policy;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("\"linear\" (0) or \"exponential\" (1)")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Policy, E> {
                match text {
                    "linear" => Ok(Policy(RetryPolicy::Linear)),
                    "exponential" => Ok(Policy(RetryPolicy::Exponential)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Policy, E> {
                match number {
                    0 => Ok(Policy(RetryPolicy::Linear)),
                    1 => Ok(Policy(RetryPolicy::Exponential)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
                }
            }
        }
        from.deserialize_any(Either)
    }
}

/// Reads a file of settings.
fn read_small(path: &Path) -> Result<Vec<u8>, ChangesConfigError> {
    let read = || {
        let size = std::fs::metadata(path)?.len();
        if size > FILE_LIMIT {
            return Err(std::io::Error::other("it is larger than 1 MiB"));
        }
        std::fs::read(path)
    };
    read().map_err(|source| ChangesConfigError::File { path: path.display().to_string(), source })
}

impl ChangesConfig {
    /// Reads what the flag says. Blocks on the disk if that is a file, or names one.
    pub fn read(value: &str) -> Result<Self, ChangesConfigError> {
        let is_url = value.starts_with("http://") || value.starts_with("https://");
        if is_url || value == "stdout" {
            return Self::from_file(File { endpoint: Some(value.to_owned()), ..File::default() });
        }
        let (path, text) = match value.starts_with('{') {
            true => ("the text".to_owned(), value.as_bytes().to_vec()),
            false => (value.to_owned(), read_small(Path::new(value))?),
        };
        let file = serde_json::from_slice(&text);
        Self::from_file(file.map_err(|source| ChangesConfigError::Json { path, source })?)
    }

    fn from_file(file: File) -> Result<Self, ChangesConfigError> {
        let endpoint = match (file.endpoint, file.endpoint_file) {
            (Some(_), Some(_)) => return bad("endpoint_file", "endpoint says it already: leave one out"),
            (endpoint, None) => endpoint.unwrap_or_default(),
            (None, Some(path)) => {
                let text = String::from_utf8(read_small(&path)?).unwrap_or_default();
                if text.trim().is_empty() {
                    return bad("endpoint_file", format!("{} holds no URL", path.display()));
                }
                text.trim().to_owned()
            }
        };
        let destination = match endpoint.as_str() {
            "" => Destination::Kept,
            "stdout" => Destination::Stdout,
            url => match Url::parse(url) {
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                    Destination::Http(url)
                }
                _ => return bad("endpoint", "neither stdout nor a URL that begins with http:// or https://"),
            },
        };
        let table_filter = file.table_filter.unwrap_or_default();
        if let Err(error) = Regex::new(&table_filter) {
            return bad("table_filter", error.to_string());
        }
        let at_least_one = |name, value: Option<i64>, default: usize| match value {
            None => Ok(default),
            Some(n) => match usize::try_from(n) {
                Ok(n) if n > 0 => Ok(n),
                _ => bad(name, "not a number above 0"),
            },
        };
        let duration = |value: Option<GoDuration>, default| value.map_or(default, |GoDuration(value)| value);
        let max_bytes = file.max_bytes.unwrap_or(MAX_BYTES);
        let retain_bytes = file.retain_bytes.unwrap_or(RETAIN_BYTES.min(max_bytes));
        if max_bytes < 1 << 20 {
            return bad("max_bytes", "less than 1048576 (1 MiB)");
        }
        if retain_bytes > max_bytes {
            return bad("retain_bytes", "more than max_bytes");
        }
        let tls = file.tls.unwrap_or_default();
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            return bad("tls", "cert_file and key_file belong together");
        }
        let transmit_timeout = duration(file.transmit_timeout, Duration::from_secs(5));
        if transmit_timeout.is_zero() {
            return bad("transmit_timeout", "not a time above 0");
        }
        let min = duration(file.transmit_min_backoff, Duration::from_secs(1));
        let max = duration(file.transmit_max_backoff, Duration::from_secs(30)).max(min);
        Ok(Self {
            settings: CaptureSettings {
                row_ids_only: file.row_ids_only.unwrap_or_default(),
                has_sink: destination != Destination::Kept,
                table_filter,
                max_bytes,
                retain_bytes,
            },
            destination,
            service_id: file.service_id.unwrap_or_default(),
            tls,
            max_batch_size: at_least_one("max_batch_size", file.max_batch_size, 10)?,
            max_batch_delay: duration(file.max_batch_delay, Duration::from_millis(200)),
            high_watermark_interval: duration(file.high_watermark_interval, Duration::from_secs(1)),
            transmit_timeout,
            // As in Go: a negative number is as good as none.
            transmit_max_retries: file.transmit_max_retries.and_then(|n| u32::try_from(n).ok()),
            transmit_retry_policy: file.transmit_retry_policy.map_or(RetryPolicy::Linear, |Policy(p)| p),
            transmit_min_backoff: min,
            transmit_max_backoff: max,
        })
    }

    /// What `/status` tells of it: nothing secret.
    pub fn status(&self) -> Value {
        let endpoint = match &self.destination {
            Destination::Kept => String::new(),
            Destination::Stdout => "stdout".into(),
            Destination::Http(url) => without_secrets(url),
        };
        json!({
            "endpoint": endpoint,
            "service_id": self.service_id,
            "max_batch_size": self.max_batch_size,
            "max_batch_delay": format_duration(self.max_batch_delay),
            "high_watermark_interval": format_duration(self.high_watermark_interval),
            "transmit_timeout": format_duration(self.transmit_timeout),
            "transmit_max_retries": self.transmit_max_retries.serialize(serde_json::value::Serializer).unwrap_or_default(),
            "transmit_retry_policy": match self.transmit_retry_policy {
                RetryPolicy::Linear => "linear",
                RetryPolicy::Exponential => "exponential",
            },
            "transmit_min_backoff": format_duration(self.transmit_min_backoff),
            "transmit_max_backoff": format_duration(self.transmit_max_backoff),
        })
    }

    /// How long to wait before attempt `number`, the first further one being 1.
    pub fn backoff(&self, number: u32) -> Duration {
        match self.transmit_retry_policy {
            RetryPolicy::Linear => self.transmit_min_backoff,
            RetryPolicy::Exponential => {
                let factor = 2_u32.saturating_pow(number.saturating_sub(1));
                self.transmit_min_backoff.saturating_mul(factor).min(self.transmit_max_backoff)
            }
        }
    }
}

/// A URL without user, password and query.
pub fn without_secrets(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(json: &str) -> Result<ChangesConfig, String> {
        let file = serde_json::from_str(json).map_err(|e| e.to_string())?;
        ChangesConfig::from_file(file).map_err(|e| e.to_string())
    }

    #[test]
    fn durations_are_text_or_nanoseconds_and_policies_names_or_numbers() {
        let text = r#"{"endpoint": "http://sink/x", "service_id": "s", "row_ids_only": true, "table_filter": "^a",
            "max_batch_size": 3, "max_batch_delay": "250ms", "transmit_timeout": "2s", "transmit_max_retries": 4,
            "transmit_retry_policy": "exponential", "transmit_min_backoff": "100ms", "transmit_max_backoff": "1s",
            "high_watermark_interval": "5s", "tls": {"server_name": "n"}}"#;
        let numbers = text.replace("\"250ms\"", "250000000").replace("\"exponential\"", "1");
        let config = parse(text).unwrap();
        assert_eq!(parse(&numbers).unwrap(), config);
        assert_eq!((config.max_batch_delay, config.max_batch_size), (Duration::from_millis(250), 3));
        let waits = [1, 2, 3, 4, 40].map(|n| config.backoff(n).as_millis());
        assert_eq!(waits, [100, 200, 400, 800, 1000]);
        let linear = ChangesConfig { transmit_retry_policy: RetryPolicy::Linear, ..config };
        assert_eq!(linear.backoff(40).as_millis(), 100);
    }

    #[test]
    fn what_is_not_said_is_as_in_rqlite() {
        let config = ChangesConfig::read("stdout").unwrap();
        assert_eq!(config.destination, Destination::Stdout);
        assert_eq!((config.max_batch_size, config.transmit_max_retries), (10, None));
        assert_eq!(config.status()["transmit_min_backoff"], "1s");
        let url = ChangesConfig::read("https://user:secret@sink:8443/in?token=x").unwrap();
        assert_eq!(url.status()["endpoint"], "https://sink:8443/in");
    }

    #[test]
    fn the_text_of_a_file_is_taken_and_an_endpoint_from_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("endpoint");
        std::fs::write(&secret, "https://sink/in?token=x\n").unwrap();
        let text = json!({"endpoint_file": secret, "table_filter": "^a"}).to_string();
        let config = ChangesConfig::read(&text).unwrap();
        assert_eq!(config.destination, Destination::Http("https://sink/in?token=x".parse().unwrap()));
        let file = dir.path().join("cdc.json");
        std::fs::write(&file, &text).unwrap();
        assert_eq!(ChangesConfig::read(file.to_str().unwrap()).unwrap(), config);
        assert_eq!(ChangesConfig::read("{").unwrap_err().to_string().split(':').next(), Some("the text"));
    }

    #[test]
    fn what_makes_no_sense_by_table() {
        for (json, part) in [
            (r#"{"endpont": "x"}"#, "unknown field `endpont`"),
            (r#"{"endpoint": "ftp://x"}"#, "endpoint: neither"),
            (r#"{"table_filter": "("}"#, "table_filter: "),
            (r#"{"max_batch_size": 0}"#, "max_batch_size: not a number above 0"),
            (r#"{"max_batch_delay": "soon"}"#, "a duration such as"),
            (r#"{"transmit_retry_policy": 2}"#, "\"linear\" (0)"),
            (r#"{"max_bytes": 5}"#, "max_bytes: less than"),
            (r#"{"retain_bytes": 99999999999}"#, "retain_bytes: more than max_bytes"),
            (r#"{"tls": {"cert_file": "x"}}"#, "belong together"),
            (r#"{"tls": {"ca": "x"}}"#, "unknown field `ca`"),
            (r#"{"endpoint": "stdout", "endpoint_file": "x"}"#, "leave one out"),
            (r#"{"endpoint_file": "/nowhere/x"}"#, "/nowhere/x: No such file"),
            (r#"{"endpoint_file": "/dev/null"}"#, "/dev/null holds no URL"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
        assert!(
            ChangesConfig::read("/nowhere/x.json").unwrap_err().to_string().contains("-cdc-config takes")
        );
    }
}
