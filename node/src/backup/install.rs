//! A restore in a running cluster: the leader has another process of this program bring the state back in a directory of
//! its own, then puts it in the place of the present one on every member, as an entry of the log. What was there before
//! is made sure of first ([`super::undo`]), and comes back the same way. An import goes the same way from where its file is
//! here.

use super::automatic::{AutoRestoreConfig, Place as BackupPlace, PlaceError};
use super::catalogue::Contents;
use super::command::{EXTENSIONS, PROGRESS, RESTORE};
use super::full;
use super::import::{Import, ImportError};
use super::objects::{ObjectError, Objects};
use super::packed::{UnpackError, unpacked};
use super::undo::{KeepError, Keeper, Own};
use crate::failpoint::{Place, pass};
use crate::raft::{Consensus, LoadError, Replaced};
use crate::scratch_directory::ScratchDirectory;
use crate::store::{self, CanonicalError, Scratch, Taken};
use client::backup::{JobState, RestoreJob, RestoreReport, RestoreTarget, Restored, StartRestore};
use client::not_reachable::NotReachable;
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
/// What a restore says that was not told by which backup it is undone, of a cluster without an archive.
const NOTHING_BACK: &str = "nothing brings back what was there before: no backup was named that undoes the restore, \
                            and there is no archive";

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
    /// What is there now could not be made sure of.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The store does not say what there is.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// Nothing in the store is what was asked for.
    #[error(transparent)]
    NotReachable(#[from] NotReachable),
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
        /// What of it is in the store.
        objects: Objects,
    },
    /// What the settings at this path name.
    Import(PathBuf),
    /// An automatic backup.
    Automatic(AutoRestoreConfig),
}

/// What a restore came to.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What was restored; none for an import.
    pub restored: Option<Restored>,
    /// What it cost, for people.
    pub cost: Option<String>,
}

/// Puts the state that `request` names in the place of the present one, which may hold something only if `is_confirmed`. What
/// is kept of that goes to the member's `own` store.
pub async fn install(
    consensus: &Arc<Consensus>,
    origin: &Origin,
    request: &StartRestore,
    own: &Own,
    is_confirmed: bool,
    progress: &AtomicU8,
) -> Result<Installed, InstallError> {
    // What is written from now on is kept when it is known where: after the backup, which may still be in the making.
    let hold = request.undo.is_some().then(|| consensus.hold_log());
    let (state, mut restored) = match origin {
        Origin::Backups { config, cluster_id, objects } => {
            let target = resolve(objects, request).await?;
            let (state, restored) = rebuild(consensus, config, cluster_id, &target, progress).await?;
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
    let mut keeper = Keeper::begin(consensus, own, request.undo.as_deref(), is_confirmed, hold).await?;
    if let Some(restored) = &mut restored {
        restored.undo = keeper.undo();
    }
    let is_lost = !keeper.brings_back() && keeper.holds_anything().await?;
    let cost = is_lost.then(|| NOTHING_BACK.to_owned());
    // Which entry is the last of the present is not known before the file is everywhere, and the mark is in the file.
    mark(state.path(), &request.name, restored.as_ref(), cost.as_ref()).await?;
    pass(Place::RestoreMarked)?;
    let Replaced { index, last } = consensus.install(state, &mut keeper).await?;
    pass(Place::RestoreInstalled)?;
    if let Some(restored) = &mut restored {
        restored.installed_index = Some(index);
        restored.replaced_index = (!is_lost).then_some(last);
    }
    progress.store(100, Ordering::Relaxed);
    Ok(Installed { restored, cost })
}

/// The moment that is meant, by what is in the store when it is asked for. The backup that undoes the restore is not a moment
/// to go back to: without an archive it would be the last one, and the restore change nothing. Nor is what is written while
/// the other state is brought back.
async fn resolve(objects: &Objects, request: &StartRestore) -> Result<RestoreTarget, InstallError> {
    let (RestoreTarget::Latest {}, Some(undo)) = (&request.target, &request.undo) else {
        return Ok(request.target.clone());
    };
    let mut contents = Contents::read_ranges(objects, None).await?;
    contents.manifests.retain(|manifest| full::name_of(&manifest.backup.path) != Some(undo.as_str()));
    let choice = contents.choose(&RestoreTarget::Latest {})?;
    Ok(match choice.segments.last() {
        Some(segment) => RestoreTarget::Index(segment.last),
        None => RestoreTarget::Backup(choice.manifest.backup.path),
    })
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
    target: &RestoreTarget,
    progress: &AtomicU8,
) -> Result<(Scratch, Restored), InstallError> {
    let room = ScratchDirectory::make(&consensus.config().directory.join(DIRECTORY))?;
    let report = room.path.join("report.json");
    let database = room.path.join("database.sqlite");
    let mut child = Command::new(std::env::current_exe()?)
        .arg(RESTORE)
        .arg("-backup-config")
        .arg(config)
        .args(["-cluster-id", cluster_id, "-to", &super::command::target_text(target)])
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
async fn mark(
    database: &Path,
    name: &str,
    restored: Option<&Restored>,
    cost: Option<&String>,
) -> Result<(), InstallError> {
    let job = RestoreJob {
        name: name.to_owned(),
        state: JobState::Succeeded,
        progress_percent: 100,
        restored: restored.cloned(),
        message: cost.cloned(),
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
