//! What brings the present back after a restore in place, made sure of before anything is replaced.
//!
//! A restore takes a while, and writes go on until the end of it. So the backup that is to undo it is not enough: what was
//! acknowledged after that would be lost. Entries from it on are kept beside it, in the archive's format, up to the last one
//! before the replacement ([`crate::raft::Keep`] says which that is), and go when it is deleted. They are not the archive's:
//! that may be off, begins anew over holes, and is deleted by its age.
//!
//! Where no backup is named the continuous archive has to reach that far, if there is one.

use super::catalogue::{Contents, kept_with};
use super::find;
use super::full::name_of;
use super::install::InstallError;
use super::manifest::{Manifest, ManifestError};
use super::objects::{ObjectError, Objects};
use super::replaced::{ReplacedError, keep, replacement_of};
use super::segment::{self, Segment};
use crate::identity::ClusterIdentity;
use crate::raft::{Consensus, Keep, LogHold};
use crate::store;
use client::backup::{BackupKind, RestoreTarget};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long nothing more of the backup may come once the other state is there.
const PIN: Duration = Duration::from_secs(600);
/// How long the archive may take to get to where the cluster is, while writes go on.
const ARCHIVED: Duration = Duration::from_secs(60);
/// How long entries are kept while writes go on, where the store takes no more than is written.
const CAUGHT_UP: Duration = Duration::from_secs(60);
/// Between two looks into the store.
const LOOK: Duration = Duration::from_millis(500);
/// So few bytes of entries are left for when writes wait.
const REST: usize = 1 << 20;

