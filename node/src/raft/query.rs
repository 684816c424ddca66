//! A query, how it is to be run, and how it is sent to the leader:
//!
//! ```text
//! query call = level u8 · timeout ms u32 · statement timeout ms u32 (0 = none) · rows u64 · bytes u64 (all ones = any)
//!            · bookmark (epoch u64 · index u64) · request
//! ```

use super::command::EncodedRequest;
use super::wire::{get_u8, get_u32, get_u64};
use crate::store::{Limits, Position, ResultLimit};
use bytes::{BufMut, Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;

/// Consistency of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// This member, whatever it has.
    None,
    /// Who believes to be the leader.
    Weak,
    /// The leader, after a quorum confirmed it.
    Linearizable,
    /// The leader, in the order of writes.
    Strong,
    /// `Weak` on a voter, `None` on a read replica.
    Auto,
}

/// How stale a read without a leader may be.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// The leader was heard within this time.
    pub within: Duration,
    /// And what it said to be committed is applied, or the last entry applied is not older than that.
    pub strict: bool,
}

/// How a query is to be run.
#[derive(Clone, Copy, Debug)]
pub struct QueryOptions {
    /// Consistency.
    pub level: Level,
    /// How long it may wait for a leader and its quorum.
    pub timeout: Duration,
    /// What each statement may take.
    pub limits: Limits,
    /// Of reads without a leader.
    pub freshness: Option<Freshness>,
    /// What the client has seen: the state must be at least as far.
    pub bookmark: Option<Position>,
}

/// Results of a query: the inside of the array `results`.
#[derive(Debug)]
pub enum ReadBody {
    /// All of it.
    Whole(Bytes),
    /// In pieces, as they come. An empty one is the end: without it the result is not whole.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

/// A query that was run.
#[derive(Debug)]
pub struct QueryAnswer {
    /// Its results.
    pub body: ReadBody,
    /// Index of the last entry whose effects they show, for `strong`; else 0.
    pub index: u64,
    /// How far the state is that they tell of.
    pub position: Position,
    /// Peer address of the leader that it was forwarded to.
    pub forwarded_to: Option<String>,
}

/// A query as it is sent to the leader.
pub struct QueryCall {
    pub(super) level: Level,
    pub(super) timeout: Duration,
    pub(super) options: QueryOptions,
}

impl QueryCall {
    pub fn encode(&self, request: &EncodedRequest) -> Bytes {
        let mut body = BytesMut::with_capacity(request.bytes().len() + 41);
        body.put_u8(match self.level {
            Level::None | Level::Weak | Level::Auto => 1,
            Level::Linearizable => 2,
            Level::Strong => 3,
        });
        body.put_u32_le(self.timeout.as_millis() as u32);
        let Limits { statement_timeout, result } = self.options.limits;
        body.put_u32_le(statement_timeout.map_or(0, |t| t.as_millis().max(1) as u32));
        for most in [result.rows, result.bytes] {
            body.put_u64_le(most.unwrap_or(u64::MAX));
        }
        let bookmark = self.options.bookmark.unwrap_or_default();
        body.put_u64_le(bookmark.epoch);
        body.put_u64_le(bookmark.index);
        body.put_slice(request.bytes());
        body.freeze()
    }

    pub fn decode(mut body: Bytes) -> io::Result<(Self, EncodedRequest)> {
        let level = match get_u8(&mut body)? {
            2 => Level::Linearizable,
            3 => Level::Strong,
            _ => Level::Weak,
        };
        let milliseconds = |n: u32| Duration::from_millis(n.into());
        let timeout = milliseconds(get_u32(&mut body)?);
        let statement_timeout = Some(milliseconds(get_u32(&mut body)?)).filter(|t| !t.is_zero());
        let mut most = || get_u64(&mut body).map(|most| Some(most).filter(|most| *most != u64::MAX));
        let result = ResultLimit { rows: most()?, bytes: most()? };
        let limits = Limits { statement_timeout, result };
        let bookmark = Position { epoch: get_u64(&mut body)?, index: get_u64(&mut body)? };
        let bookmark = Some(bookmark).filter(|b| *b != Position::default());
        let request = EncodedRequest::from_peer(body).map_err(io::Error::other)?;
        let options = QueryOptions { level, timeout, limits, freshness: None, bookmark };
        Ok((Self { level, timeout, options }, request))
    }
}
