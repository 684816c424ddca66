//! What is deleted: backups that are named, what of the archive only serves earlier moments, and what was begun and never
//! became a backup.

use super::catalogue::Contents;
use super::manifest::{self, Manifest};
use super::objects::{ObjectError, Objects};
use super::replaced;
use super::segment::{self, SegmentName};
use client::backup::BackupKind;
use std::collections::BTreeMap;

/// Name of the object by which the leader hears that something was deleted, whoever did it: written anew each time.
const DELETED: &str = "deleted";

/// What only serves moments before a time goes: the archive's own base backups but for the newest one before that time, and
/// segments that no backup which stays needs.
#[derive(Debug, PartialEq, Eq)]
struct Retention {
    /// Paths of base backups that go.
    bases: Vec<String>,
    /// The time, in microseconds since 1970.
    before_us: i64,
    /// Epoch and entry of the oldest backup from which the archive is replayed; none: all of the archive stays.
    oldest: Option<(u64, u64)>,
    /// Databases that entries before this name are not needed any more, in microseconds since 1970; none: all stay.
    files_before_us: Option<i64>,
    /// Entries of the archive that an undo needs all the same: epoch, the first and the last.
    needed: Vec<(u64, u64, u64)>,
}

impl Retention {
    /// Of what is there, of which the archive need not be known.
    fn of(contents: &Contents, before_us: i64) -> Self {
        let bases: Vec<_> = contents.manifests.iter().filter(|m| m.backup.kind == BackupKind::Base).collect();
        let kept_base = bases.iter().rposition(|base| base.entry_time_us <= before_us).unwrap_or(0);
        let (dropped, kept) = bases.split_at(kept_base);
        // A backup that was asked for stands for itself: entries after it are kept from the first base on.
        let oldest = match kept.first() {
            Some(base) => Some(*base),
            None => contents.manifests.iter().min_by_key(|m| (m.backup.epoch, m.backup.index)),
        };
        // What is kept with a backup may name databases, and go on from what the archive has.
        let (mut needed, mut files_before_us) = (Vec::new(), before_us);
        for Manifest { backup, entry_time_us, .. } in &contents.manifests {
            let mut next = backup.index + 1;
            for own in contents.segments.iter().filter(|segment| segment.of.as_ref() == Some(&backup.path)) {
                files_before_us = files_before_us.min(*entry_time_us);
                if next < own.first {
                    needed.push((backup.epoch, next, own.first - 1));
                }
                next = next.max(own.last + 1);
            }
        }
        Self {
            bases: dropped.iter().map(|base| base.backup.path.clone()).collect(),
            before_us,
            oldest: oldest.map(|oldest| (oldest.backup.epoch, oldest.backup.index)),
            files_before_us: oldest.map(|oldest| oldest.entry_time_us.min(files_before_us)),
            needed,
        }
    }

    /// Whether a segment of the archive goes.
    fn drops(&self, segment: &SegmentName) -> bool {
        let SegmentName { epoch, first, last, time_us, .. } = *segment;
        let is_needed = |&(of, from, to): &(u64, u64, u64)| of == epoch && first <= to && from <= last;
        self.oldest.is_some_and(|oldest| (epoch, last) <= oldest)
            && time_us < self.before_us
            && !self.needed.iter().any(is_needed)
    }
}

/// Deletes backups and, with `before_us`, in microseconds since 1970, what only serves earlier moments and what nobody
/// completed; returns how many objects are gone. `is_told`: whether a leader that archives is to hear of it.
pub async fn delete(
    objects: &Objects,
    paths: Vec<String>,
    before_us: Option<i64>,
    is_told: bool,
) -> Result<u64, ObjectError> {
    let deleted = delete_untold(objects, paths, before_us).await;
    // Also where it failed: some of it may be gone. Where nothing was to be deleted it is asked for again and again.
    if is_told && !matches!(deleted, Ok(0)) {
        let time = crate::clock::now().to_string();
        objects.put(DELETED, time.into()).await?;
    }
    deleted
}

