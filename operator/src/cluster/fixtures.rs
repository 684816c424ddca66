//! Worlds for tests: a cluster as it would be observed, told in a few verbs.

use super::observed::{ClaimView, Observed, PodView, SetView, Stuck};
use super::plan::{Plan, plan};
use super::resources::resources_mark;
use super::validate::{Desired, validate};
use crate::crd::{
    BootstrapPhase, BootstrapStatus, RolloutState, RolloutStatus, SqliteCluster, SqliteClusterSpec,
    Verification, VerificationResult,
};
use crate::names::{PodRole, role_revision};
use client::admin::{FatalEntry, Member, MemberRef, MemberReport, Membership, NodeId, Phase, Role};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

/// Id of the cluster in every world.
pub(crate) const CLUSTER_ID: &str = "c1";
/// Id that is minted when a world has none.
pub(crate) const MINTED: &str = "minted";
/// When every world is seen.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// The desired state of `orders` in namespace `shop` with the minimal spec.
pub(crate) fn desired(edit: impl FnOnce(&mut SqliteClusterSpec)) -> Desired {
    let mut cluster: SqliteCluster = serde_json::from_value(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "cluster-uid", "generation": 1},
        "spec": {"storage": {"size": "1Gi"}},
    }))
    .unwrap();
    edit(&mut cluster.spec);
    validate(&cluster, "example/sqlited:1.0.0").unwrap()
}

/// What a test of a backup came to, with nothing else said of it.
pub(crate) fn verification(time: Timestamp, result: VerificationResult) -> Verification {
    Verification {
        time: Time(time),
        result,
        restore_seconds: None,
        bytes_per_second: None,
        index: None,
        checked_index: None,
        message: None,
    }
}

/// A report in the making.
pub(crate) struct ReportBuilder(MemberReport);

/// A member with an empty disk.
pub(crate) fn report(name: &str, id: u64) -> ReportBuilder {
    ReportBuilder(MemberReport {
        cluster_id: None,
        epoch: 0,
        node_id: NodeId(id),
        name: name.into(),
        raft_address: format!("{name}:4002"),
        api_address: format!("{name}:4001"),
        version: "1.0.0".into(),
        engine: None,
        phase: Phase::Uninitialised,
        role: Role::Learner,
        term: 0,
        leader: None,
        last_log_index: 0,
        last_log_term: Some(0),
        committed_index: 0,
        applied_index: 0,
        quorum_silent_milliseconds: None,
        membership: Membership { committed: true, ..Membership::default() },
        consistency: None,
        storage: None,
        archive: None,
        certificates: Default::default(),
        fatal_entry: None,
        message: None,
    })
}

impl ReportBuilder {
    /// The leader of these voters, all of them healthy.
    pub(crate) fn leads(mut self, voters: &[(&str, u64)]) -> Self {
        let report = &mut self.0;
        report.cluster_id = Some(CLUSTER_ID.into());
        report.phase = Phase::Serving;
        report.role = Role::Leader;
        report.term = 3;
        report.leader = Some(MemberRef { node_id: report.node_id, name: report.name.clone() });
        (report.last_log_index, report.committed_index, report.applied_index) = (1000, 1000, 1000);
        report.last_log_term = Some(3);
        report.quorum_silent_milliseconds = Some(20);
        report.membership.log_index = 10;
        report.membership.members = voters.iter().map(|(name, id)| member(name, *id, true)).collect();
        self
    }

    pub(crate) fn get(self) -> MemberReport {
        self.0
    }
}

fn member(name: &str, id: u64, voter: bool) -> Member {
    Member {
        node_id: NodeId(id),
        name: name.into(),
        raft_address: format!("{name}:4002"),
        api_address: format!("{name}:4001"),
        voter,
        matched_index: Some(1000),
        silent_milliseconds: Some(20),
    }
}

/// A cluster as it would be observed.
pub(crate) struct World {
    pub(crate) desired: Desired,
    pub(crate) observed: Observed,
    members: Vec<Member>,
    leader: Option<NodeId>,
    settled: bool,
}

impl World {
    /// A spec, and nothing else yet.
    pub(crate) fn new(voters: i32, read_replicas: i32) -> Self {
        let desired = desired(|spec| {
            spec.voters = voters;
            spec.read_replicas = read_replicas;
        });
        let observed = Observed { now: now(), ..Observed::default() };
        Self { desired, observed, members: vec![], leader: None, settled: true }
    }

