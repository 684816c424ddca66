//! Members as `/nodes` and `/leader` show them.

use serde::Deserialize;

/// One member in rqlite's shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ClusterNode {
    /// Its name.
    pub id: String,
    /// Base URL of its client port.
    #[serde(default)]
    pub api_addr: String,
    /// `host:port` of its peer port.
    #[serde(default)]
    pub addr: String,
    /// Version of its program.
    #[serde(default)]
    pub version: String,
    /// Whether it votes.
    #[serde(default)]
    pub voter: bool,
    /// Whether the member that was asked could reach it.
    #[serde(default)]
    pub reachable: bool,
    /// Whether it leads.
    #[serde(default)]
    pub leader: bool,
    /// Why it was not reached.
    #[serde(default)]
    pub error: Option<String>,
}

/// Answer of `GET /nodes?ver=2`.
#[derive(Deserialize)]
pub(super) struct ClusterNodes {
    pub(super) nodes: Vec<ClusterNode>,
}
