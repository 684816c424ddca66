//! What a plan is made of.

use crate::names::PodRole;
use crate::reasons::reasons;
use client::admin::{AddLearner, NodeId, Recover, SkipEntry};
use client::backup::StartRestore;

/// Sizes of the StatefulSets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Pods for voters.
    pub voters: usize,
    /// Pods for read replicas; absent: there is no such StatefulSet.
    pub read_replicas: Option<usize>,
}

impl Sizes {
    /// Pods for a role.
    pub fn of(&self, role: PodRole) -> usize {
        match role {
            PodRole::Voter => self.voters,
            PodRole::ReadReplica => self.read_replicas.unwrap_or(0),
        }
    }
}

/// What a claim is to say. Applied as a whole: what is absent here is taken off the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMark {
    /// Member that the claim belongs to.
    pub member: String,
    /// What the member is.
    pub role: PodRole,
    /// Uid of the claim, so that none is created.
    pub uid: String,
    /// Which cluster's data is on the volume.
    pub cluster_id: String,
    /// Raft id of the member that lives on it.
    pub node_id: Option<NodeId>,
    /// Whether it goes with the cluster object.
    pub owned: bool,
    /// Size to ask for.
    pub size: String,
    /// Whether that is more than was asked for before.
    pub grows: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Puts a pod into its Services, or takes it out.
    SetServing {
        /// Which pod.
        pod: String,
        /// Its uid.
        uid: String,
        /// In or out.
        serving: bool,
    },
    /// Deletes a StatefulSet and leaves its pods, so that it can be created with larger volumes.
    RecreateSet {
        /// Whose.
        role: PodRole,
        /// Its uid.
        uid: String,
    },
    /// Makes the member the only voter of the new cluster.
    Initialise {
        /// Pod of the member.
        pod: String,
        /// Id of the cluster.
        cluster_id: String,
    },
    /// Adds a member that replicates.
    AddLearner(AddLearner),
    /// Removes a member that does not vote.
    RemoveLearner {
        /// Its name.
        name: String,
        /// Its Raft id.
        node_id: NodeId,
    },
    /// Changes who votes, in one joint change.
    ChangeVoters {
        /// Who shall vote.
        add: Vec<(String, NodeId)>,
        /// Who shall leave.
        remove: Vec<(String, NodeId)>,
    },
    /// Brings the backup into the cluster that it begins with.
    Restore(StartRestore),
    /// Hands the leadership over.
    Transfer {
        /// From whom.
        from: String,
        /// To whom.
        to: String,
        /// Its Raft id.
        to_id: NodeId,
    },
    /// Lets a survivor go on alone, with what its log holds.
    RecoverQuorum {
        /// Its pod.
        pod: String,
        /// What it is and holds.
        body: Recover,
    },
    /// Has every member pass over an entry of the log that none gets over.
    SkipEntry(SkipEntry),
    /// Changes labels and annotations of a running pod.
    DressPod {
        /// Which pod.
        pod: String,
        /// Its uid.
        uid: String,
        /// The change, as a merge patch of its metadata.
        patch: serde_json::Value,
        /// What it is marked with afterwards.
        mark: Option<String>,
    },
    /// Changes the compute resources of a running pod.
    ResizePod {
        /// Which pod.
        pod: String,
        /// Its uid.
        uid: String,
        /// The change, as a merge patch of its container's resources.
        patch: serde_json::Value,
        /// What it is marked with afterwards.
        mark: Option<String>,
    },
    /// Deletes a pod; its StatefulSet makes it anew.
    DeletePod {
        /// Which pod.
        pod: String,
        /// Its uid.
        uid: String,
        /// Whether a running member is restarted.
        restart: bool,
        /// Why, for people.
        why: String,
    },
    /// Deletes a claim, and with it the data of a removed member.
    DeleteClaim {
        /// Member that it belonged to.
        member: String,
        /// Uid of the claim.
        uid: String,
        /// Why, for people.
        why: String,
    },
}

