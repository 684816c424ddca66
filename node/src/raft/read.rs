//! The read barrier: one round serves every read that waits when it starts. On the leader it goes to a quorum; on another
//! member it is one question to the leader ([`super::follower_read`]).
//!
//! A read joins only a round that starts after it arrived, so that what the round confirms covers everything
//! acknowledged before the read (Raft dissertation, section 6.4).

use super::types::Raft;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// How long one round may take before it is given up.
pub(super) const ROUND: Duration = Duration::from_secs(2);

/// Why a barrier was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// This member does not lead.
    #[error("not the leader")]
    NotLeader,
    /// No quorum confirmed this leader in time.
    #[error("no quorum confirmed the leader in time")]
    NoQuorum,
    /// Raft has stopped on this member.
    #[error("{0}")]
    Stopped(String),
}

/// An index up to which everything is committed that was acknowledged before the round began.
pub type Outcome = Result<u64, BarrierError>;

/// What is done once for all reads that wait.
pub trait Round: Send + Sync + 'static {
    /// Finds out the index.
    fn confirm(&self) -> impl Future<Output = Outcome> + Send;
}

/// Shares rounds among reads.
pub struct Barrier<R> {
    round: R,
    waiting: Mutex<Vec<oneshot::Sender<Outcome>>>,
    kick: Notify,
}

impl<R: Round> Barrier<R> {
    /// Starts it on the present runtime.
    pub fn start(round: R) -> Arc<Self> {
        let barrier = Arc::new(Self { round, waiting: Mutex::default(), kick: Notify::new() });
        tokio::spawn(barrier.clone().run());
        barrier
    }

    /// Waits for a round that begins after now; returns the index that it confirmed.
    pub async fn pass(&self) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock();
            waiting.push(answer);
            waiting.len() == 1
        };
        if first {
            self.kick.notify_one();
        }
        outcome.await.unwrap_or_else(|_| Err(BarrierError::Stopped("this member is going down".into())))
    }

    async fn run(self: Arc<Self>) {
        loop {
            self.kick.notified().await;
            loop {
                let waiting = std::mem::take(&mut *self.waiting.lock());
                if waiting.is_empty() {
                    break;
                }
                let outcome = tokio::time::timeout(ROUND, self.round.confirm())
                    .await
                    .unwrap_or(Err(BarrierError::NoQuorum));
                for answer in waiting {
                    // Who no longer waits does not want to know.
                    drop(answer.send(outcome.clone()));
                }
            }
        }
    }
}

/// The leader's round: a quorum confirms that it leads, and what was committed is applied here.
pub struct Quorum(pub Raft);

impl Round for Quorum {
    async fn confirm(&self) -> Outcome {
        let Self(raft) = self;
        let linearizer =
            raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
                RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => BarrierError::NotLeader,
                RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => BarrierError::NoQuorum,
                RaftError::Fatal(fatal) => BarrierError::Stopped(fatal.to_string()),
            })?;
        match linearizer.try_await_ready(raft, Some(ROUND)).await {
            Ok(Ok(state)) => Ok(state.read_log_id().index()),
            Ok(Err(_)) => Err(BarrierError::NoQuorum),
            Err(fatal) => Err(BarrierError::Stopped(fatal.to_string())),
        }
    }
}
