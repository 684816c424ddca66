//! Plans in a loop with a simulated Kubernetes and a simulated Raft: whatever is asked for is reached, no planned step
//! costs the quorum, and no step is taken that a member would have to refuse.

use super::*;
use crate::cluster::fixtures::{desired, now, report};
use crate::cluster::observed::{ClaimView, Observed, PodView, SetView, Stuck};
use crate::cluster::validate::Desired;
use crate::crd::{SqliteClusterSpec, SqliteClusterStatus};
use crate::names::role_revision;
use client::admin::{Member, MemberRef, Membership, Phase, Role, quorum};
use std::collections::{BTreeMap, BTreeSet};

/// Ticks within which a change must be complete.
const PATIENCE: u64 = 120;
const BAD_IMAGE: &str = "example/sqlited:bad";

#[derive(Clone, Debug, Default)]
struct Claim {
    uid: String,
    cluster_id: Option<String>,
    node_id: Option<NodeId>,
    leaving: bool,
    /// Raft id and whether the data is of the cluster.
    disk: Option<(NodeId, bool)>,
}

#[derive(Clone, Debug)]
struct Pod {
    uid: String,
    revision: String,
    broken: bool,
    since: u64,
}

#[derive(Default)]
struct Simulation {
    tick: u64,
    uids: u64,
    status: SqliteClusterStatus,
    sets: BTreeMap<PodRole, (usize, String, bool)>,
    pods: BTreeMap<String, Pod>,
    /// Pods whose Kubernetes node is lost, which hold their names, since when.
    lost: BTreeMap<String, u64>,
    claims: BTreeMap<String, Claim>,
    /// Members by id: name, whether it votes, since when.
    members: BTreeMap<NodeId, (String, bool, u64)>,
    leader: Option<NodeId>,
    log_index: u64,
    initialised: u32,
    restarts: u32,
    /// Templates that were ever pinned.
    made: BTreeSet<String>,
}

impl Simulation {
    /// A tick is a second.
    fn at(&self, tick: u64) -> jiff::Timestamp {
        now() + jiff::SignedDuration::from_secs(i64::try_from(tick).unwrap())
    }

