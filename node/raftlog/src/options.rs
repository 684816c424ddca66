//! What the owner of a log can choose.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::LogError;

/// No segment file is smaller.
pub(crate) const MIN_SEGMENT_BYTES: u64 = 4096;
/// The very first segment is no larger: somebody waits for it, so its zeros are written without a pause, on a disk
/// that others may be using. Each one after it has twice as much until they are of full size: zeros take processor time
/// too, and a new log may never need them.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;

/// Called once, on a thread of the log, when it is poisoned; see [`Options::on_poison`].
pub type PoisonHook = Arc<dyn Fn(&LogError) + Send + Sync>;

/// How a log is kept. The defaults suit a server with a disk of its own.
#[derive(Clone)]
pub struct Options {
    /// Size of a segment file in bytes, at least 4 KiB, rounded up to 4 KiB. A larger record gets a larger segment;
    /// a new log begins with 4 MiB and doubles that from segment to segment up to this size.
    pub segment_bytes: u64,
    /// How many retired segments are kept for reuse instead of being unlinked. Their disk space stays taken.
    pub max_spares: usize,
    /// Recent payloads kept in memory, in bytes (a small fixed cost per entry is counted in). Payloads that are not
    /// on disk yet are kept whatever this says.
    pub cache_bytes: usize,
    /// How long the log must be idle before the committed hint and the witness of the last sync are written
    /// (without a sync).
    pub idle_delay: Duration,
    /// Told about the error that poisons the log. It must neither block nor call the log.
    pub on_poison: Option<PoisonHook>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_spares: 2,
            cache_bytes: 64 << 20,
            idle_delay: Duration::from_millis(20),
            on_poison: None,
        }
    }
}

impl Options {
    pub(crate) fn rounded(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(MIN_SEGMENT_BYTES, 1 << 34).next_multiple_of(4096);
        self
    }
}

/// How long a new segment is, in bytes, by the counting half of its generation, which begins with 1.
pub(crate) fn len_of_new(counter: u32, segment_bytes: u64) -> u64 {
    let doubled = 1_u64.checked_shl(counter.saturating_sub(1)).unwrap_or(u64::MAX);
    segment_bytes.min(FIRST_SEGMENT_BYTES.saturating_mul(doubled))
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("segment_bytes", &self.segment_bytes)
            .field("max_spares", &self.max_spares)
            .field("cache_bytes", &self.cache_bytes)
            .field("idle_delay", &self.idle_delay)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_a_new_log_double_up_to_full_size() {
        const MIB: u64 = 1 << 20;
        for (counter, full, len) in [
            (1, 64, 4),
            (2, 64, 8),
            (4, 64, 32),
            (5, 64, 64),
            (6, 64, 64),
            (64, 64, 64),
            (65, 64, 64),
            (u32::MAX, 64, 64),
            (1, 1, 1),
            (2, 5, 5),
            (12, 1 << 14, 8192),
            (13, 1 << 14, 1 << 14),
        ] {
            assert_eq!(
                len_of_new(counter, full * MIB),
                len * MIB,
                "segment {counter} of a log with {full} MiB"
            );
        }
    }
}
