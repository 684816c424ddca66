//! Runs a query on what is applied here: inline if it is small, else on a thread of its own, streaming.

use super::Consensus;
use super::command::EncodedRequest;
use super::query::ReadBody;
use super::request_error::RequestError;
use crate::store::{Abandoned, Inline, Limits, Position, ReadError, Sink, Stopped};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes gathered before they are sent on.
const PIECE: usize = 64 << 10;
/// How long a reader may keep a query from going on.
const STALLED: Duration = Duration::from_secs(30);
/// How long a large query waits until fewer of them are being read.
const TURN: Duration = Duration::from_secs(10);
/// How often a query that waits for its reader looks whether it has to give way.
const LOOK: Duration = Duration::from_millis(100);

/// A query that runs, or ran, here.
#[derive(Debug)]
pub struct LocalRead {
    /// Its results.
    pub body: ReadBody,
    /// How far the state is that they tell of.
    pub position: Position,
}

impl Consensus {
    /// Runs a query here.
    pub async fn read_here(
        &self,
        request: EncodedRequest,
        limits: Limits,
    ) -> Result<LocalRead, RequestError> {
        match self.read_inline(&request, limits).await? {
            Some(read) => Ok(read),
            None => Box::pin(self.read_streaming(request, limits)).await,
        }
    }

    /// Runs a query on this thread; none if it is too large for that.
    pub(super) async fn read_inline(
        &self,
        request: &EncodedRequest,
        limits: Limits,
    ) -> Result<Option<LocalRead>, RequestError> {
        self.store().readers().admitted().await;
        let view = request.view().map_err(|e| RequestError::Internal(e.to_string()))?;
        Ok(match self.store().readers().try_inline(&view, limits)? {
            Inline::Done(results, position) => {
                Some(LocalRead { body: ReadBody::Whole(results.into()), position })
            }
            Inline::OverBudget => None,
        })
    }

    /// Runs a query on a thread of its own.
    pub(super) async fn read_streaming(
        &self,
        request: EncodedRequest,
        limits: Limits,
    ) -> Result<LocalRead, RequestError> {
        let readers = self.store().readers().clone();
        let permit =
            timeout(TURN, self.streams.clone().acquire_owned()).await.map_err(|_| RequestError::Busy)?;
        let permit = permit.map_err(|e| RequestError::Internal(e.to_string()))?;
        readers.admitted().await;
        let (pieces, body) = mpsc::channel(4);
        let (tell, position) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut sink = Pieces::new(pieces, runtime);
            let mut tell = Some(tell);
            // Who no longer waits does not want to know.
            let mut at = |position: Position| drop(tell.take().map(|tell| tell.send(Ok(position))));
            let outcome = request
                .view()
                .map_err(ReadError::from)
                .and_then(|view| readers.run(&view, limits, &mut sink, &mut at));
            match outcome {
                // Who hung up does not want to know.
                Ok(()) => {
                    let _ = sink.end();
                }
                // Without the end, who receives it knows that the result is not whole.
                Err(ReadError::Stopped) => {}
                Err(error) => match tell {
                    Some(tell) => drop(tell.send(Err(error))),
                    None => {
                        tracing::warn!(%error, "a query ended early");
                        let _ = sink.give(Err(io::Error::other(error)));
                    }
                },
            }
        });
        match position.await {
            Ok(Ok(position)) => Ok(LocalRead { body: ReadBody::Stream(body), position }),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(RequestError::Internal("the query's thread ended".into())),
        }
    }

    /// Waits until this member has applied what a client has seen elsewhere.
    pub(super) async fn await_position(
        &self,
        wanted: Position,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let epoch = self.identity().cluster().map_or(0, |c| c.epoch);
        if wanted.epoch != epoch {
            return Err(RequestError::OtherEpoch { wanted: wanted.epoch, present: epoch });
        }
        match timeout_at(deadline, self.store().until_applied(wanted.index)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(RequestError::Internal("the writer has stopped".into())),
            Err(_) => Err(RequestError::Behind(wanted.index)),
        }
    }
}

/// Sends results on in pieces, from a thread that may block.
struct Pieces {
    buffer: Vec<u8>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    runtime: tokio::runtime::Handle,
    gives_way: Arc<AtomicBool>,
}

impl Pieces {
    fn new(pieces: mpsc::Sender<io::Result<Bytes>>, runtime: tokio::runtime::Handle) -> Self {
        Self { buffer: Vec::with_capacity(PIECE + (PIECE >> 2)), pieces, runtime, gives_way: Arc::default() }
    }

    /// Sends all but the last `keep` bytes; what could not be sent is still in the buffer.
    fn send(&mut self, keep: usize) -> Result<(), Stopped> {
        let rest = self.buffer.split_off(self.buffer.len() - keep.min(self.buffer.len()));
        let piece = Bytes::from(std::mem::replace(&mut self.buffer, rest));
        if piece.is_empty() {
            return Ok(());
        }
        self.buffer.reserve(PIECE);
        self.give(Ok(piece))
    }

    /// Waits for the reader, unless the query has to give way.
    fn give(&mut self, mut piece: io::Result<Bytes>) -> Result<(), Stopped> {
        let begun = Instant::now();
        loop {
            piece = match self.runtime.block_on(self.pieces.send_timeout(piece, LOOK)) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Closed(_)) => return Err(Stopped),
                Err(SendTimeoutError::Timeout(unsent)) => unsent,
            };
            if begun.elapsed() >= STALLED || self.gives_way.load(Ordering::Relaxed) {
                self.buffer.splice(..0, piece.into_iter().flatten());
                return Err(Stopped);
            }
        }
    }

    /// Sends what is left, and that it was all. The query has ended, so nobody else waits for the reader any more.
    fn end(&mut self) -> Result<(), Stopped> {
        self.gives_way = Arc::default();
        self.send(0)?;
        self.give(Ok(Bytes::new()))
    }
}

impl Sink for Pieces {
    fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    fn abandoned(&self) -> Option<Abandoned> {
        let pieces = self.pieces.clone();
        Some(Box::new(move || pieces.is_closed()))
    }

    fn part_written(&mut self) -> Result<(), Stopped> {
        if self.buffer.len() >= PIECE { self.send(1) } else { Ok(()) }
    }

    fn gives_way_on(&mut self, flag: Arc<AtomicBool>) {
        self.gives_way = flag;
    }
}
