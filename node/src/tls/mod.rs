//! TLS on both ports: certificates from files that may change at any time, who must show one, whose name it must have.

mod names;
mod peers;
mod pem;
mod server;

pub use names::Names;
pub use peers::{PeerSocket, PeerTls, PeerTlsFiles, Plaintext, ReadHalf, WriteHalf};
pub use server::{ServerTls, ServerTlsFiles};

use std::io;

/// First byte of every TLS connection (RFC 8446, section 5.1: handshake). No preface and no HTTP method begins with it.
const HANDSHAKE: u8 = 0x16;

/// Whether a client begins with TLS. What it sent stays to be read.
async fn begins_with_tls(stream: &tokio::net::TcpStream) -> io::Result<bool> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(first[0] == HANDSHAKE)
}

fn refused(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, message.into())
}
