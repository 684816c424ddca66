//! Requests to a key-value store: who it is believed to be, how long it may take, what its errors mean.

use crate::secret::Secret;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, RequestBuilder, StatusCode};
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take, and an answer.
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(5);
/// Largest answer, in bytes: a key's value is some hundred.
const LARGEST: usize = 64 << 10;
/// Of what a server says about an error, so much is repeated, in characters.
const EXCERPT: usize = 300;

/// The store was not asked, or its answer is not what is needed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file that the settings name cannot be used, or they contradict themselves.
    #[error("-disco-config: {0}")]
    Settings(String),
    /// There is no answer.
    #[error("{url}: {}", chain(.source))]
    Away {
        /// Who was asked.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It does not do this for who asks so; waiting does not help.
    #[error("{url} refuses: {status}{said}; look at the credentials and addresses in -disco-config")]
    Refused {
        /// Who was asked.
        url: String,
        /// The answer.
        status: StatusCode,
        /// The beginning of what it said.
        said: String,
    },
    /// It cannot do it now.
    #[error("{url}: {status}{said}")]
    Failed {
        /// Who was asked.
        url: String,
        /// The answer.
        status: StatusCode,
        /// The beginning of what it said.
        said: String,
    },
    /// The answer makes no sense.
    #[error("{url}: {why}")]
    Nonsense {
        /// Who was asked.
        url: String,
        /// What is wrong with the answer.
        why: String,
    },
}

impl RegistryError {
    /// Whether waiting does not help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Refused { .. })
    }
}

/// All that is said about an error, outside in.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// PEM in base64, as Go writes bytes in JSON.
fn pem_in_base64<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    use base64::Engine as _;
    let text = String::deserialize(from)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(serde::de::Error::custom)?;
    String::from_utf8(bytes).map(|pem| Some(Secret(pem))).map_err(serde::de::Error::custom)
}

/// How the store is known, and how it knows who asks. Files are read at each request: they may change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// The name that the store's certificate is for; otherwise its host.
    address: Option<String>,
    ca_file: Option<PathBuf>,
    ca_path: Option<PathBuf>,
    #[serde(deserialize_with = "pem_in_base64")]
    ca_pem: Option<Secret>,
    cert_file: Option<PathBuf>,
    #[serde(deserialize_with = "pem_in_base64")]
    cert_pem: Option<Secret>,
    key_file: Option<PathBuf>,
    #[serde(deserialize_with = "pem_in_base64")]
    key_pem: Option<Secret>,
    insecure_skip_verify: bool,
}

/// What a file of the settings holds.
pub fn read_text(path: &Path) -> Result<String, RegistryError> {
    std::fs::read_to_string(path).map_err(|e| RegistryError::Settings(format!("{}: {e}", path.display())))
}

fn unusable(error: reqwest::Error) -> RegistryError {
    RegistryError::Settings(chain(&error))
}

