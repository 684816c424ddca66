//! The memory that results of writes may take, all together, until they are sent: each is bounded, and hundreds of requests
//! may wait for one at the same time.

use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of results in this process.
const ROOM: usize = 256 << 20;
/// A smaller one is not counted: what a request itself takes counts for it.
const SMALL: usize = 4 << 10;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// A result, and the room that it takes.
struct Held(Box<[u8]>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

/// Keeps `result` until it is sent; none if there is no room for it.
pub fn keep(result: Vec<u8>) -> Option<Bytes> {
    keep_within(result, ROOM)
}

fn keep_within(result: Vec<u8>, room: usize) -> Option<Bytes> {
    let length = result.len();
    if length <= SMALL {
        return Some(result.into());
    }
    let fits = |taken: usize| taken.checked_add(length).filter(|taken| *taken <= room);
    TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
    Some(Bytes::from_owner(Held(result.into_boxed_slice())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_kept_takes_room_until_its_last_part_is_gone() {
        let large = || vec![b'x'; 100_000];
        let first = keep_within(large(), 250_000).unwrap();
        let second = keep_within(large(), 250_000).unwrap();
        assert_eq!(keep_within(large(), 250_000), None);
        assert_eq!(keep_within(vec![b'x'; SMALL], 0).unwrap().len(), SMALL);
        let part = first.slice(5..10);
        drop(first);
        assert_eq!(keep_within(large(), 250_000), None);
        drop(part);
        assert_eq!(keep_within(large(), 250_000).unwrap(), second);
        drop(second);
        assert_eq!(TAKEN.load(Ordering::Relaxed), 0);
    }
}
