//! Traces of requests: which part of a request took how long, on which member.
//!
//! A request is traced if its client says so by a sampled `traceparent` header (W3C Trace Context), or by chance
//! (`-otlp-trace-ratio`) if it says nothing, and if fewer than `-otlp-trace-limit` were in this second: whoever may send
//! statements may ask for a trace, and each costs memory and calls.
//!
//! What is not traced has no span at all: a span exists only to be sent. The present
//! span is known to the task that works on the request; it goes along when the request is forwarded, and not into the
//! log: other members' replicas do the same work for every request, and nobody waits for them.
//!
//! Source: <https://www.w3.org/TR/trace-context/>.

mod budget;
mod state;

pub use state::TraceState;

use crate::clock;
use budget::Budget;
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Spans that wait to be sent; more are dropped.
const WAITING: usize = 4096;
/// Bytes of what is said of a span: it may be a client's, and thousands wait.
const LONGEST: usize = 128;

/// Whether anything of this process is ever traced: what is not costs no more than to look here.
static ON: AtomicBool = AtomicBool::new(false);

tokio::task_local! {
    static PRESENT: (Arc<Tracer>, Parentage);
}

/// Names a span for those that come under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Of all spans of a request.
    pub trace: [u8; 16],
    /// Of this one.
    pub span: [u8; 8],
}

/// What is known of the span above by those under it, also on other members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parentage {
    /// Its names.
    pub context: TraceContext,
    /// What is handed on along the trace.
    pub state: TraceState,
}

/// What a client's `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    context: TraceContext,
    sampled: bool,
}

impl Parent {
    /// `version-trace-span-flags`, in lower-case hexadecimal digits. A later version may have more behind it.
    fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let version = bytes_of::<1>(parts.next()?)?[0];
        let (trace, span) = (bytes_of::<16>(parts.next()?)?, bytes_of::<8>(parts.next()?)?);
        let flags = bytes_of::<1>(parts.next()?)?[0];
        let is_known = version != 0xff && (version != 0 || parts.next().is_none());
        let is_named = trace != [0; 16] && span != [0; 8];
        (is_known && is_named)
            .then_some(Self { context: TraceContext { trace, span }, sampled: flags & 1 != 0 })
    }
}

fn bytes_of<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    let is_hex = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if digits.len() != 2 * N || !is_hex {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl TraceContext {
    /// Its size in a call to another member.
    pub const SIZE: usize = 24;

    /// As it goes to another member.
    pub fn encode(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.trace);
        bytes[16..].copy_from_slice(&self.span);
        bytes
    }

    /// As it comes from another member.
    pub fn decode(bytes: [u8; Self::SIZE]) -> Self {
        let mut context = Self { trace: [0; 16], span: [0; 8] };
        context.trace.copy_from_slice(&bytes[..16]);
        context.span.copy_from_slice(&bytes[16..]);
        context
    }
}

/// What a span is to the one above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Work of the same member.
    Internal,
    /// Asked for by somebody else.
    Server,
    /// Asks somebody else.
    Client,
}

/// A span that has ended. Nothing of a statement is in it: statements hold what clients keep secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its names.
    pub context: TraceContext,
    /// The span that it is under; none above the first one.
    pub parent: Option<[u8; 8]>,
    /// What is handed on along the trace.
    pub state: TraceState,
    /// What was done.
    pub name: &'static str,
    /// What it is to the one above.
    pub kind: SpanKind,
    /// When it began, in microseconds since 1970.
    pub began_us: i64,
    /// When it ended.
    pub ended_us: i64,
    /// What else is known.
    pub attributes: Vec<(&'static str, String)>,
    /// Whether it came to nothing by this member's fault.
    pub failed: bool,
}

impl Span {
    fn begin(parent: &Parentage, name: &'static str, kind: SpanKind) -> Self {
        let Parentage { context, state } = parent;
        Self {
            context: TraceContext { trace: context.trace, span: rand::random() },
            parent: Some(context.span).filter(|span| *span != [0; 8]),
            state: state.clone(),
            name,
            kind,
            began_us: clock::now_us(),
            ended_us: 0,
            attributes: Vec::new(),
            failed: false,
        }
    }
}

/// Decides what is traced, and takes spans.
#[derive(Debug)]
pub struct Tracer {
    ratio: f64,
    budget: Mutex<Budget>,
    ended: mpsc::Sender<Span>,
    dropped: AtomicU64,
    refused: AtomicU64,
}

