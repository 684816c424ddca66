//! A member that is not to serve yet: what its cluster begins with is still on its way. Nothing that clients write may come
//! in before, it would be gone with the state that is replaced.

use super::Consensus;
use super::request_error::RequestError;
use std::sync::atomic::Ordering;

impl Consensus {
    /// Whether the member is not to serve yet.
    pub fn is_held_back(&self) -> bool {
        self.held_back.load(Ordering::Acquire)
    }

    /// From now on the member serves.
    pub fn let_serve(&self) {
        self.held_back.store(false, Ordering::Release);
    }

    pub(super) fn may_serve(&self) -> Result<(), RequestError> {
        if self.is_held_back() { Err(RequestError::NotReady) } else { Ok(()) }
    }
}
