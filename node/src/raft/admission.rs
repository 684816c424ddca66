//! Who may talk to the peer port, and who may become a member through it.

use super::Consensus;
use super::connection::{Greeting, Hello, Purpose};
use super::refused_peers::{Reason, RefusedPeer};
use super::rolled_back::Held;
use super::wire::get_vote;
use crate::auth::{Authenticator, Denied, Permission};
use crate::identity::ClusterIdentity;
use crate::tls::{Names, PeerTls, ServerTls};
use client::admin::{Certificates, Refusal, RefusalReason};
use client::sql::Credentials;
use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What protects the peer port. By default nothing does.
#[derive(Default)]
pub struct PeerSecurity {
    /// TLS between members.
    pub tls: Option<Arc<PeerTls>>,
    /// TLS of the client port, of which reports tell.
    pub clients: Option<Arc<ServerTls>>,
    /// Whose users may join.
    pub auth: Option<Arc<Authenticator>>,
    /// What this member shows when it joins.
    pub join_as: Option<Credentials>,
}

/// Members that this one saw in the membership, and those that it saw go.
#[derive(Debug, Default)]
pub struct Seen(Mutex<(BTreeSet<u64>, BTreeSet<u64>)>);

impl Seen {
    /// Looks at the present members; returns whether `id` was one and is none any more.
    fn has_gone(&self, present: impl Iterator<Item = u64>, id: u64) -> bool {
        let mut seen = self.0.lock();
        let present: BTreeSet<u64> = present.collect();
        let (known, gone) = &mut *seen;
        gone.extend(known.difference(&present));
        // An id that was taken out in a change that another leader undid comes back.
        gone.retain(|id| !present.contains(id));
        *known = present;
        gone.contains(&id)
    }
}

/// What is said to a member of an earlier epoch.
fn outlived(own: &ClusterIdentity, theirs: u64) -> String {
    let ClusterIdentity { cluster_id, epoch } = own;
    format!(
        "cluster {cluster_id} went on in epoch {epoch} after its quorum was lost, without this member, which is of epoch \
         {theirs}; give it an empty disk: it comes back as a new member"
    )
}

impl Consensus {
    /// Who may talk: members of the same cluster and epoch who mean this member, with a certificate in their name if
    /// those are verified. A member of no cluster yet becomes one of the cluster that calls it by its id, which nobody
    /// can know who has not asked this member for it. Somebody of no cluster may ask to join. Returns what
    /// this member says of itself.
    pub(super) fn admit(&self, hello: &Hello, names: Option<&Names>) -> Result<Greeting, RefusedPeer> {
        let refuse = |reason, message: String| Err(RefusedPeer::new(reason, message));
        let own_id = self.identity.node_id().0;
        if hello.to != 0 && hello.to != own_id {
            let message = format!("this is member {own_id:016x}, not {:016x}", hello.to);
            return refuse(Reason::OtherMember, message);
        }
        let theirs = ClusterIdentity { cluster_id: hello.cluster_id.clone(), epoch: hello.epoch };
        match self.identity.cluster() {
            _ if theirs.cluster_id.is_empty() => {
                if hello.purpose != Purpose::Calls {
                    return refuse(Reason::Stranger, "only a member may send log entries".into());
                }
            }
            Some(own) if own == theirs => {
                self.admit_member(hello.from, names)?;
                let known = self.peers.rolled_back().check(hello.from, hello.start);
                known.map_err(|why| RefusedPeer::new(Reason::RolledBack, why))?;
            }
            Some(own) => {
                let is_other = own.cluster_id != theirs.cluster_id;
                if !is_other && own.epoch > theirs.epoch {
                    return refuse(Reason::Outlived, outlived(&own, theirs.epoch));
                }
                let reason = if is_other { Reason::OtherCluster } else { Reason::OtherEpoch };
                let (a, b) = (own.cluster_id, own.epoch);
                let message = format!(
                    "this member is of cluster {a} at epoch {b}, not of {} at {}",
                    theirs.cluster_id, theirs.epoch
                );
                return refuse(reason, message);
            }
            None if hello.to == own_id => {
                let adopted = self.identity.adopt(&theirs);
                adopted.map_err(|error| RefusedPeer::new(Reason::OtherCluster, error.to_string()))?;
                tracing::info!(cluster = theirs.cluster_id, "became a member");
            }
            // It asks around, for the bootstrap.
            None if hello.purpose == Purpose::Calls => {}
            None => return refuse(Reason::Stranger, "this member is of no cluster".into()),
        }
        Ok(Greeting { id: own_id, told: Some((self.identity.start(), self.held())) })
    }

