//! Backups: full ones on demand, the continuous archive of the log, and the way back.
//!
//! [`Backups`] is what a member can be asked to do; [`archive`] works by itself while the member leads; [`command`] is what
//! is done without a member. `docs/backup.md` says what is promised and what is where in the store ([`objects`]).

mod archive;
mod archived;
mod automatic;
mod catalogue;
mod coming;
mod command;
mod duty;
mod full;
mod import;
mod install;
mod jobs;
mod manifest;
mod objects;
mod pace;
mod packed;
mod parts;
mod ranges;
mod replaced;
mod repository;
mod restore;
mod retention;
mod seal;
mod segment;
mod undo;
mod until;

pub use archive::ArchiveNumbers;
pub use automatic::{
    AutoBackupConfig, AutoBackups, AutoRestore, AutoRestoreConfig, AutoRestoreError, LastBackup, PlaceError,
    is_pending,
};
pub use command::{Command, CommandError, RESTORE, USAGE, VERIFY};
pub use packed::Packing;
pub use repository::{Known, Repository};

use crate::background::Background;
use crate::raft::Consensus;
use crate::reload::Reloaded;
use archive::Archiver;
use bytes::Bytes;
use catalogue::Contents;
use client::admin::{Refusal, RefusalReason};
use client::backup::{
    Backup, BackupJob, BackupJobs, BackupKind, Catalogue, DeleteBackups, Deleted, JobState, Probe,
    RestoreJob, RestoreJobs, RestoreSource, RestoreTarget, StartBackup, StartRestore,
};
use full::{BackupFailure, Progress, Source, make_backup};
use install::{Installed, Origin};
use jobs::{Jobs, Named};
use manifest::{Manifest, ManifestError};
use objects::{ObjectError, Objects};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use undo::Own;

/// A file of settings, and what it says.
struct Configured {
    path: PathBuf,
    repository: Arc<Reloaded<Known>>,
}

/// What `-restore-config` names.
enum Other {
    Store(Configured),
    /// The settings of an import.
    Import(PathBuf),
}

/// How long a store that is away is waited for, if who asks for a backup does not say.
const WITHIN: Duration = Duration::from_secs(3600);
/// Between two attempts to make a backup.
const AGAIN: Duration = Duration::from_secs(5);

/// What a member does with backups.
pub struct Backups {
    consensus: Arc<Consensus>,
    own: Option<Configured>,
    other: Option<Other>,
    backups: Jobs<BackupWork>,
    restores: Jobs<RestoreWork>,
    /// Of the backup that undoes the last restore: the entry which that replaced, once it was looked up.
    replaced: Mutex<Option<(String, u64)>>,
    /// Something was deleted that the archive may have counted on.
    trimmed: Arc<AtomicBool>,
    /// Backups are made one at a time.
    turn: tokio::sync::Mutex<()>,
    /// And deleted.
    deletion: Arc<tokio::sync::Mutex<()>>,
    /// Where they are made, and the log is archived.
    background: Arc<Background>,
    /// Numbers of the archive.
    pub numbers: Arc<ArchiveNumbers>,
}

struct BackupWork {
    name: String,
    progress: Arc<Progress>,
    /// What it waits for, for people.
    waits: Mutex<Option<String>>,
    outcome: Mutex<Option<Result<Backup, String>>>,
}

struct RestoreWork {
    name: String,
    percent: AtomicU8,
    outcome: Mutex<Option<Result<Installed, String>>>,
}

fn state_of<T>(outcome: &Option<Result<T, String>>) -> JobState {
    match outcome {
        None => JobState::Running,
        Some(Ok(_)) => JobState::Succeeded,
        Some(Err(_)) => JobState::Failed,
    }
}

impl Named for BackupWork {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_running(&self) -> bool {
        self.outcome.lock().is_none()
    }
}

impl Named for RestoreWork {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_running(&self) -> bool {
        self.outcome.lock().is_none()
    }
}

impl BackupWork {
    fn report(&self) -> BackupJob {
        let outcome = self.outcome.lock();
        let state = state_of(&outcome);
        let progress_percent = if state == JobState::Succeeded { 100 } else { self.progress.percent() };
        let (backup, why) = split(&outcome);
        let message = why.or_else(|| self.waits.lock().clone().filter(|_| state == JobState::Running));
        BackupJob { name: self.name.clone(), state, progress_percent, backup, message }
    }
}

