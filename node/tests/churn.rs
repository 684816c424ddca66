//! Churn: members die, stand still, are cut off, go for good and come back as others, hand over, drop their logs, in an
//! order that a seed draws, and nobody cares whether a quorum is left. Then all is healed, and everything that was promised
//! has to be there: no acknowledged write lost, none applied twice, reads and writes as if of one place, the same state on
//! every member.
//!
//! `CHURN_SEEDS` says how many seeds, `CHURN_SEED` the first, `CHURN_STEPS` how many things happen with each. Members are
//! processes, so a seed draws the same steps again, not the same races.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::register::{Seen, contradiction};
use support::{Cluster, PATIENCE, proxied_some};

/// Members that there are at first, and at most; voters that there are at least.
const FIRST: usize = 5;
const MOST: usize = 7;
const LEAST: usize = 3;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What the test did to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Runs,
    /// Its process is stopped.
    Frozen,
    /// Its process was killed; its disk is there.
    Down,
    /// It is no member: it never was one, or was removed, and its disk is empty.
    Absent,
}

struct Churn {
    c: Cluster,
    doors: Vec<support::proxy::Proxy>,
    life: Vec<Life>,
    /// Who does not get through to whom: the member, and the Raft id of the caller.
    barred: BTreeSet<(usize, u64)>,
    random: StdRng,
    http: reqwest::blocking::Client,
    /// What happened, in order.
    steps: Vec<String>,
}

impl Churn {
    fn begin(seed: u64) -> Self {
        let flags = ["-consistency-period", "1s", "-log-retention", "4MiB"];
        let (c, doors) = proxied_some(FIRST, MOST, &flags);
        let life = (0..MOST).map(|i| if i < FIRST { Life::Runs } else { Life::Absent }).collect();
        let http = reqwest::blocking::Client::builder().timeout(Duration::from_secs(3)).build().unwrap();
        let random = StdRng::seed_from_u64(seed);
        Self { c, doors, life, barred: BTreeSet::new(), random, http, steps: Vec::new() }
    }

    fn all(&self, life: Life) -> Vec<usize> {
        (0..MOST).filter(|i| self.life[*i] == life).collect()
    }

    fn one(&mut self, life: Life) -> Option<usize> {
        self.all(life).choose(&mut self.random).copied()
    }

    /// The Raft id that the disk of a member has, if it has one yet.
    fn id(&self, i: usize) -> Option<u64> {
        let kept = std::fs::read(self.c.members[i].dir.join("identity.json")).ok()?;
        let kept: Value = serde_json::from_slice(&kept).ok()?;
        u64::from_str_radix(kept["nodeId"].as_str()?, 16).ok()
    }

    fn report(&self, i: usize) -> Option<Value> {
        self.http.get(self.c.url(i, "/cluster")).send().ok()?.json().ok()
    }

    /// Which of the members that run leads, and what it says; of two that both think so the newer one.
    fn leader(&self) -> Option<(usize, Value)> {
        let reports = self.all(Life::Runs).into_iter().filter_map(|i| Some((i, self.report(i)?)));
        reports.filter(|(_, r)| r["role"] == json!("Leader")).max_by_key(|(_, r)| r["term"].as_u64())
    }

    /// Asks a member for something, whatever comes of it; returns the status, if there was an answer.
    fn ask(&self, i: usize, path: &str, body: &str) -> Option<u16> {
        let answer = self.http.post(self.c.url(i, path)).body(body.to_owned()).send().ok()?;
        Some(answer.status().as_u16())
    }

    fn kill(&mut self, i: usize) {
        self.c.kill(i);
        self.life[i] = Life::Down;
    }

    fn start(&mut self, i: usize) {
        self.c.start(i);
        self.life[i] = Life::Runs;
    }

    fn thaw(&mut self, i: usize) {
        self.c.signal(i, "CONT");
        self.life[i] = Life::Runs;
    }

    fn bar(&mut self, to: usize, caller: usize) {
        if let Some(id) = self.id(caller)
            && self.barred.insert((to, id))
        {
            self.doors[to].bar(id, true);
        }
    }

    fn open_all(&mut self) {
        for (to, id) in std::mem::take(&mut self.barred) {
            self.doors[to].bar(id, false);
        }
    }

