//! What protects a member's ports, made of what it was configured with.

use crate::auth::{Authenticator, plain_password};
use crate::config::Config;
use crate::node::NodeError;
use crate::tls::{PeerTls, ServerTls};
use client::sql::Credentials;
use std::sync::Arc;

/// Users and certificates. By default there are none.
pub struct Security {
    /// Who may do what; none: everybody everything.
    pub auth: Option<Arc<Authenticator>>,
    /// What the member shows when it joins.
    pub join_as: Option<Credentials>,
    /// TLS of the client port.
    pub clients: Option<Arc<ServerTls>>,
    /// TLS of the peer port.
    pub peers: Option<Arc<PeerTls>>,
}

impl Security {
    /// Reads what the configuration names, and follows its changes as long as it is used.
    pub fn read(config: &Config) -> Result<Self, NodeError> {
        let of = |flag| move |message| NodeError::Named { flag, message };
        let auth = config.auth.clone().map(Authenticator::follow).transpose().map_err(of("-auth"))?;
        let join_as = match (&config.auth, &config.join_as) {
            (Some(users), Some(user)) => {
                let password = plain_password(users, user).map_err(of("-join-as"))?;
                Some(Credentials { user: user.clone(), password })
            }
            _ => None,
        };
        let clients = config.http_tls.clone().map(ServerTls::follow).transpose().map_err(of("-http-cert"))?;
        let peers = config.node_tls.clone().map(PeerTls::follow).transpose().map_err(of("-node-cert"))?;
        if config.node_tls.as_ref().is_some_and(|tls| tls.ca.is_none()) {
            tracing::warn!("-node-no-verify: whoever is in between can read and change what members say");
        }
        if auth.is_some() && peers.is_none() && !is_loopback(&config.raft_addr) {
            tracing::warn!(
                address = config.raft_addr,
                "clients have to say who they are, but whoever reaches the peer port need not: use -node-cert"
            );
        }
        Ok(Self {
            auth: auth.map(Arc::new),
            join_as,
            clients: clients.map(Arc::new),
            peers: peers.map(Arc::new),
        })
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
