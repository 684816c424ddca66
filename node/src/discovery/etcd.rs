//! etcd, by the JSON form of its version 3 interface.

use super::ask::{RegistryError, TlsSettings, client, send};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

/// Where a member listens by default.
const DEFAULT: &str = "http://localhost:2379";

/// The value of `-disco-config` for `etcd-kv`; the names are those of etcd's client, as in rqlite's. `tls_config` is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EtcdSettings {
    endpoints: Vec<String>,
    username: Option<String>,
    password: Option<Secret>,
    #[serde(rename = "tls_config")]
    tls: Option<TlsSettings>,
    // About connections that are kept; none is here.
    #[serde(rename = "auto-sync-interval")]
    _auto_sync_interval: Option<Value>,
    #[serde(rename = "dial-timeout")]
    _dial_timeout: Option<Value>,
    #[serde(rename = "dial-keep-alive-time")]
    _dial_keep_alive_time: Option<Value>,
    #[serde(rename = "dial-keep-alive-timeout")]
    _dial_keep_alive_timeout: Option<Value>,
    #[serde(rename = "max-call-send-msg-size")]
    _max_call_send_msg_size: Option<Value>,
    #[serde(rename = "max-call-recv-msg-size")]
    _max_call_recv_msg_size: Option<Value>,
    #[serde(rename = "reject-old-cluster")]
    _reject_old_cluster: Option<Value>,
    #[serde(rename = "permit-without-stream")]
    _permit_without_stream: Option<Value>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

/// A key; numbers of 64 bits are text in JSON.
#[derive(Deserialize)]
struct KeyValue {
    #[serde(default)]
    value: String,
    mod_revision: String,
}

#[derive(Deserialize)]
struct Transaction {
    #[serde(default)]
    succeeded: bool,
}

impl EtcdSettings {
    /// Whether they make sense, without what they name.
    pub fn check(&self) -> Result<(), String> {
        if self.username.is_none() && self.password.is_some() {
            return Err("password: there is no username".into());
        }
        Ok(())
    }

    /// Asks the endpoints one after the other until one answers.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, RegistryError> {
        let default = [DEFAULT.to_owned()];
        let endpoints = if self.endpoints.is_empty() { &default[..] } else { &self.endpoints };
        let mut outcome = Err(RegistryError::Settings("endpoints: there is none".into()));
        for endpoint in endpoints {
            outcome = self.ask_one(endpoint, path, body).await;
            if !matches!(outcome, Err(RegistryError::Away { .. } | RegistryError::Failed { .. })) {
                break;
            }
        }
        outcome
    }

    async fn ask_one<T: serde::de::DeserializeOwned>(
        &self,
        endpoint: &str,
        path: &str,
        body: &Value,
    ) -> Result<T, RegistryError> {
        let endpoint =
            if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        let (client, url) = client(&endpoint, self.tls.as_ref())?;
        let mut request = client.post(format!("{url}{path}")).json(body);
        if let Some(name) = self.username.as_ref().filter(|name| !name.is_empty()) {
            let password = self.password.as_ref().map_or("", |password| &password.0);
            let who = client.post(format!("{url}/v3/auth/authenticate"));
            let who = who.json(&json!({ "name": name, "password": password }));
            let Token { token } = send(&url, who).await?.json()?;
            request = request.header("Authorization", token);
        }
        send(&url, request).await?.json()
    }

    /// The value of a key with its revision; 0 is that of a key that is not there.
    pub async fn read(&self, key: &str) -> Result<(Option<Vec<u8>>, u64), RegistryError> {
        let range: Range = self.ask("/v3/kv/range", &json!({ "key": STANDARD.encode(key) })).await?;
        let Some(found) = range.kvs.into_iter().next() else { return Ok((None, 0)) };
        let nonsense = |why: String| RegistryError::Nonsense { url: "etcd".into(), why };
        let value = STANDARD.decode(found.value).map_err(|e| nonsense(format!("the value: {e}")))?;
        let revision = found.mod_revision.parse().map_err(|e| nonsense(format!("the revision: {e}")))?;
        Ok((Some(value), revision))
    }

    /// Writes a key whose revision is still `revision`; false: it is not.
    pub async fn write(&self, key: &str, value: Vec<u8>, revision: u64) -> Result<bool, RegistryError> {
        let key = STANDARD.encode(key);
        let body = json!({
            "compare": [{
                "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string(),
            }],
            "success": [{ "request_put": { "key": key, "value": STANDARD.encode(value) } }],
        });
        let done: Transaction = self.ask("/v3/kv/txn", &body).await?;
        Ok(done.succeeded)
    }
}
