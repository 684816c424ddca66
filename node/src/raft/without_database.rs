//! A member whose database is damaged, and whose log and identity are not: it remembers what it promised, so it goes on
//! voting and acknowledging entries. It starts out of service on a database that holds nothing
//! ([`Store::open_instead`]), applies nothing, and takes another member's state ([`super::reinstall`]).
//!
//! That takes others that may have it. Who they are is known by the log: by its last membership entry, or, where that is
//! purged, by what is noted with each purge.
//!
//! [`Store::open_instead`]: crate::store::Store::open_instead

use super::log_store::LogStore;
use super::types::log_id_to;
use super::wire::membership_from_store;
use crate::identity::Identity;
use crate::store::{Applied, Meta, StoredMembership};
use raftlog::RaftLog;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Why a member without a database cannot take another member's.
#[derive(Debug, thiserror::Error)]
pub enum NoSource {
    /// There are no others.
    #[error("this member is of no cluster")]
    NoCluster,
    /// Nobody else has to have its data, as far as is known.
    #[error("its log names no other voter")]
    Alone,
    /// It does not know what it promised either.
    #[error("open Raft's log: {0}")]
    Log(#[from] raftlog::OpenError),
    /// The log could not be read.
    #[error("read Raft's log: {0}")]
    Read(#[from] io::Error),
}

/// What a database that holds nothing has to say so that Raft goes on with the log of `directory`: that everything is
/// applied that is not in the log any more. Blocks.
pub fn state_before_log(directory: &Path, identity: &Identity, segment_bytes: u64) -> Result<Meta, NoSource> {
    let cluster = identity.cluster().ok_or(NoSource::NoCluster)?;
    let options = raftlog::Options { segment_bytes, ..raftlog::Options::default() };
    let (log, _) = RaftLog::open(directory.join("raft").join("log"), options, Arc::new(raftlog::OsIo))?;
    let entries = LogStore::new(log.clone());
    let read = || Ok::<_, io::Error>((entries.purged()?, entries.last_membership()?));
    let outcome = read();
    log.close().map_err(io::Error::other)?;
    let (purged, last) = outcome?;
    if !has_other_voters(&last, identity.node_id().0)? {
        return Err(NoSource::Alone);
    }
    let (log_id, membership) = purged.map_or_else(Default::default, |(id, at)| (Some(log_id_to(&id)), at));
    let applied = Applied { log_id, ..Applied::default() };
    let (cluster_id, epoch) = (cluster.cluster_id, cluster.epoch);
    Ok(Meta { applied, epoch, cluster_id, membership, ..Meta::default() })
}

/// Whether somebody else than member `own` votes by this membership. By none nobody does.
pub fn has_other_voters(membership: &StoredMembership, own: u64) -> io::Result<bool> {
    let stored = membership_from_store(membership)?;
    Ok(stored.voter_ids().any(|voter| voter != own))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::raft::wire::membership_to_bytes;
    use crate::store::LogId;
    use openraft::Membership;

    #[test]
    fn others_are_counted_among_the_voters_of_both_halves_of_a_change() {
        let of = |configs: &[&[u64]], learners: &[u64]| {
            let voters = configs.iter().map(|config| config.iter().copied().collect()).collect();
            let membership = Membership::new_with_defaults(voters, learners.iter().copied());
            StoredMembership { log_id: Some(LogId::default()), bytes: membership_to_bytes(&membership) }
        };
        for (membership, others) in [
            (StoredMembership::default(), false),
            (of(&[&[1]], &[]), false),
            (of(&[&[1]], &[2, 3]), false),
            (of(&[&[1, 2]], &[]), true),
            (of(&[&[1, 2, 3]], &[4]), true),
            (of(&[&[2]], &[1]), true),
            (of(&[&[1], &[1, 2]], &[]), true),
        ] {
            assert_eq!(has_other_voters(&membership, 1).unwrap(), others, "{membership:?}");
        }
        let damaged = StoredMembership { log_id: Some(LogId::default()), bytes: b"{".to_vec() };
        assert!(has_other_voters(&damaged, 1).is_err());
    }
}