impl RestoreWork {
    fn report(&self) -> RestoreJob {
        let outcome = self.outcome.lock();
        let (installed, why) = split(&outcome);
        let (restored, cost) = installed.map_or((None, None), |done| (done.restored, done.cost));
        RestoreJob {
            name: self.name.clone(),
            state: state_of(&outcome),
            progress_percent: self.percent.load(Ordering::Relaxed),
            restored,
            message: why.or(cost),
        }
    }
}

fn split<T: Clone>(outcome: &Option<Result<T, String>>) -> (Option<T>, Option<String>) {
    match outcome {
        None => (None, None),
        Some(Ok(value)) => (Some(value.clone()), None),
        Some(Err(message)) => (None, Some(message.clone())),
    }
}

fn refusal(reason: RefusalReason, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into() }
}

fn objects_of(configured: &Configured, cluster_id: &str) -> Result<Objects, Refusal> {
    match &*configured.repository.current() {
        Ok(repository) => Ok(repository.cluster(cluster_id)),
        Err(missing) => Err(refusal(RefusalReason::Store, &missing.why)),
    }
}

fn refused_by_store(error: &dyn std::error::Error) -> Refusal {
    refusal(RefusalReason::Store, error.to_string())
}

/// Letters of a backup's name.
const LONGEST_NAME: usize = 253;
/// What comes before the name in its path, of numbers of twenty digits.
const LONGEST_POSITION: usize = 2 * (20 + 1);

/// Whether a backup may be named so: the name becomes part of a directory's in the store.
fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && is_directory(name)
}

/// Whether a backup may be in a directory of that name.
fn is_path(path: &str) -> bool {
    path.len() <= LONGEST_POSITION + LONGEST_NAME && is_directory(path)
}

fn is_directory(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !name.is_empty() && name.chars().all(allowed) && !name.starts_with('.')
}

fn not_a_name(name: &str) -> String {
    format!("{name:?}: a name has at most 253 lower-case letters, digits, - and .")
}

impl Backups {
    /// Reads the files of settings, if there are any, and archives in the background. An error names the flag.
    pub fn start(
        consensus: Arc<Consensus>,
        own: Option<PathBuf>,
        other: Option<PathBuf>,
        background: Arc<Background>,
    ) -> Result<Arc<Self>, (&'static str, String)> {
        let read = |what, flag, path: Option<PathBuf>| {
            path.map(|path| {
                let repository = Repository::follow(what, path.clone()).map_err(|error| (flag, error))?;
                match &*repository.current() {
                    Ok(repository) if repository.plaintext => tracing::warn!(
                        flag,
                        "the store is reached without TLS: whoever is in between can read along"
                    ),
                    Ok(_) => {}
                    Err(missing) => {
                        tracing::error!(flag, error = missing.why, "the store cannot be used yet");
                    }
                }
                Ok(Configured { path, repository })
            })
            .transpose()
        };
        let own = read("store of backups", "-backup-config", own)?;
        let other = match other {
            Some(path) if repository::is_import(&path) => {
                let settings = import::settings(&path);
                let (_, url) = settings.map_err(|error| ("-restore-config", error.to_string()))?;
                if url.scheme() == "http" {
                    tracing::warn!("what is imported comes without TLS: whoever is in between can change it");
                }
                Some(Other::Import(path))
            }
            path => read("store to restore from", "-restore-config", path)?.map(Other::Store),
        };
        install::tidy(&consensus.config().directory).map_err(|e| ("DATA_DIR", e.to_string()))?;
        let numbers = Arc::<ArchiveNumbers>::default();
        let trimmed = Arc::<AtomicBool>::default();
        if let Some(own) = &own {
            let repository = own.repository.clone();
            let (numbers, trimmed) = (numbers.clone(), trimmed.clone());
            let archiver = Archiver::new(consensus.clone(), repository, numbers, trimmed);
            background.spawn(archiver.run());
        }
        Ok(Arc::new(Self {
            consensus,
            own,
            other,
            backups: Jobs::default(),
            restores: Jobs::default(),
            replaced: Mutex::default(),
            trimmed,
            turn: tokio::sync::Mutex::default(),
            deletion: Arc::default(),
            background,
            numbers,
        }))
    }

    fn cluster_id(&self) -> Result<String, Refusal> {
        let cluster = self.consensus.identity().cluster();
        let none = || refusal(RefusalReason::NoLeader, "this member is of no cluster yet");
        Ok(cluster.ok_or_else(none)?.cluster_id)
    }

    fn own(&self) -> Result<&Configured, Refusal> {
        let none = || refusal(RefusalReason::NoStore, "this member has no -backup-config");
        self.own.as_ref().ok_or_else(none)
    }

