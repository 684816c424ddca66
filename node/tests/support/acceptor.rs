//! A listener on loopback, as the servers and proxies of tests have one.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Accepts connections, each on a thread of its own; listens no more once it is dropped.
pub struct Acceptor {
    /// Where it listens.
    pub port: u16,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// On `port`, or on one that is free if that is 0. A caller that hangs up is one of the things that happen: what
    /// `serve` comes to is not looked at.
    pub fn start(port: u16, serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (stop.clone(), Arc::new(serve));
        let accepting = std::thread::spawn(move || {
            for caller in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(caller), serve) = (caller, serve.clone()) else { continue };
                std::thread::spawn(move || drop(serve(caller)));
            }
        });
        Self { port, stop, accepting: Some(accepting) }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}
