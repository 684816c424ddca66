//! One kept-alive HTTP/1.1 connection, written by hand to keep the client's share of the machine small.

use crate::access::Access;
use crate::target::OperationError;
use std::io::Write;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection with one request in flight.
pub struct HttpConnection {
    stream: Box<dyn Stream>,
    /// The headers that all requests have.
    headers: String,
    request: Vec<u8>,
    received: Vec<u8>,
    body: Vec<u8>,
}

/// A connection's bytes, by TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl std::fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpConnection").finish_non_exhaustive()
    }
}

/// What stands before a body.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Length,
}

#[derive(Debug, PartialEq, Eq)]
enum Length {
    Exact(usize),
    Chunked,
}

impl HttpConnection {
    /// Connects.
    pub async fn open(host: &str, access: &Access) -> Result<Self, OperationError> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &access.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connect(Access::server_name(host)?, stream).await?),
        };
        let headers = format!("Host: {host}\r\nContent-Type: application/json\r\n{}", access.header());
        let (request, received, body) = Default::default();
        Ok(Self { stream, headers, request, received, body })
    }

    /// Posts JSON; returns status and body of the answer.
    pub async fn post(&mut self, path: &str, body: &[u8]) -> Result<(u16, &[u8]), OperationError> {
        self.request.clear();
        write!(
            self.request,
            "POST {path} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n",
            self.headers,
            body.len()
        )?;
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await?;
        self.stream.flush().await?;
        self.received.clear();
        let start = self.receive_until(0, b"\r\n\r\n").await? + 4;
        let head = parse_head(&self.received[..start])?;
        match head.length {
            Length::Exact(length) => {
                self.receive(start + length).await?;
                Ok((head.status, &self.received[start..start + length]))
            }
            Length::Chunked => {
                self.receive_chunks(start).await?;
                Ok((head.status, &self.body))
            }
        }
    }

    async fn receive_chunks(&mut self, mut at: usize) -> Result<(), OperationError> {
        self.body.clear();
        loop {
            let end = self.receive_until(at, b"\r\n").await?;
            let size = std::str::from_utf8(&self.received[at..end]).ok();
            let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
            let size = size.ok_or(OperationError::Malformed("size of a chunk"))?;
            let start = end + 2;
            self.receive(start + size + 2).await?;
            self.body.extend_from_slice(&self.received[start..start + size]);
            at = start + size + 2;
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Receives until `pattern` stands at or after `from`; returns where.
    async fn receive_until(&mut self, from: usize, pattern: &[u8]) -> Result<usize, OperationError> {
        loop {
            if let Some(at) = find(&self.received[from..], pattern) {
                return Ok(from + at);
            }
            self.receive(self.received.len() + 1).await?;
        }
    }

    /// Receives until there are so many bytes.
    async fn receive(&mut self, length: usize) -> Result<(), OperationError> {
        while self.received.len() < length {
            self.received.reserve(16 << 10);
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(OperationError::Closed);
            }
        }
        Ok(())
    }
}

/// Where `pattern` is.
pub fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn parse_head(head: &[u8]) -> Result<Head, OperationError> {
    let malformed = OperationError::Malformed;
    let text = std::str::from_utf8(head).map_err(|_| malformed("headers"))?;
    let mut lines = text.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or(malformed("status line"))?;
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok().map(Length::Exact);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.trim() == "chunked" {
            length = Some(Length::Chunked);
        }
    }
    Ok(Head { status, length: length.ok_or(malformed("length of the body"))? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn heads_by_table() {
        for (text, expected) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
                Some(Head { status: 200, length: Length::Exact(7) }),
            ),
            (
                "HTTP/1.1 503 x\r\ntransfer-encoding: chunked\r\n\r\n",
                Some(Head { status: 503, length: Length::Chunked }),
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", None),
            ("nonsense\r\n\r\n", None),
        ] {
            assert_eq!(parse_head(text.as_bytes()).ok(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn bodies_in_pieces_come_out_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pieces = [
            "HTTP/1.1 200 OK\r\nContent-Le",
            "ngth: 5\r\n\r\nhel",
            "lo",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r",
            "\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        ];
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            for (i, piece) in pieces.into_iter().enumerate() {
                if matches!(i, 0 | 3) {
                    let _ = stream.read(&mut [0; 1024]).await.unwrap();
                }
                stream.write_all(piece.as_bytes()).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        let mut connection = HttpConnection::open(&address, &Access::default()).await.unwrap();
        assert_eq!(connection.post("/x", b"1").await.unwrap(), (200, b"hello".as_slice()));
        assert_eq!(connection.post("/x", b"2").await.unwrap(), (200, b"abcde".as_slice()));
        assert!(matches!(
            connection.post("/x", b"3").await,
            Err(OperationError::Closed | OperationError::Io(_))
        ));
    }
}
