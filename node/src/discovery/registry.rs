//! A key of a key-value store in which the leader says who it is. Whoever writes it first makes the cluster, the others
//! join whom it names. It is written only as long as nobody else wrote it in between (compare and set), and never runs
//! out: a key that did while its cluster is away would let a second cluster begin.

use super::ask::RegistryError;
use super::consul::ConsulSettings;
use super::etcd::EtcdSettings;
use client::admin::NodeId;
use serde::{Deserialize, Serialize};

/// Where the key is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum KeyValueStore {
    Consul(Box<ConsulSettings>),
    Etcd(Box<EtcdSettings>),
}

/// A key of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    store: KeyValueStore,
    key: String,
}

/// Who leads, in rqlite's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Its name.
    #[serde(default)]
    pub id: String,
    /// Where clients reach it.
    #[serde(default)]
    pub api_addr: String,
    /// Where peers reach it.
    pub addr: String,
    /// Its Raft id, which is not in rqlite's form: a name comes back on another disk, an id never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who is registered, if anybody.
    pub registered: Option<Registered>,
    /// Revision of the key; 0 where there is none.
    pub revision: u64,
}

impl Registry {
    /// As a mode and its configuration in JSON say, below the key `under`; none: the mode is another one.
    pub fn parse(mode: &str, config: &str, under: &str) -> Option<Result<Self, String>> {
        let malformed = |e: serde_json::Error| format!("-disco-config: {e}");
        let config = if config.trim().is_empty() { "{}" } else { config };
        let store = match mode {
            "consul-kv" => serde_json::from_str::<ConsulSettings>(config)
                .map_err(malformed)
                .and_then(|settings| settings.check().map(|()| KeyValueStore::Consul(Box::new(settings)))),
            "etcd-kv" => serde_json::from_str::<EtcdSettings>(config)
                .map_err(malformed)
                .and_then(|settings| settings.check().map(|()| KeyValueStore::Etcd(Box::new(settings)))),
            _ => return None,
        };
        let under = under.trim_matches('/');
        if under.is_empty() {
            return Some(Err("-disco-key: it is empty".into()));
        }
        Some(store.map(|store| Self { store, key: format!("{under}/leader") }))
    }

    /// `-disco-mode`
    pub fn mode(&self) -> &'static str {
        match self.store {
            KeyValueStore::Consul(_) => "consul-kv",
            KeyValueStore::Etcd(_) => "etcd-kv",
        }
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Who is registered now.
    pub async fn read(&self) -> Result<Entry, RegistryError> {
        let (value, revision) = match &self.store {
            KeyValueStore::Consul(consul) => consul.read(&self.key).await?,
            KeyValueStore::Etcd(etcd) => etcd.read(&self.key).await?,
        };
        let registered = value.map(|value| serde_json::from_slice(&value)).transpose();
        let nonsense = |e: serde_json::Error| RegistryError::Nonsense {
            url: self.mode().into(),
            why: format!("what key {} holds is not of a member: {e}", self.key),
        };
        Ok(Entry { registered: registered.map_err(nonsense)?, revision })
    }

    /// Registers a member, unless somebody else did since `revision` was read; false: somebody did.
    pub async fn write(&self, member: &Registered, revision: u64) -> Result<bool, RegistryError> {
        let value = serde_json::to_vec(member).map_err(|e| RegistryError::Settings(e.to_string()))?;
        match &self.store {
            KeyValueStore::Consul(consul) => consul.write(&self.key, value, revision).await,
            KeyValueStore::Etcd(etcd) => etcd.write(&self.key, value, revision).await,
        }
    }
}

impl std::fmt::Display for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "whom key {} names in {}", self.key, self.mode())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_by_table() {
        for (mode, config, under, wrong) in [
            ("consul-kv", "", "rqlite", None),
            ("consul-kv", r#"{"address": "h:8500", "scheme": "https", "token": "t"}"#, "/a/b/", None),
            (
                "consul-kv",
                r#"{"basic_auth": {"username": "u", "password": "p"}, "tls_config": {}}"#,
                "a",
                None,
            ),
            ("consul-kv", r#"{"address": "http://h:8500"}"#, "a", Some("belongs into scheme")),
            ("consul-kv", r#"{"scheme": "ftp"}"#, "a", Some("neither http nor https")),
            ("consul-kv", r#"{"adress": "h:1"}"#, "a", Some("unknown field `adress`")),
            ("consul-kv", "{", "a", Some("-disco-config: EOF")),
            (
                "etcd-kv",
                r#"{"endpoints": ["h:1"], "dial-timeout": 30000, "reject-old-cluster": true}"#,
                "a",
                None,
            ),
            ("etcd-kv", r#"{"password": "p"}"#, "a", Some("there is no username")),
            ("etcd-kv", "{}", "/", Some("-disco-key")),
        ] {
            match (Registry::parse(mode, config, under).unwrap(), wrong) {
                (Ok(registry), None) => {
                    assert_eq!(registry.mode(), mode);
                    assert_eq!(registry.key(), format!("{}/leader", under.trim_matches('/')));
                }
                (Err(error), Some(part)) => assert!(error.contains(part), "{config}: {error}"),
                (found, _) => assert_eq!(found.err(), wrong.map(str::to_owned), "{config}"),
            }
        }
        assert!(Registry::parse("dns", "{}", "a").is_none());
    }

    #[test]
    fn secrets_are_not_shown() {
        let consul = r#"{"token": "hush", "basic_auth": {"username": "u", "password": "hush"}}"#;
        let etcd = r#"{"username": "u", "password": "hush"}"#;
        for (mode, config) in [("consul-kv", consul), ("etcd-kv", etcd)] {
            let shown = format!("{:?}", Registry::parse(mode, config, "a").unwrap().unwrap());
            assert!(shown.contains("\"u\"") && !shown.contains("hush"), "{shown}");
        }
    }

    #[test]
    fn what_rqlite_registered_is_read() {
        let theirs = r#"{"id":"1","api_addr":"http://h:4001","addr":"h:4002"}"#;
        let read: Registered = serde_json::from_str(theirs).unwrap();
        assert_eq!((read.addr.as_str(), read.node_id), ("h:4002", None));
        assert_eq!(serde_json::to_string(&read).unwrap(), theirs);
    }
}
