//! What is changed on pods that run: labels and annotations of all of them at once, compute resources of one after the
//! other.

use super::{ActivityReason, Planner, Step};
use crate::cluster::observed::{PodView, Resize};
use crate::cluster::resources::{
    marked_resources, metadata_mark, metadata_patch, quality, resources_mark, resources_patch,
};

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
        // One that waits for room to what is no longer wanted is asked for what is.
        let is_under_way = |pod: &PodView| pod.resize == Resize::InProgress && !self.resources_differ(pod);
        let under_way = self.observed.pods.iter().find(|(_, pod)| is_under_way(pod));
        if let Some((name, _)) = under_way {
            return self.act(ActivityReason::Resizing, format!("the resources of {name} are being changed"));
        }
        let differs = |pod: &&PodView| !pod.terminating && pod.running && self.resources_differ(pod);
        let waiting = self.observed.pods.iter().filter(|(_, pod)| differs(pod) && !self.needs_restart(pod));
        let next = waiting.min_by_key(|(_, pod)| pod.resize != Resize::InProgress);
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

    fn resources_differ(&self, pod: &PodView) -> bool {
        pod.resources_mark != resources_mark(&self.desired.spec.resources)
    }

    /// Whether the pod can have the wanted resources only by being made anew.
    pub(super) fn needs_restart(&self, pod: &PodView) -> bool {
        let before = marked_resources(pod.resources_mark.as_deref());
        pod.resize == Resize::Infeasible
            || self.resources_differ(pod)
                && (pod.resize_refused || quality(&before) != quality(&self.desired.spec.resources))
    }
}
