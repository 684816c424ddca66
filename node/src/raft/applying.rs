//! Holds back the state machine while another member's database takes the place of this one's.

use crate::observe::Until as _;
use std::io;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

/// Between the state machine and those who have to know, or to bound, how far it is.
#[derive(Debug)]
pub struct Applying {
    gate: RwLock<()>,
    /// The last entry that Raft knows to be applied.
    reached: watch::Sender<u64>,
}

impl Applying {
    /// From a database that holds everything up to `index`.
    pub fn from(index: u64) -> Self {
        Self { gate: RwLock::default(), reached: watch::Sender::new(index) }
    }

    /// Taken for each batch that is applied.
    pub async fn turn(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// Nothing is applied for as long as this is held.
    pub async fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// Everything up to `index` is applied, and Raft is about to know.
    pub fn reach(&self, index: u64) {
        self.reached.send_replace(index);
    }

    /// Waits until Raft knows that `index` is applied: after a replacement the database is ahead for a moment.
    pub async fn known(&self, index: u64) -> io::Result<()> {
        let mut reached = self.reached.subscribe();
        // It lives as long as this does.
        reached.until(|reached| *reached >= index).await.map_err(io::Error::other)
    }
}