impl Tracer {
    /// Traces `ratio` of the requests whose clients say nothing, and at most `limit` requests a second. Spans are to be
    /// taken from the receiver.
    pub fn new(ratio: f64, limit: u32) -> (Arc<Self>, mpsc::Receiver<Span>) {
        ON.store(true, Ordering::Relaxed);
        let (ended, spans) = mpsc::channel(WAITING);
        let budget = Mutex::new(Budget::new(limit, clock::now_us()));
        let (dropped, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        (Arc::new(Self { ratio, budget, ended, dropped, refused }), spans)
    }

    /// Spans that were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Requests that were to be traced and were not, because too many were.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The span of a client's request that came at `came_us` with this `traceparent` and this `tracestate`, if it is to be
    /// traced. What cannot be read counts as nothing.
    pub fn request(
        self: &Arc<Self>,
        came_us: i64,
        traceparent: Option<&str>,
        state: impl FnOnce() -> TraceState,
    ) -> Option<OpenSpan> {
        let (context, state) = match traceparent.and_then(Parent::parse) {
            Some(parent) if parent.sampled => (parent.context, state()),
            None if self.ratio > 0.0 && rand::random::<f64>() < self.ratio => {
                (TraceContext { trace: rand::random(), span: [0; 8] }, TraceState::default())
            }
            _ => return None,
        };
        if !self.budget.lock().take(clock::now_us()) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let mut open = self.under(&Parentage { context, state }, "HTTP request", SpanKind::Server);
        open.span.began_us = came_us;
        Some(open)
    }

    /// A span under `parent`.
    pub fn under(self: &Arc<Self>, parent: &Parentage, name: &'static str, kind: SpanKind) -> OpenSpan {
        OpenSpan { tracer: self.clone(), span: Span::begin(parent, name, kind) }
    }

    fn end(&self, span: Span) {
        if self.ended.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A span that has begun; it ends when dropped, also where the work is given up.
#[derive(Debug)]
pub struct OpenSpan {
    tracer: Arc<Tracer>,
    span: Span,
}

impl OpenSpan {
    /// Adds something that is known.
    pub fn set(&mut self, key: &'static str, value: &str) {
        let value = &value[..value.floor_char_boundary(LONGEST)];
        self.span.attributes.push((key, value.to_owned()));
    }

    /// It came to nothing.
    pub fn fail(&mut self) {
        self.span.failed = true;
    }

    /// What those under it know of it.
    pub fn parentage(&self) -> Parentage {
        Parentage { context: self.span.context, state: self.span.state.clone() }
    }

    /// Works on something within it: [`child`] makes spans under it there.
    pub async fn within<F: Future>(&self, work: F) -> F::Output {
        PRESENT.scope((self.tracer.clone(), self.parentage()), work).await
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.span.ended_us = clock::now_us();
        self.tracer.end(self.span.clone());
    }
}

/// A span under the present one; none if this task's request is not traced.
pub fn child(name: &'static str, kind: SpanKind) -> Option<OpenSpan> {
    if !ON.load(Ordering::Relaxed) {
        return None;
    }
    PRESENT.try_with(|(tracer, parent)| tracer.under(parent, name, kind)).ok()
}

/// When a traced write got how far on the leader: noted by those who work on many writes at once.
#[derive(Debug, Default)]
pub struct Stages {
    /// When it was put into an entry; 0: not yet. In microseconds since 1970, as the other.
    proposed_us: AtomicI64,
    /// When its entry was committed, and about to be applied.
    committed_us: AtomicI64,
}

impl Stages {
    /// It was put into an entry.
    pub fn proposed(&self) {
        self.proposed_us.store(clock::now_us(), Ordering::Relaxed);
    }

    /// Its entry is committed.
    pub fn committed(&self) {
        self.committed_us.store(clock::now_us(), Ordering::Relaxed);
    }
}

/// A traced write on the leader, from when it is queued to when it is applied: three spans.
#[derive(Debug)]
pub struct StagedWrite {
    tracer: Arc<Tracer>,
    parent: Parentage,
    began_us: i64,
    /// To be noted in.
    pub stages: Arc<Stages>,
}

impl StagedWrite {
    /// Of the present request, if it is traced.
    pub fn begin() -> Option<Self> {
        if !ON.load(Ordering::Relaxed) {
            return None;
        }
        let present = PRESENT.try_with(Clone::clone).ok();
        let (tracer, parent) = present?;
        Some(Self { tracer, parent, began_us: clock::now_us(), stages: Arc::default() })
    }

    /// It was applied: what was before is known now.
    pub fn applied(self) {
        let (proposed, committed) = (&self.stages.proposed_us, &self.stages.committed_us);
        let (proposed, committed) = (proposed.load(Ordering::Relaxed), committed.load(Ordering::Relaxed));
        // A write that was proposed before by another leader is applied without having been proposed here.
        if proposed == 0 || committed == 0 {
            return;
        }
        let now = clock::now_us();
        for (name, began_us, ended_us) in [
            ("propose", self.began_us, proposed),
            ("append and commit", proposed, committed),
            ("apply", committed, now),
        ] {
            let span = Span::begin(&self.parent, name, SpanKind::Internal);
            self.tracer.end(Span { began_us, ended_us: ended_us.max(began_us), ..span });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn what_clients_say_is_read_as_the_standard_wants_it() {
        let good = Parent::parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(bytes_of(TRACE), Some(good.context.trace));
        assert_eq!(bytes_of(SPAN), Some(good.context.span));
        for (header, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-03"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("cc-{TRACE}-{SPAN}-01-what-comes-later"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{TRACE}0-{SPAN}-01"), None),
            (format!("00-{}é-{SPAN}-01", &TRACE[..30]), None),
            (String::new(), None),
        ] {
            assert_eq!(Parent::parse(&header).map(|parent| parent.sampled), sampled, "{header}");
        }
        assert_eq!(TraceContext::decode(good.context.encode()), good.context);
    }

    #[tokio::test]
    async fn a_request_is_traced_if_its_client_or_chance_says_so() {
        let sampled = format!("00-{TRACE}-{SPAN}-01");
        let not_sampled = format!("00-{TRACE}-{SPAN}-00");
        for (ratio, header, traced) in [
            (0.0, Some(sampled.as_str()), true),
            (0.0, None, false),
            (1.0, None, true),
            (1.0, Some("nonsense"), true),
            (1.0, Some(not_sampled.as_str()), false),
        ] {
            let (tracer, mut spans) = Tracer::new(ratio, 10);
            let state = TraceState::of("a=1");
            assert!(child("outside", SpanKind::Internal).is_none());
            if let Some(mut request) = tracer.request(7, header, || state.clone()) {
                request.set("key", "value");
                request.within(async { child("inside", SpanKind::Client).unwrap().fail() }).await;
            }
            let (inside, request) = (spans.try_recv().ok(), spans.try_recv().ok());
            assert_eq!(request.is_some(), traced, "{ratio} {header:?}");
            let (Some(inside), Some(request)) = (inside, request) else { continue };
            assert_eq!(inside.parent, Some(request.context.span));
            assert_eq!(inside.context.trace, request.context.trace);
            assert_eq!((inside.failed, request.failed, inside.name), (true, false, "inside"));
            assert_eq!(request.parent, header.filter(|h| *h != "nonsense").map(|_| bytes_of(SPAN).unwrap()));
            // What came without a parent is of nobody.
            let state = if request.parent.is_some() { state } else { TraceState::default() };
            assert_eq!((&request.state, &inside.state, request.began_us), (&state, &state, 7));
            assert!(request.began_us <= inside.began_us && inside.ended_us <= request.ended_us);
        }
    }

    #[test]
    fn what_nobody_takes_is_dropped_and_counted() {
        let (tracer, spans) = Tracer::new(1.0, u32::MAX);
        for _ in 0..WAITING + 3 {
            drop(tracer.request(1, None, TraceState::default));
        }
        assert_eq!((spans.len(), tracer.dropped(), tracer.refused()), (WAITING, 3, 0));
    }

    #[test]
    fn more_than_the_limit_are_not_traced_and_counted() {
        let sampled = format!("00-{TRACE}-{SPAN}-01");
        let (tracer, spans) = Tracer::new(1.0, 5);
        for said in [None, Some(sampled.as_str())].into_iter().cycle().take(20) {
            drop(tracer.request(1, said, TraceState::default));
        }
        // A second may end meanwhile.
        assert!((5..=10).contains(&spans.len()), "{}", spans.len());
        assert_eq!(tracer.refused(), 20 - spans.len() as u64);
    }
}