    fn now(&self) -> jiff::Timestamp {
        self.at(self.tick)
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    fn kubernetes(&mut self, desired: &Desired) {
        for (role, (size, revision, broken)) in self.sets.clone() {
            for ordinal in 0..size {
                let name = desired.name.member(role, ordinal);
                if !self.claims.contains_key(&name) {
                    let uid = self.uid();
                    self.claims.insert(name.clone(), Claim { uid, ..Claim::default() });
                }
                if !self.pods.contains_key(&name) && !self.claims[&name].leaving {
                    let pod = Pod { uid: self.uid(), revision: revision.clone(), broken, since: self.tick };
                    self.pods.insert(name, pod);
                }
            }
            let lost = &self.lost;
            self.pods.retain(|name, _| {
                let parsed = desired.name.parse_member(name);
                lost.contains_key(name)
                    || parsed.is_none_or(|(found, ordinal)| found != role || ordinal < size)
            });
        }
        let pods = &self.pods;
        self.claims.retain(|name, claim| !claim.leaving || pods.contains_key(name));
    }

    fn runs(&self, name: &str) -> bool {
        !self.lost.contains_key(name)
            && self.pods.get(name).is_some_and(|pod| !pod.broken && self.tick > pod.since)
    }

    fn silent_milliseconds(&self, id: NodeId) -> u64 {
        let lost = self.lost.get(&self.members[&id].0);
        match lost {
            Some(since) => 1_000 * (self.tick - since),
            None if self.alive(id) => 10,
            None => 60_000,
        }
    }

    fn alive(&self, id: NodeId) -> bool {
        let name = &self.members[&id].0;
        self.runs(name) && self.claims[name].disk.is_some_and(|(disk, _)| disk == id)
    }

    fn caught_up(&self, id: NodeId) -> bool {
        self.alive(id)
            && self.tick >= self.members[&id].2 + 2
            && self.tick >= self.pods[&self.members[&id].0].since + 2
    }

    fn voters(&self) -> Vec<NodeId> {
        self.members.iter().filter(|(_, member)| member.1).map(|(id, _)| *id).collect()
    }

    fn has_quorum(&self) -> bool {
        let voters = self.voters();
        voters.iter().filter(|id| self.alive(**id)).count() >= quorum(voters.len())
    }

    fn raft(&mut self) {
        let running: Vec<String> = self.pods.keys().filter(|name| self.runs(name)).cloned().collect();
        for name in running {
            if self.claims[&name].disk.is_none() {
                self.uids += 1;
                let id = NodeId(1_000 + self.uids);
                if let Some(claim) = self.claims.get_mut(&name) {
                    claim.disk = Some((id, false));
                }
            }
        }
        if !self.has_quorum() {
            self.leader = None;
        } else if self.leader.is_none_or(|id| !self.members.contains_key(&id) || !self.alive(id)) {
            self.leader = self.voters().into_iter().find(|id| self.alive(*id));
        }
        if self.leader.is_some() {
            for (id, (name, ..)) in &self.members {
                if let Some(claim) = self.claims.get_mut(name)
                    && let Some((disk, joined)) = &mut claim.disk
                    && disk == id
                {
                    *joined = true;
                }
            }
        }
    }

    fn observe(&self, desired: &Desired) -> Observed {
        let mut observed = Observed { now: self.now(), status: self.status.clone(), ..Observed::default() };
        let revisions = self.sets.values().map(|(_, revision, _)| revision).chain(&self.made);
        observed.templates = revisions.map(|revision| (revision.clone(), Default::default())).collect();
        for (role, (replicas, revision, _)) in &self.sets {
            let set = SetView {
                uid: format!("set-{}", role.label()),
                replicas: *replicas,
                settled: true,
                revision: Some(revision.clone()),
                resources_mark: None,
                volume_bytes: Some(1 << 30),
                volume_size: Some("1Gi".into()),
                terminating: false,
            };
            observed.sets.insert(*role, set);
        }
        for (name, claim) in &self.claims {
            let view = ClaimView {
                uid: claim.uid.clone(),
                cluster_id: claim.cluster_id.clone(),
                node_id: claim.node_id,
                terminating: claim.leaving,
                requested_bytes: Some(1 << 30),
                requested: Some("1Gi".into()),
                ..ClaimView::default()
            };
            observed.claims.insert(name.clone(), view);
        }
        for (name, pod) in &self.pods {
            self.observe_pod(desired, &mut observed, name, pod);
        }
        observed
    }

    fn observe_pod(&self, desired: &Desired, observed: &mut Observed, name: &str, pod: &Pod) {
        let runs = self.runs(name);
        let id = self.claims[name].disk.map(|(id, _)| id);
        let serves = id.is_some_and(|id| self.members.contains_key(&id) && self.caught_up(id))
            && self.leader.is_some();
        let view = PodView {
            uid: pod.uid.clone(),
            ip: Some("10.0.0.1".into()),
            ready: serves,
            not_ready_since: (!serves).then(|| self.at(self.lost.get(name).copied().unwrap_or(self.tick))),
            running: runs || self.lost.contains_key(name),
            stuck: pod.broken.then(|| Stuck { reason: "ImagePullBackOff".into(), message: String::new() }),
            revision: Some(pod.revision.clone()),
            serving: true,
            created: Some(self.at(pod.since)),
            ..PodView::default()
        };
        observed.pods.insert(name.into(), view);
        let (Some(id), true) = (id, runs) else { return };
        let mut report = report(name, id.0).get();
        if self.claims[name].disk.is_some_and(|(_, joined)| joined) {
            report.cluster_id = self.status.cluster_id.clone();
            report.phase = if serves { Phase::Serving } else { Phase::CatchingUp };
            let leads = self.leader == Some(id);
            report.role = if leads { Role::Leader } else { Role::Follower };
            report.term = 1;
            report.committed_index = 1_000;
            report.leader =
                self.leader.map(|id| MemberRef { node_id: id, name: self.members[&id].0.clone() });
            let members = self.members.iter().map(|(id, (name, voter, _))| Member {
                node_id: *id,
                name: name.clone(),
                raft_address: String::new(),
                api_address: String::new(),
                voter: *voter,
                matched_index: leads.then_some(if self.caught_up(*id) { 1_000 } else { 0 }),
                silent_milliseconds: leads.then(|| self.silent_milliseconds(*id)),
            });
            report.membership = Membership {
                log_index: self.log_index,
                committed: true,
                joint: false,
                members: members.collect(),
            };
        }
        let _ = desired;
        observed.reports.insert(name.into(), report);
    }

    /// One reconcile; whether it left everything as it was.
    fn reconcile(&mut self, desired: &Desired) -> bool {
        let observed = self.observe(desired);
        let plan = plan(desired, &observed, MINTED);
        assert!(plan.steps.iter().filter(|step| step.is_disruptive()).count() <= 1, "{plan:#?}");
        let rests = !plan.progresses() && plan.obstacle.is_none();
        let sizes = plan.sizes.clone().unwrap_or_default();
        let before = self.sets.clone();
        let broken = desired.image == BAD_IMAGE && plan.revision == desired.voter_revision;
        let set = |role: PodRole| (sizes.of(role), role_revision(&plan.revision, role), broken);
        self.made.extend(PodRole::ALL.map(|role| role_revision(&plan.revision, role)));
        self.sets.insert(PodRole::Voter, set(PodRole::Voter));
        if sizes.read_replicas.is_some() {
            self.sets.insert(PodRole::ReadReplica, set(PodRole::ReadReplica));
        }
        for mark in &plan.claims {
            if let Some(claim) = self.claims.get_mut(&mark.member).filter(|claim| claim.uid == mark.uid) {
                claim.cluster_id = Some(mark.cluster_id.clone());
                claim.node_id = mark.node_id;
            }
        }
        for step in &plan.steps {
            self.take(step);
        }
        self.status.cluster_id = plan.cluster_id;
        self.status.bootstrap = plan.bootstrap;
        self.status.rollout = plan.rollout;
        rests && before == self.sets
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::SetServing { .. }
            | Step::RecreateSet { .. }
            | Step::Restore(_)
            | Step::RecoverQuorum { .. }
            | Step::SkipEntry(_)
            | Step::DressPod { .. }
            | Step::ResizePod { .. } => {}
            Step::Initialise { pod, .. } => {
                assert!(self.members.is_empty(), "initialised twice");
                let (id, _) = self.claims[pod].disk.expect("a running member");
                self.initialised += 1;
                self.members.insert(id, (pod.clone(), true, self.tick));
            }
            Step::AddLearner(add) => {
                assert!(self.leader.is_some());
                self.members.insert(add.node_id, (add.name.clone(), false, self.tick));
            }
            Step::RemoveLearner { node_id, .. } => {
                let (_, voter, _) = self.members.remove(node_id).expect("a member");
                assert!(!voter, "a voter removed as a learner");
            }
            Step::ChangeVoters { add, remove } => {
                assert!(self.leader.is_some());
                for (_, id) in add {
                    assert!(self.caught_up(*id), "promoted before it had caught up");
                    self.members.get_mut(id).expect("a learner").1 = true;
                }
                for (_, id) in remove {
                    assert_ne!(Some(*id), self.leader, "the leader was removed");
                    self.members.remove(id);
                }
                assert!(self.has_quorum(), "{step:?} cost the quorum");
            }
            Step::Transfer { to_id, .. } => self.leader = Some(*to_id),
            Step::DeletePod { pod, uid, restart, .. } => {
                if self.pods.get(pod).is_some_and(|found| found.uid == *uid) && !self.lost.contains_key(pod) {
                    self.pods.remove(pod);
                    self.restarts += u32::from(*restart);
                }
                if self.voters().len() > 1 && *restart {
                    assert!(self.has_quorum(), "{step:?} cost the quorum");
                }
            }
            Step::DeleteClaim { member, uid, .. } => {
                let members = &self.members;
                if let Some(claim) = self.claims.get_mut(member).filter(|claim| claim.uid == *uid) {
                    let lives = claim.disk.is_some_and(|(id, joined)| joined && members.contains_key(&id));
                    assert!(!lives, "the volume of a member was deleted");
                    claim.leaving = true;
                }
            }
        }
        self.log_index += 1;
    }

