//! Where the members are found that a new one joins or makes a cluster with: named one by one, by DNS, or by who is
//! registered in a key-value store.

mod ask;
mod consul;
mod etcd;
mod registry;

pub use ask::RegistryError;
pub use registry::{Entry, Registered, Registry};

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use serde::Deserialize;
use std::io;

/// Instead of what DNS says, for tests: `host:port`, separated by commas. rqlite's name for it.
const OVERRIDE: &str = "RQLITE_DISCO_DNS_HOSTS";

/// Where other members are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// At these peer addresses.
    Listed(Vec<String>),
    /// At the addresses of a name (A, AAAA), all with the same port.
    Dns {
        /// The name.
        name: String,
        /// The peer port.
        port: u16,
    },
    /// At the hosts and ports of a service (SRV, RFC 2782).
    DnsSrv {
        /// `_service._tcp.name`.
        name: String,
    },
    /// Whoever is registered as the leader.
    Registry(Registry),
}

/// The value of `-disco-config` for `dns`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DnsConfig {
    name: String,
    port: Option<u16>,
}

/// The value of `-disco-config` for `dns-srv`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DnsSrvConfig {
    name: String,
    service: String,
}

impl Discovery {
    /// As a mode and its configuration in JSON say; `port` is where peers listen unless said otherwise, `key` what the key
    /// of a registry begins with.
    pub fn parse(mode: &str, config: &str, port: u16, key: &str) -> Result<Self, String> {
        if let Some(registry) = Registry::parse(mode, config, key) {
            return registry.map(Self::Registry);
        }
        let malformed = |e: serde_json::Error| format!("-disco-config: {e}");
        match mode {
            "dns" => {
                let config: DnsConfig = serde_json::from_str(config).map_err(malformed)?;
                Ok(Self::Dns { name: config.name, port: config.port.unwrap_or(port) })
            }
            "dns-srv" => {
                let config: DnsSrvConfig = serde_json::from_str(config).map_err(malformed)?;
                Ok(Self::DnsSrv { name: format!("_{}._tcp.{}", config.service, config.name) })
            }
            other => Err(format!(
                "-disco-mode {other:?} is not known; there are dns, dns-srv, consul-kv and etcd-kv"
            )),
        }
    }

    /// Whether nobody is to be found.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Listed(addresses) if addresses.is_empty())
    }

    /// What `/status` calls it.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Listed(_) => "",
            Self::Dns { .. } => "dns",
            Self::DnsSrv { .. } => "dns-srv",
            Self::Registry(registry) => registry.mode(),
        }
    }

    /// The registry, if there is one.
    pub fn registry(&self) -> Option<&Registry> {
        match self {
            Self::Registry(registry) => Some(registry),
            _ => None,
        }
    }

    /// The peer addresses that are known now, `host:port`. Looked up anew each time: members come and go.
    pub async fn addresses(&self) -> io::Result<Vec<String>> {
        match (self, std::env::var(OVERRIDE)) {
            (Self::Listed(addresses), _) => Ok(addresses.clone()),
            (Self::Registry(registry), _) => {
                let entry = registry.read().await.map_err(io::Error::other)?;
                Ok(entry.registered.into_iter().map(|leader| leader.addr).collect())
            }
            (_, Ok(hosts)) => {
                Ok(hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect())
            }
            (Self::Dns { name, port }, Err(_)) => {
                let found = tokio::net::lookup_host((name.as_str(), *port)).await?;
                Ok(found.map(|address| address.to_string()).collect())
            }
            (Self::DnsSrv { name }, Err(_)) => {
                let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
                services(&resolver.map_err(io::Error::other)?, name).await
            }
        }
    }
}

async fn services(resolver: &TokioResolver, name: &str) -> io::Result<Vec<String>> {
    let found = resolver.srv_lookup(name).await.map_err(io::Error::other)?;
    let addresses = found.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => {
            let target = srv.target.to_ascii();
            Some(format!("{}:{}", target.trim_end_matches('.'), srv.port))
        }
        _ => None,
    });
    Ok(addresses.collect())
}

impl std::fmt::Display for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listed(addresses) => f.write_str(&addresses.join(",")),
            Self::Dns { name, .. } | Self::DnsSrv { name } => f.write_str(name),
            Self::Registry(registry) => registry.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, MessageType};
    use hickory_resolver::proto::rr::{Name, Record, rdata::SRV};
    use std::str::FromStr as _;
    use tokio::net::UdpSocket;

    #[test]
    fn modes_by_table() {
        let dns = |name: &str, port| Ok(Discovery::Dns { name: name.into(), port });
        for (mode, config, expected) in [
            ("dns", r#"{"name": "db.example"}"#, dns("db.example", 4002)),
            ("dns", r#"{"name": "db.example", "port": 7}"#, dns("db.example", 7)),
            (
                "dns-srv",
                r#"{"name": "db.example", "service": "raft"}"#,
                Ok(Discovery::DnsSrv { name: "_raft._tcp.db.example".into() }),
            ),
        ] {
            assert_eq!(Discovery::parse(mode, config, 4002, "rqlite"), expected);
        }
        for (mode, config) in
            [("dns", ""), ("dns", r#"{"nam": "x"}"#), ("dns-srv", r#"{"name": "x"}"#), ("x", "{}")]
        {
            assert!(Discovery::parse(mode, config, 4002, "rqlite").is_err(), "{mode} {config}");
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up() {
        let found = Discovery::Dns { name: "localhost".into(), port: 7 }.addresses().await.unwrap();
        assert!(found.contains(&"127.0.0.1:7".to_owned()), "{found:?}");
    }

    /// A server of names that knows two members.
    async fn serve_names(socket: UdpSocket) {
        let mut buffer = [0; 1024];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut message = Message::from_vec(&buffer[..length]).unwrap();
            message.metadata.message_type = MessageType::Response;
            let name = message.queries[0].name().clone();
            for (host, port) in [("a.example.", 4002), ("b.example.", 5002)] {
                let data = RData::SRV(SRV::new(0, 0, port, Name::from_str(host).unwrap()));
                message.add_answer(Record::from_rdata(name.clone(), 5, data));
            }
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_service_is_looked_up() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = tokio::spawn(serve_names(socket));
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let server_config = NameServerConfig::new(address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, vec![], vec![server_config]);
        let resolver =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
        let found = services(&resolver, "_raft._tcp.db.example.").await.unwrap();
        assert_eq!(found, ["a.example:4002", "b.example:5002"]);
        server.abort();
    }
}
