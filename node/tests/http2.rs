//! HTTP/2, by TLS and without: many requests at once on one connection, and its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use reqwest::blocking::{Client, ClientBuilder};
use reqwest::{StatusCode, Version};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use support::certificates::Authority;
use support::{Cluster, PATIENCE, cluster};

/// Requests at once.
const STREAMS: usize = 100;
/// Takes a second or so.
const LONG: &str =
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 2000000) SELECT count(*) FROM c";

/// A member without TLS, and a client that speaks HTTP/2 without being asked.
fn in_the_clear() -> (Cluster, Client) {
    (cluster(1), Client::builder().timeout(PATIENCE).http2_prior_knowledge().build().unwrap())
}

/// A member with TLS, and what clients of it begin with.
fn by_tls() -> (Cluster, impl Fn() -> ClientBuilder) {
    let authority = Authority::new("clients");
    let mut c = Cluster::empty();
    let files = authority.issue(c.root(), "http", &["127.0.0.1"]);
    c.add_members(1, &["-http-cert", files.certificate(), "-http-key", files.key()]);
    let client = move || Client::builder().timeout(PATIENCE).tls_certs_only([authority.trusted()]);
    c.ask_by("https", client().build().unwrap());
    c.start(0);
    c.await_ready(0);
    (c, client)
}

/// Connections to a port of this machine that are open, by their other end.
fn connections(port: u16) -> BTreeSet<String> {
    let open = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!(":{port:04X}");
    // proc_net_tcp(5): number, local address, remote address, state; 01 is an open one. Seen from the client's end.
    let fields = open.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let fields = fields.filter(|fields| fields[2].ends_with(&to) && fields[3] == "01");
    fields.map(|fields| fields[1].to_owned()).collect()
}

/// Writes and reads at once, all by one connection.
fn answers_many_at_once(c: &Cluster, http: &Client) {
    let write = c.url(0, "/db/execute");
    let read = c.url(0, "/db/query?level=strong&q=SELECT+count(*)+FROM+t");
    let first = http.post(&write).body(r#"["CREATE TABLE t(a INTEGER PRIMARY KEY)"]"#).send().unwrap();
    assert_eq!((first.version(), first.status()), (Version::HTTP_2, StatusCode::OK));
    let together = Barrier::new(STREAMS);
    std::thread::scope(|scope| {
        for n in 0..STREAMS {
            let (together, write, read) = (&together, &write, &read);
            scope.spawn(move || {
                together.wait();
                for round in 0..5 {
                    let insert = json!([["INSERT INTO t VALUES(?)", 5 * n + round]]).to_string();
                    for request in [http.post(write).body(insert), http.get(read)] {
                        let answer = request.send().unwrap();
                        assert_eq!((answer.version(), answer.status()), (Version::HTTP_2, StatusCode::OK));
                        let body = answer.text().unwrap();
                        assert!(!body.contains("error"), "{body}");
                    }
                }
            });
        }
    });
    assert_eq!(connections(c.members[0].http).len(), 1, "one connection for all");
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(5 * STREAMS));
}

/// What is on its way when a member goes down in order is answered, whole.
fn ends_with_what_is_on_its_way(c: &mut Cluster, http: &Client) {
    let url = c.url(0, "/db/query");
    let used = c.cpu_time(0);
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..3)
            .map(|_| {
                let request = http.get(&url).query(&[("q", LONG), ("level", "none")]);
                scope.spawn(move || {
                    let answer = request.send().unwrap();
                    assert_eq!((answer.version(), answer.status()), (Version::HTTP_2, StatusCode::OK));
                    answer.text().unwrap()
                })
            })
            .collect();
        c.until("they run", |c| (c.cpu_time(0) > used + Duration::from_millis(200)).then_some(()));
        assert!(asked.iter().all(|asked| !asked.is_finished()), "they run");
        assert_eq!(c.terminate(0), Some(0));
        for asked in asked {
            let body = asked.join().unwrap();
            assert!(body.ends_with(r#""values":[[2000000]]}]}"#), "{body}");
        }
    });
    assert!(!c.log(0).contains("requests were still running"), "{}", c.log(0));
    // Whoever comes later meets nobody.
    assert!(http.get(&url).send().is_err());
    c.start(0);
    c.await_ready(0);
    let again = http.get(c.url(0, "/status")).send().unwrap();
    assert_eq!((again.version(), again.status()), (Version::HTTP_2, StatusCode::OK));
}

