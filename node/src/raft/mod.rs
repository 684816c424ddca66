//! Consensus: the only module that names openraft. Its public face speaks of requests, levels and members.

mod administer;
mod answer;
mod applying;
pub mod calls;
pub mod command;
mod connection;
mod consensus;
mod consistency;
mod contact;
mod copies;
mod execute;
mod forward;
mod join;
mod local_read;
mod log_store;
mod membership;
mod out_of_space;
mod peer_client;
mod peer_server;
mod propose;
mod read;
mod received;
mod recovery;
mod reinstall;
mod replace;
mod report;
mod retention;
mod snapshot_receive;
mod snapshot_send;
mod snapshot_stream;
mod state_machine;
mod stream_calls;
mod teller;
#[allow(missing_docs, reason = "aliases of openraft's types, named as they are there")]
mod types;
mod waiters;
mod wire;

pub use answer::Described;
pub use consensus::{Consensus, ConsensusConfig, Profile, StartError};
pub use consistency::Verdict;
pub use copies::DatabaseCopy;
pub use execute::{Executed, LONGEST};
pub use forward::{Freshness, Level, QueryAnswer, QueryOptions, ReadBody, RequestError};
pub use join::{JoinRequest, Joined};
pub use membership::{Administer, Administered};
pub use replace::{LoadError, Loaded, Upload};
