//! The Raft group as its leader sees it: who votes, who is heard, who has caught up. Pure.

use super::observed::Observed;
use client::admin::{FatalEntry, Member, MemberReport, Membership, NodeId, Phase, Role, quorum};

/// A member whose leader has not heard it for this long is not counted on.
pub const UNHEARD_MILLISECONDS: u64 = 2_000;
/// A leader that no quorum confirmed for this long is not believed.
const UNCONFIRMED_MILLISECONDS: u64 = 2_000;

/// The Raft group as its leader sees it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    observed: &'a Observed,
    leader: Option<&'a MemberReport>,
    membership: Option<&'a Membership>,
}

impl<'a> View<'a> {
    /// The group of the cluster with this id.
    pub fn of(observed: &'a Observed, cluster_id: Option<&str>) -> Self {
        let named = || {
            observed
                .reports
                .values()
                .filter(move |report| cluster_id.is_some() && report.cluster_id.as_deref() == cluster_id)
        };
        // Who is of an earlier epoch is of a past that was given up.
        let epoch = named().map(|report| report.epoch).max();
        let ours = || named().filter(move |report| Some(report.epoch) == epoch);
        let leader = ours()
            .filter(|report| report.role == Role::Leader)
            .filter(|report| report.quorum_silent_milliseconds.is_none_or(|ms| ms < UNCONFIRMED_MILLISECONDS))
            .max_by_key(|report| report.term);
        let newest = || ours().map(|report| &report.membership).max_by_key(|m| (m.committed, m.log_index));
        let membership = leader.map(|report| &report.membership).or_else(newest);
        Self { observed, leader, membership }
    }

