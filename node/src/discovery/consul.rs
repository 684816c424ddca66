//! Consul's key-value store, by its HTTP interface.

use super::ask::{RegistryError, TlsSettings, client, read_text, send};
use crate::secret::Secret;
use base64::Engine as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use std::path::PathBuf;

/// Where an agent listens by default.
const DEFAULT: &str = "127.0.0.1:8500";

/// Name and password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BasicAuth {
    username: String,
    password: Option<Secret>,
}

/// The value of `-disco-config` for `consul-kv`; the names are rqlite's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsulSettings {
    /// `host:port`
    address: Option<String>,
    scheme: Option<String>,
    datacenter: Option<String>,
    namespace: Option<String>,
    partition: Option<String>,
    basic_auth: Option<BasicAuth>,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    tls_config: Option<TlsSettings>,
}

/// A key, as Consul tells of it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    value: Option<String>,
    modify_index: u64,
}

impl ConsulSettings {
    /// Whether they make sense, without what they name.
    pub fn check(&self) -> Result<(), String> {
        if self.address.as_deref().is_some_and(|address| address.contains("://")) {
            return Err("address: it is host:port; http or https belongs into scheme".into());
        }
        match self.scheme.as_deref() {
            None | Some("" | "http" | "https") => Ok(()),
            Some(other) => Err(format!("scheme: {other:?} is neither http nor https")),
        }
    }

    /// Where a request about a key goes, and the request; `parameter` is one more of the query.
    fn request(
        &self,
        method: Method,
        key: &str,
        parameter: String,
    ) -> Result<(String, reqwest::RequestBuilder), RegistryError> {
        let said = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
        let scheme = said(&self.scheme).unwrap_or_else(|| "http".into());
        let address = said(&self.address).unwrap_or_else(|| DEFAULT.into());
        let (client, url) = client(&format!("{scheme}://{address}"), self.tls_config.as_ref())?;
        let key: Vec<String> =
            key.split('/').map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string()).collect();
        let mut query = vec![parameter];
        for (name, value) in
            [("dc", &self.datacenter), ("ns", &self.namespace), ("partition", &self.partition)]
        {
            if let Some(value) = said(value) {
                query.push(format!("{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)));
            }
        }
        let mut request =
            client.request(method, format!("{url}/v1/kv/{}?{}", key.join("/"), query.join("&")));
        if let Some(BasicAuth { username, password }) = &self.basic_auth {
            request = request.basic_auth(username, password.as_ref().map(|password| &password.0));
        }
        let token = match (&self.token, &self.token_file) {
            (_, Some(file)) => Some(read_text(file)?.trim().to_owned()),
            (token, None) => token.as_ref().map(|token| token.0.clone()),
        };
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            request = request.header("X-Consul-Token", token);
        }
        Ok((url, request))
    }

    /// The value of a key with its revision; 0 is that of a key that is not there.
    pub async fn read(&self, key: &str) -> Result<(Option<Vec<u8>>, u64), RegistryError> {
        let (url, request) = self.request(Method::GET, key, "consistent".into())?;
        let answer = send(&url, request).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok((None, 0));
        }
        let nonsense = |why: &str| RegistryError::Nonsense { url: url.clone(), why: why.into() };
        let pair = answer.json::<Vec<Pair>>()?.into_iter().next();
        let pair = pair.ok_or_else(|| nonsense("neither a value nor an error"))?;
        let value = base64::engine::general_purpose::STANDARD.decode(pair.value.unwrap_or_default());
        Ok((Some(value.map_err(|_| nonsense("a value that is not base64"))?), pair.modify_index))
    }

    /// Writes a key whose revision is still `revision`; false: it is not.
    pub async fn write(&self, key: &str, value: Vec<u8>, revision: u64) -> Result<bool, RegistryError> {
        let (url, request) = self.request(Method::PUT, key, format!("cas={revision}"))?;
        send(&url, request.body(value)).await?.json()
    }
}
