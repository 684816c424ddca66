//! What the API server does not have as it is to be, and which steps wait until it has. Nothing else waits for it: one object
//! that is refused is no reason to leave a cluster alone. Pure.

use super::plan::Step;
use crate::names::{ClusterName, PodRole};
use std::collections::BTreeSet;

/// What the API server lacks of a cluster's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortfall {
    /// Roles whose budget is not as the plan counts on it: the pods of others may be let go that must stay.
    pub budgets: BTreeSet<PodRole>,
    /// Roles whose StatefulSet is not as it is to be: a pod that is made anew comes back as it was.
    pub sets: BTreeSet<PodRole>,
    /// Whether there may be something missing without which no pod comes back: its ServiceAccount, what it mounts, or the
    /// Service by which others find it.
    pub ground: bool,
}

impl Shortfall {
    /// Whether the step has to wait. Those that cost a member wait for what protects the others, and for what brings it back.
    /// Learners come and go, who leads is handed over, labels change and volumes grow all the same: none of it makes fewer
    /// of what a budget protects. A pod that does not run, or whose member was removed, protects nothing; and with a consent to
    /// lose what others hold there is nothing left to be kept.
    pub fn holds_up(&self, cluster: &ClusterName, step: &Step) -> bool {
        match step {
            Step::ChangeVoters { .. } => self.budgets.contains(&PodRole::Voter),
            Step::DeletePod { pod, restart: true, .. } => {
                let lacks = |role: &PodRole| self.budgets.contains(role) || self.sets.contains(role);
                let role = cluster.parse_member(pod).map(|(role, _)| role);
                self.ground || role.is_none_or(|role| lacks(&role))
            }
            // One that cannot be made as it is to be could not be made again at all.
            Step::RecreateSet { role, .. } => self.sets.contains(role),
            Step::SetServing { .. }
            | Step::Initialise { .. }
            | Step::AddLearner(_)
            | Step::RemoveLearner { .. }
            | Step::Restore(_)
            | Step::Transfer { .. }
            | Step::RecoverQuorum { .. }
            | Step::SkipEntry(_)
            | Step::DressPod { .. }
            | Step::ResizePod { .. }
            | Step::DeletePod { restart: false, .. }
            | Step::DeleteClaim { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::admin::NodeId;
    use serde_json::json;

    fn deletion(pod: &str, restart: bool) -> Step {
        Step::DeletePod { pod: pod.into(), uid: "u".into(), restart, why: "w".into() }
    }

    #[test]
    fn only_what_costs_a_member_waits_for_what_protects_the_others() {
        let cluster = ClusterName::new("shop", "orders");
        let whole = Shortfall::default();
        let budget = |role| Shortfall { budgets: [role].into(), ..Shortfall::default() };
        let set = |role| Shortfall { sets: [role].into(), ..Shortfall::default() };
        let ground = Shortfall { ground: true, ..Shortfall::default() };
        let (voter, replica) = (PodRole::Voter, PodRole::ReadReplica);
        let change = Step::ChangeVoters { add: vec![("orders-1".into(), NodeId(1))], remove: vec![] };
        let recreation = Step::RecreateSet { role: voter, uid: "u".into() };
        for (step, waits_for) in [
            (change, vec![budget(voter)]),
            (deletion("orders-1", true), vec![budget(voter), set(voter), ground.clone()]),
            (deletion("orders-replica-1", true), vec![budget(replica), set(replica), ground.clone()]),
            (deletion("orders-1", false), vec![]),
            (recreation, vec![set(voter)]),
            (Step::Transfer { from: "orders-0".into(), to: "orders-1".into(), to_id: NodeId(1) }, vec![]),
            (Step::RemoveLearner { name: "orders-replica-0".into(), node_id: NodeId(1) }, vec![]),
            (
                Step::DressPod { pod: "orders-0".into(), uid: "u".into(), patch: json!({}), mark: None },
                vec![],
            ),
            (Step::SetServing { pod: "orders-0".into(), uid: "u".into(), serving: true }, vec![]),
            (Step::DeleteClaim { member: "orders-1".into(), uid: "u".into(), why: "w".into() }, vec![]),
        ] {
            for lack in [&whole, &budget(voter), &budget(replica), &set(voter), &set(replica), &ground] {
                let expected = waits_for.contains(lack);
                assert_eq!(lack.holds_up(&cluster, &step), expected, "{step:?}: {lack:?}");
            }
        }
    }
}