async fn delete_untold(
    objects: &Objects,
    mut paths: Vec<String>,
    before_us: Option<i64>,
) -> Result<u64, ObjectError> {
    let Some(before_us) = before_us else { return delete_backups(objects, &paths).await };
    let mut contents = Contents::read_backups(objects, None).await?;
    contents.manifests.retain(|manifest| !paths.contains(&manifest.backup.path));
    let retention = Retention::of(&contents, before_us);
    paths.extend(retention.bases.iter().cloned());
    let files_before_us = retention.files_before_us;
    // First, so that no backup seems to reach further than it does.
    let mut deleted = delete_backups(objects, &paths).await?;
    let is_gone = move |name: &str| SegmentName::parse(name).is_some_and(|segment| retention.drops(&segment));
    deleted += objects.delete_those(segment::DIRECTORY, is_gone).await?;
    if let Some(files_before_us) = files_before_us {
        deleted += objects.delete(replaced::only_before(objects, files_before_us).await?).await?;
    }
    let left = abandoned(objects, crate::clock::now_us()).await?;
    Ok(deleted + objects.delete(left).await?)
}

/// When something was deleted last, as the version of an object; none if nothing was.
pub async fn last_deletion(objects: &Objects) -> Result<Option<String>, ObjectError> {
    objects.version(DELETED).await
}

/// Deletes backups. A manifest goes first: what is left of a backup without one is no backup.
async fn delete_backups(objects: &Objects, paths: &[String]) -> Result<u64, ObjectError> {
    let mut deleted = 0;
    for path in paths {
        deleted += objects.delete(vec![manifest::object_of(path)]).await?;
        deleted += objects.delete_those(&format!("backups/{path}"), |_| true).await?;
    }
    Ok(deleted)
}

/// Objects of backups that were begun and never got their manifest, because who made them ended: nothing came for a day.
async fn abandoned(objects: &Objects, now_us: i64) -> Result<Vec<String>, ObjectError> {
    Ok(abandoned_of(objects.written("backups").await?, now_us))
}

