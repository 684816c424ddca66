//! How members find together: initialising, asking to be let in, letting in, waiting for each other.

use super::Consensus;
use super::administer::{CALL, changed};
use super::calls::Kind;
use super::membership::{Administer, check_length, refuse};
use super::request_error::RequestError;
use super::types::{Metrics, PeerInfo, Raft};
use super::wire::membership_from_store;
use crate::failpoint::{Place, pass};
use crate::identity::{ClusterIdentity, Identity, IdentityError};
use crate::observe::Observe as _;
use client::admin::{
    AddLearner, ChangeVoters, Member, Membership, NodeId, Refusal, RefusalReason, RemoveLearner,
};
use client::sql::Credentials;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Body of a request to be let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Who.
    pub member: AddLearner,
    /// Whether it wants to vote.
    pub voter: bool,
    /// Who may let it in.
    pub credentials: Option<Credentials>,
    /// Who it was, if it comes back as a new member. Not sent where it is not so: members of before do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<NodeId>,
}

/// Body of a notice of somebody who waits to be part of a bootstrap.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// Who.
    pub member: AddLearner,
    /// Who may let it in.
    pub credentials: Option<Credentials>,
}

/// Answer to [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The cluster.
    pub cluster_id: String,
    /// Its epoch.
    pub epoch: u64,
    /// Whether it votes by now.
    pub voter: bool,
}

impl Consensus {
    /// Makes this member the only voter of a new cluster. Saying it again changes nothing.
    pub async fn initialise(&self, cluster_id: &str) -> Result<(), Refusal> {
        self.bootstrap(cluster_id, [self.own_member()]).await
    }