    /// Removes a member for good; returns whether that is sure.
    fn remove(&mut self, i: usize) -> Option<u16> {
        let (leader, report) = self.leader()?;
        let id = format!("{:016x}", self.id(i)?);
        let members = report["membership"]["members"].as_array()?;
        let voters = members.iter().filter(|m| m["voter"] == json!(true)).count();
        if voters <= LEAST || !members.iter().any(|m| m["nodeId"] == json!(id)) {
            return None;
        }
        let status = self.ask(leader, "/cluster/voters", &json!({ "remove": [id] }).to_string());
        // Without an answer it may be a member or not: it keeps its disk, and `heal` finds out.
        if status == Some(200) {
            self.bury(i);
        }
        status
    }

    /// Ends a member that was removed, and what is on its disk.
    fn bury(&mut self, i: usize) {
        if self.c.runs(i) {
            self.c.kill(i);
        }
        std::fs::remove_dir_all(&self.c.members[i].dir).unwrap();
        self.life[i] = Life::Absent;
    }

    /// One thing happens.
    fn step(&mut self) {
        let step = match self.random.random_range(0..100) {
            0..14 => self.one(Life::Runs).map(|i| {
                self.kill(i);
                format!("kill {i}")
            }),
            14..19 => self.leader().map(|(i, _)| {
                self.kill(i);
                format!("kill {i}, which leads")
            }),
            19..36 => self.one(Life::Down).map(|i| {
                self.start(i);
                format!("start {i}")
            }),
            36..44 => self.one(Life::Runs).map(|i| {
                self.c.signal(i, "STOP");
                self.life[i] = Life::Frozen;
                format!("freeze {i}")
            }),
            44..54 => self.one(Life::Frozen).map(|i| {
                self.thaw(i);
                format!("thaw {i}")
            }),
            54..62 => Some(self.part()),
            62..72 => (!self.barred.is_empty()).then(|| {
                self.open_all();
                "all reach each other".to_owned()
            }),
            72..78 => self.one(Life::Runs).and_then(|to| {
                let (leader, _) = self.leader()?;
                let to_id = format!("{:016x}", self.id(to)?);
                let told = self.ask(leader, "/cluster/transfer", &json!({ "to": to_id }).to_string());
                Some(format!("{leader} hands over to {to}: {told:?}"))
            }),
            78..86 => (0..MOST)
                .filter(|i| self.life[*i] != Life::Absent)
                .choose(&mut self.random)
                .and_then(|i| Some(format!("remove {i}: {:?}", self.remove(i)?))),
            86..93 => self.one(Life::Absent).map(|i| {
                self.start(i);
                format!("{i} joins")
            }),
            93..99 => self
                .one(Life::Runs)
                .map(|i| format!("{i} drops its log: {:?}", self.ask(i, "/snapshot?trailing_logs=0", ""))),
            _ => {
                let all: Vec<usize> = (0..MOST).filter(|i| self.c.runs(*i)).collect();
                self.c.kill_all();
                all.iter().for_each(|i| self.life[*i] = Life::Down);
                Some("kill all".to_owned())
            }
        };
        self.steps.extend(step);
        for i in self.all(Life::Runs) {
            assert!(!self.c.has_ended(i), "{i} ended by itself:\n{}", self.c.log(i));
        }
    }

    /// Two sides that do not reach each other, or of which only one reaches the other.
    fn part(&mut self) -> String {
        let side: Vec<bool> = (0..MOST).map(|_| self.random.random()).collect();
        let both_ways: bool = self.random.random_bool(0.7);
        for to in 0..MOST {
            for caller in 0..MOST {
                if side[to] != side[caller] && (both_ways || side[to]) {
                    self.bar(to, caller);
                }
            }
        }
        let there: Vec<usize> = (0..MOST).filter(|i| side[*i]).collect();
        format!("{there:?} and the others are parted{}", if both_ways { "" } else { ", one way" })
    }

