//! From when on moments can be reached: base backups are made once in a while, and what is in the store is looked through
//! beside archiving, because that takes long where there is much. It is not done again unless something was deleted.

use super::super::catalogue::Contents;
use super::super::full::{BackupFailure, Source, make_backup};
use super::super::manifest::Manifest;
use super::super::objects::{ObjectError, Objects};
use super::super::retention;
use super::position::Position;
use super::{ArchiveError, Archiver};
use crate::store::sqlite_version;
use client::backup::{BackupKind, ContinuousConfig};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

/// What names of base backups begin with. Each is of another name: none is ever written over another one of the same entry.
const BASE: &str = "base";
/// Between two attempts to make a base backup.
const BASE_AGAIN: Duration = Duration::from_secs(30);
/// How often it is asked for whether something was deleted, by whatever member.
const DELETED: Duration = Duration::from_secs(60);

/// Base backups and looks at the store, of which one of each is under way at most. They outlive a failure of the archive.
pub struct Reach {
    /// Being made.
    pub bases: JoinSet<Result<Manifest, BackupFailure>>,
    /// Being looked.
    pub looks: JoinSet<Result<Look, ObjectError>>,
    /// The newest base backup from which what is archived goes on.
    pub base: Option<Base>,
    /// When the next one may be begun.
    pub base_due: Instant,
    /// When it is looked next whether something was deleted.
    pub look_due: Instant,
    /// Whether all is looked through then, whatever was deleted.
    looks_at_all: bool,
    /// When something was deleted last, as it was when all was looked through.
    deletion: Option<Option<String>>,
    /// How often something happened that a look under way may not have seen.
    changes: u64,
    /// What came of one of them that ended.
    made: Option<Joined<Manifest, BackupFailure>>,
    looked: Option<Joined<Look, ObjectError>>,
}

type Joined<T, E> = Result<Result<T, E>, JoinError>;

/// A base backup.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// Its last entry.
    pub index: u64,
    /// When it was made, in microseconds since 1970.
    pub made_us: i64,
    /// When it was last seen in the store.
    pub seen_us: i64,
}

/// What is to be done about base backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// Whether the last one is still there: nothing came after it, so another one would be the same.
    Look,
    Make,
}

/// What was found.
pub struct Look {
    seen: Seen,
    /// The first entry that was not archived when it began.
    next: u64,
    /// [`Reach::changes`] then.
    changes: u64,
}

enum Seen {
    /// Nothing was deleted since.
    Same,
    /// The credentials only write.
    Nothing,
    All {
        deletion: Option<String>,
        contents: Contents,
    },
}

async fn look(objects: &Objects, epoch: u64, known: Option<Option<String>>) -> Result<Seen, ObjectError> {
    // First: what is deleted meanwhile is looked at once more.
    let deletion = retention::last_deletion(objects).await?;
    if known.as_ref() == Some(&deletion) {
        return Ok(Seen::Same);
    }
    let mut contents = Contents::read_ranges(objects, Some(epoch)).await?;
    // Those from before there were keys are not restored with them.
    contents.manifests.retain(|manifest| objects.accepts(manifest.backup.encrypted));
    // Those that are kept with a backup go with it.
    contents.segments.retain(|segment| segment.of.is_none());
    Ok(Seen::All { deletion, contents })
}

impl Reach {
    /// Of a leader that knows nothing yet.
    pub fn unknown() -> Self {
        let now = Instant::now();
        Self {
            bases: JoinSet::new(),
            looks: JoinSet::new(),
            base: None,
            base_due: now,
            look_due: now,
            looks_at_all: true,
            deletion: None,
            changes: 0,
            made: None,
            looked: None,
        }
    }

    /// Waits until there is something to see to.
    pub async fn news(&mut self) {
        let due = if self.looks.is_empty() { self.look_due } else { Instant::now() + DELETED };
        tokio::select! {
            Some(made) = self.bases.join_next() => self.made = Some(made),
            Some(looked) = self.looks.join_next() => self.looked = Some(looked),
            () = sleep_until(due) => {}
        }
    }

