//! Where the archive of an epoch goes on: behind what is in the store, if that is of this cluster's history.

use super::super::coming::{SegmentError, read_segment};
use super::super::full::position_of;
use super::super::manifest::{Manifest, ManifestError};
use super::super::objects::{ObjectError, Objects};
use super::super::ranges::Ranges;
use super::super::segment::{self, SegmentName};
use super::history::{OtherHistory, compare, compare_term};
use super::{ArchiveError, Archiver};
use crate::identity::ClusterIdentity;
use crate::store::{Entry, LogId};
use object_store::ObjectMeta;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// So many entries before the end of the archive, as far as that is known, its last segments are looked for first.
const NEAR: u64 = 1024;
/// So many times further back, where there are none.
const FURTHER: u64 = 16;
/// Segments at the end that are held.
const TAIL: usize = 8;

/// Where the archive goes on.
pub struct Position {
    /// The first entry that is not archived.
    pub next: u64,
    /// When it may be noted next up to when everything is archived.
    pub note_due: Instant,
    /// A base backup of an earlier entry is none for what is archived from now on: what is before cannot be read.
    pub base_from: u64,
}

/// The last segments of an epoch, by their last entry.
#[derive(Default)]
pub struct Tail(BTreeMap<(u64, u64), SegmentName>);

impl Tail {
    fn add(&mut self, segment: SegmentName) {
        self.0.insert((segment.last, segment.first), segment);
        if self.0.len() > TAIL {
            self.0.pop_first();
        }
    }

    /// From the last one on backwards.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentName> {
        self.0.values().rev()
    }

    /// The one that ends last.
    pub fn last(&self) -> Option<&SegmentName> {
        self.segments().next()
    }
}

/// The end of an epoch in the store.
#[derive(Default)]
struct End {
    tail: Tail,
    /// The first entry that is in no segment; 0 if there are none.
    next: u64,
    /// Backups of entries from there on.
    later: Vec<Manifest>,
}

impl Archiver {
    /// Where the archive of the epoch goes on, as the store and the other members say.
    pub(super) async fn find_position(
        &self,
        objects: &Objects,
        cluster: &ClusterIdentity,
    ) -> Result<Position, ArchiveError> {
        let purged = self.consensus.purged()?;
        let end = match self.find_end(objects, cluster.epoch, purged).await {
            // Credentials that only write are enough to archive; then what was there before is not known.
            Err(error) if error.is_refusal() => End::default(),
            end => end?,
        };
        let is_read = self.check_history(objects, cluster, &end, purged).await?;
        let next = match end.next.max(self.consensus.next_to_archive()) {
            // What comes before the base backup that is to be made serves nothing.
            0 => match end.later.last() {
                Some(base) => base.backup.index + 1,
                None => self.consensus.store().applied().index().map_or(0, |index| index + 1),
            },
            next => next,
        };
        self.consensus.archived_before(next);
        let waiting = self.waiting_from(next).await?;
        let segment_us = end.tail.last().map(|segment| segment.time_us);
        let earlier = end.later.iter().rev().find(|manifest| manifest.backup.index < next);
        let mut standing = self.standing.lock();
        if !standing.is_found {
            standing.caught_up_at = waiting.since;
        }
        // A base backup that this leader makes is of a later entry.
        standing.unbroken_from.get_or_insert(next);
        standing.archived_us = segment_us.or(earlier.map(|base| base.entry_time_us)).unwrap_or(0);
        let base_from = if is_read { 0 } else { next.saturating_sub(1) };
        Ok(Position { next, note_due: Instant::now(), base_from })
    }