impl TlsSettings {
    fn authorities(&self) -> Result<Vec<String>, RegistryError> {
        let mut texts: Vec<String> = self.ca_pem.iter().map(|pem| pem.0.clone()).collect();
        texts.extend(self.ca_file.as_deref().map(read_text).transpose()?);
        if let Some(directory) = &self.ca_path {
            let named = |e: std::io::Error| RegistryError::Settings(format!("{}: {e}", directory.display()));
            for (_, bytes) in crate::reload::read_directory(directory, Path::is_file).map_err(named)? {
                texts.push(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Ok(texts)
    }

    fn identity(&self) -> Result<Option<Identity>, RegistryError> {
        let one = |pem: &Option<Secret>, file: &Option<PathBuf>| match (pem, file) {
            (Some(pem), _) => Ok(Some(pem.0.clone())),
            (None, file) => file.as_deref().map(read_text).transpose(),
        };
        match (one(&self.cert_pem, &self.cert_file)?, one(&self.key_pem, &self.key_file)?) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                Identity::from_pem(format!("{certificate}\n{key}").as_bytes()).map(Some).map_err(unusable)
            }
            _ => Err(RegistryError::Settings("a certificate and its key belong together".into())),
        }
    }

    fn apply(&self, mut client: ClientBuilder) -> Result<ClientBuilder, RegistryError> {
        for pem in self.authorities()? {
            for certificate in Certificate::from_pem_bundle(pem.as_bytes()).map_err(unusable)? {
                client = client.add_root_certificate(certificate);
            }
        }
        if let Some(identity) = self.identity()? {
            client = client.identity(identity);
        }
        Ok(client.tls_danger_accept_invalid_certs(self.insecure_skip_verify))
    }
}

/// Finds another host in the place of the name that a certificate is for.
struct InPlaceOf {
    host: String,
}

impl Resolve for InPlaceOf {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.host.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A client for the store at `scheme://host:port`, with where it is to be asked.
pub fn client(url: &str, tls: Option<&TlsSettings>) -> Result<(Client, String), RegistryError> {
    let agent = concat!("sqlited/", env!("CARGO_PKG_VERSION"));
    // Credentials must not follow a redirect to somebody else.
    let mut client =
        Client::builder().connect_timeout(CONNECT).timeout(ANSWER).redirect(Policy::none()).user_agent(agent);
    let mut url = reqwest::Url::parse(url).map_err(|e| RegistryError::Settings(format!("{url}: {e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RegistryError::Settings(
            "an address holds credentials; they have fields of their own".into(),
        ));
    }
    if let Some(tls) = tls {
        client = tls.apply(client)?;
        // The port of it, if any, means nothing.
        let name = tls.address.as_deref().map(|name| name.split(':').next().unwrap_or(name));
        if let (Some(name), Some(host)) = (name.filter(|name| !name.is_empty()), url.host_str()) {
            let host = host.trim_matches(['[', ']']).to_owned();
            client = client.dns_resolver(Arc::new(InPlaceOf { host }));
            let bad = || RegistryError::Settings(format!("tls_config.address: {name:?} is not a host"));
            url.set_host(Some(name)).map_err(|_| bad())?;
        }
    }
    Ok((client.build().map_err(unusable)?, url.as_str().trim_end_matches('/').to_owned()))
}

/// An answer.
pub struct Answer {
    /// Who gave it.
    pub url: String,
    /// What it says.
    pub status: StatusCode,
    /// In whole.
    pub body: Vec<u8>,
}

/// Sends a request to `url`.
pub async fn send(url: &str, request: RequestBuilder) -> Result<Answer, RegistryError> {
    // A query may hold what is not to be seen, and is not needed to know who was asked.
    let away =
        |source: reqwest::Error| RegistryError::Away { url: url.to_owned(), source: source.without_url() };
    let mut response = request.send().await.map_err(away)?;
    let (status, mut body) = (response.status(), Vec::new());
    while let Some(piece) = response.chunk().await.map_err(away)? {
        if body.len() + piece.len() > LARGEST {
            let why = format!("an answer of more than {LARGEST} bytes");
            return Err(RegistryError::Nonsense { url: url.to_owned(), why });
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { url: url.to_owned(), status, body })
}

impl Answer {
    /// Its body as JSON, if it says that it was done.
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, RegistryError> {
        if !self.status.is_success() {
            return Err(self.error());
        }
        serde_json::from_slice(&self.body).map_err(|e| self.nonsense(e.to_string()))
    }

    /// What an answer that makes no sense is.
    pub fn nonsense(&self, why: String) -> RegistryError {
        RegistryError::Nonsense { url: self.url.clone(), why }
    }

    fn error(self) -> RegistryError {
        #[derive(Deserialize)]
        struct Told {
            message: Option<String>,
            error: Option<String>,
        }
        let text = String::from_utf8_lossy(&self.body);
        let told = serde_json::from_str(&text).ok().and_then(|told: Told| told.message.or(told.error));
        let said: String = told.as_deref().unwrap_or(&text).trim().chars().take(EXCERPT).collect();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let (url, status) = (self.url, self.status);
        let may_pass = status.is_server_error()
            || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS]
                .contains(&status);
        if may_pass {
            RegistryError::Failed { url, status, said }
        } else {
            RegistryError::Refused { url, status, said }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn errors_by_table() {
        for (status, body, is_final, expected) in [
            (403, "ACL not found", true, "u refuses: 403 Forbidden: ACL not found; look at"),
            (400, r#"{"error":"a","message":"b","code":3}"#, true, "u refuses: 400 Bad Request: b;"),
            (401, r#"{"error":"a"}"#, true, "u refuses: 401 Unauthorized: a;"),
            (302, "", true, "u refuses: 302 Found;"),
            (503, "No cluster leader", false, "u: 503 Service Unavailable: No cluster leader"),
            (429, "", false, "u: 429 Too Many Requests"),
            (200, "{", false, "u: EOF while parsing"),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer { url: "u".into(), status, body: body.into() };
            let error = answer.json::<serde_json::Value>().unwrap_err();
            assert_eq!(error.is_final(), is_final, "{error}");
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn settings_of_tls_by_table() {
        let dir = tempfile::tempdir().unwrap();
        let issued = rcgen::generate_simple_self_signed(vec!["store.example".to_owned()]).unwrap();
        let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
        std::fs::write(dir.path().join("c"), &certificate).unwrap();
        std::fs::write(dir.path().join("k"), &key).unwrap();
        let in_base64 = |pem: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(pem)
        };
        let of = |json: String| {
            let json = json.replace("DIR", dir.path().to_str().unwrap());
            let tls: TlsSettings = serde_json::from_str(&json).map_err(|e| e.to_string())?;
            client("https://127.0.0.1:8501/", Some(&tls)).map(|(_, url)| url).map_err(|e| e.to_string())
        };
        let pem =
            format!(r#"{{"cert_pem": "{}", "key_pem": "{}"}}"#, in_base64(&certificate), in_base64(&key));
        for (json, expected) in [
            ("{}".to_owned(), Ok("https://127.0.0.1:8501")),
            (
                r#"{"ca_file": "DIR/c", "cert_file": "DIR/c", "key_file": "DIR/k"}"#.into(),
                Ok("https://127.0.0.1:8501"),
            ),
            (pem, Ok("https://127.0.0.1:8501")),
            (
                r#"{"address": "store.example:1", "ca_file": "DIR/c"}"#.into(),
                Ok("https://store.example:8501"),
            ),
            (r#"{"ca_file": "DIR/none"}"#.into(), Err("DIR/none")),
            (r#"{"cert_file": "DIR/c"}"#.into(), Err("belong together")),
            (r#"{"ca_pem": "not base64"}"#.into(), Err("Invalid")),
            (r#"{"cafile": "DIR/c"}"#.into(), Err("unknown field `cafile`")),
        ] {
            match (of(json.clone()), expected) {
                (Ok(url), Ok(expected)) => assert_eq!(url, expected, "{json}"),
                (Err(error), Err(part)) => {
                    let part = part.replace("DIR", dir.path().to_str().unwrap());
                    assert!(error.contains(&part), "{json}: {error}");
                }
                (found, _) => assert!(expected.is_err() == found.is_err(), "{json}: {found:?}"),
            }
        }
        assert!(
            client("http://me:secret@h:1", None).is_err_and(|error| !error.to_string().contains("secret"))
        );
    }
}