    /// A cluster that serves as its spec asks for, led by member 0.
    pub(crate) fn serving(voters: i32, read_replicas: i32) -> Self {
        let mut world = Self::new(voters, read_replicas).recorded(BootstrapPhase::Complete);
        for (role, count) in [(PodRole::Voter, voters), (PodRole::ReadReplica, read_replicas)] {
            let count = usize::try_from(count).unwrap();
            if role == PodRole::Voter || count > 0 {
                world = world.set(role, count);
            }
            for ordinal in 0..count {
                let name = world.desired.name.member(role, ordinal);
                world = world.pod(&name).joined(&name, role == PodRole::Voter);
            }
        }
        world.led_by("orders-0")
    }

    /// Raft id of a member by its name: voters from 100, read replicas from 200.
    pub(crate) fn id(&self, name: &str) -> NodeId {
        let (role, ordinal) = self.desired.name.parse_member(name).unwrap();
        NodeId(ordinal as u64 + if role == PodRole::Voter { 100 } else { 200 })
    }

    pub(crate) fn recorded(mut self, phase: BootstrapPhase) -> Self {
        self.observed.status.cluster_id = Some(CLUSTER_ID.into());
        self.observed.status.bootstrap = Some(BootstrapStatus { member: "orders-0".into(), phase });
        self
    }

    pub(crate) fn set(mut self, role: PodRole, replicas: usize) -> Self {
        let view = SetView {
            uid: format!("{}-set", role.label()),
            replicas,
            settled: true,
            revision: Some(self.desired.revision(role).into()),
            resources_mark: resources_mark(&self.desired.spec.resources),
            volume_bytes: Some(1 << 30),
            volume_size: Some("1Gi".into()),
            terminating: false,
        };
        self.observed.sets.insert(role, view);
        self
    }

    pub(crate) fn without_set(mut self, role: PodRole) -> Self {
        self.observed.sets.remove(&role);
        self
    }

    /// A running pod with an empty disk, and its claim.
    pub(crate) fn pod(mut self, name: &str) -> Self {
        let (role, ordinal) = self.desired.name.parse_member(name).unwrap();
        let pod = PodView {
            uid: format!("{name}-uid"),
            ip: Some(format!("10.0.{}.{ordinal}", role as u8)),
            running: true,
            not_ready_since: Some(now()),
            revision: Some(self.desired.revision(role).into()),
            serving: true,
            created: Some(now()),
            ..PodView::default()
        };
        self.observed.pods.insert(name.into(), pod);
        let id = self.id(name);
        self.observed.reports.insert(name.into(), report(name, id.0).get());
        if !self.observed.claims.contains_key(name) {
            let cluster_id = self.observed.cluster_id().map(str::to_owned);
            self = self.claim(name, cluster_id.as_deref(), None);
        }
        self
    }

    pub(crate) fn claim(mut self, name: &str, cluster_id: Option<&str>, node_id: Option<u64>) -> Self {
        let claim = ClaimView {
            uid: format!("{name}-claim"),
            cluster_id: cluster_id.map(str::to_owned),
            node_id: node_id.map(NodeId),
            requested_bytes: Some(1 << 30),
            requested: Some("1Gi".into()),
            ..ClaimView::default()
        };
        self.observed.claims.insert(name.into(), claim);
        self
    }

    /// The pod's member is in the membership, in service and Ready.
    pub(crate) fn joined(mut self, name: &str, voter: bool) -> Self {
        let id = self.id(name);
        self.members.retain(|member| member.node_id != id);
        self.members.push(member(name, id.0, voter));
        if let Some(claim) = self.observed.claims.get_mut(name) {
            claim.cluster_id = Some(CLUSTER_ID.into());
            claim.node_id = Some(id);
        }
        if let Some(pod) = self.observed.pods.get_mut(name) {
            (pod.ready, pod.not_ready_since) = (true, None);
        }
        if let Some(report) = self.observed.reports.get_mut(name) {
            report.cluster_id = Some(CLUSTER_ID.into());
            report.phase = Phase::Serving;
            (report.last_log_term, report.applied_index) = (Some(3), 1000);
        }
        self
    }

    /// The member does not apply the entry any more.
    pub(crate) fn held_up(mut self, name: &str, index: u64) -> Self {
        let report = self.observed.reports.get_mut(name).unwrap();
        (report.phase, report.applied_index) = (Phase::CatchingUp, index - 1);
        report.fatal_entry = Some(FatalEntry { index, term: 2, crashes: 3 });
        self.edit_pod(name, |pod| (pod.ready, pod.not_ready_since) = (false, Some(now())))
    }

