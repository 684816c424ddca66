//! What this member answers to the calls of others.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::extensions::{ExtensionsReport, named};
use super::join::{JoinRequest, Notice};
use super::membership::{Administer, refuse};
use super::rolled_back::Accusation;
use super::wire;
use crate::observe::Observe as _;
use bytes::{Bytes, BytesMut};
use client::admin::{FatalEntry, Member, MemberRef, NodeId, Phase, RefusalReason};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Answer to "who are you?".
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Described {
    /// The member.
    pub member: MemberRef,
    /// `host:port` of its client port.
    pub api_address: String,
    /// Its program's version.
    pub version: String,
    /// The last entry that it applied.
    #[serde(default)]
    pub applied_index: Option<u64>,
    /// Its term.
    #[serde(default)]
    pub term: u64,
    /// The checksum of its database that it knows last: after which entry, and what.
    #[serde(default)]
    pub checksum: Option<(u64, u64)>,
    /// It goes down, or its database is wrong: it had better not lead.
    #[serde(default)]
    pub is_leaving_service: bool,
    /// Its disk is nearly full: it had better not lead.
    #[serde(default)]
    pub is_low_on_space: bool,
    /// What its cluster begins with is still on its way: it does not serve.
    #[serde(default)]
    pub is_held_back: bool,
    /// It knows entries that do something for the database itself.
    #[serde(default)]
    pub knows_maintenance: bool,
    /// How many bytes more have to be free for a VACUUM.
    #[serde(default)]
    pub lacks_for_vacuum: Option<u64>,
    /// It takes calls of traced requests.
    #[serde(default)]
    pub takes_traced: bool,
    /// The same with what is handed on along the trace.
    #[serde(default)]
    pub takes_trace_state: bool,
    /// It takes calls that name the client they are for.
    #[serde(default)]
    pub takes_callers: bool,
    /// The entry that it does not apply any more, because that ended it again and again.
    #[serde(default)]
    pub fatal_entry: Option<FatalEntry>,
    /// The extensions that it is configured with; none if it is of a version that knows of none.
    #[serde(default)]
    pub extensions: Option<ExtensionsReport>,
    /// Names of the files that it is configured with, also of those that it does not want, with the SHA-256 of each.
    #[serde(default)]
    pub extension_files: Vec<(String, String)>,
    /// Its cluster; none while it is of none, or if it is of a version that does not say.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Whether it was started to enforce foreign keys; none if it is of a version whose members enforce what each was started
    /// with, whatever the state says.
    #[serde(default)]
    pub foreign_keys: Option<bool>,
    /// What executes SQL there; none if it is of a version that does not tell.
    #[serde(default)]
    pub engine: Option<String>,
    /// The first entry that its log has, or will have; none if it is of a version that does not tell.
    #[serde(default)]
    pub log_begins: Option<u64>,
}