    /// Everybody runs, reaches everybody, and is in service; who was removed without anybody hearing of it comes as another.
    fn heal(&mut self) {
        self.open_all();
        self.all(Life::Frozen).into_iter().for_each(|i| self.thaw(i));
        self.all(Life::Down).into_iter().for_each(|i| self.start(i));
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            let away: Vec<usize> =
                self.all(Life::Runs).into_iter().filter(|i| !self.c.is_ready(*i)).collect();
            if away.is_empty() {
                return;
            }
            for i in &away {
                assert!(!self.c.has_ended(*i), "{i} ended by itself:\n{}", self.c.log(*i));
                if self.was_removed(*i) {
                    self.bury(*i);
                    self.start(*i);
                    self.steps.push(format!("{i} had been removed, and joins"));
                }
            }
            if Instant::now() > deadline {
                let logs: Vec<String> = (0..MOST).map(|i| self.c.log(i)).collect();
                panic!("{away:?} are not in service:\n{}", logs.join("\n----\n"));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Whether a member that has been one is none any more, by a leader that most still follow.
    fn was_removed(&self, i: usize) -> bool {
        let (Some((_, leader)), Some(id)) = (self.leader(), self.id(i)) else { return false };
        let was = self.report(i).is_some_and(|report| report["clusterId"] == leader["clusterId"]);
        let members = leader["membership"]["members"].as_array().unwrap();
        let committed = leader["membership"]["committed"] == json!(true);
        was && committed && !members.iter().any(|m| m["nodeId"] == json!(format!("{id:016x}")))
    }

    /// What has to be so in the end.
    fn verify(&mut self, acknowledged: &[u64], history: &[Seen], unanswered: u64) {
        let all = self.all(Life::Runs);
        for i in &all {
            self.c.assert_ledger(*i, acknowledged);
        }
        self.c.until("all have the same state", |c| {
            let said: Vec<Value> = all.iter().map(|i| c.status(*i, "store.checksum")).collect();
            (said[0].is_object() && said.iter().all(|checksum| *checksum == said[0])).then_some(())
        });
        for i in 0..MOST {
            let log = self.c.log(i);
            assert!(!log.contains("panicked"), "{i}:\n{log}");
            assert!(!log.contains("the members' databases differ"), "{i}:\n{log}");
        }
        assert_eq!(contradiction(history), None);
        let raised = history.iter().filter(|seen| seen.raised).count() as u64;
        let last = self.c.value(all[0], "SELECT number FROM register", "linearizable").as_u64().unwrap();
        assert!((raised..=raised + unanswered).contains(&last), "{last} after {raised} and {unanswered}");
    }
}

fn churn(seed: u64) {
    let mut churn = Churn::begin(seed);
    churn.c.create_ledger(0);
    churn.c.create_register(0);
    let everywhere: Vec<usize> = (0..MOST).collect();
    let writers = churn.c.write_to(&everywhere, 3, 500);
    let register = churn.c.use_register(&everywhere);
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..number("CHURN_STEPS", 40) {
            churn.step();
            // How long it stays so.
            std::thread::park_timeout(Duration::from_millis(churn.random.random_range(10..500)));
        }
        churn.heal();
        writers.await_more(20);
        let (history, unanswered) = register.stop();
        let acknowledged = writers.stop();
        churn.verify(&acknowledged, &history, unanswered);
        let raised = history.iter().filter(|seen| seen.raised).count();
        println!(
            "seed {seed}: {} steps, {} rows acknowledged, {raised} raises and {} reads of the register",
            churn.steps.len(),
            acknowledged.len(),
            history.len() - raised
        );
    }));
    if let Err(panic) = told {
        eprintln!("CHURN_SEED={seed}: {:#?}", churn.steps);
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn whatever_happens_to_members_nothing_is_lost() {
    let first = number("CHURN_SEED", 1);
    (first..first + number("CHURN_SEEDS", 1)).for_each(churn);
}

#[test]
fn what_is_no_history_of_one_number() {
    let begin = Instant::now();
    let seen = |asked, answered, number, raised| {
        let at = |millis| begin + Duration::from_millis(millis);
        Seen { asked: at(asked), answered: at(answered), number, raised }
    };
    let (raise, read) = (true, false);
    let possible = [
        vec![],
        vec![seen(0, 10, 1, raise), seen(11, 12, 1, read)],
        // At the same time: either order.
        vec![seen(0, 10, 1, raise), seen(5, 6, 0, read), seen(7, 8, 1, read)],
        vec![seen(0, 10, 2, raise), seen(1, 9, 1, raise)],
        // A raise that nobody heard of was in between.
        vec![seen(0, 10, 1, raise), seen(11, 12, 3, raise)],
    ];
    for history in possible {
        assert_eq!(contradiction(&history), None, "{history:?}");
    }
    let impossible = [
        // What was acknowledged is not seen, or is gone.
        vec![seen(0, 10, 1, raise), seen(11, 12, 0, read)],
        vec![seen(0, 10, 1, read), seen(11, 12, 0, read)],
        vec![seen(0, 10, 5, read), seen(0, 11, 6, raise), seen(12, 13, 5, read)],
        // Two came to the same.
        vec![seen(0, 10, 1, raise), seen(5, 15, 1, raise)],
        // It was read before anybody raised it so far.
        vec![seen(0, 10, 1, read), seen(11, 12, 1, raise)],
    ];
    for history in impossible {
        assert_ne!(contradiction(&history), None, "{history:?}");
    }
}