    /// Entries are missing: a base backup of what comes after them is needed.
    pub fn break_off(&mut self) {
        self.base = None;
        self.changes += 1;
    }

    /// All is to be looked through, soon.
    pub fn look_at_all(&mut self) {
        (self.looks_at_all, self.look_due) = (true, Instant::now());
    }

    /// Looks, beside what else is done.
    pub fn begin_look(&mut self, objects: &Objects, epoch: u64, next: u64) {
        self.look_due = Instant::now() + DELETED;
        let known = if std::mem::take(&mut self.looks_at_all) { None } else { self.deletion.clone() };
        let (objects, changes) = (objects.clone(), self.changes);
        self.looks.spawn(async move {
            let seen = match look(&objects, epoch, known).await {
                Err(error) if error.is_refusal() => Ok(Seen::Nothing),
                seen => seen,
            };
            Ok(Look { seen: seen?, next, changes })
        });
    }

    fn begin_base(&mut self, source: Source, objects: &Objects) {
        let (objects, name) = (objects.clone(), format!("{BASE}-{}", crate::clock::now_us()));
        self.bases.spawn(async move {
            make_backup(&source, &objects, &name, BackupKind::Base, Arc::default()).await
        });
    }
}

impl Base {
    fn seen_now(manifest: &Manifest) -> Self {
        let (index, made_us) = (manifest.backup.index, manifest.made_us());
        Self { index, made_us, seen_us: crate::clock::now_us() }
    }
}

/// What is to be done about base backups `now`, in microseconds since 1970, if `base` is the newest and entry `applied` the
/// last, and there is to be one each `hours`.
fn due(base: Option<Base>, applied: u64, now_us: i64, hours: u32) -> Due {
    let Some(base) = base else { return Due::Make };
    let is_older = |time_us: i64| now_us.saturating_sub(time_us) > i64::from(hours) * 3_600_000_000;
    match base.index >= applied {
        true if is_older(base.made_us.max(base.seen_us)) => Due::Look,
        false if is_older(base.made_us) => Due::Make,
        _ => Due::Nothing,
    }
}

impl Archiver {
    /// Takes up what was made and found, and begins what is due.
    pub(super) fn see_to_reach(
        &self,
        objects: &Objects,
        settings: &ContinuousConfig,
        epoch: u64,
        at: &Position,
        reach: &mut Reach,
    ) -> Result<(), ArchiveError> {
        if let Some(made) = reach.made.take().or_else(|| reach.bases.try_join_next()) {
            self.take_base(made?, reach);
        }
        if let Some(looked) = reach.looked.take().or_else(|| reach.looks.try_join_next()) {
            let looked = looked.map_err(ArchiveError::from).and_then(|looked| Ok(looked?));
            self.take_look(looked.inspect_err(|_| reach.look_at_all())?, epoch, reach);
        }
        if self.trimmed.swap(false, Ordering::AcqRel) {
            reach.look_at_all();
        }
        // Before all was looked through it is not known whether one is needed.
        let is_found = self.standing.lock().is_found;
        if is_found && reach.bases.is_empty() && Instant::now() >= reach.base_due {
            let applied = self.consensus.store().applied().index().unwrap_or(0);
            let base = reach.base.filter(|base| base.index >= at.base_from);
            match due(base, applied, crate::clock::now_us(), settings.base_every_hours) {
                Due::Nothing => {}
                Due::Look if reach.looks.is_empty() => reach.look_at_all(),
                Due::Look => {}
                Due::Make => reach.begin_base(self.source(), objects),
            }
        }
        if reach.looks.is_empty() && Instant::now() >= reach.look_due {
            reach.begin_look(objects, epoch, at.next);
        }
        Ok(())
    }

    pub(super) fn source(&self) -> Source {
        Source { store: self.consensus.store().clone(), member: self.consensus.config().name.clone() }
    }

