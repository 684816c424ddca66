//! An HTTP server that takes captured changes, and goes wrong as it is told to.

use super::acceptor::Acceptor;
use serde_json::Value;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What the sink does with an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Takes it, with this status.
    Take(u16),
    /// Does not take it, with this status.
    Refuse(u16),
    /// Says nothing.
    Hang,
    /// Closes the connection.
    Close,
    /// Takes it, and closes the connection instead of saying so.
    Lose,
}

type Rule = Box<dyn Fn(u64) -> Reply + Send>;
type Taker = Box<dyn FnMut(Reply, Value) + Send>;

struct Shared {
    rule: Mutex<Rule>,
    asked: AtomicU64,
    /// When it was asked.
    attempts: Mutex<Vec<Instant>>,
    taken: Mutex<Vec<Value>>,
    /// Sees envelopes instead.
    taker: Mutex<Option<Taker>>,
}

/// A sink; it ends with the value.
pub struct Sink {
    pub port: u16,
    shared: Arc<Shared>,
    _acceptor: Acceptor,
}

impl Sink {
    /// Takes everything until it is told otherwise.
    pub fn start() -> Self {
        let shared = Arc::new(Shared {
            rule: Mutex::new(Box::new(|_| Reply::Take(200))),
            asked: AtomicU64::new(0),
            attempts: Mutex::default(),
            taken: Mutex::default(),
            taker: Mutex::default(),
        });
        let serving = shared.clone();
        let acceptor = Acceptor::start(0, move |caller| serve(&caller, &serving));
        Self { port: acceptor.port, shared, _acceptor: acceptor }
    }

    /// From now on `rule` says what is done with the envelopes, which are counted from 0.
    pub fn rule(&self, rule: impl Fn(u64) -> Reply + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// From now on `taker` is given each envelope with what is done with it, taken or not, and they are not kept.
    pub fn taker(&self, taker: impl FnMut(Reply, Value) + Send + 'static) {
        *self.shared.taker.lock().unwrap() = Some(Box::new(taker));
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/changes?token=x", self.port)
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// When it was asked, each time.
    pub fn attempts(&self) -> Vec<Instant> {
        self.shared.attempts.lock().unwrap().clone()
    }

    /// The envelopes taken so far.
    pub fn envelopes(&self) -> Vec<Value> {
        self.shared.taken.lock().unwrap().clone()
    }

    /// Index and change of everything taken so far, in the order in which it came.
    pub fn events(&self) -> Vec<(u64, Value)> {
        let taken = self.shared.taken.lock().unwrap();
        let entries = taken.iter().flat_map(|envelope| envelope["payload"].as_array().unwrap());
        entries
            .flat_map(|entry| {
                let index = entry["index"].as_u64().unwrap();
                entry["events"].as_array().unwrap().iter().map(move |event| (index, event.clone()))
            })
            .collect()
    }
}

fn serve(caller: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(caller);
    let mut writer = caller;
    loop {
        let (mut length, mut head) = (0, Vec::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(n) = line.strip_prefix("content-length:") {
                length = n.trim().parse().map_err(io::Error::other)?;
            }
            head.push(line);
        }
        assert_eq!(head[0], "post /changes?token=x http/1.1");
        assert!(head.contains(&"content-type: application/json".to_owned()), "{head:?}");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        shared.attempts.lock().unwrap().push(Instant::now());
        let number = shared.asked.fetch_add(1, Ordering::Relaxed);
        let reply = (shared.rule.lock().unwrap())(number);
        let envelope = serde_json::from_slice(&body).map_err(io::Error::other)?;
        match &mut *shared.taker.lock().unwrap() {
            Some(taker) => taker(reply, envelope),
            None if matches!(reply, Reply::Take(_) | Reply::Lose) => {
                shared.taken.lock().unwrap().push(envelope);
            }
            None => {}
        }
        let status = match reply {
            Reply::Take(status) | Reply::Refuse(status) => status,
            Reply::Close | Reply::Lose => return Ok(()),
            Reply::Hang => {
                // Until the other side has waited enough.
                reader.read_exact(&mut [0])?;
                return Ok(());
            }
        };
        // At once: pieces of it would wait for each other's acknowledgements.
        writer.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
    }
}