    /// The leader that a quorum confirms.
    pub fn leader(&self) -> Option<&'a MemberReport> {
        self.leader
    }

    /// Whether any membership is known.
    pub fn is_known(&self) -> bool {
        self.membership.is_some_and(|membership| !membership.members.is_empty())
    }

    /// Whether no change of the membership is under way.
    pub fn is_settled(&self) -> bool {
        self.membership.is_some_and(|membership| membership.committed && !membership.joint)
    }

    /// Members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &'a Member> + use<'a> {
        self.members().filter(|member| member.voter)
    }

    /// Members that only replicate.
    pub fn learners(&self) -> impl Iterator<Item = &'a Member> + use<'a> {
        self.members().filter(|member| !member.voter)
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = &'a Member> + use<'a> {
        self.membership.into_iter().flat_map(|membership| &membership.members)
    }

    /// The member with this id.
    pub fn member(&self, node_id: NodeId) -> Option<&'a Member> {
        self.members().find(|member| member.node_id == node_id)
    }

    /// What a member said of itself just now, if it was itself that answered under its name.
    pub fn report(&self, member: &Member) -> Option<&'a MemberReport> {
        self.observed.reports.get(&member.name).filter(|report| report.node_id == member.node_id)
    }

    /// Whether it leads.
    pub fn leads(&self, member: &Member) -> bool {
        self.leader.is_some_and(|leader| leader.node_id == member.node_id)
    }

    /// Whether the leader hears it.
    pub fn is_heard(&self, member: &Member) -> bool {
        self.leads(member)
            || self.leader.is_some() && member.silent_milliseconds.is_some_and(|ms| ms < UNHEARD_MILLISECONDS)
    }

    /// Whether it has what is committed, but for what is on the way.
    pub fn has_caught_up(&self, member: &Member) -> bool {
        self.leads(member)
            || self.leader.is_some_and(|leader| {
                client::admin::has_caught_up(member.matched_index, leader.committed_index)
            })
    }

    /// Whether it is heard and has caught up.
    pub fn is_healthy(&self, member: &Member) -> bool {
        self.is_heard(member) && self.has_caught_up(member)
    }

    /// Whether nothing has asked it to go.
    pub fn stays(&self, member: &Member) -> bool {
        let goes = self.report(member).is_some_and(|report| report.phase == Phase::Draining);
        !goes && self.observed.pods.get(&member.name).is_some_and(|pod| !pod.terminating)
    }

    /// Whether a quorum of the voters would be healthy, and stay, with these members added and removed.
    pub fn keeps_quorum(&self, add: &[NodeId], remove: &[NodeId]) -> bool {
        let votes = |member: &&Member| {
            (member.voter || add.contains(&member.node_id)) && !remove.contains(&member.node_id)
        };
        let (mut size, mut sound) = (0, 0);
        for voter in self.members().filter(votes) {
            size += 1;
            sound += usize::from(self.is_healthy(voter) && self.stays(voter));
        }
        size > 0 && sound >= quorum(size)
    }

    /// Whether it is healthy, and its pod is Ready and in service: what the restart of another member asks for.
    pub fn is_sound(&self, member: &Member) -> bool {
        let pod = self.observed.pods.get(&member.name);
        let serves = self.report(member).is_some_and(|report| report.phase == Phase::Serving);
        self.is_healthy(member) && serves && pod.is_some_and(|pod| pod.ready && !pod.terminating)
    }

    /// Whether it is as well as it can be: sound, or, where an entry is fatal to all, healthy and held up by that.
    pub fn is_at_its_best(&self, member: &Member) -> bool {
        let is_held_up =
            |index| self.stays(member) && self.is_healthy(member) && self.is_held_up(member, index);
        self.is_sound(member) || self.entry_fatal_to_all().is_some_and(|entry| is_held_up(entry.index))
    }

    /// Whether the pod of a voter may be made anew without a pause: every other voter is at its best, and it does not lead
    /// unless it is alone.
    pub fn may_restart(&self, pod: &str) -> bool {
        let others = || self.voters().filter(|voter| voter.name != pod);
        self.leader.is_some_and(|leader| leader.name != pod || others().next().is_none())
            && self.is_settled()
            && others().all(|voter| self.is_at_its_best(voter))
    }

    /// The entry of the log because of which nothing is written: the leader does not apply it any more; or nobody leads, and
    /// of the voters, of which a quorum answers, none that does applies it. With the most that it ended one of them.
    pub fn fatal_entry(&self) -> Option<FatalEntry> {
        let told = || self.members().filter_map(|member| self.report(member)?.fatal_entry);
        let index = match self.leader {
            Some(leader) => leader.fatal_entry?.index,
            None => {
                let index = self.voters().find_map(|voter| self.report(voter)?.fatal_entry)?.index;
                let held_up = self.voters().filter(|voter| self.is_held_up(voter, index)).count();
                let all = held_up == self.answering_voters() && held_up >= quorum(self.voters().count());
                all.then_some(index)?
            }
        };
        told().filter(|entry| entry.index == index).max_by_key(|entry| entry.crashes)
    }

    /// The same, unless a member that answers has applied it: the others take its state then, by themselves.
    pub fn entry_fatal_to_all(&self) -> Option<FatalEntry> {
        let has_applied =
            |member: &Member, index| self.report(member).is_some_and(|report| report.applied_index >= index);
        self.fatal_entry().filter(|entry| !self.members().any(|member| has_applied(member, entry.index)))
    }

    /// Whether a member says that it does not apply the entry with this index any more.
    pub fn is_held_up(&self, member: &Member, index: u64) -> bool {
        self.report(member).and_then(|report| report.fatal_entry).is_some_and(|entry| entry.index == index)
    }

    /// Whether linearizable reads and writes are served: a quorum confirms the leader, or follows the same one, and what is
    /// committed is applied.
    pub fn serves(&self) -> bool {
        let Some(membership) = self.membership else { return false };
        if self.fatal_entry().is_some() {
            return false;
        }
        if self.leader.is_some() {
            return true;
        }
        let voters = membership.members.iter().filter(|member| member.voter).count();
        let followed = |id: NodeId| {
            membership
                .members
                .iter()
                .filter(|member| member.voter)
                .filter_map(|member| self.report(member))
                .filter(|report| report.phase == Phase::Serving)
                .filter(|report| report.leader.as_ref().is_some_and(|leader| leader.node_id == id))
                .count()
        };
        voters > 1 && membership.members.iter().any(|member| followed(member.node_id) >= quorum(voters))
    }

    /// How many voters answer the operator.
    pub fn answering_voters(&self) -> usize {
        self.voters().filter(|voter| self.report(voter).is_some()).count()
    }

    /// Whether fewer voters answer the operator than are needed.
    pub fn lacks_quorum(&self) -> bool {
        self.answering_voters() < quorum(self.voters().count())
    }

    /// Whether the volume of a voter is gone: its name came back with an empty one, or neither pod nor claim is left.
    pub fn lost_its_volume(&self, voter: &Member) -> bool {
        let (name, observed) = (&voter.name, self.observed);
        match observed.reports.get(name) {
            Some(report) => {
                let is_another = is_empty(report) || self.member(report.node_id).is_some();
                report.node_id != voter.node_id && is_another
            }
            None => !observed.pods.contains_key(name) && !observed.claims.contains_key(name),
        }
    }

    /// What of the voters' volumes is gone, as a sentence; empty: nothing is.
    pub fn lost_volumes(&self) -> String {
        let lost = self.voters().filter(|voter| self.lost_its_volume(voter));
        let names: Vec<&str> = lost.map(|voter| voter.name.as_str()).collect();
        match names.as_slice() {
            [] => String::new(),
            [name] => format!("the volume of {name} is lost; "),
            names => format!("the volumes of {} are lost; ", names.join(", ")),
        }
    }

    /// How many voters are healthy.
    pub fn healthy_voters(&self) -> usize {
        self.voters().filter(|member| self.is_healthy(member)).count()
    }
}

/// Whether the member has an empty disk and waits.
pub fn is_empty(report: &MemberReport) -> bool {
    report.cluster_id.is_none() && report.phase == Phase::Uninitialised
}

/// Voters that can be lost among `voters`.
pub fn slack(voters: usize) -> usize {
    voters.saturating_sub(quorum(voters))
}