impl Step {
    /// Whether it costs a member, if only for a moment.
    pub fn is_disruptive(&self) -> bool {
        match self {
            Self::ChangeVoters { .. } | Self::Transfer { .. } => true,
            Self::DeletePod { restart, .. } => *restart,
            Self::SetServing { .. }
            | Self::RecreateSet { .. }
            | Self::Initialise { .. }
            | Self::AddLearner(_)
            | Self::RecoverQuorum { .. }
            | Self::SkipEntry(_)
            | Self::DressPod { .. }
            | Self::ResizePod { .. }
            | Self::Restore(_)
            | Self::RemoveLearner { .. }
            | Self::DeleteClaim { .. } => false,
        }
    }

    /// Whether it is not to be taken once `earlier` failed, which it was decided on. What is done to a pod alone concerns no
    /// other step.
    pub fn needs(&self, earlier: &Self) -> bool {
        match earlier {
            // Each makes the members into what the next was decided on. So were deletions, on who is a member: where it is not
            // done what was asked for, somebody else may lead by now.
            Self::Initialise { .. }
            | Self::AddLearner(_)
            | Self::RemoveLearner { .. }
            | Self::ChangeVoters { .. }
            | Self::Restore(_)
            | Self::Transfer { .. }
            | Self::RecoverQuorum { .. }
            | Self::SkipEntry(_) => !matches!(
                self,
                Self::SetServing { .. }
                    | Self::RecreateSet { .. }
                    | Self::DressPod { .. }
                    | Self::ResizePod { .. }
            ),
            // It would come back to the data that was to go.
            Self::DeleteClaim { member, .. } => matches!(self, Self::DeletePod { pod, .. } if pod == member),
            Self::SetServing { .. }
            | Self::RecreateSet { .. }
            | Self::DressPod { .. }
            | Self::ResizePod { .. }
            | Self::DeletePod { .. } => false,
        }
    }
}

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// For programs.
    pub reason: ActivityReason,
    /// For people.
    pub message: String,
}

impl Activity {
    pub(in crate::cluster) fn new(reason: ActivityReason, message: String) -> Self {
        Self { reason, message }
    }
}

/// Reasons of the condition Reconciling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivityReason {
    /// The cluster begins.
    Bootstrapping,
    /// Retained volumes are taken over.
    Adopting,
    /// The number of members changes.
    Scaling,
    /// A lost member is replaced.
    ReplacingMember,
    /// Pods get another template.
    RollingUpdate,
    /// Volumes grow.
    Resizing,
    /// What a deleted cluster left is going.
    Deleting,
    /// Pods go, volumes stay.
    Hibernating,
    /// Leadership leaves a fenced member.
    Fencing,
    /// A survivor goes on alone.
    RecoveringQuorum,
    /// An entry of the log is passed over.
    SkippingEntry,
    /// TLS between members is turned on or off.
    SecuringPeers,
    /// TLS for clients is turned on or off.
    SecuringClients,
    /// A port has no certificates yet.
    AwaitingCertificates,
    /// One authority takes the place of another.
    RotatingCertificates,
    /// One password takes the place of another.
    RotatingPassword,
    /// A Secret that the spec names is not there.
    AwaitingSecrets,
    /// The database of a backup is on its way.
    Restoring,
    /// Nothing can be seen of the cluster at present.
    Retrying,
}

impl ActivityReason {
    /// As the condition spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrapping => "Bootstrapping",
            Self::Adopting => "Adopting",
            Self::Scaling => "Scaling",
            Self::ReplacingMember => "ReplacingMember",
            Self::RollingUpdate => "RollingUpdate",
            Self::Resizing => "Resizing",
            Self::Deleting => "Deleting",
            Self::Hibernating => "Hibernating",
            Self::Fencing => "Fencing",
            Self::RecoveringQuorum => "RecoveringQuorum",
            Self::SkippingEntry => "SkippingEntry",
            Self::SecuringPeers => "SecuringPeers",
            Self::SecuringClients => "SecuringClients",
            Self::AwaitingCertificates => "AwaitingCertificates",
            Self::RotatingCertificates => "RotatingCertificates",
            Self::RotatingPassword => "RotatingPassword",
            Self::AwaitingSecrets => "AwaitingSecrets",
            Self::Restoring => "Restoring",
            Self::Retrying => "Retrying",
        }
    }
}

