//! Command line: rqlite's flags in Go's spelling (`-flag value`, `-flag=value`, one or two dashes; booleans only with
//! `=`), the data directory last.

use crate::http::QueueConfig;
use crate::http::params::parse_duration;
use crate::raft::Profile;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How the log of events is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What `sqlited` was asked to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Name of the member; by default its advertised peer address.
    pub node_id: String,
    /// Where the client port listens.
    pub http_addr: String,
    /// Where clients reach it.
    pub http_adv_addr: String,
    /// `Access-Control-Allow-Origin` of answers.
    pub http_allow_origin: Option<String>,
    /// Where the peer port listens.
    pub raft_addr: String,
    /// Where peers reach it.
    pub raft_adv_addr: String,
    /// Where probes and metrics are served; none switches them off.
    pub health_addr: Option<String>,
    /// Peer addresses of members to join through.
    pub join: Vec<String>,
    /// How often joining is tried.
    pub join_attempts: u32,
    /// Between two attempts.
    pub join_interval: Duration,
    /// How many members make a new cluster together; 0: this one alone.
    pub bootstrap_expect: usize,
    /// How long to wait for them.
    pub bootstrap_expect_timeout: Duration,
    /// Replicate without voting.
    pub non_voter: bool,
    /// Election and heartbeat times.
    pub profile: Profile,
    /// Enforce foreign keys.
    pub foreign_keys: bool,
    /// Wait for the operator instead of making or joining a cluster.
    pub managed: bool,
    /// Leave the cluster on shutdown.
    pub leave_on_shutdown: bool,
    /// Size of the log's segment files, in bytes.
    pub log_segment_bytes: u64,
    /// How much of the log is kept for followers that were away, in bytes.
    pub log_retention_bytes: u64,
    /// Steps of SQLite's virtual machine that the statements of one write may take together; 0 is without limit.
    pub write_step_limit: u64,
    /// How often every page is compared with what was written there.
    pub scrub_period: Duration,
    /// How often the members' databases are compared.
    pub consistency_period: Duration,
    /// How queued writes are gathered.
    pub write_queue: QueueConfig,
    /// Free space below which no more writes are taken, in bytes.
    pub disk_reserve_bytes: u64,
    /// Size of SQLite's WAL from which on long queries have to give way to checkpoints, in bytes.
    pub wal_limit_bytes: u64,
    /// What is logged.
    pub log_level: String,
    /// How it is written.
    pub log_format: LogFormat,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a member.
    Run(Box<Config>),
    /// Print the version.
    Version,
    /// Print the usage.
    Help,
    /// Ask the member of a data directory to hand over and go down.
    Drain {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Make a canonical database of a client's file: the limited child that a load starts.
    WriteCanonical {
        /// The client's file.
        input: PathBuf,
        /// The canonical one.
        output: PathBuf,
    },
}

/// The command line makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A flag that is not known, or without its value: the usage follows, exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Flags that contradict each other: `fatal:`, exit code 1.
    #[error("{0}")]
    Invalid(String),
}

struct Flag {
    name: &'static str,
    default: &'static str,
    boolean: bool,
    help: &'static str,
}

const fn flag(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, default, boolean: false, help }
}

const fn switch(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, default, boolean: true, help }
}

