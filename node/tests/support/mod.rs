//! Verbs for tests with real processes: `cluster(3)`, `kill`, `start`, `execute`, `query`, `await_ready`.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

pub mod acceptor;
pub mod automatic;
pub mod backups;
pub mod certificates;
pub mod collector;
pub mod deliveries;
pub mod disk;
pub mod extension;
pub mod http_faults;
pub mod ledger;
pub mod memory;
pub mod names;
pub mod page;
pub mod proxy;
pub mod register;
pub mod registry;
pub mod sink;
pub mod stores;
pub mod tls_door;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One member: its directory and ports stay when its process ends.
pub struct Member {
    pub name: String,
    pub http: u16,
    pub raft: u16,
    pub health: u16,
    pub dir: PathBuf,
    flags: Vec<String>,
    process: Option<Child>,
}

/// A client that waits as long as it takes.
pub fn patient() -> reqwest::blocking::Client {
    reqwest::blocking::Client::builder().timeout(None).build().unwrap()
}

/// The way to one member, for threads that write while the test does something to the cluster.
#[derive(Clone)]
pub struct Door {
    http: reqwest::blocking::Client,
    execute: String,
}

impl Door {
    /// Runs statements that must succeed.
    pub fn execute(&self, statements: &Value) -> Value {
        let answer = self.http.post(&self.execute).body(statements.to_string()).send().unwrap();
        let (status, body) = (answer.status().as_u16(), answer.text().unwrap());
        assert!(status == 200 && !body.contains("\"error\""), "{statements}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Runs statements; whether an answer says that they succeeded.
    pub fn try_execute(&self, statements: &Value) -> bool {
        let succeeded =
            |(status, body): (u16, String)| (200..300).contains(&status) && !body.contains("\"error\"");
        self.attempt(statements).is_some_and(succeeded)
    }

    /// Runs statements; status and body, or none if the member is not there any more.
    pub fn attempt(&self, statements: &Value) -> Option<(u16, String)> {
        let answer = self.http.post(&self.execute).body(statements.to_string()).send().ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.text().ok()?))
    }
}

/// An answer with its headers.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header, or nothing.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Tells threads to stop when it goes, also when the test fails: a scope waits for its threads.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Members on this machine, ended with the test.
pub struct Cluster {
    pub members: Vec<Member>,
    root: TempDir,
    http: reqwest::blocking::Client,
    scheme: &'static str,
    environment: Vec<(&'static str, String)>,
    /// What members have as /etc/resolv.conf, if not what this machine has.
    resolver: Option<PathBuf>,
    /// Whether each has a working directory and a temporary one of its own.
    apart: bool,
}

/// Ports that were free a moment ago, all different. Below the range from which the kernel takes the ports of outgoing
/// connections: one of those would sit on the port of a member that is down for a moment. Whether a port is free is asked by
/// connecting to it: a socket that listens there to try it out is open in a process, too, that another test starts just then,
/// until that has become its program, and meanwhile the member finds its port taken.
pub fn free_ports(n: usize) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    let mut ports = Vec::new();
    while ports.len() < n {
        let port = rand::random_range(12_000..32_000);
        if TcpStream::connect(("127.0.0.1", port)).is_err() && given.insert(port) {
            ports.push(port);
        }
    }
    ports
}

/// `n` members that bootstrap together, all in service.
pub fn cluster(n: usize) -> Cluster {
    cluster_with(n, &[])
}

/// The same, with further flags.
pub fn cluster_with(n: usize, flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::empty();
    cluster.add_members(n, flags);
    (0..n).for_each(|i| cluster.start(i));
    (0..n).for_each(|i| cluster.await_ready(i));
    cluster
}

