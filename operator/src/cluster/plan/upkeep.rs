//! What is kept in order at any time: what claims say, how large volumes are, who is in the Services.

use super::{ActivityReason, ClaimMark, Planner, Sizes, Step};
use crate::cluster::observed::{ClaimView, Observed};
use crate::cluster::validate::Desired;
use crate::crd::VolumeBucket;
use crate::names::PodRole;
use client::admin::{Member, VolumeUsage};

/// How full a volume is, by the threshold of the spec.
pub fn bucket(desired: &Desired, usage: VolumeUsage) -> VolumeBucket {
    let threshold = desired.spec.storage.autogrow.as_ref().map_or(80, |autogrow| autogrow.threshold_percent);
    match usage.used_percent() {
        used if used >= 99 => VolumeBucket::Full,
        used if used >= u64::try_from(threshold).unwrap_or(80) => VolumeBucket::NearFull,
        _ => VolumeBucket::Roomy,
    }
}

/// Whether the growth of a member's volume is told and waited for. Most drivers have grown one only once its file system has, which
/// takes a kubelet that mounts it: nobody does so with what scaling down left, nor with one of a pod that has been away for
/// long, perhaps with its node. That grows when it is mounted again.
pub(in crate::cluster) fn counts_for_growth(
    desired: &Desired,
    observed: &Observed,
    sizes: Option<&Sizes>,
    member: &str,
) -> bool {
    if observed.reports.contains_key(member) {
        return true;
    }
    match observed.pods.get(member) {
        Some(pod) => !pod.is_away(observed.now, desired.replacement_after),
        None => !sizes.is_some_and(|sizes| is_left(desired, observed, sizes, member)),
    }
}

/// Whether no pod will use the volume of a member at these sizes. A hibernated cluster has none, and its volumes are what it
/// wakes with: of those only what was left before it went to sleep is left.
fn is_left(desired: &Desired, observed: &Observed, sizes: &Sizes, member: &str) -> bool {
    if observed.pods.contains_key(member) {
        return false;
    }
    if desired.spec.hibernated {
        let before = &observed.status;
        let was_member = before.members.iter().any(|known| known.name == member);
        return !was_member && before.orphaned_volumes.contains(&desired.name.claim(member));
    }
    desired.name.parse_member(member).is_none_or(|(role, ordinal)| ordinal >= sizes.of(role))
}

/// A member that its leader has not heard for this long gets no traffic.
const UNSERVED_MILLISECONDS: u64 = 1_000;