/// What waits for a time or for somebody's word. Nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// For programs.
    pub reason: PendingReason,
    /// For people: what is waited for.
    pub message: String,
}

/// Reasons of the condition UpdatePending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingReason {
    /// A human must approve the revision.
    WaitingForApproval,
    /// A maintenance window must open.
    WaitingForWindow,
    /// The operator is of a newer release than the members.
    NewerOperator,
}

impl PendingReason {
    /// As the condition spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForApproval => "WaitingForApproval",
            Self::WaitingForWindow => "WaitingForWindow",
            Self::NewerOperator => "NewerOperator",
        }
    }
}

/// What needs a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// For programs.
    pub reason: ObstacleReason,
    /// For people: what is wrong and what to do.
    pub message: String,
}

impl Obstacle {
    pub(in crate::cluster) fn new(reason: ObstacleReason, message: String) -> Self {
        Self { reason, message }
    }
}

reasons! {
    /// Reasons of the condition Stalled, as a plan finds them. [`crate::error::RejectionReason`] are those that others give.
    ObstacleReason {
        /// An object holds a name of ours.
        NameConflict => "NameConflict",
        /// Volumes of this name hold data of different clusters.
        ClusterIdConflict => "ClusterIDConflict",
        /// A pod finds no Kubernetes node.
        InsufficientCapacity => "InsufficientCapacity",
        /// A pod cannot start.
        MemberStuck => "MemberStuck",
        /// No quorum for a long time.
        QuorumLost => "QuorumLost",
        /// An entry of the log that ends every member.
        FatalEntry => "FatalEntry",
        /// Every volume is empty though the cluster had begun.
        DataLost => "DataLost",
        /// The first member with a new template did not come up.
        CanaryFailed => "CanaryFailed",
        /// The wanted version cannot follow the one that runs.
        VersionSkew => "VersionSkew",
        /// Members do not take part in the exchange of an authority.
        RotationFailed => "RotationFailed",
        /// What the spec names is not there.
        RefNotFound => "RefNotFound",
        /// The backup that the cluster is to begin with cannot be had.
        RestoreFailed => "RestoreFailed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_follows_from_a_change_of_the_members_waits_for_it_and_nothing_else_does() {
        let text = str::to_owned;
        let dress = |pod: &str| {
            let (pod, uid) = (pod.to_owned(), text("u"));
            Step::DressPod { pod, uid, patch: json!({}), mark: None }
        };
        let serve = Step::SetServing { pod: text("a"), uid: text("u"), serving: true };
        let recreate = Step::RecreateSet { role: PodRole::Voter, uid: text("u") };
        let removal = Step::RemoveLearner { name: text("a"), node_id: NodeId(1) };
        let change = Step::ChangeVoters { add: vec![(text("b"), NodeId(2))], remove: vec![] };
        let wipe =
            |member: &str| Step::DeleteClaim { member: member.to_owned(), uid: text("u"), why: text("w") };
        let deletion = |pod: &str, restart: bool| {
            let (pod, uid, why) = (pod.to_owned(), text("u"), text("w"));
            Step::DeletePod { pod, uid, restart, why }
        };
        for (later, earlier, needs) in [
            (&change, &removal, true),
            (&deletion("b", true), &removal, true),
            (&wipe("b"), &removal, true),
            (&dress("a"), &removal, false),
            (&serve, &change, false),
            (&recreate, &change, false),
            (&removal, &dress("a"), false),
            (&change, &serve, false),
            (&change, &recreate, false),
            (&deletion("a", true), &dress("a"), false),
            (&change, &wipe("a"), false),
            (&deletion("a", false), &wipe("a"), true),
            (&deletion("b", false), &wipe("a"), false),
            (&change, &deletion("a", false), false),
        ] {
            assert_eq!(later.needs(earlier), needs, "{later:?} after {earlier:?}");
        }
    }
}
