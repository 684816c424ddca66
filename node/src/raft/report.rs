//! What a member says of itself and of its cluster, and when it has something new to say.

use super::Consensus;
use super::membership::{SILENT, describe, member_ref, quorum_silent};
use super::types::Metrics;
use crate::observe::{Observe as _, Until as _};
use client::admin::{
    Certificates, ConsistencyState, FatalEntry, MemberReport, Membership, NodeId, Phase, Role,
};
use client::backup::ArchiveReport;
use openraft::ServerState;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often a report is compared with the one sent last: the silence of a member is no event in itself.
const LOOK: Duration = Duration::from_millis(200);

impl Consensus {
    /// The present report.
    pub fn report(&self) -> MemberReport {
        let metrics = self.metrics();
        let identity = self.identity();
        let cluster = identity.cluster();
        let config = self.config();
        let phase = self.phase().current();
        let (last_log_index, last_log_term) = self.last_log();
        let message = match (&metrics.running_state, phase) {
            (Err(fatal), _) => Some(self.why_stopped().unwrap_or_else(|| fatal.to_string())),
            (Ok(()), Phase::Fenced) => Some("its database is wrong; another member's takes its place".into()),
            (Ok(()), Phase::Uninitialised) if identity.former().is_some() => {
                Some("its log was damaged: it waits to be let in again as a new member".into())
            }
            (Ok(()), Phase::Uninitialised) => Some("waits to be initialised or added to a cluster".into()),
            (Ok(()), Phase::CatchingUp) if self.fatal_entry().is_some() => {
                self.may_apply().err().map(|e| e.to_string())
            }
            (Ok(()), Phase::CatchingUp) if metrics.current_leader.is_none() => Some("knows no leader".into()),
            _ => None,
        };
        MemberReport {
            epoch: cluster.as_ref().map_or(0, |c| c.epoch),
            cluster_id: cluster.map(|c| c.cluster_id),
            node_id: identity.node_id(),
            name: config.name.clone(),
            raft_address: config.raft_address.clone(),
            api_address: config.api_address.clone(),
            version: crate::VERSION.into(),
            engine: Some(self.store().engine().to_owned()),
            phase,
            role: role_of(&metrics),
            term: metrics.current_term,
            leader: metrics.current_leader.map(|id| member_ref(&metrics, id)),
            last_log_index,
            last_log_term: Some(last_log_term),
            committed_index: metrics.local_committed.as_ref().map_or(0, |id| id.index),
            applied_index: self.store().applied().index().unwrap_or(0),
            quorum_silent_milliseconds: quorum_silent(&metrics).map(|silent| silent.as_millis() as u64),
            membership: describe(&metrics),
            consistency: Some(self.consistency_report()),
            storage: Some(self.space.usage()),
            archive: self.archive_report(),
            certificates: self.certificates(),
            fatal_entry: self.fatal_entry(),
            message,
        }
    }

    /// Reports: one at once, then one after each change that matters, at most every 200 ms. None stands for "nothing
    /// new", every `keep_alive`. Ends when the receiver is dropped, or with [`Consensus::end_reports`].
    pub fn reports(self: &Arc<Self>, keep_alive: Duration) -> mpsc::Receiver<Option<MemberReport>> {
        let (send, reports) = mpsc::channel(4);
        let consensus = self.clone();
        let mut end = self.reports_end.subscribe();
        tokio::spawn(async move {
            let mut sent: Option<Gist> = None;
            let mut sent_at = tokio::time::Instant::now();
            loop {
                let report = consensus.report();
                let gist = Gist::of(&report);
                let news = sent.as_ref() != Some(&gist);
                if news || sent_at.elapsed() >= keep_alive {
                    sent_at = tokio::time::Instant::now();
                    if send.send(news.then_some(report)).await.is_err() {
                        return;
                    }
                    sent = Some(gist);
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = send.closed() => return,
                    // The sender lives as long as `consensus`.
                    _ = end.until(|end| *end) => return,
                }
            }
        });
        reports
    }
}

fn role_of(metrics: &Metrics) -> Role {
    match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Shutdown => Role::Shutdown,
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
    }
}

/// What of a report is worth an event: not every index, but who is heard and who has caught up.
#[derive(PartialEq)]
struct Gist {
    phase: Phase,
    role: Role,
    term: u64,
    leader: Option<NodeId>,
    membership: Membership,
    /// And whether there is more to say of it.
    consistency: Option<(ConsistencyState, bool)>,
    archive: Option<ArchiveReport>,
    certificates: Certificates,
    members: Vec<(bool, bool)>,
    /// How full the volume is, in twentieths.
    volume: Option<u64>,
    fatal_entry: Option<FatalEntry>,
}

impl Gist {
    fn of(report: &MemberReport) -> Self {
        let silent = SILENT.as_millis() as u64;
        let members = report
            .membership
            .members
            .iter()
            .map(|m| {
                let heard = m.silent_milliseconds.is_some_and(|ms| ms < silent);
                let caught_up = client::admin::has_caught_up(m.matched_index, report.committed_index);
                (heard, caught_up)
            })
            .collect();
        let mut membership = report.membership.clone();
        for member in &mut membership.members {
            member.matched_index = None;
            member.silent_milliseconds = None;
        }
        let leader = report.leader.as_ref().map(|l| l.node_id);
        let consistency = report.consistency.as_ref().map(|c| (c.state, c.message.is_some()));
        let volume = report.storage.map(|usage| usage.used_percent() / 5);
        Self {
            phase: report.phase,
            role: report.role,
            term: report.term,
            leader,
            membership,
            consistency,
            archive: report.archive.clone(),
            certificates: report.certificates.clone(),
            members,
            volume,
            fatal_entry: report.fatal_entry,
        }
    }
}
