//! Operators beside each other that want the same lease: never do two of them act, whatever becomes of their requests, and
//! though some stand still for a while. What goes wrong follows from a seed.

use super::*;
use operator::lease::{LeaderLease, LeaseTiming};
use std::collections::HashSet;
use std::pin::Pin;
use std::task::{Context as Poller, Poll, ready};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// The shortest there is, in the proportions of the chart.
const TIMING: LeaseTiming =
    LeaseTiming { duration: Duration::from_secs(1), renew: Duration::from_millis(300) };
const OPERATORS: [&str; 3] = ["a", "b", "c"];
/// How often one that leads does something.
const ACT: Duration = Duration::from_millis(10);
/// How long things go wrong, and how soon after it somebody acts who goes on.
const STORM: u64 = 5_000;
const CALM: Duration = Duration::from_secs(3);
/// In milliseconds, the most of each: a request or an answer that is late, one that is not, a process that stands still, a
/// time of leading.
const LATE: u64 = 1_200;
const IN_TIME: u64 = 80;
const STILL: u64 = 1_800;
const LIFE: u64 = 1_000;
/// Groups of operators beside each other, each with a lease of its own.
const SEEDS: u64 = 16;

/// Numbers that follow from a seed.
#[derive(Clone)]
struct Dice(Arc<Mutex<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)))
    }

    /// One of `0..below`.
    fn roll(&self, below: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        for (left, shift) in [(true, 13), (false, 7), (true, 17)] {
            *state ^= if left { *state << shift } else { *state >> shift };
        }
        *state % below
    }

    fn milliseconds(&self, below: u64) -> Duration {
        Duration::from_millis(self.roll(below))
    }
}

/// An API server that has the lease, with the versions by which the slower of two writers is refused.
#[derive(Clone)]
struct Leases {
    lease: Arc<Mutex<Option<Value>>>,
    dice: Dice,
    /// Until when requests and answers are late or get lost.
    storm: Instant,
}

impl Leases {
    fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        kube::Client::new(service, "operators")
    }

    /// What is on its way arrives though nobody waits for its answer any more.
    async fn answer(&self, request: http::Request<kube::client::Body>) -> http::Response<kube::client::Body> {
        let (server, method) = (self.clone(), request.method().clone());
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let carried_out = tokio::spawn(async move {
            server.delay().await;
            let answer = server.carry_out(&method, serde_json::from_slice(&bytes).ok());
            server.delay().await;
            answer
        });
        let (code, body) = carried_out.await.unwrap();
        http::Response::builder().status(code).body(body.to_string().into_bytes().into()).unwrap()
    }

    async fn delay(&self) {
        if Instant::now() < self.storm {
            match self.dice.roll(12) {
                0 => std::future::pending().await,
                1 | 2 => sleep(self.dice.milliseconds(LATE)).await,
                _ => sleep(self.dice.milliseconds(IN_TIME)).await,
            }
        }
    }

    fn carry_out(&self, method: &http::Method, written: Option<Value>) -> (u16, Value) {
        let refusal = |code: u16, reason: &str| {
            (code, json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code}))
        };
        let mut lease = self.lease.lock().unwrap();
        let version = lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        let mut new = match (method.as_str(), &*lease, written) {
            ("GET", Some(lease), _) => return (200, lease.clone()),
            ("POST", Some(_), _) => return refusal(409, "AlreadyExists"),
            ("GET" | "PUT", None, _) => return refusal(404, "NotFound"),
            ("PUT", _, Some(new)) if version.as_ref() != Some(&new["metadata"]["resourceVersion"]) => {
                return refusal(409, "Conflict");
            }
            ("POST" | "PUT", _, Some(new)) => new,
            other => panic!("not expected: {other:?}"),
        };
        let count: u64 = version.and_then(|version| version.as_str()?.parse().ok()).unwrap_or_default();
        new["metadata"]["resourceVersion"] = json!((count + 1).to_string());
        *lease = Some(new.clone());
        (200, new)
    }
}

