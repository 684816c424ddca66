//! What is kept in order at any time: what claims say, how large volumes are, who is in the Services.

use super::{ActivityReason, ClaimMark, Planner, Step};
use crate::names::PodRole;
use client::admin::Member;

/// A member that its leader has not heard for this long gets no traffic.
const UNSERVED_MILLISECONDS: u64 = 1_000;

impl Planner<'_> {
    /// What claims are to say, for those that say something else.
    pub(super) fn plan_claims(&mut self) {
        let Some(cluster_id) = self.plan.cluster_id.clone() else { return };
        if self.observed.cluster_id() != Some(&cluster_id) {
            // The status comes first: it is what a second operator would find.
            return;
        }
        for (member, claim) in &self.observed.claims {
            let Some((role, ordinal)) = self.desired.name.parse_member(member) else { continue };
            if claim.terminating || claim.cluster_id.is_none() && ordinal >= self.sizes.of(role) {
                continue;
            }
            let lives = self.observed.reports.get(member).filter(|report| report.cluster_id.is_some());
            let node_id = lives.map(|report| report.node_id).or(claim.node_id);
            let wanted = self.desired.volume_bytes;
            let grows = claim.requested_bytes.is_some_and(|bytes| bytes < wanted);
            let size = match &claim.requested {
                Some(requested) if !grows => requested.clone(),
                _ => self.desired.spec.storage.size.clone(),
            };
            let owned = self.desired.deletes_claims();
            let said = (claim.cluster_id.as_deref(), claim.node_id, claim.owned);
            if said != (Some(&cluster_id), node_id, owned) || grows {
                let cluster_id = cluster_id.clone();
                let (member, uid) = (member.clone(), claim.uid.clone());
                self.plan.claims.push(ClaimMark {
                    member,
                    role,
                    uid,
                    cluster_id,
                    node_id,
                    owned,
                    size,
                    grows,
                });
            }
        }
    }

    /// A StatefulSet cannot change the size of its volumes: it is made anew around its pods once the claims ask for
    /// the new size.
    pub(super) fn plan_recreation(&mut self) {
        for role in PodRole::ALL {
            let Some(set) = self.observed.sets.get(&role) else { continue };
            if set.volume_bytes.is_none_or(|bytes| bytes >= self.desired.volume_bytes) {
                continue;
            }
            self.act(ActivityReason::Resizing, format!("volumes grow to {}", self.desired.spec.storage.size));
            let asked = self
                .observed
                .claims
                .iter()
                .filter(
                    |(member, _)| matches!(self.desired.name.parse_member(member), Some((r, _)) if r == role),
                )
                .all(|(_, claim)| {
                    claim.terminating
                        || claim.requested_bytes.is_none_or(|bytes| bytes >= self.desired.volume_bytes)
                });
            if asked && !set.terminating {
                self.safe(Step::RecreateSet { role, uid: set.uid.clone() });
            }
        }
    }

    /// A member that a quorum no longer hears leaves its Services, and comes back when it is heard. Never do all
    /// members of a Service leave.
    pub(super) fn plan_serving(&mut self) {
        if self.view.leader().is_none() {
            return;
        }
        for role in PodRole::ALL {
            let pods: Vec<_> = self
                .observed
                .pods
                .iter()
                .filter(|(name, _)| matches!(self.desired.name.parse_member(name), Some((r, _)) if r == role))
                .filter(|(_, pod)| !pod.terminating)
                .map(|(name, pod)| (name, pod, !self.is_unserved(name)))
                .collect();
            if !pods.iter().any(|(_, pod, serving)| *serving && pod.ready) {
                continue;
            }
            for (name, pod, serving) in pods {
                if pod.serving != serving {
                    self.safe(Step::SetServing { pod: name.clone(), uid: pod.uid.clone(), serving });
                }
            }
        }
    }

    fn is_unserved(&self, name: &str) -> bool {
        let unheard = |member: &Member| {
            !self.view.leads(member)
                && member.silent_milliseconds.is_some_and(|ms| ms >= UNSERVED_MILLISECONDS)
        };
        let mut members = self.view.members().filter(|member| member.name == name).peekable();
        members.peek().is_some() && members.all(unheard)
    }
}
