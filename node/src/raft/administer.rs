//! Changes of the membership and of leadership: made here if this member leads, else asked of the leader.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::membership::{Administer, Administered, Known, MembershipChanges, describe, known_as, refuse};
use super::recovery::Recovery;
use super::types::Metrics;
use super::waiters::Leadership;
use client::admin::{
    AddLearner, ChangeVoters, Changed, Member, Membership, Recover, Refusal, RefusalReason, RemoveLearner,
    SkipEntry, Skipped, Transfer, Transferred,
};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A quorum that does not answer for this long is not there.
const QUORUM_ANSWERS: Duration = Duration::from_secs(3);
/// How long one call to another member may take that is not a client's request.
pub const CALL: Duration = Duration::from_secs(12);

impl Consensus {
    /// Changes the membership or leadership: here if this member leads, else on the leader.
    pub async fn administer(&self, request: Administer) -> Result<Administered, Refusal> {
        let deadline = tokio::time::Instant::now() + CALL;
        loop {
            let metrics = self.metrics();
            let attempt = match metrics.current_leader {
                Some(leader) if leader == metrics.id => self.administer_here(request.clone()).await,
                Some(leader) => self.administer_there(&metrics, leader, &request).await,
                None => refuse(RefusalReason::NoLeader, "no leader is known; try again"),
            };
            let again = matches!(&attempt, Err(refusal) if refusal.reason == RefusalReason::NoLeader);
            if !again || tokio::time::Instant::now() >= deadline {
                return attempt;
            }
            self.await_leader_change(Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn administer_here(&self, request: Administer) -> Result<Administered, Refusal> {
        let _turn = self.administering.lock().await;
        let changes = MembershipChanges::new(&self.raft);
        if let Administer::AddLearner(learner) = &request {
            self.may_add(learner).await?;
        }
        if let Administer::ChangeVoters(change) = &request
            && change.remove.contains(&self.identity.node_id())
        {
            // A leader that removes itself leaves the others to elect; one that hands over first leaves no gap.
            let stay = self.voters_fit_to_lead(|m| !change.remove.contains(&m.node_id), |_| true).await;
            if !stay.is_empty() {
                changes.transfer(&stay).await?;
                return refuse(RefusalReason::NoLeader, "leadership was handed over first");
            }
        }
        match request {
            Administer::AddLearner(learner) => {
                let known = known_as(&self.metrics(), &learner);
                let membership = changes.add_learner(learner).await?;
                let counter = known.map(|known| match known {
                    Known::Same => &self.ignored_joins,
                    Known::Elsewhere => &self.moved_joins,
                });
                if let Some(counter) = counter {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Administered::Changed(membership))
            }
            Administer::RemoveLearner(learner) => {
                changes.remove_learner(learner).await.map(Administered::Changed)
            }
            Administer::ChangeVoters(change) => {
                changes.change_voters(&change).await.map(Administered::Changed)
            }
            Administer::Transfer(Transfer { to: Some(to) }) => {
                self.transfer_to(to).await.map(Administered::Transferred)
            }
            Administer::Transfer(Transfer { to: None }) => match self.hand_over().await? {
                Some(transferred) => Ok(Administered::Transferred(transferred)),
                None => refuse(RefusalReason::NoLeader, "this member does not lead any more"),
            },
            Administer::Skip(skip) => self.skip_here(skip).await.map(Administered::Skipped),
        }
    }

    async fn administer_there(
        &self,
        metrics: &Metrics,
        leader: u64,
        request: &Administer,
    ) -> Result<Administered, Refusal> {
        let Some(info) = metrics.membership_config.get_node(&leader) else {
            return refuse(RefusalReason::NoLeader, "the leader's address is not known yet");
        };
        let body = encode(request)?;
        let leader = Leadership { term: metrics.current_term, node: leader };
        match self.call_for_caller(leader, &info.raft_addr, Kind::Administer, &body, CALL).await {
            Ok(answer) => decode::<Result<Administered, Refusal>>(&answer)?,
            Err(error @ CallError::NotSent(_)) => refuse(RefusalReason::NoLeader, error.to_string()),
            Err(error @ CallError::Unauthorized(_)) => refuse(RefusalReason::Unauthorized, error.to_string()),
            Err(error) => refuse(RefusalReason::OutcomeUnknown, error.to_string()),
        }
    }

    /// Adds a learner, or corrects its addresses.
    pub async fn add_learner(&self, learner: AddLearner) -> Result<Changed, Refusal> {
        changed(self.administer(Administer::AddLearner(learner)).await?)
    }

    /// Removes a learner.
    pub async fn remove_learner(&self, learner: RemoveLearner) -> Result<Changed, Refusal> {
        changed(self.administer(Administer::RemoveLearner(learner)).await?)
    }

    /// Changes the voters by one joint change.
    pub async fn change_voters(&self, change: ChangeVoters) -> Result<Changed, Refusal> {
        changed(self.administer(Administer::ChangeVoters(change)).await?)
    }

    /// Hands over leadership and returns once the other leads.
    pub async fn transfer(&self, transfer: Transfer) -> Result<Transferred, Refusal> {
        match self.administer(Administer::Transfer(transfer)).await? {
            Administered::Transferred(transferred) => Ok(transferred),
            _ => another_question(),
        }
    }

    /// Has every member pass over an entry that ends them all.
    pub async fn skip_entry(&self, skip: SkipEntry) -> Result<Skipped, Refusal> {
        match self.administer(Administer::Skip(skip)).await? {
            Administered::Skipped(skipped) => Ok(skipped),
            _ => another_question(),
        }
    }

    /// Writes down that this member goes on alone, and asks the process to start again. Refused unless the request names
    /// exactly what this member is and holds, and while there is a leader.
    pub async fn recover(&self, request: &Recover) -> Result<(), Refusal> {
        let report = self.report();
        if report.node_id != request.node_id || report.cluster_id.as_deref() != Some(&request.cluster_id) {
            return refuse(RefusalReason::Invalid, "the request is for another member");
        }
        if !report.membership.members.iter().any(|m| m.node_id == request.node_id && m.voter) {
            return refuse(
                RefusalReason::NoSuchMember,
                "this member does not vote: it may lack what was acknowledged",
            );
        }
        let (index, term) = (report.last_log_index, report.held_term());
        if (index, term) != (request.index, request.term) {
            let message = format!(
                "this member holds everything up to index {index} of term {term}, not {} of term {}",
                request.index, request.term
            );
            return refuse(RefusalReason::Invalid, message);
        }
        // Whom this member last followed is known for ever; whether a quorum answers is found out by asking it.
        if matches!(tokio::time::timeout(QUORUM_ANSWERS, self.confirmed_index()).await, Ok(Ok(_))) {
            return refuse(RefusalReason::Invalid, "a quorum answers: nothing is lost");
        }
        let order = Recovery { index: request.index, epoch: report.epoch + 1 };
        order
            .order(&self.config.directory)
            .map_err(|error| Refusal { reason: RefusalReason::Internal, message: error.to_string() })?;
        tracing::warn!(index = request.index, "goes on alone after a new start, as was agreed to");
        self.restart.send_replace(true);
        Ok(())
    }

    /// Removes a member by name, whatever its role. Removing one that is not there is an error only to the caller: so
    /// whether it is there is not left to what this member happens to have heard.
    pub async fn remove_by_name(&self, name: &str) -> Result<Changed, Refusal> {
        let called = |membership: &Membership| membership.members.iter().find(|m| m.name == name).cloned();
        let mut member = called(&describe(&self.metrics()));
        if member.is_none() {
            self.await_committed().await?;
            member = called(&describe(&self.metrics()));
        }
        let Some(member) = member else {
            return refuse(RefusalReason::NoSuchMember, format!("no member is called {name}"));
        };
        let changed = self.remove_member(&member).await?;
        // By the leader's count somebody else has that name: this member knew of one that is long gone.
        match called(&changed.membership) {
            Some(other) => self.remove_member(&other).await,
            None => Ok(changed),
        }
    }

    /// Waits until this member knows that what a quorum confirms now is committed: then its log has it.
    async fn await_committed(&self) -> Result<(), Refusal> {
        let no_leader = |error: String| Refusal { reason: RefusalReason::NoLeader, message: error };
        let index = self.confirmed_index().await.map_err(|error| no_leader(error.to_string()))?;
        let knows = |m: &Metrics| m.local_committed.as_ref().is_some_and(|id| id.index >= index);
        let wait = self.raft.wait(Some(QUORUM_ANSWERS));
        let known = wait.metrics(knows, "it is committed here").await;
        known.map(drop).map_err(|error| no_leader(error.to_string()))
    }

    /// Removes a member, whatever its role.
    pub(super) async fn remove_member(&self, member: &Member) -> Result<Changed, Refusal> {
        if member.voter {
            self.change_voters(ChangeVoters { remove: vec![member.node_id], ..ChangeVoters::default() }).await
        } else {
            self.remove_learner(RemoveLearner { node_id: member.node_id }).await
        }
    }
}

pub fn changed(done: Administered) -> Result<Changed, Refusal> {
    match done {
        Administered::Changed(membership) => Ok(Changed { membership }),
        _ => another_question(),
    }
}

fn another_question<T>() -> Result<T, Refusal> {
    refuse(RefusalReason::Internal, "an answer to another question")
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|e| Refusal { reason: RefusalReason::Internal, message: e.to_string() })
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|e| Refusal { reason: RefusalReason::Internal, message: e.to_string() })
}
