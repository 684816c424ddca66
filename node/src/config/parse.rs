//! Reads the command line, and what it refers to. Flags are in Go's spelling (`-flag value`, `-flag=value`, one or two
//! dashes; booleans only with `=`), the data directory is last. `--` ends the flags.

use super::flags;
use super::values::Values;
use super::{Command, ConfigError, file};
use crate::store::Order;

/// Where a pod's data are, for `sqlited drain` without an argument.
const DEFAULT_DATA_DIR: &str = "/data";

/// Reads the arguments that come after the program's name; `environment` looks a variable up.
pub fn parse(
    arguments: impl IntoIterator<Item = String>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Command, ConfigError> {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.peek().is_some_and(|first| first == "drain") {
        let data_dir = arguments.nth(1).unwrap_or_else(|| DEFAULT_DATA_DIR.into()).into();
        return Ok(Command::Drain { data_dir });
    }
    if arguments.peek().is_some_and(|first| first == crate::store::SUBCOMMAND) {
        let order = Order::parse(&arguments.skip(1).collect::<Vec<_>>());
        let usage = || ConfigError::Usage(format!("{} INPUT DIRECTORY TAKEN", crate::store::SUBCOMMAND));
        return order.map(Command::WriteCanonical).ok_or_else(usage);
    }
    if arguments.peek().is_some_and(|first| first == "hash-password") {
        return match arguments.nth(1) {
            None => Ok(Command::HashPassword),
            Some(_) => {
                Err(ConfigError::Usage("hash-password reads from standard input, and takes nothing".into()))
            }
        };
    }
    if let Some(verify) = arguments.peek().and_then(|first| match first.as_str() {
        crate::backup::RESTORE => Some(false),
        crate::backup::VERIFY => Some(true),
        _ => None,
    }) {
        return restore(verify, arguments.skip(1).collect());
    }
    let mut values = Values::default();
    let mut data_dir = None;
    let mut flags_ended = false;
    while let Some(argument) = arguments.next() {
        let usage = |message: String| Err(ConfigError::Usage(message));
        if let Some(extra) = &data_dir {
            return usage(format!("{argument}: nothing may come after the data directory {extra}"));
        }
        if argument == "--" && !flags_ended {
            flags_ended = true;
            continue;
        }
        let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
        // A dash alone is no flag either.
        let name = match name.filter(|name| !flags_ended && !name.is_empty()) {
            None => {
                data_dir = Some(argument);
                continue;
            }
            Some(name) => name,
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (name.to_owned(), None),
        };
        if name == "h" || name == "help" {
            return Ok(Command::Help);
        }
        let Some((known, boolean)) = flags::settable(&name) else {
            return usage(format!("flag provided but not defined: -{name}"));
        };
        let value = match value {
            Some(value) => value,
            None if boolean => "true".into(),
            None => match arguments.next() {
                Some(value) => value,
                None => return usage(format!("flag needs an argument: -{name}")),
            },
        };
        values.set_in_sight(known, value, format!("flag -{known}"), true)?;
    }
    if values.boolean("version")? {
        return Ok(Command::Version);
    }
    for flag in flags::settable_names() {
        let name = flags::environment_name(flag);
        if let Some(value) = environment(&name) {
            values.set_in_sight(flag, value, name, false)?;
        }
    }
    let mut data_dir = data_dir.or_else(|| environment(&flags::environment_name("data-dir")));
    if let Some(path) = values.path("config") {
        let in_file = file::read(&path)?;
        data_dir = data_dir.or(in_file.data_dir);
        for (name, value) in in_file.values {
            values.set(name, value, format!("{name} in {}", path.display()));
        }
    }
    let Some(data_dir) = data_dir else {
        return Err(ConfigError::Invalid("no data directory set; it is the last argument".into()));
    };
    let check = values.boolean("check-config")?;
    let config = Box::new(values.config(data_dir.into())?);
    Ok(if check { Command::Check(config) } else { Command::Run(config) })
}

fn restore(verify: bool, arguments: Vec<String>) -> Result<Command, ConfigError> {
    if arguments.iter().any(|argument| matches!(argument.trim_start_matches('-'), "h" | "help")) {
        return Ok(Command::RestoreHelp);
    }
    crate::backup::Command::parse(verify, arguments).map(Command::Restore).map_err(ConfigError::Restore)
}

#[cfg(test)]
#[path = "rqlite_flags.rs"]
mod rqlite_flags;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::super::Config;
    use super::*;
    use crate::discovery::Discovery;
    use crate::tls::Plaintext;
    use std::io::Write as _;
    use std::time::Duration;

    fn run(line: &str) -> Result<Config, ConfigError> {
        run_in(&[], line)
    }

    fn run_in(environment: &[(&str, &str)], line: &str) -> Result<Config, ConfigError> {
        let get =
            |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        match parse(line.split_whitespace().map(str::to_owned), get)? {
            Command::Run(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_spelling() {
        for line in [
            "-http-addr h:1 -fk d",
            "--http-addr=h:1 --fk=true d",
            "-http-addr=h:1 -fk=1 d",
            "-http-addr h:1 -fk -- d",
        ] {
            let config = run(line).unwrap();
            assert_eq!((config.http_addr.as_str(), config.http_adv_addr.as_str()), ("h:1", "h:1"), "{line}");
            assert!(config.foreign_keys);
            assert_eq!(config.node_id, "localhost:4002");
        }
        assert_eq!(run("-log-segment-size 1MiB d").unwrap().log_segment_bytes, 1 << 20);
        for (line, data_dir) in [("-- -d", "-d"), ("-fk -- --fk", "--fk"), ("-", "-"), ("-- --", "--")] {
            assert_eq!(run(line).unwrap().data_dir.to_str(), Some(data_dir), "{line}");
        }
        let environment = [("SQLITED_DATA_DIR", "/from/env")];
        assert_eq!(run_in(&environment, "-fk --").unwrap().data_dir.to_str(), Some("/from/env"));
    }

    #[test]
    fn origins_by_table() {
        let origin = |value: &str| {
            let arguments = ["-http-allow-origin".to_owned(), value.to_owned(), "d".to_owned()];
            match parse(arguments, |_| None)? {
                Command::Run(config) => Ok(config.http_allow_origin),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(origin(""), Ok(None));
        for fine in ["*", "https://example.com"] {
            assert_eq!(origin(fine).unwrap().unwrap(), fine);
        }
        for bad in ["https://example.com\n", "https://exämple.com\u{7f}", "a\r\nSet-Cookie: b"] {
            let Err(ConfigError::Usage(message)) = origin(bad) else { panic!("{bad:?} is taken") };
            assert!(message.contains("flag -http-allow-origin"), "{message}");
        }
    }

    #[test]
    fn flags_without_effect_are_checked_and_said_in_all_three_places() {
        for flag in flags::WITHOUT_EFFECT {
            let (fine, wrong) = match flag.kind {
                flags::Kind::Text => ("x", None),
                flags::Kind::Number => ("8192", Some("many")),
                flags::Kind::Duration => ("10s", Some("10")),
                flags::Kind::Switch => ("true", Some("perhaps")),
            };
            let in_each_place = |value: &str| {
                let mut file = tempfile::NamedTempFile::new().unwrap();
                writeln!(file, "{}: {value}", flag.name).unwrap();
                let variable = flags::environment_name(flag.name);
                [
                    run(&format!("-{}={value} d", flag.name)),
                    run_in(&[(variable.as_str(), value)], "d"),
                    run(&format!("-config {} d", file.path().display())),
                ]
            };
            for config in in_each_place(fine) {
                let notices = config.unwrap().notices;
                let begins = format!("-{} has no effect here: {}", flag.name, flag.reason);
                assert_eq!(notices, [begins]);
            }
            for config in wrong.into_iter().flat_map(in_each_place) {
                let Err(ConfigError::Usage(message)) = config else { panic!("-{} is taken", flag.name) };
                let variable = flags::environment_name(flag.name);
                assert!(message.contains(flag.name) || message.contains(&variable), "{message}");
            }
        }
        assert!(run("d").unwrap().notices.is_empty(), "what is not set is not mentioned");
        assert!(matches!(run("-raft-snap-int= d"), Err(ConfigError::Usage(_))));
    }

    #[test]
    fn refused() {
        let usage = |line: &str| matches!(run(line), Err(ConfigError::Usage(_)));
        let invalid = |line: &str| matches!(run(line), Err(ConfigError::Invalid(_)));
        for line in [
            "-nope d",
            "-http-addr",
            "-fk=maybe d",
            "-join-attempts x d",
            "-join-interval 5 d",
            "d e",
            "-http-addr x d",
            "-write-queue-capacity 0 d",
            "-write-queue-timeout 5 d",
            "-raft-heartbeat-timeout 0 d",
            "-raft-apply-timeout 0s d",
        ] {
            assert!(usage(line), "{line}");
        }
        for line in [
            "",
            "-http-addr h:1 -raft-addr h:1 d",
            "-http-addr 0.0.0.0:4001 d",
            "-raft-addr 0.0.0.0:4002 d",
            "-bootstrap-expect 3 d",
            "-raft-non-voter d",
            "-managed -join h:1 d",
            "-join h:1 -disco-mode dns d",
            "-disco-mode dns -disco-config {} -bootstrap-expect 3 d",
            "-disco-mode consul -disco-config {} -bootstrap-expect 3 d",
            "-disco-mode dns -disco-config {\"name\":\"x\"} d",
            "-disco-mode dns -disco-config /does/not/exist -bootstrap-expect 3 d",
            "-disco-mode dns -bootstrap-expect 3 d",
            "-disco-mode consul-kv -bootstrap-expect 3 d",
            "-disco-mode etcd-kv -bootstrap-expect 1 d",
            "-disco-mode etcd-kv -join h:1 d",
            "-disco-mode etcd-kv -managed d",
            "-disco-mode etcd-kv -disco-key / d",
            "-disco-mode consul-kv -disco-config {\"token\":\"secret\"} d",
            "-disco-mode consul-kv -disco-config {\"basic_auth\":{\"password\":\"secret\"}} d",
        ] {
            assert!(invalid(line), "{line}");
        }
    }

    #[test]
    fn the_command_line_stands_over_the_environment_and_that_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let yaml = "data-dir: /from/file\nhttp-addr: file:1\nraft-addr: file:2\nfk: true\nwrite-queue-capacity: 7\n\
                    join:\n  - a:1\n  - b:2\n";
        file.write_all(yaml.as_bytes()).unwrap();
        let path = file.path().display().to_string();
        let config = run(&format!("-config {path}")).unwrap();
        assert_eq!(config.data_dir.display().to_string(), "/from/file");
        assert!(config.foreign_keys);
        let join = Discovery::Listed(vec!["a:1".to_owned(), "b:2".to_owned()]);
        assert_eq!((config.write_queue.capacity, config.join), (7, join));
        let environment = [
            ("SQLITED_CONFIG", path.as_str()),
            ("SQLITED_HTTP_ADDR", "env:1"),
            ("SQLITED_DATA_DIR", "/from/env"),
        ];
        let config = run_in(&environment, "-fk=false").unwrap();
        assert_eq!((config.http_addr.as_str(), config.raft_addr.as_str()), ("env:1", "file:2"));
        assert_eq!(
            (config.data_dir.display().to_string().as_str(), config.foreign_keys),
            ("/from/env", false)
        );
        assert_eq!(run_in(&environment, "-http-addr line:1 /d").unwrap().http_addr, "line:1");
    }

    #[test]
    fn errors_say_where_the_value_was_set() {
        let file = |yaml: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(yaml.as_bytes()).unwrap();
            run(&format!("-config {} d", file.path().display())).map(drop).map_err(|e| e.to_string())
        };
        for (yaml, expected) in [
            ("write-queue-timeout: 5", "invalid value \"5\" for write-queue-timeout in"),
            ("htp-addr: a:1", "unknown key \"htp-addr\""),
            ("join: {a: 1}", "join: neither a value nor a list of values"),
            ("- a", "not a mapping of names to values"),
            ("a: [", "line "),
            ("version: true", "unknown key \"version\""),
        ] {
            let error = file(yaml).err().unwrap_or_default();
            assert!(error.contains(expected), "{yaml}: {error:?}");
        }
        let error = run_in(&[("SQLITED_FK", "maybe")], "d").err().unwrap().to_string();
        assert!(error.contains("for SQLITED_FK"), "{error}");
        let error = run("-config /does/not/exist d").err().unwrap().to_string();
        assert!(error.contains("/does/not/exist"), "{error}");
    }

    #[test]
    fn credentials_in_sight_are_refused_and_not_repeated() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"cdc-config: https://user:sesame@sink/in\n").unwrap();
        for (environment, line, named) in [
            (&[][..], "-cdc-config https://user:sesame@sink d", "flag -cdc-config"),
            (&[], r#"-cdc-config {"endpoint":"https://user:sesame@sink"} d"#, "flag -cdc-config"),
            (&[], "-otlp-endpoint=https://user:sesame@c:4317 d", "flag -otlp-endpoint"),
            (
                &[],
                r#"-disco-mode etcd-kv -disco-config {"endpoints":["http://user:sesame@e:2379"]} d"#,
                "flag -disco-config",
            ),
            (&[("SQLITED_CDC_CONFIG", "https://user:sesame@sink")], "d", "SQLITED_CDC_CONFIG"),
        ] {
            let error = run_in(environment, line).err().unwrap();
            assert!(matches!(error, ConfigError::Invalid(_)), "{line}: {error}");
            let error = error.to_string();
            assert!(error.contains(named) && !error.contains("sesame"), "{line}: {error}");
        }
        // In a file they may be: whoever owns it says who reads it.
        assert!(run(&format!("-config {} d", file.path().display())).unwrap().changes.is_some());
    }

    #[test]
    fn extensions_by_every_spelling() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"extensions-path:\n  - /a.so\n  - /b\nextensions-modules: m,n\n").unwrap();
        let in_file = format!("-config {} d", file.path().display());
        let environment = [("SQLITED_EXTENSIONS_PATH", "/a.so,/b"), ("SQLITED_EXTENSIONS_MODULES", "m, n")];
        for config in [
            run("-extensions-path /a.so,/b -extensions-modules m,n d"),
            run("--extensions-path=/a.so,/b --extensions-modules=m,n d"),
            run_in(&environment, "d"),
            run(&in_file),
        ] {
            let config = config.unwrap();
            let paths = [std::path::Path::new("/a.so"), std::path::Path::new("/b")];
            assert_eq!(config.extensions.paths, paths);
            assert_eq!(config.extensions.modules, ["m", "n"]);
            assert!(config.extensions.former.is_empty());
        }
        assert_eq!(run("d").unwrap().extensions, crate::store::ExtensionsConfig::default());
        assert_eq!(run("-extensions-former /a,/b d").unwrap().extensions.former.len(), 2);
        assert!(matches!(run("-extensions-modules m d"), Err(ConfigError::Invalid(_))));
    }

    #[test]
    fn automatic_backups_by_table() {
        let file = |json: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(json.as_bytes()).unwrap();
            file
        };
        let backup = file(r#"{"type": "file", "interval": "5m", "sub": {"dir": "/backups", "name": "db"}}"#);
        let restore = file(r#"{"type": "file", "sub": {"dir": "/backups", "name": "db"}}"#);
        let (backup, restore) = (backup.path().display(), restore.path().display());
        let config = run(&format!("-auto-backup {backup} -auto-restore {restore} d")).unwrap();
        assert!(config.auto_backup.is_some() && config.auto_restore.is_some());
        for (line, part) in [
            (format!("-auto-restore {restore} -bootstrap-expect 3 -join a:1,b:1,c:1 d"), None),
            (format!("-auto-restore {restore} -disco-mode etcd-kv d"), None),
            (format!("-auto-restore {restore} -join a:1 d"), Some("-auto-restore is for new clusters")),
            (format!("-auto-restore {restore} -managed d"), Some("-managed leaves restores to the operator")),
            (format!("-auto-restore {backup} d"), Some("unknown field `interval`")),
            (format!("-auto-backup {restore} d"), Some("missing field `interval`")),
            ("-auto-backup /does/not/exist d".into(), Some("-auto-backup /does/not/exist: No such file")),
        ] {
            match (run(&line), part) {
                (Ok(_), None) => {}
                (Err(ConfigError::Invalid(error)), Some(part)) => assert!(error.contains(part), "{error}"),
                (found, _) => panic!("{line}: {:?}", found.err()),
            }
        }
    }

    #[test]
    fn what_is_done_and_pushed_at_an_interval_by_table() {
        let config = run("d").unwrap();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!((config.maintenance.vacuum, config.maintenance.optimize), (None, Some(day)));
        assert_eq!(config.otlp, None);
        let config = run("-auto-vacuum-int 1h -auto-optimize-int=0s d").unwrap().maintenance;
        assert_eq!((config.vacuum, config.optimize), (Some(day / 24), None));
        let environment = [("SQLITED_OTLP_ENDPOINT", "c:4317"), ("SQLITED_OTLP_CA_CERT", "ca")];
        let otlp =
            run_in(&environment, "--otlp-interval=5s -otlp-cert c -otlp-key k d").unwrap().otlp.unwrap();
        assert_eq!((otlp.shown_endpoint(), otlp.interval), ("https://c:4317", Duration::from_secs(5)));
        assert_eq!((otlp.ca, otlp.trace_ratio, otlp.trace_limit), (Some("ca".into()), 0.0, 100));
        assert!(otlp.identity.is_some() && !otlp.trusts_all);
        for (line, part) in [
            ("-auto-vacuum-int 5 d", "not a duration"),
            ("-otlp-insecure d", "-otlp-endpoint is missing"),
            ("-otlp-endpoint c d", "has no port"),
            ("-otlp-endpoint c:1 -otlp-cert c d", "belong together"),
            ("-otlp-endpoint c:1 -otlp-insecure -otlp-ca-cert ca d", "which the endpoint is without"),
            ("-otlp-endpoint c:1 -otlp-no-verify -otlp-ca-cert ca d", "contradict each other"),
            ("-otlp-endpoint c:1 -otlp-interval 0 d", "not a duration above 0"),
            ("-otlp-endpoint c:1 -otlp-trace-ratio 2 d", "not between 0 and 1"),
            ("-otlp-endpoint c:1 -otlp-trace-ratio NaN d", "not between 0 and 1"),
            ("-otlp-endpoint c:1 -otlp-trace-limit -1 d", "otlp-trace-limit"),
        ] {
            let error = run(line).err().unwrap().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn tls_by_table() {
        let invalid = |line: &str| matches!(run(line), Err(ConfigError::Invalid(_)));
        for line in [
            "-http-cert c d",
            "-http-key k d",
            "-http-verify-client d",
            "-http-cert c -http-key k -http-verify-client d",
            "-http-cert c -http-key k -http-verify-common-name n d",
            "-node-cert c d",
            "-node-cert c -node-key k d",
            "-node-cert c -node-key k -node-ca-cert a -node-verify-client=false -node-verify-member-name d",
            "-node-cert c -node-key k -node-no-verify -node-verify-common-name n d",
            "-join-as a d",
        ] {
            assert!(invalid(line), "{line}");
        }
        let peers = |line: &str| run(line).unwrap().node_tls.unwrap();
        let mutual = peers("-node-cert c -node-key k -node-ca-cert a d");
        assert!(mutual.verify_client && mutual.ca.is_some() && mutual.plaintext == Plaintext::Refuse);
        let one_sided = peers("-node-cert c -node-key k -node-ca-cert a -node-verify-client=false d");
        assert!(!one_sided.verify_client && one_sided.ca.is_some());
        let blind = peers("-node-cert c -node-key k -node-ca-cert a -node-no-verify d");
        assert!(!blind.verify_client && blind.ca.is_none());
        let clients = run("-http-cert c -http-key k -http-ca-cert a d").unwrap().http_tls.unwrap();
        assert_eq!(clients.client_ca, None, "a client need not show a certificate unless asked for");
    }

    #[test]
    fn a_leader_is_heard_three_times_before_somebody_else_wants_to_lead() {
        let millis = |config: &Config| {
            (config.profile.heartbeat.as_millis(), config.profile.election_timeout.as_millis())
        };
        for (line, expected, is_said) in [
            ("d", (100, 360), false),
            // rqlite's own.
            ("-raft-heartbeat-timeout 1s -raft-election-timeout 1s d", (1000, 3000), true),
            ("-raft-heartbeat-timeout 1s d", (1000, 3000), true),
            ("-raft-election-timeout 1s d", (100, 1000), false),
            ("-raft-election-timeout 200ms d", (100, 300), true),
            ("-raft-heartbeat-timeout 1s -raft-election-timeout 5s d", (1000, 5000), false),
        ] {
            let config = run(line).unwrap();
            assert_eq!(millis(&config), expected, "{line}");
            let said = config.notices.join("\n");
            assert_eq!(!said.is_empty(), is_said, "{line}: {said}");
            assert!(!is_said || said.contains("is raised to"), "{said}");
        }
    }
}
