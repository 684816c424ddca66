//! Who waits here for the outcome of which request, whoever proposes it.
//!
//! A request is named by its [`RequestId`] from the moment a member accepts it. Whatever becomes of the answers on the
//! way, of the leader or of the connection to it: when this member applies the entry that holds the request, whoever
//! waits here has the outcome. And once it has applied an entry of a later leader than the one the request was proposed
//! to without meeting the request, the request is in no log that can still commit: proposals name the leader they are
//! for, and an entry of a later leader comes after every entry of earlier ones that ever commits. Then, and only then,
//! it may be proposed again (see docs/design.md, "Retries").

use super::command::{CommandView, RequestId};
use super::propose::Proposed;
use crate::observe::Until as _;
use crate::trace::Stages;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{oneshot, watch};

/// What became of a request that somebody waits for.
#[derive(Debug)]
pub enum Outcome {
    /// It was applied, once.
    Applied(Proposed),
    /// This member did not append it.
    NotAppended,
    /// This member did not propose it within the time that was allowed.
    TooLate,
    /// This member went from one state to another without applying what is between: the outcome cannot be told.
    Skipped,
}

/// One leader's time: Raft may elect another member in the same term. Ordered as leaders come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leadership {
    /// Its term.
    pub term: u64,
    /// Raft id of the leader.
    pub node: u64,
}

/// Who waits for which request.
#[derive(Debug)]
pub struct Waiters {
    waiting: Mutex<HashMap<RequestId, Waiter>>,
    /// Outcomes of everything up to the first entry of this leader, and of some of its own, have been told.
    told: watch::Sender<Leadership>,
    tickets: AtomicU64,
    /// How many of those who wait want to know when it gets how far.
    staged: AtomicUsize,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    outcome: oneshot::Sender<Outcome>,
    stages: Option<Arc<Stages>>,
}

impl Waiters {
    /// Nobody yet, on a member whose last applied entry is of leader `applied`.
    pub fn new(applied: Leadership) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            told: watch::Sender::new(applied),
            tickets: AtomicU64::new(0),
            staged: AtomicUsize::new(0),
        })
    }

    /// Waits for the request from now on, until the ticket is dropped.
    pub fn wait_for(self: &Arc<Self>, id: RequestId) -> Ticket {
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        let outcome = self.enter(id, number, None);
        let told = self.told.subscribe();
        Ticket { id, number, outcome, stages: None, told, waiters: self.clone() }
    }

    fn enter(&self, id: RequestId, ticket: u64, stages: Option<Arc<Stages>>) -> oneshot::Receiver<Outcome> {
        let (outcome, receiver) = oneshot::channel();
        self.waiting.lock().insert(id, Waiter { ticket, outcome, stages });
        receiver
    }

    /// The requests `ids` are in an entry.
    pub fn proposed(&self, ids: &[RequestId]) {
        if self.staged.load(Ordering::Relaxed) > 0 {
            self.note(&self.waiting.lock(), ids, Stages::proposed);
        }
    }

    fn note(&self, waiting: &HashMap<RequestId, Waiter>, ids: &[RequestId], what: fn(&Stages)) {
        let waiters = ids.iter().filter_map(|id| waiting.get(id));
        waiters.filter_map(|waiter| waiter.stages.as_deref()).for_each(what);
    }

    /// Requests of an entry, in order, if somebody waits for one of them.
    pub fn interested(&self, command: &[u8]) -> Vec<RequestId> {
        let waiting = self.waiting.lock();
        if waiting.is_empty() {
            return Vec::new();
        }
        // Bytes that make no sense are met again, and reported, when the entry is applied.
        let Ok(command) = CommandView::parse(command) else { return Vec::new() };
        let ids: Vec<RequestId> = command.requests().map_while(|request| Some(request.ok()?.id)).collect();
        if self.staged.load(Ordering::Relaxed) > 0 {
            self.note(&waiting, &ids, Stages::committed);
        }
        if ids.iter().any(|id| waiting.contains_key(id)) { ids } else { Vec::new() }
    }

    /// The requests `ids` were applied at `index`, with these results.
    pub fn applied(&self, index: u64, ids: &[RequestId], results: Vec<Bytes>) {
        let mut waiting = self.waiting.lock();
        // Without results for an entry that came with another member's state.
        let results = results.into_iter().map(Some).chain(std::iter::repeat(None));
        for (id, results) in ids.iter().zip(results) {
            if let Some(waiter) = waiting.remove(id) {
                let outcome = match results {
                    Some(results) => Outcome::Applied(Proposed { results, index }),
                    None => Outcome::Skipped,
                };
                // Who no longer waits does not want to know.
                drop(waiter.outcome.send(outcome));
            }
        }
    }

    /// This member did not append the requests.
    pub fn not_appended(&self, ids: impl IntoIterator<Item = RequestId>) {
        let mut waiting = self.waiting.lock();
        for id in ids {
            if let Some(waiter) = waiting.remove(&id) {
                drop(waiter.outcome.send(Outcome::NotAppended));
            }
        }
    }

    /// The requests `ids` were not proposed within the time that was allowed.
    pub fn too_late(&self, ids: impl IntoIterator<Item = RequestId>) {
        let mut waiting = self.waiting.lock();
        for id in ids {
            if let Some(waiter) = waiting.remove(&id) {
                drop(waiter.outcome.send(Outcome::TooLate));
            }
        }
    }

    /// Every outcome up to an entry of leader `last` has been told.
    pub fn told(&self, last: Leadership) {
        self.told.send_if_modified(|told| {
            let later = *told < last;
            *told = last.max(*told);
            later
        });
    }

    /// Another member's state took the place of this one's: what was applied on the way was not met here.
    pub fn skipped(&self) {
        for (_, waiter) in self.waiting.lock().drain() {
            drop(waiter.outcome.send(Outcome::Skipped));
        }
    }
}

