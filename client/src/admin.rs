//! Wire types of the administrative API under `/cluster` (port 4001, permission `leader-ops`).
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /cluster` | – | [`MemberReport`] of the member that was asked |
//! | `GET /cluster/events` | – | NDJSON: a [`MemberReport`] at once and after each change, an empty line every 10 s |
//! | `POST /cluster/initialise` | [`Initialise`] | [`MemberReport`]; the member becomes the only voter of a new cluster; repeatable |
//! | `POST /cluster/learners` | [`AddLearner`] | [`Changed`]; forwarded to the leader; repeatable |
//! | `DELETE /cluster/learners` | [`RemoveLearner`] | [`Changed`]; forwarded; removing an unknown id is no error |
//! | `POST /cluster/voters` | [`ChangeVoters`] | [`Changed`]; forwarded; one joint change; repeatable |
//! | `POST /cluster/recover` | [`Recover`] | [`MemberReport`]; the member starts again as the only voter of a new epoch |
//! | `POST /cluster/skip` | [`SkipEntry`] | [`Skipped`]; an entry that ends every member is passed over by all; forwarded; repeatable |
//! | `POST /cluster/transfer` | [`Transfer`] | [`Transferred`] once the new leader is known; forwarded |
//!
//! Errors answer with [`Refusal`] as the body: 400 bad request, 409 refused as unsafe or contradicting what the
//! member is (with a [`RefusalReason`]), 503 no leader or the change's outcome is unknown.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Random 64-bit Raft id of a member: made once with its data directory, never used again.
///
/// On the wire it is a string of 16 hexadecimal digits, because JSON numbers are exact only up to 2^53.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(s, 16).map(Self)
    }
}

impl Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(|_| {
            serde::de::Error::custom(format!("`{text}` is not a node id (16 hexadecimal digits)"))
        })
    }
}

/// What the member is in Raft at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Has the current term's vote of a quorum.
    Leader,
    /// A voter that follows a leader, or waits for one.
    Follower,
    /// A voter that asks for votes.
    Candidate,
    /// Replicates and does not vote.
    Learner,
    /// Raft stopped on this member: a local failure, or it is going down.
    Shutdown,
}

/// How far the member is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Empty disk and of no cluster: it waits to be initialised or added.
    Uninitialised,
    /// Belongs to a cluster and has not yet reached an index that a quorum confirmed since this process started.
    CatchingUp,
    /// Belongs to a cluster and is in service.
    Serving,
    /// Out of service because its database is not what the others have; another member's takes its place.
    Fenced,
    /// Going down: leadership was given away, requests in flight are finished.
    Draining,
    /// A local failure ended consensus here; the message says which.
    Failed,
}

/// One member as the cluster's membership names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Raft id.
    pub node_id: NodeId,
    /// Name, unique in a cluster: the pod's, or rqlite's `-node-id`.
    pub name: String,
    /// `host:port` of the peer port.
    pub raft_address: String,
    /// `host:port` of the client port.
    pub api_address: String,
    /// Whether it votes (in any of the configurations of a joint change).
    pub voter: bool,
    /// Highest log index known to be on this member's disk. Only in a leader's report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_index: Option<u64>,
    /// Milliseconds since the leader last heard from it. Only in a leader's report; 0 for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_milliseconds: Option<u64>,
}

/// Entries of the log that a member may lack and still count as caught up: what is on the way while writes go on.
pub const CAUGHT_UP_ENTRIES: u64 = 64;

/// Whether a member whose disk is known to hold `matched` has caught up with a leader that committed `committed`: the one
/// definition, by which the operator waits and the leader refuses. Entries that are not committed do not count, because
/// nobody was told that they are there.
pub fn has_caught_up(matched: Option<u64>, committed: u64) -> bool {
    matched.is_some_and(|matched| matched.saturating_add(CAUGHT_UP_ENTRIES) >= committed)
}

/// Voters that must agree among `voters`.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// The membership that is in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Index of the log entry that holds it.
    pub log_index: u64,
    /// Whether that entry is committed.
    pub committed: bool,
    /// Whether a joint change is under way.
    pub joint: bool,
    /// Members by name.
    pub members: Vec<Member>,
}

/// Name and id of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberRef {
    /// Raft id.
    pub node_id: NodeId,
    /// Name; empty while the membership that holds it is not known here.
    pub name: String,
}

/// What a member knows of itself and of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberReport {
    /// Of which cluster; absent while the member is of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Raised by the recovery from a lost quorum; 0 while the member is of no cluster.
    pub epoch: u64,
    /// Its Raft id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// `host:port` at which peers reach it.
    pub raft_address: String,
    /// `host:port` at which clients reach it.
    pub api_address: String,
    /// Version of the program.
    pub version: String,
    /// What it executes SQL by: SQLite's version, and a hash of what that is made of. Older members do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// How far it is in its life.
    pub phase: Phase,
    /// What it is in Raft.
    pub role: Role,
    /// Its current term.
    pub term: u64,
    /// The leader it follows, or itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<MemberRef>,
    /// Last entry of its log.
    pub last_log_index: u64,
    /// Term of that entry; older members do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_log_term: Option<u64>,
    /// Last entry that it knows to be committed.
    pub committed_index: u64,
    /// Last entry applied to its database.
    pub applied_index: u64,
    /// On a leader: milliseconds since a quorum last confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum_silent_milliseconds: Option<u64>,
    /// The membership in effect.
    pub membership: Membership,
    /// What comparing its database with the others' came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// How full the file system of its data directory is, where that can be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<VolumeUsage>,
    /// On a leader that archives: how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<crate::backup::ArchiveReport>,
    /// The certificates of its ports.
    #[serde(default)]
    pub certificates: Certificates,
    /// The entry that it does not apply any more, because that ended its process again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fatal_entry: Option<FatalEntry>,
    /// Why it is not serving, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl MemberReport {
    /// The leader that it follows, or itself, as the membership has it; none if that is not known.
    pub fn leading_member(&self) -> Option<&Member> {
        let leader = self.leader.as_ref()?;
        self.membership.members.iter().find(|member| member.node_id == leader.node_id)
    }

    /// The term by which [`Recover`] names what the member holds: that of the last entry of its log. An older member takes
    /// only the term that it is in.
    pub fn held_term(&self) -> u64 {
        self.last_log_term.unwrap_or(self.term)
    }
}

/// An entry of the log that a member was applying whenever its process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FatalEntry {
    /// Its index.
    pub index: u64,
    /// Its term: another entry may come to have its index.
    pub term: u64,
    /// How often, one after the other.
    pub crashes: u64,
}

/// The certificates of a member's ports, as they are in force: what it read last and could use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificates {
    /// Of the port between members, if it talks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<PortCertificates>,
    /// Of the port for clients, if it talks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<PortCertificates>,
}

/// The certificates of a port. Each is named by the SHA-256 of its DER form, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortCertificates {
    /// What the port shows.
    pub certificate: String,
    /// When that ends, in seconds since 1970.
    pub not_after: i64,
    /// The authorities of which one must have signed what others show; empty if they need not show anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<String>,
}

/// What comparing a member's database with the others' came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consistency {
    /// In a word.
    pub state: ConsistencyState,
    /// The entry after which they were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// What is wrong, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What comparing a member's database with the others' came to, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConsistencyState {
    /// There was nothing to compare with yet.
    Unknown,
    /// All are equal.
    Consistent,
    /// Most voters have this member's state, and others do not.
    OthersDiffer,
    /// No state has a majority.
    Divided,
    /// Most voters have another state.
    Minority,
    /// A page on its disk is not what was written there.
    Damaged,
}

/// How full the file system of a data directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeUsage {
    /// What is taken and what may still be written, in bytes.
    pub capacity_bytes: u64,
    /// What may still be written, in bytes.
    pub available_bytes: u64,
}

impl VolumeUsage {
    /// Hundredths of it that are taken, rounded down.
    pub fn used_percent(self) -> u64 {
        let used = self.capacity_bytes.saturating_sub(self.available_bytes);
        used.saturating_mul(100).checked_div(self.capacity_bytes).unwrap_or(0)
    }
}

/// Body of `POST /cluster/initialise`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Initialise {
    /// Id of the cluster to be: any non-empty string of at most 63 characters; the operator mints a UUID.
    pub cluster_id: String,
}

/// Body of `POST /cluster/learners`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddLearner {
    /// Raft id that the new member reported.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// `host:port` of its peer port.
    pub raft_address: String,
    /// `host:port` of its client port.
    pub api_address: String,
}

/// Body of `DELETE /cluster/learners`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoveLearner {
    /// Raft id of the learner.
    pub node_id: NodeId,
}

/// Body of `POST /cluster/voters`: one joint change. Learners in `add` become voters; voters in `remove` leave the
/// cluster, or become learners with `retain`. Refused unless each added learner has caught up and a quorum of the voters to be is reachable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChangeVoters {
    /// Learners to promote.
    #[serde(default)]
    pub add: Vec<NodeId>,
    /// Voters to remove.
    #[serde(default)]
    pub remove: Vec<NodeId>,
    /// Whether those go on replicating without a vote, as read replicas. Not sent where it is not so: members of before do
    /// not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
}

/// Body of `POST /cluster/recover`: the member goes on as the only voter, with what its log holds. Everything that only
/// others held is lost. Refused unless it names exactly what the member is and holds, and while there is a leader. The
/// member answers and starts again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recover {
    /// Its cluster.
    pub cluster_id: String,
    /// Its Raft id.
    pub node_id: NodeId,
    /// Last entry of its log.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
}

/// Body of `POST /cluster/skip`: an entry that ends every member is passed over by all of them; what it would have
/// written is lost. Refused unless each member says that it does not apply it any more ([`MemberReport::fatal_entry`]):
/// what one of them has applied may have been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SkipEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Answer to `POST /cluster/skip`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// Index of the entry that says so.
    pub index: u64,
}

/// Answer to a change of the membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// The committed membership after the change.
    pub membership: Membership,
}

/// Body of `POST /cluster/transfer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Transfer {
    /// Who shall lead; absent: the voter that has caught up furthest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
}

