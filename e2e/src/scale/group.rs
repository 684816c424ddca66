//! A Raft group that is played: who belongs to it, who votes, who leads. Faithful as far as the operator looks; there is no
//! log, and every member has caught up and is heard. Pure.

use client::admin::{
    AddLearner, Certificates, ChangeVoters, Initialise, Member, MemberRef, MemberReport, Membership, NodeId,
    Phase, Refusal, RefusalReason, Role, Transfer, Transferred,
};
use sha2::{Digest, Sha256};

/// Milliseconds since the leader last heard of a follower that is well.
const SILENCE: u64 = 20;

/// The state that the members of one cluster share.
#[derive(Clone, Debug, Default)]
pub struct Group {
    cluster_id: Option<String>,
    /// By name, as memberships list them.
    members: Vec<Member>,
    leader: Option<NodeId>,
    term: u64,
    /// Entries that the log would have: one for each change.
    index: u64,
}

/// A member as its pod names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of its pod.
    pub name: String,
    /// Name of its cluster.
    pub cluster: String,
    /// Namespace of both.
    pub namespace: String,
}

impl Identity {
    /// The id on its volume, which outlives its pod.
    pub fn node_id(&self) -> NodeId {
        let digest = Sha256::digest(format!("{}/{}", self.namespace, self.name));
        NodeId(digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }

    fn address(&self, port: u16) -> String {
        format!("{}.{}-nodes.{}.svc:{port}", self.name, self.cluster, self.namespace)
    }
}

impl Group {
    /// What the member says of itself.
    pub fn report(&self, member: &Identity, version: &str, certificates: Certificates) -> MemberReport {
        let node_id = member.node_id();
        let own = self.members.iter().find(|known| known.node_id == node_id);
        let leads = own.is_some() && self.leader == Some(node_id);
        MemberReport {
            cluster_id: self.cluster_id.clone().filter(|_| own.is_some()),
            epoch: u64::from(own.is_some()),
            node_id,
            name: member.name.clone(),
            raft_address: member.address(4002),
            api_address: member.address(4001),
            version: version.to_owned(),
            engine: None,
            phase: if own.is_some() { Phase::Serving } else { Phase::Uninitialised },
            role: match own {
                _ if leads => Role::Leader,
                Some(own) if own.voter => Role::Follower,
                _ => Role::Learner,
            },
            term: if own.is_some() { self.term } else { 0 },
            leader: own.and_then(|_| self.leader()),
            last_log_index: self.index,
            last_log_term: own.map(|_| self.term),
            committed_index: self.index,
            applied_index: self.index,
            quorum_silent_milliseconds: leads.then_some(SILENCE),
            membership: if own.is_some() { self.membership(leads) } else { Membership::default() },
            consistency: None,
            storage: None,
            archive: None,
            certificates,
            fatal_entry: None,
            message: None,
        }
    }

    /// The membership, with what only a leader knows if it is the leader's.
    pub fn membership(&self, of_leader: bool) -> Membership {
        let seen = |member: &Member| Member {
            matched_index: of_leader.then_some(self.index),
            silent_milliseconds: of_leader.then_some(if self.leader == Some(member.node_id) {
                0
            } else {
                SILENCE
            }),
            ..member.clone()
        };
        Membership {
            log_index: self.index,
            committed: true,
            joint: false,
            members: self.members.iter().map(seen).collect(),
        }
    }

    /// Makes the member the only voter of a new cluster; to be repeated without harm.
    pub fn initialise(&mut self, member: &Identity, asked: Initialise) -> Result<(), Refusal> {
        match &self.cluster_id {
            Some(id) if *id == asked.cluster_id => return Ok(()),
            Some(id) => return Err(refusal(RefusalReason::NotEmpty, format!("belongs to {id}"))),
            None => {}
        }
        self.cluster_id = Some(asked.cluster_id);
        self.members = vec![Member {
            node_id: member.node_id(),
            name: member.name.clone(),
            raft_address: member.address(4002),
            api_address: member.address(4001),
            voter: true,
            matched_index: None,
            silent_milliseconds: None,
        }];
        (self.leader, self.term, self.index) = (Some(member.node_id()), 1, 1);
        Ok(())
    }

    /// Adds a learner; one that is there already stays what it is.
    pub fn add_learner(&mut self, asked: AddLearner) -> Result<(), Refusal> {
        self.led()?;
        if self.members.iter().any(|member| member.node_id == asked.node_id) {
            return Ok(());
        }
        self.members.push(Member {
            node_id: asked.node_id,
            name: asked.name,
            raft_address: asked.raft_address,
            api_address: asked.api_address,
            voter: false,
            matched_index: None,
            silent_milliseconds: None,
        });
        self.members.sort_by(|a, b| a.name.cmp(&b.name));
        self.index += 1;
        Ok(())
    }

