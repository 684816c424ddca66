//! The table: a world, and what is done about it.

use super::*;
use crate::cluster::fixtures::{CLUSTER_ID, MINTED, World};
use crate::cluster::observed::Foreign;
use crate::crd::{MaintenanceWindow, RetentionPolicy};
use crate::names::PodRole;
use client::admin::{NodeId, Phase};

/// Steps in short.
fn steps(plan: &Plan) -> Vec<String> {
    let ids = |list: &[(String, NodeId)]| {
        list.iter().map(|(name, id)| format!("{name}={}", id.0)).collect::<Vec<_>>().join("+")
    };
    plan.steps
        .iter()
        .map(|step| match step {
            Step::SetServing { pod, serving, .. } => format!("serving {pod} {serving}"),
            Step::RecreateSet { role, .. } => format!("recreate {}", role.label()),
            Step::Initialise { pod, cluster_id } => format!("initialise {pod} {cluster_id}"),
            Step::AddLearner(add) => format!("learn {}={}", add.name, add.node_id.0),
            Step::RemoveLearner { name, node_id } => format!("forget {name}={}", node_id.0),
            Step::ChangeVoters { add, remove } => format!("vote [{}] -[{}]", ids(add), ids(remove)),
            Step::Restore(start) => format!("restore {}", start.name),
            Step::Transfer { from, to, .. } => format!("transfer {from} {to}"),
            Step::RecoverQuorum { pod, body } => format!("recover {pod} at {}", body.index),
            Step::SkipEntry(entry) => format!("skip {}", entry.index),
            Step::DressPod { pod, .. } => format!("dress {pod}"),
            Step::ResizePod { pod, patch, .. } => format!("resize {pod} {patch}"),
            Step::DeletePod { pod, restart: true, .. } => format!("restart {pod}"),
            Step::DeletePod { pod, .. } => format!("renew {pod}"),
            Step::DeleteClaim { member, .. } => format!("wipe {member}"),
        })
        .collect()
}

#[track_caller]
fn expect(world: &World, wanted: &[&str]) -> Plan {
    let plan = world.plan();
    assert_eq!(steps(&plan), wanted, "{plan:#?}");
    let disruptive = plan.steps.iter().filter(|step| step.is_disruptive()).count();
    assert!(disruptive <= 1, "{plan:#?}");
    plan
}

/// A maintenance window of half an hour.
fn half_an_hour(cron: &str) -> MaintenanceWindow {
    MaintenanceWindow { cron: cron.into(), duration_minutes: 30, time_zone: "UTC".into() }
}

#[track_caller]
fn size(plan: &Plan) -> (usize, Option<usize>) {
    let sizes = plan.sizes.clone().expect("sizes");
    (sizes.voters, sizes.read_replicas)
}

fn activity(plan: &Plan) -> Option<ActivityReason> {
    plan.activity.as_ref().map(|activity| activity.reason)
}

fn obstacle(plan: &Plan) -> Option<ObstacleReason> {
    plan.obstacle.as_ref().map(|obstacle| obstacle.reason)
}

mod adoption;
mod bootstrap;
mod fatal_entry;
mod fencing;
mod hibernation;
mod pods;
mod recovery;
mod rest;
mod rollout;
mod scaling;
mod simulation;
mod update;
mod volumes;