    pub(super) fn take_look(&self, look: Look, epoch: u64, reach: &mut Reach) {
        let Look { seen, next, changes } = look;
        let mut standing = self.standing.lock();
        let (deletion, mut contents) = match seen {
            Seen::Same => return,
            Seen::All { .. } if changes != reach.changes => return reach.look_at_all(),
            Seen::Nothing => {
                standing.is_found = true;
                if let Some(base) = &mut reach.base {
                    base.seen_us = crate::clock::now_us();
                }
                return;
            }
            Seen::All { deletion, contents } => (deletion, contents),
        };
        reach.deletion = Some(deletion);
        if contents.last_archived(epoch).is_none() {
            // A backup of somebody's own says nothing of what came after it: without segments the archive needs its own, or
            // nothing would be reached by a time until there is a write.
            contents.manifests.retain(|manifest| manifest.backup.kind == BackupKind::Base);
        }
        let of_later = || contents.manifests.iter().find(|manifest| manifest.backup.index >= next);
        let first = contents.first_base(epoch, next.saturating_sub(1)).or_else(of_later);
        standing.is_found = true;
        standing.reach_from(first.map(Manifest::moment_us));
        if standing.hole.is_none() && first.is_none() {
            // The leader before found it, and its base backup did not come.
            standing.hole = contents.hole_before(epoch, next);
        }
        // Entries are replayed by the present version of SQLite, so a base backup of its own comes first.
        let applied = self.consensus.store().applied().index().unwrap_or(0);
        let counts =
            |base: &&Manifest| base.backup.sqlite_version == sqlite_version() || base.backup.index >= applied;
        let newest = contents.manifests.last().filter(|_| first.is_some());
        reach.base = newest.filter(counts).map(Base::seen_now);
        if first.is_none() {
            reach.base_due = Instant::now();
        }
    }

    pub(super) fn take_base(&self, made: Result<Manifest, BackupFailure>, reach: &mut Reach) {
        reach.base_due = Instant::now() + BASE_AGAIN;
        match made {
            Ok(manifest) => {
                let (index, bytes) = (manifest.backup.index, manifest.backup.stored_bytes);
                let mut standing = self.standing.lock();
                if !standing.is_closed_by(index) {
                    // It was begun before the hole: what is archived now does not go on from it.
                    tracing::info!(
                        index,
                        bytes,
                        "made a base backup of before the hole; another one is made"
                    );
                    reach.base_due = Instant::now();
                    return;
                }
                tracing::info!(index, bytes, "made a base backup");
                reach.base = Some(Base::seen_now(&manifest));
                reach.changes += 1;
                let earliest_us = standing.earliest_us.unwrap_or(manifest.moment_us());
                standing.reach_from(Some(earliest_us));
            }
            Err(error) => {
                tracing::warn!(%error, "a base backup was not made; trying again");
                self.standing.lock().trouble = Some(error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_due_by_its_age_if_anything_came_after_it() {
        const HOUR: i64 = 3_600_000_000;
        let base = |index, made, seen| Some(Base { index, made_us: made * HOUR, seen_us: seen * HOUR });
        // (newest base, last entry, now) with one each 24 hours.
        for (base, applied, now, expected) in [
            (None, 0, 0, Due::Make),
            (base(10, 0, 0), 11, 24, Due::Nothing),
            (base(10, 0, 0), 11, 25, Due::Make),
            (base(10, 0, 24), 11, 25, Due::Make),
            (base(10, 0, 0), 10, 24, Due::Nothing),
            (base(10, 0, 0), 10, 25, Due::Look),
            (base(10, 0, 24), 10, 48, Due::Nothing),
            (base(10, 0, 24), 10, 49, Due::Look),
            (base(10, 0, 48), 11, 49, Due::Make),
            // A clock that was set back.
            (base(10, 50, 50), 11, 25, Due::Nothing),
        ] {
            assert_eq!(due(base, applied, now * HOUR, 24), expected, "{base:?}, {applied} at hour {now}");
        }
    }
}