    /// How far the log goes.
    fn held(&self) -> Held {
        // What the database has the log need not have: of a member that got a snapshot, or applied what others had on disk.
        let log = self.log.last_index().max(self.log.purged().map(|(index, _)| index));
        let end = log.max(self.store.applied().index()).map_or(0, |last| last + 1);
        // After that: entries are cut only once a higher vote is in the log.
        let vote = match self.log.vote().map(|mut vote| get_vote(&mut vote)) {
            None => (0, 0),
            Some(Ok(vote)) => (vote.leader_id.term, vote.leader_id.node_id),
            // Then nobody can say what may be missing.
            Some(Err(_)) => (u64::MAX, u64::MAX),
        };
        Held { end, vote }
    }

    /// Whether somebody who says to be member `id` is believed. The leader knows everybody; who is behind may not know
    /// a newer member yet, and must let it in, for it may lead. But nobody who was seen to go comes back: ids are never
    /// used again.
    fn admit_member(&self, id: u64, names: Option<&Names>) -> Result<(), RefusedPeer> {
        let refuse = |reason, message: String| Err(RefusedPeer::new(reason, message));
        let server = self.server.borrow_watched();
        let membership = &server.membership_config;
        if self.seen.has_gone(membership.nodes().map(|(id, _)| *id), id) {
            return refuse(Reason::Removed, format!("{id:016x} was removed from the cluster"));
        }
        let Some(member) = membership.get_node(&id) else {
            let leads = server.current_leader == Some(server.id);
            let message = format!("{id:016x} is no member of the cluster");
            return if leads { refuse(Reason::Unknown, message) } else { Ok(()) };
        };
        let verifies = self.security.tls.as_ref().is_some_and(|tls| tls.verifies_members());
        // Whoever has no certificate at all was let in without TLS, while the cluster moves to it.
        if verifies && names.is_some_and(|names| !names.name_member(&member.name)) {
            let message = format!("the certificate is not in the name of {}", member.name);
            return refuse(Reason::Certificate, message);
        }
        Ok(())
    }

    /// When the certificate of the peer port ends, in seconds since 1970.
    pub fn certificate_not_after(&self) -> Option<i64> {
        self.security.tls.as_ref().map(|tls| tls.not_after())
    }

    /// The certificates of both ports.
    pub(super) fn certificates(&self) -> Certificates {
        Certificates {
            peers: self.security.tls.as_ref().map(|tls| tls.certificates()),
            clients: self.security.clients.as_ref().map(|tls| tls.certificates()),
        }
    }

    /// What this member shows when it joins.
    pub(super) fn own_credentials(&self) -> Option<Credentials> {
        self.security.join_as.clone()
    }

    /// Whether somebody may become a voter, or a read replica, or change its addresses.
    pub(super) async fn may_join(
        &self,
        credentials: Option<&Credentials>,
        voter: bool,
    ) -> Result<(), Refusal> {
        let Some(auth) = &self.security.auth else { return Ok(()) };
        let (user, password) = credentials.map_or(("", ""), |c| (c.user.as_str(), c.password.as_str()));
        let outcome = match auth.check_user(user, password, &[Permission::Join]).await {
            Err(Denied::Unauthorized) if !voter => {
                auth.check_user(user, password, &[Permission::JoinReadOnly]).await
            }
            outcome => outcome,
        };
        outcome.map_err(|denied| match denied {
            Denied::Unauthorized => Refusal {
                reason: RefusalReason::Unauthorized,
                message: "remote join not authorized: -join-as must name a user with permission \"join\""
                    .into(),
            },
            Denied::Busy => Refusal {
                reason: RefusalReason::ChangeInProgress,
                message: "too many passwords are being checked".into(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_seen_to_go_stays_away() {
        let seen = Seen::default();
        for (present, id, expected) in [
            (&[1, 2, 3][..], 9, false),
            (&[1, 2, 3], 3, false),
            (&[1, 2], 3, true),
            (&[1, 2], 9, false),
            (&[1, 2, 9], 9, false),
            (&[1, 2, 9], 3, true),
            // The change was undone.
            (&[1, 2, 3], 3, false),
        ] {
            assert_eq!(seen.has_gone(present.iter().copied(), id), expected, "{present:?} {id}");
        }
    }
}
