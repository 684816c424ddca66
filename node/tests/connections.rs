//! Clients that are many, slow, or never say anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::certificates::Authority;
use support::{Cluster, StopAtEnd, cluster, patient};

/// How many: more for `make prove`.
fn count() -> usize {
    std::env::var("CONNECTIONS").ok().map_or(1_500, |n| n.parse().expect("CONNECTIONS is a number"))
}

/// As many files as are allowed, for this process.
fn allow_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

fn resident_mebibytes(c: &Cluster, i: usize) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", c.pid(i))).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn many_clients_that_say_little_do_not_keep_others_out() {
    allow_files();
    let mut c = cluster(1);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let port = c.members[0].http;
    let mut clients: Vec<TcpStream> = Vec::new();
    for n in 0..count() {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        match n % 4 {
            // Says nothing at all.
            0 => {}
            // Begins to say something.
            1 => client.write_all(b"POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Le").unwrap(),
            // The same, of HTTP/2.
            2 => client.write_all(b"PRI * HT").unwrap(),
            // Announces more than it sends: all that a body may have.
            _ => client
                .write_all(b"POST /db/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 134217728\r\n\r\n[")
                .unwrap(),
        }
        clients.push(client);
    }
    for n in 0..20 {
        let began = Instant::now();
        c.execute(0, &json!([["INSERT INTO t VALUES(?)", n]]));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    let resident = resident_mebibytes(&c, 0);
    assert!(resident < 300, "{resident} MiB for {} connections", count());
    // Who does not end the head of a request, or begin one, is hung up on.
    for (n, slow) in clients[..3].iter_mut().enumerate() {
        slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = Vec::new();
        slow.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{n}: {error}"));
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{n}: {answer:?}");
    }
    // So is a probe that asks nothing.
    let mut probe = TcpStream::connect(("127.0.0.1", c.members[0].health)).unwrap();
    probe.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(probe.read_to_end(&mut Vec::new()).unwrap(), 0);
    drop(clients);
    c.execute(0, &json!(["INSERT INTO t VALUES(99)"]));
    println!("{} connections, {resident} MiB resident", count());
    assert_eq!(c.terminate(0), Some(0));
}

#[test]
fn who_falls_silent_in_a_handshake_is_hung_up_on() {
    let authority = Authority::new("both");
    let mut c = Cluster::empty();
    let http = authority.issue(c.root(), "http", &["127.0.0.1"]);
    let node = authority.issue(c.root(), "node", &["127.0.0.1"]);
    let ca = authority.write(&c.root().join("ca.crt"));
    let clients = ["-http-cert", http.certificate(), "-http-key", http.key()];
    let peers = ["-node-cert", node.certificate(), "-node-key", node.key(), "-node-ca-cert", &ca];
    c.add_members(1, &[&clients[..], &peers].concat());
    c.start(0);
    c.await_ready(0);
    let plain = cluster(1);
    // The beginning of a ClientHello (RFC 8446), and of a hello among members.
    let said = [(c.members[0].http, 10), (c.members[0].raft, 2), (plain.members[0].raft, 2)]
        .into_iter()
        .flat_map(|(port, seconds)| {
            [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"].map(|said| (port, seconds, said))
        });
    std::thread::scope(|scope| {
        for (port, seconds, said) in said {
            scope.spawn(move || {
                let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(25))).unwrap();
                client.write_all(said).unwrap();
                let began = Instant::now();
                // Nothing is shut here: it is only silent. The other end closes, or resets where it left something unread.
                let read = client.read_to_end(&mut Vec::new());
                let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
                assert!(read.as_ref().err().is_none_or(reset), "{port} {said:?}: {read:?}");
                let took = began.elapsed();
                assert!(took < Duration::from_secs(seconds + 10), "{port} {said:?}: {took:?}");
            });
        }
    });
}

#[test]
fn queries_that_nobody_waits_for_make_room_for_others() {
    // As many as there may be at once.
    const STREAMS: usize = 16;
    let c = cluster(1);
    let http = patient();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
    let asked: Vec<_> = (0..STREAMS)
        .map(|_| http.get(c.url(0, "/db/query")).query(&[("q", endless)]).send().unwrap())
        .collect();
    let large = |c: &Cluster| c.get(0, "/db/query?q=SELECT+hex(zeroblob(100000))");
    let (status, body) = large(&c);
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("too many large queries at once"), "{body}");
    drop(asked);
    let (status, body) = large(&c);
    assert_eq!((status, body.len() > 200_000), (200, true));
}

/// As many as a member takes at once, as wait in the kernel's queue, and some more.
const SILENT: usize = 2_000;

/// Whether the other end of a connection, on which nothing is said, has not hung up.
fn is_open(silent: &TcpStream) -> bool {
    matches!(silent.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Keeps so many connections open, on which nothing is said; a new one for each that is hung up on.
fn flood(port: u16, stop: &AtomicBool, opened: &AtomicUsize) {
    let mut silent: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // It may be down, or its queue full.
        let address = ([127, 0, 0, 1], port).into();
        match TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            Ok(connection) if silent.len() < SILENT => {
                connection.set_nonblocking(true).unwrap();
                silent.push(connection);
                opened.fetch_add(1, Ordering::Relaxed);
            }
            _ => silent.retain(is_open),
        }
    }
}

#[test]
fn members_come_back_while_others_fill_the_peer_port_with_silence() {
    allow_files();
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let (stop, opened) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 3]);
    let ports: Vec<u16> = c.members.iter().map(|member| member.raft).collect();
    std::thread::scope(|scope| {
        let _end = StopAtEnd(&stop);
        for (port, opened) in ports.into_iter().zip(&opened) {
            let stop = &stop;
            scope.spawn(move || flood(port, stop, opened));
        }
        let more_than_fit = |from: [usize; 3]| {
            opened
                .iter()
                .zip(from)
                .all(|(opened, from)| opened.load(Ordering::Relaxed) > from + 1500)
                .then_some(())
        };
        c.until("the flood is there", |_| more_than_fit([0; 3]));
        for n in 0..3 {
            // Each in turn, the leader too: it calls the others, and they call it.
            let begun = Instant::now();
            c.kill(n);
            c.start(n);
            c.await_ready(n);
            c.execute(n, &json!([["INSERT INTO t VALUES(?)", n]]));
            println!("back after {:?}", begun.elapsed());
        }
        let before = [0, 1, 2].map(|i| opened[i].load(Ordering::Relaxed));
        c.until("the flood goes on", |_| more_than_fit(before));
        for i in 0..3 {
            c.until("all has come", |c| {
                (c.value(i, "SELECT count(*) FROM t", "none") == json!(3)).then_some(())
            });
        }
    });
}
