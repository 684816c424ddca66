//! A member ends between every two steps that have to survive it (`failpoint.rs` names them), under writes: afterwards
//! it comes back, nothing that was acknowledged is lost, and nothing is applied twice.
//!
//! Needs `--features failpoints`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use node::failpoint::Place;
use serde_json::json;
use support::{Cluster, cluster, cluster_with, proxied};

/// Filling of a row, so that a snapshot has several chunks.
const FILLING: usize = 4000;

fn abort_at(place: Place) -> String {
    format!("{}=return(abort)", place.name())
}

/// Starts a member that ends at `place`, and starts it again.
fn end_at(c: &mut Cluster, i: usize, place: Place) {
    c.start_armed(i, &abort_at(place));
    c.await_abort(i, place.name());
    c.start(i);
    c.await_ready(i);
}

/// Three members with a ledger of some megabytes.
fn with_ledger() -> Cluster {
    let mut c = cluster(3);
    c.await_leader(0);
    c.create_ledger(0);
    c.fill_ledger(0, 900);
    c
}

fn others(i: usize) -> Vec<usize> {
    (0..3).filter(|other| *other != i).collect()
}

/// How many inserts into the ledger are in the files of a member's log.
fn logged(c: &Cluster, i: usize) -> usize {
    let files =
        std::fs::read_dir(c.members[i].dir.join("raft/log")).unwrap().map(|file| file.unwrap().path());
    let insert = b"INSERT INTO ledger(n, filling)";
    files.map(|file| std::fs::read(file).unwrap().windows(insert.len()).filter(|w| w == insert).count()).sum()
}

/// Makes members purge their logs, so that one that was away needs a snapshot.
fn purge(c: &mut Cluster, members: &[usize]) {
    for i in members {
        let (status, body) = c.post(*i, "/snapshot?trailing_logs=0", "");
        // 204: the member has just done it by itself.
        assert!(matches!(status, 200 | 204), "{status} {body}");
    }
}

