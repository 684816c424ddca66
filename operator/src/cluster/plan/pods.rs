//! What is changed on pods that run: labels and annotations of all of them at once, compute resources of one after the
//! other; and when those may be restarted whose resources cannot be changed so.

use super::rollout::STUCK_AFTER;
use super::{ActivityReason, Planner, Step};
use crate::cluster::observed::{PodView, Resize};
use crate::cluster::resources::{
    marked_resources, metadata_mark, metadata_patch, quality, resources_mark, resources_patch,
};
use crate::crd::{BootstrapPhase, RolloutState};
use crate::names::content_hash;

impl Planner<'_> {
    pub(super) fn plan_pod_changes(&mut self) {
        let metadata = &self.desired.spec.pod_template.metadata;
        let mark = metadata_mark(metadata);
        for (name, pod) in &self.observed.pods {
            if !pod.terminating && pod.metadata_mark != mark {
                self.safe(Step::DressPod {
                    pod: name.clone(),
                    uid: pod.uid.clone(),
                    patch: metadata_patch(pod.metadata_mark.as_deref(), metadata),
                    mark: mark.clone(),
                });
            }
        }
        self.plan_resize();
    }

    fn plan_resize(&mut self) {
        let resources = &self.desired.spec.resources;
        // One that waits for room to what is no longer wanted is asked for what is, and one that waits for too long is waited
        // for no more.
        let is_under_way = |pod: &PodView| {
            pod.resize != Resize::None
                && !pod.terminating
                && !self.resources_differ(pod)
                && !self.needs_restart(pod)
        };
        let under_way = self.observed.pods.iter().find(|(_, pod)| is_under_way(pod));
        if let Some((name, pod)) = under_way {
            let message = match pod.resize {
                Resize::Deferred(_) => format!(
                    "the Kubernetes node of {name} has no room at present for the resources that {name} is to have: if it has \
                     none for two minutes, {name} is to be restarted"
                ),
                _ => format!("the resources of {name} are being changed"),
            };
            return self.act(ActivityReason::Resizing, message);
        }
        let differs = |pod: &&PodView| !pod.terminating && pod.running && self.resources_differ(pod);
        let waiting = self.observed.pods.iter().filter(|(_, pod)| differs(pod) && !self.needs_restart(pod));
        let next = waiting.min_by_key(|(_, pod)| pod.resize == Resize::None);
        if let Some((name, pod)) = next {
            let before = marked_resources(pod.resources_mark.as_deref());
            let step = Step::ResizePod {
                pod: name.clone(),
                uid: pod.uid.clone(),
                patch: resources_patch(&before, resources),
                mark: resources_mark(resources),
            };
            self.act(ActivityReason::Resizing, format!("the resources of {name} are being changed"));
            self.safe(step);
        }
    }

    pub(super) fn resources_differ(&self, pod: &PodView) -> bool {
        pod.resources_mark != resources_mark(&self.desired.spec.resources)
    }

    /// Whether the pod can have the wanted resources only by being made anew.
    pub(super) fn needs_restart(&self, pod: &PodView) -> bool {
        if self.resources_differ(pod) {
            let before = marked_resources(pod.resources_mark.as_deref());
            return pod.resize_refused || quality(&before) != quality(&self.desired.spec.resources);
        }
        match pod.resize {
            Resize::None | Resize::InProgress => false,
            Resize::Deferred(since) => self.observed.now.duration_since(since) >= STUCK_AFTER,
            Resize::Infeasible => true,
        }
    }

    /// Decides whether pods may be restarted that can have the wanted resources in no other way. They wait for approval and
    /// window as for another template, under a revision of their own; what has begun is finished. An update of the template
    /// that is under way, or waits, takes them along.
    pub(super) fn choose_restarts(&mut self) {
        let waits = self.observed.pods.values().any(|pod| !pod.terminating && self.needs_restart(pod));
        let stable = self.rollout.stable_revision.as_ref();
        let Some(stable) = stable.filter(|_| waits && self.phase == BootstrapPhase::Complete) else { return };
        let is_stable = *stable == self.desired.voter_revision;
        if !is_stable && self.revision == self.desired.voter_revision {
            return;
        }
        if self.plan.pending.is_some() {
            self.restarts_wait = true;
            return;
        }
        let hash = content_hash(resources_mark(&self.desired.spec.resources).unwrap_or_default().as_bytes());
        let name = format!("{}-{hash}", self.revision);
        let before = self.observed.status.rollout.as_ref();
        let has_begun = before.is_some_and(|before| {
            before.state == RolloutState::Progressing && before.revision.as_ref() == Some(&name)
        });
        let what = format!("revision {name} (other compute resources, for which pods have to be restarted)");
        let waiting = self.waiting(&name, &what).filter(|_| !has_begun);
        self.restarts_wait = waiting.is_some();
        if !is_stable {
            // The rollout tells why the template that is wanted cannot be had.
            self.plan.pending = waiting.map(|(_, pending)| pending);
            return;
        }
        match waiting {
            Some((state, pending)) => {
                self.rollout.revision = Some(name);
                self.wait(state, pending);
            }
            None if has_begun => self.rollout.revision = Some(name),
            None => self.restarts_as = Some(name),
        }
    }
}
