//! What evictions must leave running.

use super::metadata;
use crate::cluster::plan::{Plan, Sizes};
use crate::cluster::validate::Desired;
use crate::crd::DisruptionBudget;
use crate::names::PodRole;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The budgets: of the voters by quorum slack, of the read replicas one at a time.
pub fn budgets(desired: &Desired, plan: &Plan, sizes: &Sizes) -> Vec<PodDisruptionBudget> {
    if desired.spec.disruption.pod_disruption_budget == DisruptionBudget::None {
        return Vec::new();
    }
    let voters = plan
        .voter_budget
        .map(|available| budget(desired, PodRole::Voter, Some(IntOrString::Int(available)), None));
    let replicas = sizes
        .read_replicas
        .filter(|replicas| *replicas > 0)
        .map(|_| budget(desired, PodRole::ReadReplica, None, Some(IntOrString::Int(1))));
    voters.into_iter().chain(replicas).collect()
}

fn budget(
    desired: &Desired,
    role: PodRole,
    min_available: Option<IntOrString>,
    max_unavailable: Option<IntOrString>,
) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(desired, desired.name.budget(role), role.label()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable,
            min_available,
            selector: Some(LabelSelector {
                match_labels: Some(desired.name.selector(Some(role))),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".into()),
        }),
        status: None,
    }
}
