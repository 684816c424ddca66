//! Acts: keeps where the cluster is, and asks the leader. Network.

use super::observe::Seen;
use super::plan::Step;
use crate::backup::explain;
use crate::context::Context;
use crate::crd::{SqliteBackup, SqliteRestore};
use crate::names::{ANNOTATION_UNDOES, ANNOTATION_UNDONE, FIELD_MANAGER, LABEL_CLUSTER, MANAGED_BY};
use client::admin::RefusalReason;
use client::admin_client::AdminError;
use client::backup::{JobState, StartRestore};
use kube::api::PostParams;
use kube::{Api, Resource};
use serde_json::json;

/// Why a step could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The server refused the backup that undoes the restore.
    #[error("cannot create SqliteBackup {name}")]
    Create {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// It cannot be made.
    #[error("SqliteBackup {name} cannot be made")]
    Encode {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing that the plan does not say already.
    Done,
    /// The leader began.
    Begun,
    /// It did not, and will not.
    Refused {
        /// For programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// It may have begun: whoever knows of it will tell.
    Unknown,
    /// It did not begin, for a matter of a moment.
    NotYet {
        /// For people.
        message: String,
    },
}

/// Takes the step.
pub async fn execute(
    restore: &SqliteRestore,
    seen: &Seen,
    step: &Step,
    ctx: &Context,
) -> Result<Outcome, ExecuteError> {
    match step {
        Step::Pin => pin(restore, seen, ctx).await.map(|()| Outcome::Done),
        Step::Start { member, body, .. } => Ok(start(seen, member, body).await),
        Step::Nothing
        | Step::Wait { .. }
        | Step::AwaitWord
        | Step::Follow { .. }
        | Step::Succeed
        | Step::Fail { .. } => Ok(Outcome::Done),
    }
}

/// Makes the object of the backup. It outlives the restore: without it nothing could be undone.
async fn pin(restore: &SqliteRestore, seen: &Seen, ctx: &Context) -> Result<(), ExecuteError> {
    let object = &seen.observed.object;
    let name = object.undo_name();
    let cluster = &restore.spec.cluster_ref.name;
    let backup = json!({
        "apiVersion": SqliteBackup::api_version(&()),
        "kind": SqliteBackup::kind(&()),
        "metadata": {
            "name": name,
            "namespace": object.namespace,
            "labels": {(LABEL_CLUSTER): cluster, "app.kubernetes.io/managed-by": MANAGED_BY},
            "annotations": {(ANNOTATION_UNDOES): object.uid, (ANNOTATION_UNDONE): object.name},
        },
        "spec": {"clusterRef": {"name": cluster}, "kind": "Pin"},
    });
    let backup: SqliteBackup = serde_json::from_value(backup)
        .map_err(|source| ExecuteError::Encode { name: name.clone(), source })?;
    let api: Api<SqliteBackup> = Api::namespaced(ctx.client.clone(), &object.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&params, &backup).await {
        Ok(_) => Ok(()),
        // The next look finds out whose it is.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => Err(ExecuteError::Create { name, source }),
    }
}

async fn start(seen: &Seen, member: &str, body: &StartRestore) -> Outcome {
    let base = seen.members.pods.get(member).and_then(|pod| pod.base());
    let Some(base) = base else {
        return Outcome::NotYet { message: format!("{member} has no address at this moment") };
    };
    tracing::info!(name = body.name, member, "asking for a restore");
    match seen.admin.start_restore(&base, body).await {
        Ok(job) if job.state == JobState::Failed => {
            Outcome::Refused { reason: "RestoreFailed", message: job.message.unwrap_or_default() }
        }
        Ok(_) => Outcome::Begun,
        Err(error) if !matches!(error, AdminError::Refused { .. }) => {
            tracing::warn!(member, error = &error as &dyn std::error::Error, "no word about a restore");
            Outcome::Unknown
        }
        Err(error) => {
            let message = format!("{member}: {}", explain(&error));
            match error.refusal() {
                Some(RefusalReason::Invalid | RefusalReason::NotConfirmed) => {
                    Outcome::Refused { reason: "Refused", message }
                }
                Some(RefusalReason::OutcomeUnknown | RefusalReason::Internal) => Outcome::Unknown,
                _ => Outcome::NotYet { message },
            }
        }
    }
}