/// Answer to `POST /cluster/transfer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transferred {
    /// Who leads now.
    pub leader: MemberRef,
    /// In which term.
    pub term: u64,
}

/// Why a request was refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalReason {
    /// The request makes no sense as written.
    Invalid,
    /// Who asks may not.
    Unauthorized,
    /// No leader is known; try again.
    NoLeader,
    /// This member belongs to another cluster, or its disk holds data.
    NotEmpty,
    /// A reachable member with another id holds this name.
    NameTaken,
    /// A learner to promote has not caught up.
    NotCaughtUp,
    /// The voters to be would have no reachable quorum.
    NoQuorum,
    /// Another change of the membership is under way; try again.
    ChangeInProgress,
    /// No such member, or not in that role.
    NoSuchMember,
    /// Not every member is known to be unable to apply the entry.
    NotFatal,
    /// No store for backups is configured.
    NoStore,
    /// The store of backups did not do what it was asked.
    Store,
    /// It would take the place of data, and that was not confirmed.
    NotConfirmed,
    /// It was attempted; whether it took effect is not known. Look at the membership, then try again.
    OutcomeUnknown,
    /// The member failed; its log says why.
    Internal,
}

/// Body of every error answer of this API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// For programs.
    pub reason: RefusalReason,
    /// For people: what is wrong and what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_up_counts_against_what_is_committed() {
        for (matched, committed, wanted) in [
            (None, 0, false),
            (Some(0), 0, true),
            (Some(0), CAUGHT_UP_ENTRIES, true),
            (Some(0), CAUGHT_UP_ENTRIES + 1, false),
            (Some(936), 1000, true),
            (Some(935), 1000, false),
            (Some(u64::MAX), 1000, true),
        ] {
            assert_eq!(has_caught_up(matched, committed), wanted, "{matched:?} of {committed}");
        }
    }
}
