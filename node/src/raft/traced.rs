//! Traced requests between members: what a follower forwards names the span that it is under.
//!
//! ```text
//! traced call = trace [16] · span [8] · kind u8 (16 = execute, 17 = query) · body of that call
//!             | trace [16] · span [8] · kind u8 + 128 · length u16 · state · body of that call
//! ```
//! A member of an older version would hang up at such a call, so a leader is asked first whether it takes them, once for as
//! long as it leads. The state is `tracestate`, at most [`TraceState::LONGEST`] bytes.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::waiters::Leadership;
use crate::trace::{self, Parentage, SpanKind, TraceContext, TraceState};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use client::admin::NodeId;
use std::time::Duration;

/// How long a leader may take to say whether it takes traced calls.
const PATIENCE: Duration = Duration::from_secs(1);
/// Added to the kind of a call that has a state.
const HAS_STATE: u8 = 128;

/// What a leader takes beside plain calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Takes {
    /// Those that name their span.
    traced: bool,
    /// Those that say what is handed on, too.
    trace_state: bool,
    /// Those that name the client they are for.
    pub(super) callers: bool,
}

impl Consensus {
    /// Calls the leader, for the present caller and with the present span, if there are.
    pub(super) async fn call_leader(
        &self,
        leader: Leadership,
        address: &str,
        kind: Kind,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let Some(mut span) = trace::child("forward to the leader", SpanKind::Client) else {
            return self.call_for_caller(leader, address, kind, body, timeout).await;
        };
        span.set("server.address", address);
        let takes = self.taken_by(leader, address).await.unwrap_or_default();
        let answer = if takes.traced {
            let mut parentage = span.parentage();
            if !takes.trace_state {
                parentage.state = TraceState::default();
            }
            let body = pack(&parentage, kind, body);
            self.call_for_caller(leader, address, Kind::Traced, &body, timeout).await
        } else {
            self.call_for_caller(leader, address, kind, body, timeout).await
        };
        if answer.is_err() {
            span.fail();
        }
        answer
    }

    /// What the leader takes; none if it does not say so, then it is asked again by the next.
    pub(super) async fn taken_by(&self, leader: Leadership, address: &str) -> Option<Takes> {
        let known = || {
            let (_, takes) = (*self.leader_takes.lock()).filter(|(of, _)| *of == leader)?;
            Some(takes)
        };
        if let Some(takes) = known() {
            return Some(takes);
        }
        // One asks for all: a new leader has better things to do.
        let _turn = self.asking_leader.lock().await;
        if let Some(takes) = known() {
            return Some(takes);
        }
        let described = match self.describe_peer(NodeId(leader.node), address, PATIENCE).await {
            Ok(described) => described,
            // It is there, and describes itself in another way.
            Err(CallError::Remote(_)) => return Some(Takes::default()),
            Err(_) => return None,
        };
        let takes = Takes {
            traced: described.takes_traced,
            trace_state: described.takes_trace_state,
            callers: described.takes_callers,
        };
        *self.leader_takes.lock() = Some((leader, takes));
        Some(takes)
    }

    /// Answers a call within the span that it names, if this member traces at all.
    pub(super) async fn answer_traced(&self, body: Bytes) -> Result<Bytes, String> {
        let (parentage, kind, body) = unpack(body)?;
        let name = match kind {
            Kind::Execute => "forwarded write",
            Kind::Query => "forwarded query",
            _ => return Err("a traced call of another kind".into()),
        };
        let work = async {
            match kind {
                Kind::Query => self.answer_query(body).await,
                _ => self.answer_execute(body).await,
            }
        };
        match &self.config.tracer {
            None => work.await,
            Some(tracer) => {
                let span = tracer.under(&parentage, name, SpanKind::Server);
                span.within(work).await
            }
        }
    }
}

/// A call that names the span it is under.
pub fn pack(parentage: &Parentage, kind: Kind, body: &[u8]) -> Bytes {
    let state = parentage.state.as_str().as_bytes();
    let mut whole = BytesMut::with_capacity(TraceContext::SIZE + 3 + state.len() + body.len());
    whole.put_slice(&parentage.context.encode());
    if state.is_empty() {
        whole.put_u8(kind as u8);
    } else {
        whole.put_u8(kind as u8 + HAS_STATE);
        whole.put_u16(state.len() as u16);
        whole.put_slice(state);
    }
    whole.put_slice(body);
    whole.freeze()
}

/// What [`pack`] put together.
pub fn unpack(mut body: Bytes) -> Result<(Parentage, Kind, Bytes), String> {
    let cut_short = || "a traced call is cut short".to_owned();
    if body.len() <= TraceContext::SIZE {
        return Err(cut_short());
    }
    let mut context = [0; TraceContext::SIZE];
    body.copy_to_slice(&mut context);
    let kind = body.get_u8();
    let state = if kind & HAS_STATE == 0 {
        TraceState::default()
    } else {
        let length = usize::from(body.try_get_u16().map_err(|_| cut_short())?);
        if length > TraceState::LONGEST {
            return Err(format!("a traced call with a state of {length} bytes"));
        }
        if body.len() < length {
            return Err(cut_short());
        }
        let text = body.split_to(length);
        TraceState::of(std::str::from_utf8(&text).map_err(|error| format!("the state of a trace: {error}"))?)
    };
    let kind = Kind::from_u8(kind & !HAS_STATE).ok_or("a traced call of an unknown kind")?;
    Ok((Parentage { context: TraceContext::decode(context), state }, kind, body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn calls_come_apart_as_they_were_put_together() {
        let context = TraceContext { trace: [1; 16], span: [2; 8] };
        for state in ["", "a=1", &"s".repeat(TraceState::LONGEST)] {
            let parentage = Parentage { context, state: TraceState::of(state) };
            let whole = pack(&parentage, Kind::Query, b"body");
            let (read, kind, body) = unpack(whole.clone()).unwrap();
            assert_eq!((read, kind as u8, &body[..]), (parentage, Kind::Query as u8, &b"body"[..]));
            // Whatever is missing at the end, nothing is read beyond it.
            for end in 0..whole.len() - body.len() {
                assert!(unpack(whole.slice(..end)).is_err(), "{state} {end}");
            }
        }
        let with = |length: u16, state: &[u8]| {
            let mut call = BytesMut::from(&[3; TraceContext::SIZE][..]);
            call.put_u8(Kind::Query as u8 + HAS_STATE);
            call.put_u16(length);
            call.put_slice(state);
            unpack(call.freeze())
        };
        assert!(with(600, &[b'a'; 600]).is_err(), "too long");
        assert!(with(1, &[0xff]).is_err(), "no text");
    }
}
