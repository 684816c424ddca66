//! Changes of the membership and of leadership, made on the leader. Nobody becomes a voter who has not caught up, and
//! no change leaves the voters without a quorum that answers.

use super::types::{Metrics, PeerInfo, Raft, TypeConfig};
use client::admin::{
    AddLearner, ChangeVoters, Member, MemberRef, Membership, NodeId, Refusal, RefusalReason, RemoveLearner,
    SkipEntry, Skipped, Transfer, Transferred, quorum,
};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A member that was not heard for this long is not reachable.
pub const SILENT: Duration = Duration::from_millis(1500);
/// How often it is looked whether the voters answer.
const LOOK: Duration = Duration::from_millis(20);
/// How long a transfer of leadership may take.
const TRANSFER: Duration = Duration::from_secs(2);
/// Bytes of a member's name: those of a DNS name, and of most file systems.
const LONGEST_NAME: usize = 255;
/// Bytes of a member's address: a DNS name and a port.
const LONGEST_ADDRESS: usize = 300;
/// How long a change of the membership may take.
const CHANGE: Duration = Duration::from_secs(10);

/// What the leader is asked; the body of a call to it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub enum Administer {
    /// Add a learner, or correct the addresses of a member.
    AddLearner(AddLearner),
    /// Remove a learner.
    RemoveLearner(RemoveLearner),
    /// One joint change of the voters.
    ChangeVoters(ChangeVoters),
    /// Hand over leadership.
    Transfer(Transfer),
    /// Pass over an entry that ends every member.
    Skip(SkipEntry),
}

/// The leader's answer.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub enum Administered {
    /// The membership changed, or was like that already.
    Changed(Membership),
    /// Another member leads.
    Transferred(Transferred),
    /// The entry is passed over.
    Skipped(Skipped),
}

/// Refuses what would not fit into the membership that every member keeps with its database: no member could apply it.
pub(super) fn check_length(member: &AddLearner) -> Result<(), Refusal> {
    if member.name.len() > LONGEST_NAME {
        return refuse(RefusalReason::Invalid, format!("a member's name has at most {LONGEST_NAME} bytes"));
    }
    let longest = member.raft_address.len().max(member.api_address.len());
    if longest > LONGEST_ADDRESS {
        return refuse(RefusalReason::Invalid, format!("an address has at most {LONGEST_ADDRESS} bytes"));
    }
    Ok(())
}

pub fn refuse<T>(reason: RefusalReason, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { reason, message: message.into() })
}

/// The present metrics.
pub fn metrics_of(raft: &Raft) -> Metrics {
    raft.metrics().borrow_watched().clone()
}

/// The membership in effect, as the outside sees it.
pub fn describe(metrics: &Metrics) -> Membership {
    let stored = &metrics.membership_config;
    let voters: BTreeSet<u64> = stored.voter_ids().collect();
    let mut members: Vec<Member> = stored
        .nodes()
        .map(|(id, info)| Member {
            node_id: NodeId(*id),
            name: info.name.clone(),
            raft_address: info.raft_addr.clone(),
            api_address: info.api_addr.clone(),
            voter: voters.contains(id),
            matched_index: matched(metrics, *id),
            silent_milliseconds: silent(metrics, *id).map(|d| d.as_millis() as u64),
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name).then(a.node_id.cmp(&b.node_id)));
    Membership {
        log_index: stored.log_id().map_or(0, |id| id.index),
        committed: metrics.committed_membership_config.log_id() == stored.log_id(),
        joint: stored.get_joint_config().len() > 1,
        members,
    }
}

/// How a member is known that is to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// As it says.
    Same,
    /// Under other addresses, or another name.
    Elsewhere,
}

/// How somebody who is to be let in is known already; none if it is new.
pub fn known_as(metrics: &Metrics, learner: &AddLearner) -> Option<Known> {
    let known = metrics.membership_config.get_node(&learner.node_id.0)?;
    Some(if *known == PeerInfo::from(learner.clone()) { Known::Same } else { Known::Elsewhere })
}

