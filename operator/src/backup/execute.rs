//! Acts: asks a member, or marks the object. Network.

use super::observe::Seen;
use super::plan::Step;
use crate::context::Context;
use crate::crd::{BackupPurpose, SqliteBackup};
use crate::names::FINALIZER_BACKUP;
use client::admin::RefusalReason;
use client::admin_client::AdminError;
use client::backup::{Backup, BackupKind, DeleteBackups, JobState, StartBackup};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

/// Why a step could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The finalizers of the object could not be changed.
    #[error("cannot change the finalizers of {name}")]
    Finalizers {
        /// Of which object.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing that the plan does not say already.
    Done,
    /// A member began.
    Begun {
        /// Which.
        member: String,
    },
    /// It is in the store.
    Found(Box<Backup>),
    /// It is not, and will not be.
    Refused {
        /// For programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// A matter of a moment.
    NotYet {
        /// For people.
        message: String,
    },
}

/// Takes the step.
pub async fn execute(
    backup: &SqliteBackup,
    seen: &Seen,
    step: &Step,
    ctx: &Context,
) -> Result<Outcome, ExecuteError> {
    match step {
        Step::Nothing
        | Step::Wait { .. }
        | Step::Follow { .. }
        | Step::Retry(_)
        | Step::Succeed(_)
        | Step::Fail { .. }
        | Step::AwaitEnd { .. } => Ok(Outcome::Done),
        Step::Hold => hold(backup, true, ctx).await.map(|()| Outcome::Done),
        Step::Start { member } => Ok(start(backup, seen, member).await),
        Step::LookUp { member, path } => Ok(look_up(seen, member, path).await),
        Step::Find { member } => {
            let found = find(seen, member).await;
            if found == Outcome::Done {
                hold(backup, false, ctx).await?;
            }
            Ok(found)
        }
        Step::DeleteObjects { member, path } => {
            let deleted = delete(seen, member, path).await;
            if deleted == Outcome::Done {
                hold(backup, false, ctx).await?;
            }
            Ok(deleted)
        }
        Step::Release { left } => {
            if let Some(left) = left {
                let (subject, note) = (backup.object_ref(&()), left.clone());
                ctx.tell(&subject, EventType::Warning, "BackupObjectsLeft", "Delete", note).await;
            }
            hold(backup, false, ctx).await.map(|()| Outcome::Done)
        }
    }
}

fn base(seen: &Seen, member: &str) -> Option<String> {
    seen.members.pods.get(member)?.base()
}

async fn start(backup: &SqliteBackup, seen: &Seen, member: &str) -> Outcome {
    let Some(base) = base(seen, member) else { return gone(member) };
    let kind = match backup.spec.kind {
        BackupPurpose::Full => BackupKind::Full,
        BackupPurpose::Pin => BackupKind::Pin,
    };
    let name = seen.observed.object.job_name();
    tracing::info!(name, member, "asking for a backup");
    match seen.admin.start_backup(&base, &StartBackup { name, kind, within_seconds: None }).await {
        Ok(job) => match (job.state, job.backup) {
            (JobState::Succeeded, Some(backup)) => Outcome::Found(Box::new(backup)),
            (JobState::Failed, _) => Outcome::Refused {
                reason: "BackupFailed",
                message: format!("{member}: {}", job.message.unwrap_or_default()),
            },
            _ => Outcome::Begun { member: member.to_owned() },
        },
        Err(error) => refused(member, &error),
    }
}

async fn look_up(seen: &Seen, member: &str, path: &str) -> Outcome {
    let Some(base) = base(seen, member) else { return gone(member) };
    match seen.admin.backups(&base).await {
        Ok(catalogue) => match catalogue.backups.into_iter().find(|backup| backup.path == path) {
            Some(backup) => Outcome::Found(Box::new(backup)),
            None => Outcome::Refused {
                reason: "NotInStore",
                message: format!("the store holds no complete backup of this cluster at {path}"),
            },
        },
        Err(error) => refused(member, &error),
    }
}

/// Looks for it by its name: done if it is not there.
async fn find(seen: &Seen, member: &str) -> Outcome {
    let Some(base) = base(seen, member) else { return gone(member) };
    let name = seen.observed.object.job_name();
    match seen.admin.backups(&base).await {
        Ok(catalogue) => match catalogue.backups.into_iter().find(|backup| backup.name == name) {
            Some(backup) => Outcome::Found(Box::new(backup)),
            None => Outcome::Done,
        },
        Err(error) => Outcome::NotYet { message: explain(&error) },
    }
}

async fn delete(seen: &Seen, member: &str, path: &str) -> Outcome {
    let Some(base) = base(seen, member) else { return gone(member) };
    let body = DeleteBackups { paths: vec![path.to_owned()], archive_before: None };
    match seen.admin.delete_backups(&base, &body).await {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::NotYet { message: explain(&error) },
    }
}

fn gone(member: &str) -> Outcome {
    Outcome::NotYet { message: format!("{member} has no address at this moment") }
}

/// What cannot be right by the next time is final; everything else is tried again until the deadline.
fn refused(member: &str, error: &AdminError) -> Outcome {
    tracing::info!(member, error = error as &dyn std::error::Error, "a member did not do what it was asked");
    let message = format!("{member}: {}", explain(error));
    match error.refusal() {
        Some(RefusalReason::Invalid) => Outcome::Refused { reason: "Invalid", message },
        _ => Outcome::NotYet { message },
    }
}

/// The member's words, if it said any: an address would make each attempt another message.
pub(crate) fn explain(error: &AdminError) -> String {
    match error {
        AdminError::Refused { refusal, .. } => refusal.message.clone(),
        AdminError::Unexpected { status, .. } => {
            format!("it answered {status} with something that is not of this API")
        }
        _ => "it did not answer".into(),
    }
}

/// Adds our finalizer, or takes it away. An object that is gone needs neither.
async fn hold(backup: &SqliteBackup, held: bool, ctx: &Context) -> Result<(), ExecuteError> {
    let others = backup.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER_BACKUP).cloned();
    let finalizers: Vec<String> = others.chain(held.then(|| FINALIZER_BACKUP.to_owned())).collect();
    let api: Api<SqliteBackup> = Api::namespaced(ctx.client.clone(), &backup.namespace().unwrap_or_default());
    let name = backup.name_any();
    // With the version that was seen: finalizers of others that came in between are not taken away.
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "uid": backup.uid(),
        "resourceVersion": backup.resource_version(),
    }});
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(source) => Err(ExecuteError::Finalizers { name, source }),
    }
}
