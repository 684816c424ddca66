//! rqlite's recovery of a lost quorum: `raft/peers.json` in the data directory of every member that is left, the same on
//! each, says who the cluster consists of from now on. It is done at the next start, before Raft runs, and the file is
//! renamed to `peers.info`.
//!
//! Each member appends that membership to its log, in a term that nobody has been in; of those, the one that gets elected
//! counts, and the others are cut off. So everything that the electors' longest log holds is kept, committed or not, and
//! what only lost members had is lost. The cluster's epoch is raised, so that those never come back with the old future.

use super::log_store::LogStore;
use super::recovery::append_membership;
use super::types::PeerInfo;
use super::wire::membership_from_store;
use crate::failpoint::{Place, pass};
use crate::identity::{Identity, IdentityError, replace_file};
use crate::observe::Observe as _;
use crate::store::Store;
use openraft::entry::RaftEntry;
use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, RaftLogReader};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, io};

const FILE: &str = "peers.json";
const DONE: &str = "peers.info";
/// Which epoch is the one after this recovery, while it is under way: a start that repeats it raises to the same.
const EPOCH: &str = "peers.epoch";

/// A member that there shall be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    id: String,
    address: String,
    #[serde(default)]
    non_voter: bool,
}

/// What the file says could not be done.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// It makes no sense.
    #[error("raft/{FILE}: {0}")]
    Invalid(String),
    /// A file or the log could not be read or written.
    #[error("raft/{FILE}: {0}")]
    Io(#[from] io::Error),
    /// The epoch could not be raised.
    #[error("raft/{FILE}: {0}")]
    Identity(#[from] IdentityError),
}

/// Does what the file says, if there is one. Each step can be repeated after a crash.
pub async fn consume(
    directory: &Path,
    identity: &Identity,
    log: &mut LogStore,
    store: &Store,
) -> Result<(), PeersError> {
    let directory = directory.join("raft");
    let text = match fs::read(directory.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return forget_epoch(&directory),
        Err(error) => return Err(error.into()),
    };
    let peers: Vec<Peer> = serde_json::from_slice(&text).map_err(|e| PeersError::Invalid(e.to_string()))?;
    let Some(cluster) = identity.cluster() else {
        return Err(PeersError::Invalid("this member is of no cluster: there is nothing to recover".into()));
    };
    let known = last_membership(log, store).await?;
    let (voters, nodes) = membership(&peers, &known, identity.node_id().0).map_err(PeersError::Invalid)?;
    let epoch = epoch_after(&directory, cluster.epoch)?;
    if !is_appended(log, &voters, &nodes).await? {
        let index = log.get_log_state().await?.last_log_id.map_or(0, |id| id.index + 1);
        append_membership(log, identity.node_id().0, index, voters, nodes).await?;
    }
    pass(Place::PeersAppended)?;
    identity.raise_epoch(epoch)?;
    pass(Place::PeersRaised)?;
    fs::rename(directory.join(FILE), directory.join(DONE))?;
    fs::File::open(&directory)?.sync_all()?;
    tracing::warn!(members = peers.len(), epoch, "the membership is what raft/{FILE} says");
    forget_epoch(&directory)
}

/// The epoch after this recovery, written down before anything is done.
fn epoch_after(directory: &Path, present: u64) -> Result<u64, PeersError> {
    match fs::read_to_string(directory.join(EPOCH)) {
        Ok(text) => {
            text.trim().parse().map_err(|_| PeersError::Invalid(format!("raft/{EPOCH} holds no number")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            replace_file(directory, EPOCH, (present + 1).to_string().as_bytes())?;
            Ok(present + 1)
        }
        Err(error) => Err(error.into()),
    }
}

fn forget_epoch(directory: &Path) -> Result<(), PeersError> {
    match fs::remove_file(directory.join(EPOCH)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => Ok(removed.and_then(|()| fs::File::open(directory)?.sync_all())?),
    }
}

/// Whether the membership is the last entry already: an earlier start was cut short after it.
async fn is_appended(
    log: &mut LogStore,
    voters: &BTreeSet<u64>,
    nodes: &BTreeMap<u64, PeerInfo>,
) -> io::Result<bool> {
    let Some(last) = log.get_log_state().await?.last_log_id.map(|id| id.index) else { return Ok(false) };
    let entries = log.try_get_log_entries(last..=last).await?;
    Ok(entries.first().is_some_and(|entry| match &entry.payload {
        EntryPayload::Membership(membership) => {
            entry.log_id.leader_id.node_id == last
                && membership.voter_ids().eq(voters.iter().copied())
                && membership.nodes().eq(nodes)
        }
        _ => false,
    }))
}

/// Who there was last, by id: what the log says, or the database where the log says nothing.
async fn last_membership(log: &mut LogStore, store: &Store) -> io::Result<BTreeMap<u64, PeerInfo>> {
    let applied = membership_from_store(&store.state().observe(|state| state.membership.clone()))?;
    let mut last: BTreeMap<u64, PeerInfo> = applied.nodes().map(|(id, node)| (*id, node.clone())).collect();
    let mut next = store.applied().index().map_or(0, |index| index + 1);
    loop {
        let entries = log.limited_get_log_entries(next, u64::MAX).await?;
        let Some(end) = entries.last().map(|entry| entry.index()) else { return Ok(last) };
        for entry in entries {
            if let EntryPayload::Membership(membership) = entry.payload {
                last = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
            }
        }
        next = end + 1;
    }
}

type Members = (BTreeSet<u64>, BTreeMap<u64, PeerInfo>);

/// The ids of those that the file names, and where they are.
fn membership(peers: &[Peer], known: &BTreeMap<u64, PeerInfo>, own: u64) -> Result<Members, String> {
    let (mut voters, mut nodes) = (BTreeSet::new(), BTreeMap::new());
    for peer in peers {
        let found = known.iter().find(|(_, node)| node.name == peer.id);
        let Some((id, node)) = found else {
            let names: Vec<&str> = known.values().map(|node| node.name.as_str()).collect();
            return Err(format!("there was no member {:?}; there were {}", peer.id, names.join(", ")));
        };
        if nodes.insert(*id, PeerInfo { raft_addr: peer.address.clone(), ..node.clone() }).is_some() {
            return Err(format!("{:?} stands there twice", peer.id));
        }
        if !peer.non_voter {
            voters.insert(*id);
        }
    }
    if voters.is_empty() {
        return Err("nobody of those in it votes".into());
    }
    if !nodes.contains_key(&own) {
        return Err("this member is not in it".into());
    }
    Ok((voters, nodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_by_table() {
        let node =
            |name: &str| PeerInfo { name: name.into(), raft_addr: "old:1".into(), api_addr: "api:1".into() };
        let known = BTreeMap::from([(1, node("a")), (2, node("b")), (3, node("c"))]);
        let peer = |id: &str, non_voter| Peer { id: id.into(), address: format!("{id}:2"), non_voter };
        let (voters, nodes) = membership(&[peer("a", false), peer("b", true)], &known, 1).unwrap_or_default();
        assert_eq!(voters, BTreeSet::from([1]));
        assert_eq!(nodes.values().map(|node| node.raft_addr.as_str()).collect::<Vec<_>>(), ["a:2", "b:2"]);
        for (peers, expected) in [
            (vec![], "nobody"),
            (vec![peer("a", true)], "nobody"),
            (vec![peer("x", false)], "there was no member \"x\""),
            (vec![peer("a", false), peer("a", false)], "twice"),
            (vec![peer("b", false)], "this member is not in it"),
        ] {
            let error = membership(&peers, &known, 1).err().unwrap_or_default();
            assert!(error.contains(expected), "{peers:?}: {error}");
        }
    }
}
