//! Brings back the state after an entry: a backup, then the archived entries after it, replayed by what applies entries on
//! members. Page checksums that the cluster agreed on are compared on the way, so that what comes out is the state that the
//! members had, or nothing.

use super::catalogue::{Choice, Until, time_text};
use super::coming::{Coming, SegmentError};
use super::objects::{ObjectError, Objects};
use super::parts::{FetchError, fetch_parts};
use super::replaced::{ReplacedError, bring_back, replacement_of};
use super::segment::{self, Segment};
use crate::store::{self, Applied, Entry, Loaded, LocalFailure, Seed, Shelf, Store};
use client::backup::Restored;
use client::not_reachable::NotReachable;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Entries applied at once.
const BATCH: usize = 256;
/// Between two looks at what another thread does.
const LOOK: Duration = Duration::from_millis(10);
/// How long a checkpoint may wait for the thread that reads the pages.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// The state did not come back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Nothing in the store brings it back.
    #[error(transparent)]
    NotReachable(#[from] NotReachable),
    /// An object cannot be read.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The backup's file did not come out of the store.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A database that an entry names did not come out of the store.
    #[error(transparent)]
    Replaced(#[from] ReplacedError),
    /// The state could not be worked on here.
    #[error(transparent)]
    Local(#[from] LocalFailure),
    /// A file could not be written.
    #[error("restore into {path}: {source}")]
    Io {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A page checksum is not the cluster's.
    #[error(
        "after entry {index} the page checksum is {found:016x} and the cluster had {expected:016x}: the state is not the \
         one that was backed up"
    )]
    Checksum {
        /// The entry.
        index: u64,
        /// Of what was restored.
        found: u64,
        /// The cluster's.
        expected: u64,
    },
    /// The file is damaged.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// A segment cannot be read.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Entries were replayed, and the one that was asked for did not come.
    #[error("the archive ended with entry {last}, before entry {wanted}")]
    Short {
        /// The last one.
        last: u64,
        /// The one that was asked for.
        wanted: u64,
    },
}

impl RestoreError {
    /// What the store has to do with it.
    pub fn object_error(&self) -> Option<&ObjectError> {
        match self {
            Self::Objects(error)
            | Self::Segment(SegmentError::Objects(error))
            | Self::Fetch(FetchError::Objects(error))
            | Self::Replaced(ReplacedError::Objects(error))
            | Self::Replaced(ReplacedError::Fetch(FetchError::Objects(error))) => Some(error),
            _ => None,
        }
    }
}

/// A state that came back.
pub struct Rebuilt {
    /// The database file: one of ours, with the internal table.
    pub database: PathBuf,
    /// What is told of it.
    pub restored: Restored,
    /// By which extensions entries after it would be executed.
    pub extensions: Arc<Loaded>,
}

/// Brings back what was chosen in `directory`, which must hold no database, by the extensions on `shelf`; tells `progress` in
/// hundredths.
pub async fn rebuild(
    objects: &Objects,
    choice: &Choice,
    directory: &Path,
    shelf: Shelf,
    progress: &(impl Fn(u8) + Sync),
) -> Result<Rebuilt, RestoreError> {
    let begun = Instant::now();
    let entries: u64 = choice.segments.iter().map(|segment| segment.last - segment.first + 1).sum();
    // Of the whole work, the part that fetching the file is; by experience an entry costs about a page.
    let size = choice.manifest.parts.size_bytes;
    let fetching = size as f64 / (size + 4096 * entries).max(1) as f64;
    fetch_base(objects, choice, directory, |bytes| {
        progress((fetching * 100.0 * bytes as f64 / size.max(1) as f64) as u8);
    })
    .await?;
    let replay = Replay::begin(directory, shelf, choice).await?;
    let replay = replay
        .run(objects, choice, |done| {
            let share = done as f64 / entries.max(1) as f64;
            progress((100.0 * (fetching + (1.0 - fetching) * share)) as u8);
        })
        .await?;
    let rebuilt = replay.finish(choice, begun).await?;
    progress(100);
    Ok(rebuilt)
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> RestoreError + '_ {
    move |source| RestoreError::Io { path: path.display().to_string(), source }
}

async fn fetch_base(
    objects: &Objects,
    choice: &Choice,
    directory: &Path,
    fetched: impl Fn(u64),
) -> Result<(), RestoreError> {
    let seed = Seed::new(directory).map_err(io_at(directory))?;
    let from = format!("backups/{}", choice.manifest.backup.path);
    fetch_parts(objects, &from, &choice.manifest.parts, &seed.path(), fetched).await?;
    seed.finish().map_err(io_at(directory))
}

/// Entries on their way into a store.
struct Replay {
    directory: PathBuf,
    shelf: Shelf,
    store: Store,
    foreign_keys: bool,
    replayed: u64,
    checked_index: Option<u64>,
}

/// A store that checks nothing by itself after its pages have been read once.
fn open(directory: &Path, foreign_keys: bool, shelf: &Shelf) -> Result<Store, LocalFailure> {
    Store::open_with(directory, foreign_keys, Duration::MAX, shelf.clone())
}

impl Replay {
    /// Opens the backup's file and compares it with what the cluster had.
    async fn begin(directory: &Path, shelf: Shelf, choice: &Choice) -> Result<Self, RestoreError> {
        let manifest = &choice.manifest;
        let foreign_keys = manifest.foreign_keys;
        let store = open(directory, foreign_keys, &shelf)?;
        let directory = directory.to_owned();
        let mut replay = Self { directory, shelf, store, foreign_keys, replayed: 0, checked_index: None };
        let found = replay.checksum().await?;
        if replay.index() != manifest.backup.index {
            return Err(RestoreError::Damaged(format!(
                "it ends with entry {}, and its manifest says {}",
                replay.index(),
                manifest.backup.index
            )));
        }
        match &manifest.backup.page_checksum {
            Some(text) => {
                let expected = u64::from_str_radix(text, 16)
                    .map_err(|_| RestoreError::Damaged("its manifest has no page checksum".into()))?;
                replay.compare(manifest.backup.index, found, expected)?;
            }
            None => {
                let path = replay.store.database_path();
                check_integrity(path, replay.store.extensions()).await?;
            }
        }
        Ok(replay)
    }

    fn index(&self) -> u64 {
        self.store.applied().index().unwrap_or(0)
    }

    fn compare(&mut self, index: u64, found: u64, expected: u64) -> Result<(), RestoreError> {
        if found != expected {
            return Err(RestoreError::Checksum { index, found, expected });
        }
        self.checked_index = self.checked_index.max(Some(index));
        Ok(())
    }

    /// The checksum of the present state, once all pages have been read.
    async fn checksum(&self) -> Result<u64, RestoreError> {
        loop {
            if let Some(checksum) = self.store.checksum().await? {
                return Ok(checksum.sum);
            }
            sleep(LOOK).await;
        }
    }

    /// Replays the segments of `choice`; tells `done` how many entries.
    async fn run(
        mut self,
        objects: &Objects,
        choice: &Choice,
        done: impl Fn(u64),
    ) -> Result<Self, RestoreError> {
        let mut coming = Coming::new(objects, &choice.segments, &choice.manifest.backup.cluster_id);
        while let Some(segment) = coming.next().await? {
            if segment.foreign_keys != self.foreign_keys {
                self.reopen(segment.foreign_keys).await?;
            }
            let Segment { entries, checksums, .. } = segment;
            let applied = self.store.applied();
            let (entries, is_end) = wanted(entries, &applied, choice.until);
            let last = entries.last().map_or(0, |entry| entry.log_id.index);
            self.apply(objects, entries).await?;
            self.store.checksum().await?;
            let known = self.store.checksums();
            for expected in checksums.iter().filter(|checksum| checksum.index <= last) {
                if let Some(found) = known.iter().find(|found| found.index == expected.index) {
                    self.compare(expected.index, found.sum, expected.sum)?;
                }
            }
            done(self.replayed);
            if is_end {
                break;
            }
        }
        Ok(self)
    }

    async fn apply(&mut self, objects: &Objects, entries: Vec<Entry>) -> Result<(), RestoreError> {
        self.replayed += entries.len() as u64;
        let mut batch = Vec::with_capacity(BATCH);
        for entry in entries {
            if let Some(replacement) = replacement_of(&entry) {
                bring_back(objects, self.store.staging(), replacement).await?;
            }
            batch.push(entry);
            if batch.len() == BATCH {
                self.store.apply(std::mem::take(&mut batch)).await?;
            }
        }
        self.store.apply(batch).await?;
        Ok(())
    }

    async fn reopen(&mut self, foreign_keys: bool) -> Result<(), RestoreError> {
        self.store.close().await?;
        self.store = open(&self.directory, foreign_keys, &self.shelf)?;
        self.foreign_keys = foreign_keys;
        // Checksums are known again once the pages have been read.
        self.checksum().await.map(drop)
    }

    /// Puts everything into the file.
    async fn finish(self, choice: &Choice, begun: Instant) -> Result<Rebuilt, RestoreError> {
        let applied = self.store.applied();
        let index = self.index();
        if let Until::Index(wanted) = choice.until
            && index != wanted
        {
            return Err(RestoreError::Short { last: index, wanted });
        }
        let page_checksum = Some(format!("{:016x}", self.checksum().await?));
        let until = Instant::now() + CHECKPOINT;
        while self.store.checkpoint().await?.log_id != applied.log_id {
            if Instant::now() >= until {
                return Err(RestoreError::Damaged("it could not be brought into one file".into()));
            }
            sleep(LOOK).await;
        }
        let (database, extensions) = (self.store.database_path(), self.store.extensions());
        self.store.close().await?;
        // The last entry may have brought another database, whose WAL was not moved into it yet.
        let whole = database.clone();
        let moved = tokio::task::spawn_blocking(move || store::into_one_file(&whole)).await;
        moved.map_err(ObjectError::from)?.map_err(RestoreError::Damaged)?;
        let size_bytes = std::fs::metadata(&database).map_err(io_at(&database))?.len();
        let backup = &choice.manifest.backup;
        let restored = Restored {
            cluster_id: backup.cluster_id.clone(),
            epoch: backup.epoch,
            backup: backup.path.clone(),
            index,
            time: time_text(applied.timestamp_us),
            replayed: self.replayed,
            size_bytes,
            checked_index: self.checked_index,
            page_checksum,
            milliseconds: begun.elapsed().as_millis() as u64,
            installed_index: None,
            replaced_index: None,
            undo: None,
            warning: choice.warning.clone(),
        };
        Ok(Rebuilt { database, restored, extensions })
    }
}

/// Entries that are not in a database with `applied` yet and not after the end; whether the end is among them. What has no
/// time, as the first entry of a leader, comes with what is before it.
fn wanted(mut entries: Vec<Entry>, applied: &Applied, until: Until) -> (Vec<Entry>, bool) {
    let present = applied.log_id.map_or(0, |id| id.index);
    entries.retain(|entry| entry.log_id.index > present);
    let mut clock = applied.timestamp_us;
    let end = entries.iter().position(|entry| match until {
        Until::End => false,
        Until::Index(index) => entry.log_id.index > index,
        Until::Time(time) => {
            clock = segment::clock_after(entry, clock).unwrap_or(clock);
            clock > time
        }
    });
    entries.truncate(end.unwrap_or(entries.len()));
    (entries, end.is_some())
}

/// Checks all of a database file.
pub async fn check_integrity(path: PathBuf, extensions: Arc<Loaded>) -> Result<(), RestoreError> {
    let checked = tokio::task::spawn_blocking(move || store::integrity(&path, &extensions)).await;
    checked.map_err(ObjectError::from)?.map_err(RestoreError::Damaged)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::raft::command::{EntryContext, encode_execute};
    use crate::store::{LogId, Payload};

    /// Entries by index and what their leader's clock said; without one: the first entry of a leader.
    fn entries(of: &[(u64, Option<i64>)]) -> Vec<Entry> {
        let payload = |time: &Option<i64>| match time {
            Some(timestamp_us) => {
                let context = EntryContext { timestamp_us: *timestamp_us, seed: 1, step_limit: 0 };
                Payload::Command(encode_execute(context, std::iter::empty()))
            }
            None => Payload::Blank,
        };
        let entry = |(index, time): &(u64, Option<i64>)| Entry {
            log_id: LogId { term: 1, leader: 1, index: *index },
            payload: payload(time),
            wants_reply: false,
        };
        of.iter().map(entry).collect()
    }

    #[test]
    fn where_a_replay_ends() {
        // Another leader's clock is behind: entry 13 is of the moment 101, as on members.
        let archived =
            [(10, Some(80)), (11, Some(100)), (12, None), (13, Some(50)), (14, Some(102)), (15, Some(200))];
        for (until, last, is_end) in [
            (Until::End, 15, false),
            (Until::Index(12), 12, true),
            (Until::Index(15), 15, false),
            (Until::Time(100), 12, true),
            (Until::Time(101), 13, true),
            (Until::Time(102), 14, true),
            (Until::Time(199), 14, true),
            (Until::Time(200), 15, false),
        ] {
            let log_id = Some(LogId { term: 1, leader: 1, index: 10 });
            let applied = Applied { log_id, timestamp_us: 80, ..Applied::default() };
            let (found, ends) = wanted(entries(&archived), &applied, until);
            let indexes: Vec<u64> = found.iter().map(|entry| entry.log_id.index).collect();
            assert_eq!((indexes, ends), ((11..=last).collect(), is_end), "{until:?}");
        }
    }
}
