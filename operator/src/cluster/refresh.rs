//! Has the kubelet look at a pod at once, and so at the Secrets that the pod mounts: by itself it does so once a minute or
//! two. Any change of a pod does it; an annotation that nobody reads harms nobody. Network.

use super::observed::Observed;
use crate::context::Context;
use crate::names::{ANNOTATION_REFRESHED, ClusterName, POD_MANAGER};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// The kubelet may have seen the pod before the Secret: after this many seconds it is asked again.
const AGAIN_SECONDS: i64 = 10;

/// Has it look at those of `members` that answer, until they have what `what` names. What fails is no loss but of time.
pub async fn refresh(name: &ClusterName, members: &[String], what: &str, observed: &Observed, ctx: &Context) {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let params = PatchParams { field_manager: Some(POD_MANAGER.to_owned()), ..PatchParams::default() };
    let mark = format!("{what}-{}", observed.now.as_second() / AGAIN_SECONDS);
    for member in members.iter().filter(|member| observed.reports.contains_key(*member)) {
        let Some(pod) = observed.pods.get(member) else { continue };
        if pod.refreshed.as_ref() == Some(&mark) || pod.terminating {
            continue;
        }
        let patch = json!({"metadata": {"uid": pod.uid, "annotations": {(ANNOTATION_REFRESHED): mark}}});
        if let Err(error) = api.patch_metadata(member, &params, &Patch::Merge(&patch)).await {
            tracing::debug!(pod = member, error = &error as &dyn std::error::Error, "not refreshed");
        }
    }
}
