//! The stream of a member's reports, on a connection of its own.
//!
//! Who follows a thousand clusters keeps as many connections, which say next to nothing for days. A client that is made for
//! requests holds some 60 KiB of buffers for each of them, this one a few: it asks by HTTP/1.0, so that what comes after the
//! head is the lines and nothing else, and it reads no further than there is something to read.

use crate::admin::MemberReport;
use crate::admin_client::{AdminError, AdminTimeouts, refusal};
use reqwest::{Request, Url};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// A report larger than this is refused: a membership has a few members of a few hundred bytes each.
const MAX_REPORT_BYTES: usize = 1 << 20;
/// The same of what comes before the reports, and of what is said in their place.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Room for what is read at a time.
const READ_BYTES: usize = 1 << 10;

type Stream = Box<dyn AsyncRead + Send + Unpin>;

/// Reports of a member, as lines of JSON.
pub struct Events {
    stream: Stream,
    buffer: Vec<u8>,
    patience: Duration,
    url: String,
}

/// How a member answered.
struct Answer {
    status: u16,
    is_framed: bool,
    /// What came after the head.
    rest: Vec<u8>,
}

impl Events {
    /// Asks for them, as `request` says, with certificates as `tls` says.
    pub async fn follow(
        request: Request,
        tls: Option<Arc<ClientConfig>>,
        timeouts: AdminTimeouts,
    ) -> Result<Self, AdminError> {
        let url = request.url().to_string();
        let silent = AdminError::EventsSilent { url: url.clone() };
        let asked = timeout(timeouts.report, connect(&request, tls, timeouts.connect)).await;
        let (stream, answer) = asked
            .map_err(|_| silent)?
            .map_err(|source| AdminError::Connection { url: url.clone(), source })?;
        if !(200..300).contains(&answer.status) {
            let mut body = answer.rest;
            let mut rest = stream.take(MAX_HEAD_BYTES as u64);
            // What is missing of why it refuses is no other reason.
            let _ = timeout(timeouts.report, rest.read_to_end(&mut body)).await;
            return Err(refusal(url, answer.status, &body));
        }
        if answer.is_framed {
            let body = "an answer to HTTP/1.0 in chunks".to_owned();
            return Err(AdminError::Unexpected { url, status: answer.status, body });
        }
        Ok(Self { stream, buffer: answer.rest, patience: timeouts.event, url })
    }

    /// The next one; none at the end.
    pub async fn next(&mut self) -> Result<Option<MemberReport>, AdminError> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|source| AdminError::Event { url: self.url.clone(), source });
            }
            if self.buffer.len() > MAX_REPORT_BYTES {
                return Err(AdminError::EventTooLong { url: self.url.clone() });
            }
            if self.buffer.is_empty() {
                // A long line is over: its room is given back while nothing comes.
                self.buffer = Vec::new();
            }
            self.buffer.reserve(READ_BYTES);
            match timeout(self.patience, self.stream.read_buf(&mut self.buffer)).await {
                Err(_) => return Err(AdminError::EventsSilent { url: self.url.clone() }),
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) => {}
                Ok(Err(source)) => return Err(AdminError::Connection { url: self.url.clone(), source }),
            }
        }
    }
}