const FLAGS: &[Flag] = &[
    switch("version", "false", "print the version and exit"),
    flag("node-id", "", "name of the member, unique in the cluster; default: its advertised peer address"),
    flag("http-addr", "localhost:4001", "where the client port listens"),
    flag("http-adv-addr", "", "where clients reach it; default: -http-addr"),
    flag("http-allow-origin", "", "value of Access-Control-Allow-Origin in answers"),
    flag("raft-addr", "localhost:4002", "where the peer port listens"),
    flag("raft-adv-addr", "", "where peers reach it; default: -raft-addr"),
    flag(
        "health-addr",
        "",
        "where probes and /metrics are served, for example localhost:4003; default: nowhere",
    ),
    flag("join", "", "peer addresses of members to join through, separated by commas"),
    flag("join-attempts", "5", "how often joining is tried"),
    flag("join-interval", "3s", "time between two attempts"),
    flag(
        "bootstrap-expect",
        "0",
        "how many members make a new cluster together; each names all of them in -join",
    ),
    flag("bootstrap-expect-timeout", "120s", "how long to wait for them"),
    switch("raft-non-voter", "false", "replicate without voting (a read replica)"),
    flag("raft-profile", "lan", "election and heartbeat times: lan or wan"),
    flag("raft-heartbeat-timeout", "", "time between two heartbeats of a leader; default: by profile"),
    flag("raft-election-timeout", "", "silence after which a voter asks for votes; default: by profile"),
    switch("raft-cluster-remove-shutdown", "false", "leave the cluster on shutdown"),
    switch("fk", "false", "enforce foreign keys"),
    switch(
        "managed",
        "false",
        "with an empty disk wait for the operator instead of making or joining a cluster",
    ),
    flag("log-segment-size", "64MiB", "size of the files of Raft's log"),
    flag("log-retention", "256MiB", "how much of Raft's log is kept for followers that were away"),
    flag(
        "write-step-limit",
        "1000000000",
        "steps of SQLite's virtual machine that the statements of one write may take together; 0: no limit",
    ),
    flag(
        "scrub-period",
        "24h",
        "how often every page of the database is compared with what was written there",
    ),
    flag("consistency-period", "10s", "how often the members compare the checksums of their databases"),
    flag("write-queue-capacity", "1024", "queued requests that wait at most"),
    flag("write-queue-batch-size", "128", "queued statements that are applied at once"),
    flag("write-queue-timeout", "50ms", "how long a queued request waits for others"),
    switch("write-queue-tx", "false", "apply queued statements that are applied at once whole or not at all"),
    flag(
        "wal-limit",
        "256MiB",
        "size of SQLite's WAL from which on long queries have to give way to checkpoints",
    ),
    flag(
        "disk-reserve",
        "128MiB",
        "free space below which no more writes are taken (at most an eighth of the disk)",
    ),
    flag("log-level", "info", "what is logged: error, warn, info, debug, trace, or a filter by module"),
    flag("log-format", "auto", "how it is logged: text, json, or auto (text on a terminal)"),
];

/// The usage, from the table of flags.
pub fn usage() -> String {
    let mut out = String::from(
        "sqlited is one member of a replicated SQLite cluster.\n\n\
         Usage: sqlited [flags] DATA_DIR\n       sqlited drain [DATA_DIR]   hand over leadership and stop the member of DATA_DIR\n\n\
         Without flags it is a cluster of its own with the client port on localhost:4001.\n\nFlags:\n",
    );
    for flag in FLAGS {
        let shown = if flag.boolean { format!("-{}", flag.name) } else { format!("-{} VALUE", flag.name) };
        let default = if flag.default.is_empty() || flag.boolean {
            String::new()
        } else {
            format!(" (default {})", flag.default)
        };
        out.push_str(&format!("  {shown:<34} {}{default}\n", flag.help));
    }
    out
}

/// Where a pod's data are, for `sqlited drain` without an argument.
const DEFAULT_DATA_DIR: &str = "/data";

/// Reads the arguments that come after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, ConfigError> {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.peek().is_some_and(|first| first == "drain") {
        let data_dir = arguments.nth(1).unwrap_or_else(|| DEFAULT_DATA_DIR.into()).into();
        return Ok(Command::Drain { data_dir });
    }
    if arguments.peek().is_some_and(|first| first == crate::store::SUBCOMMAND) {
        return match arguments.collect::<Vec<_>>().as_slice() {
            [_, input, output] => Ok(Command::WriteCanonical { input: input.into(), output: output.into() }),
            _ => Err(ConfigError::Usage(format!("{} INPUT OUTPUT", crate::store::SUBCOMMAND))),
        };
    }
    let mut values = Values(BTreeMap::new());
    let mut data_dir = None;
    while let Some(argument) = arguments.next() {
        let usage = |message: String| Err(ConfigError::Usage(message));
        if let Some(extra) = &data_dir {
            return usage(format!("{argument}: nothing may come after the data directory {extra}"));
        }
        let name = match argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) {
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
        let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
            return usage(format!("flag provided but not defined: -{name}"));
        };
        let value = match value {
            Some(value) => value,
            None if flag.boolean => "true".into(),
            None => match arguments.next() {
                Some(value) => value,
                None => return usage(format!("flag needs an argument: -{name}")),
            },
        };
        values.0.insert(flag.name, value);
    }
    if values.boolean("version")? {
        return Ok(Command::Version);
    }
    let Some(data_dir) = data_dir else {
        return Err(ConfigError::Invalid("no data directory set; it is the last argument".into()));
    };
    values.config(data_dir.into()).map(|config| Command::Run(Box::new(config)))
}

