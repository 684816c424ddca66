//! Segments on their way from the store. Some are fetched ahead of who replays them, as they are in the store and so few that
//! memory stays small: a segment may be large, and what comes out of it larger.

use super::objects::{ObjectError, Objects};
use super::seal::SealError;
use super::segment::{self, Segment, SegmentName};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};

/// Segments fetched ahead, at most.
const AT_ONCE: usize = 8;
/// Bytes of them in the store. A larger one comes alone.
const AHEAD: u64 = 32 << 20;

/// A segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The object cannot.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// It is not what its name says.
    #[error("{name}: it holds other entries than its name says")]
    OtherEntries {
        /// The object.
        name: String,
    },
}

/// Segments of one cluster, in order.
pub struct Coming<'a> {
    objects: &'a Objects,
    cluster_id: &'a str,
    /// Those that were not asked for yet.
    left: &'a [SegmentName],
    fetched: FuturesOrdered<BoxFuture<'a, (&'a SegmentName, Result<Bytes, ObjectError>)>>,
    /// Bytes of those that are on their way or here, as they are in the store.
    ahead: u64,
}

impl<'a> Coming<'a> {
    /// Of `segments` of the cluster `cluster_id`.
    pub fn new(objects: &'a Objects, segments: &'a [SegmentName], cluster_id: &'a str) -> Self {
        Self { objects, cluster_id, left: segments, fetched: FuturesOrdered::new(), ahead: 0 }
    }

    /// The next one; none after the last.
    pub async fn next(&mut self) -> Result<Option<Segment>, SegmentError> {
        while let Some((name, left)) = self.left.split_first()
            && may_come(name.stored_bytes, self.fetched.len(), self.ahead)
        {
            let objects = self.objects;
            self.left = left;
            self.ahead += name.stored_bytes;
            self.fetched.push_back(async move { (name, objects.fetch(&name.object()).await) }.boxed());
        }
        let Some((name, sealed)) = self.fetched.next().await else { return Ok(None) };
        self.ahead -= name.stored_bytes;
        open(self.objects, name, sealed?, self.cluster_id).await.map(Some)
    }
}

/// Whether a segment of so many bytes may be fetched while `others` are, of `ahead` bytes together.
fn may_come(bytes: u64, others: usize, ahead: u64) -> bool {
    others == 0 || (others < AT_ONCE && ahead.saturating_add(bytes) <= AHEAD)
}

/// Reads a segment of the cluster `cluster_id`.
pub async fn read_segment(
    objects: &Objects,
    name: &SegmentName,
    cluster_id: &str,
) -> Result<Segment, SegmentError> {
    open(objects, name, objects.fetch(&name.object()).await?, cluster_id).await
}

async fn open(
    objects: &Objects,
    name: &SegmentName,
    sealed: Bytes,
    cluster_id: &str,
) -> Result<Segment, SegmentError> {
    let object = name.object();
    let bytes = objects.open(&object, sealed, segment::LARGEST).await?;
    let segment = Segment::decode(bytes)
        .map_err(|what| ObjectError::from(SealError::Damaged { name: object.clone(), what }))?;
    let is_named = segment.cluster_id == cluster_id
        && segment.epoch == name.epoch
        && segment.range() == (name.first, name.last);
    if !is_named {
        return Err(SegmentError::OtherEntries { name: object });
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::backup::seal::Keyring;
    use crate::store::{Entry, LogId, Payload};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_fetched_ahead_is_bounded_by_its_bytes() {
        for (bytes, others, ahead, expected) in [
            (1, 0, 0, true),
            (200 * MIB, 0, 0, true),
            (8 * MIB, 1, 8 * MIB, true),
            (8 * MIB, 3, 24 * MIB, true),
            (8 * MIB + 1, 3, 24 * MIB, false),
            (1, 1, 200 * MIB, false),
            (200 * MIB, 1, 1, false),
            (u64::MAX, 1, 1, false),
            (1, 7, 7, true),
            (1, 8, 8, false),
        ] {
            assert_eq!(may_come(bytes, others, ahead), expected, "{bytes} beside {others} of {ahead}");
        }
    }

    #[tokio::test]
    async fn segments_come_in_order_and_so_few_at_once_as_fit() {
        let root = object_store::path::Path::from("cluster");
        let objects = Objects::new(Arc::new(InMemory::new()), root, Arc::new(Keyring::default()), None);
        let mut names = Vec::new();
        for index in 1..=20 {
            let log_id = LogId { term: 1, leader: 1, index };
            let entries = vec![Entry { log_id, payload: Payload::Blank, wants_reply: false }];
            let (cluster_id, epoch, checksums) = ("cluster".into(), 1, Vec::new());
            let segment = Segment { cluster_id, epoch, foreign_keys: true, entries, checksums };
            let name = segment.name(0, None);
            objects.put_sealed(&name.object(), segment.encode()).await.unwrap();
            // As if each were a quarter of what may be ahead.
            names.push(SegmentName { stored_bytes: AHEAD / 4, ..name });
        }
        let mut coming = Coming::new(&objects, &names, "cluster");
        for index in 1..=20 {
            assert_eq!(coming.next().await.unwrap().unwrap().range(), (index, index));
            assert!(coming.ahead <= AHEAD && coming.fetched.len() <= 3, "{}", coming.ahead);
        }
        assert!(coming.next().await.unwrap().is_none());
        let refused = Coming::new(&objects, &names, "another").next().await.unwrap_err();
        assert!(matches!(refused, SegmentError::OtherEntries { .. }), "{refused}");
    }
}
