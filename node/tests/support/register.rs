//! A number that clients raise and read, and whether what they saw could have been of one number only: linearizability,
//! as Herlihy and Wing define it (TOPLAS 12(3), 1990).
//!
//! Each raise tells the number that it came to, so the order of all of them is known, and whether a history is of one
//! number needs no search: whoever begins after another was answered sees at least what that one saw, and who raises, more.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client waits for an answer.
const ANSWER: Duration = Duration::from_secs(2);

/// One request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub asked: Instant,
    pub answered: Instant,
    pub number: u64,
    pub raised: bool,
}

#[derive(Default)]
struct Book {
    stop: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    /// Of raises: they may have been done.
    unanswered: AtomicU64,
}

/// Clients of the number; they end with it.
pub struct Register {
    book: Arc<Book>,
    clients: Vec<JoinHandle<()>>,
}

impl super::Cluster {
    /// Makes the number.
    pub fn create_register(&self, i: usize) {
        self.execute(i, &json!(["CREATE TABLE register(number)", "INSERT INTO register VALUES(0)"]));
    }

    /// Starts for each of `members` a client that raises the number there, and one that reads it.
    pub fn use_register(&self, members: &[usize]) -> Register {
        let book = Arc::new(Book::default());
        let clients = members
            .iter()
            .flat_map(|i| [true, false].map(|raises| (self.url(*i, ""), raises)))
            .map(|(url, raises)| {
                let book = book.clone();
                std::thread::spawn(move || ask(&book, &url, raises))
            })
            .collect();
        Register { book, clients }
    }
}

fn ask(book: &Book, url: &str, raises: bool) {
    let http = reqwest::blocking::Client::builder().timeout(ANSWER).build().unwrap();
    while !book.stop.load(Ordering::Relaxed) {
        let request = if raises {
            let raise = json!(["UPDATE register SET number = number + 1 RETURNING number"]);
            http.post(format!("{url}/db/request")).body(raise.to_string())
        } else {
            let read = [("level", "linearizable"), ("q", "SELECT number FROM register")];
            http.get(format!("{url}/db/query")).query(&read)
        };
        let asked = Instant::now();
        let answer: Value = request.send().and_then(reqwest::blocking::Response::json).unwrap_or_default();
        let answered = Instant::now();
        if let Some(number) = answer["results"][0]["values"][0][0].as_u64() {
            book.seen.lock().unwrap().push(Seen { asked, answered, number, raised: raises });
        } else {
            book.unanswered.fetch_add(u64::from(raises), Ordering::Relaxed);
            // It may be down.
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Register {
    /// Ends the clients; returns what they saw, and how many raises nobody knows the outcome of.
    pub fn stop(mut self) -> (Vec<Seen>, u64) {
        self.end();
        (std::mem::take(&mut *self.book.seen.lock().unwrap()), self.book.unanswered.load(Ordering::Relaxed))
    }

    fn end(&mut self) {
        self.book.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            // A client's panic is the test's.
            if let Err(panic) = client.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        self.end();
    }
}

/// What of a history cannot be of one number, if something cannot.
pub fn contradiction(history: &[Seen]) -> Option<String> {
    let mut numbers = BTreeSet::new();
    if let Some(twice) = history.iter().filter(|seen| seen.raised).find(|seen| !numbers.insert(seen.number)) {
        return Some(format!("two raises came to the same number: {twice:?}"));
    }
    let (mut by_question, mut by_answer) = (history.to_vec(), history.to_vec());
    by_question.sort_by_key(|seen| seen.asked);
    by_answer.sort_by_key(|seen| seen.answered);
    let mut earlier = by_answer.into_iter().peekable();
    let mut highest: Option<Seen> = None;
    for later in by_question {
        while let Some(seen) = earlier.next_if(|seen| seen.answered < later.asked) {
            highest = highest.filter(|highest| highest.number >= seen.number).or(Some(seen));
        }
        let Some(highest) = highest else { continue };
        if later.number < highest.number + u64::from(later.raised) {
            return Some(format!("{later:?} began after {highest:?} was answered"));
        }
    }
    None
}
