//! Every flag of rqlited's, as command lines have them, in Go's and in GNU's spelling.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::super::{Command, Config, ConfigError};
use super::parse;

/// A flag, a value, and what it makes no sense without.
type Known = (&'static str, &'static str, &'static [&'static str]);

const JOIN: &[&str] = &["-join=h:1"];
const HTTPS: &[&str] = &["-http-cert=c", "-http-key=k"];
const MUTUAL: &[&str] = &["-http-cert=c", "-http-key=k", "-http-verify-client=true", "-http-ca-cert=a"];
const PEERS: &[&str] = &["-node-cert=c", "-node-key=k", "-node-ca-cert=a"];
const OTLP: &[&str] = &["-otlp-endpoint=c:4317"];
const REGISTRY: &[&str] = &["-disco-mode=consul-kv"];

/// Flags that take a value.
const VALUES: &[Known] = &[
    ("http-addr", "h:1", &[]),
    ("http-adv-addr", "h:1", &[]),
    ("http-allow-origin", "https://example.com", &[]),
    ("http-ca-cert", "a", HTTPS),
    ("http-cert", "c", &["-http-key=k"]),
    ("http-key", "k", &["-http-cert=c"]),
    ("http-verify-common-name", "n", MUTUAL),
    ("auth", "users.json", &[]),
    ("node-ca-cert", "a", &["-node-cert=c", "-node-key=k"]),
    ("node-cert", "c", &["-node-ca-cert=a", "-node-key=k"]),
    ("node-key", "k", &["-node-ca-cert=a", "-node-cert=c"]),
    ("node-verify-server-name", "n", PEERS),
    ("node-verify-common-name", "n", PEERS),
    ("node-id", "1", &[]),
    ("raft-addr", "h:2", &[]),
    ("raft-adv-addr", "h:2", &[]),
    ("join", "h:1,h:2", &[]),
    ("join-attempts", "5", &[]),
    ("join-interval", "3s", &[]),
    ("join-as", "user", &["-auth=users.json"]),
    ("bootstrap-expect", "3", JOIN),
    ("bootstrap-expect-timeout", "120s", &[]),
    ("disco-mode", "consul-kv", &[]),
    ("disco-key", "rqlite", &[]),
    ("disco-config", "{}", REGISTRY),
    ("cluster-connect-timeout", "30s", &[]),
    ("raft-log-level", "WARN", &[]),
    ("raft-snap", "8192", &[]),
    ("raft-snap-wal-size", "4194304", &[]),
    ("raft-snap-int", "10s", &[]),
    ("raft-leader-lease-timeout", "0s", &[]),
    ("raft-heartbeat-timeout", "1s", &[]),
    ("raft-commit-timeout", "50ms", &[]),
    ("raft-election-timeout", "1s", &[]),
    ("raft-apply-timeout", "10s", &[]),
    ("raft-reap-node-timeout", "1h", &[]),
    ("raft-reap-read-only-node-timeout", "1h", &[]),
    ("db-max-ro-conns", "256", &[]),
    ("auto-vacuum-int", "0s", &[]),
    ("auto-optimize-int", "24h", &[]),
    ("extensions-path", "/extensions", &[]),
    ("write-queue-capacity", "1024", &[]),
    ("write-queue-batch-size", "128", &[]),
    ("write-queue-timeout", "50ms", &[]),
    ("auto-backup", "BACKUP", &[]),
    ("auto-restore", "RESTORE", &[]),
    ("cdc-config", "stdout", &[]),
    ("otlp-endpoint", "c:4317", &[]),
    ("otlp-interval", "30s", OTLP),
    ("otlp-ca-cert", "a", OTLP),
    ("otlp-cert", "c", &["-otlp-endpoint=c:4317", "-otlp-key=k"]),
    ("otlp-key", "k", &["-otlp-endpoint=c:4317", "-otlp-cert=c"]),
    ("cpu-profile", "f", &[]),
    ("mem-profile", "f", &[]),
    ("trace-profile", "f", &[]),
];

/// Flags that are true by being there.
const SWITCHES: &[Known] = &[
    ("http-verify-client", "true", &["-http-cert=c", "-http-key=k", "-http-ca-cert=a"]),
    ("node-no-verify", "true", PEERS),
    ("node-verify-client", "true", PEERS),
    ("raft-non-voter", "true", JOIN),
    ("raft-remove-shutdown", "true", &[]),
    ("raft-cluster-remove-shutdown", "true", &[]),
    ("raft-shutdown-stepdown", "true", &[]),
    ("compress-snap-transport", "true", &[]),
    ("fk", "true", &[]),
    ("write-queue-tx", "true", &[]),
    ("otlp-insecure", "true", OTLP),
    ("otlp-no-verify", "true", OTLP),
];

fn run(line: &[String]) -> Result<Config, ConfigError> {
    match parse(line.iter().cloned(), |_| None)? {
        Command::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_flag_of_rqlites_in_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let sub = r#""sub": {"dir": "/backups", "name": "db"}"#;
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let backup = file("backup", format!(r#"{{"version": 1, "type": "file", "interval": "5m", {sub}}}"#));
    let restore = file("restore", format!(r#"{{"version": 1, "type": "file", {sub}}}"#));
    let named = |value: &str| value.replace("BACKUP", &backup).replace("RESTORE", &restore);
    let line = |spelled: &[String], with: &[&str]| {
        let with = with.iter().map(|flag| (*flag).to_owned());
        with.chain(spelled.iter().cloned()).chain(["d".to_owned()]).collect::<Vec<_>>()
    };
    let taken = |spelled: Vec<String>, with: &[&str]| {
        let line = line(&spelled, with);
        let config = run(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(config.data_dir.to_str(), Some("d"), "{line:?}");
    };
    for (name, value, with) in VALUES.iter().chain(SWITCHES) {
        let value = named(value);
        for dashes in ["-", "--"] {
            taken(vec![format!("{dashes}{name}={value}")], with);
        }
    }
    for (name, value, with) in VALUES {
        for dashes in ["-", "--"] {
            taken(vec![format!("{dashes}{name}"), named(value)], with);
        }
    }
    for (name, _, with) in SWITCHES {
        for dashes in ["-", "--"] {
            taken(vec![format!("{dashes}{name}")], with);
            taken(vec![format!("{dashes}{name}=false")], with);
        }
    }
    for spelling in ["-version", "--version", "-version=true"] {
        assert!(matches!(parse([spelling.to_owned()], |_| None), Ok(Command::Version)));
    }
}
