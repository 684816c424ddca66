//! What is in the store, and what of it brings back which moment.

use super::archived::archived;
use super::full::position_of;
use super::manifest::{Manifest, ManifestError};
use super::objects::{ObjectError, Objects};
use super::ranges::Ranges;
use super::segment::{self, SegmentName};
use super::until::ArchivedUntil;
use client::backup::{Backup, BackupKind, Catalogue, DamagedBackup, KnownUntil, RestoreTarget, Window};
use client::not_reachable::NotReachable;
use futures::StreamExt as _;
use object_store::ObjectMeta;
use std::collections::BTreeMap;

/// Manifests read at once.
const AT_ONCE: usize = 16;

/// Backups and segments of one cluster.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Complete backups, by epoch and index.
    pub manifests: Vec<Manifest>,
    /// Backups whose manifest is not what was written, by epoch and index.
    pub damaged: Vec<DamagedBackup>,
    /// Segments, by epoch and first entry.
    pub segments: Vec<SegmentName>,
    /// Up to when everything of an epoch is archived, where that was read and is said.
    pub until: BTreeMap<u64, ArchivedUntil>,
}

/// What a restore reads, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backup that it begins with.
    pub manifest: Manifest,
    /// Segments to replay.
    pub segments: Vec<SegmentName>,
    /// Where to stop.
    pub until: Until,
    /// What is to be known of the state that comes back.
    pub warning: Option<String>,
}

impl Choice {
    fn new(manifest: &Manifest, segments: Vec<SegmentName>, until: Until) -> Self {
        Self { manifest: manifest.clone(), segments, until, warning: None }
    }

    /// Whether the object `name` is of the backup, or one of the segments.
    pub fn reads(&self, name: &str) -> bool {
        let directory = format!("backups/{}/", self.manifest.backup.path);
        name.starts_with(&directory) || self.segments.iter().any(|segment| segment.object() == name)
    }
}

/// Where to stop replaying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After the last segment.
    End,
    /// After this entry.
    Index(u64),
    /// Before the first entry that is later than this, in microseconds since 1970.
    Time(i64),
}

/// Entries that an archive lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Which, for people.
    pub message: String,
    /// Clock of the last moment before it that can be reached, in microseconds since 1970; 0 if none can.
    pub reached_us: i64,
}

/// Segments that go on without a hole after entry `from`.
struct Chain {
    segments: Vec<SegmentName>,
    /// Last entry.
    last: u64,
    /// First entry after the hole that ends it, if more comes.
    resumes: Option<u64>,
}

impl Contents {
    /// Reads what is there. With `epoch` only of that epoch.
    pub async fn read(objects: &Objects, epoch: Option<u64>) -> Result<Self, ObjectError> {
        let mut contents = Self::read_backups(objects, epoch).await?;
        let take = |all: &mut Vec<SegmentName>, name: &str, meta: &ObjectMeta| {
            all.extend(SegmentName::parse_listed(name, meta.size));
        };
        contents.segments.extend(objects.gather(&archive_of(epoch), None, take).await?);
        contents.segments.sort();
        Ok(contents)
    }

    /// The same for who restores nothing: segments of the archive that go on from each other are one, so that memory does not
    /// grow with their number.
    pub async fn read_ranges(objects: &Objects, epoch: Option<u64>) -> Result<Self, ObjectError> {
        let mut contents = Self::read_backups(objects, epoch).await?;
        let ranges = Ranges::read(objects, &archive_of(epoch)).await?;
        contents.segments.extend(ranges.into_segments());
        contents.segments.sort();
        Ok(contents)
    }

    /// The same without the archive.
    pub async fn read_backups(objects: &Objects, epoch: Option<u64>) -> Result<Self, ObjectError> {
        let prefix = epoch.map(|epoch| format!("{epoch:08}-"));
        let mut paths = objects.directories("backups").await?;
        paths.retain(|path| prefix.as_ref().is_none_or(|prefix| path.starts_with(prefix)));
        let mut contents = Self::default();
        let mut manifests = futures::stream::iter(paths)
            .map(|path| async move {
                let read = Manifest::read(objects, &path).await;
                (path, read)
            })
            .buffered(AT_ONCE);
        while let Some((path, read)) = manifests.next().await {
            match read {
                Ok(manifest) => contents.manifests.extend(manifest),
                // One of them must not hide the others.
                Err(ManifestError::Damaged { what, .. }) => {
                    contents.damaged.push(DamagedBackup { path, message: what });
                }
                Err(ManifestError::Objects(error)) => return Err(error),
            }
        }
        for manifest in &contents.manifests {
            // Only what undoes something has entries of its own.
            if manifest.backup.kind == BackupKind::Pin {
                contents.segments.extend(kept_with(objects, &manifest.backup).await?);
            }
        }
        contents.manifests.sort_by_key(|m| (m.backup.epoch, m.backup.index));
        contents.segments.sort();
        Ok(contents)
    }