fn crash_while_receiving(places: &[Place]) {
    let mut c = with_ledger();
    let mut acknowledged = Vec::new();
    let mut first = 0;
    for place in places {
        let follower = (c.await_leader(0) + 1) % 3;
        let rest = others(follower);
        c.kill(follower);
        let urls = rest.iter().map(|i| c.url(*i, "/db/execute")).collect();
        let writers = c.continue_ledger(urls, 2, FILLING, first);
        writers.await_more(20);
        purge(&mut c, &rest);
        end_at(&mut c, follower, *place);
        writers.await_more(5);
        first = writers.next();
        acknowledged.extend(writers.stop());
        // It may be in service before it says so.
        c.await_log(follower, "installed a snapshot");
    }
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_receiver_of_a_snapshot_ends_before_it_is_whole() {
    crash_while_receiving(&[
        Place::ReceiveStaged,
        Place::ReceiveChunk,
        Place::ReceiveComplete,
        Place::ReceiveSynced,
        Place::ReceiveChecked,
    ]);
}

#[test]
fn a_member_ends_while_it_installs_a_snapshot() {
    crash_while_receiving(&[
        Place::InstallClosed,
        Place::ActivateLinked,
        Place::ActivateRenamed,
        Place::ActivateSynced,
        Place::InstallOpened,
        Place::InstallRemoved,
    ]);
}

/// Starts member `i` again, to end at this place, and waits until it is in service.
fn restart_armed(c: &mut Cluster, i: usize, place: Place) {
    c.kill(i);
    c.start_armed(i, &abort_at(place));
    c.await_ready(i);
}

/// Loads a database with so many rows through member `i`.
fn load(c: &Cluster, i: usize, rows: usize) {
    let path = c.root().join(format!("loaded-{rows}.sqlite"));
    let loaded = rusqlite::Connection::open(&path).unwrap();
    let fill = format!(
        "CREATE TABLE loaded(n, filling); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {rows})
         INSERT INTO loaded SELECT i, randomblob(4000) FROM n"
    );
    loaded.execute_batch(&fill).unwrap();
    loaded.close().unwrap();
    let answer =
        support::patient().post(c.url(i, "/db/load")).body(std::fs::read(&path).unwrap()).send().unwrap();
    assert_eq!(answer.status().as_u16(), 200, "{}", answer.text().unwrap());
}

fn await_rows(c: &mut Cluster, rows: usize) {
    for i in 0..3 {
        c.until("the rows of the database that was loaded", |c| {
            (c.value(i, "SELECT count(*) FROM loaded", "none") == json!(rows)).then_some(())
        });
        assert_eq!(c.value(i, "PRAGMA integrity_check", "none"), json!("ok"));
    }
}

fn await_consistent(c: &mut Cluster) {
    c.until("members agree", |c| {
        (0..3).all(|i| c.report(i)["consistency"]["state"] == "consistent").then_some(())
    });
}

#[test]
fn a_member_ends_while_another_database_takes_the_place_of_its_own() {
    let mut c = cluster_with(3, &["-consistency-period", "500ms"]);
    let places = [
        Place::ReplaceShared,
        Place::InstallClosed,
        Place::ActivateLinked,
        Place::ActivateRenamed,
        Place::ActivateSynced,
        Place::InstallOpened,
        Place::InstallRemoved,
    ];
    for (round, place) in places.into_iter().enumerate() {
        let leader = c.await_leader(0);
        let follower = (leader + 1) % 3;
        restart_armed(&mut c, follower, place);
        let rows = 500 + round;
        load(&c, leader, rows);
        c.await_abort(follower, place.name());
        c.execute(leader, &json!(["INSERT INTO loaded VALUES(0, NULL)"]));
        c.start(follower);
        c.await_ready(follower);
        await_rows(&mut c, rows + 1);
    }
    await_consistent(&mut c);
}

#[test]
fn a_member_that_was_away_is_sent_the_database_that_others_write_to_already() {
    let mut c = cluster_with(3, &["-consistency-period", "500ms"]);
    let leader = c.await_leader(0);
    let (follower, away) = ((leader + 1) % 3, (leader + 2) % 3);
    c.kill(away);
    restart_armed(&mut c, follower, Place::UnshareCopied);
    load(&c, leader, 500);
    c.execute(leader, &json!(["INSERT INTO loaded VALUES(0, NULL)"]));
    // A checkpoint writes to the database's file, which is the one that the third is to be sent.
    c.until("the entries are there", |c| {
        (c.value(follower, "SELECT count(*) FROM loaded", "none") == json!(501)).then_some(())
    });
    // It may end before it answers.
    drop(support::patient().post(c.url(follower, "/snapshot")).send());
    c.await_abort(follower, "unshare.copied");
    c.start(follower);
    c.await_ready(follower);
    for i in [leader, follower] {
        assert!(matches!(c.post(i, "/snapshot", "").0, 200 | 204), "{}", c.log(i));
        let staging = std::fs::read_dir(c.members[i].dir.join("staging")).unwrap();
        let names: Vec<_> = staging.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names.len(), 1, "it is kept for the third: {names:?}");
        let links = std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(&names[0]).unwrap());
        assert_eq!(links, 1, "and is no part of the database any more");
    }
    c.start(away);
    c.await_ready(away);
    await_rows(&mut c, 501);
    assert!(c.log(away).contains("fetched a database that an entry names"), "{}", c.log(away));
    await_consistent(&mut c);
}

