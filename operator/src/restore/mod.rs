//! A restore of a running cluster: observe → plan → execute → status.
//!
//! It waits for the word that data may be replaced, keeps where the cluster is as a backup, and asks the leader, which brings
//! the other state back meanwhile and replaces nothing before that backup is in the store. One at a time for a cluster.
//! That the leader is asked is written down before; it is asked again only if it is certain that the restore did not
//! happen, because what was written since would be lost.

pub(crate) mod execute;
mod observe;
pub mod observed;
pub mod plan;
pub mod status;

use crate::cluster::access::AccessError;
use crate::context::Context;
use crate::status::StatusError;
use crate::stores::GuardedRestore;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use plan::{Step, plan};
use std::sync::Arc;
use std::time::Duration;

/// The kind, as metrics spell it.
pub const KIND: &str = "SqliteRestore";
/// How soon to look again while something moves, in the first minute and later.
const QUICK: Duration = Duration::from_millis(500);
const PROGRESS: Duration = Duration::from_secs(2);
/// For how long a restore is expected to be quick.
const EXPECTED: SignedDuration = SignedDuration::from_mins(1);
/// How soon to look again while something is waited for.
const WAIT: Duration = Duration::from_secs(5);

/// Why the reconcile of a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// While finding the way in to the members.
    #[error("cannot get in to the members")]
    Access(#[from] AccessError),
    /// While making the backup that undoes it.
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
            Self::Access(_) => "restore-access",
            Self::Execute(_) => "restore-execute",
            Self::Status(_) => "restore-status",
        }
    }
}

/// The sentence.
pub async fn reconcile(restore: Arc<GuardedRestore>, ctx: Arc<Context>) -> Result<Action, Error> {
    let restore = match &restore.0 {
        Ok(restore) => restore,
        Err(unreadable) => {
            let (name, error) = (unreadable.metadata.name.as_deref(), &unreadable.error);
            tracing::warn!(name, error, "a SqliteRestore is unreadable");
            return Ok(Action::await_change());
        }
    };
    if restore.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let Some(seen) = observe::observe(restore, &ctx).await? else {
        ctx.settled(KIND, &restore.namespace().unwrap_or_default(), &restore.name_any());
        return Ok(Action::await_change());
    };
    let step = plan(&seen.observed);
    let mut restore = restore.clone();
    let uid = &seen.observed.object.uid;
    if matches!(step, Step::Start { .. }) {
        if let Some(left) = ctx.put_off.left(uid) {
            return Ok(Action::requeue(left));
        }
        // Before it is done, and not by what a cache that is behind shows: it must not be done twice.
        let asking = status::status(&seen.observed, &step, &execute::Outcome::Done);
        if !status::publish(&restore, &asking, true, seen.cluster.as_ref(), &ctx).await? {
            return Ok(Action::requeue(QUICK));
        }
        restore.status = Some(asking);
    }
    let outcome = execute::execute(&restore, &seen, &step, &ctx).await?;
    let is_put_off = matches!(outcome, execute::Outcome::NotYet { .. });
    if is_put_off {
        ctx.put_off.add(uid, WAIT);
    }
    let status = status::status(&seen.observed, &step, &outcome);
    status::publish(&restore, &status, false, seen.cluster.as_ref(), &ctx).await?;
    ctx.settled(KIND, &seen.observed.object.namespace, &restore.name_any());
    Ok(match step {
        Step::Nothing => Action::await_change(),
        _ if status.completion_time.is_some() => Action::await_change(),
        Step::Wait { .. } => Action::requeue(WAIT),
        _ if is_put_off => Action::requeue(WAIT),
        _ => Action::requeue(progress(seen.observed.now, status.start_time.as_ref())),
    })
}

/// How soon to look again at what moves, and began at some time.
pub(crate) fn progress(now: Timestamp, begun: Option<&Time>) -> Duration {
    let is_new = |begun: &Time| now.duration_since(begun.0) < EXPECTED;
    if begun.is_none_or(is_new) { QUICK } else { PROGRESS }
}

/// What to do after a failure: again, after a while that doubles.
pub fn error_policy(restore: Arc<GuardedRestore>, error: &Error, ctx: Arc<Context>) -> Action {
    ctx.retry(KIND, &*restore, error.step(), error)
}
