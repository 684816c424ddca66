//! A backup, from the object to the store: observe → plan → execute → status.
//!
//! One file for each word, as for clusters. The member that is asked makes the backup; which one that is does not matter,
//! because a backup has one name wherever it is asked for.

mod execute;
mod observe;
pub mod observed;
pub mod plan;
pub mod status;

pub(crate) use execute::explain;
pub(crate) use observe::find;

use crate::cluster::access::AccessError;
use crate::context::Context;
use crate::crd::SqliteBackup;
use crate::names::ANNOTATION_UNDOES;
use crate::restore::progress;
use crate::status::StatusError;
use crate::stores::GuardedBackup;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use plan::{Step, plan};
use std::sync::Arc;
use std::time::Duration;

/// The kind, as metrics spell it.
pub const KIND: &str = "SqliteBackup";
/// How soon to look again while a member is at it, and nobody waits for it.
const PROGRESS: Duration = Duration::from_secs(2);
/// How soon to look again while something is waited for.
const WAIT: Duration = Duration::from_secs(5);

/// Why the reconcile of a backup failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// While finding the way in to the members.
    #[error("cannot get in to the members")]
    Access(#[from] AccessError),
    /// While changing the object.
    #[error("cannot execute")]
    Execute(#[from] execute::ExecuteError),
    /// While telling.
    #[error("cannot write the status")]
    Status(#[from] StatusError),
}

impl Error {
    /// Name of the step, for metrics.
    fn step(&self) -> &'static str {
        match self {
            Self::Access(_) => "backup-access",
            Self::Execute(_) => "backup-execute",
            Self::Status(_) => "backup-status",
        }
    }
}

/// The sentence.
pub async fn reconcile(backup: Arc<GuardedBackup>, ctx: Arc<Context>) -> Result<Action, Error> {
    let backup = match &backup.0 {
        Ok(backup) => backup,
        Err(unreadable) => {
            let (name, error) = (unreadable.metadata.name.as_deref(), &unreadable.error);
            tracing::warn!(name, error, "a SqliteBackup is unreadable");
            return Ok(Action::await_change());
        }
    };
    let Some(seen) = observe::observe(backup, &ctx).await? else {
        ctx.settled(KIND, &backup.namespace().unwrap_or_default(), &backup.name_any());
        return Ok(Action::await_change());
    };
    let step = plan(&seen.observed);
    let outcome = execute::execute(backup, &seen, &step, &ctx).await?;
    let is_deleted = seen.observed.object.is_deleted();
    if is_deleted && !status::is_told_to_the_end(&step, &outcome) {
        return Ok(if step == Step::Nothing { Action::await_change() } else { Action::requeue(WAIT) });
    }
    let status = status::status(&seen.observed, &step, &outcome);
    status::publish(backup, &status, seen.cluster.as_ref(), &ctx).await?;
    if is_deleted {
        return Ok(Action::requeue(WAIT));
    }
    ctx.settled(KIND, &seen.observed.object.namespace, &backup.name_any());
    Ok(match step {
        Step::Nothing => Action::await_change(),
        _ if status::is_over(&status) => Action::await_change(),
        Step::Follow { .. } | Step::Start { .. } if undoes_a_restore(backup) => {
            Action::requeue(progress(seen.observed.now, backup.metadata.creation_timestamp.as_ref()))
        }
        Step::Follow { .. } | Step::Start { .. } => Action::requeue(PROGRESS),
        _ => Action::requeue(WAIT),
    })
}

/// Whether a restore goes on when it is there.
fn undoes_a_restore(backup: &SqliteBackup) -> bool {
    backup.annotations().contains_key(ANNOTATION_UNDOES)
}

/// What to do after a failure: again, after a while that doubles.
pub fn error_policy(backup: Arc<GuardedBackup>, error: &Error, ctx: Arc<Context>) -> Action {
    ctx.retry(KIND, &*backup, error.step(), error)
}