    fn objects(&self) -> Result<Objects, Refusal> {
        objects_of(self.own()?, &self.cluster_id()?)
    }

    /// Begins a backup of this member's database.
    pub fn start_backup(self: &Arc<Self>, request: &StartBackup) -> Result<BackupJob, Refusal> {
        if !is_name(&request.name) {
            return Err(refusal(RefusalReason::Invalid, not_a_name(&request.name)));
        }
        if request.kind == BackupKind::Base {
            return Err(refusal(RefusalReason::Invalid, "base backups are made by the archive itself"));
        }
        let objects = self.objects()?;
        let (work, is_new) = self.backups.begin(
            &request.name,
            |work| matches!(*work.outcome.lock(), Some(Err(_))),
            || BackupWork {
                name: request.name.clone(),
                progress: Arc::default(),
                waits: Mutex::default(),
                outcome: Mutex::new(None),
            },
        );
        if is_new {
            let (backups, job, kind) = (self.clone(), work.clone(), request.kind);
            // A time too long for the clock is as good as the usual one.
            let within = request.within_seconds.map_or(WITHIN, Duration::from_secs);
            let until = Instant::now().checked_add(within).unwrap_or_else(|| Instant::now() + WITHIN);
            self.background.spawn(async move {
                let outcome = backups.back_up(&objects, &job, kind, until).await;
                match &outcome {
                    Ok(backup) => {
                        tracing::info!(path = backup.path, bytes = backup.stored_bytes, "made a backup")
                    }
                    Err(error) => tracing::error!(name = job.name, error, "a backup was not made"),
                }
                *job.outcome.lock() = Some(outcome);
            });
        }
        Ok(work.report())
    }

    /// Makes a backup. One that the store did not take, because it is away, is made anew once it is back: of a new state,
    /// because none is kept pinned for so long.
    async fn back_up(
        &self,
        objects: &Objects,
        job: &BackupWork,
        kind: BackupKind,
        until: Instant,
    ) -> Result<Backup, String> {
        loop {
            let turn = self.turn.lock().await;
            let attempt = self.try_to_back_up(objects, job, kind).await;
            drop(turn);
            let failure = match attempt {
                Ok(backup) => return Ok(backup),
                Err(failure) => failure,
            };
            if !failure.may_pass() || Instant::now() + AGAIN >= until {
                return Err(failure.to_string());
            }
            let waits = format!("waits for the store: {failure}");
            let said = job.waits.lock().replace(waits.clone());
            if said.as_ref() != Some(&waits) {
                tracing::warn!(name = job.name, error = %failure, "a backup waits for the store");
            }
            sleep(AGAIN).await;
        }
    }

    async fn try_to_back_up(
        &self,
        objects: &Objects,
        job: &BackupWork,
        kind: BackupKind,
    ) -> Result<Backup, BackupFailure> {
        // Another member may have made it, and gone before it could say so.
        match find(objects, &job.name).await {
            Ok(Some(made)) if made.backup.kind == kind => return Ok(made.backup),
            Ok(Some(made)) => return Err(BackupFailure::taken(made)),
            Ok(None) => {}
            // Credentials that only write are enough.
            Err(ManifestError::Objects(error)) if error.is_refusal() => {}
            Err(error) => return Err(error.into()),
        }
        *job.waits.lock() = None;
        let source =
            Source { store: self.consensus.store().clone(), member: self.consensus.config().name.clone() };
        let made = make_backup(&source, objects, &job.name, kind, job.progress.clone()).await;
        made.map(|manifest| manifest.backup)
    }

    /// What was asked of this member.
    pub fn backup_jobs(&self) -> BackupJobs {
        BackupJobs { jobs: self.backups.all().iter().map(|work| work.report()).collect() }
    }

    /// What is in the store.
    pub async fn catalogue(&self) -> Result<Catalogue, Refusal> {
        let contents = Contents::read_ranges_for_times(&self.objects()?).await;
        Ok(contents.map_err(|error| refused_by_store(&error))?.catalogue())
    }

