//! Writers that number what they insert and remember what was acknowledged: afterwards each of those numbers has to be
//! there, and none twice.

use super::{Cluster, PATIENCE};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a writer waits for an answer.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Book {
    stop: AtomicBool,
    next: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
    refused: AtomicU64,
    took: Mutex<Vec<Duration>>,
    at: Mutex<Vec<Instant>>,
    receipts: Mutex<Vec<Receipt>>,
    last_refusal: Mutex<String>,
}

/// What a writer was told of a write that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    pub number: u64,
    /// Which row of the table it is: rows are numbered in the order in which they are applied.
    pub row: u64,
    /// The entry of the log by which it was applied.
    pub entry: u64,
    /// When that was told.
    pub at: Instant,
}

impl Receipt {
    /// Of an answer that names the entry, as those to `/db/execute?raft_index` do.
    fn of(number: u64, body: &str) -> Option<Self> {
        let answer: Value = serde_json::from_str(body).ok()?;
        let entry = answer["raft_index"].as_u64()?;
        let row = answer["results"][0]["last_insert_id"].as_u64()?;
        Some(Self { number, row, entry, at: Instant::now() })
    }
}

/// Writers at work; they end with it.
pub struct Writers {
    book: Arc<Book>,
    threads: Vec<JoinHandle<()>>,
}

impl Cluster {
    /// Makes the table of the ledger.
    pub fn create_ledger(&self, i: usize) {
        self.execute(i, &json!(["CREATE TABLE ledger(n INTEGER NOT NULL, filling BLOB)"]));
    }

    /// Puts `rows` of 4,000 bytes into it. Writers do not come to their numbers, however long they write.
    pub fn fill_ledger(&self, i: usize, rows: u64) {
        let insert = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows}) \
             INSERT INTO ledger SELECT 1000000000 + i, randomblob(4000) FROM n"
        );
        self.execute(i, &json!([insert]));
    }

    /// Starts `count` writers, who go round `members` and insert rows of `bytes` of filling.
    pub fn write_to(&self, members: &[usize], count: usize, bytes: usize) -> Writers {
        let urls: Vec<String> = members.iter().map(|i| self.url(*i, "/db/execute")).collect();
        self.continue_ledger(urls, count, bytes, 0)
    }

    /// The same, with numbers from `first` on.
    pub fn continue_ledger(&self, urls: Vec<String>, count: usize, bytes: usize, first: u64) -> Writers {
        self.start_ledger(urls, (count, bytes), first, None)
    }

    /// Writers who together begin `per_second` writes in a second, however long these take: times count from when a write
    /// was due.
    pub fn paced_ledger(&self, urls: Vec<String>, per_second: u32, bytes: usize, first: u64) -> Writers {
        // So many that one is free when a write is due.
        const WRITERS: u32 = 10;
        let every = Duration::from_secs(1) * WRITERS / per_second;
        self.start_ledger(urls, (WRITERS as usize, bytes), first, Some(every))
    }

    fn start_ledger(
        &self,
        urls: Vec<String>,
        (count, bytes): (usize, usize),
        first: u64,
        every: Option<Duration>,
    ) -> Writers {
        let book = Arc::new(Book { next: AtomicU64::new(first), ..Book::default() });
        let begun = Instant::now();
        let threads = (0..count)
            .map(|writer| {
                let (book, mut urls) = (book.clone(), urls.clone());
                let turn = writer % urls.len();
                urls.rotate_left(turn);
                let pace =
                    every.map(|every| Pace { due: begun + every * writer as u32 / count as u32, every });
                std::thread::spawn(move || write(&book, &urls, bytes, pace))
            })
            .collect();
        Writers { book, threads }
    }

    /// Asserts that member `i` holds each acknowledged number, and none twice; returns all that it holds.
    pub fn assert_ledger(&self, i: usize, acknowledged: &[u64]) -> Vec<u64> {
        let text = self.value(i, "SELECT coalesce(group_concat(n), '') FROM ledger", "linearizable");
        let text = text.as_str().unwrap_or_else(|| panic!("no ledger on {}: {text}\n{}", i, self.log(i)));
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        for number in text.split(',').filter(|n| !n.is_empty()) {
            *times.entry(number.parse().unwrap()).or_default() += 1;
        }
        let twice: Vec<_> = times.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty(), "applied twice on member {i}: {twice:?}");
        let lost: Vec<_> = acknowledged.iter().filter(|n| !times.contains_key(n)).collect();
        assert!(lost.is_empty(), "acknowledged and lost on member {i}: {lost:?}\n{}", self.log(i));
        times.into_keys().collect()
    }

    /// Asserts the ledger on all members, and that they hold the same. A write that nobody waits for any more may still
    /// be on its way, and come between two of the reads.
    pub fn assert_ledgers(&self, acknowledged: &[u64]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all: Vec<_> = (0..self.members.len()).map(|i| self.assert_ledger(i, acknowledged)).collect();
            if all.windows(2).all(|pair| pair[0] == pair[1]) {
                return;
            }
            assert!(Instant::now() < deadline, "members differ");
        }
    }
}

