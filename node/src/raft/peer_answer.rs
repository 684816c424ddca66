//! What the leader answers to a request that another member asks it to run.
//!
//! ```text
//! answer = 0 · index u64 · position (epoch u64 · index u64) · results | 1 (not the leader)
//!        | 2 · message (outcome unknown) | 3 · message | 4 (received already) | 5 (too large: ask by a stream)
//!        | 6 · wanted u64 · present u64 (another epoch) | 7 · index u64 (behind)
//!        | 8 (not proposed within the time allowed) | 9 (no space) | 10 (not ready) | 11 (busy)
//!        | 12 · index u64 (an entry before it ends who applies it)
//! ```

use super::request_error::RequestError;
use super::wire::{WireError, get_u8, get_u64};
use crate::store::Position;
use bytes::{BufMut, Bytes, BytesMut};

pub(crate) enum ExecuteError {
    /// It was not appended, nor run.
    NotLeader,
    /// The leader received it before; what is applied will tell.
    ReceivedAlready,
    /// Its result does not fit into one answer.
    TooLarge,
    Failed(RequestError),
}

impl From<ExecuteError> for RequestError {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::NotLeader => Self::NoLeader,
            ExecuteError::Failed(error) => error,
            ExecuteError::ReceivedAlready | ExecuteError::TooLarge => {
                Self::Internal("an answer to another question".into())
            }
        }
    }
}

pub(crate) fn write_answer(outcome: Result<(u64, Position, Bytes), ExecuteError>) -> Bytes {
    let mut out = BytesMut::new();
    match outcome {
        Ok((index, position, results)) => {
            out.reserve(25 + results.len());
            out.put_u8(0);
            out.put_u64_le(index);
            out.put_u64_le(position.epoch);
            out.put_u64_le(position.index);
            out.put_slice(&results);
        }
        Err(ExecuteError::NotLeader) => out.put_u8(1),
        Err(ExecuteError::ReceivedAlready) => out.put_u8(4),
        Err(ExecuteError::TooLarge) => out.put_u8(5),
        Err(ExecuteError::Failed(RequestError::OutcomeUnknown(message))) => {
            out.put_u8(2);
            out.put_slice(message.as_bytes());
        }
        Err(ExecuteError::Failed(RequestError::ExecuteTimeout)) => out.put_u8(8),
        Err(ExecuteError::Failed(RequestError::OtherEpoch { wanted, present })) => {
            out.put_u8(6);
            out.put_u64_le(wanted);
            out.put_u64_le(present);
        }
        Err(ExecuteError::Failed(RequestError::Behind(index))) => {
            out.put_u8(7);
            out.put_u64_le(index);
        }
        Err(ExecuteError::Failed(RequestError::NoSpace)) => out.put_u8(9),
        Err(ExecuteError::Failed(RequestError::NotReady)) => out.put_u8(10),
        Err(ExecuteError::Failed(RequestError::Busy)) => out.put_u8(11),
        Err(ExecuteError::Failed(RequestError::FatalEntry(index))) => {
            out.put_u8(12);
            out.put_u64_le(index);
        }
        Err(ExecuteError::Failed(error)) => {
            out.put_u8(3);
            out.put_slice(error.to_string().as_bytes());
        }
    }
    out.freeze()
}

pub(crate) fn read_answer(mut answer: Bytes) -> Result<(u64, Position, Bytes), ExecuteError> {
    let internal = |e: WireError| ExecuteError::Failed(RequestError::Internal(e.to_string()));
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let kind = get_u8(&mut answer).map_err(internal)?;
    let mut word = || get_u64(&mut answer).map_err(internal);
    Err(match kind {
        0 => {
            let (index, position) = (word()?, Position { epoch: word()?, index: word()? });
            return Ok((index, position, answer));
        }
        1 => ExecuteError::NotLeader,
        2 => ExecuteError::Failed(RequestError::OutcomeUnknown(text(&answer))),
        4 => ExecuteError::ReceivedAlready,
        5 => ExecuteError::TooLarge,
        6 => ExecuteError::Failed(RequestError::OtherEpoch { wanted: word()?, present: word()? }),
        7 => ExecuteError::Failed(RequestError::Behind(word()?)),
        8 => ExecuteError::Failed(RequestError::ExecuteTimeout),
        9 => ExecuteError::Failed(RequestError::NoSpace),
        10 => ExecuteError::Failed(RequestError::NotReady),
        11 => ExecuteError::Failed(RequestError::Busy),
        12 => ExecuteError::Failed(RequestError::FatalEntry(word()?)),
        _ => ExecuteError::Failed(RequestError::Internal(text(&answer))),
    })
}
