//! A restore in a running cluster: the leader has another process of this program bring the state back in a directory of
//! its own, then puts it in the place of the present one on every member, as an entry of the log. What was there before
//! stays in the archive, and comes back the same way.

use super::command::{PROGRESS, RESTORE};
use crate::raft::{Consensus, LoadError};
use client::backup::{RestoreReport, Restored, StartRestore};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// Where states are brought back, in the data directory.
const DIRECTORY: &str = "restore";
/// Share of the work, in hundredths, that is done when the state is back on the leader.
const REBUILT: u8 = 80;

/// A restore did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The state did not come back.
    #[error("{0}")]
    Rebuild(String),
    /// Files could not be made or moved.
    #[error("restore in the data directory: {0}")]
    Io(#[from] io::Error),
    /// The state could not take the place of the present one.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What the other process reported makes no sense.
    #[error("the report of the restore: {0}")]
    Report(#[from] serde_json::Error),
}

/// A directory that is gone when it is dropped.
struct Room {
    path: PathBuf,
}

impl Room {
    fn make(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(DIRECTORY);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove what a restore left");
        }
    }
}

/// Removes what a restore that was cut short left in `data_dir`.
pub fn tidy(data_dir: &Path) -> io::Result<()> {
    Room::make(data_dir).map(drop)
}

/// Brings this cluster to the moment that `request` names, of the backups that `config` leads to.
pub async fn install(
    consensus: &Arc<Consensus>,
    config: &Path,
    cluster_id: &str,
    request: &StartRestore,
    progress: &AtomicU8,
) -> Result<Restored, InstallError> {
    let room = Room::make(&consensus.config().directory)?;
    let report = room.path.join("report.json");
    let database = room.path.join("database.sqlite");
    let mut child = Command::new(std::env::current_exe()?)
        .arg(RESTORE)
        .arg("-backup-config")
        .arg(config)
        .args(["-cluster-id", cluster_id, "-to", &super::command::target_text(&request.target)])
        .arg("-report")
        .arg(&report)
        .args(["-keep-internal", PROGRESS])
        .arg(&database)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            if let Ok(percent) = line.parse::<u8>() {
                progress.store(percent.min(100) / 5 * 4, Ordering::Relaxed);
            }
        }
    }
    let status = child.wait().await?;
    let report: RestoreReport = match std::fs::read(&report) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(InstallError::Rebuild(format!("the restore ended early: {status}")));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(mut restored) = report.restored else {
        return Err(InstallError::Rebuild(report.message.unwrap_or_else(|| status.to_string())));
    };
    progress.store(REBUILT, Ordering::Relaxed);
    let scratch = consensus.store().staging().scratch();
    std::fs::rename(&database, scratch.path())?;
    restored.replaced_index = consensus.store().state().borrow().applied.log_id.map(|id| id.index);
    restored.installed_index = Some(consensus.install_restored(scratch).await?);
    progress.store(100, Ordering::Relaxed);
    Ok(restored)
}