    /// What is there, and up to when everything is archived: what a time is chosen by.
    pub async fn read_for_times(objects: &Objects) -> Result<Self, ObjectError> {
        // First: what is archived meanwhile is then among the segments.
        let until = read_until(objects).await?;
        Ok(Self { until, ..Self::read(objects, None).await? })
    }

    /// The same for who restores nothing.
    pub async fn read_ranges_for_times(objects: &Objects) -> Result<Self, ObjectError> {
        let until = read_until(objects).await?;
        Ok(Self { until, ..Self::read_ranges(objects, None).await? })
    }

    /// What it tells to others.
    pub fn catalogue(&self) -> Catalogue {
        Catalogue {
            backups: self.manifests.iter().map(|manifest| manifest.backup.clone()).collect(),
            damaged: self.damaged.clone(),
            windows: self.windows(),
            archived: archived(&self.segments),
            known: self.until.iter().map(known).collect(),
        }
    }

    /// That no backup which cannot be read is of a later entry than the last one that is reached.
    fn check_later(&self, epoch: u64, last: u64) -> Result<(), NotReachable> {
        let is_later = |damaged: &&DamagedBackup| position_of(&damaged.path) > Some((epoch, last));
        match self.damaged.iter().rfind(is_later) {
            Some(DamagedBackup { path, message }) => {
                Err(NotReachable::NewerDamaged { path: path.clone(), message: message.clone(), last })
            }
            None => Ok(()),
        }
    }

    /// That nothing was written between the end of a chain and `time`, in microseconds since 1970, as far as the archive
    /// knows; a sentence, if nobody wrote down what it knows.
    fn check_known(&self, base: &Manifest, chain: &Chain, time: i64) -> Result<Option<String>, NotReachable> {
        let said = self.until.get(&base.backup.epoch);
        let last_us = chain.segments.last().map_or(base.moment_us().max(base.made_us()), |s| s.time_us);
        // What is said holds of an archive that goes on that far.
        let said_us = said.filter(|said| said.index <= chain.last).map_or(0, |said| said.time_us);
        let (until, wanted) = (time_text(last_us.max(said_us)), time_text(time));
        match said {
            _ if time <= last_us.max(said_us) => Ok(None),
            Some(_) => Err(NotReachable::NotYet { until, wanted }),
            None => Ok(Some(format!(
                "what is in the store ends at {until}, before {wanted}, the time that was asked for: it does not say \
                 whether anything was written in between"
            ))),
        }
    }

    /// Of the archive and of what is kept with the backup itself.
    fn chain(&self, base: &Backup) -> Chain {
        let mut chain = Chain { segments: Vec::new(), last: base.index, resumes: None };
        let is_next = |s: &&SegmentName| {
            s.epoch == base.epoch && s.last > base.index && s.of.as_ref().is_none_or(|of| *of == base.path)
        };
        for segment in self.segments.iter().filter(is_next) {
            if segment.first > chain.last + 1 {
                chain.resumes = Some(segment.first);
                break;
            }
            if segment.last > chain.last {
                chain.last = segment.last;
                chain.segments.push(segment.clone());
            }
        }
        chain
    }

    /// The last entry that is reached from a backup without a hole.
    pub fn reach(&self, base: &Backup) -> u64 {
        self.chain(base).last
    }

    /// Ranges of entries that can be reached, oldest first.
    pub fn windows(&self) -> Vec<Window> {
        let mut windows: Vec<Window> = Vec::new();
        for manifest in &self.manifests {
            let backup = &manifest.backup;
            let known = windows.last().filter(|w| w.epoch == backup.epoch && w.last_index >= backup.index);
            if known.is_some() {
                continue;
            }
            let chain = self.chain(backup);
            let latest_us = match chain.segments.last() {
                Some(segment) => segment.time_us,
                // The archive's own backup, after which nothing has happened yet.
                None if backup.kind == BackupKind::Base => manifest.moment_us(),
                None => continue,
            };
            windows.push(Window {
                epoch: backup.epoch,
                first_index: backup.index,
                last_index: chain.last,
                earliest: time_text(manifest.moment_us()),
                latest: time_text(latest_us),
            });
        }
        windows
    }

