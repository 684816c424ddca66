//! A restore in a running cluster: the leader has another process of this program bring the state back in a directory of
//! its own, then puts it in the place of the present one on every member, as an entry of the log. What was there before
//! stays in the archive, and comes back the same way. An import goes the same way from where its file is here.

use super::automatic::{AutoRestoreConfig, Place as BackupPlace, PlaceError};
use super::command::{EXTENSIONS, PROGRESS, RESTORE};
use super::import::{Import, ImportError};
use super::packed::{UnpackError, unpacked};
use crate::failpoint::{Place, pass};
use crate::raft::{Consensus, LoadError};
use crate::scratch_directory::ScratchDirectory;
use crate::store::{self, CanonicalError, Scratch, Taken};
use client::backup::{JobState, RestoreJob, RestoreReport, Restored, StartRestore};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
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
    /// The file to import did not come.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// What came does not unpack.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The automatic backup did not come.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// It did not come in time.
    #[error("{place}: it has not come within {within:?}")]
    Late {
        /// From where.
        place: String,
        /// The time that it had.
        within: Duration,
    },
    /// The file to import is not taken.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// The state could not take the place of the present one.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What the other process reported makes no sense.
    #[error("the report of the restore: {0}")]
    Report(#[from] serde_json::Error),
    /// It could not be written into the state how it came.
    #[error("mark the state: {0}")]
    Mark(String),
}

/// Removes what a restore that was cut short left in `data_dir`.
pub fn tidy(data_dir: &Path) -> io::Result<()> {
    ScratchDirectory::clear(&data_dir.join(DIRECTORY))
}

/// Where another state comes from.
pub enum Origin {
    /// Backups of a cluster.
    Backups {
        /// The settings of their store.
        config: PathBuf,
        /// The cluster.
        cluster_id: String,
    },
    /// What the settings at this path name.
    Import(PathBuf),
    /// An automatic backup.
    Automatic(AutoRestoreConfig),
}

/// Puts the state that `request` names in the place of the present one.
pub async fn install(
    consensus: &Arc<Consensus>,
    origin: &Origin,
    request: &StartRestore,
    progress: &AtomicU8,
) -> Result<Option<Restored>, InstallError> {
    let (state, mut restored) = match origin {
        Origin::Backups { config, cluster_id } => {
            let (state, restored) = rebuild(consensus, config, cluster_id, request, progress).await?;
            (state, Some(restored))
        }
        Origin::Import(settings) => {
            let fetched = fetch_import(consensus, settings, progress).await?;
            (checked(consensus, fetched, Taken::DatabaseOrSql).await?, None)
        }
        Origin::Automatic(config) => {
            let fetched = fetch_automatic(consensus, config).await?;
            (checked(consensus, fetched, Taken::DatabaseOrSql).await?, None)
        }
    };
    progress.store(REBUILT, Ordering::Relaxed);
    pass(Place::RestoreRebuilt)?;
    if let Some(restored) = &mut restored {
        restored.replaced_index = consensus.store().applied().index();
    }
    mark(state.path(), &request.name, restored.as_ref()).await?;
    pass(Place::RestoreMarked)?;
    let index = consensus.install(state).await?;
    pass(Place::RestoreInstalled)?;
    if let Some(restored) = &mut restored {
        restored.installed_index = Some(index);
    }
    progress.store(100, Ordering::Relaxed);
    Ok(restored)
}

async fn fetch_import(
    consensus: &Consensus,
    settings: &Path,
    progress: &AtomicU8,
) -> Result<Scratch, InstallError> {
    let import = Import::read(settings)?;
    let told = |percent| progress.store(percent / 2, Ordering::Relaxed);
    Ok(import.fetch(consensus.store().staging(), told).await?)
}

async fn fetch_automatic(consensus: &Consensus, config: &AutoRestoreConfig) -> Result<Scratch, InstallError> {
    let staging = consensus.store().staging();
    let place = BackupPlace::open(&config.storage)?;
    let fetched = tokio::time::timeout(config.timeout, place.fetch(staging)).await;
    let late = |_| InstallError::Late { place: place.to_string(), within: config.timeout };
    Ok(unpacked(place.to_string(), fetched.map_err(late)??, staging).await?)
}

/// Makes a file of ours of one from elsewhere.
async fn checked(consensus: &Consensus, fetched: Scratch, taken: Taken) -> Result<Scratch, InstallError> {
    let state = consensus.store().staging().scratch();
    consensus.store().write_canonical(fetched.path(), state.path(), taken).await?;
    Ok(state)
}

async fn rebuild(
    consensus: &Consensus,
    config: &Path,
    cluster_id: &str,
    request: &StartRestore,
    progress: &AtomicU8,
) -> Result<(Scratch, Restored), InstallError> {
    let room = ScratchDirectory::make(&consensus.config().directory.join(DIRECTORY))?;
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
        .args(extensions_of(consensus)?)
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
    let Some(restored) = report.restored else {
        return Err(InstallError::Rebuild(report.message.unwrap_or_else(|| status.to_string())));
    };
    let scratch = consensus.store().staging().scratch();
    std::fs::rename(&database, scratch.path())?;
    Ok((scratch, restored))
}

/// The flag by which another process has all extensions that are on this member's disk: those of the present state, and of
/// states before.
fn extensions_of(consensus: &Consensus) -> io::Result<Vec<OsString>> {
    let shelf = consensus.store().shelf();
    if shelf.files()?.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![EXTENSIONS.into(), shelf.directory().into()])
}

/// Writes into the state how it came: whoever leads next knows that it did.
async fn mark(database: &Path, name: &str, restored: Option<&Restored>) -> Result<(), InstallError> {
    let job = RestoreJob {
        name: name.to_owned(),
        state: JobState::Succeeded,
        progress_percent: 100,
        restored: restored.cloned(),
        message: None,
    };
    let (database, mark) = (database.to_owned(), serde_json::to_vec(&job)?);
    let written = tokio::task::spawn_blocking(move || store::write_mark(&database, &mark)).await;
    written.map_err(io::Error::from)?.map_err(InstallError::Mark)
}

/// The restore that the state at `path` came by. Blocks.
pub fn last(path: &Path) -> Result<Option<RestoreJob>, String> {
    let mark = store::read_mark(path)?;
    let read = || serde_json::from_slice(&mark).map_err(|error| format!("the mark of a restore: {error}"));
    (!mark.is_empty()).then(read).transpose()
}