    /// Deletes from the store. Once begun, it comes to its end whether somebody waits for it or not.
    pub async fn delete(&self, request: &DeleteBackups) -> Result<Deleted, Refusal> {
        let objects = self.objects()?;
        if let Some(path) = request.paths.iter().find(|path| !is_path(path)) {
            return Err(refusal(RefusalReason::Invalid, format!("{path:?} is no path of a backup")));
        }
        let before =
            request.archive_before.as_ref().map(|before| before.parse::<jiff::Timestamp>()).transpose();
        let before = before.map_err(|e| refusal(RefusalReason::Invalid, format!("archiveBefore: {e}")))?;
        let turn = self.deletion.clone().lock_owned().await;
        let (paths, trimmed) = (request.paths.clone(), self.trimmed.clone());
        let is_told = self.consensus.is_archived();
        let deleting = self.background.spawn(async move {
            let before_us = before.map(jiff::Timestamp::as_microsecond);
            let deleted = retention::delete(&objects, paths, before_us, is_told).await;
            // Also where it failed: some of it may be gone.
            if !matches!(deleted, Ok(0)) {
                trimmed.store(true, Ordering::Release);
            }
            drop(turn);
            deleted
        });
        let deleted = deleting.await.map_err(|error| refusal(RefusalReason::Internal, error.to_string()))?;
        Ok(Deleted { objects: deleted.map_err(|error| refused_by_store(&error))? })
    }

    /// Tries out the store.
    pub async fn probe(&self) -> Result<Probe, Refusal> {
        let objects = self.objects()?;
        let name = format!("probe/{}", self.consensus.identity().node_id());
        let content = Bytes::from_static(b"written, read and deleted to find out whether that works\n");
        let mut troubles = Vec::new();
        let mut tried = |outcome: Result<bool, ObjectError>| match outcome {
            Ok(true) => true,
            Ok(false) => {
                troubles.push("what was read is not what was written".to_owned());
                false
            }
            Err(error) => {
                troubles.push(error.to_string());
                false
            }
        };
        let writable = tried(objects.put(&name, content.clone()).await.map(|()| true));
        let (mut readable, mut deletable) = (false, false);
        if writable {
            readable = tried(objects.get(&name).await.map(|read| read == Some(content)))
                && tried(objects.list("probe").await.map(|listed| listed.iter().any(|(n, _)| *n == name)));
            deletable = tried(objects.delete(vec![name]).await.map(|_| true));
        }
        Ok(Probe {
            writable,
            readable,
            deletable,
            message: (!troubles.is_empty()).then(|| troubles.join("; ")),
        })
    }

    /// Begins to bring the cluster to another moment. Only on the leader.
    pub async fn start_restore(self: &Arc<Self>, request: StartRestore) -> Result<RestoreJob, Refusal> {
        let own_cluster = self.cluster_id()?;
        let cluster_id = request.cluster_id.clone().unwrap_or_else(|| own_cluster.clone());
        let store = |configured: &Configured| {
            let objects = objects_of(configured, &cluster_id)?;
            Ok::<_, Refusal>(Origin::Backups { config: configured.path.clone(), cluster_id, objects })
        };
        let origin = match (request.source, &self.other) {
            (RestoreSource::Own, _) => store(self.own()?)?,
            (RestoreSource::Other, Some(Other::Store(configured))) => store(configured)?,
            (RestoreSource::Other, Some(Other::Import(_)))
                if request.target != (RestoreTarget::Latest {}) =>
            {
                let message = "what is imported has one moment: target must be {\"latest\": {}}";
                return Err(refusal(RefusalReason::Invalid, message));
            }
            (RestoreSource::Other, Some(Other::Import(path))) => Origin::Import(path.clone()),
            (RestoreSource::Other, None) => {
                return Err(refusal(RefusalReason::NoStore, "this member has no -restore-config"));
            }
        };
        if !is_name(&request.name) {
            return Err(refusal(RefusalReason::Invalid, not_a_name(&request.name)));
        }
        let own = match &request.undo {
            // What undoes it goes there.
            Some(_) => Own { objects: Some(self.objects()?) },
            None => Own { objects: self.objects().ok() },
        };
        let is_confirmed = request.confirm_cluster_id.as_deref() == Some(&own_cluster);
        // Asked again, it is answered; only what is new needs more.
        let known = self.restores.all().into_iter().find(|work| work.name == request.name);
        if let Some(known) = known.filter(|work| !matches!(*work.outcome.lock(), Some(Err(_)))) {
            return Ok(known.report());
        }
        if !self.consensus.leads_by_quorum().await {
            return Err(refusal(RefusalReason::NoLeader, "this member does not lead"));
        }
        if let Some(mut done) = self.last_restore().await?.filter(|done| done.name == request.name) {
            self.find_replaced(&mut done).await;
            return Ok(done);
        }
        if !is_confirmed && self.holds_anything().await? {
            let message = "the database is not empty: confirmClusterId must be the id of this cluster";
            return Err(refusal(RefusalReason::NotConfirmed, message));
        }
        if self.restores.is_busy() {
            return Err(refusal(RefusalReason::ChangeInProgress, "another restore is under way"));
        }
        let (work, is_new) = self.restores.begin(
            &request.name,
            |work| matches!(*work.outcome.lock(), Some(Err(_))),
            || RestoreWork {
                name: request.name.clone(),
                percent: AtomicU8::new(0),
                outcome: Mutex::new(None),
            },
        );
        if is_new {
            let (consensus, job) = (self.consensus.clone(), work.clone());
            tokio::spawn(async move {
                let done =
                    install::install(&consensus, &origin, &request, &own, is_confirmed, &job.percent).await;
                match &done {
                    Ok(Installed { restored, .. }) => {
                        tracing::info!(?restored, "the cluster is at another moment");
                    }
                    Err(error) => tracing::error!(name = job.name, %error, "a restore failed"),
                }
                *job.outcome.lock() = Some(done.map_err(|error| error.to_string()));
            });
        }
        Ok(work.report())
    }