    /// Removes a learner; one that is not there is no error.
    pub fn remove_learner(&mut self, node_id: NodeId) -> Result<(), Refusal> {
        self.led()?;
        if self.members.iter().any(|member| member.node_id == node_id && member.voter) {
            return Err(refusal(RefusalReason::NoSuchMember, format!("{node_id} votes")));
        }
        self.members.retain(|member| member.node_id != node_id);
        self.index += 1;
        Ok(())
    }

    /// Promotes learners and removes voters. A leader that is removed hands over first.
    pub fn change_voters(&mut self, asked: &ChangeVoters) -> Result<(), Refusal> {
        self.led()?;
        if let Some(unknown) =
            asked.add.iter().find(|id| !self.members.iter().any(|member| member.node_id == **id))
        {
            return Err(refusal(RefusalReason::NoSuchMember, format!("{unknown} is no learner")));
        }
        for member in self.members.iter_mut().filter(|member| asked.add.contains(&member.node_id)) {
            member.voter = true;
        }
        self.members.retain(|member| !asked.remove.contains(&member.node_id));
        self.index += 1;
        let stays = self.members.iter().any(|member| Some(member.node_id) == self.leader);
        if !stays {
            let next = self.members.iter().find(|member| member.voter).map(|member| member.node_id);
            (self.leader, self.term) = (next, self.term + 1);
        }
        Ok(())
    }

    /// Hands the leadership over.
    pub fn transfer(&mut self, asked: &Transfer) -> Result<Transferred, Refusal> {
        self.led()?;
        let fits = |member: &&Member| {
            member.voter && asked.to.map_or(self.leader != Some(member.node_id), |to| to == member.node_id)
        };
        let Some(next) = self.members.iter().find(fits).map(|member| member.node_id) else {
            return Err(refusal(RefusalReason::NoSuchMember, "no such voter".to_owned()));
        };
        if self.leader != Some(next) {
            (self.leader, self.term, self.index) = (Some(next), self.term + 1, self.index + 1);
        }
        let leader = self.leader().ok_or_else(|| refusal(RefusalReason::NoLeader, "no leader".to_owned()))?;
        Ok(Transferred { leader, term: self.term })
    }

    fn leader(&self) -> Option<MemberRef> {
        let member = self.members.iter().find(|member| Some(member.node_id) == self.leader)?;
        Some(MemberRef { node_id: member.node_id, name: member.name.clone() })
    }

    fn led(&self) -> Result<(), Refusal> {
        match self.leader {
            Some(_) => Ok(()),
            None => Err(refusal(RefusalReason::NoLeader, "there is no cluster yet".to_owned())),
        }
    }
}

fn refusal(reason: RefusalReason, message: String) -> Refusal {
    Refusal { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(ordinal: usize) -> Identity {
        Identity { name: format!("orders-{ordinal}"), cluster: "orders".into(), namespace: "shop".into() }
    }

    fn learner(member: &Identity) -> AddLearner {
        AddLearner {
            node_id: member.node_id(),
            name: member.name.clone(),
            raft_address: member.address(4002),
            api_address: member.address(4001),
        }
    }

    fn report(group: &Group, ordinal: usize) -> MemberReport {
        group.report(&identity(ordinal), "1.0.0", Certificates::default())
    }

    #[test]
    fn a_cluster_is_formed_and_handed_over() {
        let mut group = Group::default();
        let said = report(&group, 0);
        assert_eq!((said.phase, said.cluster_id), (Phase::Uninitialised, None));
        assert_eq!(group.add_learner(learner(&identity(1))).unwrap_err().reason, RefusalReason::NoLeader);

        let asked = Initialise { cluster_id: "c1".into() };
        group.initialise(&identity(0), asked.clone()).unwrap();
        group.initialise(&identity(0), asked).unwrap();
        let other = Initialise { cluster_id: "c2".into() };
        assert_eq!(
            group.initialise(&identity(1), other).unwrap_err().reason,
            RefusalReason::NotEmpty,
            "one cluster is not another"
        );
        group.add_learner(learner(&identity(1))).unwrap();
        assert_eq!(report(&group, 1).role, Role::Learner);
        let id = identity(1).node_id();
        group.change_voters(&ChangeVoters { add: vec![id], ..ChangeVoters::default() }).unwrap();
        assert_eq!(report(&group, 1).role, Role::Follower);
        let led = group.transfer(&Transfer { to: Some(id) }).unwrap();
        assert_eq!((led.leader.name.as_str(), led.term), ("orders-1", 2));
        let said = report(&group, 1);
        assert!(
            said.membership.members.iter().all(|member| member.matched_index == Some(said.committed_index))
        );

        group.change_voters(&ChangeVoters { remove: vec![id], ..ChangeVoters::default() }).unwrap();
        assert_eq!(report(&group, 0).role, Role::Leader, "a leader that goes hands over");
        assert_eq!(report(&group, 1).phase, Phase::Uninitialised);
    }
}
