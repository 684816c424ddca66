//! The types Raft is built from here. No other module names one of openraft's.

use bytes::Bytes;
use client::admin::AddLearner;
use openraft::RaftTypeConfig;
use openraft::type_config::alias as of;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How to reach a member, kept in the membership. Addresses are hints; who answers is checked by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its name.
    pub name: String,
    /// `host:port` of the peer port.
    pub raft_addr: String,
    /// `host:port` of the client port.
    pub api_addr: String,
}

impl From<AddLearner> for PeerInfo {
    fn from(member: AddLearner) -> Self {
        Self { name: member.name, raft_addr: member.raft_address, api_addr: member.api_address }
    }
}

/// The data of a normal entry: an encoded [`super::command`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandBytes(pub Bytes);

impl fmt::Display for CommandBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// An entry was applied. What its requests answered goes to those who wait for them ([`super::waiters`]), not through
/// Raft.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Applied;

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("applied")
    }
}

/// Calls a function with the outcome, which saves a channel per proposal.
pub struct Responder<T>(pub Box<dyn FnOnce(T) + Send>);

impl<C: RaftTypeConfig, T: Send + 'static> openraft::raft::responder::Responder<C, T> for Responder<T> {
    fn on_complete(self, outcome: T) {
        (self.0)(outcome);
    }
}

/// The type configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;

impl RaftTypeConfig for TypeConfig {
    type D = CommandBytes;
    type R = Applied;
    type NodeId = u64;
    type Node = PeerInfo;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<LeaderId>;
    type Payload = openraft::EntryPayload<CommandBytes, u64, PeerInfo>;
    type Entry = openraft::Entry<<LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type Responder<T>
        = Responder<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;
pub type Entry = of::EntryOf<TypeConfig>;
pub type LogId = of::LogIdOf<TypeConfig>;
pub type Vote = of::VoteOf<TypeConfig>;
pub type StoredMembership = of::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = of::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = of::SnapshotOf<TypeConfig, super::state_machine::SnapshotData>;
/// Watches who leads.
pub type ServerMetrics = of::WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>>;
pub type Metrics = openraft::RaftMetrics<TypeConfig>;

/// openraft's position from the store's.
pub fn log_id_from(id: crate::store::LogId) -> LogId {
    openraft::LogId::new(LeaderId { term: id.term, node_id: id.leader }, id.index)
}

/// The store's position from openraft's.
pub fn log_id_to(id: &LogId) -> crate::store::LogId {
    crate::store::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}