    /// Looks at the database file.
    async fn look<T: Send + 'static>(
        &self,
        look: impl Fn(&Path) -> Result<T, String> + Send + 'static,
    ) -> Result<T, Refusal> {
        let looked = self.consensus.store().look_aside(look).await;
        looked.map_err(|error| refusal(RefusalReason::Internal, error))
    }

    async fn holds_anything(&self) -> Result<bool, Refusal> {
        self.look(crate::store::holds_anything).await
    }

    /// The restore that the present state came by, if it did.
    async fn last_restore(&self) -> Result<Option<RestoreJob>, Refusal> {
        self.look(install::last).await
    }

    /// The mark of a restore was written before it was known which entry it would replace: what is kept for the undo ends
    /// with that one.
    async fn find_replaced(&self, job: &mut RestoreJob) {
        let Some(restored) = &mut job.restored else { return };
        let (Some(path), None) = (&restored.undo, restored.replaced_index) else { return };
        let known = self.replaced.lock().clone().filter(|(of, _)| of == path);
        if let Some((_, index)) = known {
            restored.replaced_index = Some(index);
            return;
        }
        let Ok(objects) = self.objects() else { return };
        match undo::last_of(&objects, path).await {
            Ok(last) => {
                restored.replaced_index = last;
                *self.replaced.lock() = last.map(|last| (path.clone(), last));
            }
            // It is asked for again.
            Err(error) => tracing::warn!(%error, path, "cannot look up what a restore replaced"),
        }
    }

    /// What was asked of this member, and the restore that the present state came by.
    pub async fn restore_jobs(&self) -> Result<RestoreJobs, Refusal> {
        let confirmed = self.consensus.leads_by_quorum().await;
        let mut jobs: Vec<RestoreJob> = self.restores.all().iter().map(|work| work.report()).collect();
        if let Some(mut last) = self.last_restore().await? {
            if jobs.iter().all(|job| job.name != last.name || job.state == JobState::Failed) {
                self.find_replaced(&mut last).await;
            }
            match jobs.iter_mut().find(|job| job.name == last.name) {
                // Who did it knows it best, unless it lost the lead before it heard that it is done.
                Some(known) if known.state == JobState::Failed => *known = last,
                Some(_) => {}
                None => jobs.insert(0, last),
            }
        }
        Ok(RestoreJobs { jobs, confirmed })
    }
}

/// A complete backup of that name that was asked for, whoever made it.
async fn find(objects: &Objects, name: &str) -> Result<Option<Manifest>, ManifestError> {
    for path in objects.directories("backups").await? {
        if full::name_of(&path) == Some(name)
            && let Some(manifest) = Manifest::read(objects, &path).await?
            && manifest.backup.kind != BackupKind::Base
        {
            return Ok(Some(manifest));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backup_that_may_be_made_may_be_deleted() {
        for (name, is_one) in [
            ("a".to_owned(), true),
            ("a-1.b".to_owned(), true),
            ("a".repeat(253), true),
            ("a".repeat(254), false),
            (String::new(), false),
            (".a".to_owned(), false),
            ("A".to_owned(), false),
            ("a/b".to_owned(), false),
        ] {
            assert_eq!(is_name(&name), is_one, "{name}");
            for (epoch, index) in [(1, 2), (u64::MAX, u64::MAX)] {
                assert!(!is_one || is_path(&full::path_of(epoch, index, &name)), "{epoch} {index} {name}");
            }
        }
        for path in ["", "..", "../x", "1-2-a/log", "1-2-A"] {
            assert!(!is_path(path), "{path}");
        }
        assert!(!is_path(&"1".repeat(1000)));
    }
}