    /// Last entry of an epoch's archive; none if it has none.
    pub fn last_archived(&self, epoch: u64) -> Option<u64> {
        self.segments.iter().filter(|s| s.epoch == epoch && s.of.is_none()).map(|s| s.last).max()
    }

    /// The first entry from which on an epoch's archive lacks nothing before entry `next`; `next` itself if it lacks the one
    /// before.
    pub fn unbroken_from(&self, epoch: u64, next: u64) -> u64 {
        let mut segments: Vec<&SegmentName> =
            self.segments.iter().filter(|s| s.epoch == epoch && s.of.is_none()).collect();
        segments.sort_by_key(|segment| std::cmp::Reverse(segment.last));
        segments.into_iter().fold(
            next,
            |from, segment| {
                if segment.last + 1 >= from { from.min(segment.first) } else { from }
            },
        )
    }

    /// What an epoch's archive lacks between the newest backup before entry `next` and that entry; none if it lacks nothing,
    /// or has no such backup.
    pub fn hole_before(&self, epoch: u64, next: u64) -> Option<Hole> {
        let base = self.newest_base(epoch, next.checked_sub(1)?)?;
        let chain = self.chain(&base.backup);
        let (from, to) = (chain.last + 1, self.unbroken_from(epoch, next).saturating_sub(1));
        let reached_us = chain.segments.last().map_or(base.moment_us(), |segment| segment.time_us);
        let message = format!("entries {from} to {to} are missing in the archive");
        (from <= to).then_some(Hole { message, reached_us })
    }

    /// The oldest backup of an epoch from which the archive goes on without a hole to entry `last`.
    pub fn first_base(&self, epoch: u64, last: u64) -> Option<&Manifest> {
        self.manifests
            .iter()
            .filter(|m| m.backup.epoch == epoch && m.backup.index <= last)
            .find(|m| self.chain(&m.backup).last >= last)
    }

    /// The newest backup of an epoch that is not after entry `last`.
    pub fn newest_base(&self, epoch: u64, last: u64) -> Option<&Manifest> {
        self.manifests.iter().rev().find(|m| m.backup.epoch == epoch && m.backup.index <= last)
    }

    /// What brings back `target`.
    pub fn choose(&self, target: &RestoreTarget) -> Result<Choice, NotReachable> {
        match target {
            RestoreTarget::Backup(path) => {
                let manifest = self.named(path)?;
                let until = Until::Index(manifest.backup.index);
                Ok(Choice::new(manifest, Vec::new(), until))
            }
            RestoreTarget::Latest {} => {
                let newest = self.manifests.last().ok_or_else(|| self.no_backup())?;
                let chain = self.chain(&newest.backup);
                if let Some(resumes) = chain.resumes {
                    return Err(NotReachable::hole(chain.last, resumes));
                }
                self.check_later(newest.backup.epoch, chain.last)?;
                Ok(Choice::new(newest, chain.segments, Until::End))
            }
            RestoreTarget::Index(wanted) => {
                // An epoch before the last one may reach further: what only lost members had, and the archive.
                let is_early = |manifest: &Manifest| manifest.backup.index <= *wanted;
                let reaches =
                    |manifest: &Manifest| is_early(manifest) && self.chain(&manifest.backup).last >= *wanted;
                let manifest = self.before(reaches).or_else(|_| self.before(is_early))?;
                let chain = self.chain(&manifest.backup);
                if chain.last < *wanted {
                    return Err(match chain.resumes {
                        Some(resumes) => NotReachable::hole(chain.last, resumes),
                        None => match self.check_later(manifest.backup.epoch, chain.last) {
                            Err(damaged) => damaged,
                            Ok(()) => NotReachable::TooLate { last: chain.last, wanted: *wanted },
                        },
                    });
                }
                let is_needed = |s: &SegmentName| s.first <= *wanted && *wanted > manifest.backup.index;
                let segments = chain.segments.into_iter().filter(is_needed).collect();
                Ok(Choice::new(manifest, segments, Until::Index(*wanted)))
            }
            RestoreTarget::Time(text) => {
                let time = text.parse::<jiff::Timestamp>();
                let time = time.map_err(|_| NotReachable::NotATime(text.clone()))?.as_microsecond();
                // Another epoch begins with what a survivor had, whose last entry may be older than what was archived of
                // the epoch before. At that time it was not yet.
                let first = self.manifests.first().map(|manifest| manifest.backup.epoch);
                let manifest = self.before(|manifest| {
                    let had_begun = Some(manifest.backup.epoch) == first || manifest.made_us() <= time;
                    manifest.entry_time_us <= time && had_begun
                })?;
                let mut chain = self.chain(&manifest.backup);
                let mut warning = None;
                // The first one that ends later holds where to stop; without it a hole may hide entries.
                let end = chain.segments.iter().position(|segment| segment.time_us > time);
                match (end, chain.resumes) {
                    (Some(end), _) => chain.segments.truncate(end + 1),
                    (None, Some(resumes)) => return Err(NotReachable::hole(chain.last, resumes)),
                    (None, None) => {
                        self.check_later(manifest.backup.epoch, chain.last)?;
                        warning = self.check_known(manifest, &chain, time)?;
                    }
                }
                Ok(Choice { warning, ..Choice::new(manifest, chain.segments, Until::Time(time)) })
            }
        }
    }

