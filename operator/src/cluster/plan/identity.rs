//! Which cluster this is: the one that was recorded, else the one whose data is on the claims, else the one that
//! members say they are of, else a new one. What contradicts a better witness is a stranger: it is left alone, kept out
//! of everything, and told of.

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
    /// What is under the cluster's name and holds the data of another one.
    pub(super) strangers: Option<Obstacle>,
}

/// Which cluster this is. Two ids with equal claim to the name are for a human to sort out.
pub(super) fn identify(desired: &Desired, observed: &Observed, minted: &str) -> Result<Identity, Obstacle> {
    let recorded: BTreeSet<&str> = observed.cluster_id().into_iter().collect();
    let claimed = observed.claims.values().filter_map(|claim| claim.cluster_id.as_deref()).collect();
    let reported = observed.reports.values().filter_map(|report| report.cluster_id.as_deref()).collect();
    let known = [recorded, claimed, reported].into_iter().find(|ids: &BTreeSet<&str>| !ids.is_empty());
    let known = known.unwrap_or_default();
    if known.len() > 1 {
        return Err(conflict(strangers(desired, observed, None)));
    }
    let cluster_id = known.first().map_or_else(|| minted.to_owned(), |id| (*id).to_owned());
    let bootstrap = observed.bootstrap();
    let member = bootstrap
        .map_or_else(|| desired.name.member(PodRole::Voter, 0), |bootstrap| bootstrap.member.clone());
    let mut phase = bootstrap.map_or(BootstrapPhase::Chosen, |bootstrap| bootstrap.phase);
    let ours = |id: &Option<String>| id.as_deref() == Some(&cluster_id);
    let has_begun = observed.reports.values().any(|report| ours(&report.cluster_id))
        || observed.claims.values().any(|claim| claim.node_id.is_some() && ours(&claim.cluster_id));
    if has_begun {
        phase = phase.max(BootstrapPhase::Initialised);
    }
    let strangers = strangers(desired, observed, Some(&cluster_id));
    Ok(Identity {
        strangers: (!strangers.is_empty()).then(|| conflict(strangers)),
        cluster_id,
        bootstrap: BootstrapStatus { member, phase },
    })
}

/// Everything under the cluster's name that tells an id other than `own`.
fn strangers(desired: &Desired, observed: &Observed, own: Option<&str>) -> Vec<String> {
    let claims = observed.claims.iter().filter_map(|(member, claim)| {
        let id = claim.cluster_id.as_deref().filter(|id| Some(*id) != own)?;
        Some(format!("claim {} {id}", desired.name.claim(member)))
    });
    let reports = observed.reports.iter().filter_map(|(pod, report)| {
        let id = report.cluster_id.as_deref().filter(|id| Some(*id) != own)?;
        Some(format!("member {pod} {id}"))
    });
    claims.chain(reports).collect()
}

fn conflict(strangers: Vec<String>) -> Obstacle {
    Obstacle::new(
        ObstacleReason::ClusterIdConflict,
        format!(
            "data of another cluster is under this name, and is left alone: {}. Delete or rename the claims that do not belong here",
            strangers.join(", ")
        ),
    )
}