    /// Until everything is as it is asked for.
    #[track_caller]
    fn settle(&mut self, desired: &Desired) {
        self.go_on_until(desired, |simulation, rests| rests && simulation.is_as_wanted(desired));
    }

    /// Until it is so, of which the second argument tells whether nothing moves.
    #[track_caller]
    fn go_on_until(&mut self, desired: &Desired, is_so: impl Fn(&Self, bool) -> bool) {
        for _ in 0..PATIENCE {
            self.step(desired);
            let rests = self.reconcile(desired);
            if is_so(self, rests) {
                return;
            }
        }
        panic!("not reached: {:#?}\n{:#?}", self.members, plan(desired, &self.observe(desired), MINTED));
    }

    fn step(&mut self, desired: &Desired) {
        self.tick += 1;
        self.kubernetes(desired);
        self.raft();
    }

    fn is_as_wanted(&self, desired: &Desired) -> bool {
        let names = |voter: bool| {
            let mut names: Vec<_> = self
                .members
                .values()
                .filter(|member| member.1 == voter)
                .map(|member| member.0.clone())
                .collect();
            names.sort();
            names
        };
        let wanted = |role: PodRole| -> Vec<_> {
            (0..desired.members(role)).map(|ordinal| desired.name.member(role, ordinal)).collect()
        };
        names(true) == wanted(PodRole::Voter)
            && names(false) == wanted(PodRole::ReadReplica)
            && self.members.keys().all(|id| self.caught_up(*id))
            && self.pods.len() == desired.voters + desired.read_replicas
    }
}

