//! Clients made for rqlite, unmodified, each running a realistic program (`e2e/clients/`): against one member, and
//! against three of which the leader dies in the middle, behind the member that the program uses, and as that member.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::json;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use support::Cluster;

/// How long a program may be silent.
const SILENCE: Duration = Duration::from_secs(40);
const USER: &str = "app";
const PASSWORD: &str = "secret";

/// Where `e2e/clients/build.sh` puts what it builds.
fn built() -> PathBuf {
    std::env::var_os("CLIENTS").map(PathBuf::from).expect("CLIENTS is set by e2e/test.sh")
}

fn sources() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../e2e/clients")
}

fn python(program: &str) -> Command {
    let mut command = Command::new(built().join("python/bin/python"));
    command.arg(sources().join("python").join(program)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn go(mode: &str) -> Command {
    let mut command = Command::new(built().join("go"));
    command.arg(mode);
    command
}

fn javascript() -> Command {
    let mut command = Command::new("node");
    command.arg(built().join("javascript/program.js"));
    command
}

fn console() -> Command {
    let mut command = Command::new("node");
    command.arg(built().join("console/program.js"));
    command
}

fn rust() -> Command {
    Command::new(built().join("rust/debug/sqlited-client-test"))
}

/// Members with users.
fn members(n: usize) -> Cluster {
    let mut c = Cluster::empty();
    let path = c.root().join("users.json");
    let text = json!([
        {"username": USER, "password": PASSWORD, "perms": ["execute", "query", "status", "leader-ops", "backup", "load", "ui"]},
        {"username": "reader", "password": PASSWORD, "perms": ["query", "ui"]},
        {"username": "*", "perms": ["leader-ops", "join"]},
    ]);
    std::fs::write(&path, text.to_string()).unwrap();
    c.add_members(n, &["-auth", path.to_str().unwrap()]);
    (0..n).for_each(|i| c.start(i));
    (0..n).for_each(|i| c.await_ready(i));
    c
}

/// Runs a program against member `i`; calls `half` when it says that half of its writes are done.
fn run(command: Command, c: &mut Cluster, i: usize, half: impl FnOnce(&mut Cluster)) {
    run_with(command, c, (i, &[]), half);
}

/// The same, with `others` that the program may go on to when that member is gone.
fn run_with(
    mut command: Command,
    c: &mut Cluster,
    (i, others): (usize, &[usize]),
    half: impl FnOnce(&mut Cluster),
) {
    let what = format!("{command:?}");
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let others: String =
        others.iter().map(|other| format!(" 127.0.0.1:{}", c.members[*other].http)).collect();
    writeln!(stdin, "127.0.0.1 {} {USER} {PASSWORD}{others}", c.members[i].http).unwrap();
    let (send, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let reading = std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            // Nobody listens once the test has failed.
            drop(send.send(line));
        }
    });
    let mut half = Some(half);
    let mut said = Vec::new();
    while let Ok(line) = lines.recv_timeout(SILENCE) {
        if line == "half"
            && let Some(half) = half.take()
        {
            half(c);
            writeln!(stdin, "go on").unwrap();
        }
        said.push(line);
    }
    drop(stdin);
    // It has closed its output, or was silent for too long.
    let is_done = said.last().is_some_and(|line| line == "done");
    if !is_done {
        drop(child.kill());
    }
    let output = child.wait_with_output().unwrap();
    reading.join().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(is_done && output.status.success(), "{what}: {}\n{said:?}\n{stderr}", output.status);
    println!("{what}: {said:?}");
}

fn against_one_and_three(command: impl Fn() -> Command) {
    let mut one = members(1);
    run(command(), &mut one, 0, |_| {});
    drop(one);
    let mut three = members(3);
    let killed = three.await_leader(0);
    run(command(), &mut three, (killed + 1) % 3, |c| c.kill(killed));
    three.start(killed);
    three.await_ready(killed);
    // This time it is the member that the program uses.
    let leader = three.await_leader(killed);
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    run_with(command(), &mut three, (leader, &others), |c| c.kill(leader));
}

#[test]
#[ignore = "needs the clients: make test"]
fn pyrqlite() {
    against_one_and_three(|| python("pyrqlite_program.py"));
}

#[test]
#[ignore = "needs the clients: make test"]
fn sqlalchemy_rqlite() {
    against_one_and_three(|| python("sqlalchemy_program.py"));
}

#[test]
#[ignore = "needs the clients: make test"]
fn gorqlite() {
    against_one_and_three(|| go("gorqlite"));
}

#[test]
#[ignore = "needs the clients: make test"]
fn gorqlite_by_database_sql() {
    against_one_and_three(|| go("database-sql"));
}

#[test]
#[ignore = "needs the clients: make test"]
fn rqlite_js() {
    against_one_and_three(javascript);
}

#[test]
#[ignore = "needs the clients: make test"]
fn rqlite_rs() {
    against_one_and_three(rust);
}

/// Not a client, but read as they would: alerts and panels of the chart.
#[test]
#[ignore = "needs the clients: make test"]
fn prometheus_reads_the_expressions() {
    let read = |file: &str| {
        let files = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/sqlite-operator/files");
        std::fs::read_to_string(files.join(file)).unwrap()
    };
    let alerts: serde_json::Value = serde_yaml::from_str(&read("alerts.yaml")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let each = |list: &serde_json::Value, inner: &str| -> Vec<String> {
        let parts = list.as_array().unwrap().iter().flat_map(|part| part[inner].as_array().unwrap());
        parts.map(|part| part["expr"].as_str().unwrap().to_owned()).collect()
    };
    let (alerts, panels) = (each(&alerts["groups"], "rules"), each(&dashboard["panels"], "targets"));
    assert!(alerts.len() >= 10 && panels.len() >= 10, "{} alerts, {} panels", alerts.len(), panels.len());
    // Grafana puts in what stands for a time.
    let expressions = [alerts, panels].concat().join("\n").replace("$__rate_interval", "5m");
    let said = |expressions: &str| {
        let mut parser = python("expressions.py");
        parser.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut parser = parser.spawn().unwrap();
        parser.stdin.take().unwrap().write_all(expressions.as_bytes()).unwrap();
        let output = parser.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(said(&expressions), (true, String::new()));
    assert!(!said("sum by (a (b)").0, "it reads anything");
}

/// Not a client, but run as they are: a browser on the page of a member while the leader dies.
#[test]
#[ignore = "needs the clients and Chromium: make test"]
fn the_console() {
    let mut three = members(3);
    let leader = three.await_leader(0);
    run(console(), &mut three, (leader + 1) % 3, |c| c.kill(leader));
}
