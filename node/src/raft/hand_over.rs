//! Handing over leadership, to a voter that answers and does not go itself.

use super::Consensus;
use super::answer::Described;
use super::membership::{MembershipChanges, describe, refuse};
use client::admin::{Member, NodeId, Refusal, RefusalReason, Transferred};
use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

/// How long another voter may take to say whether it can lead.
const PATIENCE: Duration = Duration::from_millis(500);

impl Consensus {
    /// Hands over leadership if this member leads and another voter can.
    pub async fn hand_over(&self) -> Result<Option<Transferred>, Refusal> {
        if !self.is_leader() {
            return Ok(None);
        }
        match self.hand_over_to(|_| true).await? {
            None => refuse(RefusalReason::NoQuorum, "no other voter answers and goes on"),
            transferred => Ok(transferred),
        }
    }

    /// Hands leadership to a voter whose log goes back to entry `index`, which this member's does not; returns whether there
    /// was one.
    pub async fn hand_over_to_who_has(&self, index: u64) -> Result<bool, Refusal> {
        let has = |voter: &Described| voter.log_begins.is_some_and(|first| first <= index);
        Ok(self.hand_over_to(has).await?.is_some())
    }

    /// Hands leadership to a voter that goes on, and says what `fit` asks for; none if there is no such.
    async fn hand_over_to(&self, fit: impl Fn(&Described) -> bool) -> Result<Option<Transferred>, Refusal> {
        let voters = self.described_voters(|_| true).await;
        let to = alike(&voters, fit_to_lead(&voters, fit), self.store.engine(), &self.equal.lock());
        if to.is_empty() {
            return Ok(None);
        }
        MembershipChanges::new(&self.raft).transfer(&to).await.map(Some)
    }

    /// Hands leadership to a voter, and returns once it leads.
    pub(super) async fn transfer_to(&self, to: NodeId) -> Result<Transferred, Refusal> {
        let membership = describe(&self.metrics());
        if !membership.members.iter().any(|m| m.voter && m.node_id == to) {
            return refuse(RefusalReason::NoSuchMember, format!("{to} is not a voter"));
        }
        let fit = self.voters_fit_to_lead(|m| m.node_id == to, |_| true).await;
        if fit.is_empty() && to != self.identity.node_id() {
            return refuse(
                RefusalReason::NotCaughtUp,
                format!("{to} does not answer, or goes out of service"),
            );
        }
        MembershipChanges::new(&self.raft).transfer(&BTreeSet::from([to.0])).await
    }

    /// The other voters among `candidates` that answer, do not go out of service, and say what `fit` asks for.
    ///
    /// They are asked, all at once, because a leader proposes nothing from the moment on in which it hands over, whether
    /// or not the other one takes over: somebody who went down a moment ago, and is not missed yet, would cost an
    /// election; so would somebody who takes over and then goes down.
    pub(super) async fn voters_fit_to_lead(
        &self,
        candidates: impl Fn(&Member) -> bool,
        fit: impl Fn(&Described) -> bool,
    ) -> BTreeSet<u64> {
        fit_to_lead(&self.described_voters(candidates).await, fit)
    }

    /// What the other voters among `candidates` say of themselves, by id; without those that do not answer in time.
    pub(super) async fn described_voters(
        &self,
        candidates: impl Fn(&Member) -> bool,
    ) -> Vec<(u64, Described)> {
        let me = self.identity.node_id();
        let members = describe(&self.metrics()).members;
        let others = members.iter().filter(|m| m.voter && m.node_id != me && candidates(m));
        let answers =
            others.map(async |m| Some((m.node_id.0, self.describe_member(m, PATIENCE).await.ok()?)));
        join_all(answers).await.into_iter().flatten().collect()
    }

    /// Waits until this member leads.
    pub async fn until_it_leads(&self) {
        let mut server = self.raft.server_metrics();
        while !self.is_leader() {
            // The end of the channel is the end of Raft on this member.
            if server.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}

/// Those of `fit` that execute entries as a leader of `engine` does, or had the same state when it was compared last (they
/// are in `equal`): whoever takes over is what the others are compared with. All of them if there is no such.
fn alike(
    voters: &[(u64, Described)],
    fit: BTreeSet<u64>,
    engine: &str,
    equal: &BTreeSet<NodeId>,
) -> BTreeSet<u64> {
    let is_alike = |(id, described): &&(u64, Described)| {
        fit.contains(id) && (described.engine.as_deref() == Some(engine) || equal.contains(&NodeId(*id)))
    };
    let alike: BTreeSet<u64> = voters.iter().filter(is_alike).map(|(id, _)| *id).collect();
    if alike.is_empty() { fit } else { alike }
}

/// Those that do not go out of service, and say what `fit` asks for.
pub(super) fn fit_to_lead(voters: &[(u64, Described)], fit: impl Fn(&Described) -> bool) -> BTreeSet<u64> {
    voters.iter().filter(|(_, d)| !d.is_leaving_service && fit(d)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn another_engine_takes_over_if_it_was_equal_or_nobody_else_can() {
        let voter = |engine: &str| {
            let text = format!(
                r#"{{"member": {{"nodeId": "00000000000000ff", "name": "n"}}, "api_address": "a", "version": "1"{engine}}}"#
            );
            serde_json::from_str::<Described>(&text).unwrap()
        };
        let (own, other, old) = (r#", "engine": "a""#, r#", "engine": "b""#, "");
        for (engines, fit, equal, expected) in [
            ([own, own], &[1, 2][..], &[][..], &[1, 2][..]),
            ([own, other], &[1, 2], &[], &[1]),
            ([own, other], &[1, 2], &[2], &[1, 2]),
            ([own, other], &[2], &[], &[2]),
            ([other, old], &[1, 2], &[], &[1, 2]),
            ([other, old], &[1, 2], &[2], &[2]),
            ([own, old], &[], &[1, 2], &[]),
        ] {
            let voters: Vec<(u64, Described)> = (1..).zip(engines.map(voter)).collect();
            let equal = equal.iter().copied().map(NodeId).collect();
            let found = alike(&voters, fit.iter().copied().collect(), "a", &equal);
            assert_eq!(found, expected.iter().copied().collect(), "{engines:?} {fit:?} {equal:?}");
        }
    }
}
