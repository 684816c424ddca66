//! TLS on both ports: who is let in, and certificates that change while members run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use reqwest::blocking::Client;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::certificates::{Authority, Files};
use support::{Cluster, Door, PATIENCE, StopAtEnd, cluster};

const HOST: &[&str] = &["127.0.0.1"];

fn trusting(authorities: &[&Authority], identity: Option<&Files>) -> Client {
    let trusted: Vec<_> = authorities.iter().map(|authority| authority.trusted()).collect();
    let mut builder = Client::builder().timeout(PATIENCE).tls_certs_only(trusted);
    if let Some(files) = identity {
        builder = builder.identity(files.identity());
    }
    builder.build().unwrap()
}

/// A member that talks HTTPS, with a certificate of `authority`.
fn member(authority: &Authority, flags: &[&str]) -> Cluster {
    let mut c = Cluster::empty();
    let files = authority.issue(c.root(), "http", HOST);
    c.add_members(1, &["-http-cert", files.certificate(), "-http-key", files.key()]);
    c.add_flags(0, flags);
    c.ask_by("https", trusting(&[authority], None));
    c.start(0);
    c.await_ready(0);
    c
}

#[test]
fn clients_talk_https() {
    let authority = Authority::new("clients");
    let c = member(&authority, &[]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let stranger = Authority::new("stranger");
    assert!(trusting(&[&stranger], None).get(c.url(0, "/status")).send().is_err(), "another authority");
    let plain = format!("http://127.0.0.1:{}/status", c.members[0].http);
    assert!(Client::new().get(plain).send().is_err(), "without TLS");
    let nodes: serde_json::Value = serde_json::from_str(&c.get(0, "/nodes").1).unwrap();
    let expected = format!("https://127.0.0.1:{}", c.members[0].http);
    assert_eq!(nodes["n1"]["api_addr"], json!(expected));
}

#[test]
fn clients_may_talk_both_while_they_move() {
    let authority = Authority::new("clients");
    let c = member(&authority, &["-http-allow-plaintext"]);
    assert_eq!(c.get(0, "/status").0, 200);
    let plain = format!("http://127.0.0.1:{}", c.members[0].http);
    assert_eq!(Client::new().get(format!("{plain}/status")).send().unwrap().status(), 200);
    // Who is told where members are is told how to go on as it came.
    let secure = plain.replace("http://", "https://");
    for (base, http) in [(&plain, Client::new()), (&secure, trusting(&[&authority], None))] {
        let answer = http.get(format!("{base}/nodes")).send().unwrap().text().unwrap();
        let nodes: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(nodes["n1"]["api_addr"], json!(base));
    }
}

#[test]
fn both_are_answered_under_load_while_the_certificate_is_exchanged() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut c = member(&old, &["-http-allow-plaintext"]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let told = |c: &Cluster| c.report(0)["certificates"]["clients"]["certificate"].clone();
    let before = told(&c);
    assert_eq!(before.as_str().map(str::len), Some(64), "{before}");
    let secure = c.url(0, "/db/execute");
    let plain = secure.replace("https://", "http://");
    let (stop, by_tls, in_the_clear) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for (url, done) in [(&secure, &by_tls), (&plain, &in_the_clear)] {
            let (stop, old, new) = (&stop, &old, &new);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let http = trusting(&[old, new], None);
                    for _ in 0..5 {
                        let answer = http.post(url).body(r#"["INSERT INTO t VALUES(1)"]"#).send().unwrap();
                        assert_eq!(answer.status(), 200);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        c.await_more(&by_tls, 10);
        c.await_more(&in_the_clear, 10);
        new.issue(c.root(), "http", HOST);
        // What is told is what new connections meet.
        c.ask_by("https", trusting(&[&old, &new], None));
        c.until("the member tells of the new certificate", |c| (told(c) != before).then_some(()));
        assert!(trusting(&[&new], None).get(c.url(0, "/status")).send().is_ok());
        c.await_more(&by_tls, 10);
        c.await_more(&in_the_clear, 10);
    });
    c.ask_by("https", trusting(&[&new], None));
    let expected = by_tls.load(Ordering::Relaxed) + in_the_clear.load(Ordering::Relaxed);
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(expected));
}

#[test]
fn clients_show_a_certificate_if_they_have_to() {
    let authority = Authority::new("clients");
    let mut c = Cluster::empty();
    let files = authority.issue(c.root(), "http", HOST);
    let ca = authority.write(&c.root().join("ca.crt"));
    c.add_members(1, &["-http-cert", files.certificate(), "-http-key", files.key(), "-http-ca-cert", &ca]);
    c.add_flags(0, &["-http-verify-client", "-http-verify-common-name", "app"]);
    let app = authority.issue(c.root(), "app", &["app"]);
    let other = authority.issue(c.root(), "other", &["other"]);
    let stranger = Authority::new("stranger").issue(c.root(), "stranger", &["app"]);
    c.start(0);
    c.await_ready(0);
    let url = format!("https://127.0.0.1:{}/status", c.members[0].http);
    for (identity, expected) in
        [(None, false), (Some(&app), true), (Some(&other), false), (Some(&stranger), false)]
    {
        let answer = trusting(&[&authority], identity).get(&url).send();
        assert_eq!(answer.is_ok_and(|answer| answer.status() == 200), expected, "{identity:?}");
    }
}

#[test]
fn whose_certificates_clients_show_is_followed() {
    let (old, new) = (Authority::new("old clients"), Authority::new("new clients"));
    let server = Authority::new("server");
    let mut c = Cluster::empty();
    let files = server.issue(c.root(), "http", HOST);
    let ca = c.root().join("clients-ca.crt");
    let flags = ["-http-cert", files.certificate(), "-http-key", files.key(), "-http-verify-client"];
    c.add_members(1, &[&flags[..], &["-http-ca-cert", &old.write(&ca)]].concat());
    let shown = [old.issue(c.root(), "old", &["app"]), new.issue(c.root(), "new", &["app"])];
    c.start(0);
    c.await_ready(0);
    let url = format!("https://127.0.0.1:{}/status", c.members[0].http);
    // On a new connection each time.
    let let_in = |files: &Files| {
        let answer = trusting(&[&server], Some(files)).get(&url).send();
        answer.is_ok_and(|answer| answer.status() == 200)
    };
    let open = trusting(&[&server], Some(&shown[0]));
    assert!(open.get(&url).send().is_ok_and(|answer| answer.status() == 200));
    assert_eq!(shown.each_ref().map(let_in), [true, false]);
    // Both, while clients move; then the new one alone.
    for (trusted, expected) in [(old.pem() + &new.pem(), [true, true]), (new.pem(), [false, true])] {
        std::fs::write(&ca, trusted).unwrap();
        c.until("the authorities are followed", |_| (shown.each_ref().map(let_in) == expected).then_some(()));
    }
    // Whoever was let in goes on; what makes no sense is not taken.
    assert!(open.get(&url).send().is_ok_and(|answer| answer.status() == 200));
    std::fs::write(&ca, "no certificate").unwrap();
    c.await_log(0, "what changed is not taken");
    assert_eq!(shown.each_ref().map(let_in), [false, true]);
}

#[test]
fn certificates_and_authorities_are_exchanged_under_load_without_a_failed_request() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut c = member(&old, &[]);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let url = c.url(0, "/db/execute");
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // A new connection for each few writes, which shows the present certificate.
                    let http = trusting(&[&old, &new], None);
                    for _ in 0..5 {
                        let answer = http.post(&url).body(r#"["INSERT INTO t VALUES(1)"]"#).send().unwrap();
                        assert_eq!(answer.status(), 200);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        new.issue(c.root(), "http", HOST);
        let only_new = || trusting(&[&new], None).get(format!("{url}?")).send().is_ok();
        c.until("the new certificate", |_| only_new().then_some(()));
        c.await_more(&done, 20);
    });
    c.ask_by("https", trusting(&[&new], None));
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(done.load(Ordering::Relaxed)));
}