fn abandoned_of(written: Vec<(String, i64)>, now_us: i64) -> Vec<String> {
    const DAY_US: i64 = 24 * 3_600 * 1_000_000;
    let of = |name: &str| name.split('/').nth(1).map(str::to_owned);
    // The last that came of each backup, or that it is complete.
    let mut backups = BTreeMap::<String, Option<i64>>::new();
    for (name, written_us) in &written {
        let Some(path) = of(name) else { continue };
        let is_complete = *name == manifest::object_of(&path);
        let newest = backups.entry(path).or_insert(Some(*written_us));
        *newest = newest.filter(|_| !is_complete).map(|newest| newest.max(*written_us));
    }
    let is_abandoned = |name: &String| {
        let newest = of(name).and_then(|path| *backups.get(&path)?);
        newest.is_some_and(|newest| newest < now_us - DAY_US)
    };
    written.into_iter().map(|(name, _)| name).filter(is_abandoned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::catalogue::tests::{base, contents, segment};
    use super::*;
    use crate::backup::seal::Keyring;
    use client::backup::RestoreTarget;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    const SECOND: i64 = 1_000_000;
    /// The clock of entry n is n seconds.
    const SEGMENTS: &[(u64, u64, u64)] = &[(1, 1, 10), (1, 11, 20), (1, 21, 30), (1, 31, 40)];

    fn dropped(contents: &Contents, retention: &Retention) -> Vec<u64> {
        let archived = contents.segments.iter().filter(|segment| segment.of.is_none());
        archived.filter(|segment| retention.drops(segment)).map(|segment| segment.first).collect()
    }

    #[test]
    fn what_only_serves_earlier_moments_goes() {
        let bases: &[(u64, u64)] = &[(1, 0), (1, 15), (1, 30)];
        for (bases, before, gone, segments) in [
            (bases, 0, &[][..], &[][..]),
            (bases, 14, &[], &[]),
            (bases, 15, &["1-0"], &[1]),
            (bases, 29, &["1-0"], &[1]),
            (bases, 31, &["1-0", "1-15"], &[1, 11, 21]),
            (bases, 1000, &["1-0", "1-15"], &[1, 11, 21]),
            (&[], 1000, &[], &[]),
            // One that is old, after which nothing came, is whole.
            (&[(1, 40)], 1000, &[], &[1, 11, 21, 31]),
        ] {
            let contents = contents(bases, SEGMENTS);
            let retention = Retention::of(&contents, before * SECOND);
            let what = format!("{bases:?} before {before}");
            assert_eq!(
                (&retention.bases[..], &dropped(&contents, &retention)[..]),
                (&gone.iter().map(ToString::to_string).collect::<Vec<_>>()[..], segments),
                "{what}"
            );
        }
    }

    #[test]
    fn what_an_undo_needs_stays_as_long_as_it_does() {
        let bases: &[(u64, u64)] = &[(1, 0), (1, 30)];
        let kept = |first, last| SegmentName { of: Some("1-8".into()), ..segment(1, first, last) };
        // (the undo's own entries) → segments of the archive that go, and up to when files do.
        for (own, gone, files) in [
            (&[][..], &[1, 11, 21][..], 30),
            // All that it needs is its own, but for databases.
            (&[(9, 12)], &[1, 11, 21], 8),
            // The log lacked what the archive had.
            (&[(15, 18)], &[21], 8),
            (&[(11, 18)], &[11, 21], 8),
            // And once more when it was tried again.
            (&[(11, 18), (25, 28)], &[], 8),
            (&[(9, 12), (11, 20), (25, 28)], &[1, 11], 8),
        ] {
            let mut contents = contents(bases, SEGMENTS);
            contents.manifests.insert(1, base(1, 8, BackupKind::Pin));
            contents.segments.extend(own.iter().map(|&(first, last)| kept(first, last)));
            contents.segments.sort();
            let retention = Retention::of(&contents, 35 * SECOND);
            assert_eq!(retention.bases, ["1-0"]);
            assert_eq!(dropped(&contents, &retention), gone, "{own:?}");
            assert_eq!(retention.files_before_us, Some(files * SECOND), "{own:?}");
            let undone = RestoreTarget::Index(own.last().map_or(8, |&(_, last)| last));
            contents.segments.retain(|segment| segment.of.is_some() || !retention.drops(segment));
            assert_eq!(contents.choose(&undone).map(|choice| choice.manifest.backup.index), Ok(8), "{own:?}");
        }
    }

    #[tokio::test]
    async fn what_is_deleted_leaves_nothing_else_and_is_told() {
        let root = object_store::path::Path::from("cluster");
        let objects = Objects::new(Arc::new(InMemory::new()), root, Arc::new(Keyring::default()), None);
        let text = || bytes::Bytes::from_static(b"of one");
        for name in ["backups/1-one/manifest.json", "backups/1-one/00000", "backups/1-one-more/00000"] {
            objects.put(name, text()).await.unwrap();
        }
        for n in 1..=2500 {
            objects.put(&segment(1, n, n).object(), text()).await.unwrap();
        }
        let is_gone = |name: &str| SegmentName::parse(name).is_some_and(|segment| segment.last <= 2400);
        assert_eq!(objects.delete_those(segment::DIRECTORY, is_gone).await.unwrap(), 2400);
        assert_eq!(objects.list(segment::DIRECTORY).await.unwrap().len(), 100);
        assert_eq!(last_deletion(&objects).await.unwrap(), None);
        let paths = || vec!["1-one".to_owned()];
        assert_eq!(delete(&objects, paths(), None, false).await.unwrap(), 2);
        assert_eq!(last_deletion(&objects).await.unwrap(), None);
        assert_eq!(delete(&objects, paths(), None, true).await.unwrap(), 1, "in memory it is not told apart");
        let first = last_deletion(&objects).await.unwrap();
        delete(&objects, paths(), None, true).await.unwrap();
        let second = last_deletion(&objects).await.unwrap();
        assert!(first.is_some() && first != second, "{first:?} {second:?}");
        assert_eq!(objects.directories("backups").await.unwrap(), ["1-one-more"]);
    }

    #[test]
    fn what_nobody_completed_goes_after_a_day() {
        const HOUR: i64 = 3_600 * 1_000_000;
        let at = |name: &str, hours: i64| (name.to_owned(), hours * HOUR);
        let written = vec![
            at("backups/1-complete/00000", 1),
            at("backups/1-complete/manifest.json", 2),
            at("backups/1-complete/log/1-2-3", 3),
            at("backups/2-left/00000", 1),
            at("backups/2-left/00001", 2),
            at("backups/3-in-the-making/00000", 1),
            at("backups/3-in-the-making/00001", 20),
        ];
        let left = ["backups/2-left/00000", "backups/2-left/00001"];
        assert_eq!(abandoned_of(written.clone(), 25 * HOUR), Vec::<String>::new());
        assert_eq!(abandoned_of(written, 27 * HOUR), left);
    }
}
