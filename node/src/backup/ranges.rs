//! Entries that are in the store one after the other: all that is to be known of an archive by whoever does not read it,
//! however many segments it has.

use super::objects::{ObjectError, Objects};
use super::segment::SegmentName;
use object_store::ObjectMeta;
use std::collections::BTreeMap;

/// Ranges of entries without a hole, of segments of the archive that come in any order.
#[derive(Debug, Default)]
pub struct Ranges {
    /// By epoch and first entry: the last entry, and its time in microseconds since 1970.
    ranges: BTreeMap<(u64, u64), (u64, i64)>,
}

impl Ranges {
    /// Of all segments below a directory.
    pub async fn read(objects: &Objects, directory: &str) -> Result<Self, ObjectError> {
        let take = |ranges: &mut Self, name: &str, _: &ObjectMeta| {
            if let Some(segment) = SegmentName::parse(name) {
                ranges.add(&segment);
            }
        };
        objects.gather(directory, None, take).await
    }

    /// Takes up a segment.
    pub fn add(&mut self, segment: &SegmentName) {
        let SegmentName { epoch, mut first, last, time_us, .. } = *segment;
        let mut end = (last, time_us);
        if let Some((&(of, begin), &known)) = self.ranges.range(..=(epoch, first)).next_back()
            && of == epoch
            && known.0.saturating_add(1) >= first
        {
            self.ranges.remove(&(of, begin));
            (first, end) = (begin, end.max(known));
        }
        while let Some((&(of, begin), &known)) = self.ranges.range((epoch, first)..).next()
            && of == epoch
            && begin <= end.0.saturating_add(1)
        {
            self.ranges.remove(&(of, begin));
            end = end.max(known);
        }
        self.ranges.insert((epoch, first), end);
    }

    /// Each as one segment, in order.
    pub fn into_segments(self) -> Vec<SegmentName> {
        let segment = |((epoch, first), (last, time_us))| SegmentName {
            epoch,
            first,
            last,
            time_us,
            of: None,
            stored_bytes: 0,
        };
        self.ranges.into_iter().map(segment).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_in_any_order_make_up_the_same_ranges() {
        let whole = [(1, 5, 10), (1, 11, 20), (1, 18, 30), (1, 31, 40)];
        let holed = [(1, 5, 10), (1, 21, 30), (1, 31, 40), (2, 41, 50)];
        let over = [(1, 1, 10), (1, 1, 40), (1, 11, 20), (1, 42, 42)];
        for (segments, expected) in [
            (&whole[..], &[(1, 5, 40)][..]),
            (&holed, &[(1, 5, 10), (1, 21, 40), (2, 41, 50)]),
            (&over, &[(1, 1, 40), (1, 42, 42)]),
            (&[], &[]),
        ] {
            for turn in 0..segments.len().max(1) {
                for is_backwards in [false, true] {
                    let mut order = segments.to_vec();
                    order.rotate_left(turn);
                    if is_backwards {
                        order.reverse();
                    }
                    let mut ranges = Ranges::default();
                    for &(epoch, first, last) in &order {
                        let time_us = last as i64;
                        ranges.add(&SegmentName { epoch, first, last, time_us, of: None, stored_bytes: 9 });
                    }
                    let found = ranges.into_segments();
                    assert!(found.iter().all(|range| range.time_us == range.last as i64), "{found:?}");
                    let found: Vec<_> =
                        found.iter().map(|range| (range.epoch, range.first, range.last)).collect();
                    assert_eq!(found, expected, "{order:?}");
                }
            }
        }
    }
}
