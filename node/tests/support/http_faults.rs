//! An HTTP/1.1 proxy before a server, which goes wrong as servers do: errors, answers cut short or late, or from before.

use super::acceptor::Acceptor;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing goes wrong.
    Pass,
    /// The server never sees it; the answer has this status.
    Refuse(u16),
    /// The server does it, and the answer is lost.
    Lose,
    /// The server does it, and the answer ends in the middle.
    Cut,
    /// The answer takes so long.
    Late(Duration),
    /// The first answer to the same request again.
    Stale,
    /// The connection is closed at once.
    Close,
}

/// A request, as far as a fault may depend on it.
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    /// How many came before.
    pub number: u64,
}

type Rule = Box<dyn Fn(&Request) -> Fault + Send>;

struct Shared {
    to: u16,
    rule: Mutex<Rule>,
    count: AtomicU64,
    first: Mutex<HashMap<String, Vec<u8>>>,
}

/// A proxy; it ends with the value.
pub struct HttpFaults {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
    _acceptor: Acceptor,
}

impl HttpFaults {
    /// Before the port `to` of this machine; nothing goes wrong yet.
    pub fn start(to: u16) -> Self {
        let shared = Arc::new(Shared {
            to,
            rule: Mutex::new(Box::new(|_| Fault::Pass)),
            count: AtomicU64::new(0),
            first: Mutex::default(),
        });
        let serving = shared.clone();
        let acceptor = Acceptor::start(0, move |caller| serve(&caller, &serving));
        Self { port: acceptor.port, shared, _acceptor: acceptor }
    }

    /// From now on.
    pub fn set(&self, rule: impl Fn(&Request) -> Fault + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// What was answered so far is not remembered.
    pub fn forget(&self) {
        self.shared.first.lock().unwrap().clear();
    }

    /// How many requests came.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }
}

/// The head of a request, with the empty line, and what came of the body with it.
fn read_head(caller: &mut impl Read) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((bytes, body));
        }
        match caller.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

/// One request for each connection: every answer closes it.
fn serve(mut caller: &TcpStream, shared: &Shared) -> io::Result<()> {
    let (head, mut body) = read_head(&mut caller)?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        number: shared.count.fetch_add(1, Ordering::Relaxed),
    };
    let fault = (shared.rule.lock().unwrap())(&request);
    if fault == Fault::Close {
        return Ok(());
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
    });
    let rest = length.unwrap_or(0).saturating_sub(body.len() as u64);
    caller.take(rest).read_to_end(&mut body)?;
    if let Fault::Refuse(status) = fault {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return caller.write_all(answer.as_bytes());
    }
    let key = format!("{} {}", request.method, request.path);
    let stale = shared.first.lock().unwrap().get(&key).cloned();
    let answer = match (fault, stale) {
        (Fault::Stale, Some(first)) => first,
        _ => {
            let answer = ask(shared.to, &head, &body)?;
            if request.method == "GET" && request.path.contains("list-type") {
                shared.first.lock().unwrap().entry(key).or_insert_with(|| answer.clone());
            }
            answer
        }
    };
    match fault {
        Fault::Lose => Ok(()),
        Fault::Cut => caller.write_all(&answer[..answer.len() - answer.len() / 3]),
        Fault::Late(by) => {
            std::thread::park_timeout(by);
            caller.write_all(&answer)
        }
        _ => caller.write_all(&answer),
    }
}

/// The server's whole answer.
fn ask(port: u16, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    let kept = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head: String = kept.map(|line| format!("{line}\r\n")).collect();
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}
