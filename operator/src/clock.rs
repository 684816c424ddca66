//! The wall clock, read in one place: what decides is given the time that was seen.

use jiff::Timestamp;

/// The time.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
