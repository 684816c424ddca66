//! What consensus needs to know, and what openraft is told of it.

use super::reap::Reap;
use super::start_error::StartError;
use crate::trace::Tracer;
use openraft::SnapshotPolicy;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How fast a lost leader is noticed, against how little a slow network or processor is mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// The shortest silence after which a voter asks for votes; the longest is 1.25 times that.
    pub election_timeout: Duration,
}

impl Profile {
    /// Members within a data centre.
    pub const LAN: Self =
        Self { heartbeat: Duration::from_millis(100), election_timeout: Duration::from_millis(360) };
    /// Members in several regions.
    pub const WAN: Self =
        Self { heartbeat: Duration::from_millis(400), election_timeout: Duration::from_millis(2000) };
}

/// What consensus needs to know.
#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// Name of the member, unique in the cluster.
    pub name: String,
    /// `host:port` at which peers reach it.
    pub raft_address: String,
    /// `host:port` at which clients reach it.
    pub api_address: String,
    /// Where the database and Raft's log are.
    pub directory: PathBuf,
    /// Election and heartbeat times.
    pub profile: Profile,
    /// Size of the log's segment files, in bytes.
    pub log_segment_bytes: u64,
    /// How much of the log is kept for followers that were away, in bytes.
    pub log_retention_bytes: u64,
    /// How much of the log is kept until it is archived, in bytes.
    pub log_for_archive_bytes: u64,
    /// Steps that the statements of one write may take together, where this member leads; 0 is without limit.
    pub write_step_limit: u64,
    /// How often the checksums of the members are compared.
    pub consistency_period: Duration,
    /// Free space below which no more writes are taken, in bytes.
    pub disk_reserve_bytes: u64,
    /// After which silence members are removed.
    pub reap: Reap,
    /// Not to serve before [`super::Consensus::let_serve`].
    pub is_held_back: bool,
    /// What traces requests, if they are.
    pub tracer: Option<Arc<Tracer>>,
}

/// The timing of `profile`, and snapshots and purges left to us.
pub(super) fn raft_config(profile: Profile) -> Result<openraft::Config, StartError> {
    let milliseconds = |d: Duration| d.as_millis() as u64;
    let election = milliseconds(profile.election_timeout);
    let config = openraft::Config {
        cluster_name: "sqlited".into(),
        heartbeat_interval: milliseconds(profile.heartbeat),
        election_timeout_min: election,
        // A leader's lease lasts as long as the longest timeout, so the two are close: see
        // docs/design.md, "Elections".
        election_timeout_max: election + election / 4,
        enable_pre_vote: Some(true),
        // A leader may commit what two followers have and its own disk has not: after a crash it would write something
        // else in that place, in the same term. It has to be elected again, by members who know more.
        enable_leader_restore: Some(false),
        // `retention` decides about both.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX / 4,
        replication_lag_threshold: u64::MAX / 4,
        // Appends are bounded by bytes in the log store.
        max_payload_entries: 1024,
        install_snapshot_timeout: 60_000,
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| StartError::Config(error.to_string()))
}
