//! Traced requests between members: what a follower forwards names the span that it is under.
//!
//! ```text
//! traced call = trace [16] · span [8] · kind u8 (16 = execute, 17 = query) · body of that call
//! ```
//! A member of an older version would hang up at such a call, so a leader is asked first whether it takes them, once for as
//! long as it leads.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::waiters::Leadership;
use crate::trace::{self, OpenSpan, SpanKind, TraceContext};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use client::admin::NodeId;
use std::time::Duration;

/// How long a leader may take to say whether it takes traced calls.
const PATIENCE: Duration = Duration::from_secs(1);

impl Consensus {
    /// Calls the leader, with the present span if there is one.
    pub(super) async fn call_leader(
        &self,
        leader: Leadership,
        address: &str,
        kind: Kind,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let Some(mut span) = trace::child("forward to the leader", SpanKind::Client) else {
            return self.peers.call(leader.node, address, kind, body, timeout).await;
        };
        span.set("server.address", address);
        let answer = if self.takes_traced(leader, address).await {
            let body = wrap(&span, kind, body);
            self.peers.call(leader.node, address, Kind::Traced, &body, timeout).await
        } else {
            self.peers.call(leader.node, address, kind, body, timeout).await
        };
        if answer.is_err() {
            span.fail();
        }
        answer
    }

    async fn takes_traced(&self, leader: Leadership, address: &str) -> bool {
        let known = *self.traced_leader.lock();
        if let Some((_, takes)) = known.filter(|(of, _)| *of == leader) {
            return takes;
        }
        // Who does not answer is asked again by the next.
        let Ok(described) = self.describe_peer(NodeId(leader.node), address, PATIENCE).await else {
            return false;
        };
        *self.traced_leader.lock() = Some((leader, described.takes_traced));
        described.takes_traced
    }

    /// Answers a call within the span that it names, if this member traces at all.
    pub(super) async fn answer_traced(&self, mut body: Bytes) -> Result<Bytes, String> {
        if body.len() <= TraceContext::SIZE {
            return Err("a traced call is cut short".into());
        }
        let mut context = [0; TraceContext::SIZE];
        body.copy_to_slice(&mut context);
        let (kind, name) = match Kind::from_u8(body.get_u8()) {
            Some(Kind::Execute) => (Kind::Execute, "forwarded write"),
            Some(Kind::Query) => (Kind::Query, "forwarded query"),
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
                let span = tracer.under(TraceContext::decode(context), name, SpanKind::Server);
                span.within(work).await
            }
        }
    }
}

fn wrap(span: &OpenSpan, kind: Kind, body: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(TraceContext::SIZE + 1 + body.len());
    whole.put_slice(&span.context().encode());
    whole.put_u8(kind as u8);
    whole.put_slice(body);
    whole.freeze()
}
