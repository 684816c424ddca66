//! What is pushed where.

use reqwest::Url;
use std::path::PathBuf;
use std::time::Duration;

/// The collector, and how it is talked to.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// Its address: scheme, host and port.
    pub endpoint: Url,
    /// Between two pushes of the numbers.
    pub interval: Duration,
    /// Takes any certificate.
    pub trusts_all: bool,
    /// Whose certificate it must show; none: an authority that the system trusts.
    pub ca: Option<PathBuf>,
    /// Certificate and key that are shown to it.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How many of the requests that say nothing of traces are traced: 0 none, 1 all.
    pub trace_ratio: f64,
    /// How many requests are traced in a second, at most.
    pub trace_limit: u32,
}

/// Reads `host:port`, as rqlite takes it, or a URL of the same; says what is wrong.
pub fn endpoint(text: &str, insecure: bool) -> Result<Url, String> {
    let has_scheme = text.contains("://");
    let scheme = if insecure { "http" } else { "https" };
    let whole = if has_scheme { text.to_owned() } else { format!("{scheme}://{text}") };
    let url = Url::parse(&whole).map_err(|_| format!("{text:?} is not host:port"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{text:?} is neither host:port nor http:// nor https://"));
    }
    if insecure && url.scheme() == "https" {
        return Err("-otlp-insecure means no TLS, and the endpoint says https://: leave one out".into());
    }
    let is_bare = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_bare {
        return Err("the endpoint of gRPC is host:port, without user, path or query".into());
    }
    // What a URL takes for granted is not what collectors listen on.
    let authority = whole.split_once("://").map_or("", |(_, rest)| rest.trim_end_matches('/'));
    let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(1..)) => Ok(url),
        _ => Err(format!("{text:?} has no port: collectors listen on 4317")),
    }
}

impl OtlpConfig {
    /// The same without a slash at the end, for people.
    pub fn shown_endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_as_rqlite_takes_them_and_as_urls() {
        for (text, insecure, wanted) in [
            ("collector:4317", false, Some("https://collector:4317/")),
            ("collector:4317", true, Some("http://collector:4317/")),
            ("[::1]:4317", true, Some("http://[::1]:4317/")),
            ("http://collector:4317", false, Some("http://collector:4317/")),
            ("https://collector:443/", false, Some("https://collector/")),
            ("https://collector:4317", true, None),
            ("collector", false, None),
            ("[::1]", false, None),
            ("collector:0", false, None),
            ("collector:x", false, None),
            ("https://user:secret@collector:4317", false, None),
            ("https://collector:4317/v1/traces", false, None),
            ("grpc://collector:4317", false, None),
            ("", false, None),
        ] {
            let url = endpoint(text, insecure);
            assert_eq!(url.as_ref().ok().map(Url::as_str), wanted, "{text} {url:?}");
        }
    }
}