/// Who acts. A term is one time of holding the lease.
#[derive(Default)]
struct Acts {
    last: Option<(u64, &'static str)>,
    /// Terms after whose last act somebody else acted.
    over: HashSet<u64>,
    terms: u64,
    names: HashSet<&'static str>,
}

impl Acts {
    fn act(&mut self, term: u64, name: &'static str, seed: u64) {
        if let Some((before, other)) = self.last.replace((term, name))
            && before != term
        {
            assert!(!self.over.contains(&term), "seed {seed}: {name} acts again after {other} did");
            self.over.insert(before);
        }
        self.names.insert(name);
    }
}

/// A process that at times stands still: nothing of it goes on, and the time does.
struct Stoppable {
    process: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// From when until when.
    stops: Vec<(Instant, Instant)>,
    alarm: Pin<Box<Sleep>>,
}

impl Future for Stoppable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<()> {
        let now = Instant::now();
        if let Some((_, until)) =
            self.stops.iter().copied().find(|(from, until)| (*from..*until).contains(&now))
        {
            self.alarm.as_mut().reset(until);
            ready!(self.alarm.as_mut().poll(poller));
        }
        self.process.as_mut().poll(poller)
    }
}

/// An operator, again and again: waits for the lease, acts while it has it, and ends, some of them without a word.
async fn operate(name: &'static str, server: Leases, acts: Arc<Mutex<Acts>>, seed: u64) {
    for life in 0.. {
        let identity = format!("{name}-{life}");
        let lease = LeaderLease::new(server.client(), "operators", "operator", &identity, TIMING);
        let mut held = lease.acquire().await;
        let term = {
            let mut acts = acts.lock().unwrap();
            acts.terms += 1;
            acts.terms
        };
        let acting = async {
            loop {
                acts.lock().unwrap().act(term, name, seed);
                sleep(ACT).await;
            }
        };
        let stormy = Instant::now() < server.storm;
        let leading = server.dice.milliseconds(LIFE) + ACT;
        // After the storm it leads for as long as it is let.
        let ended = async { if stormy { sleep(leading).await } else { std::future::pending().await } };
        let lost = tokio::select! {
            biased;
            _ = held.lost() => true,
            () = ended => false,
            () = acting => false,
        };
        if !lost && server.dice.roll(2) == 0 {
            held.release().await;
        }
    }
}

/// Operators who want the same lease; panics if two of them act. How many terms there were.
async fn compete(seed: u64) -> u64 {
    let (dice, begin) = (Dice::new(seed), Instant::now());
    let storm = begin + Duration::from_millis(STORM);
    let server = Leases { lease: Arc::default(), dice: dice.clone(), storm };
    let acts = Arc::new(Mutex::new(Acts::default()));
    let mut operators = tokio::task::JoinSet::new();
    for name in OPERATORS {
        let stops = (0..2).map(|_| {
            let from = begin + dice.milliseconds(STORM);
            (from, from + dice.milliseconds(STILL))
        });
        operators.spawn(Stoppable {
            stops: stops.collect(),
            process: Box::pin(operate(name, server.clone(), acts.clone(), seed)),
            alarm: Box::pin(sleep_until(begin)),
        });
    }
    for (what, until) in [("in the storm", storm), ("after it", storm + CALM)] {
        tokio::select! {
            ended = operators.join_next() => panic!("seed {seed}: {ended:?}"),
            () = sleep_until(until) => {}
        }
        let names = std::mem::take(&mut acts.lock().unwrap().names);
        assert!(!names.is_empty(), "seed {seed}: nobody acts {what}");
    }
    acts.lock().unwrap().terms
}

#[tokio::test]
async fn two_never_lead() {
    let terms = futures::future::join_all((1..=SEEDS).map(compete)).await;
    assert!(terms.iter().all(|terms| *terms > 1), "the lease goes on to another: {terms:?}");
}