#[test]
fn the_sender_of_a_snapshot_ends() {
    let mut c = with_ledger();
    let mut acknowledged = Vec::new();
    let mut first = 0;
    for place in [Place::SendPinned, Place::SendBegun, Place::SendChunk, Place::SendEnded] {
        let sender = c.await_leader(0);
        let receiver = (sender + 1) % 3;
        let third = (sender + 2) % 3;
        c.kill(receiver);
        c.kill(sender);
        c.start_armed(sender, &abort_at(place));
        c.await_ready(sender);
        c.lead(sender);
        let urls = vec![c.url(third, "/db/execute")];
        let writers = c.continue_ledger(urls, 2, FILLING, first);
        writers.await_more(20);
        purge(&mut c, &[sender, third]);
        c.start(receiver);
        c.await_abort(sender, place.name());
        // The two that are left are a quorum.
        c.await_ready(receiver);
        writers.await_more(5);
        c.start(sender);
        c.await_ready(sender);
        first = writers.next();
        acknowledged.extend(writers.stop());
    }
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_member_ends_while_it_starts() {
    let mut c = with_ledger();
    let writers = c.write_to(&[0, 1, 2], 2, 10);
    for place in [Place::StartCleaned, Place::StartOpened, Place::StartLogOpened] {
        for i in 0..3 {
            c.kill(i);
            end_at(&mut c, i, place);
        }
    }
    writers.await_more(20);
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_member_ends_while_it_is_made() {
    for place in [
        Place::StartCleaned,
        Place::StartCreated,
        Place::ActivateLinked,
        Place::ActivateRenamed,
        Place::ActivateSynced,
        Place::StartOpened,
        Place::StartLogOpened,
        Place::ClusterFounded,
        Place::VoteDecided,
        Place::VoteDurable,
    ] {
        let mut c = Cluster::empty();
        c.member("alone", &[]);
        end_at(&mut c, 0, place);
        c.execute(0, &json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
        assert_eq!(c.value(0, "SELECT count(*) FROM t", "strong"), json!(1), "{}", place.name());
    }
}

/// Ends each member in turn at a place that it passes while it works, as a follower and as the leader.
fn crash_at_work(places: &[(Place, u32)]) {
    let mut c = with_ledger();
    let writers = c.write_to(&[0, 1, 2], 4, 100);
    for (place, passes) in places {
        for leads in [false, true] {
            let leader = c.await_leader(0);
            let i = (leader + 1) % 3;
            c.kill(i);
            c.start_armed(i, &format!("{}={passes}*off->return(abort)", place.name()));
            if leads {
                // It may get there before it leads, which is as good.
                let id = c.report(leader)["nodeId"].clone();
                c.until("it leads, or ended", |c| {
                    assert_eq!(c.report(leader)["nodeId"], id);
                    let to = c.send_leadership(leader, i)?;
                    let ended = c.log(i).contains(&format!("failpoint {}", place.name()));
                    (ended || c.report(leader)["leader"]["nodeId"] == to).then_some(())
                });
            }
            c.await_abort(i, place.name());
            c.start(i);
            c.await_ready(i);
            writers.await_more(10);
        }
    }
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_member_ends_while_it_applies() {
    let places = [Place::ApplyBegun, Place::ApplyNoted, Place::ApplyRan, Place::ApplyCommitted];
    crash_at_work(&places.map(|place| (place, if place == Place::ApplyBegun { 20 } else { 40 })));
}

#[test]
fn a_member_ends_while_it_appends() {
    crash_at_work(&[(Place::AppendSubmitted, 40), (Place::AppendDurable, 40)]);
}

#[test]
fn a_voter_ends_while_it_votes() {
    let mut c = with_ledger();
    let writers = c.write_to(&[0, 1, 2], 2, 100);
    for place in [Place::VoteDecided, Place::VoteDurable] {
        let leader = c.await_leader(0);
        let voters = others(leader);
        // Both are armed: whoever stands, votes for itself first.
        for i in &voters {
            c.kill(*i);
            c.start_armed(*i, &abort_at(place));
            c.await_ready(*i);
        }
        c.kill(leader);
        let ended = c.until("a voter ends", |c| {
            voters.iter().copied().find(|i| c.log(*i).contains(&format!("failpoint {}", place.name())))
        });
        c.await_abort(ended, place.name());
        let other = voters.iter().copied().find(|i| *i != ended).unwrap();
        c.kill(other);
        for i in 0..3 {
            c.start(i);
        }
        (0..3).for_each(|i| c.await_ready(i));
        writers.await_more(10);
    }
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_member_ends_while_it_checkpoints_and_purges() {
    let mut c = with_ledger();
    let writers = c.write_to(&[0, 1, 2], 2, FILLING);
    for place in [
        Place::CheckpointSynced,
        Place::PurgeDecided,
        Place::PurgeKnown,
        Place::PurgeSubmitted,
        Place::PurgeDurable,
    ] {
        for leads in [true, false] {
            let leader = c.await_leader(0);
            let i = if leads { leader } else { (leader + 1) % 3 };
            c.kill(i);
            c.start_armed(i, &abort_at(place));
            let (other, name) = ((i + 1) % 3, json!(c.members[i].name));
            // What it does by itself may get there before it is asked to.
            c.until("it is in service, and leads if it is to, or has ended", |c| {
                if c.has_ended(i) {
                    return Some(());
                }
                if leads && c.report(other)["leader"]["name"] != name {
                    c.send_leadership(other, i);
                    return None;
                }
                c.is_ready(i).then_some(())
            });
            writers.await_more(10);
            let url = c.url(i, "/snapshot?trailing_logs=0");
            // It may end before it answers.
            drop(reqwest::blocking::Client::new().post(url).send());
            c.await_abort(i, place.name());
            c.start(i);
            c.await_ready(i);
        }
    }
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_member_ends_in_a_checkpoint_beside_the_writer() {
    let mut c = with_ledger();
    let writers = c.write_to(&[0, 1, 2], 4, 200_000);
    for place in [Place::CheckpointDue, Place::CheckpointBulk, Place::CheckpointSynced] {
        let i = (c.await_leader(0) + 1) % 3;
        c.kill(i);
        end_at(&mut c, i, place);
    }
    writers.await_more(10);
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_deposed_leader_ends_while_it_cuts_its_log() {
    let (mut c, proxies) = proxied(3);
    c.create_ledger(0);
    for round in 0..2 {
        let old = c.await_leader(round);
        let rest = others(old);
        let id = c.report(old)["nodeId"].clone();
        let id = u64::from_str_radix(id.as_str().unwrap(), 16).unwrap();
        rest.iter().for_each(|i| proxies[*i].bar(id, true));
        proxies[old].close(true);
        // Nobody confirms these: they are in the old leader's log alone.
        let before = logged(&c, old);
        let stranded = c.write_to(&[old], 3, 100);
        // What a member reports of its log is not written yet.
        c.until("entries that nobody confirms", |c| (logged(c, old) > before).then_some(()));
        c.kill(old);
        assert!(stranded.stop().is_empty(), "acknowledged without a quorum");
        c.await_leader(rest[0]);
        c.execute(rest[0], &json!([["INSERT INTO ledger(n) VALUES(?)", 2_000_000 + round]]));
        c.start_armed(old, &abort_at(Place::TruncateDurable));
        rest.iter().for_each(|i| proxies[*i].bar(id, false));
        proxies[old].close(false);
        c.await_abort(old, "truncate.durable");
        c.start(old);
        c.await_ready(old);
        c.assert_ledgers(&[2_000_000 + round as u64]);
    }
}

#[test]
fn a_local_failure_ends_the_member_and_no_result_tells_of_it() {
    let mut c = with_ledger();
    let writers = c.write_to(&[0, 1, 2], 2, 100);
    for (place, passes) in [
        (Place::AppendSubmitted, 10),
        (Place::AppendDurable, 10),
        (Place::ApplyBegun, 10),
        (Place::ApplyRan, 10),
        (Place::ApplyCommitted, 10),
    ] {
        let i = (c.await_leader(0) + 1) % 3;
        c.kill(i);
        c.start_armed(i, &format!("{}={passes}*off->return(eio)", place.name()));
        let ended = c.await_end(i, place.name());
        assert_eq!(ended.code(), Some(1), "{}: {}", place.name(), c.log(i));
        assert!(c.log(i).contains("fatal: "), "{}: {}", place.name(), c.log(i));
        c.start(i);
        c.await_ready(i);
        writers.await_more(5);
    }
    assert!(!writers.last_refusal().contains("Input/output error"), "{}", writers.last_refusal());
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}

#[test]
fn a_snapshot_that_cannot_be_received_is_sent_again() {
    let mut c = with_ledger();
    for place in [Place::ReceiveStaged, Place::ReceiveChunk, Place::ReceiveSynced, Place::SendChunk] {
        let leader = c.await_leader(0);
        let follower = (leader + 1) % 3;
        c.kill(follower);
        c.execute(leader, &json!(["INSERT INTO ledger(n) SELECT max(n) + 1 FROM ledger"]));
        purge(&mut c, &others(follower));
        if place == Place::SendChunk {
            let third = (leader + 2) % 3;
            c.kill(third);
            c.start_armed(third, &format!("{}=1*return(eio)->off", place.name()));
            c.await_ready(third);
            c.lead(third);
            purge(&mut c, &others(follower));
        }
        let failpoints = format!("{}=1*return(eio)->off", place.name());
        c.start_armed(follower, &failpoints);
        c.await_ready(follower);
        // It may be in service before it says so.
        c.await_log(follower, "installed a snapshot");
    }
    c.assert_ledgers(&[]);
}

/// How an error of the disk reads.
const DISK: &str = "Input/output error";

/// What a member does about one error of its disk.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The step fails, and is done again later.
    GoesOn,
    /// It ends, as what is on the disk is not known any more; the next start finds out.
    Ends,
}
use Then::{Ends, GoesOn};

/// Waits until all members have the same pages.
fn await_same_pages(c: &mut Cluster) {
    c.until("the same checksum everywhere", |c| {
        let [first, rest @ ..] = [0, 1, 2].map(|i| c.status(i, "store.checksum"));
        (first.is_object() && rest.iter().all(|other| *other == first)).then_some(())
    });
}

/// How often a member's log says `what`.
fn told(c: &Cluster, i: usize, what: &str) -> usize {
    c.log(i).matches(what).count()
}

/// How many errors of disks were told: of a snapshot that does not come by its sender.
fn failures(c: &Cluster) -> usize {
    (0..3).map(|i| told(c, i, DISK)).sum()
}

/// Starts a member that fails once at `place`.
fn start_failing(c: &mut Cluster, i: usize, place: Place) {
    c.start_armed(i, &format!("{}=1*return(eio)->off", place.name()));
}

/// Waits until there are more than `before` errors of disks, and member `i` has done what it is to do about it; starts it
/// again if it ended.
fn await_failure(c: &mut Cluster, i: usize, (place, then): (Place, Then), before: usize) {
    let what = format!("{} fails", place.name());
    c.until(&what, |c| (failures(c) > before).then_some(()));
    if then == Ends {
        let ended = c.await_end(i, place.name());
        assert_eq!(ended.code(), Some(1), "{}: {}", place.name(), c.log(i));
        let log = c.log(i);
        assert!(log.lines().last().unwrap().starts_with("fatal: "), "{}: {log}", place.name());
        c.start(i);
    }
    c.await_ready(i);
}

#[test]
fn a_disk_that_fails_once_in_an_installation_costs_nothing() {
    let mut c = with_ledger();
    let mut acknowledged = Vec::new();
    let mut first = 0;
    for case in [
        (Place::ReceiveComplete, GoesOn),
        (Place::ReceiveSynced, GoesOn),
        (Place::ReceiveChecked, GoesOn),
        (Place::InstallClosed, Ends),
        (Place::ActivateLinked, Ends),
        (Place::ActivateRenamed, Ends),
        (Place::ActivateSynced, Ends),
        (Place::InstallOpened, Ends),
        (Place::InstallRemoved, Ends),
    ] {
        let follower = (c.await_leader(0) + 1) % 3;
        let rest = others(follower);
        c.kill(follower);
        let urls = rest.iter().map(|i| c.url(*i, "/db/execute")).collect();
        let writers = c.continue_ledger(urls, 2, FILLING, first);
        writers.await_more(20);
        purge(&mut c, &rest);
        let (before, installed) = (failures(&c), told(&c, follower, "installed a snapshot"));
        start_failing(&mut c, follower, case.0);
        await_failure(&mut c, follower, case, before);
        writers.await_more(5);
        first = writers.next();
        acknowledged.extend(writers.stop());
        // It may be in service before it says so. One that ended may have found the snapshot in its place at the next start.
        if case.1 == GoesOn {
            c.until("it installed a snapshot", |c| {
                (told(c, follower, "installed a snapshot") > installed).then_some(())
            });
        }
    }
    c.assert_ledgers(&acknowledged);
    await_same_pages(&mut c);
}

#[test]
fn a_disk_that_fails_once_while_another_database_comes_costs_nothing() {
    let mut c = cluster(3);
    for (round, case) in [
        (Place::ReplaceShared, Ends),
        (Place::InstallClosed, Ends),
        (Place::ActivateLinked, Ends),
        (Place::ActivateRenamed, Ends),
        (Place::ActivateSynced, Ends),
        (Place::InstallOpened, Ends),
        (Place::InstallRemoved, Ends),
    ]
    .into_iter()
    .enumerate()
    {
        let leader = c.await_leader(0);
        let follower = (leader + 1) % 3;
        c.kill(follower);
        let before = failures(&c);
        start_failing(&mut c, follower, case.0);
        c.await_ready(follower);
        let rows = 500 + round;
        load(&c, leader, rows);
        c.execute(leader, &json!(["INSERT INTO loaded VALUES(0, NULL)"]));
        await_failure(&mut c, follower, case, before);
        await_rows(&mut c, rows + 1);
    }
    await_same_pages(&mut c);
}

#[test]
fn a_disk_that_fails_once_in_a_checkpoint_or_purge_costs_nothing() {
    let mut c = with_ledger();
    let writers = c.write_to(&[0, 1, 2], 2, FILLING);
    for case in [
        (Place::CheckpointSynced, Ends),
        (Place::PurgeDecided, GoesOn),
        (Place::PurgeKnown, GoesOn),
        (Place::PurgeSubmitted, Ends),
        (Place::PurgeDurable, Ends),
    ] {
        let i = (c.await_leader(0) + 1) % 3;
        c.kill(i);
        let before = failures(&c);
        start_failing(&mut c, i, case.0);
        c.await_ready(i);
        writers.await_more(10);
        let url = c.url(i, "/snapshot?trailing_logs=0");
        // It may end before it answers.
        let answer = reqwest::blocking::Client::new().post(url).send();
        if case.1 == GoesOn {
            let answer = answer.unwrap().text().unwrap();
            assert!(answer.contains(DISK), "{}: {answer}", case.0.name());
            purge(&mut c, &[i]);
            assert!(!c.has_ended(i));
        } else {
            await_failure(&mut c, i, case, before);
        }
        writers.await_more(10);
    }
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
    await_same_pages(&mut c);
}

#[test]
fn a_disk_that_fails_once_in_a_checkpoint_beside_the_writer_costs_nothing() {
    let mut c = with_ledger();
    let writers = c.write_to(&[0, 1, 2], 4, 200_000);
    for case in [(Place::CheckpointDue, Ends), (Place::CheckpointBulk, Ends), (Place::CheckpointSynced, Ends)]
    {
        let i = (c.await_leader(0) + 1) % 3;
        c.kill(i);
        let before = failures(&c);
        start_failing(&mut c, i, case.0);
        await_failure(&mut c, i, case, before);
    }
    writers.await_more(10);
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
    await_same_pages(&mut c);
}

/// A place that no test passes is a gap.
#[test]
fn every_place_is_crashed_on() {
    let tests = concat!(
        include_str!("crash.rs"),
        include_str!("backup_faults/main.rs"),
        include_str!("consistency.rs"),
        include_str!("members.rs"),
        include_str!("no_memory.rs")
    );
    let unused: Vec<_> = Place::ALL.iter().filter(|p| !tests.contains(&format!("Place::{p:?}"))).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn a_member_that_needs_a_snapshot_for_every_start_keeps_up() {
    // Small log segments and no log kept: each absence ends in a snapshot, over an older one.
    let mut c = cluster_with(3, &["-log-retention", "0"]);
    c.await_leader(0);
    c.create_ledger(0);
    let writers = c.write_to(&[0, 1, 2], 2, FILLING);
    for round in 0..3 {
        let i = round % 3;
        c.kill(i);
        writers.await_more(20);
        purge(&mut c, &others(i));
        c.start(i);
        c.await_ready(i);
    }
    let acknowledged = writers.stop();
    c.assert_ledgers(&acknowledged);
}
