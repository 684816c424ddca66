//! A TCP proxy before a member's peer port, which can cut connections: machines without kernel modules have no other
//! way to part members.

use super::acceptor::Acceptor;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Where in a preface the caller's id is, and how long it is up to there: see `raft/connection.rs`.
const CALLER_AT: usize = 13;
const PREFACE: usize = CALLER_AT + 8;

#[derive(Default)]
struct Rules {
    /// Nobody gets through.
    closed: AtomicBool,
    /// Raft ids whose connections do not get through.
    barred: Mutex<BTreeSet<u64>>,
    /// Each connection is cut after this many bytes to the member; 0 is never.
    cut_after: AtomicU64,
    open: Mutex<Vec<(u64, TcpStream)>>,
}

/// A proxy; it ends with the value.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    rules: Arc<Rules>,
    _acceptor: Acceptor,
}

impl Proxy {
    /// Before the port `to` of this machine, on `port`.
    pub fn start(port: u16, to: u16) -> Self {
        let rules = Arc::new(Rules::default());
        let shared = rules.clone();
        let acceptor = Acceptor::start(port, move |caller| carry(caller, to, &shared));
        Self { port, rules, _acceptor: acceptor }
    }

    /// Lets nobody through, or everybody again.
    pub fn close(&self, closed: bool) {
        self.rules.closed.store(closed, Ordering::Relaxed);
        if closed {
            self.cut(|_| true);
        }
    }

    /// Lets the member with this Raft id not through any more, or again.
    pub fn bar(&self, id: u64, barred: bool) {
        if barred {
            self.rules.barred.lock().unwrap().insert(id);
            self.cut(|caller| caller == id);
        } else {
            self.rules.barred.lock().unwrap().remove(&id);
        }
    }

    /// From now on cuts each connection after `bytes` to the member; 0 is never.
    pub fn cut_after(&self, bytes: u64) {
        self.rules.cut_after.store(bytes, Ordering::Relaxed);
    }

    fn cut(&self, which: impl Fn(u64) -> bool) {
        self.rules.open.lock().unwrap().retain(|(caller, stream)| {
            let cut = which(*caller);
            if cut {
                // It may be gone already.
                drop(stream.shutdown(Shutdown::Both));
            }
            !cut
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut(|_| true);
    }
}

fn carry(mut caller: TcpStream, to: u16, rules: &Arc<Rules>) -> std::io::Result<()> {
    let mut preface = [0; PREFACE];
    caller.read_exact(&mut preface)?;
    let id = u64::from_le_bytes(preface[CALLER_AT..].try_into().unwrap_or_default());
    if rules.closed.load(Ordering::Relaxed) || rules.barred.lock().unwrap().contains(&id) {
        return caller.shutdown(Shutdown::Both);
    }
    let mut member = TcpStream::connect(("127.0.0.1", to))?;
    caller.set_nodelay(true)?;
    member.set_nodelay(true)?;
    member.write_all(&preface)?;
    rules.open.lock().unwrap().push((id, caller.try_clone()?));
    let (mut back_from, mut back_to) = (member.try_clone()?, caller.try_clone()?);
    std::thread::spawn(move || {
        let copied = std::io::copy(&mut back_from, &mut back_to);
        // Either end may be gone already.
        drop((copied, back_to.shutdown(Shutdown::Both)));
    });
    let mut buffer = vec![0; 64 << 10];
    let mut carried = 0;
    loop {
        let read = caller.read(&mut buffer)?;
        let limit = rules.cut_after.load(Ordering::Relaxed);
        carried += read as u64;
        if read == 0 || (limit > 0 && carried > limit) {
            drop(caller.shutdown(Shutdown::Both));
            return member.shutdown(Shutdown::Both);
        }
        member.write_all(&buffer[..read])?;
    }
}
