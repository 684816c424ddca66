//! Bodies of requests: how large each may be, how long it may take, and how much of all of them is in memory at once.

use super::respond::{self, Answer};
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Largest body of statements, in bytes.
pub const BODY_LIMIT: usize = 128 << 20;
/// How long receiving a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of bodies of statements in memory at once.
const ALL_BODIES: usize = 160 << 20;
/// The unit that room is counted in.
const UNIT: usize = 1 << 10;
/// Room that a body takes before any of it is here, at most.
const BEGINNING: usize = 4 << 10;
/// Room that it takes beyond what is here, at most.
const STEP: usize = 256 << 10;

/// Room for bodies, shared by all requests.
#[derive(Clone, Debug)]
pub struct BodyRoom {
    units: Arc<Semaphore>,
    /// How long a body waits for others to make room.
    room_timeout: Duration,
    /// How long receiving a body may take.
    body_timeout: Duration,
}

impl Default for BodyRoom {
    fn default() -> Self {
        let units = Arc::new(Semaphore::new(ALL_BODIES / UNIT));
        Self { units, room_timeout: Duration::from_secs(5), body_timeout: BODY_TIMEOUT }
    }
}

/// A body and the room that it takes; what is made of the body takes about as much, so keep the room with it.
#[derive(Debug)]
pub struct Held {
    /// The body.
    pub bytes: Bytes,
    /// Its room.
    pub room: OwnedSemaphorePermit,
}

impl BodyRoom {
    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Answer> {
        let units = bytes.div_ceil(UNIT) as u32;
        let taken = self.units.clone().acquire_many_owned(units);
        let taken = tokio::time::timeout(self.room_timeout, taken).await;
        match taken {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                let message = "too many large requests at once; try again";
                let mut answer = respond::error(StatusCode::SERVICE_UNAVAILABLE, message);
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                Err(answer)
            }
        }
    }

    /// Reads a body of statements.
    pub async fn receive(&self, body: Body) -> Result<Held, Answer> {
        self.receive_after(BytesMut::new(), body).await
    }

    /// Reads a body of statements whose beginning was read already.
    pub async fn receive_after(&self, beginning: BytesMut, mut body: Body) -> Result<Held, Answer> {
        let deadline = Instant::now() + self.body_timeout;
        let announced = body.size_hint().exact().map(|n| beginning.len() + n as usize);
        if announced.is_some_and(|n| n > BODY_LIMIT) {
            return Err(too_large(BODY_LIMIT));
        }
        // For what is here, and for what small bodies will be: a large one that is only announced takes no room from others,
        // however many there are of those.
        let expected = announced.unwrap_or(BEGINNING).min(BEGINNING).max(beginning.len());
        let mut room = self.take(expected.max(1)).await?;
        let mut all = beginning;
        // Grows with what arrives, not with what is announced; each time by as much as is here, or a step.
        while let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(|_| too_slow())? {
            let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
            if all.len() + piece.len() > BODY_LIMIT {
                return Err(too_large(BODY_LIMIT));
            }
            let (held, needed) = (room.num_permits() * UNIT, all.len() + piece.len());
            if needed > held {
                room.merge(self.take((needed - held).max(held.min(STEP))).await?);
            }
            all.extend_from_slice(&piece);
        }
        Ok(Held { bytes: all.freeze(), room })
    }
}

fn too_large(limit: usize) -> Answer {
    respond::error(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
}

fn too_slow() -> Answer {
    respond::error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
}

fn broken(error: axum::Error) -> Answer {
    respond::error(StatusCode::BAD_REQUEST, error)
}

/// Reads a small body of at most `limit` bytes.
pub async fn read_small(body: Body, limit: usize) -> Result<Bytes, Answer> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(error)) => Err(respond::error(StatusCode::BAD_REQUEST, error)),
        Err(_) => Err(too_slow()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::{FutureExt as _, StreamExt as _, stream};
    use std::convert::Infallible;

    fn chunked(sizes: &[usize]) -> Body {
        let pieces: Vec<_> = sizes.iter().map(|n| Ok::<_, Infallible>(Bytes::from(vec![b'x'; *n]))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn bodies_share_one_room() {
        let room = BodyRoom::default();
        let all = room.units.available_permits();
        let held = room.receive(Body::from(vec![0; 10_000])).await.unwrap();
        assert_eq!((held.bytes.len(), room.units.available_permits()), (10_000, all - 10));
        let other = room.receive(chunked(&[1000, 600_000, 1])).await.unwrap();
        assert_eq!(other.bytes.len(), 601_001);
        assert!(other.room.num_permits() * UNIT >= 601_001);
        drop((held, other));
        assert_eq!(room.units.available_permits(), all);
    }

    #[tokio::test]
    async fn who_only_announces_a_large_body_keeps_nobody_out() {
        let room = BodyRoom { body_timeout: Duration::from_secs(3600), ..BodyRoom::default() };
        let silent: Vec<_> = (0..10_000)
            .map(|_| {
                let byte = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"["))]);
                let body = Body::from_stream(byte.chain(stream::pending()));
                let mut received = Box::pin(async { room.receive(body).await.map(drop) });
                assert!(received.as_mut().now_or_never().is_none(), "it waits for the rest");
                received
            })
            .collect();
        let large = room.receive(chunked(&[BODY_LIMIT / 2, BODY_LIMIT / 4])).await.unwrap();
        assert_eq!(large.bytes.len(), BODY_LIMIT / 4 * 3);
        drop(silent);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused() {
        let short = Duration::from_millis(20);
        let room = BodyRoom { room_timeout: short, body_timeout: short, ..BodyRoom::default() };
        let status = |answer: Answer| answer.status().as_u16();
        let large = BodyRoom::default().receive(chunked(&[BODY_LIMIT, 1])).await.unwrap_err();
        assert_eq!(status(large), 413);
        let everything = room.units.clone().acquire_many_owned((ALL_BODIES / UNIT) as u32).await.unwrap();
        assert_eq!(status(room.receive(Body::from("x")).await.unwrap_err()), 503);
        drop(everything);
        let endless = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(status(room.receive(endless).await.unwrap_err()), 408);
        assert_eq!(status(read_small(chunked(&[10]), 9).await.unwrap_err()), 413);
    }
}