    /// The member is no longer in the membership; its pod and its data are as they were.
    pub(crate) fn removed(mut self, name: &str) -> Self {
        let id = self.id(name);
        self.members.retain(|member| member.node_id != id);
        self
    }

    pub(crate) fn led_by(mut self, name: &str) -> Self {
        self.leader = Some(self.id(name));
        self
    }

    pub(crate) fn leaderless(mut self) -> Self {
        self.leader = None;
        self
    }

    pub(crate) fn changing(mut self) -> Self {
        self.settled = false;
        self
    }

    /// The leader does not hear it, and it answers nobody.
    pub(crate) fn dead(mut self, name: &str) -> Self {
        let id = self.id(name);
        self.observed.reports.remove(name);
        if let Some(pod) = self.observed.pods.get_mut(name) {
            (pod.ready, pod.not_ready_since) = (false, Some(now()));
        }
        self.edit_member(id, |member| member.silent_milliseconds = Some(60_000))
    }

    /// Dead for so long that it is to be replaced.
    pub(crate) fn lost(self, name: &str) -> Self {
        let (since, id) = (Timestamp::from_second(now().as_second() - 1_000).unwrap(), self.id(name));
        self.dead(name)
            .edit_pod(name, |pod| pod.not_ready_since = Some(since))
            .edit_member(id, |member| member.silent_milliseconds = Some(1_000_000))
    }

    /// Lost, and another member votes in its place; its name is held.
    pub(crate) fn replaced(self, name: &str) -> Self {
        self.lost(name).removed(name)
    }

    pub(crate) fn behind(self, name: &str) -> Self {
        let id = self.id(name);
        self.edit_member(id, |member| member.matched_index = Some(1))
    }

    /// Its volume is empty: it comes back under another id.
    pub(crate) fn wiped(mut self, name: &str, new_id: u64) -> Self {
        let id = self.id(name);
        self.observed.reports.insert(name.into(), report(name, new_id).get());
        self = self.edit_pod(name, |pod| (pod.ready, pod.not_ready_since) = (false, Some(now())));
        self.edit_member(id, |member| member.silent_milliseconds = Some(60_000))
    }

    /// The id that a wiped member came back under was added as a learner.
    pub(crate) fn learner(mut self, name: &str, id: u64) -> Self {
        self.members.push(member(name, id, false));
        if let Some(report) = self.observed.reports.get_mut(name) {
            report.node_id = NodeId(id);
            report.cluster_id = Some(CLUSTER_ID.into());
            report.phase = Phase::CatchingUp;
        }
        self
    }

    /// A cluster whose every voter is held up by entry 900.
    pub(crate) fn all_held_up() -> Self {
        let names = ["orders-0", "orders-1", "orders-2"];
        names.into_iter().fold(Self::serving(3, 0), |world, name| world.held_up(name, 900))
    }

    pub(crate) fn edit_pod(mut self, name: &str, edit: impl FnOnce(&mut PodView)) -> Self {
        edit(self.observed.pods.get_mut(name).unwrap());
        self
    }

    pub(crate) fn edit_claim(mut self, name: &str, edit: impl FnOnce(&mut ClaimView)) -> Self {
        edit(self.observed.claims.get_mut(name).unwrap());
        self
    }