fn matched(metrics: &Metrics, id: u64) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    replication.get(&id)?.as_ref().map(|log_id| log_id.index)
}

/// How long ago the leader heard from a member; none if it never did, or if this member does not lead.
fn silent(metrics: &Metrics, id: u64) -> Option<Duration> {
    let heard = metrics.heartbeat.as_ref()?;
    if id == metrics.id {
        return Some(Duration::ZERO);
    }
    heard.get(&id)?.as_ref().map(|at| at.elapsed())
}

/// How long ago a quorum last confirmed this leader; none if this member does not lead, or no quorum answered it yet.
pub fn quorum_silent(metrics: &Metrics) -> Option<Duration> {
    if metrics.current_leader != Some(metrics.id) {
        return None;
    }
    // A voter that is alone is its own quorum at any time. Raft dates only the answers of others.
    if metrics.membership_config.voter_ids().eq([metrics.id]) {
        return Some(Duration::ZERO);
    }
    metrics.last_quorum_acked.map(|at| at.elapsed())
}

fn is_reachable(metrics: &Metrics, id: u64) -> bool {
    id == metrics.id || silent(metrics, id).is_some_and(|silent| silent < SILENT)
}

fn has_caught_up(metrics: &Metrics, id: u64) -> bool {
    let committed = metrics.local_committed.as_ref().map_or(0, |id| id.index);
    is_reachable(metrics, id) && client::admin::has_caught_up(matched(metrics, id), committed)
}

/// Whether a majority of `voters` answers.
fn has_quorum(metrics: &Metrics, voters: &BTreeSet<u64>) -> bool {
    voters.iter().filter(|id| is_reachable(metrics, **id)).count() >= quorum(voters.len())
}

/// Makes the changes, on the leader.
pub struct MembershipChanges<'a> {
    raft: &'a Raft,
}

impl<'a> MembershipChanges<'a> {
    /// On the Raft of this member, which must lead.
    pub fn new(raft: &'a Raft) -> Self {
        Self { raft }
    }

    /// Adds a learner, or corrects the addresses of a member.
    pub async fn add_learner(&self, learner: AddLearner) -> Result<Membership, Refusal> {
        check_length(&learner)?;
        let metrics = metrics_of(self.raft);
        let known = known_as(&metrics, &learner);
        if known == Some(Known::Same) {
            return Ok(describe(&metrics));
        }
        let id = learner.node_id.0;
        let info = PeerInfo::from(learner);
        let taken =
            metrics.membership_config.nodes().find(|(other, node)| **other != id && node.name == info.name);
        if let Some((other, _)) = taken
            && is_reachable(&metrics, *other)
        {
            let message = format!("{} is the name of member {}, which answers", info.name, NodeId(*other));
            return refuse(RefusalReason::NameTaken, message);
        }
        let nodes = BTreeMap::from([(id, info)]);
        let change =
            if known.is_some() { ChangeMembers::SetNodes(nodes) } else { ChangeMembers::AddNodes(nodes) };
        self.change(change).await
    }

    /// Removes a learner.
    pub async fn remove_learner(&self, learner: RemoveLearner) -> Result<Membership, Refusal> {
        let metrics = metrics_of(self.raft);
        let id = learner.node_id.0;
        if metrics.membership_config.get_node(&id).is_none() {
            return Ok(describe(&metrics));
        }
        if metrics.membership_config.voter_ids().any(|voter| voter == id) {
            let message = format!("{} is a voter; remove it by a change of the voters", learner.node_id);
            return refuse(RefusalReason::NoSuchMember, message);
        }
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await
    }