/// A voter with one row in a table, and its read replica, both in service; which one that is.
pub fn with_read_replica() -> (Cluster, usize) {
    let mut cluster = cluster(1);
    cluster.execute(0, &serde_json::json!(["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]));
    let replica = cluster.add_read_replica();
    (cluster, replica)
}

/// `n` members that reach each other through proxies only.
pub fn proxied(n: usize) -> (Cluster, Vec<proxy::Proxy>) {
    proxied_some(n, n, &[])
}

/// The same of `most` members, with further flags, of which the first `n` bootstrap together; the others are not started.
pub fn proxied_some(n: usize, most: usize, further: &[&str]) -> (Cluster, Vec<proxy::Proxy>) {
    let mut cluster = Cluster::empty();
    let doors = free_ports(most);
    let ports = free_ports(3 * most);
    let join: Vec<String> = doors.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut proxies = Vec::new();
    for (i, ports) in ports.chunks(3).enumerate() {
        proxies.push(proxy::Proxy::start(doors[i], ports[1]));
        let own = ["-bootstrap-expect", &n.to_string(), "-join", &join.join(","), "-raft-adv-addr", &join[i]];
        let flags: Vec<String> = own.iter().chain(further).map(|f| (*f).to_owned()).collect();
        cluster.add_member(&format!("n{}", i + 1), [ports[0], ports[1], ports[2]], &flags);
    }
    (0..n).for_each(|i| cluster.start(i));
    (0..n).for_each(|i| cluster.await_ready(i));
    (cluster, proxies)
}

impl Cluster {
    pub fn empty() -> Self {
        let http = reqwest::blocking::Client::builder().timeout(PATIENCE).build().unwrap();
        Self {
            members: Vec::new(),
            root: TempDir::new().unwrap(),
            http,
            scheme: "http",
            environment: Vec::new(),
            resolver: None,
            apart: false,
        }
    }

    /// Members that are started from now on have a working directory and a temporary one of their own: what they leave
    /// there is in [`Cluster::left_outside`].
    pub fn work_apart(&mut self) {
        self.apart = true;
    }

    /// The working directory and the temporary one of member `i`, where each has its own.
    fn outside(&self, i: usize) -> [PathBuf; 2] {
        ["working", "tmp"].map(|kind| self.root.path().join(format!("{}.{kind}", self.members[i].name)))
    }

    /// What is in the working directory and in the temporary one of member `i`.
    pub fn left_outside(&self, i: usize) -> Vec<PathBuf> {
        let found = |directory| std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        self.outside(i).into_iter().flat_map(found).collect()
    }

    /// From now on members are asked by `http`, which knows their certificates, or says who asks.
    pub fn ask_by(&mut self, scheme: &'static str, http: reqwest::blocking::Client) {
        (self.scheme, self.http) = (scheme, http);
    }

    /// A variable of all members that are started from now on.
    pub fn set_environment(&mut self, name: &'static str, value: String) {
        self.environment.push((name, value));
    }

    /// From now on members ask `names` what names mean: by a file of their own in the place of /etc/resolv.conf, which only
    /// they see. Needs root.
    pub fn ask_for_names(&mut self, names: &names::Names) {
        let file = self.root.path().join("resolv.conf");
        std::fs::write(&file, format!("nameserver {}\n", names.address())).unwrap();
        self.resolver = Some(file);
    }

    /// The program, as members begin.
    fn program(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_sqlited");
        let Some(resolver) = &self.resolver else { return Command::new(program) };
        // Each of these takes the place of the one before: the process is the member's.
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#]);
        command.arg(resolver).arg(program);
        command
    }

    /// A directory that goes with the cluster.
    pub fn root(&self) -> &std::path::Path {
        self.root.path()
    }

    /// Further flags of one member, for its next start.
    pub fn add_flags(&mut self, i: usize, flags: &[&str]) {
        self.members[i].flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// The last `n` arguments of one member go, for its next start.
    pub fn remove_flags(&mut self, i: usize, n: usize) {
        let flags = &mut self.members[i].flags;
        flags.truncate(flags.len() - n);
    }

    /// `n` members that are to bootstrap together, not started yet.
    pub fn add_members(&mut self, n: usize, flags: &[&str]) {
        let ports = free_ports(3 * n);
        let join: Vec<String> = ports.chunks(3).map(|p| format!("127.0.0.1:{}", p[1])).collect();
        let expect = ["-bootstrap-expect", &n.to_string(), "-join", &join.join(",")];
        let expect: &[&str] = if n == 1 { &[] } else { &expect };
        let flags: Vec<String> = expect.iter().chain(flags).map(|f| (*f).to_owned()).collect();
        for (i, ports) in ports.chunks(3).enumerate() {
            self.add_member(&format!("n{}", i + 1), [ports[0], ports[1], ports[2]], &flags);
        }
    }

    fn add_member(&mut self, name: &str, [http, raft, health]: [u16; 3], flags: &[String]) -> usize {
        let dir = self.root.path().join(name);
        let (name, flags) = (name.to_owned(), flags.to_vec());
        self.members.push(Member { name, http, raft, health, dir, flags, process: None });
        self.members.len() - 1
    }

    /// A member that is not started yet.
    pub fn member(&mut self, name: &str, flags: &[&str]) -> usize {
        let ports = free_ports(3);
        let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
        self.add_member(name, [ports[0], ports[1], ports[2]], &flags)
    }

    /// A read replica that joined by the first member, in service; which one it is.
    pub fn add_read_replica(&mut self) -> usize {
        let join = format!("127.0.0.1:{}", self.members[0].raft);
        let replica = self.member("replica", &["-raft-non-voter", "-join", &join]);
        self.start(replica);
        self.await_ready(replica);
        replica
    }

    /// Starts a member's process.
    pub fn start(&mut self, i: usize) {
        self.start_armed(i, "");
    }

    /// Starts a member's process with `FAILPOINTS`.
    pub fn start_armed(&mut self, i: usize, failpoints: &str) {
        let mut command = self.program();
        if self.apart {
            let [working, temporary] = self.outside(i);
            for directory in [&working, &temporary] {
                std::fs::create_dir_all(directory).unwrap();
            }
            command.current_dir(working).env("TMPDIR", temporary);
        }
        let m = &mut self.members[i];
        assert!(m.process.is_none(), "{} runs", m.name);
        let log = self.root.path().join(format!("{}.log", m.name));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .args(["-node-id", &m.name, "-log-format", "text", "-log-segment-size", "1MiB"])
            .args([
                "-http-addr",
                &format!("127.0.0.1:{}", m.http),
                "-raft-addr",
                &format!("127.0.0.1:{}", m.raft),
            ])
            .args(["-health-addr", &format!("127.0.0.1:{}", m.health)])
            .args(&m.flags)
            .arg(&m.dir)
            .env("FAILPOINTS", failpoints)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        m.process = Some(child);
    }

    /// Ends a member's process without a word (SIGKILL).
    pub fn kill(&mut self, i: usize) {
        let mut child = self.members[i].process.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends all processes without a word, at once.
    pub fn kill_all(&mut self) {
        let mut all: Vec<Child> = self.members.iter_mut().filter_map(|m| m.process.take()).collect();
        all.iter_mut().for_each(|child| child.kill().unwrap());
        for mut child in all {
            child.wait().unwrap();
        }
    }

    /// Asks a member to go down (SIGTERM), and waits until it did; returns its exit code.
    pub fn terminate(&mut self, i: usize) -> Option<i32> {
        self.signal(i, "TERM");
        self.await_end(i, "SIGTERM").code()
    }

    /// The exit code of a member that ends by itself.
    pub fn exit_code(&mut self, i: usize) -> Option<i32> {
        self.await_end(i, "by itself").code()
    }

    /// Waits until a member ends by itself.
    pub fn await_end(&mut self, i: usize, why: &str) -> ExitStatus {
        let name = self.members[i].name.clone();
        let status = self.until(&format!("{name} ends: {why}"), |c| {
            c.members[i].process.as_mut().expect("it runs").try_wait().unwrap()
        });
        self.members[i].process = None;
        status
    }

    /// The last that a member said, which ended by itself because it cannot go on.
    pub fn fatal(&mut self, i: usize) -> String {
        assert_eq!(self.exit_code(i), Some(1));
        let log = self.log(i);
        log.lines().rfind(|line| line.starts_with("fatal: ")).unwrap_or_else(|| panic!("{log}")).to_owned()
    }

    /// Waits until a member aborts, as a failpoint makes it.
    pub fn await_abort(&mut self, i: usize, why: &str) {
        let status = self.await_end(i, why);
        assert_eq!(status.signal(), Some(6), "{why}: {status}\n{}", self.log(i));
    }

    /// Whether a member's process has ended by itself.
    pub fn has_ended(&mut self, i: usize) -> bool {
        self.members[i].process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some())
    }

    /// Sends a signal to a member's process: `STOP`, `CONT`.
    pub fn signal(&self, i: usize, signal: &str) {
        let pid = self.pid(i).to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    }

    /// Process id of a member that runs.
    pub fn pid(&self, i: usize) -> u32 {
        self.members[i].process.as_ref().expect("it runs").id()
    }

    /// How long a member that runs has had processors.
    pub fn cpu_time(&self, i: usize) -> Duration {
        // proc_pid_stat(5): utime and stime are fields 14 and 15, in ticks of 10 ms; the name before them may hold spaces.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid(i))).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Whether a member's process was started and not ended by the test.
    pub fn runs(&self, i: usize) -> bool {
        self.members[i].process.is_some()
    }

    /// Makes member `to` the leader.
    pub fn lead(&mut self, to: usize) {
        let id = self.report(to)["nodeId"].clone();
        self.until("leadership where it was sent", |c| {
            let others = (0..c.members.len()).filter(|i| c.runs(*i));
            let leader = others.map(|i| c.report(i)).find(|r| r["role"] == serde_json::json!("Leader"))?;
            if leader["nodeId"] == id {
                return Some(());
            }
            let at = c.members.iter().position(|m| serde_json::json!(m.name) == leader["name"])?;
            drop(c.post(at, "/cluster/transfer", &serde_json::json!({ "to": id }).to_string()));
            None
        });
    }

    /// Begins to say goodbye for a member, as its preStop hook does; ends when that is done.
    pub fn begin_drain(&self, i: usize) -> Child {
        let mut drain = Command::new(env!("CARGO_BIN_EXE_sqlited"));
        drain.arg("drain").arg(&self.members[i].dir).spawn().unwrap()
    }

    /// Asks member `by` to have leadership sent to member `to`, which need not run, and waits for nothing; the identity of
    /// `to`. None while `by` does not say what that is.
    pub fn send_leadership(&self, by: usize, to: usize) -> Option<Value> {
        let name = serde_json::json!(self.members[to].name);
        let members = self.report(by)["membership"]["members"].as_array()?.clone();
        let id = members.iter().find(|member| member["name"] == name)?["nodeId"].clone();
        drop(self.post(by, "/cluster/transfer", &serde_json::json!({ "to": id }).to_string()));
        Some(id)
    }

    /// What a member logged; nothing if it was never started.
    pub fn log(&self, i: usize) -> String {
        let path = self.root.path().join(format!("{}.log", self.members[i].name));
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.unwrap(),
        }
    }

    pub fn url(&self, i: usize, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", self.scheme, self.members[i].http)
    }

    /// Status and body of a GET.
    pub fn get(&self, i: usize, path: &str) -> (u16, String) {
        let answer = self.http.get(self.url(i, path)).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    }

    /// The stream of a member's events, after its first bytes.
    pub fn open_events(&self, i: usize) -> reqwest::blocking::Response {
        let mut answer = self.http.get(self.url(i, "/cluster/events")).send().unwrap();
        answer.read_exact(&mut [0; 8]).unwrap();
        answer
    }

    /// Status and body of a POST.
    pub fn post(&self, i: usize, path: &str, body: &str) -> (u16, String) {
        let answer = self.http.post(self.url(i, path)).body(body.to_owned()).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    }

    /// Status and body of a DELETE.
    pub fn delete(&self, i: usize, path: &str, body: &str) -> (u16, String) {
        let answer = self.http.delete(self.url(i, path)).body(body.to_owned()).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    }

    /// A whole answer; redirects are not followed.
    pub fn send(
        &self,
        method: Method,
        i: usize,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let http = reqwest::blocking::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let mut request = http.request(method, self.url(i, path)).body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, body: answer.bytes().unwrap().to_vec() }
    }

    /// Runs statements that must succeed.
    pub fn execute(&self, i: usize, statements: &Value) -> Value {
        self.door(i).execute(statements)
    }

    /// The way to a member.
    pub fn door(&self, i: usize) -> Door {
        Door { http: self.http.clone(), execute: self.url(i, "/db/execute") }
    }

    /// The first value of the first row of a query.
    pub fn value(&self, i: usize, sql: &str, level: &str) -> Value {
        let url = self.url(i, "/db/query");
        let answer = self.http.get(url).query(&[("q", sql), ("level", level)]).send().unwrap();
        let body: Value = answer.json().unwrap();
        body["results"][0]["values"][0][0].clone()
    }

    /// What a member says of itself.
    pub fn report(&self, i: usize) -> Value {
        serde_json::from_str(&self.get(i, "/cluster").1).unwrap()
    }

    /// The same, or none if it does not answer.
    pub fn try_report(&self, i: usize) -> Option<Value> {
        self.http.get(self.url(i, "/cluster")).send().ok()?.json().ok()
    }

    /// A part of `/status`.
    pub fn status(&self, i: usize, key: &str) -> Value {
        serde_json::from_str(&self.get(i, &format!("/status?key={key}")).1).expect("JSON")
    }

    /// Whether a member says that it is in service.
    pub fn is_ready(&self, i: usize) -> bool {
        let url = format!("http://127.0.0.1:{}/ready", self.members[i].health);
        self.http.get(&url).send().is_ok_and(|r| r.status().is_success())
    }

    /// Waits until the member's readiness probe says yes.
    pub fn await_ready(&mut self, i: usize) {
        let url = format!("http://127.0.0.1:{}/ready", self.members[i].health);
        let http = self.http.clone();
        self.until(&format!("{} ready", self.members[i].name.clone()), |cluster| {
            if let Some(process) = &mut cluster.members[i].process
                && let Ok(Some(status)) = process.try_wait()
            {
                panic!("{} ended with {status}:\n{}", cluster.members[i].name, cluster.log(i));
            }
            http.get(&url).send().is_ok_and(|r| r.status().is_success()).then_some(())
        });
    }

    /// Waits until the member's client port takes connections.
    pub fn await_listening(&mut self, i: usize) {
        let name = self.members[i].name.clone();
        self.until(&format!("{name} listens"), |c| {
            TcpStream::connect(("127.0.0.1", c.members[i].http)).is_ok().then_some(())
        });
    }

    /// The member that leads, as seen by member `i`; waits until there is one that runs.
    pub fn await_leader(&mut self, i: usize) -> usize {
        self.until("a leader", |cluster| {
            let leader = cluster.report(i)["leader"]["name"].as_str()?.to_owned();
            cluster.members.iter().position(|m| m.name == leader && m.process.is_some())
        })
    }

    /// Waits until member `i` knows that nobody leads.
    pub fn await_no_leader(&mut self, i: usize) {
        self.until("no leader", |cluster| (cluster.get(i, "/leader").0 == 503).then_some(()));
    }

    /// Does `body` while a thread for each member writes through that, over and over; `write` says whether it did. `body`
    /// gets how many writes there were so far; returns how many in the end.
    pub fn while_written_to(
        &mut self,
        write: impl Fn(&Door) -> bool + Sync,
        body: impl FnOnce(&mut Self, &AtomicU64),
    ) -> u64 {
        let doors: Vec<Door> = (0..self.members.len()).map(|i| self.door(i)).collect();
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let _end = StopAtEnd(&stop);
            for door in &doors {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if write(door) {
                            written.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            body(self, &written);
        });
        written.into_inner()
    }

    /// Waits until `n` more of something are done that threads count.
    pub fn await_more(&mut self, done: &AtomicU64, n: u64) {
        let target = done.load(Ordering::Relaxed) + n;
        self.until("more is done", |_| (done.load(Ordering::Relaxed) >= target).then_some(()));
    }

    /// Waits until member `i` has logged `text`, which it may do after others can see what the line tells of.
    pub fn await_log(&mut self, i: usize, text: &str) {
        self.until(text, |c| c.log(i).contains(text).then_some(()));
    }

    /// Waits until `condition` gives something.
    pub fn until<T>(&mut self, what: &str, condition: impl FnMut(&mut Self) -> Option<T>) -> T {
        self.until_within(PATIENCE, what, condition)
    }

    /// The same, for as long as `patience`.
    pub fn until_within<T>(
        &mut self,
        patience: Duration,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(result) = condition(self) {
                return result;
            }
            if Instant::now() >= deadline {
                let logs: Vec<String> = (0..self.members.len()).map(|i| self.log(i)).collect();
                panic!("not in time: {what}\n{}", logs.join("\n----\n"));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.process.take() {
                drop(child.kill());
                drop(child.wait());
            }
        }
    }
}
