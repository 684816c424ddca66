//! Spreads bytes over time.

use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// At most so many bytes in a second, seen over some seconds.
pub struct Pace {
    bytes_per_second: u64,
    /// When what was let through before will have been sent at that rate.
    next: Mutex<Instant>,
}

impl Pace {
    /// At least one byte.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// Counts `bytes`; returns from when on they may be sent.
    pub async fn admit(&self, bytes: usize) -> Instant {
        self.reserve(&mut *self.next.lock().await, Instant::now(), bytes)
    }

    /// From when on `bytes` may be sent, if `next` is when those before have been.
    fn reserve(&self, next: &mut Instant, now: Instant, bytes: usize) -> Instant {
        let from = (*next).max(now);
        *next = from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_takes_its_time() {
        let pace = Pace::new(1000);
        let now = Instant::now();
        let mut next = now;
        let at =
            |next: &mut Instant, seconds| pace.reserve(next, now + Duration::from_secs(seconds), 500) - now;
        assert_eq!(at(&mut next, 0), Duration::ZERO);
        assert_eq!(at(&mut next, 0), Duration::from_millis(500));
        assert_eq!(at(&mut next, 0), Duration::from_secs(1));
        // What was not used is not saved up.
        assert_eq!(at(&mut next, 9), Duration::from_secs(9));
    }
}