    /// The metrics, once every voter answers or has had the time to: a new leader has not heard anybody yet.
    async fn heard_metrics(&self) -> Metrics {
        let deadline = tokio::time::Instant::now() + SILENT;
        loop {
            let metrics = metrics_of(self.raft);
            let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
            if voters.iter().all(|id| is_reachable(&metrics, *id)) || tokio::time::Instant::now() >= deadline
            {
                return metrics;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Makes one joint change.
    pub async fn change_voters(&self, change: &ChangeVoters) -> Result<Membership, Refusal> {
        let metrics = self.heard_metrics().await;
        let stored = &metrics.membership_config;
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let add: BTreeSet<u64> = change.add.iter().map(|id| id.0).filter(|id| !voters.contains(id)).collect();
        let remove: BTreeSet<u64> =
            change.remove.iter().map(|id| id.0).filter(|id| voters.contains(id)).collect();
        if add.is_empty() && remove.is_empty() {
            if stored.get_joint_config().len() > 1 {
                // A leader before this one did not get to the end of its change.
                let rest = ChangeMembers::AddVoterIds(BTreeSet::new());
                return self.change_retaining(rest, change.retain).await;
            }
            return Ok(describe(&metrics));
        }
        for id in &add {
            if stored.get_node(id).is_none() {
                return refuse(RefusalReason::NoSuchMember, format!("{} is not a learner", NodeId(*id)));
            }
            if !has_caught_up(&metrics, *id) {
                let message = format!("learner {} has not caught up; try again when it has", NodeId(*id));
                return refuse(RefusalReason::NotCaughtUp, message);
            }
        }
        let to_be: BTreeSet<u64> = voters.union(&add).filter(|id| !remove.contains(id)).copied().collect();
        if to_be.is_empty() {
            return refuse(RefusalReason::Invalid, "the last voter cannot be removed");
        }
        if !has_quorum(&metrics, &to_be) {
            let message = "fewer than a majority of the voters that would remain answer; repair them first";
            return refuse(RefusalReason::NoQuorum, message);
        }
        let mut changes = Vec::new();
        if !add.is_empty() {
            changes.push(ChangeMembers::AddVoterIds(add));
        }
        if !remove.is_empty() {
            changes.push(ChangeMembers::RemoveVoters(remove));
        }
        self.change_retaining(ChangeMembers::Batch(changes), change.retain).await
    }

    async fn change(&self, change: ChangeMembers<u64, PeerInfo>) -> Result<Membership, Refusal> {
        self.change_retaining(change, false).await
    }

    /// Makes a change; voters that it removes stay as learners with `retain`.
    async fn change_retaining(
        &self,
        change: ChangeMembers<u64, PeerInfo>,
        retain: bool,
    ) -> Result<Membership, Refusal> {
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        let change = self.raft.change_membership(change, retain);
        let changed = match tokio::time::timeout(CHANGE, change).await {
            Ok(changed) => changed,
            Err(_) => return refuse(RefusalReason::OutcomeUnknown, "the change did not commit in time"),
        };
        match changed {
            Ok(_) => Ok(describe(&metrics_of(self.raft))),
            Err(RaftError::Fatal(fatal)) => refuse(RefusalReason::Internal, fatal.to_string()),
            Err(RaftError::APIError(error)) => Err(refusal_of(&error)),
        }
    }

    /// Hands leadership to the voter of `to` that has caught up furthest, and returns once it leads.
    pub async fn transfer(&self, to: &BTreeSet<u64>) -> Result<Transferred, Refusal> {
        let deadline = tokio::time::Instant::now() + SILENT;
        let (metrics, target) = loop {
            let metrics = metrics_of(self.raft);
            match successor(&metrics, to) {
                Ok(target) if target == metrics.id => return Ok(transferred(&metrics, target)),
                Ok(target) => break (metrics, target),
                // A new leader has not heard anybody yet.
                Err(_) if is_new(&metrics) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(LOOK).await;
                }
                Err(refusal) => return Err(refusal),
            }
        };
        let mut watch = self.raft.metrics();
        if let Err(fatal) = self.raft.trigger().transfer_leader(target).await {
            return refuse(RefusalReason::Internal, fatal.to_string());
        }
        let took_over = async {
            loop {
                let now = watch.borrow_watched().clone();
                if now.current_leader.is_some_and(|leader| leader != metrics.id) {
                    return Ok(transferred(&now, now.current_leader.unwrap_or(target)));
                }
                if watch.changed().await.is_err() {
                    return refuse(RefusalReason::Internal, "Raft has stopped on this member");
                }
            }
        };
        tokio::time::timeout(TRANSFER, took_over).await.unwrap_or_else(|_| {
            refuse(RefusalReason::OutcomeUnknown, format!("{} did not take over in time", NodeId(target)))
        })
    }
}

/// Whether this leader has yet to hear of a voter how much that one has.
fn is_new(metrics: &Metrics) -> bool {
    let mut others = metrics.membership_config.voter_ids().filter(|id| *id != metrics.id);
    metrics.current_leader == Some(metrics.id)
        && others.any(|id| silent(metrics, id).is_none() || matched(metrics, id).is_none())
}

/// Who is to lead next: of the voters in `to`, the one that has caught up furthest.
fn successor(metrics: &Metrics, to: &BTreeSet<u64>) -> Result<u64, Refusal> {
    let voters = metrics.membership_config.voter_ids();
    let candidates = voters.filter(|id| to.contains(id) && is_reachable(metrics, *id));
    let Some(furthest) = candidates.max_by_key(|id| matched(metrics, *id)) else {
        return refuse(RefusalReason::NotCaughtUp, "no voter that could lead answers");
    };
    if !has_caught_up(metrics, furthest) {
        return refuse(RefusalReason::NotCaughtUp, format!("{} has not caught up", NodeId(furthest)));
    }
    Ok(furthest)
}

fn transferred(metrics: &Metrics, leader: u64) -> Transferred {
    Transferred { leader: member_ref(metrics, leader), term: metrics.current_term }
}

/// Name and id of a member.
pub fn member_ref(metrics: &Metrics, id: u64) -> MemberRef {
    let name = metrics.membership_config.get_node(&id).map(|n| n.name.clone()).unwrap_or_default();
    MemberRef { node_id: NodeId(id), name }
}

fn refusal_of(error: &ClientWriteError<TypeConfig>) -> Refusal {
    let reason = match error {
        ClientWriteError::ForwardToLeader(_) => RefusalReason::NoLeader,
        ClientWriteError::LogEntryDiscarded(_) => RefusalReason::OutcomeUnknown,
        ClientWriteError::PreconditionFailed(_) => RefusalReason::ChangeInProgress,
        ClientWriteError::ChangeMembershipError(error) => match error {
            ChangeMembershipError::InProgress(_) => RefusalReason::ChangeInProgress,
            ChangeMembershipError::LearnerNotFound(_) => RefusalReason::NoSuchMember,
            _ => RefusalReason::Invalid,
        },
    };
    Refusal { reason, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::types::StoredMembership;
    use super::*;
    use openraft::type_config::alias::InstantOf;
    use openraft::{Membership as Config, RaftMetrics};
    use std::sync::Arc;

    fn led_by_1(voters: &[u64], acked: Duration) -> Metrics {
        let mut metrics: Metrics = RaftMetrics::new_initial(1);
        let config =
            Config::new_with_defaults(vec![voters.iter().copied().collect()], voters.iter().copied());
        metrics.membership_config = Arc::new(StoredMembership::new(None, config));
        metrics.current_leader = Some(1);
        metrics.last_quorum_acked = Some((InstantOf::<TypeConfig>::now() - acked).into());
        metrics
    }

    #[test]
    fn a_lone_voter_is_its_own_quorum_and_others_need_an_answer() {
        let long_ago = Duration::from_secs(10);
        assert_eq!(quorum_silent(&led_by_1(&[1], long_ago)), Some(Duration::ZERO));
        assert!(quorum_silent(&led_by_1(&[1, 2, 3], long_ago)) >= Some(long_ago));
        let follower = Metrics { current_leader: Some(2), ..led_by_1(&[1, 2], long_ago) };
        assert_eq!(quorum_silent(&follower), None);
    }
}