/// Three members whose peers talk TLS, each with a certificate in its name. Not started.
fn peers(authority: &Authority) -> Cluster {
    let mut c = Cluster::empty();
    let ca = authority.write(&c.root().join("peers-ca.crt"));
    c.add_members(3, &["-node-ca-cert", &ca, "-node-verify-member-name"]);
    for i in 0..3 {
        use_certificate(&mut c, i, authority, &[]);
    }
    c
}

/// Gives a member a certificate in its name.
fn use_certificate(c: &mut Cluster, i: usize, authority: &Authority, flags: &[&str]) {
    let name = c.members[i].name.clone();
    let files = authority.issue(c.root(), &name, &[&format!("{name}.cluster"), "127.0.0.1"]);
    c.add_flags(i, &["-node-cert", files.certificate(), "-node-key", files.key()]);
    c.add_flags(i, flags);
}

fn start_all(c: &mut Cluster) {
    (0..3).for_each(|i| c.start(i));
    (0..3).for_each(|i| c.await_ready(i));
}

#[test]
fn members_talk_tls_and_strangers_stay_out() {
    let authority = Authority::new("peers");
    let mut c = peers(&authority);
    start_all(&mut c);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    for i in 0..3 {
        c.execute(i, &json!([["INSERT INTO t VALUES(?)", i]]));
    }
    let leader = c.await_leader(0);
    c.kill(leader);
    c.execute((leader + 1) % 3, &json!(["INSERT INTO t VALUES(3)"]));
    c.start(leader);
    c.await_ready(leader);
    assert_eq!(c.value(leader, "SELECT count(*) FROM t", "linearizable"), json!(4));

    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let ca = c.root().join("peers-ca.crt").to_str().unwrap().to_owned();
    let joining = ["-join", &join, "-join-attempts", "2", "-join-interval", "50ms"];
    let stranger = Authority::new("stranger");
    for (name, of, trusts) in [("no-tls", None, true), ("wrong-ca", Some(&stranger), true)] {
        let i = c.member(name, &joining);
        if let Some(of) = of {
            assert!(trusts);
            use_certificate(&mut c, i, of, &["-node-ca-cert", &ca]);
        }
        c.start(i);
        assert_eq!(c.exit_code(i), Some(1), "{name}: {}", c.log(i));
        assert!(c.log(i).contains("unable to join"), "{}", c.log(i));
    }
    // It trusts a name that the members do not have.
    let i = c.member("wrong-name", &joining);
    use_certificate(&mut c, i, &authority, &["-node-ca-cert", &ca, "-node-verify-server-name", "elsewhere"]);
    c.start(i);
    assert_eq!(c.exit_code(i), Some(1));

    // A member that takes another's place, with a valid certificate of its own.
    let imposter = (leader + 1) % 3;
    let other = (leader + 2) % 3;
    let name = c.members[other].name.clone();
    let files = authority.issue(c.root(), "imposter", &[&format!("{name}.cluster"), "127.0.0.1"]);
    c.kill(imposter);
    c.add_flags(imposter, &["-node-cert", files.certificate(), "-node-key", files.key()]);
    c.start(imposter);
    c.until("it listens", |c| TcpStream::connect(("127.0.0.1", c.members[imposter].http)).ok());
    c.until("it is refused", |c| {
        // It asks the leader.
        drop(c.post(imposter, "/db/execute?timeout=1s", r#"["INSERT INTO t VALUES(5)"]"#));
        let is_refused = |i| c.log(i).contains("the certificate is not in the name of");
        (0..3).any(is_refused).then_some(())
    });
}

#[test]
fn callers_have_the_common_name_that_is_asked_for() {
    let authority = Authority::new("peers");
    let mut c = Cluster::empty();
    let ca = authority.write(&c.root().join("peers-ca.crt"));
    let common_name = ["-node-ca-cert", &ca, "-node-verify-common-name", "sqlited"];
    c.add_members(3, &common_name);
    for i in 0..3 {
        let files = authority.issue(c.root(), &format!("peer-{i}"), &["sqlited", "127.0.0.1"]);
        c.add_flags(i, &["-node-cert", files.certificate(), "-node-key", files.key()]);
    }
    start_all(&mut c);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let joining = ["-join", &join, "-join-attempts", "2", "-join-interval", "50ms"];
    for (name, names, is_let_in) in
        [("other", ["other", "127.0.0.1"], false), ("fitting", ["sqlited", "127.0.0.1"], true)]
    {
        let files = authority.issue(c.root(), name, &names);
        let own = ["-node-cert", files.certificate(), "-node-key", files.key()];
        let i = c.member(name, &[&joining[..], &common_name, &own].concat());
        c.start(i);
        if is_let_in {
            c.await_ready(i);
        } else {
            assert_eq!(c.exit_code(i), Some(1), "{}", c.log(i));
            assert!(c.log(i).contains("unable to join"), "{}", c.log(i));
        }
    }
    let nodes: serde_json::Value = serde_json::from_str(&c.get(0, "/nodes?nonvoters").1).unwrap();
    assert_eq!(nodes.as_object().unwrap().len(), 4, "{nodes}");
}

#[test]
fn members_that_verify_nobody_take_any_certificate_and_say_what_that_means() {
    let mut c = Cluster::empty();
    c.add_members(3, &["-node-no-verify"]);
    for i in 0..3 {
        // Each of an authority of its own, and for another host.
        let files =
            Authority::new(&format!("authority {i}")).issue(c.root(), &format!("peer-{i}"), &["elsewhere"]);
        c.add_flags(i, &["-node-cert", files.certificate(), "-node-key", files.key()]);
    }
    start_all(&mut c);
    for i in 0..3 {
        assert!(c.log(i).contains("-node-no-verify: whoever is in between"), "{}", c.log(i));
    }
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let leader = c.await_leader(0);
    c.kill(leader);
    c.execute((leader + 1) % 3, &json!(["INSERT INTO t VALUES(1)"]));
    c.start(leader);
    c.await_ready(leader);
    // Without TLS nobody gets in all the same.
    let join = format!("127.0.0.1:{}", c.members[0].raft);
    let plain = c.member("plain", &["-join", &join, "-join-attempts", "2", "-join-interval", "50ms"]);
    c.start(plain);
    assert_eq!(c.exit_code(plain), Some(1));
}

#[test]
fn a_removed_member_stays_out_with_its_certificate() {
    let authority = Authority::new("peers");
    let mut c = peers(&authority);
    start_all(&mut c);
    let leader = c.await_leader(0);
    let removed = (leader + 1) % 3;
    let name = c.members[removed].name.clone();
    let (status, body) = c.delete(leader, "/remove", &json!({ "id": name }).to_string());
    assert_eq!(status, 200, "{body}");
    c.execute(leader, &json!(["CREATE TABLE t(a)"]));
    c.terminate(removed);
    c.start(removed);
    c.until("it is refused", |c| {
        let log = c.log(leader);
        (log.contains("was removed from the cluster") || log.contains("is no member of the cluster"))
            .then_some(())
    });
    c.execute(leader, &json!(["INSERT INTO t VALUES(1)"]));
}

#[test]
fn certificates_of_members_are_exchanged_with_their_authority() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let mut c = peers(&old);
    start_all(&mut c);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let write = |door: &Door| {
        door.execute(&json!(["INSERT INTO t VALUES(1)"]));
        true
    };
    let written = c.while_written_to(write, |c, written| {
        let read_anew = |c: &mut Cluster, times: usize| {
            for i in 0..3 {
                c.until("it is read anew", |c| {
                    let log = c.log(i);
                    (log.matches("read anew").count() >= times).then_some(())
                });
            }
        };
        // Both are trusted; then the new one signs; then the old one is forgotten. Each member tells of each step.
        let told = |c: &Cluster, i| c.report(i)["certificates"]["peers"].clone();
        let before: Vec<_> = (0..3).map(|i| told(c, i)["certificate"].clone()).collect();
        assert!(before.iter().all(|certificate| certificate.is_string()), "{before:?}");
        let ca = c.root().join("peers-ca.crt");
        std::fs::write(&ca, old.pem() + &new.pem()).unwrap();
        read_anew(c, 1);
        for i in 0..3 {
            assert_eq!(told(c, i)["authorities"].as_array().map(Vec::len), Some(2));
        }
        for i in 0..3 {
            let name = c.members[i].name.clone();
            let dir = c.root().join(format!("new-{name}"));
            std::fs::create_dir(&dir).unwrap();
            let files = new.issue(&dir, &name, &[&format!("{name}.cluster"), "127.0.0.1"]);
            // Not both at once: what does not fit is not taken.
            std::fs::rename(files.certificate, c.root().join(format!("{name}.crt"))).unwrap();
            std::fs::rename(files.key, c.root().join(format!("{name}.key"))).unwrap();
        }
        read_anew(c, 2);
        for (i, before) in before.iter().enumerate() {
            assert_ne!(&told(c, i)["certificate"], before);
        }
        std::fs::write(&ca, new.pem()).unwrap();
        read_anew(c, 3);
        // New connections are made by what there is now.
        let follower = (c.await_leader(0) + 1) % 3;
        c.signal(follower, "STOP");
        c.signal(follower, "CONT");
        c.await_more(written, 100);
    });
    let i = c.await_leader(0);
    c.kill(i);
    c.start(i);
    c.await_ready(i);
    assert_eq!(c.value(i, "SELECT count(*) FROM t", "strong"), json!(written));
}

#[test]
fn a_cluster_moves_to_tls_one_member_at_a_time() {
    let authority = Authority::new("peers");
    let mut c = cluster(3);
    c.execute(0, &json!(["CREATE TABLE t(a)"]));
    let ca = authority.write(&c.root().join("peers-ca.crt"));
    for mode in ["dial", "accept", "refuse"] {
        for i in 0..3 {
            c.terminate(i);
            use_certificate(&mut c, i, &authority, &["-node-ca-cert", &ca, "-node-plaintext", mode]);
            c.start(i);
            c.await_ready(i);
            c.execute(i, &json!([["INSERT INTO t VALUES(?)", mode]]));
        }
    }
    assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(9));
}

