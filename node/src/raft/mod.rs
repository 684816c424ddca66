//! Consensus: the only module that names openraft. Its public face speaks of requests, levels and members.

mod administer;
mod answer;
pub mod calls;
pub mod command;
mod connection;
mod consensus;
mod execute;
mod forward;
mod join;
mod log_store;
mod membership;
mod peer_client;
mod peer_server;
mod propose;
mod read;
mod report;
mod retention;
mod snapshot_stream;
mod state_machine;
mod teller;
#[allow(missing_docs, reason = "aliases of openraft's types, named as they are there")]
mod types;
mod waiters;
mod wire;

pub use answer::Described;
pub use consensus::{Consensus, ConsensusConfig, Profile, StartError};
pub use execute::Executed;
pub use forward::{Level, QueryAnswer, QueryOptions, ReadBody, RequestError};
pub use join::{JoinRequest, Joined};
pub use membership::{Administer, Administered};