/// The present could not be made sure of: nothing was replaced.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The backup did not come.
    #[error(
        "the backup {name} that undoes the restore is not in the store, and nothing of it came for {within:?}; nothing was replaced"
    )]
    NoBackup {
        /// Its name.
        name: String,
        /// For how long nothing came.
        within: Duration,
    },
    /// What is kept beside it would not be found.
    #[error("the backup {0} cannot undo the restore: make one of kind Pin; nothing was replaced")]
    NotAPin(String),
    /// There is nowhere to look for it.
    #[error("this member has no store with the backup {0} that undoes the restore; nothing was replaced")]
    NoStore(String),
    /// It cannot be read.
    #[error("the backup that undoes the restore: {0}; nothing was replaced")]
    Backup(#[from] ManifestError),
    /// It is of another epoch: entries of this one do not go on from it.
    #[error(
        "the backup {0} that undoes the restore is of another epoch of the cluster; nothing was replaced"
    )]
    OtherEpoch(String),
    /// Entries are nowhere.
    #[error(
        "entries {from} to {to}, between the backup that undoes the restore and the present, are not in the log any more: make \
         another one; nothing was replaced"
    )]
    Purged {
        /// First missing entry.
        from: u64,
        /// Last missing entry.
        to: u64,
    },
    /// A database that an entry names is nowhere.
    #[error("the database that entry {0} loaded is not on this member any more; nothing was replaced")]
    Lost(u64),
    /// The archive does not reach the present.
    #[error("the archive does not reach the present within {within:?}: {why}; nothing was replaced")]
    NotArchived {
        /// For how long it was waited for.
        within: Duration,
        /// Why not.
        why: String,
    },
    /// The archive went on behind a hole meanwhile.
    #[error("entries are missing in the archive since a moment ago; nothing was replaced")]
    Hole,
    /// Somebody wrote meanwhile, and nobody agreed that it is replaced.
    #[error(
        "the database is not empty any more: confirmClusterId must be the id of this cluster; nothing was replaced"
    )]
    NotConfirmed,
    /// The store does not do it.
    #[error("{0}; nothing was replaced")]
    Objects(#[from] ObjectError),
    /// A database that an entry names was not kept.
    #[error("{0}; nothing was replaced")]
    Replaced(#[from] ReplacedError),
    /// The log or the database cannot be read.
    #[error("{0}; nothing was replaced")]
    Io(#[from] io::Error),
}

/// How the present comes back.
enum Way {
    /// From a backup, and from what is kept with it.
    Backup(Box<Kept>),
    /// From the archive.
    Archive(Archive),
    /// Not at all.
    Nothing,
}

struct Kept {
    objects: Objects,
    cluster: ClusterIdentity,
    base: Manifest,
    /// The first entry that is not kept yet.
    next: u64,
    /// Clock of the entry before, in microseconds since 1970.
    clock_us: i64,
    /// Whether the log lacked entries, which the archive has to have.
    has_gap: bool,
    /// Whether anything is kept beside the backup: by that it is known that it needs what the archive has before.
    has_own: bool,
    /// Whether it does.
    needs_archive: bool,
}

struct Archive {
    /// None: its store cannot be used yet.
    objects: Option<Objects>,
    epoch: u64,
    /// How many holes it had when it was looked at, if it was.
    holes: Option<u64>,
}

/// Makes sure of the present ([`Keep`]).
pub struct Keeper {
    consensus: Arc<Consensus>,
    way: Way,
    /// Whether what the database holds may be replaced.
    is_confirmed: bool,
    _hold: Option<LogHold>,
}

/// What a member knows of its own store.
pub struct Own {
    /// The cluster's objects; none if there is no store, or it cannot be used yet.
    pub objects: Option<Objects>,
}

impl Keeper {
    /// Waits for the backup `undo`, if one is named.
    pub async fn begin(
        consensus: &Arc<Consensus>,
        own: &Own,
        undo: Option<&str>,
        is_confirmed: bool,
        hold: Option<LogHold>,
    ) -> Result<Self, KeepError> {
        let cluster = consensus.identity().cluster();
        let way = match (undo, &own.objects, cluster) {
            (Some(name), Some(objects), Some(cluster)) => {
                let base = await_backup(objects, name).await?;
                if base.backup.kind != BackupKind::Pin {
                    return Err(KeepError::NotAPin(name.to_owned()));
                }
                if base.backup.epoch != cluster.epoch {
                    return Err(KeepError::OtherEpoch(name.to_owned()));
                }
                Way::Backup(Box::new(Kept::after(base, objects.clone(), cluster)))
            }
            (Some(name), ..) => {
                return Err(KeepError::NoStore(name.to_owned()));
            }
            (None, objects, Some(cluster)) if consensus.is_archived() => {
                Way::Archive(Archive { objects: objects.clone(), epoch: cluster.epoch, holes: None })
            }
            (None, ..) => Way::Nothing,
        };
        Ok(Self { consensus: consensus.clone(), way, is_confirmed, _hold: hold })
    }

    /// Path of the backup from which the present comes back, with what is kept beside it.
    pub fn undo(&self) -> Option<String> {
        match &self.way {
            Way::Backup(kept) => Some(kept.base.backup.path.clone()),
            Way::Archive(_) | Way::Nothing => None,
        }
    }

    /// Whether something brings the present back.
    pub fn brings_back(&self) -> bool {
        !matches!(self.way, Way::Nothing)
    }

    /// Whether there is anything to lose.
    pub async fn holds_anything(&self) -> Result<bool, KeepError> {
        let looked = self.consensus.store().look_aside(store::holds_anything).await;
        Ok(looked.map_err(io::Error::other)?)
    }
}

impl Keep for Keeper {
    type Error = InstallError;

    async fn catch_up(&mut self) -> Result<(), InstallError> {
        let is_empty = !self.holds_anything().await?;
        match &mut self.way {
            Way::Backup(kept) => kept.catch_up(&self.consensus).await?,
            Way::Archive(_) if is_empty => {}
            Way::Archive(archive) => archive.catch_up(&self.consensus).await?,
            Way::Nothing => {}
        }
        Ok(())
    }

    async fn keep(&mut self, last: u64) -> Result<(), InstallError> {
        let is_empty = !self.holds_anything().await?;
        if !is_empty && !self.is_confirmed {
            return Err(KeepError::NotConfirmed.into());
        }
        match &mut self.way {
            Way::Backup(kept) => kept.keep(&self.consensus, last).await?,
            Way::Archive(_) if is_empty => {}
            Way::Archive(archive) => archive.keep(&self.consensus, last).await?,
            Way::Nothing => {}
        }
        Ok(())
    }
}

impl Kept {
    /// Of which nothing but the backup is there yet.
    fn after(base: Manifest, objects: Objects, cluster: ClusterIdentity) -> Self {
        let (next, clock_us) = (base.backup.index + 1, base.entry_time_us);
        let (has_gap, has_own, needs_archive) = (false, false, false);
        Self { objects, cluster, base, next, clock_us, has_gap, has_own, needs_archive }
    }

    async fn catch_up(&mut self, consensus: &Arc<Consensus>) -> Result<(), KeepError> {
        let until = Instant::now() + CAUGHT_UP;
        let mut before = usize::MAX;
        loop {
            let bytes = self.keep_some(consensus, u64::MAX).await?;
            // A full piece is of what was there before. Where as much is written as the store takes, this comes no nearer.
            let is_nearer = bytes >= segment::BYTES || bytes < before;
            if bytes < REST || !is_nearer || Instant::now() >= until {
                break;
            }
            before = bytes;
        }
        if self.has_gap {
            // Purged is only what the archive has, if there is one; whether what it has goes on from the backup, it says.
            let contents = Contents::read_ranges(&self.objects, Some(self.cluster.epoch)).await?;
            let reached = self.next - 1;
            if contents.reach(&self.base.backup) < reached {
                return Err(KeepError::Purged { from: self.base.backup.index + 1, to: reached });
            }
            self.has_gap = false;
        }
        Ok(())
    }

    async fn keep(&mut self, consensus: &Arc<Consensus>, last: u64) -> Result<(), KeepError> {
        let from = self.next;
        while self.next <= last {
            self.keep_some(consensus, last).await?;
        }
        // The log is not purged meanwhile, and what is not looked up in the archive is not known to be there.
        if self.has_gap {
            return Err(KeepError::Purged { from, to: last });
        }
        // Retention keeps of the archive what is before entries that are kept.
        if self.needs_archive && !self.has_own {
            return Err(KeepError::Purged { from: self.base.backup.index + 1, to: last });
        }
        Ok(())
    }

    /// Keeps some entries up to `last`; returns how many bytes.
    async fn keep_some(&mut self, consensus: &Arc<Consensus>, last: u64) -> Result<usize, KeepError> {
        // First: what is applied meanwhile is not missing.
        let applied = consensus.store().applied().index().map_or(0, |index| index + 1);
        let (reader, next) = (consensus.clone(), self.next);
        let read = tokio::task::spawn_blocking(move || reader.entries_applied(next, segment::BYTES));
        let mut entries = read.await.map_err(io::Error::from)??;
        // The log has what is present: without what was purged, or came with another member's database.
        let first = entries.first().map_or(applied, |entry| entry.log_id.index);
        if first > self.next {
            if !consensus.is_archived() {
                return Err(KeepError::Purged { from: self.next, to: first - 1 });
            }
            (self.has_gap, self.needs_archive) = (true, true);
            self.next = first;
        }
        entries.retain(|entry| entry.log_id.index <= last);
        if entries.is_empty() {
            return Ok(0);
        }
        for entry in &entries {
            if let Some(replacement) = replacement_of(entry)
                && !keep(&self.objects, consensus.store().staging(), replacement).await?
            {
                return Err(KeepError::Lost(entry.log_id.index));
            }
        }
        let bytes = entries.iter().map(segment::size_of).sum();
        let segment = Segment::of(entries, &self.cluster, consensus.store());
        let name = segment.name(self.clock_us, Some(self.base.backup.path.clone()));
        self.objects.put_sealed(&name.object(), segment.encode()).await?;
        (self.next, self.clock_us, self.has_own) = (name.last + 1, name.time_us, true);
        Ok(bytes)
    }
}

impl Archive {
    fn late(consensus: &Consensus, why: &dyn std::fmt::Display) -> KeepError {
        let said = consensus.archive_report().and_then(|report| report.message);
        let why = said.unwrap_or_else(|| why.to_string());
        KeepError::NotArchived { within: ARCHIVED, why }
    }

    /// Waits until the archive reaches the present, as its store has it.
    async fn catch_up(&mut self, consensus: &Arc<Consensus>) -> Result<(), KeepError> {
        let Some(objects) = &self.objects else {
            return Err(Self::late(consensus, &"its store cannot be used"));
        };
        let until = Instant::now() + ARCHIVED;
        loop {
            self.holes = Some(consensus.archive_holes());
            let present = consensus.store().applied().index().unwrap_or(0);
            let left = until.saturating_duration_since(Instant::now());
            if timeout(left, consensus.until_archived(present)).await.is_err() {
                return Err(Self::late(consensus, &"it is behind"));
            }
            // A base backup may be in the making.
            let contents = Contents::read_ranges(objects, Some(self.epoch)).await?;
            match contents.choose(&RestoreTarget::Index(present)) {
                Ok(_) => return Ok(()),
                Err(why) if Instant::now() >= until => return Err(Self::late(consensus, &why)),
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    async fn keep(&mut self, consensus: &Arc<Consensus>, last: u64) -> Result<(), KeepError> {
        // Whoever asked bounds it.
        consensus.until_archived(last).await;
        // It goes on from where it was looked at, unless it passed over something since.
        match Some(consensus.archive_holes()) == self.holes {
            true => Ok(()),
            false => Err(KeepError::Hole),
        }
    }
}

/// Waits for a backup that may be in the making, as long as more of it comes.
async fn await_backup(objects: &Objects, name: &str) -> Result<Manifest, KeepError> {
    let (mut parts, mut until) = (0, Instant::now() + PIN);
    loop {
        if let Some(manifest) = find(objects, name).await? {
            return Ok(manifest);
        }
        let present = count_parts(objects, name).await?;
        if present != parts {
            (parts, until) = (present, Instant::now() + PIN);
        }
        if Instant::now() >= until {
            return Err(KeepError::NoBackup { name: name.to_owned(), within: PIN });
        }
        sleep(LOOK).await;
    }
}

/// How many objects there are of a backup, or of attempts to make it.
async fn count_parts(objects: &Objects, name: &str) -> Result<usize, ObjectError> {
    let mut parts = 0;
    for path in objects.directories("backups").await?.iter().filter(|path| name_of(path) == Some(name)) {
        parts += objects.list(&format!("backups/{path}")).await?.len();
    }
    Ok(parts)
}

/// The last entry that comes back from the backup at `path` and what is kept with it; none if it is not there any more.
pub async fn last_of(objects: &Objects, path: &str) -> Result<Option<u64>, KeepError> {
    let Some(manifest) = Manifest::read(objects, path).await? else { return Ok(None) };
    let kept = kept_with(objects, &manifest.backup).await?;
    Ok(kept.iter().map(|segment| segment.last).max().or(Some(manifest.backup.index)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::archive::tests::Member;
    use super::super::retention;
    use super::*;
    use client::backup::ArchiveState;

    /// The log has nothing any more of what came after the backup: the archive has, and keeps it for the undo.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_undo_that_needs_the_archive_has_it_after_a_trimming_or_is_refused() {
        let mut member = Member::start(crate::raft::LOG_FOR_ARCHIVE).await;
        let mut at = member.position().await;
        member.until(&mut at, ArchiveState::OnTarget).await;
        let base = member.make("undo", BackupKind::Pin).await;
        let path = base.backup.path.clone();
        for _ in 0..5 {
            member.insert(1).await;
            member.go_on(&mut at).await;
        }
        assert!(member.purge().await);
        let mut kept = Kept::after(base, member.objects.clone(), member.cluster.clone());
        kept.catch_up(&member.consensus).await.unwrap();
        let refused = kept.keep(&member.consensus, at.next - 1).await.unwrap_err();
        assert!(matches!(refused, KeepError::Purged { .. }), "{refused}");
        let last = member.insert(1).await;
        kept.catch_up(&member.consensus).await.unwrap();
        kept.keep(&member.consensus, last).await.unwrap();

        // What is archived goes on, and all that only serves earlier moments goes.
        member.insert(1).await;
        member.go_on(&mut at).await;
        let later = member.make("base-later", BackupKind::Base).await;
        let before = later.entry_time_us + 1;
        let count = async |member: &Member| member.contents().await.segments.len();
        let segments = count(&member).await;
        retention::delete(&member.objects, Vec::new(), Some(before), false).await.unwrap();
        assert!(count(&member).await < segments, "nothing went");
        let contents = member.contents().await;
        let choice = contents.choose(&RestoreTarget::Index(last)).unwrap();
        assert_eq!(choice.manifest.backup.path, path);
        // It goes with the undo.
        retention::delete(&member.objects, vec![path], Some(before), false).await.unwrap();
        assert_eq!(count(&member).await, 0);
        member.consensus.stop().await.unwrap();
    }
}