/// What a port is not made for ends the connection, and nothing else.
fn poke(port: u16, bytes: &[u8]) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
    // It may have hung up already.
    drop(stream.write_all(bytes));
    drop(stream.shutdown(std::net::Shutdown::Write));
    let mut answer = Vec::new();
    drop(stream.take(1 << 20).read_to_end(&mut answer));
}

#[test]
fn noise_on_every_port_is_survived() {
    let authority = Authority::new("both");
    let mut with_tls = peers(&authority);
    start_all(&mut with_tls);
    let https = member(&authority, &[]);
    let plain = cluster(1);
    let mut hello = vec![0x16, 3, 1, 0xff, 0xff];
    hello.extend([0xa5; 300]);
    let mut announced = b"SQLITED\x01".to_vec();
    announced.extend(u32::MAX.to_le_bytes());
    let noise: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pokes: [&[u8]; 8] = [
        b"",
        b"\x16",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\0\0\0\0\0\0",
        &hello,
        &announced,
        &noise,
    ];
    for c in [&with_tls, &https, &plain] {
        for port in [c.members[0].http, c.members[0].raft, c.members[0].health] {
            for bytes in pokes {
                poke(port, bytes);
            }
        }
    }
    for (c, name) in [(&with_tls, "peers"), (&https, "clients"), (&plain, "none")] {
        assert!(c.is_ready(0), "{name}");
        c.execute(0, &json!(["CREATE TABLE IF NOT EXISTS t(a)", "INSERT INTO t VALUES(1)"]));
    }
}