impl Planner<'_> {
    /// How large volumes are to be: as the spec says, or larger where they fill and may grow. What they grew to is on
    /// the claims, so that nothing else has to remember it.
    pub(super) fn choose_volume(&mut self) {
        let (Some(autogrow), Some(limit)) = (&self.desired.spec.storage.autogrow, self.desired.volume_limit)
        else {
            return;
        };
        let observed = self.observed;
        let ours = |(name, claim): &(&String, &ClaimView)| !claim.terminating && !self.is_stranger(name);
        let claims: Vec<(&String, &ClaimView)> = observed.claims.iter().filter(ours).collect();
        let asked =
            |(_, claim): &(&String, &ClaimView)| Some((claim.requested_bytes?, claim.requested.clone()?));
        let largest = claims.iter().filter_map(asked).max();
        if let Some(largest) = largest.filter(|(bytes, _)| *bytes > self.volume.0) {
            self.volume = largest;
        }
        // Without a pod nobody mounts it; the next one does at the size that is asked for by then.
        let awaited = |(name, _): &(&String, &ClaimView)| {
            observed.pods.contains_key(*name) && counts_for_growth(self.desired, observed, None, name)
        };
        let has_grown = claims.iter().filter(|claim| awaited(claim)).all(|(_, claim)| {
            claim.allocated.as_deref().and_then(super::super::validate::parse_quantity) >= Some(self.volume.0)
        });
        let fills = self
            .observed
            .reports
            .values()
            .filter_map(|report| report.storage)
            .any(|usage| bucket(self.desired, usage) != VolumeBucket::Roomy);
        if fills && has_grown && self.volume.0 < limit {
            let step = 100 + u128::try_from(autogrow.step_percent).unwrap_or(25);
            // In whole MiB, and never by less than one.
            let mebibytes = (self.volume.0 * step / 100).div_ceil(1 << 20);
            self.volume = ((mebibytes << 20).min(limit), String::new());
            self.volume.1 =
                if self.volume.0 == limit { autogrow.max_size.clone() } else { format!("{mebibytes}Mi") };
        }
    }

    /// Size of the smallest volume, of those that are in use.
    pub(super) fn allocated(&self) -> Option<String> {
        let counts = |(member, claim): &(&String, &ClaimView)| {
            !claim.terminating && counts_for_growth(self.desired, self.observed, Some(&self.sizes), member)
        };
        let sizes = self.observed.claims.iter().filter(counts).filter_map(|(_, c)| c.allocated.clone());
        sizes.min_by_key(|size| super::super::validate::parse_quantity(size))
    }

    fn is_left(&self, member: &str) -> bool {
        is_left(self.desired, self.observed, &self.sizes, member)
    }

    /// What claims are to say, for those that say something else.
    pub(super) fn plan_claims(&mut self) {
        let Some(cluster_id) = self.plan.cluster_id.clone() else { return };
        if self.observed.cluster_id() != Some(&cluster_id) {
            // The status comes first: it is what a second operator would find.
            return;
        }
        for (member, claim) in &self.observed.claims {
            let Some((role, ordinal)) = self.desired.name.parse_member(member) else { continue };
            let unmarked_surplus = claim.cluster_id.is_none() && ordinal >= self.sizes.of(role);
            if claim.terminating || unmarked_surplus || self.is_stranger(member) {
                continue;
            }
            let lives = self.observed.reports.get(member).filter(|report| report.cluster_id.is_some());
            let node_id = lives.map(|report| report.node_id).or(claim.node_id);
            let wanted = self.volume.0;
            let grows = claim.requested_bytes.is_some_and(|bytes| bytes < wanted) && !self.is_left(member);
            let size = match &claim.requested {
                Some(requested) if !grows => requested.clone(),
                _ => self.volume.1.clone(),
            };
            let owned = self.desired.deletes_claims();
            let said = (claim.cluster_id.as_deref(), claim.node_id, claim.owned);
            let mark = |size: String, grows: bool| ClaimMark {
                member: member.clone(),
                role,
                uid: claim.uid.clone(),
                cluster_id: cluster_id.clone(),
                node_id,
                owned,
                size,
                grows,
            };
            if said != (Some(cluster_id.as_str()), node_id, owned) || claim.bare {
                // Apart from the growth, which the storage class or a quota may refuse for good.
                let present = claim.requested.clone().unwrap_or_else(|| size.clone());
                self.plan.claims.push(mark(present, false));
            }
            if grows {
                self.plan.claims.push(mark(size, true));
            }
        }
    }

    /// A StatefulSet cannot change the size of its volumes: it is made anew around its pods once the claims ask for
    /// the new size.
    pub(super) fn plan_recreation(&mut self) {
        for role in PodRole::ALL {
            let Some(set) = self.observed.sets.get(&role) else { continue };
            if set.volume_bytes.is_none_or(|bytes| bytes >= self.volume.0) {
                continue;
            }
            self.act(ActivityReason::Resizing, format!("volumes grow to {}", self.volume.1));
            let asked = self
                .observed
                .claims
                .iter()
                .filter(
                    |(member, _)| matches!(self.desired.name.parse_member(member), Some((r, _)) if r == role),
                )
                .all(|(member, claim)| {
                    claim.terminating
                        || self.is_left(member)
                        || claim.requested_bytes.is_none_or(|bytes| bytes >= self.volume.0)
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
        self.is_stranger(name)
            || self.desired.is_fenced(name)
            || members.peek().is_some() && members.all(unheard)
    }

    /// Whether claim or member of this name hold the data of another cluster.
    pub(super) fn is_stranger(&self, name: &str) -> bool {
        let other = |id: Option<&str>| id.is_some() && id != self.plan.cluster_id.as_deref();
        other(self.observed.claims.get(name).and_then(|claim| claim.cluster_id.as_deref()))
            || other(self.observed.reports.get(name).and_then(|report| report.cluster_id.as_deref()))
    }
}