struct Values(BTreeMap<&'static str, String>);

impl Values {
    fn text(&self, name: &'static str) -> &str {
        let default = FLAGS.iter().find(|flag| flag.name == name).map_or("", |flag| flag.default);
        self.0.get(name).map_or(default, String::as_str)
    }

    fn option(&self, name: &'static str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn bad<T>(&self, name: &'static str, what: &str) -> Result<T, ConfigError> {
        Err(ConfigError::Usage(format!("invalid value \"{}\" for flag -{name}: {what}", self.text(name))))
    }

    fn boolean(&self, name: &'static str) -> Result<bool, ConfigError> {
        match self.text(name) {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => self.bad(name, "not true or false"),
        }
    }

    fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, ConfigError> {
        self.text(name).parse().or_else(|_| self.bad(name, "not a number"))
    }

    fn duration(&self, name: &'static str) -> Result<Option<Duration>, ConfigError> {
        match self.option(name) {
            None => Ok(None),
            Some(text) => match parse_duration(&text) {
                Some(duration) => Ok(Some(duration)),
                None => self.bad(name, "not a duration such as 250ms or 3s"),
            },
        }
    }

    fn bytes(&self, name: &'static str) -> Result<u64, ConfigError> {
        let text = self.text(name);
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = match text[digits..].trim() {
            "" => 1,
            "KiB" | "Ki" => 1 << 10,
            "MiB" | "Mi" => 1 << 20,
            "GiB" | "Gi" => 1_u64 << 30,
            _ => return self.bad(name, "not a size such as 64MiB"),
        };
        match text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
            Some(bytes) => Ok(bytes),
            None => self.bad(name, "not a size such as 64MiB"),
        }
    }

    fn address(&self, name: &'static str, fallback: &str) -> Result<String, ConfigError> {
        let address = self.option(name).unwrap_or_else(|| fallback.to_owned());
        let valid = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if valid { Ok(address) } else { self.bad(name, "not host:port") }
    }

    fn profile(&self) -> Result<Profile, ConfigError> {
        let mut profile = match self.text("raft-profile").to_ascii_lowercase().as_str() {
            "lan" => Profile::LAN,
            "wan" => Profile::WAN,
            _ => return self.bad("raft-profile", "neither lan nor wan"),
        };
        if let Some(heartbeat) = self.duration("raft-heartbeat-timeout")? {
            profile.heartbeat = heartbeat;
        }
        if let Some(election) = self.duration("raft-election-timeout")? {
            profile.election_timeout = election;
        }
        if profile.election_timeout < profile.heartbeat * 3 {
            let message = "the election timeout must be at least three times the heartbeat timeout";
            return Err(ConfigError::Invalid(message.into()));
        }
        Ok(profile)
    }

    fn write_queue(&self) -> Result<QueueConfig, ConfigError> {
        let at_least_one = |name: &'static str| -> Result<usize, ConfigError> {
            match self.number(name)? {
                0 => self.bad(name, "not a number above 0"),
                n => Ok(n),
            }
        };
        Ok(QueueConfig {
            capacity: at_least_one("write-queue-capacity")?,
            batch_size: at_least_one("write-queue-batch-size")?,
            timeout: self.duration("write-queue-timeout")?.unwrap_or_default(),
            transaction: self.boolean("write-queue-tx")?,
        })
    }

    fn config(&self, data_dir: PathBuf) -> Result<Config, ConfigError> {
        let invalid = |message: &str| Err(ConfigError::Invalid(message.into()));
        let http_addr = self.address("http-addr", "")?;
        let raft_addr = self.address("raft-addr", "")?;
        let http_adv_addr = self.address("http-adv-addr", &http_addr)?;
        let raft_adv_addr = self.address("raft-adv-addr", &raft_addr)?;
        if http_addr == raft_addr && !http_addr.ends_with(":0") {
            return invalid("HTTP and Raft addresses must differ");
        }
        for (address, name) in [(&http_adv_addr, "HTTP"), (&raft_adv_addr, "Raft")] {
            if address.starts_with("0.0.0.0:") || address.starts_with("[::]:") {
                return invalid(&format!(
                    "advertised {name} address is not routable ({address}), specify it via -{}-adv-addr",
                    name.to_ascii_lowercase()
                ));
            }
        }
        let join: Vec<String> =
            self.text("join").split(',').filter(|a| !a.is_empty()).map(str::to_owned).collect();
        let bootstrap_expect = self.number("bootstrap-expect")?;
        let non_voter = self.boolean("raft-non-voter")?;
        let managed = self.boolean("managed")?;
        if bootstrap_expect > 0 && join.is_empty() {
            return invalid("-bootstrap-expect needs -join with the peer addresses of all expected members");
        }
        if bootstrap_expect > 0 && non_voter {
            return invalid("bootstrapping only applicable to voting nodes");
        }
        if managed && (bootstrap_expect > 0 || !join.is_empty()) {
            return invalid("-managed waits for the operator; -join and -bootstrap-expect contradict it");
        }
        if non_voter && join.is_empty() && !managed {
            return invalid("a read replica needs -join");
        }
        let log_format = match self.text("log-format") {
            "auto" => LogFormat::Auto,
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return self.bad("log-format", "neither text nor json nor auto"),
        };
        let health_addr = match self.option("health-addr") {
            None => None,
            Some(_) => Some(self.address("health-addr", "")?),
        };
        Ok(Config {
            node_id: self.option("node-id").unwrap_or_else(|| raft_adv_addr.clone()),
            data_dir,
            http_addr,
            http_adv_addr,
            http_allow_origin: self.option("http-allow-origin"),
            raft_addr,
            raft_adv_addr,
            health_addr,
            join,
            join_attempts: self.number("join-attempts")?,
            join_interval: self.duration("join-interval")?.unwrap_or(Duration::from_secs(3)),
            bootstrap_expect,
            bootstrap_expect_timeout: self
                .duration("bootstrap-expect-timeout")?
                .unwrap_or(Duration::from_secs(120)),
            non_voter,
            profile: self.profile()?,
            foreign_keys: self.boolean("fk")?,
            managed,
            leave_on_shutdown: self.boolean("raft-cluster-remove-shutdown")?,
            log_segment_bytes: self.bytes("log-segment-size")?,
            log_retention_bytes: self.bytes("log-retention")?,
            consistency_period: self.duration("consistency-period")?.unwrap_or(Duration::MAX),
            scrub_period: self.duration("scrub-period")?.unwrap_or(Duration::MAX),
            write_step_limit: self.number("write-step-limit")?,
            write_queue: self.write_queue()?,
            disk_reserve_bytes: self.bytes("disk-reserve")?,
            wal_limit_bytes: self.bytes("wal-limit")?,
            log_level: self.text("log-level").to_owned(),
            log_format,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn run(line: &str) -> Result<Config, ConfigError> {
        match parse(line.split_whitespace().map(str::to_owned))? {
            Command::Run(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_spelling() {
        for line in ["-http-addr h:1 -fk d", "--http-addr=h:1 --fk=true d", "-http-addr=h:1 -fk=1 d"] {
            let config = run(line).unwrap();
            assert_eq!((config.http_addr.as_str(), config.http_adv_addr.as_str()), ("h:1", "h:1"), "{line}");
            assert!(config.foreign_keys);
            assert_eq!(config.node_id, "localhost:4002");
        }
        assert_eq!(run("-log-segment-size 1MiB d").unwrap().log_segment_bytes, 1 << 20);
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
            "-raft-heartbeat-timeout 1s -raft-election-timeout 1s d",
        ] {
            assert!(invalid(line), "{line}");
        }
    }

    #[test]
    fn the_usage_names_every_flag() {
        let usage = usage();
        assert!(FLAGS.iter().all(|flag| usage.contains(&format!("-{} ", flag.name))));
    }
}