    /// What brings back the backup at `path` and all that can be reached from it: to the end of the archive, or to its first
    /// hole, which the archive's own backups bridge.
    pub fn choose_all_after(&self, path: &str) -> Result<Choice, NotReachable> {
        let manifest = self.named(path)?;
        let segments = self.chain(&manifest.backup).segments;
        Ok(Choice::new(manifest, segments, Until::End))
    }

    fn named(&self, path: &str) -> Result<&Manifest, NotReachable> {
        if let Some(damaged) = self.damaged.iter().find(|damaged| damaged.path == path) {
            return Err(damaged.into());
        }
        let found = self.manifests.iter().find(|manifest| manifest.backup.path == path);
        found.ok_or_else(|| NotReachable::NoSuchBackup(path.to_owned()))
    }

    /// Why there is nothing to begin with.
    fn no_backup(&self) -> NotReachable {
        self.damaged.last().map_or(NotReachable::NoBackup, NotReachable::from)
    }

    fn before(&self, is_early: impl Fn(&Manifest) -> bool) -> Result<&Manifest, NotReachable> {
        let first = self.manifests.first().ok_or_else(|| self.no_backup())?;
        self.manifests.iter().rev().find(|manifest| is_early(manifest)).ok_or_else(|| {
            NotReachable::TooEarly { index: first.backup.index, time: time_text(first.moment_us()) }
        })
    }
}

/// Directory of the archive, or of an epoch's.
fn archive_of(epoch: Option<u64>) -> String {
    epoch.map_or_else(|| segment::DIRECTORY.to_owned(), segment::directory)
}

async fn read_until(objects: &Objects) -> Result<BTreeMap<u64, ArchivedUntil>, ObjectError> {
    let epochs = objects.directories(segment::DIRECTORY).await?;
    let mut until = BTreeMap::new();
    for epoch in epochs.iter().filter_map(|epoch| epoch.parse().ok()) {
        until.extend(ArchivedUntil::read(objects, epoch).await?.map(|said| (epoch, said)));
    }
    Ok(until)
}

fn known((epoch, said): (&u64, &ArchivedUntil)) -> KnownUntil {
    KnownUntil { epoch: *epoch, index: said.index, time: time_text(said.time_us) }
}

/// Segments that are kept with a backup, in order.
pub async fn kept_with(objects: &Objects, backup: &Backup) -> Result<Vec<SegmentName>, ObjectError> {
    let take = |all: &mut Vec<SegmentName>, name: &str, meta: &ObjectMeta| {
        let segment = SegmentName::parse_of(&backup.path, backup.epoch, name);
        all.extend(segment.map(|segment| SegmentName { stored_bytes: meta.size, ..segment }));
    };
    let mut kept = objects.gather(&segment::directory_of(&backup.path), None, take).await?;
    kept.sort();
    Ok(kept)
}

/// A time in microseconds since 1970 as text.
pub fn time_text(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
pub(super) mod tests;