#[test]
fn a_hundred_streams_without_tls() {
    let (c, http) = in_the_clear();
    answers_many_at_once(&c, &http);
}

#[test]
fn a_hundred_streams_by_tls() {
    let (c, client) = by_tls();
    answers_many_at_once(&c, &client().build().unwrap());
    // Who does not offer it gets the older one, on the same port.
    let older = client().http1_only().build().unwrap().get(c.url(0, "/status")).send().unwrap();
    assert_eq!((older.version(), older.status()), (Version::HTTP_11, StatusCode::OK));
}

#[test]
fn an_end_in_order_with_streams_in_flight_without_tls() {
    let (mut c, http) = in_the_clear();
    ends_with_what_is_on_its_way(&mut c, &http);
}

#[test]
fn an_end_in_order_with_streams_in_flight_by_tls() {
    let (mut c, client) = by_tls();
    ends_with_what_is_on_its_way(&mut c, &client().build().unwrap());
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

fn send(client: &mut TcpStream, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    // The member may have hung up.
    drop(client.write_all(&frame));
}

/// None once the member hung up.
fn receive(client: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    client.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    client.read_exact(&mut payload).ok()?;
    Some(Frame { kind: head[3], flags: head[4], payload })
}

/// A client that opens `streams` one after the other and then only answers what it must; the kinds of the frames that it
/// got until the member hung up, and how long that took.
fn converse_until_hung_up(port: u16, streams: &[u8]) -> (Vec<u8>, Duration) {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    send(&mut client, SETTINGS, 0, 0, &[]);
    for stream in streams {
        // :method GET, :scheme http, :path /nope, by RFC 7541: 404, and the stream is over.
        send(&mut client, HEADERS, 0x5, *stream, b"\x82\x86\x04\x05/nope");
    }
    let (began, mut kinds) = (Instant::now(), Vec::new());
    while began.elapsed() < PATIENCE
        && let Some(frame) = receive(&mut client)
    {
        kinds.push(frame.kind);
        if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
            // What it acknowledges a ping has, and settings have not.
            let payload = if frame.kind == PING { &frame.payload[..] } else { &[] };
            send(&mut client, frame.kind, ACK, 0, payload);
        }
    }
    (kinds, began.elapsed())
}

#[test]
fn a_connection_without_a_stream_is_not_kept() {
    let (c, http) = in_the_clear();
    let port = c.members[0].http;
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
    std::thread::scope(|scope| {
        for streams in [&[] as &[u8], &[1], &[1, 3]] {
            scope.spawn(move || {
                let (kinds, took) = converse_until_hung_up(port, streams);
                let answers = kinds.iter().filter(|kind| **kind == HEADERS).count();
                assert_eq!((answers, kinds.contains(&GOAWAY)), (streams.len(), true), "{kinds:?}");
                // Ten seconds: it may come back with the next request meanwhile.
                assert!(took > Duration::from_secs(8) && took < PATIENCE, "{took:?}");
            });
        }
        // A stream that takes longer than that keeps its connection.
        let query = [("q", endless), ("db_timeout", "13s")];
        let answer = http.get(c.url(0, "/db/query")).query(&query).send().unwrap();
        assert_eq!((answer.version(), answer.status()), (Version::HTTP_2, StatusCode::OK));
        let body = answer.text().unwrap();
        assert!(body.contains("query timeout"), "{body}");
    });
    // Who was hung up on comes back by another connection.
    assert_eq!(http.get(c.url(0, "/status")).send().unwrap().status(), StatusCode::OK);
}
