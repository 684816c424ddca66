//! F4, F5: the program's command line and its data directory.

use super::support::{cluster, cluster_with};
use std::process::{Command, Output};

fn sqlited(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sqlited")).args(arguments).output().unwrap()
}

#[test]
fn flags_and_exit_codes() {
    // F5
    for (arguments, code, said) in [
        (&["-version"][..], 0, ""),
        (&["--version"], 0, ""),
        (&["-no-such-flag", "d"], 2, "flag provided but not defined: -no-such-flag"),
        (&["d", "-fk"], 2, "nothing may come after the data directory"),
        (&["-node-id"], 2, "flag needs an argument: -node-id"),
        (&[], 1, "fatal: no data directory set"),
        (&["-http-addr", "localhost:4002", "d"], 1, "fatal: HTTP and Raft addresses must differ"),
        (&["-raft-addr=0.0.0.0:4002", "d"], 1, "fatal: advertised Raft address is not routable"),
        (&["-join=a:1", "-disco-mode=dns", "d"], 1, "fatal: -join and -disco-mode contradict each other"),
        (&["-bootstrap-expect=3", "d"], 1, "fatal: -bootstrap-expect needs -join"),
        (
            &["-raft-non-voter", "-bootstrap-expect=3", "-join=a:1", "d"],
            1,
            "fatal: bootstrapping only applicable",
        ),
        (
            &["-raft-non-voter", "-join=a:1", "-cdc-config=stdout", "d"],
            1,
            "fatal: -cdc-config is for voting nodes",
        ),
        (&["-cdc-config=/nowhere/cdc.json", "d"], 1, "fatal: -cdc-config: /nowhere/cdc.json: No such file"),
        (&["-http-allow-origin=a\nb", "d"], 2, "for flag -http-allow-origin"),
        (&["-raft-snap=many", "d"], 2, "for flag -raft-snap: not a number"),
        (&["-fk", "--", "-d", "e"], 2, "nothing may come after the data directory -d"),
        (&["-fk=perhaps", "d"], 2, "invalid value \"perhaps\" for flag -fk"),
    ] {
        let output = sqlited(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    assert!(sqlited(&["-version"]).stdout.starts_with(b"sqlited "));
}

#[test]
fn signals_end_it_in_order_and_the_directory_has_what_tools_look_for() {
    let mut c = cluster(1);
    // F4
    let dir = c.members[0].dir.clone();
    assert!(dir.join("raft").is_dir() && dir.join("db.sqlite").is_file());
    // F5
    for signal in ["TERM", "INT"] {
        c.signal(0, signal);
        assert_eq!(c.await_end(0, signal).code(), Some(0), "SIG{signal}");
        c.start(0);
        c.await_ready(0);
    }
}

#[test]
fn a_cluster_of_one_does_not_join_another_one() {
    let mut c = cluster(1);
    c.execute(0, &serde_json::json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY)"]));
    let other = c.member("other", &[]);
    c.start(other);
    c.await_ready(other);
    assert_eq!(c.terminate(other), Some(0));
    let (own, there) = (c.members[other].raft, c.members[0].raft);
    // F5: rather than go on as if it had joined.
    c.add_flags(other, &["-join", &format!("127.0.0.1:{own},127.0.0.1:{there}")]);
    c.start(other);
    assert_eq!(c.exit_code(other), Some(1));
    let log = c.log(other);
    let said = "this member is a cluster of its own (";
    assert!(
        log.contains(said) && log.contains(&format!("127.0.0.1:{there} of -join is of another one")),
        "{log}"
    );
    assert_eq!(c.status(0, "store.nodes").as_array().unwrap().len(), 1);
    // Where nobody is, and where it is itself, it goes on.
    c.remove_flags(other, 1);
    c.add_flags(other, &[&format!("127.0.0.1:{own},127.0.0.1:1")]);
    c.start(other);
    c.await_ready(other);
    c.await_log(other, "it does not join 127.0.0.1:1");
    // And of a cluster that has others, each is as good as another one: names are used again.
    let second = c.member("second", &["-join", &format!("127.0.0.1:{own}")]);
    c.start(second);
    c.await_ready(second);
    assert_eq!(c.terminate(second), Some(0));
    c.remove_flags(second, 1);
    c.add_flags(second, &[&format!("127.0.0.1:{there}")]);
    c.start(second);
    c.await_ready(second);
}

#[test]
fn rqlites_own_election_timings_make_a_cluster() {
    // F5
    let c = cluster_with(3, &["-raft-heartbeat-timeout", "1s", "-raft-election-timeout", "1s"]);
    c.execute(0, &serde_json::json!(["CREATE TABLE foo(id INTEGER PRIMARY KEY)"]));
    for i in 0..3 {
        assert_eq!(c.status(i, "store.heartbeat_timeout"), "1s");
        assert_eq!(c.status(i, "store.election_timeout"), "3s");
        let log = c.log(i);
        assert!(log.contains("the election timeout of 1s is raised to 3s"), "{log}");
    }
    let checked = sqlited(&["-check-config", "-raft-heartbeat-timeout=1s", "d"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}
