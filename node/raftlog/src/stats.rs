//! Numbers for metrics.

use std::time::Duration;

/// Upper bounds of the flush duration buckets, in microseconds; a last bucket holds everything longer.
pub const FLUSH_BUCKETS_MICROS: [u64; 12] =
    [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600];

/// A snapshot of a log's numbers; see [`RaftLog::stats`](crate::RaftLog::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches written and synced since open.
    pub flushes: u64,
    /// Bytes of frames written since open.
    pub bytes_written: u64,
    /// Sum of the durations of all flushes (framing, write and sync), in microseconds.
    pub flush_micros: u64,
    /// Flushes by duration: not cumulative; bounds in [`FLUSH_BUCKETS_MICROS`], the last bucket has none.
    pub flush_buckets: [u64; FLUSH_BUCKETS_MICROS.len() + 1],
    /// Segment files in use, without the prepared one and the spares.
    pub segments: usize,
    /// Bytes of those files.
    pub segment_bytes: u64,
    /// Bytes of payloads in memory, counting a fixed cost per entry.
    pub cached_bytes: usize,
    /// Entries known to the in-memory index (16 bytes each).
    pub indexed_entries: usize,
    /// Records submitted and not taken by the flush thread yet.
    pub queued_records: usize,
}

impl Stats {
    pub(crate) fn record_flush(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.flushes += 1;
        self.flush_micros = self.flush_micros.saturating_add(micros);
        let bucket = FLUSH_BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.flush_buckets[bucket] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let mut stats = Stats::default();
        for micros in [0, 100, 101, 409_600, 409_601, 10_000_000] {
            stats.record_flush(Duration::from_micros(micros));
        }
        assert_eq!((stats.flush_buckets[0], stats.flush_buckets[1]), (2, 1));
        assert_eq!((stats.flush_buckets[11], stats.flush_buckets[12]), (1, 2));
        assert_eq!((stats.flushes, stats.flush_micros), (6, 10_819_402));
    }
}