fn wanting(voters: i32, read_replicas: i32) -> Desired {
    edited(|spec| (spec.voters, spec.read_replicas) = (voters, read_replicas))
}

/// A spec whose canary is watched for a few ticks only.
fn edited(edit: impl FnOnce(&mut SqliteClusterSpec)) -> Desired {
    desired(|spec| {
        spec.update.canary.soak_seconds = 3;
        edit(spec);
    })
}

#[test]
fn scales_1_3_5_3_1_with_replicas_up_and_down() {
    let mut simulation = Simulation::default();
    for (voters, replicas) in [(1, 0), (3, 0), (5, 2), (3, 3), (1, 0), (7, 1), (1, 1)] {
        simulation.settle(&wanting(voters, replicas));
    }
    assert_eq!(simulation.initialised, 1);
    assert_eq!(simulation.restarts, 0);
    assert!(simulation.claims.len() <= 3, "claims of removed members are gone");
}

#[test]
fn retained_claims_of_removed_members_do_not_come_back_as_members() {
    let retain = |voters| {
        edited(|spec| {
            spec.voters = voters;
            spec.storage.on_scale_down = RetentionPolicy::Retain;
        })
    };
    let mut simulation = Simulation::default();
    for voters in [5, 3, 5, 1, 3] {
        simulation.settle(&retain(voters));
    }
    assert_eq!(simulation.initialised, 1);
}

#[test]
fn an_upgrade_restarts_each_pod_once() {
    let mut simulation = Simulation::default();
    simulation.settle(&wanting(3, 2));
    let upgraded = edited(|spec| {
        (spec.voters, spec.read_replicas) = (3, 2);
        spec.image = Some("example/sqlited:2.0.0".into());
    });
    simulation.settle(&upgraded);
    assert!(simulation.pods.values().all(|pod| !pod.broken && pod.revision != wanting(3, 2).voter_revision));
    assert_eq!(simulation.restarts, 5);
}

#[test]
fn a_bad_image_costs_one_member_and_reverting_it_is_enough() {
    let mut simulation = Simulation::default();
    let good = wanting(3, 0);
    simulation.settle(&good);
    let bad = edited(|spec| spec.image = Some(BAD_IMAGE.into()));
    for _ in 0..PATIENCE {
        simulation.step(&bad);
        simulation.reconcile(&bad);
        assert!(simulation.has_quorum());
    }
    assert_eq!(simulation.restarts, 1);
    simulation.settle(&good);
}