    async fn find_end(
        &self,
        objects: &Objects,
        epoch: u64,
        purged: Option<LogId>,
    ) -> Result<End, ObjectError> {
        let applied = self.consensus.store().applied().index().unwrap_or(0);
        let known = self.consensus.next_to_archive().checked_sub(1).unwrap_or(applied);
        let tail = list_tail(objects, epoch, known.min(applied)).await?;
        let mut next = tail.last().map_or(0, |segment| segment.last + 1);
        if next > 0 && purged.is_some_and(|purged| purged.index >= next) {
            // Before that is taken for a hole all are looked through: a long one may begin early and end last.
            let ranges = Ranges::read(objects, &segment::directory(epoch)).await?;
            let last = ranges.into_segments().last().map_or(0, |range| range.last + 1);
            next = next.max(last);
        }
        let mut later = Vec::new();
        for path in objects.directories("backups").await? {
            if position_of(&path).is_some_and(|(of, index)| of == epoch && index >= next) {
                match Manifest::read(objects, &path).await {
                    Ok(manifest) => later.extend(manifest),
                    // Nothing is restored from it.
                    Err(ManifestError::Damaged { .. }) => {}
                    Err(ManifestError::Objects(error)) if error.is_refusal() => {}
                    Err(ManifestError::Objects(error)) => return Err(error),
                }
            }
        }
        // Those from before there were keys are not restored with them.
        later.retain(|manifest| objects.accepts(manifest.backup.encrypted));
        later.sort_by_key(|manifest| manifest.backup.index);
        Ok(End { tail, next, later })
    }

    /// Compares what is at the end of the store with the log. Returns whether that could be read.
    async fn check_history(
        &self,
        objects: &Objects,
        cluster: &ClusterIdentity,
        end: &End,
        purged: Option<LogId>,
    ) -> Result<bool, ArchiveError> {
        let stored = end.later.last().map(|manifest| manifest.backup.index).max(end.next.checked_sub(1));
        let Some(stored) = stored else { return Ok(true) };
        let applied = || self.consensus.store().applied().index().unwrap_or(0);
        if stored > applied() {
            // Of what was committed by whomever this member has all, once a quorum has said that it leads.
            if !self.consensus.leads_by_quorum().await {
                return Err(ArchiveError::Unconfirmed);
            }
            if stored > applied() {
                return Err(OtherHistory::Ahead { stored, last: applied() }.into());
            }
        }
        for Manifest { backup, .. } in &end.later {
            let own = self.own(backup.index, 1).await?;
            let own = own.first().map(|entry| entry.log_id);
            compare_term(backup.index, backup.term, own, purged)?;
        }
        let mut is_read = true;
        for name in end.tail.segments() {
            match read_segment(objects, name, &cluster.cluster_id).await {
                Ok(stored) => {
                    let own = self.own(name.first, segment::BYTES).await?;
                    let by_content = compare(&stored.entries, &own, purged)?;
                    // What is before that the log does not have either.
                    let is_purged = purged.is_some_and(|purged| purged.index >= name.first);
                    if by_content || is_purged {
                        break;
                    }
                }
                Err(SegmentError::Objects(error)) if error.may_pass() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "an archived segment cannot be compared with the log");
                    is_read &= Some(name) != end.tail.last();
                }
            }
        }
        Ok(is_read)
    }

    /// Entries of this member's database, from `index` on and of about so many bytes.
    async fn own(&self, index: u64, bytes: usize) -> Result<Vec<Entry>, ArchiveError> {
        let consensus = self.consensus.clone();
        Ok(tokio::task::spawn_blocking(move || consensus.entries_applied(index, bytes)).await??)
    }
}

/// The last segments of an epoch, whose end is about at entry `near`. What is before them need not be listed.
pub async fn list_tail(objects: &Objects, epoch: u64, near: u64) -> Result<Tail, ObjectError> {
    let take = |tail: &mut Tail, name: &str, meta: &ObjectMeta| {
        if let Some(segment) = SegmentName::parse_listed(name, meta.size) {
            tail.add(segment);
        }
    };
    let (directory, mut back) = (segment::directory(epoch), NEAR);
    loop {
        let from = near.saturating_sub(back);
        if from == 0 {
            return objects.gather(&directory, None, take).await;
        }
        let listed: Result<Tail, _> =
            objects.gather(&directory, Some(&segment::before(epoch, from)), take).await;
        match listed {
            Ok(tail) if tail.last().is_some() => return Ok(tail),
            Ok(_) => {}
            // Some servers do not know where to begin. A store that is away says so here too.
            Err(_) => return objects.gather(&directory, None, take).await,
        }
        back = back.saturating_mul(FURTHER);
    }
}