impl Consensus {
    /// Answers another member's call.
    pub(super) async fn answer(&self, kind: Kind, mut body: Bytes) -> Result<Bytes, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        match kind {
            Kind::Vote | Kind::PreVote if self.has_stopped() => Err("Raft has stopped on this member".into()),
            Kind::Vote | Kind::PreVote => {
                self.peers.outlived().may_vote().await?;
                let request = wire::get_vote_request(&mut body).map_err(|e| text(&e))?;
                let response = if kind == Kind::Vote {
                    self.raft.vote(request).await.map_err(|e| text(&e))?
                } else {
                    self.raft.pre_vote(request).await.map_err(|e| text(&e))?
                };
                let mut out = BytesMut::new();
                wire::put_vote_response(&mut out, &response);
                Ok(out.freeze())
            }
            Kind::TransferLeader => {
                let request = serde_json::from_slice(&body).map_err(|e| text(&e))?;
                let response = self.raft.handle_transfer_leader(request).await.map_err(|e| text(&e))?;
                to_json(&response)
            }
            Kind::Execute => self.answer_execute(body).await,
            Kind::Query => self.answer_query(body).await,
            Kind::Administer => self.answer_administer(&body).await,
            Kind::Join => {
                self.joins.fetch_add(1, Ordering::Relaxed);
                let request: JoinRequest = serde_json::from_slice(&body).map_err(|e| text(&e))?;
                to_json(&self.join(request).await)
            }
            Kind::Notify => {
                let notice: Notice = serde_json::from_slice(&body).map_err(|e| text(&e))?;
                self.take_notice(notice).await.map_err(|refusal| refusal.message)?;
                Ok(Bytes::new())
            }
            Kind::ReadIndex => {
                let index = self.barrier.pass().await.map_err(|e| text(&e))?;
                Ok(Bytes::copy_from_slice(&index.to_le_bytes()))
            }
            Kind::Checksums => self.answer_checksums().await,
            Kind::Reinstall => self.answer_reinstall(body).await,
            Kind::Describe => to_json(&self.described()),
            Kind::Traced => self.answer_traced(body).await,
            Kind::OnBehalf => self.answer_on_behalf(body).await,
            Kind::RolledBack => {
                let Accusation { by, leads, start, why } = Accusation::get(body).map_err(|e| text(&e))?;
                // It may be meant for the one before this.
                if start == self.identity.start() {
                    self.peers.rolled_back().note(by, leads, &why);
                }
                Ok(Bytes::new())
            }
        }
    }

    /// Changes the membership, or leadership, for another member.
    pub(super) async fn answer_administer(&self, body: &[u8]) -> Result<Bytes, String> {
        let request: Administer = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let metrics = self.metrics();
        // Forwarded once: a second hop could go round for ever.
        let answer = if metrics.current_leader == Some(metrics.id) {
            self.administer_here(request).await
        } else {
            refuse(RefusalReason::NoLeader, "this member does not lead")
        };
        to_json(&answer)
    }

    /// This member's own answer to "who are you?".
    pub fn described(&self) -> Described {
        Described {
            member: MemberRef { node_id: self.identity.node_id(), name: self.config.name.clone() },
            api_address: self.config.api_address.clone(),
            version: crate::VERSION.into(),
            applied_index: self.store.applied().index(),
            term: self.metrics().current_term,
            checksum: self.store.last_checksum().map(|checksum| (checksum.index, checksum.sum)),
            is_leaving_service: matches!(self.phase.current(), Phase::Draining | Phase::Fenced),
            is_low_on_space: self.space.is_low(),
            is_held_back: self.is_held_back(),
            knows_maintenance: true,
            lacks_for_vacuum: self.lacks_for_vacuum(),
            takes_traced: true,
            takes_trace_state: true,
            takes_callers: true,
            fatal_entry: self.fatal_entry(),
            extensions: Some(self.store.shelf().wanted().into()),
            extension_files: named(self.store.shelf().configured()),
            cluster_id: self.identity.cluster().map(|cluster| cluster.cluster_id),
            foreign_keys: Some(self.store.foreign_keys().configured),
            engine: Some(self.store.engine().to_owned()),
            log_begins: Some(self.log.purged().map_or(0, |(index, _)| index + 1)),
        }
    }

    /// What a member says of itself, this one too.
    pub(super) async fn describe_member(
        &self,
        member: &Member,
        timeout: Duration,
    ) -> Result<Described, CallError> {
        if member.node_id == self.identity.node_id() {
            return Ok(self.described());
        }
        self.describe_peer(member.node_id, &member.raft_address, timeout).await
    }

    /// Asks who answers at a member's address; for `/nodes`.
    pub async fn describe_peer(
        &self,
        id: NodeId,
        address: &str,
        timeout: Duration,
    ) -> Result<Described, CallError> {
        let answer = self.peers.call(id.0, address, Kind::Describe, &[], timeout).await?;
        serde_json::from_slice(&answer).map_err(|e| CallError::Remote(e.to_string()))
    }

    /// The cluster of whoever is at `address`, if they are of one and say so.
    pub async fn cluster_at(&self, address: &str) -> Result<Option<String>, CallError> {
        let answer = self.peers.ask_as_stranger(address, Kind::Describe).await?;
        let described: Described =
            serde_json::from_slice(&answer).map_err(|e| CallError::Remote(e.to_string()))?;
        Ok(described.cluster_id)
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<Bytes, String> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_member_of_an_older_version_takes_less() {
        let said = r#"{"member": {"nodeId": "00000000000000ff", "name": "n1"}, "api_address": "a:1", "version": "0.1.0"}"#;
        let described: Described = serde_json::from_str(said).unwrap();
        assert_eq!(described.member.name, "n1");
        assert!(!described.takes_traced && !described.takes_trace_state && !described.takes_callers);
        assert_eq!(described.cluster_id, None);
    }
}