#[test]
fn a_cluster_that_is_deleted_and_created_again_resumes() {
    let mut simulation = Simulation::default();
    simulation.settle(&wanting(5, 1));
    let ids: Vec<_> = simulation.members.keys().copied().collect();
    (simulation.status, simulation.leader) = (SqliteClusterStatus::default(), None);
    simulation.sets.clear();
    simulation.pods.clear();
    simulation.settle(&wanting(3, 1));
    assert_eq!(simulation.initialised, 1);
    assert!(simulation.members.keys().all(|id| ids.contains(id)), "members resume under their ids");
    assert_eq!(simulation.status.cluster_id.as_deref(), Some(MINTED));
}

/// A small generator, so that a failure names its seed and nothing else.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[test]
fn whatever_comes_in_between_it_settles() {
    for start in 0..100_u64 {
        let mut seed = start;
        let mut simulation = Simulation::default();
        let mut wanted = wanting(3, 1);
        simulation.settle(&wanted);
        for _ in 0..6 {
            let voters = [1, 3, 5, 7][usize::try_from(random(&mut seed) % 4).unwrap()];
            let replicas = i32::try_from(random(&mut seed) % 3).unwrap();
            let image = format!("example/sqlited:{}", random(&mut seed) % 2);
            wanted = edited(|spec| {
                (spec.voters, spec.read_replicas) = (voters, replicas);
                spec.image = Some(image);
            });
            // The spec changes again before it is reached, and a volume may be lost on the way.
            for _ in 0..random(&mut seed) % 12 {
                simulation.step(&wanted);
                simulation.reconcile(&wanted);
            }
            if random(&mut seed).is_multiple_of(2) {
                lose_a_volume(&mut simulation, random(&mut seed));
            }
        }
        eprintln!("seed {start}");
        simulation.settle(&wanted);
        assert_eq!(simulation.initialised, 1);
    }
}

/// A Kubernetes node is lost with the pod of a voter.
fn lose_a_node(simulation: &mut Simulation, choice: u64) {
    let voters = simulation.voters();
    let name = simulation.members[&voters[usize::try_from(choice).unwrap() % voters.len()]].0.clone();
    simulation.lost.insert(name, simulation.tick);
}

#[test]
fn as_many_nodes_as_are_lost_are_stood_in_for_until_their_names_are_free() {
    let wanted = edited(|spec| (spec.voters, spec.recovery.member_replacement_after_seconds) = (5, 5));
    let is_whole = |simulation: &Simulation, _: bool| {
        let voters = simulation.voters();
        voters.len() == 5 && voters.iter().all(|id| simulation.caught_up(*id))
    };
    for start in 0..50_u64 {
        let mut seed = start;
        let mut simulation = Simulation::default();
        simulation.settle(&wanted);
        eprintln!("seed {start}");
        for _ in 0..3 {
            // One, or two at once: of five voters three are left.
            lose_a_node(&mut simulation, random(&mut seed));
            if random(&mut seed).is_multiple_of(2) {
                lose_a_node(&mut simulation, random(&mut seed));
            }
            simulation.go_on_until(&wanted, is_whole);
            assert!(simulation.has_quorum());
        }
        // Kubernetes forgets the nodes, one after the other or all of them.
        while let Some((name, _)) = simulation.lost.pop_first() {
            simulation.pods.remove(&name);
            if random(&mut seed).is_multiple_of(2) {
                simulation.go_on_until(&wanted, is_whole);
            }
        }
        simulation.settle(&wanted);
        assert_eq!((simulation.initialised, simulation.restarts), (1, 0));
    }
}

/// Takes one volume, if the others are a quorum that has caught up.
fn lose_a_volume(simulation: &mut Simulation, choice: u64) {
    let voters = simulation.voters();
    let spare = voters.iter().filter(|id| simulation.caught_up(**id)).count() > quorum(voters.len());
    if !spare || voters.is_empty() {
        return;
    }
    let id = voters[usize::try_from(choice).unwrap() % voters.len()];
    let name = simulation.members[&id].0.clone();
    simulation.pods.remove(&name);
    if let Some(claim) = simulation.claims.get_mut(&name) {
        claim.disk = None;
    }
}
