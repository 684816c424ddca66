//! A restore in the running cluster: a database takes the place of the present one, and nothing that was acknowledged before
//! is lost by that.
//!
//! What brings the present back is made sure of by who asks ([`Keep`]); only consensus knows what the present is. So it
//! spreads the file while writes go on, and then closes the gate of the proposer ([`super::propose`]): everything that was
//! proposed is applied, the last entry of the log is the last one there is of the present, and no other leader's comes in
//! between, because the replacement is proposed by the same leader, by name. While that entry is made sure of, writes wait;
//! they go on behind the replacement once Raft has taken it. Whatever happens in between opens the gate: it is a guard.

use super::Consensus;
use super::command::Replacement;
use super::replace::LoadError;
use super::request_error::RequestError;
use super::route::Route;
use super::waiters::Leadership;
use crate::failpoint::{Place, pass};
use crate::store::{Scratch, Sha256Sum};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long writes wait at most. Clients wait for longer than that.
const FENCED: Duration = Duration::from_secs(3);
/// How often it is tried, where a store or a disk is slow just then. In between writes go on.
const ATTEMPTS: usize = 3;

/// Makes sure that what the database holds can be brought back after it was replaced.
pub trait Keep: Send {
    /// Why it cannot.
    type Error: From<LoadError> + Send;

    /// Does what can be done while writes go on. May be called again.
    fn catch_up(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Does the rest: entry `last`, which is applied here, is the last one there is. Writes wait for it. May be given up at
    /// any point, and called again with a later entry.
    fn keep(&mut self, last: u64) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Another database took the place of the one before.
#[derive(Clone, Copy, Debug)]
pub struct Replaced {
    /// By this entry.
    pub index: u64,
    /// The last entry of the one before.
    pub last: u64,
}

/// Writes waited for the whole time that they may.
struct TooSlow;

impl Consensus {
    /// Puts a database that came from elsewhere in the place of the present one, which `keep` makes sure of. It is one of
    /// ours, with the internal table, and checked. Only on the leader.
    pub async fn install<K: Keep>(
        self: &Arc<Self>,
        file: Scratch,
        keep: &mut K,
    ) -> Result<Replaced, K::Error> {
        let turn = self.loading.lock().await;
        let Route::Here(leader) = self.route() else { return Err(LoadError::NotLeader.into()) };
        let (sha256, size) = self.stage(file).await.map_err(LoadError::from)?;
        // Whether an entry may name the file.
        let mut is_proposed = false;
        let installed = self.spread_and_replace((sha256, size), leader, keep, &mut is_proposed).await;
        if installed.is_err() && !is_proposed {
            self.unstage(sha256).await.map_err(LoadError::from)?;
        }
        drop(turn);
        installed
    }

    async fn spread_and_replace<K: Keep>(
        &self,
        (sha256, size): (Sha256Sum, u64),
        leader: Leadership,
        keep: &mut K,
        is_proposed: &mut bool,
    ) -> Result<Replaced, K::Error> {
        self.spread(sha256, size).await?;
        let replacement = Replacement { sha256: sha256.0, size, epoch: 0 };
        for _ in 0..ATTEMPTS {
            keep.catch_up().await?;
            let Ok(replaced) = self.replace_fenced(replacement, leader, keep, is_proposed).await? else {
                tracing::warn!("what is to be kept before a restore was not in time; writes go on meanwhile");
                continue;
            };
            return Ok(replaced);
        }
        let message = format!("what brings the present back could not be kept within {FENCED:?}");
        Err(LoadError::from(RequestError::Internal(message)).into())
    }

    /// The error inside: it took too long, and nothing was proposed.
    async fn replace_fenced<K: Keep>(
        &self,
        replacement: Replacement,
        leader: Leadership,
        keep: &mut K,
        is_proposed: &mut bool,
    ) -> Result<Result<Replaced, TooSlow>, K::Error> {
        let begun = Instant::now();
        let keeping = async {
            let fence = self.proposer().fence().await;
            let last = self.await_all_applied().await?;
            tracing::info!(last, "writes wait until what brings the present back is kept");
            pass(Place::RestoreFenced).map_err(LoadError::from)?;
            keep.keep(last).await?;
            pass(Place::RestoreKept).map_err(LoadError::from)?;
            Ok::<_, K::Error>((fence, last))
        };
        let kept = self.while_led_by(leader, timeout_at(begun + FENCED, keeping)).await;
        let (fence, last) = match kept {
            Some(Ok(kept)) => kept?,
            Some(Err(_)) => return Ok(Err(TooSlow)),
            // What another leader writes is not known here.
            None => return Err(LoadError::NotLeader.into()),
        };
        *is_proposed = true;
        let outcome = self.propose_replacement(replacement, leader).await;
        // What is proposed from now on comes after it.
        drop(fence);
        let milliseconds = begun.elapsed().as_millis() as u64;
        tracing::info!(last, milliseconds, "writes go on; the database is replaced");
        let outcome = match outcome {
            Ok(applied) => {
                let unknown = |error: std::io::Error| RequestError::OutcomeUnknown(error.to_string());
                pass(Place::RestoreProposed).map_err(|error| LoadError::from(unknown(error)))?;
                applied.await
            }
            Err(error) => Err(error),
        };
        *is_proposed = !outcome.as_ref().is_err_and(LoadError::is_certain);
        Ok(Ok(Replaced { index: outcome?, last }))
    }

    /// Waits until everything in this leader's log is applied; returns the last entry.
    async fn await_all_applied(&self) -> Result<u64, LoadError> {
        // A log that was purged to its end says nothing; what was purged is applied.
        let last = self.log.last_index().max(self.store().applied().index()).unwrap_or(0);
        let stopped = |_| RequestError::Internal("the writer has stopped".into());
        self.store().until_applied(last).await.map_err(stopped)?;
        Ok(last)
    }
}
