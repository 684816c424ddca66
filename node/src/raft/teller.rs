//! Tells outcomes where those who wait for them run.
//!
//! An entry under load holds dozens of requests, and whoever waits for one of them is a task of the clients' runtime.
//! Woken one by one from another thread each costs a lock and perhaps a system call; so the writer hands over what an
//! entry answered as one message, and one task of the clients' runtime wakes the others there. One task, so that
//! everything is told in the order in which it was applied: see [`super::waiters`].

use super::command::RequestId;
use super::waiters::{Leadership, Waiters};
use crate::store::Reply;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Something to be told.
#[derive(Debug)]
enum Message {
    Applied(Vec<Asked>, Vec<Reply>, Option<Leadership>),
    Skipped(Option<Leadership>),
}

/// An entry and those of its requests' names, if somebody waits for one of them.
#[derive(Debug)]
pub struct Asked {
    /// Its index.
    pub index: u64,
    /// All its requests, in order, or none.
    pub requests: Vec<RequestId>,
}

/// Handle of the task that tells; it ends with the last handle.
#[derive(Clone, Debug)]
pub struct Teller {
    messages: mpsc::UnboundedSender<Message>,
}

impl Teller {
    /// Starts the task on the runtime of those who wait.
    pub fn start(waiters: Arc<Waiters>, runtime: &Handle) -> Self {
        // What waits in it is no more than what the writer applies while the task is not run.
        let (messages, queue) = mpsc::unbounded_channel();
        runtime.spawn(tell(waiters, queue));
        Self { messages }
    }

    /// Entries were applied, the last one of leader `last`.
    pub fn applied(&self, asked: Vec<Asked>, replies: Vec<Reply>, last: Option<Leadership>) {
        self.send(Message::Applied(asked, replies, last));
    }

    /// Another member's state, up to an entry of leader `last`, took the place of this one's.
    pub fn skipped(&self, last: Option<Leadership>) {
        self.send(Message::Skipped(last));
    }

    fn send(&self, message: Message) {
        // Where the runtime has ended nobody waits any more.
        drop(self.messages.send(message));
    }
}

async fn tell(waiters: Arc<Waiters>, mut queue: mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = queue.recv().await {
        let last = match message {
            Message::Applied(asked, replies, last) => {
                for (Asked { index, requests }, reply) in asked.into_iter().zip(replies) {
                    waiters.applied(index, &requests, reply);
                }
                last
            }
            Message::Skipped(last) => {
                waiters.skipped();
                last
            }
        };
        if let Some(last) = last {
            waiters.told(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::waiters::Outcome;
    use bytes::Bytes;

    const FIRST: Leadership = Leadership { term: 3, node: 1 };
    const LATER: Leadership = Leadership { term: 4, node: 1 };

    fn asked(index: u64, sequence: u64) -> (Vec<Asked>, RequestId) {
        let id = RequestId { node: 1, boot: 1, sequence };
        (vec![Asked { index, requests: vec![id] }], id)
    }

    /// Told out of order, a later leader's entry would make the request be proposed a second time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_outcome_is_told_before_the_later_leader() {
        let waiters = Waiters::new(FIRST);
        let teller = Teller::start(waiters.clone(), &Handle::current());
        for round in 0..200 {
            let (entry, id) = asked(round, round);
            let mut ticket = waiters.wait_for(id);
            teller.applied(entry, vec![vec![Bytes::from_static(b"x")]], Some(FIRST));
            if round == 199 {
                teller.applied(Vec::new(), Vec::new(), Some(LATER));
            }
            match ticket.settled(FIRST).await {
                Some(Outcome::Applied(done)) => {
                    assert_eq!((done.index, &done.results[..]), (round, &b"x"[..]))
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_was_skipped_is_told_after_what_was_applied_before() {
        let waiters = Waiters::new(FIRST);
        let teller = Teller::start(waiters.clone(), &Handle::current());
        let (entry, applied) = asked(7, 1);
        let (_, missed) = asked(8, 2);
        let (mut first, mut second) = (waiters.wait_for(applied), waiters.wait_for(missed));
        teller.applied(entry, vec![vec![Bytes::from_static(b"x")]], Some(FIRST));
        teller.skipped(Some(LATER));
        assert!(matches!(first.settled(FIRST).await, Some(Outcome::Applied(_))));
        assert!(matches!(second.settled(FIRST).await, Some(Outcome::Skipped)));
    }
}