    /// Makes `voters`, of which this member is one, a new cluster.
    pub async fn bootstrap(
        &self,
        cluster_id: &str,
        voters: impl IntoIterator<Item = AddLearner>,
    ) -> Result<(), Refusal> {
        if cluster_id.is_empty() || cluster_id.len() > 63 {
            return refuse(RefusalReason::Invalid, "a cluster id has 1 to 63 characters");
        }
        let cluster = ClusterIdentity { cluster_id: cluster_id.to_owned(), epoch: 1 };
        let voters: Vec<AddLearner> = voters.into_iter().collect();
        voters.iter().try_for_each(check_length)?;
        self.identity.found(&cluster, &voters).map_err(|error| {
            let reason = match error {
                IdentityError::OtherCluster { .. } | IdentityError::ComesBack { .. } => {
                    RefusalReason::NotEmpty
                }
                _ => RefusalReason::Internal,
            };
            Refusal { reason, message: error.to_string() }
        })?;
        let internal = |message: String| Refusal { reason: RefusalReason::Internal, message };
        pass(Place::ClusterFounded).map_err(|e| internal(e.to_string()))?;
        tokio::spawn(forget_founders(self.raft.clone(), self.identity.clone()));
        if self.raft.is_initialized().await.map_err(|fatal| internal(fatal.to_string()))? {
            return Ok(());
        }
        let members: BTreeMap<u64, PeerInfo> =
            voters.into_iter().map(|member| (member.node_id.0, member.into())).collect();
        tracing::info!(cluster_id, voters = members.len(), "making a new cluster");
        match self.raft.initialize(members).await {
            Ok(()) => Ok(()),
            // Somebody else's first entry came in between: then it is initialised.
            Err(openraft::errors::RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => {
                Ok(())
            }
            Err(error) => Err(internal(error.to_string())),
        }
    }

    /// Goes on making the cluster that this member was to make when it ended.
    pub async fn go_on_founding(&self) -> Result<(), Refusal> {
        match (self.identity.cluster(), self.identity.founders()) {
            (Some(cluster), founders) if !founders.is_empty() => {
                self.bootstrap(&cluster.cluster_id, founders).await
            }
            _ => Ok(()),
        }
    }

    /// Whether this member is the only one of its cluster, as far as it has applied the log. What cannot be read says so
    /// where Raft reads it.
    pub fn is_alone(&self) -> bool {
        let membership = self.store().state().observe(|state| membership_from_store(&state.membership));
        membership
            .is_ok_and(|membership| membership.nodes().map(|(id, _)| *id).eq([self.identity.node_id().0]))
    }

    /// Asks the member at `address` for the cluster to let this member in.
    pub async fn ask_to_join(&self, address: &str, voter: bool) -> Result<Joined, RequestError> {
        let replaces = self.identity.former().map(|former| former.node_id);
        let (member, credentials) = (self.own_member(), self.own_credentials());
        let request = JoinRequest { member, voter, credentials, replaces };
        let body = serde_json::to_vec(&request).map_err(|e| RequestError::Internal(e.to_string()))?;
        let answer = self.peers.call(0, address, Kind::Join, &body, CALL).await?;
        let joined: Result<Joined, Refusal> =
            serde_json::from_slice(&answer).map_err(|e| RequestError::Internal(e.to_string()))?;
        let joined = joined.map_err(RequestError::Refused)?;
        let cluster = ClusterIdentity { cluster_id: joined.cluster_id.clone(), epoch: joined.epoch };
        self.identity.adopt(&cluster).map_err(|e| RequestError::Internal(e.to_string()))?;
        Ok(joined)
    }

    /// Tells the member at `address` that this one is new and waits to be part of a bootstrap; returns the id of who
    /// answered.
    pub async fn notify(&self, address: &str) -> Result<(), RequestError> {
        let notice = Notice { member: self.own_member(), credentials: self.own_credentials() };
        let body = serde_json::to_vec(&notice).map_err(|e| RequestError::Internal(e.to_string()))?;
        self.peers.call(0, address, Kind::Notify, &body, CALL).await?;
        Ok(())
    }

    /// Who told this member that they wait to be part of a bootstrap, itself included once it notified itself.
    pub fn notified(&self) -> watch::Receiver<BTreeMap<NodeId, AddLearner>> {
        self.notified.subscribe()
    }

    pub(super) async fn take_notice(&self, notice: Notice) -> Result<(), Refusal> {
        self.may_join(notice.credentials.as_ref(), true).await?;
        let member = notice.member;
        self.notified.send_modify(|known| {
            // A member that lost its disk while waiting comes back under the same name with another id.
            known.retain(|id, m| *id == member.node_id || m.name != member.name);
            known.insert(member.node_id, member);
        });
        Ok(())
    }

    pub(super) async fn join(&self, request: JoinRequest) -> Result<Joined, Refusal> {
        self.may_join(request.credentials.as_ref(), request.voter).await?;
        let Some(cluster) = self.identity.cluster() else {
            return refuse(RefusalReason::NoLeader, "this member is of no cluster yet");
        };
        let (id, name) = (request.member.node_id, request.member.name.clone());
        let added = changed(self.administer(Administer::AddLearner(request.member)).await?)?;
        let is_voter = |m: &Membership| m.members.iter().any(|m| m.node_id == id && m.voter);
        let mut voter = is_voter(&added.membership);
        let former = former_of(&added.membership, &name, request.replaces);
        if let Some(former) = former.filter(|former| !former.voter) {
            self.remove_learner(RemoveLearner { node_id: former.node_id }).await?;
        }
        if request.voter && !voter {
            // In one change: at no time does a vote count that nobody has.
            let remove = former.filter(|former| former.voter).map(|former| former.node_id);
            let change = ChangeVoters { add: vec![id], remove: remove.into_iter().collect(), retain: false };
            let promoted = self.change_voters(change).await;
            voter = match promoted {
                Ok(changed) => is_voter(&changed.membership),
                // It asks again until it votes.
                Err(refusal)
                    if matches!(
                        refusal.reason,
                        RefusalReason::NotCaughtUp | RefusalReason::ChangeInProgress
                    ) =>
                {
                    false
                }
                Err(refusal) => return Err(refusal),
            };
        }
        Ok(Joined { cluster_id: cluster.cluster_id, epoch: cluster.epoch, voter })
    }
}

/// The member that one of this name was, as it says.
fn former_of<'a>(membership: &'a Membership, name: &str, replaces: Option<NodeId>) -> Option<&'a Member> {
    membership.members.iter().find(|member| Some(member.node_id) == replaces && member.name == name)
}

/// Once the first entry is applied, the log has whom the cluster consists of.
async fn forget_founders(raft: Raft, identity: Arc<Identity>) {
    let applied = |metrics: &Metrics| metrics.last_applied.is_some();
    // Raft stops with this member, which then goes on at its next start.
    if raft.wait(None).metrics(applied, "an entry is applied").await.is_ok()
        && let Err(error) = identity.founded()
    {
        tracing::warn!(%error, "who made the cluster is forgotten at the next start");
    }
}