async fn connect(
    request: &Request,
    tls: Option<Arc<ClientConfig>>,
    patience: Duration,
) -> std::io::Result<(Stream, Answer)> {
    let url = request.url();
    let invalid = |what: &str| Error::new(ErrorKind::InvalidInput, what.to_owned());
    let host = url.host_str().ok_or_else(|| invalid("an address without a host"))?.trim_matches(['[', ']']);
    let port = url.port_or_known_default().ok_or_else(|| invalid("an address without a port"))?;
    let late = |_| Error::new(ErrorKind::TimedOut, "no connection in time");
    let stream = timeout(patience, TcpStream::connect((host, port))).await.map_err(late)??;
    if url.scheme() != "https" {
        return ask(stream, &head(request)).await;
    }
    let tls = tls.ok_or_else(|| invalid("no authorities are known that certificates could be of"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid("no name for a certificate"))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    ask(stream, &head(request)).await
}

/// The request as it is sent.
fn head(request: &Request) -> Vec<u8> {
    let url: &Url = request.url();
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut head =
        format!("{} {target} HTTP/1.0\r\nhost: {}\r\n", request.method(), url.authority()).into_bytes();
    for (name, value) in request.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

async fn ask<S>(mut stream: S, head: &[u8]) -> std::io::Result<(Stream, Answer)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    stream.write_all(head).await?;
    stream.flush().await?;
    let mut read = Vec::with_capacity(READ_BYTES);
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if read.len() > MAX_HEAD_BYTES {
            return Err(Error::new(ErrorKind::InvalidData, "the head of the answer does not end"));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    };
    let rest = read.split_off(end + 4);
    let answer =
        answer(&read, rest).ok_or_else(|| Error::new(ErrorKind::InvalidData, "no answer of HTTP"))?;
    Ok((Box::new(stream), answer))
}

fn answer(head: &[u8], rest: Vec<u8>) -> Option<Answer> {
    let head = std::str::from_utf8(head).ok()?;
    let (first, headers) = head.split_once("\r\n")?;
    let status = first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let is_framed = headers.to_ascii_lowercase().lines().any(|line| line.starts_with("transfer-encoding:"));
    Some(Answer { status, is_framed, rest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::NodeId;

    fn events(chunks: &[&'static str]) -> Events {
        let none: Box<dyn AsyncRead + Send + Unpin> = Box::new(tokio::io::empty());
        let stream = chunks.iter().fold(none, |before, chunk| Box::new(before.chain(chunk.as_bytes())));
        Events { stream, buffer: Vec::new(), patience: Duration::from_secs(1), url: "http://test".into() }
    }

    const REPORT: &str = r#"{"epoch":0,"nodeId":"000000000000000a","name":"a-0","raftAddress":"a:2","apiAddress":"a:1","version":"1","phase":"Serving","role":"Leader","term":1,"lastLogIndex":1,"committedIndex":1,"appliedIndex":1,"membership":{"logIndex":0,"committed":true,"joint":false,"members":[]}}"#;

    #[tokio::test]
    async fn reports_are_split_over_chunks_and_keep_alives_are_skipped() {
        let (head, tail) = REPORT.split_at(100);
        let mut events = events(&["\n", head, tail, "\n\n", REPORT, "\n"]);
        for _ in 0..2 {
            let report = events.next().await.expect("a line").expect("a report");
            assert_eq!(report.node_id, NodeId(10));
        }
        assert!(events.next().await.expect("an end").is_none());
    }

    #[tokio::test]
    async fn a_line_that_is_no_report_is_an_error() {
        assert!(matches!(events(&["nonsense\n"]).next().await, Err(AdminError::Event { .. })));
    }

    #[test]
    fn heads_of_answers() {
        for (head, expected) in [
            ("HTTP/1.0 200 OK\r\ncontent-type: x", Some((200, false))),
            ("HTTP/1.1 401 Unauthorized\r\n", Some((401, false))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Some((200, true))),
            ("SSH-2.0\r\n", None),
            ("HTTP/1.1 many\r\n", None),
        ] {
            let found = answer(head.as_bytes(), Vec::new()).map(|answer| (answer.status, answer.is_framed));
            assert_eq!(found, expected, "{head}");
        }
    }

    #[test]
    fn the_request_names_what_was_signed() {
        let request =
            reqwest::Client::new().get("http://[::1]:4001/cluster/events").basic_auth("u", Some("p"));
        let head = String::from_utf8(head(&request.build().expect("a request"))).expect("text");
        assert_eq!(
            head,
            "GET /cluster/events HTTP/1.0\r\nhost: [::1]:4001\r\nauthorization: Basic dTpw\r\n\r\n"
        );
    }
}