/// Waits for the outcome of one request.
#[derive(Debug)]
pub struct Ticket {
    id: RequestId,
    number: u64,
    outcome: oneshot::Receiver<Outcome>,
    stages: Option<Arc<Stages>>,
    told: watch::Receiver<Leadership>,
    waiters: Arc<Waiters>,
}

impl Ticket {
    /// Waits until the outcome of what was proposed to `leader` is known. None: it is in no log that can still commit.
    pub async fn settled(&mut self, leader: Leadership) -> Option<Outcome> {
        tokio::select! {
            // Outcomes are told before the leader whose entry proves that there is none.
            biased;
            outcome = &mut self.outcome => Some(outcome.unwrap_or(Outcome::Skipped)),
            _ = self.told.until(|told| *told > leader) => self.outcome.try_recv().ok(),
        }
    }

    /// Waits anew, after this member did not append it.
    pub fn again(&mut self) {
        self.outcome = self.waiters.enter(self.id, self.number, self.stages.clone());
    }

    /// From now on notes in `stages` how far the request gets here.
    pub fn follow(&mut self, stages: Arc<Stages>) {
        if self.stages.replace(stages.clone()).is_none() {
            self.waiters.staged.fetch_add(1, Ordering::Relaxed);
        }
        let mut waiting = self.waiters.waiting.lock();
        if let Some(waiter) = waiting.get_mut(&self.id).filter(|waiter| waiter.ticket == self.number) {
            waiter.stages = Some(stages);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.stages.is_some() {
            self.waiters.staged.fetch_sub(1, Ordering::Relaxed);
        }
        let mut waiting = self.waiters.waiting.lock();
        // A later copy of the same request, forwarded anew, may wait under its name.
        if waiting.get(&self.id).is_some_and(|waiter| waiter.ticket == self.number) {
            waiting.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::command::{EntryContext, RequestEncoder, RequestFlags, encode_execute};
    use super::*;
    use futures::FutureExt;

    fn id(sequence: u64) -> RequestId {
        RequestId { node: 1, boot: 1, sequence }
    }

    const FIRST: Leadership = Leadership { term: 3, node: 1 };
    const SAME_TERM: Leadership = Leadership { term: 3, node: 2 };
    const LATER: Leadership = Leadership { term: 4, node: 1 };

    fn command(ids: &[RequestId]) -> Bytes {
        let requests: Vec<_> =
            ids.iter().map(|id| RequestEncoder::new(RequestFlags::default(), 0).finish(*id)).collect();
        let context = EntryContext { timestamp_us: 1, seed: 1, step_limit: 0 };
        encode_execute(context, requests.iter().map(|r| r.bytes()))
    }

    #[test]
    fn only_entries_with_a_request_that_is_waited_for_are_of_interest() {
        let waiters = Waiters::new(Leadership::default());
        let entry = command(&[id(1), id(2)]);
        assert!(waiters.interested(&entry).is_empty());
        let ticket = waiters.wait_for(id(2));
        assert_eq!(waiters.interested(&entry), [id(1), id(2)]);
        assert!(waiters.interested(&command(&[id(3)])).is_empty());
        assert!(waiters.interested(b"nonsense").is_empty());
        drop(ticket);
        assert!(waiters.interested(&entry).is_empty());
    }

    #[test]
    fn a_copy_that_is_no_longer_waited_for_leaves_the_later_one_waiting() {
        let waiters = Waiters::new(FIRST);
        let earlier = waiters.wait_for(id(1));
        let _later = waiters.wait_for(id(1));
        drop(earlier);
        assert_eq!(waiters.interested(&command(&[id(1)])), [id(1)]);
    }

    #[tokio::test]
    async fn an_outcome_counts_more_than_a_later_term() {
        let waiters = Waiters::new(FIRST);
        let mut ticket = waiters.wait_for(id(2));
        waiters.applied(9, &[id(1), id(2)], vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        waiters.told(LATER);
        match ticket.settled(FIRST).await {
            Some(Outcome::Applied(done)) => assert_eq!((done.index, &done.results[..]), (9, &b"b"[..])),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn without_an_outcome_only_a_later_term_settles() {
        let waiters = Waiters::new(FIRST);
        let mut ticket = waiters.wait_for(id(1));
        assert!(ticket.settled(FIRST).now_or_never().is_none());
        waiters.told(FIRST);
        assert!(ticket.settled(FIRST).now_or_never().is_none());
        waiters.told(SAME_TERM);
        assert!(ticket.settled(FIRST).await.is_none());
        // What is proposed again to the new leader is waited for by the same ticket.
        assert!(ticket.settled(SAME_TERM).now_or_never().is_none());
        waiters.not_appended([id(1)]);
        assert!(matches!(ticket.settled(SAME_TERM).await, Some(Outcome::NotAppended)));
        ticket.again();
        waiters.skipped();
        assert!(matches!(ticket.settled(SAME_TERM).await, Some(Outcome::Skipped)));
    }
}
