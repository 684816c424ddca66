//! The members' administrative API as the operator uses it: by pod IP, and one stream of events per cluster.

use crate::crd::ClientTraffic;
use crate::names::{ClusterName, PORT_HTTP};
use crate::stores::Triggers;
use client::admin::{Certificates, MemberReport, NodeId, Phase, Role};
use client::admin_client::AdminClient;
use client::backup::ArchiveState;
use futures::StreamExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// A member that was not heard for this long makes a difference.
const UNHEARD_MILLISECONDS: u64 = 1_000;

/// Base of a member's API by the address of its pod, and by how that answers.
pub fn base(ip: &str, traffic: ClientTraffic) -> String {
    let scheme = if traffic == ClientTraffic::Plaintext { "http" } else { "https" };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    format!("{scheme}://{host}:{PORT_HTTP}")
}

/// One stream of events per cluster: what a member reports as changed asks for a reconcile at once.
#[derive(Clone)]
pub struct EventStreams {
    triggers: Triggers,
    streams: Arc<Mutex<HashMap<ClusterName, EventStream>>>,
}

struct EventStream {
    base: String,
    task: JoinHandle<()>,
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EventStreams {
    /// No streams yet.
    pub fn new(triggers: Triggers) -> Self {
        Self { triggers, streams: Arc::default() }
    }

    /// Follows the member at `base` by `client` for this cluster, and no other one.
    pub fn follow(&self, cluster: &ClusterName, base: Option<String>, client: &AdminClient) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|_, stream| !stream.task.is_finished());
        let Some(base) = base else {
            streams.remove(cluster);
            return;
        };
        if streams.get(cluster).is_some_and(|stream| stream.base == base) {
            return;
        }
        let task = tokio::spawn(follow(client.clone(), self.triggers.clone(), cluster.clone(), base.clone()));
        streams.insert(cluster.clone(), EventStream { base, task });
    }
}

/// Ends with the stream: the reconcile that this asks for chooses whom to follow next.
async fn follow(client: AdminClient, triggers: Triggers, cluster: ClusterName, base: String) {
    match client.events(&base).await {
        Ok(events) => {
            let mut events = std::pin::pin!(events);
            let mut last = None;
            while let Some(event) = events.next().await {
                match event {
                    Ok(report) => {
                        let seen = Some(Gist::of(&report));
                        if seen != last {
                            last = seen;
                            triggers.pull(&cluster.namespace, &cluster.name);
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%cluster, error = &error as &dyn std::error::Error, "the event stream broke");
                        break;
                    }
                }
            }
        }
        Err(error) => {
            tracing::debug!(%cluster, error = &error as &dyn std::error::Error, "no event stream");
            // The caller polls as well; an answer at once would only be asked for in a loop.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
    triggers.pull(&cluster.namespace, &cluster.name);
}

/// What of a report makes a difference: everything but positions that move with each write.
#[derive(Debug, PartialEq, Eq)]
struct Gist {
    phase: Phase,
    role: Role,
    term: u64,
    leader: Option<NodeId>,
    membership: (u64, bool, bool),
    members: BTreeMap<NodeId, (bool, bool, bool)>,
    /// How full the volume is, in twentieths.
    volume: Option<u64>,
    /// How it is, whether a new leader has still to look, and whether its end is told.
    archive: Option<(ArchiveState, bool, bool)>,
    certificates: Certificates,
}

impl Gist {
    fn of(report: &MemberReport) -> Self {
        let members = report.membership.members.iter().map(|member| {
            let unheard = member.silent_milliseconds.is_some_and(|ms| ms >= UNHEARD_MILLISECONDS);
            let behind = !client::admin::has_caught_up(member.matched_index, report.committed_index);
            (member.node_id, (member.voter, unheard, behind))
        });
        let membership = &report.membership;
        Self {
            phase: report.phase,
            role: report.role,
            term: report.term,
            leader: report.leader.as_ref().map(|leader| leader.node_id),
            membership: (membership.log_index, membership.committed, membership.joint),
            members: members.collect(),
            archive: report.archive.as_ref().map(|a| (a.state, a.taking_over, a.latest.is_some())),
            certificates: report.certificates.clone(),
            volume: report.storage.map(|usage| usage.used_percent() / 5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fixtures::report;

    #[test]
    fn addresses_of_both_families() {
        assert_eq!(base("10.0.0.1", ClientTraffic::Plaintext), "http://10.0.0.1:4001");
        assert_eq!(base("10.0.0.1", ClientTraffic::AnswersBoth), "https://10.0.0.1:4001");
        assert_eq!(base("fd00::1", ClientTraffic::Tls), "https://[fd00::1]:4001");
    }

    #[test]
    fn a_write_makes_no_difference_and_silence_does() {
        let before = report("orders-0", 1).leads(&[("orders-0", 1), ("orders-1", 2)]).get();
        let mut write = before.clone();
        write.committed_index += 1;
        write.last_log_index += 1;
        assert_eq!(Gist::of(&before), Gist::of(&write));
        let mut silence = before.clone();
        silence.membership.members[1].silent_milliseconds = Some(1_500);
        assert_ne!(Gist::of(&before), Gist::of(&silence));
    }
}
