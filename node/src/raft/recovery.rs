//! Going on alone after the other voters were lost for good. It is asked for once, written down, and done at the next
//! start, before Raft runs: the membership becomes this member alone, and the cluster's epoch is raised, so that whoever
//! of the old ones comes back neither votes nor serves.

use super::log_store::LogStore;
use super::types::{Entry, LeaderId, LogId, PeerInfo, Vote};
use crate::identity::{Identity, IdentityError, replace_file};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::RaftLogStorage;
use openraft::{Membership, RaftLogReader};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

const FILE: &str = "recovery.json";

/// What was agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recovery {
    /// Last entry of this member's log: nothing after it is missed.
    pub index: u64,
    /// Epoch of the cluster afterwards.
    pub epoch: u64,
}

/// What was agreed to could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log or the order could not be read or written.
    #[error("recovery of the quorum: {0}")]
    Io(#[from] io::Error),
    /// The order makes no sense.
    #[error("recovery of the quorum: {FILE} is not of this version: {0}")]
    Decode(#[from] serde_json::Error),
    /// The epoch could not be raised.
    #[error("recovery of the quorum: {0}")]
    Identity(#[from] IdentityError),
}

impl Recovery {
    /// Writes it down; returns after it is on disk.
    pub fn order(&self, directory: &Path) -> Result<(), RecoveryError> {
        Ok(replace_file(directory, FILE, &serde_json::to_vec_pretty(self)?)?)
    }

    /// Does what was written down, if anything was. Each step can be repeated after a crash.
    pub async fn perform(
        directory: &Path,
        identity: &Identity,
        log: &mut LogStore,
        own: PeerInfo,
    ) -> Result<(), RecoveryError> {
        let path = directory.join(FILE);
        let order: Self = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let id = identity.node_id().0;
        let is_done = identity.cluster().is_some_and(|cluster| cluster.epoch >= order.epoch);
        if !is_done {
            match order.prepared(log, id).await? {
                Some(true) => {}
                Some(false) => {
                    let (voters, nodes) = (BTreeSet::from([id]), BTreeMap::from([(id, own)]));
                    append_membership(log, id, order.index + 1, voters, nodes).await?;
                }
                None => {
                    tracing::error!(
                        index = order.index,
                        "the log went on since the recovery was agreed to: not done"
                    );
                    return Ok(fs::remove_file(&path)?);
                }
            }
            identity.raise_epoch(order.epoch)?;
            tracing::warn!(index = order.index, epoch = order.epoch, "goes on alone, as was agreed to");
        }
        Ok(fs::remove_file(&path)?)
    }

    /// Whether the entry that makes this member the only voter is in the log; none if another one is in its place.
    async fn prepared(&self, log: &mut LogStore, id: u64) -> io::Result<Option<bool>> {
        let last = log.get_log_state().await?.last_log_id.map_or(0, |id| id.index);
        if last == self.index {
            return Ok(Some(false));
        }
        let next = self.index + 1;
        let entries = log.try_get_log_entries(next..=next).await?;
        let alone = entries.first().and_then(|entry| match &entry.payload {
            EntryPayload::Membership(membership) => Some(membership.voter_ids().eq([id])),
            _ => None,
        });
        Ok((last == next && alone == Some(true)).then_some(true))
    }
}

/// Appends a membership that nobody agreed to, as member `id` and at `index`, in a term that no other member has been
/// in; the vote comes first, as for every entry.
///
/// Where several members do so, each to its own log, the one whose log went furthest before has to be elected, or what only
/// that one has is lost. Raft compares the last entries: the term first, then the leader, then the index. So the entry is
/// of the term after the one its log ended in, whatever was voted in since, and names in the leader's place its index.
pub(super) async fn append_membership(
    log: &mut LogStore,
    id: u64,
    index: u64,
    voters: BTreeSet<u64>,
    nodes: BTreeMap<u64, PeerInfo>,
) -> io::Result<()> {
    let voted = log.read_vote().await?.map_or(0, |vote| vote.leader_id.term);
    let written = log.get_log_state().await?.last_log_id.map_or(0, |id| id.leader_id.term);
    let term = voted.max(written) + 1;
    log.save_vote(&Vote::new(term, id)).await?;
    let membership = Membership::new(vec![voters], nodes).map_err(io::Error::other)?;
    let log_id: LogId = openraft::LogId::new(LeaderId { term: written + 1, node_id: index }, index);
    log.append_one(Entry::new(log_id, EntryPayload::Membership(membership))).await
}
