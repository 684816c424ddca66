//! A new cluster begins with a backup: whoever leads it first brings the backup and puts it in place, and no member
//! serves before that has ended, one way or the other.
//!
//! What is to be done is remembered by a file in the data directory, written before the member is of a cluster and removed
//! when the attempt has ended: a member that is restarted in between goes on, one that is restarted later does not begin
//! again. A member whose leader serves need not do anything: the attempt has ended there, or the cluster is not new.

use super::config::AutoRestoreConfig;
use crate::backup::install::{self, InstallError, Origin};
use crate::backup::undo::Own;
use crate::raft::{Consensus, LoadError};
use client::backup::{RestoreSource, RestoreTarget, StartRestore};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

/// The file that says that there is something to do.
const PENDING: &str = "auto-restore.pending";
/// What the restore is called in `/cluster/restore`.
const NAME: &str = "auto-restore";
/// Between two looks who leads.
const LOOK: Duration = Duration::from_millis(200);
/// How long the leader may take to say whether it serves.
const ASK: Duration = Duration::from_secs(2);

/// The cluster cannot begin as it should.
#[derive(Debug, thiserror::Error)]
pub enum AutoRestoreError {
    /// The backup did not come, or cannot be used.
    #[error("-auto-restore: {0} (with \"continue_on_failure\": true the cluster would begin empty)")]
    Restore(#[from] InstallError),
    /// The database here could not be looked at.
    #[error("-auto-restore: {0}")]
    Look(String),
    /// What is remembered could not be forgotten.
    #[error("-auto-restore: {path}: {source}")]
    Pending {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Whether the member of `data_dir` has something to restore: it has no data (`is_new`), or was interrupted. Writes that
/// down, durably; without -auto-restore nothing is left of it.
pub fn is_pending(data_dir: &Path, is_asked_for: bool, is_new: bool) -> io::Result<bool> {
    let path = data_dir.join(PENDING);
    match (is_asked_for, path.try_exists()?) {
        (false, true) => forget(&path).map(|()| false),
        (true, false) if is_new => {
            File::create(&path)?.sync_all()?;
            File::open(data_dir)?.sync_all()?;
            Ok(true)
        }
        (is_asked_for, exists) => Ok(is_asked_for && exists),
    }
}

fn forget(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// What there is to do now.
enum Step {
    /// Nothing yet.
    Wait,
    /// Bring the backup.
    Restore,
    /// Nothing any more.
    Serve,
}

/// A restore that is to be done once.
pub struct AutoRestore {
    consensus: Arc<Consensus>,
    config: AutoRestoreConfig,
    pending: PathBuf,
}

impl AutoRestore {
    /// For a member that is held back until [`AutoRestore::run`] has ended.
    pub fn new(consensus: Arc<Consensus>, config: AutoRestoreConfig) -> Self {
        let pending = consensus.config().directory.join(PENDING);
        Self { consensus, config, pending }
    }

    /// Returns when the member may serve. An error is the end of the member.
    pub async fn run(self) -> Result<(), AutoRestoreError> {
        loop {
            match self.step().await? {
                Step::Serve => break,
                Step::Wait => {}
                Step::Restore => match self.restore().await {
                    Ok(()) => break,
                    // Whoever leads now does it.
                    Err(InstallError::Load(error @ (LoadError::NotLeader | LoadError::Request(_)))) => {
                        tracing::warn!(%error, "a backup is not in place yet");
                    }
                    Err(error) if self.config.continue_on_failure => {
                        tracing::error!(%error, "there is no backup to begin with: the cluster begins empty");
                        break;
                    }
                    Err(error) => return Err(error.into()),
                },
            }
            self.consensus.await_leader_change(LOOK).await;
        }
        let pending = |source| AutoRestoreError::Pending { path: self.pending.display().to_string(), source };
        forget(&self.pending).map_err(pending)?;
        self.consensus.let_serve();
        Ok(())
    }

    async fn step(&self) -> Result<Step, AutoRestoreError> {
        if self.consensus.leads_by_quorum().await {
            // The backup may need them.
            if self.consensus.extensions_message().is_some() {
                return Ok(Step::Wait);
            }
            let has_begun =
                |path: &Path| Ok(crate::store::holds_anything(path)? || install::last(path)?.is_some());
            let has_begun = self.consensus.store().look_aside(has_begun).await;
            return Ok(match has_begun.map_err(AutoRestoreError::Look)? {
                true => Step::Serve,
                false => Step::Restore,
            });
        }
        let report = self.consensus.report();
        let leader = report.leading_member().filter(|leader| leader.node_id != report.node_id);
        let Some(leader) = leader else { return Ok(Step::Wait) };
        Ok(match self.consensus.describe_peer(leader.node_id, &leader.raft_address, ASK).await {
            Ok(described) if !described.is_held_back => Step::Serve,
            _ => Step::Wait,
        })
    }

    async fn restore(&self) -> Result<(), InstallError> {
        let origin = Origin::Automatic(self.config.clone());
        let request = StartRestore {
            name: NAME.into(),
            source: RestoreSource::Other,
            cluster_id: None,
            target: RestoreTarget::Latest {},
            confirm_cluster_id: None,
            undo: None,
        };
        // Nobody was served yet, so there is nothing to keep.
        let own = Own { objects: None };
        install::install(&self.consensus, &origin, &request, &own, true, &AtomicU8::new(0)).await?;
        tracing::info!("the cluster begins with a backup");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_pending_by_table() {
        let dir = tempfile::tempdir().unwrap();
        for (is_asked_for, is_new, expected) in [
            (true, false, false),
            (false, true, false),
            (true, true, true),
            // Interrupted.
            (true, false, true),
            (false, false, false),
            (true, false, false),
        ] {
            assert_eq!(is_pending(dir.path(), is_asked_for, is_new).unwrap(), expected);
        }
        assert!(is_pending(dir.path(), true, true).unwrap());
        forget(&dir.path().join(PENDING)).unwrap();
        assert!(!is_pending(dir.path(), true, false).unwrap(), "it has ended");
    }
}