/// When a writer's next write is due, and how much later the one after it.
struct Pace {
    due: Instant,
    every: Duration,
}

impl Pace {
    /// Waits until the next write is due; returns when that was.
    fn next(&mut self) -> Instant {
        let due = self.due;
        self.due += self.every;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        due
    }
}

fn write(book: &Book, urls: &[String], bytes: usize, mut pace: Option<Pace>) {
    let http = reqwest::blocking::Client::builder().timeout(ANSWER).build().unwrap();
    let filling = format!("x'{}'", "5a".repeat(bytes));
    let mut turn = 0;
    while !book.stop.load(Ordering::Relaxed) {
        let number = book.next.fetch_add(1, Ordering::Relaxed);
        let statement = json!([["INSERT INTO ledger(n, filling) VALUES(?, ?)", number, filling]]);
        let began = pace.as_mut().map_or_else(Instant::now, Pace::next);
        let answer = http.post(&urls[turn % urls.len()]).body(statement.to_string()).send();
        let told = answer.and_then(|a| Ok((a.status().as_u16(), a.text()?)));
        match told {
            Ok((200, body)) if !body.contains("\"error\"") => {
                book.took.lock().unwrap().push(began.elapsed());
                book.at.lock().unwrap().push(Instant::now());
                book.acknowledged.lock().unwrap().push(number);
                book.receipts.lock().unwrap().extend(Receipt::of(number, &body));
                continue;
            }
            Ok((status, body)) => *book.last_refusal.lock().unwrap() = format!("{status} {body}"),
            Err(error) => *book.last_refusal.lock().unwrap() = error.to_string(),
        }
        book.refused.fetch_add(1, Ordering::Relaxed);
        // The next member, after a moment: this one may be down.
        turn += 1;
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

impl Writers {
    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.book.acknowledged.lock().unwrap().len()
    }

    /// How many were not.
    pub fn refused(&self) -> u64 {
        self.book.refused.load(Ordering::Relaxed)
    }

    /// What was said to the last of those.
    pub fn last_refusal(&self) -> String {
        self.book.last_refusal.lock().unwrap().clone()
    }

    /// Waits until `n` more writes are acknowledged.
    pub fn await_more(&self, n: usize) {
        let target = self.acknowledged() + n;
        let deadline = Instant::now() + PATIENCE;
        while self.acknowledged() < target {
            let (done, said) = (self.acknowledged(), self.last_refusal());
            assert!(Instant::now() < deadline, "no more writes: {done} of {target}; last refusal: {said}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The time that the acknowledged writes took since the last call, sorted.
    pub fn take_times(&self) -> Vec<Duration> {
        let mut took = std::mem::take(&mut *self.book.took.lock().unwrap());
        took.sort();
        took
    }

    /// The longest time without an acknowledgement since the last call.
    pub fn take_longest_pause(&self) -> Duration {
        let mut at = std::mem::take(&mut *self.book.at.lock().unwrap());
        at.sort();
        at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Ends the writers; returns what was acknowledged.
    pub fn stop(mut self) -> Vec<u64> {
        self.end();
        std::mem::take(&mut *self.book.acknowledged.lock().unwrap())
    }

    /// The same of writers whose URL asks for the entry, with what they were told of each.
    pub fn stop_with_receipts(mut self) -> Vec<Receipt> {
        self.end();
        let receipts = std::mem::take(&mut *self.book.receipts.lock().unwrap());
        assert_eq!(receipts.len(), self.acknowledged(), "an answer names no entry");
        receipts
    }

    /// The number after the last one that was tried.
    pub fn next(&self) -> u64 {
        self.book.next.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.book.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A writer's panic is the test's.
            if let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.end();
    }
}

/// The value below which 99 of 100 sorted times are.
pub fn p99(times: &[Duration]) -> Duration {
    times.get(times.len() * 99 / 100).or(times.last()).copied().unwrap_or_default()
}