    pub(crate) fn edit_member(mut self, id: NodeId, edit: impl FnOnce(&mut Member)) -> Self {
        if let Some(member) = self.members.iter_mut().find(|member| member.node_id == id) {
            edit(member);
        }
        self
    }

    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }

    pub(crate) fn no_pod(mut self, name: &str) -> Self {
        self.observed.pods.remove(name);
        self.observed.reports.remove(name);
        self
    }

    /// The spec asks for this many.
    pub(crate) fn wants(mut self, voters: i32, read_replicas: i32) -> Self {
        let mut spec = self.desired.spec.clone();
        (spec.voters, spec.read_replicas) = (voters, read_replicas);
        self.desired = desired(|s| *s = spec);
        self
    }

    /// The spec is edited otherwise.
    pub(crate) fn spec(mut self, edit: impl FnOnce(&mut SqliteClusterSpec)) -> Self {
        let mut spec = self.desired.spec.clone();
        edit(&mut spec);
        self.desired = desired(|s| *s = spec);
        self
    }

    /// Another image is wanted, and the StatefulSets know it.
    pub(crate) fn upgraded(mut self) -> Self {
        self = self.spec(|spec| spec.image = Some("example/sqlited:2.0.0".into()));
        for role in PodRole::ALL {
            let revision = self.desired.revision(role).to_owned();
            if let Some(set) = self.observed.sets.get_mut(&role) {
                set.revision = Some(revision);
            }
        }
        self
    }

    /// The template that there is has proved itself.
    pub(crate) fn stable(mut self) -> Self {
        let revision = self.desired.voter_revision.clone();
        for role in PodRole::ALL {
            self.observed.templates.insert(role_revision(&revision, role), PodTemplateSpec::default());
        }
        self.observed.status.rollout = Some(RolloutStatus {
            state: RolloutState::Complete,
            updated: 0,
            total: 0,
            revision: Some(revision.clone()),
            stable_revision: Some(revision),
            failed_revision: None,
            canary: None,
            message: None,
        });
        self
    }

    /// What the plan says of the rollout is in the status, and its template, with the resources, in the StatefulSets.
    pub(crate) fn told(mut self) -> Self {
        let plan = self.plan();
        for (role, set) in &mut self.observed.sets {
            set.revision = Some(role_revision(&plan.revision, *role));
            set.resources_mark = resources_mark(&self.desired.spec.resources);
        }
        self.observed.status.rollout = plan.rollout;
        self
    }

    /// So many seconds later.
    pub(crate) fn later(mut self, seconds: i64) -> Self {
        self.observed.now = Timestamp::from_second(self.observed.now.as_second() + seconds).unwrap();
        self
    }

    /// The pod has the wanted template.
    pub(crate) fn current(self, name: &str) -> Self {
        let (role, _) = self.desired.name.parse_member(name).unwrap();
        let revision = self.desired.revision(role).to_owned();
        self.edit_pod(name, |pod| pod.revision = Some(revision))
    }

    /// The pod cannot start.
    pub(crate) fn stuck(self, name: &str, reason: &str) -> Self {
        let long_ago = Timestamp::from_second(now().as_second() - 600).unwrap();
        let stuck = Stuck { reason: reason.into(), message: "no".into() };
        self.dead(name).edit_pod(name, |pod| {
            (pod.running, pod.stuck, pod.created) = (false, Some(stuck), Some(long_ago));
        })
    }

    /// No Kubernetes node takes the pod.
    pub(crate) fn unschedulable(self, name: &str) -> Self {
        self.stuck(name, "x").edit_pod(name, |pod| {
            (pod.stuck, pod.unschedulable) = (None, Some("0/3 nodes are available".into()));
        })
    }

    pub(crate) fn condition(mut self, kind: &str, status: &str, reason: &str, seconds_ago: i64) -> Self {
        self.observed.status.conditions.push(Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Time(Timestamp::from_second(now().as_second() - seconds_ago).unwrap()),
            observed_generation: Some(1),
        });
        self
    }

    /// What is observed: members that are of the cluster report its membership as they know it.
    pub(crate) fn observe(&self) -> Observed {
        let mut observed = self.observed.clone();
        let leader =
            self.leader.and_then(|id| self.members.iter().find(|member| member.node_id == id)).cloned();
        let ours = |report: &&mut MemberReport| report.cluster_id.as_deref() == Some(CLUSTER_ID);
        for report in observed.reports.values_mut().filter(ours) {
            let leads = Some(report.node_id) == self.leader;
            let voter = self.members.iter().any(|member| member.node_id == report.node_id && member.voter);
            report.term = 3;
            report.role = match (leads, voter) {
                (true, _) => Role::Leader,
                (false, true) => Role::Follower,
                (false, false) => Role::Learner,
            };
            report.leader = leader.as_ref().map(|l| MemberRef { node_id: l.node_id, name: l.name.clone() });
            report.committed_index = 1000;
            report.quorum_silent_milliseconds = leads.then_some(20);
            let bare =
                |member: &Member| Member { matched_index: None, silent_milliseconds: None, ..member.clone() };
            let members = self.members.iter().map(|member| if leads { member.clone() } else { bare(member) });
            report.membership = Membership {
                log_index: 10,
                committed: self.settled,
                joint: !self.settled,
                members: members.collect(),
            };
        }
        observed
    }

    pub(crate) fn plan(&self) -> Plan {
        plan(&self.desired, &self.observe(), MINTED)
    }
}
