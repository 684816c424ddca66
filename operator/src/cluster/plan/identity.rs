//! Which cluster this is: the one that was recorded, the one whose data is on the claims, or a new one.

use super::{Obstacle, ObstacleReason};
use crate::cluster::observed::Observed;
use crate::cluster::validate::Desired;
use crate::crd::{BootstrapPhase, BootstrapStatus};
use crate::names::PodRole;
use std::collections::BTreeSet;

/// Which cluster this is and how far its beginning got.
pub(super) struct Identity {
    pub(super) cluster_id: String,
    pub(super) bootstrap: BootstrapStatus,
}

/// Which cluster this is. Two ids under one name are for a human to sort out.
pub(super) fn identify(desired: &Desired, observed: &Observed, minted: &str) -> Result<Identity, Obstacle> {
    let claimed: BTreeSet<&str> =
        observed.claims.values().filter_map(|claim| claim.cluster_id.as_deref()).collect();
    let reported: BTreeSet<&str> =
        observed.reports.values().filter_map(|report| report.cluster_id.as_deref()).collect();
    let known: BTreeSet<&str> = observed
        .cluster_id()
        .into_iter()
        .chain(claimed.iter().copied())
        .chain(reported.iter().copied())
        .collect();
    if known.len() > 1 {
        return Err(conflict(desired, observed));
    }
    let bootstrap = observed.bootstrap();
    let member = bootstrap
        .map_or_else(|| desired.name.member(PodRole::Voter, 0), |bootstrap| bootstrap.member.clone());
    let mut phase = bootstrap.map_or(BootstrapPhase::Chosen, |bootstrap| bootstrap.phase);
    let has_begun = !reported.is_empty() || observed.claims.values().any(|claim| claim.node_id.is_some());
    if has_begun {
        phase = phase.max(BootstrapPhase::Initialised);
    }
    let cluster_id = known.first().map_or_else(|| minted.to_owned(), |id| (*id).to_owned());
    Ok(Identity { cluster_id, bootstrap: BootstrapStatus { member, phase } })
}

fn conflict(desired: &Desired, observed: &Observed) -> Obstacle {
    let recorded = observed.cluster_id().map(|id| format!("status.clusterID {id}"));
    let claims = observed.claims.iter().filter_map(|(member, claim)| {
        let id = claim.cluster_id.as_deref()?;
        Some(format!("claim {} {id}", desired.name.claim(member)))
    });
    let reports = observed
        .reports
        .iter()
        .filter_map(|(pod, report)| Some(format!("member {pod} {}", report.cluster_id.as_deref()?)));
    let all: Vec<_> = recorded.into_iter().chain(claims).chain(reports).collect();
    Obstacle::new(
        ObstacleReason::ClusterIdConflict,
        format!(
            "data of different clusters is under this name, and nothing is done until one is left: {}. Delete or rename the claims that do not belong here",
            all.join(", ")
        ),
    )
}
