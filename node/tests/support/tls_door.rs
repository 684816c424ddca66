//! TLS before a server that speaks without.

use super::certificates::Files;
use tokio::net::{TcpListener, TcpStream};

/// A door that only TLS comes through; it closes with the value.
pub struct TlsDoor {
    /// Where it is.
    pub port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl TlsDoor {
    /// Before the port `to` of this machine, with this certificate.
    pub fn start(to: u16, certificate: &Files) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = certificate.acceptor(None, &[b"http/1.1"]);
        runtime.spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A caller that does not trust the certificate hangs up, which is what some tests are about.
                    let Ok(mut caller) = acceptor.accept(caller).await else { return };
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    drop(tokio::io::copy_bidirectional(&mut caller, &mut server).await);
                });
            }
        });
        Self { port, _runtime: runtime }
    }
}
