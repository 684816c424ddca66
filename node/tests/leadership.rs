//! Who leads, under load: transfers, removals, partitions, strangers.
//!
//! `LEADERSHIP_ROUNDS` is how often leadership is moved, `LEADERSHIP_SECONDS` how long a state is held.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::json;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Cluster, StopAtEnd, cluster, patient, proxied};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn hold(default: u64) -> Duration {
    Duration::from_secs(from_environment("LEADERSHIP_SECONDS", default))
}

fn id(text: &serde_json::Value) -> u64 {
    u64::from_str_radix(text.as_str().unwrap(), 16).unwrap()
}

#[test]
fn a_transfer_under_load_fails_no_request() {
    let mut c = cluster(3);
    c.create_ledger(0);
    c.await_leader(0);
    let writers = c.write_to(&[0, 1, 2], 8, 100);
    let mut pauses = Vec::new();
    for _ in 0..from_environment("LEADERSHIP_ROUNDS", 4) {
        let to = (c.await_leader(0) + 1) % 3;
        writers.await_more(20);
        writers.take_longest_pause();
        c.lead(to);
        writers.await_more(50);
        pauses.push(writers.take_longest_pause());
    }
    pauses.sort();
    println!("{} transfers: longest pauses {pauses:?}, refused {}", pauses.len(), writers.refused());
    assert_eq!(writers.refused(), 0, "{}", writers.last_refusal());
    assert!(pauses.iter().all(|pause| *pause < Duration::from_millis(500)), "{pauses:?}");
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

/// It has not heard the others yet, and finds out instead of refusing.
#[test]
fn a_leader_of_a_moment_hands_over_at_once() {
    let mut c = cluster(3);
    let first = c.await_leader(0);
    let ids = [0, 1, 2].map(|i| c.report(i)["nodeId"].clone());
    let mut leader = first;
    for _ in 0..from_environment("LEADERSHIP_ROUNDS", 6) {
        let next = (leader + 1) % 3;
        let (status, body) = c.post(leader, "/cluster/transfer", &json!({"to": ids[next]}).to_string());
        assert_eq!(status, 200, "{body}");
        c.until("it knows that it leads", |c| (c.report(next)["role"] == json!("Leader")).then_some(()));
        leader = next;
    }
}

/// It would take over only to go down, and the next one would have to be elected.
#[test]
fn leadership_goes_to_nobody_who_goes_down_too() {
    let mut c = cluster(3);
    c.create_ledger(0);
    let leader = c.await_leader(0);
    let (next, last) = ((leader + 1) % 3, (leader + 2) % 3);
    for goes in [next, last] {
        let stays = 3 - leader - goes;
        assert!(c.begin_drain(goes).wait().unwrap().success());
        for (from, to) in [(leader, stays), (stays, leader)] {
            let (status, body) = c.post(from, "/cluster/transfer", "{}");
            assert!(status == 200 && body.contains(&c.members[to].name), "{status} {body}");
            c.until("it knows that it leads", |c| (c.report(to)["role"] == json!("Leader")).then_some(()));
        }
        let (status, body) =
            c.post(leader, "/cluster/transfer", &json!({"to": c.report(goes)["nodeId"]}).to_string());
        assert!(status == 409 && body.contains("goes out of service"), "{status} {body}");
        c.kill(goes);
        c.start(goes);
        c.await_ready(goes);
    }
    // Somebody who does not answer any more, and is not missed yet.
    c.kill(last);
    let (status, body) = c.post(leader, "/cluster/transfer", "{}");
    assert!(status == 200 && body.contains(&c.members[next].name), "{status} {body}");
    // Everybody goes: it is left as it is.
    assert!(c.begin_drain(leader).wait().unwrap().success());
    let (status, body) = c.post(next, "/cluster/transfer", "{}");
    assert!(status == 409 && body.contains("no other voter answers"), "{status} {body}");
    c.execute(next, &json!(["INSERT INTO ledger(n) VALUES(1)"]));
}

/// What one that does not know yet gives to the other, that one passes on.
#[test]
fn of_two_that_go_down_at_once_neither_keeps_leadership() {
    let mut c = cluster(3);
    (0..3).for_each(|i| {
        c.remove_flags(i, 4);
        c.add_flags(i, &["-managed"]);
        c.kill(i);
        c.start(i);
    });
    (0..3).for_each(|i| c.await_ready(i));
    for _ in 0..from_environment("LEADERSHIP_ROUNDS", 3) {
        let leader = c.await_leader(0);
        let (other, stays) = ((leader + 1) % 3, (leader + 2) % 3);
        let mut going = [leader, other].map(|i| c.begin_drain(i));
        going.iter_mut().for_each(|drain| assert!(drain.wait().unwrap().success()));
        assert_eq!(c.report(stays)["role"], json!("Leader"));
        for i in [leader, other] {
            assert_eq!(c.terminate(i), Some(0));
            c.start(i);
            c.await_ready(i);
        }
    }
}

#[test]
fn a_leader_that_is_removed_leaves_no_gap() {
    let mut c = cluster(3);
    c.create_ledger(0);
    let join: Vec<String> = c.members.iter().map(|m| format!("127.0.0.1:{}", m.raft)).collect();
    let mut pauses = Vec::new();
    let mut acknowledged = Vec::new();
    let mut next = 0;
    for _ in 0..from_environment("LEADERSHIP_ROUNDS", 2) {
        let leader = c.await_leader(0);
        let rest: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
        let urls = rest.iter().map(|i| c.url(*i, "/db/execute")).collect();
        let writers = c.continue_ledger(urls, 4, 100, next);
        writers.await_more(20);
        writers.take_longest_pause();
        let name = c.members[leader].name.clone();
        let (status, body) = c.delete(rest[0], "/remove", &json!({ "id": name }).to_string());
        assert_eq!(status, 200, "{body}");
        writers.await_more(50);
        pauses.push(writers.take_longest_pause());
        assert_eq!(writers.refused(), 0, "{}", writers.last_refusal());
        // Its successor under the same name is another member, with an empty disk.
        c.kill(leader);
        std::fs::remove_dir_all(&c.members[leader].dir).unwrap();
        c.start(leader);
        c.await_ready(leader);
        c.until("a voter again", |c| {
            let report = c.report(rest[0]);
            let members = report["membership"]["members"].as_array()?;
            members.iter().any(|m| m["name"] == json!(name) && m["voter"] == json!(true)).then_some(())
        });
        next = writers.next();
        acknowledged.extend(writers.stop());
    }
    pauses.sort();
    println!("{} removals of the leader ({} addresses): longest pauses {pauses:?}", pauses.len(), join.len());
    // Two election timeouts.
    assert!(pauses.iter().all(|pause| *pause < Duration::from_millis(900)), "{pauses:?}");
    c.assert_ledgers(&acknowledged);
}

#[test]
fn full_load_is_no_reason_for_an_election() {
    let mut c = cluster(3);
    c.create_ledger(0);
    c.await_leader(0);
    let term = c.report(0)["term"].clone();
    let writers = c.write_to(&[0, 1, 2], 48, 500);
    let until = Instant::now() + hold(8);
    while Instant::now() < until {
        writers.await_more(100);
        let now = c.report(0)["term"].clone();
        assert_eq!(
            now,
            term,
            "an election under load; p99 {:?}",
            support::ledger::p99(&writers.take_times())
        );
    }
    println!("{} writes in {:?}, term {term} all the time", writers.acknowledged(), hold(8));
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_member_that_was_cut_off_comes_back_without_an_election() {
    let (mut c, proxies) = proxied(3);
    c.create_ledger(0);
    let leader = c.await_leader(0);
    let away = (leader + 1) % 3;
    let term = c.report(leader)["term"].clone();
    let away_id = id(&c.report(away)["nodeId"]);
    let writers = c.write_to(&[leader, (leader + 2) % 3], 2, 100);
    for (i, proxy) in proxies.iter().enumerate() {
        if i == away {
            proxy.close(true);
        } else {
            proxy.bar(away_id, true);
        }
    }
    c.until("it falls behind", |c| {
        let last = |i| c.report(i)["lastLogIndex"].as_u64();
        (last(leader)? > last(away)? + 50).then_some(())
    });
    let until = Instant::now() + hold(4);
    while Instant::now() < until {
        writers.await_more(20);
        assert_eq!(c.report(away)["term"], term, "the member that is cut off moves its term");
    }
    for (i, proxy) in proxies.iter().enumerate() {
        if i == away {
            proxy.close(false);
        } else {
            proxy.bar(away_id, false);
        }
    }
    c.until("it follows again", |c| {
        let last = |i| c.report(i)["lastLogIndex"].as_u64();
        (last(leader)? <= last(away)? + 5).then_some(())
    });
    writers.await_more(20);
    for i in 0..3 {
        assert_eq!(c.report(i)["term"], term);
    }
    assert_eq!(c.await_leader(0), leader);
    assert_eq!(writers.refused(), 0, "{}", writers.last_refusal());
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_broken_transfer_of_a_snapshot_goes_on_where_it_was() {
    let (mut c, proxies) = proxied(3);
    c.create_ledger(0);
    let leader = c.await_leader(0);
    let away = (leader + 1) % 3;
    let third = (leader + 2) % 3;
    c.kill(away);
    c.fill_ledger(leader, 5000);
    for i in [leader, third] {
        let (status, body) = c.post(i, "/snapshot?trailing_logs=0", "");
        assert_eq!(status, 200, "{body}\n{}", c.log(i));
    }
    // Twenty megabytes over connections of eight.
    proxies[away].cut_after(8 << 20);
    c.start(away);
    c.await_ready(away);
    proxies[away].cut_after(0);
    c.await_log(away, "installed a snapshot");
    let log = c.log(away);
    let begun: Vec<&str> = log.lines().filter(|l| l.contains("receiving a snapshot")).collect();
    assert!(begun.len() >= 3, "{log}");
    let on = begun.iter().filter(|l| !l.contains("from=0")).count();
    assert!(on >= 2, "taken up again from its start:\n{}", begun.join("\n"));
    c.assert_ledger(away, &[]);
    assert_eq!(c.value(away, "SELECT count(*) FROM ledger", "none"), json!(5000));
}

/// How many a member did not let in, for a reason.
fn refused_peers(c: &Cluster, i: usize, reason: &str) -> u64 {
    let metrics = format!("http://127.0.0.1:{}/metrics", c.members[i].health);
    let metrics = reqwest::blocking::get(metrics).unwrap().text().unwrap();
    let name = format!("sqlited_peers_refused{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

#[test]
fn a_member_of_another_cluster_at_an_address_that_was_ours() {
    let mut ours = cluster(3);
    let mut theirs = cluster(3);
    ours.create_ledger(0);
    theirs.create_ledger(0);
    let (leader, other) = (ours.await_leader(0), theirs.await_leader(0));
    let gone = (leader + 1) % 3;
    let stranger = (other + 1) % 3;
    let terms = (ours.report(leader)["term"].clone(), theirs.report(other)["term"].clone());
    ours.kill(gone);
    theirs.kill(stranger);
    // As after a pod's address was given to another pod.
    theirs.members[stranger].raft = ours.members[gone].raft;
    theirs.start(stranger);
    theirs.await_log(stranger, "refused a peer");
    let refused = |c: &Cluster| refused_peers(c, stranger, "other-member");
    let first = theirs.until("the first one is counted", |c| Some(refused(c)).filter(|count| *count > 0));
    let until = Instant::now() + hold(3);
    while Instant::now() < until {
        ours.execute(leader, &json!(["INSERT INTO ledger(n) SELECT count(*) FROM ledger"]));
        theirs.execute(other, &json!(["INSERT INTO ledger(n) SELECT count(*) FROM ledger"]));
    }
    let now = (ours.report(leader)["term"].clone(), theirs.report(other)["term"].clone());
    assert_eq!(now, terms);
    theirs.until("and the others", |c| (refused(c) > first).then_some(()));
    // Nothing else was refused there, but somebody who does not talk as members do is.
    assert_eq!(refused_peers(&theirs, stranger, "preface"), 0);
    let mut probe = std::net::TcpStream::connect(("127.0.0.1", theirs.members[stranger].raft)).unwrap();
    probe.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    theirs.until("it is counted", |c| (refused_peers(c, stranger, "preface") == 1).then_some(()));
    let status = theirs.status(stranger, "store.refused_peers");
    assert_eq!((&status["preface"], &status["removed"]), (&json!(1), &json!(0)));
    theirs.kill(stranger);
    ours.start(gone);
    ours.await_ready(gone);
    ours.assert_ledgers(&[]);
}

#[test]
fn who_waits_for_a_leader_takes_no_processor() {
    let mut c = cluster(3);
    c.create_ledger(0);
    let leader = c.await_leader(0);
    let left = (leader + 1) % 3;
    (0..3).filter(|i| *i != left).for_each(|i| c.kill(i));
    c.await_no_leader(left);
    let (begin, used) = (Instant::now(), c.cpu_time(left));
    std::thread::scope(|scope| {
        let c = &c;
        let write = "/db/execute?timeout=2s";
        for _ in 0..4 {
            scope.spawn(move || {
                assert_eq!(c.post(left, write, r#"["INSERT INTO ledger(n) VALUES(1)"]"#).0, 503)
            });
            scope.spawn(move || assert_eq!(c.get(left, "/db/query?q=SELECT+1&timeout=2s").0, 503));
        }
    });
    let (took, used) = (begin.elapsed(), c.cpu_time(left) - used);
    assert!(took > Duration::from_secs(2), "nobody waited: {took:?}");
    assert!(used < took / 3, "{used:?} within {took:?}");
}

#[test]
fn a_step_of_a_forwarded_query_that_takes_long_moves_no_leadership() {
    let mut c = cluster(3);
    let leader = c.await_leader(0);
    let term = c.report(leader)["term"].clone();
    // Few steps of SQLite's virtual machine, and much work in each of them.
    let columns = ["length(hex(randomblob(20000000)))"; 12].join(", ");
    let asked = patient();
    let begin = Instant::now();
    let answer = asked.get(c.url((leader + 1) % 3, "/db/query")).query(&[("q", format!("SELECT {columns}"))]);
    let answer: serde_json::Value = answer.send().unwrap().json().unwrap();
    assert_eq!(answer["results"][0]["values"][0][11], json!(40_000_000), "{answer}");
    println!("answered after {:?}", begin.elapsed());
    // The others would have elected one of them.
    (0..3).for_each(|i| assert_eq!(c.report(i)["term"], term, "{i}"));
}

#[test]
fn a_read_on_its_way_to_a_leader_that_stands_still_is_answered_by_the_next() {
    let mut c = cluster(3);
    c.create_ledger(0);
    let leader = c.await_leader(0);
    let asked = (leader + 1) % 3;
    let http = patient();
    let url = c.url(asked, "/db/query?q=SELECT+count(*)+FROM+ledger");
    let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let longest = std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let (http, url, answered, stop) = (&http, &url, &answered, &stop);
        let reading: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let mut longest = Duration::ZERO;
                    while !stop.load(Ordering::Relaxed) {
                        let begin = Instant::now();
                        let body = http.get(url).send().unwrap().text().unwrap();
                        assert!(body.contains("[[0]]"), "{body}");
                        longest = longest.max(begin.elapsed());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    longest
                })
            })
            .collect();
        c.await_more(answered, 100);
        c.signal(leader, "STOP");
        c.until("another leads", |c| {
            (c.report(asked)["leader"]["name"] != json!(c.members[leader].name)).then_some(())
        });
        c.await_more(answered, 100);
        stop.store(true, Ordering::Relaxed);
        reading.into_iter().map(|reads| reads.join().unwrap()).max().unwrap()
    });
    c.signal(leader, "CONT");
    println!("the longest read took {longest:?}");
    assert!(longest < Duration::from_secs(8), "{longest:?}");
}
